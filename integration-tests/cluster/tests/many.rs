//! Much of one thing on one node: partitions, topics, connections, members of a group.
//!
//! Counts are asserted, never times: how fast it is the benchmark tells.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest, FindCoordinatorRequest, GroupId,
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use odradek_cluster_tests::asks::{OK, code, creatable, text, topic_name};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::raw::{RawConnection, framed};
use odradek_cluster_tests::records::batch;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const LIMIT: Duration = Duration::from_secs(60);
/// Of a node that serves nobody: RocksDB's, sockets, pollers.
const DESCRIPTORS_MAX: usize = 128;

async fn create(connection: &Connection, topics: &[(String, i32)]) {
    let creatable = topics
        .iter()
        .map(|(name, partitions)| creatable(name, *partitions, 1, &[]));
    let request = CreateTopicsRequest::default()
        .with_topics(creatable.collect())
        .with_timeout_ms(60_000);
    let response = connection.ask(request).await;
    let refused = response.topics.iter().find(|topic| topic.error_code != OK);
    assert_eq!(refused, None);
}

/// Ten topics of so many partitions.
fn ten(partitions: i32) -> Vec<(String, i32)> {
    (0..10)
        .map(|topic| (format!("many-{topic}"), partitions))
        .collect()
}

/// A broker that is far behind answers before it hosts what was created.
async fn await_hosted(node: &Node, partitions: f64) {
    eventually("the partitions are hosted", LIMIT, async || {
        let hosted = node.metric("odradek_partitions").await;
        holds(hosted == Some(partitions), format!("{hosted:?}"))
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_idle_partitions_cost_no_descriptor_and_no_folder() {
    let cluster = TestCluster::start(1, &[]).await;
    let node = cluster.node(1);
    let connection = cluster.connect(1).await;
    // One request may make so many records in the metadata, and no more.
    for topics in ten(1_000).chunks(5) {
        create(&connection, topics).await;
    }
    await_hosted(node, 10_000.0).await;
    assert!(node.descriptors() <= DESCRIPTORS_MAX, "{}", node.descriptors());
    let folders = std::fs::read_dir(node.log_dir()).unwrap().count();
    assert!(folders < 100, "{folders}");
    assert_eq!(connection.produce("many-7", 999, &batch(&["one"])).await, 0);
    assert!(node.log_dir().join("many-7-999").is_dir());

    assert_eq!(node.stop().await.code(), Some(0));
    node.start().await;
    assert!(node.descriptors() <= DESCRIPTORS_MAX, "{}", node.descriptors());
    let connection = cluster.connect(1).await;
    await_hosted(node, 10_000.0).await;
    // Its leaders come back with the broker's unfencing.
    connection.await_leaders("many-7", 1_000).await;
    assert_eq!(connection.produce("many-7", 999, &batch(&["two"])).await, 1);
}

#[tokio::test]
async fn a_topic_is_there_when_its_creation_is_answered_whatever_was_created_before() {
    let cluster = TestCluster::start(1, &[]).await;
    let connection = cluster.connect(1).await;
    for round in 0..3 {
        create(&connection, &[(format!("large-{round}"), 1_000)]).await;
        let small = format!("small-{round}");
        create(&connection, &[(small.clone(), 1)]).await;
        assert_eq!(connection.produce(&small, 0, &batch(&["at once"])).await, 0);
    }
}

#[tokio::test]
async fn a_thousand_topics_come_and_go() {
    let cluster = TestCluster::start(1, &[("log.segment.delete.delay.ms", "0")]).await;
    let node = cluster.node(1);
    let connection = cluster.connect(1).await;
    let names: Vec<String> = (0..1_000).map(|topic| format!("fleeting.{topic}")).collect();
    for name in &names {
        create(&connection, &[(name.clone(), 1)]).await;
        connection.produce(name, 0, &batch(&["a"])).await;
    }
    let count = || std::fs::read_dir(node.log_dir()).unwrap().count();
    assert!(count() > 1_000);
    for names in names.chunks(100) {
        let topics = names
            .iter()
            .map(|name| DeleteTopicState::default().with_name(Some(topic_name(name))));
        let request = DeleteTopicsRequest::default()
            .with_topics(topics.collect())
            .with_timeout_ms(60_000);
        let response = connection.ask_at(6, request).await;
        assert!(response.responses.iter().all(|topic| topic.error_code == OK));
    }
    assert_eq!(node.metric("odradek_partitions").await, Some(0.0));
    eventually("the folders are removed", LIMIT, async || {
        let left = count();
        holds(left < 20, format!("{left} files and folders"))
    })
    .await;
    let (_, metrics) = node.http("/metrics").await.unwrap();
    assert!(!metrics.contains("fleeting"), "series go with their topics");
}

#[tokio::test]
async fn ten_thousand_connections_are_served() {
    const CONNECTIONS: usize = 10_000;
    let limit = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, raised).expect("what the hard limit allows can be had");
    let cluster = TestCluster::start(1, &[]).await;
    let node = cluster.node(1);
    let idle = node.descriptors();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(RawConnection::open(&node.address()).await);
    }
    let request = framed(0, 7, &ApiVersionsRequest::default());
    for connection in &mut connections {
        connection.send(&request).await;
    }
    for connection in &mut connections {
        assert!(connection.receive().await.is_some());
    }
    // Not against `idle`: a start leaves descriptors that close on their own.
    assert!(node.descriptors() >= CONNECTIONS);
    drop(connections);
    eventually("the connections are gone", LIMIT, async || {
        let open = node.descriptors();
        holds(open < idle + 10, format!("{open} descriptors, {idle} before"))
    })
    .await;
}

const GROUP: &str = "five-hundred";
const MEMBERS: usize = 500;
/// Above the pause that a member takes between two heartbeats here.
const SESSION_TIMEOUT_MS: i32 = 60_000;

#[tokio::test]
async fn five_hundred_members_rebalance() {
    // A new group waits a while for others, and longer with each that comes: nobody has to join twice.
    let cluster = TestCluster::start(1, &[("group.initial.rebalance.delay.ms", "2000")]).await;
    let first = cluster.connect(1).await;
    eventually("the group has a coordinator", LIMIT, async || {
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(GROUP)]);
        let found = first.ask_at(4, request).await;
        holds(found.coordinators[0].error_code == OK, format!("{found:?}"))?;
        let error_code = heartbeat(&first, 0, "nobody").await;
        holds(
            error_code == code(ErrorCode::UnknownMemberId),
            error_code.to_string(),
        )
    })
    .await;
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        members.push((Connection::open(&cluster.node(1).address()).await, String::new()));
    }
    // Ids first, as clients do.
    for (connection, id) in &mut members {
        let answer = connection.ask_at(9, join_request("")).await;
        assert_eq!(answer.error_code, code(ErrorCode::MemberIdRequired));
        *id = answer.member_id.to_string();
    }
    let joined = join_all(&members).await;
    let generation = joined[0].generation_id;
    check_generation(&joined, MEMBERS);
    sync_all(&members, &joined).await;
    for (connection, id) in &members {
        assert_eq!(heartbeat(connection, generation, id).await, OK);
    }

    let (connection, id) = members.pop().unwrap();
    let gone = MemberIdentity::default().with_member_id(text(&id));
    let request = LeaveGroupRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_members(vec![gone]);
    assert_eq!(connection.ask(request).await.error_code, OK);
    let (connection, id) = &members[0];
    assert_eq!(
        heartbeat(connection, generation, id).await,
        code(ErrorCode::RebalanceInProgress)
    );
    let joined = join_all(&members).await;
    check_generation(&joined, MEMBERS - 1);
    sync_all(&members, &joined).await;
}

