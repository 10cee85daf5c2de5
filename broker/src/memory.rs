//! What the process asks of its allocators, so that memory follows what is in use and does not grow with time.
//!
//! Rust allocates by mimalloc. RocksDB and the codecs of batches, which are C and C++, allocate by the C library, whose habits suit
//! programs that allocate much in many threads. RocksDB allocates little, in large pieces, in whatever thread happens to write,
//! and frees them in another one. (A batch that is compressed anew has its codec's memory mapped for it alone.)

/// Freed pieces of at least this size go back to the system at once; RocksDB's are of 64 KiB and more.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MMAP_BYTES_MIN: libc::c_int = 64 << 10;
/// So much free memory at the end of the C library's heap goes back too.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIM_BYTES: libc::c_int = 128 << 10;

/// To be called before other threads allocate.
pub fn settle() {
    // What is allocated lies far apart: huge pages hold next to nothing, and the kernel makes more of them whenever it has time, so
    // that a process that does nothing new grows. An old kernel that knows no such wish costs memory alone.
    _ = rustix::thread::disable_transparent_huge_pages(true);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        // One heap: pieces that one thread freed serve all others.
        (libc::M_ARENA_MAX, 1),
        // Unless it is set, the least piece that is given back grows to the size of any that was freed, and those stay.
        (libc::M_MMAP_THRESHOLD, MMAP_BYTES_MIN),
        (libc::M_TRIM_THRESHOLD, TRIM_BYTES),
    ] {
        // SAFETY: mallopt(3) sets a parameter of the C library's allocator and touches no memory of ours.
        let _refused_costs_memory_alone = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives back whole pages that are free within the C library's heap.
pub(crate) fn trim() {
    // SAFETY: malloc_trim(3) gives free pages back; whatever is allocated stays where it is.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    let _gave_back_some = unsafe { libc::malloc_trim(0) };
}
