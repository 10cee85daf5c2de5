//! Produce: one batch per partition, appended in the order of the requests, acknowledged as the request asks.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{BrokerId, ProduceRequest, ProduceResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::records::batch::TimestampType;
use odradek_common::records::compression::Compression;
use odradek_common::records::validate::{ProduceRules, Refusal, recompress, validate_produce};
use odradek_common::time::Now;
use odradek_config::TopicConfig;
use odradek_net::service::{Reply, RequestFrame, Response};
use odradek_net::wire;
use uuid::Uuid;

use super::{Call, Handler, Timed};
use crate::broker::Broker;
use crate::clock;
use crate::metrics::ApiTimer;
use crate::names::{is_internal, text};
use crate::replica::{AppendRefusal, CommitWait, Replica};

/// First version with zstd.
const ZSTD_SINCE: i16 = 7;
/// First version with `current_leader` and `node_endpoints` (KIP-951).
const LEADER_HINTS_SINCE: i16 = 10;
/// First version that names topics by id (KIP-516).
const TOPIC_IDS_SINCE: i16 = 13;

/// The handler; [`run`] takes its place in the table, because appends happen before the first await.
pub struct Produce;

impl Handler for Produce {
    type Request = ProduceRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: ProduceRequest) -> ProduceResponse {
        Production::append(&broker, &call, &request).acknowledge().await
    }
}

/// Appends at once, then answers, waits for replication, or stays silent (acks=0).
pub fn run(broker: Arc<Broker>, call: Call, frame: RequestFrame, timer: ApiTimer) -> Reply {
    let request = match wire::decode_request::<ProduceRequest>(&frame) {
        Ok(request) => request,
        Err(error) => return Reply::Done(Response::Close(error.to_string())),
    };
    let (version, correlation_id) = (call.api_version, call.correlation_id);
    let production = Production::append(&broker, &call, &request);
    let acks = request.acks;
    drop(request);
    drop(frame);
    if acks == 0 {
        timer.done_locally();
        return Reply::Done(production.silent());
    }
    if production.is_complete() {
        timer.done_locally();
        return Reply::Done(super::encode::<ProduceRequest>(
            version,
            correlation_id,
            &production.respond(),
        ));
    }
    let answer = async move {
        let response = production.acknowledge().await;
        super::encode::<ProduceRequest>(version, correlation_id, &response)
    };
    Reply::pending_overlap(Timed::new(Box::pin(answer), timer))
}

/// The codec that takes the place of the producer's (compression.type), if it is another one.
fn codec_of_topic(config: &TopicConfig, produced_in: Compression) -> Option<(Compression, Option<i32>)> {
    use odradek_config::topic::Compression as Wanted;
    let levels = &config.compression;
    let (codec, level) = match levels.codec {
        Wanted::Producer => return None,
        Wanted::Uncompressed => (Compression::None, None),
        Wanted::Gzip => (Compression::Gzip, Some(levels.gzip_level)),
        Wanted::Snappy => (Compression::Snappy, None),
        Wanted::Lz4 => (Compression::Lz4, Some(levels.lz4_level)),
        Wanted::Zstd => (Compression::Zstd, Some(levels.zstd_level)),
    };
    (codec != produced_in).then_some((codec, level))
}

/// Nobody could end a transaction in this version, and an open one holds every read_committed consumer up for good.
fn refuse_transaction(has_transactional_id: bool) -> ApiError {
    if has_transactional_id {
        let detail = "this version has no coordinator of transactions, so none is open";
        return ApiError::new(ErrorCode::InvalidTxnState, detail);
    }
    let detail = "transactional records need a transactional id";
    ApiError::new(ErrorCode::TransactionalIdAuthorizationFailed, detail)
}

/// One request after its appends.
struct Production {
    broker: Arc<Broker>,
    api_version: i16,
    listener: Arc<str>,
    acks: i16,
    has_transactional_id: bool,
    timeout: Duration,
    topics: Vec<TopicProduceResponse>,
    /// Names of `topics`, as far as they are known: newer versions carry ids alone.
    names: Vec<Option<Arc<str>>>,
    /// Topic and partition positions in `topics`, with what must be waited for.
    waits: Vec<(usize, usize, CommitWait)>,
}

impl Production {
    fn append(broker: &Arc<Broker>, call: &Call, request: &ProduceRequest) -> Self {
        let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
        let mut production = Self {
            broker: broker.clone(),
            api_version: call.api_version,
            listener: call.connection.listener.clone(),
            acks: request.acks,
            has_transactional_id: request.transactional_id.is_some(),
            timeout,
            topics: Vec::new(),
            names: Vec::new(),
            waits: Vec::new(),
        };
        let now = clock::now();
        for topic in &request.topic_data {
            production.append_topic(now, topic);
        }
        production
    }

