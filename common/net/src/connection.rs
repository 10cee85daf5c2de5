//! The server side of one connection: a state machine that one task polls.
//!
//! Promises: requests start in order, one at a time save for overlapping ones; responses leave in the order of the requests; nothing
//! is read while answers pile up, while the connection is throttled, or without memory budget; anything that is no request closes
//! the connection. Does not know the transport (any `AsyncRead + AsyncWrite`, so TLS comes in below) and does not log.

mod arrivals;
mod buffers;
pub(crate) mod receive;
#[cfg(test)]
mod tests;
pub(crate) mod transmit;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::TcpStream as StdTcpStream;
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
/// And after so many request bytes.
const RECEIVED_BYTES_PER_TURN: usize = 1 << 20;
/// Places for requests that a connection at rest keeps.
const PLACES_KEPT: usize = 8;
/// So much is read ahead of a request that may not start yet, so that a peer that goes away is noticed.
const READ_AHEAD_BYTES: usize = 16 << 10;
/// How long answers may still leave after the peer has closed its half.
const HALF_CLOSE_GRACE: Duration = Duration::from_millis(100);
/// How long a request may take to arrive in the memory overdraft, however it trickles in: nobody else is read meanwhile. A request
/// of 1 MiB, the most that producers send by default, needs 1.7 Mbit/s for it. The reference of `odradek.request.memory.max.bytes`
/// names this limit.
const OVERDRAFT_MAX: Duration = Duration::from_secs(5);

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
    /// Set when the connection belongs to another worker.
    leaving: bool,
    /// Response bytes that left since the task was last woken.
    sent_in_turn: usize,
    /// Request bytes that came since then.
    received_in_turn: usize,
    last_activity: Instant,
    /// Of the runtime that the connection is on; made when something has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T> Connection<T> {
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
            leaving: false,
            sent_in_turn: 0,
            received_in_turn: 0,
            last_activity: now,
            timer: None,
        }
    }

    /// The same connection over another transport, without a timer.
    fn over<U>(self, transport: U) -> (Connection<U>, T) {
        let connection = Connection {
            transport,
            info: self.info,
            context: self.context,
            receive: self.receive,
            transmit: self.transmit,
            slots: self.slots,
            together: self.together,
            replies: self.replies,
            muted_until: self.muted_until,
            ended: self.ended,
            draining: self.draining,
            closing: self.closing,
            exhausted: self.exhausted,
            leaving: false,
            sent_in_turn: self.sent_in_turn,
            received_in_turn: self.received_in_turn,
            last_activity: self.last_activity,
            timer: None,
        };
        (connection, self.transport)
    }
}

impl<T: Transport> Connection<T> {
    /// Starts no further request; outstanding answers may leave until `deadline`.
    pub(crate) fn drain(&mut self, deadline: Instant) {
        self.draining = Some(deadline);
    }

