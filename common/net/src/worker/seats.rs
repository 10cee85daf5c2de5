//! Where connections sit: each knows its worker, counts its work and says until when it may be idle, and is told when it should sit
//! elsewhere or look at the time.
//!
//! A connection goes by itself, when it has nothing in hand, and closes itself when it has been idle for too long. Does not decide
//! (that is `balance.rs`) and does not measure workers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::balance::{self, Sitter};

/// What a turn of a connection costs beside its bytes, in bytes that would cost as much.
const WORK_PER_TURN: u64 = 32 << 10;
/// Seats that are kept before those of closed connections are swept.
const SWEEP_MIN: usize = 64;

/// A connection's place among the workers.
#[derive(Debug)]
pub(crate) struct Seat {
    worker: AtomicUsize,
    work: AtomicU64,
    /// What `idle_until_ms` counts from.
    since: Instant,
    idle_until_ms: AtomicU64,
    connection: Mutex<Option<Waker>>,
}

/// Of a connection that waits for us, or may be idle as long as it likes.
const NO_END: u64 = u64::MAX;

impl Seat {
    /// Where the connection belongs.
    pub(crate) fn worker(&self) -> usize {
        self.worker.load(Ordering::Relaxed)
    }

    /// Counts a turn that moved so many bytes. Only the connection's own worker calls this; a count that is halved meanwhile
    /// by another thread may come out unhalved.
    pub(crate) fn count(&self, bytes: usize) {
        let work = self.work.load(Ordering::Relaxed);
        self.work
            .store(work + WORK_PER_TURN + bytes as u64, Ordering::Relaxed);
    }

    /// Who is to be woken when the connection has been idle for too long.
    pub(crate) fn occupy(&self, connection: &Waker) {
        *self.connection.lock() = Some(connection.clone());
    }

    /// Until when the connection may be idle.
    ///
    /// It is woken some time after that, and not by a timer of its worker: one that has no timers sleeps without setting a clock.
    pub(crate) fn may_be_idle_until(&self, deadline: Option<Instant>) {
        let until_ms = deadline.map_or(NO_END, |deadline| self.ms(deadline));
        self.idle_until_ms.store(until_ms, Ordering::Relaxed);
    }

    fn ms(&self, at: Instant) -> u64 {
        ms(at.saturating_duration_since(self.since))
    }

    /// Wakes the connection if it was idle for too long; else returns until when it may be, by what it has said.
    fn wake_if_idle(&self, now_ms: u64) -> u64 {
        let until_ms = self.idle_until_ms.load(Ordering::Relaxed);
        if until_ms >= now_ms {
            return until_ms;
        }
        // The connection's next turn says anew until when. If that turn is under way it wins or is woken once for nothing.
        let unchanged = Ordering::Relaxed;
        let found = self
            .idle_until_ms
            .compare_exchange(until_ms, NO_END, unchanged, unchanged);
        if let (Ok(_), Some(connection)) = (found, &*self.connection.lock()) {
            connection.wake_by_ref();
        }
        NO_END
    }
}

fn ms(duration: Duration) -> u64 {
    duration.as_secs() * 1000 + u64::from(duration.subsec_millis())
}

/// The seats of all connections of a pool.
#[derive(Debug)]
pub(super) struct Seats {
    all: Mutex<All>,
    serving: AtomicUsize,
    next: AtomicUsize,
    since: Instant,
}

#[derive(Debug)]
struct All {
    seats: Vec<Weak<Seat>>,
    /// The shortest time that any of them, or one before, may be idle.
    max_idle_ms: u64,
    /// Before that, none of them will have been idle for too long.
    look_at_ms: u64,
}

impl All {
    fn alive(&self) -> impl Iterator<Item = Arc<Seat>> {
        self.seats.iter().filter_map(Weak::upgrade)
    }
}

impl Seats {
    pub(super) fn new(serving: usize) -> Self {
        Self {
            all: Mutex::new(All {
                seats: Vec::new(),
                max_idle_ms: NO_END,
                look_at_ms: NO_END,
            }),
            serving: AtomicUsize::new(serving),
            next: AtomicUsize::new(0),
            since: Instant::now(),
        }
    }

    /// A place for a new connection, which may be idle for so long: serving workers take turns.
    pub(super) fn take(&self, max_idle: Option<Duration>) -> Arc<Seat> {
        let mut all = self.all.lock();
        let seat = Arc::new(Seat {
            worker: AtomicUsize::new(self.next_worker()),
            work: AtomicU64::new(0),
            since: self.since,
            idle_until_ms: AtomicU64::new(NO_END),
            connection: Mutex::default(),
        });
        if let Some(max_idle_ms) = max_idle.map(ms) {
            all.max_idle_ms = all.max_idle_ms.min(max_idle_ms);
            all.look_at_ms = all
                .look_at_ms
                .min(seat.ms(Instant::now()).saturating_add(max_idle_ms));
        }
        let seats = &mut all.seats;
        if seats.len() >= SWEEP_MIN && seats.len() == seats.capacity() {
            seats.retain(|seat| seat.strong_count() > 0);
            // Not again before as many have come.
            let alive = seats.len();
            seats.reserve(alive.max(SWEEP_MIN));
        }
        seats.push(Arc::downgrade(&seat));
        seat
    }

    pub(super) fn next_worker(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.serving.load(Ordering::Relaxed)
    }

