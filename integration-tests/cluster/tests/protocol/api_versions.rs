//! Negotiation: what ApiVersions says, and that all it says is true.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Request};
use odradek_cluster_tests::asks::{OK, code, text};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::raw::{RawConnection, header, take_correlation_id};
use odradek_cluster_tests::shared::single;
use odradek_common::error::ErrorCode;

const API_VERSIONS: i16 = ApiKey::ApiVersions as i16;

fn named(name: &str, version: &str) -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(text(name))
        .with_client_software_version(text(version))
}

async fn advertised() -> BTreeMap<i16, (i16, i16)> {
    let response = single().await.connect().await.ask(named("test", "1")).await;
    assert_eq!(response.error_code, OK);
    response
        .api_keys
        .iter()
        .map(|it| (it.api_key, (it.min_version, it.max_version)))
        .collect()
}

/// 1
#[tokio::test]
async fn an_unknown_version_is_answered_in_version_0_with_the_known_range() {
    let mut connection = RawConnection::open(single().await.address(1)).await;
    let mut frame = header(API_VERSIONS, 77, 5);
    frame.put_slice(b"a body that nobody knows");
    connection.send_frame(&frame).await;
    let mut response = connection.receive().await.expect("an answer");
    assert_eq!(take_correlation_id(&mut response), 5);
    let response = ApiVersionsResponse::decode(&mut response, 0).unwrap();
    assert_eq!(response.error_code, code(ErrorCode::UnsupportedVersion));
    let keys: Vec<i16> = response.api_keys.iter().map(|it| it.api_key).collect();
    assert_eq!(keys, [API_VERSIONS]);
    assert!(response.api_keys[0].max_version >= 3);
    // The connection lives on: clients try again on it.
    connection.send_frame(&header(API_VERSIONS, 0, 6)).await;
    let mut response = connection.receive().await.expect("an answer");
    assert_eq!(take_correlation_id(&mut response), 6);
}

/// 2
#[tokio::test]
async fn the_response_header_has_no_tagged_fields_in_any_version() {
    for version in [0, 3, 4] {
        let mut connection = RawConnection::open(single().await.address(1)).await;
        let mut frame = header(API_VERSIONS, version, 5);
        if version >= 3 {
            frame.put_slice(&[2, b'a', 2, b'1', 0]);
        }
        connection.send_frame(&frame).await;
        let mut response = connection.receive().await.expect("an answer");
        assert_eq!(take_correlation_id(&mut response), 5);
        assert_eq!(
            response.get_i16(),
            OK,
            "the error code follows the correlation id in version {version}"
        );
    }
}

/// 4
#[tokio::test]
async fn a_malformed_software_name_is_an_invalid_request_in_an_ordinary_answer() {
    let connection = single().await.connect().await;
    for (name, version) in [("", "1"), ("-a", "1"), ("a b", "1"), ("a", ""), ("a", "1.")] {
        let response = connection.ask_at(3, named(name, version)).await;
        assert_eq!(
            response.error_code,
            code(ErrorCode::InvalidRequest),
            "{name:?} {version:?}"
        );
    }
    assert_eq!(
        connection
            .ask_at(3, named("apache-kafka-java", "4.3.1"))
            .await
            .error_code,
        OK
    );
}

/// 5
#[tokio::test]
async fn versions_before_3_need_no_software_name() {
    let connection = single().await.connect().await;
    for version in 0..=2 {
        let response = connection.ask_at(version, ApiVersionsRequest::default()).await;
        assert_eq!(response.error_code, OK);
        assert!(response.api_keys.len() > 30);
    }
}

/// 6
#[tokio::test]
async fn features_from_level_0_are_shown_from_version_4_on() {
    let connection = single().await.connect().await;
    let before = connection.ask_at(3, named("test", "1")).await;
    assert!(
        before
            .supported_features
            .iter()
            .all(|feature| feature.min_version > 0),
        "{before:?}"
    );
    let since = connection.ask_at(4, named("test", "1")).await;
    let levels: BTreeMap<String, i16> = since
        .supported_features
        .iter()
        .map(|it| (it.name.to_string(), it.min_version))
        .collect();
    assert_eq!(levels.get("kraft.version"), Some(&0), "{levels:?}");
    assert!(
        since
            .finalized_features
            .iter()
            .any(|it| it.name == text("metadata.version"))
    );
    assert!(since.finalized_features_epoch >= 0);
}

/// 9
#[tokio::test]
async fn produce_is_shown_from_0_and_telemetry_not_at_all() {
    let advertised = advertised().await;
    assert_eq!(advertised[&(ApiKey::Produce as i16)].0, 0);
    assert!(!advertised.contains_key(&(ApiKey::GetTelemetrySubscriptions as i16)));
    assert!(!advertised.contains_key(&(ApiKey::PushTelemetry as i16)));
}

