//! The way to the active controller from a node that is not it, and to the metadata from a node without a controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{AbortHandle, abortable};
use kafka_protocol::messages::{EnvelopeRequest, EnvelopeResponse, RequestHeader};
use kafka_protocol::protocol::{Encodable, StrBytes};
use odradek_common::error::ErrorCode;
use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataImage, batch_from_bytes};
use odradek_net::client::ClientSettings;
use odradek_net::pool::{ClientPool, join_address};
use odradek_net::wire::{request_header_version, response_header_version};
use parking_lot::Mutex;
use prost::Message;
use slog::{Logger, info, warn};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::handle::{ControllerCall, ControllerHandle, DispatchError};
use crate::node::set_position;
use crate::proto::{FetchMetadataRequest, FetchMetadataResponse, MetadataEntry};
use crate::service::FETCH_METADATA_KEY;
use crate::transport::client_settings;
use crate::update::{MetadataContent, MetadataLog, MetadataUpdate};

const RETRY: Duration = Duration::from_millis(50);
const FETCH_WAIT_MS: i32 = 500;
const FETCH_ANSWER: Duration = Duration::from_secs(5);
const FETCH_UPDATES_MAX: i32 = 256;
/// A controller that did not answer is asked last for so long.
const SHUNNED: Duration = Duration::from_secs(1);

/// Sends requests to the active controller, in this process or elsewhere.
pub struct ControllerClient {
    handle: ControllerHandle,
    pool: Arc<ClientPool>,
}

impl ControllerClient {
    /// A client of a node that has a controller.
    #[must_use]
    pub fn local(handle: &ControllerHandle) -> Self {
        let pool = ClientPool::new(client_settings(handle.settings().node_id));
        Self {
            handle: handle.clone(),
            pool,
        }
    }

