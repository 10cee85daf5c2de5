//! The client side of one connection, for traffic between nodes.
//!
//! Promises that many requests may be in flight at once, that each ends in its response or an error within its timeout, and that a
//! timeout closes the connection, because what the peer still does is unknown. Does not reconnect (see `pool.rs`) and trusts its
//! peer to be a node of the cluster: responses are bounded in size, but not walked by a schema.

mod io_tasks;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::{Request, StrBytes};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::wire::{self, WireError};

/// The highest version of ApiVersions the client asks for; every supported peer has it.
const API_VERSIONS_VERSION: i16 = 3;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// What the client calls itself in request headers.
    pub client_id: String,
    /// Bound on resolving, connecting and the ApiVersions exchange.
    pub connect_timeout: Duration,
    /// Bound on a request that names no timeout of its own.
    pub request_timeout: Duration,
    /// Longer responses close the connection.
    pub response_max_bytes: usize,
    /// Requests that may wait for their response at a time; further ones wait their turn.
    pub in_flight_max: usize,
    /// Whether to ask for API versions after connecting.
    pub negotiate: bool,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            client_id: "odradek".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            response_max_bytes: 128 << 20,
            in_flight_max: 256,
            negotiate: true,
        }
    }
}

/// Why a request has no response.
#[derive(Debug, Clone, Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// The address asked for.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The last attempt has just failed; the next one is due later.
    #[error("{address} was not reachable a moment ago: {reason}")]
    BackingOff {
        /// The address asked for.
        address: String,
        /// Why the last attempt failed.
        reason: String,
    },
    /// The connection ended before the response; whether the request was carried out is unknown.
    #[error("connection to {address} closed: {reason}")]
    Closed {
        /// The peer.
        address: String,
        /// Why.
        reason: String,
    },
    /// No response in time; whether the request was carried out is unknown. The connection is closed.
    #[error("{address} did not answer {api} within {timeout_ms} ms")]
    Timeout {
        /// The peer.
        address: String,
        /// The API's name.
        api: String,
        /// The bound.
        timeout_ms: u128,
    },
    /// The request or the response does not fit its version.
    #[error("{0}")]
    Wire(Arc<WireError>),
    /// Nobody has said where this node is.
    #[error("the address of node {0} is unknown")]
    UnknownNode(i32),
}

impl ClientError {
    /// Whether the request certainly never reached the peer.
    #[must_use]
    pub fn was_not_sent(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::BackingOff { .. } | Self::UnknownNode(_) => true,
            Self::Closed { .. } | Self::Timeout { .. } | Self::Wire(_) => false,
        }
    }
}

impl From<WireError> for ClientError {
    fn from(error: WireError) -> Self {
        Self::Wire(Arc::new(error))
    }
}

/// One connection to a peer; its tasks live on the runtime that connected it and end when the last handle is dropped.
#[derive(Debug)]
pub struct Client {
    address: String,
    settings: ClientSettings,
    versions: HashMap<i16, (i16, i16)>,
    next_correlation_id: AtomicI32,
    in_flight: Arc<Semaphore>,
    outgoing: mpsc::Sender<Vec<Bytes>>,
    shared: Arc<Shared>,
}

/// What the handles and the two tasks share.
#[derive(Debug)]
struct Shared {
    waiting: Mutex<Option<HashMap<i32, Waiting>>>,
    /// The reason, once the connection is closed.
    closed: watch::Sender<Option<Arc<str>>>,
}

/// A request without its response.
#[derive(Debug)]
struct Waiting {
    response: oneshot::Sender<Bytes>,
    header_version: i16,
    _permit: OwnedSemaphorePermit,
}

impl Shared {
    /// Ends the connection once; all that wait see it.
    fn close(&self, reason: &str) {
        let waiting = self.waiting.lock().take();
        self.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            if first {
                *closed = Some(Arc::from(reason));
            }
            first
        });
        drop(waiting);
    }
}

