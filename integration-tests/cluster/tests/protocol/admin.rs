//! Leader elections, reassignments, DeleteRecords, the quorum, log directories, features, ACLs.

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, CreateAclsRequest, DeleteAclsRequest, DeleteRecordsRequest,
    DescribeAclsRequest, DescribeLogDirsRequest, DescribeQuorumRequest, ElectLeadersRequest,
    ListPartitionReassignmentsRequest, UnregisterBrokerRequest, UpdateFeaturesRequest,
};
use odradek_cluster_tests::asks::{OK, code, text, topic_name};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records::{Seen, batch};
use odradek_cluster_tests::shared::single;
use odradek_common::error::ErrorCode;

async fn with_topic(name: &str, partitions: i32) -> Connection {
    let connection = single().await.connect().await;
    connection.create_topic(name, partitions, 1, &[]).await;
    connection
}

fn election(kind: i8, topic: &str, partition: i32) -> ElectLeadersRequest {
    let partitions = TopicPartitions::default()
        .with_topic(topic_name(topic))
        .with_partitions(vec![partition]);
    ElectLeadersRequest::default()
        .with_election_type(kind)
        .with_topic_partitions(Some(vec![partitions]))
        .with_timeout_ms(10_000)
}

/// 88
#[tokio::test]
async fn an_election_that_changes_nothing_is_not_needed() {
    let connection = with_topic("admin-elect", 1).await;
    for kind in [0, 1] {
        let response = connection.ask(election(kind, "admin-elect", 0)).await;
        assert_eq!(response.error_code, OK);
        let result = &response.replica_election_results[0].partition_result[0];
        assert_eq!(
            result.error_code,
            code(ErrorCode::ElectionNotNeeded),
            "{:?}",
            result.error_message
        );
    }
    let response = connection.ask(election(0, "admin-elect", 9)).await;
    let result = &response.replica_election_results[0].partition_result[0];
    assert_eq!(result.error_code, code(ErrorCode::UnknownTopicOrPartition));
    // All partitions.
    let all = ElectLeadersRequest::default()
        .with_topic_partitions(None)
        .with_timeout_ms(10_000);
    let response = connection.ask(all).await;
    assert_eq!(response.error_code, OK);
    let results = response
        .replica_election_results
        .iter()
        .flat_map(|topic| &topic.partition_result);
    let expected = [OK, code(ErrorCode::ElectionNotNeeded)];
    assert!(
        results
            .map(|result| result.error_code)
            .all(|error| expected.contains(&error))
    );
}

fn reassignment(topic: &str, partition: i32, replicas: Option<&[i32]>) -> AlterPartitionReassignmentsRequest {
    let partition = ReassignablePartition::default()
        .with_partition_index(partition)
        .with_replicas(replicas.map(|ids| ids.iter().map(|id| (*id).into()).collect()));
    let topic = ReassignableTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    AlterPartitionReassignmentsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000)
}

/// 88
#[tokio::test]
async fn a_reassignment_is_checked_before_it_begins() {
    let connection = with_topic("admin-reassign", 1).await;
    let own = connection.metadata(Some(&[])).await.brokers[0].node_id.0;
    for (topic, partition, replicas, error) in [
        ("admin-reassign", 0, None, ErrorCode::NoReassignmentInProgress),
        (
            "admin-reassign",
            0,
            Some(&[98][..]),
            ErrorCode::InvalidReplicaAssignment,
        ),
        (
            "admin-reassign",
            0,
            Some(&[own, own]),
            ErrorCode::InvalidReplicaAssignment,
        ),
        (
            "admin-reassign",
            0,
            Some(&[]),
            ErrorCode::InvalidReplicaAssignment,
        ),
        (
            "admin-reassign",
            5,
            Some(&[own]),
            ErrorCode::UnknownTopicOrPartition,
        ),
        ("admin-never", 0, Some(&[own]), ErrorCode::UnknownTopicOrPartition),
    ] {
        let response = connection.ask(reassignment(topic, partition, replicas)).await;
        let result = &response.responses[0].partitions[0];
        assert_eq!(
            result.error_code,
            code(error),
            "{replicas:?}: {:?}",
            result.error_message
        );
    }
    let response = connection
        .ask(reassignment("admin-reassign", 0, Some(&[own])))
        .await;
    assert_eq!(response.responses[0].partitions[0].error_code, OK);
    let topic = ListPartitionReassignmentsTopics::default()
        .with_name(topic_name("admin-reassign"))
        .with_partition_indexes(vec![0]);
    for topics in [None, Some(vec![topic])] {
        let request = ListPartitionReassignmentsRequest::default()
            .with_topics(topics)
            .with_timeout_ms(10_000);
        let listed = connection.ask(request).await;
        assert_eq!((listed.error_code, listed.topics.len()), (OK, 0));
    }
}

