//! Appending: the one place where bytes enter a log.
//!
//! A leader appends any number of batches at once: they are checked one by one, placed, and written in as few calls as the
//! segments allow, each behind a head of the leader's while its records stay where the socket put them. A follower appends
//! what it fetched as it is. Keeps no lock: the caller serialises access.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use odradek_broker_core::producer_state::verification::Verification;
use odradek_broker_core::producer_state::{AppendOrigin, Check};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::records::batch::{
    BatchHead, BatchHeader, HEADER_SIZE_BYTES, NO_TIMESTAMP, TimestampType, batches, increment_sequence,
    records_section, verify_crc,
};
use odradek_common::records::control::EndTransactionMarker;
use odradek_common::records::record::{decoded_section, records};
use odradek_common::records::validate::ProducedBatch;
use odradek_common::time::Now;
use slog::{info, warn};
use smallvec::SmallVec;

use crate::error::{AppendError, LogError};
use crate::log::Log;
use crate::pages::{self, PagesAhead, ZEROS_PIECES_MAX};
use crate::segment::{SEGMENT_SIZE_BYTES_MAX, segment_path};
use crate::store::Survive;

/// A control record is tiny; anything larger than this is not decompressed to look for one.
const MARKER_SIZE_BYTES_MAX: usize = 4096;
/// Writes up to this size are copied together: one piece is cheaper for the kernel than many.
const GATHER_SIZE_BYTES_MAX: usize = 4 << 10;
/// Pieces that one call to the kernel takes.
const PIECES_PER_WRITE: usize = 1024;
/// Batches of one append that need no allocation.
const INLINE_BATCHES: usize = 2;
/// Pieces of an append with zeros behind it that need no allocation.
const INLINE_PIECES: usize = 96;

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
    /// `flush.messages` asks for a flush before this is acknowledged; the caller sees to it, many partitions at a time.
    pub flush_due: bool,
}

/// A batch that a leader is to append, and afterwards what became of it.
#[derive(Debug)]
pub struct LeaderBatch<'a> {
    header: BatchHeader,
    head: BatchHead,
    section: Cow<'a, [u8]>,
    origin: AppendOrigin,
    verification: Verification,
    /// Of a marker: the `transaction.version` of the transaction that it ends.
    transaction_version: i16,
    /// None until it was appended or refused; it stays so if the log failed before its turn.
    outcome: Option<Result<AppendInfo, AppendError>>,
}

impl<'a> LeaderBatch<'a> {
    /// A validated batch of a producer; `bytes` is the batch as it came.
    #[must_use]
    pub fn produced(batch: &ProducedBatch, bytes: &'a [u8]) -> Self {
        Self {
            header: batch.header,
            head: batch.head,
            section: Cow::Borrowed(records_section(bytes)),
            origin: AppendOrigin::Client,
            verification: Verification::Waived,
            transaction_version: 0,
            outcome: None,
        }
    }

    /// The same batch, written by a coordinator of this cluster.
    #[must_use]
    pub fn of_coordinator(self) -> Self {
        Self {
            origin: AppendOrigin::Coordinator,
            ..self
        }
    }

    /// The same batch, with what is known of its transaction.
    #[must_use]
    pub fn verified(self, verification: Verification) -> Self {
        Self { verification, ..self }
    }

    /// The same batch, a marker that ends a transaction of this `transaction.version`.
    #[must_use]
    pub fn of_transaction_version(self, transaction_version: i16) -> Self {
        Self {
            transaction_version,
            ..self.of_coordinator()
        }
    }

