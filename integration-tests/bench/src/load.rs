//! One measurement under load: producers and consumers on one thread, a warm-up, a window, and what the broker processes
//! used in it.
//!
//! Promises that everything sent was acknowledged, that everything a consumer was to read was read once and in order, and
//! that only what was due within the window counts. Decides nothing about topics or systems.

pub mod connection;
pub mod consumer;
pub mod fill;
pub mod ledger;
pub mod producer;
pub mod reactor;
pub mod schedule;
pub mod transactional;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Result, ensure};
use odradek_common::records::compression::Compression;

use crate::admin::Admin;
use crate::batches::{BatchShape, Requests};
use crate::clock::{self, Nanos, SECOND};
use crate::latency::Latencies;
use crate::load::consumer::Consumer;
use crate::load::ledger::Ledger;
use crate::load::producer::{Numbering, Producer, ProducerSettings};
use crate::load::reactor::{Reactor, Session};
use crate::load::schedule::{Pace, Window};
use crate::metric::{Figures, Metric};
use crate::proc::{self, Usage};
use crate::protocol::fetch::FetchSettings;
use crate::protocol::transactions;

/// Requests that may still be on their way when the window ends must be answered within this.
const DRAIN_LIMIT: Nanos = 60 * SECOND;

/// A topic as the load sees it: who leads its partitions.
#[derive(Debug, Clone)]
pub struct Target {
    /// The topic.
    pub topic: String,
    /// The leader's address of each partition, by partition.
    pub leaders: Vec<SocketAddr>,
}

impl Target {
    /// The nodes that lead at least one partition, each with its partitions.
    pub fn by_leader(&self) -> Vec<(SocketAddr, Vec<i32>)> {
        let mut nodes: Vec<(SocketAddr, Vec<i32>)> = Vec::new();
        for (partition, leader) in (0_i32..).zip(&self.leaders) {
            match nodes.iter_mut().find(|(address, _)| address == leader) {
                Some((_, partitions)) => partitions.push(partition),
                None => nodes.push((*leader, vec![partition])),
            }
        }
        nodes
    }

    /// Which partitions each of `connections` serves: all have one leader, and each partition has as few connections as
    /// possible.
    pub fn shares(&self, connections: usize) -> Vec<(SocketAddr, Vec<i32>)> {
        let nodes = self.by_leader();
        let per_node = |node: usize| (connections + nodes.len() - 1 - node) / nodes.len();
        (0..connections)
            .map(|number| {
                let (node, place) = (number % nodes.len(), number / nodes.len());
                let (address, partitions) = &nodes[node];
                let own = partitions.iter().skip(place).step_by(per_node(node).max(1));
                let own: Vec<i32> = own.copied().collect();
                if own.is_empty() {
                    (*address, vec![partitions[place % partitions.len()]])
                } else {
                    (*address, own)
                }
            })
            .collect()
    }
}

/// What producers do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProduceLoad {
    /// One batch, which is one request.
    pub shape: BatchShape,
    /// Connections, spread over the leaders.
    pub connections: usize,
    /// Requests that a connection may have unanswered.
    pub in_flight_max: usize,
    /// Records per second over all connections; none is as many as the system takes.
    pub records_per_second: Option<f64>,
    /// -1 waits for the in-sync replicas, 1 for the leader.
    pub acks: i16,
    /// Whether each connection has a producer id and numbers its batches.
    pub idempotent: bool,
}

impl ProduceLoad {
    /// Milliseconds between two requests of one connection.
    fn pace(&self, connection: usize, start: Nanos) -> Pace {
        match self.records_per_second {
            None => Pace::Saturated,
            Some(records) => {
                let requests = records / f64::from(self.shape.records);
                let period = SECOND as f64 * self.connections as f64 / requests;
                // Connections take turns rather than sending all at once.
                let phase = period * connection as f64 / self.connections as f64;
                Pace::open_loop(start + phase as Nanos, period)
            }
        }
    }
}

