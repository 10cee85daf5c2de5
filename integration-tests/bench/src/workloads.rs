//! Every workload once: its row, what it does, which figures it shows, and what those should be.
//!
//! Rows have the numbers of the plan's table; a letter marks a second measurement of the same row. Bounds are information
//! for the reader and never decide whether a run succeeds.

pub mod against_plain;
pub mod bounds;
pub mod catch_up;
pub mod command_line;
pub mod compaction;
pub mod connections;
pub mod first_ack;
pub mod many;
pub mod start;
pub mod table;
pub mod topics;
pub mod transactions;
pub mod warm_up;

use anyhow::{Result, ensure};

use crate::load::{self, ConsumeLoad, Load, ProduceLoad};
use crate::machine;
use crate::metric::{Figures, Metric};
use crate::scale::Scale;
use crate::systems::{Cluster, Programs, System};
use crate::workloads::connections::Opening;
use crate::workloads::topics::Topic;
use crate::workloads::transactions::TransactionLoad;

/// Workloads that share a picture and perhaps a running cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// The picture's file name.
    pub name: &'static str,
    /// The heading.
    pub title: &'static str,
    /// Nodes of its clusters.
    pub nodes: usize,
    /// How its workloads come to their clusters.
    pub sharing: Sharing,
    /// Lines of its nodes' properties, the same for every system.
    pub broker_lines: &'static [&'static str],
    /// Its workloads.
    pub workloads: &'static [Workload],
}

/// How the workloads of a group come to their clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// One cluster has all of them, one after another.
    OneForAll,
    /// Each has a new one.
    OneForEach,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workload {
    /// Its row.
    pub row: &'static str,
    /// What is done.
    pub title: &'static str,
    /// How.
    pub plan: Plan,
    /// The figures that its table shows; the picture shows the first.
    pub shown: &'static [Metric],
    /// What they should be.
    pub bounds: &'static [Bound],
}

/// How a workload is carried out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Plan {
    /// Producers alone.
    Produce(Topic, ProduceLoad),
    /// Producers alone, for so long that segments roll and the kernel, or the broker, writes back.
    ProduceLong(Topic, ProduceLoad),
    /// Producers, and consumers that read at once.
    ProduceAndConsume(Topic, ProduceLoad, ConsumeLoad),
    /// A consumer reads so many bytes from memory.
    CatchUp(u64),
    /// A consumer reads so many bytes from the disk, as fast as it can or at most at a rate, while others produce.
    ColdCatchUp(u64, Option<f64>, ProduceLoad),
    /// So many topics are created one after another.
    TopicsInTurn(u64),
    /// A topic of so many partitions is created, and survives a restart.
    Partitions(i32),
    /// Producers over few and over many partitions.
    ThroughputOver(i32, i32, ProduceLoad),
    /// So many connections are opened, all at once or in turn.
    Connections(Opening, u64),
    /// So many connections are held and do nothing.
    IdleConnections(u64),
    /// Topics are listed so many times.
    ListTopics(u64),
    /// A formatted node is started.
    EmptyStart,
    /// A node does nothing, then has a load.
    Idle(ProduceLoad),
    /// A node with so many bytes in so many partitions is stopped and started.
    StartAfterStop(u64, i32),
    /// A node with so many bytes not flushed is killed and started.
    StartAfterKill(u64),
    /// So many keys are updated so many times and compacted.
    Compaction(u64, u32),
    /// Transactions of one producer, one after another.
    Transactions(Topic, TransactionLoad),
    /// Idempotent producers against plain ones.
    Idempotent(Topic, ProduceLoad),
    /// A consumer reads so many bytes of transactions under read_committed, against read_uncommitted.
    ReadCommitted(u64),
}

/// How much a bound matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It is to hold.
    Must,
    /// It would be good.
    Goal,
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// At most so much.
    AtMost(f64),
    /// At least so much.
    AtLeast(f64),
    /// At most this share of what Apache Kafka has.
    OfKafkaAtMost(f64),
    /// At least so many times what Apache Kafka has.
    OfKafkaAtLeast(f64),
    /// At most so many times what the floor server has.
    OfFloorAtMost(f64),
}

/// What a figure of Odradek should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// The figure.
    pub metric: Metric,
    /// How much it matters.
    pub level: Level,
    /// The limit.
    pub limit: Limit,
}

impl Workload {
    /// How many requests are due per second, whatever the system can do; none if it sends as many as are answered.
    pub fn requests_per_second(&self) -> Option<f64> {
        let (Plan::Produce(_, load)
        | Plan::ProduceLong(_, load)
        | Plan::ProduceAndConsume(_, load, _)
        | Plan::ColdCatchUp(_, _, load)) = &self.plan
        else {
            return None;
        };
        Some(load.records_per_second? / f64::from(load.shape.records))
    }

