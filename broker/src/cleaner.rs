//! Compaction of this broker's logs, on threads of its own: the filthiest log first, as Kafka's LogCleaner.
//!
//! A supervisor keeps as many workers as `log.cleaner.threads` says and starts them anew when a setting changes that they
//! divide among themselves. What they share and what metrics show is in [`cleaning`]. How a log is compacted is the
//! log's affair.

pub mod cleaning;
pub mod exposition;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use odradek_broker_log::compact::{CompactionReport, Go, PassMemory};
use odradek_broker_log::error::LogError;
use odradek_config::server::CleanerSettings;
use parking_lot::Mutex;

use crate::background::{self, Stop, Throttle};
use crate::broker::Broker;
use crate::clock;
use crate::maintenance::retain;
use crate::replica::Replica;
use crate::replicas::error_chain;
use cleaning::{Cleaning, Failure, LastPass};

/// How often the supervisor looks at the configuration and at its workers.
const SUPERVISION_INTERVAL: Duration = Duration::from_secs(1);
/// A thread's read and write buffers have at least so many bytes.
const IO_BYTES_MIN: usize = 4 << 10;
/// Kafka's most for one thread's table of keys.
const DEDUPE_BYTES_MAX: usize = i32::MAX as usize;

/// The supervisor, if there is one.
pub struct Cleaner(Option<background::Worker>);

impl Cleaner {
    /// Starts compaction, unless `log.cleaner.enable` says no.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(broker: Arc<Broker>) -> std::io::Result<Self> {
        if !broker.config.load().cleaner.enable {
            return Ok(Self(None));
        }
        let supervisor = background::Worker::start("cleaner", move |stop| supervise(&broker, &stop))?;
        Ok(Self(Some(supervisor)))
    }

    /// Ends all threads; a pass ends at its next buffer.
    pub fn stop(&mut self) {
        if let Some(supervisor) = &mut self.0 {
            supervisor.stop();
        }
    }
}

/// What workers divide among themselves: another one needs other workers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Division {
    threads: usize,
    memory: PassMemory,
}

impl Division {
    fn of(settings: &CleanerSettings) -> Self {
        let threads = settings.threads as usize;
        let share = |bytes: usize| bytes / threads.max(1);
        let dedupe_bytes = usize::try_from(settings.dedupe_buffer_bytes).unwrap_or(0);
        let memory = PassMemory {
            dedupe_bytes: share(dedupe_bytes).min(DEDUPE_BYTES_MAX),
            load_factor: settings.load_factor,
            // Half of it reads, half of it writes.
            io_bytes: (share(settings.io_buffer_bytes as usize) / 2).max(IO_BYTES_MIN),
        };
        Self { threads, memory }
    }
}

fn supervise(broker: &Arc<Broker>, stop: &Stop) {
    let throttle = Arc::new(Mutex::new(Throttle::default()));
    let mut division = None;
    let mut workers = Vec::new();
    loop {
        let wanted = Division::of(&broker.config.load().cleaner);
        if division != Some(wanted) {
            end(&mut workers);
            broker.cleaning.reset_workers(wanted.threads);
            workers = (0..wanted.threads)
                .filter_map(|index| Worker::start(broker, &throttle, index, wanted.memory))
                .collect();
            division = Some(wanted);
        }
        let alive = workers.iter().filter(|worker| !worker.thread.is_finished());
        broker.cleaning.note_dead(wanted.threads - alive.count());
        if stop.wait(SUPERVISION_INTERVAL) {
            break;
        }
    }
    end(&mut workers);
}

fn end(workers: &mut Vec<RunningWorker>) {
    for worker in workers.iter() {
        worker.stop.set();
    }
    for worker in workers.drain(..) {
        // A panic has been reported by the panic hook.
        _ = worker.thread.join();
    }
}

