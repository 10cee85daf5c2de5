//! Values that have to fit together: addresses, roles, the quorum, and limits that bound each other.
//!
//! The rules are those of Kafka's broker in KRaft mode; every message says which keys to change.

use std::collections::{BTreeMap, BTreeSet};

use odradek_common::metadata::SecurityProtocol;

use super::ServerConfig;
use super::settings::{ListenerSettings, NodeSettings, QuorumSettings, Roles, host_and_count};
use super::values::Values;
use crate::error::{ConfigError, Problem, Warning};
use crate::key::State;
use crate::keys;
use crate::listener::{self, HostPort, Listener, Voter};

const NODE_ID: &str = "node.id";
const ROLES: &str = "process.roles";
const LISTENERS: &str = "listeners";
const ADVERTISED: &str = "advertised.listeners";
const CONTROLLER_LISTENERS: &str = "controller.listener.names";
const INTER_BROKER: &str = "inter.broker.listener.name";
const INTER_BROKER_PROTOCOL: &str = "security.inter.broker.protocol";
const PROTOCOL_MAP: &str = "listener.security.protocol.map";
const VOTERS: &str = "controller.quorum.voters";
const BOOTSTRAP: &str = "controller.quorum.bootstrap.servers";

/// Collects what does not fit.
struct Checker<'a> {
    values: &'a Values,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn require(&mut self, holds: bool, keys: &[&str], reason: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(Problem::Conflict {
                reason: reason(),
                origins: self.values.origins(keys),
            });
        }
    }

    fn parsed<T: Default>(&mut self, key: &str, result: Result<T, String>) -> T {
        result.unwrap_or_else(|reason| {
            self.require(false, &[key], || {
                format!("Invalid value for configuration {key}: {reason}")
            });
            T::default()
        })
    }

    fn done(self) -> Result<(), ConfigError> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError {
                problems: self.problems,
            })
        }
    }
}

/// Reads the settings that have a form of their own.
pub(super) fn structured(
    values: &Values,
) -> Result<(NodeSettings, ListenerSettings, QuorumSettings), ConfigError> {
    let mut checker = Checker {
        values,
        problems: Vec::new(),
    };
    refused_keys(&mut checker);
    let node = node(values, &mut checker);
    let listeners = listeners(values, &mut checker, node.roles);
    let voters = voters(values, &mut checker);
    let bootstrap = values
        .list(BOOTSTRAP)
        .iter()
        .map(|text| named_host(text))
        .collect::<Result<Vec<_>, _>>();
    let bootstrap = checker.parsed(BOOTSTRAP, bootstrap);
    checker.done()?;
    Ok((node, listeners, QuorumSettings::read(values, voters, bootstrap)))
}

/// What somebody relies on and this version does not have. An empty value asks for nothing.
fn refused_keys(checker: &mut Checker<'_>) {
    let values = checker.values;
    for key in keys::broker_keys() {
        if let State::Refused(why) = key.state {
            let asked_for = values
                .given(key.name)
                .is_some_and(|value| !value.trim().is_empty());
            checker.require(!asked_for, &[key.name], || {
                format!(
                    "`{}` is set, but {why}; delete the key, and bind every listener to an address that only trusted \
                     hosts reach",
                    key.name
                )
            });
        }
    }
}

fn node(values: &Values, checker: &mut Checker<'_>) -> NodeSettings {
    let number = |key| values.given(key).map(|_| values.int(key));
    let (node_id, broker_id) = (number(NODE_ID), number("broker.id"));
    checker.require(
        node_id.or(broker_id).is_some_and(|id| id >= 0),
        &[NODE_ID, "broker.id"],
        || "node.id is missing: give every node of the cluster a number of its own, 0 or more".to_owned(),
    );
    checker.require(
        node_id.is_none() || broker_id.is_none() || node_id == broker_id,
        &[NODE_ID, "broker.id"],
        || "node.id and broker.id differ; delete broker.id".to_owned(),
    );
    let roles = values.list(ROLES);
    checker.require(!roles.is_empty(), &[ROLES], || {
        "process.roles is missing: set it to broker, controller, or broker,controller".to_owned()
    });
    let role = |name: &str| roles.iter().any(|role| role == name);
    let mut log_dirs = values.list(if values.given("log.dirs").is_some() {
        "log.dirs"
    } else {
        "log.dir"
    });
    let mut seen = BTreeSet::new();
    log_dirs.retain(|dir| !dir.is_empty() && seen.insert(dir.clone()));
    checker.require(!log_dirs.is_empty(), &["log.dirs", "log.dir"], || {
        "log.dirs names no directory".to_owned()
    });
    let metadata_log_dir = values
        .string("metadata.log.dir")
        .or_else(|| log_dirs.first().cloned());
    NodeSettings {
        node_id: node_id.or(broker_id).unwrap_or(-1),
        roles: Roles {
            broker: role("broker"),
            controller: role("controller"),
        },
        log_dirs,
        metadata_log_dir: metadata_log_dir.unwrap_or_default(),
        rack: values.string("broker.rack").filter(|rack| !rack.is_empty()),
    }
}

