//! What a controller node counts about itself; the exporter reads it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Counters and gauges of one controller node.
#[derive(Debug, Default)]
pub struct QuorumMetrics {
    /// 1 while this node is the active controller.
    pub active: AtomicI64,
    /// The role: 0 follower, 1 pre-candidate, 2 candidate, 3 leader.
    pub role: AtomicI64,
    /// The raft term.
    pub term: AtomicI64,
    /// The leader's node id; -1 if unknown.
    pub leader: AtomicI64,
    /// Index of the last entry known to be committed.
    pub commit: AtomicI64,
    /// Index of the last entry applied.
    pub applied: AtomicI64,
    /// Index of the last entry in the log.
    pub log_end: AtomicI64,
    /// Bytes of log held in memory.
    pub log_bytes: AtomicI64,
    /// Elections that this node took part in as a candidate.
    pub elections: AtomicU64,
    /// Times the leader changed, as this node saw it.
    pub leader_changes: AtomicU64,
    /// Writes that waited for the disk.
    pub syncs: AtomicU64,
    /// Time spent in them, in microseconds.
    pub sync_us: AtomicU64,
    /// Entries proposed.
    pub proposals: AtomicU64,
    /// Snapshots taken.
    pub snapshots: AtomicU64,
    /// Raft messages sent.
    pub messages_sent: AtomicU64,
    /// Raft messages received.
    pub messages_received: AtomicU64,
    /// Raft messages that could not be sent or were refused.
    pub messages_failed: AtomicU64,
    /// Requests decided by the active controller.
    pub requests: AtomicU64,
}

impl QuorumMetrics {
    pub(crate) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn set(gauge: &AtomicI64, value: u64) {
        gauge.store(i64::try_from(value).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}
