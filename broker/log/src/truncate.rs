//! Cutting a log: its end, when a new leader's log differs, and its start, when records are deleted.
//!
//! Promises of the end that a disk without room leaves the log as it was, so that the cut can be tried again.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;

use odradek_broker_core::leader_epochs::LeaderEpochs;
use odradek_common::time::Now;
use slog::warn;

use crate::checkpoint::State;
use crate::error::{LogError, ReadError};
use crate::index::SparseIndex;
use crate::log::Log;
use crate::pages::PagesAhead;
use crate::segment::{Footer, Segment, segment_path};
use crate::store::{Batch, Kind, Survive};

impl Log {
    /// Removes every record at or after `offset`; a batch that contains `offset` goes whole.
    ///
    /// Returns the new log end. Leader epochs that begin at or after it go too, also when no record does (KAFKA-10706).
    pub fn truncate_to(&mut self, now: Now, offset: i64) -> Result<i64, LogError> {
        self.check_open()?;
        if offset >= self.log_end_offset {
            if self.epochs.truncate_from_end(offset) {
                self.persist_epochs(Survive::Kill)?;
            }
            return Ok(self.log_end_offset);
        }
        let Some(base_offset) = self.segments.range(..=offset).next_back().map(|(base, _)| *base) else {
            self.truncate_fully_and_start_at(now, offset)?;
            return Ok(offset);
        };
        self.flush_owed()?;
        let (footer, end_offset) = self.cut_at(&self.segments[&base_offset], offset)?;
        if self.compacted_until > end_offset {
            self.set_compacted_until(end_offset)?;
        }
        self.persistence.generation += 1;
        self.note_cut(end_offset);
        self.pass.overtake();
        let later: Vec<i64> = self
            .segments
            .range(base_offset + 1..)
            .map(|(base, _)| *base)
            .collect();
        self.lower_bounds(base_offset, footer, end_offset)?;
        // A power loss must not bring back what is removed, beside what will stand below its end.
        self.persistence.note_names_changed();
        let index = self.write_truncation(base_offset, footer, end_offset, &later)?;

        // The last one first: a crash must not leave a gap.
        for base in later.iter().rev() {
            self.discard_segment_file(*base)?;
            self.segments.remove(base);
        }
        let cut = self.cut_file(base_offset, footer.size_bytes);
        // What the index knows of it is cut already: no clean stop may say that this is what the log holds.
        self.closed |= cut.as_ref().is_err_and(LogError::is_gone);
        cut?;
        let segment = self
            .segments
            .get_mut(&base_offset)
            .expect("the segment was found above");
        segment.footer = footer;
        segment.index = index;
        segment
            .damage
            .take_if(|damage| damage.positions.start >= footer.size_bytes);
        segment.flushed_bytes = segment.flushed_bytes.min(footer.size_bytes);
        segment.reserved_bytes = 0;
        segment.pages = PagesAhead::default();
        self.recent.clear();
        self.epochs.truncate_from_end(end_offset);
        self.log_end_offset = end_offset;
        self.log_start_offset = self.log_start_offset.min(end_offset);
        self.high_watermark = self.high_watermark.min(end_offset);
        self.persistence.recovery_point = self.persistence.recovery_point.min(end_offset);
        self.persistence.due = self
            .persistence
            .due
            .and_then(|due| due.after_truncation(end_offset));
        if !self.producers.is_empty() || !self.aborted.entries().is_empty() {
            self.reload_producers()?;
        }
        Ok(end_offset)
    }

