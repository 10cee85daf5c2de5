//! Produce: one batch per partition, appended in the order of the requests, acknowledged as each request asks.
//!
//! Requests that a connection has received together are appended together: each partition is locked once and its batches go
//! to the file in one write. The records are not copied on the way; see `odradek_broker_log::append`.

mod request;
mod response;
mod transactions;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::{ApiKey, ProduceRequest};
use odradek_broker_core::producer_state::verification::Verification;
use odradek_broker_log::append::{AppendInfo, LeaderBatch};
use odradek_broker_log::error::{AppendError, LogError};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::records::batch::{BatchHeader, TimestampType};
use odradek_common::records::compression::Compression;
use odradek_common::records::validate::{ProduceRules, ProducedBatch, Refusal, recompress, validate_produce};
use odradek_common::time::Now;
use odradek_config::TopicConfig;
use odradek_net::service::{Reply, RequestFrame, Response};
use odradek_net::wire;
use smallvec::{SmallVec, smallvec};

use self::request::{Cut, Item, Preamble, Reader, TopicRef};
use self::response::{
    Accepted, Endpoint, LEADER_HINTS_SINCE, PartitionAnswer, ProduceAnswer, Refused, TopicAnswer, TopicLabel,
};
use super::{Api, Call, Timed};
use crate::broker::Broker;
use crate::clock;
use crate::metrics::requests::ApiTimer;
use crate::names::is_internal;
use crate::replica::{AppendRefusal, CommitWait, Replica};
use crate::verification::{self, Operation, Verified};

/// First version with zstd.
const ZSTD_SINCE: i16 = 7;

/// The row of the table. Appends happen before the first await, so that they keep the order of the requests.
#[must_use]
pub fn row() -> Api {
    Api {
        key: ApiKey::Produce,
        versions: wire::served_versions::<ProduceRequest>(),
        forwarded: false,
        run: |broker, call, frame, timer| {
            let mut replies = Vec::with_capacity(1);
            let incoming = Incoming { call, frame, timer };
            run_together(&broker, smallvec![incoming], &mut replies);
            replies.pop().expect("every request has a reply")
        },
    }
}

/// A request as it came.
pub struct Incoming {
    /// The request apart from its body.
    pub call: Call,
    /// Its body.
    pub frame: RequestFrame,
    /// Its measurement.
    pub timer: ApiTimer,
}

/// The requests of a turn: most often one, which takes no memory of its own.
pub type Turn = SmallVec<[Incoming; 1]>;

/// Appends what all requests bring, then answers each: at once, after replication, or not at all (acks=0). From the first
/// one on whose transaction has to be asked for, they are appended one after the other.
pub fn run_together(broker: &Arc<Broker>, mut incoming: Turn, replies: &mut Vec<Reply>) {
    let waiting = match transactions::first_unverified(broker, &incoming) {
        None => Turn::new(),
        Some(first) => incoming.drain(first..).collect(),
    };
    run_verified(broker, incoming, &Verified::default(), replies);
    transactions::one_after_the_other(broker, waiting, replies);
}

/// Runs a request of which is known what can be known.
fn run_one(broker: &Arc<Broker>, incoming: Incoming, verified: &Verified) -> Reply {
    let mut replies = Vec::with_capacity(1);
    run_verified(broker, smallvec![incoming], verified, &mut replies);
    replies.pop().expect("every request has a reply")
}

fn run_verified(broker: &Arc<Broker>, incoming: Turn, verified: &Verified, replies: &mut Vec<Reply>) {
    let mut productions: SmallVec<[_; 1]> = SmallVec::with_capacity(incoming.len());
    let mut parts = Parts::with_capacity(incoming.len());
    let now = clock::now();
    for incoming in &incoming {
        let at = productions.len();
        let request = Request {
            at,
            incoming,
            verified,
        };
        productions.push(Production::read(broker, now, &request, &mut parts));
    }
    append(broker, now, &mut parts, &mut productions);
    drop(parts);
    let done_at = Instant::now();
    for (incoming, production) in incoming.into_iter().zip(productions) {
        // The memory of the request is given back before its answer waits.
        let Incoming { call, timer, .. } = incoming;
        replies.push(match production {
            Ok(production) => production.reply(broker, call, timer, done_at),
            Err(cut) => Reply::Done(Response::Close(cut.to_string())),
        });
    }
}

