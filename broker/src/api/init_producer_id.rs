//! InitProducerId: an identity for idempotent producers. Transactions are not part of this version.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use odradek_common::error::ErrorCode;

use super::{Call, Handler};
use crate::broker::Broker;

/// The handler.
pub struct InitProducerId;

impl Handler for InitProducerId {
    type Request = InitProducerIdRequest;

    async fn handle(
        broker: Arc<Broker>,
        _call: Call,
        request: InitProducerIdRequest,
    ) -> InitProducerIdResponse {
        let refused = |code: ErrorCode| {
            broker.metrics.refused(ApiKey::InitProducerId, code);
            InitProducerIdResponse::default()
                .with_error_code(code.code())
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1)
        };
        match &request.transactional_id {
            None => {}
            Some(id) if id.0.is_empty() => return refused(ErrorCode::InvalidRequest),
            // No coordinator of transactions exists in this version; UNSUPPORTED_VERSION is final for every client.
            Some(_) => return refused(ErrorCode::UnsupportedVersion),
        }
        match broker
            .producer_ids
            .next(&broker.controller, broker.node_id, broker.epoch())
            .await
        {
            Ok(id) => InitProducerIdResponse::default()
                .with_producer_id(ProducerId(id))
                .with_producer_epoch(0),
            Err(error) => refused(error.code),
        }
    }
}
