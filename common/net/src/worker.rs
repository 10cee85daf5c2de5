//! The threads that connections live on: one current-thread runtime each, so that a request's work never hops between cores.
//!
//! Connections have seats: while the load is light few workers serve them, under load all, and a connection goes to another worker
//! between two requests. Other tasks stay where their callers put them. Promises that a stop drops every task and joins every thread.

mod balance;
mod seats;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use self::balance::Balance;
pub(crate) use self::seats::Seat;
use self::seats::Seats;

/// Threads for cold reads and fsyncs that one worker may have at a time.
const BLOCKING_THREADS_PER_WORKER: usize = 16;
/// How often the workers' load is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same while one worker serves and has less to do than [`CALM`].
const LOOK_EVERY_CALM: Duration = Duration::from_millis(500);
/// So much of one worker's time.
const CALM: f64 = 0.3;
/// Between two agings of what connections did.
const AGE_EVERY: Duration = Duration::from_secs(1);
/// Below this part of one worker's time, nothing is learnt about connections.
const RESTING: f64 = 0.05;
/// Between two looks at who was idle for too long.
const WAKE_IDLE_EVERY: Duration = Duration::from_millis(500);
/// How long a stop waits for blocking work that was already begun.
const BLOCKING_STOP: Duration = Duration::from_secs(5);

/// A fixed number of worker threads.
#[derive(Debug)]
pub struct WorkerPool {
    workers: Vec<Worker>,
    seats: Arc<Seats>,
    threads: Mutex<Vec<Running>>,
    watching: Mutex<Option<Watching>>,
}

/// The thread that watches; it ends when nobody holds the sender.
#[derive(Debug)]
struct Watching {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl WorkerPool {
    /// Starts `count` (at least one) threads called `<name>-<index>`.
    ///
    /// # Errors
    /// The system gives no thread or no epoll descriptor.
    pub fn start(count: usize, name: &str) -> io::Result<Self> {
        let pool = Self::start_unwatched(count, name)?;
        let handles: Vec<Handle> = pool.workers.iter().map(|worker| worker.handle.clone()).collect();
        let seats = Arc::clone(&pool.seats);
        let (stop, stopped) = mpsc::channel();
        // No task of a worker: its timer would make every wait of that worker one with an end.
        let thread = std::thread::Builder::new()
            .name(format!("{name}-watch"))
            .spawn(move || watch(&handles, &seats, &stopped))?;
        *pool.watching.lock() = Some(Watching { stop, thread });
        Ok(pool)
    }

    /// The same; connections stay where they begin, and may be idle as long as they like.
    pub(crate) fn start_unwatched(count: usize, name: &str) -> io::Result<Self> {
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for index in 0..count.max(1) {
            let thread_name = format!("{name}-{index}");
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS_PER_WORKER)
                .thread_name(format!("{thread_name}-blocking"))
                .build()?;
            let (stop, stopped) = oneshot::channel::<()>();
            workers.push(Worker {
                handle: runtime.handle().clone(),
            });
            let thread = std::thread::Builder::new().name(thread_name).spawn(move || {
                // A dropped pool stops its threads too, so both outcomes mean the same.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_timeout(BLOCKING_STOP);
            })?;
            threads.push(Running { stop, thread });
        }
        Ok(Self {
            seats: Arc::new(Seats::new(workers.len())),
            workers,
            threads: Mutex::new(threads),
            watching: Mutex::new(None),
        })
    }

    /// How many workers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Never: a pool has at least one worker.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// The runtime of one worker; indexes wrap around.
    #[must_use]
    pub fn handle(&self, worker_index: usize) -> &Handle {
        &self.workers[worker_index % self.workers.len()].handle
    }

    /// Runs a future on one worker; indexes wrap around. After a stop it is dropped unrun.
    pub fn spawn_on(&self, worker_index: usize, future: impl Future<Output = ()> + Send + 'static) {
        self.handle(worker_index).spawn(future);
    }

    /// The next in turn of the workers that serve.
    pub fn next_worker(&self) -> usize {
        self.seats.next_worker()
    }

    /// A place for a connection, which may be told to move, and may be idle for so long.
    pub(crate) fn take_seat(&self, max_idle: Option<Duration>) -> Arc<Seat> {
        self.seats.take(max_idle)
    }

