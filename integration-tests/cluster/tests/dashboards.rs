//! A real Prometheus scrapes three nodes under load and is asked every query of grafana/; its rules are tested on series of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    OffsetCommitRequest, SyncGroupRequest,
};
use odradek_cluster_tests::asks::{OK, code, text, topic_name};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::records::batch;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;

const TOPIC: &str = "dashboards";
const PARTITIONS: i32 = 3;
const LIMIT: Duration = Duration::from_secs(30);
/// The highest version of OffsetCommit with topic names.
const COMMIT_BY_NAME: i16 = 9;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The path of Prometheus, which the script finds or unpacks.
fn prometheus() -> String {
    let output = Command::new(repository().join("scripts/prometheus.sh"))
        .stderr(Stdio::inherit())
        .output()
        .expect("the script can be started");
    assert!(
        output.status.success(),
        "there is no Prometheus; `make test` sets it up"
    );
    String::from_utf8(output.stdout)
        .expect("a path")
        .trim()
        .to_owned()
}

/// Asks every query; the script prints those without a result.
fn run_queries(prometheus: &str, ports: &str) -> std::process::Output {
    Command::new("python3")
        .arg("-B")
        .arg(repository().join("integration-tests/clients/python/dashboards.py"))
        .arg(ports)
        .env("PROMETHEUS", prometheus)
        .output()
        .expect("python3 can be started")
}

#[tokio::test]
async fn every_query_of_grafana_has_a_result() {
    // Closures that are async are not known to be Send: the load stays on this thread.
    tokio::task::LocalSet::new().run_until(ask_under_load()).await;
}

async fn ask_under_load() {
    let prometheus = prometheus();
    let cluster = TestCluster::start(3, &[("group.initial.rebalance.delay.ms", "0")]).await;
    let first = cluster.connect(1).await;
    first.create_topic(TOPIC, PARTITIONS, 3, &[]).await;
    let load = Load::default();
    let leaders = leaders(&cluster, &first).await;
    let mut tasks = tokio::task::JoinSet::new();
    for (partition, leader) in leaders {
        tasks.spawn_local(produce_and_fetch(leader, partition, load.clone()));
    }
    tasks.spawn_local(group_that_lags(coordinator(&cluster, "lags").await, load.clone()));
    tasks.spawn_local(group_that_comes_and_goes(
        coordinator(&cluster, "comes-and-goes").await,
        load.clone(),
    ));
    eventually("load that commits", LIMIT, async || {
        let commits = load.commits.load(Ordering::Relaxed);
        holds(commits > 3, format!("{commits} commits"))
    })
    .await;

    let ports: Vec<String> = cluster
        .nodes()
        .iter()
        .map(|node| node.metrics_port.to_string())
        .collect();
    let asked = tokio::task::spawn_blocking(move || run_queries(&prometheus, &ports.join(",")))
        .await
        .expect("the script was waited for");
    load.ending.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("the load met no error");
    }
    let (said, complaints) = (
        String::from_utf8_lossy(&asked.stdout),
        String::from_utf8_lossy(&asked.stderr),
    );
    assert!(asked.status.success(), "{said}{complaints}");
    a_death_is_counted_once(&cluster).await;
}

#[test]
fn alerts_fire_for_what_they_are_for() {
    let promtool = Path::new(&prometheus()).with_file_name("promtool");
    let tested = Command::new(&promtool)
        .args(["test", "rules"])
        .arg(repository().join("grafana/alerts.test.yml"))
        .output()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", promtool.display()));
    let (said, complaints) = (
        String::from_utf8_lossy(&tested.stdout),
        String::from_utf8_lossy(&tested.stderr),
    );
    assert!(tested.status.success(), "{said}{complaints}");
}

/// The counters of all nodes together say what happened, however many of them host a replica.
async fn a_death_is_counted_once(cluster: &TestCluster) {
    let mut led = 0.0;
    let mut hosted = 0.0;
    for (name, sum) in [
        ("odradek_leader_partitions", &mut led),
        ("odradek_partitions", &mut hosted),
    ] {
        *sum = value(cluster.node(3), name).await;
    }
    let survivors = [cluster.node(1), cluster.node(2)];
    let before = sums(&survivors).await;
    cluster.node(3).kill();
    eventually("every survivor's count", LIMIT, async || {
        let after = sums(&survivors).await;
        let elections = after[0] - before[0];
        let shrinks = after[1] - before[1];
        holds(
            elections == led && shrinks == hosted,
            format!("{elections} elections of {led}, {shrinks} shrinks of {hosted}"),
        )
    })
    .await;
}

async fn sums(nodes: &[&Node]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for (at, name) in ["odradek_leader_elections_total", "odradek_isr_shrinks_total"]
        .iter()
        .enumerate()
    {
        for node in nodes {
            sums[at] += value(node, name).await;
        }
    }
    sums
}

async fn value(node: &Node, name: &str) -> f64 {
    let found = node.metric(name).await;
    found.unwrap_or_else(|| panic!("node {} has no {name}", node.id))
}

