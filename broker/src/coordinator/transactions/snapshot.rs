//! What metrics show of the transactions: a copy, which a shard makes when a scrape asks for it.

use std::collections::BTreeMap;

use odradek_broker_core::transactions::TransactionShard;
use odradek_broker_core::transactions::metadata::TransactionState;

/// The transactions coordinated by this broker.
#[derive(Clone, Debug, Default)]
pub struct TransactionsSnapshot {
    /// Transactional ids by state.
    pub states: BTreeMap<TransactionState, usize>,
    /// When each transaction under way should have ended, in milliseconds since 1970.
    pub deadlines_ms: Vec<i64>,
}

impl TransactionsSnapshot {
    /// A shard as it is now.
    #[must_use]
    pub fn of(shard: &TransactionShard) -> Self {
        let mut snapshot = Self::default();
        for (state, deadline_ms) in shard.transactions() {
            *snapshot.states.entry(state).or_default() += 1;
            snapshot.deadlines_ms.extend(deadline_ms);
        }
        snapshot
    }

    /// Adds the transactions of another shard.
    pub fn extend(&mut self, other: &Self) {
        for (state, count) in &other.states {
            *self.states.entry(*state).or_default() += count;
        }
        self.deadlines_ms.extend_from_slice(&other.deadlines_ms);
    }

    /// Transactions that should have ended before now.
    #[must_use]
    pub fn late(&self, now_ms: i64) -> usize {
        self.deadlines_ms
            .iter()
            .filter(|deadline_ms| **deadline_ms < now_ms)
            .count()
    }
}
