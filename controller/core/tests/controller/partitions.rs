//! ISR changes, elections, ELR, reassignments, rebalancing.

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, ElectLeadersRequest, ListPartitionReassignmentsRequest,
};
use odradek_common::ids::{NO_NODE, NodeId};
use odradek_controller_core::controller::{Controller, ControllerSettings};

use super::configs::{alter, request as config_request};
use super::harness::{World, assigned, name};

fn min_isr(world: &mut World, topic: &str, min: &str) {
    assert_eq!(
        alter(
            world,
            &config_request(2, topic, &[("min.insync.replicas", 0, Some(min))])
        ),
        0
    );
}

fn unclean(world: &mut World, topic: &str, on: &str) {
    assert_eq!(
        alter(
            world,
            &config_request(2, topic, &[("unclean.leader.election.enable", 0, Some(on))])
        ),
        0
    );
}

/// Leader, ISR and ELR in short.
fn state(world: &World, topic: &str) -> (NodeId, Vec<NodeId>, Vec<NodeId>) {
    let partition = world.partition(topic, 0);
    (partition.leader, partition.isr.clone(), partition.elr.clone())
}

#[test]
fn the_leader_shrinks_and_expands_its_isr() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0, 1, 2]);
    assert_eq!(world.set_isr("t", 0, &[0, 2]), 0);
    let partition = world.partition("t", 0);
    assert_eq!(
        (
            &partition.isr[..],
            partition.leader_epoch,
            partition.partition_epoch
        ),
        (&[0, 2][..], 0, 1)
    );
    assert_eq!(world.set_isr("t", 0, &[0, 2, 1]), 0);
    assert_eq!(world.partition("t", 0).isr, [0, 2, 1]);
}

#[test]
fn isr_changes_by_the_wrong_broker_or_epoch_are_refused() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0, 1, 2]);
    world.set_isr("t", 0, &[0, 1]);
    let good = world.isr_request("t", 0, 0, &[0]);
    let edited = |edit: &dyn Fn(&mut kafka_protocol::messages::alter_partition_request::PartitionData)| {
        let mut request = good.clone();
        edit(&mut request.topics[0].partitions[0]);
        request
    };
    let by_follower = world.isr_request("t", 0, 1, &[1]);
    let cases = [
        (edited(&|p| p.leader_epoch += 1), Code::NotController),
        (edited(&|p| p.partition_epoch += 1), Code::NotController),
        (edited(&|p| p.leader_epoch -= 1), Code::FencedLeaderEpoch),
        (edited(&|p| p.partition_epoch -= 1), Code::InvalidUpdateVersion),
        (edited(&|p| p.partition_index = 4), Code::UnknownTopicOrPartition),
        (edited(&|p| p.leader_recovery_state = 1), Code::InvalidRequest),
        (by_follower, Code::InvalidRequest),
        (world.isr_request("t", 0, 0, &[1]), Code::InvalidRequest),
        (world.isr_request("t", 0, 0, &[0, 9]), Code::InvalidRequest),
        (world.isr_request("t", 0, 0, &[0, 1, 1]), Code::InvalidRequest),
        (good.clone().with_broker_epoch(0), Code::StaleBrokerEpoch),
    ];
    for (request, code) in cases {
        assert_eq!(world.alter_partition(&request), code.code(), "{request:?}");
    }
    let mut unknown = good.clone();
    unknown.topics[0].topic_id = uuid::Uuid::from_u128(3);
    assert_eq!(world.alter_partition(&unknown), Code::UnknownTopicId.code());
    assert_eq!(world.alter_partition(&good), 0);
}

#[test]
fn nobody_joins_the_isr_who_is_fenced_stopping_or_restarted() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0, 1, 2]);
    world.create_on("u", &[2, 0]);
    let ineligible = Code::IneligibleReplica.code();
    let before_restart = world.isr_request("t", 0, 0, &[0, 1, 2]);
    world.fence(1);
    assert_eq!(world.set_isr("t", 0, &[0, 1, 2]), ineligible);
    world.start(1, 1);
    // KAFKA-15221, KIP-903: the leader saw an earlier incarnation fetch.
    let mut stale = world.isr_request("t", 0, 0, &[0, 1, 2]);
    let old = before_restart.topics[0].partitions[0].new_isr_with_epochs.clone();
    stale.topics[0].partitions[0].new_isr_with_epochs = old;
    assert_eq!(world.alter_partition(&stale), ineligible);
    assert_eq!(world.set_isr("t", 0, &[0, 1, 2]), 0);
    let stopping = world.heartbeat_request(2).with_want_shut_down(true);
    world.send_heartbeat(&stopping);
    assert_eq!(world.partition("t", 0).isr, [0, 1]);
    assert_eq!(world.set_isr("t", 0, &[0, 1, 2]), ineligible);
}

