//! Bytes on their way out: whole responses in order, written many at a time, and parts of files between them.
//!
//! Promises to copy nothing but small frames and never to wait for a disk on the connection's thread: what is not in memory is
//! read by others, one slice at a time, and sent when it is there. Does not bound itself; the connection starts no request while
//! too much is queued.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::residency::{is_resident, read_ahead};
use crate::sendfile::Outlet;
use crate::service::{Segment, Segments};

/// Segments handed to the kernel in one call, beside small frames.
const SEGMENTS_PER_WRITE: usize = 64;
/// So many need no allocation.
const SEGMENTS_INLINE: usize = 8;
/// Frames up to this size are copied behind one another, so that many leave as one piece.
const COPIED_FRAME_BYTES_MAX: usize = 512;
/// So much room for copies is kept while there are none.
const COPIES_BYTES_KEPT: usize = 1 << 10;
/// Length prefixes are cut from blocks of this size.
const PREFIX_BLOCK_BYTES: usize = 512;
/// The most of a file that is looked for in memory, read from disk and sent at once: a turn of a consumer that catches up.
pub(crate) const FILE_SLICE_BYTES: usize = 512 << 10;

type ColdRead = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Frames that wait for the socket.
#[derive(Default)]
pub(crate) struct TransmitQueue {
    segments: VecDeque<Segment>,
    /// Small frames behind the segments, with their lengths.
    copies: Vec<u8>,
    /// Bytes of `copies` that have left.
    copies_sent: usize,
    bytes: usize,
    prefixes: BytesMut,
    /// Bytes at the beginning of the first segment that is a part of a file which were found in memory.
    warm_bytes: usize,
    /// The first segment's beginning is being read from disk.
    cold_read: Option<ColdRead>,
}

impl TransmitQueue {
    /// Queues a frame behind its length.
    pub(crate) fn push_frame(&mut self, frame: Segments) {
        match &frame[..] {
            [Segment::Bytes(bytes)] if bytes.len() <= COPIED_FRAME_BYTES_MAX => self.push_copy(bytes),
            _ => self.push_segments(frame),
        }
    }

    fn push_copy(&mut self, bytes: &[u8]) {
        let declared = i32::try_from(bytes.len()).expect("a small frame");
        self.copies.extend_from_slice(&declared.to_be_bytes());
        self.copies.extend_from_slice(bytes);
        self.bytes += size_of::<i32>() + bytes.len();
    }

    fn push_segments(&mut self, segments: Segments) {
        if !self.copies.is_empty() {
            let mut copies = Bytes::from(std::mem::take(&mut self.copies));
            copies.advance(std::mem::take(&mut self.copies_sent));
            self.segments.push_back(copies.into());
        }
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
        self.segments.is_empty() && self.copies.is_empty()
    }

    /// Writes once; 0 when there is nothing to write.
    pub(crate) fn poll_write<T: Outlet>(
        &mut self,
        outlet: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let written = match self.segments.front() {
            None if self.copies.is_empty() => return Poll::Ready(Ok(0)),
            None => ready!(outlet.poll_send(cx, &[IoSlice::new(&self.copies[self.copies_sent..])], false))?,
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
        let mut slices: SmallVec<[IoSlice<'_>; SEGMENTS_INLINE]> = SmallVec::new();
        self.warm_bytes = 0;
        let mut is_all = true;
        for segment in &self.segments {
            match segment {
                Segment::Bytes(bytes) if slices.len() < SEGMENTS_PER_WRITE => {
                    slices.push(IoSlice::new(bytes))
                }
                Segment::Bytes(_) => is_all = false,
                Segment::File(range) => {
                    let slice = range.head(FILE_SLICE_BYTES);
                    if is_resident(&slice) {
                        self.warm_bytes = slice.length;
                    }
                    is_all = false;
                }
            }
            if !is_all {
                break;
            }
        }
        if is_all && !self.copies.is_empty() {
            slices.push(IoSlice::new(&self.copies[self.copies_sent..]));
        }
        // A header that waited for the disk would only arrive late.
        let more = self.warm_bytes > 0;
        let sent = outlet.poll_send(cx, &slices, more);
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
            let Some(segment) = self.segments.front_mut() else {
                self.advance_copies(written);
                return;
            };
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

    fn advance_copies(&mut self, written: usize) {
        self.copies_sent += written;
        debug_assert!(self.copies_sent <= self.copies.len());
        if self.copies_sent == self.copies.len() {
            self.copies.clear();
            self.copies.shrink_to(COPIES_BYTES_KEPT);
            self.copies_sent = 0;
        } else if self.copies_sent >= COPIES_BYTES_KEPT.max(self.copies.len() / 2) {
            // A peer that reads more slowly than it asks leaves something to be sent for as long as it lives.
            self.copies.drain(..self.copies_sent);
            self.copies_sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::poll_fn;

    use super::*;
    use crate::sendfile::FileRange;

    /// Takes so many bytes at a time.
    struct Slow(usize);

    impl Outlet for Slow {
        fn poll_send(
            &mut self,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
            _: bool,
        ) -> Poll<io::Result<usize>> {
            let offered = slices.iter().map(|slice| slice.len()).sum::<usize>();
            Poll::Ready(Ok(offered.min(self.0)))
        }

        fn poll_send_file(&mut self, _: &mut Context<'_>, _: &FileRange) -> Poll<io::Result<usize>> {
            unreachable!("no part of a file is queued")
        }
    }

    #[tokio::test]
    async fn what_has_left_takes_no_memory_though_something_always_waits() {
        let mut queue = TransmitQueue::default();
        let frame = || smallvec::smallvec![Segment::Bytes(Bytes::from(vec![7; 100]))];
        for _ in 0..20 {
            queue.push_frame(frame());
        }
        for _ in 0..10_000 {
            queue.push_frame(frame());
            let sent = poll_fn(|cx| queue.poll_write(&mut Slow(104), cx)).await.unwrap();
            assert_eq!(sent, 104);
        }
        assert_eq!(queue.bytes(), 20 * 104);
        assert!(queue.copies.capacity() < 16 << 10, "{}", queue.copies.capacity());
    }
}
