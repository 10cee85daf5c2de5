//! Markers on their way to the leaders of their partitions: WriteTxnMarkers, repeated until every partition has its marker.
//!
//! Promises that what is handed in is written until its partitions have it, are gone, or the shard that handed it in is; that
//! markers for one broker share requests; and that a broker which does not answer holds nobody else up, and its own partitions
//! no longer than until others lead them. Decides nothing: that a transaction ends, and how, is in the log already.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::write_txn_markers_response::WritableTxnMarkerResult;
use kafka_protocol::messages::{ApiKey, ProducerId, WriteTxnMarkersResponse};
use kafka_protocol::protocol::Decodable;
use odradek_broker_core::transactions::Markers;
use odradek_common::error::ErrorCode;
use odradek_common::ids::{NodeId, TopicPartition};
use odradek_common::metadata::MetadataImage;
use odradek_common::records::control::TransactionResult;
use odradek_net::client::ClientSettings;
use odradek_net::pool::{ClientPool, join_address};
use parking_lot::Mutex;
use slog::Logger;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::super::shard::ShardShared;
use super::{TransactionEvent, TransactionPartition};
use crate::api::write_txn_markers;
use crate::api::write_txn_markers::request::{self, Marker};
use crate::broker::Broker;
use crate::connection_limits::connect_timeout;
use crate::names::topic_name;

/// The version that says which version each transaction has (KIP-1228); its answer looks as that of version 1.
const VERSION: i16 = request::TRANSACTION_VERSION_SINCE;
/// Requests that one broker may be answering at once; what comes meanwhile shares the next one.
const REQUESTS_PER_BROKER_MAX: usize = 5;
/// Transactions that one request may end.
const MARKERS_PER_REQUEST_MAX: usize = 1_000;
/// Pause before what failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Markers that a shard wants to have written.
#[derive(Clone)]
pub(super) struct PendingMarkers {
    /// What to write, and where.
    pub(super) markers: Markers,
    /// The leader epoch of the shard.
    pub(super) coordinator_epoch: i32,
    /// The shard; when it is gone, its successor writes them.
    pub(super) back: Weak<ShardShared<TransactionPartition>>,
}

/// Where shards hand their markers in. Bounded by the transactions whose end is in the log.
#[derive(Default)]
pub(super) struct MarkerWriter {
    incoming: Mutex<Vec<PendingMarkers>>,
    more: Notify,
    leaders: Notify,
}

/// What became of the markers for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The partition has its marker, or needs none.
    Done,
    /// To be tried again.
    Retry,
    /// Another coordinator has taken over.
    Superseded,
}

/// The answer to a request, or why there is none.
type Results = Result<Vec<WritableTxnMarkerResult>, String>;

/// A request that has ended.
struct Answered {
    broker: NodeId,
    sent: Vec<PendingMarkers>,
    results: Results,
}

impl MarkerWriter {
    /// Hands markers in.
    pub(super) fn write(&self, markers: PendingMarkers) {
        self.incoming.lock().push(markers);
        self.more.notify_one();
    }

    /// Leaders may have moved: what waits for one is looked at again.
    pub(super) fn leaders_changed(&self) {
        self.leaders.notify_one();
    }

    /// Writes markers for as long as the broker lives.
    pub(super) async fn run(self: Arc<Self>, broker: Arc<Broker>) {
        let mut routes = Routes::new(broker);
        loop {
            routes.start_requests();
            let retry_at = routes.retry_at;
            tokio::select! {
                () = self.more.notified() => {
                    let incoming = std::mem::take(&mut *self.incoming.lock());
                    incoming.into_iter().for_each(|markers| routes.place(markers));
                }
                Some(answered) = routes.in_flight.next() => routes.answered(answered),
                () = self.leaders.notified() => routes.leaders_changed(),
                () = tokio::time::sleep_until(retry_at), if !routes.unplaced.is_empty() => routes.place_again(),
            }
        }
    }
}

/// What is for one broker. A request that is under way is given up when this is dropped.
#[derive(Default)]
struct Route {
    waiting: Vec<PendingMarkers>,
    /// Each request under way holds a receiver.
    requests: watch::Sender<()>,
}

