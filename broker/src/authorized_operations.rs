//! What a caller may do with a resource, as the bit field that descriptions carry.
//!
//! This version has no authorizer, and then, as in Kafka, everybody may do all that a kind of resource knows.

/// Not asked for.
pub const NOT_ASKED: i32 = i32::MIN;

// Numbers of operations (KIP-133), which are the bits' positions.
const READ: i32 = 1 << 3;
const WRITE: i32 = 1 << 4;
const CREATE: i32 = 1 << 5;
const DELETE: i32 = 1 << 6;
const ALTER: i32 = 1 << 7;
const DESCRIBE: i32 = 1 << 8;
const CLUSTER_ACTION: i32 = 1 << 9;
const DESCRIBE_CONFIGS: i32 = 1 << 10;
const ALTER_CONFIGS: i32 = 1 << 11;
const IDEMPOTENT_WRITE: i32 = 1 << 12;

/// All that can be done with the cluster.
const CLUSTER: i32 =
    CREATE | ALTER | DESCRIBE | CLUSTER_ACTION | DESCRIBE_CONFIGS | ALTER_CONFIGS | IDEMPOTENT_WRITE;
/// All that can be done with a topic.
const TOPIC: i32 = READ | WRITE | CREATE | DELETE | ALTER | DESCRIBE | DESCRIBE_CONFIGS | ALTER_CONFIGS;
/// All that can be done with a group.
const GROUP: i32 = READ | DELETE | DESCRIBE | DESCRIBE_CONFIGS | ALTER_CONFIGS;

/// The operations on the cluster, for those who asked.
#[must_use]
pub fn on_cluster(asked: bool) -> i32 {
    if asked { CLUSTER } else { NOT_ASKED }
}

/// The operations on a topic, for those who asked.
#[must_use]
pub fn on_topic(asked: bool) -> i32 {
    if asked { TOPIC } else { NOT_ASKED }
}

/// The operations on a group, for those who asked.
#[must_use]
pub fn on_group(asked: bool) -> i32 {
    if asked { GROUP } else { NOT_ASKED }
}
