//! The contract between a connection and whoever answers its requests.
//!
//! Owns the types that cross this border: [`RequestFrame`] in, [`Reply`] out, [`ConnectionInfo`] beside both. It promises nothing
//! about sockets; `connection.rs` does that.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use odradek_common::metadata::SecurityProtocol;
use parking_lot::RwLock;
use smallvec::{SmallVec, smallvec};

use crate::budget::Lease;
use crate::sendfile::FileRange;

/// API keys from here on are Odradek's own: never advertised, flexible headers, opaque bodies without a schema.
pub const PRIVATE_API_KEY_MIN: i16 = 10_000;

/// Every reason that [`ConnectionObserver::refused`] is told.
pub const REFUSED_REASONS: &[&str] = &[
    "max.connections.per.ip",
    "descriptors",
    "stalled",
    "tls",
    "http",
    "oversized",
    "negative",
    "short",
    "unsupported",
    "header",
    "schema",
];

/// The principal of a connection on which nobody has authenticated.
pub const ANONYMOUS: &str = "User:ANONYMOUS";

/// Answers the requests of one or many listeners.
pub trait Service: Send + Sync + 'static {
    /// Which (API key, version) pairs this listener accepts; any other closes the connection, except ApiVersions, which is handed
    /// over in every version because its answer is how a client learns the right one.
    fn supports(&self, api_key: i16, api_version: i16) -> bool;

    /// Whether a request of this API may start while earlier ones of the same API group are still waiting for their answer.
    ///
    /// Meant for Produce alone. All other requests of a connection run one after another. The frame of an overlapping request lies
    /// in a buffer that many connections share: whoever answers it lets go of the frame before waiting for anything.
    fn overlaps(&self, api_key: i16) -> bool {
        let _ = api_key;
        false
    }

    /// Starts one request.
    ///
    /// Requests of one connection are started in the order they arrived. A returned future is polled once before the next request
    /// starts, so work done before its first yield keeps that order too. Futures run on the connection's worker thread and are
    /// dropped when the connection dies, so they must leave a consistent state at each await.
    fn call(&self, connection: &Arc<ConnectionInfo>, request: RequestFrame) -> Reply;

    /// Starts requests of one overlapping API that have arrived together, in their order: one reply each, in that order.
    ///
    /// As if each had been given to [`Service::call`], which the default does; a service that can do work for many at once
    /// does it here.
    fn call_together(
        &self,
        connection: &Arc<ConnectionInfo>,
        requests: &mut Vec<RequestFrame>,
        replies: &mut Vec<Reply>,
    ) {
        for request in requests.drain(..) {
            replies.push(self.call(connection, request));
        }
    }

    /// The connection is gone: the peer went away, was refused, or the listener stopped. Called once per accepted connection.
    fn disconnected(&self, connection: &Arc<ConnectionInfo>) {
        let _ = connection;
    }
}

/// An answer that is still being worked out.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Response> + Send>>;

/// How a [`Service`] takes a request.
pub enum Reply {
    /// Answered already.
    Done(Response),
    /// Will be answered; no later request of this connection starts before.
    Pending(ResponseFuture),
    /// Will be answered; later requests start meanwhile if [`Service::overlaps`] holds for them.
    PendingOverlap(ResponseFuture),
}

impl Reply {
    /// A reply that holds up the connection until `future` is done.
    pub fn pending(future: impl Future<Output = Response> + Send + 'static) -> Self {
        Self::Pending(Box::pin(future))
    }

    /// A reply that lets later requests of an overlapping API start.
    pub fn pending_overlap(future: impl Future<Output = Response> + Send + 'static) -> Self {
        Self::PendingOverlap(Box::pin(future))
    }
}

/// What leaves the connection for one request.
#[derive(Debug)]
pub enum Response {
    /// This frame.
    Frame(ResponseFrame),
    /// Nothing: a Produce with acks=0.
    NoAnswer,
    /// Nothing, and the connection closes after the answers before it have left; the text says why and is logged.
    Close(String),
}

/// A piece of a response.
#[derive(Clone, Debug)]
pub enum Segment {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes that the connection sends from a file. If the file has lost them by then, the connection closes.
    File(FileRange),
}

