//! What the committed log of one partition of `__consumer_offsets` says, and nothing more.
//!
//! Invariant: replaying [`Replicated::to_records`] gives the same value (property-tested).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use super::records::{GroupValue, OffsetValue, Record};

/// Committed offsets of one group by topic and partition.
pub type GroupOffsets = BTreeMap<StrBytes, BTreeMap<i32, OffsetValue>>;

/// Stored generations and committed offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicated {
    groups: BTreeMap<StrBytes, GroupValue>,
    offsets: BTreeMap<StrBytes, GroupOffsets>,
}

impl Replicated {
    /// Takes one committed record.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Offset {
                group_id,
                topic,
                partition,
                value: Some(value),
            } => {
                let topics = self.offsets.entry(group_id.clone()).or_default();
                topics
                    .entry(topic.clone())
                    .or_default()
                    .insert(*partition, value.clone());
            }
            Record::Offset {
                group_id,
                topic,
                partition,
                value: None,
            } => {
                let Some(topics) = self.offsets.get_mut(group_id) else {
                    return;
                };
                if let Some(partitions) = topics.get_mut(topic) {
                    partitions.remove(partition);
                    if partitions.is_empty() {
                        topics.remove(topic);
                    }
                }
                if topics.is_empty() {
                    self.offsets.remove(group_id);
                }
            }
            Record::Group {
                group_id,
                value: Some(value),
            } => {
                self.groups.insert(group_id.clone(), value.clone());
            }
            Record::Group {
                group_id,
                value: None,
            } => {
                self.groups.remove(group_id);
            }
        }
    }

    /// The shortest log that says the same.
    #[must_use]
    pub fn to_records(&self) -> Vec<(Bytes, Option<Bytes>)> {
        let groups = self.groups.iter().map(|(group_id, value)| {
            Record::Group {
                group_id: group_id.clone(),
                value: Some(value.clone()),
            }
            .encode()
        });
        let offsets = self.offsets().map(|(group_id, topic, partition, value)| {
            let (group_id, topic) = (group_id.clone(), topic.clone());
            Record::Offset {
                group_id,
                topic,
                partition,
                value: Some(value.clone()),
            }
            .encode()
        });
        groups.chain(offsets).collect()
    }

    /// The stored generation of a group.
    #[must_use]
    pub fn group(&self, group_id: &StrBytes) -> Option<&GroupValue> {
        self.groups.get(group_id)
    }

    /// The committed offsets of a group.
    #[must_use]
    pub fn offsets_of(&self, group_id: &StrBytes) -> Option<&GroupOffsets> {
        self.offsets.get(group_id)
    }

    /// One committed offset.
    #[must_use]
    pub fn offset(&self, group_id: &StrBytes, topic: &StrBytes, partition: i32) -> Option<&OffsetValue> {
        self.offsets.get(group_id)?.get(topic)?.get(&partition)
    }

    /// Every committed offset: group, topic, partition, value.
    pub fn offsets(&self) -> impl Iterator<Item = (&StrBytes, &StrBytes, i32, &OffsetValue)> {
        self.offsets.iter().flat_map(|(group_id, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| {
                partitions
                    .iter()
                    .map(move |(partition, value)| (group_id, topic, *partition, value))
            })
        })
    }

    /// Every group that has a generation or an offset, once.
    pub fn group_ids(&self) -> impl Iterator<Item = &StrBytes> {
        let ids: BTreeSet<&StrBytes> = self.groups.keys().chain(self.offsets.keys()).collect();
        ids.into_iter()
    }
}
