//! Deadlines by name: one per name, the next one found at once.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::protocol::StrBytes;

/// What a deadline is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKey {
    /// A member, or a pending member id, must be heard of.
    Session { group_id: StrBytes, member_id: StrBytes },
    /// The join phase ends, or its initial delay.
    Join { group_id: StrBytes },
    /// The sync phase ends.
    Sync { group_id: StrBytes },
    /// Old offsets are looked for.
    Expiry,
}

/// The deadlines of a shard.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_key: BTreeMap<TimerKey, u64>,
    by_time: BTreeSet<(u64, TimerKey)>,
}

impl Timers {
    /// Sets or moves the deadline of that name.
    pub(super) fn schedule(&mut self, key: TimerKey, deadline_ms: u64) {
        if let Some(old) = self.by_key.insert(key.clone(), deadline_ms) {
            self.by_time.remove(&(old, key.clone()));
        }
        self.by_time.insert((deadline_ms, key));
    }

    /// Forgets the deadline of that name.
    pub(super) fn cancel(&mut self, key: &TimerKey) {
        if let Some(old) = self.by_key.remove(key) {
            self.by_time.remove(&(old, key.clone()));
        }
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.by_time.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// Takes the earliest deadline that is not after `mono_ms`.
    pub(super) fn pop_due(&mut self, mono_ms: u64) -> Option<TimerKey> {
        if self.next_deadline()? > mono_ms {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }
}
