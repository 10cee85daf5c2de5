//! `odradek topics`: what kafka-topics.sh does.

mod describe;

use clap::Args;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest};
use odradek_common::error::ErrorCode;

use crate::arguments::key_value;
use crate::client::{ClusterClient, ClusterView, Connection, common_version, join, send, text, topic_name};
use crate::error::{CommandError, Outcome, check};
use crate::output::say;

/// The first version of DeleteTopics that names topics by name or id.
const DELETE_BY_STATE_SINCE: i16 = 6;

/// Flags of `odradek topics`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("action").required(true).args(["create", "list", "describe", "delete", "alter"]))]
pub struct TopicsArguments {
    #[command(flatten)]
    connection: Connection,
    /// Creates a topic.
    #[arg(long, requires = "topic")]
    create: bool,
    /// Lists topics.
    #[arg(long)]
    list: bool,
    /// Describes topics and their partitions.
    #[arg(long)]
    describe: bool,
    /// Deletes a topic.
    #[arg(long, requires = "topic")]
    delete: bool,
    /// Gives a topic more partitions.
    #[arg(long, requires = "topic", requires = "partitions")]
    alter: bool,
    /// The topic; for --list, --describe and --delete also several, separated by commas, each perhaps with `*`.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// The id of the topic to describe.
    #[arg(long, value_name = "ID")]
    topic_id: Option<String>,
    /// The number of partitions; the cluster's default if not given.
    #[arg(long, value_name = "COUNT")]
    partitions: Option<i32>,
    /// The number of replicas of each partition; the cluster's default if not given.
    #[arg(long, value_name = "COUNT")]
    replication_factor: Option<i16>,
    /// The brokers of each partition: replicas separated by colons, partitions by commas.
    #[arg(long, value_name = "1:2,2:3", conflicts_with = "replication_factor")]
    replica_assignment: Option<String>,
    /// A configuration of the topic; may be given more than once.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// Does nothing if the topic is there already.
    #[arg(long)]
    if_not_exists: bool,
    /// Does nothing if the topic is not there.
    #[arg(long)]
    if_exists: bool,
    /// Leaves internal topics out.
    #[arg(long)]
    exclude_internal: bool,
    /// Describes only partitions that lack replicas in sync.
    #[arg(long)]
    under_replicated_partitions: bool,
    /// Describes only partitions without a leader.
    #[arg(long)]
    unavailable_partitions: bool,
    /// Describes only partitions with fewer replicas in sync than min.insync.replicas.
    #[arg(long)]
    under_min_isr_partitions: bool,
    /// Describes only partitions with exactly min.insync.replicas in sync.
    #[arg(long)]
    at_min_isr_partitions: bool,
    /// Describes only topics with configurations of their own.
    #[arg(long)]
    topics_with_overrides: bool,
}

/// Carries out `odradek topics`.
pub async fn run(arguments: TopicsArguments) -> Outcome {
    let client = ClusterClient::new(&arguments.connection)?;
    if arguments.create {
        create(&client, &arguments).await
    } else if arguments.list {
        list(&client, &arguments).await
    } else if arguments.describe {
        describe::describe(&client, &arguments).await
    } else if arguments.delete {
        delete(&client, &arguments).await
    } else {
        alter(&client, &arguments).await
    }
}

impl TopicsArguments {
    fn name(&self) -> &str {
        self.topic.as_deref().expect("clap requires --topic here")
    }
}

async fn create(client: &ClusterClient, arguments: &TopicsArguments) -> Outcome {
    let name = arguments.name();
    if name.contains(['.', '_']) {
        say!(
            "WARNING: names of metrics do not tell a period ('.') from an underscore ('_'): use one of them, not both, \
             in names of topics."
        );
    }
    let mut topic = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(arguments.partitions.unwrap_or(-1))
        .with_replication_factor(arguments.replication_factor.unwrap_or(-1));
    if let Some(assignment) = &arguments.replica_assignment {
        let assignment = parse_assignment(assignment)?;
        let partition = |(index, replicas): (i32, Vec<i32>)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(index)
                .with_broker_ids(replicas.into_iter().map(Into::into).collect())
        };
        topic = topic
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments((0..).zip(assignment).map(partition).collect());
    }
    let config = |(key, value): &(String, String)| {
        CreatableTopicConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    };
    topic = topic.with_configs(arguments.config.iter().map(config).collect());
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(client.timeout_ms());
    let result = client.retry(async || {
        let response = client.ask(request.clone()).await?;
        for topic in &response.topics {
            check(topic.error_code, topic.error_message.as_deref())?;
        }
        Ok(())
    });
    match result.await {
        Ok(()) => say!("Created topic {name}."),
        Err(CommandError::Api(error))
            if arguments.if_not_exists && error.code == ErrorCode::TopicAlreadyExists => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Reads `1:2,2:3`: the replicas of partition 0, then of partition 1.
fn parse_assignment(text: &str) -> Outcome<Vec<Vec<i32>>> {
    let mut assignment: Vec<Vec<i32>> = Vec::new();
    for (partition, replicas) in text.split(',').enumerate() {
        let brokers: Result<Vec<i32>, _> = replicas.split(':').map(|id| id.trim().parse()).collect();
        let brokers = brokers.map_err(|_| {
            CommandError::refused(format!("`{replicas}` is no list of broker ids like 1:2:3"))
        })?;
        let distinct: std::collections::BTreeSet<_> = brokers.iter().collect();
        if distinct.len() != brokers.len() {
            return Err(CommandError::refused(format!(
                "partition {partition} names a broker twice: {replicas}"
            )));
        }
        if assignment
            .first()
            .is_some_and(|first| first.len() != brokers.len())
        {
            return Err(CommandError::refused(format!(
                "partition {partition} has another replication factor than partition 0: {replicas}"
            )));
        }
        assignment.push(brokers);
    }
    Ok(assignment)
}

async fn list(client: &ClusterClient, arguments: &TopicsArguments) -> Outcome {
    let view = client.view(None).await?;
    for name in select(&view, arguments) {
        say!("{name}");
    }
    Ok(())
}

/// The topics that --topic and --exclude-internal let through.
fn select<'a>(view: &'a ClusterView, arguments: &TopicsArguments) -> Vec<&'a str> {
    let patterns: Option<Vec<&str>> = arguments
        .topic
        .as_deref()
        .map(|topics| topics.split([',', '|']).map(str::trim).collect());
    view.topics
        .iter()
        .filter(|topic| topic.error_code == 0 && !(arguments.exclude_internal && topic.is_internal))
        .filter_map(|topic| topic.name.as_deref())
        .map(|name| &**name)
        .filter(|name| {
            patterns
                .as_ref()
                .is_none_or(|all| all.iter().any(|pattern| matches(pattern, name)))
        })
        .collect()
}

