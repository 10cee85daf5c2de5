//! What the broker counts. Requests are counted by thread (`metrics/requests.rs`), other events in the Prometheus recorder;
//! whatever has the life of a topic, a partition or a group is read from its owner at each scrape (`metrics/scrape.rs`), so
//! that nothing outlives it.

pub mod catalogue;
pub mod error_codes;
pub mod http;
pub mod requests;
pub mod scrape;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use metrics::{Counter, counter};
use odradek_common::error::ErrorCode;
use odradek_common::ids::NodeId;
use odradek_common::metadata::PartitionImage;
use odradek_net::service::{ConnectionInfo, ConnectionObserver, REFUSED_REASONS};
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use self::error_codes::ErrorCodes;

/// Handles that are registered once, and counters of topics.
pub struct Metrics {
    topics: RwLock<HashMap<Arc<str>, Weak<TopicTraffic>>>,
    replication_out: Counter,
    /// Bytes that followers of this broker have fetched.
    pub replication_in: Counter,
    /// Bytes of sealed segments that were read again to be checked.
    pub scrubbed: Counter,
    isr_shrinks: Counter,
    isr_expands: Counter,
    leader_elections: Counter,
    unclean_leader_elections: Counter,
    uncommitted: Mutex<UncommittedTimestamps>,
}

/// When the first record was written that a group has not committed, by topic id, partition and offset. It holds what the
/// last scrape needed: a group that stands still is not looked up in the log again and again.
type UncommittedTimestamps = HashMap<(Uuid, i32, i64), Option<i64>>;

/// One topic's counters on this broker.
#[derive(Debug, Default)]
pub struct TopicTraffic {
    /// Bytes of appended batches.
    pub bytes_in: AtomicU64,
    /// Bytes that consumers fetched.
    pub bytes_out: AtomicU64,
    /// Appended records.
    pub messages_in: AtomicU64,
}

impl TopicTraffic {
    /// A producer's batch was appended.
    pub fn appended(&self, records: u64, bytes: usize) {
        self.messages_in.fetch_add(records, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Registers everything with the recorder.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            topics: RwLock::new(HashMap::new()),
            replication_out: counter!(catalogue::REPLICATION_BYTES_OUT),
            replication_in: counter!(catalogue::REPLICATION_BYTES_IN),
            scrubbed: counter!(catalogue::SCRUBBED_BYTES),
            isr_shrinks: counter!(catalogue::ISR_SHRINKS),
            isr_expands: counter!(catalogue::ISR_EXPANDS),
            leader_elections: counter!(catalogue::LEADER_ELECTIONS),
            unclean_leader_elections: counter!(catalogue::UNCLEAN_LEADER_ELECTIONS),
            uncommitted: Mutex::default(),
        })
    }

    /// A request, or a part of it, was refused.
    pub fn refused(&self, api: ApiKey, code: ErrorCode) {
        counter!(catalogue::REQUEST_ERRORS, "api" => api_name(api), "error" => error_name(code)).increment(1);
    }

    /// Counts the errors of a whole response.
    pub fn count_errors(&self, api: ApiKey, response: &impl ErrorCodes) {
        response.visit(&mut |code| {
            if let Some(code) = ErrorCode::try_from_code(code) {
                self.refused(api, code);
            }
        });
    }

    /// The metadata of a partition changed that this broker leads now: each change is counted by one broker of the cluster,
    /// whoever asked for it.
    pub fn led_partition_changed(&self, before: &PartitionImage, after: &PartitionImage) {
        // Who left the assignment has not fallen behind.
        let fell_out = |id: &&NodeId| after.replicas.contains(id) && !after.isr.contains(id);
        let joined = |id: &&NodeId| !before.isr.contains(id);
        let (shrinks, expands) = (
            before.isr.iter().filter(fell_out),
            after.isr.iter().filter(joined),
        );
        self.isr_shrinks.increment(shrinks.count() as u64);
        self.isr_expands.increment(expands.count() as u64);
        if after.leader != before.leader {
            self.leader_elections.increment(1);
        }
        if was_unclean(before, after) {
            self.unclean_leader_elections.increment(1);
        }
    }

    /// A topic's counters; they live as long as somebody holds them.
    #[must_use]
    pub fn topic(&self, name: &Arc<str>) -> Arc<TopicTraffic> {
        if let Some(traffic) = self.topics.read().get(name).and_then(Weak::upgrade) {
            return traffic;
        }
        let mut topics = self.topics.write();
        topics.retain(|_, traffic| traffic.strong_count() > 0);
        if let Some(traffic) = topics.get(name).and_then(Weak::upgrade) {
            return traffic;
        }
        let traffic = Arc::new(TopicTraffic::default());
        topics.insert(name.clone(), Arc::downgrade(&traffic));
        traffic
    }

    /// Records were read for a consumer or a follower.
    pub fn fetched(&self, traffic: &TopicTraffic, bytes: usize, follower: bool) {
        if bytes == 0 {
            return;
        }
        if follower {
            self.replication_out.increment(bytes as u64);
        } else {
            traffic.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Every topic that has counters now, by name.
    #[must_use]
    pub fn topics(&self) -> BTreeMap<Arc<str>, Arc<TopicTraffic>> {
        let topics = self.topics.read();
        topics
            .iter()
            .filter_map(|(name, traffic)| Some((name.clone(), traffic.upgrade()?)))
            .collect()
    }
}

/// Whether an election between the two may have lost records. It leaves the partition recovering until the new leader has
/// recorded an ISR. The ISR before alone does not tell: what completes a reassignment changes ISR and leader at once.
fn was_unclean(before: &PartitionImage, after: &PartitionImage) -> bool {
    let had_everything = before.isr.contains(&after.leader) || before.elr.contains(&after.leader);
    after.recovering && !(before.recovering && had_everything)
}

/// An API's name as Kafka spells it, for labels.
#[must_use]
pub fn api_name(key: ApiKey) -> &'static str {
    // The names come from a table of 90 entries that lives as long as the process.
    static NAMES: RwLock<BTreeMap<i16, &'static str>> = RwLock::new(BTreeMap::new());
    if let Some(name) = NAMES.read().get(&(key as i16)) {
        return name;
    }
    let name: &'static str = Box::leak(format!("{key:?}").into_boxed_str());
    NAMES.write().entry(key as i16).or_insert(name)
}

