//! Opening a log: from the index alone after a clean stop, else by reading everything above the recovery point.
//!
//! What lies below the recovery point is believed if the file sizes agree; what lies above is read batch by batch with
//! its checksum. The first bad batch ends the log: the rest of its file and every later segment are removed, and the
//! report says how much that was. A log that the index does not know is read from its first byte.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::UNIX_EPOCH;

use odradek_broker_core::aborted::{AbortedTransaction, AbortedTransactions};
use odradek_broker_core::leader_epochs::LeaderEpochs;
use odradek_broker_core::producer_state::ProducerStates;
use odradek_common::records::batch::BatchHeader;
use odradek_common::records::control::EndTransactionMarker;
use odradek_common::time::Now;
use rustix::fs::Advice;
use slog::{info, warn};

use crate::append::marker_of;
use crate::checkpoint::{Persistence, State};
use crate::compact::PassFlag;
use crate::compact::swap::finish_swaps;
use crate::config::LogConfig;
use crate::directory::DirectoryShared;
use crate::error::LogError;
use crate::index::Place;
use crate::log::{Log, PartitionIdentity};
use crate::read::RecentBatches;
use crate::scan::{RECOVERY_WINDOW_BYTES, Scan, ScanError};
use crate::scrub::Damage;
use crate::segment::{Footer, Segment, base_offset_of, segment_path};
use crate::store::{Batch, Kind, PartitionKey, Persisted, Survive, Visit, decode_i64};
use crate::{pages, reserve};

/// What recovery did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Bytes that were read and checked.
    pub scanned_bytes: u64,
    /// Bytes removed from the end of a segment, from its first bad batch on.
    pub truncated_bytes: u64,
    /// Zeros removed from behind the last batch: what was written ahead (`pages.rs`), unless the power failed before the disk had
    /// records in their place.
    pub zero_bytes: u64,
    /// Later segments that were removed with it.
    pub removed_segments: usize,
    /// Bytes of those segments.
    pub removed_bytes: u64,
    /// What was wrong with the first bad batch.
    pub reason: Option<String>,
    /// Whether the index knew nothing of the log and was rebuilt.
    pub index_rebuilt: bool,
    /// Where the log ends now.
    pub log_end_offset: i64,
}

/// Where a log is opened.
pub(crate) enum Folder {
    /// Here, where its folder is.
    Made(PathBuf),
    /// Here, where there is nothing yet.
    Absent(PathBuf),
}

/// Opens the log of a partition; one whose folder is absent is empty and stays nothing on disk.
pub(crate) fn open_log(
    directory: Arc<DirectoryShared>,
    identity: PartitionIdentity,
    folder: Folder,
    config: LogConfig,
    now: Now,
) -> Result<Log, LogError> {
    let key = PartitionKey::new(identity.topic_id, identity.partition);
    let (folder, made, persisted, cleaner_offset) = match folder {
        Folder::Made(path) => {
            let persisted = load(&directory, &key, &path)?;
            let cleaner_offset = directory.store.get(&key.key(Kind::CleanerOffset, &[]))?;
            (path, true, persisted, cleaner_offset)
        }
        Folder::Absent(path) => (path, false, Persisted::default(), None),
    };
    let state = persisted.state.as_deref().and_then(State::decode);
    let files = match &state {
        _ if !made => Vec::new(),
        Some(state) if directory.believes_index() => known_files(&persisted, state),
        Some(_) | None => segment_files(&directory, &folder)?,
    };
    let logger = directory
        .logger
        .new(slog::o!("partition" => identity.to_string()));
    let epochs = persisted
        .leader_epochs
        .as_deref()
        .and_then(LeaderEpochs::decode)
        .unwrap_or_default();
    let log = Log {
        uid: directory.next_uid(),
        producers: ProducerStates::new(directory.options.producers_max),
        aborted: aborted(&persisted),
        persistence: Persistence {
            // Which names the disk has, only a clean stop tells: it has them all.
            names: u64::from(made && (state.is_none() || !directory.believes_index())),
            ..Persistence::of(state.as_ref(), persisted.high_watermark, now)
        },
        directory,
        identity,
        key,
        folder,
        config,
        logger,
        segments: BTreeMap::new(),
        log_start_offset: 0,
        log_end_offset: 0,
        high_watermark: 0,
        epochs,
        epochs_dirty: false,
        recent: RecentBatches::default(),
        compacted_until: cleaner_offset.map_or(0, |bytes| decode_i64(&bytes)),
        pass: PassFlag::default(),
        running_pass: Weak::new(),
        recovery: None,
        made,
        is_future: false,
        is_registered: false,
        closed: false,
    };
    Opening {
        log,
        state,
        report: RecoveryReport::default(),
        scanned: false,
        now,
    }
    .run(&persisted, &files)
}

