//! `odradek roll`: restarts the nodes of a cluster one at a time, perhaps with another program.
//!
//! Promises to stop a node only while every partition keeps at least min.insync.replicas in sync without it and the
//! quorum a majority, and to go on only when the node is unfenced and back in every ISR it was in, as the others and the
//! node itself say. The active controller comes last, so that it moves once.

mod restart;
mod safety;
mod state;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use odradek_net::client::{Client, ClientSettings};
use tokio::time::Instant;

use crate::client::{ClusterClient, bootstrap, join};
use crate::cluster::layout::Layout;
use crate::cluster::readiness;
use crate::error::{CommandError, Outcome};
use crate::output::say;
use restart::Restarter;
use state::ClusterState;

const PAUSE: Duration = Duration::from_millis(20);
/// How long a cluster that is not safe to roll yet may take to become so.
const SAFETY_PATIENCE: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of `odradek roll`.
#[derive(Debug, Args)]
pub struct RollArguments {
    /// Brokers to ask, as host:port, separated by commas; those of --data-dir if not given.
    #[arg(
        long,
        visible_alias = "bootstrap-servers",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    bootstrap_server: Vec<String>,
    /// The directory of a cluster that `odradek cluster` made.
    #[arg(long, value_name = "DIR", default_value = "./data/cluster")]
    data_dir: PathBuf,
    /// The program to restart the nodes with; this one if not given.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// For other clusters: a shell command that restarts one node and ends when it was started. It gets the node's id and
    /// address in ODRADEK_NODE_ID and ODRADEK_NODE_ADDRESS.
    #[arg(long, value_name = "COMMAND", requires = "bootstrap_server", conflicts_with_all = ["data_dir", "binary"])]
    restart_command: Option<String>,
    /// Only these nodes.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    nodes: Vec<i32>,
    /// Goes on where partitions fall under min.insync.replicas, or the quorum loses its majority: clients will wait.
    #[arg(long)]
    allow_unavailable: bool,
    /// How long a node may take for each of: stopping, starting, being back in every ISR.
    #[arg(long, value_name = "MS", default_value_t = 120_000)]
    timeout_ms: u64,
}

/// A roll under way.
struct Roll {
    client: ClusterClient,
    /// Of connections that are made for one question.
    settings: ClientSettings,
    restarter: Restarter,
    allow_unavailable: bool,
    timeout: Duration,
}

/// Carries out `odradek roll`.
pub async fn run(arguments: RollArguments) -> Outcome {
    let layout = Layout::new(&arguments.data_dir)?;
    let restarter = match &arguments.restart_command {
        Some(command) => Restarter::Command(command.clone()),
        None => Restarter::of_layout(layout.clone(), arguments.binary.clone())?,
    };
    let bootstrap = if arguments.bootstrap_server.is_empty() {
        restarter.bootstrap_servers()?
    } else {
        bootstrap::addresses(&arguments.bootstrap_server)?
    };
    let settings = ClientSettings {
        client_id: "odradek-roll".to_owned(),
        connect_timeout: REQUEST_TIMEOUT,
        request_timeout: REQUEST_TIMEOUT,
        ..ClientSettings::default()
    };
    let roll = Roll {
        client: ClusterClient::with_settings(bootstrap, settings.clone()),
        settings,
        restarter,
        allow_unavailable: arguments.allow_unavailable,
        timeout: Duration::from_millis(arguments.timeout_ms),
    };
    roll.all(&arguments.nodes).await
}

impl Roll {
    async fn all(&self, only: &[i32]) -> Outcome {
        let state = self.state_within(None, SAFETY_PATIENCE.min(self.timeout)).await?;
        let mut left: Vec<i32> = match &self.restarter {
            Restarter::Command(_) => state.brokers.keys().copied().collect(),
            Restarter::Local { .. } => self.restarter.node_ids(),
        };
        left.retain(|id| only.is_empty() || only.contains(id));
        if left.is_empty() {
            return Err(CommandError::refused("there is no such node"));
        }
        say!(
            "rolling node(s) {}{}; the active controller is {}",
            join(&left),
            self.restarter
                .program()
                .map(|program| format!(" with {}", program.display()))
                .unwrap_or_default(),
            state.active_controller
        );
        let begin = Instant::now();
        let mut summary = Vec::new();
        while let Some(next) = safety::next(&left, &self.state(None).await?) {
            left.retain(|id| *id != next);
            let took = self.one(next).await?;
            summary.push(format!("node {next} {:.2} s", took.as_secs_f64()));
        }
        say!(
            "rolled {} node(s) in {:.2} s: {}",
            summary.len(),
            begin.elapsed().as_secs_f64(),
            summary.join(", ")
        );
        Ok(())
    }

