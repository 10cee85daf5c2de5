//! Appends whose producers, or whose follower, wait until they are safe.

use odradek_broker_core::partition::Partition;
use odradek_broker_log::log::Log;
use odradek_common::error::ErrorCode;
use tokio::sync::oneshot;

use super::{CommitWait, Replica, State};

/// Somebody waits until what is below an offset is safe.
pub(super) struct PendingAppend {
    pub(super) until: Safe,
    pub(super) leader_epoch: i32,
    pub(super) offset: i64,
    pub(super) answer: oneshot::Sender<Result<(), ErrorCode>>,
}

/// How safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safe {
    /// On every in-sync replica (acks=all).
    Committed,
    /// On this leader's disk, as far as `flush.messages` asks (acks=1).
    Flushed,
    /// On this follower's disk, as far as `flush.messages` asks: only then it may ask for what comes next.
    FlushedByFollower,
}

impl PendingAppend {
    /// Whether the wait is over; an error once it is pointless.
    pub(super) fn outcome(&self, partition: &Partition<Log>) -> Result<bool, ErrorCode> {
        self.until.is_reached(partition, self.leader_epoch, self.offset)
    }
}

impl Safe {
    fn is_reached(
        self,
        partition: &Partition<Log>,
        leader_epoch: i32,
        offset: i64,
    ) -> Result<bool, ErrorCode> {
        match self {
            Self::Committed => partition.check_committed(leader_epoch, offset),
            Self::Flushed => partition.check_durable(leader_epoch, offset),
            Self::FlushedByFollower => {
                let log = partition.log();
                // What was truncated meanwhile needs no flush any more.
                Ok(log.durable_end_offset() >= offset.min(log.log_end_offset()))
            }
        }
    }
}

impl Replica {
    /// Waits until everything that `flush.messages` wants on disk is there; None if it is.
    pub fn await_flush(&self) -> Option<CommitWait> {
        let mut state = self.state.lock();
        let end_offset = state.partition.log().log_end_offset();
        let leader_epoch = state.partition.image().leader_epoch;
        let flushed = self.wait_unless(&mut state, Safe::FlushedByFollower, leader_epoch, end_offset);
        drop(state);
        if flushed.is_some() {
            // Whoever appended may have failed before it asked for that.
            self.queue_flush();
        }
        flushed
    }

    /// How many wait until something is safe.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        let is_awaited = |pending: &&PendingAppend| !pending.answer.is_closed();
        self.state.lock().pending.iter().filter(is_awaited).count()
    }

    /// None if it is so safe already.
    pub(super) fn wait_unless(
        &self,
        state: &mut State,
        until: Safe,
        leader_epoch: i32,
        offset: i64,
    ) -> Option<CommitWait> {
        let reached = until.is_reached(&state.partition, leader_epoch, offset);
        if reached == Ok(true) {
            return None;
        }
        let (answer, wait) = oneshot::channel();
        match reached {
            // Looked at under the lock: whoever sets it fails those who wait after that.
            Ok(_) if self.is_offline() => _ = answer.send(Err(ErrorCode::KafkaStorageError)),
            Ok(_) => state.pending.push(PendingAppend {
                until,
                leader_epoch,
                offset,
                answer,
            }),
            Err(code) => _ = answer.send(Err(code)),
        }
        Some(wait)
    }
}
