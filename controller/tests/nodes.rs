//! Controller nodes over real sockets and real disks: elections, forwarding, restarts, joiners, and what tools are told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::broker_registration_request::Listener as BrokerListener;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::{
    AddRaftVoterRequest, ApiVersionsRequest, BrokerHeartbeatRequest, BrokerRegistrationRequest,
    CreateTopicsRequest, DescribeClusterRequest, DescribeQuorumRequest, DescribeQuorumResponse,
    RemoveRaftVoterRequest, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use odradek_common::ids::NodeId;
use odradek_common::metadata::{Endpoint, SecurityProtocol};
use odradek_config::ServerConfig;
use odradek_controller::client::{ControllerClient, MetadataReader, RemoteMetadata, ask_cluster};
use odradek_controller::format::{Format, InitialVoter, format};
use odradek_controller::handle::{ControllerCall, ControllerHandle, DispatchError};
use odradek_controller::meta_properties::{MetaProperties, random_uuid};
use odradek_controller::node::ControllerNode;
use odradek_controller::service::ControllerService;
use odradek_controller::settings::NodeSettings;
use odradek_controller_core::controller::{ControllerSettings, PermissiveConfigs};
use odradek_net::client::{Client, ClientSettings};
use odradek_net::listener::{BoundListener, Listener, ListenerContext, ListenerSettings};
use odradek_net::worker::WorkerPool;
use slog::{Logger, o};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(10);
const VOTER_NOT_FOUND: i16 = 127;

fn logger() -> Logger {
    Logger::root(slog::Discard, o!())
}

/// One controller with a runtime of its own, so that it can die alone.
struct Node {
    id: NodeId,
    handle: ControllerHandle,
    runtime: Option<Runtime>,
    workers: Arc<WorkerPool>,
    listener: Arc<Listener>,
}

struct Cluster {
    root: TempDir,
    voters: Vec<InitialVoter>,
    nodes: Vec<Node>,
    spare: Vec<BoundListener>,
    join_max: Duration,
}

fn bind() -> BoundListener {
    BoundListener::bind(ListenerSettings::new("CONTROLLER", "127.0.0.1", 0)).expect("a free port")
}

fn endpoint(listener: &BoundListener) -> Endpoint {
    Endpoint {
        listener: "CONTROLLER".into(),
        host: "127.0.0.1".into(),
        port: listener.local_addr().port(),
        security_protocol: SecurityProtocol::Plaintext,
    }
}

impl Cluster {
    fn new(size: NodeId) -> Self {
        Self::with_join_max(size, LIMIT)
    }

