//! Chores of the logs, on a thread that serves nobody: checkpoints, flushes, retention, removal of files.

use std::sync::Arc;
use std::time::{Duration, Instant};

use odradek_broker_log::directory::LogDirectory;
use odradek_broker_log::error::LogError;
use odradek_broker_log::flush::FlushPlan;
use odradek_broker_log::log::Log;
use odradek_common::time::Now;
use odradek_config::ServerConfig;

use crate::background::Worker;
use crate::broker::Broker;
use crate::clock;
use crate::memory;
use crate::replica::Replica;
use crate::replicas::{Replicas, error_chain};
use crate::vital;

/// Logs that are checkpointed together at most,
const ROUND_LOGS_MAX: usize = 32;
/// and how much of them the disk may lack before no further one is added.
const ROUND_BYTES_MAX: u64 = 16 << 20;
/// How often it is looked whether a chore is due, unless one is wanted more often than that.
const TICK: Duration = Duration::from_secs(1);
const TICK_MIN: Duration = Duration::from_millis(50);
/// The `file.delete.delay.ms` of removed files begins at most this long after they were, and they go at most as long after its end.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);
/// A segment's file is closed when nobody used it for this long, and at most twice as long.
const UNUSED_FILES_INTERVAL: Duration = Duration::from_secs(30);

/// The thread.
pub struct Maintenance(Worker);

impl Maintenance {
    /// Starts it.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(broker: Arc<Broker>) -> std::io::Result<Self> {
        let worker = Worker::start("maintenance", move |stop| {
            let log = broker.log.clone();
            vital::work("maintenance", &log, || {
                let mut chores = Chores::new(broker);
                while !stop.wait(chores.pause()) {
                    chores.round();
                }
            });
        })?;
        Ok(Self(worker))
    }

    /// Ends the thread after the chore it is at.
    pub fn stop(&mut self) {
        self.0.stop();
    }
}

/// When each chore was done last; a chore that never was is due.
struct Chores {
    broker: Arc<Broker>,
    started: Instant,
    high_watermarks: Option<Instant>,
    flushes: Option<Instant>,
    recovery_points: Option<Instant>,
    retention: Option<Instant>,
    purge: Option<Instant>,
    unused_files: Option<Instant>,
    expiry: Option<Instant>,
}

/// How often each chore is wanted.
struct Intervals {
    flushes: Duration,
    recovery_points: Duration,
    retention: Duration,
    expiry: Duration,
    high_watermarks: Duration,
}

impl Intervals {
    fn of(config: &ServerConfig) -> Self {
        let (log, transaction) = (&config.log, &config.transaction);
        Self {
            // Kafka's default never looks, so that flush.ms would do nothing: without a word each round looks.
            flushes: match log.flush_scheduler_interval_ms {
                i64::MAX => Duration::ZERO,
                given => ms(given),
            },
            recovery_points: ms(log.recovery_point_checkpoint_interval_ms.into()),
            retention: ms(log.retention_check_interval_ms),
            expiry: ms(transaction.producer_id_expiration_check_interval_ms.into()),
            high_watermarks: ms(config.replica.high_watermark_checkpoint_interval_ms),
        }
    }

    fn shortest(&self) -> Duration {
        let flushes = if self.flushes.is_zero() {
            TICK
        } else {
            self.flushes
        };
        flushes
            .min(self.recovery_points)
            .min(self.retention)
            .min(self.expiry)
            .min(self.high_watermarks)
    }
}

impl Chores {
    fn new(broker: Arc<Broker>) -> Self {
        let now = Instant::now();
        Self {
            broker,
            started: now,
            high_watermarks: Some(now),
            flushes: None,
            recovery_points: None,
            retention: None,
            purge: Some(now),
            unused_files: Some(now),
            expiry: Some(now),
        }
    }

    /// How long until the next round.
    fn pause(&self) -> Duration {
        Intervals::of(&self.broker.config.load())
            .shortest()
            .clamp(TICK_MIN, TICK)
    }