/// What the index knows of a log, once no swap of it is unfinished. A clean stop leaves none, but a folder that the index does
/// not know may have come since: one that was stray and has its old name back.
fn load(directory: &DirectoryShared, key: &PartitionKey, folder: &Path) -> Result<Persisted, LogError> {
    if directory.believes_index() {
        let persisted = directory.store.load(key)?;
        if persisted.state.is_some() {
            return Ok(persisted);
        }
    }
    finish_swaps(directory, key, folder)?;
    directory.store.load(key)
}

fn aborted(persisted: &Persisted) -> AbortedTransactions {
    let mut aborted = AbortedTransactions::new();
    for entry in persisted
        .aborted
        .iter()
        .filter_map(|bytes| AbortedTransaction::decode(bytes))
    {
        aborted.push(entry);
    }
    aborted
}

/// The segment files as a clean stop left them, without a look at any: nobody has written since.
fn known_files(persisted: &Persisted, state: &State) -> Vec<(i64, u64)> {
    let sealed = persisted.footers.iter();
    let mut files: Vec<_> = sealed.map(|(base, footer)| (*base, footer.size_bytes)).collect();
    if state.active_base_offset >= 0 {
        files.retain(|(base, _)| *base < state.active_base_offset);
        files.push((state.active_base_offset, state.footer.size_bytes));
    }
    files
}

/// Base offsets and sizes of the segment files, ascending. Files that a crash left half-way are removed.
fn segment_files(directory: &DirectoryShared, folder: &Path) -> Result<Vec<(i64, u64)>, LogError> {
    let failed =
        |source: io::Error| LogError::io(&directory.path, format!("list {}", folder.display()), source);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some(base_offset) = base_offset_of(&name) {
            files.push((base_offset, entry.metadata().map_err(failed)?.len()));
        } else if name.ends_with(".deleted") {
            directory.doom(entry.path(), 0);
        } else if name.ends_with(".cleaned") {
            // At once: left to a purge, it might go when it is somebody's again.
            let path = entry.path();
            fs::remove_file(&path).map_err(|source| {
                LogError::io(&directory.path, format!("remove {}", path.display()), source)
            })?;
        }
    }
    files.sort_unstable();
    Ok(files)
}

struct Opening {
    log: Log,
    state: Option<State>,
    report: RecoveryReport,
    scanned: bool,
    now: Now,
}

impl Opening {
    fn run(mut self, persisted: &Persisted, files: &[(i64, u64)]) -> Result<Log, LogError> {
        self.report.index_rebuilt = self.state.is_none() && !files.is_empty();
        self.load_segments(persisted, files)?;
        for (base_offset, damage) in &persisted.damage {
            if let Some(segment) = self.known_segment(*base_offset) {
                segment.damage = Damage::decode(damage);
            }
        }
        self.note_missing();
        self.set_bounds(persisted)?;
        if self.log.made && !self.log.directory.believes_index() {
            self.forget_unsafe(persisted)?;
        }
        self.check_cleaner_offset()?;
        self.load_producers()?;
        if self.scanned {
            self.finish_recovery()?;
        }
        Ok(self.log)
    }

    fn load_segments(&mut self, persisted: &Persisted, files: &[(i64, u64)]) -> Result<(), LogError> {
        for (index, &(base_offset, size_bytes)) in files.iter().enumerate() {
            let known = self.known_footer(persisted, base_offset, size_bytes);
            if let Some(footer) = known.filter(|footer| footer.size_bytes == size_bytes) {
                let created_ms = self.created_ms(base_offset, footer);
                let segment = Segment::new(base_offset, footer, created_ms);
                self.log.segments.insert(base_offset, segment);
                continue;
            }
            let resume = known.filter(|footer| footer.size_bytes < size_bytes);
            let next_base = files.get(index + 1).map(|(base_offset, _)| *base_offset);
            if self.scan_segment(base_offset, size_bytes, resume, next_base)? == Verdict::Bad {
                self.remove_segments(&files[index + 1..])?;
                break;
            }
        }
        Ok(())
    }

