//! Lookups by timestamp, for ListOffsets: planned under the partition's lock, segment by segment, and done without it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use odradek_common::records::batch::BatchHeader;
use odradek_common::records::record::{decoded_section, records};

use crate::directory::DirectoryShared;
use crate::error::LogError;
use crate::log::Log;
use crate::scan::{LOOKUP_WINDOW_BYTES, Scan};
use crate::segment::{Segment, segment_path};

/// Decompressed bytes of one batch beyond which it is not searched.
pub(crate) const SECTION_SIZE_BYTES_MAX: usize = 256 << 20;

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampedOffset {
    /// The record's offset.
    pub offset: i64,
    /// Its timestamp.
    pub timestamp: i64,
    /// The epoch of the leader that appended it.
    pub leader_epoch: i32,
}

/// A search of one segment, which may hold a record with such a timestamp.
pub struct TimestampSearch {
    timestamp: i64,
    /// What lies below is not searched: it is deleted, or was searched already.
    from: i64,
    base_offset: i64,
    /// Where the segment ended when this was planned.
    next_offset: i64,
    file: Arc<File>,
    /// Where the first batch begins that may hold it.
    position: u64,
    size_bytes: u64,
    directory: Arc<DirectoryShared>,
    folder: PathBuf,
}

/// The first record, by offset, whose timestamp is at or after the one that `plan` plans with [`Log::timestamp_search`], from
/// an offset on. Blocks; `plan` alone takes the partition's lock.
pub fn offset_for_timestamp(
    mut plan: impl FnMut(i64) -> Result<Option<TimestampSearch>, LogError>,
) -> Result<Option<TimestampedOffset>, LogError> {
    let mut from = i64::MIN;
    while let Some(search) = plan(from)? {
        if let Some(found) = search.run()? {
            return Ok(Some(found));
        }
        // Not with the next segment: a compaction may have moved what comes next into the one that was searched.
        from = search.next_offset;
    }
    Ok(None)
}

impl Log {
    /// Plans a search for the first record at or after offset `from` with a timestamp at or after `timestamp`: in the first
    /// segment that may hold it.
    pub fn timestamp_search(&self, timestamp: i64, from: i64) -> Result<Option<TimestampSearch>, LogError> {
        self.check_open()?;
        let from = from.max(self.log_start_offset);
        let first = self
            .segments
            .range(..=from)
            .next_back()
            .map_or(from, |(base, _)| *base);
        let mut later = self.segments.range(first..).map(|(_, segment)| segment);
        let may_hold = |segment: &&Segment| {
            // A segment that ends at `from` was searched to its end.
            segment.footer.max_timestamp >= timestamp && segment.footer.next_offset > from
        };
        let Some(segment) = later.find(may_hold) else {
            return Ok(None);
        };
        let place = self.place(segment.base_offset);
        let by_timestamp = segment.index.floor_timestamp(&place, timestamp)?;
        let by_offset = segment.index.floor_offset(&place, segment.relative(from))?;
        let entries = by_timestamp.into_iter().chain(by_offset);
        Ok(Some(TimestampSearch {
            timestamp,
            from,
            base_offset: segment.base_offset,
            next_offset: segment.footer.next_offset,
            file: self.file_of(segment)?,
            position: entries.map(|entry| u64::from(entry.position)).max().unwrap_or(0),
            size_bytes: segment.footer.size_bytes,
            directory: self.directory.clone(),
            folder: self.folder.clone(),
        }))
    }

    /// The greatest timestamp of the log; None if there is none.
    #[must_use]
    pub fn max_timestamp(&self) -> Option<i64> {
        let of_segments = self.segments.values().map(|segment| segment.footer.max_timestamp);
        of_segments.max().filter(|timestamp| *timestamp >= 0)
    }
}

impl TimestampSearch {
    /// Reads the segment until the record is found. Blocks; call it without the partition's lock.
    fn run(&self) -> Result<Option<TimestampedOffset>, LogError> {
        let mut scan = Scan::new(&self.file, self.position, self.size_bytes, LOOKUP_WINDOW_BYTES);
        loop {
            let next = scan.header();
            let found = next
                .map_err(|error| error.into_log_error(&self.directory.path, &self.path(), scan.position()))?;
            let Some((position, header)) = found else {
                return Ok(None);
            };
            let may_hold = header.max_timestamp >= self.timestamp && header.last_offset() >= self.from;
            if may_hold && let Some(found) = self.search_batch(position, &header)? {
                return Ok(Some(found));
            }
        }
    }

    fn search_batch(
        &self,
        position: u64,
        header: &BatchHeader,
    ) -> Result<Option<TimestampedOffset>, LogError> {
        let corrupt = |detail: String| LogError::Corrupt {
            path: self.path(),
            position,
            detail,
        };
        let mut batch = vec![0; header.size_bytes()];
        self.file.read_exact_at(&mut batch, position).map_err(|source| {
            self.directory
                .io(format!("read {}", self.path().display()), source)
        })?;
        let (header, section) =
            decoded_section(&batch, SECTION_SIZE_BYTES_MAX).map_err(|error| corrupt(error.to_string()))?;
        for record in records(&header, &section) {
            let record = record.map_err(|error| corrupt(error.to_string()))?;
            if record.timestamp >= self.timestamp && record.offset >= self.from {
                return Ok(Some(TimestampedOffset {
                    offset: record.offset,
                    timestamp: record.timestamp,
                    leader_epoch: header.partition_leader_epoch,
                }));
            }
        }
        Ok(None)
    }

    fn path(&self) -> PathBuf {
        segment_path(&self.folder, self.base_offset)
    }
}