fn join_request(id: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"\0\0\0\0\0\0\xff\xff\xff\xff"));
    JoinGroupRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_session_timeout_ms(SESSION_TIMEOUT_MS)
        .with_rebalance_timeout_ms(SESSION_TIMEOUT_MS)
        .with_member_id(text(id))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// All at once; each waits for all the others.
async fn join_all(members: &[(Connection, String)]) -> Vec<JoinGroupResponse> {
    let joins: Vec<_> = members
        .iter()
        .map(|(connection, id)| {
            let (connection, request) = (connection.clone(), join_request(id));
            tokio::spawn(async move { connection.ask_at(9, request).await })
        })
        .collect();
    let mut joined = Vec::new();
    for join in joins {
        joined.push(join.await.expect("joining does not panic"));
    }
    joined
}

fn check_generation(joined: &[JoinGroupResponse], size: usize) {
    let generations: BTreeSet<i32> = joined.iter().map(|it| it.generation_id).collect();
    let errors: BTreeSet<i16> = joined.iter().map(|it| it.error_code).collect();
    assert_eq!((generations.len(), errors), (1, BTreeSet::from([OK])));
    let leaders: Vec<_> = joined.iter().filter(|it| it.leader == it.member_id).collect();
    assert_eq!(leaders.len(), 1);
    assert_eq!(leaders[0].members.len(), size);
    let others = joined.iter().map(|it| it.members.len()).sum::<usize>();
    assert_eq!(others, size, "only the leader is told who else is there");
}

/// Everybody asks for the assignment; the leader brings it, and each gets its own.
async fn sync_all(members: &[(Connection, String)], joined: &[JoinGroupResponse]) {
    let mut syncs = Vec::new();
    for ((connection, id), joined) in members.iter().zip(joined) {
        let assignments = joined.members.iter().map(|member| {
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(Bytes::copy_from_slice(member.member_id.as_bytes()))
        });
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_generation_id(joined.generation_id)
            .with_member_id(text(id))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments.collect());
        let connection = connection.clone();
        syncs.push(tokio::spawn(async move { connection.ask(request).await }));
    }
    for ((_, id), sync) in members.iter().zip(syncs) {
        let answer = sync.await.expect("syncing does not panic");
        assert_eq!(answer.error_code, OK);
        assert_eq!(answer.assignment, id.as_bytes());
    }
}

async fn heartbeat(connection: &Connection, generation: i32, id: &str) -> i16 {
    let request = HeartbeatRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_generation_id(generation)
        .with_member_id(text(id));
    connection.ask(request).await.error_code
}
