//! Reading a replica: what a fetch of one partition would return, and who is told when there is more.
//!
//! A plan is made under the replica's lock; the bytes are read or sent later, outside of it.

use std::sync::Arc;

use odradek_broker_core::fetch_session::SlotId;
use odradek_broker_log::error::{LogError, ReadError};
use odradek_broker_log::read::{LogSlice, MinOneBatch, Patience, Planned};
use odradek_broker_log::timestamps::{TimestampedOffset, offset_for_timestamp};
use odradek_common::error::ErrorCode;
use odradek_common::records::batch::{BatchHeader, HEADER_SIZE_BYTES, TimestampType};

use super::watchers::Watcher;
use super::{Offsets, Replica, State, offsets};
use crate::watch::Watch;

/// How far a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// A follower: to the log end offset.
    LogEnd,
    /// A consumer: to the high watermark.
    ReadUncommitted,
    /// A transactional consumer: to the last stable offset.
    ReadCommitted,
}

/// What a read of one partition found.
#[derive(Debug)]
pub struct ReadPlan {
    /// The offsets to answer with.
    pub offsets: Offsets,
    /// Where the batches are; `None` if there is nothing to read at this offset yet.
    pub slice: Option<LogSlice>,
    /// Set if nothing can be said before these bytes are in memory: they are to be read ahead, without the lock.
    pub cold: Option<LogSlice>,
    /// Set if records that the reader may see were left out: to wait for more of them would bring no more than another read.
    pub is_cut: bool,
    /// Set if the follower's log parted from this one.
    pub diverging: Option<(i32, i64)>,
    /// For read_committed: producer id and first offset of aborted transactions in the slice.
    pub aborted: Vec<(i64, i64)>,
}

impl ReadPlan {
    /// Nothing to read there yet.
    fn nothing(offsets: Offsets) -> Self {
        Self {
            offsets,
            slice: None,
            cold: None,
            is_cut: false,
            diverging: None,
            aborted: Vec::new(),
        }
    }

    /// Bytes of the batches.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.slice.as_ref().map_or(0, |slice| slice.size_bytes)
    }
}

/// One partition's part of a read.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// First offset wanted.
    pub offset: i64,
    /// Most bytes wanted.
    pub max_bytes: usize,
    /// Return one batch even if it is larger than `max_bytes`.
    pub min_one_batch: bool,
    /// How far to read.
    pub isolation: Isolation,
    /// Epoch of the leader that the caller knows; -1 if none.
    pub current_leader_epoch: i32,
    /// Epoch of the caller's last record; -1 if it does not say.
    pub last_fetched_epoch: i32,
    /// Consumers may read from followers (KIP-392).
    pub follower_may_answer: bool,
    /// Whether the lock may be held while the disk is waited for.
    pub patience: Patience,
}

/// How often a batch's header is read ahead before it is given up.
const COLD_READS_MAX: usize = 8;

