//! A few quorum nodes in one thread: disks that lose what was not reported durable, a network that loses and delays, one
//! seed for all of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use odradek_common::ids::NodeId;
use odradek_common::time::Now;
use odradek_controller_core::quorum::{
    CommittedEntry, Persist, Quorum, QuorumConfig, QuorumEffects, QuorumInput, RestoredState, Role,
    StoredSnapshot, VoterChange,
};

pub struct World {
    pub nodes: BTreeMap<NodeId, Node>,
    pub now: Now,
    pub trace: Vec<String>,
    pub loss_percent: u64,
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub leaders: BTreeMap<u64, NodeId>,
    pub rejected: Vec<&'static str>,
    pub longest: Vec<Bytes>,
    pub snapshots_sent: usize,
    in_flight: Vec<InFlight>,
    sequence: u64,
    random: u64,
    seed: u64,
}

struct InFlight {
    at: u64,
    sequence: u64,
    from: NodeId,
    to: NodeId,
    bytes: Bytes,
    snapshot: bool,
}

#[derive(Default)]
pub struct Node {
    pub quorum: Option<Quorum>,
    pub disk: Disk,
    pub state: Vec<Bytes>,
    pub applied: u64,
    pub persists: usize,
    writing: Option<(u64, Persist)>,
}

#[derive(Default, Clone)]
pub struct Disk {
    pub entries: BTreeMap<u64, Bytes>,
    pub hard_state: Option<Bytes>,
    pub snapshot: Option<StoredSnapshot>,
}

impl Disk {
    pub fn write(&mut self, persist: &Persist) {
        if persist.reset_log {
            self.entries.clear();
        }
        if let Some(first) = persist.entries.first() {
            self.entries.split_off(&first.index);
        }
        for entry in &persist.entries {
            self.entries.insert(entry.index, entry.bytes.clone());
        }
        if let Some(hard_state) = &persist.hard_state {
            self.hard_state = Some(hard_state.clone());
        }
        if let Some(snapshot) = &persist.snapshot {
            self.snapshot = Some(snapshot.clone());
        }
        if let Some(first_kept) = persist.first_kept {
            self.entries = self.entries.split_off(&first_kept);
        }
    }

    pub fn restored(&self) -> RestoredState {
        RestoredState {
            hard_state: self.hard_state.clone(),
            snapshot: self.snapshot.clone(),
            snapshot_bytes: self.snapshot.as_ref().map_or(0, |it| it.data.len() as u64),
            entries: self.entries.values().cloned().collect(),
        }
    }
}

impl World {
    pub fn new(seed: u64, voters: &[NodeId]) -> Self {
        let mut world = Self {
            nodes: BTreeMap::new(),
            now: Now::new(1_000, 1_700_000_000_000),
            trace: Vec::new(),
            loss_percent: 0,
            cut: BTreeSet::new(),
            leaders: BTreeMap::new(),
            rejected: Vec::new(),
            longest: Vec::new(),
            snapshots_sent: 0,
            in_flight: Vec::new(),
            sequence: 0,
            random: seed | 1,
            seed,
        };
        for voter in voters {
            let mut node = Node::default();
            node.disk.write(&Quorum::bootstrap(voters));
            world.nodes.insert(*voter, node);
            world.start(*voter);
        }
        world
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % below
    }

    pub fn add_empty(&mut self, id: NodeId) {
        self.nodes.insert(id, Node::default());
        self.start(id);
    }

    pub fn start(&mut self, id: NodeId) {
        let mut config = QuorumConfig::new(id);
        config.seed = self.seed;
        config.snapshot_after_entries = 40;
        config.entries_kept = 10;
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        let snapshot = node.disk.snapshot.clone().unwrap_or_default();
        node.state = decode_state(&snapshot.data);
        node.applied = snapshot.index;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        node.quorum = Some(Quorum::new(config, &node.disk.restored(), &logger).expect("the disk is sound"));
        self.input(id, QuorumInput::Tick);
    }

