//! The controller listener: Kafka's requests, those that brokers pass on in envelopes, and what controllers and broker-only
//! nodes say to each other under private keys.

mod metadata;
mod raft;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, DefaultPrincipalData, EnvelopeRequest, EnvelopeResponse,
    RequestHeader,
};
use kafka_protocol::protocol::{Decodable, StrBytes};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_common::metadata::features::FEATURES;
use odradek_common::schema::check_request;
use odradek_net::service::{ConnectionInfo, Reply, RequestFrame, Response, Service};
use odradek_net::wire::{
    encode_response, put_response_header, raw_response, request_header_version, response_header_version,
    served_versions,
};
use parking_lot::Mutex;
use slog::{Logger, debug};

use crate::apis;
use crate::handle::{ControllerCall, ControllerHandle, DispatchError, ListenerKind};
use crate::registration::JOIN_QUORUM_KEY;
use crate::transport::RAFT_MESSAGES_KEY;

pub use crate::apis::refuse;
pub use metadata::FETCH_METADATA_KEY;

/// Answers the requests of the controller listener.
pub struct ControllerService {
    handle: ControllerHandle,
    logger: Logger,
    /// Which broker heartbeats over which connection.
    brokers: Mutex<BTreeMap<u64, NodeId>>,
}

impl ControllerService {
    /// The service of a controller node.
    #[must_use]
    pub fn new(handle: ControllerHandle, logger: &Logger) -> Arc<Self> {
        Arc::new(Self {
            handle,
            logger: logger.clone(),
            brokers: Mutex::new(BTreeMap::new()),
        })
    }

    fn api_versions(&self, request: &RequestFrame) -> Response {
        let versions = served_versions::<ApiVersionsRequest>();
        let known = request.api_version >= versions.min && request.api_version <= versions.max;
        // KIP-511: whoever asks in a version that is not known gets version 0, with the versions in it.
        let version = if known { request.api_version } else { 0 };
        let mut response = ApiVersionsResponse::default().with_api_keys(advertised());
        if !known {
            response = response.with_error_code(ErrorCode::UnsupportedVersion.code());
        }
        if version >= 3 {
            response = self.with_features(response);
        }
        respond(request, version, &response)
    }

    fn with_features(&self, response: ApiVersionsResponse) -> ApiVersionsResponse {
        let image = self.handle.image();
        let supported = FEATURES.iter().map(|feature| {
            SupportedFeatureKey::default()
                .with_name(StrBytes::from_static_str(feature.name))
                .with_min_version(feature.min_level)
                .with_max_version(feature.max_level)
        });
        let finalized = image.features.iter().map(|(name, level)| {
            FinalizedFeatureKey::default()
                .with_name(StrBytes::from_string(name.to_string()))
                .with_min_version_level(*level)
                .with_max_version_level(*level)
        });
        response
            .with_supported_features(supported.collect())
            .with_finalized_features(finalized.collect())
            .with_finalized_features_epoch(image.offset)
    }

    /// A broker is alive as long as the connection that it heartbeats over.
    fn note_broker(&self, connection: &ConnectionInfo, api_key: i16, mut body: Bytes) {
        let speaks_for_itself =
            api_key == ApiKey::BrokerHeartbeat as i16 || api_key == ApiKey::BrokerRegistration as i16;
        // Both begin with the broker's id.
        if speaks_for_itself && body.remaining() >= 4 {
            self.brokers.lock().insert(connection.id, body.get_i32());
        }
    }

    fn forward(&self, connection: &Arc<ConnectionInfo>, request: RequestFrame) -> Reply {
        self.note_broker(connection, request.api_key, request.body.clone());
        let call = ControllerCall {
            api_key: request.api_key,
            api_version: request.api_version,
            client_id: request.client_id.as_ref().map(|id| id.to_string()),
            principal: connection.principal().to_string(),
            client_address: Some(connection.peer_addr.ip()),
            listener: ListenerKind::Controller,
        };
        let handle = self.handle.clone();
        Reply::pending(async move {
            let body = request.body.clone();
            let answer = match handle.dispatch(call.clone(), body.clone()).await {
                Ok(answer) => Ok(answer),
                Err(error) => refusal(&call, body, error),
            };
            match answer {
                Ok(body) => Response::Frame(raw_response(
                    request.api_key,
                    request.api_version,
                    request.correlation_id,
                    body,
                )),
                Err(reason) => Response::Close(reason),
            }
        })
    }

