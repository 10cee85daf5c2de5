//! One process: directories, listeners, controller, broker, in the order in which they may start and stop.

mod advertised;
mod clean_stop;
mod client_listeners;
mod descriptors;
mod directories;
mod exposition;
mod parts;
mod signals;
mod tasks;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use odradek_config::ServerConfig;
use odradek_controller::client::OtherCluster;
use odradek_controller::meta_properties;
use odradek_net::budget::MemoryBudget;
use odradek_net::listener::{
    BACKLOG, BoundListener, ConnectionQuotas, Listener, ListenerContext, ListenerSettings,
};
use odradek_net::service::Service;
use odradek_net::worker::WorkerPool;
use slog::Logger;

use crate::connection_limits::apply_connection_limits;
use crate::metrics::Connections;
use crate::replicas::error_chain;
use exposition::NodeExposition;
use parts::{BrokerParts, ControllerParts};
use signals::StopSignals;

/// How long connections may finish their requests when the process stops.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Threads for heartbeats, replication, coordinators and metrics.
const CONTROL_THREADS: usize = 2;

/// Why a node did not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServerError(pub String);

impl ServerError {
    fn because(what: &str, error: &dyn std::error::Error) -> Self {
        Self(format!("{what}: {}", error_chain(error)))
    }
}

/// Runs a node until it is asked to stop.
///
/// # Errors
/// What must be mended before the node can start, in words.
pub fn run(config: ServerConfig, dev: bool, log: &Logger) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| ServerError::because("cannot start threads", &error))?;
    runtime.block_on(async {
        let mut signals = StopSignals::catch()?;
        let node = tokio::select! {
            node = Node::start(Arc::new(config), dev, log.clone()) => node?,
            // It waits only before it opens anything in its directories.
            signal = signals.received() => {
                slog::info!(log, "stopping before the start"; "signal" => signal);
                return Ok(());
            }
        };
        let outcome = node.until_asked_to_stop(&mut signals).await;
        node.stop().await;
        outcome
    })
}

/// What both roles share.
pub(crate) struct Ground {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) log: Logger,
    pub(crate) workers: Arc<WorkerPool>,
    pub(crate) context: ListenerContext,
    pub(crate) connections: Arc<Connections>,
    /// Memory for requests to the controller: clients that use up the broker's do not silence the quorum.
    pub(crate) controller_budget: MemoryBudget,
    /// And that use up its connections.
    pub(crate) controller_quotas: Arc<ConnectionQuotas>,
    /// How many files may be open at once.
    pub(crate) files_max: u64,
}

struct Node {
    ground: Ground,
    /// As `meta.properties` says.
    cluster_id: String,
    controller: Option<ControllerParts>,
    broker: Option<BrokerParts>,
}

impl Node {
    async fn start(config: Arc<ServerConfig>, dev: bool, log: Logger) -> Result<Self, ServerError> {
        let identity = directories::prepare(&config, dev, &log).await?;
        let recorder = exposition::install_recorder()?;
        let ground = Ground::new(config.clone(), log)?;
        let bound = bind_all(&config)?;
        let metrics_socket = exposition::bind(&config, &ground.log).await?;
        let (for_controllers, for_brokers): (Vec<_>, Vec<_>) = bound
            .into_iter()
            .partition(|(name, _)| config.listeners.is_controller(name));
        let mut controller = None;
        if config.node.roles.controller {
            controller = Some(ControllerParts::start(&ground, &identity, for_controllers)?);
        }
        let mut broker = None;
        if config.node.roles.broker {
            let local = controller.as_ref().map(|parts| parts.handle.clone());
            broker = Some(BrokerParts::start(&ground, &identity, local, for_brokers)?);
        }
        if let Some(socket) = metrics_socket {
            let exposition = NodeExposition {
                recorder,
                broker: broker.as_ref().map(BrokerParts::exposed),
                controller: controller.as_ref().map(|parts| parts.handle.clone()),
                connections: ground.connections.clone(),
                budgets: [ground.context.budget.clone(), ground.controller_budget.clone()],
            };
            exposition.serve(socket, &ground.log);
        }
        Ok(Self {
            ground,
            cluster_id: identity.meta.cluster_id,
            controller,
            broker,
        })
    }

