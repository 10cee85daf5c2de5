//! The configuration of one topic: its overrides over the node's defaults.

use std::collections::BTreeMap;

use crate::keys;
use crate::server::{ServerConfig, Values};
use crate::value::{self, Value};

/// What a topic's records are stored with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As the producer sent them.
    Producer,
    /// Not compressed.
    Uncompressed,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Which time a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, at append.
    LogAppendTime,
}

/// What happens to old records; neither keeps them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Segments beyond retention are deleted.
    pub delete: bool,
    /// Only the last record of each key is kept.
    pub compact: bool,
}

/// Resolved configuration of a topic; each field is named after its key.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    /// cleanup.policy
    pub cleanup_policy: CleanupPolicy,
    /// compression.type and the level for it
    pub compression: CompressionConfig,
    /// When segments roll and how they are indexed.
    pub segment: SegmentConfig,
    /// What is kept.
    pub retention: RetentionConfig,
    /// flush.messages
    pub flush_messages: i64,
    /// flush.ms
    pub flush_ms: i64,
    /// max.message.bytes
    pub max_message_bytes: u32,
    /// min.insync.replicas
    pub min_insync_replicas: i32,
    /// unclean.leader.election.enable
    pub unclean_leader_election: bool,
    /// message.timestamp.type
    pub timestamp_type: TimestampType,
    /// message.timestamp.before.max.ms
    pub timestamp_before_max_ms: i64,
    /// message.timestamp.after.max.ms
    pub timestamp_after_max_ms: i64,
    /// remote.storage.enable, only to refuse it
    pub(crate) remote_storage: bool,
}

/// Codec and levels of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressionConfig {
    /// compression.type
    pub codec: Compression,
    /// compression.gzip.level; -1 is the codec's default
    pub gzip_level: i32,
    /// compression.lz4.level
    pub lz4_level: i32,
    /// compression.zstd.level
    pub zstd_level: i32,
}

/// When segments of a topic roll and how they are indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentConfig {
    /// segment.bytes
    pub bytes: u32,
    /// segment.ms
    pub ms: i64,
    /// segment.jitter.ms
    pub jitter_ms: i64,
    /// index.interval.bytes
    pub index_interval_bytes: u32,
    /// preallocate
    pub preallocate: bool,
    /// file.delete.delay.ms
    pub file_delete_delay_ms: i64,
}

/// What a topic keeps, and how it is compacted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetentionConfig {
    /// retention.ms; -1 for ever
    pub ms: i64,
    /// retention.bytes; negative for no limit
    pub bytes: i64,
    /// delete.retention.ms
    pub delete_retention_ms: i64,
    /// min.compaction.lag.ms
    pub min_compaction_lag_ms: i64,
    /// max.compaction.lag.ms
    pub max_compaction_lag_ms: i64,
    /// min.cleanable.dirty.ratio
    pub min_cleanable_dirty_ratio: f64,
}

impl TopicConfig {
    /// A topic with these overrides on this node. Unknown or invalid overrides (which AlterConfigs never stores)
    /// do not count.
    pub fn resolve<'a>(
        overrides: impl IntoIterator<Item = (&'a str, &'a str)>,
        server: &ServerConfig,
    ) -> TopicConfig {
        Resolver {
            overrides: overrides.into_iter().collect(),
            server: server.values(),
        }
        .topic()
    }

    /// A topic without overrides.
    pub(crate) fn defaults(server: &Values) -> TopicConfig {
        Resolver {
            overrides: BTreeMap::new(),
            server,
        }
        .topic()
    }

    /// Longest time a segment stays open: segment.ms, less when compaction has to happen earlier.
    pub fn segment_ms_max(&self) -> i64 {
        if self.cleanup_policy.compact && self.retention.max_compaction_lag_ms > 0 {
            self.segment.ms.min(self.retention.max_compaction_lag_ms)
        } else {
            self.segment.ms
        }
    }
}

