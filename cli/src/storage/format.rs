//! `odradek storage format`, and the same for the nodes of `odradek cluster`.

use std::path::PathBuf;

use clap::Args;
use odradek_common::metadata::{Endpoint, SecurityProtocol};
use odradek_config::ServerConfig;
use odradek_config::listener::parse_voter;
use odradek_controller::format::{Format, FormatError, InitialVoter, format};
use odradek_controller::meta_properties::MetaProperties;
use uuid::Uuid;

use super::{directories, load};
use crate::arguments::key_value;
use crate::error::{CommandError, Outcome};
use crate::kafka_uuid;
use crate::output::say;

/// Flags of `odradek storage format`.
#[derive(Debug, Args)]
pub struct FormatArguments {
    /// The node's configuration.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// The cluster's id; `odradek storage random-uuid` prints a new one.
    #[arg(long, short = 't', value_name = "ID")]
    cluster_id: String,
    /// Leaves formatted directories as they are instead of refusing them.
    #[arg(long, short = 'g')]
    ignore_formatted: bool,
    /// Makes this controller the only voter of a new quorum.
    #[arg(long, short, conflicts_with_all = ["no_initial_controllers", "initial_controllers"])]
    standalone: bool,
    /// Makes no quorum: the controller joins one.
    #[arg(long, short = 'N', conflicts_with = "initial_controllers")]
    no_initial_controllers: bool,
    /// The voters of a new quorum, as id@host:port:directory-id, separated by commas; the same on all of them.
    #[arg(long, short = 'I', value_name = "VOTERS", value_delimiter = ',')]
    initial_controllers: Vec<String>,
    /// The release whose features the cluster starts with; this program starts clusters with its own.
    #[arg(long, short, value_name = "RELEASE")]
    release_version: Option<String>,
    /// A feature's level at the start; this program starts clusters with its own.
    #[arg(long, short, value_name = "NAME=LEVEL", value_parser = key_value)]
    feature: Vec<(String, String)>,
    /// Credentials; this version has no SASL.
    #[arg(long, short = 'S', hide = true)]
    add_scram: Vec<String>,
}

/// Directories to format, and as what.
pub struct FormatRequest<'a> {
    /// The node.
    pub config: &'a ServerConfig,
    /// The cluster.
    pub cluster_id: &'a str,
    /// The voters of a new quorum; those of controller.quorum.voters if not given.
    pub founders: Option<Vec<InitialVoter>>,
    /// Whether formatted directories are left as they are.
    pub ignore_formatted: bool,
}

/// Carries out `odradek storage format`.
pub fn run(arguments: &FormatArguments) -> Outcome {
    let config = load(&arguments.config)?;
    if !arguments.add_scram.is_empty() {
        return Err(CommandError::refused(
            "--add-scram: this version has no SASL, so no credentials to store",
        ));
    }
    if kafka_uuid::parse(&arguments.cluster_id).is_err() {
        eprintln!(
            "WARNING: {} is not a base64-encoded UUID; clients and tools may refuse it (see `odradek storage random-uuid`)",
            arguments.cluster_id
        );
    }
    if arguments.release_version.is_some() || !arguments.feature.is_empty() {
        eprintln!(
            "WARNING: a cluster starts with this program's own feature levels; `odradek features` shows and changes them"
        );
    }
    let founders = founders(arguments, &config)?;
    let fresh = fresh_directories(&config)?;
    if fresh.is_empty() && arguments.ignore_formatted {
        say!("All of the log directories are already formatted.");
    }
    format_directories(&FormatRequest {
        config: &config,
        cluster_id: &arguments.cluster_id,
        founders,
        ignore_formatted: arguments.ignore_formatted,
    })?;
    for directory in fresh {
        let metadata = directory.as_os_str() == config.node.metadata_log_dir.as_str();
        say!(
            "Formatting {}directory {}.",
            if metadata { "metadata " } else { "data " },
            directory.display()
        );
    }
    Ok(())
}

