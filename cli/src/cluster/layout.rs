//! The directory of a cluster that `odradek cluster` runs: what is where, and the configuration of each node.
//!
//! ```text
//! <data-dir>/cluster.id  lock  pid
//! <data-dir>/node-<i>/server.properties  server.log  pid  restart  data/
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use odradek_config::ServerConfig;

use crate::error::{CommandError, Outcome};

/// From the port of the first node's clients to that of its metrics: 9092 and 9404.
const METRICS_AFTER_CLIENTS: u16 = 312;

/// A cluster's directory.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Absolute.
    pub root: PathBuf,
}

/// A node's directory.
#[derive(Debug, Clone)]
pub struct NodeFiles {
    /// The node.
    pub id: i32,
    /// Everything of the node.
    pub directory: PathBuf,
    /// Its configuration.
    pub properties: PathBuf,
    /// The process that runs it, or ran it last.
    pub pid: PathBuf,
    /// What it says.
    pub log: PathBuf,
    /// A program to restart the node with; `odradek roll` asks for it, the cluster's process takes it.
    pub restart: PathBuf,
    /// Why the last such request was not carried out.
    pub restart_failed: PathBuf,
    /// Its records.
    pub data: PathBuf,
}

/// How the ports of all nodes follow from the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Of the first node's clients.
    pub base: u16,
    /// Of the first node's metrics.
    pub metrics_base: u16,
}

impl Ports {
    /// Checks that the ports of so many nodes exist and are distinct.
    pub fn new(base: u16, metrics_base: Option<u16>, nodes: u16) -> Outcome<Self> {
        let too_high = || {
            CommandError::refused(format!(
                "there are no {nodes} nodes' ports from {base} on; choose a lower --base-port"
            ))
        };
        let end = nodes
            .checked_mul(2)
            .and_then(|count| base.checked_add(count))
            .ok_or_else(too_high)?;
        let metrics_base = metrics_base
            .or_else(|| base.checked_add(METRICS_AFTER_CLIENTS))
            .ok_or_else(too_high)?;
        let metrics_end = metrics_base.checked_add(nodes).ok_or_else(too_high)?;
        if metrics_base < end && base < metrics_end {
            return Err(CommandError::refused(format!(
                "clients and controllers use the ports {base} to {}, metrics {metrics_base} to {}: choose another \
                 --metrics-base-port",
                end - 1,
                metrics_end - 1
            )));
        }
        Ok(Self { base, metrics_base })
    }

    fn index(node: i32) -> u16 {
        u16::try_from(node - 1).expect("nodes are counted from 1")
    }

    /// Where clients connect.
    pub fn clients(self, node: i32) -> u16 {
        self.base + 2 * Self::index(node)
    }

    /// Where controllers connect.
    pub fn controllers(self, node: i32) -> u16 {
        self.clients(node) + 1
    }

    /// Where Prometheus connects.
    pub fn metrics(self, node: i32) -> u16 {
        self.metrics_base + Self::index(node)
    }
}

impl Layout {
    /// The layout of a directory, which need not exist yet.
    pub fn new(data_dir: &Path) -> Outcome<Self> {
        let root = std::path::absolute(data_dir).map_err(CommandError::io(format!(
            "cannot use --data-dir {}",
            data_dir.display()
        )))?;
        Ok(Self { root })
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> PathBuf {
        self.root.join("cluster.id")
    }

    /// Locked by the process that runs the cluster.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The process that runs the cluster.
    pub fn pid(&self) -> PathBuf {
        self.root.join("pid")
    }

    /// One node's files.
    pub fn node(&self, id: i32) -> NodeFiles {
        let directory = self.root.join(format!("node-{id}"));
        let file = |name| directory.join(name);
        NodeFiles {
            id,
            properties: file("server.properties"),
            pid: file("pid"),
            log: file("server.log"),
            restart: file("restart"),
            restart_failed: file("restart.failed"),
            data: file("data"),
            directory,
        }
    }

    /// The nodes that have a configuration here, by id.
    pub fn nodes(&self) -> Vec<NodeFiles> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let id = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix("node-")?.parse().ok();
        let mut ids: Vec<i32> = entries.filter_map(id).collect();
        ids.sort_unstable();
        ids.into_iter()
            .map(|id| self.node(id))
            .filter(|files| files.properties.exists())
            .collect()
    }
}

