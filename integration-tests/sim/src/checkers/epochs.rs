//! Leader epochs and partition epochs only grow: on each broker, and in the committed metadata.

use std::collections::BTreeMap;

use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataImage, PartitionImage};

use super::fail;
use crate::message::Key;

/// The last epochs seen.
#[derive(Default)]
pub struct Epochs {
    on_broker: BTreeMap<(NodeId, Key), (i32, i32)>,
    committed: BTreeMap<Key, PartitionImage>,
    committed_offset: i64,
    /// What was broken.
    pub failure: Option<String>,
}

impl Epochs {
    /// A broker's replica holds this image now.
    pub fn applied(&mut self, node: NodeId, key: Key, image: &PartitionImage) {
        let epochs = (image.leader_epoch, image.partition_epoch);
        let before = self.on_broker.insert((node, key), epochs).unwrap_or((-1, -1));
        if epochs.0 < before.0 || epochs.1 < before.1 {
            fail(
                &mut self.failure,
                format!("{key:?}: epochs on node {node} go back from {before:?} to {epochs:?}"),
            );
        }
    }

    /// The newest committed metadata.
    pub fn committed(&mut self, image: &MetadataImage) {
        if image.offset <= self.committed_offset {
            return;
        }
        self.committed_offset = image.offset;
        for topic in image.topics.values() {
            for (index, partition) in (0..).zip(&topic.partitions) {
                let key = (topic.id, index);
                let Some(before) = self.committed.insert(key, (**partition).clone()) else {
                    continue;
                };
                let changed = before != **partition;
                let leader_moved = before.leader != partition.leader;
                let grew = partition.partition_epoch > before.partition_epoch
                    && partition.leader_epoch >= before.leader_epoch + i32::from(leader_moved);
                if changed && !grew {
                    let what =
                        format!("{key:?}: a change without new epochs, from {before:?} to {partition:?}");
                    fail(&mut self.failure, what);
                }
            }
        }
    }

    pub(super) fn process_ended(&mut self, node: NodeId) {
        self.on_broker.retain(|(of, _), _| *of != node);
    }
}
