//! Lookups by timestamp, for ListOffsets.

use std::os::unix::fs::FileExt;

use odradek_common::records::batch::BatchHeader;
use odradek_common::records::record::{decoded_section, records};

use crate::error::LogError;
use crate::log::Log;
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

impl Log {
    /// The first record, by offset, whose timestamp is at or after `timestamp`.
    pub fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<TimestampedOffset>, LogError> {
        self.check_open()?;
        for segment in self
            .segments
            .values()
            .filter(|segment| segment.footer.max_timestamp >= timestamp)
        {
            if let Some(found) = self.search_segment(segment, timestamp)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The first record that has the greatest timestamp of the log; None in an empty log.
    pub fn max_timestamp_offset(&self) -> Result<Option<TimestampedOffset>, LogError> {
        self.check_open()?;
        let greatest = self
            .segments
            .values()
            .map(|segment| segment.footer.max_timestamp)
            .max();
        match greatest {
            Some(timestamp) if timestamp >= 0 => self.offset_for_timestamp(timestamp),
            Some(_) | None => Ok(None),
        }
    }

    fn search_segment(
        &self,
        segment: &Segment,
        timestamp: i64,
    ) -> Result<Option<TimestampedOffset>, LogError> {
        let entry = segment
            .index
            .floor_timestamp(&self.place(segment.base_offset), timestamp)?;
        let mut from = entry.map_or(0, |entry| u64::from(entry.position));
        let log_start_offset = self.log_start_offset;
        loop {
            let batch = self.walk(segment, from, |position, header| {
                let candidate = header.max_timestamp >= timestamp && header.last_offset() >= log_start_offset;
                candidate.then_some((position, *header))
            })?;
            let Some((position, header)) = batch else {
                return Ok(None);
            };
            if let Some(found) = self.search_batch(segment, position, &header, timestamp)? {
                return Ok(Some(found));
            }
            from = position + header.size_bytes() as u64;
        }
    }

    fn search_batch(
        &self,
        segment: &Segment,
        position: u64,
        header: &BatchHeader,
        timestamp: i64,
    ) -> Result<Option<TimestampedOffset>, LogError> {
        let path = segment_path(&self.folder, segment.base_offset);
        let corrupt = |detail: String| LogError::Corrupt {
            path: path.clone(),
            position,
            detail,
        };
        let mut batch = vec![0; header.size_bytes()];
        self.file_of(segment)?
            .read_exact_at(&mut batch, position)
            .map_err(|source| {
                LogError::io(&self.directory.path, format!("read {}", path.display()), source)
            })?;
        let (header, section) =
            decoded_section(&batch, SECTION_SIZE_BYTES_MAX).map_err(|error| corrupt(error.to_string()))?;
        for record in records(&header, &section) {
            let record = record.map_err(|error| corrupt(error.to_string()))?;
            if record.timestamp >= timestamp && record.offset >= self.log_start_offset {
                return Ok(Some(TimestampedOffset {
                    offset: record.offset,
                    timestamp: record.timestamp,
                    leader_epoch: header.partition_leader_epoch,
                }));
            }
        }
        Ok(None)
    }
}
