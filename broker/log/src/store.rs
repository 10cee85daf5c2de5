//! The RocksDB of a log directory: keys, values and the few writes that need the write-ahead log.
//!
//! RocksDB ends here. One column family, so that what survives a crash is a prefix of the writes. Keys are
//! partition (topic id, 16 bytes; index, 4) + kind (1) + detail, all big endian, so that one iterator reads what opening
//! a partition needs. Directory-wide keys sit under the nil topic id.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::atomic::{AtomicU32, Ordering};

use rocksdb::{
    BlockBasedOptions, Cache, DB, Direction, ErrorKind, IteratorMode, LogLevel, Options, ReadOptions,
    WriteBatch, WriteOptions,
};
use rustix::io::Errno;
use uuid::Uuid;

use crate::error::LogError;
use crate::segment::Footer;

const WRITE_BUFFER_SIZE_BYTES: usize = 4 << 20;
const BLOCK_CACHE_SIZE_BYTES: usize = 2 << 20;
const OPEN_FILES_MAX: i32 = 64;
const WAL_SIZE_BYTES_MAX: u64 = 16 << 20;
/// A file beside the index that says that it was found corrupt while it was in use.
pub(crate) const CORRUPT_MARKER: &str = "odradek-index.corrupt";
/// Partition, kind and base offset.
const FOOTER_KEY_SIZE_BYTES: usize = 20 + 1 + 8;

/// How much a write must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survive {
    /// Nothing: it can be rebuilt from the log.
    Nothing,
    /// The death of the process.
    Kill,
    /// The death of the machine.
    PowerLoss,
}

/// What a key under a partition holds; the order is the order on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    State = 1,
    HighWatermark = 2,
    LogStart = 3,
    LeaderEpochs = 4,
    Footer = 5,
    Aborted = 6,
    ProducerSnapshot = 7,
    IndexChunk = 8,
    CleanerOffset = 9,
    Swap = 10,
    Moves = 11,
}

/// Topic id and partition index: what keys begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PartitionKey([u8; 20]);

impl PartitionKey {
    pub(crate) fn new(topic_id: Uuid, partition: i32) -> Self {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(topic_id.as_bytes());
        bytes[16..].copy_from_slice(&partition.to_be_bytes());
        Self(bytes)
    }

    /// Whether it is a partition of that topic.
    pub(crate) fn is_of(&self, topic_id: Uuid) -> bool {
        self.0.starts_with(topic_id.as_bytes())
    }

    pub(crate) fn key(&self, kind: Kind, detail: &[i64]) -> Vec<u8> {
        let mut key = Vec::with_capacity(21 + detail.len() * 8);
        key.extend_from_slice(&self.0);
        key.push(kind as u8);
        for part in detail {
            key.extend_from_slice(&part.to_be_bytes());
        }
        key
    }

    /// What is known to be damaged of a segment: behind its footer, so that both are read at once.
    pub(crate) fn damage(&self, base_offset: i64) -> Vec<u8> {
        self.key(Kind::Footer, &[base_offset, 0])
    }

    fn end(&self, kind: u8) -> Vec<u8> {
        let mut key = self.0.to_vec();
        key.push(kind);
        key
    }
}

/// Everything about a partition that opening it needs.
#[derive(Default)]
pub(crate) struct Persisted {
    pub(crate) state: Option<Vec<u8>>,
    pub(crate) high_watermark: Option<i64>,
    pub(crate) log_start_offset: Option<i64>,
    pub(crate) leader_epochs: Option<Vec<u8>>,
    pub(crate) footers: Vec<(i64, Footer)>,
    pub(crate) damage: Vec<(i64, Vec<u8>)>,
    pub(crate) aborted: Vec<Vec<u8>>,
}

/// Several changes, written at once.
#[derive(Default)]
pub(crate) struct Batch(WriteBatch);

