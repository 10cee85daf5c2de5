//! ConsumerGroupHeartbeat: refused, as by a Kafka whose `group.version` is 0. It is advertised all the same, because librdkafka
//! waits in silence for a coordinator that does not list it.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use odradek_common::error::ErrorCode;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::text;

/// The handler.
pub struct ConsumerGroupHeartbeat;

impl Handler for ConsumerGroupHeartbeat {
    type Request = ConsumerGroupHeartbeatRequest;

    async fn handle(
        broker: Arc<Broker>,
        _call: Call,
        _request: ConsumerGroupHeartbeatRequest,
    ) -> ConsumerGroupHeartbeatResponse {
        let code = ErrorCode::UnsupportedVersion;
        broker.metrics.refused(ApiKey::ConsumerGroupHeartbeat, code);
        let message = "this version has classic groups only: set group.protocol=classic";
        ConsumerGroupHeartbeatResponse::default()
            .with_error_code(code.code())
            .with_error_message(Some(text(message)))
    }
}
