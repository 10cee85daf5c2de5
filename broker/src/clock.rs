//! The process's clocks, read in shells alone.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use odradek_common::time::Now;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Both clocks, now.
#[must_use]
pub fn now() -> Now {
    Now {
        mono_ms: mono_ms(),
        wall_ms: wall_ms(),
    }
}

/// Milliseconds since the process started; never goes back. Starts at 1 day, so that "long ago" can be expressed.
#[must_use]
pub fn mono_ms() -> u64 {
    const DAY_MS: u64 = 86_400_000;
    DAY_MS + u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX - DAY_MS)
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
