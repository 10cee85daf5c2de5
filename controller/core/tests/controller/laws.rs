//! Random decisions and faults: `World::commit` checks after each that the image still makes sense.

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, CreatePartitionsRequest, DeleteTopicsRequest, ElectLeadersRequest,
    UnregisterBrokerRequest,
};
use odradek_common::ids::{NO_NODE, NodeId};
use odradek_common::metadata::MetadataImage;
use odradek_controller_core::controller::ControllerSettings;
use proptest::prelude::*;

use super::configs::{alter, request as config_request};
use super::features::set_elr;
use super::harness::{World, name, registration, sized};

const BROKERS: i32 = 5;
const TOPICS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Register {
        broker: i32,
        incarnation: u8,
        clean: bool,
    },
    Heartbeat {
        broker: i32,
        behind: bool,
        want_fence: bool,
        want_shut_down: bool,
    },
    Drop {
        broker: i32,
    },
    Unregister {
        broker: i32,
    },
    Pass {
        ms: u64,
    },
    Failover,
    Create {
        topic: usize,
        partitions: i32,
        factor: i16,
    },
    Delete {
        topic: usize,
    },
    Grow {
        topic: usize,
    },
    SetIsr {
        topic: usize,
        members: u8,
    },
    Elect {
        unclean: bool,
    },
    Reassign {
        topic: usize,
        replicas: Option<Vec<i32>>,
    },
    MinIsr {
        topic: Option<usize>,
        min: u8,
    },
    Unclean {
        topic: usize,
        on: bool,
    },
    Elr {
        on: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let broker = || 0..BROKERS;
    let topic = || 0..TOPICS.len();
    let replicas = proptest::sample::subsequence((0..BROKERS).collect::<Vec<_>>(), 1..4).prop_shuffle();
    prop_oneof![
        4 => (broker(), 0u8..4, any::<bool>())
            .prop_map(|(broker, incarnation, clean)| Step::Register { broker, incarnation, clean }),
        8 => (broker(), proptest::bool::weighted(0.2), proptest::bool::weighted(0.1), proptest::bool::weighted(0.2))
            .prop_map(|(broker, behind, want_fence, want_shut_down)| {
                Step::Heartbeat { broker, behind, want_fence, want_shut_down }
            }),
        3 => broker().prop_map(|broker| Step::Drop { broker }),
        1 => broker().prop_map(|broker| Step::Unregister { broker }),
        2 => prop_oneof![Just(100), Just(5_000), Just(10_000), Just(400_000)].prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Failover),
        2 => (topic(), 1..4, 1i16..4)
            .prop_map(|(topic, partitions, factor)| Step::Create { topic, partitions, factor }),
        1 => topic().prop_map(|topic| Step::Delete { topic }),
        1 => topic().prop_map(|topic| Step::Grow { topic }),
        6 => (topic(), any::<u8>()).prop_map(|(topic, members)| Step::SetIsr { topic, members }),
        1 => any::<bool>().prop_map(|unclean| Step::Elect { unclean }),
        3 => (topic(), proptest::option::weighted(0.7, replicas))
            .prop_map(|(topic, replicas)| Step::Reassign { topic, replicas }),
        2 => (proptest::option::of(topic()), 1u8..4).prop_map(|(topic, min)| Step::MinIsr { topic, min }),
        1 => (topic(), any::<bool>()).prop_map(|(topic, on)| Step::Unclean { topic, on }),
        1 => any::<bool>().prop_map(|on| Step::Elr { on }),
    ]
}

fn run(world: &mut World, step: &Step) {
    match step {
        Step::Register {
            broker,
            incarnation,
            clean,
        } => {
            let epoch = world
                .image
                .brokers
                .get(broker)
                .map_or(-1, |known| known.broker_epoch);
            let request = registration(*broker, u128::from(*incarnation));
            world.register(&request.with_previous_broker_epoch(if *clean { epoch } else { -1 }));
        }
        Step::Heartbeat {
            broker,
            behind,
            want_fence,
            want_shut_down,
        } => {
            let offset = if *behind {
                world.image.offset - 3
            } else {
                world.image.offset
            };
            let request = world
                .heartbeat_request(*broker)
                .with_current_metadata_offset(offset)
                .with_want_fence(*want_fence)
                .with_want_shut_down(*want_shut_down);
            world.send_heartbeat(&request);
        }
        Step::Drop { broker } => world.fence(*broker),
        Step::Unregister { broker } => {
            let request = UnregisterBrokerRequest::default().with_broker_id((*broker).into());
            let decision = world
                .controller
                .unregister_broker(&world.image, world.now, &request);
            world.decide(decision);
        }
        Step::Create { .. }
        | Step::Delete { .. }
        | Step::Grow { .. }
        | Step::SetIsr { .. }
        | Step::Reassign { .. } => run_on_topic(world, step),
        other => run_on_cluster(world, other),
    }
}

