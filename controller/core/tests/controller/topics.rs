//! CreateTopics, DeleteTopics and CreatePartitions.

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::CreatableTopicConfig;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest};
use odradek_common::metadata::ConfigResource;
use odradek_controller_core::controller::ControllerSettings;
use uuid::Uuid;

use super::harness::{World, assigned, name, sized, text};

fn config(key: &str, value: Option<&str>) -> CreatableTopicConfig {
    CreatableTopicConfig::default()
        .with_name(text(key))
        .with_value(value.map(text))
}

#[test]
fn minus_one_asks_for_the_defaults() {
    let settings = ControllerSettings {
        num_partitions: 4,
        default_replication_factor: 2,
        ..Default::default()
    };
    let mut world = World::with(settings).brokers(3);
    let result = world.create(sized("t", -1, -1));
    assert_eq!(
        (
            result.error_code,
            result.num_partitions,
            result.replication_factor
        ),
        (0, 4, 2)
    );
    let topic = world.topic("t");
    assert_eq!(topic.id, result.topic_id);
    assert_eq!(topic.partitions.len(), 4);
    for partition in &topic.partitions {
        assert_eq!(partition.replicas.len(), 2);
        assert_eq!(partition.isr, partition.replicas);
        assert_eq!(partition.leader, partition.replicas[0]);
        assert_eq!(partition.leader_epoch, 0);
        assert!(partition.directories.iter().all(|directory| !directory.is_nil()));
    }
}

#[test]
fn overrides_are_checked_stored_and_answered() {
    let mut world = World::of_brokers(1);
    let topic = sized("t", 1, 1).with_configs(vec![config("retention.ms", Some("1000"))]);
    let result = world.create(topic);
    assert_eq!(result.error_code, 0);
    let stored = world.image.config(&ConfigResource::topic("t"), "retention.ms");
    assert_eq!(stored.map(|value| &**value), Some("1000"));
    let configs = result.configs.unwrap();
    let shown = |key: &str| configs.iter().find(|config| config.name.as_str() == key).unwrap();
    assert_eq!(
        (
            shown("retention.ms").value.clone(),
            shown("retention.ms").config_source
        ),
        (Some(text("1000")), 1)
    );
    assert_eq!(shown("cleanup.policy").value, Some(text("delete")));
    assert_eq!(shown("cleanup.policy").config_source, 5);

    for bad in [
        config("retention.ms", Some("soon")),
        config("retention.ms", None),
        config("no.such.key", Some("1")),
    ] {
        let result = world.create(sized("u", 1, 1).with_configs(vec![bad]));
        assert_eq!(result.error_code, Code::InvalidConfig.code());
        assert!(result.error_message.is_some());
    }
    assert!(world.image.topic("u").is_none());
}

#[test]
fn names_that_cannot_be_are_refused() {
    let mut world = World::of_brokers(1);
    let long = "x".repeat(250);
    for bad in ["", ".", "..", "a b", "ä", "a/b", long.as_str()] {
        assert_eq!(
            world.create(sized(bad, 1, 1)).error_code,
            Code::InvalidTopicException.code(),
            "{bad}"
        );
    }
    assert_eq!(world.create(sized(&"x".repeat(249), 1, 1)).error_code, 0);
    assert_eq!(world.create(sized("a.b", 1, 1)).error_code, 0);
    assert_eq!(
        world.create(sized("a_b", 1, 1)).error_code,
        Code::InvalidTopicException.code()
    );
    assert_eq!(
        world.create(sized("a.b", 1, 1)).error_code,
        Code::TopicAlreadyExists.code()
    );
    assert_eq!(
        world.create(sized("__cluster_metadata", 1, 1)).error_code,
        Code::InvalidRequest.code()
    );
    assert_eq!(world.create(sized("__consumer_offsets", 1, 1)).error_code, 0);
}

#[test]
fn collisions_inside_one_request_are_found() {
    let mut world = World::of_brokers(1);
    let topics = vec![
        sized("a.b", 1, 1),
        sized("a_b", 1, 1),
        sized("c", 1, 1),
        sized("c", 1, 1),
    ];
    let request = CreateTopicsRequest::default().with_topics(topics);
    let decision = world.controller.create_topics(&world.image, world.now, &request);
    let response = world.decide(decision);
    let codes: Vec<i16> = response.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(
        codes,
        [0, Code::InvalidTopicException.code(), Code::InvalidRequest.code()]
    );
}

