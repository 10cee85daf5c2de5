//! Keys that only this product has; all of them start with `odradek.`.

use crate::key::State::Used;
use crate::key::Valid::{Any, AtLeast};
use crate::key::keys;

keys! { ODRADEK: Broker;
    /// Address, as host:port, that serves /metrics, /healthz and /readyz; empty switches them off.
    "odradek.metrics.listener": String = "127.0.0.1:9404", Any, ReadOnly, Used;
    /// Threads that serve connections; 0 starts one for each core.
    "odradek.broker.workers": Int = "0", AtLeast(0), ReadOnly, Used;
    /// Memory that requests to the broker may take up together while they are read and processed, and those to the controller as much
    /// again. While it is used up, one request at a time is read beyond it, and has 5 s to arrive.
    "odradek.request.memory.max.bytes": Long = "268435456", AtLeast(1_048_576), ReadOnly, Used;
    /// Bytes of a log directory's disk that records of clients do not get: produces are refused, and followers stand still,
    /// while less is free; at most a twentieth of the disk. The rest is for what makes room again: retention, deletions, the index, the metadata log.
    "odradek.log.dir.reserve.bytes": Long = "67108864", AtLeast(0), ReadOnly, Used;
    /// Bytes of each log directory that recovery after a kill has to read, at most: beyond that logs are flushed and their
    /// recovery points written down, those first that have most of them. Sealed segments come first: flushing one that is
    /// appended to holds its appends up, so that the fewer bytes are allowed, the more often appends wait. The kernel writes by
    /// itself what has been in memory for half a minute: a bound above what is appended in that time costs next to nothing.
    "odradek.log.recovery.max.bytes": Long = "4294967296", AtLeast(1_048_576), ClusterWide, Used;
    /// Bytes of sealed segments that are read again in one second, around the page cache, and compared with their checksums; 0
    /// switches that off.
    "odradek.log.scrub.max.bytes.per.second": Long = "10485760", AtLeast(0), ClusterWide, Used;
    /// How long after the last one began all sealed segments are read again.
    "odradek.log.scrub.interval.ms": Long = "604800000", AtLeast(1), ClusterWide, Used;
    /// Whether the controller fences a broker at once when its connection drops and its port refuses, instead of
    /// waiting for broker.session.timeout.ms.
    "odradek.fencing.probe.enable": Boolean = "true", Any, ReadOnly, Used;
}
