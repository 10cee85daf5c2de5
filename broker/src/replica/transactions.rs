//! A replica's part in transactions: guards for the first batch of each (KIP-890).

use odradek_broker_core::producer_state::verification::{TransactionalBatch, VerificationGuard};
use odradek_common::error::ApiError;
use odradek_common::time::Now;

use super::Replica;

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

    /// Whether a guard is what a batch would be appended with now: no marker has come since it was handed out.
    #[must_use]
    pub fn is_guard_valid(&self, producer_id: i64, guard: VerificationGuard) -> bool {
        let state = self.state.lock();
        let producers = state.partition.log().producers();
        producers.guard(producer_id) == Some(guard)
    }
}
