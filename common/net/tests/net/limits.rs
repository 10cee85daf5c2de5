//! Memory, connections, idleness, stopping: everything has a bound.

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::Duration;

use odradek_net::connection::OUTBOUND_BYTES_MAX;
use odradek_net::listener::{BindError, BoundListener, ConnectionQuotas, ListenerSettings};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{ECHO, Event, GATE, LARGE, Options, Server, private, soon, until};

#[tokio::test]
async fn a_declared_length_takes_no_memory() {
    let server = Server::start();
    let mut socket = server.connect().await;
    let mut start = (100_i32 << 20).to_be_bytes().to_vec();
    start.extend_from_slice(&private(ECHO, 1, b"")[4..]);
    socket.send(&start).await;
    until("the bytes arrive", || server.counts.received() == start.len()).await;
    until("only they are held", || server.budget.used() == start.len()).await;
    drop(socket);
    until("and given back", || server.budget.used() == 0).await;
}

#[tokio::test]
async fn readers_wait_for_memory_and_go_on_when_it_comes_back() {
    let server = Server::with(Options {
        budget_bytes: 64 << 10,
        ..Options::default()
    });
    let body = vec![1; 60 << 10];
    let mut holder = server.connect().await;
    holder.send(&private(GATE, 1, &body)).await;
    server.service.started(1).await;
    // One more frame may overdraw the budget.
    let mut overdrawn = server.connect().await;
    overdrawn.send(&private(GATE, 2, &body)).await;
    server.service.started(2).await;
    let mut waiting = server.connect().await;
    waiting.send(&private(ECHO, 3, &body)).await;
    // The second waits too, for memory to look for its next request with.
    until("the third waits", || server.budget.waiting() >= 2).await;
    assert!(server.budget.used() <= (64 << 10) + body.len() + (8 << 10));
    server.service.open(1);
    server.service.open(2);
    assert_eq!(waiting.receive().await.0, 3);
    assert_eq!(holder.receive().await.0, 1);
    assert_eq!(overdrawn.receive().await.0, 2);
    let events = server.service.events.borrow().clone();
    let first = events
        .iter()
        .find(|it| matches!(it, Event::Finish(_) | Event::Start(3)));
    assert_ne!(first, Some(&Event::Start(3)), "the third started without memory");
    until("all comes back", || server.budget.used() == 0).await;
}

#[tokio::test]
async fn a_frame_larger_than_the_whole_budget_still_gets_through() {
    let server = Server::with(Options {
        budget_bytes: 8 << 10,
        ..Options::default()
    });
    let body = vec![1; 300 << 10];
    let mut sockets = Vec::new();
    for id in 0..4 {
        let mut socket = server.connect().await;
        let bytes = private(ECHO, id, &body);
        sockets.push(tokio::spawn(async move {
            socket.send(&bytes).await;
            socket.receive().await
        }));
    }
    for (id, socket) in (0..).zip(sockets) {
        let (answered, echoed) = soon(socket).await.unwrap();
        assert_eq!((answered, echoed.len()), (id, body.len()));
    }
}

#[tokio::test]
async fn a_slow_reader_stops_new_requests() {
    let mut options = Options::default();
    options.settings.send_buffer_bytes = Some(256 << 10);
    let server = Server::with(options);
    let mut socket = server.connect().await;
    let large: usize = 256 << 10;
    let bytes: Vec<u8> = (0..100)
        .flat_map(|id| private(LARGE, id, &(large as u32).to_be_bytes()))
        .collect();
    socket.send(&bytes).await;
    for id in 0..100 {
        let (answered, body) = socket.receive().await;
        assert_eq!((answered, body.len()), (id, large));
    }
    let backlog = server.service.backlog_max.load(Ordering::SeqCst);
    assert!(
        backlog <= OUTBOUND_BYTES_MAX + large,
        "{backlog} bytes were waiting"
    );
    assert!(
        backlog >= large,
        "the socket took everything, so the test shows nothing"
    );
}

