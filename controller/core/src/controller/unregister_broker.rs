//! UnregisterBroker: a broker is gone for good.

use kafka_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::metadata::proto::UnregisterBrokerRecord;
use odradek_common::metadata::{MetadataImage, Record, record};
use odradek_common::time::Now;
use slog::info;

use super::draft::Draft;
use super::fencing::Departure;
use super::{Controller, Decision, wire_error};

impl Controller {
    /// Takes a broker out of every ISR and ELR and forgets it. A live broker registers again by itself.
    pub fn unregister_broker(
        &mut self,
        image: &MetadataImage,
        _now: Now,
        request: &UnregisterBrokerRequest,
    ) -> Decision<UnregisterBrokerResponse> {
        let broker_id = request.broker_id.0;
        let Some(broker) = image.brokers.get(&broker_id) else {
            let detail = format!("broker {broker_id} is not registered");
            let (code, message) = wire_error(Some(&ApiError::new(ErrorCode::BrokerIdNotRegistered, detail)));
            let response = UnregisterBrokerResponse::default()
                .with_error_code(code)
                .with_error_message(message);
            return Decision::answer(response);
        };
        info!(self.logger, "unregistering a broker"; "broker" => broker_id);
        let mut draft = Draft::new(image);
        self.leave_partitions(&mut draft, broker_id, Departure::RecordsLost);
        let gone = UnregisterBrokerRecord {
            broker_id,
            broker_epoch: broker.broker_epoch,
        };
        draft.push(record(Record::UnregisterBroker(gone)));
        Decision {
            records: draft.records,
            response: UnregisterBrokerResponse::default().with_error_message(None),
        }
    }
}
