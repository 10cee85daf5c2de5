//! AlterReplicaLogDirs: which log directory of this broker a replica lives in (KIP-113).
//!
//! An answer says that the move has begun; DescribeLogDirs shows the copy until it has taken the place.

use std::path::Path;
use std::sync::Arc;

use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, ApiKey};
use odradek_broker_log::future::can_move;
use odradek_common::error::{ApiError, ErrorCode};

use super::{Call, Handler};
use crate::broker::Broker;

/// The handler.
pub struct AlterReplicaLogDirs;

impl Handler for AlterReplicaLogDirs {
    type Request = AlterReplicaLogDirsRequest;

    async fn handle(
        broker: Arc<Broker>,
        _call: Call,
        request: AlterReplicaLogDirsRequest,
    ) -> AlterReplicaLogDirsResponse {
        let answer = move || answer(&broker, &request);
        // A copy is begun with a write to the index, and another may have to be removed.
        match tokio::task::spawn_blocking(answer).await {
            Ok(response) => response,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn answer(broker: &Broker, request: &AlterReplicaLogDirsRequest) -> AlterReplicaLogDirsResponse {
    let mut results = Vec::new();
    for directory in &request.dirs {
        for topic in &directory.topics {
            let partitions = topic.partitions.iter().map(|index| {
                let result = AlterReplicaLogDirPartitionResult::default().with_partition_index(*index);
                match alter(broker, directory.path.as_str(), topic.name.0.as_str(), *index) {
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

fn alter(broker: &Broker, path: &str, topic: &str, partition: i32) -> Result<(), ApiError> {
    let directories = broker.replicas.directories();
    let paths = directories.iter().map(|directory| directory.path());
    let wanted = directory(paths, path, topic, partition)?;
    broker
        .replicas
        .alter_directory(topic, partition, &directories[wanted])
        .map_err(|error| match error.code {
            // Kafka's older word, kept for this API.
            ErrorCode::NotLeaderOrFollower => ApiError::new(ErrorCode::ReplicaNotAvailable, error.detail),
            _ => error,
        })
}

/// Which of `paths` is meant.
fn directory<'a>(
    mut paths: impl Iterator<Item = &'a Path>,
    path: &str,
    topic: &str,
    partition: i32,
) -> Result<usize, ApiError> {
    if !can_move(&format!("{topic}-{partition}")) {
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
        // A dot, 32 digits and `-future` come behind the folder's name, which has at most 255 bytes then.
        let longest = 255 - 1 - 32 - "-future".len() - "-7".len();
        assert_eq!(named("/data/a", &"x".repeat(longest)), Ok(0));
        assert_eq!(
            named("/data/a", &"x".repeat(longest + 1)),
            Err(ErrorCode::InvalidTopicException)
        );
    }
}
