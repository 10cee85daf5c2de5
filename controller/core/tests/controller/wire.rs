//! Answers can be encoded in every version of their API: what a version does not have is left out or at its default.

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, ElectLeadersRequest, UpdateFeaturesRequest,
};
use kafka_protocol::protocol::{Encodable, Message};
use odradek_common::metadata::features::METADATA_VERSION;
use odradek_controller_core::controller::Controller;

use super::harness::{World, name, sized, text};

fn encodes<T: Encodable + Message + std::fmt::Debug>(response: &T) {
    for version in T::VERSIONS.min..=T::VERSIONS.max {
        encodes_as(response, version);
    }
}

fn encodes_as<T: Encodable + std::fmt::Debug>(response: &T, version: i16) {
    let mut bytes = bytes::BytesMut::new();
    let encoded = response.encode(&mut bytes, version);
    assert!(encoded.is_ok(), "version {version}: {encoded:?} of {response:?}");
}

#[test]
fn answers_fit_every_version() {
    let mut world = World::of_brokers(2);
    let request = CreateTopicsRequest::default().with_topics(vec![sized("t", 2, 2), sized("u", 1, 9)]);
    let decision = world.controller.create_topics(&world.image, world.now, &request);
    encodes(&world.decide(decision));

    let request = ElectLeadersRequest::default().with_topic_partitions(None);
    encodes(
        &world
            .controller
            .elect_leaders(&world.image, world.now, &request)
            .response,
    );

    let request = AlterPartitionReassignmentsRequest::default().with_allow_replication_factor_change(false);
    encodes(
        &world
            .controller
            .alter_partition_reassignments(&world.image, world.now, &request)
            .response,
    );

    encodes(
        &world
            .controller
            .create_partitions(&world.image, world.now, &CreatePartitionsRequest::default())
            .response,
    );

    let isr = world.isr_request(
        "t",
        0,
        world.partition("t", 0).leader,
        &world.partition("t", 0).isr,
    );
    encodes(
        &world
            .controller
            .alter_partition(&world.image, world.now, 3, &isr)
            .response,
    );

    let states = vec![
        DeleteTopicState::default().with_name(Some(name("t"))),
        DeleteTopicState::default(),
    ];
    let request = DeleteTopicsRequest::default().with_topics(states);
    encodes_as(
        &world
            .controller
            .delete_topics(&world.image, world.now, 6, &request)
            .response,
        6,
    );
    let request = DeleteTopicsRequest::default().with_topic_names(vec![name("t"), name("x")]);
    let response = world
        .controller
        .delete_topics(&world.image, world.now, 5, &request)
        .response;
    (1..=5).for_each(|version| encodes_as(&response, version));

    encodes_as(
        &Controller::describe_cluster(&world.image, 1, "C", &DescribeClusterRequest::default()),
        0,
    );
    let update = FeatureUpdateKey::default()
        .with_feature(text(METADATA_VERSION))
        .with_max_version_level(27);
    let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update]);
    for version in 0..=2 {
        let decision = world
            .controller
            .update_features(&world.image, world.now, version, &request);
        assert_eq!(decision.response.error_code, 0);
        encodes_as(&decision.response, version);
    }
}
