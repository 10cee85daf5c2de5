//! What the coordinator says: fencing, codes by version, timeouts, lists, its topic.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, ApiVersionsRequest, DescribeConfigsRequest, GroupId, ListTransactionsRequest,
    ProducerId,
};
use odradek_cluster_tests::asks::{OK, code, text};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::shared::single;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;

use crate::producer::{
    ADD_VERSION, LIMIT, Producer, WITH_BUMP, WITHOUT_BUMP, describe, find, id, init, init_request,
};

const OFFSETS_TOPIC: &str = "__consumer_offsets";
const TOPIC: i8 = 2;

async fn node() -> Connection {
    single().await.connect().await
}

async fn with_topic(topic: &str) -> Connection {
    let connection = node().await;
    connection.create_topic(topic, 2, 1, &[]).await;
    connection
}

#[tokio::test]
async fn a_new_cluster_has_version_2() {
    let answer = node()
        .await
        .ask_at(
            4,
            ApiVersionsRequest::default()
                .with_client_software_name(text("tests"))
                .with_client_software_version(text("1")),
        )
        .await;
    let level = |name: &str| {
        let finalized = answer
            .finalized_features
            .iter()
            .find(|feature| feature.name.as_str() == name);
        finalized.map(|feature| feature.max_version_level)
    };
    assert_eq!(level("transaction.version"), Some(2));
}

#[tokio::test]
async fn its_topic_is_kafka_s() {
    let connection = node().await;
    find(&connection, "topic-of-transactions").await;
    let topic = connection.topic("__transaction_state").await;
    assert!(topic.is_internal && topic.partitions.len() == 50);
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text("__transaction_state"));
    let answer = connection
        .ask(DescribeConfigsRequest::default().with_resources(vec![resource]))
        .await;
    let value = |name: &str| {
        let configs = &answer.results[0].configs;
        let config = configs.iter().find(|config| config.name.as_str() == name);
        config.and_then(|config| config.value.as_ref().map(ToString::to_string))
    };
    for (name, expected) in [
        ("cleanup.policy", "compact"),
        ("compression.type", "uncompressed"),
        ("min.insync.replicas", "1"),
        ("segment.bytes", "104857600"),
        ("unclean.leader.election.enable", "false"),
    ] {
        assert_eq!(value(name).as_deref(), Some(expected), "{name}");
    }
}

#[tokio::test]
async fn a_second_producer_fences_the_first() {
    let connection = with_topic("fenced").await;
    let first = Producer::begin(&connection, "fenced").await;
    first.add("fenced", &[0]).await;
    let second = Producer::begin(&connection, "fenced").await;
    assert_eq!(second.id, first.id);
    assert!(second.epoch > first.epoch);
    for (version, error) in [
        (1, ErrorCode::InvalidProducerEpoch),
        (3, ErrorCode::ProducerFenced),
    ] {
        assert_eq!(
            first.try_add(version, "fenced", &[0]).await,
            [code(error)],
            "version {version}"
        );
    }
    for (version, error) in [
        (1, ErrorCode::InvalidProducerEpoch),
        (4, ErrorCode::ProducerFenced),
    ] {
        assert_eq!(
            first.try_end(version, true).await.error_code,
            code(error),
            "version {version}"
        );
    }
    let as_first = init_request("fenced", 60_000)
        .with_producer_id(ProducerId(first.id))
        .with_producer_epoch(first.epoch);
    for (version, error) in [
        (3, ErrorCode::InvalidProducerEpoch),
        (5, ErrorCode::ProducerFenced),
    ] {
        let answer = init(&first.coordinator, version, as_first.clone()).await;
        assert_eq!(answer.error_code, code(error), "version {version}");
        assert_eq!((answer.producer_id.0, answer.producer_epoch), (-1, -1));
    }
    second.add("fenced", &[0]).await;
}

#[tokio::test]
async fn requests_that_cannot_be_are_refused() {
    let connection = with_topic("refused").await;
    let producer = Producer::begin(&connection, "refused").await;
    let unknown = code(ErrorCode::UnknownTopicOrPartition);
    assert_eq!(producer.try_add(ADD_VERSION, "not-there", &[0]).await, [unknown]);
    let not_attempted = code(ErrorCode::OperationNotAttempted);
    assert_eq!(
        producer.try_add(ADD_VERSION, "refused", &[0, 9]).await,
        [not_attempted, unknown]
    );
    let nothing_began = producer.try_end(WITHOUT_BUMP, true).await;
    assert_eq!(nothing_began.error_code, code(ErrorCode::InvalidTxnState));
    let coordinator = &producer.coordinator;
    let too_long = init(coordinator, 5, init_request("refused", 900_001)).await;
    assert_eq!(too_long.error_code, code(ErrorCode::InvalidTransactionTimeout));
    let half = init_request("refused", 60_000).with_producer_id(ProducerId(producer.id));
    assert_eq!(
        init(coordinator, 5, half).await.error_code,
        code(ErrorCode::InvalidRequest)
    );
}