impl Batch {
    pub(crate) fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.0.put(key, value);
    }

    pub(crate) fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.0.delete(key);
    }

    /// Deletes details `[from, to)` of a kind.
    pub(crate) fn delete_range(
        &mut self,
        partition: &PartitionKey,
        kind: Kind,
        from: &[i64],
        to: Option<&[i64]>,
    ) {
        let end = to.map_or_else(|| partition.end(kind as u8 + 1), |to| partition.key(kind, to));
        self.0.delete_range(partition.key(kind, from), end);
    }

    /// Deletes all that is known about a partition.
    pub(crate) fn delete_partition(&mut self, partition: &PartitionKey) {
        self.0.delete_range(partition.end(0), partition.end(u8::MAX));
    }
}

pub(crate) struct Store {
    db: DB,
    directory: PathBuf,
    /// So many flushes find no room.
    #[cfg(test)]
    pub(crate) failing_flushes: AtomicU32,
    /// Which write from now on finds no room; 0 for none.
    #[cfg(test)]
    pub(crate) failing_write: AtomicU32,
}

const NAMES_PREFIX: [u8; 21] = directory_prefix(b'n');
const CLEAN_KEY: [u8; 21] = directory_prefix(b'c');

const fn directory_prefix(kind: u8) -> [u8; 21] {
    let mut key = [0; 21];
    key[20] = kind;
    key
}

impl Store {
    /// Opens the database at `path`, of log directory `directory`; a corrupt one is an error of kind `InvalidData`.
    pub(crate) fn open(directory: &Path, path: &Path) -> Result<Self, LogError> {
        let db = DB::open(&options(), path)
            .map_err(|error| LogError::io(directory, "open the index", as_io(error)))?;
        Ok(Self {
            db,
            directory: directory.to_owned(),
            #[cfg(test)]
            failing_flushes: AtomicU32::default(),
            #[cfg(test)]
            failing_write: AtomicU32::default(),
        })
    }

    pub(crate) fn write(&self, batch: Batch, survive: Survive) -> Result<(), LogError> {
        if batch.0.is_empty() {
            return Ok(());
        }
        #[cfg(test)]
        if self
            .failing_write
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            == Ok(1)
        {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(LogError::io(&self.directory, "write to the index", full));
        }
        let mut options = WriteOptions::default();
        options.disable_wal(survive == Survive::Nothing);
        options.set_sync(survive == Survive::PowerLoss);
        self.db
            .write_opt(batch.0, &options)
            .map_err(|error| self.failed("write to the index", error))
    }

