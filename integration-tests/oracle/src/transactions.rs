//! The oracle for transactions: atomicity, isolation, and exactly once through a consume-transform-produce loop.
//!
//! Every value that is written is unique. Readers report what they see in their order; a partition that one read_committed
//! reader has read to its end once all writers were done counts as a whole, and what is missing there is lost.

mod judgement;

use std::collections::BTreeMap;

/// A transaction, by the name that the history gives it.
pub type Transaction = u64;
/// A written value; no two writes have the same.
pub type Value = u64;
/// A partition, by its number in the history.
pub type Partition = u32;
/// Somebody who reads, by number.
pub type Reader = u32;

/// How far a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Whatever is replicated.
    ReadUncommitted,
    /// What is committed.
    ReadCommitted,
}

/// How a transaction is to end, or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it counts.
    Commit,
    /// None of it does.
    Abort,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transaction takes a value as its input: a position in the input that it commits. Only in a loop that processes.
    Consumed {
        /// The transaction.
        transaction: Transaction,
        /// The input.
        input: Value,
    },
    /// A transaction sends a value.
    Written {
        /// The transaction.
        transaction: Transaction,
        /// Where to.
        partition: Partition,
        /// The value.
        value: Value,
        /// The input that it was made of, in a loop that processes.
        input: Option<Value>,
    },
    /// A client asks for the end of its transaction.
    EndAsked {
        /// The transaction.
        transaction: Transaction,
        /// The end it wants.
        end: End,
    },
    /// A client learns how its transaction ended. One that never does leaves the outcome open.
    Ended {
        /// The transaction.
        transaction: Transaction,
        /// The outcome.
        end: End,
    },
    /// A reader sees a record.
    Read {
        /// The reader.
        reader: Reader,
        /// How far it sees.
        isolation: Isolation,
        /// Where.
        partition: Partition,
        /// The record's offset.
        offset: i64,
        /// The value.
        value: Value,
    },
    /// A read_committed reader has read all of a partition, from its start, after the last writer was done.
    ReadToEnd {
        /// The reader.
        reader: Reader,
        /// Where.
        partition: Partition,
    },
}

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// A read_committed reader saw a value of a transaction that was aborted (G1a).
    AbortedRead {
        /// The reader.
        reader: Reader,
        /// The value.
        value: Value,
        /// Its transaction.
        transaction: Transaction,
    },
    /// A read_committed reader saw a value before its client had asked for the commit.
    UncommittedRead {
        /// The reader.
        reader: Reader,
        /// The value.
        value: Value,
        /// Its transaction.
        transaction: Transaction,
    },
    /// Some values of a transaction are there and others are not.
    Torn {
        /// The transaction.
        transaction: Transaction,
        /// One that is there.
        present: Value,
        /// One that is not.
        missing: Value,
    },
    /// A transaction whose client knows of its commit is gone.
    Lost {
        /// The transaction.
        transaction: Transaction,
        /// Its first value.
        value: Value,
    },
    /// A value is at two places.
    Duplicate {
        /// The value.
        value: Value,
    },
    /// A value that nobody wrote, or wrote elsewhere.
    Unwritten {
        /// The reader.
        reader: Reader,
        /// The value.
        value: Value,
    },
    /// Two readers, or one at two times, saw different values at one offset.
    Diverged {
        /// The partition.
        partition: Partition,
        /// The offset.
        offset: i64,
    },
    /// A reader went back to an offset, or passed one by that it saw later.
    OutOfOrder {
        /// The reader.
        reader: Reader,
        /// The partition.
        partition: Partition,
        /// The offset that came too late.
        offset: i64,
    },
    /// Values of one transaction stand in another order than they were written in.
    Reordered {
        /// The partition.
        partition: Partition,
        /// The value that came too late.
        value: Value,
    },
    /// A committed input has no output (loop).
    OutputLost {
        /// The input.
        input: Value,
    },
    /// An input has several committed outputs of different transactions, or was committed by several (loop).
    InputRepeated {
        /// The input.
        input: Value,
    },
}

/// What happened, in order.
#[derive(Clone, Debug, Default)]
pub struct History {
    events: Vec<Event>,
}

impl History {
    /// Nothing happened yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next event.
    pub fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    /// What happened, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// What is wrong with it, each anomaly once, in the order of their declaration.
    #[must_use]
    pub fn anomalies(&self) -> Vec<Anomaly> {
        judgement::judge(&self.events)
    }

    /// Every transaction whose outcome no client learned, with the end it asked for, if it did: for the run's report.
    #[must_use]
    pub fn undecided(&self) -> BTreeMap<Transaction, Option<End>> {
        let mut open = BTreeMap::new();
        for event in &self.events {
            match *event {
                Event::Written { transaction, .. } | Event::Consumed { transaction, .. } => {
                    open.entry(transaction).or_insert(None);
                }
                Event::EndAsked { transaction, end } => _ = open.insert(transaction, Some(end)),
                Event::Ended { transaction, .. } => _ = open.remove(&transaction),
                Event::Read { .. } | Event::ReadToEnd { .. } => {}
            }
        }
        open
    }
}

impl FromIterator<Event> for History {
    fn from_iter<T: IntoIterator<Item = Event>>(events: T) -> Self {
        Self {
            events: events.into_iter().collect(),
        }
    }
}