    fn round(&mut self) {
        let config = self.broker.config.load_full();
        let intervals = Intervals::of(&config);
        if due(&mut self.high_watermarks, intervals.high_watermarks) {
            self.checkpoint_high_watermarks();
        }
        bound_recovery(&self.broker.replicas, config.odradek.recovery_bytes_max);
        if self.started.elapsed() >= ms(config.log.initial_task_delay_ms) {
            let checkpoint = due(&mut self.recovery_points, intervals.recovery_points);
            if due(&mut self.flushes, intervals.flushes) || checkpoint {
                self.flush(checkpoint);
            }
            if due(&mut self.retention, intervals.retention) {
                self.retain();
            }
        }
        if due(&mut self.expiry, intervals.expiry) {
            for replica in self.broker.replicas.all().iter() {
                replica.with(|p| p.log_mut().expire_producers(clock::now()));
            }
        }
        if due(&mut self.purge, PURGE_INTERVAL) {
            self.purge();
        }
        if due(&mut self.unused_files, UNUSED_FILES_INTERVAL) {
            for (_, logs) in self.broker.replicas.online() {
                logs.close_unused_files();
            }
        }
    }

    fn checkpoint_high_watermarks(&self) {
        let replicas = self.broker.replicas.all();
        for (directory, logs) in self.broker.replicas.online() {
            let here = replicas
                .iter()
                .filter(|replica| Arc::ptr_eq(&replica.directory(), directory) && !replica.is_offline());
            let moved = here.filter_map(|replica| {
                replica.with(|p| {
                    // It may have moved away since it was looked at.
                    let log = p.log_mut();
                    log.is_in(logs).then(|| log.high_watermark_to_checkpoint())?
                })
            });
            if let Err(error) = logs.checkpoint_high_watermarks(moved.collect::<Vec<_>>()) {
                self.broker.replicas.directory_failed(directory, &error);
            }
        }
    }

    /// Flushes what flush.messages and flush.ms ask for. At a checkpoint recovery points move, but no active segment is flushed
    /// that is appended to and not due: that would hold its appends up.
    fn flush(&self, checkpoint: bool) {
        let mut moved = false;
        for replica in self.broker.replicas.all().iter() {
            if replica.is_offline() {
                continue;
            }
            let now = clock::now();
            let plan = replica.with(|p| {
                let log = p.log_mut();
                match (log.is_flush_due(now), checkpoint) {
                    (true, true) => log.checkpoint_plan(now),
                    (true, false) => log.flush_plan(now),
                    (false, true) => log.periodic_checkpoint_plan(now),
                    (false, false) => Ok(None),
                }
            });
            let done = plan.and_then(|plan| match plan {
                None => Ok(false),
                Some(plan) => {
                    plan.sync()?;
                    replica.complete_flush(now, plan).map(|()| true)
                }
            });
            match done {
                Ok(done) => moved |= done,
                Err(error) => self.broker.replicas.log_failed(replica, &error),
            }
        }
        if checkpoint && moved {
            for (directory, logs) in self.broker.replicas.online() {
                if let Err(error) = logs.flush_index() {
                    self.broker.replicas.directory_failed(directory, &error);
                }
            }
            memory::trim();
        }
    }

    fn retain(&self) {
        for replica in self.broker.replicas.all().iter() {
            retain(&self.broker, replica);
        }
    }

    fn purge(&self) {
        for (_, logs) in self.broker.replicas.online() {
            if let Err(error) = logs.purge_deleted(clock::now()) {
                slog::error!(self.broker.log, "deleted files not removed"; "error" => error_chain(&error));
            }
        }
    }
}

/// Deletes what a log need not keep; nothing of one that is offline, of which nobody knows what is left.
pub(crate) fn retain(broker: &Broker, replica: &Arc<Replica>) {
    if replica.is_offline() {
        return;
    }
    match replica.with(|p| p.log_mut().retention(clock::now())) {
        Ok(0) => {}
        Ok(segments) => slog::info!(broker.log, "segments deleted by retention";
            "partition" => %replica.id, "segments" => segments),
        Err(error) => broker.replicas.log_failed(replica, &error),
    }
}

