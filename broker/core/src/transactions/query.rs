//! ListTransactions and DescribeTransactions.

use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::time::Now;

use super::metadata::{TransactionMetadata, TransactionState};
use super::{ListFilter, TransactionShard};

impl TransactionShard {
    /// The transaction; when it ends, with the partitions that have no marker yet.
    pub(super) fn describe(
        &self,
        transactional_id: &StrBytes,
    ) -> Result<Box<TransactionMetadata>, ErrorCode> {
        if transactional_id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let found = self.replicated.get(transactional_id);
        let mut described = found.cloned().ok_or(ErrorCode::TransactionalIdNotFound)?;
        if described.prepared_result().is_some()
            && let Some(soft) = self.soft.get(transactional_id)
        {
            described.partitions.clone_from(&soft.unmarked);
        }
        described.producer_epoch = self.epoch(transactional_id, &described);
        Ok(Box::new(described))
    }

    pub(super) fn list(&self, now: Now, filter: &ListFilter) -> Vec<(StrBytes, i64, TransactionState)> {
        let is_shown = |metadata: &TransactionMetadata| {
            let states = filter.states.as_ref();
            let producer_ids = &filter.producer_ids;
            states.is_none_or(|states| states.contains(&metadata.state))
                && (producer_ids.is_empty() || producer_ids.contains(&metadata.producer_id))
                && (filter.duration_ms < 0 || now.wall_ms - metadata.start_timestamp_ms > filter.duration_ms)
        };
        self.replicated
            .iter()
            .filter(|(_, metadata)| is_shown(metadata))
            .map(|(transactional_id, metadata)| {
                (transactional_id.clone(), metadata.producer_id, metadata.state)
            })
            .collect()
    }

    /// Every transactional id: its state, and when the transaction under way should have ended at the latest.
    pub fn transactions(&self) -> impl Iterator<Item = (TransactionState, Option<i64>)> {
        self.replicated.iter().map(|(_, metadata)| {
            let is_under_way = !metadata.state.may_expire();
            (metadata.state, metadata.deadline_ms().filter(|_| is_under_way))
        })
    }
}
