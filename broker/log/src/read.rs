//! Finding the bytes of a fetch: whole batches between an offset and an upper bound.
//!
//! The plan is made under the partition's lock (index, then a few headers); the bytes are read outside of it, from a file
//! that stays readable even if the segment is deleted meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use odradek_common::records::batch::BatchHeader;

use crate::error::{LogError, ReadError};
use crate::log::Log;
use crate::scan::{LOOKUP_WINDOW_BYTES, Scan};
use crate::segment::{Segment, segment_path};

/// Batches at the end of the log whose places are remembered, for consumers and followers that keep up.
const RECENT_BATCHES: usize = 128;

/// Whether the first batch is returned even if it is larger than `max_bytes` (KIP-74).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinOneBatch {
    /// Yes: a consumer must be able to make progress.
    Yes,
    /// No: the limit holds.
    No,
}

/// A run of whole batches within one segment file.
#[derive(Clone, Debug)]
pub struct LogSlice {
    /// The offset that was asked for; the first batch contains it, or begins after it.
    pub start_offset: i64,
    /// The segment's file; None if there is nothing to read.
    pub file: Option<Arc<File>>,
    /// Where the batches begin in the file.
    pub position: u64,
    /// Their bytes.
    pub size_bytes: usize,
}

impl LogSlice {
    /// Nothing, at `start_offset`.
    #[must_use]
    pub fn empty(start_offset: i64) -> Self {
        Self {
            start_offset,
            file: None,
            position: 0,
            size_bytes: 0,
        }
    }

    /// Whether there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size_bytes == 0
    }

    /// Reads the batches. Blocks; call it without the partition's lock.
    pub fn read(&self) -> io::Result<Bytes> {
        let Some(file) = &self.file else {
            return Ok(Bytes::new());
        };
        let mut bytes = vec![0; self.size_bytes];
        file.read_exact_at(&mut bytes, self.position)?;
        Ok(bytes.into())
    }
}

/// Where a batch lies.
#[derive(Clone, Copy, Debug)]
struct RecentBatch {
    base_offset: i64,
    next_offset: i64,
    position: u64,
}

/// The places of the active segment's last batches.
#[derive(Debug, Default)]
pub(crate) struct RecentBatches(VecDeque<RecentBatch>);

impl RecentBatches {
    pub(crate) fn push(&mut self, header: &BatchHeader, position: u64) {
        if self.0.len() == RECENT_BATCHES {
            self.0.pop_front();
        }
        self.0.push_back(RecentBatch {
            base_offset: header.base_offset,
            next_offset: header.next_offset(),
            position,
        });
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The first batch that ends at or after `offset`, if it is certain that no earlier one does.
    fn locate(&self, offset: i64) -> Option<u64> {
        if self.0.front()?.base_offset > offset {
            return None;
        }
        let index = self.0.partition_point(|batch| batch.next_offset <= offset);
        self.0.get(index).map(|batch| batch.position)
    }

    /// The last place at or below `position` where a batch begins.
    fn floor_position(&self, position: u64) -> Option<u64> {
        let index = self.0.partition_point(|batch| batch.position <= position);
        index.checked_sub(1).map(|index| self.0[index].position)
    }
}

impl Log {
    /// Plans a read of whole batches from `offset` on that end below `upper_bound_offset`, of at most `max_bytes`.
    ///
    /// The batch that contains `offset` is returned whole. At the log end, and where no batch fits, the slice is empty.
    pub fn read_plan(
        &self,
        offset: i64,
        max_bytes: usize,
        upper_bound_offset: i64,
        min_one_batch: MinOneBatch,
    ) -> Result<LogSlice, ReadError> {
        self.check_open()?;
        if offset < self.log_start_offset || offset > self.log_end_offset {
            return Err(ReadError::OffsetOutOfRange {
                offset,
                log_start_offset: self.log_start_offset,
                log_end_offset: self.log_end_offset,
            });
        }
        if offset >= upper_bound_offset.min(self.log_end_offset) {
            return Ok(LogSlice::empty(offset));
        }
        // Compaction and truncation leave gaps: the batch may lie in a later segment than the offset's.
        let first = self
            .segments
            .range(..=offset)
            .next_back()
            .map_or(offset, |(base, _)| *base);
        for segment in self.segments.range(first..).map(|(_, segment)| segment) {
            if segment.base_offset >= upper_bound_offset {
                break;
            }
            if let Some(position) = self.locate(segment, offset)? {
                let end = self.end_position(
                    segment,
                    position,
                    offset,
                    max_bytes,
                    upper_bound_offset,
                    min_one_batch,
                )?;
                if end <= position {
                    return Ok(LogSlice::empty(offset));
                }
                let size_bytes = (end - position) as usize;
                return Ok(LogSlice {
                    start_offset: offset,
                    file: Some(self.file_of(segment)?),
                    position,
                    size_bytes,
                });
            }
        }
        Ok(LogSlice::empty(offset))
    }