#[test]
fn sizes_that_cannot_be_are_refused_with_a_reason() {
    let mut world = World::of_brokers(2);
    let code = |world: &mut World, topic| world.create(topic).error_code;
    assert_eq!(code(&mut world, sized("t", 0, 1)), Code::InvalidPartitions.code());
    assert_eq!(
        code(&mut world, sized("t", -2, 1)),
        Code::InvalidPartitions.code()
    );
    assert_eq!(
        code(&mut world, sized("t", 1, 0)),
        Code::InvalidReplicationFactor.code()
    );
    // The topic is a record of metadata as well.
    assert_eq!(code(&mut world, sized("large", 9_999, 1)), 0);
    for partitions in [10_000, i32::MAX] {
        let result = world.create(sized("t", partitions, 1));
        assert_eq!(result.error_code, Code::PolicyViolation.code());
        let message = result.error_message.unwrap();
        assert!(
            message.starts_with("too many partitions in one request: it may lead to 10000 records"),
            "{message}"
        );
    }
    let result = world.create(sized("t", 1, 3));
    assert_eq!(result.error_code, Code::InvalidReplicationFactor.code());
    let message = result.error_message.unwrap();
    assert!(
        message.contains("replication factor of 3") && message.contains("only 2"),
        "{message}"
    );
    world.fence(0);
    world.fence(1);
    let result = world.create(sized("t", 1, 1));
    assert_eq!(result.error_code, Code::InvalidReplicationFactor.code());
    assert!(result.error_message.unwrap().contains("fenced"));
}

#[test]
fn manual_assignments_are_checked() {
    let mut world = World::of_brokers(3);
    world.fence(2);
    world.create_on("ok", &[2, 1]);
    let partition = world.partition("ok", 0);
    assert_eq!((partition.leader, &partition.isr[..]), (1, &[1][..]));
    let invalid = Code::InvalidReplicaAssignment.code();
    let bad: [&[&[i32]]; 5] = [&[&[]], &[&[9]], &[&[1, 1]], &[&[0, 1], &[0]], &[&[2]]];
    for bad in bad {
        assert_eq!(world.create(assigned("t", bad)).error_code, invalid, "{bad:?}");
    }
    let mut gap = assigned("t", &[&[0]]);
    gap.assignments[0].partition_index = 1;
    assert_eq!(world.create(gap).error_code, invalid);
    let both = assigned("t", &[&[0]]).with_num_partitions(1);
    assert_eq!(world.create(both).error_code, Code::InvalidRequest.code());
}

#[test]
fn validate_only_checks_and_writes_nothing() {
    let mut world = World::of_brokers(1);
    let topics = vec![sized("good", 2, 1), sized("bad", 1, 5)];
    let request = CreateTopicsRequest::default()
        .with_topics(topics)
        .with_validate_only(true);
    let decision = world.controller.create_topics(&world.image, world.now, &request);
    assert!(decision.records.is_empty());
    assert_eq!(decision.response.topics[0].error_code, 0);
    assert_eq!(decision.response.topics[0].num_partitions, 2);
    assert_eq!(
        decision.response.topics[1].error_code,
        Code::InvalidReplicationFactor.code()
    );
}

