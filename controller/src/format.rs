//! Making empty directories a node's own, and deciding when that may happen without being asked.
//!
//! It promises that a node which lost its directory does not come back as the voter it was: only a sole initial voter is
//! formatted on its own, and whoever joins gets the cluster's id from the cluster. And an empty directory of a node that has
//! been formatted is never made its own unasked: it may be where a disk is not mounted, whose partitions must not begin anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use odradek_common::ids::NodeId;
use odradek_common::metadata::{Endpoint, batch_bytes, record};
use odradek_common::metadata::{Record, proto};
use odradek_controller_core::quorum::Quorum;
use uuid::Uuid;

use crate::meta_properties::{self, MetaProperties, MetaPropertiesError, random_uuid, uuid_to_base64};
use crate::store::{QuorumStore, StoreError};

/// Why a node cannot start on its directories, or they cannot be formatted.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A `meta.properties` cannot be used.
    #[error(transparent)]
    MetaProperties(#[from] MetaPropertiesError),
    /// The metadata log cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A directory cannot be made or read.
    #[error("cannot use the log directory {}{}", directory.display(), advice(source))]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Formatting was asked for, and a directory is in use already.
    #[error("{} is formatted already, for cluster {cluster_id}; pass --ignore-formatted to leave it as it is", directory.display())]
    Formatted {
        /// The directory.
        directory: PathBuf,
        /// Its cluster.
        cluster_id: String,
    },
    /// The node is one of several voters, and its directory is empty.
    #[error("{} is empty, and node {node_id} is one of several voters: to start a new cluster run `odradek storage format --cluster-id <id> --config <file>` once on every controller with the same id; to bring a lost controller back, remove it from the quorum and start it with controller.quorum.auto.join.enable=true and controller.quorum.bootstrap.servers", directory.display())]
    NeedsFormat {
        /// The metadata directory.
        directory: PathBuf,
        /// The node.
        node_id: NodeId,
    },
    /// The node is a controller, its directory is empty, and nothing says who founds the quorum.
    #[error("{} is empty, and the configuration does not say who the first voters are: for a new cluster run `odradek storage format --standalone --cluster-id <id> --config <file>` on its first controller (or --initial-controllers on all of them); for a controller that joins set controller.quorum.auto.join.enable=true and controller.quorum.bootstrap.servers, or format it with --no-initial-controllers and the cluster's id", directory.display())]
    NeedsFounders {
        /// The metadata directory.
        directory: PathBuf,
    },
    /// The node has been formatted, but some of its directories have not.
    #[error("no meta.properties in {}, but {} is formatted, for node {node_id} of cluster {cluster_id}: if a disk is not mounted, mount it; if a directory is new, run `odradek storage format --ignore-formatted{} --cluster-id {cluster_id} --config <file>`, which leaves the others as they are; if it is not to be used any more, take it out of log.dirs", paths(directories), formatted.display(), if *controller { " --no-initial-controllers" } else { "" })]
    Unformatted {
        /// Those without.
        directories: Vec<PathBuf>,
        /// One that is formatted.
        formatted: PathBuf,
        /// The node.
        node_id: NodeId,
        /// Whether it is a controller.
        controller: bool,
        /// Its cluster.
        cluster_id: String,
    },
    /// There is a metadata log, but nothing says whose.
    #[error("{} has a metadata log, but meta.properties, which says whose it is, is gone: restore the file from a backup, or from another of log.dirs with directory.id of its own", directory.display())]
    MetaPropertiesLost {
        /// The metadata directory.
        directory: PathBuf,
    },
    /// The directories are of a node, but its metadata log is gone.
    #[error("{} belongs to node {node_id} of cluster {cluster_id}, but its metadata log is gone: restore it from a backup, or remove this node from the quorum, empty the directory and let it join again", directory.display())]
    LogLost {
        /// The metadata directory.
        directory: PathBuf,
        /// The node.
        node_id: NodeId,
        /// Its cluster.
        cluster_id: String,
    },
}

