//! Bytes as they are on the wire, for what no well-behaved client sends.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Until the peer answers or closes.
const LIMIT: Duration = Duration::from_secs(15);

/// A TCP connection with frames.
#[derive(Debug)]
pub struct RawConnection {
    stream: TcpStream,
}

impl RawConnection {
    /// Connects.
    ///
    /// # Panics
    /// Nobody listens there.
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the broker listens");
        stream.set_nodelay(true).expect("a socket takes TCP_NODELAY");
        Self { stream }
    }

    /// Sends bytes as they are; a peer that has closed already is no failure.
    pub async fn send(&mut self, bytes: &[u8]) {
        // What the peer did is seen when reading.
        _ = self.stream.write_all(bytes).await;
    }

    /// Sends bytes with their length in front.
    pub async fn send_frame(&mut self, frame: &[u8]) {
        let mut bytes = BytesMut::new();
        bytes.put_i32(length(frame.len()));
        bytes.put_slice(frame);
        self.send(&bytes).await;
    }

    /// The next frame without its length, or `None` if the peer closed the connection instead.
    ///
    /// # Panics
    /// Neither happens in time.
    pub async fn receive(&mut self) -> Option<Bytes> {
        let read = async {
            let size = self.stream.read_i32().await.ok()?;
            let mut frame = vec![0; usize::try_from(size).expect("the length of a response is not negative")];
            self.stream.read_exact(&mut frame).await.ok()?;
            Some(Bytes::from(frame))
        };
        timeout(LIMIT, read)
            .await
            .expect("the broker answers or closes the connection")
    }

    /// Waits until the peer closes the connection; what it sends before is returned.
    ///
    /// # Panics
    /// It does not close in time.
    pub async fn closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is a close as well.
        _ = timeout(LIMIT, self.stream.read_to_end(&mut rest))
            .await
            .expect("the broker closes the connection");
        rest
    }

    /// Whether bytes can be read within `limit`, or the connection ends.
    pub async fn hears_within(&mut self, limit: Duration) -> bool {
        let mut byte = [0];
        timeout(limit, self.stream.peek(&mut byte)).await.is_ok()
    }

    /// Ends this side's sending.
    pub async fn finish(&mut self) {
        // The peer may have gone.
        _ = self.stream.shutdown().await;
    }
}

/// A frame of a typed request, with its length in front.
///
/// # Panics
/// The request does not fit the version.
#[must_use]
pub fn framed<R: Request>(version: i16, correlation_id: i32, request: &R) -> Bytes {
    let mut frame = header(R::KEY, version, correlation_id);
    request
        .encode(&mut frame, version)
        .expect("the request fits its version");
    let mut framed = BytesMut::new();
    framed.put_i32(length(frame.len()));
    framed.put_slice(&frame);
    framed.freeze()
}

/// The header of a request as clients send it, without the frame's length.
#[must_use]
pub fn header(api_key: i16, version: i16, correlation_id: i32) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_i16(api_key);
    bytes.put_i16(version);
    bytes.put_i32(correlation_id);
    bytes.put_i16(3);
    bytes.put_slice(b"raw");
    if odradek_net::wire::request_header_version(api_key, version) == 2 {
        bytes.put_u8(0);
    }
    bytes
}

/// Takes the correlation id off a response.
///
/// # Panics
/// The response is shorter.
pub fn take_correlation_id(response: &mut Bytes) -> i32 {
    response.get_i32()
}

fn length(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("test frames are small")
}
