//! A replica's part in transactions: guards for the first batch of each (KIP-890), and what metrics show of open ones.

use odradek_broker_core::producer_state::verification::{TransactionalBatch, VerificationGuard};
use odradek_broker_log::log::Log;
use odradek_common::error::ApiError;
use odradek_common::time::Now;

use super::{Replica, State};
use crate::clock;

/// How long the last stable offset has been where it is because of a transaction.
#[derive(Debug, Default)]
pub(super) struct Stalled(Option<(i64, u64)>);

impl Stalled {
    /// Looks at the offset after every change; costs nothing while no transaction holds it.
    pub(super) fn note(&mut self, log: &Log) {
        if log.producers().first_unstable_offset().is_none() {
            self.0 = None;
            return;
        }
        let offset = log.last_stable_offset();
        if self.0.is_none_or(|(before, _)| before != offset) {
            self.0 = Some((offset, clock::mono_ms()));
        }
    }

    fn ms(&self, now: Now) -> u64 {
        self.0
            .map_or(0, |(_, since_ms)| now.mono_ms.saturating_sub(since_ms))
    }
}

/// What metrics show of a partition's transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTransactions {
    /// How many are open.
    pub count: usize,
    /// For how long they have kept the last stable offset where it is, in milliseconds; 0 if they do not.
    pub stalled_ms: u64,
    /// The oldest one is older than any may be.
    pub is_late: bool,
}

impl Replica {
    /// The guard that a transactional batch needs once the transaction's coordinator has agreed; None if its transaction has
    /// begun here.
    ///
    /// # Errors
    /// Not the leader; INVALID_PRODUCER_EPOCH if a later epoch has written here.
    pub fn begin_verification(
        &self,
        now: Now,
        batch: TransactionalBatch,
    ) -> Result<Option<VerificationGuard>, ApiError> {
        let mut state = self.state.lock();
        state.partition.check_leader(-1).map_err(ApiError::from)?;
        state.partition.log_mut().begin_verification(now, batch)
    }

    /// What metrics show of the open transactions.
    #[must_use]
    pub fn open_transactions(&self, now: Now, timeout_max_ms: i64) -> OpenTransactions {
        let State {
            partition, stalled, ..
        } = &*self.state.lock();
        let producers = partition.log().producers();
        OpenTransactions {
            count: producers.open_transactions(),
            stalled_ms: stalled.ms(now),
            is_late: producers.has_late_transaction(now, timeout_max_ms),
        }
    }

    /// Whether a guard is what a batch would be appended with now: no marker has come since it was handed out.
    #[must_use]
    pub fn is_guard_valid(&self, producer_id: i64, guard: VerificationGuard) -> bool {
        let state = self.state.lock();
        let producers = state.partition.log().producers();
        producers.guard(producer_id) == Some(guard)
    }
}
