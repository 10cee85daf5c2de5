//! Compaction: of every key only the last record stays (`cleanup.policy=compact`).
//!
//! Planned under the partition's lock, run outside of it on sealed segments, completed under it by renaming files.
//! Offsets, headers and timestamps of what stays do not change. Only records below the high watermark, the first unstable
//! offset and the active segment are looked at. Records of aborted transactions go; markers stay, so that a log whose index
//! is lost still knows how its transactions ended.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use odradek_broker_core::aborted::AbortedTransaction;
use odradek_common::records::batch::BatchHeader;
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::record::{Record, decoded_section, records};
use odradek_common::time::Now;
use slog::info;

use crate::error::LogError;
use crate::log::Log;
use crate::scan::{FoundBatch, RECOVERY_WINDOW_BYTES, Scan};
use crate::segment::{Footer, SEGMENT_SIZE_BYTES_MAX, Segment, segment_path};
use crate::store::{Batch, Kind, Survive};
use crate::timestamps::SECTION_SIZE_BYTES_MAX;

/// Keys that one run remembers; with more, it stops there and the next run goes on. About 50 MB.
pub const KEYS_MAX: usize = 1_000_000;

/// What a compaction has to read; made by [`Log::compaction_plan`].
pub struct CompactionPlan {
    directory: PathBuf,
    folder: PathBuf,
    generation: u64,
    groups: Vec<Vec<Source>>,
    /// Records below this are compacted among themselves already.
    dirty_from: i64,
    aborted: Vec<AbortedTransaction>,
    now_ms: i64,
    delete_retention_ms: i64,
    index_interval_bytes: u32,
    keys_max: usize,
}

struct Source {
    base_offset: i64,
    footer: Footer,
    file: Arc<File>,
}

/// What a compaction wrote, beside the segments it replaces.
pub struct Compacted {
    generation: u64,
    compacted_until: i64,
    groups: Vec<CompactedGroup>,
}

struct CompactedGroup {
    sources: Vec<(i64, u64)>,
    cleaned: PathBuf,
    segment: Segment,
}

/// What a compaction achieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// Segments that were read and replaced.
    pub segments: usize,
    /// Their bytes.
    pub bytes_before: u64,
    /// Bytes of what replaced them.
    pub bytes_after: u64,
}

impl Log {
    /// Compacts at once: [`Log::compaction_plan`], [`CompactionPlan::run`] and [`Log::complete_compaction`].
    pub fn compact(&mut self, now: Now) -> Result<CompactionReport, LogError> {
        let Some(plan) = self.compaction_plan(now)? else {
            return Ok(CompactionReport::default());
        };
        let compacted = plan.run()?;
        self.complete_compaction(compacted)
    }

    /// Plans a compaction; None if the policy says there is nothing to do, or if less than `min.cleanable.dirty.ratio` is
    /// dirty and nothing of that is older than `max.compaction.lag.ms`.
    pub fn compaction_plan(&self, now: Now) -> Result<Option<CompactionPlan>, LogError> {
        self.check_open()?;
        if !self.config.cleanup_policy.compact {
            return Ok(None);
        }
        let cleanable = self.cleanable(now);
        let bytes = |segments: &[&Segment]| {
            segments
                .iter()
                .map(|segment| segment.footer.size_bytes)
                .sum::<u64>()
        };
        let is_clean = |segment: &&Segment| segment.footer.next_offset <= self.compacted_until;
        let (clean, dirty): (Vec<_>, Vec<_>) = cleanable.iter().copied().partition(is_clean);
        let (clean_bytes, dirty_bytes) = (bytes(&clean), bytes(&dirty));
        let ratio = dirty_bytes as f64 / (clean_bytes + dirty_bytes).max(1) as f64;
        let oldest_ms = now.wall_ms.saturating_sub(self.config.max_compaction_lag_ms);
        // KIP-354: the first record of a segment tells its age.
        let overdue = dirty.iter().any(|segment| {
            let first_ms = segment.footer.first_timestamp;
            (if first_ms >= 0 {
                first_ms
            } else {
                segment.created_ms
            }) < oldest_ms
        });
        if dirty_bytes == 0 || (ratio < self.config.min_cleanable_dirty_ratio && !overdue) {
            return Ok(None);
        }
        Ok(Some(CompactionPlan {
            directory: self.directory.path.clone(),
            folder: self.folder.clone(),
            generation: self.persistence.generation,
            groups: self.group(&cleanable)?,
            dirty_from: self.compacted_until,
            aborted: self.aborted.entries().to_vec(),
            now_ms: now.wall_ms,
            delete_retention_ms: self.config.delete_retention_ms,
            index_interval_bytes: self.config.index_interval_bytes,
            keys_max: KEYS_MAX,
        }))
    }

