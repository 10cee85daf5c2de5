//! Three nodes, their producers and an operator, through a time of faults and a time of healing.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreateTopicsRequest, ElectLeadersRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use odradek_common::ids::NodeId;
use odradek_common::metadata::MetadataImage;

use crate::checkers::{high_watermark, liveness};
use crate::env::{Env, Event, Flushing};
use crate::faults::Faults;
use crate::message::{ControllerRequest, Payload};
use crate::node::Node;
use crate::producer::{FIRST_PRODUCER, Producer};

/// The nodes, all of them voters.
pub const NODES: [NodeId; 3] = [1, 2, 3];
/// The cluster's id.
pub const CLUSTER_ID: &str = "c2ltdWxhdGVkLWNsdXN0ZXI";
/// `min.insync.replicas`.
pub const MIN_ISR: usize = 2;
/// `broker.session.timeout.ms`.
pub const BROKER_SESSION_MS: u64 = 3_000;
/// `broker.heartbeat.interval.ms`.
pub const HEARTBEAT_MS: u64 = 500;
/// `replica.lag.time.max.ms`.
pub const REPLICA_LAG_MS: u64 = 2_000;

const STEP_MS: u64 = 10;
const OPERATOR_MS: u64 = 400;
const TOPICS: u64 = 3;
const PARTITIONS: i32 = 2;
const TROUBLE_MS_MIN: u64 = 8_000;
const TROUBLE_MS_MAX: u64 = 20_000;
/// Everything is back within this time after the last fault.
const HEALING_MS_MAX: u64 = 30_000;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Where it began.
    pub seed: u64,
    /// Of everything that happened.
    pub hash: u64,
    /// What a person wants to see of it.
    pub events: Vec<String>,
    /// The first broken promise.
    pub failure: Option<String>,
    /// How much happened.
    pub counts: Counts,
}

/// How much happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Elections of partition leaders.
    pub elections: u64,
    /// Offsets of the metadata log.
    pub metadata_offsets: u64,
    /// Faults.
    pub faults: u64,
    /// From the last fault until everything was back.
    pub healing_ms: u64,
}

/// One seed, one history.
#[must_use]
pub fn simulate(seed: u64, flushing: Flushing) -> Trace {
    let mut scenario = Scenario::new(seed, flushing);
    let healing_ms = scenario.run();
    let Scenario { env, faults, .. } = scenario;
    Trace {
        seed,
        hash: env.hash,
        counts: Counts {
            acknowledged: env.checkers.acknowledged.records,
            elections: env.checkers.leaders.elections,
            metadata_offsets: env.checkers.metadata.offsets() as u64,
            faults: faults.count,
            healing_ms: healing_ms.as_ref().copied().unwrap_or(0),
        },
        failure: healing_ms.err(),
        events: env.lines,
    }
}

struct Scenario {
    env: Env,
    nodes: BTreeMap<NodeId, Node>,
    producers: Vec<Producer>,
    served: BTreeSet<String>,
    faults: Faults,
    trouble_until_ms: u64,
}

impl Scenario {
    fn new(seed: u64, flushing: Flushing) -> Self {
        let mut env = Env::new(seed, flushing);
        let mut nodes: BTreeMap<NodeId, Node> = NODES.iter().map(|id| (*id, Node::new(*id))).collect();
        for (id, node) in &mut nodes {
            node.start(&mut env);
            let at_ms = env.now.mono_ms + env.rng.below(STEP_MS);
            env.schedule(at_ms, Event::Step(*id));
        }
        env.schedule(env.now.mono_ms + OPERATOR_MS, Event::Operator);
        let first_fault_ms = env.now.mono_ms + env.rng.between(1_000, 4_000);
        env.schedule(first_fault_ms, Event::Fault);
        let trouble_until_ms = env.now.mono_ms + env.rng.between(TROUBLE_MS_MIN, TROUBLE_MS_MAX);
        let (producers, served, faults) = (Vec::new(), BTreeSet::new(), Faults::default());
        Self {
            env,
            nodes,
            producers,
            served,
            faults,
            trouble_until_ms,
        }
    }

    /// How long healing took, or the first broken promise.
    fn run(&mut self) -> Result<u64, String> {
        while self.env.now.mono_ms < self.trouble_until_ms {
            self.next()?;
        }
        self.env.note(format_args!("no more faults"));
        self.faults.heal(&mut self.env, &mut self.nodes);
        let since_ms = self.env.now.mono_ms;
        loop {
            let until_ms = self.env.now.mono_ms + OPERATOR_MS;
            while self.env.now.mono_ms < until_ms {
                self.next()?;
            }
            let Some(missing) = liveness::missing(&self.nodes, &self.newest(), &self.producers) else {
                return Ok(self.env.now.mono_ms - since_ms);
            };
            if self.env.now.mono_ms > since_ms + HEALING_MS_MAX {
                return Err(format!("not back after {HEALING_MS_MAX} ms: {missing}"));
            }
        }
    }

    fn is_troubled(&self) -> bool {
        self.env.now.mono_ms < self.trouble_until_ms
    }

    fn newest(&self) -> MetadataImage {
        self.env.checkers.metadata.newest().cloned().unwrap_or_default()
    }

