//! Fetch: records for consumers and followers, at once or when there are enough of them.
//!
//! A fetch looks at the partitions that its request names and at those that changed since they were last looked at; what a
//! session names beyond that costs nothing. While it is parked, an append marks the partition and wakes the fetch once, when
//! there may be enough; it looks at what is marked and at nothing else.

mod encode;
pub mod target;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kafka_protocol::messages::fetch_request::FetchTopic;
use kafka_protocol::messages::{ApiKey, FetchRequest};
use odradek_broker_core::fetch_session::{
    FetchContext, FetchKey, FetchPartition, FetchSession, PartitionAnswer, SessionRequest, SlotId, TopicKey,
};
use odradek_broker_core::partition::FollowerFetch;
use odradek_broker_log::read::Patience;
use odradek_common::error::{ErrorCode, wire_code};
use odradek_common::ids::NodeId;
use odradek_net::residency::read_ahead;
use odradek_net::sendfile::FileRange;
use odradek_net::service::{Reply, RequestFrame, Response};
use odradek_net::wire;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use uuid::Uuid;

use self::encode::{Answer, Endpoint, FetchAnswer, encode};
use self::target::Target;
use super::{Api, Call};
use crate::broker::Broker;
use crate::clock;
use crate::metrics::requests::ApiTimer;
use crate::replica::reading::{Isolation, ReadPlan, ReadRequest};
use crate::watch::{Change, Watch};

/// First version that names topics by id.
const TOPIC_IDS_SINCE: i16 = 13;
/// First version whose consumers may be answered by followers (KIP-392).
const FOLLOWER_READS_SINCE: i16 = 11;
/// First version with `last_fetched_epoch`.
const DIVERGING_SINCE: i16 = 12;
/// First version with `node_endpoints` (KIP-951).
const LEADER_HINTS_SINCE: i16 = 16;
/// First version with a broker epoch (KIP-903).
const BROKER_EPOCHS_SINCE: i16 = 15;
/// `isolation_level` of read_committed.
const READ_COMMITTED: i8 = 1;

/// After so many reads from disk on behalf of one fetch its partitions' locks are held while the disk is waited for: memory
/// is so short that what was read is gone before it is used.
const COLD_READS_MAX: usize = 32;

/// Copies of records that wait in memory for slow consumers, over all connections of the broker; what exceeds them is sent
/// from its file, which costs a system call more and no memory.
pub const FETCH_MEMORY_BYTES: usize = 32 << 20;

/// What one client fetches, and who marks what changed of it.
#[derive(Default)]
pub struct Session {
    fetch: FetchSession<Target>,
    watch: Arc<Watch>,
    /// Partitions of the round at hand; kept for its memory.
    slots: Vec<SlotId>,
}

/// A session as the broker keeps it.
pub type SharedSession = Arc<Mutex<Session>>;

/// The row of the table: answers are made by hand, and most need no future.
pub fn row() -> Api {
    Api {
        key: ApiKey::Fetch,
        versions: wire::served_versions::<FetchRequest>(),
        forwarded: false,
        run,
    }
}

/// Answers at once, or parks the fetch.
fn run(broker: Arc<Broker>, call: Call, frame: RequestFrame, timer: ApiTimer) -> Reply {
    let request = match wire::decode_request::<FetchRequest>(&frame) {
        Ok(request) => request,
        Err(error) => return Reply::Done(Response::Close(error.to_string())),
    };
    let parameters = Parameters::new(&broker, &call, &request);
    let mut fetch = match Fetch::begin(broker, parameters, request) {
        Ok(fetch) => fetch,
        Err(refused) => {
            timer.done();
            return Reply::Done(refused);
        }
    };
    if fetch.is_enough() {
        let response = fetch.answer();
        timer.done();
        return Reply::Done(response);
    }
    // A parked fetch holds no request memory.
    drop(frame);
    let timer = timer.parked();
    Reply::pending(async move {
        let response = fetch.wait().await;
        timer.done();
        response
    })
}

