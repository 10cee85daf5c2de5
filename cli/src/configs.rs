//! `odradek configs`: what kafka-configs.sh does for topics, brokers and groups.

use clap::{Args, ValueEnum};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest, ListGroupsRequest};
use odradek_net::client::Client;

use crate::client::{ClusterClient, Connection, send, text};
use crate::error::{CommandError, Outcome, check};
use crate::output::say;

/// The wire's number for topics.
pub const TOPIC: i8 = 2;
/// The wire's number for brokers.
pub const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const GROUP: i8 = 32;

/// The wire's number for a value that nobody has set.
pub const DEFAULT_SOURCE: i8 = 5;
const SOURCES: [&str; 8] = [
    "UNKNOWN",
    "DYNAMIC_TOPIC_CONFIG",
    "DYNAMIC_BROKER_CONFIG",
    "DYNAMIC_DEFAULT_BROKER_CONFIG",
    "STATIC_BROKER_CONFIG",
    "DEFAULT_CONFIG",
    "DYNAMIC_BROKER_LOGGER_CONFIG",
    "DYNAMIC_CLIENT_METRICS_CONFIG",
];
const GROUP_SOURCE: i8 = 8;

/// How long a change may take to come from the controller to a broker.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(500);

const SET: i8 = 0;
const DELETE: i8 = 1;

/// What has configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EntityType {
    /// A topic.
    Topics,
    /// A broker, or all of them.
    Brokers,
    /// The log levels of a broker.
    BrokerLoggers,
    /// A group.
    Groups,
}

impl EntityType {
    fn resource_type(self) -> i8 {
        match self {
            Self::Topics => TOPIC,
            Self::Brokers => BROKER,
            Self::BrokerLoggers => BROKER_LOGGER,
            Self::Groups => GROUP,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Topics => "topic",
            Self::Brokers => "broker",
            Self::BrokerLoggers => "broker-logger",
            Self::Groups => "group",
        }
    }

    /// The sources of values that were set for the entity itself.
    fn is_dynamic(self, source: i8, default_entity: bool) -> bool {
        match self {
            Self::Topics => source == 1,
            Self::Brokers => source == if default_entity { 3 } else { 2 },
            Self::BrokerLoggers => true,
            Self::Groups => source == GROUP_SOURCE,
        }
    }
}

/// Flags of `odradek configs`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("action").required(true).args(["describe", "alter"]))]
pub struct ConfigsArguments {
    #[command(flatten)]
    connection: Connection,
    /// Lists configurations.
    #[arg(long)]
    describe: bool,
    /// Changes configurations.
    #[arg(long)]
    alter: bool,
    /// What has the configurations; together with --entity-name or --entity-default.
    #[arg(long, value_enum, value_name = "TYPE")]
    entity_type: Option<EntityType>,
    /// The topic's name, the broker's id, the group's id.
    #[arg(long, value_name = "NAME", conflicts_with = "entity_default")]
    entity_name: Option<String>,
    /// What holds for all brokers.
    #[arg(long)]
    entity_default: bool,
    /// Short for --entity-type topics --entity-name.
    #[arg(long, value_name = "TOPIC", conflicts_with_all = ["entity_type", "entity_name"])]
    topic: Option<String>,
    /// Short for --entity-type brokers --entity-name.
    #[arg(long, value_name = "ID", conflicts_with_all = ["entity_type", "entity_name", "topic"])]
    broker: Option<String>,
    /// Lists all configurations, not only those that were set for the entity.
    #[arg(long)]
    all: bool,
    /// Sets configurations: k=v pairs separated by commas; a value with commas stands in square brackets.
    #[arg(long, value_name = "K=V,...")]
    add_config: Option<String>,
    /// Sets the configurations of a .properties file.
    #[arg(long, value_name = "FILE")]
    add_config_file: Option<std::path::PathBuf>,
    /// Removes configurations: keys separated by commas.
    #[arg(long, value_name = "K,...", value_delimiter = ',')]
    delete_config: Vec<String>,
}

/// What the flags name: a type, and one entity (empty is the default of all) or all of them.
struct Target {
    entity_type: EntityType,
    name: Option<String>,
}

