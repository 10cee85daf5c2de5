//! What was acknowledged is in the log for ever: at its offset, once, in its producer's order.
//!
//! The committed log of a partition is what high watermarks have passed, on whichever replica. Whoever is elected must hold
//! all of it, and nobody may ever hold anything else below a high watermark.

use std::collections::{BTreeMap, BTreeSet};

use odradek_broker_core::partition::ReplicaLog;
use odradek_common::ids::NodeId;

use super::fail;
use crate::log::SimLog;
use crate::message::Key;
use crate::producer::{is_idempotent, producer_of, sequence_of};

/// Committed logs and what producers were told.
#[derive(Default)]
pub struct Acknowledged {
    committed: BTreeMap<Key, Vec<(i32, u64)>>,
    seen: BTreeMap<(Key, u64), BTreeSet<u64>>,
    high_watermarks: BTreeMap<(NodeId, Key), i64>,
    /// Records that producers were told are committed.
    pub records: u64,
    /// What was broken.
    pub failure: Option<String>,
}

impl Acknowledged {
    /// Looks at a replica whose high watermark may have moved.
    pub fn observe(&mut self, key: Key, node: NodeId, log: &SimLog) {
        let high_watermark = log.high_watermark();
        let known = self
            .high_watermarks
            .insert((node, key), high_watermark)
            .unwrap_or(0);
        for offset in known..high_watermark {
            let Some(record) = log.record(offset) else {
                let what = format!(
                    "{key:?}: node {node} has no record {offset} below its high watermark {high_watermark}"
                );
                return fail(&mut self.failure, what);
            };
            let committed = self.committed.entry(key).or_default();
            let at = usize::try_from(offset).expect("offsets are not negative");
            match committed.get(at) {
                Some(there) if *there == record => {}
                Some(there) => {
                    let what = format!(
                        "{key:?}: node {node} holds {record:?} at committed offset {offset}, not {there:?}"
                    );
                    return fail(&mut self.failure, what);
                }
                None => {
                    committed.push(record);
                    self.entered(key, offset, record.1);
                }
            }
        }
    }

    /// A record became committed: no other of its producer may be missing before it or be there twice.
    fn entered(&mut self, key: Key, offset: i64, value: u64) {
        let (producer, sequence) = (producer_of(value), sequence_of(value));
        let seen = self.seen.entry((key, producer)).or_default();
        let expected = seen.last().map_or(0, |last| last + 1);
        if !seen.insert(sequence) {
            let what =
                format!("{key:?}: record {sequence} of producer {producer} is committed again at {offset}");
            fail(&mut self.failure, what);
        } else if is_idempotent(producer) && sequence != expected {
            let what = format!(
                "{key:?}: record {sequence} of producer {producer} is at {offset}, where {expected} is due"
            );
            fail(&mut self.failure, what);
        }
    }

    /// A replica was elected: it must hold all that is committed.
    pub fn elected(&mut self, key: Key, node: NodeId, log: &SimLog) {
        let Some(committed) = self.committed.get(&key) else {
            return;
        };
        for (offset, record) in (0..).zip(committed) {
            if log.record(offset) != Some(*record) {
                let what = format!(
                    "{key:?}: new leader {node} holds {:?} at committed offset {offset}, not {record:?}; it ends at {}",
                    log.record(offset),
                    log.log_end_offset()
                );
                return fail(&mut self.failure, what);
            }
        }
    }

    /// A producer was told that its records are committed.
    pub fn acknowledged(&mut self, key: Key, base_offset: i64, values: &[u64]) {
        for (offset, value) in (base_offset..).zip(values) {
            self.records += 1;
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let there = self.committed.get(&key).and_then(|committed| committed.get(at));
            if there.is_none_or(|record| record.1 != *value) {
                let what =
                    format!("{key:?}: {value:x} was acknowledged at {offset}, where {there:x?} is committed");
                return fail(&mut self.failure, what);
            }
        }
    }

    pub(super) fn process_ended(&mut self, node: NodeId) {
        self.high_watermarks.retain(|(of, _), _| *of != node);
    }
}
