//! The rules, one function each, over a history that is gone through once before.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, End, Event, Isolation, Partition, Reader, Transaction, Value};

/// A value as its client wrote it.
#[derive(Clone, Copy)]
struct Written {
    transaction: Transaction,
    partition: Partition,
    input: Option<Value>,
    /// Place among all writes.
    order: usize,
}

/// What a client did in a transaction.
#[derive(Default)]
struct Course {
    values: Vec<Value>,
    inputs: Vec<Value>,
    commit_asked_at: Option<usize>,
    ended: Option<End>,
}

struct Seen {
    at: usize,
    reader: Reader,
    isolation: Isolation,
    partition: Partition,
    offset: i64,
    value: Value,
}

struct Facts {
    written: BTreeMap<Value, Written>,
    courses: BTreeMap<Transaction, Course>,
    seen: Vec<Seen>,
    /// Values of the partitions that were read to the end, by read_committed readers.
    complete: BTreeMap<Partition, BTreeSet<Value>>,
}

pub(super) fn judge(events: &[Event]) -> Vec<Anomaly> {
    let facts = Facts::of(events);
    let mut anomalies = BTreeSet::new();
    reads(&facts, &mut anomalies);
    offsets(&facts, &mut anomalies);
    order(&facts, &mut anomalies);
    atomicity(&facts, &mut anomalies);
    loops(&facts, &mut anomalies);
    anomalies.into_iter().collect()
}

impl Facts {
    fn of(events: &[Event]) -> Self {
        let mut facts = Self {
            written: BTreeMap::new(),
            courses: BTreeMap::new(),
            seen: Vec::new(),
            complete: BTreeMap::new(),
        };
        for (at, event) in events.iter().enumerate() {
            facts.note(at, event);
        }
        facts
    }

    fn note(&mut self, at: usize, event: &Event) {
        match *event {
            Event::Consumed { transaction, input } => {
                self.courses.entry(transaction).or_default().inputs.push(input);
            }
            Event::Written {
                transaction,
                partition,
                value,
                input,
            } => {
                let written = Written {
                    transaction,
                    partition,
                    input,
                    order: at,
                };
                let before = self.written.insert(value, written);
                assert!(
                    before.is_none(),
                    "value {value} is written twice: the history is of no use"
                );
                self.courses.entry(transaction).or_default().values.push(value);
            }
            Event::EndAsked { transaction, end } => {
                let course = self.courses.entry(transaction).or_default();
                if end == End::Commit {
                    course.commit_asked_at.get_or_insert(at);
                }
            }
            Event::Ended { transaction, end } => {
                self.courses.entry(transaction).or_default().ended = Some(end);
            }
            Event::Read {
                reader,
                isolation,
                partition,
                offset,
                value,
            } => self.seen.push(Seen {
                at,
                reader,
                isolation,
                partition,
                offset,
                value,
            }),
            Event::ReadToEnd { reader, partition } => {
                let of_reader = self.seen.iter().filter(|seen| {
                    (seen.reader, seen.partition) == (reader, partition)
                        && seen.isolation == Isolation::ReadCommitted
                });
                let values = of_reader.map(|seen| seen.value).collect();
                self.complete.insert(partition, values);
            }
        }
    }

    /// Whether a value is there in the end; None if its partition was not read to the end.
    fn is_present(&self, value: Value) -> Option<bool> {
        let partition = self.written.get(&value)?.partition;
        Some(self.complete.get(&partition)?.contains(&value))
    }

    /// Transactions that count: their clients know it, or a value of theirs is there in the end.
    fn is_committed(&self, transaction: Transaction) -> bool {
        let course = &self.courses[&transaction];
        course.ended == Some(End::Commit)
            || course
                .values
                .iter()
                .any(|value| self.is_present(*value) == Some(true))
    }
}

/// What single reads show.
fn reads(facts: &Facts, anomalies: &mut BTreeSet<Anomaly>) {
    for seen in &facts.seen {
        let (reader, value) = (seen.reader, seen.value);
        let written = facts.written.get(&value);
        let Some(written) = written.filter(|written| written.partition == seen.partition) else {
            anomalies.insert(Anomaly::Unwritten { reader, value });
            continue;
        };
        if seen.isolation == Isolation::ReadUncommitted {
            continue;
        }
        let transaction = written.transaction;
        let course = &facts.courses[&transaction];
        if course.ended == Some(End::Abort) {
            anomalies.insert(Anomaly::AbortedRead {
                reader,
                value,
                transaction,
            });
        } else if course.commit_asked_at.is_none_or(|asked| seen.at < asked) {
            anomalies.insert(Anomaly::UncommittedRead {
                reader,
                value,
                transaction,
            });
        }
    }
}

