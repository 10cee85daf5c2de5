//! Merging the layers of a node's configuration and checking each key on its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::values::{Setting, Values};
use super::{Layers, ServerConfig, checks};
use crate::error::{ConfigError, Origin, Problem, Warning};
use crate::key::State;
use crate::keys::{self, Named};
use crate::{environment, listener, properties, value};

/// Keys and values that a node without a file starts from; node.id and voters follow from what else is given.
const SINGLE_NODE: &[(&str, &str)] = &[
    ("process.roles", "broker,controller"),
    ("node.id", "1"),
    (
        "listeners",
        "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093",
    ),
    ("controller.listener.names", "CONTROLLER"),
    ("log.dirs", "./data"),
];

#[derive(Default)]
struct Loading {
    values: Values,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

pub(super) fn load(
    file: Option<(&str, &str)>,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<(ServerConfig, Vec<Warning>), ConfigError> {
    let mut loading = Loading::default();
    if let Some((path, text)) = file {
        loading.read_file(path, text);
    }
    let mut variables: Vec<_> = environment.collect();
    variables.sort();
    for (variable, value) in variables {
        if let Some(key) = environment::key_of(&variable) {
            loading.set(&key, &value, Origin::Environment(variable));
        }
    }
    for (key, value) in overrides {
        loading.set(key.trim(), value, Origin::Override);
    }
    if !loading.problems.is_empty() {
        return Err(ConfigError {
            problems: loading.problems,
        });
    }
    let Loading {
        mut values,
        mut warnings,
        ..
    } = loading;
    if file.is_none() {
        complete_single_node(&mut values);
    }
    let layers = Layers {
        fixed: values.clone(),
        ..Layers::default()
    };
    let config = ServerConfig::from_values(values, layers)?;
    warnings.extend(checks::warnings(&config));
    Ok((config, warnings))
}

impl Loading {
    fn read_file(&mut self, path: &str, text: &str) {
        let path: Arc<str> = Arc::from(path);
        let properties = match properties::parse(text) {
            Ok(properties) => properties,
            Err(source) => return self.problems.push(Problem::Syntax { path, source }),
        };
        let mut seen: BTreeMap<String, Origin> = BTreeMap::new();
        for property in properties {
            let origin = Origin::File {
                path: path.clone(),
                line: property.line,
            };
            if let Some(earlier) = seen.insert(property.key.clone(), origin.clone()) {
                let message = format!(
                    "`{}` was already given at {earlier}; the last one counts",
                    property.key
                );
                self.warnings.push(Warning {
                    key: property.key.clone(),
                    message,
                    origin: Some(origin.clone()),
                });
            }
            self.set(&property.key, &property.value, origin);
        }
    }

    fn set(&mut self, name: &str, text: &str, origin: Origin) {
        let named = keys::classify(name);
        // The last one counts, so what was wrong with one before it does not.
        self.problems
            .retain(|problem| !matches!(problem, Problem::Invalid { key, .. } if key == name));
        match named {
            Named::Key(key) | Named::ForListener(key) => {
                if let Err(reason) = value::validate(key, text) {
                    return self.problems.push(Problem::Invalid {
                        key: name.to_owned(),
                        origin,
                        reason,
                        valid: key.accepted(),
                    });
                }
                if matches!(named, Named::ForListener(_)) && !keys::USED_FOR_ONE_LISTENER.contains(&key.name)
                {
                    let message = format!(
                        "`{name}` is accepted, but this version does not use `{}` for one listener",
                        key.name
                    );
                    self.warn(name, message, &origin);
                } else if let State::AcceptedNotYet(why) = key.state {
                    let message =
                        format!("`{name}` is accepted, but this version does not use it yet: {why}");
                    self.warn(name, message, &origin);
                }
            }
            Named::Free => {
                let message = format!(
                    "`{name}` is accepted, but this version does not use it yet: there are no plug-ins"
                );
                self.warn(name, message, &origin);
            }
            Named::Removed(advice) => {
                let message = format!("`{name}` has no effect: Kafka itself no longer has it; {advice}");
                return self.warn(name, message, &origin);
            }
            Named::ZooKeeper => {
                return self.problems.push(Problem::ZooKeeper {
                    key: name.to_owned(),
                    origin,
                });
            }
            Named::Unknown => {
                let nearest = keys::nearest(name);
                return self.problems.push(Problem::Unknown {
                    key: name.to_owned(),
                    origin,
                    nearest,
                });
            }
        }
        self.values.0.insert(
            name.to_owned(),
            Setting {
                value: text.to_owned(),
                origin: Some(origin),
            },
        );
    }

    fn warn(&mut self, key: &str, message: String, origin: &Origin) {
        // A later layer repeats the key: one warning, about the place that counts.
        self.warnings
            .retain(|warning| warning.key != key || warning.message != message);
        self.warnings.push(Warning {
            key: key.to_owned(),
            message,
            origin: Some(origin.clone()),
        });
    }
}

/// Fills in what a node without a file needs; what was given stays.
fn complete_single_node(values: &mut Values) {
    let default = |values: &mut Values, key: &str, value: &str| {
        let setting = Setting {
            value: value.to_owned(),
            origin: Some(Origin::SingleNode),
        };
        values.0.entry(key.to_owned()).or_insert(setting);
    };
    let same_as_id = values.given("broker.id").map(str::to_owned);
    if let Some(id) = same_as_id {
        default(values, "node.id", &id);
    }
    let directory_given = values.given("log.dir").is_some();
    for (key, value) in SINGLE_NODE {
        if *key != "log.dirs" || !directory_given {
            default(values, key, value);
        }
    }
    let located = ["controller.quorum.voters", "controller.quorum.bootstrap.servers"];
    if located.iter().any(|key| values.given(key).is_some()) {
        return;
    }
    if let Some(voter) = sole_voter(values) {
        default(values, "controller.quorum.voters", &voter);
    }
}

/// This node at its own controller listener, as a voter; `None` when it has no such listener.
fn sole_voter(values: &Values) -> Option<String> {
    let controllers = values.list("controller.listener.names");
    let own = values.list("listeners").into_iter().find_map(|text| {
        let (name, address) = text.split_once("://")?;
        let ours = controllers
            .iter()
            .any(|controller| controller.eq_ignore_ascii_case(name));
        if ours {
            listener::parse_host_port(address).ok()
        } else {
            None
        }
    })?;
    let host = if own.host.is_empty() || own.host == "0.0.0.0" {
        "127.0.0.1".to_owned()
    } else {
        own.host
    };
    let id = values.given("node.id")?.trim();
    Some(format!("{id}@{}", listener::HostPort { host, port: own.port }))
}
