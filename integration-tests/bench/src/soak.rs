//! A long mixed load on one node, with the curve of its memory: producers and consumers that come and go, a group whose
//! members join, commit and vanish, topics created and deleted.
//!
//! What is to be seen is that memory does not grow. Records are checked as in every load; the curve is for the reader.

pub mod curve;
pub mod group_member;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::admin::{Admin, NewTopic};
use crate::batches::BatchShape;
use crate::clock::{self, Nanos, SECOND};
use crate::load::{self, ConsumeLoad, Load, ProduceLoad};
use crate::proc;
use crate::protocol::fetch::FetchSettings;
use crate::soak::curve::{Point, Soak};
use crate::soak::group_member::Member;
use crate::systems::{Cluster, Programs, Shape, System};
use crate::workloads::topics::{self, Topic};

/// Seconds after which producers and consumers end and others begin on a new topic.
const SLICE_SECONDS: f64 = 20.0;
/// Members of the group at a time.
const MEMBERS: u64 = 4;
/// Memory is looked at this often.
const SAMPLE_EVERY: Nanos = 5 * SECOND;
/// How long after the end a kind of work may be done for the first time.
const MIXED_LIMIT: Nanos = 120 * SECOND;
/// Between two topics of the admin client.
const ADMIN_PAUSE: Duration = Duration::from_millis(500);
/// What is produced and read.
const PRODUCE: ProduceLoad = ProduceLoad {
    shape: BatchShape::plain(16, 1000),
    connections: 4,
    in_flight_max: 5,
    records_per_second: Some(20_000.0),
    acks: -1,
    idempotent: false,
};
/// Who reads it.
const CONSUME: ConsumeLoad = ConsumeLoad {
    readers: 2,
    connections: 2,
    fetch: FetchSettings {
        min_bytes: 1,
        max_wait_ms: 500,
        partition_max_bytes: 1 << 20,
        read_committed: false,
    },
};

/// What was done so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests acknowledged.
    pub requests: AtomicU64,
    /// Records that reached consumers.
    pub delivered: AtomicU64,
    /// Group members that came and went.
    pub members: AtomicU64,
    /// Offsets committed.
    pub commits: AtomicU64,
    /// Topics created and deleted.
    pub topics: AtomicU64,
}

impl Counts {
    /// Whether all kinds of work were done.
    fn are_mixed(&self) -> bool {
        let counts = [
            &self.requests,
            &self.delivered,
            &self.members,
            &self.commits,
            &self.topics,
        ];
        counts.iter().all(|count| count.load(Ordering::Relaxed) > 0)
    }
}

/// Loads one node for so many minutes.
///
/// # Errors
/// Anything was refused or lost, or a kind of work was never done.
pub fn run(system: System, minutes: f64, programs: &Programs) -> Result<Soak> {
    let overrides = topics::BROKER_LINES
        .iter()
        .map(|line| (*line).to_owned())
        .collect();
    let cluster = Cluster::start(
        Shape {
            system,
            nodes: 1,
            overrides,
            awaits_each_removal: true,
        },
        programs,
    )?;
    Topic::single(1).create(&cluster, group_member::GROUP_TOPIC)?;
    let counts = Counts::default();
    let began = clock::now();
    let until = began + clock::seconds(minutes * 60.0);
    let stopped = AtomicBool::new(false);
    let points = std::thread::scope(|scope| -> Result<Vec<Point>> {
        let workers = start_workers(scope, &cluster, &counts, &stopped, until);
        let points = sample(&cluster, began, until, &counts, &workers);
        stopped.store(true, Ordering::Relaxed);
        for worker in workers {
            worker
                .join()
                .map_err(|_| anyhow!("a thread of the soak panicked"))??;
        }
        points
    })?;
    ensure!(counts.are_mixed(), "a kind of work was never done: {counts:?}");
    Soak::new(system, minutes, points, &counts, programs)
}

type Worker<'scope> = ScopedJoinHandle<'scope, Result<()>>;