    /// Spreads the connections over the first `serving` workers.
    #[cfg(test)]
    pub(crate) fn spread(&self, serving: usize) {
        self.seats.spread(serving);
    }

    /// Tells every connection to go to one worker.
    #[cfg(test)]
    pub(crate) fn move_all_to(&self, worker: usize) {
        self.seats.move_all_to(worker);
    }

    /// Wakes every connection that was idle for too long.
    #[cfg(test)]
    pub(crate) fn wake_idle(&self) {
        self.seats.wake_idle(Instant::now().into());
    }

    /// Drops every task and joins the threads. Must not be called on a worker. A second call does nothing.
    pub fn stop(&self) {
        let watching = self.watching.lock().take();
        if let Some(Watching { stop, thread }) = watching {
            drop(stop);
            let _ = thread.join();
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        let (stops, joins): (Vec<_>, Vec<_>) = threads.into_iter().map(|it| (it.stop, it.thread)).unzip();
        for stop in stops {
            let _ = stop.send(());
        }
        for thread in joins {
            // A worker that panicked has nothing left to wait for; the panic hook has reported it.
            let _ = thread.join();
        }
    }
}

/// Looks after workers and connections until it is told to stop: has as many workers serve as the load needs, and wakes connections
/// that were idle for too long.
fn watch(workers: &[Handle], seats: &Seats, stop: &mpsc::Receiver<()>) {
    let mut load = Load::new(workers);
    let mut woke_idle = Instant::now();
    let mut pause = LOOK_EVERY;
    while stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let is_calm = load.look(workers, seats);
        if woke_idle.elapsed() >= WAKE_IDLE_EVERY {
            woke_idle = Instant::now();
            seats.wake_idle(woke_idle.into());
        }
        pause = if is_calm { LOOK_EVERY_CALM } else { LOOK_EVERY };
    }
}

/// What is known of the load.
struct Load {
    balance: Balance,
    busy: Vec<Duration>,
    looked: Instant,
    aged: Instant,
}

impl Load {
    fn new(workers: &[Handle]) -> Self {
        let now = Instant::now();
        Self {
            balance: Balance::new(workers.len()),
            busy: workers.iter().map(busy_time).collect(),
            looked: now,
            aged: now,
        }
    }

    /// Spreads the connections anew if the load wants that; true if one worker has room to spare: it needs no help within the next
    /// moment.
    fn look(&mut self, workers: &[Handle], seats: &Seats) -> bool {
        let now = Instant::now();
        let passed = now.duration_since(self.looked).as_secs_f64();
        self.looked = now;
        let mut busy = Vec::with_capacity(workers.len());
        for (worker, before) in workers.iter().zip(&mut self.busy) {
            let now = busy_time(worker);
            let did = now.saturating_sub(std::mem::replace(before, now));
            // A long turn counts when it ends.
            busy.push((did.as_secs_f64() / passed.max(f64::MIN_POSITIVE)).min(1.0));
        }
        if self.balance.look(&busy) {
            seats.spread(self.balance.serving());
        }
        let total: f64 = busy.iter().sum();
        if now.duration_since(self.aged) >= AGE_EVERY && total > RESTING {
            self.aged = now;
            seats.age();
        }
        self.balance.serving() == 1 && total < CALM
    }
}

fn busy_time(worker: &Handle) -> Duration {
    worker.metrics().worker_total_busy_duration(0)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn work_runs_on_the_named_thread_and_stop_drops_what_is_left() {
        let pool = WorkerPool::start(2, "w").unwrap();
        let (names, seen) = mpsc::channel();
        for index in 0..2 {
            let names = names.clone();
            pool.spawn_on(index, async move {
                names.send(thread::current().name().map(str::to_owned)).unwrap();
                std::future::pending::<()>().await;
            });
        }
        drop(names);
        let mut got: Vec<_> = (0..2).map(|_| seen.recv().unwrap().unwrap()).collect();
        got.sort();
        assert_eq!(got, ["w-0", "w-1"]);
        pool.stop();
        assert!(seen.recv().is_err(), "both tasks are dropped with their senders");
        pool.stop();
    }

    #[test]
    fn workers_come_round_robin() {
        let pool = WorkerPool::start(3, "r").unwrap();
        assert_eq!(
            (0..4).map(|_| pool.next_worker()).collect::<Vec<_>>(),
            [0, 1, 2, 0]
        );
    }
}
