//! How the rest of the process speaks to its controller node.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_common::error::ApiError;
use odradek_common::ids::NodeId;
use odradek_common::metadata::MetadataImage;
use tokio::sync::{mpsc, oneshot, watch};

use crate::metrics::QuorumMetrics;
use crate::status::QuorumStatus;
use crate::update::{MetadataLog, MetadataReceiver, MetadataUpdate};

/// Who asks the controller, and what for. The request's body travels beside it.
#[derive(Clone, Debug)]
pub struct ControllerCall {
    /// The Kafka API key.
    pub api_key: i16,
    /// The version that the body is encoded in, and the answer will be.
    pub api_version: i16,
    /// The client's name for itself.
    pub client_id: Option<String>,
    /// The authenticated principal, `User:ANONYMOUS` without authentication.
    pub principal: String,
    /// The client's address as the first listener saw it.
    pub client_address: Option<IpAddr>,
    /// Where the request came in.
    pub listener: ListenerKind,
}

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// The controller listener.
    Controller,
    /// A broker's listener; the broker passed it on after authorising it.
    Broker,
}

/// Why the controller did not answer a call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DispatchError {
    /// This node is not the active controller.
    #[error("not the active controller; the leader is {leader:?}")]
    NotController {
        /// Who is, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The API or the version is not served by controllers.
    #[error("api key {api_key} version {api_version} is not served by the controller")]
    Unsupported {
        /// The key asked for.
        api_key: i16,
        /// The version asked for.
        api_version: i16,
    },
    /// The body is not a request of that API and version.
    #[error("malformed request for api key {api_key}: {detail}")]
    Malformed {
        /// The key asked for.
        api_key: i16,
        /// What is wrong with the body.
        detail: String,
    },
    /// The call was refused as a whole.
    #[error("{0}")]
    Refused(ApiError),
    /// The controller is overloaded or did not answer in time.
    #[error("the controller did not answer in time")]
    TimedOut,
    /// The controller node has stopped.
    #[error("the controller has stopped")]
    Stopped,
}
