//! DescribeTopicPartitions: Metadata in pages, with eligible leader replicas (KIP-966).

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition as Partition,
    DescribeTopicPartitionsResponseTopic as Topic,
};
use kafka_protocol::messages::{BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use odradek_common::error::{ErrorCode, wire_code};
use odradek_common::metadata::{MetadataImage, PartitionImage, TopicImage};
use odradek_common::topic_name::problem as topic_name_problem;

use super::metadata::{ids, offline, reachable_leader};
use super::{Call, Handler};
use crate::authorized_operations::on_topic;
use crate::broker::Broker;
use crate::names::{is_internal, topic_name};

/// The handler.
pub struct DescribeTopicPartitions;

impl Handler for DescribeTopicPartitions {
    type Request = DescribeTopicPartitionsRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: DescribeTopicPartitionsRequest,
    ) -> DescribeTopicPartitionsResponse {
        let image = broker.image();
        let names: BTreeSet<&str> = if request.topics.is_empty() {
            image.topics.keys().map(|name| &**name).collect()
        } else {
            request.topics.iter().map(|topic| topic.name.0.as_str()).collect()
        };
        let cursor = request
            .cursor
            .as_ref()
            .map(|cursor| (cursor.topic_name.0.as_str(), cursor.partition_index));
        let partitions_max = broker.config.load().socket.request_partitions_max;
        let limit = usize::try_from(request.response_partition_limit)
            .unwrap_or(0)
            .min(usize::try_from(partitions_max).unwrap_or(usize::MAX))
            .max(1);
        let mut page = Page {
            image: &image,
            listener: &call.connection.listener,
            left: limit,
            topics: Vec::new(),
        };
        let mut next = None;
        for name in names {
            let first = match cursor {
                Some((at, _)) if name < at => continue,
                Some((at, partition)) if name == at => partition.max(0),
                _ => 0,
            };
            if let Some(partition) = page.add(name, first) {
                let cursor = Cursor::default()
                    .with_topic_name(topic_name(name))
                    .with_partition_index(partition);
                next = Some(cursor);
                break;
            }
        }
        DescribeTopicPartitionsResponse::default()
            .with_topics(page.topics)
            .with_next_cursor(next)
    }
}

struct Page<'a> {
    image: &'a MetadataImage,
    listener: &'a str,
    left: usize,
    topics: Vec<Topic>,
}

impl Page<'_> {
    /// Adds a topic from partition `first` on; the first partition that found no place, if any.
    fn add(&mut self, name: &str, first: i32) -> Option<i32> {
        let Some(topic) = self.image.topic(name) else {
            let code = match topic_name_problem(name) {
                Some(_) => ErrorCode::InvalidTopicException,
                None => ErrorCode::UnknownTopicOrPartition,
            };
            let unknown = described(name).with_is_internal(is_internal(name));
            self.topics.push(unknown.with_error_code(code.code()));
            return None;
        };
        if self.left == 0 {
            return Some(first);
        }
        let rest = topic.partitions.iter().skip(usize::try_from(first).unwrap_or(0));
        let partitions: Vec<_> = (first..)
            .zip(rest)
            .take(self.left)
            .map(|(index, p)| self.partition(index, p))
            .collect();
        self.left -= partitions.len();
        let next = first + i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        let complete = usize::try_from(next).is_ok_and(|next| next >= topic.partitions.len());
        self.topics.push(self.topic(topic).with_partitions(partitions));
        (!complete).then_some(next)
    }

    fn topic(&self, topic: &TopicImage) -> Topic {
        described(&topic.name)
            .with_topic_id(topic.id)
            .with_is_internal(is_internal(&topic.name))
            // This API has no flag to ask with: the operations are always there.
            .with_topic_authorized_operations(on_topic(true))
    }

    fn partition(&self, index: i32, partition: &PartitionImage) -> Partition {
        let (error, leader) = reachable_leader(self.image, partition, self.listener);
        Partition::default()
            .with_error_code(wire_code(error))
            .with_partition_index(index)
            .with_leader_id(BrokerId(leader))
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(ids(&partition.replicas))
            .with_isr_nodes(ids(&partition.isr))
            .with_eligible_leader_replicas(Some(ids(&partition.elr)))
            .with_last_known_elr(Some(ids(&partition.last_known_elr)))
            .with_offline_replicas(ids(&offline(self.image, partition)))
    }
}

fn described(name: &str) -> Topic {
    Topic::default()
        .with_name(Some(topic_name(name)))
        .with_topic_authorized_operations(i32::MIN)
}
