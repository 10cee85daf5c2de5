//! Transactions that are open for too long, and transactional ids that nobody uses any more.

use kafka_protocol::protocol::StrBytes;
use odradek_common::time::Now;

use super::metadata::{NO_PRODUCER_EPOCH, TransactionState};
use super::{Then, TimerKey, TransactionShard, Waiting};

/// Transactional ids that are forgotten at once; the rest has to wait for the next time.
const EXPIRED_AT_ONCE_MAX: usize = 10_000;
/// When that is.
const MORE_EXPIRED_MS: u64 = 1_000;

impl TransactionShard {
    /// Sets the deadline of the transaction, if one is open: when it times out, or in `pause_ms` if that is later.
    pub(super) fn schedule_timeout(&mut self, now: Now, transactional_id: &StrBytes, pause_ms: u64) {
        let open = self.replicated.get(transactional_id);
        let open = open.filter(|metadata| metadata.state == TransactionState::Ongoing);
        let Some(deadline_ms) = open.and_then(|metadata| metadata.deadline_ms()) else {
            return;
        };
        // Kafka's rule: open for longer than the timeout, not for as long.
        let left_ms = u64::try_from(deadline_ms.saturating_add(1) - now.wall_ms).unwrap_or(0);
        let key = TimerKey::Timeout(transactional_id.clone());
        self.timers.schedule(key, now.mono_ms + left_ms.max(pause_ms));
    }

    /// Aborts a transaction that is open for too long. One in transition gets its deadline anew when that has ended.
    pub(super) fn time_out(&mut self, now: Now, transactional_id: &StrBytes) {
        if self.is_in_transition(transactional_id) {
            return;
        }
        let open = self.replicated.get(transactional_id);
        let open = open.filter(|metadata| metadata.state == TransactionState::Ongoing);
        match open.and_then(|metadata| metadata.deadline_ms()) {
            None => {}
            // The wall clock was set back.
            Some(deadline_ms) if deadline_ms >= now.wall_ms => {
                self.schedule_timeout(now, transactional_id, 1);
            }
            Some(_) => self.fence(now, transactional_id, Waiting::TimedOut(transactional_id.clone())),
        }
    }

    /// Forgets transactional ids that were not used for long, and looks again later.
    pub(super) fn expire(&mut self, now: Now) {
        let unused_since_ms = now.wall_ms.saturating_sub(self.settings.id_expiration_ms);
        let expired = self.replicated.iter().filter(|(transactional_id, metadata)| {
            metadata.state.may_expire()
                && metadata.last_update_timestamp_ms <= unused_since_ms
                && !self.is_in_transition(transactional_id)
        });
        let expired = expired.map(|(transactional_id, _)| transactional_id.clone());
        let expired: Vec<StrBytes> = expired.take(EXPIRED_AT_ONCE_MAX).collect();
        for transactional_id in &expired {
            self.append(transactional_id, None, NO_PRODUCER_EPOCH, Then::Expired);
        }
        let pause_ms = if expired.len() < EXPIRED_AT_ONCE_MAX {
            self.settings.remove_expired_interval_ms.max(1)
        } else {
            MORE_EXPIRED_MS
        };
        self.timers.schedule(TimerKey::Expiry, now.mono_ms + pause_ms);
    }
}
