//! The running nodes: what happens when one ends, is to be restarted, or all are to stop.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::child;
use super::layout::Layout;
use crate::error::{CommandError, Outcome};
use crate::output::say;
use crate::processes;

/// How long a node may take for a clean stop while the others go on; a broker itself gives up waiting before that.
const STOP_TIMEOUT: Duration = Duration::from_secs(75);
/// How long nodes may take when all stop.
const STOP_TOGETHER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the supervisor is told.
#[derive(Debug)]
pub enum Event {
    /// The process of a node ended.
    Ended {
        /// The node.
        id: i32,
        /// How.
        status: io::Result<ExitStatus>,
    },
    /// A node was told to stop, and had its time.
    Overdue {
        /// The node.
        id: i32,
        /// The process that was told.
        pid: Pid,
    },
    /// A request to restart a node lies in its directory.
    RestartRequested,
    /// Somebody wants the cluster to end.
    StopRequested,
}

/// A node.
#[derive(Debug, Default)]
struct Node {
    running: Option<Pid>,
    /// The program to go on with when the present process has ended.
    restart_with: Option<PathBuf>,
}

/// All nodes of a cluster.
pub struct Supervisor {
    layout: Layout,
    nodes: BTreeMap<i32, Node>,
    events: mpsc::Sender<Event>,
}

impl Supervisor {
    /// Without nodes yet; what nodes do goes to `events`.
    pub fn new(layout: Layout, events: mpsc::Sender<Event>) -> Self {
        Self {
            layout,
            nodes: BTreeMap::new(),
            events,
        }
    }

    /// Starts a node.
    pub fn start(&mut self, id: i32, program: &Path) -> Outcome {
        let events = self.events.clone();
        let ended = move |status| {
            // Nobody listens any more when the cluster has ended.
            let _ = events.blocking_send(Event::Ended { id, status });
        };
        let running = child::start(program, &self.layout.node(id), ended)?;
        self.nodes.insert(
            id,
            Node {
                running: Some(running),
                restart_with: None,
            },
        );
        Ok(())
    }

