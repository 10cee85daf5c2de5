//! The client against a real listener, and against peers that misbehave.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, MetadataRequest};
use odradek_net::client::{Client, ClientError, ClientSettings};
use odradek_net::exchange::Exchange;
use odradek_net::pool::{ClientPool, join_address};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{ECHO, Event, GATE, OVERLAP, Server, soon, until};

fn private() -> ClientSettings {
    ClientSettings {
        negotiate: false,
        ..ClientSettings::default()
    }
}

#[tokio::test]
async fn versions_are_negotiated_and_messages_decoded() {
    let server = Server::start();
    let client = soon(Client::connect(
        &server.address().to_string(),
        ClientSettings::default(),
    ))
    .await
    .unwrap();
    assert_eq!(client.negotiated(ApiKey::Metadata as i16), Some(12));
    assert_eq!(client.negotiated(ApiKey::Produce as i16), None);
    assert_eq!(client.common_version::<MetadataRequest>(), Some(12));
    let response = soon(client.send(12, MetadataRequest::default())).await.unwrap();
    assert_eq!(response.controller_id.0, 7);
    let info = server.service.connections.lock()[0].clone();
    assert_eq!(&*info.client_software().unwrap().name, "odradek");
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let server = Server::start();
    let client = soon(Client::connect(&server.address().to_string(), private()))
        .await
        .unwrap();
    let asked = (0..500_u32).map(|it| {
        let client = Arc::clone(&client);
        tokio::spawn(async move {
            let body = Bytes::from(it.to_be_bytes().to_vec());
            assert_eq!(client.send_raw(ECHO, 0, body.clone()).await.unwrap(), body);
        })
    });
    for task in asked.collect::<Vec<_>>() {
        soon(task).await.unwrap();
    }
    assert_eq!(server.listener.connections(), 1);
}

#[tokio::test]
async fn requests_are_in_flight_together() {
    let server = Server::start();
    let client = soon(Client::connect(&server.address().to_string(), private()))
        .await
        .unwrap();
    let first = client.send_raw(OVERLAP, 0, Bytes::from_static(b"a"));
    let second = client.send_raw(OVERLAP, 0, Bytes::from_static(b"b"));
    let open = async {
        server.service.started(1).await;
        assert!(!server.service.events.borrow().contains(&Event::Finish(0)));
        server.service.open(0);
        server.service.open(1);
    };
    let (first, second, ()) = soon(async { tokio::join!(first, second, open) }).await;
    assert_eq!(
        (&first.unwrap()[..], &second.unwrap()[..]),
        (&b"a"[..], &b"b"[..])
    );
}

#[tokio::test]
async fn a_timeout_closes_the_connection_and_fails_all_that_wait() {
    let server = Server::start();
    let client = soon(Client::connect(&server.address().to_string(), private()))
        .await
        .unwrap();
    let short = client.send_raw_within(GATE, 0, Bytes::new(), Duration::from_millis(20));
    let long = client.send_raw(ECHO, 0, Bytes::new());
    let (short, long) = soon(async { tokio::join!(short, long) }).await;
    assert!(matches!(short, Err(ClientError::Timeout { .. })), "{short:?}");
    assert!(matches!(long, Err(ClientError::Closed { .. })), "{long:?}");
    assert!(client.is_closed());
    assert!(client.closed().await.contains("did not answer"));
    until("the server sees it", || server.listener.connections() == 0).await;
    assert!(matches!(
        client.send_raw(ECHO, 0, Bytes::new()).await,
        Err(ClientError::Closed { .. })
    ));
}

#[tokio::test]
async fn an_exchange_asks_one_after_another() {
    let server = Server::start();
    let address = server.address().to_string();
    let mut exchange = soon(Exchange::connect(&address, private())).await.unwrap();
    for _ in 0..3 {
        let response = soon(exchange.send(12, &MetadataRequest::default()))
            .await
            .unwrap();
        assert_eq!(response.controller_id.0, 7);
    }
    assert_eq!(server.listener.connections(), 1);
    soon(server.listener.stop(Duration::ZERO)).await;
    let error = soon(exchange.send(12, &MetadataRequest::default())).await;
    assert!(matches!(error, Err(ClientError::Closed { .. })), "{error:?}");
    let refused = soon(Exchange::connect(&address, private())).await;
    assert!(matches!(refused, Err(ClientError::Connect { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_exchange_waits_no_longer_than_it_was_told() {
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = ClientSettings {
        request_timeout: Duration::from_millis(20),
        ..private()
    };
    let address = peer.local_addr().unwrap().to_string();
    let mut exchange = soon(Exchange::connect(&address, settings)).await.unwrap();
    let error = soon(exchange.send(12, &MetadataRequest::default())).await;
    assert!(matches!(error, Err(ClientError::Timeout { .. })), "{error:?}");
}

#[tokio::test]
async fn dropping_the_client_ends_the_connection() {
    let server = Server::start();
    let client = soon(Client::connect(&server.address().to_string(), private()))
        .await
        .unwrap();
    until("it is accepted", || server.listener.connections() == 1).await;
    drop(client);
    until("it is gone", || server.listener.connections() == 0).await;
}

/// A peer that answers the first request with `answer`.
async fn peer(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let size = stream.read_i32().await.unwrap();
        let mut request = vec![0; size as usize];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(answer).await.unwrap();
        // Holds the connection until the client leaves, unless there is nothing to say.
        while !answer.is_empty() && stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
    });
    address
}

#[tokio::test]
async fn misbehaving_peers_are_left() {
    let cases: [(&[u8], &str); 4] = [
        (&[0x7f, 0xff, 0xff, 0xff], "exceeds"),
        (&[0xff, 0xff, 0xff, 0xff], "exceeds"),
        (&[0, 0, 0, 5, 0, 0, 0, 42, 0], "nobody sent"),
        (&[], "the peer closed the connection"),
    ];
    for (answer, text) in cases {
        let client = soon(Client::connect(&peer(answer).await, private()))
            .await
            .unwrap();
        let error = soon(client.send_raw(ECHO, 0, Bytes::new())).await.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(!error.was_not_sent() && client.is_closed());
    }
}

#[tokio::test]
async fn the_pool_keeps_connections_and_makes_them_again() {
    let server = Server::start();
    let pool = ClientPool::new(private());
    pool.set_node(3, "127.0.0.1", server.address().port());
    assert!(matches!(pool.node(4).await, Err(ClientError::UnknownNode(4))));
    let first = soon(pool.node(3)).await.unwrap();
    assert!(Arc::ptr_eq(&first, &soon(pool.node(3)).await.unwrap()));
    first.close("for the test");
    let second = soon(pool.node(3)).await.unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(
        soon(second.send_raw(ECHO, 0, Bytes::from_static(b"x")))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn the_pool_pauses_between_failing_attempts() {
    let pool = ClientPool::new(private());
    // A port that was free a moment ago and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = join_address("127.0.0.1", port);
    assert!(matches!(
        pool.try_get(&address).await,
        Err(ClientError::Connect { .. })
    ));
    assert!(matches!(
        pool.try_get(&address).await,
        Err(ClientError::BackingOff { .. })
    ));
    let begun = std::time::Instant::now();
    assert!(matches!(
        pool.get(&address).await,
        Err(ClientError::Connect { .. })
    ));
    assert!(matches!(
        pool.get(&address).await,
        Err(ClientError::Connect { .. })
    ));
    assert!(
        begun.elapsed() >= Duration::from_millis(100),
        "the second pause is twice the first"
    );
    assert_eq!(join_address("::1", 9092), "[::1]:9092");
}
