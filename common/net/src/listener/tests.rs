//! What is accepted, and connections that change workers.

use std::collections::HashSet;
use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpStream as StdTcpStream;
use std::thread;

use bytes::Bytes;
use tokio::sync::Notify;

use super::*;
use crate::service::{Reply, RequestFrame, Response};
use crate::wire::raw_response;

/// Answers its body and the name of the thread that it ran on.
const ECHO: i16 = 10_001;
/// The same, once it is let.
const GATED: i16 = 10_002;
/// The same as [`ECHO`], after so much work that a few clients keep a worker busy.
const BUSY: i16 = 10_003;
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Threads {
    gate: Arc<Notify>,
}

impl Service for Threads {
    fn supports(&self, api_key: i16, _: i16) -> bool {
        [ECHO, GATED, BUSY].contains(&api_key)
    }

    fn overlaps(&self, api_key: i16) -> bool {
        api_key == GATED
    }

    fn call(&self, _: &Arc<ConnectionInfo>, request: RequestFrame) -> Reply {
        let begin = std::time::Instant::now();
        while request.api_key == BUSY && begin.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        let thread = thread::current().name().unwrap_or("?").to_owned();
        let body = [thread.as_bytes(), &request.body].concat();
        let answer = Response::Frame(raw_response(
            request.api_key,
            0,
            request.correlation_id,
            Bytes::from(body),
        ));
        if request.api_key != GATED {
            return Reply::Done(answer);
        }
        let gate = Arc::clone(&self.gate);
        Reply::pending_overlap(async move {
            gate.notified().await;
            answer
        })
    }
}

/// Counts what arrived.
#[derive(Default)]
struct Received(AtomicUsize);

impl ConnectionObserver for Received {
    fn received(&self, _: &ConnectionInfo, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::SeqCst);
    }
}

struct Server {
    workers: Arc<WorkerPool>,
    service: Arc<Threads>,
    received: Arc<Received>,
    budget: MemoryBudget,
    listener: Listener,
}

impl Server {
    /// Connections move when a test says so.
    fn start() -> Self {
        Self::on(WorkerPool::start_unwatched(2, "w").unwrap())
    }

    fn on(workers: WorkerPool) -> Self {
        Self::with(workers, settings())
    }

    fn with(workers: WorkerPool, settings: ListenerSettings) -> Self {
        let workers = Arc::new(workers);
        let service = Arc::new(Threads::default());
        let received = Arc::new(Received::default());
        let logger = Logger::root(slog::Discard, slog::o!());
        let context = ListenerContext {
            observer: received.clone(),
            ..ListenerContext::new(Arc::clone(&workers), logger)
        };
        let listener = BoundListener::bind(settings)
            .unwrap()
            .start(&context, service.clone());
        Self {
            workers,
            service,
            received,
            budget: context.budget,
            listener,
        }
    }

    fn connect(&self) -> Client {
        let before = self.listener.connections();
        let stream = StdTcpStream::connect(self.listener.local_addr()).unwrap();
        until("accepted", || self.listener.connections() > before);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client { stream, asked: 0 }
    }

    /// Returns when so many bytes have come, and the turn of that worker that brought the last of them is over.
    fn until_received(&self, bytes: usize, worker: usize) {
        until("so many bytes", || {
            self.received.0.load(Ordering::SeqCst) >= bytes
        });
        let turn = self.workers.handle(worker).spawn(async {});
        Self::wait(turn).unwrap();
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("in time") })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.workers.stop();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "never: {what}");
        thread::yield_now();
    }
}

struct Client {
    stream: StdTcpStream,
    asked: i32,
}

impl Client {
    fn frame(&mut self, api_key: i16, body: &[u8]) -> Vec<u8> {
        self.asked += 1;
        let mut frame = Vec::new();
        frame.extend_from_slice(&api_key.to_be_bytes());
        frame.extend_from_slice(&[0, 0]);
        frame.extend_from_slice(&self.asked.to_be_bytes());
        // No client id, no tagged fields.
        frame.extend_from_slice(&[0xff, 0xff, 0]);
        frame.extend_from_slice(body);
        let length = i32::try_from(frame.len()).unwrap();
        [&length.to_be_bytes()[..], &frame].concat()
    }

