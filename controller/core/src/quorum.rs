//! The metadata quorum: raft-rs behind inputs and effects.
//!
//! raft-rs and its prost 0.11 types end here; what leaves are bytes. The same inputs give the same effects: time comes in,
//! and election timeouts are drawn from the seed, the node and the term. It promises that nothing a peer could rely on
//! (a vote, an acknowledgement) leaves before the state behind it was reported durable, and that proposals arriving while
//! a write is under way share the next one. It does not store, send or wait.

use std::collections::BTreeMap;

use bytes::Bytes;
use odradek_common::ids::NodeId;
use odradek_common::time::Now;
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message,
    MessageType, Snapshot,
};
use raft::{Config, ProgressState, RawNode, SnapshotStatus, StateRole};

mod cache;
mod effects;
mod ready;
mod wire;

use cache::LogCache;
pub use effects::{
    CommittedEntry, Membership, Outgoing, PeerView, Persist, ProposalOutcome, ProposeError, Proposed,
    QuorumEffects, QuorumInput, QuorumView, RejectedMessage, RestoredSnapshot, RestoredState, Role,
    RoleChange, StoredEntry, StoredSnapshot, VoterChange,
};

/// The index and term of the snapshot that a quorum begins with. It is above 0 so that whoever joins later has nothing of
/// it and is sent a snapshot, which is how a joiner learns the voters.
pub const BOOTSTRAP_INDEX: u64 = 1;

/// The largest entry that may be proposed. A larger one, once committed, would stop every controller in turn.
pub const PROPOSAL_BYTES_MAX: usize = 8 * 1024 * 1024;

const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;
const INFLIGHT_MESSAGES_MAX: usize = 256;
const UNCOMMITTED_BYTES_MAX: u64 = 32 * 1024 * 1024;
const COMMITTED_BYTES_PER_ROUND_MAX: u64 = 8 * 1024 * 1024;
/// After a pause of the process the queued messages are to be heard before its timers fire.
const TICKS_PER_CALL_MAX: u64 = 2;
/// How many quick elections are tried after the leader was seen to die, before waiting as for a silent one.
const QUICK_ELECTIONS_MAX: u32 = 16;
const QUICK_ELECTION_TICKS_MIN: usize = 2;
const QUICK_ELECTION_TICKS_SPREAD: u64 = 5;
/// How long an encoded snapshot is kept for peers that need it.
const SNAPSHOT_KEPT_MS: u64 = 30_000;
/// After so long a snapshot that was sent counts as lost, whatever the transport knows of it.
const SNAPSHOT_ANSWER_MS_MAX: u64 = 10_000;

/// What a quorum node is started with.
#[derive(Clone, Debug)]
pub struct QuorumConfig {
    /// This node; not negative.
    pub node_id: NodeId,
    /// One tick; all timeouts are counted in ticks.
    pub tick_ms: u64,
    /// A leader is silent for at least so long before another election (`controller.quorum.election.timeout.ms`).
    pub election_timeout_ms: u64,
    /// How often a leader speaks.
    pub heartbeat_ms: u64,
    /// Where election timeouts are drawn from, together with the node and the term.
    pub seed: u64,
    /// A snapshot is taken after so many bytes of entries.
    pub snapshot_after_bytes: u64,
    /// A snapshot is taken after so many entries.
    pub snapshot_after_entries: u64,
    /// A snapshot is taken after so long if there are entries at all (`metadata.log.max.snapshot.interval.ms`).
    pub snapshot_after_ms: u64,
    /// So many entries before a snapshot are kept for followers that are a little behind.
    pub entries_kept: u64,
}

impl QuorumConfig {
    /// The defaults for a node.
    #[must_use]
    pub fn new(node_id: NodeId) -> Self {
        Self {
            node_id,
            tick_ms: 50,
            election_timeout_ms: 1_000,
            heartbeat_ms: 100,
            seed: 0,
            snapshot_after_bytes: 20 * 1024 * 1024,
            snapshot_after_entries: 50_000,
            snapshot_after_ms: 3_600_000,
            entries_kept: 2_000,
        }
    }
}

