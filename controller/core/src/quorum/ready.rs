//! From raft-rs's `Ready` to effects, and back when they are done.
//!
//! One `Ready` at a time: while one is being stored, everything that arrives gathers in raft-rs for the next.

use bytes::Bytes;
use protobuf::Message as _;
use raft::StateRole;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, HardState, Message, MessageType, Snapshot};

use super::effects::{
    CommittedEntry, Outgoing, Persist, QuorumEffects, RestoredSnapshot, StoredEntry, StoredSnapshot,
};
use super::{Persisting, Quorum, cache, to_bytes, wire};

/// However small the snapshot, so much of the log is held before another is taken.
const HELD_BYTES_MIN: u64 = 1 << 20;
/// However small the snapshot, so much of the log is kept behind it for peers.
const KEPT_BYTES_MIN: u64 = 8 << 20;

impl Quorum {
    pub(super) fn gather(&mut self, effects: &mut QuorumEffects) {
        while self.persisting.is_none() && self.node.has_ready() {
            self.take_ready(effects);
        }
        self.store_snapshot(effects);
        self.leave_joint_configuration();
        self.announce(effects);
        self.want_snapshot(effects);
    }

    fn take_ready(&mut self, effects: &mut QuorumEffects) {
        let mut ready = self.node.ready();
        effects.messages.extend(outgoing(ready.take_messages()));
        let after_persist = outgoing(ready.take_persisted_messages());
        let committed = ready.take_committed_entries();
        let entries = ready.entries().clone();
        let snapshot = Some(ready.snapshot().clone()).filter(|snapshot| !snapshot.is_empty());
        let must_sync = ready.must_sync();
        let number = ready.number();
        if let Some(hard_state) = ready.hs() {
            self.hard_state_unsaved = Some(hard_state.clone());
            self.node.mut_store().set_hard_state(hard_state.clone());
        }
        if let Some(snapshot) = &snapshot {
            let metadata = snapshot.get_metadata();
            let (index, term) = (metadata.index, metadata.term);
            self.node.mut_store().reset_to(index, term);
        }
        self.node.mut_store().append(&entries);
        self.node.advance_append_async(ready);
        self.apply(committed, effects);
        if must_sync {
            let hard_state = self.hard_state_unsaved.take();
            let persist = self.persist(number, &entries, hard_state, snapshot, after_persist);
            effects.persist = Some(persist);
        } else {
            // Only the commit index moved: it is stored with the next write, and until then any majority knows it.
            effects.messages.extend(after_persist);
            self.node.on_persist_ready(number);
        }
    }

    fn persist(
        &mut self,
        ready: u64,
        entries: &[Entry],
        hard_state: Option<HardState>,
        snapshot: Option<Snapshot>,
        messages: Vec<Outgoing>,
    ) -> Persist {
        self.persist_number += 1;
        let number = self.persist_number;
        let stored_snapshot = snapshot.as_ref().map(|snapshot| StoredSnapshot {
            index: snapshot.get_metadata().index,
            term: snapshot.get_metadata().term,
            conf_state: to_bytes(snapshot.get_metadata().get_conf_state()),
            data: Bytes::copy_from_slice(&snapshot.data),
        });
        self.persisting = Some(Persisting {
            number,
            ready: Some(ready),
            restored: snapshot,
        });
        Persist {
            number,
            reset_log: stored_snapshot.is_some(),
            entries: entries.iter().map(stored_entry).collect(),
            hard_state: hard_state.as_ref().map(to_bytes),
            snapshot: stored_snapshot,
            first_kept: None,
            must_sync: true,
            messages,
        }
    }

    pub(super) fn persisted(&mut self, number: u64, effects: &mut QuorumEffects) {
        let Some(persisting) = self.persisting.take_if(|persisting| persisting.number == number) else {
            return;
        };
        if let Some(ready) = persisting.ready {
            self.node.on_persist_ready(ready);
        }
        if let Some(snapshot) = persisting.restored {
            self.restored(snapshot, effects);
        }
    }

    fn restored(&mut self, snapshot: Snapshot, effects: &mut QuorumEffects) {
        let metadata = snapshot.get_metadata();
        self.applied = metadata.index;
        self.applied_term = metadata.term;
        self.snapshot_index = metadata.index;
        self.snapshot_bytes = snapshot.data.len() as u64;
        self.bytes_since_snapshot = 0;
        self.snapshot_unsaved = None;
        self.conf = metadata.get_conf_state().clone();
        self.conf_announced = false;
        // raft-rs does not count a snapshot as applied by itself, and would read compacted entries in its next election.
        self.node.advance_apply_to(self.applied);
        effects.restored = Some(RestoredSnapshot {
            index: self.applied,
            term: self.applied_term,
            data: Bytes::from(snapshot.data),
        });
    }

    fn apply(&mut self, entries: Vec<Entry>, effects: &mut QuorumEffects) {
        let Some(last) = entries.last() else { return };
        let last_index = last.index;
        for entry in entries {
            self.applied = entry.index;
            self.applied_term = entry.term;
            self.bytes_since_snapshot += entry.data.len() as u64;
            let data = match entry.get_entry_type() {
                EntryType::EntryNormal => Bytes::from(entry.data),
                // The old form is never proposed here, so such an entry holds nothing to apply.
                EntryType::EntryConfChange => Bytes::new(),
                EntryType::EntryConfChangeV2 => {
                    let mut change = ConfChangeV2::default();
                    change.merge_from_bytes(&entry.data).expect("raft-rs encoded it");
                    self.apply_conf_change(&change);
                    Bytes::new()
                }
            };
            effects.committed.push(CommittedEntry {
                index: entry.index,
                term: entry.term,
                data,
            });
        }
        self.node.advance_apply_to(last_index);
    }

