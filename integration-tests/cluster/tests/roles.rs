//! Controllers and brokers in processes of their own, from the sample files, and voters that come and go.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_quorum_request::{PartitionData as Wanted, TopicData as WantedTopic};
use kafka_protocol::messages::describe_quorum_response::{PartitionData, ReplicaState};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    DescribeConfigsRequest, DescribeQuorumRequest, IncrementalAlterConfigsRequest, MetadataRequest,
};
use odradek_cluster_tests::asks::{OK, creatable, text, topic_name};
use odradek_cluster_tests::cluster::free_port;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::records::{Seen, batch};
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_cluster_tests::{binary, java};
use odradek_common::error::ErrorCode;
use tempfile::TempDir;

const BROKER: i8 = 4;
const LIMIT: Duration = Duration::from_secs(30);
const CLUSTER_ID: &str = "5L6g3nShT-eMCtK--X86sw";
/// NOT_LEADER_OR_FOLLOWER: only the leader describes the quorum.
const NOT_LEADER: i16 = 6;
const QUORUM_TOOL: &str = "org.apache.kafka.tools.MetadataQuorumCommand";

/// Controllers 100, 101, .. and brokers 1, 2, .. on loopback, with configurations and no process yet.
struct Isolated {
    controllers: Vec<Node>,
    brokers: Vec<Node>,
    _directory: TempDir,
}

impl Isolated {
    fn prepare(controllers: i32, brokers: i32) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let node = |id: i32| {
            let folder = directory.path().join(format!("node-{id}"));
            fs::create_dir_all(&folder).expect("the test's directory can be written to");
            Node::new(id, folder, [free_port(), free_port(), free_port()])
        };
        let cluster = Self {
            controllers: (100..100 + controllers).map(node).collect(),
            brokers: (1..=brokers).map(node).collect(),
            _directory: directory,
        };
        for controller in &cluster.controllers {
            cluster.configure(
                controller,
                "controller.properties",
                "CONTROLLER",
                controller.controller_port,
            );
            let voters = cluster
                .controllers
                .iter()
                .map(|node| format!("{}@{}", node.id, controller_address(node)));
            append(controller, "default.replication.factor", "1");
            append(
                controller,
                "controller.quorum.voters",
                &voters.collect::<Vec<_>>().join(","),
            );
        }
        for broker in &cluster.brokers {
            cluster.configure(broker, "broker.properties", "PLAINTEXT", broker.port);
            append(
                broker,
                "controller.quorum.bootstrap.servers",
                &cluster.bootstrap_controllers(),
            );
        }
        cluster
    }

    /// The sample file, with this node's number, addresses and directories at its end, where they count.
    fn configure(&self, node: &Node, sample: &str, listener: &str, port: u16) {
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
        let text = fs::read_to_string(samples.join(sample)).expect("the sample file is there");
        fs::write(node.properties(), text + "\n").expect("the test's directory can be written to");
        append(node, "node.id", &node.id.to_string());
        append(node, "listeners", &format!("{listener}://127.0.0.1:{port}"));
        append(
            node,
            "advertised.listeners",
            &format!("{listener}://127.0.0.1:{port}"),
        );
        append(node, "log.dirs", &node.log_dir().display().to_string());
        append(
            node,
            "odradek.metrics.listener",
            &format!("127.0.0.1:{}", node.metrics_port),
        );
    }

    /// Without controller.quorum.voters: the founders are named when the directory is formatted.
    fn make_dynamic(&self) {
        for controller in &self.controllers {
            let text = fs::read_to_string(controller.properties()).expect("it was written");
            let kept = text
                .lines()
                .filter(|line| !line.starts_with("controller.quorum.voters=100@127"));
            let kept = kept.collect::<Vec<_>>().join("\n");
            // The sample's own voters go over two lines.
            let kept = kept
                .replace("controller.quorum.voters=", "#")
                .replace("  102@controller-3", "#");
            fs::write(controller.properties(), kept + "\n").expect("the test's directory can be written to");
            append(
                controller,
                "controller.quorum.bootstrap.servers",
                &self.bootstrap_controllers(),
            );
        }
    }

    fn bootstrap_controllers(&self) -> String {
        self.controllers
            .iter()
            .map(controller_address)
            .collect::<Vec<_>>()
            .join(",")
    }

    fn format(&self, node: &Node, more: &[&str]) {
        let config = node.properties().display().to_string();
        let mut arguments = vec![
            "storage",
            "format",
            "--cluster-id",
            CLUSTER_ID,
            "--config",
            &config,
        ];
        arguments.extend_from_slice(more);
        succeeds(&odradek(&arguments));
    }

    fn all(&self) -> impl Iterator<Item = &Node> {
        self.controllers.iter().chain(&self.brokers)
    }

    async fn active_controller(&self) -> &Node {
        eventually("one controller is active", LIMIT, async || {
            for controller in self
                .controllers
                .iter()
                .filter(|controller| controller.is_running())
            {
                if controller.metric("odradek_active_controller").await == Some(1.0) {
                    return Ok(controller);
                }
            }
            Err("none is".to_owned())
        })
        .await
    }

    async fn connect(&self, broker: usize) -> Connection {
        Connection::open(&self.brokers[broker].address()).await
    }
}