impl Client {
    /// Connects to `host:port` and, if so set, asks for the peer's API versions.
    ///
    /// # Errors
    /// The address does not resolve, nobody listens, or the exchange fails or takes too long.
    pub async fn connect(address: &str, settings: ClientSettings) -> Result<Arc<Self>, ClientError> {
        let limit = settings.connect_timeout;
        match timeout(limit, Self::connect_unbounded(address, settings)).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::Connect {
                address: address.to_owned(),
                reason: format!("no connection within {} ms", limit.as_millis()),
            }),
        }
    }

    async fn connect_unbounded(address: &str, settings: ClientSettings) -> Result<Arc<Self>, ClientError> {
        let failed = |error: io::Error| ClientError::Connect {
            address: address.to_owned(),
            reason: error.to_string(),
        };
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut client = Self::start(address, settings, stream);
        if client.settings.negotiate {
            client.versions = client.ask_versions().await?;
        }
        Ok(Arc::new(client))
    }

    fn start(address: &str, settings: ClientSettings, stream: TcpStream) -> Self {
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Some(HashMap::new())),
            closed: watch::Sender::new(None),
        });
        let (outgoing, queue) = mpsc::channel(settings.in_flight_max.max(1));
        let (read_half, write_half) = stream.into_split();
        tokio::spawn(io_tasks::write(write_half, queue, Arc::clone(&shared)));
        tokio::spawn(io_tasks::read(
            read_half,
            settings.response_max_bytes,
            Arc::clone(&shared),
        ));
        Self {
            address: address.to_owned(),
            versions: HashMap::new(),
            next_correlation_id: AtomicI32::new(0),
            in_flight: Arc::new(Semaphore::new(settings.in_flight_max.max(1))),
            settings,
            outgoing,
            shared,
        }
    }

    async fn ask_versions(&self) -> Result<HashMap<i16, (i16, i16)>, ClientError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("odradek"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let response: ApiVersionsResponse = self.send(API_VERSIONS_VERSION, request).await?;
        if response.error_code != 0 {
            return Err(ClientError::Connect {
                address: self.address.clone(),
                reason: format!("ApiVersions answered error {}", response.error_code),
            });
        }
        Ok(response
            .api_keys
            .iter()
            .map(|it| (it.api_key, (it.min_version, it.max_version)))
            .collect())
    }

    /// The address it was asked to connect to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How long a request that names no timeout of its own may wait for its response.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.settings.request_timeout
    }

    /// The highest version of an API that the peer serves; `None` if it serves none or was not asked.
    #[must_use]
    pub fn negotiated(&self, api_key: i16) -> Option<i16> {
        self.versions.get(&api_key).map(|(_, max)| *max)
    }

    /// The highest version of `R` that both sides know.
    #[must_use]
    pub fn common_version<R: Request>(&self) -> Option<i16> {
        let (min, max) = *self.versions.get(&R::KEY)?;
        let ours = wire::served_versions::<R>();
        let highest = max.min(ours.max);
        (highest >= min && highest >= ours.min).then_some(highest)
    }

    /// Sends a request and waits for its response, at most the request timeout.
    ///
    /// # Errors
    /// See [`ClientError`]; after [`ClientError::Closed`] and [`ClientError::Timeout`] the client is of no more use.
    pub async fn send<R: Request>(&self, version: i16, request: R) -> Result<R::Response, ClientError> {
        self.send_within(version, request, self.settings.request_timeout)
            .await
    }

    /// Like [`Client::send`] with a timeout of its own, for requests that wait at the peer.
    ///
    /// # Errors
    /// As for [`Client::send`].
    pub async fn send_within<R: Request>(
        &self,
        version: i16,
        request: R,
        limit: Duration,
    ) -> Result<R::Response, ClientError> {
        let failed = |reason: String| WireError::Encode {
            name: wire::api_name(R::KEY),
            version,
            reason,
        };
        let size = request
            .compute_size(version)
            .map_err(|error| failed(error.to_string()))?;
        let mut body = BytesMut::with_capacity(size);
        request
            .encode(&mut body, version)
            .map_err(|error| failed(error.to_string()))?;
        let response = self.exchange(R::KEY, version, body.freeze(), limit).await?;
        Ok(wire::decode_whole(R::KEY, version, response)?)
    }

    /// Sends a body of any API as it is and returns the body of the response; private APIs use flexible headers.
    ///
    /// # Errors
    /// As for [`Client::send`].
    pub async fn send_raw(&self, api_key: i16, version: i16, body: Bytes) -> Result<Bytes, ClientError> {
        self.exchange(api_key, version, body, self.settings.request_timeout)
            .await
    }

    /// Like [`Client::send_raw`] with a timeout of its own.
    ///
    /// # Errors
    /// As for [`Client::send`].
    pub async fn send_raw_within(
        &self,
        api_key: i16,
        version: i16,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, ClientError> {
        self.exchange(api_key, version, body, limit).await
    }

    /// Whether the connection is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.borrow().is_some()
    }

    /// Waits until the connection is gone and says why.
    pub async fn closed(&self) -> Arc<str> {
        let mut closed = self.shared.closed.subscribe();
        let reason = closed
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| Arc::from("closed"))
    }

    /// Ends the connection; requests without response fail.
    pub fn close(&self, reason: &str) {
        self.shared.close(reason);
    }

    async fn exchange(
        &self,
        api_key: i16,
        version: i16,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, ClientError> {
        match timeout(limit, self.exchange_unbounded(api_key, version, body)).await {
            Ok(result) => result,
            Err(_) => {
                let error = ClientError::Timeout {
                    address: self.address.clone(),
                    api: wire::api_name(api_key),
                    timeout_ms: limit.as_millis(),
                };
                self.shared.close(&error.to_string());
                Err(error)
            }
        }
    }

    async fn exchange_unbounded(
        &self,
        api_key: i16,
        version: i16,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let permit = Arc::clone(&self.in_flight)
            .acquire_owned()
            .await
            .map_err(|_| self.closed_error())?;
        // The queue is as long as the permits are many: a slot in it never has to be waited for while others are unsent.
        let slot = self.outgoing.reserve().await.map_err(|_| self.closed_error())?;
        let correlation_id = self.next_correlation_id.fetch_add(1, Ordering::Relaxed);
        let (response, received) = oneshot::channel();
        let header_version = wire::response_header_version(api_key, version);
        match self.shared.waiting.lock().as_mut() {
            Some(waiting) => {
                waiting.insert(
                    correlation_id,
                    Waiting {
                        response,
                        header_version,
                        _permit: permit,
                    },
                );
            }
            None => return Err(self.closed_error()),
        }
        let mut header = BytesMut::with_capacity(wire::LENGTH_BYTES + 16 + self.settings.client_id.len());
        wire::put_request_header(
            &mut header,
            api_key,
            version,
            correlation_id,
            &self.settings.client_id,
        );
        slot.send(vec![header.freeze(), body]);
        received.await.map_err(|_| self.closed_error())
    }

    fn closed_error(&self) -> ClientError {
        let reason = self
            .shared
            .closed
            .borrow()
            .as_deref()
            .unwrap_or("closed")
            .to_owned();
        ClientError::Closed {
            address: self.address.clone(),
            reason,
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.close("the client was dropped");
    }
}
