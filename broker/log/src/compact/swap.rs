//! Putting a cleaned segment in the place of those it was made from, so that a crash leaves either.
//!
//! The steps are Kafka's: `.cleaned` is written and flushed; renamed to `.swap` (from here on the swap is finished whatever
//! happens), the old segments become `.deleted`, `.swap` becomes `.log`. Before the first rename the index is told, surviving
//! a power loss, which offsets are about to change hands; that note goes in one batch with the new segment's entries. While
//! it is there, nothing that the index says of those segments is believed: they are read anew when the log is opened.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{CompactionPlan, PassFlag, Source};
use crate::checkpoint::State;
use crate::directory::DirectoryShared;
use crate::error::LogError;
use crate::flush::sync_folder;
use crate::log::Log;
use crate::scan::{RECOVERY_WINDOW_BYTES, Scan};
use crate::segment::{Footer, Segment, base_offset_of, segment_path};
use crate::store::{Batch, Kind, PartitionKey, Survive, Visit, decode_i64};

/// A segment that is being written, or was not begun to be swapped in.
pub(crate) const CLEANED_SUFFIX: &str = ".cleaned";
/// A segment that takes the place of others.
const SWAP_SUFFIX: &str = ".swap";

/// A segment that a pass wrote, beside those it replaces. Its file is removed unless it is swapped in.
pub struct CleanedSegment {
    directory: Arc<DirectoryShared>,
    key: PartitionKey,
    pass: PassFlag,
    /// Base offset and size of those it replaces.
    sources: Vec<(i64, u64)>,
    /// Markers of aborted transactions of which nothing is left.
    pub(super) forgotten: Vec<i64>,
    pub(crate) path: PathBuf,
    pub(crate) segment: Segment,
}

impl CleanedSegment {
    pub(super) fn new(plan: &CompactionPlan, sources: &[Source], path: PathBuf) -> Self {
        let place = (plan.directory.clone(), plan.key);
        Self::of(place, plan.pass.clone(), sources, path)
    }

    /// A segment for these, in a log directory and under a key of its index.
    pub(crate) fn of(
        (directory, key): (Arc<DirectoryShared>, PartitionKey),
        pass: PassFlag,
        sources: &[Source],
        path: PathBuf,
    ) -> Self {
        let (first, last) = (sources[0], sources[sources.len() - 1]);
        let footer = Footer::empty(first.base_offset);
        Self {
            directory,
            key,
            pass,
            sources: sources
                .iter()
                .map(|source| (source.base_offset, source.footer.size_bytes))
                .collect(),
            forgotten: Vec::new(),
            path,
            segment: Segment::new(first.base_offset, footer, last.created_ms),
        }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.segment.footer.size_bytes
    }

    /// Notes in the index that these offsets are about to change hands.
    pub(crate) fn announce(&self) -> Result<(), LogError> {
        let key = self.key.key(Kind::Swap, &[self.segment.base_offset]);
        let end_offset = self.segment.footer.next_offset.to_be_bytes();
        self.directory.store.put(key, end_offset, Survive::PowerLoss)
    }
}

impl Drop for CleanedSegment {
    fn drop(&mut self) {
        // Swapped in, it has no file of this name; what cannot be removed now goes when the log is opened.
        _ = fs::remove_file(&self.path);
    }
}

impl Log {
    /// Puts a cleaned segment in the place of those it was made from. False, and nothing happens, if the log was cut or lost
    /// one of them meanwhile.
    ///
    /// # Errors
    /// The log directory failed; the log is closed then, because it is not known which segments it has.
    pub fn replace_segments(&mut self, mut cleaned: CleanedSegment) -> Result<bool, LogError> {
        let is_there = |(base_offset, size_bytes): &(i64, u64)| {
            self.segments
                .get(base_offset)
                .is_some_and(|segment| segment.footer.size_bytes == *size_bytes)
        };
        if !self.is_current(&cleaned.pass) || !cleaned.sources.iter().all(is_there) {
            return Ok(false);
        }
        let replaced = self.replace(&mut cleaned);
        self.closed |= replaced.is_err();
        replaced.map(|()| true)
    }

    fn replace(&mut self, cleaned: &mut CleanedSegment) -> Result<(), LogError> {
        let base_offset = cleaned.segment.base_offset;
        let path = segment_path(&self.folder, base_offset);
        let swap = suffixed(&path, SWAP_SUFFIX);
        rename(&self.directory, &cleaned.path, &swap)?;
        let mut batch = Batch::default();
        for (source, _) in &cleaned.sources {
            self.discard_segment_file(*source)?;
            self.forget_segment(*source, &mut batch);
            self.segments.remove(source);
            if *source != base_offset && self.persistence.snapshot != Some(*source) {
                batch.delete(self.key.key(Kind::ProducerSnapshot, &[*source]));
            }
        }
        rename(&self.directory, &swap, &path)?;
        self.aborted.forget(&cleaned.forgotten);
        for marker in &cleaned.forgotten {
            batch.delete(self.key.key(Kind::Aborted, &[*marker]));
        }
        let mut segment = std::mem::replace(
            &mut cleaned.segment,
            Segment::new(base_offset, Footer::empty(base_offset), 0),
        );
        self.follow_recovery_point(&segment, &mut batch)?;
        segment.index.spill(&self.key, base_offset, &mut batch);
        segment.index.seal();
        batch.put(
            self.key.key(Kind::Footer, &[base_offset]),
            segment.footer.encode(),
        );
        batch.delete(self.key.key(Kind::Swap, &[base_offset]));
        self.segments.insert(base_offset, segment);
        self.persistence.swaps += 1;
        self.directory.store.write(batch, Survive::Nothing)
    }

