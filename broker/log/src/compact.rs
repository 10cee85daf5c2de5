//! Compaction: of every key only the last record stays (`cleanup.policy=compact`).
//!
//! A pass is planned under the partition's lock and run outside of it on sealed segments; what it wrote is swapped in under
//! the lock, group by group, each swap complete or undone after a crash. Offsets, headers and timestamps of what stays do
//! not change. Only records below the last stable offset and the active segment are looked at. What stays of a batch is
//! decided in `odradek_broker_core::compaction`; who is compacted when, by the caller.
//!
//! Invariant: of the segments that a pass was to replace, those replaced are a prefix: a tombstone never goes before what it
//! deletes. The cleaner offset moves when all of them are.

mod pass;
pub(crate) mod swap;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use odradek_broker_core::aborted::AbortedTransaction;
use odradek_broker_core::compaction::offset_map::ENTRY_SIZE_BYTES;
use odradek_broker_core::producer_state::LastRecord;
use odradek_common::time::Now;
use slog::info;

use crate::directory::DirectoryShared;
use crate::error::LogError;
use crate::log::Log;
use crate::segment::{Footer, SEGMENT_SIZE_BYTES_MAX, Segment, segment_path};
use crate::store::{Kind, PartitionKey, Survive};

pub use swap::CleanedSegments;

/// How much of a log is due to be compacted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dirtiness {
    /// Records below are compacted among themselves.
    pub first_dirty_offset: i64,
    /// Records from here on may not be compacted yet.
    pub first_uncleanable_offset: i64,
    /// Bytes of the segments that are compacted.
    pub clean_bytes: u64,
    /// Bytes of the segments that may be compacted and are not.
    pub dirty_bytes: u64,
    /// How long ago `max.compaction.lag.ms` has passed for the oldest of what is not compacted; 0 if it has not.
    pub delay_ms: i64,
    ratio_min: f64,
}

impl Dirtiness {
    /// The share of what may be compacted that is not.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.dirty_bytes as f64 / (self.clean_bytes + self.dirty_bytes).max(1) as f64
    }

    /// Whether `min.cleanable.dirty.ratio` or `max.compaction.lag.ms` asks for a pass.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.dirty_bytes > 0 && (self.delay_ms > 0 || self.ratio() > self.ratio_min)
    }
}

/// The memory of one pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassMemory {
    /// For the table of keys; a pass that needs more ends where it is full.
    pub dedupe_bytes: usize,
    /// The share of the table that is used at most.
    pub load_factor: f64,
    /// For the read buffer, and as much for the write buffer; a larger batch makes them grow.
    pub io_bytes: usize,
}

impl Default for PassMemory {
    /// Kafka's defaults for one thread.
    fn default() -> Self {
        Self {
            dedupe_bytes: 128 << 20,
            load_factor: 0.9,
            io_bytes: 256 << 10,
        }
    }
}

impl PassMemory {
    fn slots(&self) -> usize {
        self.dedupe_bytes / ENTRY_SIZE_BYTES
    }
}

/// Whether a pass goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// It does.
    On,
    /// It ends; what it has swapped in stays.
    Stop,
}

/// What a pass has to read; made by [`Log::compaction_plan`].
pub struct CompactionPlan {
    directory: Arc<DirectoryShared>,
    key: PartitionKey,
    folder: PathBuf,
    pass: PassFlag,
    /// What the log tells by that the pass runs.
    _running: Arc<()>,
    sources: Vec<Source>,
    /// What is below is on disk.
    recovery_point: i64,
    dirtiness: Dirtiness,
    aborted: Vec<AbortedTransaction>,
    last_records: HashMap<i64, LastRecord>,
    now_ms: i64,
    delete_retention_ms: i64,
    index_interval_bytes: u32,
    segment_bytes_max: u64,
}

/// A segment that is to be replaced.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) base_offset: i64,
    pub(crate) footer: Footer,
    pub(crate) created_ms: i64,
}

/// Connects a log with its pass, or its repair: set once the log was cut, closed, or began another one.
#[derive(Clone, Default)]
pub(crate) struct PassFlag(Arc<AtomicBool>);