#[test]
fn topics_are_deleted_by_name_or_id_and_their_configs_with_them() {
    let mut world = World::of_brokers(1);
    let configs = world.image.configs.clone();
    world.create(sized("a", 1, 1).with_configs(vec![config("retention.ms", Some("1000"))]));
    world.create(sized("b", 1, 1));
    let id = world.topic("b").id;
    let by_name = |topic: &str| DeleteTopicState::default().with_name(Some(name(topic)));
    let by_id = |id| DeleteTopicState::default().with_topic_id(id);
    let both = by_name("b").with_topic_id(id);
    let states = vec![
        by_name("a"),
        by_id(id),
        by_name("x"),
        by_id(Uuid::from_u128(5)),
        both,
        by_id(Uuid::nil()),
    ];
    let request = DeleteTopicsRequest::default().with_topics(states);
    let decision = world
        .controller
        .delete_topics(&world.image, world.now, 6, &request);
    let response = world.decide(decision);
    let codes: Vec<i16> = response
        .responses
        .iter()
        .map(|result| result.error_code)
        .collect();
    let (unknown, unknown_id) = (Code::UnknownTopicOrPartition.code(), Code::UnknownTopicId.code());
    let invalid = Code::InvalidRequest.code();
    assert_eq!(codes, [0, 0, unknown, unknown_id, invalid, invalid]);
    assert_eq!(response.responses[1].name, Some(name("b")));
    assert!(world.image.topics.is_empty() && world.image.configs == configs);
}

#[test]
fn deletion_can_be_disabled() {
    let mut world = World::with(ControllerSettings {
        delete_topic_enable: false,
        ..Default::default()
    })
    .brokers(1);
    world.create(sized("a", 1, 1));
    for (version, code) in [(2, Code::InvalidRequest), (3, Code::TopicDeletionDisabled)] {
        let request = DeleteTopicsRequest::default().with_topic_names(vec![name("a")]);
        let decision = world
            .controller
            .delete_topics(&world.image, world.now, version, &request);
        assert_eq!(world.decide(decision).responses[0].error_code, code.code());
    }
    assert!(world.image.topic("a").is_some());
}

#[test]
fn a_topic_created_again_has_another_id() {
    let mut world = World::of_brokers(1);
    world.create(sized("a", 1, 1));
    let first = world.topic("a").id;
    let request = DeleteTopicsRequest::default().with_topic_names(vec![name("a")]);
    let decision = world
        .controller
        .delete_topics(&world.image, world.now, 5, &request);
    world.decide(decision);
    world.create(sized("a", 1, 1));
    assert_ne!(world.topic("a").id, first);
}

fn grow(world: &mut World, topics: Vec<CreatePartitionsTopic>) -> Vec<i16> {
    let request = CreatePartitionsRequest::default().with_topics(topics);
    let decision = world
        .controller
        .create_partitions(&world.image, world.now, &request);
    world
        .decide(decision)
        .results
        .iter()
        .map(|result| result.error_code)
        .collect()
}

#[test]
fn partitions_are_added_with_one_result_per_topic() {
    let mut world = World::of_brokers(3);
    world.create(sized("a", 1, 2));
    world.create(sized("b", 1, 2));
    let to = |topic: &str, count| {
        CreatePartitionsTopic::default()
            .with_name(name(topic))
            .with_count(count)
            .with_assignments(None)
    };
    let assignment = |ids: &[i32]| {
        CreatePartitionsAssignment::default().with_broker_ids(ids.iter().map(|id| (*id).into()).collect())
    };
    assert_eq!(
        grow(&mut world, vec![to("a", 4), to("x", 2)]),
        [0, Code::UnknownTopicOrPartition.code()]
    );
    assert_eq!(world.topic("a").partitions.len(), 4);
    assert!(
        world
            .topic("a")
            .partitions
            .iter()
            .all(|partition| partition.replicas.len() == 2)
    );
    assert_eq!(
        grow(&mut world, vec![to("a", 4)]),
        [Code::InvalidPartitions.code()]
    );
    assert_eq!(
        grow(&mut world, vec![to("a", 3)]),
        [Code::InvalidPartitions.code()]
    );
    assert_eq!(
        grow(&mut world, vec![to("a", i32::MAX)]),
        [Code::PolicyViolation.code()]
    );
    assert_eq!(
        grow(&mut world, vec![to("b", 2), to("b", 3)]),
        [Code::InvalidRequest.code()]
    );
    let manual = |ids: &[i32]| to("b", 2).with_assignments(Some(vec![assignment(ids)]));
    assert_eq!(
        grow(&mut world, vec![manual(&[1])]),
        [Code::InvalidReplicaAssignment.code()]
    );
    assert_eq!(grow(&mut world, vec![manual(&[2, 0])]), [0]);
    assert_eq!(world.partition("b", 1).replicas, [2, 0]);
}
