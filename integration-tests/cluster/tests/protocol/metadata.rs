//! Metadata, DescribeCluster and DescribeTopicPartitions.

use std::time::Duration;

use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{DescribeClusterRequest, DescribeTopicPartitionsRequest, MetadataRequest};
use odradek_cluster_tests::asks::{OK, code, creatable, text, topic_name};
use odradek_cluster_tests::cluster::{TestCluster, free_port};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::shared::single;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(15);
/// "Not asked for."
const NO_OPERATIONS: i32 = i32::MIN;
/// What Kafka without an authorizer allows everybody: one bit for each operation.
const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;
const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;

fn by_name(name: &str) -> MetadataRequest {
    let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    MetadataRequest::default().with_topics(Some(vec![topic]))
}

fn by_id(id: Uuid) -> MetadataRequest {
    let topic = MetadataRequestTopic::default().with_name(None).with_topic_id(id);
    MetadataRequest::default()
        .with_topics(Some(vec![topic]))
        .with_allow_auto_topic_creation(false)
}

/// 17
#[tokio::test]
async fn version_0_takes_empty_as_all_and_later_ones_take_null() {
    let connection = single().await.connect().await;
    connection.create_topic("metadata-all", 1, 1, &[]).await;
    let empty = MetadataRequest::default().with_topics(Some(Vec::new()));
    let has = |response: &kafka_protocol::messages::MetadataResponse| {
        response
            .topics
            .iter()
            .any(|topic| topic.name == Some(topic_name("metadata-all")))
    };
    assert!(has(&connection.ask_at(0, empty.clone()).await));
    for version in [1, 9, 12] {
        assert!(
            connection.ask_at(version, empty.clone()).await.topics.is_empty(),
            "version {version}"
        );
        let all = connection
            .ask_at(version, MetadataRequest::default().with_topics(None))
            .await;
        assert!(has(&all), "version {version}");
    }
}

/// 18
#[tokio::test]
async fn the_controller_is_a_broker_that_clients_can_reach() {
    let connection = single().await.connect().await;
    let metadata = connection.metadata(Some(&[])).await;
    assert!(
        metadata
            .brokers
            .iter()
            .any(|broker| broker.node_id == metadata.controller_id)
    );
    let cluster = connection.ask(DescribeClusterRequest::default()).await;
    assert_eq!(cluster.error_code, OK);
    assert!(
        cluster
            .brokers
            .iter()
            .any(|broker| broker.broker_id == cluster.controller_id)
    );
    assert_eq!(Some(cluster.cluster_id), metadata.cluster_id);
}

/// 19
#[tokio::test]
async fn a_topic_is_found_by_its_id_and_an_unknown_id_is_named_so() {
    let connection = single().await.connect().await;
    connection.create_topic("metadata-id", 2, 1, &[]).await;
    let id = connection.topic("metadata-id").await.topic_id;
    let found = connection.ask_at(12, by_id(id)).await;
    assert_eq!(found.topics[0].name, Some(topic_name("metadata-id")));
    assert_eq!(found.topics[0].partitions.len(), 2);
    let unknown = connection.ask_at(12, by_id(Uuid::from_u128(42))).await;
    assert_eq!(unknown.topics[0].error_code, code(ErrorCode::UnknownTopicId));
    assert_eq!(unknown.topics[0].name, None);
}

/// 19
#[tokio::test]
async fn ids_before_version_12_are_invalid() {
    let connection = single().await.connect().await;
    for version in [10, 11] {
        let answer = connection.ask_at(version, by_id(Uuid::from_u128(42))).await;
        assert_eq!(
            answer.topics[0].error_code,
            code(ErrorCode::InvalidRequest),
            "version {version}"
        );
    }
}

