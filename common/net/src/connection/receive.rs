//! Bytes on their way in, and the frames in them.
//!
//! A connection reads into a buffer that its thread lends it (`buffers.rs`) and hands out whole frames without copying them, save
//! those that may be held for long. Between two readings it holds what has really arrived, and no more. Promises that a declared
//! length allocates nothing, that every byte held is paid for from the memory budget, and that a frame is refused as soon as its
//! first bytes show that it is none. Does not decide when to read.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::{fmt, io};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use odradek_common::schema::{SchemaError, check_request};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::arrivals::Arrivals;
use super::buffers;
use crate::budget::MemoryBudget;
use crate::service::{PRIVATE_API_KEY_MIN, RequestFrame, Service};
use crate::wire::{self, FIXED_HEADER_BYTES, LENGTH_BYTES, RequestHeader};

/// The least that is read at once.
const READ_BYTES_MIN: usize = 4 << 10;
/// The most that is read at once inside a large frame.
const GROWTH_BYTES_MAX: usize = 1 << 20;
/// So much of an incomplete frame keeps the lent buffer, if there is memory for the rest of it; less moves to a place of its own.
const KEPT_BYTES_MIN: usize = 16 << 10;
/// A longer client id is copied with every request: it is not kept between them, where nothing pays for it.
const KEPT_CLIENT_ID_BYTES_MAX: usize = 256;
/// Bytes of the shortest request: a header of version 1 with no client id.
const REQUEST_BYTES_MIN: usize = FIXED_HEADER_BYTES + 2;
/// The API key of ApiVersions, which is served in every version.
const API_VERSIONS: i16 = 18;

/// Why bytes are no request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A TLS client on a listener without TLS.
    TlsHello,
    /// An HTTP client.
    Http(&'static str),
    /// Longer than allowed.
    Oversized { bytes: i32, max: usize },
    /// A negative length.
    Negative { bytes: i32 },
    /// Too short for a header.
    Short { bytes: i32 },
    /// An API or a version that this listener does not serve.
    Unsupported { api_key: i16, api_version: i16 },
    /// The header is malformed.
    Header {
        api_key: i16,
        api_version: i16,
        error: String,
    },
    /// The body contradicts its schema.
    Schema(SchemaError),
}

impl Refusal {
    /// A fixed word for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::TlsHello => "tls",
            Self::Http(_) => "http",
            Self::Oversized { .. } => "oversized",
            Self::Negative { .. } => "negative",
            Self::Short { .. } => "short",
            Self::Unsupported { .. } => "unsupported",
            Self::Header { .. } => "header",
            Self::Schema(_) => "schema",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TlsHello => {
                write!(
                    f,
                    "TLS hello on a listener without TLS; set security.protocol=PLAINTEXT in the client"
                )
            }
            Self::Http(verb) => write!(f, "HTTP {verb} request; this port speaks the Kafka protocol"),
            Self::Oversized { bytes, max } => {
                write!(f, "frame of {bytes} bytes exceeds socket.request.max.bytes={max}")
            }
            Self::Negative { bytes } => write!(f, "frame of negative length {bytes}"),
            Self::Short { bytes } => write!(f, "frame of {bytes} bytes is shorter than a request header"),
            Self::Unsupported { api_key, api_version } => {
                write!(
                    f,
                    "{} version {api_version} is not served here",
                    wire::api_name(*api_key)
                )
            }
            Self::Header {
                api_key,
                api_version,
                error,
            } => {
                write!(f, "{} version {api_version}: {error}", wire::api_name(*api_key))
            }
            Self::Schema(error) => write!(f, "{error}"),
        }
    }
}

/// What came of an attempt to read.
pub(crate) enum Filled {
    /// So many bytes arrived.
    Bytes(usize),
    /// The peer will send no more.
    End,
    /// The memory budget is used up; the waker is registered there.
    Exhausted,
}

