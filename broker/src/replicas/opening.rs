//! Opening the logs of a broker that starts: several at a time, because a log may have to be recovered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use odradek_broker_log::config::LogConfig;
use odradek_broker_log::error::LogError;
use odradek_broker_log::log::{Log, PartitionIdentity};
use parking_lot::Mutex;
use uuid::Uuid;

use super::DataDirectory;
use crate::clock;

/// A log to be opened.
pub(super) struct ToOpen {
    pub(super) identity: PartitionIdentity,
    /// Index of its log directory.
    pub(super) log_dir: usize,
    pub(super) config: LogConfig,
}

/// A log and the index of its directory.
pub(super) type Opened = (usize, Result<Log, LogError>);

/// What was opened ahead of the replicas, by topic id and partition.
pub(super) type OpenedLogs = HashMap<(Uuid, i32), Opened>;

/// Opens logs on so many threads for each directory (`num.recovery.threads.per.data.dir`).
pub(super) fn open_all(directories: &[DataDirectory], wanted: &[ToOpen], threads: usize) -> OpenedLogs {
    let opened = Mutex::new(OpenedLogs::with_capacity(wanted.len()));
    std::thread::scope(|scope| {
        for (at, directory) in directories.iter().enumerate() {
            let here: Vec<&ToOpen> = wanted.iter().filter(|log| log.log_dir == at).collect();
            let threads = threads.min(here.len());
            let share = Share {
                directory,
                logs: here,
                next: AtomicUsize::new(0),
            };
            let (share, opened) = (std::sync::Arc::new(share), &opened);
            for _ in 0..threads {
                let share = share.clone();
                scope.spawn(move || {
                    while let Some(log) = share.take() {
                        let key = (log.identity.topic_id, log.identity.partition);
                        let result = share.open(log);
                        opened.lock().insert(key, (log.log_dir, result));
                    }
                });
            }
        }
    });
    opened.into_inner()
}

/// The logs of one directory.
struct Share<'a> {
    directory: &'a DataDirectory,
    logs: Vec<&'a ToOpen>,
    next: AtomicUsize,
}

impl<'a> Share<'a> {
    fn take(&self) -> Option<&'a ToOpen> {
        self.logs.get(self.next.fetch_add(1, Ordering::Relaxed)).copied()
    }

    fn open(&self, log: &ToOpen) -> Result<Log, LogError> {
        let directory = &self.directory.log_directory;
        directory.open_partition(log.identity.clone(), log.config.clone(), clock::now())
    }
}
