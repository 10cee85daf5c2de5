//! Nodes that die, stop and come back.

use std::time::Duration;

use kafka_protocol::messages::alter_partition_request::{
    PartitionData as AlteredPartition, TopicData as AlteredTopic,
};
use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions as ElectedTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    AlterPartitionRequest, DescribeQuorumRequest, ElectLeadersRequest, FindCoordinatorRequest, GroupId,
    MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use odradek_cluster_tests::asks::{OK, code, creatable, text, topic_name};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::records::batch;
use odradek_cluster_tests::shared::OVERRIDES;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;

use crate::load::{Load, assert_each_once, everything};

const LIMIT: Duration = Duration::from_secs(60);
/// What no failover may take; what it really takes is printed.
const GAP_MAX: Duration = Duration::from_secs(10);
const SAFE: &[(&str, &str)] = &[("min.insync.replicas", "2")];

fn addresses(cluster: &TestCluster) -> Vec<String> {
    cluster.nodes().iter().map(Node::address).collect()
}

/// A connection to any node but this.
async fn other(cluster: &TestCluster, id: i32) -> Connection {
    cluster.connect(if id == 1 { 2 } else { 1 }).await
}

async fn create(connection: &Connection, topic: &str, replicas: &[i32], configs: &[(&str, &str)]) {
    let assignment = CreatableReplicaAssignment::default()
        .with_partition_index(0)
        .with_broker_ids(replicas.iter().map(|id| (*id).into()).collect());
    let request = creatable(topic, -1, -1, configs).with_assignments(vec![assignment]);
    let result = connection.try_create(request).await;
    assert_eq!(result.error_code, OK, "{:?}", result.error_message);
    connection.await_leaders(topic, 1).await;
}

async fn isr_has(connection: &Connection, topic: &str, count: usize) {
    eventually(&format!("{topic} has {count} in sync"), LIMIT, async || {
        let partition = connection.partition(topic, 0).await;
        holds(
            partition.isr_nodes.len() == count && partition.leader_id.0 > 0,
            format!("{partition:?}"),
        )
    })
    .await;
}

/// Without a quorum nobody decides, and the client is told so, as by Kafka.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_no_controller_answers_has_timed_out() {
    let overrides = [OVERRIDES, &[("request.timeout.ms", "2000")]].concat();
    let cluster = TestCluster::start(3, &overrides).await;
    let connection = cluster.connect(1).await;
    cluster.node(2).kill();
    cluster.node(3).kill();
    let result = connection.try_create(creatable("undecided", 1, 1, &[])).await;
    assert_eq!(result.error_code, code(ErrorCode::RequestTimedOut), "{result:?}");
    assert_eq!(result.name, topic_name("undecided"));
    let reason = result.error_message.unwrap_or_default();
    assert!(reason.contains("no active controller answered"), "{reason}");

    // This version has no code for the whole.
    let named = ElectedTopic::default()
        .with_topic(topic_name("undecided"))
        .with_partitions(vec![0]);
    let elect = ElectLeadersRequest::default().with_topic_partitions(Some(vec![named]));
    let results = connection.ask_at(0, elect).await.replica_election_results;
    let result = &results[0].partition_result[0];
    assert_eq!(result.error_code, code(ErrorCode::RequestTimedOut), "{results:?}");
}

/// kill -9 of a leader under load, and its return: nothing acknowledged is lost, doubled or out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_loses_nothing() {
    let cluster = TestCluster::start(3, OVERRIDES).await;
    cluster.connect(1).await.create_topic("killed", 1, 3, SAFE).await;
    let load = Load::start(addresses(&cluster), "killed").await;
    load.more(50).await;
    for _ in 0..2 {
        let leader = cluster.connect(1).await.partition("killed", 0).await.leader_id.0;
        cluster.node(leader).kill();
        load.more(50).await;
        let witness = other(&cluster, leader).await;
        assert_ne!(witness.partition("killed", 0).await.leader_id.0, leader);
        cluster.node(leader).start().await;
        isr_has(&witness, "killed", 3).await;
        load.more(20).await;
    }
    let (acknowledged, gap) = load.end().await;
    eprintln!(
        "kill -9 of the leader: {acknowledged} acknowledged, longest gap {} ms",
        gap.as_millis()
    );
    let values = everything(&addresses(&cluster), "killed", acknowledged).await;
    assert_each_once(&values, acknowledged);
    assert!(gap < GAP_MAX, "{gap:?}");
}

