//! Registration, heartbeats, fencing, controlled shutdown, sessions.

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::{
    AllocateProducerIdsRequest, ControllerRegistrationRequest, DescribeClusterRequest,
    UnregisterBrokerRequest,
};
use odradek_common::ids::{LOST_DIRECTORY, NO_NODE};
use odradek_controller_core::controller::{Controller, ControllerSettings};
use uuid::Uuid;

use super::harness::{World, directory, registration, text};

#[test]
fn a_broker_starts_fenced_and_serves_once_it_knows_of_its_registration() {
    let mut world = World::new();
    let next_offset = world.next_offset();
    let response = world.register(&registration(1, 0));
    assert_eq!((response.error_code, response.broker_epoch), (0, next_offset));
    assert!(world.image.brokers[&1].fenced);
    let behind = world
        .heartbeat_request(1)
        .with_current_metadata_offset(next_offset - 1);
    let response = world.send_heartbeat(&behind);
    assert!(response.is_fenced && !response.is_caught_up);
    let response = world.heartbeat(1);
    assert!(!response.is_fenced && response.is_caught_up && !response.should_shut_down);
    assert!(world.image.is_active(1));
    let response = world.send_heartbeat(&world.heartbeat_request(1).with_want_fence(true));
    assert!(response.is_fenced);
}

#[test]
fn heartbeats_of_strangers_and_ghosts_are_refused() {
    let mut world = World::of_brokers(1);
    let unknown = world.heartbeat_request(5);
    assert_eq!(
        world.send_heartbeat(&unknown).error_code,
        Code::BrokerIdNotRegistered.code()
    );
    let stale = world.heartbeat_request(0);
    world.fence(0);
    world.start(0, 1);
    assert_eq!(
        world.send_heartbeat(&stale).error_code,
        Code::StaleBrokerEpoch.code()
    );
}

#[test]
fn registrations_are_checked() {
    let mut world = World::of_brokers(2);
    let code = |world: &mut World, request| world.register(&request).error_code;
    let wrong_cluster = registration(2, 0).with_cluster_id(text("another"));
    assert_eq!(
        code(&mut world, wrong_cluster),
        Code::InconsistentClusterId.code()
    );
    let mut old = registration(2, 0);
    old.features[0].max_supported_version = old.features[0].min_supported_version;
    assert_eq!(code(&mut world, old), Code::UnsupportedVersion.code());
    assert_eq!(
        code(&mut world, registration(2, 0).with_features(Vec::new())),
        Code::UnsupportedVersion.code()
    );
    let invalid = Code::InvalidRegistration.code();
    let dirs = [
        vec![],
        vec![Uuid::from_u128(1)],
        vec![directory(2), directory(2)],
        vec![directory(0)],
    ];
    for dirs in dirs {
        assert_eq!(code(&mut world, registration(2, 0).with_log_dirs(dirs)), invalid);
    }
    assert!(!world.image.brokers.contains_key(&2));
}

#[test]
fn a_second_process_with_a_live_brokers_id_is_refused_until_the_first_is_gone() {
    let mut world = World::of_brokers(1);
    let epoch = world.image.brokers[&0].broker_epoch;
    assert_eq!(
        world.register(&registration(0, 1)).error_code,
        Code::DuplicateBrokerRegistration.code()
    );
    world.pass(9_001);
    let response = world.register(&registration(0, 1));
    assert_eq!(response.error_code, 0);
    assert!(response.broker_epoch > epoch);

    world.heartbeat(0);
    world.fence(0);
    assert_eq!(
        world.register(&registration(0, 2)).error_code,
        0,
        "a dropped session frees the id at once"
    );
}

#[test]
fn a_new_controller_does_not_take_unheard_brokers_for_live_processes() {
    let mut world = World::of_brokers(2);
    world.lead();
    assert_eq!(world.register(&registration(0, 1)).error_code, 0);
    world.heartbeat(1);
    assert_eq!(
        world.register(&registration(1, 1)).error_code,
        Code::DuplicateBrokerRegistration.code()
    );
}

#[test]
fn the_same_incarnation_keeps_its_epoch_and_stays_unfenced() {
    let mut world = World::of_brokers(1);
    let epoch = world.image.brokers[&0].broker_epoch;
    let offset = world.image.offset;
    assert_eq!(world.register(&registration(0, 0)).broker_epoch, epoch);
    assert_eq!(world.image.offset, offset, "nothing changed, nothing is written");
    assert_eq!(
        world
            .register(&registration(0, 0).with_rack(Some(text("r"))))
            .broker_epoch,
        epoch
    );
    assert_eq!(world.image.brokers[&0].rack.as_deref(), Some("r"));
    assert!(!world.image.brokers[&0].fenced);
}

