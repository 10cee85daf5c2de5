//! Transactions as their readers see them: nothing before the commit, nothing of what was aborted, everything afterwards, on
//! whichever node leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Buf;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    BrokerId, DescribeTransactionsRequest, FetchRequest, MetadataRequest, ProduceRequest, ProduceResponse,
    TransactionalId,
};
use kafka_protocol::protocol::Decodable;
use odradek_cluster_tests::asks::{
    FETCH_BY_NAME, OK, code, fetch_request, list_offsets_request, produce_request, text, topic_name,
};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::raw::{RawConnection, framed, take_correlation_id};
use odradek_cluster_tests::records::{Seen, batch, headers, idempotent, seen, transactional};
use odradek_cluster_tests::shared::single;
use odradek_cluster_tests::transactions::{Protocol, TransactionalProducer};
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;
use odradek_oracle::transactions::{End, Event, History, Isolation};

const READ_COMMITTED: i8 = 1;
/// The replica id of whoever is no replica.
const CONSUMER: BrokerId = BrokerId(-1);
/// A version of Metadata that names topics.
const METADATA_BY_NAME: i16 = 12;
/// The version of Produce that names topics and adds partitions to transactions.
const PRODUCE_IMPLICIT: i16 = 12;
const LIMIT: Duration = Duration::from_secs(60);
const PROTOCOLS: [Protocol; 2] = [Protocol::Explicit, Protocol::Implicit];

fn committed(request: FetchRequest) -> FetchRequest {
    request.with_isolation_level(READ_COMMITTED)
}

async fn fetch_committed(connection: &Connection, topic: &str, offset: i64) -> PartitionData {
    let request = committed(fetch_request(topic, 0, offset));
    connection.fetch_at(FETCH_BY_NAME, request).await
}

/// The values that a consumer makes of an answer: without those of aborted transactions.
fn consumed(data: &PartitionData) -> Vec<Seen> {
    let bytes = data.records.clone().unwrap_or_default();
    let mut aborted: Vec<(i64, i64)> = data
        .aborted_transactions
        .iter()
        .flatten()
        .map(|aborted| (aborted.first_offset, aborted.producer_id.0))
        .collect();
    assert!(aborted.is_sorted(), "55: sorted by first offset");
    let (mut open, mut from) = (BTreeMap::new(), 0);
    let mut values = Vec::new();
    for header in headers(&bytes) {
        let whole = &bytes[from..from + header.size_bytes()];
        from += header.size_bytes();
        let until = aborted.partition_point(|(first, _)| *first <= header.last_offset());
        for (first, producer) in aborted.drain(..until) {
            open.insert(producer, first);
        }
        if header.is_control() {
            open.remove(&header.producer_id);
        } else if !open.contains_key(&header.producer_id) || !header.is_transactional() {
            values.extend(seen(whole));
        }
    }
    values
}

fn texts(values: &[Seen]) -> Vec<String> {
    values.iter().map(Seen::text).collect()
}

async fn producer(protocol: Protocol, name: &str) -> TransactionalProducer {
    let addresses = vec![single().await.address(1).to_owned()];
    let mut producer = TransactionalProducer::new(addresses, protocol, name);
    producer
        .init()
        .await
        .expect("a transactional id is for everybody");
    producer
}

