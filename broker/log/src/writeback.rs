//! sync_file_range(2), which no safe interface offers: dirty pages are written without the file system's journal, which appends
//! wait for.
//!
//! It says nothing about what is safe. The kernel tells an error of writeback once per open file, so this looks through an
//! open file of its own: the flush that follows is told as well.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Bytes that are written at once: a flush that somebody waits for has no more than these before it at the disk.
const PIECE_BYTES: u64 = 4 << 20;

/// Writes these bytes of a file, as far as they are dirty, and waits for the disk piece by piece. Less than a piece is left to the
/// flush.
pub(crate) fn write_back(file: &File, bytes: Range<u64>) {
    if bytes.end.saturating_sub(bytes.start) < PIECE_BYTES {
        return;
    }
    let Ok(own) = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) else {
        return;
    };
    let mut from = bytes.start;
    while from < bytes.end {
        let piece = PIECE_BYTES.min(bytes.end - from);
        if write_piece(&own, from, piece).is_err() {
            // The flush tells what is wrong.
            return;
        }
        from += piece;
    }
}

fn write_piece(file: &File, from: u64, size_bytes: u64) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let from = libc::off64_t::try_from(from).map_err(invalid)?;
    let size_bytes = libc::off64_t::try_from(size_bytes).map_err(invalid)?;
    let flags =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the call takes numbers alone, and the file keeps its descriptor open until it returns.
    let outcome = unsafe { libc::sync_file_range(file.as_raw_fd(), from, size_bytes, flags) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn pieces_of_a_file_are_written_and_nothing_else_is_taken_for_one() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 10_000], 0).unwrap();
        write_piece(&file, 0, 4_096).unwrap();
        write_piece(&file, 4_096, PIECE_BYTES).unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        let pipe = File::from(OwnedFd::from(reader));
        let refused = write_piece(&pipe, 0, 4_096).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ESPIPE));
        assert!(write_piece(&file, u64::MAX, 1).is_err());
        // Whatever is wrong, the caller's flush tells it.
        write_back(&pipe, 0..2 * PIECE_BYTES);
        write_back(&file, 0..2 * PIECE_BYTES + 1);
        let mut bytes = [0; 10_000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [7; 10_000]);
    }
}
