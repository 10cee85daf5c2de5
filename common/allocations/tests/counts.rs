//! The counts agree with what was done.

use std::hint::black_box;

use odradek_allocations::{CountingAllocator, count};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn allocations_growth_and_peak_are_counted() {
    let (kept, counts) = count(|| {
        drop(black_box(vec![0u8; 1000]));
        let mut kept: Vec<u8> = black_box(Vec::with_capacity(10));
        kept.reserve_exact(100);
        kept
    });
    assert_eq!(
        (counts.allocations, counts.held_bytes),
        (3, kept.capacity() as i64)
    );
    assert!((1000..1200).contains(&counts.peak_bytes), "{counts:?}");
    let ((), counts) = count(|| drop(kept));
    assert_eq!((counts.allocations, counts.held_bytes), (0, -100));
}

#[test]
fn other_threads_do_not_count() {
    let ((), counts) = count(|| {
        black_box(&1);
    });
    assert_eq!(counts.allocations, 0);
    let (handle, mine) = count(|| std::thread::spawn(|| drop(black_box(vec![0u8; 1 << 20]))));
    handle.join().expect("the thread does nothing that fails");
    assert!(mine.peak_bytes < 1 << 20, "{mine:?}");
}
