//! `odradek transactions`: what kafka-transactions.sh shows of transactions and their producers, and how hanging ones end.

mod hanging;

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::ProducerState;
use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeTransactionsRequest, InitProducerIdRequest, ListTransactionsRequest,
    ProducerId, TransactionalId,
};

use odradek_common::error::ErrorCode;

use crate::client::{ClusterClient, Connection, common_version, send, send_in, text, topic_name};
use crate::error::{CommandError, Outcome, check};
use crate::output::{say, say_text};
use crate::table;

/// Any that a coordinator takes will do: no transaction of this producer follows.
const FENCING_TIMEOUT_MS: i32 = 1_000;
/// First version that filters by duration.
const DURATION_SINCE: i16 = 1;
/// First version that filters by a pattern.
const PATTERN_SINCE: i16 = 2;

/// Flags of `odradek transactions`.
#[derive(Debug, Args)]
pub struct TransactionsArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists the transactions of all coordinators.
    List(ListArguments),
    /// Describes the transaction of a transactional id.
    Describe {
        /// The transactional id.
        #[arg(long, value_name = "ID")]
        transactional_id: String,
    },
    /// Describes the producers that have written to a partition.
    DescribeProducers(PartitionArguments),
    /// Finds transactions that are open in a partition and unknown to their coordinator.
    FindHanging(hanging::FindArguments),
    /// Aborts a hanging transaction in a partition.
    Abort(hanging::AbortArguments),
    /// Ends the open transaction of a transactional id, by fencing its producer.
    #[command(alias = "forceTerminateTransaction")]
    ForceTerminateTransaction {
        /// The transactional id.
        #[arg(long, value_name = "ID", alias = "transactionalId")]
        transactional_id: String,
    },
}

#[derive(Debug, Args)]
struct ListArguments {
    /// Only those that are open for longer than so many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = -1)]
    duration_filter: i64,
    /// Only those whose whole transactional id matches.
    #[arg(long, value_name = "PATTERN")]
    transactional_id_pattern: Option<String>,
}

/// One partition.
#[derive(Debug, Clone, Args)]
struct PartitionArguments {
    /// The topic.
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// The partition's index.
    #[arg(long, value_name = "INDEX")]
    partition: i32,
    /// The broker to ask instead of the leader.
    #[arg(long, value_name = "ID")]
    broker_id: Option<i32>,
}

/// Carries out `odradek transactions`.
pub async fn run(arguments: TransactionsArguments) -> Outcome {
    let client = ClusterClient::new(&arguments.connection)?;
    match &arguments.action {
        Action::List(list) => print_list(&client, list).await,
        Action::Describe { transactional_id } => print_description(&client, transactional_id).await,
        Action::DescribeProducers(partition) => print_producers(&client, partition).await,
        Action::FindHanging(find) => hanging::find(&client, find).await,
        Action::Abort(abort) => hanging::abort(&client, abort).await,
        Action::ForceTerminateTransaction { transactional_id } => {
            force_terminate(&client, transactional_id).await
        }
    }
}

/// A transaction, and the broker that coordinates it.
struct Listed {
    transactional_id: String,
    coordinator: i32,
    producer_id: i64,
    state: String,
}

/// The transactions of all brokers.
async fn list(client: &ClusterClient, filter: &ListTransactionsRequest) -> Outcome<Vec<Listed>> {
    let view = client.view(Some(&[])).await?;
    let mut listed = Vec::new();
    for (broker, address) in &view.brokers {
        let node = client.at(address).await?;
        let version = common_version::<ListTransactionsRequest>(&node)?;
        let is_new = |since: i16, wanted: bool, what: &str| match wanted && version < since {
            true => Err(CommandError::refused(format!(
                "broker {broker} cannot filter by {what}"
            ))),
            false => Ok(()),
        };
        is_new(DURATION_SINCE, filter.duration_filter >= 0, "duration")?;
        is_new(
            PATTERN_SINCE,
            filter.transactional_id_pattern.is_some(),
            "a pattern",
        )?;
        let of_node = client.retry(async || {
            let response = send_in(&node, version, filter.clone()).await?;
            match check(response.error_code, None) {
                Err(error) if error.code == ErrorCode::InvalidRegularExpression => {
                    let pattern = filter.transactional_id_pattern.as_deref().unwrap_or_default();
                    let reason = format!("{pattern:?} is no regular expression of at most 4096 bytes");
                    Err(CommandError::refused(reason))
                }
                checked => Ok(checked.map(|()| response.transaction_states)?),
            }
        });
        listed.extend(of_node.await?.into_iter().map(|transaction| Listed {
            transactional_id: transaction.transactional_id.0.to_string(),
            coordinator: *broker,
            producer_id: transaction.producer_id.0,
            state: transaction.transaction_state.to_string(),
        }));
    }
    Ok(listed)
}

async fn print_list(client: &ClusterClient, arguments: &ListArguments) -> Outcome {
    let filter = ListTransactionsRequest::default()
        .with_duration_filter(arguments.duration_filter)
        .with_transactional_id_pattern(arguments.transactional_id_pattern.as_deref().map(text));
    let row = |listed: Listed| {
        vec![
            listed.transactional_id,
            listed.coordinator.to_string(),
            listed.producer_id.to_string(),
            listed.state,
        ]
    };
    let rows: Vec<_> = list(client, &filter).await?.into_iter().map(row).collect();
    let headers = ["TransactionalId", "Coordinator", "ProducerId", "TransactionState"];
    say_text!("{}", table::render(&headers, &rows, "\t"));
    Ok(())
}