/// The request apart from its partitions.
struct Parameters {
    api_version: i16,
    correlation_id: i32,
    session: SessionRequest,
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
        let (id, epoch) = if call.api_version >= BROKER_EPOCHS_SINCE {
            let state = &request.replica_state;
            (state.replica_id.0, state.replica_epoch)
        } else {
            (request.replica_id.0, -1)
        };
        let isolation = match (id >= 0, request.isolation_level) {
            (true, _) => Isolation::LogEnd,
            (false, READ_COMMITTED) => Isolation::ReadCommitted,
            (false, _) => Isolation::ReadUncommitted,
        };
        let size = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
        let max_bytes = size(request.max_bytes).min(broker.fetch_max_bytes);
        Self {
            api_version: call.api_version,
            correlation_id: call.correlation_id,
            session: SessionRequest {
                id: request.session_id,
                epoch: request.session_epoch,
                uses_ids: call.api_version >= TOPIC_IDS_SINCE,
                follower: id >= 0,
            },
            follower: (id >= 0).then_some((id, epoch)),
            isolation,
            max_wait: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)),
            min_bytes: size(request.min_bytes).min(max_bytes),
            max_bytes,
            listener: call.connection.listener.clone(),
        }
    }

    fn topic_key(&self, name: &str, id: Uuid) -> TopicKey {
        if self.session.uses_ids {
            TopicKey::Id(id)
        } else {
            TopicKey::Name(Arc::from(name))
        }
    }

    fn read_request(
        &self,
        partition: &FetchPartition,
        found_bytes: usize,
        patience: Patience,
    ) -> ReadRequest {
        let left = self.max_bytes.saturating_sub(found_bytes);
        ReadRequest {
            offset: partition.fetch_offset,
            max_bytes: usize::try_from(partition.max_bytes).unwrap_or(0).min(left),
            min_one_batch: found_bytes == 0,
            isolation: self.isolation,
            current_leader_epoch: partition.current_leader_epoch,
            last_fetched_epoch: partition.last_fetched_epoch,
            follower_may_answer: self.follower.is_none() && self.api_version >= FOLLOWER_READS_SINCE,
            patience,
        }
    }

    fn encode(&self, broker: &Broker, answer: &FetchAnswer) -> Response {
        let frame = encode(
            self.api_version,
            self.correlation_id,
            answer,
            &broker.fetch_memory,
        );
        Response::Frame(frame)
    }

    fn refuse(&self, broker: &Broker, code: ErrorCode) -> Response {
        broker.metrics.refused(ApiKey::Fetch, code);
        let answer = FetchAnswer {
            error_code: code.code(),
            session_id: 0,
            answers: Vec::new(),
            endpoints: Vec::new(),
        };
        self.encode(broker, &answer)
    }
}

fn partitions<'a>(
    parameters: &'a Parameters,
    topics: &'a [FetchTopic],
) -> impl Iterator<Item = FetchPartition> + 'a {
    topics.iter().flat_map(|topic| {
        let key = parameters.topic_key(topic.topic.0.as_str(), topic.topic_id);
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
    })
}

/// One request in work.
struct Fetch {
    broker: Arc<Broker>,
    parameters: Parameters,
    session: SharedSession,
    watch: Arc<Watch>,
    /// What becomes of the session.
    context: FetchContext<()>,
    round: u64,
    deadline: Instant,
    has_partitions: bool,
    /// What was found so far.
    bytes: usize,
    is_urgent: bool,
    /// What must be read from disk before all partitions can be looked at.
    cold: Option<FileRange>,
    cold_reads: usize,
    is_answered: bool,
}

/// Its client went away while it was parked: what the session found keeps no file, and appends tell it nothing.
impl Drop for Fetch {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let mut session = self.session.lock();
        if session.fetch.round() != self.round {
            return;
        }
        for (id, slot) in session.fetch.slots_mut() {
            if slot.attached.give_up() {
                // Whoever goes on with the session looks at it first.
                self.watch.mark(id, Change::Readable(0));
            }
        }
    }
}

impl Fetch {
    /// Takes over what the request says and looks for records.
    fn begin(broker: Arc<Broker>, parameters: Parameters, request: FetchRequest) -> Result<Self, Response> {
        let begun = broker.sessions.lock().begin(clock::now(), parameters.session);
        let context = begun.map_err(|code| parameters.refuse(&broker, code))?;
        let (context, session) = match context {
            FetchContext::Sessionless => (FetchContext::Sessionless, SharedSession::default()),
            FetchContext::Full => (FetchContext::Full, SharedSession::default()),
            FetchContext::Incremental(session) => (FetchContext::Incremental(()), session),
        };
        let mut locked = session.lock();
        let Session { fetch, watch, .. } = &mut *locked;
        let attach = |slot, p: &FetchPartition| Target::new(&broker, watch, slot, p);
        let named = partitions(&parameters, &request.topics);
        match context {
            FetchContext::Sessionless => *fetch = FetchSession::once(named, attach),
            FetchContext::Full => fetch.update(named, attach),
            FetchContext::Incremental(()) => {
                fetch.update(named, attach);
                fetch.forget(forgotten(&parameters, &request));
            }
        }
        // Under the same lock: the fetch that this one supersedes must not come upon what it has not looked at.
        Ok(Self::start(
            broker,
            parameters,
            context,
            session.clone(),
            &mut locked,
        ))
    }

