//! How a node comes up: Kafka's own configuration files as they are, which of several values counts, and what stands in
//! the way of a start. Disks of running nodes are in `disks.rs`. Ports and directories in use are in `failover/start.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use kafka_protocol::messages::DescribeClusterRequest;
use odradek_cluster_tests::asks::{OK, creatable};
use odradek_cluster_tests::binary;
use odradek_cluster_tests::cluster::{TestCluster, free_port};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::process;
use odradek_cluster_tests::records::{Seen, batch};
use odradek_cluster_tests::small_disk::SmallDisk;
use odradek_cluster_tests::wait::{eventually, holds};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);
const CLUSTER_ID: &str = "5L6g3nShT-eMCtK--X86sw";

/// What Kafka 4's config/server.properties sets besides identity and addresses.
const KAFKAS_SETTINGS: &str = "\
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
#log.flush.interval.messages=10000
log.retention.hours=168
#log.retention.bytes=1073741824
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
";

/// The binary, without what the caller's environment would configure.
fn odradek(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary::odradek());
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KAFKA_") {
            command.env_remove(name);
        }
    }
    command
}

fn runs(arguments: &[&str]) -> Output {
    let output = odradek(arguments).output().expect("the binary can be started");
    let told = || String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}", told());
    output
}

/// A server that is killed when the test is through with it; what it says is in a file.
struct Server {
    child: Child,
    output: PathBuf,
}

