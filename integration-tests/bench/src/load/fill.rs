//! Topics filled with a known number of batches, and read again from their start.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Result, ensure};

use crate::batches::{BatchShape, Requests};
use crate::clock::{self, Nanos, SECOND};
use crate::load::Target;
use crate::load::consumer::{self, Consumer};
use crate::load::ledger::Ledger;
use crate::load::producer::{Producer, ProducerSettings};
use crate::load::reactor::{Reactor, Session};
use crate::load::schedule::{Pace, Window};
use crate::protocol::fetch::FetchSettings;

/// Filling or reading takes no longer.
const LIMIT: Nanos = 900 * SECOND;
/// Connections that fill.
const CONNECTIONS: usize = 2;
/// Their requests in flight.
const IN_FLIGHT_MAX: usize = 5;

/// What a topic is filled with.
#[derive(Debug, Clone, Copy)]
pub struct Filling {
    /// Every batch.
    pub shape: BatchShape,
    /// How many each partition has.
    pub batches: u64,
}

impl Filling {
    /// As many batches of this shape as make up `bytes` over all partitions.
    pub fn of_bytes(shape: BatchShape, bytes: u64, partitions: usize) -> Self {
        let batch = shape.build(1).len() as u64;
        Self {
            shape,
            batches: (bytes / batch / partitions as u64).max(1),
        }
    }

    /// Bytes of all batches.
    pub fn bytes(&self, partitions: usize) -> u64 {
        self.batches * partitions as u64 * self.shape.build(1).len() as u64
    }

    /// Fills an empty topic.
    ///
    /// # Errors
    /// A batch was refused or a connection failed.
    pub fn fill(&self, target: &Target, acks: i16) -> Result<()> {
        let mut reactor = Reactor::new()?;
        let connections = CONNECTIONS.min(target.leaders.len());
        for (address, partitions) in target.shares(connections) {
            let settings = ProducerSettings {
                requests: Requests::new(&target.topic, &partitions, acks, &self.shape)?,
                batch_bytes: 0,
                in_flight_max: IN_FLIGHT_MAX,
                pace: Pace::Saturated,
                window: Window::new(clock::now(), LIMIT),
                requests_max: self.batches * partitions.len() as u64,
                partitions,
                ledger: None,
                numbering: None,
            };
            reactor.add(Session::Producer(Producer::connect(address, settings)?))?;
        }
        reactor.run(clock::now() + LIMIT)
    }

    /// Reads a topic that was filled, all of it once, on one connection per leader, each at most at that rate; counts what comes
    /// within the window.
    ///
    /// # Errors
    /// Records are missing, repeated or out of order.
    pub fn read(
        &self,
        target: &Target,
        fetch: FetchSettings,
        window: Window,
        bytes_per_second: Option<f64>,
    ) -> Result<Vec<consumer::Tally>> {
        let ledger = Ledger::filled(target.leaders.len(), self.batches, self.shape.records);
        let ledger = Rc::new(RefCell::new(ledger));
        let mut reactor = Reactor::new()?;
        for (address, partitions) in target.shares(target.by_leader().len()) {
            let consumer = Consumer::connect(
                address,
                &target.topic,
                &partitions,
                fetch,
                window,
                Rc::clone(&ledger),
            )?;
            reactor.add(Session::Consumer(consumer.at_most(bytes_per_second)))?;
        }
        reactor.run(clock::now() + LIMIT)?;
        let consumers = reactor
            .into_sessions()
            .into_iter()
            .filter_map(|session| match session {
                Session::Consumer(consumer) => Some(consumer.into_tally()),
                Session::Producer(_) => None,
            });
        let tallies: Vec<_> = consumers.collect();
        let (read, wanted) = (
            tallies.iter().map(|tally| tally.read).sum::<u64>(),
            self.records(target.leaders.len()),
        );
        ensure!(read == wanted, "{read} records were read of {wanted}");
        Ok(tallies)
    }

    fn records(&self, partitions: usize) -> u64 {
        self.batches * partitions as u64 * u64::from(self.shape.records)
    }
}