impl PassFlag {
    pub(crate) fn overtake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_overtaken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A pass whose segments are all swapped in.
pub struct Compacted {
    pass: PassFlag,
    until: i64,
    report: CompactionReport,
}

/// What a pass achieved.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CompactionReport {
    /// Segments that were read and replaced.
    pub segments: usize,
    /// Bytes that were read for their keys.
    pub bytes_mapped: u64,
    /// Bytes of the segments that were replaced.
    pub bytes_before: u64,
    /// Bytes of what replaced them.
    pub bytes_after: u64,
    /// Records of the segments that were replaced.
    pub records_before: u64,
    /// Records of what replaced them.
    pub records_after: u64,
    /// Records that went because they had no key.
    pub records_without_key: u64,
    /// The share of the table of keys that was used; of all the table that the memory allows.
    pub table_used: f64,
}

impl Log {
    /// Compacts at once, as long as the log is due.
    ///
    /// [`Log::compaction_plan`], [`CompactionPlan::run`] with [`Log::replace_segments`], and [`Log::complete_compaction`].
    pub fn compact(&mut self, now: Now, memory: PassMemory) -> Result<CompactionReport, LogError> {
        let Some(plan) = self.compaction_plan(now)? else {
            return Ok(CompactionReport::default());
        };
        let compacted = plan.run(memory, &mut |_| Go::On, &mut |cleaned| {
            self.replace_segments(cleaned)
        })?;
        match compacted {
            Some(compacted) => self.complete_compaction(compacted),
            None => Ok(CompactionReport::default()),
        }
    }

    /// Records below are compacted among themselves, as it is written down.
    #[must_use]
    pub fn cleaner_offset(&self) -> i64 {
        self.compacted_until
    }

    /// How much is due to be compacted. The sums are Kafka's: whole segments, the active one left out.
    #[must_use]
    pub fn dirtiness(&self, now: Now) -> Dirtiness {
        let config = &self.config;
        let bound = self.last_stable_offset().min(self.active_segment_base_offset());
        let newest_ms = now.wall_ms.saturating_sub(config.min_compaction_lag_ms);
        let oldest_ms = now.wall_ms.saturating_sub(config.max_compaction_lag_ms);
        let mut dirtiness = Dirtiness {
            first_dirty_offset: self.compacted_until.max(self.log_start_offset),
            first_uncleanable_offset: self.log_start_offset,
            clean_bytes: 0,
            dirty_bytes: 0,
            delay_ms: 0,
            ratio_min: config.min_cleanable_dirty_ratio,
        };
        for segment in self.segments.values() {
            if segment.footer.next_offset > bound || segment.base_offset >= bound {
                break;
            }
            let is_dirty = segment.footer.next_offset > dirtiness.first_dirty_offset;
            if is_dirty && config.min_compaction_lag_ms > 0 && segment.largest_timestamp_ms() > newest_ms {
                break;
            }
            let size_bytes = segment.footer.size_bytes;
            dirtiness.first_uncleanable_offset = segment.footer.next_offset;
            if !is_dirty {
                dirtiness.clean_bytes += size_bytes;
                continue;
            }
            dirtiness.dirty_bytes += size_bytes;
            // KIP-354: the first record of a segment tells its age.
            let first_ms = segment.footer.first_timestamp;
            if first_ms > 0 {
                dirtiness.delay_ms = dirtiness.delay_ms.max(oldest_ms.saturating_sub(first_ms));
            }
        }
        dirtiness
    }

    /// Whether a pass is under way that reads the log's segments.
    pub(crate) fn is_being_compacted(&self) -> bool {
        self.running_pass.strong_count() > 0 && !self.pass.is_overtaken()
    }

    /// Ends the pass that is under way, if one is; what it has swapped in stays.
    pub fn stop_compaction(&mut self) {
        self.pass.overtake();
    }

