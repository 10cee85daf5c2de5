//! The log of one partition: its bounds, its segments, and appending.
//!
//! Owns the offsets, leader epochs, producer states and aborted transactions of the partition, and the one place where
//! bytes are appended. Reading, truncation, retention, flushing and compaction sit in their own modules. Keeps no lock:
//! the caller serialises access.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use odradek_broker_core::aborted::{AbortedTransaction, AbortedTransactions};
use odradek_broker_core::leader_epochs::LeaderEpochs;
use odradek_broker_core::producer_state::{AppendOrigin, Check, ProducerStates};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::records::batch::{
    BatchHeader, NO_TIMESTAMP, TimestampType, batches, set_base_offset, set_partition_leader_epoch,
    verify_crc,
};
use odradek_common::records::control::EndTransactionMarker;
use odradek_common::records::record::{decoded_section, records};
use odradek_common::time::Now;
use uuid::Uuid;

use crate::checkpoint::Persistence;
use crate::config::LogConfig;
use crate::directory::DirectoryShared;
use crate::error::{AppendError, LogError};
use crate::index::Place;
use crate::open::RecoveryReport;
use crate::read::RecentBatches;
use crate::segment::{Footer, SEGMENT_SIZE_BYTES_MAX, Segment, segment_path};
use crate::store::{Batch, Kind, PartitionKey, Survive};

