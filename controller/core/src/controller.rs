//! What the cluster's metadata becomes: one method per controller API, each reading an image and answering with the records
//! to write and the response to send once they are committed.
//!
//! A [`Controller`] holds no replicated state. Its own state is soft (broker sessions, timers, random numbers) and is set up
//! anew by [`Controller::on_leadership`]. The caller applies the records of each [`Decision`] to its latest image before it
//! asks for the next one, proposes them as one batch, and releases the response when the batch is committed. Nothing here
//! authorises anybody, speaks to brokers or reads a clock.

mod allocate_producer_ids;
mod alter_configs;
mod alter_partition;
mod alter_partition_reassignments;
mod assign_replicas_to_dirs;
mod broker_heartbeat;
mod config_validator;
mod controller_registration;
mod create_partitions;
mod create_topics;
mod delete_topics;
mod describe_cluster;
mod draft;
mod elect_leaders;
mod fencing;
mod partition_change;
mod placement;
mod register_broker;
mod sessions;
mod settings;
mod tick;
mod topic_configs;
mod unregister_broker;
mod update_features;

use std::sync::Arc;

use kafka_protocol::protocol::StrBytes;
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataImage, MetadataRecord};
use odradek_common::time::Now;
use rand::SeedableRng;
use rand::rngs::StdRng;
use slog::Logger;
use uuid::Uuid;

pub use config_validator::{ConfigValidator, PermissiveConfigs, ServerConfigs};
pub use partition_change::{Election, PartitionChangeBuilder};
pub use placement::{PlacementBroker, place_replicas};
pub use settings::ControllerSettings;

use sessions::Sessions;

/// Records to write and the response to send when they are committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<R> {
    /// To be committed as one batch; none if nothing changes.
    pub records: Vec<MetadataRecord>,
    /// The answer.
    pub response: R,
}

impl<R> Decision<R> {
    /// An answer that changes nothing.
    #[must_use]
    pub fn answer(response: R) -> Self {
        Self {
            records: Vec::new(),
            response,
        }
    }
}

/// The active controller's decisions and soft state.
pub struct Controller {
    settings: ControllerSettings,
    configs: Arc<dyn ConfigValidator>,
    sessions: Sessions,
    /// The newest entry with records that was there when this controller began to lead.
    inherited_offset: i64,
    timers: tick::Timers,
    rng: StdRng,
    logger: Logger,
}

impl Controller {
    /// A controller that leads nothing yet; `seed` feeds topic ids and replica placement.
    #[must_use]
    pub fn new(
        settings: ControllerSettings,
        configs: Arc<dyn ConfigValidator>,
        seed: u64,
        logger: Logger,
    ) -> Self {
        let sessions = Sessions::new(settings.broker_session_timeout_ms);
        Self {
            settings,
            configs,
            sessions,
            inherited_offset: 0,
            timers: tick::Timers::default(),
            rng: StdRng::seed_from_u64(seed),
            logger,
        }
    }

    /// Starts a term as the active controller: every unfenced broker gets a whole session timeout to show itself.
    /// `newest_offset` is that of the newest entry with records: brokers never say that they have applied an empty one.
    pub fn on_leadership(&mut self, image: &MetadataImage, now: Now, newest_offset: i64) {
        self.sessions.reset(image, now);
        self.inherited_offset = newest_offset;
        self.timers = tick::Timers::starting(&self.settings, now);
    }

    /// The caller is about to take in what has arrived, as it does many times within a session. If it could not for long,
    /// because the whole process stood still, that was no broker's silence.
    pub fn begin_turn(&mut self, now: Now) {
        self.sessions.begin_turn(now);
    }

    /// The settings it was made with.
    #[must_use]
    pub fn settings(&self) -> &ControllerSettings {
        &self.settings
    }

    fn topic_id(&mut self) -> Uuid {
        loop {
            let bytes: [u8; 16] = rand::Rng::random(&mut self.rng);
            // Kafka's tools print ids in URL-safe base64 and take them as arguments: 62 there is '-', an option's first letter.
            if bytes[0] >> 2 != 62 {
                return uuid::Builder::from_random_bytes(bytes).into_uuid();
            }
        }
    }
}

/// Refuses a broker that is not the registered incarnation.
fn check_broker_epoch(image: &MetadataImage, broker_id: NodeId, broker_epoch: i64) -> Result<(), ApiError> {
    let registered = image.brokers.get(&broker_id).map(|broker| broker.broker_epoch);
    match registered {
        Some(epoch) if epoch == broker_epoch => Ok(()),
        Some(epoch) => Err(ApiError::new(
            ErrorCode::StaleBrokerEpoch,
            format!("broker {broker_id} is registered with epoch {epoch}, not {broker_epoch}"),
        )),
        None => Err(ApiError::new(
            ErrorCode::StaleBrokerEpoch,
            format!("broker {broker_id} is not registered"),
        )),
    }
}

/// `error_code` and `error_message` of an optional refusal.
fn wire_error(error: Option<&ApiError>) -> (i16, Option<StrBytes>) {
    error.map_or((0, None), |error| {
        (error.code(), Some(StrBytes::from_string(error.detail.clone())))
    })
}
