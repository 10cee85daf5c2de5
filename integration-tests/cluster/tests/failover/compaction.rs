//! Compaction as clients see it, and what it leaves on the disk.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::IncrementalAlterConfigsRequest;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use odradek_cluster_tests::asks::{OK, code, text};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::java;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::records::{keyed, now_ms};
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::Compression;

const LIMIT: Duration = Duration::from_secs(30);
const CLEANER: [(&str, &str); 3] = [
    ("log.cleaner.backoff.ms", "100"),
    ("log.retention.check.interval.ms", "100"),
    ("log.initial.task.delay.ms", "0"),
];
/// Resource types of configurations.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

/// 56: compaction leaves the last value of each key at its offset, and readers get past what is gone.
#[tokio::test]
async fn compaction_keeps_offsets_and_lets_readers_pass() {
    let cluster = TestCluster::start(1, &CLEANER).await;
    let connection = cluster.connect(1).await;
    let configs = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "50"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("min.compaction.lag.ms", "0"),
    ];
    connection.create_topic("compacted", 1, 1, &configs).await;
    for round in 0..5 {
        let value = round.to_string();
        let batch = keyed(&[("a", Some(&value)), ("b", Some(&value))]);
        connection.produce("compacted", 0, &batch).await;
    }
    let mut next = 10;
    eventually("old values are gone", LIMIT, async || {
        next = tick(&connection).await;
        let seen = connection.read_from("compacted", 0, 0).await;
        let old: Vec<i64> = seen
            .iter()
            .map(|record| record.offset)
            .filter(|offset| *offset < 10)
            .collect();
        holds(old == [8, 9], format!("{old:?}"))
    })
    .await;
    for offset in 0..10 {
        let first = connection
            .read_from("compacted", 0, offset)
            .await
            .first()
            .map(|record| record.offset);
        assert_eq!(first, Some(offset.max(8)), "from {offset}");
    }
    assert_eq!(connection.list_offset("compacted", 0, -1).await.offset, next);
}

/// A segment is compacted once it is no longer the active one, which an append after segment.ms brings about.
async fn tick(connection: &Connection) -> i64 {
    connection
        .produce("compacted", 0, &keyed(&[("tick", Some("x"))]))
        .await
        + 1
}

fn by_producer(producer: (i64, i16), sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(0).producer(producer.0, producer.1, sequence);
    builder.append(now_ms(), Some(b"idempotent"), Some(b"superseded"), &[]);
    builder.build()
}

/// Tombstones go with what they delete, batches keep their codec, producers their sequence; a kill changes nothing of it, and
/// Kafka's own tool reads what is left.
#[tokio::test]
async fn a_compacted_log_survives_a_kill_and_is_kafkas() {
    let cluster = TestCluster::start(1, &CLEANER).await;
    let connection = cluster.connect(1).await;
    let configs = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "50"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "200"),
    ];
    connection.create_topic("compacted", 1, 1, &configs).await;
    for round in 0..4 {
        for codec in CODECS {
            let mut builder = BatchBuilder::new(0).compression(codec, None);
            for key in [codec.name(), "deleted"] {
                let value = format!("{key} in round {round}");
                builder.append(now_ms(), Some(key.as_bytes()), Some(value.as_bytes()), &[]);
            }
            connection.produce("compacted", 0, &builder.build()).await;
        }
    }
    connection
        .produce("compacted", 0, &keyed(&[("deleted", None)]))
        .await;
    let producer = connection.producer_id().await;
    let last = connection
        .produce("compacted", 0, &by_producer(producer, 0))
        .await;
    connection
        .produce("compacted", 0, &keyed(&[("idempotent", Some("newer"))]))
        .await;
    let compacted = || is_compacted(&connection);
    eventually("old values and the tombstone are gone", LIMIT, compacted).await;
    use_two_threads(&connection).await;
    let passes = || cluster.node(1).log_text().matches("log compacted").count();
    let before = passes();
    eventually("two threads compact", LIMIT, async || {
        tick(&connection).await;
        let threads = cleaner_threads(cluster.node(1));
        holds(
            threads == ["cleaner-0", "cleaner-1"] && passes() > before,
            format!("{threads:?}, {} passes", passes()),
        )
    })
    .await;

    let node = cluster.node(1);
    let uncleanable = format!(
        "odradek_log_cleaner_uncleanable_partitions{{log_dir=\"{}\"}}",
        node.log_dir().display()
    );
    assert_eq!(node.metric(&uncleanable).await, Some(0.0));
    assert_eq!(node.metric("odradek_log_cleaner_dead_threads").await, Some(0.0));
    node.kill();
    node.start().await;
    let connection = cluster.connect(1).await;
    let found = is_compacted(&connection).await;
    assert_eq!(found, Ok(()), "after the kill");
    let again = connection
        .produce("compacted", 0, &by_producer(producer, 0))
        .await;
    assert_eq!(again, last, "the batch is known although its record is gone");
    assert_eq!(node.stop().await.code(), Some(0));
    dump(node.log_dir().join("compacted-0"));
}

