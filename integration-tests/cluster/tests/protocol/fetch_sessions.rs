//! Incremental fetch sessions (KIP-227).

use std::time::Duration;

use kafka_protocol::messages::fetch_request::{FetchTopic, ForgottenTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use odradek_cluster_tests::asks::{
    FETCH_BY_NAME, OK, code, fetch_partition, fetch_partitions, fetch_request, topic_name,
};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records::{batch, texts};
use odradek_cluster_tests::shared::single;
use odradek_cluster_tests::wait::eventually;
use odradek_common::error::ErrorCode;

/// A client with a session.
struct Session {
    connection: Connection,
    id: i32,
    epoch: i32,
}

impl Session {
    /// Begins with all of these.
    async fn begin(connection: &Connection, request: FetchRequest) -> (Self, FetchResponse) {
        let request = request.with_session_id(0).with_session_epoch(0);
        let response = connection.ask_at(FETCH_BY_NAME, request).await;
        assert_eq!(response.error_code, OK);
        assert_ne!(response.session_id, 0, "a session was asked for");
        let session = Self {
            connection: connection.clone(),
            id: response.session_id,
            epoch: 1,
        };
        (session, response)
    }

    /// Goes on with what has changed.
    async fn next(&mut self, request: FetchRequest) -> FetchResponse {
        let request = request.with_session_id(self.id).with_session_epoch(self.epoch);
        self.epoch += 1;
        self.connection.ask_at(FETCH_BY_NAME, request).await
    }
}

fn nothing_new() -> FetchRequest {
    FetchRequest::default()
}

fn partitions_of(response: &FetchResponse) -> Vec<i32> {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| partition.partition_index).collect()
}

async fn with_topic(name: &str, partitions: i32) -> Connection {
    let connection = single().await.connect().await;
    connection.create_topic(name, partitions, 1, &[]).await;
    connection
}

/// 53
#[tokio::test]
async fn a_session_shows_only_what_has_changed() {
    let connection = with_topic("sessions-changed", 3).await;
    let all = (0..3).map(|index| fetch_partition(index, 0)).collect();
    let (mut session, first) = Session::begin(&connection, fetch_partitions("sessions-changed", all)).await;
    assert_eq!(partitions_of(&first).len(), 3);
    assert_eq!(
        partitions_of(&session.next(nothing_new()).await),
        Vec::<i32>::new()
    );
    connection.produce("sessions-changed", 1, &batch(&["a"])).await;
    let changed = session.next(nothing_new()).await;
    assert_eq!(partitions_of(&changed), [1]);
    assert_eq!(changed.session_id, session.id);
    let records = changed.responses[0].partitions[0].records.clone().unwrap();
    assert_eq!(texts(&records), ["a"]);
    // The session remembers offsets until it is told others.
    let again = session.next(nothing_new()).await;
    assert_eq!(partitions_of(&again), [1]);
    let moved = session
        .next(fetch_partitions("sessions-changed", vec![fetch_partition(1, 1)]))
        .await;
    assert!(moved.responses.iter().all(|topic| {
        topic.partitions.iter().all(|partition| {
            partition
                .records
                .as_ref()
                .is_none_or(|records| records.is_empty())
        })
    }));
}

/// 53
#[tokio::test]
async fn partitions_can_be_added_and_forgotten() {
    let connection = with_topic("sessions-forget", 2).await;
    for partition in 0..2 {
        connection
            .produce("sessions-forget", partition, &batch(&["a"]))
            .await;
    }
    let (mut session, _) = Session::begin(&connection, fetch_request("sessions-forget", 0, 0)).await;
    let both = session.next(fetch_request("sessions-forget", 1, 0)).await;
    let mut seen = partitions_of(&both);
    seen.sort_unstable();
    assert_eq!(seen, [0, 1]);
    let forgotten = ForgottenTopic::default()
        .with_topic(topic_name("sessions-forget"))
        .with_partitions(vec![0]);
    let rest = session
        .next(nothing_new().with_forgotten_topics_data(vec![forgotten]))
        .await;
    assert_eq!(partitions_of(&rest), [1]);
}

/// 53
#[tokio::test]
async fn a_wrong_epoch_and_an_unknown_session_are_named() {
    let connection = with_topic("sessions-wrong", 1).await;
    let (mut session, _) = Session::begin(&connection, fetch_request("sessions-wrong", 0, 0)).await;
    session.epoch = 7;
    assert_eq!(
        session.next(nothing_new()).await.error_code,
        code(ErrorCode::InvalidFetchSessionEpoch)
    );
    session.id = session.id.wrapping_add(12_345);
    assert_eq!(
        session.next(nothing_new()).await.error_code,
        code(ErrorCode::FetchSessionIdNotFound)
    );
}

