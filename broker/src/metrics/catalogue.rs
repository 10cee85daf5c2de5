//! Every metric once: name, kind, help, labels. The exporter's HELP lines and docs/generated/metrics.md are read from here.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Counter, gauge or histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Distribution in buckets.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// All of them.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

metrics! {
    REQUESTS = Counter "odradek_requests_total" ["api", "version"] "Requests that arrived.";
    REQUEST_ERRORS = Counter "odradek_request_errors_total" ["api", "error"] "Refusals in responses, by Kafka's error name.";
    REQUEST_SECONDS = Histogram "odradek_request_seconds" ["api", "phase"] "Seconds of a request: queue (read, not begun, as behind another one of its connection), local (worked on), remote (waited for replication, records or the controller), total.";
    BYTES_IN = Counter "odradek_bytes_in_total" ["topic"] "Bytes of batches that producers appended here.";
    BYTES_OUT = Counter "odradek_bytes_out_total" ["topic"] "Bytes of batches that consumers fetched here.";
    MESSAGES_IN = Counter "odradek_messages_in_total" ["topic"] "Records that producers appended here.";
    REPLICATION_BYTES_IN = Counter "odradek_replication_bytes_in_total" [] "Bytes that this broker fetched as a follower.";
    REPLICATION_BYTES_OUT = Counter "odradek_replication_bytes_out_total" [] "Bytes that followers fetched here.";
    UNDER_REPLICATED = Gauge "odradek_under_replicated_partitions" [] "Partitions led here whose ISR has fewer members than they have replicas, those that a reassignment adds not counted.";
    OFFLINE = Gauge "odradek_offline_partitions" [] "Partitions of the cluster without a leader.";
    OFFLINE_LOG_DIRECTORIES = Gauge "odradek_offline_log_directories" [] "Log directories of this broker that failed.";
    LOG_DIRECTORY_USABLE = Gauge "odradek_log_directory_usable_bytes" ["log_dir"] "Bytes that may still be written to the file system of a log directory that works.";
    LOG_DIRECTORY_TOTAL = Gauge "odradek_log_directory_total_bytes" ["log_dir"] "Bytes of that file system.";
    LOG_DIRECTORY_FULL = Gauge "odradek_log_directory_full" ["log_dir"] "1 while produces to the log directory are refused because odradek.log.dir.reserve.bytes are to stay free.";
    STRAY_PARTITIONS = Gauge "odradek_log_stray_partitions" ["log_dir"] "Folders of partitions that the metadata did not know at a start: set aside, and never removed by the broker.";
    UNDER_MIN_ISR = Gauge "odradek_under_min_isr_partitions" [] "Partitions led here whose ISR is smaller than min.insync.replicas.";
    PARTITIONS = Gauge "odradek_partitions" [] "Replicas hosted here.";
    LEADER_PARTITIONS = Gauge "odradek_leader_partitions" [] "Partitions led here.";
    ISR_SHRINKS = Counter "odradek_isr_shrinks_total" [] "Replicas that fell out of the ISR of partitions led here.";
    ISR_EXPANDS = Counter "odradek_isr_expands_total" [] "Members that joined the ISR of partitions led here.";
    LEADER_ELECTIONS = Counter "odradek_leader_elections_total" [] "Elections that made this broker the leader of an existing partition.";
    UNCLEAN_LEADER_ELECTIONS = Counter "odradek_unclean_leader_elections_total" [] "Elections that made this broker a leader that may lack acknowledged records.";
    LOG_SIZE = Gauge "odradek_log_size_bytes" ["topic", "partition"] "Bytes of the log's segments.";
    LOG_START_OFFSET = Gauge "odradek_log_start_offset" ["topic", "partition"] "First offset that is kept.";
    LOG_END_OFFSET = Gauge "odradek_log_end_offset" ["topic", "partition"] "Offset that the next record gets.";
    HIGH_WATERMARK = Gauge "odradek_high_watermark" ["topic", "partition"] "End of what is committed.";
    LAST_STABLE_OFFSET_LAG = Gauge "odradek_last_stable_offset_lag_records" ["topic", "partition"] "Records between the last stable offset, where read_committed consumers stop, and the high watermark.";
    LAST_STABLE_OFFSET_STALLED = Gauge "odradek_last_stable_offset_stalled_seconds" ["topic", "partition"] "Seconds for which transactions have kept the last stable offset of a partition led here where it is; shown while they do.";
    LAST_STABLE_OFFSET_MAX_STALLED = Gauge "odradek_last_stable_offset_max_stalled_seconds" [] "The longest of those times over the partitions led here, 0 if no transaction is open.";
    PARTITION_OPEN_TRANSACTIONS = Gauge "odradek_partition_open_transactions" [] "Transactions that no marker has ended, counted in every partition led here that they have written to.";
    LATE_TRANSACTION_PARTITIONS = Gauge "odradek_partitions_with_late_transactions" [] "Partitions led here whose oldest open transaction is older than transaction.max.timeout.ms and five minutes: its coordinator does not know of it.";
    REPLICA_LAG = Gauge "odradek_replica_lag_records" ["topic", "partition", "replica"] "Records that a follower of a partition led here is behind.";
    CLEANER_MAX_DIRTY = Gauge "odradek_log_cleaner_max_dirty_percent" [] "Share of the dirtiest log that is not compacted and may be, in percent.";
    CLEANER_RECOPY = Gauge "odradek_log_cleaner_recopy_percent" [] "Bytes that the threads' last compactions wrote, in percent of the segments they replaced.";
    CLEANER_MAX_TIME = Gauge "odradek_log_cleaner_max_clean_time_seconds" [] "Seconds that the longest of the threads' last compactions took.";
    CLEANER_MAX_BUFFER = Gauge "odradek_log_cleaner_max_buffer_utilization_percent" [] "Greatest use of its part of log.cleaner.dedupe.buffer.size in the threads' last compactions, in percent.";
    CLEANER_MAX_DELAY = Gauge "odradek_log_cleaner_max_compaction_delay_seconds" [] "Seconds by which max.compaction.lag.ms was exceeded at most when a log was last looked for.";
    CLEANER_SINCE_LAST_RUN = Gauge "odradek_log_cleaner_since_last_run_seconds" [] "Seconds since a thread last looked for a log to compact.";
    CLEANER_DEAD_THREADS = Gauge "odradek_log_cleaner_dead_threads" [] "Threads of compaction that ended without being told to.";
    SCRUBBED_BYTES = Counter "odradek_log_scrubbed_bytes_total" [] "Bytes of sealed segments that were read again and compared with their checksums.";
    DAMAGED_SEGMENTS = Gauge "odradek_log_damaged_segments" [] "Segments that are not what was written; what is damaged of them is not served until another replica has replaced it.";
    CLEANER_UNCLEANABLE_PARTITIONS = Gauge "odradek_log_cleaner_uncleanable_partitions" ["log_dir"] "Logs whose last compaction failed; they are tried again.";
    CLEANER_UNCLEANABLE_BYTES = Gauge "odradek_log_cleaner_uncleanable_bytes" ["log_dir"] "Bytes of those logs that wait for compaction.";
    QUORUM_ROLE = Gauge "odradek_quorum_role" [] "Role in the metadata quorum: 0 follower, 1 candidate, 2 leader, 3 learner.";
    QUORUM_LEADER_ID = Gauge "odradek_quorum_leader_id" [] "Node id of the quorum's leader, -1 if unknown.";
    QUORUM_TERM = Gauge "odradek_quorum_term" [] "Raft term.";
    QUORUM_COMMIT_INDEX = Gauge "odradek_quorum_commit_index" [] "Last committed entry of the metadata log.";
    QUORUM_APPLIED_INDEX = Gauge "odradek_quorum_applied_index" [] "Last applied entry of the metadata log.";
    QUORUM_COMMIT_LAG = Gauge "odradek_quorum_commit_lag_entries" [] "Entries that are committed and not applied, or on a leader appended and not committed.";
    QUORUM_ELECTIONS = Counter "odradek_quorum_elections_total" [] "Elections that this node began.";
    ACTIVE_CONTROLLER = Gauge "odradek_active_controller" [] "1 on the active controller.";
    METADATA_OFFSET = Gauge "odradek_metadata_offset" [] "Offset of the metadata that this broker works with.";
    BROKERS = Gauge "odradek_brokers" ["state"] "Registered brokers: active, fenced, shutting_down.";
    TOPICS = Gauge "odradek_topics" [] "Topics of the cluster.";
    GROUP_MEMBERS = Gauge "odradek_group_members" ["group"] "Members of a group coordinated here.";
    GROUPS = Gauge "odradek_groups" ["state"] "Groups coordinated here, by state.";
    GROUP_COMMITTED_OFFSET = Gauge "odradek_group_committed_offset" ["group", "topic", "partition"] "Next offset that a group coordinated here wants to read.";
    GROUP_LAG_RECORDS = Gauge "odradek_group_lag_records" ["group", "topic", "partition"] "Records between a group's committed offset and the high watermark; shown by the group's coordinator for partitions that it hosts a replica of, for others subtract odradek_group_committed_offset from odradek_high_watermark.";
    GROUP_LAG_SECONDS = Gauge "odradek_group_lag_seconds" ["group", "topic", "partition"] "Age of the first batch that the group has not wholly committed, 0 when there is none; shown where odradek_group_lag_records is.";
    TRANSACTIONS = Gauge "odradek_transactions" ["state"] "Transactional ids coordinated here, by the state of their transaction: Ongoing is open, PrepareCommit and PrepareAbort wait for their partitions.";
    TRANSACTIONS_LATE = Gauge "odradek_transactions_late" [] "Transactions coordinated here that have not ended within their timeout.";
    VERIFICATIONS = Counter "odradek_transaction_verifications_total" [] "Questions to transaction coordinators whether a transaction may begin in partitions led here.";
    VERIFICATIONS_REFUSED = Counter "odradek_transaction_verifications_refused_total" [] "Those of them that were refused, or not answered.";
    VERIFICATION_SECONDS = Counter "odradek_transaction_verification_seconds_total" [] "Seconds that producers waited for those answers.";
    COORDINATOR_LOADS = Counter "odradek_coordinator_loads_total" ["topic"] "Partitions of a coordinator's topic whose log was read after an election.";
    COORDINATOR_LOAD_SECONDS = Counter "odradek_coordinator_load_seconds_total" ["topic"] "Seconds that those loads took.";
    CONNECTIONS = Gauge "odradek_connections" [] "Open client connections.";
    CONNECTIONS_OPENED = Counter "odradek_connections_opened_total" [] "Connections that were accepted.";
    CONNECTIONS_REFUSED = Counter "odradek_connections_refused_total" ["reason"] "Connections that were refused or thrown out.";
    REQUEST_MEMORY = Gauge "odradek_request_memory_bytes" [] "Bytes of requests in work, of odradek.request.memory.max.bytes for each role.";
    CPU_SECONDS = Counter "process_cpu_seconds_total" [] "CPU seconds of the process, user and system.";
    RESIDENT_MEMORY = Gauge "process_resident_memory_bytes" [] "Resident memory of the process.";
    OPEN_FDS = Gauge "process_open_fds" [] "Open file descriptors of the process.";
    START_TIME = Gauge "process_start_time_seconds" [] "When the process started, in seconds since 1970.";
    BUILD_INFO = Gauge "odradek_build_info" ["version"] "1, with the version as label.";
}

/// Upper bounds of the request histograms' buckets, in seconds.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

/// Tells the recorder every help text.
pub fn describe() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, Unit::Seconds, metric.help),
        }
    }
}

/// docs/generated/metrics.md.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "<!-- Generated by `UPDATE=1 cargo test -p odradek-broker --test generated`. Do not edit. -->\n\n# Metrics\n\n",
    );
    text.push_str("| metric | kind | labels | what it tells |\n|---|---|---|---|\n");
    for metric in METRICS {
        let labels = metric.labels.join(", ");
        text.push_str(&format!(
            "| `{}` | {:?} | {labels} | {} |\n",
            metric.name, metric.kind, metric.help
        ));
    }
    text
}