    pub(crate) fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        survive: Survive,
    ) -> Result<(), LogError> {
        let mut batch = Batch::default();
        batch.put(key, value);
        self.write(batch, survive)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        self.db.get(key).map_err(|error| self.unread(error))
    }

    /// Makes what was written so far to survive a kill survive a power loss.
    pub(crate) fn sync_wal(&self) -> Result<(), LogError> {
        self.db
            .flush_wal(true)
            .map_err(|error| self.failed("flush the index's log", error))
    }

    /// Makes everything written so far survive a power loss.
    pub(crate) fn flush(&self) -> Result<(), LogError> {
        #[cfg(test)]
        if self
            .failing_flushes
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(LogError::io(&self.directory, "flush the index", full));
        }
        self.db
            .flush()
            .map_err(|error| self.failed("flush the index", error))
    }

    /// Reads a partition's small values in one pass.
    pub(crate) fn load(&self, partition: &PartitionKey) -> Result<Persisted, LogError> {
        let mut persisted = Persisted::default();
        let mut read = ReadOptions::default();
        read.set_iterate_upper_bound(partition.end(Kind::ProducerSnapshot as u8));
        let start = partition.end(Kind::State as u8);
        for item in self
            .db
            .iterator_opt(IteratorMode::From(&start, Direction::Forward), read)
        {
            let (key, value) = item.map_err(|error| self.unread(error))?;
            let detail = key.get(21..29).map(decode_i64).unwrap_or_default();
            match key[20] {
                kind if kind == Kind::State as u8 => persisted.state = Some(value.into_vec()),
                kind if kind == Kind::HighWatermark as u8 => {
                    persisted.high_watermark = Some(decode_i64(&value))
                }
                kind if kind == Kind::LogStart as u8 => persisted.log_start_offset = Some(decode_i64(&value)),
                kind if kind == Kind::LeaderEpochs as u8 => persisted.leader_epochs = Some(value.into_vec()),
                kind if kind == Kind::Footer as u8 && key.len() > FOOTER_KEY_SIZE_BYTES => {
                    persisted.damage.push((detail, value.into_vec()));
                }
                kind if kind == Kind::Footer as u8 => {
                    persisted
                        .footers
                        .extend(Footer::decode(&value).map(|footer| (detail, footer)));
                }
                kind if kind == Kind::Aborted as u8 => persisted.aborted.push(value.into_vec()),
                _ => {}
            }
        }
        Ok(persisted)
    }

    /// The entry of `kind` with the greatest detail at or below `detail`, among those that begin with `prefix`.
    pub(crate) fn floor(
        &self,
        partition: &PartitionKey,
        kind: Kind,
        prefix: &[i64],
        detail: i64,
    ) -> Result<Option<(i64, Vec<u8>)>, LogError> {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(partition.key(kind, prefix));
        let mut from = partition.key(kind, prefix);
        from.extend_from_slice(&detail.to_be_bytes());
        let mut iterator = self
            .db
            .iterator_opt(IteratorMode::From(&from, Direction::Reverse), read);
        let Some(item) = iterator.next() else {
            return Ok(None);
        };
        let (key, value) = item.map_err(|error| self.unread(error))?;
        Ok(Some((decode_i64(&key[key.len() - 8..]), value.into_vec())))
    }

    /// The entries of `kind` with details from `from` on, among those that begin with `prefix`, until `visit` says stop.
    pub(crate) fn scan(
        &self,
        partition: &PartitionKey,
        kind: Kind,
        prefix: &[i64],
        from: i64,
        mut visit: impl FnMut(i64, &[u8]) -> Visit,
    ) -> Result<(), LogError> {
        let start = partition.key(kind, prefix);
        let mut first = start.clone();
        first.extend_from_slice(&from.to_be_bytes());
        for item in self.db.iterator(IteratorMode::From(&first, Direction::Forward)) {
            let (key, value) = item.map_err(|error| self.unread(error))?;
            if !key.starts_with(&start) {
                break;
            }
            match visit(decode_i64(&key[key.len() - 8..]), &value) {
                Visit::Continue => {}
                Visit::Stop => break,
            }
        }
        Ok(())
    }

    /// The topic id of every partition folder.
    pub(crate) fn names(&self) -> Result<Vec<(String, Uuid)>, LogError> {
        let mut names = Vec::new();
        for item in self
            .db
            .iterator(IteratorMode::From(&NAMES_PREFIX, Direction::Forward))
        {
            let (key, value) = item.map_err(|error| self.unread(error))?;
            let Some(name) = key.strip_prefix(&NAMES_PREFIX) else {
                break;
            };
            if let (Ok(name), Ok(id)) = (std::str::from_utf8(name), Uuid::from_slice(&value)) {
                names.push((name.to_owned(), id));
            }
        }
        Ok(names)
    }

    pub(crate) fn put_name(&self, folder: &str, topic_id: Uuid) -> Result<(), LogError> {
        self.put(name_key(folder), topic_id.as_bytes(), Survive::Kill)
    }

    pub(crate) fn is_marked_clean(&self) -> Result<bool, LogError> {
        Ok(self.get(&CLEAN_KEY)?.is_some())
    }

    /// Flushes the index, then notes that everything was closed; the note comes last.
    pub(crate) fn mark_clean(&self) -> Result<(), LogError> {
        self.flush()?;
        self.put(CLEAN_KEY, [1], Survive::PowerLoss)
    }

    /// Removes the note before anything else happens.
    pub(crate) fn mark_in_use(&self) -> Result<(), LogError> {
        let mut batch = Batch::default();
        batch.delete(CLEAN_KEY);
        self.write(batch, Survive::PowerLoss)
    }

    /// Reading opens files, and may find no descriptor left for one, which passes. For a database that could not write for that reason it
    /// does not: nothing is written to it any more until it is opened anew.
    fn unread(&self, error: rocksdb::Error) -> LogError {
        match descriptors_error(error.as_ref()) {
            Some(source) => LogError::io(&self.directory, "read the index", source),
            None => self.failed("read the index", error),
        }
    }

    /// Opening looks at a part of the index alone. What is corrupt elsewhere the next start has to be told, or it would open it, and
    /// find the same again.
    fn failed(&self, attempt: &str, error: rocksdb::Error) -> LogError {
        let source = as_io(error);
        if source.kind() == io::ErrorKind::InvalidData {
            // A disk that does not take it has failed anyhow.
            _ = fs::write(self.directory.join(CORRUPT_MARKER), source.to_string());
        }
        LogError::io(&self.directory, attempt, source)
    }
}