/// Received bytes that are not yet handed out as frames.
pub(crate) struct ReceiveBuffer {
    bytes: BytesMut,
    arrivals: Arrivals,
    budget: MemoryBudget,
    account: u64,
    request_max_bytes: usize,
    /// What the empty rest of a kept buffer has taken from the budget.
    rest_bytes: usize,
    /// Since when this account holds the budget's overdraft, if it does.
    overdrawn_since: Option<Instant>,
    first_frame: bool,
    /// Of the last frame: clients say the same each time.
    client_id: Option<StrBytes>,
}

impl ReceiveBuffer {
    pub(crate) fn new(budget: MemoryBudget, account: u64, request_max_bytes: usize) -> Self {
        let bytes = BytesMut::new();
        Self {
            bytes,
            arrivals: Arrivals::default(),
            budget,
            account,
            request_max_bytes,
            rest_bytes: 0,
            overdrawn_since: None,
            first_frame: true,
            client_id: None,
        }
    }

    /// Bytes that are here.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Since when the frame that is arriving keeps everybody else from memory.
    pub(crate) fn overdrawn_since(&self) -> Option<Instant> {
        self.overdrawn_since
    }

    /// The API key of the next frame if the whole frame is here.
    pub(crate) fn complete_api_key(&self) -> Option<i16> {
        let end = self.frame_end()?;
        (self.bytes.len() >= end).then(|| self.i16_at(LENGTH_BYTES))?
    }

    /// The API key of the next frame, if so much of it is here.
    pub(crate) fn api_key(&self) -> Option<i16> {
        self.i16_at(LENGTH_BYTES)
    }

    /// Reads once, at most `most` bytes.
    pub(crate) fn poll_fill<T: AsyncRead + Unpin>(
        &mut self,
        transport: &mut T,
        cx: &mut Context<'_>,
        now: Instant,
        most: usize,
    ) -> Poll<io::Result<Filled>> {
        self.budget.give_back(std::mem::take(&mut self.rest_bytes));
        let wanted = self.make_room().min(most);
        let Some(granted) = self.grant(wanted, cx, now) else {
            self.rest();
            return Poll::Ready(Ok(Filled::Exhausted));
        };
        let read = {
            let mut target = (&mut self.bytes).limit(granted);
            pin!(transport.read_buf(&mut target)).poll(cx)
        };
        let received = match &read {
            Poll::Ready(Ok(received)) => *received,
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        self.budget.give_back(granted - received);
        match read {
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(Filled::End)),
            Poll::Ready(Ok(received)) => {
                self.arrivals.read(&self.bytes, now);
                // A whole frame holds nobody up, whether or not it may start yet.
                if self.complete_api_key().is_some() {
                    self.end_overdraft();
                }
                Poll::Ready(Ok(Filled::Bytes(received)))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.rest();
                Poll::Pending
            }
        }
    }

    /// Refuses a frame by its first bytes, before the rest of it is received.
    pub(crate) fn check_start(&self, service: &dyn Service) -> Result<(), Refusal> {
        let Some(size) = self.declared_size() else {
            return Ok(());
        };
        let foreign = recognise(&self.bytes[..LENGTH_BYTES]);
        let fits = usize::try_from(size).is_ok_and(|size| size <= self.request_max_bytes);
        if let (Some(foreign), true) = (foreign, self.first_frame || !fits) {
            return Err(foreign);
        }
        if size < 0 {
            return Err(Refusal::Negative { bytes: size });
        }
        if !fits {
            return Err(Refusal::Oversized {
                bytes: size,
                max: self.request_max_bytes,
            });
        }
        if size < REQUEST_BYTES_MIN as i32 {
            return Err(Refusal::Short { bytes: size });
        }
        match (self.i16_at(LENGTH_BYTES), self.i16_at(LENGTH_BYTES + 2)) {
            (Some(api_key), Some(api_version))
                if api_key != API_VERSIONS && !service.supports(api_key, api_version) =>
            {
                Err(Refusal::Unsupported { api_key, api_version })
            }
            _ => Ok(()),
        }
    }

