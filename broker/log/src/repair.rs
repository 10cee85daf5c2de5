//! Repairing: a damaged segment is replaced by what another replica has of its offsets.
//!
//! The new segments are written beside the old ones and put in their place as compaction puts its own, so that a crash leaves
//! either. Nothing of the log is given up meanwhile, and nothing at all if there is nobody to ask.
//!
//! Of a compacted log another replica may rightly have other batches. One that has compacted further may have removed a tombstone
//! of which this one still has what it deletes, and one that has compacted less may have what a tombstone has deleted here that is
//! gone. How far that reaches the cleaner offset does not tell: what was fetched from a compacted replica is compacted too, and so is
//! what a pass that ended early has put in place. So all that is committed is replaced at once, in whole segments. What was
//! fetched says which transactions are aborted, and counts as not compacted. Promises what holds for a follower that fetches: a
//! deleted record stays deleted if the fetching takes no longer than `delete.retention.ms`. If it does, it is given up.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use odradek_broker_core::aborted::AbortedTransaction;
use odradek_broker_core::producer_state::ProducerStates;
use odradek_common::records::batch::{BatchHeader, batches, verify_crc};
use odradek_common::time::Now;

use crate::append::marker_in;
use crate::compact::swap::{AbortedChange, CleanedSegments};
use crate::compact::{PassFlag, Source};
use crate::directory::DirectoryShared;
use crate::error::{AppendError, LogError};
use crate::flush::sync_folder;
use crate::log::Log;
use crate::segment::SEGMENT_SIZE_BYTES_MAX;

/// What replaces a damaged segment, or all of a compacted log, while it is fetched.
pub struct SegmentRepair {
    directory: Arc<DirectoryShared>,
    folder: PathBuf,
    /// Of the segment that is being written.
    file: File,
    cleaned: CleanedSegments,
    index_interval_bytes: u32,
    base_offset: i64,
    end_offset: i64,
    /// The checksum that the heads must have; None where another replica may rightly have other batches.
    heads: Option<u32>,
    /// Of a compacted log.
    refetch: Option<Refetch>,
    /// No batch may begin before.
    written_until: i64,
    /// Where it is to be fetched next.
    next_offset: i64,
}

/// What is fetched of a compacted log.
struct Refetch {
    segment_bytes_max: u64,
    begun_ms: u64,
    delete_retention_ms: i64,
    /// As what was fetched so far tells.
    producers: ProducerStates,
    aborted: Vec<AbortedTransaction>,
}

impl Log {
    /// Whether a segment is damaged that can be fetched anew by now.
    #[must_use]
    pub fn can_repair(&self) -> bool {
        self.range_to_repair().is_some()
    }

    /// The offsets to be fetched anew so that the first damaged segment is whole again, if all of them are committed. The range
    /// begins where a segment does, and ends there or at the log's end.
    fn range_to_repair(&self) -> Option<Range<i64>> {
        let mut segments = self.segments.values();
        let damaged = segments.find(|segment| segment.damage.is_some())?.base_offset;
        let mut behind = self.segments.range(damaged + 1..);
        let end = behind.next().map_or(self.log_end_offset, |(base, _)| *base);
        if end > self.high_watermark {
            return None;
        }
        if !self.is_compacted() {
            return Some(damaged..end);
        }
        let first = *self.segments.first_key_value()?.0;
        let committed = if self.high_watermark == self.log_end_offset {
            self.log_end_offset
        } else {
            *self.segments.range(..=self.high_watermark).next_back()?.0
        };
        Some(first..committed.max(end))
    }

