//! The typed settings, grouped by who reads them. Durations and sizes keep the unit in their name.

use std::collections::BTreeMap;

use odradek_common::ids::NodeId;
use odradek_common::metadata::SecurityProtocol;

use super::values::Values;
use crate::listener::{HostPort, Listener, Voter};

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// It serves topics.
    pub broker: bool,
    /// It takes part in the metadata quorum.
    pub controller: bool,
}

impl Roles {
    /// Broker and controller in one process.
    pub fn combined(self) -> bool {
        self.broker && self.controller
    }
}

/// Identity, roles and directories of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// node.id
    pub node_id: NodeId,
    /// process.roles
    pub roles: Roles,
    /// log.dirs, else log.dir; without duplicates
    pub log_dirs: Vec<String>,
    /// metadata.log.dir, else the first of log.dirs
    pub metadata_log_dir: String,
    /// broker.rack
    pub rack: Option<String>,
}

/// The addresses of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Everything that is bound.
    pub listeners: Vec<Listener>,
    /// What clients and brokers are told; empty on a node that is only a controller. A host may be empty: the
    /// machine's own name is meant then.
    pub advertised: Vec<Listener>,
    /// What other nodes are told about this controller's listeners; empty on a node that is only a broker.
    pub advertised_controller: Vec<Listener>,
    /// controller.listener.names, in upper case
    pub controller_listener_names: Vec<String>,
    /// The listener that brokers use among themselves; on a node that is only a controller it need not exist.
    pub inter_broker_listener_name: String,
    /// What each listener name stands for.
    pub(crate) security_protocols: BTreeMap<String, SecurityProtocol>,
}

impl ListenerSettings {
    /// Whether the listener of this name belongs to controllers.
    pub fn is_controller(&self, name: &str) -> bool {
        self.controller_listener_names
            .iter()
            .any(|controller| controller == name)
    }

    /// The bound listeners for clients and brokers.
    pub fn broker_listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners
            .iter()
            .filter(|listener| !self.is_controller(&listener.name))
    }

    /// The bound listeners for controllers.
    pub fn controller_listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners
            .iter()
            .filter(|listener| self.is_controller(&listener.name))
    }
}

/// The metadata quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumSettings {
    /// controller.quorum.voters
    pub voters: Vec<Voter>,
    /// controller.quorum.bootstrap.servers
    pub bootstrap_servers: Vec<HostPort>,
    /// controller.quorum.election.timeout.ms
    pub election_timeout_ms: u32,
    /// controller.quorum.request.timeout.ms
    pub request_timeout_ms: u32,
    /// controller.quorum.auto.join.enable
    pub auto_join: bool,
    /// controller.quorum.fetch.max.bytes
    pub fetch_bytes_max: u32,
    /// metadata.log.max.record.bytes.between.snapshots
    pub snapshot_after_bytes: i64,
    /// metadata.log.max.snapshot.interval.ms; 0 switches snapshots by time off
    pub snapshot_interval_ms: i64,
}

impl QuorumSettings {
    pub(super) fn read(
        values: &Values,
        voters: Vec<Voter>,
        bootstrap_servers: Vec<HostPort>,
    ) -> QuorumSettings {
        QuorumSettings {
            voters,
            bootstrap_servers,
            election_timeout_ms: values.unsigned("controller.quorum.election.timeout.ms"),
            request_timeout_ms: values.unsigned("controller.quorum.request.timeout.ms"),
            auto_join: values.boolean("controller.quorum.auto.join.enable"),
            fetch_bytes_max: values.unsigned("controller.quorum.fetch.max.bytes"),
            snapshot_after_bytes: values.long("metadata.log.max.record.bytes.between.snapshots"),
            snapshot_interval_ms: values.long("metadata.log.max.snapshot.interval.ms"),
        }
    }
}

/// The life of brokers, as the controller and they themselves see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerSettings {
    /// broker.session.timeout.ms
    pub broker_session_timeout_ms: i32,
    /// broker.heartbeat.interval.ms
    pub broker_heartbeat_interval_ms: i32,
    /// initial.broker.registration.timeout.ms
    pub initial_registration_timeout_ms: i32,
    /// controlled.shutdown.enable
    pub controlled_shutdown: bool,
    /// auto.leader.rebalance.enable
    pub auto_leader_rebalance: bool,
    /// leader.imbalance.check.interval.seconds
    pub leader_imbalance_check_interval_seconds: i64,
    /// unclean.leader.election.interval.ms
    pub unclean_leader_election_interval_ms: i64,
    /// odradek.fencing.probe.enable
    pub fencing_probe: bool,
}

