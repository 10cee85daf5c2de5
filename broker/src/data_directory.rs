//! One log directory of this broker as its replicas see it: the logs in it, or that it failed, and what waits for its disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use odradek_broker_log::directory::LogDirectory;
use odradek_broker_log::room::DirectoryRoom;
use uuid::Uuid;

use crate::group_commit::FlushQueue;

/// One log directory.
pub struct DataDirectory {
    /// Replicas whose appends wait for a flush.
    pub flushes: FlushQueue,
    path: PathBuf,
    id: Uuid,
    logs: Option<LogDirectory>,
    offline: AtomicBool,
}

impl DataDirectory {
    /// An open directory; `id` is the `directory.id` of its meta.properties.
    #[must_use]
    pub fn new(id: Uuid, logs: LogDirectory) -> Self {
        Self {
            flushes: FlushQueue::default(),
            path: logs.path().to_owned(),
            id,
            logs: Some(logs),
            offline: AtomicBool::new(false),
        }
    }

    /// A directory that could not be opened; `id` is nil if it does not even tell that.
    #[must_use]
    pub fn failed(id: Uuid, path: PathBuf) -> Self {
        Self {
            flushes: FlushQueue::default(),
            path,
            id,
            logs: None,
            offline: AtomicBool::new(true),
        }
    }

    /// Its path, as configured.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory id; nil if it never told one.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Its logs; None if it could not be opened. A directory that failed later still has them, to be closed.
    #[must_use]
    pub fn logs(&self) -> Option<&LogDirectory> {
        self.logs.as_ref()
    }

    /// The room there is, asked of the file system now; None if it does not say, or the directory is offline. May block.
    #[must_use]
    pub fn room(&self) -> Option<DirectoryRoom> {
        self.logs.as_ref().filter(|_| !self.is_offline())?.room()
    }

    /// True after a failure that the process cannot get over; the next start may find it mended.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.offline.load(Ordering::Acquire)
    }

    /// The disk failed: nothing is served from here any more, and no stop of this process is a clean one. True if that is
    /// news.
    pub fn set_offline(&self) -> bool {
        // A second fsync may succeed although the first one lost data.
        if let Some(logs) = &self.logs {
            logs.mark_failed();
        }
        !self.offline.swap(true, Ordering::AcqRel)
    }
}
