//! Three nodes that all live.

use std::collections::BTreeSet;
use std::time::Duration;

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::fetch_request::FetchTopic;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, CreatePartitionsRequest, DeleteRecordsRequest,
    DescribeProducersRequest, DescribeQuorumRequest, ElectLeadersRequest, FetchRequest,
    FindCoordinatorRequest, GroupId, HeartbeatRequest, ListPartitionReassignmentsRequest,
};
use odradek_cluster_tests::asks::{OK, code, creatable, fetch_partition, produce_request, text, topic_name};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records::{Seen, batch, idempotent};
use odradek_cluster_tests::shared::trio;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;

const LIMIT: Duration = Duration::from_secs(30);

/// Creates a one-partition topic on these nodes, the first of which leads; returns connections to all three nodes.
async fn placed(topic: &str, replicas: &[i32]) -> Vec<Connection> {
    let shared = trio().await;
    let mut connections = Vec::new();
    for id in shared.ids() {
        connections.push(shared.connect_to(id).await);
    }
    let assignment = CreatableReplicaAssignment::default()
        .with_partition_index(0)
        .with_broker_ids(replicas.iter().map(|id| (*id).into()).collect());
    let request = creatable(topic, -1, -1, &[]).with_assignments(vec![assignment]);
    let result = connections[0].try_create(request).await;
    assert_eq!(result.error_code, OK, "{:?}", result.error_message);
    for connection in &connections {
        leads(connection, topic, replicas[0]).await;
    }
    let leader = of(&connections, replicas[0]);
    eventually("the leader leads", LIMIT, async || {
        let latest = leader.list_offset(topic, 0, -1).await;
        holds(latest.error_code == OK, format!("{latest:?}"))
    })
    .await;
    connections
}

fn of(connections: &[Connection], id: i32) -> &Connection {
    &connections[usize::try_from(id - 1).expect("ids begin at 1")]
}

async fn leads(connection: &Connection, topic: &str, id: i32) {
    eventually(&format!("{id} leads {topic}"), LIMIT, async || {
        let found = connection.topic(topic).await;
        let leader = found.partitions.first().map(|partition| partition.leader_id.0);
        holds(leader == Some(id), format!("{found:?}"))
    })
    .await;
}

/// 18
#[tokio::test]
async fn every_broker_takes_admin_requests() {
    let shared = trio().await;
    for id in shared.ids() {
        let connection = shared.connect_to(id).await;
        connection.create_topic(&format!("any-{id}"), 3, 3, &[]).await;
        assert!(
            shared
                .ids()
                .contains(&connection.metadata(Some(&[])).await.controller_id.0)
        );
    }
    for id in shared.ids() {
        let connection = shared.connect_to(id).await;
        for other in shared.ids() {
            connection.await_leaders(&format!("any-{other}"), 3).await;
        }
    }
}

/// Replicas are spread over all nodes.
#[tokio::test]
async fn leaders_and_replicas_are_spread() {
    let connection = trio().await.connect_to(2).await;
    connection.create_topic("spread", 6, 3, &[]).await;
    let topic = connection.topic("spread").await;
    let leaders: BTreeSet<i32> = topic
        .partitions
        .iter()
        .map(|partition| partition.leader_id.0)
        .collect();
    assert_eq!(leaders.len(), 3, "{topic:?}");
    for partition in &topic.partitions {
        let replicas: BTreeSet<i32> = partition.replica_nodes.iter().map(|id| id.0).collect();
        assert_eq!(replicas, BTreeSet::from([1, 2, 3]));
        assert_eq!(partition.isr_nodes.len(), 3);
    }
}

/// What kafka-metadata-quorum shows, from every broker.
#[tokio::test]
async fn every_broker_describes_the_same_quorum() {
    let shared = trio().await;
    let topic = TopicData::default()
        .with_topic_name(topic_name("__cluster_metadata"))
        .with_partitions(vec![PartitionData::default()]);
    let mut leaders = BTreeSet::new();
    for id in shared.ids() {
        let connection = shared.connect_to(id).await;
        let response = connection
            .ask(DescribeQuorumRequest::default().with_topics(vec![topic.clone()]))
            .await;
        assert_eq!(response.error_code, OK);
        let partition = &response.topics[0].partitions[0];
        let voters: BTreeSet<i32> = partition
            .current_voters
            .iter()
            .map(|voter| voter.replica_id.0)
            .collect();
        assert_eq!(voters, BTreeSet::from([1, 2, 3]));
        leaders.insert(partition.leader_id.0);
    }
    assert_eq!(leaders.len(), 1, "{leaders:?}");
}

