//! Metadata: brokers and partitions, as clients of one listener see them.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse};
use odradek_common::error::ErrorCode;
use odradek_common::ids::NO_NODE;
use odradek_common::metadata::{MetadataImage, PartitionImage, TopicImage};
use odradek_common::topic_name::problem as topic_name_problem;
use uuid::Uuid;

use super::{Call, Handler};
use crate::authorized_operations::{NOT_ASKED, on_cluster, on_topic};
use crate::broker::Broker;
use crate::clock;
use crate::names::{is_internal, text, topic_name};
use crate::topic_creation::begin_auto_creation;

/// First version whose topics may be named by id.
const TOPIC_IDS_SINCE: i16 = 12;
/// First version that names replicas whose brokers are down.
const ALL_REPLICAS_SINCE: i16 = 1;
/// First version that knows LISTENER_NOT_FOUND.
const LISTENER_ERROR_SINCE: i16 = 6;

/// The handler.
pub struct Metadata;

impl Handler for Metadata {
    type Request = MetadataRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: MetadataRequest) -> MetadataResponse {
        let image = broker.image();
        // v0 knows no null: an empty list means every topic.
        let topics = request
            .topics
            .filter(|topics| call.api_version > 0 || !topics.is_empty());
        let may_create = request.allow_auto_topic_creation || call.api_version < 4;
        if let Some(topics) = &topics
            && may_create
        {
            begin_auto_creation(&broker, &missing(&image, topics));
        }
        let view = View {
            broker: &broker,
            image: &image,
            call: &call,
            topic_operations: on_topic(request.include_topic_authorized_operations),
        };
        let topics = match topics {
            None => image.topics.values().map(|topic| view.topic(topic)).collect(),
            Some(topics) => {
                let mut named = BTreeSet::new();
                let mut is_new = |topic: &&MetadataRequestTopic| {
                    named.insert((topic.topic_id, topic.name.as_ref().map(|name| name.0.clone())))
                };
                let topics = topics.iter().filter(|topic| is_new(topic));
                topics.map(|topic| view.requested(topic)).collect()
            }
        };
        MetadataResponse::default()
            .with_brokers(view.brokers())
            .with_cluster_id(Some(text(&image.cluster_id)))
            .with_controller_id(BrokerId(random_alive_broker(&image)))
            .with_topics(topics)
            .with_cluster_authorized_operations(on_cluster(request.include_cluster_authorized_operations))
    }
}

fn missing(image: &MetadataImage, topics: &[MetadataRequestTopic]) -> Vec<String> {
    let names = topics
        .iter()
        .filter(|topic| topic.topic_id.is_nil())
        .filter_map(|topic| topic.name.as_ref());
    names
        .map(|name| name.0.as_str())
        .filter(|name| image.topic(name).is_none())
        .map(str::to_owned)
        .collect()
}

/// KRaft shows clients any live broker as "the controller": each of them passes admin requests on.
#[must_use]
pub fn random_alive_broker(image: &MetadataImage) -> i32 {
    let alive: Vec<i32> = image
        .brokers
        .values()
        .filter(|b| !b.fenced)
        .map(|b| b.broker_id)
        .collect();
    if alive.is_empty() {
        NO_NODE
    } else {
        alive[rand::random_range(0..alive.len())]
    }
}

struct View<'a> {
    broker: &'a Broker,
    image: &'a MetadataImage,
    call: &'a Call,
    topic_operations: i32,
}

