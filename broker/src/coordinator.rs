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
use odradek_common::error::ErrorCode;

use crate::broker::Broker;

/// Counts an error of a response, if it is one.
pub fn count_refusal(broker: &Broker, api: ApiKey, error_code: i16) {
    if let Some(code) = ErrorCode::try_from_code(error_code) {
        broker.metrics.refused(api, code);
    }
}
