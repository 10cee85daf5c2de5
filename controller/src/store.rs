//! The durable half of the quorum: entries, term and vote, and the newest snapshot, in one RocksDB.
//!
//! It promises that what `persist` returned from survives a crash of the machine if it was asked to, all of it or none. It
//! blocks: its caller is the quorum's own thread. RocksDB's memory is kept small, because everything here is read once.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use odradek_controller_core::quorum::{Persist, RestoredState, StoredSnapshot};
use rocksdb::{DB, DBRecoveryMode, IteratorMode, Options, WriteBatch, WriteOptions};

/// The directory of the quorum inside `metadata.log.dir`, as Kafka names it.
pub const DIRECTORY: &str = "__cluster_metadata-0";

const FORMAT: &[u8] = b"1";
const KEY_FORMAT: &[u8] = b"format";
const KEY_HARD_STATE: &[u8] = b"hard-state";
const KEY_SNAPSHOT: &[u8] = b"snapshot";
const KEY_SNAPSHOT_DATA: &[u8] = b"snapshot-data";
/// Entries are `e` and the index, big-endian, so that they lie in order.
const ENTRY_PREFIX: u8 = b'e';
const ENTRY_KEY_BYTES: usize = 9;

const WRITE_BUFFER_BYTES: usize = 1 << 20;
const WAL_BYTES_MAX: u64 = 64 << 20;
const OPEN_FILES_MAX: i32 = 32;
const SNAPSHOT_HEADER_BYTES: usize = 16;
/// How RocksDB, which keeps no error number, passes ENOSPC on. After EDQUOT it writes nothing until it is opened anew.
const NO_ROOM_WORDS: &str = "No space left";

/// Why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "the metadata log in {directory} is in use by another process: stop that process, or give this node its own metadata.log.dir"
    )]
    InUse {
        /// The store's directory.
        directory: PathBuf,
    },
    /// RocksDB fails.
    #[error("cannot {what} the metadata log in {directory}")]
    Rocks {
        /// What was attempted.
        what: &'static str,
        /// The store's directory.
        directory: PathBuf,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
    /// What is stored is not what was written.
    #[error(
        "the metadata log in {directory} is damaged ({what}): restore the directory from a backup, or remove this voter from the quorum and let it join again with an empty directory"
    )]
    Damaged {
        /// The store's directory.
        directory: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl StoreError {
    /// Whether the disk has no room left: the same write may be tried again once there is some.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        match self {
            Self::Rocks { source, .. } => says_no_room(source.kind(), source.as_ref()),
            Self::InUse { .. } | Self::Damaged { .. } => false,
        }
    }
}

/// The open store.
pub struct QuorumStore {
    db: DB,
    directory: PathBuf,
    /// Index after the last stored entry; 0 if there is none.
    end: u64,
}

/// What the store held.
pub struct Restored {
    /// For the quorum core.
    pub state: RestoredState,
    /// The state machine's part of the snapshot, if there is one.
    pub snapshot: Option<StoredSnapshot>,
}

impl QuorumStore {
    /// Whether a metadata log was ever begun there.
    #[must_use]
    pub fn exists(metadata_log_dir: &Path) -> bool {
        metadata_log_dir.join(DIRECTORY).join("CURRENT").exists()
    }

    /// Opens the store in `metadata.log.dir`, making it if there is none.
    ///
    /// # Errors
    /// Another process has it, the disk fails, or it is damaged.
    pub fn open(metadata_log_dir: &Path) -> Result<Self, StoreError> {
        let directory = metadata_log_dir.join(DIRECTORY);
        let db = DB::open(&options(), &directory).map_err(|source| open_error(&directory, source))?;
        let mut store = Self {
            db,
            directory,
            end: 0,
        };
        match store.get(KEY_FORMAT)? {
            Some(format) if format == FORMAT => {}
            Some(format) => return Err(store.damaged(format!("unknown format {format:?}"))),
            None => store
                .db
                .put(KEY_FORMAT, FORMAT)
                .map_err(|source| store.failed("write", source))?,
        }
        store.end = store.last_index()?.map_or(0, |index| index + 1);
        Ok(store)
    }