fn paths(directories: &[PathBuf]) -> String {
    let shown = directories
        .iter()
        .map(|directory| directory.display().to_string());
    shown.collect::<Vec<_>>().join(", ")
}

/// The index that founding a quorum ends with; later ones are of a quorum at work.
const FOUNDING_INDEX: u64 = 1;

/// What to do about a directory or file that cannot be used, with a separator in front; empty if the system says it all.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; give the user that runs odradek the right to read and write there, or change log.dirs"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; mount it writable, or change log.dirs",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there, or change log.dirs",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "; what log.dirs names has to be a directory"
        }
        _ => "",
    }
}

/// A founding voter and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialVoter {
    /// The node.
    pub node_id: NodeId,
    /// Its metadata directory's id; nil if not known.
    pub directory_id: Uuid,
    /// Its controller listener.
    pub endpoint: Endpoint,
}

/// What is to be formatted, and as what.
#[derive(Clone, Debug)]
pub struct Format<'a> {
    /// All log directories.
    pub log_dirs: &'a [PathBuf],
    /// Where the metadata log lives; usually one of them.
    pub metadata_log_dir: &'a Path,
    /// The cluster.
    pub cluster_id: &'a str,
    /// The node.
    pub node_id: NodeId,
    /// Whether the node is a controller.
    pub controller: bool,
    /// The voters of a new quorum; empty for a node that joins one, and for brokers.
    pub initial_voters: &'a [InitialVoter],
    /// Whether formatted directories are left as they are, rather than refused.
    pub ignore_formatted: bool,
}

/// Formats the directories and says what the metadata directory is now.
///
/// # Errors
/// A directory is formatted already, or the disk fails.
pub fn format(format: &Format<'_>) -> Result<MetaProperties, FormatError> {
    let mut metadata = None;
    let mut unfinished = false;
    for directory in directories(format.log_dirs, format.metadata_log_dir) {
        let properties = match MetaProperties::read(&directory)? {
            Some(found) if !format.ignore_formatted => {
                return Err(FormatError::Formatted {
                    directory,
                    cluster_id: found.cluster_id,
                });
            }
            Some(found) => {
                found.check(
                    &directory,
                    format.node_id,
                    Some((format.cluster_id, "the command")),
                )?;
                found
            }
            None => {
                unfinished |= directory == format.metadata_log_dir;
                new_properties(format, &directory)
            }
        };
        if directory == format.metadata_log_dir {
            metadata = Some(properties);
        } else {
            properties.write(&directory)?;
        }
    }
    let properties = metadata.expect("the metadata directory is among the directories");
    // An earlier attempt may have made the store and failed before anything was in it, for want of room.
    if format.controller && (unfinished || !QuorumStore::exists(format.metadata_log_dir)) {
        found_quorum(format)?;
    }
    // Written last: a directory with this file is whole.
    properties.write(format.metadata_log_dir)?;
    Ok(properties)
}

fn new_properties(format: &Format<'_>, directory: &Path) -> MetaProperties {
    let founding = format
        .initial_voters
        .iter()
        .find(|voter| voter.node_id == format.node_id);
    let directory_id = founding
        .map(|voter| voter.directory_id)
        .filter(|id| !id.is_nil() && directory == format.metadata_log_dir)
        .unwrap_or_else(random_uuid);
    MetaProperties {
        cluster_id: format.cluster_id.to_owned(),
        node_id: format.node_id,
        directory_id,
    }
}

