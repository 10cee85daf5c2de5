//! Keys of producer state and transactions.

use crate::key::State::Used;
use crate::key::Valid::{Any, AtLeast};
use crate::key::keys;
use crate::keys::reasons::TRANSACTIONS;

keys! { TRANSACTION: Broker;
    /// How long the state of a producer that writes nothing is kept.
    "producer.id.expiration.ms": Int = "86400000", AtLeast(1), ClusterWide, Used;
    /// How often the broker looks for producers whose state is too old.
    "producer.id.expiration.check.interval.ms": Int = "600000", AtLeast(1), ReadOnly, Used, internal;
    /// How long a transactional id without a transaction is remembered.
    "transactional.id.expiration.ms": Int = "604800000", AtLeast(1), ReadOnly, TRANSACTIONS;
    /// Longest transaction timeout that a producer may ask for.
    "transaction.max.timeout.ms": Int = "900000", AtLeast(1), ReadOnly, TRANSACTIONS;
    /// min.insync.replicas of the topic that holds transaction state.
    "transaction.state.log.min.isr": Int = "2", AtLeast(1), ReadOnly, TRANSACTIONS;
    /// Replicas of the topic that holds transaction state.
    "transaction.state.log.replication.factor": Short = "3", AtLeast(1), ReadOnly, TRANSACTIONS;
    /// Partitions of the topic that holds transaction state; fixed once the topic exists.
    "transaction.state.log.num.partitions": Int = "50", AtLeast(1), ReadOnly, TRANSACTIONS;
    /// Segment size of the topic that holds transaction state.
    "transaction.state.log.segment.bytes": Int = "104857600", AtLeast(1), ReadOnly, TRANSACTIONS;
    /// Bytes that are read at a time while a coordinator loads transaction state.
    "transaction.state.log.load.buffer.size": Int = "5242880", AtLeast(1), ReadOnly, TRANSACTIONS;
    /// How often the coordinator looks for transactions that have timed out.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": Int = "10000",
        AtLeast(1), ReadOnly, TRANSACTIONS;
    /// How often the coordinator looks for transactional ids that have expired.
    "transaction.remove.expired.transaction.cleanup.interval.ms": Int = "3600000",
        AtLeast(1), ReadOnly, TRANSACTIONS;
    /// Whether a transactional append is checked against the coordinator first.
    "transaction.partition.verification.enable": Boolean = "true", Any, ClusterWide, Used;
    /// Whether producers may prepare a transaction and decide about it later.
    "transaction.two.phase.commit.enable": Boolean = "false", Any, ReadOnly, TRANSACTIONS;
    /// Pause before the broker repeats the check of a transactional append.
    "add.partitions.to.txn.retry.backoff.ms": Int = "20", AtLeast(1), ReadOnly, Used;
    /// How long the broker repeats the check of a transactional append.
    "add.partitions.to.txn.retry.backoff.max.ms": Int = "100", AtLeast(0), ReadOnly, Used;
}