    /// Empties the log; the next record will have `offset`. A follower does this when its leader's log begins above its end.
    pub fn truncate_fully_and_start_at(&mut self, now: Now, offset: i64) -> Result<(), LogError> {
        self.check_open()?;
        self.make_folder()?;
        self.persistence.generation += 1;
        self.note_cut(i64::MIN);
        self.pass.overtake();
        if self.compacted_until > 0 {
            self.set_compacted_until(0)?;
        }
        let state = State {
            recovery_point: offset,
            active_base_offset: -1,
            footer: Footer::empty(offset),
            has_producers: false,
        };
        let mut batch = Batch::default();
        for kind in [
            Kind::Footer,
            Kind::Aborted,
            Kind::ProducerSnapshot,
            Kind::IndexChunk,
        ] {
            batch.delete_range(&self.key, kind, &[0], None);
        }
        batch.put(
            self.key.key(Kind::LeaderEpochs, &[]),
            LeaderEpochs::new().encode(),
        );
        batch.put(self.key.key(Kind::LogStart, &[]), offset.to_be_bytes());
        batch.put(self.key.key(Kind::State, &[]), state.encode());
        self.directory.store.write(batch, Survive::Nothing)?;
        self.directory.store.flush()?;
        self.epochs.clear();
        self.producers.clear();
        self.aborted.truncate_from_end(0);

        let bases: Vec<i64> = self.segments.keys().rev().copied().collect();
        for base in bases {
            self.discard_segment_file(base)?;
            self.segments.remove(&base);
        }
        self.log_start_offset = offset;
        self.log_end_offset = offset;
        self.high_watermark = offset;
        self.persistence.recovery_point = offset;
        self.persistence.checkpointed = Some(offset);
        self.persistence.snapshot = None;
        self.persistence.aborted_until = offset;
        self.persistence.unflushed_messages = 0;
        self.persistence.due = None;
        self.create_segment(now.wall_ms, offset)
    }

    /// Moves the log start to `offset`, as DeleteRecords asks; returns the log start.
    ///
    /// That survives the death of the process, and a power loss after
    /// [`crate::directory::LogDirectory::sync_log_starts`]. Refused above the high watermark. The segments below go with the next [`Log::retention`].
    pub fn delete_records_before(&mut self, offset: i64) -> Result<i64, ReadError> {
        if offset > self.high_watermark {
            return Err(ReadError::OffsetOutOfRange {
                offset,
                log_start_offset: self.log_start_offset,
                log_end_offset: self.high_watermark,
            });
        }
        self.advance_log_start(offset)?;
        Ok(self.log_start_offset)
    }

    /// Follows the leader's log start, as a follower does; at most to the high watermark.
    pub fn maybe_increment_log_start_offset(&mut self, offset: i64) -> Result<i64, LogError> {
        self.advance_log_start(offset.min(self.high_watermark))?;
        Ok(self.log_start_offset)
    }

    pub(crate) fn advance_log_start(&mut self, offset: i64) -> Result<(), LogError> {
        self.check_open()?;
        if offset <= self.log_start_offset {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put(self.key.key(Kind::LogStart, &[]), offset.to_be_bytes());
        let mut epochs = self.epochs.clone();
        if epochs.truncate_from_start(offset) {
            batch.put(self.key.key(Kind::LeaderEpochs, &[]), epochs.encode());
        }
        let aborted = self.aborted.entries().iter();
        for entry in aborted.take_while(|entry| entry.last_offset < offset) {
            batch.delete(self.key.key(Kind::Aborted, &[entry.last_offset]));
        }
        // First, because the index may have no room: the log begins where it did then.
        self.directory.store.write(batch, Survive::Kill)?;
        self.note_log_start(offset);
        Ok(())
    }

    /// The log begins at `offset`, if not behind it; the index is not told.
    pub(crate) fn note_log_start(&mut self, offset: i64) {
        if offset <= self.log_start_offset {
            return;
        }
        self.epochs.truncate_from_start(offset);
        self.aborted.truncate_from_start(offset);
        self.log_start_offset = offset;
        self.producers.on_log_start(offset);
    }

    /// Renames a segment's file, so that it is no part of the log any more, and leaves it to a purge after
    /// `file.delete.delay.ms`. One that is not there needs no removal. A copy's file goes at once: nobody reads it, and no purge
    /// would find it once the copy has taken the place and its folder another name.
    pub(crate) fn discard_segment_file(&self, base_offset: i64) -> Result<(), LogError> {
        let from = segment_path(&self.folder, base_offset);
        let mut to = from.clone().into_os_string();
        to.push(".deleted");
        let to = PathBuf::from(to);
        let (removed, verb) = if self.is_future {
            (fs::remove_file(&from), "remove")
        } else {
            (fs::rename(&from, &to), "rename")
        };
        match removed {
            Ok(()) if self.is_future => {}
            Ok(()) => self.directory.doom(to, self.config.file_delete_delay_ms),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warn!(self.logger, "the file of a segment that is to be removed is gone already";
                    "file" => %from.display());
            }
            Err(source) => {
                let attempt = format!("{verb} {}", from.display());
                return Err(LogError::io(&self.directory.path, attempt, source));
            }
        }
        self.directory.files.forget((self.uid, base_offset));
        Ok(())
    }