fn fresh_directories(config: &ServerConfig) -> Outcome<Vec<PathBuf>> {
    let mut fresh = Vec::new();
    for directory in directories(config) {
        let found = MetaProperties::read(&directory).map_err(|error| CommandError::refused(chain(&error)))?;
        if found.is_none() {
            fresh.push(directory);
        }
    }
    Ok(fresh)
}

/// The voters that the flags name; `None` leaves it to the configuration.
fn founders(arguments: &FormatArguments, config: &ServerConfig) -> Outcome<Option<Vec<InitialVoter>>> {
    let roles = config.node.roles;
    let named = arguments.standalone || !arguments.initial_controllers.is_empty();
    if named && !config.quorum.voters.is_empty() {
        return Err(CommandError::refused(
            "controller.quorum.voters is set and names the voters: leave --standalone and --initial-controllers out, or \
             the key (and set controller.quorum.bootstrap.servers)",
        ));
    }
    if arguments.no_initial_controllers {
        return Ok(Some(Vec::new()));
    }
    if arguments.standalone {
        if !roles.controller {
            return Err(CommandError::refused(
                "You can only use --standalone on a controller.",
            ));
        }
        return Ok(Some(vec![own_voter(config)?]));
    }
    if !arguments.initial_controllers.is_empty() {
        let listener = controller_listener(config);
        let voters: Result<Vec<_>, _> = arguments
            .initial_controllers
            .iter()
            .map(|text| parse_founder(text, &listener))
            .collect();
        return Ok(Some(voters?));
    }
    if roles.controller && config.quorum.voters.is_empty() {
        return Err(CommandError::refused(
            "Because controller.quorum.voters is not set on this controller, you must specify one of the following: \
             --standalone, --initial-controllers, or --no-initial-controllers.",
        ));
    }
    Ok(None)
}

fn controller_listener(config: &ServerConfig) -> String {
    config
        .listeners
        .controller_listener_names
        .first()
        .cloned()
        .unwrap_or_else(|| "CONTROLLER".to_owned())
}

fn own_voter(config: &ServerConfig) -> Outcome<InitialVoter> {
    let listener = config.listeners.advertised_controller.first().ok_or_else(|| {
        CommandError::refused("this controller has no controller listener to be reached at")
    })?;
    let host = if listener.host.is_empty() {
        "localhost"
    } else {
        &listener.host
    };
    Ok(voter(
        config.node.node_id,
        kafka_uuid::random(),
        &listener.name,
        host,
        listener.port,
    ))
}

fn voter(node_id: i32, directory_id: Uuid, listener: &str, host: &str, port: u16) -> InitialVoter {
    let endpoint = Endpoint {
        listener: listener.into(),
        host: host.into(),
        port,
        security_protocol: SecurityProtocol::Plaintext,
    };
    InitialVoter {
        node_id,
        directory_id,
        endpoint,
    }
}

/// Reads `id@host:port:directory-id`.
fn parse_founder(text: &str, listener: &str) -> Outcome<InitialVoter> {
    let bad = |why: &str| {
        CommandError::refused(format!(
            "--initial-controllers {text}: {why} (id@host:port:directory-id expected)"
        ))
    };
    let (address, directory_id) = text
        .trim()
        .rsplit_once(':')
        .ok_or_else(|| bad("no directory id"))?;
    let directory_id = kafka_uuid::parse(directory_id).map_err(|why| bad(&why))?;
    let parsed = parse_voter(address).map_err(|why| bad(&why))?;
    Ok(voter(
        parsed.id,
        directory_id,
        listener,
        &parsed.address.host,
        parsed.address.port,
    ))
}

