//! Bytes on their way out: whole responses in order, written many at a time, and parts of files between them.
//!
//! Promises to copy no segment and never to wait for a disk on the connection's thread: what is not in memory is read by
//! others, one slice at a time, and sent when it is there. Does not bound itself; the connection starts no request while too
//! much is queued.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};

use crate::residency::{is_resident, read_ahead};
use crate::sendfile::Outlet;
use crate::service::Segment;

/// Segments handed to the kernel in one call.
const SEGMENTS_PER_WRITE: usize = 64;
/// Length prefixes are cut from blocks of this size.
const PREFIX_BLOCK_BYTES: usize = 512;
/// The most of a file that is looked for in memory, read from disk and sent at once: a turn of a consumer that catches up.
pub(crate) const FILE_SLICE_BYTES: usize = 512 << 10;

type ColdRead = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Frames that wait for the socket.
#[derive(Default)]
pub(crate) struct TransmitQueue {
    segments: VecDeque<Segment>,
    bytes: usize,
    prefixes: BytesMut,
    /// Bytes at the beginning of the first segment that is a part of a file which were found in memory.
    warm_bytes: usize,
    /// The first segment's beginning is being read from disk.
    cold_read: Option<ColdRead>,
}

impl TransmitQueue {
    /// Queues a frame behind its length.
    pub(crate) fn push_frame(&mut self, segments: impl IntoIterator<Item = Segment>) {
        let prefix_at = self.segments.len();
        let segments = segments.into_iter().filter(|segment| !segment.is_empty());
        self.segments.push_back(Segment::EMPTY);
        let mut length = 0;
        self.segments
            .extend(segments.inspect(|segment| length += segment.len()));
        let declared = i32::try_from(length).expect("a frame is far below 2 GiB");
        if self.prefixes.capacity() < size_of::<i32>() {
            self.prefixes.reserve(PREFIX_BLOCK_BYTES);
        }
        self.prefixes.put_i32(declared);
        self.segments[prefix_at] = self.prefixes.split().freeze().into();
        self.bytes += length + size_of::<i32>();
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything has left.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Writes once; 0 when there is nothing to write.
    pub(crate) fn poll_write<T: Outlet>(
        &mut self,
        outlet: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let written = match self.segments.front() {
            None => return Poll::Ready(Ok(0)),
            Some(Segment::Bytes(_)) => ready!(self.poll_send_bytes(outlet, cx))?,
            Some(Segment::File(_)) => ready!(self.poll_send_file(outlet, cx))?,
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(written))
    }

    fn poll_send_bytes<T: Outlet>(
        &mut self,
        outlet: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SEGMENTS_PER_WRITE];
        let mut count = 0;
        self.warm_bytes = 0;
        for segment in &self.segments {
            match segment {
                Segment::Bytes(bytes) if count < SEGMENTS_PER_WRITE => {
                    slices[count] = IoSlice::new(bytes);
                    count += 1;
                }
                Segment::Bytes(_) => break,
                Segment::File(range) => {
                    let slice = range.head(FILE_SLICE_BYTES);
                    if is_resident(&slice) {
                        self.warm_bytes = slice.length;
                    }
                    break;
                }
            }
        }
        // A header that waited for the disk would only arrive late.
        let more = self.warm_bytes > 0;
        let sent = outlet.poll_send(cx, &slices[..count], more);
        if sent.is_pending() {
            self.warm_bytes = 0;
        }
        sent
    }

    fn poll_send_file<T: Outlet>(&mut self, outlet: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(Segment::File(range)) = self.segments.front() else {
            return Poll::Ready(Ok(0));
        };
        while self.warm_bytes == 0 {
            let slice = range.head(FILE_SLICE_BYTES);
            if let Some(cold_read) = &mut self.cold_read {
                ready!(cold_read.as_mut().poll(cx))?;
                self.cold_read = None;
                self.warm_bytes = slice.length;
            } else if is_resident(&slice) {
                self.warm_bytes = slice.length;
            } else {
                self.cold_read = Some(Box::pin(read_ahead(slice)));
            }
        }
        let sent = outlet.poll_send_file(cx, &range.head(self.warm_bytes));
        if sent.is_pending() {
            // Until the peer has taken what it has, pages may be gone again.
            self.warm_bytes = 0;
        }
        let sent = ready!(sent)?;
        if sent == 0 {
            let message = format!(
                "a segment ends before {} bytes at {}",
                range.length, range.position
            );
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, message)));
        }
        self.warm_bytes -= sent;
        Poll::Ready(Ok(sent))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let segment = self
                .segments
                .front_mut()
                .expect("no more is written than was queued");
            let here = written.min(segment.len());
            match segment {
                Segment::Bytes(bytes) => bytes.advance(here),
                Segment::File(range) => {
                    range.position += here as u64;
                    range.length -= here;
                }
            }
            written -= here;
            if segment.is_empty() {
                self.segments.pop_front();
            }
        }
    }
}
