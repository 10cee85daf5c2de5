//! A pass: the keys of the dirty part, then the segments from the first to the end of that part, written anew.

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use odradek_broker_core::compaction::offset_map::OffsetMap;
use odradek_broker_core::compaction::{BatchCleaner, KeyReader, Left, Rules};
use odradek_common::records::batch::BatchHeader;
use rustix::fs::Advice;

use super::swap::{AbortedChange, CleanedSegments};
use super::{Compacted, CompactionPlan, CompactionReport, Go, PassMemory, Source, group};
use crate::error::LogError;
use crate::flush::sync_folder;
use crate::scan::{FoundBatch, Scan};
use crate::segment::segment_path;

/// Why a pass ended early.
pub(super) enum Interrupted {
    /// The caller wants it, or the log was cut or closed.
    Stopped,
    Failed(LogError),
}

impl From<LogError> for Interrupted {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

/// Asked after so many bytes were read or written; may sleep.
type Pace<'a> = &'a mut dyn FnMut(u64) -> Go;
/// Puts a segment in place under the partition's lock; false if the pass was overtaken.
type Swap<'a> = &'a mut dyn FnMut(CleanedSegments) -> Result<bool, LogError>;

impl CompactionPlan {
    /// Runs the pass. Blocks; call it without the partition's lock.
    ///
    /// `pace` hears of bytes read and written, about once per buffer, and says whether to go on; `swap` takes the lock and
    /// calls [`crate::log::Log::replace_segments`]. None if the pass ended early: what was swapped in stays, the cleaner
    /// offset does not move.
    ///
    /// # Errors
    /// A segment is corrupt, or the log directory failed. What was swapped in stays.
    pub fn run(
        self,
        memory: PassMemory,
        pace: Pace<'_>,
        swap: Swap<'_>,
    ) -> Result<Option<Compacted>, LogError> {
        let mut pass = Pass {
            plan: &self,
            memory,
            pace,
            unpaced_bytes: 0,
            report: CompactionReport::default(),
        };
        let until = match pass.run(swap) {
            Ok(until) => until,
            Err(Interrupted::Stopped) => return Ok(None),
            Err(Interrupted::Failed(_)) if self.pass.is_overtaken() => return Ok(None),
            Err(Interrupted::Failed(error)) => return Err(error),
        };
        let report = pass.report;
        Ok(Some(Compacted {
            pass: self.pass.clone(),
            until,
            report,
        }))
    }
}

struct Pass<'a> {
    plan: &'a CompactionPlan,
    memory: PassMemory,
    pace: Pace<'a>,
    unpaced_bytes: u64,
    report: CompactionReport,
}

