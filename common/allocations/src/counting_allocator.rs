//! The allocator itself, which must be `unsafe` by the nature of the trait: the system's, with a note of each call.

use std::alloc::{GlobalAlloc, Layout, System};

use crate::{Counts, note};

/// Counts what each thread asks of the system's allocator.
#[derive(Debug)]
pub struct CountingAllocator;

// SAFETY: every call goes to `System` with the arguments it came with; what is added touches a `Cell` of the thread, which
// has no destructor and is initialised without an allocation.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(|counts| allocated(counts, layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(|counts| allocated(counts, layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, bytes: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(|counts| allocated(counts, new_size).grown(-(layout.size() as i64)));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(bytes, layout, new_size) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        note(|counts| counts.grown(-(layout.size() as i64)));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(bytes, layout) }
    }
}

fn allocated(mut counts: Counts, bytes: usize) -> Counts {
    counts.allocations += 1;
    counts.grown(bytes as i64)
}