    /// Carries a request to whoever is the active controller, until it is answered or the time is up.
    ///
    /// # Errors
    /// The time is up, or the controller refuses the request.
    pub async fn dispatch(
        &self,
        call: &ControllerCall,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, DispatchError> {
        let deadline = Instant::now() + limit;
        loop {
            let last = match self.attempt(call, &body).await {
                Err(error @ (DispatchError::NotController { .. } | DispatchError::TimedOut)) => error,
                answered => return answered,
            };
            if Instant::now() + RETRY >= deadline {
                return Err(last);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn attempt(&self, call: &ControllerCall, body: &Bytes) -> Result<Bytes, DispatchError> {
        let leader = match self.handle.dispatch(call.clone(), body.clone()).await {
            Err(DispatchError::NotController { leader: Some(leader) }) => leader,
            answered => return answered,
        };
        let unreachable = || DispatchError::NotController { leader: Some(leader) };
        let address = self.handle.shared.address(leader).ok_or_else(unreachable)?;
        let client = self.pool.try_get(&address).await.map_err(|_| unreachable())?;
        let response: EnvelopeResponse = client
            .send(0, wrap(call, body)?)
            .await
            .map_err(|_| unreachable())?;
        unwrap(call, response)
    }
}

fn wrap(call: &ControllerCall, body: &Bytes) -> Result<EnvelopeRequest, DispatchError> {
    let header = RequestHeader::default()
        .with_request_api_key(call.api_key)
        .with_request_api_version(call.api_version)
        .with_client_id(call.client_id.clone().map(StrBytes::from_string));
    let mut data = BytesMut::with_capacity(body.len() + 64);
    header
        .encode(&mut data, request_header_version(call.api_key, call.api_version))
        .map_err(|error| DispatchError::Malformed {
            api_key: call.api_key,
            detail: error.to_string(),
        })?;
    data.put_slice(body);
    Ok(EnvelopeRequest::default()
        .with_request_data(data.freeze())
        .with_request_principal(Some(Bytes::from(call.principal.clone().into_bytes())))
        .with_client_host_address(Bytes::from_static(&[127, 0, 0, 1])))
}

fn unwrap(call: &ControllerCall, response: EnvelopeResponse) -> Result<Bytes, DispatchError> {
    if response.error_code == ErrorCode::NotController.code() {
        return Err(DispatchError::NotController { leader: None });
    }
    let malformed = |detail: String| DispatchError::Malformed {
        api_key: call.api_key,
        detail,
    };
    if response.error_code != 0 {
        return Err(malformed(format!(
            "the controller answers the envelope with error {}",
            response.error_code
        )));
    }
    let mut data = response
        .response_data
        .ok_or_else(|| malformed("an empty envelope".to_owned()))?;
    let header_bytes = if response_header_version(call.api_key, call.api_version) >= 1 {
        5
    } else {
        4
    };
    if data.remaining() < header_bytes {
        return Err(malformed("a short envelope".to_owned()));
    }
    data.advance(header_bytes);
    Ok(data)
}

/// What any controller says about the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// The cluster's id.
    pub cluster_id: String,
    /// Who leads the quorum, if known.
    pub leader: Option<NodeId>,
    /// `host:port` of the controllers that registered.
    pub controllers: Vec<(NodeId, String)>,
}

/// Asks controllers for their cluster, one after another, until one answers or the time is up.
///
/// # Errors
/// Nobody answers; the text is the last reason.
pub async fn ask_cluster(controllers: &[String], limit: Duration) -> Result<ClusterInfo, String> {
    let pool = ClientPool::new(ClientSettings {
        negotiate: false,
        ..ClientSettings::default()
    });
    let deadline = Instant::now() + limit;
    let mut last = "no controller is configured: set controller.quorum.bootstrap.servers".to_owned();
    for server in controllers.iter().cycle() {
        if Instant::now() >= deadline {
            break;
        }
        let request = FetchMetadataRequest {
            node_id: -1,
            after_offset: -1,
            ..FetchMetadataRequest::default()
        };
        match fetch(&pool, server, &request).await {
            Ok(response) => return Ok(info_of(&response)),
            Err(reason) => last = reason,
        }
        tokio::time::sleep(RETRY).await;
    }
    Err(last)
}

fn info_of(response: &FetchMetadataResponse) -> ClusterInfo {
    let controllers = response.controllers.iter().filter_map(|controller| {
        let port = u16::try_from(controller.port).ok()?;
        Some((controller.node_id, join_address(&controller.host, port)))
    });
    ClusterInfo {
        cluster_id: response.cluster_id.clone(),
        leader: Some(response.leader).filter(|leader| *leader >= 0),
        controllers: controllers.collect(),
    }
}

async fn fetch(
    pool: &ClientPool,
    server: &str,
    request: &FetchMetadataRequest,
) -> Result<FetchMetadataResponse, String> {
    served(server, ask(pool, server, request).await?)
}

async fn ask(
    pool: &ClientPool,
    server: &str,
    request: &FetchMetadataRequest,
) -> Result<FetchMetadataResponse, String> {
    let client = pool.try_get(server).await.map_err(|error| error.to_string())?;
    let body = Bytes::from(request.encode_to_vec());
    let answer = client
        .send_raw_within(FETCH_METADATA_KEY, 0, body, FETCH_ANSWER)
        .await
        .map_err(|error| error.to_string())?;
    FetchMetadataResponse::decode(answer).map_err(|error| format!("{server}: {error}"))
}

fn served(server: &str, response: FetchMetadataResponse) -> Result<FetchMetadataResponse, String> {
    if response.refused.is_empty() {
        Ok(response)
    } else {
        Err(format!("{server}: {}", response.refused))
    }
}

/// The committed metadata of a cluster whose controllers are elsewhere. Dropping it ends the reading.
pub struct RemoteMetadata {
    log: Arc<MetadataLog>,
    known: Arc<Mutex<ClusterInfo>>,
    other_cluster: watch::Receiver<Option<OtherCluster>>,
    reading: AbortHandle,
}

/// A controller that was asked belongs to another cluster than this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherCluster {
    /// Who says so, as `host:port`.
    pub controller: String,
    /// Its cluster.
    pub cluster_id: String,
}

/// Who reads metadata.
#[derive(Clone, Debug)]
pub struct MetadataReader {
    /// The node.
    pub node_id: NodeId,
    /// Its metadata directory's id, for those who describe the quorum.
    pub directory_id: Uuid,
    /// Its cluster, as `meta.properties` says.
    pub cluster_id: String,
}

impl RemoteMetadata {
    /// Is to be read from the given controllers, and from those that they name: by the future, which the caller runs and which
    /// ends with this.
    pub fn new(
        own: MetadataReader,
        controllers: Vec<String>,
        logger: &Logger,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let log = MetadataLog::new(0, 0, Arc::new(MetadataImage::default()));
        let info = ClusterInfo {
            cluster_id: own.cluster_id.clone(),
            leader: None,
            controllers: Vec::new(),
        };
        let known = Arc::new(Mutex::new(info));
        let (found_other, other_cluster) = watch::channel(None);
        let reader = Reader {
            pool: ClientPool::new(client_settings(own.node_id)),
            own,
            configured: controllers,
            log: log.clone(),
            known: known.clone(),
            image: MetadataImage::default(),
            begun: false,
            failed: BTreeMap::new(),
            found_other,
            logger: logger.clone(),
        };
        let (reading, abort) = abortable(reader.run());
        let remote = Self {
            log,
            known,
            other_cluster,
            reading: abort,
        };
        (remote, reading.map(drop))
    }

    /// Becomes something when a controller belongs to another cluster before any of this node's own has answered: then the
    /// directory or the addresses are wrong.
    #[must_use]
    pub fn other_cluster(&self) -> watch::Receiver<Option<OtherCluster>> {
        self.other_cluster.clone()
    }

    /// The committed metadata, as far as it was read.
    #[must_use]
    pub fn log(&self) -> &Arc<MetadataLog> {
        &self.log
    }

    /// What the controllers last said about the cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterInfo {
        self.known.lock().clone()
    }
}

impl Drop for RemoteMetadata {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

struct Reader {
    own: MetadataReader,
    configured: Vec<String>,
    pool: Arc<ClientPool>,
    log: Arc<MetadataLog>,
    known: Arc<Mutex<ClusterInfo>>,
    image: MetadataImage,
    begun: bool,
    /// When each controller last failed to answer; one that answers is taken out.
    failed: BTreeMap<String, Instant>,
    found_other: watch::Sender<Option<OtherCluster>>,
    logger: Logger,
}

impl Reader {
    async fn run(mut self) {
        let mut reachable = true;
        loop {
            let servers = self.servers();
            let Some(server) = servers.first() else {
                return;
            };
            match self.read(server).await {
                Ok(()) => {
                    self.failed.remove(server);
                    if !reachable {
                        info!(self.logger, "metadata is read again"; "controller" => server);
                    }
                    reachable = true;
                }
                Err(reason) => {
                    if reachable {
                        warn!(self.logger, "metadata cannot be read"; "controller" => server, "reason" => reason);
                    }
                    reachable = false;
                    self.failed.retain(|failed, _| servers.contains(failed));
                    self.failed.insert(server.clone(), Instant::now());
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// The leader first, because what it hands out is newest; those that have just failed last, the latest at the end.
    fn servers(&self) -> Vec<String> {
        let known = self.known.lock();
        let leads = |(node, _): &&(NodeId, String)| Some(*node) == known.leader;
        let leader = known
            .controllers
            .iter()
            .find(leads)
            .map(|(_, address)| address.clone());
        let named = known.controllers.iter().map(|(_, address)| address.clone());
        let mut servers = Vec::new();
        for server in leader
            .into_iter()
            .chain(named)
            .chain(self.configured.iter().cloned())
        {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers.sort_by_key(|server| self.failed.get(server).filter(|at| at.elapsed() < SHUNNED));
        servers
    }

    async fn read(&mut self, server: &str) -> Result<(), String> {
        let request = FetchMetadataRequest {
            cluster_id: self.own.cluster_id.clone(),
            node_id: self.own.node_id,
            directory_id: Bytes::copy_from_slice(self.own.directory_id.as_bytes()),
            after_offset: if self.begun { self.image.offset } else { -1 },
            wait_ms: FETCH_WAIT_MS,
            updates_max: FETCH_UPDATES_MAX,
        };
        let response = ask(&self.pool, server, &request).await?;
        if !self.begun && !response.cluster_id.is_empty() && response.cluster_id != self.own.cluster_id {
            self.found_other.send_replace(Some(OtherCluster {
                controller: server.to_owned(),
                cluster_id: response.cluster_id.clone(),
            }));
        }
        let response = served(server, response)?;
        let info = info_of(&response);
        if info.leader.is_none() && response.entries.is_empty() && self.servers().len() > 1 {
            // Cut off from the other controllers, or let in by none yet: it may never have news, and others may.
            return Err(format!("{server} knows no leader"));
        }
        *self.known.lock() = info;
        for entry in response.entries {
            self.take(entry).map_err(|error| format!("{server}: {error}"))?;
        }
        Ok(())
    }

    fn take(&mut self, entry: MetadataEntry) -> Result<(), prost::DecodeError> {
        // A controller that is behind must not take this node back; its image is older, not another.
        if self.begun && entry.offset <= self.image.offset {
            return Ok(());
        }
        let records = batch_from_bytes(&entry.batch)?;
        if entry.snapshot {
            self.image = MetadataImage::default();
        }
        for record in &records {
            self.image.apply(record);
        }
        let index = u64::try_from(entry.offset).unwrap_or(0);
        set_position(&mut self.image, index, u64::try_from(entry.epoch).unwrap_or(0));
        self.begun = true;
        let content = match entry.snapshot {
            true => MetadataContent::Snapshot,
            false => MetadataContent::Records(Arc::new(records)),
        };
        let image = Arc::new(self.image.clone());
        self.log.publish(MetadataUpdate {
            offset: entry.offset,
            epoch: entry.epoch,
            content,
            image,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use odradek_common::ids::NO_NODE;
    use odradek_common::metadata::batch_bytes;
    use odradek_net::listener::{BoundListener, Listener, ListenerContext, ListenerSettings};
    use odradek_net::service::{ConnectionInfo, Reply, RequestFrame, Response, Service};
    use odradek_net::wire::raw_response;
    use odradek_net::worker::WorkerPool;
    use slog::o;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A controller that says the same to everybody.
    struct FixedController {
        leader: NodeId,
        /// Of a snapshot that it has.
        offset: Option<i64>,
    }

    impl FixedController {
        fn listen(self, workers: &Arc<WorkerPool>) -> Listener {
            let bound = BoundListener::bind(ListenerSettings::new("CONTROLLER", "127.0.0.1", 0));
            let log = Logger::root(slog::Discard, o!());
            let context = ListenerContext::new(workers.clone(), log);
            bound.expect("a free port").start(&context, Arc::new(self))
        }
    }

    impl Service for FixedController {
        fn supports(&self, api_key: i16, _: i16) -> bool {
            api_key == FETCH_METADATA_KEY
        }

        fn call(&self, _: &Arc<ConnectionInfo>, request: RequestFrame) -> Reply {
            let fetch = FetchMetadataRequest::decode(request.body.clone()).expect("decodes");
            let news = self.offset.filter(|offset| *offset > fetch.after_offset);
            let entry = |offset| MetadataEntry {
                offset,
                epoch: 1,
                batch: batch_bytes(Vec::new()),
                snapshot: true,
            };
            let response = FetchMetadataResponse {
                leader: self.leader,
                entries: news.into_iter().map(entry).collect(),
                ..FetchMetadataResponse::default()
            };
            let (key, version, id) = (request.api_key, request.api_version, request.correlation_id);
            let body = Bytes::from(response.encode_to_vec());
            Reply::Done(Response::Frame(raw_response(key, version, id, body)))
        }
    }

    #[tokio::test]
    async fn a_controller_that_knows_no_leader_is_left_for_another() {
        let workers = Arc::new(WorkerPool::start(1, "controllers").expect("a worker"));
        let cut_off = FixedController {
            leader: NO_NODE,
            offset: Some(5),
        };
        let leads = FixedController {
            leader: 2,
            offset: Some(10),
        };
        let (cut_off, leads) = (cut_off.listen(&workers), leads.listen(&workers));
        let reader = MetadataReader {
            node_id: 9,
            directory_id: Uuid::from_u128(9),
            cluster_id: String::new(),
        };
        let addresses = [&cut_off, &leads].map(|listener| listener.local_addr().to_string());
        let log = Logger::root(slog::Discard, o!());
        let (remote, reading) = RemoteMetadata::new(reader, addresses.to_vec(), &log);
        let reading = tokio::spawn(reading);
        let mut updates = remote.log().subscribe();
        let newest = async {
            while let Some(update) = updates.recv().await {
                if update.offset == 10 {
                    return;
                }
            }
            panic!("the reading ended");
        };
        tokio::time::timeout(LIMIT, newest)
            .await
            .expect("the other one is read");
        assert_eq!(remote.cluster().leader, Some(2));
        drop(remote);
        tokio::time::timeout(LIMIT, reading)
            .await
            .expect("it ends with what it was for")
            .expect("it does not panic");
        workers.stop();
    }
}
