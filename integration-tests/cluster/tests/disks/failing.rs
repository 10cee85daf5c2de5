//! Disks that are full or fail while a node runs: how far that reaches, and what comes back by itself.

use std::fs;
use std::path::Path;

use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, ElectLeadersRequest,
};
use odradek_cluster_tests::asks::{OK, code, creatable, topic_name};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records::{Seen, batch};
use odradek_cluster_tests::small_disk::SmallDisk;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;

use super::{LIMIT, SEGMENT_BYTES, configure, described, list, partitions_in, two_directories};

async fn readable(connection: &Connection, topic: &str) -> Vec<String> {
    connection
        .read_from(topic, 0, 0)
        .await
        .iter()
        .map(Seen::text)
        .collect()
}

/// Produces once more as soon as the broker can.
async fn in_the_end(connection: &Connection, topic: &str, value: &str) {
    eventually(&format!("{topic} takes records again"), LIMIT, async || {
        let result = connection.produce_with(topic, 0, -1, &batch(&[value])).await;
        holds(result.error_code == OK, format!("error {}", result.error_code))
    })
    .await;
}

#[tokio::test]
async fn a_disk_that_fills_up_refuses_produces_and_nothing_else_until_there_is_room() {
    let cluster = TestCluster::prepare(1, &[]);
    let node = cluster.node(1);
    let Some(disk) = SmallDisk::mount(node.directory().join("disk"), "size=32m") else {
        return;
    };
    let text = fs::read_to_string(node.properties()).expect("the harness wrote it");
    let (data, metadata) = (disk.path().join("data"), node.log_dir());
    let dirs = format!(
        "{text}log.dirs={}\nmetadata.log.dir={}\n",
        data.display(),
        metadata.display()
    );
    fs::write(node.properties(), dirs).expect("the test's directory can be written to");
    node.start().await;
    let connection = cluster.connect(1).await;
    connection.create_topic("t", 1, 1, &[]).await;
    connection.produce("t", 0, &batch(&["before"])).await;

    disk.fill();
    let large = "x".repeat(100_000);
    for acks in [-1, 1] {
        let refused = connection.produce_with("t", 0, acks, &batch(&[&large])).await;
        assert_eq!(
            refused.error_code,
            code(ErrorCode::KafkaStorageError),
            "{refused:?}"
        );
    }
    assert!(ErrorCode::KafkaStorageError.is_retriable());
    assert_eq!(readable(&connection, "t").await, ["before"]);
    let full = format!("odradek_log_directory_full{{log_dir=\"{}\"}}", data.display());
    let room = |what| {
        format!(
            "odradek_log_directory_{what}_bytes{{log_dir=\"{}\"}}",
            data.display()
        )
    };
    assert_eq!(node.metric(&full).await, Some(1.0));
    assert_eq!(node.metric(&room("usable")).await, Some(0.0));
    assert_eq!(node.metric(&room("total")).await, Some(f64::from(32 << 20)));
    let health = node.http("/healthz").await.expect("it answers");
    let said = format!(
        "ok, but produces are refused for want of room in {}\n",
        data.display()
    );
    assert_eq!(health, (200, said));
    // The quorum's log has its own disk, but the new partition's has no room.
    let created = connection.try_create(creatable("while-full", 1, 1, &[])).await;
    assert_eq!(created.error_code, OK, "{created:?}");
    eventually("the log names the disk", LIMIT, async || {
        let said = node.log_text();
        holds(
            said.contains("No space left on device") && said.contains("no room"),
            said,
        )
    })
    .await;
    assert!(node.is_running());

    disk.make_room();
    assert_eq!(node.metric(&full).await, Some(0.0));
    in_the_end(&connection, "t", "after").await;
    in_the_end(&connection, "while-full", "late").await;
    assert_eq!(
        node.http("/healthz").await.expect("it answers"),
        (200, "ok\n".to_owned())
    );
    assert_eq!(readable(&connection, "t").await, ["before", "after"]);
    node.kill();
    node.start().await;
    let connection = cluster.connect(1).await;
    connection.await_leaders("t", 1).await;
    assert_eq!(readable(&connection, "t").await, ["before", "after"]);
}

