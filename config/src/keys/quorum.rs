//! Keys of the metadata quorum.

use crate::key::State::Used;
use crate::key::Valid::{Any, AtLeast};
use crate::key::keys;
use crate::keys::reasons::{ELECTION, LINGER, RAFT, RETRY, SNAPSHOT};

keys! { QUORUM: Broker;
    /// The controllers that vote, as id@host:port, separated by commas.
    "controller.quorum.voters": List = "", Any, ReadOnly, Used;
    /// Addresses, as host:port, at which the controllers can be found.
    "controller.quorum.bootstrap.servers": List = "", Any, ReadOnly, Used;
    /// How long a candidate waits for votes before it starts another election.
    "controller.quorum.election.timeout.ms": Int = "1000", AtLeast(0), ReadOnly, Used;
    /// How long a voter goes without word from the leader before it stands for election.
    "controller.quorum.fetch.timeout.ms": Int = "2000", AtLeast(0), ReadOnly, ELECTION;
    /// Longest random pause before the next election after one that nobody won.
    "controller.quorum.election.backoff.max.ms": Int = "1000", AtLeast(0), ReadOnly, ELECTION;
    /// How long the leader may collect records before it writes them to disk.
    "controller.quorum.append.linger.ms": Int = "25", AtLeast(0), ReadOnly, LINGER;
    /// How long a node waits for an answer from a controller.
    "controller.quorum.request.timeout.ms": Int = "2000", AtLeast(0), ReadOnly, Used;
    /// Pause before a request to the quorum is tried again.
    "controller.quorum.retry.backoff.ms": Int = "20", AtLeast(0), ReadOnly, RETRY;
    /// Whether a new controller joins the voters by itself.
    "controller.quorum.auto.join.enable": Boolean = "false", Any, ReadOnly, Used;
    /// Most bytes of metadata records in one answer to a node that catches up.
    "controller.quorum.fetch.max.bytes": Int = "1048576", AtLeast(1), ReadOnly, Used;
    /// Most bytes of a metadata snapshot in one answer.
    "controller.quorum.fetch.snapshot.max.bytes": Int = "1048576", AtLeast(1), ReadOnly, SNAPSHOT;
    /// Directory of the metadata quorum; without it the first directory of log.dirs.
    "metadata.log.dir": String = -, Any, ReadOnly, Used;
    /// A snapshot of the metadata is taken after this many bytes of records at the latest; before that, once they take twice as much
    /// memory as the last snapshot has bytes, and a MiB at least.
    "metadata.log.max.record.bytes.between.snapshots": Long = "20971520", AtLeast(1), ReadOnly, Used;
    /// A snapshot of the metadata is taken at least this often while records arrive; 0 switches it off.
    "metadata.log.max.snapshot.interval.ms": Long = "3600000", AtLeast(0), ReadOnly, Used;
    /// How often an idle controller writes an empty record.
    "metadata.max.idle.interval.ms": Int = "500", AtLeast(0), ReadOnly, RAFT;
    /// Size of a segment of the metadata log.
    "metadata.log.segment.bytes": Int = "1073741824", AtLeast(8_388_608), ReadOnly, RAFT;
    /// Time after which a segment of the metadata log is rolled.
    "metadata.log.segment.ms": Long = "604800000", Any, ReadOnly, RAFT;
    /// Size of metadata log and snapshots above which old ones are deleted.
    "metadata.max.retention.bytes": Long = "104857600", Any, ReadOnly, RAFT;
    /// Age above which old parts of the metadata log are deleted.
    "metadata.max.retention.ms": Long = "604800000", Any, ReadOnly, RAFT;
    /// Size of a metadata segment in tests.
    "internal.metadata.log.segment.bytes": Int = -, Any, ReadOnly, RAFT, internal;
    /// Pause before a metadata segment that is no longer needed is deleted.
    "internal.metadata.delete.delay.millis": Long = "60000", Any, ReadOnly, RAFT, internal;
    /// Largest batch in the metadata log.
    "internal.metadata.max.batch.size.in.bytes": Int = "8388608", Any, ReadOnly, RAFT, internal;
}