#[test]
fn silence_fences_and_moves_leaders() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0, 1, 2]);
    world.pass(5_000);
    for id in [1, 2] {
        world.heartbeat(id);
    }
    world.pass(4_000);
    assert_eq!(world.tick(), 0, "a session lasts its whole timeout");
    assert_eq!(
        world.controller.next_deadline(&world.image),
        Some(world.now.mono_ms + 1)
    );
    world.pass(1);
    assert_eq!(world.tick(), 2);
    let partition = world.partition("t", 0);
    assert_eq!(
        (partition.leader, &partition.isr[..], partition.leader_epoch),
        (1, &[1, 2][..], 1)
    );
    assert!(world.image.brokers[&0].fenced);
}

#[test]
fn a_broker_is_fenced_in_the_end_if_the_records_are_refused_at_first() {
    let mut world = World::of_brokers(2);
    world.create_on("t", &[0, 1]);
    world.pass(9_001);
    world.heartbeat(1);
    let refused = world.controller.tick(&world.image, world.now);
    assert_eq!(refused.len(), 2);
    assert_eq!(world.tick(), 2);
    assert!(world.image.brokers[&0].fenced);
    assert_eq!(world.tick(), 0);
}

#[test]
fn time_in_which_the_whole_process_stood_still_is_nobodys_silence() {
    let mut world = World::of_brokers(3);
    world.controller.begin_turn(world.now);
    world.pass(60_000);
    world.controller.begin_turn(world.now);
    assert_eq!(world.tick(), 0, "what they sent meanwhile is yet to be read");
    for _ in 0..9 {
        world.pass(1_000);
        world.controller.begin_turn(world.now);
        assert_eq!(world.tick(), 0, "a session lasts its whole timeout");
    }
    world.pass(1);
    world.controller.begin_turn(world.now);
    assert_eq!(world.tick(), 3);
}

#[test]
fn a_new_controller_gives_everybody_a_whole_session() {
    let mut world = World::of_brokers(2);
    world.pass(8_000);
    world.lead();
    world.pass(9_000);
    assert_eq!(world.tick(), 0);
    world.pass(1);
    assert_eq!(world.tick(), 2);
}

#[test]
fn suspects_are_those_not_heard() {
    let settings = ControllerSettings {
        broker_suspect_ms: 2_500,
        ..Default::default()
    };
    let mut world = World::with(settings).brokers(3);
    world.fence(2);
    world.pass(2_499);
    assert!(world.controller.suspects(&world.image, world.now).is_empty());
    world.heartbeat(0);
    world.pass(1);
    assert_eq!(world.controller.suspects(&world.image, world.now), [1]);
    world.lead();
    world.heartbeat(1);
    world.pass(250);
    assert_eq!(
        world.controller.suspects(&world.image, world.now),
        [0],
        "after a failover sooner"
    );
}

#[test]
fn a_dropped_session_fences_once() {
    let mut world = World::of_brokers(2);
    world.create_on("t", &[0, 1]);
    world.fence(0);
    assert_eq!(world.partition("t", 0).leader, 1);
    assert!(
        world
            .controller
            .session_dropped(&world.image, world.now, 0)
            .is_empty()
    );
    assert!(
        world
            .controller
            .session_dropped(&world.image, world.now, 77)
            .is_empty()
    );
}

#[test]
fn controlled_shutdown_moves_leaders_first_and_waits_until_the_others_know() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0, 1, 2]);
    let stopping = world.heartbeat_request(0).with_want_shut_down(true);
    let response = world.send_heartbeat(&stopping);
    assert!(!response.should_shut_down && !response.is_fenced);
    let partition = world.partition("t", 0);
    assert_eq!((partition.leader, &partition.isr[..]), (1, &[1, 2][..]));
    assert!(world.image.brokers[&0].in_controlled_shutdown);

    let moved_at = world.image.offset;
    let behind = world
        .heartbeat_request(1)
        .with_current_metadata_offset(moved_at - 1);
    world.send_heartbeat(&behind);
    world.heartbeat(2);
    assert!(
        !world.send_heartbeat(&stopping).should_shut_down,
        "broker 1 does not know yet"
    );
    world.heartbeat(1);
    let response = world.send_heartbeat(&stopping);
    assert!(response.should_shut_down && response.is_fenced);
    assert!(world.image.brokers[&0].fenced);
    assert!(
        world.send_heartbeat(&stopping).should_shut_down,
        "asking again changes nothing"
    );
}

