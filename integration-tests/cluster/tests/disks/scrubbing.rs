//! A byte that a disk has changed: found, told, and mended where another node has the records.

use std::fs;
use std::path::PathBuf;

use odradek_cluster_tests::asks::{OK, code};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::records::batch;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;

use super::{LIMIT, SEGMENT_BYTES};

const SCRUBBING: &[(&str, &str)] = &[
    ("log.initial.task.delay.ms", "0"),
    ("odradek.log.scrub.interval.ms", "500"),
    ("odradek.log.scrub.max.bytes.per.second", "1000000000"),
];
const VALUE_BYTES: usize = 100_000;
const RECORDS: usize = 40;

/// Several segments; what was written.
async fn fill(connection: &Connection) -> Vec<String> {
    let mut written = Vec::new();
    for number in 0..RECORDS {
        let value = format!("{number}-{}", "x".repeat(VALUE_BYTES));
        connection.produce("t", 0, &batch(&[&value])).await;
        written.push(value);
    }
    written
}

/// The first segment, which is sealed.
fn first_segment(node: &Node) -> PathBuf {
    node.log_dir().join("t-0/00000000000000000000.log")
}

/// Changes a byte of the third record's value.
fn damage(node: &Node) -> Vec<u8> {
    let path = first_segment(node);
    let whole = fs::read(&path).expect("the segment is there");
    let mut bytes = whole.clone();
    let at = 2 * (VALUE_BYTES + 80) + VALUE_BYTES / 2;
    bytes[at] ^= 1;
    // In place, as a disk would.
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("it is the test's");
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes[at..=at], at as u64).expect("it is written");
    whole
}

async fn read_all(connection: &Connection) -> Vec<String> {
    let seen = connection.read_from("t", 0, 0).await;
    seen.iter().map(|seen| seen.text()).collect()
}

#[tokio::test]
async fn a_damaged_segment_is_replaced_by_what_another_node_has() {
    let cluster = TestCluster::start(3, SCRUBBING).await;
    let connection = cluster.connect(1).await;
    connection
        .create_topic("t", 1, 3, &[("segment.bytes", SEGMENT_BYTES)])
        .await;
    let leader = connection.partition("t", 0).await.leader_id.0;
    let leading = cluster.connect(leader).await;
    // Node 1 knows of the topic; another node may hear of it later.
    eventually("the leader leads", LIMIT, async || {
        let latest = leading.list_offset("t", 0, -1).await;
        holds(latest.error_code == OK, format!("{latest:?}"))
    })
    .await;
    let written = fill(&leading).await;
    let follower = leader % 3 + 1;
    for id in [follower, leader] {
        let node = cluster.node(id);
        eventually("the segment is sealed", LIMIT, async || {
            let sealed = node.log_dir().join("t-0").read_dir();
            let count = sealed.map_or(0, |entries| {
                entries
                    .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                    .filter(|name| name.ends_with(".log"))
                    .count()
            });
            holds(count > 2, format!("{count} segments"))
        })
        .await;
        let whole = damage(node);
        eventually("it is mended", LIMIT, async || {
            let said = node.log_text();
            let healed = said.contains("a damaged segment was replaced");
            let is_whole = fs::read(first_segment(node)).is_ok_and(|bytes| bytes == whole);
            holds(healed && is_whole, said)
        })
        .await;
        assert!(node.log_text().contains("a sealed segment is damaged"));
        assert_eq!(node.metric("odradek_log_damaged_segments").await, Some(0.0));
    }
    let connection = cluster.connect(leader).await;
    assert_eq!(read_all(&connection).await, written);
    let partition = connection.partition("t", 0).await;
    assert_eq!(
        (partition.leader_id.0, partition.isr_nodes.len()),
        (leader, 3),
        "nobody gave anything up"
    );
}

#[tokio::test]
async fn damage_that_nobody_can_mend_is_told_and_the_rest_is_served() {
    let cluster = TestCluster::start(1, SCRUBBING).await;
    let (node, connection) = (cluster.node(1), cluster.connect(1).await);
    connection
        .create_topic("t", 1, 1, &[("segment.bytes", SEGMENT_BYTES)])
        .await;
    let written = fill(&connection).await;
    damage(node);
    eventually("it is found and told", LIMIT, async || {
        let found = node.metric("odradek_log_damaged_segments").await;
        let said = node.log_text();
        let is_told = said.contains("there is no other replica to fetch it from");
        holds(found == Some(1.0) && is_told, format!("{found:?}: {said}"))
    })
    .await;
    let said = node.log_text();
    assert_eq!(said.matches("a sealed segment is damaged").count(), 1, "{said}");
    assert_eq!(
        connection.fetch("t", 0, 2).await.error_code,
        code(ErrorCode::CorruptMessage)
    );
    let before = connection.fetch("t", 0, 0).await;
    assert_eq!(before.error_code, OK);
    let behind = connection.read_from("t", 0, 3).await;
    let behind: Vec<String> = behind.iter().map(|seen| seen.text()).collect();
    assert_eq!(behind, written[3..]);
    assert_eq!(
        connection.produce("t", 0, &batch(&["more"])).await,
        RECORDS as i64
    );
}
