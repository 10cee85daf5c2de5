//! A global allocator that counts, for tests that hold a path to a number of allocations or of bytes.
//!
//! A test binary names it as its `#[global_allocator]` and wraps what it measures in [`count`]. Counts are of the calling
//! thread alone, so tests beside each other do not disturb one another. Memory that C libraries take is not seen.

mod counting_allocator;

pub use counting_allocator::CountingAllocator;

use std::cell::Cell;

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(Counts::ZERO) };
}

/// What one thread asked of the allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Calls that may have returned new memory: alloc, alloc_zeroed, realloc.
    pub allocations: u64,
    /// Bytes held at the end more than at the beginning; negative if more was freed.
    pub held_bytes: i64,
    /// Most bytes held at any time more than at the beginning.
    pub peak_bytes: i64,
}

impl Counts {
    const ZERO: Counts = Counts {
        allocations: 0,
        held_bytes: 0,
        peak_bytes: 0,
    };

    fn grown(mut self, bytes: i64) -> Counts {
        self.held_bytes += bytes;
        self.peak_bytes = self.peak_bytes.max(self.held_bytes);
        self
    }
}

/// Runs `work` and says what this thread allocated in it. Not for use within itself.
pub fn count<R>(work: impl FnOnce() -> R) -> (R, Counts) {
    COUNTS.set(Counts::ZERO);
    let result = work();
    (result, COUNTS.get())
}

/// A thread on its way out has no counts any more, and needs none.
fn note(change: impl FnOnce(Counts) -> Counts) {
    let _ = COUNTS.try_with(|counts| counts.set(change(counts.get())));
}