    /// Takes the next frame, if all of it is here.
    pub(crate) fn next_frame(&mut self, service: &dyn Service) -> Result<Option<RequestFrame>, Refusal> {
        self.check_start(service)?;
        let Some(end) = self.frame_end().filter(|end| self.bytes.len() >= *end) else {
            return Ok(None);
        };
        let received_at = self.arrivals.take(end).into_std();
        let lease = self.budget.lease(end);
        self.end_overdraft();
        self.first_frame = false;
        let frame = self.bytes.split_to(end);
        let overlaps = self.frame_overlaps(service, &frame);
        let mut body = if overlaps {
            frame.freeze()
        } else {
            // Whoever waits long with a request must not hold the whole buffer.
            Bytes::copy_from_slice(&frame)
        };
        body.advance(LENGTH_BYTES);
        let frame_size = body.len();
        let header = parse_header(&mut body)?;
        let RequestHeader {
            api_key,
            api_version,
            correlation_id,
            client_id,
        } = header;
        // Private bodies are opaque; of ApiVersions there may be versions that no schema knows.
        if api_key < PRIVATE_API_KEY_MIN && service.supports(api_key, api_version) {
            let length = check_request(api_key, api_version, &body).map_err(Refusal::Schema)?;
            body.truncate(length);
        }
        let client_id = client_id.map(|seen| self.own_client_id(seen));
        let lease = Some(lease);
        Ok(Some(RequestFrame {
            api_key,
            api_version,
            correlation_id,
            client_id,
            body,
            received_at,
            frame_size,
            lease,
        }))
    }

    /// The client id in a place of its own. As a part of the frame it would keep all of it, and the buffer that it came in, for as
    /// long as an answer waits.
    fn own_client_id(&mut self, seen: StrBytes) -> StrBytes {
        if let Some(known) = self.client_id.as_ref().filter(|known| **known == seen) {
            return known.clone();
        }
        let own = StrBytes::from_string(seen.to_string());
        self.client_id = (own.len() <= KEPT_CLIENT_ID_BYTES_MAX).then(|| own.clone());
        own
    }

    fn declared_size(&self) -> Option<i32> {
        let prefix = self.bytes.get(..LENGTH_BYTES)?;
        Some(i32::from_be_bytes(
            prefix.try_into().expect("the slice has four bytes"),
        ))
    }

    /// Where the next frame ends; only for frames that passed `check_start` is this meaningful.
    fn frame_end(&self) -> Option<usize> {
        let size = usize::try_from(self.declared_size()?).ok()?;
        Some(LENGTH_BYTES + size)
    }

    fn i16_at(&self, at: usize) -> Option<i16> {
        let two = self.bytes.get(at..at + 2)?;
        Some(i16::from_be_bytes(
            two.try_into().expect("the slice has two bytes"),
        ))
    }

    /// Requests of overlapping APIs are done with their frames before anything waits.
    fn frame_overlaps(&self, service: &dyn Service, frame: &[u8]) -> bool {
        let key = [frame[LENGTH_BYTES], frame[LENGTH_BYTES + 1]];
        service.overlaps(i16::from_be_bytes(key))
    }

    /// Sees to a place for bytes to come; how many fit. Of a large frame it grows as the frame arrives, not as it declares.
    fn make_room(&mut self) -> usize {
        let length = self.bytes.len();
        let missing = self.frame_end().map_or(0, |end| end.saturating_sub(length));
        let enough = missing.max(READ_BYTES_MIN).min(length.max(buffers::BUFFER_BYTES));
        if self.bytes.capacity() - length < enough && !self.bytes.try_reclaim(enough) {
            if length + enough <= buffers::BUFFER_BYTES {
                let mut lent = buffers::take();
                lent.extend_from_slice(&self.bytes);
                buffers::give(std::mem::replace(&mut self.bytes, lent));
            } else {
                let growth = length.clamp(READ_BYTES_MIN, GROWTH_BYTES_MAX);
                self.bytes.reserve(growth.min(enough));
            }
        }
        self.bytes.capacity() - length
    }

