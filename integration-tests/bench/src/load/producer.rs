//! A connection that produces: prepared requests, one after another over its partitions.
//!
//! A request that was due within the window and could not be sent by its end, because the system is too slow for the rate,
//! counts with the time that it had waited by then: leaving it out would flatter the system.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use anyhow::{Result, ensure};
use odradek_common::records::batch;

use crate::batches::{BatchShape, Requests};
use crate::clock::Nanos;
use crate::latency::Latencies;
use crate::load::connection::{Connection, Sent};
use crate::load::ledger::Ledger;
use crate::load::schedule::{Pace, Window};
use crate::protocol::produce::{self, Identity};
use crate::protocol::set_correlation_id;

/// How a producer behaves.
#[derive(Debug)]
pub struct ProducerSettings {
    /// The requests to its partitions.
    pub requests: Requests,
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
    /// Who its batches are from, if they are numbered.
    pub numbering: Option<Box<Numbering>>,
}

/// The sequences of an idempotent producer.
#[derive(Debug)]
pub struct Numbering {
    identity: Identity,
    batch_bytes: usize,
    records: i32,
    /// The next sequence in each partition.
    next: Vec<i32>,
}

impl Numbering {
    /// Sequences from 0 on for so many partitions and batches of one shape.
    pub fn new(identity: Identity, shape: &BatchShape, partitions: usize) -> Self {
        Self {
            identity,
            batch_bytes: shape.uncompressed_bytes(),
            records: i32::try_from(shape.records).expect("a batch has few records"),
            next: vec![0; partitions],
        }
    }

    fn stamp(&mut self, number: usize, request: &mut [u8]) {
        let next = &mut self.next[number];
        produce::stamp(request, self.batch_bytes, self.identity, *next);
        *next = batch::increment_sequence(*next, self.records);
    }
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
    /// Of the requests that were due within the window and sent.
    pub latencies: Latencies,
    /// How long the others had waited at its end.
    pub unsent: Latencies,
}

/// A producer at work.
#[derive(Debug)]
pub struct Producer {
    connection: Connection,
    settings: ProducerSettings,
    /// When each unanswered request was due.
    unanswered: VecDeque<Nanos>,
    /// Which partition is next.
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
            unsent: Latencies::new(),
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
            let partition = self.settings.partitions[self.next];
            let request = self.settings.requests.to(self.next, partition);
            if self.begun.is_none() {
                set_correlation_id(request, self.tally.sent as i32);
                if let Some(numbering) = &mut self.settings.numbering {
                    numbering.stamp(self.next, request);
                }
            }
            match self.connection.send(request, self.begun.unwrap_or(0))? {
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
            self.count_unsent(now);
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
        (may && due <= now && now < self.settings.window.to).then_some(due)
    }

    /// What was due within the window and never left. Without a schedule nothing is due.
    fn count_unsent(&mut self, now: Nanos) {
        let window = self.settings.window;
        if matches!(self.settings.pace, Pace::Saturated) || self.tally.sent == self.settings.requests_max {
            return;
        }
        loop {
            let due = self.settings.pace.next_due(now);
            if due >= window.to {
                return;
            }
            if window.contains(due) {
                self.tally.unsent.record(due, now);
            }
            self.settings.pace.take();
        }
    }

    fn count_sent(&mut self, due: Nanos) {
        self.begun = None;
        self.settings.pace.take();
        self.unanswered.push_back(due);
        self.tally.sent += 1;
        if let Some(ledger) = &self.settings.ledger {
            ledger.borrow_mut().sent(self.settings.partitions[self.next], due);
        }
        self.next = (self.next + 1) % self.settings.partitions.len();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;
    use crate::clock::{self, MILLISECOND};
    use crate::load::reactor::{Reactor, Session};

    /// Answers each request of `length` bytes after 20 ms, as the floor does.
    fn slow_server(listener: &TcpListener, length: usize) {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; length];
        while stream.read_exact(&mut request).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
            let mut answer = [0; 60];
            answer[3] = 56;
            answer[4..8].copy_from_slice(&request[8..12]);
            stream.write_all(&answer).unwrap();
        }
    }

    #[test]
    fn every_request_that_was_due_counts_although_the_system_is_too_slow() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut requests = Requests::new("topic", &[0], 1, &BatchShape::plain(1, 10)).unwrap();
        let length = requests.to(0, 0).len();
        std::thread::spawn(move || slow_server(&listener, length));
        let window = Window::new(clock::now() + 10 * MILLISECOND, 200 * MILLISECOND);
        let settings = ProducerSettings {
            requests,
            partitions: vec![0],
            batch_bytes: 10,
            in_flight_max: 1,
            pace: Pace::open_loop(window.from, MILLISECOND as f64),
            window,
            requests_max: u64::MAX,
            ledger: None,
            numbering: None,
        };
        let mut reactor = Reactor::new().unwrap();
        let producer = Producer::connect(address, settings).unwrap();
        reactor.add(Session::Producer(producer)).unwrap();
        reactor.run(window.to + 60_000 * MILLISECOND).unwrap();
        let Some(Session::Producer(producer)) = reactor.into_sessions().pop() else {
            panic!("one producer was added");
        };
        let tally = producer.tally();
        assert_eq!(tally.latencies.count() + tally.unsent.count(), 200);
        assert!(
            tally.sent <= 11 && tally.sent == tally.acknowledged,
            "{} were sent",
            tally.sent
        );
        assert!(tally.unsent.percentile_ms(50.0) >= 80.0);
    }
}