/// 62, 63, 97
#[tokio::test]
async fn the_offsets_topic_is_made_once_and_its_groups_have_one_coordinator() {
    let shared = trio().await;
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("once")]);
    let ask = async |id: i32| {
        let connection = shared.connect_to(id).await;
        eventually("a coordinator", LIMIT, async || {
            let found = connection.ask_at(4, request.clone()).await.coordinators.remove(0);
            holds(found.error_code == OK, format!("{found:?}"))?;
            Ok(found.node_id.0)
        })
        .await
    };
    let (first, second, third) = tokio::join!(ask(1), ask(2), ask(3));
    let coordinators = BTreeSet::from([first, second, third]);
    assert_eq!(coordinators.len(), 1, "{coordinators:?}");
    let coordinator = *coordinators.first().unwrap();
    let mut ids = BTreeSet::new();
    for id in shared.ids() {
        let connection = shared.connect_to(id).await;
        let topic = connection.topic("__consumer_offsets").await;
        assert!(topic.is_internal);
        assert_eq!(topic.partitions.len(), 50);
        ids.insert(topic.topic_id);
        let heartbeat = HeartbeatRequest::default()
            .with_group_id(GroupId(text("once")))
            .with_member_id(text("nobody"));
        let expected = if id == coordinator {
            ErrorCode::UnknownMemberId
        } else {
            ErrorCode::NotCoordinator
        };
        eventually("the coordinator is ready", LIMIT, async || {
            let error_code = connection.ask(heartbeat.clone()).await.error_code;
            holds(
                error_code == code(expected),
                format!("{error_code} from node {id}"),
            )
        })
        .await;
    }
    assert_eq!(ids.len(), 1);
}

/// 47
#[tokio::test]
async fn who_asks_a_follower_is_told_the_leader() {
    let connections = placed("hints", &[2, 1, 3]).await;
    let follower = of(&connections, 3);
    let epoch = follower.partition("hints", 0).await.leader_epoch;
    let request = produce_request("hints", 0, -1, &batch(&["a"]));
    let response = follower.ask_at(10, request).await;
    let partition = &response.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, code(ErrorCode::NotLeaderOrFollower));
    assert_eq!(
        (
            partition.current_leader.leader_id.0,
            partition.current_leader.leader_epoch
        ),
        (2, epoch)
    );
    let endpoint = &response.node_endpoints[0];
    assert_eq!(
        (endpoint.node_id.0, format!("{}:{}", endpoint.host, endpoint.port)),
        (2, trio().await.address(2).to_owned())
    );

    let id = follower.topic("hints").await.topic_id;
    let mut wanted = fetch_partition(0, 0);
    wanted.current_leader_epoch = epoch;
    let topic = FetchTopic::default()
        .with_topic_id(id)
        .with_partitions(vec![wanted]);
    let request = FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic.clone()]);
    // A follower may be read from since KIP-392: only a leader of another epoch is refused.
    let response = follower.ask_at(16, request).await;
    let read = &response.responses[0].partitions[0];
    assert!(
        [OK, code(ErrorCode::NotLeaderOrFollower)].contains(&read.error_code),
        "{read:?}"
    );
}

/// 57
#[tokio::test]
async fn an_older_epoch_is_fenced() {
    let connections = placed("fenced", &[1, 2, 3]).await;
    let before = connections[0].partition("fenced", 0).await.leader_epoch;
    elect_other(&connections, "fenced", &[2, 1, 3]).await;
    let leader = of(&connections, 2);
    let now = leader.partition("fenced", 0).await.leader_epoch;
    assert!(now > before);
    let mut request = odradek_cluster_tests::asks::fetch_request("fenced", 0, 0);
    request.topics[0].partitions[0].current_leader_epoch = before;
    eventually("the old epoch is fenced", LIMIT, async || {
        let data = leader.fetch_at(12, request.clone()).await;
        holds(
            data.error_code == code(ErrorCode::FencedLeaderEpoch),
            format!("{data:?}"),
        )
    })
    .await;
}