    /// Whether nothing was ever persisted.
    ///
    /// # Errors
    /// The disk fails.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.get(KEY_HARD_STATE)?.is_none() && self.get(KEY_SNAPSHOT)?.is_none() && self.end == 0)
    }

    /// Everything stored.
    ///
    /// # Errors
    /// The disk fails, or the store is damaged.
    pub fn restore(&self) -> Result<Restored, StoreError> {
        let hard_state = self.get(KEY_HARD_STATE)?.map(Bytes::from);
        let mut entries = Vec::new();
        for item in self
            .db
            .iterator(IteratorMode::From(&entry_key(0), rocksdb::Direction::Forward))
        {
            let (key, value) = item.map_err(|source| self.failed("read", source))?;
            if entry_index(&key).is_none() {
                break;
            }
            entries.push(Bytes::from(value));
        }
        let snapshot = self.snapshot()?;
        let bare = snapshot.clone().map(|snapshot| StoredSnapshot {
            data: Bytes::new(),
            ..snapshot
        });
        Ok(Restored {
            state: RestoredState {
                hard_state,
                snapshot: bare,
                snapshot_bytes: snapshot.as_ref().map_or(0, |it| it.data.len() as u64),
                entries,
            },
            snapshot,
        })
    }

    /// Writes what the quorum asks for in one step; with `must_sync` it is on the disk when this returns.
    ///
    /// # Errors
    /// The disk fails. The caller must stop, because what is stored is unknown then, or ask for the same again.
    pub fn persist(&mut self, persist: &Persist) -> Result<(), StoreError> {
        let (batch, end) = self.batch(persist);
        let mut write = WriteOptions::default();
        write.set_sync(persist.must_sync);
        self.db
            .write_opt(batch, &write)
            .map_err(|source| self.failed("write", source))?;
        // Not before: a write that failed is asked for again, and has the same entries to delete then.
        self.end = end;
        Ok(())
    }

    /// What is to be written, and the index after the last entry once it is.
    fn batch(&self, persist: &Persist) -> (WriteBatch, u64) {
        let mut batch = WriteBatch::default();
        let mut end = self.end;
        if persist.reset_log && end > 0 {
            batch.delete_range(entry_key(0), entry_key(end));
            end = 0;
        }
        if let Some(first_kept) = persist.first_kept {
            batch.delete_range(entry_key(0), entry_key(first_kept));
        }
        if let Some(first) = persist.entries.first()
            && first.index < end
        {
            batch.delete_range(entry_key(first.index), entry_key(end));
        }
        for entry in &persist.entries {
            batch.put(entry_key(entry.index), &entry.bytes);
            end = entry.index + 1;
        }
        if let Some(hard_state) = &persist.hard_state {
            batch.put(KEY_HARD_STATE, hard_state);
        }
        if let Some(snapshot) = &persist.snapshot {
            let mut header = Vec::with_capacity(SNAPSHOT_HEADER_BYTES + snapshot.conf_state.len());
            header.extend_from_slice(&snapshot.index.to_be_bytes());
            header.extend_from_slice(&snapshot.term.to_be_bytes());
            header.extend_from_slice(&snapshot.conf_state);
            batch.put(KEY_SNAPSHOT, header);
            batch.put(KEY_SNAPSHOT_DATA, &snapshot.data);
        }
        (batch, end)
    }

    fn snapshot(&self) -> Result<Option<StoredSnapshot>, StoreError> {
        let Some(header) = self.get(KEY_SNAPSHOT)? else {
            return Ok(None);
        };
        let data = self.get(KEY_SNAPSHOT_DATA)?;
        let (Some((index, rest)), Some(data)) = (header.split_first_chunk::<8>(), data) else {
            return Err(self.damaged("half a snapshot".to_owned()));
        };
        let Some((term, conf_state)) = rest.split_first_chunk::<8>() else {
            return Err(self.damaged("half a snapshot".to_owned()));
        };
        Ok(Some(StoredSnapshot {
            index: u64::from_be_bytes(*index),
            term: u64::from_be_bytes(*term),
            conf_state: Bytes::copy_from_slice(conf_state),
            data: Bytes::from(data),
        }))
    }

    fn last_index(&self) -> Result<Option<u64>, StoreError> {
        let after_entries = [ENTRY_PREFIX + 1];
        let mut iterator = self
            .db
            .iterator(IteratorMode::From(&after_entries, rocksdb::Direction::Reverse));
        match iterator.next() {
            None => Ok(None),
            Some(item) => {
                let (key, _) = item.map_err(|source| self.failed("read", source))?;
                Ok(entry_index(&key))
            }
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get(key).map_err(|source| self.failed("read", source))
    }

    fn failed(&self, what: &'static str, source: rocksdb::Error) -> StoreError {
        if source.kind() == rocksdb::ErrorKind::Corruption {
            return self.damaged(source.into_string());
        }
        StoreError::Rocks {
            what,
            directory: self.directory.clone(),
            source,
        }
    }

    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged {
            directory: self.directory.clone(),
            what,
        }
    }
}