    /// If the recovery point that is written down lies in a segment that was replaced, it names the new one from now on,
    /// all of which is on disk.
    fn follow_recovery_point(&self, segment: &Segment, batch: &mut Batch) -> Result<(), LogError> {
        let key = self.key.key(Kind::State, &[]);
        let state = self.directory.store.get(&key)?;
        let range = segment.base_offset..segment.footer.next_offset;
        if let Some(state) = state
            .as_deref()
            .and_then(State::decode)
            .filter(|state| range.contains(&state.active_base_offset))
        {
            let state = State {
                active_base_offset: segment.base_offset,
                footer: segment.footer,
                ..state
            };
            batch.put(key, state.encode());
        }
        Ok(())
    }
}

/// Finishes the swaps that a crash interrupted, and makes the index forget what it knows of segments that were in one. Call
/// it before anything is read of either.
pub(crate) fn finish_swaps(
    directory: &DirectoryShared,
    key: &PartitionKey,
    folder: &Path,
) -> Result<(), LogError> {
    let (swaps, segments) = list(directory, folder)?;
    if directory.clean_start && swaps.is_empty() {
        return Ok(());
    }
    let mut announced = BTreeMap::new();
    directory
        .store
        .scan(key, Kind::Swap, &[], 0, |base_offset, end| {
            announced.insert(base_offset, decode_i64(end));
            Visit::Continue
        })?;
    for base_offset in &swaps {
        let base_offset = *base_offset;
        let swap = suffixed(&segment_path(folder, base_offset), SWAP_SUFFIX);
        let end_offset = match announced.get(&base_offset) {
            Some(end_offset) => *end_offset,
            // The index is lost: the file itself has to tell.
            None => end_of(directory, &swap)?,
        };
        for source in segments
            .iter()
            .filter(|base| (base_offset..end_offset).contains(base))
        {
            let path = segment_path(folder, *source);
            let deleted = suffixed(&path, DELETED_SUFFIX);
            rename(directory, &path, &deleted)?;
        }
        rename(directory, &swap, &segment_path(folder, base_offset))?;
        slog::info!(directory.logger, "swap of a compacted segment finished";
            "folder" => %folder.display(), "base_offset" => base_offset, "end_offset" => end_offset);
    }
    if !swaps.is_empty() {
        sync_folder(directory, folder)
            .map_err(|source| LogError::io(&directory.path, format!("flush {}", folder.display()), source))?;
    }
    forget_announced(directory, key, &announced)
}

/// Nothing that the index says of these segments is believed any more.
fn forget_announced(
    directory: &DirectoryShared,
    key: &PartitionKey,
    announced: &BTreeMap<i64, i64>,
) -> Result<(), LogError> {
    let mut batch = Batch::default();
    let state_key = key.key(Kind::State, &[]);
    let state = directory.store.get(&state_key)?;
    let state = state.as_deref().and_then(State::decode);
    for (base_offset, end_offset) in announced {
        if let Some(state) = state.filter(|it| (*base_offset..*end_offset).contains(&it.active_base_offset)) {
            let state = State {
                active_base_offset: *base_offset,
                footer: Footer::empty(*base_offset),
                ..state
            };
            batch.put(&state_key, state.encode());
        }
        batch.delete_range(key, Kind::Footer, &[*base_offset], Some(&[*end_offset]));
        batch.delete_range(key, Kind::IndexChunk, &[*base_offset], Some(&[*end_offset]));
        batch.delete(key.key(Kind::Swap, &[*base_offset]));
    }
    directory.store.write(batch, Survive::Nothing)
}

/// Base offsets of interrupted swaps and of segments.
fn list(directory: &DirectoryShared, folder: &Path) -> Result<(Vec<i64>, Vec<i64>), LogError> {
    let failed = |source| LogError::io(&directory.path, format!("list {}", folder.display()), source);
    let (mut swaps, mut segments) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if let Some(base_offset) = base_offset_of(&name) {
            segments.push(base_offset);
        }
        swaps.extend(name.strip_suffix(SWAP_SUFFIX).and_then(base_offset_of));
    }
    swaps.sort_unstable();
    Ok((swaps, segments))
}

/// The offset after the last batch of a file.
fn end_of(directory: &DirectoryShared, path: &Path) -> Result<i64, LogError> {
    let failed = |source| LogError::io(&directory.path, format!("read {}", path.display()), source);
    let file = File::open(path).map_err(failed)?;
    let size_bytes = file.metadata().map_err(failed)?.len();
    let mut scan = Scan::new(&file, 0, size_bytes, RECOVERY_WINDOW_BYTES);
    let mut end_offset = 0;
    loop {
        let position = scan.position();
        match scan.header() {
            Ok(Some((_, header))) => end_offset = header.next_offset(),
            Ok(None) => return Ok(end_offset),
            Err(error) => return Err(error.into_log_error(&directory.path, path, position)),
        }
    }
}

const DELETED_SUFFIX: &str = ".deleted";

pub(crate) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn rename(directory: &DirectoryShared, from: &Path, to: &Path) -> Result<(), LogError> {
    fs::rename(from, to).map_err(|source| {
        LogError::io(
            &directory.path,
            format!("rename {} to {}", from.display(), to.display()),
            source,
        )
    })
}
