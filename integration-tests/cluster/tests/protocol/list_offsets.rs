//! ListOffsets: by timestamp and by the special ones.

use odradek_cluster_tests::asks::{OK, code, list_offsets_request};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records::{batch_at, now_ms};
use odradek_cluster_tests::shared::single;
use odradek_common::error::ErrorCode;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

async fn with_topic(name: &str) -> Connection {
    let connection = single().await.connect().await;
    connection.create_topic(name, 1, 1, &[]).await;
    connection
}

/// 58
#[tokio::test]
async fn latest_and_earliest_are_the_ends_of_the_log() {
    let connection = with_topic("list-ends").await;
    for (timestamp, end) in [(LATEST, 0), (EARLIEST, 0)] {
        assert_eq!(
            connection.list_offset("list-ends", 0, timestamp).await.offset,
            end
        );
    }
    connection
        .produce("list-ends", 0, &batch_at(now_ms(), &["a", "b", "c"]))
        .await;
    for (timestamp, expected) in [(LATEST, 3), (EARLIEST, 0), (EARLIEST_LOCAL, 0)] {
        let found = connection.list_offset("list-ends", 0, timestamp).await;
        assert_eq!(
            (found.error_code, found.offset, found.timestamp),
            (OK, expected, -1)
        );
        assert!(found.leader_epoch >= 0, "61");
    }
    let mut committed = list_offsets_request("list-ends", 0, LATEST);
    committed.isolation_level = 1;
    assert_eq!(connection.ask(committed).await.topics[0].partitions[0].offset, 3);
}

/// 58
#[tokio::test]
async fn a_timestamp_finds_the_first_record_at_or_after_it() {
    let connection = with_topic("list-time").await;
    let begin = now_ms() - 100_000;
    // Records at begin, begin + 1, begin + 2; then from begin + 1000.
    connection
        .produce("list-time", 0, &batch_at(begin, &["0", "1", "2"]))
        .await;
    connection
        .produce("list-time", 0, &batch_at(begin + 1000, &["3", "4"]))
        .await;
    for (target, offset, timestamp) in [
        (begin - 50, 0, begin),
        (begin, 0, begin),
        (begin + 1, 1, begin + 1),
        (begin + 3, 3, begin + 1000),
        (begin + 1001, 4, begin + 1001),
    ] {
        let found = connection.list_offset("list-time", 0, target).await;
        assert_eq!(
            (found.error_code, found.offset, found.timestamp),
            (OK, offset, timestamp),
            "{}",
            target - begin
        );
    }
    let none = connection.list_offset("list-time", 0, begin + 5000).await;
    assert_eq!((none.error_code, none.offset, none.timestamp), (OK, -1, -1));
}

/// 58
#[tokio::test]
async fn the_greatest_timestamp_is_found_wherever_it_is() {
    let connection = with_topic("list-max").await;
    let empty = connection.list_offset("list-max", 0, MAX_TIMESTAMP).await;
    assert_eq!((empty.error_code, empty.offset, empty.timestamp), (OK, -1, -1));
    let now = now_ms();
    connection
        .produce("list-max", 0, &batch_at(now - 5000, &["0"]))
        .await;
    connection
        .produce("list-max", 0, &batch_at(now, &["1", "2"]))
        .await;
    connection
        .produce("list-max", 0, &batch_at(now - 3000, &["3"]))
        .await;
    let found = connection.list_offset("list-max", 0, MAX_TIMESTAMP).await;
    assert_eq!(
        (found.error_code, found.offset, found.timestamp),
        (OK, 2, now + 1)
    );
}

/// 58
#[tokio::test]
async fn nothing_is_tiered() {
    let connection = with_topic("list-tiered").await;
    connection
        .produce("list-tiered", 0, &batch_at(now_ms(), &["a"]))
        .await;
    let found = connection.list_offset("list-tiered", 0, LATEST_TIERED).await;
    assert_eq!((found.error_code, found.offset), (OK, -1));
}

/// 58: version 0 and the answer's fields of older versions.
#[tokio::test]
async fn every_version_finds_the_same() {
    let connection = with_topic("list-versions").await;
    connection
        .produce("list-versions", 0, &batch_at(now_ms(), &["a", "b"]))
        .await;
    for version in 1..=10 {
        let answer = connection
            .ask_at(version, list_offsets_request("list-versions", 0, LATEST))
            .await;
        assert_eq!(answer.topics[0].partitions[0].offset, 2, "version {version}");
    }
}

/// 57, 58
#[tokio::test]
async fn epochs_and_unknown_partitions_are_checked() {
    let connection = with_topic("list-errors").await;
    let unknown = connection.list_offset("list-errors", 3, LATEST).await;
    assert_eq!(unknown.error_code, code(ErrorCode::UnknownTopicOrPartition));
    let epoch = connection.partition("list-errors", 0).await.leader_epoch;
    let mut request = list_offsets_request("list-errors", 0, LATEST);
    request.topics[0].partitions[0].current_leader_epoch = epoch + 1;
    let answer = connection.ask(request).await;
    assert_eq!(
        answer.topics[0].partitions[0].error_code,
        code(ErrorCode::UnknownLeaderEpoch)
    );
}