    /// A signal, or the end of a part that the node cannot do without.
    async fn until_asked_to_stop(&self, signals: &mut StopSignals) -> Result<(), ServerError> {
        let controller_ended = async {
            match &self.controller {
                Some(parts) => parts.handle.ended().await,
                None => std::future::pending().await,
            }
        };
        let other_cluster = async {
            match &self.broker {
                Some(parts) => parts.other_cluster().await,
                None => std::future::pending().await,
            }
        };
        let gave_up = async {
            match &self.broker {
                Some(parts) => parts.gave_up().await,
                None => std::future::pending().await,
            }
        };
        let directories_failed = async {
            match &self.broker {
                Some(parts) => parts.all_directories_failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            signal = signals.received() => slog::info!(self.ground.log, "stopping"; "signal" => signal),
            ended = controller_ended => {
                let reason = ended.err().unwrap_or_else(|| "it ended without a reason".to_owned());
                return Err(ServerError(format!("the controller stopped: {reason}")));
            }
            other = other_cluster => return Err(self.on_other_cluster(&other)),
            () = directories_failed => return Err(self.on_directories_failed()),
            reason = gave_up => return Err(self.on_gave_up(&reason)),
        }
        Ok(())
    }

    fn on_other_cluster(&self, other: &OtherCluster) -> ServerError {
        let file = Path::new(&self.ground.config.node.metadata_log_dir).join(meta_properties::FILE);
        ServerError(format!(
            "{} says cluster.id={}, but the controller at {} belongs to cluster {}: point log.dirs to a directory of that \
             cluster (an empty one joins it), or controller.quorum.bootstrap.servers to this node's own cluster",
            file.display(),
            self.cluster_id,
            other.controller,
            other.cluster_id
        ))
    }

    fn on_directories_failed(&self) -> ServerError {
        let directories = self.ground.config.node.log_dirs.join(", ");
        ServerError(format!(
            "all log directories failed, {directories}: the log above says why; mend the disks and start this node again"
        ))
    }

    fn on_gave_up(&self, reason: &str) -> ServerError {
        let config = &self.ground.config;
        ServerError(format!(
            "this broker could not register with the controllers at {} within initial.broker.registration.timeout.ms={}: \
             {reason}",
            controller_addresses(config).join(", "),
            config.controller.initial_registration_timeout_ms
        ))
    }

    async fn stop(self) {
        if let Some(broker) = self.broker {
            broker.stop(&self.ground).await;
        }
        if let Some(controller) = self.controller {
            controller.stop().await;
        }
        self.ground.workers.stop();
        slog::info!(self.ground.log, "stopped");
    }
}

impl Ground {
    fn new(config: Arc<ServerConfig>, log: Logger) -> Result<Self, ServerError> {
        let files_max = descriptors::raise_limit(&log);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let configured = usize::try_from(config.odradek.broker_workers).unwrap_or(0);
        let count = if configured == 0 { cores } else { configured };
        let workers = WorkerPool::start(count, "worker")
            .map_err(|error| ServerError::because("cannot start worker threads", &error))?;
        let workers = Arc::new(workers);
        let connections = Arc::new(Connections::default());
        let request_memory_bytes =
            usize::try_from(config.odradek.request_memory_bytes_max).unwrap_or(usize::MAX);
        let quotas = ConnectionQuotas::unlimited();
        let controller_quotas = ConnectionQuotas::unlimited();
        for quotas in [&quotas, &controller_quotas] {
            apply_connection_limits(quotas, &config, &log);
        }
        let context = ListenerContext {
            budget: MemoryBudget::new(request_memory_bytes),
            quotas,
            descriptors_max: descriptors::without_reserve(files_max),
            observer: connections.clone(),
            ..ListenerContext::new(workers.clone(), log.clone())
        };
        Ok(Self {
            config,
            log,
            workers,
            context,
            connections,
            controller_budget: MemoryBudget::new(request_memory_bytes),
            controller_quotas,
            files_max,
        })
    }