#[test]
fn members_that_leave_a_small_isr_stay_eligible() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0, 1, 2]);
    min_isr(&mut world, "t", "2");
    world.fence(2);
    assert_eq!(state(&world, "t"), (0, vec![0, 1], vec![]));
    world.fence(1);
    assert_eq!(state(&world, "t"), (0, vec![0], vec![1]));
    world.fence(0);
    assert_eq!(state(&world, "t"), (NO_NODE, vec![], vec![0, 1]));
    assert_eq!(world.partition("t", 0).last_known_elr, [0]);
    world.start(2, 1);
    assert_eq!(
        state(&world, "t"),
        (NO_NODE, vec![], vec![0, 1]),
        "2 lacks acknowledged records"
    );
    world.start_after_clean_stop(1, 1);
    assert_eq!(state(&world, "t"), (1, vec![1], vec![0]));
    assert!(world.partition("t", 0).last_known_elr.is_empty() && !world.partition("t", 0).recovering);
    world.set_isr("t", 0, &[1, 2]);
    assert_eq!(
        state(&world, "t"),
        (1, vec![1, 2], vec![]),
        "a whole ISR needs no ELR"
    );
}

#[test]
fn the_last_replica_standing_does_not_lead_after_losing_records() {
    // Replica 1 is alone in the ISR, its machine loses unsynced records, and it comes back.
    let mut world = World::of_brokers(2);
    world.create_on("t", &[0, 1]);
    min_isr(&mut world, "t", "2");
    world.fence(0);
    assert_eq!(state(&world, "t"), (1, vec![1], vec![0]));
    world.fence(1);
    world.start(1, 1);
    assert_eq!(state(&world, "t"), (NO_NODE, vec![], vec![0]));
    world.start_after_clean_stop(0, 1);
    assert_eq!(
        state(&world, "t"),
        (0, vec![0], vec![]),
        "0 has all that was acknowledged with two in sync"
    );
}

#[test]
fn after_everybody_lost_records_the_last_leader_leads_again() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0, 1, 2]);
    for id in 0..3 {
        world.fence(id);
    }
    let last = world.partition("t", 0).last_known_elr.clone();
    assert_eq!(last, [2]);
    world.start(0, 1);
    world.start(1, 1);
    assert_eq!(
        world.partition("t", 0).leader,
        NO_NODE,
        "they may lack what 2 has"
    );
    world.start(2, 1);
    let partition = world.partition("t", 0);
    assert_eq!(
        (partition.leader, &partition.isr[..], partition.recovering),
        (2, &[2][..], true)
    );
    let recovering = world.isr_request("t", 0, 2, &[2, 1]);
    assert_eq!(world.alter_partition(&recovering), 0);
    assert!(!world.partition("t", 0).recovering);
}

#[test]
fn restarted_brokers_after_kill_of_all_keep_their_partitions_led() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0, 1, 2]);
    world.lead();
    for id in 0..3 {
        world.start(id, 1);
    }
    assert_ne!(world.partition("t", 0).leader, NO_NODE);
}

#[test]
fn a_changed_min_isr_settles_the_elr() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0, 1, 2]);
    min_isr(&mut world, "t", "3");
    world.fence(2);
    assert_eq!(state(&world, "t"), (0, vec![0, 1], vec![2]));
    min_isr(&mut world, "t", "2");
    assert_eq!(state(&world, "t"), (0, vec![0, 1], vec![]));
    world.create_on("u", &[0, 1, 2]);
    assert_eq!(
        alter(
            &mut world,
            &config_request(4, "", &[("min.insync.replicas", 0, Some("2"))])
        ),
        0
    );
    world.fence(1);
    assert_eq!(
        state(&world, "u"),
        (0, vec![0], vec![1]),
        "the cluster's default counts where the topic has none"
    );
}

