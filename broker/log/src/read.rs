//! Finding the bytes of a fetch: whole batches between an offset and an upper bound.
//!
//! The plan is made under the partition's lock (index, then a few headers); the bytes are read outside of it, from a file
//! that stays readable even if the segment is deleted meanwhile. Headers that are not in memory are not waited for if the
//! caller has no patience: it is told which bytes to read ahead, without the lock, before it asks again.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use odradek_common::records::batch::BatchHeader;

use crate::error::{LogError, ReadError};
use crate::log::Log;
use crate::scan::{LOOKUP_WINDOW_BYTES, Scan, ScanError};
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
    /// No record of the batches has this offset or a later one.
    pub end_offset: i64,
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
            end_offset: start_offset,
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

/// Whether a plan may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It reads what it needs.
    Wait,
    /// It ends where the page cache does.
    Refuse,
}

/// What a plan found.
#[derive(Clone, Debug)]
pub enum Planned {
    /// These batches.
    Slice(LogSlice),
    /// Not yet: whoever asked with [`Patience::Refuse`] must bring these bytes into memory first.
    Cold(LogSlice),
}

/// Why a lookup ended without an answer.
enum LookupError {
    Log(LogError),
    /// The segment that has the offset is damaged there.
    Damaged,
    Cold(LogSlice),
}

impl From<LogError> for LookupError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl LookupError {
    fn into_log_error(self) -> LogError {
        match self {
            Self::Log(error) => error,
            Self::Cold(_) | Self::Damaged => {
                unreachable!("a lookup with patience waits for the disk, and reads no records")
            }
        }
    }
}

