//! Compaction without files: of every key the last record stays (`cleanup.policy=compact`).
//!
//! A pass reads the part of a log that was not compacted yet into an [`offset_map::OffsetMap`] with a [`KeyReader`], then takes
//! the log from its start to the end of what was mapped through a [`BatchCleaner`], batch by batch. The rules are those
//! of Kafka's Cleaner. Owns no file and decides nothing about when a log is due.

mod batch;
pub mod offset_map;
#[cfg(test)]
mod tests;
mod transactions;

use std::collections::HashMap;

use odradek_common::records::batch::BatchHeader;
use odradek_common::records::record::{RecordError, decoded_section_in, records};

use crate::aborted::AbortedTransaction;
use crate::producer_state::LastRecord;
use offset_map::OffsetMap;
use transactions::CleanedTransactions;

/// Decompressed bytes of one batch beyond which a pass fails.
pub const SECTION_SIZE_BYTES_MAX: usize = 256 << 20;

/// Reads the keys of the part that was not compacted yet.
pub struct KeyReader {
    transactions: CleanedTransactions,
    from: i64,
    scratch: Vec<u8>,
}

impl KeyReader {
    /// Reads from offset `from` on; `aborted` are the log's aborted transactions.
    #[must_use]
    pub fn new(from: i64, aborted: &[AbortedTransaction]) -> Self {
        Self {
            transactions: CleanedTransactions::new(aborted),
            from,
            scratch: Vec::new(),
        }
    }

    /// Puts the keys of a batch into `keys`. Returns the offset of the first record that found no room there: the pass ends
    /// before it.
    ///
    /// # Errors
    /// The batch cannot be read.
    pub fn read(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        keys: &mut OffsetMap,
    ) -> Result<Option<i64>, RecordError> {
        if header.is_control() {
            let marker = batch::marker_type(header, batch, &mut self.scratch)?;
            self.transactions.on_marker(header, marker);
            return Ok(None);
        }
        if self.transactions.on_batch(header) || header.last_offset() < self.from {
            return Ok(None);
        }
        let section = decoded_section_in(batch, SECTION_SIZE_BYTES_MAX, &mut self.scratch)?;
        for record in records(header, section) {
            let record = record?;
            let Some(key) = record.key else { continue };
            if record.offset >= self.from && !keys.put(key, record.offset) {
                return Ok(Some(record.offset));
            }
        }
        Ok(None)
    }
}

/// What holds for a whole pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Keys are mapped below this offset; later records stay as they are.
    pub mapped_until: i64,
    /// The end of what may be cleaned at all. The batch that ends here stays, be it empty, so that the offsets up to it
    /// can be told from the log alone.
    pub upper_bound: i64,
    /// Wall clock of the pass.
    pub now_ms: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It goes.
    Nothing,
    /// All of it stays: copy it.
    Whole,
    /// What stays was appended to the output.
    Rewritten,
}

/// What a pass read and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records of the batches that were read.
    pub records_read: u64,
    /// Those that stay.
    pub records_kept: u64,
    /// Records that went because they have no key.
    pub records_without_key: u64,
}

/// Decides batch by batch what stays; takes the batches of a log in order, from its first.
pub struct BatchCleaner<'a> {
    keys: &'a OffsetMap,
    rules: Rules,
    transactions: CleanedTransactions,
    last_records: HashMap<i64, LastRecord>,
    tally: Tally,
    buffers: batch::Buffers,
}

impl<'a> BatchCleaner<'a> {
    /// Cleans by `keys`. `aborted` are the log's aborted transactions, `last_records` its active producers.
    #[must_use]
    pub fn new(
        keys: &'a OffsetMap,
        rules: Rules,
        aborted: &[AbortedTransaction],
        last_records: HashMap<i64, LastRecord>,
    ) -> Self {
        Self {
            keys,
            rules,
            transactions: CleanedTransactions::new(aborted),
            last_records,
            tally: Tally::default(),
            buffers: batch::Buffers::default(),
        }
    }

    /// What was read and kept so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Markers of aborted transactions that have no batch left, since the last call: nobody has to be told of them any more.
    pub fn take_forgotten(&mut self) -> Vec<i64> {
        self.transactions.take_forgotten()
    }

    /// Decides about a whole batch; what stays of it in part is appended to `out`.
    ///
    /// # Errors
    /// The batch cannot be read.
    pub fn clean(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Left, RecordError> {
        let is_marker = header.is_control();
        let is_void = if is_marker {
            let marker = batch::marker_type(header, batch, &mut self.buffers.scratch)?;
            self.transactions.on_marker(header, marker)
        } else {
            self.transactions.on_batch(header)
        };
        self.tally.records_read += u64::try_from(header.record_count).unwrap_or(0);
        let is_over = header
            .delete_horizon_ms()
            .is_some_and(|horizon_ms| horizon_ms <= self.rules.now_ms);
        // KIP-534: a marker stays until its transaction has no batch left and readers had delete.retention.ms to see it.
        let goes = is_void && (!is_marker || is_over);
        let left = if goes {
            Left::Nothing
        } else if is_marker {
            self.keep_marker(header, batch, is_void, out)?
        } else if header.base_offset >= self.rules.mapped_until {
            self.keep_whole(header)
        } else {
            self.filter(header, batch, is_over, out)?
        };
        if left == Left::Nothing && self.must_stay_empty(header) {
            odradek_common::records::builder::append_emptied(out, header);
            return Ok(Left::Rewritten);
        }
        Ok(left)
    }

    fn keep_whole(&mut self, header: &BatchHeader) -> Left {
        if header.record_count == 0 {
            return Left::Nothing;
        }
        self.tally.records_kept += u64::try_from(header.record_count).unwrap_or(0);
        Left::Whole
    }

    /// Whether a batch without records is needed: for its producer's last sequence or epoch, or for the offsets it covers.
    fn must_stay_empty(&self, header: &BatchHeader) -> bool {
        if header.next_offset() == self.rules.upper_bound {
            return true;
        }
        let last = self.last_records.get(&header.producer_id);
        header.has_producer_id()
            && last.is_some_and(|last| match last.last_data_offset {
                Some(offset) => header.last_offset() == offset,
                None => header.is_control() && header.producer_epoch == last.producer_epoch,
            })
    }
}
