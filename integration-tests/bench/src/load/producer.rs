//! A connection that produces: prepared requests, one after another over its partitions.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use anyhow::{Result, ensure};

use crate::clock::Nanos;
use crate::latency::Latencies;
use crate::load::connection::{Connection, Sent};
use crate::load::ledger::Ledger;
use crate::load::schedule::{Pace, Window};
use crate::protocol::{produce, set_correlation_id};

/// How a producer behaves.
#[derive(Debug)]
pub struct ProducerSettings {
    /// One request for each of its partitions.
    pub requests: Vec<Vec<u8>>,
    /// Its partitions, in the order of the requests.
    pub partitions: Vec<i32>,
    /// Bytes of the record batch in each request.
    pub batch_bytes: usize,
    /// Requests that may be unanswered.
    pub in_flight_max: usize,
    /// When requests are due.
    pub pace: Pace,
    /// What counts; nothing is sent after it.
    pub window: Window,
    /// Requests that it sends at most; it is finished then.
    pub requests_max: u64,
    /// Where consumers look for what was sent.
    pub ledger: Option<Rc<RefCell<Ledger>>>,
}

/// What a producer has done.
#[derive(Debug)]
pub struct Tally {
    /// Requests sent in all.
    pub sent: u64,
    /// Requests acknowledged in all.
    pub acknowledged: u64,
    /// Requests acknowledged within the window.
    pub requests: u64,
    /// Bytes acknowledged within the window.
    pub bytes: u64,
    /// Of the requests that were due within the window.
    pub latencies: Latencies,
}

/// A producer at work.
#[derive(Debug)]
pub struct Producer {
    connection: Connection,
    settings: ProducerSettings,
    /// When each unanswered request was due.
    unanswered: VecDeque<Nanos>,
    /// Which request is next.
    next: usize,
    /// How far the next request has left already.
    begun: Option<usize>,
    tally: Tally,
    finished: bool,
}

impl Producer {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: SocketAddr, settings: ProducerSettings) -> Result<Self> {
        if let Some(ledger) = &settings.ledger {
            ledger.borrow_mut().join();
        }
        let tally = Tally {
            sent: 0,
            acknowledged: 0,
            requests: 0,
            bytes: 0,
            latencies: Latencies::new(),
        };
        Ok(Self {
            connection: Connection::open(address)?,
            settings,
            unanswered: VecDeque::new(),
            next: 0,
            begun: None,
            tally,
            finished: false,
        })
    }

    /// The socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// What was done so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether everything was sent and answered.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// When it wants to be called even if nothing comes; none while it waits for answers.
    pub fn wake_at(&self, now: Nanos) -> Option<Nanos> {
        let busy = self.begun.is_some() || self.unanswered.len() >= self.settings.in_flight_max;
        if self.finished || busy || self.tally.sent == self.settings.requests_max {
            return None;
        }
        // The end itself needs a look; after it only answers are waited for.
        let (due, end) = (self.settings.pace.next_due(now), self.settings.window.to);
        (now < end).then_some(due.min(end))
    }

    /// Reads what has come.
    ///
    /// # Errors
    /// The connection is gone, or a batch was refused.
    pub fn read(&mut self, now: Nanos) -> Result<()> {
        self.connection.fill()?;
        while let Some(frame) = self.connection.next_frame()? {
            let answer = produce::acknowledgement(frame)?;
            ensure!(
                answer.error_code == 0,
                "a batch was refused with error {}",
                answer.error_code
            );
            let due = self.unanswered.pop_front();
            let wanted = self.tally.acknowledged as i32;
            let Some(due) = due.filter(|_| answer.correlation_id == wanted) else {
                anyhow::bail!("answer {} came instead of {wanted}", answer.correlation_id);
            };
            self.tally.acknowledged += 1;
            let window = self.settings.window;
            if window.contains(now) {
                self.tally.requests += 1;
                self.tally.bytes += self.settings.batch_bytes as u64;
            }
            if window.contains(due) {
                self.tally.latencies.record(due, now);
            }
        }
        Ok(())
    }

    /// The socket takes bytes again.
    pub fn set_writable(&mut self) {
        self.connection.set_writable();
    }

    /// Sends what is due.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn write(&mut self, now: Nanos) -> Result<()> {
        while let Some(due) = self.next_due(now) {
            if self.begun.is_none() {
                set_correlation_id(&mut self.settings.requests[self.next], self.tally.sent as i32);
            }
            match self
                .connection
                .send(&self.settings.requests[self.next], self.begun.unwrap_or(0))?
            {
                Sent::Partly(at) => {
                    self.begun = Some(at);
                    break;
                }
                Sent::Whole => self.count_sent(due),
            }
        }
        let flushed = self.connection.flush()?;
        let last = now >= self.settings.window.to || self.tally.sent == self.settings.requests_max;
        let over = last && flushed && self.begun.is_none();
        if over && self.unanswered.is_empty() && !self.finished {
            self.finished = true;
            if let Some(ledger) = &self.settings.ledger {
                ledger.borrow_mut().finish();
            }
        }
        Ok(())
    }

    /// When the request that may be sent now was due.
    fn next_due(&self, now: Nanos) -> Option<Nanos> {
        let due = self.settings.pace.next_due(now);
        if self.begun.is_some() {
            return Some(due);
        }
        let may = self.unanswered.len() < self.settings.in_flight_max
            && self.tally.sent < self.settings.requests_max;
        (may && due <= now && due < self.settings.window.to).then_some(due)
    }

    fn count_sent(&mut self, due: Nanos) {
        self.begun = None;
        self.settings.pace.take();
        self.unanswered.push_back(due);
        self.tally.sent += 1;
        if let Some(ledger) = &self.settings.ledger {
            ledger.borrow_mut().sent(self.settings.partitions[self.next], due);
        }
        self.next = (self.next + 1) % self.settings.requests.len();
    }
}
