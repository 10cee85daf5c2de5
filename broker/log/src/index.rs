//! The sparse offset and time index of a segment: one entry per `index.interval.bytes`.
//!
//! New entries wait in memory; full chunks of [`CHUNK_ENTRIES`] move to RocksDB and the rest follows at roll, checkpoint
//! and clean stop, so memory is bounded however large the segment is, as long as RocksDB takes them. An entry says where a
//! batch begins and the greatest timestamp before it, which serves both lookups.

use crate::error::LogError;
use crate::store::{Batch, Kind, PartitionKey, Store, Visit};

/// Entries per RocksDB value: 4 KiB.
pub(crate) const CHUNK_ENTRIES: usize = 256;
/// Entries in memory above which full chunks move to RocksDB.
const PENDING_ENTRIES_MAX: usize = 4 * CHUNK_ENTRIES;
const ENTRY_SIZE_BYTES: usize = 16;

/// Where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Base offset of the batch, from the segment's base offset.
    pub(crate) relative_offset: u32,
    /// Where the batch begins in the file.
    pub(crate) position: u32,
    /// Greatest timestamp of the batches before this one, -1 for none.
    pub(crate) max_timestamp_before: i64,
}

/// The index of one segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct SparseIndex {
    /// Entries that RocksDB does not have, or has in an incomplete chunk, ascending.
    pending: Vec<IndexEntry>,
    /// Pending entries that RocksDB has already, in an incomplete chunk.
    written: usize,
    /// How many waited when RocksDB last refused them; 0 if it did not.
    refused: usize,
    /// Bytes appended since the last entry; None directly after opening, when the next batch gets an entry.
    since_entry_bytes: Option<u64>,
}

impl SparseIndex {
    /// Notes a batch; `interval_bytes` decides whether it gets an entry.
    pub(crate) fn note(&mut self, entry: IndexEntry, size_bytes: usize, interval_bytes: u32) {
        let due = self
            .since_entry_bytes
            .is_none_or(|since| since >= u64::from(interval_bytes));
        if due && entry.position > 0 {
            self.pending.push(entry);
            self.since_entry_bytes = Some(0);
        }
        *self.since_entry_bytes.get_or_insert(0) += size_bytes as u64;
    }

    /// Whether so many entries wait that they should be moved to RocksDB now. After a refusal it is asked once per chunk.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.len() >= PENDING_ENTRIES_MAX.max(self.refused + CHUNK_ENTRIES)
    }

    /// Adds the waiting entries to `batch`. Once that is written, [`SparseIndex::spilled`] or [`SparseIndex::seal`] is to follow.
    pub(crate) fn spill(&self, partition: &PartitionKey, base_offset: i64, batch: &mut Batch) {
        if self.written == self.pending.len() {
            return;
        }
        for chunk in self.pending.chunks(CHUNK_ENTRIES) {
            let first = base_offset + i64::from(chunk[0].relative_offset);
            batch.put(
                partition.key(Kind::IndexChunk, &[base_offset, first]),
                encode(chunk),
            );
        }
    }

    /// Takes note of whether RocksDB has what [`SparseIndex::spill`] added: then full chunks leave memory.
    pub(crate) fn spilled(&mut self, is_written: bool) {
        if !is_written {
            self.refused = self.pending.len();
            return;
        }
        let full = self.pending.len() - self.pending.len() % CHUNK_ENTRIES;
        self.pending.drain(..full);
        self.written = self.pending.len();
        self.refused = 0;
    }

    /// Forgets the waiting entries of a sealed segment, which RocksDB has.
    pub(crate) fn seal(&mut self) {
        self.pending = Vec::new();
        self.written = 0;
        self.refused = 0;
    }

    /// The last entry for which `before` holds; `before` must hold for a prefix of the entries.
    fn last_pending(&self, before: impl Fn(&IndexEntry) -> bool) -> Option<IndexEntry> {
        self.pending
            .partition_point(before)
            .checked_sub(1)
            .map(|index| self.pending[index])
    }

    /// The last entry at or below `relative_offset`.
    pub(crate) fn floor_offset(
        &self,
        place: &Place<'_>,
        relative_offset: u32,
    ) -> Result<Option<IndexEntry>, LogError> {
        let before = |entry: &IndexEntry| entry.relative_offset <= relative_offset;
        if let Some(entry) = self.last_pending(before) {
            return Ok(Some(entry));
        }
        let offset = place.base_offset + i64::from(relative_offset);
        let found = place
            .store
            .floor(place.partition, Kind::IndexChunk, &[place.base_offset], offset)?;
        Ok(found.and_then(|(_, chunk)| last_of(&chunk, before)))
    }

    /// The last entry at or below `position`, which lies at or after the batch at `from_relative_offset`.
    pub(crate) fn floor_position(
        &self,
        place: &Place<'_>,
        from_relative_offset: u32,
        position: u64,
    ) -> Result<Option<IndexEntry>, LogError> {
        let before = |entry: &IndexEntry| u64::from(entry.position) <= position;
        if let Some(entry) = self.last_pending(before) {
            return Ok(Some(entry));
        }
        let offset = place.base_offset + i64::from(from_relative_offset);
        let first = place
            .store
            .floor(place.partition, Kind::IndexChunk, &[place.base_offset], offset)?;
        let from = first.map_or(place.base_offset, |(detail, _)| detail);
        place.last_stored(from, before)
    }

    /// The last entry before which no batch has a timestamp of `timestamp` or later.
    pub(crate) fn floor_timestamp(
        &self,
        place: &Place<'_>,
        timestamp: i64,
    ) -> Result<Option<IndexEntry>, LogError> {
        let before = |entry: &IndexEntry| entry.max_timestamp_before < timestamp;
        if let Some(entry) = self.last_pending(before) {
            return Ok(Some(entry));
        }
        place.last_stored_by_halves(before)
    }

    /// Drops stored entries at or after `position`, if there are any; what is in memory is all before it.
    pub(crate) fn forget_behind(
        &mut self,
        place: &Place<'_>,
        position: u64,
        batch: &mut Batch,
    ) -> Result<(), LogError> {
        let last = place
            .store
            .floor(place.partition, Kind::IndexChunk, &[place.base_offset], i64::MAX)?;
        match last.and_then(|(_, chunk)| decode(&chunk).last()) {
            Some(entry) if u64::from(entry.position) >= position => self.truncate(place, position, batch),
            Some(_) | None => Ok(()),
        }
    }

    /// Drops entries at or after `position`, in memory and, through `batch`, in RocksDB.
    pub(crate) fn truncate(
        &mut self,
        place: &Place<'_>,
        position: u64,
        batch: &mut Batch,
    ) -> Result<(), LogError> {
        let mut kept = Vec::new();
        let mut from = None;
        place.store.scan(
            place.partition,
            Kind::IndexChunk,
            &[place.base_offset],
            place.base_offset,
            |first, chunk| {
                let entries: Vec<IndexEntry> = decode(chunk).collect();
                let keep = entries.partition_point(|entry| u64::from(entry.position) < position);
                if keep < entries.len() {
                    kept = entries[..keep].to_vec();
                    from = Some(first);
                    return Visit::Stop;
                }
                Visit::Continue
            },
        )?;
        if let Some(first) = from {
            batch.delete_range(
                place.partition,
                Kind::IndexChunk,
                &[place.base_offset, first],
                Some(&[place.base_offset, i64::MAX]),
            );
        }
        self.pending.retain(|entry| u64::from(entry.position) < position);
        if self.pending.is_empty() {
            self.pending = kept;
        }
        self.written = 0;
        self.refused = 0;
        self.since_entry_bytes = None;
        Ok(())
    }
}

