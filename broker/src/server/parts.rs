//! The two roles of a node, each from its sockets to its stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::Duration;

use arc_swap::ArcSwap;
use odradek_broker_core::fetch_session::FetchSessions;
use odradek_broker_log::directory::LogDirectory;
use odradek_config::ServerConfig;
use odradek_controller::client::{MetadataReader, OtherCluster, RemoteMetadata};
use odradek_controller::handle::ControllerHandle;
use odradek_controller::node::ControllerNode;
use odradek_controller::service::ControllerService;
use odradek_controller::settings::NodeSettings;
use odradek_controller::update::MetadataReceiver;
use odradek_controller_core::controller::ServerConfigs;
use odradek_net::budget::MemoryBudget;
use odradek_net::client::ClientSettings;
use odradek_net::listener::{BoundListener, Listener};
use odradek_net::service::Service;
use parking_lot::Mutex;
use slog::{Logger, o};
use tokio::sync::watch;

use super::client_listeners::ClientListeners;
use super::directories::{self, Identity};
use super::exposition::ExposedBroker;
use super::{Ground, STOP_GRACE, ServerError, advertised, clean_stop, controller_addresses, tasks};
use crate::api::BrokerService;
use crate::api::fetch::FETCH_MEMORY_BYTES;
use crate::broker::{Broker, ImageCell};
use crate::cleaner::Cleaner;
use crate::cleaner::cleaning::Cleaning;
use crate::connection_limits::connect_timeout;
use crate::controller_channel::ControllerChannel;
use crate::coordinator::groups::GroupCoordinators;
use crate::coordinator::transactions::TransactionCoordinators;
use crate::data_directory::DataDirectory;
use crate::fetcher::Fetchers;
use crate::group_commit::GroupCommit;
use crate::isr::IsrUpdates;
use crate::lifecycle::{BrokerState, Lifecycle};
use crate::lost_leaders::LostLeaders;
use crate::maintenance::Maintenance;
use crate::metadata::MetadataLoader;
use crate::metrics::Metrics;
use crate::mover::Mover;
use crate::producer_ids::ProducerIds;
use crate::replicas::Replicas;
use crate::scrubber::Scrubber;
use crate::topic_creation::TopicCreation;
use crate::verification::Verifier;
use crate::vital;

/// Time for one request to the controller.
const CONTROLLER_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a controller that is to vote to catch up.
const JOIN_MAX: Duration = Duration::from_secs(60);
/// A broker that the controller does not let go stops all the same after this.
const CONTROLLED_SHUTDOWN_MAX: Duration = Duration::from_secs(60);

/// The controller role.
pub(super) struct ControllerParts {
    pub(super) handle: ControllerHandle,
    listeners: Vec<Listener>,
}

impl ControllerParts {
    pub(super) fn start(
        ground: &Ground,
        identity: &Identity,
        bound: Vec<(String, BoundListener)>,
    ) -> Result<Self, ServerError> {
        let config = &ground.config;
        let voters = &config.quorum.voters;
        let settings = NodeSettings {
            node_id: config.node.node_id,
            cluster_id: identity.meta.cluster_id.clone(),
            directory_id: identity.meta.directory_id,
            metadata_log_dir: identity.metadata_log_dir.clone(),
            endpoints: directories::controller_endpoints(config),
            voters: voters
                .iter()
                .map(|v| (v.id, v.address.host.clone(), v.address.port))
                .collect(),
            bootstrap_servers: config
                .quorum
                .bootstrap_servers
                .iter()
                .map(ToString::to_string)
                .collect(),
            auto_join: config.quorum.auto_join,
            election_timeout_ms: u64::from(config.quorum.election_timeout_ms),
            snapshot_after_bytes: u64::try_from(config.quorum.snapshot_after_bytes).unwrap_or(u64::MAX),
            // 0 switches snapshots by time off.
            snapshot_after_ms: match u64::try_from(config.quorum.snapshot_interval_ms).unwrap_or(0) {
                0 => u64::MAX,
                interval_ms => interval_ms,
            },
            fetch_bytes_max: usize::try_from(config.quorum.fetch_bytes_max).unwrap_or(usize::MAX),
            quorum_request_timeout: Duration::from_millis(config.quorum.request_timeout_ms.into()),
            fencing_probe: config.controller.fencing_probe,
            join_max: JOIN_MAX,
            request_timeout: CONTROLLER_REQUEST_TIMEOUT,
            config: config.clone(),
            controller: (&**config).into(),
            configs: Arc::new(ServerConfigs(config.clone())),
        };
        let handle = ControllerNode::start(settings, &ground.log)
            .map_err(|error| ServerError::because("cannot start the controller", &error))?;
        let service: Arc<dyn Service> = ControllerService::new(handle.clone(), &ground.log);
        let listeners = ground.serve(bound, &service);
        let told = config.listeners.advertised_controller.clone();
        let dialled = advertised::check(told, config.clone(), ground.log.clone());
        tokio::runtime::Handle::current().spawn(dialled);
        Ok(Self { handle, listeners })
    }