    fn apply_conf_change(&mut self, change: &ConfChangeV2) {
        let own = self.node.raft.id;
        let was_voter = self.conf.voters.contains(&own);
        // A change that no longer applies (a node removed twice) leaves the voters as they are, on every node alike.
        if let Ok(conf) = self.node.apply_conf_change(change) {
            self.conf = conf;
            self.conf_announced = false;
        }
        let conf = &self.conf;
        self.contacts
            .retain(|id, _| conf.voters.contains(id) || conf.learners.contains(id));
        let removed = was_voter && !self.conf.voters.contains(&own);
        if removed && self.node.raft.state == StateRole::Leader {
            self.resign();
        }
    }

    /// A leader that is no voter any more would lead on for ever, and commit nothing.
    fn resign(&mut self) {
        self.node.raft.bcast_append();
        if let Some(successor) = self.best_successor() {
            self.node.raft.send_timeout_now(successor);
        }
        let term = self.node.raft.term;
        self.node.raft.become_follower(term, raft::INVALID_ID);
        self.pin_election_timeout();
    }

    /// If a leader falls while a joint configuration is entered, raft-rs may leave nobody to leave it.
    fn leave_joint_configuration(&mut self) {
        let raft = &self.node.raft;
        let idle = raft.state == StateRole::Leader && raft.pending_conf_index <= self.applied;
        if idle && !self.conf.voters_outgoing.is_empty() {
            let _dropped = self.node.propose_conf_change(Vec::new(), ConfChangeV2::default());
        }
    }

    /// Up to where entries go that a snapshot stands for. Peers that are a little behind get entries rather than the snapshot.
    fn cut_behind(&self, snapshot_index: u64) -> u64 {
        if self.leads_alone() {
            return snapshot_index;
        }
        let bytes_max = KEPT_BYTES_MIN.max(2 * self.snapshot_bytes);
        let few = snapshot_index.saturating_sub(self.config.entries_kept);
        few.max(self.node.store().before_newest(bytes_max))
            .min(snapshot_index)
    }

    /// Attaches a snapshot of our own to the write of this round, or makes it one.
    fn store_snapshot(&mut self, effects: &mut QuorumEffects) {
        if self.persisting.is_some() && effects.persist.is_none() {
            return;
        }
        let Some(snapshot) = self.snapshot_unsaved.take() else {
            return;
        };
        self.snapshot_index = snapshot.index;
        self.bytes_since_snapshot = 0;
        let cut = self.cut_behind(snapshot.index);
        self.node.mut_store().compact_to(cut);
        let first_kept = self.node.store().first();
        if effects.persist.is_none() {
            self.persist_number += 1;
            self.persisting = Some(Persisting {
                number: self.persist_number,
                ready: None,
                restored: None,
            });
            let number = self.persist_number;
            effects.persist = Some(Persist {
                number,
                must_sync: true,
                ..Persist::default()
            });
        }
        if let Some(persist) = &mut effects.persist
            && persist.snapshot.is_none()
        {
            persist.snapshot = Some(snapshot);
            persist.first_kept = Some(first_kept);
        }
    }

    fn announce(&mut self, effects: &mut QuorumEffects) {
        let role = self.current_role();
        if self.role != Some(role) {
            self.role = Some(role);
            effects.role = Some(role);
        }
        if !self.conf_announced {
            self.conf_announced = true;
            effects.membership = Some(self.membership());
        }
    }

    fn want_snapshot(&mut self, effects: &mut QuorumEffects) {
        let entries = self.applied.saturating_sub(self.snapshot_index);
        let now_ms = self.clock_ms.unwrap_or(0);
        let since_ms = *self.snapshot_taken_ms.get_or_insert(now_ms);
        // The entries since then are in memory and take more of it than a new snapshot would take of the disk.
        let held_bytes = self.bytes_since_snapshot + entries * cache::ENTRY_OVERHEAD_BYTES as u64;
        let due = held_bytes >= HELD_BYTES_MIN.max(2 * self.snapshot_bytes)
            || entries >= self.config.snapshot_after_entries
            || self.bytes_since_snapshot >= self.config.snapshot_after_bytes
            || now_ms.saturating_sub(since_ms) >= self.config.snapshot_after_ms;
        if self.node.store().take_snapshot_wanted() || (due && entries > 0) {
            self.snapshot_wanted = true;
        }
        let possible = self.snapshot_unsaved.is_none() && self.applied > 0;
        effects.snapshot_wanted = self.snapshot_wanted && possible;
    }
}

fn stored_entry(entry: &Entry) -> StoredEntry {
    StoredEntry {
        index: entry.index,
        term: entry.term,
        bytes: to_bytes(entry),
    }
}

fn outgoing(messages: Vec<Message>) -> Vec<Outgoing> {
    messages
        .iter()
        .filter_map(|message| {
            Some(Outgoing {
                to: wire::node_id(message.to)?,
                bytes: wire::encode(message),
                snapshot: message.get_msg_type() == MessageType::MsgSnapshot,
            })
        })
        .collect()
}
