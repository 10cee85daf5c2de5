//! Counters and latency histograms of requests.
//!
//! Every request passes here, so each thread counts in a shard of its own and no cache line travels between threads; a scrape
//! adds the shards up. A series exists from the first request of its API on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use kafka_protocol::messages::ApiKey;

use super::api_name;
use super::catalogue::{self, SECONDS_BUCKETS};
use super::scrape::Exporter;
use crate::api::{self, APIS};

/// Threads that count without sharing a shard.
const SHARDS: usize = 8;
/// Versions that are told apart; higher ones count as the last.
const VERSIONS: usize = 32;
const BUCKETS: usize = SECONDS_BUCKETS.len();

/// The phases of a request, as the label `phase` names them.
const PHASES: [&str; 4] = ["queue", "local", "remote", "total"];
const QUEUE: usize = 0;
const LOCAL: usize = 1;
const REMOTE: usize = 2;
const TOTAL: usize = 3;

static REQUESTS: LazyLock<Vec<ApiRequests>> = LazyLock::new(|| {
    APIS.iter()
        .map(|api| ApiRequests {
            key: api.key,
            shards: OnceLock::new(),
        })
        .collect()
});

/// What is counted of one API; the order is that of the table.
struct ApiRequests {
    key: ApiKey,
    /// Made by the first request.
    shards: OnceLock<Box<[Shard; SHARDS]>>,
}

/// Two cache lines apart, because processors fetch them in pairs.
#[repr(align(128))]
#[derive(Default)]
struct Shard {
    versions: [AtomicU64; VERSIONS],
    phases: [Phase; PHASES.len()],
}

#[derive(Default)]
struct Phase {
    /// Samples by bucket; those above the last bound are in the last place.
    buckets: [AtomicU64; BUCKETS + 1],
    sum_ns: AtomicU64,
}

impl Phase {
    fn record(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < ns);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

static BOUNDS_NS: LazyLock<[u64; BUCKETS]> =
    LazyLock::new(|| std::array::from_fn(|at| (SECONDS_BUCKETS[at] * 1e9) as u64));

impl ApiRequests {
    fn of(api: ApiKey) -> &'static Self {
        let place = api::place(api as i16);
        &REQUESTS[place.expect("every API that is served has a row")]
    }

    fn shard(&self) -> &Shard {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        }
        let shards = self
            .shards
            .get_or_init(|| Box::new(std::array::from_fn(|_| Shard::default())));
        &shards[MINE.with(|mine| *mine)]
    }
}

/// Measures one request.
pub struct ApiTimer {
    requests: &'static ApiRequests,
    received_at: Instant,
    started_at: Instant,
    parked_at: Option<Instant>,
}

impl ApiTimer {
    /// A request begins.
    #[must_use]
    pub fn start(api: ApiKey, version: i16, received_at: Instant, now: Instant) -> Self {
        let requests = ApiRequests::of(api);
        let shard = requests.shard();
        let version = usize::try_from(version).unwrap_or(0).min(VERSIONS - 1);
        shard.versions[version].fetch_add(1, Ordering::Relaxed);
        shard.phases[QUEUE].record(now.saturating_duration_since(received_at));
        Self {
            requests,
            received_at,
            started_at: now,
            parked_at: None,
        }
    }

    /// From here on the request waits: for replication, for records, for the controller.
    #[must_use]
    pub fn parked(mut self) -> Self {
        self.parked_at = Some(Instant::now());
        self
    }

    /// The answer is ready.
    pub fn done(self) {
        self.done_at(Instant::now());
    }

    /// The answer was ready at `now`.
    pub fn done_at(self, now: Instant) {
        let parked_at = self.parked_at.unwrap_or(now);
        let phases = &self.requests.shard().phases;
        phases[LOCAL].record(parked_at.saturating_duration_since(self.started_at));
        phases[REMOTE].record(now.saturating_duration_since(parked_at));
        phases[TOTAL].record(now.saturating_duration_since(self.received_at));
    }
}

/// Writes the series of every API that was asked for.
pub fn render(exporter: &mut Exporter) {
    let asked: Vec<(&'static str, &[Shard; SHARDS])> = REQUESTS
        .iter()
        .filter_map(|requests| Some((api_name(requests.key), &**requests.shards.get()?)))
        .collect();
    let sum = |shards: &[Shard; SHARDS], of: &dyn Fn(&Shard) -> &AtomicU64| {
        shards
            .iter()
            .map(|shard| of(shard).load(Ordering::Relaxed))
            .sum::<u64>()
    };
    for (api, shards) in &asked {
        for version in 0..VERSIONS {
            let count = sum(shards, &|shard| &shard.versions[version]);
            if count > 0 {
                let labels = [("api", *api), ("version", &version.to_string())];
                exporter.sample(catalogue::REQUESTS, &labels, count as f64);
            }
        }
    }
    for (api, shards) in &asked {
        for (at, phase) in PHASES.iter().enumerate() {
            let counts: Vec<u64> = (0..=BUCKETS)
                .map(|bucket| sum(shards, &|shard| &shard.phases[at].buckets[bucket]))
                .collect();
            let sum_ns = sum(shards, &|shard| &shard.phases[at].sum_ns);
            let labels = [("api", *api), ("phase", *phase)];
            exporter.histogram(
                catalogue::REQUEST_SECONDS,
                &labels,
                SECONDS_BUCKETS,
                &counts,
                sum_ns as f64 / 1e9,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_version_and_measured_by_phase() {
        // No other test of this process asks for DeleteRecords.
        let begun = Instant::now();
        let later = move |ms| begun + Duration::from_millis(ms);
        let threads = (0..3).map(|_| {
            std::thread::spawn(move || {
                let timer = ApiTimer::start(ApiKey::DeleteRecords, 2, begun, later(3));
                timer.done_at(later(45));
            })
        });
        threads
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let mut exporter = Exporter::after(String::new());
        render(&mut exporter);
        let text = exporter.finish();
        let line = |line: &str| assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        line("odradek_requests_total{api=\"DeleteRecords\",version=\"2\"} 3");
        line("odradek_request_seconds_bucket{api=\"DeleteRecords\",phase=\"total\",le=\"0.025\"} 0");
        line("odradek_request_seconds_bucket{api=\"DeleteRecords\",phase=\"total\",le=\"0.05\"} 3");
        line("odradek_request_seconds_bucket{api=\"DeleteRecords\",phase=\"total\",le=\"+Inf\"} 3");
        line("odradek_request_seconds_count{api=\"DeleteRecords\",phase=\"remote\"} 3");
        line("odradek_request_seconds_sum{api=\"DeleteRecords\",phase=\"local\"} 0.126");
        assert_eq!(
            text.matches("# TYPE odradek_request_seconds histogram").count(),
            1
        );
    }
}
