//! What goes wrong with logs, and how far it reaches: a partition, a log directory, or nobody for long.
//!
//! It remembers what may mend by itself, partitions that could not be opened or led and disks without room; trying again is
//! the metadata thread's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use odradek_broker_log::error::LogError;
use odradek_common::ids::{LOST_DIRECTORY, TopicPartition};
use odradek_common::metadata::{
    MetadataDelta, MetadataImage, PartitionChange, PartitionImage, TopicDelta, TopicImage,
};
use parking_lot::Mutex;
use uuid::Uuid;

use super::{Replicas, error_chain};
use crate::data_directory::DataDirectory;
use crate::replica::Replica;

/// A full disk is told this often, however many requests it fails.
const FULL_TOLD: Duration = Duration::from_secs(10);

/// Failures of one broker's logs.
#[derive(Debug, Default)]
pub struct LogFailures {
    /// Partitions for which the controller's decision could not be carried out.
    unapplied: Mutex<BTreeSet<(Uuid, i32)>>,
    full_told: Mutex<BTreeMap<PathBuf, Instant>>,
}

impl LogFailures {
    /// A partition could not be opened or led; true if that is news.
    pub fn not_applied(&self, topic_id: Uuid, partition: i32) -> bool {
        self.unapplied.lock().insert((topic_id, partition))
    }

    /// A partition is open, or has left this broker.
    pub fn settled(&self, topic_id: Uuid, partition: i32) {
        self.unapplied.lock().remove(&(topic_id, partition));
    }

    /// Whether this partition could not be opened or led, and is still wanted.
    #[must_use]
    pub fn is_unapplied(&self, topic_id: Uuid, partition: i32) -> bool {
        self.unapplied.lock().contains(&(topic_id, partition))
    }

    /// How many partitions could not be opened or led and are still wanted.
    #[must_use]
    pub fn unapplied(&self) -> usize {
        self.unapplied.lock().len()
    }

    /// Those partitions as if they were new, so that publishing them tries again; topics that are gone are forgotten.
    #[must_use]
    pub fn again(&self, image: &MetadataImage) -> MetadataDelta {
        let mut delta = MetadataDelta::default();
        self.unapplied.lock().retain(|(topic_id, index)| {
            let topic = image.topic_by_id(topic_id);
            let at = usize::try_from(*index).unwrap_or(usize::MAX);
            let Some((topic, partition)) = topic.and_then(|topic| Some((topic, topic.partitions.get(at)?)))
            else {
                return false;
            };
            let topic_delta = delta.topics.entry(*topic_id).or_insert_with(|| TopicDelta {
                topic: topic.clone(),
                partitions: BTreeMap::new(),
            });
            let change = PartitionChange {
                before: None,
                after: partition.clone(),
            };
            topic_delta.partitions.insert(*index, change);
            true
        });
        delta
    }

    /// Whether it is time to say that a log directory is full.
    pub fn tell_full(&self, directory: &Path) -> bool {
        let mut told = self.full_told.lock();
        let due = told.get(directory).is_none_or(|at| at.elapsed() >= FULL_TOLD);
        if due {
            told.insert(directory.to_owned(), Instant::now());
        }
        due
    }
}

impl Replicas {
    /// A log failed: how far that reaches depends on how. A replica that has left this broker while somebody was at work in
    /// its log did not fail; a flush that failed is its directory's matter, whosever it was.
    pub fn log_failed(&self, replica: &Arc<Replica>, error: &LogError) {
        if replica.is_closed() && !matches!(error, LogError::Unsynced { .. }) {
            slog::debug!(self.log, "a log was closed meanwhile"; "partition" => %replica.id, "error" => %error);
            return;
        }
        match error {
            // The damage is this partition's alone; its other replicas serve.
            LogError::Corrupt { .. } => {
                return self.failed_alone(replica, "a log is corrupt and offline", error);
            }
            // What made it close itself was told before.
            LogError::Closed(_) => {
                return self.failed_alone(replica, "a log has closed itself and is offline", error);
            }
            LogError::Locked { .. }
            | LogError::Directory { .. }
            | LogError::NoRoom { .. }
            | LogError::Unsynced { .. }
            | LogError::Offline { .. }
            | LogError::Open(_) => {}
        }
        let named = error.directory().and_then(|path| {
            let mut all = self.directories.iter();
            all.find(|directory| directory.path() == path)
        });
        // A replica that moves has its log in two directories.
        self.directory_failed(named.unwrap_or(&replica.directory()), error);
        if !replica.is_offline() && replica.with(|p| p.log().is_closed()) {
            // The disk goes on, for it was only full, but nobody knows what this log holds.
            self.failed_alone(replica, "a log has closed itself and is offline", error);
        }
    }

