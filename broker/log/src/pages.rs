//! Pages of the page cache ahead of the end of a segment that grows fast.
//!
//! Linux gives a file that is written to as much memory at once as the write is long and its position is aligned: an append of 16 KiB
//! somewhere takes four pages one by one, each with its own bookkeeping, and in the end gives them back one by one. That costs more than
//! copying the bytes. So where a log grows fast, aligned stretches of zeros are written ahead of it, each of which the kernel keeps as one
//! piece (a large folio), and the records are then copied into memory that is there.
//!
//! The file is longer than its batches meanwhile. Readers know where the log ends; what is not used is cut off with the blocks that
//! were reserved; and zeros behind the last batch, after a kill, are no damage to recovery.
//!
//! Like the reserve it is a favour: a file system that has no large folios, a slow log, one that flushes what it appends, or a disk
//! that is getting full goes on without.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;

use odradek_common::time::Now;
use rustix::fs::FsWord;

use crate::log::Log;
use crate::reserve::RESERVE_FROM_BYTES;
use crate::segment::SEGMENT_SIZE_BYTES_MAX;

/// What is written ahead at once. Longer stretches cost more than they bring: the kernel walks all blocks of one for each write to it.
pub(crate) const STRETCH_BYTES: u64 = 256 << 10;
/// The same for a segment that is still small, of which there may be thousands.
pub(crate) const SMALL_STRETCH_BYTES: u64 = 64 << 10;
/// An append of more than this part of a stretch brings pages in large pieces by itself.
const APPEND_PART_MAX: u64 = 2;
/// A log that takes longer to fill a stretch is slow: its zeros might be written to the disk before its records are.
const FAST_MS: u64 = 2_000;
/// The first releases whose page cache has large folios for files that are written to.
const EXT4_SINCE: (u32, u32) = (6, 16);
const XFS_SINCE: (u32, u32) = (6, 6);
/// The least piece of a page cache.
const PAGE_BYTES: u64 = 4096;
/// From linux/magic.h.
const EXT4_MAGIC: FsWord = 0xef53;
const XFS_MAGIC: FsWord = 0x5846_5342;

/// One page again and again: it stays in the nearest cache, and the others keep what they have.
static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
/// No more than that is missing to the next border.
const ZEROS_SIZE_MAX: usize = STRETCH_BYTES as usize;
/// Pieces that [`zeros`] has at most.
pub(crate) const ZEROS_PIECES_MAX: usize = ZEROS_SIZE_MAX / PAGE_BYTES as usize + 1;

/// How far the pages of the active segment go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PagesAhead {
    /// The stretch that is being filled ends here, whether it was written ahead or not; 0 before the first.
    border: u64,
    /// When the one before was full.
    filled_ms: u64,
    /// Whether that one was filled fast.
    was_fast: bool,
    /// How long the file is if zeros were written ahead; 0 if none were.
    pub(crate) file_bytes: u64,
}

impl PagesAhead {
    /// Moves the border behind an append that ends at `end`; true if zeros are to be written from the old border to the new one.
    fn advance(&mut self, end: u64, append_bytes: u64, stretch_bytes: u64, mono_ms: u64) -> bool {
        let follows = self.border > 0 && end - self.border <= append_bytes;
        let is_fast = follows && mono_ms.saturating_sub(self.filled_ms) < FAST_MS;
        // One may be a burst.
        let stays_fast = std::mem::replace(&mut self.was_fast, is_fast) && is_fast;
        self.border = end.next_multiple_of(stretch_bytes);
        self.filled_ms = mono_ms;
        stays_fast && append_bytes <= stretch_bytes / APPEND_PART_MAX
    }
}

