//! What consumers see of transactions.

use kafka_protocol::messages::fetch_response::AbortedTransaction;
use odradek_cluster_tests::asks::{FETCH_BY_NAME, OK, fetch_request};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records;
use odradek_cluster_tests::shared::single;
use odradek_cluster_tests::wait::{eventually, holds};

use crate::producer::{LIMIT, Producer, WITH_BUMP, WITHOUT_BUMP};

/// Values that a consumer of committed records keeps: up to the last stable offset, without what was aborted.
pub async fn committed(connection: &Connection, topic: &str) -> Vec<String> {
    let request = fetch_request(topic, 0, 0).with_isolation_level(1);
    let data = connection.fetch_at(FETCH_BY_NAME, request).await;
    assert_eq!(data.error_code, OK);
    let aborted = data.aborted_transactions.unwrap_or_default();
    let bytes = data.records.unwrap_or_default();
    let mut kept = Vec::new();
    for header in records::headers(&bytes) {
        let is_aborted = aborted.iter().any(|aborted| {
            aborted.producer_id.0 == header.producer_id && aborted.first_offset <= header.base_offset
        });
        let is_lost = header.is_transactional() && is_aborted;
        if !header.is_control() && !is_lost {
            let range = header.base_offset..=header.last_offset();
            let seen = records::seen(&bytes).into_iter();
            kept.extend(
                seen.filter(|record| range.contains(&record.offset))
                    .map(|record| record.text()),
            );
        }
    }
    kept
}

pub async fn shows(connection: &Connection, topic: &str, expected: &[&str]) {
    eventually("committed records are seen", LIMIT, async || {
        let values = committed(connection, topic).await;
        holds(values == expected, format!("{values:?}"))
    })
    .await;
}

#[tokio::test]
async fn committed_records_are_seen_and_open_ones_are_not() {
    let connection = single().await.connect().await;
    connection.create_topic("seen", 1, 1, &[]).await;
    let mut producer = Producer::begin(&connection, "seen").await;
    for version in [WITHOUT_BUMP, WITH_BUMP] {
        producer.add("seen", &[0]).await;
        producer.produce(&connection, "seen", 0, &["a", "b"]).await;
        let before = committed(&connection, "seen").await.len();
        assert_eq!(before % 2, 0);
        producer.end(version, true).await;
        eventually("the transaction is seen", LIMIT, async || {
            let now = committed(&connection, "seen").await.len();
            holds(now == before + 2, format!("{now} after {before}"))
        })
        .await;
    }
}

#[tokio::test]
async fn aborted_records_are_never_seen() {
    let connection = single().await.connect().await;
    connection.create_topic("aborted", 1, 1, &[]).await;
    let mut aborting = Producer::begin(&connection, "aborting").await;
    aborting.add("aborted", &[0]).await;
    aborting.produce(&connection, "aborted", 0, &["no"]).await;
    aborting.end(WITH_BUMP, false).await;
    let mut committing = Producer::begin(&connection, "committing").await;
    committing.add("aborted", &[0]).await;
    committing.produce(&connection, "aborted", 0, &["yes"]).await;
    committing.end(WITH_BUMP, true).await;
    shows(&connection, "aborted", &["yes"]).await;
}

/// A reader far behind is told about what it gets, not about everything that was ever aborted after it.
#[tokio::test]
async fn a_fetch_names_the_aborted_transactions_of_its_own_records() {
    let connection = single().await.connect().await;
    connection.create_topic("long-ago", 1, 1, &[]).await;
    let mut producer = Producer::begin(&connection, "long-ago").await;
    for _ in 0..3 {
        producer.add("long-ago", &[0]).await;
        producer
            .produce(&connection, "long-ago", 0, &[&"no".repeat(500)])
            .await;
        producer.end(WITH_BUMP, false).await;
    }
    let mut committing = Producer::begin(&connection, "since-then").await;
    committing.add("long-ago", &[0]).await;
    committing.produce(&connection, "long-ago", 0, &["yes"]).await;
    committing.end(WITH_BUMP, true).await;
    shows(&connection, "long-ago", &["yes"]).await;
    let mut request = fetch_request("long-ago", 0, 0).with_isolation_level(1);
    let fetch = |request| connection.fetch_at(FETCH_BY_NAME, request);
    let named = |data: Option<Vec<AbortedTransaction>>| -> Vec<i64> {
        let aborted = data.unwrap_or_default();
        aborted.iter().map(|aborted| aborted.first_offset).collect()
    };
    assert_eq!(
        named(fetch(request.clone()).await.aborted_transactions),
        [0, 2, 4]
    );
    request.topics[0].partitions[0].partition_max_bytes = 1;
    assert_eq!(named(fetch(request.clone()).await.aborted_transactions), [0]);
    request.topics[0].partitions[0].fetch_offset = 2;
    assert_eq!(named(fetch(request).await.aborted_transactions), [2]);
}

#[tokio::test]
async fn what_a_dead_producer_left_open_does_not_hold_readers_up_for_ever() {
    let connection = single().await.connect().await;
    connection.create_topic("held-up", 1, 1, &[]).await;
    let mut dead = Producer::begin_with(&connection, "dead", 1_000).await;
    dead.add("held-up", &[0]).await;
    dead.produce(&connection, "held-up", 0, &["never"]).await;
    connection
        .produce("held-up", 0, &records::batch(&["after"]))
        .await;
    shows(&connection, "held-up", &["after"]).await;
}
