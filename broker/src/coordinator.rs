//! Coordinators: one task per partition of their internal topic that this broker leads.
//!
//! What a coordinator decides is in a state machine of `odradek-broker-core` ([`groups`], [`transactions`]). Everything around it is
//! here once for both: [`hosting`] starts and ends tasks as leadership moves and brings requests to them, [`load`] reads the
//! log, [`shard`] is the task, [`write`] packs records into batches. Nothing here waits for a lock across an await.

pub mod groups;
mod hosting;
pub mod load;
mod shard;
pub mod transactions;
mod write;

use kafka_protocol::messages::ApiKey;
use odradek_broker_core::coordination::partition_for;
use odradek_common::error::ErrorCode;
use odradek_common::ids::NodeId;
use odradek_common::metadata::MetadataImage;

use crate::broker::Broker;

/// Counts an error of a response, if it is one.
pub fn count_refusal(broker: &Broker, api: ApiKey, error_code: i16) {
    if let Some(code) = ErrorCode::try_from_code(error_code) {
        broker.metrics.refused(api, code);
    }
}

/// Who leads the partition of an internal topic that holds a key, which may be nobody; None while the topic does not exist.
#[must_use]
pub fn leader_of(image: &MetadataImage, topic: &str, key: &str) -> Option<NodeId> {
    let partitions = i32::try_from(image.topic(topic)?.partitions.len()).ok()?;
    if partitions == 0 {
        return None;
    }
    let partition = image.partition(topic, partition_for(key, partitions))?;
    Some(partition.leader)
}
