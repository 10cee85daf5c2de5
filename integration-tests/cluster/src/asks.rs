//! The requests that most tests need, in few words.
//!
//! Names are used rather than topic ids, in the highest version that has names: Produce 12, Fetch 12, OffsetCommit 9 and OffsetFetch 9.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, FetchRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, MetadataResponse, ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;

use crate::connection::Connection;
use crate::records;
use crate::wait::{eventually, holds};

/// The highest version of Produce that names topics and has no implicit transactions.
pub const PRODUCE_BY_NAME: i16 = 11;
/// The highest version of Fetch that names topics.
pub const FETCH_BY_NAME: i16 = 12;
/// What a fetch may bring at most.
const FETCH_BYTES_MAX: i32 = 50 << 20;
/// Until a change of the metadata is seen.
const METADATA_LIMIT: Duration = Duration::from_secs(15);

/// Text of the protocol.
#[must_use]
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A topic's name in the protocol.
#[must_use]
pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// The number of an error.
#[must_use]
pub fn code(error: ErrorCode) -> i16 {
    error.code()
}

/// No error.
pub const OK: i16 = 0;

/// A topic to be created.
#[must_use]
pub fn creatable(name: &str, partitions: i32, replicas: i16, configs: &[(&str, &str)]) -> CreatableTopic {
    let configs = configs
        .iter()
        .map(|(key, value)| {
            CreatableTopicConfig::default()
                .with_name(text(key))
                .with_value(Some(text(value)))
        })
        .collect();
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
        .with_configs(configs)
}

/// One partition of a produce request.
#[must_use]
pub fn produce_request(topic: &str, partition: i32, acks: i16, batch: &Bytes) -> ProduceRequest {
    let partition = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(batch.clone()));
    let topic = TopicProduceData::default()
        .with_name(topic_name(topic))
        .with_partition_data(vec![partition]);
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![topic])
}

/// One partition of a fetch request without a session: answers at once, with whatever there is.
#[must_use]
pub fn fetch_request(topic: &str, partition: i32, offset: i64) -> FetchRequest {
    fetch_partitions(topic, vec![fetch_partition(partition, offset)])
}

/// A partition as it stands in a fetch request.
#[must_use]
pub fn fetch_partition(partition: i32, offset: i64) -> FetchPartition {
    FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(FETCH_BYTES_MAX)
}

/// Partitions of one topic in a fetch request without a session.
#[must_use]
pub fn fetch_partitions(topic: &str, partitions: Vec<FetchPartition>) -> FetchRequest {
    let topic = FetchTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(partitions);
    FetchRequest::default()
        .with_max_bytes(FETCH_BYTES_MAX)
        .with_topics(vec![topic])
}

impl Connection {
    /// Creates a topic and waits until this broker knows its leaders.
    ///
    /// # Panics
    /// It is refused.
    pub async fn create_topic(&self, name: &str, partitions: i32, replicas: i16, configs: &[(&str, &str)]) {
        let result = self
            .try_create(creatable(name, partitions, replicas, configs))
            .await;
        assert_eq!(result.error_code, OK, "create {name}: {:?}", result.error_message);
        self.await_leaders(name, usize::try_from(partitions.max(1)).expect("positive"))
            .await;
    }

    /// Asks for a topic and returns what came of it.
    ///
    /// # Panics
    /// There is no result.
    pub async fn try_create(&self, topic: CreatableTopic) -> CreatableTopicResult {
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(10_000);
        let response = self.ask(request).await;
        response
            .topics
            .into_iter()
            .next()
            .expect("one result for one topic")
    }

    /// Waits until metadata shows so many partitions of the topic, each with a leader; in a cluster of one node also until it
    /// leads them, which clients find out by trying again.
    pub async fn await_leaders(&self, name: &str, partitions: usize) {
        eventually(&format!("{name} has leaders"), METADATA_LIMIT, async || {
            let metadata = self.metadata(Some(&[name])).await;
            let topic = &metadata.topics[0];
            let led = topic
                .partitions
                .iter()
                .filter(|partition| partition.leader_id.0 >= 0)
                .count();
            holds(topic.error_code == OK && led == partitions, format!("{topic:?}"))?;
            if metadata.brokers.len() > 1 {
                return Ok(());
            }
            for partition in &topic.partitions {
                let latest = self.list_offset(name, partition.partition_index, -1).await;
                holds(latest.error_code == OK, format!("{latest:?}"))?;
            }
            Ok(())
        })
        .await;
    }

