//! A replica's move to another log directory: a copy of its log there, which follows it and takes its place.
//!
//! The copy is made in slices, each of which holds the replica's lock only to see where the next one lies. The last records
//! are copied under the lock, a bounded number of bytes, so that appends cannot keep the copy from ever catching up.
//!
//! Invariant: a copy takes the place only after the controller has recorded its directory (KIP-858). What is removed then is
//! in no directory that the records name: if the new one does not open at the next start, the partition is known to be there, and
//! no empty log is made in the old one.
//!
//! A copy goes with its move, unless the log that it follows is what failed: what has arrived may be all that is left of it then,
//! and stays for the next start.
//!
//! Invariant: whoever needs both locks takes the move's first, then the state's. The first may be held while the disk is waited
//! for, the second not, save for the last bytes of a log that is appended to faster than it is copied.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use odradek_broker_log::directory::LogDirectory;
use odradek_broker_log::error::{AppendError, LogError, ReadError};
use odradek_broker_log::log::Log;
use odradek_broker_log::read::{LogSlice, MinOneBatch, Patience, Planned};
use odradek_common::time::Now;

use super::{Replica, Wake, wake};
use crate::data_directory::DataDirectory;

/// Bytes that are copied at once.
const SLICE_BYTES: usize = 1 << 20;
/// Bytes that are copied before the disk is waited for: nobody who shares it finds gigabytes in front of what they flush.
const UNFLUSHED_BYTES_MAX: usize = 16 << 20;
/// How often a copy tries to take the place with a single slice copied, and nothing flushed, while appends wait.
const PATIENT_ATTEMPTS: u32 = 16;
/// Slices that are copied at most while appends wait, if it did not succeed like that.
const LAST_SLICES_MAX: usize = 4;

/// Where a replica's move stands.
#[derive(Default)]
pub(super) enum Moving {
    /// It does not move.
    #[default]
    No,
    /// A copy is made.
    Copying(Box<FutureReplica>),
    /// The copy has taken the place, and what was left behind is not removed yet.
    Settling,
}

/// The copy of a replica's log in another log directory.
pub(super) struct FutureReplica {
    directory: Arc<DataDirectory>,
    log: Log,
    /// Most of it is safe on disk, and the directory knows that it will be the partition's. Not while it is empty and nothing
    /// is on disk.
    announced: bool,
    /// The controller is to record this directory: the copy has everything, or had.
    awaits_record: bool,
    /// Bytes copied since the last flush.
    unflushed_bytes: usize,
    /// How often it tried to take the place.
    attempts: u32,
    /// A step failed: the move is about to end.
    has_failed: bool,
}

/// Where a replica moves to, and how far its copy has come.
#[derive(Clone)]
pub struct MoveProgress {
    /// Where it moves to.
    pub directory: Arc<DataDirectory>,
    /// End of the copy.
    pub log_end_offset: i64,
    /// Bytes of the copy.
    pub size_bytes: u64,
    /// The copy takes the place once the controller has recorded its directory.
    pub awaits_record: bool,
}

/// What a replica has left in the directory that it moved away from.
pub struct LeftBehind {
    /// Where it lived.
    pub directory: Arc<DataDirectory>,
    /// Its log as it was, which nobody uses any more.
    pub log: Log,
}

/// A move that cannot go on.
pub struct FailedMove {
    /// Where the replica was to move.
    pub to: Arc<DataDirectory>,
    /// Why it does not.
    pub error: MoveError,
}

/// What a step of a move came to.
pub enum MoveStep {
    /// So many bytes were copied; there may be more.
    Copied(usize),
    /// The copy has everything, and takes the place when this is called again after the controller has recorded its directory:
    /// see [`Replica::assigned_directory`].
    AwaitsRecord,
    /// The replica lives in the other directory. Call [`Replica::settled`] once what it left is removed, or given up.
    Moved(Box<LeftBehind>),
    /// There is nothing to move, or not any more; why a copy is still there, if it cannot be removed.
    Ended(Option<LogError>),
    /// The move cannot go on. Call [`Replica::end_failed_move`] once it is known how far the failure reaches.
    Failed(Box<FailedMove>),
}