    /// Plans a pass, which voids the one before; None if the policy or [`Dirtiness::is_due`] says that there is nothing to do.
    ///
    /// # Errors
    /// The log is closed, or a segment is known to be damaged: a pass would write it anew, as if it was right, or be in the way
    /// of the repair.
    pub fn compaction_plan(&mut self, now: Now) -> Result<Option<CompactionPlan>, LogError> {
        self.check_open()?;
        let dirtiness = self.dirtiness(now);
        if !self.config.cleanup_policy.compact || !dirtiness.is_due() {
            return Ok(None);
        }
        let mut segments = self.segments.iter();
        if let Some((base, damage)) =
            segments.find_map(|(base, segment)| Some((base, segment.damage.as_ref()?)))
        {
            return Err(LogError::Corrupt {
                path: segment_path(&self.folder, *base),
                position: damage.positions.start,
                detail: damage.detail.clone(),
            });
        }
        self.flush_owed()?;
        let sources = self.segments.range(..dirtiness.first_uncleanable_offset);
        let sources: Vec<_> = sources.map(|(_, segment)| Source::of(segment)).collect();
        self.pass.overtake();
        self.pass = PassFlag::default();
        let running = Arc::new(());
        self.running_pass = Arc::downgrade(&running);
        Ok(Some(CompactionPlan {
            directory: self.directory.clone(),
            key: self.key,
            folder: self.folder.clone(),
            pass: self.pass.clone(),
            _running: running,
            sources,
            recovery_point: self.recovery_point(),
            dirtiness,
            aborted: self.aborted.entries().to_vec(),
            last_records: self.producers.last_records().collect(),
            now_ms: now.wall_ms,
            delete_retention_ms: self.config.delete_retention_ms,
            index_interval_bytes: self.config.index_interval_bytes,
            segment_bytes_max: self.config.segment_bytes.min(SEGMENT_SIZE_BYTES_MAX),
        }))
    }

    /// Takes note of a pass whose segments are all swapped in; one that was overtaken counts for nothing.
    pub fn complete_compaction(&mut self, compacted: Compacted) -> Result<CompactionReport, LogError> {
        if !self.is_current(&compacted.pass) {
            return Ok(CompactionReport::default());
        }
        self.set_compacted_until(compacted.until)?;
        let report = compacted.report;
        info!(self.logger, "log compacted"; "until" => compacted.until, "segments" => report.segments,
            "bytes_before" => report.bytes_before, "bytes_after" => report.bytes_after,
            "records_before" => report.records_before, "records_after" => report.records_after);
        Ok(report)
    }

    /// Moves the cleaner offset and writes it down.
    pub(crate) fn set_compacted_until(&mut self, offset: i64) -> Result<(), LogError> {
        let key = self.key.key(Kind::CleanerOffset, &[]);
        self.directory
            .store
            .put(key, offset.to_be_bytes(), Survive::Kill)?;
        self.compacted_until = offset;
        Ok(())
    }

    fn is_current(&self, pass: &PassFlag) -> bool {
        !self.closed && !pass.is_overtaken() && Arc::ptr_eq(&self.pass.0, &pass.0)
    }
}

impl Source {
    pub(crate) fn of(segment: &Segment) -> Self {
        Self {
            base_offset: segment.base_offset,
            footer: segment.footer,
            created_ms: segment.created_ms,
        }
    }
}

/// Neighbours that fit one segment are merged, so that their number stays bounded too.
fn group(sources: &[Source], size_bytes_max: u64) -> Vec<&[Source]> {
    let mut groups = Vec::new();
    let mut begin = 0;
    let mut size_bytes = 0;
    for (at, source) in sources.iter().enumerate() {
        let footer = source.footer;
        let fits = size_bytes + footer.size_bytes <= size_bytes_max
            && footer.next_offset - sources[begin].base_offset <= i64::from(i32::MAX);
        if at > begin && !fits {
            groups.push(&sources[begin..at]);
            begin = at;
            size_bytes = 0;
        }
        size_bytes += footer.size_bytes;
    }
    if begin < sources.len() {
        groups.push(&sources[begin..]);
    }
    groups
}
