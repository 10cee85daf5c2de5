//! Moving the recovery point.
//!
//! A checkpoint is a flush that also writes down the recovery point, with the producers at it. The index goes to RocksDB
//! before, the recovery point after the fdatasync, so what a crash leaves is never ahead of the data.
//!
//! The one that comes by itself moves it to where the active segment begins: flushing a file holds up who appends to it. The
//! index and the producers at that border were written when the segment before was sealed.

use odradek_broker_core::aborted::AbortedTransaction;
use odradek_common::time::Now;

use crate::error::LogError;
use crate::flush::{DueRecords, FlushPlan};
use crate::log::Log;
use crate::segment::{FOOTER_SIZE_BYTES, Footer, UNCHECKED_FOOTER_SIZE_BYTES};
use crate::store::{Batch, Kind, PartitionKey, Survive};

/// What of a log is safe on disk.
#[derive(Debug)]
pub(crate) struct Persistence {
    /// Everything below was fdatasync'ed.
    pub(crate) recovery_point: i64,
    /// The recovery point that was written down.
    pub(crate) checkpointed: Option<i64>,
    /// Whether it was lowered since the index was flushed: a power loss may bring back the one before.
    pub(crate) lowered: bool,
    /// Offset of the producer snapshot that belongs to it.
    pub(crate) snapshot: Option<i64>,
    /// Abort markers below this offset are written down.
    pub(crate) aborted_until: i64,
    /// The high watermark that was written down.
    pub(crate) high_watermark: Option<i64>,
    /// Records appended since the last flush.
    pub(crate) unflushed_messages: i64,
    /// Bytes appended, or read by recovery, since the log was opened.
    pub(crate) appended_bytes: u64,
    /// How many of them, the oldest, are below the recovery point that was written down.
    pub(crate) checkpointed_bytes: u64,
    /// Where the log ended when a periodic checkpoint looked last.
    pub(crate) seen_end: Option<i64>,
    /// Not after the first record that no flush covers was appended.
    pub(crate) unflushed_since_ms: u64,
    /// Records that `flush.messages` wants on disk before they are acknowledged.
    pub(crate) due: Option<DueRecords>,
    /// Grows when names in the folder change, or the folder itself has another one.
    pub(crate) names: u64,
    /// Which of these changes the disk has.
    pub(crate) names_flushed: u64,
    /// Grows when the log's end moves back: plans made before are void.
    pub(crate) generation: u64,
    /// The lowest offset that the log's end went back to since whoever copies the log asked last.
    pub(crate) cut: Option<i64>,
    /// Grows when compaction replaces segments.
    pub(crate) swaps: u64,
    /// Whether there was no room to flush the index after a repair.
    pub(crate) owes_flush: bool,
    /// Whether the index does not know yet where the log begins, and which segments are gone.
    pub(crate) owes_start: bool,
}

impl Persistence {
    /// What is safe of a log that was just opened with what is written down.
    pub(crate) fn of(state: Option<&State>, high_watermark: Option<i64>, now: Now) -> Self {
        Self {
            recovery_point: state.map_or(0, |state| state.recovery_point),
            checkpointed: state.map(|state| state.recovery_point),
            lowered: false,
            snapshot: state
                .filter(|state| state.has_producers)
                .map(|state| state.recovery_point),
            aborted_until: state.map_or(0, |state| state.recovery_point),
            high_watermark,
            unflushed_messages: 0,
            appended_bytes: 0,
            checkpointed_bytes: 0,
            seen_end: None,
            unflushed_since_ms: now.mono_ms,
            due: None,
            names: 0,
            names_flushed: 0,
            generation: 0,
            cut: None,
            swaps: 0,
            owes_flush: false,
            owes_start: false,
        }
    }

    /// A file of the folder was made, removed or given another name.
    pub(crate) fn note_names_changed(&mut self) {
        self.names += 1;
    }
}

/// The recovery point as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) recovery_point: i64,
    /// Base offset of the segment that contains the recovery point, -1 without segments.
    pub(crate) active_base_offset: i64,
    /// That segment's contents below the recovery point.
    pub(crate) footer: Footer,
    /// Whether producers were known; their snapshot then lies at the recovery point.
    pub(crate) has_producers: bool,
}

const STATE_VERSION: u8 = 2;
/// Its footer has no checksum.
const UNCHECKED_STATE_VERSION: u8 = 1;
const STATE_SIZE_BYTES: usize = 1 + 8 + 8 + FOOTER_SIZE_BYTES + 1;

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(STATE_SIZE_BYTES);
        bytes.push(STATE_VERSION);
        bytes.extend_from_slice(&self.recovery_point.to_be_bytes());
        bytes.extend_from_slice(&self.active_base_offset.to_be_bytes());
        bytes.extend_from_slice(&self.footer.encode());
        bytes.push(u8::from(self.has_producers));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let footer_size_bytes = match *bytes.first()? {
            STATE_VERSION => FOOTER_SIZE_BYTES,
            UNCHECKED_STATE_VERSION => UNCHECKED_FOOTER_SIZE_BYTES,
            _ => return None,
        };
        let (footer, has_producers) = bytes.get(17..)?.split_at_checked(footer_size_bytes)?;
        let &[has_producers] = has_producers else {
            return None;
        };
        Some(Self {
            recovery_point: i64::from_be_bytes(bytes[1..9].try_into().ok()?),
            active_base_offset: i64::from_be_bytes(bytes[9..17].try_into().ok()?),
            footer: Footer::decode(footer)?,
            has_producers: has_producers != 0,
        })
    }
}