/// 21, 22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_brokers_partitions_are_shown_without_leader_and_itself_not_at_all() {
    let cluster = TestCluster::start(3, OVERRIDES).await;
    let connection = cluster.connect(1).await;
    create(&connection, "alone", &[3], &[]).await;
    create(&connection, "together", &[3, 1, 2], &[]).await;
    let epoch = connection.partition("alone", 0).await.leader_epoch;
    cluster.node(3).kill();
    eventually("the broker is gone", LIMIT, async || {
        let brokers = connection.metadata(Some(&[])).await.brokers;
        holds(
            brokers.iter().all(|broker| broker.node_id.0 != 3),
            format!("{brokers:?}"),
        )
    })
    .await;
    let alone = connection.partition("alone", 0).await;
    assert_eq!(
        (alone.error_code, alone.leader_id.0),
        (code(ErrorCode::LeaderNotAvailable), -1)
    );
    assert!(alone.leader_epoch >= epoch);
    assert_eq!(alone.replica_nodes.iter().map(|id| id.0).collect::<Vec<_>>(), [3]);
    assert_eq!(
        alone.offline_replicas.iter().map(|id| id.0).collect::<Vec<_>>(),
        [3]
    );
    let together = connection.partition("together", 0).await;
    assert_eq!(
        together.replica_nodes.iter().map(|id| id.0).collect::<Vec<_>>(),
        [3, 1, 2]
    );
    assert!([1, 2].contains(&together.leader_id.0), "{together:?}");
    // The first version names only whom its clients can reach.
    let named = MetadataRequestTopic::default().with_name(Some(topic_name("together")));
    let request = MetadataRequest::default().with_topics(Some(vec![named]));
    let old = connection.ask_at(0, request).await;
    let old = &old.topics[0].partitions[0];
    let mut replicas: Vec<i32> = old.replica_nodes.iter().map(|id| id.0).collect();
    replicas.sort_unstable();
    assert_eq!(
        (old.error_code, old.leader_id, replicas),
        (
            code(ErrorCode::ReplicaNotAvailable),
            together.leader_id,
            vec![1, 2]
        )
    );
    cluster.node(3).start().await;
    eventually("the broker is back", LIMIT, async || {
        let alone = connection.partition("alone", 0).await;
        holds(alone.leader_id.0 == 3, format!("{alone:?}"))
    })
    .await;
}

/// 46
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_replicas_take_no_acks_all() {
    let cluster = TestCluster::start(3, OVERRIDES).await;
    let connection = cluster.connect(1).await;
    create(&connection, "few", &[1, 2], SAFE).await;
    eventually("the leader takes records", LIMIT, async || {
        let result = connection.produce_with("few", 0, -1, &batch(&["a"])).await;
        holds(result.error_code == OK, format!("{result:?}"))
    })
    .await;
    cluster.node(2).kill();
    let refusals = [
        ErrorCode::NotEnoughReplicas,
        ErrorCode::NotEnoughReplicasAfterAppend,
        ErrorCode::RequestTimedOut,
    ];
    eventually("the ISR is known to be too small", LIMIT, async || {
        let result = connection.produce_with("few", 0, -1, &batch(&["b"])).await;
        assert!(refusals.map(code).contains(&result.error_code), "{result:?}");
        holds(
            result.error_code == code(ErrorCode::NotEnoughReplicas),
            format!("{result:?}"),
        )
    })
    .await;
    assert_eq!(
        connection
            .produce_with("few", 0, 1, &batch(&["c"]))
            .await
            .error_code,
        OK
    );
    cluster.node(2).start().await;
    isr_has(&connection, "few", 2).await;
    eventually("acks=all works again", LIMIT, async || {
        let result = connection.produce_with("few", 0, -1, &batch(&["d"])).await;
        holds(result.error_code == OK, format!("{result:?}"))
    })
    .await;
}

/// SIGTERM: leaders move before the process ends, and the quorum's leader hands over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_moves_leaders_first() {
    let cluster = TestCluster::start(3, OVERRIDES).await;
    cluster.connect(1).await.create_topic("stopped", 1, 3, SAFE).await;
    let load = Load::start(addresses(&cluster), "stopped").await;
    load.more(50).await;
    for node in cluster.nodes() {
        let witness = other(&cluster, node.id).await;
        let status = node.stop().await;
        assert_eq!(status.code(), Some(0), "node {}", node.id);
        assert_ne!(witness.partition("stopped", 0).await.leader_id.0, node.id);
        load.more(20).await;
        node.start().await;
        isr_has(&witness, "stopped", 3).await;
    }
    let (acknowledged, gap) = load.end().await;
    eprintln!(
        "clean stops: {acknowledged} acknowledged, longest gap {} ms",
        gap.as_millis()
    );
    let values = everything(&addresses(&cluster), "stopped", acknowledged).await;
    assert_each_once(&values, acknowledged);
    assert!(gap < GAP_MAX, "{gap:?}");
    for node in cluster.nodes() {
        let text = node.log_text();
        assert!(
            !text.contains(" ERRO ") && !text.contains(" CRIT "),
            "node {}:\n{text}",
            node.id
        );
    }
}

/// kill -9 of all three at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_all_nodes_were_killed() {
    let cluster = TestCluster::start(3, OVERRIDES).await;
    let connection = cluster.connect(1).await;
    connection.create_topic("all", 1, 3, SAFE).await;
    commit(&cluster, "all-group", "all", 17).await;
    let load = Load::start(addresses(&cluster), "all").await;
    load.more(100).await;
    for node in cluster.nodes() {
        node.kill();
    }
    for node in cluster.nodes() {
        node.spawn();
    }
    for node in cluster.nodes() {
        node.ready().await;
    }
    load.more(20).await;
    let (acknowledged, gap) = load.end().await;
    eprintln!(
        "kill -9 of all nodes: {acknowledged} acknowledged, longest gap {} ms",
        gap.as_millis()
    );
    let values = everything(&addresses(&cluster), "all", acknowledged).await;
    assert_each_once(&values, acknowledged);
    assert_eq!(committed(&cluster, "all-group").await, 17);
}

