//! Checks of AlterConfigs and IncrementalAlterConfigs; refusals are worded as Kafka words them, the caller adds the
//! code INVALID_CONFIG.

use std::collections::BTreeMap;

use crate::key::{Key, Kind, Scope, UpdateMode};
use crate::keys::{self, Named};
use crate::listener::{self, Listener};
use crate::server::{ServerConfig, layers};
use crate::topic::TopicConfig;
use crate::value;

const LISTENERS: &str = "listeners";
const PROTOCOL_MAP: &str = "listener.security.protocol.map";

/// Checks one configuration of a topic.
pub fn validate_topic_config(name: &str, value: &str) -> Result<(), String> {
    let key = keys::topic_key(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
    value::validate(key, value).map(|_| ())
}

/// Checks all configurations of a topic together, each of them and what spans several.
pub fn validate_topic_configs(
    overrides: &BTreeMap<String, String>,
    server: &ServerConfig,
) -> Result<(), String> {
    for (name, value) in overrides {
        validate_topic_config(name, value)?;
    }
    let config = TopicConfig::resolve(pairs(overrides), server);
    let (least, most) = (
        config.retention.min_compaction_lag_ms,
        config.retention.max_compaction_lag_ms,
    );
    if least > most {
        return Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({least}) > max.compaction.lag.ms ({most})"
        ));
    }
    if config.remote_storage {
        return Err(
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote \
                    log storage."
                .to_owned(),
        );
    }
    Ok(())
}

/// Checks one dynamic configuration of a broker, or of all brokers when not `per_broker`.
///
/// As in Kafka a name that nobody knows is stored: it may belong to something that is plugged in.
pub fn validate_broker_config(name: &str, value: &str, per_broker: bool) -> Result<(), String> {
    let (key, prefixed) = match keys::classify(name) {
        Named::Key(key) => (key, false),
        Named::ForListener(key) => (key, true),
        Named::Free | Named::Removed(_) | Named::ZooKeeper | Named::Unknown => return Ok(()),
    };
    if key.mode == UpdateMode::ReadOnly && !prefixed {
        return Err(format!("Cannot update these configs dynamically: [{name}]"));
    }
    if !prefixed && needs_listener(key) {
        return Err(format!(
            "These security configs can be dynamically updated only per-listener using the listener prefix: [{name}]"
        ));
    }
    value::validate(key, value)?;
    if key.name == "log.cleaner.threads" && value.trim() == "0" {
        return Err("Log cleaner threads should be at least 1".to_owned());
    }
    if !per_broker && (key.mode == UpdateMode::PerBroker || (prefixed && !for_all_listeners(key))) {
        return Err(format!(
            "Cannot update these configs at default cluster level, broker id must be specified: [{name}]"
        ));
    }
    Ok(())
}

/// Checks a change of `log.cleaner.threads` while a broker runs: to half or double of what it has at most, as in Kafka.
pub fn validate_cleaner_threads(current: i64, wanted: i64) -> Result<(), String> {
    if wanted < current / 2 {
        return Err(format!(
            "Log cleaner threads cannot be reduced to less than half the current value {current}"
        ));
    }
    if wanted > current.saturating_mul(2) {
        return Err(format!(
            "Log cleaner threads cannot be increased to more than double the current value {current}"
        ));
    }
    Ok(())
}

/// The sizes of Kafka's thread pools, other than those of log.cleaner.threads.
pub const THREAD_POOLS: &[&str] = &[
    "background.threads",
    "num.io.threads",
    "num.network.threads",
    "num.recovery.threads.per.data.dir",
    "num.replica.fetchers",
];

/// Checks a change of the size of a thread pool while a broker runs: to half or double of what it has at most, as in Kafka.
pub fn validate_threads(name: &str, current: i64, wanted: i64) -> Result<(), String> {
    let refuse = |what: &str| {
        let failed = format!("Dynamic thread count update validation failed for {name}={wanted}");
        Err(format!(
            "{failed}, value should {what} the current value {current}"
        ))
    };
    if wanted < current / 2 {
        return refuse("be at least half");
    }
    if wanted > current.saturating_mul(2) {
        return refuse("not be greater than double");
    }
    Ok(())
}