/// What a read asks for.
struct Wanted {
    patience: Patience,
    offset: i64,
    max_bytes: usize,
    upper_bound_offset: i64,
    min_one_batch: MinOneBatch,
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
    /// Bytes of the batches from one offset to another, if both are near the log end: whole batches, the first of which
    /// contains `from`.
    #[must_use]
    pub fn bytes_between(&self, from: i64, to: i64) -> Option<usize> {
        let begin = self.recent.locate(from)?;
        let end = if to >= self.log_end_offset {
            self.segments.values().next_back()?.footer.size_bytes
        } else {
            self.recent.locate(to)?
        };
        Some(end.saturating_sub(begin) as usize)
    }

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
        let planned = self.read_plan_with(
            Patience::Wait,
            offset,
            max_bytes,
            upper_bound_offset,
            min_one_batch,
        )?;
        match planned {
            Planned::Slice(slice) | Planned::Cold(slice) => Ok(slice),
        }
    }

    /// As [`Log::read_plan`], waiting for the disk or not.
    pub fn read_plan_with(
        &self,
        patience: Patience,
        offset: i64,
        max_bytes: usize,
        upper_bound_offset: i64,
        min_one_batch: MinOneBatch,
    ) -> Result<Planned, ReadError> {
        self.check_open()?;
        if offset < self.log_start_offset || offset > self.log_end_offset {
            return Err(ReadError::OffsetOutOfRange {
                offset,
                log_start_offset: self.log_start_offset,
                log_end_offset: self.log_end_offset,
            });
        }
        if offset >= upper_bound_offset.min(self.log_end_offset) {
            return Ok(Planned::Slice(LogSlice::empty(offset)));
        }
        let wanted = Wanted {
            patience,
            offset,
            max_bytes,
            upper_bound_offset,
            min_one_batch,
        };
        match self.find_slice(&wanted) {
            Ok(slice) => Ok(Planned::Slice(slice)),
            Err(LookupError::Cold(slice)) => Ok(Planned::Cold(slice)),
            Err(LookupError::Damaged) => Err(ReadError::Damaged { offset }),
            Err(LookupError::Log(error)) => Err(error.into()),
        }
    }

    fn find_slice(&self, wanted: &Wanted) -> Result<LogSlice, LookupError> {
        let offset = wanted.offset;
        // Compaction and truncation leave gaps: the batch may lie in a later segment than the offset's.
        let first = self
            .segments
            .range(..=offset)
            .next_back()
            .map_or(offset, |(base, _)| *base);
        for segment in self.segments.range(first..).map(|(_, segment)| segment) {
            if segment.base_offset >= wanted.upper_bound_offset {
                break;
            }
            if let Some(position) = self.find(segment, offset, wanted.patience)? {
                let (end, end_offset) = self.end(segment, position, wanted)?;
                let (end, end_offset) = match &segment.damage {
                    Some(damage) if damage.positions.contains(&position) => return Err(LookupError::Damaged),
                    Some(damage) if position < damage.positions.start => (
                        end.min(damage.positions.start),
                        end_offset.min(damage.offsets.start),
                    ),
                    Some(_) | None => (end, end_offset),
                };
                if end <= position {
                    return Ok(LogSlice::empty(offset));
                }
                let size_bytes = (end - position) as usize;
                return Ok(LogSlice {
                    start_offset: offset,
                    file: Some(self.file_of(segment)?),
                    position,
                    size_bytes,
                    end_offset,
                });
            }
        }
        Ok(LogSlice::empty(offset))
    }

    /// Where the first batch begins that ends at or after `offset`; None if the segment ends before.
    pub(crate) fn locate(&self, segment: &Segment, offset: i64) -> Result<Option<u64>, LogError> {
        self.find(segment, offset, Patience::Wait)
            .map_err(LookupError::into_log_error)
    }

    fn find(&self, segment: &Segment, offset: i64, patience: Patience) -> Result<Option<u64>, LookupError> {
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
        self.seek(segment, from, patience, |position, header| {
            (header.last_offset() >= offset).then_some(position)
        })
    }

    /// Where the batches of a read that begins at `start` end, and an offset that none of their records reaches.
    fn end(&self, segment: &Segment, start: u64, wanted: &Wanted) -> Result<(u64, i64), LookupError> {
        let size_bytes = segment.footer.size_bytes;
        let readable = self.find(segment, wanted.upper_bound_offset, wanted.patience)?;
        let readable = readable.unwrap_or(size_bytes);
        let readable_offset = wanted.upper_bound_offset.min(segment.footer.next_offset);
        let limit = start.saturating_add(wanted.max_bytes as u64);
        if readable <= limit {
            return Ok((readable, readable_offset));
        }
        let floor = self.floor_position(segment, wanted.offset, limit)?.max(start);
        let (mut end, mut end_offset) = (floor, readable_offset);
        self.seek(segment, floor, wanted.patience, |position, header| {
            let next = position + header.size_bytes() as u64;
            let is_first = position == start && wanted.min_one_batch == MinOneBatch::Yes;
            if next > limit && !is_first {
                end_offset = header.base_offset;
                return Some(());
            }
            (end, end_offset) = (next, header.next_offset());
            (next >= limit).then_some(())
        })?;
        // The bound may lie inside of the first batch, which then is not readable at all.
        Ok((end.min(readable), end_offset.min(readable_offset)))
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
        visit: impl FnMut(u64, &BatchHeader) -> Option<T>,
    ) -> Result<Option<T>, LogError> {
        self.seek(segment, position, Patience::Wait, visit)
            .map_err(LookupError::into_log_error)
    }

    fn seek<T>(
        &self,
        segment: &Segment,
        position: u64,
        patience: Patience,
        mut visit: impl FnMut(u64, &BatchHeader) -> Option<T>,
    ) -> Result<Option<T>, LookupError> {
        let file = self.file_of(segment)?;
        let size_bytes = segment.footer.size_bytes;
        let mut scan = Scan::new(&file, position, size_bytes, LOOKUP_WINDOW_BYTES).with_patience(patience);
        loop {
            match scan.header() {
                Ok(Some((position, header))) => {
                    if let Some(found) = visit(position, &header) {
                        return Ok(Some(found));
                    }
                }
                Ok(None) => return Ok(None),
                Err(ScanError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let position = scan.position();
                    let left = size_bytes.saturating_sub(position) as usize;
                    return Err(LookupError::Cold(LogSlice {
                        start_offset: segment.base_offset,
                        file: Some(file),
                        position,
                        size_bytes: left.min(LOOKUP_WINDOW_BYTES),
                        end_offset: segment.footer.next_offset,
                    }));
                }
                Err(error) => {
                    let path = segment_path(&self.folder, segment.base_offset);
                    let error = error.into_log_error(&self.directory.path, &path, scan.position());
                    return Err(error.into());
                }
            }
        }
    }

    fn is_active(&self, segment: &Segment) -> bool {
        segment.base_offset == self.active_segment_base_offset()
    }
}