/// Why a step of a move failed.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// A log, or its directory, failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The copy is broken; the log that it follows is not.
    #[error("the copy failed")]
    Copy(#[source] LogError),
    /// What was read of the log is damaged, so that it cannot be copied.
    #[error("the records at offset {offset} cannot be copied: {detail}")]
    Damaged {
        /// Where the slice begins.
        offset: i64,
        /// What is wrong.
        detail: String,
    },
    /// An invariant does not hold; the panic has been reported where it happened.
    #[error("the step panicked")]
    Panicked,
}

/// What became of a wish to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveBegun {
    /// A copy was begun, which somebody has to advance.
    New,
    /// Somebody advances the copy already, here or on its way elsewhere, or it waits for the controller.
    UnderWay,
    /// The replica lives there; a move elsewhere was cancelled.
    NotNeeded,
    /// Not yet: what the last move left is not removed, or the directory has a log by this name.
    TooEarly,
}

impl Replica {
    /// Begins a move to another log directory. A move elsewhere is cancelled, and so is any by a move to where it lives.
    ///
    /// # Errors
    /// A log directory failed.
    pub fn begin_move(&self, to: &Arc<DataDirectory>, now: Now) -> Result<MoveBegun, LogError> {
        let mut moving = self.moving.lock();
        let lives_there = Arc::ptr_eq(&self.directory(), to);
        let is_advanced = match &*moving {
            // Whoever saw it fail is about to end it.
            Moving::Copying(future) if future.has_failed => return Ok(MoveBegun::TooEarly),
            Moving::Copying(future) if Arc::ptr_eq(&future.directory, to) => return Ok(MoveBegun::UnderWay),
            Moving::Settling if !lives_there => return Ok(MoveBegun::TooEarly),
            Moving::Settling => return Ok(MoveBegun::NotNeeded),
            Moving::Copying(future) => !future.awaits_record,
            Moving::No => false,
        };
        self.discard_copy(&mut moving)?;
        if self.is_closed() || lives_there {
            return Ok(MoveBegun::NotNeeded);
        }
        let logs = logs_of(to)?;
        let followed = {
            let mut state = self.state.lock();
            self.note_progress(Some(MoveProgress {
                directory: to.clone(),
                log_end_offset: 0,
                size_bytes: 0,
                awaits_record: false,
            }));
            let log = state.partition.log_mut();
            // A tombstone that goes before it is copied would leave what it deletes in the copy.
            log.stop_compaction();
            log.to_follow()
        };
        let begun = logs.begin_future(followed, now);
        let Ok(Some(log)) = begun else {
            self.note_progress(None);
            return begun.map(|_| MoveBegun::TooEarly);
        };
        *moving = Moving::Copying(Box::new(FutureReplica {
            directory: to.clone(),
            log,
            announced: false,
            awaits_record: false,
            unflushed_bytes: 0,
            attempts: 0,
            has_failed: false,
        }));
        Ok(if is_advanced {
            MoveBegun::UnderWay
        } else {
            MoveBegun::New
        })
    }

    /// Removes the copy, if there is one that nobody is at work in. Whoever is finds that the replica is offline.
    pub(super) fn discard_idle_copy(&self) -> Result<(), LogError> {
        let moving = self.moving.try_lock();
        moving.map_or(Ok(()), |mut moving| self.discard_copy(&mut moving))
    }

    fn discard_copy(&self, moving: &mut Moving) -> Result<(), LogError> {
        self.take_copy(moving).map_or(Ok(()), |future| future.discard())
    }

