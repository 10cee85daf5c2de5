//! How `odradek roll` restarts a node: through the process that runs the cluster, by itself if there is none, or with a
//! command of the operator.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use crate::cluster::child::{self, Life};
use crate::cluster::layout::{Layout, NodeFiles};
use crate::cluster::setup::is_supervised;
use crate::error::{CommandError, Outcome};
use crate::processes;

const PAUSE: Duration = Duration::from_millis(10);

/// Who restarts nodes.
#[derive(Debug)]
pub enum Restarter {
    /// Nodes of `odradek cluster`, in its directory.
    Local {
        /// The directory.
        layout: Layout,
        /// What runs them from now on.
        program: PathBuf,
    },
    /// A shell command.
    Command(String),
}

impl Restarter {
    /// For the nodes of a directory, with a program or this one.
    pub fn of_layout(layout: Layout, program: Option<PathBuf>) -> Outcome<Self> {
        if layout.nodes().is_empty() {
            return Err(CommandError::refused(format!(
                "{} holds no cluster of `odradek cluster`; name its --data-dir, or for other clusters --bootstrap-server and \
                 --restart-command",
                layout.root.display()
            )));
        }
        let program = match program {
            Some(program) => fs::canonicalize(&program).map_err(CommandError::io(format!(
                "cannot use --binary {}",
                program.display()
            )))?,
            None => std::env::current_exe().map_err(CommandError::io("cannot find this program"))?,
        };
        Ok(Self::Local { layout, program })
    }

    /// The program that nodes get, if it is known.
    pub fn program(&self) -> Option<&Path> {
        match self {
            Self::Local { program, .. } => Some(program),
            Self::Command(_) => None,
        }
    }

    /// The nodes of the directory.
    pub fn node_ids(&self) -> Vec<i32> {
        match self {
            Self::Local { layout, .. } => layout.nodes().iter().map(|files| files.id).collect(),
            Self::Command(_) => Vec::new(),
        }
    }

    /// Where the clients of the nodes connect, as their configurations say.
    pub fn bootstrap_servers(&self) -> Outcome<Vec<String>> {
        let Self::Local { layout, .. } = self else {
            return Err(CommandError::refused("--bootstrap-server is needed"));
        };
        let mut servers = Vec::new();
        for files in layout.nodes() {
            let config = files.load()?;
            let first = config.listeners.advertised.first();
            servers.extend(first.map(|it| odradek_net::pool::join_address(&it.host, it.port)));
        }
        Ok(servers)
    }

    /// Where a node says whether it is ready.
    pub fn metrics_address(&self, node: i32) -> Outcome<Option<String>> {
        match self {
            Self::Local { layout, .. } => Ok(layout.node(node).load()?.odradek.metrics_listener),
            Self::Command(_) => Ok(None),
        }
    }

    /// An error if the node's process is known to have ended.
    pub fn check_alive(&self, node: i32) -> Outcome {
        let Self::Local { layout, .. } = self else {
            return Ok(());
        };
        let files = layout.node(node);
        if let Ok(reason) = fs::read_to_string(&files.restart_failed) {
            return Err(CommandError::refused(format!(
                "node {node} could not be restarted: {}",
                reason.trim()
            )));
        }
        if processes::running(&files.pid, &files.properties).is_some() {
            return Ok(());
        }
        Err(CommandError::refused(format!(
            "node {node} has ended after its start; the last lines of {}:\n  {}",
            files.log.display(),
            child::tail(&files.log).join("\n  ")
        )))
    }

    /// Stops a node, waits for its end, and starts it; `step` is told about each.
    pub async fn restart(
        &self,
        node: i32,
        address: Option<&str>,
        timeout: Duration,
        step: &dyn Fn(&str),
    ) -> Outcome {
        let deadline = Instant::now() + timeout;
        match self {
            Self::Command(command) => run_command(command, node, address, deadline, step).await,
            Self::Local { layout, program } => {
                let files = layout.node(node);
                let before = processes::running(&files.pid, &files.properties);
                if is_supervised(layout) {
                    ask_supervisor(layout, &files, program)?;
                } else if let Some(pid) = before {
                    processes::signal(pid, Signal::TERM)
                        .map_err(CommandError::io(format!("cannot stop node {node}")))?;
                }
                if let Some(pid) = before {
                    until_ended(&files, pid, deadline).await?;
                    step("stopped");
                }
                if !is_supervised(layout) {
                    start_detached(&files, program)?;
                }
                let pid = self.until_started(&files, before, deadline).await?;
                step(&format!("started as process {}", pid.as_raw_nonzero()));
                Ok(())
            }
        }
    }

