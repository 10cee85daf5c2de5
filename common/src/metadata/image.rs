//! The image's types. Maps share structure: cloning an image costs a few reference counts.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use uuid::Uuid;

use crate::ids::{LOST_DIRECTORY, NO_NODE, NodeId};

/// Everything the quorum has agreed on, up to one offset of the metadata log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetadataImage {
    /// Index of the last applied entry of the metadata log; 0 before the first.
    pub offset: i64,
    /// Raft term of that entry.
    pub epoch: i32,
    /// Empty until the first leader wrote it.
    pub cluster_id: Arc<str>,
    /// Finalised feature levels; a feature that is absent has level 0.
    pub features: OrdMap<Arc<str>, i16>,
    /// Registered controllers by node id.
    pub controllers: OrdMap<NodeId, Arc<ControllerImage>>,
    /// Registered brokers by node id, fenced ones too.
    pub brokers: OrdMap<NodeId, Arc<BrokerImage>>,
    /// Topics by name.
    pub topics: OrdMap<Arc<str>, Arc<TopicImage>>,
    /// Names of topics by id.
    pub topic_names: OrdMap<Uuid, Arc<str>>,
    /// Overrides by resource; a resource without overrides is absent.
    pub configs: OrdMap<ConfigResource, OrdMap<Arc<str>, Arc<str>>>,
    /// The first producer id that no broker was given yet.
    pub next_producer_id: i64,
}

/// A voter or observer of the quorum, as it registered.
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerImage {
    /// The node.
    pub node_id: NodeId,
    /// Which metadata directory it runs on.
    pub directory_id: Uuid,
    /// New at every start of the process.
    pub incarnation_id: Uuid,
    /// Its controller listeners.
    pub endpoints: Vec<Endpoint>,
    /// What it can run.
    pub features: Vec<FeatureRange>,
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerImage {
    /// The node.
    pub broker_id: NodeId,
    /// Offset of its registration in the metadata log; a later registration has a larger one.
    pub broker_epoch: i64,
    /// New at every start of the process.
    pub incarnation_id: Uuid,
    /// Its advertised listeners.
    pub endpoints: Vec<Endpoint>,
    /// What it can run.
    pub features: Vec<FeatureRange>,
    /// `broker.rack`.
    pub rack: Option<Arc<str>>,
    /// A fenced broker leads nothing and is in no ISR.
    pub fenced: bool,
    /// It asked to stop: it leads nothing new and leaves the ISRs.
    pub in_controlled_shutdown: bool,
    /// Directory ids of its log directories.
    pub log_dirs: Vec<Uuid>,
}

/// Where a listener can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name.
    pub listener: Arc<str>,
    /// Host name or address.
    pub host: Arc<str>,
    /// TCP port.
    pub port: u16,
    /// How it is spoken to.
    pub security_protocol: SecurityProtocol,
}

/// Kafka's SecurityProtocol, with its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum SecurityProtocol {
    /// Plain TCP.
    #[default]
    Plaintext = 0,
    /// TLS.
    Ssl = 1,
    /// SASL over plain TCP.
    SaslPlaintext = 2,
    /// SASL over TLS.
    SaslSsl = 3,
}

impl SecurityProtocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plaintext, Self::Ssl, Self::SaslPlaintext, Self::SaslSsl];

    /// The protocol of that number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| i32::from(*protocol as i16) == number)
    }

    /// The protocol of that name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }

    /// Kafka's name, as in `listener.security.protocol.map`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }
}

impl fmt::Display for SecurityProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The levels of a feature that a node can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureRange {
    /// For example `metadata.version`.
    pub name: Arc<str>,
    /// Lowest level.
    pub min_level: i16,
    /// Highest level.
    pub max_level: i16,
}

/// A topic; partition `i` is `partitions[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicImage {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; a topic that was deleted and created again has another.
    pub id: Uuid,
    /// By partition index, from 0 without gaps.
    pub partitions: Vec<Arc<PartitionImage>>,
}

/// A partition's replicas and who leads them.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionImage {
    /// In preferred order: the first is the preferred leader.
    pub replicas: Vec<NodeId>,
    /// Log directory of each replica, in the order of `replicas`; nil where unassigned.
    pub directories: Vec<Uuid>,
    /// In-sync replicas.
    pub isr: Vec<NodeId>,
    /// Eligible leader replicas (KIP-966).
    pub elr: Vec<NodeId>,
    /// The last members of ISR and ELR when both are empty (KIP-966).
    pub last_known_elr: Vec<NodeId>,
    /// Replicas that a reassignment adds.
    pub adding_replicas: Vec<NodeId>,
    /// Replicas that a reassignment removes.
    pub removing_replicas: Vec<NodeId>,
    /// [`NO_NODE`] when the partition is offline.
    pub leader: NodeId,
    /// Raised by one at every election.
    pub leader_epoch: i32,
    /// Raised by one at every change.
    pub partition_epoch: i32,
    /// True after an unclean election until the leader says it has recovered.
    pub recovering: bool,
}