#[test]
fn controlled_shutdown_survives_a_change_of_the_controller() {
    let mut world = World::of_brokers(2);
    world.create_on("t", &[0, 1]);
    let stopping = world.heartbeat_request(0).with_want_shut_down(true);
    world.send_heartbeat(&stopping);
    world.lead();
    assert!(
        !world.send_heartbeat(&stopping).should_shut_down,
        "broker 1 has not been heard"
    );
    world.heartbeat(1);
    assert!(world.send_heartbeat(&stopping).should_shut_down);
}

#[test]
fn controlled_shutdown_waits_for_nobody_to_apply_a_new_controllers_empty_entry() {
    let mut world = World::of_brokers(2);
    world.create_on("t", &[0, 1]);
    let stopping = world.heartbeat_request(0).with_want_shut_down(true);
    world.send_heartbeat(&stopping);
    let begun_at = world.image.offset;
    world.image.offset += 1;
    world.controller.on_leadership(&world.image, world.now, begun_at);
    let behind = world
        .heartbeat_request(1)
        .with_current_metadata_offset(begun_at - 1);
    world.send_heartbeat(&behind);
    assert!(
        !world.send_heartbeat(&stopping).should_shut_down,
        "broker 1 does not know of it"
    );
    let knows = world.heartbeat_request(1).with_current_metadata_offset(begun_at);
    world.send_heartbeat(&knows);
    assert!(world.send_heartbeat(&stopping).should_shut_down);
}

#[test]
fn a_broker_without_leaderships_may_stop_at_once() {
    let mut world = World::of_brokers(2);
    world.create_on("t", &[0, 1]);
    let response = world.send_heartbeat(&world.heartbeat_request(1).with_want_shut_down(true));
    assert!(response.should_shut_down);
    assert_eq!(world.partition("t", 0).isr, [0]);
}

#[test]
fn the_only_broker_stops_and_comes_back_with_its_partitions() {
    let mut world = World::of_brokers(1);
    world.create_on("t", &[0]);
    let stopping = world.heartbeat_request(0).with_want_shut_down(true);
    world.send_heartbeat(&stopping);
    assert!(world.send_heartbeat(&stopping).should_shut_down);
    assert_eq!(world.partition("t", 0).leader, NO_NODE);
    world.start_after_clean_stop(0, 1);
    let partition = world.partition("t", 0);
    assert_eq!((partition.leader, &partition.isr[..]), (0, &[0][..]));
    assert!(!partition.recovering, "a clean stop loses nothing");
}

#[test]
fn a_failed_directory_takes_its_replicas_out_of_the_isr() {
    let mut world = World::of_brokers(2);
    let (good, bad) = (directory(2), Uuid::from_u128(0xbad0));
    world.register(&registration(2, 0).with_log_dirs(vec![good, bad]));
    world.heartbeat(2);
    world.create_on("t", &[2, 0]);
    world.create_on("u", &[2, 0]);
    assign(&mut world, "t", bad);
    assign(&mut world, "u", good);
    let request = world.heartbeat_request(2).with_offline_log_dirs(vec![bad]);
    world.send_heartbeat(&request);
    assert_eq!(world.image.brokers[&2].log_dirs, [good]);
    assert_eq!(
        (world.partition("t", 0).leader, world.partition("u", 0).leader),
        (0, 2)
    );
    assert_eq!(world.partition("t", 0).isr, [0]);
    let offset = world.image.offset;
    world.send_heartbeat(&request);
    assert_eq!(world.image.offset, offset, "known already");
}

fn assign(world: &mut World, topic: &str, dir: Uuid) {
    use kafka_protocol::messages::AssignReplicasToDirsRequest;
    use kafka_protocol::messages::assign_replicas_to_dirs_request::{
        DirectoryData, PartitionData, TopicData,
    };
    let partition = PartitionData::default().with_partition_index(0);
    let topic = TopicData::default()
        .with_topic_id(world.topic(topic).id)
        .with_partitions(vec![partition]);
    let data = DirectoryData::default().with_id(dir).with_topics(vec![topic]);
    let request = AssignReplicasToDirsRequest::default()
        .with_broker_id(2.into())
        .with_broker_epoch(world.image.brokers[&2].broker_epoch)
        .with_directories(vec![data]);
    let decision = world
        .controller
        .assign_replicas_to_dirs(&world.image, world.now, &request);
    let response = world.decide(decision);
    assert_eq!(response.directories[0].topics[0].partitions[0].error_code, 0);
}