fn run_on_cluster(world: &mut World, step: &Step) {
    match step {
        Step::Pass { ms } => {
            world.pass(*ms);
            world.tick();
        }
        Step::Failover => world.lead(),
        Step::Elect { unclean } => {
            let request = ElectLeadersRequest::default().with_election_type(i8::from(*unclean));
            let decision =
                world
                    .controller
                    .elect_leaders(&world.image, world.now, &request.with_topic_partitions(None));
            world.decide(decision);
        }
        Step::MinIsr { topic, min } => {
            let (kind, resource) = topic.map_or((4, ""), |topic| (2, TOPICS[topic]));
            alter(
                world,
                &config_request(
                    kind,
                    resource,
                    &[("min.insync.replicas", 0, Some(&min.to_string()))],
                ),
            );
        }
        Step::Unclean { topic, on } => {
            let on = on.to_string();
            alter(
                world,
                &config_request(
                    2,
                    TOPICS[*topic],
                    &[("unclean.leader.election.enable", 0, Some(&on))],
                ),
            );
        }
        Step::Elr { on } => {
            set_elr(world, *on);
        }
        other => unreachable!("{other:?} concerns a broker or a topic"),
    }
}

fn run_on_topic(world: &mut World, step: &Step) {
    match step {
        Step::Create {
            topic,
            partitions,
            factor,
        } => {
            world.create(sized(TOPICS[*topic], *partitions, *factor));
        }
        Step::Delete { topic } => {
            let request = DeleteTopicsRequest::default().with_topic_names(vec![name(TOPICS[*topic])]);
            let decision = world
                .controller
                .delete_topics(&world.image, world.now, 5, &request);
            world.decide(decision);
        }
        Step::Grow { topic } => {
            let count = world
                .image
                .topic(TOPICS[*topic])
                .map_or(1, |topic| topic.partitions.len())
                + 1;
            let grown = CreatePartitionsTopic::default()
                .with_name(name(TOPICS[*topic]))
                .with_count(i32::try_from(count).expect("few partitions"))
                .with_assignments(None);
            let request = CreatePartitionsRequest::default().with_topics(vec![grown]);
            let decision = world
                .controller
                .create_partitions(&world.image, world.now, &request);
            world.decide(decision);
        }
        Step::SetIsr { topic, members } => {
            let Some(partition) = world.image.partition(TOPICS[*topic], 0).cloned() else {
                return;
            };
            if partition.leader == NO_NODE {
                return;
            }
            let chosen = |at: usize, id: NodeId| id == partition.leader || members >> (at % 8) & 1 == 1;
            let isr: Vec<NodeId> = (0..)
                .zip(&partition.replicas)
                .filter(|(at, id)| chosen(*at, **id))
                .map(|(_, id)| *id)
                .collect();
            world.set_isr(TOPICS[*topic], 0, &isr);
        }
        Step::Reassign { topic, replicas } => {
            let ids = replicas
                .as_ref()
                .map(|ids| ids.iter().map(|id| (*id).into()).collect());
            let partition = ReassignablePartition::default()
                .with_partition_index(0)
                .with_replicas(ids);
            let topic = ReassignableTopic::default()
                .with_name(name(TOPICS[*topic]))
                .with_partitions(vec![partition]);
            let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
            let decision = world
                .controller
                .alter_partition_reassignments(&world.image, world.now, &request);
            world.decide(decision);
        }
        other => unreachable!("{other:?} touches no topic"),
    }
}

fn play(steps: &[Step]) -> MetadataImage {
    let mut world = World::with(ControllerSettings {
        min_insync_replicas: 2,
        ..Default::default()
    })
    .brokers(BROKERS);
    for topic in TOPICS {
        world.create(sized(topic, 2, 3));
    }
    for step in steps {
        run(&mut world, step);
        if let Some(deadline) = world.controller.next_deadline(&world.image) {
            assert!(deadline + 1_000_000 > world.now.mono_ms);
        }
    }
    world.image
}

/// What a broker that is heard again and again becomes: unfenced.
fn settle(world: &mut World) {
    for id in 0..BROKERS {
        let registered = world.image.brokers.contains_key(&id);
        if !registered {
            world.register(&registration(id, 9));
        }
        world.heartbeat(id);
        world.heartbeat(id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_breaks_the_invariants_and_the_same_steps_give_the_same_image(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        prop_assert_eq!(play(&steps), play(&steps));
    }

    /// Liveness: where an unclean election is allowed, a cluster of living brokers leads every partition.
    #[test]
    fn everybody_alive_means_everything_led(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::with(ControllerSettings { unclean_leader_election_enable: true, ..Default::default() })
            .brokers(BROKERS);
        for topic in TOPICS {
            world.create(sized(topic, 2, 3));
        }
        for step in steps.iter().filter(|step| !matches!(step, Step::Unclean { .. })) {
            run(&mut world, step);
        }
        settle(&mut world);
        // A broker that asked to stop goes on stopping until it is fenced; start it again.
        for id in 0..BROKERS {
            world.fence(id);
            world.heartbeat(id);
        }
        for topic in world.image.topics.values() {
            for partition in &topic.partitions {
                prop_assert!(partition.leader != NO_NODE, "{}: {:?}", topic.name, partition);
            }
        }
    }
}