async fn reassign(connection: &Connection, topic: &str, replicas: &[i32]) {
    let partition = ReassignablePartition::default()
        .with_partition_index(0)
        .with_replicas(Some(replicas.iter().map(|id| (*id).into()).collect()));
    let topic = ReassignableTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000);
    let response = connection.ask(request).await;
    let result = &response.responses[0].partitions[0];
    assert_eq!(
        (response.error_code, result.error_code),
        (OK, OK),
        "{:?}",
        result.error_message
    );
}

/// Another order of the same replicas, and an election of the now preferred one.
async fn elect_other(connections: &[Connection], topic: &str, replicas: &[i32]) {
    reassign(&connections[0], topic, replicas).await;
    let partitions = TopicPartitions::default()
        .with_topic(topic_name(topic))
        .with_partitions(vec![0]);
    let request = ElectLeadersRequest::default()
        .with_election_type(0)
        .with_topic_partitions(Some(vec![partitions]))
        .with_timeout_ms(10_000);
    eventually("the preferred replica is elected", LIMIT, async || {
        let response = connections[2].ask(request.clone()).await;
        let result = &response.replica_election_results[0].partition_result[0];
        let done = [OK, code(ErrorCode::ElectionNotNeeded)].contains(&result.error_code);
        holds(done, format!("{result:?}"))
    })
    .await;
    for connection in connections {
        leads(connection, topic, replicas[0]).await;
    }
}

/// 88
#[tokio::test]
async fn the_preferred_replica_can_be_elected() {
    let connections = placed("preferred", &[1, 2, 3]).await;
    connections[0].produce("preferred", 0, &batch(&["a"])).await;
    elect_other(&connections, "preferred", &[3, 2, 1]).await;
    let leader = of(&connections, 3);
    eventually("the new leader has the record", LIMIT, async || {
        let data = leader.fetch("preferred", 0, 0).await;
        holds(
            data.error_code == OK && data.high_watermark == 1,
            format!("{data:?}"),
        )
    })
    .await;
    assert_eq!(leader.read_from("preferred", 0, 0).await[0].text(), "a");
    let partition = leader.partition("preferred", 0).await;
    assert_eq!(
        partition.replica_nodes.iter().map(|id| id.0).collect::<Vec<_>>(),
        [3, 2, 1]
    );
}

/// 88
#[tokio::test]
async fn a_partition_moves_with_its_records() {
    let connections = placed("moves", &[1]).await;
    for index in 0..50 {
        connections[0]
            .produce("moves", 0, &batch(&[&index.to_string()]))
            .await;
    }
    reassign(&connections[1], "moves", &[2, 3]).await;
    eventually("the reassignment is done", LIMIT, async || {
        let partition = connections[0].partition("moves", 0).await;
        let replicas: BTreeSet<i32> = partition.replica_nodes.iter().map(|id| id.0).collect();
        let isr: BTreeSet<i32> = partition.isr_nodes.iter().map(|id| id.0).collect();
        let wanted = BTreeSet::from([2, 3]);
        holds(replicas == wanted && isr == wanted, format!("{partition:?}"))
    })
    .await;
    let request = ListPartitionReassignmentsRequest::default()
        .with_topics(None)
        .with_timeout_ms(10_000);
    let ongoing = connections[0].ask(request).await;
    assert!(
        ongoing
            .topics
            .iter()
            .all(|topic| topic.name != topic_name("moves"))
    );
    let leader = connections[0].partition("moves", 0).await.leader_id.0;
    let leader = of(&connections, leader);
    eventually("the new leader has everything", LIMIT, async || {
        let data = leader.fetch("moves", 0, 0).await;
        holds(
            data.error_code == OK && data.high_watermark == 50,
            format!("{data:?}"),
        )
    })
    .await;
    let values: Vec<String> = leader
        .read_from("moves", 0, 0)
        .await
        .iter()
        .map(Seen::text)
        .collect();
    assert_eq!(values, (0..50).map(|index| index.to_string()).collect::<Vec<_>>());
}

