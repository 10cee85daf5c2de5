//! Deadlines by name: one per name, the next one found at once.

use std::collections::{BTreeMap, BTreeSet};

/// The deadlines of a shard.
#[derive(Debug)]
pub struct Timers<Key> {
    by_key: BTreeMap<Key, u64>,
    by_time: BTreeSet<(u64, Key)>,
}

impl<Key> Default for Timers<Key> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_time: BTreeSet::new(),
        }
    }
}

impl<Key: Clone + Ord> Timers<Key> {
    /// Sets or moves the deadline of that name, on the monotonic clock.
    pub fn schedule(&mut self, key: Key, deadline_ms: u64) {
        if let Some(old) = self.by_key.insert(key.clone(), deadline_ms) {
            self.by_time.remove(&(old, key.clone()));
        }
        self.by_time.insert((deadline_ms, key));
    }

    /// Forgets the deadline of that name.
    pub fn cancel(&mut self, key: &Key) {
        if let Some(old) = self.by_key.remove(key) {
            self.by_time.remove(&(old, key.clone()));
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.by_time.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// Takes the earliest deadline that is not after `mono_ms`.
    pub fn pop_due(&mut self, mono_ms: u64) -> Option<Key> {
        if self.next_deadline()? > mono_ms {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }
}