    /// The one batch that `bytes` are, which nobody has to validate: this node has built it.
    ///
    /// # Errors
    /// The bytes are not exactly one batch.
    pub fn whole(bytes: &'a [u8]) -> Result<Self, AppendError> {
        let corrupt = |error: &dyn std::fmt::Display| AppendError::Corrupt(error.to_string());
        let header = BatchHeader::parse(bytes).map_err(|error| corrupt(&error))?;
        if header.size_bytes() != bytes.len() {
            let detail = format!("{} bytes are not one whole record batch", bytes.len());
            return Err(AppendError::Corrupt(detail));
        }
        Ok(Self {
            header,
            head: BatchHead::of(bytes).map_err(|error| corrupt(&error))?,
            section: Cow::Borrowed(records_section(bytes)),
            origin: AppendOrigin::Client,
            verification: Verification::Waived,
            transaction_version: 0,
            outcome: None,
        })
    }

    /// The same batch with records of its own.
    #[must_use]
    pub fn into_owned(self) -> LeaderBatch<'static> {
        LeaderBatch {
            section: Cow::Owned(self.section.into_owned()),
            header: self.header,
            head: self.head,
            origin: self.origin,
            verification: self.verification,
            transaction_version: self.transaction_version,
            outcome: self.outcome,
        }
    }

    /// Head and records in one piece, for the few who read the records.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.head.bytes(), &*self.section].concat()
    }

    /// The header as it stands in the log, once it was appended.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// What became of the batch; None if the log failed before its turn.
    pub fn take_outcome(&mut self) -> Option<Result<AppendInfo, AppendError>> {
        self.outcome.take()
    }

    /// Where its last record is, if it is in the log now, be it as a duplicate.
    #[must_use]
    pub fn last_offset(&self) -> Option<i64> {
        match &self.outcome {
            Some(Ok(info)) => Some(info.last_offset),
            Some(Err(_)) | None => None,
        }
    }

    fn refuse(&mut self, error: impl Into<AppendError>) {
        self.outcome = Some(Err(error.into()));
    }
}

/// Batches that are written together, by their places in the append.
#[derive(Default)]
struct Run {
    places: SmallVec<[usize; INLINE_BATCHES]>,
    headers: SmallVec<[BatchHeader; INLINE_BATCHES]>,
    size_bytes: u64,
}

/// A batch that is written, and the marker in it if it is a control batch.
struct Written {
    header: BatchHeader,
    marker: Option<EndTransactionMarker>,
}

impl Log {
    /// Appends validated batches as the leader, in order: each is checked against its producer's state, placed, and written
    /// together with its neighbours. Every batch gets an outcome of its own.
    ///
    /// # Errors
    /// The log failed; batches whose outcome is missing are not in it.
    pub fn append_as_leader<'a, B: AsMut<LeaderBatch<'a>>>(
        &mut self,
        now: Now,
        leader_epoch: i32,
        batches: &mut [B],
    ) -> Result<(), LogError> {
        self.check_open()?;
        self.note_unflushed_since(now);
        let mut run = Run::default();
        for place in 0..batches.len() {
            let batch = batches[place].as_mut();
            let (header, origin, verification) = (batch.header, batch.origin, batch.verification);
            if let Err(refusal) = self.check_size(&header) {
                batch.refuse(refusal);
                continue;
            }
            let known = self.check_within(&run, &header, origin, verification);
            if known.is_none() || !self.fits(&run, &header) {
                self.write_run(now, leader_epoch, batches, &mut run)?;
            }
            let batch = batches[place].as_mut();
            let check = match known {
                Some(check) => Ok(check),
                None => self.check_producer(batch),
            };
            match check {
                Ok(Check::Fresh) => run.add(place, &header),
                Ok(Check::Duplicate {
                    base_offset,
                    last_offset,
                    timestamp,
                }) => batch.outcome = Some(Ok(duplicate(base_offset, last_offset, timestamp))),
                Ok(Check::Refused(refusal)) => batch.refuse(refusal),
                Err(error) => batch.refuse(error),
            }
        }
        self.write_run(now, leader_epoch, batches, &mut run)
    }