    /// Puts what a compaction wrote in place. If the log was cut meanwhile, it is thrown away instead.
    pub fn complete_compaction(&mut self, compacted: Compacted) -> Result<CompactionReport, LogError> {
        let mut report = CompactionReport::default();
        let is_current = compacted.generation == self.persistence.generation && !self.closed;
        for group in compacted.groups {
            let unchanged = group.sources.iter().all(|(base_offset, size_bytes)| {
                self.segments
                    .get(base_offset)
                    .is_some_and(|segment| segment.footer.size_bytes == *size_bytes)
            });
            if is_current && unchanged {
                report.segments += group.sources.len();
                report.bytes_before += group
                    .sources
                    .iter()
                    .map(|(_, size_bytes)| size_bytes)
                    .sum::<u64>();
                report.bytes_after += group.segment.footer.size_bytes;
                self.replace(group)?;
            } else {
                self.directory.doom(group.cleaned, 0);
            }
        }
        if is_current {
            self.compacted_until = compacted.compacted_until;
            info!(self.logger, "log compacted"; "segments" => report.segments,
                "bytes_before" => report.bytes_before, "bytes_after" => report.bytes_after);
        }
        Ok(report)
    }

    /// Sealed segments that may be compacted.
    fn cleanable(&self, now: Now) -> Vec<&Segment> {
        let unstable = self.producers.first_unstable_offset().unwrap_or(i64::MAX);
        let upper = self
            .high_watermark
            .min(unstable)
            .min(self.active_segment_base_offset());
        let newest_ms = now.wall_ms.saturating_sub(self.config.min_compaction_lag_ms);
        self.segments
            .values()
            .take_while(|segment| segment.footer.next_offset <= upper && segment.base_offset < upper)
            .take_while(|segment| {
                segment.footer.max_timestamp <= newest_ms || self.config.min_compaction_lag_ms == 0
            })
            .collect()
    }

    /// Neighbours that fit one segment are merged, so that their number stays bounded too.
    fn group(&self, segments: &[&Segment]) -> Result<Vec<Vec<Source>>, LogError> {
        let limit = self.config.segment_bytes.min(SEGMENT_SIZE_BYTES_MAX);
        let mut groups: Vec<Vec<Source>> = Vec::new();
        let mut group_bytes = 0;
        for segment in segments {
            let footer = segment.footer;
            let source = Source {
                base_offset: segment.base_offset,
                footer,
                file: self.file_of(segment)?,
            };
            let fits = groups
                .last()
                .and_then(|group| group.first())
                .is_some_and(|first: &Source| {
                    group_bytes + footer.size_bytes <= limit
                        && footer.next_offset - first.base_offset <= i64::from(i32::MAX)
                });
            match groups.last_mut() {
                Some(group) if fits => {
                    group_bytes += footer.size_bytes;
                    group.push(source);
                }
                Some(_) | None => {
                    group_bytes = footer.size_bytes;
                    groups.push(vec![source]);
                }
            }
        }
        Ok(groups)
    }

