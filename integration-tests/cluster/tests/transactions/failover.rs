//! Coordinators that die, with transactions in every state.

use odradek_cluster_tests::asks::OK;
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::shared::OVERRIDES;
use odradek_cluster_tests::wait::{eventually, holds};

use crate::producer::{LIMIT, Producer, WITH_BUMP, WITHOUT_BUMP, find};
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
