//! What goes wrong, and how it is undone.
//!
//! A process may be killed at any time, all of them at once too. The power goes only on one node while the others are well
//! and have every acknowledged record (a member of ISR or ELR, for each partition), and no other process ends before that
//! node is back: more than that an acks=all without fsync does not promise. Where each append is flushed the power goes
//! whenever a process would be killed, on all nodes at once too.

use std::collections::BTreeMap;

use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataImage, PartitionImage};
use odradek_controller_core::quorum::QuorumInput;

use crate::env::{Env, Event, Flushing, Undo};
use crate::message::{Address, Key};
use crate::node::{End, Node};
use crate::scenario::NODES;

/// The faults of a run.
#[derive(Default)]
pub struct Faults {
    /// How many there were.
    pub count: u64,
    /// The node that lost unflushed records and is not registered anew, or leads still.
    without_records: Option<NodeId>,
}

type Nodes = BTreeMap<NodeId, Node>;

impl Faults {
    /// One more fault, and the time of the next.
    pub fn strike(&mut self, env: &mut Env, nodes: &mut Nodes) {
        let calm = env.rng.percent(15);
        let pause_ms = if calm {
            env.rng.between(2_000, 5_000)
        } else {
            env.rng.between(50, 1_500)
        };
        env.schedule(env.now.mono_ms + pause_ms, Event::Fault);
        self.count += 1;
        let node = env.rng.pick(&NODES).expect("there are nodes");
        match env.rng.below(100) {
            0..15 => self.end(env, nodes, node, End::Kill),
            15..30 => self.end(env, nodes, node, End::PowerCut),
            30..34 => {
                for node in NODES {
                    self.end(env, nodes, node, End::Kill);
                }
            }
            34..44 => self.stop(env, nodes, node),
            44..56 => pause(env, nodes, node),
            56..66 => cut(env, &isolation(node)),
            66..74 => cut_pair(env, node, true),
            74..82 => cut_pair(env, node, false),
            82..88 => lose(env),
            88..95 => slow_links(env, node),
            _ => slow_disk(env, node),
        }
    }

    fn end(&mut self, env: &mut Env, nodes: &mut Nodes, id: NodeId, end: End) {
        self.look(env, nodes);
        if self.without_records.is_some_and(|other| other != id) {
            return;
        }
        let end = match (env.flushing, end) {
            (Flushing::EachAppend, End::Kill) => End::PowerCut,
            (Flushing::EachAppend | Flushing::Background, end) => end,
        };
        if end == End::PowerCut && env.flushing == Flushing::Background {
            if !others_have_everything(env, nodes, id) {
                return;
            }
            self.without_records = Some(id);
        }
        let Some(node) = nodes.get_mut(&id).filter(|node| node.process.is_some()) else {
            return;
        };
        node.end(env, end);
        let down_ms = env.rng.between(20, 4_000);
        env.schedule(env.now.mono_ms + down_ms, Event::Undo(Undo::Start(id)));
        for other in NODES.into_iter().filter(|other| *other != id) {
            let hears = !env.is_cut(id, other) && env.rng.percent(70);
            let process = env.processes.get(&other).copied().unwrap_or(0);
            if hears && process > 0 {
                let at_ms = env.now.mono_ms + env.rng.between(1, 20);
                let at = Address { node: other, process };
                env.schedule(
                    at_ms,
                    Event::Report {
                        at,
                        input: QuorumInput::Down { peer: id },
                    },
                );
            }
        }
    }

    fn stop(&mut self, env: &mut Env, nodes: &mut Nodes, id: NodeId) {
        self.look(env, nodes);
        if self.without_records.is_none()
            && let Some(node) = nodes.get_mut(&id)
        {
            node.stop(env);
        }
    }

    /// Whether the node that lost records is registered anew, so that nobody counts on what it had.
    fn look(&mut self, env: &Env, nodes: &Nodes) {
        let Some(id) = self.without_records else { return };
        let Some(image) = env.checkers.metadata.newest() else {
            return;
        };
        let mut partitions = image.topics.values().flat_map(|topic| &topic.partitions);
        if is_registered(nodes, image, id) && partitions.all(|partition| partition.leader >= 0) {
            self.without_records = None;
        }
    }

    /// The end of a fault.
    pub fn undo(&mut self, env: &mut Env, nodes: &mut Nodes, undo: Undo) {
        match undo {
            Undo::Start(id) => {
                nodes.entry(id).and_modify(|node| node.start(env));
            }
            Undo::Cuts(links) => env.network.cuts.retain(|link| !links.contains(link)),
            Undo::Loss => env.network.loss_percent = 0,
            Undo::Slow(links) => env.network.slow_ms.retain(|link, _| !links.contains(link)),
            Undo::Disk(id) => _ = env.slow_disk_ms.remove(&id),
        }
    }

