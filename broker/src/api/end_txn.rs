//! EndTxn: a producer commits or aborts its transaction.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, EndTxnRequest, EndTxnResponse, ProducerId};
use odradek_broker_core::transactions::metadata::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID, ProducerIdAndEpoch};
use odradek_broker_core::transactions::{TransactionRequest, TransactionResponse};
use odradek_common::error::ErrorCode;
use odradek_common::records::control::TransactionResult;

use super::init_producer_id::known_since;
use super::{Call, Handler};
use crate::broker::Broker;

/// First version whose clients know PRODUCER_FENCED.
const FENCED_SINCE: i16 = 2;
/// First version in which every transaction ends with a new producer epoch, which the answer carries (KIP-890).
const EPOCH_BUMP_SINCE: i16 = 5;

/// The handler.
pub struct EndTxn;

impl Handler for EndTxn {
    type Request = EndTxnRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: EndTxnRequest) -> EndTxnResponse {
        let none = EndTxnResponse::default()
            .with_producer_id(ProducerId(NO_PRODUCER_ID))
            .with_producer_epoch(NO_PRODUCER_EPOCH);
        match end(&broker, &call, request).await {
            Ok(next) if call.api_version >= EPOCH_BUMP_SINCE => none
                .with_producer_id(ProducerId(next.producer_id))
                .with_producer_epoch(next.epoch),
            Ok(_) => none,
            Err(code) => {
                let code = known_since(code, call.api_version, FENCED_SINCE);
                broker.metrics.refused(ApiKey::EndTxn, code);
                none.with_error_code(code.code())
            }
        }
    }
}

async fn end(broker: &Broker, call: &Call, request: EndTxnRequest) -> Result<ProducerIdAndEpoch, ErrorCode> {
    if request.transactional_id.0.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    let end = TransactionRequest::EndTransaction {
        transactional_id: request.transactional_id.0,
        producer: ProducerIdAndEpoch {
            producer_id: request.producer_id.0,
            epoch: request.producer_epoch,
        },
        result: if request.committed {
            TransactionResult::Commit
        } else {
            TransactionResult::Abort
        },
        client_version: if call.api_version >= EPOCH_BUMP_SINCE {
            2
        } else {
            0
        },
    };
    match broker.transactions.call(end).await {
        TransactionResponse::EndTransaction(result) => result,
        other => unreachable!("EndTxn is answered in kind, not by {other:?}"),
    }
}
