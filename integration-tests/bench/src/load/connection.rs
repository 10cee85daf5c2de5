//! One nonblocking connection: small requests leave together, large ones straight from where they lie, and whole responses
//! are read in place.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Requests up to this size are copied, so that several leave with one system call.
const COPIED_BYTES_MAX: usize = 16 << 10;
/// Bytes that are asked for at once.
const READ_BYTES: usize = 256 << 10;
/// Until a listener answers.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A connection to a broker.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Small requests that have not left yet.
    outgoing: Vec<u8>,
    /// What came; `outgoing` and this keep their capacity.
    incoming: Vec<u8>,
    /// Where the next response starts in `incoming`.
    start: usize,
    /// Where the bytes that came end in `incoming`.
    end: usize,
    /// The socket was full, and nobody has said that it no longer is.
    full: bool,
}

/// Whether a large request has left as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It has, or it was copied.
    Whole,
    /// The socket took so many bytes; the rest is to be offered again.
    Partly(usize),
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            outgoing: Vec::new(),
            incoming: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            full: false,
        })
    }

    /// The socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// The socket takes bytes again.
    pub fn set_writable(&mut self) {
        self.full = false;
    }

    /// Takes a request from byte `from` on. Small ones leave with [`Connection::flush`].
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, request: &[u8], from: usize) -> Result<Sent> {
        if request.len() <= COPIED_BYTES_MAX {
            self.outgoing.extend_from_slice(&request[from..]);
            return Ok(Sent::Whole);
        }
        if !self.flush()? {
            return Ok(Sent::Partly(from));
        }
        let mut at = from;
        while at < request.len() {
            match self.write(&request[at..])? {
                0 => return Ok(Sent::Partly(at)),
                written => at += written,
            }
        }
        Ok(Sent::Whole)
    }

    /// Sends the small requests; false if the socket does not take all of them now.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self) -> Result<bool> {
        let mut at = 0;
        let outgoing = std::mem::take(&mut self.outgoing);
        let blocked = loop {
            if at == outgoing.len() {
                break false;
            }
            match self.write(&outgoing[at..])? {
                0 => break true,
                written => at += written,
            }
        };
        self.outgoing = outgoing;
        self.outgoing.drain(..at);
        Ok(!blocked)
    }

    /// Reads all that has come.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn fill(&mut self) -> Result<()> {
        loop {
            self.make_room();
            let room = self.incoming.len() - self.end;
            match self.stream.read(&mut self.incoming[self.end..]) {
                Ok(0) => bail!("the broker closed a connection"),
                Ok(count) => {
                    self.end += count;
                    // Less than there was room for: the socket is empty, which saves the call that says so.
                    if count < room {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("reading from the broker"),
            }
        }
    }

    /// The next whole response, without its length.
    ///
    /// # Errors
    /// Its length is impossible.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>> {
        let Some(length) = self.frame_length()? else {
            return Ok(None);
        };
        if self.end - self.start < 4 + length {
            return Ok(None);
        }
        let from = self.start + 4;
        self.start = from + length;
        Ok(Some(&self.incoming[from..from + length]))
    }

    fn frame_length(&self) -> Result<Option<usize>> {
        let Some(length) = self.incoming[self.start..self.end].first_chunk::<4>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        Ok(Some(usize::try_from(length).with_context(|| {
            format!("a response has the length {length}")
        })?))
    }

    /// Makes room for the rest of the response that is coming, or for [`READ_BYTES`].
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let coming = self.frame_length().ok().flatten().map_or(0, |length| 4 + length);
        let have = self.end - self.start;
        let wanted = coming.saturating_sub(have).max(READ_BYTES);
        if self.incoming.len() - self.end >= wanted.min(READ_BYTES)
            && self.incoming.len() - self.start >= coming
        {
            return;
        }
        self.incoming.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, have);
        if self.incoming.len() < have + wanted {
            self.incoming.resize(have + wanted, 0);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.full {
            return Ok(0);
        }
        loop {
            match self.stream.write(bytes) {
                Ok(0) => bail!("the broker closed a connection"),
                Ok(written) => return Ok(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.full = true;
                    return Ok(0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("writing to the broker"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = Connection::open(listener.local_addr().unwrap()).unwrap();
        (connection, listener.accept().unwrap().0)
    }

    fn frames(connection: &mut Connection, wanted: usize) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while found.len() < wanted {
            connection.fill().unwrap();
            while let Some(frame) = connection.next_frame().unwrap() {
                found.push(frame.to_vec());
            }
        }
        found
    }

    #[test]
    fn responses_are_whole_however_they_come() {
        let (mut connection, mut peer) = pair();
        let small = [0, 0, 0, 2, 7, 8];
        let mut large = 3_000_000_i32.to_be_bytes().to_vec();
        large.resize(3_000_004, 9);
        let sender = std::thread::spawn(move || {
            for part in [&small[..], &small[..3], &small[3..], &large[..], &small[..]] {
                peer.write_all(part).unwrap();
            }
            peer
        });
        let found = frames(&mut connection, 4);
        assert_eq!(
            (&found[0][..], &found[1][..], &found[3][..]),
            (&[7, 8][..], &[7, 8][..], &[7, 8][..])
        );
        assert_eq!(found[2], vec![9; 3_000_000]);
        drop(sender.join().unwrap());
    }

    #[test]
    fn a_large_request_goes_on_where_the_socket_stopped() {
        let (mut connection, mut peer) = pair();
        let request: Vec<u8> = (0..8_000_000_u32).map(|n| n as u8).collect();
        assert_eq!(connection.send(b"first", 0).unwrap(), Sent::Whole);
        let mut sent = connection.send(&request, 0).unwrap();
        let wanted = 5 + request.len();
        let reader = std::thread::spawn(move || {
            let mut received = vec![0; wanted];
            peer.read_exact(&mut received).unwrap();
            received
        });
        while let Sent::Partly(at) = sent {
            connection.set_writable();
            sent = connection.send(&request, at).unwrap();
        }
        let received = reader.join().unwrap();
        assert_eq!(&received[..5], b"first");
        assert!(received[5..] == request);
    }
}