fn listeners(values: &Values, checker: &mut Checker<'_>, roles: Roles) -> ListenerSettings {
    let controller_names: Vec<String> = values
        .list(CONTROLLER_LISTENERS)
        .iter()
        .map(|name| name.to_ascii_uppercase())
        .collect();
    let bound = values.list(LISTENERS);
    let map = values.text(PROTOCOL_MAP).unwrap_or_default();
    let mut protocols = checker.parsed(PROTOCOL_MAP, listener::parse_protocol_map(map));
    if values.given(PROTOCOL_MAP).is_none() {
        add_plaintext_controllers(&mut protocols, &controller_names, &bound);
    }
    let listeners = bound_listeners(&bound, &protocols, checker);
    distinct(&listeners, LISTENERS, checker);
    distinct_ports(&listeners, checker);
    let advertised = match values.given(ADVERTISED) {
        None => listeners.clone(),
        Some(_) => checker.parsed(
            ADVERTISED,
            listener::parse_listeners(&values.list(ADVERTISED), &protocols),
        ),
    };
    distinct(&advertised, ADVERTISED, checker);
    let is_controller = |listener: &Listener| controller_names.contains(&listener.name);
    let own_controller = |name: &String| {
        let called = |listener: &&Listener| listener.name == *name;
        advertised
            .iter()
            .find(called)
            .or_else(|| listeners.iter().find(called))
            .cloned()
    };
    let advertised_controller = if roles.controller {
        controller_names.iter().filter_map(own_controller).collect()
    } else {
        Vec::new()
    };
    let advertised_broker = advertised
        .iter()
        .filter(|listener| !is_controller(listener))
        .cloned();
    ListenerSettings {
        inter_broker_listener_name: inter_broker(values, &protocols, checker),
        advertised: if roles.broker {
            advertised_broker.collect()
        } else {
            Vec::new()
        },
        advertised_controller,
        listeners,
        controller_listener_names: controller_names,
        security_protocols: protocols,
    }
}

/// Controller listeners are plaintext when no map is given and no listener is named after SSL or SASL.
fn add_plaintext_controllers(
    protocols: &mut BTreeMap<String, SecurityProtocol>,
    controller_names: &[String],
    bound: &[String],
) {
    let secure =
        |name: &str| SecurityProtocol::from_name(name).is_some_and(|p| p != SecurityProtocol::Plaintext);
    let bound_names = bound
        .iter()
        .filter_map(|text| text.split_once("://").map(|(name, _)| name.trim()));
    if controller_names
        .iter()
        .map(String::as_str)
        .chain(bound_names)
        .any(secure)
    {
        return;
    }
    for name in controller_names {
        protocols.insert(name.clone(), SecurityProtocol::Plaintext);
    }
}

/// The listeners to bind. If one is to be protected that is said and nothing of the others: a name of theirs that has no
/// protocol lacks it for the same reason.
fn bound_listeners(
    bound: &[String],
    protocols: &BTreeMap<String, SecurityProtocol>,
    checker: &mut Checker<'_>,
) -> Vec<Listener> {
    let understood: Vec<Listener> = bound
        .iter()
        .filter_map(|text| listener::parse_listener(text, protocols).ok())
        .collect();
    let before = checker.problems.len();
    plaintext(&understood, checker);
    if checker.problems.len() > before {
        return understood;
    }
    checker.parsed(LISTENERS, listener::parse_listeners(bound, protocols))
}

/// Whoever asks for TLS or SASL must not get a port that is open to everybody.
fn plaintext(listeners: &[Listener], checker: &mut Checker<'_>) {
    for listener in listeners {
        let protocol = listener.security_protocol;
        checker.require(
            protocol == SecurityProtocol::Plaintext,
            &[LISTENERS, PROTOCOL_MAP],
            || {
                format!(
                    "listener {listener} is {}, but this version has PLAINTEXT alone and will not open it \
                     unprotected; bind it to an address that only trusted hosts reach, as PLAINTEXT",
                    protocol.name()
                )
            },
        );
    }
}

