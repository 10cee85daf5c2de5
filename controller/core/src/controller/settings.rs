//! What the controller's decisions depend on besides the image: plain values, made from the configuration by the shell.

use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_config::ServerConfig;

/// The controller's settings, each after the configuration key it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerSettings {
    /// `node.id` of this controller.
    pub node_id: NodeId,
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// `broker.session.timeout.ms`.
    pub broker_session_timeout_ms: u64,
    /// How long a broker may be silent before [`super::Controller::suspects`] names it, so that the shell probes its port.
    pub broker_suspect_ms: u64,
    /// `min.insync.replicas` where neither the topic nor the cluster overrides it.
    pub min_insync_replicas: i32,
    /// `unclean.leader.election.enable` where neither the topic nor the cluster overrides it.
    pub unclean_leader_election_enable: bool,
    /// `unclean.leader.election.interval.ms`.
    pub unclean_leader_election_interval_ms: u64,
    /// `auto.leader.rebalance.enable`.
    pub auto_leader_rebalance_enable: bool,
    /// `leader.imbalance.check.interval.seconds`, in milliseconds.
    pub leader_imbalance_check_interval_ms: u64,
    /// Elections that one round of rebalancing or unclean elections makes at most.
    pub elections_per_round_max: usize,
    /// Records that one request may lead to at most.
    pub records_per_request_max: usize,
    /// `delete.topic.enable`.
    pub delete_topic_enable: bool,
    /// Producer ids in one block.
    pub producer_id_block_len: i32,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        Self {
            node_id: 0,
            num_partitions: 1,
            default_replication_factor: 1,
            broker_session_timeout_ms: 9_000,
            broker_suspect_ms: 1_000,
            min_insync_replicas: 1,
            unclean_leader_election_enable: false,
            unclean_leader_election_interval_ms: 300_000,
            auto_leader_rebalance_enable: true,
            leader_imbalance_check_interval_ms: 300_000,
            elections_per_round_max: 1_000,
            records_per_request_max: 10_000,
            delete_topic_enable: true,
            producer_id_block_len: 1_000,
        }
    }
}

impl ControllerSettings {
    /// Refuses a request that would lead to more records than one may.
    pub(super) fn check_records(&self, records: usize, what: &str) -> Result<(), ApiError> {
        let max = self.records_per_request_max;
        if records <= max {
            return Ok(());
        }
        let detail = format!(
            "too many {what} in one request: it may lead to {max} records of metadata, one for each topic, partition, \
             configuration or change; ask for fewer at once"
        );
        Err(ApiError::new(ErrorCode::PolicyViolation, detail))
    }
}

impl From<&ServerConfig> for ControllerSettings {
    fn from(config: &ServerConfig) -> Self {
        let positive = |number: i64| u64::try_from(number).unwrap_or(0);
        let session_timeout_ms = positive(config.controller.broker_session_timeout_ms.into());
        let heartbeat_interval_ms = positive(config.controller.broker_heartbeat_interval_ms.into());
        let defaults = Self::default();
        Self {
            node_id: config.node.node_id,
            num_partitions: config.topics.num_partitions,
            default_replication_factor: config.topics.default_replication_factor,
            broker_session_timeout_ms: session_timeout_ms,
            // A broker that misses a heartbeat is worth a look.
            broker_suspect_ms: (heartbeat_interval_ms + heartbeat_interval_ms / 4)
                .min(session_timeout_ms / 2),
            min_insync_replicas: config.topic_defaults.min_insync_replicas,
            unclean_leader_election_enable: config.topic_defaults.unclean_leader_election,
            unclean_leader_election_interval_ms: positive(
                config.controller.unclean_leader_election_interval_ms,
            ),
            auto_leader_rebalance_enable: config.controller.auto_leader_rebalance,
            leader_imbalance_check_interval_ms: positive(
                config.controller.leader_imbalance_check_interval_seconds,
            )
            .saturating_mul(1_000),
            delete_topic_enable: config.topics.delete,
            ..defaults
        }
    }
}
