//! Keys of quotas.

use crate::key::State::Used;
use crate::key::Valid::{Any, AtLeast};
use crate::key::keys;
use crate::keys::reasons::{PLUGINS, QUOTAS};

keys! { QUOTA: Broker;
    /// Samples that a client quota looks back on.
    "quota.window.num": Int = "11", AtLeast(1), ReadOnly, QUOTAS;
    /// Length of one sample of a client quota.
    "quota.window.size.seconds": Int = "1", AtLeast(1), ReadOnly, QUOTAS;
    /// Samples that a replication quota looks back on.
    "replication.quota.window.num": Int = "11", AtLeast(1), ReadOnly, QUOTAS;
    /// Length of one sample of a replication quota.
    "replication.quota.window.size.seconds": Int = "1", AtLeast(1), ReadOnly, QUOTAS;
    /// Samples that the quota for moves between log directories looks back on.
    "alter.log.dirs.replication.quota.window.num": Int = "11", AtLeast(1), ReadOnly, QUOTAS;
    /// Length of one sample of the quota for moves between log directories.
    "alter.log.dirs.replication.quota.window.size.seconds": Int = "1", AtLeast(1), ReadOnly, QUOTAS;
    /// Samples that the quota for controller mutations looks back on.
    "controller.quota.window.num": Int = "11", AtLeast(1), ReadOnly, QUOTAS;
    /// Length of one sample of the quota for controller mutations.
    "controller.quota.window.size.seconds": Int = "1", AtLeast(1), ReadOnly, QUOTAS;
    /// Class that computes client quotas.
    "client.quota.callback.class": Class = -, Any, ReadOnly, PLUGINS;
    /// Bytes per second that leaders may send to throttled replicas; set dynamically only.
    "leader.replication.throttled.rate": Long = "9223372036854775807", AtLeast(0), ClusterWide, QUOTAS;
    /// Bytes per second that followers may fetch for throttled replicas; set dynamically only.
    "follower.replication.throttled.rate": Long = "9223372036854775807", AtLeast(0), ClusterWide, QUOTAS;
    /// Bytes per second for moves between log directories; set dynamically only.
    "replica.alter.log.dirs.io.max.bytes.per.second": Long = "9223372036854775807",
        AtLeast(0), ClusterWide, Used;
}
