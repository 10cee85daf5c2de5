//! OffsetFetch: how far groups have read; one group up to version 7, many from 8 on.

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{ApiKey, OffsetFetchRequest, OffsetFetchResponse};
use odradek_broker_core::groups::responses::offset_fetch_of_one_group;
use odradek_broker_core::groups::{GroupRequest, GroupResponse};

use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::count_refusal;
use crate::coordinator::groups::{GROUPS_AT_ONCE, caller};

/// First version that asks for several groups at once (KIP-709).
const GROUPS_SINCE: i16 = 8;

/// The handler.
pub struct OffsetFetch;

impl Handler for OffsetFetch {
    type Request = OffsetFetchRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: OffsetFetchRequest) -> OffsetFetchResponse {
        let require_stable = request.require_stable;
        if call.api_version < GROUPS_SINCE {
            let group = fetch(&broker, &call, one_group(&request), require_stable).await;
            return offset_fetch_of_one_group(group, request.topics.as_deref(), call.api_version);
        }
        let groups = request
            .groups
            .into_iter()
            .map(|group| fetch(&broker, &call, group, require_stable));
        let groups = stream::iter(groups).buffered(GROUPS_AT_ONCE).collect().await;
        OffsetFetchResponse::default().with_groups(groups)
    }
}

async fn fetch(
    broker: &Broker,
    call: &Call,
    group: OffsetFetchRequestGroup,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    let answer = broker
        .groups
        .call(
            caller(call),
            GroupRequest::OffsetFetch {
                group,
                require_stable,
            },
        )
        .await;
    let GroupResponse::OffsetFetch(group) = answer else {
        unreachable!("OffsetFetch is answered in kind, not by {answer:?}")
    };
    count_refusal(broker, ApiKey::OffsetFetch, group.error_code);
    group
}

/// The only group of versions 1 to 7, in the form of the later ones.
fn one_group(request: &OffsetFetchRequest) -> OffsetFetchRequestGroup {
    let topics = |topics: &Vec<OffsetFetchRequestTopic>| {
        let topics = topics.iter().map(|topic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name.clone())
                .with_partition_indexes(topic.partition_indexes.clone())
        });
        topics.collect()
    };
    OffsetFetchRequestGroup::default()
        .with_group_id(request.group_id.clone())
        .with_topics(request.topics.as_ref().map(topics))
}
