//! What goes into the quorum and what comes out of it.

use bytes::Bytes;
use odradek_common::ids::NodeId;

/// Something the quorum is told.
#[derive(Clone, Debug)]
pub enum QuorumInput {
    /// Nothing but that time passed.
    Tick,
    /// A raft message from another node.
    Message {
        /// The node it came from, as the transport knows it.
        from: NodeId,
        /// The message.
        bytes: Bytes,
    },
    /// Append an entry, if this node leads. The outcome carries the token.
    Propose {
        /// What the entry holds.
        data: Bytes,
        /// Repeated in the outcome.
        token: u64,
    },
    /// A `Persist` effect is durable.
    Persisted {
        /// Its number.
        number: u64,
    },
    /// The state machine's answer to `snapshot_wanted`.
    Snapshot {
        /// The last entry in it; ignored unless it is the last entry handed out.
        index: u64,
        /// The state.
        data: Bytes,
    },
    /// Change who votes. The outcome carries the token; the change itself shows as `membership`.
    Change {
        /// The change.
        change: VoterChange,
        /// Repeated in the outcome.
        token: u64,
    },
    /// Hand leadership over, to a given voter or to the one that has most of the log.
    TransferLeadership {
        /// To whom.
        to: Option<NodeId>,
    },
    /// Messages to that node were lost.
    Unreachable {
        /// The node.
        peer: NodeId,
    },
    /// That node's process is gone: its port refuses. If it led, there is no point in waiting for its silence.
    Down {
        /// The node.
        peer: NodeId,
    },
    /// The outcome of sending a snapshot.
    SnapshotSent {
        /// The receiver.
        peer: NodeId,
        /// Whether all of it was handed to the peer.
        delivered: bool,
    },
}

/// One change of the set of voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoterChange {
    /// The node receives the log without a vote.
    AddLearner(NodeId),
    /// The node gets a vote.
    Promote(NodeId),
    /// The node is neither voter nor learner any more.
    Remove(NodeId),
}

/// What is to be done, in this order: send `messages`, make `persist` durable, then the rest.
#[derive(Debug, Default)]
pub struct QuorumEffects {
    /// To be sent at once.
    pub messages: Vec<Outgoing>,
    /// To be made durable and then reported as `Persisted`. There is at most one outstanding.
    pub persist: Option<Persist>,
    /// The state machine is to be replaced by this state.
    pub restored: Option<RestoredSnapshot>,
    /// Entries to be applied, in order; an empty one is what a new leader begins with.
    pub committed: Vec<CommittedEntry>,
    /// The role of this node, its term or its leader changed.
    pub role: Option<RoleChange>,
    /// The voters or learners changed.
    pub membership: Option<Membership>,
    /// What became of proposals and voter changes.
    pub outcomes: Vec<ProposalOutcome>,
    /// The state machine is to encode itself once it has applied everything, and answer with `Snapshot`.
    pub snapshot_wanted: bool,
    /// Messages that were thrown away, and why.
    pub rejected: Vec<RejectedMessage>,
}

/// A message for another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The receiver.
    pub to: NodeId,
    /// The message.
    pub bytes: Bytes,
    /// Whether it carries a snapshot: its fate must be reported with `SnapshotSent`.
    pub snapshot: bool,
}

/// What must be on disk before `messages` leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persist {
    /// To be given back in `Persisted`.
    pub number: u64,
    /// The log is emptied first; only with a snapshot from the leader.
    pub reset_log: bool,
    /// Entries; whatever is stored at the first one's index and after it goes.
    pub entries: Vec<StoredEntry>,
    /// Term, vote and commit index.
    pub hard_state: Option<Bytes>,
    /// A snapshot that takes the place of the stored one.
    pub snapshot: Option<StoredSnapshot>,
    /// Entries before this index go.
    pub first_kept: Option<u64>,
    /// Whether a crash must not lose it.
    pub must_sync: bool,
    /// To be sent once it is durable.
    pub messages: Vec<Outgoing>,
}

/// One entry of the log as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its index.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// The whole entry, index and term included.
    pub bytes: Bytes,
}

/// A snapshot as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredSnapshot {
    /// The last entry in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// Voters and learners at that entry.
    pub conf_state: Bytes,
    /// The state machine's state; empty for a quorum that begins.
    pub data: Bytes,
}

/// What the store held when the node started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredState {
    /// Term, vote and commit index, if any were stored.
    pub hard_state: Option<Bytes>,
    /// The snapshot; a node without one waits to be let into a quorum. `data` is not needed here.
    pub snapshot: Option<StoredSnapshot>,
    /// How large its `data` is.
    pub snapshot_bytes: u64,
    /// The entries, in order and without gaps.
    pub entries: Vec<Bytes>,
}

/// A state from the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredSnapshot {
    /// The last entry in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The state.
    pub data: Bytes,
}

/// An entry that a majority holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Its index.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// What was proposed; empty for entries of the quorum's own.
    pub data: Bytes,
}

/// What a node is in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// Role, term and leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// This node's role.
    pub role: Role,
    /// The term.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
}

/// Who receives the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The nodes that vote.
    pub voters: Vec<NodeId>,
    /// The nodes that receive the log without a vote.
    pub learners: Vec<NodeId>,
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposalOutcome {
    /// The proposal's token.
    pub token: u64,
    /// Where it stands in the log, or why it does not.
    pub result: Result<Proposed, ProposeError>,
}

/// Where a proposal stands in the log. It is committed when an entry of this index and this term is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The entry's index.
    pub index: u64,
    /// The leader's term.
    pub term: u64,
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Only the leader takes proposals.
    #[error("this node does not lead the quorum")]
    NotLeader,
    /// Too much is uncommitted, or leadership is being handed over.
    #[error("the quorum takes no proposals at the moment")]
    Busy,
    /// The entry is larger than an entry may be.
    #[error("the entry has {size_bytes} bytes, more than the {size_bytes_max} that an entry may have")]
    TooLarge {
        /// The entry's size.
        size_bytes: usize,
        /// The limit.
        size_bytes_max: usize,
    },
    /// Voters change one at a time.
    #[error("another change of voters is under way")]
    ChangeInProgress,
    /// The change would leave no voter, promote a node that is no learner, or change nothing.
    #[error("the change of voters makes no sense now")]
    InvalidChange,
}

/// A message that was thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedMessage {
    /// The node it came from.
    pub from: NodeId,
    /// What was wrong with it.
    pub reason: &'static str,
}

/// The quorum as this node sees it.
#[derive(Clone, Debug)]
pub struct QuorumView {
    /// Role, term and leader.
    pub role: RoleChange,
    /// The last entry known to be committed.
    pub commit: u64,
    /// The last entry handed out.
    pub applied: u64,
    /// The first entry held.
    pub first: u64,
    /// The last entry held.
    pub last: u64,
    /// Who receives the log.
    pub membership: Membership,
    /// How far the others are; known to the leader only.
    pub peers: Vec<PeerView>,
}

/// How far another node is, as the leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// The node.
    pub node: NodeId,
    /// The last entry known to be on it.
    pub matched: u64,
    /// When it last answered, by the wall clock.
    pub last_contact_ms: Option<i64>,
    /// When it last had all of the log, by the wall clock.
    pub last_caught_up_ms: Option<i64>,
}
