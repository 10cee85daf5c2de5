//! `log.cleaner.io.max.bytes.per.second`: what all threads together may read and write.

use std::time::{Duration, Instant};

/// The longest that one buffer is paid for.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// When the bytes that were moved so far are paid for. Time in which nothing moves earns nothing.
#[derive(Default)]
pub(super) struct Throttle {
    paid_at: Option<Instant>,
}

impl Throttle {
    /// How long whoever moved these bytes has to pause.
    pub(super) fn pause(&mut self, now: Instant, bytes: u64, per_second: f64) -> Duration {
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
    }
}