    /// When a segment was created, as far as it matters: one whose records have timestamps is as old as they say. One without is
    /// as old as its file, or it would be new with each start, and hold up the retention of all behind it.
    fn created_ms(&self, base_offset: i64, footer: Footer) -> i64 {
        let now_ms = self.now.wall_ms;
        let is_active_and_empty = self
            .state
            .is_some_and(|state| base_offset == state.active_base_offset && state.footer.size_bytes == 0);
        if footer.max_timestamp >= 0 || is_active_and_empty {
            return now_ms;
        }
        let metadata = fs::metadata(segment_path(&self.log.folder, base_offset));
        let modified = metadata.and_then(|metadata| metadata.modified()).ok();
        let modified = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        modified
            .and_then(|since| i64::try_from(since.as_millis()).ok())
            .map_or(now_ms, |modified_ms| modified_ms.min(now_ms))
    }

    /// What is certain about a segment without reading it: all of it, or the part below the recovery point.
    fn known_footer(&self, persisted: &Persisted, base_offset: i64, size_bytes: u64) -> Option<Footer> {
        let state = self.state?;
        if base_offset == state.active_base_offset {
            return Some(state.footer);
        }
        if base_offset > state.active_base_offset {
            // An empty file needs no reading.
            return (size_bytes == 0).then(|| Footer::empty(base_offset));
        }
        let index = persisted
            .footers
            .binary_search_by_key(&base_offset, |(base, _)| *base)
            .ok()?;
        let footer = persisted.footers[index].1;
        (footer.size_bytes == size_bytes).then_some(footer)
    }

    /// A segment that was sealed when the recovery point was written down, or any after a clean stop.
    fn known_segment(&mut self, base_offset: i64) -> Option<&mut Segment> {
        let border = self.state.map_or(0, |state| state.active_base_offset);
        let is_known = self.log.directory.believes_index() || base_offset < border;
        self.log.segments.get_mut(&base_offset).filter(|_| is_known)
    }

    /// Makes the index forget what it knows above the recovery point. What was written down below is what the log held; what comes
    /// later may be of records that were cut off again before the process ended, which the files know and the index does not.
    fn forget_unsafe(&mut self, persisted: &Persisted) -> Result<(), LogError> {
        let mut batch = Batch::default();
        for (base_offset, _) in &persisted.footers {
            if !self.log.segments.contains_key(base_offset) {
                self.log.forget_segment(*base_offset, &mut batch);
            }
        }
        for (base_offset, _) in &persisted.damage {
            if self.known_segment(*base_offset).is_none() {
                batch.delete(self.log.key.damage(*base_offset));
            }
        }
        let border = self.state.map_or(0, |state| state.active_base_offset);
        let log = &mut self.log;
        let (store, key) = (&log.directory.store, &log.key);
        // Looked for one by one: hardly ever is there any, and each log of the directory is opened like this.
        let above = log.persistence.recovery_point + 1;
        store.scan(key, Kind::ProducerSnapshot, &[], above, |offset, _| {
            batch.delete(key.key(Kind::ProducerSnapshot, &[offset]));
            Visit::Continue
        })?;
        let behind = log.segments.last_key_value().map_or(0, |(base, _)| base + 1);
        let mut has_chunks = false;
        store.scan(key, Kind::IndexChunk, &[], behind, |_, _| {
            has_chunks = true;
            Visit::Stop
        })?;
        if has_chunks {
            batch.delete_range(key, Kind::IndexChunk, &[behind], None);
        }
        if let Some(segment) = log.segments.get_mut(&border) {
            // One that was read has done this.
            let place = Place {
                store,
                partition: key,
                base_offset: border,
            };
            segment
                .index
                .forget_behind(&place, segment.footer.size_bytes, &mut batch)?;
        }
        store.write(batch, Survive::Nothing)
    }

