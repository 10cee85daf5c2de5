//! Starts: of an empty node, after a clean stop with much data, and after kill -9 with much that was not flushed; and what
//! a node needs that does nothing.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::admin::NewTopic;
use crate::batches::BatchShape;
use crate::clock::{self, MILLISECOND, Nanos, SECOND};
use crate::load::ProduceLoad;
use crate::load::fill::Filling;
use crate::metric::{Figures, Metric};
use crate::proc;
use crate::scale::Scale;
use crate::systems::{Cluster, page_cache};
use crate::workloads::topics::{self, Topic};
use crate::workloads::{first_ack, under_load};

/// What is on the disk when a node starts.
const SHAPE: BatchShape = BatchShape::plain(64, 1000);
/// Bytes of a small run.
const LEAST_BYTES: u64 = 1 << 20;
/// Partitions of a small run.
const LEAST_PARTITIONS: u64 = 10;
/// How long a node has nothing to do before its idleness is measured.
const SETTLE_SECONDS: f64 = 5.0;
/// How long idleness is measured.
const IDLE_SECONDS: f64 = 30.0;

/// From the start of a formatted node to the first acknowledged record of a topic that is created first.
///
/// # Errors
/// The node does not come up.
pub fn empty(cluster: &mut Cluster) -> Result<Figures> {
    let name = topics::unique_name("first");
    let began = clock::now();
    cluster.up()?;
    let topic = NewTopic {
        name: &name,
        partitions: 1,
        replicas: 1,
        configs: &[],
    };
    first_ack::create_topic(cluster, &topic)?;
    let acknowledged = first_ack::wait(cluster, &name, &[0])?;
    Ok(first_ack_figures(began, acknowledged))
}

fn first_ack_figures(began: Nanos, acknowledged: Nanos) -> Figures {
    let mut figures = Figures::default();
    figures.set(Metric::FirstAck, clock::milliseconds_between(began, acknowledged));
    figures
}

/// What a node needs that has nothing to do, and its memory under a load.
///
/// # Errors
/// The load failed.
pub fn idle(cluster: &mut Cluster, row: &str, produce: ProduceLoad, scale: &Scale) -> Result<Figures> {
    let shorter = |seconds: f64| clock::seconds(seconds / scale.divisor);
    let from = clock::now() + shorter(SETTLE_SECONDS);
    let length = shorter(IDLE_SECONDS);
    let watch = proc::watch(cluster.pids(), from, from + length);
    clock::sleep_until(from + length + 50 * MILLISECOND);
    let idle = watch.finish()?;
    let loaded = under_load(cluster, row, &Topic::single(6), produce, None, scale)?;
    let mut figures = Figures::default();
    idle.add_to(&mut figures);
    // The peak is that of the load.
    figures.set(
        Metric::RssPeak,
        loaded.usage.rss_peak_bytes as f64 / f64::from(1 << 20),
    );
    Ok(figures)
}

/// From the start after a clean stop to the first acknowledged record.
///
/// # Errors
/// The node does not stop or come up.
pub fn after_clean_stop(
    cluster: &mut Cluster,
    row: &str,
    bytes: u64,
    partitions: i32,
    scale: &Scale,
) -> Result<Figures> {
    let partitions = scale.count(u64::from(partitions.unsigned_abs()), LEAST_PARTITIONS);
    let topic = Topic::single(i32::try_from(partitions)?).kept();
    let name = topics::unique_name(row);
    let target = topic.create(cluster, &name)?;
    Filling::of_bytes(SHAPE, scale.count(bytes, LEAST_BYTES), target.leaders.len()).fill(&target, 1)?;
    cluster.stop()?;
    let began = clock::now();
    cluster.up()?;
    let acknowledged = first_ack::wait(cluster, &name, &[topic.partitions / 2])?;
    Ok(first_ack_figures(began, acknowledged))
}

/// From the start after kill -9 until every partition has acknowledged a record, with what was written on the disk alone;
/// beside how fast the disk is read.
///
/// # Errors
/// The node does not come up, or files cannot be read.
pub fn after_kill(cluster: &mut Cluster, row: &str, bytes: u64, scale: &Scale) -> Result<Figures> {
    let topic = Topic::single(6).kept();
    let name = topics::unique_name(row);
    let target = topic.create(cluster, &name)?;
    let filling = Filling::of_bytes(SHAPE, scale.count(bytes, LEAST_BYTES), 6);
    filling.fill(&target, 1)?;
    cluster.kill()?;
    let folders: Vec<PathBuf> = (0..6)
        .map(|partition| cluster.log_dir(1).join(format!("{name}-{partition}")))
        .collect();
    drop_all(&folders)?;
    let disk_bytes_per_second = read_all(&folders)?;
    drop_all(&folders)?;
    let began = clock::now();
    cluster.up()?;
    let acknowledged = first_ack::wait(cluster, &name, &[0, 1, 2, 3, 4, 5])?;
    let seconds = (acknowledged - began) as f64 / SECOND as f64;
    let mut figures = first_ack_figures(began, acknowledged);
    let speed = filling.bytes(6) as f64 / seconds;
    figures.set(Metric::Throughput, speed / 1e6);
    figures.set(Metric::DiskShare, 100.0 * speed / disk_bytes_per_second);
    Ok(figures)
}

fn drop_all(folders: &[PathBuf]) -> Result<()> {
    folders
        .iter()
        .try_for_each(|folder| page_cache::drop_folder(folder))
}

/// Bytes per second of reading all files in the folders, by a thread for each folder: more than any system reads at a time.
fn read_all(folders: &[PathBuf]) -> Result<f64> {
    let began = clock::now();
    let bytes: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = folders
            .iter()
            .map(|folder| scope.spawn(|| read_folder(folder)))
            .collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a reading thread panicked"))?);
        joined.sum::<Result<usize>>()
    })?;
    Ok(bytes as f64 * 1e9 / (clock::now() - began) as f64)
}

fn read_folder(folder: &Path) -> Result<usize> {
    let files = std::fs::read_dir(folder)?;
    files.map(|entry| read_file(&entry?.path())).sum()
}

fn read_file(path: &Path) -> Result<usize> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut piece = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(bytes),
            count => bytes += count,
        }
    }
}