fn distinct(listeners: &[Listener], key: &str, checker: &mut Checker<'_>) {
    let mut names = BTreeSet::new();
    let duplicate = listeners.iter().find(|listener| !names.insert(&listener.name));
    if let Some(Listener { name, .. }) = duplicate {
        checker.require(false, &[key], || format!("{key} has two listeners named {name}"));
    }
}

/// Two listeners may share a port only when one has an IPv4 and the other an IPv6 address.
fn distinct_ports(listeners: &[Listener], checker: &mut Checker<'_>) {
    let family = |listener: &Listener| {
        listener
            .host
            .parse::<std::net::IpAddr>()
            .ok()
            .map(|ip| ip.is_ipv4())
    };
    for (index, first) in listeners.iter().enumerate() {
        for second in &listeners[index + 1..] {
            let families = (family(first), family(second));
            let apart = matches!(families, (Some(a), Some(b)) if a != b);
            checker.require(
                first.port != second.port || first.port == 0 || apart,
                &[LISTENERS],
                || format!("{first} and {second} have the same port; give each listener a port of its own"),
            );
        }
    }
}

fn inter_broker(
    values: &Values,
    protocols: &BTreeMap<String, SecurityProtocol>,
    checker: &mut Checker<'_>,
) -> String {
    let Some(name) = values.string(INTER_BROKER) else {
        return values.string(INTER_BROKER_PROTOCOL).unwrap_or_default();
    };
    checker.require(
        values.given(INTER_BROKER_PROTOCOL).is_none(),
        &[INTER_BROKER, INTER_BROKER_PROTOCOL],
        || "only one of inter.broker.listener.name and security.inter.broker.protocol may be set".to_owned(),
    );
    let name = name.to_ascii_uppercase();
    checker.require(
        protocols.contains_key(&name),
        &[INTER_BROKER, PROTOCOL_MAP],
        || format!("inter.broker.listener.name {name} has no entry in listener.security.protocol.map"),
    );
    name
}

fn named_host(text: &str) -> Result<HostPort, String> {
    let address = listener::parse_host_port(text)?;
    if address.host.is_empty() {
        Err(format!("`{text}` has no host"))
    } else {
        Ok(address)
    }
}

fn voters(values: &Values, checker: &mut Checker<'_>) -> Vec<Voter> {
    let voters = values
        .list(VOTERS)
        .iter()
        .map(|text| listener::parse_voter(text))
        .collect::<Result<Vec<_>, _>>();
    let voters = checker.parsed(VOTERS, voters);
    let mut ids = BTreeSet::new();
    for voter in &voters {
        checker.require(ids.insert(voter.id), &[VOTERS], || {
            format!("node {} is given twice as a voter", voter.id)
        });
        checker.require(voter.address.host != "0.0.0.0", &[VOTERS], || {
            format!("{voter} cannot be reached: 0.0.0.0 is not an address to connect to")
        });
    }
    voters
}

/// Checks what spans several keys.
pub(super) fn cross_check(
    values: &Values,
    node: &NodeSettings,
    listeners: &ListenerSettings,
    quorum: &QuorumSettings,
) -> Result<(), ConfigError> {
    let mut checker = Checker {
        values,
        problems: Vec::new(),
    };
    roles(node, listeners, quorum, &mut checker);
    if node.roles.broker {
        advertised(listeners, &mut checker);
    }
    let addressed = listeners
        .advertised
        .iter()
        .chain(&listeners.advertised_controller);
    for listener in addressed {
        checker.require(listener.host != "0.0.0.0", &[ADVERTISED, LISTENERS], || {
            format!(
                "{listener} would be advertised, but 0.0.0.0 is not an address that anybody can connect to; set \
                 advertised.listeners to a name or address of this machine"
            )
        });
    }
    limits(values, &mut checker);
    consumer_ranges(values, &mut checker);
    checker.done()
}