#[tokio::test]
async fn what_is_deleted_on_a_full_disk_makes_room_for_producers() {
    let cluster = TestCluster::prepare(1, &[]);
    let node = cluster.node(1);
    let Some(disk) = SmallDisk::mount(node.directory().join("disk"), "size=64m") else {
        return;
    };
    let dirs = list(&[&disk.path().join("data")]);
    configure(
        node,
        &[
            ("log.dirs", dirs),
            ("log.retention.check.interval.ms", "100".to_owned()),
        ],
    );
    node.start().await;
    let connection = cluster.connect(1).await;
    connection.create_topic("t", 1, 1, &[]).await;
    let configs = [("segment.bytes", "1048576")];
    for name in ["deleted", "retained"] {
        connection.create_topic(name, 1, 1, &configs).await;
        for _ in 0..16 {
            let record = "x".repeat(900_000);
            connection.produce(name, 0, &batch(&[&record])).await;
        }
    }
    let full = || async {
        disk.fill();
        let large = "x".repeat(100_000);
        let refused = connection.produce_with("t", 0, 1, &batch(&[&large])).await;
        assert_eq!(refused.error_code, code(ErrorCode::KafkaStorageError));
    };
    full().await;
    let topic = DeleteTopicState::default().with_name(Some(topic_name("deleted")));
    let request = DeleteTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    let response = connection.ask_at(6, request).await;
    assert_eq!(response.responses[0].error_code, OK);
    in_the_end(&connection, "t", "after a topic went").await;
    disk.make_room();
    full().await;
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(0)
        .with_offset(-1);
    let topic = DeleteRecordsTopic::default()
        .with_name(topic_name("retained"))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    let response = connection.ask_at(2, request).await;
    assert_eq!(response.topics[0].partitions[0].error_code, OK);
    in_the_end(&connection, "t", "after records went").await;
    assert_eq!(
        readable(&connection, "t").await,
        ["after a topic went", "after records went"]
    );
}

#[tokio::test]
async fn a_node_whose_only_disk_is_full_goes_on_once_there_is_room() {
    let cluster = TestCluster::prepare(1, &[]);
    let node = cluster.node(1);
    let Some(disk) = SmallDisk::mount(node.directory().join("disk"), "size=64m") else {
        return;
    };
    configure(node, &[("log.dirs", list(&[&disk.path().join("data")]))]);
    node.start().await;
    let connection = cluster.connect(1).await;
    connection.create_topic("t", 1, 1, &[]).await;
    connection.produce("t", 0, &batch(&["before"])).await;

    disk.fill();
    // Larger than what is left of the last page.
    let large = "x".repeat(100_000);
    let refused = connection.produce_with("t", 0, 1, &batch(&[&large])).await;
    assert_eq!(refused.error_code, code(ErrorCode::KafkaStorageError));
    let message = refused.error_message.expect("a refusal says why");
    assert!(message.contains("no room in log directory"), "{message:?}");
    assert_eq!(readable(&connection, "t").await, ["before"]);
    // The controller has no room either: it may answer late, or not at all.
    let request = CreateTopicsRequest::default()
        .with_topics(vec![creatable("while-full", 1, 1, &[])])
        .with_timeout_ms(1_000);
    let asked = cluster.connect(1).await;
    let pending = tokio::spawn(async move { asked.try_ask_at(7, request).await.is_ok() });
    assert_eq!(readable(&connection, "t").await, ["before"]);
    assert!(node.is_running());

    disk.make_room();
    in_the_end(&connection, "t", "after").await;
    _ = pending.await;
    eventually("topics are created again", LIMIT, async || {
        let created = connection.try_create(creatable("later", 1, 1, &[])).await;
        let there = [OK, code(ErrorCode::TopicAlreadyExists)].contains(&created.error_code);
        holds(there, format!("{created:?}"))
    })
    .await;
    connection.await_leaders("later", 1).await;
    connection.produce("later", 0, &batch(&["late"])).await;
    node.kill();
    node.start().await;
    let connection = cluster.connect(1).await;
    connection.await_leaders("t", 1).await;
    assert_eq!(readable(&connection, "t").await, ["before", "after"]);
    assert_eq!(readable(&connection, "later").await, ["late"]);
    assert!(!node.log_text().contains("panicked"), "{}", node.log_text());
}