fn found_quorum(format: &Format<'_>) -> Result<(), FormatError> {
    fs::create_dir_all(format.metadata_log_dir).map_err(|source| FormatError::Directory {
        directory: format.metadata_log_dir.to_path_buf(),
        source,
    })?;
    let mut store = QuorumStore::open(format.metadata_log_dir)?;
    if format.initial_voters.is_empty() || store.restore()?.snapshot.is_some() {
        return Ok(());
    }
    let voters: Vec<NodeId> = format.initial_voters.iter().map(|voter| voter.node_id).collect();
    let mut bootstrap = Quorum::bootstrap(&voters);
    if let Some(snapshot) = &mut bootstrap.snapshot {
        // Founders must find each other before any of them leads.
        snapshot.data = batch_bytes(format.initial_voters.iter().map(registration).collect());
    }
    store.persist(&bootstrap)?;
    Ok(())
}

fn registration(voter: &InitialVoter) -> proto::MetadataRecord {
    record(Record::RegisterController(proto::RegisterControllerRecord {
        node_id: voter.node_id,
        directory_id: voter.directory_id.as_bytes().to_vec().into(),
        incarnation_id: Uuid::nil().as_bytes().to_vec().into(),
        endpoints: vec![proto::Endpoint {
            listener: voter.endpoint.listener.to_string(),
            host: voter.endpoint.host.to_string(),
            port: u32::from(voter.endpoint.port),
            security_protocol: i32::from(voter.endpoint.security_protocol as i16),
        }],
        features: Vec::new(),
    }))
}

/// What a node that starts finds in its directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// They are its own.
    Ready(MetaProperties),
    /// They are empty, and the cluster that the node joins has to be asked for its id; then `format` with it.
    AskClusterId,
}

/// What a node is configured with, as far as starting on empty directories goes.
#[derive(Clone, Debug)]
pub struct StartRules<'a> {
    /// All log directories.
    pub log_dirs: &'a [PathBuf],
    /// Where the metadata log lives.
    pub metadata_log_dir: &'a Path,
    /// The node.
    pub node_id: NodeId,
    /// Whether the node is a controller.
    pub controller: bool,
    /// The cluster's id, if it is configured.
    pub cluster_id: Option<&'a str>,
    /// The configured voters.
    pub initial_voters: &'a [InitialVoter],
    /// `controller.quorum.auto.join.enable` together with servers to ask.
    pub may_join: bool,
}

/// Looks at the directories, and formats them if all are empty and that is safe.
///
/// # Errors
/// The directories are another node's or damaged, or an operator has to decide.
pub fn prepare(rules: &StartRules<'_>) -> Result<Start, FormatError> {
    let configured = rules.cluster_id.map(|id| (id, "the configuration"));
    let mut known: Option<(PathBuf, MetaProperties)> = None;
    let mut unformatted = Vec::new();
    for directory in directories(rules.log_dirs, rules.metadata_log_dir) {
        let Some(found) = MetaProperties::read(&directory)? else {
            unformatted.push(directory);
            continue;
        };
        found.check(&directory, rules.node_id, configured)?;
        match &known {
            Some((path, first)) => {
                let expected_by = path.display().to_string();
                found.check(&directory, rules.node_id, Some((&first.cluster_id, &expected_by)))?;
            }
            None => known = Some((directory, found)),
        }
    }
    match known {
        Some((_, known)) if is_half_formatted(rules, &unformatted)? => {
            make(unformatted)?;
            begin(&StartRules {
                cluster_id: Some(&known.cluster_id),
                ..*rules
            })
        }
        Some((formatted, known)) => resume(rules, formatted, &known, unformatted),
        None => {
            make(unformatted)?;
            begin(rules)
        }
    }
}

fn make(missing: Vec<PathBuf>) -> Result<(), FormatError> {
    for directory in missing {
        fs::create_dir_all(&directory).map_err(|source| FormatError::Directory { directory, source })?;
    }
    Ok(())
}