fn roles(
    node: &NodeSettings,
    listeners: &ListenerSettings,
    quorum: &QuorumSettings,
    checker: &mut Checker<'_>,
) {
    let id = node.node_id;
    let is_voter = quorum.voters.iter().any(|voter| voter.id == id);
    checker.require(!quorum.voters.is_empty() || !quorum.bootstrap_servers.is_empty(), &[ROLES], || {
        "nothing says where the controllers are: set controller.quorum.voters (id@host:port of each controller) or \
         controller.quorum.bootstrap.servers (host:port)"
            .to_owned()
    });
    checker.require(!listeners.controller_listener_names.is_empty(), &[ROLES], || {
        "controller.listener.names is missing: name the listener of the controllers, for example CONTROLLER".to_owned()
    });
    if node.roles.controller {
        checker.require(quorum.voters.is_empty() || is_voter, &[NODE_ID, VOTERS], || {
            format!(
                "this node is a controller, but controller.quorum.voters does not contain its node.id {id}"
            )
        });
        for name in &listeners.controller_listener_names {
            checker.require(listeners.listeners.iter().any(|l| l.name == *name), &[CONTROLLER_LISTENERS, LISTENERS], || {
                format!("controller listener {name} does not appear in listeners; add {name}://host:port there")
            });
        }
    } else {
        checker.require(!is_voter, &[NODE_ID, VOTERS], || {
            format!("this node is only a broker, but controller.quorum.voters contains its node.id {id}")
        });
        for listener in listeners.controller_listeners() {
            checker.require(false, &[CONTROLLER_LISTENERS, LISTENERS], || {
                format!(
                    "this node is only a broker, but its listeners contain the controller listener {listener}"
                )
            });
        }
        for name in &listeners.controller_listener_names {
            let protocol = listeners.security_protocols.get(name).copied();
            let keys = [CONTROLLER_LISTENERS, PROTOCOL_MAP];
            checker.require(protocol.is_some(), &keys, || {
                format!("controller listener {name} has no entry in listener.security.protocol.map")
            });
            let protocol = protocol.unwrap_or(SecurityProtocol::Plaintext);
            checker.require(protocol == SecurityProtocol::Plaintext, &keys, || {
                format!(
                    "controller listener {name} is {}, but this version has PLAINTEXT alone and will not speak to \
                     controllers unprotected; reach them through a network of trusted hosts, as PLAINTEXT",
                    protocol.name()
                )
            });
        }
    }
    if node.roles.controller && !node.roles.broker {
        for listener in listeners.broker_listeners() {
            checker.require(false, &[LISTENERS, CONTROLLER_LISTENERS], || {
                format!("this node is only a controller, but {listener} is not in controller.listener.names")
            });
        }
    }
}

fn advertised(listeners: &ListenerSettings, checker: &mut Checker<'_>) {
    let names: Vec<&str> = listeners
        .advertised
        .iter()
        .map(|listener| listener.name.as_str())
        .collect();
    checker.require(
        !names.is_empty(),
        &[LISTENERS, ADVERTISED, CONTROLLER_LISTENERS],
        || {
            "a broker needs a listener for clients: all of its listeners are in controller.listener.names"
                .to_owned()
        },
    );
    let inter_broker = &listeners.inter_broker_listener_name;
    let keys = [INTER_BROKER, INTER_BROKER_PROTOCOL, ADVERTISED, LISTENERS];
    checker.require(!listeners.is_controller(inter_broker), &keys, || {
        format!("inter.broker.listener.name {inter_broker} belongs to the controllers; name a listener of the brokers")
    });
    let known =
        names.contains(&inter_broker.as_str()) || listeners.is_controller(inter_broker) || names.is_empty();
    checker.require(known, &keys, || {
        format!(
            "brokers reach each other on listener {inter_broker}, which is not advertised; set \
             inter.broker.listener.name to one of {}",
            names.join(", ")
        )
    });
    for listener in &listeners.advertised {
        let bound = listeners
            .listeners
            .iter()
            .any(|bound| bound.name == listener.name);
        checker.require(bound, &[ADVERTISED, LISTENERS], || {
            format!("advertised listener {} is not in listeners", listener.name)
        });
    }
}