    /// Reads a segment from `resume` or its beginning, to its end or first bad batch, which is cut off. The zeros that were written
    /// ahead of its batches are cut off too, and are nothing bad if the next segment goes on where they begin.
    fn scan_segment(
        &mut self,
        base_offset: i64,
        size_bytes: u64,
        resume: Option<Footer>,
        next_base: Option<i64>,
    ) -> Result<Verdict, LogError> {
        if !self.scanned {
            self.scanned = true;
            // Epochs above the recovery point are found again in the batches.
            let from = resume.map_or(base_offset, |footer| footer.next_offset);
            self.log
                .epochs
                .truncate_from_end(from.max(self.log.persistence.recovery_point));
        }
        let path = segment_path(&self.log.folder, base_offset);
        let directory = self.log.directory.clone();
        let failed = |source| LogError::io(&directory.path, format!("recover {}", path.display()), source);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        // Only advice: a file system that cannot take it is no error.
        _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        let start = resume.unwrap_or_else(|| Footer::empty(base_offset));
        let mut segment = Segment::new(base_offset, start, self.created_ms(base_offset, start));
        let mut index = Batch::default();
        segment
            .index
            .truncate(&self.log.place(base_offset), start.size_bytes, &mut index)?;
        self.log.directory.store.write(index, Survive::Nothing)?;

        let mut scan = Scan::new(&file, start.size_bytes, size_bytes, RECOVERY_WINDOW_BYTES);
        let bad = loop {
            match scan.batch() {
                Ok(None) => break None,
                Ok(Some((_, header, _))) => {
                    if header.base_offset < segment.footer.next_offset
                        || !segment.can_index(header.last_offset())
                    {
                        break Some(format!("offset {} is out of order", header.base_offset));
                    }
                    self.log.note_epoch(&header);
                    segment.note(&header, self.log.config.index_interval_bytes);
                }
                Err(ScanError::Bad(reason)) => break Some(reason),
                Err(ScanError::Io(source)) => return Err(failed(source)),
            }
        };
        let (good_bytes, next_offset) = (segment.footer.size_bytes, segment.footer.next_offset);
        self.report.scanned_bytes += good_bytes - start.size_bytes;
        self.log.segments.insert(base_offset, segment);
        let Some(reason) = bad else {
            reserve::give_back_unknown(&file, good_bytes);
            return Ok(Verdict::Good);
        };
        let goes_on = next_base.is_none_or(|next_base| next_base == next_offset);
        let are_ahead = goes_on && pages::are_ahead(&file, good_bytes, size_bytes).map_err(failed)?;
        file.set_len(good_bytes).map_err(failed)?;
        if are_ahead {
            self.report.zero_bytes = size_bytes - good_bytes;
            return Ok(Verdict::Good);
        }
        self.report.truncated_bytes = size_bytes - good_bytes;
        self.report.reason = Some(format!("{} at byte {good_bytes}: {reason}", path.display()));
        Ok(Verdict::Bad)
    }

    fn remove_segments(&mut self, files: &[(i64, u64)]) -> Result<(), LogError> {
        let mut batch = Batch::default();
        // The last one first: a crash must not leave a gap.
        for &(base_offset, size_bytes) in files.iter().rev() {
            let path = segment_path(&self.log.folder, base_offset);
            fs::remove_file(&path).map_err(|source| {
                LogError::io(
                    &self.log.directory.path,
                    format!("remove {}", path.display()),
                    source,
                )
            })?;
            self.log.forget_segment(base_offset, &mut batch);
            self.log.persistence.note_names_changed();
            self.report.removed_segments += 1;
            self.report.removed_bytes += size_bytes;
        }
        self.log.directory.store.write(batch, Survive::Nothing)
    }

    /// The segment at the recovery point is never removed before a later one exists: if it is gone, records are lost.
    fn note_missing(&mut self) {
        let Some(state) = self.state.filter(|state| state.footer.size_bytes > 0) else {
            return;
        };
        if self.log.active_segment_base_offset() >= state.active_base_offset && !self.log.segments.is_empty()
        {
            return;
        }
        self.scanned = true;
        let path = segment_path(&self.log.folder, state.active_base_offset);
        self.report
            .reason
            .get_or_insert_with(|| format!("{} is missing", path.display()));
        self.report.removed_bytes += state.footer.size_bytes;
    }