/// One partition of one request, valid and to be appended.
struct Part<'a> {
    /// Place of the request in the turn.
    request: usize,
    /// Places of topic and partition in its answer.
    topic: usize,
    partition: usize,
    replica: Arc<Replica>,
    acks_all: bool,
    log_append_time_ms: i64,
    batch: LeaderBatch<'a>,
}

/// What is to be appended: most often one.
type Parts<'a> = SmallVec<[Part<'a>; 1]>;

impl<'a> AsMut<LeaderBatch<'a>> for Part<'a> {
    fn as_mut(&mut self) -> &mut LeaderBatch<'a> {
        &mut self.batch
    }
}

/// Appends partition by partition. Batches of one partition keep the order of their requests.
fn append(broker: &Broker, now: Now, parts: &mut [Part<'_>], productions: &mut [Result<Production, Cut>]) {
    let place = |part: &Part<'_>| Arc::as_ptr(&part.replica);
    if !parts.is_sorted_by_key(place) {
        // Stable: what is of one partition stays in order.
        parts.sort_by_key(place);
    }
    let belong = |a: &Part<'_>, b: &Part<'_>| Arc::ptr_eq(&a.replica, &b.replica) && a.acks_all == b.acks_all;
    for run in parts.chunk_by_mut(belong) {
        append_run(broker, now, run, productions);
    }
}

fn append_run(broker: &Broker, now: Now, run: &mut [Part<'_>], productions: &mut [Result<Production, Cut>]) {
    let (replica, acks_all) = (run[0].replica.clone(), run[0].acks_all);
    let mut waits = Vec::new();
    let mut appended = replica.append(now, run, acks_all.then_some(&mut waits));
    if let Ok(appended) = &mut appended
        && !acks_all
    {
        waits = std::mem::take(&mut appended.flushes);
    }
    let mut waits = waits.into_iter();
    let failure = |error: &LogError| log_failed(broker, &replica, error);
    let (log_start_offset, failed) = match &appended {
        Ok(appended) => (appended.log_start_offset, appended.failed.as_ref().map(failure)),
        Err(AppendRefusal::Api(error)) => (-1, Some(error.clone())),
        Err(AppendRefusal::Log(error)) => (-1, Some(failure(error))),
    };
    for part in run {
        let wait = waits.next().flatten();
        let Ok(production) = &mut productions[part.request] else {
            unreachable!("a request that could not be read has no parts");
        };
        let outcome = match part.batch.take_outcome() {
            Some(Ok(info)) => Ok(accepted(part, &info, log_start_offset)),
            Some(Err(error)) => Err(match AppendRefusal::from(error) {
                AppendRefusal::Api(error) => error.into(),
                AppendRefusal::Log(error) => failure(&error).into(),
            }),
            None => Err(failed
                .clone()
                .expect("a batch without an outcome has met a failure")
                .into()),
        };
        production.settle(broker, part, outcome);
        if let Some(wait) = wait {
            production.waits.push((part.topic, part.partition, wait));
        }
    }
}

fn accepted(part: &Part<'_>, info: &AppendInfo, log_start_offset: i64) -> Accepted {
    if !info.duplicate {
        let records = u64::try_from(part.batch.header().record_count).unwrap_or(0);
        part.replica.traffic.appended(records, info.size_bytes);
    }
    Accepted {
        base_offset: info.first_offset,
        log_append_time_ms: if info.duplicate {
            info.log_append_time
        } else {
            part.log_append_time_ms
        },
        log_start_offset,
    }
}

fn log_failed(broker: &Broker, replica: &Arc<Replica>, error: &LogError) -> ApiError {
    broker.replicas.log_failed(replica, error);
    ApiError::new(ErrorCode::KafkaStorageError, error.to_string())
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

/// A request, its place in the turn, and what its transaction's coordinator said.
struct Request<'a, 'v> {
    at: usize,
    incoming: &'a Incoming,
    verified: &'v Verified,
}

/// What the batch of a transaction is appended with.
fn verification_of(
    broker: &Broker,
    request: &Request<'_, '_>,
    replica: &Replica,
) -> Result<Verification, ApiError> {
    let operation = Operation::of_produce(request.incoming.call.api_version);
    if !verification::is_required(broker, operation) {
        return Ok(Verification::Waived);
    }
    let verification = request.verified.of(&replica.id);
    verification.map_err(|code| verification::produce_refusal(code, operation))
}

/// One request and what has become of it.
struct Production {
    api_version: i16,
    acks: i16,
    timeout: Duration,
    answer: ProduceAnswer,
    /// Topic and partition positions in `answer`, with what must be waited for.
    waits: SmallVec<[(usize, usize, CommitWait); 1]>,
    /// The producer of its transactional batches.
    transactional_producer: Option<i64>,
}

impl Production {
    /// Reads a request; what is valid in it goes to `parts`, everything else is refused at once.
    fn read<'a>(
        broker: &Broker,
        now: Now,
        request: &Request<'a, '_>,
        parts: &mut Parts<'a>,
    ) -> Result<Self, Cut> {
        let api_version = request.incoming.call.api_version;
        let (preamble, mut reader) = Reader::begin(api_version, &request.incoming.frame.body)?;
        let mut production = Self {
            api_version,
            acks: preamble.acks,
            timeout: Duration::from_millis(u64::try_from(preamble.timeout_ms).unwrap_or(0)),
            answer: ProduceAnswer::default(),
            waits: SmallVec::new(),
            transactional_producer: None,
        };
        // No part goes to the log unless the whole request could be read.
        let parts_before = parts.len();
        let mut topic = Topic::none();
        loop {
            match reader.next() {
                Ok(None) => return Ok(production),
                Ok(Some(Item::Topic(named))) => {
                    topic = Topic::find(broker, named);
                    production.answer.topics.push(TopicAnswer {
                        label: topic.label(),
                        partitions: SmallVec::new(),
                    });
                }
                Ok(Some(Item::Partition(index, records))) => {
                    let place = Place {
                        request,
                        preamble: &preamble,
                        topic: &topic,
                        index,
                    };
                    let validated = production.validate(broker, now, &place, records);
                    production.note(broker, &place, validated, parts);
                }
                Err(cut) => {
                    parts.truncate(parts_before);
                    return Err(cut);
                }
            }
        }
    }

    /// Makes room for the partition's answer, and a part of what is to be appended.
    fn note<'a>(
        &mut self,
        broker: &Broker,
        place: &Place<'_>,
        validated: Result<Valid<'a>, Refusal>,
        parts: &mut Parts<'a>,
    ) {
        let index = place.index;
        let at = self.answer.topics.len() - 1;
        let outcome = match validated {
            Ok(valid) => {
                parts.push(Part {
                    request: place.request.at,
                    topic: at,
                    partition: self.answer.topics[at].partitions.len(),
                    replica: valid.replica,
                    acks_all: self.acks == -1,
                    log_append_time_ms: valid.log_append_time_ms,
                    batch: valid.batch,
                });
                // Takes its place until the append is done.
                Ok(Accepted {
                    base_offset: -1,
                    log_append_time_ms: -1,
                    log_start_offset: -1,
                })
            }
            Err(refusal) => Err(self.refused(broker, place.topic.name(), index, refusal)),
        };
        self.answer.topics[at]
            .partitions
            .push(PartitionAnswer { index, outcome });
    }

    fn validate<'a>(
        &mut self,
        broker: &Broker,
        now: Now,
        place: &Place<'_>,
        records: &'a [u8],
    ) -> Result<Valid<'a>, Refusal> {
        if !(-1..=1).contains(&place.preamble.acks) {
            let detail = format!("acks must be -1, 0 or 1, not {}", place.preamble.acks);
            return Err(ApiError::new(ErrorCode::InvalidRequiredAcks, detail).into());
        }
        let replica = place.topic.replica(broker, place.index)?;
        let config = replica.config();
        let validated = validate_produce(records, &self.rules(now, &config))?;
        let batch = leader_batch(&config, &validated, records)?;
        let batch = if validated.header.is_transactional() {
            self.check_transaction(place.preamble, &validated.header)?;
            batch.verified(verification_of(broker, place.request, &replica)?)
        } else {
            batch
        };
        Ok(Valid {
            replica,
            batch,
            log_append_time_ms: validated.log_append_time_ms,
        })
    }

    /// A request has one transaction, whose producer writes all its transactional batches.
    fn check_transaction(&mut self, preamble: &Preamble<'_>, header: &BatchHeader) -> Result<(), ApiError> {
        if preamble.transactional_id.is_none() {
            let detail = "transactional records need a transactional id";
            return Err(ApiError::new(
                ErrorCode::TransactionalIdAuthorizationFailed,
                detail,
            ));
        }
        let first = *self.transactional_producer.get_or_insert(header.producer_id);
        if first == header.producer_id {
            return Ok(());
        }
        let detail = format!(
            "producers {first} and {} in one transaction's request",
            header.producer_id
        );
        Err(ApiError::new(ErrorCode::InvalidProducerIdMapping, detail))
    }

    fn rules(&self, now: Now, config: &TopicConfig) -> ProduceRules {
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

    /// Writes what has become of a part into its place.
    fn settle(&mut self, broker: &Broker, part: &Part<'_>, outcome: Result<Accepted, Refusal>) {
        let topic = &part.replica.id.topic;
        let index = self.answer.topics[part.topic].partitions[part.partition].index;
        let outcome = outcome.map_err(|refusal| self.refused(broker, Some(topic), index, refusal));
        self.answer.topics[part.topic].partitions[part.partition].outcome = outcome;
    }

    fn refused(&self, broker: &Broker, topic: Option<&str>, index: i32, refusal: Refusal) -> Box<Refused> {
        broker.metrics.refused(ApiKey::Produce, refusal.code);
        Box::new(Refused {
            code: refusal.code,
            message: (refusal.message != refusal.code.to_string()).then_some(refusal.message),
            record_errors: refusal.record_errors,
            log_start_offset: log_start_offset(broker, topic, index, refusal.code),
            leader: self.leader_hint(broker, topic, index, refusal.code),
        })
    }

    /// KIP-951: who wrote to the wrong node is told the right one.
    fn leader_hint(
        &self,
        broker: &Broker,
        topic: Option<&str>,
        index: i32,
        code: ErrorCode,
    ) -> Option<(i32, i32)> {
        let fits = self.api_version >= LEADER_HINTS_SINCE
            && matches!(
                code,
                ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch
            );
        let image = broker.image();
        let partition = image.partition(topic.filter(|_| fits)?, index)?;
        Some((partition.leader, partition.leader_epoch))
    }

    fn reply(self, broker: &Arc<Broker>, call: Call, timer: ApiTimer, done_at: Instant) -> Reply {
        if self.acks == 0 {
            timer.done_at(done_at);
            return Reply::Done(self.silent());
        }
        if self.waits.is_empty() {
            timer.done_at(done_at);
            return Reply::Done(self.respond(broker, &call));
        }
        let broker = broker.clone();
        let answer = async move { self.acknowledge(&broker, &call).await };
        Reply::pending_overlap(Timed::new(Box::pin(answer), timer))
    }

    /// acks=0: no bytes; an error is told by closing the connection.
    fn silent(self) -> Response {
        match self.answer.refused() {
            None => Response::NoAnswer,
            Some(refused) => {
                let error = ApiError {
                    code: refused.code,
                    detail: refused.message.clone().unwrap_or_default(),
                };
                Response::Close(format!("a produce with acks=0 failed: {error}"))
            }
        }
    }

    async fn acknowledge(mut self, broker: &Broker, call: &Call) -> Response {
        let deadline = tokio::time::Instant::now() + self.timeout;
        for (topic, partition, wait) in std::mem::take(&mut self.waits) {
            let outcome = match tokio::time::timeout_at(deadline, wait).await {
                Ok(Ok(outcome)) => outcome,
                // The replica left this node while the request waited.
                Ok(Err(_)) => Err(ErrorCode::NotLeaderOrFollower),
                Err(_) => Err(ErrorCode::RequestTimedOut),
            };
            if let Err(code) = outcome {
                let image = broker.image();
                let name = match &self.answer.topics[topic].label {
                    TopicLabel::Name(name) => std::str::from_utf8(name).ok(),
                    TopicLabel::Id(id) => image.topic_by_id(id).map(|topic| &*topic.name),
                };
                let index = self.answer.topics[topic].partitions[partition].index;
                let refused = self.refused(broker, name, index, ApiError::from(code).into());
                self.answer.topics[topic].partitions[partition].outcome = Err(refused);
            }
        }
        self.respond(broker, call)
    }

    fn respond(self, broker: &Broker, call: &Call) -> Response {
        let leaders = self.answer.leaders();
        let endpoints = if leaders.is_empty() {
            Vec::new()
        } else {
            let image = broker.image();
            let endpoint = |leader| {
                let broker = image.brokers.get(&leader)?;
                let endpoint = broker.endpoint(&call.connection.listener)?;
                Some(Endpoint {
                    node_id: leader,
                    host: endpoint.host.to_string(),
                    port: endpoint.port,
                    rack: broker.rack.as_deref().map(str::to_owned),
                })
            };
            leaders.into_iter().filter_map(endpoint).collect()
        };
        let bytes = self
            .answer
            .encode(call.api_version, call.correlation_id, &endpoints);
        Response::Frame(bytes.into())
    }
}

