//! Keys of the group coordinator and committed offsets.

use crate::key::State::Used;
use crate::key::Valid::{Any, AtLeast, Codec, NonEmptyListOf, OneOfIgnoreCase};
use crate::key::keys;
use crate::keys::reasons::{CLASSIC, CONSUMER, LINGER, MEMORY, STREAMS, WORKERS};

keys! { GROUP: Broker;
    /// Shortest session timeout that a member of a classic group may ask for.
    "group.min.session.timeout.ms": Int = "6000", Any, ReadOnly, Used;
    /// Longest session timeout that a member of a classic group may ask for.
    "group.max.session.timeout.ms": Int = "1800000", Any, ReadOnly, Used;
    /// How long the first rebalance of an empty group waits for more members.
    "group.initial.rebalance.delay.ms": Int = "3000", Any, ReadOnly, Used;
    /// Most members of a classic group.
    "group.max.size": Int = "2147483647", AtLeast(1), ReadOnly, Used;
    /// Group protocols that the coordinator offers.
    "group.coordinator.rebalance.protocols": List = "classic,consumer,streams",
        NonEmptyListOf(&["consumer", "classic", "share", "streams"]), ReadOnly, CLASSIC;
    /// Threads of the group coordinator.
    "group.coordinator.threads": Int = "4", AtLeast(1), ReadOnly, WORKERS;
    /// How long the coordinator may collect records before it appends them; -1 lets the load decide.
    "group.coordinator.append.linger.ms": Int = "-1", AtLeast(-1), ReadOnly, LINGER;
    /// Threads for the slow chores of the group coordinator.
    "group.coordinator.background.threads": Int = "2", AtLeast(1), ReadOnly, WORKERS;
    /// Largest write buffer that the group coordinator keeps for reuse.
    "group.coordinator.cached.buffer.max.bytes": Int = "1048588", AtLeast(524_288), ClusterWide, MEMORY;
    /// Longest metadata string that may be committed with an offset.
    "offset.metadata.max.bytes": Int = "4096", Any, ReadOnly, Used;
    /// How long an offset commit waits until enough replicas have it.
    "offsets.commit.timeout.ms": Int = "5000", AtLeast(1), ReadOnly, Used;
    /// Bytes that are read at a time while a coordinator loads a partition of the offsets topic.
    "offsets.load.buffer.size": Int = "5242880", AtLeast(1), ReadOnly, Used;
    /// How long the offsets of a group without members, or of a topic it left, are kept.
    "offsets.retention.minutes": Int = "10080", AtLeast(1), ReadOnly, Used;
    /// How often the coordinator looks for offsets that are too old.
    "offsets.retention.check.interval.ms": Long = "600000", AtLeast(1), ReadOnly, Used;
    /// Partitions of the topic that holds committed offsets; fixed once the topic exists.
    "offsets.topic.num.partitions": Int = "50", AtLeast(1), ReadOnly, Used;
    /// Replicas of the topic that holds committed offsets; unless it is set, at most as many as brokers are registered.
    "offsets.topic.replication.factor": Short = "3", AtLeast(1), ReadOnly, Used;
    /// Segment size of the topic that holds committed offsets.
    "offsets.topic.segment.bytes": Int = "104857600", AtLeast(1), ReadOnly, Used;
    /// Codec number of the batches that the coordinator writes.
    "offsets.topic.compression.codec": Int = "0", Codec, ReadOnly, Used;
    /// Session timeout of the members of consumer groups.
    "group.consumer.session.timeout.ms": Int = "45000", AtLeast(1), ReadOnly, CONSUMER;
    /// Shortest session timeout that a consumer group may be given.
    "group.consumer.min.session.timeout.ms": Int = "45000", AtLeast(1), ReadOnly, CONSUMER;
    /// Longest session timeout that a consumer group may be given.
    "group.consumer.max.session.timeout.ms": Int = "60000", AtLeast(1), ReadOnly, CONSUMER;
    /// Heartbeat interval of the members of consumer groups.
    "group.consumer.heartbeat.interval.ms": Int = "5000", AtLeast(1), ReadOnly, CONSUMER;
    /// Shortest heartbeat interval that a consumer group may be given.
    "group.consumer.min.heartbeat.interval.ms": Int = "5000", AtLeast(1), ReadOnly, CONSUMER;
    /// Longest heartbeat interval that a consumer group may be given.
    "group.consumer.max.heartbeat.interval.ms": Int = "15000", AtLeast(1), ReadOnly, CONSUMER;
    /// Least time between two assignments of a consumer group.
    "group.consumer.assignment.interval.ms": Int = "1000", AtLeast(0), ClusterWide, CONSUMER;
    /// Smallest assignment interval that a consumer group may be given.
    "group.consumer.min.assignment.interval.ms": Int = "0", AtLeast(0), ReadOnly, CONSUMER;
    /// Largest assignment interval that a consumer group may be given.
    "group.consumer.max.assignment.interval.ms": Int = "15000", AtLeast(0), ReadOnly, CONSUMER;
    /// Most members of a consumer group.
    "group.consumer.max.size": Int = "2147483647", AtLeast(1), ReadOnly, CONSUMER;
    /// Server-side assignors; the first is the default.
    "group.consumer.assignors": List = "uniform,range", Any, ReadOnly, CONSUMER;
    /// Which changes between the classic and the consumer protocol a group may make while it runs.
    "group.consumer.migration.policy": String = "bidirectional",
        OneOfIgnoreCase(&["DISABLED", "DOWNGRADE", "UPGRADE", "BIDIRECTIONAL"]), ReadOnly, CONSUMER;
    /// How often subscribed regular expressions are looked up again.
    "group.consumer.regex.refresh.interval.ms": Int = "600000",
        AtLeast(10_000), ReadOnly, CONSUMER, internal;
    /// Session timeout of the members of streams groups.
    "group.streams.session.timeout.ms": Int = "45000", AtLeast(1), ReadOnly, STREAMS;
    /// Shortest session timeout that a streams group may be given.
    "group.streams.min.session.timeout.ms": Int = "45000", AtLeast(1), ReadOnly, STREAMS;
    /// Longest session timeout that a streams group may be given.
    "group.streams.max.session.timeout.ms": Int = "60000", AtLeast(1), ReadOnly, STREAMS;
    /// Heartbeat interval of the members of streams groups.
    "group.streams.heartbeat.interval.ms": Int = "5000", AtLeast(1), ReadOnly, STREAMS;
    /// Shortest heartbeat interval that a streams group may be given.
    "group.streams.min.heartbeat.interval.ms": Int = "5000", AtLeast(1), ReadOnly, STREAMS;
    /// Longest heartbeat interval that a streams group may be given.
    "group.streams.max.heartbeat.interval.ms": Int = "15000", AtLeast(1), ReadOnly, STREAMS;
    /// Least time between two assignments of a streams group.
    "group.streams.assignment.interval.ms": Int = "1000", AtLeast(0), ClusterWide, STREAMS;
    /// Smallest assignment interval that a streams group may be given.
    "group.streams.min.assignment.interval.ms": Int = "0", AtLeast(0), ReadOnly, STREAMS;
    /// Largest assignment interval that a streams group may be given.
    "group.streams.max.assignment.interval.ms": Int = "15000", AtLeast(0), ReadOnly, STREAMS;
    /// How long the first rebalance of an empty streams group waits for more members.
    "group.streams.initial.rebalance.delay.ms": Int = "3000", AtLeast(0), ReadOnly, STREAMS;
    /// Most members of a streams group.
    "group.streams.max.size": Int = "2147483647", AtLeast(1), ReadOnly, STREAMS;
    /// Standby copies of each task of a streams group.
    "group.streams.num.standby.replicas": Int = "0", AtLeast(0), ReadOnly, STREAMS;
    /// Most standby copies that a streams group may be given.
    "group.streams.max.standby.replicas": Int = "2", AtLeast(0), ReadOnly, STREAMS;
}