impl ControllerSettings {
    pub(super) fn read(values: &Values) -> ControllerSettings {
        ControllerSettings {
            broker_session_timeout_ms: values.int("broker.session.timeout.ms"),
            broker_heartbeat_interval_ms: values.int("broker.heartbeat.interval.ms"),
            initial_registration_timeout_ms: values.int("initial.broker.registration.timeout.ms"),
            controlled_shutdown: values.boolean("controlled.shutdown.enable"),
            auto_leader_rebalance: values.boolean("auto.leader.rebalance.enable"),
            leader_imbalance_check_interval_seconds: values.long("leader.imbalance.check.interval.seconds"),
            unclean_leader_election_interval_ms: values.long("unclean.leader.election.interval.ms"),
            fencing_probe: values.boolean("odradek.fencing.probe.enable"),
        }
    }
}

/// Sockets, connections and requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSettings {
    /// socket.send.buffer.bytes; -1 leaves it to the system
    pub send_buffer_bytes: i32,
    /// socket.receive.buffer.bytes; -1 leaves it to the system
    pub receive_buffer_bytes: i32,
    /// socket.request.max.bytes
    pub request_bytes_max: u32,
    /// socket.listen.backlog.size
    pub listen_backlog: u32,
    /// connections.max.idle.ms; negative never closes an idle connection
    pub connections_max_idle_ms: i64,
    /// max.connections
    pub connections_max: u32,
    /// max.connections.per.ip
    pub connections_per_ip_max: u32,
    /// max.connections.per.ip.overrides
    pub connections_per_ip_overrides: BTreeMap<String, u32>,
    /// max.connection.creation.rate, in connections per second
    pub connection_creation_rate_max: u32,
    /// socket.connection.setup.timeout.ms
    pub connection_setup_timeout_ms: i64,
    /// request.timeout.ms
    pub request_timeout_ms: i32,
    /// fetch.max.bytes
    pub fetch_bytes_max: u32,
    /// max.incremental.fetch.session.cache.slots
    pub fetch_session_cache_slots: u32,
    /// max.request.partition.size.limit
    pub request_partitions_max: u32,
}

impl SocketSettings {
    pub(super) fn read(values: &Values) -> SocketSettings {
        let overrides = values.list("max.connections.per.ip.overrides");
        SocketSettings {
            send_buffer_bytes: values.int("socket.send.buffer.bytes"),
            receive_buffer_bytes: values.int("socket.receive.buffer.bytes"),
            request_bytes_max: values.unsigned("socket.request.max.bytes"),
            listen_backlog: values.unsigned("socket.listen.backlog.size"),
            connections_max_idle_ms: values.long("connections.max.idle.ms"),
            connections_max: values.unsigned("max.connections"),
            connections_per_ip_max: values.unsigned("max.connections.per.ip"),
            connections_per_ip_overrides: overrides.iter().filter_map(|text| host_and_count(text)).collect(),
            connection_creation_rate_max: values.unsigned("max.connection.creation.rate"),
            connection_setup_timeout_ms: values.long("socket.connection.setup.timeout.ms"),
            request_timeout_ms: values.int("request.timeout.ms"),
            fetch_bytes_max: values.unsigned("fetch.max.bytes"),
            fetch_session_cache_slots: values.unsigned("max.incremental.fetch.session.cache.slots"),
            request_partitions_max: values.unsigned("max.request.partition.size.limit"),
        }
    }
}

/// Parses one `host:count` of max.connections.per.ip.overrides. With fewer than none Kafka accepts no connection either.
pub(super) fn host_and_count(text: &str) -> Option<(String, u32)> {
    let (host, count) = text.rsplit_once(':')?;
    let host = host.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '%' | '.' | '_' | ':');
    let valid = !host.is_empty() && host.chars().all(plain);
    let count: i32 = count.trim().parse().ok()?;
    valid.then_some((host.to_owned(), u32::try_from(count).unwrap_or(0)))
}

