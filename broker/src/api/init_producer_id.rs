//! InitProducerId: an identity for idempotent producers, and the next life of a transactional one.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use odradek_broker_core::transactions::metadata::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID, ProducerIdAndEpoch};
use odradek_broker_core::transactions::{TransactionRequest, TransactionResponse};
use odradek_common::error::ErrorCode;

use super::{Call, Handler};
use crate::broker::Broker;

/// First version whose clients know PRODUCER_FENCED.
const FENCED_SINCE: i16 = 4;

/// The handler.
pub struct InitProducerId;

impl Handler for InitProducerId {
    type Request = InitProducerIdRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: InitProducerIdRequest,
    ) -> InitProducerIdResponse {
        match init(&broker, request).await {
            Ok(producer) => InitProducerIdResponse::default()
                .with_producer_id(ProducerId(producer.producer_id))
                .with_producer_epoch(producer.epoch),
            Err(code) => {
                let code = known_since(code, call.api_version, FENCED_SINCE);
                broker.metrics.refused(ApiKey::InitProducerId, code);
                InitProducerIdResponse::default()
                    .with_error_code(code.code())
                    .with_producer_id(ProducerId(NO_PRODUCER_ID))
                    .with_producer_epoch(NO_PRODUCER_EPOCH)
            }
        }
    }
}

async fn init(broker: &Broker, request: InitProducerIdRequest) -> Result<ProducerIdAndEpoch, ErrorCode> {
    let expected = expected(request.producer_id.0, request.producer_epoch)?;
    let Some(transactional_id) = request.transactional_id else {
        let producer_id = broker.next_producer_id().await?;
        return Ok(ProducerIdAndEpoch {
            producer_id,
            epoch: 0,
        });
    };
    if transactional_id.0.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    let init = TransactionRequest::InitProducerId {
        transactional_id: transactional_id.0,
        timeout_ms: request.transaction_timeout_ms,
        expected,
    };
    match broker.transactions.call(init).await {
        TransactionResponse::InitProducerId(result) => result,
        other => unreachable!("InitProducerId is answered in kind, not by {other:?}"),
    }
}

/// What the producer believes to be (KIP-360): both or neither.
fn expected(producer_id: i64, epoch: i16) -> Result<Option<ProducerIdAndEpoch>, ErrorCode> {
    match (producer_id, epoch) {
        (NO_PRODUCER_ID, NO_PRODUCER_EPOCH) => Ok(None),
        (NO_PRODUCER_ID, _) | (_, NO_PRODUCER_EPOCH) => Err(ErrorCode::InvalidRequest),
        (producer_id, epoch) => Ok(Some(ProducerIdAndEpoch { producer_id, epoch })),
    }
}

/// The code for a client of that version: those that do not know PRODUCER_FENCED take INVALID_PRODUCER_EPOCH in its place.
#[must_use]
pub fn known_since(code: ErrorCode, api_version: i16, fenced_since: i16) -> ErrorCode {
    if code == ErrorCode::ProducerFenced && api_version < fenced_since {
        return ErrorCode::InvalidProducerEpoch;
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_producer_says_all_of_what_it_is_or_nothing() {
        assert_eq!(expected(-1, -1), Ok(None));
        assert_eq!(
            expected(7, 0),
            Ok(Some(ProducerIdAndEpoch {
                producer_id: 7,
                epoch: 0
            }))
        );
        assert_eq!(expected(7, -1), Err(ErrorCode::InvalidRequest));
        assert_eq!(expected(-1, 0), Err(ErrorCode::InvalidRequest));
    }

    #[test]
    fn old_clients_are_told_what_they_know() {
        let fenced = ErrorCode::ProducerFenced;
        assert_eq!(known_since(fenced, 3, 4), ErrorCode::InvalidProducerEpoch);
        assert_eq!(known_since(fenced, 4, 4), fenced);
        assert_eq!(
            known_since(ErrorCode::InvalidTxnState, 0, 4),
            ErrorCode::InvalidTxnState
        );
    }
}
