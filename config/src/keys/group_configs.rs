//! Keys of single groups.

use crate::key::Valid::{Any, AtLeast, OneOf, ShareOffsetReset};
use crate::key::keys;
use crate::keys::reasons::{CONSUMER, SHARE, STREAMS};

keys! { GROUP_CONFIGS: Group;
    /// How long a member of this consumer group may be silent before it is removed.
    "consumer.session.timeout.ms": Int = "45000", AtLeast(1), ClusterWide, CONSUMER
        ; <- "group.consumer.session.timeout.ms" * 1;
    /// How often a member of this consumer group sends a heartbeat.
    "consumer.heartbeat.interval.ms": Int = "5000", AtLeast(1), ClusterWide, CONSUMER
        ; <- "group.consumer.heartbeat.interval.ms" * 1;
    /// Least time between two assignments of this consumer group.
    "consumer.assignment.interval.ms": Int = "1000", AtLeast(0), ClusterWide, CONSUMER
        ; <- "group.consumer.assignment.interval.ms" * 1;
    /// How long a member of this share group may be silent before it is removed.
    "share.session.timeout.ms": Int = "45000", AtLeast(1), ClusterWide, SHARE
        ; <- "group.share.session.timeout.ms" * 1;
    /// How often a member of this share group sends a heartbeat.
    "share.heartbeat.interval.ms": Int = "5000", AtLeast(1), ClusterWide, SHARE
        ; <- "group.share.heartbeat.interval.ms" * 1;
    /// Least time between two assignments of this share group.
    "share.assignment.interval.ms": Int = "1000", AtLeast(0), ClusterWide, SHARE
        ; <- "group.share.assignment.interval.ms" * 1;
    /// How long a record that was handed out stays locked for its receiver.
    "share.record.lock.duration.ms": Int = "30000", AtLeast(1000), ClusterWide, SHARE
        ; <- "group.share.record.lock.duration.ms" * 1;
    /// How often a record is handed out before it is given up.
    "share.delivery.count.limit": Int = "5", AtLeast(2), ClusterWide, SHARE
        ; <- "group.share.delivery.count.limit" * 1;
    /// Most records of one partition that may be locked at a time.
    "share.partition.max.record.locks": Int = "2000", AtLeast(100), ClusterWide, SHARE
        ; <- "group.share.partition.max.record.locks" * 1;
    /// Where this share group starts in a partition that it has not read.
    "share.auto.offset.reset": String = "latest", ShareOffsetReset, ClusterWide, SHARE;
    /// Whether records of open transactions are handed out.
    "share.isolation.level": String = "read_uncommitted",
        OneOf(&["read_committed", "read_uncommitted"]), ClusterWide, SHARE;
    /// Whether a receiver may prolong the lock of a record.
    "share.renew.acknowledge.enable": Boolean = "true", Any, ClusterWide, SHARE;
    /// How long a member of this streams group may be silent before it is removed.
    "streams.session.timeout.ms": Int = "45000", AtLeast(1), ClusterWide, STREAMS
        ; <- "group.streams.session.timeout.ms" * 1;
    /// How often a member of this streams group sends a heartbeat.
    "streams.heartbeat.interval.ms": Int = "5000", AtLeast(1), ClusterWide, STREAMS
        ; <- "group.streams.heartbeat.interval.ms" * 1;
    /// Least time between two assignments of this streams group.
    "streams.assignment.interval.ms": Int = "1000", AtLeast(0), ClusterWide, STREAMS
        ; <- "group.streams.assignment.interval.ms" * 1;
    /// How long the first rebalance of this streams group waits for more members.
    "streams.initial.rebalance.delay.ms": Int = "3000", AtLeast(0), ClusterWide, STREAMS
        ; <- "group.streams.initial.rebalance.delay.ms" * 1;
    /// Standby copies of each task of this streams group.
    "streams.num.standby.replicas": Int = "0", AtLeast(0), ClusterWide, STREAMS
        ; <- "group.streams.num.standby.replicas" * 1;
}
