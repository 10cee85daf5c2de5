//! Scrubbing of this broker's logs, on a thread of its own: sealed segments are read again, at a bounded rate, and one that is
//! damaged is replaced by what another replica has.
//!
//! A pass goes over all logs, segment by segment, and begins again after `odradek.log.scrub.interval.ms`; what compaction finds
//! corrupt is checked before anything else. How a segment is checked and replaced is the log's affair; what is damaged is not
//! served meanwhile. Without another replica the file stays as it is: the log says so once.

mod healing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use odradek_broker_log::compact::Go;
use odradek_broker_log::error::LogError;
use odradek_broker_log::scrub::{Damage, Finding, SealedSegment};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::background::{Stop, Throttle, Worker};
use crate::broker::Broker;
use crate::replica::Replica;

/// How often it is looked whether a pass is due.
const TICK: Duration = Duration::from_secs(1);
/// How often it is looked for logs that can be healed.
const HEALING_INTERVAL: Duration = Duration::from_secs(5);
/// How long a log that could not be healed is left alone at first,
const BACKOFF_MIN: Duration = Duration::from_secs(60);
/// and at most, twice as long each time.
const BACKOFF_MAX: Duration = Duration::from_secs(3_600);

/// The thread.
pub struct Scrubber(Worker);

impl Scrubber {
    /// Starts it; requests to other brokers are made on `runtime`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(broker: Arc<Broker>, runtime: Handle) -> std::io::Result<Self> {
        let worker = Worker::start("scrubber", move |stop| {
            let rounds = Rounds {
                broker,
                runtime,
                stop,
                throttle: Mutex::default(),
                backoffs: Mutex::default(),
            };
            rounds.run();
        })?;
        Ok(Self(worker))
    }

    /// Ends the thread after the piece, or the request, that it is at. What was fetched of a damaged segment is dropped.
    pub fn stop(&mut self) {
        self.0.stop();
    }
}

struct Rounds {
    broker: Arc<Broker>,
    runtime: Handle,
    stop: Arc<Stop>,
    throttle: Mutex<Throttle>,
    /// Of logs that could not be healed, by topic id and partition.
    backoffs: Mutex<HashMap<(Uuid, i32), Backoff>>,
}

/// How long a log that could not be healed is left alone: what is fetched in vain costs the others as much as what is not.
#[derive(Clone, Copy, Debug)]
struct Backoff {
    pause: Duration,
    since: Instant,
}

impl Backoff {
    fn after(before: Option<Self>, now: Instant) -> Self {
        let pause = before.map_or(BACKOFF_MIN, |before| (before.pause * 2).min(BACKOFF_MAX));
        Self { pause, since: now }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.pause
    }
}

/// What became of an attempt to heal a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// Nothing can be replaced now, nobody can be asked, or this broker stops.
    NotMade,
    Healed,
    Failed,
}

/// Why a segment is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    /// It is its turn.
    Pass,
    /// Compaction found it corrupt.
    Suspicion,
}

impl Rounds {
    fn run(&self) {
        let delay_ms = self.broker.config.load().log.initial_task_delay_ms;
        let mut pause = Duration::from_millis(u64::try_from(delay_ms).unwrap_or(0));
        let (mut passed, mut healed): (Option<Instant>, Option<Instant>) = (None, None);
        while !self.stop.wait(pause) {
            pause = TICK;
            let config = self.broker.config.load_full();
            let settings = &config.odradek;
            let interval = Duration::from_millis(u64::try_from(settings.scrub_interval_ms).unwrap_or(0));
            if settings.scrub_bytes_per_second > 0 && is_due(&mut passed, interval) {
                self.pass(&mut healed);
            }
            self.check_suspects(&mut healed);
            self.heal_all(&mut healed);
        }
    }

    /// Checks all there is.
    fn pass(&self, healed: &mut Option<Instant>) {
        for replica in self.broker.replicas.all().iter() {
            let mut from = i64::MIN;
            while !replica.is_offline() && !self.stop.wait(Duration::ZERO) {
                let Some(segment) = replica.with(|p| p.log().sealed_segment_from(from)) else {
                    break;
                };
                from = segment.base_offset() + 1;
                self.look_at(replica, &segment, Occasion::Pass, healed);
                self.check_suspects(healed);
                self.heal_all(healed);
            }
        }
    }

