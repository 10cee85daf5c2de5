//! What the committed log of one partition of `__consumer_offsets` says, and nothing more.
//!
//! Invariant: replaying [`Replicated::to_records`] gives the same value (property-tested).

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::protocol::StrBytes;
use odradek_common::records::control::TransactionResult;

use self::pending::PendingOffsets;
use super::records::{GroupValue, OffsetValue, Record};
use crate::coordination::LogEntry;

mod pending;

/// Committed offsets of one group by topic and partition.
pub type GroupOffsets = BTreeMap<StrBytes, BTreeMap<i32, OffsetValue>>;

/// Stored generations, committed offsets, and the offsets of open transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicated {
    groups: BTreeMap<StrBytes, GroupValue>,
    offsets: BTreeMap<StrBytes, GroupOffsets>,
    pending: PendingOffsets,
}

impl Replicated {
    /// Takes one committed record of an open transaction.
    pub fn apply_pending(&mut self, producer_id: i64, record: &Record) {
        match record {
            Record::Offset {
                group_id,
                topic,
                partition,
                value: Some(value),
            } => {
                let key = (group_id.clone(), topic.clone(), *partition);
                self.pending.insert(producer_id, key, value.clone());
            }
            // Nobody writes such records in a transaction; as in Kafka they would count at once.
            Record::Offset { .. } | Record::Group { .. } => self.apply(record),
        }
    }

    /// A transaction's marker is committed: its offsets count, or are gone.
    pub fn end_transaction(&mut self, producer_id: i64, result: TransactionResult) {
        match result {
            TransactionResult::Commit => {
                for ((group_id, topic, partition), value) in self.pending.commit(producer_id) {
                    self.set_offset(group_id, topic, partition, value);
                }
            }
            TransactionResult::Abort => self.pending.abort(producer_id),
        }
    }

    /// Takes one committed record.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Offset {
                group_id,
                topic,
                partition,
                value: Some(value),
            } => {
                self.pending.supersede(group_id, topic, *partition);
                self.set_offset(group_id.clone(), topic.clone(), *partition, value.clone());
            }
            Record::Offset {
                group_id,
                topic,
                partition,
                value: None,
            } => {
                self.pending.forget(group_id, topic, *partition);
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

    fn set_offset(&mut self, group_id: StrBytes, topic: StrBytes, partition: i32, value: OffsetValue) {
        let topics = self.offsets.entry(group_id).or_default();
        topics.entry(topic).or_default().insert(partition, value);
    }

    /// The shortest log that says the same.
    #[must_use]
    pub fn to_records(&self) -> Vec<LogEntry> {
        let groups = self.groups.iter().map(|(group_id, value)| {
            let record = Record::Group {
                group_id: group_id.clone(),
                value: Some(value.clone()),
            };
            entry(None, &record)
        });
        let offsets = self.offsets().map(|(group_id, topic, partition, value)| {
            let record = offset_record(group_id, topic, partition, value);
            entry(None, &record)
        });
        // What a committed offset has overtaken stands before it, what is newer behind it.
        let pending = |is_superseded: bool| {
            let all = self.pending.all();
            all.filter(move |(_, pending)| pending.is_superseded == is_superseded)
                .map(|((group_id, topic, partition), pending)| {
                    let record = offset_record(&group_id, &topic, partition, &pending.value);
                    entry(Some(pending.producer_id), &record)
                })
        };
        groups
            .chain(pending(true))
            .chain(offsets)
            .chain(pending(false))
            .collect()
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

    /// Every group that has a generation or an offset, be it pending, once.
    pub fn group_ids(&self) -> impl Iterator<Item = &StrBytes> {
        let with_offsets = self.offsets.keys().chain(self.pending.group_ids());
        let ids: BTreeSet<&StrBytes> = self.groups.keys().chain(with_offsets).collect();
        ids.into_iter()
    }

    /// Whether an open transaction sets this offset.
    #[must_use]
    pub fn is_pending(&self, group_id: &StrBytes, topic: &StrBytes, partition: i32) -> bool {
        self.pending.has(group_id, topic, partition)
    }

    /// Whether an open transaction sets an offset of this group.
    #[must_use]
    pub fn has_pending(&self, group_id: &StrBytes) -> bool {
        self.pending.has_group(group_id)
    }

    /// The partitions of a group whose offsets open transactions set.
    pub fn pending_of(&self, group_id: &StrBytes) -> impl Iterator<Item = (&StrBytes, i32)> {
        self.pending.partitions_of(group_id)
    }

    /// Every partition whose offset open transactions set: group, topic, partition; once for each transaction.
    pub fn pending(&self) -> impl Iterator<Item = (StrBytes, StrBytes, i32)> {
        self.pending.all().map(|(key, _)| key)
    }

    /// The groups whose offsets a producer's open transaction sets, once for each offset.
    pub fn groups_of_transaction(&self, producer_id: i64) -> impl Iterator<Item = &StrBytes> {
        self.pending.keys_of(producer_id).map(|(group_id, _, _)| group_id)
    }
}

/// A record as it stands in the log, within a producer's transaction or outside of any.
fn entry(producer_id: Option<i64>, record: &Record) -> LogEntry {
    let (key, value) = record.encode();
    LogEntry::Record {
        producer_id,
        key,
        value,
    }
}

fn offset_record(group_id: &StrBytes, topic: &StrBytes, partition: i32, value: &OffsetValue) -> Record {
    Record::Offset {
        group_id: group_id.clone(),
        topic: topic.clone(),
        partition,
        value: Some(value.clone()),
    }
}