/// Why a quorum node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum QuorumError {
    /// The stored state does not decode.
    #[error(
        "the stored {what} of the metadata log is damaged: restore the directory from a backup, or remove this voter and let it join again"
    )]
    Damaged {
        /// Which part.
        what: &'static str,
    },
    /// raft-rs refuses the state or the settings.
    #[error("raft does not start: {0}")]
    Raft(#[from] raft::Error),
}

/// One node of the quorum.
pub struct Quorum {
    config: QuorumConfig,
    node: RawNode<LogCache>,
    clock_ms: Option<u64>,
    persisting: Option<Persisting>,
    persist_number: u64,
    hard_state_unsaved: Option<HardState>,
    applied: u64,
    applied_term: u64,
    conf: ConfState,
    conf_announced: bool,
    role: Option<RoleChange>,
    quick_elections: u32,
    contacts: BTreeMap<u64, Contact>,
    /// Peers that were sent a snapshot and have not answered, and since when.
    snapshots_sent: BTreeMap<u64, u64>,
    snapshot_index: u64,
    /// When the last one was taken, or this node started.
    snapshot_taken_ms: Option<u64>,
    bytes_since_snapshot: u64,
    /// Bytes of the last one that was taken or restored.
    snapshot_bytes: u64,
    snapshot_wanted: bool,
    snapshot_unsaved: Option<StoredSnapshot>,
    snapshot_offered_ms: u64,
}

/// What the outstanding `Persist` stands for.
struct Persisting {
    number: u64,
    ready: Option<u64>,
    restored: Option<Snapshot>,
}

#[derive(Clone, Copy, Default)]
struct Contact {
    last_ms: Option<i64>,
    caught_up_ms: Option<i64>,
}

impl Quorum {
    /// What the store of each founding voter must hold before the quorum starts for the first time.
    #[must_use]
    pub fn bootstrap(voters: &[NodeId]) -> Persist {
        let mut ids: Vec<u64> = voters.iter().map(|node| wire::raft_id(*node)).collect();
        ids.sort_unstable();
        let conf = ConfState {
            voters: ids,
            ..ConfState::default()
        };
        let hard_state = HardState {
            term: 1,
            commit: BOOTSTRAP_INDEX,
            ..HardState::default()
        };
        Persist {
            hard_state: Some(to_bytes(&hard_state)),
            snapshot: Some(StoredSnapshot {
                index: BOOTSTRAP_INDEX,
                term: 1,
                conf_state: to_bytes(&conf),
                data: Bytes::new(),
            }),
            must_sync: true,
            ..Persist::default()
        }
    }

    /// A node with what its store held.
    ///
    /// # Errors
    /// The stored state is damaged.
    pub fn new(
        config: QuorumConfig,
        restored: &RestoredState,
        logger: &slog::Logger,
    ) -> Result<Self, QuorumError> {
        let (cache, conf, applied) = restore(restored)?;
        let raft_config = raft_config(&config, applied.0);
        let node = RawNode::new(&raft_config, cache, logger)?;
        let mut quorum = Self {
            config,
            node,
            clock_ms: None,
            persisting: None,
            persist_number: 0,
            hard_state_unsaved: None,
            applied: applied.0,
            applied_term: applied.1,
            conf,
            conf_announced: false,
            role: None,
            quick_elections: QUICK_ELECTIONS_MAX,
            contacts: BTreeMap::new(),
            snapshots_sent: BTreeMap::new(),
            snapshot_index: applied.0,
            snapshot_taken_ms: None,
            bytes_since_snapshot: 0,
            snapshot_bytes: restored.snapshot_bytes,
            snapshot_wanted: false,
            snapshot_unsaved: None,
            snapshot_offered_ms: 0,
        };
        quorum.pin_election_timeout();
        if quorum.conf.voters == [wire::raft_id(quorum.config.node_id)] {
            // Nobody else could win: waiting for a timeout would only delay the start.
            quorum.node.campaign()?;
            quorum.pin_election_timeout();
        }
        Ok(quorum)
    }

    /// Takes one input and says what is to be done.
    pub fn handle(&mut self, now: Now, input: QuorumInput) -> QuorumEffects {
        self.handle_all(now, [input])
    }