#[tokio::test]
async fn nothing_is_seen_before_the_commit_and_nothing_of_what_was_aborted() {
    for protocol in PROTOCOLS {
        let topic = format!("committed-{protocol:?}");
        let connection = single().await.connect().await;
        connection.create_topic(&topic, 1, 1, &[]).await;
        let mut producer = producer(protocol, &topic).await;
        connection.produce(&topic, 0, &batch(&["before"])).await;

        producer.produce(&topic, 0, &["one", "two"]).await.unwrap();
        connection.produce(&topic, 0, &batch(&["behind"])).await;
        let open = fetch_committed(&connection, &topic, 0).await;
        assert_eq!((open.high_watermark, open.last_stable_offset), (4, 1));
        assert_eq!(texts(&consumed(&open)), ["before"]);
        let everything = connection.fetch(&topic, 0, 0).await;
        assert_eq!(
            everything.aborted_transactions, None,
            "55: only who asked is told"
        );
        assert_eq!(seen(&everything.records.unwrap()).len(), 4);

        producer.commit().await.unwrap();
        producer.produce(&topic, 0, &["void"]).await.unwrap();
        producer.abort().await.unwrap();
        producer.produce(&topic, 0, &["three"]).await.unwrap();
        producer.commit().await.unwrap();
        let data = eventually("all markers are there", LIMIT, async || {
            let data = fetch_committed(&connection, &topic, 0).await;
            holds(data.last_stable_offset == 9, format!("{data:?}"))?;
            Ok(data)
        })
        .await;
        assert_eq!(
            texts(&consumed(&data)),
            ["before", "one", "two", "behind", "three"],
            "{protocol:?}"
        );
        assert_eq!(data.aborted_transactions.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_the_marker() {
    let topic = "woken";
    let connection = single().await.connect().await;
    connection.create_topic(topic, 1, 1, &[]).await;
    let mut producer = producer(Protocol::Explicit, topic).await;
    producer.produce(topic, 0, &["one"]).await.unwrap();
    let reader = single().await.connect().await;
    let waiting = tokio::spawn(async move {
        let request = committed(fetch_request(topic, 0, 0))
            .with_max_wait_ms(60_000)
            .with_min_bytes(1);
        reader.fetch_at(FETCH_BY_NAME, request).await
    });
    producer.commit().await.unwrap();
    let data = tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .expect("half of max_wait_ms is enough")
        .unwrap();
    assert_eq!(texts(&consumed(&data)), ["one"]);
}

// 58.
#[tokio::test]
async fn the_latest_offset_of_a_committed_reader_is_the_last_stable_one() {
    let topic = "latest-stable";
    let connection = single().await.connect().await;
    connection.create_topic(topic, 1, 1, &[]).await;
    let mut producer = producer(Protocol::Implicit, topic).await;
    producer.produce(topic, 0, &["one", "two"]).await.unwrap();
    let latest = async |isolation: i8| {
        let request = list_offsets_request(topic, 0, -1)
            .with_replica_id(CONSUMER)
            .with_isolation_level(isolation);
        connection.ask(request).await.topics[0].partitions[0].offset
    };
    assert_eq!((latest(0).await, latest(READ_COMMITTED).await), (2, 0));
    producer.commit().await.unwrap();
    eventually("the marker is there", LIMIT, async || {
        let found = (latest(0).await, latest(READ_COMMITTED).await);
        holds(found == (3, 3), format!("{found:?}"))
    })
    .await;
}

/// Waits until every partition of the transaction knows that it is committed.
async fn is_over(coordinator: &Connection, transactional_id: &str) {
    let id = TransactionalId(text(transactional_id));
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![id]);
    eventually("the transaction is over", LIMIT, async || {
        let answer = coordinator.ask(request.clone()).await;
        let state = &answer.transaction_states[0].transaction_state;
        holds(state.as_str() == "CompleteCommit", format!("{answer:?}"))
    })
    .await;
}

// Nobody waits for the answer to the first batch of a transaction before sending the next.
#[tokio::test]
async fn requests_behind_the_first_of_a_transaction_keep_their_order() {
    const COUNT: i32 = 8;
    let topic = "pipelined";
    let connection = single().await.connect().await;
    connection.create_topic(topic, 1, 1, &[]).await;
    let mut producer = producer(Protocol::Implicit, topic).await;
    let mut raw = RawConnection::open(single().await.address(1)).await;
    for round in 0..3 {
        let frame = |number: i32| {
            let batch = transactional(
                producer.producer_id,
                producer.epoch,
                number,
                &[&number.to_string()],
            );
            let request = produce_request(topic, 0, -1, &batch)
                .with_transactional_id(Some(TransactionalId(text(topic))));
            framed(PRODUCE_IMPLICIT, number, &request)
        };
        let frames: Vec<u8> = (0..COUNT).flat_map(frame).collect();
        raw.send(&frames).await;
        for number in 0..COUNT {
            let mut answer = raw.receive().await.expect("an answer");
            assert_eq!(take_correlation_id(&mut answer), number);
            // The tagged fields of the header.
            answer.advance(1);
            let answer = ProduceResponse::decode(&mut answer, PRODUCE_IMPLICIT).expect("an answer");
            let partition = &answer.responses[0].partition_responses[0];
            let expected = i64::from(round * (COUNT + 1) + number);
            assert_eq!(
                (partition.error_code, partition.base_offset),
                (OK, expected),
                "round {round}, request {number}: {:?}",
                partition.error_message
            );
        }
        producer.commit().await.unwrap();
        // What comes before that is told to try again after a moment.
        is_over(&connection, topic).await;
    }
}

#[tokio::test]
async fn what_a_dead_producer_left_open_ends_with_its_timeout() {
    const TIMEOUT_MS: i32 = 1_000;
    for protocol in PROTOCOLS {
        let topic = format!("left-open-{protocol:?}");
        let connection = single().await.connect().await;
        connection.create_topic(&topic, 1, 1, &[]).await;
        let addresses = vec![single().await.address(1).to_owned()];
        let mut dead = TransactionalProducer::new(addresses, protocol, &topic).with_timeout_ms(TIMEOUT_MS);
        dead.init().await.unwrap();
        let begin = Instant::now();
        dead.produce(&topic, 0, &["void"]).await.unwrap();
        let data = eventually("the transaction has ended", LIMIT, async || {
            let data = fetch_committed(&connection, &topic, 0).await;
            holds(data.last_stable_offset > 0, format!("{data:?}"))?;
            Ok(data)
        })
        .await;
        let took_ms = begin.elapsed().as_millis();
        eprintln!("{protocol:?}: left open with a timeout of {TIMEOUT_MS} ms, over after {took_ms} ms");
        assert_eq!(texts(&consumed(&data)), [""; 0]);
        assert_eq!(data.aborted_transactions.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn metrics_tell_how_long_a_transaction_holds_readers_back() {
    let topic = "held-back";
    let cluster = TestCluster::start(1, &[]).await;
    let connection = any(&cluster).await;
    connection.create_topic(topic, 1, 1, &[]).await;
    let mut producer = TransactionalProducer::new(addresses(&cluster), Protocol::Implicit, topic);
    producer.init().await.unwrap();
    let metric = async |name: &str| cluster.node(1).metric(name).await;
    let of_partition = |name: &str| format!("{name}{{topic=\"{topic}\",partition=\"0\"}}");
    let stalled = of_partition("odradek_last_stable_offset_stalled_seconds");
    let lag = of_partition("odradek_last_stable_offset_lag_records");
    assert_eq!(metric("odradek_partition_open_transactions").await, Some(0.0));
    assert_eq!(metric(&stalled).await, None);
    producer.produce(topic, 0, &["one", "two"]).await.unwrap();
    eventually("it is held back", LIMIT, async || {
        let found = metric(&stalled).await;
        holds(found.is_some_and(|seconds| seconds > 0.0), format!("{found:?}"))
    })
    .await;
    assert_eq!(metric(&lag).await, Some(2.0));
    assert_eq!(metric("odradek_partition_open_transactions").await, Some(1.0));
    assert!(metric("odradek_transaction_verifications_total").await > Some(0.0));
    assert!(metric("odradek_last_stable_offset_max_stalled_seconds").await > Some(0.0));
    assert_eq!(
        metric("odradek_partitions_with_late_transactions").await,
        Some(0.0)
    );
    producer.commit().await.unwrap();
    eventually("it is not held back any more", LIMIT, async || {
        let found = (metric(&lag).await, metric(&stalled).await);
        holds(found == (Some(0.0), None), format!("{found:?}"))
    })
    .await;
}

/// The error code of one batch in a transactional id's name.
async fn produced(
    connection: &Connection,
    version: i16,
    transactional_id: Option<&str>,
    request: ProduceRequest,
) -> i16 {
    let id = transactional_id.map(|id| TransactionalId(text(id)));
    let response = connection
        .ask_at(version, request.with_transactional_id(id))
        .await;
    response.responses[0].partition_responses[0].error_code
}

// KIP-890: a late request must not begin a transaction that nobody ends.
#[tokio::test]
async fn a_batch_outside_of_any_open_transaction_is_refused() {
    let topic = "unverified";
    let connection = single().await.connect().await;
    connection.create_topic(topic, 2, 1, &[]).await;
    let mut producer = producer(Protocol::Explicit, topic).await;
    let batch = transactional(producer.producer_id, producer.epoch, 0, &["late"]);
    let request = || produce_request(topic, 0, -1, &batch);
    assert_eq!(
        produced(&connection, 11, None, request()).await,
        code(ErrorCode::TransactionalIdAuthorizationFailed)
    );
    assert_eq!(
        produced(&connection, 10, Some(topic), request()).await,
        code(ErrorCode::InvalidTxnState)
    );
    assert_eq!(
        produced(&connection, 11, Some(topic), request()).await,
        code(ErrorCode::TransactionAbortable)
    );
    producer.add_partition(topic, 1).await.unwrap();
    assert_eq!(
        produced(&connection, 10, Some(topic), request()).await,
        code(ErrorCode::InvalidTxnState),
        "another partition was added"
    );
    producer.add_partition(topic, 0).await.unwrap();
    assert_eq!(produced(&connection, 10, Some(topic), request()).await, OK);
    producer.commit().await.unwrap();
    let next = transactional(producer.producer_id, producer.epoch, 1, &["later"]);
    // Before that version 11 is told to try again, and before the marker is there the batch belongs to what ends.
    is_over(&connection, topic).await;
    assert_eq!(
        produced(&connection, 11, Some(topic), produce_request(topic, 0, -1, &next)).await,
        code(ErrorCode::TransactionAbortable),
        "the transaction has ended"
    );
    assert_eq!(connection.list_offset(topic, 0, -1).await.offset, 2);
}

// 83.
#[tokio::test]
async fn a_plain_batch_of_a_producer_with_an_open_transaction_is_refused() {
    let topic = "plain-within";
    let connection = single().await.connect().await;
    connection.create_topic(topic, 1, 1, &[]).await;
    let mut producer = producer(Protocol::Explicit, topic).await;
    producer.produce(topic, 0, &["one"]).await.unwrap();
    let plain = idempotent(producer.producer_id, producer.epoch, 1, &["two"]);
    let refused = connection.produce_with(topic, 0, -1, &plain).await.error_code;
    assert_eq!(refused, code(ErrorCode::InvalidTxnState));
    producer.commit().await.unwrap();
}

#[tokio::test]
async fn offsets_count_with_the_rest_of_the_transaction() {
    for protocol in PROTOCOLS {
        let topic = format!("with-offsets-{protocol:?}");
        let connection = single().await.connect().await;
        connection.create_topic(&topic, 1, 1, &[]).await;
        let mut producer = producer(protocol, &topic).await;
        let fetched = async |require_stable| {
            use kafka_protocol::messages::offset_fetch_request::{
                OffsetFetchRequestGroup, OffsetFetchRequestTopics,
            };
            let topics = OffsetFetchRequestTopics::default()
                .with_name(topic_name(&topic))
                .with_partition_indexes(vec![0]);
            let group = OffsetFetchRequestGroup::default()
                .with_group_id(kafka_protocol::messages::GroupId(text(&topic)))
                .with_topics(Some(vec![topics]));
            let request = kafka_protocol::messages::OffsetFetchRequest::default()
                .with_groups(vec![group])
                .with_require_stable(require_stable);
            let response = connection.ask_at(9, request).await;
            let found = &response.groups[0].topics[0].partitions[0];
            (found.committed_offset, found.error_code)
        };
        producer.produce(&topic, 0, &["one"]).await.unwrap();
        producer.commit_offset(&topic, &topic, 0, 7).await.unwrap();
        assert_eq!(fetched(false).await, (-1, OK));
        assert_eq!(fetched(true).await, (-1, code(ErrorCode::UnstableOffsetCommit)));
        producer.abort().await.unwrap();
        let settled = async |expected: i64| {
            eventually("the marker is there", LIMIT, async || {
                let found = fetched(true).await;
                holds(found == (expected, OK), format!("{found:?}"))
            })
            .await;
        };
        settled(-1).await;
        producer.commit_offset(&topic, &topic, 0, 8).await.unwrap();
        producer.produce(&topic, 0, &["two"]).await.unwrap();
        producer.commit().await.unwrap();
        settled(8).await;
    }
}

/// Who leads partition 0; whoever is asked may die meanwhile.
async fn leader_id(cluster: &TestCluster, topic: &str) -> Result<i32, String> {
    let named = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![named]))
        .with_allow_auto_topic_creation(false);
    let answer = any(cluster).await.try_ask_at(METADATA_BY_NAME, request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
    let leader = partition.map_or(-1, |partition| partition.leader_id.0);
    holds(leader > 0, format!("{answer:?}"))?;
    Ok(leader)
}

/// Kills the node that leads partition 0 and waits until another does.
async fn kill_leader(cluster: &TestCluster, topic: &str) -> i32 {
    let leader = eventually("a leader", LIMIT, async || leader_id(cluster, topic).await).await;
    cluster.node(leader).kill();
    eventually("another leader", LIMIT, async || {
        let now = leader_id(cluster, topic).await?;
        holds(now != leader, now.to_string())
    })
    .await;
    leader
}

/// A connection to a node that runs.
async fn any(cluster: &TestCluster) -> Connection {
    eventually("a node that answers", LIMIT, async || {
        for node in cluster.nodes() {
            if let Ok(connection) = Connection::try_open(&node.address()).await {
                return Ok(connection);
            }
        }
        Err("none".to_owned())
    })
    .await
}

async fn leader_of(cluster: &TestCluster, topic: &str) -> Connection {
    eventually("a leader that answers", LIMIT, async || {
        let leader = leader_id(cluster, topic).await?;
        Connection::try_open(&cluster.node(leader).address())
            .await
            .map_err(|error| error.to_string())
    })
    .await
}

fn addresses(cluster: &TestCluster) -> Vec<String> {
    cluster.nodes().iter().map(Node::address).collect()
}

#[tokio::test]
async fn a_new_leader_knows_what_is_open_and_what_was_aborted() {
    let topic = "inherited";
    let cluster = TestCluster::start(3, &[]).await;
    any(&cluster)
        .await
        .create_topic(topic, 1, 3, &[("min.insync.replicas", "2")])
        .await;
    let mut producers = Vec::new();
    for name in ["aborted", "open"] {
        let mut producer = TransactionalProducer::new(addresses(&cluster), Protocol::Implicit, name);
        producer.init().await.unwrap();
        producers.push(producer);
    }
    let [aborted, open] = producers.as_mut_slice() else {
        unreachable!("two were made")
    };
    aborted.produce(topic, 0, &["void"]).await.unwrap();
    open.produce(topic, 0, &["one"]).await.unwrap();
    aborted.abort().await.unwrap();
    let killed = kill_leader(&cluster, topic).await;
    // Markers whose answers were lost with a leader are written again: how many there are is nobody's promise.
    let stable = async |is_there: &dyn Fn(&PartitionData) -> bool| {
        eventually("the last stable offset", LIMIT, async || {
            let leader = leader_of(&cluster, topic).await;
            let request = committed(fetch_request(topic, 0, 0));
            let asked = leader.try_ask_at(FETCH_BY_NAME, request).await;
            let answer = asked.map_err(|error| error.to_string())?;
            let data = answer.responses[0].partitions[0].clone();
            holds(data.error_code == OK && is_there(&data), format!("{data:?}"))?;
            Ok(data)
        })
        .await
    };
    let data = stable(&|data| data.last_stable_offset == 1).await;
    assert_eq!(
        texts(&consumed(&data)),
        [""; 0],
        "the one is open, the other void"
    );
    open.produce(topic, 0, &["two"]).await.unwrap();
    open.commit().await.unwrap();
    let data =
        stable(&|data| data.last_stable_offset > 3 && data.last_stable_offset == data.high_watermark).await;
    assert_eq!(texts(&consumed(&data)), ["one", "two"]);
    cluster.node(killed).start().await;
}

/// What producers and readers did and saw, written down by all of them.
type Shared = Arc<std::sync::Mutex<History>>;

fn note(history: &Shared, event: Event) {
    history.lock().expect("nobody panicked").push(event);
}

/// Commits and aborts transactions over two partitions until it is told to stop; values are unique by name and number.
async fn write(
    mut producer: TransactionalProducer,
    name: u64,
    topics: [&str; 2],
    history: Shared,
    stop: Arc<AtomicBool>,
) {
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        let transaction = name * 1_000_000 + number;
        number += 1;
        for (partition, topic) in (0..).zip(topics) {
            let value = transaction * 10 + u64::from(partition);
            note(
                &history,
                Event::Written {
                    transaction,
                    partition,
                    value,
                    input: None,
                },
            );
            producer
                .produce(topic, 0, &[&value.to_string()])
                .await
                .expect("nobody fences it");
        }
        let end = if number % 3 == 0 { End::Abort } else { End::Commit };
        note(&history, Event::EndAsked { transaction, end });
        match end {
            End::Commit => producer.commit().await.expect("it is open"),
            End::Abort => producer.abort().await.expect("it is open"),
        }
        note(&history, Event::Ended { transaction, end });
    }
}

/// How long the last stable offset stood still at most, as a reader saw it.
#[derive(Debug)]
struct Standstill {
    offset: i64,
    since: Instant,
    longest: Duration,
}

impl Standstill {
    fn new() -> Self {
        Self {
            offset: 0,
            since: Instant::now(),
            longest: Duration::ZERO,
        }
    }

    fn note(&mut self, last_stable_offset: i64) {
        if last_stable_offset > self.offset {
            self.longest = self.longest.max(self.since.elapsed());
            (self.offset, self.since) = (last_stable_offset, Instant::now());
        }
    }
}

/// Reads a partition from its start until everything up to the end, as it is once the writers are done, was seen.
async fn read(cluster: &TestCluster, topic: &str, partition: u32, history: &Shared, is_done: &AtomicBool) {
    let mut offset = 0;
    let mut standstill = Standstill::new();
    loop {
        // Looked at before the fetch: what is stable then is all that there will be.
        let was_done = is_done.load(Ordering::Acquire);
        let leader = leader_of(cluster, topic).await;
        let request = committed(fetch_request(topic, 0, offset));
        let asked = leader.try_ask_at(FETCH_BY_NAME, request).await;
        let Ok(response) = asked else { continue };
        let data = &response.responses[0].partitions[0];
        if data.error_code != OK {
            tokio::task::yield_now().await;
            continue;
        }
        standstill.note(data.last_stable_offset);
        for value in consumed(data).iter().filter(|value| value.offset >= offset) {
            note(
                history,
                Event::Read {
                    reader: partition,
                    isolation: Isolation::ReadCommitted,
                    partition,
                    offset: value.offset,
                    value: value.text().parse().expect("values are numbers"),
                },
            );
        }
        let last = headers(&data.records.clone().unwrap_or_default())
            .last()
            .map(|header| header.last_offset() + 1);
        offset = last.unwrap_or(offset).max(offset);
        if was_done && offset == data.high_watermark && data.last_stable_offset == data.high_watermark {
            note(
                history,
                Event::ReadToEnd {
                    reader: partition,
                    partition,
                },
            );
            let longest_ms = standstill.longest.as_millis();
            eprintln!("the last stable offset of {topic} stood still for {longest_ms} ms at most");
            return;
        }
    }
}

#[tokio::test]
async fn transactions_are_whole_whoever_is_killed() {
    // Closures that are async are not known to be Send: writers and readers stay on this thread.
    tokio::task::LocalSet::new()
        .run_until(kill_leaders_under_load())
        .await;
}

async fn kill_leaders_under_load() {
    const TOPICS: [&str; 2] = ["judged-0", "judged-1"];
    let cluster = Arc::new(TestCluster::start(3, &[]).await);
    for topic in TOPICS {
        let connection = any(&cluster).await;
        connection
            .create_topic(topic, 1, 3, &[("min.insync.replicas", "2")])
            .await;
    }
    let (history, stop, done) = (
        Shared::default(),
        Arc::default(),
        Arc::new(AtomicBool::new(false)),
    );
    let mut writers = Vec::new();
    for (name, protocol) in (1..).zip([Protocol::Explicit, Protocol::Implicit]) {
        let id = format!("judged-{name}");
        let mut producer = TransactionalProducer::new(addresses(&cluster), protocol, &id);
        producer
            .init()
            .await
            .expect("a transactional id is for everybody");
        let writer = write(producer, name, TOPICS, history.clone(), Arc::clone(&stop));
        writers.push(tokio::task::spawn_local(writer));
    }
    let readers: Vec<_> = (0..)
        .zip(TOPICS)
        .map(|(partition, topic)| {
            let (cluster, history, done) = (cluster.clone(), history.clone(), done.clone());
            tokio::task::spawn_local(async move { read(&cluster, topic, partition, &history, &done).await })
        })
        .collect();
    let ended = async |count: usize| {
        eventually("more transactions", LIMIT, async || {
            let is_end = |event: &&Event| matches!(event, Event::Ended { .. });
            let found = history
                .lock()
                .expect("nobody panicked")
                .events()
                .iter()
                .filter(is_end)
                .count();
            holds(found >= count, found.to_string())?;
            Ok(found)
        })
        .await
    };
    for topic in TOPICS {
        let before = ended(6).await;
        let killed = kill_leader(&cluster, topic).await;
        ended(before + 6).await;
        cluster.node(killed).start().await;
    }
    stop.store(true, Ordering::Release);
    for writer in writers {
        writer.await.expect("writers go on");
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        reader.await.expect("readers go on");
    }
    let history = history.lock().expect("nobody panicked").clone();
    assert_eq!(history.anomalies(), []);
    assert!(history.undecided().is_empty());
}
