//! SyncGroup: the leader hands its assignment in, and every member receives its part.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, SyncGroupRequest, SyncGroupResponse};
use odradek_broker_core::groups::{GroupRequest, GroupResponse};
use odradek_common::error::ErrorCode;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::count_refusal;
use crate::coordinator::groups::caller;

/// First version that must name protocol type and protocol (KIP-559).
const PROTOCOL_SINCE: i16 = 5;

/// The handler.
pub struct SyncGroup;

impl Handler for SyncGroup {
    type Request = SyncGroupRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: SyncGroupRequest) -> SyncGroupResponse {
        let names_protocol = request.protocol_type.is_some() && request.protocol_name.is_some();
        if call.api_version >= PROTOCOL_SINCE && !names_protocol {
            broker
                .metrics
                .refused(ApiKey::SyncGroup, ErrorCode::InconsistentGroupProtocol);
            return SyncGroupResponse::default().with_error_code(ErrorCode::InconsistentGroupProtocol.code());
        }
        let answer = broker
            .groups
            .call(caller(&call), GroupRequest::SyncGroup(request))
            .await;
        let GroupResponse::SyncGroup(response) = answer else {
            unreachable!("SyncGroup is answered in kind, not by {answer:?}")
        };
        count_refusal(&broker, ApiKey::SyncGroup, response.error_code);
        response
    }
}
