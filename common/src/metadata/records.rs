//! Making and carrying records: bytes of a batch, records from images, images as records.

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use super::image::{
    BrokerImage, ConfigResource, ControllerImage, Endpoint, FeatureRange, MetadataImage, PartitionImage,
};
use super::proto::{
    self, ClusterIdRecord, ConfigRecord, FeatureLevelRecord, MetadataBatch, MetadataRecord,
    PartitionChangeRecord, PartitionRecord, ProducerIdsRecord, RegisterBrokerRecord,
    RegisterControllerRecord, TopicRecord, metadata_record::Record,
};
use crate::ids::NO_NODE;

/// Wraps one record.
#[must_use]
pub fn record(record: Record) -> MetadataRecord {
    MetadataRecord { record: Some(record) }
}

/// The bytes of a batch, as a raft entry holds them.
#[must_use]
pub fn batch_bytes(records: Vec<MetadataRecord>) -> Bytes {
    MetadataBatch { records }.encode_to_vec().into()
}

/// The records of a raft entry.
///
/// # Errors
/// The bytes are no batch.
pub fn batch_from_bytes(bytes: &[u8]) -> Result<Vec<MetadataRecord>, prost::DecodeError> {
    MetadataBatch::decode(bytes).map(|batch| batch.records)
}

/// The record that creates this partition, or replaces it whole.
#[must_use]
pub fn partition_record(topic_id: Uuid, index: i32, partition: &PartitionImage) -> MetadataRecord {
    record(Record::Partition(PartitionRecord {
        topic_id: uuid_bytes(topic_id),
        partition: index,
        replicas: partition.replicas.clone(),
        isr: partition.isr.clone(),
        adding_replicas: partition.adding_replicas.clone(),
        removing_replicas: partition.removing_replicas.clone(),
        elr: partition.elr.clone(),
        last_known_elr: partition.last_known_elr.clone(),
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        leader_recovery_state: i32::from(partition.recovering),
        directories: partition.directories.iter().copied().map(uuid_bytes).collect(),
    }))
}

/// An empty change of one partition, to be filled in.
#[must_use]
pub fn partition_change(topic_id: Uuid, index: i32) -> PartitionChangeRecord {
    PartitionChangeRecord {
        topic_id: uuid_bytes(topic_id),
        partition: index,
        ..Default::default()
    }
}

pub(super) fn uuid_bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// The id of 16 bytes; anything else was not written by this code.
pub(super) fn uuid_from(bytes: &[u8]) -> Uuid {
    Uuid::from_slice(bytes).expect("ids in metadata records have 16 bytes")
}

fn endpoint_record(endpoint: &Endpoint) -> proto::Endpoint {
    proto::Endpoint {
        listener: endpoint.listener.to_string(),
        host: endpoint.host.to_string(),
        port: u32::from(endpoint.port),
        security_protocol: endpoint.security_protocol as i32,
    }
}

fn feature_record(range: &FeatureRange) -> proto::SupportedFeature {
    proto::SupportedFeature {
        name: range.name.to_string(),
        min_level: i32::from(range.min_level),
        max_level: i32::from(range.max_level),
    }
}

impl ControllerImage {
    /// The record that registers this controller.
    #[must_use]
    pub fn to_record(&self) -> MetadataRecord {
        record(Record::RegisterController(RegisterControllerRecord {
            node_id: self.node_id,
            directory_id: uuid_bytes(self.directory_id),
            incarnation_id: uuid_bytes(self.incarnation_id),
            endpoints: self.endpoints.iter().map(endpoint_record).collect(),
            features: self.features.iter().map(feature_record).collect(),
        }))
    }
}

impl BrokerImage {
    /// The record that registers this broker.
    #[must_use]
    pub fn to_record(&self) -> MetadataRecord {
        record(Record::RegisterBroker(RegisterBrokerRecord {
            broker_id: self.broker_id,
            broker_epoch: self.broker_epoch,
            incarnation_id: uuid_bytes(self.incarnation_id),
            endpoints: self.endpoints.iter().map(endpoint_record).collect(),
            features: self.features.iter().map(feature_record).collect(),
            rack: self.rack.as_ref().map(ToString::to_string),
            fenced: self.fenced,
            in_controlled_shutdown: self.in_controlled_shutdown,
            log_dirs: self.log_dirs.iter().copied().map(uuid_bytes).collect(),
        }))
    }
}

/// The record that sets or removes an override.
#[must_use]
pub fn config_record(resource: &ConfigResource, name: &str, value: Option<&str>) -> MetadataRecord {
    record(Record::Config(ConfigRecord {
        resource_type: resource.resource_type as i32,
        resource_name: resource.name.to_string(),
        name: name.to_owned(),
        value: value.map(str::to_owned),
    }))
}

impl MetadataImage {
    /// Records that build this image from an empty one. `offset` and `epoch` travel beside them.
    #[must_use]
    pub fn to_records(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        if !self.cluster_id.is_empty() {
            let cluster_id = self.cluster_id.to_string();
            records.push(record(Record::ClusterId(ClusterIdRecord { cluster_id })));
        }
        records.extend(self.features.iter().map(|(name, level)| {
            record(Record::FeatureLevel(FeatureLevelRecord {
                name: name.to_string(),
                level: i32::from(*level),
            }))
        }));
        records.extend(self.controllers.values().map(|controller| controller.to_record()));
        records.extend(self.brokers.values().map(|broker| broker.to_record()));
        for topic in self.topics.values() {
            let topic_id = uuid_bytes(topic.id);
            records.push(record(Record::Topic(TopicRecord {
                name: topic.name.to_string(),
                topic_id,
            })));
            records.extend(
                (0..)
                    .zip(&topic.partitions)
                    .map(|(index, p)| partition_record(topic.id, index, p)),
            );
        }
        for (resource, overrides) in &self.configs {
            records.extend(
                overrides
                    .iter()
                    .map(|(name, value)| config_record(resource, name, Some(value))),
            );
        }
        if self.next_producer_id != 0 {
            records.push(record(Record::ProducerIds(ProducerIdsRecord {
                broker_id: NO_NODE,
                broker_epoch: -1,
                next_producer_id: self.next_producer_id,
            })));
        }
        records
    }
}
