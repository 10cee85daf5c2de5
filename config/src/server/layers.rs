//! Dynamic configurations over the fixed ones of the file: which of them are in force, and which are left out and why.
//!
//! What cannot be in force is left out key by key. The others stay: one bad entry must not bring back a retention of the
//! file, which deletes what was to be kept.

use std::collections::BTreeMap;

use super::settings::ListenerSettings;
use super::{ServerConfig, Setting, Values, checks};
use crate::dynamic;
use crate::error::{ConfigError, Problem};
use crate::key::UpdateMode;
use crate::keys;

/// The settings before they were merged, for DescribeConfigs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Layers {
    /// Of this broker.
    pub(crate) dynamic_broker: BTreeMap<String, String>,
    /// Of all brokers.
    pub(crate) dynamic_default: BTreeMap<String, String>,
    /// Stored for this broker and not in force.
    pub(crate) ignored_broker: BTreeMap<String, String>,
    /// Stored for all brokers and not in force.
    pub(crate) ignored_default: BTreeMap<String, String>,
    /// File, environment and overrides.
    pub(crate) fixed: Values,
}

/// One dynamic configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dynamic<'a> {
    per_broker: bool,
    pub(crate) name: &'a str,
    value: &'a str,
}

/// One that is stored and cannot be in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misfit<'a> {
    pub(crate) dynamic: Dynamic<'a>,
    /// What is wrong, a sentence without its end.
    pub(crate) reason: String,
}

/// What of the dynamic configurations is in force: all but the misfits.
pub(crate) struct Settled<'a> {
    /// Those of keys that the node reads; the defaults of all brokers first.
    read: Vec<Dynamic<'a>>,
    /// Those that may belong to something that is plugged in, or to one listener.
    unread: Vec<Dynamic<'a>>,
    pub(crate) misfits: Vec<Misfit<'a>>,
}

/// Why a node could not run with some configurations.
struct Failure {
    /// The settings that have a form of their own were not even read, so nothing else was checked.
    unread: bool,
    problems: Vec<Problem>,
}

impl Failure {
    fn of(unread: bool) -> impl Fn(ConfigError) -> Failure {
        move |error| Failure {
            unread,
            problems: error.problems,
        }
    }

    fn rank(&self) -> (bool, usize) {
        (self.unread, self.problems.len())
    }

    /// The problems that are gone without one of the configurations.
    fn reason(&self, rest: Option<&Failure>) -> String {
        let gone = |problem: &&Problem| rest.is_none_or(|rest| !rest.problems.contains(problem));
        let reasons: Vec<String> = self.problems.iter().filter(gone).map(reason).collect();
        reasons.join("; ")
    }
}

/// Without the places in the file: whoever alters configurations over the network does not know it.
fn reason(problem: &Problem) -> String {
    match problem {
        Problem::Conflict { reason, .. } | Problem::Invalid { reason, .. } => reason.clone(),
        Problem::Syntax { .. } | Problem::Unknown { .. } | Problem::ZooKeeper { .. } => problem.to_string(),
    }
}

/// Decides which dynamic configurations `config`, without those that it has, could run with.
pub(crate) fn settle<'a>(
    config: &ServerConfig,
    per_broker: &'a BTreeMap<String, String>,
    default: &'a BTreeMap<String, String>,
) -> Settled<'a> {
    let mut settled = valid_on_their_own(per_broker, default);
    while let Err(failure) = check(config, &settled.read) {
        let (index, reason) =
            culprit(config, &settled.read, &failure).expect("without dynamic configurations it was valid");
        let dynamic = settled.read.remove(index);
        settled.misfits.push(Misfit { dynamic, reason });
    }
    settled
}

fn valid_on_their_own<'a>(
    per_broker: &'a BTreeMap<String, String>,
    default: &'a BTreeMap<String, String>,
) -> Settled<'a> {
    let mut settled = Settled {
        read: Vec::new(),
        unread: Vec::new(),
        misfits: Vec::new(),
    };
    for (configs, per_broker) in [(default, false), (per_broker, true)] {
        for (name, value) in dynamic::pairs(configs) {
            let dynamic = Dynamic {
                per_broker,
                name,
                value,
            };
            match dynamic::validate_broker_config(name, value, per_broker) {
                Err(reason) => settled.misfits.push(Misfit { dynamic, reason }),
                Ok(()) if keys::broker_key(name).is_some() => settled.read.push(dynamic),
                Ok(()) => settled.unread.push(dynamic),
            }
        }
    }
    settled
}

