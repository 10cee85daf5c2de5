//! AddOffsetsToTxn: the offsets of a group are to belong to a transaction, which is to say their partition.

use std::sync::Arc;

use kafka_protocol::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, ApiKey};
use odradek_broker_core::coordination::partition_for;
use odradek_broker_core::transactions::metadata::ProducerIdAndEpoch;
use odradek_broker_core::transactions::{TransactionRequest, TransactionResponse};
use odradek_common::error::ErrorCode;
use odradek_common::ids::TopicPartition;

use super::init_producer_id::known_since;
use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::OFFSETS_TOPIC;
use crate::topic_creation::ensure_internal;

/// First version whose clients know PRODUCER_FENCED.
const FENCED_SINCE: i16 = 2;
/// Clients of version 2 of the transaction protocol do not ask this: their offsets add themselves.
const CLIENT_VERSION: i16 = 0;

/// The handler.
pub struct AddOffsetsToTxn;

impl Handler for AddOffsetsToTxn {
    type Request = AddOffsetsToTxnRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: AddOffsetsToTxnRequest,
    ) -> AddOffsetsToTxnResponse {
        match add(&broker, request).await {
            Ok(()) => AddOffsetsToTxnResponse::default(),
            Err(code) => {
                let code = known_since(code, call.api_version, FENCED_SINCE);
                broker.metrics.refused(ApiKey::AddOffsetsToTxn, code);
                AddOffsetsToTxnResponse::default().with_error_code(code.code())
            }
        }
    }
}

async fn add(broker: &Arc<Broker>, request: AddOffsetsToTxnRequest) -> Result<(), ErrorCode> {
    if request.transactional_id.0.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    // Who reads partitions of its own choice has not looked for the group's coordinator, and does not before this is answered.
    ensure_internal(broker, OFFSETS_TOPIC).await;
    let image = broker.image();
    let partitions = image
        .topic(OFFSETS_TOPIC)
        .map_or(0, |topic| topic.partitions.len());
    let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
    if partitions == 0 {
        return Err(ErrorCode::CoordinatorNotAvailable);
    }
    let partition = partition_for(&request.group_id.0, partitions);
    let add = TransactionRequest::AddPartitions {
        transactional_id: request.transactional_id.0,
        producer: ProducerIdAndEpoch {
            producer_id: request.producer_id.0,
            epoch: request.producer_epoch,
        },
        partitions: std::iter::once(TopicPartition::new(OFFSETS_TOPIC, partition)).collect(),
        client_version: CLIENT_VERSION,
    };
    match broker.transactions.call(add).await {
        TransactionResponse::AddPartitions(result) => result,
        other => unreachable!("AddOffsetsToTxn is answered in kind, not by {other:?}"),
    }
}
