//! The one table of configuration keys, split by subject, and how to find a key in it.

mod group;
mod group_configs;
mod log;
mod odradek;
mod quorum;
mod quota;
mod reasons;
mod remote;
mod removed;
mod replication;
mod security;
mod server;
mod share;
mod topic;
mod transaction;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::key::Key;

/// The broker keys by subject, in the order of the reference.
pub static BROKER_SUBJECTS: &[(&str, &[Key])] = &[
    ("Node, listeners and sockets", server::SERVER),
    ("Metadata quorum", quorum::QUORUM),
    ("Replication", replication::REPLICATION),
    ("Log", log::LOG),
    ("Group coordinator", group::GROUP),
    ("Producers and transactions", transaction::TRANSACTION),
    ("Share groups", share::SHARE_GROUPS),
    ("Security", security::SECURITY),
    ("Quotas", quota::QUOTA),
    ("Tiered storage", remote::REMOTE),
    ("Odradek's own", odradek::ODRADEK),
];

/// The topic keys.
pub static TOPIC_KEYS: &[Key] = topic::TOPIC;

/// The group keys.
pub static GROUP_KEYS: &[Key] = group_configs::GROUP_CONFIGS;

/// Prefixes of keys that belong to plug-ins or to a provider of values, which nobody can list.
const FREE_PREFIXES: &[&str] = &[
    "config.providers.",
    "rlmm.config.",
    "rsm.config.",
    "metrics.jmx.",
    "client.quota.callback.static.",
];

/// Broker keys that are set once for each SASL mechanism: `listener.name.<listener>.<mechanism>.<key>`.
const MECHANISM_KEYS: &[&str] = &[
    "sasl.jaas.config",
    "sasl.login.callback.handler.class",
    "sasl.login.class",
    "sasl.server.callback.handler.class",
    "connections.max.reauth.ms",
];

/// Broker keys whose `listener.name.<listener>.<key>` has an effect.
pub(crate) const USED_FOR_ONE_LISTENER: &[&str] = &["max.connections"];

static BROKER_BY_NAME: LazyLock<HashMap<&'static str, &'static Key>> =
    LazyLock::new(|| broker_keys().map(|key| (key.name, key)).collect());

/// Every broker key, in the order of the reference.
pub fn broker_keys() -> impl Iterator<Item = &'static Key> {
    BROKER_SUBJECTS.iter().flat_map(|(_, keys)| keys.iter())
}

/// The broker key of exactly this name.
pub fn broker_key(name: &str) -> Option<&'static Key> {
    BROKER_BY_NAME.get(name).copied()
}

/// The topic key of this name.
pub fn topic_key(name: &str) -> Option<&'static Key> {
    TOPIC_KEYS.iter().find(|key| key.name == name)
}

/// The group key of this name.
pub fn group_key(name: &str) -> Option<&'static Key> {
    GROUP_KEYS.iter().find(|key| key.name == name)
}

/// What a name in a server.properties file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Named {
    /// A key of the table.
    Key(&'static Key),
    /// A key of the table, set for one listener with the prefix `listener.name.<listener>.`.
    ForListener(&'static Key),
    /// A key that belongs to something that is plugged in.
    Free,
    /// A key that Kafka no longer has, with advice.
    Removed(&'static str),
    /// A key of a cluster with ZooKeeper.
    ZooKeeper,
    /// Nothing that is known.
    Unknown,
}

/// Finds out what a name in a server.properties file is.
pub(crate) fn classify(name: &str) -> Named {
    if let Some(key) = broker_key(name) {
        return Named::Key(key);
    }
    if let Some(base) = listener_base(name) {
        return broker_key(base).map_or(Named::Unknown, Named::ForListener);
    }
    if let Some(removed) = removed::REMOVED.iter().find(|removed| removed.name == name) {
        return Named::Removed(removed.advice);
    }
    if name.starts_with("zookeeper.") {
        return Named::ZooKeeper;
    }
    if FREE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Named::Free;
    }
    Named::Unknown
}

/// The key that `listener.name.<listener>.[<mechanism>.]<key>` sets; `None` for names of another form.
pub(crate) fn listener_base(name: &str) -> Option<&str> {
    let (_, base) = name.strip_prefix("listener.name.")?.split_once('.')?;
    let mechanism_key = MECHANISM_KEYS.iter().find(|key| base.ends_with(*key));
    Some(mechanism_key.copied().unwrap_or(base))
}

/// The known broker key that looks most like `name`, when one is near enough to be meant.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    nearest_of(
        name,
        broker_keys().filter(|key| !key.internal).map(|key| key.name),
    )
}

