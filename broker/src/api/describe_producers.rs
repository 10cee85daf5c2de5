//! DescribeProducers: who writes to a partition with a producer id, as any replica of it knows.

use std::sync::Arc;

use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{ApiKey, DescribeProducersRequest, DescribeProducersResponse, ProducerId};
use odradek_common::error::ApiError;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::text;

/// The handler.
pub struct DescribeProducers;

impl Handler for DescribeProducers {
    type Request = DescribeProducersRequest;

    async fn handle(
        broker: Arc<Broker>,
        _call: Call,
        request: DescribeProducersRequest,
    ) -> DescribeProducersResponse {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|index| {
                let response = PartitionResponse::default().with_partition_index(*index);
                match producers(&broker, topic.name.0.as_str(), *index) {
                    Ok(producers) => response.with_active_producers(producers),
                    Err(error) => {
                        broker.metrics.refused(ApiKey::DescribeProducers, error.code);
                        response
                            .with_error_code(error.code())
                            .with_error_message(Some(text(&error.detail)))
                    }
                }
            });
            TopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        });
        DescribeProducersResponse::default().with_topics(topics.collect())
    }
}

fn producers(broker: &Broker, topic: &str, partition: i32) -> Result<Vec<ProducerState>, ApiError> {
    let replica = broker.replicas.hosted(topic, partition)?;
    replica.check_online()?;
    let described = replica.with(|p| p.log().producers().describe());
    let shape = |producer: &odradek_broker_core::producer_state::ProducerDescription| {
        ProducerState::default()
            .with_producer_id(ProducerId(producer.producer_id))
            .with_producer_epoch(i32::from(producer.producer_epoch))
            .with_last_sequence(producer.last_sequence)
            .with_last_timestamp(producer.last_timestamp)
            .with_coordinator_epoch(producer.coordinator_epoch)
            .with_current_txn_start_offset(producer.current_txn_start_offset)
    };
    Ok(described.iter().map(shape).collect())
}
