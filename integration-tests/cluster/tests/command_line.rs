//! What the command line says when something is wrong: soon, on standard error, and so that one knows what to do.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use odradek_cluster_tests::binary;
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::records::batch;
use odradek_cluster_tests::wait::{eventually, holds};

/// No command here may come near the 30 s that requests have.
const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(30);

/// What a command did.
struct Ended {
    success: bool,
    out: String,
    err: String,
}

fn odradek(arguments: &[&str]) -> Ended {
    let begin = Instant::now();
    let output = Command::new(binary::odradek())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary can be started");
    let ended = Ended {
        success: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert!(begin.elapsed() < SOON, "{arguments:?} took long: {}", ended.err);
    ended
}

fn refused(arguments: &[&str], words: &[&str]) {
    let ended = odradek(arguments);
    assert!(!ended.success, "{arguments:?}: {}", ended.out);
    for word in words {
        assert!(
            ended.err.contains(word),
            "{arguments:?}: {word:?} is missing in: {}",
            ended.err
        );
    }
}

/// One cluster for all of it.
#[tokio::test]
async fn mistakes_are_told_of_soon() {
    let cluster = TestCluster::start(1, &[]).await;
    let node = cluster.node(1);
    let connection = cluster.connect(1).await;
    connection.create_topic("there", 1, 1, &[]).await;
    connection.produce("there", 0, &batch(&["a", "b", "c"])).await;
    servers_that_are_none(node);
    topics_and_offsets_that_are_not_there(&node.address());
    configurations_that_are_not_set(&node.address());
}

fn servers_that_are_none(node: &Node) {
    let list =
        |server: &str, words: &[&str]| refused(&["topics", "--list", "--bootstrap-server", server], words);
    list("localhost", &["`localhost` has no port", "localhost:9092"]);
    let controller = format!("127.0.0.1:{}", node.controller_port);
    list(
        &controller,
        &["is a controller's listener", "name a broker's listener"],
    );
    let metrics = format!("127.0.0.1:{}", node.metrics_port);
    list(&metrics, &["answers in HTTP, as a metrics listener does"]);
}

fn topics_and_offsets_that_are_not_there(address: &str) {
    let consume = [
        "consume",
        "--bootstrap-server",
        address,
        "--timeout-ms",
        "500",
        "--topic",
    ];
    refused(
        &[&consume[..], &["missing"]].concat(),
        &["Topic 'missing' does not exist"],
    );
    let beyond = ["there", "--partition", "0", "--offset", "99"];
    let ended = odradek(&[&consume[..], &beyond].concat());
    assert!(ended.success, "{}", ended.err);
    assert_eq!(ended.out, "", "a record that is at none of the offsets asked for");
    for words in ["Offset 99 is out of range", "from 0 to 3", "latest offset, 3"] {
        assert!(ended.err.contains(words), "{}", ended.err);
    }
    let within = ["there", "--partition", "0", "--offset", "1"];
    assert_eq!(odradek(&[&consume[..], &within].concat()).out, "b\nc\n");
}

fn configurations_that_are_not_set(address: &str) {
    let alter = ["configs", "--bootstrap-server", address, "--alter"];
    let delete = ["--delete-config", "retention.ms"];
    let topic = [&alter[..], &["--topic", "there"]].concat();
    refused(
        &[&topic[..], &delete].concat(),
        &["Invalid config(s): retention.ms: not set for topic there"],
    );
    let brokers = [&alter[..], &["--entity-type", "brokers", "--entity-default"]].concat();
    refused(
        &[&brokers[..], &["--delete-config", "log.retention.ms"]].concat(),
        &["Invalid config(s): log.retention.ms"],
    );
    for change in [["--add-config", "retention.ms=5000"], delete] {
        let ended = odradek(&[&topic[..], &change].concat());
        assert!(ended.success, "{change:?}: {}", ended.err);
    }
}

#[tokio::test]
async fn without_a_leader_of_the_quorum_the_wait_is_explained() {
    let cluster = TestCluster::start(3, &[]).await;
    let [left, others @ ..] = cluster.nodes() else {
        panic!("there are three")
    };
    others.iter().for_each(Node::kill);
    eventually("the quorum has no leader", LIMIT, async || {
        let answer = left.http("/readyz").await.map_err(|error| error.to_string())?;
        holds(
            answer.1.contains("the quorum has no leader"),
            format!("{answer:?}"),
        )
    })
    .await;
    let config = left.directory().join("client.properties");
    fs::write(&config, "request.timeout.ms=4000\n").expect("the test's directory can be written to");
    let config = config.display().to_string();
    let address = left.address();
    let through_broker = ["--command-config", &config, "--bootstrap-server", &address];
    let awaited = [
        "has not answered",
        "the active controller decides",
        "the metadata quorum has no leader",
    ];
    let create = [&["topics"], &through_broker[..], &["--create", "--topic", "t"]].concat();
    refused(&create, &awaited);
    let describe = ["describe", "--status"];
    refused(&[&["quorum"], &through_broker[..], &describe].concat(), &awaited);
    let controller = format!("127.0.0.1:{}", left.controller_port);
    let directly = ["--command-config", &config, "--bootstrap-controller", &controller];
    refused(
        &[&["quorum"], &directly[..], &describe].concat(),
        &["the metadata quorum has no leader", "trying again for 4 s in all"],
    );
}
