//! Produce: what is taken, what is refused and how, and what the log says afterwards.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use odradek_cluster_tests::asks::{OK, PRODUCE_BY_NAME, code, produce_request, topic_name};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::raw::{RawConnection, framed};
use odradek_cluster_tests::records::{self, at, batch, batch_at, keyed, now_ms, patched};
use odradek_cluster_tests::shared::single;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::Compression;
use odradek_common::records::record::Header;

const LIMIT: Duration = Duration::from_secs(15);
const HOUR_MS: i64 = 3_600_000;

async fn with_topic(name: &str, configs: &[(&str, &str)]) -> Connection {
    let connection = single().await.connect().await;
    connection.create_topic(name, 1, 1, configs).await;
    connection
}

async fn refused(connection: &Connection, topic: &str, batch: &Bytes, error: ErrorCode) {
    let result = connection.produce_with(topic, 0, -1, batch).await;
    assert_eq!(result.error_code, code(error), "{:?}", result.error_message);
    assert_eq!(result.base_offset, -1);
    assert_eq!(connection.fetch(topic, 0, 0).await.high_watermark, 0);
}

fn joined(batches: &[Bytes]) -> Bytes {
    batches.concat().into()
}

/// 33
#[tokio::test]
async fn a_partition_takes_exactly_one_batch_of_the_current_format() {
    let connection = with_topic("produce-one", &[]).await;
    let good = batch(&["a"]);
    refused(
        &connection,
        "produce-one",
        &joined(&[good.clone(), good.clone()]),
        ErrorCode::InvalidRecord,
    )
    .await;
    // An older format.
    let mut old = good.to_vec();
    old[16] = 1;
    let answer = connection.produce_with("produce-one", 0, -1, &old.into()).await;
    assert_ne!(answer.error_code, OK);
    assert_eq!(connection.produce("produce-one", 0, &good).await, 0);
}

/// 33
#[tokio::test]
async fn zstd_is_refused_below_version_7() {
    let connection = with_topic("produce-zstd", &[]).await;
    let mut builder = BatchBuilder::new(0).compression(Compression::Zstd, None);
    builder.append(now_ms(), None, Some(b"z"), &[]);
    let zstd = builder.build();
    let old = connection.produce_at(6, "produce-zstd", 0, 1, &zstd).await;
    assert_eq!(old.error_code, code(ErrorCode::UnsupportedCompressionType));
    assert_eq!(
        connection
            .produce_at(7, "produce-zstd", 0, 1, &zstd)
            .await
            .error_code,
        OK
    );
}

/// 34
#[tokio::test]
async fn acks_are_minus_one_zero_or_one() {
    let connection = with_topic("produce-acks", &[]).await;
    for acks in [2, -2, i16::MAX] {
        let result = connection
            .produce_with("produce-acks", 0, acks, &batch(&["a"]))
            .await;
        assert_eq!(
            result.error_code,
            code(ErrorCode::InvalidRequiredAcks),
            "acks={acks}"
        );
    }
    for (acks, offset) in [(1, 0), (-1, 1)] {
        let result = connection
            .produce_with("produce-acks", 0, acks, &batch(&["a"]))
            .await;
        assert_eq!((result.error_code, result.base_offset), (OK, offset));
    }
}

/// 35
#[tokio::test]
async fn acks_0_is_answered_with_no_byte() {
    let connection = with_topic("produce-acks-0", &[]).await;
    let mut raw = RawConnection::open(single().await.address(1)).await;
    raw.send(&framed(
        PRODUCE_BY_NAME,
        1,
        &produce_request("produce-acks-0", 0, 0, &batch(&["a"])),
    ))
    .await;
    eventually("the record is in the log", LIMIT, async || {
        let end = connection.fetch("produce-acks-0", 0, 0).await.high_watermark;
        holds(end == 1, format!("the high watermark is {end}"))
    })
    .await;
    // The next answer on the connection is that of the next request.
    raw.send(&framed(
        PRODUCE_BY_NAME,
        2,
        &produce_request("produce-acks-0", 0, 1, &batch(&["b"])),
    ))
    .await;
    let mut response = raw.receive().await.expect("an answer");
    assert_eq!(odradek_cluster_tests::raw::take_correlation_id(&mut response), 2);
}

