//! What the committed log of one partition of `__transaction_state` says, and nothing more.
//!
//! Invariant: replaying [`Replicated::to_records`] gives the same value (property-tested).

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use super::metadata::TransactionMetadata;
use super::records::Record;

/// Every transactional id with what was last written of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicated {
    transactions: BTreeMap<StrBytes, TransactionMetadata>,
}

impl Replicated {
    /// Takes one committed record.
    pub fn apply(&mut self, record: Record) {
        match record.value {
            Some(value) => _ = self.transactions.insert(record.transactional_id, value),
            None => _ = self.transactions.remove(&record.transactional_id),
        }
    }

    /// The shortest log that says the same, at that level of `transaction.version`.
    #[must_use]
    pub fn to_records(&self, transaction_version: i16) -> Vec<(Bytes, Option<Bytes>)> {
        let record = |(transactional_id, value): (&StrBytes, &TransactionMetadata)| {
            let (transactional_id, value) = (transactional_id.clone(), Some(value.clone()));
            Record {
                transactional_id,
                value,
            }
            .encode(transaction_version)
        };
        self.transactions.iter().map(record).collect()
    }

    /// What was last written of a transactional id.
    #[must_use]
    pub fn get(&self, transactional_id: &StrBytes) -> Option<&TransactionMetadata> {
        self.transactions.get(transactional_id)
    }

    /// Every transactional id, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&StrBytes, &TransactionMetadata)> {
        self.transactions.iter()
    }
}
