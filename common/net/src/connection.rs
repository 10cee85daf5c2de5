//! The server side of one connection: a state machine that one task polls.
//!
//! Promises: requests start in order, one at a time save for overlapping ones; responses leave in the order of the requests; nothing
//! is read while answers pile up, while the connection is throttled, or without memory budget; anything that is no request closes
//! the connection. Does not know the transport (any `AsyncRead + AsyncWrite`, so TLS comes in below) and does not log.

mod buffers;
pub(crate) mod receive;
#[cfg(test)]
mod tests;
pub(crate) mod transmit;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use self::receive::{Filled, ReceiveBuffer, Refusal};
use self::transmit::TransmitQueue;
use crate::budget::MemoryBudget;
use crate::sendfile::Outlet;
use crate::service::{
    ConnectionInfo, ConnectionObserver, Reply, RequestFrame, Response, ResponseFuture, Service,
};

/// Requests of one connection that may be unanswered at a time.
pub const IN_FLIGHT_REQUESTS_MAX: usize = 64;
/// While more response bytes than this wait for the peer, no request is started and nothing is read.
pub const OUTBOUND_BYTES_MAX: usize = 1 << 20;
/// After so many response bytes, the other connections of the thread have their turn.
const SENT_BYTES_PER_TURN: usize = 1 << 20;
/// So much is read ahead of a request that may not start yet, so that a peer that goes away is noticed.
const READ_AHEAD_BYTES: usize = 16 << 10;
/// How long answers may still leave after the peer has closed its half.
const HALF_CLOSE_GRACE: Duration = Duration::from_millis(100);
/// How long a request may take to arrive in the memory overdraft, however it trickles in: nobody else is read meanwhile. A request
/// of 1 MiB, the most that producers send by default, needs 1.7 Mbit/s for it. The reference of `odradek.request.memory.max.bytes`
/// names this limit.
const OVERDRAFT_MAX: Duration = Duration::from_secs(5);
/// A timer that nothing needs is set this far ahead.
const FAR_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// Byte streams that a connection can run on. One that encrypts copies what a plain socket sends from files.
pub trait Transport: AsyncRead + AsyncWrite + Outlet + Unpin + Send + 'static {
    /// Whether a read may bring something; cheaper than to fetch a buffer for one that cannot.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Transport for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum CloseReason {
    /// The peer closed it.
    Peer,
    /// Nothing was asked for `connections.max.idle.ms`.
    Idle,
    /// The peer stopped in the middle of a frame, or stopped taking a response.
    Stalled(&'static str),
    /// What arrived is no request.
    Refused(Refusal),
    /// The service wants it closed.
    Service(String),
    /// The listener stops.
    Stopped,
    /// The socket failed.
    Io(io::Error),
}

/// What a connection takes from its listener.
#[derive(Clone)]
pub(crate) struct ConnectionContext {
    pub(crate) service: Arc<dyn Service>,
    pub(crate) observer: Arc<dyn ConnectionObserver>,
    pub(crate) budget: MemoryBudget,
    pub(crate) request_max_bytes: usize,
    pub(crate) max_idle: Option<Duration>,
}

/// A request's place in the order of answers.
enum Slot {
    Waiting { future: ResponseFuture, overlaps: bool },
    Ready(Response),
}