impl Route {
    fn has_room(&self) -> bool {
        self.requests.receiver_count() < REQUESTS_PER_BROKER_MAX
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.requests.receiver_count() == 0
    }
}

struct Routes {
    broker: Arc<Broker>,
    log: Logger,
    listener: String,
    clients: Arc<ClientPool>,
    routes: BTreeMap<NodeId, Route>,
    /// What has no leader, or failed; looked at again when leaders change, and at `retry_at`.
    unplaced: Vec<PendingMarkers>,
    retry_at: Instant,
    in_flight: FuturesUnordered<BoxFuture<'static, Answered>>,
}

impl Routes {
    fn new(broker: Arc<Broker>) -> Self {
        let config = broker.config.load();
        let settings = ClientSettings {
            client_id: format!("broker-{}-txn-marker-sender", broker.node_id),
            connect_timeout: connect_timeout(&config),
            negotiate: false,
            ..ClientSettings::default()
        };
        Self {
            log: broker.log.clone(),
            listener: config.listeners.inter_broker_listener_name.clone(),
            clients: ClientPool::new(settings),
            routes: BTreeMap::new(),
            unplaced: Vec::new(),
            retry_at: Instant::now(),
            in_flight: FuturesUnordered::new(),
            broker,
        }
    }

    /// Puts markers on the way to the leaders of now.
    fn place(&mut self, pending: PendingMarkers) {
        let image = self.broker.image();
        let by_leader = by_leader(&image, &self.listener, &pending.markers.partitions);
        if !by_leader.gone.is_empty() {
            slog::info!(self.log, "partitions of a transaction are gone";
                "transactional_id" => %pending.markers.transactional_id, "partitions" => by_leader.gone.len());
            tell_done(&pending, by_leader.gone);
        }
        for (leader, partitions) in by_leader.led {
            let route = self.routes.entry(leader).or_default();
            route.waiting.push(pending.with(partitions));
        }
        if !by_leader.leaderless.is_empty() {
            self.place_later(pending.with(by_leader.leaderless));
        }
    }

    fn place_later(&mut self, pending: PendingMarkers) {
        if self.unplaced.is_empty() {
            self.retry_at = Instant::now() + RETRY_PAUSE;
        }
        self.unplaced.push(pending);
    }

    fn place_again(&mut self) {
        for pending in std::mem::take(&mut self.unplaced) {
            if pending.back.strong_count() > 0 {
                self.place(pending);
            }
        }
    }

    /// A broker that the controller has given up may not answer for long: whoever leads its partitions now is asked.
    fn leaders_changed(&mut self) {
        let image = self.broker.image();
        let is_away = |leader: &NodeId| address(&image, &self.listener, *leader).is_none();
        let away: Vec<NodeId> = self.routes.keys().copied().filter(is_away).collect();
        for route in away.iter().filter_map(|leader| self.routes.remove(leader)) {
            self.unplaced.extend(route.waiting);
        }
        self.place_again();
    }

    fn start_requests(&mut self) {
        let image = self.broker.image();
        self.routes.retain(|_, route| !route.is_idle());
        for (leader, route) in &mut self.routes {
            // Without its shard a successor, here or elsewhere, writes what is in the log.
            route.waiting.retain(|pending| pending.back.strong_count() > 0);
            while !route.waiting.is_empty() && route.has_room() {
                let count = route.waiting.len().min(MARKERS_PER_REQUEST_MAX);
                let sent: Vec<_> = route.waiting.drain(..count).collect();
                let markers = markers(&sent);
                let results = if *leader == self.broker.node_id {
                    write_here(self.broker.clone(), markers).boxed()
                } else {
                    let address = address(&image, &self.listener, *leader);
                    write_there(self.clients.clone(), address, markers).boxed()
                };
                let results = unless_given_up(results, route.requests.subscribe());
                let leader = *leader;
                let write = async move {
                    Answered {
                        broker: leader,
                        sent,
                        results: results.await,
                    }
                };
                self.in_flight.push(write.boxed());
            }
        }
    }

    fn answered(&mut self, answered: Answered) {
        let Answered {
            broker,
            sent,
            results,
        } = answered;
        let codes = match results {
            Ok(results) => codes(&results),
            Err(reason) => {
                slog::info!(self.log, "markers not written, trying again"; "leader" => broker, "error" => reason);
                sent.into_iter().for_each(|pending| self.place_later(pending));
                return;
            }
        };
        for pending in sent {
            self.settle(&pending, &codes);
        }
    }

