//! Whose the data directories are, before anything is opened in them.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use odradek_broker_log::directory::{LogDirectory, LogDirectoryOptions};
use odradek_common::metadata::{Endpoint, SecurityProtocol};
use odradek_config::ServerConfig;
use odradek_config::listener::{HostPort, Listener};
use odradek_controller::client::ask_cluster;
use odradek_controller::format::{self, InitialVoter, Start, StartRules};
use odradek_controller::meta_properties::{self, MetaProperties, uuid_to_base64};
use slog::Logger;
use uuid::Uuid;

use super::{Ground, ServerError, descriptors};
use crate::data_directory::DataDirectory;
use crate::replicas::error_chain;

/// Written and removed to see whether a directory can be written.
const PROBE_FILE: &str = ".odradek-probe";
/// A node that waits for its cluster says so this often.
const ASKING_TOLD: Duration = Duration::from_secs(10);

/// A directory with its directory id, or why it cannot be used.
type Identified = (PathBuf, Result<Uuid, String>);

/// What the directories say the node is.
pub(crate) struct Identity {
    /// Of the metadata directory.
    pub(crate) meta: MetaProperties,
    /// `log.dirs`.
    pub(crate) log_dirs: Vec<Identified>,
    /// Where the quorum's log lives.
    pub(crate) metadata_log_dir: PathBuf,
}

/// Checks the directories, and formats those of a node that never was; a node that joins a cluster waits for a controller to tell
/// the cluster's id.
pub(crate) async fn prepare(config: &ServerConfig, dev: bool, log: &Logger) -> Result<Identity, ServerError> {
    let metadata_log_dir = PathBuf::from(&config.node.metadata_log_dir);
    let looked_at = look_at_all(config, &metadata_log_dir);
    let usable = looked_at.iter().filter(|(_, outcome)| outcome.is_ok());
    let log_dirs: Vec<PathBuf> = usable.map(|(path, _)| path.clone()).collect();
    let voters = initial_voters(config);
    let founds = config.node.roles.controller && !voters.is_empty();
    let dev_cluster = (dev && founds).then(|| dev_cluster_id(config));
    let rules = StartRules {
        log_dirs: &log_dirs,
        metadata_log_dir: &metadata_log_dir,
        node_id: config.node.node_id,
        controller: config.node.roles.controller,
        cluster_id: None,
        initial_voters: &voters,
        may_join: config.quorum.auto_join && !config.quorum.bootstrap_servers.is_empty(),
    };
    let refused =
        |error: &dyn std::error::Error| ServerError::because("cannot start on the data directories", error);
    let is_empty = MetaProperties::read(&metadata_log_dir)
        .map_err(|error| refused(&error))?
        .is_none();
    let meta = match (&dev_cluster, is_empty) {
        (Some(cluster_id), true) => format::format(&format::Format {
            log_dirs: &log_dirs,
            metadata_log_dir: &metadata_log_dir,
            cluster_id,
            node_id: config.node.node_id,
            controller: config.node.roles.controller,
            initial_voters: &voters,
            ignore_formatted: true,
        })
        .map_err(|error| refused(&error))?,
        _ => match format::prepare(&rules).map_err(|error| refused(&error))? {
            Start::Ready(meta) => meta,
            Start::AskClusterId => {
                let cluster_id = cluster_id_of(config, &metadata_log_dir, log).await;
                let told = StartRules {
                    cluster_id: Some(&cluster_id),
                    ..rules
                };
                match format::prepare(&told).map_err(|error| refused(&error))? {
                    Start::Ready(meta) => meta,
                    Start::AskClusterId => unreachable!("the cluster's id was given"),
                }
            }
        },
    };
    let log_dirs = identify(looked_at, &meta).map_err(|error| refused(&error))?;
    Ok(Identity {
        meta,
        log_dirs,
        metadata_log_dir,
    })
}

/// The directory id of each log directory, or why it cannot be used.
fn identify(
    looked_at: Vec<(PathBuf, io::Result<()>)>,
    meta: &MetaProperties,
) -> Result<Vec<Identified>, meta_properties::MetaPropertiesError> {
    let mut identified = Vec::with_capacity(looked_at.len());
    for (directory, outcome) in looked_at {
        let id = match outcome {
            Ok(()) => {
                let found = MetaProperties::read(&directory)?;
                Ok(found.map_or(meta.directory_id, |found| found.directory_id))
            }
            Err(error) => Err(error.to_string()),
        };
        identified.push((directory, id));
    }
    Ok(identified)
}

/// Whether the log directories can be written at all; one that cannot is left alone while others work. The metadata directory
/// is indispensable: what is wrong with it is told where it is needed.
fn look_at_all(config: &ServerConfig, metadata_log_dir: &Path) -> Vec<(PathBuf, io::Result<()>)> {
    let configured: Vec<PathBuf> = config.node.log_dirs.iter().map(PathBuf::from).collect();
    let is_formatted = |path: &Path| path.join(meta_properties::FILE).exists();
    let is_new = !is_formatted(metadata_log_dir) && !configured.iter().any(|path| is_formatted(path));
    let look = |path: PathBuf| {
        let outcome = if path == metadata_log_dir {
            Ok(())
        } else {
            look_at(&path, is_new)
        };
        (path, outcome)
    };
    configured.into_iter().map(look).collect()
}