    /// Ends a move early; what has been copied stays if it is the log that failed.
    fn end_copy(&self, moving: &mut Moving) -> Result<(), LogError> {
        let Some(mut future) = self.take_copy(moving) else {
            return Ok(());
        };
        if !self.is_offline() || self.is_deleted() || future.directory.is_offline() {
            return future.discard();
        }
        let logs = logs_of(&future.directory)?;
        logs.leave_future(&mut future.log);
        if self.is_deleted() {
            // Whoever deletes the partition may have looked for its copies before this one was among them.
            logs.discard_interrupted(future.log.identity())?;
        }
        Ok(())
    }

    fn take_copy(&self, moving: &mut Moving) -> Option<Box<FutureReplica>> {
        match std::mem::take(moving) {
            Moving::Copying(future) => {
                self.note_progress(None);
                Some(future)
            }
            other @ (Moving::No | Moving::Settling) => {
                *moving = other;
                None
            }
        }
    }

    /// Ends the move whose last step failed, unless another was begun since.
    ///
    /// # Errors
    /// The copy cannot be removed.
    pub fn end_failed_move(&self) -> Result<(), LogError> {
        let mut moving = self.moving.lock();
        match &*moving {
            Moving::Copying(future) if future.has_failed => self.end_copy(&mut moving),
            Moving::Copying(_) | Moving::No | Moving::Settling => Ok(()),
        }
    }

    /// What a move has left is removed, or given up: there can be another move.
    pub fn settled(&self) {
        let mut moving = self.moving.lock();
        if matches!(*moving, Moving::Settling) {
            *moving = Moving::No;
        }
    }

    /// Where this replica moves to, if it does.
    #[must_use]
    pub fn move_progress(&self) -> Option<MoveProgress> {
        self.progress.lock().clone()
    }

