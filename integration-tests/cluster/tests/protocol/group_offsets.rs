//! Offsets of groups: commit, fetch, delete.

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest};
use odradek_cluster_tests::asks::{OK, code, text, topic_name};
use odradek_cluster_tests::connection::Connection;
use odradek_common::error::ErrorCode;

use crate::groups::{Member, coordinator, group_id};

/// The highest version of OffsetCommit and OffsetFetch with topic names.
const BY_NAME: i16 = 9;

/// A commit of one partition from outside of the group.
fn commit(
    group: &str,
    topic: &str,
    partition: i32,
    offset: i64,
    metadata: Option<&str>,
) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(3)
        .with_committed_metadata(metadata.map(text));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

async fn committed(connection: &Connection, request: OffsetCommitRequest) -> i16 {
    connection.ask_at(BY_NAME, request).await.topics[0].partitions[0].error_code
}

/// Topic, partition, offset, epoch, metadata.
type Fetched = (String, i32, i64, i32, String);

async fn fetched(connection: &Connection, group: &str, topics: Option<&[(&str, &[i32])]>) -> Vec<Fetched> {
    let wanted = |(topic, partitions): &(&str, &[i32])| {
        OffsetFetchRequestTopics::default()
            .with_name(topic_name(topic))
            .with_partition_indexes(partitions.to_vec())
    };
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(group_id(group))
        .with_topics(topics.map(|topics| topics.iter().map(wanted).collect()));
    let response = connection
        .ask_at(BY_NAME, OffsetFetchRequest::default().with_groups(vec![group]))
        .await;
    assert_eq!(response.groups[0].error_code, OK);
    let mut all = Vec::new();
    for topic in &response.groups[0].topics {
        for partition in &topic.partitions {
            assert_eq!(partition.error_code, OK);
            let metadata = partition
                .metadata
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            let (offset, epoch) = (partition.committed_offset, partition.committed_leader_epoch);
            all.push((
                topic.name.to_string(),
                partition.partition_index,
                offset,
                epoch,
                metadata,
            ));
        }
    }
    all.sort();
    all
}

async fn with_topic(group: &str) -> Connection {
    let connection = coordinator(group).await;
    connection.create_topic(group, 3, 1, &[]).await;
    connection
}

/// 69, 70
#[tokio::test]
async fn what_was_committed_is_fetched_with_its_metadata() {
    let group = "offsets-round";
    let connection = with_topic(group).await;
    assert_eq!(
        committed(
            &connection,
            commit(group, group, 0, 42, Some("some \u{1F980} metadata"))
        )
        .await,
        OK
    );
    assert_eq!(committed(&connection, commit(group, group, 2, 7, None)).await, OK);
    let row = |partition, offset, epoch, metadata: &str| {
        (group.to_owned(), partition, offset, epoch, metadata.to_owned())
    };
    let both = [row(0, 42, 3, "some \u{1F980} metadata"), row(2, 7, 3, "")];
    assert_eq!(fetched(&connection, group, None).await, both);
    let asked = fetched(&connection, group, Some(&[(group, &[0, 1, 2])])).await;
    assert_eq!(asked, [both[0].clone(), row(1, -1, -1, ""), both[1].clone()]);
    assert_eq!(
        committed(&connection, commit(group, group, 0, 40, Some(""))).await,
        OK
    );
    assert_eq!(
        fetched(&connection, group, Some(&[(group, &[0])])).await,
        [row(0, 40, 3, "")]
    );
}

/// 70
#[tokio::test]
async fn an_unknown_group_has_no_offsets_and_no_error() {
    let connection = coordinator("offsets-unknown").await;
    assert_eq!(fetched(&connection, "offsets-unknown", None).await, []);
    let asked = fetched(&connection, "offsets-unknown", Some(&[("offsets-never", &[5])])).await;
    assert_eq!(asked, [("offsets-never".to_owned(), 5, -1, -1, String::new())]);
}

/// 70
#[tokio::test]
async fn older_versions_fetch_one_group() {
    let group = "offsets-old";
    let connection = with_topic(group).await;
    assert_eq!(
        committed(&connection, commit(group, group, 1, 5, Some("m"))).await,
        OK
    );
    let topic = OffsetFetchRequestTopic::default()
        .with_name(topic_name(group))
        .with_partition_indexes(vec![1, 2]);
    let request = OffsetFetchRequest::default()
        .with_group_id(group_id(group))
        .with_topics(Some(vec![topic]));
    for version in 1..=7 {
        let response = connection.ask_at(version, request.clone()).await;
        assert_eq!(response.error_code, OK);
        let offsets: Vec<_> = response.topics[0]
            .partitions
            .iter()
            .map(|it| (it.partition_index, it.committed_offset))
            .collect();
        assert_eq!(offsets, [(1, 5), (2, -1)], "version {version}");
    }
    let all = connection.ask_at(2, request.with_topics(None)).await;
    assert_eq!(all.topics[0].partitions.len(), 1);
}

