//! What a guarantee costs: the same work with it and without it, in turns on one cluster.

use anyhow::{Context, Result, ensure};
use odradek_common::records::batch;

use crate::admin::Admin;
use crate::batches::BatchShape;
use crate::clock;
use crate::load::schedule::Window;
use crate::load::transactional::TransactionalProducer;
use crate::load::{ProduceLoad, Target};
use crate::machine;
use crate::metric::{Figures, Metric};
use crate::proc;
use crate::protocol::fetch::{self, FetchSettings, FetchTemplate};
use crate::scale::Scale;
use crate::systems::Cluster;
use crate::workloads::topics::{self, Topic};
use crate::workloads::{under_load, warm_up};

/// With or without the guarantee, in the order of a turn, which has one of each: whoever comes first in one comes second in the
/// next, for what was done before is not without effect.
fn order(turn: usize) -> [bool; 2] {
    let second = turn.is_multiple_of(2);
    [!second, second]
}

/// Producers with sequences against producers without.
///
/// # Errors
/// A load failed.
pub fn idempotent(
    cluster: &mut Cluster,
    row: &str,
    topic: &Topic,
    produce: ProduceLoad,
    scale: &Scale,
) -> Result<Figures> {
    let (mut plain, mut idempotent) = (0.0, 0.0);
    let mut figures = Figures::default();
    for numbered in (0..scale.turns).flat_map(order) {
        let sum = if numbered { &mut idempotent } else { &mut plain };
        let produce = ProduceLoad {
            idempotent: numbered,
            ..produce
        };
        let measured = under_load(cluster, row, topic, produce, None, scale)?.produce_figures();
        *sum += measured.get(Metric::CpuPerGb).context("a CPU time per GB")?;
        if numbered {
            figures = measured;
        }
    }
    figures.set(Metric::CpuPerGb, idempotent / scale.turns as f64);
    figures.set(Metric::CpuOfPlain, 100.0 * idempotent / plain);
    Ok(figures)
}

/// Records of a batch that is read.
const READ_RECORDS: u32 = 16;
/// A batch of a producer's default size.
const READ_SHAPE: BatchShape = BatchShape::plain(READ_RECORDS, 1000);
/// Batches of a transaction.
const READ_BATCHES: u32 = 16;
/// Every so many transactions one is aborted.
const ABORT_EVERY: u64 = 10;
/// The offset of a transaction's marker.
const MARKER_OFFSETS: i64 = 1;
/// Bytes of a small run.
const LEAST_BYTES: u64 = 1 << 20;

/// A consumer that takes much at once.
const fn settings(read_committed: bool) -> FetchSettings {
    FetchSettings {
        min_bytes: 1,
        max_wait_ms: 500,
        partition_max_bytes: 1 << 20,
        read_committed,
    }
}

/// Reading a partition full of transactions, a tenth of them aborted, under read_committed against read_uncommitted.
///
/// # Errors
/// A transaction failed, or the partition cannot be read to its end.
pub fn read_committed(cluster: &Cluster, row: &str, bytes: u64, scale: &Scale) -> Result<Figures> {
    let name = topics::unique_name(row);
    let target = Topic::single(1).kept().create(cluster, &name)?;
    let end = fill(cluster, &target, scale.count(bytes, LEAST_BYTES))?;
    warm_up::once(cluster, scale, |seconds| {
        let window = Window::new(clock::now(), clock::seconds(seconds));
        while clock::now() < window.to {
            read(&target, settings(true), end, window)?;
        }
        Ok(())
    })?;
    machine::settle();
    let (mut uncommitted, mut committed) = (0.0, 0.0);
    let mut figures = Figures::default();
    for isolated in (0..scale.turns).flat_map(order) {
        let sum = if isolated {
            &mut committed
        } else {
            &mut uncommitted
        };
        let from = clock::now() + clock::seconds(scale.warm_seconds);
        let window = Window::new(from, clock::seconds(scale.seconds));
        let watch = proc::watch(cluster.pids(), window.from, window.to);
        let mut bytes = 0;
        while clock::now() < window.to {
            bytes += read(&target, settings(isolated), end, window)?;
        }
        let usage = watch.finish()?;
        ensure!(bytes > 0, "nothing was read within the window");
        let cpu_per_gb = usage.cpu_seconds * 1e9 / bytes as f64;
        *sum += cpu_per_gb;
        if isolated {
            figures.set(Metric::Throughput, bytes as f64 / 1e6 / usage.elapsed_seconds);
            usage.add_to(&mut figures);
        }
    }
    topics::delete(cluster, &name)?;
    figures.set(Metric::CpuPerGb, committed / scale.turns as f64);
    figures.set(Metric::CpuOfPlain, 100.0 * committed / uncommitted);
    Ok(figures)
}

/// Fills the partition; its end.
fn fill(cluster: &Cluster, target: &Target, bytes: u64) -> Result<i64> {
    let each = READ_SHAPE.uncompressed_bytes() as u64 * u64::from(READ_BATCHES);
    let transactions = (bytes / each).max(1);
    let mut producer = TransactionalProducer::open(cluster.address(), target, &READ_SHAPE)?;
    for number in 0..transactions {
        producer.produce(READ_BATCHES)?;
        producer.end(number % ABORT_EVERY != ABORT_EVERY - 1)?;
    }
    let offsets = i64::from(READ_RECORDS * READ_BATCHES) + MARKER_OFFSETS;
    Ok(i64::try_from(transactions)? * offsets)
}

/// Reads partition 0 once; the bytes that came within the window.
fn read(target: &Target, settings: FetchSettings, end: i64, window: Window) -> Result<u64> {
    let leader = target.leaders.first().context("a topic of one partition")?;
    let mut connection = Admin::open(*leader)?;
    let mut template = FetchTemplate::new(&target.topic, &[0], settings)?;
    let (mut offset, mut bytes, mut number) = (0, 0, 0);
    while offset < end {
        number += 1;
        template.set_offset(0, offset);
        let frame = connection.exchange(template.stamped(number))?;
        let within = window.contains(clock::now());
        fetch::for_each_partition(&frame, |fetched| {
            ensure!(
                fetched.error_code == 0,
                "a fetch was refused with error {}",
                fetched.error_code
            );
            for batch in batch::batches(fetched.records) {
                let (header, _) = batch?;
                ensure!(
                    header.base_offset == offset,
                    "offset {} came instead of {offset}",
                    header.base_offset
                );
                offset = header.next_offset();
                bytes += if within { header.size_bytes() as u64 } else { 0 };
            }
            Ok(())
        })?;
    }
    Ok(bytes)
}
