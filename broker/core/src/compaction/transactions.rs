//! Which transactions the batches of a log belong to, as a pass goes through it.
//!
//! Knows for each marker whether a batch of its transaction is left; says which aborted transactions have none.

use std::collections::{BTreeMap, BTreeSet};

use odradek_common::records::batch::BatchHeader;
use odradek_common::records::control::ControlRecordType;

use crate::aborted::AbortedTransaction;

/// The transactions of a log, in the order of its batches.
pub(super) struct CleanedTransactions {
    /// Aborted ones that begin later, the first one last.
    later: Vec<AbortedTransaction>,
    /// Aborted ones whose marker is to come, by producer.
    aborted: BTreeMap<i64, Aborted>,
    /// Producers whose transaction has a batch left, and no abort is known.
    committed: BTreeSet<i64>,
    forgotten: Vec<i64>,
}

struct Aborted {
    marker_offset: i64,
    has_batches: bool,
}

impl CleanedTransactions {
    pub(super) fn new(aborted: &[AbortedTransaction]) -> Self {
        let mut later = aborted.to_vec();
        later.sort_unstable_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        Self {
            later,
            aborted: BTreeMap::new(),
            committed: BTreeSet::new(),
            forgotten: Vec::new(),
        }
    }

    /// Takes note of a data batch; true if it belongs to an aborted transaction.
    pub(super) fn on_batch(&mut self, header: &BatchHeader) -> bool {
        self.begin_until(header.last_offset());
        if !header.is_transactional() {
            return false;
        }
        if let Some(aborted) = self.aborted.get_mut(&header.producer_id)
            && header.last_offset() < aborted.marker_offset
        {
            aborted.has_batches = true;
            return true;
        }
        // What is known above its marker is a transaction whose marker was cleaned before.
        self.end(header.producer_id);
        self.committed.insert(header.producer_id);
        false
    }

    /// Takes note of a control batch, whose record has this type, None if it is empty. True if no batch of its
    /// transaction is left.
    pub(super) fn on_marker(&mut self, header: &BatchHeader, marker: Option<ControlRecordType>) -> bool {
        self.begin_until(header.last_offset());
        match marker {
            // A marker without its record was cleaned before.
            None => true,
            Some(ControlRecordType::Commit) => !self.committed.remove(&header.producer_id),
            Some(ControlRecordType::Abort) => self.end(header.producer_id),
            Some(
                ControlRecordType::LeaderChange
                | ControlRecordType::SnapshotHeader
                | ControlRecordType::SnapshotFooter
                | ControlRecordType::KraftVersion
                | ControlRecordType::KraftVoters
                | ControlRecordType::Unknown(_),
            ) => false,
        }
    }

    /// The markers of aborted transactions that have no batch left, since the last call.
    pub(super) fn take_forgotten(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.forgotten)
    }

    fn begin_until(&mut self, offset: i64) {
        while let Some(next) = self.later.pop_if(|next| next.first_offset <= offset) {
            self.end(next.producer_id);
            let aborted = Aborted {
                marker_offset: next.last_offset,
                has_batches: false,
            };
            self.aborted.insert(next.producer_id, aborted);
        }
    }

    /// The aborted transaction of a producer is over; true if no batch of it is left.
    fn end(&mut self, producer_id: i64) -> bool {
        let Some(aborted) = self.aborted.remove(&producer_id) else {
            return true;
        };
        if !aborted.has_batches {
            self.forgotten.push(aborted.marker_offset);
        }
        !aborted.has_batches
    }
}
