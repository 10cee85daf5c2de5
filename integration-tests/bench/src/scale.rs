//! How large a run is: the real one, and the small one that only shows that everything works.

use crate::systems::System;

/// How much smaller the numbers of a smoke run are.
const SMOKE_DIVISOR: f64 = 50.0;
/// Turns of what has a guarantee and what has none, of the real run and of a smoke run, in which each of the two comes first once.
const TURNS: usize = 4;
const SMOKE_TURNS: usize = 2;
/// Several JVMs on the same cores take so many times longer until their hot code is compiled: after 25 s, three on two cores
/// spend more on compiling than on requests, and seem five times dearer than they are.
pub const JVM_CLUSTER_WARM_FACTOR: f64 = 4.0;
/// What a JVM is given at least, by the method.
pub const JVM_WARM_SECONDS_LEAST: f64 = 25.0;
/// Bytes that a cluster writes before anything is measured, so that its page cache consists of used pages.
const RECYCLED_BYTES: u64 = 6 << 30;
/// Bytes that are touched before anything starts, if there are so many. A page cache takes any page that is free, so nearly all of them
/// have to be; a machine with more is hardly a small virtual one.
const TOUCHED_BYTES: u64 = 32 << 30;

/// How large a run is.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Seconds of a window.
    pub seconds: f64,
    /// Seconds of load before a window.
    pub warm_seconds: f64,
    /// Seconds of the same load before that in a JVM, on data that is removed again.
    pub jvm_warm_seconds: f64,
    /// Bytes that a cluster writes first.
    pub recycled_bytes: u64,
    /// Bytes of memory that are touched before anything starts.
    pub touched_bytes: u64,
    /// What rates, counts and sizes are divided by.
    pub divisor: f64,
    /// Turns of what has a guarantee and what has none, where its cost is measured.
    pub turns: usize,
    /// Whether a workload begins when the files of the one before are gone, which takes most of the time where workloads are short.
    /// If not, all are waited for when a cluster has done its last.
    pub awaits_each_removal: bool,
}

impl Scale {
    /// The real run.
    pub fn full(seconds: f64, warm_seconds: f64, jvm_warm_seconds: f64) -> Self {
        Self {
            seconds,
            warm_seconds,
            jvm_warm_seconds,
            recycled_bytes: RECYCLED_BYTES,
            touched_bytes: TOUCHED_BYTES,
            divisor: 1.0,
            turns: TURNS,
            awaits_each_removal: true,
        }
    }

    /// The small run.
    pub fn smoke() -> Self {
        Self {
            seconds: 0.5,
            warm_seconds: 0.05,
            jvm_warm_seconds: 0.2,
            recycled_bytes: 8 << 20,
            touched_bytes: 0,
            divisor: SMOKE_DIVISOR,
            turns: SMOKE_TURNS,
            awaits_each_removal: false,
        }
    }

    /// For how long a system on so many nodes is to have a load before it is measured at all; none if it needs nothing of the kind.
    pub fn jvm_warm_seconds_of(&self, system: System, nodes: usize) -> Option<f64> {
        match (system.is_jvm(), nodes) {
            (false, _) => None,
            (true, 1) => Some(self.jvm_warm_seconds),
            (true, _) => Some(self.jvm_warm_seconds * JVM_CLUSTER_WARM_FACTOR),
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
        assert_eq!(full.jvm_warm_seconds_of(System::KafkaTuned, 1), Some(25.0));
        assert_eq!(full.jvm_warm_seconds_of(System::Kafka, 3), Some(100.0));
        assert_eq!(full.jvm_warm_seconds_of(System::Odradek, 3), None);
    }
}
