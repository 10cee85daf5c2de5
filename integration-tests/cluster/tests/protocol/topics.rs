//! CreateTopics, DeleteTopics, CreatePartitions.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest};
use odradek_cluster_tests::asks::{OK, code, creatable, text, topic_name};
use odradek_cluster_tests::shared::single;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(15);

/// CreatePartitions for one topic.
pub fn partitions_request(name: &str, total: i32, validate_only: bool) -> CreatePartitionsRequest {
    let topic = CreatePartitionsTopic::default()
        .with_name(topic_name(name))
        .with_count(total)
        .with_assignments(None);
    CreatePartitionsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000)
        .with_validate_only(validate_only)
}

fn delete(state: DeleteTopicState) -> DeleteTopicsRequest {
    DeleteTopicsRequest::default()
        .with_topics(vec![state])
        .with_timeout_ms(10_000)
}

/// 28
#[tokio::test]
async fn minus_one_takes_the_brokers_defaults_and_the_answer_shows_them() {
    let connection = single().await.connect().await;
    let result = connection
        .try_create(creatable(
            "topics-defaults",
            -1,
            -1,
            &[("retention.ms", "1234567")],
        ))
        .await;
    assert_eq!(result.error_code, OK, "{:?}", result.error_message);
    assert_eq!((result.num_partitions, result.replication_factor), (1, 1));
    assert_eq!(result.topic_config_error_code, OK);
    assert!(!result.topic_id.is_nil());
    let configs: BTreeMap<String, (Option<String>, i8)> = result
        .configs
        .expect("version 5 shows the configuration")
        .iter()
        .map(|it| {
            (
                it.name.to_string(),
                (it.value.as_ref().map(ToString::to_string), it.config_source),
            )
        })
        .collect();
    assert_eq!(configs["retention.ms"], (Some("1234567".to_owned()), 1));
    assert_eq!(configs["cleanup.policy"], (Some("delete".to_owned()), 5));
    connection.await_leaders("topics-defaults", 1).await;
    assert_eq!(
        connection.topic("topics-defaults").await.topic_id,
        result.topic_id
    );
}

/// 28
#[tokio::test]
async fn what_is_wrong_with_a_topic_is_named_by_its_error() {
    let connection = single().await.connect().await;
    connection.create_topic("topics.there", 1, 1, &[]).await;
    let refused = [
        (
            creatable("topics.there", 1, 1, &[]),
            ErrorCode::TopicAlreadyExists,
        ),
        (
            creatable("topics_there", 1, 1, &[]),
            ErrorCode::InvalidTopicException,
        ),
        (
            creatable("topics there", 1, 1, &[]),
            ErrorCode::InvalidTopicException,
        ),
        (creatable("", 1, 1, &[]), ErrorCode::InvalidTopicException),
        (creatable("topics-zero", 0, 1, &[]), ErrorCode::InvalidPartitions),
        (
            creatable("topics-replicas", 1, 2, &[]),
            ErrorCode::InvalidReplicationFactor,
        ),
        (
            creatable("topics-none", 1, 0, &[]),
            ErrorCode::InvalidReplicationFactor,
        ),
        (
            creatable("topics-config", 1, 1, &[("retention.ms", "soon")]),
            ErrorCode::InvalidConfig,
        ),
        (
            creatable("topics-config", 1, 1, &[("no.such.key", "1")]),
            ErrorCode::InvalidConfig,
        ),
    ];
    for (topic, error) in refused {
        for validate_only in [true, false] {
            let request = CreateTopicsRequest::default()
                .with_topics(vec![topic.clone()])
                .with_timeout_ms(10_000)
                .with_validate_only(validate_only);
            let result = &connection.ask(request).await.topics[0];
            assert_eq!(
                result.error_code,
                code(error),
                "{topic:?}: {:?}",
                result.error_message
            );
            assert!(result.error_message.is_some(), "{topic:?}");
        }
    }
}

