//! WriteTxnMarkers: a transaction coordinator ends transactions in the partitions that are led here.
//!
//! A marker counts when it is on every in-sync replica. Where that takes long the coordinator is told to try again, so that
//! one partition does not hold the others of the request up. What belongs to groups goes through their coordinator, which
//! makes their offsets visible with it.

pub mod request;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{ApiKey, WriteTxnMarkersRequest, WriteTxnMarkersResponse};
use kafka_protocol::protocol::VersionRange;
use odradek_broker_core::coordination::TransactionEnd;
use odradek_broker_log::append::LeaderBatch;
use odradek_common::error::{ErrorCode, wire_code};
use odradek_common::records::control::{EndTransactionMarker, TransactionResult};
use odradek_net::service::{Reply, RequestFrame, Response};

use self::request::{Marker, TRANSACTION_VERSION_SINCE, VERSION_MIN};
use super::{Api, Call, encode, start};
use crate::broker::Broker;
use crate::clock;
use crate::metrics::requests::ApiTimer;
use crate::names::OFFSETS_TOPIC;
use crate::replica::{AppendRefusal, CommitWait};

/// How long a marker of a coordinator is waited for. Kafka's brokers wait for `request.timeout.ms`: as long as its coordinator waits
/// for the whole request. A marker that is written twice ends nothing twice, and once an ISR has shrunk no marker has to wait.
const COMMIT_WAIT: Duration = Duration::from_secs(1);

/// The row of the table: kafka-protocol does not know the second version.
pub fn row() -> Api {
    Api {
        key: ApiKey::WriteTxnMarkers,
        versions: VersionRange {
            min: VERSION_MIN,
            max: TRANSACTION_VERSION_SINCE,
        },
        forwarded: false,
        run,
    }
}

fn run(broker: Arc<Broker>, call: Call, frame: RequestFrame, timer: ApiTimer) -> Reply {
    let markers = match request::decode(call.api_version, frame.body.clone()) {
        Ok(markers) => markers,
        Err(error) => return Reply::Done(Response::Close(error.to_string())),
    };
    // Coordinators ask in the second version. Over REQUEST_TIMED_OUT an administrator's client, which asks in the first, would fail.
    let from_coordinator = call.api_version >= TRANSACTION_VERSION_SINCE;
    let patience = if from_coordinator {
        COMMIT_WAIT
    } else {
        Duration::MAX
    };
    let answer = async move {
        let markers = markers
            .iter()
            .map(|marker| write_within(&broker, marker, patience));
        let response = WriteTxnMarkersResponse::default().with_markers(join_all(markers).await);
        drop(frame);
        encode::<WriteTxnMarkersRequest>(VERSION_MIN, call.correlation_id, &response)
    };
    start(Box::pin(answer), timer)
}

/// Writes one marker of a coordinator to all its partitions and waits until it is committed there.
pub async fn write(broker: &Broker, marker: &Marker) -> WritableTxnMarkerResult {
    write_within(broker, marker, COMMIT_WAIT).await
}

async fn write_within(broker: &Broker, marker: &Marker, patience: Duration) -> WritableTxnMarkerResult {
    let end = end_of(marker);
    let request_timeout_ms = u64::try_from(broker.config.load().socket.request_timeout_ms).unwrap_or(0);
    let patience = patience.min(Duration::from_millis(request_timeout_ms));
    let topics = marker.fields.topics.iter();
    let topics = topics.map(|topic| write_to_topic(broker, topic, end, patience));
    WritableTxnMarkerResult::default()
        .with_producer_id(marker.fields.producer_id)
        .with_topics(join_all(topics).await)
}

async fn write_to_topic(
    broker: &Broker,
    topic: &WritableTxnMarkerTopic,
    end: TransactionEnd,
    patience: Duration,
) -> WritableTxnMarkerTopicResult {
    let partitions = topic.partition_indexes.iter().map(|index| async move {
        let outcome = write_to(broker, &topic.name.0, *index, end, patience).await;
        if let Err(code) = outcome {
            broker.metrics.refused(ApiKey::WriteTxnMarkers, code);
        }
        WritableTxnMarkerPartitionResult::default()
            .with_partition_index(*index)
            .with_error_code(wire_code(outcome.err()))
    });
    WritableTxnMarkerTopicResult::default()
        .with_name(topic.name.clone())
        .with_partitions(join_all(partitions).await)
}

fn end_of(marker: &Marker) -> TransactionEnd {
    let WritableTxnMarker {
        producer_id,
        producer_epoch,
        transaction_result,
        coordinator_epoch,
        ..
    } = &marker.fields;
    TransactionEnd {
        producer_id: producer_id.0,
        producer_epoch: *producer_epoch,
        coordinator_epoch: *coordinator_epoch,
        result: if *transaction_result {
            TransactionResult::Commit
        } else {
            TransactionResult::Abort
        },
        transaction_version: i16::from(marker.transaction_version),
    }
}

async fn write_to(
    broker: &Broker,
    topic: &str,
    partition: i32,
    end: TransactionEnd,
    patience: Duration,
) -> Result<(), ErrorCode> {
    // A partition without a replica here, wherever it may be by now: Kafka knows no other word for both.
    if broker.replicas.get(topic, partition).is_none() {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    let written = async {
        if topic == OFFSETS_TOPIC {
            return write_to_groups(broker, partition, end).await;
        }
        let Some(committed) = append(broker, topic, partition, end)? else {
            return Ok(());
        };
        // Without an answer the replica left this node meanwhile.
        committed.await.unwrap_or(Err(ErrorCode::NotLeaderOrFollower))
    };
    tokio::time::timeout(patience, written)
        .await
        .unwrap_or(Err(ErrorCode::RequestTimedOut))
}

async fn write_to_groups(broker: &Broker, partition: i32, end: TransactionEnd) -> Result<(), ErrorCode> {
    match broker.groups.end_transaction(partition, end).await {
        // The transaction coordinator looks for a leader, not for another coordinator.
        Err(
            ErrorCode::NotCoordinator
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable,
        ) => Err(ErrorCode::NotLeaderOrFollower),
        outcome => outcome,
    }
}

/// Appends the marker; the wait for its commit, unless it is committed.
fn append(
    broker: &Broker,
    topic: &str,
    partition: i32,
    end: TransactionEnd,
) -> Result<Option<CommitWait>, ErrorCode> {
    let replica = broker
        .replicas
        .hosted(topic, partition)
        .map_err(|error| error.code)?;
    let failed = |refusal: AppendRefusal| match refusal {
        AppendRefusal::Api(error) => error.code,
        AppendRefusal::Log(error) => {
            broker.replicas.log_failed(&replica, &error);
            ErrorCode::KafkaStorageError
        }
    };
    let now = clock::now();
    let marker = EndTransactionMarker {
        result: end.result,
        coordinator_epoch: end.coordinator_epoch,
    };
    let bytes = marker.to_batch(now.wall_ms, end.producer_id, end.producer_epoch);
    let batch = LeaderBatch::whole(&bytes).map_err(|error| failed(error.into()))?;
    let mut batches = [batch.of_transaction_version(end.transaction_version)];
    let mut waits = Vec::with_capacity(1);
    let appended = replica
        .append(now, &mut batches, Some(&mut waits))
        .map_err(failed)?;
    if let Some(error) = appended.failed {
        return Err(failed(AppendRefusal::Log(error)));
    }
    if let Some(Err(error)) = batches[0].take_outcome() {
        return Err(failed(error.into()));
    }
    replica.traffic.appended(1, bytes.len());
    Ok(waits.pop().flatten())
}