/// What consumers do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConsumeLoad {
    /// Groups of connections; each group reads everything.
    pub readers: usize,
    /// Connections of a group, which share the partitions.
    pub connections: usize,
    /// How they fetch.
    pub fetch: FetchSettings,
}

/// A measurement under load.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub target: Target,
    /// What is produced.
    pub produce: ProduceLoad,
    /// What is read meanwhile.
    pub consume: Option<ConsumeLoad>,
    /// Seconds before the window.
    pub warm_seconds: f64,
    /// Seconds of the window.
    pub seconds: f64,
}

/// What one measurement showed.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Requests acknowledged within the window.
    pub requests: u64,
    /// Bytes of record batches acknowledged within the window, as they would be without compression.
    pub bytes: u64,
    /// From when a request was due to its answer.
    pub produce: Latencies,
    /// From when a record's request was due to its arrival at a consumer.
    pub end_to_end: Latencies,
    /// Records that reached consumers within the window.
    pub delivered_records: u64,
    /// Bytes of record batches that reached consumers within the window.
    pub delivered_bytes: u64,
    /// What the broker processes used within the window.
    pub usage: Usage,
    /// CPU of this program within the window, as a share of one core.
    pub client_cpu_share: f64,
    /// All requests that were sent, warm-up and all; each was acknowledged.
    pub requests_in_all: u64,
    /// All records that consumers read.
    pub delivered_in_all: u64,
}

impl Measured {
    /// Whether anything came within the window, so that there are figures at all.
    pub fn is_something(&self, consumed: bool) -> bool {
        let produced = self.requests > 0 && self.produce.count() > 0;
        produced && (!consumed || (self.delivered_bytes > 0 && self.end_to_end.count() > 0))
    }

    /// The figures of a produce workload.
    pub fn produce_figures(&self) -> Figures {
        let mut figures = Figures::default();
        let seconds = self.usage.elapsed_seconds;
        figures.set(Metric::Throughput, self.bytes as f64 / 1e6 / seconds);
        figures.set(Metric::Requests, self.requests as f64 / seconds);
        figures.set(Metric::CpuPerGb, self.usage.cpu_seconds * 1e9 / self.bytes as f64);
        let with_kernel = self.usage.cpu_seconds + self.usage.kernel_seconds;
        figures.set(Metric::CpuWithKernelPerGb, with_kernel * 1e9 / self.bytes as f64);
        figures.set(
            Metric::CpuPerRequest,
            self.usage.cpu_seconds * 1e6 / self.requests as f64,
        );
        self.produce.add_to(&mut figures);
        self.add_usage(&mut figures);
        figures
    }

    /// The figures of a workload whose records are read at once: CPU counts by what was delivered.
    pub fn delivery_figures(&self) -> Figures {
        let mut figures = Figures::default();
        let (seconds, cpu_seconds) = (self.usage.elapsed_seconds, self.usage.cpu_seconds);
        figures.set(Metric::Throughput, self.delivered_bytes as f64 / 1e6 / seconds);
        figures.set(Metric::Requests, self.requests as f64 / seconds);
        figures.set(Metric::CpuPerGb, cpu_seconds * 1e9 / self.delivered_bytes as f64);
        figures.set(Metric::CpuPerRequest, cpu_seconds * 1e6 / self.requests as f64);
        self.end_to_end.add_to(&mut figures);
        self.add_usage(&mut figures);
        figures
    }

    /// What the processes used, which every workload shows.
    pub fn add_usage(&self, figures: &mut Figures) {
        self.usage.add_to(figures);
        figures.set(Metric::ClientCpuShare, self.client_cpu_share * 100.0);
    }
}

/// Runs the load against processes `pids`.
///
/// # Errors
/// A connection failed, a request was refused, or something was lost.
pub fn run(load: &Load, pids: &[u32]) -> Result<Measured> {
    let prepared = Prepared::new(load)?;
    prepared.run(soon(), pids)
}

