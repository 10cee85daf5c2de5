//! A replica's move to another log directory: a copy of its log there, which follows it and takes its place.
//!
//! The copy is made in slices, each of which holds the replica's lock only to see where the next one lies. The last records
//! are copied under the lock, a bounded number of bytes, so that appends cannot keep the copy from ever catching up.
//!
//! Invariant: whoever needs both locks takes the future's first, then the state's.

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
/// Slices that are copied at most while appends wait.
const LAST_SLICES_MAX: usize = 4;

/// The copy of a replica's log in another log directory.
pub(super) struct FutureReplica {
    directory: Arc<DataDirectory>,
    log: Log,
    /// Most of it is safe on disk, and the directory knows that it will be the partition's. Not while it is empty and nothing
    /// is on disk.
    announced: bool,
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
}

/// What a replica has left in the directory that it moved away from.
pub struct LeftBehind {
    /// Where it lived.
    pub directory: Arc<DataDirectory>,
    /// Its log as it was, which nobody uses any more.
    pub log: Log,
}

/// What a step of a move came to.
pub enum MoveStep {
    /// So many bytes were copied; there may be more.
    Copied(usize),
    /// The replica lives in the other directory.
    Moved(Box<LeftBehind>),
    /// There is nothing to move.
    Ended,
}

/// Why a step of a move failed.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// A log, or its directory, failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What was read of the log is damaged, so that it cannot be copied.
    #[error("the records at offset {offset} cannot be copied: {detail}")]
    Damaged {
        /// Where the slice begins.
        offset: i64,
        /// What is wrong.
        detail: String,
    },
}

/// What became of a wish to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveBegun {
    /// A copy was begun, which somebody has to advance.
    New,
    /// Somebody advances the copy already, here or on its way elsewhere.
    UnderWay,
    /// The replica lives there; a move elsewhere was cancelled.
    NotNeeded,
}

impl Replica {
    /// Begins a move to another log directory. A move elsewhere is cancelled, and so is any by a move to where it lives.
    ///
    /// # Errors
    /// A log directory failed.
    pub fn begin_move(&self, to: &Arc<DataDirectory>, now: Now) -> Result<MoveBegun, LogError> {
        let mut future = self.future.lock();
        if future
            .as_ref()
            .is_some_and(|future| Arc::ptr_eq(&future.directory, to))
        {
            return Ok(MoveBegun::UnderWay);
        }
        let before = future.take();
        let was_moving = before.is_some();
        self.note_progress(None);
        if let Some(before) = before {
            before.discard()?;
        }
        if self.is_closed() || Arc::ptr_eq(&self.directory(), to) {
            return Ok(MoveBegun::NotNeeded);
        }
        let logs = logs_of(to)?;
        let followed = {
            let mut state = self.state.lock();
            self.note_progress(Some(MoveProgress {
                directory: to.clone(),
                log_end_offset: 0,
                size_bytes: 0,
            }));
            let log = state.partition.log_mut();
            // A tombstone that goes before it is copied would leave what it deletes in the copy.
            log.stop_compaction();
            log.to_follow()
        };
        let log = logs.begin_future(followed, now).inspect_err(|_| {
            self.note_progress(None);
        })?;
        *future = Some(FutureReplica {
            directory: to.clone(),
            log,
            announced: false,
        });
        Ok(if was_moving {
            MoveBegun::UnderWay
        } else {
            MoveBegun::New
        })
    }

