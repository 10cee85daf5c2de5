//! A broker's life as the controller sees it: registration, heartbeats, controlled shutdown.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kafka_protocol::messages::broker_registration_request::{Feature, Listener};
use kafka_protocol::messages::{BrokerHeartbeatRequest, BrokerId, BrokerRegistrationRequest};
use odradek_common::error::ErrorCode;
use odradek_common::metadata::BrokerImage;
use odradek_common::metadata::features::FEATURES;
use odradek_config::listener::Listener as Advertised;
use tokio::sync::watch;
use uuid::Uuid;

use crate::broker::Broker;
use crate::names::text;
use crate::replicas::Replicas;

const REGISTRATION_VERSION: i16 = 4;
const HEARTBEAT_VERSION: i16 = 1;
/// Pause before a refused registration is tried again. A node that starts is refused until it has read its own metadata.
const REGISTRATION_PAUSE: Duration = Duration::from_millis(5);
/// The same once it was refused for longer than [`REGISTRATION_PATIENCE`].
const REGISTRATION_PAUSE_LATER: Duration = Duration::from_millis(50);
/// A broker that is not registered after this says why.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(2);
/// Heartbeats of a broker that waits for something come this much faster.
const IMPATIENT_PAUSE: Duration = Duration::from_millis(20);
/// A stopping broker whose heartbeats are not answered for this long gives up: the quorum is gone too.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);
/// Time for one heartbeat of a stopping broker.
const STOPPING_TIMEOUT: Duration = Duration::from_millis(500);

/// Where a broker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerState {
    /// Not registered yet; says what stands in the way.
    Registering(String),
    /// Registered; its metadata is not up to its registration yet, or the controller has not unfenced it.
    Fenced,
    /// Serving.
    Running,
    /// Its leaderships are being moved.
    ShuttingDown,
    /// The controller lets it go.
    MayStop,
    /// It could not register within `initial.broker.registration.timeout.ms`; says what stood in the way.
    GaveUp(String),
}

/// Speaks to the controller for one broker.
pub struct Lifecycle {
    broker: Arc<Broker>,
    advertised: Vec<Advertised>,
    incarnation: Uuid,
    previous_epoch: i64,
    state: watch::Sender<BrokerState>,
    stop: watch::Receiver<bool>,
    /// Tells that a log directory failed.
    directories_changed: watch::Receiver<u64>,
    /// Since when a broker that wants to stop has had no answer.
    unanswered_since: Option<Instant>,
    /// Metadata offset of the last heartbeat.
    reported_offset: i64,
}

impl Lifecycle {
    /// `previous_epoch` is the broker epoch of the last clean stop, -1 after an unclean one (KIP-966).
    #[must_use]
    pub fn new(
        broker: Arc<Broker>,
        advertised: Vec<Advertised>,
        previous_epoch: i64,
        stop: watch::Receiver<bool>,
    ) -> (Self, watch::Receiver<BrokerState>) {
        let (state, watched) =
            watch::channel(BrokerState::Registering("no controller was asked yet".to_owned()));
        let directories_changed = broker.replicas.directories_changed();
        (
            Self {
                broker,
                directories_changed,
                advertised,
                incarnation: Uuid::new_v4(),
                previous_epoch,
                state,
                stop,
                unanswered_since: None,
                reported_offset: -1,
            },
            watched,
        )
    }

    /// Registers, then beats until the controller lets the broker go.
    pub async fn run(mut self) {
        let config = self.broker.config.load().controller.clone();
        let patience_ms = u64::try_from(config.initial_registration_timeout_ms).unwrap_or(0);
        if !self.register(Some(Duration::from_millis(patience_ms))).await {
            return;
        }
        loop {
            let pause = match self.heartbeat().await {
                Beat::Ended => return,
                Beat::Lost => {
                    // The controller forgot this registration, or another process took the id over.
                    self.incarnation = Uuid::new_v4();
                    if !self.register(None).await {
                        return;
                    }
                    IMPATIENT_PAUSE
                }
                Beat::Again => self.pause(),
            };
            self.rest(pause).await;
        }
    }

