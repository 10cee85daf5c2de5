//! Raft messages to the other controllers: one task, one connection and one queue for each.
//!
//! It promises order per peer, bounded queues, and that the quorum hears of it when messages were lost, and at once when a
//! peer's process is gone: a closed connection is dialled again, and a refusal is proof. It never waits for the node's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_common::ids::NodeId;
use odradek_controller_core::quorum::{Outgoing, QuorumInput};
use odradek_net::client::{Client, ClientError, ClientSettings};
use odradek_net::pool::ClientPool;
use prost::Message;
use slog::{Logger, debug, info, o, warn};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::handle::Shared;
use crate::meta_properties;
use crate::metrics::QuorumMetrics;
use crate::node::command::Command;
use crate::probe::{self, Dialled};
use crate::proto::{RaftMessagesRequest, RaftMessagesResponse};

/// The private API key of raft messages.
pub const RAFT_MESSAGES_KEY: i16 = 10_000;

/// Messages that may wait for one peer.
const QUEUE_MAX: usize = 1_024;
/// Messages and bytes of one request.
const BATCH_MESSAGES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Silence on a request that is no raft message, after which its connection counts as dead.
const ANSWER: Duration = Duration::from_secs(2);
const SNAPSHOT_ANSWER: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(1);
/// A dying process closes its sockets one after another: so often is a peer dialled again before it counts as alive.
const REDIALS: usize = 10;
const REDIAL_PAUSE: Duration = Duration::from_millis(30);

pub(crate) struct Transport {
    shared: Arc<Shared>,
    runtime: Handle,
    logger: Logger,
    peers: BTreeMap<NodeId, PeerTask>,
    lost: BTreeSet<NodeId>,
}

impl Transport {
    pub(crate) fn new(shared: &Arc<Shared>, runtime: &Handle, logger: &Logger) -> Self {
        Self {
            shared: shared.clone(),
            runtime: runtime.clone(),
            logger: logger.clone(),
            peers: BTreeMap::new(),
            lost: BTreeSet::new(),
        }
    }

    /// Queues messages; what does not fit is lost, and said to be.
    pub(crate) fn send(&mut self, messages: Vec<Outgoing>) {
        for message in messages {
            let to = message.to;
            if self.peer(to).queue.try_send(message).is_err() {
                QuorumMetrics::count(&self.shared.metrics.messages_failed, 1);
                self.lost.insert(to);
            }
        }
    }

    /// The task of a peer. Whoever sent a message may be answered, so a new one ends those of forgotten strangers.
    fn peer(&mut self, id: NodeId) -> &PeerTask {
        if !self.peers.contains_key(&id) {
            let forgotten = self.peers.extract_if(.., |peer, _| !self.shared.remembers(*peer));
            forgotten.for_each(|(_, task)| task.end.abort());
        }
        self.peers.entry(id).or_insert_with(|| {
            let (queue, receiver) = mpsc::channel(QUEUE_MAX);
            let peer = Peer {
                id,
                shared: self.shared.clone(),
                pool: ClientPool::new(client_settings(self.shared.settings.node_id)),
                logger: self.logger.new(o!("peer" => id)),
                address: None,
                client: None,
                reachable: true,
            };
            let end = self.runtime.spawn(peer.run(receiver)).abort_handle();
            PeerTask { queue, end }
        })
    }

    /// Peers that messages were lost to since the last call.
    pub(crate) fn take_lost(&mut self) -> impl Iterator<Item = NodeId> + use<> {
        std::mem::take(&mut self.lost).into_iter()
    }

    /// Ends the tasks of nodes that are no longer in the quorum, once their queues are empty.
    pub(crate) fn keep_only(&mut self, peers: BTreeSet<NodeId>) {
        self.peers.retain(|peer, _| peers.contains(peer));
    }
}

pub(crate) fn client_settings(node_id: NodeId) -> ClientSettings {
    ClientSettings {
        client_id: format!("controller-{node_id}"),
        connect_timeout: CONNECT,
        request_timeout: ANSWER,
        negotiate: false,
        ..ClientSettings::default()
    }
}

/// Whether an attempt to connect failed because nobody listens there.
pub(crate) fn is_refused(error: &ClientError) -> bool {
    let reason = match error {
        ClientError::Connect { reason, .. } | ClientError::BackingOff { reason, .. } => reason,
        ClientError::Closed { .. }
        | ClientError::Timeout { .. }
        | ClientError::Wire(_)
        | ClientError::UnknownNode(_) => return false,
    };
    reason.contains("refused")
}

/// The way to a peer's task.
struct PeerTask {
    queue: mpsc::Sender<Outgoing>,
    end: AbortHandle,
}

/// The sending side of one peer.
struct Peer {
    id: NodeId,
    shared: Arc<Shared>,
    pool: Arc<ClientPool>,
    logger: Logger,
    /// Where it was dialled last.
    address: Option<String>,
    client: Option<Arc<Client>>,
    reachable: bool,
}

