//! A consumer far behind: how fast it catches up from memory, and what it does to a producer when it reads from the disk.

use anyhow::{Context, Result, anyhow};

use crate::batches::BatchShape;
use crate::clock;
use crate::load::fill::Filling;
use crate::load::schedule::Window;
use crate::load::{self, Load, Prepared, ProduceLoad, Target};
use crate::machine;
use crate::metric::{Figures, Metric};
use crate::proc;
use crate::protocol::fetch::FetchSettings;
use crate::scale::Scale;
use crate::systems::{Cluster, page_cache};
use crate::workloads::topics::{self, Topic};
use crate::workloads::warm_up;

/// The records that are read.
const SHAPE: BatchShape = BatchShape::plain(64, 1000);
/// A consumer that takes much at once.
const FETCH: FetchSettings = FetchSettings {
    min_bytes: 1,
    max_wait_ms: 500,
    partition_max_bytes: 4 << 20,
    read_committed: false,
};
/// Bytes of a small run.
const LEAST_BYTES: u64 = 1 << 20;

/// One partition that has something to read.
#[derive(Debug)]
struct Backlog {
    name: String,
    target: Target,
    filling: Filling,
}

impl Backlog {
    fn create(cluster: &Cluster, row: &str, bytes: u64, scale: &Scale) -> Result<Self> {
        let name = topics::unique_name(row);
        let target = Topic::single(1).kept().create(cluster, &name)?;
        let filling = Filling::of_bytes(SHAPE, scale.count(bytes, LEAST_BYTES), 1);
        filling.fill(&target, 1)?;
        Ok(Self {
            name,
            target,
            filling,
        })
    }

    /// Reads again and again until the window is over; the bytes that came within it.
    fn read(
        &self,
        window: Window,
        bytes_per_second: Option<f64>,
        before_each: impl Fn() -> Result<()>,
    ) -> Result<u64> {
        let mut bytes = 0;
        while clock::now() < window.to {
            before_each()?;
            let tallies = self.filling.read(&self.target, FETCH, window, bytes_per_second)?;
            bytes += tallies.iter().map(|tally| tally.bytes).sum::<u64>();
        }
        Ok(bytes)
    }
}

/// Reads what is in memory.
///
/// # Errors
/// Records are missing or a connection failed.
pub fn warm(cluster: &Cluster, row: &str, bytes: u64, scale: &Scale) -> Result<Figures> {
    let backlog = Backlog::create(cluster, row, bytes, scale)?;
    warm_up::once(cluster, scale, |seconds| {
        let window = Window::new(clock::now(), clock::seconds(seconds));
        backlog.read(window, None, || Ok(())).map(drop)
    })?;
    machine::settle();
    let from = clock::now() + clock::seconds(scale.warm_seconds);
    let window = Window::new(from, clock::seconds(scale.seconds));
    let watch = proc::watch(cluster.pids(), window.from, window.to);
    let bytes = backlog.read(window, None, || Ok(()))?;
    let usage = watch.finish()?;
    topics::delete(cluster, &backlog.name)?;
    let mut figures = Figures::default();
    figures.set(Metric::Throughput, bytes as f64 / 1e6 / usage.elapsed_seconds);
    figures.set(Metric::CpuPerGb, usage.cpu_seconds * 1e9 / bytes as f64);
    usage.add_to(&mut figures);
    Ok(figures)
}

/// Produces while a consumer reads what is on the disk only, as fast as it can or at most at a rate; latencies are the producer's,
/// the throughput is the reader's.
///
/// # Errors
/// Records are missing or a connection failed.
pub fn cold(
    cluster: &Cluster,
    row: &str,
    bytes: u64,
    bytes_per_second: Option<f64>,
    produce: ProduceLoad,
    scale: &Scale,
) -> Result<Figures> {
    let backlog = Backlog::create(cluster, row, bytes, scale)?;
    let reader = Reader {
        backlog: &backlog,
        bytes_per_second,
    };
    let produce = ProduceLoad {
        records_per_second: produce.records_per_second.map(|rate| scale.rate(rate)),
        ..produce
    };
    warm_up::once(cluster, scale, |seconds| {
        beside(cluster, row, reader, produce, (0.0, seconds)).map(drop)
    })?;
    let figures = beside(cluster, row, reader, produce, (scale.warm_seconds, scale.seconds))?;
    topics::delete(cluster, &backlog.name)?;
    Ok(figures)
}

/// A consumer of what is on the disk.
#[derive(Debug, Clone, Copy)]
struct Reader<'a> {
    backlog: &'a Backlog,
    bytes_per_second: Option<f64>,
}

/// Produces to a new topic while the backlog is read from the disk.
fn beside(
    cluster: &Cluster,
    row: &str,
    Reader {
        backlog,
        bytes_per_second,
    }: Reader<'_>,
    produce: ProduceLoad,
    (warm_seconds, seconds): (f64, f64),
) -> Result<Figures> {
    let folder = cluster.log_dir(1).join(format!("{}-0", backlog.name));
    let name = topics::unique_name(row);
    let load = Load {
        target: Topic::single(6).create(cluster, &name)?,
        produce,
        consume: None,
        warm_seconds,
        seconds,
    };
    let prepared = Prepared::new(&load)?;
    let start = load::soon();
    let window = prepared.window(start);
    let (measured, read) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            // Dropping gigabytes takes a part of a second, and whoever reads again does it again.
            page_cache::drop_folder(&folder)?;
            // The producer's warm-up has the disk for itself.
            clock::sleep_until(window.from);
            backlog.read(window, bytes_per_second, || page_cache::drop_folder(&folder))
        });
        let measured = prepared.run(start, &cluster.pids());
        (measured, reader.join())
    });
    let read = read
        .map_err(|_| anyhow!("the reading thread panicked"))?
        .context("the cold reader")?;
    let measured = measured?;
    topics::delete(cluster, &name)?;
    let mut figures = measured.produce_figures();
    figures.set(Metric::Throughput, read as f64 / 1e6 / seconds);
    Ok(figures)
}