    /// Where the first batch begins that ends at or after `offset`; None if the segment ends before.
    pub(crate) fn locate(&self, segment: &Segment, offset: i64) -> Result<Option<u64>, LogError> {
        if segment.is_empty() || segment.footer.next_offset <= offset {
            return Ok(None);
        }
        if offset <= segment.base_offset {
            return Ok(Some(0));
        }
        if self.is_active(segment)
            && let Some(position) = self.recent.locate(offset)
        {
            return Ok(Some(position));
        }
        let place = self.place(segment.base_offset);
        let entry = segment.index.floor_offset(&place, segment.relative(offset))?;
        let from = entry.map_or(0, |entry| u64::from(entry.position));
        self.walk(segment, from, |position, header| {
            (header.last_offset() >= offset).then_some(position)
        })
    }

    /// Where the batches of a read that begins at `start` end.
    fn end_position(
        &self,
        segment: &Segment,
        start: u64,
        offset: i64,
        max_bytes: usize,
        upper_bound_offset: i64,
        min_one_batch: MinOneBatch,
    ) -> Result<u64, LogError> {
        let size_bytes = segment.footer.size_bytes;
        let readable = self.locate(segment, upper_bound_offset)?.unwrap_or(size_bytes);
        let wanted = start.saturating_add(max_bytes as u64);
        if readable <= wanted {
            return Ok(readable);
        }
        let floor = self.floor_position(segment, offset, wanted)?.max(start);
        let mut end = floor;
        self.walk(segment, floor, |position, header| {
            let next = position + header.size_bytes() as u64;
            let is_first = position == start && min_one_batch == MinOneBatch::Yes;
            if next > wanted && !is_first {
                return Some(());
            }
            end = next;
            (next >= wanted).then_some(())
        })?;
        // The bound may lie inside of the first batch, which then is not readable at all.
        Ok(end.min(readable))
    }

    fn floor_position(&self, segment: &Segment, offset: i64, position: u64) -> Result<u64, LogError> {
        if self.is_active(segment)
            && let Some(found) = self.recent.floor_position(position)
        {
            return Ok(found);
        }
        let place = self.place(segment.base_offset);
        let entry = segment
            .index
            .floor_position(&place, segment.relative(offset), position)?;
        Ok(entry.map_or(0, |entry| u64::from(entry.position)))
    }

    /// Visits the headers from `position` on until `visit` returns something.
    pub(crate) fn walk<T>(
        &self,
        segment: &Segment,
        position: u64,
        mut visit: impl FnMut(u64, &BatchHeader) -> Option<T>,
    ) -> Result<Option<T>, LogError> {
        let file = self.file_of(segment)?;
        let mut scan = Scan::new(&file, position, segment.footer.size_bytes, LOOKUP_WINDOW_BYTES);
        loop {
            match scan.header() {
                Ok(Some((position, header))) => {
                    if let Some(found) = visit(position, &header) {
                        return Ok(Some(found));
                    }
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    let path = segment_path(&self.folder, segment.base_offset);
                    return Err(error.into_log_error(&self.directory.path, &path, scan.position()));
                }
            }
        }
    }

    fn is_active(&self, segment: &Segment) -> bool {
        segment.base_offset == self.active_segment_base_offset()
    }
}