/// One value at one offset, one offset for one value, and offsets that grow.
fn offsets(facts: &Facts, anomalies: &mut BTreeSet<Anomaly>) {
    let mut at_offset: BTreeMap<(Partition, i64), Value> = BTreeMap::new();
    let mut place_of: BTreeMap<Value, (Partition, i64)> = BTreeMap::new();
    let mut last: BTreeMap<(Reader, Partition), i64> = BTreeMap::new();
    for seen in &facts.seen {
        let (partition, offset, value) = (seen.partition, seen.offset, seen.value);
        let place = (partition, offset);
        if *at_offset.entry(place).or_insert(value) != value {
            anomalies.insert(Anomaly::Diverged { partition, offset });
        }
        if *place_of.entry(value).or_insert(place) != place {
            anomalies.insert(Anomaly::Duplicate { value });
        }
        let reader = seen.reader;
        let before = last.insert((reader, partition), offset);
        if before.is_some_and(|before| before >= offset) {
            anomalies.insert(Anomaly::OutOfOrder {
                reader,
                partition,
                offset,
            });
        }
    }
}

/// Values of one transaction in one partition stand in the order in which they were sent.
fn order(facts: &Facts, anomalies: &mut BTreeSet<Anomaly>) {
    let mut by_place: BTreeMap<(Partition, i64), Value> = BTreeMap::new();
    for seen in &facts.seen {
        by_place.insert((seen.partition, seen.offset), seen.value);
    }
    let mut last: BTreeMap<(Partition, Transaction), usize> = BTreeMap::new();
    for ((partition, _), value) in by_place {
        let Some(written) = facts.written.get(&value) else {
            continue;
        };
        let before = last.insert((partition, written.transaction), written.order);
        if before.is_some_and(|before| before > written.order) {
            anomalies.insert(Anomaly::Reordered { partition, value });
        }
    }
}

/// All of a transaction or nothing, and all of it if its client knows.
fn atomicity(facts: &Facts, anomalies: &mut BTreeSet<Anomaly>) {
    for (transaction, course) in &facts.courses {
        let transaction = *transaction;
        let with = |presence: bool| {
            let mut values = course.values.iter().copied();
            values.find(|value| facts.is_present(*value) == Some(presence))
        };
        match (with(true), with(false)) {
            (Some(present), Some(missing)) => {
                anomalies.insert(Anomaly::Torn {
                    transaction,
                    present,
                    missing,
                });
            }
            (None, Some(value)) if course.ended == Some(End::Commit) => {
                anomalies.insert(Anomaly::Lost { transaction, value });
            }
            (Some(_) | None, None) | (None, Some(_)) => {}
        }
    }
}

/// Every committed input is in the output exactly once.
fn loops(facts: &Facts, anomalies: &mut BTreeSet<Anomaly>) {
    let mut committed_by: BTreeMap<Value, BTreeSet<Transaction>> = BTreeMap::new();
    for (transaction, course) in &facts.courses {
        if facts.is_committed(*transaction) {
            for input in &course.inputs {
                committed_by.entry(*input).or_default().insert(*transaction);
            }
        }
    }
    let mut outputs: BTreeMap<Value, BTreeSet<Transaction>> = BTreeMap::new();
    for values in facts.complete.values() {
        for written in values.iter().filter_map(|value| facts.written.get(value)) {
            if let Some(input) = written.input {
                outputs.entry(input).or_default().insert(written.transaction);
            }
        }
    }
    for (input, transactions) in &committed_by {
        if transactions.len() > 1 {
            anomalies.insert(Anomaly::InputRepeated { input: *input });
        }
        // Only where the whole output is known something can be missing.
        let is_known = transactions.iter().all(|transaction| {
            let mut values = facts.courses[transaction].values.iter();
            values.all(|value| facts.is_present(*value).is_some())
        });
        if is_known && !outputs.contains_key(input) {
            anomalies.insert(Anomaly::OutputLost { input: *input });
        }
    }
    for (input, transactions) in &outputs {
        if transactions.len() > 1 {
            anomalies.insert(Anomaly::InputRepeated { input: *input });
        }
    }
}
