//! Fetch: records for consumers and followers, at once or when there are enough of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::FetchTopic;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use kafka_protocol::messages::{ApiKey, BrokerId, FetchRequest, FetchResponse, ProducerId};
use odradek_broker_core::fetch_session::{
    FetchContext, FetchKey, FetchPartition, PartitionAnswer, SessionRequest, TopicKey,
};
use odradek_broker_core::partition::FollowerFetch;
use odradek_common::error::{ErrorCode, wire_code};
use odradek_common::ids::NodeId;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::clock;
use crate::names::{text, topic_name};
use crate::replica::{Isolation, ReadPlan, ReadRequest, Replica};

/// First version that names topics by id.
const TOPIC_IDS_SINCE: i16 = 13;
/// First version whose consumers may be answered by followers (KIP-392).
const FOLLOWER_READS_SINCE: i16 = 11;
/// First version with `last_fetched_epoch`.
const DIVERGING_SINCE: i16 = 12;
/// First version with `node_endpoints` (KIP-951).
const LEADER_HINTS_SINCE: i16 = 16;
/// `isolation_level` of read_committed.
const READ_COMMITTED: i8 = 1;

/// The handler.
pub struct Fetch;

impl Handler for Fetch {
    type Request = FetchRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: FetchRequest) -> FetchResponse {
        let fetch = Parameters::new(&broker, &call, &request);
        let context = broker
            .sessions
            .lock()
            .begin(clock::now(), session_request(&fetch, request));
        let context = match context {
            Ok(context) => context,
            Err(code) => {
                broker.metrics.refused(ApiKey::Fetch, code);
                return FetchResponse::default().with_error_code(code.code());
            }
        };
        let targets = context
            .partitions
            .iter()
            .map(|p| Target::new(&broker, p))
            .collect();
        let reading = Reading {
            broker: broker.clone(),
            fetch,
            targets,
        };
        let (fetch, answers) = reading.run().await;
        respond(&broker, &fetch, context, answers)
    }
}

/// The request apart from its partitions.
#[derive(Clone)]
struct Parameters {
    api_version: i16,
    /// Set for followers: node id and broker epoch.
    follower: Option<(NodeId, i64)>,
    isolation: Isolation,
    max_wait: Duration,
    min_bytes: usize,
    max_bytes: usize,
    listener: Arc<str>,
}

impl Parameters {
    fn new(broker: &Broker, call: &Call, request: &FetchRequest) -> Self {
        let (id, epoch) = if call.api_version >= 15 {
            (
                request.replica_state.replica_id.0,
                request.replica_state.replica_epoch,
            )
        } else {
            (request.replica_id.0, -1)
        };
        let isolation = match (id >= 0, request.isolation_level) {
            (true, _) => Isolation::LogEnd,
            (false, READ_COMMITTED) => Isolation::ReadCommitted,
            (false, _) => Isolation::ReadUncommitted,
        };
        let size = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
        Self {
            api_version: call.api_version,
            follower: (id >= 0).then_some((id, epoch)),
            isolation,
            max_wait: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)),
            min_bytes: size(request.min_bytes),
            max_bytes: size(request.max_bytes).min(broker.fetch_max_bytes),
            listener: call.connection.listener.clone(),
        }
    }
}

fn session_request(fetch: &Parameters, request: FetchRequest) -> SessionRequest {
    let uses_ids = fetch.api_version >= TOPIC_IDS_SINCE;
    let key = |name: &str, id: Uuid| {
        if uses_ids {
            TopicKey::Id(id)
        } else {
            TopicKey::Name(Arc::from(name))
        }
    };
    let partitions = request.topics.iter().flat_map(|topic| {
        let topic_key = key(topic.topic.0.as_str(), topic.topic_id);
        partitions_of(topic, topic_key)
    });
    let forgotten = request.forgotten_topics_data.iter().flat_map(|topic| {
        let topic_key = key(topic.topic.0.as_str(), topic.topic_id);
        topic.partitions.iter().map(move |index| FetchKey {
            topic: topic_key.clone(),
            partition: *index,
        })
    });
    SessionRequest {
        id: request.session_id,
        epoch: request.session_epoch,
        uses_ids,
        follower: fetch.follower.is_some(),
        partitions: partitions.collect(),
        forgotten: forgotten.collect(),
    }
}

