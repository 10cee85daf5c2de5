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
        replica.check_online().map_err(|error| error.code)?;
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
        // What was found stays true whatever else becomes known.
        let settled = |found| match below(found, end)? {
            None if !promised => Err(not_yet),
            found => Ok(found),
        };
        match self.partition.timestamp {
            EARLIEST => Ok(self.at(replica, offsets.log_start)),
            EARLIEST_LOCAL if self.api_version >= EARLIEST_LOCAL_SINCE => {
                Ok(self.at(replica, offsets.log_start))
            }
            LATEST_TIERED if self.api_version >= LATEST_TIERED_SINCE => Ok(None),
            EARLIEST_PENDING_UPLOAD if self.api_version >= EARLIEST_PENDING_UPLOAD_SINCE => Ok(None),
            LATEST if promised => Ok(self.at(replica, end)),
            LATEST => Err(not_yet),
            MAX_TIMESTAMP if self.api_version >= MAX_TIMESTAMP_SINCE => {
                settled(replica.max_timestamp_offset())
            }
            timestamp if timestamp >= 0 => settled(replica.offset_for_timestamp(timestamp)),
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

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::list_offsets_request::ListOffsetsTopic;
    use odradek_broker_log::append::LeaderBatch;
    use odradek_common::metadata::{MetadataDelta, PartitionImage, TopicImage};
    use odradek_common::records::builder::BatchBuilder;

    use super::*;
    use crate::clock;
    use crate::fixtures::LoneBroker;
    use crate::names::topic_name;

    /// One record at each of these times.
    fn append(lone: &LoneBroker, timestamps: std::ops::Range<i64>) {
        let replica = lone.broker.replicas.hosted("t", 0).expect("it leads");
        for timestamp in timestamps {
            let mut builder = BatchBuilder::new(0);
            builder.append(timestamp, None, Some(b"record"), &[]);
            let batch = builder.build();
            let mut batches = [LeaderBatch::whole(&batch).unwrap()];
            replica.append(clock::now(), &mut batches, None).unwrap();
        }
    }

    /// The partition as the controller would have it next.
    fn change(lone: &mut LoneBroker, change: impl FnOnce(&mut PartitionImage)) {
        let before = lone.image.clone();
        let topic = lone.image.topics.get("t").expect("it was created");
        let mut partition = (*topic.partitions[0]).clone();
        change(&mut partition);
        partition.partition_epoch += 1;
        let topic = TopicImage {
            partitions: vec![Arc::new(partition)],
            ..(**topic).clone()
        };
        lone.image.topics.insert("t".into(), Arc::new(topic));
        let delta = MetadataDelta::between(&before, &lone.image);
        let config = lone.broker.config.load();
        lone.broker.replicas.publish(&delta, &lone.image, &config, true);
    }

    fn ask(lone: &LoneBroker, timestamp: i64) -> (i16, i64) {
        let partition = ListOffsetsPartition::default()
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_topics(vec![topic]);
        let response = answer(&lone.broker, MAX_TIMESTAMP_SINCE, &request);
        let partition = &response.topics[0].partitions[0];
        (partition.error_code, partition.offset)
    }

    #[tokio::test]
    async fn until_the_end_is_known_again_what_lies_below_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        lone.create("t", LoneBroker::NODE);
        append(&lone, 100..105);
        change(&mut lone, |partition| {
            partition.replicas = vec![LoneBroker::NODE, 2];
            partition.isr = partition.replicas.clone();
        });
        append(&lone, 105..110);
        assert_eq!(ask(&lone, LATEST), (0, 5), "the other one has not fetched");
        change(&mut lone, |partition| partition.leader_epoch += 1);
        let not_yet = ErrorCode::OffsetNotAvailable.code();
        assert_eq!(ask(&lone, LATEST).0, not_yet);
        assert_eq!(ask(&lone, 103), (0, 3));
        assert_eq!(ask(&lone, 107).0, not_yet);
        assert_eq!(ask(&lone, 200).0, not_yet);
        assert_eq!(ask(&lone, MAX_TIMESTAMP).0, not_yet);
        assert_eq!(ask(&lone, -100).0, ErrorCode::UnsupportedVersion.code());
    }

    #[tokio::test]
    async fn a_log_that_is_offline_tells_no_offset() {
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        lone.create("t", LoneBroker::NODE);
        append(&lone, 100..105);
        assert_eq!(ask(&lone, 103), (0, 3));
        lone.broker
            .replicas
            .hosted("t", 0)
            .expect("it leads")
            .set_offline();
        for timestamp in [LATEST, 103] {
            assert_eq!(ask(&lone, timestamp).0, ErrorCode::KafkaStorageError.code());
        }
    }
}