/// Formats the directories of a node.
pub fn format_directories(request: &FormatRequest<'_>) -> Outcome {
    let config = request.config;
    let log_dirs: Vec<PathBuf> = config.node.log_dirs.iter().map(PathBuf::from).collect();
    let metadata_log_dir = PathBuf::from(&config.node.metadata_log_dir);
    let configured = || -> Vec<InitialVoter> {
        let listener = controller_listener(config);
        let voters = config.quorum.voters.iter();
        voters
            .map(|it| voter(it.id, Uuid::nil(), &listener, &it.address.host, it.address.port))
            .collect()
    };
    let founders = request.founders.clone().unwrap_or_else(configured);
    let result = format(&Format {
        log_dirs: &log_dirs,
        metadata_log_dir: &metadata_log_dir,
        cluster_id: request.cluster_id,
        node_id: config.node.node_id,
        controller: config.node.roles.controller,
        initial_voters: &founders,
        ignore_formatted: request.ignore_formatted,
    });
    match result {
        Ok(_) => Ok(()),
        Err(FormatError::Formatted { directory, .. }) => Err(CommandError::refused(format!(
            "Log directory {} is already formatted. Use --ignore-formatted to ignore this directory and format the others.",
            directory.display()
        ))),
        Err(error) => Err(CommandError::refused(chain(&error))),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(root: &std::path::Path, more: &str) -> ServerConfig {
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\nlisteners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n{more}",
            root.display()
        );
        ServerConfig::load(Some(("test", &text)), std::iter::empty(), &[])
            .expect("valid")
            .0
    }

    fn arguments() -> FormatArguments {
        FormatArguments {
            config: PathBuf::new(),
            cluster_id: "c".to_owned(),
            ignore_formatted: false,
            standalone: false,
            no_initial_controllers: false,
            initial_controllers: Vec::new(),
            release_version: None,
            feature: Vec::new(),
            add_scram: Vec::new(),
        }
    }

    #[test]
    fn a_dynamic_quorum_needs_to_be_told_its_founders() {
        let root = tempfile::tempdir().expect("a directory");
        let dynamic = config(
            root.path(),
            "controller.quorum.bootstrap.servers=127.0.0.1:9093\n",
        );
        let error = founders(&arguments(), &dynamic)
            .expect_err("who founds it")
            .to_string();
        assert!(error.contains("--standalone"), "{error}");
        let alone = FormatArguments {
            standalone: true,
            ..arguments()
        };
        let own = founders(&alone, &dynamic).expect("this one").expect("named");
        assert_eq!((own.len(), own[0].node_id, own[0].endpoint.port), (1, 1, 9093));
        let nobody = FormatArguments {
            no_initial_controllers: true,
            ..arguments()
        };
        assert_eq!(founders(&nobody, &dynamic).expect("joins"), Some(Vec::new()));
        let fixed = config(root.path(), "controller.quorum.voters=1@127.0.0.1:9093\n");
        assert_eq!(
            founders(&arguments(), &fixed).expect("the configuration says"),
            None
        );
        assert!(founders(&alone, &fixed).is_err());
    }

    #[test]
    fn founders_are_read() {
        let id = kafka_uuid::random();
        let text = format!("2@[::1]:9093:{}", kafka_uuid::format(id));
        let founder = parse_founder(&text, "CONTROLLER").expect("fits");
        assert_eq!(
            (founder.node_id, founder.directory_id, founder.endpoint.port),
            (2, id, 9093)
        );
        for bad in ["2@h:9093", "h:9093:AAAAAAAAAAAAAAAAAAAAAA", "2@h:9093:short"] {
            assert!(parse_founder(bad, "CONTROLLER").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_is_formatted_once() {
        let root = tempfile::tempdir().expect("a directory");
        let config = config(
            &root.path().join("data"),
            "controller.quorum.voters=1@127.0.0.1:9093\n",
        );
        let request = |ignore_formatted| FormatRequest {
            config: &config,
            cluster_id: "c",
            founders: None,
            ignore_formatted,
        };
        assert_eq!(fresh_directories(&config).expect("reads").len(), 1);
        format_directories(&request(false)).expect("formats");
        assert!(fresh_directories(&config).expect("reads").is_empty());
        let error = format_directories(&request(false))
            .expect_err("formatted")
            .to_string();
        assert!(
            error.contains("is already formatted. Use --ignore-formatted"),
            "{error}"
        );
        format_directories(&request(true)).expect("leaves it");
    }
}
