//! The data side of transactions: markers, and offsets that wait for them.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    DescribeProducersRequest, OffsetFetchRequest, ProducerId, TransactionalId, TxnOffsetCommitRequest,
    WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use odradek_cluster_tests::asks::{OK, code, text, topic_name};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records;
use odradek_cluster_tests::shared::single;
use odradek_common::error::ErrorCode;

use crate::groups::{coordinator_at, group_id};

const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Far above what a test's cluster hands out.
const PRODUCER: i64 = 1 << 40;

fn marker(
    producer_id: i64,
    epoch: i16,
    coordinator_epoch: i32,
    topics: &[(&str, &[i32])],
) -> WritableTxnMarker {
    let topics = topics.iter().map(|(name, partitions)| {
        WritableTxnMarkerTopic::default()
            .with_name(topic_name(name))
            .with_partition_indexes(partitions.to_vec())
    });
    WritableTxnMarker::default()
        .with_producer_id(ProducerId(producer_id))
        .with_producer_epoch(epoch)
        .with_transaction_result(true)
        .with_coordinator_epoch(coordinator_epoch)
        .with_topics(topics.collect())
}

/// Error codes in the order of the request.
fn codes(response: &WriteTxnMarkersResponse) -> Vec<i16> {
    let topics = response.markers.iter().flat_map(|marker| &marker.topics);
    let partitions = topics.flat_map(|topic| &topic.partitions);
    partitions.map(|partition| partition.error_code).collect()
}

async fn write(connection: &Connection, marker: WritableTxnMarker) -> Vec<i16> {
    let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
    codes(&connection.ask_at(1, request).await)
}

/// In version 2, of which kafka-protocol does not know the last field of a marker.
async fn write_as(connection: &Connection, marker: &WritableTxnMarker, transaction_version: i8) -> Vec<i16> {
    let mut body = BytesMut::new();
    body.put_u8(2);
    marker.encode(&mut body, 1).expect("the fields are there");
    let tagged_fields = body.split_off(body.len() - 1);
    body.put_i8(transaction_version);
    body.put_slice(&tagged_fields);
    body.put_u8(0);
    let mut answer: Bytes = connection
        .client()
        .send_raw(27, 2, body.freeze())
        .await
        .expect("an answer");
    codes(&WriteTxnMarkersResponse::decode(&mut answer, 1).expect("laid out as version 1"))
}

/// Producer id, epoch, coordinator epoch.
async fn producers(connection: &Connection, topic: &str) -> Vec<(i64, i32, i32)> {
    let topic = TopicRequest::default()
        .with_name(topic_name(topic))
        .with_partition_indexes(vec![0]);
    let request = DescribeProducersRequest::default().with_topics(vec![topic]);
    let response = connection.ask(request).await;
    let described = response.topics[0].partitions[0].active_producers.iter();
    described
        .map(|producer| {
            (
                producer.producer_id.0,
                producer.producer_epoch,
                producer.coordinator_epoch,
            )
        })
        .collect()
}

#[tokio::test]
async fn markers_are_appended_where_the_partition_is_led() {
    let connection = single().await.connect().await;
    connection.create_topic("markers", 1, 1, &[]).await;
    let asked = marker(
        PRODUCER,
        3,
        7,
        &[("markers", &[0, 9]), ("markers-of-nothing", &[0])],
    );
    let unknown = code(ErrorCode::UnknownTopicOrPartition);
    assert_eq!(write(&connection, asked).await, [OK, unknown, unknown]);
    assert_eq!(producers(&connection, "markers").await, [(PRODUCER, 3, 7)]);
    let data = connection.fetch("markers", 0, 0).await;
    let headers = records::headers(&data.records.unwrap_or_default());
    assert_eq!(headers.len(), 1);
    assert!(headers[0].is_control() && headers[0].is_transactional());
    assert_eq!((data.high_watermark, data.last_stable_offset), (1, 1));
}