    fn send(&mut self, api_key: i16, body: &[u8]) {
        let frame = self.frame(api_key, body);
        self.stream.write_all(&frame).unwrap();
    }

    /// The correlation id of the next answer, the thread, and the body.
    fn receive(&mut self) -> (i32, String, Vec<u8>) {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.stream.read_exact(&mut frame).unwrap();
        let id = i32::from_be_bytes(frame[..4].try_into().unwrap());
        // An empty set of tagged fields, and "w-0".
        let thread = String::from_utf8(frame[5..8].to_vec()).unwrap();
        (id, thread, frame[8..].to_vec())
    }

    /// The thread that serves this connection now.
    fn thread(&mut self) -> String {
        self.send(ECHO, b"");
        let (id, thread, _) = self.receive();
        assert_eq!(id, self.asked);
        thread
    }

    /// Asks until that thread answers. A connection moves behind the answer to the first request that follows a spread.
    fn until_on(&mut self, wanted: &str) {
        until(wanted, || self.thread() == wanted);
    }
}

fn settings() -> ListenerSettings {
    ListenerSettings::new("PLAINTEXT", "127.0.0.1", 0)
}

#[test]
fn what_is_accepted_inherits_the_options() {
    let settings = ListenerSettings {
        receive_buffer_bytes: Some(64 << 10),
        ..settings()
    };
    let bound = BoundListener::bind(settings).unwrap();
    let _client = StdTcpStream::connect(bound.local_addr()).unwrap();
    bound.socket.set_nonblocking(false).unwrap();
    let (accepted, _) = bound.socket.accept().unwrap();
    let accepted = SockRef::from(&accepted);
    assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
    assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE_TIME);
    assert_eq!(accepted.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
    // The kernel doubles what it is asked for, to have room for its own.
    assert_eq!(accepted.recv_buffer_size().unwrap(), 128 << 10);
}

#[test]
fn connections_go_where_their_seats_are() {
    let server = Server::start();
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for _ in 0..3 {
        server.workers.spread(1);
        clients.iter_mut().for_each(|client| client.until_on("w-0"));
        // They have done about as much as each other, so about half of them move.
        server.workers.spread(2);
        until("both workers serve several", || {
            let on_second = clients
                .iter_mut()
                .map(Client::thread)
                .filter(|thread| thread == "w-1");
            (2..=6).contains(&on_second.count())
        });
    }
    assert_eq!(server.listener.connections(), 8);
    Server::wait(server.listener.stop(Duration::ZERO));
    assert_eq!(server.listener.connections(), 0);
}

#[test]
fn a_light_load_is_served_by_one_worker_and_a_heavy_one_by_both() {
    let server = Server::on(WorkerPool::start(2, "w").unwrap());
    let mut clients: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    // Nothing tells the pool to: a light load does. Asking without a rest would not be one.
    until("one worker serves", || {
        thread::sleep(Duration::from_millis(20));
        clients.iter_mut().all(|client| client.thread() == "w-0")
    });
    // And a heavy one has the other worker help.
    until("both workers serve", || {
        clients.iter_mut().for_each(|client| client.send(BUSY, b""));
        let threads = clients.iter_mut().map(|client| client.receive().1);
        threads.collect::<HashSet<_>>().len() == 2
    });
}