    /// A log failed that takes no other with it.
    fn failed_alone(&self, replica: &Arc<Replica>, what: &str, error: &LogError) {
        slog::error!(self.log, "{}", what; "partition" => %replica.id, "error" => error_chain(error));
        replica.set_offline();
        self.end_move(replica);
        // The controller hears of directories that fail, not of logs: it elects another leader once this is in none.
        self.assignments.add(replica);
    }

    /// A log directory failed: its replicas answer KAFKA_STORAGE_ERROR from now on, and the controller is told. A disk
    /// without room and a process without descriptors fail nothing for good.
    pub fn directory_failed(&self, directory: &DataDirectory, error: &LogError) {
        if error.is_disk_full() {
            if self.failures.tell_full(directory.path()) {
                slog::error!(self.log, "no room in a log directory: produces to it are refused until there is";
                    "error" => error_chain(error));
            }
            return;
        }
        if error.is_out_of_descriptors() {
            slog::error!(self.log, "no file descriptors left: raise the limit of open files (ulimit -n)";
                "error" => error_chain(error));
            return;
        }
        if directory.set_offline() {
            slog::error!(self.log, "log directory failed"; "path" => %directory.path().display(),
                "error" => error_chain(error));
            self.directories_changed.send_modify(|changes| *changes += 1);
        }
        for replica in self.all().iter() {
            replica.directory_failed(directory);
            self.end_move(replica);
        }
    }

    /// A replica that moves may wait for the controller: it gets a turn, and with that its move ends if it has to.
    fn end_move(&self, replica: &Arc<Replica>) {
        if replica.awaits_record() {
            self.moves.add(replica.clone());
        }
    }

    /// A replica could not begin to lead; unless its log failed for good, it is tried again later.
    pub(super) fn not_led(&self, replica: &Arc<Replica>, error: &LogError) {
        self.log_failed(replica, error);
        if !replica.is_offline() {
            self.failures.not_applied(replica.topic_id, replica.id.partition);
        }
    }

    /// A partition's log could not be opened; it is tried again later. Until then another replica is to lead it, and where the
    /// disk failed, all that is in that directory.
    pub(super) fn not_opened(
        &self,
        topic: &TopicImage,
        partition: &PartitionImage,
        index: i32,
        error: &LogError,
    ) {
        let is_news = self.failures.not_applied(topic.id, index);
        self.tell_not_opened(topic, index, error, is_news);
        match error {
            LogError::Corrupt { .. } => {
                if partition.directory_of(self.node_id) != LOST_DIRECTORY {
                    let id = TopicPartition::new(topic.name.clone(), index);
                    self.assignments.add_unopened(id, topic.id);
                }
            }
            LogError::Directory { path, .. } | LogError::Unsynced { path, .. } => {
                if let Some(directory) = self.directories.iter().find(|it| it.path() == path) {
                    self.directory_failed(directory, error);
                }
            }
            LogError::Locked { .. }
            | LogError::NoRoom { .. }
            | LogError::Offline { .. }
            | LogError::Closed(_)
            | LogError::Open(_) => {}
        }
    }

    fn tell_not_opened(&self, topic: &TopicImage, index: i32, error: &LogError, is_news: bool) {
        let partition = format!("{}-{index}", topic.name);
        let error_text = error_chain(error);
        match error {
            // The directory's failure was told.
            LogError::Offline { .. } if is_news => {
                slog::warn!(self.log, "a partition is on a log directory that is offline"; "partition" => partition,
                    "error" => error_text);
            }
            LogError::Open(_) if is_news => {
                slog::warn!(self.log, "a partition waits until what a move has left of a deleted namesake is removed";
                    "partition" => partition, "error" => error_text);
            }
            _ if is_news => {
                slog::error!(self.log, "cannot open a partition's log"; "partition" => partition, "error" => error_text);
            }
            _ => {
                slog::debug!(self.log, "still cannot open a partition's log"; "partition" => partition,
                    "error" => error_text);
            }
        }
    }
}