/// 28
#[tokio::test]
async fn validate_only_creates_nothing() {
    let connection = single().await.connect().await;
    let request = CreateTopicsRequest::default()
        .with_topics(vec![creatable("topics-validated", 3, 1, &[])])
        .with_timeout_ms(10_000)
        .with_validate_only(true);
    let result = &connection.ask(request).await.topics[0];
    assert_eq!((result.error_code, result.num_partitions), (OK, 3));
    connection.create_topic("topics-validated-after", 1, 1, &[]).await;
    assert_eq!(
        connection.topic("topics-validated").await.error_code,
        code(ErrorCode::UnknownTopicOrPartition)
    );
}

/// 28
#[tokio::test]
async fn a_topic_named_twice_is_refused_both_times() {
    let connection = single().await.connect().await;
    let twice = vec![
        creatable("topics-twice", 1, 1, &[]),
        creatable("topics-twice", 2, 1, &[]),
    ];
    let request = CreateTopicsRequest::default()
        .with_topics(twice)
        .with_timeout_ms(10_000);
    let response = connection.ask(request).await;
    assert!(!response.topics.is_empty());
    assert!(
        response
            .topics
            .iter()
            .all(|topic| topic.error_code == code(ErrorCode::InvalidRequest)),
        "{response:?}"
    );
}

/// 28
#[tokio::test]
async fn replicas_can_be_assigned_by_hand() {
    let connection = single().await.connect().await;
    let assign = |partition, brokers: &[i32]| {
        CreatableReplicaAssignment::default()
            .with_partition_index(partition)
            .with_broker_ids(brokers.iter().map(|id| (*id).into()).collect())
    };
    let own = connection.metadata(Some(&[])).await.brokers[0].node_id.0;
    let good = creatable("topics-assigned", -1, -1, &[])
        .with_assignments(vec![assign(0, &[own]), assign(1, &[own])]);
    assert_eq!(connection.try_create(good).await.error_code, OK);
    connection.await_leaders("topics-assigned", 2).await;
    let bad = creatable("topics-assigned-bad", -1, -1, &[]);
    for assignment in [
        vec![assign(0, &[98])],
        vec![assign(0, &[own, own])],
        vec![assign(1, &[own])],
    ] {
        let result = connection
            .try_create(bad.clone().with_assignments(assignment))
            .await;
        assert_eq!(
            result.error_code,
            code(ErrorCode::InvalidReplicaAssignment),
            "{:?}",
            result.error_message
        );
    }
}

/// 30
#[tokio::test]
async fn a_topic_is_deleted_by_its_name_or_by_its_id() {
    let connection = single().await.connect().await;
    for name in ["topics-gone-1", "topics-gone-2"] {
        connection.create_topic(name, 1, 1, &[]).await;
    }
    let id = connection.topic("topics-gone-2").await.topic_id;
    let by_name = connection.ask_at(
        6,
        delete(DeleteTopicState::default().with_name(Some(topic_name("topics-gone-1")))),
    );
    assert_eq!(by_name.await.responses[0].error_code, OK);
    let by_id = connection
        .ask_at(
            6,
            delete(DeleteTopicState::default().with_name(None).with_topic_id(id)),
        )
        .await;
    assert_eq!(by_id.responses[0].error_code, OK);
    assert_eq!(by_id.responses[0].name, Some(topic_name("topics-gone-2")));
    for name in ["topics-gone-1", "topics-gone-2"] {
        eventually("the topic is gone", LIMIT, async || {
            let error_code = connection.topic(name).await.error_code;
            holds(
                error_code == code(ErrorCode::UnknownTopicOrPartition),
                error_code.to_string(),
            )
        })
        .await;
    }
}

/// 30
#[tokio::test]
async fn deleting_needs_either_a_name_or_an_id_of_something_that_is_there() {
    let connection = single().await.connect().await;
    connection.create_topic("topics-stays", 1, 1, &[]).await;
    let id = connection.topic("topics-stays").await.topic_id;
    let both = DeleteTopicState::default()
        .with_name(Some(topic_name("topics-stays")))
        .with_topic_id(id);
    let unknown_name = DeleteTopicState::default().with_name(Some(topic_name("topics-never")));
    let unknown_id = DeleteTopicState::default()
        .with_name(None)
        .with_topic_id(Uuid::from_u128(42));
    for (state, error) in [
        (both, ErrorCode::InvalidRequest),
        (unknown_name, ErrorCode::UnknownTopicOrPartition),
        (unknown_id, ErrorCode::UnknownTopicId),
    ] {
        assert_eq!(
            connection.ask_at(6, delete(state)).await.responses[0].error_code,
            code(error)
        );
    }
    assert_eq!(connection.topic("topics-stays").await.error_code, OK);
}