    async fn one(&self, node: i32) -> Outcome<Duration> {
        let state = self.until_safe(node).await?;
        let begin = Instant::now();
        let address = state.brokers.get(&node).cloned();
        let step = |what: &str| say!("node {node}: {what} ({:.2} s)", begin.elapsed().as_secs_f64());
        let in_sync = if address.is_some() {
            let in_sync = state.in_sync(node);
            step(&format!(
                "safe to stop, in sync for {} partition(s)",
                in_sync.len()
            ));
            in_sync
        } else {
            step("is down or fenced; it has to be in sync everywhere before the next one stops");
            state.replica_of(node)
        };
        self.restarter
            .restart(node, address.as_deref(), self.timeout, &step)
            .await?;
        self.until_ready(node).await?;
        step("ready");
        self.until_back(node, &in_sync).await?;
        step(&format!("unfenced and back in {} ISR(s)", in_sync.len()));
        Ok(begin.elapsed())
    }

    /// The cluster as a broker other than `but` sees it, asked again while brokers do not answer.
    async fn state(&self, but: Option<i32>) -> Outcome<ClusterState> {
        self.state_within(but, self.timeout).await
    }

    async fn state_within(&self, but: Option<i32>, patience: Duration) -> Outcome<ClusterState> {
        let deadline = Instant::now() + patience;
        loop {
            match state::read(&self.client, but).await {
                Err(error) if error.is_retriable() && Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await
                }
                result => return result,
            }
        }
    }

    /// Waits a little for the cluster to be whole enough, then refuses.
    async fn until_safe(&self, node: i32) -> Outcome<ClusterState> {
        let deadline = Instant::now() + SAFETY_PATIENCE.min(self.timeout);
        loop {
            let state = self.state(None).await?;
            let dangers = safety::dangers(&state, node);
            if dangers.is_empty() {
                return Ok(state);
            }
            if self.allow_unavailable {
                dangers
                    .iter()
                    .for_each(|danger| say!("node {node}: goes on although {danger}"));
                return Ok(state);
            }
            if Instant::now() >= deadline || safety::is_hopeless(&state, node) {
                return Err(CommandError::refused(format!(
                    "node {node} is not stopped, because without it\n  {}\nadd replicas, bring the others back in sync, or \
                     pass --allow-unavailable",
                    dangers.join("\n  ")
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn until_ready(&self, node: i32) -> Outcome {
        let Some(address) = self.restarter.metrics_address(node)? else {
            return Ok(());
        };
        let deadline = Instant::now() + self.timeout;
        while let Err(reason) = readiness::ready(&address).await {
            self.restarter.check_alive(node)?;
            if Instant::now() >= deadline {
                return Err(CommandError::refused(format!(
                    "node {node} is not ready: {reason}"
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Waits until the node is unfenced and in the ISRs it was in.
    async fn until_back(&self, node: i32, in_sync: &[(String, i32)]) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        while let Some(obstacle) = self.obstacle(node, in_sync).await? {
            self.restarter.check_alive(node)?;
            if Instant::now() >= deadline {
                return Err(CommandError::refused(format!(
                    "node {node} is {obstacle} after {} s; the roll ends here, the nodes left are as they were",
                    self.timeout.as_secs()
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// What is still to be waited for. Others may know the node only as it was before it stopped: it is asked itself, on a
    /// connection of its own, because it answers from metadata that has the registration of this start.
    async fn obstacle(&self, node: i32, in_sync: &[(String, i32)]) -> Outcome<Option<String>> {
        let others = self.state(Some(node)).await?;
        let address = match obstacle_in(&others, node, in_sync) {
            Ok(address) => address,
            Err(obstacle) => return Ok(Some(obstacle)),
        };
        let own = async {
            let client = Client::connect(address, self.settings.clone()).await?;
            state::as_seen_by(&client).await
        };
        match own.await {
            Ok(own) => Ok(obstacle_in(&own, node, in_sync).err()),
            Err(error) if error.is_retriable() => Ok(Some(format!("not answering at {address} ({error})"))),
            Err(error) => Err(error),
        }
    }
}

/// The address of a node that is unfenced and in these ISRs, or what it is instead.
fn obstacle_in<'a>(state: &'a ClusterState, node: i32, in_sync: &[(String, i32)]) -> Result<&'a str, String> {
    let address = state.brokers.get(&node).ok_or("still fenced")?;
    let missing = state.missing(node, in_sync);
    if missing.is_empty() {
        Ok(address)
    } else {
        Err(format!("not back in the ISR of {}", missing.join(", ")))
    }
}
