//! Flushing: what is written but not yet on disk, and waiting for the disk.
//!
//! A flush is planned under the partition's lock, done outside of it by [`LogDirectory::sync`], and completed under the
//! lock again. Many plans share a round.
//!
//! A round of many plans, for which producers wait, has the directory's turn until it is done; a single plan takes it file by
//! file, and has most of a file written before that, so that a round waits for one file of it at most, and not for long.
//!
//! Invariant: whoever flushes has the directory's turn, and nobody is believed after a flush that failed. The kernel tells an error of
//! writeback once per open file and then calls the lost pages clean, so a second fsync that succeeds proves nothing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use odradek_common::time::Now;
use parking_lot::{Mutex, MutexGuard};

use crate::checkpoint::Checkpoint;
use crate::directory::{DirectoryShared, LogDirectory, METADATA_FILE};
use crate::error::{LogError, is_out_of_descriptors};
use crate::flush_threads::FlushThreads;
use crate::log::Log;

/// Files of a round that are flushed at the same time: file systems commit them together.
const SYNC_THREADS_MAX: usize = 16;

/// The turn to flush a directory, and whether flushing it ever failed.
#[derive(Debug, Default)]
pub(crate) struct SyncTurn {
    turn: Mutex<()>,
    failed: AtomicBool,
    threads: FlushThreads,
}

#[cfg(test)]
impl SyncTurn {
    /// Whether somebody flushes.
    pub(crate) fn is_taken(&self) -> bool {
        self.turn.is_locked()
    }
}

/// Records whose acknowledgement waits for a flush, because `flush.messages` says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DueRecords {
    pub(crate) from: i64,
    pub(crate) until: i64,
}

impl DueRecords {
    /// What is left of it once everything below `offset` is on disk.
    fn after_flush(self, offset: i64) -> Option<Self> {
        let from = self.from.max(offset);
        (from < self.until).then_some(Self { from, ..self })
    }

    /// What is left of it in a log that ends at `offset`.
    pub(crate) fn after_truncation(self, offset: i64) -> Option<Self> {
        let until = self.until.min(offset);
        (self.from < until).then_some(Self { until, ..self })
    }
}

/// What a flush has to do; made by [`Log::flush_plan`], [`Log::checkpoint_plan`] or [`Log::periodic_checkpoint_plan`].
pub struct FlushPlan {
    pub(crate) directory: Arc<DirectoryShared>,
    pub(crate) log_uid: u64,
    pub(crate) generation: u64,
    pub(crate) swaps: u64,
    /// Everything below will be on disk.
    pub(crate) end_offset: i64,
    pub(crate) messages: i64,
    pub(crate) files: Vec<FileToFlush>,
    pub(crate) folder: Option<PathBuf>,
    /// How many changes of names in the folder the disk will have.
    names: u64,
    pub(crate) checkpoint: Option<Checkpoint>,
}

pub(crate) struct FileToFlush {
    pub(crate) base_offset: i64,
    /// What of it was flushed before.
    pub(crate) flushed_bytes: u64,
    pub(crate) size_bytes: u64,
    pub(crate) file: Arc<File>,
}

/// One thing to wait for.
enum Target {
    Segment { base_offset: i64, file: Arc<File> },
    Folder(PathBuf),
}

impl FlushPlan {
    /// Waits until the disk has the data of this plan alone; a round comes before the next file of it. Blocks; call it
    /// without the partition's lock.
    ///
    /// # Errors
    /// As [`LogDirectory::sync`].
    pub fn sync(&self) -> Result<(), LogError> {
        let directory = &self.directory;
        let in_a_turn = |target| {
            let turn = directory.sync_turn.turn.lock();
            let outcome = sync_in_turn(directory, vec![target]);
            // Plainly unlocked, it would be this plan's again before whoever waits has woken up.
            MutexGuard::unlock_fair(turn);
            outcome
        };
        for file in &self.files {
            file.write_back(directory);
            in_a_turn(file.target())?;
        }
        let parent = parent_of(directory, std::slice::from_ref(self));
        self.folder_target().chain(parent).try_for_each(in_a_turn)
    }

