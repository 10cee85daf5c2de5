//! DeleteRecords: moves the start of logs, and answers when every live replica has followed.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{ApiKey, DeleteRecordsRequest, DeleteRecordsResponse};
use odradek_broker_log::directory::LogDirectory;
use odradek_broker_log::error::ReadError;
use odradek_common::error::{ApiError, ErrorCode};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::data_directory::DataDirectory;
use crate::names::is_internal;
use crate::replica::Replica;

/// "To the high watermark".
const HIGH_WATERMARK: i64 = -1;

/// The handler.
pub struct DeleteRecords;

impl Handler for DeleteRecords {
    type Request = DeleteRecordsRequest;

    async fn handle(
        broker: Arc<Broker>,
        _call: Call,
        request: DeleteRecordsRequest,
    ) -> DeleteRecordsResponse {
        let deadline = Instant::now() + Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
        let started: Vec<Vec<_>> = request
            .topics
            .iter()
            .map(|topic| {
                let start = |partition| start(&broker, topic.name.0.as_str(), partition);
                topic.partitions.iter().map(start).collect()
            })
            .collect();
        let moved = started.iter().flatten().flatten();
        sync_log_starts(&broker, moved.map(|(replica, _)| replica.directory())).await;
        let mut topics = Vec::with_capacity(request.topics.len());
        for (topic, started) in request.topics.iter().zip(started) {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (partition, started) in topic.partitions.iter().zip(started) {
                let result = DeleteRecordsPartitionResult::default()
                    .with_partition_index(partition.partition_index)
                    .with_low_watermark(-1);
                let outcome = match started {
                    Ok((replica, offset)) => finish(&broker, &replica, offset, deadline).await,
                    Err(error) => Err(error.code),
                };
                partitions.push(match outcome {
                    Ok(low_watermark) => result.with_low_watermark(low_watermark),
                    Err(code) => {
                        broker.metrics.refused(ApiKey::DeleteRecords, code);
                        result.with_error_code(code.code())
                    }
                });
            }
            let result = DeleteRecordsTopicResult::default().with_name(topic.name.clone());
            topics.push(result.with_partitions(partitions));
        }
        DeleteRecordsResponse::default().with_topics(topics)
    }
}

/// Waits, on a thread that may, until moved log starts in these directories survive a power loss. One that fails goes offline.
async fn sync_log_starts(broker: &Arc<Broker>, directories: impl Iterator<Item = Arc<DataDirectory>>) {
    let mut distinct: Vec<Arc<DataDirectory>> = Vec::new();
    for directory in directories {
        if !distinct.iter().any(|known| Arc::ptr_eq(known, &directory)) {
            distinct.push(directory);
        }
    }
    if distinct.is_empty() {
        return;
    }
    let broker = broker.clone();
    let sync = move || {
        for directory in distinct {
            if let Some(Err(error)) = directory.logs().map(LogDirectory::sync_log_starts) {
                broker.replicas.directory_failed(&directory, &error);
            }
        }
    };
    if let Err(error) = tokio::task::spawn_blocking(sync).await {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Moves the leader's log start.
fn start(
    broker: &Broker,
    topic: &str,
    partition: &DeleteRecordsPartition,
) -> Result<(Arc<Replica>, i64), ApiError> {
    if is_internal(topic) {
        let detail = format!("{topic} is internal: its records are the brokers' own");
        return Err(ApiError::new(ErrorCode::InvalidTopicException, detail));
    }
    let replica = broker.replicas.leader(topic, partition.partition_index)?;
    replica.check_online()?;
    // An empty policy keeps records for ever, but promises no key its last value.
    let policy = replica.config().cleanup_policy;
    if policy.compact && !policy.delete {
        let detail = format!("{topic} is compacted only: its records cannot be deleted");
        return Err(ApiError::new(ErrorCode::PolicyViolation, detail));
    }
    let deleted = replica.with(|p| {
        let log = p.log_mut();
        let offset = if partition.offset == HIGH_WATERMARK {
            log.high_watermark()
        } else {
            partition.offset
        };
        if offset < 0 || offset > log.high_watermark() {
            let detail = format!(
                "offset {offset} is above the high watermark {}",
                log.high_watermark()
            );
            return Err(ApiError::new(ErrorCode::OffsetOutOfRange, detail));
        }
        match log.delete_records_before(offset) {
            Ok(_) => Ok(offset),
            Err(ReadError::OffsetOutOfRange { .. }) => Err(ErrorCode::OffsetOutOfRange.into()),
            Err(error @ ReadError::Damaged { .. }) => {
                Err(ApiError::new(ErrorCode::KafkaStorageError, error.to_string()))
            }
            Err(ReadError::Log(error)) => Err(ApiError::new(ErrorCode::KafkaStorageError, error.to_string())),
        }
    })?;
    Ok((replica, deleted))
}

/// Waits until no live follower starts below `offset`; the lowest start of all.
async fn finish(
    broker: &Broker,
    replica: &Replica,
    offset: i64,
    deadline: Instant,
) -> Result<i64, ErrorCode> {
    if replica.is_offline() {
        return Err(ErrorCode::KafkaStorageError);
    }
    loop {
        let progress = Arc::new(Notify::new());
        let _registration = Registration {
            replica,
            id: replica.await_change(&progress),
        };
        let low_watermark = low_watermark(broker, replica)?;
        if low_watermark >= offset {
            return Ok(low_watermark);
        }
        let timed_out = tokio::time::timeout_at(deadline, progress.notified())
            .await
            .is_err();
        if timed_out {
            return Err(ErrorCode::RequestTimedOut);
        }
    }
}

fn low_watermark(broker: &Broker, replica: &Replica) -> Result<i64, ErrorCode> {
    let image = broker.image();
    replica.with(|p| {
        p.check_leader(-1)?;
        let followers = p
            .followers()
            .filter(|(id, _)| image.is_alive(*id))
            .map(|(_, p)| p.log_start_offset);
        Ok(followers.fold(p.log().log_start_offset(), i64::min))
    })
}

/// A place in a replica's list of observers, given up when the wait ends, however it ends.
struct Registration<'a> {
    replica: &'a Replica,
    id: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.replica.forget_observer(self.id);
    }
}

