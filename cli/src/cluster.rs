//! `odradek cluster`: a cluster of combined nodes on this machine, as child processes of this one.
//!
//! Promises a quorum that is formatted once, with one cluster id, and reused after that; that no node outlives this
//! process; and that a clean end stops the nodes one after another, so that leaders can move. `odradek roll` asks it to
//! restart a node by leaving a request in the node's directory and sending SIGUSR1.

pub mod child;
pub mod layout;
pub mod readiness;
pub mod setup;
mod supervisor;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::arguments::key_value;
use crate::error::{CommandError, Outcome};
use crate::output::say;
use layout::{Layout, Ports};
use supervisor::{Event, Supervisor};

/// How long nodes may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_PAUSE: Duration = Duration::from_millis(20);
/// Events that wait: at most one from each node and signal at a time is of interest.
const EVENTS_MAX: usize = 64;

/// Flags of `odradek cluster`.
#[derive(Debug, Args)]
pub struct ClusterArguments {
    /// How many nodes; each is broker and controller.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    nodes: u16,
    /// Where everything is kept; what is there already is used again.
    #[arg(long, value_name = "DIR", default_value = "./data/cluster")]
    data_dir: PathBuf,
    /// The first node's port for clients; its controller uses the next one, the second node the two after that.
    #[arg(long, value_name = "PORT", default_value_t = 9092)]
    base_port: u16,
    /// The first node's port for metrics, the second node uses the next one; 312 above --base-port if not given.
    #[arg(long, value_name = "PORT")]
    metrics_base_port: Option<u16>,
    /// Sets a configuration key of all nodes; may be given more than once.
    #[arg(long = "override", value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
}

/// Carries out `odradek cluster`.
pub fn run(arguments: &ClusterArguments) -> ExitCode {
    // Children must be started from the main thread, so this one runs everything.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(supervise(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("odradek cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn supervise(arguments: &ClusterArguments) -> Outcome {
    let layout = Layout::new(&arguments.data_dir)?;
    let ports = Ports::new(arguments.base_port, arguments.metrics_base_port, arguments.nodes)?;
    let nodes = i32::from(arguments.nodes);
    let (_lock, cluster_id) = setup::prepare(&layout, nodes, ports, &arguments.overrides)?;
    let program = std::env::current_exe().map_err(CommandError::io("cannot find this program"))?;
    let (events, mut received) = mpsc::channel(EVENTS_MAX);
    listen_for_signals(&events)?;
    let mut supervisor = Supervisor::new(layout.clone(), events);
    let begin = Instant::now();
    for id in 1..=nodes {
        if let Err(error) = supervisor.start(id, &program) {
            supervisor.stop(&mut received).await;
            return Err(error);
        }
    }
    let ready = tokio::select! {
        ready = until_ready(nodes, ports) => ready.map(|()| true),
        early = supervisor.until_stopped(&mut received) => early.map(|()| false),
    };
    if matches!(ready, Ok(true)) {
        announce(&layout, nodes, ports, &cluster_id, begin.elapsed());
    }
    let result = match ready {
        Ok(true) => supervisor.until_stopped(&mut received).await,
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    supervisor.stop(&mut received).await;
    std::fs::remove_file(layout.pid()).ok();
    result
}

fn listen_for_signals(events: &mpsc::Sender<Event>) -> Outcome {
    for (kind, restart) in [
        (SignalKind::interrupt(), false),
        (SignalKind::terminate(), false),
        (SignalKind::hangup(), false),
        (SignalKind::user_defined1(), true),
    ] {
        let mut signal = signal(kind).map_err(CommandError::io("cannot listen for signals"))?;
        let events = events.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                let event = if restart {
                    Event::RestartRequested
                } else {
                    Event::StopRequested
                };
                if events.send(event).await.is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}

/// Waits until every node says that it is ready.
async fn until_ready(nodes: i32, ports: Ports) -> Outcome {
    let deadline = Instant::now() + READY_TIMEOUT;
    for id in 1..=nodes {
        let address = format!("127.0.0.1:{}", ports.metrics(id));
        while let Err(reason) = readiness::ready(&address).await {
            if Instant::now() >= deadline {
                return Err(CommandError::refused(format!(
                    "node {id} is not ready after {} s: {reason}",
                    READY_TIMEOUT.as_secs()
                )));
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    }
    Ok(())
}

fn announce(layout: &Layout, nodes: i32, ports: Ports, cluster_id: &str, took: Duration) {
    let list = |port: &dyn Fn(i32) -> u16| -> String {
        (1..=nodes)
            .map(|id| format!("127.0.0.1:{}", port(id)))
            .collect::<Vec<_>>()
            .join(",")
    };
    let urls = |path: &str| -> String {
        let url = |id| format!("http://127.0.0.1:{}/{path}", ports.metrics(id));
        (1..=nodes).map(url).collect::<Vec<_>>().join(" ")
    };
    say!(
        "Cluster {cluster_id}: {nodes} node(s) ready after {:.1} s.",
        took.as_secs_f64()
    );
    say!("  bootstrap servers  {}", list(&|id| ports.clients(id)));
    say!("  controllers        {}", list(&|id| ports.controllers(id)));
    say!("  metrics            {}", urls("metrics"));
    say!("  health             {}", urls("readyz"));
    say!("  data and logs      {}/node-<id>/", layout.root.display());
    let server = if ports.base == 9092 {
        String::new()
    } else {
        format!(" --bootstrap-server 127.0.0.1:{}", ports.base)
    };
    say!(
        "Try: odradek topics{server} --list; roll it: odradek roll --data-dir {}",
        layout.root.display()
    );
    say!("Ctrl-C stops all nodes.");
}
