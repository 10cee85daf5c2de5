//! Replicas that move from one log directory to another while they are written to, and through a kill.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kafka_protocol::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use kafka_protocol::messages::incremental_alter_configs_request as incremental;
use kafka_protocol::messages::{AlterReplicaLogDirsRequest, IncrementalAlterConfigsRequest};
use odradek_cluster_tests::asks::{OK, code, produce_request, text, topic_name};
use odradek_cluster_tests::binary;
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::records::batch;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;

use super::{LIMIT, SEGMENT_BYTES, configure, described, partitions_in, two_directories};

const RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";
const BROKER: i8 = 4;
const SET: i8 = 0;

/// The topic's partition 0 is to live there; what the broker says to that.
async fn alter(connection: &Connection, topic: &str, to: &Path) -> i16 {
    let topic = AlterReplicaLogDirTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![0]);
    let directory = AlterReplicaLogDir::default()
        .with_path(text(&to.display().to_string()))
        .with_topics(vec![topic]);
    let request = AlterReplicaLogDirsRequest::default().with_dirs(vec![directory]);
    connection.ask(request).await.results[0].partitions[0].error_code
}

/// How many bytes may be copied in a second, for all brokers.
async fn set_rate(connection: &Connection, rate: &str) {
    let config = incremental::AlterableConfig::default()
        .with_name(text(RATE))
        .with_config_operation(SET)
        .with_value(Some(text(rate)));
    let resource = incremental::AlterConfigsResource::default()
        .with_resource_type(BROKER)
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let response = connection.ask(request).await;
    assert_eq!(response.responses[0].error_code, OK, "{response:?}");
}