    fn settle(&mut self, pending: &PendingMarkers, codes: &Codes) {
        let mut done = BTreeSet::new();
        let mut retry = BTreeSet::new();
        for partition in &pending.markers.partitions {
            let key = (pending.markers.producer.producer_id, partition.clone());
            let code = codes.get(&key).copied();
            match outcome(code) {
                Outcome::Done => _ = done.insert(partition.clone()),
                Outcome::Retry => {
                    slog::debug!(self.log, "marker not written, trying again"; "partition" => %partition,
                        "transactional_id" => %pending.markers.transactional_id, "error" => code);
                    retry.insert(partition.clone());
                }
                Outcome::Superseded => {
                    slog::info!(self.log, "another coordinator ends the transaction"; "partition" => %partition,
                        "transactional_id" => %pending.markers.transactional_id);
                    return;
                }
            }
        }
        if !done.is_empty() {
            tell_done(pending, done);
        }
        if !retry.is_empty() {
            self.place_later(pending.with(retry));
        }
    }
}

impl PendingMarkers {
    fn with(&self, partitions: BTreeSet<TopicPartition>) -> Self {
        let Self {
            markers,
            coordinator_epoch,
            back,
        } = self;
        Self {
            markers: Markers {
                transactional_id: markers.transactional_id.clone(),
                partitions,
                ..*markers
            },
            coordinator_epoch: *coordinator_epoch,
            back: back.clone(),
        }
    }
}

fn tell_done(pending: &PendingMarkers, partitions: BTreeSet<TopicPartition>) {
    if let Some(back) = pending.back.upgrade() {
        back.tell(TransactionEvent::Marked {
            transactional_id: pending.markers.transactional_id.clone(),
            producer: pending.markers.producer,
            partitions: partitions.into_iter().collect(),
        });
    }
}

/// Partitions by who leads them.
#[derive(Debug, Default, PartialEq, Eq)]
struct ByLeader {
    led: BTreeMap<NodeId, BTreeSet<TopicPartition>>,
    leaderless: BTreeSet<TopicPartition>,
    /// They do not exist. Whoever added them saw them, and this image is not older: they were deleted.
    gone: BTreeSet<TopicPartition>,
}

fn by_leader(image: &MetadataImage, listener: &str, partitions: &BTreeSet<TopicPartition>) -> ByLeader {
    let mut by_leader = ByLeader::default();
    for partition in partitions {
        let home = match image.partition(&partition.topic, partition.partition) {
            None => &mut by_leader.gone,
            Some(found) if address(image, listener, found.leader).is_some() => {
                by_leader.led.entry(found.leader).or_default()
            }
            Some(_) => &mut by_leader.leaderless,
        };
        home.insert(partition.clone());
    }
    by_leader
}

fn address(image: &MetadataImage, listener: &str, broker: NodeId) -> Option<String> {
    let alive = image.brokers.get(&broker).filter(|broker| !broker.fenced)?;
    let endpoint = alive.endpoint(listener)?;
    Some(join_address(&endpoint.host, endpoint.port))
}

/// Ends with the request, or without an answer when its route is dropped.
async fn unless_given_up(results: impl Future<Output = Results>, mut route: watch::Receiver<()>) -> Results {
    tokio::select! {
        results = results => results,
        _dropped = route.changed() => Err("the leader is away".to_owned()),
    }
}

/// Partitions that this broker leads take their markers without a request.
async fn write_here(broker: Arc<Broker>, markers: Vec<Marker>) -> Results {
    let written = markers
        .iter()
        .map(|marker| write_txn_markers::write(&broker, marker));
    Ok(join_all(written).await)
}

async fn write_there(clients: Arc<ClientPool>, address: Option<String>, markers: Vec<Marker>) -> Results {
    let address = address.ok_or_else(|| "the leader is away".to_owned())?;
    let client = clients
        .try_get(&address)
        .await
        .map_err(|error| error.to_string())?;
    let body = request::encode(VERSION, &markers);
    let answer = client
        .send_raw(ApiKey::WriteTxnMarkers as i16, VERSION, body)
        .await;
    let mut answer = answer.map_err(|error| error.to_string())?;
    let response = WriteTxnMarkersResponse::decode(&mut answer, request::VERSION_MIN);
    response
        .map(|response| response.markers)
        .map_err(|error| error.to_string())
}

