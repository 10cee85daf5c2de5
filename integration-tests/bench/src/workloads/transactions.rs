//! One producer's transactions, one after another, each as soon as the last is committed.
//!
//! The latency is that of the commit, from EndTxn to its answer; the rate is that of whole transactions, for which the next
//! one waits until the markers of the last are written.

use anyhow::{Result, ensure};

use crate::batches::BatchShape;
use crate::clock;
use crate::latency::Latencies;
use crate::load;
use crate::load::schedule::Window;
use crate::load::transactional::TransactionalProducer;
use crate::machine;
use crate::metric::{Figures, Metric};
use crate::proc;
use crate::scale::Scale;
use crate::systems::Cluster;
use crate::workloads::topics::{self, Topic};
use crate::workloads::warm_up;

/// What each transaction consists of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TransactionLoad {
    /// Batches, to the partitions in turn.
    pub batches: u32,
    /// Each batch.
    pub shape: BatchShape,
}

/// Runs transactions until the window is over.
///
/// # Errors
/// One failed, or none was committed within the window.
pub fn run(
    cluster: &Cluster,
    row: &str,
    topic: &Topic,
    load: TransactionLoad,
    scale: &Scale,
) -> Result<Figures> {
    warm_up::once(cluster, scale, |seconds| {
        turn(cluster, row, topic, load, (0.0, seconds)).map(drop)
    })?;
    turn(cluster, row, topic, load, (scale.warm_seconds, scale.seconds))
}

fn turn(
    cluster: &Cluster,
    row: &str,
    topic: &Topic,
    load: TransactionLoad,
    (warm, seconds): (f64, f64),
) -> Result<Figures> {
    let name = topics::unique_name(row);
    let target = topic.create(cluster, &name)?;
    let mut producer = TransactionalProducer::open(cluster.address(), &target, &load.shape)?;
    machine::settle();
    let window = Window::new(load::soon() + clock::seconds(warm), clock::seconds(seconds));
    let brokers = proc::watch(cluster.pids(), window.from, window.to);
    let own = proc::watch(vec![std::process::id()], window.from, window.to);
    let (mut commits, mut committed) = (Latencies::new(), 0_u64);
    while clock::now() < window.to {
        producer.produce(load.batches)?;
        let began = clock::now();
        producer.end(true)?;
        let ended = clock::now();
        if window.contains(ended) {
            committed += 1;
            commits.record(began, ended);
        }
    }
    let (usage, own) = (brokers.finish()?, own.finish()?);
    ensure!(committed > 0, "no transaction was committed within the window");
    topics::delete(cluster, &name)?;
    let mut figures = Figures::default();
    figures.set(Metric::Transactions, committed as f64 / usage.elapsed_seconds);
    figures.set(
        Metric::CpuPerTransaction,
        usage.cpu_seconds * 1e6 / committed as f64,
    );
    commits.add_to(&mut figures);
    usage.add_to(&mut figures);
    figures.set(
        Metric::ClientCpuShare,
        100.0 * own.cpu_seconds / own.elapsed_seconds,
    );
    Ok(figures)
}