    /// Takes inputs that arrived together; what they ask to be stored is one write.
    pub fn handle_all(&mut self, now: Now, inputs: impl IntoIterator<Item = QuorumInput>) -> QuorumEffects {
        let mut effects = QuorumEffects::default();
        for input in inputs {
            self.step(now, input, &mut effects);
            self.pin_election_timeout();
        }
        self.pass_time(now);
        self.gather(&mut effects);
        effects
    }

    /// Appends an entry, if this node leads; the next call of `handle` says what to do for it.
    ///
    /// # Errors
    /// The entry was not taken.
    pub fn propose(&mut self, data: Bytes) -> Result<Proposed, ProposeError> {
        if data.len() > PROPOSAL_BYTES_MAX {
            return Err(ProposeError::TooLarge {
                size_bytes: data.len(),
                size_bytes_max: PROPOSAL_BYTES_MAX,
            });
        }
        self.refuse_unless_leader()?;
        // Invariant: an empty entry is a new leader's first; the state machine tells leaders' beginnings by it.
        assert!(!data.is_empty(), "a proposal carries something");
        self.node
            .propose(Vec::new(), data.to_vec())
            .map_err(|_| ProposeError::Busy)?;
        Ok(self.last_proposed())
    }

    /// Changes the voters, if this node leads.
    ///
    /// # Errors
    /// The change was not taken.
    pub fn change_voters(&mut self, change: VoterChange) -> Result<Proposed, ProposeError> {
        self.takes_voter_changes()?;
        let single = self.conf_change(change).ok_or(ProposeError::InvalidChange)?;
        let conf_change = ConfChangeV2 {
            changes: vec![single],
            ..ConfChangeV2::default()
        };
        self.node
            .propose_conf_change(Vec::new(), conf_change)
            .map_err(|_| ProposeError::Busy)?;
        Ok(self.last_proposed())
    }

    /// Whether a change of voters would be taken now, if it makes sense.
    ///
    /// # Errors
    /// This node does not lead, or another change is under way.
    pub fn takes_voter_changes(&self) -> Result<(), ProposeError> {
        self.refuse_unless_leader()?;
        // raft-rs turns a second change into an empty entry without a word.
        if self.node.raft.has_pending_conf() || self.node.raft.pending_conf_index > self.applied {
            return Err(ProposeError::ChangeInProgress);
        }
        Ok(())
    }

    /// The quorum as this node sees it.
    #[must_use]
    pub fn view(&self) -> QuorumView {
        let raft = &self.node.raft;
        QuorumView {
            role: self.current_role(),
            commit: raft.raft_log.committed,
            applied: self.applied,
            first: self.node.store().first(),
            last: raft.raft_log.last_index(),
            membership: self.membership(),
            peers: self.peers(),
        }
    }

    /// Whether this node leads and has applied an entry of its own term: only then does it know all that was committed.
    #[must_use]
    pub fn leads_with_all_applied(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.applied_term == self.node.raft.term
    }

    /// Whether this node leads nobody but itself: then nobody waits for its messages.
    #[must_use]
    pub fn leads_alone(&self) -> bool {
        let raft = &self.node.raft;
        let alone = self.conf.voters.len() == 1 && self.conf.learners.is_empty();
        alone && self.conf.voters_outgoing.is_empty() && raft.state == StateRole::Leader
    }

    /// The last entry of the log, committed or not.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// Bytes of log held in memory.
    #[must_use]
    pub fn log_bytes(&self) -> usize {
        self.node.store().bytes()
    }