impl View<'_> {
    fn brokers(&self) -> Vec<MetadataResponseBroker> {
        let alive = self.image.brokers.values().filter(|broker| !broker.fenced);
        alive
            .filter_map(|broker| {
                let endpoint = broker.endpoint(&self.call.connection.listener)?;
                Some(
                    MetadataResponseBroker::default()
                        .with_node_id(BrokerId(broker.broker_id))
                        .with_host(text(&endpoint.host))
                        .with_port(i32::from(endpoint.port))
                        .with_rack(broker.rack.as_deref().map(text)),
                )
            })
            .collect()
    }

    fn requested(&self, requested: &MetadataRequestTopic) -> MetadataResponseTopic {
        if !requested.topic_id.is_nil() {
            return self.requested_by_id(requested);
        }
        let Some(name) = requested.name.as_ref().map(|name| name.0.as_str()) else {
            return refused(ErrorCode::InvalidRequest, Some(""), Uuid::nil());
        };
        if let Some(topic) = self.image.topic(name) {
            return self.topic(topic);
        }
        let code = match topic_name_problem(name) {
            Some(_) => ErrorCode::InvalidTopicException,
            None => ErrorCode::UnknownTopicOrPartition,
        };
        refused(code, Some(name), Uuid::nil())
    }

    fn requested_by_id(&self, requested: &MetadataRequestTopic) -> MetadataResponseTopic {
        if self.call.api_version < TOPIC_IDS_SINCE {
            let name = requested.name.as_ref().map_or("", |name| name.0.as_str());
            return refused(ErrorCode::InvalidRequest, Some(name), requested.topic_id);
        }
        match self.image.topic_by_id(&requested.topic_id) {
            Some(topic) => self.topic(topic),
            None => refused(ErrorCode::UnknownTopicId, None, requested.topic_id),
        }
    }

    fn topic(&self, topic: &TopicImage) -> MetadataResponseTopic {
        let partitions = (0..)
            .zip(&topic.partitions)
            .map(|(index, p)| self.partition(index, p));
        MetadataResponseTopic::default()
            .with_name(Some(topic_name(&topic.name)))
            .with_topic_id(topic.id)
            .with_is_internal(is_internal(&topic.name))
            .with_partitions(partitions.collect())
            .with_topic_authorized_operations(self.topic_operations)
    }

    fn partition(&self, index: i32, partition: &PartitionImage) -> MetadataResponsePartition {
        let (error, leader) = reachable_leader(self.image, partition, &self.call.connection.listener);
        let error = match error {
            Some(ErrorCode::ListenerNotFound) if self.call.api_version < LISTENER_ERROR_SINCE => {
                Some(ErrorCode::LeaderNotAvailable)
            }
            error => error,
        };
        let (error, leader) = if self.broker.lost_leaders.doubts(leader, clock::mono_ms()) {
            (Some(ErrorCode::LeaderNotAvailable), NO_NODE)
        } else {
            (error, leader)
        };
        let described = MetadataResponsePartition::default()
            .with_error_code(odradek_common::error::wire_code(error))
            .with_partition_index(index)
            .with_leader_id(BrokerId(leader))
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(ids(&partition.replicas))
            .with_isr_nodes(ids(&partition.isr))
            .with_offline_replicas(ids(&offline(self.image, partition)));
        if self.call.api_version < ALL_REPLICAS_SINCE {
            return self.without_unreachable(described);
        }
        described
    }

    /// What the clients of version 0 expect: replicas that they cannot reach are left out, and that some were is said.
    fn without_unreachable(&self, mut described: MetadataResponsePartition) -> MetadataResponsePartition {
        let all = described.replica_nodes.len() + described.isr_nodes.len();
        let reachable = |node: &BrokerId| {
            let broker = self.image.brokers.get(&node.0).filter(|broker| !broker.fenced);
            broker.is_some_and(|broker| broker.endpoint(&self.call.connection.listener).is_some())
        };
        described.replica_nodes.retain(reachable);
        described.isr_nodes.retain(reachable);
        let left = described.replica_nodes.len() + described.isr_nodes.len();
        if described.error_code == 0 && left < all {
            described.error_code = ErrorCode::ReplicaNotAvailable.code();
        }
        described
    }
}

/// The leader that clients of a listener can reach, or why there is none.
#[must_use]
pub fn reachable_leader(
    image: &MetadataImage,
    partition: &PartitionImage,
    listener: &str,
) -> (Option<ErrorCode>, i32) {
    match image.brokers.get(&partition.leader) {
        Some(broker) if !broker.fenced => match broker.endpoint(listener) {
            Some(_) => (None, partition.leader),
            None => (Some(ErrorCode::ListenerNotFound), NO_NODE),
        },
        _ => (Some(ErrorCode::LeaderNotAvailable), NO_NODE),
    }
}

/// Replicas on brokers that are fenced or gone, or in log directories that have failed.
#[must_use]
pub fn offline(image: &MetadataImage, partition: &PartitionImage) -> Vec<i32> {
    let works = |replica: i32| {
        let broker = image.brokers.get(&replica);
        image.is_alive(replica) && broker.is_some_and(|b| b.has_online(partition.directory_of(replica)))
    };
    let replicas = partition.replicas.iter().copied();
    replicas.filter(|replica| !works(*replica)).collect()
}

/// Node ids for a message.
#[must_use]
pub fn ids(nodes: &[i32]) -> Vec<BrokerId> {
    nodes.iter().copied().map(BrokerId).collect()
}

fn refused(code: ErrorCode, name: Option<&str>, topic_id: Uuid) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(code.code())
        .with_name(name.map(topic_name))
        .with_topic_id(topic_id)
        .with_is_internal(name.is_some_and(is_internal))
        .with_topic_authorized_operations(NOT_ASKED)
}
