//! Names of things: nodes, partitions.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// A node's number (`node.id`); brokers and controllers share one number space.
pub type NodeId = i32;

/// "No node": what the protocol sends where a leader or coordinator is unknown.
pub const NO_NODE: NodeId = -1;

/// The log directory of a replica whose log works in no directory (KIP-858).
pub const LOST_DIRECTORY: Uuid = Uuid::from_u128(2);

/// A partition by its topic's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's index, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// The partition of that index in that topic.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}
