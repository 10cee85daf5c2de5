//! Keys of share groups and their coordinator.

use crate::key::Valid::{Any, AtLeast, Between, Codec};
use crate::key::keys;
use crate::keys::reasons::SHARE;

keys! { SHARE_GROUPS: Broker;
    /// Session timeout of the members of share groups.
    "group.share.session.timeout.ms": Int = "45000", AtLeast(1), ReadOnly, SHARE;
    /// Shortest session timeout that a share group may be given.
    "group.share.min.session.timeout.ms": Int = "45000", AtLeast(1), ReadOnly, SHARE;
    /// Longest session timeout that a share group may be given.
    "group.share.max.session.timeout.ms": Int = "60000", AtLeast(1), ReadOnly, SHARE;
    /// Heartbeat interval of the members of share groups.
    "group.share.heartbeat.interval.ms": Int = "5000", AtLeast(1), ReadOnly, SHARE;
    /// Shortest heartbeat interval that a share group may be given.
    "group.share.min.heartbeat.interval.ms": Int = "5000", AtLeast(1), ReadOnly, SHARE;
    /// Longest heartbeat interval that a share group may be given.
    "group.share.max.heartbeat.interval.ms": Int = "15000", AtLeast(1), ReadOnly, SHARE;
    /// Least time between two assignments of a share group.
    "group.share.assignment.interval.ms": Int = "1000", AtLeast(0), ClusterWide, SHARE;
    /// Smallest assignment interval that a share group may be given.
    "group.share.min.assignment.interval.ms": Int = "0", AtLeast(0), ReadOnly, SHARE;
    /// Largest assignment interval that a share group may be given.
    "group.share.max.assignment.interval.ms": Int = "15000", AtLeast(0), ReadOnly, SHARE;
    /// Most members of a share group.
    "group.share.max.size": Int = "200", Between(1, 1000), ReadOnly, SHARE;
    /// Most share sessions of a broker.
    "group.share.max.share.sessions": Int = "2000", AtLeast(1), ReadOnly, SHARE;
    /// Server-side assignor of share groups.
    "group.share.assignors": List = "simple", Any, ReadOnly, SHARE;
    /// How often a record is handed out before it is given up.
    "group.share.delivery.count.limit": Int = "5", Between(2, 10), ReadOnly, SHARE;
    /// Smallest delivery count limit that a share group may be given.
    "group.share.min.delivery.count.limit": Int = "2", Between(2, 5), ReadOnly, SHARE;
    /// Largest delivery count limit that a share group may be given.
    "group.share.max.delivery.count.limit": Int = "10", Between(5, 25), ReadOnly, SHARE;
    /// How long a record that was handed out stays locked for its receiver.
    "group.share.record.lock.duration.ms": Int = "30000", Between(1000, 3_600_000), ReadOnly, SHARE;
    /// Shortest lock that a share group may be given.
    "group.share.min.record.lock.duration.ms": Int = "15000", Between(1000, 30_000), ReadOnly, SHARE;
    /// Longest lock that a share group may be given.
    "group.share.max.record.lock.duration.ms": Int = "60000", Between(30_000, 3_600_000), ReadOnly, SHARE;
    /// Most records of one partition that may be locked at a time.
    "group.share.partition.max.record.locks": Int = "2000", Between(100, 10_000), ReadOnly, SHARE;
    /// Smallest number of locks that a share group may be given.
    "group.share.min.partition.max.record.locks": Int = "100", Between(100, 2000), ReadOnly, SHARE;
    /// Largest number of locks that a share group may be given.
    "group.share.max.partition.max.record.locks": Int = "4000", Between(2000, 10_000), ReadOnly, SHARE;
    /// Pause before the initialisation of a share partition is tried again.
    "group.share.initialize.retry.interval.ms": Int = "30000", AtLeast(1), ReadOnly, SHARE, internal;
    /// Class that stores the state of share groups.
    "group.share.persister.class.name": String = "org.apache.kafka.server.share.persister.DefaultStatePersister",
        Any, ReadOnly, SHARE, internal;
    /// How long the share coordinator may collect records before it appends them.
    "share.coordinator.append.linger.ms": Int = "-1", AtLeast(-1), ReadOnly, SHARE;
    /// Largest write buffer that the share coordinator keeps for reuse.
    "share.coordinator.cached.buffer.max.bytes": Int = "1048588", AtLeast(524_288), ClusterWide, SHARE;
    /// How often share partitions without traffic are written as a snapshot.
    "share.coordinator.cold.partition.snapshot.interval.ms": Int = "300000",
        AtLeast(1), ReadOnly, SHARE, internal;
    /// Bytes that are read at a time while the share coordinator loads its state.
    "share.coordinator.load.buffer.size": Int = "5242880", AtLeast(1), ReadOnly, SHARE;
    /// Updates of a share partition between two snapshots.
    "share.coordinator.snapshot.update.records.per.snapshot": Int = "500", Between(0, 500), ReadOnly, SHARE;
    /// Codec number of the batches that the share coordinator writes.
    "share.coordinator.state.topic.compression.codec": Int = "0", Codec, ReadOnly, SHARE;
    /// min.insync.replicas of the topic that holds share group state.
    "share.coordinator.state.topic.min.isr": Short = "2", AtLeast(1), ReadOnly, SHARE;
    /// Partitions of the topic that holds share group state.
    "share.coordinator.state.topic.num.partitions": Int = "50", AtLeast(1), ReadOnly, SHARE;
    /// How often superseded share group state is deleted.
    "share.coordinator.state.topic.prune.interval.ms": Int = "300000", AtLeast(1), ReadOnly, SHARE, internal;
    /// Replicas of the topic that holds share group state.
    "share.coordinator.state.topic.replication.factor": Short = "3", AtLeast(1), ReadOnly, SHARE;
    /// Segment size of the topic that holds share group state.
    "share.coordinator.state.topic.segment.bytes": Int = "104857600", AtLeast(1), ReadOnly, SHARE;
    /// Threads of the share coordinator.
    "share.coordinator.threads": Int = "1", AtLeast(1), ReadOnly, SHARE;
    /// How long a write of the share coordinator waits until enough replicas have it.
    "share.coordinator.write.timeout.ms": Int = "5000", AtLeast(1), ReadOnly, SHARE;
    /// After how many requests finished share fetches are removed from the waiting list.
    "share.fetch.purgatory.purge.interval.requests": Int = "1000", Any, ReadOnly, SHARE;
}