/// Whether a name fits a pattern in which `*` or `.*` stands for any characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern = pattern.replace(".*", "*");
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The topics of --topic; an error if there is none and --if-exists was not given.
fn existing<'a>(view: &'a ClusterView, arguments: &TopicsArguments) -> Outcome<Vec<&'a str>> {
    let names = select(view, arguments);
    match &arguments.topic {
        Some(topic) if names.is_empty() && !arguments.if_exists => Err(CommandError::refused(format!(
            "Topic '{topic}' does not exist as expected"
        ))),
        Some(_) | None => Ok(names),
    }
}

async fn delete(client: &ClusterClient, arguments: &TopicsArguments) -> Outcome {
    let view = client.view(None).await?;
    let names = existing(&view, arguments)?;
    if names.is_empty() {
        return Ok(());
    }
    let any = client.any().await?;
    let request = DeleteTopicsRequest::default().with_timeout_ms(client.timeout_ms());
    let request = if common_version::<DeleteTopicsRequest>(&any)? >= DELETE_BY_STATE_SINCE {
        let state = |name: &&str| DeleteTopicState::default().with_name(Some(topic_name(name)));
        request.with_topics(names.iter().map(state).collect())
    } else {
        request.with_topic_names(names.iter().map(|name| topic_name(name)).collect())
    };
    let response = send(&any, request).await?;
    for result in &response.responses {
        check(result.error_code, result.error_message.as_deref())?;
    }
    Ok(())
}

async fn alter(client: &ClusterClient, arguments: &TopicsArguments) -> Outcome {
    let view = client.view(None).await?;
    let count = arguments.partitions.expect("clap requires --partitions here");
    let assignment = arguments
        .replica_assignment
        .as_deref()
        .map(parse_assignment)
        .transpose()?;
    let mut topics = Vec::new();
    for name in existing(&view, arguments)? {
        let present = view.topic(name)?.partitions.len();
        let added = assignment.as_ref().map(|all| {
            let replicas = |brokers: &Vec<i32>| {
                CreatePartitionsAssignment::default()
                    .with_broker_ids(brokers.iter().map(|&id| id.into()).collect())
            };
            all.iter().skip(present).map(replicas).collect()
        });
        topics.push(
            CreatePartitionsTopic::default()
                .with_name(topic_name(name))
                .with_count(count)
                .with_assignments(added),
        );
    }
    if topics.is_empty() {
        return Ok(());
    }
    let request = CreatePartitionsRequest::default()
        .with_topics(topics)
        .with_timeout_ms(client.timeout_ms());
    let response = client.ask(request).await?;
    for result in &response.results {
        check(result.error_code, result.error_message.as_deref())?;
    }
    Ok(())
}

/// Ids of brokers, with commas.
fn ids(brokers: &[kafka_protocol::messages::BrokerId]) -> String {
    join(brokers.iter().map(|id| id.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name) in [
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "abc"),
            ("a.*", "abc"),
            ("*", "x"),
            ("abc", "abc"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "abc"), ("a*d", "abc"), ("abc*c", "abc"), ("", "x")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn an_assignment_gives_each_partition_as_many_distinct_brokers() {
        assert_eq!(parse_assignment("1:2,2:3").expect("fits"), [[1, 2], [2, 3]]);
        assert!(parse_assignment("1:1").is_err());
        assert!(parse_assignment("1:2,3").is_err());
        assert!(parse_assignment("1:x").is_err());
    }
}
