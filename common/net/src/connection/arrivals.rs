//! When the frames arrived that are whole and wait in a receive buffer. A request that may not start yet waits there while more
//! are read behind it. Promises no memory of its own as long as one reading brings all that waits.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::wire::LENGTH_BYTES;

/// A reading that made frames whole.
struct Reading {
    at: Instant,
    /// Of those of its frames that still wait.
    bytes: usize,
}

/// Follows one receive buffer: is told of every reading and of every frame that is taken.
#[derive(Default)]
pub(super) struct Arrivals {
    /// So much at the front of the buffer is whole frames.
    whole_bytes: usize,
    oldest: Option<Reading>,
    later: VecDeque<Reading>,
}

impl Arrivals {
    /// A reading has ended with this in the buffer.
    pub(super) fn read(&mut self, buffer: &[u8], at: Instant) {
        let whole_before = self.whole_bytes;
        while let Some(bytes) = frame_bytes(&buffer[self.whole_bytes..]) {
            self.whole_bytes += bytes;
        }
        let bytes = self.whole_bytes - whole_before;
        if bytes == 0 {
            return;
        }
        let reading = Reading { at, bytes };
        match &self.oldest {
            None => self.oldest = Some(reading),
            Some(_) => self.later.push_back(reading),
        }
    }

    /// The frame of so many bytes at the front leaves the buffer; when it had arrived.
    pub(super) fn take(&mut self, bytes: usize) -> Instant {
        let reading = self.oldest.as_mut();
        let reading = reading.expect("a reading has made the frame whole");
        let at = reading.at;
        // A frame was made whole by one reading.
        self.whole_bytes -= bytes;
        reading.bytes -= bytes;
        if reading.bytes == 0 {
            self.oldest = self.later.pop_front();
        }
        at
    }
}

/// Bytes of the frame at the front, if all of it is here.
fn frame_bytes(buffer: &[u8]) -> Option<usize> {
    let size = i32::from_be_bytes(*buffer.first_chunk::<LENGTH_BYTES>()?);
    let bytes = LENGTH_BYTES + usize::try_from(size).ok()?;
    (buffer.len() >= bytes).then_some(bytes)
}
