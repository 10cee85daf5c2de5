//! UpdateFeatures.

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::UpdateFeaturesRequest;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use odradek_common::ids::NO_NODE;
use odradek_common::metadata::features::{
    ELR_VERSION, FEATURES, KRAFT_VERSION, METADATA_VERSION, TRANSACTION_VERSION,
};
use odradek_common::metadata::{ConfigResource, ControllerImage, config_record};
use odradek_controller_core::controller::ControllerSettings;
use uuid::Uuid;

use super::harness::{World, text};

const MIN_ISR: &str = "min.insync.replicas";

fn update(feature: &str, level: i16, upgrade_type: i8) -> FeatureUpdateKey {
    FeatureUpdateKey::default()
        .with_feature(text(feature))
        .with_max_version_level(level)
        .with_upgrade_type(upgrade_type)
}

pub fn finalise(world: &mut World, updates: Vec<FeatureUpdateKey>) -> i16 {
    let request = UpdateFeaturesRequest::default().with_feature_updates(updates);
    let decision = world
        .controller
        .update_features(&world.image, world.now, 2, &request);
    world.decide(decision).error_code
}

/// Switches eligible leader replicas on or off.
pub fn set_elr(world: &mut World, on: bool) -> i16 {
    finalise(
        world,
        vec![update(ELR_VERSION, i16::from(on), if on { 1 } else { 2 })],
    )
}

#[test]
fn a_new_cluster_starts_with_the_initial_levels() {
    let world = World::new();
    for feature in FEATURES {
        assert_eq!(world.image.feature_level(feature.name), feature.initial_level);
    }
    assert_eq!(&*world.image.cluster_id, super::harness::CLUSTER);
}

#[test]
fn transactions_have_three_levels_and_every_way_between_them() {
    let mut world = World::of_brokers(1);
    assert_eq!(
        world.image.feature_level(TRANSACTION_VERSION),
        2,
        "Kafka 4.3 begins with 2"
    );
    for (level, kind) in [(0, 2), (1, 1), (2, 1), (1, 2)] {
        let updated = finalise(&mut world, vec![update(TRANSACTION_VERSION, level, kind)]);
        assert_eq!(updated, 0, "to level {level}");
        assert_eq!(world.image.feature_level(TRANSACTION_VERSION), level);
    }
    let refused = finalise(&mut world, vec![update(TRANSACTION_VERSION, 3, 1)]);
    assert_eq!(refused, Code::InvalidUpdateVersion.code());
}

#[test]
fn levels_go_down_only_when_asked_and_up_again() {
    let mut world = World::of_brokers(1);
    let refused = Code::InvalidUpdateVersion.code();
    assert_eq!(
        finalise(&mut world, vec![update(METADATA_VERSION, 26, 1)]),
        refused
    );
    assert_eq!(finalise(&mut world, vec![update(METADATA_VERSION, 26, 2)]), 0);
    assert_eq!(world.image.feature_level(METADATA_VERSION), 26);
    assert_eq!(
        finalise(&mut world, vec![update(METADATA_VERSION, 27, 2)]),
        refused
    );
    assert_eq!(finalise(&mut world, vec![update(METADATA_VERSION, 27, 1)]), 0);
    assert_eq!(
        finalise(&mut world, vec![update(METADATA_VERSION, 28, 1)]),
        refused
    );
    assert_eq!(
        finalise(&mut world, vec![update(METADATA_VERSION, 0, 3)]),
        refused
    );
    assert_eq!(finalise(&mut world, vec![update(KRAFT_VERSION, 0, 2)]), refused);
    assert_eq!(
        finalise(&mut world, vec![update("no.such.feature", 1, 1)]),
        refused
    );
    assert_eq!(
        finalise(&mut world, vec![update(METADATA_VERSION, 27, 9)]),
        refused
    );
}

#[test]
fn all_levels_change_or_none() {
    let mut world = World::of_brokers(1);
    let updates = vec![update(METADATA_VERSION, 26, 2), update("no.such.feature", 1, 1)];
    assert_eq!(finalise(&mut world, updates), Code::InvalidUpdateVersion.code());
    assert_eq!(world.image.feature_level(METADATA_VERSION), 27);
}

