//! `odradek quorum add-controller` and `remove-controller`.

use std::path::Path;

use clap::Args;
use kafka_protocol::messages::add_raft_voter_request::Listener;
use kafka_protocol::messages::{AddRaftVoterRequest, RemoveRaftVoterRequest};
use odradek_config::ServerConfig;
use odradek_controller::meta_properties::MetaProperties;
use odradek_net::pool::join_address;

use super::{cluster_id, describe_and_keep};
use crate::client::{ClusterClient, send, text};
use crate::error::{CommandError, Outcome, check};
use crate::kafka_uuid;
use crate::output::say;

/// Flags of `odradek quorum add-controller`.
#[derive(Debug, Args)]
pub(super) struct AddArguments {
    /// Says what would be done and does nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Flags of `odradek quorum remove-controller`.
#[derive(Debug, Args)]
pub(super) struct RemoveArguments {
    /// The controller's node.id.
    #[arg(long, short = 'i', value_name = "ID")]
    controller_id: i32,
    /// Its metadata directory's id, as `odradek quorum describe --replication` shows it.
    #[arg(long, short = 'd', value_name = "ID")]
    controller_directory_id: String,
    /// Says what would be done and does nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Makes a controller a voter, described by its own configuration and directory.
pub(super) async fn add(client: &ClusterClient, config: Option<&Path>, arguments: &AddArguments) -> Outcome {
    let file = config.ok_or_else(|| {
        CommandError::refused("--command-config is missing: name the configuration of the controller to add")
    })?;
    let request = request_of(&crate::storage::load(file)?)?;
    let id = request.voter_id;
    let directory_id = kafka_uuid::format(request.voter_directory_id);
    let endpoints = request
        .listeners
        .iter()
        .map(|it| format!("{}://{}", it.name.as_str(), join_address(&it.host, it.port)));
    let endpoints = endpoints.collect::<Vec<_>>().join(", ");
    if arguments.dry_run {
        say!("DRY RUN of adding controller {id} with directory id {directory_id} and endpoints: {endpoints}");
        return Ok(());
    }
    let (_, active) = client.retry(async || describe_and_keep(client).await).await?;
    let request = request
        .with_cluster_id(Some(text(&cluster_id(&active).await?)))
        .with_timeout_ms(client.timeout_ms());
    let response = send(&active, request).await?;
    check(response.error_code, response.error_message.as_deref())?;
    say!("Added controller {id} with directory id {directory_id} and endpoints: {endpoints}");
    Ok(())
}

fn request_of(config: &ServerConfig) -> Outcome<AddRaftVoterRequest> {
    if !config.node.roles.controller {
        return Err(CommandError::refused(format!(
            "node {} is no controller: process.roles does not have it",
            config.node.node_id
        )));
    }
    let directory = Path::new(&config.node.metadata_log_dir);
    let properties = MetaProperties::read(directory)
        .map_err(|error| CommandError::refused(error.to_string()))?
        .ok_or_else(|| {
            CommandError::refused(format!(
                "{} is not formatted: run this on the controller's machine, after its start",
                directory.display()
            ))
        })?;
    let listeners = config.listeners.advertised_controller.iter().map(|listener| {
        Listener::default()
            .with_name(text(&listener.name))
            .with_host(text(&listener.host))
            .with_port(listener.port)
    });
    Ok(AddRaftVoterRequest::default()
        .with_voter_id(config.node.node_id)
        .with_voter_directory_id(properties.directory_id)
        .with_listeners(listeners.collect()))
}

/// Takes a controller's vote away.
pub(super) async fn remove(client: &ClusterClient, arguments: &RemoveArguments) -> Outcome {
    let (id, directory_id) = (arguments.controller_id, &arguments.controller_directory_id);
    let parsed = kafka_uuid::parse(directory_id).map_err(CommandError::refused)?;
    if arguments.dry_run {
        say!("DRY RUN of removing KRaft controller {id} with directory id {directory_id}");
        return Ok(());
    }
    let (_, active) = client.retry(async || describe_and_keep(client).await).await?;
    let request = RemoveRaftVoterRequest::default()
        .with_cluster_id(Some(text(&cluster_id(&active).await?)))
        .with_voter_id(id)
        .with_voter_directory_id(parsed);
    let response = send(&active, request).await?;
    check(response.error_code, response.error_message.as_deref())?;
    say!("Removed KRaft controller {id} with directory id {directory_id}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path, roles: &str) -> ServerConfig {
        let text = format!(
            "process.roles={roles}\nnode.id=7\nlisteners=CONTROLLER://127.0.0.1:9093\ncontroller.listener.names=CONTROLLER\n\
             controller.quorum.bootstrap.servers=127.0.0.1:9093\nlog.dirs={}\n",
            directory.display()
        );
        ServerConfig::load(Some(("test", &text)), std::iter::empty(), &[])
            .expect("valid")
            .0
    }

    #[test]
    fn a_controller_is_described_by_its_own_directory() {
        let root = tempfile::tempdir().expect("a directory");
        let config = config(root.path(), "controller");
        let error = request_of(&config).expect_err("no directory yet").to_string();
        assert!(error.contains("is not formatted"), "{error}");
        let properties = MetaProperties {
            cluster_id: "c".to_owned(),
            node_id: 7,
            directory_id: kafka_uuid::random(),
        };
        properties.write(root.path()).expect("writes");
        let request = request_of(&config).expect("described");
        assert_eq!(
            (request.voter_id, request.voter_directory_id),
            (7, properties.directory_id)
        );
        assert_eq!(request.listeners[0].port, 9093);
    }
}
