//! Whose the data directories are, before anything is opened in them.

use std::path::{Path, PathBuf};

use odradek_common::metadata::{Endpoint, SecurityProtocol};
use odradek_config::ServerConfig;
use odradek_config::listener::Listener;
use odradek_controller::format::{self, InitialVoter, Start, StartRules};
use odradek_controller::meta_properties::{MetaProperties, uuid_to_base64};
use uuid::Uuid;

use super::ServerError;

/// What the directories say the node is.
pub(crate) struct Identity {
    /// Of the metadata directory.
    pub(crate) meta: MetaProperties,
    /// `log.dirs`, each with its directory id.
    pub(crate) log_dirs: Vec<(PathBuf, Uuid)>,
    /// Where the quorum's log lives.
    pub(crate) metadata_log_dir: PathBuf,
}

/// Checks the directories and formats empty ones where that is safe.
pub(crate) fn prepare(config: &ServerConfig, dev: bool) -> Result<Identity, ServerError> {
    let log_dirs: Vec<PathBuf> = config.node.log_dirs.iter().map(PathBuf::from).collect();
    let metadata_log_dir = PathBuf::from(&config.node.metadata_log_dir);
    let voters = initial_voters(config);
    let dev_cluster = dev.then(|| dev_cluster_id(config));
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
            Start::AskClusterId => return Err(needs_cluster_id(&metadata_log_dir)),
        },
    };
    let mut identified = Vec::with_capacity(log_dirs.len());
    for directory in log_dirs {
        let found = MetaProperties::read(&directory).map_err(|error| refused(&error))?;
        let id = found.map_or(meta.directory_id, |found| found.directory_id);
        identified.push((directory, id));
    }
    Ok(Identity {
        meta,
        log_dirs: identified,
        metadata_log_dir,
    })
}

fn needs_cluster_id(directory: &Path) -> ServerError {
    ServerError(format!(
        "{} is empty and the cluster's id is not known: run `odradek storage format --cluster-id <id> --config <file>` \
         with the id that `odradek storage info` prints on a node of the cluster",
        directory.display()
    ))
}

/// The configured voters; a sole controller without any is its own.
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
    configured
        .iter()
        .map(|v| voter(v.id, &v.address.host, v.address.port))
        .collect()
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
        security_protocol: SecurityProtocol::from_number(i32::from(listener.security_protocol.id()))
            .unwrap_or_default(),
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
