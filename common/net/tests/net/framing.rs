//! Frames arrive in any pieces.

use odradek_net::service::ANONYMOUS;

use crate::support::{ECHO, Server, framed, private, soon, until};

#[tokio::test]
async fn requests_cut_at_every_byte_are_answered() {
    let server = Server::start();
    let mut bytes = private(ECHO, 1, b"first");
    bytes.extend(private(ECHO, 2, b""));
    bytes.extend(private(ECHO, 3, b"third"));
    for cut in 1..bytes.len() {
        let mut socket = server.connect().await;
        let before = server.counts.received();
        socket.send(&bytes[..cut]).await;
        until("the first piece arrives", || {
            server.counts.received() == before + cut
        })
        .await;
        socket.send(&bytes[cut..]).await;
        assert_eq!(socket.receive().await, (1, b"first".to_vec()), "cut at {cut}");
        assert_eq!(socket.receive().await, (2, Vec::new()), "cut at {cut}");
        assert_eq!(socket.receive().await, (3, b"third".to_vec()), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_request_byte_by_byte_is_answered() {
    let server = Server::start();
    let mut socket = server.connect().await;
    for byte in private(ECHO, 9, b"slow") {
        let before = server.counts.received();
        socket.send(&[byte]).await;
        until("the byte arrives", || server.counts.received() == before + 1).await;
    }
    assert_eq!(socket.receive().await, (9, b"slow".to_vec()));
}

#[tokio::test]
async fn large_requests_and_small_ones_behind_them_are_answered_whole() {
    let server = Server::start();
    let mut socket = server.connect().await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|it| (it % 251) as u8).collect();
    let mut bytes = private(ECHO, 1, &large);
    for id in 2..100 {
        bytes.extend(private(ECHO, id, b"small"));
    }
    let (mut reader, mut writer) = socket.stream.split();
    let send = tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes);
    let receive = async {
        let mut answers = vec![0; bytes.len() - 99 * (2 + 2 + 2 + 4)];
        tokio::io::AsyncReadExt::read_exact(&mut reader, &mut answers)
            .await
            .unwrap();
        answers
    };
    let (sent, answers) = soon(async { tokio::join!(send, receive) }).await;
    sent.unwrap();
    // Length, correlation id, no tagged fields, body.
    assert!(answers[9..].starts_with(&large));
    assert_eq!(&answers[answers.len() - 5..], b"small");
    drop(socket);
    until("all memory comes back", || server.budget.used() == 0).await;
}

#[tokio::test]
async fn api_versions_of_an_unknown_version_reaches_the_service() {
    let server = Server::start();
    let mut socket = server.connect().await;
    socket
        .send(&framed(18, 77, 5, Some(true), b"whatever the future brings"))
        .await;
    let frame = socket.receive_frame().await;
    assert_eq!(frame[..6], [0, 0, 0, 5, 0, 35]);
    // The connection is still good.
    socket.send(&private(ECHO, 6, b"x")).await;
    assert_eq!(socket.receive().await, (6, b"x".to_vec()));
}

#[tokio::test]
async fn a_connection_knows_who_is_at_the_other_end() {
    let server = Server::start();
    let mut socket = server.connect().await;
    socket
        .send(&framed(18, 3, 1, Some(true), b"\x05kcat\x042.0\x00"))
        .await;
    socket.receive_frame().await;
    let info = server.service.connections.lock()[0].clone();
    assert_eq!(info.peer_addr, socket.stream.local_addr().unwrap());
    assert_eq!(&*info.principal(), ANONYMOUS);
    let software = info.client_software().unwrap();
    assert_eq!((&*software.name, &*software.version), ("kcat", "2.0"));
}

/// librdkafka 2.12 writes three bytes too many behind a Metadata request for all topics.
#[tokio::test]
async fn bytes_behind_the_last_field_are_ignored() {
    let server = Server::start();
    let mut socket = server.connect().await;
    socket
        .send(&framed(3, 12, 4, Some(true), &[0, 0, 0, 0, 1, 0, 0]))
        .await;
    assert_eq!(socket.receive_frame().await[..4], [0, 0, 0, 4]);
    socket.send(&private(ECHO, 5, b"still in step")).await;
    assert_eq!(socket.receive().await, (5, b"still in step".to_vec()));
}
