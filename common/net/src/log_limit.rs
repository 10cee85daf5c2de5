//! A bound on log lines that strangers can cause.
//!
//! Promises at most a fixed number of lines a second, and that the next line says how many were left out.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lines a second.
const LINES_PER_WINDOW: u32 = 10;
/// The length of the window.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts lines.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    window_start: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl LogLimit {
    /// Whether a line may be written now; the number is how many were left out since the last.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state
            .window_start
            .is_none_or(|start| now.saturating_duration_since(start) >= WINDOW)
        {
            state.window_start = Some(now);
            state.lines = 0;
        }
        if state.lines >= LINES_PER_WINDOW {
            state.left_out += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_admits_ten_lines_and_the_next_tells_how_many_were_left_out() {
        let limit = LogLimit::default();
        let start = Instant::now();
        let admitted = (0..25).filter(|_| limit.admit(start).is_some()).count();
        assert_eq!(admitted, 10);
        assert_eq!(limit.admit(start + WINDOW), Some(15));
        assert_eq!(limit.admit(start + WINDOW), Some(0));
    }
}
