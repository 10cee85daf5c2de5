//! Fetch without sessions, and OffsetForLeaderEpoch.

use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::FetchTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{FetchRequest, OffsetForLeaderEpochRequest};
use odradek_cluster_tests::asks::{
    FETCH_BY_NAME, OK, code, fetch_partition, fetch_partitions, fetch_request, topic_name,
};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records::{batch, headers, texts};
use odradek_cluster_tests::shared::single;
use odradek_common::error::ErrorCode;
use uuid::Uuid;

async fn with_topic(name: &str) -> Connection {
    let connection = single().await.connect().await;
    connection.create_topic(name, 1, 1, &[]).await;
    connection
}

/// 48
#[tokio::test]
async fn an_offset_inside_a_batch_brings_the_whole_batch() {
    let connection = with_topic("fetch-inside").await;
    connection
        .produce("fetch-inside", 0, &batch(&["0", "1", "2"]))
        .await;
    connection.produce("fetch-inside", 0, &batch(&["3", "4"])).await;
    for (offset, expected) in [
        (0, vec!["0", "1", "2", "3", "4"]),
        (2, vec!["0", "1", "2", "3", "4"]),
        (4, vec!["3", "4"]),
    ] {
        let bytes = connection.fetch("fetch-inside", 0, offset).await.records.unwrap();
        assert_eq!(texts(&bytes), expected, "from {offset}");
    }
}

/// 49
#[tokio::test]
async fn the_first_batch_comes_even_if_it_is_larger_than_every_limit() {
    let connection = with_topic("fetch-large").await;
    let large = "x".repeat(10_000);
    for _ in 0..2 {
        connection.produce("fetch-large", 0, &batch(&[&large])).await;
    }
    let mut request = fetch_request("fetch-large", 0, 0).with_max_bytes(100);
    request.topics[0].partitions[0].partition_max_bytes = 50;
    let data = connection.fetch_at(FETCH_BY_NAME, request).await;
    assert_eq!(texts(&data.records.unwrap()), [large]);
}

/// 49, 51
#[tokio::test]
async fn limits_hold_for_all_but_the_first_batch() {
    let connection = single().await.connect().await;
    connection.create_topic("fetch-limits", 2, 1, &[]).await;
    let value = "x".repeat(10_000);
    for partition in 0..2 {
        for _ in 0..5 {
            connection
                .produce("fetch-limits", partition, &batch(&[&value]))
                .await;
        }
    }
    // Whichever partition is named first gets the room there is.
    for first in [0, 1] {
        let partitions = vec![fetch_partition(first, 0), fetch_partition(1 - first, 0)];
        let request = fetch_partitions("fetch-limits", partitions).with_max_bytes(25_000);
        let response = connection.ask_at(FETCH_BY_NAME, request).await;
        let count = |index| {
            let data = response.responses[0]
                .partitions
                .iter()
                .find(|it| it.partition_index == index)
                .unwrap();
            headers(data.records.as_deref().unwrap_or_default()).len()
        };
        assert!((2..=3).contains(&count(first)), "{} batches", count(first));
        assert_eq!(count(1 - first), 0);
    }
}

/// 50
#[tokio::test]
async fn a_fetch_waits_for_min_bytes_but_no_longer_than_max_wait() {
    let connection = with_topic("fetch-wait").await;
    let begin = Instant::now();
    let request = fetch_request("fetch-wait", 0, 0)
        .with_max_wait_ms(300)
        .with_min_bytes(1);
    let data = connection.fetch_at(FETCH_BY_NAME, request).await;
    assert_eq!(data.error_code, OK);
    assert!(
        begin.elapsed() >= Duration::from_millis(290),
        "{:?}",
        begin.elapsed()
    );
}

/// 50
#[tokio::test]
async fn a_waiting_fetch_wakes_when_there_is_enough() {
    let connection = with_topic("fetch-wake").await;
    let producer = single().await.connect().await;
    let begin = Instant::now();
    let request = fetch_request("fetch-wake", 0, 0)
        .with_max_wait_ms(20_000)
        .with_min_bytes(150);
    let waiting = tokio::spawn(async move { connection.fetch_at(FETCH_BY_NAME, request).await });
    // One batch is less than min_bytes; further ones make it enough.
    let mut produced = 0;
    while !waiting.is_finished() {
        producer
            .produce("fetch-wake", 0, &batch(&[&"x".repeat(20)]))
            .await;
        produced += 1;
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "the fetch slept on after {produced} batches"
        );
    }
    let data = waiting.await.unwrap();
    assert!(data.records.unwrap().len() >= 150);
}

