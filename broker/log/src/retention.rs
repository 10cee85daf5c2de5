//! Deleting old segments: below the log start, beyond `retention.bytes`, older than `retention.ms`.

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
        let Some(last) = due.last() else {
            return Ok(0);
        };
        if *last == self.active_segment_base_offset() {
            self.roll(now)?;
        }
        let next = self.segments.range(last + 1..).next().map(|(base, _)| *base);
        let log_start_offset = next.expect("a log keeps a segment after those it deletes");
        info!(self.logger, "delete segments"; "reason" => reason, "segments" => due.len(),
            "from_offset" => due[0], "to_offset" => log_start_offset);
        self.advance_log_start(log_start_offset)?;
        let mut batch = Batch::default();
        for base_offset in &due {
            self.forget_segment(*base_offset, &mut batch);
        }
        // The snapshot that belongs to the recovery point stays, wherever that is.
        let snapshots_until = self
            .persistence
            .checkpointed
            .unwrap_or(log_start_offset)
            .min(log_start_offset);
        batch.delete_range(&self.key, Kind::ProducerSnapshot, &[0], Some(&[snapshots_until]));
        self.directory.store.write(batch, Survive::Nothing)?;
        for base_offset in &due {
            self.discard_segment_file(*base_offset)?;
            self.segments.remove(base_offset);
        }
        Ok(due.len())
    }
}