/// Fetching from leaders and the ISR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// replica.lag.time.max.ms
    pub lag_time_max_ms: i64,
    /// replica.socket.timeout.ms
    pub socket_timeout_ms: i32,
    /// replica.fetch.max.bytes
    pub fetch_bytes_max: u32,
    /// replica.fetch.wait.max.ms
    pub fetch_wait_max_ms: i32,
    /// replica.fetch.min.bytes
    pub fetch_bytes_min: i32,
    /// replica.fetch.response.max.bytes
    pub fetch_response_bytes_max: u32,
    /// replica.fetch.backoff.ms
    pub fetch_backoff_ms: u32,
    /// replica.high.watermark.checkpoint.interval.ms
    pub high_watermark_checkpoint_interval_ms: i64,
    /// replica.alter.log.dirs.io.max.bytes.per.second
    pub alter_log_dirs_bytes_per_second: i64,
    /// num.replica.alter.log.dirs.threads
    pub alter_log_dirs_threads: Option<u32>,
}

impl ReplicaSettings {
    pub(super) fn read(values: &Values) -> ReplicaSettings {
        ReplicaSettings {
            lag_time_max_ms: values.long("replica.lag.time.max.ms"),
            socket_timeout_ms: values.int("replica.socket.timeout.ms"),
            fetch_bytes_max: values.unsigned("replica.fetch.max.bytes"),
            fetch_wait_max_ms: values.int("replica.fetch.wait.max.ms"),
            fetch_bytes_min: values.int("replica.fetch.min.bytes"),
            fetch_response_bytes_max: values.unsigned("replica.fetch.response.max.bytes"),
            fetch_backoff_ms: values.unsigned("replica.fetch.backoff.ms"),
            high_watermark_checkpoint_interval_ms: values
                .long("replica.high.watermark.checkpoint.interval.ms"),
            alter_log_dirs_bytes_per_second: values.long("replica.alter.log.dirs.io.max.bytes.per.second"),
            alter_log_dirs_threads: values
                .int_if_given("num.replica.alter.log.dirs.threads")
                .map(|threads| u32::try_from(threads).unwrap_or(0)),
        }
    }
}

/// Creation and deletion of topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicCreationSettings {
    /// num.partitions
    pub num_partitions: i32,
    /// default.replication.factor
    pub default_replication_factor: i16,
    /// auto.create.topics.enable
    pub auto_create: bool,
    /// delete.topic.enable
    pub delete: bool,
}

impl TopicCreationSettings {
    pub(super) fn read(values: &Values) -> TopicCreationSettings {
        let replication_factor = values.int("default.replication.factor");
        TopicCreationSettings {
            num_partitions: values.int("num.partitions"),
            default_replication_factor: i16::try_from(replication_factor).unwrap_or(i16::MAX),
            auto_create: values.boolean("auto.create.topics.enable"),
            delete: values.boolean("delete.topic.enable"),
        }
    }
}

/// Chores of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// log.retention.check.interval.ms
    pub retention_check_interval_ms: i64,
    /// log.flush.scheduler.interval.ms
    pub flush_scheduler_interval_ms: i64,
    /// log.flush.offset.checkpoint.interval.ms
    pub recovery_point_checkpoint_interval_ms: u32,
    /// log.initial.task.delay.ms
    pub initial_task_delay_ms: i64,
    /// num.recovery.threads.per.data.dir
    pub recovery_threads_per_directory: u32,
}

impl LogSettings {
    pub(super) fn read(values: &Values) -> LogSettings {
        LogSettings {
            retention_check_interval_ms: values.long("log.retention.check.interval.ms"),
            flush_scheduler_interval_ms: values.long("log.flush.scheduler.interval.ms"),
            recovery_point_checkpoint_interval_ms: values.unsigned("log.flush.offset.checkpoint.interval.ms"),
            initial_task_delay_ms: values.long("log.initial.task.delay.ms"),
            recovery_threads_per_directory: values.unsigned("num.recovery.threads.per.data.dir"),
        }
    }
}

