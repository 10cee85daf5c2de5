//! A connection that fetches: one request after another, over the partitions that it was given.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use odradek_common::records::batch;

use crate::clock::{Nanos, SECOND};
use crate::latency::Latencies;
use crate::load::connection::{Connection, Sent};
use crate::load::ledger::Ledger;
use crate::load::schedule::Window;
use crate::protocol::fetch::{self, FetchSettings, FetchTemplate};

/// What a consumer has read.
#[derive(Debug)]
pub struct Tally {
    /// Records in all.
    pub read: u64,
    /// Records within the window.
    pub records: u64,
    /// Bytes of batches within the window.
    pub bytes: u64,
    /// Of the records that were due within the window, from then on.
    pub latencies: Latencies,
}

/// A consumer at work.
#[derive(Debug)]
pub struct Consumer {
    connection: Connection,
    template: FetchTemplate,
    /// Its partitions and the next offset of each, in the order of the request.
    positions: Vec<(i32, i64)>,
    window: Window,
    ledger: Rc<RefCell<Ledger>>,
    waiting: bool,
    requests: i32,
    tally: Tally,
    throttle: Option<Throttle>,
}

/// Lets bytes pass at a rate.
#[derive(Debug)]
struct Throttle {
    bytes_per_second: f64,
    /// Since the first request.
    began: Option<Nanos>,
    bytes: u64,
}

impl Throttle {
    /// When the next request may leave.
    fn due(&mut self, now: Nanos) -> Nanos {
        let began = *self.began.get_or_insert(now);
        began + (self.bytes as f64 / self.bytes_per_second * SECOND as f64) as Nanos
    }
}

impl Consumer {
    /// Connects; the first fetch leaves at the first look.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(
        address: SocketAddr,
        topic: &str,
        partitions: &[i32],
        fetch: FetchSettings,
        window: Window,
        ledger: Rc<RefCell<Ledger>>,
    ) -> Result<Self> {
        Ok(Self {
            connection: Connection::open(address)?,
            template: FetchTemplate::new(topic, partitions, fetch)?,
            positions: partitions.iter().map(|&partition| (partition, 0)).collect(),
            window,
            ledger,
            waiting: false,
            requests: 0,
            tally: Tally {
                read: 0,
                records: 0,
                bytes: 0,
                latencies: Latencies::new(),
            },
            throttle: None,
        })
    }

    /// The same one, which takes no more than so many bytes a second.
    #[must_use]
    pub fn at_most(self, bytes_per_second: Option<f64>) -> Self {
        let throttle = bytes_per_second.map(|bytes_per_second| Throttle {
            bytes_per_second,
            began: None,
            bytes: 0,
        });
        Self { throttle, ..self }
    }

    /// When it has something to do though nothing comes.
    pub fn wake_at(&mut self, now: Nanos) -> Option<Nanos> {
        if self.waiting || self.is_finished() {
            return None;
        }
        self.throttle.as_mut().map(|throttle| throttle.due(now))
    }

    /// The socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// What was read so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What was read, when the work is done.
    pub fn into_tally(self) -> Tally {
        self.tally
    }

    /// Its partitions.
    pub fn partitions(&self) -> impl Iterator<Item = i32> + '_ {
        self.positions.iter().map(|(partition, _)| *partition)
    }

    /// Whether everything that was sent was read.
    pub fn is_finished(&self) -> bool {
        let ledger = self.ledger.borrow();
        self.positions
            .iter()
            .all(|&(partition, offset)| ledger.end(partition) == Some(offset))
    }

    /// Reads what has come.
    ///
    /// # Errors
    /// The connection is gone, a fetch was refused, or records are missing, repeated or out of order.
    pub fn read(&mut self, now: Nanos) -> Result<()> {
        self.connection.fill()?;
        while let Some(frame) = self.connection.next_frame()? {
            self.waiting = false;
            if let Some(throttle) = &mut self.throttle {
                throttle.bytes += frame.len() as u64;
            }
            let (positions, tally) = (&mut self.positions, &mut self.tally);
            let (ledger, window) = (self.ledger.borrow(), self.window);
            fetch::for_each_partition(frame, |fetched| {
                ensure!(
                    fetched.error_code == 0,
                    "a fetch was refused with error {}",
                    fetched.error_code
                );
                let (_, position) = positions
                    .iter_mut()
                    .find(|(partition, _)| *partition == fetched.partition)
                    .context("a fetch brought a partition that nobody asked for")?;
                for batch in batch::batches(fetched.records) {
                    let (header, _) = batch?;
                    ensure!(
                        header.base_offset == *position,
                        "partition {}: offset {} came instead of {position}",
                        fetched.partition,
                        header.base_offset
                    );
                    let due = ledger
                        .due(fetched.partition, header.base_offset)
                        .context("a record came that nobody sent")?;
                    *position = header.next_offset();
                    count(tally, window, due, now, &header);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The socket takes bytes again.
    pub fn set_writable(&mut self) {
        self.connection.set_writable();
    }

    /// Sends the next fetch, if the last is answered and it is time for another.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn write(&mut self, now: Nanos) -> Result<()> {
        let is_due = self
            .throttle
            .as_mut()
            .is_none_or(|throttle| throttle.due(now) <= now);
        if is_due && !self.waiting && !self.is_finished() {
            for (place, (_, offset)) in self.positions.iter().enumerate() {
                self.template.set_offset(place, *offset);
            }
            self.requests = self.requests.wrapping_add(1);
            let sent = self.connection.send(self.template.stamped(self.requests), 0)?;
            ensure!(
                sent == Sent::Whole,
                "a fetch of {} partitions does not fit the socket",
                self.positions.len()
            );
            self.waiting = true;
        }
        self.connection.flush()?;
        Ok(())
    }
}

fn count(tally: &mut Tally, window: Window, due: Nanos, now: Nanos, header: &batch::BatchHeader) {
    let records = u64::from(header.record_count.unsigned_abs());
    tally.read += records;
    if window.contains(now) {
        tally.records += records;
        tally.bytes += header.size_bytes() as u64;
    }
    if window.contains(due) {
        tally.latencies.record(due, now);
    }
}
