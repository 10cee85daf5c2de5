//! Putting cleaned segments in the place of those they were made from, so that a crash leaves either.
//!
//! The steps are Kafka's: `.cleaned` is written and flushed; renamed to `.swap` (from here on the swap is finished whatever
//! happens), the old segments become `.deleted`, `.swap` becomes `.log`. Before the first rename the index is told, surviving
//! a power loss, which offsets are about to change hands; that note goes in one batch with the new segments' entries. While
//! it is there, nothing that the index says of those segments is believed: they are read anew when the log is opened. The note
//! also says what the index has to know of aborted transactions then, which those segments alone do not tell. Only
//! if the first `.cleaned` is there as well, the swap never began, and nothing has changed.
//!
//! Each writer has an id, which is in the names of its files and in its note: nobody writes or removes another one's. A repair
//! may put several segments in place. Then only the first of them becomes `.swap`; the others bear its id, so that they are
//! known to belong to it, and become `.log` once the old segments are gone. The old segment that bears the first one's name goes
//! last: while it is there, so may others be.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use odradek_broker_core::aborted::AbortedTransaction;
use slog::warn;
use uuid::Uuid;

use super::{PassFlag, Source};
use crate::checkpoint::State;
use crate::directory::DirectoryShared;
use crate::error::LogError;
use crate::flush::sync_folder;
use crate::log::Log;
use crate::scan::{RECOVERY_WINDOW_BYTES, Scan};
use crate::segment::{Footer, Segment, base_offset_of, segment_path};
use crate::store::{Batch, Kind, PartitionKey, Survive, Visit, decode_i64};

/// A segment that is being written, or was not begun to be swapped in.
const CLEANED_SUFFIX: &str = ".cleaned";
/// A segment that takes the place of others.
const SWAP_SUFFIX: &str = ".swap";
const DELETED_SUFFIX: &str = ".deleted";

/// What a log knows of aborted transactions once segments of it are replaced.
#[derive(Clone)]
pub(crate) enum AbortedChange {
    /// Nothing is left of those with these markers.
    Forget(Vec<i64>),
    /// Of those with a marker below the end of what is replaced, these are all. Nothing below it counts as compacted.
    Replace(Vec<AbortedTransaction>),
}

/// Segments that a pass or a repair wrote, beside those they replace. Their files are removed unless they are swapped in.
pub struct CleanedSegments {
    directory: Arc<DirectoryShared>,
    key: PartitionKey,
    folder: PathBuf,
    pass: PassFlag,
    id: Uuid,
    /// Base offset and size of those they replace.
    sources: Vec<(i64, u64)>,
    created_ms: i64,
    /// The first one begins where the first source does.
    segments: Vec<Segment>,
    /// What they replace ends here.
    end_offset: i64,
    pub(crate) aborted: AbortedChange,
    /// Whether the swap has to be on disk before the index says that it is done.
    pub(crate) is_durable: bool,
    is_announced: bool,
    is_committed: bool,
}

impl CleanedSegments {
    /// Nothing yet, in the place of these in a log's folder, in a log directory and under a key of its index.
    pub(crate) fn new(
        (directory, key): (Arc<DirectoryShared>, PartitionKey),
        folder: PathBuf,
        pass: PassFlag,
        sources: &[Source],
        end_offset: i64,
    ) -> Self {
        Self {
            directory,
            key,
            folder,
            pass,
            id: Uuid::new_v4(),
            sources: sources
                .iter()
                .map(|source| (source.base_offset, source.footer.size_bytes))
                .collect(),
            created_ms: sources[sources.len() - 1].created_ms,
            segments: Vec::new(),
            end_offset,
            aborted: AbortedChange::Forget(Vec::new()),
            is_durable: false,
            is_announced: false,
            is_committed: false,
        }
    }

    /// Begins the next segment; the first one where the first source begins.
    pub(crate) fn begin_segment(&mut self, base_offset: i64) -> Result<File, LogError> {
        let footer = Footer::empty(base_offset);
        self.segments
            .push(Segment::new(base_offset, footer, self.created_ms));
        let path = self.path();
        File::create(&path).map_err(|source| {
            LogError::io(&self.directory.path, format!("create {}", path.display()), source)
        })
    }

    /// The segment that is being written.
    pub(crate) fn segment(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("its first segment was begun")
    }