/// 69
#[tokio::test]
async fn metadata_has_a_greatest_length() {
    let group = "offsets-metadata";
    let connection = with_topic(group).await;
    let long = "x".repeat(4097);
    let error_code = committed(&connection, commit(group, group, 0, 1, Some(&long))).await;
    assert_eq!(error_code, code(ErrorCode::OffsetMetadataTooLarge));
    assert_eq!(
        committed(&connection, commit(group, group, 0, 1, Some(&long[..4096]))).await,
        OK
    );
    let unknown = committed(&connection, commit(group, "offsets-metadata-never", 0, 1, None)).await;
    assert_eq!(unknown, code(ErrorCode::UnknownTopicOrPartition));
}

/// 69
#[tokio::test]
async fn commits_need_the_generation_unless_the_group_is_empty() {
    let group = "offsets-generation";
    let connection = with_topic(group).await;
    let mut member = Member::new(group).await;
    member.become_stable().await;
    let of_member = |generation: i32| {
        commit(group, group, 0, 10, None)
            .with_member_id(text(&member.id))
            .with_generation_id_or_member_epoch(generation)
    };
    assert_eq!(committed(&connection, of_member(member.generation)).await, OK);
    assert_eq!(
        committed(&connection, of_member(member.generation + 1)).await,
        code(ErrorCode::IllegalGeneration)
    );
    assert_eq!(
        committed(&connection, commit(group, group, 0, 11, None)).await,
        code(ErrorCode::UnknownMemberId)
    );
    let stranger = of_member(member.generation).with_member_id(text("nobody"));
    assert_eq!(
        committed(&connection, stranger).await,
        code(ErrorCode::UnknownMemberId)
    );
    assert_eq!(fetched(&connection, group, Some(&[(group, &[0])])).await[0].2, 10);
}

/// 69
#[tokio::test]
async fn commits_wait_while_the_leader_decides() {
    let group = "offsets-completing";
    let connection = with_topic(group).await;
    let mut member = Member::new(group).await;
    assert_eq!(member.join().await.error_code, OK);
    let request = commit(group, group, 0, 10, None)
        .with_member_id(text(&member.id))
        .with_generation_id_or_member_epoch(member.generation);
    assert_eq!(
        committed(&connection, request).await,
        code(ErrorCode::RebalanceInProgress)
    );
}

/// Offsets of topics that the group does not read can be removed.
#[tokio::test]
async fn offsets_can_be_deleted() {
    let group = "offsets-delete";
    let connection = with_topic(group).await;
    assert_eq!(
        committed(&connection, commit(group, group, 0, 10, None)).await,
        OK
    );
    assert_eq!(
        committed(&connection, commit(group, group, 1, 11, None)).await,
        OK
    );
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(topic_name(group))
        .with_partitions(vec![partition]);
    let request = OffsetDeleteRequest::default()
        .with_group_id(group_id(group))
        .with_topics(vec![topic]);
    let response = connection.ask(request.clone()).await;
    assert_eq!(
        (response.error_code, response.topics[0].partitions[0].error_code),
        (OK, OK)
    );
    let left: Vec<_> = fetched(&connection, group, None)
        .await
        .iter()
        .map(|row| (row.1, row.2))
        .collect();
    assert_eq!(left, [(1, 11)]);
    let unknown = request.with_group_id(group_id("offsets-delete-never"));
    assert_eq!(
        connection.ask(unknown).await.error_code,
        code(ErrorCode::GroupIdNotFound)
    );
}

/// A deleted topic's offsets do not wait for the next topic of that name.
#[tokio::test]
async fn offsets_go_with_their_topic() {
    let group = "offsets-topic";
    let connection = with_topic(group).await;
    assert_eq!(
        committed(&connection, commit(group, group, 0, 10, None)).await,
        OK
    );
    assert_eq!(connection.delete_topic(group).await, OK);
    let limit = std::time::Duration::from_secs(20);
    odradek_cluster_tests::wait::eventually("the offsets are gone", limit, async || {
        let rows = fetched(&connection, group, None).await;
        odradek_cluster_tests::wait::holds(rows.is_empty(), format!("{rows:?}"))
    })
    .await;
}
