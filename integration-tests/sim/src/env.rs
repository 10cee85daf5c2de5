//! What everybody in a simulation shares: time, chance, the network, what is to come, and the checkers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use odradek_common::ids::NodeId;
use odradek_common::time::Now;
use odradek_controller_core::quorum::QuorumInput;

use crate::checkers::Checkers;
use crate::message::{Address, Channel, Message, Payload, ReturnAddress};
use crate::rng::{Rng, mix};

/// Something that happens at its time.
#[derive(Debug)]
pub enum Event {
    /// A message arrives.
    Deliver(Message),
    /// A node's write of quorum state is durable.
    Persisted { at: Address, number: u64 },
    /// A node's quorum is told something about the network.
    Report { at: Address, input: QuorumInput },
    /// A dialled broker answered, or its port refused.
    Probed {
        at: Address,
        broker: NodeId,
        broker_epoch: i64,
        refused: bool,
    },
    /// A node's timers.
    Step(NodeId),
    /// A producer's timers.
    Producer(usize),
    /// The next fault.
    Fault,
    /// The operator looks after the cluster.
    Operator,
    /// What a fault brought ends.
    Undo(Undo),
}

/// What a fault brought.
#[derive(Debug)]
pub enum Undo {
    /// The process starts again.
    Start(NodeId),
    /// Links work again.
    Cuts(Vec<(NodeId, NodeId)>),
    /// No more loss beyond what is usual.
    Loss,
    /// Links are fast again.
    Slow(Vec<(NodeId, NodeId)>),
    /// The disk is fast again.
    Disk(NodeId),
}

/// What can be wrong between nodes.
#[derive(Default)]
pub struct Network {
    /// Messages of that direction are lost.
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    /// So many of a hundred messages are lost.
    pub loss_percent: u64,
    /// Added to the delay of a direction.
    pub slow_ms: BTreeMap<(NodeId, NodeId), u64>,
    connections: BTreeMap<(NodeId, NodeId, Channel), Connection>,
}

struct Connection {
    to_process: u64,
    broken: bool,
    last_at: u64,
}

/// When what is appended becomes safe from power cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushing {
    /// Some time, as by default.
    Background,
    /// Before anybody vouches for it: `flush.messages` is 1.
    EachAppend,
}

/// What everybody shares.
pub struct Env {
    /// When appends are flushed.
    pub flushing: Flushing,
    /// Both clocks.
    pub now: Now,
    /// Chance.
    pub rng: Rng,
    /// Links.
    pub network: Network,
    /// Who looks on.
    pub checkers: Checkers,
    /// The process that runs on each node; 0 if none does.
    pub processes: BTreeMap<NodeId, u64>,
    /// Added to every write of a node's quorum.
    pub slow_disk_ms: BTreeMap<NodeId, u64>,
    /// Lines for people.
    pub lines: Vec<String>,
    /// Of everything that happened.
    pub hash: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    ids: u64,
}

impl Env {
    /// Nothing has happened.
    #[must_use]
    pub fn new(seed: u64, flushing: Flushing) -> Self {
        Self {
            flushing,
            now: Now::new(1_000, 1_700_000_000_000),
            rng: Rng::new(seed),
            network: Network::default(),
            checkers: Checkers::default(),
            processes: BTreeMap::new(),
            slow_disk_ms: BTreeMap::new(),
            lines: Vec::new(),
            hash: mix(seed),
            queue: BTreeMap::new(),
            sequence: 0,
            ids: 0,
        }
    }

    /// A number that no request had.
    pub fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// A line of the trace.
    pub fn note(&mut self, line: std::fmt::Arguments<'_>) {
        let line = format!("{:>7} {line}", self.now.mono_ms);
        for byte in line.bytes() {
            self.hash = mix(self.hash ^ u64::from(byte));
        }
        self.lines.push(line);
    }

    /// Counts something into the trace without a line.
    pub fn digest(&mut self, a: u64, b: u64) {
        self.hash = mix(self.hash ^ mix(a ^ self.now.mono_ms << 20) ^ b);
    }