    fn append_topic(&mut self, now: Now, topic: &TopicProduceData) {
        let name = if self.api_version >= TOPIC_IDS_SINCE {
            self.broker
                .image()
                .topic_by_id(&topic.topic_id)
                .map(|topic| topic.name.clone())
        } else {
            Some(Arc::from(topic.name.0.as_str()))
        };
        let topic_id = (self.api_version >= TOPIC_IDS_SINCE).then_some(&topic.topic_id);
        let mut partitions = Vec::with_capacity(topic.partition_data.len());
        for data in &topic.partition_data {
            let outcome = match &name {
                Some(name) => self.append_partition(now, name, topic_id, data),
                None => Err(ApiError::from(ErrorCode::UnknownTopicId).into()),
            };
            let (response, wait) = match outcome {
                Ok((response, wait)) => (response, wait),
                Err(refusal) => (self.refused(name.as_deref(), data.index, &refusal), None),
            };
            if let Some(wait) = wait {
                self.waits.push((self.topics.len(), partitions.len(), wait));
            }
            partitions.push(response);
        }
        let response = TopicProduceResponse::default()
            .with_name(topic.name.clone())
            .with_partition_responses(partitions);
        self.topics.push(response.with_topic_id(topic.topic_id));
        self.names.push(name);
    }

    fn append_partition(
        &self,
        now: Now,
        topic: &Arc<str>,
        topic_id: Option<&Uuid>,
        data: &PartitionProduceData,
    ) -> Result<(PartitionProduceResponse, Option<CommitWait>), Refusal> {
        if !(-1..=1).contains(&self.acks) {
            let detail = format!("acks must be -1, 0 or 1, not {}", self.acks);
            return Err(ApiError::new(ErrorCode::InvalidRequiredAcks, detail).into());
        }
        if is_internal(topic) {
            let detail = format!("{topic} is written by brokers alone");
            return Err(ApiError::new(ErrorCode::InvalidTopicException, detail).into());
        }
        let replica = self.broker.replicas.leader(topic, data.index)?;
        // The image that names a recreated topic is there before its replicas are.
        if topic_id.is_some_and(|id| *id != replica.topic_id) {
            return Err(ApiError::from(ErrorCode::UnknownTopicId).into());
        }
        let records = data.records.as_deref().unwrap_or_default();
        let mut batch = BytesMut::from(records);
        let validated = validate_produce(&mut batch, &self.rules(now, &replica))?;
        if validated.header.is_transactional() {
            return Err(refuse_transaction(self.has_transactional_id).into());
        }
        let produced_in = validated.header.compression().unwrap_or(Compression::None);
        if let Some((codec, level)) = codec_of_topic(&replica.config(), produced_in) {
            batch = BytesMut::from(recompress(&batch, codec, level)?);
        }
        let appended = match replica.append(now, &mut batch, self.acks == -1) {
            Ok(appended) => appended,
            Err(AppendRefusal::Api(error)) => return Err(error.into()),
            Err(AppendRefusal::Log(error)) => {
                self.broker.replicas.log_failed(&replica, &error);
                return Err(ApiError::new(ErrorCode::KafkaStorageError, error.to_string()).into());
            }
        };
        let log_append_time_ms = if appended.info.duplicate {
            appended.info.log_append_time
        } else {
            let records = u64::try_from(validated.header.record_count).unwrap_or(0);
            replica.traffic.appended(records, batch.len());
            validated.log_append_time_ms
        };
        let response = PartitionProduceResponse::default()
            .with_index(data.index)
            .with_base_offset(appended.info.first_offset)
            .with_log_append_time_ms(log_append_time_ms)
            .with_log_start_offset(appended.log_start_offset);
        Ok((response, appended.committed))
    }

    fn rules(&self, now: Now, replica: &Replica) -> ProduceRules {
        let config = replica.config();
        ProduceRules {
            compacted: config.cleanup_policy.compact,
            max_message_bytes: usize::try_from(config.max_message_bytes).unwrap_or(0),
            timestamp_type: match config.timestamp_type {
                odradek_config::TimestampType::CreateTime => TimestampType::CreateTime,
                odradek_config::TimestampType::LogAppendTime => TimestampType::LogAppendTime,
            },
            timestamp_before_max_ms: config.timestamp_before_max_ms,
            timestamp_after_max_ms: config.timestamp_after_max_ms,
            zstd_allowed: self.api_version >= ZSTD_SINCE,
            now_ms: now.wall_ms,
        }
    }

