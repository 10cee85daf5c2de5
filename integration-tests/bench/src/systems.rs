//! The systems under test as processes: formatted, started, killed, stopped; each in a memory cgroup of its own where one
//! can be made, each on a directory of the same kind, with the same configuration.
//!
//! Promises that no process and no directory outlives the cluster. Knows nothing of workloads.

pub mod cgroup;
pub mod commands;
pub mod page_cache;
pub mod properties;

use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use odradek_cluster_tests::process::spawn;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::admin;
use crate::clock::{self, SECOND};
use crate::systems::cgroup::Cgroup;

/// Until a listener opens, on a machine that has much else to do.
const START_LIMIT: u64 = 300 * SECOND;
/// Until a process that got SIGTERM has ended.
const STOP_LIMIT: u64 = 90 * SECOND;
/// Between two looks at something that is about to happen.
const PAUSE: Duration = Duration::from_millis(1);
/// What one node may use, page cache and all.
const ONE_NODE_BYTES: u64 = 4 << 30;
/// What three nodes may use together.
const THREE_NODES_BYTES: u64 = 6 << 30;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// This project.
    Odradek,
    /// Apache Kafka with the flags of its own start scripts.
    Kafka,
    /// Apache Kafka with flags chosen for this machine.
    KafkaTuned,
    /// The cheapest server that could answer produce requests.
    Floor,
}

impl System {
    /// As it is written in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Odradek => "Odradek",
            Self::Kafka => "Kafka",
            Self::KafkaTuned => "Kafka, tuned",
            Self::Floor => "floor",
        }
    }

    /// Whether it runs in a JVM, which is to be warm.
    pub fn is_jvm(self) -> bool {
        match self {
            Self::Kafka | Self::KafkaTuned => true,
            Self::Odradek | Self::Floor => false,
        }
    }
}

/// Where the programs are, and where data may be.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The `odradek` binary.
    pub odradek: PathBuf,
    /// Apache Kafka's jars, if there are any.
    pub jars: Option<PathBuf>,
    /// Below it each cluster has a directory.
    pub data: PathBuf,
    /// Whether to run systems in memory cgroups.
    pub cgroups: bool,
}

impl Programs {
    /// Makes sure that there is something to measure, before memory is touched and the machine calibrated.
    ///
    /// # Errors
    /// `odradek` cannot be run.
    pub fn check_odradek(&self) -> Result<()> {
        let program = self.odradek.display();
        let output = Command::new(&self.odradek).arg("--version").output();
        let output = output.with_context(|| {
            format!(
                "{program} cannot be run: `make build` makes it, --binary or ODRADEK_BIN says where it is"
            )
        })?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && said.starts_with("odradek "),
            "{program} is not odradek: asked for its version it said {said:?}"
        );
        Ok(())
    }
}

/// What a cluster is to be.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The system.
    pub system: System,
    /// Nodes, numbered from 1; each is a broker and a controller.
    pub nodes: usize,
    /// Further lines for every node's properties.
    pub overrides: Vec<String>,
    /// Whether the files of a deleted topic are waited for to go before anything else is done.
    pub awaits_each_removal: bool,
}

#[derive(Debug)]
struct Node {
    address: SocketAddr,
    child: Option<Child>,
    /// A process that somebody else started and that is left alone.
    attached: Option<u32>,
}

/// A cluster of one system. Dropped, its processes are killed and its data is removed.
#[derive(Debug)]
pub struct Cluster {
    shape: Shape,
    nodes: Vec<Node>,
    programs: Programs,
    cgroup: Option<Cgroup>,
    /// Deleted topics whose files were not waited for.
    removals: Mutex<Vec<String>>,
    folder: TempDir,
}

