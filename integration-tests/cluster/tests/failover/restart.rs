//! One node that is killed or stopped and started again.

use std::time::Instant;

use odradek_cluster_tests::asks::{OK, code};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records::{Seen, batch, idempotent};
use odradek_cluster_tests::shared::OVERRIDES;
use odradek_common::error::ErrorCode;

async fn values(connection: &Connection, topic: &str) -> Vec<String> {
    connection
        .read_from(topic, 0, 0)
        .await
        .iter()
        .map(Seen::text)
        .collect()
}

/// Records, sequences of producers, topics and configurations are there after kill -9.
#[tokio::test]
async fn a_killed_node_comes_back_with_everything() {
    let cluster = TestCluster::start(1, OVERRIDES).await;
    let connection = cluster.connect(1).await;
    connection
        .create_topic("kept", 1, 1, &[("max.message.bytes", "5000")])
        .await;
    let id = connection.topic("kept").await.topic_id;
    let (producer, epoch) = connection.producer_id().await;
    for number in 0..3 {
        connection
            .produce(
                "kept",
                0,
                &idempotent(producer, epoch, number, &[&number.to_string()]),
            )
            .await;
    }
    cluster.node(1).kill();
    let begin = Instant::now();
    cluster.node(1).start().await;
    eprintln!("ready again after {} ms", begin.elapsed().as_millis());
    let connection = cluster.connect(1).await;
    connection.await_leaders("kept", 1).await;
    assert_eq!(connection.topic("kept").await.topic_id, id);
    assert_eq!(values(&connection, "kept").await, ["0", "1", "2"]);
    // The last five batches are still known, and so is what comes next.
    let again = connection
        .produce_with("kept", 0, -1, &idempotent(producer, epoch, 1, &["1"]))
        .await;
    assert_eq!((again.error_code, again.base_offset), (OK, 1));
    let gap = connection
        .produce_with("kept", 0, -1, &idempotent(producer, epoch, 9, &["9"]))
        .await;
    assert_eq!(gap.error_code, code(ErrorCode::OutOfOrderSequenceNumber));
    assert_eq!(
        connection
            .produce("kept", 0, &idempotent(producer, epoch, 3, &["3"]))
            .await,
        3
    );
    let large = connection
        .produce_with("kept", 0, -1, &batch(&[&"x".repeat(6000)]))
        .await;
    assert_eq!(large.error_code, code(ErrorCode::MessageTooLarge));
    let (next, _) = connection.producer_id().await;
    assert!(next > producer, "ids are never given twice");
}

/// After a clean stop nothing needs to be recovered.
#[tokio::test]
async fn a_stopped_node_starts_without_recovery() {
    let cluster = TestCluster::start(1, OVERRIDES).await;
    let connection = cluster.connect(1).await;
    connection.create_topic("clean", 3, 1, &[]).await;
    for partition in 0..3 {
        connection.produce("clean", partition, &batch(&["a", "b"])).await;
    }
    assert_eq!(cluster.node(1).stop().await.code(), Some(0));
    let before = cluster.node(1).log_text().len();
    cluster.node(1).start().await;
    let connection = cluster.connect(1).await;
    connection.await_leaders("clean", 3).await;
    for partition in 0..3 {
        assert_eq!(connection.produce("clean", partition, &batch(&["c"])).await, 2);
    }
    let text = cluster.node(1).log_text().split_off(before);
    assert!(!text.contains("recovered"), "{text}");
}

/// 61: each leadership has an epoch of its own, and old ones can be looked up.
#[tokio::test]
async fn epochs_rise_with_each_leadership() {
    let cluster = TestCluster::start(1, OVERRIDES).await;
    let connection = cluster.connect(1).await;
    connection.create_topic("epochs", 1, 1, &[]).await;
    connection.produce("epochs", 0, &batch(&["a"])).await;
    let first = connection.partition("epochs", 0).await.leader_epoch;
    cluster.node(1).kill();
    cluster.node(1).start().await;
    let connection = cluster.connect(1).await;
    connection.await_leaders("epochs", 1).await;
    connection.produce("epochs", 0, &batch(&["b"])).await;
    let second = connection.partition("epochs", 0).await.leader_epoch;
    assert!(second > first, "{first} and then {second}");
    let bytes = connection.fetch("epochs", 0, 0).await.records.expect("records");
    let epochs: Vec<i32> = odradek_cluster_tests::records::headers(&bytes)
        .iter()
        .map(|header| header.partition_leader_epoch)
        .collect();
    assert_eq!(epochs, [first, second]);
    let mut request = odradek_cluster_tests::asks::fetch_request("epochs", 0, 2);
    request.topics[0].partitions[0].last_fetched_epoch = first;
    // 57: a reader that has two records of the first epoch has one that never was.
    let data = connection.fetch_at(12, request).await;
    assert_eq!(
        (data.diverging_epoch.epoch, data.diverging_epoch.end_offset),
        (first, 1)
    );
}