impl NodeFiles {
    /// The node's configuration as it is on disk, without the environment.
    pub fn load(&self) -> Outcome<ServerConfig> {
        let path = self.properties.display().to_string();
        let text =
            fs::read_to_string(&self.properties).map_err(CommandError::io(format!("cannot read {path}")))?;
        let (config, _) = ServerConfig::load(Some((&path, &text)), std::iter::empty(), &[])
            .map_err(|error| CommandError::refused(error.to_string()))?;
        Ok(config)
    }
}

/// The server.properties of one of `nodes` combined nodes on loopback.
pub fn properties(files: &NodeFiles, nodes: i32, ports: Ports, overrides: &[(String, String)]) -> String {
    let id = files.id;
    let voters: Vec<String> = (1..=nodes)
        .map(|id| format!("{id}@127.0.0.1:{}", ports.controllers(id)))
        .collect();
    let clients = format!("PLAINTEXT://127.0.0.1:{}", ports.clients(id));
    let (replicas, in_sync) = (nodes.min(3).to_string(), nodes.min(2).to_string());
    let mut keys: BTreeMap<&str, String> = BTreeMap::from([
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", id.to_string()),
        ("controller.quorum.voters", voters.join(",")),
        (
            "listeners",
            format!("{clients},CONTROLLER://127.0.0.1:{}", ports.controllers(id)),
        ),
        ("advertised.listeners", clients),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
        ),
        ("log.dirs", files.data.display().to_string()),
        ("default.replication.factor", replicas.clone()),
        ("min.insync.replicas", in_sync.clone()),
        ("offsets.topic.replication.factor", replicas.clone()),
        ("transaction.state.log.replication.factor", replicas),
        ("transaction.state.log.min.isr", in_sync),
        (
            "odradek.metrics.listener",
            format!("127.0.0.1:{}", ports.metrics(id)),
        ),
    ]);
    keys.extend(overrides.iter().map(|(key, value)| (key.as_str(), value.clone())));
    let mut text = "# Written by `odradek cluster` at every start; change it with --override.\n".to_owned();
    for (key, value) in keys {
        text.push_str(&format!("{key}={}\n", escaped(&value)));
    }
    text
}

/// A value that java.util.Properties reads back as it is.
fn escaped(value: &str) -> String {
    let value = value
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\r', "\\r");
    if value.starts_with([' ', '\t']) {
        format!("\\{value}")
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_that_the_readme_promises() {
        let ports = Ports::new(9092, None, 3).expect("fit");
        let all: Vec<_> = (1..=3)
            .map(|id| (ports.clients(id), ports.controllers(id), ports.metrics(id)))
            .collect();
        assert_eq!(all, [(9092, 9093, 9404), (9094, 9095, 9405), (9096, 9097, 9406)]);
        assert!(Ports::new(65_530, None, 3).is_err());
        assert!(
            Ports::new(9092, Some(9095), 3)
                .expect_err("overlap")
                .to_string()
                .contains("--metrics-base-port")
        );
    }

    #[test]
    fn a_node_starts_from_the_file_and_overrides_win() {
        let directory = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(&directory.path().join("with space\\and backslash")).expect("fits");
        let files = layout.node(2);
        let ports = Ports::new(9092, None, 3).expect("fit");
        let overrides = [("min.insync.replicas".to_owned(), "3".to_owned())];
        fs::create_dir_all(&files.directory).expect("makes");
        fs::write(&files.properties, properties(&files, 3, ports, &overrides)).expect("writes");
        assert_eq!(layout.nodes().iter().map(|node| node.id).collect::<Vec<_>>(), [2]);
        let config = files.load().expect("loads");
        assert_eq!(config.node.node_id, 2);
        assert_eq!(config.node.log_dirs, [files.data.display().to_string()]);
        assert_eq!(config.quorum.voters.len(), 3);
        assert_eq!(config.topics.default_replication_factor, 3);
        assert_eq!(config.text("min.insync.replicas"), Some("3"));
        assert_eq!(config.odradek.metrics_listener.as_deref(), Some("127.0.0.1:9405"));
    }
}