pub(crate) struct Checkpoint {
    pub(crate) state: State,
    /// The producers at the recovery point, unless there are none or they are written down already.
    producers: Option<Vec<u8>>,
    aborted: Vec<AbortedTransaction>,
    /// What [`Persistence::checkpointed_bytes`] will be.
    bytes: u64,
}

impl Checkpoint {
    /// Whether the producers are those that were written down when the segment began.
    pub(crate) fn is_at_border(&self) -> bool {
        self.state.has_producers && self.producers.is_none()
    }
}

impl Log {
    /// Flushes, and writes the recovery point down.
    pub fn checkpoint(&mut self, now: Now) -> Result<(), LogError> {
        let Some(plan) = self.resting_checkpoint_plan(now)? else {
            return Ok(());
        };
        plan.sync()?;
        self.complete_flush(plan)
    }

    /// Bytes that recovery would have to read, at most, if the process ended now and the index was flushed.
    #[must_use]
    pub fn uncheckpointed_bytes(&self) -> u64 {
        let Persistence {
            appended_bytes,
            checkpointed_bytes,
            ..
        } = self.persistence;
        match appended_bytes.saturating_sub(checkpointed_bytes) {
            0 => 0,
            // What retention has deleted nobody will read.
            bytes => bytes.min(self.size_bytes()),
        }
    }

    /// Plans a checkpoint; None if the recovery point that is written down is the log end.
    pub fn checkpoint_plan(&mut self, now: Now) -> Result<Option<FlushPlan>, LogError> {
        if !self.is_made() {
            return Ok(None);
        }
        // First, because the index may have no room: the flush has taken note of nothing then.
        self.write_start()?;
        self.spill_index()?;
        let flush = self.flush_plan(now)?;
        let is_written = self.persistence.checkpointed == Some(self.log_end_offset) && !self.epochs_dirty;
        if flush.is_none() && is_written {
            return Ok(None);
        }
        let mut plan = flush.unwrap_or_else(|| self.plan(Vec::new(), None, self.log_end_offset));
        let state = self.state();
        plan.checkpoint = Some(Checkpoint {
            state,
            producers: state.has_producers.then(|| self.producers.encode()),
            aborted: self.unwritten_aborted().copied().collect(),
            bytes: self.persistence.appended_bytes,
        });
        Ok(Some(plan))
    }

    /// Plans a checkpoint of a log that nobody appends to: what it has ahead is given back before it could be flushed.
    pub fn resting_checkpoint_plan(&mut self, now: Now) -> Result<Option<FlushPlan>, LogError> {
        self.give_reserve_back();
        self.checkpoint_plan(now)
    }

    /// Plans the checkpoint that comes by itself: of the whole log if nothing was appended since this was asked last, or all of
    /// it is on disk anyhow, else of the sealed segments alone. None if the recovery point cannot move like that.
    pub fn periodic_checkpoint_plan(&mut self, now: Now) -> Result<Option<FlushPlan>, LogError> {
        if !self.is_made() {
            return Ok(None);
        }
        let end_offset = self.log_end_offset;
        let stands_still = self.persistence.seen_end.replace(end_offset) == Some(end_offset);
        if stands_still {
            return self.resting_checkpoint_plan(now);
        }
        if self.persistence.recovery_point >= end_offset {
            return self.checkpoint_plan(now);
        }
        self.sealed_checkpoint_plan(now)
    }

    /// Plans a checkpoint of the sealed segments, up to where the active one begins; None if the recovery point that is written
    /// down is there already.
    pub fn sealed_checkpoint_plan(&mut self, now: Now) -> Result<Option<FlushPlan>, LogError> {
        let border = self.active_segment_base_offset();
        if !self.is_made() || self.persistence.checkpointed >= Some(border) {
            return Ok(None);
        }
        let snapshot = self.key.key(Kind::ProducerSnapshot, &[border]);
        if self.directory.store.get(&snapshot)?.is_none() {
            return match self.segments.len() {
                // Nothing was sealed yet.
                0 | 1 => Ok(None),
                // The log did not roll here, but left a gap that was too large for its index.
                _ => self.checkpoint_plan(now),
            };
        }
        let flush = self.plan_until(border)?;
        let mut plan = flush.unwrap_or_else(|| self.plan(Vec::new(), None, border));
        let active = self.segments.get(&border);
        let active_bytes = active.map_or(0, |segment| segment.footer.size_bytes);
        let aborted = self
            .unwritten_aborted()
            .filter(|aborted| aborted.last_offset < border);
        plan.checkpoint = Some(Checkpoint {
            state: State {
                recovery_point: border,
                active_base_offset: border,
                footer: Footer::empty(border),
                has_producers: true,
            },
            producers: None,
            aborted: aborted.copied().collect(),
            bytes: self.persistence.appended_bytes.saturating_sub(active_bytes),
        });
        Ok(Some(plan))
    }

