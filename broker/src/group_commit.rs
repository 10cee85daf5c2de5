//! Group commit: one thread for each log directory flushes what `flush.messages` wants on disk before it is acknowledged.
//!
//! Every partition with something due shares the next round, and what is appended while a round is under way shares the one
//! after it: under load the disk is flushed as often as it can be, whatever the number of partitions and producers.
//!
//! Invariant: nothing is acknowledged whose flush failed. The directory goes offline instead.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use slog::Logger;

use crate::clock;
use crate::data_directory::DataDirectory;
use crate::replica::Replica;
use crate::replicas::Replicas;
use crate::vital;

/// How long a replica whose flush could not even be begun, for want of descriptors, is left alone.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Replicas of a directory that wait for the next round, each at most once.
#[derive(Default)]
pub struct FlushQueue {
    state: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    due: Vec<Arc<Replica>>,
    stopping: bool,
}

impl FlushQueue {
    /// This replica shares the next round.
    pub fn add(&self, replica: Arc<Replica>) {
        self.state.lock().due.push(replica);
        self.wake.notify_one();
    }

    /// Waits for something to be due; None once the queue is stopped.
    fn next(&self) -> Option<Vec<Arc<Replica>>> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return None;
            }
            if !state.due.is_empty() {
                return Some(std::mem::take(&mut state.due));
            }
            self.wake.wait(&mut state);
        }
    }

    /// Waits for so long, or until there is something to do.
    fn pause(&self, at_most: Duration) {
        let mut state = self.state.lock();
        let is_idle = |state: &mut Queue| state.due.is_empty() && !state.stopping;
        self.wake.wait_while_for(&mut state, is_idle, at_most);
    }

    fn stop(&self) {
        self.state.lock().stopping = true;
        self.wake.notify_all();
    }
}

/// The threads.
pub struct GroupCommit {
    replicas: Arc<Replicas>,
    threads: Vec<JoinHandle<()>>,
}

impl GroupCommit {
    /// Starts a thread for each directory that can be written.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(replicas: &Arc<Replicas>, log: &Logger) -> std::io::Result<Self> {
        let mut started = Self {
            replicas: replicas.clone(),
            threads: Vec::new(),
        };
        let open = replicas.directories().iter().filter(|d| d.logs().is_some());
        for (at, directory) in open.enumerate() {
            let (replicas, directory) = (replicas.clone(), directory.clone());
            let thread = std::thread::Builder::new().name(format!("commit-{at}"));
            let log = log.clone();
            let run = move || {
                vital::work("group commit", &log, || {
                    while let Some(due) = directory.flushes.next() {
                        round(&replicas, &directory, due);
                    }
                });
            };
            started.threads.push(thread.spawn(run)?);
        }
        Ok(started)
    }

    /// Ends the threads after the round they are at. Who waits still is told by the replicas' close.
    pub fn stop(&mut self) {
        for directory in self.replicas.directories() {
            directory.flushes.stop();
        }
        for thread in self.threads.drain(..) {
            // A round that panics ends the process.
            _ = thread.join();
        }
    }
}

/// Flushes what these replicas have appended, and tells whoever waits.
pub(crate) fn round(replicas: &Replicas, directory: &DataDirectory, due: Vec<Arc<Replica>>) {
    let Some(logs) = directory.logs() else { return };
    let mut planned = Vec::with_capacity(due.len());
    let mut plans = Vec::with_capacity(due.len());
    let mut again = Vec::new();
    for replica in due.into_iter().filter(|replica| !replica.is_offline()) {
        match replica.flush_plan(clock::now(), directory) {
            Ok(None) => {}
            Ok(Some(plan)) => {
                planned.push(replica);
                plans.push(plan);
            }
            Err(error) => {
                replicas.log_failed(&replica, &error);
                again.push(replica);
            }
        }
    }
    match logs.sync(&plans) {
        Ok(()) => {
            for (replica, plan) in planned.iter().zip(plans) {
                if let Err(error) = replica.complete_flush(clock::now(), plan) {
                    replicas.log_failed(replica, &error);
                }
            }
        }
        Err(error) => {
            replicas.directory_failed(directory, &error);
            if directory.is_offline() {
                return;
            }
            // What passes is tried again: who waits for the flush does not ask a second time.
            again.extend(planned);
        }
    }
    if !again.is_empty() {
        directory.flushes.pause(RETRY_PAUSE);
        again.iter().for_each(|replica| replica.queue_flush());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tempfile::TempDir;

    use super::*;
    use crate::fixtures::LoneBroker;

    /// Longer than a test takes.
    const FOR_EVER: Duration = Duration::from_secs(3_600);
    const LIMIT: Duration = Duration::from_secs(60);

    fn pauses_no_longer(queue: &Arc<FlushQueue>) {
        let (done, is_done) = mpsc::channel();
        let queue = queue.clone();
        let pause = std::thread::spawn(move || {
            queue.pause(FOR_EVER);
            done.send(()).unwrap();
        });
        is_done.recv_timeout(LIMIT).expect("nobody waits for the pause");
        pause.join().unwrap();
    }

    #[test]
    fn a_stop_that_came_before_the_pause_is_not_missed() {
        let queue = Arc::<FlushQueue>::default();
        queue.stop();
        pauses_no_longer(&queue);
    }

    #[tokio::test]
    async fn whoever_was_added_before_the_pause_does_not_wait_for_it() {
        let folder = TempDir::new().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        let (_, events) = lone.create("t", LoneBroker::NODE);
        assert_eq!(events.len(), 1);
        let queue = Arc::<FlushQueue>::default();
        queue.add(lone.broker.replicas.get("t", 0).unwrap());
        pauses_no_longer(&queue);
    }
}
