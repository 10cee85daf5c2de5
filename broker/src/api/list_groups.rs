//! ListGroups: the groups that this broker coordinates.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, ListGroupsRequest, ListGroupsResponse};

use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::groups::caller;

/// The handler.
pub struct ListGroups;

impl Handler for ListGroups {
    type Request = ListGroupsRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: ListGroupsRequest) -> ListGroupsResponse {
        match broker
            .groups
            .list(&caller(&call), &request.states_filter, &request.types_filter)
            .await
        {
            Ok(groups) => ListGroupsResponse::default().with_groups(groups),
            Err(code) => {
                broker.metrics.refused(ApiKey::ListGroups, code);
                ListGroupsResponse::default().with_error_code(code.code())
            }
        }
    }
}