    /// Serves bound sockets.
    pub(crate) fn serve(
        &self,
        bound: Vec<(String, BoundListener)>,
        service: &Arc<dyn Service>,
    ) -> Vec<Listener> {
        let start = |(name, bound): (String, BoundListener)| {
            bound.start(&self.listener_context(&name), service.clone())
        };
        bound.into_iter().map(start).collect()
    }

    /// What a listener of that name shares with others.
    fn listener_context(&self, name: &str) -> ListenerContext {
        let mut context = self.context.clone();
        if self.config.listeners.is_controller(name) {
            context.budget = self.controller_budget.clone();
            context.quotas = self.controller_quotas.clone();
            context.descriptors_max = u64::MAX;
        }
        context
    }
}

/// Opens every listener's socket, so that a port in use is found before anything else is begun.
fn bind_all(config: &ServerConfig) -> Result<Vec<(String, BoundListener)>, ServerError> {
    let mut bound = Vec::new();
    for listener in &config.listeners.listeners {
        let socket = &config.socket;
        let settings = ListenerSettings {
            backlog: backlog(config),
            request_max_bytes: usize::try_from(socket.request_bytes_max).unwrap_or(usize::MAX),
            max_idle: u64::try_from(socket.connections_max_idle_ms)
                .ok()
                .map(Duration::from_millis),
            connections_max: own_connections_max(config, &listener.name),
            is_for_nodes: is_for_nodes(config, &listener.name),
            send_buffer_bytes: buffer_bytes(config, "socket.send.buffer.bytes", socket.send_buffer_bytes),
            receive_buffer_bytes: buffer_bytes(
                config,
                "socket.receive.buffer.bytes",
                socket.receive_buffer_bytes,
            ),
            ..ListenerSettings::new(&listener.name, &listener.host, listener.port)
        };
        let opened = BoundListener::bind(settings).map_err(|error| ServerError(error_chain(&error)))?;
        bound.push((listener.name.clone(), opened));
    }
    Ok(bound)
}

/// As many as the system allows, unless somebody wants another number.
fn backlog(config: &ServerConfig) -> i32 {
    if config.was_set("socket.listen.backlog.size") {
        i32::try_from(config.socket.listen_backlog).unwrap_or(i32::MAX)
    } else {
        BACKLOG
    }
}

/// A size that nobody has set is left to the system: it begins with about as much, and grows with what a connection moves.
fn buffer_bytes(config: &ServerConfig, key: &str, bytes: i32) -> Option<usize> {
    usize::try_from(bytes).ok().filter(|_| config.was_set(key))
}

/// `listener.name.<name>.max.connections`, if it is given.
fn own_connections_max(config: &ServerConfig, listener: &str) -> Option<usize> {
    let text = config.listener_text(listener, "max.connections")?;
    let max: usize = text.parse().ok()?;
    (text != config.text("max.connections")?).then_some(max)
}

/// Brokers have a listener that clients do not use if they have more than one.
fn is_for_nodes(config: &ServerConfig, listener: &str) -> bool {
    let listeners = &config.listeners;
    listener == listeners.inter_broker_listener_name && listeners.broker_listeners().count() > 1
}

/// Where controllers are, as configured.
fn controller_addresses(config: &ServerConfig) -> Vec<String> {
    let known = config.quorum.voters.iter().map(|voter| voter.address.to_string());
    known
        .chain(config.quorum.bootstrap_servers.iter().map(ToString::to_string))
        .collect()
}

#[cfg(test)]
mod tests {
    use odradek_net::service::{ConnectionInfo, Reply, RequestFrame, Response};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    use super::client_listeners::ClientListeners;
    use super::*;

    struct Silent;