    /// Appends what a follower fetched: verifies checksums and order, keeps offsets and epochs.
    ///
    /// An incomplete batch at the end is ignored, and so is everything from the first batch of an epoch beyond
    /// `leader_epoch_max` on; None if that leaves nothing.
    ///
    /// # Errors
    /// The bytes do not continue this log, or the log failed.
    pub fn append_as_follower(
        &mut self,
        now: Now,
        bytes: &[u8],
        leader_epoch_max: i32,
    ) -> Result<Option<AppendInfo>, AppendError> {
        self.check_open()?;
        let mut written: SmallVec<[Written; INLINE_BATCHES]> = SmallVec::new();
        let mut expected = self.log_end_offset;
        let mut consumed = 0;
        let mut beyond = None;
        for batch in batches(bytes) {
            let (header, batch) = batch.map_err(|error| AppendError::Corrupt(error.to_string()))?;
            // KAFKA-18723: who answered may have lost its leadership since, and have sent what its file holds by now.
            if header.partition_leader_epoch > leader_epoch_max {
                beyond = Some(header);
                break;
            }
            check_fetched(&header, batch, expected)?;
            expected = header.next_offset();
            consumed += header.size_bytes();
            let marker = marker_in(&header, batch)?;
            written.push(Written { header, marker });
        }
        if let Some(header) = beyond {
            info!(self.logger, "fetched records of a later leader epoch are left out";
                "offset" => header.base_offset, "leader_epoch" => header.partition_leader_epoch,
                "leader_epoch_max" => leader_epoch_max);
        }
        let (Some(first), Some(last)) = (written.first(), written.last()) else {
            if beyond.is_some() {
                return Ok(None);
            }
            let detail = format!("no complete batch in {} bytes", bytes.len());
            return Err(AppendError::Corrupt(detail));
        };
        let (first, last) = (first.header, last.header);
        self.note_unflushed_since(now);
        let mut rolled = false;
        if last.last_offset() - first.base_offset <= i64::from(i32::MAX) {
            rolled |= self.append_group(now, &written, &mut [IoSlice::new(&bytes[..consumed])])?;
        } else {
            // After compaction a few batches may span more offsets than one segment can index.
            let mut rest = bytes;
            for one in &written {
                let (batch, tail) = rest.split_at(one.header.size_bytes());
                rolled |= self.append_group(now, std::slice::from_ref(one), &mut [IoSlice::new(batch)])?;
                rest = tail;
            }
        }
        Ok(Some(AppendInfo {
            first_offset: first.base_offset,
            last_offset: last.last_offset(),
            log_append_time: log_append_time(&last),
            duplicate: false,
            size_bytes: consumed,
            rolled,
            flush_due: self.is_flush_awaited(),
        }))
    }

    fn check_size(&self, header: &BatchHeader) -> Result<(), AppendError> {
        if header.last_offset_delta < 0 {
            let detail = format!("last offset delta {}", header.last_offset_delta);
            return Err(AppendError::Corrupt(detail));
        }
        if header.size_bytes() as u64 > self.config.segment_bytes {
            let detail = format!(
                "the batch has {} bytes, a segment holds at most segment.bytes={}",
                header.size_bytes(),
                self.config.segment_bytes
            );
            return Err(ApiError::new(ErrorCode::RecordListTooLarge, detail).into());
        }
        Ok(())
    }

    /// Checks a batch against those of its producer that wait in the same run, which the producer's state does not know
    /// yet. None if the run has to be written before it can be judged.
    fn check_within(
        &self,
        run: &Run,
        header: &BatchHeader,
        origin: AppendOrigin,
        verification: Verification,
    ) -> Option<Check> {
        if run.places.is_empty() || !header.has_producer_id() {
            return (!header.has_producer_id()).then_some(Check::Fresh);
        }
        let mut earlier = run.headers.iter().rev();
        let Some(before) = earlier.find(|before| before.producer_id == header.producer_id) else {
            // The state is right about a producer of whom nothing waits, save that a control batch needs its marker read.
            return (!header.is_control())
                .then(|| self.producers.check_verified(header, origin, verification));
        };
        let continues = origin == AppendOrigin::Client
            && !header.is_control()
            && !header.is_transactional()
            && !before.is_transactional()
            && before.producer_epoch == header.producer_epoch
            && before.base_sequence >= 0
            && increment_sequence(before.last_sequence(), 1) == header.base_sequence;
        continues.then_some(Check::Fresh)
    }

