//! Laws of the metadata image: records rebuild it, and both ways to a delta agree.

use std::collections::BTreeSet;

use bytes::Bytes;
use odradek_common::metadata::proto::{
    BrokerChangeRecord, BytesList, ClusterIdRecord, FeatureLevelRecord, Int32List, PartitionChangeRecord,
    ProducerIdsRecord, RemoveTopicRecord, TopicRecord, UnregisterBrokerRecord, UnregisterControllerRecord,
};
use odradek_common::metadata::{
    BrokerImage, ConfigResource, ControllerImage, Endpoint, FeatureRange, MetadataDelta, MetadataImage,
    MetadataRecord, PartitionImage, Record, SecurityProtocol, batch_bytes, batch_from_bytes, config_record,
    partition_record, record,
};
use proptest::prelude::*;
use uuid::Uuid;

/// What to do, with small numbers that are turned into records that fit the image as it is then.
#[derive(Clone, Debug)]
enum Step {
    ClusterId(u8),
    Feature(u8, i32),
    Controller(i32, u128),
    ForgetController(i32),
    Broker(i32, u128, bool),
    ForgetBroker(i32),
    ChangeBroker(i32, Option<bool>, Option<bool>),
    CreateTopic(u8),
    RemoveTopic(u8),
    CreatePartition(u8, Vec<i32>),
    ReplacePartition(u8, Vec<i32>),
    ChangePartition(u8, u8, i32, Vec<i32>),
    Config(u8, u8, Option<u8>),
    ProducerIds(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..4i32;
    let topic = || 0..3u8;
    let nodes = || proptest::sample::subsequence(vec![0, 1, 2, 3], 0..4);
    let flag = || proptest::option::of(any::<bool>());
    prop_oneof![
        1 => any::<u8>().prop_map(Step::ClusterId),
        2 => (0..3u8, 0..3i32).prop_map(|(feature, level)| Step::Feature(feature, level)),
        2 => (node(), 1..5u128).prop_map(|(id, number)| Step::Controller(id, number)),
        1 => node().prop_map(Step::ForgetController),
        4 => (node(), 1..5u128, any::<bool>()).prop_map(|(id, number, fenced)| Step::Broker(id, number, fenced)),
        1 => node().prop_map(Step::ForgetBroker),
        3 => (node(), flag(), flag()).prop_map(|(id, fenced, stopping)| Step::ChangeBroker(id, fenced, stopping)),
        4 => topic().prop_map(Step::CreateTopic),
        1 => topic().prop_map(Step::RemoveTopic),
        5 => (topic(), nodes()).prop_map(|(topic, nodes)| Step::CreatePartition(topic, nodes)),
        1 => (topic(), nodes()).prop_map(|(topic, nodes)| Step::ReplacePartition(topic, nodes)),
        6 => (topic(), any::<u8>(), -1..4i32, nodes())
            .prop_map(|(topic, fields, leader, nodes)| Step::ChangePartition(topic, fields, leader, nodes)),
        5 => (0..4u8, 0..3u8, proptest::option::of(any::<u8>()))
            .prop_map(|(resource, key, value)| Step::Config(resource, key, value)),
        1 => any::<i64>().prop_map(Step::ProducerIds),
    ]
}

fn bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn name(topic: u8) -> String {
    format!("topic-{topic}")
}

fn features() -> Vec<FeatureRange> {
    vec![FeatureRange {
        name: "metadata.version".into(),
        min_level: 1,
        max_level: 30,
    }]
}

fn endpoints(node: i32) -> Vec<Endpoint> {
    let port = 9_092 + u16::try_from(node).expect("node numbers are small");
    let security_protocol = SecurityProtocol::SaslSsl;
    vec![Endpoint {
        listener: "PLAINTEXT".into(),
        host: "localhost".into(),
        port,
        security_protocol,
    }]
}

fn partition(replicas: Vec<i32>) -> PartitionImage {
    PartitionImage {
        directories: replicas
            .iter()
            .map(|id| Uuid::from_u128(u128::try_from(*id).unwrap_or(0)))
            .collect(),
        leader: replicas.first().copied().unwrap_or(-1),
        isr: replicas.clone(),
        adding_replicas: replicas.iter().copied().take(1).collect(),
        replicas,
        ..Default::default()
    }
}

/// Topic ids are new each time, as the controller makes them.
fn records_of(image: &MetadataImage, step: &Step, number: u128) -> Option<MetadataRecord> {
    Some(match step.clone() {
        Step::ClusterId(id) => record(Record::ClusterId(ClusterIdRecord {
            cluster_id: format!("cluster-{id}"),
        })),
        Step::Feature(feature, level) => record(Record::FeatureLevel(FeatureLevelRecord {
            name: format!("feature-{feature}"),
            level,
        })),
        Step::Controller(node_id, incarnation) => ControllerImage {
            node_id,
            directory_id: Uuid::from_u128(7),
            incarnation_id: Uuid::from_u128(incarnation),
            endpoints: endpoints(node_id),
            features: features(),
        }
        .to_record(),
        Step::ForgetController(node_id) => record(Record::UnregisterController(UnregisterControllerRecord {
            node_id,
        })),
        Step::Broker(broker_id, incarnation, fenced) => BrokerImage {
            broker_id,
            broker_epoch: i64::try_from(number).expect("few steps"),
            incarnation_id: Uuid::from_u128(incarnation),
            endpoints: endpoints(broker_id),
            features: features(),
            rack: fenced.then(|| "rack".into()),
            fenced,
            in_controlled_shutdown: incarnation == 1,
            log_dirs: vec![Uuid::from_u128(incarnation)],
        }
        .to_record(),
        Step::ForgetBroker(broker_id) => record(Record::UnregisterBroker(UnregisterBrokerRecord {
            broker_id,
            broker_epoch: 0,
        })),
        Step::ChangeBroker(broker_id, fenced, in_controlled_shutdown) => {
            let broker_epoch = image.brokers.get(&broker_id)?.broker_epoch;
            let change = BrokerChangeRecord {
                broker_id,
                broker_epoch,
                fenced,
                in_controlled_shutdown,
            };
            record(Record::BrokerChange(change))
        }
        Step::Config(resource, key, value) => {
            let resource = match resource {
                0 => ConfigResource::every_broker(),
                1 => ConfigResource::broker(1),
                2 => ConfigResource::group("g"),
                _ => ConfigResource::topic(name(0)),
            };
            config_record(
                &resource,
                &format!("key-{key}"),
                value.map(|value| value.to_string()).as_deref(),
            )
        }
        Step::ProducerIds(next_producer_id) => record(Record::ProducerIds(ProducerIdsRecord {
            broker_id: 0,
            broker_epoch: 0,
            next_producer_id,
        })),
        of_topic => return topic_record_of(image, of_topic, number),
    })
}

fn topic_record_of(image: &MetadataImage, step: Step, number: u128) -> Option<MetadataRecord> {
    Some(match step {
        Step::CreateTopic(topic) if image.topic(&name(topic)).is_none() => {
            let topic_id = bytes(Uuid::from_u128(number << 32));
            record(Record::Topic(TopicRecord {
                name: name(topic),
                topic_id,
            }))
        }
        Step::RemoveTopic(topic) => {
            let topic_id = bytes(image.topic(&name(topic))?.id);
            record(Record::RemoveTopic(RemoveTopicRecord { topic_id }))
        }
        Step::CreatePartition(topic, replicas) => {
            let topic = image.topic(&name(topic))?;
            let index = i32::try_from(topic.partitions.len()).expect("few partitions");
            partition_record(topic.id, index, &partition(replicas))
        }
        Step::ReplacePartition(topic, replicas) => {
            let topic = image.topic(&name(topic))?;
            topic.partition(0)?;
            partition_record(topic.id, 0, &partition(replicas))
        }
        Step::ChangePartition(topic, fields, leader, nodes) => {
            let topic = image.topic(&name(topic))?;
            topic.partition(0)?;
            let list = |bit: u8| {
                (fields >> bit & 1 == 1).then(|| Int32List {
                    values: nodes.clone(),
                })
            };
            record(Record::PartitionChange(PartitionChangeRecord {
                topic_id: bytes(topic.id),
                partition: 0,
                isr: list(0),
                leader: (fields & 2 != 0).then_some(leader),
                replicas: list(2),
                adding_replicas: list(3),
                removing_replicas: list(4),
                leader_recovery_state: (fields & 32 != 0).then_some(leader & 1),
                elr: list(6),
                last_known_elr: list(7),
                directories: list(2).map(|_| BytesList {
                    values: vec![bytes(Uuid::from_u128(3)); nodes.len()],
                }),
            }))
        }
        _ => return None,
    })
}

/// Records that fit, one after another, on top of `image`.
fn records(image: &MetadataImage, steps: &[Step], first: u128) -> Vec<MetadataRecord> {
    let mut image = image.clone();
    let mut records = Vec::new();
    for (number, step) in (first..).zip(steps) {
        if let Some(record) = records_of(&image, step, number) {
            image.apply(&record);
            records.push(record);
        }
    }
    records
}

fn applied(image: &MetadataImage, records: &[MetadataRecord]) -> MetadataImage {
    let mut image = image.clone();
    records.iter().for_each(|record| image.apply(record));
    image
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn records_rebuild_the_image(steps in proptest::collection::vec(step(), 0..60)) {
        let empty = MetadataImage::default();
        let image = applied(&empty, &records(&empty, &steps, 1));
        let rebuilt = image.to_records();
        prop_assert_eq!(&applied(&empty, &rebuilt), &image);
        let carried = batch_from_bytes(&batch_bytes(rebuilt.clone())).expect("what was encoded is decoded");
        prop_assert_eq!(carried, rebuilt);
    }

    #[test]
    fn both_ways_to_a_delta_agree(
        earlier in proptest::collection::vec(step(), 0..40),
        later in proptest::collection::vec(step(), 0..40),
    ) {
        let before = applied(&MetadataImage::default(), &records(&MetadataImage::default(), &earlier, 1));
        let records = records(&before, &later, 1_000);
        let mut after = before.clone();
        let of_records = MetadataDelta::apply(&mut after, &records);
        prop_assert_eq!(&after, &applied(&before, &records));
        let of_images = MetadataDelta::between(&before, &after);
        prop_assert_eq!(format!("{:?}", of_records.topics), format!("{:?}", of_images.topics));
        prop_assert_eq!(&of_records.deleted_topics, &of_images.deleted_topics);
        // A record that sets what is set already touches a broker or a resource, and changes nothing.
        let changed: BTreeSet<i32> =
            of_records.brokers.iter().copied().filter(|id| before.brokers.get(id) != after.brokers.get(id)).collect();
        prop_assert_eq!(&changed, &of_images.brokers);
        let changed: BTreeSet<ConfigResource> =
            of_records.configs.iter().filter(|r| before.configs.get(*r) != after.configs.get(*r)).cloned().collect();
        prop_assert_eq!(&changed, &of_images.configs);
        prop_assert!(of_records.features_changed || !of_images.features_changed);
        prop_assert!(of_records.controllers_changed || !of_images.controllers_changed);
    }

    #[test]
    fn no_change_is_an_empty_delta(steps in proptest::collection::vec(step(), 0..60)) {
        let image = applied(&MetadataImage::default(), &records(&MetadataImage::default(), &steps, 1));
        prop_assert!(MetadataDelta::between(&image, &image).is_empty());
    }
}

#[test]
fn a_deleted_topic_takes_its_overrides_along() {
    let mut image = MetadataImage::default();
    let id = Uuid::from_u128(9);
    image.apply(&record(Record::Topic(TopicRecord {
        name: "t".to_owned(),
        topic_id: bytes(id),
    })));
    image.apply(&config_record(
        &ConfigResource::topic("t"),
        "retention.ms",
        Some("1"),
    ));
    let removed = record(Record::RemoveTopic(RemoveTopicRecord { topic_id: bytes(id) }));
    let delta = MetadataDelta::apply(&mut image, &[removed]);
    assert_eq!(image, MetadataImage::default());
    assert!(delta.deleted_topics.contains_key(&id));
    assert!(
        delta.configs.contains(&ConfigResource::topic("t")),
        "whoever reads configs hears of it"
    );
}

#[test]
fn an_elected_leader_raises_its_epoch_also_when_it_was_the_leader() {
    let mut partition = PartitionImage {
        leader: 1,
        ..Default::default()
    };
    partition.apply_change(&PartitionChangeRecord {
        leader: Some(1),
        ..Default::default()
    });
    assert_eq!((partition.leader_epoch, partition.partition_epoch), (1, 1));
    partition.apply_change(&PartitionChangeRecord::default());
    assert_eq!((partition.leader_epoch, partition.partition_epoch), (1, 2));
}