#[tokio::test]
async fn every_end_of_version_2_brings_the_next_epoch() {
    let connection = with_topic("bumped").await;
    let mut producer = Producer::begin(&connection, "bumped").await;
    let first = producer.epoch;
    for round in 1..=3 {
        producer.add("bumped", &[0, 1]).await;
        let epoch = producer.epoch;
        producer.end(WITH_BUMP, round % 2 == 0).await;
        assert_eq!(producer.epoch, epoch + 1);
    }
    assert_eq!(producer.epoch, first + 3);
    producer.is_in("CompleteAbort").await;
    let nothing = producer.try_end(WITH_BUMP, false).await;
    assert_eq!(
        (nothing.error_code, nothing.producer_epoch),
        (OK, producer.epoch + 1),
        "an abort of nothing"
    );
}

#[tokio::test]
async fn a_transaction_that_is_left_open_ends_with_its_timeout() {
    let connection = with_topic("left-open").await;
    let producer = Producer::begin_with(&connection, "left-open", 1_000).await;
    producer.add("left-open", &[0]).await;
    let ended = producer.is_in("CompleteAbort").await;
    assert_eq!(ended.producer_epoch, producer.epoch + 1);
    let late = producer.try_end(WITHOUT_BUMP, true).await;
    assert_eq!(late.error_code, code(ErrorCode::ProducerFenced));
}

#[tokio::test]
async fn offsets_belong_to_a_transaction_by_their_partition() {
    let connection = with_topic("offsets").await;
    connection
        .ask_at(
            4,
            kafka_protocol::messages::FindCoordinatorRequest::default()
                .with_coordinator_keys(vec![text("readers")]),
        )
        .await;
    let producer = Producer::begin(&connection, "offsets").await;
    let request = AddOffsetsToTxnRequest::default()
        .with_transactional_id(id("offsets"))
        .with_producer_id(ProducerId(producer.id))
        .with_producer_epoch(producer.epoch)
        .with_group_id(GroupId(text("readers")));
    eventually("offsets are added", LIMIT, async || {
        let answer = producer.coordinator.ask_at(3, request.clone()).await;
        holds(answer.error_code == OK, format!("{answer:?}"))
    })
    .await;
    let described = describe(&producer.coordinator, "offsets").await;
    assert_eq!(described.transaction_state.as_str(), "Ongoing");
    assert_eq!(described.topics[0].topic.0.as_str(), OFFSETS_TOPIC);
    assert_eq!(described.topics[0].partitions.len(), 1);
}

#[tokio::test]
async fn transactions_are_listed_and_described() {
    let connection = with_topic("listed").await;
    let producer = Producer::begin(&connection, "listed-open").await;
    producer.add("listed", &[1]).await;
    Producer::begin(&connection, "listed-idle").await;
    let described = describe(&producer.coordinator, "listed-open").await;
    assert_eq!(
        (described.producer_id.0, described.producer_epoch),
        (producer.id, producer.epoch)
    );
    assert_eq!(
        (
            described.transaction_timeout_ms,
            described.topics[0].partitions.as_slice()
        ),
        (60_000, &[1][..])
    );
    let unknown = describe(&producer.coordinator, "listed-never").await;
    assert_eq!(unknown.error_code, code(ErrorCode::TransactionalIdNotFound));

    let pattern = ListTransactionsRequest::default()
        .with_duration_filter(-1)
        .with_transactional_id_pattern(Some(text("listed-.*")));
    let list = async |request: ListTransactionsRequest| {
        let answer = connection.ask_at(2, request).await;
        assert_eq!(answer.error_code, OK);
        let mut listed: Vec<_> = answer
            .transaction_states
            .iter()
            .map(|listed| format!("{} {}", listed.transactional_id.0, listed.transaction_state))
            .collect();
        listed.sort();
        listed
    };
    assert_eq!(
        list(pattern.clone()).await,
        ["listed-idle Empty", "listed-open Ongoing"]
    );
    let ongoing = pattern.clone().with_state_filters(vec![text("Ongoing")]);
    assert_eq!(list(ongoing).await, ["listed-open Ongoing"]);
    let of_producer = pattern
        .clone()
        .with_producer_id_filters(vec![ProducerId(producer.id)]);
    assert_eq!(list(of_producer).await, ["listed-open Ongoing"]);
    let bad = pattern.with_transactional_id_pattern(Some(text("(")));
    let refused = connection.ask_at(2, bad).await;
    assert_eq!(refused.error_code, code(ErrorCode::InvalidRegularExpression));
}
