//! Threads that move replicas between log directories, beside the serving path: turn by turn, at a bounded rate.
//!
//! `num.replica.alter.log.dirs.threads` of them, one for each log directory if that says nothing. Together they copy at most
//! `replica.alter.log.dirs.io.max.bytes.per.second`. What a turn does is the replica's affair.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::background::{Stop, Throttle};
use crate::broker::Broker;
use crate::replicas::moving::Turn;

/// Bytes that one replica copies before another gets its turn.
const TURN_BYTES: usize = 16 << 20;
/// What a step without records counts of that.
const STEP_BYTES_MIN: usize = 64 << 10;

/// A thread that pauses looks this often whether another rate is wanted.
const RATE_ASKED: Duration = Duration::from_millis(200);

/// The threads.
pub struct Mover {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    broker: Arc<Broker>,
    stop: Stop,
    paid: Mutex<Paid>,
}

/// What was copied at a rate, in bytes per second.
#[derive(Default)]
struct Paid {
    rate: i64,
    throttle: Throttle,
}

impl Mover {
    /// Starts them; a broker with a single log directory needs none.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(broker: Arc<Broker>) -> std::io::Result<Self> {
        let directories = broker.replicas.directories().len();
        let configured = broker.config.load().replica.alter_log_dirs_threads;
        let count = match configured {
            _ if directories < 2 => 0,
            Some(count) => count.max(1) as usize,
            None => directories,
        };
        let mut mover = Self {
            shared: Arc::new(Shared {
                broker,
                stop: Stop::default(),
                paid: Mutex::default(),
            }),
            threads: Vec::new(),
        };
        for index in 0..count {
            let shared = mover.shared.clone();
            let thread = std::thread::Builder::new().name(format!("mover-{index}"));
            mover.threads.push(thread.spawn(move || shared.run())?);
        }
        Ok(mover)
    }

    /// Ends the threads after the slice they are at. Copies that are not complete are begun anew by the next start.
    pub fn stop(&mut self) {
        self.shared.stop.set();
        self.shared.broker.replicas.moves().stop();
        for thread in self.threads.drain(..) {
            // A panic has been reported by the panic hook.
            _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let replicas = &self.broker.replicas;
        while let Some(replica) = replicas.moves().next() {
            let mut left = TURN_BYTES;
            while left > 0 {
                let copied = match replicas.advance_move(&replica) {
                    Turn::Over | Turn::AwaitsRecord => break,
                    Turn::Copied(bytes) => bytes,
                };
                if self.pay(copied) {
                    return;
                }
                left = left.saturating_sub(copied.max(STEP_BYTES_MIN));
            }
            if left == 0 {
                replicas.moves().add(replica);
            }
        }
    }

    /// Waits until what was copied is paid for; true if the threads are to end.
    fn pay(&self, bytes: usize) -> bool {
        let rate = || self.broker.config.load().replica.alter_log_dirs_bytes_per_second;
        let per_second = rate();
        let now = Instant::now();
        let until = now + self.paid.lock().pause(now, bytes as u64, per_second);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.stop.wait(left.min(RATE_ASKED)) {
                return true;
            }
            if left <= RATE_ASKED {
                return false;
            }
            if rate() != per_second {
                return false;
            }
        }
    }
}

impl Paid {
    fn pause(&mut self, now: Instant, bytes: u64, rate: i64) -> Duration {
        if self.rate != rate {
            // What is owed was counted at a rate that nobody wants any more.
            *self = Self {
                rate,
                throttle: Throttle::default(),
            };
        }
        self.throttle.pause(now, bytes, rate as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_at_another_rate_is_forgotten() {
        let (mut paid, now) = (Paid::default(), Instant::now());
        let long = paid.pause(now, 1_000_000, 1_000);
        assert!(long > Duration::from_secs(10), "{long:?}");
        assert!(
            paid.pause(now, 1, 1_000) > Duration::from_secs(10),
            "it is owed still"
        );
        let short = paid.pause(now, 1_000, 1_000_000_000);
        assert!(short < Duration::from_secs(1), "{short:?}");
    }
}
