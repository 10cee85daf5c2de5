//! What a controller node is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use odradek_common::ids::NodeId;
use odradek_common::metadata::Endpoint;
use odradek_config::ServerConfig;
use odradek_controller_core::controller::{ConfigValidator, ControllerSettings};
use uuid::Uuid;

/// Settings of one controller node. Its directory has been through `format::prepare`.
#[derive(Clone)]
pub struct NodeSettings {
    /// This node.
    pub node_id: NodeId,
    /// The cluster, as `meta.properties` says.
    pub cluster_id: String,
    /// The metadata directory's id, as `meta.properties` says.
    pub directory_id: Uuid,
    /// `metadata.log.dir`.
    pub metadata_log_dir: PathBuf,
    /// The controller listeners of this node, with the address that others reach them at; the first is registered first.
    pub endpoints: Vec<Endpoint>,
    /// Voters and where they are, as configured; what they register later goes before.
    pub voters: Vec<(NodeId, String, u16)>,
    /// `controller.quorum.bootstrap.servers`, for a node that joins.
    pub bootstrap_servers: Vec<String>,
    /// `controller.quorum.auto.join.enable`.
    pub auto_join: bool,
    /// `controller.quorum.election.timeout.ms`.
    pub election_timeout_ms: u64,
    /// `metadata.log.max.record.bytes.between.snapshots`.
    pub snapshot_after_bytes: u64,
    /// `metadata.log.max.snapshot.interval.ms`; `u64::MAX` is never.
    pub snapshot_after_ms: u64,
    /// `controller.quorum.fetch.max.bytes`: most records in one answer to a node that reads metadata, beyond the first.
    pub fetch_bytes_max: usize,
    /// `controller.quorum.request.timeout.ms`: silence of another controller after which its connection counts as dead.
    pub quorum_request_timeout: Duration,
    /// `odradek.fencing.probe.enable`: whether brokers that may be dead are dialled.
    pub fencing_probe: bool,
    /// How long a node that is to vote may take to catch up; one that has not even answered by then is let go.
    pub join_max: Duration,
    /// How long a request may wait for the quorum.
    pub request_timeout: Duration,
    /// What the node was started with, for whoever asks.
    pub config: Arc<ServerConfig>,
    /// The active controller's settings.
    pub controller: ControllerSettings,
    /// The table of configuration keys.
    pub configs: Arc<dyn ConfigValidator>,
}
