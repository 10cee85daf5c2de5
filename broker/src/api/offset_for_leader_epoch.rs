//! OffsetForLeaderEpoch: where an epoch ended, so that consumers find out that they were truncated (KIP-320).

use std::sync::Arc;

use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{ApiKey, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use odradek_broker_core::partition::ReplicaLog;
use odradek_common::error::ErrorCode;

use super::{Call, Handler};
use crate::broker::Broker;

/// The handler.
pub struct OffsetForLeaderEpoch;

impl Handler for OffsetForLeaderEpoch {
    type Request = OffsetForLeaderEpochRequest;

    async fn handle(
        broker: Arc<Broker>,
        _call: Call,
        request: OffsetForLeaderEpochRequest,
    ) -> OffsetForLeaderEpochResponse {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let answer = EpochEndOffset::default()
                    .with_partition(partition.partition)
                    .with_leader_epoch(-1)
                    .with_end_offset(-1);
                match end_of_epoch(&broker, topic.topic.0.as_str(), partition) {
                    Ok(None) => answer,
                    Ok(Some((epoch, end))) => answer.with_leader_epoch(epoch).with_end_offset(end),
                    Err(code) => {
                        broker.metrics.refused(ApiKey::OffsetForLeaderEpoch, code);
                        answer.with_error_code(code.code())
                    }
                }
            });
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic.clone())
                .with_partitions(partitions.collect())
        });
        OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
    }
}

fn end_of_epoch(
    broker: &Broker,
    topic: &str,
    partition: &OffsetForLeaderPartition,
) -> Result<Option<(i32, i64)>, ErrorCode> {
    let replica = broker
        .replicas
        .hosted(topic, partition.partition)
        .map_err(|error| error.code)?;
    replica.check_online().map_err(|error| error.code)?;
    replica.with(|p| {
        p.check_leader(partition.current_leader_epoch)?;
        Ok(ReplicaLog::end_offset_for_epoch(p.log(), partition.leader_epoch))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::LoneBroker;

    #[tokio::test]
    async fn a_log_that_is_offline_tells_no_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        lone.create("t", LoneBroker::NODE);
        let asked = OffsetForLeaderPartition::default()
            .with_current_leader_epoch(-1)
            .with_leader_epoch(0);
        let end = || end_of_epoch(&lone.broker, "t", &asked);
        assert!(end().is_ok());
        lone.broker
            .replicas
            .hosted("t", 0)
            .expect("it leads")
            .set_offline();
        assert_eq!(end(), Err(ErrorCode::KafkaStorageError));
    }
}
