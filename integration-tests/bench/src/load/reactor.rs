//! One thread that waits for sockets and due times, and lets producers and consumers do what they can.

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
        Ok(())
    }

    /// Runs until all sessions are finished.
    ///
    /// # Errors
    /// A session failed, or `limit` passed.
    pub fn run(&mut self, limit: Nanos) -> Result<()> {
        // A kernel that refuses only makes latencies longer, for every system alike.
        _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK));
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            let now = clock::now();
            let mut wake_at = now + LOOK_EVERY;
            let mut finished = true;
            for session in &mut self.sessions {
                session.write(now)?;
                wake_at = session.wake_at(now).map_or(wake_at, |at| wake_at.min(at));
                finished &= session.is_finished();
            }
            if finished {
                return Ok(());
            }
            if now > limit {
                bail!("answers or records were still missing long after the last request");
            }
            self.wait(wake_at.saturating_sub(now), &mut events)?;
            let now = clock::now();
            for event in events.drain(..) {
                let event: epoll::Event = event;
                let number = usize::try_from(event.data.u64()).expect("the number of a session");
                let (session, flags) = (&mut self.sessions[number], event.flags);
                if flags.contains(epoll::EventFlags::OUT) {
                    session.set_writable();
                }
                if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                    session.read(now)?;
                }
            }
        }
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
