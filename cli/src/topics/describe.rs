//! `odradek topics --describe`.

use std::collections::BTreeMap;
use std::fmt::Write;

use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::describe_topic_partitions_request::TopicRequest;
use kafka_protocol::messages::list_partition_reassignments_response::OngoingPartitionReassignment;
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{BrokerId, DescribeTopicPartitionsRequest, ListPartitionReassignmentsRequest};

use super::{TopicsArguments, existing, ids};
use crate::client::{ClusterClient, ClusterView, common_version, send, topic_name};
use crate::configs::{self, DEFAULT_SOURCE, TOPIC};
use crate::error::{CommandError, Outcome, check};
use crate::kafka_uuid;
use crate::output::say;

/// Partitions that a DescribeTopicPartitions response may hold.
const RESPONSE_PARTITIONS: i32 = 2000;

type ByPartition<T> = BTreeMap<(String, i32), T>;

/// What is known of the topics beside their metadata.
struct Details {
    configs: BTreeMap<String, DescribeConfigsResult>,
    reassignments: ByPartition<OngoingPartitionReassignment>,
    /// Eligible leader replicas, current and last known; empty when the server does not tell.
    eligible: ByPartition<(Vec<BrokerId>, Vec<BrokerId>)>,
}

pub(super) async fn describe(client: &ClusterClient, arguments: &TopicsArguments) -> Outcome {
    let view = client.view(None).await?;
    let names = match &arguments.topic_id {
        Some(id) => vec![name_of(&view, id)?],
        None => existing(&view, arguments)?,
    };
    let details = details(client, &names).await?;
    let filtered = arguments.under_replicated_partitions
        || arguments.unavailable_partitions
        || arguments.under_min_isr_partitions
        || arguments.at_min_isr_partitions;
    for name in names {
        let topic = view.topic(name)?;
        let own = overrides(details.configs.get(name));
        if arguments.topics_with_overrides && own.is_empty() {
            continue;
        }
        if !filtered {
            say!("{}", topic_line(name, topic, &own));
        }
        if arguments.topics_with_overrides {
            continue;
        }
        for partition in &topic.partitions {
            if !filtered || wanted(arguments, &view, &details, name, partition) {
                say!("{}", partition_line(name, partition, &details));
            }
        }
    }
    Ok(())
}

fn name_of<'a>(view: &'a ClusterView, id: &str) -> Outcome<&'a str> {
    let topic_id = kafka_uuid::parse(id).map_err(CommandError::refused)?;
    let topic = view.topics.iter().find(|topic| topic.topic_id == topic_id);
    topic
        .and_then(|topic| topic.name.as_deref())
        .map(|name| &**name)
        .ok_or_else(|| CommandError::refused(format!("TopicId '{id}' does not exist as expected")))
}

async fn details(client: &ClusterClient, names: &[&str]) -> Outcome<Details> {
    let resources: Vec<(i8, String)> = names.iter().map(|name| (TOPIC, (*name).to_owned())).collect();
    let any = client.any().await?;
    let described = configs::describe_resources(&any, &resources, false).await?;
    let configs = described
        .into_iter()
        .map(|result| (result.resource_name.to_string(), result))
        .collect();
    Ok(Details {
        configs,
        reassignments: reassignments(client).await?,
        eligible: eligible(client, names).await?,
    })
}

/// All reassignments under way.
async fn reassignments(client: &ClusterClient) -> Outcome<ByPartition<OngoingPartitionReassignment>> {
    let request = ListPartitionReassignmentsRequest::default()
        .with_topics(None)
        .with_timeout_ms(client.timeout_ms());
    let response = client.ask(request).await?;
    check(response.error_code, response.error_message.as_deref())?;
    let mut all = BTreeMap::new();
    for topic in response.topics {
        for partition in topic.partitions {
            all.insert((topic.name.to_string(), partition.partition_index), partition);
        }
    }
    Ok(all)
}

async fn eligible(
    client: &ClusterClient,
    names: &[&str],
) -> Outcome<ByPartition<(Vec<BrokerId>, Vec<BrokerId>)>> {
    let any = client.any().await?;
    let mut all = BTreeMap::new();
    if names.is_empty() || common_version::<DescribeTopicPartitionsRequest>(&any).is_err() {
        return Ok(all);
    }
    let mut cursor = None;
    loop {
        let topics = names
            .iter()
            .map(|name| TopicRequest::default().with_name(topic_name(name)));
        let mut request = DescribeTopicPartitionsRequest::default()
            .with_topics(topics.collect())
            .with_response_partition_limit(RESPONSE_PARTITIONS);
        request.cursor = cursor;
        let response = send(&any, request).await?;
        for topic in response.topics {
            let Some(name) = topic.name else { continue };
            for partition in topic.partitions {
                let lists = (
                    partition.eligible_leader_replicas.unwrap_or_default(),
                    partition.last_known_elr.unwrap_or_default(),
                );
                all.insert((name.to_string(), partition.partition_index), lists);
            }
        }
        let Some(next) = response.next_cursor else {
            return Ok(all);
        };
        cursor = Some(
            kafka_protocol::messages::describe_topic_partitions_request::Cursor::default()
                .with_topic_name(next.topic_name)
                .with_partition_index(next.partition_index),
        );
    }
}

