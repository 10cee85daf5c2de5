//! ListOffsets: offsets by timestamp, and the ends of a partition.

use std::sync::Arc;

use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ApiKey, ListOffsetsRequest, ListOffsetsResponse};
use odradek_broker_core::partition::ReplicaLog;
use odradek_broker_log::error::LogError;
use odradek_broker_log::timestamps::TimestampedOffset;
use odradek_common::error::ErrorCode;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::replica::Replica;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;
/// `replica_id` of a consumer.
const CONSUMER: i32 = -1;
/// `replica_id` of a debugging client, which may ask a follower.
const DEBUG: i32 = -2;
const READ_COMMITTED: i8 = 1;
/// First version that knows OFFSET_NOT_AVAILABLE (KIP-207).
const NOT_AVAILABLE_SINCE: i16 = 5;
const MAX_TIMESTAMP_SINCE: i16 = 7;
const EARLIEST_LOCAL_SINCE: i16 = 8;
const LATEST_TIERED_SINCE: i16 = 9;
const EARLIEST_PENDING_UPLOAD_SINCE: i16 = 11;

/// The handler.
pub struct ListOffsets;

impl Handler for ListOffsets {
    type Request = ListOffsetsRequest;
    const LATEST: Option<i16> = Some(EARLIEST_PENDING_UPLOAD_SINCE);

    async fn handle(broker: Arc<Broker>, call: Call, request: ListOffsetsRequest) -> ListOffsetsResponse {
        if !searches(&request) {
            return answer(&broker, call.api_version, &request);
        }
        let answer = move || answer(&broker, call.api_version, &request);
        match tokio::task::spawn_blocking(answer).await {
            Ok(response) => response,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Whether records have to be read.
fn searches(request: &ListOffsetsRequest) -> bool {
    let mut partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.any(|partition| partition.timestamp >= 0 || partition.timestamp == MAX_TIMESTAMP)
}

fn answer(broker: &Broker, api_version: i16, request: &ListOffsetsRequest) -> ListOffsetsResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let query = Query {
                broker,
                api_version,
                request,
                partition,
            };
            query.answer(topic.name.0.as_str())
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

struct Query<'a> {
    broker: &'a Broker,
    api_version: i16,
    request: &'a ListOffsetsRequest,
    partition: &'a ListOffsetsPartition,
}

/// Offset, timestamp and leader epoch.
type Found = Option<(i64, i64, i32)>;

impl Query<'_> {
    fn answer(&self, topic: &str) -> ListOffsetsPartitionResponse {
        let response = ListOffsetsPartitionResponse::default()
            .with_partition_index(self.partition.partition_index)
            .with_timestamp(-1)
            .with_offset(-1)
            .with_leader_epoch(-1);
        let found = self
            .broker
            .replicas
            .hosted(topic, self.partition.partition_index)
            .map_err(|error| error.code)
            .and_then(|replica| self.find(&replica));
        match found {
            Ok(None) => response,
            Ok(Some((offset, timestamp, epoch))) => {
                let response = response.with_offset(offset).with_timestamp(timestamp);
                if self.api_version >= 4 {
                    response.with_leader_epoch(epoch)
                } else {
                    response
                }
            }
            Err(code) => {
                self.broker.metrics.refused(ApiKey::ListOffsets, code);
                response.with_error_code(code.code())
            }
        }
    }

    fn find(&self, replica: &Replica) -> Result<Found, ErrorCode> {
        let (leader, known) = replica.with(|p| {
            (
                p.check_leader(self.partition.current_leader_epoch),
                p.offsets_are_known(),
            )
        });
        match leader {
            Ok(()) => {}
            Err(ErrorCode::NotLeaderOrFollower) if self.request.replica_id.0 == DEBUG => {}
            Err(code) => return Err(code),
        }
        let offsets = replica.offsets();
        let consumer = self.request.replica_id.0 == CONSUMER;
        let end = match (consumer, self.request.isolation_level) {
            (true, READ_COMMITTED) => offsets.last_stable,
            (true, _) => offsets.high_watermark,
            (false, _) => offsets.log_end,
        };
        let not_yet = if self.api_version >= NOT_AVAILABLE_SINCE {
            ErrorCode::OffsetNotAvailable
        } else {
            ErrorCode::LeaderNotAvailable
        };
        let promised = known || !consumer;
        match self.partition.timestamp {
            EARLIEST => Ok(self.at(replica, offsets.log_start)),
            EARLIEST_LOCAL if self.api_version >= EARLIEST_LOCAL_SINCE => {
                Ok(self.at(replica, offsets.log_start))
            }
            LATEST_TIERED if self.api_version >= LATEST_TIERED_SINCE => Ok(None),
            EARLIEST_PENDING_UPLOAD if self.api_version >= EARLIEST_PENDING_UPLOAD_SINCE => Ok(None),
            LATEST if promised => Ok(self.at(replica, end)),
            _ if !promised => Err(not_yet),
            MAX_TIMESTAMP if self.api_version >= MAX_TIMESTAMP_SINCE => {
                below(replica.max_timestamp_offset(), end)
            }
            timestamp if timestamp >= 0 => below(replica.offset_for_timestamp(timestamp), end),
            _ => Err(ErrorCode::UnsupportedVersion),
        }
    }

    fn at(&self, replica: &Replica, offset: i64) -> Found {
        let epoch = replica.with(|p| {
            let of_offset = p.log().epochs().epoch_for_offset(offset);
            of_offset
                .or(p.log().latest_epoch())
                .unwrap_or(p.image().leader_epoch)
        });
        Some((offset, -1, epoch))
    }
}

/// What the log found, unless the caller may not see that far.
fn below(found: Result<Option<TimestampedOffset>, LogError>, end: i64) -> Result<Found, ErrorCode> {
    let found = found.map_err(|_| ErrorCode::KafkaStorageError)?;
    Ok(found
        .filter(|found| found.offset < end)
        .map(|found| (found.offset, found.timestamp, found.leader_epoch)))
}