/// The refusal of what would move a listener.
pub(crate) const LISTENERS_ALTERED: &str =
    "Listeners cannot be altered while a broker runs: change its file and restart it";

/// The dynamic configurations of a broker as they are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerOverrides {
    /// Its own.
    pub per_broker: BTreeMap<String, String>,
    /// Those of all brokers.
    pub default: BTreeMap<String, String>,
}

/// Checks that a node could run with all dynamic configurations that it has after a change.
///
/// What did not fit before and has not changed is no reason to refuse: it is not in force, and the way to mend it may take
/// several changes.
pub fn validate_broker_configs(
    before: &BrokerOverrides,
    after: &BrokerOverrides,
    server: &ServerConfig,
) -> Result<(), String> {
    let settled = layers::settle(server, &after.per_broker, &after.default);
    let local_retention = local_retention_misfit(&layers::layered(server, &settled));
    if settled.misfits.is_empty() && local_retention.is_none() {
        return Ok(());
    }
    let old = layers::settle(server, &before.per_broker, &before.default);
    let known = |misfit: &layers::Misfit<'_>| old.misfits.iter().any(|old| old.dynamic == misfit.dynamic);
    if let Some(misfit) = settled.misfits.into_iter().find(|misfit| !known(misfit)) {
        return Err(misfit.reason);
    }
    match local_retention {
        Some(reason) if local_retention_misfit(&layers::layered(server, &old)).as_ref() != Some(&reason) => {
            Err(reason)
        }
        Some(_) | None => Ok(()),
    }
}

/// What a broker would keep of remote topics more than of all. Kafka refuses to alter it so, but starts with it: without
/// remote topics it means nothing, and is no reason to leave out a retention.
fn local_retention_misfit(config: &ServerConfig) -> Option<String> {
    let values = config.values();
    let of = |unit: &str, whole: i64| {
        let name = format!("log.local.retention.{unit}");
        let local = values.long(&name);
        let reason = match local {
            -1 => format!("Value must not be -1 as log.retention.{unit} value is set as {whole}."),
            more if more > whole => {
                format!("Value must not be more than log.retention.{unit} property value: {whole}")
            }
            _ => return None,
        };
        // Without a limit of the whole any part fits.
        (whole >= 0).then(|| format!("Invalid value {local} for configuration {name}: {reason}"))
    };
    of("ms", values.chained("log.retention.ms")).or_else(|| of("bytes", values.long("log.retention.bytes")))
}

/// Whether a key says what listeners a broker has.
pub fn is_of_listeners(name: &str) -> bool {
    matches!(name, LISTENERS | PROTOCOL_MAP)
}

/// Checks that the dynamic configurations of another broker leave its listeners what it has registered; `server` knows
/// which ones belong to the controllers. What is advertised is not dynamic at all.
pub fn validate_listeners(
    after: &BTreeMap<String, String>,
    registered: &[Listener],
    server: &ServerConfig,
) -> Result<(), String> {
    let own = &server.listeners;
    let mut protocols = own.security_protocols.clone();
    if let Some(map) = after.get(PROTOCOL_MAP) {
        protocols = listener::parse_protocol_map(map).map_err(|reason| invalid(PROTOCOL_MAP, &reason))?;
        let missing = own.controller_listener_names.iter();
        if let Some(name) = missing.into_iter().find(|name| !protocols.contains_key(*name)) {
            let reason = format!("controller listener {name} has no entry");
            return Err(invalid(PROTOCOL_MAP, &reason));
        }
        let changed = |it: &&Listener| protocols.get(&it.name) != Some(&it.security_protocol);
        if let Some(Listener { name, .. }) = registered.iter().find(changed) {
            return Err(format!(
                "Security protocol cannot be updated for existing listener {name}"
            ));
        }
    }
    protocols.extend(
        registered
            .iter()
            .map(|it| (it.name.clone(), it.security_protocol)),
    );
    let Some(text) = after.get(LISTENERS) else {
        return Ok(());
    };
    let mut given = listener::parse_listeners(&value::split_list(text), &protocols)
        .map_err(|reason| invalid(LISTENERS, &reason))?;
    given.retain(|listener| !own.is_controller(&listener.name));
    if given != registered {
        return Err(LISTENERS_ALTERED.to_owned());
    }
    Ok(())
}