fn markers(sent: &[PendingMarkers]) -> Vec<Marker> {
    let markers = sent.iter().map(|pending| {
        let mut topics: Vec<WritableTxnMarkerTopic> = Vec::new();
        for TopicPartition { topic, partition } in &pending.markers.partitions {
            match topics.last_mut() {
                Some(last) if last.name.0.as_str() == &**topic => last.partition_indexes.push(*partition),
                Some(_) | None => topics.push(
                    WritableTxnMarkerTopic::default()
                        .with_name(topic_name(topic))
                        .with_partition_indexes(vec![*partition]),
                ),
            }
        }
        let fields = WritableTxnMarker::default()
            .with_producer_id(ProducerId(pending.markers.producer.producer_id))
            .with_producer_epoch(pending.markers.producer.epoch)
            .with_transaction_result(pending.markers.result == TransactionResult::Commit)
            .with_topics(topics)
            .with_coordinator_epoch(pending.coordinator_epoch);
        let transaction_version = i8::try_from(pending.markers.transaction_version);
        Marker {
            fields,
            transaction_version: transaction_version.unwrap_or(i8::MAX),
        }
    });
    markers.collect()
}

/// The answer by producer and partition.
type Codes = HashMap<(i64, TopicPartition), i16>;

fn codes(results: &[WritableTxnMarkerResult]) -> Codes {
    let mut codes = Codes::new();
    for marker in results {
        for topic in &marker.topics {
            let name: Arc<str> = Arc::from(topic.name.0.as_str());
            for partition in &topic.partitions {
                let id = TopicPartition::new(name.clone(), partition.partition_index);
                codes.insert((marker.producer_id.0, id), partition.error_code);
            }
        }
    }
    codes
}

