//! Which log directory a replica lives in (KIP-858).
//!
//! A move that was under way when the process was killed may leave a partition in two directories: the one it was moved to
//! is right, and what is left in the other is removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use odradek_broker_log::directory::LogDirectory;
use odradek_broker_log::error::LogError;
use odradek_broker_log::log::PartitionIdentity;
use odradek_common::ids::{NodeId, TopicPartition};
use odradek_common::metadata::PartitionImage;
use parking_lot::Mutex;

use super::Replicas;
use crate::data_directory::DataDirectory;

/// Wishes that are remembered at most; each is for a partition that this broker does not host yet.
const PREFERENCES_MAX: usize = 10_000;

/// Log directories that AlterReplicaLogDirs asked for before the partition came.
#[derive(Default)]
pub(super) struct Preferences(Mutex<BTreeMap<TopicPartition, Arc<DataDirectory>>>);

impl Preferences {
    /// Remembers a wish; false if there are too many.
    pub(super) fn remember(&self, id: TopicPartition, directory: &Arc<DataDirectory>) -> bool {
        let mut wishes = self.0.lock();
        let has_room = wishes.len() < PREFERENCES_MAX || wishes.contains_key(&id);
        if has_room {
            wishes.insert(id, directory.clone());
        }
        has_room
    }

    fn take(&self, identity: &PartitionIdentity) -> Option<Arc<DataDirectory>> {
        let id = TopicPartition::new(identity.topic.clone(), identity.partition);
        self.0.lock().remove(&id)
    }
}

impl Replicas {
    /// Where a partition lives already, else where a move had begun to copy it, else where AlterReplicaLogDirs or the controller
    /// wants it, else where `load` is least.
    ///
    /// # Errors
    /// It lives in a directory that is offline, or may live there: an empty log elsewhere, or one that it was moved away
    /// from, must not take its place.
    pub(super) fn place(
        &self,
        identity: &PartitionIdentity,
        partition: &PartitionImage,
        load: impl Fn(&Arc<DataDirectory>) -> usize,
    ) -> Result<(&Arc<DataDirectory>, &LogDirectory), LogError> {
        let all_online = self.online().count() == self.directories.len();
        let wanted = partition.directory_of(self.node_id);
        let preferred = self.preferences.take(identity);
        let is_wanted = |directory: &Arc<DataDirectory>| !wanted.is_nil() && directory.id() == wanted;
        let is_preferred = |directory: &Arc<DataDirectory>| {
            let preferred = preferred.as_ref();
            preferred.is_some_and(|preferred| Arc::ptr_eq(preferred, directory))
        };
        let may_be_elsewhere =
            !all_online && !wanted.is_nil() && !self.online().any(|(directory, _)| is_wanted(directory));
        if let Some(found) = self.holder(identity)?.filter(|_| !may_be_elsewhere) {
            return Ok(found);
        }
        if let Some(copied) = self.copied(identity, is_wanted) {
            // What it has was on its way to a directory that may be recorded already.
            if !all_online {
                return Err(self.offline());
            }
            copied.1.adopt_interrupted(identity)?;
            return Ok(copied);
        }
        let is_gone = !wanted.is_nil() && self.directories.iter().all(|directory| directory.id() != wanted);
        if is_gone && has_everything(partition, self.node_id) {
            // What this node is counted on for was in it: an empty log would be elected, and acknowledged records be gone.
            if !all_online {
                return Err(self.offline());
            }
            return Err(LogError::Offline {
                path: format!("{wanted}, which is none of log.dirs,").into(),
            });
        }
        let mut named = self.online().filter(|(directory, _)| is_preferred(directory));
        let mut recorded = self.online().filter(|(directory, _)| is_wanted(directory));
        if let Some(found) = named.next().or_else(|| recorded.next()) {
            return Ok(found);
        }
        // Nobody has recorded where it is, and nobody counts on what it has: it is new.
        let is_new =
            wanted.is_nil() && (partition.partition_epoch == 0 || is_joining(partition, self.node_id));
        if !all_online && !is_new {
            return Err(self.offline());
        }
        let least = self.online().min_by_key(|(directory, _)| load(directory));
        least.ok_or(LogError::Offline {
            path: self.directories[0].path().to_owned(),
        })
    }

    /// Where a move of a partition was interrupted; of several directories, the one that is wanted.
    fn copied(
        &self,
        identity: &PartitionIdentity,
        is_wanted: impl Fn(&Arc<DataDirectory>) -> bool,
    ) -> Option<(&Arc<DataDirectory>, &LogDirectory)> {
        let copies = self.online().filter(|(_, logs)| logs.awaits_move(identity));
        copies.max_by_key(|(directory, _)| is_wanted(directory))
    }

    /// A directory is offline in which a partition may be.
    fn offline(&self) -> LogError {
        let offline = self.directories.iter().find(|directory| directory.is_offline());
        let path = offline.map_or_else(Default::default, |directory| directory.path().to_owned());
        LogError::Offline { path }
    }

    /// Which directory holds a partition; of several, the one it was moved to last.
    fn holder(
        &self,
        identity: &PartitionIdentity,
    ) -> Result<Option<(&Arc<DataDirectory>, &LogDirectory)>, LogError> {
        let holders: Vec<_> = self.online().filter(|(_, logs)| logs.holds(identity)).collect();
        if holders.len() < 2 {
            return Ok(holders.first().copied());
        }
        let mut best = None;
        for (directory, logs) in holders {
            let moves = logs.moves(identity)?;
            if best.is_none_or(|(most, _)| moves > most) {
                best = Some((moves, (directory, logs)));
            }
        }
        Ok(best.map(|(_, holder)| holder))
    }

    /// Removes what moves have left in this directory of partitions that live in another.
    pub(super) fn delete_left_behind(&self, directory: &DataDirectory) {
        let Some(logs) = directory.logs() else { return };
        for identity in logs.unopened() {
            let Some(replica) = self
                .get(&identity.topic, identity.partition)
                .filter(|replica| replica.topic_id == identity.topic_id)
            else {
                continue;
            };
            let (lives_in, folder) = (replica.directory(), identity.folder());
            let moves = |logs: &LogDirectory| logs.moves(&identity);
            let is_older = lives_in.logs().is_some_and(
                |there| matches!((moves(there), moves(logs)), (Ok(there), Ok(here)) if there > here),
            );
            if !is_older {
                slog::error!(self.log, "a partition is in two log directories, and one of them is not used: \
                    look which has the records that you want, and move the other away while the node is stopped";
                    "partition" => folder,
                    "used" => %lives_in.path().display(), "unused" => %directory.path().display());
                continue;
            }
            match logs.delete_unopened(&identity) {
                Ok(()) => slog::info!(self.log, "removed what a move had left behind"; "partition" => folder,
                    "directory" => %directory.path().display()),
                Err(error) => self.directory_failed(directory, &error),
            }
        }
    }
}

/// A reassignment adds it, and it was never in sync: what it may have had is no loss.
fn is_joining(partition: &PartitionImage, node: NodeId) -> bool {
    partition.adding_replicas.contains(&node) && !has_everything(partition, node)
}

/// The node may be elected without loss.
fn has_everything(partition: &PartitionImage, node: NodeId) -> bool {
    partition.isr.contains(&node) || partition.elr.contains(&node)
}