    fn grant(&mut self, wanted: usize, cx: &Context<'_>, now: Instant) -> Option<usize> {
        let least = wanted.min(READ_BYTES_MIN);
        if let Some(granted) = self.try_grant(least, wanted, now) {
            return Some(granted);
        }
        self.budget.wait(self.account, cx.waker());
        // Bytes may have come back before the waker was known.
        let granted = self.try_grant(least, wanted, now)?;
        self.budget.stop_waiting(self.account);
        Some(granted)
    }

    fn try_grant(&mut self, least: usize, most: usize, now: Instant) -> Option<usize> {
        let granted = self.budget.take(least, most);
        if granted > 0 {
            // There is memory again.
            self.end_overdraft();
            return Some(granted);
        }
        let missing = self
            .frame_end()
            .map_or(least, |end| end.saturating_sub(self.bytes.len()));
        let granted = self
            .budget
            .overdraw(self.account, most.min(missing.max(LENGTH_BYTES)));
        if granted == 0 {
            return None;
        }
        self.overdrawn_since.get_or_insert(now);
        Some(granted)
    }

    fn end_overdraft(&mut self) {
        if self.overdrawn_since.take().is_some() {
            self.budget.end_overdraft(self.account);
        }
    }

    /// Nothing is read now: an idle connection holds no buffer and no overdraft, one with a piece of a frame holds little more
    /// than that piece, or has paid for it.
    pub(crate) fn rest(&mut self) {
        let length = self.bytes.len();
        if self.rest_bytes > 0 {
            if length >= KEPT_BYTES_MIN {
                return;
            }
            // The frames that the buffer was kept for have left it.
            self.budget.give_back(std::mem::take(&mut self.rest_bytes));
        }
        let spare = self.bytes.capacity() - length;
        if length == 0 {
            self.end_overdraft();
        } else if spare == 0 {
            return;
        } else if length >= KEPT_BYTES_MIN {
            self.rest_bytes = self.budget.take(spare, spare);
            if self.rest_bytes > 0 {
                return;
            }
        }
        let piece = BytesMut::from(&self.bytes[..]);
        buffers::give(std::mem::replace(&mut self.bytes, piece));
    }
}

impl Drop for ReceiveBuffer {
    fn drop(&mut self) {
        self.budget.stop_waiting(self.account);
        self.budget.give_back(self.bytes.len() + self.rest_bytes);
        self.end_overdraft();
        buffers::give(std::mem::take(&mut self.bytes));
    }
}

fn parse_header(body: &mut Bytes) -> Result<RequestHeader, Refusal> {
    let api_key = i16::from_be_bytes([body[0], body[1]]);
    let api_version = i16::from_be_bytes([body[2], body[3]]);
    wire::take_request_header(body).map_err(|error| Refusal::Header {
        api_key,
        api_version,
        error: error.to_string(),
    })
}

/// Other protocols, by the four bytes that would be a length here.
fn recognise(start: &[u8]) -> Option<Refusal> {
    const VERBS: [(&[u8; 4], &str); 8] = [
        (b"GET ", "GET"),
        (b"POST", "POST"),
        (b"HEAD", "HEAD"),
        (b"PUT ", "PUT"),
        (b"DELE", "DELETE"),
        (b"OPTI", "OPTIONS"),
        (b"PATC", "PATCH"),
        (b"CONN", "CONNECT"),
    ];
    // A TLS record of type handshake, of any version from SSL 3.0 on.
    if start.starts_with(&[0x16, 0x03]) {
        return Some(Refusal::TlsHello);
    }
    VERBS
        .iter()
        .find(|(bytes, _)| start == *bytes)
        .map(|(_, verb)| Refusal::Http(verb))
}