/// Compaction.
#[derive(Debug, Clone, PartialEq)]
pub struct CleanerSettings {
    /// log.cleaner.enable
    pub enable: bool,
    /// log.cleaner.threads
    pub threads: u32,
    /// log.cleaner.backoff.ms
    pub backoff_ms: i64,
    /// log.cleaner.io.max.bytes.per.second; 0 stands still, less is no limit
    pub io_bytes_per_second_max: f64,
    /// log.cleaner.dedupe.buffer.size, of all threads
    pub dedupe_buffer_bytes: i64,
    /// log.cleaner.io.buffer.load.factor
    pub load_factor: f64,
    /// log.cleaner.io.buffer.size, of all threads
    pub io_buffer_bytes: u32,
}

impl CleanerSettings {
    pub(super) fn read(values: &Values) -> CleanerSettings {
        CleanerSettings {
            enable: values.boolean("log.cleaner.enable"),
            threads: values.unsigned("log.cleaner.threads"),
            backoff_ms: values.long("log.cleaner.backoff.ms"),
            io_bytes_per_second_max: values.double("log.cleaner.io.max.bytes.per.second"),
            dedupe_buffer_bytes: values.long("log.cleaner.dedupe.buffer.size"),
            load_factor: values.double("log.cleaner.io.buffer.load.factor"),
            io_buffer_bytes: values.unsigned("log.cleaner.io.buffer.size"),
        }
    }
}

/// Classic groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// group.min.session.timeout.ms
    pub session_timeout_min_ms: i32,
    /// group.max.session.timeout.ms
    pub session_timeout_max_ms: i32,
    /// group.initial.rebalance.delay.ms
    pub initial_rebalance_delay_ms: i32,
    /// group.max.size
    pub size_max: u32,
}

impl GroupSettings {
    pub(super) fn read(values: &Values) -> GroupSettings {
        GroupSettings {
            session_timeout_min_ms: values.int("group.min.session.timeout.ms"),
            session_timeout_max_ms: values.int("group.max.session.timeout.ms"),
            initial_rebalance_delay_ms: values.int("group.initial.rebalance.delay.ms"),
            size_max: values.unsigned("group.max.size"),
        }
    }
}

/// Committed offsets and their topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetSettings {
    /// offset.metadata.max.bytes
    pub metadata_bytes_max: i32,
    /// offsets.commit.timeout.ms
    pub commit_timeout_ms: u32,
    /// offsets.load.buffer.size
    pub load_buffer_bytes: u32,
    /// offsets.retention.minutes, in milliseconds
    pub retention_ms: i64,
    /// offsets.retention.check.interval.ms
    pub retention_check_interval_ms: i64,
    /// offsets.topic.num.partitions
    pub topic_partitions: i32,
    /// offsets.topic.replication.factor; see [`super::ServerConfig::offsets_replication_factor`]
    pub(crate) topic_replication_factor: i16,
    /// offsets.topic.segment.bytes
    pub topic_segment_bytes: u32,
    /// offsets.topic.compression.codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd
    pub topic_compression_codec: i32,
}

impl OffsetSettings {
    pub(super) fn read(values: &Values) -> OffsetSettings {
        OffsetSettings {
            metadata_bytes_max: values.int("offset.metadata.max.bytes"),
            commit_timeout_ms: values.unsigned("offsets.commit.timeout.ms"),
            load_buffer_bytes: values.unsigned("offsets.load.buffer.size"),
            retention_ms: values.long("offsets.retention.minutes") * 60_000,
            retention_check_interval_ms: values.long("offsets.retention.check.interval.ms"),
            topic_partitions: values.int("offsets.topic.num.partitions"),
            topic_replication_factor: i16::try_from(values.int("offsets.topic.replication.factor"))
                .expect("short keys are validated as 16-bit"),
            topic_segment_bytes: values.unsigned("offsets.topic.segment.bytes"),
            topic_compression_codec: values.int("offsets.topic.compression.codec"),
        }
    }
}

