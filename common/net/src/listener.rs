//! A listener: a bound socket, its accept loop, and the connections it has handed to workers.
//!
//! Promises that a stop accepts nothing more, lets requests in work answer until a deadline, and returns when every connection is
//! gone. Does not know TLS or SASL yet: those wrap the stream between accept and [`Connection`].

mod bind;
mod quotas;

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::poll_fn;
use odradek_common::metadata::SecurityProtocol;
use rustix::net::SocketFlags;
use slog::{Logger, debug, info, warn};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::quotas::Place;
use crate::budget::MemoryBudget;
use crate::connection::{CloseReason, Connection, ConnectionContext, Unplugged};
use crate::log_limit::LogLimit;
use crate::service::{ConnectionInfo, ConnectionObserver, NoObserver, Service};
use crate::worker::{Seat, WorkerPool};

pub use self::bind::BindError;
pub use self::quotas::ConnectionQuotas;

/// Kafka's default of `socket.request.max.bytes`.
pub const REQUEST_MAX_BYTES: usize = 100 << 20;
/// Kafka's default of `connections.max.idle.ms`.
pub const MAX_IDLE: Duration = Duration::from_secs(600);
/// Clients that wait to be accepted, unless `socket.listen.backlog.size` says otherwise: as many as Linux lets by default
/// (net.core.somaxconn). A thousand that come back at once find room.
pub const BACKLOG: i32 = 4096;
/// The default of the memory budget for received requests.
pub const REQUEST_MEMORY_BYTES: usize = 256 << 20;
/// How long the accept loop rests when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// When a silent peer is probed first.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// How often a silent peer is probed after that.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

static NEXT_CONNECTION_ID: AtomicU64 = AtomicU64::new(1);

/// What to listen on, and how.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// The listener's name, as in `listeners`.
    pub name: Arc<str>,
    /// How bytes travel; only plaintext is served so far.
    pub security_protocol: SecurityProtocol,
    /// A host name, an IPv4 or IPv6 address (brackets allowed), or nothing for all interfaces.
    pub host: String,
    /// A port; 0 lets the system choose.
    pub port: u16,
    /// `socket.listen.backlog.size`.
    pub backlog: i32,
    /// `socket.request.max.bytes`.
    pub request_max_bytes: usize,
    /// `connections.max.idle.ms`; `None` never closes idle connections.
    pub max_idle: Option<Duration>,
    /// `listener.name.<name>.max.connections`: those of this listener alone.
    pub connections_max: Option<usize>,
    /// Its peers are nodes of the cluster, which connect whether or not clients have used up the node's connections.
    pub is_for_nodes: bool,
    /// `socket.send.buffer.bytes`; `None` leaves it to the system.
    pub send_buffer_bytes: Option<usize>,
    /// `socket.receive.buffer.bytes`; `None` leaves it to the system.
    pub receive_buffer_bytes: Option<usize>,
}

impl ListenerSettings {
    /// A plaintext listener with Kafka's defaults, but for its backlog.
    #[must_use]
    pub fn new(name: &str, host: &str, port: u16) -> Self {
        Self {
            name: Arc::from(name),
            security_protocol: SecurityProtocol::Plaintext,
            host: host.to_owned(),
            port,
            backlog: BACKLOG,
            request_max_bytes: REQUEST_MAX_BYTES,
            max_idle: Some(MAX_IDLE),
            connections_max: None,
            is_for_nodes: false,
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
        }
    }
}

/// What the listeners of a node have in common.
#[derive(Clone)]
pub struct ListenerContext {
    /// Where connections run.
    pub workers: Arc<WorkerPool>,
    /// Memory for received requests.
    pub budget: MemoryBudget,
    /// How many connections there may be, over all listeners.
    pub quotas: Arc<ConnectionQuotas>,
    /// So many files may be open, connections among them, before clients are turned away. What is left is for logs and nodes.
    pub descriptors_max: u64,
    /// Who counts.
    pub observer: Arc<dyn ConnectionObserver>,
    /// Where lines go.
    pub logger: Logger,
}

impl ListenerContext {
    /// Default budget, no connection limits, no observer.
    #[must_use]
    pub fn new(workers: Arc<WorkerPool>, logger: Logger) -> Self {
        Self {
            workers,
            budget: MemoryBudget::new(REQUEST_MEMORY_BYTES),
            quotas: ConnectionQuotas::unlimited(),
            descriptors_max: u64::MAX,
            observer: Arc::new(NoObserver),
            logger,
        }
    }
}

