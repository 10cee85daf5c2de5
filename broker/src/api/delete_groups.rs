//! DeleteGroups: groups without members, and their offsets, each deleted by its own coordinator.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{ApiKey, DeleteGroupsRequest, DeleteGroupsResponse, GroupId};
use odradek_broker_core::groups::{GroupRequest, GroupResponse};

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
    // For backwards compatibility Kafka deletes the group with the empty id, which commits may have made.
    let request = GroupRequest::DeleteGroup(group_id);
    let answer = broker.groups.call(caller(call), request).await;
    let GroupResponse::DeleteGroup(result) = answer else {
        unreachable!("DeleteGroups is answered in kind, not by {answer:?}")
    };
    count_refusal(broker, ApiKey::DeleteGroups, result.error_code);
    result
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use kafka_protocol::messages::DescribeGroupsRequest;
    use kafka_protocol::messages::offset_commit_request::{
        OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    };
    use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
    use odradek_broker_core::groups::Caller;
    use odradek_common::error::ErrorCode;
    use odradek_common::metadata::SecurityProtocol;
    use odradek_net::service::ConnectionInfo;

    use super::*;
    use crate::api::describe_groups::DescribeGroups;
    use crate::coordinator::groups::GroupCoordinators;
    use crate::fixtures::LoneBroker;
    use crate::names::{OFFSETS_TOPIC, topic_name};

    fn call(api_key: ApiKey, api_version: i16) -> Call {
        let connection = ConnectionInfo::new(
            1,
            (Ipv4Addr::LOCALHOST, 1).into(),
            "PLAINTEXT".into(),
            SecurityProtocol::Plaintext,
        );
        Call {
            connection: Arc::new(connection),
            api_key,
            api_version,
            correlation_id: 1,
            client_id: None,
        }
    }

    async fn commit(broker: &Broker) -> OffsetCommitResponse {
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(7);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let request = GroupRequest::OffsetCommit(request);
        match broker.groups.call(Caller::default(), request).await {
            GroupResponse::OffsetCommit(response) => response,
            other => panic!("{other:?}"),
        }
    }

    /// The empty id is that of clients from before there were groups, which commit all the same.
    #[tokio::test]
    async fn the_group_with_the_empty_id_is_described_and_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        let (delta, events) = lone.create(OFFSETS_TOPIC, LoneBroker::NODE);
        lone.broker.image.store(Arc::new(lone.image.clone()));
        GroupCoordinators::publish(&lone.broker, &delta, &events);
        while commit(&lone.broker).await.topics[0].partitions[0].error_code != 0 {
            tokio::task::yield_now().await;
        }
        let nameless = vec![GroupId::default()];
        let describe = DescribeGroupsRequest::default().with_groups(nameless.clone());
        let describe_call = call(ApiKey::DescribeGroups, 5);
        let described = DescribeGroups::handle(lone.broker.clone(), describe_call, describe).await;
        let described = &described.groups[0];
        assert_eq!(
            (described.error_code, described.group_state.as_str()),
            (0, "Empty")
        );
        let delete = DeleteGroupsRequest::default().with_groups_names(nameless);
        let mut codes = Vec::new();
        for _ in 0..2 {
            let delete_call = call(ApiKey::DeleteGroups, 2);
            let deleted = DeleteGroups::handle(lone.broker.clone(), delete_call, delete.clone()).await;
            codes.push(deleted.results[0].error_code);
        }
        assert_eq!(codes, [0, ErrorCode::GroupIdNotFound.code()]);
    }
}