fn open_error(directory: &Path, source: rocksdb::Error) -> StoreError {
    let text = source.to_string();
    let directory = directory.to_path_buf();
    if source.kind() == rocksdb::ErrorKind::IOError && text.to_ascii_lowercase().contains("lock") {
        return StoreError::InUse { directory };
    }
    if source.kind() == rocksdb::ErrorKind::Corruption {
        return StoreError::Damaged {
            directory,
            what: text,
        };
    }
    StoreError::Rocks {
        what: "open",
        directory,
        source,
    }
}

fn says_no_room(kind: rocksdb::ErrorKind, message: &str) -> bool {
    kind == rocksdb::ErrorKind::IOError && message.contains(NO_ROOM_WORDS)
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(1);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(rocksdb::LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    // A torn tail was never acknowledged; a hole before it was, and must not pass for the end of the log.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    let mut table = rocksdb::BlockBasedOptions::default();
    table.disable_cache();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options
}

fn entry_key(index: u64) -> [u8; ENTRY_KEY_BYTES] {
    let mut key = [0; ENTRY_KEY_BYTES];
    key[0] = ENTRY_PREFIX;
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn entry_index(key: &[u8]) -> Option<u64> {
    let index: [u8; 8] = key.strip_prefix(&[ENTRY_PREFIX])?.try_into().ok()?;
    Some(u64::from_be_bytes(index))
}

#[cfg(test)]
mod tests {
    use odradek_controller_core::quorum::{Quorum, StoredEntry};

    use super::*;

    fn entries(range: std::ops::Range<u64>, text: &str) -> Persist {
        let entry = |index| StoredEntry {
            index,
            term: 1,
            bytes: Bytes::from(format!("{text} {index}")),
        };
        Persist {
            entries: range.map(entry).collect(),
            must_sync: true,
            ..Persist::default()
        }
    }

    fn reopened(directory: &Path) -> Restored {
        QuorumStore::open(directory)
            .and_then(|store| store.restore())
            .expect("the store is sound")
    }

    #[test]
    fn what_was_persisted_is_restored() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = QuorumStore::open(directory.path()).expect("opens");
        assert!(store.is_empty().expect("reads"));
        store.persist(&Quorum::bootstrap(&[0, 1])).expect("writes");
        store.persist(&entries(2..6, "a")).expect("writes");
        // Entries replace what stands at their index and after it.
        store.persist(&entries(4..5, "b")).expect("writes");
        drop(store);
        let restored = reopened(directory.path());
        assert_eq!(restored.state.entries, ["a 2", "a 3", "b 4"].map(Bytes::from));
        assert_eq!(restored.snapshot.expect("the first").index, 1);
        assert!(restored.state.hard_state.is_some());
    }

    #[test]
    fn a_full_disk_passes_and_a_quota_that_is_used_up_does_not() {
        let passes = |message| says_no_room(rocksdb::ErrorKind::IOError, message);
        assert!(passes(
            "IO error: No space left on device: While appending to file: d/1.log"
        ));
        assert!(!passes(
            "IO error: While appending to file: d/1.log: Disk quota exceeded"
        ));
    }

    #[test]
    fn a_snapshot_truncates_and_replaces() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = QuorumStore::open(directory.path()).expect("opens");
        store.persist(&entries(2..10, "a")).expect("writes");
        let snapshot = StoredSnapshot {
            index: 8,
            term: 3,
            conf_state: Bytes::new(),
            data: Bytes::from("image"),
        };
        let mut persist = Persist {
            snapshot: Some(snapshot.clone()),
            first_kept: Some(7),
            ..Persist::default()
        };
        persist.must_sync = true;
        store.persist(&persist).expect("writes");
        assert_eq!(
            store.restore().expect("reads").state.entries,
            ["a 7", "a 8", "a 9"].map(Bytes::from)
        );
        let from_leader = Persist {
            reset_log: true,
            snapshot: Some(snapshot.clone()),
            ..Persist::default()
        };
        store.persist(&from_leader).expect("writes");
        store.persist(&entries(9..11, "c")).expect("writes");
        drop(store);
        let restored = reopened(directory.path());
        assert_eq!(restored.state.entries, ["c 9", "c 10"].map(Bytes::from));
        assert_eq!(restored.snapshot, Some(snapshot));
    }

    /// The first attempt finds a store that takes no writes, as on a full disk.
    fn persist_at_second_attempt(store: &mut QuorumStore, persist: &Persist) {
        let directory = store.directory.clone();
        store.db = DB::open_for_read_only(&options(), &directory, false).expect("opens");
        store.persist(persist).expect_err("it takes no writes");
        store.db = DB::open(&options(), &directory).expect("opens");
        store.persist(persist).expect("writes");
    }

    #[test]
    fn a_write_that_failed_deletes_as_much_when_it_is_tried_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = QuorumStore::open(directory.path()).expect("opens");
        store.persist(&entries(2..10, "a")).expect("writes");
        persist_at_second_attempt(&mut store, &entries(4..6, "b"));
        assert_eq!(
            store.restore().expect("reads").state.entries,
            ["a 2", "a 3", "b 4", "b 5"].map(Bytes::from)
        );
        let snapshot = StoredSnapshot {
            index: 20,
            term: 3,
            conf_state: Bytes::new(),
            data: Bytes::from("image"),
        };
        let from_leader = Persist {
            reset_log: true,
            snapshot: Some(snapshot),
            ..Persist::default()
        };
        persist_at_second_attempt(&mut store, &from_leader);
        store.persist(&entries(21..22, "c")).expect("writes");
        drop(store);
        assert_eq!(
            reopened(directory.path()).state.entries,
            ["c 21"].map(Bytes::from)
        );
    }

    #[test]
    fn a_second_process_is_told_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let _held = QuorumStore::open(directory.path()).expect("opens");
        let error = QuorumStore::open(directory.path()).err().expect("it is held");
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    }

    #[test]
    fn damage_is_an_error_that_says_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = QuorumStore::open(directory.path()).expect("opens");
        store.persist(&entries(2..2000, "a")).expect("writes");
        drop(store);
        let quorum = directory.path().join(DIRECTORY);
        std::fs::write(quorum.join("CURRENT"), b"MANIFEST-000001\n\n\n").expect("writes");
        for file in std::fs::read_dir(&quorum).expect("lists") {
            let path = file.expect("a file").path();
            if path.to_string_lossy().contains("MANIFEST") {
                std::fs::write(&path, b"not a manifest, and long enough to look like one").expect("writes");
            }
        }
        let error = QuorumStore::open(directory.path()).err().expect("it is damaged");
        assert!(error.to_string().contains("metadata log"), "{error}");
    }
}