/// 35
#[tokio::test]
async fn an_error_with_acks_0_closes_the_connection() {
    with_topic("produce-acks-0-error", &[]).await;
    for (topic, records) in [
        ("produce-no-such-topic", batch(&["a"])),
        ("produce-acks-0-error", Bytes::from_static(b"no batch")),
    ] {
        let mut raw = RawConnection::open(single().await.address(1)).await;
        raw.send(&framed(
            PRODUCE_BY_NAME,
            1,
            &produce_request(topic, 0, 0, &records),
        ))
        .await;
        assert!(raw.closed().await.is_empty(), "{topic}");
    }
}

/// 36
#[tokio::test]
async fn the_brokers_fields_lie_outside_the_checksum() {
    let connection = with_topic("produce-crc", &[]).await;
    connection.produce("produce-crc", 0, &batch(&["a", "b"])).await;
    let sent = batch(&["c"]);
    assert_eq!(connection.produce("produce-crc", 0, &sent).await, 2);
    let bytes = connection.fetch("produce-crc", 0, 2).await.records.unwrap();
    let (stored, sent) = (&records::headers(&bytes)[0], &records::headers(&sent)[0]);
    assert_eq!(stored.base_offset, 2);
    assert!(stored.partition_leader_epoch >= 0);
    assert_eq!(stored.crc, sent.crc, "nothing that is covered was changed");
    // The same with a wrong checksum.
    let mut corrupt = batch(&["d"]).to_vec();
    *corrupt.last_mut().unwrap() ^= 1;
    let result = connection
        .produce_with("produce-crc", 0, -1, &corrupt.into())
        .await;
    assert_eq!(result.error_code, code(ErrorCode::CorruptMessage));
}

/// 37
#[tokio::test]
async fn log_append_time_is_the_brokers() {
    let connection = with_topic(
        "produce-append-time",
        &[("message.timestamp.type", "LogAppendTime")],
    )
    .await;
    let sent = batch_at(now_ms() - HOUR_MS, &["a", "b"]);
    let before = now_ms();
    let result = connection.produce_with("produce-append-time", 0, -1, &sent).await;
    assert!(
        (before..=now_ms()).contains(&result.log_append_time_ms),
        "{}",
        result.log_append_time_ms
    );
    let bytes = connection
        .fetch("produce-append-time", 0, 0)
        .await
        .records
        .unwrap();
    let header = records::headers(&bytes)[0];
    assert_eq!(header.attributes & 8, 8);
    assert_eq!(header.max_timestamp, result.log_append_time_ms);
    assert_eq!(header.base_timestamp, records::headers(&sent)[0].base_timestamp);
    // `seen` checks the CRC and takes the timestamp the consumer would.
    assert!(
        records::seen(&bytes)
            .iter()
            .all(|record| record.timestamp == result.log_append_time_ms)
    );
    let plain = with_topic("produce-create-time", &[]).await;
    assert_eq!(
        plain
            .produce_with("produce-create-time", 0, -1, &sent)
            .await
            .log_append_time_ms,
        -1
    );
}

