//! DescribeLogDirs: what each log directory holds, and how full its file system is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use odradek_common::error::ErrorCode;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::{text, topic_name};
use crate::replica::Replica;

/// First version with the file system's size.
const VOLUME_SINCE: i16 = 4;

/// The handler.
pub struct DescribeLogDirs;

impl Handler for DescribeLogDirs {
    type Request = DescribeLogDirsRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: DescribeLogDirsRequest,
    ) -> DescribeLogDirsResponse {
        let replicas = broker.replicas.all();
        let wanted: Vec<_> = replicas
            .iter()
            .filter(|replica| is_wanted(&request, replica))
            .collect();
        let directories = broker
            .replicas
            .directories()
            .iter()
            .enumerate()
            .map(|(at, directory)| {
                let path = directory.log_directory.path();
                let here = wanted.iter().filter(|replica| replica.log_dir == at);
                let mut topics: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
                for replica in here {
                    topics
                        .entry(&replica.id.topic)
                        .or_default()
                        .push(describe(replica));
                }
                let topics = topics.into_iter().map(|(name, partitions)| {
                    DescribeLogDirsTopic::default()
                        .with_name(topic_name(name))
                        .with_partitions(partitions)
                });
                let offline = replicas
                    .iter()
                    .any(|replica| replica.log_dir == at && replica.is_offline());
                let code = if offline {
                    ErrorCode::KafkaStorageError.code()
                } else {
                    0
                };
                let result = DescribeLogDirsResult::default()
                    .with_error_code(code)
                    .with_log_dir(text(&path.display().to_string()))
                    .with_topics(topics.collect());
                if call.api_version < VOLUME_SINCE {
                    return result;
                }
                let (total, usable) = volume(path);
                result.with_total_bytes(total).with_usable_bytes(usable)
            });
        DescribeLogDirsResponse::default().with_results(directories.collect())
    }
}

fn is_wanted(request: &DescribeLogDirsRequest, replica: &Replica) -> bool {
    let Some(topics) = &request.topics else {
        return true;
    };
    let named = |topic: &str| topic == &*replica.id.topic;
    topics
        .iter()
        .any(|topic| named(topic.topic.0.as_str()) && topic.partitions.contains(&replica.id.partition))
}

fn describe(replica: &Replica) -> DescribeLogDirsPartition {
    let (size, lag) = replica.with(|p| {
        let log = p.log();
        let lag = if p.is_leader() {
            0
        } else {
            log.high_watermark() - log.log_end_offset()
        };
        (log.size_bytes(), lag)
    });
    DescribeLogDirsPartition::default()
        .with_partition_index(replica.id.partition)
        .with_partition_size(i64::try_from(size).unwrap_or(i64::MAX))
        .with_offset_lag(lag.max(0))
}

/// Total and usable bytes of the file system; -1 if it does not say.
fn volume(path: &Path) -> (i64, i64) {
    let Ok(stat) = rustix::fs::statvfs(path) else {
        return (-1, -1);
    };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    (bytes(stat.f_blocks), bytes(stat.f_bavail))
}