    /// All faults end.
    pub fn heal(&mut self, env: &mut Env, nodes: &mut Nodes) {
        env.network.cuts.clear();
        env.network.loss_percent = 0;
        env.network.slow_ms.clear();
        env.slow_disk_ms.clear();
        for node in nodes.values_mut() {
            node.paused_until = node.paused_until.min(env.now.mono_ms + 100);
            node.start(env);
        }
    }
}

/// True if the running process is the registered one, and is not about to leave its ISRs.
fn is_registered(nodes: &Nodes, image: &MetadataImage, id: NodeId) -> bool {
    let process = nodes.get(&id).and_then(|node| node.process.as_ref());
    let broker = process
        .map(|process| &process.broker)
        .filter(|broker| !broker.stops());
    let registered = image.brokers.get(&id).map(|registered| registered.incarnation_id);
    broker.is_some_and(|broker| registered == Some(broker.incarnation()))
}

/// For every partition another running node has all that is committed, whatever becomes of proposals under way.
fn others_have_everything(env: &Env, nodes: &Nodes, id: NodeId) -> bool {
    let processes = nodes.values().filter_map(|node| node.process.as_ref());
    let newest = processes
        .filter_map(|process| process.controller.decided())
        .max_by_key(|(term, _)| *term);
    let Some((_, Some(image))) = newest else {
        return false;
    };
    let well = |node: &Node| node.paused_until <= env.now.mono_ms && is_registered(nodes, image, node.id);
    if !nodes.values().all(|node| node.id == id || well(node)) {
        return false;
    }
    let stays = |other: NodeId, key: Key| {
        let replicas = nodes
            .values()
            .filter_map(|node| node.process.as_ref()?.broker.replicas().get(&key));
        let mut proposals = replicas.filter_map(|replica| replica.partition.pending_proposal());
        proposals.all(|proposal| proposal.isr.iter().any(|member| member.0 == other))
    };
    let has_everything = |key: Key, partition: &PartitionImage| {
        let mut others = partition
            .isr
            .iter()
            .chain(&partition.elr)
            .filter(|other| **other != id);
        others.any(|other| image.is_active(*other) && stays(*other, key))
    };
    let topics = image.topics.values();
    let mut partitions = topics.flat_map(|topic| {
        (0..)
            .zip(&topic.partitions)
            .map(|(index, p)| ((topic.id, index), p))
    });
    partitions.all(|(key, partition)| !partition.replicas.contains(&id) || has_everything(key, partition))
}

fn pause(env: &mut Env, nodes: &mut Nodes, id: NodeId) {
    let ms = env.rng.between(200, 5_000);
    env.note(format_args!("node {id} stands still for {ms} ms"));
    nodes
        .entry(id)
        .and_modify(|node| node.paused_until = env.now.mono_ms + ms);
}

fn isolation(node: NodeId) -> Vec<(NodeId, NodeId)> {
    let others = NODES.into_iter().filter(|other| *other != node);
    others.flat_map(|other| [(node, other), (other, node)]).collect()
}

fn cut_pair(env: &mut Env, node: NodeId, both_ways: bool) {
    let others: Vec<NodeId> = NODES.into_iter().filter(|other| *other != node).collect();
    let other = env.rng.pick(&others).expect("there are others");
    let links = if both_ways {
        vec![(node, other), (other, node)]
    } else {
        vec![(node, other)]
    };
    cut(env, &links);
}

fn cut(env: &mut Env, links: &[(NodeId, NodeId)]) {
    let ms = env.rng.between(100, 8_000);
    env.note(format_args!("cut {links:?} for {ms} ms"));
    env.network.cuts.extend(links);
    env.schedule(env.now.mono_ms + ms, Event::Undo(Undo::Cuts(links.to_vec())));
}

fn lose(env: &mut Env) {
    let (percent, ms) = (env.rng.between(1, 20), env.rng.between(500, 6_000));
    env.note(format_args!("{percent} percent of messages are lost for {ms} ms"));
    env.network.loss_percent = percent;
    env.schedule(env.now.mono_ms + ms, Event::Undo(Undo::Loss));
}

fn slow_links(env: &mut Env, node: NodeId) {
    let delay_ms = if env.rng.percent(30) {
        env.rng.between(800, 4_000)
    } else {
        env.rng.between(20, 800)
    };
    let ms = env.rng.between(500, 6_000);
    env.note(format_args!(
        "links of {node} are up to {delay_ms} ms slower for {ms} ms"
    ));
    let links = isolation(node);
    env.network
        .slow_ms
        .extend(links.iter().map(|link| (*link, delay_ms)));
    env.schedule(env.now.mono_ms + ms, Event::Undo(Undo::Slow(links)));
}

fn slow_disk(env: &mut Env, node: NodeId) {
    let (write_ms, ms) = (env.rng.between(20, 600), env.rng.between(500, 6_000));
    env.note(format_args!(
        "writes of {node} take {write_ms} ms more for {ms} ms"
    ));
    env.slow_disk_ms.insert(node, write_ms);
    env.schedule(env.now.mono_ms + ms, Event::Undo(Undo::Disk(node)));
}