    fn replace(&mut self, mut group: CompactedGroup) -> Result<(), LogError> {
        let base_offset = group.segment.base_offset;
        let path = segment_path(&self.folder, base_offset);
        fs::rename(&group.cleaned, &path).map_err(|source| {
            LogError::io(
                &self.directory.path,
                format!("replace {}", path.display()),
                source,
            )
        })?;
        self.directory.files.forget((self.uid, base_offset));
        let mut batch = Batch::default();
        for (source, _) in &group.sources {
            self.forget_segment(*source, &mut batch);
            if *source != base_offset {
                self.discard_segment_file(*source)?;
                if self.persistence.snapshot != Some(*source) {
                    batch.delete(self.key.key(Kind::ProducerSnapshot, &[*source]));
                }
            }
            self.segments.remove(source);
        }
        group.segment.index.spill(&self.key, base_offset, &mut batch);
        group.segment.index.seal();
        batch.put(
            self.key.key(Kind::Footer, &[base_offset]),
            group.segment.footer.encode(),
        );
        self.directory.store.write(batch, Survive::Nothing)?;
        self.segments.insert(base_offset, group.segment);
        self.persistence.folder_dirty = true;
        Ok(())
    }
}

/// The last offset of every key, by a hash wide enough that two keys never meet.
struct LastOffsets {
    hashers: [RandomState; 2],
    offsets: HashMap<u128, i64>,
}

impl LastOffsets {
    fn new() -> Self {
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            offsets: HashMap::new(),
        }
    }

    fn hash(&self, key: &[u8]) -> u128 {
        u128::from(self.hashers[0].hash_one(key)) << 64 | u128::from(self.hashers[1].hash_one(key))
    }
}

impl CompactionPlan {
    /// Reads the segments and writes their replacements beside them. Blocks; call it without the partition's lock.
    pub fn run(self) -> Result<Compacted, LogError> {
        let (last_offsets, compacted_until) = self.read_keys()?;
        let mut groups = Vec::new();
        for sources in &self.groups {
            if sources[0].base_offset < compacted_until {
                groups.push(self.clean(sources, &last_offsets)?);
            }
        }
        Ok(Compacted {
            generation: self.generation,
            compacted_until,
            groups,
        })
    }

    /// The last offset of every key in the dirty part, and how far that part reaches.
    fn read_keys(&self) -> Result<(LastOffsets, i64), LogError> {
        let mut last = LastOffsets::new();
        let mut until = self.dirty_from;
        for source in self
            .groups
            .iter()
            .flatten()
            .filter(|source| source.footer.next_offset > self.dirty_from)
        {
            let mut scan = Scan::new(&source.file, 0, source.footer.size_bytes, RECOVERY_WINDOW_BYTES);
            while let Some((_, header, batch)) = self.next(&mut scan, source)? {
                if header.is_control() || self.is_aborted(&header) {
                    continue;
                }
                let (header, section) = decoded_section(batch, SECTION_SIZE_BYTES_MAX)
                    .map_err(|error| self.corrupt(source, error.to_string()))?;
                for record in records(&header, &section) {
                    let record = record.map_err(|error| self.corrupt(source, error.to_string()))?;
                    let Some(key) = record.key else { continue };
                    let hash = last.hash(key);
                    if last.offsets.len() >= self.keys_max && !last.offsets.contains_key(&hash) {
                        return Ok((last, record.offset));
                    }
                    last.offsets.insert(hash, record.offset);
                }
            }
            until = source.footer.next_offset;
        }
        Ok((last, until))
    }

