//! BrokerRegistration: a broker process joins, in a new incarnation or with news about itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::broker_registration_request::{Feature, Listener};
use kafka_protocol::messages::{BrokerRegistrationRequest, BrokerRegistrationResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_common::metadata::{BrokerImage, Endpoint, FeatureRange, MetadataImage, SecurityProtocol};
use odradek_common::time::Now;
use slog::{info, warn};

use super::draft::Draft;
use super::fencing::Departure;
use super::{Controller, Decision};

impl Controller {
    /// Registers a broker. `next_offset` is the offset in the metadata log that the records will have: a new incarnation's
    /// epoch.
    pub fn register_broker(
        &mut self,
        image: &MetadataImage,
        now: Now,
        next_offset: i64,
        request: &BrokerRegistrationRequest,
    ) -> Decision<BrokerRegistrationResponse> {
        let broker_id = request.broker_id.0;
        let response = BrokerRegistrationResponse::default();
        match self.try_register(image, now, next_offset, request) {
            Ok(draft) => {
                let epoch = draft
                    .image
                    .brokers
                    .get(&broker_id)
                    .map_or(-1, |broker| broker.broker_epoch);
                Decision {
                    records: draft.records,
                    response: response.with_broker_epoch(epoch),
                }
            }
            Err(error) => {
                warn!(self.logger, "refusing a broker registration"; "broker" => broker_id, "error" => %error);
                Decision::answer(response.with_error_code(error.code()))
            }
        }
    }

    fn try_register(
        &mut self,
        image: &MetadataImage,
        now: Now,
        next_offset: i64,
        request: &BrokerRegistrationRequest,
    ) -> Result<Draft, ApiError> {
        let broker_id = request.broker_id.0;
        let existing = image.brokers.get(&broker_id).cloned();
        self.check_registration(image, now, request)?;
        let mut broker = broker_image(request)?;
        check_features(image, &broker)?;
        let mut draft = Draft::new(image);
        match existing {
            Some(existing) if existing.incarnation_id == request.incarnation_id => {
                broker.broker_epoch = existing.broker_epoch;
                broker.fenced = existing.fenced;
                broker.in_controlled_shutdown = existing.in_controlled_shutdown;
                if broker == *existing {
                    self.sessions.touch(broker_id, existing.broker_epoch, now);
                    return Ok(draft);
                }
            }
            existing => {
                broker.broker_epoch = existing
                    .as_ref()
                    .map_or(0, |b| b.broker_epoch + 1)
                    .max(next_offset);
                self.leave_as_previous_incarnation(&mut draft, existing, request);
            }
        }
        info!(self.logger, "registering a broker"; "broker" => broker_id, "epoch" => broker.broker_epoch,
            "incarnation" => %request.incarnation_id, "partition_changes" => draft.records.len());
        let epoch = broker.broker_epoch;
        draft.push(broker.to_record());
        self.sessions.touch(broker_id, epoch, now);
        Ok(draft)
    }

    /// A new incarnation starts outside every ISR. Unless it proves that the one before stopped cleanly, by that one's
    /// epoch, it may have lost what it had acknowledged (KIP-966).
    fn leave_as_previous_incarnation(
        &self,
        draft: &mut Draft,
        existing: Option<Arc<BrokerImage>>,
        request: &BrokerRegistrationRequest,
    ) {
        let clean = existing.is_some_and(|existing| existing.broker_epoch == request.previous_broker_epoch);
        let departure = match clean || !super::topic_configs::elr_enabled(&draft.image) {
            true => Departure::Leaving,
            false => Departure::RecordsLost,
        };
        self.leave_partitions(draft, request.broker_id.0, departure);
    }

    fn check_registration(
        &self,
        image: &MetadataImage,
        now: Now,
        request: &BrokerRegistrationRequest,
    ) -> Result<(), ApiError> {
        let broker_id = request.broker_id.0;
        if request.cluster_id.as_str() != &*image.cluster_id {
            return Err(ApiError::new(
                ErrorCode::InconsistentClusterId,
                format!(
                    "this is cluster {}, the broker belongs to {}",
                    image.cluster_id, request.cluster_id
                ),
            ));
        }
        if broker_id < 0 {
            return Err(invalid(format!("broker id {broker_id} is negative")));
        }
        let other = image
            .brokers
            .get(&broker_id)
            .filter(|b| b.incarnation_id != request.incarnation_id);
        if other.is_some_and(|other| !other.fenced) && self.sessions.is_live(broker_id, now) {
            return Err(ApiError::new(
                ErrorCode::DuplicateBrokerRegistration,
                format!("another live process is registered as broker {broker_id}"),
            ));
        }
        if request.is_migrating_zk_broker {
            return Err(ApiError::new(
                ErrorCode::BrokerIdNotRegistered,
                "ZooKeeper brokers cannot migrate to here",
            ));
        }
        check_directories(image, broker_id, request)
    }
}

fn check_directories(
    image: &MetadataImage,
    broker_id: NodeId,
    request: &BrokerRegistrationRequest,
) -> Result<(), ApiError> {
    if request.log_dirs.is_empty() {
        return Err(invalid("a broker needs a log directory".to_owned()));
    }
    let mut seen = BTreeSet::new();
    for directory in &request.log_dirs {
        // Kafka keeps the first hundred ids for states such as "unassigned".
        if directory.as_u128() < 100 {
            return Err(invalid(format!("directory id {directory} is reserved")));
        }
        if !seen.insert(directory) {
            return Err(invalid(format!("directory id {directory} is given twice")));
        }
        let other = image
            .brokers
            .values()
            .find(|b| b.broker_id != broker_id && b.log_dirs.contains(directory));
        if let Some(other) = other {
            return Err(invalid(format!(
                "directory {directory} belongs to broker {}",
                other.broker_id
            )));
        }
    }
    Ok(())
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(ErrorCode::InvalidRegistration, detail)
}

/// The finalised levels must lie in what the broker can run; a feature it does not name it cannot run.
fn check_features(image: &MetadataImage, broker: &BrokerImage) -> Result<(), ApiError> {
    for (name, level) in &image.features {
        let range = broker.features.iter().find(|range| range.name == *name);
        let (min, max) = range.map_or((0, 0), |range| (range.min_level, range.max_level));
        if !(min..=max).contains(level) {
            return Err(ApiError::new(
                ErrorCode::UnsupportedVersion,
                format!("{name} is finalised at level {level}; the broker supports {min} to {max}"),
            ));
        }
    }
    Ok(())
}

fn broker_image(request: &BrokerRegistrationRequest) -> Result<BrokerImage, ApiError> {
    Ok(BrokerImage {
        broker_id: request.broker_id.0,
        broker_epoch: -1,
        incarnation_id: request.incarnation_id,
        endpoints: request.listeners.iter().map(endpoint).collect::<Result<_, _>>()?,
        features: request.features.iter().map(feature_range).collect(),
        rack: request.rack.as_ref().map(|rack| rack.as_str().into()),
        fenced: true,
        in_controlled_shutdown: false,
        log_dirs: request.log_dirs.clone(),
    })
}

fn endpoint(listener: &Listener) -> Result<Endpoint, ApiError> {
    let number = i32::from(listener.security_protocol);
    let security_protocol = SecurityProtocol::from_number(number).ok_or_else(|| {
        invalid(format!(
            "listener {} has the unknown protocol {number}",
            listener.name
        ))
    })?;
    Ok(Endpoint {
        listener: listener.name.as_str().into(),
        host: listener.host.as_str().into(),
        port: listener.port,
        security_protocol,
    })
}

fn feature_range(feature: &Feature) -> FeatureRange {
    FeatureRange {
        name: feature.name.as_str().into(),
        min_level: feature.min_supported_version,
        max_level: feature.max_supported_version,
    }
}
