//! Offsets of open transactions: what a commit marker would make of a group's offsets.
//!
//! Of a partition they are kept in the order of the log, because of a plain commit and several transactions the last one
//! written counts, whenever it was committed. One that a later commit has overtaken still tells that its partition is not
//! stable.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::protocol::StrBytes;

use super::super::records::OffsetValue;

/// Group, topic and partition.
pub type OffsetKey = (StrBytes, StrBytes, i32);

/// The pending offsets of all groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PendingOffsets {
    by_group: BTreeMap<StrBytes, BTreeMap<StrBytes, BTreeMap<i32, Vec<PendingOffset>>>>,
    by_producer: BTreeMap<i64, BTreeSet<OffsetKey>>,
}

/// An offset that a producer's open transaction sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PendingOffset {
    pub(super) producer_id: i64,
    pub(super) value: OffsetValue,
    /// A commit that stands behind it in the log counts.
    pub(super) is_superseded: bool,
}

impl PendingOffsets {
    /// A record of an open transaction.
    pub(super) fn insert(&mut self, producer_id: i64, key: OffsetKey, value: OffsetValue) {
        let (group_id, topic, partition) = key.clone();
        let topics = self.by_group.entry(group_id).or_default();
        let pending = topics.entry(topic).or_default().entry(partition).or_default();
        pending.retain(|earlier| earlier.producer_id != producer_id);
        pending.push(PendingOffset {
            producer_id,
            value,
            is_superseded: false,
        });
        self.by_producer.entry(producer_id).or_default().insert(key);
    }

    /// A commit outside of transactions.
    pub(super) fn supersede(&mut self, group_id: &StrBytes, topic: &StrBytes, partition: i32) {
        for pending in self.of_partition_mut(group_id, topic, partition) {
            pending.is_superseded = true;
        }
    }

    /// A tombstone: nothing written before it counts.
    pub(super) fn forget(&mut self, group_id: &StrBytes, topic: &StrBytes, partition: i32) {
        let key = (group_id.clone(), topic.clone(), partition);
        for pending in self.take(&key) {
            if let Some(keys) = self.by_producer.get_mut(&pending.producer_id) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.by_producer.remove(&pending.producer_id);
                }
            }
        }
    }

    /// A commit marker: the offsets that count from now on.
    pub(super) fn commit(&mut self, producer_id: i64) -> Vec<(OffsetKey, OffsetValue)> {
        let mut committed = Vec::new();
        for key in self.by_producer.remove(&producer_id).unwrap_or_default() {
            let mut pending = self.take(&key);
            if let Some(at) = pending.iter().position(|one| one.producer_id == producer_id) {
                let ended = pending.remove(at);
                for earlier in &mut pending[..at] {
                    earlier.is_superseded = true;
                }
                if !ended.is_superseded {
                    committed.push((key.clone(), ended.value));
                }
            }
            self.put_back(key, pending);
        }
        committed
    }

    /// An abort marker.
    pub(super) fn abort(&mut self, producer_id: i64) {
        for key in self.by_producer.remove(&producer_id).unwrap_or_default() {
            let mut pending = self.take(&key);
            pending.retain(|one| one.producer_id != producer_id);
            self.put_back(key, pending);
        }
    }

    /// Whether an open transaction sets this offset.
    pub(super) fn has(&self, group_id: &StrBytes, topic: &StrBytes, partition: i32) -> bool {
        let topics = self.by_group.get(group_id);
        let partitions = topics.and_then(|topics| topics.get(topic));
        partitions.is_some_and(|partitions| partitions.contains_key(&partition))
    }

    /// Whether an open transaction sets an offset of this group.
    pub(super) fn has_group(&self, group_id: &StrBytes) -> bool {
        self.by_group.contains_key(group_id)
    }

    /// The groups of which open transactions set offsets.
    pub(super) fn group_ids(&self) -> impl Iterator<Item = &StrBytes> {
        self.by_group.keys()
    }

    /// The partitions of a group whose offsets open transactions set.
    pub(super) fn partitions_of(&self, group_id: &StrBytes) -> impl Iterator<Item = (&StrBytes, i32)> {
        let topics = self.by_group.get(group_id).into_iter().flatten();
        topics.flat_map(|(topic, partitions)| partitions.keys().map(move |partition| (topic, *partition)))
    }

    /// The offsets that a producer's open transaction sets.
    pub(super) fn keys_of(&self, producer_id: i64) -> impl Iterator<Item = &OffsetKey> {
        self.by_producer.get(&producer_id).into_iter().flatten()
    }

    /// All of them; those of one partition in the order of the log.
    pub(super) fn all(&self) -> impl Iterator<Item = (OffsetKey, &PendingOffset)> {
        self.by_group.iter().flat_map(|(group_id, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| {
                partitions.iter().flat_map(move |(partition, pending)| {
                    let key = (group_id.clone(), topic.clone(), *partition);
                    pending.iter().map(move |one| (key.clone(), one))
                })
            })
        })
    }

    fn of_partition_mut(
        &mut self,
        group_id: &StrBytes,
        topic: &StrBytes,
        partition: i32,
    ) -> impl Iterator<Item = &mut PendingOffset> {
        let topics = self.by_group.get_mut(group_id);
        let partitions = topics.and_then(|topics| topics.get_mut(topic));
        let pending = partitions.and_then(|partitions| partitions.get_mut(&partition));
        pending.into_iter().flatten()
    }

    fn take(&mut self, (group_id, topic, partition): &OffsetKey) -> Vec<PendingOffset> {
        let Some(topics) = self.by_group.get_mut(group_id) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        if let Some(partitions) = topics.get_mut(topic) {
            taken = partitions.remove(partition).unwrap_or_default();
            if partitions.is_empty() {
                topics.remove(topic);
            }
        }
        if topics.is_empty() {
            self.by_group.remove(group_id);
        }
        taken
    }

    fn put_back(&mut self, (group_id, topic, partition): OffsetKey, pending: Vec<PendingOffset>) {
        if !pending.is_empty() {
            let topics = self.by_group.entry(group_id).or_default();
            topics.entry(topic).or_default().insert(partition, pending);
        }
    }
}
