//! Deleting old segments: below the log start, beyond `retention.bytes`, older than `retention.ms`.
//!
//! Promises to make room where there is none: an index that cannot be told of it is told later. Until then a start finds the same
//! in the files, because no stop is clean.

use odradek_common::time::Now;
use slog::info;

use crate::error::LogError;
use crate::log::Log;
use crate::segment::Segment;
use crate::store::{Batch, Kind, Survive};

impl Log {
    /// Deletes the segments that have had their time; returns how many.
    ///
    /// Whole segments from the oldest on, never at or above the high watermark. If the active segment is due, an empty
    /// one takes its place. Segments below the log start go whatever `cleanup.policy` says. A pass of compaction needs all that
    /// it was planned for: while one runs nothing is deleted, and who runs it calls this when it has ended.
    pub fn retention(&mut self, now: Now) -> Result<usize, LogError> {
        self.check_open()?;
        if let Err(error) = self.write_start()
            && !error.is_disk_full()
        {
            return Err(error);
        }
        if self.is_being_compacted() {
            return Ok(0);
        }
        let mut deleted = self.delete_below_log_start(now)?;
        if !self.config.cleanup_policy.delete {
            return Ok(deleted);
        }
        if let Ok(limit) = u64::try_from(self.config.retention_bytes) {
            let mut excess = self.size_bytes().saturating_sub(limit);
            deleted += self.delete_oldest(now, "retention.bytes", |segment, _| {
                let fits = segment.footer.size_bytes <= excess && excess > 0;
                excess = excess.saturating_sub(if fits { segment.footer.size_bytes } else { 0 });
                fits
            })?;
        }
        if self.config.retention_ms >= 0 {
            let oldest_ms = now.wall_ms.saturating_sub(self.config.retention_ms);
            deleted += self.delete_oldest(now, "retention.ms", |segment, _| {
                let timestamp = segment.footer.max_timestamp;
                (if timestamp >= 0 {
                    timestamp
                } else {
                    segment.created_ms
                }) < oldest_ms
            })?;
        }
        Ok(deleted)
    }

    /// Deletes the segments of which nothing may be read any more; returns how many.
    pub(crate) fn delete_below_log_start(&mut self, now: Now) -> Result<usize, LogError> {
        let log_start_offset = self.log_start_offset;
        self.delete_oldest(now, "log start", |_, next| {
            next.is_some_and(|next_base_offset| next_base_offset <= log_start_offset)
        })
    }

    /// Deletes segments from the oldest on while `is_due`, which also gets the base offset of the next segment.
    fn delete_oldest(
        &mut self,
        now: Now,
        reason: &str,
        mut is_due: impl FnMut(&Segment, Option<i64>) -> bool,
    ) -> Result<usize, LogError> {
        let mut due = Vec::new();
        let mut segments = self.segments.values().peekable();
        while let Some(segment) = segments.next() {
            let next = segments.peek().map(|next| next.base_offset);
            let end_offset = next.unwrap_or(self.log_end_offset);
            let is_last_and_empty = next.is_none() && segment.is_empty();
            if is_last_and_empty || self.high_watermark < end_offset || !is_due(segment, next) {
                break;
            }
            due.push(segment.base_offset);
        }
        if due.last() == Some(&self.active_segment_base_offset()) {
            match self.roll(now) {
                // Those before it make room for that.
                Err(error) if error.is_disk_full() && due.len() > 1 => _ = due.pop(),
                rolled => rolled?,
            }
        }
        let Some(last) = due.last() else {
            return Ok(0);
        };
        let next = self.segments.range(last + 1..).next().map(|(base, _)| *base);
        let log_start_offset = next.expect("a log keeps a segment after those it deletes");
        info!(self.logger, "delete segments"; "reason" => reason, "segments" => due.len(),
            "from_offset" => due[0], "to_offset" => log_start_offset);
        self.note_log_start(log_start_offset);
        self.persistence.owes_start = true;
        for base_offset in &due {
            self.discard_segment_file(*base_offset)?;
            self.segments.remove(base_offset);
        }
        let written = self.write_start();
        self.put_off(written)?;
        Ok(due.len())
    }

    /// Tells the index where the log begins, and makes it forget the segments before, if it is not known there yet.
    pub(crate) fn write_start(&mut self) -> Result<(), LogError> {
        if !self.persistence.owes_start {
            return Ok(());
        }
        let (store, key) = (&self.directory.store, &self.key);
        let mut batch = Batch::default();
        batch.put(key.key(Kind::LogStart, &[]), self.log_start_offset.to_be_bytes());
        batch.put(key.key(Kind::LeaderEpochs, &[]), self.epochs.encode());
        batch.delete_range(key, Kind::Aborted, &[0], Some(&[self.log_start_offset]));
        store.write(batch, Survive::Kill)?;

        let first_segment = self.segments.first_key_value();
        let first = first_segment.map_or(self.log_end_offset, |(base, _)| *base);
        // The snapshot that belongs to the recovery point stays, wherever that is.
        let snapshots_until = self.persistence.checkpointed.unwrap_or(first).min(first);
        let mut batch = Batch::default();
        batch.delete_range(key, Kind::Footer, &[0], Some(&[first]));
        batch.delete_range(key, Kind::IndexChunk, &[0], Some(&[first]));
        batch.delete_range(key, Kind::ProducerSnapshot, &[0], Some(&[snapshots_until]));
        store.write(batch, Survive::Nothing)?;
        self.persistence.owes_start = false;
        Ok(())
    }
}
