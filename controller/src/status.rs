//! The quorum as one of its nodes reports it.

use std::collections::BTreeMap;

use odradek_common::ids::NodeId;
use odradek_controller_core::quorum::{Membership, PeerView, Role};
use uuid::Uuid;

/// A node's view of the quorum, renewed after every turn of its loop.
#[derive(Clone, Debug)]
pub struct QuorumStatus {
    /// This node.
    pub node_id: NodeId,
    /// Its role.
    pub role: Role,
    /// The raft term.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// Whether this node is the active controller: it leads and has all that was committed.
    pub active: bool,
    /// Index of the last entry known to be committed.
    pub commit: u64,
    /// Index of the last entry applied.
    pub applied: u64,
    /// Index of the last entry in the log.
    pub log_end: u64,
    /// Voters and learners.
    pub membership: Membership,
    /// How far the others are; known to the leader only.
    pub peers: Vec<PeerView>,
    /// Nodes that read metadata without being in the quorum.
    pub observers: BTreeMap<NodeId, Observer>,
}

/// A node that reads metadata from this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observer {
    /// Its metadata directory; nil if it did not say.
    pub directory_id: Uuid,
    /// The last offset that it has.
    pub offset: i64,
    /// When it last asked, by the wall clock.
    pub last_fetch_ms: i64,
    /// When it last had everything, by the wall clock.
    pub last_caught_up_ms: i64,
}

/// Who leads, for those who wait for a change of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// The raft term.
    pub term: u64,
    /// Whether this node is the active controller.
    pub active: bool,
}