    fn check_producer(&self, batch: &LeaderBatch<'_>) -> Result<Check, AppendError> {
        let header = &batch.header;
        if !header.has_producer_id() {
            return Ok(Check::Fresh);
        }
        if !header.is_control() {
            let checked = self
                .producers
                .check_verified(header, batch.origin, batch.verification);
            return Ok(checked);
        }
        let version = batch.transaction_version;
        let checked = marker_of(&batch.to_bytes())?.map_or(Ok(()), |marker| {
            self.producers.check_marker(header, marker, version)
        });
        Ok(checked.map_or_else(Check::Refused, |()| Check::Fresh))
    }

    /// Whether a batch can be written in one piece with the run before it.
    fn fits(&self, run: &Run, header: &BatchHeader) -> bool {
        let limit = self.config.segment_bytes.min(SEGMENT_SIZE_BYTES_MAX);
        let active_bytes = self
            .segments
            .last_key_value()
            .map_or(0, |(_, active)| active.footer.size_bytes);
        run.places.is_empty() || active_bytes + run.size_bytes + header.size_bytes() as u64 <= limit
    }

    fn write_run<'a, B: AsMut<LeaderBatch<'a>>>(
        &mut self,
        now: Now,
        leader_epoch: i32,
        batches: &mut [B],
        run: &mut Run,
    ) -> Result<(), LogError> {
        if run.places.is_empty() {
            return Ok(());
        }
        let run = std::mem::take(run);
        let mut written: SmallVec<[Written; INLINE_BATCHES]> = SmallVec::new();
        let mut next_offset = self.log_end_offset;
        for place in &run.places {
            let batch = batches[*place].as_mut();
            batch.place(next_offset, leader_epoch);
            next_offset = batch.header.next_offset();
            let header = batch.header;
            let marker = if header.is_control() {
                marker_of(&batch.to_bytes()).expect("the check of the producer has read the marker")
            } else {
                None
            };
            written.push(Written { header, marker });
        }
        let rolled = {
            let mut pieces: SmallVec<[IoSlice<'_>; 2 * INLINE_BATCHES]> = SmallVec::new();
            let mut places = run.places.iter().copied().peekable();
            for (place, batch) in batches.iter_mut().enumerate() {
                if places.next_if_eq(&place).is_some() {
                    let batch: &LeaderBatch<'_> = batch.as_mut();
                    pieces.push(IoSlice::new(batch.head.bytes()));
                    pieces.push(IoSlice::new(&batch.section));
                }
            }
            self.append_group(now, &written, &mut pieces)?
        };
        let flush_due = self.is_flush_awaited();
        for place in &run.places {
            let batch = batches[*place].as_mut();
            batch.outcome = Some(Ok(AppendInfo {
                first_offset: batch.header.base_offset,
                last_offset: batch.header.last_offset(),
                log_append_time: log_append_time(&batch.header),
                duplicate: false,
                size_bytes: batch.header.size_bytes(),
                rolled,
                flush_due,
            }));
        }
        Ok(())
    }

    fn note_unflushed_since(&mut self, now: Now) {
        if self.persistence.unflushed_messages == 0 {
            self.persistence.unflushed_since_ms = now.mono_ms;
        }
    }

    /// Whether `flush.messages` asks for a flush that the caller has to see to.
    fn is_flush_awaited(&self) -> bool {
        self.durable_end_offset() < self.log_end_offset
    }

    /// Writes batches that fit one segment; returns whether that segment is new.
    fn append_group(
        &mut self,
        now: Now,
        written: &[Written],
        pieces: &mut [IoSlice<'_>],
    ) -> Result<bool, LogError> {
        let extent = Extent::of(written);
        if !self.config.may_use_reserve {
            self.directory.take_room(extent.size_bytes)?;
        }
        let rolled = self.prepare_active(now, &extent)?;
        let file = self.open_active()?;
        self.reserve_ahead(&file.file, extent.size_bytes);
        let zero_bytes = self.zeros_behind(now, extent.size_bytes);
        let mut at = self.write(&file.file, pieces, zero_bytes)?;
        let mut epochs_changed = false;
        let interval = self.config.index_interval_bytes;
        for Written { header, .. } in written {
            epochs_changed |= self.note_epoch(header);
            self.recent.push(header, at);
            at += header.size_bytes() as u64;
            self.active().note(header, interval);
            self.persistence.unflushed_messages += i64::from(header.last_offset_delta) + 1;
            self.log_end_offset = header.next_offset();
        }
        self.persistence.appended_bytes += extent.size_bytes;
        self.note_flush_due(extent.first_offset);
        // Once all of it is within the log's end: what stands in the file is not written over, whatever is asserted of it.
        for Written { header, marker } in written {
            self.note_producer(header, *marker);
        }
        // The records are in the log now: an index without room is no reason to say that they are not. Recovery finds epochs again,
        // and a checkpoint writes those that the index lacks.
        if epochs_changed {
            let persisted = self.persist_epochs(Survive::Kill);
            self.put_off(persisted)?;
        }
        if self.active().index.is_full() {
            let spilled = self.spill_index();
            self.put_off(spilled)?;
        }
        Ok(rolled)
    }

    /// Notes the leader epoch of a batch; true if that changes what is known.
    ///
    /// The batch is right: where a leader that wrote nothing has noted its epoch, records of an older one may follow.
    pub(crate) fn note_epoch(&mut self, header: &BatchHeader) -> bool {
        let (epoch, offset) = (header.partition_leader_epoch, header.base_offset);
        let is_news = match self.epochs.epoch_for_offset(offset) {
            Some(known) => known != epoch,
            // The first, or one below all that is kept.
            None => self.epochs.latest_epoch().is_none_or(|latest| latest < epoch),
        };
        epoch >= 0 && is_news && self.epochs.assign(epoch, offset)
    }

    /// Notes the producer of a batch, and of a marker what it ended.
    pub(crate) fn note_producer(&mut self, header: &BatchHeader, marker: Option<EndTransactionMarker>) {
        if !header.has_producer_id() {
            return;
        }
        let known = self.producers.len();
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
        let left = self.producers.len();
        if left < known {
            warn!(self.logger, "the producers that wrote longest ago are forgotten: there are more than a partition remembers";
                "producers" => known, "forgotten" => known + 1 - left);
        }
    }

    /// Writes at the end of the active segment, with so many zeros behind; on failure the file is cut back to what it was.
    fn write(&mut self, file: &File, pieces: &mut [IoSlice<'_>], zero_bytes: u64) -> Result<u64, LogError> {
        let active = self
            .segments
            .last_entry()
            .expect("prepare_active made sure of an active segment")
            .into_mut();
        let position = active.footer.size_bytes;
        let mut outcome = Ok(());
        if zero_bytes > 0 {
            outcome = write_with_zeros(file, pieces, zero_bytes, position);
        }
        if zero_bytes == 0 || outcome.is_err() {
            // Where there is no room for both there may be for the records.
            outcome = write_pieces(file, pieces, position);
        }
        let Err(source) = outcome else {
            return Ok(position);
        };
        let path = segment_path(&self.folder, active.base_offset);
        active.reserved_bytes = 0;
        active.pages = PagesAhead::default();
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
}

impl Run {
    fn add(&mut self, place: usize, header: &BatchHeader) {
        self.places.push(place);
        self.headers.push(*header);
        self.size_bytes += header.size_bytes() as u64;
    }
}

impl<'a> AsMut<LeaderBatch<'a>> for LeaderBatch<'a> {
    fn as_mut(&mut self) -> &mut LeaderBatch<'a> {
        self
    }
}

impl LeaderBatch<'_> {
    fn place(&mut self, base_offset: i64, leader_epoch: i32) {
        self.head.place(base_offset, leader_epoch);
        self.header.base_offset = base_offset;
        self.header.partition_leader_epoch = leader_epoch;
    }
}

/// What a group of batches spans, which decides about the segment that it goes to.
pub(crate) struct Extent {
    pub(crate) first_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) size_bytes: u64,
}

