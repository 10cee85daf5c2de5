//! Repairing: a damaged segment is replaced by what another replica has of its offsets.
//!
//! The new segment is written beside the old one and put in its place as compaction puts its own, so that a crash leaves
//! either. Nothing of the log is given up meanwhile, and nothing at all if there is nobody to ask.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use odradek_common::records::batch::{BatchHeader, batches, verify_crc};

use crate::compact::swap::{CLEANED_SUFFIX, CleanedSegment, suffixed};
use crate::compact::{PassFlag, Source};
use crate::directory::DirectoryShared;
use crate::error::{AppendError, LogError};
use crate::flush::sync_folder;
use crate::log::Log;
use crate::segment::{SEGMENT_SIZE_BYTES_MAX, segment_path};

/// What replaces one segment, while it is fetched.
pub struct SegmentRepair {
    directory: Arc<DirectoryShared>,
    folder: PathBuf,
    file: File,
    cleaned: CleanedSegment,
    index_interval_bytes: u32,
    end_offset: i64,
    /// The checksum that the heads must have; None where another replica may rightly have other batches.
    heads: Option<u32>,
    /// Where it is to be fetched next.
    next_offset: i64,
}

impl Log {
    /// Base offsets of the segments to be fetched anew so that the first damaged one is whole again, in this order.
    ///
    /// Of a compacted log all before it are among them: another replica may have compacted further, and have removed a
    /// tombstone of which this one still has what it deletes.
    #[must_use]
    pub fn segments_to_repair(&self) -> Vec<i64> {
        let damaged = self
            .segments
            .values()
            .find(|segment| segment.damage.is_some())
            .filter(|segment| segment.footer.next_offset <= self.high_watermark);
        let Some(damaged) = damaged.map(|segment| segment.base_offset) else {
            return Vec::new();
        };
        let first = if self.is_compacted() { i64::MIN } else { damaged };
        let sources = self.segments.range(first..=damaged);
        sources
            .filter(|(_, segment)| !segment.is_empty())
            .map(|(base, _)| *base)
            .collect()
    }

    /// Begins the repair of a sealed segment, and ends a compaction; None if the segment is gone.
    pub fn begin_repair(&mut self, base_offset: i64) -> Result<Option<SegmentRepair>, LogError> {
        self.check_open()?;
        let active = self.active_segment_base_offset();
        let Some(segment) = self.segments.get(&base_offset).filter(|_| base_offset < active) else {
            return Ok(None);
        };
        let source = Source::of(segment);
        self.pass.overtake();
        self.pass = PassFlag::default();
        let path = suffixed(&segment_path(&self.folder, base_offset), CLEANED_SUFFIX);
        let file = File::create(&path).map_err(|source| {
            LogError::io(&self.directory.path, format!("create {}", path.display()), source)
        })?;
        let place = (self.directory.clone(), self.key);
        // What is below the log start nobody has to keep.
        let has_all = base_offset >= self.log_start_offset && !self.is_compacted();
        Ok(Some(SegmentRepair {
            directory: self.directory.clone(),
            folder: self.folder.clone(),
            file,
            cleaned: CleanedSegment::of(place, self.pass.clone(), &[source], path),
            index_interval_bytes: self.config.index_interval_bytes,
            end_offset: source.footer.next_offset,
            heads: source.footer.heads.filter(|_| has_all),
            next_offset: base_offset.max(self.log_start_offset),
        }))
    }

    /// Whether replicas may differ in what they have kept.
    fn is_compacted(&self) -> bool {
        self.config.cleanup_policy.compact || self.compacted_until > 0
    }
}

impl SegmentRepair {
    /// Where the next records are to be fetched; None once it has all.
    #[must_use]
    pub fn next_offset(&self) -> Option<i64> {
        (self.next_offset < self.end_offset).then_some(self.next_offset)
    }

    /// Takes what another replica has sent; batches behind the segment are ignored.
    ///
    /// # Errors
    /// The bytes are no batches that may stand there, or the disk failed.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        let corrupt = |error: &dyn std::fmt::Display| AppendError::Corrupt(error.to_string());
        for batch in batches(bytes) {
            let (header, batch) = batch.map_err(|error| corrupt(&error))?;
            verify_crc(batch).map_err(|error| corrupt(&error))?;
            if header.base_offset >= self.end_offset {
                self.next_offset = self.end_offset;
                break;
            }
            self.check_place(&header)?;
            self.file.write_all(batch).map_err(|source| {
                let attempt = format!("write {}", self.cleaned.path.display());
                LogError::io(&self.directory.path, attempt, source)
            })?;
            self.cleaned.segment.note(&header, self.index_interval_bytes);
            self.next_offset = header.next_offset();
        }
        Ok(())
    }

    fn check_place(&self, header: &BatchHeader) -> Result<(), AppendError> {
        let segment = &self.cleaned.segment;
        let fits = segment.footer.size_bytes + header.size_bytes() as u64 <= SEGMENT_SIZE_BYTES_MAX;
        let is_within = header.base_offset >= segment.footer.next_offset
            && header.last_offset_delta >= 0
            && header.next_offset() <= self.end_offset;
        if fits && is_within && segment.can_index(header.last_offset()) {
            return Ok(());
        }
        let detail = format!(
            "offsets {} to {} do not fit the segment that is repaired",
            header.base_offset,
            header.last_offset()
        );
        Err(AppendError::Corrupt(detail))
    }

    /// Makes the new segment survive a power loss, so that it can be put in place. Blocks.
    ///
    /// # Errors
    /// What was sent is not what this log had, or the disk failed.
    pub fn finish(self) -> Result<CleanedSegment, AppendError> {
        let Self {
            directory,
            folder,
            file,
            mut cleaned,
            end_offset,
            heads,
            ..
        } = self;
        if heads.is_some() && cleaned.segment.footer.heads != heads {
            // Every batch is sound, but offsets or leader epochs differ: the sender is damaged as well, or was not cut yet.
            let detail = "offsets or leader epochs are not those that were written here".to_owned();
            return Err(AppendError::Corrupt(detail));
        }
        let failed = |source| {
            let attempt = format!("flush {}", cleaned.path.display());
            LogError::io(&directory.path, attempt, source)
        };
        file.sync_all().map_err(failed)?;
        sync_folder(&directory, &folder).map_err(failed)?;
        cleaned.segment.footer.next_offset = end_offset;
        cleaned.segment.flushed_bytes = cleaned.segment.footer.size_bytes;
        cleaned.announce()?;
        Ok(cleaned)
    }
}