/// The configurations that are not defaults, as `key=value` with commas.
fn overrides(result: Option<&DescribeConfigsResult>) -> String {
    let Some(result) = result else {
        return String::new();
    };
    let own = result
        .configs
        .iter()
        .filter(|config| config.config_source != DEFAULT_SOURCE);
    let pairs: Vec<String> = own
        .map(|config| format!("{}={}", config.name, config.value.as_deref().unwrap_or("null")))
        .collect();
    pairs.join(",")
}

fn min_isr(details: &Details, topic: &str) -> usize {
    details
        .configs
        .get(topic)
        .and_then(|result| configs::value(result, "min.insync.replicas"))
        .and_then(|value| value.parse().ok())
        .unwrap_or(1)
}

fn replication_factor(details: &Details, topic: &str, partition: &MetadataResponsePartition) -> usize {
    let reassignment = details
        .reassignments
        .get(&(topic.to_owned(), partition.partition_index));
    reassignment.map_or(partition.replica_nodes.len(), |it| {
        it.replicas.len() - it.adding_replicas.len()
    })
}

fn wanted(
    arguments: &TopicsArguments,
    view: &ClusterView,
    details: &Details,
    topic: &str,
    partition: &MetadataResponsePartition,
) -> bool {
    let in_sync = partition.isr_nodes.len();
    let min_isr = min_isr(details, topic);
    let available = view.brokers.contains_key(&partition.leader_id.0);
    (arguments.under_replicated_partitions && in_sync < replication_factor(details, topic, partition))
        || (arguments.unavailable_partitions && !available)
        || (arguments.under_min_isr_partitions && (partition.leader_id.0 < 0 || in_sync < min_isr))
        || (arguments.at_min_isr_partitions && in_sync == min_isr)
}

fn topic_line(name: &str, topic: &MetadataResponseTopic, own: &str) -> String {
    let mut line = format!("Topic: {name}");
    if !topic.topic_id.is_nil() {
        let _ = write!(line, "\tTopicId: {}", kafka_uuid::format(topic.topic_id));
    }
    let replicas = topic
        .partitions
        .first()
        .map_or(0, |partition| partition.replica_nodes.len());
    let _ = write!(
        line,
        "\tPartitionCount: {}\tReplicationFactor: {replicas}",
        topic.partitions.len()
    );
    let _ = write!(line, "\tConfigs: {own}");
    line
}

fn partition_line(topic: &str, partition: &MetadataResponsePartition, details: &Details) -> String {
    let leader = match partition.leader_id.0 {
        ..0 => "none".to_owned(),
        id => id.to_string(),
    };
    let mut line = format!(
        "\tTopic: {topic}\tPartition: {}\tLeader: {leader}\tReplicas: {}\tIsr: {}",
        partition.partition_index,
        ids(&partition.replica_nodes),
        ids(&partition.isr_nodes)
    );
    let key = (topic.to_owned(), partition.partition_index);
    if let Some(reassignment) = details.reassignments.get(&key) {
        let adding = ids(&reassignment.adding_replicas);
        let removing = ids(&reassignment.removing_replicas);
        let _ = write!(line, "\tAdding Replicas: {adding}\tRemoving Replicas: {removing}");
    }
    match details.eligible.get(&key) {
        Some((eligible, last_known)) => {
            let _ = write!(
                line,
                "\tElr: {}\tLastKnownElr: {}",
                ids(eligible),
                ids(last_known)
            );
        }
        None => line.push_str("\tElr: N/A\tLastKnownElr: N/A"),
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_without_a_leader_says_so() {
        let partition = MetadataResponsePartition::default()
            .with_partition_index(2)
            .with_leader_id(BrokerId(-1))
            .with_replica_nodes(vec![BrokerId(1), BrokerId(2)]);
        let mut details = Details {
            configs: BTreeMap::new(),
            reassignments: BTreeMap::new(),
            eligible: BTreeMap::new(),
        };
        assert_eq!(
            partition_line("t", &partition, &details),
            "\tTopic: t\tPartition: 2\tLeader: none\tReplicas: 1,2\tIsr: \tElr: N/A\tLastKnownElr: N/A"
        );
        details
            .eligible
            .insert(("t".to_owned(), 2), (vec![BrokerId(1)], Vec::new()));
        assert!(partition_line("t", &partition, &details).ends_with("\tElr: 1\tLastKnownElr: "));
    }
}