impl Cluster {
    /// Directories and configuration, formatted; no process runs yet.
    ///
    /// # Errors
    /// A directory cannot be written, or formatting failed.
    pub fn prepare(shape: Shape, programs: &Programs) -> Result<Self> {
        fs::create_dir_all(&programs.data)
            .with_context(|| format!("creating {}", programs.data.display()))?;
        let folder = tempfile::Builder::new()
            .prefix("odradek-bench-")
            .tempdir_in(&programs.data)?;
        let ports = free_ports(shape.nodes * properties::PORTS_PER_NODE)?;
        let limit = if shape.nodes == 1 {
            ONE_NODE_BYTES
        } else {
            THREE_NODES_BYTES
        };
        let cgroup = if programs.cgroups {
            Cgroup::create(limit)
        } else {
            None
        };
        let addresses = ports
            .iter()
            .take(shape.nodes)
            .map(|port| SocketAddr::from(([127, 0, 0, 1], *port)));
        let nodes = addresses
            .map(|address| Node {
                address,
                child: None,
                attached: None,
            })
            .collect();
        let cluster = Self {
            shape,
            nodes,
            programs: programs.clone(),
            cgroup,
            removals: Mutex::default(),
            folder,
        };
        if cluster.shape.system != System::Floor {
            properties::write(cluster.folder.path(), &cluster.shape, &ports)?;
            cluster.format()?;
        }
        Ok(cluster)
    }

