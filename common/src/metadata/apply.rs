//! What each record does to the image.

use std::sync::Arc;

use uuid::Uuid;

use super::image::{
    BrokerImage, ConfigResource, ConfigResourceType, ControllerImage, Endpoint, FeatureRange, MetadataImage,
    PartitionImage, SecurityProtocol, TopicImage,
};
use super::proto::{
    self, BrokerChangeRecord, ConfigRecord, FeatureLevelRecord, MetadataRecord, PartitionChangeRecord,
    PartitionRecord, RegisterBrokerRecord, RegisterControllerRecord, TopicRecord, metadata_record::Record,
};
use super::records::uuid_from;

impl MetadataImage {
    /// Applies one record. Records come from this code through the quorum, so one that does not fit the image is a broken
    /// invariant and ends the process; an empty record (of a later version) changes nothing.
    pub fn apply(&mut self, record: &MetadataRecord) {
        let Some(record) = &record.record else { return };
        match record {
            Record::ClusterId(r) => self.cluster_id = r.cluster_id.as_str().into(),
            Record::FeatureLevel(r) => self.apply_feature_level(r),
            Record::RegisterController(r) => {
                self.controllers.insert(r.node_id, Arc::new(controller_image(r)));
            }
            Record::UnregisterController(r) => {
                self.controllers.remove(&r.node_id);
            }
            Record::RegisterBroker(r) => {
                self.brokers.insert(r.broker_id, Arc::new(broker_image(r)));
            }
            Record::UnregisterBroker(r) => {
                self.brokers.remove(&r.broker_id);
            }
            Record::BrokerChange(r) => self.apply_broker_change(r),
            Record::Topic(r) => self.apply_topic(r),
            Record::RemoveTopic(r) => self.apply_remove_topic(uuid_from(&r.topic_id)),
            Record::Partition(r) => self.apply_partition(r),
            Record::PartitionChange(r) => self.apply_partition_change(r),
            Record::Config(r) => self.apply_config(r),
            Record::ProducerIds(r) => self.next_producer_id = r.next_producer_id,
        }
    }

    fn apply_feature_level(&mut self, r: &FeatureLevelRecord) {
        if r.level == 0 {
            self.features.remove(r.name.as_str());
        } else {
            self.features.insert(r.name.as_str().into(), level(r.level));
        }
    }

    fn apply_broker_change(&mut self, r: &BrokerChangeRecord) {
        let broker = self
            .brokers
            .get_mut(&r.broker_id)
            .expect("a changed broker is registered");
        let broker = Arc::make_mut(broker);
        if let Some(fenced) = r.fenced {
            broker.fenced = fenced;
        }
        if let Some(in_controlled_shutdown) = r.in_controlled_shutdown {
            broker.in_controlled_shutdown = in_controlled_shutdown;
        }
    }

    fn apply_topic(&mut self, r: &TopicRecord) {
        let name: Arc<str> = r.name.as_str().into();
        let id = uuid_from(&r.topic_id);
        self.topic_names.insert(id, name.clone());
        self.topics.insert(
            name.clone(),
            Arc::new(TopicImage {
                name,
                id,
                partitions: Vec::new(),
            }),
        );
    }

    fn apply_remove_topic(&mut self, id: Uuid) {
        let name = self.topic_names.remove(&id).expect("a removed topic exists");
        self.topics.remove(&name);
        self.configs.remove(&ConfigResource::topic(name));
    }

    fn topic_mut(&mut self, id: Uuid) -> &mut TopicImage {
        let name = self.topic_names.get(&id).expect("a partition's topic exists");
        Arc::make_mut(
            self.topics
                .get_mut(name)
                .expect("a topic's id and name are kept together"),
        )
    }

    fn apply_partition(&mut self, r: &PartitionRecord) {
        let index = usize::try_from(r.partition).expect("partition indexes are not negative");
        let topic = self.topic_mut(uuid_from(&r.topic_id));
        let partition = Arc::new(partition_image(r));
        // Invariant: partitions are created in the order of their indexes, without gaps.
        assert!(
            index <= topic.partitions.len(),
            "partition {index} of {} leaves a gap",
            topic.name
        );
        if index == topic.partitions.len() {
            topic.partitions.push(partition);
        } else {
            topic.partitions[index] = partition;
        }
    }

