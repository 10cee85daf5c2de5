//! The two tasks behind a client: one writes, one reads.
//!
//! Both end when the connection is closed by either side or by a handle, and both close it when they end.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::Shared;
use crate::connection::transmit::TransmitQueue;
use crate::service::Segment;
use crate::wire::{self, Arrived};

/// Requests taken from the queue at once.
const REQUESTS_PER_WRITE: usize = 64;
/// The least that is read at once.
const READ_BYTES_MIN: usize = 16 << 10;
/// The most that the buffer grows at once.
const GROWTH_BYTES_MAX: usize = 1 << 20;

/// Writes requests, as many at a time as are there.
pub(super) async fn write(
    mut half: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Vec<Bytes>>,
    shared: Arc<Shared>,
) {
    let mut closed = shared.closed.subscribe();
    let reason = tokio::select! {
        reason = write_all(&mut half, &mut queue) => reason,
        _ = closed.wait_for(Option::is_some) => return,
    };
    shared.close(&reason);
    // The peer is gone or no handle is left; either way a failing shutdown changes nothing.
    let _ = half.shutdown().await;
}

async fn write_all(half: &mut OwnedWriteHalf, queue: &mut mpsc::Receiver<Vec<Bytes>>) -> String {
    let mut transmit = TransmitQueue::default();
    let mut batch = Vec::with_capacity(REQUESTS_PER_WRITE);
    loop {
        if queue.recv_many(&mut batch, REQUESTS_PER_WRITE).await == 0 {
            return "the client was dropped".to_owned();
        }
        for frame in batch.drain(..) {
            transmit.push_frame(frame.into_iter().map(Segment::Bytes).collect());
        }
        while !transmit.is_empty() {
            if let Err(error) = poll_fn(|cx| transmit.poll_write(half, cx)).await {
                return format!("cannot send: {error}");
            }
        }
    }
}

/// Reads responses and hands each to whoever waits for it.
pub(super) async fn read(mut half: OwnedReadHalf, response_max_bytes: usize, shared: Arc<Shared>) {
    let mut closed = shared.closed.subscribe();
    let reason = tokio::select! {
        reason = read_all(&mut half, response_max_bytes, &shared) => reason,
        _ = closed.wait_for(Option::is_some) => return,
    };
    shared.close(&reason);
}

async fn read_all(half: &mut OwnedReadHalf, response_max_bytes: usize, shared: &Shared) -> String {
    let mut bytes = BytesMut::new();
    loop {
        loop {
            match wire::take_frame(&mut bytes, response_max_bytes) {
                Ok(Arrived::Frame(frame)) => {
                    if let Err(reason) = deliver(frame, shared) {
                        return reason;
                    }
                }
                Ok(Arrived::Missing(_)) => break,
                Err(reason) => return reason,
            }
        }
        // The buffer grows with what has arrived, not with what was declared.
        bytes.reserve(bytes.len().clamp(READ_BYTES_MIN, GROWTH_BYTES_MAX));
        match half.read_buf(&mut bytes).await {
            Ok(0) => return "the peer closed the connection".to_owned(),
            Ok(_) => {}
            Err(error) => return format!("cannot receive: {error}"),
        }
    }
}

fn deliver(mut frame: Bytes, shared: &Shared) -> Result<(), String> {
    let Some(correlation_id) = frame.first_chunk::<4>().map(|it| i32::from_be_bytes(*it)) else {
        return Err("response without a header".to_owned());
    };
    let waiting = shared
        .waiting
        .lock()
        .as_mut()
        .and_then(|waiting| waiting.remove(&correlation_id));
    let Some(waiting) = waiting else {
        return Err(format!("response to request {correlation_id}, which nobody sent"));
    };
    wire::take_response_header(&mut frame, waiting.header_version).map_err(|error| error.to_string())?;
    // Whoever asked may have given up meanwhile.
    let _ = waiting.response.send(frame);
    Ok(())
}