    fn with_join_max(size: NodeId, join_max: Duration) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let spare: Vec<BoundListener> = (0..size).map(|_| bind()).collect();
        let voters = (0..size)
            .zip(&spare)
            .map(|(node_id, listener)| InitialVoter {
                node_id,
                directory_id: Uuid::nil(),
                endpoint: endpoint(listener),
            })
            .collect();
        let mut cluster = Self {
            root,
            voters,
            nodes: Vec::new(),
            spare,
            join_max,
        };
        for id in 0..size {
            let dir = cluster.directory(id);
            format(&Format {
                log_dirs: std::slice::from_ref(&dir),
                metadata_log_dir: &dir,
                cluster_id: "test-cluster",
                node_id: id,
                controller: true,
                initial_voters: &cluster.voters,
                ignore_formatted: false,
            })
            .expect("formats");
        }
        for id in 0..size {
            let listener = cluster.spare.remove(0);
            cluster.start(id, listener);
        }
        cluster
    }

    fn directory(&self, id: NodeId) -> PathBuf {
        self.root.path().join(format!("node-{id}"))
    }

    fn start(&mut self, id: NodeId, bound: BoundListener) {
        let dir = self.directory(id);
        let properties = MetaProperties::read(&dir).expect("reads").expect("is formatted");
        let settings = NodeSettings {
            node_id: id,
            cluster_id: properties.cluster_id,
            directory_id: properties.directory_id,
            metadata_log_dir: dir,
            endpoints: vec![endpoint(&bound)],
            voters: Vec::new(),
            bootstrap_servers: self
                .nodes
                .iter()
                .map(|node| node.listener.local_addr().to_string())
                .collect(),
            auto_join: true,
            election_timeout_ms: 1_000,
            snapshot_after_bytes: 20 << 20,
            snapshot_after_ms: 3_600_000,
            fetch_bytes_max: 1 << 20,
            quorum_request_timeout: Duration::from_secs(2),
            fencing_probe: true,
            join_max: self.join_max,
            request_timeout: LIMIT,
            config: Arc::new(ServerConfig::single_node_default()),
            controller: ControllerSettings {
                node_id: id,
                ..ControllerSettings::default()
            },
            configs: Arc::new(PermissiveConfigs),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let workers = Arc::new(WorkerPool::start(1, &format!("net-{id}")).expect("workers"));
        let _inside = runtime.enter();
        let handle = ControllerNode::start(settings, &logger()).expect("starts");
        let service = ControllerService::new(handle.clone(), &logger());
        let listener = bound.start(&ListenerContext::new(workers.clone(), logger()), service);
        drop(_inside);
        self.nodes.push(Node {
            id,
            handle,
            runtime: Some(runtime),
            workers,
            listener: Arc::new(listener),
        });
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes.iter().find(|node| node.id == id).expect("it runs")
    }

    fn active(&self) -> Option<&Node> {
        self.nodes
            .iter()
            .find(|node| node.handle.is_active() && node.runtime.is_some())
    }

    fn wait_for_active(&self) -> &Node {
        wait_until("an active controller", || self.active().is_some());
        self.active().expect("just seen")
    }

    /// All sockets of the node close at once, as when its process is killed.
    fn kill(&mut self, id: NodeId) {
        let node = self.nodes.iter_mut().find(|node| node.id == id).expect("it runs");
        node.runtime.take().expect("it lives").shutdown_background();
        node.workers.stop();
        let position = self
            .nodes
            .iter()
            .position(|node| node.id == id)
            .expect("it is there");
        self.nodes.remove(position);
    }

    async fn call<R: Request>(&self, via: NodeId, version: i16, request: &R) -> R::Response {
        let client = ControllerClient::local(&self.node(via).handle);
        let mut body = BytesMut::new();
        request.encode(&mut body, version).expect("encodes");
        let call = ControllerCall::own(R::KEY, version);
        let mut answer = client
            .dispatch(&call, body.freeze(), LIMIT)
            .await
            .expect("is answered");
        R::Response::decode(&mut answer, version).expect("decodes")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.drain(..) {
            if let Some(runtime) = node.runtime {
                runtime.shutdown_background();
            }
            node.workers.stop();
        }
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    begun.elapsed()
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn registration(broker_id: NodeId, port: u16) -> BrokerRegistrationRequest {
    let listener = BrokerListener::default()
        .with_name(text("PLAINTEXT"))
        .with_host(text("127.0.0.1"))
        .with_port(port);
    BrokerRegistrationRequest::default()
        .with_broker_id(broker_id.into())
        .with_cluster_id(text("test-cluster"))
        .with_incarnation_id(random_uuid())
        .with_listeners(vec![listener])
        .with_features(
            odradek_common::metadata::features::FEATURES
                .iter()
                .map(|feature| {
                    kafka_protocol::messages::broker_registration_request::Feature::default()
                        .with_name(text(feature.name))
                        .with_min_supported_version(feature.min_level)
                        .with_max_supported_version(feature.max_level)
                })
                .collect(),
        )
        .with_log_dirs(vec![random_uuid()])
        .with_previous_broker_epoch(-1)
}

/// Registers a broker and unfences it. Its port answers, so nobody takes its silence for death.
async fn join_broker(cluster: &Cluster, via: NodeId, broker_id: NodeId, listener: &BoundListener) -> i64 {
    let port = listener.local_addr().port();
    let registered = cluster.call(via, 4, &registration(broker_id, port)).await;
    assert_eq!(registered.error_code, 0);
    let heartbeat = BrokerHeartbeatRequest::default()
        .with_broker_id(broker_id.into())
        .with_broker_epoch(registered.broker_epoch)
        .with_current_metadata_offset(registered.broker_epoch + 1_000)
        .with_want_fence(false);
    let unfenced = cluster.call(via, 1, &heartbeat).await;
    assert_eq!((unfenced.error_code, unfenced.is_fenced), (0, false));
    registered.broker_epoch
}

fn create_topic(name: &str) -> CreateTopicsRequest {
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(3)
        .with_replication_factor(1);
    CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(5_000)
}

fn describe_quorum() -> DescribeQuorumRequest {
    let topic = TopicData::default()
        .with_topic_name(TopicName(text("__cluster_metadata")))
        .with_partitions(vec![PartitionData::default()]);
    DescribeQuorumRequest::default().with_topics(vec![topic])
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

#[test]
fn one_node_decides_and_remembers() {
    let mut cluster = Cluster::new(1);
    let broker = bind();
    let elapsed = wait_until("an active controller", || cluster.active().is_some());
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    block_on(async {
        join_broker(&cluster, 0, 7, &broker).await;
        let created = cluster.call(0, 7, &create_topic("a")).await;
        assert_eq!(created.topics[0].error_code, 0, "{created:?}");
        // The answer comes after the metadata was published.
        assert_eq!(
            cluster
                .node(0)
                .handle
                .image()
                .topic("a")
                .expect("is there")
                .partitions
                .len(),
            3
        );
        let again = cluster.call(0, 7, &create_topic("a")).await;
        assert_eq!(again.topics[0].error_code, 36);
    });
    wait_until("it registered itself", || {
        cluster.node(0).handle.image().controllers.contains_key(&0)
    });
    let before = cluster.node(0).handle.image();
    block_on(cluster.node(0).handle.shutdown());
    cluster.kill(0);
    cluster.start(0, bind());
    let active = cluster.wait_for_active();
    let after = active.handle.image();
    assert_eq!(after.topics, before.topics);
    assert_eq!(after.cluster_id.as_ref(), "test-cluster");
    assert_eq!(after.features, before.features);
}

#[test]
fn topics_one_after_another_take_a_few_milliseconds_each() {
    let cluster = Cluster::new(1);
    let broker = bind();
    cluster.wait_for_active();
    block_on(async {
        join_broker(&cluster, 0, 7, &broker).await;
        let begun = Instant::now();
        for i in 0..50 {
            let created = cluster.call(0, 7, &create_topic(&format!("t{i}"))).await;
            assert_eq!(created.topics[0].error_code, 0);
        }
        println!("50 topics one after another: {:?}", begun.elapsed());
        let syncs = cluster
            .node(0)
            .handle
            .metrics()
            .syncs
            .load(std::sync::atomic::Ordering::Relaxed);
        let handle = &cluster.node(0).handle;
        let many = (0..200).map(|i| {
            let mut body = BytesMut::new();
            create_topic(&format!("m{i}"))
                .encode(&mut body, 7)
                .expect("encodes");
            handle.dispatch(ControllerCall::own(CreateTopicsRequest::KEY, 7), body.freeze())
        });
        let answers = futures::future::join_all(many).await;
        assert!(answers.iter().all(Result::is_ok));
        let after = handle.metrics().syncs.load(std::sync::atomic::Ordering::Relaxed);
        assert!(
            after - syncs < 50,
            "200 requests at once took {} writes",
            after - syncs
        );
    });
}

#[test]
fn three_nodes_agree_and_a_killed_leader_is_replaced() {
    let mut cluster = Cluster::new(3);
    let broker = bind();
    let old = cluster.wait_for_active().id;
    let via = (old + 1) % 3;
    wait_until("everybody knows the leader", || {
        cluster.nodes.iter().all(|n| n.handle.leader() == Some(old))
    });
    block_on(async {
        join_broker(&cluster, via, 7, &broker).await;
        let created = cluster.call(via, 7, &create_topic("a")).await;
        assert_eq!(created.topics[0].error_code, 0);
    });
    wait_until("all have the topic and know each other", || {
        cluster.nodes.iter().all(|node| {
            let image = node.handle.image();
            image.topic("a").is_some() && image.controllers.values().all(|c| !c.incarnation_id.is_nil())
        })
    });
    cluster.kill(old);
    let elapsed = wait_until("another active controller", || cluster.active().is_some());
    println!("a new leader after {elapsed:?}");
    assert!(elapsed < Duration::from_millis(1_500), "{elapsed:?}");
    block_on(async {
        let created = cluster.call(via, 7, &create_topic("b")).await;
        assert_eq!(created.topics[0].error_code, 0);
    });
}

#[test]
fn a_leader_that_stops_hands_over() {
    let cluster = Cluster::new(3);
    let old = cluster.wait_for_active();
    let old_id = old.id;
    wait_until("everybody knows the leader", || {
        cluster.nodes.iter().all(|n| n.handle.leader() == Some(old_id))
    });
    let begun = Instant::now();
    block_on(old.handle.shutdown());
    wait_until("another active controller", || {
        cluster
            .nodes
            .iter()
            .any(|node| node.id != old_id && node.handle.is_active())
    });
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

async fn connect(node: &Node) -> Arc<Client> {
    let address = node.listener.local_addr().to_string();
    Client::connect(&address, ClientSettings::default())
        .await
        .expect("connects")
}

#[test]
fn tools_are_told_how_the_quorum_is() {
    let cluster = Cluster::new(3);
    let leader = cluster.wait_for_active().id;
    wait_until("all registered", || {
        let image = cluster.node(leader).handle.image();
        image
            .controllers
            .values()
            .filter(|c| !c.incarnation_id.is_nil())
            .count()
            == 3
    });
    block_on(async {
        let client = connect(cluster.node(leader)).await;
        let described: DescribeQuorumResponse = client.send(2, describe_quorum()).await.expect("is answered");
        assert_eq!(described.error_code, 0);
        let partition = &described.topics[0].partitions[0];
        assert_eq!(partition.leader_id.0, leader);
        assert_eq!(partition.current_voters.len(), 3);
        assert!(partition.high_watermark > 1);
        let voters = &partition.current_voters;
        assert!(voters.iter().all(|voter| !voter.replica_directory_id.is_nil()));
        assert!(
            voters.iter().all(|voter| voter.last_caught_up_timestamp > 0),
            "{partition:?}"
        );
        assert_eq!(described.nodes.len(), 3);
        let request = DescribeClusterRequest::default().with_endpoint_type(2);
        let controllers = client
            .send::<DescribeClusterRequest>(1, request)
            .await
            .expect("is answered");
        assert_eq!(
            (controllers.controller_id.0, controllers.brokers.len()),
            (leader, 3)
        );
    });
}

#[test]
fn the_listener_says_what_it_serves_and_followers_who_they_are_not() {
    let cluster = Cluster::new(3);
    let leader = cluster.wait_for_active().id;
    let has_features = |node: &Node| !node.handle.image().features.is_empty();
    wait_until("features are known", || cluster.nodes.iter().all(has_features));
    block_on(async {
        let follower = connect(cluster.node((leader + 1) % 3)).await;
        let request = ApiVersionsRequest::default();
        let versions = follower
            .send::<ApiVersionsRequest>(3, request)
            .await
            .expect("is answered");
        assert!(
            versions
                .api_keys
                .iter()
                .any(|key| key.api_key == DescribeQuorumRequest::KEY)
        );
        assert!(
            versions.api_keys.iter().all(|key| key.api_key < 10_000),
            "private keys stay private"
        );
        assert!(
            versions
                .finalized_features
                .iter()
                .any(|feature| &*feature.name == "metadata.version")
        );
        let refused = follower
            .send::<CreateTopicsRequest>(7, create_topic("a"))
            .await
            .expect("is answered");
        assert_eq!(refused.topics[0].error_code, 41);
        let refused: DescribeQuorumResponse = follower.send(2, describe_quorum()).await.expect("is answered");
        assert_eq!(refused.error_code, 6);
    });
}

#[test]
fn a_node_without_a_controller_reads_the_metadata() {
    let cluster = Cluster::new(3);
    let leader = cluster.wait_for_active().id;
    let broker = bind();
    let controllers = vec![cluster.node((leader + 1) % 3).listener.local_addr().to_string()];
    block_on(async {
        let info = ask_cluster(&controllers, LIMIT).await.expect("is answered");
        assert_eq!(info.cluster_id, "test-cluster");
        let reader = MetadataReader {
            node_id: 9,
            directory_id: uuid::Uuid::from_u128(9),
            cluster_id: info.cluster_id,
        };
        let (remote, reading) = RemoteMetadata::new(reader, controllers, &logger());
        tokio::spawn(reading);
        let mut updates = remote.log().subscribe();
        join_broker(&cluster, leader, 7, &broker).await;
        cluster.call(leader, 7, &create_topic("a")).await;
        let wanted = async {
            while let Some(update) = updates.recv().await {
                if update.image.topic("a").is_some() {
                    return update.image;
                }
            }
            panic!("the stream ended");
        };
        let image = tokio::time::timeout(LIMIT, wanted).await.expect("in time");
        assert_eq!(image.topics, cluster.node(leader).handle.image().topics);
        // It counts as an observer where it reads.
        let observed = || {
            cluster
                .nodes
                .iter()
                .any(|node| node.handle.status().observers.contains_key(&9))
        };
        assert!(observed());
    });
}

#[test]
fn a_broker_whose_port_refuses_is_fenced_at_once() {
    let cluster = Cluster::new(1);
    cluster.wait_for_active();
    let address = cluster.node(0).listener.local_addr().to_string();
    block_on(async {
        // Its port is one that nobody listens on any more.
        let port = bind().local_addr().port();
        let client = Client::connect(&address, ClientSettings::default())
            .await
            .expect("connects");
        let registered = client
            .send::<BrokerRegistrationRequest>(4, registration(7, port))
            .await
            .expect("is answered");
        let heartbeat = BrokerHeartbeatRequest::default()
            .with_broker_id(7.into())
            .with_broker_epoch(registered.broker_epoch)
            .with_current_metadata_offset(registered.broker_epoch + 1_000);
        let answer = client
            .send::<BrokerHeartbeatRequest>(1, heartbeat)
            .await
            .expect("is answered");
        assert!(!answer.is_fenced);
        client.close("the broker dies");
    });
    let handle = &cluster.node(0).handle;
    let elapsed = wait_until("it is fenced", || {
        handle.image().brokers.get(&7).is_some_and(|broker| broker.fenced)
    });
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}

#[test]
fn a_broker_of_many_partitions_is_fenced_in_several_entries() {
    let cluster = Cluster::new(1);
    let broker = bind();
    cluster.wait_for_active();
    let handle = &cluster.node(0).handle;
    wait_until("it registered itself", || {
        handle.image().controllers.contains_key(&0)
    });
    let proposals = || proposals_of(handle);
    let before = proposals();
    block_on(async {
        join_broker(&cluster, 0, 7, &broker).await;
        let mut request = create_topic("a");
        request.topics[0].num_partitions = 1_000;
        let created = cluster.call(0, 7, &request).await;
        assert_eq!(created.topics[0].error_code, 0, "{created:?}");
    });
    drop(broker);
    wait_until("it is fenced", || handle.image().brokers[&7].fenced);
    // It was registered, unfenced and given the topic; then its partitions left it, and it was fenced.
    assert!(proposals() >= before + 5);
    let topic = handle.image().topic("a").expect("is there").clone();
    assert!(topic.partitions.iter().all(|partition| partition.leader == -1));
}

#[test]
fn a_node_joins_and_leaves_the_quorum() {
    let mut cluster = Cluster::new(2);
    let leader = cluster.wait_for_active().id;
    let dir = cluster.directory(2);
    let joiner = format(&Format {
        log_dirs: std::slice::from_ref(&dir),
        metadata_log_dir: &dir,
        cluster_id: "test-cluster",
        node_id: 2,
        controller: true,
        initial_voters: &[],
        ignore_formatted: false,
    })
    .expect("formats");
    cluster.start(2, bind());
    wait_until("it votes", || {
        cluster
            .nodes
            .iter()
            .all(|node| node.handle.status().membership.voters == vec![0, 1, 2])
    });
    wait_until("it registered", || {
        let image = cluster.node(leader).handle.image();
        image
            .controllers
            .get(&2)
            .is_some_and(|c| c.directory_id == joiner.directory_id && !c.features.is_empty())
    });
    block_on(async {
        // Nil is no wild card: it names a voter whose directory is not known.
        for wrong in [random_uuid(), Uuid::nil()] {
            let refused = cluster.call(leader, 0, &remove_voter(2, wrong)).await;
            assert_eq!(refused.error_code, VOTER_NOT_FOUND, "{wrong}: {refused:?}");
        }
        let removed = cluster
            .call(leader, 0, &remove_voter(2, joiner.directory_id))
            .await;
        assert_eq!(removed.error_code, 0, "{removed:?}");
    });
    wait_until("it is out", || {
        cluster.node(leader).handle.status().membership.voters == vec![0, 1]
    });
}

#[test]
fn the_only_voter_stays_and_stays_registered() {
    let cluster = Cluster::new(1);
    let handle = cluster.wait_for_active().handle.clone();
    let directory_id = || {
        let image = handle.image();
        image
            .controllers
            .get(&0)
            .map(|controller| controller.directory_id)
    };
    wait_until("it registered its directory", || {
        directory_id().is_some_and(|id| !id.is_nil())
    });
    let own = directory_id().expect("just seen");
    let proposals = || proposals_of(&handle);
    let before = proposals();
    let refused = block_on(cluster.call(0, 0, &remove_voter(0, own)));
    assert_eq!(refused.error_code, VOTER_NOT_FOUND, "{refused:?}");
    assert_eq!(proposals(), before, "it was not even unregistered");
}

/// How many entries a node has proposed.
fn proposals_of(handle: &ControllerHandle) -> u64 {
    handle
        .metrics()
        .proposals
        .load(std::sync::atomic::Ordering::Relaxed)
}

fn remove_voter(voter_id: i32, directory_id: Uuid) -> RemoveRaftVoterRequest {
    RemoveRaftVoterRequest::default()
        .with_cluster_id(None)
        .with_voter_id(voter_id)
        .with_voter_directory_id(directory_id)
}

#[test]
fn a_voter_that_never_comes_is_let_go() {
    use kafka_protocol::messages::add_raft_voter_request::Listener;
    let cluster = Cluster::with_join_max(1, Duration::from_millis(300));
    let handle = cluster.wait_for_active().handle.clone();
    let listener = Listener::default()
        .with_name(text("CONTROLLER"))
        .with_host(text("127.0.0.1"))
        .with_port(bind().local_addr().port());
    let request = AddRaftVoterRequest::default()
        .with_cluster_id(None)
        .with_voter_id(9)
        .with_voter_directory_id(random_uuid())
        .with_listeners(vec![listener]);
    let mut body = BytesMut::new();
    request.encode(&mut body, 0).expect("encodes");
    let call = ControllerCall::own(AddRaftVoterRequest::KEY, 0);
    let refused = block_on(handle.dispatch(call, body.freeze()));
    assert!(matches!(refused, Err(DispatchError::TimedOut)), "{refused:?}");
    wait_until("it is neither learner nor registered", || {
        let membership = handle.status().membership.clone();
        membership.learners.is_empty() && !handle.image().controllers.contains_key(&9)
    });
}

#[test]
fn malformed_bodies_are_refused() {
    let cluster = Cluster::new(1);
    let handle = cluster.wait_for_active().handle.clone();
    block_on(async {
        let call = ControllerCall::own(CreateTopicsRequest::KEY, 7);
        assert!(handle.dispatch(call, Bytes::from_static(&[2, 3])).await.is_err());
        assert!(
            handle
                .dispatch(ControllerCall::own(CreateTopicsRequest::KEY, 99), Bytes::new())
                .await
                .is_err()
        );
        assert!(
            handle
                .dispatch(ControllerCall::own(0, 3), Bytes::new())
                .await
                .is_err()
        );
    });
}
