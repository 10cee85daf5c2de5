//! Keys of tiered storage.

use crate::key::Valid::{Any, AtLeast, BetweenDouble, NonEmpty};
use crate::key::keys;
use crate::keys::reasons::TIERED;

keys! { REMOTE: Broker;
    /// Whether the broker has tiered storage.
    "remote.log.storage.system.enable": Boolean = "false", Any, ReadOnly, TIERED;
    /// Class that stores segments remotely.
    "remote.log.storage.manager.class.name": String = -, NonEmpty, ReadOnly, TIERED;
    /// Where the class that stores segments remotely is found.
    "remote.log.storage.manager.class.path": String = -, Any, ReadOnly, TIERED;
    /// Prefix of the keys for the class that stores segments remotely.
    "remote.log.storage.manager.impl.prefix": String = "rsm.config.", NonEmpty, ReadOnly, TIERED;
    /// Class that keeps the metadata of remote segments.
    "remote.log.metadata.manager.class.name": String = "org.apache.kafka.server.log.remote.metadata.storage.TopicBasedRemoteLogMetadataManager",
        NonEmpty, ReadOnly, TIERED;
    /// Where the class that keeps the metadata of remote segments is found.
    "remote.log.metadata.manager.class.path": String = -, Any, ReadOnly, TIERED;
    /// Prefix of the keys for the class that keeps the metadata of remote segments.
    "remote.log.metadata.manager.impl.prefix": String = "rlmm.config.", NonEmpty, ReadOnly, TIERED;
    /// Listener that the metadata of remote segments travels on.
    "remote.log.metadata.manager.listener.name": String = -, NonEmpty, ReadOnly, TIERED;
    /// Largest metadata that a storage class may attach to a segment.
    "remote.log.metadata.custom.metadata.max.bytes": Int = "128", AtLeast(0), ReadOnly, TIERED;
    /// Disk space for indexes fetched from tiered storage.
    "remote.log.index.file.cache.total.size.bytes": Long = "1073741824", AtLeast(1), ClusterWide, TIERED;
    /// How long an index fetched from tiered storage is kept.
    "remote.log.index.file.cache.ttl.ms": Long = "900000", AtLeast(-1), ReadOnly, TIERED, internal;
    /// Threads for the chores of tiered storage.
    "remote.log.manager.thread.pool.size": Int = "2", AtLeast(1), ReadOnly, TIERED;
    /// Threads that copy segments to tiered storage.
    "remote.log.manager.copier.thread.pool.size": Int = "10", AtLeast(1), ClusterWide, TIERED;
    /// Threads that delete segments from tiered storage.
    "remote.log.manager.expiration.thread.pool.size": Int = "10", AtLeast(1), ClusterWide, TIERED;
    /// Threads that follow tiered storage for replicas that do not lead.
    "remote.log.manager.follower.thread.pool.size": Int = "2", AtLeast(1), ClusterWide, TIERED;
    /// How often the chores of tiered storage run.
    "remote.log.manager.task.interval.ms": Long = "30000", AtLeast(1), ReadOnly, TIERED;
    /// First pause before a failed chore of tiered storage is repeated.
    "remote.log.manager.task.retry.backoff.ms": Long = "500", AtLeast(1), ReadOnly, TIERED, internal;
    /// Longest pause before a failed chore of tiered storage is repeated.
    "remote.log.manager.task.retry.backoff.max.ms": Long = "30000", AtLeast(1), ReadOnly, TIERED, internal;
    /// Random part of the pause before a failed chore is repeated.
    "remote.log.manager.task.retry.jitter": Double = "0.2",
        BetweenDouble(0.0, 0.5), ReadOnly, TIERED, internal;
    /// Bytes per second copied to tiered storage.
    "remote.log.manager.copy.max.bytes.per.second": Long = "9223372036854775807",
        AtLeast(1), ClusterWide, TIERED;
    /// Samples that the copy quota looks back on.
    "remote.log.manager.copy.quota.window.num": Int = "11", AtLeast(1), ReadOnly, TIERED;
    /// Length of one sample of the copy quota.
    "remote.log.manager.copy.quota.window.size.seconds": Int = "1", AtLeast(1), ReadOnly, TIERED;
    /// Bytes per second fetched from tiered storage.
    "remote.log.manager.fetch.max.bytes.per.second": Long = "9223372036854775807",
        AtLeast(1), ClusterWide, TIERED;
    /// Samples that the fetch quota looks back on.
    "remote.log.manager.fetch.quota.window.num": Int = "11", AtLeast(1), ReadOnly, TIERED;
    /// Length of one sample of the fetch quota.
    "remote.log.manager.fetch.quota.window.size.seconds": Int = "1", AtLeast(1), ReadOnly, TIERED;
    /// Threads that read from tiered storage.
    "remote.log.reader.threads": Int = "10", AtLeast(1), ClusterWide, TIERED;
    /// Reads from tiered storage that may wait.
    "remote.log.reader.max.pending.tasks": Int = "100", AtLeast(1), ReadOnly, TIERED;
    /// How long a fetch waits for tiered storage.
    "remote.fetch.max.wait.ms": Int = "500", AtLeast(1), ClusterWide, TIERED;
    /// How long a lookup of offsets waits for tiered storage.
    "remote.list.offsets.request.timeout.ms": Long = "30000", AtLeast(1), ClusterWide, TIERED;
}
