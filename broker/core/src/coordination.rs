//! What the state machines behind coordinators have in common: names for requests that wait and for records on their way
//! through the log, and what a shell has to do after each call.
//!
//! A coordinator's shard decides, hands out the records of its decision, and waits until the shell reports them committed
//! or lost. What it decides is its own affair (see `groups`, `transactions`).

pub mod fields;
pub mod timers;

use bytes::Bytes;
use odradek_common::error::ErrorCode;
use odradek_common::records::control::TransactionResult;

use crate::producer_state::verification::Verification;

/// The shell's name for a request that waits for its answer. Each token is answered exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestToken(pub u64);

/// The shell's name for records that it handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendId(pub u64);

/// Records of one decision: to be appended together and in the order of the ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// To be given back when the records are committed, or will never be.
    pub id: AppendId,
    /// What kind of batch they make.
    pub kind: AppendKind,
    /// Key and value of each record; no value is a tombstone.
    pub records: Vec<(Bytes, Option<Bytes>)>,
}

/// What kind of batch an append is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendKind {
    /// Of the coordinator's own; several of them may share a batch.
    Plain,
    /// Part of a producer's transaction, in its name.
    Transactional(TransactionWriter),
    /// A control batch without records of the shard's, which ends a producer's transaction.
    EndOfTransaction(TransactionEnd),
}

/// Who writes a transaction's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionWriter {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// What its transaction's coordinator has agreed to.
    pub verification: Verification,
}

/// How a producer's transaction ends in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionEnd {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// Epoch of the transaction coordinator that decided.
    pub coordinator_epoch: i32,
    /// The outcome.
    pub result: TransactionResult,
    /// `transaction.version` of the transaction.
    pub transaction_version: i16,
}

/// What stands in a log, as it is replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEntry {
    /// A record.
    Record {
        /// The producer whose transaction it belongs to; none outside of transactions.
        producer_id: Option<i64>,
        /// Its key.
        key: Bytes,
        /// Its value; none is a tombstone.
        value: Option<Bytes>,
    },
    /// The marker that ends a producer's transaction.
    EndOfTransaction {
        /// The producer.
        producer_id: i64,
        /// The outcome.
        result: TransactionResult,
    },
}

/// What the shell has to do after a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Effects<Response> {
    /// To be appended to the partition's log.
    pub appends: Vec<Append>,
    /// To be sent.
    pub replies: Vec<(RequestToken, Response)>,
}

impl<Response> Default for Effects<Response> {
    fn default() -> Self {
        Self {
            appends: Vec::new(),
            replies: Vec::new(),
        }
    }
}

/// What clients of a coordinator are told when its records cannot be appended, as Kafka has it: what passes by itself sends them
/// to look for their coordinator once more.
#[must_use]
pub fn append_refusal(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            ErrorCode::UnknownServerError
        }
        other => other,
    }
}

/// The partition of a coordinator's topic that holds a key: the absolute value of Java's `String.hashCode` (0 for the one
/// that has none), modulo the number of partitions.
///
/// # Panics
/// When there are no partitions.
#[must_use]
pub fn partition_for(key: &str, partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has partitions");
    let hash = key.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    hash.checked_abs().unwrap_or(0) % partitions
}