/// Checkpoints logs of each directory, those first of which most would have to be read again, as long as recovery of them all
/// would have to read more than so many bytes. Segments that are appended to are flushed only if the sealed ones do not suffice.
pub(crate) fn bound_recovery(replicas: &Replicas, limit: i64) {
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let all = replicas.all();
    for (directory, logs) in replicas.online() {
        let all_here = all
            .iter()
            .filter(|replica| Arc::ptr_eq(&replica.directory(), directory) && !replica.is_offline());
        let mut dirty: Vec<(u64, &Arc<Replica>)> = all_here
            .map(|replica| (uncheckpointed_bytes(replica), replica))
            .filter(|(bytes, _)| *bytes > 0)
            .collect();
        let mut total: u64 = dirty.iter().map(|(bytes, _)| bytes).sum();
        if total <= limit {
            continue;
        }
        dirty.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let dirty: Vec<_> = dirty.into_iter().map(|(_, replica)| replica).collect();
        let here = (replicas, logs);
        // Well below the limit, so that not every look has to do it.
        total = checkpoint_until(here, &dirty, (total, limit / 2), Log::sealed_checkpoint_plan);
        if total > limit {
            checkpoint_until(here, &dirty, (total, limit / 2), Log::checkpoint_plan);
        }
        if let Err(error) = logs.flush_index() {
            replicas.directory_failed(directory, &error);
        }
    }
}

fn uncheckpointed_bytes(replica: &Replica) -> u64 {
    replica.with(|p| p.log().uncheckpointed_bytes())
}

/// Plans a checkpoint.
type Plan = fn(&mut Log, Now) -> Result<Option<FlushPlan>, LogError>;

/// Checkpoints logs of a directory, small ones together, until no more than `enough` of `total` bytes are left; returns how many are.
fn checkpoint_until(
    here: (&Replicas, &LogDirectory),
    dirty: &[&Arc<Replica>],
    (mut total, enough): (u64, u64),
    plan: Plan,
) -> u64 {
    let mut dirty = dirty.iter().peekable();
    while total > enough && dirty.peek().is_some() {
        let mut round = Round::default();
        while let Some(replica) = dirty.next_if(|_| round.has_place() && total > enough + round.bytes) {
            round.add(here, replica, plan);
        }
        // Appended meanwhile are bytes for the next time.
        total -= round.finish(here).min(total);
    }
    total
}

/// Logs that are checkpointed together: several small ones, so that the directory itself is flushed once for all, or a large one.
#[derive(Default)]
struct Round<'a> {
    plans: Vec<FlushPlan>,
    /// Whose each is, and how much of its log would have had to be read again before.
    planned: Vec<(&'a Arc<Replica>, u64)>,
    bytes: u64,
}

impl<'a> Round<'a> {
    fn has_place(&self) -> bool {
        self.plans.len() < ROUND_LOGS_MAX && (self.bytes < ROUND_BYTES_MAX || self.plans.is_empty())
    }

    fn add(&mut self, (replicas, logs): (&Replicas, &LogDirectory), replica: &'a Arc<Replica>, plan: Plan) {
        let before = uncheckpointed_bytes(replica);
        match replica.with(|p| plan(p.log_mut(), clock::now())) {
            Ok(Some(plan)) if plan.is_of(logs) => {
                self.bytes += plan.unflushed_bytes();
                self.plans.push(plan);
                self.planned.push((replica, before));
            }
            // It has lived elsewhere since it was chosen, or there is nothing to do.
            Ok(Some(_) | None) => {}
            Err(error) => replicas.log_failed(replica, &error),
        }
    }