    /// The process dies: what was not reported durable is gone.
    pub fn crash(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        node.quorum = None;
        node.writing = None;
        node.state.clear();
        self.trace.push(format!("{} crash {id}", self.now.mono_ms));
        // Its connections close, which the others notice.
        for other in self
            .nodes
            .keys()
            .copied()
            .filter(|other| *other != id)
            .collect::<Vec<_>>()
        {
            self.input(other, QuorumInput::Unreachable { peer: id });
        }
    }

    /// The process dies and another takes its place, and nobody else hears of it.
    pub fn restart_unnoticed(&mut self, id: NodeId) {
        self.in_flight.retain(|message| message.to != id);
        self.nodes.get_mut(&id).expect("a node of this world").writing = None;
        self.start(id);
    }

    pub fn input(&mut self, id: NodeId, input: QuorumInput) {
        let now = self.now;
        let Some(quorum) = self.nodes.get_mut(&id).and_then(|node| node.quorum.as_mut()) else {
            return;
        };
        let effects = quorum.handle(now, input);
        self.perform(id, effects);
    }

    fn perform(&mut self, id: NodeId, effects: QuorumEffects) {
        if let Some(role) = effects.role {
            self.trace
                .push(format!("{} node {id} {role:?}", self.now.mono_ms));
            if role.role == Role::Leader {
                let leader = *self.leaders.entry(role.term).or_insert(id);
                assert_eq!(leader, id, "two leaders in term {}", role.term);
            }
        }
        self.rejected
            .extend(effects.rejected.iter().map(|rejected| rejected.reason));
        for message in effects.messages {
            self.send(id, message.to, message.bytes, message.snapshot);
        }
        if let Some(persist) = effects.persist {
            let at = self.now.mono_ms + 1 + self.random(8);
            let node = self.nodes.get_mut(&id).expect("it ran");
            assert!(node.writing.is_none(), "two writes at once");
            node.persists += 1;
            node.writing = Some((at, persist));
        }
        if let Some(restored) = effects.restored {
            let node = self.nodes.get_mut(&id).expect("it ran");
            node.state = decode_state(&restored.data);
            node.applied = restored.index;
            self.check_agreement(id);
        }
        for entry in effects.committed {
            self.apply(id, entry);
        }
        if effects.snapshot_wanted {
            let node = &self.nodes[&id];
            let (index, data) = (node.applied, encode_state(&node.state));
            self.input(id, QuorumInput::Snapshot { index, data });
        }
    }

    fn apply(&mut self, id: NodeId, entry: CommittedEntry) {
        let node = self.nodes.get_mut(&id).expect("it ran");
        assert_eq!(
            entry.index,
            node.applied + 1,
            "node {id} skips or repeats entries"
        );
        node.applied = entry.index;
        if !entry.data.is_empty() {
            node.state.push(entry.data);
            self.check_agreement(id);
        }
    }

