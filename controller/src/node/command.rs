//! What the node's thread is told.

use bytes::Bytes;
use odradek_common::ids::NodeId;
use odradek_common::metadata::{Endpoint, MetadataImage, MetadataRecord};
use odradek_common::time::Now;
use odradek_controller_core::controller::Controller;
use odradek_controller_core::quorum::QuorumInput;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::handle::DispatchError;

/// One thing for the node's thread to do.
pub(crate) enum Command {
    /// Raft messages from a peer, in order.
    Raft { from: NodeId, messages: Vec<Bytes> },
    /// What became of messages to a peer.
    Report(QuorumInput),
    /// A request for the active controller.
    Call(QueuedCall),
    /// A broker may be dead: dial it.
    Suspect(NodeId),
    /// The outcome of dialling a broker; `refused` is proof that nobody listens there.
    Probed {
        broker: NodeId,
        broker_epoch: i64,
        refused: bool,
    },
    /// Hand over and stop.
    Shutdown(oneshot::Sender<()>),
}

/// Where an answer goes.
pub(crate) type Reply = oneshot::Sender<Result<Bytes, DispatchError>>;

/// A request and where its answer goes.
pub(crate) struct QueuedCall {
    pub(crate) job: Job,
    pub(crate) reply: Reply,
}

/// What a request asks of the active controller.
pub(crate) enum Job {
    /// Records, and an answer when they are committed.
    Decide(Decide),
    /// A change of the voters, and an answer when it is in force.
    Voters(VoterJob),
}

/// A decision to be made: records and the encoded answer.
pub(crate) type Decide =
    Box<dyn FnOnce(&mut Deciding<'_>) -> Result<(Vec<MetadataRecord>, Bytes), DispatchError> + Send>;

/// What a decision is made on.
pub(crate) struct Deciding<'a> {
    pub(crate) controller: &'a mut Controller,
    pub(crate) image: &'a MetadataImage,
    pub(crate) now: Now,
    /// The offset that the records will have.
    pub(crate) next_offset: i64,
}

/// A change of the voters.
pub(crate) struct VoterJob {
    pub(crate) change: VoterJobKind,
    /// The answer once it is in force.
    pub(crate) done: Bytes,
    /// Makes the answer for a refusal.
    pub(crate) refused: Box<dyn Fn(&odradek_common::error::ApiError) -> Bytes + Send>,
}

/// Which change.
pub(crate) enum VoterJobKind {
    /// Let the node in: as a learner, and as a voter once it has the log.
    Add {
        node_id: NodeId,
        directory_id: Uuid,
        endpoints: Vec<Endpoint>,
    },
    /// Take the node out.
    Remove { node_id: NodeId, directory_id: Uuid },
}