/// Checks that the node could run with these, and that they leave its listeners what they are.
fn check(config: &ServerConfig, dynamics: &[Dynamic<'_>]) -> Result<(), Failure> {
    let mut effective = config.layers.fixed.clone();
    for dynamic in dynamics {
        overlay(&mut effective, dynamic);
    }
    let (node, listeners, quorum) = checks::structured(&effective).map_err(Failure::of(true))?;
    checks::cross_check(&effective, &node, &listeners, &quorum).map_err(Failure::of(false))?;
    if same_listeners(&listeners, &config.listeners) {
        return Ok(());
    }
    let altered = Problem::Conflict {
        reason: dynamic::LISTENERS_ALTERED.to_owned(),
        origins: Vec::new(),
    };
    Err(Failure {
        unread: false,
        problems: vec![altered],
    })
}

fn same_listeners(one: &ListenerSettings, other: &ListenerSettings) -> bool {
    one.listeners == other.listeners
        && one.advertised == other.advertised
        && one.advertised_controller == other.advertised_controller
}

/// The configuration to leave out next, one of a single broker rather than one of all, and why.
fn culprit(config: &ServerConfig, dynamics: &[Dynamic<'_>], failure: &Failure) -> Option<(usize, String)> {
    for index in (0..dynamics.len()).rev() {
        let mut others = dynamics.to_vec();
        others.remove(index);
        let rest = check(config, &others).err();
        if rest.as_ref().is_none_or(|rest| rest.rank() < failure.rank()) {
            return Some((index, failure.reason(rest.as_ref())));
        }
    }
    // None of them is wrong alone: one of a broker hides one of all brokers that is as wrong.
    let wrong = |index: &usize| check(config, &dynamics[*index..=*index]).is_err();
    let index = (0..dynamics.len())
        .rev()
        .find(wrong)
        .or(dynamics.len().checked_sub(1))?;
    Some((index, failure.reason(None)))
}

/// `config` with what was settled in the place of the dynamic configurations that it has.
pub(crate) fn layered(config: &ServerConfig, settled: &Settled<'_>) -> ServerConfig {
    let mut layers = Layers {
        fixed: config.layers.fixed.clone(),
        ..Layers::default()
    };
    let mut effective = layers.fixed.clone();
    for dynamic in settled.read.iter().chain(&settled.unread) {
        overlay(&mut effective, dynamic);
        let layer = if dynamic.per_broker {
            &mut layers.dynamic_broker
        } else {
            &mut layers.dynamic_default
        };
        layer.insert(dynamic.name.to_owned(), dynamic.value.to_owned());
    }
    // Kafka does not show what is stored for a key that cannot be dynamic at all, and the node's own value is what counts.
    let dynamic_key = |name| keys::broker_key(name).is_none_or(|key| key.mode != UpdateMode::ReadOnly);
    let shown = settled.misfits.iter().map(|misfit| misfit.dynamic);
    for dynamic in shown.filter(|dynamic| dynamic_key(dynamic.name)) {
        let layer = if dynamic.per_broker {
            &mut layers.ignored_broker
        } else {
            &mut layers.ignored_default
        };
        layer.insert(dynamic.name.to_owned(), dynamic.value.to_owned());
    }
    ServerConfig::from_values(effective, layers).expect("what was settled has been checked")
}

/// Puts a dynamic value over what is there; the other keys of its chain lose their say.
fn overlay(values: &mut Values, dynamic: &Dynamic<'_>) {
    if let Some(key) = keys::broker_key(dynamic.name) {
        for synonym in key.synonyms {
            values.0.remove(synonym.name);
        }
    }
    values.0.insert(
        dynamic.name.to_owned(),
        Setting {
            value: dynamic.value.to_owned(),
            origin: None,
        },
    );
}