    fn set_bounds(&mut self, persisted: &Persisted) -> Result<(), LogError> {
        let now = self.now;
        let log = &mut self.log;
        let recovery_point = self.state.map_or(0, |state| state.recovery_point);
        let first = log.segments.first_key_value().map(|(base, _)| *base);
        log.log_start_offset = persisted.log_start_offset.unwrap_or(0).max(first.unwrap_or(0));
        log.log_end_offset = match log.segments.last_key_value() {
            // The log may end above its last batch, where truncation cut into a gap that compaction left.
            Some(_) if !self.scanned => {
                let end = log
                    .segments
                    .values()
                    .map(|segment| segment.footer.next_offset)
                    .max()
                    .unwrap_or(0);
                end.max(recovery_point)
            }
            Some((_, last)) => last.footer.next_offset,
            None if self.scanned => log.log_start_offset,
            None => recovery_point.max(log.log_start_offset),
        };
        if log.log_end_offset < log.log_start_offset {
            for (base_offset, _) in std::mem::take(&mut log.segments) {
                log.discard_segment_file(base_offset)?;
            }
            log.log_end_offset = log.log_start_offset;
            log.create_segment(now.wall_ms, log.log_end_offset)?;
        }
        log.persistence.recovery_point = log.persistence.recovery_point.min(log.log_end_offset);
        let high_watermark = persisted.high_watermark.unwrap_or(log.log_start_offset);
        log.high_watermark = high_watermark.clamp(log.log_start_offset, log.log_end_offset);
        // An epoch without records begins at the end at most: one above was cut off, and the index lost that.
        let beyond_end = log.log_end_offset + i64::from(!self.scanned);
        log.epochs.truncate_from_end(beyond_end);
        log.epochs.truncate_from_start(log.log_start_offset);
        Ok(())
    }

    /// A log that ends below the cleaner offset was cut without it: what it has grown to since is not compacted.
    fn check_cleaner_offset(&mut self) -> Result<(), LogError> {
        let log = &mut self.log;
        if log.compacted_until <= log.log_end_offset {
            return Ok(());
        }
        warn!(log.logger, "the cleaner offset lies above the log's end: the whole log is compacted anew";
            "cleaner_offset" => log.compacted_until, "log_end_offset" => log.log_end_offset,
            "log_start_offset" => log.log_start_offset);
        log.set_compacted_until(log.log_start_offset)
    }

    fn load_producers(&mut self) -> Result<(), LogError> {
        let log = &mut self.log;
        match self.state {
            Some(state) if !self.scanned && !state.has_producers => {
                // Nothing stands above the recovery point, but the index may still tell of what was cut off there.
                log.forget_aborted(state.recovery_point.min(log.log_end_offset))
            }
            Some(state) if state.recovery_point <= log.log_end_offset && !state.has_producers => {
                log.replay_producers(Some((state.recovery_point, None)))
            }
            Some(_) => log.reload_producers(),
            None => log.replay_producers(None),
        }
    }

