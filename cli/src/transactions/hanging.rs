//! Transactions that a partition holds open and no coordinator will ever end: how they are found, and ended by hand.
//!
//! A transaction hangs if it has been open for longer than any may and its coordinator does not know it: there is no such
//! producer, or its transaction of now is another one.

use std::collections::BTreeMap;

use clap::Args;
use kafka_protocol::messages::describe_producers_response::ProducerState;
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{ListTransactionsRequest, ProducerId, WriteTxnMarkersRequest};
use odradek_common::error::ErrorCode;

use super::{PartitionArguments, describe, list, now_ms, producers};
use crate::client::{ClusterClient, send, topic_name};
use crate::error::{CommandError, Outcome, check};
use crate::output::{say, say_text};
use crate::table;

/// Markers of coordinators that never wrote to the partition before name this epoch.
const NO_COORDINATOR_EPOCH: i32 = -1;

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["broker_id", "topic"]))]
pub(super) struct FindArguments {
    /// Partitions that this broker has a replica of.
    #[arg(long, value_name = "ID")]
    broker_id: Option<i32>,
    /// Partitions of this topic.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// This partition of the topic alone.
    #[arg(long, value_name = "INDEX", requires = "topic")]
    partition: Option<i32>,
    /// Longest timeout that any transaction may have, in minutes; what is open for less does not hang.
    #[arg(long, value_name = "MINUTES", default_value_t = 15)]
    max_transaction_timeout: i64,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["start_offset", "producer_id"]))]
pub(super) struct AbortArguments {
    #[command(flatten)]
    partition: PartitionArguments,
    /// Where the transaction begins in the partition.
    #[arg(long, value_name = "OFFSET")]
    start_offset: Option<i64>,
    /// The producer, if its state in the partition is gone.
    #[arg(long, value_name = "ID", requires_all = ["producer_epoch", "coordinator_epoch"])]
    producer_id: Option<i64>,
    /// The epoch of the producer.
    #[arg(long, value_name = "EPOCH")]
    producer_epoch: Option<i16>,
    /// The epoch of the coordinator.
    #[arg(long, value_name = "EPOCH")]
    coordinator_epoch: Option<i32>,
}

/// A transaction that a partition holds open.
struct Open {
    topic: String,
    partition: i32,
    producer: ProducerState,
}

/// Prints what hangs.
pub(super) async fn find(client: &ClusterClient, arguments: &FindArguments) -> Outcome {
    let open_before_ms = now_ms() - arguments.max_transaction_timeout * 60_000;
    let mut open = Vec::new();
    for (topic, partition) in partitions(client, arguments).await? {
        let asked = PartitionArguments {
            topic: topic.clone(),
            partition,
            broker_id: arguments.broker_id,
        };
        let old = producers(client, &asked).await?.into_iter().filter(|producer| {
            producer.current_txn_start_offset >= 0 && producer.last_timestamp < open_before_ms
        });
        open.extend(old.map(|producer| Open {
            topic: topic.clone(),
            partition,
            producer,
        }));
    }
    let rows: Vec<_> = hanging(client, open).await?.iter().map(row).collect();
    let headers = [
        "Topic",
        "Partition",
        "ProducerId",
        "ProducerEpoch",
        "CoordinatorEpoch",
        "StartOffset",
        "LastTimestamp",
        "Duration(min)",
    ];
    say_text!("{}", table::render(&headers, &rows, "\t"));
    Ok(())
}

async fn partitions(client: &ClusterClient, arguments: &FindArguments) -> Outcome<Vec<(String, i32)>> {
    let wanted = arguments.topic.as_deref().map(|topic| vec![topic]);
    let view = client.view(wanted.as_deref()).await?;
    let topics = match &arguments.topic {
        Some(topic) => vec![view.topic(topic)?],
        None => view.topics.iter().collect(),
    };
    let mut found = Vec::new();
    for topic in topics {
        let Some(name) = topic.name.as_ref() else { continue };
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let is_wanted = arguments.partition.is_none_or(|wanted| wanted == index);
            let is_there = arguments
                .broker_id
                .is_none_or(|broker| partition.replica_nodes.iter().any(|node| node.0 == broker));
            if is_wanted && is_there {
                found.push((name.to_string(), index));
            }
        }
    }
    Ok(found)
}