    fn refuse_unless_leader(&self) -> Result<(), ProposeError> {
        if self.node.raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader);
        }
        Ok(())
    }

    fn last_proposed(&self) -> Proposed {
        Proposed {
            index: self.node.raft.raft_log.last_index(),
            term: self.node.raft.term,
        }
    }

    fn conf_change(&self, change: VoterChange) -> Option<ConfChangeSingle> {
        let (node, kind) = match change {
            VoterChange::AddLearner(node) => (node, ConfChangeType::AddLearnerNode),
            VoterChange::Promote(node) => (node, ConfChangeType::AddNode),
            VoterChange::Remove(node) => (node, ConfChangeType::RemoveNode),
        };
        if node < 0 {
            return None;
        }
        let id = wire::raft_id(node);
        let votes = self.conf.voters.contains(&id);
        let learns = self.conf.learners.contains(&id);
        let sensible = match change {
            VoterChange::AddLearner(_) => !votes && !learns,
            VoterChange::Promote(_) => learns,
            VoterChange::Remove(_) => learns || (votes && self.conf.voters.len() > 1),
        };
        if !sensible {
            return None;
        }
        let mut single = ConfChangeSingle {
            node_id: id,
            ..ConfChangeSingle::default()
        };
        single.set_change_type(kind);
        Some(single)
    }

    fn step(&mut self, now: Now, input: QuorumInput, effects: &mut QuorumEffects) {
        match input {
            QuorumInput::Tick => {}
            QuorumInput::Message { from, bytes } => {
                if let Err(reason) = self.step_message(now, from, &bytes) {
                    effects.rejected.push(RejectedMessage { from, reason });
                }
            }
            QuorumInput::Propose { data, token } => {
                effects.outcomes.push(ProposalOutcome {
                    token,
                    result: self.propose(data),
                });
            }
            QuorumInput::Persisted { number } => self.persisted(number, effects),
            QuorumInput::Snapshot { index, data } => self.take_snapshot(now, index, data),
            QuorumInput::Change { change, token } => {
                effects.outcomes.push(ProposalOutcome {
                    token,
                    result: self.change_voters(change),
                });
            }
            QuorumInput::TransferLeadership { to } => self.transfer_leadership(to),
            QuorumInput::Unreachable { peer } => self.unreachable(peer),
            QuorumInput::Down { peer } => self.down(peer),
            QuorumInput::SnapshotSent { peer, delivered } => {
                let status = if delivered {
                    SnapshotStatus::Finish
                } else {
                    SnapshotStatus::Failure
                };
                if peer >= 0 {
                    self.node.report_snapshot(wire::raft_id(peer), status);
                }
            }
        }
    }

    fn step_message(&mut self, now: Now, from: NodeId, bytes: &[u8]) -> Result<(), &'static str> {
        let message = wire::decode(from, wire::raft_id(self.config.node_id), bytes)?;
        let last = self.node.raft.raft_log.last_index();
        if message.get_msg_type() == MessageType::MsgHeartbeat && message.commit > last {
            // The leader has seen entries here that are gone. To go on would be to vote again on what was voted on.
            return Err(
                "this node lost entries that it had acknowledged; remove it from the quorum and add it again",
            );
        }
        self.note_contact(now, &message);
        self.node
            .step(message)
            .map_err(|_| "from a node that is not in the quorum")
    }

    fn note_contact(&mut self, now: Now, message: &Message) {
        let answers = matches!(
            message.get_msg_type(),
            MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse
        );
        if !answers || self.node.raft.prs().get(message.from).is_none() {
            return;
        }
        let last = self.node.raft.raft_log.last_index();
        let caught_up = message.get_msg_type() == MessageType::MsgAppendResponse
            && !message.reject
            && message.index >= last
            || self
                .node
                .raft
                .prs()
                .get(message.from)
                .is_some_and(|progress| progress.matched >= last);
        let contact = self.contacts.entry(message.from).or_default();
        contact.last_ms = Some(now.wall_ms);
        if caught_up {
            contact.caught_up_ms = Some(now.wall_ms);
        }
    }

    fn transfer_leadership(&mut self, to: Option<NodeId>) {
        if self.node.raft.state != StateRole::Leader {
            return;
        }
        let target = to
            .filter(|node| *node >= 0)
            .map(wire::raft_id)
            .or_else(|| self.best_successor());
        if let Some(target) = target {
            self.node.transfer_leader(target);
        }
    }

    /// The other voter with most of the log, of those that answered lately.
    fn best_successor(&self) -> Option<u64> {
        let prs = self.node.raft.prs();
        self.conf
            .voters
            .iter()
            .filter(|id| **id != self.node.raft.id)
            .filter_map(|id| {
                prs.get(*id)
                    .map(|progress| (progress.recent_active, progress.matched, *id))
            })
            .max()
            .map(|(_, _, id)| id)
    }

    fn unreachable(&mut self, peer: NodeId) {
        if peer < 0 {
            return;
        }
        let id = wire::raft_id(peer);
        self.node.report_unreachable(id);
        let waiting = self
            .node
            .raft
            .prs()
            .get(id)
            .is_some_and(|p| p.state == ProgressState::Snapshot);
        if waiting {
            // Without this the peer would wait for the lost snapshot for ever.
            self.node.report_snapshot(id, SnapshotStatus::Failure);
        }
    }

    fn down(&mut self, peer: NodeId) {
        self.unreachable(peer);
        let raft = &mut self.node.raft;
        if peer >= 0 && raft.leader_id == wire::raft_id(peer) && raft.state == StateRole::Follower {
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
            self.quick_elections = QUICK_ELECTIONS_MAX;
        }
    }

    /// raft-rs draws timeouts from the thread's randomness at each reset; this puts the drawn one out of force.
    fn pin_election_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let election_ticks = raft.election_timeout();
        let draw = mix(self.config.seed ^ mix(raft.id) ^ mix(raft.term.wrapping_mul(0x9e37)));
        let spread = draw % election_ticks as u64;
        let timeout = election_ticks + usize::try_from(spread).expect("less than the election timeout");
        raft.set_randomized_election_timeout(timeout);
        if raft.leader_id != raft::INVALID_ID || raft.state == StateRole::Leader {
            self.quick_elections = 0;
        } else if self.quick_elections > 0 && raft.election_elapsed == 0 && raft.promotable() {
            self.quick_elections -= 1;
            let extra = mix(draw ^ u64::from(self.quick_elections)) % QUICK_ELECTION_TICKS_SPREAD;
            let ticks = QUICK_ELECTION_TICKS_MIN + usize::try_from(extra).expect("a few");
            raft.election_elapsed = timeout.saturating_sub(ticks);
        }
    }

    fn pass_time(&mut self, now: Now) {
        let since = *self.clock_ms.get_or_insert(now.mono_ms);
        let ticks = now.mono_ms.saturating_sub(since) / self.config.tick_ms;
        self.clock_ms = Some(since + ticks * self.config.tick_ms);
        for _ in 0..ticks.min(TICKS_PER_CALL_MAX) {
            self.node.tick();
            self.pin_election_timeout();
        }
        if ticks > 0 {
            self.give_up_snapshots(now);
        }
        let kept_ms = now.mono_ms.saturating_sub(self.snapshot_offered_ms);
        if self.node.store().has_snapshot() && kept_ms > SNAPSHOT_KEPT_MS {
            self.node.mut_store().drop_snapshot();
        }
    }

    fn give_up_snapshots(&mut self, now: Now) {
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader;
        let waits = |id: &u64| {
            raft.prs()
                .get(*id)
                .is_some_and(|p| p.state == ProgressState::Snapshot)
        };
        self.snapshots_sent.retain(|id, _| leads && waits(id));
        let ids: Vec<u64> = raft
            .prs()
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| leads && waits(id))
            .collect();
        for id in ids {
            let since = *self.snapshots_sent.entry(id).or_insert(now.mono_ms);
            if now.mono_ms.saturating_sub(since) > SNAPSHOT_ANSWER_MS_MAX {
                self.snapshots_sent.remove(&id);
                self.node.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
    }

    fn take_snapshot(&mut self, now: Now, index: u64, data: Bytes) {
        if index != self.applied || !self.snapshot_wanted {
            return;
        }
        self.snapshot_wanted = false;
        self.snapshot_taken_ms = Some(now.mono_ms);
        self.snapshot_bytes = data.len() as u64;
        let stored = StoredSnapshot {
            index,
            term: self.applied_term,
            conf_state: to_bytes(&self.conf),
            data: data.clone(),
        };
        if self.node.raft.state == StateRole::Leader && !self.leads_alone() {
            let mut snapshot = Snapshot {
                data: data.to_vec(),
                ..Snapshot::default()
            };
            let metadata = snapshot.mut_metadata();
            metadata.index = index;
            metadata.term = self.applied_term;
            metadata.set_conf_state(self.conf.clone());
            self.node.mut_store().offer_snapshot(snapshot);
            self.snapshot_offered_ms = now.mono_ms;
        }
        self.snapshot_unsaved = Some(stored);
    }

    fn current_role(&self) -> RoleChange {
        let raft = &self.node.raft;
        let role = match raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        RoleChange {
            role,
            term: raft.term,
            leader: wire::node_id(raft.leader_id),
        }
    }

    fn membership(&self) -> Membership {
        let nodes = |ids: &[u64]| {
            let mut nodes: Vec<NodeId> = ids.iter().filter_map(|id| wire::node_id(*id)).collect();
            nodes.sort_unstable();
            nodes
        };
        Membership {
            voters: nodes(&self.conf.voters),
            learners: nodes(&self.conf.learners),
        }
    }

    fn peers(&self) -> Vec<PeerView> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let mut peers: Vec<PeerView> = raft
            .prs()
            .iter()
            .filter(|(id, _)| **id != raft.id)
            .filter_map(|(id, progress)| {
                let contact = self.contacts.get(id).copied().unwrap_or_default();
                Some(PeerView {
                    node: wire::node_id(*id)?,
                    matched: progress.matched,
                    last_contact_ms: contact.last_ms,
                    last_caught_up_ms: contact.caught_up_ms,
                })
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.node);
        peers
    }
}

