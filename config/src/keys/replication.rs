//! Keys of replication and leadership.

use crate::key::State::Used;
use crate::key::Valid::{Any, AtLeast};
use crate::key::keys;
use crate::keys::reasons::{BUFFERS, FETCHERS, PLUGINS, PURGATORY, TIERED};

keys! { REPLICATION: Broker;
    /// Replicas of each partition of a topic that is created without saying how many.
    "default.replication.factor": Int = "1", Any, ReadOnly, Used;
    /// A follower that has not caught up with the leader for this long leaves the ISR.
    "replica.lag.time.max.ms": Long = "30000", Any, ReadOnly, Used;
    /// How long a follower waits for the answer to a fetch.
    "replica.socket.timeout.ms": Int = "30000", Any, ReadOnly, Used;
    /// Size of the kernel's receive buffer of a follower's connection to a leader.
    "replica.socket.receive.buffer.bytes": Int = "65536", Any, ReadOnly, BUFFERS;
    /// Bytes that a follower asks for from one partition; the first batch comes even when it is larger.
    "replica.fetch.max.bytes": Int = "1048576", AtLeast(0), ReadOnly, Used;
    /// Longest time a leader may hold a follower's fetch until data arrives.
    "replica.fetch.wait.max.ms": Int = "500", Any, ReadOnly, Used;
    /// Fewest bytes a leader should collect before it answers a follower's fetch.
    "replica.fetch.min.bytes": Int = "1", Any, ReadOnly, Used;
    /// Bytes that a follower asks for in one fetch over all partitions.
    "replica.fetch.response.max.bytes": Int = "10485760", AtLeast(0), ReadOnly, Used;
    /// Pause before a follower fetches a partition again after an error.
    "replica.fetch.backoff.ms": Int = "1000", AtLeast(0), ReadOnly, Used;
    /// Fetching tasks that a broker runs for each broker it follows.
    "num.replica.fetchers": Int = "1", AtLeast(1), ClusterWide, FETCHERS;
    /// How often high watermarks are written down.
    "replica.high.watermark.checkpoint.interval.ms": Long = "5000", Any, ReadOnly, Used;
    /// Class that chooses the replica a consumer reads from.
    "replica.selector.class": String = -, Any, ReadOnly, PLUGINS;
    /// Threads that move replicas between log directories; one for each directory if it is not set.
    "num.replica.alter.log.dirs.threads": Int = -, Any, ReadOnly, Used;
    /// Whether a new follower starts at the first offset that is not in tiered storage.
    "follower.fetch.last.tiered.offset.enable": Boolean = "false", Any, ClusterWide, TIERED;
    /// Whether leadership goes back to the preferred replicas by itself.
    "auto.leader.rebalance.enable": Boolean = "true", Any, ReadOnly, Used;
    /// How often the controller looks for partitions that are not led by their preferred replica.
    "leader.imbalance.check.interval.seconds": Long = "300", AtLeast(1), ReadOnly, Used;
    /// Whether a replica outside the ISR may become leader, at the price of lost records.
    "unclean.leader.election.enable": Boolean = "false", Any, ClusterWide, Used;
    /// How often the controller looks for partitions that could be given an unclean leader.
    "unclean.leader.election.interval.ms": Long = "300000", AtLeast(1), ReadOnly, Used, internal;
    /// After how many requests finished fetches are removed from the waiting list.
    "fetch.purgatory.purge.interval.requests": Int = "1000", Any, ReadOnly, PURGATORY;
    /// After how many requests finished produces are removed from the waiting list.
    "producer.purgatory.purge.interval.requests": Int = "1000", Any, ReadOnly, PURGATORY;
    /// After how many requests finished deletions are removed from the waiting list.
    "delete.records.purgatory.purge.interval.requests": Int = "1", Any, ReadOnly, PURGATORY;
}
