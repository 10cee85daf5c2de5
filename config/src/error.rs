//! What can be wrong with a configuration, said so that the reader knows which line to change.

use std::fmt;
use std::sync::Arc;

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File {
        /// Path of the file as it was given.
        path: Arc<str>,
        /// Line that the entry starts on, counted from 1.
        line: usize,
    },
    /// In this environment variable.
    Environment(String),
    /// With `--override` on the command line.
    Override,
    /// Nowhere: a node that is started without a file gets it.
    SingleNode,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::Environment(variable) => write!(f, "environment variable {variable}"),
            Origin::Override => f.write_str("--override"),
            Origin::SingleNode => f.write_str("default of a single node"),
        }
    }
}

/// One thing that keeps a node from starting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file is not a .properties file.
    #[error("{path}: {source}")]
    Syntax {
        /// Path of the file as it was given.
        path: Arc<str>,
        /// What is malformed, with the line.
        source: crate::properties::MalformedEscape,
    },
    /// A key that nobody knows.
    #[error("{origin}: unknown key `{key}`{}", did_you_mean(.nearest))]
    Unknown {
        /// The key as it was given.
        key: String,
        /// Where it was given.
        origin: Origin,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
    },
    /// A key of a ZooKeeper cluster.
    #[error(
        "{origin}: `{key}` belongs to a cluster with ZooKeeper. There is none here: controllers keep the metadata \
         themselves (KRaft). Delete the zookeeper.* keys and set process.roles, node.id, controller.listener.names \
         and controller.quorum.voters; config/single.properties is a working example"
    )]
    ZooKeeper {
        /// The key as it was given.
        key: String,
        /// Where it was given.
        origin: Origin,
    },
    /// A value that the key does not accept.
    #[error("{origin}: {reason} (valid: {valid})")]
    Invalid {
        /// The key as it was given.
        key: String,
        /// Where it was given.
        origin: Origin,
        /// Names key, value and what is wrong.
        reason: String,
        /// What the key accepts.
        valid: String,
    },
    /// Values that do not fit together, or one that is missing.
    #[error("{reason}{}", in_origins(.origins))]
    Conflict {
        /// What does not fit and what to do about it.
        reason: String,
        /// Where the values were given, as `key (origin)`.
        origins: Vec<String>,
    },
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    nearest
        .map(|nearest| format!("; did you mean `{nearest}`?"))
        .unwrap_or_default()
}

fn in_origins(origins: &[String]) -> String {
    if origins.is_empty() {
        String::new()
    } else {
        format!(" [{}]", origins.join("; "))
    }
}

/// A configuration that a node cannot start with; every problem is named at once, one on a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// Something about a configuration that does not keep a node from starting but that somebody should see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The key that it is about.
    pub key: String,
    /// A sentence without the place.
    pub message: String,
    /// Where the key was given, when it was given.
    pub origin: Option<Origin>,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}