    fn start(
        broker: Arc<Broker>,
        parameters: Parameters,
        context: FetchContext<()>,
        session: SharedSession,
        locked: &mut Session,
    ) -> Self {
        let mut fetch = Self {
            session,
            watch: locked.watch.clone(),
            context,
            round: locked.begin_round(),
            deadline: Instant::now() + parameters.max_wait,
            has_partitions: !locked.fetch.is_empty(),
            bytes: 0,
            is_urgent: false,
            cold: None,
            cold_reads: 0,
            is_answered: false,
            broker,
            parameters,
        };
        fetch.refresh(locked);
        fetch.note_follower(locked);
        fetch.look(locked);
        fetch
    }

    /// Forgets what was found, and finds the replicas again that went away: they come and go while a session stays.
    fn refresh(&mut self, session: &mut Session) {
        for &id in &session.slots {
            let slot = session.fetch.slot_mut(id);
            // A request that was superseded leaves plans that this one has not counted.
            self.bytes = self.bytes.saturating_sub(slot.attached.planned_bytes());
            slot.attached.plan = None;
            slot.attached
                .refresh(&self.broker, &session.watch, id, &slot.request);
        }
    }

    /// A follower's offsets tell how far it has come, whether or not there is anything to send. A stranger gets no records.
    ///
    /// Of partitions that did not change and that the request does not name, the follower has said all there is to say.
    fn note_follower(&self, session: &mut Session) {
        let Some((replica, broker_epoch)) = self.parameters.follower else {
            return;
        };
        let now = clock::now();
        // KAFKA-15221: a fetch that an earlier incarnation left on its way says nothing about what is left of it.
        let image = self.broker.image();
        let registered = image.brokers.get(&replica);
        let is_stale = broker_epoch >= 0 && registered.is_some_and(|b| b.broker_epoch > broker_epoch);
        for &id in &session.slots {
            let slot = session.fetch.slot_mut(id);
            let (request, target) = (&slot.request, &mut slot.attached);
            let Some(hosted) = target.hosted() else { continue };
            if is_stale {
                target.replica = Err(ErrorCode::NotLeaderOrFollower);
                continue;
            }
            let last_fetched_epoch = if self.parameters.api_version >= DIVERGING_SINCE {
                request.last_fetched_epoch
            } else {
                -1
            };
            let fetch = FollowerFetch {
                replica,
                broker_epoch,
                fetch_offset: request.fetch_offset,
                log_start_offset: request.log_start_offset,
            };
            match hosted.follower_asked(now, fetch, request.current_leader_epoch, last_fetched_epoch) {
                Ok(progress) if progress.may_expand => self.broker.isr.expand(hosted),
                Ok(_) => {}
                // Who knows no epoch cannot be ahead of this leader: it is no replica.
                Err(ErrorCode::UnknownLeaderEpoch) if request.current_leader_epoch < 0 => {
                    target.replica = Err(ErrorCode::NotLeaderOrFollower);
                }
                Err(code) => target.replica = Err(code),
            }
        }
    }

    /// Looks at the partitions of `slots`, of which nothing is known.
    fn look(&mut self, session: &mut Session) {
        let patience = if self.cold_reads < COLD_READS_MAX {
            Patience::Refuse
        } else {
            Patience::Wait
        };
        for &id in &session.slots {
            let slot = session.fetch.slot_mut(id);
            let target = &mut slot.attached;
            let request = self.parameters.read_request(&slot.request, self.bytes, patience);
            // Whoever waits for nothing is told of what comes after that all the same.
            target.look(request, self.parameters.min_bytes.max(1));
            if let Some(cold) = target.cold() {
                // Whichever is cold beside it will be found so when this one is not any more.
                self.watch.mark(id, Change::Readable(0));
                self.cold = Some(cold);
            }
            self.bytes += target.planned_bytes();
            self.is_urgent |= target.is_urgent();
        }
    }

