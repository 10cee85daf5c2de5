//! The answers of DescribeConfigs: every configuration with its value, where it comes from and what it falls back on.
//!
//! Filtering by name, and leaving documentation or synonyms out when they were not asked for, is up to the caller.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::{Key, Scope, UpdateMode};
use crate::keys::{self, Named};
use crate::server::ServerConfig;
use crate::topic::Resolver;
use crate::value::{self, Value};

/// Where a value comes from, with the numbers of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    /// Set for the topic.
    Topic = 1,
    /// Set dynamically for this broker.
    DynamicBroker = 2,
    /// Set dynamically for all brokers.
    DynamicDefaultBroker = 3,
    /// Set in the file, the environment or on the command line.
    StaticBroker = 4,
    /// Not set.
    Default = 5,
    /// Level of a logger.
    DynamicBrokerLogger = 6,
    /// Set for a client metrics subscription.
    ClientMetrics = 7,
    /// Set for the group.
    Group = 8,
}

/// A configuration that the described one falls back on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynonymEntry {
    /// Its name.
    pub name: String,
    /// Its value; `None` when it must not be shown.
    pub value: Option<String>,
    /// Where that value comes from.
    pub source: Source,
}

/// One configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its value; `None` when there is none or it must not be shown.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: Source,
    /// Whether the value must not be shown.
    pub is_sensitive: bool,
    /// Whether it cannot be changed dynamically.
    pub read_only: bool,
    /// Number of its type in the protocol, 0 when unknown.
    pub config_type: i8,
    /// What it does.
    pub doc: Option<&'static str>,
    /// What gives the value, best first.
    pub synonyms: Vec<SynonymEntry>,
}

/// Broker keys that Kafka shows only when they are set.
const SHOWN_WHEN_SET: &[&str] = &[
    "super.users",
    "allow.everyone.if.no.acl.found",
    "leader.replication.throttled.rate",
    "follower.replication.throttled.rate",
    "replica.alter.log.dirs.io.max.bytes.per.second",
];

