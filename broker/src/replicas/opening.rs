//! Opening the logs of a broker that starts: several at a time, because a log may have to be recovered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use odradek_broker_log::config::LogConfig;
use odradek_broker_log::error::LogError;
use odradek_broker_log::log::{Log, PartitionIdentity};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::clock;
use crate::data_directory::DataDirectory;

/// A log to be opened.
pub(super) struct ToOpen {
    pub(super) identity: PartitionIdentity,
    pub(super) directory: Arc<DataDirectory>,
    pub(super) config: LogConfig,
}

/// A log and where it lives, or why it cannot be opened.
pub(super) type Opened = Result<(Arc<DataDirectory>, Log), LogError>;

/// What was opened ahead of the replicas, by topic id and partition.
pub(super) type OpenedLogs = HashMap<(Uuid, i32), Opened>;

/// Opens logs on so many threads for each directory (`num.recovery.threads.per.data.dir`).
pub(super) fn open_all(directories: &[Arc<DataDirectory>], wanted: &[ToOpen], threads: usize) -> OpenedLogs {
    let opened = Mutex::new(OpenedLogs::with_capacity(wanted.len()));
    std::thread::scope(|scope| {
        for directory in directories {
            let is_here = |log: &&ToOpen| Arc::ptr_eq(&log.directory, directory);
            let here: Vec<&ToOpen> = wanted.iter().filter(is_here).collect();
            let threads = threads.min(here.len());
            let share = Share {
                logs: here,
                next: AtomicUsize::new(0),
            };
            let (share, opened) = (Arc::new(share), &opened);
            for _ in 0..threads {
                let share = share.clone();
                scope.spawn(move || {
                    while let Some(log) = share.take() {
                        let key = (log.identity.topic_id, log.identity.partition);
                        let result = open(log);
                        opened.lock().insert(key, result);
                    }
                });
            }
        }
    });
    opened.into_inner()
}

/// The logs of one directory.
struct Share<'a> {
    logs: Vec<&'a ToOpen>,
    next: AtomicUsize,
}

impl<'a> Share<'a> {
    fn take(&self) -> Option<&'a ToOpen> {
        self.logs.get(self.next.fetch_add(1, Ordering::Relaxed)).copied()
    }
}

fn open(log: &ToOpen) -> Opened {
    let logs = log.directory.logs().ok_or_else(|| LogError::Offline {
        path: log.directory.path().to_owned(),
    })?;
    let opened = logs.open_partition(log.identity.clone(), log.config.clone(), clock::now())?;
    Ok((log.directory.clone(), opened))
}