fn look_at(directory: &Path, is_new: bool) -> io::Result<()> {
    if is_new {
        fs::create_dir_all(directory)?;
    } else if !directory.try_exists()? {
        // The disk may not be mounted: nothing is made in its place.
        return Ok(());
    }
    let probe = directory.join(PROBE_FILE);
    match fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)) {
        // A full disk may have room again soon, and what is on it can be read.
        Err(error) if error.kind() != io::ErrorKind::StorageFull => return Err(error),
        Ok(()) | Err(_) => {}
    }
    match fs::read(directory.join(meta_properties::FILE)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens the log directories. One that fails is offline until the next start, as long as another works.
pub(crate) fn open(ground: &Ground, identity: &Identity) -> Result<Vec<DataDirectory>, ServerError> {
    let mut opened = Vec::with_capacity(identity.log_dirs.len());
    let mut failures = Vec::new();
    for (path, id) in &identity.log_dirs {
        let options = LogDirectoryOptions {
            reserve_bytes: u64::try_from(ground.config.odradek.log_dir_reserve_bytes).unwrap_or(0),
            ..descriptors::log_directory_options(ground.files_max, identity.log_dirs.len())
        };
        let logs = id.clone().and_then(|id| {
            LogDirectory::open(path.clone(), options, ground.log.new(slog::o!()))
                .map(|logs| DataDirectory::new(id, logs))
                .map_err(|error| error_chain(&error))
        });
        opened.push(logs.unwrap_or_else(|error| {
            slog::error!(ground.log, "log directory cannot be used; its replicas are offline"; "path" => %path.display(),
                "error" => &error);
            failures.push(format!("{}: {error}", path.display()));
            DataDirectory::failed(id.clone().unwrap_or_default(), path.clone())
        }));
    }
    if opened.iter().any(|directory| !directory.is_offline()) {
        return Ok(opened);
    }
    Err(ServerError(format!(
        "cannot open a log directory: {}",
        failures.join("; ")
    )))
}

/// Asks the configured controllers until one answers.
async fn cluster_id_of(config: &ServerConfig, directory: &Path, log: &Logger) -> String {
    let controllers = super::controller_addresses(config);
    slog::info!(log, "a new directory: asking the controllers which cluster this is";
        "directory" => %directory.display(), "controllers" => controllers.join(","));
    loop {
        match ask_cluster(&controllers, ASKING_TOLD).await {
            Ok(cluster) => return cluster.cluster_id,
            Err(reason) => {
                slog::warn!(log, "waiting for a controller that tells the cluster's id; a new cluster needs its first \
                    controllers formatted (odradek storage format)"; "reason" => reason);
            }
        }
    }
}

/// The configured voters; a controller without any whose only bootstrap server is itself is its own.
pub(crate) fn initial_voters(config: &ServerConfig) -> Vec<InitialVoter> {
    let name = config
        .listeners
        .controller_listener_names
        .first()
        .map_or("CONTROLLER", String::as_str);
    let voter = |node_id: i32, host: &str, port: u16| InitialVoter {
        node_id,
        directory_id: Uuid::nil(),
        endpoint: Endpoint {
            listener: name.into(),
            host: host.into(),
            port,
            security_protocol: SecurityProtocol::Plaintext,
        },
    };
    let configured = &config.quorum.voters;
    if configured.is_empty()
        && let [only] = &config.quorum.bootstrap_servers[..]
        && let Some(own) = config.listeners.advertised_controller.first()
        && is_same_address(own, only)
    {
        return vec![voter(config.node.node_id, &only.host, only.port)];
    }
    configured
        .iter()
        .map(|v| voter(v.id, &v.address.host, v.address.port))
        .collect()
}

fn is_same_address(own: &Listener, server: &HostPort) -> bool {
    let is_this_machine = |host: &str| matches!(host, "" | "localhost" | "127.0.0.1" | "::1");
    let same_host = own.host == server.host || (is_this_machine(&own.host) && is_this_machine(&server.host));
    same_host && own.port == server.port
}

/// What others reach this node's controller listeners at.
pub(crate) fn controller_endpoints(config: &ServerConfig) -> Vec<Endpoint> {
    config
        .listeners
        .advertised_controller
        .iter()
        .map(endpoint)
        .collect()
}

/// A configured listener as the image holds it.
pub(crate) fn endpoint(listener: &Listener) -> Endpoint {
    Endpoint {
        listener: listener.name.as_str().into(),
        host: listener.host.as_str().into(),
        port: listener.port,
        security_protocol: listener.security_protocol,
    }
}

/// In dev mode all nodes with the same voters found the same cluster.
fn dev_cluster_id(config: &ServerConfig) -> String {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for voter in &config.quorum.voters {
        for byte in voter.to_string().bytes() {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    uuid_to_base64(Uuid::from_u128(hash))
}