    /// Removes what the index knows of a segment.
    pub(crate) fn forget_segment(&self, base_offset: i64, batch: &mut Batch) {
        batch.delete(self.key.key(Kind::Footer, &[base_offset]));
        batch.delete(self.key.damage(base_offset));
        batch.delete_range(
            &self.key,
            Kind::IndexChunk,
            &[base_offset],
            Some(&[base_offset + 1]),
        );
    }

    /// The segment's contents below the first batch that ends at or after `offset`, and where the log ends then.
    fn cut_at(&self, segment: &Segment, offset: i64) -> Result<(Footer, i64), LogError> {
        let Some(position) = self.locate(segment, offset)? else {
            // Compaction may have left a gap behind the last batch, which the segment was said to reach over: it ends here now.
            let footer = Footer {
                next_offset: segment.footer.next_offset.min(offset),
                ..segment.footer
            };
            return Ok((footer, offset));
        };
        let cut_batch = self.walk(segment, position, |_, header| Some(header.base_offset))?;
        let end_offset = cut_batch.map_or(offset, |base_offset| base_offset.min(offset));
        let mut footer = Footer::empty(segment.base_offset);
        if position == 0 {
            return Ok((footer, end_offset));
        }
        let place = self.place(segment.base_offset);
        let entry = segment.index.floor_position(&place, 0, position - 1)?;
        if let Some(entry) = entry {
            footer.size_bytes = u64::from(entry.position);
            footer.max_timestamp = entry.max_timestamp_before;
            // The heads before it would have to be read.
            footer.heads = None;
        }
        self.walk(segment, footer.size_bytes, |at, header| {
            if at >= position {
                return Some(());
            }
            footer.add(header);
            None
        })?;
        footer.first_timestamp = segment.footer.first_timestamp;
        Ok((footer, end_offset))
    }

    /// Writes down a recovery point and a log start that are not above the cut, if they are, and makes that safe: the old
    /// recovery point must not be believed once other records stand below it, nor the old log start, which would hide them.
    /// Both are true of the log before the cut as well.
    fn lower_bounds(&mut self, base_offset: i64, footer: Footer, end_offset: i64) -> Result<(), LogError> {
        let mut batch = Batch::default();
        let moves_start = self.log_start_offset > end_offset;
        if moves_start {
            batch.put(self.key.key(Kind::LogStart, &[]), end_offset.to_be_bytes());
        }
        let is_below_checkpoint = self.persistence.checkpointed > Some(end_offset);
        if is_below_checkpoint {
            let state = State {
                recovery_point: end_offset,
                active_base_offset: base_offset,
                footer,
                has_producers: !self.producers.is_empty(),
            };
            batch.put(self.key.key(Kind::State, &[]), state.encode());
        }
        self.directory.store.write(batch, Survive::Nothing)?;
        if is_below_checkpoint {
            self.persistence.checkpointed = Some(end_offset);
            self.persistence.snapshot = None;
            self.persistence.lowered = true;
        }
        if self.persistence.lowered || moves_start {
            self.directory.store.flush()?;
            self.persistence.lowered = false;
        }
        Ok(())
    }

    /// Makes the index forget what is cut; returns that of the segment that is cut.
    fn write_truncation(
        &self,
        base_offset: i64,
        footer: Footer,
        end_offset: i64,
        later: &[i64],
    ) -> Result<SparseIndex, LogError> {
        let mut batch = Batch::default();
        for base in later {
            self.forget_segment(*base, &mut batch);
        }
        batch.delete_range(&self.key, Kind::ProducerSnapshot, &[end_offset + 1], None);
        let mut epochs = self.epochs.clone();
        epochs.truncate_from_end(end_offset);
        batch.put(self.key.key(Kind::LeaderEpochs, &[]), epochs.encode());
        let segment = &self.segments[&base_offset];
        if segment
            .damage
            .as_ref()
            .is_some_and(|damage| damage.positions.start >= footer.size_bytes)
        {
            batch.delete(self.key.damage(base_offset));
        }
        let mut index = segment.index.clone();
        index.truncate(&self.place(base_offset), footer.size_bytes, &mut batch)?;
        self.directory.store.write(batch, Survive::Nothing)?;
        Ok(index)
    }

    fn cut_file(&self, base_offset: i64, size_bytes: u64) -> Result<(), LogError> {
        let path = segment_path(&self.folder, base_offset);
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(size_bytes))
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => LogError::gone(path),
                _ => {
                    let attempt = format!("truncate {}", path.display());
                    LogError::io(&self.directory.path, attempt, source)
                }
            })
    }
}
