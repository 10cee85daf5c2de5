//! The log of one partition: its bounds and its segments.
//!
//! Owns the offsets, leader epochs, producer states and aborted transactions of the partition. Appending, reading,
//! truncation, retention, flushing and compaction sit in their own modules. Keeps no lock: the caller serialises access.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use odradek_broker_core::aborted::{AbortedTransaction, AbortedTransactions};
use odradek_broker_core::leader_epochs::LeaderEpochs;
use odradek_broker_core::producer_state::ProducerStates;
use odradek_broker_core::producer_state::verification::{TransactionalBatch, VerificationGuard};
use odradek_common::error::ApiError;
use odradek_common::time::Now;
use slog::warn;
use uuid::Uuid;

use crate::append::Extent;
use crate::checkpoint::Persistence;
use crate::compact::PassFlag;
use crate::config::LogConfig;
use crate::directory::DirectoryShared;
use crate::error::LogError;
use crate::index::Place;
use crate::open::RecoveryReport;
use crate::read::RecentBatches;
use crate::segment::{SEGMENT_SIZE_BYTES_MAX, Segment};
use crate::store::{Batch, Kind, PartitionKey, Survive};

/// A partition as the log directory knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionIdentity {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's id: a recreated topic has another.
    pub topic_id: Uuid,
    /// The partition's index.
    pub partition: i32,
}

impl PartitionIdentity {
    /// The partition of that index in that topic.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, topic_id: Uuid, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            topic_id,
            partition,
        }
    }

    /// The partition's folder within a log directory.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }
}

impl fmt::Display for PartitionIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// The log of one partition.
pub struct Log {
    pub(crate) directory: Arc<DirectoryShared>,
    pub(crate) identity: PartitionIdentity,
    pub(crate) key: PartitionKey,
    pub(crate) uid: u64,
    pub(crate) folder: PathBuf,
    pub(crate) config: LogConfig,
    pub(crate) logger: slog::Logger,
    pub(crate) segments: BTreeMap<i64, Segment>,
    pub(crate) log_start_offset: i64,
    pub(crate) log_end_offset: i64,
    pub(crate) high_watermark: i64,
    pub(crate) epochs: LeaderEpochs,
    /// Whether the index lacks some of them: the next checkpoint writes them down.
    pub(crate) epochs_dirty: bool,
    pub(crate) producers: ProducerStates,
    pub(crate) aborted: AbortedTransactions,
    pub(crate) recent: RecentBatches,
    pub(crate) persistence: Persistence,
    /// Records below are compacted among themselves.
    pub(crate) compacted_until: i64,
    /// The pass that compacts it, or the repair of it, if there is one.
    pub(crate) pass: PassFlag,
    /// Alive while a pass runs.
    pub(crate) running_pass: Weak<()>,
    pub(crate) recovery: Option<RecoveryReport>,
    /// Whether the folder exists.
    pub(crate) made: bool,
    /// Whether it is a copy that is to take the place of a log in another directory.
    pub(crate) is_future: bool,
    /// Whether the directory knows it as open under its folder's name: it may have failed since, and be closed.
    pub(crate) is_registered: bool,
    pub(crate) closed: bool,
}

impl Log {
    /// The partition.
    #[must_use]
    pub fn identity(&self) -> &PartitionIdentity {
        &self.identity
    }

    /// The partition's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The first offset that may be read.
    #[must_use]
    pub fn log_start_offset(&self) -> i64 {
        self.log_start_offset
    }

    /// The offset the next record will have.
    #[must_use]
    pub fn log_end_offset(&self) -> i64 {
        self.log_end_offset
    }

    /// The offset below which every record is replicated.
    #[must_use]
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// Moves the high watermark, clipped to `[log start, log end]`; returns what it is now.
    pub fn set_high_watermark(&mut self, high_watermark: i64) -> i64 {
        self.high_watermark = high_watermark.clamp(self.log_start_offset, self.log_end_offset);
        self.producers.on_high_watermark(self.high_watermark);
        self.high_watermark
    }

    /// The offset below which every transaction is decided, at most the high watermark.
    #[must_use]
    pub fn last_stable_offset(&self) -> i64 {
        let unstable = self.producers.first_unstable_offset().unwrap_or(i64::MAX);
        self.high_watermark.min(unstable.max(self.log_start_offset))
    }

