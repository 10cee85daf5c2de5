//! One thread that waits for sockets and due times, and lets producers and consumers do what they can.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU64;
use std::os::fd::{BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use crate::clock::{self, Nanos, SECOND};
use crate::load::consumer::Consumer;
use crate::load::producer::Producer;

/// Sockets that are looked at after one wait.
const EVENTS_MAX: usize = 256;
/// Without events, sessions are looked at this often.
const LOOK_EVERY: Nanos = SECOND / 10;
/// How late the kernel may wake this thread, in nanoseconds; its default is 50 us, which would show in every latency.
const TIMER_SLACK: u64 = 1_000;

/// One connection at work.
#[derive(Debug)]
pub enum Session {
    /// It produces.
    Producer(Producer),
    /// It fetches.
    Consumer(Consumer),
}

impl Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Producer(producer) => producer.as_fd(),
            Self::Consumer(consumer) => consumer.as_fd(),
        }
    }

    fn is_finished(&self) -> bool {
        match self {
            Self::Producer(producer) => producer.is_finished(),
            Self::Consumer(consumer) => consumer.is_finished(),
        }
    }

    fn wake_at(&mut self, now: Nanos) -> Option<Nanos> {
        match self {
            Self::Producer(producer) => producer.wake_at(now),
            Self::Consumer(consumer) => consumer.wake_at(now),
        }
    }

    fn set_writable(&mut self) {
        match self {
            Self::Producer(producer) => producer.set_writable(),
            Self::Consumer(consumer) => consumer.set_writable(),
        }
    }

    fn read(&mut self, now: Nanos) -> Result<()> {
        match self {
            Self::Producer(producer) => producer.read(now),
            Self::Consumer(consumer) => consumer.read(now),
        }
    }

    fn write(&mut self, now: Nanos) -> Result<()> {
        match self {
            Self::Producer(producer) => producer.write(now),
            Self::Consumer(consumer) => consumer.write(now),
        }
    }
}

/// Sessions and what they wait for.
#[derive(Debug)]
pub struct Reactor {
    epoll: OwnedFd,
    sessions: Vec<Session>,
    /// When which session wants to be called; some are there twice.
    timers: BinaryHeap<Reverse<(Nanos, usize)>>,
    /// The time that each session is called at next, if it asked for one.
    timer_of: Vec<Option<Nanos>>,
}

impl Reactor {
    /// Without sessions.
    ///
    /// # Errors
    /// The kernel gives no epoll.
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("creating an epoll")?;
        Ok(Self {
            epoll,
            sessions: Vec::new(),
            timers: BinaryHeap::new(),
            timer_of: Vec::new(),
        })
    }

    /// Adds a session.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn add(&mut self, session: Session) -> Result<()> {
        // Edge-triggered: one registration is enough for reading and for a socket that was full.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        let number = epoll::EventData::new_u64(self.sessions.len() as u64);
        epoll::add(&self.epoll, session.as_fd(), number, flags).context("watching a socket")?;
        self.sessions.push(session);
        self.timer_of.push(None);
        Ok(())
    }

    /// Runs until all sessions are finished. Between two looks at all of them only those are called that have an event or a due
    /// time: with many, looking at each after every wake-up would make this program the slowest part.
    ///
    /// # Errors
    /// A session failed, or `limit` passed.
    pub fn run(&mut self, limit: Nanos) -> Result<()> {
        // A kernel that refuses only makes latencies longer, for every system alike.
        _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK));
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut look_at = 0;
        loop {
            let now = clock::now();
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                for number in 0..self.sessions.len() {
                    self.advance(number, now)?;
                }
                if self.sessions.iter().all(Session::is_finished) {
                    return Ok(());
                }
                if now > limit {
                    bail!("answers or records were still missing long after the last request");
                }
            }
            self.advance_due(now)?;
            let wake_at = self
                .timers
                .peek()
                .map_or(look_at, |Reverse((at, _))| look_at.min(*at));
            self.wait(wake_at.saturating_sub(clock::now()), &mut events)?;
            // What has come is read first, so that nobody's answer waits for what another one writes.
            let now = clock::now();
            for event in &events {
                self.take(*event, now)?;
            }
            let now = clock::now();
            for event in events.drain(..) {
                self.advance(number(event), now)?;
            }
        }
    }

    fn take(&mut self, event: epoll::Event, now: Nanos) -> Result<()> {
        let (session, flags) = (&mut self.sessions[number(event)], event.flags);
        if flags.contains(epoll::EventFlags::OUT) {
            session.set_writable();
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            session.read(now)?;
        }
        Ok(())
    }

    /// Lets those sessions write whose time has come.
    fn advance_due(&mut self, now: Nanos) -> Result<()> {
        while let Some(&Reverse((at, number))) = self.timers.peek()
            && at <= now
        {
            self.timers.pop();
            // Others were asked for before it turned out that something else comes first.
            if self.timer_of[number] == Some(at) {
                self.timer_of[number] = None;
                self.advance(number, now)?;
            }
        }
        Ok(())
    }

    /// Lets a session write what is due, and remembers when it wants to be called again.
    fn advance(&mut self, number: usize, now: Nanos) -> Result<()> {
        let session = &mut self.sessions[number];
        session.write(now)?;
        let wake_at = session.wake_at(now);
        if let Some(at) = wake_at.filter(|_| self.timer_of[number] != wake_at) {
            self.timers.push(Reverse((at, number)));
        }
        self.timer_of[number] = wake_at;
        Ok(())
    }

    /// The sessions, when the work is done.
    pub fn into_sessions(self) -> Vec<Session> {
        self.sessions
    }

    /// Waits with `ppoll`, whose timeout is exact: `epoll_wait` rounds it up to milliseconds, and every request that is due
    /// in between would seem to have been slow.
    fn wait(&self, nanos: Nanos, events: &mut Vec<epoll::Event>) -> Result<()> {
        let timeout = Timespec {
            tv_sec: i64::try_from(nanos / SECOND).expect("a short wait"),
            tv_nsec: i64::try_from(nanos % SECOND).expect("less than a second"),
        };
        match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error).context("waiting for sockets or a due time"),
        }
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(events),
            Some(&at_once),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("asking which sockets are ready"),
        }
    }
}

/// The session that an event is about.
fn number(event: epoll::Event) -> usize {
    usize::try_from(event.data.u64()).expect("the number of a session")
}
