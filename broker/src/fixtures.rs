//! Metadata for unit tests, and a broker that has no cluster but what a test tells it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use odradek_broker_log::directory::{LogDirectory, LogDirectoryOptions};
use odradek_broker_log::disk::{Disk, Space, SystemDisk};
use odradek_common::ids::NodeId;
use odradek_common::metadata::{
    BrokerImage, Endpoint, MetadataDelta, MetadataImage, PartitionImage, SecurityProtocol, TopicImage,
};
use odradek_config::ServerConfig;
use slog::Logger;
use uuid::Uuid;

use crate::broker::Broker;
use crate::data_directory::DataDirectory;
use crate::replicas::RoleEvent;

/// A broker that can be reached on one listener, at `broker-<id>:9092`.
pub fn broker(id: NodeId, listener: &str, fenced: bool) -> Arc<BrokerImage> {
    let endpoint = Endpoint {
        listener: listener.into(),
        host: format!("broker-{id}").into(),
        port: 9092,
        security_protocol: SecurityProtocol::Plaintext,
    };
    Arc::new(BrokerImage {
        broker_id: id,
        broker_epoch: 1,
        incarnation_id: Uuid::nil(),
        endpoints: vec![endpoint],
        features: Vec::new(),
        rack: None,
        fenced,
        in_controlled_shutdown: false,
        log_dirs: Vec::new(),
    })
}

/// Adds a topic of one partition.
pub fn add_topic(image: &mut MetadataImage, name: &str, partition: PartitionImage) {
    let topic = TopicImage {
        name: name.into(),
        id: Uuid::new_v4(),
        partitions: vec![Arc::new(partition)],
    };
    image.topic_names.insert(topic.id, name.into());
    image.topics.insert(name.into(), Arc::new(topic));
}

/// A broker, and the metadata that its test writes by hand.
pub struct LoneBroker {
    pub broker: Arc<Broker>,
    pub image: MetadataImage,
}

impl LoneBroker {
    pub const NODE: NodeId = 1;

    /// With one log directory. Needs a runtime.
    pub fn at(folder: &Path) -> Self {
        let overrides = [("node.id".to_owned(), Self::NODE.to_string())];
        let (config, _) = ServerConfig::load(None, std::iter::empty(), &overrides).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let logs = LogDirectory::open(folder, LogDirectoryOptions::default(), log.clone()).unwrap();
        let directory = DataDirectory::new(Uuid::from_u128(1), logs);
        Self {
            broker: Broker::new(&Arc::new(config), &log, vec![directory], None),
            image: MetadataImage::default(),
        }
    }

    /// A topic of one partition, here and at its leader: what has changed, and what the replicas made of it.
    pub fn create(&mut self, name: &str, leader: NodeId) -> (MetadataDelta, Vec<RoleEvent>) {
        let partition = PartitionImage {
            replicas: vec![Self::NODE, leader],
            isr: vec![leader],
            leader,
            ..PartitionImage::default()
        };
        self.host(name, partition)
    }

    /// A topic of this partition: what has changed, and what the replicas made of it.
    pub fn host(&mut self, name: &str, partition: PartitionImage) -> (MetadataDelta, Vec<RoleEvent>) {
        self.change(|image| add_topic(image, name, partition))
    }

    /// The topic goes.
    pub fn delete(&mut self, name: &str) {
        self.change(|image| {
            let topic = image.topics.remove(name).unwrap();
            image.topic_names.remove(&topic.id);
        });
    }

    fn change(&mut self, change: impl FnOnce(&mut MetadataImage)) -> (MetadataDelta, Vec<RoleEvent>) {
        let before = self.image.clone();
        change(&mut self.image);
        let delta = MetadataDelta::between(&before, &self.image);
        let config = self.broker.config.load();
        let events = self.broker.replicas.publish(&delta, &self.image, &config, true);
        (delta, events)
    }
}

/// Of a disk that is full,
pub const TOTAL_BYTES: u64 = 1_000_000;
/// and what is free of it: as much as is to stay so.
pub const FREE_BYTES: u64 = 1_000;

#[derive(Debug)]
struct FullDisk;

impl Disk for FullDisk {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync_data(file)
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync_all(file)
    }

    fn space(&self, _directory: &Path) -> io::Result<Space> {
        Ok(Space {
            free_bytes: FREE_BYTES,
            total_bytes: TOTAL_BYTES,
        })
    }
}

/// A log directory to which produces are refused.
pub fn on_full_disk(path: &Path) -> DataDirectory {
    let options = LogDirectoryOptions {
        disk: Arc::new(FullDisk),
        reserve_bytes: FREE_BYTES,
        ..LogDirectoryOptions::default()
    };
    let log = Logger::root(slog::Discard, slog::o!());
    let logs = LogDirectory::open(path, options, log).unwrap();
    DataDirectory::new(Uuid::from_u128(1), logs)
}
