//! The loop of one leader: ask, hand the answer to the replicas, ask again.
//!
//! A round costs what has changed: replicas mark what they have appended, truncated or lost, and only those are looked at.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_response::{EpochEndOffset, PartitionData};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchResponse, ListOffsetsRequest};
use odradek_broker_core::fetch_session::SlotId;
use odradek_broker_log::error::LogError;
use odradek_broker_log::log::Log;
use odradek_common::error::ErrorCode;
use odradek_common::ids::{NodeId, TopicPartition};
use odradek_net::client::{ClientError, ClientSettings};
use odradek_net::exchange::Exchange;
use slog::Logger;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::session::{FetcherSession, Key, Limits, Position};
use super::{Followed, Shared};
use crate::broker::Broker;
use crate::clock;
use crate::connection_limits::connect_timeout;
use crate::names::topic_name;
use crate::replica::reading::Isolation;
use crate::replica::watchers::Watcher;
use crate::replica::{AppendRefusal, CommitWait, FollowerAppend, OutOfRange, Replica};
use crate::watch::{Change, Watch};

/// Fetch with topic ids and broker epochs.
const FETCH_VERSION: i16 = 17;
const LIST_OFFSETS_VERSION: i16 = 8;
const LATEST: i64 = -1;
const EARLIEST_LOCAL: i64 = -4;
/// First and last pause before a leader that could not be reached is tried again.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(20);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Fetches from `leader` until the publisher drops the task.
pub(super) async fn run(
    broker: Weak<Broker>,
    leader: NodeId,
    shared: Arc<Shared>,
    mut woken: mpsc::Receiver<()>,
) {
    let Some(log) = broker
        .upgrade()
        .map(|broker| broker.log.new(slog::o!("leader" => leader)))
    else {
        return;
    };
    let mut fetcher = Fetcher {
        broker,
        leader,
        log,
        shared,
        version: 0,
        address: None,
        partitions: BTreeMap::new(),
        paused: BTreeMap::new(),
        changes: Changes::default(),
        session: FetcherSession::default(),
        client: None,
        was_interrupted: false,
        reconnect_pause: RECONNECT_PAUSE_MIN,
        flushes: Vec::new(),
    };
    loop {
        let pause = fetcher.round(&mut woken).await;
        match pause {
            Round::Again => {}
            Round::Ended => return,
            Round::Pause(pause) => {
                if let Ok(None) = tokio::time::timeout(pause, woken.recv()).await {
                    return;
                }
            }
        }
    }
}

enum Round {
    Again,
    Pause(Duration),
    Ended,
}

struct Fetcher {
    broker: Weak<Broker>,
    leader: NodeId,
    log: Logger,
    shared: Arc<Shared>,
    version: u64,
    address: Option<String>,
    partitions: BTreeMap<Key, Fetched>,
    /// Partitions that failed, and when they are tried again.
    paused: BTreeMap<Key, Instant>,
    changes: Changes,
    session: FetcherSession,
    client: Option<Exchange>,
    /// The last fetch was given up for another assignment. The next is not, so that records come however often that changes.
    was_interrupted: bool,
    reconnect_pause: Duration,
    /// Flushes that have to be done before their partitions, or any others, are asked for.
    flushes: Vec<(Key, CommitWait)>,
}

/// A partition that marks its changes for as long as it is fetched.
struct Fetched {
    followed: Followed,
    watch: Arc<Watch>,
    slot: SlotId,
}

impl Drop for Fetched {
    fn drop(&mut self) {
        self.followed.replica.unwatch(&self.watch, self.slot);
    }
}

/// Which partitions changed here since they were last looked at.
#[derive(Default)]
struct Changes {
    watch: Arc<Watch>,
    /// By slot.
    keys: Vec<Option<Key>>,
    vacant: Vec<SlotId>,
    /// Kept for its memory.
    marked: Vec<SlotId>,
}

