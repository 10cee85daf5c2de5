//! How the rest of the process speaks to its controller node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use odradek_common::error::ApiError;
use odradek_common::ids::NodeId;
use odradek_common::metadata::MetadataImage;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use crate::apis::{self, Prepared};
use crate::metrics::QuorumMetrics;
use crate::node::command::{Command, QueuedCall};
use crate::senders::{Sender, Senders};
use crate::settings::NodeSettings;
use crate::status::{Leadership, Observer, QuorumStatus};
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

impl ControllerCall {
    /// A call that a node makes for itself.
    #[must_use]
    pub fn own(api_key: i16, api_version: i16) -> Self {
        Self {
            api_key,
            api_version,
            client_id: None,
            principal: odradek_net::service::ANONYMOUS.to_owned(),
            client_address: None,
            listener: ListenerKind::Broker,
        }
    }
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

/// What the handles, the transport and the node's own thread share.
pub(crate) struct Shared {
    pub(crate) settings: NodeSettings,
    pub(crate) incarnation_id: Uuid,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) log: Arc<MetadataLog>,
    pub(crate) status: Mutex<Arc<QuorumStatus>>,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) metrics: Arc<QuorumMetrics>,
    pub(crate) observers: Mutex<BTreeMap<NodeId, Observer>>,
    /// The nodes that sent raft messages.
    pub(crate) senders: Mutex<Senders>,
    /// The process stops: nothing is waited for any more.
    pub(crate) stops: AtomicBool,
    /// Why the node's thread ended, once it has.
    pub(crate) ended: watch::Sender<Option<Result<(), String>>>,
}

impl Shared {
    pub(crate) fn leadership(&self) -> Leadership {
        *self.leadership.borrow()
    }

    /// Remembers what a sender of raft messages said of itself.
    pub(crate) fn note_sender(&self, node_id: NodeId, sender: Sender) {
        let is_stranger = !self.knows(node_id);
        self.senders.lock().note(node_id, sender, is_stranger);
    }

    /// Whether a node may be sent messages: it is known here, or has spoken lately.
    pub(crate) fn remembers(&self, node_id: NodeId) -> bool {
        self.knows(node_id) || self.senders.lock().get(node_id).is_some()
    }

    /// Whether a node is in the quorum, has registered as a controller, or is configured as a voter.
    fn knows(&self, node_id: NodeId) -> bool {
        let status = self.status.lock().clone();
        let membership = &status.membership;
        membership.voters.contains(&node_id)
            || membership.learners.contains(&node_id)
            || self.log.image().controllers.contains_key(&node_id)
            || self.settings.voters.iter().any(|(id, _, _)| *id == node_id)
    }

    /// Where a controller listens: as it last said itself, else as it registered, else as it was configured.
    pub(crate) fn address(&self, node_id: NodeId) -> Option<String> {
        let said = |sender: &Sender| sender.address.clone();
        let said = self.senders.lock().get(node_id).and_then(said);
        said.or_else(|| controller_address(&self.log.image(), node_id))
            .or_else(|| {
                let configured = self.settings.voters.iter().find(|(id, _, _)| *id == node_id);
                configured.map(|(_, host, port)| odradek_net::pool::join_address(host, *port))
            })
    }
}

/// Where a controller registered its first listener.
#[must_use]
pub fn controller_address(image: &MetadataImage, node_id: NodeId) -> Option<String> {
    let endpoint = image.controllers.get(&node_id)?.endpoints.first()?;
    Some(odradek_net::pool::join_address(&endpoint.host, endpoint.port))
}

/// The wall clock, in milliseconds since 1970.
#[must_use]
pub(crate) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A controller node that runs in this process. Cheap to clone.
#[derive(Clone)]
pub struct ControllerHandle {
    pub(crate) shared: Arc<Shared>,
}

impl ControllerHandle {
    /// Carries one request out, if this node is the active controller, and answers when what it changed is committed.
    ///
    /// # Errors
    /// This node is not the active controller, the request is none, or it took too long.
    pub async fn dispatch(&self, call: ControllerCall, body: Bytes) -> Result<Bytes, DispatchError> {
        let job = match apis::prepare(&self.shared, &call, body)? {
            Prepared::Answer(answer) => return Ok(answer),
            Prepared::Job(job) => job,
        };
        let leadership = self.shared.leadership();
        if !leadership.active {
            return Err(DispatchError::NotController {
                leader: leadership.leader,
            });
        }
        let (reply, answer) = oneshot::channel();
        let queued = Command::Call(QueuedCall { job, reply });
        let limit = self.shared.settings.request_timeout;
        let waited = tokio::time::timeout(limit, async {
            self.shared
                .commands
                .send(queued)
                .await
                .map_err(|_| DispatchError::Stopped)?;
            answer.await.map_err(|_| DispatchError::Stopped)?
        });
        waited.await.unwrap_or(Err(DispatchError::TimedOut))
    }

    /// Who leads the quorum, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.shared.leadership().leader
    }

    /// Whether this node is the active controller.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.shared.leadership().active
    }

    /// Role, term and leader; changes wake the receiver.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// The quorum as this node sees it.
    #[must_use]
    pub fn status(&self) -> QuorumStatus {
        let mut status = QuorumStatus::clone(&self.shared.status.lock());
        status.observers = self.shared.observers.lock().clone();
        status
    }

    /// The committed metadata.
    #[must_use]
    pub fn image(&self) -> Arc<MetadataImage> {
        self.shared.log.image()
    }

    /// The offset of the newest committed update.
    #[must_use]
    pub fn newest_update(&self) -> i64 {
        self.shared.log.newest()
    }

    /// Every committed update from here on, beginning with an image.
    #[must_use]
    pub fn subscribe(&self) -> MetadataReceiver {
        self.shared.log.subscribe()
    }

    /// Committed updates after an offset; waits for some for at most `wait`. An image if they are no longer kept.
    pub async fn fetch_metadata(
        &self,
        after: i64,
        updates_max: usize,
        wait: Duration,
    ) -> Vec<MetadataUpdate> {
        self.shared.log.fetch_after(after, updates_max, wait).await
    }

    /// What the node counts about itself.
    #[must_use]
    pub fn metrics(&self) -> Arc<QuorumMetrics> {
        self.shared.metrics.clone()
    }

    /// The settings the node was started with.
    #[must_use]
    pub fn settings(&self) -> &NodeSettings {
        &self.shared.settings
    }

    /// A broker's connection closed: if its port refuses, it is fenced at once.
    pub fn broker_disconnected(&self, broker_id: NodeId) {
        // When the queue is full the session timeout still tells.
        let _full = self.shared.commands.try_send(Command::Suspect(broker_id));
    }

    /// Hands leadership over, if this node has it, and stops the node.
    pub async fn shutdown(&self) {
        self.shared.stops.store(true, Ordering::Release);
        let (done, stopped) = oneshot::channel();
        if self.shared.commands.send(Command::Shutdown(done)).await.is_ok() {
            let _gone = stopped.await;
        }
        let _result = self.ended().await;
    }

    /// Waits until the node's thread has ended.
    ///
    /// # Errors
    /// It ended because its disk failed or its log is damaged; the process should stop.
    pub async fn ended(&self) -> Result<(), String> {
        let mut ended = self.shared.ended.subscribe();
        let result = ended.wait_for(Option::is_some).await;
        result.ok().and_then(|result| result.clone()).unwrap_or(Ok(()))
    }
}
