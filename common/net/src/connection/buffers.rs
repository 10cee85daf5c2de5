//! Receive buffers that connections of one thread lend each other: a connection has one only while bytes arrive on it, so a
//! few serve thousands, and the same few stay warm in the cache.
//!
//! Promises that no byte of a frame that is alive is lent, and that no more than [`POOLED_MAX`] wait idle.

use std::cell::RefCell;

use bytes::BytesMut;

/// Size of a new buffer: what is read at once between frames.
pub(super) const BUFFER_BYTES: usize = 256 << 10;
/// A buffer that grew beyond this for a large frame is not kept.
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// Idle buffers of one thread.
const POOLED_MAX: usize = 4;

thread_local! {
    static POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of at least [`BUFFER_BYTES`].
pub(super) fn take() -> BytesMut {
    POOL.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES))
}

/// Gives a buffer back; what frames still use, or is too small or too large, is left to them or freed.
pub(super) fn give(mut buffer: BytesMut) {
    buffer.clear();
    // What was cut off in front comes back, unless a frame shares the memory: the next reader begins where this one did, in the cache.
    _ = buffer.try_reclaim(buffer.capacity() + 1);
    if buffer.capacity() < BUFFER_BYTES || buffer.capacity() > BUFFER_BYTES_MAX {
        return;
    }
    POOL.with_borrow_mut(|pool| {
        if pool.len() < POOLED_MAX {
            pool.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_once_its_last_frame_is_gone() {
        let mut buffer = take();
        let place = buffer.as_ptr();
        buffer.extend_from_slice(b"frame one, frame two");
        let one = buffer.split_to(9).freeze();
        let two = buffer.split_to(11).freeze();
        give(buffer);
        let other = take();
        assert_ne!(other.as_ptr(), place, "frames are alive");
        give(other);
        assert_eq!((&one[..], &two[..]), (&b"frame one"[..], &b", frame two"[..]));

        let mut buffer = take();
        let place = buffer.as_ptr();
        buffer.extend_from_slice(b"frame");
        drop(buffer.split_to(5).freeze());
        give(buffer);
        assert_eq!(take().as_ptr(), place, "nobody uses it any more");
    }

    #[test]
    fn a_buffer_that_grew_begins_where_it_began_before() {
        let mut buffer = BytesMut::with_capacity(4 * BUFFER_BYTES);
        let place = buffer.as_ptr();
        buffer.resize(BUFFER_BYTES, 7);
        let frame = buffer.split_to(BUFFER_BYTES).freeze();
        give(buffer);
        let other = take();
        assert_eq!(
            other.capacity(),
            3 * BUFFER_BYTES,
            "what is behind the frame that is alive"
        );
        assert!(frame.iter().all(|byte| *byte == 7));
        drop(frame);
        give(other);
        assert_eq!(take().as_ptr(), place);
    }

    #[test]
    fn few_buffers_wait_and_none_that_grew_too_large() {
        let lent: Vec<BytesMut> = (0..2 * POOLED_MAX).map(|_| take()).collect();
        lent.into_iter().for_each(give);
        give(BytesMut::with_capacity(2 * BUFFER_BYTES_MAX));
        give(BytesMut::with_capacity(16));
        let pooled = POOL.with_borrow(|pool| pool.iter().map(BytesMut::capacity).collect::<Vec<_>>());
        assert_eq!(pooled, [BUFFER_BYTES; POOLED_MAX]);
    }
}