    /// True if there is something that must be answered now (protocol.md 50).
    fn is_enough(&self) -> bool {
        let answers = self.parameters.max_wait.is_zero()
            || !self.has_partitions
            || self.is_urgent
            || self.bytes >= self.parameters.min_bytes
            || self.broker.stopping.load(Ordering::Acquire);
        answers && self.cold.is_none()
    }

    async fn wait(mut self) -> Response {
        while !self.is_enough() {
            let timed_out = if let Some(cold) = self.cold.take() {
                self.read_cold(cold).await;
                false
            } else if self
                .watch
                .park(self.round, self.parameters.min_bytes - self.bytes)
            {
                let over = poll_fn(|cx| self.watch.poll_over(self.round, cx));
                tokio::time::timeout_at(self.deadline, over).await.is_err()
            } else {
                false
            };
            if self.look_again().is_err() {
                return self.supersede();
            }
            if timed_out && self.cold.is_none() {
                break;
            }
        }
        self.answer()
    }

    /// Waits for the disk while nobody else waits for this fetch.
    async fn read_cold(&mut self, cold: FileRange) {
        self.cold_reads += 1;
        if let Err(error) = read_ahead(cold).await {
            slog::error!(self.broker.log, "cannot read a segment"; "error" => %error);
            // Whoever waits for the disk is told of the failure, as an error of its partition.
            self.cold_reads = COLD_READS_MAX;
        }
    }

    /// Looks at what changed since the last look. An error if the client has sent its next request since.
    fn look_again(&mut self) -> Result<(), Superseded> {
        let session = self.session.clone();
        let mut locked = session.lock();
        if locked.fetch.round() != self.round {
            return Err(Superseded);
        }
        locked.take_changes();
        self.refresh(&mut locked);
        self.look(&mut locked);
        Ok(())
    }

    fn supersede(&self) -> Response {
        self.parameters
            .refuse(&self.broker, ErrorCode::InvalidFetchSessionEpoch)
    }

    fn answer(&mut self) -> Response {
        self.is_answered = true;
        let session = self.session.clone();
        let mut locked = session.lock();
        if locked.fetch.round() != self.round {
            return self.supersede();
        }
        let answers = self.settle(&mut locked);
        let session_id = self.session_id(&locked);
        drop(locked);
        let endpoints = if self.parameters.api_version >= LEADER_HINTS_SINCE {
            self.endpoints(&answers)
        } else {
            Vec::new()
        };
        let answer = FetchAnswer {
            error_code: 0,
            session_id,
            answers,
            endpoints,
        };
        self.parameters.encode(&self.broker, &answer)
    }

    /// The answers of the partitions that the response carries.
    fn settle(&self, session: &mut MutexGuard<'_, Session>) -> Vec<Answer> {
        session.slots_of_round();
        let Session { fetch, slots, .. } = &mut **session;
        let mut answers = Vec::with_capacity(slots.len());
        for &id in slots.iter() {
            let slot = fetch.slot_mut(id);
            let plan = slot
                .attached
                .plan
                .take()
                .expect("whatever is ready has been looked at");
            let answer = match plan {
                Ok(plan) => self.found(&slot.request, &slot.attached, plan),
                Err(code) => self.refused(&slot.request, &slot.attached, code),
            };
            let summary = summary(&answer, self.is_follower_out_of_sync(&slot.attached));
            slot.attached.release();
            if fetch.settle(id, summary) {
                answers.push(answer);
            }
        }
        fetch.end_round();
        answers
    }

    /// Until a follower is a member of the ISR, every fetch may be the one that makes it so. It may have been one when this
    /// fetch began.
    fn is_follower_out_of_sync(&self, target: &Target) -> bool {
        match (self.parameters.follower, target.hosted()) {
            (Some((follower, _)), Some(replica)) => !replica.has_in_sync(follower),
            _ => false,
        }
    }

    fn session_id(&self, session: &Session) -> i32 {
        let id = self.parameters.session.id;
        match (&self.context, session.fetch.is_empty()) {
            (FetchContext::Sessionless, _) | (FetchContext::Full, true) => 0,
            (FetchContext::Full, false) => {
                let mut sessions = self.broker.sessions.lock();
                sessions.open(clock::now(), self.parameters.session, self.session.clone())
            }
            (FetchContext::Incremental(()), false) => id,
            (FetchContext::Incremental(()), true) => {
                self.broker.sessions.lock().close(id);
                0
            }
        }
    }

