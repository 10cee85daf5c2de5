//! JoinGroup: a member joins its group and waits for the others.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, JoinGroupRequest, JoinGroupResponse};
use odradek_broker_core::groups::{GroupRequest, GroupResponse};

use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::count_refusal;
use crate::coordinator::groups::caller;

/// The handler.
pub struct JoinGroup;

impl Handler for JoinGroup {
    type Request = JoinGroupRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: JoinGroupRequest) -> JoinGroupResponse {
        let answer = broker
            .groups
            .call(caller(&call), GroupRequest::JoinGroup(request))
            .await;
        let GroupResponse::JoinGroup(response) = answer else {
            unreachable!("JoinGroup is answered in kind, not by {answer:?}")
        };
        count_refusal(&broker, ApiKey::JoinGroup, response.error_code);
        response
    }
}