    fn refused(&self, topic: Option<&str>, index: i32, refusal: &Refusal) -> PartitionProduceResponse {
        let record_errors = refusal.record_errors.iter().map(|(at, message)| {
            BatchIndexAndErrorMessage::default()
                .with_batch_index(*at)
                .with_batch_index_error_message(Some(text(message)))
        });
        let response = PartitionProduceResponse::default()
            .with_index(index)
            .with_error_code(refusal.code.code())
            .with_base_offset(-1)
            .with_log_append_time_ms(-1)
            .with_log_start_offset(self.log_start_offset(topic, index, refusal.code))
            .with_record_errors(record_errors.collect())
            .with_error_message(Some(text(&refusal.message)));
        self.broker
            .metrics
            .refused(kafka_protocol::messages::ApiKey::Produce, refusal.code);
        self.with_leader_hint(response, topic, refusal.code)
    }

    /// Who sent records that the log refuses learns where it starts, as from Kafka.
    fn log_start_offset(&self, topic: Option<&str>, index: i32, code: ErrorCode) -> i64 {
        let of_records = matches!(
            code,
            ErrorCode::InvalidRecord
                | ErrorCode::InvalidTimestamp
                | ErrorCode::InvalidProducerEpoch
                | ErrorCode::OutOfOrderSequenceNumber
        );
        let replica = topic
            .filter(|_| of_records)
            .and_then(|topic| self.broker.replicas.get(topic, index));
        replica.map_or(-1, |replica| replica.offsets().log_start)
    }

    /// KIP-951: who wrote to the wrong node is told the right one.
    fn with_leader_hint(
        &self,
        response: PartitionProduceResponse,
        topic: Option<&str>,
        code: ErrorCode,
    ) -> PartitionProduceResponse {
        let fits = self.api_version >= LEADER_HINTS_SINCE
            && matches!(
                code,
                ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch
            );
        let Some(topic) = topic.filter(|_| fits) else {
            return response;
        };
        let Some(partition) = self.broker.image().partition(topic, response.index).cloned() else {
            return response;
        };
        response.with_current_leader(
            LeaderIdAndEpoch::default()
                .with_leader_id(BrokerId(partition.leader))
                .with_leader_epoch(partition.leader_epoch),
        )
    }

    fn is_complete(&self) -> bool {
        self.waits.is_empty()
    }

    /// acks=0: no bytes; an error is told by closing the connection.
    fn silent(self) -> Response {
        let failed = self
            .topics
            .iter()
            .flat_map(|topic| &topic.partition_responses)
            .find(|p| p.error_code != 0);
        match failed {
            None => Response::NoAnswer,
            Some(partition) => Response::Close(format!(
                "a produce with acks=0 failed with error {}: {}",
                partition.error_code,
                partition
                    .error_message
                    .as_ref()
                    .map_or("", |message| message.as_str())
            )),
        }
    }

    async fn acknowledge(mut self) -> ProduceResponse {
        let deadline = tokio::time::Instant::now() + self.timeout;
        for (topic, partition, wait) in std::mem::take(&mut self.waits) {
            let outcome = match tokio::time::timeout_at(deadline, wait).await {
                Ok(Ok(outcome)) => outcome,
                // The replica left this node while the request waited.
                Ok(Err(_)) => Err(ErrorCode::NotLeaderOrFollower),
                Err(_) => Err(ErrorCode::RequestTimedOut),
            };
            if let Err(code) = outcome {
                let name = self.names[topic].clone();
                let index = self.topics[topic].partition_responses[partition].index;
                let refusal = ApiError::from(code).into();
                self.topics[topic].partition_responses[partition] =
                    self.refused(name.as_deref(), index, &refusal);
            }
        }
        self.respond()
    }

    fn respond(self) -> ProduceResponse {
        let hinted = self.topics.iter().flat_map(|topic| &topic.partition_responses);
        let mut leaders: Vec<i32> = hinted
            .map(|p| p.current_leader.leader_id.0)
            .filter(|leader| *leader >= 0)
            .collect();
        leaders.sort_unstable();
        leaders.dedup();
        let image = self.broker.image();
        let endpoints = leaders.into_iter().filter_map(|leader| {
            let broker = image.brokers.get(&leader)?;
            let endpoint = broker.endpoint(&self.listener)?;
            let node = NodeEndpoint::default()
                .with_node_id(BrokerId(leader))
                .with_host(text(&endpoint.host));
            Some(
                node.with_port(i32::from(endpoint.port))
                    .with_rack(broker.rack.as_deref().map(text)),
            )
        });
        ProduceResponse::default()
            .with_node_endpoints(endpoints.collect())
            .with_responses(self.topics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_refused_in_kafka_s_words() {
        let without = refuse_transaction(false).code;
        assert_eq!(without, ErrorCode::TransactionalIdAuthorizationFailed);
        assert_eq!(refuse_transaction(true).code, ErrorCode::InvalidTxnState);
    }
}
