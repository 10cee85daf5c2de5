//! How large a run is: the real one, and the small one that only shows that everything works.

use crate::systems::System;

/// How much smaller the numbers of a smoke run are.
const SMOKE_DIVISOR: f64 = 50.0;
/// Bytes that a cluster writes before anything is measured, so that its page cache consists of used pages.
const RECYCLED_BYTES: u64 = 6 << 30;

/// How large a run is.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Seconds of a window.
    pub seconds: f64,
    /// Seconds before a window, for what needs little.
    pub warm_seconds: f64,
    /// Seconds before a window in a JVM.
    pub jvm_warm_seconds: f64,
    /// Bytes that a cluster writes first.
    pub recycled_bytes: u64,
    /// What rates, counts and sizes are divided by.
    pub divisor: f64,
}

impl Scale {
    /// The real run.
    pub fn full(seconds: f64, warm_seconds: f64, jvm_warm_seconds: f64) -> Self {
        Self {
            seconds,
            warm_seconds,
            jvm_warm_seconds,
            recycled_bytes: RECYCLED_BYTES,
            divisor: 1.0,
        }
    }

    /// The small run.
    pub fn smoke() -> Self {
        Self {
            seconds: 0.5,
            warm_seconds: 0.2,
            jvm_warm_seconds: 0.2,
            recycled_bytes: 8 << 20,
            divisor: SMOKE_DIVISOR,
        }
    }

    /// Seconds before a window of this system.
    pub fn warm_seconds_of(&self, system: System) -> f64 {
        if system.is_jvm() {
            self.jvm_warm_seconds
        } else {
            self.warm_seconds
        }
    }

    /// A rate at this scale.
    pub fn rate(&self, per_second: f64) -> f64 {
        per_second / self.divisor
    }

    /// A number at this scale, at least `least`.
    pub fn count(&self, count: u64, least: u64) -> u64 {
        ((count as f64 / self.divisor) as u64).max(least.min(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_is_small_and_never_empty() {
        let smoke = Scale::smoke();
        assert_eq!(smoke.count(9_800, 10), 196);
        assert_eq!(smoke.count(100, 10), 10);
        assert_eq!(smoke.count(3, 10), 3);
        assert_eq!(Scale::full(20.0, 5.0, 25.0).count(9_800, 10), 9_800);
    }

    #[test]
    fn a_jvm_has_a_warm_up_of_its_own() {
        let full = Scale::full(20.0, 5.0, 25.0);
        assert!(full.warm_seconds_of(System::KafkaTuned) == 25.0);
        assert!(full.warm_seconds_of(System::Odradek) == 5.0);
    }
}