#[test]
fn a_level_that_a_registered_node_cannot_run_is_refused_by_name() {
    let mut world = World::of_brokers(1);
    finalise(&mut world, vec![update(METADATA_VERSION, 26, 2)]);
    let mut old = super::harness::registration(5, 0);
    old.features[0].max_supported_version = 26;
    assert_eq!(world.register(&old).error_code, 0);
    let request =
        UpdateFeaturesRequest::default().with_feature_updates(vec![update(METADATA_VERSION, 27, 1)]);
    let decision = world
        .controller
        .update_features(&world.image, world.now, 2, &request);
    assert_eq!(decision.response.error_code, Code::InvalidUpdateVersion.code());
    assert!(decision.response.error_message.unwrap().contains("broker 5"));
}

#[test]
fn a_voter_that_was_never_there_has_no_say_in_levels() {
    let mut world = World::of_brokers(1);
    let added = |incarnation_id| ControllerImage {
        node_id: 9,
        directory_id: Uuid::from_u128(1_000),
        incarnation_id,
        endpoints: Vec::new(),
        features: Vec::new(),
    };
    world.commit(vec![added(Uuid::nil()).to_record()]);
    assert_eq!(finalise(&mut world, vec![update(METADATA_VERSION, 26, 2)]), 0);
    world.commit(vec![added(Uuid::from_u128(1)).to_record()]);
    assert_eq!(
        finalise(&mut world, vec![update(METADATA_VERSION, 27, 1)]),
        Code::InvalidUpdateVersion.code(),
        "one that was there and names no feature has none"
    );
}

#[test]
fn the_first_versions_have_a_flag_and_results() {
    let mut world = World::of_brokers(1);
    let flagged = update(METADATA_VERSION, 26, 1).with_allow_downgrade(true);
    let request = UpdateFeaturesRequest::default()
        .with_feature_updates(vec![flagged])
        .with_validate_only(true);
    let decision = world
        .controller
        .update_features(&world.image, world.now, 0, &request);
    assert!(decision.records.is_empty(), "validate only");
    assert_eq!(
        (decision.response.error_code, decision.response.results.len()),
        (0, 1)
    );
}

#[test]
fn without_elr_the_last_member_stays_in_the_isr() {
    let mut world = World::of_brokers(2);
    world.create_on("t", &[0, 1]);
    world.fence(1);
    world.fence(0);
    assert!(world.partition("t", 0).isr.is_empty());
    assert_eq!(set_elr(&mut world, false), 0);
    let partition = world.partition("t", 0);
    assert_eq!((&partition.isr[..], partition.leader), (&[0][..], NO_NODE));
    world.start(1, 1);
    assert_eq!(
        world.partition("t", 0).leader,
        NO_NODE,
        "broker 1 was not in sync"
    );
    world.start_after_clean_stop(0, 1);
    assert_eq!(world.partition("t", 0).leader, 0);
}

/// Else a replica that left could be elected over records that a leader with a smaller number of its own committed alone.
#[test]
fn with_elr_all_nodes_have_one_min_insync_replicas() {
    let settings = ControllerSettings {
        min_insync_replicas: 2,
        ..ControllerSettings::default()
    };
    let mut world = World::with(settings).brokers(1);
    let (cluster, own) = (ConfigResource::every_broker(), ConfigResource::broker(0));
    let away = ConfigResource::broker(7);
    let value = |world: &World, resource| world.image.config(resource, MIN_ISR).map(ToString::to_string);
    assert_eq!(value(&world, &cluster).as_deref(), Some("2"));
    // Without ELR everything may be altered.
    assert_eq!(set_elr(&mut world, false), 0);
    world.commit(vec![
        config_record(&cluster, MIN_ISR, None),
        config_record(&own, MIN_ISR, Some("1")),
        config_record(&away, MIN_ISR, Some("1")),
    ]);
    world.lead();
    assert_eq!(value(&world, &cluster), None);
    assert_eq!(set_elr(&mut world, true), 0);
    assert_eq!(value(&world, &cluster).as_deref(), Some("2"));
    assert_eq!((value(&world, &own), value(&world, &away)), (None, None));
    // What an operator set stays; a cluster of an earlier version gets it from its next leader.
    world.commit(vec![config_record(&cluster, MIN_ISR, Some("3"))]);
    world.lead();
    assert_eq!(value(&world, &cluster).as_deref(), Some("3"));
    world.commit(vec![config_record(&cluster, MIN_ISR, None)]);
    world.lead();
    assert_eq!(value(&world, &cluster).as_deref(), Some("2"));
}