fn controller_address(node: &Node) -> String {
    format!("127.0.0.1:{}", node.controller_port)
}

fn append(node: &Node, key: &str, value: &str) {
    let text = fs::read_to_string(node.properties()).expect("it was written");
    fs::write(node.properties(), format!("{text}{key}={value}\n"))
        .expect("the test's directory can be written to");
}

fn odradek(arguments: &[&str]) -> Output {
    Command::new(binary::odradek())
        .args(arguments)
        .output()
        .expect("the binary can be started")
}

fn succeeds(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn meta_property(node: &Node, key: &str) -> String {
    let file = node.log_dir().join("meta.properties");
    let text = fs::read_to_string(&file).expect("the directory is formatted");
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value
        .unwrap_or_else(|| panic!("{} has no {key}", file.display()))
        .to_owned()
}

/// How the quorum stands, as the node at an address says; the error code if it does not say.
async fn quorum(connection: &Connection) -> Result<PartitionData, i16> {
    let topic = WantedTopic::default()
        .with_topic_name(topic_name("__cluster_metadata"))
        .with_partitions(vec![Wanted::default().with_partition_index(0)]);
    let response = connection
        .ask(DescribeQuorumRequest::default().with_topics(vec![topic]))
        .await;
    if response.error_code != OK {
        return Err(response.error_code);
    }
    let partition = response.topics[0].partitions[0].clone();
    if partition.error_code == OK {
        Ok(partition)
    } else {
        Err(partition.error_code)
    }
}

fn ids(replicas: &[ReplicaState]) -> Vec<i32> {
    let mut ids: Vec<i32> = replicas.iter().map(|replica| replica.replica_id.0).collect();
    ids.sort_unstable();
    ids
}

async fn await_voters(connection: &Connection, wanted: &[i32]) -> PartitionData {
    eventually(&format!("the voters are {wanted:?}"), LIMIT, async || {
        let partition = quorum(connection).await.map_err(|code| format!("error {code}"))?;
        holds(ids(&partition.current_voters) == wanted, format!("{partition:?}"))?;
        Ok(partition)
    })
    .await
}

fn texts(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(Seen::text).collect()
}

/// Produces to wherever the leader is now; in the end it works.
async fn produce(cluster: &Isolated, topic: &str, value: &str) {
    eventually(&format!("{value} is written"), LIMIT, async || {
        let known = cluster
            .brokers
            .iter()
            .find(|broker| broker.is_running())
            .expect("one runs");
        let connection = Connection::try_open(&known.address())
            .await
            .map_err(|error| error.to_string())?;
        let leader = connection.partition(topic, 0).await.leader_id.0;
        let leader = cluster
            .brokers
            .iter()
            .find(|broker| broker.id == leader && broker.is_running());
        let leader = leader.ok_or("no leader")?;
        let connection = Connection::try_open(&leader.address())
            .await
            .map_err(|error| error.to_string())?;
        let result = connection.produce_with(topic, 0, -1, &batch(&[value])).await;
        holds(result.error_code == OK, format!("error {}", result.error_code))
    })
    .await;
}

async fn read(cluster: &Isolated, topic: &str) -> Vec<String> {
    let leader = cluster.connect(0).await.partition(topic, 0).await.leader_id.0;
    let leader = cluster
        .brokers
        .iter()
        .position(|broker| broker.id == leader)
        .expect("one of them leads");
    texts(&cluster.connect(leader).await.read_from(topic, 0, 0).await)
}

async fn await_full_isr(cluster: &Isolated, topic: &str) {
    let wanted = cluster.brokers.len();
    eventually("every replica is in sync", LIMIT, async || {
        let partition = cluster.connect(0).await.partition(topic, 0).await;
        holds(partition.isr_nodes.len() == wanted, format!("{partition:?}"))
    })
    .await;
}

fn asked(name: &str) -> DescribeConfigsResource {
    DescribeConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(text(name))
        .with_configuration_keys(Some(vec![text("log.cleaner.backoff.ms")]))
}

/// Kafka's `kafka-configs.sh --bootstrap-controller` needs both.
#[tokio::test]
async fn a_controller_describes_and_alters_its_own_configuration() {
    const DYNAMIC_BROKER: i8 = 2;
    const DEFAULT: i8 = 5;
    let cluster = Isolated::prepare(1, 0);
    let node = &cluster.controllers[0];
    cluster.format(node, &[]);
    node.start().await;
    cluster.active_controller().await;
    let connection = Connection::open(&controller_address(node)).await;
    let request = || DescribeConfigsRequest::default().with_resources(vec![asked("100"), asked("7")]);

    let described = connection.ask(request()).await.results;
    let entry = &described[0].configs[0];
    assert_eq!(
        (entry.value.as_deref(), entry.config_source),
        (Some("15000"), DEFAULT),
        "{described:?}"
    );
    assert_eq!(described[1].error_code, ErrorCode::InvalidRequest.code());
    let reason = described[1].error_message.as_deref().unwrap_or_default();
    assert!(reason.contains("ask node 7"), "{reason}");

    let change = AlterConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(text("100"))
        .with_configs(vec![
            AlterableConfig::default()
                .with_name(text("log.cleaner.backoff.ms"))
                .with_value(Some(text("2000"))),
        ]);
    let altered = connection
        .ask(IncrementalAlterConfigsRequest::default().with_resources(vec![change]))
        .await;
    assert_eq!(altered.responses[0].error_code, OK, "{altered:?}");
    let described = connection.ask(request()).await.results;
    let entry = &described[0].configs[0];
    assert_eq!(
        (entry.value.as_deref(), entry.config_source),
        (Some("2000"), DYNAMIC_BROKER),
        "{described:?}"
    );
}

#[tokio::test]
async fn isolated_roles_start_in_any_order_and_outlive_the_active_controller_and_brokers() {
    let cluster = Isolated::prepare(3, 3);
    for controller in &cluster.controllers {
        cluster.format(controller, &[]);
    }
    cluster.format(&cluster.brokers[0], &[]);
    // Brokers first, two of them with directories that nobody formatted: they wait for the controllers.
    for node in cluster
        .brokers
        .iter()
        .rev()
        .chain(cluster.controllers.iter().rev())
    {
        node.spawn();
    }
    for node in cluster.all() {
        node.ready().await;
        assert_eq!(meta_property(node, "cluster.id"), CLUSTER_ID);
        assert_eq!(node.http("/healthz").await.expect("answers").0, 200);
    }
    cluster
        .connect(0)
        .await
        .create_topic("t", 1, 3, &[("min.insync.replicas", "2")])
        .await;
    produce(&cluster, "t", "first").await;

    let active = cluster.active_controller().await;
    active.kill();
    produce(&cluster, "t", "without the controller").await;
    let successor = cluster.active_controller().await;
    assert_ne!(successor.id, active.id);
    cluster.connect(1).await.create_topic("later", 1, 3, &[]).await;
    // The broker's sample says three replicas, whatever the controllers say.
    let asked = MetadataRequestTopic::default().with_name(Some(topic_name("asked-for")));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![asked]))
        .with_allow_auto_topic_creation(true);
    cluster.connect(1).await.ask_at(9, request).await;
    cluster.connect(1).await.await_leaders("asked-for", 1).await;
    let partition = cluster.connect(1).await.partition("asked-for", 0).await;
    assert_eq!(partition.replica_nodes.len(), 3, "{partition:?}");
    active.start().await;

    for broker in &cluster.brokers {
        await_full_isr(&cluster, "t").await;
        broker.kill();
        produce(&cluster, "t", &format!("without broker {}", broker.id)).await;
        broker.start().await;
    }
    await_full_isr(&cluster, "t").await;
    assert_eq!(cluster.brokers[0].stop().await.code(), Some(0));
    cluster.brokers[0].start().await;
    let wanted = [
        "first",
        "without the controller",
        "without broker 1",
        "without broker 2",
        "without broker 3",
    ];
    // A produce whose answer was lost with its broker may have been written twice: duplicates are allowed, gaps are not.
    let mut seen = read(&cluster, "t").await;
    seen.dedup();
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn the_quorum_is_described_on_brokers_and_by_the_leader() {
    let cluster = Isolated::prepare(3, 2);
    for node in cluster.all() {
        cluster.format(node, &[]);
        node.spawn();
    }
    for node in cluster.all() {
        node.ready().await;
    }
    let active = cluster.active_controller().await;
    let on_broker = cluster.connect(0).await;
    let partition = eventually("everybody has caught up", LIMIT, async || {
        let partition = quorum(&on_broker).await.map_err(|code| format!("error {code}"))?;
        let replicas = || partition.current_voters.iter().chain(&partition.observers);
        // A controller that was named as id@host:port tells its directory when it registers.
        let caught_up = replicas().all(|replica| {
            replica.log_end_offset == partition.high_watermark && !replica.replica_directory_id.is_nil()
        });
        let known = ids(&partition.current_voters) == [100, 101, 102] && ids(&partition.observers) == [1, 2];
        holds(known && caught_up, format!("{partition:?}"))?;
        Ok(partition)
    })
    .await;
    assert_eq!(partition.leader_id.0, active.id);
    for replica in partition.current_voters.iter().chain(&partition.observers) {
        let node = cluster
            .all()
            .find(|node| node.id == replica.replica_id.0)
            .expect("one of them");
        let shown = base64(replica.replica_directory_id);
        assert_eq!(shown, meta_property(node, "directory.id"), "node {}", node.id);
        assert!(replica.last_caught_up_timestamp > 0, "{replica:?}");
    }
    for controller in &cluster.controllers {
        let answer = quorum(&Connection::open(&controller_address(controller)).await).await;
        match controller.id == active.id {
            true => assert_eq!(answer.expect("the leader says").leader_id.0, active.id),
            false => assert_eq!(answer.expect_err("another does not"), NOT_LEADER),
        }
    }
}