/// Removes a log directory under a running node, and produces until it needs a new segment there.
async fn break_directory(connection: &Connection, directory: &Path, topic: &str, partition: i32) {
    fs::remove_dir_all(directory).expect("it is the test's");
    let large = "x".repeat(600_000);
    eventually("the broker finds out", LIMIT, async || {
        let result = connection
            .produce_with(topic, partition, 1, &batch(&[&large]))
            .await;
        holds(result.error_code != OK, "it appends")
    })
    .await;
}

async fn assert_first_node_works(connection: &Connection, partitions: &[i32], works: bool) {
    for partition in partitions {
        let seen = connection.partition("t", *partition).await;
        let has = |nodes: &[BrokerId]| nodes.contains(&BrokerId(1));
        assert_eq!(has(&seen.isr_nodes), works, "{seen:?}");
        assert_eq!(has(&seen.offline_replicas), !works, "{seen:?}");
    }
}

#[tokio::test]
async fn a_directory_that_fails_takes_its_replicas_alone_offline() {
    let cluster = TestCluster::prepare(3, &[]);
    let node = cluster.node(1);
    let [first, second] = two_directories(node);
    start_all(&cluster).await;
    let connection = cluster.connect(1).await;
    connection
        .create_topic("t", 6, 3, &[("segment.bytes", SEGMENT_BYTES)])
        .await;
    let everybody = |isr: &[i32]| isr.len() == 3;
    for partition in 0..6 {
        await_partition(&connection, partition, "it is in sync", |_, isr| everybody(isr)).await;
    }
    let (stay, fail) = (
        partitions_in(&connection, &first, "t").await,
        partitions_in(&connection, &second, "t").await,
    );
    assert_eq!((stay.len(), fail.len()), (3, 3), "spread evenly");
    // Directories are told to the controller: only then it can move what is led from them.
    eventually("the controller knows the directories", LIMIT, async || {
        let told = node
            .log_text()
            .matches("log directories of replicas recorded")
            .count();
        holds(told > 0, "not told yet")
    })
    .await;
    let mut led = Vec::new();
    for partition in &fail {
        if connection.partition("t", *partition).await.leader_id.0 == 1 {
            led.push(*partition);
        }
    }
    let Some(broken) = led.first() else {
        panic!("node 1 leads none of {fail:?}, which are half of what it has");
    };
    break_directory(&connection, &second, "t", *broken).await;

    let other = cluster.connect(2).await;
    for partition in &fail {
        let gone = |leader: i32, isr: &[i32]| leader > 1 && !isr.contains(&1);
        await_partition(&other, *partition, "node 1 is out", gone).await;
    }
    for (partitions, works) in [(&stay, true), (&fail, false)] {
        assert_first_node_works(&other, partitions, works).await;
    }
    let storage_error = code(ErrorCode::KafkaStorageError);
    let broken_one = described(&connection, &second).await;
    assert_eq!(broken_one.error_code, storage_error);
    assert_eq!((broken_one.topics.len(), broken_one.total_bytes), (0, -1));
    let sound = described(&connection, &first).await;
    assert_eq!((sound.error_code, sound.topics.is_empty()), (OK, false));
    assert_eq!(node.metric("odradek_offline_log_directories").await, Some(1.0));
    let leader = cluster
        .connect(other.partition("t", *broken).await.leader_id.0)
        .await;
    leader.produce("t", *broken, &batch(&["elsewhere"])).await;

    // A start with a directory that cannot be used serves what is in the other.
    node.kill();
    fs::write(&second, "no directory").expect("it was removed");
    node.start().await;
    let connection = cluster.connect(1).await;
    for partition in &stay {
        await_partition(&connection, *partition, "node 1 is back", |_, isr| {
            isr.contains(&1)
        })
        .await;
    }
    assert_eq!(described(&connection, &second).await.error_code, storage_error);
    assert_eq!(
        partitions_in(&connection, &first, "t").await,
        stay,
        "nothing moved by itself"
    );
}