/// What the tasks of the load share.
#[derive(Clone, Default)]
struct Load {
    ending: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.ending.load(Ordering::Relaxed)
    }
}

async fn leaders(cluster: &TestCluster, connection: &Connection) -> Vec<(i32, Connection)> {
    let topic = connection.topic(TOPIC).await;
    let mut leaders = Vec::new();
    for partition in topic.partitions {
        let leader = cluster.connect(partition.leader_id.0).await;
        leaders.push((partition.partition_index, leader));
    }
    leaders
}

async fn produce_and_fetch(leader: Connection, partition: i32, load: Load) {
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    // The topic's leader may not have heard of it yet.
    eventually("the leader leads", LIMIT, async || {
        let result = leader
            .produce_with(TOPIC, partition, -1, &batch(&["first"]))
            .await;
        holds(result.error_code == OK, result.error_code.to_string())
    })
    .await;
    while load.goes_on() {
        pace.tick().await;
        let offset = leader
            .produce(TOPIC, partition, &batch(&["some", "records"]))
            .await;
        let fetched = leader.fetch(TOPIC, partition, offset).await;
        assert_eq!(fetched.error_code, OK);
        // An error, for those who count them, and metadata.
        let beyond = leader.fetch(TOPIC, partition, 1 << 40).await;
        assert_eq!(beyond.error_code, code(ErrorCode::OffsetOutOfRange));
        leader.metadata(Some(&[TOPIC])).await;
    }
}

/// A connection to the coordinator of a group, once it answers.
async fn coordinator(cluster: &TestCluster, group: &str) -> Connection {
    let connection = cluster.connect(1).await;
    let node = eventually("the group has a coordinator", LIMIT, async || {
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]);
        let found = connection.ask_at(4, request).await.coordinators[0].clone();
        holds(found.error_code == OK, format!("{found:?}"))?;
        Ok(found.node_id.0)
    })
    .await;
    cluster.connect(node).await
}

/// A member alone in its group.
struct Member {
    connection: Connection,
    group: GroupId,
    id: String,
    generation: i32,
}

impl Member {
    async fn join(connection: &Connection, group: &str) -> Self {
        let mut member = Self {
            connection: connection.clone(),
            group: GroupId(text(group)),
            id: String::new(),
            generation: -1,
        };
        eventually("the member joins", LIMIT, async || {
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(text("range"))
                .with_metadata(Bytes::from_static(b"subscription"));
            let request = JoinGroupRequest::default()
                .with_group_id(member.group.clone())
                .with_session_timeout_ms(30_000)
                .with_rebalance_timeout_ms(30_000)
                .with_member_id(text(&member.id))
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol]);
            let joined = connection.ask(request).await;
            // Other answers than this one have no member id to go on with.
            if joined.error_code == code(ErrorCode::MemberIdRequired) {
                member.id = joined.member_id.to_string();
            }
            holds(joined.error_code == OK, joined.error_code.to_string())?;
            member.id = joined.member_id.to_string();
            member.generation = joined.generation_id;
            Ok(())
        })
        .await;
        member.sync().await;
        member
    }

    async fn sync(&self) {
        let assignment = SyncGroupRequestAssignment::default()
            .with_member_id(text(&self.id))
            .with_assignment(Bytes::from_static(b"everything"));
        let request = SyncGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(vec![assignment]);
        assert_eq!(self.connection.ask(request).await.error_code, OK);
    }

    async fn heartbeat(&self) {
        let request = HeartbeatRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id));
        assert_eq!(self.connection.ask(request).await.error_code, OK);
    }

    async fn commit(&self, offset: i64) {
        let partitions = (0..PARTITIONS).map(|partition| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(partition)
                .with_committed_offset(offset)
        });
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name(TOPIC))
            .with_partitions(partitions.collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(text(&self.id))
            .with_topics(vec![topic]);
        let committed = self.connection.ask_at(COMMIT_BY_NAME, request).await;
        for partition in &committed.topics[0].partitions {
            assert_eq!(partition.error_code, OK);
        }
    }

    async fn leave(self) {
        let member = MemberIdentity::default().with_member_id(text(&self.id));
        let request = LeaveGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_members(vec![member]);
        assert_eq!(self.connection.ask(request).await.error_code, OK);
    }
}

/// It commits less than is produced.
async fn group_that_lags(connection: Connection, load: Load) {
    let member = Member::join(&connection, "lags").await;
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for offset in 1.. {
        pace.tick().await;
        member.heartbeat().await;
        member.commit(offset).await;
        load.commits.fetch_add(1, Ordering::Relaxed);
        if !load.goes_on() {
            break;
        }
    }
    member.leave().await;
}

async fn group_that_comes_and_goes(connection: Connection, load: Load) {
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    while load.goes_on() {
        pace.tick().await;
        let member = Member::join(&connection, "comes-and-goes").await;
        member.leave().await;
    }
}
