//! Once faults end everything comes back: a controller, leaders, whole ISRs, answers for every producer, equal logs.

use std::collections::BTreeMap;

use odradek_broker_core::partition::ReplicaLog;
use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataImage, PartitionImage};

use crate::message::Key;
use crate::node::Node;
use crate::producer::Producer;
use crate::scenario::NODES;

/// The first thing that has not come back yet.
#[must_use]
pub fn missing(
    nodes: &BTreeMap<NodeId, Node>,
    image: &MetadataImage,
    producers: &[Producer],
) -> Option<String> {
    let active = nodes
        .values()
        .filter_map(|node| node.process.as_ref())
        .filter(|p| p.controller.is_active())
        .count();
    if active != 1 {
        return Some(format!("{active} active controllers"));
    }
    if let Some(node) = NODES.iter().find(|id| !image.is_active(**id)) {
        return Some(format!(
            "broker {node} is fenced or absent: {:?}",
            image.brokers.get(node)
        ));
    }
    for topic in image.topics.values() {
        for (index, partition) in (0..).zip(&topic.partitions) {
            if let Some(what) = incomplete(nodes, (topic.id, index), partition) {
                return Some(format!("{}-{index}: {what}; {partition:?}", topic.name));
            }
        }
    }
    producers
        .iter()
        .enumerate()
        .find(|(_, producer)| !producer.is_idle())
        .map(|(at, producer)| format!("producer {at} waits: {producer:?}"))
}

fn incomplete(nodes: &BTreeMap<NodeId, Node>, key: Key, partition: &PartitionImage) -> Option<String> {
    if partition.leader < 0 {
        return Some("no leader".to_owned());
    }
    if partition.isr.len() < partition.replicas.len() {
        let process = nodes.get(&partition.leader)?.process.as_ref()?;
        let leader = &process.broker.replicas().get(&key)?.partition;
        let end = leader.log().log_end_offset();
        let followers: Vec<_> = leader.followers().collect();
        return Some(format!(
            "the ISR is not whole: the leader ends at {end}, {followers:?}, {:?}",
            leader.pending_proposal()
        ));
    }
    let mut ends = Vec::new();
    for id in &partition.replicas {
        let process = nodes.get(id)?.process.as_ref();
        let replica = process.and_then(|process| process.broker.replicas().get(&key));
        let Some(replica) = replica.map(|replica| &replica.partition) else {
            return Some(format!("node {id} has no replica"));
        };
        let leads = replica.is_leader();
        if leads != (*id == partition.leader) || **replica.image() != *partition {
            return Some(format!(
                "node {id} does not play its part: leads {leads}, {:?}",
                replica.image()
            ));
        }
        ends.push((replica.log().log_end_offset(), replica.log().high_watermark()));
    }
    let equal = ends
        .iter()
        .all(|(end, high_watermark)| end == high_watermark && *end == ends[0].0);
    (!equal).then(|| format!("log ends and high watermarks differ: {ends:?}"))
}