    fn clean(&self, sources: &[Source], last_offsets: &LastOffsets) -> Result<CompactedGroup, LogError> {
        let base_offset = sources[0].base_offset;
        let mut cleaned = segment_path(&self.folder, base_offset).into_os_string();
        cleaned.push(".cleaned");
        let cleaned = PathBuf::from(cleaned);
        let failed = |source| LogError::io(&self.directory, format!("write {}", cleaned.display()), source);
        let file = File::create(&cleaned).map_err(failed)?;
        let mut writer = BufWriter::with_capacity(RECOVERY_WINDOW_BYTES, &file);
        let mut segment = Segment::new(base_offset, Footer::empty(base_offset), self.now_ms);
        for source in sources {
            let mut scan = Scan::new(&source.file, 0, source.footer.size_bytes, RECOVERY_WINDOW_BYTES);
            while let Some((_, header, batch)) = self.next(&mut scan, source)? {
                let kept = self
                    .filter(&header, batch, last_offsets)
                    .map_err(|detail| self.corrupt(source, detail))?;
                let Some(kept) = kept else { continue };
                let header =
                    BatchHeader::parse(&kept).map_err(|error| self.corrupt(source, error.to_string()))?;
                writer.write_all(&kept).map_err(failed)?;
                segment.note(&header, self.index_interval_bytes);
            }
        }
        writer.flush().map_err(failed)?;
        drop(writer);
        file.sync_all().map_err(failed)?;
        segment.footer.next_offset = sources[sources.len() - 1].footer.next_offset;
        segment.flushed_bytes = segment.footer.size_bytes;
        let sources = sources
            .iter()
            .map(|source| (source.base_offset, source.footer.size_bytes))
            .collect();
        Ok(CompactedGroup {
            sources,
            cleaned,
            segment,
        })
    }

    /// What stays of a batch: all of it, a part, or nothing.
    fn filter<'a>(
        &self,
        header: &BatchHeader,
        batch: &'a [u8],
        last_offsets: &LastOffsets,
    ) -> Result<Option<Cow<'a, [u8]>>, String> {
        if header.is_control() {
            return Ok(Some(Cow::Borrowed(batch)));
        }
        if self.is_aborted(header) {
            return Ok(None);
        }
        let horizon_ms = header.delete_horizon_ms();
        let codec = header.compression().map_err(|error| error.to_string())?;
        let (header, section) =
            decoded_section(batch, SECTION_SIZE_BYTES_MAX).map_err(|error| error.to_string())?;
        let mut kept: Vec<Record<'_>> = Vec::new();
        let mut has_tombstones = false;
        for record in records(&header, &section) {
            let record = record.map_err(|error| error.to_string())?;
            let is_last = record.key.is_some_and(|key| {
                last_offsets
                    .offsets
                    .get(&last_offsets.hash(key))
                    .is_none_or(|last| *last <= record.offset)
            });
            let is_over =
                record.value.is_none() && horizon_ms.is_some_and(|horizon_ms| horizon_ms <= self.now_ms);
            if is_last && !is_over {
                has_tombstones |= record.value.is_none();
                kept.push(record);
            }
        }
        let needs_horizon = has_tombstones && horizon_ms.is_none();
        if kept.is_empty() {
            return Ok(None);
        }
        if kept.len() == header.record_count as usize && !needs_horizon {
            return Ok(Some(Cow::Borrowed(batch)));
        }
        let mut builder = BatchBuilder::like(&header).compression(codec, None);
        if needs_horizon {
            builder = builder.delete_horizon(self.now_ms.saturating_add(self.delete_retention_ms));
        }
        for record in &kept {
            builder.append_record(record);
        }
        Ok(Some(Cow::Owned(builder.build().to_vec())))
    }

    fn is_aborted(&self, header: &BatchHeader) -> bool {
        header.is_transactional()
            && self.aborted.iter().any(|aborted| {
                aborted.producer_id == header.producer_id
                    && (aborted.first_offset..=aborted.last_offset).contains(&header.base_offset)
            })
    }

    fn next<'s>(&self, scan: &'s mut Scan<'_>, source: &Source) -> Result<Option<FoundBatch<'s>>, LogError> {
        let position = scan.position();
        let path = segment_path(&self.folder, source.base_offset);
        scan.batch()
            .map_err(|error| error.into_log_error(&self.directory, &path, position))
    }

    fn corrupt(&self, source: &Source, detail: String) -> LogError {
        LogError::Corrupt {
            path: segment_path(&self.folder, source.base_offset),
            position: 0,
            detail,
        }
    }
}
