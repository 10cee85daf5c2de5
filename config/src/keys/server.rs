//! Keys of the node itself: identity, listeners, sockets, life in the cluster, plug-ins.

use crate::key::State::Used;
use crate::key::Valid::{Any, AtLeast, NonEmptyList, NonEmptyListOf, OneOf};
use crate::key::keys;
use crate::keys::reasons::{MEMORY, METRICS, NOT_YET, PLUGINS, SASL, TELEMETRY, WORKERS};

keys! { SERVER: Broker;
    /// Identity of this node in the cluster; every broker and controller has its own number.
    "node.id": Int = -, AtLeast(0), ReadOnly, Used;
    /// Older name of node.id; when both are given they have to be equal.
    "broker.id": Int = "-1", Any, ReadOnly, Used;
    /// What this process does: broker, controller, or both.
    "process.roles": List = -, NonEmptyListOf(&["broker", "controller"]), ReadOnly, Used;
    /// Name of the rack or zone this broker stands in; replicas of one partition are spread over racks.
    "broker.rack": String = -, Any, ReadOnly, Used;
    /// Addresses to bind, as NAME://host:port, separated by commas; an empty host binds every interface.
    "listeners": List = "PLAINTEXT://:9092", NonEmptyList, PerBroker, Used;
    /// Addresses that clients and other nodes are told to connect to; without it the bound addresses are
    /// used.
    "advertised.listeners": List = -, Any, ReadOnly, Used;
    /// Names of the listeners that belong to controllers; brokers talk to the first one.
    "controller.listener.names": List = -, NonEmptyList, ReadOnly, Used;
    /// Name of the listener that brokers use among themselves.
    "inter.broker.listener.name": String = -, Any, ReadOnly, Used;
    /// Security protocol among brokers, used when inter.broker.listener.name is not given.
    "security.inter.broker.protocol": String = "PLAINTEXT",
        OneOf(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]), ReadOnly, Used;
    /// Which security protocol each listener name stands for, as NAME:PROTOCOL pairs.
    "listener.security.protocol.map": String = "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
        Any, PerBroker, Used;
    /// Listeners that open before the metadata has been loaded.
    "early.start.listeners": List = -, Any, ReadOnly, NOT_YET;
    /// Size of the kernel's send buffer of a connection; -1 leaves it to the system. Unless it is set, the system begins with about
    /// this size and lets it grow with what the connection moves.
    "socket.send.buffer.bytes": Int = "102400", Any, ReadOnly, Used;
    /// Size of the kernel's receive buffer of a connection; -1 leaves it to the system. Unless it is set, the system begins with
    /// about this size and lets it grow with what the connection moves.
    "socket.receive.buffer.bytes": Int = "102400", Any, ReadOnly, Used;
    /// Largest request that is read from a connection; a larger one closes the connection.
    "socket.request.max.bytes": Int = "104857600", AtLeast(1), ReadOnly, Used;
    /// How many connections may wait to be accepted on a listener. Unless it is set, as many as the system allows
    /// (net.core.somaxconn, at most 4096), so that all clients may come back at once.
    "socket.listen.backlog.size": Int = "50", AtLeast(1), ReadOnly, Used;
    /// A connection without traffic for this long is closed.
    "connections.max.idle.ms": Long = "600000", Any, ReadOnly, Used;
    /// Most connections that a broker keeps open at one time, over all listeners; `listener.name.<name>.max.connections`, read at
    /// the start, limits one of them.
    "max.connections": Int = "2147483647", AtLeast(0), ClusterWide, Used;
    /// Most connections from one address.
    "max.connections.per.ip": Int = "2147483647", AtLeast(0), ClusterWide, Used;
    /// Limits for single addresses that differ from max.connections.per.ip, as host:count pairs.
    "max.connections.per.ip.overrides": String = "", Any, ClusterWide, Used;
    /// Most connections that are accepted in one second.
    "max.connection.creation.rate": Int = "2147483647", AtLeast(0), ClusterWide, Used;
    /// How many requests may wait to be processed before the network stops reading more.
    "queued.max.requests": Int = "500", AtLeast(1), ReadOnly, MEMORY;
    /// Bytes of requests that may wait to be processed before the network stops reading more.
    "queued.max.request.bytes": Long = "-1", Any, ReadOnly, MEMORY;
    /// Threads that move bytes between sockets and request queues.
    "num.network.threads": Int = "3", AtLeast(1), ClusterWide, WORKERS;
    /// Threads that process requests.
    "num.io.threads": Int = "8", AtLeast(1), ClusterWide, WORKERS;
    /// Threads for chores such as deleting files.
    "background.threads": Int = "10", AtLeast(1), ClusterWide, WORKERS;
    /// How long the node waits for a connection that it opens itself.
    "socket.connection.setup.timeout.ms": Long = "10000", Any, ReadOnly, Used;
    /// Upper end of the growing wait for a connection after failed attempts.
    "socket.connection.setup.timeout.max.ms": Long = "30000", Any, ReadOnly, NOT_YET;
    /// How long the node waits for the answer to a request that it sends to another node.
    "request.timeout.ms": Int = "30000", Any, ReadOnly, Used;
    /// Most bytes in the answer to one fetch request; the first batch is sent even when it is larger.
    "fetch.max.bytes": Int = "57671680", AtLeast(1024), ReadOnly, Used;
    /// How many incremental fetch sessions a broker remembers.
    "max.incremental.fetch.session.cache.slots": Int = "1000", AtLeast(0), ReadOnly, Used;
    /// Most partitions in one answer of DescribeTopicPartitions.
    "max.request.partition.size.limit": Int = "2000", AtLeast(1), ReadOnly, Used;
    /// How long the connection of a client that failed to authenticate stays open before it is closed.
    "connection.failed.authentication.delay.ms": Int = "100", AtLeast(0), ReadOnly, SASL;
    /// A broker whose heartbeats stop for this long is fenced by the controller.
    "broker.session.timeout.ms": Int = "9000", Any, ReadOnly, Used;
    /// Time between two heartbeats from a broker to the controller.
    "broker.heartbeat.interval.ms": Int = "2000", Any, ReadOnly, Used;
    /// How long a starting broker tries to register before it gives up.
    "initial.broker.registration.timeout.ms": Int = "60000", Any, ReadOnly, Used;
    /// How long a start may take before the process gives up.
    "server.max.startup.time.ms": Long = "9223372036854775807", AtLeast(0), ReadOnly, NOT_YET, internal;
    /// Whether a stopping broker first hands its partition leaderships over.
    "controlled.shutdown.enable": Boolean = "true", Any, ReadOnly, Used;
    /// Whether topics may be deleted by clients.
    "delete.topic.enable": Boolean = "true", Any, ReadOnly, Used;
    /// Socket timeout of the channel between a broker and the controller.
    "controller.socket.timeout.ms": Int = "30000", Any, ReadOnly, NOT_YET;
    /// Period over which the speed of controller events is sampled.
    "controller.performance.sample.period.ms": Long = "60000", AtLeast(100), ReadOnly, NOT_YET, internal;
    /// Controller events that take longer than this are always logged.
    "controller.performance.always.log.threshold.ms": Long = "2000", AtLeast(0), ReadOnly, NOT_YET, internal;
    /// Classes that receive the metrics.
    "metric.reporters": List = "org.apache.kafka.common.metrics.JmxReporter", Any, ClusterWide, METRICS;
    /// How many samples a metric keeps.
    "metrics.num.samples": Int = "2", AtLeast(1), ReadOnly, METRICS;
    /// Length of one metric sample.
    "metrics.sample.window.ms": Long = "30000", AtLeast(1), ReadOnly, METRICS;
    /// Lowest level of the metrics that are recorded.
    "metrics.recording.level": String = "INFO", Any, ReadOnly, METRICS;
    /// How often the reporters of kafka.metrics.reporters are asked.
    "kafka.metrics.polling.interval.secs": Int = "10", AtLeast(1), ReadOnly, METRICS;
    /// Classes that report the older kind of metrics.
    "kafka.metrics.reporters": List = "", Any, ReadOnly, METRICS;
    /// Largest metrics payload that a client may push.
    "telemetry.max.bytes": Int = "1048576", AtLeast(1), ReadOnly, TELEMETRY;
    /// Sources outside the file that values may be taken from.
    "config.providers": List = "", Any, ClusterWide, PLUGINS;
    /// Class that may refuse the creation of a topic.
    "create.topic.policy.class.name": Class = -, Any, ReadOnly, PLUGINS;
    /// Class that may refuse a change of a configuration.
    "alter.config.policy.class.name": Class = -, Any, ReadOnly, PLUGINS;
    /// Whether API versions that are still being developed are offered.
    "unstable.api.versions.enable": Boolean = "false", Any, ReadOnly, NOT_YET, internal;
    /// Whether feature levels that are still being developed are offered.
    "unstable.feature.versions.enable": Boolean = "false", Any, ReadOnly, NOT_YET, internal;
}