    /// Returns how much less would have to be read again now.
    fn finish(self, (replicas, logs): (&Replicas, &LogDirectory)) -> u64 {
        if let Err(error) = logs.sync_behind(&self.plans) {
            for (replica, _) in self.planned {
                replicas.log_failed(replica, &error);
            }
            return 0;
        }
        let done = self.plans.into_iter().zip(self.planned);
        done.map(|(plan, (replica, before))| {
            if let Err(error) = replica.complete_flush(clock::now(), plan) {
                replicas.log_failed(replica, &error);
            }
            before.saturating_sub(uncheckpointed_bytes(replica))
        })
        .sum()
    }
}

/// True once per interval.
fn due(last: &mut Option<Instant>, interval: Duration) -> bool {
    if last.is_some_and(|last| last.elapsed() < interval) {
        return false;
    }
    *last = Some(Instant::now());
    true
}

fn ms(value: i64) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use odradek_broker_log::append::LeaderBatch;
    use odradek_common::records::builder::BatchBuilder;

    use super::*;
    use crate::fixtures::LoneBroker;

    /// The first of two segments, which retention may delete; the caller may have removed its file.
    fn after_retention(before: impl FnOnce(&Replica)) -> (Arc<Broker>, Arc<Replica>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        lone.create("t", LoneBroker::NODE);
        let replica = lone.broker.replicas.get("t", 0).unwrap();
        for _ in 0..2 {
            let mut builder = BatchBuilder::new(0);
            builder.append(clock::now().wall_ms, None, Some(b"value"), &[]);
            let records = builder.build();
            let mut batches = [LeaderBatch::whole(&records).unwrap()];
            replica.append(clock::now(), &mut batches, None).unwrap();
            replica.with(|p| p.log_mut().roll(clock::now())).unwrap();
        }
        replica
            .with(|p| p.log_mut().delete_records_before(1).map(|_| ()))
            .unwrap();
        before(&replica);
        retain(&lone.broker, &replica);
        let segments = replica.with(|p| p.log().segments());
        (lone.broker, replica, segments)
    }

    #[tokio::test]
    async fn retention_leaves_a_log_that_is_offline_alone() {
        let (_, _, segments) = after_retention(|_| ());
        assert_eq!(segments, 2);
        let (_, _, segments) = after_retention(Replica::set_offline);
        assert_eq!(segments, 3);
    }

    #[tokio::test]
    async fn a_segment_that_is_gone_already_does_not_stop_retention() {
        let remove = |replica: &Replica| {
            let segment = replica.with(|p| p.log().sealed_segment_from(0)).unwrap();
            std::fs::remove_file(segment.path()).unwrap();
        };
        let (broker, replica, segments) = after_retention(remove);
        assert_eq!(segments, 2);
        assert!(!replica.is_offline() && broker.replicas.online().next().is_some());
    }

    #[test]
    fn a_chore_is_due_once_per_interval_and_at_once_when_it_never_was() {
        let mut last = None;
        assert!(due(&mut last, Duration::from_secs(3_600)));
        assert!(!due(&mut last, Duration::from_secs(3_600)));
        assert!(due(&mut last, Duration::ZERO));
    }

    #[test]
    fn the_configuration_tells_the_intervals() {
        let load = |pairs: &[(&str, &str)]| {
            let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            let overrides: Vec<_> = pairs.iter().map(own).collect();
            let (config, _) = ServerConfig::load(None, std::iter::empty(), &overrides).unwrap();
            Intervals::of(&config)
        };
        let unset = load(&[]);
        assert_eq!(unset.flushes, Duration::ZERO, "each round looks");
        assert_eq!(unset.expiry, Duration::from_secs(600));
        assert!(
            unset.shortest() >= TICK,
            "nothing is wanted more often than a tick"
        );
        let set = load(&[
            ("log.flush.scheduler.interval.ms", "200"),
            ("producer.id.expiration.check.interval.ms", "100"),
        ]);
        assert_eq!(set.flushes, Duration::from_millis(200));
        assert_eq!(set.shortest(), Duration::from_millis(100));
    }
}
