//! What one partition knows about its producers: the last five batches of each, and the open transactions.
//!
//! Owns the idempotence window, the fencing by producer epoch and the first unstable offset. Reads batch headers only;
//! does no I/O: the log persists [`ProducerStates::encode`] and replays headers after it.
//! The rules are those of Kafka's ProducerAppendInfo and ProducerStateManager.

use std::collections::{BTreeMap, VecDeque};

use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::records::batch::{BatchHeader, NO_PRODUCER_EPOCH, NO_SEQUENCE};
use odradek_common::records::control::{EndTransactionMarker, TransactionResult};
use odradek_common::time::Now;

use self::verification::{Verification, Verifications};
use crate::aborted::AbortedTransaction;

mod snapshot;
#[cfg(test)]
mod tests;
pub mod verification;

/// Batches per producer among which a duplicate is recognised.
pub const BATCHES_RETAINED: usize = 5;
/// Coordinator epoch of a producer that never saw a transaction marker.
pub const NO_COORDINATOR_EPOCH: i32 = -1;
/// First `transaction.version` in which each end of a transaction raises the producer's epoch.
const EPOCH_RAISED_SINCE: i16 = 2;
/// How much longer than any transaction may last one is open before it counts as late.
const LATE_AFTER_MS: i64 = 5 * 60_000;
/// Producers kept per partition when nothing else is configured; above, those that wrote longest ago are forgotten.
pub const PRODUCERS_MAX: usize = 100_000;

/// Who appends, which decides how much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A producer: epoch and sequence.
    Client,
    /// A group or transaction coordinator: epoch only, it sends no sequences.
    Coordinator,
    /// A follower's fetch: the leader has checked.
    Replication,
}

/// One batch within the idempotence window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMetadata {
    /// Sequence of its first record.
    pub first_sequence: i32,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Its greatest timestamp.
    pub timestamp: i64,
}

/// What is known about one producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// The newest epoch seen.
    pub producer_epoch: i16,
    /// The epoch of the transaction coordinator that wrote the last marker, or -1.
    pub coordinator_epoch: i32,
    /// Timestamp of the last batch or marker; expiry counts from here.
    pub last_timestamp: i64,
    /// Last offset of the last batch or marker, -1 if it is not known.
    pub last_offset: i64,
    /// First offset of the open transaction.
    pub current_txn_first_offset: Option<i64>,
    /// The last batches of this epoch, oldest first, at most [`BATCHES_RETAINED`].
    pub batches: VecDeque<BatchMetadata>,
}

impl ProducerState {
    fn new() -> Self {
        Self {
            producer_epoch: NO_PRODUCER_EPOCH,
            coordinator_epoch: NO_COORDINATOR_EPOCH,
            last_timestamp: -1,
            last_offset: -1,
            current_txn_first_offset: None,
            batches: VecDeque::new(),
        }
    }

    /// Sequence of the last record, -1 if none is known.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        self.batches
            .back()
            .map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }

    fn enter_epoch(&mut self, epoch: i16) {
        if self.producer_epoch != epoch {
            self.producer_epoch = epoch;
            self.batches.clear();
        }
    }
}

/// One row of DescribeProducers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerDescription {
    /// The producer.
    pub producer_id: i64,
    /// Its newest epoch.
    pub producer_epoch: i16,
    /// Its last sequence, or -1.
    pub last_sequence: i32,
    /// Timestamp of its last batch, or -1.
    pub last_timestamp: i64,
    /// Epoch of the coordinator of its last transaction, or -1.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction, or -1.
    pub current_txn_start_offset: i64,
}

/// What of a producer's batches compaction leaves in the log for its sake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRecord {
    /// Offset of its last record; None if its last batch is a marker.
    pub last_data_offset: Option<i64>,
    /// Its newest epoch.
    pub producer_epoch: i16,
}

/// Whether a batch may be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Append it, then [`ProducerStates::record`] it.
    Fresh,
    /// It is in the log already: answer with these, append nothing.
    Duplicate {
        /// Offset of its first record.
        base_offset: i64,
        /// Offset of its last record.
        last_offset: i64,
        /// Its greatest timestamp.
        timestamp: i64,
    },
    /// Refuse it.
    Refused(ApiError),
}