impl Pass<'_> {
    fn run(&mut self, swap: Swap<'_>) -> Result<i64, Interrupted> {
        let plan = self.plan;
        let (keys, until) = self.map_keys()?;
        self.report.table_used = keys.len() as f64 / self.memory.slots().max(1) as f64;
        let rules = Rules {
            mapped_until: until,
            upper_bound: plan.dirtiness.first_uncleanable_offset,
            now_ms: plan.now_ms,
            delete_retention_ms: plan.delete_retention_ms,
        };
        let mut cleaner = BatchCleaner::new(&keys, rules, &plan.aborted, plan.last_records.clone());
        let end = plan.sources.partition_point(|source| source.base_offset < until);
        self.sync_newest(&plan.sources[..end])?;
        for sources in group(&plan.sources[..end], plan.segment_bytes_max) {
            let mut cleaned = self.clean(sources, &mut cleaner)?;
            self.report.segments += sources.len();
            self.report.bytes_before += sources.iter().map(|source| source.footer.size_bytes).sum::<u64>();
            self.report.bytes_after += cleaned.size_bytes();
            // With the note and without the file, the next start would take the swap for done.
            self.sync_folder()?;
            cleaned.announce()?;
            if !swap(cleaned)? {
                return Err(Interrupted::Stopped);
            }
            // The next group may leave out tombstones of what went with this one.
            self.sync_folder()?;
        }
        let tally = cleaner.tally();
        self.report.records_before = tally.records_read;
        self.report.records_after = tally.records_kept;
        self.report.records_without_key = tally.records_without_key;
        Ok(until)
    }

    /// The last offset of every key in the dirty part, and how far the table reaches.
    fn map_keys(&mut self) -> Result<(OffsetMap, i64), Interrupted> {
        let plan = self.plan;
        let (from, upper_bound) = (
            plan.dirtiness.first_dirty_offset,
            plan.dirtiness.first_uncleanable_offset,
        );
        let records = usize::try_from(upper_bound - from).unwrap_or(0);
        let load_factor = self.memory.load_factor;
        let slots = OffsetMap::slots_for(records, load_factor).min(self.memory.slots());
        let mut keys = OffsetMap::new(slots, load_factor);
        let mut reader = KeyReader::new(from, &plan.aborted);
        for source in plan.sources.iter().filter(|it| it.footer.next_offset > from) {
            let file = self.open(source)?;
            let mut scan = self.scan(&file, source);
            while let Some((position, header, batch)) = self.next(&mut scan, source)? {
                let full_at = reader
                    .read(&header, batch, &mut keys)
                    .map_err(|error| self.corrupt(source, position, &error))?;
                let size_bytes = header.size_bytes() as u64;
                self.report.bytes_mapped += size_bytes;
                if let Some(offset) = full_at {
                    return Ok((keys, offset));
                }
                self.moved(size_bytes)?;
            }
        }
        Ok((keys, upper_bound))
    }

    /// Brings to disk what is newer than the recovery point. Older records go for its sake: a machine that loses its power after
    /// the first swap would have neither.
    fn sync_newest(&self, sources: &[Source]) -> Result<(), LogError> {
        let is_newer = |source: &&Source| source.footer.next_offset > self.plan.recovery_point;
        for source in sources.iter().filter(is_newer) {
            let file = self.open(source)?;
            let synced = self.plan.directory.options.disk.sync_data(&file);
            let path = segment_path(&self.plan.folder, source.base_offset);
            synced.map_err(|error| self.failed("flush", &path, error))?;
        }
        Ok(())
    }

    /// Writes what stays of a group of segments into one new file.
    fn clean(
        &mut self,
        sources: &[Source],
        cleaner: &mut BatchCleaner<'_>,
    ) -> Result<CleanedSegments, Interrupted> {
        let (first, last) = (sources[0], sources[sources.len() - 1]);
        let plan = self.plan;
        let mut cleaned = CleanedSegments::new(
            (plan.directory.clone(), plan.key),
            plan.folder.clone(),
            plan.pass.clone(),
            sources,
            last.footer.next_offset,
        );
        let mut output = Output {
            file: cleaned.begin_segment(first.base_offset)?,
            buffer: Vec::with_capacity(self.memory.io_bytes),
            cleaned,
        };
        for source in sources {
            self.clean_source(source, cleaner, &mut output)?;
        }
        self.write_out(&mut output)?;
        let Output {
            file, mut cleaned, ..
        } = output;
        // Records without timestamps are as old as the file. A file system that does not take it is no error: they live longer.
        _ = file
            .set_modified(UNIX_EPOCH + Duration::from_millis(u64::try_from(last.created_ms).unwrap_or(0)));
        file.sync_all()
            .map_err(|source| self.failed("flush", &cleaned.path(), source))?;
        cleaned.aborted = AbortedChange::Forget(cleaner.take_forgotten());
        cleaned.complete();
        Ok(cleaned)
    }

    fn clean_source(
        &mut self,
        source: &Source,
        cleaner: &mut BatchCleaner<'_>,
        output: &mut Output,
    ) -> Result<(), Interrupted> {
        let file = self.open(source)?;
        let mut scan = self.scan(&file, source);
        while let Some((position, header, batch)) = self.next(&mut scan, source)? {
            let start = output.buffer.len();
            let left = cleaner
                .clean(&header, batch, &mut output.buffer)
                .map_err(|error| self.corrupt(source, position, &error))?;
            let interval_bytes = self.plan.index_interval_bytes;
            match left {
                Left::Nothing => {}
                Left::Whole => {
                    output.buffer.extend_from_slice(batch);
                    output.cleaned.segment().note(&header, interval_bytes);
                }
                Left::Rewritten => {
                    let header =
                        BatchHeader::parse(&output.buffer[start..]).expect("a batch was written there");
                    output.cleaned.segment().note(&header, interval_bytes);
                }
            }
            self.moved(header.size_bytes() as u64)?;
            if output.buffer.len() >= self.memory.io_bytes {
                self.write_out(output)?;
            }
        }
        Ok(())
    }

    /// The reserve is not for what may be done later.
    fn write_out(&mut self, output: &mut Output) -> Result<(), Interrupted> {
        self.plan.directory.take_room(output.buffer.len() as u64)?;
        output
            .file
            .write_all(&output.buffer)
            .map_err(|source| self.failed("write", &output.cleaned.path(), source))?;
        let size_bytes = output.buffer.len();
        output.buffer.clear();
        // A batch larger than the buffer has made it grow.
        output.buffer.shrink_to(self.memory.io_bytes);
        self.moved(size_bytes as u64)
    }

    /// Bytes went in or out.
    fn moved(&mut self, size_bytes: u64) -> Result<(), Interrupted> {
        self.unpaced_bytes += size_bytes;
        if self.unpaced_bytes < self.memory.io_bytes as u64 {
            return Ok(());
        }
        let moved = std::mem::take(&mut self.unpaced_bytes);
        if self.plan.pass.is_overtaken() || (self.pace)(moved) == Go::Stop {
            return Err(Interrupted::Stopped);
        }
        Ok(())
    }

    fn open(&self, source: &Source) -> Result<File, LogError> {
        let path = segment_path(&self.plan.folder, source.base_offset);
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LogError::gone(path),
            _ => self.failed("open", &path, error),
        })?;
        // Only advice: a file system that cannot take it is no error.
        _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Ok(file)
    }

    fn scan<'f>(&self, file: &'f File, source: &Source) -> Scan<'f> {
        Scan::new(file, 0, source.footer.size_bytes, self.memory.io_bytes)
    }

    fn next<'s>(&self, scan: &'s mut Scan<'_>, source: &Source) -> Result<Option<FoundBatch<'s>>, LogError> {
        let position = scan.position();
        let path = segment_path(&self.plan.folder, source.base_offset);
        scan.batch()
            .map_err(|error| error.into_log_error(&self.plan.directory.path, &path, position))
    }

    fn sync_folder(&self) -> Result<(), LogError> {
        sync_folder(&self.plan.directory, &self.plan.folder)
            .map_err(|source| self.failed("flush", &self.plan.folder, source))
    }

    fn corrupt(&self, source: &Source, position: u64, error: &dyn std::error::Error) -> LogError {
        LogError::Corrupt {
            path: segment_path(&self.plan.folder, source.base_offset),
            position,
            detail: error.to_string(),
        }
    }

    fn failed(&self, attempt: &str, path: &std::path::Path, source: std::io::Error) -> LogError {
        let attempt = format!("{attempt} {}", path.display());
        LogError::io(&self.plan.directory.path, attempt, source)
    }
}

/// A new segment while it is written.
struct Output {
    file: File,
    buffer: Vec<u8>,
    cleaned: CleanedSegments,
}