fn deletion(topic: &str, partition: i32, offset: i64) -> DeleteRecordsRequest {
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(partition)
        .with_offset(offset);
    let topic = DeleteRecordsTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    DeleteRecordsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000)
}

/// 87
#[tokio::test]
async fn records_are_deleted_up_to_an_offset() {
    let connection = with_topic("admin-delete", 1).await;
    for value in ["0", "1", "2", "3"] {
        connection.produce("admin-delete", 0, &batch(&[value])).await;
    }
    let delete = async |partition, offset| {
        let response = connection.ask(deletion("admin-delete", partition, offset)).await;
        let result = &response.topics[0].partitions[0];
        (result.error_code, result.low_watermark)
    };
    assert_eq!(delete(0, 2).await, (OK, 2));
    let values: Vec<_> = connection
        .read_from("admin-delete", 0, 2)
        .await
        .iter()
        .map(Seen::text)
        .collect();
    assert_eq!(values, ["2", "3"]);
    let before = connection.fetch("admin-delete", 0, 1).await;
    assert_eq!(before.error_code, code(ErrorCode::OffsetOutOfRange));
    assert_eq!(connection.list_offset("admin-delete", 0, -2).await.offset, 2);
    assert_eq!(delete(0, 5).await, (code(ErrorCode::OffsetOutOfRange), -1));
    assert_eq!(delete(9, 1).await, (code(ErrorCode::UnknownTopicOrPartition), -1));
    // Further back than the start already is.
    assert_eq!(delete(0, 1).await, (OK, 2));
    // To the high watermark.
    assert_eq!(delete(0, -1).await, (OK, 4));
    assert_eq!(connection.list_offset("admin-delete", 0, -2).await.offset, 4);
    assert_eq!(connection.produce("admin-delete", 0, &batch(&["4"])).await, 4);
}

/// What kafka-metadata-quorum shows.
#[tokio::test]
async fn the_quorum_is_described() {
    let connection = single().await.connect().await;
    let topic = TopicData::default()
        .with_topic_name(topic_name("__cluster_metadata"))
        .with_partitions(vec![PartitionData::default().with_partition_index(0)]);
    for version in 0..=2 {
        let request = DescribeQuorumRequest::default().with_topics(vec![topic.clone()]);
        let response = connection.ask_at(version, request).await;
        assert_eq!(response.error_code, OK);
        let partition = &response.topics[0].partitions[0];
        assert_eq!(partition.error_code, OK);
        assert!(partition.leader_id.0 >= 0 && partition.leader_epoch > 0 && partition.high_watermark > 0);
        assert_eq!(partition.current_voters.len(), 1);
        assert_eq!(partition.current_voters[0].replica_id, partition.leader_id);
        assert!(partition.current_voters[0].log_end_offset >= partition.high_watermark);
        if version >= 1 {
            let leader = &partition.current_voters[0];
            assert!(leader.last_fetch_timestamp > 0 && leader.last_caught_up_timestamp > 0);
        }
        if version >= 2 {
            assert_eq!(response.nodes[0].node_id, partition.leader_id);
            assert!(response.nodes[0].listeners[0].port > 0);
        }
    }
    let unknown = TopicData::default()
        .with_topic_name(topic_name("admin-never"))
        .with_partitions(vec![PartitionData::default()]);
    let response = connection
        .ask(DescribeQuorumRequest::default().with_topics(vec![unknown]))
        .await;
    assert_eq!(
        response.topics[0].partitions[0].error_code,
        code(ErrorCode::UnknownTopicOrPartition)
    );
}