/// 53
#[tokio::test]
async fn the_next_request_of_a_session_ends_the_wait_of_the_one_before() {
    let connection = with_topic("sessions-superseded", 1).await;
    let (session, _) = Session::begin(&connection, fetch_request("sessions-superseded", 0, 0)).await;
    let request = |epoch, max_wait: Duration| {
        fetch_request("sessions-superseded", 0, 0)
            .with_session_id(session.id)
            .with_session_epoch(epoch)
            .with_max_wait_ms(max_wait.as_millis() as i32)
            .with_min_bytes(1)
    };
    let longer_than_the_test = request(1, Duration::from_secs(600));
    let waiting = tokio::spawn(async move { connection.ask_at(FETCH_BY_NAME, longer_than_the_test).await });
    let other = single().await.connect().await;
    eventually(
        "the request that waits has begun",
        Duration::from_secs(15),
        async || {
            let next = other.ask_at(FETCH_BY_NAME, request(2, Duration::ZERO)).await;
            if next.error_code == OK {
                Ok(())
            } else {
                Err(format!("error {}", next.error_code))
            }
        },
    )
    .await;
    assert_eq!(
        waiting.await.unwrap().error_code,
        code(ErrorCode::InvalidFetchSessionEpoch)
    );
}

/// 53
#[tokio::test]
async fn epoch_minus_one_ends_a_session() {
    let connection = with_topic("sessions-end", 1).await;
    let (mut session, _) = Session::begin(&connection, fetch_request("sessions-end", 0, 0)).await;
    let last = fetch_request("sessions-end", 0, 0)
        .with_session_id(session.id)
        .with_session_epoch(-1);
    let answer = connection.ask_at(FETCH_BY_NAME, last).await;
    assert_eq!((answer.error_code, answer.session_id), (OK, 0));
    assert_eq!(
        session.next(nothing_new()).await.error_code,
        code(ErrorCode::FetchSessionIdNotFound)
    );
}

/// 53
#[tokio::test]
async fn a_fetch_without_session_gets_none() {
    let connection = with_topic("sessions-none", 1).await;
    let answer = connection
        .ask_at(FETCH_BY_NAME, fetch_request("sessions-none", 0, 0))
        .await;
    assert_eq!(answer.session_id, 0);
    assert_eq!(partitions_of(&answer), [0]);
}

/// 53
#[tokio::test]
async fn names_and_ids_do_not_mix_in_a_session() {
    let connection = with_topic("sessions-mixed", 1).await;
    let id = connection.topic("sessions-mixed").await.topic_id;
    let (session, _) = Session::begin(&connection, fetch_request("sessions-mixed", 0, 0)).await;
    let topic = FetchTopic::default()
        .with_topic_id(id)
        .with_partitions(vec![fetch_partition(0, 0)]);
    let request = FetchRequest::default()
        .with_session_id(session.id)
        .with_session_epoch(session.epoch)
        .with_topics(vec![topic]);
    let answer = connection.ask_at(13, request).await;
    assert_eq!(answer.error_code, code(ErrorCode::FetchSessionTopicIdError));
}

/// 51: whoever had data goes to the end of the line, so that a small limit starves nobody.
#[tokio::test]
async fn partitions_take_turns() {
    let connection = with_topic("sessions-turns", 3).await;
    let value = "x".repeat(5000);
    for partition in 0..3 {
        for _ in 0..3 {
            connection
                .produce("sessions-turns", partition, &batch(&[&value]))
                .await;
        }
    }
    let small = |request: FetchRequest| request.with_max_bytes(1);
    let all = (0..3).map(|index| fetch_partition(index, 0)).collect();
    let (mut session, first) =
        Session::begin(&connection, small(fetch_partitions("sessions-turns", all))).await;
    let with_records = |response: &FetchResponse| -> Vec<i32> {
        let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
        let full = partitions.filter(|it| it.records.as_ref().is_some_and(|records| !records.is_empty()));
        full.map(|partition| partition.partition_index).collect()
    };
    assert_eq!(with_records(&first).len(), 1);
    let mut served = Vec::new();
    for _ in 0..3 {
        served.extend(with_records(&session.next(small(nothing_new())).await));
    }
    served.sort_unstable();
    assert_eq!(served, [0, 1, 2]);
}