/// Carries out `odradek configs`.
pub async fn run(arguments: ConfigsArguments) -> Outcome {
    let client = ClusterClient::new(&arguments.connection)?;
    let target = target(&arguments)?;
    if arguments.describe {
        describe(&client, &target, arguments.all).await
    } else {
        alter(&client, &target, &arguments).await
    }
}

fn target(arguments: &ConfigsArguments) -> Outcome<Target> {
    if let Some(topic) = &arguments.topic {
        return Ok(Target {
            entity_type: EntityType::Topics,
            name: Some(topic.clone()),
        });
    }
    if let Some(broker) = &arguments.broker {
        return Ok(Target {
            entity_type: EntityType::Brokers,
            name: Some(broker.clone()),
        });
    }
    let entity_type = arguments.entity_type.ok_or_else(|| {
        CommandError::refused("--entity-type is missing: topics, brokers, broker-loggers or groups")
    })?;
    if arguments.entity_default && entity_type != EntityType::Brokers {
        return Err(CommandError::refused(
            "--entity-default goes with --entity-type brokers only",
        ));
    }
    let name = if arguments.entity_default {
        Some(String::new())
    } else {
        arguments.entity_name.clone()
    };
    Ok(Target { entity_type, name })
}

async fn describe(client: &ClusterClient, target: &Target, all: bool) -> Outcome {
    let names = match &target.name {
        Some(name) => vec![name.clone()],
        None => entities(client, target.entity_type).await?,
    };
    for name in names {
        describe_one(client, target.entity_type, &name, all).await?;
    }
    Ok(())
}

/// All entities of a type; for brokers the default of all comes last.
async fn entities(client: &ClusterClient, entity_type: EntityType) -> Outcome<Vec<String>> {
    let view = match entity_type {
        EntityType::Topics => {
            let view = client.view(None).await?;
            return Ok(view.names().into_iter().map(str::to_owned).collect());
        }
        EntityType::Groups => return groups(client).await,
        EntityType::Brokers | EntityType::BrokerLoggers => client.view(Some(&[])).await?,
    };
    let mut names: Vec<String> = view.brokers.keys().map(ToString::to_string).collect();
    if entity_type == EntityType::Brokers {
        names.push(String::new());
    }
    Ok(names)
}

async fn groups(client: &ClusterClient) -> Outcome<Vec<String>> {
    let mut names = std::collections::BTreeSet::new();
    for address in client.view(Some(&[])).await?.brokers.values() {
        let response = send(&*client.at(address).await?, ListGroupsRequest::default()).await?;
        check(response.error_code, None)?;
        names.extend(response.groups.iter().map(|group| group.group_id.to_string()));
    }
    Ok(names.into_iter().collect())
}

async fn describe_one(client: &ClusterClient, entity_type: EntityType, name: &str, all: bool) -> Outcome {
    let node = node_of(client, entity_type, name).await?;
    let resources = [(entity_type.resource_type(), name.to_owned())];
    for result in describe_resources(&node, &resources, true).await? {
        say!("{}", heading(entity_type, name, all));
        for config in shown(&result, entity_type, name.is_empty(), all) {
            say!("{}", line(config));
        }
    }
    Ok(())
}

/// Brokers answer for themselves; everything else any broker knows.
async fn node_of(
    client: &ClusterClient,
    entity_type: EntityType,
    name: &str,
) -> Outcome<std::sync::Arc<Client>> {
    match entity_type {
        EntityType::Brokers | EntityType::BrokerLoggers if !name.is_empty() => {
            let id = name.parse().map_err(|_| {
                CommandError::refused(format!(
                    "The entity name for brokers must be a valid integer broker id, found: {name}"
                ))
            })?;
            client.broker(id).await
        }
        EntityType::Topics | EntityType::Brokers | EntityType::BrokerLoggers | EntityType::Groups => {
            client.any().await
        }
    }
}

fn heading(entity_type: EntityType, name: &str, all: bool) -> String {
    match (name.is_empty(), all) {
        (true, _) => "Default configs for brokers in the cluster are:".to_owned(),
        (false, true) => format!("All configs for {} {name} are:", entity_type.name()),
        (false, false) => format!("Dynamic configs for {} {name} are:", entity_type.name()),
    }
}