/// The producers of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerStates {
    producers: BTreeMap<i64, ProducerState>,
    /// First offset -> producer of every open transaction.
    ongoing: BTreeMap<i64, i64>,
    /// First offset -> marker offset of transactions whose marker is not below the high watermark yet.
    unreplicated: BTreeMap<i64, i64>,
    /// Not persisted: whoever waits asks anew after a restart.
    verifications: Verifications,
    producers_max: usize,
}

impl Default for ProducerStates {
    fn default() -> Self {
        Self::new(PRODUCERS_MAX)
    }
}

impl ProducerStates {
    /// No producer known; at most `producers_max` are kept.
    #[must_use]
    pub fn new(producers_max: usize) -> Self {
        Self {
            producers: BTreeMap::new(),
            ongoing: BTreeMap::new(),
            unreplicated: BTreeMap::new(),
            verifications: Verifications::new(),
            producers_max: producers_max.max(1),
        }
    }

    /// Whether a data batch with a producer id may be appended; changes nothing.
    #[must_use]
    pub fn check(&self, batch: &BatchHeader, origin: AppendOrigin) -> Check {
        self.check_verified(batch, origin, Verification::Waived)
    }

    /// As [`ProducerStates::check`], with what is known of the batch's transaction.
    #[must_use]
    pub fn check_verified(
        &self,
        batch: &BatchHeader,
        origin: AppendOrigin,
        verification: Verification,
    ) -> Check {
        if !batch.has_producer_id() || origin == AppendOrigin::Replication {
            return Check::Fresh;
        }
        // An unknown producer may begin anywhere: retention may have removed what was known about it.
        let state = self.producers.get(&batch.producer_id);
        if origin == AppendOrigin::Client
            && let Some(known) = state.and_then(|state| duplicate_of(state, batch))
        {
            return Check::Duplicate {
                base_offset: known.base_offset,
                last_offset: known.last_offset,
                timestamp: known.timestamp,
            };
        }
        let checked = self.check_verification(batch, verification).and_then(|()| {
            if let Some(state) = state {
                check_epoch(state, batch)?;
            }
            if origin == AppendOrigin::Client {
                self.check_first_sequence(batch)?;
                state.map_or(Ok(()), |state| check_sequence(state, batch))?;
            }
            state.map_or(Ok(()), |state| check_transaction(state, batch))
        });
        checked.map_or_else(Check::Refused, |()| Check::Fresh)
    }

    /// Whether a transaction marker may be appended; changes nothing. `transaction_version` is that of the transaction which
    /// it ends: from 2 on the coordinator raises the producer's epoch with every end (KIP-890).
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH for a marker of an earlier transaction; TRANSACTION_COORDINATOR_FENCED for one of a coordinator
    /// that has a successor.
    pub fn check_marker(
        &self,
        batch: &BatchHeader,
        marker: EndTransactionMarker,
        transaction_version: i16,
    ) -> Result<(), ApiError> {
        let Some(state) = self.producers.get(&batch.producer_id) else {
            return Ok(());
        };
        check_marker_epoch(state, batch, transaction_version)?;
        if state.coordinator_epoch > marker.coordinator_epoch {
            return Err(ApiError::new(
                ErrorCode::TransactionCoordinatorFenced,
                format!(
                    "the marker for producer {} comes from coordinator epoch {}, epoch {} has written here since",
                    batch.producer_id, marker.coordinator_epoch, state.coordinator_epoch
                ),
            ));
        }
        Ok(())
    }

    /// Takes note of an appended data batch; batches without a producer id are ignored.
    pub fn record(&mut self, batch: &BatchHeader) {
        if !batch.has_producer_id() {
            return;
        }
        self.end_verification(batch.producer_id);
        self.make_room(batch.producer_id);
        let state = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(ProducerState::new);
        state.enter_epoch(batch.producer_epoch);
        if state.batches.len() == BATCHES_RETAINED {
            state.batches.pop_front();
        }
        state.batches.push_back(BatchMetadata {
            first_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset: batch.base_offset,
            last_offset: batch.last_offset(),
            timestamp: batch.max_timestamp,
        });
        state.last_timestamp = batch.max_timestamp;
        state.last_offset = batch.last_offset();
        if batch.is_transactional() && state.current_txn_first_offset.is_none() {
            state.current_txn_first_offset = Some(batch.base_offset);
            self.ongoing.insert(batch.base_offset, batch.producer_id);
        }
    }