    /// The file of the segment that is being written.
    pub(crate) fn path(&self) -> PathBuf {
        let base_offset = self.segments.last().map_or(0, |segment| segment.base_offset);
        self.path_of(base_offset, CLEANED_SUFFIX)
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.footer.size_bytes)
            .sum()
    }

    pub(crate) fn is_overtaken(&self) -> bool {
        self.pass.is_overtaken()
    }

    /// All is written, and on disk.
    pub(crate) fn complete(&mut self) {
        let end_offset = self.end_offset;
        self.segment().footer.next_offset = end_offset;
        for segment in &mut self.segments {
            segment.flushed_bytes = segment.footer.size_bytes;
        }
    }

    /// Notes in the index that these offsets are about to change hands.
    pub(crate) fn announce(&mut self) -> Result<(), LogError> {
        let note = Note {
            id: Some(self.id),
            base_offset: self.base_offset(),
            end_offset: self.end_offset,
            aborted: self.aborted.clone(),
        };
        self.is_announced = true;
        let store = &self.directory.store;
        store.put(note.key(&self.key), note.encode(), Survive::PowerLoss)
    }

    fn base_offset(&self) -> i64 {
        self.sources[0].0
    }

    /// An empty file where the first source was.
    fn put_first_back(&self) -> Result<(), LogError> {
        let path = segment_path(&self.folder, self.base_offset());
        let made = File::create(&path).and_then(|_| sync_folder(&self.directory, &self.folder));
        made.map_err(|source| {
            LogError::io(&self.directory.path, format!("create {}", path.display()), source)
        })
    }

    fn path_of(&self, base_offset: i64, suffix: &str) -> PathBuf {
        id_path(&self.folder, base_offset, self.id, suffix)
    }

    /// From here on the swap is finished, if need be by the next start.
    fn commit(&mut self) -> Result<(), LogError> {
        let from = self.path_of(self.base_offset(), CLEANED_SUFFIX);
        let to = self.path_of(self.base_offset(), SWAP_SUFFIX);
        rename(&self.directory, &from, &to)?;
        self.is_committed = true;
        Ok(())
    }

    /// The new segments get the names of segments.
    fn take_names(&self) -> Result<(), LogError> {
        for segment in &self.segments[1..] {
            let from = self.path_of(segment.base_offset, CLEANED_SUFFIX);
            rename(
                &self.directory,
                &from,
                &segment_path(&self.folder, segment.base_offset),
            )?;
        }
        let swap = self.path_of(self.base_offset(), SWAP_SUFFIX);
        rename(
            &self.directory,
            &swap,
            &segment_path(&self.folder, self.base_offset()),
        )?;
        if self.is_durable {
            sync_folder(&self.directory, &self.folder).map_err(|source| {
                let attempt = format!("flush {}", self.folder.display());
                LogError::io(&self.directory.path, attempt, source)
            })?;
        }
        Ok(())
    }

    fn delete_note(&self, batch: &mut Batch) {
        batch.delete(note_key(&self.key, self.id));
    }
}

impl Drop for CleanedSegments {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        let mut batch = Batch::default();
        self.delete_note(&mut batch);
        // Without the file, the note would say that the swap took place: it goes first.
        if self.is_announced && self.directory.store.write(batch, Survive::PowerLoss).is_err() {
            return;
        }
        for segment in &self.segments {
            // What cannot be removed now goes when the log is opened.
            _ = fs::remove_file(self.path_of(segment.base_offset, CLEANED_SUFFIX));
        }
    }
}

impl Log {
    /// Puts cleaned segments in the place of those they were made from. False, and nothing happens, if the log was cut or lost
    /// one of them meanwhile. Those that a repair replaces may be gone below the log start, since fetching takes long: what is
    /// put there goes with the next [`Log::retention`].
    ///
    /// # Errors
    /// The log directory failed; the log is closed then, because it is not known which segments it has.
    pub fn replace_segments(&mut self, mut cleaned: CleanedSegments) -> Result<bool, LogError> {
        if !self.is_current(&cleaned.pass) || !self.has_sources_of(&cleaned) {
            return Ok(false);
        }
        let replaced = self.replace(&mut cleaned);
        self.closed |= replaced.is_err();
        replaced.map(|()| true)
    }

    fn has_sources_of(&self, cleaned: &CleanedSegments) -> bool {
        let behind = cleaned
            .sources
            .iter()
            .skip(1)
            .map(|(base_offset, _)| *base_offset);
        let ends = behind.chain([cleaned.end_offset]);
        cleaned
            .sources
            .iter()
            .zip(ends)
            .all(
                |((base_offset, size_bytes), end_offset)| match self.segments.get(base_offset) {
                    Some(segment) => segment.footer.size_bytes == *size_bytes,
                    None => cleaned.is_durable && end_offset <= self.log_start_offset,
                },
            )
    }

