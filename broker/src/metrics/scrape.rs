//! What is read at a scrape from its owner: replicas, topics, groups, the quorum, the process.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use odradek_broker_core::groups::GroupState;
use odradek_broker_core::transactions::metadata::TransactionState;
use odradek_broker_log::directory::LogDirectory;
use odradek_broker_log::room::DirectoryRoom;
use odradek_common::ids::NodeId;
use odradek_common::metadata::PartitionImage;
use odradek_common::time::Now;
use odradek_controller_core::quorum::Role;

use super::catalogue::{self as names, Kind, METRICS};
use super::{Connections, TopicTraffic, UncommittedTimestamps};
use crate::broker::Broker;
use crate::clock;
use crate::coordinator::groups::snapshot::CommittedOffset;
use crate::data_directory::DataDirectory;
use crate::names::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use crate::replica::Replica;
use crate::replica::transactions::OpenTransactions;

/// Writes samples in the text format, with HELP and TYPE before the first of each metric.
pub struct Exporter {
    text: String,
    last: &'static str,
}

impl Exporter {
    /// Goes on after what the recorder rendered.
    #[must_use]
    pub fn after(text: String) -> Self {
        Self { text, last: "" }
    }

    /// The whole text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    /// One sample. Samples of a metric must follow one another.
    pub fn sample(&mut self, name: &'static str, labels: &[(&str, &str)], value: f64) {
        self.begin(name);
        self.line(name, "", labels, value);
    }

    /// One histogram: samples by bucket, those above the last bound in the last place, and the sum of all.
    pub fn histogram(
        &mut self,
        name: &'static str,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        self.begin(name);
        let mut below = 0;
        for (at, count) in counts.iter().enumerate() {
            below += count;
            let bound = bounds.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.line(name, "_bucket", &labels, below as f64);
        }
        self.line(name, "_sum", labels, sum);
        self.line(name, "_count", labels, below as f64);
    }

    /// HELP and TYPE before the first sample of a metric.
    fn begin(&mut self, name: &'static str) {
        if name != self.last {
            let metric = METRICS.iter().find(|metric| metric.name == name);
            let metric = metric.expect("every exported name is in the catalogue");
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            self.text
                .push_str(&format!("# HELP {name} {}\n# TYPE {name} {kind}\n", metric.help));
            self.last = name;
        }
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            self.escaped(value);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        _ = writeln!(self.text, " {value}");
    }

    fn escaped(&mut self, value: &str) {
        // A name of a topic needs none of this, and there may be a hundred thousand of them.
        if !value.contains(['\\', '"', '\n']) {
            self.text.push_str(value);
            return;
        }
        for c in value.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
    }
}

/// One replica at the moment of the scrape.
struct Seen {
    topic: Arc<str>,
    partition: String,
    leads: bool,
    /// Without those that a reassignment adds, as in Kafka's OngoingReassignmentState.
    replicas: usize,
    isr: usize,
    min_isr: usize,
    size: u64,
    start: i64,
    end: i64,
    high_watermark: i64,
    last_stable: i64,
    open: OpenTransactions,
    damaged: usize,
    lags: Vec<(i32, i64)>,
}

impl Seen {
    fn of(replica: &Replica, now: Now, timeout_max_ms: i64) -> Self {
        let open = replica.open_transactions(now, timeout_max_ms);
        replica.with(|p| {
            let (log, image) = (p.log(), p.image());
            let end = log.log_end_offset();
            let lags = p.followers().filter(|(_, f)| f.log_end_offset >= 0);
            Self {
                topic: replica.id.topic.clone(),
                partition: replica.id.partition.to_string(),
                leads: p.is_leader(),
                replicas: replication_factor(image),
                isr: image.isr.len(),
                min_isr: p.effective_min_isr(),
                size: log.size_bytes(),
                start: log.log_start_offset(),
                end,
                high_watermark: log.high_watermark(),
                last_stable: log.last_stable_offset(),
                open,
                damaged: log.damaged_segments(),
                lags: lags
                    .map(|(id, f)| (id, (end - f.log_end_offset).max(0)))
                    .collect(),
            }
        })
    }
}

/// How many replicas a partition has, or had before the reassignment that is under way.
fn replication_factor(image: &PartitionImage) -> usize {
    let is_added = |id: &&NodeId| image.adding_replicas.contains(id);
    image.replicas.iter().filter(|id| !is_added(id)).count()
}

