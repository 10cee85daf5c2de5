//! DescribeGroups: state, members and assignments of groups, each answered by its own coordinator.

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::{ApiKey, DescribeGroupsRequest, DescribeGroupsResponse, GroupId};
use odradek_broker_core::groups::{GroupRequest, GroupResponse};

use super::{Call, Handler};
use crate::authorized_operations::on_group;
use crate::broker::Broker;
use crate::coordinator::count_refusal;
use crate::coordinator::groups::{GROUPS_AT_ONCE, caller};

/// The handler.
pub struct DescribeGroups;

impl Handler for DescribeGroups {
    type Request = DescribeGroupsRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: DescribeGroupsRequest,
    ) -> DescribeGroupsResponse {
        let operations = on_group(request.include_authorized_operations);
        let groups = request
            .groups
            .into_iter()
            .map(|group_id| describe(&broker, &call, operations, group_id));
        let groups = stream::iter(groups).buffered(GROUPS_AT_ONCE).collect().await;
        DescribeGroupsResponse::default().with_groups(groups)
    }
}

async fn describe(broker: &Broker, call: &Call, operations: i32, group_id: GroupId) -> DescribedGroup {
    // For backwards compatibility Kafka describes the group with the empty id, which commits may have made.
    let request = GroupRequest::DescribeGroup(group_id);
    let answer = broker.groups.call(caller(call), request).await;
    let GroupResponse::DescribeGroup(group) = answer else {
        unreachable!("DescribeGroups is answered in kind, not by {answer:?}")
    };
    count_refusal(broker, ApiKey::DescribeGroups, group.error_code);
    group.with_authorized_operations(operations)
}