impl Log {
    /// How many zeros are to be written behind an append of `size_bytes`, so that the active segment has pages for those that follow;
    /// 0 unless it grows fast.
    pub(crate) fn zeros_behind(&mut self, now: Now, size_bytes: u64) -> u64 {
        let limit = self.config.segment_bytes.min(SEGMENT_SIZE_BYTES_MAX);
        let is_wanted = self.directory.has_large_folios
            && self.config.flush_messages == i64::MAX
            && self.config.flush_ms == i64::MAX;
        let active = self.active();
        let (size, end) = (active.footer.size_bytes, active.footer.size_bytes + size_bytes);
        if end <= active.pages.border || !is_wanted {
            return 0;
        }
        let is_small = size < RESERVE_FROM_BYTES;
        let stretch_bytes = if is_small {
            SMALL_STRETCH_BYTES
        } else {
            STRETCH_BYTES
        };
        let is_worth_it = active.pages.advance(end, size_bytes, stretch_bytes, now.mono_ms);
        let to = active.pages.border;
        let has_blocks = active.reserved_bytes != u64::MAX && to <= active.reserved_bytes;
        // A full segment has passed its last zeros, so that nothing has to be cut off when it is sealed.
        if !is_worth_it || to + stretch_bytes > limit {
            return 0;
        }
        let has_room = has_blocks || is_small && self.directory.had_ample_room();
        if !has_room {
            return 0;
        }
        // What was written, if not all, goes with the reserve.
        self.active().pages.file_bytes = to;
        to - end
    }
}

/// Zeros, in pieces for one call; less than a stretch.
pub(crate) fn zeros<'a>(size_bytes: u64) -> impl Iterator<Item = IoSlice<'a>> {
    let size = usize::try_from(size_bytes).unwrap_or(0).min(ZEROS_SIZE_MAX);
    let (pages, part) = (size / ZEROS.len(), size % ZEROS.len());
    let part = (part > 0).then(|| IoSlice::new(&ZEROS[..part]));
    part.into_iter()
        .chain(std::iter::repeat_n(IoSlice::new(&ZEROS), pages))
}

/// Whether the page cache keeps what is written to files here in large pieces.
pub(crate) fn has_large_folios(directory: &Path) -> bool {
    let Ok(file_system) = rustix::fs::statfs(directory) else {
        return false;
    };
    let since = match file_system.f_type {
        EXT4_MAGIC => EXT4_SINCE,
        XFS_MAGIC => XFS_SINCE,
        _ => return false,
    };
    let system = rustix::system::uname();
    release(&system.release().to_string_lossy()).is_some_and(|release| release >= since)
}

/// The first two numbers of a kernel's release.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|char: char| !char.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether a file has nothing but zeros from `position` to its `end`, not more of them than are written ahead, and in whole pages: the
/// beginning of a batch has zeros too.
pub(crate) fn are_ahead(file: &File, position: u64, end: u64) -> io::Result<bool> {
    if !end.is_multiple_of(PAGE_BYTES) {
        return Ok(false);
    }
    let Some(length) = end
        .checked_sub(position)
        .filter(|length| *length <= 2 * STRETCH_BYTES)
    else {
        return Ok(false);
    };
    let mut tail = vec![0xff; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut tail, position)?;
    Ok(tail.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_filled_fast_and_bit_by_bit_has_pages_ahead() {
        for stretch in [SMALL_STRETCH_BYTES, STRETCH_BYTES] {
            let mut pages = PagesAhead::default();
            let mut step = |beyond: u64, bytes: u64, ms: u64| {
                let end = pages.border + beyond;
                let is_worth_it = pages.advance(end, bytes, stretch, ms);
                assert_eq!(pages.border, end.next_multiple_of(stretch));
                is_worth_it
            };
            assert!(!step(5_000_000, 16_000, 10), "nothing is known of its speed");
            assert!(!step(1, 16_000, 400), "it may be a burst");
            assert!(step(1, 16_000, 500));
            let slow = 500 + FAST_MS;
            assert!(!step(1, 16_000, slow), "slow");
            assert!(!step(1, 16_000, slow + 1) && step(1, 16_000, slow + 2));
            let large = stretch / APPEND_PART_MAX + 1;
            assert!(!step(1, large, slow + 3), "large appends");
            assert!(step(1, large - 1, slow + 4));
            assert!(
                !step(20_000, 16_000, slow + 5),
                "what lies between was written by others"
            );
        }
    }

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(release("6.18.44-generic"), Some((6, 18)));
        assert_eq!(release("5.4"), Some((5, 4)));
        assert_eq!(release("Linux"), None);
        assert!(release("6.9.1") < Some(EXT4_SINCE));
    }
}