    /// The replica stays where it is.
    ///
    /// # Errors
    /// The copy cannot be removed.
    pub fn cancel_move(&self) -> Result<(), LogError> {
        let future = self.future.lock().take();
        self.note_progress(None);
        future.map_or(Ok(()), FutureReplica::discard)
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

    /// Copies the next slice, or lets the copy take the place. Blocks.
    ///
    /// # Errors
    /// The move cannot go on; it is not cancelled by that.
    pub fn advance_move(&self, now: Now) -> Result<MoveStep, MoveError> {
        let mut guard = self.future.lock();
        let works = |future: &&mut FutureReplica| !self.is_offline() && !future.directory.is_offline();
        let Some(future) = guard.as_mut().filter(works) else {
            return Ok(MoveStep::Ended);
        };
        let (copied, log_end_offset) = self.copy_slice(future, now)?;
        self.note_progress(Some(MoveProgress {
            directory: future.directory.clone(),
            log_end_offset: future.log.log_end_offset(),
            size_bytes: future.log.size_bytes(),
        }));
        let Some(copied) = copied else {
            return Ok(MoveStep::Copied(0));
        };
        if copied > 0 && future.log.log_end_offset() < log_end_offset {
            return Ok(MoveStep::Copied(copied));
        }
        if future.log.is_made() && !future.announced {
            self.announce(future, now)?;
            return Ok(MoveStep::Copied(copied));
        }
        match self.take_place(&mut guard, now)? {
            Some(left) => Ok(MoveStep::Moved(Box::new(left))),
            None => Ok(MoveStep::Copied(copied)),
        }
    }

    /// Copies what lies at the copy's end; None if it could not be looked at yet. Also tells where the log ended.
    fn copy_slice(&self, future: &mut FutureReplica, now: Now) -> Result<(Option<usize>, i64), MoveError> {
        let bounds = self.with(|p| p.log_mut().take_bounds());
        future.log.follow(now, bounds)?;
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

    fn announce(&self, future: &mut FutureReplica, now: Now) -> Result<(), LogError> {
        let (from, to) = (self.directory(), logs_of(&future.directory)?);
        let moves = logs_of(&from)?.moves(future.log.identity())?;
        future.announced = to.announce_future(&mut future.log, moves + 1, now)?;
        Ok(())
    }

    /// Puts the copy in the place of the log, if no more than a few slices are missing.
    fn take_place(
        &self,
        guard: &mut Option<FutureReplica>,
        now: Now,
    ) -> Result<Option<LeftBehind>, MoveError> {
        let Some(future) = guard.as_mut() else {
            return Ok(None);
        };
        let mut state = self.state.lock();
        let log = state.partition.log_mut();
        // Invariant: what is on disk of a copy that takes the place is announced. The log may have come to be there meanwhile.
        let is_unannounced = log.is_made() && !future.announced;
        if self.is_offline() || future.directory.is_offline() || log.is_cut() || is_unannounced {
            return Ok(None);
        }
        let mut is_complete = false;
        for _ in 0..=LAST_SLICES_MAX {
            match plan(log, &future.log)? {
                Some(Planned::Slice(slice)) if slice.is_empty() => {
                    is_complete = true;
                    break;
                }
                Some(Planned::Slice(slice)) => _ = future.append(&slice, &self.directory(), now)?,
                Some(Planned::Cold(_)) | None => break,
            }
        }
        if !is_complete {
            return Ok(None);
        }
        future.log.succeed(log)?;
        if future.log.durable_end_offset() < log.durable_end_offset() {
            // What was acknowledged as being on disk has to be, wherever the log lives.
            future.log.flush()?;
        }
        logs_of(&future.directory)?.promote(&mut future.log)?;
        let Some(FutureReplica {
            directory, log: new, ..
        }) = guard.take()
        else {
            unreachable!("it was there");
        };
        let left = LeftBehind {
            log: std::mem::replace(log, new),
            directory: self.directory.swap(directory),
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

impl FutureReplica {
    /// Appends a slice of the log that is followed; returns how many bytes that were.
    fn append(&mut self, slice: &LogSlice, from: &DataDirectory, now: Now) -> Result<usize, MoveError> {
        if slice.is_empty() {
            return Ok(0);
        }
        let records = read(slice, from)?;
        match self.log.append_fetched(now, &records) {
            Ok(()) => Ok(records.len()),
            Err(AppendError::Log(error)) => Err(error.into()),
            Err(
                error @ (AppendError::Corrupt(_) | AppendError::OutOfOrder { .. } | AppendError::Refused(_)),
            ) => Err(MoveError::Damaged {
                offset: slice.start_offset,
                detail: error.to_string(),
            }),
        }
    }

    fn discard(mut self) -> Result<(), LogError> {
        logs_of(&self.directory)?.delete_partition(&mut self.log)
    }
}

/// What of a log lies behind the end of its copy; None if the copy's end is outside of the log, which it will be told.
fn plan(log: &Log, copy: &Log) -> Result<Option<Planned>, LogError> {
    let offset = copy.log_end_offset();
    match log.read_plan_with(Patience::Refuse, offset, SLICE_BYTES, i64::MAX, MinOneBatch::Yes) {
        Ok(planned) => Ok(Some(planned)),
        Err(ReadError::OffsetOutOfRange { .. }) => Ok(None),
        Err(ReadError::Log(error)) => Err(error),
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
