//! Open segment files of a log directory: a bounded cache, so that a partition that nobody uses costs no descriptor.
//!
//! It owns the handles for reading and those for appending. A segment that is appended to keeps a weak reference to its own,
//! so an append looks nothing up and takes no lock that other partitions want. The hand of a clock decides who goes: it
//! closes what was not used since it last came by. Closing a file loses nothing: a later flush opens it again, and the
//! kernel tells a failed write-back to a handle that is newer than the failure.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Log's number within the process, and the segment's base offset.
pub(crate) type FileKey = (u64, i64);

/// What a handle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading alone.
    Read,
    /// Reading and appending.
    Append,
}

/// An open segment file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// The file; who reads or flushes it later holds it open.
    pub(crate) file: Arc<File>,
    access: Access,
    /// Set by each use, cleared by the hand.
    used: AtomicBool,
}

impl OpenFile {
    fn new(file: File, access: Access) -> Arc<Self> {
        Arc::new(Self {
            file: Arc::new(file),
            access,
            used: AtomicBool::new(false),
        })
    }

    /// Keeps the hand from closing it the next time it comes by.
    pub(crate) fn touch(&self) {
        // Reading first leaves the cache line shared while nothing changes.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}

/// Handles by segment.
pub(crate) struct FileCache {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    places: HashMap<FileKey, usize>,
    slots: Vec<Option<(FileKey, Arc<OpenFile>)>>,
    free: Vec<usize>,
    hand: usize,
}

impl FileCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            state: Mutex::new(State::default()),
        }
    }

    /// The open file of a segment; opens `path` if it is not open for that yet.
    pub(crate) fn get(&self, key: FileKey, access: Access, path: &Path) -> io::Result<Arc<OpenFile>> {
        if let Some(open) = self.state.lock().get(key, access) {
            return Ok(open);
        }
        // Opened outside of the lock: a slow disk must not stop users of other segments.
        let writable = access == Access::Append;
        let file = OpenOptions::new().read(true).write(writable).open(path)?;
        Ok(self.insert(key, access, file))
    }

    /// Takes a file over that was just opened or created.
    pub(crate) fn insert(&self, key: FileKey, access: Access, file: File) -> Arc<OpenFile> {
        let open = OpenFile::new(file, access);
        // Closed after the lock is gone.
        let _closed = self.state.lock().insert(key, open.clone(), self.capacity);
        open
    }

    /// Closes what was not used since the last call, or since the hand came by.
    pub(crate) fn close_unused(&self) {
        let closed = self.state.lock().take_unused();
        drop(closed);
    }

    /// Forgets a segment's handle: its file was removed or replaced.
    pub(crate) fn forget(&self, key: FileKey) {
        let closed = self.state.lock().remove(key);
        drop(closed);
    }

    /// Forgets the handles of a log's segments.
    pub(crate) fn forget_log(&self, log: u64, base_offsets: impl IntoIterator<Item = i64>) {
        let mut state = self.state.lock();
        let closed: Vec<_> = base_offsets
            .into_iter()
            .filter_map(|base_offset| state.remove((log, base_offset)))
            .collect();
        drop(state);
        drop(closed);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.state.lock().places.len()
    }
}

impl State {
    fn get(&self, key: FileKey, access: Access) -> Option<Arc<OpenFile>> {
        let (_, open) = self.slots[*self.places.get(&key)?].as_ref()?;
        if access == Access::Append && open.access == Access::Read {
            return None;
        }
        open.touch();
        Some(open.clone())
    }

    /// Returns a handle that had to make room.
    fn insert(&mut self, key: FileKey, open: Arc<OpenFile>, capacity: usize) -> Option<Arc<OpenFile>> {
        let mut closed = self.remove(key);
        if self.places.len() >= capacity {
            closed = self.evict();
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[slot] = Some((key, open));
        self.places.insert(key, slot);
        closed
    }

    /// Moves the hand to a handle that was not used since it last came by.
    fn evict(&mut self) -> Option<Arc<OpenFile>> {
        // The second time around every mark is gone.
        for _ in 0..2 * self.slots.len() {
            self.hand = (self.hand + 1) % self.slots.len();
            if let Some((key, open)) = &self.slots[self.hand]
                && !open.used.swap(false, Ordering::Relaxed)
            {
                return self.remove(*key);
            }
        }
        None
    }

    fn take_unused(&mut self) -> Vec<Arc<OpenFile>> {
        let unused = |(key, open): &(FileKey, Arc<OpenFile>)| {
            (!open.used.swap(false, Ordering::Relaxed)).then_some(*key)
        };
        let keys: Vec<_> = self.slots.iter().flatten().filter_map(unused).collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    fn remove(&mut self, key: FileKey) -> Option<Arc<OpenFile>> {
        let slot = self.places.remove(&key)?;
        self.free.push(slot);
        self.slots[slot].take().map(|(_, open)| open)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn cache_with(capacity: usize, segments: i64) -> (tempfile::TempDir, FileCache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = FileCache::new(capacity);
        for segment in 0..segments {
            fs::write(directory.path().join(segment.to_string()), b"").unwrap();
        }
        (directory, cache)
    }

    #[test]
    fn what_is_in_use_outlives_what_is_not() {
        let (directory, cache) = cache_with(4, 100);
        let open = |segment: i64| {
            let path = directory.path().join(segment.to_string());
            cache.get((1, segment), Access::Append, &path).unwrap()
        };
        let hot = Arc::downgrade(&open(0));
        for segment in 1..100 {
            hot.upgrade().expect("it is used each time").touch();
            let cold = Arc::downgrade(&open(segment));
            assert!(cold.upgrade().is_some(), "the newest is open");
            assert!(cache.len() <= 4);
        }
        hot.upgrade().expect("it was used last").touch();
        cache.close_unused();
        assert_eq!(cache.len(), 1, "used since the hand came by");
        cache.close_unused();
        assert_eq!(cache.len(), 0, "unused from one call to the next");
        assert!(hot.upgrade().is_none());
    }

    #[test]
    fn a_handle_for_reading_is_not_appended_to() {
        let (directory, cache) = cache_with(4, 1);
        let path = directory.path().join("0");
        let read = cache.get((1, 0), Access::Read, &path).unwrap();
        let append = cache.get((1, 0), Access::Append, &path).unwrap();
        assert!(!Arc::ptr_eq(&read, &append));
        let again = cache.get((1, 0), Access::Read, &path).unwrap();
        assert!(Arc::ptr_eq(&again, &append), "which serves readers as well");
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_log_s_handles_are_forgotten_with_it() {
        let (directory, cache) = cache_with(8, 4);
        for segment in 0..4 {
            let path = directory.path().join(segment.to_string());
            cache
                .get((segment as u64 % 2, segment), Access::Read, &path)
                .unwrap();
        }
        cache.forget_log(1, [1, 3, 5]);
        assert_eq!(cache.len(), 2);
        cache.forget((0, 2));
        assert_eq!(cache.len(), 1);
    }
}
