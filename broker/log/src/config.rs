//! The settings of one log, resolved from topic and broker configuration by the caller.

/// Whose clock stamps the records (`message.timestamp.type`). The stamping itself is done where batches are validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageTimestampType {
    /// The producer's.
    CreateTime,
    /// The leader's.
    LogAppendTime,
}

/// What happens to old records (`cleanup.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Only the last record of each key is kept.
    pub compact: bool,
    /// Old segments are deleted.
    pub delete: bool,
}

impl CleanupPolicy {
    /// Kafka's default.
    pub const DELETE: Self = Self {
        compact: false,
        delete: true,
    };
    /// The internal topics' policy.
    pub const COMPACT: Self = Self {
        compact: true,
        delete: false,
    };
}

/// The settings of one log; names and defaults are Kafka's topic settings.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: i64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `retention.ms`; negative is unlimited.
    pub retention_ms: i64,
    /// `retention.bytes`; negative is unlimited.
    pub retention_bytes: i64,
    /// `max.message.bytes`; checked where batches are validated.
    pub max_message_bytes: u32,
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `min.cleanable.dirty.ratio`.
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`; how it bounds the life of a segment is in `segment_ms` already.
    pub max_compaction_lag_ms: i64,
    /// `flush.messages`.
    pub flush_messages: i64,
    /// `flush.ms`.
    pub flush_ms: i64,
    /// `preallocate`.
    pub preallocate: bool,
    /// `file.delete.delay.ms`: how long the files of deleted segments and partitions keep their place on the disk.
    pub file_delete_delay_ms: i64,
    /// `message.timestamp.type`.
    pub message_timestamp_type: MessageTimestampType,
    /// Whether appends go on where only the reserve of the disk is left.
    pub may_use_reserve: bool,
    /// `producer.id.expiration.ms`, of the broker.
    pub producer_id_expiration_ms: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        const DAY_MS: i64 = 86_400_000;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * DAY_MS,
            segment_jitter_ms: 0,
            index_interval_bytes: 4096,
            retention_ms: 7 * DAY_MS,
            retention_bytes: -1,
            max_message_bytes: 1_048_588,
            cleanup_policy: CleanupPolicy::DELETE,
            delete_retention_ms: DAY_MS,
            min_cleanable_dirty_ratio: 0.5,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
            preallocate: false,
            file_delete_delay_ms: 60_000,
            message_timestamp_type: MessageTimestampType::CreateTime,
            may_use_reserve: false,
            producer_id_expiration_ms: DAY_MS,
        }
    }
}