/// A socket that queues clients already and serves none yet.
#[derive(Debug)]
pub struct BoundListener {
    settings: ListenerSettings,
    socket: StdTcpListener,
    local_addr: SocketAddr,
}

impl BoundListener {
    /// Opens the socket; resolves the host, so it may block for a moment.
    ///
    /// # Errors
    /// The address is in use, not of this machine, or not to be had otherwise.
    pub fn bind(settings: ListenerSettings) -> Result<Self, BindError> {
        let socket = bind::bind(&settings.name, &settings.host, settings.port, settings.backlog)?;
        let failed = |source| BindError::Other {
            listener: settings.name.to_string(),
            address: settings.host.clone(),
            source,
        };
        let local_addr = socket.local_addr().map_err(failed)?;
        set_options(&socket, &settings).map_err(failed)?;
        Ok(Self {
            settings,
            socket,
            local_addr,
        })
    }

    /// The address with the port the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Begins to accept and serve.
    #[must_use]
    pub fn start(self, context: &ListenerContext, service: Arc<dyn Service>) -> Listener {
        let (stop, stopped) = watch::channel(None);
        let (alive, gone) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            logger: context
                .logger
                .new(slog::o!("listener" => self.settings.name.to_string())),
            connection: ConnectionContext {
                service,
                observer: Arc::clone(&context.observer),
                budget: context.budget.clone(),
                request_max_bytes: self.settings.request_max_bytes,
                max_idle: self.settings.max_idle,
            },
            own_quotas: self
                .settings
                .connections_max
                .map(|max| ConnectionQuotas::new(max, usize::MAX)),
            settings: self.settings,
            workers: Arc::clone(&context.workers),
            quotas: Arc::clone(&context.quotas),
            descriptors_max: context.descriptors_max,
            connections: AtomicUsize::new(0),
            stops: AtomicBool::new(false),
            log_limit: LogLimit::default(),
        });
        info!(shared.logger, "listening"; "address" => %self.local_addr);
        let accept = accept_loop(Arc::clone(&shared), self.socket, stopped, alive);
        context.workers.spawn_on(context.workers.next_worker(), accept);
        Listener {
            local_addr: self.local_addr,
            shared,
            stop,
            gone: tokio::sync::Mutex::new(gone),
        }
    }
}

/// A listener that serves.
pub struct Listener {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<Option<Instant>>,
    gone: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

/// Dropped without a stop: nobody waits for answers.
impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Release);
    }
}

impl Listener {
    /// The address with the port the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Connections of this listener that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Stops accepting, lets requests in work answer for at most `grace`, closes every connection and waits until they are gone.
    pub async fn stop(&self, grace: Duration) {
        self.shared.stops.store(true, Ordering::Release);
        self.stop.send_replace(Some(Instant::now() + grace));
        // Every task of this listener holds a sender; nobody sends.
        let ended = self.gone.lock().await.recv().await;
        debug_assert!(ended.is_none());
        debug!(self.shared.logger, "listener stopped");
    }
}

/// What the accept loop and the connections of one listener share.
struct Shared {
    logger: Logger,
    connection: ConnectionContext,
    settings: ListenerSettings,
    workers: Arc<WorkerPool>,
    quotas: Arc<ConnectionQuotas>,
    descriptors_max: u64,
    /// If this listener has a limit beside those of the node.
    own_quotas: Option<Arc<ConnectionQuotas>>,
    connections: AtomicUsize,
    /// Set before connections are told to stop: a turn looks at this, which is cheaper than to ask the channel each time.
    stops: AtomicBool,
    log_limit: LogLimit,
}

impl Shared {
    /// Turns away clients that would take the descriptors that logs need. The system gives out the lowest number that is free, so
    /// as many are in use.
    fn spares(&self, stream: &StdTcpStream, peer: SocketAddr) -> bool {
        let descriptor = u64::try_from(stream.as_raw_fd()).unwrap_or(0);
        if self.settings.is_for_nodes || descriptor < self.descriptors_max {
            return true;
        }
        self.connection
            .observer
            .refused(&self.settings.name, "descriptors");
        let detail =
            format!("{descriptor} files are open: raise the limit (ulimit -Hn), or set max.connections");
        self.warn(peer, "connection refused", &detail);
        false
    }