    /// Whether this system can do it: the floor knows nothing but Produce, and stands for one node.
    pub fn suits(&self, system: System) -> bool {
        system != System::Floor
            || matches!(self.plan, Plan::Produce(topic, _) | Plan::ProduceLong(topic, _) if topic.replicas == 1)
    }

    /// Whether it starts the formatted nodes itself.
    pub fn starts(&self) -> bool {
        self.plan == Plan::EmptyStart
    }

    /// Whether its figures depend on whether pages were used before.
    pub fn wants_used_pages(&self) -> bool {
        matches!(self.plan, Plan::ThroughputOver(..) | Plan::ProduceLong(..))
    }

    /// Carries it out.
    ///
    /// # Errors
    /// Something failed or was lost.
    pub fn run(&self, cluster: &mut Cluster, programs: &Programs, scale: &Scale) -> Result<Figures> {
        let row = self.row;
        match self.plan {
            Plan::Produce(topic, produce) => {
                Ok(under_load(cluster, row, &topic, produce, None, scale)?.produce_figures())
            }
            Plan::ProduceLong(topic, produce) => {
                let seconds = LONG_SECONDS / scale.divisor;
                let scale = Scale { seconds, ..*scale };
                Ok(under_load(cluster, row, &topic, produce, None, &scale)?.produce_figures())
            }
            Plan::ProduceAndConsume(topic, produce, consume) => {
                Ok(under_load(cluster, row, &topic, produce, Some(consume), scale)?.delivery_figures())
            }
            Plan::CatchUp(bytes) => catch_up::warm(cluster, row, bytes, scale),
            Plan::ColdCatchUp(bytes, rate, produce) => {
                catch_up::cold(cluster, row, bytes, rate, produce, scale)
            }
            Plan::TopicsInTurn(count) => many::topics_in_turn(cluster, row, count, scale),
            Plan::Partitions(count) => many::partitions(cluster, row, count, scale),
            Plan::ThroughputOver(few, many, produce) => {
                many::throughput(cluster, row, (few, many), produce, scale)
            }
            Plan::Connections(opening, count) => connections::opened(cluster, opening, count, scale),
            Plan::IdleConnections(count) => connections::idle(cluster, count, scale),
            Plan::ListTopics(count) => command_line::list_topics(cluster, programs, row, count, scale),
            Plan::EmptyStart => start::empty(cluster),
            Plan::Idle(produce) => start::idle(cluster, row, produce, scale),
            Plan::StartAfterStop(bytes, count) => start::after_clean_stop(cluster, row, bytes, count, scale),
            Plan::StartAfterKill(bytes) => start::after_kill(cluster, row, bytes, scale),
            Plan::Compaction(keys, updates) => compaction::run(cluster, row, keys, updates, scale),
            Plan::Transactions(topic, load) => transactions::run(cluster, row, &topic, load, scale),
            Plan::Idempotent(topic, produce) => {
                against_plain::idempotent(cluster, row, &topic, produce, scale)
            }
            Plan::ReadCommitted(bytes) => against_plain::read_committed(cluster, row, bytes, scale),
        }
    }
}

/// The window of a long load: several times the half minute after which a kernel writes back what is old, and the minute of a
/// checkpoint, and long enough that segments roll.
const LONG_SECONDS: f64 = 120.0;
/// No window is made longer than this.
const SECONDS_MAX: f64 = 90.0;

/// Makes the topic, runs the load, and deletes the topic. A window in which nothing came, on a machine that has better to
/// do, is followed by one of twice its length.
fn under_load(
    cluster: &mut Cluster,
    row: &str,
    topic: &Topic,
    produce: ProduceLoad,
    consume: Option<ConsumeLoad>,
    scale: &Scale,
) -> Result<load::Measured> {
    let records_per_second = produce.records_per_second.map(|rate| scale.rate(rate));
    let produce = ProduceLoad {
        records_per_second,
        ..produce
    };
    let measure = |warm_seconds: f64, seconds: f64| {
        let name = topics::unique_name(row);
        let load = Load {
            target: topic.create(cluster, &name)?,
            produce,
            consume,
            warm_seconds,
            seconds,
        };
        machine::settle();
        let measured = load::run(&load, &cluster.pids())?;
        topics::delete(cluster, &name)?;
        Ok(measured)
    };
    warm_up::once(cluster, scale, |seconds| measure(0.0, seconds).map(drop))?;
    let mut seconds = scale.seconds;
    loop {
        let measured = measure(scale.warm_seconds, seconds)?;
        if measured.is_something(consume.is_some()) {
            return Ok(measured);
        }
        ensure!(seconds < SECONDS_MAX, "nothing came in a window of {seconds} s");
        seconds *= 2.0;
    }
}