/// The candidate with the smallest edit distance to `name`, when that is at most a third of its length.
pub(crate) fn nearest_of<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let normal = name.to_ascii_lowercase().replace(['_', '-'], ".");
    let limit = (normal.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (edit_distance(&normal, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_previous = vec![0; b.len() + 1];
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut current = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = previous[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            current[j] = replaced.min(previous[j] + 1).min(current[j - 1] + 1);
            let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if swapped {
                current[j] = current[j].min(before_previous[j - 2] + 1);
            }
        }
        before_previous = std::mem::replace(&mut previous, current);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn names_are_unique_within_a_scope() {
        for keys in [
            broker_keys().collect::<Vec<_>>(),
            TOPIC_KEYS.iter().collect(),
            GROUP_KEYS.iter().collect(),
        ] {
            let mut names: Vec<_> = keys.iter().map(|key| key.name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }

    #[test]
    fn every_default_is_valid_and_every_key_is_documented() {
        for key in broker_keys().chain(TOPIC_KEYS).chain(GROUP_KEYS) {
            if let Some(default) = key.default {
                value::validate(key, default).unwrap();
            }
            assert!(key.doc().ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn synonyms_are_broker_keys_and_removed_keys_are_not() {
        for key in broker_keys().chain(TOPIC_KEYS).chain(GROUP_KEYS) {
            for synonym in key.synonyms {
                assert!(
                    broker_key(synonym.name).is_some(),
                    "{} <- {}",
                    key.name,
                    synonym.name
                );
            }
        }
        for removed in removed::REMOVED {
            assert!(broker_key(removed.name).is_none(), "{}", removed.name);
        }
    }

    /// Scope, name, type, default, visibility and update mode of every key, as Apache Kafka 4.3.1 itself lists them.
    const KAFKA: &str = include_str!("../testdata/kafka-4.3.1-keys.tsv");

    #[test]
    fn the_table_says_what_kafka_says() {
        for line in KAFKA.lines() {
            let columns: Vec<&str> = line.split('\t').collect();
            let [scope, name, kind, default, visibility, mode] = columns[..] else {
                panic!("{line}")
            };
            let key = match scope {
                "broker" => broker_key(name),
                "topic" => topic_key(name),
                _ => group_key(name),
            };
            let key = key.unwrap_or_else(|| panic!("{name} is missing"));
            let ours = match key.default {
                None => "none",
                Some("") => "empty",
                Some(default) => default,
            };
            let same_default =
                ours == default || key.kind == crate::key::Kind::Class && ours.ends_with(default);
            assert!(same_default, "{name}: {ours} is not {default}");
            assert_eq!(key.kind.name(), kind, "{name}");
            assert_eq!(key.internal, visibility == "internal", "{name}");
            assert!(mode == "-" || key.mode.name() == mode, "{name}: {mode}");
        }
    }

    #[test]
    fn names_are_classified() {
        assert!(matches!(classify("node.id"), Named::Key(key) if key.name == "node.id"));
        assert!(
            matches!(classify("listener.name.internal.ssl.keystore.location"), Named::ForListener(key)
            if key.name == "ssl.keystore.location")
        );
        assert!(
            matches!(classify("listener.name.internal.scram-sha-256.sasl.jaas.config"), Named::ForListener(key)
            if key.name == "sasl.jaas.config")
        );
        assert_eq!(classify("listener.name.internal.nope"), Named::Unknown);
        assert_eq!(classify("zookeeper.connect"), Named::ZooKeeper);
        assert_eq!(classify("config.providers.file.class"), Named::Free);
        assert!(matches!(
            classify("inter.broker.protocol.version"),
            Named::Removed(_)
        ));
        assert_eq!(classify("num.partition"), Named::Unknown);
    }

    #[test]
    fn the_nearest_key_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("num.partition"), Some("num.partitions"));
        assert_eq!(nearest("Log_Dirs"), Some("log.dirs"));
        assert_eq!(nearest("log.retnetion.hours"), Some("log.retention.hours"));
        assert_eq!(nearest("completely.different.thing.altogether"), None);
    }

    #[test]
    fn edit_distance_counts_swaps_once() {
        assert_eq!(edit_distance("ab", "ba"), 1);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }
}