    /// KIP-590: a broker passes a client's request on, and says whose it is.
    fn envelope(&self, connection: &Arc<ConnectionInfo>, request: RequestFrame) -> Reply {
        let outer = match EnvelopeRequest::decode(&mut request.body.clone(), request.api_version) {
            Ok(envelope) => envelope,
            Err(error) => {
                return Reply::Done(Response::Close(format!(
                    "an envelope that does not decode: {error}"
                )));
            }
        };
        let inner = match open(&outer) {
            Ok(inner) => inner,
            Err(detail) => {
                debug!(self.logger, "refusing an envelope"; "reason" => detail);
                return Reply::Done(answer_envelope(&request, ErrorCode::InvalidRequest.code(), None));
            }
        };
        self.note_broker(connection, inner.call.api_key, inner.body.clone());
        let handle = self.handle.clone();
        Reply::pending_overlap(async move {
            let Inner {
                call,
                correlation_id,
                body,
            } = inner;
            let result = handle.dispatch(call.clone(), body.clone()).await;
            let (code, answer) = match result {
                Ok(answer) => (0, Some(answer)),
                Err(DispatchError::NotController { .. } | DispatchError::Stopped) => {
                    (ErrorCode::NotController.code(), None)
                }
                Err(DispatchError::Unsupported { .. }) => (ErrorCode::UnsupportedVersion.code(), None),
                Err(DispatchError::Malformed { .. }) => (ErrorCode::InvalidRequest.code(), None),
                Err(error @ (DispatchError::Refused(_) | DispatchError::TimedOut)) => {
                    (0, refusal(&call, body, error).ok())
                }
            };
            let data = answer.map(|answer| {
                let version = response_header_version(call.api_key, call.api_version);
                let mut bytes = BytesMut::with_capacity(answer.len() + 8);
                put_response_header(&mut bytes, version, correlation_id);
                bytes.extend_from_slice(&answer);
                bytes.freeze()
            });
            answer_envelope(&request, code, data)
        })
    }
}

impl Service for ControllerService {
    fn supports(&self, api_key: i16, api_version: i16) -> bool {
        match api_key {
            RAFT_MESSAGES_KEY | FETCH_METADATA_KEY | JOIN_QUORUM_KEY => api_version == 0,
            key if key == ApiKey::Envelope as i16 => {
                let versions = served_versions::<EnvelopeRequest>();
                api_version >= versions.min && api_version <= versions.max
            }
            key if key == ApiKey::ApiVersions as i16 => true,
            key => apis::row(key).is_some_and(|row| {
                let versions = (row.versions)();
                api_version >= versions.min && api_version <= versions.max
            }),
        }
    }

    /// One client's slow request must not hold up those that a broker passes on for others.
    fn overlaps(&self, api_key: i16) -> bool {
        api_key == ApiKey::Envelope as i16
    }

    fn call(&self, connection: &Arc<ConnectionInfo>, request: RequestFrame) -> Reply {
        match request.api_key {
            RAFT_MESSAGES_KEY => Reply::Done(raft::messages(&self.handle, &request)),
            FETCH_METADATA_KEY => metadata::fetch(&self.handle, request),
            JOIN_QUORUM_KEY => raft::join(&self.handle, request),
            key if key == ApiKey::ApiVersions as i16 => Reply::Done(self.api_versions(&request)),
            key if key == ApiKey::Envelope as i16 => self.envelope(connection, request),
            _ => self.forward(connection, request),
        }
    }

    fn disconnected(&self, connection: &Arc<ConnectionInfo>) {
        let broker = self.brokers.lock().remove(&connection.id);
        if let Some(broker) = broker {
            self.handle.broker_disconnected(broker);
        }
    }
}

/// Keys that only nodes of the cluster use, with their use; they are never advertised.
pub static PRIVATE_APIS: &[(i16, &str)] = &[
    (RAFT_MESSAGES_KEY, "messages of the Raft quorum"),
    (
        FETCH_METADATA_KEY,
        "committed metadata for nodes without a controller",
    ),
    (JOIN_QUORUM_KEY, "a new controller asks to join"),
];

