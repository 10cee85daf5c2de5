//! AllocateProducerIds: a broker gets a block of producer ids that nobody else will get.

use kafka_protocol::messages::{AllocateProducerIdsRequest, AllocateProducerIdsResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::metadata::proto::ProducerIdsRecord;
use odradek_common::metadata::{MetadataImage, Record, record};
use odradek_common::time::Now;
use slog::warn;

use super::{Controller, Decision, check_broker_epoch};

impl Controller {
    /// Gives out the next block.
    pub fn allocate_producer_ids(
        &mut self,
        image: &MetadataImage,
        _now: Now,
        request: &AllocateProducerIdsRequest,
    ) -> Decision<AllocateProducerIdsResponse> {
        let response = AllocateProducerIdsResponse::default();
        let next_producer_id = match self.next_block_end(image, request) {
            Ok(next_producer_id) => next_producer_id,
            Err(error) => {
                let broker = request.broker_id.0;
                warn!(self.logger, "no producer ids for a broker"; "broker" => broker, "error" => %error);
                return Decision::answer(response.with_error_code(error.code()));
            }
        };
        let block = record(Record::ProducerIds(ProducerIdsRecord {
            broker_id: request.broker_id.0,
            broker_epoch: request.broker_epoch,
            next_producer_id,
        }));
        let response = response
            .with_producer_id_start(image.next_producer_id.into())
            .with_producer_id_len(self.settings.producer_id_block_len);
        Decision {
            records: vec![block],
            response,
        }
    }

    fn next_block_end(
        &self,
        image: &MetadataImage,
        request: &AllocateProducerIdsRequest,
    ) -> Result<i64, ApiError> {
        check_broker_epoch(image, request.broker_id.0, request.broker_epoch)?;
        let end = image
            .next_producer_id
            .checked_add(i64::from(self.settings.producer_id_block_len));
        end.ok_or_else(|| {
            ApiError::new(
                ErrorCode::UnknownServerError,
                "all producer ids have been given out",
            )
        })
    }
}