/// A partition in a request.
struct Place<'a> {
    request: &'a Request<'a, 'a>,
    preamble: &'a Preamble<'a>,
    topic: &'a Topic<'a>,
    index: i32,
}

/// A batch that may be appended, and where to.
struct Valid<'a> {
    replica: Arc<Replica>,
    batch: LeaderBatch<'a>,
    log_append_time_ms: i64,
}

/// The batch as the log is to hold it.
fn leader_batch<'a>(
    config: &TopicConfig,
    validated: &ProducedBatch,
    records: &'a [u8],
) -> Result<LeaderBatch<'a>, Refusal> {
    let produced_in = validated.header.compression().unwrap_or(Compression::None);
    let batch = LeaderBatch::produced(validated, records);
    let Some((codec, level)) = codec_of_topic(config, produced_in) else {
        return Ok(batch);
    };
    let max_message_bytes = usize::try_from(config.max_message_bytes).unwrap_or(0);
    let recompressed = recompress(&batch.to_bytes(), codec, level, max_message_bytes)?;
    LeaderBatch::whole(&recompressed)
        .map(LeaderBatch::into_owned)
        .map_err(|error| match error {
            AppendError::Refused(error) => error.into(),
            AppendError::Corrupt(_) | AppendError::OutOfOrder { .. } | AppendError::Log(_) => {
                ApiError::new(ErrorCode::CorruptMessage, error.to_string()).into()
            }
        })
}

