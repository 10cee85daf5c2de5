//! Which bytes of a file are in the page cache, and bringing those there that are not.
//!
//! Promises that [`is_resident`] never waits for a disk and that [`read_ahead`] makes nobody wait but its caller. What was
//! resident may be evicted a moment later; whoever sends it then waits for the disk once.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::Semaphore;

use crate::sendfile::FileRange;

/// Cold slices that are read from disks at a time, over all connections of the process.
pub const COLD_READS_MAX: usize = 8;
/// Beyond what was asked for, so much is asked of the disk, because whoever reads cold data goes on reading.
const READ_AHEAD_BYTES: u64 = 1 << 20;
/// Read at once into a buffer that is thrown away.
const TOUCH_BYTES: usize = 64 << 10;
/// Without cachestat, one byte in so many is looked at.
const PROBE_STRIDE_BYTES: u64 = 64 << 10;
/// What the disk is asked for at once comes in pieces of about this size.
const ARRIVAL_BYTES: u64 = 128 << 10;
const PAGE_BYTES: u64 = 4096;
/// cachestat(2), since Linux 6.5; one number on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

static COLD_READS: Semaphore = Semaphore::const_new(COLD_READS_MAX);

/// Whether every page of the range is in memory; none is beyond the end of the file.
///
#[must_use]
pub fn is_resident(range: &FileRange) -> bool {
    static HAS_CACHESTAT: OnceLock<bool> = OnceLock::new();
    if *HAS_CACHESTAT.get_or_init(|| cachestat(&range.file, 0, PAGE_BYTES).is_ok())
        && let Ok(cached_pages) = cachestat(&range.file, range.position, range.length as u64)
    {
        return cached_pages >= pages(range) && has_arrived(range);
    }
    probe(range)
}

/// Reads what is in memory from `position` on; fewer bytes than asked for when the rest is not, or the file ends.
///
/// # Errors
/// The file cannot be read.
pub fn read_resident(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let read = rustix::io::preadv2(
        file,
        &mut [IoSliceMut::new(buffer)],
        position,
        ReadWriteFlags::NOWAIT,
    );
    match read {
        Ok(bytes) => Ok(bytes),
        Err(Errno::AGAIN) => Ok(0),
        // File systems without RWF_NOWAIT: nobody can tell, so it is read as if it were there.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.read_at(buffer, position),
        Err(error) => Err(error.into()),
    }
}

