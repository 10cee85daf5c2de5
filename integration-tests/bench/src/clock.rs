//! One monotonic clock for everything that is measured: nanoseconds since the program first asked.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nanoseconds since the program's first look at the clock.
pub type Nanos = u64;

/// Nanoseconds of a second.
pub const SECOND: Nanos = 1_000_000_000;
/// Nanoseconds of a millisecond.
pub const MILLISECOND: Nanos = 1_000_000;

/// Now.
pub fn now() -> Nanos {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).expect("no run lasts 500 years")
}

/// Sleeps until `at`; does nothing if that is past.
pub fn sleep_until(at: Nanos) {
    let left = at.saturating_sub(now());
    if left > 0 {
        std::thread::sleep(Duration::from_nanos(left));
    }
}

/// Seconds as nanoseconds.
pub fn seconds(seconds: f64) -> Nanos {
    (seconds * SECOND as f64) as Nanos
}

/// Milliseconds between two readings.
pub fn milliseconds_between(from: Nanos, to: Nanos) -> f64 {
    to.saturating_sub(from) as f64 / MILLISECOND as f64
}