    /// Hands leadership over, then closes.
    pub(super) async fn stop(self) {
        self.handle.shutdown().await;
        for listener in &self.listeners {
            listener.stop(STOP_GRACE).await;
        }
    }
}

/// The broker role.
pub(super) struct BrokerParts {
    broker: Arc<Broker>,
    listeners: ClientListeners,
    fetchers: Arc<Fetchers>,
    maintenance: Maintenance,
    cleaner: Cleaner,
    mover: Mover,
    scrubber: Scrubber,
    group_commit: GroupCommit,
    state: watch::Receiver<BrokerState>,
    stop: watch::Sender<bool>,
    /// The broker epoch of the last clean stop, -1 after an unclean one.
    previous_epoch: i64,
    /// Reads metadata while it lives.
    remote: Option<RemoteMetadata>,
}

impl BrokerParts {
    pub(super) fn start(
        ground: &Ground,
        identity: &Identity,
        local: Option<ControllerHandle>,
        bound: Vec<(String, BoundListener)>,
    ) -> Result<Self, ServerError> {
        let config = &ground.config;
        let directories = directories::open(ground, identity)?;
        let clean = directories
            .iter()
            .all(|directory| directory.logs().is_some_and(LogDirectory::is_clean_start));
        let open = directories.iter().filter_map(DataDirectory::logs);
        let noted = clean_stop::take(open.map(LogDirectory::path))
            .map_err(|error| ServerError::because("cannot read the note of the last clean stop", &error))?;
        let previous_epoch = if clean { noted } else { -1 };
        let broker = Broker::new(config, &ground.log, directories, local.clone());
        let runtime = tokio::runtime::Handle::current();
        // Beside the connections whose acks=all produce requests wait for what they fetch.
        let workers = (0..ground.workers.len()).map(|index| ground.workers.handle(index).clone());
        let fetchers = Fetchers::new(
            workers.collect(),
            config.listeners.inter_broker_listener_name.clone(),
        );
        fetchers.attach(&broker);
        let from_elsewhere = local.is_none().then(|| from_elsewhere(ground, identity));
        let (remote, reading) = from_elsewhere.unzip();
        let updates = match (&local, &remote) {
            (Some(local), _) => local.subscribe(),
            (None, Some(remote)) => remote.log().subscribe(),
            (None, None) => {
                return Err(ServerError(
                    "this node has no way to the cluster's metadata".to_owned(),
                ));
            }
        };
        start_metadata(ground, &broker, &fetchers, updates)?;
        let advertised = advertised::complete(config, &advertised::ports(&bound));
        let service = Arc::new(BrokerService::new(broker.clone()));
        let applied = broker.replicas.applied();
        let listeners = ClientListeners::open_once_applied(ground, bound, service, applied);
        let dialled = advertised::check(advertised.clone(), config.clone(), ground.log.clone());
        runtime.spawn(dialled);
        let (stop, stopping) = watch::channel(false);
        let (lifecycle, state) = Lifecycle::new(broker.clone(), advertised, previous_epoch, stopping);
        for task in tasks::of_broker(&broker, lifecycle, reading) {
            runtime.spawn(task.run(&broker.log));
        }
        let maintenance = Maintenance::start(broker.clone())
            .map_err(|error| ServerError::because("cannot start the maintenance thread", &error))?;
        let cleaner = Cleaner::start(broker.clone())
            .map_err(|error| ServerError::because("cannot start the threads of compaction", &error))?;
        let mover = Mover::start(broker.clone())
            .map_err(|error| ServerError::because("cannot start the threads that move replicas", &error))?;
        let scrubber = Scrubber::start(broker.clone(), runtime)
            .map_err(|error| ServerError::because("cannot start the thread that checks segments", &error))?;
        let group_commit = GroupCommit::start(&broker.replicas, &broker.log)
            .map_err(|error| ServerError::because("cannot start the threads that flush logs", &error))?;
        Ok(Self {
            broker,
            listeners,
            fetchers,
            maintenance,
            cleaner,
            mover,
            scrubber,
            group_commit,
            state,
            stop,
            previous_epoch,
            remote,
        })
    }

