//! What a log directory waits for or asks of its disk, in one place so that a disk which fails or is full can be put there.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{pages, writeback};

/// What a log directory asks of its disk. Every call may block.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Waits until the contents of a file survive a power cut.
    ///
    /// # Errors
    /// What was written since the last success may be lost, whatever a second call says.
    fn sync_data(&self, file: &File) -> io::Result<()>;

    /// As [`Disk::sync_data`], for a folder's entries or a file that was just made.
    ///
    /// # Errors
    /// As [`Disk::sync_data`].
    fn sync_all(&self, file: &File) -> io::Result<()>;

    /// The room on the file system of `directory`.
    ///
    /// # Errors
    /// The file system does not say.
    fn space(&self, directory: &Path) -> io::Result<Space>;

    /// Whether the page cache keeps what is written to files in `directory` in large pieces (`pages.rs`).
    fn has_large_folios(&self, directory: &Path) -> bool {
        pages::has_large_folios(directory)
    }

    /// Has these bytes of a file written, so that a flush finds little left to wait for. It promises nothing: what is safe,
    /// and what went wrong, the flush tells.
    fn write_back(&self, file: &File, bytes: Range<u64>) {
        writeback::write_back(file, bytes);
    }

    /// Reads what a check of a segment wants to see of a file.
    ///
    /// # Errors
    /// The disk does not give the bytes.
    fn read_at(&self, file: &File, bytes: &mut [u8], position: u64) -> io::Result<usize> {
        file.read_at(bytes, position)
    }
}

/// The room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes of all of it.
    pub total_bytes: u64,
}

/// The disk there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(directory)?;
        Ok(Space {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}
