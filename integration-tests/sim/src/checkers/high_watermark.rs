//! The leader's high watermark is never above the end of a living member of the committed ISR, of which its replicas are a
//! part, and whoever leads is a member of the ISR.

use std::collections::BTreeMap;

use odradek_broker_core::partition::ReplicaLog;
use odradek_common::ids::NodeId;
use odradek_common::metadata::MetadataImage;

use crate::node::Node;

/// The first high watermark that is too high.
#[must_use]
pub fn check(nodes: &BTreeMap<NodeId, Node>, image: &MetadataImage) -> Option<String> {
    for topic in image.topics.values() {
        for (index, partition) in (0..).zip(&topic.partitions) {
            if partition.leader >= 0 && !partition.isr.contains(&partition.leader) {
                return Some(format!(
                    "{}-{index}: the leader is not in the ISR: {partition:?}",
                    topic.name
                ));
            }
            let replica_of = |node: &NodeId| {
                let broker = &nodes.get(node)?.process.as_ref()?.broker;
                let registered = image.brokers.get(node)?;
                // A process that is not registered yet is not the one that was let into the ISR.
                let same = registered.incarnation_id == broker.incarnation();
                broker.replicas().get(&(topic.id, index)).filter(|_| same)
            };
            let Some(leader) = replica_of(&partition.leader) else {
                continue;
            };
            if !leader.partition.is_leader()
                || leader.partition.image().leader_epoch != partition.leader_epoch
            {
                continue;
            }
            let high_watermark = leader.partition.log().high_watermark();
            for member in &partition.isr {
                let end = replica_of(member).map(|replica| replica.partition.log().log_end_offset());
                if end.is_some_and(|end| end < high_watermark) {
                    return Some(format!(
                        "{}-{index}: leader {} has high watermark {high_watermark}, member {member} of the ISR {:?} ends at {end:?}",
                        topic.name, partition.leader, partition.isr
                    ));
                }
            }
        }
    }
    None
}
