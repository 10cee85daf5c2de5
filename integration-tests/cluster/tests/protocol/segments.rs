//! Segment files are Kafka's: its own DumpLogSegments reads them.

use std::path::PathBuf;

use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::java;
use odradek_cluster_tests::records::{batch, idempotent, keyed, now_ms};
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::Compression;

/// What the records hold that were written: the dump must show each.
const WRITTEN: [&str; 10] = [
    "plain-1",
    "plain-2",
    "keyed-3",
    "a-key",
    "tombstone-key",
    "gzip-value",
    "snappy-value",
    "lz4-value",
    "zstd-value",
    "idempotent-9",
];
const BATCHES: usize = 7;

/// Writes [`WRITTEN`] and returns the producer id of the last batch.
async fn write(connection: &Connection) -> i64 {
    connection.create_topic("dumped", 1, 1, &[]).await;
    connection
        .produce("dumped", 0, &batch(&["plain-1", "plain-2"]))
        .await;
    connection
        .produce(
            "dumped",
            0,
            &keyed(&[("a-key", Some("keyed-3")), ("tombstone-key", None)]),
        )
        .await;
    for codec in [
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        let mut builder = BatchBuilder::new(0).compression(codec, None);
        builder.append(
            now_ms(),
            None,
            Some(format!("{}-value", codec.name()).as_bytes()),
            &[],
        );
        connection.produce("dumped", 0, &builder.build()).await;
    }
    let (id, epoch) = connection.producer_id().await;
    connection
        .produce("dumped", 0, &idempotent(id, epoch, 0, &["idempotent-9"]))
        .await;
    id
}

#[tokio::test]
async fn kafkas_dump_log_segments_reads_what_odradek_wrote() {
    let libs = match java::kafka_libs() {
        Ok(libs) => libs,
        Err(reason) => {
            eprintln!("not run: {reason}");
            return;
        }
    };
    let cluster = TestCluster::start(1, &[]).await;
    let producer_id = write(&cluster.connect(1).await).await;
    assert_eq!(cluster.node(1).stop().await.code(), Some(0));

    let segment: PathBuf = cluster
        .node(1)
        .log_dir()
        .join("dumped-0/00000000000000000000.log");
    let arguments = [
        "--deep-iteration",
        "--print-data-log",
        "--files",
        segment.to_str().unwrap(),
    ];
    let mut output = java::run(&libs, "org.apache.kafka.tools.DumpLogSegments", &arguments);
    if String::from_utf8_lossy(&output.stderr).contains("ClassNotFoundException") {
        // Its name before 4.2.
        output = java::run(&libs, "kafka.tools.DumpLogSegments", &arguments);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    for expected in WRITTEN {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    assert_eq!(text.matches("isvalid: true").count(), BATCHES, "{text}");
    assert!(text.contains(&format!("producerId: {producer_id} ")), "{text}");
    for bad in [
        "isvalid: false",
        "Found invalid",
        "Exception",
        "Mismatches",
        "Non-consecutive",
    ] {
        assert!(
            !text.contains(bad) && !errors.contains(bad),
            "{bad}: {text}\n{errors}"
        );
    }
}
