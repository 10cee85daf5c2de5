//! DescribeQuorum: who leads, how far everybody is, and where the controllers are.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{DescribeQuorumRequest, DescribeQuorumResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::ids::{NO_NODE, NodeId};
use odradek_common::metadata::MetadataImage;
use uuid::Uuid;

use super::{Prepared, decode, encode};
use crate::handle::{ControllerCall, DispatchError, Shared, wall_ms};
use crate::status::QuorumStatus;

/// The topic that stands for the metadata log.
const METADATA_TOPIC: &str = "__cluster_metadata";

pub(super) fn prepare(
    shared: &Arc<Shared>,
    call: &ControllerCall,
    body: Bytes,
) -> Result<Prepared, DispatchError> {
    let request: DescribeQuorumRequest = decode(call, body)?;
    let leadership = shared.leadership();
    if !leadership.active {
        return Err(DispatchError::NotController {
            leader: leadership.leader,
        });
    }
    let mut status = QuorumStatus::clone(&shared.status.lock());
    status.observers = shared.observers.lock().clone();
    // Entries without records reach no observer: whoever has the last records has everything.
    for observer in status.observers.values_mut() {
        if shared.log.is_everything(observer.offset) {
            observer.offset = i64::try_from(status.commit).unwrap_or(i64::MAX);
        }
    }
    let image = shared.log.image();
    let response = respond(call.api_version, &request, &status, &image, wall_ms());
    encode(call.api_key, call.api_version, &response).map(Prepared::Answer)
}

fn respond(
    version: i16,
    request: &DescribeQuorumRequest,
    status: &QuorumStatus,
    image: &MetadataImage,
    now_ms: i64,
) -> DescribeQuorumResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let index = partition.partition_index;
            if topic.topic_name.as_str() == METADATA_TOPIC && index == 0 {
                describe(version, status, image, now_ms)
            } else {
                PartitionData::default()
                    .with_partition_index(index)
                    .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
            }
        });
        let name = TopicName(StrBytes::from_string(topic.topic_name.to_string()));
        TopicData::default()
            .with_topic_name(name)
            .with_partitions(partitions.collect())
    });
    let response = DescribeQuorumResponse::default().with_topics(topics.collect());
    if version < 2 {
        return response;
    }
    let nodes = image.controllers.values().map(|controller| {
        let listeners = controller.endpoints.iter().map(|endpoint| {
            Listener::default()
                .with_name(StrBytes::from_string(endpoint.listener.to_string()))
                .with_host(StrBytes::from_string(endpoint.host.to_string()))
                .with_port(endpoint.port)
        });
        Node::default()
            .with_node_id(controller.node_id.into())
            .with_listeners(listeners.collect())
    });
    response.with_nodes(nodes.collect())
}

fn describe(version: i16, status: &QuorumStatus, image: &MetadataImage, now_ms: i64) -> PartitionData {
    let replica = |node: NodeId| {
        if node == status.node_id {
            // As in Kafka, the leader counts as having fetched from itself just now.
            let end = end_offset(status.log_end);
            return replica_state(version, image, node, end, Some(now_ms), Some(now_ms));
        }
        let peer = status.peers.iter().find(|peer| peer.node == node);
        let end = peer
            .filter(|peer| peer.last_contact_ms.is_some())
            .map_or(-1, |peer| end_offset(peer.matched));
        let last_fetch = peer.and_then(|peer| peer.last_contact_ms);
        replica_state(
            version,
            image,
            node,
            end,
            last_fetch,
            peer.and_then(|peer| peer.last_caught_up_ms),
        )
    };
    let members = &status.membership;
    let voters = members.voters.iter().map(|node| replica(*node)).collect();
    let learners = members.learners.iter().map(|node| replica(*node));
    let in_quorum = |node: &NodeId| members.voters.contains(node) || members.learners.contains(node);
    let observers = status
        .observers
        .iter()
        .filter(|(node, _)| !in_quorum(node))
        .map(|(node, observer)| {
            let (fetch, caught_up) = (Some(observer.last_fetch_ms), Some(observer.last_caught_up_ms));
            let state = replica_state(version, image, *node, observer.offset + 1, fetch, caught_up);
            match version >= 2 && !observer.directory_id.is_nil() {
                true => state.with_replica_directory_id(observer.directory_id),
                false => state,
            }
        });
    PartitionData::default()
        .with_partition_index(0)
        .with_leader_id(status.leader.unwrap_or(NO_NODE).into())
        .with_leader_epoch(i32::try_from(status.term).unwrap_or(i32::MAX))
        .with_high_watermark(end_offset(status.commit))
        .with_current_voters(voters)
        .with_observers(learners.chain(observers).collect())
}

/// Offsets end after the last entry, indexes with it.
fn end_offset(index: u64) -> i64 {
    i64::try_from(index + 1).unwrap_or(i64::MAX)
}

fn replica_state(
    version: i16,
    image: &MetadataImage,
    node: NodeId,
    log_end_offset: i64,
    last_fetch_ms: Option<i64>,
    last_caught_up_ms: Option<i64>,
) -> ReplicaState {
    let mut state = ReplicaState::default()
        .with_replica_id(node.into())
        .with_log_end_offset(log_end_offset);
    if version >= 1 {
        state = state
            .with_last_fetch_timestamp(last_fetch_ms.unwrap_or(-1))
            .with_last_caught_up_timestamp(last_caught_up_ms.unwrap_or(-1));
    }
    if version >= 2 {
        let directory = image
            .controllers
            .get(&node)
            .map_or(Uuid::nil(), |controller| controller.directory_id);
        state = state.with_replica_directory_id(directory);
    }
    state
}