// 81: a marker of a coordinator that has a successor is refused, and so is one of an earlier epoch.
#[tokio::test]
async fn markers_of_yesterday_are_refused() {
    let connection = single().await.connect().await;
    connection.create_topic("late-markers", 1, 1, &[]).await;
    let of = |epoch, coordinator_epoch| marker(PRODUCER, epoch, coordinator_epoch, &[("late-markers", &[0])]);
    assert_eq!(write(&connection, of(3, 7)).await, [OK]);
    assert_eq!(
        write(&connection, of(3, 6)).await,
        [code(ErrorCode::TransactionCoordinatorFenced)]
    );
    assert_eq!(
        write(&connection, of(2, 7)).await,
        [code(ErrorCode::InvalidProducerEpoch)]
    );
    assert_eq!(
        write_as(&connection, &of(3, 7), 2).await,
        [OK],
        "no transaction is open: the marker was asked for once more"
    );
    assert_eq!(
        write_as(&connection, &of(2, 7), 2).await,
        [code(ErrorCode::InvalidProducerEpoch)]
    );
    assert_eq!(write_as(&connection, &of(4, 7), 2).await, [OK]);
}

fn commit(group: &str, topic: &str, offset: i64) -> TxnOffsetCommitRequest {
    let partition = |index| {
        TxnOffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_metadata(None)
    };
    let topic = TxnOffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition(0), partition(5)]);
    TxnOffsetCommitRequest::default()
        .with_transactional_id(TransactionalId(text("markers")))
        .with_group_id(group_id(group))
        .with_producer_id(ProducerId(PRODUCER))
        .with_producer_epoch(3)
        .with_topics(vec![topic])
}

/// Offset and error of partition 0.
async fn fetched(connection: &Connection, group: &str, topic: &str, require_stable: bool) -> (i64, i16) {
    let topic = OffsetFetchRequestTopics::default()
        .with_name(topic_name(topic))
        .with_partition_indexes(vec![0]);
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(group_id(group))
        .with_topics(Some(vec![topic]));
    let request = OffsetFetchRequest::default()
        .with_groups(vec![group])
        .with_require_stable(require_stable);
    let response = connection.ask_at(9, request).await;
    let partition = &response.groups[0].topics[0].partitions[0];
    (partition.committed_offset, partition.error_code)
}

// 70, 81.
#[tokio::test]
async fn offsets_wait_for_the_marker() {
    let (group, topic) = ("markers-group", "marked-offsets");
    // The test's producers have no transactions that their coordinator would know.
    let unverified = ("transaction.partition.verification.enable", "false");
    let cluster = TestCluster::start(1, &[unverified]).await;
    let connection = coordinator_at(&cluster.nodes()[0].address(), group).await;
    connection.create_topic(topic, 1, 1, &[]).await;
    let committed = connection.ask_at(3, commit(group, topic, 11)).await;
    let answers: Vec<(i32, i16)> = committed
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|p| (p.partition_index, p.error_code)))
        .collect();
    assert_eq!(answers.len(), 2);
    assert!(answers.contains(&(0, OK)));
    assert!(answers.contains(&(5, code(ErrorCode::UnknownTopicOrPartition))));
    assert_eq!(fetched(&connection, group, topic, false).await, (-1, OK));
    let unstable = (-1, code(ErrorCode::UnstableOffsetCommit));
    assert_eq!(fetched(&connection, group, topic, true).await, unstable);

    let partitions = i32::try_from(connection.topic(OFFSETS_TOPIC).await.partitions.len());
    let all: Vec<i32> = (0..partitions.expect("few")).collect();
    let ended = write(&connection, marker(PRODUCER, 3, 1, &[(OFFSETS_TOPIC, &all)])).await;
    assert_eq!(ended, vec![OK; all.len()]);
    assert_eq!(fetched(&connection, group, topic, true).await, (11, OK));
    let fenced = write(&connection, marker(PRODUCER, 2, 1, &[(OFFSETS_TOPIC, &all)])).await;
    assert_eq!(fenced, vec![code(ErrorCode::InvalidProducerEpoch); all.len()]);
    let late = connection
        .ask_at(3, commit(group, topic, 12).with_producer_epoch(2))
        .await;
    assert!(
        late.topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .any(|p| p.partition_index == 0 && p.error_code == code(ErrorCode::InvalidProducerEpoch))
    );
}