    /// A node that somebody else started.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub fn attach(pid: u32, port: u16, programs: &Programs) -> Result<Self> {
        fs::create_dir_all(&programs.data)?;
        let folder = tempfile::Builder::new()
            .prefix("odradek-bench-")
            .tempdir_in(&programs.data)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let node = Node {
            address,
            child: None,
            attached: Some(pid),
        };
        let shape = Shape {
            system: System::Odradek,
            nodes: 1,
            overrides: Vec::new(),
            awaits_each_removal: true,
        };
        Ok(Self {
            shape,
            nodes: vec![node],
            programs: programs.clone(),
            cgroup: None,
            removals: Mutex::default(),
            folder,
        })
    }

    /// A cluster that takes topics.
    ///
    /// # Errors
    /// As [`Cluster::prepare`], or a node does not come up.
    pub fn start(shape: Shape, programs: &Programs) -> Result<Self> {
        let mut cluster = Self::prepare(shape, programs)?;
        cluster.up()?;
        cluster.wait_listening()?;
        if cluster.shape.system != System::Floor {
            admin::wait_brokers(&cluster.addresses())?;
        }
        Ok(cluster)
    }

    /// Starts the nodes that do not run, and does not wait.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn up(&mut self) -> Result<()> {
        for number in 1..=self.nodes.len() {
            if self.nodes[number - 1].child.is_none() {
                let child = self.spawn(number)?;
                self.nodes[number - 1].child = Some(child);
            }
        }
        Ok(())
    }

    /// Waits until every node listens.
    ///
    /// # Errors
    /// One ended, or does not listen in time.
    pub fn wait_listening(&mut self) -> Result<()> {
        let limit = clock::now() + START_LIMIT;
        for number in 1..=self.nodes.len() {
            while TcpStream::connect(self.nodes[number - 1].address).is_err() {
                self.check_alive(number)?;
                ensure!(
                    clock::now() < limit,
                    "node {number} does not listen: {}",
                    self.log_tail(number)
                );
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Fails if a node has ended.
    ///
    /// # Errors
    /// It has, with the end of what it said.
    pub fn check_alive(&mut self, number: usize) -> Result<()> {
        let status = match &mut self.nodes[number - 1].child {
            Some(child) => child.try_wait()?,
            None => bail!("node {number} is not started"),
        };
        if let Some(status) = status {
            bail!("node {number} ended with {status}: {}", self.log_tail(number));
        }
        Ok(())
    }

    /// Ends all nodes at once, as a power cut would.
    ///
    /// # Errors
    /// A process cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                child.kill()?;
                child.wait()?;
            }
        }
        Ok(())
    }

    /// Stops all nodes cleanly.
    ///
    /// # Errors
    /// One does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        for pid in self.pids() {
            signal(pid, Signal::TERM)?;
        }
        let limit = clock::now() + STOP_LIMIT;
        for number in 1..=self.nodes.len() {
            while let Some(child) = &mut self.nodes[number - 1].child {
                if child.try_wait()?.is_some() {
                    self.nodes[number - 1].child = None;
                } else if clock::now() > limit {
                    bail!("node {number} does not stop: {}", self.log_tail(number));
                } else {
                    std::thread::sleep(PAUSE);
                }
            }
        }
        Ok(())
    }

    /// Whether the files of a deleted topic are waited for to go before anything else is done.
    pub fn awaits_each_removal(&self) -> bool {
        self.shape.awaits_each_removal
    }

    /// Notes a deleted topic whose files are still to be waited for.
    pub fn add_removal(&self, topic: &str) {
        self.removals().push(topic.to_owned());
    }

    /// The deleted topics that were noted, which are forgotten.
    pub fn take_removals(&self) -> Vec<String> {
        std::mem::take(&mut *self.removals())
    }

    fn removals(&self) -> MutexGuard<'_, Vec<String>> {
        self.removals
            .lock()
            .expect("whoever holds the list only adds to it or takes it")
    }

    /// Which system it is.
    pub fn system(&self) -> System {
        self.shape.system
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Where the brokers listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// Where the first broker listens.
    pub fn address(&self) -> SocketAddr {
        self.nodes[0].address
    }

    /// The processes that run.
    pub fn pids(&self) -> Vec<u32> {
        let pid = |node: &Node| node.child.as_ref().map(Child::id).or(node.attached);
        self.nodes.iter().filter_map(pid).collect()
    }

    /// `log.dirs` of a node.
    pub fn log_dir(&self, number: usize) -> PathBuf {
        properties::log_dir(self.folder.path(), number)
    }

    /// What limits the cluster's memory, for the report.
    pub fn memory_limit(&self) -> Option<u64> {
        self.cgroup.as_ref().map(Cgroup::limit_bytes)
    }

    fn format(&self) -> Result<()> {
        let cluster_id = "b2RyYWRlay1iZW5jaC0wMQ";
        for number in 1..=self.nodes.len() {
            let file = properties::file(self.folder.path(), number);
            let mut command = commands::format(&self.shape, &self.programs, cluster_id, &file)?;
            let output = command
                .stdin(Stdio::null())
                .output()
                .context("starting the format tool")?;
            ensure!(
                output.status.success(),
                "formatting failed: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    fn spawn(&self, number: usize) -> Result<Child> {
        let folder = self.folder.path();
        let mut command = match self.shape.system {
            System::Floor => commands::floor(self.nodes[number - 1].address.port(), &folder.join("floor"))?,
            System::Odradek | System::Kafka | System::KafkaTuned => {
                commands::server(&self.shape, &self.programs, &properties::file(folder, number))?
            }
        };
        if let Some(cgroup) = &self.cgroup {
            command = cgroup.wrap(&command);
        }
        let path = self.log_file(number);
        let log = File::options().append(true).create(true).open(&path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        for (name, _) in std::env::vars_os() {
            // Variables of the caller must not configure the node.
            if name.to_string_lossy().starts_with("KAFKA_") {
                command.env_remove(name);
            }
        }
        spawn(command).with_context(|| format!("starting {}", self.shape.system.title()))
    }

    fn log_file(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("node-{number}.log"))
    }

    fn log_tail(&self, number: usize) -> String {
        let text = fs::read(self.log_file(number)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            // There is nobody to return it to.
            _ = writeln!(std::io::stderr(), "bench: a node could not be killed: {error:#}");
        }
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("a process id is above zero")?;
    kill_process(pid, signal).context("sending a signal to a node")
}

/// Ports that nobody listens on now.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<Result<Vec<_>, _>>()
        .context("looking for free ports")?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}

/// Kafka's jars, where the project's scripts put them.
pub fn find_jars() -> Option<PathBuf> {
    let folder = match std::env::var_os("JARS") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let home = PathBuf::from(std::env::var_os("HOME")?);
            home.join(".cache/odradek/clients/kafka-4.3.1")
        }
    };
    let has_jar = |folder: &Path| {
        let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.any(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "jar")
        })
    };
    has_jar(&folder).then_some(folder)
}
