//! Scrubbing of this broker's logs, on a thread of its own: sealed segments are read again, at a bounded rate, and one that is
//! damaged is replaced by what another replica has.
//!
//! A pass goes over all logs, segment by segment, and begins again after `odradek.log.scrub.interval.ms`. How a segment is
//! checked and replaced is the log's affair; what is damaged is not served meanwhile. Without another replica the file stays as
//! it is: the log says so once.

mod healing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use odradek_broker_log::compact::Go;
use odradek_broker_log::error::LogError;
use odradek_broker_log::scrub::{Damage, Finding, SealedSegment};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::background::{Stop, Throttle, Worker};
use crate::broker::Broker;
use crate::replica::Replica;

/// How often it is looked whether a pass is due.
const TICK: Duration = Duration::from_secs(1);
/// How long a damaged segment that could not be replaced is left alone.
const HEALING_INTERVAL: Duration = Duration::from_secs(5);

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
                match self.check(replica, &segment) {
                    Ok(None) => {}
                    Ok(Some(damage)) => {
                        self.report(replica, &segment, &damage);
                        *healed = None;
                    }
                    Err(error) => self.broker.replicas.log_failed(replica, &error),
                }
                self.heal_all(healed);
            }
        }
    }

    /// Damage that is news.
    fn check(&self, replica: &Replica, segment: &SealedSegment) -> Result<Option<Damage>, LogError> {
        let mut pace = |bytes| self.pace(replica, bytes);
        let mut finding = segment.check(&mut pace)?;
        if matches!(finding, Finding::Damaged(_)) {
            // What is wrong was perhaps only read wrongly.
            finding = segment.check(&mut pace)?;
        }
        replica.with(|p| p.log_mut().note_finding(segment, finding))
    }

    fn pace(&self, replica: &Replica, bytes: u64) -> Go {
        self.broker.metrics.scrubbed.increment(bytes);
        let per_second = self.broker.config.load().odradek.scrub_bytes_per_second;
        if per_second <= 0 {
            // Switched off meanwhile.
            return Go::Stop;
        }
        self.pay(replica, bytes, per_second)
    }

    /// Sleeps until bytes that were moved are paid for.
    fn pay(&self, replica: &Replica, bytes: u64, per_second: i64) -> Go {
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
        for replica in self.broker.replicas.all().iter() {
            if self.stop.wait(Duration::ZERO) {
                return;
            }
            if !replica.is_offline() && replica.with(|p| p.log().damaged_segments()) > 0 {
                self.runtime.block_on(self.heal(replica));
            }
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