fn invalid(key: &str, reason: &str) -> String {
    format!("Invalid value for configuration {key}: {reason}")
}

/// Checks one configuration of a group, in itself and against the limits that the broker sets.
pub fn validate_group_config(name: &str, value: &str, server: &ServerConfig) -> Result<(), String> {
    let key = keys::group_key(name).ok_or_else(|| format!("Unknown group config name: {name}"))?;
    let value::Value::Integer(number) = value::validate(key, value)? else {
        return Ok(());
    };
    let Some((protocol, what)) = name.split_once('.') else {
        return Ok(());
    };
    let limit = |bound: &str| {
        let broker_name = format!("group.{protocol}.{bound}.{what}");
        keys::broker_key(&broker_name).map(|_| (server.values().long(&broker_name), broker_name))
    };
    if let Some((least, broker_name)) = limit("min").filter(|(least, _)| number < *least) {
        return Err(format!(
            "{name} must be greater than or equal to {broker_name} ({least})"
        ));
    }
    if let Some((most, broker_name)) = limit("max").filter(|(most, _)| number > *most) {
        return Err(format!(
            "{name} must be less than or equal to {broker_name} ({most})"
        ));
    }
    Ok(())
}

/// Checks all configurations of a group together.
pub fn validate_group_configs(
    configs: &BTreeMap<String, String>,
    server: &ServerConfig,
) -> Result<(), String> {
    for (name, value) in configs {
        validate_group_config(name, value, server)?;
    }
    for protocol in ["consumer", "share", "streams"] {
        let effective = |what: &str| {
            let own = configs
                .get(&format!("{protocol}.{what}"))
                .and_then(|text| text.trim().parse().ok());
            own.unwrap_or_else(|| server.values().long(&format!("group.{protocol}.{what}")))
        };
        if effective("session.timeout.ms") <= effective("heartbeat.interval.ms") {
            return Err(format!(
                "{protocol}.session.timeout.ms must be greater than {protocol}.heartbeat.interval.ms"
            ));
        }
    }
    Ok(())
}

/// Whether a configuration of this scope is a list, so that APPEND and SUBTRACT apply to it.
pub fn is_list(scope: Scope, name: &str) -> bool {
    let key = match scope {
        Scope::Broker => match keys::classify(name) {
            Named::Key(key) | Named::ForListener(key) => Some(key),
            Named::Free | Named::Removed(_) | Named::ZooKeeper | Named::Unknown => None,
        },
        Scope::Topic => keys::topic_key(name),
        Scope::Group => keys::group_key(name),
    };
    key.is_some_and(|key| key.kind == Kind::List)
}

/// APPEND: the members of `current` and, after them, those of `add` that it does not have yet.
pub fn append_list(current: &str, add: &str) -> String {
    let mut members = value::split_list(current);
    for member in value::split_list(add) {
        if !members.contains(&member) {
            members.push(member);
        }
    }
    members.join(",")
}

/// SUBTRACT: the members of `current` that `remove` does not have.
pub fn subtract_list(current: &str, remove: &str) -> String {
    let removed = value::split_list(remove);
    let mut members = value::split_list(current);
    members.retain(|member| !removed.contains(member));
    members.join(",")
}

pub(crate) fn pairs(map: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    map.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

/// Key and trust stores can be changed for a listener only.
fn needs_listener(key: &Key) -> bool {
    const STORES: &[&str] = &["ssl.keystore.", "ssl.truststore."];
    key.name == "ssl.key.password" || STORES.iter().any(|prefix| key.name.starts_with(prefix))
}

fn for_all_listeners(key: &Key) -> bool {
    matches!(
        key.name,
        "max.connections" | "max.connection.creation.rate" | "num.network.threads"
    )
}

#[cfg(test)]
mod tests;