/// A moment at which a load may start: a little later than now, for connecting.
pub fn soon() -> Nanos {
    clock::now() + SECOND / 20
}

/// A load whose requests are built.
#[derive(Debug)]
pub struct Prepared<'a> {
    load: &'a Load,
    producers: Vec<PreparedProducer>,
    batch_bytes: usize,
}

#[derive(Debug)]
struct PreparedProducer {
    address: SocketAddr,
    partitions: Vec<i32>,
    requests: Requests,
    numbering: Option<Box<Numbering>>,
}

impl<'a> Prepared<'a> {
    /// Builds the requests, which may take longer than a warm-up.
    ///
    /// # Errors
    /// A batch does not fit a request.
    pub fn new(load: &'a Load) -> Result<Self> {
        let produce = &load.produce;
        let producers = load
            .target
            .shares(produce.connections)
            .into_iter()
            .map(|(address, partitions)| {
                let requests = Requests::new(&load.target.topic, &partitions, produce.acks, &produce.shape)?;
                let numbering = match produce.idempotent {
                    true => Some(Box::new(numbering(address, &produce.shape, partitions.len())?)),
                    false => None,
                };
                Ok(PreparedProducer {
                    address,
                    partitions,
                    requests,
                    numbering,
                })
            });
        Ok(Self {
            load,
            producers: producers.collect::<Result<_>>()?,
            batch_bytes: produce.shape.uncompressed_bytes(),
        })
    }

    /// What counts if the load starts then.
    pub fn window(&self, start: Nanos) -> Window {
        Window::new(
            start + clock::seconds(self.load.warm_seconds),
            clock::seconds(self.load.seconds),
        )
    }

    /// Runs the load from `start` on.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(self, start: Nanos, pids: &[u32]) -> Result<Measured> {
        let (load, window) = (self.load, self.window(start));
        let ledger = Ledger::new(load.target.leaders.len(), load.produce.shape.records);
        let ledger = Rc::new(RefCell::new(ledger));
        let mut reactor = Reactor::new()?;
        self.add_producers(&mut reactor, start, window, &ledger)?;
        add_consumers(&mut reactor, load, window, &ledger)?;

        let brokers = proc::watch(pids.to_vec(), window.from, window.to);
        let own = proc::watch(vec![std::process::id()], window.from, window.to);
        let ran = reactor.run(window.to + DRAIN_LIMIT);
        // Why a load ended early says more than that it did.
        let (usage, own) = (brokers.finish(), own.finish());
        ran?;
        let (usage, own) = (usage?, own?);
        let client_cpu_share = own.cpu_seconds / own.elapsed_seconds;
        let readers = load.consume.map_or(0, |consume| consume.readers);
        gather(
            reactor.into_sessions(),
            &ledger.borrow(),
            readers,
            usage,
            client_cpu_share,
        )
    }

    fn add_producers(
        self,
        reactor: &mut Reactor,
        start: Nanos,
        window: Window,
        ledger: &Rc<RefCell<Ledger>>,
    ) -> Result<()> {
        let produce = &self.load.produce;
        for (number, producer) in self.producers.into_iter().enumerate() {
            let settings = ProducerSettings {
                requests: producer.requests,
                batch_bytes: self.batch_bytes,
                partitions: producer.partitions,
                in_flight_max: produce.in_flight_max,
                pace: produce.pace(number, start),
                window,
                requests_max: u64::MAX,
                // Only consumers look into it.
                ledger: self.load.consume.map(|_| Rc::clone(ledger)),
                numbering: producer.numbering,
            };
            reactor.add(Session::Producer(Producer::connect(producer.address, settings)?))?;
        }
        Ok(())
    }
}

fn numbering(address: SocketAddr, shape: &BatchShape, requests: usize) -> Result<Numbering> {
    ensure!(
        shape.compression == Compression::None,
        "a compressed batch has no place known for its number"
    );
    let identity = transactions::init_producer_id(&mut Admin::open(address)?, None)?;
    Ok(Numbering::new(identity, shape, requests))
}