    /// Aborted transactions that no checkpoint has written down.
    pub(crate) fn unwritten_aborted(&self) -> impl Iterator<Item = &AbortedTransaction> {
        let aborted_until = self.persistence.aborted_until;
        let newest_first = self.aborted.entries().iter().rev();
        newest_first.take_while(move |entry| entry.last_offset >= aborted_until)
    }

    /// Flushes and checkpoints for the last time; nothing can be appended afterwards.
    pub fn close_clean(&mut self, now: Now) -> Result<(), LogError> {
        if self.closed {
            return Ok(());
        }
        self.checkpoint(now)?;
        if self.is_made() {
            self.directory.store.put(
                self.key.key(Kind::HighWatermark, &[]),
                self.high_watermark.to_be_bytes(),
                Survive::Nothing,
            )?;
        }
        self.give_reserve_back();
        self.closed = true;
        self.pass.overtake();
        self.close_files();
        self.unregister();
        Ok(())
    }

    /// Another log may bear the name from now on.
    pub(crate) fn unregister(&mut self) {
        if std::mem::take(&mut self.is_registered) {
            self.directory.note_closed(&self.folder_name());
        }
    }

    /// The high watermark if it differs from the one written down; the caller hands it to
    /// [`crate::directory::LogDirectory::checkpoint_high_watermarks`] at once.
    pub fn high_watermark_to_checkpoint(&mut self) -> Option<HighWatermarkCheckpoint> {
        if self.persistence.high_watermark == Some(self.high_watermark) || !self.is_made() {
            return None;
        }
        self.persistence.high_watermark = Some(self.high_watermark);
        Some(HighWatermarkCheckpoint {
            key: self.key,
            high_watermark: self.high_watermark,
        })
    }

    /// The recovery point at the log end, as it is to be written down once the data is flushed.
    pub(crate) fn state(&self) -> State {
        let active = self.segments.last_key_value().map(|(_, segment)| segment);
        State {
            recovery_point: self.log_end_offset,
            active_base_offset: active.map_or(-1, |segment| segment.base_offset),
            footer: active.map_or_else(|| Footer::empty(self.log_end_offset), |segment| segment.footer),
            has_producers: !self.producers.is_empty(),
        }
    }

    pub(crate) fn write_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), LogError> {
        let offset = checkpoint.state.recovery_point;
        if self.persistence.checkpointed > Some(offset) {
            // Another one, planned later, was done earlier.
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put(self.key.key(Kind::State, &[]), checkpoint.state.encode());
        for aborted in &checkpoint.aborted {
            batch.put(
                self.key.key(Kind::Aborted, &[aborted.last_offset]),
                aborted.encode(),
            );
        }
        // Snapshots at segment borders stay: truncation starts from them.
        if let Some(old) = self
            .persistence
            .snapshot
            .filter(|old| *old != offset && !self.segments.contains_key(old))
        {
            batch.delete(self.key.key(Kind::ProducerSnapshot, &[old]));
        }
        if let Some(producers) = &checkpoint.producers {
            batch.put(self.key.key(Kind::ProducerSnapshot, &[offset]), producers);
        }
        if self.epochs_dirty {
            // Recovery finds no epoch again that begins below the recovery point.
            batch.put(self.key.key(Kind::LeaderEpochs, &[]), self.epochs.encode());
        }
        self.directory.store.write(batch, Survive::Nothing)?;
        self.epochs_dirty = false;
        let checkpointed_bytes = &mut self.persistence.checkpointed_bytes;
        *checkpointed_bytes = checkpoint.bytes.max(*checkpointed_bytes);
        self.persistence.checkpointed = Some(offset);
        self.persistence.snapshot = checkpoint.state.has_producers.then_some(offset);
        self.persistence.aborted_until = self.persistence.aborted_until.max(offset);
        Ok(())
    }
}

/// One row of a high watermark checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct HighWatermarkCheckpoint {
    pub(crate) key: PartitionKey,
    pub(crate) high_watermark: i64,
}

impl Drop for Log {
    fn drop(&mut self) {
        // Nothing depends on a copy that is not complete, which is not registered: the next start discards it.
        if self.is_registered && self.is_made() {
            // It was neither closed nor deleted: what it knew is lost, so this stop is not clean.
            self.directory.note_failed();
        }
        self.unregister();
        self.close_files();
    }
}