    /// Waits for a controller that belongs to another cluster than this node's directory.
    pub(super) async fn other_cluster(&self) -> OtherCluster {
        let Some(remote) = &self.remote else {
            return std::future::pending().await;
        };
        let mut found = remote.other_cluster();
        match found.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(other)) => other.clone(),
            // The reader has ended: nobody else will say.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Waits for the broker to give its registration up; says what stood in the way.
    pub(super) async fn gave_up(&self) -> String {
        let mut state = self.state.clone();
        match state
            .wait_for(|state| matches!(state, BrokerState::GaveUp(_)))
            .await
            .as_deref()
        {
            Ok(BrokerState::GaveUp(reason)) => reason.clone(),
            // Its life has ended otherwise.
            Ok(_) | Err(_) => std::future::pending().await,
        }
    }

    /// Waits until no log directory works any more.
    pub(super) async fn all_directories_failed(&self) {
        let replicas = &self.broker.replicas;
        let mut changed = replicas.directories_changed();
        while replicas.online().next().is_some() {
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// What the metrics listener shows.
    pub(super) fn exposed(&self) -> ExposedBroker {
        ExposedBroker {
            broker: self.broker.clone(),
            state: self.state.clone(),
        }
    }

    /// Moves leaderships away, answers what was begun, closes the logs, and notes the clean stop.
    pub(super) async fn stop(mut self, ground: &Ground) {
        self.stop.send_replace(true);
        let may_stop = |state: &BrokerState| matches!(state, BrokerState::MayStop | BrokerState::GaveUp(_));
        let released = self.state.wait_for(may_stop);
        if tokio::time::timeout(CONTROLLED_SHUTDOWN_MAX, released)
            .await
            .is_err()
        {
            slog::warn!(
                ground.log,
                "the controller did not let this broker go in time; stopping all the same"
            );
        }
        self.broker.groups.stop();
        self.broker.transactions.stop();
        self.broker.stop_parking();
        self.listeners.stop().await;
        self.fetchers.stop();
        let (broker, log) = (self.broker.clone(), ground.log.clone());
        let (mut maintenance, mut cleaner, mut mover) = (self.maintenance, self.cleaner, self.mover);
        let (mut scrubber, mut group_commit) = (self.scrubber, self.group_commit);
        let previous_epoch = self.previous_epoch;
        let closed = tokio::task::spawn_blocking(move || {
            cleaner.stop();
            mover.stop();
            scrubber.stop();
            maintenance.stop();
            group_commit.stop();
            close_logs(&broker, previous_epoch, &log);
        });
        // A panic in there has been reported by the panic hook; the next start recovers.
        _ = closed.await;
    }
}

/// Closes the logs and notes the epoch that the next registration names. A broker that has not registered since its last stop
/// still has everything that it had then: the controller knows it by the epoch of that time (KIP-966).
fn close_logs(broker: &Broker, previous_epoch: i64, log: &Logger) {
    broker.replicas.close_clean();
    let epoch = match broker.epoch() {
        -1 => previous_epoch,
        registered => registered,
    };
    for (directory, _) in broker.replicas.online() {
        let path = directory.path();
        if let Err(error) = clean_stop::write(path, epoch) {
            slog::warn!(log, "no note of the clean stop"; "path" => %path.display(), "error" => %error);
        }
    }
}

impl Broker {
    /// A broker that nobody has told of the cluster yet. Needs a runtime, which it runs its tasks on.
    pub(crate) fn new(
        config: &Arc<ServerConfig>,
        log: &Logger,
        directories: Vec<DataDirectory>,
        local: Option<ControllerHandle>,
    ) -> Arc<Self> {
        let node_id = config.node.node_id;
        let log = log.new(o!("broker" => node_id));
        let image: Arc<ImageCell> = Arc::default();
        let metrics = Metrics::new();
        let settings = ClientSettings {
            client_id: format!("broker-{node_id}"),
            request_timeout: CONTROLLER_REQUEST_TIMEOUT,
            connect_timeout: connect_timeout(config),
            negotiate: false,
            ..ClientSettings::default()
        };
        let controller = ControllerChannel::new(
            local,
            &settings,
            controller_addresses(config),
            image.clone(),
            format!("broker-{node_id}"),
        );
        let slots = usize::try_from(config.socket.fetch_session_cache_slots).unwrap_or(0);
        Arc::new(Self {
            node_id,
            config: ArcSwap::new(config.clone()),
            client_listener: config.listeners.inter_broker_listener_name.as_str().into(),
            fetch_max_bytes: usize::try_from(config.socket.fetch_bytes_max).unwrap_or(usize::MAX),
            replicas: Replicas::new(node_id, directories, metrics.clone(), image.clone(), log.clone()),
            controller,
            fetch_memory: MemoryBudget::new(FETCH_MEMORY_BYTES),
            sessions: Mutex::new(FetchSessions::new(slots, rand::random_range(1..i32::MAX / 2))),
            groups: GroupCoordinators::new(tokio::runtime::Handle::current(), config, log.clone()),
            transactions: TransactionCoordinators::new(
                tokio::runtime::Handle::current(),
                config,
                log.clone(),
            ),
            isr: Arc::new(IsrUpdates::default()),
            verifier: Verifier::new(tokio::runtime::Handle::current(), node_id, config, log.clone()),
            producer_ids: ProducerIds::default(),
            topic_creation: TopicCreation::default(),
            lost_leaders: LostLeaders::default(),
            cleaning: Cleaning::default(),
            metrics,
            image,
            broker_epoch: Arc::new(AtomicI64::new(-1)),
            registered: tokio::sync::Notify::new(),
            stopping: AtomicBool::new(false),
            log,
        })
    }
}

/// The metadata of a node that has no controller, and what reads it.
fn from_elsewhere(
    ground: &Ground,
    identity: &Identity,
) -> (RemoteMetadata, impl Future<Output = ()> + Send + use<>) {
    let reader = MetadataReader {
        node_id: ground.config.node.node_id,
        directory_id: identity.meta.directory_id,
        cluster_id: identity.meta.cluster_id.clone(),
    };
    RemoteMetadata::new(reader, controller_addresses(&ground.config), &ground.log)
}

/// Metadata flows from its source to a thread of its own, which opens logs and so may block.
fn start_metadata(
    ground: &Ground,
    broker: &Arc<Broker>,
    fetchers: &Arc<Fetchers>,
    updates: MetadataReceiver,
) -> Result<(), ServerError> {
    let quotas = [ground.context.quotas.clone(), ground.controller_quotas.clone()];
    let loader = MetadataLoader::new(broker.clone(), fetchers.clone(), ground.config.clone(), quotas);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| ServerError::because("cannot start the metadata thread", &error))?;
    let thread = std::thread::Builder::new().name("metadata".to_owned());
    let log = ground.log.clone();
    thread
        .spawn(move || vital::work("metadata", &log, || runtime.block_on(loader.run(updates))))
        .map_err(|error| ServerError::because("cannot start the metadata thread", &error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::fixtures::LoneBroker;

    #[tokio::test]
    async fn a_stop_before_the_registration_keeps_the_note_of_the_stop_before() {
        let folder = tempfile::tempdir().unwrap();
        let LoneBroker { broker, .. } = LoneBroker::at(folder.path());
        let noted = || clean_stop::take(std::iter::once(folder.path())).unwrap();
        close_logs(&broker, 7, &broker.log);
        assert_eq!(noted(), 7);
        close_logs(&broker, -1, &broker.log);
        assert_eq!(noted(), -1, "the stop before was unclean");
        broker.broker_epoch.store(9, Ordering::Release);
        close_logs(&broker, 7, &broker.log);
        assert_eq!(noted(), 9);
    }
}
