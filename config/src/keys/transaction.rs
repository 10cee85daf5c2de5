//! Keys of producer state and transactions.

use crate::key::State::Used;
use crate::key::Valid::{Any, AtLeast};
use crate::key::keys;
use crate::keys::reasons::TWO_PHASE_COMMIT;

keys! { TRANSACTION: Broker;
    /// How long the state of a producer that writes nothing is kept.
    "producer.id.expiration.ms": Int = "86400000", AtLeast(1), ClusterWide, Used;
    /// How often the broker looks for producers whose state is too old.
    "producer.id.expiration.check.interval.ms": Int = "600000", AtLeast(1), ReadOnly, Used, internal;
    /// How long a transactional id without a transaction is remembered.
    "transactional.id.expiration.ms": Int = "604800000", AtLeast(1), ReadOnly, Used;
    /// Longest transaction timeout that a producer may ask for.
    "transaction.max.timeout.ms": Int = "900000", AtLeast(1), ReadOnly, Used;
    /// min.insync.replicas of the topic that holds transaction state; unless it is set, at most its replicas.
    "transaction.state.log.min.isr": Int = "2", AtLeast(1), ReadOnly, Used;
    /// Replicas of the topic that holds transaction state; unless it is set, at most as many as brokers are registered.
    "transaction.state.log.replication.factor": Short = "3", AtLeast(1), ReadOnly, Used;
    /// Partitions of the topic that holds transaction state; fixed once the topic exists.
    "transaction.state.log.num.partitions": Int = "50", AtLeast(1), ReadOnly, Used;
    /// Segment size of the topic that holds transaction state.
    "transaction.state.log.segment.bytes": Int = "104857600", AtLeast(1), ReadOnly, Used;
    /// Bytes that are read at a time while a coordinator loads transaction state.
    "transaction.state.log.load.buffer.size": Int = "5242880", AtLeast(1), ReadOnly, Used;
    /// Pause before the coordinator tries again to abort a transaction that has timed out; the first time is when it does.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": Int = "10000",
        AtLeast(1), ReadOnly, Used;
    /// How often the coordinator looks for transactional ids that have expired.
    "transaction.remove.expired.transaction.cleanup.interval.ms": Int = "3600000",
        AtLeast(1), ReadOnly, Used;
    /// Whether a transactional append is checked against the coordinator first.
    "transaction.partition.verification.enable": Boolean = "true", Any, ClusterWide, Used;
    /// Whether producers may prepare a transaction and decide about it later.
    "transaction.two.phase.commit.enable": Boolean = "false", Any, ReadOnly, TWO_PHASE_COMMIT;
    /// Pause before the broker repeats the check of a transactional append.
    "add.partitions.to.txn.retry.backoff.ms": Int = "20", AtLeast(1), ReadOnly, Used;
    /// How long the broker repeats the check of a transactional append.
    "add.partitions.to.txn.retry.backoff.max.ms": Int = "100", AtLeast(0), ReadOnly, Used;
}
