//! Moves of replicas between this broker's log directories (KIP-113): who wants one, and what is done when one ends.
//!
//! The replica makes the copy, threads of [`crate::mover`] see to it, slice by slice. A copy that has everything gets its last
//! turn when the controller has recorded its directory. A move that the stop of the process has interrupted begins anew with the
//! next start.

use std::collections::VecDeque;
use std::sync::Arc;

use odradek_broker_log::error::LogError;
use odradek_broker_log::log::PartitionIdentity;
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::TopicPartition;
use odradek_common::metadata::MetadataImage;
use parking_lot::{Condvar, Mutex};

use super::{Replicas, error_chain};
use crate::clock;
use crate::data_directory::DataDirectory;
use crate::replica::Replica;
use crate::replica::moving::{FailedMove, LeftBehind, MoveBegun, MoveError, MoveStep};

/// Replicas that move, in the order of their turns; each is here at most once.
#[derive(Default)]
pub struct MoveQueue {
    state: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    turns: VecDeque<Arc<Replica>>,
    stopping: bool,
}

impl MoveQueue {
    /// The replica gets a turn.
    pub fn add(&self, replica: Arc<Replica>) {
        let turns = &mut self.state.lock().turns;
        if turns.iter().any(|other| Arc::ptr_eq(other, &replica)) {
            return;
        }
        turns.push_back(replica);
        self.wake.notify_one();
    }

    /// Waits for a replica to move; None once the queue is stopped.
    pub fn next(&self) -> Option<Arc<Replica>> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return None;
            }
            if let Some(replica) = state.turns.pop_front() {
                return Some(replica);
            }
            self.wake.wait(&mut state);
        }
    }

    /// Nobody gets a turn any more.
    pub fn stop(&self) {
        self.state.lock().stopping = true;
        self.wake.notify_all();
    }
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// So many bytes were copied.
    Copied(usize),
    /// It gets another turn when the controller has recorded where it moves to.
    AwaitsRecord,
    /// The move is over, or was cancelled.
    Over,
}

impl Replicas {
    /// The replicas that move.
    #[must_use]
    pub fn moves(&self) -> &MoveQueue {
        &self.moves
    }

    /// Moves a partition to another log directory; one that this broker does not host will be made there. Blocks.
    ///
    /// # Errors
    /// A log directory is offline, or the partition is not here yet.
    pub fn alter_directory(
        &self,
        topic: &str,
        partition: i32,
        to: &Arc<DataDirectory>,
    ) -> Result<(), ApiError> {
        let storage_error = |detail| ApiError::new(ErrorCode::KafkaStorageError, detail);
        if to.is_offline() {
            let detail = format!("log directory {} is offline", to.path().display());
            return Err(storage_error(detail));
        }
        let replica = match self.hosted(topic, partition) {
            Ok(replica) => replica,
            Err(error) => {
                let is_remembered = self
                    .preferences
                    .remember(TopicPartition::new(topic, partition), to);
                if !is_remembered {
                    slog::warn!(self.log, "too many wishes for log directories: this one is not remembered";
                        "partition" => format!("{topic}-{partition}"));
                }
                return Err(error);
            }
        };
        if replica.is_offline() {
            let detail = format!("the log directory of {topic}-{partition} is offline");
            return Err(storage_error(detail));
        }
        // Kafka's rule: an offline directory may hold a copy already.
        if let Some(offline) = self.directories.iter().find(|directory| directory.is_offline()) {
            let detail = format!(
                "nothing moves while log directory {} is offline",
                offline.path().display()
            );
            return Err(storage_error(detail));
        }
        match self.begin_move(&replica, to) {
            Ok(MoveBegun::New | MoveBegun::UnderWay | MoveBegun::NotNeeded) => Ok(()),
            Ok(MoveBegun::TooEarly) => {
                let detail = format!(
                    "{topic}-{partition} has just moved, and what it left is being removed: try again"
                );
                Err(ApiError::new(ErrorCode::ReplicaNotAvailable, detail))
            }
            Err(error) => {
                self.move_failed(&replica, to, &error);
                Err(storage_error(error_chain(&error)))
            }
        }
    }

    fn begin_move(&self, replica: &Arc<Replica>, to: &Arc<DataDirectory>) -> Result<MoveBegun, LogError> {
        let begun = replica.begin_move(to, clock::now());
        // The directory of a copy that is cancelled may be recorded.
        self.assignments.add(replica);
        let begun = begun?;
        match begun {
            MoveBegun::New => self.moves.add(replica.clone()),
            MoveBegun::UnderWay => {}
            MoveBegun::NotNeeded | MoveBegun::TooEarly => return Ok(begun),
        }
        slog::info!(self.log, "a replica moves to another log directory"; "partition" => %replica.id,
            "from" => %replica.directory().path().display(), "to" => %to.path().display());
        Ok(begun)
    }

