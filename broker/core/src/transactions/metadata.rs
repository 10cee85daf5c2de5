//! What a transactional id is in: its producer, the state of its transaction, the partitions that belong to it.

use std::collections::BTreeSet;

use odradek_common::ids::TopicPartition;
use odradek_common::records::control::TransactionResult;

/// "No producer id".
pub const NO_PRODUCER_ID: i64 = -1;
/// "No producer epoch".
pub const NO_PRODUCER_EPOCH: i16 = -1;
/// The first feature level of `transaction.version` that writes flexible records.
pub const FLEXIBLE_RECORDS_SINCE: i16 = 1;
/// The first level at which every transaction ends with a new producer epoch (KIP-890).
pub const EPOCH_BUMP_SINCE: i16 = 2;

/// A producer in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdAndEpoch {
    /// The producer id.
    pub producer_id: i64,
    /// The epoch.
    pub epoch: i16,
}

/// The state of a transaction, in Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransactionState {
    /// None was begun since the producer was initialised.
    Empty = 0,
    /// Partitions were added.
    Ongoing = 1,
    /// It commits; markers are on their way.
    PrepareCommit = 2,
    /// It aborts; markers are on their way.
    PrepareAbort = 3,
    /// Every partition knows that it committed.
    CompleteCommit = 4,
    /// Every partition knows that it aborted.
    CompleteAbort = 5,
    /// The transactional id has expired. Never written.
    Dead = 6,
    /// The producer is being fenced. Never written.
    PrepareEpochFence = 7,
}

impl TransactionState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
        Self::Dead,
        Self::PrepareEpochFence,
    ];

    /// The state of that number.
    #[must_use]
    pub fn from_id(id: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i8 == id)
    }

    /// The state of that name, as ListTransactions has it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// What DescribeTransactions calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
            Self::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    /// Whether a transactional id in this state may be forgotten.
    #[must_use]
    pub fn may_expire(self) -> bool {
        match self {
            Self::Empty | Self::CompleteCommit | Self::CompleteAbort => true,
            Self::Ongoing
            | Self::PrepareCommit
            | Self::PrepareAbort
            | Self::Dead
            | Self::PrepareEpochFence => false,
        }
    }
}

/// The state of a transaction that ends so, before every partition knows.
#[must_use]
pub fn prepared_state(result: TransactionResult) -> TransactionState {
    match result {
        TransactionResult::Commit => TransactionState::PrepareCommit,
        TransactionResult::Abort => TransactionState::PrepareAbort,
    }
}

/// What the log says of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionMetadata {
    /// The producer id in use.
    pub producer_id: i64,
    /// The one in use before the last change.
    pub previous_producer_id: i64,
    /// The one to come when the transaction under way has ended, because the epochs of this one are used up.
    pub next_producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// How long a transaction may stay open; `i32::MAX`: for ever.
    pub timeout_ms: i32,
    /// The state.
    pub state: TransactionState,
    /// The partitions of the transaction under way.
    pub partitions: BTreeSet<TopicPartition>,
    /// When any of this was last changed, in milliseconds since 1970.
    pub last_update_timestamp_ms: i64,
    /// When the last transaction began; -1 if none has.
    pub start_timestamp_ms: i64,
    /// The version of the transaction protocol that the client spoke when this was written.
    pub client_transaction_version: i16,
}

impl TransactionMetadata {
    /// What is written for a transactional id that nobody has used: nothing yet, in epoch -1.
    #[must_use]
    pub fn new(producer_id: i64, timeout_ms: i32) -> Self {
        Self {
            producer_id,
            previous_producer_id: NO_PRODUCER_ID,
            next_producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timeout_ms,
            state: TransactionState::Empty,
            partitions: BTreeSet::new(),
            last_update_timestamp_ms: 0,
            start_timestamp_ms: -1,
            client_transaction_version: 0,
        }
    }

    /// The result that is being told to the partitions, if one is.
    #[must_use]
    pub fn prepared_result(&self) -> Option<TransactionResult> {
        match self.state {
            TransactionState::PrepareCommit => Some(TransactionResult::Commit),
            TransactionState::PrepareAbort => Some(TransactionResult::Abort),
            TransactionState::Empty
            | TransactionState::Ongoing
            | TransactionState::CompleteCommit
            | TransactionState::CompleteAbort
            | TransactionState::Dead
            | TransactionState::PrepareEpochFence => None,
        }
    }

    /// When the transaction under way has been open for too long, in milliseconds since 1970.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<i64> {
        let ends = self.timeout_ms != i32::MAX && self.start_timestamp_ms >= 0;
        ends.then(|| self.start_timestamp_ms.saturating_add(i64::from(self.timeout_ms)))
    }

    /// Whether the producer id has no epoch left for its producer: the last one is for fencing it.
    #[must_use]
    pub fn is_epoch_exhausted(&self) -> bool {
        is_epoch_exhausted(self.producer_epoch)
    }

    /// The producer as it is now.
    #[must_use]
    pub fn producer(&self) -> ProducerIdAndEpoch {
        ProducerIdAndEpoch {
            producer_id: self.producer_id,
            epoch: self.producer_epoch,
        }
    }

    /// This, changed now: what every change has in common.
    pub(super) fn next(&self, state: TransactionState) -> Self {
        Self {
            previous_producer_id: self.producer_id,
            state,
            ..self.clone()
        }
    }

    /// How it is when every partition has its marker.
    pub(super) fn completed(&self, now_ms: i64) -> Self {
        let state = match self.state {
            TransactionState::PrepareCommit => TransactionState::CompleteCommit,
            _ => TransactionState::CompleteAbort,
        };
        let mut completed = Self {
            partitions: BTreeSet::new(),
            next_producer_id: NO_PRODUCER_ID,
            last_update_timestamp_ms: now_ms,
            ..self.next(state)
        };
        if self.client_transaction_version >= EPOCH_BUMP_SINCE && self.next_producer_id != NO_PRODUCER_ID {
            completed.producer_id = self.next_producer_id;
            completed.producer_epoch = 0;
        }
        completed
    }
}

/// Whether a producer in this epoch has none left.
#[must_use]
pub fn is_epoch_exhausted(epoch: i16) -> bool {
    epoch >= i16::MAX - 1
}