/// Kafka's text of an id.
fn base64(id: uuid::Uuid) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = id.as_u128();
    let digit = |position: u32| {
        let shift = 122 - 6 * i64::from(position);
        let six = if shift >= 0 { bits >> shift } else { bits << -shift };
        char::from(DIGITS[usize::try_from(six & 63).expect("six bits")])
    };
    (0..22).map(digit).collect()
}

#[tokio::test]
async fn kafkas_tool_describes_the_quorum_on_brokers_and_controllers() {
    let libs = match java::kafka_libs() {
        Ok(libs) => libs,
        Err(reason) => {
            eprintln!("not run: {reason}");
            return;
        }
    };
    let cluster = Isolated::prepare(3, 1);
    for node in cluster.all() {
        cluster.format(node, &[]);
        node.spawn();
    }
    for node in cluster.all() {
        node.ready().await;
    }
    let active = cluster.active_controller().await;
    let broker = cluster.brokers[0].address();
    let follower = cluster
        .controllers
        .iter()
        .find(|node| node.id != active.id)
        .expect("there are three");
    let (follower, leader) = (controller_address(follower), controller_address(active));
    let leads = format!("LeaderId:               {}", active.id);
    for place in [
        ["--bootstrap-server", &broker],
        ["--bootstrap-controller", &follower],
        ["--bootstrap-controller", &leader],
    ] {
        let status = [&place[..], &["describe", "--status"]].concat();
        let text = succeeds(&java::run(&libs, QUORUM_TOOL, &status));
        assert!(
            text.contains(&format!("ClusterId:              {CLUSTER_ID}")),
            "{text}"
        );
        assert!(text.contains(&leads), "{text}");
        assert!(text.contains(&format!("CONTROLLER://{follower}")), "{text}");
        let ours = [&["quorum"], &place[..], &["describe", "--status"]].concat();
        let ours = succeeds(&odradek(&ours));
        assert!(ours.contains(&leads), "{ours}");
    }
    let replication = ["--bootstrap-server", &broker, "describe", "--replication"];
    let text = succeeds(&java::run(&libs, QUORUM_TOOL, &replication));
    let with_status = |status| {
        text.lines()
            .filter(|line| line.trim_end().ends_with(status))
            .count()
    };
    assert_eq!(
        (
            with_status("Leader"),
            with_status("Follower"),
            with_status("Observer")
        ),
        (1, 2, 1),
        "{text}"
    );
}

