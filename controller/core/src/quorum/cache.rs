//! The tail of the raft log in memory, as raft-rs reads it.
//!
//! Everything that raft-rs was told is stable is here at once; the durable copy follows through `Persist` effects. The
//! cache never fails: what it no longer has is `Compacted`, and a snapshot it does not hold is asked of the state machine.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

pub(super) struct LogCache {
    hard_state: HardState,
    /// The configuration when the node started; raft-rs keeps the current one.
    initial_conf: ConfState,
    /// Index and term of the entry before the first one held.
    truncated: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: usize,
    prepared: Option<Snapshot>,
    snapshot_wanted: Cell<bool>,
}

impl LogCache {
    pub(super) fn new(
        hard_state: HardState,
        conf: ConfState,
        truncated: (u64, u64),
        entries: Vec<Entry>,
    ) -> Self {
        let bytes = entries.iter().map(size_of_entry).sum();
        Self {
            hard_state,
            initial_conf: conf,
            truncated,
            entries: entries.into(),
            bytes,
            prepared: None,
            snapshot_wanted: Cell::new(false),
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.truncated.0 + 1
    }

    pub(super) fn last(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Entries replace whatever stands at their index and after it.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index >= self.first() && first.index <= self.last() + 1,
            "entries from {} do not fit a log of {}..={}",
            first.index,
            self.first(),
            self.last()
        );
        while self.last() >= first.index {
            self.pop_back();
        }
        for entry in entries {
            self.bytes += size_of_entry(entry);
            self.entries.push_back(entry.clone());
        }
    }

    fn pop_back(&mut self) {
        if let Some(entry) = self.entries.pop_back() {
            self.bytes -= size_of_entry(&entry);
        }
    }

    /// A snapshot from the leader takes the place of the whole log.
    pub(super) fn reset_to(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.truncated = (index, term);
        self.prepared = None;
        if self.hard_state.commit < index {
            self.hard_state.commit = index;
        }
    }

    /// Drops entries up to and including an index.
    pub(super) fn compact_to(&mut self, index: u64) {
        while self.first() <= index {
            let Some(entry) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= size_of_entry(&entry);
            self.truncated = (entry.index, entry.term);
        }
        // A burst's room is given back.
        self.entries.shrink_to(2 * self.entries.len());
    }

    /// The index before the newest entries that together take no more than so many bytes.
    pub(super) fn before_newest(&self, bytes_max: u64) -> u64 {
        let mut left = bytes_max;
        let fits = |entry: &&Entry| {
            let size = size_of_entry(entry) as u64;
            let fits = size <= left;
            left = left.saturating_sub(size);
            fits
        };
        let kept = self.entries.iter().rev().take_while(fits).count();
        self.last() - kept as u64
    }

    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.truncated.0 {
            return Some(self.truncated.1);
        }
        let position = usize::try_from(index.checked_sub(self.first())?).ok()?;
        self.entries.get(position).map(|entry| entry.term)
    }

    pub(super) fn offer_snapshot(&mut self, snapshot: Snapshot) {
        self.prepared = Some(snapshot);
    }

    pub(super) fn drop_snapshot(&mut self) {
        self.prepared = None;
    }

    pub(super) fn has_snapshot(&self) -> bool {
        self.prepared.is_some()
    }

    pub(super) fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.replace(false)
    }
}

fn size_of_entry(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + ENTRY_OVERHEAD_BYTES
}

/// What an entry takes beside its data.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = std::mem::size_of::<Entry>();

fn is_member(conf: &ConfState, node: u64) -> bool {
    conf.voters.contains(&node) || conf.learners.contains(&node) || conf.voters_outgoing.contains(&node)
}

impl Storage for LogCache {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.initial_conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(StorageError::Compacted.into());
        }
        // Invariant: raft-rs asks for nothing that it did not see stable.
        assert!(
            high <= self.last() + 1,
            "entries up to {high} asked of a log that ends at {}",
            self.last()
        );
        let offset = |index: u64| usize::try_from(index - self.first()).expect("the log fits in memory");
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0u64;
        let mut entries = Vec::new();
        for entry in self.entries.range(offset(low)..offset(high)) {
            size += size_of_entry(entry) as u64;
            if size > limit && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.truncated.0 {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(index)
            .ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // A snapshot whose configuration lacks its receiver is ignored there, for ever: make a newer one.
        let usable = self.prepared.as_ref().filter(|snapshot| {
            let metadata = snapshot.get_metadata();
            metadata.index >= request_index.max(self.truncated.0)
                && metadata.index > 0
                && is_member(metadata.get_conf_state(), to)
        });
        if let Some(snapshot) = usable {
            return Ok(snapshot.clone());
        }
        self.snapshot_wanted.set(true);
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}
