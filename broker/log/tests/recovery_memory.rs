//! What recovery after a kill holds in memory: bounded, however many batches it reads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use odradek_allocations::{CountingAllocator, count};
use odradek_broker_log::config::LogConfig;
use odradek_broker_log::directory::{LogDirectory, LogDirectoryOptions};
use odradek_broker_log::log::{Log, PartitionIdentity};
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::control::{EndTransactionMarker, TransactionResult};
use odradek_common::time::Now;
use tempfile::TempDir;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const NOW: Now = Now {
    mono_ms: 1_000,
    wall_ms: 1_700_000_000_000,
};
const PRODUCER_ID: i64 = 7;
/// Batches of one record; a header of each in memory would be 6 MB.
const BATCHES: i64 = 80_000;
/// Batches that are appended at once.
const TOGETHER: i64 = 1_000;
/// One piece of a segment's file, which is read ahead, and its sparse index.
const PEAK_BYTES_MAX: i64 = 3 << 20;

fn open(path: &Path) -> (LogDirectory, Log) {
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let directory = LogDirectory::open(path, LogDirectoryOptions::default(), logger).unwrap();
    let identity = PartitionIdentity::new("events", Uuid::from_u128(42), 0);
    let log = directory.open_partition(identity, LogConfig::default(), NOW);
    (directory, log.unwrap())
}

/// The batch of one record at this offset.
fn batch(offset: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(offset)
        .producer(PRODUCER_ID, 0, i32::try_from(offset).unwrap())
        .partition_leader_epoch(0)
        .transactional();
    builder.append(NOW.wall_ms, None, Some(b"v"), &[]);
    builder.build().to_vec()
}

#[test]
fn producers_are_rebuilt_in_little_memory_however_many_batches_there_are() {
    let folder = TempDir::new().unwrap();
    let (directory, mut log) = open(&folder.path().join("data"));
    for from in (0..BATCHES).step_by(TOGETHER as usize) {
        let together: Vec<u8> = (from..from + TOGETHER).flat_map(batch).collect();
        log.append_as_follower(NOW, &together, 0).unwrap();
    }
    let marker = EndTransactionMarker {
        result: TransactionResult::Abort,
        coordinator_epoch: 0,
    };
    let mut marker = marker.to_batch(NOW.wall_ms, PRODUCER_ID, 0).to_vec();
    marker[..8].copy_from_slice(&BATCHES.to_be_bytes());
    log.append_as_follower(NOW, &marker, 0).unwrap();
    // The folder alone: the index knows nothing of what no checkpoint has written down.
    let killed = folder.path().join("killed");
    fs::create_dir_all(killed.join("events-0")).unwrap();
    for entry in fs::read_dir(log.folder()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), killed.join("events-0").join(entry.file_name())).unwrap();
    }
    let ((_killed, recovered), counts) = count(|| open(&killed));
    assert_eq!(recovered.log_end_offset(), BATCHES + 1);
    assert_eq!(recovered.producers().describe(), log.producers().describe());
    assert_eq!(recovered.aborted_transactions(0, i64::MAX).len(), 1);
    assert!(
        counts.peak_bytes < PEAK_BYTES_MAX,
        "{} bytes were held at once",
        counts.peak_bytes
    );
    drop((directory, log));
}