async fn start_all(cluster: &TestCluster) {
    for node in cluster.nodes() {
        node.spawn();
    }
    for node in cluster.nodes() {
        node.ready().await;
    }
}

async fn await_partition(
    connection: &Connection,
    partition: i32,
    what: &str,
    is_so: impl Fn(i32, &[i32]) -> bool,
) {
    eventually(&format!("t-{partition}: {what}"), LIMIT, async || {
        let seen = connection.partition("t", partition).await;
        let isr: Vec<i32> = seen.isr_nodes.iter().map(|node| node.0).collect();
        holds(is_so(seen.leader_id.0, &isr), format!("{seen:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_leader_whose_log_alone_is_damaged_gives_the_lead_away_until_it_is_mended() {
    let cluster = TestCluster::start(3, &[]).await;
    let connection = cluster.connect(1).await;
    connection.create_topic("t", 1, 3, &[]).await;
    let first = connection.partition("t", 0).await.leader_id.0;
    cluster
        .connect(first)
        .await
        .produce("t", 0, &batch(&["before"]))
        .await;
    await_partition(&connection, 0, "it is in sync", |_, isr| isr.len() == 3).await;
    let node = cluster.node(first);
    node.stop().await;
    let segment = node.log_dir().join("t-0/00000000000000000000.log");
    let kept = node.directory().join("kept");
    fs::rename(&segment, &kept).expect("the segment is there");
    // After a clean stop nobody looks at a segment before it is needed.
    node.start().await;
    let other = cluster.connect(first % 3 + 1).await;
    await_partition(&other, 0, "it is in sync again", |_, isr| isr.len() == 3).await;
    let partition = TopicPartitions::default()
        .with_topic(topic_name("t"))
        .with_partitions(vec![0]);
    let preferred = ElectLeadersRequest::default()
        .with_topic_partitions(Some(vec![partition]))
        .with_timeout_ms(10_000);
    other.ask(preferred).await;
    await_partition(&other, 0, "the preferred replica leads", |leader, _| {
        leader == first
    })
    .await;

    let damaged = cluster.connect(first).await;
    eventually("the leader finds out", LIMIT, async || {
        let result = damaged.produce_with("t", 0, 1, &batch(&["refused"])).await;
        let refused = result.error_code == code(ErrorCode::KafkaStorageError);
        holds(refused, format!("{result:?}"))
    })
    .await;
    let given_away = |leader: i32, isr: &[i32]| ![-1, first].contains(&leader) && !isr.contains(&first);
    await_partition(&other, 0, "another replica leads", given_away).await;
    let leader = cluster.connect(other.partition("t", 0).await.leader_id.0).await;
    in_the_end(&leader, "t", "after").await;

    node.stop().await;
    fs::rename(&kept, &segment).expect("nobody has made another");
    node.start().await;
    await_partition(&leader, 0, "it is in sync once more", |_, isr| isr.len() == 3).await;
    assert_eq!(readable(&leader, "t").await, ["before", "after"]);
}

#[tokio::test]
async fn a_node_without_a_log_directory_that_works_ends_and_says_so() {
    let cluster = TestCluster::prepare(1, &[]);
    let node = cluster.node(1);
    let metadata = node.directory().join("metadata");
    configure(node, &[("metadata.log.dir", list(&[&metadata]))]);
    node.start().await;
    let connection = cluster.connect(1).await;
    connection
        .create_topic("t", 1, 1, &[("segment.bytes", SEGMENT_BYTES)])
        .await;
    fs::remove_dir_all(node.log_dir()).expect("it is the test's");
    let large = "x".repeat(600_000);
    let request = |_| odradek_cluster_tests::asks::produce_request("t", 0, 1, &batch(&[&large]));
    let status = eventually("the node ends", LIMIT, async || {
        // The connection may close before there is an answer.
        _ = connection.try_ask_at(11, request(())).await;
        node.ended().ok_or_else(|| "it runs".to_owned())
    })
    .await;
    assert_eq!(status.code(), Some(1));
    let said = node.log_text();
    assert!(said.contains("all log directories failed"), "{said}");
    assert!(said.contains(&node.log_dir().display().to_string()));
}