/// 23
#[tokio::test]
async fn brokers_are_shown_as_the_listener_advertises_them() {
    let other = free_port();
    let cluster = TestCluster::prepare(1, &[]);
    let node = cluster.node(1);
    let properties = std::fs::read_to_string(node.properties()).unwrap();
    let listeners = format!("PLAINTEXT://127.0.0.1:{},CONTROLLER", node.port);
    let both = format!(
        "PLAINTEXT://127.0.0.1:{},OTHER://127.0.0.1:{other},CONTROLLER",
        node.port
    );
    let advertised = format!(
        "advertised.listeners=PLAINTEXT://127.0.0.1:{},OTHER://localhost:{other}\ninter.broker.listener.name=PLAINTEXT\n",
        node.port
    );
    let protocols = "PLAINTEXT:PLAINTEXT,OTHER:PLAINTEXT,CONTROLLER:PLAINTEXT";
    let properties = properties
        .replace(&listeners, &both)
        .replace("PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT", protocols);
    std::fs::write(node.properties(), properties + &advertised).unwrap();
    node.start().await;
    for (address, host, port) in [
        (node.address(), "127.0.0.1", node.port),
        (format!("localhost:{other}"), "localhost", other),
    ] {
        let connection = Connection::open(&address).await;
        let brokers = connection.metadata(Some(&[])).await.brokers;
        assert_eq!(brokers.len(), 1);
        assert_eq!(
            (brokers[0].host.as_str(), brokers[0].port),
            (host, i32::from(port))
        );
        let brokers = connection.ask(DescribeClusterRequest::default()).await.brokers;
        assert_eq!(
            (brokers[0].host.as_str(), brokers[0].port),
            (host, i32::from(port))
        );
    }
}

/// Also of one that nobody has needed yet: Kafka goes by the name.
#[tokio::test]
async fn an_internal_topic_is_told_to_be_one_before_it_exists() {
    let connection = single().await.connect().await;
    // What share groups need is not in this version, so that nothing creates it here.
    let request = by_name("__share_group_state").with_allow_auto_topic_creation(false);
    let topic = &connection.ask_at(12, request).await.topics[0];
    assert_eq!(topic.error_code, code(ErrorCode::UnknownTopicOrPartition));
    assert!(topic.is_internal);
}

/// 24
#[tokio::test]
async fn a_named_topic_is_created_on_request_only() {
    let connection = single().await.connect().await;
    let not_asked = by_name("metadata-auto").with_allow_auto_topic_creation(false);
    for _ in 0..2 {
        let answer = connection.ask_at(12, not_asked.clone()).await;
        assert_eq!(
            answer.topics[0].error_code,
            code(ErrorCode::UnknownTopicOrPartition)
        );
    }
    // Whoever has deleted a topic and looks whether it is gone is not told that it is there (kafka-go does).
    let first = &connection.ask_at(12, by_name("metadata-auto")).await.topics[0];
    assert_eq!(first.error_code, code(ErrorCode::UnknownTopicOrPartition));
    assert!(first.partitions.is_empty());
    eventually("the topic is there", LIMIT, async || {
        let error_code = connection.ask_at(12, not_asked.clone()).await.topics[0].error_code;
        holds(error_code == OK, error_code.to_string())
    })
    .await;
}

/// 24
#[tokio::test]
async fn a_topic_whose_name_is_not_allowed_is_invalid() {
    let connection = single().await.connect().await;
    for name in ["no spaces", "no/slash", "..", &"x".repeat(250)] {
        let answer = connection.ask_at(12, by_name(name)).await;
        assert_eq!(
            answer.topics[0].error_code,
            code(ErrorCode::InvalidTopicException),
            "{name}"
        );
    }
}

/// 25
#[tokio::test]
async fn authorized_operations_are_given_to_those_who_ask() {
    let connection = single().await.connect().await;
    connection.create_topic("metadata-operations", 1, 1, &[]).await;
    let request = by_name("metadata-operations");
    let plain = connection.ask_at(10, request.clone()).await;
    assert_eq!(plain.cluster_authorized_operations, NO_OPERATIONS);
    assert_eq!(plain.topics[0].topic_authorized_operations, NO_OPERATIONS);
    let asked = request
        .with_include_cluster_authorized_operations(true)
        .with_include_topic_authorized_operations(true);
    let asked = connection.ask_at(10, asked).await;
    assert_eq!(asked.cluster_authorized_operations, CLUSTER_OPERATIONS);
    assert_eq!(asked.topics[0].topic_authorized_operations, TOPIC_OPERATIONS);
    let cluster = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
    assert_eq!(
        connection.ask(cluster).await.cluster_authorized_operations,
        CLUSTER_OPERATIONS
    );
    let topic = TopicRequest::default().with_name(topic_name("metadata-operations"));
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(vec![topic])
        .with_response_partition_limit(9);
    assert_eq!(
        connection.ask(request).await.topics[0].topic_authorized_operations,
        TOPIC_OPERATIONS
    );
}

