//! How long it takes to compact a log: so many keys, each updated so many times, in batches of 16 KiB.
//!
//! `cargo run --release -p odradek-broker-log --example compaction -- [keys] [updates] [value bytes] [codec] [MiB of table]`;
//! without arguments one million keys, ten updates, 100 bytes, none, 128. Works in a temporary directory, `TMPDIR` says where.
//! Prints seconds and sizes; judges nothing.
#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::error::Error;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use odradek_broker_log::append::LeaderBatch;
use odradek_broker_log::compact::{CompactionReport, PassMemory};
use odradek_broker_log::config::{CleanupPolicy, LogConfig};
use odradek_broker_log::directory::{LogDirectory, LogDirectoryOptions};
use odradek_broker_log::log::{Log, PartitionIdentity};
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::Compression;
use odradek_common::time::Now;

const BATCH_BYTES: usize = 16 << 10;

struct Load {
    keys: u64,
    updates: u64,
    value_bytes: usize,
    codec: Compression,
    table_bytes: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let load = arguments()?;
    let temporary = tempfile::tempdir()?;
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let directory = LogDirectory::open(temporary.path(), LogDirectoryOptions::default(), logger)?;
    let config = LogConfig {
        cleanup_policy: CleanupPolicy::COMPACT,
        segment_bytes: 100 << 20,
        ..LogConfig::default()
    };
    let identity = PartitionIdentity::new("compaction", uuid::Uuid::new_v4(), 0);
    let mut log = directory.open_partition(identity, config, now())?;
    let begun = Instant::now();
    fill(&mut log, &load)?;
    log.roll(now())?;
    log.checkpoint(now())?;
    println!(
        "{} records appended in {:.1} s, {} MB in {} segments",
        log.log_end_offset(),
        begun.elapsed().as_secs_f64(),
        log.size_bytes() / 1_000_000,
        log.segments()
    );
    let memory = PassMemory {
        dedupe_bytes: load.table_bytes,
        ..PassMemory::default()
    };
    let (begun, cpu) = (Instant::now(), cpu_time());
    let mut passes = 0;
    let mut last = CompactionReport::default();
    loop {
        let report = log.compact(now(), memory)?;
        if report.segments == 0 {
            break;
        }
        passes += 1;
        last = report;
    }
    let elapsed = begun.elapsed();
    println!(
        "compacted to {} records, {} MB in {} segments: {passes} passes, {:.2} s, {:.2} s of CPU",
        last.records_after,
        log.size_bytes() / 1_000_000,
        log.segments(),
        elapsed.as_secs_f64(),
        (cpu_time() - cpu).as_secs_f64()
    );
    log.close_clean(now())?;
    directory.close_clean()?;
    Ok(())
}

fn arguments() -> Result<Load, Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let codec = given.get(3).map_or("none", String::as_str);
    Ok(Load {
        keys: number(&given, 0, 1_000_000)?,
        updates: number(&given, 1, 10)?,
        value_bytes: number(&given, 2, 100)?,
        codec: Compression::from_name(codec).ok_or("no such codec")?,
        table_bytes: number::<usize>(&given, 4, 128)? << 20,
    })
}

fn number<T: FromStr>(given: &[String], at: usize, default: T) -> Result<T, T::Err> {
    given.get(at).map_or(Ok(default), |text| text.parse())
}

/// Updates the keys in an order that differs from round to round.
fn fill(log: &mut Log, load: &Load) -> Result<(), Box<dyn Error>> {
    let mut seed = 1;
    let mut value = vec![0; load.value_bytes];
    let mut batch = new_batch(load);
    for round in 0..load.updates {
        // Odd, so that every key is met if their number is a power of two, and nearly all otherwise.
        let stride = (load.keys / 3 * (round + 1)) | 1;
        for index in 0..load.keys {
            let key = (index.wrapping_mul(stride)) % load.keys;
            for chunk in value.chunks_mut(8) {
                seed = splitmix(seed);
                // Half of it is the same everywhere, so that codecs have something to do.
                let half = chunk.len() / 2;
                chunk[..half].copy_from_slice(&seed.to_le_bytes()[..half]);
            }
            batch.append(
                now().wall_ms,
                Some(format!("key-{key:012}").as_bytes()),
                Some(&value),
                &[],
            );
            if batch.size_bytes() >= BATCH_BYTES {
                append(log, std::mem::replace(&mut batch, new_batch(load)))?;
            }
        }
    }
    if batch.record_count() > 0 {
        append(log, batch)?;
    }
    Ok(())
}

fn new_batch(load: &Load) -> BatchBuilder {
    BatchBuilder::new(0).compression(load.codec, None)
}

fn append(log: &mut Log, batch: BatchBuilder) -> Result<(), Box<dyn Error>> {
    let bytes = batch.build();
    let mut batches = [LeaderBatch::whole(&bytes)?];
    log.append_as_leader(now(), 0, &mut batches)?;
    batches[0].take_outcome().ok_or("the log failed")??;
    log.set_high_watermark(log.log_end_offset());
    Ok(())
}

fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

fn now() -> Now {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    Now {
        mono_ms: ms,
        wall_ms: ms.cast_signed(),
    }
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat
        .rsplit_once(')')
        .into_iter()
        .flat_map(|(_, fields)| fields.split_whitespace().skip(11).take(2))
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    // Linux counts in hundredths of a second for user space.
    Duration::from_millis(ticks * 10)
}
