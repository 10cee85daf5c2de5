//! One transactional producer, as a client of transaction.version 2 works: batches add their partitions to the transaction
//! as they are produced, and the end of each transaction brings the epoch of the next.
//!
//! One thread, one connection to each leader and one to the coordinator. Promises that every batch was acknowledged before
//! a transaction ends.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use odradek_common::records::batch;

use crate::admin::Admin;
use crate::batches::BatchShape;
use crate::clock::{self, Nanos, SECOND};
use crate::load::Target;
use crate::protocol::produce::{self, Identity};
use crate::protocol::transactions::{self, CONCURRENT_TRANSACTIONS};

/// Batches that may be unanswered, as a client's `max.in.flight.requests.per.connection`.
const IN_FLIGHT_MAX: usize = 5;
/// A batch that came before the last transaction was over is offered again after this.
const PAUSE: Duration = Duration::from_millis(1);
/// The last transaction is over within this.
const LIMIT: Nanos = 60 * SECOND;

/// A transactional producer.
#[derive(Debug)]
pub struct TransactionalProducer {
    id: String,
    identity: Identity,
    coordinator: Admin,
    /// A connection to each leader.
    leaders: Vec<Admin>,
    partitions: Vec<Partition>,
    records: i32,
    batch_bytes: usize,
    /// Which partition has the next batch.
    next: usize,
}

#[derive(Debug)]
struct Partition {
    /// Its leader's place among the connections.
    leader: usize,
    request: Vec<u8>,
    sequence: i32,
}

impl TransactionalProducer {
    /// Finds the coordinator and begins with a new identity.
    ///
    /// # Errors
    /// There is no coordinator, or it refused.
    pub fn open(broker: SocketAddr, target: &Target, shape: &BatchShape) -> Result<Self> {
        let id = target.topic.clone();
        let mut coordinator = transactions::coordinator(broker, &id)?;
        let identity = transactions::init_producer_id(&mut coordinator, Some(&id))?;
        let nodes = target.by_leader();
        let leaders = nodes.iter().map(|(address, _)| Admin::open(*address));
        let leaders = leaders.collect::<Result<Vec<_>>>()?;
        let batch = shape.build_transactional(1);
        let partitions = (0_i32..).zip(&target.leaders).map(|(partition, address)| {
            let leader = nodes.iter().position(|(node, _)| node == address);
            Ok(Partition {
                leader: leader.context("every leader has a connection")?,
                request: produce::transactional_request(&id, &target.topic, partition, &batch)?,
                sequence: 0,
            })
        });
        Ok(Self {
            partitions: partitions.collect::<Result<_>>()?,
            id,
            identity,
            coordinator,
            leaders,
            records: i32::try_from(shape.records).context("records of a batch")?,
            batch_bytes: batch.len(),
            next: 0,
        })
    }

    /// Produces batches, to the partitions in turn, and waits for their acknowledgements.
    ///
    /// # Errors
    /// A batch was refused.
    pub fn produce(&mut self, batches: u32) -> Result<()> {
        let batches = usize::try_from(batches)?;
        let first = batches.min(self.partitions.len());
        self.produce_first(first)?;
        let mut unanswered = VecDeque::new();
        for _ in first..batches {
            if unanswered.len() == IN_FLIGHT_MAX {
                self.expect_acknowledgement(&mut unanswered)?;
            }
            let partition = self.take_partition();
            self.number(partition);
            self.send(partition)?;
            unanswered.push_back(partition);
        }
        while !unanswered.is_empty() {
            self.expect_acknowledgement(&mut unanswered)?;
        }
        Ok(())
    }

    /// Ends the transaction.
    ///
    /// # Errors
    /// It was refused.
    pub fn end(&mut self, committed: bool) -> Result<()> {
        let next = transactions::end_txn(&mut self.coordinator, &self.id, self.identity, committed)?;
        if next != self.identity {
            for partition in &mut self.partitions {
                partition.sequence = 0;
            }
        }
        self.identity = next;
        Ok(())
    }

    /// The first batch of each of so many partitions: it adds the partition, for which the last transaction must be over.
    fn produce_first(&mut self, count: usize) -> Result<()> {
        let mut left: Vec<usize> = (0..count).map(|_| self.take_partition()).collect();
        for &partition in &left {
            self.number(partition);
        }
        let limit = clock::now() + LIMIT;
        loop {
            for &partition in &left {
                self.send(partition)?;
            }
            let mut early = Vec::new();
            for &partition in &left {
                match self.answer(partition)? {
                    0 => {}
                    CONCURRENT_TRANSACTIONS => early.push(partition),
                    error => anyhow::bail!("a transaction's first batch was refused with error {error}"),
                }
            }
            if early.is_empty() {
                return Ok(());
            }
            ensure!(clock::now() < limit, "a transaction is not over after a minute");
            left = early;
            std::thread::sleep(PAUSE);
        }
    }

    fn take_partition(&mut self) -> usize {
        let partition = self.next;
        self.next = (self.next + 1) % self.partitions.len();
        partition
    }

    fn number(&mut self, partition: usize) {
        let partition = &mut self.partitions[partition];
        produce::stamp(
            &mut partition.request,
            self.batch_bytes,
            self.identity,
            partition.sequence,
        );
        partition.sequence = batch::increment_sequence(partition.sequence, self.records);
    }

    fn send(&mut self, partition: usize) -> Result<()> {
        let partition = &self.partitions[partition];
        self.leaders[partition.leader].send(&partition.request)
    }

    /// The error code of the next answer from a partition's leader.
    fn answer(&mut self, partition: usize) -> Result<i16> {
        let leader = &mut self.leaders[self.partitions[partition].leader];
        Ok(produce::acknowledgement(&leader.read_frame()?)?.error_code)
    }

    fn expect_acknowledgement(&mut self, unanswered: &mut VecDeque<usize>) -> Result<()> {
        let Some(partition) = unanswered.pop_front() else {
            return Ok(());
        };
        let error = self.answer(partition)?;
        ensure!(
            error == 0,
            "a batch of a transaction was refused with error {error}"
        );
        Ok(())
    }
}
