//! What a run of records touched, for publishers that must not look at the whole image.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::image::{ConfigResource, ConfigResourceType, MetadataImage, PartitionImage, TopicImage};
use super::proto::{MetadataRecord, metadata_record::Record};
use super::records::uuid_from;
use crate::ids::NodeId;

/// Receives every change in order, on the thread that applies metadata. It must not block.
pub trait Publisher: Send {
    /// `image` is the state after `delta`.
    fn publish(&mut self, delta: &MetadataDelta, image: &Arc<MetadataImage>);
}

/// The change from one image to a later one.
#[derive(Debug, Default)]
pub struct MetadataDelta {
    /// Topics whose partitions were created or changed, by id; deleted topics are not here.
    pub topics: BTreeMap<Uuid, TopicDelta>,
    /// Topics that are gone: id and last state.
    pub deleted_topics: BTreeMap<Uuid, Arc<TopicImage>>,
    /// Brokers that were registered, changed or unregistered.
    pub brokers: BTreeSet<NodeId>,
    /// Resources whose overrides changed.
    pub configs: BTreeSet<ConfigResource>,
    /// Finalised feature levels changed.
    pub features_changed: bool,
    /// Controllers registered or left.
    pub controllers_changed: bool,
}

/// The changed partitions of one topic.
#[derive(Debug)]
pub struct TopicDelta {
    /// Its state after the change.
    pub topic: Arc<TopicImage>,
    /// By index.
    pub partitions: BTreeMap<i32, PartitionChange>,
}

/// One partition before and after.
#[derive(Clone, Debug)]
pub struct PartitionChange {
    /// Absent if it is new.
    pub before: Option<Arc<PartitionImage>>,
    /// Its state after the change.
    pub after: Arc<PartitionImage>,
}

impl MetadataDelta {
    /// Applies the records to `image` and tells what they touched.
    #[must_use]
    pub fn apply(image: &mut MetadataImage, records: &[MetadataRecord]) -> Self {
        let before = image.clone();
        let mut touched = Touched::default();
        for record in records {
            touched.note(record);
            image.apply(record);
        }
        touched.into_delta(&before, image)
    }

    /// The change that a snapshot brings to a node that held `before`.
    #[must_use]
    pub fn between(before: &MetadataImage, after: &MetadataImage) -> Self {
        let mut touched = Touched {
            features_changed: before.features != after.features,
            controllers_changed: before.controllers != after.controllers,
            ..Default::default()
        };
        for image in [before, after] {
            touched.brokers.extend(image.brokers.keys().copied());
            touched.configs.extend(image.configs.keys().cloned());
            touched.topics.extend(image.topic_names.keys().copied());
            for topic in image.topics.values() {
                touched
                    .partitions
                    .extend((0..).zip(&topic.partitions).map(|(index, _)| (topic.id, index)));
            }
        }
        touched
            .brokers
            .retain(|id| before.brokers.get(id) != after.brokers.get(id));
        touched
            .configs
            .retain(|resource| before.configs.get(resource) != after.configs.get(resource));
        touched.into_delta(before, after)
    }

    /// A removed topic's overrides go with it, without records of their own.
    fn note_removed_overrides(&mut self, topic: Arc<str>, before: &MetadataImage, after: &MetadataImage) {
        let resource = ConfigResource::topic(topic);
        if before.configs.get(&resource) != after.configs.get(&resource) {
            self.configs.insert(resource);
        }
    }

    /// True if nothing was touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
            && self.deleted_topics.is_empty()
            && self.brokers.is_empty()
            && self.configs.is_empty()
            && !self.features_changed
            && !self.controllers_changed
    }
}

/// Names of what records touched, before the states are looked up.
#[derive(Default)]
struct Touched {
    topics: BTreeSet<Uuid>,
    /// Names of topics that are new, by which those that are gone again are known.
    created: BTreeMap<Uuid, Arc<str>>,
    partitions: BTreeSet<(Uuid, i32)>,
    brokers: BTreeSet<NodeId>,
    configs: BTreeSet<ConfigResource>,
    features_changed: bool,
    controllers_changed: bool,
}

impl Touched {
    fn note(&mut self, record: &MetadataRecord) {
        let Some(record) = &record.record else { return };
        match record {
            Record::ClusterId(_) | Record::ProducerIds(_) => {}
            Record::FeatureLevel(_) => self.features_changed = true,
            Record::RegisterController(_) | Record::UnregisterController(_) => {
                self.controllers_changed = true
            }
            Record::RegisterBroker(r) => _ = self.brokers.insert(r.broker_id),
            Record::UnregisterBroker(r) => _ = self.brokers.insert(r.broker_id),
            Record::BrokerChange(r) => _ = self.brokers.insert(r.broker_id),
            Record::Topic(r) => {
                let id = uuid_from(&r.topic_id);
                self.topics.insert(id);
                self.created.insert(id, r.name.as_str().into());
            }
            Record::RemoveTopic(r) => _ = self.topics.insert(uuid_from(&r.topic_id)),
            Record::Partition(r) => self.note_partition(uuid_from(&r.topic_id), r.partition),
            Record::PartitionChange(r) => self.note_partition(uuid_from(&r.topic_id), r.partition),
            Record::Config(r) => {
                let number = i8::try_from(r.resource_type).ok();
                if let Some(resource_type) = number.and_then(ConfigResourceType::from_number) {
                    self.configs.insert(ConfigResource {
                        resource_type,
                        name: r.resource_name.as_str().into(),
                    });
                }
            }
        }
    }

    fn note_partition(&mut self, topic_id: Uuid, partition: i32) {
        self.topics.insert(topic_id);
        self.partitions.insert((topic_id, partition));
    }

    fn into_delta(self, before: &MetadataImage, after: &MetadataImage) -> MetadataDelta {
        let mut delta = MetadataDelta {
            brokers: self.brokers,
            configs: self.configs,
            features_changed: self.features_changed,
            controllers_changed: self.controllers_changed,
            ..Default::default()
        };
        for id in self.topics {
            match (before.topic_by_id(&id), after.topic_by_id(&id)) {
                (Some(gone), None) => {
                    delta.deleted_topics.insert(id, gone.clone());
                    delta.note_removed_overrides(gone.name.clone(), before, after);
                }
                (_, Some(topic)) => {
                    let partitions = BTreeMap::new();
                    delta.topics.insert(
                        id,
                        TopicDelta {
                            topic: topic.clone(),
                            partitions,
                        },
                    );
                }
                (None, None) => {
                    if let Some(name) = self.created.get(&id) {
                        delta.note_removed_overrides(name.clone(), before, after);
                    }
                }
            }
        }
        for (id, index) in self.partitions {
            let Some(topic) = delta.topics.get_mut(&id) else {
                continue;
            };
            let Some(after) = topic.topic.partition(index).cloned() else {
                continue;
            };
            let before = before
                .topic_by_id(&id)
                .and_then(|topic| topic.partition(index))
                .cloned();
            if before.as_ref() != Some(&after) {
                topic.partitions.insert(index, PartitionChange { before, after });
            }
        }
        delta
            .topics
            .retain(|id, topic| !topic.partitions.is_empty() || !before.topic_names.contains_key(id));
        delta
    }
}