fn start_workers<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    cluster: &'env Cluster,
    counts: &'env Counts,
    stopped: &'env AtomicBool,
    until: Nanos,
) -> Vec<Worker<'scope>> {
    let address = cluster.address();
    let mut workers = vec![
        scope.spawn(move || produce_and_consume(cluster, counts, stopped, until)),
        scope.spawn(move || create_and_delete(address, counts, stopped)),
    ];
    for number in 0..MEMBERS {
        workers.push(scope.spawn(move || join_and_leave(address, number, counts, stopped)));
    }
    workers
}

/// Looks at memory until the end, or until a worker has failed. On a slow machine the end comes when every kind of work
/// was done.
fn sample(
    cluster: &Cluster,
    began: Nanos,
    until: Nanos,
    counts: &Counts,
    workers: &[Worker<'_>],
) -> Result<Vec<Point>> {
    let pids = cluster.pids();
    let mut points = Vec::new();
    let (mut last, mut cpu) = (clock::now(), proc::total_cpu_seconds(&pids)?);
    loop {
        let over = clock::now() >= until && (counts.are_mixed() || clock::now() >= until + MIXED_LIMIT);
        // A worker that has ended by now has failed; its error comes out when it is joined.
        if over || workers.iter().any(ScopedJoinHandle::is_finished) {
            return Ok(points);
        }
        clock::sleep_until((last + SAMPLE_EVERY).min(until.max(last + SECOND)));
        let (now, used) = (clock::now(), proc::total_cpu_seconds(&pids)?);
        points.push(Point {
            seconds: (now - began) as f64 / SECOND as f64,
            rss_mib: proc::total_rss_bytes(&pids)? as f64 / f64::from(1 << 20),
            cpu_percent: 100.0 * (used - cpu) * SECOND as f64 / (now - last) as f64,
        });
        (last, cpu) = (now, used);
    }
}

/// Slices of load, each with new connections and a topic of its own.
fn produce_and_consume(cluster: &Cluster, counts: &Counts, stopped: &AtomicBool, until: Nanos) -> Result<()> {
    while !stopped.load(Ordering::Relaxed) {
        let left = until.saturating_sub(clock::now()) as f64 / SECOND as f64;
        let name = topics::unique_name("soak");
        let load = Load {
            target: Topic::single(6).create(cluster, &name)?,
            produce: PRODUCE,
            consume: Some(CONSUME),
            warm_seconds: 0.0,
            seconds: left.clamp(1.0, SLICE_SECONDS),
        };
        let measured = load::run(&load, &cluster.pids())?;
        counts
            .requests
            .fetch_add(measured.requests_in_all, Ordering::Relaxed);
        counts
            .delivered
            .fetch_add(measured.delivered_in_all, Ordering::Relaxed);
        topics::delete(cluster, &name)?;
    }
    Ok(())
}

/// A topic is created, looked at and deleted, again and again, each time on a new connection.
fn create_and_delete(address: SocketAddr, counts: &Counts, stopped: &AtomicBool) -> Result<()> {
    while !stopped.load(Ordering::Relaxed) {
        let name = topics::unique_name("passing");
        let mut admin = Admin::open(address)?;
        admin.create_topics(&[NewTopic {
            name: &name,
            partitions: 3,
            replicas: 1,
            configs: &[],
        }])?;
        admin.metadata(&[&name])?;
        admin.delete_topics(&[&name])?;
        counts.topics.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(ADMIN_PAUSE);
    }
    Ok(())
}

/// Members with different lifetimes; every other one vanishes without a word.
fn join_and_leave(address: SocketAddr, number: u64, counts: &Counts, stopped: &AtomicBool) -> Result<()> {
    let mut lives = number;
    while !stopped.load(Ordering::Relaxed) {
        let mut member = Member::join(address, "soak")?;
        counts.members.fetch_add(1, Ordering::Relaxed);
        let end = clock::now() + (5 + lives % 7) * SECOND;
        while clock::now() < end && !stopped.load(Ordering::Relaxed) {
            counts.commits.fetch_add(member.live()?, Ordering::Relaxed);
        }
        if lives.is_multiple_of(2) {
            member.leave()?;
        }
        lives += 1;
    }
    Ok(())
}