/// A control record is tiny; anything larger than this is not decompressed to look for one.
const MARKER_SIZE_BYTES_MAX: usize = 4096;

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

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendInfo {
    /// Offset of the first record.
    pub first_offset: i64,
    /// Offset of the last record.
    pub last_offset: i64,
    /// The append time of a LogAppendTime batch, else -1.
    pub log_append_time: i64,
    /// Nothing was appended: the batch is in the log already, at these offsets.
    pub duplicate: bool,
    /// Bytes appended.
    pub size_bytes: usize,
    /// Whether a new segment was begun.
    pub rolled: bool,
    /// `flush.messages` asks for a flush, and the directory leaves it to the caller's group commit.
    pub flush_due: bool,
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
    pub(crate) producers: ProducerStates,
    pub(crate) aborted: AbortedTransactions,
    pub(crate) recent: RecentBatches,
    pub(crate) persistence: Persistence,
    /// Records below are compacted among themselves.
    pub(crate) compacted_until: i64,
    pub(crate) recovery: Option<RecoveryReport>,
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

    /// Replaces the settings; they hold from the next append on.
    pub fn set_config(&mut self, config: LogConfig) {
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

    /// Forgets producers that were idle for `producer.id.expiration.ms`; returns how many.
    pub fn expire_producers(&mut self, now: Now) -> usize {
        self.producers.expire(now, self.config.producer_id_expiration_ms)
    }

    /// Notes that `epoch` begins at the log end, as on becoming leader, and persists it.
    pub fn assign_epoch(&mut self, epoch: i32) -> Result<(), LogError> {
        self.check_open()?;
        if self.epochs.assign(epoch, self.log_end_offset) {
            self.persist_epochs(Survive::Kill)?;
        }
        Ok(())
    }

    /// Appends validated batches as the leader: checks producers, assigns offsets and epoch in place, writes once.
    ///
    /// The caller has verified checksums and set timestamps. Batches keep their producer ids; two batches of one append
    /// must not come from the same producer.
    pub fn append_as_leader(
        &mut self,
        now: Now,
        leader_epoch: i32,
        bytes: &mut BytesMut,
        origin: AppendOrigin,
    ) -> Result<AppendInfo, AppendError> {
        self.check_open()?;
        let mut headers = self.leader_headers(bytes)?;
        for (header, batch) in with_bytes(&headers, bytes) {
            match self.check_producer(header, batch, origin)? {
                Check::Fresh => {}
                Check::Duplicate {
                    base_offset,
                    last_offset,
                    timestamp,
                } => {
                    return Ok(duplicate(base_offset, last_offset, timestamp));
                }
                Check::Refused(refusal) => return Err(refusal.into()),
            }
        }
        let mut next_offset = self.log_end_offset;
        let mut rest: &mut [u8] = bytes;
        for header in &mut headers {
            let (batch, tail) = rest.split_at_mut(header.size_bytes());
            set_base_offset(batch, next_offset);
            set_partition_leader_epoch(batch, leader_epoch);
            header.base_offset = next_offset;
            header.partition_leader_epoch = leader_epoch;
            next_offset = header.next_offset();
            rest = tail;
        }
        self.append(now, &headers, bytes)
    }

    /// Appends what a follower fetched: verifies checksums and order, keeps offsets and epochs.
    ///
    /// An incomplete batch at the end is ignored.
    pub fn append_as_follower(&mut self, now: Now, bytes: &[u8]) -> Result<AppendInfo, AppendError> {
        self.check_open()?;
        let mut headers = Vec::new();
        let mut expected = self.log_end_offset;
        let mut complete = batches(bytes);
        for batch in &mut complete {
            let (header, batch) = batch.map_err(|error| AppendError::Corrupt(error.to_string()))?;
            verify_crc(batch).map_err(|error| AppendError::Corrupt(error.to_string()))?;
            if header.last_offset_delta < 0 {
                return Err(AppendError::Corrupt(format!(
                    "last offset delta {}",
                    header.last_offset_delta
                )));
            }
            if header.base_offset < expected {
                return Err(AppendError::OutOfOrder {
                    first_offset: header.base_offset,
                    log_end_offset: expected,
                });
            }
            expected = header.next_offset();
            headers.push(header);
        }
        let consumed = complete.consumed_bytes();
        if headers.is_empty() {
            return Err(AppendError::Corrupt(format!(
                "no complete batch in {} bytes",
                bytes.len()
            )));
        }
        self.append(now, &headers, &bytes[..consumed])
    }

    fn leader_headers(&self, bytes: &[u8]) -> Result<Vec<BatchHeader>, AppendError> {
        let mut headers = Vec::with_capacity(1);
        let mut complete = batches(bytes);
        for batch in &mut complete {
            let (header, _) = batch.map_err(|error| AppendError::Corrupt(error.to_string()))?;
            if header.last_offset_delta < 0 {
                return Err(AppendError::Corrupt(format!(
                    "last offset delta {}",
                    header.last_offset_delta
                )));
            }
            headers.push(header);
        }
        if headers.is_empty() || complete.consumed_bytes() != bytes.len() {
            return Err(AppendError::Corrupt(format!(
                "{} bytes are not whole record batches",
                bytes.len()
            )));
        }
        if bytes.len() as u64 > self.config.segment_bytes {
            let detail = format!(
                "the batches have {} bytes, a segment holds at most segment.bytes={}",
                bytes.len(),
                self.config.segment_bytes
            );
            return Err(ApiError::new(ErrorCode::RecordListTooLarge, detail).into());
        }
        Ok(headers)
    }

    fn check_producer(
        &self,
        header: &BatchHeader,
        batch: &[u8],
        origin: AppendOrigin,
    ) -> Result<Check, AppendError> {
        if !header.has_producer_id() {
            return Ok(Check::Fresh);
        }
        if !header.is_control() {
            return Ok(self.producers.check(header, origin));
        }
        let marker = marker_of(batch)?;
        Ok(
            match marker.map(|marker| self.producers.check_marker(header, marker)) {
                Some(Err(refusal)) => Check::Refused(refusal),
                Some(Ok(())) | None => Check::Fresh,
            },
        )
    }

    fn append(&mut self, now: Now, headers: &[BatchHeader], bytes: &[u8]) -> Result<AppendInfo, AppendError> {
        let (first, last) = (headers[0], headers[headers.len() - 1]);
        if self.persistence.unflushed_messages == 0 {
            self.persistence.unflushed_since_ms = now.mono_ms;
        }
        let mut rolled = false;
        if last.last_offset() - first.base_offset <= i64::from(i32::MAX) {
            rolled |= self.append_group(now, headers, bytes)?;
        } else {
            // After compaction a few batches may span more offsets than one segment can index.
            for (header, batch) in with_bytes(headers, bytes) {
                rolled |= self.append_group(now, std::slice::from_ref(header), batch)?;
            }
        }
        let flush_due = self.persistence.unflushed_messages >= self.config.flush_messages;
        if flush_due && self.directory.options.flush_inline {
            self.flush()?;
        }
        Ok(AppendInfo {
            first_offset: first.base_offset,
            last_offset: last.last_offset(),
            log_append_time: log_append_time(&last),
            duplicate: false,
            size_bytes: bytes.len(),
            rolled,
            flush_due: flush_due && !self.directory.options.flush_inline,
        })
    }

    /// Writes batches that fit one segment; returns whether that segment is new.
    fn append_group(&mut self, now: Now, headers: &[BatchHeader], bytes: &[u8]) -> Result<bool, AppendError> {
        // Whatever cannot be read must be refused before a byte is written.
        let mut markers = Vec::new();
        for (header, batch) in with_bytes(headers, bytes) {
            if header.has_producer_id() && header.is_control() {
                markers.push(marker_of(batch)?);
            }
        }
        let rolled = self.prepare_active(now, headers, bytes.len())?;
        let position = self.write(bytes)?;
        let mut markers = markers.into_iter();
        let mut epochs_changed = false;
        let mut at = position;
        for header in headers {
            epochs_changed |= self.note_epoch(header);
            self.recent.push(header, at);
            at += header.size_bytes() as u64;
            let interval = self.config.index_interval_bytes;
            self.active().note(header, interval);
            let marker = if header.has_producer_id() && header.is_control() {
                markers.next().flatten()
            } else {
                None
            };
            self.note_producer(header, marker);
            self.persistence.unflushed_messages += i64::from(header.last_offset_delta) + 1;
        }
        self.log_end_offset = headers[headers.len() - 1].next_offset();
        if epochs_changed {
            self.persist_epochs(Survive::Kill)?;
        }
        if self.active().index.is_full() {
            let mut batch = Batch::default();
            let key = self.key;
            let active = self.active();
            active.index.spill(&key, active.base_offset, &mut batch);
            self.directory.store.write(batch, Survive::Nothing)?;
        }
        Ok(rolled)
    }

    /// Notes the leader epoch of a batch; true if it is a new one.
    pub(crate) fn note_epoch(&mut self, header: &BatchHeader) -> bool {
        let epoch = header.partition_leader_epoch;
        epoch >= 0
            && self.epochs.latest_epoch().is_none_or(|latest| latest < epoch)
            && self.epochs.assign(epoch, header.base_offset)
    }

    /// Notes the producer of a batch, and of a marker what it ended.
    pub(crate) fn note_producer(&mut self, header: &BatchHeader, marker: Option<EndTransactionMarker>) {
        if !header.has_producer_id() {
            return;
        }
        match marker {
            Some(marker) => {
                if let Some(aborted) = self.producers.complete_txn(header, marker) {
                    self.aborted.push(aborted);
                }
            }
            // A control batch without a readable marker was emptied by compaction: its transaction left no records.
            None if header.is_control() => {}
            None => self.producers.record(header),
        }
    }

    /// Writes `bytes` at the end of the active segment; on failure the file is cut back to what it was.
    fn write(&mut self, bytes: &[u8]) -> Result<u64, LogError> {
        let active = self
            .segments
            .last_entry()
            .expect("prepare_active made sure of an active segment")
            .into_mut();
        let position = active.footer.size_bytes;
        let file = active.file.as_ref().expect("prepare_active opened the file");
        let Err(source) = file.write_all_at(bytes, position) else {
            return Ok(position);
        };
        let path = segment_path(&self.folder, active.base_offset);
        if file.set_len(position).is_err() {
            // What is behind the end is unknown now: nothing may be appended until recovery has looked.
            self.closed = true;
        }
        Err(LogError::io(
            &self.directory.path,
            format!("append to {}", path.display()),
            source,
        ))
    }

    /// Makes sure of an open active segment that can take the batches; returns whether it rolled.
    fn prepare_active(
        &mut self,
        now: Now,
        headers: &[BatchHeader],
        size_bytes: usize,
    ) -> Result<bool, LogError> {
        let first_offset = headers[0].base_offset;
        let last_offset = headers[headers.len() - 1].last_offset();
        let max_timestamp = headers
            .iter()
            .map(|header| header.max_timestamp)
            .max()
            .unwrap_or(NO_TIMESTAMP);
        let mut rolled = false;
        if self.is_roll_due(now, size_bytes as u64, max_timestamp, last_offset) {
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
            self.create_segment(now.wall_ms, if indexable { base_offset } else { first_offset })?;
        }
        self.open_active()?;
        Ok(rolled)
    }

    fn is_roll_due(&self, now: Now, size_bytes: u64, max_timestamp: i64, last_offset: i64) -> bool {
        let Some((_, active)) = self.segments.last_key_value() else {
            return false;
        };
        if active.is_empty() {
            return !active.can_index(last_offset);
        }
        let limit = self.config.segment_bytes.min(SEGMENT_SIZE_BYTES_MAX);
        let waited_ms = if active.footer.first_timestamp >= 0 {
            max_timestamp.saturating_sub(active.footer.first_timestamp)
        } else {
            now.wall_ms.saturating_sub(active.created_ms)
        };
        active.footer.size_bytes + size_bytes > limit
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
        let Some(mut entry) = self.segments.last_entry() else {
            return Ok(());
        };
        let active = entry.get_mut();
        if active.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        active.index.spill(&self.key, active.base_offset, &mut batch);
        active.index.seal();
        active.file = None;
        batch.put(
            self.key.key(Kind::Footer, &[active.base_offset]),
            active.footer.encode(),
        );
        batch.put(
            self.key.key(Kind::ProducerSnapshot, &[self.log_end_offset]),
            self.producers.encode(),
        );
        self.directory.store.write(batch, Survive::Nothing)?;
        self.create_segment(now.wall_ms, self.log_end_offset)
    }

    /// Begins an empty segment at `base_offset`, which becomes the active one.
    pub(crate) fn create_segment(&mut self, created_ms: i64, base_offset: i64) -> Result<(), LogError> {
        let path = segment_path(&self.folder, base_offset);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|source| {
                LogError::io(&self.directory.path, format!("create {}", path.display()), source)
            })?;
        if self.config.preallocate {
            preallocate(&file, self.config.segment_bytes.min(SEGMENT_SIZE_BYTES_MAX));
        }
        self.directory.files.forget((self.uid, base_offset));
        let mut segment = Segment::new(base_offset, Footer::empty(base_offset), created_ms);
        segment.file = Some(Arc::new(file));
        self.segments.insert(base_offset, segment);
        self.recent.clear();
        self.persistence.folder_dirty = true;
        Ok(())
    }

    fn open_active(&mut self) -> Result<(), LogError> {
        let active = self
            .segments
            .last_entry()
            .expect("a segment was created")
            .into_mut();
        if active.file.is_none() {
            let path = segment_path(&self.folder, active.base_offset);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|source| {
                    LogError::io(&self.directory.path, format!("open {}", path.display()), source)
                })?;
            active.file = Some(Arc::new(file));
        }
        Ok(())
    }

    fn active(&mut self) -> &mut Segment {
        self.segments
            .last_entry()
            .expect("an append has an active segment")
            .into_mut()
    }

    /// The file of a segment, for reading.
    pub(crate) fn file_of(&self, segment: &Segment) -> Result<Arc<File>, LogError> {
        if let Some(file) = &segment.file {
            return Ok(file.clone());
        }
        let path = segment_path(&self.folder, segment.base_offset);
        self.directory
            .files
            .get((self.uid, segment.base_offset), &path)
            .map_err(|source| LogError::io(&self.directory.path, format!("open {}", path.display()), source))
    }

    pub(crate) fn place(&self, base_offset: i64) -> Place<'_> {
        Place {
            store: &self.directory.store,
            partition: &self.key,
            base_offset,
        }
    }

    pub(crate) fn persist_epochs(&self, survive: Survive) -> Result<(), LogError> {
        self.directory.store.put(
            self.key.key(Kind::LeaderEpochs, &[]),
            self.epochs.encode(),
            survive,
        )
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

/// The headers with the bytes they describe, which lie one after the other.
fn with_bytes<'a>(
    headers: &'a [BatchHeader],
    bytes: &'a [u8],
) -> impl Iterator<Item = (&'a BatchHeader, &'a [u8])> + 'a {
    headers.iter().scan(bytes, |rest, header| {
        let (batch, tail) = rest.split_at(header.size_bytes());
        *rest = tail;
        Some((header, batch))
    })
}