#[test]
fn an_assignment_to_a_directory_that_is_not_online_leaves_the_isr() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[2, 0]);
    assign(&mut world, "t", Uuid::from_u128(0xbad0));
    let partition = world.partition("t", 0);
    assert_eq!(
        (partition.leader, partition.directories[0]),
        (0, Uuid::from_u128(0xbad0))
    );
}

#[test]
fn a_replica_whose_log_is_lost_neither_leads_nor_joins_the_isr_until_it_has_a_directory() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[2, 0]);
    world.create_on("alone", &[2]);
    for topic in ["t", "alone"] {
        assign(&mut world, topic, LOST_DIRECTORY);
    }
    let partition = world.partition("t", 0);
    assert_eq!((partition.leader, &partition.isr[..]), (0, &[0][..]));
    assert_eq!(world.partition("alone", 0).leader, NO_NODE);
    let ineligible = Code::IneligibleReplica.code();
    assert_eq!(world.set_isr("t", 0, &[0, 2]), ineligible);
    // It has started again and found its log.
    for topic in ["t", "alone"] {
        assign(&mut world, topic, directory(2));
    }
    assert_eq!(world.set_isr("t", 0, &[0, 2]), 0);
    assert_eq!(world.partition("alone", 0).leader, 2);
}

#[test]
fn an_unregistered_broker_is_gone_from_everywhere() {
    let mut world = World::of_brokers(2);
    world.create_on("t", &[0, 1]);
    let request = |id: i32| UnregisterBrokerRequest::default().with_broker_id(id.into());
    let decision = world
        .controller
        .unregister_broker(&world.image, world.now, &request(0));
    assert_eq!(world.decide(decision).error_code, 0);
    assert!(!world.image.brokers.contains_key(&0));
    assert_eq!(world.partition("t", 0).isr, [1]);
    let decision = world
        .controller
        .unregister_broker(&world.image, world.now, &request(0));
    assert_eq!(
        world.decide(decision).error_code,
        Code::BrokerIdNotRegistered.code()
    );
}

#[test]
fn producer_id_blocks_do_not_overlap() {
    let mut world = World::of_brokers(2);
    let mut starts = Vec::new();
    for id in [0, 1, 0] {
        let epoch = world.image.brokers[&id].broker_epoch;
        let request = AllocateProducerIdsRequest::default()
            .with_broker_id(id.into())
            .with_broker_epoch(epoch);
        let decision = world
            .controller
            .allocate_producer_ids(&world.image, world.now, &request);
        let response = world.decide(decision);
        assert_eq!((response.error_code, response.producer_id_len), (0, 1_000));
        starts.push(response.producer_id_start.0);
    }
    assert_eq!(starts, [0, 1_000, 2_000]);
    let stale = AllocateProducerIdsRequest::default()
        .with_broker_id(0.into())
        .with_broker_epoch(-1);
    let decision = world
        .controller
        .allocate_producer_ids(&world.image, world.now, &stale);
    assert_eq!(world.decide(decision).error_code, Code::StaleBrokerEpoch.code());
}

#[test]
fn controllers_register_once_and_are_described() {
    use kafka_protocol::messages::controller_registration_request::Listener;
    let mut world = World::new();
    let listener = Listener::default()
        .with_name(text("CONTROLLER"))
        .with_host(text("h"))
        .with_port(9_093);
    let request = ControllerRegistrationRequest::default()
        .with_controller_id(3)
        .with_incarnation_id(Uuid::from_u128(9))
        .with_listeners(vec![listener]);
    let dir = Uuid::from_u128(1_000);
    let decision = world
        .controller
        .controller_registration(&world.image, world.now, dir, &request);
    assert_eq!(world.decide(decision).error_code, 0);
    let again = world
        .controller
        .controller_registration(&world.image, world.now, dir, &request);
    assert!(again.records.is_empty());

    let ask = |endpoint_type| {
        let request = DescribeClusterRequest::default().with_endpoint_type(endpoint_type);
        Controller::describe_cluster(&world.image, 3, "CONTROLLER", &request)
    };
    let response = ask(2);
    assert_eq!(
        (
            response.error_code,
            response.controller_id.0,
            response.brokers[0].port
        ),
        (0, 3, 9_093)
    );
    assert_eq!(ask(1).error_code, Code::MismatchedEndpointType.code());
    assert_eq!(ask(7).error_code, Code::UnsupportedEndpointType.code());
}