fn add_consumers(
    reactor: &mut Reactor,
    load: &Load,
    window: Window,
    ledger: &Rc<RefCell<Ledger>>,
) -> Result<()> {
    let Some(consume) = &load.consume else {
        return Ok(());
    };
    for _ in 0..consume.readers {
        for (address, partitions) in load.target.shares(consume.connections) {
            let topic = &load.target.topic;
            let consumer = Consumer::connect(
                address,
                topic,
                &partitions,
                consume.fetch,
                window,
                Rc::clone(ledger),
            )?;
            reactor.add(Session::Consumer(consumer))?;
        }
    }
    Ok(())
}

fn gather(
    sessions: Vec<Session>,
    ledger: &Ledger,
    readers: usize,
    usage: Usage,
    client_cpu_share: f64,
) -> Result<Measured> {
    let mut measured = Measured {
        requests: 0,
        bytes: 0,
        produce: Latencies::new(),
        end_to_end: Latencies::new(),
        delivered_records: 0,
        delivered_bytes: 0,
        usage,
        client_cpu_share,
        requests_in_all: 0,
        delivered_in_all: 0,
    };
    for session in sessions {
        match session {
            Session::Producer(producer) => {
                let tally = producer.tally();
                ensure!(
                    tally.sent == tally.acknowledged,
                    "{} requests were sent and {} acknowledged",
                    tally.sent,
                    tally.acknowledged
                );
                measured.requests += tally.requests;
                measured.bytes += tally.bytes;
                measured.requests_in_all += tally.sent;
                measured.produce.merge(&tally.latencies);
                measured.produce.merge(&tally.unsent);
                // What was not sent reaches nobody.
                for _ in 0..readers {
                    measured.end_to_end.merge(&tally.unsent);
                }
            }
            Session::Consumer(consumer) => {
                let tally = consumer.tally();
                let wanted = ledger.records_of(consumer.partitions());
                ensure!(
                    tally.read == wanted,
                    "a consumer read {} records of {wanted}",
                    tally.read
                );
                measured.delivered_records += tally.records;
                measured.delivered_bytes += tally.bytes;
                measured.delivered_in_all += tally.read;
                measured.end_to_end.merge(&tally.latencies);
            }
        }
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(leaders: &[u16]) -> Target {
        let leaders = leaders
            .iter()
            .map(|port| SocketAddr::from(([127, 0, 0, 1], *port)))
            .collect();
        Target {
            topic: "t".to_owned(),
            leaders,
        }
    }

    fn shares(target: &Target, connections: usize) -> Vec<(u16, Vec<i32>)> {
        let shares = target.shares(connections);
        shares
            .into_iter()
            .map(|(address, partitions)| (address.port(), partitions))
            .collect()
    }

    #[test]
    fn few_connections_share_the_partitions_without_overlap() {
        let one_node = target(&[1; 6]);
        assert_eq!(
            shares(&one_node, 4),
            [(1, vec![0, 4]), (1, vec![1, 5]), (1, vec![2]), (1, vec![3])]
        );
        assert_eq!(shares(&one_node, 1), [(1, vec![0, 1, 2, 3, 4, 5])]);
    }

    #[test]
    fn more_connections_than_partitions_share_a_partition() {
        assert_eq!(
            shares(&target(&[1, 1]), 3),
            [(1, vec![0]), (1, vec![1]), (1, vec![0])]
        );
    }

    #[test]
    fn a_connection_serves_partitions_of_one_leader() {
        let three = target(&[1, 2, 3, 1, 2, 3]);
        assert_eq!(
            shares(&three, 3),
            [(1, vec![0, 3]), (2, vec![1, 4]), (3, vec![2, 5])]
        );
        assert_eq!(shares(&three, 4)[3], (1, vec![3]));
    }
}