impl Peer {
    async fn run(mut self, mut queue: mpsc::Receiver<Outgoing>) {
        let mut batch = Vec::new();
        loop {
            let closed = self.client.clone();
            let closed = async {
                match closed {
                    Some(client) => client.closed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = queue.recv() => match received {
                    Some(message) => fill(&mut batch, message, &mut queue),
                    None => return,
                },
                _ = closed => {
                    self.redial().await;
                    continue;
                }
            }
            self.deliver(std::mem::take(&mut batch)).await;
        }
    }

    async fn deliver(&mut self, batch: Vec<Outgoing>) {
        let snapshot = batch.iter().any(|message| message.snapshot);
        let count = batch.len() as u64;
        let result = match self.connect().await {
            Ok(client) => self.exchange(&client, batch, snapshot).await,
            Err(error) => Err(error),
        };
        let metrics = &self.shared.metrics;
        match result {
            Ok(refused) if refused.is_empty() => {
                QuorumMetrics::count(&metrics.messages_sent, count);
                self.became_reachable(true, "");
                if snapshot {
                    self.report(QuorumInput::SnapshotSent {
                        peer: self.id,
                        delivered: true,
                    })
                    .await;
                }
            }
            Ok(refused) => {
                QuorumMetrics::count(&metrics.messages_failed, count);
                self.became_reachable(false, &refused);
                self.report(QuorumInput::Unreachable { peer: self.id }).await;
            }
            Err(error) => {
                QuorumMetrics::count(&metrics.messages_failed, count);
                self.became_reachable(false, &error.to_string());
                let gone = is_refused(&error);
                self.report_loss(gone).await;
            }
        }
    }

    async fn exchange(
        &self,
        client: &Client,
        batch: Vec<Outgoing>,
        snapshot: bool,
    ) -> Result<String, ClientError> {
        let settings = &self.shared.settings;
        let request = RaftMessagesRequest {
            cluster_id: settings.cluster_id.clone(),
            from: settings.node_id,
            to: self.id,
            directory_id: Bytes::copy_from_slice(settings.directory_id.as_bytes()),
            messages: batch.into_iter().map(|message| message.bytes).collect(),
            host: settings
                .endpoints
                .first()
                .map_or_else(String::new, |own| own.host.to_string()),
            port: settings.endpoints.first().map_or(0, |own| u32::from(own.port)),
        };
        let limit = if snapshot {
            SNAPSHOT_ANSWER
        } else {
            settings.quorum_request_timeout
        };
        let body = Bytes::from(request.encode_to_vec());
        let answer = client.send_raw_within(RAFT_MESSAGES_KEY, 0, body, limit).await?;
        match RaftMessagesResponse::decode(answer) {
            Ok(response) if response.refused.is_empty() => Ok(String::new()),
            Ok(response) if response.cluster_id == settings.cluster_id => Ok(response.refused),
            Ok(response) => Ok(self.other_cluster(&response)),
            Err(error) => Ok(format!("its answer does not decode: {error}")),
        }
    }

    /// Which file says what, and what to do.
    fn other_cluster(&self, response: &RaftMessagesResponse) -> String {
        let settings = &self.shared.settings;
        if response.cluster_id.is_empty() {
            return response.refused.clone();
        }
        let file = settings.metadata_log_dir.join(meta_properties::FILE);
        format!(
            "{} says cluster.id={}, but the controller at {} says {}: point log.dirs to a directory of its cluster, or \
             controller.quorum.voters and controller.quorum.bootstrap.servers to this node's own",
            file.display(),
            settings.cluster_id,
            self.shared.address(self.id).unwrap_or_default(),
            response.cluster_id
        )
    }

    async fn connect(&mut self) -> Result<Arc<Client>, ClientError> {
        if let Some(client) = self.client.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let address = self
            .shared
            .address(self.id)
            .ok_or(ClientError::UnknownNode(self.id))?;
        if let Some(before) = self.address.replace(address.clone())
            && before != address
        {
            self.pool.remove(&before);
        }
        let client = self.pool.try_get(&address).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// The connection closed: is the process gone?
    async fn redial(&mut self) {
        self.client = None;
        let Some(address) = self.shared.address(self.id) else {
            return;
        };
        for _ in 0..REDIALS {
            match probe::dial(&address, REDIAL_PAUSE).await {
                Dialled::Refused => {
                    self.became_reachable(false, "nobody listens there any more");
                    self.report_loss(true).await;
                    return;
                }
                Dialled::Alive => break,
                // A process that ends closes its sockets one after another.
                Dialled::Closing => tokio::time::sleep(REDIAL_PAUSE).await,
            }
        }
        debug!(self.logger, "a controller closed its connection");
        self.report_loss(false).await;
    }

    async fn report_loss(&self, gone: bool) {
        let peer = self.id;
        let input = if gone {
            QuorumInput::Down { peer }
        } else {
            QuorumInput::Unreachable { peer }
        };
        self.report(input).await;
    }

    async fn report(&self, input: QuorumInput) {
        let _stopped = self.shared.commands.send(Command::Report(input)).await;
    }

    fn became_reachable(&mut self, reachable: bool, reason: &str) {
        if self.reachable == reachable {
            return;
        }
        self.reachable = reachable;
        if reachable {
            info!(self.logger, "a controller is reachable again");
        } else {
            warn!(self.logger, "a controller is not reachable"; "reason" => reason);
        }
    }
}

fn fill(batch: &mut Vec<Outgoing>, first: Outgoing, queue: &mut mpsc::Receiver<Outgoing>) {
    let mut size_bytes = first.bytes.len();
    batch.push(first);
    while batch.len() < BATCH_MESSAGES_MAX && size_bytes < BATCH_BYTES_MAX {
        let Ok(message) = queue.try_recv() else { return };
        size_bytes += message.bytes.len();
        batch.push(message);
    }
}

#[cfg(test)]
mod tests {
    use odradek_common::metadata::{Endpoint, SecurityProtocol};
    use odradek_config::ServerConfig;
    use odradek_controller_core::controller::{ControllerSettings, PermissiveConfigs};
    use uuid::Uuid;

    use super::*;
    use crate::format::{Format, InitialVoter, format};
    use crate::handle::ControllerHandle;
    use crate::node::ControllerNode;
    use crate::senders::{STRANGERS_MAX, Sender};
    use crate::settings::NodeSettings;

    const CONFIGURED: NodeId = 7;

    /// Node 0, the only voter, though it is configured with another one.
    fn start(directory: &std::path::Path, logger: &Logger) -> ControllerHandle {
        let endpoint = Endpoint {
            listener: "CONTROLLER".into(),
            host: "127.0.0.1".into(),
            port: 1,
            security_protocol: SecurityProtocol::Plaintext,
        };
        let properties = format(&Format {
            log_dirs: &[directory.to_owned()],
            metadata_log_dir: directory,
            cluster_id: "test-cluster",
            node_id: 0,
            controller: true,
            initial_voters: &[InitialVoter {
                node_id: 0,
                directory_id: Uuid::nil(),
                endpoint: endpoint.clone(),
            }],
            ignore_formatted: false,
        });
        let properties = properties.expect("formats");
        let settings = NodeSettings {
            node_id: 0,
            cluster_id: properties.cluster_id,
            directory_id: properties.directory_id,
            metadata_log_dir: directory.to_owned(),
            endpoints: vec![endpoint],
            voters: vec![(CONFIGURED, "127.0.0.1".to_owned(), 1)],
            bootstrap_servers: Vec::new(),
            auto_join: false,
            election_timeout_ms: 1_000,
            snapshot_after_bytes: 20 << 20,
            snapshot_after_ms: u64::MAX,
            fetch_bytes_max: 1 << 20,
            quorum_request_timeout: ANSWER,
            fencing_probe: false,
            join_max: ANSWER,
            request_timeout: ANSWER,
            config: Arc::new(ServerConfig::single_node_default()),
            controller: ControllerSettings::default(),
            configs: Arc::new(PermissiveConfigs),
        };
        ControllerNode::start(settings, logger).expect("starts")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn strangers_are_answered_and_only_the_last_ones_have_a_task() {
        let directory = tempfile::tempdir().expect("a directory");
        let logger = Logger::root(slog::Discard, o!());
        let handle = start(directory.path(), &logger);
        let shared = &handle.shared;
        let mut transport = Transport::new(shared, &Handle::current(), &logger);
        let sender = |id: NodeId| Sender {
            directory_id: Uuid::nil(),
            address: Some(format!("127.0.{}.{}:1", id / 256, id % 256)),
        };
        let answer = |to| Outgoing {
            to,
            bytes: Bytes::new(),
            snapshot: false,
        };
        shared.note_sender(CONFIGURED, sender(1));
        transport.send(vec![answer(CONFIGURED)]);
        let task = transport.peers[&CONFIGURED].end.clone();
        for id in 1_000..2_000 {
            shared.note_sender(id, sender(id));
            transport.send(vec![answer(id)]);
            assert!(transport.peers.contains_key(&id), "it has a task");
            assert_eq!(shared.address(id), sender(id).address);
        }
        assert!(transport.lost.is_empty());
        assert!(!task.is_finished(), "the voter's goes on");
        assert_eq!(shared.address(CONFIGURED), sender(1).address);
        assert_eq!(transport.peers.len(), 1 + STRANGERS_MAX);
        handle.shutdown().await;
    }
}