/// What the controller listener answers, in the order of the keys, without the private ones.
#[must_use]
pub fn advertised() -> Vec<ApiVersion> {
    let range = |key: i16, versions: kafka_protocol::protocol::VersionRange| {
        ApiVersion::default()
            .with_api_key(key)
            .with_min_version(versions.min)
            .with_max_version(versions.max)
    };
    let mut keys: Vec<ApiVersion> = apis::APIS
        .iter()
        .map(|row| range(row.key, (row.versions)()))
        .collect();
    keys.push(range(
        ApiKey::ApiVersions as i16,
        served_versions::<ApiVersionsRequest>(),
    ));
    keys.push(range(
        ApiKey::Envelope as i16,
        served_versions::<EnvelopeRequest>(),
    ));
    keys.sort_by_key(|key| key.api_key);
    keys
}

/// The answer to a call that was not carried out, or why there can be none.
fn refusal(call: &ControllerCall, body: Bytes, error: DispatchError) -> Result<Bytes, String> {
    let text = error.to_string();
    let error = match error {
        DispatchError::NotController { .. } | DispatchError::Stopped => {
            ApiError::new(ErrorCode::NotController, text.clone())
        }
        DispatchError::Refused(error) => error,
        DispatchError::TimedOut => ApiError::new(ErrorCode::RequestTimedOut, text.clone()),
        DispatchError::Unsupported { .. } | DispatchError::Malformed { .. } => return Err(text),
    };
    apis::refuse(call, body, &error).ok_or(text)
}

fn respond<R>(request: &RequestFrame, version: i16, response: &R) -> Response
where
    R: kafka_protocol::protocol::Encodable + kafka_protocol::protocol::HeaderVersion,
{
    match encode_response(request.api_key, version, request.correlation_id, response) {
        Ok(frame) => Response::Frame(frame),
        Err(error) => Response::Close(error.to_string()),
    }
}

fn answer_envelope(request: &RequestFrame, code: i16, data: Option<Bytes>) -> Response {
    let response = EnvelopeResponse::default()
        .with_error_code(code)
        .with_response_data(data);
    respond(request, request.api_version, &response)
}

struct Inner {
    call: ControllerCall,
    correlation_id: i32,
    body: Bytes,
}

fn open(envelope: &EnvelopeRequest) -> Result<Inner, String> {
    let mut data = envelope.request_data.clone();
    if data.len() < 8 {
        return Err("too short for a request".to_owned());
    }
    let (api_key, api_version) = (data.slice(0..2).get_i16(), data.slice(2..4).get_i16());
    let header = RequestHeader::decode(&mut data, request_header_version(api_key, api_version))
        .map_err(|error| format!("its header does not decode: {error}"))?;
    let length = check_request(api_key, api_version, &data).map_err(|error| error.to_string())?;
    data.truncate(length);
    let call = ControllerCall {
        api_key,
        api_version,
        client_id: header.client_id.map(|id| id.to_string()),
        principal: principal(envelope.request_principal.as_ref())?,
        client_address: address(&envelope.client_host_address),
        listener: ListenerKind::Broker,
    };
    Ok(Inner {
        call,
        correlation_id: header.correlation_id,
        body: data,
    })
}

/// Kafka's brokers send a serialised principal, Odradek's its name.
fn principal(bytes: Option<&Bytes>) -> Result<String, String> {
    let Some(bytes) = bytes else {
        return Ok(odradek_net::service::ANONYMOUS.to_owned());
    };
    let mut rest = bytes.clone();
    if rest.remaining() >= 2 && rest[0] == 0 {
        let version = rest.get_i16();
        let data = DefaultPrincipalData::decode(&mut rest, version)
            .map_err(|error| format!("its principal does not decode: {error}"))?;
        return Ok(format!("{}:{}", data._type, data.name));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| "its principal is no text".to_owned())
}

fn address(bytes: &Bytes) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(&bytes[..]) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(&bytes[..])
        .ok()
        .map(|v6| Ipv6Addr::from(v6).into())
}