fn partitions_of(topic: &FetchTopic, key: TopicKey) -> impl Iterator<Item = FetchPartition> {
    topic.partitions.iter().map(move |p| FetchPartition {
        key: FetchKey {
            topic: key.clone(),
            partition: p.partition,
        },
        current_leader_epoch: p.current_leader_epoch,
        fetch_offset: p.fetch_offset,
        last_fetched_epoch: p.last_fetched_epoch,
        log_start_offset: p.log_start_offset,
        max_bytes: p.partition_max_bytes,
    })
}

/// One partition and where it is served.
struct Target {
    request: FetchPartition,
    topic: Option<Arc<str>>,
    replica: Result<Arc<Replica>, ErrorCode>,
}

impl Target {
    fn new(broker: &Broker, request: &FetchPartition) -> Self {
        let topic = match &request.key.topic {
            TopicKey::Name(name) => Some(name.clone()),
            TopicKey::Id(id) => broker.image().topic_by_id(id).map(|topic| topic.name.clone()),
        };
        let index = request.key.partition;
        let replica = match (&topic, &request.key.topic) {
            (Some(topic), TopicKey::Id(id)) => broker.replicas.hosted_of(id, topic, index),
            (Some(topic), TopicKey::Name(_)) => broker.replicas.hosted(topic, index),
            (None, _) => Err(ErrorCode::UnknownTopicId.into()),
        };
        let replica = replica.map_err(|error| error.code);
        Self {
            request: request.clone(),
            topic,
            replica,
        }
    }
}

/// What one partition is answered with.
struct Answer {
    topic: Option<Arc<str>>,
    topic_id: Uuid,
    data: PartitionData,
}

struct Reading {
    broker: Arc<Broker>,
    fetch: Parameters,
    targets: Vec<Target>,
}

impl Reading {
    async fn run(mut self) -> (Parameters, Vec<Answer>) {
        self.note_follower();
        let deadline = tokio::time::Instant::now() + self.fetch.max_wait;
        let mut plans = self.plan(None).0;
        while !self.is_enough(&plans) && tokio::time::Instant::now() < deadline {
            let reader = Arc::new(Notify::new());
            let (again, registered) = self.plan(Some(&reader));
            plans = again;
            let registrations = Registrations {
                targets: &self.targets,
                ids: registered,
            };
            if self.is_enough(&plans) {
                break;
            }
            let timed_out = tokio::time::timeout_at(deadline, reader.notified())
                .await
                .is_err();
            drop(registrations);
            plans = self.plan(None).0;
            if timed_out {
                break;
            }
        }
        let answers = self.read(plans);
        (self.fetch, answers)
    }

    /// A follower's offsets tell how far it has come, whether or not there is anything to send.
    /// A stranger gets no records.
    fn note_follower(&mut self) {
        let Some((replica, broker_epoch)) = self.fetch.follower else {
            return;
        };
        let now = clock::now();
        // KAFKA-15221: a fetch that an earlier incarnation left on its way says nothing about what is left of it.
        let image = self.broker.image();
        let registered = image.brokers.get(&replica);
        let is_stale = broker_epoch >= 0 && registered.is_some_and(|b| b.broker_epoch > broker_epoch);
        for target in &mut self.targets {
            let Ok(hosted) = &target.replica else { continue };
            if is_stale {
                target.replica = Err(ErrorCode::NotLeaderOrFollower);
                continue;
            }
            let last_fetched_epoch = if self.fetch.api_version >= DIVERGING_SINCE {
                target.request.last_fetched_epoch
            } else {
                -1
            };
            let fetch = FollowerFetch {
                replica,
                broker_epoch,
                fetch_offset: target.request.fetch_offset,
                log_start_offset: target.request.log_start_offset,
            };
            let current_leader_epoch = target.request.current_leader_epoch;
            match hosted.follower_asked(now, fetch, current_leader_epoch, last_fetched_epoch) {
                Ok(progress) if progress.may_expand => self.broker.isr.expand(hosted),
                Ok(_) => {}
                // Who knows no epoch cannot be ahead of this leader: it is no replica.
                Err(ErrorCode::UnknownLeaderEpoch) if target.request.current_leader_epoch < 0 => {
                    target.replica = Err(ErrorCode::NotLeaderOrFollower);
                }
                Err(code) => target.replica = Err(code),
            }
        }
    }

