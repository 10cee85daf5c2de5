//! `odradek storage`: what kafka-storage.sh does. Only for those who want it: a single node formats itself.

pub mod format;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use odradek_config::ServerConfig;
use odradek_controller::meta_properties::{self, MetaProperties};

use crate::error::{CommandError, Outcome};
use crate::kafka_uuid;
use crate::output::say;

/// Flags of `odradek storage`.
#[derive(Debug, Args)]
pub struct StorageArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Formats the log directories of this node.
    Format(format::FormatArguments),
    /// Tells about the log directories of this node.
    Info {
        /// The node's configuration.
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
    /// Prints a new id for a cluster or a directory.
    RandomUuid,
}

/// Carries out `odradek storage`.
pub fn run(arguments: StorageArguments) -> std::process::ExitCode {
    let result = match arguments.action {
        Action::Format(arguments) => format::run(&arguments),
        Action::Info { config } => info(&config),
        Action::RandomUuid => {
            say!("{}", kafka_uuid::format(kafka_uuid::random()));
            Ok(())
        }
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// A node's configuration as the node itself would read it.
pub(crate) fn load(file: &Path) -> Outcome<ServerConfig> {
    let path = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(CommandError::io(format!("cannot read {path}")))?;
    let (config, _) = ServerConfig::load(Some((&path, &text)), std::env::vars(), &[])
        .map_err(|error| CommandError::refused(error.to_string()))?;
    Ok(config)
}

/// All directories of a node, each once.
fn directories(config: &ServerConfig) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = config.node.log_dirs.iter().map(PathBuf::from).collect();
    let metadata = PathBuf::from(&config.node.metadata_log_dir);
    if !directories.contains(&metadata) {
        directories.push(metadata);
    }
    directories
}

fn info(file: &Path) -> Outcome {
    let (text, problems) = describe(&directories(&load(file)?));
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(CommandError::io("cannot write to standard output"))?;
    if problems == 0 {
        return Ok(());
    }
    Err(CommandError::refused(format!("{problems} problem(s) found")))
}

/// What the directories are, and how many problems they have.
fn describe(directories: &[PathBuf]) -> (String, usize) {
    let (mut found, mut problems): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut metadata: Option<MetaProperties> = None;
    for directory in directories {
        let shown = directory.display();
        if !directory.is_dir() {
            problems.push(format!("{shown} does not exist"));
            continue;
        }
        found.push(shown.to_string());
        match MetaProperties::read(directory) {
            Err(error) => problems.push(error.to_string()),
            Ok(None) => problems.push(format!("{shown} is not formatted.")),
            Ok(Some(own)) => {
                let first = metadata.get_or_insert_with(|| own.clone());
                if (&first.cluster_id, first.node_id) != (&own.cluster_id, own.node_id) {
                    problems.push(format!(
                        "{shown} belongs to node {} of cluster {}, not to node {} of cluster {}",
                        own.node_id, own.cluster_id, first.node_id, first.cluster_id
                    ));
                }
            }
        }
    }
    let mut text = section("log director", ["y", "ies"], &found);
    if let Some(own) = metadata {
        text.push_str(&format!(
            "Found metadata: {{cluster.id={}, directory.id={}, node.id={}, version=1}}\n\n",
            own.cluster_id,
            meta_properties::uuid_to_base64(own.directory_id),
            own.node_id
        ));
    }
    text.push_str(&section("problem", ["", "s"], &problems));
    (text, problems.len())
}

fn section(what: &str, [one, several]: [&str; 2], lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let ending = if lines.len() == 1 { one } else { several };
    format!("Found {what}{ending}:\n  {}\n\n", lines.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_tells_formatted_directories_from_others() {
        let root = tempfile::tempdir().expect("a directory");
        let (a, b, c) = (
            root.path().join("a"),
            root.path().join("b"),
            root.path().join("c"),
        );
        let properties = MetaProperties {
            cluster_id: "cluster".to_owned(),
            node_id: 1,
            directory_id: kafka_uuid::random(),
        };
        properties.write(&a).expect("writes");
        let (text, problems) = describe(std::slice::from_ref(&a));
        assert_eq!(problems, 0);
        assert!(text.starts_with("Found log directory:\n  "), "{text}");
        assert!(
            text.contains("Found metadata: {cluster.id=cluster, directory.id="),
            "{text}"
        );
        std::fs::create_dir(&b).expect("makes");
        let (text, problems) = describe(&[a, b, c]);
        assert_eq!(problems, 2);
        assert!(
            text.contains("Found log directories:") && text.contains("Found problems:"),
            "{text}"
        );
        assert!(
            text.contains("is not formatted.") && text.contains("c does not exist"),
            "{text}"
        );
    }
}
