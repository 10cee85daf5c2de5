//! Frames, headers, order of answers, and when a connection ends.

use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::Decodable;
use odradek_cluster_tests::asks::{fetch_request, text};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::raw::{RawConnection, framed, header, take_correlation_id};
use odradek_cluster_tests::shared::single;

const METADATA: i16 = ApiKey::Metadata as i16;

/// Metadata version 12 behind any header: no topics, no creation.
fn metadata_body(topics: u8) -> Vec<u8> {
    vec![topics, 0, 0, 0]
}

async fn ask_metadata(frame: &[u8]) -> MetadataResponse {
    let mut connection = RawConnection::open(single().await.address(1)).await;
    connection.send_frame(frame).await;
    let mut response = connection.receive().await.expect("an answer");
    assert_eq!(take_correlation_id(&mut response), 7);
    assert_eq!(
        response.get_u8(),
        0,
        "the tagged fields of a flexible response header"
    );
    MetadataResponse::decode(&mut response, 12).expect("an answer of version 12")
}

/// 3
#[tokio::test]
async fn the_client_id_of_a_flexible_header_is_an_old_nullable_string() {
    let mut frame = BytesMut::new();
    frame.put_i16(METADATA);
    frame.put_i16(12);
    frame.put_i32(7);
    frame.put_i16(-1);
    frame.put_u8(0);
    frame.put_slice(&metadata_body(1));
    assert_eq!(ask_metadata(&frame).await.brokers.len(), 1);
}

/// 14
#[tokio::test]
async fn unknown_tagged_fields_are_skipped() {
    let mut frame = BytesMut::new();
    frame.put_i16(METADATA);
    frame.put_i16(12);
    frame.put_i32(7);
    frame.put_i16(1);
    frame.put_u8(b'x');
    // One tagged field: tag 99, three bytes.
    frame.put_slice(&[1, 99, 3, 1, 2, 3]);
    frame.put_slice(&[1, 0, 0]);
    // Two tagged fields: tag 5, none; tag 98, one byte.
    frame.put_slice(&[2, 5, 0, 98, 1, 9]);
    assert_eq!(ask_metadata(&frame).await.brokers.len(), 1);
}

/// 13
#[tokio::test]
async fn null_and_empty_arrays_are_told_apart() {
    single()
        .await
        .connect()
        .await
        .create_topic("framing-null", 1, 1, &[])
        .await;
    let with = |topics| {
        let mut frame = header(METADATA, 12, 7);
        frame.put_slice(&metadata_body(topics));
        frame
    };
    let all = ask_metadata(&with(0)).await;
    assert!(all.topics.iter().any(|topic| {
        topic
            .name
            .as_ref()
            .is_some_and(|name| **name == text("framing-null"))
    }));
    let none = ask_metadata(&with(1)).await;
    assert!(none.topics.is_empty());
}

/// 8
#[tokio::test]
async fn an_unknown_api_key_or_version_closes_the_connection_without_an_answer() {
    for (api_key, version) in [(999, 0), (METADATA, 99), (METADATA, -1), (-3, 0)] {
        let mut connection = RawConnection::open(single().await.address(1)).await;
        let mut frame = header(api_key, version, 1);
        frame.put_slice(&[0; 8]);
        connection.send_frame(&frame).await;
        assert!(
            connection.closed().await.is_empty(),
            "key {api_key} version {version}"
        );
    }
}

/// 12
#[tokio::test]
async fn answers_come_in_the_order_of_the_requests() {
    let shared = single().await;
    shared
        .connect()
        .await
        .create_topic("framing-order", 1, 1, &[])
        .await;
    let mut connection = RawConnection::open(shared.address(1)).await;
    let slow = fetch_request("framing-order", 0, 0)
        .with_max_wait_ms(400)
        .with_min_bytes(1);
    let quick = MetadataRequest::default().with_topics(Some(Vec::new()));
    let begin = Instant::now();
    let mut bytes = BytesMut::new();
    bytes.put_slice(&framed(12, 1, &slow));
    bytes.put_slice(&framed(12, 2, &quick));
    bytes.put_slice(&framed(12, 3, &slow));
    bytes.put_slice(&framed(2, 4, &ApiVersionsRequest::default()));
    connection.send(&bytes).await;
    for expected in 1..=4 {
        let mut response = connection.receive().await.expect("an answer");
        assert_eq!(take_correlation_id(&mut response), expected);
    }
    assert!(
        begin.elapsed() >= Duration::from_millis(400),
        "the fetch did not wait"
    );
}

/// A frame may arrive byte by byte.
#[tokio::test]
async fn a_request_may_come_in_pieces() {
    let mut connection = RawConnection::open(single().await.address(1)).await;
    for byte in framed(2, 42, &ApiVersionsRequest::default()) {
        connection.send(&[byte]).await;
    }
    let mut response = connection.receive().await.expect("an answer");
    assert_eq!(take_correlation_id(&mut response), 42);
}

/// 15
#[tokio::test]
async fn an_oversized_or_negative_frame_closes_the_connection() {
    for size in [-1, i32::MIN, i32::MAX, 104_857_601] {
        let mut connection = RawConnection::open(single().await.address(1)).await;
        connection.send(&size.to_be_bytes()).await;
        assert!(connection.closed().await.is_empty(), "size {size}");
    }
}

/// 15
#[tokio::test]
async fn an_array_longer_than_its_frame_closes_the_connection() {
    // Metadata 1: an array with an old count; 12: a compact one.
    let mut old = header(METADATA, 1, 1);
    old.put_i32(i32::MAX);
    let mut compact = header(METADATA, 12, 1);
    compact.put_slice(&[0xff, 0xff, 0xff, 0xff, 0x07, 0, 0, 0]);
    for frame in [old, compact] {
        let mut connection = RawConnection::open(single().await.address(1)).await;
        connection.send_frame(&frame).await;
        assert!(connection.closed().await.is_empty());
    }
}

/// 16
#[tokio::test]
async fn an_idle_connection_is_closed_but_never_during_a_request() {
    let cluster = TestCluster::start(1, &[("connections.max.idle.ms", "400")]).await;
    let address = cluster.node(1).address();
    cluster.connect(1).await.create_topic("idle", 1, 1, &[]).await;
    let mut idle = RawConnection::open(&address).await;
    let mut busy = RawConnection::open(&address).await;
    let parked = fetch_request("idle", 0, 0)
        .with_max_wait_ms(1500)
        .with_min_bytes(1);
    busy.send(&framed(12, 9, &parked)).await;
    assert!(idle.closed().await.is_empty());
    let mut response = busy
        .receive()
        .await
        .expect("an answer, although it took longer than connections.max.idle.ms");
    assert_eq!(take_correlation_id(&mut response), 9);
    assert!(busy.closed().await.is_empty());
}