/// 87
#[tokio::test]
async fn the_low_watermark_is_that_of_all_replicas() {
    let connections = placed("low", &[2, 3, 1]).await;
    let leader = of(&connections, 2);
    for _ in 0..3 {
        leader.produce("low", 0, &batch(&["a", "b"])).await;
    }
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(0)
        .with_offset(4);
    let topic = DeleteRecordsTopic::default()
        .with_name(topic_name("low"))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(20_000);
    let response = leader.ask(request).await;
    let result = &response.topics[0].partitions[0];
    assert_eq!((result.error_code, result.low_watermark), (OK, 4));
    elect_other(&connections, "low", &[3, 2, 1]).await;
    let next = of(&connections, 3);
    eventually("the next leader starts there too", LIMIT, async || {
        let earliest = next.list_offset("low", 0, -2).await;
        holds(
            earliest.error_code == OK && earliest.offset == 4,
            format!("{earliest:?}"),
        )
    })
    .await;
}

/// 26
#[tokio::test]
async fn no_broker_goes_back_to_older_metadata() {
    let shared = trio().await;
    let admin = shared.connect_to(1).await;
    admin.create_topic("forward", 1, 3, &[]).await;
    let mut seen = [0; 3];
    for total in 2..=6 {
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name("forward"))
            .with_count(total)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(10_000);
        assert_eq!(admin.ask(request).await.results[0].error_code, OK);
        for (id, seen) in shared.ids().into_iter().zip(&mut seen) {
            // A connection of its own each time: another worker may answer.
            let now = shared
                .connect_to(id)
                .await
                .topic("forward")
                .await
                .partitions
                .len();
            assert!(now >= *seen, "node {id} showed {seen} partitions and then {now}");
            *seen = now;
        }
    }
    for id in shared.ids() {
        shared.connect_to(id).await.await_leaders("forward", 6).await;
    }
}

/// 27
#[tokio::test]
async fn the_old_id_of_a_topic_made_anew_is_unknown() {
    let connections = placed("again", &[2, 1, 3]).await;
    let leader = of(&connections, 2);
    leader.produce("again", 0, &batch(&["old"])).await;
    let old = leader.topic("again").await.topic_id;
    assert_eq!(connections[0].delete_topic("again").await, OK);
    for connection in &connections {
        eventually("the topic is gone", LIMIT, async || {
            let topic = connection.topic("again").await;
            holds(
                topic.error_code == code(ErrorCode::UnknownTopicOrPartition),
                format!("{topic:?}"),
            )
        })
        .await;
    }
    let connections = placed("again", &[2, 1, 3]).await;
    let leader = of(&connections, 2);
    let topic = FetchTopic::default()
        .with_topic_id(old)
        .with_partitions(vec![fetch_partition(0, 0)]);
    let request = FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic]);
    let data = leader.fetch_at(13, request).await;
    assert_eq!(data.error_code, code(ErrorCode::UnknownTopicId));
    assert_eq!(leader.produce("again", 0, &batch(&["new"])).await, 0);
    assert_eq!(leader.read_from("again", 0, 0).await.len(), 1);
}

/// Who looks for hanging transactions asks one broker about all that it has replicas of.
#[tokio::test]
async fn every_replica_describes_producers() {
    const TOPIC: &str = "described-producers";
    let connections = placed(TOPIC, &[2, 3, 1]).await;
    let leader = of(&connections, 2);
    let (id, epoch) = leader.producer_id().await;
    // All replicas are in sync at the start, so each has it.
    let sent = leader
        .produce_with(TOPIC, 0, -1, &idempotent(id, epoch, 0, &["a", "b"]))
        .await;
    assert_eq!(sent.error_code, OK);
    let topic = TopicRequest::default()
        .with_name(topic_name(TOPIC))
        .with_partition_indexes(vec![0]);
    let request = DescribeProducersRequest::default().with_topics(vec![topic]);
    for connection in &connections {
        let response = connection.ask(request.clone()).await;
        let described = &response.topics[0].partitions[0];
        assert_eq!(described.error_code, OK);
        let active: Vec<_> = described
            .active_producers
            .iter()
            .map(|producer| (producer.producer_id.0, producer.last_sequence))
            .collect();
        assert_eq!(active, [(id, 1)]);
    }
}