    /// Whether it is of a log in this directory.
    #[must_use]
    pub fn is_of(&self, directory: &LogDirectory) -> bool {
        Arc::ptr_eq(&self.directory, &directory.shared)
    }

    /// Bytes that the disk may lack.
    #[must_use]
    pub fn unflushed_bytes(&self) -> u64 {
        let unflushed = |file: &FileToFlush| file.size_bytes.saturating_sub(file.flushed_bytes);
        self.files.iter().map(unflushed).sum()
    }

    fn targets(&self) -> impl Iterator<Item = Target> {
        let files = self.files.iter().map(FileToFlush::target);
        files.chain(self.folder_target())
    }

    fn folder_target(&self) -> impl Iterator<Item = Target> + use<> {
        self.folder.clone().map(Target::Folder).into_iter()
    }
}

impl FileToFlush {
    fn target(&self) -> Target {
        Target::Segment {
            base_offset: self.base_offset,
            file: self.file.clone(),
        }
    }

    /// Has most of it written before the turn to flush is taken, so that nobody waits for that.
    fn write_back(&self, directory: &DirectoryShared) {
        let unflushed = self.flushed_bytes..self.size_bytes;
        directory.options.disk.write_back(&self.file, unflushed);
    }
}

impl Target {
    fn sync(&self, directory: &DirectoryShared) -> Result<(), LogError> {
        let disk = &directory.options.disk;
        let (outcome, attempt) = match self {
            Self::Segment { base_offset, file } => {
                (disk.sync_data(file), format!("flush segment {base_offset}"))
            }
            Self::Folder(folder) => (
                sync_folder(directory, folder),
                format!("flush {}", folder.display()),
            ),
        };
        outcome.map_err(|source| {
            if is_out_of_descriptors(&source) {
                // It could not even be opened: nothing was flushed, and nothing is lost.
                return LogError::io(&directory.path, attempt, source);
            }
            directory.sync_turn.failed.store(true, Ordering::Release);
            directory.note_failed();
            LogError::Unsynced {
                path: directory.path.clone(),
                attempt,
                source,
            }
        })
    }
}

impl LogDirectory {
    /// The same as [`LogDirectory::sync`] for plans that nobody waits for: others have the turn while most of it is written, and
    /// between two files if there is one plan, which may have large ones.
    ///
    /// # Errors
    /// As [`LogDirectory::sync`].
    pub fn sync_behind(&self, plans: &[FlushPlan]) -> Result<(), LogError> {
        if let [only] = plans {
            return only.sync();
        }
        for file in plans.iter().flat_map(|plan| &plan.files) {
            file.write_back(&self.shared);
        }
        self.sync(plans)
    }

    /// Waits until the disk has what these plans, all of this directory, name. Blocks; call it without a partition's lock.
    ///
    /// # Errors
    /// None of the plans may be completed. The directory is to be taken offline, and no later flush is believed, unless the
    /// process has no file descriptors left: then it is tried again.
    pub fn sync(&self, plans: &[FlushPlan]) -> Result<(), LogError> {
        let directory = &self.shared;
        let targets = plans.iter().flat_map(FlushPlan::targets);
        let targets = targets.chain(parent_of(directory, plans)).collect();
        let _turn = directory.sync_turn.turn.lock();
        sync_in_turn(directory, targets)
    }
}

/// The directory itself, if the folder of one of these plans may be new in it.
fn parent_of(directory: &DirectoryShared, plans: &[FlushPlan]) -> Option<Target> {
    let has_folder = plans.iter().any(|plan| plan.folder.is_some());
    has_folder.then(|| Target::Folder(directory.path.clone()))
}