fn limits(values: &Values, checker: &mut Checker<'_>) {
    let long = |key: &str| values.long(key);
    let mut at_most = |small: &str, large: &str, why: &str| {
        let (a, b) = (long(small), long(large));
        checker.require(a <= b, &[small, large], || {
            format!("{small}={a} must not exceed {large}={b}: {why}")
        });
    };
    at_most(
        "replica.fetch.wait.max.ms",
        "replica.socket.timeout.ms",
        "fetches would time out",
    );
    at_most(
        "replica.fetch.wait.max.ms",
        "replica.lag.time.max.ms",
        "followers would leave the ISR while they wait",
    );
    let (idle, delay) = (
        long("connections.max.idle.ms"),
        long("connection.failed.authentication.delay.ms"),
    );
    checker.require(idle < 0 || delay < idle, &["connection.failed.authentication.delay.ms"], || {
        format!("connection.failed.authentication.delay.ms={delay} must be below connections.max.idle.ms={idle}")
    });
    let queued = long("queued.max.request.bytes");
    checker.require(
        queued <= 0 || queued >= long("socket.request.max.bytes"),
        &["queued.max.request.bytes"],
        || "queued.max.request.bytes must not be below socket.request.max.bytes".to_owned(),
    );
    let overrides = values.list("max.connections.per.ip.overrides");
    checker.require(
        long("max.connections.per.ip") > 0 || !overrides.is_empty(),
        &["max.connections.per.ip"],
        || {
            "max.connections.per.ip=0 refuses everybody; set max.connections.per.ip.overrides as well"
                .to_owned()
        },
    );
    for entry in overrides.iter().filter(|entry| host_and_count(entry).is_none()) {
        checker.require(false, &["max.connections.per.ip.overrides"], || {
            format!("max.connections.per.ip.overrides: `{entry}` is not of the form host:count")
        });
    }
    time_limits(values, checker);
}

fn time_limits(values: &Values, checker: &mut Checker<'_>) {
    checker.require(values.chained("log.roll.ms") >= 1, &["log.roll.ms"], || {
        "log.roll.ms must be at least 1".to_owned()
    });
    checker.require(
        values.chained("log.roll.jitter.ms") >= 0,
        &["log.roll.jitter.ms"],
        || "log.roll.jitter.ms must be at least 0".to_owned(),
    );
    let retention = ["log.retention.ms", "log.retention.minutes", "log.retention.hours"];
    checker.require(values.chained("log.retention.ms") != 0, &retention, || {
        "log.retention.ms must be at least 1, or -1 to keep records for ever".to_owned()
    });
    let (buffer, threads) = (
        values.long("log.cleaner.dedupe.buffer.size"),
        values.long("log.cleaner.threads"),
    );
    checker.require(
        threads == 0 || buffer / threads > 1024 * 1024,
        &["log.cleaner.dedupe.buffer.size"],
        || {
            "log.cleaner.dedupe.buffer.size must be more than 1 MiB for each of log.cleaner.threads"
                .to_owned()
        },
    );
    let load_factor = "log.cleaner.io.buffer.load.factor";
    checker.require(values.double(load_factor) > 0.0, &[load_factor], || {
        format!("{load_factor} must be more than 0")
    });
    let (least, most) = (
        values.long("log.cleaner.min.compaction.lag.ms"),
        values.long("log.cleaner.max.compaction.lag.ms"),
    );
    checker.require(least <= most, &["log.cleaner.min.compaction.lag.ms"], || {
        format!("log.cleaner.min.compaction.lag.ms={least} must not exceed log.cleaner.max.compaction.lag.ms={most}")
    });
    let protocols = values.list("group.coordinator.rebalance.protocols");
    checker.require(
        protocols.iter().any(|p| p == "classic"),
        &["group.coordinator.rebalance.protocols"],
        || "group.coordinator.rebalance.protocols must contain classic".to_owned(),
    );
}

/// Group defaults have to lie between the limits that a single group may be given.
fn consumer_ranges(values: &Values, checker: &mut Checker<'_>) {
    for protocol in ["consumer", "share", "streams"] {
        for what in ["session.timeout.ms", "heartbeat.interval.ms"] {
            let key = format!("group.{protocol}.{what}");
            let (least, most) = (
                format!("group.{protocol}.min.{what}"),
                format!("group.{protocol}.max.{what}"),
            );
            let (value, min, max) = (values.long(&key), values.long(&least), values.long(&most));
            checker.require((min..=max).contains(&value), &[&key, &least, &most], || {
                format!("{key}={value} must lie between {least}={min} and {most}={max}")
            });
        }
    }
}

/// What a valid configuration should still be told about.
pub(super) fn warnings(config: &ServerConfig) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let controller = &config.controller;
    let (heartbeat, session) = (
        controller.broker_heartbeat_interval_ms,
        controller.broker_session_timeout_ms,
    );
    if i64::from(heartbeat) * 2 > i64::from(session) {
        let key = "broker.heartbeat.interval.ms".to_owned();
        let message = format!(
            "broker.heartbeat.interval.ms={heartbeat} is more than half of broker.session.timeout.ms={session}: one \
             late heartbeat fences the broker"
        );
        let origin = config
            .values()
            .0
            .get(&key)
            .and_then(|setting| setting.origin.clone());
        warnings.push(Warning { key, message, origin });
    }
    warnings
}
