//! Bytes that are no Kafka request: the connection is closed, one log line names what they were, and memory does not grow.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::ApiKey;
use odradek_cluster_tests::asks::OK;
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::raw::{RawConnection, header};
use odradek_cluster_tests::wait::{eventually, holds};

const LIMIT: Duration = Duration::from_secs(15);
/// How many hostile connections there are, and what they may cost together.
const CONNECTIONS: usize = 1000;
const RSS_GROWTH_BYTES_MAX: u64 = 64 << 20;

/// Something hostile, and what the log must call it.
struct Hostile {
    name: &'static str,
    bytes: Vec<u8>,
    logged: &'static str,
}

fn framed(frame: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.put_i32(i32::try_from(frame.len()).expect("a small frame"));
    bytes.put_slice(frame);
    bytes.to_vec()
}

/// Bytes that look like chance and are the same in every run.
fn noise(mut seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.push((seed >> 33) as u8);
    }
    bytes
}

fn hostiles() -> Vec<Hostile> {
    let hostile = |name, bytes, logged| Hostile { name, bytes, logged };
    let with_body = |api_key: ApiKey, version, body: &[u8]| {
        let mut frame = header(api_key as i16, version, 1);
        frame.put_slice(body);
        framed(&frame)
    };
    let mut two_gib = i32::MAX.to_be_bytes().to_vec();
    two_gib.extend_from_slice(&header(3, 12, 1));
    // Negative as a length.
    let mut random = noise(7, 64);
    random[0] = 0xA5;
    let mut tls = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    tls.extend(noise(1, 506));
    vec![
        hostile("random bytes", random, "negative length"),
        hostile("2 GiB frame", two_gib, "exceeds socket.request.max.bytes"),
        hostile(
            "huge array",
            with_body(ApiKey::Metadata, 1, &i32::MAX.to_be_bytes()),
            "Metadata",
        ),
        hostile(
            "huge compact array",
            with_body(ApiKey::Metadata, 12, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
            "Metadata",
        ),
        hostile(
            "huge nested array",
            with_body(ApiKey::Fetch, 12, &noise(3, 60)),
            "Fetch",
        ),
        hostile(
            "HTTP GET",
            b"GET / HTTP/1.1\r\nHost: localhost:9092\r\n\r\n".to_vec(),
            "HTTP GET",
        ),
        hostile("TLS hello", tls, "TLS hello"),
        hostile(
            "unknown API",
            framed(&header(12_345, 0, 1)),
            "version 0 is not served here",
        ),
    ]
}

async fn send(node: &Node, bytes: &[u8]) -> Vec<u8> {
    let mut connection = RawConnection::open(&node.address()).await;
    connection.send(bytes).await;
    connection.closed().await
}

/// 15, 94
#[tokio::test]
async fn what_is_no_request_is_closed_with_one_line_that_names_it() {
    let cluster = TestCluster::start(1, &[]).await;
    let node = cluster.node(1);
    for hostile in hostiles() {
        let before = node.log_text().len();
        assert_eq!(
            send(node, &hostile.bytes).await,
            b"",
            "{} is answered with nothing",
            hostile.name
        );
        eventually(
            &format!("{} is named in the log", hostile.name),
            LIMIT,
            async || {
                let text = node.log_text().split_off(before);
                holds(text.contains(hostile.logged), text)
            },
        )
        .await;
        let lines = node.log_text().split_off(before);
        assert_eq!(lines.lines().count(), 1, "{}:\n{lines}", hostile.name);
    }
    assert_eq!(
        cluster.connect(1).await.metadata(Some(&[])).await.brokers.len(),
        1
    );
}

/// Whatever they send, those who are no clients cost nothing that stays.
#[tokio::test]
async fn a_thousand_hostile_connections_do_not_move_the_memory() {
    let cluster = TestCluster::start(1, &[]).await;
    let node = cluster.node(1);
    let hostiles = hostiles();
    // What every connection needs once is there before it is counted.
    for hostile in &hostiles {
        send(node, &hostile.bytes).await;
    }
    let before = node.rss_bytes();
    for index in 0..CONNECTIONS {
        let seed = u64::try_from(index).unwrap();
        match hostiles.get(index % (hostiles.len() + 1)) {
            Some(hostile) => _ = send(node, &hostile.bytes).await,
            // Pure noise may be the beginning of a long frame: then it is this side that ends the connection.
            None => {
                let mut connection = RawConnection::open(&node.address()).await;
                connection.send(&noise(seed, 300)).await;
                connection.finish().await;
                connection.closed().await;
            }
        }
    }
    let grown = node.rss_bytes().saturating_sub(before);
    assert!(grown < RSS_GROWTH_BYTES_MAX, "RSS grew by {} KiB", grown >> 10);
    let connection = cluster.connect(1).await;
    connection.create_topic("bad-input", 1, 1, &[]).await;
    assert_eq!(connection.topic("bad-input").await.error_code, OK);
}

/// Frames whose bytes never come hold no memory for them.
#[tokio::test]
async fn promised_bytes_cost_nothing_until_they_come() {
    let cluster = TestCluster::start(1, &[]).await;
    let node = cluster.node(1);
    let before = node.rss_bytes();
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let mut connection = RawConnection::open(&node.address()).await;
        // 90 MiB are allowed; a hundred bytes come.
        let mut bytes = (90i32 << 20).to_be_bytes().to_vec();
        bytes.extend_from_slice(&header(ApiKey::Produce as i16, 11, 1));
        bytes.extend_from_slice(&[0; 100]);
        connection.send(&bytes).await;
        waiting.push(connection);
    }
    // Answered after all of them were read: connections are served in turn.
    assert_eq!(
        cluster.connect(1).await.metadata(Some(&[])).await.brokers.len(),
        1
    );
    let grown = node.rss_bytes().saturating_sub(before);
    assert!(grown < RSS_GROWTH_BYTES_MAX, "RSS grew by {} KiB", grown >> 10);
}
