//! What the controller's decisions depend on besides the image: plain values, made from the configuration by the shell.

use odradek_common::ids::NodeId;

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