/// Flushes the targets side by side; the caller has the turn.
fn sync_in_turn(directory: &Arc<DirectoryShared>, targets: Vec<Target>) -> Result<(), LogError> {
    if directory.sync_turn.failed.load(Ordering::Acquire) {
        return Err(LogError::Unsynced {
            path: directory.path.clone(),
            attempt: "flush anything".to_owned(),
            source: std::io::Error::other("an earlier flush failed"),
        });
    }
    if let [only] = &targets[..] {
        return only.sync(directory);
    }
    let helpers = targets.len().min(SYNC_THREADS_MAX).saturating_sub(1);
    let round = Arc::new(SyncRound {
        directory: directory.clone(),
        targets,
        next: AtomicUsize::new(0),
        flushed: AtomicUsize::new(0),
        outcome: Mutex::new(Ok(())),
    });
    let work = round.clone();
    directory
        .sync_turn
        .threads
        .run(helpers, Arc::new(move || work.work()));
    std::mem::replace(&mut *round.outcome.lock(), Ok(()))?;
    let flushed = round.flushed.load(Ordering::Acquire);
    assert_eq!(
        flushed,
        round.targets.len(),
        "a helper's panic was reported where it happened"
    );
    Ok(())
}

/// What several threads flush.
struct SyncRound {
    directory: Arc<DirectoryShared>,
    targets: Vec<Target>,
    next: AtomicUsize,
    flushed: AtomicUsize,
    outcome: Mutex<Result<(), LogError>>,
}

impl SyncRound {
    /// Flushes what nobody has begun to, until one fails. Of several errors, one that does not pass is kept.
    fn work(&self) {
        while let Some(target) = self.targets.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = target.sync(&self.directory) {
                let mut outcome = self.outcome.lock();
                if outcome.is_ok() || matches!(error, LogError::Unsynced { .. }) {
                    *outcome = Err(error);
                }
                return;
            }
            self.flushed.fetch_add(1, Ordering::Release);
        }
    }
}