/// Everything of a broker that has a life of its own.
pub fn broker(exporter: &mut Exporter, broker: &Broker, connections: &Connections) {
    let now = clock::now();
    let timeout_max_ms = i64::from(broker.config.load().transaction.max_timeout_ms);
    let seen: Vec<Seen> = broker
        .replicas
        .all()
        .iter()
        .map(|replica| Seen::of(replica, now, timeout_max_ms))
        .collect();
    partitions(exporter, &seen);
    log_directories(exporter, broker.replicas.directories());
    topics(exporter, &broker.metrics.topics());
    cluster(exporter, broker);
    groups(exporter, broker);
    transactions(exporter, broker);
    crate::cleaner::exposition::export(exporter, broker);
    exporter.sample(names::CONNECTIONS, &[], connections.open() as f64);
}

fn log_directories(exporter: &mut Exporter, directories: &[Arc<DataDirectory>]) {
    let offline = directories
        .iter()
        .filter(|directory| directory.is_offline())
        .count();
    exporter.sample(names::OFFLINE_LOG_DIRECTORIES, &[], offline as f64);
    let room = |directory: &Arc<DataDirectory>| {
        let path = directory.path().display().to_string();
        directory.room().map(|room| (path, room))
    };
    let rooms: Vec<(String, DirectoryRoom)> = directories.iter().filter_map(room).collect();
    let mut each = |name, value: fn(&DirectoryRoom) -> f64| {
        for (path, room) in &rooms {
            exporter.sample(name, &[("log_dir", path)], value(room));
        }
    };
    each(names::LOG_DIRECTORY_USABLE, |room| room.space.free_bytes as f64);
    each(names::LOG_DIRECTORY_TOTAL, |room| room.space.total_bytes as f64);
    each(names::LOG_DIRECTORY_FULL, |room| {
        f64::from(u8::from(room.is_full))
    });
    for directory in directories.iter().filter(|directory| !directory.is_offline()) {
        let (path, logs) = (directory.path().display().to_string(), directory.logs());
        let strays = logs.map_or(0, LogDirectory::stray_partitions);
        exporter.sample(names::STRAY_PARTITIONS, &[("log_dir", &path)], strays as f64);
    }
}

fn partitions(exporter: &mut Exporter, seen: &[Seen]) {
    let led = || seen.iter().filter(|p| p.leads);
    let count = |exporter: &mut Exporter, name, number: usize| exporter.sample(name, &[], number as f64);
    count(exporter, names::PARTITIONS, seen.len());
    count(exporter, names::LEADER_PARTITIONS, led().count());
    count(
        exporter,
        names::DAMAGED_SEGMENTS,
        seen.iter().map(|p| p.damaged).sum(),
    );
    count(
        exporter,
        names::UNDER_REPLICATED,
        led().filter(|p| p.isr < p.replicas).count(),
    );
    count(
        exporter,
        names::UNDER_MIN_ISR,
        led().filter(|p| p.isr < p.min_isr).count(),
    );
    let mut each = |name, value: fn(&Seen) -> f64| {
        for p in seen {
            exporter.sample(
                name,
                &[("topic", &p.topic), ("partition", &p.partition)],
                value(p),
            );
        }
    };
    each(names::LOG_SIZE, |p| p.size as f64);
    each(names::LOG_START_OFFSET, |p| p.start as f64);
    each(names::LOG_END_OFFSET, |p| p.end as f64);
    each(names::HIGH_WATERMARK, |p| p.high_watermark as f64);
    each(names::LAST_STABLE_OFFSET_LAG, |p| {
        (p.high_watermark - p.last_stable) as f64
    });
    open_transactions(exporter, seen);
    for p in led() {
        for (replica, lag) in &p.lags {
            let replica = replica.to_string();
            let labels = [
                ("topic", &*p.topic),
                ("partition", &*p.partition),
                ("replica", &*replica),
            ];
            exporter.sample(names::REPLICA_LAG, &labels, *lag as f64);
        }
    }
}