#[tokio::test]
async fn controllers_join_by_themselves_or_by_command_and_leave_even_as_leader() {
    let cluster = Isolated::prepare(4, 1);
    cluster.make_dynamic();
    let [founder, second, third, fourth] = &cluster.controllers[..] else {
        panic!("there are four")
    };
    cluster.format(founder, &["--standalone"]);
    // Nobody formats these: they ask for the cluster, learn the log and get their votes.
    for joining in [second, third] {
        append(joining, "controller.quorum.auto.join.enable", "true");
        joining.spawn();
    }
    cluster.brokers[0].spawn();
    founder.start().await;
    cluster.brokers[0].ready().await;
    let broker = cluster.connect(0).await;
    await_voters(&broker, &[100, 101, 102]).await;

    cluster.format(fourth, &["--no-initial-controllers"]);
    fourth.spawn();
    let address = cluster.brokers[0].address();
    let config = fourth.properties().display().to_string();
    let add = [
        "quorum",
        "--bootstrap-server",
        &address,
        "--command-config",
        &config,
        "add-controller",
    ];
    let text = succeeds(&odradek(&add));
    assert!(
        text.starts_with("Added controller 103 with directory id "),
        "{text}"
    );
    let partition = await_voters(&broker, &[100, 101, 102, 103]).await;
    fourth.ready().await;

    let leader = partition.leader_id.0;
    let node = cluster
        .controllers
        .iter()
        .find(|node| node.id == leader)
        .expect("one of them leads");
    let (id, directory_id) = (leader.to_string(), meta_property(node, "directory.id"));
    let other = base64(uuid::Uuid::from_u128(7));
    let refused = odradek(&[
        "quorum",
        "--bootstrap-server",
        &address,
        "remove-controller",
        "-i",
        &id,
        "-d",
        &other,
    ]);
    assert!(!refused.status.success(), "another directory is another voter");
    let remove = [
        "quorum",
        "--bootstrap-server",
        &address,
        "remove-controller",
        "-i",
        &id,
        "-d",
        &directory_id,
    ];
    assert!(succeeds(&odradek(&remove)).starts_with(&format!("Removed KRaft controller {id}")));
    let rest: Vec<i32> = (100..104).filter(|id| *id != leader).collect();
    let partition = await_voters(&broker, &rest).await;
    assert!(rest.contains(&partition.leader_id.0));
    node.kill();
    let created = broker.try_create(creatable("after", 1, 1, &[])).await;
    assert_eq!(created.error_code, OK, "{created:?}");
}

#[tokio::test]
async fn a_directory_of_another_cluster_is_named_by_a_broker_and_ends_it() {
    let cluster = Isolated::prepare(1, 1);
    let (controller, broker) = (&cluster.controllers[0], &cluster.brokers[0]);
    cluster.format(controller, &[]);
    controller.start().await;
    let config = broker.properties().display().to_string();
    let other = "AAAAAAAAAAAAAAAAAAAAAw";
    succeeds(&odradek(&["storage", "format", "-t", other, "-c", &config]));
    broker.spawn();
    let status = eventually("the broker gives up", LIMIT, async || {
        broker.ended().ok_or_else(|| broker.log_text())
    })
    .await;
    assert_eq!(status.code(), Some(1));
    let text = broker.log_text();
    let file = broker.log_dir().join("meta.properties").display().to_string();
    for word in [
        &file,
        other,
        CLUSTER_ID,
        "log.dirs",
        "controller.quorum.bootstrap.servers",
    ] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
}