    fn next(&mut self) -> Result<(), String> {
        let event = self.env.next_event().expect("timers never end");
        if let Some(event) = self.unless_paused(event) {
            self.take(event);
        }
        if let Some(image) = self.env.checkers.metadata.newest() {
            self.env.checkers.epochs.committed(image);
            if let Some(failure) = high_watermark::check(&self.nodes, image) {
                return Err(failure);
            }
        }
        self.env
            .checkers
            .failure()
            .map_or(Ok(()), |failure| Err(failure.to_owned()))
    }

    /// Whatever meets a process that stands still waits for it.
    fn unless_paused(&mut self, event: Event) -> Option<Event> {
        let id = match &event {
            Event::Deliver(message) => message.to.node,
            Event::Persisted { at, .. } | Event::Report { at, .. } | Event::Probed { at, .. } => at.node,
            Event::Step(id) => *id,
            Event::Producer(_) | Event::Fault | Event::Operator | Event::Undo(_) => return Some(event),
        };
        let node = self.nodes.get(&id).filter(|node| node.process.is_some());
        let until_ms = node.map_or(0, |node| node.paused_until);
        if until_ms <= self.env.now.mono_ms {
            return Some(event);
        }
        self.env.schedule(until_ms, event);
        None
    }

    fn take(&mut self, event: Event) {
        let env = &mut self.env;
        match event {
            Event::Deliver(message) => {
                let (kind, number) = message.payload.digest();
                env.digest(kind << 8 ^ u64::from(message.to.node.unsigned_abs()), number);
                if message.to.node >= FIRST_PRODUCER {
                    let at = usize::try_from(message.to.node - FIRST_PRODUCER).expect("a producer");
                    if let Payload::Produced { id, result } = message.payload {
                        self.producers[at].answered(env, id, result);
                    }
                } else if let Some(node) = self.nodes.get_mut(&message.to.node) {
                    node.deliver(env, message);
                }
            }
            Event::Persisted { at, number } => {
                self.nodes
                    .entry(at.node)
                    .and_modify(|node| node.persisted(env, at, number));
            }
            Event::Report { at, input } => {
                self.nodes
                    .entry(at.node)
                    .and_modify(|node| node.report(env, at, input));
            }
            Event::Probed {
                at,
                broker,
                broker_epoch,
                refused,
            } => {
                self.nodes
                    .entry(at.node)
                    .and_modify(|node| node.probed(env, at, broker, broker_epoch, refused));
            }
            Event::Step(id) => {
                env.schedule(env.now.mono_ms + STEP_MS, Event::Step(id));
                self.nodes.entry(id).and_modify(|node| node.step(env));
            }
            Event::Producer(at) => self.produce(at),
            Event::Fault if self.is_troubled() => self.faults.strike(&mut self.env, &mut self.nodes),
            Event::Fault => {}
            Event::Operator => self.operate(),
            Event::Undo(undo) => self.faults.undo(&mut self.env, &mut self.nodes, undo),
        }
    }

    fn produce(&mut self, at: usize) {
        let makes_more = self.is_troubled();
        let asked = self
            .env
            .rng
            .pick(&NODES)
            .and_then(|id| self.nodes.get(&id)?.process.as_ref());
        let key = self.producers[at].key();
        let leader = asked.and_then(|process| {
            let partition = process.broker.image().topic_by_id(&key.0)?.partition(key.1)?;
            (partition.leader >= 0).then_some(partition.leader)
        });
        self.producers[at].step(&mut self.env, makes_more, leader);
    }

    /// Creates what topics are due, puts producers on those that are there, and moves leaders home now and then.
    fn operate(&mut self) {
        self.env
            .schedule(self.env.now.mono_ms + OPERATOR_MS, Event::Operator);
        let image = self.newest();
        let due = (self.env.now.mono_ms / 2_000).min(TOPICS);
        let absent = (0..due)
            .map(|n| format!("topic-{n}"))
            .find(|name| image.topic(name).is_none());
        for topic in image.topics.values() {
            if self.served.insert(topic.name.to_string()) {
                self.add_producers(topic.id);
            }
        }
        let request = match absent {
            Some(name) => create_topic(&name),
            None if self.is_troubled() && self.env.rng.percent(10) => {
                ControllerRequest::ElectLeaders(ElectLeadersRequest::default().with_topic_partitions(None))
            }
            None => return,
        };
        let via = self
            .env
            .rng
            .pick(&NODES)
            .and_then(|id| self.nodes.get_mut(&id)?.process.as_mut());
        if let Some(process) = via {
            process.broker.forward(&mut self.env, request);
        }
    }

    fn add_producers(&mut self, topic: uuid::Uuid) {
        for partition in [0, 0, 1] {
            let at = self.producers.len();
            self.producers.push(Producer::new(at, (topic, partition)));
            self.env.schedule(self.env.now.mono_ms + 1, Event::Producer(at));
        }
    }
}

fn create_topic(name: &str) -> ControllerRequest {
    let min_isr = CreatableTopicConfig::default()
        .with_name(StrBytes::from_static_str("min.insync.replicas"))
        .with_value(Some(StrBytes::from_string(MIN_ISR.to_string())));
    let topic = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_string(name.to_owned())))
        .with_num_partitions(PARTITIONS)
        .with_replication_factor(i16::try_from(NODES.len()).expect("three"))
        .with_configs(vec![min_isr]);
    ControllerRequest::CreateTopics(
        CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(2_000),
    )
}
