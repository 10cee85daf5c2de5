//! What is no request closes the connection and leaves one line that names it.

use odradek_net::service::Service;

use crate::support::{ECHO, Server, framed, private, until};

/// Sends `bytes` and expects the end, the metric's label, and one line with `text` and the client's address.
async fn refused(server: &Server, bytes: &[u8], label: &str, text: &str) {
    let mut socket = server.connect().await;
    let client = socket.stream.local_addr().unwrap().to_string();
    socket.send(bytes).await;
    socket.closed().await;
    until("the line is written", || !server.lines.with(&client).is_empty()).await;
    let lines = server.lines.with(&client);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("WARN") && lines[0].contains(text),
        "{lines:?}"
    );
    assert_eq!(server.counts.refused.lock().last().copied(), Some(label));
    until("memory comes back", || server.budget.used() == 0).await;
}

#[tokio::test]
async fn other_protocols_are_named() {
    let server = Server::start();
    let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    refused(&server, &hello, "tls", "TLS hello").await;
    refused(&server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "http", "HTTP GET").await;
    refused(&server, b"POST /topics HTTP/1.1\r\n\r\n", "http", "HTTP POST").await;
    refused(&server, b"HEAD / HTTP/1.0\r\n\r\n", "http", "HTTP HEAD").await;
    refused(&server, b"PUT / HTTP/1.0\r\n\r\n", "http", "HTTP PUT").await;
}

#[tokio::test]
async fn impossible_lengths_are_named() {
    let server = Server::start();
    let two_gib = i32::MAX.to_be_bytes();
    refused(
        &server,
        &two_gib,
        "oversized",
        "frame of 2147483647 bytes exceeds socket.request.max.bytes",
    )
    .await;
    refused(&server, &(-1_i32).to_be_bytes(), "negative", "negative length -1").await;
    refused(&server, &[0, 0, 0, 9], "short", "frame of 9 bytes").await;
    refused(&server, &[0, 0, 0, 0], "short", "frame of 0 bytes").await;
}

#[tokio::test]
async fn unknown_apis_and_versions_are_refused_by_their_first_bytes() {
    let server = Server::start();
    refused(
        &server,
        &[0, 1, 0, 0, 0, 99, 0, 0],
        "unsupported",
        "unknown API 99",
    )
    .await;
    refused(
        &server,
        &[0, 1, 0, 0, 0, 3, 0, 99],
        "unsupported",
        "Metadata version 99",
    )
    .await;
    refused(
        &server,
        &[0, 0, 1, 0, 0xa5, 0x5a, 0xff, 0x00, 0x13],
        "unsupported",
        "unknown API",
    )
    .await;
    assert!(server.service.events.borrow().is_empty());
}

#[tokio::test]
async fn malformed_headers_and_bodies_are_refused() {
    let server = Server::start();
    let mut client_id = framed(3, 1, 1, None, &[0x7f, 0xff, b'a', b'b']);
    refused(&server, &client_id, "header", "client id longer than the frame").await;
    client_id = framed(3, 1, 1, None, &[0, 2, 0xff, 0xff]);
    refused(&server, &client_id, "header", "client id is not UTF-8").await;
    // Four billion topics in five bytes, which would end the process if they reached the decoder.
    let hostile = framed(3, 12, 1, Some(true), &[0xff, 0xff, 0xff, 0xff, 0x0f]);
    refused(&server, &hostile, "schema", "Metadata request v12, topics").await;
    assert!(server.service.supports(3, 12) && server.service.events.borrow().is_empty());
}

#[tokio::test]
async fn a_frame_that_is_none_after_good_ones_closes_too() {
    let server = Server::start();
    let mut socket = server.connect().await;
    socket.send(&private(ECHO, 1, b"good")).await;
    assert_eq!(socket.receive().await.0, 1);
    socket.send(&[0xff; 4]).await;
    socket.closed().await;
    assert_eq!(server.lines.with("negative length").len(), 1);
}

#[tokio::test]
async fn lines_about_strangers_are_limited() {
    let server = Server::start();
    for _ in 0..200 {
        let mut socket = server.connect().await;
        socket.send(b"GET / HTTP/1.1\r\n\r\n").await;
        socket.closed().await;
    }
    until("all are counted", || server.counts.refused.lock().len() == 200).await;
    assert!(
        server.lines.with("HTTP GET").len() <= 150,
        "ten lines a second at most"
    );
}