impl Segment {
    /// No bytes.
    pub const EMPTY: Self = Self::Bytes(Bytes::new());

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(range) => range.length,
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Segment {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// The pieces of a response; one needs no allocation.
pub type Segments = SmallVec<[Segment; 1]>;

impl From<Bytes> for ResponseFrame {
    fn from(bytes: Bytes) -> Self {
        Self {
            segments: smallvec![bytes.into()],
            throttle_ms: 0,
        }
    }
}

/// A response's bytes, header included, without the four bytes of length that the connection puts before it.
#[derive(Debug, Default)]
pub struct ResponseFrame {
    /// The bytes in order; large record sets stay in segments of their own, so that nobody copies them.
    pub segments: Segments,
    /// The connection is muted for so long after the response has been queued (KIP-219); 0 = not at all.
    pub throttle_ms: u32,
}

impl ResponseFrame {
    /// A frame of these segments without throttling.
    #[must_use]
    pub fn new(segments: impl Into<Segments>) -> Self {
        Self {
            segments: segments.into(),
            throttle_ms: 0,
        }
    }

    /// The same frame, muting the connection for `throttle_ms` after it.
    #[must_use]
    pub fn throttled(mut self, throttle_ms: u32) -> Self {
        self.throttle_ms = throttle_ms;
        self
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.iter().map(Segment::len).sum()
    }

    /// Whether there are no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One request as it came off the wire: header parsed, body untouched but checked against its schema.
#[derive(Debug)]
pub struct RequestFrame {
    /// The API key.
    pub api_key: i16,
    /// The version the client chose; for ApiVersions possibly one nobody supports.
    pub api_version: i16,
    /// To be repeated in the response header.
    pub correlation_id: i32,
    /// The client's name for itself.
    pub client_id: Option<StrBytes>,
    /// Everything after the request header; a slice of the receive buffer.
    pub body: Bytes,
    /// When the last byte of the frame was read from the socket.
    pub received_at: Instant,
    /// Bytes of the frame without its length prefix.
    pub frame_size: usize,
    /// The share of the memory budget this frame holds until it is dropped.
    pub(crate) lease: Option<Lease>,
}

impl RequestFrame {
    /// A frame that came over no socket and holds no memory budget: for tests and for requests a node sends to itself.
    #[must_use]
    pub fn detached(
        api_key: i16,
        api_version: i16,
        correlation_id: i32,
        client_id: Option<StrBytes>,
        body: Bytes,
    ) -> Self {
        let frame_size = body.len();
        let received_at = Instant::now();
        Self {
            api_key,
            api_version,
            correlation_id,
            client_id,
            body,
            received_at,
            frame_size,
            lease: None,
        }
    }

    /// Gives the frame's share of the memory budget back early, for requests that wait long after their body was used up.
    pub fn release_memory(&mut self) {
        self.body = Bytes::new();
        self.lease = None;
    }
}

/// What a client says about its software in ApiVersions (KIP-511).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSoftware {
    /// For example `apache-kafka-java`.
    pub name: Arc<str>,
    /// For example `4.3.1`.
    pub version: Arc<str>,
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Unique within the process.
    pub id: u64,
    /// The client's address.
    pub peer_addr: SocketAddr,
    /// The name of the listener that accepted it.
    pub listener: Arc<str>,
    /// How bytes travel.
    pub security_protocol: SecurityProtocol,
    principal: RwLock<Arc<str>>,
    client_software: RwLock<Option<ClientSoftware>>,
}

impl ConnectionInfo {
    /// A connection nobody has authenticated on yet.
    #[must_use]
    pub fn new(
        id: u64,
        peer_addr: SocketAddr,
        listener: Arc<str>,
        security_protocol: SecurityProtocol,
    ) -> Self {
        Self {
            id,
            peer_addr,
            listener,
            security_protocol,
            principal: RwLock::new(Arc::from(ANONYMOUS)),
            client_software: RwLock::new(None),
        }
    }

    /// The principal, `User:ANONYMOUS` until somebody has authenticated.
    #[must_use]
    pub fn principal(&self) -> Arc<str> {
        self.principal.read().clone()
    }

    /// Sets the principal, after authentication.
    pub fn set_principal(&self, principal: Arc<str>) {
        *self.principal.write() = principal;
    }

    /// What ApiVersions said, if it was sent.
    #[must_use]
    pub fn client_software(&self) -> Option<ClientSoftware> {
        self.client_software.read().clone()
    }

    /// Remembers what ApiVersions said.
    pub fn set_client_software(&self, software: ClientSoftware) {
        *self.client_software.write() = Some(software);
    }
}

/// Counts what connections do; the metrics are kept by whoever implements it.
pub trait ConnectionObserver: Send + Sync + 'static {
    /// A connection was accepted.
    fn opened(&self, connection: &ConnectionInfo) {
        let _ = connection;
    }
    /// An accepted connection ended.
    fn closed(&self, connection: &ConnectionInfo) {
        let _ = connection;
    }
    /// Bytes arrived.
    fn received(&self, connection: &ConnectionInfo, bytes: usize) {
        let _ = (connection, bytes);
    }
    /// Bytes left.
    fn sent(&self, connection: &ConnectionInfo, bytes: usize) {
        let _ = (connection, bytes);
    }
    /// A connection was refused or thrown out; `reason` is one of a few fixed words, fit for a label.
    fn refused(&self, listener: &str, reason: &'static str) {
        let _ = (listener, reason);
    }
}

/// An observer that counts nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoObserver;

impl ConnectionObserver for NoObserver {}