/// Whether a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    Continue,
    Stop,
}

/// The key that maps a partition folder to its topic id.
pub(crate) fn name_key(folder: &str) -> Vec<u8> {
    [&NAMES_PREFIX, folder.as_bytes()].concat()
}

/// A value of eight bytes; 0 for any other.
pub(crate) fn decode_i64(bytes: &[u8]) -> i64 {
    bytes.try_into().map(i64::from_be_bytes).unwrap_or_default()
}

fn options() -> Options {
    let cache = Cache::new_lru_cache(BLOCK_CACHE_SIZE_BYTES);
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&cache);
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(WRITE_BUFFER_SIZE_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(2);
    options.set_max_total_wal_size(WAL_SIZE_BYTES_MAX);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options.set_log_level(LogLevel::Fatal);
    options.set_keep_log_file_num(1);
    options.set_stats_dump_period_sec(0);
    options
}

/// What RocksDB says where the process, or the machine, has no file descriptors left.
fn descriptors_error(message: &str) -> Option<io::Error> {
    let is_out = message.starts_with("IO error") && message.contains("Too many open files");
    is_out.then(|| io::Error::from_raw_os_error(Errno::MFILE.raw_os_error()))
}

fn as_io(error: rocksdb::Error) -> io::Error {
    let message = error.to_string();
    io::Error::new(io_kind(error.kind(), &message), message)
}

/// What an error of RocksDB means. It goes on by itself once there is room again, save after EDQUOT ("Disk quota exceeded"): that it
/// takes for a failure of the disk, and nothing is written any more until the database is opened anew.
fn io_kind(kind: ErrorKind, message: &str) -> io::ErrorKind {
    match kind {
        ErrorKind::Corruption => io::ErrorKind::InvalidData,
        ErrorKind::IOError if message.contains("No space left") => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_full_disk_passes_and_a_quota_that_is_used_up_does_not() {
        let error = |text: &str| {
            let source = io::Error::new(io_kind(ErrorKind::IOError, text), text.to_owned());
            LogError::io(Path::new("d"), "write to the index", source)
        };
        assert!(error("IO error: No space left on device: While appending to file: d/1.log").is_disk_full());
        let quota = error("IO error: While appending to file: d/1.log: Disk quota exceeded");
        assert!(matches!(quota, LogError::Directory { .. }), "{quota}");
    }

    #[test]
    fn a_read_without_a_descriptor_passes() {
        let path = Path::new("d");
        let error = descriptors_error(
            "IO error: While open a file for random read: d/000012.sst: Too many open files",
        );
        let error = LogError::io(path, "read the index", error.unwrap());
        assert!(error.is_out_of_descriptors(), "{error}");
        assert!(
            descriptors_error("IO error: While pread offset 0 len 10: d/000012.sst: Input/output error")
                .is_none()
        );
        assert!(
            descriptors_error("Corruption: block checksum mismatch in Too many open files.sst").is_none()
        );
    }
}
