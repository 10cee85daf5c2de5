//! When requests are due, and which of them count.
//!
//! Open loop: the due times are fixed before the first request and do not wait for answers, so a system that stalls is
//! charged for every request that should have been sent meanwhile (no coordinated omission).

use crate::clock::Nanos;

/// The part of a run that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its start.
    pub from: Nanos,
    /// Its end; no request is due from then on.
    pub to: Nanos,
}

impl Window {
    /// A window that starts at `from`.
    pub fn new(from: Nanos, length: Nanos) -> Self {
        Self {
            from,
            to: from + length,
        }
    }

    /// Whether a moment counts.
    pub fn contains(&self, at: Nanos) -> bool {
        (self.from..self.to).contains(&at)
    }
}

/// When the requests of one connection are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As soon as the connection may have one more unanswered.
    Saturated,
    /// At fixed times.
    OpenLoop {
        /// When the first is due.
        start: Nanos,
        /// Nanoseconds between two.
        period: f64,
        /// How many were taken.
        taken: u64,
    },
}

impl Pace {
    /// One request each `period` nanoseconds from `start` on.
    pub fn open_loop(start: Nanos, period: f64) -> Self {
        Self::OpenLoop {
            start,
            period,
            taken: 0,
        }
    }

    /// When the next request is due; `now` if nothing but answers is waited for.
    pub fn next_due(&self, now: Nanos) -> Nanos {
        match *self {
            Self::Saturated => now,
            // From the count rather than from the last time, so that rounding never adds up.
            Self::OpenLoop { start, period, taken } => start + (taken as f64 * period) as Nanos,
        }
    }

    /// Takes the request that is due at [`Pace::next_due`].
    pub fn take(&mut self) {
        if let Self::OpenLoop { taken, .. } = self {
            *taken += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    #[test]
    fn due_times_do_not_drift_and_do_not_wait() {
        let mut pace = Pace::open_loop(SECOND, SECOND as f64 / 3.0);
        for _ in 0..3_000_000 {
            pace.take();
        }
        let due = pace.next_due(0);
        assert!(due.abs_diff(SECOND + 1_000_000 * SECOND) < 1_000, "{due}");
    }

    #[test]
    fn saturated_is_due_at_once() {
        let mut pace = Pace::Saturated;
        pace.take();
        assert_eq!(pace.next_due(42), 42);
    }

    #[test]
    fn the_window_ends_before_its_end() {
        let window = Window::new(10, 5);
        assert!(window.contains(10) && window.contains(14));
        assert!(!window.contains(9) && !window.contains(15));
    }
}