    /// The partition leaves this broker, and what has arrived of its copies with it.
    pub(super) fn discard_copies(&self, identity: &PartitionIdentity) {
        for (directory, logs) in self.online() {
            if let Err(error) = logs.discard_interrupted(identity) {
                self.directory_failed(directory, &error);
            }
        }
    }

    /// Begins the moves anew that were under way when the process ended. The copy of a partition that could not be opened stays: it
    /// tells the next start too that the partition is elsewhere.
    pub(super) fn resume_moves(&self, image: &MetadataImage) {
        for directory in &self.directories {
            let Some(logs) = directory.logs() else { continue };
            for identity in logs.interrupted_moves() {
                let replica = self
                    .get(&identity.topic, identity.partition)
                    .filter(|replica| replica.topic_id == identity.topic_id);
                if replica.is_none() && self.is_placed_here(&identity, image) {
                    continue;
                }
                if let Err(error) = logs.discard_interrupted(&identity) {
                    self.directory_failed(directory, &error);
                    break;
                }
                if let Some(replica) = replica
                    && let Err(error) = self.begin_move(&replica, directory)
                {
                    self.move_failed(&replica, directory, &error);
                }
            }
        }
    }

    /// Gives a replica that moves its turn. Blocks.
    pub fn advance_move(&self, replica: &Arc<Replica>) -> Turn {
        match replica.advance_move(clock::now()) {
            MoveStep::Copied(bytes) => return Turn::Copied(bytes),
            MoveStep::AwaitsRecord => {
                self.assignments.add(replica);
                return Turn::AwaitsRecord;
            }
            MoveStep::Moved(left) => {
                self.moved(replica, *left);
                replica.settled();
            }
            MoveStep::Ended(not_removed) => self.copy_removed(replica, not_removed),
            MoveStep::Failed(failed) => {
                let FailedMove { to, error } = *failed;
                match error {
                    MoveError::Log(error) => self.move_failed(replica, &to, &error),
                    error @ (MoveError::Copy(_) | MoveError::Damaged { .. } | MoveError::Panicked) => {
                        slog::error!(self.log, "a replica cannot be moved"; "partition" => %replica.id,
                            "to" => %to.path().display(), "error" => error_chain(&error));
                    }
                }
                // Now that the replica is offline if it is its own directory that failed.
                self.copy_removed(replica, replica.end_failed_move().err());
            }
        }
        Turn::Over
    }

    /// A move ended early: the controller may have recorded where it was to go.
    fn copy_removed(&self, replica: &Arc<Replica>, not_removed: Option<LogError>) {
        self.assignments.add(replica);
        if let Some(error) = not_removed {
            // It goes with the next start, if it cannot be removed now.
            slog::warn!(self.log, "the copy of a replica is not removed"; "partition" => %replica.id,
                "error" => error_chain(&error));
        }
    }

    /// A move could not go on: which of the two directories failed, if one did, the error says.
    fn move_failed(&self, replica: &Arc<Replica>, to: &Arc<DataDirectory>, error: &LogError) {
        if replica.is_closed() {
            return;
        }
        slog::warn!(self.log, "a move to another log directory is cancelled"; "partition" => %replica.id,
            "to" => %to.path().display(), "error" => error_chain(error));
        self.log_failed(replica, error);
    }

    /// The replica lives elsewhere now: what its new directory has to know is made safe before the old one forgets it.
    pub(super) fn moved(&self, replica: &Arc<Replica>, left: LeftBehind) {
        let LeftBehind { directory, mut log } = left;
        let here = replica.directory();
        slog::info!(self.log, "a replica lives in another log directory now"; "partition" => %replica.id,
            "from" => %directory.path().display(), "to" => %here.path().display());
        if here.is_offline() {
            // Whoever told all replicas of that may not have found this one there yet.
            replica.directory_failed(&here);
        }
        let settled = settle(replica, &here);
        if let Err(error) = settled
            && !replica.is_deleted()
        {
            self.log_failed(replica, &error);
            // What is left is older and no longer used, but all there is that is known to work.
            if let Err(error) = log.close_clean(clock::now()) {
                self.directory_failed(&directory, &error);
            }
            return;
        }
        let Some(logs) = directory.logs() else { return };
        if let Err(error) = logs.delete_partition(&mut log) {
            self.directory_failed(&directory, &error);
        }
    }
}

/// Makes a replica that has moved, and the names of its files, survive a power loss.
fn settle(replica: &Replica, directory: &DataDirectory) -> Result<(), LogError> {
    let now = clock::now();
    if let Some(plan) = replica.with(|p| p.log_mut().checkpoint_plan(now))? {
        plan.sync()?;
        replica.complete_flush(now, plan)?;
    }
    if let Some(logs) = directory.logs() {
        let high_watermark = replica.with(|p| {
            let log = p.log_mut();
            log.is_in(logs).then(|| log.high_watermark_to_checkpoint())?
        });
        logs.checkpoint_high_watermarks(high_watermark)?;
        logs.flush_index()?;
    }
    Ok(())
}
