//! Latencies as HdrHistograms: recorded in nanoseconds with three digits, merged, read as milliseconds.

use hdrhistogram::Histogram;

use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::metric::{Figures, Metric};

/// Longer latencies count as this one.
const LATENCY_MAX: Nanos = 120 * SECOND;
/// Fewer latencies beyond a percentile say nothing about it.
const BEYOND_LEAST: u64 = 10;
/// Decimal digits that are kept of a latency.
const DIGITS: u8 = 3;

/// A distribution of latencies.
#[derive(Debug, Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Latencies {
    /// None yet.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX, DIGITS).expect("the bounds are in order");
        Self { histogram }
    }

    /// Adds what began at `from` and ended at `to`.
    pub fn record(&mut self, from: Nanos, to: Nanos) {
        self.histogram.saturating_record(to.saturating_sub(from).max(1));
    }

    /// Adds all of another distribution.
    pub fn merge(&mut self, other: &Self) {
        self.histogram
            .add(&other.histogram)
            .expect("all histograms have the same bounds");
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The latency that this percentage stays below, in milliseconds.
    pub fn percentile_ms(&self, percentage: f64) -> f64 {
        self.histogram.value_at_percentile(percentage) as f64 / MILLISECOND as f64
    }

    /// The percentiles that tables show, as far as enough was recorded beyond them; none if nothing was recorded.
    pub fn add_to(&self, figures: &mut Figures) {
        if self.count() == 0 {
            return;
        }
        figures.set(Metric::P50, self.percentile_ms(50.0));
        // Each with the thousandths that lie beyond it.
        let percentiles = [
            (Metric::P90, 90.0, 100),
            (Metric::P99, 99.0, 10),
            (Metric::P999, 99.9, 1),
        ];
        for (metric, percentage, thousandths) in percentiles {
            if self.count() * thousandths / 1000 >= BEYOND_LEAST {
                figures.set(metric, self.percentile_ms(percentage));
            }
        }
        figures.set(Metric::Max, self.histogram.max() as f64 / MILLISECOND as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::new();
        for ms in 1..=1000 {
            latencies.record(0, ms * MILLISECOND);
        }
        assert!((latencies.percentile_ms(50.0) - 500.0).abs() < 1.0);
        assert!((latencies.percentile_ms(99.9) - 999.0).abs() < 2.0);
    }

    #[test]
    fn a_percentile_needs_ten_that_lie_beyond_it() {
        let shown = |count: u64| {
            let mut latencies = Latencies::new();
            (0..count).for_each(|_| latencies.record(0, MILLISECOND));
            let mut figures = Figures::default();
            latencies.add_to(&mut figures);
            figures.metrics().collect::<Vec<_>>()
        };
        assert_eq!(shown(99), [Metric::P50, Metric::Max]);
        assert_eq!(shown(100), [Metric::P50, Metric::P90, Metric::Max]);
        assert_eq!(shown(999), [Metric::P50, Metric::P90, Metric::Max]);
        let most = [Metric::P50, Metric::P90, Metric::P99, Metric::Max];
        assert_eq!((shown(1_000), shown(9_999)), (most.to_vec(), most.to_vec()));
        assert!(shown(10_000).contains(&Metric::P999));
    }

    #[test]
    fn a_merge_holds_both() {
        let (mut low, mut high) = (Latencies::new(), Latencies::new());
        for _ in 0..99 {
            low.record(0, MILLISECOND);
        }
        high.record(0, 100 * MILLISECOND);
        low.merge(&high);
        assert_eq!(low.count(), 100);
        assert!((low.percentile_ms(99.0) - 1.0).abs() < 0.01);
        assert!((low.percentile_ms(100.0) - 100.0).abs() < 0.2);
    }

    #[test]
    fn what_lasts_for_ever_counts_as_the_longest() {
        let mut latencies = Latencies::new();
        latencies.record(0, 2 * LATENCY_MAX);
        assert_eq!(latencies.count(), 1);
        assert!(latencies.percentile_ms(100.0) >= 119_000.0);
    }
}