/// 27
#[tokio::test]
async fn a_topic_made_anew_has_another_id() {
    let connection = single().await.connect().await;
    connection.create_topic("metadata-anew", 1, 1, &[]).await;
    let before = connection.topic("metadata-anew").await.topic_id;
    assert_eq!(connection.delete_topic("metadata-anew").await, OK);
    eventually("the topic is gone", LIMIT, async || {
        let error_code = connection.topic("metadata-anew").await.error_code;
        holds(
            error_code == code(ErrorCode::UnknownTopicOrPartition),
            error_code.to_string(),
        )
    })
    .await;
    connection.create_topic("metadata-anew", 1, 1, &[]).await;
    let after = connection.topic("metadata-anew").await.topic_id;
    assert!(!after.is_nil() && after != before);
}

/// 31
#[tokio::test]
async fn topic_partitions_come_in_pages_in_the_order_of_names() {
    let connection = single().await.connect().await;
    for (name, partitions) in [("pages-b", 3), ("pages-a", 2)] {
        connection.create_topic(name, partitions, 1, &[]).await;
    }
    let topics = ["pages-b", "pages-a", "pages-none"];
    let topics: Vec<_> = topics
        .map(|name| TopicRequest::default().with_name(topic_name(name)))
        .into();
    let mut cursor = None;
    let mut seen = Vec::new();
    for _ in 0..10 {
        let request = DescribeTopicPartitionsRequest::default()
            .with_topics(topics.clone())
            .with_response_partition_limit(2)
            .with_cursor(cursor.take());
        let response = connection.ask_at(0, request).await;
        let mut in_page = 0;
        for topic in &response.topics {
            in_page += topic.partitions.len();
            let name = topic.name.clone().unwrap().to_string();
            if topic.partitions.is_empty() && topic.error_code != OK {
                seen.push((name.clone(), -i32::from(topic.error_code)));
            }
            seen.extend(
                topic
                    .partitions
                    .iter()
                    .map(|partition| (name.clone(), partition.partition_index)),
            );
        }
        assert!(in_page <= 2);
        let Some(next) = response.next_cursor else { break };
        let at = Cursor::default()
            .with_topic_name(next.topic_name)
            .with_partition_index(next.partition_index);
        cursor = Some(at);
    }
    let unknown = -i32::from(code(ErrorCode::UnknownTopicOrPartition));
    let expected = [
        ("pages-a", 0),
        ("pages-a", 1),
        ("pages-b", 0),
        ("pages-b", 1),
        ("pages-b", 2),
        ("pages-none", unknown),
    ];
    assert_eq!(seen, expected.map(|(name, index)| (name.to_owned(), index)));
}

/// 89
#[tokio::test]
async fn a_broker_asked_for_controllers_names_the_mismatch() {
    let connection = single().await.connect().await;
    let answer = connection
        .ask_at(1, DescribeClusterRequest::default().with_endpoint_type(2))
        .await;
    assert_eq!(answer.error_code, code(ErrorCode::MismatchedEndpointType));
    assert_eq!(
        connection
            .ask_at(1, DescribeClusterRequest::default().with_endpoint_type(1))
            .await
            .error_code,
        OK
    );
}

/// 26
#[tokio::test]
async fn metadata_never_goes_back() {
    let connection = single().await.connect().await;
    let other = single().await.connect().await;
    connection.create_topic("metadata-forward", 1, 1, &[]).await;
    for total in 2..=8 {
        let request = crate::topics::partitions_request("metadata-forward", total, false);
        assert_eq!(connection.ask(request).await.results[0].error_code, OK);
        let seen = connection.topic("metadata-forward").await.partitions.len();
        let later = other.topic("metadata-forward").await.partitions.len();
        assert!(later >= seen, "{later} partitions after {seen} had been seen");
    }
    other.await_leaders("metadata-forward", 8).await;
}

/// 29
#[tokio::test]
async fn a_topic_can_be_seen_as_soon_as_its_creation_is_answered() {
    let connection = single().await.connect().await;
    for index in 0..20 {
        let name = format!("metadata-soon-{index}");
        assert_eq!(
            connection
                .try_create(creatable(&name, 1, 1, &[]))
                .await
                .error_code,
            OK
        );
        connection.await_leaders(&name, 1).await;
    }
    let names: Vec<_> = connection
        .metadata(None)
        .await
        .topics
        .into_iter()
        .filter_map(|topic| topic.name)
        .collect();
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with(text("metadata-soon-").as_str()))
            .count(),
        20
    );
}