/// What kafka-log-dirs shows.
#[tokio::test]
async fn log_directories_are_described() {
    let connection = with_topic("admin-dirs", 2).await;
    connection
        .produce("admin-dirs", 1, &batch(&[&"x".repeat(1000)]))
        .await;
    let topic = DescribableLogDirTopic::default()
        .with_topic(topic_name("admin-dirs"))
        .with_partitions(vec![0, 1]);
    let response = connection
        .ask(DescribeLogDirsRequest::default().with_topics(Some(vec![topic])))
        .await;
    assert_eq!((response.error_code, response.results.len()), (OK, 1));
    let directory = &response.results[0];
    assert_eq!(directory.error_code, OK);
    assert!(directory.total_bytes > directory.usable_bytes && directory.usable_bytes > 0);
    assert_eq!(directory.topics.len(), 1);
    let mut sizes: Vec<_> = directory.topics[0]
        .partitions
        .iter()
        .map(|it| (it.partition_index, it.partition_size))
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes[0], (0, 0));
    assert!(sizes[1].1 > 1000, "{sizes:?}");
    let all = connection
        .ask(DescribeLogDirsRequest::default().with_topics(None))
        .await;
    assert!(
        all.results[0]
            .topics
            .iter()
            .any(|topic| topic.name == topic_name("admin-dirs"))
    );
}

/// 89
#[tokio::test]
async fn features_are_validated_before_they_are_finalised() {
    let connection = single().await.connect().await;
    let update = |name: &str, level| {
        let update = FeatureUpdateKey::default()
            .with_feature(text(name))
            .with_max_version_level(level)
            .with_upgrade_type(1);
        UpdateFeaturesRequest::default()
            .with_feature_updates(vec![update])
            .with_timeout_ms(10_000)
            .with_validate_only(true)
    };
    let finalized = connection
        .ask(
            kafka_protocol::messages::ApiVersionsRequest::default()
                .with_client_software_name(text("test"))
                .with_client_software_version(text("1")),
        )
        .await
        .finalized_features;
    let level = finalized
        .iter()
        .find(|it| it.name == text("metadata.version"))
        .unwrap()
        .max_version_level;
    let same = connection.ask_at(1, update("metadata.version", level)).await;
    assert_eq!(same.error_code, OK, "{:?}", same.error_message);
    for (name, level) in [("metadata.version", 3000), ("no.such.feature", 1)] {
        let response = connection.ask_at(2, update(name, level)).await;
        assert_ne!(response.error_code, OK, "{name}");
        assert!(response.error_message.is_some());
    }
}

/// Only what is not registered, or not alive, can be unregistered.
#[tokio::test]
async fn an_unknown_broker_cannot_be_unregistered() {
    let connection = single().await.connect().await;
    let response = connection
        .ask(UnregisterBrokerRequest::default().with_broker_id(98.into()))
        .await;
    assert_eq!(response.error_code, code(ErrorCode::BrokerIdNotRegistered));
}

/// As a Kafka without an authorizer does it: what is asked is served, and refused.
#[tokio::test]
async fn who_asks_for_acls_is_told_that_there_is_no_authorizer() {
    let connection = single().await.connect().await;
    for version in 1..=3 {
        let described = connection.ask_at(version, DescribeAclsRequest::default()).await;
        assert_eq!(described.error_code, code(ErrorCode::SecurityDisabled));
        let said = described.error_message.expect("it says why");
        assert!(said.contains("no authorizer"), "{said}");
        assert!(described.resources.is_empty());

        let create = CreateAclsRequest::default().with_creations(vec![AclCreation::default(); 2]);
        let created = connection.ask_at(version, create).await.results;
        let refused = created.iter().map(|result| result.error_code);
        assert_eq!(
            refused.collect::<Vec<_>>(),
            [code(ErrorCode::SecurityDisabled); 2]
        );

        let delete = DeleteAclsRequest::default().with_filters(vec![DeleteAclsFilter::default(); 2]);
        let deleted = connection.ask_at(version, delete).await.filter_results;
        let refused = deleted
            .iter()
            .map(|result| (result.error_code, result.matching_acls.len()));
        assert_eq!(
            refused.collect::<Vec<_>>(),
            [(code(ErrorCode::SecurityDisabled), 0); 2]
        );
    }
}
