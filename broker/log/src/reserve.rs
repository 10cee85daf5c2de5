//! Disk blocks ahead of the end of a segment that is appended to.
//!
//! An append to blocks that a file has already takes no lock of the file's block map. One that needs new blocks waits until
//! the kernel has written the file's earlier pages back, which is tens of milliseconds under load. So a segment that grows
//! is given blocks well ahead, beyond the end of its file, whose length stays true. What is not used is given back when
//! the segment is sealed early, when its log rests or is closed, and when it is recovered.
//!
//! Reserving is a favour: where a file system cannot, or room is getting short, appends go on without. What is kept free for
//! the index and for the brokers' own topics is never touched.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use crate::log::Log;
use crate::pages::{PagesAhead, STRETCH_BYTES};
use crate::segment::{SEGMENT_SIZE_BYTES_MAX, Segment};

/// A smaller segment is given nothing: most partitions stay small, and thousands of them would fill the disk with room.
pub(crate) const RESERVE_FROM_BYTES: u64 = 4 << 20;
/// A segment is given at most this share of its size at once,
const RESERVE_SHARE: u64 = 4;
/// and at most this much.
const RESERVE_BYTES_MAX: u64 = 64 << 20;
/// Less than this is not worth a call that may wait for the disk.
const GIVE_BACK_FROM_BYTES: u64 = 1 << 20;
/// The unit of a file's block count.
const BLOCK_BYTES: u64 = 512;

impl Log {
    /// Sees to it that the active segment has blocks for `size_bytes` more.
    pub(crate) fn reserve_ahead(&mut self, file: &File, size_bytes: u64) {
        let limit = self.config.segment_bytes.min(SEGMENT_SIZE_BYTES_MAX);
        let active = self.active();
        let (size, end) = (active.footer.size_bytes, active.footer.size_bytes + size_bytes);
        if end <= active.reserved_bytes || size < RESERVE_FROM_BYTES {
            return;
        }
        let ahead = (size / RESERVE_SHARE).min(RESERVE_BYTES_MAX);
        let wanted = (end + ahead).next_multiple_of(STRETCH_BYTES).min(limit.max(end));
        if self.directory.has_ample_room(wanted - size) && allocate(file, size, wanted - size) {
            self.active().reserved_bytes = wanted;
            return;
        }
        // Not asked again in this segment. An attempt that failed may have taken some of the blocks.
        self.active().reserved_bytes = u64::MAX;
        let _ = file.set_len(size);
    }

    /// Gives a segment that begins, and is still empty, all of its blocks, if `preallocate` wants that; returns how many bytes.
    pub(crate) fn reserve_whole(&self, file: &File) -> u64 {
        let whole_bytes = self.config.segment_bytes.min(SEGMENT_SIZE_BYTES_MAX);
        if !self.config.preallocate || !self.directory.has_ample_room(whole_bytes) {
            return 0;
        }
        if allocate(file, 0, whole_bytes) {
            return whole_bytes;
        }
        // An attempt that failed may have taken some of the blocks.
        let _ = file.set_len(0);
        0
    }

    /// Gives back what the active segment has beyond its end.
    pub(crate) fn give_reserve_back(&mut self) {
        let Some(mut entry) = self.segments.last_entry() else {
            return;
        };
        let active = entry.get_mut();
        let is_worth_it = active.has_reserve(GIVE_BACK_FROM_BYTES);
        if is_worth_it && let Ok(open) = self.open_active() {
            let active = self.active();
            // What stays is tried again, found by the next append after a start, or removed with the segment.
            if open.file.set_len(active.footer.size_bytes).is_ok() {
                active.reserved_bytes = 0;
                active.pages = PagesAhead::default();
            }
        }
    }
}

impl Segment {
    /// Whether it has so many blocks more than it needs, or a file that is longer than its batches.
    fn has_reserve(&self, least_bytes: u64) -> bool {
        let has_blocks =
            self.reserved_bytes != u64::MAX && self.reserved_bytes >= self.footer.size_bytes + least_bytes;
        has_blocks || self.pages.file_bytes > self.footer.size_bytes
    }
}

/// Reserves blocks without changing the file's length; false if the file system cannot.
pub(crate) fn allocate(file: &File, from: u64, size_bytes: u64) -> bool {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, from, size_bytes).is_ok()
}

/// Gives back what a killed process had reserved; `file` has `size_bytes` of batches and nobody appends.
pub(crate) fn give_back_unknown(file: &File, size_bytes: u64) {
    let blocks = file
        .metadata()
        .map_or(0, |metadata| metadata.blocks() * BLOCK_BYTES);
    if blocks >= size_bytes + GIVE_BACK_FROM_BYTES {
        let _ = file.set_len(size_bytes);
    }
}