    /// Begins the repair of the first damaged segment, and ends a compaction; None if there is none that can be fetched anew. The
    /// caller sees to it that the log is not being copied elsewhere.
    ///
    /// # Errors
    /// The log is closed, or there is no room for as much as is replaced beside it.
    pub fn begin_repair(&mut self, now: Now) -> Result<Option<SegmentRepair>, LogError> {
        self.check_open()?;
        let Some(Range { start, end }) = self.range_to_repair() else {
            return Ok(None);
        };
        self.flush_owed()?;
        let replaced = self.segments.range(start..end);
        let replaced_bytes = replaced.map(|(_, segment)| segment.footer.size_bytes).sum();
        self.directory.check_room(replaced_bytes)?;
        if self.active_segment_base_offset() < end {
            // The log appends to what is to be replaced: it was cut since, or is compacted.
            self.roll(now)?;
        }
        self.pass.overtake();
        self.pass = PassFlag::default();
        self.running_pass = Weak::new();
        let sources: Vec<Source> = self
            .segments
            .range(start..end)
            .map(|(_, segment)| Source::of(segment))
            .collect();
        let place = (self.directory.clone(), self.key);
        let (folder, pass) = (self.folder.clone(), self.pass.clone());
        let mut cleaned = CleanedSegments::new(place, folder, pass, &sources, end);
        // The index tells of it for good before a pass builds upon it.
        cleaned.is_durable = true;
        let refetch = self.is_compacted().then(|| Refetch {
            segment_bytes_max: self.config.segment_bytes.min(SEGMENT_SIZE_BYTES_MAX),
            begun_ms: now.mono_ms,
            delete_retention_ms: self.config.delete_retention_ms,
            producers: ProducerStates::new(self.directory.options.producers_max),
            aborted: Vec::new(),
        });
        // What is below the log start nobody has to keep.
        let has_all = start >= self.log_start_offset && refetch.is_none();
        Ok(Some(SegmentRepair {
            directory: self.directory.clone(),
            folder: self.folder.clone(),
            file: cleaned.begin_segment(start)?,
            cleaned,
            index_interval_bytes: self.config.index_interval_bytes,
            base_offset: start,
            end_offset: end,
            heads: sources[0].footer.heads.filter(|_| has_all),
            refetch,
            written_until: start,
            next_offset: start.max(self.log_start_offset),
        }))
    }

    /// Whether replicas may differ in what they have kept.
    fn is_compacted(&self) -> bool {
        self.config.cleanup_policy.compact || self.compacted_until > 0
    }
}

impl SegmentRepair {
    /// What is replaced.
    #[must_use]
    pub fn offsets(&self) -> Range<i64> {
        self.base_offset..self.end_offset
    }

    /// Where the next records are to be fetched; None once it has all.
    #[must_use]
    pub fn next_offset(&self) -> Option<i64> {
        (self.next_offset < self.end_offset).then_some(self.next_offset)
    }

