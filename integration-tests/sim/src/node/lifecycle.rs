//! Registration, heartbeats and controlled shutdown, as `broker/src/lifecycle.rs` has them.

use kafka_protocol::messages::broker_registration_request::{Feature, Listener};
use kafka_protocol::messages::{
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerId, BrokerRegistrationRequest,
    BrokerRegistrationResponse,
};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::metadata::features::FEATURES;
use uuid::Uuid;

use super::broker::{BrokerNode, Purpose};
use crate::env::Env;
use crate::message::ControllerRequest;
use crate::scenario::{BROKER_SESSION_MS, HEARTBEAT_MS};

const REGISTRATION_PAUSE_MS: u64 = 50;
const IMPATIENT_PAUSE_MS: u64 = 20;

/// Where a broker stands.
pub struct Lifecycle {
    /// New at every start.
    pub incarnation: Uuid,
    /// -1 before the registration.
    pub epoch: i64,
    /// It was asked to stop.
    pub wants_to_stop: bool,
    /// The controller lets it go.
    pub may_stop: bool,
    previous_epoch: i64,
    serves: bool,
    waits: bool,
    due_ms: u64,
    registers: bool,
}

impl Lifecycle {
    pub(super) fn new(env: &mut Env, previous_epoch: i64) -> Self {
        Self {
            incarnation: env.rng.uuid(),
            epoch: -1,
            wants_to_stop: false,
            may_stop: false,
            previous_epoch,
            serves: false,
            waits: false,
            due_ms: 0,
            registers: true,
        }
    }
}

impl BrokerNode {
    pub(super) fn pursue_lifecycle(&mut self, env: &mut Env) {
        let lifecycle = &self.lifecycle;
        if lifecycle.waits || lifecycle.may_stop || env.now.mono_ms < lifecycle.due_ms {
            return;
        }
        let (purpose, request) = if lifecycle.registers {
            let cluster_id = self.newest_cluster_id();
            if cluster_id.is_empty() {
                return;
            }
            (
                Purpose::Register,
                ControllerRequest::Register(Box::new(self.registration(&cluster_id))),
            )
        } else {
            let request = BrokerHeartbeatRequest::default()
                .with_broker_id(BrokerId(self.at.node))
                .with_broker_epoch(lifecycle.epoch)
                .with_current_metadata_offset(self.image.offset)
                .with_want_shut_down(lifecycle.wants_to_stop);
            (Purpose::Heartbeat, ControllerRequest::Heartbeat(request))
        };
        self.lifecycle.waits = true;
        self.call(env, purpose, request, BROKER_SESSION_MS / 2);
    }

    fn registration(&self, cluster_id: &str) -> BrokerRegistrationRequest {
        let features = FEATURES.iter().map(|feature| {
            Feature::default()
                .with_name(StrBytes::from_static_str(feature.name))
                .with_min_supported_version(feature.min_level)
                .with_max_supported_version(feature.max_level)
        });
        let listener = Listener::default()
            .with_name(StrBytes::from_static_str("PLAINTEXT"))
            .with_host(StrBytes::from_static_str("localhost"))
            .with_port(9_092);
        let directory = Uuid::from_u128(1_000 + u128::from(self.at.node.unsigned_abs()));
        BrokerRegistrationRequest::default()
            .with_broker_id(BrokerId(self.at.node))
            .with_cluster_id(StrBytes::from_string(cluster_id.to_owned()))
            .with_incarnation_id(self.lifecycle.incarnation)
            .with_listeners(vec![listener])
            .with_features(features.collect())
            .with_log_dirs(vec![directory])
            .with_previous_broker_epoch(self.lifecycle.previous_epoch)
    }

    pub(super) fn registered(&mut self, env: &mut Env, response: Option<&BrokerRegistrationResponse>) {
        let lifecycle = &mut self.lifecycle;
        lifecycle.waits = false;
        match response {
            Some(response) if response.error_code == 0 => {
                lifecycle.epoch = response.broker_epoch;
                lifecycle.registers = false;
                lifecycle.due_ms = env.now.mono_ms;
                env.note(format_args!(
                    "broker {} registered in epoch {}",
                    self.at.node, response.broker_epoch
                ));
            }
            Some(_) | None => lifecycle.due_ms = env.now.mono_ms + REGISTRATION_PAUSE_MS,
        }
    }

    pub(super) fn beaten(&mut self, env: &mut Env, response: Option<&BrokerHeartbeatResponse>) {
        let now_ms = env.now.mono_ms;
        let lost = [
            ErrorCode::StaleBrokerEpoch.code(),
            ErrorCode::BrokerIdNotRegistered.code(),
        ];
        let lifecycle = &mut self.lifecycle;
        lifecycle.waits = false;
        match response {
            Some(response) if lost.contains(&response.error_code) => {
                env.note(format_args!(
                    "broker {} lost its registration {}",
                    self.at.node, lifecycle.epoch
                ));
                lifecycle.incarnation = env.rng.uuid();
                lifecycle.registers = true;
                lifecycle.serves = false;
            }
            Some(response) if response.error_code == 0 => {
                lifecycle.may_stop = lifecycle.wants_to_stop && response.should_shut_down;
                lifecycle.serves = !lifecycle.wants_to_stop && !response.is_fenced;
            }
            Some(_) | None => {}
        }
        let pause_ms = if lifecycle.serves {
            HEARTBEAT_MS
        } else {
            IMPATIENT_PAUSE_MS
        };
        lifecycle.due_ms = now_ms + pause_ms;
    }
}