    /// Every node's state is a prefix of the longest one that was ever seen.
    fn check_agreement(&mut self, id: NodeId) {
        let state = &self.nodes[&id].state;
        let common = state.len().min(self.longest.len());
        assert_eq!(state[..common], self.longest[..common], "node {id} diverged");
        if state.len() > self.longest.len() {
            self.longest = state.clone();
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, bytes: Bytes, snapshot: bool) {
        let lost = self.random(100) < self.loss_percent || self.cut.contains(&(from, to));
        self.snapshots_sent += usize::from(snapshot);
        if lost {
            self.trace
                .push(format!("{} lost {from}->{to} {}", self.now.mono_ms, bytes.len()));
            if snapshot {
                self.input(
                    from,
                    QuorumInput::SnapshotSent {
                        peer: to,
                        delivered: false,
                    },
                );
            }
            return;
        }
        self.sequence += 1;
        let at = self.now.mono_ms + 1 + self.random(5);
        self.in_flight.push(InFlight {
            at,
            sequence: self.sequence,
            from,
            to,
            bytes,
            snapshot,
        });
    }

    /// One millisecond: what is due arrives, writes end, everybody ticks.
    pub fn step(&mut self) {
        self.now = self.now.plus_ms(1);
        let now_ms = self.now.mono_ms;
        let (mut due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.in_flight)
            .into_iter()
            .partition(|message| message.at <= now_ms);
        self.in_flight = later;
        due.sort_by_key(|message| (message.at, message.sequence));
        for message in due {
            let line = format!(
                "{now_ms} {}->{} {}",
                message.from,
                message.to,
                message.bytes.len()
            );
            self.trace.push(line);
            if self.nodes[&message.to].quorum.is_none() {
                self.input(message.from, QuorumInput::Unreachable { peer: message.to });
            } else if message.snapshot {
                self.input(
                    message.from,
                    QuorumInput::SnapshotSent {
                        peer: message.to,
                        delivered: true,
                    },
                );
            }
            self.input(
                message.to,
                QuorumInput::Message {
                    from: message.from,
                    bytes: message.bytes,
                },
            );
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.finish_write(id);
            self.input(id, QuorumInput::Tick);
        }
    }

    fn finish_write(&mut self, id: NodeId) {
        let now_ms = self.now.mono_ms;
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        let Some((_, persist)) = node.writing.take_if(|(at, _)| *at <= now_ms) else {
            return;
        };
        node.disk.write(&persist);
        for message in persist.messages {
            self.send(id, message.to, message.bytes, message.snapshot);
        }
        self.input(
            id,
            QuorumInput::Persisted {
                number: persist.number,
            },
        );
    }

    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    pub fn run_until(&mut self, what: &str, ms_max: u64, done: impl Fn(&Self) -> bool) -> u64 {
        for ms in 0..ms_max {
            if done(self) {
                return ms;
            }
            self.step();
        }
        for (id, quorum) in self
            .nodes
            .iter()
            .filter_map(|(id, node)| Some((id, node.quorum.as_ref()?)))
        {
            eprintln!("node {id}: {:?}", quorum.view());
        }
        panic!(
            "not within {ms_max} ms, seed {}: {what}\n{}",
            self.seed,
            self.trace
                .iter()
                .rev()
                .take(30)
                .cloned()
                .collect::<Vec<_>>()
                .join("\n")
        );
    }

    /// The live leader of the highest term, if it knows all that was committed.
    pub fn leader(&self) -> Option<NodeId> {
        self.nodes
            .iter()
            .filter_map(|(id, node)| Some((id, node.quorum.as_ref()?)))
            .filter(|(_, quorum)| quorum.leads_with_all_applied())
            .max_by_key(|(_, quorum)| quorum.view().role.term)
            .map(|(id, _)| *id)
    }

    pub fn wait_for_leader(&mut self) -> NodeId {
        self.run_until("a leader", 20_000, |world| world.leader().is_some());
        self.leader().expect("just seen")
    }

    pub fn propose(&mut self, id: NodeId, data: &str) -> bool {
        let Some(quorum) = self.nodes.get_mut(&id).and_then(|node| node.quorum.as_mut()) else {
            return false;
        };
        let taken = quorum.propose(Bytes::copy_from_slice(data.as_bytes())).is_ok();
        self.input(id, QuorumInput::Tick);
        taken
    }

    pub fn change(&mut self, id: NodeId, change: VoterChange) {
        let quorum = self
            .nodes
            .get_mut(&id)
            .and_then(|node| node.quorum.as_mut())
            .expect("the node runs");
        quorum.change_voters(change).expect("the change is taken");
        self.input(id, QuorumInput::Tick);
    }

    pub fn quorum(&self, id: NodeId) -> &Quorum {
        self.nodes[&id].quorum.as_ref().expect("the node runs")
    }

    pub fn has(&self, id: NodeId, data: &str) -> bool {
        self.nodes[&id].state.iter().any(|entry| entry == data.as_bytes())
    }
}

fn encode_state(state: &[Bytes]) -> Bytes {
    let mut bytes = BytesMut::new();
    for entry in state {
        bytes.put_u32(u32::try_from(entry.len()).expect("small"));
        bytes.put_slice(entry);
    }
    bytes.freeze()
}

fn decode_state(data: &Bytes) -> Vec<Bytes> {
    let mut data = data.clone();
    let mut state = Vec::new();
    while data.has_remaining() {
        let size = data.get_u32() as usize;
        state.push(data.split_to(size));
    }
    state
}
