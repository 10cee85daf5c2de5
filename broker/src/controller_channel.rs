//! The way to the active controller: in-process if it is this node, else an Envelope on its controller listener.
//!
//! Calls are retried until they are answered or their time is up; a controller that moved is found again by asking the next
//! voter. A controller that is silent loses its connection: what it still does is unknown. A node with a controller of its own
//! is told by that one who leads; one without cannot tell silence from work, so no voter gets more than half of a call's time.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, EnvelopeRequest, RequestHeader};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use odradek_common::error::ErrorCode;
use odradek_controller::handle::{ControllerCall, ControllerHandle, DispatchError, ListenerKind};
use odradek_net::client::ClientSettings;
use odradek_net::pool::{ClientPool, join_address};
use odradek_net::service::ANONYMOUS;
use odradek_net::wire;
use tokio::time::Instant;

use crate::broker::ImageCell;

/// Pause before the next voter is asked.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Why the controller did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Nobody answered in time.
    #[error("no active controller answered within {0:?}: {1}")]
    TimedOut(Duration, String),
    /// The controller refused the call as a whole.
    #[error("the controller refused the request: {0}")]
    Refused(String),
    /// The request or its answer could not be encoded.
    #[error("cannot encode or decode {0}")]
    Encoding(String),
}

impl ControllerError {
    /// What the client is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TimedOut(..) => ErrorCode::RequestTimedOut,
            Self::Refused(_) => ErrorCode::UnknownServerError,
            Self::Encoding(_) => ErrorCode::InvalidRequest,
        }
    }
}

/// The way to the active controller.
pub struct ControllerChannel {
    local: Option<ControllerHandle>,
    /// Connections for what this broker says itself: its heartbeats wait behind nobody's request.
    own: Arc<ClientPool>,
    /// Connections for what clients ask.
    forwarded: Arc<ClientPool>,
    voters: Vec<String>,
    image: Arc<ImageCell>,
    next: AtomicUsize,
    client_id: String,
}

/// One attempt's outcome.
enum Attempt {
    Answered(Bytes),
    Retry(String),
    Failed(ControllerError),
}

impl ControllerChannel {
    /// `local` is this node's controller, if it has one; `voters` are addresses to begin with.
    #[must_use]
    pub fn new(
        local: Option<ControllerHandle>,
        settings: &ClientSettings,
        voters: Vec<String>,
        image: Arc<ImageCell>,
        client_id: String,
    ) -> Arc<Self> {
        Arc::new(Self {
            local,
            own: ClientPool::new(settings.clone()),
            forwarded: ClientPool::new(settings.clone()),
            voters,
            image,
            next: AtomicUsize::new(0),
            client_id,
        })
    }

    /// This node's controller.
    #[must_use]
    pub fn local(&self) -> Option<&ControllerHandle> {
        self.local.as_ref()
    }

    /// Sends a request of this broker.
    ///
    /// # Errors
    /// Nobody answered in time, or the request cannot be encoded.
    pub async fn send<R: Request>(
        &self,
        version: i16,
        request: &R,
        timeout: Duration,
    ) -> Result<R::Response, ControllerError> {
        let name = || wire::api_name(R::KEY);
        let mut body = BytesMut::new();
        request
            .encode(&mut body, version)
            .map_err(|error| ControllerError::Encoding(format!("{}: {error}", name())))?;
        let call = self.own_call(R::KEY, version);
        let mut answer = self.call_through(&self.own, call, body.freeze(), timeout).await?;
        R::Response::decode(&mut answer, version)
            .map_err(|error| ControllerError::Encoding(format!("{}: {error}", name())))
    }

    fn own_call(&self, api_key: i16, api_version: i16) -> ControllerCall {
        ControllerCall {
            api_key,
            api_version,
            client_id: Some(self.client_id.clone()),
            principal: ANONYMOUS.to_owned(),
            client_address: None,
            listener: ListenerKind::Broker,
        }
    }

