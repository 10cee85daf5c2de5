//! Requests that come while their transactional id is in transition and wait for its end, instead of being told to come back:
//! a producer begins its next transaction as soon as the last one is committed, while partitions are still being told.

use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::time::Now;

use super::{TimerKey, TransactionRequest, TransactionShard};
use crate::coordination::RequestToken;

/// How long a request waits. Kafka's brokers repeat theirs for as long (`add.partitions.to.txn.retry.backoff.max.ms`).
const PATIENCE_MS: u64 = 100;
/// Requests that wait for one transactional id: it has one producer, and others that take its place.
const PARKED_MAX: usize = 8;

/// A request that waits.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    token: RequestToken,
    request: TransactionRequest,
    until_ms: u64,
}

impl TransactionShard {
    /// Keeps the request until its transactional id is in no transition any more.
    pub(super) fn park(&mut self, now: Now, token: RequestToken, request: TransactionRequest) {
        let Some(transactional_id) = request.transactional_id().cloned() else {
            return self.reply(token, request.refuse(ErrorCode::ConcurrentTransactions));
        };
        let soft = self.soft(&transactional_id);
        if soft.is_slow || soft.parked.len() >= PARKED_MAX {
            return self.reply(token, request.refuse(ErrorCode::ConcurrentTransactions));
        }
        let parked = &mut soft.parked;
        let until_ms = now.mono_ms + PATIENCE_MS;
        let is_first = parked.is_empty();
        parked.push(Parked {
            token,
            request,
            until_ms,
        });
        if is_first {
            let key = TimerKey::Parked(super::owned(&transactional_id));
            self.timers.schedule(key, until_ms);
        }
    }

    /// The transactional id is in no transition any more: what waits is handled in the order of its arrival.
    pub(super) fn unpark(&mut self, now: Now, transactional_id: &StrBytes) {
        if let Some(soft) = self.soft.get_mut(transactional_id) {
            soft.is_slow = false;
        }
        for parked in self.take_parked(transactional_id) {
            self.dispatch(now, parked.token, parked.request);
        }
    }

    /// Whoever has waited for long enough is told to come back; until the transition has ended, so is whoever comes. Brokers
    /// ask for many transactions at once, and those must not wait for a slow one again and again.
    pub(super) fn lose_patience(&mut self, now: Now, transactional_id: &StrBytes) {
        let (late, waiting): (Vec<_>, Vec<_>) = self
            .take_parked(transactional_id)
            .into_iter()
            .partition(|parked| parked.until_ms <= now.mono_ms);
        for parked in late {
            let refused = parked.request.refuse(ErrorCode::ConcurrentTransactions);
            self.reply(parked.token, refused);
        }
        self.soft(transactional_id).is_slow = true;
        if let Some(next) = waiting.first() {
            let key = TimerKey::Parked(transactional_id.clone());
            self.timers.schedule(key, next.until_ms);
            self.soft(transactional_id).parked = waiting;
        }
    }

    /// Refuses everything that waits.
    pub(super) fn refuse_parked(&mut self, code: ErrorCode) {
        let soft = std::mem::take(&mut self.soft);
        for parked in soft.into_values().flat_map(|soft| soft.parked) {
            self.reply(parked.token, parked.request.refuse(code));
        }
    }

    fn take_parked(&mut self, transactional_id: &StrBytes) -> Vec<Parked> {
        let soft = self.soft.get_mut(transactional_id);
        let parked = soft
            .map(|soft| std::mem::take(&mut soft.parked))
            .unwrap_or_default();
        if !parked.is_empty() {
            self.timers.cancel(&TimerKey::Parked(transactional_id.clone()));
        }
        parked
    }
}
