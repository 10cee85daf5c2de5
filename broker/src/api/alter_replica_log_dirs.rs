//! AlterReplicaLogDirs: which log directory of this broker a replica lives in. This version moves none.

use std::path::Path;
use std::sync::Arc;

use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, ApiKey};
use odradek_common::error::{ApiError, ErrorCode};

use super::{Call, Handler};
use crate::broker::Broker;

/// Longest topic name of which Kafka can move a partition: its folder is renamed with an id behind (KAFKA-4893).
const FOLDER_NAME_MAX: usize = 255;
/// What is put behind the name while a partition moves: a dot, 32 digits of an id, `-future`.
const FUTURE_SUFFIX: usize = 1 + 32 + "-future".len();

/// The handler.
pub struct AlterReplicaLogDirs;

impl Handler for AlterReplicaLogDirs {
    type Request = AlterReplicaLogDirsRequest;

    async fn handle(
        broker: Arc<Broker>,
        _call: Call,
        request: AlterReplicaLogDirsRequest,
    ) -> AlterReplicaLogDirsResponse {
        let mut results = Vec::new();
        for directory in &request.dirs {
            for topic in &directory.topics {
                let partitions = topic.partitions.iter().map(|index| {
                    let result = AlterReplicaLogDirPartitionResult::default().with_partition_index(*index);
                    match alter(&broker, directory.path.as_str(), topic.name.0.as_str(), *index) {
                        Ok(()) => result,
                        Err(error) => {
                            broker.metrics.refused(ApiKey::AlterReplicaLogDirs, error.code);
                            // The response has no message: the log says what the code alone cannot.
                            slog::info!(broker.log, "replica not moved"; "reason" => %error.detail);
                            result.with_error_code(error.code())
                        }
                    }
                });
                let partitions = partitions.collect();
                let result = AlterReplicaLogDirTopicResult::default().with_topic_name(topic.name.clone());
                results.push(result.with_partitions(partitions));
            }
        }
        AlterReplicaLogDirsResponse::default().with_results(results)
    }
}

fn alter(broker: &Broker, path: &str, topic: &str, partition: i32) -> Result<(), ApiError> {
    let paths = broker
        .replicas
        .directories()
        .iter()
        .map(|directory| directory.path());
    let wanted = directory(paths, path, topic, partition)?;
    let replica = broker
        .replicas
        .hosted(topic, partition)
        .map_err(|error| match error.code {
            // Kafka's older word, kept for this API.
            ErrorCode::NotLeaderOrFollower => ApiError::new(ErrorCode::ReplicaNotAvailable, error.detail),
            _ => error,
        })?;
    if replica.is_offline() {
        let detail = format!("the log directory of {topic}-{partition} is offline");
        return Err(ApiError::new(ErrorCode::KafkaStorageError, detail));
    }
    if Arc::ptr_eq(replica.directory(), &broker.replicas.directories()[wanted]) {
        return Ok(());
    }
    let detail =
        format!("{topic}-{partition} lives in another log directory, and this version moves none to {path}");
    Err(ApiError::new(ErrorCode::OperationNotAttempted, detail))
}

/// Which of `paths` is meant.
fn directory<'a>(
    mut paths: impl Iterator<Item = &'a Path>,
    path: &str,
    topic: &str,
    partition: i32,
) -> Result<usize, ApiError> {
    if format!("{topic}-{partition}").len() + FUTURE_SUFFIX > FOLDER_NAME_MAX {
        let detail = format!("the name of topic {topic} is too long for its partitions to move");
        return Err(ApiError::new(ErrorCode::InvalidTopicException, detail));
    }
    paths.position(|here| here == Path::new(path)).ok_or_else(|| {
        let detail = format!("{path} is no log directory of this broker");
        ApiError::new(ErrorCode::LogDirNotFound, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str, topic: &str) -> Result<usize, ErrorCode> {
        let paths = [Path::new("/data/a"), Path::new("/data/b")];
        directory(paths.into_iter(), path, topic, 7).map_err(|error| error.code)
    }

    #[test]
    fn directories_are_named_by_their_path() {
        assert_eq!(named("/data/b", "t"), Ok(1));
        assert_eq!(named("/data/a/", "t"), Ok(0));
        assert_eq!(named("/data", "t"), Err(ErrorCode::LogDirNotFound));
    }

    #[test]
    fn a_partition_whose_folder_could_not_be_renamed_stays() {
        let longest = FOLDER_NAME_MAX - FUTURE_SUFFIX - "-7".len();
        assert_eq!(named("/data/a", &"x".repeat(longest)), Ok(0));
        assert_eq!(
            named("/data/a", &"x".repeat(longest + 1)),
            Err(ErrorCode::InvalidTopicException)
        );
    }
}