/// 38
#[tokio::test]
async fn compressed_batches_stay_as_they_are() {
    let connection = with_topic("produce-compressed", &[]).await;
    let codecs = [
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    for (offset, codec) in (0..).zip(codecs) {
        let mut builder = BatchBuilder::new(0).compression(codec, None);
        builder.append(now_ms(), None, Some(codec.name().as_bytes()), &[]);
        let sent = builder.build();
        assert_eq!(connection.produce("produce-compressed", 0, &sent).await, offset);
        let stored = connection
            .fetch("produce-compressed", 0, offset)
            .await
            .records
            .unwrap();
        assert_eq!(stored[21..], sent[21..], "{}", codec.name());
        assert_eq!(records::texts(&stored), [codec.name()]);
    }
}

/// 38
#[tokio::test]
async fn a_topics_own_codec_takes_the_place_of_the_producers() {
    let connection = with_topic("produce-codec", &[("compression.type", "zstd")]).await;
    let mut builder = BatchBuilder::new(0).compression(Compression::Gzip, None);
    builder.append(now_ms(), Some(b"k"), Some(b"v"), &[]);
    for sent in [batch(&["plain"]), builder.build()] {
        connection.produce("produce-codec", 0, &sent).await;
    }
    let plain = with_topic("produce-uncompressed", &[("compression.type", "uncompressed")]).await;
    let mut builder = BatchBuilder::new(0).compression(Compression::Lz4, None);
    builder.append(now_ms(), None, Some(b"v"), &[]);
    plain.produce("produce-uncompressed", 0, &builder.build()).await;
    for (topic, codec, values) in [
        ("produce-codec", Compression::Zstd, vec!["plain", "v"]),
        ("produce-uncompressed", Compression::None, vec!["v"]),
    ] {
        let stored = connection.fetch(topic, 0, 0).await.records.unwrap();
        assert!(
            records::headers(&stored)
                .iter()
                .all(|header| header.compression() == Ok(codec))
        );
        assert_eq!(records::texts(&stored), values);
    }
}

/// 39
#[tokio::test]
async fn what_only_a_broker_may_write_is_an_invalid_record() {
    let connection = with_topic("produce-invalid", &[]).await;
    let good = batch(&["a", "b"]);
    let control = patched(&good, at::ATTRIBUTES, &0x20i16.to_be_bytes());
    let short_count = patched(&good, at::RECORD_COUNT, &1i32.to_be_bytes());
    let last_delta = patched(&good, at::LAST_OFFSET_DELTA, &5i32.to_be_bytes());
    let no_sequence = patched(&good, at::PRODUCER_ID, &77i64.to_be_bytes());
    for wrong in [control, short_count, last_delta, no_sequence] {
        refused(&connection, "produce-invalid", &wrong, ErrorCode::InvalidRecord).await;
    }
}

/// 40
#[tokio::test]
async fn a_compacted_topic_names_the_records_without_key() {
    let connection = with_topic("produce-compacted", &[("cleanup.policy", "compact")]).await;
    let mut builder = BatchBuilder::new(0);
    for key in [Some(b"k".as_slice()), None, Some(b"l"), None] {
        builder.append(now_ms(), key, Some(b"v"), &[]);
    }
    let mixed = builder.build();
    let result = connection.produce_at(8, "produce-compacted", 0, -1, &mixed).await;
    assert_eq!(result.error_code, code(ErrorCode::InvalidRecord));
    let indexes: Vec<i32> = result
        .record_errors
        .iter()
        .map(|error| error.batch_index)
        .collect();
    assert_eq!(indexes, [1, 3]);
    assert!(result.error_message.is_some());
    assert_eq!(
        connection
            .produce("produce-compacted", 0, &keyed(&[("k", Some("v")), ("k", None)]))
            .await,
        0
    );
}

/// 41
#[tokio::test]
async fn a_batch_beyond_the_limits_is_too_large() {
    let connection = with_topic("produce-large", &[("max.message.bytes", "1000")]).await;
    let large = batch(&[&"x".repeat(1000)]);
    refused(&connection, "produce-large", &large, ErrorCode::MessageTooLarge).await;
    assert_eq!(
        connection
            .produce("produce-large", 0, &batch(&[&"x".repeat(500)]))
            .await,
        0
    );
    let configs = [("segment.bytes", "1048576"), ("max.message.bytes", "4000000")];
    let connection = with_topic("produce-larger", &configs).await;
    let larger = batch(&[&"x".repeat(1_500_000)]);
    refused(
        &connection,
        "produce-larger",
        &larger,
        ErrorCode::RecordListTooLarge,
    )
    .await;
}

/// 42
#[tokio::test]
async fn timestamps_beyond_the_limits_are_invalid() {
    let connection = with_topic("produce-time", &[("message.timestamp.before.max.ms", "3600000")]).await;
    // One hour ahead is the default since 4.0.
    refused(
        &connection,
        "produce-time",
        &batch_at(now_ms() + 2 * HOUR_MS, &["a"]),
        ErrorCode::InvalidTimestamp,
    )
    .await;
    refused(
        &connection,
        "produce-time",
        &batch_at(now_ms() - 2 * HOUR_MS, &["a"]),
        ErrorCode::InvalidTimestamp,
    )
    .await;
    assert_eq!(
        connection
            .produce("produce-time", 0, &batch_at(now_ms() + HOUR_MS / 2, &["a"]))
            .await,
        0
    );
}

/// Each partition of a request has its own result.
#[tokio::test]
async fn one_bad_partition_does_not_hold_back_the_others() {
    let connection = single().await.connect().await;
    connection.create_topic("produce-several", 2, 1, &[]).await;
    let data = |index, records: &Bytes| {
        PartitionProduceData::default()
            .with_index(index)
            .with_records(Some(records.clone()))
    };
    let partitions = vec![
        data(0, &batch(&["a"])),
        data(1, &Bytes::from_static(b"nonsense")),
        data(7, &batch(&["a"])),
    ];
    let topics = vec![
        TopicProduceData::default()
            .with_name(topic_name("produce-several"))
            .with_partition_data(partitions),
        TopicProduceData::default()
            .with_name(topic_name("produce-nowhere"))
            .with_partition_data(vec![data(0, &batch(&["a"]))]),
    ];
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(5000)
        .with_topic_data(topics);
    let response: ProduceResponse = connection.ask_at(PRODUCE_BY_NAME, request).await;
    let mut results = Vec::new();
    for topic in &response.responses {
        for partition in &topic.partition_responses {
            results.push((topic.name.to_string(), partition.index, partition.error_code));
            if partition.error_code == code(ErrorCode::UnknownTopicOrPartition) {
                assert_eq!(
                    partition.error_message, None,
                    "a million of them would be a million sentences"
                );
            }
        }
    }
    results.sort();
    let unknown = code(ErrorCode::UnknownTopicOrPartition);
    assert_eq!(results.len(), 4);
    assert_eq!(results[0], ("produce-nowhere".to_owned(), 0, unknown));
    assert_eq!(results[1], ("produce-several".to_owned(), 0, OK));
    assert_ne!(results[2].2, OK);
    assert_eq!(results[3], ("produce-several".to_owned(), 7, unknown));
}

/// 10, 27
#[tokio::test]
async fn version_13_names_topics_by_id() {
    let connection = with_topic("produce-id", &[]).await;
    let id = connection.topic("produce-id").await.topic_id;
    let request = |topic_id| {
        let data = PartitionProduceData::default().with_records(Some(batch(&["a"])));
        let topic = TopicProduceData::default()
            .with_topic_id(topic_id)
            .with_partition_data(vec![data]);
        ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(5000)
            .with_topic_data(vec![topic])
    };
    let good = connection.ask_at(13, request(id)).await;
    assert_eq!(good.responses[0].topic_id, id);
    assert_eq!(good.responses[0].partition_responses[0].error_code, OK);
    let unknown = connection.ask_at(13, request(uuid::Uuid::from_u128(42))).await;
    assert_eq!(
        unknown.responses[0].partition_responses[0].error_code,
        code(ErrorCode::UnknownTopicId)
    );
}

/// 98
#[tokio::test]
async fn headers_keep_their_order_and_nulls_stay_nulls() {
    let connection = with_topic("produce-headers", &[]).await;
    let header = |key: &'static str, value| Header {
        key: key.as_bytes(),
        value,
    };
    let headers = [
        header("b", Some(b"1".as_slice())),
        header("a", None),
        header("b", Some(b"")),
        header("", Some(b"2")),
    ];
    let mut builder = BatchBuilder::new(0);
    builder.append(now_ms(), None, None, &headers);
    builder.append(now_ms(), Some(b""), Some(b""), &[]);
    connection.produce("produce-headers", 0, &builder.build()).await;
    let seen = connection.read_from("produce-headers", 0, 0).await;
    assert_eq!((&seen[0].key, &seen[0].value), (&None, &None));
    let expected: Vec<_> = headers
        .iter()
        .map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec)))
        .collect();
    assert_eq!(seen[0].headers, expected);
    assert_eq!(
        (seen[1].key.as_deref(), seen[1].value.as_deref()),
        (Some(b"".as_slice()), Some(b"".as_slice()))
    );
}

