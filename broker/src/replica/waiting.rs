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
        match self.until {
            Safe::Committed => partition.check_committed(self.leader_epoch, self.offset),
            Safe::Flushed => partition.check_durable(self.leader_epoch, self.offset),
            Safe::FlushedByFollower => {
                let log = partition.log();
                // What was truncated meanwhile needs no flush any more.
                Ok(log.durable_end_offset() >= self.offset.min(log.log_end_offset()))
            }
        }
    }
}

impl Replica {
    pub(super) fn wait_until(
        &self,
        state: &mut State,
        until: Safe,
        leader_epoch: i32,
        offset: i64,
    ) -> CommitWait {
        let (answer, wait) = oneshot::channel();
        let pending = PendingAppend {
            until,
            leader_epoch,
            offset,
            answer,
        };
        match pending.outcome(&state.partition) {
            // Looked at under the lock: whoever sets it fails those who wait after that.
            Ok(false) if self.is_offline() => _ = pending.answer.send(Err(ErrorCode::KafkaStorageError)),
            Ok(false) => state.pending.push(pending),
            Ok(true) => _ = pending.answer.send(Ok(())),
            Err(code) => _ = pending.answer.send(Err(code)),
        }
        wait
    }
}
