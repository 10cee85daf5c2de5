//! What metrics show of the groups: a copy, which a shard makes when a scrape asks for it.

use kafka_protocol::protocol::StrBytes;
use odradek_broker_core::groups::{GroupShard, GroupState};

/// The groups coordinated by this broker.
#[derive(Clone, Debug, Default)]
pub struct GroupsSnapshot {
    /// Group id, state, number of members.
    pub groups: Vec<(StrBytes, GroupState, usize)>,
    /// Every committed offset.
    pub offsets: Vec<CommittedOffset>,
}

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The group.
    pub group: StrBytes,
    /// The topic.
    pub topic: StrBytes,
    /// The partition's index.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// When it was committed, in milliseconds since 1970.
    pub commit_timestamp_ms: i64,
}

impl GroupsSnapshot {
    /// A shard as it is now; texts are shared, not copied.
    #[must_use]
    pub fn of(shard: &GroupShard) -> Self {
        let groups = shard
            .group_states()
            .map(|(group, state, members)| (group.clone(), state, members));
        let offsets = shard
            .committed_offsets()
            .map(|(group, topic, partition, value)| CommittedOffset {
                group: group.clone(),
                topic: topic.clone(),
                partition,
                offset: value.offset,
                commit_timestamp_ms: value.commit_timestamp_ms,
            });
        Self {
            groups: groups.collect(),
            offsets: offsets.collect(),
        }
    }

    /// Adds the groups of another shard.
    pub fn extend(&mut self, other: &Self) {
        self.groups.extend_from_slice(&other.groups);
        self.offsets.extend_from_slice(&other.offsets);
    }
}