/// 63: committed offsets survive their coordinator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_groups_offsets_survive_their_coordinator() {
    let cluster = TestCluster::start(3, OVERRIDES).await;
    cluster
        .connect(1)
        .await
        .create_topic("coordinated", 1, 3, &[])
        .await;
    let coordinator = commit(&cluster, "coordinated-group", "coordinated", 42).await;
    cluster.node(coordinator).kill();
    assert_eq!(committed(&cluster, "coordinated-group").await, 42);
}

/// The coordinator of a group as a living node names it.
async fn coordinator(cluster: &TestCluster, group: &str) -> Result<(i32, Connection), String> {
    for node in cluster.nodes().iter().filter(|node| node.is_running()) {
        let Ok(connection) = Connection::try_open(&node.address()).await else {
            continue;
        };
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]);
        let found = connection
            .try_ask_at(4, request)
            .await
            .map_err(|error| error.to_string())?;
        let found = &found.coordinators[0];
        if found.error_code != OK {
            return Err(format!("{found:?}"));
        }
        let address = format!("{}:{}", found.host, found.port);
        let connection = Connection::try_open(&address)
            .await
            .map_err(|error| error.to_string())?;
        return Ok((found.node_id.0, connection));
    }
    Err("no node runs".to_owned())
}

/// Commits and returns who coordinated.
async fn commit(cluster: &TestCluster, group: &str, topic: &str, offset: i64) -> i32 {
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text("")));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    eventually("the offset is committed", LIMIT, async || {
        let (id, connection) = coordinator(cluster, group).await?;
        let response = connection
            .try_ask_at(9, request.clone())
            .await
            .map_err(|error| error.to_string())?;
        let error_code = response.topics[0].partitions[0].error_code;
        holds(error_code == OK, error_code.to_string())?;
        Ok(id)
    })
    .await
}

async fn committed(cluster: &TestCluster, group: &str) -> i64 {
    let wanted = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![wanted]);
    eventually("the offset can be fetched", LIMIT, async || {
        let (_, connection) = coordinator(cluster, group).await?;
        let response = connection
            .try_ask_at(9, request.clone())
            .await
            .map_err(|error| error.to_string())?;
        let group = &response.groups[0];
        holds(group.error_code == OK, format!("{group:?}"))?;
        let offset = group.topics.first().and_then(|topic| topic.partitions.first());
        offset
            .map(|partition| partition.committed_offset)
            .ok_or_else(|| format!("{group:?}"))
    })
    .await
}

/// The leader of a partition that nothing is written to takes a member back that lost its place while its fetch waited.
///
/// A broker that restarts fast is such a member: it fetches before the leader has heard that its old self is gone.
#[tokio::test]
async fn a_member_removed_while_its_fetch_waits_comes_back_without_new_records() {
    let cluster = TestCluster::start(3, OVERRIDES).await;
    let connection = cluster.connect(1).await;
    create(&connection, "quiet", &[1, 2, 3], &[]).await;
    connection.produce("quiet", 0, &batch(&["the only one"])).await;
    isr_has(&connection, "quiet", 3).await;
    let seen = connection.topic("quiet").await;
    let quorum = TopicData::default()
        .with_topic_name(topic_name("__cluster_metadata"))
        .with_partitions(vec![PartitionData::default()]);
    let asked = DescribeQuorumRequest::default().with_topics(vec![quorum]);
    let active = connection.ask(asked).await.topics[0].partitions[0].leader_id.0;
    let controller = format!("127.0.0.1:{}", cluster.node(active).controller_port);
    let controller = Connection::open(&controller).await;
    // Only the leader may take somebody out, so that the test speaks in its name.
    let registered = cluster.node(1).log_text();
    let (_, epoch) = registered
        .split_once("broker registered, broker_epoch: ")
        .expect("it is said");
    let epoch = epoch.split_once(',').expect("more is said").0;
    let alone = AlteredPartition::default()
        .with_leader_epoch(seen.partitions[0].leader_epoch)
        .with_new_isr(vec![1.into()]);
    let topic = AlteredTopic::default()
        .with_topic_id(seen.topic_id)
        .with_partitions(vec![alone]);
    let request = AlterPartitionRequest::default()
        .with_broker_id(1.into())
        .with_broker_epoch(epoch.parse().expect("a number"))
        .with_topics(vec![topic]);
    let taken_out = controller.ask_at(2, request).await;
    assert_eq!(
        (taken_out.error_code, taken_out.topics[0].partitions[0].error_code),
        (OK, OK),
        "{taken_out:?}"
    );
    eventually("the leader takes them back", LIMIT, async || {
        let said = cluster.node(1).log_text();
        holds(said.contains("ISR changed"), said)
    })
    .await;
    isr_has(&connection, "quiet", 3).await;
}
