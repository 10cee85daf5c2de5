//! Answers with parts of files in them.

use std::os::unix::fs::FileExt;

use odradek_net::residency::is_resident;
use odradek_net::sendfile::FileRange;

use super::support::{ECHO, FILE, Options, Server, private};

const LENGTH: usize = 3 << 20;

#[tokio::test]
async fn parts_of_files_travel_between_bytes_in_memory() {
    let server = Server::with(Options::default());
    let content: Vec<u8> = (0..LENGTH).map(|at| (at / 3) as u8).collect();
    server.service.file.write_all_at(&content, 0).unwrap();
    let mut socket = server.connect().await;
    let mut bytes = private(FILE, 1, &(LENGTH as u32).to_be_bytes());
    bytes.extend(private(ECHO, 2, b"after"));
    bytes.extend(private(FILE, 3, &5_u32.to_be_bytes()));
    socket.send(&bytes).await;
    let (id, body) = socket.receive().await;
    assert_eq!((id, body.len()), (1, LENGTH + 8));
    assert_eq!((&body[..4], &body[4 + LENGTH..]), (&b"head"[..], &b"tail"[..]));
    assert!(body[4..4 + LENGTH] == content);
    assert_eq!(socket.receive().await, (2, b"after".to_vec()));
    let (_, small) = socket.receive().await;
    assert_eq!(small, [b"head", &content[..5], b"tail"].concat());
}

#[tokio::test]
async fn what_is_not_in_memory_is_read_first() {
    let server = Server::with(Options::default());
    // Holes are on no page.
    server.service.file.set_len(LENGTH as u64).unwrap();
    let all = FileRange {
        file: server.service.file.clone(),
        position: 0,
        length: LENGTH,
    };
    assert!(!is_resident(&all), "the file is cold, or the test shows nothing");
    let mut socket = server.connect().await;
    socket
        .send(&private(FILE, 1, &(LENGTH as u32).to_be_bytes()))
        .await;
    let (_, body) = socket.receive().await;
    assert_eq!(body.len(), LENGTH + 8);
    assert!(body[4..4 + LENGTH].iter().all(|byte| *byte == 0));
    assert!(is_resident(&all));
}

#[tokio::test]
async fn a_file_that_lost_its_bytes_closes_the_connection() {
    let server = Server::with(Options::default());
    server.service.file.write_all_at(b"0123456789", 0).unwrap();
    let mut socket = server.connect().await;
    socket.send(&private(FILE, 1, &20_u32.to_be_bytes())).await;
    let mut rest = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut socket.stream, &mut rest);
    super::support::soon(read).await.unwrap();
    assert!(rest.ends_with(b"head0123456789"), "{} bytes", rest.len());
}
