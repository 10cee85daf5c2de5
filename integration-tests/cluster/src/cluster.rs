//! Clusters of one or three combined nodes on loopback, in a directory of their own.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

use crate::connection::Connection;
use crate::node::Node;

/// Ports below those the kernel gives to outgoing connections, so that a stopped node finds its port free again.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
/// Directories of test binaries that were killed are found by this.
const DIRECTORY_PREFIX: &str = "odradek-cluster-tests-";

/// A running cluster. Dropped, its processes are killed and its directory is removed.
#[derive(Debug)]
pub struct TestCluster {
    nodes: Vec<Node>,
    _directory: TempDir,
}

impl TestCluster {
    /// Starts nodes 1 to `count` and waits until each is ready; `overrides` are added to every `server.properties`.
    ///
    /// # Panics
    /// A node does not start.
    pub async fn start(count: i32, overrides: &[(&str, &str)]) -> Self {
        let cluster = Self::prepare(count, overrides);
        for node in &cluster.nodes {
            node.spawn();
        }
        for node in &cluster.nodes {
            node.ready().await;
        }
        cluster
    }

    /// Directories, ports and configurations, and no process yet.
    ///
    /// # Panics
    /// The directory cannot be made.
    #[must_use]
    pub fn prepare(count: i32, overrides: &[(&str, &str)]) -> Self {
        remove_orphans();
        let directory = tempfile::Builder::new()
            .prefix(&format!("{DIRECTORY_PREFIX}{}-", std::process::id()))
            .tempdir()
            .expect("a temporary directory can be made");
        let nodes: Vec<Node> = (1..=count)
            .map(|id| {
                Node::new(
                    id,
                    directory.path().join(format!("node-{id}")),
                    [free_port(), free_port(), free_port()],
                )
            })
            .collect();
        for node in &nodes {
            fs::create_dir_all(node.directory()).expect("the test's directory can be written to");
            fs::write(node.properties(), properties(node, &nodes, overrides))
                .expect("the test's directory can be written to");
        }
        Self {
            nodes,
            _directory: directory,
        }
    }

    /// All nodes in the order of their ids.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of that id, from 1.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn node(&self, id: i32) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.id == id)
            .expect("node ids go from 1 to the number of nodes")
    }

    /// A connection to a node.
    pub async fn connect(&self, id: i32) -> Connection {
        Connection::open(&self.node(id).address()).await
    }
}

fn properties(node: &Node, nodes: &[Node], overrides: &[(&str, &str)]) -> String {
    let voters: Vec<String> = nodes
        .iter()
        .map(|node| format!("{}@127.0.0.1:{}", node.id, node.controller_port))
        .collect();
    let mut text = String::new();
    let mut line =
        |key: &str, value: &str| writeln!(text, "{key}={value}").expect("a String takes everything");
    let listeners = format!(
        "PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{}",
        node.port, node.controller_port
    );
    let replicas = nodes.len().to_string();
    line("process.roles", "broker,controller");
    line("node.id", &node.id.to_string());
    line("controller.quorum.voters", &voters.join(","));
    line("listeners", &listeners);
    line("controller.listener.names", "CONTROLLER");
    line(
        "listener.security.protocol.map",
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    );
    line("log.dirs", &node.log_dir().display().to_string());
    line("broker.rack", &format!("RACK{}", node.id));
    line("default.replication.factor", &replicas);
    line("offsets.topic.replication.factor", &replicas);
    line("transaction.state.log.replication.factor", &replicas);
    line(
        "transaction.state.log.min.isr",
        if nodes.len() > 1 { "2" } else { "1" },
    );
    line(
        "odradek.metrics.listener",
        &format!("127.0.0.1:{}", node.metrics_port),
    );
    for (key, value) in overrides {
        line(key, value);
    }
    text
}

/// A port nobody listens on, and that this process has not given out before.
///
/// # Panics
/// There is none.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    let first =
        u16::try_from(std::process::id() % u32::from(span)).expect("less than the span, which is a u16");
    for _ in 0..span {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = (u32::from(first) * 7 + u32::from(step)) % u32::from(span);
        let port = PORTS.start + u16::try_from(offset).expect("less than the span, which is a u16");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// Removes what test binaries left that did not end by themselves, or whose clusters lived as long as they did.
fn remove_orphans() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(DIRECTORY_PREFIX)
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            // Another test binary may be removing the same one.
            _ = fs::remove_dir_all(entry.path());
        }
    }
}
