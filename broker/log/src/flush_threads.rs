//! Threads that help to flush: a disk does many flushes in little more time than one, and a file system's journal commits once for all
//! who wait for it together.
//!
//! They stay for a while, because one round follows another. Whoever flushes does what no helper does, so that one which cannot be
//! started is no harm.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use crossbeam_utils::sync::WaitGroup;

/// How long a helper waits for more to do.
const KEPT: Duration = Duration::from_secs(30);
/// Helpers of a directory. Those of one round may not have come to rest when the next one asks for as many.
const HELPERS_MAX: usize = 32;

/// The helpers of a directory. They end with it, or when nothing is to be flushed.
#[derive(Debug)]
pub(crate) struct FlushThreads {
    /// Takes a task only if a helper waits for one.
    idle: Sender<Task>,
    next: Receiver<Task>,
    /// Each helper has a clone.
    alive: Arc<()>,
}

/// What a helper is asked for. Whoever asked waits for the group, so the work, and what that holds, is let go of first.
struct Task {
    work: Arc<dyn Fn() + Send + Sync>,
    done: WaitGroup,
}

impl Default for FlushThreads {
    fn default() -> Self {
        let (idle, next) = bounded(0);
        let alive = Arc::default();
        Self { idle, next, alive }
    }
}

impl FlushThreads {
    /// Has the work done by the caller and by so many helpers at the same time; when it returns, all of them have done with it.
    pub(crate) fn run(&self, helpers: usize, work: Arc<dyn Fn() + Send + Sync>) {
        let done = WaitGroup::new();
        for _ in 0..helpers {
            let (work, done) = (work.clone(), done.clone());
            self.ask(Task { work, done });
        }
        work();
        done.wait();
    }

    fn ask(&self, task: Task) {
        let Err(refused) = self.idle.try_send(task) else {
            return;
        };
        if Arc::strong_count(&self.alive) > HELPERS_MAX {
            return;
        }
        let (task, next, alive) = (refused.into_inner(), self.next.clone(), self.alive.clone());
        let help = move || {
            let _alive = alive;
            task.help();
            while let Ok(task) = next.recv_timeout(KEPT) {
                task.help();
            }
        };
        let _ = thread::Builder::new().name("flush".to_owned()).spawn(help);
    }
}

impl Task {
    fn help(self) {
        // Dropped in reverse order, however the work ends.
        let Self { done: _done, work } = self;
        work();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;
    use std::sync::mpsc::{self, Sender as Tell};

    use parking_lot::{Condvar, Mutex};

    use super::*;

    const HELPERS: usize = 3;

    /// Work that is done once all threads that were asked for do it; which threads those were.
    fn meet(threads: &FlushThreads) -> HashSet<thread::ThreadId> {
        let (barrier, met) = (Barrier::new(HELPERS + 1), Arc::new(Mutex::new(HashSet::new())));
        let seen = met.clone();
        threads.run(
            HELPERS,
            Arc::new(move || {
                seen.lock().insert(thread::current().id());
                barrier.wait();
            }),
        );
        Arc::into_inner(met)
            .expect("nobody holds what the work held")
            .into_inner()
    }

    #[test]
    fn helpers_work_side_by_side_with_the_caller_and_are_kept() {
        let threads = FlushThreads::default();
        let mut all = HashSet::new();
        for _ in 0..200 {
            let met = meet(&threads);
            assert_eq!(met.len(), HELPERS + 1);
            assert!(met.contains(&thread::current().id()));
            all.extend(met);
        }
        assert!(all.len() <= HELPERS_MAX + 1, "{} threads", all.len());
    }

    /// Tells when its thread ends.
    struct Mark(Tell<()>);

    impl Drop for Mark {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    thread_local! {
        static MARK: Mutex<Option<Mark>> = const { Mutex::new(None) };
    }

    #[test]
    fn helpers_end_with_their_directory() {
        let (tell, ended) = mpsc::channel();
        let threads = FlushThreads::default();
        let barrier = Barrier::new(HELPERS + 1);
        let caller = thread::current().id();
        let mark = move || {
            if thread::current().id() != caller {
                MARK.with(|mark| *mark.lock() = Some(Mark(tell.clone())));
            }
            barrier.wait();
        };
        threads.run(HELPERS, Arc::new(mark));
        assert_eq!(ended.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(threads);
        for _ in 0..HELPERS {
            ended
                .recv_timeout(KEPT / 2)
                .expect("it does not wait for more to do");
        }
    }

    #[test]
    fn no_more_than_so_many_are_started() {
        let threads = FlushThreads::default();
        let met = Arc::new((Mutex::new(HashSet::new()), Condvar::new()));
        let seen = met.clone();
        let work = move || {
            let (threads, changed) = &*seen;
            let mut threads = threads.lock();
            threads.insert(thread::current().id());
            changed.notify_all();
            changed.wait_while(&mut threads, |threads| threads.len() <= HELPERS_MAX);
        };
        threads.run(HELPERS_MAX + 10, Arc::new(work));
        assert_eq!(met.0.lock().len(), HELPERS_MAX + 1);
    }
}