impl Changes {
    /// The partition is looked at in the next round, and whenever its log changes after that.
    fn begin(&mut self, key: Key, followed: Followed) -> Fetched {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.keys.push(None);
            SlotId::try_from(self.keys.len() - 1).expect("a broker has fewer than 2^32 partitions")
        });
        self.keys[slot as usize] = Some(key);
        followed.replica.watch(Watcher {
            watch: self.watch.clone(),
            slot,
            isolation: Isolation::LogEnd,
        });
        self.watch.mark(slot, Change::Readable(0));
        Fetched {
            followed,
            watch: self.watch.clone(),
            slot,
        }
    }

    fn end(&mut self, fetched: &Fetched) {
        self.keys[fetched.slot as usize] = None;
        self.vacant.push(fetched.slot);
    }

    fn take(&mut self) -> impl Iterator<Item = Key> + '_ {
        self.marked.clear();
        self.watch.take(&mut self.marked);
        self.marked
            .iter()
            .filter_map(|slot| *self.keys.get(*slot as usize)?)
    }
}

impl Fetcher {
    async fn round(&mut self, woken: &mut mpsc::Receiver<()>) -> Round {
        self.take_assignment();
        let Some(broker) = self.broker.upgrade() else {
            return Round::Ended;
        };
        self.look_at_changes();
        self.await_flushes().await;
        if self.session.is_empty() {
            return Round::Pause(self.next_resume());
        }
        let mut client = match self.connected(&broker).await {
            Ok(client) => client,
            Err(error) => {
                slog::debug!(self.log, "leader not reached"; "error" => %error);
                let pause = self.reconnect_pause;
                self.reconnect_pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
                return Round::Pause(pause);
            }
        };
        self.reconnect_pause = RECONNECT_PAUSE_MIN;
        let limits = self.limits(&broker);
        let request = self.session.request(broker.node_id, broker.epoch(), limits);
        let response = tokio::select! {
            biased;
            response = client.send(FETCH_VERSION, &request) => response,
            interruption = self.interruption(woken) => {
                self.session.reset();
                self.was_interrupted = true;
                return interruption;
            }
        };
        self.was_interrupted = false;
        match response {
            Ok(response) => {
                broker.lost_leaders.found(self.leader);
                self.answered(&broker, &mut client, response).await;
                self.client = Some(client);
                Round::Again
            }
            Err(error) => {
                slog::info!(self.log, "fetch failed"; "error" => %error);
                if matches!(error, ClientError::Closed { .. }) {
                    broker.lost_leaders.lost(self.leader, clock::mono_ms());
                }
                self.session.reset();
                Round::Pause(RECONNECT_PAUSE_MIN)
            }
        }
    }

    /// Waits for what a fetch must not keep waiting: a new partition's first acks=all produce waits for us.
    async fn interruption(&self, woken: &mut mpsc::Receiver<()>) -> Round {
        while woken.recv().await.is_some() {
            // A wake-up may come after what it tells of was seen.
            let is_news = self.shared.assignment.lock().version != self.version;
            if is_news && !self.was_interrupted {
                return Round::Again;
            }
        }
        Round::Ended
    }

    fn take_assignment(&mut self) {
        let assignment = self.shared.assignment.lock();
        if assignment.version == self.version {
            return;
        }
        self.version = assignment.version;
        let key = |followed: &Followed| (followed.replica.topic_id, followed.replica.id.partition);
        let followed = assignment.partitions.values();
        let assigned: BTreeMap<Key, Followed> = followed.map(|it| (key(it), it.clone())).collect();
        let address = assignment.address.clone();
        drop(assignment);
        let stays = |key: &Key, fetched: &mut Fetched| {
            assigned
                .get(key)
                .is_some_and(|followed| followed.is_same(&fetched.followed))
        };
        for (key, fetched) in self.partitions.extract_if(.., |key, it| !stays(key, it)) {
            self.session.forget(key);
            self.changes.end(&fetched);
        }
        for (key, followed) in assigned {
            if let Entry::Vacant(entry) = self.partitions.entry(key) {
                entry.insert(self.changes.begin(key, followed));
            }
        }
        for key in std::mem::take(&mut self.paused).into_keys() {
            self.look_at(key);
        }
        if self.address != address {
            self.address = address;
            self.disconnect();
        }
    }