struct RunningWorker {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

/// One thread.
struct Worker {
    broker: Arc<Broker>,
    throttle: Arc<Mutex<Throttle>>,
    index: usize,
    memory: PassMemory,
    stop: Arc<Stop>,
}

impl Worker {
    fn start(
        broker: &Arc<Broker>,
        throttle: &Arc<Mutex<Throttle>>,
        index: usize,
        memory: PassMemory,
    ) -> Option<RunningWorker> {
        let stop = Arc::new(Stop::default());
        let worker = Self {
            broker: broker.clone(),
            throttle: throttle.clone(),
            index,
            memory,
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("cleaner-{index}"))
            .spawn(move || worker.run());
        match thread {
            Ok(thread) => Some(RunningWorker { stop, thread }),
            Err(error) => {
                slog::error!(broker.log, "cannot start a thread for compaction"; "error" => %error);
                None
            }
        }
    }

    fn run(&self) {
        let mut pause = Duration::ZERO;
        while !self.stop.wait(pause) {
            pause = if self.clean_filthiest() {
                Duration::ZERO
            } else {
                backoff(&self.broker.config.load().cleaner)
            };
        }
    }

    /// Compacts the log that needs it most; false if there was none, or it could not be done.
    fn clean_filthiest(&self) -> bool {
        let cleaning = &self.broker.cleaning;
        let Some(replica) = cleaning.grab_filthiest(&self.broker.replicas.all(), clock::now()) else {
            return false;
        };
        let begun = Instant::now();
        let grabbed = Grabbed {
            cleaning,
            replica: &replica,
        };
        let outcome = self.clean(&replica);
        // Nothing was deleted while the pass ran, and another one may follow at once.
        retain(&self.broker, &replica);
        drop(grabbed);
        match outcome {
            Ok(Some(report)) => {
                let last = LastPass {
                    report,
                    elapsed: begun.elapsed(),
                };
                self.succeeded(&replica, last);
                true
            }
            Ok(None) => false,
            Err(error) => {
                self.failed(&replica, &error);
                false
            }
        }
    }

    /// None if the pass was not due any more, stopped or overtaken.
    fn clean(&self, replica: &Replica) -> Result<Option<CompactionReport>, LogError> {
        let plan = replica.with(|p| {
            // Looked at under the lock, under which a move begins.
            if replica.is_moving() {
                return Ok(None);
            }
            p.log_mut().compaction_plan(clock::now())
        });
        let Some(plan) = plan? else {
            return Ok(None);
        };
        let compacted = plan.run(
            self.memory,
            &mut |bytes| self.pace(replica, bytes),
            &mut |cleaned| replica.with(|p| p.log_mut().replace_segments(cleaned)),
        )?;
        let Some(compacted) = compacted else {
            return Ok(None);
        };
        replica
            .with(|p| p.log_mut().complete_compaction(compacted))
            .map(Some)
    }

    fn pace(&self, replica: &Replica, bytes: u64) -> Go {
        let per_second = self.broker.config.load().cleaner.io_bytes_per_second_max;
        let pause = self.throttle.lock().pause(Instant::now(), bytes, per_second);
        if self.stop.wait(pause) || replica.is_offline() {
            Go::Stop
        } else {
            Go::On
        }
    }

    fn succeeded(&self, replica: &Replica, last: LastPass) {
        let log = &self.broker.log;
        if self.broker.cleaning.note_pass(self.index, replica, last) {
            slog::info!(log, "compaction of a log works again"; "partition" => %replica.id);
        }
        if last.report.records_without_key > 0 {
            slog::warn!(log, "records without a key were removed by compaction";
                "partition" => %replica.id, "records" => last.report.records_without_key);
        }
    }

