//! Connections: a thousand opened all at once or by a few threads in turn, ten thousand held idle.
//!
//! All at once is what a broker meets when it comes back and its clients with it. Who finds no room in its backlog hears nothing, or
//! is turned away later: it comes again, as clients do.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use kafka_protocol::messages::ApiVersionsRequest;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::admin::Admin;
use crate::clock::{self, Nanos, SECOND};
use crate::metric::{Figures, Metric};
use crate::proc;
use crate::protocol::{decode, encode, text};
use crate::scale::Scale;
use crate::systems::Cluster;
use crate::workloads::warm_up;

/// Threads that open connections, each one after another.
const OPENING_THREADS: u64 = 32;
/// The version of ApiVersions that is asked for.
const API_VERSIONS: i16 = 3;
/// Connections of a small run.
const LEAST: u64 = 10;
/// Until all have an answer.
const LIMIT: Nanos = 120 * SECOND;
/// A client that has not been answered for so long connects anew: Kafka's default of `socket.connection.setup.timeout.ms`.
const PATIENCE: Nanos = 10 * SECOND;
/// Sockets that are looked at after one wait.
const EVENTS_MAX: usize = 256;

/// How many are opened at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// All of them.
    AtOnce,
    /// One by each of a few threads.
    InTurn,
}

/// Opens so many connections and asks each for its API versions, closes them, and again for as long as a window lasts. Only the
/// opening and the answers count.
///
/// Every system has some of it before: the kernel, too, opens its first thousand sockets slowly.
///
/// # Errors
/// A connection was refused or not answered.
pub fn opened(cluster: &Cluster, opening: Opening, count: u64, scale: &Scale) -> Result<Figures> {
    let count = scale.count(count, LEAST);
    let open = || {
        let began = clock::now();
        // Closing them is another thing.
        let (opened, ended) = match opening {
            Opening::AtOnce => {
                let clients = open_at_once(cluster.address(), count)?;
                (clients.len(), clock::now())
            }
            Opening::InTurn => {
                let clients = open_in_turn(cluster.address(), count)?;
                (clients.len(), clock::now())
            }
        };
        anyhow::Ok((opened, ended - began))
    };
    warm_up::repeat(cluster, scale, || open().map(drop))?;
    let begins = clock::now() + clock::seconds(scale.warm_seconds);
    while clock::now() < begins {
        open()?;
    }
    let (mut opened, mut nanos) = (0, 0);
    let ends = clock::now() + clock::seconds(scale.seconds);
    while opened == 0 || clock::now() < ends {
        let (more, took) = open()?;
        opened += more;
        nanos += took;
    }
    let mut figures = Figures::default();
    figures.set(Metric::Connections, opened as f64 * SECOND as f64 / nanos as f64);
    Ok(figures)
}

/// Holds connections on which nothing happens: what they cost.
///
/// # Errors
/// One was refused, not answered, or closed.
pub fn idle(cluster: &Cluster, count: u64, scale: &Scale) -> Result<Figures> {
    let count = scale.count(count, LEAST);
    warm_up::repeat(cluster, scale, || {
        open_in_turn(cluster.address(), count).map(drop)
    })?;
    let mut opened = open_in_turn(cluster.address(), count)?;
    let from = clock::now() + clock::seconds(scale.warm_seconds);
    let to = from + clock::seconds(scale.seconds);
    let usage = proc::watch(cluster.pids(), from, to);
    clock::sleep_until(to + SECOND / 20);
    let mut figures = Figures::default();
    usage.finish()?.add_to(&mut figures);
    for connection in &mut opened {
        ask_versions(connection)?;
    }
    Ok(figures)
}

