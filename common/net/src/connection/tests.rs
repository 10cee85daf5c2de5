//! A connection whose time the test tells.

use std::future::poll_fn;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use odradek_common::metadata::SecurityProtocol;
use parking_lot::Mutex;
use tokio::io::ReadBuf;

use super::*;
use crate::sendfile::FileRange;
use crate::service::NoObserver;
use crate::wire::raw_response;

const ECHO: i16 = 10_001;
/// Answered as [`ECHO`] is, but not before the gate opens.
const GATED: i16 = 10_002;
const BUDGET_BYTES: usize = 64 << 10;

/// Answers every request with its body.
#[derive(Default)]
struct Echo {
    gate: Arc<AtomicBool>,
    /// When the requests had arrived that were started.
    arrivals: Arc<Mutex<Vec<(i32, Instant)>>>,
}

impl Service for Echo {
    fn supports(&self, api_key: i16, _: i16) -> bool {
        [ECHO, GATED].contains(&api_key)
    }

    fn call(&self, _: &Arc<ConnectionInfo>, request: RequestFrame) -> Reply {
        let arrival = (request.correlation_id, request.received_at.into());
        self.arrivals.lock().push(arrival);
        let answer = raw_response(
            request.api_key,
            request.api_version,
            request.correlation_id,
            request.body.clone(),
        );
        if request.api_key == ECHO {
            return Reply::Done(Response::Frame(answer));
        }
        let gate = self.gate.clone();
        Reply::pending(async move {
            let open = poll_fn(|_| match gate.load(Ordering::SeqCst) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
            open.await;
            drop(request);
            Response::Frame(answer)
        })
    }
}

/// Has done with each request at once, and answers when the gate opens: what it keeps is what its answer needs.
#[derive(Default)]
struct Acknowledges {
    gate: Arc<AtomicBool>,
}

impl Service for Acknowledges {
    fn supports(&self, api_key: i16, _: i16) -> bool {
        api_key == GATED
    }

    fn overlaps(&self, _: i16) -> bool {
        true
    }

    fn call(&self, _: &Arc<ConnectionInfo>, request: RequestFrame) -> Reply {
        let (gate, client_id) = (self.gate.clone(), request.client_id.clone());
        Reply::pending_overlap(async move {
            poll_fn(|_| match gate.load(Ordering::SeqCst) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
            let told = client_id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(id.as_bytes()));
            Response::Frame(raw_response(request.api_key, 0, request.correlation_id, told))
        })
    }
}

/// Has done with each request at once and answers none.
struct Swallows;

impl Service for Swallows {
    fn supports(&self, _: i16, _: i16) -> bool {
        true
    }

    fn call(&self, _: &Arc<ConnectionInfo>, _: RequestFrame) -> Reply {
        Reply::Done(Response::NoAnswer)
    }
}

/// What the peer has sent, and what it was sent.
#[derive(Default)]
struct Pipe {
    sent: BytesMut,
    received: BytesMut,
}

impl Transport for Pipe {
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sent.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let readable = self.poll_readable(cx);
        let bytes = self.sent.len().min(target.remaining());
        target.put_slice(&self.sent.split_to(bytes));
        readable
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.received.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Outlet for Pipe {
    fn poll_send(&mut self, _: &mut Context<'_>, slices: &[IoSlice<'_>], _: bool) -> Poll<io::Result<usize>> {
        slices
            .iter()
            .for_each(|slice| self.received.extend_from_slice(slice));
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn poll_send_file(&mut self, _: &mut Context<'_>, _: &FileRange) -> Poll<io::Result<usize>> {
        unreachable!("answers come from memory here")
    }
}

fn connect(id: u64, budget: &MemoryBudget) -> Connection<Pipe> {
    connect_to(Echo::default(), id, budget)
}

fn connect_to(service: impl Service + 'static, id: u64, budget: &MemoryBudget) -> Connection<Pipe> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let info = ConnectionInfo::new(id, address, "TEST".into(), SecurityProtocol::Plaintext);
    let context = ConnectionContext {
        service: Arc::new(service),
        observer: Arc::new(NoObserver),
        budget: budget.clone(),
        request_max_bytes: 100 << 20,
        max_idle: None,
    };
    Connection::new(Pipe::default(), Arc::new(info), context)
}

impl Connection<Pipe> {
    /// Takes what the peer sends at a moment; why the connection ends, if it does.
    fn deliver(&mut self, now: Instant, bytes: &[u8]) -> Option<CloseReason> {
        self.transport.sent.extend_from_slice(bytes);
        (self.sent_in_turn, self.received_in_turn) = (0, 0);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            if let Some(reason) = self.expired(now) {
                return Some(reason);
            }
            match self.step(&mut cx, now) {
                Err(reason) => return Some(reason),
                Ok(true) => {}
                Ok(false) => return self.finished(now),
            }
        }
    }

