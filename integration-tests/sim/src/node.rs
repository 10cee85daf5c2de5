//! One node: a process with a controller and a broker, on disks that outlive it.

pub mod broker;
pub mod controller;
mod fetching;
mod isr;
mod lifecycle;

use std::collections::BTreeMap;

use odradek_common::ids::NodeId;
use odradek_controller_core::quorum::QuorumInput;

use crate::env::{Env, Event};
use crate::log::SimLog;
use crate::message::{Address, Key, Message, Payload};
use broker::BrokerNode;
use controller::{ControllerNode, QuorumDisk};

/// How long a stopping leader waits for a successor.
const HAND_OVER_MS: u64 = 1_500;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The kernel lives on and keeps what was written.
    Kill,
    /// What was not flushed is lost.
    PowerCut,
    /// In good order.
    Clean,
}

/// What outlives a process.
#[derive(Default)]
pub struct Disk {
    quorum: QuorumDisk,
    logs: BTreeMap<Key, SimLog>,
    /// The broker epoch of a clean stop; gone at the next start (KIP-966).
    clean_epoch: Option<i64>,
}

/// A node.
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// While it runs.
    pub process: Option<Process>,
    /// Stands still until then.
    pub paused_until: u64,
    disk: Disk,
    starts: u64,
}

/// A running node.
pub struct Process {
    /// Where it is reached.
    pub at: Address,
    /// Its quorum and controller.
    pub controller: ControllerNode,
    /// Its replicas.
    pub broker: BrokerNode,
    handing_over_since: Option<u64>,
}

impl Node {
    /// A formatted node that does not run yet.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        let disk = Disk {
            quorum: QuorumDisk::formatted(),
            ..Disk::default()
        };
        Self {
            id,
            process: None,
            paused_until: 0,
            disk,
            starts: 0,
        }
    }

    /// Starts the process.
    pub fn start(&mut self, env: &mut Env) {
        if self.process.is_some() {
            return;
        }
        self.starts += 1;
        self.paused_until = 0;
        let at = Address {
            node: self.id,
            process: self.starts,
        };
        env.processes.insert(self.id, self.starts);
        let clean_epoch = self.disk.clean_epoch.take();
        env.note(format_args!(
            "node {} starts, clean epoch {clean_epoch:?}",
            self.id
        ));
        let controller = ControllerNode::start(env, at, &self.disk.quorum);
        let logs = std::mem::take(&mut self.disk.logs);
        let broker = BrokerNode::start(env, at, clean_epoch.unwrap_or(-1), logs);
        self.process = Some(Process {
            at,
            controller,
            broker,
            handing_over_since: None,
        });
        self.step(env);
    }

    /// Ends the process.
    pub fn end(&mut self, env: &mut Env, end: End) {
        let Some(process) = self.process.take() else {
            return;
        };
        env.note(format_args!("node {} ends: {end:?}", self.id));
        env.processes.insert(self.id, 0);
        env.disconnect(self.id);
        process.controller.crashed(env, &mut self.disk.quorum);
        let broker_epoch = process.broker.epoch();
        self.disk.logs = process.broker.into_logs();
        for log in self.disk.logs.values_mut() {
            match end {
                End::Kill => log.killed(),
                End::PowerCut => log.power_cut(&mut env.rng),
                End::Clean => log.flush(),
            }
        }
        if end == End::Clean {
            self.disk.clean_epoch = Some(broker_epoch);
        }
        env.checkers.process_ended(self.id);
    }

    /// Asks the process to stop in good order.
    pub fn stop(&mut self, env: &mut Env) {
        if let Some(process) = &mut self.process {
            env.note(format_args!("node {} is asked to stop", self.id));
            process.broker.stop();
        }
    }

    fn runs(&mut self, at: Address) -> Option<&mut Process> {
        self.process
            .as_mut()
            .filter(|process| at.process == 0 || process.at == at)
    }

    /// A message arrived.
    pub fn deliver(&mut self, env: &mut Env, message: Message) {
        let Some(process) = self.runs(message.to) else {
            return;
        };
        let from = message.from;
        match message.payload {
            Payload::Raft { bytes, .. } => {
                process.controller.turn(
                    env,
                    vec![QuorumInput::Message {
                        from: from.node,
                        bytes,
                    }],
                );
            }
            Payload::Call { id, request } => process.controller.call(env, from, id, &request),
            Payload::Answer { id, result } => process.broker.answered(env, id, result),
            Payload::Fetch { id, request } => process.broker.fetch(env, from, id, &request),
            Payload::Fetched { id, answers } => process.broker.fetched(env, from.node, id, answers),
            Payload::Produce { id, key, batch } => process.broker.produce(env, from, id, key, &batch),
            Payload::Produced { .. } => {}
        }
        process.pass_updates();
    }

    /// A write is durable.
    pub fn persisted(&mut self, env: &mut Env, at: Address, number: u64) {
        let Some(process) = self.process.as_mut().filter(|process| process.at == at) else {
            return;
        };
        process.controller.persisted(env, number, &mut self.disk.quorum);
        process.pass_updates();
    }

    /// News of the network.
    pub fn report(&mut self, env: &mut Env, at: Address, input: QuorumInput) {
        let Some(process) = self.runs(at) else { return };
        if let QuorumInput::Down { peer } = &input {
            process.controller.suspect(env, *peer);
        }
        process.controller.turn(env, vec![input]);
        process.pass_updates();
    }

    /// A dialled broker answered or not.
    pub fn probed(&mut self, env: &mut Env, at: Address, broker: NodeId, broker_epoch: i64, refused: bool) {
        let Some(process) = self.runs(at) else { return };
        process.controller.probed(env, broker, broker_epoch, refused);
        process.pass_updates();
    }

    /// Time passed.
    pub fn step(&mut self, env: &mut Env) {
        let Some(process) = &mut self.process else { return };
        process.controller.step(env);
        process.pass_updates();
        process.broker.step(env, process.controller.leader());
        if !process.broker.may_stop() {
            return;
        }
        let since = *process.handing_over_since.get_or_insert(env.now.mono_ms);
        if since == env.now.mono_ms {
            process
                .controller
                .turn(env, vec![QuorumInput::TransferLeadership { to: None }]);
        }
        if process.controller.has_handed_over() || env.now.mono_ms > since + HAND_OVER_MS {
            self.end(env, End::Clean);
            let pause_ms = env.rng.between(50, 1_500);
            let start = Event::Undo(crate::env::Undo::Start(self.id));
            env.schedule(env.now.mono_ms + pause_ms, start);
        }
    }
}

impl Process {
    fn pass_updates(&mut self) {
        self.broker.receive(self.controller.take_updates());
    }
}