fn shown(
    result: &DescribeConfigsResult,
    entity_type: EntityType,
    default_entity: bool,
    all: bool,
) -> Vec<&DescribeConfigsResourceResult> {
    let mut configs: Vec<_> = result
        .configs
        .iter()
        .filter(|config| all || entity_type.is_dynamic(config.config_source, default_entity))
        .collect();
    configs.sort_by(|a, b| a.name.cmp(&b.name));
    configs
}

fn line(config: &DescribeConfigsResourceResult) -> String {
    let synonyms: Vec<String> = config
        .synonyms
        .iter()
        .map(|synonym| {
            let value = synonym.value.as_deref().unwrap_or("null");
            format!("{}:{}={value}", source_name(synonym.source), synonym.name)
        })
        .collect();
    format!(
        "  {}={} sensitive={} synonyms={{{}}}",
        config.name,
        config.value.as_deref().unwrap_or("null"),
        config.is_sensitive,
        synonyms.join(", ")
    )
}

fn source_name(source: i8) -> &'static str {
    if source == GROUP_SOURCE {
        return "DYNAMIC_GROUP_CONFIG";
    }
    usize::try_from(source)
        .ok()
        .and_then(|index| SOURCES.get(index))
        .unwrap_or(&SOURCES[0])
}

async fn alter(client: &ClusterClient, target: &Target, arguments: &ConfigsArguments) -> Outcome {
    let name = target.name.as_ref().ok_or_else(|| {
        CommandError::refused("--entity-name or --entity-default must be given with --alter")
    })?;
    let mut added = arguments
        .add_config
        .as_deref()
        .map(parse_pairs)
        .transpose()?
        .unwrap_or_default();
    if let Some(file) = &arguments.add_config_file {
        let content = std::fs::read_to_string(file)
            .map_err(CommandError::io(format!("cannot read {}", file.display())))?;
        let properties = odradek_config::properties::parse(&content)
            .map_err(|error| CommandError::refused(format!("{}: {error}", file.display())))?;
        added.extend(
            properties
                .into_iter()
                .map(|property| (property.key, property.value)),
        );
    }
    if added.is_empty() && arguments.delete_config.is_empty() {
        return Err(CommandError::refused(
            "At least one of --add-config, --add-config-file, or --delete-config must be specified with --alter",
        ));
    }
    let node = node_of(client, target.entity_type, name).await?;
    let deleted: Vec<&str> = arguments.delete_config.iter().map(|key| key.trim()).collect();
    if !deleted.is_empty() && target.entity_type != EntityType::BrokerLoggers {
        check_deleted(&node, target.entity_type, name, &deleted).await?;
    }
    let set = added
        .iter()
        .map(|(key, value)| (key.as_str(), SET, Some(text(value))));
    let delete = deleted.iter().map(|key| (*key, DELETE, None));
    let configs = set.chain(delete).map(|(key, operation, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(operation)
            .with_value(value)
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(target.entity_type.resource_type())
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    for result in send(&node, request).await?.responses {
        check(result.error_code, result.error_message.as_deref())?;
    }
    match name.as_str() {
        "" => say!("Completed updating default config for brokers in the cluster."),
        name => say!(
            "Completed updating config for {} {name}.",
            target.entity_type.name()
        ),
    }
    Ok(())
}

/// Refuses to delete what is not set for the entity itself, as kafka-configs.sh does.
async fn check_deleted(node: &Client, entity_type: EntityType, name: &str, deleted: &[&str]) -> Outcome {
    let resources = [(entity_type.resource_type(), name.to_owned())];
    let look = async || {
        let described = describe_resources(node, &resources, false).await?;
        Ok::<_, CommandError>(not_set(&described, entity_type, name, deleted))
    };
    let mut missing = look().await?;
    if !missing.is_empty() {
        // What was set a moment ago may not have come to this broker yet.
        tokio::time::sleep(SETTLE).await;
        missing = look().await?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    let what = match name {
        "" => "as the default of all brokers".to_owned(),
        name => format!("for {} {name}", entity_type.name()),
    };
    Err(CommandError::refused(format!(
        "Invalid config(s): {}: not set {what}",
        missing.join(",")
    )))
}

/// Those of the keys that are not set for the entity itself.
fn not_set<'a>(
    described: &[DescribeConfigsResult],
    entity_type: EntityType,
    name: &str,
    keys: &[&'a str],
) -> Vec<&'a str> {
    let set: Vec<&str> = described
        .iter()
        .flat_map(|result| shown(result, entity_type, name.is_empty(), false))
        .map(|config| &*config.name)
        .collect();
    keys.iter().copied().filter(|key| !set.contains(key)).collect()
}

/// Reads `k=v,k=[a,b]`.
fn parse_pairs(given: &str) -> Outcome<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = given.trim();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| {
            CommandError::refused(format!("Invalid entity config: all configs to be added must be in the format \"key=val\", found `{rest}`"))
        })?;
        let (value, next) = match after.trim_start().strip_prefix('[') {
            Some(list) => {
                let (value, next) = list
                    .split_once(']')
                    .ok_or_else(|| CommandError::refused(format!("the `[` after `{key}=` has no `]`")))?;
                (value, next.trim_start().trim_start_matches(','))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        pairs.push((key.trim().to_owned(), value.trim().to_owned()));
        rest = next.trim();
    }
    Ok(pairs)
}

/// Describes configurations as one node has them; a refusal of any resource is an error.
pub async fn describe_resources(
    client: &Client,
    resources: &[(i8, String)],
    synonyms: bool,
) -> Outcome<Vec<DescribeConfigsResult>> {
    if resources.is_empty() {
        return Ok(Vec::new());
    }
    let resource = |(resource_type, name): &(i8, String)| {
        DescribeConfigsResource::default()
            .with_resource_type(*resource_type)
            .with_resource_name(text(name))
            .with_configuration_keys(None)
    };
    let request = DescribeConfigsRequest::default()
        .with_resources(resources.iter().map(resource).collect())
        .with_include_synonyms(synonyms);
    let response = send(client, request).await?;
    for result in &response.results {
        check(result.error_code, result.error_message.as_deref())?;
    }
    Ok(response.results)
}

/// The value of one configuration.
pub fn value<'a>(result: &'a DescribeConfigsResult, key: &str) -> Option<&'a str> {
    let config = result.configs.iter().find(|config| &*config.name == key)?;
    config.value.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::describe_configs_response::DescribeConfigsSynonym;

    #[test]
    fn a_value_in_brackets_may_have_commas() {
        let pairs = parse_pairs("a=1,cleanup.policy=[compact,delete],b=x=y").expect("fits");
        let expected = [("a", "1"), ("cleanup.policy", "compact,delete"), ("b", "x=y")];
        assert_eq!(
            pairs,
            expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
        assert!(parse_pairs("a").is_err());
        assert!(parse_pairs("a=[b").is_err());
    }

    #[test]
    fn only_what_is_set_for_the_entity_itself_can_be_deleted() {
        let config = |name: &str, source| {
            DescribeConfigsResourceResult::default()
                .with_name(text(name))
                .with_config_source(source)
        };
        let configs = vec![
            config("retention.ms", 1),
            config("segment.ms", DEFAULT_SOURCE),
            config("flush.ms", 4),
        ];
        let described = [DescribeConfigsResult::default().with_configs(configs)];
        let keys = ["retention.ms", "segment.ms", "flush.ms", "nonsense"];
        assert_eq!(
            not_set(&described, EntityType::Topics, "t", &keys),
            ["segment.ms", "flush.ms", "nonsense"]
        );
    }

    #[test]
    fn a_config_is_shown_with_where_its_value_may_come_from() {
        let synonym = DescribeConfigsSynonym::default()
            .with_name(text("log.k"))
            .with_value(Some(text("2")))
            .with_source(5);
        let config = DescribeConfigsResourceResult::default()
            .with_name(text("k"))
            .with_value(Some(text("1")))
            .with_synonyms(vec![
                synonym
                    .clone()
                    .with_name(text("k"))
                    .with_value(Some(text("1")))
                    .with_source(1),
                synonym,
            ]);
        assert_eq!(
            line(&config),
            "  k=1 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:k=1, DEFAULT_CONFIG:log.k=2}"
        );
    }
}
