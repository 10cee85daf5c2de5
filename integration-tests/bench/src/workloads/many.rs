//! Many of something: topics made one after another, thousands of partitions.

use anyhow::{Context, Result};

use crate::admin::{self, Admin, NewTopic};
use crate::clock::{self, SECOND};
use crate::latency::Latencies;
use crate::load::ProduceLoad;
use crate::metric::{Figures, Metric};
use crate::proc;
use crate::scale::Scale;
use crate::systems::Cluster;
use crate::workloads::topics::{self, Topic};
use crate::workloads::{first_ack, under_load, warm_up};

/// Topics or partitions of a small run.
const LEAST: u64 = 10;

/// Creates topics of one partition, one after another.
///
/// # Errors
/// One was refused.
pub fn topics_in_turn(cluster: &Cluster, row: &str, count: u64, scale: &Scale) -> Result<Figures> {
    warm_up::repeat(cluster, scale, || {
        create_in_turn(cluster, row, count, scale).map(drop)
    })?;
    let mut figures = Figures::default();
    create_in_turn(cluster, row, count, scale)?.add_to(&mut figures);
    Ok(figures)
}

fn create_in_turn(cluster: &Cluster, row: &str, count: u64, scale: &Scale) -> Result<Latencies> {
    let mut admin = Admin::open(cluster.address())?;
    let mut latencies = Latencies::new();
    let names: Vec<String> = (0..scale.count(count, LEAST))
        .map(|_| topics::unique_name(row))
        .collect();
    for name in &names {
        let topic = NewTopic {
            name,
            partitions: 1,
            replicas: 1,
            configs: &[],
        };
        let began = clock::now();
        admin.create_topics(&[topic])?;
        latencies.record(began, clock::now());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    admin.delete_topics(&names)?;
    Ok(latencies)
}

/// One topic of very many partitions: when it is usable, memory with one record in each, and how long a restart takes.
///
/// # Errors
/// The topic does not become usable, or the node does not restart.
pub fn partitions(cluster: &mut Cluster, row: &str, count: i32, scale: &Scale) -> Result<Figures> {
    let count = i32::try_from(scale.count(u64::from(count.unsigned_abs()), LEAST))?;
    let name = topics::unique_name(row);
    let topic = NewTopic {
        name: &name,
        partitions: count,
        replicas: 1,
        // The records are old: retention would take them.
        configs: &[("retention.ms", "-1")],
    };
    let some = [0, count / 2, count - 1];
    let mut figures = Figures::default();

    let began = clock::now();
    let target = admin::create_ready(&cluster.addresses(), &topic)?;
    let usable = first_ack::wait(cluster, &name, &some)?;
    figures.set(Metric::Usable, clock::milliseconds_between(began, usable));

    topics::begin(&target)?;
    let now = clock::now();
    figures.set(Metric::Begun, clock::milliseconds_between(usable, now));
    let length = SECOND.min(clock::seconds(scale.seconds));
    let usage = proc::watch(cluster.pids(), now, now + length);
    clock::sleep_until(now + length + SECOND / 20);
    usage.finish()?.add_to(&mut figures);

    cluster.stop()?;
    let began = clock::now();
    cluster.up()?;
    let acknowledged = first_ack::wait(cluster, &name, &some)?;
    figures.set(Metric::FirstAck, clock::milliseconds_between(began, acknowledged));
    Ok(figures)
}

/// The throughput over many partitions, and as a share of that over few, in turns: each comes first once.
///
/// # Errors
/// A load failed.
pub fn throughput(
    cluster: &mut Cluster,
    row: &str,
    (few, many): (i32, i32),
    produce: ProduceLoad,
    scale: &Scale,
) -> Result<Figures> {
    let topic = |count: i32| -> Result<Topic> {
        let count = scale.count(u64::from(count.unsigned_abs()), LEAST);
        Ok(Topic::single(i32::try_from(count)?).begun())
    };
    let mut sums = [(Metric::Throughput, 0.0), (Metric::CpuPerGb, 0.0)];
    let mut over_few = 0.0;
    let mut figures = Figures::default();
    for count in [few, many, many, few] {
        let measured = under_load(cluster, row, &topic(count)?, produce, None, scale)?.produce_figures();
        if count == few {
            over_few += measured.get(Metric::Throughput).context("a throughput")?;
            continue;
        }
        for (metric, sum) in &mut sums {
            *sum += measured.get(*metric).context("what it did and used")?;
        }
        figures = measured;
    }
    for (metric, sum) in sums {
        figures.set(metric, sum / 2.0);
    }
    figures.set(Metric::Share, 100.0 * sums[0].1 / over_few);
    Ok(figures)
}