/// Those that no coordinator will end.
async fn hanging(client: &ClusterClient, open: Vec<Open>) -> Outcome<Vec<Open>> {
    if open.is_empty() {
        return Ok(open);
    }
    let ids = open.iter().map(|open| open.producer.producer_id).collect();
    let filter = ListTransactionsRequest::default()
        .with_duration_filter(-1)
        .with_producer_id_filters(ids);
    let mut transactional_ids = BTreeMap::new();
    for listed in list(client, &filter).await? {
        transactional_ids.insert(listed.producer_id, listed.transactional_id);
    }
    let mut hanging = Vec::new();
    for open in open {
        let known = match transactional_ids.get(&open.producer.producer_id.0) {
            Some(transactional_id) => is_known(client, transactional_id, &open).await?,
            None => false,
        };
        if !known {
            hanging.push(open);
        }
    }
    Ok(hanging)
}

/// Whether the transaction is the one of now, and the partition belongs to it.
async fn is_known(client: &ClusterClient, transactional_id: &str, open: &Open) -> Outcome<bool> {
    let transaction = match describe(client, transactional_id).await {
        Ok((_, transaction)) => transaction,
        Err(CommandError::Api(error)) if error.code == ErrorCode::TransactionalIdNotFound => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let belongs = transaction
        .topics
        .iter()
        .any(|topic| topic.topic.0.as_str() == open.topic && topic.partitions.contains(&open.partition));
    Ok(belongs && transaction.producer_id == open.producer.producer_id)
}

fn row(open: &Open) -> Vec<String> {
    let producer = &open.producer;
    vec![
        open.topic.clone(),
        open.partition.to_string(),
        producer.producer_id.0.to_string(),
        producer.producer_epoch.to_string(),
        producer.coordinator_epoch.to_string(),
        producer.current_txn_start_offset.to_string(),
        producer.last_timestamp.to_string(),
        ((now_ms() - producer.last_timestamp) / 60_000).to_string(),
    ]
}

/// Writes the marker that the transaction's coordinator never will.
pub(super) async fn abort(client: &ClusterClient, arguments: &AbortArguments) -> Outcome {
    let partition = &arguments.partition;
    let (producer_id, epoch, coordinator_epoch) = match arguments.start_offset {
        Some(start_offset) => producer_at(client, partition, start_offset).await?,
        None => (
            arguments.producer_id.unwrap_or(-1),
            arguments.producer_epoch.unwrap_or(-1),
            arguments.coordinator_epoch.unwrap_or(NO_COORDINATOR_EPOCH),
        ),
    };
    let topic = WritableTxnMarkerTopic::default()
        .with_name(topic_name(&partition.topic))
        .with_partition_indexes(vec![partition.partition]);
    let marker = WritableTxnMarker::default()
        .with_producer_id(ProducerId(producer_id))
        .with_producer_epoch(epoch)
        .with_coordinator_epoch(coordinator_epoch)
        .with_transaction_result(false)
        .with_topics(vec![topic]);
    let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
    let abort = async || {
        let leader = client.leader(&partition.topic, partition.partition).await?;
        let response = send(&leader, request.clone()).await?;
        let topics = response.markers.iter().flat_map(|marker| &marker.topics);
        let code = topics
            .flat_map(|topic| &topic.partitions)
            .map(|it| it.error_code)
            .next();
        let code = code.ok_or_else(|| CommandError::refused("the answer has no partition in it"))?;
        Ok(check(code, None)?)
    };
    client.retry(abort).await?;
    say!(
        "aborted the transaction of producer {producer_id} in {}-{}",
        partition.topic,
        partition.partition
    );
    Ok(())
}

/// The producer whose transaction begins there.
async fn producer_at(
    client: &ClusterClient,
    partition: &PartitionArguments,
    start_offset: i64,
) -> Outcome<(i64, i16, i32)> {
    let producers = producers(client, partition).await?;
    let found = producers
        .iter()
        .find(|producer| producer.current_txn_start_offset == start_offset);
    let found = found.ok_or_else(|| {
        CommandError::refused(format!(
            "no transaction that is open in {}-{} begins at offset {start_offset}",
            partition.topic, partition.partition
        ))
    })?;
    let epoch = i16::try_from(found.producer_epoch)
        .map_err(|_| CommandError::refused("the producer has no epoch"))?;
    // A partition that no coordinator has written to yet says -2 or -1; markers begin at 0.
    Ok((found.producer_id.0, epoch, found.coordinator_epoch.max(0)))
}