/// One record of each codec's key in its batch's codec, and none of what was deleted.
async fn is_compacted(connection: &Connection) -> Result<(), String> {
    tick(connection).await;
    let seen = connection.read_from("compacted", 0, 0).await;
    let keys: Vec<String> = seen
        .iter()
        .filter_map(|record| record.key.as_ref())
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect();
    let count = |key: &str| keys.iter().filter(|it| *it == key).count();
    let is_single = CODECS.iter().all(|codec| count(codec.name()) == 1);
    holds(
        is_single && count("deleted") == 0 && count("idempotent") == 1,
        format!("{keys:?}"),
    )
}

/// The names of a node's threads that compact.
fn cleaner_threads(node: &Node) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", node.pid())).expect("the node runs");
    let names = tasks.flatten().map(|task| {
        // One that has ended meanwhile has no name.
        fs::read_to_string(task.path().join("comm")).unwrap_or_default()
    });
    let mut names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
    names.retain(|name| name.starts_with("cleaner-"));
    names.sort();
    names
}

/// Two values of a key whose first one a disk has damaged, in a segment that the next record seals.
async fn damaged(leader: &Connection, node: &Node) {
    for value in ["first", "second"] {
        let batch = keyed(&[("key", Some(value))]);
        leader.produce("compacted", 0, &batch).await;
    }
    let segment = node.log_dir().join("compacted-0/00000000000000000000.log");
    let file = fs::File::options()
        .write(true)
        .open(segment)
        .expect("it was appended to");
    // In the first batch, behind its header.
    file.write_all_at(&[0xff], 70).expect("it can be written to");
    alter(leader, (TOPIC, "compacted"), ("segment.ms", "50")).await;
}

/// The sample of the logs that cannot be compacted.
fn uncleanable(node: &Node) -> String {
    format!(
        "odradek_log_cleaner_uncleanable_partitions{{log_dir=\"{}\"}}",
        node.log_dir().display()
    )
}

const COMPACT: [(&str, &str); 2] = [
    ("cleanup.policy", "compact"),
    ("min.cleanable.dirty.ratio", "0.01"),
];

/// A log that cannot be compacted is named and counted, and serves what is not damaged, and nothing else.
#[tokio::test]
async fn a_damaged_log_is_left_alone_by_compaction_and_seen() {
    let cluster = TestCluster::start(1, &CLEANER).await;
    let (node, connection) = (cluster.node(1), cluster.connect(1).await);
    connection.create_topic("compacted", 1, 1, &COMPACT).await;
    damaged(&connection, node).await;
    eventually("it is counted", LIMIT, async || {
        tick(&connection).await;
        let logs = node.metric(&uncleanable(node)).await;
        let segments = node.metric("odradek_log_damaged_segments").await;
        let counted = (logs, segments);
        holds(counted == (Some(1.0), Some(1.0)), format!("{counted:?}"))
    })
    .await;
    assert_eq!(
        connection.fetch("compacted", 0, 0).await.error_code,
        code(ErrorCode::CorruptMessage)
    );
    let next = tick(&connection).await;
    let seen = connection.read_from("compacted", 0, 1).await;
    assert_eq!(seen.first().map(|record| record.offset), Some(1));
    assert_eq!(seen.last().map(|record| record.offset), Some(next - 1));
    let said = node.log_text();
    assert_eq!(said.matches("a log cannot be compacted").count(), 1, "{said}");
    assert_eq!(said.matches("a sealed segment is damaged").count(), 1, "{said}");
}