    /// True while this replica moves: it is not compacted.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.progress.lock().is_some()
    }

    /// True while a copy waits for the controller to record its directory. Whoever records it advances the move.
    #[must_use]
    pub fn awaits_record(&self) -> bool {
        self.directory_to_record().is_some()
    }

    /// The directory of a copy that waits for the controller to record it.
    pub(super) fn directory_to_record(&self) -> Option<Arc<DataDirectory>> {
        let progress = self.progress.lock();
        let awaits = progress.as_ref().filter(|progress| progress.awaits_record);
        awaits.map(|progress| progress.directory.clone())
    }

    /// Copies the next slice, or lets the copy take the place. Blocks.
    pub fn advance_move(&self, now: Now) -> MoveStep {
        let mut moving = self.moving.lock();
        let Moving::Copying(future) = &mut *moving else {
            return MoveStep::Ended(None);
        };
        if self.is_offline() || future.directory.is_offline() {
            return MoveStep::Ended(self.end_copy(&mut moving).err());
        }
        if future.has_failed {
            // Whoever saw it fail ends it, once it is known which of the two logs did.
            return MoveStep::Ended(None);
        }
        let to = future.directory.clone();
        // A panic leaves neither the copy nor its thread behind.
        let step = std::panic::catch_unwind(AssertUnwindSafe(|| self.step(&mut moving, now)));
        let error = match step {
            Ok(Ok(step)) => return step,
            Ok(Err(error)) => error,
            Err(_) => MoveError::Panicked,
        };
        if let Moving::Copying(future) = &mut *moving {
            // Under the same lock: a move that is begun from now on is another one.
            future.has_failed = true;
        }
        MoveStep::Failed(Box::new(FailedMove { to, error }))
    }

    fn step(&self, moving: &mut Moving, now: Now) -> Result<MoveStep, MoveError> {
        let Moving::Copying(future) = moving else {
            return Ok(MoveStep::Ended(None));
        };
        let (copied, log_end_offset) = self.copy_slice(future, now)?;
        self.note_progress(Some(future.progress()));
        let Some(copied) = copied else {
            return Ok(MoveStep::Copied(0));
        };
        future.unflushed_bytes += copied;
        if future.unflushed_bytes >= UNFLUSHED_BYTES_MAX {
            future.flush().map_err(of_copy)?;
        }
        if copied > 0 && future.log.log_end_offset() < log_end_offset {
            return Ok(MoveStep::Copied(copied));
        }
        if future.log.is_made() && !future.announced {
            self.announce(future, now).map_err(of_copy)?;
            return Ok(MoveStep::Copied(copied));
        }
        if !self.is_recorded(future) {
            return Ok(MoveStep::AwaitsRecord);
        }
        // What was acknowledged as being on disk has to be, wherever the log lives. While appends wait, only the rest is flushed.
        if future.log.durable_end_offset() < self.with(|p| p.log().durable_end_offset()) {
            future.flush().map_err(of_copy)?;
        }
        match self.take_place(moving, now)? {
            Some(left) => Ok(MoveStep::Moved(Box::new(left))),
            None => Ok(MoveStep::Copied(copied)),
        }
    }

    /// Copies what lies at the copy's end; None if it could not be looked at yet. Also tells where the log ended.
    fn copy_slice(&self, future: &mut FutureReplica, now: Now) -> Result<(Option<usize>, i64), MoveError> {
        let bounds = self.with(|p| p.log_mut().take_bounds());
        future.log.follow(now, bounds).map_err(of_copy)?;
        let copied = match self.copy_behind(future, now) {
            // What was read is not what the log holds any more.
            Err(_) if self.with(|p| p.log().is_cut()) => None,
            copied => copied?,
        };
        Ok((copied, bounds.log_end_offset))
    }

    fn copy_behind(&self, future: &mut FutureReplica, now: Now) -> Result<Option<usize>, MoveError> {
        let planned = self.with(|p| plan(p.log(), &future.log))?;
        match planned {
            Some(Planned::Slice(slice)) => future.append(&slice, &self.directory(), now).map(Some),
            Some(Planned::Cold(slice)) => {
                // Read so that it is in memory when it is looked at under the lock again.
                read(&slice, &self.directory())?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Whether the controller has recorded the copy's directory.
    fn is_recorded(&self, future: &mut FutureReplica) -> bool {
        // In this order: whoever brings the record looks afterwards whether somebody waits for it.
        future.awaits_record = true;
        self.note_progress(Some(future.progress()));
        self.with(|p| p.recorded_directory()) == future.directory.id()
    }

    fn announce(&self, future: &mut FutureReplica, now: Now) -> Result<(), LogError> {
        let (from, to) = (self.directory(), logs_of(&future.directory)?);
        let moves = logs_of(&from)?.moves(future.log.identity())?;
        future.announced = to.announce_future(&mut future.log, moves + 1, now)?;
        Ok(())
    }

    /// Puts the copy in the place of the log, if no more than a few slices are missing.
    fn take_place(&self, moving: &mut Moving, now: Now) -> Result<Option<LeftBehind>, MoveError> {
        let Moving::Copying(future) = moving else {
            return Ok(None);
        };
        future.attempts += 1;
        let is_patient = future.attempts <= PATIENT_ATTEMPTS;
        let mut state = self.state.lock();
        let log = state.partition.log_mut();
        // Invariant: what is on disk of a copy that takes the place is announced. The log may have come to be there meanwhile.
        let is_unannounced = log.is_made() && !future.announced;
        if self.is_offline() || future.directory.is_offline() || log.is_cut() || is_unannounced {
            return Ok(None);
        }
        let slices_max = if is_patient { 1 } else { LAST_SLICES_MAX };
        if !future.complete(log, slices_max, &self.directory(), now)? {
            return Ok(None);
        }
        if future.log.durable_end_offset() < log.durable_end_offset() {
            if is_patient {
                return Ok(None);
            }
            future.flush().map_err(of_copy)?;
        }
        future.log.succeed(log)?;
        logs_of(&future.directory)?.promote(&mut future.log)?;
        let Moving::Copying(future) = std::mem::replace(moving, Moving::Settling) else {
            unreachable!("it was there");
        };
        let left = LeftBehind {
            log: std::mem::replace(log, future.log),
            directory: self.directory.swap(future.directory),
        };
        self.note_progress(None);
        state.partition.appended(now);
        let unflushed = state.partition.log().durable_end_offset() < state.partition.log().log_end_offset();
        wake(state, Wake::Everybody);
        if unflushed {
            self.queue_flush();
        }
        Ok(Some(left))
    }

    fn note_progress(&self, progress: Option<MoveProgress>) {
        *self.progress.lock() = progress;
    }
}

/// What a copy says of itself must not be taken for a failure of the log that it follows.
fn of_copy(error: LogError) -> MoveError {
    match error {
        LogError::Corrupt { .. } | LogError::Closed(_) => MoveError::Copy(error),
        LogError::Locked { .. }
        | LogError::Directory { .. }
        | LogError::NoRoom { .. }
        | LogError::Unsynced { .. }
        | LogError::Offline { .. }
        | LogError::Open(_) => MoveError::Log(error),
    }
}

impl FutureReplica {
    fn progress(&self) -> MoveProgress {
        MoveProgress {
            directory: self.directory.clone(),
            log_end_offset: self.log.log_end_offset(),
            size_bytes: self.log.size_bytes(),
            awaits_record: self.awaits_record,
        }
    }

    /// Appends a slice of the log that is followed; returns how many bytes that were.
    fn append(&mut self, slice: &LogSlice, from: &DataDirectory, now: Now) -> Result<usize, MoveError> {
        if slice.is_empty() {
            return Ok(0);
        }
        let records = read(slice, from)?;
        match self.log.append_fetched(now, &records, i32::MAX) {
            Ok(()) => Ok(records.len()),
            Err(AppendError::Log(error)) => Err(of_copy(error)),
            Err(
                error @ (AppendError::Corrupt(_) | AppendError::OutOfOrder { .. } | AppendError::Refused(_)),
            ) => Err(MoveError::Damaged {
                offset: slice.start_offset,
                detail: error.to_string(),
            }),
        }
    }

    /// Copies what is missing, if that is not more than so many slices that are in memory; false if it is.
    fn complete(
        &mut self,
        log: &Log,
        slices_max: usize,
        from: &DataDirectory,
        now: Now,
    ) -> Result<bool, MoveError> {
        for copied in 0..=slices_max {
            match plan(log, &self.log)? {
                Some(Planned::Slice(slice)) if slice.is_empty() => return Ok(true),
                Some(Planned::Slice(slice)) if copied < slices_max => _ = self.append(&slice, from, now)?,
                Some(Planned::Slice(_) | Planned::Cold(_)) | None => break,
            }
        }
        Ok(false)
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.unflushed_bytes = 0;
        self.log.flush()
    }

    fn discard(mut self) -> Result<(), LogError> {
        logs_of(&self.directory)?.delete_partition(&mut self.log)
    }
}

/// What of a log lies behind the end of its copy; None if the copy's end is outside of the log, which it will be told.
fn plan(log: &Log, copy: &Log) -> Result<Option<Planned>, MoveError> {
    let offset = copy.log_end_offset();
    match log.read_plan_with(Patience::Refuse, offset, SLICE_BYTES, i64::MAX, MinOneBatch::Yes) {
        Ok(planned) => Ok(Some(planned)),
        Err(ReadError::OffsetOutOfRange { .. }) => Ok(None),
        Err(error @ ReadError::Damaged { .. }) => Err(MoveError::Damaged {
            offset,
            detail: error.to_string(),
        }),
        Err(ReadError::Log(error)) => Err(error.into()),
    }
}

fn read(slice: &LogSlice, directory: &DataDirectory) -> Result<bytes::Bytes, LogError> {
    slice.read().map_err(|source| LogError::Directory {
        path: directory.path().to_owned(),
        attempt: format!("read the log at offset {}", slice.start_offset),
        source,
    })
}

fn logs_of(directory: &DataDirectory) -> Result<&LogDirectory, LogError> {
    let online = directory.logs().filter(|_| !directory.is_offline());
    online.ok_or_else(|| LogError::Offline {
        path: directory.path().to_owned(),
    })
}