/// 10
#[tokio::test]
async fn topic_ids_are_everywhere() {
    let advertised = advertised().await;
    let max = |key: ApiKey| advertised[&(key as i16)].1;
    assert!(max(ApiKey::Fetch) >= 13 && max(ApiKey::Produce) >= 13);
    assert!(max(ApiKey::Metadata) >= 12);
}

/// What was advertised and has been asked.
struct Survey {
    connection: Connection,
    advertised: BTreeMap<i16, (i16, i16)>,
}

impl Survey {
    /// Asks in every version that is advertised and that this side can say.
    async fn of<R: Request + Clone>(&mut self, request: R) {
        let (min, max) = self
            .advertised
            .remove(&R::KEY)
            .unwrap_or_else(|| panic!("API {} is missing", R::KEY));
        let ours = R::VERSIONS;
        for version in min.max(ours.min)..=max.min(ours.max) {
            // Panics if the connection closes or the answer is not of that version.
            self.connection.ask_at(version, request.clone()).await;
        }
    }
}

/// 8: a connection that closes looks like "too new" to clients, so nothing is advertised that is not answered.
#[tokio::test]
async fn every_advertised_version_is_answered() {
    let connection = single().await.connect().await;
    let mut survey = Survey {
        connection,
        advertised: advertised().await,
    };
    survey.of(ProduceRequest::default().with_acks(1)).await;
    survey.of(FetchRequest::default()).await;
    survey.of(ListOffsetsRequest::default()).await;
    survey.of(MetadataRequest::default()).await;
    survey.of(OffsetCommitRequest::default()).await;
    survey.of(OffsetFetchRequest::default()).await;
    survey.of(FindCoordinatorRequest::default()).await;
    survey.of(JoinGroupRequest::default()).await;
    survey.of(HeartbeatRequest::default()).await;
    survey.of(ConsumerGroupHeartbeatRequest::default()).await;
    survey.of(LeaveGroupRequest::default()).await;
    survey.of(SyncGroupRequest::default()).await;
    survey.of(DescribeGroupsRequest::default()).await;
    survey.of(ListGroupsRequest::default()).await;
    survey.of(CreateTopicsRequest::default()).await;
    survey.of(DeleteTopicsRequest::default()).await;
    survey.of(DeleteRecordsRequest::default()).await;
    survey
        .of(InitProducerIdRequest::default().with_transactional_id(None))
        .await;
    survey.of(AddPartitionsToTxnRequest::default()).await;
    survey.of(AddOffsetsToTxnRequest::default()).await;
    survey.of(EndTxnRequest::default()).await;
    survey.of(DescribeTransactionsRequest::default()).await;
    survey.of(ListTransactionsRequest::default()).await;
    survey.of(OffsetForLeaderEpochRequest::default()).await;
    survey.of(WriteTxnMarkersRequest::default()).await;
    survey.of(TxnOffsetCommitRequest::default()).await;
    survey.of(DescribeAclsRequest::default()).await;
    survey.of(CreateAclsRequest::default()).await;
    survey.of(DeleteAclsRequest::default()).await;
    survey.of(DescribeConfigsRequest::default()).await;
    survey.of(AlterConfigsRequest::default()).await;
    survey.of(AlterReplicaLogDirsRequest::default()).await;
    survey.of(DescribeLogDirsRequest::default()).await;
    survey.of(CreatePartitionsRequest::default()).await;
    survey.of(DeleteGroupsRequest::default()).await;
    survey.of(ElectLeadersRequest::default()).await;
    survey.of(IncrementalAlterConfigsRequest::default()).await;
    survey.of(AlterPartitionReassignmentsRequest::default()).await;
    survey.of(ListPartitionReassignmentsRequest::default()).await;
    survey.of(OffsetDeleteRequest::default()).await;
    survey.of(DescribeClusterRequest::default()).await;
    survey.of(DescribeProducersRequest::default()).await;
    survey
        .of(UnregisterBrokerRequest::default().with_broker_id(99.into()))
        .await;
    survey.of(DescribeTopicPartitionsRequest::default()).await;
    survey.of(DescribeQuorumRequest::default()).await;
    survey.of(UpdateFeaturesRequest::default()).await;
    survey.of(ListConfigResourcesRequest::default()).await;
    survey.advertised.remove(&API_VERSIONS);
    if single().await.cluster().is_some() {
        let rest: Vec<&i16> = survey
            .advertised
            .keys()
            .filter(|key| ![80, 81].contains(*key))
            .collect();
        assert!(rest.is_empty(), "advertised, but not asked here: {rest:?}");
    }
}