/// Whether a broker's first start ended before it had formatted all: the metadata directory is the last, and nothing was ever kept
/// in the others. Never of a controller: nothing is in the others of one that has long been at work either, and without its
/// metadata directory it must not begin anew.
fn is_half_formatted(rules: &StartRules<'_>, unformatted: &[PathBuf]) -> Result<bool, FormatError> {
    let mut missing = unformatted.iter();
    if rules.controller || !missing.any(|directory| directory == rules.metadata_log_dir) {
        return Ok(false);
    }
    for directory in directories(rules.log_dirs, rules.metadata_log_dir) {
        if !unformatted.contains(&directory) && !is_unused(&directory)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_unused(directory: &Path) -> Result<bool, FormatError> {
    let failed = |source| FormatError::Directory {
        directory: directory.to_path_buf(),
        source,
    };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name != "lost+found" && !name.to_string_lossy().starts_with(meta_properties::FILE) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn resume(
    rules: &StartRules<'_>,
    formatted: PathBuf,
    known: &MetaProperties,
    unformatted: Vec<PathBuf>,
) -> Result<Start, FormatError> {
    let own = MetaProperties::read(rules.metadata_log_dir)?;
    if rules.controller && (own.is_none() || !QuorumStore::exists(rules.metadata_log_dir)) {
        return Err(FormatError::LogLost {
            directory: rules.metadata_log_dir.to_path_buf(),
            node_id: rules.node_id,
            cluster_id: known.cluster_id.clone(),
        });
    }
    if !unformatted.is_empty() {
        return Err(FormatError::Unformatted {
            directories: unformatted,
            formatted,
            node_id: rules.node_id,
            controller: rules.controller,
            cluster_id: known.cluster_id.clone(),
        });
    }
    format_now(rules, &known.cluster_id, &[]).map(Start::Ready)
}

fn begin(rules: &StartRules<'_>) -> Result<Start, FormatError> {
    if QuorumStore::exists(rules.metadata_log_dir) {
        let restored = QuorumStore::open(rules.metadata_log_dir)?.restore()?;
        let ahead = restored
            .snapshot
            .is_some_and(|snapshot| snapshot.index > FOUNDING_INDEX);
        if ahead || !restored.state.entries.is_empty() {
            let directory = rules.metadata_log_dir.to_path_buf();
            return Err(FormatError::MetaPropertiesLost { directory });
        }
    }
    let sole_voter = matches!(rules.initial_voters, [voter] if voter.node_id == rules.node_id);
    if rules.controller && sole_voter {
        let cluster_id = rules
            .cluster_id
            .map_or_else(|| uuid_to_base64(random_uuid()), std::borrow::ToOwned::to_owned);
        return format_now(rules, &cluster_id, rules.initial_voters).map(Start::Ready);
    }
    if rules.controller && !rules.may_join {
        let directory = rules.metadata_log_dir.to_path_buf();
        let node_id = rules.node_id;
        return Err(match rules.initial_voters {
            [] => FormatError::NeedsFounders { directory },
            [..] => FormatError::NeedsFormat { directory, node_id },
        });
    }
    match rules.cluster_id {
        Some(cluster_id) => format_now(rules, cluster_id, &[]).map(Start::Ready),
        None => Ok(Start::AskClusterId),
    }
}

fn format_now(
    rules: &StartRules<'_>,
    cluster_id: &str,
    initial_voters: &[InitialVoter],
) -> Result<MetaProperties, FormatError> {
    format(&Format {
        log_dirs: rules.log_dirs,
        metadata_log_dir: rules.metadata_log_dir,
        cluster_id,
        node_id: rules.node_id,
        controller: rules.controller,
        initial_voters,
        ignore_formatted: true,
    })
}

fn directories(log_dirs: &[PathBuf], metadata_log_dir: &Path) -> Vec<PathBuf> {
    let mut directories = log_dirs.to_vec();
    if !directories.iter().any(|directory| directory == metadata_log_dir) {
        directories.push(metadata_log_dir.to_path_buf());
    }
    directories
}

#[cfg(test)]
mod tests {
    use odradek_common::metadata::SecurityProtocol;

    use super::*;

    fn voter(node_id: NodeId) -> InitialVoter {
        let endpoint = Endpoint {
            listener: "CONTROLLER".into(),
            host: "127.0.0.1".into(),
            port: 9093,
            security_protocol: SecurityProtocol::Plaintext,
        };
        InitialVoter {
            node_id,
            directory_id: Uuid::nil(),
            endpoint,
        }
    }

    fn rules<'a>(dirs: &'a [PathBuf], voters: &'a [InitialVoter]) -> StartRules<'a> {
        StartRules {
            log_dirs: dirs,
            metadata_log_dir: &dirs[0],
            node_id: 1,
            controller: true,
            cluster_id: None,
            initial_voters: voters,
            may_join: false,
        }
    }

    #[test]
    fn a_sole_voter_formats_itself_once() {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = [root.path().join("a"), root.path().join("b")];
        let voters = [voter(1)];
        let Start::Ready(first) = prepare(&rules(&dirs, &voters)).expect("formats") else {
            panic!("ready")
        };
        let Start::Ready(again) = prepare(&rules(&dirs, &voters)).expect("starts") else {
            panic!("ready")
        };
        assert_eq!(first, again);
        let store = QuorumStore::open(&dirs[0]).expect("opens");
        assert_eq!(
            store.restore().expect("reads").snapshot.expect("founded").index,
            1
        );
        assert_ne!(
            MetaProperties::read(&dirs[1])
                .expect("reads")
                .expect("there")
                .directory_id,
            first.directory_id
        );
    }

    #[test]
    fn a_broker_s_first_format_that_was_interrupted_is_gone_on_with() {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = ["a", "b", "c"].map(|name| root.path().join(name));
        let rules = StartRules {
            controller: false,
            cluster_id: Some("MkU3OEVBNTcwNTJENDM2Qg"),
            ..rules(&dirs, &[])
        };
        let Start::Ready(_) = prepare(&rules).expect("formats") else {
            panic!("the cluster's id is known");
        };
        let kept = MetaProperties::read(&dirs[1]).expect("reads");
        // It was killed before the last two.
        fs::remove_dir_all(&dirs[0]).expect("removes");
        fs::remove_dir_all(&dirs[2]).expect("removes");
        let again = StartRules {
            cluster_id: None,
            ..rules
        };
        let Start::Ready(own) = prepare(&again).expect("goes on") else {
            panic!("the cluster's id is that of the directory");
        };
        assert_eq!(own.cluster_id, "MkU3OEVBNTcwNTJENDM2Qg");
        assert_eq!(MetaProperties::read(&dirs[1]).expect("reads"), kept);
        assert!(MetaProperties::read(&dirs[2]).expect("reads").is_some());
        // Once something was kept in one, a missing directory is a missing disk.
        fs::create_dir(dirs[1].join("t-0")).expect("makes");
        fs::remove_dir_all(&dirs[0]).expect("removes");
        let error = prepare(&again).expect_err("an operator decides");
        assert!(matches!(error, FormatError::Unformatted { .. }), "{error}");
    }

    /// The log directories of a node that is a controller alone stay as empty as they were formatted.
    #[test]
    fn a_controller_whose_metadata_directory_is_missing_does_not_begin_anew() {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = ["a", "b"].map(|name| root.path().join(name));
        let voters = [voter(1)];
        let rules = rules(&dirs, &voters);
        prepare(&rules).expect("formats");
        fs::remove_dir_all(&dirs[0]).expect("removes");
        let error = prepare(&rules).expect_err("an operator decides");
        assert!(matches!(error, FormatError::LogLost { .. }), "{error}");
    }

    #[test]
    fn a_directory_beside_formatted_ones_is_formatted_only_when_asked_for() {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = ["a", "b", "c"].map(|name| root.path().join(name));
        let voters = [voter(1)];
        let known = &dirs[..2];
        prepare(&rules(known, &voters)).expect("formats");
        let ids = || {
            let read = |directory: &PathBuf| MetaProperties::read(directory).expect("reads");
            dirs.each_ref().map(read)
        };
        let before = ids();
        for controller in [true, false] {
            let rules = StartRules {
                controller,
                ..rules(&dirs, &voters)
            };
            let error = prepare(&rules).expect_err("an operator decides").to_string();
            let flag = "--ignore-formatted --no-initial-controllers --cluster-id";
            assert_eq!(error.contains(flag), controller, "{error}");
            for word in [
                &dirs[2].display().to_string(),
                "mount it",
                "odradek storage format",
            ] {
                assert!(error.contains(word), "{word}: {error}");
            }
        }
        assert!(!dirs[2].exists(), "nothing is made where a disk may be missing");
        // What the command does.
        let cluster_id = &before[0].as_ref().expect("formatted").cluster_id;
        let asked = Format {
            log_dirs: &dirs,
            metadata_log_dir: &dirs[0],
            cluster_id,
            node_id: 1,
            controller: true,
            initial_voters: &[],
            ignore_formatted: true,
        };
        format(&asked).expect("formats");
        let after = ids();
        assert_eq!(after[..2], before[..2]);
        assert!(after[2].is_some());
        assert!(matches!(prepare(&rules(&dirs, &voters)), Ok(Start::Ready(_))));
    }

    #[test]
    fn one_of_several_voters_is_not_formatted_unasked() {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = [root.path().to_path_buf()];
        let voters = [voter(1), voter(2)];
        let error = prepare(&rules(&dirs, &voters)).expect_err("an operator decides");
        assert!(error.to_string().contains("odradek storage format"), "{error}");
        let asked = Format {
            log_dirs: &dirs,
            metadata_log_dir: &dirs[0],
            cluster_id: "c",
            node_id: 1,
            controller: true,
            initial_voters: &voters,
            ignore_formatted: false,
        };
        format(&asked).expect("formats");
        assert!(matches!(format(&asked), Err(FormatError::Formatted { .. })));
        assert!(matches!(prepare(&rules(&dirs, &voters)), Ok(Start::Ready(_))));
    }

    #[test]
    fn what_a_vain_attempt_left_is_finished() {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = [root.path().to_path_buf()];
        drop(QuorumStore::open(&dirs[0]).expect("opens"));
        let voters = [voter(1)];
        prepare(&rules(&dirs, &voters)).expect("formats");
        let store = QuorumStore::open(&dirs[0]).expect("opens");
        assert!(store.restore().expect("reads").snapshot.is_some());
    }

    #[test]
    fn nobody_founds_a_quorum_that_the_configuration_does_not_name() {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = [root.path().to_path_buf()];
        let error = prepare(&rules(&dirs, &[])).expect_err("an operator decides");
        assert!(error.to_string().contains("--standalone"), "{error}");
        assert_eq!(MetaProperties::read(&dirs[0]).expect("reads"), None);
    }

    #[test]
    fn a_lost_metadata_log_is_not_begun_anew() {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = [root.path().to_path_buf()];
        let voters = [voter(1)];
        prepare(&rules(&dirs, &voters)).expect("formats");
        fs::remove_dir_all(dirs[0].join(crate::store::DIRECTORY)).expect("removes");
        assert!(matches!(
            prepare(&rules(&dirs, &voters)),
            Err(FormatError::LogLost { .. })
        ));
    }

    #[test]
    fn a_broker_asks_for_the_cluster() {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = [root.path().to_path_buf()];
        let broker = StartRules {
            controller: false,
            may_join: true,
            ..rules(&dirs, &[])
        };
        assert_eq!(prepare(&broker).expect("may join"), Start::AskClusterId);
        let told = StartRules {
            cluster_id: Some("c"),
            ..broker.clone()
        };
        assert!(matches!(prepare(&told), Ok(Start::Ready(_))));
        let other = StartRules {
            cluster_id: Some("d"),
            ..broker
        };
        let error = prepare(&other).expect_err("another cluster").to_string();
        assert!(error.contains("cluster.id=c") && error.contains(" d"), "{error}");
    }
}