/// What compaction finds damaged is fetched anew from another node, and compacted then, long before the next scrub and before
/// a log that failed would be tried again.
#[tokio::test]
async fn damage_that_compaction_finds_is_mended_and_then_compacted() {
    let cluster = TestCluster::start(3, &CLEANER).await;
    let connection = cluster.connect(1).await;
    connection.create_topic("compacted", 1, 3, &COMPACT).await;
    let leader = connection.partition("compacted", 0).await.leader_id.0;
    let (node, leading) = (cluster.node(leader), cluster.connect(leader).await);
    // Node 1 knows of the topic; another node may hear of it later.
    eventually("the leader leads", LIMIT, async || {
        let latest = leading.list_offset("compacted", 0, -1).await;
        holds(latest.error_code == OK, format!("{latest:?}"))
    })
    .await;
    damaged(&leading, node).await;
    for said in [
        "a damaged segment was replaced",
        "compaction of a log works again",
    ] {
        eventually(said, LIMIT, async || {
            tick(&leading).await;
            let text = node.log_text();
            holds(text.contains(said), text)
        })
        .await;
    }
    assert!(node.log_text().contains("a log cannot be compacted"));
    assert_eq!(node.metric(&uncleanable(node)).await, Some(0.0));
    assert_eq!(node.metric("odradek_log_damaged_segments").await, Some(0.0));
    let seen = leading.read_from("compacted", 0, 0).await;
    let first = seen.first().map(|record| (record.offset, record.text()));
    assert_eq!(first, Some((1, "second".to_owned())));
}

async fn use_two_threads(connection: &Connection) {
    alter(connection, (BROKER, ""), ("log.cleaner.threads", "2")).await;
}

/// Sets one key of a resource, given by type and name.
async fn alter(connection: &Connection, (kind, name): (i8, &str), (key, value): (&str, &str)) {
    let change = AlterableConfig::default()
        .with_name(text(key))
        .with_config_operation(0)
        .with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(vec![change]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let response = connection.ask(request).await;
    assert_eq!(
        response.responses[0].error_code, OK,
        "{:?}",
        response.responses[0].error_message
    );
}

/// Kafka's DumpLogSegments finds nothing wrong with any segment, if it is there.
fn dump(folder: PathBuf) {
    let libs = match java::kafka_libs() {
        Ok(libs) => libs,
        Err(reason) => {
            eprintln!("not dumped: {reason}");
            return;
        }
    };
    let files: Vec<String> = fs::read_dir(folder)
        .expect("the partition has a folder")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter(|path| path.metadata().is_ok_and(|metadata| metadata.len() > 0))
        .map(|path| path.display().to_string())
        .collect();
    let files = files.join(",");
    let arguments = ["--deep-iteration", "--print-data-log", "--files", &files];
    let mut output = java::run(&libs, "org.apache.kafka.tools.DumpLogSegments", &arguments);
    if String::from_utf8_lossy(&output.stderr).contains("ClassNotFoundException") {
        // Its name before 4.2.
        output = java::run(&libs, "kafka.tools.DumpLogSegments", &arguments);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    for codec in CODECS {
        assert!(
            text.contains(&format!("{} in round 3", codec.name())),
            "{}: {text}",
            codec.name()
        );
    }
    for bad in ["isvalid: false", "Found invalid", "Exception", "Mismatches"] {
        assert!(
            !text.contains(bad) && !errors.contains(bad),
            "{bad}: {text}\n{errors}"
        );
    }
}