    /// The correlation ids of the answers that have left.
    fn answers(&mut self) -> Vec<i32> {
        let mut ids = Vec::new();
        while self.transport.received.has_remaining() {
            let size = self.transport.received.get_i32();
            let frame = self.transport.received.split_to(usize::try_from(size).unwrap());
            ids.push(frame.clone().get_i32());
        }
        ids
    }
}

#[tokio::test]
async fn whoever_speaks_up_before_it_is_closed_for_idleness_is_heard() {
    let budget = MemoryBudget::new(BUDGET_BYTES);
    let max_idle = Duration::from_secs(600);
    let mut now = Instant::now();
    let mut connection = connect(1, &budget);
    connection.context.max_idle = Some(max_idle);
    for id in 0..3 {
        // The turn of its last deadline comes late.
        now += max_idle + Duration::from_millis(300);
        assert!(connection.deliver(now, &request(id, 100)).is_none());
        assert_eq!(connection.answers(), [id]);
    }
    let half = request(4, 100).slice(..50);
    assert!(connection.deliver(now, &half).is_none());
    now += max_idle;
    let reason = connection.deliver(now, &[]);
    assert!(matches!(reason, Some(CloseReason::Stalled(_))), "{reason:?}");

    let mut silent = connect(2, &budget);
    silent.context.max_idle = Some(max_idle);
    assert!(silent.deliver(now, &request(1, 100)).is_none());
    assert!(
        silent
            .deliver(now + max_idle - Duration::from_millis(1), &[])
            .is_none()
    );
    let reason = silent.deliver(now + max_idle, &[]);
    assert!(matches!(reason, Some(CloseReason::Idle)), "{reason:?}");
}

fn request(correlation_id: i32, body_bytes: usize) -> Bytes {
    request_of(ECHO, correlation_id, body_bytes)
}

fn request_of(api_key: i16, correlation_id: i32, body_bytes: usize) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i16(api_key);
    frame.put_i16(0);
    frame.put_i32(correlation_id);
    frame.put_i16(-1);
    frame.put_u8(0);
    frame.put_bytes(7, body_bytes);
    let mut whole = BytesMut::new();
    whole.put_i32(i32::try_from(frame.len()).unwrap());
    whole.extend_from_slice(&frame);
    whole.freeze()
}

#[tokio::test]
async fn a_request_that_trickles_in_does_not_keep_everybody_else_from_memory() {
    let budget = MemoryBudget::new(BUDGET_BYTES);
    let begin = Instant::now();
    let mut trickling = connect(1, &budget);
    let mut other = connect(2, &budget);
    let mut rest = request(1, 16 * BUDGET_BYTES);
    let first = rest.split_to(2 * BUDGET_BYTES);
    assert!(trickling.deliver(begin, &first).is_none());
    assert!(other.deliver(begin, &request(2, 100)).is_none());
    assert!(other.answers().is_empty(), "memory is used up");
    let second = Duration::from_secs(1);
    let ended = (1..60).find_map(|seconds| {
        let now = begin + second * seconds;
        let reason = trickling.deliver(now, &rest.split_to(1));
        reason.map(|reason| (now, reason))
    });
    let (now, reason) = ended.expect("it does not last for ever");
    assert!(matches!(reason, CloseReason::Stalled(_)), "{reason:?}");
    assert!(now <= begin + OVERDRAFT_MAX, "{:?}", now - begin);
    drop(trickling);
    assert!(other.deliver(now, &[]).is_none());
    assert_eq!(other.answers(), [2]);
}

#[tokio::test]
async fn each_request_has_its_own_time_in_the_memory_overdraft() {
    let budget = MemoryBudget::new(BUDGET_BYTES);
    let mut now = Instant::now();
    let mut slow = connect(1, &budget);
    for id in 0..5 {
        let mut rest = request(id, 4 * BUDGET_BYTES);
        let first = rest.split_to(2 * BUDGET_BYTES);
        assert!(slow.deliver(now, &first).is_none());
        assert!(budget.used() > BUDGET_BYTES, "in the overdraft");
        now += OVERDRAFT_MAX - Duration::from_secs(1);
        assert!(slow.deliver(now, &rest).is_none(), "request {id} came in time");
        assert_eq!(slow.answers(), [id]);
    }
}