#[test]
fn half_a_request_goes_along_and_what_is_in_work_stays() {
    let server = Server::start();
    let mut client = server.connect();
    server.workers.move_all_to(0);
    client.until_on("w-0");
    let before = server.received.0.load(Ordering::SeqCst);
    let frame = client.frame(ECHO, &[7; 100_000]);
    client.stream.write_all(&frame[..60_000]).unwrap();
    server.until_received(before + 60_000, 0);
    server.workers.move_all_to(1);
    // The turn that this byte brings is the last on the old worker.
    client.stream.write_all(&frame[60_000..=60_000]).unwrap();
    server.until_received(before + 60_001, 0);
    client.stream.write_all(&frame[60_001..]).unwrap();
    let (id, thread, body) = client.receive();
    assert_eq!((id, &*thread, body == [7; 100_000]), (client.asked, "w-1", true));
    // A request in work keeps its connection where it is; the next one is answered elsewhere.
    client.send(GATED, b"gated");
    server.workers.move_all_to(0);
    client.send(ECHO, b"behind");
    server.service.gate.notify_one();
    let (first, second) = (client.receive(), client.receive());
    assert_eq!((first.0, first.2.as_slice()), (client.asked - 1, &b"gated"[..]));
    assert_eq!((second.0, second.2.as_slice()), (client.asked, &b"behind"[..]));
    client.until_on("w-0");
}

#[test]
fn one_that_always_has_a_request_in_work_moves_too() {
    let server = Server::start();
    let mut client = server.connect();
    server.workers.move_all_to(0);
    client.until_on("w-0");
    client.send(GATED, b"");
    server.workers.move_all_to(1);
    until("the other worker answers", || {
        client.send(GATED, b"");
        server.service.gate.notify_one();
        client.receive().1 == "w-1"
    });
}

#[test]
fn every_answer_arrives_once_and_in_order_while_connections_move() {
    let server = Server::start();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4_usize)
            .map(|number| {
                let mut client = server.connect();
                scope.spawn(move || {
                    let mut threads = HashSet::new();
                    let mut asked = 0;
                    while threads.len() < 2 || asked < 2_000 {
                        let first = client.asked + 1;
                        for place in 0..5 {
                            client.send(ECHO, &vec![place; 1 + number * 20_000]);
                        }
                        for place in 0..5 {
                            let (id, thread, body) = client.receive();
                            assert_eq!(id, first + i32::from(place));
                            assert_eq!(body, vec![place; 1 + number * 20_000]);
                            threads.insert(thread);
                        }
                        asked += 5;
                    }
                })
            })
            .collect();
        let mut worker = 0;
        while !clients.iter().all(|client| client.is_finished()) {
            worker = 1 - worker;
            server.workers.move_all_to(worker);
            thread::sleep(Duration::from_millis(1));
        }
    });
    Server::wait(server.listener.stop(Duration::from_secs(1)));
    assert_eq!(
        server.budget.used(),
        0,
        "nothing is held for connections that are gone"
    );
}

#[test]
fn a_connection_that_has_moved_is_closed_when_it_was_idle_for_too_long() {
    let settings = ListenerSettings {
        max_idle: Some(Duration::from_millis(1)),
        ..settings()
    };
    let server = Server::with(WorkerPool::start_unwatched(2, "w").unwrap(), settings);
    let mut client = server.connect();
    for worker in ["w-0", "w-1"] {
        server.workers.move_all_to(usize::from(worker == "w-1"));
        client.until_on(worker);
    }
    client.stream.set_nonblocking(true).unwrap();
    until("closed", || {
        server.workers.wake_idle();
        client.stream.read(&mut [0]).is_ok_and(|bytes| bytes == 0)
    });
}

/// All clients of a broker that comes back find room, though it accepts none of them yet.
#[test]
fn a_thousand_clients_wait_in_the_backlog() {
    let bound = BoundListener::bind(ListenerSettings::new("PLAINTEXT", "127.0.0.1", 0)).unwrap();
    let address = bound.local_addr();
    let mut clients = Vec::new();
    for number in 0..1_000 {
        let client = StdTcpStream::connect_timeout(&address, LIMIT);
        clients.push(client.unwrap_or_else(|error| panic!("client {number}: {error}")));
    }
}