    /// Goes as far as possible; ready when the connection is over.
    pub(crate) fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        (self.sent_in_turn, self.received_in_turn) = (0, 0);
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
            if let Some(reason) = self.finished(now) {
                return Poll::Ready(reason);
            }
            if self.poll_timer(cx).is_pending() {
                self.give_up_places();
                return Poll::Pending;
            }
        }
    }

    /// A connection that once had many requests in work does not keep room for as many.
    fn give_up_places(&mut self) {
        if self.slots.is_empty() && self.slots.capacity() > PLACES_KEPT {
            self.slots.shrink_to(PLACES_KEPT);
            self.together.shrink_to(PLACES_KEPT);
            self.replies.shrink_to(PLACES_KEPT);
        }
    }

    /// Bytes that moved, either way, since the task was last woken.
    pub(crate) fn bytes_in_turn(&self) -> usize {
        self.sent_in_turn + self.received_in_turn
    }

    /// Starts no request while it is to leave its worker, so that it comes to rest however much is asked on it.
    pub(crate) fn set_leaving(&mut self, leaving: bool) {
        self.leaving = leaving;
    }

    /// Whether it can leave its worker: no request is in work, no answer is on its way. Requests that have not started go along.
    pub(crate) fn is_at_rest(&self) -> bool {
        let ends = self.ended.is_some() || self.closing.is_some() || self.draining.is_some();
        !ends
            && !self.exhausted
            && self.muted_until.is_none()
            && self.slots.is_empty()
            && self.transmit.is_empty()
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
            let taken = self.take_together(&*service);
            // What was whole before a fault is still done. Whether its answers leave before the connection ends is not promised.
            if self.together.is_empty() {
                return taken.map_err(CloseReason::Refused);
            }
            if service.overlaps(self.together[0].api_key) {
                service.call_together(&self.info, &mut self.together, &mut self.replies);
            } else {
                let alone = self.together.drain(..);
                self.replies
                    .extend(alone.map(|frame| service.call(&self.info, frame)));
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
    fn take_together(&mut self, service: &dyn Service) -> Result<(), Refusal> {
        let room = IN_FLIGHT_REQUESTS_MAX - self.slots.len();
        while self.together.len() < room {
            let fits = match (self.together.first(), self.receive.complete_api_key()) {
                (None, _) => true,
                (Some(first), Some(next)) => first.api_key == next && service.overlaps(next),
                (Some(_), None) => false,
            };
            let Some(frame) = fits
                .then(|| self.receive.next_frame(service))
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
        // What has come is answered here where the peer sends no more, or where memory is waited for, which it holds.
        if self.leaving && self.ended.is_none() && !self.exhausted {
            return false;
        }
        if self.slots.len() >= IN_FLIGHT_REQUESTS_MAX || self.transmit.bytes() > OUTBOUND_BYTES_MAX {
            return false;
        }
        !self.is_held_up(Some(api_key))
    }

    /// Whether requests in work keep the next one, as far as its API is known, from being started.
    fn is_held_up(&self, next: Option<i16>) -> bool {
        let mut waiting = self.slots.iter().filter_map(|slot| match slot {
            Slot::Waiting { overlaps, .. } => Some(*overlaps),
            Slot::Ready(_) => None,
        });
        let passes = next.is_none_or(|api_key| self.context.service.overlaps(api_key));
        waiting.any(|overlaps| !(overlaps && passes))
    }

    /// So much may be read now. Behind a request in work that is little: what cannot start would keep its memory, and a few such
    /// connections everybody else's.
    fn read_max(&self) -> usize {
        let ahead = READ_AHEAD_BYTES.saturating_sub(self.receive.len());
        // In the overdraft a frame is read to its end, for everybody waits for that.
        let is_held_up = self.receive.overdrawn_since().is_none() && self.is_held_up(self.receive.api_key());
        let waits = self.receive.complete_api_key().is_some() || is_held_up;
        if waits { ahead } else { usize::MAX }
    }

    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), CloseReason> {
        while !self.transmit.is_empty() {
            if self.sent_in_turn >= SENT_BYTES_PER_TURN {
                end_turn(cx);
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
        let most = if self.may_read(now) { self.read_max() } else { 0 };
        if most == 0 {
            self.receive.rest();
            return Ok(false);
        }
        if self.received_in_turn >= RECEIVED_BYTES_PER_TURN {
            // What has come stays where it is: the next turn is at once.
            end_turn(cx);
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
        match self.receive.poll_fill(&mut self.transport, cx, now, most) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(CloseReason::Io(error)),
            Poll::Ready(Ok(Filled::Bytes(received))) => {
                self.received_in_turn += received;
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
        !stopped && !self.is_muted(now) && self.transmit.bytes() <= OUTBOUND_BYTES_MAX
    }

    fn is_muted(&self, now: Instant) -> bool {
        self.muted_until.is_some_and(|until| now < until)
    }

    fn is_waiting(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Waiting { .. }))
    }

    /// Whether nothing is left to do on a connection that is to end, or was for too long. Asked when everything was taken that has
    /// come: the peer that speaks up at last is heard.
    fn finished(&mut self, now: Instant) -> Option<CloseReason> {
        if let Some(reason) = self.idled(now) {
            return Some(reason);
        }
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
        None
    }

    fn idled(&self, now: Instant) -> Option<CloseReason> {
        if self.idle_deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        Some(match (self.transmit.is_empty(), self.receive.len() > 0) {
            (false, _) => CloseReason::Stalled("took no byte of a response for connections.max.idle.ms"),
            (true, true) => CloseReason::Stalled("sent no byte of a request for connections.max.idle.ms"),
            (true, false) => CloseReason::Idle,
        })
    }

    /// Until when it may be idle, which it is not while it waits for us: for an answer, for memory, for the end of a throttle. Whoever
    /// runs the connection sees to it that it has a turn some time after that.
    pub(crate) fn idle_deadline(&self) -> Option<Instant> {
        let waits_for_us = self.is_waiting() || self.exhausted || self.muted_until.is_some();
        let max_idle = self.context.max_idle.filter(|_| !waits_for_us)?;
        self.last_activity.checked_add(max_idle)
    }

    fn overdraft_deadline(&self) -> Option<Instant> {
        Some(self.receive.overdrawn_since()? + OVERDRAFT_MAX)
    }

    /// Arms one timer for the earliest deadline but that of idleness; it may fire early, never late.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadlines = [
            self.muted_until,
            self.ended,
            self.draining,
            self.overdraft_deadline(),
        ];
        let Some(earliest) = deadlines.into_iter().flatten().min() else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(earliest)));
        if earliest < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(earliest);
        }
        timer.as_mut().poll(cx)
    }
}

/// A connection that no runtime watches, on its way to one.
pub(crate) struct Unplugged {
    socket: StdTcpStream,
    connection: Connection<()>,
}

impl Unplugged {
    /// One that was just accepted.
    pub(crate) fn new(socket: StdTcpStream, info: Arc<ConnectionInfo>, context: ConnectionContext) -> Self {
        Self {
            socket,
            connection: Connection::new((), info, context),
        }
    }

    /// Runs on the runtime of the calling thread from here on.
    ///
    /// # Errors
    /// The runtime's poller does not take the socket.
    pub(crate) fn plug_in(self) -> io::Result<Connection<TcpStream>> {
        Ok(self.connection.over(TcpStream::from_std(self.socket)?).0)
    }
}

impl Connection<TcpStream> {
    /// Takes a connection that is at rest from its runtime.
    ///
    /// # Errors
    /// The runtime's poller does not give the socket back.
    pub(crate) fn unplug(self) -> io::Result<Unplugged> {
        let (connection, transport) = self.over(());
        Ok(Unplugged {
            socket: transport.into_std()?,
            connection,
        })
    }
}

/// Others have their turn before the task goes on, and the sockets are asked for news: a task that wakes itself at once is polled
/// dozens of times before that.
fn end_turn(cx: &mut Context<'_>) {
    let again = std::pin::pin!(tokio::task::yield_now());
    // Pending, and the task is woken behind all others.
    _ = again.poll(cx);
}

fn first_poll(mut future: ResponseFuture, overlaps: bool, cx: &mut Context<'_>) -> Slot {
    match future.as_mut().poll(cx) {
        Poll::Ready(response) => Slot::Ready(response),
        Poll::Pending => Slot::Waiting { future, overlaps },
    }
}
