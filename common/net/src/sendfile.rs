//! Sending parts of files without copying them through this process.
//!
//! Owns [`FileRange`] and the [`Outlet`] that a transport offers for answers. A plain socket hands file ranges to the kernel;
//! a transport that must see the bytes, such as TLS, reads and sends them. Does not look whether they are in memory.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

/// A part of a file.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The file; open, so that it stays readable when it is deleted.
    pub file: Arc<File>,
    /// Where the part begins.
    pub position: u64,
    /// Its bytes.
    pub length: usize,
}

impl FileRange {
    /// The first bytes of it.
    #[must_use]
    pub fn head(&self, length_max: usize) -> Self {
        Self {
            file: self.file.clone(),
            position: self.position,
            length: self.length.min(length_max),
        }
    }
}

/// Where bytes leave.
pub trait Outlet {
    /// Sends the beginning of these slices. `more` tells that other bytes follow at once, so that a short end of these may
    /// wait for them and travel in the same packet.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        more: bool,
    ) -> Poll<io::Result<usize>>;

    /// Sends the beginning of a part of a file; 0 if the file ends before it.
    fn poll_send_file(&mut self, cx: &mut Context<'_>, range: &FileRange) -> Poll<io::Result<usize>>;
}

impl Outlet for TcpStream {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        more: bool,
    ) -> Poll<io::Result<usize>> {
        poll_send(self, cx, slices, more)
    }

    fn poll_send_file(&mut self, cx: &mut Context<'_>, range: &FileRange) -> Poll<io::Result<usize>> {
        poll_send_file(self, cx, range)
    }
}

impl Outlet for OwnedWriteHalf {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        more: bool,
    ) -> Poll<io::Result<usize>> {
        poll_send(self.as_ref(), cx, slices, more)
    }

    fn poll_send_file(&mut self, cx: &mut Context<'_>, range: &FileRange) -> Poll<io::Result<usize>> {
        poll_send_file(self.as_ref(), cx, range)
    }
}

fn poll_send(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
    more: bool,
) -> Poll<io::Result<usize>> {
    let flags = if more {
        SendFlags::NOSIGNAL | SendFlags::MORE
    } else {
        SendFlags::NOSIGNAL
    };
    poll_writable(stream, cx, || {
        // One piece needs no list of them.
        let sent = match slices {
            [only] => rustix::net::send(stream, only, flags),
            _ => rustix::net::sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), flags),
        };
        Ok(sent?)
    })
}

fn poll_send_file(stream: &TcpStream, cx: &mut Context<'_>, range: &FileRange) -> Poll<io::Result<usize>> {
    poll_writable(stream, cx, || {
        let mut position = range.position;
        let sent = rustix::fs::sendfile(stream, &range.file, Some(&mut position), range.length);
        Ok(sent?)
    })
}

/// Tries until it is done or the socket is full.
fn poll_writable(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    mut send: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match stream.try_io(Interest::WRITABLE, &mut send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return Poll::Ready(outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::os::unix::fs::FileExt;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    fn file(bytes: &[u8]) -> Arc<File> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn a_part_of_a_file_follows_its_header() {
        let (mut client, mut server) = pair().await;
        let range = FileRange {
            file: file(b"0123456789"),
            position: 3,
            length: 4,
        };
        let header = [IoSlice::new(b"he"), IoSlice::new(b"ad")];
        assert_eq!(
            poll_fn(|cx| server.poll_send(cx, &header, true)).await.unwrap(),
            4
        );
        assert_eq!(poll_fn(|cx| server.poll_send_file(cx, &range)).await.unwrap(), 4);
        let mut received = [0; 8];
        client.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"head3456");
    }

    #[tokio::test]
    async fn a_full_socket_is_waited_for() {
        let (mut client, mut server) = pair().await;
        let size = 32 << 20;
        let all: Vec<u8> = (0..size).map(|at: usize| (at / 7) as u8).collect();
        let mut range = FileRange {
            file: file(&all),
            position: 0,
            length: size,
        };
        let send = async move {
            while range.length > 0 {
                let sent = poll_fn(|cx| server.poll_send_file(cx, &range)).await.unwrap();
                range.position += sent as u64;
                range.length -= sent;
            }
        };
        let receive = async move {
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.unwrap();
            received
        };
        let (_, received) = tokio::join!(send, receive);
        assert!(received == all);
    }

    #[tokio::test]
    async fn beyond_the_end_of_a_file_nothing_is_sent() {
        let (_client, mut server) = pair().await;
        let range = FileRange {
            file: file(b"01"),
            position: 2,
            length: 4,
        };
        assert_eq!(poll_fn(|cx| server.poll_send_file(cx, &range)).await.unwrap(), 0);
    }
}