    fn plan(&self, reader: Option<&Arc<Notify>>) -> (Vec<Result<ReadPlan, ErrorCode>>, Vec<Option<u64>>) {
        let mut left = self.fetch.max_bytes;
        let mut min_one_batch = true;
        let mut plans = Vec::with_capacity(self.targets.len());
        let mut registered = Vec::new();
        for target in &self.targets {
            let request = ReadRequest {
                offset: target.request.fetch_offset,
                max_bytes: usize::try_from(target.request.max_bytes).unwrap_or(0).min(left),
                min_one_batch,
                isolation: self.fetch.isolation,
                current_leader_epoch: target.request.current_leader_epoch,
                last_fetched_epoch: target.request.last_fetched_epoch,
                follower_may_answer: self.fetch.follower.is_none()
                    && self.fetch.api_version >= FOLLOWER_READS_SINCE,
            };
            let (plan, id) = match (&target.replica, reader) {
                (Err(code), _) => (Err(*code), None),
                (Ok(replica), _) if replica.is_offline() => (Err(ErrorCode::KafkaStorageError), None),
                (Ok(replica), None) => (replica.read(request), None),
                (Ok(replica), Some(reader)) => match replica.read_or_wait(request, reader) {
                    Ok((plan, id)) => (Ok(plan), Some(id)),
                    Err(code) => (Err(code), None),
                },
            };
            let size = plan.as_ref().map_or(0, planned_bytes);
            left = left.saturating_sub(size);
            min_one_batch &= size == 0;
            plans.push(plan);
            registered.push(id);
        }
        (plans, registered)
    }

    /// True if there is something that must be answered now (protocol.md 50).
    fn is_enough(&self, plans: &[Result<ReadPlan, ErrorCode>]) -> bool {
        let stopping = self.broker.stopping.load(std::sync::atomic::Ordering::Acquire);
        if self.fetch.max_wait.is_zero() || plans.is_empty() || stopping {
            return true;
        }
        let mut bytes = 0;
        for plan in plans {
            match plan {
                Err(_) => return true,
                Ok(plan) if plan.diverging.is_some() => return true,
                Ok(plan) => bytes += planned_bytes(plan),
            }
        }
        bytes >= self.fetch.min_bytes.max(1)
    }

    fn read(&self, plans: Vec<Result<ReadPlan, ErrorCode>>) -> Vec<Answer> {
        let targets = self.targets.iter().zip(plans);
        targets
            .map(|(target, plan)| {
                let topic_id = match (&target.request.key.topic, &target.replica) {
                    (TopicKey::Id(id), _) => *id,
                    (TopicKey::Name(_), Ok(replica)) => replica.topic_id,
                    (TopicKey::Name(_), Err(_)) => Uuid::nil(),
                };
                let data = match plan {
                    Ok(plan) => self.answer(target, plan),
                    Err(code) => self.refused(target, code),
                };
                Answer {
                    topic: target.topic.clone(),
                    topic_id,
                    data,
                }
            })
            .collect()
    }

    fn answer(&self, target: &Target, plan: ReadPlan) -> PartitionData {
        let records = match &plan.slice {
            None => Bytes::new(),
            Some(slice) => match slice.read() {
                Ok(records) => records,
                Err(error) => {
                    slog::error!(self.broker.log, "cannot read a segment";
                        "partition" => %target.request.key.partition, "error" => %error);
                    return self.refused(target, ErrorCode::KafkaStorageError);
                }
            },
        };
        if let Ok(replica) = &target.replica {
            self.broker
                .metrics
                .fetched(&replica.traffic, records.len(), self.fetch.follower.is_some());
        }
        let aborted = plan.aborted.iter().map(|(producer_id, first_offset)| {
            let aborted = AbortedTransaction::default().with_producer_id(ProducerId(*producer_id));
            aborted.with_first_offset(*first_offset)
        });
        let read_committed = self.fetch.isolation == Isolation::ReadCommitted;
        let data = PartitionData::default()
            .with_partition_index(target.request.key.partition)
            .with_high_watermark(plan.offsets.high_watermark)
            .with_last_stable_offset(plan.offsets.last_stable)
            .with_log_start_offset(plan.offsets.log_start)
            .with_aborted_transactions(read_committed.then(|| aborted.collect()))
            .with_preferred_read_replica(BrokerId(-1))
            .with_records(Some(records));
        match plan.diverging {
            Some((epoch, end_offset)) if self.fetch.api_version >= DIVERGING_SINCE => data
                .with_diverging_epoch(
                    EpochEndOffset::default()
                        .with_epoch(epoch)
                        .with_end_offset(end_offset),
                ),
            _ => data,
        }
    }