    /// Lets old work count for less than new.
    pub(super) fn age(&self) {
        for seat in self.all.lock().alive() {
            let work = seat.work.load(Ordering::Relaxed);
            seat.work.store(work / 2, Ordering::Relaxed);
        }
    }

    /// Wakes the connections that were allowed to be idle until before `now`, if there can be any.
    pub(super) fn wake_idle(&self, now: Instant) {
        let now_ms = ms(now.saturating_duration_since(self.since));
        let mut all = self.all.lock();
        if now_ms <= all.look_at_ms {
            return;
        }
        // Whoever has a turn from now on may be idle for that long again.
        all.look_at_ms = now_ms.saturating_add(all.max_idle_ms);
        let seats: Vec<Arc<Seat>> = all.alive().collect();
        // Waking may end a task, and with it a seat's connection: not under the lock.
        drop(all);
        let soonest_ms = seats.iter().map(|seat| seat.wake_if_idle(now_ms)).min();
        let mut all = self.all.lock();
        all.look_at_ms = all.look_at_ms.min(soonest_ms.unwrap_or(NO_END));
    }

    /// Gives every connection a place among the first `serving` workers.
    pub(super) fn spread(&self, serving: usize) {
        // Held to the end: a seat that is taken meanwhile would be at a worker that no longer serves.
        let mut all = self.all.lock();
        self.serving.store(serving, Ordering::Relaxed);
        all.seats.retain(|seat| seat.strong_count() > 0);
        let seats: Vec<Arc<Seat>> = all.alive().collect();
        let sitters: Vec<Sitter> = seats
            .iter()
            .map(|seat| Sitter {
                work: seat.work.load(Ordering::Relaxed),
                worker: seat.worker(),
            })
            .collect();
        for (seat, worker) in seats.iter().zip(balance::spread(&sitters, serving)) {
            seat.worker.store(worker, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn move_all_to(&self, worker: usize) {
        for seat in self.all.lock().alive() {
            seat.worker.store(worker, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn work_counts_where_connections_sit_and_is_forgotten_in_time() {
        let seats = Seats::new(2);
        let all: Vec<Arc<Seat>> = (0..4).map(|_| seats.take(None)).collect();
        let workers = || all.iter().map(|seat| seat.worker()).collect::<Vec<_>>();
        assert_eq!(workers(), [0, 1, 0, 1]);
        // Those of worker 1 alone have work.
        all[1].count(1000);
        all[3].count(1000);
        seats.spread(2);
        assert_eq!(
            workers()[1..].iter().sum::<usize>(),
            1,
            "one of them moved: {:?}",
            workers()
        );
        seats.spread(1);
        assert_eq!(workers(), [0; 4]);
        assert_eq!(
            seats.take(None).worker(),
            0,
            "new connections come to a serving worker"
        );
        for _ in 0..20 {
            seats.age();
        }
        assert_eq!(all[1].work.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn connections_are_woken_once_when_they_were_idle_for_too_long() {
        let seats = Seats::new(1);
        let seat = seats.take(Some(Duration::from_secs(1)));
        let wakes = Arc::new(Wakes::default());
        seat.occupy(&Waker::from(Arc::clone(&wakes)));
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let wakes_by = |ms: u64| {
            seats.wake_idle(at(ms));
            wakes.0.load(Ordering::Relaxed)
        };
        assert_eq!(wakes_by(900), 0, "nothing is known of it");
        seat.may_be_idle_until(Some(at(1_000)));
        assert_eq!(wakes_by(990), 0);
        assert_eq!(wakes_by(1_010), 1);
        assert_eq!(wakes_by(2_000), 1, "once is enough");
        seat.may_be_idle_until(Some(at(3_000)));
        assert_eq!(wakes_by(2_990), 1);
        seat.may_be_idle_until(None);
        assert_eq!(wakes_by(1_000_000), 1, "it waits for us");
        seat.may_be_idle_until(Some(at(1_004_000)));
        assert_eq!(wakes_by(1_005_000), 2);
    }

    #[test]
    fn nobody_is_looked_at_before_one_can_have_been_idle_for_too_long() {
        let seats = Seats::new(1);
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let looked_by = |ms: u64| {
            let due = seats.all.lock().look_at_ms;
            seats.wake_idle(at(ms));
            seats.all.lock().look_at_ms != due
        };
        let endless = seats.take(None);
        assert!(!looked_by(1_000_000), "it may be idle as long as it likes");
        drop(endless);
        let long = seats.take(Some(Duration::from_secs(600)));
        long.may_be_idle_until(Some(at(600_000)));
        assert!(!looked_by(599_000));
        let short = seats.take(Some(Duration::from_secs(10)));
        short.may_be_idle_until(Some(at(10_000)));
        assert!(!looked_by(9_000));
        let wakes = Arc::new(Wakes::default());
        for seat in [&long, &short] {
            seat.occupy(&Waker::from(Arc::clone(&wakes)));
        }
        assert!(looked_by(10_100));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        drop(short);
        assert!(!looked_by(20_000), "no turn since can be over so soon");
        assert!(looked_by(20_200), "one could");
        assert!(looked_by(601_000));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn seats_of_closed_connections_are_swept() {
        let seats = Seats::new(1);
        for _ in 0..100 * SWEEP_MIN {
            drop(seats.take(None));
        }
        assert!(seats.all.lock().seats.len() <= 2 * SWEEP_MIN);
    }
}