    /// Waits for the next heartbeat's time; less if this broker is asked to stop, if another waits to stop until everybody
    /// has its metadata, or if this one has applied what it must have to be unfenced.
    async fn rest(&mut self, pause: Duration) {
        if *self.stop.borrow() {
            tokio::time::sleep(pause).await;
            return;
        }
        let broker = self.broker.clone();
        let mut applied = broker.replicas.applied();
        let awaited = async {
            loop {
                let waits = |b: &Arc<BrokerImage>| b.in_controlled_shutdown && !b.fenced;
                let offset = *applied.borrow();
                if offset > self.reported_offset && broker.image().brokers.values().any(waits) {
                    return;
                }
                let epoch = broker.epoch();
                if self.reported_offset < epoch && offset >= epoch {
                    return;
                }
                if applied.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = self.stop.changed() => {}
            _ = self.directories_changed.changed() => {}
            () = awaited => {}
        }
    }

    fn pause(&self) -> Duration {
        let interval = self.broker.config.load().controller.broker_heartbeat_interval_ms;
        match &*self.state.borrow() {
            BrokerState::Running => Duration::from_millis(u64::try_from(interval).unwrap_or(1)),
            _ => IMPATIENT_PAUSE,
        }
    }

    /// Tries until it is registered; false if this broker stops, or gives up, before that.
    async fn register(&mut self, patience: Option<Duration>) -> bool {
        let mut logged = String::new();
        let began = Instant::now();
        loop {
            let problem = match self.try_register().await {
                Ok(epoch) => {
                    self.broker.broker_epoch.store(epoch, Ordering::Release);
                    self.broker.registered.notify_one();
                    slog::info!(self.broker.log, "broker registered"; "broker_epoch" => epoch);
                    self.state.send_replace(BrokerState::Fenced);
                    return true;
                }
                Err(problem) => problem,
            };
            if *self.stop.borrow() {
                // Nothing is led without a registration.
                self.state.send_replace(BrokerState::MayStop);
                return false;
            }
            if patience.is_some_and(|patience| began.elapsed() >= patience) {
                self.state.send_replace(BrokerState::GaveUp(problem));
                return false;
            }
            // A cluster that starts elects first: that is not worth a line.
            if problem != logged && began.elapsed() >= REGISTRATION_PATIENCE {
                slog::warn!(self.broker.log, "broker not registered yet"; "reason" => &problem);
                logged.clone_from(&problem);
            }
            self.state.send_replace(BrokerState::Registering(problem));
            let pause = if began.elapsed() < REGISTRATION_PATIENCE {
                REGISTRATION_PAUSE
            } else {
                REGISTRATION_PAUSE_LATER
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.stop.changed() => {}
            }
        }
    }

    async fn try_register(&self) -> Result<i64, String> {
        let broker = &self.broker;
        let cluster_id = broker.image().cluster_id.clone();
        if cluster_id.is_empty() {
            return Err("the quorum has not told the cluster id yet".to_owned());
        }
        let listeners = self.advertised.iter().map(|listener| {
            Listener::default()
                .with_name(text(&listener.name))
                .with_host(text(&listener.host))
                .with_port(listener.port)
                .with_security_protocol(listener.security_protocol as i16)
        });
        let features = FEATURES.iter().map(|feature| {
            let range = Feature::default().with_name(text(feature.name));
            range
                .with_min_supported_version(feature.min_level)
                .with_max_supported_version(feature.max_level)
        });
        let request = BrokerRegistrationRequest::default()
            .with_broker_id(BrokerId(broker.node_id))
            .with_cluster_id(text(&cluster_id))
            .with_incarnation_id(self.incarnation)
            .with_listeners(listeners.collect())
            .with_features(features.collect())
            .with_rack(broker.config.load().node.rack.as_deref().map(text))
            .with_log_dirs(
                broker
                    .replicas
                    .online()
                    .map(|(directory, _)| directory.id())
                    .collect(),
            )
            .with_previous_broker_epoch(self.previous_epoch);
        let timeout = self.request_timeout();
        let response = broker
            .controller
            .send(REGISTRATION_VERSION, &request, timeout)
            .await;
        let response = response.map_err(|error| error.to_string())?;
        match response.error_code {
            0 => Ok(response.broker_epoch),
            code if code == ErrorCode::DuplicateBrokerRegistration.code() => Err(format!(
                "another broker with node.id {} is registered and alive: give each node an id of its own",
                broker.node_id
            )),
            code => Err(format!(
                "the controller refused the registration with error {code}"
            )),
        }
    }

    async fn heartbeat(&mut self) -> Beat {
        let broker = &self.broker;
        let wants_to_stop = *self.stop.borrow();
        if wants_to_stop && !broker.config.load().controller.controlled_shutdown {
            slog::info!(broker.log, "leaderships are not handed over"; "controlled.shutdown.enable" => false);
            self.state.send_replace(BrokerState::MayStop);
            return Beat::Ended;
        }
        let offset = *broker.replicas.applied().borrow();
        let (offline, none_left) = offline_dirs(&broker.replicas);
        let request = BrokerHeartbeatRequest::default()
            .with_broker_id(BrokerId(broker.node_id))
            .with_broker_epoch(broker.epoch())
            .with_current_metadata_offset(offset)
            .with_want_fence(none_left)
            .with_offline_log_dirs(offline)
            .with_want_shut_down(wants_to_stop);
        let timeout = if wants_to_stop {
            STOPPING_TIMEOUT
        } else {
            self.request_timeout()
        };
        let response = match broker.controller.send(HEARTBEAT_VERSION, &request, timeout).await {
            Ok(response) => response,
            Err(error) => {
                slog::warn!(broker.log, "heartbeat not answered"; "error" => %error);
                let since = *self.unanswered_since.get_or_insert_with(Instant::now);
                if wants_to_stop && since.elapsed() >= SHUTDOWN_PATIENCE {
                    slog::warn!(
                        broker.log,
                        "no controller to hand leaderships over to; stopping all the same"
                    );
                    self.state.send_replace(BrokerState::MayStop);
                    return Beat::Ended;
                }
                return Beat::Again;
            }
        };
        self.unanswered_since = None;
        self.reported_offset = offset;
        let lost = [
            ErrorCode::StaleBrokerEpoch.code(),
            ErrorCode::BrokerIdNotRegistered.code(),
        ];
        if lost.contains(&response.error_code) {
            slog::warn!(broker.log, "registration lost"; "error" => response.error_code);
            if wants_to_stop {
                // Nothing is led under a registration that is gone.
                self.state.send_replace(BrokerState::MayStop);
                return Beat::Ended;
            }
            return Beat::Lost;
        }
        if response.error_code != 0 {
            slog::warn!(broker.log, "heartbeat refused"; "error" => response.error_code);
            return Beat::Again;
        }
        let state = match (wants_to_stop, response.should_shut_down, response.is_fenced) {
            (true, true, _) => BrokerState::MayStop,
            (true, false, _) => BrokerState::ShuttingDown,
            (false, _, true) => BrokerState::Fenced,
            (false, _, false) => BrokerState::Running,
        };
        let ended = state == BrokerState::MayStop;
        let changed = *self.state.borrow() != state;
        if changed {
            slog::info!(broker.log, "broker state"; "state" => ?state);
            self.state.send_replace(state);
        }
        if ended { Beat::Ended } else { Beat::Again }
    }

    fn request_timeout(&self) -> Duration {
        let session = self.broker.config.load().controller.broker_session_timeout_ms;
        Duration::from_millis(u64::try_from(session / 2).unwrap_or(1))
    }
}

/// Directories that failed while others serve, whose leaderships the controller moves; or whether there is none left, and
/// the broker is to be fenced.
fn offline_dirs(replicas: &Replicas) -> (Vec<Uuid>, bool) {
    if replicas.online().next().is_none() {
        return (Vec::new(), true);
    }
    let failed = replicas
        .directories()
        .iter()
        .filter(|directory| directory.is_offline());
    // One that was found broken at the start is not in the registration.
    let known = failed.filter(|directory| directory.logs().is_some());
    (known.map(|directory| directory.id()).collect(), false)
}

enum Beat {
    Again,
    Lost,
    Ended,
}
