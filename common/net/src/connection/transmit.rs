//! Bytes on their way out: whole responses in order, written many at a time.
//!
//! Promises to copy no segment. Does not bound itself; the connection starts no request while too much is queued.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Segments handed to the kernel in one call.
const SEGMENTS_PER_WRITE: usize = 64;
/// Length prefixes are cut from blocks of this size.
const PREFIX_BLOCK_BYTES: usize = 512;

/// Frames that wait for the socket.
#[derive(Debug, Default)]
pub(crate) struct TransmitQueue {
    segments: VecDeque<Bytes>,
    bytes: usize,
    prefixes: BytesMut,
}

impl TransmitQueue {
    /// Queues a frame behind its length.
    pub(crate) fn push_frame(&mut self, segments: Vec<Bytes>) {
        let length: usize = segments.iter().map(Bytes::len).sum();
        let declared = i32::try_from(length).expect("a frame is far below 2 GiB");
        if self.prefixes.capacity() < size_of::<i32>() {
            self.prefixes.reserve(PREFIX_BLOCK_BYTES);
        }
        self.prefixes.put_i32(declared);
        self.segments.push_back(self.prefixes.split().freeze());
        self.segments
            .extend(segments.into_iter().filter(|segment| !segment.is_empty()));
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
    pub(crate) fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        transport: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.segments.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut slices = [IoSlice::new(&[]); SEGMENTS_PER_WRITE];
        let mut count = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = IoSlice::new(segment);
            count += 1;
        }
        let written = ready!(Pin::new(transport).poll_write_vectored(cx, &slices[..count]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(written))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let segment = self
                .segments
                .front_mut()
                .expect("no more is written than was queued");
            let here = written.min(segment.len());
            segment.advance(here);
            written -= here;
            if segment.is_empty() {
                self.segments.pop_front();
            }
        }
    }
}
