//! What threads beside the serving path have in common: they are told to end while they sleep, and they share a rate of bytes.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The longest that one buffer is paid for.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Tells threads to end, and lets them sleep until then.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    is_set: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    /// Tells whoever sleeps or asks.
    pub(crate) fn set(&self) {
        *self.is_set.lock() = true;
        self.wake.notify_all();
    }

    /// Sleeps so long, or until it is set; true if it is.
    pub(crate) fn wait(&self, duration: Duration) -> bool {
        let deadline = Instant::now() + duration;
        let mut is_set = self.is_set.lock();
        while !*is_set {
            if self.wake.wait_until(&mut is_set, deadline).timed_out() {
                break;
            }
        }
        *is_set
    }
}

/// A thread that works until it is told to end.
pub(crate) struct Worker {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(name: &str, run: impl FnOnce(Arc<Stop>) + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Tells it to end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the panic hook.
            _ = thread.join();
        }
    }
}

/// When the bytes that were moved so far are paid for. Time in which nothing moves earns nothing.
#[derive(Default)]
pub(crate) struct Throttle {
    paid_at: Option<Instant>,
}

impl Throttle {
    /// How long whoever moved these bytes has to pause. As in Kafka a rate of 0 stands (all but) still, and one below 0 is no
    /// limit.
    pub(crate) fn pause(&mut self, now: Instant, bytes: u64, per_second: f64) -> Duration {
        if per_second < 0.0 {
            return Duration::ZERO;
        }
        let cost = Duration::try_from_secs_f64(bytes as f64 / per_second).unwrap_or(PAUSE_MAX);
        let from = self.paid_at.filter(|paid_at| *paid_at > now).unwrap_or(now);
        let pause = (from - now + cost).min(PAUSE_MAX);
        self.paid_at = Some(now + pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_is_woken_by_the_stop() {
        let stop = Arc::new(Stop::default());
        assert!(!stop.wait(Duration::ZERO));
        let sleeper = stop.clone();
        let thread = std::thread::spawn(move || sleeper.wait(Duration::from_secs(3_600)));
        stop.set();
        assert!(thread.join().unwrap() && stop.wait(Duration::ZERO));
    }

    #[test]
    fn bytes_take_their_time_whoever_moves_them() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        assert_eq!(throttle.pause(now, 500, 1_000.0), Duration::from_millis(500));
        assert_eq!(
            throttle.pause(now, 500, 1_000.0),
            Duration::from_secs(1),
            "a second thread comes after"
        );
        let later = now + Duration::from_secs(10);
        assert_eq!(
            throttle.pause(later, 250, 1_000.0),
            Duration::from_millis(250),
            "idleness earns nothing"
        );
    }

    #[test]
    fn without_a_limit_nobody_pauses_and_the_lowest_one_is_bearable() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.pause(Instant::now(), u64::MAX, f64::MAX), Duration::ZERO);
        assert_eq!(throttle.pause(Instant::now(), 1, f64::MIN_POSITIVE), PAUSE_MAX);
        assert_eq!(Throttle::default().pause(Instant::now(), 1, 0.0), PAUSE_MAX);
        assert_eq!(Throttle::default().pause(Instant::now(), 1, -1.0), Duration::ZERO);
    }
}
