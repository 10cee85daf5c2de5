//! The log against a real directory: what it answers, and what it still knows after a stop, a kill or damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use odradek_broker_core::producer_state::AppendOrigin;
use odradek_common::records::batch::batches;
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::record::{decoded_section, records};
use odradek_common::time::Now;
use tempfile::TempDir;
use uuid::Uuid;

use crate::append::{AppendInfo, LeaderBatch};
use crate::config::LogConfig;
use crate::directory::{LogDirectory, LogDirectoryOptions};
use crate::error::AppendError;
use crate::log::{Log, PartitionIdentity};
use crate::read::MinOneBatch;
use crate::timestamps::{self, TimestampedOffset};

mod compaction;
mod directory;
mod flushing;
mod lookup;
mod moving;
mod pages;
mod producers;
mod recovery;
mod reserve;
mod retention;
mod room;
mod scrubbing;
mod stray;
mod together;
mod truncation;

const NOW: Now = Now {
    mono_ms: 1_000,
    wall_ms: 1_700_000_000_000,
};
/// When every delay is over.
const MUCH_LATER: Now = Now {
    mono_ms: u64::MAX,
    wall_ms: NOW.wall_ms,
};
const TOPIC_ID: Uuid = Uuid::from_u128(42);

fn identity() -> PartitionIdentity {
    PartitionIdentity::new("events", TOPIC_ID, 0)
}

fn logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

fn find_timestamp(log: &Log, timestamp: i64) -> Option<TimestampedOffset> {
    timestamps::offset_for_timestamp(|from| log.timestamp_search(timestamp, from)).unwrap()
}

fn newest_timestamp(log: &Log) -> Option<TimestampedOffset> {
    find_timestamp(log, log.max_timestamp()?)
}

fn open(path: &Path) -> LogDirectory {
    LogDirectory::open(path, LogDirectoryOptions::default(), logger()).unwrap()
}

/// A directory with one open log.
struct Fixture {
    _temporary: Arc<TempDir>,
    path: PathBuf,
    directory: LogDirectory,
    log: Log,
    config: LogConfig,
}

impl Fixture {
    fn new() -> Self {
        Self::with(LogConfig::default())
    }

    fn with(config: LogConfig) -> Self {
        let temporary = Arc::new(TempDir::new().unwrap());
        let path = temporary.path().join("data");
        Self::at(temporary, path, config)
    }

    fn at(temporary: Arc<TempDir>, path: PathBuf, config: LogConfig) -> Self {
        let directory = open(&path);
        let log = directory.open_partition(identity(), config.clone(), NOW).unwrap();
        Self {
            _temporary: temporary,
            path,
            directory,
            log,
            config,
        }
    }

    /// What is left when the process is killed now, opened again.
    fn kill(&self) -> Self {
        let path = self.path.with_file_name(Uuid::new_v4().to_string());
        copy(&self.path, &path);
        Self::at(self._temporary.clone(), path, self.config.clone())
    }

    /// So many flushes of the index find no room.
    fn fail_flushes(&self, flushes: u32) {
        let store = &self.log.directory.store;
        store.failing_flushes.store(flushes, Ordering::SeqCst);
    }

    /// This write to the index from now on finds no room.
    fn fail_write(&self, number: u32) {
        let store = &self.log.directory.store;
        store.failing_write.store(number, Ordering::SeqCst);
    }

    /// The write that finds no room has not come.
    fn is_write_awaited(&self) -> bool {
        let store = &self.log.directory.store;
        store.failing_write.load(Ordering::SeqCst) > 0
    }

    /// Stops cleanly and starts again.
    fn restart(self) -> Self {
        let Self {
            _temporary,
            path,
            directory,
            mut log,
            config,
        } = self;
        log.close_clean(NOW).unwrap();
        assert!(directory.close_clean().unwrap());
        drop((log, directory));
        Self::at(_temporary, path, config)
    }

    /// Stops without a trace of a clean stop, after `damage` was done to the files.
    fn damage(self, damage: impl FnOnce(&Path)) -> Self {
        let Self {
            _temporary,
            path,
            directory,
            log,
            config,
        } = self;
        drop((log, directory));
        damage(&path.join("events-0"));
        Self::at(_temporary, path, config)
    }

    fn append(&mut self, count: usize) -> AppendInfo {
        self.append_at(NOW.wall_ms, count)
    }

    fn append_at(&mut self, timestamp: i64, count: usize) -> AppendInfo {
        self.append_batch(1, batch(timestamp, count))
    }

    fn append_batch(&mut self, epoch: i32, batch: Bytes) -> AppendInfo {
        let info = append_one(&mut self.log, epoch, &batch, AppendOrigin::Client).unwrap();
        self.log.set_high_watermark(self.log.log_end_offset());
        info
    }

    /// Every record that can be read, as offset and value.
    fn contents(&self) -> Vec<(i64, Vec<u8>)> {
        contents(&self.log)
    }

    fn segment_files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path.join("events-0"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".log"))
            .collect();
        names.sort();
        names
    }
}

fn append_one(
    log: &mut Log,
    epoch: i32,
    batch: &[u8],
    origin: AppendOrigin,
) -> Result<AppendInfo, AppendError> {
    let whole = LeaderBatch::whole(batch)?;
    let mut batches = [match origin {
        AppendOrigin::Coordinator => whole.of_coordinator(),
        AppendOrigin::Client | AppendOrigin::Replication => whole,
    }];
    log.append_as_leader(NOW, epoch, &mut batches)?;
    batches[0].take_outcome().expect("the log did not fail")
}

/// Appends what was fetched, whatever its epochs.
fn as_follower(log: &mut Log, bytes: &[u8]) -> Result<AppendInfo, AppendError> {
    let appended = log.append_as_follower(NOW, bytes, i32::MAX)?;
    Ok(appended.expect("no epoch is beyond"))
}

fn contents(log: &Log) -> Vec<(i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut offset = log.log_start_offset();
    while offset < log.log_end_offset() {
        let slice = log.read_plan(offset, 4096, i64::MAX, MinOneBatch::Yes).unwrap();
        let bytes = slice.read().unwrap();
        let mut next = offset;
        for entry in batches(&bytes) {
            let (_, batch) = entry.unwrap();
            let (header, section) = decoded_section(batch, 1 << 20).unwrap();
            for record in records(&header, &section) {
                let record = record.unwrap();
                if record.offset >= offset {
                    found.push((record.offset, record.value.unwrap_or_default().to_vec()));
                }
            }
            next = header.next_offset();
        }
        if next == offset {
            break;
        }
        offset = next;
    }
    found
}

fn batch(timestamp: i64, count: usize) -> Bytes {
    let mut builder = BatchBuilder::new(0);
    for index in 0..count {
        builder.append(timestamp, None, Some(format!("value-{index}").as_bytes()), &[]);
    }
    builder.build()
}

fn producer_batch(producer_id: i64, epoch: i16, sequence: i32, transactional: bool) -> Bytes {
    let mut builder = BatchBuilder::new(0).producer(producer_id, epoch, sequence);
    if transactional {
        builder = builder.transactional();
    }
    builder.append(NOW.wall_ms, Some(b"k"), Some(b"v"), &[]);
    builder.build()
}

fn copy(from: &Path, to: &Path) {
    // The index removes files that it needs no more on a thread of its own: what one copy misses, the next one does not.
    while let Err(error) = try_copy(from, to) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        fs::remove_dir_all(to).unwrap();
    }
}

fn try_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            try_copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn small_segments() -> LogConfig {
    LogConfig {
        segment_bytes: 1_000,
        index_interval_bytes: 200,
        ..LogConfig::default()
    }
}