    fn apply_partition_change(&mut self, r: &PartitionChangeRecord) {
        let index = usize::try_from(r.partition).expect("partition indexes are not negative");
        let topic = self.topic_mut(uuid_from(&r.topic_id));
        Arc::make_mut(
            topic
                .partitions
                .get_mut(index)
                .expect("a changed partition exists"),
        )
        .apply_change(r);
    }

    fn apply_config(&mut self, r: &ConfigRecord) {
        let number = i8::try_from(r.resource_type).ok();
        let Some(resource_type) = number.and_then(ConfigResourceType::from_number) else {
            return;
        };
        let resource = ConfigResource {
            resource_type,
            name: r.resource_name.as_str().into(),
        };
        let overrides = self.configs.entry(resource.clone()).or_default();
        match &r.value {
            Some(value) => overrides.insert(r.name.as_str().into(), value.as_str().into()),
            None => overrides.remove(r.name.as_str()),
        };
        if overrides.is_empty() {
            self.configs.remove(&resource);
        }
    }
}

impl PartitionImage {
    /// What a change makes of this partition.
    pub fn apply_change(&mut self, r: &PartitionChangeRecord) {
        if let Some(list) = &r.isr {
            self.isr.clone_from(&list.values);
        }
        if let Some(leader) = r.leader {
            self.leader = leader;
            self.leader_epoch += 1;
        }
        if let Some(list) = &r.replicas {
            self.replicas.clone_from(&list.values);
        }
        if let Some(list) = &r.adding_replicas {
            self.adding_replicas.clone_from(&list.values);
        }
        if let Some(list) = &r.removing_replicas {
            self.removing_replicas.clone_from(&list.values);
        }
        if let Some(state) = r.leader_recovery_state {
            self.recovering = state != 0;
        }
        if let Some(list) = &r.elr {
            self.elr.clone_from(&list.values);
        }
        if let Some(list) = &r.last_known_elr {
            self.last_known_elr.clone_from(&list.values);
        }
        if let Some(list) = &r.directories {
            self.directories = list.values.iter().map(|id| uuid_from(id)).collect();
        }
        self.partition_epoch += 1;
    }
}

fn partition_image(r: &PartitionRecord) -> PartitionImage {
    PartitionImage {
        replicas: r.replicas.clone(),
        directories: r.directories.iter().map(|id| uuid_from(id)).collect(),
        isr: r.isr.clone(),
        elr: r.elr.clone(),
        last_known_elr: r.last_known_elr.clone(),
        adding_replicas: r.adding_replicas.clone(),
        removing_replicas: r.removing_replicas.clone(),
        leader: r.leader,
        leader_epoch: r.leader_epoch,
        partition_epoch: r.partition_epoch,
        recovering: r.leader_recovery_state != 0,
    }
}

fn controller_image(r: &RegisterControllerRecord) -> ControllerImage {
    ControllerImage {
        node_id: r.node_id,
        directory_id: uuid_from(&r.directory_id),
        incarnation_id: uuid_from(&r.incarnation_id),
        endpoints: r.endpoints.iter().map(endpoint_image).collect(),
        features: r.features.iter().map(feature_range).collect(),
    }
}

fn broker_image(r: &RegisterBrokerRecord) -> BrokerImage {
    BrokerImage {
        broker_id: r.broker_id,
        broker_epoch: r.broker_epoch,
        incarnation_id: uuid_from(&r.incarnation_id),
        endpoints: r.endpoints.iter().map(endpoint_image).collect(),
        features: r.features.iter().map(feature_range).collect(),
        rack: r.rack.as_deref().map(Into::into),
        fenced: r.fenced,
        in_controlled_shutdown: r.in_controlled_shutdown,
        log_dirs: r.log_dirs.iter().map(|id| uuid_from(id)).collect(),
    }
}

fn endpoint_image(r: &proto::Endpoint) -> Endpoint {
    Endpoint {
        listener: r.listener.as_str().into(),
        host: r.host.as_str().into(),
        port: u16::try_from(r.port).expect("ports in metadata records fit 16 bits"),
        security_protocol: SecurityProtocol::from_number(r.security_protocol).unwrap_or_default(),
    }
}

fn feature_range(r: &proto::SupportedFeature) -> FeatureRange {
    FeatureRange {
        name: r.name.as_str().into(),
        min_level: level(r.min_level),
        max_level: level(r.max_level),
    }
}

fn level(number: i32) -> i16 {
    i16::try_from(number).expect("feature levels fit 16 bits")
}
