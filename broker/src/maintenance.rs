//! Chores of the logs, on a thread that serves nobody: checkpoints, flushes, retention, compaction, removal of files.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::broker::Broker;
use crate::clock;
use crate::replica::Replica;
use crate::replicas::error_chain;

/// How often it is looked whether a chore is due.
const TICK: Duration = Duration::from_secs(1);
/// Removed files go at most this long after they were set aside.
const PURGE_INTERVAL: Duration = Duration::from_secs(5);
/// How often producers that sent nothing for long are forgotten.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(600);

/// The thread.
pub struct Maintenance {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Maintenance {
    /// Starts the chores of a broker.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(broker: Arc<Broker>) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("maintenance".to_owned())
            .spawn(move || {
                let mut chores = Chores::new(broker);
                let (flag, wake) = &*stopped;
                let mut stop = flag.lock();
                while !*stop {
                    wake.wait_for(&mut stop, TICK);
                    if !*stop {
                        parking_lot::MutexGuard::unlocked(&mut stop, || chores.round());
                    }
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends the thread after the chore it is at.
    pub fn stop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A chore that panicked has been reported by the panic hook.
            _ = thread.join();
        }
    }
}

/// When each chore was done last.
struct Chores {
    broker: Arc<Broker>,
    high_watermarks: Instant,
    recovery_points: Instant,
    retention: Instant,
    compaction: Instant,
    purge: Instant,
    expiry: Instant,
}

impl Chores {
    fn new(broker: Arc<Broker>) -> Self {
        let now = Instant::now();
        Self {
            broker,
            high_watermarks: now,
            recovery_points: now,
            retention: now,
            compaction: now,
            purge: now,
            expiry: now,
        }
    }

    fn round(&mut self) {
        let config = self.broker.config.load_full();
        let ms = |value: i64| Duration::from_millis(u64::try_from(value).unwrap_or(0));
        if due(
            &mut self.high_watermarks,
            ms(config.replica.high_watermark_checkpoint_interval_ms),
        ) {
            self.checkpoint_high_watermarks();
        }
        let interval = Duration::from_millis(u64::from(config.log.recovery_point_checkpoint_interval_ms));
        let checkpoint = due(&mut self.recovery_points, interval);
        self.flush(checkpoint);
        if due(&mut self.retention, ms(config.log.retention_check_interval_ms)) {
            self.retain();
        }
        if config.cleaner.enable && due(&mut self.compaction, ms(config.cleaner.backoff_ms)) {
            self.compact();
        }
        if due(&mut self.expiry, EXPIRY_INTERVAL) {
            for replica in self.broker.replicas.all() {
                replica.with(|p| p.log_mut().expire_producers(clock::now()));
            }
        }
        if due(&mut self.purge, PURGE_INTERVAL) {
            self.purge();
        }
    }

    fn checkpoint_high_watermarks(&self) {
        let replicas = self.broker.replicas.all();
        for (at, directory) in self.broker.replicas.directories().iter().enumerate() {
            let here = replicas
                .iter()
                .filter(|replica| replica.log_dir == at && !replica.is_offline());
            let moved =
                here.filter_map(|replica| replica.with(|p| p.log_mut().high_watermark_to_checkpoint()));
            if let Err(error) = directory
                .log_directory
                .checkpoint_high_watermarks(moved.collect::<Vec<_>>())
            {
                slog::error!(self.broker.log, "high watermarks not checkpointed"; "error" => error_chain(&error));
            }
        }
    }

    /// Flushes what flush.messages and flush.ms ask for; at a checkpoint, everything.
    fn flush(&self, checkpoint: bool) {
        for replica in self.broker.replicas.all() {
            if replica.is_offline() {
                continue;
            }
            let now = clock::now();
            let plan = replica.with(|p| {
                let log = p.log_mut();
                if checkpoint {
                    log.checkpoint_plan(now)
                } else if log.is_flush_due(now) {
                    log.flush_plan()
                } else {
                    Ok(None)
                }
            });
            let done = plan.and_then(|plan| match plan {
                None => Ok(()),
                Some(plan) => {
                    plan.sync()?;
                    replica.with(|p| p.log_mut().complete_flush(plan))
                }
            });
            if let Err(error) = done {
                self.broker.replicas.log_failed(&replica, &error);
            }
        }
        if checkpoint {
            for directory in self.broker.replicas.directories() {
                if let Err(error) = directory.log_directory.flush_index() {
                    slog::error!(self.broker.log, "index not flushed"; "error" => error_chain(&error));
                }
            }
        }
    }

    fn retain(&self) {
        for replica in self.broker.replicas.all() {
            match replica.with(|p| p.log_mut().retention(clock::now())) {
                Ok(0) => {}
                Ok(segments) => slog::info!(self.broker.log, "segments deleted by retention";
                    "partition" => %replica.id, "segments" => segments),
                Err(error) => self.broker.replicas.log_failed(&replica, &error),
            }
        }
    }

    fn compact(&self) {
        for replica in self.broker.replicas.all() {
            if replica.config().cleanup_policy.compact && !replica.is_offline() {
                self.compact_one(&replica);
            }
        }
    }

    fn compact_one(&self, replica: &Arc<Replica>) {
        let outcome = replica
            .with(|p| p.log_mut().compaction_plan(clock::now()))
            .and_then(|plan| match plan {
                None => Ok(()),
                Some(plan) => {
                    let compacted = plan.run()?;
                    replica
                        .with(|p| p.log_mut().complete_compaction(compacted))
                        .map(|_| ())
                }
            });
        if let Err(error) = outcome {
            // The partition stays as it is and is tried again; records are not touched by a failed pass.
            slog::error!(self.broker.log, "compaction failed";
                "partition" => %replica.id, "error" => error_chain(&error));
        }
    }

    fn purge(&self) {
        for directory in self.broker.replicas.directories() {
            if let Err(error) = directory.log_directory.purge_deleted(clock::now()) {
                slog::error!(self.broker.log, "deleted files not removed"; "error" => error_chain(&error));
            }
        }
    }
}

/// True once per interval.
fn due(last: &mut Instant, interval: Duration) -> bool {
    if last.elapsed() < interval {
        return false;
    }
    *last = Instant::now();
    true
}