/// The broker that coordinates a transactional id, and what it says.
async fn describe(client: &ClusterClient, transactional_id: &str) -> Outcome<(i32, TransactionState)> {
    let request = DescribeTransactionsRequest::default()
        .with_transactional_ids(vec![TransactionalId(text(transactional_id))]);
    client
        .retry(async || {
            let (broker, coordinator) = client.transaction_coordinator(transactional_id).await?;
            let mut response = send(&coordinator, request.clone()).await?;
            let found = response.transaction_states.pop();
            let found = found.ok_or_else(|| CommandError::refused("the answer has no transaction in it"))?;
            check(found.error_code, None)?;
            Ok((broker, found))
        })
        .await
}

async fn print_description(client: &ClusterClient, transactional_id: &str) -> Outcome {
    let (coordinator, found) = describe(client, transactional_id).await?;
    let has_begun = found.transaction_start_time_ms >= 0;
    let time = |ms: i64| {
        if has_begun {
            ms.to_string()
        } else {
            "None".to_owned()
        }
    };
    let partitions = found.topics.iter().flat_map(|topic| {
        let name = topic.topic.0.as_str();
        topic
            .partitions
            .iter()
            .map(move |partition| format!("{name}-{partition}"))
    });
    let partitions: Vec<_> = partitions.collect();
    let row = vec![
        coordinator.to_string(),
        found.transactional_id.0.to_string(),
        found.producer_id.0.to_string(),
        found.producer_epoch.to_string(),
        found.transaction_state.to_string(),
        found.transaction_timeout_ms.to_string(),
        time(found.transaction_start_time_ms),
        time(now_ms() - found.transaction_start_time_ms),
        partitions.join(","),
    ];
    let headers = [
        "CoordinatorId",
        "TransactionalId",
        "ProducerId",
        "ProducerEpoch",
        "TransactionState",
        "TransactionTimeoutMs",
        "CurrentTransactionStartTimeMs",
        "TransactionDurationMs",
        "TopicPartitions",
    ];
    say_text!("{}", table::render(&headers, &[row], "\t"));
    Ok(())
}

/// The producers that have written to a partition, as its leader or the broker asked for knows them.
async fn producers(client: &ClusterClient, asked: &PartitionArguments) -> Outcome<Vec<ProducerState>> {
    let topic = TopicRequest::default()
        .with_name(topic_name(&asked.topic))
        .with_partition_indexes(vec![asked.partition]);
    let request = DescribeProducersRequest::default().with_topics(vec![topic]);
    client
        .retry(async || {
            let node = match asked.broker_id {
                Some(broker) => client.broker(broker).await?,
                None => client.leader(&asked.topic, asked.partition).await?,
            };
            let mut response = send(&node, request.clone()).await?;
            let topic = response.topics.pop();
            let found = topic.and_then(|mut topic| topic.partitions.pop());
            let found = found.ok_or_else(|| CommandError::refused("the answer has no partition in it"))?;
            match check(found.error_code, found.error_message.as_deref()) {
                // Whoever names a broker wants that one, and another answer will not come from it.
                Err(error) if asked.broker_id.is_some() && error.code == ErrorCode::NotLeaderOrFollower => {
                    Err(CommandError::refused(error.detail))
                }
                checked => Ok(checked.map(|()| found.active_producers)?),
            }
        })
        .await
}

async fn print_producers(client: &ClusterClient, asked: &PartitionArguments) -> Outcome {
    let row = |producer: ProducerState| {
        let start = producer.current_txn_start_offset;
        vec![
            producer.producer_id.0.to_string(),
            producer.producer_epoch.to_string(),
            producer.coordinator_epoch.to_string(),
            producer.last_sequence.to_string(),
            producer.last_timestamp.to_string(),
            if start < 0 {
                "None".to_owned()
            } else {
                start.to_string()
            },
        ]
    };
    let rows: Vec<_> = producers(client, asked).await?.into_iter().map(row).collect();
    let headers = [
        "ProducerId",
        "ProducerEpoch",
        "LatestCoordinatorEpoch",
        "LastSequence",
        "LastTimestamp",
        "CurrentTransactionStartOffset",
    ];
    say_text!("{}", table::render(&headers, &rows, "\t"));
    Ok(())
}

/// A new epoch of the id fences its producer, and whatever that one has open is aborted. An id that nobody knows is refused:
/// it would be made.
async fn force_terminate(client: &ClusterClient, transactional_id: &str) -> Outcome {
    describe(client, transactional_id).await?;
    let request = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(text(transactional_id))))
        .with_transaction_timeout_ms(FENCING_TIMEOUT_MS)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    client
        .retry(async || {
            let (_, coordinator) = client.transaction_coordinator(transactional_id).await?;
            Ok(check(
                send(&coordinator, request.clone()).await?.error_code,
                None,
            )?)
        })
        .await?;
    say!("The producer of transactional id {transactional_id} is fenced, and its transaction ended.");
    Ok(())
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