    fn replace(&mut self, cleaned: &mut CleanedSegments) -> Result<(), LogError> {
        let (base_offset, end_offset) = (cleaned.base_offset(), cleaned.end_offset);
        if !self.segments.contains_key(&base_offset) {
            // As long as it is there, the next start knows that others may be.
            cleaned.put_first_back()?;
        }
        cleaned.commit()?;
        let mut batch = Batch::default();
        let is_there = |base: &i64| self.segments.contains_key(base) || *base == base_offset;
        let sources = cleaned.sources.iter().rev().map(|(source, _)| source);
        let sources: Vec<i64> = sources.filter(|source| is_there(source)).copied().collect();
        for source in &sources {
            self.discard_segment_file(*source)?;
            self.forget_segment(*source, &mut batch);
            self.segments.remove(source);
            if *source != base_offset && self.persistence.snapshot != Some(*source) {
                batch.delete(self.key.key(Kind::ProducerSnapshot, &[*source]));
            }
        }
        cleaned.take_names()?;
        self.change_aborted(&cleaned.aborted, end_offset, &mut batch);
        self.follow_recovery_point(base_offset..end_offset, cleaned.segment(), &mut batch)?;
        for mut segment in std::mem::take(&mut cleaned.segments) {
            let base_offset = segment.base_offset;
            segment.index.spill(&self.key, base_offset, &mut batch);
            segment.index.seal();
            batch.put(
                self.key.key(Kind::Footer, &[base_offset]),
                segment.footer.encode(),
            );
            self.segments.insert(base_offset, segment);
        }
        cleaned.delete_note(&mut batch);
        self.persistence.swaps += 1;
        self.directory.store.write(batch, Survive::Nothing)?;
        if !cleaned.is_durable {
            return Ok(());
        }
        self.persistence.owes_flush = true;
        match self.flush_owed() {
            Err(error) if error.is_disk_full() => {
                // All is in place, and a kill makes the next start find the note: it comes to the same.
                warn!(self.logger, "the index could not be flushed after a repair: no other one and no compaction until it is";
                    "error" => %error);
                Ok(())
            }
            flushed => flushed,
        }
    }

    /// Flushes the index, if that is still to be done for a repair. What a later pass forgets of aborted transactions, and what a
    /// cut removes of them, builds upon it: a start that found the repair's note would bring it back.
    pub(crate) fn flush_owed(&mut self) -> Result<(), LogError> {
        if self.persistence.owes_flush {
            self.directory.store.flush()?;
            self.persistence.owes_flush = false;
        }
        Ok(())
    }

    fn change_aborted(&mut self, change: &AbortedChange, end_offset: i64, batch: &mut Batch) {
        change.write(&self.key, end_offset, batch);
        match change {
            AbortedChange::Forget(markers) => self.aborted.forget(markers),
            AbortedChange::Replace(found) => {
                let start = self.log_start_offset;
                let found = found.iter().filter(|entry| entry.last_offset >= start);
                self.aborted.replace_below(end_offset, found.copied().collect());
                self.compacted_until = start;
            }
        }
    }

    /// If the recovery point that is written down lies in what was replaced, it names the last new segment from now on, all of
    /// which is on disk, as is all before it. What comes behind it is read again: the producers at it are of before.
    fn follow_recovery_point(
        &self,
        replaced: Range<i64>,
        last: &Segment,
        batch: &mut Batch,
    ) -> Result<(), LogError> {
        let key = self.key.key(Kind::State, &[]);
        let state = self.directory.store.get(&key)?;
        if let Some(state) = state
            .as_deref()
            .and_then(State::decode)
            .filter(|state| replaced.contains(&state.active_base_offset))
        {
            let footer = if state.recovery_point < replaced.end {
                Footer::empty(last.base_offset)
            } else {
                last.footer
            };
            let state = State {
                active_base_offset: last.base_offset,
                footer,
                ..state
            };
            batch.put(key, state.encode());
        }
        Ok(())
    }
}

/// What the index is told before offsets change hands.
struct Note {
    /// None in one from before writers had ids.
    id: Option<Uuid>,
    base_offset: i64,
    end_offset: i64,
    aborted: AbortedChange,
}

/// Id, base offset, end, and which change of aborted transactions follows.
const NOTE_SIZE_BYTES: usize = 16 + 8 + 8 + 1;
const FORGET: u8 = 0;
const REPLACE: u8 = 1;

fn note_key(key: &PartitionKey, id: Uuid) -> Vec<u8> {
    let (high, low) = id.as_u64_pair();
    key.key(Kind::Swap, &[high.cast_signed(), low.cast_signed()])
}

