//! A connection for one request at a time, without tasks: whoever asks writes and reads it.
//!
//! For a follower, which asks the next only when it has used the last answer: a task between the socket and the log costs
//! every acks=all produce its wake-ups. Promises what `client.rs` promises, but for the requests in flight. After an error,
//! and when a request was given up, the exchange is of no more use; drop it.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{ClientError, ClientSettings};
use crate::wire::{self, Arrived, LENGTH_BYTES, WireError};

/// The least that is read at once.
const READ_BYTES_MIN: usize = 16 << 10;
/// The most that the buffer grows at once.
const GROWTH_BYTES_MAX: usize = 1 << 20;

/// One connection to a peer.
#[derive(Debug)]
pub struct Exchange {
    stream: TcpStream,
    address: String,
    settings: ClientSettings,
    next_correlation_id: i32,
    sent: BytesMut,
    received: BytesMut,
}

impl Exchange {
    /// Connects to `host:port`. The peer is not asked for its API versions.
    ///
    /// # Errors
    /// The address does not resolve, nobody listens, or it takes too long.
    pub async fn connect(address: &str, settings: ClientSettings) -> Result<Self, ClientError> {
        let failed = |reason: String| ClientError::Connect {
            address: address.to_owned(),
            reason,
        };
        let limit = settings.connect_timeout;
        let stream = match timeout(limit, TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed(format!("no connection within {} ms", limit.as_millis()))),
        };
        stream
            .set_nodelay(true)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            stream,
            address: address.to_owned(),
            settings,
            next_correlation_id: 0,
            sent: BytesMut::new(),
            received: BytesMut::new(),
        })
    }

    /// Sends a request and waits for its response, at most the request timeout.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, ClientError> {
        let limit = self.settings.request_timeout;
        let Ok(response) = timeout(limit, self.send_unbounded(version, request)).await else {
            return Err(ClientError::Timeout {
                address: self.address.clone(),
                api: wire::api_name(R::KEY),
                timeout_ms: limit.as_millis(),
            });
        };
        Ok(wire::decode_whole(R::KEY, version, response?)?)
    }

    async fn send_unbounded<R: Request>(&mut self, version: i16, request: &R) -> Result<Bytes, ClientError> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = correlation_id.wrapping_add(1);
        self.put_request(version, correlation_id, request)?;
        if let Err(error) = self.stream.write_all(&self.sent).await {
            return Err(self.closed(format!("cannot send: {error}")));
        }
        let mut frame = self.receive().await?;
        let header_version = wire::response_header_version(R::KEY, version);
        let answered = wire::take_response_header(&mut frame, header_version)?;
        if answered != correlation_id {
            return Err(self.closed(format!("response to request {answered}, which nobody sent")));
        }
        Ok(frame)
    }

    fn put_request<R: Request>(
        &mut self,
        version: i16,
        correlation_id: i32,
        request: &R,
    ) -> Result<(), ClientError> {
        self.sent.clear();
        self.sent.put_i32(0);
        let client_id = &self.settings.client_id;
        wire::put_request_header(&mut self.sent, R::KEY, version, correlation_id, client_id);
        let encoded = request.encode(&mut self.sent, version);
        encoded.map_err(|error| WireError::Encode {
            name: wire::api_name(R::KEY),
            version,
            reason: error.to_string(),
        })?;
        let size = i32::try_from(self.sent.len() - LENGTH_BYTES).expect("a request is far below 2 GiB");
        self.sent[..LENGTH_BYTES].copy_from_slice(&size.to_be_bytes());
        Ok(())
    }

    async fn receive(&mut self) -> Result<Bytes, ClientError> {
        loop {
            let missing = match wire::take_frame(&mut self.received, self.settings.response_max_bytes) {
                Ok(Arrived::Frame(frame)) => return Ok(frame),
                Ok(Arrived::Missing(missing)) => missing,
                Err(reason) => return Err(self.closed(reason)),
            };
            // The buffer grows with what has arrived, not with what was declared.
            let growth = self.received.len().clamp(READ_BYTES_MIN, GROWTH_BYTES_MAX);
            self.received.reserve(growth.min(missing.max(READ_BYTES_MIN)));
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) => return Err(self.closed("the peer closed the connection".to_owned())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.closed(format!("cannot receive: {error}"))),
            }
        }
    }

    fn closed(&self, reason: String) -> ClientError {
        ClientError::Closed {
            address: self.address.clone(),
            reason,
        }
    }
}