/// The configurations of a topic with these overrides, sorted by name.
pub fn describe_topic(overrides: &BTreeMap<String, String>, server: &ServerConfig) -> Vec<Entry> {
    let resolver = Resolver {
        overrides: crate::dynamic::pairs(overrides).collect(),
        server: server.values(),
    };
    let shown = |key: &&Key| !key.internal || overrides.contains_key(key.name);
    let mut entries: Vec<Entry> = keys::TOPIC_KEYS
        .iter()
        .filter(shown)
        .map(|key| {
            let value = resolver.value(key.name).map(|value| text_of(&value));
            let own = overrides.contains_key(key.name).then_some(Source::Topic);
            scoped(key, value, own, inherited(key, server))
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// The configurations of a group with these overrides, sorted by name.
pub fn describe_group(overrides: &BTreeMap<String, String>, server: &ServerConfig) -> Vec<Entry> {
    let mut entries: Vec<Entry> = keys::GROUP_KEYS
        .iter()
        .map(|key| {
            let broker_key = key.synonyms.first().map(|synonym| synonym.name);
            let text = overrides.get(key.name).map(String::as_str);
            let text = text
                .or_else(|| broker_key.and_then(|name| server.values().text(name)))
                .or(key.default);
            let own = overrides.contains_key(key.name).then_some(Source::Group);
            let mut fallbacks = inherited(key, server);
            if broker_key.is_none() {
                let value = key.default.map(str::to_owned);
                fallbacks.push(SynonymEntry {
                    name: key.name.to_owned(),
                    value,
                    source: Source::Default,
                });
            }
            scoped(key, text.map(|text| normal(key, text)), own, fallbacks)
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// The configurations of this broker, dynamic ones included, sorted by name.
pub fn describe_broker(server: &ServerConfig) -> Vec<Entry> {
    let given = |name: &str| server.values().0.contains_key(name);
    let known = keys::broker_keys()
        .filter(|key| given(key.name) || !(key.internal || SHOWN_WHEN_SET.contains(&key.name)))
        .map(|key| key.name);
    let layers = server.layers();
    let ignored = layers.ignored_broker.keys().chain(layers.ignored_default.keys());
    let names: BTreeSet<&str> = known
        .chain(server.values().0.keys().chain(ignored).map(String::as_str))
        .collect();
    names.into_iter().map(|name| broker_entry(name, server)).collect()
}

/// The dynamic configurations that are the defaults of all brokers, sorted by name; also those that are not in force.
pub fn describe_broker_default(server: &ServerConfig) -> Vec<Entry> {
    let layers = server.layers();
    let defaults: BTreeMap<_, _> = layers
        .dynamic_default
        .iter()
        .chain(&layers.ignored_default)
        .collect();
    let entry = |(name, value): (&String, &String)| {
        let mut entry = broker_entry(name, server);
        entry.value = (!entry.is_sensitive).then(|| value.clone());
        entry
            .synonyms
            .retain(|synonym| synonym.source == Source::DynamicDefaultBroker);
        entry.source = Source::DynamicDefaultBroker;
        entry
    };
    defaults.into_iter().map(entry).collect()
}

fn broker_entry(name: &str, server: &ServerConfig) -> Entry {
    let key = known(name);
    let sensitive = key.is_none_or(Key::secret);
    let mut chain: Vec<&str> = match key {
        Some(key) if key.name == name && !key.synonyms.is_empty() => {
            key.synonyms.iter().map(|synonym| synonym.name).collect()
        }
        Some(_) | None => vec![name],
    };
    if let Some(base) = keys::listener_base(name) {
        chain.push(base);
    }
    let mut synonyms = synonyms(name, &chain, sensitive, server);
    let mut text = server.values().text_of_any(name);
    if let Some(stored) = add_ignored(name, sensitive, server, &mut synonyms) {
        text = Some(stored);
    }
    let node_id = server.node.node_id.to_string();
    if matches!(name, "node.id" | "broker.id") && server.values().given(name).is_none() {
        // Each of the two stands for the other.
        text = Some(&node_id);
        let value = Some(node_id.clone());
        synonyms.insert(
            0,
            SynonymEntry {
                name: name.to_owned(),
                value,
                source: Source::StaticBroker,
            },
        );
    }
    let shown = |text: &str| key.map_or_else(|| text.to_owned(), |key| normal(key, text));
    Entry {
        name: name.to_owned(),
        value: if sensitive { None } else { text.map(shown) },
        source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
        is_sensitive: sensitive,
        read_only: key.is_none_or(|key| key.name != name || key.mode == UpdateMode::ReadOnly),
        config_type: key.map_or(0, |key| key.kind.protocol_id()),
        doc: key.map(Key::doc),
        synonyms,
    }
}

/// Adds what is stored for a broker's key and not in force, where it would be if it were; returns the text of it if it would
/// be the value.
fn add_ignored<'a>(
    name: &str,
    sensitive: bool,
    server: &'a ServerConfig,
    synonyms: &mut Vec<SynonymEntry>,
) -> Option<&'a str> {
    let layers = server.layers();
    let mut best = None;
    for (ignored, source) in [
        (&layers.ignored_default, Source::DynamicDefaultBroker),
        (&layers.ignored_broker, Source::DynamicBroker),
    ] {
        let Some(stored) = ignored.get(name) else { continue };
        let rank = |synonym: &SynonymEntry| synonym.source as i8;
        let index = synonyms.partition_point(|synonym| rank(synonym) < source as i8);
        let entry = SynonymEntry {
            name: name.to_owned(),
            value: (!sensitive).then(|| stored.clone()),
            source,
        };
        synonyms.insert(index, entry);
        if index == 0 {
            best = Some(stored.as_str());
        }
    }
    best
}

fn known(name: &str) -> Option<&'static Key> {
    match keys::classify(name) {
        Named::Key(key) | Named::ForListener(key) => Some(key),
        Named::Free | Named::Removed(_) | Named::ZooKeeper | Named::Unknown => None,
    }
}

/// An entry of a topic or a group.
fn scoped(
    key: &'static Key,
    value: Option<String>,
    own: Option<Source>,
    fallbacks: Vec<SynonymEntry>,
) -> Entry {
    debug_assert!(key.scope != Scope::Broker);
    let own = own.map(|source| SynonymEntry {
        name: key.name.to_owned(),
        value: value.clone(),
        source,
    });
    let synonyms: Vec<SynonymEntry> = own.into_iter().chain(fallbacks).collect();
    Entry {
        name: key.name.to_owned(),
        value,
        source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
        is_sensitive: key.secret(),
        read_only: false,
        config_type: key.kind.protocol_id(),
        doc: Some(key.doc()),
        synonyms,
    }
}

/// What the broker says about a topic or group key.
fn inherited(key: &Key, server: &ServerConfig) -> Vec<SynonymEntry> {
    let chain: Vec<&str> = key.synonyms.iter().map(|synonym| synonym.name).collect();
    chain
        .first()
        .map_or_else(Vec::new, |first| synonyms(first, &chain, key.secret(), server))
}

/// All values of a chain of broker keys, layer by layer, from the first one on that `name` itself has.
///
/// Kafka leaves out what comes before that: a key that is set through a coarser unit only shows no synonyms.
fn synonyms(name: &str, chain: &[&str], sensitive: bool, server: &ServerConfig) -> Vec<SynonymEntry> {
    let layers = server.layers();
    let mut found = Vec::new();
    let mut add = |source: Source, lookup: &dyn Fn(&str) -> Option<String>| {
        for member in chain {
            if let Some(value) = lookup(member) {
                let value = (!sensitive).then_some(value);
                found.push(SynonymEntry {
                    name: (*member).to_owned(),
                    value,
                    source,
                });
            }
        }
    };
    add(Source::DynamicBroker, &|member| {
        layers.dynamic_broker.get(member).cloned()
    });
    add(Source::DynamicDefaultBroker, &|member| {
        layers.dynamic_default.get(member).cloned()
    });
    add(Source::StaticBroker, &|member| {
        layers.fixed.given(member).map(str::to_owned)
    });
    add(Source::Default, &|member| {
        keys::broker_key(member)
            .and_then(|key| key.default)
            .map(str::to_owned)
    });
    let first = found
        .iter()
        .position(|synonym| synonym.name == name)
        .unwrap_or(found.len());
    found.split_off(first)
}

/// The value as Kafka prints it: blanks gone, lists joined by commas, numbers in their usual form.
fn normal(key: &Key, text: &str) -> String {
    value::validate(key, text).map_or_else(|_| text.to_owned(), |value| text_of(&value))
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Double(value) => double_text(*value),
        Value::List(list) => list.join(","),
        Value::Text(text) => text.clone(),
    }
}

/// A double as Java prints it.
fn double_text(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-3..1e7).contains(&magnitude) || !value.is_finite() {
        return format!("{value:?}");
    }
    let text = format!("{value:E}");
    match text.split_once('E') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0E{exponent}"),
        Some(_) | None => text,
    }
}

#[cfg(test)]
mod tests;