/// Which segment's entries to look for, and where.
pub(crate) struct Place<'a> {
    pub(crate) store: &'a Store,
    pub(crate) partition: &'a PartitionKey,
    pub(crate) base_offset: i64,
}

impl Place<'_> {
    /// The last stored entry from `from` on for which `before` holds, chunk by chunk.
    fn last_stored(
        &self,
        from: i64,
        before: impl Fn(&IndexEntry) -> bool,
    ) -> Result<Option<IndexEntry>, LogError> {
        let mut found = None;
        self.store.scan(
            self.partition,
            Kind::IndexChunk,
            &[self.base_offset],
            from,
            |_, chunk| match last_of(chunk, &before) {
                Some(entry) => {
                    found = Some(entry);
                    Visit::Continue
                }
                None => Visit::Stop,
            },
        )?;
        Ok(found)
    }
}

impl Place<'_> {
    /// The last stored entry for which `before` holds, which it does for none behind the first for which it does not. Halves the
    /// offsets that may have it: a full segment has a thousand chunks.
    fn last_stored_by_halves(
        &self,
        before: impl Fn(&IndexEntry) -> bool,
    ) -> Result<Option<IndexEntry>, LogError> {
        let chunk_at = |offset| {
            self.store
                .floor(self.partition, Kind::IndexChunk, &[self.base_offset], offset)
        };
        let Some((mut high, chunk)) = chunk_at(i64::MAX)? else {
            return Ok(None);
        };
        if let Some(entry) = last_of(&chunk, &before) {
            return Ok(Some(entry));
        }
        let (mut low, mut found) = (self.base_offset - 1, None);
        // Chunks that begin at or below `low` are no later than what was found; those from `high` on have nothing.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match chunk_at(middle)? {
                Some((begin, chunk)) if begin > low => match last_of(&chunk, &before) {
                    Some(entry) => (found, low) = (Some(entry), middle),
                    None => high = begin,
                },
                Some(_) | None => low = middle,
            }
        }
        Ok(found)
    }

    /// The first stored entry behind `position`.
    pub(crate) fn next_stored(&self, position: u64) -> Result<Option<IndexEntry>, LogError> {
        let mut found = None;
        self.store.scan(
            self.partition,
            Kind::IndexChunk,
            &[self.base_offset],
            self.base_offset,
            |_, chunk| {
                found = decode(chunk).find(|entry| u64::from(entry.position) > position);
                if found.is_some() {
                    Visit::Stop
                } else {
                    Visit::Continue
                }
            },
        )?;
        Ok(found)
    }
}

fn encode(entries: &[IndexEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_SIZE_BYTES);
    for entry in entries {
        bytes.extend_from_slice(&entry.relative_offset.to_be_bytes());
        bytes.extend_from_slice(&entry.position.to_be_bytes());
        bytes.extend_from_slice(&entry.max_timestamp_before.to_be_bytes());
    }
    bytes
}

fn decode(chunk: &[u8]) -> impl Iterator<Item = IndexEntry> + '_ {
    chunk.chunks_exact(ENTRY_SIZE_BYTES).map(|bytes| IndexEntry {
        relative_offset: u32::from_be_bytes(bytes[..4].try_into().expect("the slice has 4 bytes")),
        position: u32::from_be_bytes(bytes[4..8].try_into().expect("the slice has 4 bytes")),
        max_timestamp_before: i64::from_be_bytes(bytes[8..].try_into().expect("the slice has 8 bytes")),
    })
}

fn last_of(chunk: &[u8], before: impl Fn(&IndexEntry) -> bool) -> Option<IndexEntry> {
    decode(chunk).take_while(before).last()
}