/// Brings the range into memory, on a blocking thread, when its turn has come.
///
/// # Errors
/// The disk fails.
pub async fn read_ahead(range: FileRange) -> io::Result<()> {
    let _turn = COLD_READS.acquire().await.expect("the semaphore is never closed");
    let touched = tokio::task::spawn_blocking(move || touch(&range)).await;
    touched.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Asks for all of it at once, then waits piece by piece.
fn touch(range: &FileRange) -> io::Result<()> {
    let length = NonZeroU64::new(range.length as u64 + READ_AHEAD_BYTES);
    // Advice that is not taken costs time alone.
    let _ = rustix::fs::fadvise(&range.file, range.position, length, Advice::WillNeed);
    let mut buffer = vec![0; TOUCH_BYTES.min(range.length)];
    let end = range.position + range.length as u64;
    let mut position = range.position;
    while position < end {
        let wanted = buffer.len().min((end - position) as usize);
        match range.file.read_at(&mut buffer[..wanted], position) {
            Ok(0) => break,
            Ok(bytes) => position += bytes as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn pages(range: &FileRange) -> u64 {
    if range.length == 0 {
        return 0;
    }
    let last = range.position + range.length as u64 - 1;
    last / PAGE_BYTES - range.position / PAGE_BYTES + 1
}

/// One byte here and there, without waiting.
fn probe(range: &FileRange) -> bool {
    let end = range.position + range.length as u64;
    range.length == 0
        || (range.position..end)
            .step_by(PROBE_STRIDE_BYTES as usize)
            .all(|position| is_there(range, position))
            && is_there(range, end - 1)
}

/// Whether pages that cachestat counts are there. It also counts those that are on their way from the disk, which is what
/// [`read_ahead`] leaves beyond its range, and whoever sends them waits. The last byte of each piece comes last.
fn has_arrived(range: &FileRange) -> bool {
    let end = range.position + range.length as u64;
    range.length == 0
        || (range.position + ARRIVAL_BYTES..end)
            .step_by(ARRIVAL_BYTES as usize)
            .all(|piece_end| is_there(range, piece_end - 1))
            && is_there(range, end - 1)
}

fn is_there(range: &FileRange, position: u64) -> bool {
    matches!(read_resident(&range.file, &mut [0], position), Ok(1))
}

#[repr(C)]
struct CachestatRange {
    offset: u64,
    length: u64,
}

#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached_pages: u64,
    dirty_pages: u64,
    writeback_pages: u64,
    evicted_pages: u64,
    recently_evicted_pages: u64,
}

/// Pages of the range that are in the page cache.
fn cachestat(file: &File, offset: u64, length: u64) -> io::Result<u64> {
    let range = CachestatRange { offset, length };
    let mut found = Cachestat::default();
    // SAFETY: cachestat(fd, *range, *stat, flags) reads one `struct cachestat_range` and writes one `struct cachestat`; both
    // have the kernel's layout, live until the call returns, and the descriptor is open because `file` is borrowed.
    let outcome = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            &raw const range,
            &raw mut found,
            0_u32,
        )
    };
    if outcome == 0 {
        Ok(found.cached_pages)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A hole is on no page until somebody reads it.
    fn hole(length: u64) -> FileRange {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        FileRange {
            file: Arc::new(file),
            position: 0,
            length: length as usize,
        }
    }

    fn part(range: &FileRange, position: u64, length: usize) -> FileRange {
        FileRange {
            file: range.file.clone(),
            position,
            length,
        }
    }

    #[tokio::test]
    async fn what_is_cold_is_told_and_read_ahead() {
        let all = hole(1 << 20);
        assert!(!is_resident(&all));
        assert!(!is_resident(&part(&all, 5000, 1)));
        assert!(is_resident(&part(&all, 5000, 0)));
        read_ahead(all.clone()).await.unwrap();
        assert!(is_resident(&all));
    }

    /// What a disk was asked for is in the page cache before it is there.
    #[test]
    fn what_is_still_on_its_way_from_the_disk_is_not_resident() {
        const BYTES: u64 = 4 << 20;
        let all = hole(BYTES);
        all.file.write_all_at(&vec![1; BYTES as usize], 0).unwrap();
        all.file.sync_all().unwrap();
        let mut buffer = vec![0; 512 << 10];
        for position in (0..BYTES).step_by(buffer.len()) {
            let _ = rustix::fs::fadvise(&all.file, 0, None, Advice::DontNeed);
            let length = NonZeroU64::new(buffer.len() as u64);
            let _ = rustix::fs::fadvise(&all.file, position, length, Advice::WillNeed);
            if is_resident(&part(&all, position, buffer.len())) {
                let read = read_resident(&all.file, &mut buffer, position).unwrap();
                assert_eq!(read, buffer.len(), "at {position}");
            }
        }
    }

    #[test]
    fn one_missing_page_is_enough() {
        let all = hole(1 << 20);
        all.file.write_all_at(&[1; 10_000], 0).unwrap();
        assert!(is_resident(&part(&all, 0, 10_000)));
        assert!(is_resident(&part(&all, 4095, 2)));
        assert!(!is_resident(&part(&all, 0, 20_000)));
    }

    #[test]
    fn what_is_resident_is_read_up_to_the_end() {
        let all = hole(10_000);
        all.file.write_all_at(&[1; 10_000], 0).unwrap();
        let mut buffer = vec![0; 8192];
        assert_eq!(read_resident(&all.file, &mut buffer, 0).unwrap(), 8192);
        assert_eq!(buffer, [1; 8192]);
        assert_eq!(read_resident(&all.file, &mut buffer, 9000).unwrap(), 1000);
        assert_eq!(read_resident(&all.file, &mut buffer, 10_000).unwrap(), 0);
    }

    #[test]
    fn kernels_without_cachestat_are_asked_for_bytes() {
        let all = hole(300_000);
        all.file.write_all_at(&vec![1; 300_000], 0).unwrap();
        for (position, length, expected) in [
            (0, 300_000, true),
            (299_999, 1, true),
            (5, 0, true),
            (299_999, 2, false),
            (0, 300_001, false),
            (300_000, 1, false),
        ] {
            assert_eq!(
                probe(&part(&all, position, length)),
                expected,
                "{length} at {position}"
            );
        }
    }

    #[test]
    fn pages_count_at_both_ends() {
        let all = hole(1 << 20);
        for (position, length, expected) in
            [(0, 0, 0), (0, 1, 1), (4095, 2, 2), (4096, 4096, 1), (1, 4096, 2)]
        {
            assert_eq!(pages(&part(&all, position, length)), expected);
        }
    }
}