    /// Goes on until somebody wants the cluster to end; an error if no node is left.
    pub async fn until_stopped(&mut self, received: &mut mpsc::Receiver<Event>) -> Outcome {
        while let Some(event) = received.recv().await {
            match event {
                Event::StopRequested => return Ok(()),
                Event::RestartRequested => self.take_requests(),
                Event::Overdue { id, pid } => self.end_now(id, pid),
                Event::Ended { id, status } => {
                    self.ended(id, &status);
                    if self.nodes.values().all(|node| node.running.is_none()) {
                        return Err(CommandError::refused("no node is left; see their logs"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A node that is to be restarted goes on with its next program; any other is reported.
    fn ended(&mut self, id: i32, status: &io::Result<ExitStatus>) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.running = None;
        let files = self.layout.node(id);
        let Some(program) = node.restart_with.take() else {
            eprintln!(
                "node {id} {}; the last lines of {}:",
                child::ending(status),
                files.log.display()
            );
            for line in child::tail(&files.log) {
                eprintln!("  {line}");
            }
            eprintln!("it stays down until `odradek roll` or a new start of the cluster");
            return;
        };
        match self.start(id, &program) {
            Ok(()) => say!("node {id} restarted with {}", program.display()),
            Err(error) => {
                eprintln!("node {id} is down: {error}");
                fs::write(&files.restart_failed, error.to_string()).ok();
            }
        }
    }

    /// Carries out the requests that lie in the nodes' directories.
    fn take_requests(&mut self) {
        let ids: Vec<i32> = self.nodes.keys().copied().collect();
        for id in ids {
            let files = self.layout.node(id);
            let Ok(program) = fs::read_to_string(&files.restart) else {
                continue;
            };
            fs::remove_file(&files.restart).ok();
            fs::remove_file(&files.restart_failed).ok();
            let program = PathBuf::from(program.trim());
            if let Err(error) = self.restart(id, program) {
                eprintln!("node {id} cannot be restarted: {error}");
                fs::write(&files.restart_failed, error.to_string()).ok();
            }
        }
    }

    fn restart(&mut self, id: i32, program: PathBuf) -> Outcome {
        let files = self.layout.node(id);
        let node = self.nodes.entry(id).or_default();
        if let Some(pid) = node.running {
            node.restart_with = Some(program);
            return self.tell_to_stop(id, pid);
        }
        // Somebody else may have started it since it ended here.
        if let Some(pid) = processes::running(&files.pid, &files.properties) {
            return Err(CommandError::refused(format!(
                "process {} runs it, which this cluster did not start",
                pid.as_raw_nonzero()
            )));
        }
        self.start(id, &program)
    }

    fn tell_to_stop(&self, id: i32, pid: Pid) -> Outcome {
        processes::signal(pid, Signal::TERM).map_err(CommandError::io(format!("cannot stop node {id}")))?;
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(STOP_TIMEOUT).await;
            let _ = events.send(Event::Overdue { id, pid }).await;
        });
        Ok(())
    }

    fn end_now(&self, id: i32, pid: Pid) {
        if self.nodes.get(&id).and_then(|node| node.running) == Some(pid) {
            eprintln!(
                "node {id} did not stop within {} s and is killed",
                STOP_TIMEOUT.as_secs()
            );
            processes::signal(pid, Signal::KILL).ok();
        }
    }

    /// Stops all nodes: one after another so that leaders can move, while a majority of the quorum is left to move them; then
    /// the others together. Asked again, it kills all at once.
    pub async fn stop(&mut self, received: &mut mpsc::Receiver<Event>) {
        for node in self.nodes.values_mut() {
            node.restart_with = None;
        }
        let majority = self.nodes.len() / 2 + 1;
        let mut alive = self.alive();
        while alive.len() > majority {
            let id = alive.remove(0);
            if !self.stop_together(&[id], received).await {
                return self.kill_all(received).await;
            }
        }
        let left = self.alive();
        self.stop_together(&left, received).await;
        self.kill_all(received).await;
    }

    fn alive(&self) -> Vec<i32> {
        let running = self.nodes.iter().filter(|(_, node)| node.running.is_some());
        running.map(|(id, _)| *id).collect()
    }

    /// Stops these nodes; false when somebody is in a hurry.
    async fn stop_together(&mut self, ids: &[i32], received: &mut mpsc::Receiver<Event>) -> bool {
        for id in ids {
            if let Some(pid) = self.nodes[id].running {
                say!("stopping node {id}");
                processes::signal(pid, Signal::TERM).ok();
            }
        }
        match timeout(STOP_TOGETHER_TIMEOUT, self.until_ended(ids, received)).await {
            Ok(patient) => patient,
            Err(_) => {
                for id in ids {
                    if let Some(pid) = self.nodes[id].running {
                        let seconds = STOP_TOGETHER_TIMEOUT.as_secs();
                        say!(
                            "node {id} did not stop within {seconds} s and is killed; nothing acknowledged is lost"
                        );
                        processes::signal(pid, Signal::KILL).ok();
                    }
                }
                self.until_ended(ids, received).await
            }
        }
    }

    /// Waits for the end of nodes; false when somebody is in a hurry.
    async fn until_ended(&mut self, ids: &[i32], received: &mut mpsc::Receiver<Event>) -> bool {
        while ids.iter().any(|id| self.nodes[id].running.is_some()) {
            match received.recv().await {
                Some(Event::Ended { id, .. }) => self.forget(id),
                Some(Event::StopRequested) | None => return false,
                Some(Event::RestartRequested | Event::Overdue { .. }) => {}
            }
        }
        true
    }

    fn forget(&mut self, id: i32) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.running = None;
        }
        fs::remove_file(self.layout.node(id).pid).ok();
    }

    async fn kill_all(&mut self, received: &mut mpsc::Receiver<Event>) {
        for pid in self.nodes.values().filter_map(|node| node.running) {
            processes::signal(pid, Signal::KILL).ok();
        }
        while self.nodes.values().any(|node| node.running.is_some()) {
            match received.recv().await {
                Some(Event::Ended { id, .. }) => self.forget(id),
                Some(_) => {}
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
