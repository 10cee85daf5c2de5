//! Heartbeat: a member shows that it lives, and learns whether it must join again.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, HeartbeatRequest, HeartbeatResponse};
use odradek_broker_core::groups::{GroupRequest, GroupResponse};

use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::count_refusal;
use crate::coordinator::groups::caller;

/// The handler.
pub struct Heartbeat;

impl Handler for Heartbeat {
    type Request = HeartbeatRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: HeartbeatRequest) -> HeartbeatResponse {
        let answer = broker
            .groups
            .call(caller(&call), GroupRequest::Heartbeat(request))
            .await;
        let GroupResponse::Heartbeat(response) = answer else {
            unreachable!("Heartbeat is answered in kind, not by {answer:?}")
        };
        count_refusal(&broker, ApiKey::Heartbeat, response.error_code);
        response
    }
}