fn open_transactions(exporter: &mut Exporter, seen: &[Seen]) {
    let led = || seen.iter().filter(|p| p.leads);
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    for p in led().filter(|p| p.open.stalled_ms > 0) {
        let labels = [("topic", &*p.topic), ("partition", &*p.partition)];
        let stalled = seconds(p.open.stalled_ms);
        exporter.sample(names::LAST_STABLE_OFFSET_STALLED, &labels, stalled);
    }
    let longest_ms = led().map(|p| p.open.stalled_ms).max().unwrap_or(0);
    exporter.sample(names::LAST_STABLE_OFFSET_MAX_STALLED, &[], seconds(longest_ms));
    let open: usize = led().map(|p| p.open.count).sum();
    exporter.sample(names::PARTITION_OPEN_TRANSACTIONS, &[], open as f64);
    let late = led().filter(|p| p.open.is_late).count();
    exporter.sample(names::LATE_TRANSACTION_PARTITIONS, &[], late as f64);
}

fn topics(exporter: &mut Exporter, topics: &BTreeMap<Arc<str>, Arc<TopicTraffic>>) {
    let mut each = |name, value: fn(&TopicTraffic) -> u64| {
        for (topic, traffic) in topics {
            exporter.sample(name, &[("topic", topic)], value(traffic) as f64);
        }
    };
    each(names::BYTES_IN, |traffic| {
        traffic.bytes_in.load(Ordering::Relaxed)
    });
    each(names::BYTES_OUT, |traffic| {
        traffic.bytes_out.load(Ordering::Relaxed)
    });
    each(names::MESSAGES_IN, |traffic| {
        traffic.messages_in.load(Ordering::Relaxed)
    });
}

fn cluster(exporter: &mut Exporter, broker: &Broker) {
    let image = broker.image();
    exporter.sample(names::METADATA_OFFSET, &[], image.offset as f64);
    exporter.sample(names::TOPICS, &[], image.topics.len() as f64);
    let offline = image
        .topics
        .values()
        .flat_map(|topic| &topic.partitions)
        .filter(|p| p.leader < 0)
        .count();
    exporter.sample(names::OFFLINE, &[], offline as f64);
    let (mut active, mut fenced, mut shutting_down) = (0, 0, 0);
    for broker in image.brokers.values() {
        match (broker.fenced, broker.in_controlled_shutdown) {
            (true, _) => fenced += 1,
            (false, true) => shutting_down += 1,
            (false, false) => active += 1,
        }
    }
    for (state, number) in [
        ("active", active),
        ("fenced", fenced),
        ("shutting_down", shutting_down),
    ] {
        exporter.sample(names::BROKERS, &[("state", state)], f64::from(number));
    }
}

fn groups(exporter: &mut Exporter, broker: &Broker) {
    let snapshot = broker.groups.snapshot();
    for state in GroupState::ALL {
        let number = snapshot.groups.iter().filter(|(_, of, _)| *of == state).count();
        exporter.sample(names::GROUPS, &[("state", state.name())], number as f64);
    }
    for (group, _, members) in &snapshot.groups {
        exporter.sample(names::GROUP_MEMBERS, &[("group", group)], *members as f64);
    }
    let lags = lags(broker, &snapshot.offsets);
    let mut each = |name, value: fn(&GroupOffset<'_>) -> Option<f64>| {
        for offset in &lags {
            let Some(value) = value(offset) else { continue };
            let labels = [
                ("group", &*offset.committed.group),
                ("topic", &*offset.committed.topic),
                ("partition", &*offset.partition),
            ];
            exporter.sample(name, &labels, value);
        }
    };
    each(names::GROUP_COMMITTED_OFFSET, |o| Some(o.committed.offset as f64));
    each(names::GROUP_LAG_RECORDS, |o| Some(o.lag.as_ref()?.records as f64));
    each(names::GROUP_LAG_SECONDS, |o| Some(o.lag.as_ref()?.seconds));
}

fn transactions(exporter: &mut Exporter, broker: &Broker) {
    let snapshot = broker.transactions.snapshot();
    for state in TransactionState::ALL {
        let number = snapshot.states.get(&state).copied().unwrap_or(0);
        exporter.sample(names::TRANSACTIONS, &[("state", state.name())], number as f64);
    }
    let late = snapshot.late(crate::clock::now().wall_ms);
    exporter.sample(names::TRANSACTIONS_LATE, &[], late as f64);
    let verifications = broker.verifier.totals();
    exporter.sample(names::VERIFICATIONS, &[], verifications.asked as f64);
    exporter.sample(names::VERIFICATIONS_REFUSED, &[], verifications.refused as f64);
    let waited = verifications.time.as_secs_f64();
    exporter.sample(names::VERIFICATION_SECONDS, &[], waited);
    let loads = [
        (OFFSETS_TOPIC, broker.groups.loads()),
        (TRANSACTIONS_TOPIC, broker.transactions.loads()),
    ];
    for (topic, loads) in loads {
        exporter.sample(names::COORDINATOR_LOADS, &[("topic", topic)], loads.count as f64);
    }
    for (topic, loads) in loads {
        exporter.sample(
            names::COORDINATOR_LOAD_SECONDS,
            &[("topic", topic)],
            loads.time.as_secs_f64(),
        );
    }
}