    /// Whether the log was cut, closed, compacted or moved meanwhile: nothing comes of this repair.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        self.cleaned.is_overtaken()
    }

    /// Another replica has nothing more below this offset: compaction may have removed the last records.
    pub fn skip_to(&mut self, offset: i64) {
        if self.refetch.is_some() {
            self.next_offset = self.next_offset.max(offset.min(self.end_offset));
        }
    }

    /// Takes what another replica has sent; batches behind the range are ignored.
    ///
    /// # Errors
    /// The bytes are no batches that may stand there, they come too late, or the disk failed, or has no more room than is to be
    /// kept.
    pub fn append(&mut self, now: Now, bytes: &[u8]) -> Result<(), AppendError> {
        if let Some(refetch) = &self.refetch {
            // What is fetched beyond the limit is fetched in vain.
            refetch.check_time(now)?;
        }
        let corrupt = |error: &dyn std::fmt::Display| AppendError::Corrupt(error.to_string());
        for batch in batches(bytes) {
            let (header, batch) = batch.map_err(|error| corrupt(&error))?;
            verify_crc(batch).map_err(|error| corrupt(&error))?;
            if header.base_offset >= self.end_offset {
                self.next_offset = self.end_offset;
                break;
            }
            self.make_place(&header)?;
            self.directory.take_room(batch.len() as u64)?;
            self.file.write_all(batch).map_err(|source| {
                let attempt = format!("write {}", self.cleaned.path().display());
                LogError::io(&self.directory.path, attempt, source)
            })?;
            self.cleaned.segment().note(&header, self.index_interval_bytes);
            if let Some(refetch) = &mut self.refetch {
                refetch.note(&header, batch)?;
            }
            self.written_until = header.next_offset();
            self.next_offset = self.written_until;
        }
        if let Some(refetch) = &mut self.refetch {
            // Of transactions that are over, no more than their result is wanted.
            refetch.producers.on_high_watermark(self.next_offset);
        }
        Ok(())
    }

    /// Makes sure that a batch may stand where the next one is written; in a compacted log that may have to be another segment.
    fn make_place(&mut self, header: &BatchHeader) -> Result<(), AppendError> {
        let segment = self.cleaned.segment();
        let size_bytes = segment.footer.size_bytes + header.size_bytes() as u64;
        let is_indexed = segment.can_index(header.last_offset());
        let is_within = header.base_offset >= self.written_until
            && header.last_offset_delta >= 0
            && header.next_offset() <= self.end_offset;
        let fits = match &self.refetch {
            Some(refetch) => segment.is_empty() || size_bytes <= refetch.segment_bytes_max,
            None => size_bytes <= SEGMENT_SIZE_BYTES_MAX,
        };
        if is_within && fits && is_indexed {
            return Ok(());
        }
        if is_within && self.refetch.is_some() {
            self.sync_file()?;
            self.file = self.cleaned.begin_segment(header.base_offset)?;
            return Ok(());
        }
        let detail = format!(
            "offsets {} to {} do not fit what is repaired",
            header.base_offset,
            header.last_offset()
        );
        Err(AppendError::Corrupt(detail))
    }

    /// Makes the new segments survive a power loss, so that they can be put in place. Blocks.
    ///
    /// # Errors
    /// What was sent is not what this log had, it took too long, or the disk failed.
    pub fn finish(&mut self, now: Now) -> Result<(), AppendError> {
        if self.heads.is_some() && self.cleaned.segment().footer.heads != self.heads {
            // Every batch is sound, but offsets or leader epochs differ: the sender is damaged as well, or was not cut yet.
            let detail = "offsets or leader epochs are not those that were written here".to_owned();
            return Err(AppendError::Corrupt(detail));
        }
        if let Some(refetch) = self.refetch.take() {
            refetch.check_time(now)?;
            self.cleaned.aborted = AbortedChange::Replace(refetch.aborted);
        }
        self.sync_file()?;
        sync_folder(&self.directory, &self.folder).map_err(|source| {
            let attempt = format!("flush {}", self.folder.display());
            LogError::io(&self.directory.path, attempt, source)
        })?;
        self.cleaned.complete();
        self.cleaned.announce()?;
        Ok(())
    }

    /// What [`Log::replace_segments`] puts in place, once it is finished.
    #[must_use]
    pub fn into_segments(self) -> CleanedSegments {
        self.cleaned
    }

    fn sync_file(&self) -> Result<(), LogError> {
        self.file.sync_all().map_err(|source| {
            let attempt = format!("flush {}", self.cleaned.path().display());
            LogError::io(&self.directory.path, attempt, source)
        })
    }
}

impl Refetch {
    /// Refuses what is too late to be put in place.
    fn check_time(&self, now: Now) -> Result<(), AppendError> {
        let elapsed_ms = now.mono_ms.saturating_sub(self.begun_ms);
        if i64::try_from(elapsed_ms).unwrap_or(i64::MAX) <= self.delete_retention_ms {
            return Ok(());
        }
        let detail = format!(
            "fetching took {elapsed_ms} ms: after delete.retention.ms={} the tombstones of what was fetched first may \
             be gone",
            self.delete_retention_ms
        );
        Err(AppendError::Corrupt(detail))
    }

    /// Takes note of the transaction that a batch belongs to, or ends.
    fn note(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<(), AppendError> {
        match marker_in(header, batch)? {
            Some(marker) => self.aborted.extend(self.producers.complete_txn(header, marker)),
            // Emptied by compaction: its transaction left no records.
            None if header.is_control() => {}
            None => self.producers.record(header),
        }
        Ok(())
    }
}