impl Note {
    fn key(&self, key: &PartitionKey) -> Vec<u8> {
        match self.id {
            Some(id) => note_key(key, id),
            None => key.key(Kind::Swap, &[self.base_offset]),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(NOTE_SIZE_BYTES);
        bytes.extend_from_slice(self.id.unwrap_or_default().as_bytes());
        bytes.extend_from_slice(&self.base_offset.to_be_bytes());
        bytes.extend_from_slice(&self.end_offset.to_be_bytes());
        match &self.aborted {
            AbortedChange::Forget(markers) => {
                bytes.push(FORGET);
                bytes.extend(markers.iter().flat_map(|marker| marker.to_be_bytes()));
            }
            AbortedChange::Replace(found) => {
                bytes.push(REPLACE);
                bytes.extend(found.iter().flat_map(AbortedTransaction::encode));
            }
        }
        bytes
    }

    /// `detail` is the end of the key.
    fn decode(detail: i64, bytes: &[u8]) -> Self {
        let Some((head, aborted)) = bytes.split_at_checked(NOTE_SIZE_BYTES) else {
            return Self {
                id: None,
                base_offset: detail,
                end_offset: decode_i64(bytes),
                aborted: AbortedChange::Forget(Vec::new()),
            };
        };
        Self {
            id: Uuid::from_slice(&head[..16]).ok(),
            base_offset: decode_i64(&head[16..24]),
            end_offset: decode_i64(&head[24..32]),
            aborted: if head[32] == REPLACE {
                let entries = aborted.chunks(size_of::<[i64; 4]>());
                AbortedChange::Replace(entries.filter_map(AbortedTransaction::decode).collect())
            } else {
                AbortedChange::Forget(aborted.chunks(size_of::<i64>()).map(decode_i64).collect())
            },
        }
    }

    fn all(directory: &DirectoryShared, key: &PartitionKey) -> Result<Vec<Self>, LogError> {
        let mut notes = Vec::new();
        directory.store.scan(key, Kind::Swap, &[], 0, |detail, bytes| {
            notes.push(Self::decode(detail, bytes));
            Visit::Continue
        })?;
        Ok(notes)
    }
}

impl AbortedChange {
    /// Makes the index follow.
    fn write(&self, key: &PartitionKey, end_offset: i64, batch: &mut Batch) {
        let entry_key = |marker| key.key(Kind::Aborted, &[marker]);
        match self {
            Self::Forget(markers) => markers.iter().for_each(|marker| batch.delete(entry_key(*marker))),
            Self::Replace(found) => {
                batch.delete_range(key, Kind::Aborted, &[0], Some(&[end_offset]));
                for entry in found {
                    batch.put(entry_key(entry.last_offset), entry.encode());
                }
                batch.delete(key.key(Kind::CleanerOffset, &[]));
            }
        }
    }
}

/// Finishes the swaps that a crash interrupted, and makes the index forget what it knows of segments that were in one. Call
/// it before anything is read of either.
pub(crate) fn finish_swaps(
    directory: &DirectoryShared,
    key: &PartitionKey,
    folder: &Path,
) -> Result<(), LogError> {
    let files = Files::list(directory, folder)?;
    if directory.clean_start && files.swaps.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::default();
    let mut notes = Note::all(directory, key)?;
    notes.retain(|note| {
        let began = note
            .id
            .is_none_or(|id| !files.cleaned.contains(&(note.base_offset, id)));
        if !began {
            batch.delete(note.key(key));
        }
        began
    });
    // A repair's comes last: whoever notes something after a repair does so when its note is gone for good.
    notes.sort_by_key(|note| matches!(note.aborted, AbortedChange::Replace(_)));
    for swap in &files.swaps {
        let note = notes
            .iter()
            .find(|note| note.base_offset == swap.base_offset && note.id == swap.id);
        finish_swap(directory, folder, &files, swap, note)?;
    }
    if !files.swaps.is_empty() {
        sync_folder(directory, folder)
            .map_err(|source| LogError::io(&directory.path, format!("flush {}", folder.display()), source))?;
    }
    forget_announced(directory, key, &notes, batch)
}

fn finish_swap(
    directory: &DirectoryShared,
    folder: &Path,
    files: &Files,
    swap: &SwapFile,
    note: Option<&Note>,
) -> Result<(), LogError> {
    let base_offset = swap.base_offset;
    let parts: Vec<(i64, PathBuf)> = files
        .cleaned
        .iter()
        .filter(|(_, id)| Some(*id) == swap.id)
        .map(|(base, id)| (*base, id_path(folder, *base, *id, CLEANED_SUFFIX)))
        .collect();
    // From before writers had ids, the first of the old segments went first.
    if swap.id.is_none() || files.segments.contains(&base_offset) {
        let end_offset = match (note, parts.last()) {
            (Some(note), _) => note.end_offset,
            // The index is lost: the files themselves have to tell.
            (None, Some((_, last))) => end_of(directory, last)?,
            (None, None) => end_of(directory, &swap.path)?,
        };
        let old = files.segments.iter().rev();
        for source in old.filter(|base| (base_offset..end_offset).contains(base)) {
            let path = segment_path(folder, *source);
            rename(directory, &path, &suffixed(&path, DELETED_SUFFIX))?;
        }
    }
    for (part, path) in &parts {
        rename(directory, path, &segment_path(folder, *part))?;
    }
    rename(directory, &swap.path, &segment_path(folder, base_offset))?;
    slog::info!(directory.logger, "swap of segments finished"; "folder" => %folder.display(),
        "base_offset" => base_offset, "segments" => parts.len() + 1);
    Ok(())
}

/// Nothing that the index says of these segments is believed any more.
fn forget_announced(
    directory: &DirectoryShared,
    key: &PartitionKey,
    notes: &[Note],
    mut batch: Batch,
) -> Result<(), LogError> {
    let state_key = key.key(Kind::State, &[]);
    let state = directory.store.get(&state_key)?;
    let state = state.as_deref().and_then(State::decode);
    for note in notes {
        let (base_offset, end_offset) = (note.base_offset, note.end_offset);
        if let Some(state) = state.filter(|it| (base_offset..end_offset).contains(&it.active_base_offset)) {
            let state = State {
                active_base_offset: base_offset,
                footer: Footer::empty(base_offset),
                ..state
            };
            batch.put(&state_key, state.encode());
        }
        batch.delete_range(key, Kind::Footer, &[base_offset], Some(&[end_offset]));
        batch.delete_range(key, Kind::IndexChunk, &[base_offset], Some(&[end_offset]));
        note.aborted.write(key, end_offset, &mut batch);
        batch.delete(note.key(key));
    }
    directory.store.write(batch, Survive::Nothing)?;
    match notes.last().map(|note| &note.aborted) {
        Some(AbortedChange::Replace(_)) => directory.store.flush(),
        Some(AbortedChange::Forget(_)) | None => Ok(()),
    }
}

/// A segment that was about to take the place of others.
struct SwapFile {
    base_offset: i64,
    /// None from before writers had ids.
    id: Option<Uuid>,
    path: PathBuf,
}

/// What a folder holds, each ascending.
#[derive(Default)]
struct Files {
    swaps: Vec<SwapFile>,
    /// Base offset and writer.
    cleaned: Vec<(i64, Uuid)>,
    segments: Vec<i64>,
}

impl Files {
    fn list(directory: &DirectoryShared, folder: &Path) -> Result<Self, LogError> {
        let failed = |source| LogError::io(&directory.path, format!("list {}", folder.display()), source);
        let mut files = Self::default();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if let Some(base_offset) = base_offset_of(&name) {
                files.segments.push(base_offset);
            } else if let Some(swap) = name.strip_suffix(SWAP_SUFFIX) {
                let named = base_and_id(swap).map(|(base_offset, id)| (base_offset, Some(id)));
                let named = named.or_else(|| base_offset_of(swap).map(|base_offset| (base_offset, None)));
                files.swaps.extend(named.map(|(base_offset, id)| SwapFile {
                    base_offset,
                    id,
                    path: entry.path(),
                }));
            } else if let Some(cleaned) = name.strip_suffix(CLEANED_SUFFIX) {
                files.cleaned.extend(base_and_id(cleaned));
            }
        }
        files.swaps.sort_unstable_by_key(|swap| swap.base_offset);
        files.cleaned.sort_unstable();
        files.segments.sort_unstable();
        Ok(files)
    }
}

/// What [`id_path`] put before the suffix.
fn base_and_id(name: &str) -> Option<(i64, Uuid)> {
    let (segment, id) = name.rsplit_once('.')?;
    Some((base_offset_of(segment)?, Uuid::try_parse(id).ok()?))
}

fn id_path(folder: &Path, base_offset: i64, id: Uuid, suffix: &str) -> PathBuf {
    let path = segment_path(folder, base_offset);
    suffixed(&path, &format!(".{}{suffix}", id.simple()))
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

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
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