    fn disconnect(&mut self) {
        self.client = None;
        self.session.reset();
    }

    /// The connection; whoever takes it puts it back if it is still good.
    async fn connected(&mut self, broker: &Broker) -> Result<Exchange, ClientError> {
        if let Some(client) = self.client.take() {
            return Ok(client);
        }
        self.session.reset();
        let config = broker.config.load();
        let settings = ClientSettings {
            client_id: format!("broker-{}-fetcher-{}", broker.node_id, self.leader),
            request_timeout: Duration::from_millis(
                u64::try_from(config.replica.socket_timeout_ms).unwrap_or(0),
            ),
            connect_timeout: connect_timeout(&config),
            // The limits of the request are the leader's to keep, and a single batch may be larger than they are.
            response_max_bytes: i32::MAX as usize,
            ..ClientSettings::default()
        };
        let address = self.address.clone().unwrap_or_default();
        Exchange::connect(&address, settings).await
    }

    /// Takes over what happened to replicas, and resumes those that have paused long enough.
    fn look_at_changes(&mut self) {
        let mut keys: Vec<Key> = self.changes.take().collect();
        if !self.paused.is_empty() {
            let now = Instant::now();
            let resumed = self.paused.extract_if(.., |_, until| *until <= now);
            keys.extend(resumed.map(|(key, _)| key));
        }
        for key in keys {
            self.look_at(key);
        }
    }

    fn look_at(&mut self, key: Key) {
        let Some(Fetched { followed, .. }) = self.partitions.get(&key) else {
            return;
        };
        if followed.replica.is_offline() || self.paused.contains_key(&key) {
            self.session.forget(key);
            return;
        }
        let found = followed.replica.with(|p| {
            // The metadata has moved on: the next assignment says what becomes of it.
            if !p.follows(self.leader, followed.leader_epoch) {
                return None;
            }
            let position = Position {
                leader_epoch: followed.leader_epoch,
                fetch_offset: p.log().log_end_offset(),
                last_epoch: last_epoch(p.log()),
                log_start_offset: p.log().log_start_offset(),
            };
            Some((position, p.log().durable_end_offset() >= position.fetch_offset))
        });
        let Some((position, is_durable)) = found else {
            self.session.forget(key);
            return;
        };
        let flushed = if is_durable {
            None
        } else {
            followed.replica.await_flush()
        };
        match flushed {
            None => self.session.want(key, position),
            // Another leader's task has appended, or this replica when it led: this leader would count that as held for good.
            Some(flushed) => {
                self.session.forget(key);
                self.flushes.push((key, flushed));
            }
        }
    }

    /// A fetch that waits for records of other partitions must not keep a paused one waiting beyond its pause, and one that is
    /// not interrupted does not wait.
    fn limits(&self, broker: &Broker) -> Limits {
        let mut limits = limits(broker);
        if self.was_interrupted {
            limits.max_wait_ms = 0;
        }
        if !self.paused.is_empty() {
            let resume_ms = i32::try_from(self.next_resume().as_millis()).unwrap_or(i32::MAX);
            limits.max_wait_ms = limits.max_wait_ms.min(resume_ms.saturating_add(1));
        }
        limits
    }

    fn next_resume(&self) -> Duration {
        const IDLE: Duration = Duration::from_secs(1);
        let now = Instant::now();
        self.paused
            .values()
            .map(|until| until.saturating_duration_since(now))
            .min()
            .unwrap_or(IDLE)
            .min(IDLE)
    }