/// Producer state and transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionSettings {
    /// producer.id.expiration.ms
    pub producer_id_expiration_ms: u32,
    /// producer.id.expiration.check.interval.ms
    pub producer_id_expiration_check_interval_ms: u32,
    /// transaction.partition.verification.enable
    pub partition_verification: bool,
    /// add.partitions.to.txn.retry.backoff.ms
    pub add_partitions_retry_backoff_ms: u32,
    /// add.partitions.to.txn.retry.backoff.max.ms
    pub add_partitions_retry_backoff_max_ms: u32,
    /// transactional.id.expiration.ms
    pub id_expiration_ms: u32,
    /// transaction.max.timeout.ms
    pub max_timeout_ms: i32,
    /// transaction.abort.timed.out.transaction.cleanup.interval.ms
    pub abort_timed_out_interval_ms: u32,
    /// transaction.remove.expired.transaction.cleanup.interval.ms
    pub remove_expired_interval_ms: u32,
    /// transaction.state.log.num.partitions
    pub state_log_partitions: i32,
    /// transaction.state.log.replication.factor; see `ServerConfig::transactions_replication_factor`
    pub(crate) state_log_replication_factor: i16,
    /// transaction.state.log.min.isr; see `ServerConfig::transactions_min_isr`
    pub(crate) state_log_min_isr: i32,
    /// transaction.state.log.segment.bytes
    pub state_log_segment_bytes: u32,
    /// transaction.state.log.load.buffer.size
    pub state_log_load_buffer_bytes: u32,
}

impl TransactionSettings {
    pub(super) fn read(values: &Values) -> TransactionSettings {
        TransactionSettings {
            producer_id_expiration_ms: values.unsigned("producer.id.expiration.ms"),
            producer_id_expiration_check_interval_ms: values
                .unsigned("producer.id.expiration.check.interval.ms"),
            partition_verification: values.boolean("transaction.partition.verification.enable"),
            add_partitions_retry_backoff_ms: values.unsigned("add.partitions.to.txn.retry.backoff.ms"),
            add_partitions_retry_backoff_max_ms: values
                .unsigned("add.partitions.to.txn.retry.backoff.max.ms"),
            id_expiration_ms: values.unsigned("transactional.id.expiration.ms"),
            max_timeout_ms: values.int("transaction.max.timeout.ms"),
            abort_timed_out_interval_ms: values
                .unsigned("transaction.abort.timed.out.transaction.cleanup.interval.ms"),
            remove_expired_interval_ms: values
                .unsigned("transaction.remove.expired.transaction.cleanup.interval.ms"),
            state_log_partitions: values.int("transaction.state.log.num.partitions"),
            state_log_replication_factor: i16::try_from(
                values.int("transaction.state.log.replication.factor"),
            )
            .expect("short keys are validated as 16-bit"),
            state_log_min_isr: values.int("transaction.state.log.min.isr"),
            state_log_segment_bytes: values.unsigned("transaction.state.log.segment.bytes"),
            state_log_load_buffer_bytes: values.unsigned("transaction.state.log.load.buffer.size"),
        }
    }
}

/// What only this product has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OdradekSettings {
    /// odradek.metrics.listener; `None` when it is switched off
    pub metrics_listener: Option<String>,
    /// odradek.broker.workers; 0 means one for each core
    pub broker_workers: u32,
    /// odradek.request.memory.max.bytes
    pub request_memory_bytes_max: i64,
    /// odradek.log.dir.reserve.bytes
    pub log_dir_reserve_bytes: i64,
    /// odradek.log.recovery.max.bytes
    pub recovery_bytes_max: i64,
    /// odradek.log.scrub.max.bytes.per.second
    pub scrub_bytes_per_second: i64,
    /// odradek.log.scrub.interval.ms
    pub scrub_interval_ms: i64,
}

impl OdradekSettings {
    pub(super) fn read(values: &Values) -> OdradekSettings {
        OdradekSettings {
            metrics_listener: values
                .string("odradek.metrics.listener")
                .filter(|address| !address.is_empty()),
            broker_workers: values.unsigned("odradek.broker.workers"),
            request_memory_bytes_max: values.long("odradek.request.memory.max.bytes"),
            log_dir_reserve_bytes: values.long("odradek.log.dir.reserve.bytes"),
            recovery_bytes_max: values.long("odradek.log.recovery.max.bytes"),
            scrub_bytes_per_second: values.long("odradek.log.scrub.max.bytes.per.second"),
            scrub_interval_ms: values.long("odradek.log.scrub.interval.ms"),
        }
    }
}
