//! Nodes that cannot start say why, and what to do.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::node::Node;
use odradek_cluster_tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(20);

/// Starts a node that must fail; what it said.
async fn refusal(node: &Node) -> String {
    let before = node.log_text().len();
    node.spawn();
    let status = eventually("the node gives up", LIMIT, async || {
        node.ended().ok_or_else(|| "it runs".to_owned())
    })
    .await;
    assert_ne!(status.code(), Some(0));
    assert!(status.code().is_some(), "it was killed: {status}");
    node.kill();
    node.log_text().split_off(before)
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

fn add(node: &Node, line: &str) {
    let properties = fs::read_to_string(node.properties()).expect("the harness wrote it");
    fs::write(node.properties(), format!("{properties}{line}\n"))
        .expect("the test's directory can be written to");
}

/// They would be of nothing mostly, and more of them with time.
#[tokio::test]
async fn a_node_s_memory_has_no_huge_pages() {
    let cluster = TestCluster::start(1, &[]).await;
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.node(1).pid())).unwrap();
    assert!(status.contains("THP_enabled:\t0"), "{status}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let cluster = TestCluster::prepare(1, &[]);
    let node = cluster.node(1);
    let _taken = TcpListener::bind(("127.0.0.1", node.port)).unwrap();
    assert_says(
        &refusal(node).await,
        &["PLAINTEXT", &node.port.to_string(), "use"],
    );
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let cluster = TestCluster::prepare(2, &[]);
    let (first, second) = (cluster.node(1), cluster.node(2));
    let alone = |node: &Node| {
        let text = fs::read_to_string(node.properties()).unwrap();
        let voters = format!("controller.quorum.voters=1@127.0.0.1:{}", node.controller_port);
        let lines = text.lines().map(|line| match line.split_once('=') {
            Some(("controller.quorum.voters", _)) => voters.clone(),
            Some(("node.id", _)) => "node.id=1".to_owned(),
            Some(("log.dirs", _)) => format!("log.dirs={}", first.log_dir().display()),
            Some((key, _)) if key.ends_with("replication.factor") => format!("{key}=1"),
            Some(_) | None => line.to_owned(),
        });
        fs::write(node.properties(), lines.collect::<Vec<_>>().join("\n")).unwrap();
    };
    alone(first);
    alone(second);
    first.start().await;
    assert_says(&refusal(second).await, &[&first.log_dir().display().to_string()]);
    assert_eq!(
        cluster.connect(1).await.metadata(Some(&[])).await.brokers.len(),
        1
    );
}

#[tokio::test]
async fn a_directory_of_another_node_is_named_with_both_ids() {
    let cluster = TestCluster::start(1, &[]).await;
    let node = cluster.node(1);
    assert_eq!(node.stop().await.code(), Some(0));
    let text = fs::read_to_string(node.properties()).unwrap();
    let text = text
        .replace("node.id=1", "node.id=77")
        .replace("voters=1@", "voters=77@");
    fs::write(node.properties(), text).unwrap();
    assert_says(&refusal(node).await, &["meta.properties", "77", "1"]);
}

#[tokio::test]
async fn a_misspelt_key_is_answered_with_the_right_one() {
    let cluster = TestCluster::prepare(1, &[]);
    add(cluster.node(1), "log.retention.hour=5");
    assert_says(
        &refusal(cluster.node(1)).await,
        &["log.retention.hour", "log.retention.hours"],
    );
}

#[tokio::test]
async fn zookeeper_is_explained() {
    let cluster = TestCluster::prepare(1, &[]);
    add(cluster.node(1), "zookeeper.connect=localhost:2181");
    assert_says(&refusal(cluster.node(1)).await, &["zookeeper.connect", "KRaft"]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let cluster = TestCluster::prepare(1, &[]);
    let node = cluster.node(1);
    fs::write(node.log_dir(), b"a file stands here").unwrap();
    assert_says(&refusal(node).await, &[&node.log_dir().display().to_string()]);
}