    /// Passes a request on; body in, body out.
    ///
    /// # Errors
    /// Nobody answered in time, or the controller refused the call as a whole.
    pub async fn call(
        &self,
        call: ControllerCall,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, ControllerError> {
        self.call_through(&self.forwarded, call, body, timeout).await
    }

    async fn call_through(
        &self,
        pool: &ClientPool,
        call: ControllerCall,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, ControllerError> {
        let deadline = Instant::now() + timeout;
        loop {
            let attempt = tokio::time::timeout_at(deadline, async {
                tokio::select! {
                    biased;
                    attempt = self.attempt(pool, &call, &body, deadline) => attempt,
                    // A controller that stopped without closing its connections answers nothing any more.
                    () = self.leader_changed() => Attempt::Retry("another controller was elected".to_owned()),
                }
            })
            .await;
            let reason = match attempt {
                Ok(Attempt::Answered(answer)) => return Ok(answer),
                Ok(Attempt::Failed(error)) => return Err(error),
                Ok(Attempt::Retry(reason)) => reason,
                Err(_) => "the last attempt was not answered".to_owned(),
            };
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(ControllerError::TimedOut(timeout, reason));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Over when this node's controller learns of another leader; never without one.
    async fn leader_changed(&self) {
        let Some(local) = &self.local else {
            return std::future::pending().await;
        };
        let mut leadership = local.leadership();
        let before = leadership.borrow_and_update().leader;
        while leadership.changed().await.is_ok() {
            let leader = leadership.borrow_and_update().leader;
            if leader.is_some() && leader != before {
                return;
            }
        }
        std::future::pending().await
    }

    async fn attempt(
        &self,
        pool: &ClientPool,
        call: &ControllerCall,
        body: &Bytes,
        deadline: Instant,
    ) -> Attempt {
        if let Some(local) = &self.local {
            match local.dispatch(call.clone(), body.clone()).await {
                Ok(answer) => return Attempt::Answered(answer),
                Err(DispatchError::NotController { leader: Some(leader) }) => {
                    if let Some(address) = self.address_of(leader) {
                        return attempt_until(deadline, pool, &address, call, body).await;
                    }
                    return Attempt::Retry(format!("controller {leader} has not registered its address yet"));
                }
                Err(error @ (DispatchError::NotController { leader: None } | DispatchError::TimedOut)) => {
                    return Attempt::Retry(error.to_string());
                }
                Err(error) => return Attempt::Failed(ControllerError::Refused(error.to_string())),
            }
        }
        let addresses = self.addresses();
        let next = self.next.load(Ordering::Relaxed);
        let Some(address) = addresses.get(next % addresses.len().max(1)) else {
            return Attempt::Retry("no controller is known".to_owned());
        };
        let now = Instant::now();
        let half_way = now + (deadline - now) / 2;
        let attempt = attempt_until(half_way, pool, address, call, body).await;
        if matches!(attempt, Attempt::Retry(_)) {
            // One step for all the calls that failed there: each with a step of its own might lead back to it.
            let _moved =
                self.next
                    .compare_exchange(next, next.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
        }
        attempt
    }

    fn address_of(&self, controller: i32) -> Option<String> {
        let image = self.image.load();
        let endpoint = image.controllers.get(&controller)?.endpoints.first()?;
        Some(join_address(&endpoint.host, endpoint.port))
    }

    fn addresses(&self) -> Vec<String> {
        let image = self.image.load();
        let registered = image.controllers.keys().filter_map(|id| self.address_of(*id));
        let mut addresses: Vec<String> = registered.collect();
        for voter in &self.voters {
            if !addresses.contains(voter) {
                addresses.push(voter.clone());
            }
        }
        addresses
    }
}

/// Asks the controller at an address, which loses its connection if it has not answered by then.
async fn attempt_until(
    until: Instant,
    pool: &ClientPool,
    address: &str,
    call: &ControllerCall,
    body: &Bytes,
) -> Attempt {
    match tokio::time::timeout_at(until, attempt_remote(pool, address, call, body)).await {
        Ok(attempt) => attempt,
        Err(_) => {
            pool.remove(address);
            Attempt::Retry(format!("{address} did not answer"))
        }
    }
}

async fn attempt_remote(pool: &ClientPool, address: &str, call: &ControllerCall, body: &Bytes) -> Attempt {
    let client = match pool.get(address).await {
        Ok(client) => client,
        Err(error) => return Attempt::Retry(format!("{address}: {error}")),
    };
    let envelope = match envelope(call, body) {
        Ok(envelope) => envelope,
        Err(error) => return Attempt::Failed(error),
    };
    let response = match client.send(0, envelope).await {
        Ok(response) => response,
        Err(error) => return Attempt::Retry(format!("{address}: {error}")),
    };
    if response.error_code == ErrorCode::NotController.code() {
        return Attempt::Retry(format!("{address} is not the active controller"));
    }
    if response.error_code != 0 {
        let refusal = format!(
            "{address} refused the envelope with error {}",
            response.error_code
        );
        return Attempt::Failed(ControllerError::Refused(refusal));
    }
    let Some(mut data) = response.response_data else {
        return Attempt::Retry(format!("{address} sent an empty envelope"));
    };
    // The answer carries its own response header; the broker writes another for its client.
    let header = if wire::response_header_version(call.api_key, call.api_version) >= 1 {
        5
    } else {
        4
    };
    if data.len() < header {
        return Attempt::Retry(format!("{address} sent a short envelope"));
    }
    Attempt::Answered(data.split_off(header))
}

/// Wraps a request with its header, as KIP-590 has it.
fn envelope(call: &ControllerCall, body: &Bytes) -> Result<EnvelopeRequest, ControllerError> {
    let header = RequestHeader::default()
        .with_request_api_key(call.api_key)
        .with_request_api_version(call.api_version)
        .with_client_id(call.client_id.clone().map(StrBytes::from_string));
    let mut data = BytesMut::with_capacity(body.len() + 64);
    let version = wire::request_header_version(call.api_key, call.api_version);
    let encoded = header.encode(&mut data, version);
    encoded.map_err(|error| ControllerError::Encoding(format!("{:?}: {error}", ApiKey::Envelope)))?;
    data.put_slice(body);
    let address = match call.client_address {
        Some(IpAddr::V4(v4)) => v4.octets().to_vec(),
        Some(IpAddr::V6(v6)) => v6.octets().to_vec(),
        None => vec![127, 0, 0, 1],
    };
    Ok(EnvelopeRequest::default()
        .with_request_data(data.freeze())
        .with_request_principal(Some(Bytes::from(call.principal.clone().into_bytes())))
        .with_client_host_address(address.into()))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{BrokerHeartbeatRequest, BrokerHeartbeatResponse, EnvelopeResponse};
    use odradek_net::listener::{BoundListener, ListenerContext, ListenerSettings};
    use odradek_net::service::{ConnectionInfo, Reply, RequestFrame, Response, Service};
    use odradek_net::worker::WorkerPool;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    const HEARTBEAT_VERSION: i16 = 1;
    /// Of one call; half of it goes to a controller that hangs.
    const CALL: Duration = Duration::from_secs(2);
    const LIMIT: Duration = Duration::from_secs(60);

    /// Answers every envelope as the active controller does a heartbeat.
    struct ActiveController;

    impl Service for ActiveController {
        fn supports(&self, api_key: i16, _: i16) -> bool {
            api_key == ApiKey::Envelope as i16
        }

        fn call(&self, _: &Arc<ConnectionInfo>, request: RequestFrame) -> Reply {
            // A header of version 1: the correlation id and no tagged fields.
            let mut data = BytesMut::from(&[0; 5][..]);
            BrokerHeartbeatResponse::default()
                .encode(&mut data, HEARTBEAT_VERSION)
                .expect("encodes");
            let response = EnvelopeResponse::default().with_response_data(Some(data.freeze()));
            let frame = wire::encode_response(
                request.api_key,
                request.api_version,
                request.correlation_id,
                &response,
            );
            Reply::Done(Response::Frame(frame.expect("encodes")))
        }
    }

    async fn heartbeat(channel: &ControllerChannel) {
        let beat = async {
            let request = BrokerHeartbeatRequest::default();
            while let Err(error) = channel.send(HEARTBEAT_VERSION, &request, CALL).await {
                assert!(matches!(error, ControllerError::TimedOut(..)), "{error}");
            }
        };
        tokio::time::timeout(LIMIT, beat)
            .await
            .expect("the other controller is asked");
    }

    #[tokio::test]
    async fn a_controller_that_hangs_is_left_for_the_next() {
        let hangs = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let hangs_at = hangs.local_addr().expect("is bound").to_string();
        let left = tokio::spawn(async move {
            let (mut stream, _) = hangs.accept().await.expect("somebody calls");
            let mut received = Vec::new();
            stream
                .read_to_end(&mut received)
                .await
                .expect("the caller closes");
        });
        let workers = Arc::new(WorkerPool::start(1, "controller").expect("a worker"));
        let bound = BoundListener::bind(ListenerSettings::new("CONTROLLER", "127.0.0.1", 0)).expect("a port");
        let lives_at = bound.local_addr().to_string();
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let _listener = bound.start(
            &ListenerContext::new(workers.clone(), log),
            Arc::new(ActiveController),
        );

        let settings = ClientSettings {
            negotiate: false,
            ..ClientSettings::default()
        };
        let voters = vec![hangs_at, lives_at];
        let channel = ControllerChannel::new(None, &settings, voters, Arc::default(), "broker-0".to_owned());
        // Two at a time: both fail at the first controller, and neither may take the other back to it.
        tokio::join!(heartbeat(&channel), heartbeat(&channel));
        tokio::time::timeout(LIMIT, left)
            .await
            .expect("its connection is closed")
            .expect("nothing failed");
        workers.stop();
    }
}