    /// Checks what compaction has found corrupt since the last time, also while the checks are switched off: until it is known
    /// to be damaged it is served.
    fn check_suspects(&self, healed: &mut Option<Instant>) {
        for (replica, base_offset) in self.broker.cleaning.take_suspects() {
            if replica.is_offline() || self.stop.wait(Duration::ZERO) {
                continue;
            }
            let segment = replica.with(|p| p.log().suspected_segment(base_offset));
            if let Some(segment) = segment {
                self.look_at(&replica, &segment, Occasion::Suspicion, healed);
            }
        }
    }

    /// Checks one segment; if it is damaged, healing is due.
    fn look_at(
        &self,
        replica: &Arc<Replica>,
        segment: &SealedSegment,
        occasion: Occasion,
        healed: &mut Option<Instant>,
    ) {
        match self.check(replica, segment, occasion) {
            Ok(None) => {}
            Ok(Some(damage)) => {
                self.report(replica, segment, &damage);
                *healed = None;
            }
            Err(error) => self.broker.replicas.log_failed(replica, &error),
        }
    }

    /// Damage that is news.
    fn check(
        &self,
        replica: &Replica,
        segment: &SealedSegment,
        occasion: Occasion,
    ) -> Result<Option<Damage>, LogError> {
        let mut pace = |bytes| self.pace(replica, bytes, occasion);
        let mut finding = segment.check(&mut pace)?;
        if matches!(finding, Finding::Damaged(_)) {
            // What is wrong was perhaps only read wrongly.
            finding = segment.check(&mut pace)?;
        }
        replica.with(|p| p.log_mut().note_finding(segment, finding))
    }

    fn pace(&self, replica: &Replica, bytes: u64, occasion: Occasion) -> Go {
        self.broker.metrics.scrubbed.increment(bytes);
        let is_switched_off = self.broker.config.load().odradek.scrub_bytes_per_second <= 0;
        if is_switched_off && occasion == Occasion::Pass {
            return Go::Stop;
        }
        self.pay(replica, bytes)
    }

    /// Sleeps until bytes that were moved are paid for.
    fn pay(&self, replica: &Replica, bytes: u64) -> Go {
        let per_second = self.broker.config.load().odradek.scrub_bytes_per_second;
        // Damage that is known or suspected is seen to although the checks are switched off.
        let per_second = if per_second > 0 { per_second } else { i64::MAX };
        let mut throttle = self.throttle.lock();
        let pause = throttle.pause(Instant::now(), bytes, per_second as f64);
        drop(throttle);
        if self.stop.wait(pause) || replica.is_offline() {
            Go::Stop
        } else {
            Go::On
        }
    }

    fn report(&self, replica: &Replica, segment: &SealedSegment, damage: &Damage) {
        let remedy = if replica.image().replicas.len() > 1 {
            "it is fetched anew from another replica"
        } else {
            "there is no other replica to fetch it from: the file is kept, and what is damaged of it is not served"
        };
        slog::error!(self.broker.log, "a sealed segment is damaged"; "partition" => %replica.id,
            "file" => %segment.path().display(), "damage" => &damage.detail,
            "from_offset" => damage.offsets.start, "to_offset" => damage.offsets.end, "remedy" => remedy);
    }

    /// Replaces what is damaged and can be replaced, if it is time for that.
    fn heal_all(&self, healed: &mut Option<Instant>) {
        if !is_due(healed, HEALING_INTERVAL) {
            return;
        }
        // Of partitions that are gone nothing is kept.
        let mut before = std::mem::take(&mut *self.backoffs.lock());
        for replica in self.broker.replicas.all().iter() {
            if self.stop.wait(Duration::ZERO) {
                return;
            }
            if !replica.is_offline() && replica.with(|p| p.log().damaged_segments()) > 0 {
                let before = before.remove(&(replica.topic_id, replica.id.partition));
                self.heal_unless(replica, before, |replica| {
                    self.runtime.block_on(self.heal(replica))
                });
            }
        }
    }

    /// Heals a log, unless it is left alone after the attempts before.
    fn heal_unless(
        &self,
        replica: &Arc<Replica>,
        before: Option<Backoff>,
        heal: impl FnOnce(&Arc<Replica>) -> Attempt,
    ) {
        let waits = before.filter(|before| !before.is_over(Instant::now()));
        let failed = || (heal(replica) == Attempt::Failed).then(|| Backoff::after(before, Instant::now()));
        if let Some(backoff) = waits.or_else(failed) {
            let id = (replica.topic_id, replica.id.partition);
            self.backoffs.lock().insert(id, backoff);
        }
    }
}

/// True once per interval, and at first.
fn is_due(last: &mut Option<Instant>, interval: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= interval);
    if due {
        *last = Some(Instant::now());
    }
    due
}
