//! Keys of topics.

use crate::key::State::Used;
use crate::key::Valid::{Any, AtLeast, Between, BetweenDouble, GzipLevel, ListOf, OneOf, ThrottledReplicas};
use crate::key::keys;
use crate::keys::reasons::{INDEX, QUOTAS, TIERED};

keys! { TOPIC: Topic;
    /// What happens to old records: delete, compact, or both.
    "cleanup.policy": List = "delete", ListOf(&["compact", "delete"]), ClusterWide, Used
        ; <- "log.cleanup.policy" * 1;
    /// Codec that record batches are stored with; producer keeps what the producer chose.
    "compression.type": String = "producer",
        OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), ClusterWide, Used
        ; <- "compression.type" * 1;
    /// Level of gzip when the broker compresses.
    "compression.gzip.level": Int = "-1", GzipLevel, ClusterWide, Used
        ; <- "compression.gzip.level" * 1;
    /// Level of lz4 when the broker compresses.
    "compression.lz4.level": Int = "9", Between(1, 17), ClusterWide, Used
        ; <- "compression.lz4.level" * 1;
    /// Level of zstd when the broker compresses.
    "compression.zstd.level": Int = "3", Between(-131_072, 22), ClusterWide, Used
        ; <- "compression.zstd.level" * 1;
    /// How long a tombstone is kept after compaction so that readers still see it.
    "delete.retention.ms": Long = "86400000", AtLeast(0), ClusterWide, Used
        ; <- "log.cleaner.delete.retention.ms" * 1;
    /// Pause between taking a segment out of the log and deleting its file.
    "file.delete.delay.ms": Long = "60000", AtLeast(0), ClusterWide, Used
        ; <- "log.segment.delete.delay.ms" * 1;
    /// Records after which a partition is flushed to disk; 1 flushes with every append.
    "flush.messages": Long = "9223372036854775807", AtLeast(1), ClusterWide, Used
        ; <- "log.flush.interval.messages" * 1;
    /// Longest time a record stays in memory before its partition is flushed to disk.
    "flush.ms": Long = "9223372036854775807", AtLeast(0), ClusterWide, Used
        ; <- "log.flush.interval.ms" * 1, "log.flush.scheduler.interval.ms" * 1;
    /// Replicas whose fetching is throttled, as partition:broker pairs, or * for all.
    "follower.replication.throttled.replicas": List = "", ThrottledReplicas, ClusterWide, QUOTAS;
    /// Replicas whose serving of followers is throttled, as partition:broker pairs, or * for all.
    "leader.replication.throttled.replicas": List = "", ThrottledReplicas, ClusterWide, QUOTAS;
    /// Bytes of records between two entries of the offset index.
    "index.interval.bytes": Int = "4096", AtLeast(0), ClusterWide, Used
        ; <- "log.index.interval.bytes" * 1;
    /// Segment size without the lower limit of segment.bytes, for tests.
    "internal.segment.bytes": Int = -, Any, ClusterWide, Used, internal;
    /// How many bytes that are in tiered storage are also kept on local disk.
    "local.retention.bytes": Long = "-2", AtLeast(-2), ClusterWide, TIERED
        ; <- "log.local.retention.bytes" * 1;
    /// How long segments that are in tiered storage are also kept on local disk.
    "local.retention.ms": Long = "-2", AtLeast(-2), ClusterWide, TIERED
        ; <- "log.local.retention.ms" * 1;
    /// Longest time after which a record becomes due for compaction.
    "max.compaction.lag.ms": Long = "9223372036854775807", AtLeast(1), ClusterWide, Used
        ; <- "log.cleaner.max.compaction.lag.ms" * 1;
    /// Largest record batch that the topic accepts.
    "max.message.bytes": Int = "1048588", AtLeast(0), ClusterWide, Used
        ; <- "message.max.bytes" * 1;
    /// How far a record's timestamp may lie in the future.
    "message.timestamp.after.max.ms": Long = "3600000", AtLeast(0), ClusterWide, Used
        ; <- "log.message.timestamp.after.max.ms" * 1;
    /// How far a record's timestamp may lie in the past.
    "message.timestamp.before.max.ms": Long = "9223372036854775807", AtLeast(0), ClusterWide, Used
        ; <- "log.message.timestamp.before.max.ms" * 1;
    /// Which time a record carries: when it was created or when it was appended.
    "message.timestamp.type": String = "CreateTime",
        OneOf(&["CreateTime", "LogAppendTime"]), ClusterWide, Used
        ; <- "log.message.timestamp.type" * 1;
    /// Share of the log that is not yet compacted from which on it is compacted.
    "min.cleanable.dirty.ratio": Double = "0.5", BetweenDouble(0.0, 1.0), ClusterWide, Used
        ; <- "log.cleaner.min.cleanable.ratio" * 1;
    /// How long a record is left alone by compaction.
    "min.compaction.lag.ms": Long = "0", AtLeast(0), ClusterWide, Used
        ; <- "log.cleaner.min.compaction.lag.ms" * 1;
    /// Fewest replicas in the ISR for which a produce with acks=all is accepted.
    "min.insync.replicas": Int = "1", AtLeast(1), ClusterWide, Used
        ; <- "min.insync.replicas" * 1;
    /// Whether the file of a new segment is given its full size at once.
    "preallocate": Boolean = "false", Any, ClusterWide, Used
        ; <- "log.preallocate" * 1;
    /// Whether segments are no longer copied to tiered storage.
    "remote.log.copy.disable": Boolean = "false", Any, ClusterWide, TIERED;
    /// Whether switching tiered storage off deletes what lies there.
    "remote.log.delete.on.disable": Boolean = "false", Any, ClusterWide, TIERED;
    /// Whether the topic uses tiered storage.
    "remote.storage.enable": Boolean = "false", Any, ClusterWide, TIERED;
    /// Size of a partition above which its oldest segments are deleted; -1 sets no limit.
    "retention.bytes": Long = "-1", Any, ClusterWide, Used
        ; <- "log.retention.bytes" * 1;
    /// How long records are kept before their segment may be deleted; -1 keeps them for ever.
    "retention.ms": Long = "604800000", AtLeast(-1), ClusterWide, Used
        ; <- "log.retention.ms" * 1, "log.retention.minutes" * 60_000, "log.retention.hours" * 3_600_000;
    /// Size at which a segment is closed and a new one begun.
    "segment.bytes": Int = "1073741824", AtLeast(1_048_576), ClusterWide, Used
        ; <- "log.segment.bytes" * 1;
    /// Largest offset index of a segment.
    "segment.index.bytes": Int = "10485760", AtLeast(4), ClusterWide, INDEX
        ; <- "log.index.size.max.bytes" * 1;
    /// Longest random time that is taken off segment.ms so that segments do not all roll at once.
    "segment.jitter.ms": Long = "0", AtLeast(0), ClusterWide, Used
        ; <- "log.roll.jitter.ms" * 1, "log.roll.jitter.hours" * 3_600_000;
    /// Time after which a segment is closed even when it is not full.
    "segment.ms": Long = "604800000", AtLeast(1), ClusterWide, Used
        ; <- "log.roll.ms" * 1, "log.roll.hours" * 3_600_000;
    /// Whether a replica outside the ISR may become leader, at the price of lost records.
    "unclean.leader.election.enable": Boolean = "false", Any, ClusterWide, Used
        ; <- "unclean.leader.election.enable" * 1;
}