/// 32
#[tokio::test]
async fn more_partitions_have_one_result_for_each_topic() {
    let connection = single().await.connect().await;
    for name in ["topics-grow-1", "topics-grow-2"] {
        connection.create_topic(name, 1, 1, &[]).await;
    }
    let mut request = partitions_request("topics-grow-1", 3, false);
    request
        .topics
        .extend(partitions_request("topics-grow-2", 2, false).topics);
    request
        .topics
        .extend(partitions_request("topics-grow-none", 2, false).topics);
    let response = connection.ask(request).await;
    let results: BTreeMap<String, i16> = response
        .results
        .iter()
        .map(|result| (result.name.to_string(), result.error_code))
        .collect();
    let expected = [
        ("topics-grow-1", OK),
        ("topics-grow-2", OK),
        ("topics-grow-none", code(ErrorCode::UnknownTopicOrPartition)),
    ];
    assert_eq!(
        results,
        expected.map(|(name, error)| (name.to_owned(), error)).into()
    );
    connection.await_leaders("topics-grow-1", 3).await;
    connection.await_leaders("topics-grow-2", 2).await;
}

/// 32
#[tokio::test]
async fn partitions_never_become_fewer() {
    let connection = single().await.connect().await;
    connection.create_topic("topics-shrink", 2, 1, &[]).await;
    for total in [2, 1, 0, -1] {
        let result = &connection
            .ask(partitions_request("topics-shrink", total, false))
            .await
            .results[0];
        assert_eq!(
            result.error_code,
            code(ErrorCode::InvalidPartitions),
            "{total}: {:?}",
            result.error_message
        );
    }
    let validated = &connection
        .ask(partitions_request("topics-shrink", 5, true))
        .await
        .results[0];
    assert_eq!(validated.error_code, OK);
    let nowhere = CreatePartitionsAssignment::default().with_broker_ids(vec![98.into()]);
    let mut assigned = partitions_request("topics-shrink", 3, false);
    assigned.topics[0].assignments = Some(vec![nowhere]);
    let result = &connection.ask(assigned).await.results[0];
    assert_eq!(
        result.error_code,
        code(ErrorCode::InvalidReplicaAssignment),
        "{:?}",
        result.error_message
    );
    assert_eq!(connection.topic("topics-shrink").await.partitions.len(), 2);
}

/// A deleted topic's records do not come back with its name.
#[tokio::test]
async fn a_topic_made_anew_is_empty() {
    let connection = single().await.connect().await;
    connection.create_topic("topics-anew", 1, 1, &[]).await;
    connection
        .produce("topics-anew", 0, &odradek_cluster_tests::records::batch(&["old"]))
        .await;
    assert_eq!(connection.delete_topic("topics-anew").await, OK);
    eventually("the name is free", LIMIT, async || {
        let result = connection.try_create(creatable("topics-anew", 1, 1, &[])).await;
        holds(result.error_code == OK, format!("{:?}", result.error_message))
    })
    .await;
    connection.await_leaders("topics-anew", 1).await;
    eventually("the new topic can be read", LIMIT, async || {
        let data = connection.fetch("topics-anew", 0, 0).await;
        holds(
            data.error_code == OK && data.high_watermark == 0,
            format!("{data:?}"),
        )
    })
    .await;
    assert_eq!(
        connection
            .produce("topics-anew", 0, &odradek_cluster_tests::records::batch(&["new"]))
            .await,
        0
    );
    assert_eq!(
        connection.read_from("topics-anew", 0, 0).await[0].text(),
        text("new").to_string()
    );
}
