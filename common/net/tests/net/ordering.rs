//! Requests start in order, responses leave in order.

use std::time::{Duration, Instant};

use odradek_net::connection::IN_FLIGHT_REQUESTS_MAX;
use tokio::io::AsyncWriteExt;

use crate::support::{CLOSE, ECHO, Event, GATE, OVERLAP, SILENT, Server, THROTTLE, private, until};

#[tokio::test]
async fn overlapping_requests_answer_in_request_order_and_hold_up_others() {
    let server = Server::start();
    let mut socket = server.connect().await;
    let bytes = [
        private(OVERLAP, 1, b""),
        private(OVERLAP, 2, b""),
        private(ECHO, 3, b""),
        private(GATE, 4, b""),
    ];
    socket.send(&bytes.concat()).await;
    server.service.started(2).await;
    server.service.open(2);
    let finished = || server.service.events.borrow().contains(&Event::Finish(2));
    until("the second finishes", finished).await;
    server.service.open(1);
    server.service.open(4);
    for id in 1..=4 {
        assert_eq!(socket.receive().await.0, id);
    }
    use Event::{Finish, Start};
    let expected = [
        Start(1),
        Start(2),
        Finish(2),
        Finish(1),
        Start(3),
        Start(4),
        Finish(4),
    ];
    assert_eq!(*server.service.events.borrow(), expected);
}

#[tokio::test]
async fn other_requests_wait_for_the_one_before() {
    let server = Server::start();
    let mut socket = server.connect().await;
    socket
        .send(&[private(GATE, 1, b""), private(OVERLAP, 2, b"")].concat())
        .await;
    server.service.started(1).await;
    server.service.open(2);
    server.service.open(1);
    assert_eq!(socket.receive().await.0, 1);
    assert_eq!(socket.receive().await.0, 2);
    assert_eq!(
        server.service.events.borrow()[..2],
        [Event::Start(1), Event::Finish(1)]
    );
}

#[tokio::test]
async fn unanswered_requests_are_limited() {
    let server = Server::start();
    let mut socket = server.connect().await;
    let limit = i32::try_from(IN_FLIGHT_REQUESTS_MAX).unwrap();
    let bytes: Vec<u8> = (1..=limit + 1).flat_map(|id| private(OVERLAP, id, b"")).collect();
    socket.send(&bytes).await;
    server.service.started(limit).await;
    server.service.open(1);
    assert_eq!(socket.receive().await.0, 1);
    server.service.started(limit + 1).await;
    let events = server.service.events.borrow().clone();
    let at = |event| events.iter().position(|it| *it == event).unwrap();
    assert!(at(Event::Finish(1)) < at(Event::Start(limit + 1)));
}

#[tokio::test]
async fn nothing_starts_while_a_throttled_connection_is_muted() {
    let server = Server::start();
    let mut socket = server.connect().await;
    let mute = Duration::from_millis(200);
    let begun = Instant::now();
    socket
        .send(
            &[
                private(THROTTLE, 1, &200_u32.to_be_bytes()),
                private(ECHO, 2, b""),
            ]
            .concat(),
        )
        .await;
    assert_eq!(socket.receive().await.0, 1);
    if begun.elapsed() < mute {
        assert!(
            !server.service.has_started(2),
            "the response leaves before the mute ends"
        );
    }
    assert_eq!(socket.receive().await.0, 2);
    assert!(begun.elapsed() >= mute);
}

#[tokio::test]
async fn requests_without_answer_leave_no_gap_and_no_answer() {
    let server = Server::start();
    let mut socket = server.connect().await;
    socket
        .send(&[private(SILENT, 1, b""), private(ECHO, 2, b"")].concat())
        .await;
    assert_eq!(socket.receive().await.0, 2);
}

#[tokio::test]
async fn a_close_lets_earlier_answers_out_and_drops_later_requests() {
    let server = Server::start();
    let mut socket = server.connect().await;
    socket
        .send(
            &[
                private(ECHO, 1, b""),
                private(CLOSE, 2, b""),
                private(ECHO, 3, b""),
            ]
            .concat(),
        )
        .await;
    assert_eq!(socket.receive().await.0, 1);
    socket.closed().await;
    assert!(!server.service.has_started(3));
    assert_eq!(server.lines.with("as asked").len(), 1);
}

#[tokio::test]
async fn a_half_closed_peer_still_gets_its_answers() {
    let server = Server::start();
    let mut socket = server.connect().await;
    socket
        .send(&[private(ECHO, 1, b""), private(ECHO, 2, b"")].concat())
        .await;
    socket.stream.shutdown().await.unwrap();
    assert_eq!(socket.receive().await.0, 1);
    assert_eq!(socket.receive().await.0, 2);
    socket.closed().await;
}

#[tokio::test]
async fn a_peer_that_goes_away_is_noticed_while_its_request_waits() {
    let server = Server::start();
    let mut socket = server.connect().await;
    socket.send(&private(GATE, 1, b"")).await;
    server.service.started(1).await;
    drop(socket);
    let gone = || {
        server
            .service
            .disconnected
            .load(std::sync::atomic::Ordering::SeqCst)
            == 1
    };
    until("the connection is gone", gone).await;
    assert_eq!(server.listener.connections(), 0);
}