/// What an error of one partition means; `None` if the answer does not name it.
fn outcome(code: Option<i16>) -> Outcome {
    match code {
        Some(0) => Outcome::Done,
        Some(code) => match ErrorCode::try_from_code(code) {
            Some(ErrorCode::TransactionCoordinatorFenced) => Outcome::Superseded,
            // A later life of the producer has written there: its coordinator ended this one before. Kafka gives the whole
            // transaction up at this, and its transactional id is in transition until the coordinator moves.
            Some(ErrorCode::InvalidProducerEpoch) => Outcome::Done,
            // Nothing transactional can be in a log without transactions.
            Some(ErrorCode::UnsupportedForMessageFormat) => Outcome::Done,
            Some(_) | None => Outcome::Retry,
        },
        None => Outcome::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::broker;
    use crate::names::text;
    use kafka_protocol::messages::write_txn_markers_response::{
        WritableTxnMarkerPartitionResult, WritableTxnMarkerTopicResult,
    };
    use odradek_broker_core::transactions::metadata::ProducerIdAndEpoch;
    use odradek_common::metadata::{PartitionImage, TopicImage};
    use uuid::Uuid;

    const LISTENER: &str = "INTERNAL";

    /// Brokers 1 and 2, of which 2 is fenced; partition n of topic `a` is led by broker n, if there is one.
    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        image.brokers.insert(1, broker(1, LISTENER, false));
        image.brokers.insert(2, broker(2, LISTENER, true));
        let partition = |leader| {
            Arc::new(PartitionImage {
                leader,
                ..PartitionImage::default()
            })
        };
        let topic = TopicImage {
            name: "a".into(),
            id: Uuid::nil(),
            partitions: [-1, 1, 2, 7].map(partition).to_vec(),
        };
        image.topics.insert("a".into(), Arc::new(topic));
        image
    }

    fn set(indexes: &[i32]) -> BTreeSet<TopicPartition> {
        indexes
            .iter()
            .map(|index| TopicPartition::new("a", *index))
            .collect()
    }

    fn pending(partitions: BTreeSet<TopicPartition>) -> PendingMarkers {
        PendingMarkers {
            markers: Markers {
                transactional_id: text("t"),
                producer: ProducerIdAndEpoch {
                    producer_id: 7,
                    epoch: 3,
                },
                result: TransactionResult::Commit,
                partitions,
                transaction_version: 2,
            },
            coordinator_epoch: 5,
            back: Weak::new(),
        }
    }

    #[test]
    fn markers_go_to_leaders_that_live_and_the_rest_waits_or_is_gone() {
        let sorted = by_leader(&image(), LISTENER, &set(&[0, 1, 2, 3, 4]));
        let expected = ByLeader {
            led: BTreeMap::from([(1, set(&[1]))]),
            leaderless: set(&[0, 2, 3]),
            gone: set(&[4]),
        };
        assert_eq!(sorted, expected);
        let other = TopicPartition::new("deleted", 0);
        let sorted = by_leader(&image(), LISTENER, &BTreeSet::from([other.clone()]));
        assert_eq!(sorted.gone, BTreeSet::from([other]));
    }

    #[tokio::test]
    async fn a_request_to_a_broker_that_is_away_is_given_up() {
        let route = Route::default();
        let hangs = unless_given_up(std::future::pending(), route.requests.subscribe());
        let answers = unless_given_up(std::future::ready(Ok(Vec::new())), route.requests.subscribe());
        assert_eq!((route.is_idle(), route.has_room()), (false, true));
        assert_eq!(answers.await, Ok(Vec::new()));
        let more: Vec<_> = (1..REQUESTS_PER_BROKER_MAX)
            .map(|_| route.requests.subscribe())
            .collect();
        assert!(!route.has_room());
        drop(more);
        drop(route);
        assert!(hangs.await.is_err());
    }

    #[test]
    fn a_request_names_producer_end_and_partitions_by_topic() {
        let mut partitions = set(&[1, 3]);
        partitions.insert(TopicPartition::new("b", 0));
        let markers = markers(&[pending(partitions)]);
        assert_eq!(markers[0].transaction_version, 2);
        let marker = &markers[0].fields;
        assert_eq!((marker.producer_id.0, marker.producer_epoch), (7, 3));
        assert_eq!((marker.transaction_result, marker.coordinator_epoch), (true, 5));
        let topics: Vec<_> = marker
            .topics
            .iter()
            .map(|topic| (topic.name.0.to_string(), topic.partition_indexes.clone()))
            .collect();
        assert_eq!(topics, [("a".to_owned(), vec![1, 3]), ("b".to_owned(), vec![0])]);
        let body = request::encode(VERSION, &markers);
        assert_eq!(request::decode(VERSION, body), Ok(markers));
    }

    #[test]
    fn answers_are_found_by_producer_and_partition() {
        let partition = |index, code| {
            WritableTxnMarkerPartitionResult::default()
                .with_partition_index(index)
                .with_error_code(code)
        };
        let topic = WritableTxnMarkerTopicResult::default()
            .with_name(topic_name("a"))
            .with_partitions(vec![partition(1, 0), partition(2, 6)]);
        let marker = WritableTxnMarkerResult::default()
            .with_producer_id(ProducerId(7))
            .with_topics(vec![topic]);
        let codes = codes(&[marker]);
        let of = |producer, index| outcome(codes.get(&(producer, TopicPartition::new("a", index))).copied());
        assert_eq!(of(7, 1), Outcome::Done);
        assert_eq!(of(7, 2), Outcome::Retry);
        assert_eq!(of(7, 3), Outcome::Retry, "it is not named");
        assert_eq!(of(8, 1), Outcome::Retry);
    }

    #[test]
    fn only_a_later_coordinator_ends_the_writing() {
        for (code, expected) in [
            (ErrorCode::TransactionCoordinatorFenced, Outcome::Superseded),
            (ErrorCode::InvalidProducerEpoch, Outcome::Done),
            (ErrorCode::NotLeaderOrFollower, Outcome::Retry),
            (ErrorCode::UnknownTopicOrPartition, Outcome::Retry),
            (ErrorCode::NotEnoughReplicas, Outcome::Retry),
            (ErrorCode::UnsupportedVersion, Outcome::Retry),
        ] {
            assert_eq!(outcome(Some(code.code())), expected, "{code:?}");
        }
        assert_eq!(outcome(Some(-1)), Outcome::Retry);
    }
}