    /// Takes note of an appended marker. Returns the transaction if it had records here and was aborted.
    pub fn complete_txn(
        &mut self,
        batch: &BatchHeader,
        marker: EndTransactionMarker,
    ) -> Option<AbortedTransaction> {
        self.end_verification(batch.producer_id);
        self.make_room(batch.producer_id);
        let state = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(ProducerState::new);
        state.enter_epoch(batch.producer_epoch);
        state.coordinator_epoch = marker.coordinator_epoch;
        state.last_timestamp = batch.max_timestamp;
        state.last_offset = batch.last_offset();
        let first_offset = state.current_txn_first_offset.take()?;
        let last_offset = batch.base_offset;
        self.ongoing.remove(&first_offset);
        self.unreplicated.insert(first_offset, last_offset);
        (marker.result == TransactionResult::Abort).then(|| AbortedTransaction {
            producer_id: batch.producer_id,
            first_offset,
            last_offset,
            last_stable_offset: self.ongoing.keys().next().copied().unwrap_or(last_offset + 1),
        })
    }

    /// Forgets completed transactions whose marker is below `high_watermark`.
    pub fn on_high_watermark(&mut self, high_watermark: i64) {
        // The map is empty unless transactions are in flight: this runs on every advance of the high watermark.
        if !self.unreplicated.is_empty() {
            self.unreplicated
                .retain(|_, marker_offset| *marker_offset >= high_watermark);
        }
    }

    /// First offset of the oldest transaction that is open, or closed by a marker not yet replicated.
    #[must_use]
    pub fn first_unstable_offset(&self) -> Option<i64> {
        let ongoing = self.ongoing.keys().next().copied();
        let unreplicated = self.unreplicated.keys().next().copied();
        ongoing.into_iter().chain(unreplicated).min()
    }

    /// First offset of the oldest open transaction.
    #[must_use]
    pub fn first_undecided_offset(&self) -> Option<i64> {
        self.ongoing.keys().next().copied()
    }

    /// Number of open transactions.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.ongoing.len()
    }

    /// Whether the oldest open transaction has been written to for the last time so long ago that its coordinator must have
    /// ended it, had it known of it: `transaction.max.timeout.ms` and five minutes, as Kafka counts.
    #[must_use]
    pub fn has_late_transaction(&self, now: Now, timeout_max_ms: i64) -> bool {
        let oldest = self.ongoing.values().next();
        let state = oldest.and_then(|producer_id| self.producers.get(producer_id));
        state.is_some_and(|state| {
            let idle_ms = now.wall_ms.saturating_sub(state.last_timestamp);
            state.last_timestamp > 0 && idle_ms > timeout_max_ms.saturating_add(LATE_AFTER_MS)
        })
    }

    /// Forgets producers that wrote nothing for `expiration_ms` and have no open transaction; returns how many.
    pub fn expire(&mut self, now: Now, expiration_ms: i64) -> usize {
        self.expire_verifications(now, expiration_ms);
        let before = self.producers.len();
        self.producers.retain(|_, state| {
            state.current_txn_first_offset.is_some()
                || now.wall_ms.saturating_sub(state.last_timestamp) < expiration_ms
        });
        before - self.producers.len()
    }

    /// After the log start moved to `offset`: closed transactions below it no longer hold back the stable offset.
    pub fn on_log_start(&mut self, offset: i64) {
        self.unreplicated
            .retain(|_, marker_offset| *marker_offset >= offset);
    }

    /// Forgets everything, as before a rebuild.
    pub fn clear(&mut self) {
        self.producers.clear();
        self.ongoing.clear();
        self.unreplicated.clear();
    }

    /// One producer.
    #[must_use]
    pub fn get(&self, producer_id: i64) -> Option<&ProducerState> {
        self.producers.get(&producer_id)
    }

    /// Number of producers known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// The producers as DescribeProducers lists them, by producer id.
    #[must_use]
    pub fn describe(&self) -> Vec<ProducerDescription> {
        self.producers
            .iter()
            .map(|(&producer_id, state)| ProducerDescription {
                producer_id,
                producer_epoch: state.producer_epoch,
                last_sequence: state.last_sequence(),
                last_timestamp: state.last_timestamp,
                coordinator_epoch: state.coordinator_epoch,
                current_txn_start_offset: state.current_txn_first_offset.unwrap_or(-1),
            })
            .collect()
    }

    /// The last record of every producer, by producer id.
    pub fn last_records(&self) -> impl Iterator<Item = (i64, LastRecord)> {
        self.producers.iter().map(|(&producer_id, state)| {
            let last = LastRecord {
                last_data_offset: state.batches.back().map(|batch| batch.last_offset),
                producer_epoch: state.producer_epoch,
            };
            (producer_id, last)
        })
    }

    /// Forgets the sixteenth that wrote longest ago if a new producer would exceed the limit. Offsets tell how long ago that was:
    /// timestamps are the producers' own, and one that copies old records would lose its window while it writes.
    fn make_room(&mut self, producer_id: i64) {
        if self.producers.len() < self.producers_max || self.producers.contains_key(&producer_id) {
            return;
        }
        let mut idle: Vec<(i64, i64)> = self
            .producers
            .iter()
            .filter(|(_, state)| state.current_txn_first_offset.is_none())
            .map(|(&id, state)| (state.last_offset, id))
            .collect();
        idle.sort_unstable();
        idle.truncate((self.producers_max / 16).max(1));
        for (_, id) in idle {
            self.producers.remove(&id);
        }
    }
}