    async fn answered(&mut self, broker: &Arc<Broker>, client: &mut Exchange, response: FetchResponse) {
        if response.error_code != 0 {
            slog::debug!(self.log, "fetch session refused"; "error" => response.error_code);
            self.session.refused(response.error_code);
            return;
        }
        self.session.answered(response.session_id);
        for topic in response.responses {
            for data in topic.partitions {
                let key = (topic.topic_id, data.partition_index);
                let (Some(fetched), Some(position)) = (self.partitions.get(&key), self.session.position(key))
                else {
                    continue;
                };
                let followed = fetched.followed.clone();
                self.partition_answered(broker, client, key, &followed, position, data)
                    .await;
            }
        }
        self.await_flushes().await;
    }

    /// To ask for what comes next says that everything before is held for good: with `flush.messages`, on disk.
    async fn await_flushes(&mut self) {
        while let Some((key, flushed)) = self.flushes.pop() {
            // Of whatever outcome: a replica whose directory failed is not asked for any more.
            _ = flushed.await;
            self.look_at(key);
        }
    }

    async fn partition_answered(
        &mut self,
        broker: &Arc<Broker>,
        client: &mut Exchange,
        key: Key,
        followed: &Followed,
        position: Position,
        data: PartitionData,
    ) {
        if data.error_code == ErrorCode::OffsetOutOfRange.code() {
            if let Err(reason) = self.out_of_range(broker, client, key, followed).await {
                slog::warn!(self.log, "cannot find the leader's offsets";
                    "partition" => %followed.replica.id, "reason" => reason);
                self.pause(broker, key);
            }
            return;
        }
        if data.error_code != 0 {
            slog::debug!(self.log, "fetch refused";
                "partition" => %followed.replica.id, "error" => data.error_code);
            self.pause(broker, key);
            return;
        }
        if data.diverging_epoch != EpochEndOffset::default() {
            self.truncate(broker, key, followed, &data.diverging_epoch).await;
            return;
        }
        let records = data.records.unwrap_or_default();
        let append = FollowerAppend {
            leader: self.leader,
            leader_epoch: position.leader_epoch,
            high_watermark: data.high_watermark,
            log_start_offset: data.log_start_offset,
        };
        self.append(broker, key, followed, &records, append);
    }

    fn append(
        &mut self,
        broker: &Arc<Broker>,
        key: Key,
        followed: &Followed,
        records: &Bytes,
        append: FollowerAppend,
    ) {
        match followed.replica.append_as_follower(clock::now(), records, append) {
            Ok(flushed) => {
                broker.metrics.replication_in.increment(records.len() as u64);
                self.flushes.extend(flushed.map(|flushed| (key, flushed)));
            }
            Err(AppendRefusal::Api(error)) if error.code == ErrorCode::FencedLeaderEpoch => {
                self.pause(broker, key)
            }
            Err(AppendRefusal::Api(error)) => {
                slog::warn!(self.log, "fetched records refused";
                    "partition" => %followed.replica.id, "error" => %error);
                self.pause(broker, key);
            }
            Err(AppendRefusal::Log(error)) => self.log_failed(broker, key, followed, &error),
        }
    }

    fn log_failed(&mut self, broker: &Broker, key: Key, followed: &Followed, error: &LogError) {
        broker.replicas.log_failed(&followed.replica, error);
        // A full disk is no reason to ask the same over and over.
        self.pause_for(key, fetch_backoff(broker));
    }

    async fn truncate(&mut self, broker: &Broker, key: Key, followed: &Followed, leader: &EpochEndOffset) {
        let before = followed.replica.offsets().log_end;
        let follows = (self.leader, followed.leader_epoch);
        let parts_at = (leader.epoch, leader.end_offset);
        let cut = move |replica: &Replica| replica.truncate_as_follower(clock::now(), follows, parts_at);
        match cut_log(followed, cut).await {
            Ok(None) => {}
            Ok(Some(end)) => slog::info!(self.log, "log truncated to the leader's";
                "partition" => %followed.replica.id, "from" => before, "to" => end,
                "leader_epoch" => leader.epoch, "leader_end" => leader.end_offset),
            Err(error) => self.log_failed(broker, key, followed, &error),
        }
    }