    fn found(&self, request: &FetchPartition, target: &Target, plan: ReadPlan) -> Answer {
        if let Some(replica) = target.hosted() {
            let traffic = &replica.traffic;
            let is_follower = self.parameters.follower.is_some();
            self.broker
                .metrics
                .fetched(traffic, plan.size_bytes(), is_follower);
        }
        let read_committed = self.parameters.isolation == Isolation::ReadCommitted;
        Answer {
            topic: target.topic.clone(),
            topic_id: target.topic_id(request),
            partition: request.key.partition,
            error_code: 0,
            high_watermark: plan.offsets.high_watermark,
            last_stable_offset: plan.offsets.last_stable,
            log_start_offset: plan.offsets.log_start,
            diverging: plan
                .diverging
                .filter(|_| self.parameters.api_version >= DIVERGING_SINCE),
            leader: None,
            aborted: read_committed.then_some(plan.aborted),
            preferred_read_replica: -1,
            records: plan.slice,
        }
    }

    fn refused(&self, request: &FetchPartition, target: &Target, code: ErrorCode) -> Answer {
        self.broker.metrics.refused(ApiKey::Fetch, code);
        let hints = self.parameters.api_version >= DIVERGING_SINCE
            && matches!(
                code,
                ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch
            );
        let leader = target.topic.as_deref().filter(|_| hints).and_then(|topic| {
            let image = self.broker.image();
            let partition = image.partition(topic, request.key.partition)?;
            Some((partition.leader, partition.leader_epoch))
        });
        Answer {
            topic: target.topic.clone(),
            topic_id: target.topic_id(request),
            partition: request.key.partition,
            error_code: wire_code(Some(code)),
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging: None,
            leader,
            aborted: target.replica.is_err().then(Vec::new),
            preferred_read_replica: -1,
            records: None,
        }
    }

    /// Where the leaders are that the answers name.
    fn endpoints(&self, answers: &[Answer]) -> Vec<Endpoint> {
        let named = answers.iter().filter_map(|answer| answer.leader);
        let mut leaders: Vec<NodeId> = named.map(|(leader, _)| leader).collect();
        if leaders.is_empty() {
            return Vec::new();
        }
        leaders.sort_unstable();
        leaders.dedup();
        let image = self.broker.image();
        let known = leaders.iter().filter_map(|leader| image.brokers.get(leader));
        known
            .filter_map(|broker| {
                let endpoint = broker.endpoint(&self.parameters.listener)?;
                Some(Endpoint {
                    node_id: broker.broker_id,
                    host: endpoint.host.to_string(),
                    port: i32::from(endpoint.port),
                    rack: broker.rack.as_deref().map(str::to_owned),
                })
            })
            .collect()
    }
}

/// The client has sent its next request of the session.
struct Superseded;

impl Session {
    /// Whoever waits for an earlier request is superseded. `slots` are all that this one must look at.
    fn begin_round(&mut self) -> u64 {
        let round = self.fetch.begin_round();
        self.slots.clear();
        self.watch.begin_round(round, &mut self.slots);
        self.mark_slots();
        self.slots_of_round();
        round
    }

    /// `slots` are those that changed since they were last looked at.
    fn take_changes(&mut self) {
        self.slots.clear();
        self.watch.take(&mut self.slots);
        self.mark_slots();
    }

    fn mark_slots(&mut self) {
        // A mark may come late, of a partition that has left.
        self.slots.retain(|id| self.fetch.mark(*id));
    }

    /// `slots` are all that must be looked at.
    fn slots_of_round(&mut self) {
        self.slots.clear();
        self.slots.extend_from_slice(self.fetch.ready());
    }
}

fn forgotten(parameters: &Parameters, request: &FetchRequest) -> impl Iterator<Item = FetchKey> {
    request.forgotten_topics_data.iter().flat_map(|topic| {
        let key = parameters.topic_key(topic.topic.0.as_str(), topic.topic_id);
        topic.partitions.iter().map(move |index| FetchKey {
            topic: key.clone(),
            partition: *index,
        })
    })
}

fn summary(answer: &Answer, stays_ready: bool) -> PartitionAnswer {
    let failed = answer.error_code != 0;
    let has_records = answer.records.as_ref().is_some_and(|records| !records.is_empty());
    PartitionAnswer {
        high_watermark: answer.high_watermark,
        log_start_offset: answer.log_start_offset,
        must_send: failed || answer.diverging.is_some() || has_records,
        failed,
        // Records that had no room in this response.
        stays_ready: stays_ready || answer.records.is_some(),
    }
}