#[tokio::test]
async fn a_slow_request_is_at_leisure_once_there_is_memory_again() {
    let budget = MemoryBudget::new(BUDGET_BYTES);
    let mut now = Instant::now();
    let mut other = connect(1, &budget);
    let mut slow = connect(2, &budget);
    let begun = request(1, BUDGET_BYTES).slice(..BUDGET_BYTES);
    assert!(other.deliver(now, &begun).is_none());
    let mut rest = request(2, BUDGET_BYTES);
    assert!(slow.deliver(now, &rest.split_to(1_000)).is_none());
    assert!(budget.used() > BUDGET_BYTES, "in the overdraft");
    drop(other);
    for _ in 0..60 {
        now += Duration::from_secs(1);
        assert!(slow.deliver(now, &rest.split_to(1)).is_none());
    }
    assert!(slow.deliver(now, &rest).is_none());
    assert_eq!(slow.answers(), [2]);
}

#[tokio::test]
async fn what_a_parked_request_waits_for_is_read_though_memory_is_used_up() {
    let budget = MemoryBudget::new(BUDGET_BYTES);
    let now = Instant::now();
    let mut stuck = connect(1, &budget);
    let mut parked = connect(2, &budget);
    let mut other = connect(3, &budget);
    let begun = request(1, 16 * BUDGET_BYTES).slice(..BUDGET_BYTES);
    assert!(stuck.deliver(now, &begun).is_none());
    assert!(parked.deliver(now, &request_of(GATED, 2, 100)).is_none());
    assert!(budget.used() > BUDGET_BYTES, "what is parked is still paid for");
    assert!(other.deliver(now, &request(3, 100)).is_none());
    assert_eq!(other.answers(), [3]);
    // A whole request that may not start yet holds nobody up either, and is not to blame.
    assert!(parked.deliver(now, &request(4, 100)).is_none());
    let later = now + 2 * OVERDRAFT_MAX;
    assert!(parked.deliver(later, &[]).is_none());
    assert!(other.deliver(later, &request(5, 100)).is_none());
    assert_eq!(other.answers(), [5]);
}

#[tokio::test]
async fn little_is_owed_by_requests_that_are_parked() {
    let budget = MemoryBudget::new(BUDGET_BYTES);
    let now = Instant::now();
    let mut stuck = connect(1, &budget);
    let begun = request(1, 16 * BUDGET_BYTES).slice(..BUDGET_BYTES);
    assert!(stuck.deliver(now, &begun).is_none());
    let mut parked: Vec<Connection<Pipe>> = (2..100).map(|id| connect(id, &budget)).collect();
    for connection in &mut parked {
        let gated = request_of(GATED, 1, 1_000);
        assert!(connection.deliver(now, &gated).is_none());
    }
    assert!(
        budget.used() < BUDGET_BYTES + BUDGET_BYTES / 16 + 2_000,
        "{}",
        budget.used()
    );
}