    /// Puts an event where it belongs in time.
    pub fn schedule(&mut self, at_ms: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at_ms, self.sequence), event);
    }

    /// The next event; time passes until then.
    pub fn next_event(&mut self) -> Option<Event> {
        let ((at_ms, _), event) = self.queue.pop_first()?;
        self.now = self.now.plus_ms(at_ms.saturating_sub(self.now.mono_ms));
        Some(event)
    }

    /// How long a node's next write takes.
    pub fn write_ms(&mut self, node: NodeId) -> u64 {
        self.slow_disk_ms.get(&node).copied().unwrap_or(0) + self.rng.between(1, 6)
    }

    /// True if nothing arrives in that direction.
    #[must_use]
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.network.cuts.contains(&(from, to))
    }

    fn is_lost(&mut self, from: NodeId, to: NodeId) -> bool {
        let loss = self.network.loss_percent;
        from != to && (self.is_cut(from, to) || self.rng.percent(loss))
    }

    fn arrival(&mut self, from: NodeId, to: NodeId) -> u64 {
        let slow = self.network.slow_ms.get(&(from, to)).copied().unwrap_or(0);
        let delay = 1 + self.rng.below(4) + if slow == 0 { 0 } else { self.rng.below(slow) };
        self.now.mono_ms + delay
    }

    /// A message between quorums: it may be lost, late, twice, or overtaken.
    pub fn send_raft(&mut self, from: Address, to: NodeId, bytes: Bytes, snapshot: bool) {
        let lost = self.is_lost(from.node, to);
        if snapshot {
            let input = QuorumInput::SnapshotSent {
                peer: to,
                delivered: !lost,
            };
            self.schedule(self.now.mono_ms + 5, Event::Report { at: from, input });
        }
        if lost {
            return;
        }
        let copies = if self.rng.percent(2) { 2 } else { 1 };
        for _ in 0..copies {
            let payload = Payload::Raft {
                bytes: bytes.clone(),
                snapshot,
            };
            let at = self.arrival(from.node, to);
            let message = Message {
                from,
                to: Address { node: to, process: 0 },
                payload,
            };
            self.schedule(at, Event::Deliver(message));
        }
    }

    /// A request over a connection: in order, until one is lost; then nothing arrives before the sender connects again.
    pub fn request(&mut self, from: Address, to: NodeId, channel: Channel, payload: Payload) {
        let lost = self.is_lost(from.node, to);
        let at = self.arrival(from.node, to);
        let to_process = self.processes.get(&to).copied().unwrap_or(0);
        let connection = self
            .network
            .connections
            .entry((from.node, to, channel))
            .or_insert(Connection {
                to_process,
                broken: to_process == 0,
                last_at: 0,
            });
        connection.broken |= lost;
        if connection.broken {
            return;
        }
        connection.last_at = connection.last_at.max(at);
        let (at, process) = (connection.last_at, connection.to_process);
        let message = Message {
            from,
            to: Address { node: to, process },
            payload,
        };
        self.schedule(at, Event::Deliver(message));
    }

    /// The sender gives the connection up; what is under way may still arrive.
    pub fn reconnect(&mut self, from: NodeId, to: NodeId, channel: Channel) {
        self.network.connections.remove(&(from, to, channel));
    }

    /// All connections of a process that is gone.
    pub fn disconnect(&mut self, node: NodeId) {
        self.network.connections.retain(|(from, _, _), _| *from != node);
    }

    /// An answer, unless the way back is gone.
    pub fn respond(&mut self, from: Address, to: ReturnAddress, payload: Payload) {
        if self.is_lost(from.node, to.to.node) {
            if let Some(connection) = self
                .network
                .connections
                .get_mut(&(to.to.node, from.node, to.channel))
            {
                connection.broken = true;
            }
            return;
        }
        let at = self.arrival(from.node, to.to.node);
        self.schedule(
            at,
            Event::Deliver(Message {
                from,
                to: to.to,
                payload,
            }),
        );
    }
}