#[test]
fn unclean_election_only_where_it_is_allowed() {
    let mut world = World::of_brokers(2);
    world.create_on("safe", &[0, 1]);
    world.create_on("lossy", &[0, 1]);
    unclean(&mut world, "lossy", "true");
    for topic in ["safe", "lossy"] {
        world.set_isr(topic, 0, &[0]);
    }
    world.fence(0);
    assert_eq!(state(&world, "safe"), (NO_NODE, vec![], vec![0]));
    assert_eq!(state(&world, "lossy"), (1, vec![1], vec![]));
    assert!(world.partition("lossy", 0).recovering);

    unclean(&mut world, "safe", "true");
    assert_eq!(
        world.controller.next_deadline(&world.image),
        Some(world.now.mono_ms),
        "allowing it makes it due"
    );
    assert_eq!(world.tick(), 1);
    assert_eq!(state(&world, "safe"), (1, vec![1], vec![]));
}

#[test]
fn an_offline_partition_is_led_again_when_its_eligible_replica_is_back() {
    let mut world = World::of_brokers(1);
    world.create_on("t", &[0]);
    world.fence(0);
    assert_eq!(state(&world, "t"), (NO_NODE, vec![], vec![0]));
    assert!(!world.heartbeat(0).is_fenced);
    assert_eq!(state(&world, "t"), (0, vec![0], vec![]));
}

fn elect(world: &mut World, kind: i8, topics: Option<&[(&str, i32)]>) -> Vec<(i32, i16)> {
    let topics = topics.map(|topics| {
        let one = |(topic, index): &(&str, i32)| {
            TopicPartitions::default()
                .with_topic(name(topic))
                .with_partitions(vec![*index])
        };
        topics.iter().map(one).collect()
    });
    let request = ElectLeadersRequest::default()
        .with_election_type(kind)
        .with_topic_partitions(topics);
    let decision = world.controller.elect_leaders(&world.image, world.now, &request);
    let response = world.decide(decision);
    assert_eq!(response.error_code, 0);
    let results = response
        .replica_election_results
        .iter()
        .flat_map(|topic| &topic.partition_result);
    results
        .map(|partition| (partition.partition_id, partition.error_code))
        .collect()
}

#[test]
fn preferred_leaders_are_elected_on_request() {
    let mut world = World::of_brokers(2);
    assert_eq!(world.create(assigned("t", &[&[0, 1], &[1, 0]])).error_code, 0);
    world.fence(0);
    assert_eq!(
        elect(&mut world, 0, Some(&[("t", 0)])),
        [(0, Code::PreferredLeaderNotAvailable.code())]
    );
    world.start(0, 1);
    assert_eq!(
        elect(&mut world, 0, Some(&[("t", 0)])),
        [(0, Code::PreferredLeaderNotAvailable.code())]
    );
    world.set_isr("t", 0, &[1, 0]);
    assert_eq!(
        elect(&mut world, 0, None),
        [(0, 0)],
        "partition 1 needs none and is left out"
    );
    assert_eq!(world.partition("t", 0).leader, 0);
    assert_eq!(
        elect(&mut world, 0, Some(&[("t", 0)])),
        [(0, Code::ElectionNotNeeded.code())]
    );
    assert_eq!(
        elect(&mut world, 0, Some(&[("t", 5)])),
        [(5, Code::UnknownTopicOrPartition.code())]
    );
    let request = ElectLeadersRequest::default().with_election_type(7);
    let decision = world.controller.elect_leaders(&world.image, world.now, &request);
    assert_eq!(decision.response.error_code, Code::InvalidRequest.code());
}

#[test]
fn unclean_leaders_are_elected_on_request_whatever_the_topic_says() {
    let mut world = World::of_brokers(2);
    world.create_on("t", &[0, 1]);
    world.set_isr("t", 0, &[0]);
    assert_eq!(
        elect(&mut world, 1, Some(&[("t", 0)])),
        [(0, Code::ElectionNotNeeded.code())]
    );
    world.fence(0);
    assert_eq!(elect(&mut world, 1, Some(&[("t", 0)])), [(0, 0)]);
    assert_eq!(state(&world, "t"), (1, vec![1], vec![]));
    world.fence(1);
    assert_eq!(
        elect(&mut world, 1, Some(&[("t", 0)])),
        [(0, Code::EligibleLeadersNotAvailable.code())]
    );
}

#[test]
fn leaderships_drift_back_in_bounded_rounds() {
    let settings = ControllerSettings {
        elections_per_round_max: 2,
        broker_session_timeout_ms: 1_000_000,
        ..Default::default()
    };
    let mut world = World::with(settings).brokers(2);
    let partitions: [&[i32]; 3] = [&[0, 1], &[0, 1], &[0, 1]];
    world.create(assigned("t", &partitions));
    world.fence(0);
    world.start(0, 1);
    for index in 0..3 {
        world.set_isr("t", index, &[1, 0]);
    }
    assert_eq!(world.tick(), 0);
    world.pass(300_000);
    assert_eq!(world.tick(), 2);
    assert_eq!(world.tick(), 1, "a full round is followed by the next at once");
    assert!(
        world
            .topic("t")
            .partitions
            .iter()
            .all(|partition| partition.leader == 0)
    );
    assert_eq!(world.tick(), 0);
}