/// A committed offset and, if a replica of the partition is here, how far the group is behind.
struct GroupOffset<'a> {
    committed: &'a CommittedOffset,
    partition: String,
    lag: Option<Lag>,
}

struct Lag {
    records: i64,
    seconds: f64,
}

fn lags<'a>(broker: &Broker, offsets: &'a [CommittedOffset]) -> Vec<GroupOffset<'a>> {
    let now_ms = crate::clock::now().wall_ms;
    let known = std::mem::take(&mut *broker.metrics.uncommitted.lock());
    let mut needed = HashMap::new();
    let lag = |committed: &'a CommittedOffset| {
        let replica = broker.replicas.get(&committed.topic, committed.partition);
        GroupOffset {
            committed,
            partition: committed.partition.to_string(),
            lag: replica.map(|replica| lag(&replica, committed.offset, now_ms, &known, &mut needed)),
        }
    };
    let lags = offsets.iter().map(lag).collect();
    *broker.metrics.uncommitted.lock() = needed;
    lags
}

fn lag(
    replica: &Replica,
    committed: i64,
    now_ms: i64,
    known: &UncommittedTimestamps,
    needed: &mut UncommittedTimestamps,
) -> Lag {
    let offsets = replica.offsets();
    let next = committed.max(offsets.log_start);
    let records = (offsets.high_watermark - next).max(0);
    if records == 0 {
        return Lag {
            records,
            seconds: 0.0,
        };
    }
    let key = (replica.topic_id, replica.id.partition, next);
    let timestamp = known
        .get(&key)
        .copied()
        .unwrap_or_else(|| replica.timestamp_at(next));
    needed.insert(key, timestamp);
    let age_ms = timestamp.map_or(0, |timestamp| (now_ms - timestamp).max(0));
    Lag {
        records,
        seconds: age_ms as f64 / 1000.0,
    }
}

/// The quorum as this node's controller sees it.
pub fn quorum(exporter: &mut Exporter, controller: &odradek_controller::handle::ControllerHandle) {
    let status = controller.status();
    let role = match status.role {
        Role::Follower => 0.0,
        Role::PreCandidate | Role::Candidate => 1.0,
        Role::Leader => 2.0,
    };
    let learner = !status.membership.voters.contains(&status.node_id);
    exporter.sample(names::QUORUM_ROLE, &[], if learner { 3.0 } else { role });
    exporter.sample(
        names::QUORUM_LEADER_ID,
        &[],
        status.leader.map_or(-1.0, f64::from),
    );
    exporter.sample(names::QUORUM_TERM, &[], status.term as f64);
    exporter.sample(names::QUORUM_COMMIT_INDEX, &[], status.commit as f64);
    exporter.sample(names::QUORUM_APPLIED_INDEX, &[], status.applied as f64);
    let known = if status.role == Role::Leader {
        status.log_end
    } else {
        status.commit
    };
    exporter.sample(
        names::QUORUM_COMMIT_LAG,
        &[],
        known.saturating_sub(status.applied) as f64,
    );
    let elections = controller.metrics().elections.load(Ordering::Relaxed);
    exporter.sample(names::QUORUM_ELECTIONS, &[], elections as f64);
    exporter.sample(
        names::ACTIVE_CONTROLLER,
        &[],
        if status.active { 1.0 } else { 0.0 },
    );
}

