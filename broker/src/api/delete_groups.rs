//! DeleteGroups: groups without members, and their offsets, each deleted by its own coordinator.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{ApiKey, DeleteGroupsRequest, DeleteGroupsResponse, GroupId};
use odradek_broker_core::groups::{GroupRequest, GroupResponse};
use odradek_common::error::ErrorCode;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::count_refusal;
use crate::coordinator::groups::{GROUPS_AT_ONCE, caller};

/// The handler.
pub struct DeleteGroups;

impl Handler for DeleteGroups {
    type Request = DeleteGroupsRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
        let mut seen = BTreeSet::new();
        let mut names = request.groups_names;
        // A group named twice is deleted and answered once.
        names.retain(|group_id| seen.insert(group_id.0.clone()));
        let results = names.into_iter().map(|group_id| delete(&broker, &call, group_id));
        let results = stream::iter(results).buffered(GROUPS_AT_ONCE).collect().await;
        DeleteGroupsResponse::default().with_results(results)
    }
}

async fn delete(broker: &Broker, call: &Call, group_id: GroupId) -> DeletableGroupResult {
    let request = GroupRequest::DeleteGroup(group_id);
    let answer = if request.group_id().is_some_and(|group_id| group_id.is_empty()) {
        request.refuse(ErrorCode::InvalidGroupId)
    } else {
        broker.groups.call(caller(call), request).await
    };
    let GroupResponse::DeleteGroup(result) = answer else {
        unreachable!("DeleteGroups is answered in kind, not by {answer:?}")
    };
    count_refusal(broker, ApiKey::DeleteGroups, result.error_code);
    result
}