    /// The offset below which nothing needs recovery after a crash.
    #[must_use]
    pub fn recovery_point(&self) -> i64 {
        self.persistence.recovery_point
    }

    /// The leader epochs.
    #[must_use]
    pub fn epochs(&self) -> &LeaderEpochs {
        &self.epochs
    }

    /// The producers.
    #[must_use]
    pub fn producers(&self) -> &ProducerStates {
        &self.producers
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Replaces the settings; they hold from the next append on. A log that is not to be compacted any more is not compacted to
    /// the end of the pass that runs.
    pub fn set_config(&mut self, config: LogConfig) {
        let ends_compaction = self.config.cleanup_policy.compact && !config.cleanup_policy.compact;
        // A repair that is under way goes on.
        if ends_compaction && self.is_being_compacted() {
            self.stop_compaction();
        }
        self.config = config;
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.segments
            .values()
            .map(|segment| segment.footer.size_bytes)
            .sum()
    }

    /// Number of segments.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Base offset of the segment that is appended to; the log end if there is none.
    #[must_use]
    pub fn active_segment_base_offset(&self) -> i64 {
        self.segments
            .last_key_value()
            .map_or(self.log_end_offset, |(base, _)| *base)
    }

    /// What recovery found when the log was opened, if it had to look; a second call returns nothing.
    pub fn take_recovery_report(&mut self) -> Option<RecoveryReport> {
        self.recovery.take()
    }

    /// Aborted transactions that a read_committed fetch of `[from, to)` must name, by first offset.
    #[must_use]
    pub fn aborted_transactions(&self, from: i64, to: i64) -> Vec<AbortedTransaction> {
        self.aborted.query(from, to)
    }

    /// The guard that a transactional batch needs; see [`ProducerStates::begin_verification`].
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH: a later epoch has written here.
    pub fn begin_verification(
        &mut self,
        now: Now,
        batch: TransactionalBatch,
    ) -> Result<Option<VerificationGuard>, ApiError> {
        self.producers.begin_verification(now, batch)
    }

    /// Forgets producers that were idle for `producer.id.expiration.ms`; returns how many.
    pub fn expire_producers(&mut self, now: Now) -> usize {
        self.producers.expire(now, self.config.producer_id_expiration_ms)
    }

    /// Notes that `epoch` begins at the log end, as on becoming leader, and persists it. After an error it has not begun.
    pub fn assign_epoch(&mut self, epoch: i32) -> Result<(), LogError> {
        self.check_open()?;
        let before = self.epochs.clone();
        if !self.epochs.assign(epoch, self.log_end_offset) {
            return Ok(());
        }
        self.persist_epochs(Survive::Kill)
            .inspect_err(|_| self.epochs = before)
    }

    /// Makes sure of an active segment that can take the batches; returns whether it rolled.
    pub(crate) fn prepare_active(&mut self, now: Now, extent: &Extent) -> Result<bool, LogError> {
        let last_offset = extent.last_offset;
        let mut rolled = false;
        if self.is_roll_due(now, extent) {
            self.roll(now)?;
            rolled = true;
        }
        let fits = self
            .segments
            .last_key_value()
            .is_some_and(|(_, active)| active.can_index(last_offset));
        if !fits {
            let base_offset = self.log_end_offset;
            let indexable = last_offset - base_offset <= i64::from(i32::MAX);
            let begin = if indexable {
                base_offset
            } else {
                extent.first_offset
            };
            self.create_segment(now.wall_ms, begin)?;
        }
        Ok(rolled)
    }

    fn is_roll_due(&self, now: Now, extent: &Extent) -> bool {
        let last_offset = extent.last_offset;
        let Some((_, active)) = self.segments.last_key_value() else {
            return false;
        };
        if active.is_empty() {
            return !active.can_index(last_offset);
        }
        let limit = self.config.segment_bytes.min(SEGMENT_SIZE_BYTES_MAX);
        let waited_ms = if active.footer.first_timestamp >= 0 {
            extent.max_timestamp.saturating_sub(active.footer.first_timestamp)
        } else {
            now.wall_ms.saturating_sub(active.created_ms)
        };
        active.footer.size_bytes + extent.size_bytes > limit
            || waited_ms
                > self
                    .config
                    .segment_ms
                    .saturating_sub(self.jitter_ms(active.base_offset))
            || !active.can_index(last_offset)
    }

    /// A number below `segment.jitter.ms` that differs from segment to segment, so that not all roll at once.
    fn jitter_ms(&self, base_offset: i64) -> i64 {
        let range = self.config.segment_jitter_ms.min(self.config.segment_ms);
        if range <= 0 {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        (self.key, base_offset).hash(&mut hasher);
        (hasher.finish() % range as u64) as i64
    }

    /// Seals the active segment: its index, footer and the producers at its end go to RocksDB.
    ///
    /// An empty segment takes its place. Does nothing if the active segment is empty.
    pub fn roll(&mut self, now: Now) -> Result<(), LogError> {
        if self
            .segments
            .last_key_value()
            .is_none_or(|(_, active)| active.is_empty())
        {
            return Ok(());
        }
        self.give_reserve_back();
        let (key, active) = (self.key, self.active());
        let mut batch = Batch::default();
        active.index.spill(&key, active.base_offset, &mut batch);
        batch.put(
            key.key(Kind::Footer, &[active.base_offset]),
            active.footer.encode(),
        );
        batch.put(
            self.key.key(Kind::ProducerSnapshot, &[self.log_end_offset]),
            self.producers.encode(),
        );
        // Recovery begins at this snapshot and does not read the markers before it again.
        for aborted in self.unwritten_aborted() {
            batch.put(
                self.key.key(Kind::Aborted, &[aborted.last_offset]),
                aborted.encode(),
            );
        }
        self.directory.store.write(batch, Survive::Nothing)?;
        self.active().index.seal();
        self.create_segment(now.wall_ms, self.log_end_offset)
    }

    pub(crate) fn active(&mut self) -> &mut Segment {
        self.segments
            .last_entry()
            .expect("an append has an active segment")
            .into_mut()
    }

    pub(crate) fn place(&self, base_offset: i64) -> Place<'_> {
        Place {
            store: &self.directory.store,
            partition: &self.key,
            base_offset,
        }
    }

    /// Writes what waits of the active segment's index to RocksDB.
    pub(crate) fn spill_index(&mut self) -> Result<(), LogError> {
        let Some(mut active) = self.segments.last_entry() else {
            return Ok(());
        };
        let Segment {
            base_offset, index, ..
        } = active.get_mut();
        let mut batch = Batch::default();
        index.spill(&self.key, *base_offset, &mut batch);
        let written = self.directory.store.write(batch, Survive::Nothing);
        index.spilled(written.is_ok());
        written
    }

    /// Passes every outcome of a write to the index on, save that it had no room: what could not be written is still known here,
    /// and a later write brings it.
    pub(crate) fn put_off(&self, written: Result<(), LogError>) -> Result<(), LogError> {
        match written {
            Err(error) if error.is_disk_full() => {
                warn!(self.logger, "the index has no room, and is told later"; "error" => %error);
                Ok(())
            }
            written => written,
        }
    }

    pub(crate) fn persist_epochs(&mut self, survive: Survive) -> Result<(), LogError> {
        // Without a record there is nothing an epoch would tell about; the folder brings them along.
        if !self.is_made() {
            return Ok(());
        }
        self.epochs_dirty = true;
        let key = self.key.key(Kind::LeaderEpochs, &[]);
        self.directory.store.put(key, self.epochs.encode(), survive)?;
        self.epochs_dirty = false;
        Ok(())
    }

    /// Whether nothing can be appended any more: it was closed or deleted, or has closed itself when it was not known any more
    /// what stands in its files.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn check_open(&self) -> Result<(), LogError> {
        if self.closed {
            Err(LogError::Closed(self.identity.to_string()))
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("partition", &self.identity.to_string())
            .field("log_start_offset", &self.log_start_offset)
            .field("log_end_offset", &self.log_end_offset)
            .field("high_watermark", &self.high_watermark)
            .field("segments", &self.segments.len())
            .finish_non_exhaustive()
    }
}
