//! Where connections sit: each knows its worker and counts its work, and is told when it should sit elsewhere.
//!
//! A connection goes by itself, when it has nothing in hand. Does not decide (that is `balance.rs`) and does not measure workers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

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
}

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
}

/// The seats of all connections of a pool.
#[derive(Debug)]
pub(super) struct Seats {
    all: Mutex<Vec<Weak<Seat>>>,
    serving: AtomicUsize,
    next: AtomicUsize,
}

impl Seats {
    pub(super) fn new(serving: usize) -> Self {
        Self {
            all: Mutex::default(),
            serving: AtomicUsize::new(serving),
            next: AtomicUsize::new(0),
        }
    }

    /// A place for a new connection: serving workers take turns.
    pub(super) fn take(&self) -> Arc<Seat> {
        let mut all = self.all.lock();
        let seat = Arc::new(Seat {
            worker: AtomicUsize::new(self.next_worker()),
            work: AtomicU64::new(0),
        });
        if all.len() >= SWEEP_MIN && all.len() == all.capacity() {
            all.retain(|seat| seat.strong_count() > 0);
            // Not again before as many have come.
            let alive = all.len();
            all.reserve(alive.max(SWEEP_MIN));
        }
        all.push(Arc::downgrade(&seat));
        seat
    }

    pub(super) fn next_worker(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.serving.load(Ordering::Relaxed)
    }

    /// Lets old work count for less than new.
    pub(super) fn age(&self) {
        for seat in self.all.lock().iter().filter_map(Weak::upgrade) {
            let work = seat.work.load(Ordering::Relaxed);
            seat.work.store(work / 2, Ordering::Relaxed);
        }
    }

    /// Gives every connection a place among the first `serving` workers.
    pub(super) fn spread(&self, serving: usize) {
        // Held to the end: a seat that is taken meanwhile would be at a worker that no longer serves.
        let mut all = self.all.lock();
        self.serving.store(serving, Ordering::Relaxed);
        all.retain(|seat| seat.strong_count() > 0);
        let seats: Vec<Arc<Seat>> = all.iter().filter_map(Weak::upgrade).collect();
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
        for seat in self.all.lock().iter().filter_map(Weak::upgrade) {
            seat.worker.store(worker, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_where_connections_sit_and_is_forgotten_in_time() {
        let seats = Seats::new(2);
        let all: Vec<Arc<Seat>> = (0..4).map(|_| seats.take()).collect();
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
            seats.take().worker(),
            0,
            "new connections come to a serving worker"
        );
        for _ in 0..20 {
            seats.age();
        }
        assert_eq!(all[1].work.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn seats_of_closed_connections_are_swept() {
        let seats = Seats::new(1);
        for _ in 0..100 * SWEEP_MIN {
            drop(seats.take());
        }
        assert!(seats.all.lock().len() <= 2 * SWEEP_MIN);
    }
}