/// Produces small records until it is told to stop, or the node is gone; what was acknowledged.
async fn load(connection: Connection, from: usize, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in from.. {
        let value = format!("load-{number}");
        let request = produce_request("t", 0, -1, &batch(&[&value]));
        let Ok(response) = connection.try_ask_at(11, request).await else {
            break;
        };
        if response.responses[0].partition_responses[0].error_code != OK {
            break;
        }
        acknowledged.push(value);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    acknowledged
}

async fn is_moving(connection: &Connection, to: &Path) -> bool {
    let described = described(connection, to).await;
    let mut partitions = described.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.any(|partition| partition.is_future_key && partition.offset_lag > 0)
}

async fn await_move(connection: &Connection, to: &Path) {
    eventually("it lives in the second directory", LIMIT, async || {
        let there = described(connection, to).await;
        let mut partitions = there.topics.iter().flat_map(|topic| &topic.partitions);
        holds(
            partitions.any(|partition| !partition.is_future_key),
            format!("{there:?}"),
        )
    })
    .await;
}

/// Every acknowledged record once, in order; records that were not acknowledged may be there too.
async fn check(connection: &Connection, acknowledged: &[String]) {
    let read = connection.read_from("t", 0, 0).await;
    let mut read = read.iter().map(|seen| seen.text());
    for value in acknowledged {
        assert!(
            read.any(|seen| seen == *value),
            "{value} is lost, or out of order"
        );
    }
}

#[tokio::test]
async fn a_partition_moves_under_load_and_through_a_kill() {
    let cluster = TestCluster::prepare(1, &[]);
    let node = cluster.node(1);
    let [first, second] = two_directories(node);
    // So slowly that it is still under way when the node is killed.
    configure(node, &[(RATE, "1000".to_owned())]);
    node.start().await;
    let connection = cluster.connect(1).await;
    // A wish comes before the partition.
    let early = alter(&connection, "t", &first).await;
    assert_eq!(early, code(ErrorCode::UnknownTopicOrPartition));
    let nowhere = Path::new("/nowhere");
    assert_eq!(
        alter(&connection, "t", nowhere).await,
        code(ErrorCode::LogDirNotFound)
    );
    connection
        .create_topic("t", 1, 1, &[("segment.bytes", SEGMENT_BYTES)])
        .await;
    assert_eq!(partitions_in(&connection, &first, "t").await, [0]);
    let mut acknowledged = Vec::new();
    for number in 0..30 {
        let value = format!("{number}-{}", "x".repeat(100_000));
        connection.produce("t", 0, &batch(&[&value])).await;
        acknowledged.push(value);
    }

    let loading = tokio::spawn(load(cluster.connect(1).await, 0, Arc::default()));
    eventually("the move is seen", LIMIT, async || {
        assert_eq!(alter(&connection, "t", &second).await, OK);
        holds(is_moving(&connection, &second).await, "there is no copy")
    })
    .await;
    assert_eq!(partitions_in(&connection, &first, "t").await, [0]);
    node.kill();
    let before = loading.await.expect("the load ends with the node");
    let count = before.len();
    acknowledged.extend(before);

    node.start().await;
    let connection = cluster.connect(1).await;
    connection.await_leaders("t", 1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let loading = tokio::spawn(load(cluster.connect(1).await, count + 1, stop.clone()));
    eventually("the move has begun anew", LIMIT, async || {
        holds(is_moving(&connection, &second).await, "there is no copy")
    })
    .await;
    set_rate(&connection, "9223372036854775807").await;
    await_move(&connection, &second).await;
    stop.store(true, Ordering::Relaxed);
    acknowledged.extend(loading.await.expect("the load was told to stop"));
    assert_eq!(partitions_in(&connection, &first, "t").await, [0; 0]);
    check(&connection, &acknowledged).await;
    eventually("the controller knows", LIMIT, async || {
        let said = node.log_text();
        holds(said.contains("log directories of replicas recorded"), said)
    })
    .await;

    node.kill();
    node.start().await;
    let connection = cluster.connect(1).await;
    connection.await_leaders("t", 1).await;
    check(&connection, &acknowledged).await;
    assert_eq!(partitions_in(&connection, &second, "t").await, [0]);
    assert!(second.join("t-0").exists());
    eventually("nothing is left behind", LIMIT, async || {
        holds(!first.join("t-0").exists(), "the folder is there")
    })
    .await;
}

/// What `odradek reassign` says of a file that wants the topic's partition 0 there: a broker and a directory of its own for each replica.
fn reassign(node: &Node, action: &str, to: &[(i32, &Path)]) -> (bool, String) {
    let file = node.directory().join("plan.json");
    let replicas: Vec<i32> = to.iter().map(|(broker, _)| *broker).collect();
    let log_dirs: Vec<String> = to.iter().map(|(_, path)| path.display().to_string()).collect();
    let plan = format!(
        r#"{{"version":1,"partitions":[{{"topic":"t","partition":0,"replicas":{replicas:?},"log_dirs":{log_dirs:?}}}]}}"#
    );
    std::fs::write(&file, plan).expect("the folder is writable");
    let output = Command::new(binary::odradek())
        .args(["reassign", "--bootstrap-server", &node.address(), action])
        .arg("--reassignment-json-file")
        .arg(&file)
        .output()
        .expect("the binary can be started");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test]
async fn the_command_line_moves_replicas_between_directories() {
    let cluster = TestCluster::prepare(1, &[]);
    let node = cluster.node(1);
    let [first, second] = two_directories(node);
    configure(node, &[(RATE, "1000".to_owned())]);
    node.start().await;
    let connection = cluster.connect(1).await;
    connection.create_topic("t", 1, 1, &[]).await;
    assert_eq!(partitions_in(&connection, &first, "t").await, [0]);
    connection.produce("t", 0, &batch(&[&"x".repeat(100_000)])).await;

    let says = |action: &str, to: &Path, words: &str| {
        let (succeeded, said) = reassign(node, action, &[(1, to)]);
        assert!(said.contains(words), "{said}");
        succeeded
    };
    let nowhere = Path::new("/nowhere");
    assert!(!says(
        "--execute",
        nowhere,
        "Failed to alter dir for t-0-1 to /nowhere"
    ));
    let stays = format!(
        "Partition t-0 on broker 1 is not being moved from log dir {} to {}.",
        first.display(),
        second.display()
    );
    assert!(says("--verify", &second, &stays));
    assert!(says(
        "--execute",
        &second,
        "Successfully started log directory move for: t-0-1"
    ));
    assert!(says(
        "--verify",
        &second,
        "Reassignment of replica t-0-1 is still in progress."
    ));
    let elsewhere = format!("is being moved to log dir {} instead of", second.display());
    assert!(says("--verify", &first, &elsewhere));
    assert!(says(
        "--cancel",
        &second,
        "Successfully started log directory move for: t-0-1"
    ));
    assert!(says("--verify", &second, &stays));
    assert!(says(
        "--cancel",
        &second,
        "None of the specified partition moves are active."
    ));
    set_rate(&connection, "9223372036854775807").await;
    assert!(says(
        "--execute",
        &second,
        "Successfully started log directory move for: t-0-1"
    ));
    await_move(&connection, &second).await;
    assert!(says(
        "--verify",
        &second,
        "Reassignment of replica t-0-1 completed successfully."
    ));
}

/// One broker holds the replica and moves it, another one is given a replica in the directory that the file says.
#[tokio::test]
async fn the_command_line_places_the_replicas_of_several_brokers() {
    let cluster = TestCluster::prepare(3, &[]);
    let directories: Vec<_> = cluster.nodes().iter().map(two_directories).collect();
    for node in cluster.nodes() {
        node.spawn();
    }
    for node in cluster.nodes() {
        node.ready().await;
    }
    let connection = cluster.connect(1).await;
    connection.create_topic("t", 1, 1, &[]).await;
    let holder = connection.partition("t", 0).await.leader_id.0;
    let other = holder % 3 + 1;
    let leader = cluster.connect(holder).await;
    leader.produce("t", 0, &batch(&["kept"])).await;

    let node = cluster.node(holder);
    let [_, moved_to] = &directories[holder as usize - 1];
    let [_, placed_in] = &directories[other as usize - 1];
    let to = [(holder, moved_to.as_path()), (other, placed_in.as_path())];
    let (succeeded, said) = reassign(node, "--execute", &to);
    assert!(succeeded, "{said}");
    for broker in [holder, other] {
        assert!(said.contains(&format!("t-0-{broker}")), "{said}");
    }
    for (broker, path) in to {
        let connection = cluster.connect(broker).await;
        eventually("the replica is where the file says", LIMIT, async || {
            let held = partitions_in(&connection, path, "t").await;
            holds(held == [0], format!("broker {broker} has {held:?} there"))
        })
        .await;
    }
    eventually("both brokers have what was written", LIMIT, async || {
        let in_sync = connection.partition("t", 0).await.isr_nodes.len();
        holds(in_sync == 2, format!("{in_sync} are in sync"))
    })
    .await;
    eventually("nothing is on its way", LIMIT, async || {
        let (succeeded, said) = reassign(node, "--verify", &to);
        let done = [holder, other]
            .map(|broker| format!("Reassignment of replica t-0-{broker} completed successfully."));
        holds(succeeded && done.iter().all(|line| said.contains(line)), said)
    })
    .await;
}