    fn failed(&self, replica: &Arc<Replica>, error: &LogError) {
        let log = &self.broker.log;
        let is_offline = match error {
            LogError::Closed(_) | LogError::Open(_) => return,
            // Consumers would find that it is gone, and nobody can fetch it anew: another replica is to lead.
            LogError::Corrupt { .. } if error.is_gone() => true,
            // The log stays readable as far as it is not damaged; only compaction cannot go on.
            LogError::Corrupt { .. } | LogError::Locked { .. } => false,
            // As when anybody else finds the directory failed, or full.
            LogError::Directory { .. }
            | LogError::NoRoom { .. }
            | LogError::Unsynced { .. }
            | LogError::Offline { .. } => true,
        };
        if is_offline {
            self.broker.replicas.log_failed(replica, error);
        }
        match self.broker.cleaning.note_failure(replica, Instant::now()) {
            Failure::First { retry_after } if !is_offline => {
                slog::error!(log, "a log cannot be compacted and is left alone for a while";
                    "partition" => %replica.id, "retry_after_secs" => retry_after.as_secs(),
                    "error" => error_chain(error));
            }
            Failure::First { retry_after } | Failure::Again { retry_after } => {
                slog::debug!(log, "a log cannot be compacted";
                    "partition" => %replica.id, "retry_after_secs" => retry_after.as_secs(),
                    "error" => error_chain(error));
            }
        }
        if let Some(base_offset) = error.corrupt_segment() {
            // The scrubber keeps from consumers what is damaged, and has it replaced.
            self.broker.cleaning.suspect(replica, base_offset);
        }
    }
}

/// A log that a thread is at. A pass that panics leaves it as one that failed, for other threads to try again.
struct Grabbed<'a> {
    cleaning: &'a Cleaning,
    replica: &'a Replica,
}

impl Drop for Grabbed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.cleaning.note_failure(self.replica, Instant::now());
        }
        self.cleaning.release(self.replica);
    }
}

fn backoff(settings: &CleanerSettings) -> Duration {
    Duration::from_millis(u64::try_from(settings.backoff_ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use odradek_config::ServerConfig;

    use super::*;
    use crate::fixtures::LoneBroker;

    #[tokio::test]
    async fn a_log_with_a_segment_that_is_gone_is_offline_and_one_that_is_corrupt_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        lone.create("t", LoneBroker::NODE);
        let replica = lone.broker.replicas.get("t", 0).unwrap();
        let worker = Worker {
            broker: lone.broker.clone(),
            throttle: Arc::default(),
            index: 0,
            memory: PassMemory::default(),
            stop: Arc::default(),
        };
        let corrupt = LogError::Corrupt {
            path: "0.log".into(),
            position: 0,
            detail: "the checksum is wrong".to_owned(),
        };
        worker.failed(&replica, &corrupt);
        assert!(!replica.is_offline());
        worker.failed(&replica, &LogError::gone("0.log".into()));
        assert!(replica.is_offline());
        assert!(lone.broker.replicas.online().next().is_some());
    }

    #[test]
    fn threads_share_the_memory() {
        let division = |pairs: &[(&str, &str)]| {
            let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            let overrides: Vec<_> = pairs.iter().map(own).collect();
            let (config, _) = ServerConfig::load(None, std::iter::empty(), &overrides).unwrap();
            Division::of(&config.cleaner)
        };
        let one = division(&[]);
        assert_eq!((one.threads, one.memory), (1, PassMemory::default()));
        let four = division(&[
            ("log.cleaner.threads", "4"),
            ("log.cleaner.io.buffer.size", "0"),
            ("log.cleaner.io.buffer.load.factor", "0.5"),
        ]);
        assert_eq!(four.threads, 4);
        assert_eq!(four.memory.dedupe_bytes, 32 << 20);
        assert_eq!(
            (four.memory.io_bytes, four.memory.load_factor),
            (IO_BYTES_MIN, 0.5)
        );
        let large = division(&[("log.cleaner.dedupe.buffer.size", "9000000000")]);
        assert_eq!(large.memory.dedupe_bytes, DEDUPE_BYTES_MAX);
    }
}
