//! Asks transaction coordinators about transactions of which nothing has been appended here yet (KIP-890).
//!
//! A partition hands out a guard, the coordinator agrees, and the append shows the guard: what a marker overtook is asked
//! anew. From `transaction.version` 2 on the coordinator adds the partition to the transaction, before that it says whether
//! the producer has done so. Everything that waits for one coordinator's node goes in one request; the next one leaves when
//! that is answered.

mod rounds;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::protocol::StrBytes;
use odradek_broker_core::producer_state::verification::{
    TransactionalBatch, Verification, VerificationGuard,
};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::{NodeId, TopicPartition};
use tokio::time::Instant;

pub use self::rounds::Verifier;
use crate::broker::Broker;
use crate::clock;
use crate::coordinator::leader_of;
use crate::names::TRANSACTIONS_TOPIC;
use crate::replica::Replica;

/// What a request's version says about its client's transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The client has added the partition itself, and aborts over INVALID_TXN_STATE.
    Verify,
    /// The same, and it knows TRANSACTION_ABORTABLE.
    VerifyAbortable,
    /// The partition is to be added now.
    Add,
}

impl Operation {
    /// Of a Produce request.
    #[must_use]
    pub fn of_produce(version: i16) -> Self {
        Self::of(version, 11)
    }

    /// Of a TxnOffsetCommit request.
    #[must_use]
    pub fn of_txn_offset_commit(version: i16) -> Self {
        Self::of(version, 4)
    }

    fn of(version: i16, abortable_since: i16) -> Self {
        match version.cmp(&abortable_since) {
            std::cmp::Ordering::Less => Self::Verify,
            std::cmp::Ordering::Equal => Self::VerifyAbortable,
            std::cmp::Ordering::Greater => Self::Add,
        }
    }
}

/// A producer's transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its name.
    pub transactional_id: StrBytes,
    /// The producer.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// What its client expects.
    pub operation: Operation,
}

/// A partition that the transaction is to write to, and the sequence it begins with there.
pub type Wanted = (Arc<Replica>, i32);

/// What came of asking. Partitions whose transaction has begun are not in it.
#[derive(Debug, Default)]
pub struct Verified {
    outcomes: BTreeMap<TopicPartition, Result<VerificationGuard, ErrorCode>>,
}

impl Verified {
    /// What a batch for this partition is appended with.
    ///
    /// # Errors
    /// The coordinator does not agree, or was not reached.
    pub fn of(&self, partition: &TopicPartition) -> Result<Verification, ErrorCode> {
        let guard = self.outcomes.get(partition).copied().transpose()?;
        Ok(Verification::Required(guard))
    }
}

/// Whether a transactional append needs a guard at all: partitions are added whatever the configuration says.
#[must_use]
pub fn is_required(broker: &Broker, operation: Operation) -> bool {
    operation == Operation::Add || broker.config.load().transaction.partition_verification
}

/// Whether a transaction has yet to begin in this partition, so that its coordinator is to be asked.
#[must_use]
pub fn is_unverified(replica: &Replica, transaction: &Transaction, base_sequence: i32) -> bool {
    // A refusal is given where the batch is appended.
    matches!(begin(replica, transaction, base_sequence), Ok(Some(_)))
}

fn begin(
    replica: &Replica,
    transaction: &Transaction,
    base_sequence: i32,
) -> Result<Option<VerificationGuard>, ApiError> {
    let batch = TransactionalBatch {
        producer_id: transaction.producer_id,
        producer_epoch: transaction.producer_epoch,
        base_sequence,
        raises_epoch: transaction.operation == Operation::Add,
    };
    replica.begin_verification(clock::now(), batch)
}

/// Asks the transaction's coordinator where that is necessary. A transaction before that still ends is waited for a moment,
/// where the client does not ask itself before it sends.
pub async fn verify(broker: &Arc<Broker>, transaction: &Transaction, wanted: &[Wanted]) -> Verified {
    let (pause, patience) = {
        let config = broker.config.load();
        let ms = |ms: u32| Duration::from_millis(ms.into());
        (
            ms(config.transaction.add_partitions_retry_backoff_ms),
            ms(config.transaction.add_partitions_retry_backoff_max_ms),
        )
    };
    let deadline = Instant::now() + patience;
    loop {
        let mut verified = ask(broker, transaction, wanted).await;
        let expired = Instant::now() >= deadline;
        let is_concurrent = |outcome: &Result<_, _>| *outcome == Err(ErrorCode::ConcurrentTransactions);
        let must_wait =
            transaction.operation == Operation::Add && verified.outcomes.values().any(is_concurrent);
        if must_wait && !expired {
            tokio::time::sleep(pause).await;
            continue;
        }
        // A marker came in between: what the coordinator said was of the transaction after it.
        let is_void = |(replica, _): &Wanted| {
            let outcome = verified.outcomes.get(&replica.id);
            matches!(outcome, Some(Ok(guard)) if !replica.is_guard_valid(transaction.producer_id, *guard))
        };
        let void: Vec<&Wanted> = wanted.iter().filter(|wanted| is_void(wanted)).collect();
        if void.is_empty() {
            return verified;
        }
        if expired {
            for (replica, _) in void {
                let outcome = Err(ErrorCode::ConcurrentTransactions);
                verified.outcomes.insert(replica.id.clone(), outcome);
            }
            return verified;
        }
    }
}

