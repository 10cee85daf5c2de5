//! What can go wrong with a log.

use std::io;
use std::path::{Path, PathBuf};

use odradek_common::error::ApiError;
use rustix::io::Errno;
use thiserror::Error;

use crate::segment::base_offset_of;

/// A failure of a log directory, or of a log within it.
#[derive(Debug, Error)]
pub enum LogError {
    /// Another process works in the directory.
    #[error("log directory {} is in use by another process; stop it or give this node a directory of its own", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The disk or the index failed: take the directory offline.
    #[error("cannot {attempt} in log directory {}", path.display())]
    Directory {
        /// The log directory, not the file.
        path: PathBuf,
        /// What was attempted, and on which file.
        attempt: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The disk has no room left, which passes.
    #[error("no room in log directory {}: {detail}", path.display())]
    NoRoom {
        /// The log directory.
        path: PathBuf,
        /// What was attempted, or how much is left.
        detail: String,
    },
    /// A flush failed: what was written since the last one may be lost, whatever a second flush says. Take the directory
    /// offline.
    #[error("cannot {attempt} in log directory {}: what was written last may be lost", path.display())]
    Unsynced {
        /// The log directory.
        path: PathBuf,
        /// What was attempted, and on which file.
        attempt: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A segment holds bytes that are no record batch where one should be.
    #[error("segment {} is corrupt at byte {position}: {detail}", path.display())]
    Corrupt {
        /// The segment's file.
        path: PathBuf,
        /// Where the batch should begin.
        position: u64,
        /// What is wrong there.
        detail: String,
    },
    /// The directory failed before, or could not be opened.
    #[error("log directory {} is offline", path.display())]
    Offline {
        /// The log directory.
        path: PathBuf,
    },
    /// The log was closed or deleted.
    #[error("the log of {0} is closed")]
    Closed(String),
    /// A log by that name is open, which passes: what a move has left of a deleted topic is not removed yet.
    #[error("the log directory has a log of {0} open already")]
    Open(String),
}

/// What is wrong with a segment without a file.
const GONE: &str = "the file is gone";

impl LogError {
    /// The file of a segment is not there, which is its partition's loss alone.
    #[must_use]
    pub fn gone(path: PathBuf) -> Self {
        let detail = GONE.to_owned();
        Self::Corrupt {
            path,
            position: 0,
            detail,
        }
    }

    /// Whether the file of a segment is not there.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Corrupt { detail, .. } if detail == GONE)
    }

    pub(crate) fn io(directory: &Path, attempt: impl Into<String>, source: io::Error) -> Self {
        let (path, attempt) = (directory.to_owned(), attempt.into());
        if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            let detail = format!("cannot {attempt}: {source}");
            return Self::NoRoom { path, detail };
        }
        Self::Directory {
            path,
            attempt,
            source,
        }
    }

    /// The log directory that failed, or has no room; None if the error is a log's own.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Locked { path }
            | Self::Directory { path, .. }
            | Self::NoRoom { path, .. }
            | Self::Unsynced { path, .. }
            | Self::Offline { path } => Some(path),
            Self::Corrupt { .. } | Self::Closed(_) | Self::Open(_) => None,
        }
    }

    /// The base offset of the segment that is corrupt; None if something else is wrong.
    #[must_use]
    pub fn corrupt_segment(&self) -> Option<i64> {
        match self {
            Self::Corrupt { path, .. } => base_offset_of(path.file_name()?.to_str()?),
            Self::Locked { .. }
            | Self::Directory { .. }
            | Self::NoRoom { .. }
            | Self::Unsynced { .. }
            | Self::Offline { .. }
            | Self::Closed(_)
            | Self::Open(_) => None,
        }
    }

    /// Whether the process has no file descriptors left, which passes.
    #[must_use]
    pub fn is_out_of_descriptors(&self) -> bool {
        match self {
            Self::Directory { source, .. } => is_out_of_descriptors(source),
            Self::Locked { .. }
            | Self::NoRoom { .. }
            | Self::Unsynced { .. }
            | Self::Corrupt { .. }
            | Self::Offline { .. }
            | Self::Closed(_)
            | Self::Open(_) => false,
        }
    }

    /// Whether the disk has no room left, which a produce may retry. A flush that found no room has lost what it was to
    /// write, and is not meant.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::NoRoom { .. })
    }
}

/// Whether the process, or the machine, has no file descriptors left.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    let out = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| out.contains(&code))
}

/// Why nothing was appended.
#[derive(Debug, Error)]
pub enum AppendError {
    /// A refusal that the protocol expects.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The bytes are no record batches, or their checksum is wrong.
    #[error("corrupt record batch: {0}")]
    Corrupt(String),
    /// A follower got records that do not follow its log's end.
    #[error("record batch begins at offset {first_offset}, the log ends at {log_end_offset}")]
    OutOfOrder {
        /// Where the batch begins.
        first_offset: i64,
        /// Where the log ends.
        log_end_offset: i64,
    },
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why nothing was read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The offset lies where the log is damaged.
    #[error("the log is damaged at offset {offset}")]
    Damaged {
        /// The offset asked for.
        offset: i64,
    },
    /// The offset is not in the log.
    #[error("offset {offset} is outside of [{log_start_offset}, {log_end_offset}]")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: i64,
        /// The first offset of the log.
        log_start_offset: i64,
        /// The offset the next record will have.
        log_end_offset: i64,
    },
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}