    fn refused(&self, target: &Target, code: ErrorCode) -> PartitionData {
        self.broker.metrics.refused(ApiKey::Fetch, code);
        let data = PartitionData::default()
            .with_partition_index(target.request.key.partition)
            .with_error_code(wire_code(Some(code)))
            .with_high_watermark(-1)
            .with_last_stable_offset(-1)
            .with_log_start_offset(-1)
            .with_aborted_transactions(target.replica.is_err().then(Vec::new))
            .with_preferred_read_replica(BrokerId(-1))
            .with_records(Some(Bytes::new()));
        let hints = self.fetch.api_version >= DIVERGING_SINCE
            && matches!(
                code,
                ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch
            );
        let leader = target.topic.as_deref().filter(|_| hints).and_then(|topic| {
            let image = self.broker.image();
            image.partition(topic, target.request.key.partition).cloned()
        });
        match leader {
            None => data,
            Some(partition) => data.with_current_leader(
                LeaderIdAndEpoch::default()
                    .with_leader_id(BrokerId(partition.leader))
                    .with_leader_epoch(partition.leader_epoch),
            ),
        }
    }
}

/// Takes parked readers off the lists of partitions that did not wake them.
struct Registrations<'a> {
    targets: &'a [Target],
    ids: Vec<Option<u64>>,
}

impl Drop for Registrations<'_> {
    fn drop(&mut self) {
        for (target, id) in self.targets.iter().zip(&self.ids) {
            if let (Ok(replica), Some(id)) = (&target.replica, id) {
                replica.forget_reader(*id);
            }
        }
    }
}

fn planned_bytes(plan: &ReadPlan) -> usize {
    plan.slice.as_ref().map_or(0, |slice| slice.size_bytes)
}

fn respond(
    broker: &Broker,
    fetch: &Parameters,
    context: FetchContext,
    answers: Vec<Answer>,
) -> FetchResponse {
    let summaries: Vec<PartitionAnswer> = answers.iter().map(|answer| summary(&answer.data)).collect();
    let (session_id, keep) = broker.sessions.lock().finish(clock::now(), context, &summaries);
    let mut leaders = Vec::new();
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    let mut at: BTreeMap<(Option<Arc<str>>, Uuid), usize> = BTreeMap::new();
    for (answer, _) in answers.into_iter().zip(keep).filter(|(_, keep)| *keep) {
        leaders.push(answer.data.current_leader.leader_id.0);
        let next = responses.len();
        let at = *at.entry((answer.topic.clone(), answer.topic_id)).or_insert(next);
        if at == next {
            let name = topic_name(answer.topic.as_deref().unwrap_or_default());
            responses.push(
                FetchableTopicResponse::default()
                    .with_topic(name)
                    .with_topic_id(answer.topic_id),
            );
        }
        responses[at].partitions.push(answer.data);
    }
    leaders.sort_unstable();
    leaders.dedup();
    let endpoints = if fetch.api_version >= LEADER_HINTS_SINCE {
        endpoints(broker, &fetch.listener, &leaders)
    } else {
        Vec::new()
    };
    FetchResponse::default()
        .with_session_id(session_id)
        .with_responses(responses)
        .with_node_endpoints(endpoints)
}

fn endpoints(broker: &Broker, listener: &str, leaders: &[NodeId]) -> Vec<NodeEndpoint> {
    let image = broker.image();
    let known = leaders.iter().filter_map(|leader| image.brokers.get(leader));
    known
        .filter_map(|broker| {
            let endpoint = broker.endpoint(listener)?;
            let node = NodeEndpoint::default().with_node_id(BrokerId(broker.broker_id));
            let node = node
                .with_host(text(&endpoint.host))
                .with_port(i32::from(endpoint.port));
            Some(node.with_rack(broker.rack.as_deref().map(text)))
        })
        .collect()
}

fn summary(data: &PartitionData) -> PartitionAnswer {
    let failed = data.error_code != 0;
    let diverges = data.diverging_epoch != EpochEndOffset::default();
    PartitionAnswer {
        high_watermark: data.high_watermark,
        log_start_offset: data.log_start_offset,
        must_send: failed || diverges || data.records.as_ref().is_some_and(|records| !records.is_empty()),
        failed,
    }
}