fn raft_config(config: &QuorumConfig, applied: u64) -> Config {
    let ticks = |ms: u64| usize::try_from((ms / config.tick_ms.max(1)).max(1)).unwrap_or(usize::MAX / 4);
    let heartbeat_tick = ticks(config.heartbeat_ms);
    Config {
        id: wire::raft_id(config.node_id),
        election_tick: ticks(config.election_timeout_ms).max(heartbeat_tick * 2),
        heartbeat_tick,
        applied,
        max_size_per_msg: MESSAGE_BYTES_MAX,
        max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
        check_quorum: true,
        pre_vote: true,
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
        max_committed_size_per_ready: COMMITTED_BYTES_PER_ROUND_MAX,
        ..Config::default()
    }
}

/// Rebuilds the log from the store; the last pair is index and term of the snapshot.
fn restore(restored: &RestoredState) -> Result<(LogCache, ConfState, (u64, u64)), QuorumError> {
    let mut hard_state = HardState::default();
    if let Some(bytes) = &restored.hard_state {
        hard_state
            .merge_from_bytes(bytes)
            .map_err(|_| QuorumError::Damaged { what: "hard state" })?;
    }
    let snapshot = restored.snapshot.clone().unwrap_or_default();
    let mut conf = ConfState::default();
    conf.merge_from_bytes(&snapshot.conf_state)
        .map_err(|_| QuorumError::Damaged {
            what: "voters of the snapshot",
        })?;
    let mut entries = Vec::with_capacity(restored.entries.len());
    for bytes in &restored.entries {
        entries.push(decode_entry(bytes).ok_or(QuorumError::Damaged { what: "entry" })?);
    }
    let gap = entries.windows(2).any(|pair| pair[1].index != pair[0].index + 1);
    let detached = entries
        .first()
        .is_some_and(|first| first.index > snapshot.index + 1);
    if gap || detached {
        return Err(QuorumError::Damaged {
            what: "sequence of entries",
        });
    }
    let mut truncated = (snapshot.index, snapshot.term);
    if entries.last().is_none_or(|last| last.index < snapshot.index) {
        entries.clear();
    } else if entries[0].index <= snapshot.index {
        // The term before the first entry is not stored: that entry becomes the one "before the first".
        let first = entries.remove(0);
        truncated = (first.index, first.term);
    }
    let last = truncated.0 + entries.len() as u64;
    // The commit index is stored lazily; the snapshot proves at least its own.
    hard_state.commit = hard_state.commit.clamp(snapshot.index, last.max(snapshot.index));
    hard_state.term = hard_state.term.max(snapshot.term);
    let cache = LogCache::new(hard_state, conf.clone(), truncated, entries);
    Ok((cache, conf, (snapshot.index, snapshot.term)))
}

fn decode_entry(bytes: &[u8]) -> Option<Entry> {
    let mut entry = Entry::default();
    entry.merge_from_bytes(bytes).ok()?;
    EntryType::from_i32(entry.entry_type)?;
    (entry.index > 0 && entry.term > 0).then_some(entry)
}

fn to_bytes(message: &impl protobuf::Message) -> Bytes {
    message
        .write_to_bytes()
        .map(Bytes::from)
        .expect("a raft message always encodes")
}

/// Spreads a number over all bits (the finaliser of splitmix64).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
