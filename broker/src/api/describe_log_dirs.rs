//! DescribeLogDirs: what each log directory holds, and how full its file system is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{ApiKey, DescribeLogDirsRequest, DescribeLogDirsResponse};
use kafka_protocol::protocol::Encodable;
use odradek_common::error::ErrorCode;
use odradek_net::service::Response;
use odradek_net::wire;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::{text, topic_name};
use crate::replica::Replica;
use crate::replica::moving::MoveProgress;

/// First version with the file system's size.
const VOLUME_SINCE: i16 = 4;
/// First version that says whether a directory is cordoned (KIP-1066), which kafka-protocol does not know.
const CORDONED_SINCE: i16 = 5;

/// The handler.
pub struct DescribeLogDirs;

impl Handler for DescribeLogDirs {
    type Request = DescribeLogDirsRequest;
    const LATEST: Option<i16> = Some(CORDONED_SINCE);

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
        let directories = broker.replicas.directories().iter().map(|directory| {
            let path = directory.path();
            let result = DescribeLogDirsResult::default().with_log_dir(text(&path.display().to_string()));
            if directory.is_offline() {
                // As in Kafka, nothing is said of what was in it, and the sizes stay at -1.
                return result.with_error_code(ErrorCode::KafkaStorageError.code());
            }
            let is_here = |replica: &&&Arc<Replica>| Arc::ptr_eq(&replica.directory(), directory);
            let here = wanted.iter().filter(is_here);
            let mut topics: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
            for replica in here {
                topics
                    .entry(&replica.id.topic)
                    .or_default()
                    .push(describe(replica));
            }
            for replica in &wanted {
                let to = replica.move_progress();
                if let Some(future) = to.filter(|to| Arc::ptr_eq(&to.directory, directory)) {
                    let described = describe_future(replica, &future);
                    topics.entry(&replica.id.topic).or_default().push(described);
                }
            }
            let topics = topics.into_iter().map(|(name, partitions)| {
                DescribeLogDirsTopic::default()
                    .with_name(topic_name(name))
                    .with_partitions(partitions)
            });
            let result = result.with_topics(topics.collect());
            if call.api_version < VOLUME_SINCE {
                return result;
            }
            let (total, usable) = volume(path);
            result.with_total_bytes(total).with_usable_bytes(usable)
        });
        DescribeLogDirsResponse::default().with_results(directories.collect())
    }

    fn encode(version: i16, correlation_id: i32, response: &DescribeLogDirsResponse) -> Response {
        if version < CORDONED_SINCE {
            return super::encode::<DescribeLogDirsRequest>(version, correlation_id, response);
        }
        match encode_cordoned(response) {
            Ok(body) => {
                let key = ApiKey::DescribeLogDirs as i16;
                Response::Frame(wire::raw_response(key, version, correlation_id, body.freeze()))
            }
            Err(reason) => Response::Close(reason),
        }
    }
}

/// Version 5: as version 4, with one more field at the end of each directory. No directory is ever cordoned here.
fn encode_cordoned(response: &DescribeLogDirsResponse) -> Result<BytesMut, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot encode DescribeLogDirs version 5: {error}");
    let mut known = BytesMut::new();
    response
        .encode(&mut known, VOLUME_SINCE)
        .map_err(|error| failed(&error))?;
    let sizes = response
        .results
        .iter()
        .map(|result| result.compute_size(VOLUME_SINCE));
    let sizes: Vec<usize> = sizes.collect::<Result<_, _>>().map_err(|error| failed(&error))?;
    // Behind the directories stand the response's own tagged fields, of which there are none.
    let head = known.len() - sizes.iter().sum::<usize>() - 1;
    let mut body = known.split_to(head);
    for size in sizes {
        // A directory ends with its tagged fields, of which there are none; the new field comes before them.
        body.extend_from_slice(&known.split_to(size - 1));
        body.extend_from_slice(&[u8::from(false)]);
        body.extend_from_slice(&known.split_to(1));
    }
    body.extend_from_slice(&known);
    Ok(body)
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

/// A copy's lag is what it lacks of the log it follows.
fn describe_future(replica: &Replica, future: &MoveProgress) -> DescribeLogDirsPartition {
    let lag = replica.offsets().log_end - future.log_end_offset;
    DescribeLogDirsPartition::default()
        .with_partition_index(replica.id.partition)
        .with_partition_size(i64::try_from(future.size_bytes).unwrap_or(i64::MAX))
        .with_offset_lag(lag.max(0))
        .with_is_future_key(true)
}

/// Total and usable bytes of the file system; -1 if it does not say.
fn volume(path: &Path) -> (i64, i64) {
    let Ok(stat) = rustix::fs::statvfs(path) else {
        return (-1, -1);
    };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    (bytes(stat.f_blocks), bytes(stat.f_bavail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_5_has_one_byte_more_per_directory() {
        let topic = DescribeLogDirsTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![DescribeLogDirsPartition::default()]);
        let directory = |path: &str| {
            DescribeLogDirsResult::default()
                .with_log_dir(text(path))
                .with_topics(vec![topic.clone()])
                .with_total_bytes(3)
                .with_usable_bytes(2)
        };
        let response =
            DescribeLogDirsResponse::default().with_results(vec![directory("/a"), directory("/b")]);
        let mut known = BytesMut::new();
        response.encode(&mut known, VOLUME_SINCE).unwrap();
        let mut later = encode_cordoned(&response).unwrap();
        let each = response.results[0].compute_size(VOLUME_SINCE).unwrap() + 1;
        let first = later.len() - 1 - 2 * each;
        for end in [first + 2 * each, first + each] {
            assert_eq!(later[end - 2..end], [0, 0], "not cordoned, no tagged fields");
            let behind = later.split_off(end);
            later.truncate(later.len() - 1);
            later.unsplit(behind);
        }
        assert_eq!(later, known);
    }
}
