//! What travels between nodes and producers.

use bytes::Bytes;
use kafka_protocol::messages::{
    AlterPartitionRequest, AlterPartitionResponse, BrokerHeartbeatRequest, BrokerHeartbeatResponse,
    BrokerRegistrationRequest, BrokerRegistrationResponse, CreateTopicsRequest, ElectLeadersRequest,
};
use odradek_common::error::ErrorCode;
use odradek_common::ids::NodeId;
use uuid::Uuid;

use crate::log::{Batch, ProducerBatch};

/// A partition by its topic's id.
pub type Key = (Uuid, i32);

/// A process: a node and which of its lives this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The node, or a producer.
    pub node: NodeId,
    /// Counts the starts of the node.
    pub process: u64,
}

/// Which connection between two processes a message takes; within one, order is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// To the active controller.
    Controller,
    /// A follower's fetches.
    Fetch,
    /// A producer's requests.
    Produce,
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
pub struct ReturnAddress {
    /// Who asked.
    pub to: Address,
    /// The request's number.
    pub id: u64,
    /// The connection it came over.
    pub channel: Channel,
}

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Message {
    /// The sender.
    pub from: Address,
    /// The receiver; process 0 is whichever runs.
    pub to: Address,
    /// What it says.
    pub payload: Payload,
}

/// What a message says.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Between quorums; `snapshot` must be reported on.
    Raft { bytes: Bytes, snapshot: bool },
    /// To the active controller.
    Call { id: u64, request: ControllerRequest },
    /// Its answer, or who it thinks leads.
    Answer {
        id: u64,
        result: Result<ControllerResponse, Option<NodeId>>,
    },
    /// A follower asks.
    Fetch { id: u64, request: FetchRequest },
    /// A leader answers.
    Fetched { id: u64, answers: Vec<(Key, Fetched)> },
    /// A producer appends with acks=all.
    Produce { id: u64, key: Key, batch: ProducerBatch },
    /// The base offset, or why not.
    Produced { id: u64, result: Result<i64, ErrorCode> },
}

impl Payload {
    /// Kind and size, for the trace.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        match self {
            Self::Raft { bytes, .. } => (
                1,
                bytes
                    .iter()
                    .fold(0, |sum, b| sum * 31 % 0xffff_fffb + u64::from(*b)),
            ),
            Self::Call { id, .. } => (2, *id),
            Self::Answer { id, .. } => (3, *id),
            Self::Fetch { id, .. } => (4, *id),
            Self::Fetched { id, .. } => (5, *id),
            Self::Produce { id, .. } => (6, *id),
            Self::Produced { id, .. } => (7, *id),
        }
    }
}

/// What the active controller is asked.
#[derive(Clone, Debug)]
pub enum ControllerRequest {
    /// BrokerRegistration.
    Register(Box<BrokerRegistrationRequest>),
    /// BrokerHeartbeat.
    Heartbeat(BrokerHeartbeatRequest),
    /// AlterPartition.
    AlterPartition(AlterPartitionRequest),
    /// CreateTopics.
    CreateTopics(CreateTopicsRequest),
    /// ElectLeaders.
    ElectLeaders(ElectLeadersRequest),
}

/// What it answers.
#[derive(Clone, Debug)]
pub enum ControllerResponse {
    /// BrokerRegistration.
    Register(BrokerRegistrationResponse),
    /// BrokerHeartbeat.
    Heartbeat(BrokerHeartbeatResponse),
    /// AlterPartition.
    AlterPartition(AlterPartitionResponse),
    /// Whatever nobody waits for.
    Done,
}

/// A follower's fetch.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// Who fetches.
    pub replica: NodeId,
    /// Its registration.
    pub broker_epoch: i64,
    /// From where.
    pub partitions: Vec<(Key, Position)>,
}

/// Where a follower's log ends.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// Epoch of the leader as the follower knows it.
    pub leader_epoch: i32,
    /// Its log end offset.
    pub fetch_offset: i64,
    /// Epoch of its last record; -1 if it has none.
    pub last_epoch: i32,
}

/// A leader's answer for one partition.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// The offsets stand for the ListOffsets that follows OFFSET_OUT_OF_RANGE.
    Refused {
        code: ErrorCode,
        log_start: i64,
        log_end: i64,
    },
    /// The logs part where that epoch ends.
    Diverging { epoch: i32, end_offset: i64 },
    /// Records, maybe none.
    Records {
        batches: Vec<Batch>,
        high_watermark: i64,
    },
}