    async fn until_started(&self, files: &NodeFiles, before: Option<Pid>, deadline: Instant) -> Outcome<Pid> {
        loop {
            let now = processes::running(&files.pid, &files.properties);
            if let Some(pid) = now.filter(|pid| Some(*pid) != before) {
                return Ok(pid);
            }
            if files.restart_failed.exists() {
                self.check_alive(files.id)?;
            }
            if Instant::now() >= deadline {
                return Err(CommandError::refused(format!(
                    "node {} was not started in time",
                    files.id
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Leaves the request in the node's directory and wakes the process that runs the cluster.
fn ask_supervisor(layout: &Layout, files: &NodeFiles, program: &Path) -> Outcome {
    fs::remove_file(&files.restart_failed).ok();
    let temporary = files.restart.with_extension("tmp");
    let written = fs::write(&temporary, program.as_os_str().as_encoded_bytes())
        .and_then(|()| fs::rename(&temporary, &files.restart));
    written.map_err(CommandError::io(format!(
        "cannot write {}",
        files.restart.display()
    )))?;
    let supervisor = processes::read_pid(&layout.pid())
        .ok_or_else(|| CommandError::refused(format!("{} names no process", layout.pid().display())))?;
    processes::signal(supervisor, Signal::USR1).map_err(CommandError::io(
        "cannot signal the process that runs the cluster",
    ))
}

async fn until_ended(files: &NodeFiles, pid: Pid, deadline: Instant) -> Outcome {
    while processes::runs_with(pid, &files.properties) {
        if Instant::now() >= deadline {
            return Err(CommandError::refused(format!(
                "node {} (process {}) did not stop in time; the roll ends here",
                files.id,
                pid.as_raw_nonzero()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Starts a node that goes on when this process ends.
fn start_detached(files: &NodeFiles, program: &Path) -> Outcome {
    let mut command = child::command(program, files, Life::OfItsOwn)?;
    let child = command
        .spawn()
        .map_err(CommandError::io(format!("cannot start {}", program.display())))?;
    processes::write_pid(&files.pid, child.id())
        .map_err(CommandError::io(format!("cannot write {}", files.pid.display())))
}

async fn run_command(
    command: &str,
    node: i32,
    address: Option<&str>,
    deadline: Instant,
    step: &dyn Fn(&str),
) -> Outcome {
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", command])
        .env("ODRADEK_NODE_ID", node.to_string());
    shell.env("ODRADEK_NODE_ADDRESS", address.unwrap_or_default());
    let (tell, ended) = tokio::sync::oneshot::channel();
    // Nobody hears of one that ends too late.
    std::thread::spawn(move || tell.send(shell.status()));
    let status = tokio::time::timeout_at(deadline, ended)
        .await
        .map_err(|_| {
            CommandError::refused(format!("the restart command for node {node} did not end in time"))
        })?
        .expect("the thread tells before it ends")
        .map_err(CommandError::io("cannot run the restart command"))?;
    if !status.success() {
        return Err(CommandError::refused(format!(
            "the restart command for node {node} failed: {status}"
        )));
    }
    step("restarted");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::layout::{Ports, properties};
    use std::os::unix::fs::PermissionsExt;

    fn layout(directory: &Path) -> Layout {
        let layout = Layout::new(directory).expect("fits");
        let ports = Ports::new(9092, None, 1).expect("fit");
        let files = layout.node(1);
        fs::create_dir_all(&files.directory).expect("makes");
        fs::write(&files.properties, properties(&files, 1, ports, &[])).expect("writes");
        layout
    }

    #[tokio::test]
    async fn a_node_without_a_supervisor_is_restarted_detached() {
        let directory = tempfile::tempdir().expect("a directory");
        let layout = layout(directory.path());
        let program = directory.path().join("program");
        let script = "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 0.01; done\n";
        fs::write(&program, script).expect("writes");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("sets");
        let restarter = Restarter::of_layout(layout.clone(), Some(program)).expect("there is a node");
        assert_eq!(restarter.bootstrap_servers().expect("reads"), ["127.0.0.1:9092"]);
        assert!(restarter.check_alive(1).is_err());
        let minute = Duration::from_secs(60);
        restarter.restart(1, None, minute, &|_| ()).await.expect("starts");
        let files = layout.node(1);
        let first = processes::running(&files.pid, &files.properties).expect("runs");
        restarter.check_alive(1).expect("runs");
        restarter
            .restart(1, None, minute, &|_| ())
            .await
            .expect("restarts");
        let second = processes::running(&files.pid, &files.properties).expect("runs");
        assert_ne!(first, second);
        processes::signal(second, Signal::KILL).expect("kills");
        until_ended(&files, second, Instant::now() + minute)
            .await
            .expect("ends");
    }

    #[tokio::test]
    async fn a_restart_command_is_told_the_node() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("told");
        let command = format!("echo $ODRADEK_NODE_ID $ODRADEK_NODE_ADDRESS > {}", file.display());
        let minute = Duration::from_secs(60);
        let restarter = Restarter::Command(command);
        restarter
            .restart(7, Some("h:1"), minute, &|_| ())
            .await
            .expect("runs");
        assert_eq!(fs::read_to_string(file).expect("written"), "7 h:1\n");
        let failing = Restarter::Command("exit 3".to_owned());
        assert!(failing.restart(7, None, minute, &|_| ()).await.is_err());
    }
}