fn reassign(world: &mut World, topic: &str, replicas: Option<&[NodeId]>, resize: bool) -> i16 {
    let partition = ReassignablePartition::default()
        .with_partition_index(0)
        .with_replicas(replicas.map(|ids| ids.iter().map(|id| (*id).into()).collect()));
    let topic = ReassignableTopic::default()
        .with_name(name(topic))
        .with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default()
        .with_allow_replication_factor_change(resize)
        .with_topics(vec![topic]);
    let decision = world
        .controller
        .alter_partition_reassignments(&world.image, world.now, &request);
    world.decide(decision).responses[0].partitions[0].error_code
}

#[test]
fn a_reassignment_completes_when_the_new_replicas_are_in_sync() {
    let mut world = World::of_brokers(4);
    world.create_on("t", &[0, 1]);
    assert_eq!(reassign(&mut world, "t", Some(&[2, 3]), true), 0);
    let partition = world.partition("t", 0);
    assert_eq!(partition.replicas, [2, 3, 0, 1]);
    assert_eq!(
        (&partition.adding_replicas[..], &partition.removing_replicas[..]),
        (&[2, 3][..], &[0, 1][..])
    );
    let listed = Controller::list_partition_reassignments(
        &world.image,
        &ListPartitionReassignmentsRequest::default().with_topics(None),
    );
    assert_eq!(listed.topics[0].partitions[0].adding_replicas, [2, 3]);
    assert_eq!(world.set_isr("t", 0, &[0, 1, 2]), 0);
    let leader_moves = world.set_isr("t", 0, &[0, 1, 2, 3]);
    assert_eq!(leader_moves, Code::NewLeaderElected.code());
    let partition = world.partition("t", 0);
    assert_eq!(
        (&partition.replicas[..], &partition.isr[..], partition.leader),
        (&[2, 3][..], &[2, 3][..], 2)
    );
    assert!(partition.adding_replicas.is_empty() && partition.removing_replicas.is_empty());
    assert!(partition.leader_epoch > 0);
}

#[test]
fn dropping_or_reordering_replicas_needs_no_wait() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0, 1, 2]);
    assert_eq!(reassign(&mut world, "t", Some(&[2, 0, 1]), true), 0);
    let partition = world.partition("t", 0);
    assert_eq!(
        (&partition.replicas[..], partition.leader, partition.leader_epoch),
        (&[2, 0, 1][..], 0, 0)
    );
    assert_eq!(
        reassign(&mut world, "t", Some(&[0, 1]), false),
        Code::InvalidReplicationFactor.code()
    );
    assert_eq!(reassign(&mut world, "t", Some(&[0, 1]), true), 0);
    let partition = world.partition("t", 0);
    assert_eq!(
        (&partition.replicas[..], &partition.isr[..]),
        (&[0, 1][..], &[0, 1][..])
    );
    assert_eq!(
        partition.leader_epoch, 1,
        "the replica that left is fenced by a new epoch"
    );
}

#[test]
fn a_reassignment_can_be_cancelled() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0, 1]);
    assert_eq!(
        reassign(&mut world, "t", None, true),
        Code::NoReassignmentInProgress.code()
    );
    assert_eq!(
        reassign(&mut world, "t", Some(&[2, 7]), true),
        Code::InvalidReplicaAssignment.code()
    );
    reassign(&mut world, "t", Some(&[2, 0]), true);
    assert_eq!(reassign(&mut world, "t", None, true), 0);
    let partition = world.partition("t", 0);
    assert_eq!(
        (&partition.replicas[..], &partition.isr[..], partition.leader),
        (&[0, 1][..], &[0, 1][..], 0)
    );
    assert!(partition.removing_replicas.is_empty() && partition.adding_replicas.is_empty());
}

#[test]
fn cancelling_does_not_lose_records_unasked() {
    let mut world = World::of_brokers(3);
    world.create_on("t", &[0]);
    reassign(&mut world, "t", Some(&[1, 2]), true);
    world.set_isr("t", 0, &[0, 1]);
    world.fence(0);
    assert_eq!(world.partition("t", 0).isr, [1]);
    assert_eq!(
        reassign(&mut world, "t", None, true),
        Code::InvalidReplicaAssignment.code()
    );
}