impl Server {
    fn start(directory: &Path, mut command: Command) -> Self {
        let output = directory.join("output");
        let file = || {
            let options = fs::File::options().append(true).create(true).open(&output);
            options.expect("the test's directory can be written to")
        };
        command.stdout(file()).stderr(file());
        let child = process::spawn(command).expect("the binary can be started");
        Self { child, output }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits until it gives up; what it said.
    async fn refusal(mut self) -> String {
        let status = eventually("the node gives up", LIMIT, async || {
            let status = self.child.try_wait().expect("a child can be waited for");
            status.ok_or_else(|| "it runs".to_owned())
        })
        .await;
        let said = self.said();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    /// Waits until the broker at an address serves; a connection to it.
    async fn serves(&self, address: &str) -> Connection {
        eventually(&format!("{address} serves"), LIMIT, async || {
            let connection = Connection::try_open(address)
                .await
                .map_err(|error| format!("{error}: {}", self.said()))?;
            let response = connection.ask(DescribeClusterRequest::default()).await;
            holds(
                response.error_code == OK && !response.brokers.is_empty(),
                format!("{response:?}"),
            )?;
            Ok(connection)
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killing a process that has ended is what was wanted.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    fs::create_dir_all(directory).expect("the test's directory can be written to");
    let path = directory.join(name);
    fs::write(&path, text).expect("the test's directory can be written to");
    path.display().to_string()
}

/// A combined node as Kafka's config/server.properties describes it, on ports of its own.
fn combined(directory: &Path, quorum: &str, [port, controller_port]: [u16; 2]) -> String {
    let quorum = quorum.replace("9093", &controller_port.to_string());
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\n{quorum}\n\
         listeners=PLAINTEXT://:{port},CONTROLLER://:{controller_port}\n\
         inter.broker.listener.name=PLAINTEXT\n\
         advertised.listeners=PLAINTEXT://localhost:{port},CONTROLLER://localhost:{controller_port}\n\
         controller.listener.names=CONTROLLER\nlog.dirs={}\n{KAFKAS_SETTINGS}",
        directory.join("logs").display()
    );
    write(directory, "server.properties", &text)
}

async fn works(connection: &Connection) {
    connection.create_topic("t", 1, 1, &[]).await;
    connection.produce("t", 0, &batch(&["a"])).await;
    let seen: Vec<String> = connection
        .read_from("t", 0, 0)
        .await
        .iter()
        .map(Seen::text)
        .collect();
    assert_eq!(seen, ["a"]);
}

#[tokio::test]
async fn kafkas_combined_server_starts_formatted_or_not() {
    let voters = "controller.quorum.voters=1@localhost:9093";
    let bootstrap = "controller.quorum.bootstrap.servers=localhost:9093";
    for (quorum, format) in [
        (voters, Some(&[][..])),
        (voters, None),
        (bootstrap, Some(&["--standalone"][..])),
        (bootstrap, None),
    ] {
        let directory = TempDir::new().expect("a temporary directory can be made");
        let ports = [free_port(), free_port()];
        let config = combined(directory.path(), quorum, ports);
        if let Some(more) = format {
            runs(&[&["storage", "format", "-t", CLUSTER_ID, "-c", &config], more].concat());
        }
        let server = Server::start(directory.path(), odradek(&["server", &config]));
        let connection = server.serves(&format!("localhost:{}", ports[0])).await;
        works(&connection).await;
        let metadata = connection.metadata(None).await;
        if format.is_some() {
            assert_eq!(metadata.cluster_id.as_deref(), Some(CLUSTER_ID));
        }
        assert!(!server.said().contains("cannot be reached"), "{}", server.said());
    }
}

#[tokio::test]
async fn kafkas_controller_and_broker_files_start_with_initial_controllers() {
    let directory = TempDir::new().expect("a temporary directory can be made");
    let (port, controllers) = (free_port(), [free_port(), free_port()]);
    let servers = controllers.map(|port| format!("localhost:{port}")).join(",");
    let ids = ["JEXY6aqzQY-32P5TStzaFg", "MvDxzVmcRsaTz33bUuRU6A"];
    let initial = (1..3).map(|id| format!("{id}@localhost:{}:{}", controllers[id - 1], ids[id - 1]));
    let initial = initial.collect::<Vec<_>>().join(",");
    let mut running = Vec::new();
    for (id, listens) in [(1, controllers[0]), (2, controllers[1])] {
        let folder = directory.path().join(format!("controller-{id}"));
        let text = format!(
            "process.roles=controller\nnode.id={id}\ncontroller.quorum.bootstrap.servers={servers}\n\
             listeners=CONTROLLER://:{listens}\nadvertised.listeners=CONTROLLER://localhost:{listens}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n{KAFKAS_SETTINGS}",
            folder.join("logs").display()
        );
        let config = write(&folder, "controller.properties", &text);
        runs(&[
            "storage",
            "format",
            "-t",
            CLUSTER_ID,
            "-c",
            &config,
            "--initial-controllers",
            &initial,
        ]);
        running.push(Server::start(&folder, odradek(&["server", &config])));
    }
    let folder = directory.path().join("broker");
    let text = format!(
        "process.roles=broker\nnode.id=3\ncontroller.quorum.bootstrap.servers={servers}\n\
         listeners=PLAINTEXT://localhost:{port}\ninter.broker.listener.name=PLAINTEXT\n\
         advertised.listeners=PLAINTEXT://localhost:{port}\ncontroller.listener.names=CONTROLLER\nlog.dirs={}\n{KAFKAS_SETTINGS}",
        folder.join("logs").display()
    );
    let config = write(&folder, "broker.properties", &text);
    runs(&["storage", "format", "-t", CLUSTER_ID, "-c", &config]);
    let broker = Server::start(&folder, odradek(&["server", &config]));
    works(&broker.serves(&format!("localhost:{port}")).await).await;
}

#[tokio::test]
async fn an_unformatted_controller_founds_no_quorum_with_others() {
    let directory = TempDir::new().expect("a temporary directory can be made");
    let quorum = "controller.quorum.bootstrap.servers=localhost:9093,elsewhere.invalid:9094";
    let config = combined(directory.path(), quorum, [free_port(), free_port()]);
    let said = Server::start(directory.path(), odradek(&["server", &config]))
        .refusal()
        .await;
    assert_says(
        &said,
        &[
            "is empty",
            "--standalone",
            "--initial-controllers",
            "controller.quorum.auto.join.enable",
        ],
    );
}

/// How many partitions a topic gets that does not say, which is what `num.partitions` says.
async fn default_partitions(connection: &Connection) -> usize {
    let created = connection.try_create(creatable("default", -1, 1, &[])).await;
    assert_eq!(created.error_code, OK, "{created:?}");
    usize::try_from(created.num_partitions).expect("not negative")
}

#[tokio::test]
async fn the_environment_overrides_the_file_and_override_overrides_both() {
    let line = "num.partitions=1";
    for (variable, argument, wanted) in [
        (None, None, 1),
        (Some("2"), None, 2),
        (Some("2"), Some("num.partitions=3"), 3),
    ] {
        let directory = TempDir::new().expect("a temporary directory can be made");
        let ports = [free_port(), free_port()];
        let config = combined(
            directory.path(),
            "controller.quorum.voters=1@localhost:9093",
            ports,
        );
        assert!(
            fs::read_to_string(&config)
                .expect("it was written")
                .contains(line)
        );
        let mut arguments = vec!["server", &config];
        if let Some(argument) = argument {
            arguments.extend(["--override", argument]);
        }
        let mut command = odradek(&arguments);
        if let Some(variable) = variable {
            command.env("KAFKA_NUM_PARTITIONS", variable);
        }
        let server = Server::start(directory.path(), command);
        let connection = server.serves(&format!("localhost:{}", ports[0])).await;
        assert_eq!(default_partitions(&connection).await, wanted);
    }
}

#[tokio::test]
async fn what_is_wrong_in_a_configuration_is_named_with_its_place() {
    let directory = TempDir::new().expect("a temporary directory can be made");
    let good = combined(
        directory.path(),
        "controller.quorum.voters=1@localhost:9093",
        [free_port(), free_port()],
    );
    let text = fs::read_to_string(&good).expect("it was written");
    let missing = directory.path().join("missing.properties").display().to_string();
    let misspelt = write(
        directory.path(),
        "misspelt.properties",
        &format!("{text}log.retention.hour=1\n"),
    );
    let line = text.lines().count() + 1;
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &[&missing],
            &[&missing, "cannot read the configuration", "No such file"],
        ),
        (
            &[&misspelt],
            &[
                &format!("{misspelt}:{line}"),
                "did you mean `log.retention.hours`",
            ],
        ),
        (
            &[&good, "--override", "zookeeper.connect=localhost:2181"],
            &["zookeeper.connect", "KRaft", "process.roles"],
        ),
        (
            &[&good, "--override", "listeners=PLAINTXT://:9092"],
            &["PLAINTXT", "listener.security.protocol.map", "--override"],
        ),
        (
            &[&good, "--override", "listeners=PLAINTEXT:9092"],
            &["`PLAINTEXT:9092`", "NAME://host:port"],
        ),
        (
            &[&good, "--override", "num.partitions=many"],
            &["num.partitions", "many"],
        ),
    ];
    for (arguments, words) in cases {
        let command = odradek(&[&["server"], arguments].concat());
        let folder = TempDir::new().expect("a temporary directory can be made");
        assert_says(&Server::start(folder.path(), command).refusal().await, words);
    }
}

#[tokio::test]
async fn an_advertised_address_that_nobody_reaches_is_named_with_its_line() {
    let cluster = TestCluster::prepare(1, &[]);
    let node = cluster.node(1);
    let text = fs::read_to_string(node.properties()).expect("the harness wrote it");
    let line = text.lines().count() + 1;
    let address = format!("no-such-host.invalid:{}", node.port);
    fs::write(
        node.properties(),
        format!("{text}advertised.listeners=PLAINTEXT://{address}\n"),
    )
    .expect("the test's directory can be written to");
    node.start().await;
    let place = format!("advertised.listeners ({}:{line})", node.properties().display());
    eventually("the address is named", LIMIT, async || {
        let said = node.log_text();
        holds(said.contains(&address) && said.contains(&place), said)
    })
    .await;
}

#[tokio::test]
async fn directories_of_two_clusters_are_named_with_both_ids() {
    let cluster = TestCluster::prepare(1, &[]);
    let node = cluster.node(1);
    let (first, second) = (node.log_dir(), node.directory().join("more"));
    for (directory, id) in [(&first, CLUSTER_ID), (&second, "AAAAAAAAAAAAAAAAAAAAAw")] {
        write(
            directory,
            "meta.properties",
            &format!("cluster.id={id}\nnode.id=1\nversion=1\n"),
        );
    }
    let properties = node.properties().display().to_string();
    let dirs = format!("log.dirs={},{}", first.display(), second.display());
    let server = Server::start(
        node.directory(),
        odradek(&["server", &properties, "--override", &dirs]),
    );
    let file = second.join("meta.properties").display().to_string();
    assert_says(
        &server.refusal().await,
        &[&file, CLUSTER_ID, "AAAAAAAAAAAAAAAAAAAAAw", "log.dirs"],
    );
}

#[tokio::test]
async fn a_directory_beside_formatted_ones_is_formatted_by_command_and_not_by_itself() {
    let directory = TempDir::new().expect("a temporary directory can be made");
    let ports = [free_port(), free_port()];
    let config = combined(
        directory.path(),
        "controller.quorum.voters=1@localhost:9093",
        ports,
    );
    let start = || Server::start(directory.path(), odradek(&["server", &config]));
    let address = format!("localhost:{}", ports[0]);
    let server = start();
    let connection = server.serves(&address).await;
    works(&connection).await;
    let cluster_id = connection.metadata(None).await.cluster_id;
    let cluster_id = cluster_id.expect("a node that serves knows its cluster");
    drop(server);

    let more = directory.path().join("more");
    let text = fs::read_to_string(&config).expect("it was written");
    let dirs = directory.path().join("logs").display().to_string();
    let both = format!("{text}log.dirs={dirs},{}\n", more.display());
    write(directory.path(), "server.properties", &both);
    let said = start().refusal().await;
    let command =
        format!("storage format --ignore-formatted --no-initial-controllers --cluster-id {cluster_id}");
    assert_says(&said, &[&more.display().to_string(), "mount it", &command]);
    assert!(!more.exists(), "nothing is made where a disk may be missing");

    let arguments: Vec<&str> = command.split(' ').chain(["--config", &config]).collect();
    runs(&arguments);
    let server = start();
    let connection = server.serves(&address).await;
    connection.await_leaders("t", 1).await;
    assert_eq!(connection.read_from("t", 0, 0).await.len(), 1);
    assert!(more.join("meta.properties").exists());
}

#[tokio::test]
async fn a_metadata_log_without_meta_properties_founds_no_other_cluster() {
    let directory = TempDir::new().expect("a temporary directory can be made");
    let ports = [free_port(), free_port()];
    let config = combined(
        directory.path(),
        "controller.quorum.voters=1@localhost:9093",
        ports,
    );
    let start = || Server::start(directory.path(), odradek(&["server", &config]));
    let server = start();
    works(&server.serves(&format!("localhost:{}", ports[0])).await).await;
    drop(server);
    let logs = directory.path().join("logs");
    fs::remove_file(logs.join("meta.properties")).expect("a running node has one");
    let said = start().refusal().await;
    assert_says(&said, &[&logs.display().to_string(), "meta.properties", "backup"]);
}

#[tokio::test]
async fn a_full_or_read_only_or_wrong_directory_is_named_with_what_to_do() {
    let directory = TempDir::new().expect("a temporary directory can be made");
    let ports = [free_port(), free_port()];
    let config = combined(
        directory.path(),
        "controller.quorum.voters=1@localhost:9093",
        ports,
    );
    let refusal = async |path: &Path| {
        let dirs = format!("log.dirs={}", path.display());
        let folder = TempDir::new().expect("a temporary directory can be made");
        Server::start(folder.path(), odradek(&["server", &config, "--override", &dirs]))
            .refusal()
            .await
    };
    let file = directory.path().join("file");
    fs::write(&file, "no directory").expect("the test's directory can be written to");
    assert_says(
        &refusal(&file).await,
        &[&file.display().to_string(), "log.dirs", "directory"],
    );

    let Some(read_only) = SmallDisk::mount(directory.path().join("read-only"), "ro") else {
        return;
    };
    let path = read_only.path().join("logs");
    assert_says(
        &refusal(&path).await,
        &[&path.display().to_string(), "Read-only", "mount it writable"],
    );

    let small = SmallDisk::mount(directory.path().join("small"), "size=32m").expect("the first was mounted");
    small.fill();
    let path = small.path().join("logs");
    assert_says(
        &refusal(&path).await,
        &[&path.display().to_string(), "No space left"],
    );
    // What the vain start left behind is in nobody's way.
    small.make_room();
    let dirs = format!("log.dirs={}", path.display());
    let server = Server::start(
        directory.path(),
        odradek(&["server", &config, "--override", &dirs]),
    );
    works(&server.serves(&format!("localhost:{}", ports[0])).await).await;
}

#[tokio::test]
async fn a_directory_without_rights_is_named_with_what_to_do() {
    let directory = TempDir::new().expect("a temporary directory can be made");
    let mut file = fs::metadata(binary::odradek())
        .expect("the binary is there")
        .permissions();
    // Root reads everything: another user runs a copy that it can reach.
    let copy = directory.path().join("odradek");
    fs::copy(binary::odradek(), &copy).expect("the binary can be copied");
    std::os::unix::fs::PermissionsExt::set_mode(&mut file, 0o755);
    for path in [directory.path(), &copy] {
        fs::set_permissions(path, file.clone()).expect("it is this user's");
    }
    let config = combined(
        directory.path(),
        "controller.quorum.voters=1@localhost:9093",
        [free_port(), free_port()],
    );
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).expect("the test's directory can be written to");
    let mut mode = fs::metadata(&logs).expect("it was made").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o000);
    fs::set_permissions(&logs, mode).expect("it is this user's");
    let mut command = Command::new(&copy);
    command.args(["server", &config]).stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        std::os::unix::process::CommandExt::uid(&mut command, 65_534);
    }
    let folder = TempDir::new().expect("a temporary directory can be made");
    let said = Server::start(folder.path(), command).refusal().await;
    assert_says(
        &said,
        &[
            &logs.display().to_string(),
            "Permission denied",
            "right to read and write",
        ],
    );
}
