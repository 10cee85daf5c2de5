//! What has to be known of a transaction before its first batch is appended here (KIP-890).
//!
//! A producer whose request was delayed could begin a transaction that nobody ends. So the first transactional batch of a
//! transaction waits until its coordinator has been asked, and is appended with the guard that was handed out before. A
//! marker, or the first append, makes every guard void that was handed out until then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::records::batch::BatchHeader;
use odradek_common::time::Now;

use super::{ProducerState, ProducerStates};

/// Producers of one partition that may wait for their verification; above, the one that waits longest asks again.
pub const VERIFICATIONS_MAX: usize = 10_000;

/// Shows that a transaction's coordinator was asked after the last marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerificationGuard(u64);

impl VerificationGuard {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whether a transactional batch needs a guard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// It does not: `transaction.partition.verification.enable` is off, or the batch belongs to no transaction.
    #[default]
    Waived,
    /// It does, unless its transaction has begun here; this one was handed out for it.
    Required(Option<VerificationGuard>),
}

/// A verification under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VerificationState {
    guard: VerificationGuard,
    since_ms: i64,
    /// The lowest sequence that waits. While it does, nothing behind it is appended: it could never follow.
    lowest_sequence: i32,
    epoch: i16,
    /// Each end of a transaction raises the epoch, so that a transaction begins with sequence 0.
    raises_epoch: bool,
}

/// The verifications under way, by producer.
pub(super) type Verifications = BTreeMap<i64, VerificationState>;

/// A transactional batch that is about to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionalBatch {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// Sequence of the batch's first record; -1 from coordinators.
    pub base_sequence: i32,
    /// Each end of a transaction raises the producer's epoch (`transaction.version` 2).
    pub raises_epoch: bool,
}

impl ProducerStates {
    /// The guard that the batch needs once the transaction's coordinator has agreed; None if its transaction has begun here.
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH: a later epoch has written here.
    pub fn begin_verification(
        &mut self,
        now: Now,
        batch: TransactionalBatch,
    ) -> Result<Option<VerificationGuard>, ApiError> {
        if let Some(state) = self.producers.get(&batch.producer_id) {
            if batch.producer_epoch < state.producer_epoch {
                return Err(super::epoch_refusal(
                    batch.producer_id,
                    batch.producer_epoch,
                    state.producer_epoch,
                ));
            }
            if is_ongoing(state, batch.producer_epoch) {
                return Ok(None);
            }
        }
        if !self.verifications.contains_key(&batch.producer_id)
            && self.verifications.len() >= VERIFICATIONS_MAX
        {
            let oldest = self.verifications.iter().min_by_key(|(_, state)| state.since_ms);
            let oldest = oldest.map(|(producer_id, _)| *producer_id);
            oldest.map(|producer_id| self.verifications.remove(&producer_id));
        }
        let state = self
            .verifications
            .entry(batch.producer_id)
            .or_insert_with(|| VerificationState {
                guard: VerificationGuard::next(),
                since_ms: now.wall_ms,
                lowest_sequence: batch.base_sequence,
                epoch: batch.producer_epoch,
                raises_epoch: batch.raises_epoch,
            });
        let is_earlier = batch.producer_epoch == state.epoch && batch.base_sequence < state.lowest_sequence;
        if is_earlier || batch.producer_epoch > state.epoch {
            state.epoch = batch.producer_epoch;
            state.lowest_sequence = batch.base_sequence;
        }
        Ok(Some(state.guard))
    }

    /// The guard that a transactional batch of this producer would have to show; None if none was handed out.
    #[must_use]
    pub fn guard(&self, producer_id: i64) -> Option<VerificationGuard> {
        self.verifications.get(&producer_id).map(|state| state.guard)
    }

    /// Refuses a transactional batch that would begin a transaction of which nobody knows.
    pub(super) fn check_verification(
        &self,
        batch: &BatchHeader,
        verification: Verification,
    ) -> Result<(), ApiError> {
        let Verification::Required(guard) = verification else {
            return Ok(());
        };
        if !batch.is_transactional() {
            return Ok(());
        }
        let state = self.producers.get(&batch.producer_id);
        if state.is_some_and(|state| is_ongoing(state, batch.producer_epoch)) {
            return Ok(());
        }
        if let Some(state) = state {
            super::check_epoch(state, batch)?;
        }
        if guard.is_some() && guard == self.guard(batch.producer_id) {
            return Ok(());
        }
        let detail = format!("producer {} has no transaction open here", batch.producer_id);
        Err(ApiError::new(ErrorCode::InvalidTxnState, detail))
    }

    /// While an earlier batch waits for its verification, or if the producer has to begin with its first record.
    pub(super) fn check_first_sequence(&self, batch: &BatchHeader) -> Result<(), ApiError> {
        let Some(verification) = self.verifications.get(&batch.producer_id) else {
            return Ok(());
        };
        let sequence = batch.base_sequence;
        let known = self.producers.get(&batch.producer_id);
        let begins = verification.raises_epoch && known.is_none_or(|state| state.batches.is_empty());
        let expected = if begins && sequence != 0 {
            0
        } else if sequence > verification.lowest_sequence {
            verification.lowest_sequence
        } else {
            return Ok(());
        };
        let detail = format!(
            "producer {} epoch {} sent sequence {sequence}, expected {expected} first",
            batch.producer_id, batch.producer_epoch
        );
        Err(ApiError::new(ErrorCode::OutOfOrderSequenceNumber, detail))
    }

    /// Something of the producer was appended: what was handed out before is void.
    pub(super) fn end_verification(&mut self, producer_id: i64) {
        if !self.verifications.is_empty() {
            self.verifications.remove(&producer_id);
        }
    }

    /// Forgets verifications that nobody has made use of for `expiration_ms`.
    pub(super) fn expire_verifications(&mut self, now: Now, expiration_ms: i64) {
        self.verifications
            .retain(|_, state| now.wall_ms.saturating_sub(state.since_ms) < expiration_ms);
    }
}

fn is_ongoing(state: &ProducerState, epoch: i16) -> bool {
    state.current_txn_first_offset.is_some() && state.producer_epoch == epoch
}
