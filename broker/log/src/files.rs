//! Open segment files of a log directory: a bounded cache, so that idle segments cost no descriptor.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

/// Log's number within the process, and the segment's base offset.
pub(crate) type FileKey = (u64, i64);

/// Read handles by segment; the one unused longest is closed first.
pub(crate) struct FileCache {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clock: u64,
    files: HashMap<FileKey, (u64, Arc<File>)>,
}

impl FileCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            state: Mutex::new(State::default()),
        }
    }

    /// The open file of a segment; opens `path` if it is not open yet.
    pub(crate) fn get(&self, key: FileKey, path: &Path) -> io::Result<Arc<File>> {
        {
            let mut state = self.state.lock();
            state.clock += 1;
            let clock = state.clock;
            if let Some((used, file)) = state.files.get_mut(&key) {
                *used = clock;
                return Ok(file.clone());
            }
        }
        // Opened outside of the lock: a slow disk must not stop readers of other segments.
        let file = Arc::new(File::open(path)?);
        let mut state = self.state.lock();
        while state.files.len() >= self.capacity {
            let oldest = state
                .files
                .iter()
                .min_by_key(|(_, (used, _))| *used)
                .map(|(key, _)| *key);
            state
                .files
                .remove(&oldest.expect("the cache is full, so it holds a file"));
        }
        let clock = state.clock;
        state.files.insert(key, (clock, file.clone()));
        Ok(file)
    }

    /// Forgets a segment's handle: its file was removed or replaced.
    pub(crate) fn forget(&self, key: FileKey) {
        self.state.lock().files.remove(&key);
    }

    /// Forgets every handle of a log.
    pub(crate) fn forget_log(&self, log: u64) {
        self.state.lock().files.retain(|key, _| key.0 != log);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.state.lock().files.len()
    }
}