/// An error's name as Kafka spells it, such as `NOT_LEADER_OR_FOLLOWER`.
#[must_use]
pub fn error_name(code: ErrorCode) -> String {
    let camel = format!("{code:?}");
    let mut name = String::with_capacity(camel.len() + 8);
    for c in camel.chars().filter(char::is_ascii_alphanumeric) {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

/// Counts connections of every listener.
pub struct Connections {
    open: AtomicU64,
    opened: Counter,
}

impl Default for Connections {
    fn default() -> Self {
        for reason in REFUSED_REASONS {
            // A series that begins at 1 has no rate: each is there from the start.
            counter!(catalogue::CONNECTIONS_REFUSED, "reason" => *reason).absolute(0);
        }
        Self {
            open: AtomicU64::new(0),
            opened: counter!(catalogue::CONNECTIONS_OPENED),
        }
    }
}

impl Connections {
    /// How many are open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}

impl ConnectionObserver for Connections {
    fn opened(&self, _connection: &ConnectionInfo) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.opened.increment(1);
    }

    fn closed(&self, _connection: &ConnectionInfo) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn refused(&self, _listener: &str, reason: &'static str) {
        debug_assert!(
            REFUSED_REASONS.contains(&reason),
            "{reason} is not in REFUSED_REASONS"
        );
        counter!(catalogue::CONNECTIONS_REFUSED, "reason" => reason).increment(1);
    }
}

/// How often buffered samples are folded into their histograms.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// How often `name` was counted by the leaders of a partition that went through this.
    fn counted(name: &str, history: &[&PartitionImage]) -> u64 {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let metrics = Metrics::new();
            for change in history.windows(2).filter(|change| change[1].leader >= 0) {
                metrics.led_partition_changed(change[0], change[1]);
            }
        });
        let text = recorder.handle().render();
        let sample = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
        let sample = text.lines().find_map(sample);
        sample.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    fn led_by(leader: NodeId, isr: &[NodeId]) -> PartitionImage {
        PartitionImage {
            replicas: vec![1, 2, 3],
            isr: isr.to_vec(),
            leader,
            ..PartitionImage::default()
        }
    }

    #[test]
    fn an_election_is_unclean_if_the_partition_recovers_after_it() {
        let unclean = |history: &[&PartitionImage]| {
            (
                counted(catalogue::LEADER_ELECTIONS, history),
                counted(catalogue::UNCLEAN_LEADER_ELECTIONS, history),
            )
        };
        let led = led_by(1, &[1]);
        // The record that completes a reassignment to 2 and 3, which the controller wrote for the ISR 1, 2, 3.
        let reassigned = PartitionImage {
            replicas: vec![2, 3],
            ..led_by(2, &[2, 3])
        };
        assert_eq!(unclean(&[&led, &reassigned]), (1, 0));
        let lost = PartitionImage {
            recovering: true,
            ..led_by(2, &[2])
        };
        assert_eq!(unclean(&[&led, &lost]), (1, 1));
        // It comes back from a stop as the one that had everything, and has recorded no ISR yet.
        let stopped = PartitionImage {
            recovering: true,
            elr: vec![2],
            ..led_by(-1, &[])
        };
        assert_eq!(unclean(&[&led, &lost, &stopped, &lost]), (2, 1));
        // Another one, which had not.
        let lost_again = PartitionImage {
            recovering: true,
            ..led_by(3, &[3])
        };
        assert_eq!(unclean(&[&led, &lost, &stopped, &lost_again]), (2, 2));
        assert_eq!(unclean(&[&lost, &led_by(2, &[2, 3])]), (0, 0));
    }

    #[test]
    fn replicas_that_leave_the_assignment_are_no_shrink_of_the_isr() {
        let (whole, smaller) = (led_by(1, &[1, 2, 3]), led_by(1, &[1, 2]));
        let reassigned = PartitionImage {
            replicas: vec![1, 2],
            ..led_by(1, &[1, 2])
        };
        assert_eq!(counted(catalogue::ISR_SHRINKS, &[&whole, &smaller]), 1);
        assert_eq!(counted(catalogue::ISR_SHRINKS, &[&whole, &reassigned]), 0);
    }

    #[test]
    fn errors_have_kafkas_names() {
        assert_eq!(
            error_name(ErrorCode::NotLeaderOrFollower),
            "NOT_LEADER_OR_FOLLOWER"
        );
        assert_eq!(error_name(ErrorCode::UnknownServerError), "UNKNOWN_SERVER_ERROR");
    }
}
