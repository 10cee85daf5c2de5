//! The threads that connections live on: one current-thread runtime each, so that a connection's work never hops between cores.
//!
//! Promises that a stop drops every task and joins every thread. Does not balance load; callers choose the worker.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Threads for cold reads and fsyncs that one worker may have at a time.
const BLOCKING_THREADS_PER_WORKER: usize = 16;
/// How long a stop waits for blocking work that was already begun.
const BLOCKING_STOP: Duration = Duration::from_secs(5);

/// A fixed number of worker threads.
#[derive(Debug)]
pub struct WorkerPool {
    workers: Vec<Worker>,
    next: AtomicUsize,
    threads: Mutex<Vec<Running>>,
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
            workers,
            next: AtomicUsize::new(0),
            threads: Mutex::new(threads),
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

    /// The next worker in turn.
    pub fn next_worker(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len()
    }

    /// Drops every task and joins the threads. Must not be called on a worker. A second call does nothing.
    pub fn stop(&self) {
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