/// Who sent records that the log refuses learns where it starts, as from Kafka.
fn log_start_offset(broker: &Broker, topic: Option<&str>, index: i32, code: ErrorCode) -> i64 {
    let of_records = matches!(
        code,
        ErrorCode::InvalidRecord
            | ErrorCode::InvalidTimestamp
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::OutOfOrderSequenceNumber
    );
    let replica = topic
        .filter(|_| of_records)
        .and_then(|topic| broker.replicas.get(topic, index));
    replica.map_or(-1, |replica| replica.offsets().log_start)
}

/// The topic that a request names.
enum Topic<'a> {
    Name(&'a str),
    Id(uuid::Uuid, Arc<str>),
    Unknown(uuid::Uuid),
}

impl<'a> Topic<'a> {
    fn none() -> Self {
        Self::Name("")
    }

    fn find(broker: &Broker, named: TopicRef<'a>) -> Self {
        match named {
            TopicRef::Name(name) => Self::Name(name),
            TopicRef::Id(id) => match broker.image().topic_by_id(&id) {
                Some(topic) => Self::Id(id, topic.name.clone()),
                None => Self::Unknown(id),
            },
        }
    }

    fn label(&self) -> TopicLabel {
        match self {
            Self::Name(name) => TopicLabel::Name(SmallVec::from_slice(name.as_bytes())),
            Self::Id(id, _) | Self::Unknown(id) => TopicLabel::Id(*id),
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Id(_, name) => Some(name),
            Self::Unknown(_) => None,
        }
    }

    fn replica(&self, broker: &Broker, index: i32) -> Result<Arc<Replica>, ApiError> {
        let name = self.name().ok_or(ErrorCode::UnknownTopicId)?;
        if is_internal(name) {
            let detail = format!("{name} is written by brokers alone");
            return Err(ApiError::new(ErrorCode::InvalidTopicException, detail));
        }
        let hosted = broker.replicas.hosted(name, index);
        // The code says all, as in Kafka: a request may name a million partitions, and a sentence for each would be kept.
        let replica = hosted.map_err(|error| error.code)?;
        match self {
            // The image that names a recreated topic is there before its replicas are.
            Self::Id(id, _) if *id != replica.topic_id => Err(ErrorCode::UnknownTopicId.into()),
            Self::Name(_) | Self::Id(..) | Self::Unknown(_) => Ok(replica),
        }
    }
}