    fn finish_recovery(&mut self) -> Result<(), LogError> {
        let log = &mut self.log;
        let flushed = self
            .state
            .map(|state| (state.active_base_offset, state.footer.size_bytes));
        let mut batch = Batch::default();
        let active = log.active_segment_base_offset();
        for segment in log.segments.values_mut() {
            match flushed {
                Some((base, size_bytes)) if segment.base_offset == base => {
                    segment.flushed_bytes = size_bytes.min(segment.footer.size_bytes);
                }
                Some((base, _)) if segment.base_offset < base => {}
                Some(_) | None => segment.flushed_bytes = 0,
            }
            if segment.base_offset != active {
                segment.index.spill(&log.key, segment.base_offset, &mut batch);
                segment.index.seal();
                batch.put(
                    log.key.key(Kind::Footer, &[segment.base_offset]),
                    segment.footer.encode(),
                );
            }
        }
        log.directory.store.write(batch, Survive::Nothing)?;
        log.persist_epochs(Survive::Kill)?;
        self.report.log_end_offset = log.log_end_offset;
        log.persistence.appended_bytes = self.report.scanned_bytes;
        let report = &self.report;
        match &report.reason {
            Some(reason) => warn!(log.logger, "log was cut at its first bad batch";
                "reason" => reason, "truncated_bytes" => report.truncated_bytes,
                "removed_segments" => report.removed_segments, "removed_bytes" => report.removed_bytes,
                "log_end_offset" => report.log_end_offset),
            None => {
                info!(log.logger, "log recovered"; "scanned_bytes" => report.scanned_bytes,
                    "zero_bytes" => report.zero_bytes, "log_end_offset" => report.log_end_offset,
                    "index_rebuilt" => report.index_rebuilt);
            }
        }
        log.recovery = Some(std::mem::take(&mut self.report));
        // What was read may be in the kernel's memory alone, and a reader takes what is there for acknowledged.
        if log.config.flush_messages < i64::MAX {
            log.flush()?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad,
}

impl Log {
    /// Rebuilds producers and aborted transactions from the last snapshot at or below the log end, all of which have to be true.
    pub(crate) fn reload_producers(&mut self) -> Result<(), LogError> {
        let store = &self.directory.store;
        let snapshot = store.floor(&self.key, Kind::ProducerSnapshot, &[], self.log_end_offset)?;
        self.replay_producers(snapshot.map(|(offset, bytes)| (offset, Some(bytes))))
    }

    /// Rebuilds producers from a snapshot (offset, and its bytes unless it is empty) or the log start. The borders of segments
    /// that are passed get their snapshots again.
    fn replay_producers(&mut self, snapshot: Option<(i64, Option<Vec<u8>>)>) -> Result<(), LogError> {
        let producers_max = self.directory.options.producers_max;
        let (from, producers) = match snapshot {
            Some((offset, None)) => (offset, Some(ProducerStates::new(producers_max))),
            Some((offset, Some(bytes))) => (offset, ProducerStates::decode(&bytes, producers_max)),
            None => (self.log_start_offset, None),
        };
        // An unreadable snapshot is as good as none.
        let from = if producers.is_some() {
            from
        } else {
            self.log_start_offset
        };
        self.producers = producers.unwrap_or_else(|| ProducerStates::new(producers_max));
        self.forget_aborted(from)?;
        let first = self
            .segments
            .range(..=from)
            .next_back()
            .map_or(from, |(base, _)| *base);
        let bases: Vec<i64> = self.segments.range(first..).map(|(base, _)| *base).collect();
        let mut snapshots = Batch::default();
        for base in bases {
            if base > from {
                let key = self.key.key(Kind::ProducerSnapshot, &[base]);
                snapshots.put(key, self.producers.encode());
            }
            self.replay_segment(base, from)?;
        }
        self.directory.store.write(snapshots, Survive::Nothing)?;
        self.producers.on_high_watermark(self.high_watermark);
        Ok(())
    }

    /// Forgets the transactions whose abort marker is at or after `from`, here and in the index.
    fn forget_aborted(&mut self, from: i64) -> Result<(), LogError> {
        let has_later = !self.aborted.truncate_from_end(from).is_empty();
        // Of a log without a checkpoint the index may tell what nobody here knows of. One that is nothing on disk yet is forgotten
        // whole when its folder is made.
        let is_unsure = self.made && self.persistence.checkpointed.is_none();
        if has_later || self.persistence.aborted_until > from || is_unsure {
            let mut batch = Batch::default();
            batch.delete_range(&self.key, Kind::Aborted, &[from], None);
            self.directory.store.write(batch, Survive::Nothing)?;
            self.persistence.aborted_until = self.persistence.aborted_until.min(from);
        }
        Ok(())
    }

    /// Notes the batches of a segment that have a producer id, from `from` on. One after the other: a segment may have millions.
    fn replay_segment(&mut self, base: i64, from: i64) -> Result<(), LogError> {
        let segment = &self.segments[&base];
        let Some(start) = self.locate(segment, from)? else {
            return Ok(());
        };
        let (file, size_bytes) = (self.file_of(segment)?, segment.footer.size_bytes);
        let path = segment_path(&self.folder, base);
        // In large pieces: after a kill this may be much of what was written last.
        let mut scan = Scan::new(&file, start, size_bytes, RECOVERY_WINDOW_BYTES);
        loop {
            match scan.header() {
                Ok(Some((position, header))) if header.has_producer_id() => {
                    let marker = if header.is_control() {
                        self.marker_at(&file, base, position, &header)?
                    } else {
                        None
                    };
                    self.note_producer(&header, marker);
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) => {
                    return Err(error.into_log_error(&self.directory.path, &path, scan.position()));
                }
            }
        }
    }

    /// The marker in a control batch; None if it holds none.
    fn marker_at(
        &self,
        file: &File,
        base: i64,
        position: u64,
        header: &BatchHeader,
    ) -> Result<Option<EndTransactionMarker>, LogError> {
        let mut batch = vec![0; header.size_bytes()];
        file.read_exact_at(&mut batch, position).map_err(|source| {
            LogError::io(
                &self.directory.path,
                format!("read segment {base} of {}", self.identity),
                source,
            )
        })?;
        Ok(marker_of(&batch).ok().flatten())
    }
}