#[tokio::test]
async fn idle_connections_are_closed_and_waiting_ones_are_not() {
    let mut options = Options::default();
    options.settings.max_idle = Some(Duration::from_millis(100));
    let server = Server::with(options);
    let mut busy = server.connect().await;
    busy.send(&private(GATE, 1, b"")).await;
    server.service.started(1).await;
    let mut idle = server.connect().await;
    let mut stalled = server.connect().await;
    stalled.send(&private(ECHO, 2, b"cut")[..10]).await;
    idle.closed().await;
    stalled.closed().await;
    assert_eq!(server.lines.with("sent no byte of a request").len(), 1);
    server.service.open(1);
    assert_eq!(busy.receive().await.0, 1);
    busy.closed().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = BoundListener::bind(ListenerSettings::new("PLAINTEXT", "127.0.0.1", port)).unwrap_err();
    assert!(matches!(error, BindError::AddressInUse { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&format!("127.0.0.1:{port} is already in use")) && text.contains("PLAINTEXT"),
        "{text}"
    );
}

#[test]
fn hosts_are_names_or_addresses_or_nothing() {
    for host in ["localhost", "127.0.0.1", ""] {
        let bound = BoundListener::bind(ListenerSettings::new("L", host, 0)).unwrap();
        assert_ne!(bound.local_addr().port(), 0);
        assert!(
            std::net::TcpStream::connect(("127.0.0.1", bound.local_addr().port())).is_ok(),
            "{host}"
        );
    }
    let error = BoundListener::bind(ListenerSettings::new("L", "no.such.host.invalid", 0)).unwrap_err();
    assert!(matches!(error, BindError::Resolve { .. }));
    let error = BoundListener::bind(ListenerSettings::new("L", "192.0.2.1", 0)).unwrap_err();
    assert!(matches!(error, BindError::NotLocal { .. }), "{error}");
}

#[tokio::test]
async fn a_stop_lets_running_requests_answer_and_accepts_no_more() {
    let server = Server::start();
    let mut busy = server.connect().await;
    let mut idle = server.connect().await;
    busy.send(&private(GATE, 1, b"")).await;
    server.service.started(1).await;
    let stop = server.listener.stop(Duration::from_secs(20));
    let rest = async {
        idle.closed().await;
        server.service.open(1);
        assert_eq!(busy.receive().await.0, 1);
        busy.closed().await;
    };
    soon(async { tokio::join!(stop, rest) }).await;
    assert_eq!(server.listener.connections(), 0);
    assert!(TcpStream::connect(server.address()).await.is_err());
    assert_eq!(
        server.counts.opened.load(Ordering::SeqCst),
        server.counts.closed.load(Ordering::SeqCst)
    );
}

#[tokio::test]
async fn a_stop_does_not_wait_beyond_its_grace() {
    let server = Server::start();
    let mut busy = server.connect().await;
    busy.send(&private(GATE, 1, b"")).await;
    server.service.started(1).await;
    soon(server.listener.stop(Duration::from_millis(20))).await;
    busy.closed().await;
}

#[tokio::test]
async fn an_address_has_only_so_many_connections() {
    let server = Server::with(Options {
        quotas: ConnectionQuotas::new(100, 2),
        ..Options::default()
    });
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    for socket in [&mut first, &mut second] {
        socket.send(&private(ECHO, 1, b"")).await;
        socket.receive().await;
    }
    server.connect().await.closed().await;
    assert_eq!(*server.counts.refused.lock(), ["max.connections.per.ip"]);
    first.stream.shutdown().await.unwrap();
    first.closed().await;
    until("its place is free", || server.listener.connections() == 1).await;
    let mut third = server.connect().await;
    third.send(&private(ECHO, 2, b"")).await;
    assert_eq!(third.receive().await.0, 2);
}

#[tokio::test]
async fn clients_are_turned_away_before_the_last_descriptors_are_gone() {
    let few = || Options {
        descriptors_max: 1,
        ..Options::default()
    };
    let server = Server::with(few());
    server.connect().await.closed().await;
    assert_eq!(*server.counts.refused.lock(), ["descriptors"]);
    assert_eq!(server.lines.with("connection refused").len(), 1);
    let mut for_nodes = few();
    for_nodes.settings.is_for_nodes = true;
    let server = Server::with(for_nodes);
    let mut node = server.connect().await;
    node.send(&private(ECHO, 1, b"")).await;
    assert_eq!(node.receive().await.0, 1);
}

#[tokio::test]
async fn too_many_connections_wait_in_the_backlog() {
    let of_the_node = Options {
        quotas: ConnectionQuotas::new(1, 100),
        ..Options::default()
    };
    let mut of_the_listener = Options::default();
    of_the_listener.settings.connections_max = Some(1);
    for options in [of_the_node, of_the_listener] {
        let server = Server::with(options);
        let mut first = server.connect().await;
        first.send(&private(ECHO, 1, b"")).await;
        first.receive().await;
        let mut second = server.connect().await;
        second.send(&private(ECHO, 2, b"")).await;
        first.send(&private(ECHO, 3, b"")).await;
        first.receive().await;
        assert!(!server.service.has_started(2));
        drop(first);
        assert_eq!(second.receive().await.0, 2);
    }
}

#[tokio::test]
async fn nodes_connect_though_clients_have_used_up_the_connections() {
    let quotas = ConnectionQuotas::new(1, 100);
    let for_clients = Server::with(Options {
        quotas: quotas.clone(),
        ..Options::default()
    });
    let mut options = Options {
        quotas,
        ..Options::default()
    };
    options.settings.is_for_nodes = true;
    let for_nodes = Server::with(options);
    let mut client = for_clients.connect().await;
    client.send(&private(ECHO, 1, b"")).await;
    assert_eq!(client.receive().await.0, 1);
    let mut node = for_nodes.connect().await;
    node.send(&private(ECHO, 1, b"")).await;
    assert_eq!(node.receive().await.0, 1);
    let mut other = for_clients.connect().await;
    other.send(&private(ECHO, 2, b"")).await;
    drop(client);
    node.send(&private(ECHO, 3, b"")).await;
    assert_eq!(node.receive().await.0, 3);
    assert!(!for_clients.service.has_started(2), "the node is counted");
    drop(node);
    assert_eq!(other.receive().await.0, 2);
}