/// 50
#[tokio::test]
async fn a_fetch_that_need_not_wait_is_answered_at_once() {
    let connection = with_topic("fetch-at-once").await;
    connection.produce("fetch-at-once", 0, &batch(&["a"])).await;
    let begin = Instant::now();
    let long = |request: FetchRequest| request.with_max_wait_ms(20_000).with_min_bytes(1);
    // Enough is there; a partition has an error; nothing is asked for; nobody wants to wait.
    connection
        .fetch_at(FETCH_BY_NAME, long(fetch_request("fetch-at-once", 0, 0)))
        .await;
    let beyond = connection
        .fetch_at(FETCH_BY_NAME, long(fetch_request("fetch-at-once", 0, 99)))
        .await;
    assert_eq!(beyond.error_code, code(ErrorCode::OffsetOutOfRange));
    connection
        .ask_at(FETCH_BY_NAME, long(FetchRequest::default()))
        .await;
    let hasty = fetch_request("fetch-at-once", 0, 1)
        .with_max_wait_ms(0)
        .with_min_bytes(1000);
    connection.fetch_at(FETCH_BY_NAME, hasty).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

/// 50: more than the limits let through, or than the segment at hand has, is not waited for; nor is nothing at all.
#[tokio::test]
async fn a_fetch_that_cannot_get_what_it_waits_for_is_answered_at_once() {
    let connection = single().await.connect().await;
    let small = [("segment.bytes", "1048576")];
    connection.create_topic("fetch-cut", 2, 1, &small).await;
    let value = "x".repeat(300_000);
    for _ in 0..5 {
        connection.produce("fetch-cut", 0, &batch(&[&value])).await;
    }
    connection.produce("fetch-cut", 1, &batch(&[&value])).await;
    let long = |request: FetchRequest, min_bytes| {
        let request = request.with_max_wait_ms(20_000).with_min_bytes(min_bytes);
        connection.fetch_at(FETCH_BY_NAME, request)
    };
    let begin = Instant::now();
    let mut limited = fetch_request("fetch-cut", 0, 0);
    limited.topics[0].partitions[0].partition_max_bytes = 700_000;
    let data = long(limited, 700_000).await;
    assert_eq!(
        headers(&data.records.unwrap()).len(),
        2,
        "batches in the limit of the partition"
    );
    let all = fetch_request("fetch-cut", 1, 0).with_max_bytes(200_000);
    let data = long(all, 1_000_000).await;
    assert_eq!(
        headers(&data.records.unwrap()).len(),
        1,
        "the limit of the request is the least"
    );
    let data = long(fetch_request("fetch-cut", 0, 0), 900_001).await;
    assert_eq!(
        headers(&data.records.unwrap()).len(),
        3,
        "batches of the first segment"
    );
    let data = long(fetch_request("fetch-cut", 1, 1), 0).await;
    assert_eq!(data.records.unwrap_or_default().len(), 0, "nothing is enough");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

/// 52
#[tokio::test]
async fn the_end_is_empty_and_beyond_is_out_of_range() {
    let connection = with_topic("fetch-range").await;
    connection.produce("fetch-range", 0, &batch(&["a", "b"])).await;
    let end = connection.fetch("fetch-range", 0, 2).await;
    assert_eq!(
        (end.error_code, end.high_watermark, end.log_start_offset),
        (OK, 2, 0)
    );
    assert!(end.records.unwrap_or_default().is_empty());
    for offset in [3, -1] {
        let outside = connection.fetch("fetch-range", 0, offset).await;
        assert_eq!(outside.error_code, code(ErrorCode::OffsetOutOfRange));
        assert_eq!((outside.high_watermark, outside.log_start_offset), (-1, -1));
        assert!(outside.records.unwrap_or_default().is_empty());
    }
}

/// 55
#[tokio::test]
async fn aborted_transactions_are_null_unless_read_committed() {
    let connection = with_topic("fetch-isolation").await;
    connection.produce("fetch-isolation", 0, &batch(&["a"])).await;
    let uncommitted = connection.fetch("fetch-isolation", 0, 0).await;
    assert_eq!(uncommitted.aborted_transactions, None);
    let request = fetch_request("fetch-isolation", 0, 0).with_isolation_level(1);
    let committed = connection.fetch_at(FETCH_BY_NAME, request).await;
    assert_eq!(committed.aborted_transactions, Some(Vec::new()));
    assert_eq!(committed.last_stable_offset, 1);
    assert_eq!(texts(&committed.records.unwrap()), ["a"]);
}

/// 54: who leads answers itself, and says so.
#[tokio::test]
async fn without_a_selector_no_other_replica_is_preferred() {
    let connection = with_topic("fetch-preferred").await;
    connection.produce("fetch-preferred", 0, &batch(&["a"])).await;
    let data = connection.fetch("fetch-preferred", 0, 0).await;
    assert_eq!(data.preferred_read_replica.0, -1);
}

/// 57
#[tokio::test]
async fn epochs_are_compared_with_the_leaders() {
    let connection = with_topic("fetch-epochs").await;
    connection.produce("fetch-epochs", 0, &batch(&["a"])).await;
    let epoch = connection.partition("fetch-epochs", 0).await.leader_epoch;
    assert!(epoch >= 0, "61: epochs are real");
    for (known, error) in [
        (epoch, OK),
        (-1, OK),
        (epoch + 1, code(ErrorCode::UnknownLeaderEpoch)),
    ] {
        let mut request = fetch_request("fetch-epochs", 0, 0);
        request.topics[0].partitions[0].current_leader_epoch = known;
        assert_eq!(
            connection.fetch_at(FETCH_BY_NAME, request).await.error_code,
            error,
            "epoch {known}"
        );
    }
    // The follower believes in records of an epoch that this leader never had.
    let mut request = fetch_request("fetch-epochs", 0, 1);
    request.topics[0].partitions[0].last_fetched_epoch = epoch;
    let same = connection.fetch_at(FETCH_BY_NAME, request.clone()).await;
    assert_eq!((same.error_code, same.diverging_epoch.epoch), (OK, -1));
}

/// 27
#[tokio::test]
async fn a_topic_id_that_is_not_known_is_named_so() {
    let connection = with_topic("fetch-id").await;
    connection.produce("fetch-id", 0, &batch(&["a"])).await;
    let id = connection.topic("fetch-id").await.topic_id;
    for (topic_id, error) in [(id, OK), (Uuid::from_u128(42), code(ErrorCode::UnknownTopicId))] {
        let topic = FetchTopic::default()
            .with_topic_id(topic_id)
            .with_partitions(vec![fetch_partition(0, 0)]);
        let request = FetchRequest::default()
            .with_max_bytes(1 << 20)
            .with_topics(vec![topic]);
        for version in [13, 15, 16, 17] {
            let data = connection.fetch_at(version, request.clone()).await;
            assert_eq!(data.error_code, error, "version {version}");
        }
    }
}

/// A partition that is not there has an error of its own.
#[tokio::test]
async fn an_unknown_partition_is_named_so() {
    let connection = with_topic("fetch-unknown").await;
    for (topic, partition) in [("fetch-unknown", 5), ("fetch-never", 0)] {
        let data = connection.fetch(topic, partition, 0).await;
        assert_eq!(data.error_code, code(ErrorCode::UnknownTopicOrPartition));
    }
}

/// 60
#[tokio::test]
async fn the_end_of_an_epoch_is_told_and_of_an_unknown_one_is_undefined() {
    let connection = with_topic("fetch-epoch-end").await;
    connection
        .produce("fetch-epoch-end", 0, &batch(&["a", "b"]))
        .await;
    let current = connection.partition("fetch-epoch-end", 0).await.leader_epoch;
    for (asked, expected) in [(current, (OK, current, 2)), (current + 10, (OK, -1, -1))] {
        for replica_id in [-1, -2] {
            let partition = OffsetForLeaderPartition::default()
                .with_partition(0)
                .with_leader_epoch(asked);
            let topic = OffsetForLeaderTopic::default()
                .with_topic(topic_name("fetch-epoch-end"))
                .with_partitions(vec![partition]);
            let request = OffsetForLeaderEpochRequest::default()
                .with_replica_id(replica_id.into())
                .with_topics(vec![topic]);
            let response = connection.ask(request).await;
            let end = &response.topics[0].partitions[0];
            assert_eq!(
                (end.error_code, end.leader_epoch, end.end_offset),
                expected,
                "epoch {asked}"
            );
        }
    }
}