impl Replica {
    /// The first record, by offset, whose timestamp is at or after `timestamp`. Blocks, and holds the lock only to see which
    /// segment may hold it.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<TimestampedOffset>, LogError> {
        offset_for_timestamp(|from| self.with(|p| p.log().timestamp_search(timestamp, from)))
    }

    /// The first record that has the greatest timestamp of the log. Blocks.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn max_timestamp_offset(&self) -> Result<Option<TimestampedOffset>, LogError> {
        let greatest = self.with(|p| p.log().max_timestamp());
        greatest.map_or(Ok(None), |timestamp| self.offset_for_timestamp(timestamp))
    }

    /// Timestamp of the first record of the batch that holds this offset; None if it has none, or cannot be read. Blocks, and
    /// does so without the lock.
    #[must_use]
    pub fn timestamp_at(&self, offset: i64) -> Option<i64> {
        for _ in 0..COLD_READS_MAX {
            let planned = self.with(|p| {
                let (patience, yes) = (Patience::Refuse, MinOneBatch::Yes);
                p.log().read_plan_with(patience, offset, 1, i64::MAX, yes)
            });
            match planned.ok()? {
                Planned::Slice(mut slice) => {
                    slice.size_bytes = slice.size_bytes.min(HEADER_SIZE_BYTES);
                    let header = BatchHeader::parse(&slice.read().ok()?).ok()?;
                    // Where tombstones wait, the first timestamp is when they go.
                    let has_first = header.timestamp_type() == TimestampType::CreateTime
                        && header.delete_horizon_ms().is_none();
                    let timestamp = if has_first {
                        header.base_timestamp
                    } else {
                        header.max_timestamp
                    };
                    return (timestamp >= 0).then_some(timestamp);
                }
                // In memory when it is looked at again.
                Planned::Cold(cold) => _ = cold.read().ok()?,
            }
        }
        None
    }

    /// What a read of one partition would return. The bytes are read later, outside the lock.
    ///
    /// # Errors
    /// Not the leader, a fenced epoch, or an offset outside the log.
    pub fn read(&self, request: ReadRequest) -> Result<ReadPlan, ErrorCode> {
        read(&mut self.state.lock(), request)
    }

    /// As [`Replica::read`]. If less than `enough_bytes` is found, `watcher` is told of every change from then on, until it
    /// is taken off with [`Replica::unwatch`]; the second value tells whether it is.
    ///
    /// # Errors
    /// As [`Replica::read`]; then nobody is told anything.
    pub fn read_or_watch(
        &self,
        request: ReadRequest,
        enough_bytes: usize,
        watcher: impl FnOnce() -> Watcher,
    ) -> Result<(ReadPlan, bool), ErrorCode> {
        let mut state = self.state.lock();
        let plan = read(&mut state, request)?;
        let watches = plan.size_bytes() < enough_bytes;
        if watches {
            state.watchers.add(watcher(), plan.offsets);
        }
        Ok((plan, watches))
    }

    /// Tells `watcher` of every change from now on, until it is taken off.
    pub fn watch(&self, watcher: Watcher) {
        let mut state = self.state.lock();
        let now = offsets(&state.partition);
        state.watchers.add(watcher, now);
    }

    /// How many are told of changes.
    #[cfg(test)]
    pub(crate) fn watchers(&self) -> usize {
        self.state.lock().watchers.len()
    }

    /// Takes a watcher off again.
    pub fn unwatch(&self, watch: &Arc<Watch>, slot: SlotId) {
        self.state.lock().watchers.remove(watch, slot);
    }
}

fn read(state: &mut State, request: ReadRequest) -> Result<ReadPlan, ErrorCode> {
    let partition = &mut state.partition;
    match partition.check_leader(request.current_leader_epoch) {
        Ok(()) => {}
        Err(ErrorCode::NotLeaderOrFollower)
            if request.follower_may_answer && partition.leader_to_follow().is_some() => {}
        Err(code) => return Err(code),
    }
    let offsets = offsets(partition);
    if let Some(diverging) = partition.diverging_epoch(request.offset, request.last_fetched_epoch) {
        if diverging.1 < 0 {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        return Ok(ReadPlan {
            diverging: Some(diverging),
            ..ReadPlan::nothing(offsets)
        });
    }
    if request.offset < offsets.log_start || request.offset > offsets.log_end {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let upper_bound = match request.isolation {
        Isolation::LogEnd => offsets.log_end,
        Isolation::ReadUncommitted => offsets.high_watermark,
        Isolation::ReadCommitted => offsets.last_stable,
    };
    if request.offset >= upper_bound {
        return Ok(ReadPlan::nothing(offsets));
    }
    let log = partition.log();
    let min_one_batch = if request.min_one_batch {
        MinOneBatch::Yes
    } else {
        MinOneBatch::No
    };
    let planned = log.read_plan_with(
        request.patience,
        request.offset,
        request.max_bytes,
        upper_bound,
        min_one_batch,
    );
    let slice = match planned {
        Ok(Planned::Slice(slice)) => slice,
        Ok(Planned::Cold(cold)) => {
            return Ok(ReadPlan {
                cold: Some(cold),
                ..ReadPlan::nothing(offsets)
            });
        }
        Err(error) => return Err(refusal(&error, partition.image().replicas.len())),
    };
    let aborted = if request.isolation == Isolation::ReadCommitted && !slice.is_empty() {
        let aborted = log.aborted_transactions(request.offset, slice.end_offset);
        aborted
            .iter()
            .map(|aborted| (aborted.producer_id, aborted.first_offset))
            .collect()
    } else {
        Vec::new()
    };
    // Nothing at all, though it was allowed one batch of any size, is a gap.
    let is_cut = slice.end_offset < upper_bound && (!slice.is_empty() || !request.min_one_batch);
    Ok(ReadPlan {
        offsets,
        slice: Some(slice),
        cold: None,
        is_cut,
        diverging: None,
        aborted,
    })
}

/// What a reader of a partition with so many replicas is told.
fn refusal(error: &ReadError, replicas: usize) -> ErrorCode {
    match error {
        ReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        // Clients ask again after a storage error, and another replica will have replaced it; without one they have to know.
        ReadError::Damaged { .. } if replicas < 2 => ErrorCode::CorruptMessage,
        ReadError::Damaged { .. } | ReadError::Log(_) => ErrorCode::KafkaStorageError,
    }
}
