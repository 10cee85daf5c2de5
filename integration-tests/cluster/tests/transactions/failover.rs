//! Coordinators that die, with transactions in every state, and replicas that hang.

use std::time::Duration;

use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;
use odradek_cluster_tests::asks::{OK, creatable};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::shared::OVERRIDES;
use odradek_cluster_tests::wait::{eventually, holds};
use rustix::process::Signal;

use crate::producer::{LIMIT, Producer, WITH_BUMP, WITHOUT_BUMP, describe, find};
use crate::visibility::shows;

async fn other(cluster: &TestCluster, id: i32) -> Connection {
    cluster.connect(if id == 1 { 2 } else { 1 }).await
}

async fn leader(cluster: &TestCluster, any: &Connection, topic: &str) -> Connection {
    let leader = eventually("the topic is led", LIMIT, async || {
        let partition = any.partition(topic, 0).await;
        holds(
            partition.error_code == OK && partition.leader_id.0 > 0,
            format!("{partition:?}"),
        )?;
        Ok(partition.leader_id.0)
    })
    .await;
    cluster.connect(leader).await
}

/// kill -9 of the coordinator: an open transaction goes on with its successor, one that was ending is ended by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_outlive_their_coordinator() {
    let cluster = TestCluster::start(3, OVERRIDES).await;
    let any = cluster.connect(1).await;
    any.create_topic("outlived", 1, 3, &[("min.insync.replicas", "2")])
        .await;
    let mut expected: Vec<String> = Vec::new();
    for (round, version) in [WITH_BUMP, WITHOUT_BUMP].into_iter().enumerate() {
        let any = cluster.connect(1).await;
        let mut producer = Producer::begin(&any, "outliving").await;
        producer.add("outlived", &[0]).await;
        let to = leader(&cluster, &any, "outlived").await;
        let open = format!("open-{round}");
        producer.produce(&to, "outlived", 0, &[&open]).await;
        let (node, _) = find(&any, "outliving").await;
        cluster.node(node).kill();
        let witness = other(&cluster, node).await;
        producer.move_to_coordinator(&witness).await;
        producer.end(version, true).await;
        expected.push(open);
        let to = leader(&cluster, &witness, "outlived").await;
        let texts: Vec<&str> = expected.iter().map(String::as_str).collect();
        shows(&to, "outlived", &texts).await;
        producer.is_in("CompleteCommit").await;
        cluster.node(node).start().await;
        let all = cluster.connect(node).await;
        eventually("everybody is in sync", LIMIT, async || {
            let partition = all.partition("outlived", 0).await;
            holds(partition.isr_nodes.len() == 3, format!("{partition:?}"))
        })
        .await;
    }
}

/// The end is in the log and the coordinator dies at once: whoever asks again is told the same, and readers see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_was_answered_is_carried_out() {
    let cluster = TestCluster::start(3, OVERRIDES).await;
    let any = cluster.connect(1).await;
    any.create_topic("answered", 1, 3, &[]).await;
    let mut producer = Producer::begin(&any, "answering").await;
    producer.add("answered", &[0]).await;
    let to = leader(&cluster, &any, "answered").await;
    producer.produce(&to, "answered", 0, &["once"]).await;
    let (node, _) = find(&any, "answering").await;
    let epoch = producer.epoch;
    let answer = producer.try_end(WITH_BUMP, true).await;
    cluster.node(node).kill();
    assert_eq!((answer.error_code, answer.producer_epoch), (OK, epoch + 1));
    let witness = other(&cluster, node).await;
    producer.move_to_coordinator(&witness).await;
    producer.is_in("CompleteCommit").await;
    producer.end(WITH_BUMP, true).await;
    assert_eq!(producer.epoch, epoch + 1, "the retry is told the same");
    let to = leader(&cluster, &witness, "answered").await;
    shows(&to, "answered", &["once"]).await;
}

async fn create(connection: &Connection, topic: &str, replicas: &[i32]) {
    let assignment = CreatableReplicaAssignment::default()
        .with_partition_index(0)
        .with_broker_ids(replicas.iter().map(|id| (*id).into()).collect());
    let request = creatable(topic, -1, -1, &[]).with_assignments(vec![assignment]);
    let result = connection.try_create(request).await;
    assert_eq!(result.error_code, OK, "{:?}", result.error_message);
    connection.await_leaders(topic, 1).await;
}

/// As many transactional ids as asked for, all coordinated by one node.
async fn coordinated_by(any: &Connection, node: i32, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    for number in 0.. {
        let transactional_id = format!("beside-{number}");
        if find(any, &transactional_id).await.0 == node {
            found.push(transactional_id);
        }
        if found.len() == count {
            break;
        }
    }
    found
}

/// Markers for one leader share few requests: those for a partition that cannot commit must leave room for the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_cannot_commit_holds_no_other_transaction_up() {
    const LEADER: i32 = 1;
    const COORDINATOR: i32 = 2;
    const HANGS: i32 = 3;
    /// As many requests as one leader answers at once.
    const HELD: usize = 5;
    /// Less than a request may take.
    const SOON: Duration = Duration::from_secs(20);
    let overrides = [
        ("broker.session.timeout.ms", "600000"),
        ("replica.lag.time.max.ms", "600000"),
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
    ];
    let cluster = TestCluster::start(3, &overrides).await;
    let any = cluster.connect(LEADER).await;
    create(&any, "held", &[LEADER, HANGS]).await;
    create(&any, "free", &[LEADER]).await;
    let mut producers = Vec::new();
    for (number, id) in (0..).zip(coordinated_by(&any, COORDINATOR, HELD + 1).await) {
        let topic = if number < HELD { "held" } else { "free" };
        let mut producer = Producer::begin(&any, &id).await;
        producer.add(topic, &[0]).await;
        producer.produce(&any, topic, 0, &["one"]).await;
        producers.push(producer);
    }
    cluster.node(HANGS).signal(Signal::STOP);
    for producer in &mut producers {
        producer.end(WITH_BUMP, true).await;
    }
    let free = producers.pop().expect("it was made last");
    eventually("the other transaction is over", SOON, async || {
        let described = describe(&free.coordinator, &free.transactional_id).await;
        let state = described.transaction_state.as_str();
        holds(state == "CompleteCommit", format!("{described:?}"))
    })
    .await;
    for held in &producers {
        held.is_in("PrepareCommit").await;
    }
    cluster.node(HANGS).signal(Signal::CONT);
    for held in &producers {
        held.is_in("CompleteCommit").await;
    }
}