/// Waits until the disk has the names in a partition's folder. One that is gone, because the partition was deleted meanwhile, has
/// none that anybody needs; the log directory itself must be there.
pub(crate) fn sync_folder(directory: &DirectoryShared, folder: &Path) -> std::io::Result<()> {
    let disk = &directory.options.disk;
    let is_gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    match File::open(folder.join(METADATA_FILE)) {
        Ok(metadata) => disk.sync_all(&metadata)?,
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(error),
    }
    match File::open(folder) {
        Ok(names) => disk.sync_all(&names),
        Err(error) if is_gone(&error) && folder != directory.path => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until the disk has the names in a folder, in the directory's turn. Blocks.
///
/// # Errors
/// As [`LogDirectory::sync`].
pub(crate) fn sync_names(directory: &Arc<DirectoryShared>, folder: &Path) -> Result<(), LogError> {
    let _turn = directory.sync_turn.turn.lock();
    sync_in_turn(directory, vec![Target::Folder(folder.to_owned())])
}

impl Log {
    /// End of what this replica may vouch for: the log end, unless `flush.messages` asks for a flush of the last records
    /// that has not been done.
    #[must_use]
    pub fn durable_end_offset(&self) -> i64 {
        self.persistence.due.map_or(self.log_end_offset, |due| due.from)
    }

    /// Flushes everything that was appended, as [`Log::flush_plan`], [`FlushPlan::sync`] and [`Log::complete_flush`] do.
    pub fn flush(&mut self) -> Result<(), LogError> {
        let Some(plan) = self.plan_until(self.log_end_offset)? else {
            return Ok(());
        };
        plan.sync()?;
        self.complete_flush(plan)
    }

    /// Whether `flush.ms` or `flush.messages` asks for a flush.
    #[must_use]
    pub fn is_flush_due(&self, now: Now) -> bool {
        let unflushed = self.persistence.unflushed_messages;
        let waited_ms = i64::try_from(now.mono_ms.saturating_sub(self.persistence.unflushed_since_ms))
            .unwrap_or(i64::MAX);
        unflushed > 0 && (unflushed >= self.config.flush_messages || waited_ms >= self.config.flush_ms)
    }

    /// Notes an append of `first_offset` and on that may have to be flushed before it is acknowledged.
    pub(crate) fn note_flush_due(&mut self, first_offset: i64) {
        if self.persistence.unflushed_messages >= self.config.flush_messages {
            let from = self.persistence.due.map_or(first_offset, |due| due.from);
            let until = self.log_end_offset;
            self.persistence.due = Some(DueRecords { from, until });
        }
    }

    /// Plans a flush up to the log end; None if everything is on disk.
    pub fn flush_plan(&mut self, now: Now) -> Result<Option<FlushPlan>, LogError> {
        let plan = self.plan_until(self.log_end_offset)?;
        // Whatever this flush does not cover is appended from now on.
        self.persistence.unflushed_since_ms = now.mono_ms;
        Ok(plan)
    }

    /// Plans a flush of the segments that end at or below `end_offset`, which is the log end or where the active segment begins;
    /// None if they are on disk.
    pub(crate) fn plan_until(&mut self, end_offset: i64) -> Result<Option<FlushPlan>, LogError> {
        let mut files = Vec::new();
        // Segments that end at or below the recovery point are on disk.
        let recovery_point = self.persistence.recovery_point;
        let unflushed = self.segments.values().rev();
        for segment in unflushed.take_while(|segment| segment.footer.next_offset > recovery_point) {
            if segment.footer.next_offset <= end_offset && !segment.is_flushed() {
                files.push(FileToFlush {
                    base_offset: segment.base_offset,
                    flushed_bytes: segment.flushed_bytes,
                    size_bytes: segment.footer.size_bytes,
                    file: self.file_of(segment)?,
                });
            }
        }
        let has_names = self.persistence.names_flushed < self.persistence.names;
        if files.is_empty() && !has_names {
            self.note_flushed(end_offset);
            return Ok(None);
        }
        // Older segments first: the recovery point may not pass them.
        files.reverse();
        // Until one of them is completed, every plan has the folder: none is to be completed before the disk has the names.
        let folder = has_names.then(|| self.folder.clone());
        Ok(Some(self.plan(files, folder, end_offset)))
    }

    /// Takes note of a flush that was done. One that was overtaken by a truncation or the log's end, or made for a log that this
    /// one has taken the place of, counts for nothing.
    pub fn complete_flush(&mut self, plan: FlushPlan) -> Result<(), LogError> {
        let is_mine = plan.log_uid == self.uid && Arc::ptr_eq(&plan.directory, &self.directory);
        // What the index knew of a deleted log is gone: a checkpoint would come back with the next partition of the name.
        if !is_mine || self.closed || plan.generation != self.persistence.generation {
            return Ok(());
        }
        let active = self.active_segment_base_offset();
        for file in &plan.files {
            if let Some(segment) = self.segments.get_mut(&file.base_offset) {
                segment.flushed_bytes = segment
                    .flushed_bytes
                    .max(file.size_bytes.min(segment.footer.size_bytes));
            }
        }
        if plan.folder.is_some() {
            self.persistence.names_flushed = self.persistence.names_flushed.max(plan.names);
        }
        self.persistence.unflushed_messages = (self.persistence.unflushed_messages - plan.messages).max(0);
        self.note_flushed(plan.end_offset);
        // The segment that the recovery point would name may be another one by now, or gone with the producers at its border.
        let overtaken = |checkpoint: &Checkpoint| {
            let named = checkpoint.state.active_base_offset;
            let is_replaced = plan.swaps != self.persistence.swaps && named != active;
            is_replaced || checkpoint.is_at_border() && !self.segments.contains_key(&named)
        };
        match plan.checkpoint {
            Some(checkpoint) if overtaken(&checkpoint) => Ok(()),
            Some(checkpoint) => self.write_checkpoint(&checkpoint),
            None => Ok(()),
        }
    }

    fn note_flushed(&mut self, offset: i64) {
        let persistence = &mut self.persistence;
        persistence.recovery_point = persistence.recovery_point.max(offset);
        persistence.due = persistence.due.and_then(|due| due.after_flush(offset));
    }

    /// A plan for everything below `end_offset`.
    pub(crate) fn plan(
        &self,
        files: Vec<FileToFlush>,
        folder: Option<PathBuf>,
        end_offset: i64,
    ) -> FlushPlan {
        let behind = self.log_end_offset - end_offset;
        FlushPlan {
            directory: self.directory.clone(),
            log_uid: self.uid,
            generation: self.persistence.generation,
            swaps: self.persistence.swaps,
            end_offset,
            messages: (self.persistence.unflushed_messages - behind).max(0),
            files,
            folder,
            names: self.persistence.names,
            checkpoint: None,
        }
    }
}