/// The marker in a control batch; None if compaction emptied it or it is no end of a transaction.
pub(crate) fn marker_of(batch: &[u8]) -> Result<Option<EndTransactionMarker>, AppendError> {
    let (header, section) = decoded_section(batch, MARKER_SIZE_BYTES_MAX)
        .map_err(|error| AppendError::Corrupt(format!("control batch: {error}")))?;
    let Some(record) = records(&header, &section).next() else {
        return Ok(None);
    };
    let record = record.map_err(|error| AppendError::Corrupt(format!("control record: {error}")))?;
    Ok(EndTransactionMarker::decode(record.key.unwrap_or_default(), record.value.unwrap_or_default()).ok())
}

fn log_append_time(header: &BatchHeader) -> i64 {
    match header.timestamp_type() {
        TimestampType::LogAppendTime => header.max_timestamp,
        TimestampType::CreateTime => NO_TIMESTAMP,
    }
}

/// Kafka answers a duplicate with the first append's timestamp, whoever set it.
fn duplicate(first_offset: i64, last_offset: i64, timestamp: i64) -> AppendInfo {
    AppendInfo {
        first_offset,
        last_offset,
        log_append_time: timestamp,
        duplicate: true,
        size_bytes: 0,
        rolled: false,
        flush_due: false,
    }
}

/// Reserves blocks without changing the file's length; a file system that cannot is no error.
fn preallocate(file: &File, size_bytes: u64) {
    let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, size_bytes);
}