    impl Service for Silent {
        fn supports(&self, _: i16, _: i16) -> bool {
            true
        }

        fn call(&self, _: &Arc<ConnectionInfo>, _: RequestFrame) -> Reply {
            Reply::Done(Response::NoAnswer)
        }
    }

    /// Begins a request and leaves it unfinished.
    async fn begin_request(listener: &Listener, bytes: usize) -> TcpStream {
        let mut stream = TcpStream::connect(listener.local_addr()).await.unwrap();
        let mut frame = vec![0; bytes];
        frame[..4].copy_from_slice(&(1_i32 << 20).to_be_bytes());
        stream.write_all(&frame).await.unwrap();
        stream
    }

    async fn until_used(budget: &MemoryBudget, bytes: usize) {
        let used = async {
            while budget.used() != bytes {
                tokio::task::yield_now().await;
            }
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, used).await.expect("the bytes arrive");
    }

    #[test]
    fn a_backlog_is_what_somebody_set_or_what_the_system_allows() {
        let with = |overrides: &[(String, String)]| {
            let (config, _) = ServerConfig::load(None, std::iter::empty(), overrides).unwrap();
            backlog(&config)
        };
        let set = |value: &str| [("socket.listen.backlog.size".to_owned(), value.to_owned())];
        assert_eq!(with(&[]), 4096);
        assert_eq!(with(&set("50")), 50);
        assert_eq!(with(&set("7")), 7);
    }

    #[tokio::test]
    async fn clients_are_served_once_the_metadata_is_that_of_this_start() {
        let (config, _) = ServerConfig::load(None, std::iter::empty(), &[]).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let ground = Ground::new(Arc::new(config), log).unwrap();
        let bound = BoundListener::bind(ListenerSettings::new("PLAINTEXT", "127.0.0.1", 0)).unwrap();
        let address = bound.local_addr();
        let applied = tokio::sync::watch::Sender::new(0);
        let listeners = ClientListeners::open_once_applied(
            &ground,
            vec![("PLAINTEXT".to_owned(), bound)],
            Arc::new(Silent),
            applied.subscribe(),
        );
        // The client is queued, and its request read by nobody.
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&(1_i32 << 20).to_be_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(ground.context.budget.used(), 0);
        applied.send_replace(7);
        until_used(&ground.context.budget, 4).await;
        listeners.stop().await;
        assert!(TcpStream::connect(address).await.is_err());
        // One that never came to serve closes as well.
        let bound = BoundListener::bind(ListenerSettings::new("PLAINTEXT", "127.0.0.1", 0)).unwrap();
        let address = bound.local_addr();
        let (_never, applied) = tokio::sync::watch::channel(0);
        let bound = vec![("PLAINTEXT".to_owned(), bound)];
        let listeners = ClientListeners::open_once_applied(&ground, bound, Arc::new(Silent), applied);
        listeners.stop().await;
        assert!(TcpStream::connect(address).await.is_err());
        ground.workers.stop();
    }

    #[tokio::test]
    async fn requests_to_the_controller_do_not_share_memory_with_those_of_clients() {
        let (config, _) = ServerConfig::load(None, std::iter::empty(), &[]).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let ground = Ground::new(Arc::new(config), log).unwrap();
        let bind = |name: &str| {
            let bound = BoundListener::bind(ListenerSettings::new(name, "127.0.0.1", 0)).unwrap();
            (name.to_owned(), bound)
        };
        let service: Arc<dyn Service> = Arc::new(Silent);
        let listeners = ground.serve(vec![bind("PLAINTEXT"), bind("CONTROLLER")], &service);
        let client = begin_request(&listeners[0], 1_000).await;
        until_used(&ground.context.budget, 1_000).await;
        assert_eq!(ground.controller_budget.used(), 0);
        let controller = begin_request(&listeners[1], 300).await;
        until_used(&ground.controller_budget, 300).await;
        assert_eq!(ground.context.budget.used(), 1_000);
        drop((client, controller));
        ground.workers.stop();
    }
}