/// The state of one connection.
pub(crate) struct Connection<T> {
    transport: T,
    info: Arc<ConnectionInfo>,
    context: ConnectionContext,
    receive: ReceiveBuffer,
    transmit: TransmitQueue,
    slots: VecDeque<Slot>,
    /// Requests that are started together, and their replies: empty between two rounds.
    together: Vec<RequestFrame>,
    replies: Vec<Reply>,
    muted_until: Option<Instant>,
    /// Set when the peer has closed its half: answers may leave until then.
    ended: Option<Instant>,
    /// Set when the listener stops: answers may leave until then.
    draining: Option<Instant>,
    /// Set when the service wants the connection closed after what is queued has left.
    closing: Option<String>,
    exhausted: bool,
    /// Response bytes that left since the task was last woken.
    sent_in_turn: usize,
    last_activity: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<T: Transport> Connection<T> {
    pub(crate) fn new(transport: T, info: Arc<ConnectionInfo>, context: ConnectionContext) -> Self {
        let now = Instant::now();
        let receive = ReceiveBuffer::new(context.budget.clone(), info.id, context.request_max_bytes);
        Self {
            transport,
            info,
            context,
            receive,
            transmit: TransmitQueue::default(),
            slots: VecDeque::new(),
            together: Vec::new(),
            replies: Vec::new(),
            muted_until: None,
            ended: None,
            draining: None,
            closing: None,
            exhausted: false,
            sent_in_turn: 0,
            last_activity: now,
            timer: Box::pin(sleep_until(now + FAR_AHEAD)),
        }
    }

    /// Starts no further request; outstanding answers may leave until `deadline`.
    pub(crate) fn drain(&mut self, deadline: Instant) {
        self.draining = Some(deadline);
    }

    /// Goes as far as possible; ready when the connection is over.
    pub(crate) fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.sent_in_turn = 0;
        loop {
            let now = Instant::now();
            if let Some(reason) = self.expired(now) {
                return Poll::Ready(reason);
            }
            match self.step(cx, now) {
                Err(reason) => return Poll::Ready(reason),
                Ok(true) => continue,
                Ok(false) => {}
            }
            if let Some(reason) = self.finished() {
                return Poll::Ready(reason);
            }
            if self.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// One round of answering, starting, writing and reading; true if another may bring more.
    fn step(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, CloseReason> {
        self.poll_slots(cx);
        self.queue_ready(now);
        self.start_requests(cx, now)?;
        self.write(cx, now)?;
        let read = self.read(cx, now)?;
        // What was written may have made room for a request that is here.
        Ok(read || self.may_start(now))
    }

    fn poll_slots(&mut self, cx: &mut Context<'_>) {
        for slot in &mut self.slots {
            if let Slot::Waiting { future, .. } = slot
                && let Poll::Ready(response) = future.as_mut().poll(cx)
            {
                *slot = Slot::Ready(response);
            }
        }
    }

    /// Moves answers to the socket's queue as far as their order allows.
    fn queue_ready(&mut self, now: Instant) {
        while self.closing.is_none()
            && let Some(Slot::Ready(_)) = self.slots.front()
        {
            let Some(Slot::Ready(response)) = self.slots.pop_front() else {
                return;
            };
            self.last_activity = now;
            match response {
                Response::Frame(frame) => {
                    if frame.throttle_ms > 0 {
                        let until = now + Duration::from_millis(u64::from(frame.throttle_ms));
                        self.muted_until = self.muted_until.max(Some(until));
                    }
                    self.transmit.push_frame(frame.segments);
                }
                Response::NoAnswer => {}
                Response::Close(reason) => {
                    self.closing = Some(reason);
                    self.slots.clear();
                }
            }
        }
    }

    fn start_requests(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), CloseReason> {
        while self.may_start(now) {
            let service = Arc::clone(&self.context.service);
            let taken = self.take_together(&*service, now);
            // What was whole before a fault is still done. Whether its answers leave before the connection ends is not promised.
            if self.together.is_empty() {
                return taken.map_err(CloseReason::Refused);
            }
            if self.together.len() == 1
                && let Some(frame) = self.together.pop()
            {
                self.replies.push(service.call(&self.info, frame));
            } else {
                service.call_together(&self.info, &mut self.together, &mut self.replies);
            }
            for reply in self.replies.drain(..) {
                self.slots.push_back(match reply {
                    Reply::Done(response) => Slot::Ready(response),
                    Reply::Pending(future) => first_poll(future, false, cx),
                    Reply::PendingOverlap(future) => first_poll(future, true, cx),
                });
            }
            self.queue_ready(now);
            taken.map_err(CloseReason::Refused)?;
        }
        Ok(())
    }

    /// Takes the next request, and with it those of the same overlapping API that are here already.
    fn take_together(&mut self, service: &dyn Service, now: Instant) -> Result<(), Refusal> {
        let room = IN_FLIGHT_REQUESTS_MAX - self.slots.len();
        while self.together.len() < room {
            let fits = match (self.together.first(), self.receive.complete_api_key()) {
                (None, _) => true,
                (Some(first), Some(next)) => first.api_key == next && service.overlaps(next),
                (Some(_), None) => false,
            };
            let Some(frame) = fits
                .then(|| self.receive.next_frame(service, now))
                .transpose()?
                .flatten()
            else {
                break;
            };
            self.together.push(frame);
        }
        Ok(())
    }

    fn may_start(&self, now: Instant) -> bool {
        let Some(api_key) = self.receive.complete_api_key() else {
            return false;
        };
        if self.is_muted(now) || self.closing.is_some() || self.draining.is_some() {
            return false;
        }
        if self.slots.len() >= IN_FLIGHT_REQUESTS_MAX || self.transmit.bytes() > OUTBOUND_BYTES_MAX {
            return false;
        }
        let mut waiting = self.slots.iter().filter_map(|slot| match slot {
            Slot::Waiting { overlaps, .. } => Some(*overlaps),
            Slot::Ready(_) => None,
        });
        match waiting.next() {
            None => true,
            Some(first) => {
                first && waiting.all(|overlaps| overlaps) && self.context.service.overlaps(api_key)
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), CloseReason> {
        while !self.transmit.is_empty() {
            if self.sent_in_turn >= SENT_BYTES_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
            match self.transmit.poll_write(&mut self.transport, cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Err(CloseReason::Io(error)),
                Poll::Ready(Ok(written)) => {
                    self.sent_in_turn += written;
                    self.last_activity = now;
                    self.context.observer.sent(&self.info, written);
                }
            }
        }
        // A plain socket has nothing to flush; a TLS stream does.
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.transport).poll_flush(cx) {
            return Err(CloseReason::Io(error));
        }
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, CloseReason> {
        self.exhausted = false;
        if !self.may_read(now) {
            self.receive.rest();
            return Ok(false);
        }
        self.receive
            .check_start(&*self.context.service)
            .map_err(CloseReason::Refused)?;
        match self.transport.poll_readable(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Err(CloseReason::Io(error)),
            Poll::Pending => {
                self.receive.rest();
                return Ok(false);
            }
        }
        match self.receive.poll_fill(&mut self.transport, cx, now) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(CloseReason::Io(error)),
            Poll::Ready(Ok(Filled::Bytes(received))) => {
                self.last_activity = now;
                self.context.observer.received(&self.info, received);
                self.receive
                    .check_start(&*self.context.service)
                    .map_err(CloseReason::Refused)?;
                Ok(true)
            }
            Poll::Ready(Ok(Filled::End)) => {
                self.ended = Some(now + HALF_CLOSE_GRACE);
                Ok(true)
            }
            Poll::Ready(Ok(Filled::Exhausted)) => {
                self.exhausted = true;
                Ok(false)
            }
        }
    }

    fn may_read(&self, now: Instant) -> bool {
        let stopped = self.ended.is_some() || self.closing.is_some() || self.draining.is_some();
        !stopped
            && !self.is_muted(now)
            && (self.receive.len() < READ_AHEAD_BYTES || self.receive.complete_api_key().is_none())
            && self.transmit.bytes() <= OUTBOUND_BYTES_MAX
    }

    fn is_muted(&self, now: Instant) -> bool {
        self.muted_until.is_some_and(|until| now < until)
    }

    fn is_waiting(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Waiting { .. }))
    }

    /// Whether nothing is left to do on a connection that is to end.
    fn finished(&mut self) -> Option<CloseReason> {
        if !self.transmit.is_empty() {
            return None;
        }
        if let Some(reason) = self.closing.take() {
            return Some(CloseReason::Service(reason));
        }
        if !self.slots.is_empty() {
            return None;
        }
        if self.draining.is_some() {
            return Some(CloseReason::Stopped);
        }
        (self.ended.is_some() && self.receive.complete_api_key().is_none()).then_some(CloseReason::Peer)
    }

    fn expired(&mut self, now: Instant) -> Option<CloseReason> {
        if self.muted_until.is_some_and(|until| now >= until) {
            self.muted_until = None;
            self.last_activity = now;
        }
        if self.ended.is_some_and(|deadline| now >= deadline) {
            return Some(CloseReason::Peer);
        }
        if self.draining.is_some_and(|deadline| now >= deadline) {
            return Some(CloseReason::Stopped);
        }
        if self.overdraft_deadline().is_some_and(|deadline| now >= deadline) {
            return Some(CloseReason::Stalled(
                "took too long over a request while memory for requests is used up",
            ));
        }
        if self.idle_deadline().is_some_and(|deadline| now >= deadline) {
            return Some(match (self.transmit.is_empty(), self.receive.len() > 0) {
                (false, _) => CloseReason::Stalled("took no byte of a response for connections.max.idle.ms"),
                (true, true) => CloseReason::Stalled("sent no byte of a request for connections.max.idle.ms"),
                (true, false) => CloseReason::Idle,
            });
        }
        None
    }

    /// A connection is not idle while it waits for us: for an answer, for memory, for the end of a throttle.
    fn idle_deadline(&self) -> Option<Instant> {
        let waits_for_us = self.is_waiting() || self.exhausted || self.muted_until.is_some();
        let max_idle = self.context.max_idle.filter(|_| !waits_for_us)?;
        self.last_activity.checked_add(max_idle)
    }

    fn overdraft_deadline(&self) -> Option<Instant> {
        Some(self.receive.overdrawn_since()? + OVERDRAFT_MAX)
    }

    /// Arms one timer for the earliest deadline; it may fire early, never late.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadlines = [
            self.muted_until,
            self.ended,
            self.draining,
            self.overdraft_deadline(),
            self.idle_deadline(),
        ];
        let Some(earliest) = deadlines.into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if earliest < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(earliest);
        }
        self.timer.as_mut().poll(cx)
    }
}

fn first_poll(mut future: ResponseFuture, overlaps: bool, cx: &mut Context<'_>) -> Slot {
    match future.as_mut().poll(cx) {
        Poll::Ready(response) => Slot::Ready(response),
        Poll::Pending => Slot::Waiting { future, overlaps },
    }
}