#[cfg(test)]
mod tests {
    use odradek_broker_log::append::LeaderBatch;
    use odradek_common::metadata::ConfigResource;
    use odradek_common::records::builder::BatchBuilder;

    use super::*;
    use crate::clock;
    use crate::fixtures::LoneBroker;

    /// A topic's only partition, with one record.
    fn with_a_record(lone: &mut LoneBroker, topic: &str) -> Arc<Replica> {
        lone.create(topic, LoneBroker::NODE);
        let replica = lone.broker.replicas.hosted(topic, 0).expect("it leads");
        let mut builder = BatchBuilder::new(0);
        builder.append(100, Some(b"key"), Some(b"record"), &[]);
        let batch = builder.build();
        let mut batches = [LeaderBatch::whole(&batch).unwrap()];
        replica.append(clock::now(), &mut batches, None).unwrap();
        replica
    }

    fn delete_all(lone: &LoneBroker, topic: &str) -> Result<i64, ErrorCode> {
        let asked = DeleteRecordsPartition::default().with_offset(HIGH_WATERMARK);
        let started = start(&lone.broker, topic, &asked);
        started.map(|(_, deleted)| deleted).map_err(|error| error.code)
    }

    #[tokio::test]
    async fn nothing_is_deleted_from_a_log_that_is_offline() {
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        let replica = with_a_record(&mut lone, "t");
        replica.set_offline();
        assert_eq!(delete_all(&lone, "t"), Err(ErrorCode::KafkaStorageError));
        assert_eq!(replica.with(|p| p.log().log_start_offset()), 0);
    }

    #[tokio::test]
    async fn only_a_topic_that_is_compacted_and_not_deleted_keeps_its_records() {
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        let refused = Err(ErrorCode::PolicyViolation);
        for (topic, policy, deleted) in [
            ("deleted", "delete", Ok(1)),
            ("both", "compact,delete", Ok(1)),
            ("unlimited", "", Ok(1)),
            ("compacted", "compact", refused),
        ] {
            let overrides = lone
                .image
                .configs
                .entry(ConfigResource::topic(topic))
                .or_default();
            overrides.insert("cleanup.policy".into(), policy.into());
            let replica = with_a_record(&mut lone, topic);
            assert_eq!(delete_all(&lone, topic), deleted, "{policy:?}");
            let start = replica.with(|p| p.log().log_start_offset());
            assert_eq!(start, deleted.unwrap_or(0), "{policy:?}");
        }
    }
}