/// Looks topic keys up in overrides, then in the broker keys they are synonyms of, then in the table.
pub(crate) struct Resolver<'a> {
    pub(crate) overrides: BTreeMap<&'a str, &'a str>,
    pub(crate) server: &'a Values,
}

impl Resolver<'_> {
    /// The effective value of a topic key; `None` when it has neither value nor default.
    pub(crate) fn value(&self, name: &str) -> Option<Value> {
        let key = keys::topic_key(name).unwrap_or_else(|| panic!("{name} is not in the table of topic keys"));
        let given = self
            .overrides
            .get(name)
            .and_then(|text| value::validate(key, text).ok());
        given.or_else(|| self.inherited(name)).or_else(|| {
            key.default
                .map(|text| value::validate(key, text).expect("defaults are valid, a test tells"))
        })
    }

    /// What the node's broker keys say about a topic key.
    fn inherited(&self, name: &str) -> Option<Value> {
        let key = keys::topic_key(name)?;
        let synonym = key
            .synonyms
            .iter()
            .find(|synonym| self.server.given(synonym.name).is_some())?;
        let broker_key = keys::broker_key(synonym.name)?;
        let value = value::validate(broker_key, self.server.given(synonym.name)?).ok()?;
        match value {
            Value::Integer(n) => {
                let scaled = n.saturating_mul(synonym.factor);
                Some(Value::Integer(if name == "retention.ms" {
                    scaled.max(-1)
                } else {
                    scaled
                }))
            }
            other => Some(other),
        }
    }

    fn long(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Integer(n)) => n,
            other => unreachable!("{name} is declared as an integer with a default, not {other:?}"),
        }
    }

    fn int(&self, name: &str) -> i32 {
        i32::try_from(self.long(name)).expect("int keys are validated as 32-bit")
    }

    fn unsigned(&self, name: &str) -> u32 {
        u32::try_from(self.long(name)).expect("the table does not let this key be negative")
    }

    fn boolean(&self, name: &str) -> bool {
        self.value(name) == Some(Value::Boolean(true))
    }

    fn double(&self, name: &str) -> f64 {
        match self.value(name) {
            Some(Value::Double(n)) => n,
            other => unreachable!("{name} is declared as a double with a default, not {other:?}"),
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::List(list)) => list,
            other => unreachable!("{name} is declared as a list, not {other:?}"),
        }
    }

    fn text(&self, name: &str) -> String {
        match self.value(name) {
            Some(Value::Text(text)) => text,
            other => unreachable!("{name} is declared as a string with a default, not {other:?}"),
        }
    }

    fn topic(&self) -> TopicConfig {
        let policy = self.list("cleanup.policy");
        let with = |name: &str| policy.iter().any(|member| member == name);
        TopicConfig {
            cleanup_policy: CleanupPolicy {
                delete: with("delete"),
                compact: with("compact"),
            },
            compression: self.compression(),
            segment: self.segment(),
            retention: self.retention(),
            flush_messages: self.long("flush.messages"),
            flush_ms: self.long("flush.ms"),
            max_message_bytes: self.unsigned("max.message.bytes"),
            min_insync_replicas: self.int("min.insync.replicas"),
            unclean_leader_election: self.boolean("unclean.leader.election.enable"),
            timestamp_type: match self.text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: self.long("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: self.long("message.timestamp.after.max.ms"),
            remote_storage: self.boolean("remote.storage.enable"),
        }
    }

    fn compression(&self) -> CompressionConfig {
        CompressionConfig {
            codec: match self.text("compression.type").as_str() {
                "uncompressed" => Compression::Uncompressed,
                "gzip" => Compression::Gzip,
                "snappy" => Compression::Snappy,
                "lz4" => Compression::Lz4,
                "zstd" => Compression::Zstd,
                _ => Compression::Producer,
            },
            gzip_level: self.int("compression.gzip.level"),
            lz4_level: self.int("compression.lz4.level"),
            zstd_level: self.int("compression.zstd.level"),
        }
    }

    fn segment(&self) -> SegmentConfig {
        let bytes = match self.value("internal.segment.bytes") {
            Some(Value::Integer(bytes)) => u32::try_from(bytes).unwrap_or(u32::MAX),
            _ => self.unsigned("segment.bytes"),
        };
        SegmentConfig {
            bytes,
            ms: self.long("segment.ms"),
            jitter_ms: self.long("segment.jitter.ms"),
            index_interval_bytes: self.unsigned("index.interval.bytes"),
            preallocate: self.boolean("preallocate"),
            file_delete_delay_ms: self.long("file.delete.delay.ms"),
        }
    }

    fn retention(&self) -> RetentionConfig {
        RetentionConfig {
            ms: self.long("retention.ms"),
            bytes: self.long("retention.bytes"),
            delete_retention_ms: self.long("delete.retention.ms"),
            min_compaction_lag_ms: self.long("min.compaction.lag.ms"),
            max_compaction_lag_ms: self.long("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: self.double("min.cleanable.dirty.ratio"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(lines: &str) -> ServerConfig {
        let overrides: Vec<(String, String)> = lines
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        ServerConfig::load(None, std::iter::empty(), &overrides)
            .unwrap()
            .0
    }

    #[test]
    fn without_overrides_a_topic_has_kafkas_defaults() {
        let topic = TopicConfig::resolve([], &ServerConfig::single_node_default());
        assert_eq!(
            topic.cleanup_policy,
            CleanupPolicy {
                delete: true,
                compact: false
            }
        );
        assert_eq!(topic.compression.codec, Compression::Producer);
        assert_eq!((topic.segment.bytes, topic.segment.ms), (1 << 30, 604_800_000));
        assert_eq!((topic.retention.ms, topic.retention.bytes), (604_800_000, -1));
        assert_eq!((topic.flush_messages, topic.flush_ms), (i64::MAX, i64::MAX));
        assert_eq!(
            (topic.max_message_bytes, topic.min_insync_replicas),
            (1_048_588, 1)
        );
        assert_eq!(
            (topic.timestamp_before_max_ms, topic.timestamp_after_max_ms),
            (i64::MAX, 3_600_000)
        );
    }

    #[test]
    fn overrides_come_over_the_node_and_the_node_over_the_table() {
        let server = node("log.retention.minutes=1 log.cleanup.policy=compact compression.type=zstd");
        let topic = TopicConfig::resolve(
            [("compression.type", "lz4"), ("cleanup.policy", "compact,delete")],
            &server,
        );
        assert_eq!(topic.retention.ms, 60_000);
        assert_eq!(topic.compression.codec, Compression::Lz4);
        assert_eq!(
            topic.cleanup_policy,
            CleanupPolicy {
                delete: true,
                compact: true
            }
        );
        assert_eq!(
            server.topic_defaults.cleanup_policy,
            CleanupPolicy {
                delete: false,
                compact: true
            }
        );
    }

    #[test]
    fn overrides_that_are_unknown_or_invalid_do_not_count() {
        let topic = TopicConfig::resolve(
            [("nope", "1"), ("retention.ms", "x")],
            &node("log.retention.ms=9"),
        );
        assert_eq!(topic.retention.ms, 9);
    }

    #[test]
    fn the_internal_segment_size_wins() {
        let overrides = [("segment.bytes", "2000000"), ("internal.segment.bytes", "1000")];
        assert_eq!(TopicConfig::resolve(overrides, &node("")).segment.bytes, 1000);
    }

    #[test]
    fn compaction_lag_bounds_the_life_of_a_segment() {
        let overrides = [("max.compaction.lag.ms", "5"), ("cleanup.policy", "compact")];
        assert_eq!(TopicConfig::resolve(overrides, &node("")).segment_ms_max(), 5);
        assert_eq!(
            TopicConfig::resolve([("max.compaction.lag.ms", "5")], &node("")).segment_ms_max(),
            604_800_000
        );
    }
}