    /// Deletes a topic by its name; the error code.
    ///
    /// # Panics
    /// There is no result.
    pub async fn delete_topic(&self, name: &str) -> i16 {
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![topic_name(name)])
            .with_timeout_ms(10_000);
        self.ask_at(5, request).await.responses[0].error_code
    }

    /// Metadata of the whole cluster, or of named topics, without creating them.
    pub async fn metadata(&self, topics: Option<&[&str]>) -> MetadataResponse {
        let named = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let topics = topics.map(|names| names.iter().map(named).collect());
        self.ask_at(
            12,
            MetadataRequest::default()
                .with_topics(topics)
                .with_allow_auto_topic_creation(false),
        )
        .await
    }

    /// Metadata of one topic.
    ///
    /// # Panics
    /// It is not in the answer.
    pub async fn topic(&self, name: &str) -> MetadataResponseTopic {
        let response = self.metadata(Some(&[name])).await;
        response
            .topics
            .into_iter()
            .next()
            .expect("a named topic is in the answer")
    }

    /// Metadata of one partition.
    ///
    /// # Panics
    /// It is not in the answer.
    pub async fn partition(&self, name: &str, index: i32) -> MetadataResponsePartition {
        let topic = self.topic(name).await;
        let found = topic
            .partitions
            .into_iter()
            .find(|partition| partition.partition_index == index);
        found.unwrap_or_else(|| panic!("{name} has no partition {index}"))
    }

    /// Produces one batch and returns what the partition says.
    pub async fn produce_with(
        &self,
        topic: &str,
        partition: i32,
        acks: i16,
        batch: &Bytes,
    ) -> PartitionProduceResponse {
        self.produce_at(PRODUCE_BY_NAME, topic, partition, acks, batch)
            .await
    }

    /// Produces one batch in a given version.
    ///
    /// # Panics
    /// There is no result.
    pub async fn produce_at(
        &self,
        version: i16,
        topic: &str,
        partition: i32,
        acks: i16,
        batch: &Bytes,
    ) -> PartitionProduceResponse {
        let response = self
            .ask_at(version, produce_request(topic, partition, acks, batch))
            .await;
        let topic = response
            .responses
            .into_iter()
            .next()
            .expect("one result for one topic");
        topic
            .partition_responses
            .into_iter()
            .next()
            .expect("one result for one partition")
    }

    /// Produces one batch with acks=all and returns its base offset.
    ///
    /// # Panics
    /// It is refused.
    pub async fn produce(&self, topic: &str, partition: i32, batch: &Bytes) -> i64 {
        let result = self.produce_with(topic, partition, -1, batch).await;
        assert_eq!(
            result.error_code, OK,
            "produce to {topic}-{partition}: {:?}",
            result.error_message
        );
        result.base_offset
    }

    /// Fetches one partition without a session and without waiting.
    pub async fn fetch(&self, topic: &str, partition: i32, offset: i64) -> PartitionData {
        self.fetch_at(FETCH_BY_NAME, fetch_request(topic, partition, offset))
            .await
    }

    /// Fetches and returns the first partition of the answer.
    ///
    /// # Panics
    /// There is none.
    pub async fn fetch_at(&self, version: i16, request: FetchRequest) -> PartitionData {
        let response = self.ask_at(version, request).await;
        assert_eq!(response.error_code, OK);
        let topic = response
            .responses
            .into_iter()
            .next()
            .expect("one topic in the answer");
        topic
            .partitions
            .into_iter()
            .next()
            .expect("one partition in the answer")
    }

    /// Everything from an offset to the high watermark.
    ///
    /// # Panics
    /// The partition answers an error.
    pub async fn read_from(&self, topic: &str, partition: i32, mut offset: i64) -> Vec<records::Seen> {
        let mut all: Vec<records::Seen> = Vec::new();
        loop {
            let data = self.fetch(topic, partition, offset).await;
            assert_eq!(data.error_code, OK, "fetch {topic}-{partition} at {offset}");
            let bytes = data.records.unwrap_or_default();
            let Some(last) = records::headers(&bytes).last().map(|header| header.last_offset()) else {
                return all;
            };
            all.extend(
                records::seen(&bytes)
                    .into_iter()
                    .filter(|record| record.offset >= offset),
            );
            offset = last + 1;
        }
    }

    /// ListOffsets of one partition, in the highest common version.
    ///
    /// # Panics
    /// There is no result.
    pub async fn list_offset(
        &self,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> ListOffsetsPartitionResponse {
        let response = self.ask(list_offsets_request(topic, partition, timestamp)).await;
        response.topics[0].partitions[0].clone()
    }

    /// A new idempotent producer's id and epoch.
    ///
    /// # Panics
    /// It is refused.
    pub async fn producer_id(&self) -> (i64, i16) {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000);
        eventually("a producer id", METADATA_LIMIT, async || {
            let response = self.ask(request.clone()).await;
            // A broker that has just started asks for more to come back later.
            holds(
                response.error_code != ErrorCode::CoordinatorLoadInProgress.code(),
                "loading",
            )?;
            assert_eq!(response.error_code, OK);
            Ok((response.producer_id.0, response.producer_epoch))
        })
        .await
    }
}

/// ListOffsets of one partition.
#[must_use]
pub fn list_offsets_request(topic: &str, partition: i32, timestamp: i64) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    ListOffsetsRequest::default().with_topics(vec![topic])
}