/// The process, from /proc.
pub fn process(exporter: &mut Exporter) {
    exporter.sample(names::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let Some(process) = Process::read() else { return };
    exporter.sample(names::CPU_SECONDS, &[], process.cpu_seconds);
    exporter.sample(names::RESIDENT_MEMORY, &[], process.resident_bytes);
    exporter.sample(names::OPEN_FDS, &[], process.open_fds);
    exporter.sample(names::START_TIME, &[], process.start_seconds);
}

struct Process {
    cpu_seconds: f64,
    resident_bytes: f64,
    open_fds: f64,
    start_seconds: f64,
}

impl Process {
    fn read() -> Option<Self> {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is a name in parentheses that may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        let system = std::fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = system
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?
            .trim()
            .parse()
            .ok()?;
        Some(Self {
            cpu_seconds: (number(11)? + number(12)?) / ticks,
            resident_bytes: number(21)? * rustix::param::page_size() as f64,
            open_fds: std::fs::read_dir("/proc/self/fd").ok()?.count() as f64,
            start_seconds: boot + number(19)? / ticks,
        })
    }
}

#[cfg(test)]
mod tests {
    use odradek_common::records::builder::BatchBuilder;

    use super::*;
    use crate::fixtures::{FREE_BYTES, LoneBroker, TOTAL_BYTES, on_full_disk};

    #[test]
    fn labels_are_escaped_and_headers_come_once() {
        let mut exporter = Exporter::after(String::new());
        exporter.sample(names::GROUP_MEMBERS, &[("group", "a\"b\\c\nd")], 1.0);
        exporter.sample(names::GROUP_MEMBERS, &[("group", "e")], 2.0);
        let text = exporter.finish();
        assert_eq!(text.matches("# TYPE").count(), 1);
        assert!(
            text.contains("odradek_group_members{group=\"a\\\"b\\\\c\\nd\"} 1\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_replica_that_a_reassignment_adds_is_not_missed() {
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        let under_replicated = |lone: &LoneBroker| {
            let replicas = lone.broker.replicas.all();
            let seen: Vec<Seen> = replicas
                .iter()
                .map(|replica| Seen::of(replica, clock::now(), 0))
                .collect();
            let mut exporter = Exporter::after(String::new());
            partitions(&mut exporter, &seen);
            let text = exporter.finish();
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(names::UNDER_REPLICATED));
            value.unwrap().trim().to_owned()
        };
        let moving = PartitionImage {
            replicas: vec![LoneBroker::NODE, 2, 3],
            adding_replicas: vec![3],
            isr: vec![LoneBroker::NODE, 2],
            leader: LoneBroker::NODE,
            ..PartitionImage::default()
        };
        lone.host("moving", moving.clone());
        assert_eq!(under_replicated(&lone), "0");
        let missing = PartitionImage {
            isr: vec![LoneBroker::NODE],
            ..moving
        };
        lone.host("missing", missing);
        assert_eq!(under_replicated(&lone), "1");
    }

    /// The batch has the time at which the tombstone may go in the place of its first timestamp.
    #[tokio::test]
    async fn a_group_before_a_tombstone_lags_since_it_was_written() {
        const WRITTEN_MS: i64 = 1_000;
        const GOES_MS: i64 = i64::MAX / 2;
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        lone.create("compacted", LoneBroker::NODE);
        let replica = lone.broker.replicas.get("compacted", 0).unwrap();
        let mut batch = BatchBuilder::new(0).delete_horizon(GOES_MS);
        batch.append(WRITTEN_MS, Some(b"key"), None, &[]);
        let batch = batch.build();
        replica.with(|p| {
            p.log_mut()
                .append_as_follower(clock::now(), &batch, 0)
                .map(drop)
                .unwrap()
        });
        assert_eq!(replica.timestamp_at(0), Some(WRITTEN_MS));
    }

    #[test]
    fn log_directories_show_their_room_unless_they_failed() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["full", "failed"].map(|name| folder.path().join(name));
        let directories = paths.each_ref().map(|path| Arc::new(on_full_disk(path)));
        directories[1].set_offline();
        let mut exporter = Exporter::after(String::new());
        log_directories(&mut exporter, &directories);
        let text = exporter.finish();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let sample = |name, value| format!("{name}{{log_dir=\"{}\"}} {value}", paths[0].display());
        let expected = [
            "odradek_offline_log_directories 1".to_owned(),
            sample(names::LOG_DIRECTORY_USABLE, FREE_BYTES),
            sample(names::LOG_DIRECTORY_TOTAL, TOTAL_BYTES),
            sample(names::LOG_DIRECTORY_FULL, 1),
            sample(names::STRAY_PARTITIONS, 0),
        ];
        assert_eq!(samples, expected);
    }

    #[test]
    fn the_process_is_readable() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 1e6 && process.open_fds > 1.0 && process.start_seconds > 1.6e9);
    }
}