#[tokio::test]
async fn a_connection_whose_requests_are_done_holds_no_memory() {
    let budget = MemoryBudget::new(16 * BUDGET_BYTES);
    let now = Instant::now();
    let service = Echo::default();
    let gate = service.gate.clone();
    let mut connection = connect_to(service, 1, &budget);
    let mut burst = BytesMut::from(&request_of(GATED, 0, 100)[..]);
    for id in 1..=20 {
        burst.extend_from_slice(&request(id, 1_000));
    }
    assert!(connection.deliver(now, &burst).is_none());
    assert!(connection.answers().is_empty());
    gate.store(true, Ordering::SeqCst);
    assert!(connection.deliver(now, &[]).is_none());
    assert_eq!(connection.answers(), (0..=20).collect::<Vec<_>>());
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn little_is_read_behind_a_request_in_work() {
    let budget = MemoryBudget::new(16 * BUDGET_BYTES);
    let now = Instant::now();
    let service = Echo::default();
    let gate = service.gate.clone();
    let mut parked = connect_to(service, 1, &budget);
    assert!(parked.deliver(now, &request_of(GATED, 0, 100)).is_none());
    // Part of a large request: it cannot start, whole or not.
    let large = request(1, 8 * BUDGET_BYTES);
    assert!(parked.deliver(now, &large[..4 * BUDGET_BYTES]).is_none());
    let held = READ_AHEAD_BYTES + buffers::BUFFER_BYTES;
    assert!(budget.used() <= held, "{} bytes are held", budget.used());
    assert!(
        parked.transport.sent.len() >= 4 * BUDGET_BYTES - READ_AHEAD_BYTES,
        "the socket keeps the rest"
    );
    gate.store(true, Ordering::SeqCst);
    assert!(parked.deliver(now, &large[4 * BUDGET_BYTES..]).is_none());
    assert_eq!(parked.answers(), [0, 1]);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_request_whose_answer_waits_does_not_keep_the_buffer_it_came_in() {
    let budget = MemoryBudget::new(16 * BUDGET_BYTES);
    let lent = buffers::take();
    let place = lent.as_ptr();
    buffers::give(lent);
    let service = Acknowledges::default();
    let gate = service.gate.clone();
    let mut connection = connect_to(service, 1, &budget);
    let mut frame = BytesMut::from(&request_of(GATED, 7, 100_000)[..]);
    // In place of no client id, one of three bytes.
    let at = 12;
    let tail = frame.split_off(at + 2);
    frame.truncate(at);
    frame.put_i16(3);
    frame.put_slice(b"app");
    frame.unsplit(tail);
    let size = i32::try_from(frame.len() - 4).unwrap();
    frame[..4].copy_from_slice(&size.to_be_bytes());
    assert!(connection.deliver(Instant::now(), &frame).is_none());
    assert!(connection.answers().is_empty());
    assert_eq!(budget.used(), 0, "the request is done with");
    let next = buffers::take();
    assert_eq!(next.as_ptr(), place, "the buffer has come back");
    buffers::give(next);
    gate.store(true, Ordering::SeqCst);
    assert!(connection.deliver(Instant::now(), &[]).is_none());
    assert!(connection.transport.received.ends_with(b"app"));
}

#[tokio::test]
async fn a_large_request_behind_one_in_work_does_not_stay_in_the_memory_overdraft() {
    let budget = MemoryBudget::new(BUDGET_BYTES);
    let now = Instant::now();
    let service = Echo::default();
    let gate = service.gate.clone();
    let mut stuck = connect(1, &budget);
    let begun = request(1, 16 * BUDGET_BYTES).slice(..BUDGET_BYTES - 1_000);
    let mut parked = connect_to(service, 2, &budget);
    assert!(parked.deliver(now, &request_of(GATED, 2, 100)).is_none());
    assert!(stuck.deliver(now, &begun).is_none());
    // Memory is used up, and this cannot start before the gate opens.
    let large = request(3, BUDGET_BYTES / 4);
    assert!(parked.deliver(now, &large).is_none());
    assert!(
        parked.deliver(now + 2 * OVERDRAFT_MAX, &[]).is_none(),
        "it is not to blame"
    );
    gate.store(true, Ordering::SeqCst);
    assert!(parked.deliver(now + 2 * OVERDRAFT_MAX, &[]).is_none());
    assert_eq!(parked.answers(), [2, 3]);
}

#[tokio::test]
async fn a_request_that_waits_for_another_has_arrived_when_its_last_byte_was_read() {
    let budget = MemoryBudget::new(BUDGET_BYTES);
    let begin = Instant::now();
    let at = |ms| begin + Duration::from_millis(ms);
    let service = Echo::default();
    let (gate, arrivals) = (service.gate.clone(), service.arrivals.clone());
    let mut connection = connect_to(service, 1, &budget);
    let mut second = request(2, 1_000);
    let start_of_second = second.split_to(500);
    let deliveries = [
        [request_of(GATED, 1, 100), start_of_second].concat(),
        [second, request(3, 0)].concat(),
        request(4, 0).to_vec(),
    ];
    for (ms, bytes) in (0..).zip(deliveries) {
        assert!(connection.deliver(at(ms), &bytes).is_none());
    }
    assert_eq!(*arrivals.lock(), [(1, at(0))]);
    gate.store(true, Ordering::SeqCst);
    assert!(connection.deliver(at(100), &request(5, 0)).is_none());
    assert_eq!(
        *arrivals.lock(),
        [(1, at(0)), (2, at(1)), (3, at(1)), (4, at(2)), (5, at(100))]
    );
}

#[tokio::test]
async fn a_connection_that_brings_much_takes_turns_with_the_others() {
    const REQUESTS: i32 = 64;
    const BODY_BYTES: usize = 128 << 10;
    let mut connection = connect_to(Swallows, 1, &MemoryBudget::new(64 << 20));
    for number in 0..REQUESTS {
        let request = request(number, BODY_BYTES);
        connection.transport.sent.extend_from_slice(&request);
    }
    let others = Arc::new(AtomicBool::new(false));
    let (mut turns, mut most, mut had_turns) = (0, 0, 0);
    poll_fn(|cx| {
        if others.swap(false, Ordering::SeqCst) {
            had_turns += 1;
        }
        let others = others.clone();
        // Another connection, say, that has something to do.
        tokio::spawn(async move { others.store(true, Ordering::SeqCst) });
        assert!(connection.poll_run(cx).is_pending());
        turns += 1;
        most = most.max(connection.received_in_turn);
        match connection.transport.sent.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    assert!(turns >= 6, "{turns} turns for 8 MiB");
    assert_eq!(had_turns, turns - 1, "the others have one after each");
    assert!(
        most <= RECEIVED_BYTES_PER_TURN + buffers::BUFFER_BYTES,
        "{most} bytes in a turn"
    );
}
