//! Keys of logs, and the broker-wide defaults of topic configurations.

use crate::key::State::Used;
use crate::key::Valid::{Any, AtLeast, Between, BetweenDouble, GzipLevel, ListOf, NonEmptyList, OneOf};
use crate::key::keys;
use crate::keys::reasons::{CORDON, DIRECTORY_FAILURE, INDEX, LOG_START, TIERED};

keys! { LOG: Broker;
    /// Directories that hold the partitions, separated by commas; without it log.dir is used.
    "log.dirs": List = -, NonEmptyList, ReadOnly, Used;
    /// One directory that holds the partitions, used when log.dirs is not given.
    "log.dir": List = "/tmp/kafka-logs", NonEmptyList, ReadOnly, Used;
    /// Log directories that get no new partitions.
    "cordoned.log.dirs": List = "", Any, PerBroker, CORDON;
    /// Partitions of a topic that is created without saying how many.
    "num.partitions": Int = "1", AtLeast(1), ReadOnly, Used;
    /// Whether a topic is created when a client asks for one that does not exist.
    "auto.create.topics.enable": Boolean = "true", Any, ReadOnly, Used;
    /// Fewest replicas in the ISR for which a produce with acks=all is accepted.
    "min.insync.replicas": Int = "1", AtLeast(1), ClusterWide, Used;
    /// Largest record batch that a topic accepts.
    "message.max.bytes": Int = "1048588", AtLeast(0), ClusterWide, Used;
    /// Codec that record batches are stored with; producer keeps what the producer chose.
    "compression.type": String = "producer",
        OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), ClusterWide, Used;
    /// Level of gzip when the broker compresses.
    "compression.gzip.level": Int = "-1", GzipLevel, ClusterWide, Used;
    /// Level of lz4 when the broker compresses.
    "compression.lz4.level": Int = "9", Between(1, 17), ClusterWide, Used;
    /// Level of zstd when the broker compresses.
    "compression.zstd.level": Int = "3", Between(-131_072, 22), ClusterWide, Used;
    /// Size at which a segment is closed and a new one begun.
    "log.segment.bytes": Int = "1073741824", AtLeast(1_048_576), ClusterWide, Used;
    /// Time after which a segment is closed even when it is not full.
    "log.roll.ms": Long = -, Any, ClusterWide, Used
        ; <- "log.roll.ms" * 1, "log.roll.hours" * 3_600_000;
    /// The same as log.roll.ms in hours, used when that is not given.
    "log.roll.hours": Int = "168", AtLeast(1), ReadOnly, Used
        ; <- "log.roll.ms" * 1, "log.roll.hours" * 3_600_000;
    /// Longest random time that is taken off log.roll.ms so that segments do not all roll at once.
    "log.roll.jitter.ms": Long = -, Any, ClusterWide, Used
        ; <- "log.roll.jitter.ms" * 1, "log.roll.jitter.hours" * 3_600_000;
    /// The same as log.roll.jitter.ms in hours, used when that is not given.
    "log.roll.jitter.hours": Int = "0", AtLeast(0), ReadOnly, Used
        ; <- "log.roll.jitter.ms" * 1, "log.roll.jitter.hours" * 3_600_000;
    /// How long records are kept before their segment may be deleted; -1 keeps them for ever.
    "log.retention.ms": Long = -, Any, ClusterWide, Used
        ; <- "log.retention.ms" * 1, "log.retention.minutes" * 60_000, "log.retention.hours" * 3_600_000;
    /// The same as log.retention.ms in minutes, used when that is not given.
    "log.retention.minutes": Int = -, Any, ReadOnly, Used
        ; <- "log.retention.ms" * 1, "log.retention.minutes" * 60_000, "log.retention.hours" * 3_600_000;
    /// The same as log.retention.ms in hours, used when neither milliseconds nor minutes are given.
    "log.retention.hours": Int = "168", Any, ReadOnly, Used
        ; <- "log.retention.ms" * 1, "log.retention.minutes" * 60_000, "log.retention.hours" * 3_600_000;
    /// Size of a partition above which its oldest segments are deleted; -1 sets no limit.
    "log.retention.bytes": Long = "-1", Any, ClusterWide, Used;
    /// How often the broker looks for segments that may be deleted.
    "log.retention.check.interval.ms": Long = "300000", AtLeast(1), ReadOnly, Used;
    /// What happens to old records: delete, compact, or both.
    "log.cleanup.policy": List = "delete", ListOf(&["compact", "delete"]), ClusterWide, Used;
    /// Largest offset index of a segment.
    "log.index.size.max.bytes": Int = "10485760", AtLeast(4), ClusterWide, INDEX;
    /// Bytes of records between two entries of the offset index.
    "log.index.interval.bytes": Int = "4096", AtLeast(0), ClusterWide, Used;
    /// Records after which a partition is flushed to disk.
    "log.flush.interval.messages": Long = "9223372036854775807", AtLeast(1), ClusterWide, Used;
    /// Longest time a record stays in memory before its partition is flushed to disk.
    "log.flush.interval.ms": Long = -, Any, ClusterWide, Used
        ; <- "log.flush.interval.ms" * 1, "log.flush.scheduler.interval.ms" * 1;
    /// How often the broker looks for partitions that have to be flushed.
    "log.flush.scheduler.interval.ms": Long = "9223372036854775807", Any, ReadOnly, Used;
    /// How often recovery points are written down.
    "log.flush.offset.checkpoint.interval.ms": Int = "60000", AtLeast(0), ReadOnly, Used;
    /// How often log start offsets are written down.
    "log.flush.start.offset.checkpoint.interval.ms": Int = "60000", AtLeast(0), ReadOnly, LOG_START;
    /// Pause between taking a segment out of a log and deleting its file.
    "log.segment.delete.delay.ms": Long = "60000", AtLeast(0), ClusterWide, Used;
    /// Whether the file of a new segment is given its full size at once.
    "log.preallocate": Boolean = "false", Any, ClusterWide, Used;
    /// Which time a record carries: when it was created or when it was appended.
    "log.message.timestamp.type": String = "CreateTime",
        OneOf(&["CreateTime", "LogAppendTime"]), ClusterWide, Used;
    /// How far a record's timestamp may lie in the past.
    "log.message.timestamp.before.max.ms": Long = "9223372036854775807", AtLeast(0), ClusterWide, Used;
    /// How far a record's timestamp may lie in the future.
    "log.message.timestamp.after.max.ms": Long = "3600000", AtLeast(0), ClusterWide, Used;
    /// Pause after the start before the chores of the log begin.
    "log.initial.task.delay.ms": Long = "30000", AtLeast(0), ReadOnly, Used, internal;
    /// How long a broker tries to report a failed log directory before it stops.
    "log.dir.failure.timeout.ms": Long = "30000", AtLeast(1), ReadOnly, DIRECTORY_FAILURE;
    /// Threads for each log directory that open and recover logs at start.
    "num.recovery.threads.per.data.dir": Int = "2", AtLeast(1), ClusterWide, Used;
    /// Whether compaction runs.
    "log.cleaner.enable": Boolean = "true", Any, ReadOnly, Used;
    /// Threads that compact logs.
    "log.cleaner.threads": Int = "1", AtLeast(0), ClusterWide, Used;
    /// Bytes that compaction may read and write in one second.
    "log.cleaner.io.max.bytes.per.second": Double = "1.7976931348623157E308", Any, ClusterWide, Used;
    /// Memory for the table of keys over all compaction threads.
    "log.cleaner.dedupe.buffer.size": Long = "134217728", Any, ClusterWide, Used;
    /// Memory for the read and write buffers over all compaction threads.
    "log.cleaner.io.buffer.size": Int = "524288", AtLeast(0), ClusterWide, Used;
    /// How full the table of keys may get; a fuller one cleans more at a time with more collisions.
    "log.cleaner.io.buffer.load.factor": Double = "0.9", Any, ClusterWide, Used;
    /// Pause of a compaction thread when no log needs it.
    "log.cleaner.backoff.ms": Long = "15000", AtLeast(0), ClusterWide, Used;
    /// Share of a log that is not yet compacted from which on it is compacted.
    "log.cleaner.min.cleanable.ratio": Double = "0.5", BetweenDouble(0.0, 1.0), ClusterWide, Used;
    /// How long a tombstone is kept after compaction so that readers still see it.
    "log.cleaner.delete.retention.ms": Long = "86400000", AtLeast(0), ClusterWide, Used;
    /// How long a record is left alone by compaction.
    "log.cleaner.min.compaction.lag.ms": Long = "0", AtLeast(0), ClusterWide, Used;
    /// Longest time after which a record becomes due for compaction.
    "log.cleaner.max.compaction.lag.ms": Long = "9223372036854775807", AtLeast(1), ClusterWide, Used;
    /// How long segments that are in tiered storage are also kept on local disk.
    "log.local.retention.ms": Long = "-2", AtLeast(-2), ClusterWide, TIERED;
    /// How many bytes that are in tiered storage are also kept on local disk.
    "log.local.retention.bytes": Long = "-2", AtLeast(-2), ClusterWide, TIERED;
}