    fn warn(&self, peer: SocketAddr, what: &str, detail: &str) {
        if let Some(left_out) = self.log_limit.admit(std::time::Instant::now()) {
            warn!(self.logger, "{}", what; "client" => %peer, "reason" => detail, "lines_left_out" => left_out);
        }
    }
}

async fn accept_loop(
    shared: Arc<Shared>,
    socket: StdTcpListener,
    mut stop: watch::Receiver<Option<Instant>>,
    alive: mpsc::Sender<()>,
) {
    // SAFETY: a listening socket gives the same descriptor until it is dropped, which nobody does before the poller lets go of it.
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    let listener = match watched {
        Ok(listener) => listener,
        Err(error) => {
            slog::error!(shared.logger, "cannot watch the listening socket"; "error" => %error);
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.changed() => return,
            accepted = accept(&shared, &listener) => accepted,
        };
        match accepted {
            Ok((stream, peer)) if shared.spares(&stream, peer) => {
                admit(&shared, stream, peer, &stop, &alive);
            }
            Ok(_) => {}
            // That client gave up; the next one is waiting.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                shared.warn(
                    shared_addr(&listener),
                    "cannot accept a connection",
                    &error.to_string(),
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn shared_addr(listener: &AsyncFd<StdTcpListener>) -> SocketAddr {
    listener
        .get_ref()
        .local_addr()
        .unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
}

/// `max.connections` holds new clients in the backlog; the per-address limit turns them away. What is accepted is watched by no
/// poller yet, for it may be handed to another worker.
async fn accept(
    shared: &Shared,
    listener: &AsyncFd<StdTcpListener>,
) -> io::Result<(StdTcpStream, SocketAddr)> {
    if let Some(own) = &shared.own_quotas {
        own.wait_for_room().await;
    }
    if !shared.settings.is_for_nodes {
        shared.quotas.wait_for_room().await;
    }
    let accepted = listener.async_io(Interest::READABLE, |socket| {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        Ok(rustix::net::acceptfrom_with(socket, flags)?)
    });
    let (stream, peer) = accepted.await?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
    Ok((stream.into(), peer))
}

fn admit(
    shared: &Arc<Shared>,
    stream: StdTcpStream,
    peer: SocketAddr,
    stop: &watch::Receiver<Option<Instant>>,
    alive: &mpsc::Sender<()>,
) {
    let own = shared.own_quotas.as_ref();
    let places = shared.quotas.admit(peer.ip()).and_then(|place| {
        let own = own.map(|quotas| quotas.admit(peer.ip())).transpose()?;
        Ok((place, own))
    });
    let places = match places {
        Ok(places) => places,
        Err(refused) => {
            shared
                .connection
                .observer
                .refused(&shared.settings.name, "max.connections.per.ip");
            shared.warn(
                peer,
                "connection refused",
                &format!(
                    "the address has max.connections.per.ip={} connections",
                    refused.max
                ),
            );
            return;
        }
    };
    let id = NEXT_CONNECTION_ID.fetch_add(1, Ordering::Relaxed);
    let name = Arc::clone(&shared.settings.name);
    let info = Arc::new(ConnectionInfo::new(
        id,
        peer,
        name,
        shared.settings.security_protocol,
    ));
    let seat = shared.workers.take_seat(shared.settings.max_idle);
    let open = Open::new(Arc::clone(shared), info, seat, places, alive.clone());
    let fresh = Unplugged::new(stream, Arc::clone(&open.info), shared.connection.clone());
    serve_on(&Arc::clone(&shared.workers), open, fresh, stop.clone());
}

/// Sets options of the listening socket: connections that are accepted from it inherit them, without a system call each.
fn set_options(socket: &StdTcpListener, settings: &ListenerSettings) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    if let Some(bytes) = settings.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = settings.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    Ok(())
}

/// Lets a connection run where it belongs.
fn serve_on(workers: &WorkerPool, open: Open, connection: Unplugged, stop: watch::Receiver<Option<Instant>>) {
    let worker = open.seat.worker();
    workers.spawn_on(worker, serve(open, connection, worker, stop));
}

/// Why a connection's task ends.
enum End {
    Closed(CloseReason),
    /// It has nothing in hand, and belongs to another worker.
    Moves,
}

async fn serve(open: Open, connection: Unplugged, worker: usize, mut stop: watch::Receiver<Option<Instant>>) {
    let logger = &open.shared.logger;
    let mut connection = match connection.plug_in() {
        Ok(connection) => connection,
        Err(error) => {
            debug!(logger, "cannot watch a connection"; "error" => %error);
            return;
        }
    };
    let end = {
        let mut told = pin!(told_to_stop(&mut stop));
        let mut listens = true;
        let mut is_first_turn = true;
        poll_fn(|cx| {
            // Asked once, the channel wakes this task when there is news. A stop comes first: once it is known, no further request
            // starts.
            let asks = is_first_turn || open.shared.stops.load(Ordering::Acquire);
            if is_first_turn {
                open.seat.occupy(cx.waker());
            }
            is_first_turn = false;
            if listens
                && asks
                && let Poll::Ready(deadline) = told.as_mut().poll(cx)
            {
                listens = false;
                connection.drain(deadline);
            }
            poll_turn(&mut connection, &open.seat, worker, cx)
        })
        .await
    };
    match end {
        End::Closed(reason) => report(&open, &reason),
        End::Moves => match connection.unplug() {
            Ok(connection) => serve_on(&Arc::clone(&open.shared.workers), open, connection, stop),
            Err(error) => report(&open, &CloseReason::Io(error)),
        },
    }
}

/// Until when answers may leave, once the listener stops; at once if it was dropped without a stop, for nobody waits for them then.
async fn told_to_stop(stop: &mut watch::Receiver<Option<Instant>>) -> Instant {
    loop {
        if let Some(deadline) = *stop.borrow_and_update() {
            return deadline;
        }
        if stop.changed().await.is_err() {
            return Instant::now();
        }
    }
}

/// One turn of a connection, after which it may go to another worker.
fn poll_turn(
    connection: &mut Connection<TcpStream>,
    seat: &Seat,
    worker: usize,
    cx: &mut Context<'_>,
) -> Poll<End> {
    let leaving = seat.worker() != worker;
    connection.set_leaving(leaving);
    let polled = connection.poll_run(cx);
    seat.count(connection.bytes_in_turn());
    seat.may_be_idle_until(connection.idle_deadline());
    match polled {
        Poll::Ready(reason) => Poll::Ready(End::Closed(reason)),
        Poll::Pending if leaving && connection.is_at_rest() => Poll::Ready(End::Moves),
        Poll::Pending => Poll::Pending,
    }
}

fn report(open: &Open, reason: &CloseReason) {
    let (logger, peer) = (&open.shared.logger, open.info.peer_addr);
    match reason {
        CloseReason::Refused(refusal) => {
            open.shared
                .connection
                .observer
                .refused(&open.info.listener, refusal.label());
            open.shared
                .warn(peer, "connection closed: not a request", &refusal.to_string());
        }
        CloseReason::Stalled(what) => {
            open.shared
                .connection
                .observer
                .refused(&open.info.listener, "stalled");
            open.shared
                .warn(peer, "connection closed: the client stalled", what);
        }
        CloseReason::Service(why) => open.shared.warn(peer, "connection closed by the server", why),
        CloseReason::Idle => debug!(logger, "idle connection closed"; "client" => %peer),
        CloseReason::Peer => debug!(logger, "connection closed by the client"; "client" => %peer),
        CloseReason::Stopped => debug!(logger, "connection closed: the listener stops"; "client" => %peer),
        CloseReason::Io(error) => debug!(logger, "connection lost"; "client" => %peer, "error" => %error),
    }
}

/// Everything that has to be undone when a connection's task ends, however it ends.
struct Open {
    shared: Arc<Shared>,
    info: Arc<ConnectionInfo>,
    seat: Arc<Seat>,
    _places: (Place, Option<Place>),
    _alive: mpsc::Sender<()>,
}

impl Open {
    fn new(
        shared: Arc<Shared>,
        info: Arc<ConnectionInfo>,
        seat: Arc<Seat>,
        places: (Place, Option<Place>),
        alive: mpsc::Sender<()>,
    ) -> Self {
        shared.connections.fetch_add(1, Ordering::AcqRel);
        shared.connection.observer.opened(&info);
        Self {
            shared,
            info,
            seat,
            _places: places,
            _alive: alive,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::AcqRel);
        self.shared.connection.observer.closed(&self.info);
        self.shared.connection.service.disconnected(&self.info);
    }
}

#[cfg(test)]
mod tests;
