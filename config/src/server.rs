//! The configuration of a node: loading its layers, and the typed settings that the code reads.
//!
//! Layers, best first: dynamic configurations of this broker, dynamic defaults of all brokers, `--override`,
//! environment, file, defaults of the table.

mod checks;
pub(crate) mod layers;
mod load;
mod settings;
mod values;

use std::collections::BTreeMap;

use layers::{Layers, Misfit};
pub use settings::{
    CleanerSettings, ControllerSettings, GroupSettings, ListenerSettings, LogSettings, NodeSettings,
    OdradekSettings, OffsetSettings, QuorumSettings, ReplicaSettings, Roles, SocketSettings,
    TopicCreationSettings, TransactionSettings,
};
pub use values::{Setting, Values};

use crate::error::{ConfigError, Warning};
use crate::topic::TopicConfig;

/// Everything that configures one node.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// Identity, roles and directories.
    pub node: NodeSettings,
    /// Listeners and the addresses that are advertised.
    pub listeners: ListenerSettings,
    /// The metadata quorum.
    pub quorum: QuorumSettings,
    /// The life of brokers as the controller and they themselves see it.
    pub controller: ControllerSettings,
    /// Sockets, connections and requests.
    pub socket: SocketSettings,
    /// Fetching from leaders and the ISR.
    pub replica: ReplicaSettings,
    /// Creation and deletion of topics.
    pub topics: TopicCreationSettings,
    /// What topics get that do not say otherwise.
    pub topic_defaults: TopicConfig,
    /// Chores of the log.
    pub log: LogSettings,
    /// Compaction.
    pub cleaner: CleanerSettings,
    /// Classic groups.
    pub group: GroupSettings,
    /// Committed offsets and their topic.
    pub offsets: OffsetSettings,
    /// Producer state and transactions.
    pub transaction: TransactionSettings,
    /// What only this product has.
    pub odradek: OdradekSettings,
    effective: Values,
    layers: Layers,
}

impl ServerConfig {
    /// Loads a node's configuration from a file (its path and text), environment variables and overrides.
    ///
    /// Without a file the node is a cluster of its own: broker and controller on 127.0.0.1, ports 9092 and 9093,
    /// data in `./data`; environment and overrides still apply. All problems are reported at once.
    pub fn load(
        file: Option<(&str, &str)>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<(ServerConfig, Vec<Warning>), ConfigError> {
        load::load(file, environment, overrides)
    }

    /// The configuration of `odradek server` without a file.
    pub fn single_node_default() -> ServerConfig {
        let (config, _) =
            ServerConfig::load(None, std::iter::empty(), &[]).expect("the defaults fit together");
        config
    }

    /// This configuration with dynamic broker configurations on top: those of this broker, and the defaults of all
    /// brokers. An entry that is not valid (any more), by itself or with the others, is left out with a warning; all others are
    /// in force.
    pub fn with_dynamic(
        &self,
        per_broker: &BTreeMap<String, String>,
        default: &BTreeMap<String, String>,
    ) -> (ServerConfig, Vec<Warning>) {
        let settled = layers::settle(self, per_broker, default);
        let warning = |misfit: &Misfit<'_>| Warning {
            key: misfit.dynamic.name.to_owned(),
            message: format!("{}; the dynamic configuration is ignored", misfit.reason),
            origin: None,
        };
        let warnings = settled.misfits.iter().map(warning).collect();
        (layers::layered(self, &settled), warnings)
    }

    /// Whether the file, the environment, an override or a dynamic configuration gives this key.
    pub fn was_set(&self, key: &str) -> bool {
        self.effective
            .0
            .get(key)
            .is_some_and(|setting| setting.origin != Some(crate::error::Origin::SingleNode))
    }

    /// Where a key was given, as file and line, environment variable or override; `None` if it has its default or a dynamic
    /// configuration.
    pub fn origin(&self, key: &str) -> Option<String> {
        let origin = self.effective.0.get(key)?.origin.as_ref()?;
        Some(origin.to_string())
    }

    /// The replication factor of the topic of committed offsets: what was set, else at most as many replicas as brokers
    /// are registered, so that a small cluster can carry the topic.
    pub fn offsets_replication_factor(&self, registered_brokers: usize) -> i16 {
        let configured = self.offsets.topic_replication_factor;
        self.internal_replication_factor("offsets.topic.replication.factor", configured, registered_brokers)
    }

    /// The replication factor of the topic of transactions, by the same rule.
    pub fn transactions_replication_factor(&self, registered_brokers: usize) -> i16 {
        let configured = self.transaction.state_log_replication_factor;
        self.internal_replication_factor(
            "transaction.state.log.replication.factor",
            configured,
            registered_brokers,
        )
    }

    fn internal_replication_factor(&self, key: &str, configured: i16, registered_brokers: usize) -> i16 {
        if self.was_set(key) {
            return configured;
        }
        configured
            .min(i16::try_from(registered_brokers).unwrap_or(i16::MAX))
            .max(1)
    }

    /// min.insync.replicas of the topic of transactions: what was set, else no more than it has replicas.
    pub fn transactions_min_isr(&self, replication_factor: i16) -> i32 {
        let configured = self.transaction.state_log_min_isr;
        if self.was_set("transaction.state.log.min.isr") {
            return configured;
        }
        configured.min(i32::from(replication_factor))
    }

    /// The text of any broker key, given or defaulted; `None` when it has neither.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.effective.text_of_any(key)
    }

    /// The text of a key for one listener: `listener.name.<listener>.<key>` before `<key>`.
    pub fn listener_text(&self, listener: &str, key: &str) -> Option<&str> {
        let prefixed = format!("listener.name.{}.{key}", listener.to_ascii_lowercase());
        self.effective.given(&prefixed).or_else(|| self.text(key))
    }

    pub(crate) fn values(&self) -> &Values {
        &self.effective
    }

    pub(crate) fn layers(&self) -> &Layers {
        &self.layers
    }

    fn from_values(effective: Values, layers: Layers) -> Result<ServerConfig, ConfigError> {
        let (node, listeners, quorum) = checks::structured(&effective)?;
        checks::cross_check(&effective, &node, &listeners, &quorum)?;
        Ok(ServerConfig {
            node,
            listeners,
            quorum,
            controller: ControllerSettings::read(&effective),
            socket: SocketSettings::read(&effective),
            replica: ReplicaSettings::read(&effective),
            topics: TopicCreationSettings::read(&effective),
            topic_defaults: TopicConfig::defaults(&effective),
            log: LogSettings::read(&effective),
            cleaner: CleanerSettings::read(&effective),
            group: GroupSettings::read(&effective),
            offsets: OffsetSettings::read(&effective),
            transaction: TransactionSettings::read(&effective),
            odradek: OdradekSettings::read(&effective),
            effective,
            layers,
        })
    }
}

#[cfg(test)]
mod tests;
