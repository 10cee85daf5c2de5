//! Time as a value: shells read the clocks, cores are told.

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Milliseconds of a clock that never goes back; for timeouts.
    pub mono_ms: u64,
    /// Milliseconds since 1970-01-01 UTC; for record timestamps and retention.
    pub wall_ms: i64,
}

impl Now {
    /// Both clocks at these readings.
    #[must_use]
    pub fn new(mono_ms: u64, wall_ms: i64) -> Self {
        Self { mono_ms, wall_ms }
    }

    /// This reading, `ms` later on both clocks.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self {
            mono_ms: self.mono_ms + ms,
            wall_ms: self.wall_ms + i64::try_from(ms).unwrap_or(i64::MAX),
        }
    }
}