fn open_in_turn(address: SocketAddr, count: u64) -> Result<Vec<Admin>> {
    let each = count.div_ceil(OPENING_THREADS);
    let opened = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..OPENING_THREADS)
            .map(|_| scope.spawn(move || open_each(address, each)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("an opening thread panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    Ok(opened.into_iter().flatten().collect())
}

fn open_each(address: SocketAddr, count: u64) -> Result<Vec<Admin>> {
    (0..count)
        .map(|_| {
            let mut connection = Admin::open(address)?;
            ask_versions(&mut connection)?;
            Ok(connection)
        })
        .collect()
}

fn ask_versions(connection: &mut Admin) -> Result<()> {
    let versions = connection.ask(API_VERSIONS, &api_versions())?;
    ensure!(
        versions.error_code == 0,
        "ApiVersions: error {}",
        versions.error_code
    );
    Ok(())
}

fn api_versions() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(text("odradek-bench"))
        .with_client_software_version(text("1"))
}

fn open_at_once(address: SocketAddr, count: u64) -> Result<Vec<Client>> {
    let request = encode(API_VERSIONS, 1, &api_versions())?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("creating an epoll")?;
    let mut clients = (0..count)
        .map(|number| Client::connect(address, &epoll, number))
        .collect::<Result<Vec<_>>>()?;
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let (mut missing, ends) = (clients.len(), clock::now() + LIMIT);
    let mut look_at = clock::now() + PATIENCE;
    let a_second = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    while missing > 0 {
        if clock::now() > ends {
            bail!("{missing} of {count} connections were not answered");
        }
        match epoll::wait(
            &epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&a_second),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for connections"),
        }
        for event in events.drain(..) {
            let number = usize::try_from(event.data.u64()).expect("the number of a client");
            let client = &mut clients[number];
            match client.advance(event.flags, &request) {
                Ok(is_answered) => missing -= usize::from(is_answered),
                Err(error) if is_turned_away(&error) => {
                    *client = Client::connect(address, &epoll, event.data.u64())?;
                }
                Err(error) => return Err(error),
            }
        }
        let now = clock::now();
        if now >= look_at {
            look_at = now + SECOND;
            let impatient = |client: &Client| !client.is_answered && client.began + PATIENCE <= now;
            for (client, number) in clients
                .iter_mut()
                .zip(0..)
                .filter(|(client, _)| impatient(client))
            {
                *client = Client::connect(address, &epoll, number)?;
            }
        }
    }
    Ok(clients)
}

/// A backlog that was full forgets some whose connection they take for made.
fn is_turned_away(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind.is_some_and(|kind| matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
}

/// One that connects, asks once and is answered.
struct Client {
    stream: TcpStream,
    began: Nanos,
    has_asked: bool,
    answer: Vec<u8>,
    is_answered: bool,
}

impl Client {
    fn connect(address: SocketAddr, epoll: &OwnedFd, number: u64) -> Result<Self> {
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
            .context("a socket for a client")?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error).with_context(|| format!("connecting to {address}")),
        }
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(epoll, &socket, epoll::EventData::new_u64(number), flags).context("watching a socket")?;
        Ok(Self {
            stream: TcpStream::from(socket),
            began: clock::now(),
            has_asked: false,
            answer: Vec::new(),
            is_answered: false,
        })
    }

    /// Does what it can; true when that was the last of it.
    fn advance(&mut self, flags: epoll::EventFlags, request: &[u8]) -> Result<bool> {
        if self.is_answered {
            return Ok(false);
        }
        if let Some(error) = self.stream.take_error()? {
            return Err(error).context("a client's connection");
        }
        if !self.has_asked && flags.contains(epoll::EventFlags::OUT) {
            let written = self.stream.write(request).context("asking for API versions")?;
            ensure!(written == request.len(), "a new socket does not take a request");
            self.has_asked = true;
        }
        if !flags.contains(epoll::EventFlags::IN) {
            return Ok(false);
        }
        self.is_answered = self.read()?;
        Ok(self.is_answered)
    }

    /// True when the answer is whole.
    fn read(&mut self) -> Result<bool> {
        let mut buffer = [0; 8 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("a connection was closed instead of answered"),
                Ok(bytes) => self.answer.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("reading an answer"),
            }
        }
        let Some((length, body)) = self.answer.split_first_chunk() else {
            return Ok(false);
        };
        if body.len() < usize::try_from(i32::from_be_bytes(*length)).context("an answer's length")? {
            return Ok(false);
        }
        let versions = decode::<ApiVersionsRequest>(API_VERSIONS, Bytes::copy_from_slice(body))?;
        ensure!(
            versions.error_code == 0,
            "ApiVersions: error {}",
            versions.error_code
        );
        Ok(true)
    }
}