    /// The leader does not hold our log end offset: either our log is longer than its own, or it starts later.
    async fn out_of_range(
        &mut self,
        broker: &Broker,
        client: &mut Exchange,
        key: Key,
        followed: &Followed,
    ) -> Result<(), String> {
        let id = &followed.replica.id;
        let end = self
            .list_offset(broker, client, id, followed.leader_epoch, LATEST)
            .await?;
        let offsets = followed.replica.offsets();
        let out_of_range = if end < offsets.log_end {
            OutOfRange::EndsAt(end)
        } else {
            let start = self
                .list_offset(broker, client, id, followed.leader_epoch, EARLIEST_LOCAL)
                .await?;
            if start <= offsets.log_end {
                return Err(format!(
                    "leader has [{start}, {end}], we end at {}",
                    offsets.log_end
                ));
            }
            OutOfRange::BeginsAt(start)
        };
        // Metadata may have moved on while the leader was asked: whoever leads by now keeps its log.
        let follows = (self.leader, followed.leader_epoch);
        let cut = move |replica: &Replica| replica.reset_as_follower(clock::now(), follows, out_of_range);
        match cut_log(followed, cut).await {
            Ok(None) => {}
            Ok(Some(to)) => slog::warn!(self.log, "log was out of the leader's range";
                "partition" => %id, "from" => offsets.log_end, "to" => to),
            Err(error) => self.log_failed(broker, key, followed, &error),
        }
        Ok(())
    }

    async fn list_offset(
        &self,
        broker: &Broker,
        client: &mut Exchange,
        id: &TopicPartition,
        leader_epoch: i32,
        timestamp: i64,
    ) -> Result<i64, String> {
        let partition = ListOffsetsPartition::default()
            .with_partition_index(id.partition)
            .with_current_leader_epoch(leader_epoch)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(topic_name(&id.topic))
            .with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(broker.node_id))
            .with_topics(vec![topic]);
        let response = client
            .send(LIST_OFFSETS_VERSION, &request)
            .await
            .map_err(|error| error.to_string())?;
        let found = response.topics.first().and_then(|topic| topic.partitions.first());
        match found {
            Some(partition) if partition.error_code == 0 => Ok(partition.offset),
            Some(partition) => Err(format!("error {}", partition.error_code)),
            None => Err("an empty answer".to_owned()),
        }
    }

    fn pause(&mut self, broker: &Broker, key: Key) {
        // The leader's or our own metadata is behind: it will not be for long.
        const FIRST: Duration = Duration::from_millis(50);
        self.pause_for(key, FIRST.min(fetch_backoff(broker)));
    }

    fn pause_for(&mut self, key: Key, pause: Duration) {
        self.paused.insert(key, Instant::now() + pause);
        self.session.forget(key);
    }
}

/// Cuts a log where nobody waits for it: what is left of it may have to be read for its producers.
async fn cut_log(
    followed: &Followed,
    cut: impl FnOnce(&Replica) -> Result<Option<i64>, LogError> + Send + 'static,
) -> Result<Option<i64>, LogError> {
    let replica = followed.replica.clone();
    match tokio::task::spawn_blocking(move || cut(&replica)).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_) => Ok(None),
        },
    }
}

/// Epoch of the last record. An epoch that was assigned and has no records is of no interest to the leader (KAFKA-10706).
fn last_epoch(log: &Log) -> i32 {
    let end = log.log_end_offset();
    if end == 0 {
        -1
    } else {
        log.epochs().epoch_for_offset(end - 1).unwrap_or(-1)
    }
}

fn fetch_backoff(broker: &Broker) -> Duration {
    Duration::from_millis(u64::from(broker.config.load().replica.fetch_backoff_ms))
}

fn limits(broker: &Broker) -> Limits {
    let config = broker.config.load();
    let bytes = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    Limits {
        max_wait_ms: config.replica.fetch_wait_max_ms,
        min_bytes: config.replica.fetch_bytes_min,
        max_bytes: bytes(config.replica.fetch_response_bytes_max),
        partition_max_bytes: bytes(config.replica.fetch_bytes_max),
    }
}