/// 12: appends happen in the order of the requests, also when many are on their way.
#[tokio::test]
async fn pipelined_batches_keep_their_order() {
    let connection = with_topic("produce-pipeline", &[]).await;
    let mut raw = RawConnection::open(single().await.address(1)).await;
    let mut bytes = Vec::new();
    for index in 0..200 {
        let acks = if index % 3 == 0 { 1 } else { -1 };
        let sent = batch(&[&index.to_string()]);
        bytes.extend_from_slice(&framed(
            PRODUCE_BY_NAME,
            index,
            &produce_request("produce-pipeline", 0, acks, &sent),
        ));
    }
    raw.send(&bytes).await;
    for index in 0..200 {
        let mut response = raw.receive().await.expect("an answer");
        assert_eq!(
            odradek_cluster_tests::raw::take_correlation_id(&mut response),
            index
        );
    }
    let values: Vec<String> = connection
        .read_from("produce-pipeline", 0, 0)
        .await
        .iter()
        .map(records::Seen::text)
        .collect();
    let expected: Vec<String> = (0..200).map(|index| index.to_string()).collect();
    assert_eq!(values, expected);
}

/// Requests that arrive together are appended together, out of buffers that connections share: no record may end up in another
/// topic than its own, or twice, or not at all.
#[tokio::test]
async fn pipelined_requests_of_many_connections_keep_to_their_topics() {
    const TOPICS: usize = 6;
    const REQUESTS: usize = 60;
    let node = single().await;
    let connection = node.connect().await;
    let name = |topic: usize| format!("canary-{topic}");
    for topic in 0..TOPICS {
        connection.create_topic(&name(topic), 1, 1, &[]).await;
    }
    // Values of all sizes up to one that no shared buffer holds, each made of its topic's letter.
    let value = move |topic: usize, request: usize| {
        let size = 1 + (request * request * 97) % 400_000;
        String::from(char::from(b'a' + topic as u8)).repeat(size)
    };
    let address = node.address(1).to_owned();
    let senders = (0..TOPICS).map(|topic| {
        let address = address.clone();
        tokio::spawn(async move {
            let frames: Vec<Bytes> = (0..REQUESTS)
                .map(|request| {
                    let batch = batch(&[&value(topic, request)]);
                    let request_of = produce_request(&name(topic), 0, 1, &batch);
                    framed(PRODUCE_BY_NAME, i32::try_from(request).unwrap(), &request_of)
                })
                .collect();
            let mut raw = RawConnection::open(&address).await;
            // Ten at a time, so that several whole requests are in a buffer.
            for together in frames.chunks(10) {
                raw.send(&together.concat()).await;
                for _ in together {
                    raw.receive().await.expect("every request is answered");
                }
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    for topic in 0..TOPICS {
        let mut offset = 0;
        while offset < REQUESTS as i64 {
            let fetched = connection.fetch(&name(topic), 0, offset).await;
            let seen = records::seen(&fetched.records.unwrap_or_default());
            assert!(!seen.is_empty(), "{offset} of {}", name(topic));
            for record in seen {
                let expected = value(topic, usize::try_from(offset).unwrap());
                assert!(record.text() == expected, "offset {offset} of {}", name(topic));
                offset += 1;
            }
        }
    }
}