impl PartitionImage {
    /// The log directory that is recorded for a broker's replica; nil if none is.
    #[must_use]
    pub fn directory_of(&self, broker: NodeId) -> Uuid {
        let at = self.replicas.iter().position(|replica| *replica == broker);
        at.and_then(|at| self.directories.get(at).copied())
            .unwrap_or_default()
    }
}

impl Default for PartitionImage {
    fn default() -> Self {
        Self {
            replicas: Vec::new(),
            directories: Vec::new(),
            isr: Vec::new(),
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            adding_replicas: Vec::new(),
            removing_replicas: Vec::new(),
            leader: NO_NODE,
            leader_epoch: 0,
            partition_epoch: 0,
            recovering: false,
        }
    }
}

/// What a configuration override belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigResource {
    /// Its kind.
    pub resource_type: ConfigResourceType,
    /// Topic or group name, broker id in decimal; "" for "every broker".
    pub name: Arc<str>,
}

/// Kafka's ConfigResource.Type, with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i8)]
pub enum ConfigResourceType {
    /// A topic.
    Topic = 2,
    /// A broker, or all of them.
    Broker = 4,
    /// A broker's loggers.
    BrokerLogger = 8,
    /// Client metrics subscriptions.
    ClientMetrics = 16,
    /// A group.
    Group = 32,
}

impl ConfigResourceType {
    /// The kind of that number.
    #[must_use]
    pub fn from_number(number: i8) -> Option<Self> {
        match number {
            2 => Some(Self::Topic),
            4 => Some(Self::Broker),
            8 => Some(Self::BrokerLogger),
            16 => Some(Self::ClientMetrics),
            32 => Some(Self::Group),
            _ => None,
        }
    }
}

impl ConfigResource {
    /// The topic of that name.
    #[must_use]
    pub fn topic(name: impl Into<Arc<str>>) -> Self {
        Self {
            resource_type: ConfigResourceType::Topic,
            name: name.into(),
        }
    }

    /// One broker.
    #[must_use]
    pub fn broker(id: NodeId) -> Self {
        Self {
            resource_type: ConfigResourceType::Broker,
            name: id.to_string().into(),
        }
    }

    /// The cluster-wide default of all brokers.
    #[must_use]
    pub fn every_broker() -> Self {
        Self {
            resource_type: ConfigResourceType::Broker,
            name: "".into(),
        }
    }

    /// The group of that name.
    #[must_use]
    pub fn group(name: impl Into<Arc<str>>) -> Self {
        Self {
            resource_type: ConfigResourceType::Group,
            name: name.into(),
        }
    }
}

impl MetadataImage {
    /// The topic of that id.
    #[must_use]
    pub fn topic_by_id(&self, id: &Uuid) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.topic_names.get(id)?)
    }

    /// The topic of that name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(name)
    }

    /// One partition by its topic's name.
    #[must_use]
    pub fn partition(&self, topic: &str, partition: i32) -> Option<&Arc<PartitionImage>> {
        self.topic(topic)?.partition(partition)
    }

    /// True if the broker is registered, unfenced.
    #[must_use]
    pub fn is_alive(&self, broker: NodeId) -> bool {
        self.brokers.get(&broker).is_some_and(|b| !b.fenced)
    }

    /// True if the broker may be elected: registered, unfenced and not about to stop.
    #[must_use]
    pub fn is_active(&self, broker: NodeId) -> bool {
        self.brokers
            .get(&broker)
            .is_some_and(|b| !b.fenced && !b.in_controlled_shutdown)
    }

    /// One override.
    #[must_use]
    pub fn config(&self, resource: &ConfigResource, name: &str) -> Option<&Arc<str>> {
        self.configs.get(resource)?.get(name)
    }

    /// All overrides of a resource, in the order of their names.
    pub fn config_overrides(&self, resource: &ConfigResource) -> impl Iterator<Item = (&str, &str)> {
        self.configs
            .get(resource)
            .into_iter()
            .flat_map(|map| map.iter().map(|(k, v)| (&**k, &**v)))
    }

    /// The finalised level of a feature; 0 if it is not finalised.
    #[must_use]
    pub fn feature_level(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }
}

impl TopicImage {
    /// The partition of that index.
    #[must_use]
    pub fn partition(&self, index: i32) -> Option<&Arc<PartitionImage>> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

impl BrokerImage {
    /// The endpoint of that listener.
    #[must_use]
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints
            .iter()
            .find(|endpoint| &*endpoint.listener == listener)
    }

    /// Whether a replica that is recorded in that log directory may work. Nil is what nobody has recorded yet; a broker that
    /// names no log directories has not told of those that fail.
    #[must_use]
    pub fn has_online(&self, directory: Uuid) -> bool {
        let may_work = self.log_dirs.is_empty() || self.log_dirs.contains(&directory);
        directory.is_nil() || (may_work && directory != LOST_DIRECTORY)
    }
}
