//! DescribeTransactions: the state of transactional ids, each answered by its own coordinator.

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use kafka_protocol::messages::{
    ApiKey, DescribeTransactionsRequest, DescribeTransactionsResponse, ProducerId, TransactionalId,
};
use odradek_broker_core::transactions::metadata::TransactionMetadata;
use odradek_broker_core::transactions::{TransactionRequest, TransactionResponse};
use odradek_common::ids::TopicPartition;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::transactions::IDS_AT_ONCE;
use crate::names::{text, topic_name};

/// The handler.
pub struct DescribeTransactions;

impl Handler for DescribeTransactions {
    type Request = DescribeTransactionsRequest;

    async fn handle(
        broker: Arc<Broker>,
        _call: Call,
        request: DescribeTransactionsRequest,
    ) -> DescribeTransactionsResponse {
        let ids = request.transactional_ids.into_iter();
        let described = ids.map(|transactional_id| describe(&broker, transactional_id));
        let described = stream::iter(described).buffered(IDS_AT_ONCE).collect().await;
        DescribeTransactionsResponse::default().with_transaction_states(described)
    }
}

async fn describe(broker: &Broker, transactional_id: TransactionalId) -> TransactionState {
    let request = TransactionRequest::Describe(transactional_id.0.clone());
    let described = match broker.transactions.call(request).await {
        TransactionResponse::Describe(described) => described,
        other => unreachable!("DescribeTransactions is answered in kind, not by {other:?}"),
    };
    let answer = TransactionState::default().with_transactional_id(transactional_id);
    match described {
        Ok(metadata) => answer
            .with_producer_id(ProducerId(metadata.producer_id))
            .with_producer_epoch(metadata.producer_epoch)
            .with_transaction_state(text(metadata.state.name()))
            .with_transaction_timeout_ms(metadata.timeout_ms)
            .with_transaction_start_time_ms(metadata.start_timestamp_ms)
            .with_topics(topics(&metadata)),
        Err(code) => {
            broker.metrics.refused(ApiKey::DescribeTransactions, code);
            answer.with_error_code(code.code())
        }
    }
}

fn topics(metadata: &TransactionMetadata) -> Vec<TopicData> {
    let mut topics: Vec<TopicData> = Vec::new();
    for TopicPartition { topic, partition } in &metadata.partitions {
        match topics.last_mut() {
            Some(last) if last.topic.0.as_str() == &**topic => last.partitions.push(*partition),
            Some(_) | None => topics.push(
                TopicData::default()
                    .with_topic(topic_name(topic))
                    .with_partitions(vec![*partition]),
            ),
        }
    }
    topics
}
