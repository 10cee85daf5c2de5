//! LeaveGroup: members leave, or an administrator removes them.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, LeaveGroupRequest, LeaveGroupResponse};
use odradek_broker_core::groups::{GroupRequest, GroupResponse};

use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::count_refusal;
use crate::coordinator::groups::caller;

/// The handler.
pub struct LeaveGroup;

impl Handler for LeaveGroup {
    type Request = LeaveGroupRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: LeaveGroupRequest) -> LeaveGroupResponse {
        let answer = broker
            .groups
            .call(caller(&call), GroupRequest::LeaveGroup(request))
            .await;
        let GroupResponse::LeaveGroup(response) = answer else {
            unreachable!("LeaveGroup is answered in kind, not by {answer:?}")
        };
        count_refusal(&broker, ApiKey::LeaveGroup, response.error_code);
        for member in &response.members {
            count_refusal(&broker, ApiKey::LeaveGroup, member.error_code);
        }
        response
    }
}
