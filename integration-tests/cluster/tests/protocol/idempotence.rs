//! Producers with an id: sequences, epochs, duplicates.

use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::{DescribeProducersRequest, InitProducerIdRequest, TransactionalId};
use odradek_cluster_tests::asks::{OK, code, text, topic_name};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records::{Seen, idempotent};
use odradek_cluster_tests::shared::single;
use odradek_common::error::ErrorCode;

/// A producer that says what the test says.
struct Producer {
    connection: Connection,
    topic: &'static str,
    id: i64,
}

impl Producer {
    async fn new(topic: &'static str) -> Self {
        let connection = single().await.connect().await;
        connection.create_topic(topic, 1, 1, &[]).await;
        let (id, epoch) = connection.producer_id().await;
        assert_eq!(epoch, 0);
        Self {
            connection,
            topic,
            id,
        }
    }

    /// Error code and base offset.
    async fn send(&self, epoch: i16, sequence: i32, values: &[&str]) -> (i16, i64) {
        let batch = idempotent(self.id, epoch, sequence, values);
        let result = self.connection.produce_with(self.topic, 0, -1, &batch).await;
        (result.error_code, result.base_offset)
    }

    async fn values(&self) -> Vec<String> {
        self.connection
            .read_from(self.topic, 0, 0)
            .await
            .iter()
            .map(Seen::text)
            .collect()
    }
}

/// 76
#[tokio::test]
async fn every_producer_gets_an_id_of_its_own() {
    let connection = single().await.connect().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        let (id, epoch) = connection.producer_id().await;
        assert!(id >= 0);
        assert_eq!(epoch, 0);
        ids.push(id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

/// 76
#[tokio::test]
async fn an_empty_transactional_id_is_an_invalid_request() {
    let connection = single().await.connect().await;
    let request = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(text(""))))
        .with_transaction_timeout_ms(1000);
    assert_eq!(
        connection.ask_at(4, request).await.error_code,
        code(ErrorCode::InvalidRequest)
    );
}

/// 43
#[tokio::test]
async fn a_batch_among_the_last_five_sent_again_gets_its_first_answer() {
    let producer = Producer::new("idempotence-five").await;
    for sequence in 0..5 {
        assert_eq!(
            producer.send(0, sequence, &[&sequence.to_string()]).await,
            (OK, i64::from(sequence))
        );
    }
    for sequence in [0, 4, 2] {
        assert_eq!(
            producer.send(0, sequence, &[&sequence.to_string()]).await,
            (OK, i64::from(sequence))
        );
    }
    assert_eq!(producer.send(0, 5, &["5"]).await, (OK, 5));
    // The first is no longer among the last five.
    assert_eq!(
        producer.send(0, 0, &["0"]).await.0,
        code(ErrorCode::OutOfOrderSequenceNumber)
    );
    assert_eq!(producer.values().await, ["0", "1", "2", "3", "4", "5"]);
}

/// 43
#[tokio::test]
async fn a_gap_in_the_sequence_is_out_of_order() {
    let producer = Producer::new("idempotence-gap").await;
    assert_eq!(producer.send(0, 0, &["0", "1"]).await, (OK, 0));
    assert_eq!(
        producer.send(0, 3, &["3"]).await.0,
        code(ErrorCode::OutOfOrderSequenceNumber)
    );
    // Neither inside of a batch that is there.
    assert_eq!(
        producer.send(0, 1, &["1"]).await.0,
        code(ErrorCode::OutOfOrderSequenceNumber)
    );
    assert_eq!(producer.send(0, 2, &["2"]).await, (OK, 2));
    assert_eq!(producer.values().await, ["0", "1", "2"]);
}

/// 43
#[tokio::test]
async fn sequences_wrap_to_zero() {
    let producer = Producer::new("idempotence-wrap").await;
    assert_eq!(producer.send(0, i32::MAX - 1, &["a", "b", "c"]).await, (OK, 0));
    assert_eq!(producer.send(0, 1, &["d"]).await, (OK, 3));
    assert_eq!(producer.send(0, i32::MAX - 1, &["a", "b", "c"]).await, (OK, 0));
    assert_eq!(producer.values().await, ["a", "b", "c", "d"]);
}

/// 44
#[tokio::test]
async fn an_unknown_producer_may_begin_anywhere() {
    let producer = Producer::new("idempotence-begin").await;
    assert_eq!(producer.send(0, 1234, &["a"]).await, (OK, 0));
    assert_eq!(producer.send(0, 1235, &["b"]).await, (OK, 1));
}

/// 45
#[tokio::test]
async fn an_older_epoch_is_invalid_and_a_newer_one_begins_at_zero() {
    let producer = Producer::new("idempotence-epoch").await;
    assert_eq!(producer.send(0, 0, &["a"]).await, (OK, 0));
    assert_eq!(
        producer.send(1, 7, &["b"]).await.0,
        code(ErrorCode::OutOfOrderSequenceNumber)
    );
    assert_eq!(producer.send(1, 0, &["b"]).await, (OK, 1));
    assert_eq!(
        producer.send(0, 1, &["c"]).await.0,
        code(ErrorCode::InvalidProducerEpoch)
    );
    assert_eq!(producer.values().await, ["a", "b"]);
}

/// What a producer has done can be seen.
#[tokio::test]
async fn describe_producers_shows_the_last_sequence() {
    let producer = Producer::new("idempotence-describe").await;
    producer.send(0, 0, &["a", "b", "c"]).await;
    let topic = TopicRequest::default()
        .with_name(topic_name("idempotence-describe"))
        .with_partition_indexes(vec![0, 9]);
    let response = producer
        .connection
        .ask(DescribeProducersRequest::default().with_topics(vec![topic]))
        .await;
    let partitions = &response.topics[0].partitions;
    let known = partitions
        .iter()
        .find(|partition| partition.partition_index == 0)
        .unwrap();
    assert_eq!(known.error_code, OK);
    assert_eq!(known.active_producers.len(), 1);
    let active = &known.active_producers[0];
    assert_eq!(
        (active.producer_id.0, active.producer_epoch, active.last_sequence),
        (producer.id, 0, 2)
    );
    assert_eq!(active.current_txn_start_offset, -1);
    let unknown = partitions
        .iter()
        .find(|partition| partition.partition_index == 9)
        .unwrap();
    assert_eq!(unknown.error_code, code(ErrorCode::UnknownTopicOrPartition));
}