fn duplicate_of<'a>(state: &'a ProducerState, batch: &BatchHeader) -> Option<&'a BatchMetadata> {
    if state.producer_epoch != batch.producer_epoch {
        return None;
    }
    let last_sequence = batch.last_sequence();
    state
        .batches
        .iter()
        .find(|known| known.first_sequence == batch.base_sequence && known.last_sequence == last_sequence)
}

fn check_epoch(state: &ProducerState, batch: &BatchHeader) -> Result<(), ApiError> {
    if batch.producer_epoch >= state.producer_epoch {
        return Ok(());
    }
    Err(epoch_refusal(
        batch.producer_id,
        batch.producer_epoch,
        state.producer_epoch,
    ))
}

fn epoch_refusal(producer_id: i64, epoch: i16, current: i16) -> ApiError {
    let detail = format!("producer {producer_id} sent epoch {epoch}, epoch {current} has written here since");
    ApiError::new(ErrorCode::InvalidProducerEpoch, detail)
}

/// The marker of a transaction whose end raises the epoch has a higher one than its records: with the same it belongs to a
/// transaction before, unless that has ended here already and the coordinator did not learn of it (KAFKA-19999). The last
/// epoch there is cannot be raised.
fn check_marker_epoch(
    state: &ProducerState,
    batch: &BatchHeader,
    transaction_version: i16,
) -> Result<(), ApiError> {
    let is_late = transaction_version >= EPOCH_RAISED_SINCE
        && batch.producer_epoch == state.producer_epoch
        && batch.producer_epoch < i16::MAX
        && state.current_txn_first_offset.is_some();
    if is_late {
        return Err(ApiError::new(
            ErrorCode::InvalidProducerEpoch,
            format!(
                "the marker for producer {} has epoch {}, in which a later transaction is open",
                batch.producer_id, batch.producer_epoch
            ),
        ));
    }
    check_epoch(state, batch)
}

fn check_sequence(state: &ProducerState, batch: &BatchHeader) -> Result<(), ApiError> {
    if state.producer_epoch == NO_PRODUCER_EPOCH {
        return Ok(());
    }
    let expected = if state.producer_epoch == batch.producer_epoch {
        let last = state.last_sequence();
        if last == i32::MAX { 0 } else { last + 1 }
    } else {
        0
    };
    if batch.base_sequence == expected {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::OutOfOrderSequenceNumber,
        format!(
            "producer {} epoch {} sent sequence {}, expected {expected}",
            batch.producer_id, batch.producer_epoch, batch.base_sequence
        ),
    ))
}

fn check_transaction(state: &ProducerState, batch: &BatchHeader) -> Result<(), ApiError> {
    match state.current_txn_first_offset {
        Some(first_offset) if !batch.is_transactional() => Err(ApiError::new(
            ErrorCode::InvalidTxnState,
            format!(
                "producer {} has a transaction open since offset {first_offset} and sent a batch outside of it",
                batch.producer_id
            ),
        )),
        Some(_) | None => Ok(()),
    }
}