impl Extent {
    fn of(written: &[Written]) -> Self {
        let headers = || written.iter().map(|written| &written.header);
        Self {
            first_offset: written[0].header.base_offset,
            last_offset: written[written.len() - 1].header.last_offset(),
            max_timestamp: headers()
                .map(|header| header.max_timestamp)
                .max()
                .unwrap_or(NO_TIMESTAMP),
            size_bytes: headers().map(|header| header.size_bytes() as u64).sum(),
        }
    }
}

fn check_fetched(header: &BatchHeader, batch: &[u8], expected_offset: i64) -> Result<(), AppendError> {
    verify_crc(batch).map_err(|error| AppendError::Corrupt(error.to_string()))?;
    if header.last_offset_delta < 0 {
        let detail = format!("last offset delta {}", header.last_offset_delta);
        return Err(AppendError::Corrupt(detail));
    }
    if header.base_offset < expected_offset {
        return Err(AppendError::OutOfOrder {
            first_offset: header.base_offset,
            log_end_offset: expected_offset,
        });
    }
    Ok(())
}

/// The marker of a batch that ends a transaction.
pub(crate) fn marker_in(
    header: &BatchHeader,
    batch: &[u8],
) -> Result<Option<EndTransactionMarker>, AppendError> {
    if header.has_producer_id() && header.is_control() {
        marker_of(batch)
    } else {
        Ok(None)
    }
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

thread_local! {
    /// Where small pieces are put together.
    static GATHERED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn write_pieces(file: &File, pieces: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
    if let [only] = pieces {
        return file.write_all_at(only, position);
    }
    let size_bytes = size_of_all(pieces);
    if size_bytes > GATHER_SIZE_BYTES_MAX {
        return write_vectored(file, pieces, position, size_bytes);
    }
    GATHERED.with_borrow_mut(|gathered| {
        gathered.clear();
        for piece in pieces.iter() {
            gathered.extend_from_slice(piece);
        }
        file.write_all_at(gathered, position)
    })
}

/// Writes the pieces, and zeros behind them as far as that goes in the same call.
pub(crate) fn write_with_zeros(
    file: &File,
    pieces: &[IoSlice<'_>],
    zero_bytes: u64,
    position: u64,
) -> io::Result<()> {
    let mut all: SmallVec<[IoSlice<'_>; INLINE_PIECES]> = SmallVec::from_slice(pieces);
    all.extend(pages::zeros(zero_bytes));
    write_vectored(file, &mut all, position, size_of_all(pieces))
}

fn size_of_all(pieces: &[IoSlice<'_>]) -> usize {
    pieces.iter().map(|piece| piece.len()).sum()
}

/// Writes the pieces until `needed` bytes of them are in the file.
fn write_vectored(
    file: &File,
    mut pieces: &mut [IoSlice<'_>],
    mut position: u64,
    mut needed: usize,
) -> io::Result<()> {
    while needed > 0 {
        let now = pieces.len().min(PIECES_PER_WRITE);
        match rustix::io::pwritev(file, &pieces[..now], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                position += written as u64;
                needed = needed.saturating_sub(written);
                IoSlice::advance_slices(&mut pieces, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

const _: () = assert!(
    INLINE_PIECES >= 2 * INLINE_BATCHES + ZEROS_PIECES_MAX,
    "zeros behind an append of few batches need no allocation"
);
const _: () = assert!(
    HEADER_SIZE_BYTES < GATHER_SIZE_BYTES_MAX,
    "the smallest batch is gathered"
);