/// Takes guards and asks once.
async fn ask(broker: &Arc<Broker>, transaction: &Transaction, wanted: &[Wanted]) -> Verified {
    let mut outcomes = BTreeMap::new();
    for (replica, base_sequence) in wanted {
        if let Some(guard) = begin(replica, transaction, *base_sequence).ok().flatten() {
            outcomes.insert(replica.id.clone(), Ok(guard));
        }
    }
    if outcomes.is_empty() {
        return Verified::default();
    }
    let partitions: Vec<TopicPartition> = outcomes.keys().cloned().collect();
    let refused = match coordinator(broker, &transaction.transactional_id) {
        Some(node) => {
            let verifier = broker.verifier.clone();
            verifier.ask(broker, node, transaction.clone(), partitions).await
        }
        None => {
            let unavailable = |partition| (partition, ErrorCode::CoordinatorNotAvailable);
            partitions.into_iter().map(unavailable).collect()
        }
    };
    for (partition, code) in refused {
        outcomes.insert(partition, Err(for_client(code, transaction.operation)));
    }
    Verified { outcomes }
}

/// The node that coordinates the transactional id, if it is alive.
fn coordinator(broker: &Broker, transactional_id: &str) -> Option<NodeId> {
    let image = broker.image();
    let leader = leader_of(&image, TRANSACTIONS_TOPIC, transactional_id)?;
    let registered = image.brokers.get(&leader);
    registered.is_some_and(|broker| !broker.fenced).then_some(leader)
}

/// The coordinator's words as a producer expects them.
fn for_client(code: ErrorCode, operation: Operation) -> ErrorCode {
    match code {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if operation == Operation::Verify => ErrorCode::InvalidTxnState,
        other => other,
    }
}

/// The answer to a produce whose transaction could not be verified. Older clients would not try again over what the
/// coordinator says, and over NOT_ENOUGH_REPLICAS they do, without a look at the metadata.
#[must_use]
pub fn produce_refusal(code: ErrorCode, operation: Operation) -> ApiError {
    let is_retriable = match code {
        ErrorCode::ConcurrentTransactions => operation != Operation::Add,
        // Another partition of the transaction was refused, so this one was not looked at.
        ErrorCode::OperationNotAttempted
        | ErrorCode::NetworkException
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => true,
        _ => false,
    };
    if is_retriable {
        let detail =
            format!("the transaction's coordinator could not be asked about the partition: {code:?}");
        return ApiError::new(ErrorCode::NotEnoughReplicas, detail);
    }
    if code == ErrorCode::InvalidTxnState {
        return ApiError::new(code, "the partition was not added to the transaction");
    }
    code.into()
}

/// The answer to a transactional commit of offsets whose transaction could not be verified: over it a client tries again
/// without another search for the coordinator.
#[must_use]
pub fn commit_refusal(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::NetworkException | ErrorCode::OperationNotAttempted => {
            ErrorCode::CoordinatorLoadInProgress
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_say_what_clients_expect() {
        let produce: Vec<_> = (10..=13).map(Operation::of_produce).collect();
        assert_eq!(
            produce,
            [
                Operation::Verify,
                Operation::VerifyAbortable,
                Operation::Add,
                Operation::Add
            ]
        );
        assert_eq!(Operation::of_txn_offset_commit(3), Operation::Verify);
        assert_eq!(Operation::of_txn_offset_commit(4), Operation::VerifyAbortable);
        assert_eq!(Operation::of_txn_offset_commit(5), Operation::Add);
    }

    // 82: what passes by itself must not look final to any client.
    #[test]
    fn what_passes_by_itself_is_tried_again() {
        let produce = |code, operation| produce_refusal(code, operation).code;
        for code in [
            ErrorCode::NetworkException,
            ErrorCode::CoordinatorLoadInProgress,
            ErrorCode::CoordinatorNotAvailable,
            ErrorCode::NotCoordinator,
            ErrorCode::OperationNotAttempted,
        ] {
            for operation in [Operation::Verify, Operation::VerifyAbortable, Operation::Add] {
                assert_eq!(produce(code, operation), ErrorCode::NotEnoughReplicas);
            }
        }
        let concurrent = ErrorCode::ConcurrentTransactions;
        assert_eq!(
            produce(concurrent, Operation::Verify),
            ErrorCode::NotEnoughReplicas
        );
        assert_eq!(produce(concurrent, Operation::Add), concurrent);
        assert_eq!(
            produce(ErrorCode::InvalidProducerEpoch, Operation::Add),
            ErrorCode::InvalidProducerEpoch
        );
        for code in [ErrorCode::NetworkException, ErrorCode::OperationNotAttempted] {
            assert_eq!(commit_refusal(code), ErrorCode::CoordinatorLoadInProgress);
        }
        assert_eq!(commit_refusal(concurrent), concurrent);
    }

    #[test]
    fn fencing_and_aborts_are_told_in_words_that_clients_know() {
        let fenced = ErrorCode::ProducerFenced;
        assert_eq!(
            for_client(fenced, Operation::Add),
            ErrorCode::InvalidProducerEpoch
        );
        let abortable = ErrorCode::TransactionAbortable;
        assert_eq!(
            for_client(abortable, Operation::Verify),
            ErrorCode::InvalidTxnState
        );
        assert_eq!(for_client(abortable, Operation::VerifyAbortable), abortable);
        assert_eq!(for_client(abortable, Operation::Add), abortable);
    }
}
