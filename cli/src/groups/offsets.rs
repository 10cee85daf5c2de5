//! Committed offsets of a group: reading them, showing them with the lag, deleting them.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{GroupId, OffsetDeleteRequest, OffsetFetchRequest};
use odradek_net::client::Client;

use super::{assignment, columns, plain, reason};
use crate::client::{ClusterClient, LATEST, common_version, send, send_in, text, topic_name};
use crate::error::{CommandError, Outcome, check};
use crate::output::say_text;

/// The first version of OffsetFetch that asks for several groups.
const SEVERAL_GROUPS_SINCE: i16 = 8;

/// Who reads a partition.
struct Reader {
    member_id: String,
    host: String,
    client_id: String,
}

/// All committed offsets of a group.
pub(super) async fn committed(coordinator: &Client, group: &str) -> Outcome<BTreeMap<(String, i32), i64>> {
    let version = common_version::<OffsetFetchRequest>(coordinator)?;
    let id = GroupId(text(group));
    let request = if version >= SEVERAL_GROUPS_SINCE {
        let wanted = OffsetFetchRequestGroup::default()
            .with_group_id(id)
            .with_topics(None);
        OffsetFetchRequest::default().with_groups(vec![wanted])
    } else {
        OffsetFetchRequest::default().with_group_id(id).with_topics(None)
    };
    let response = send_in(coordinator, version, request).await?;
    check(response.error_code, None)?;
    let mut offsets = BTreeMap::new();
    for topic in response.topics {
        for partition in topic.partitions {
            offsets.insert(
                (topic.name.to_string(), partition.partition_index),
                partition.committed_offset,
            );
        }
    }
    for group in response.groups {
        check(group.error_code, None)?;
        for topic in group.topics {
            for partition in topic.partitions {
                offsets.insert(
                    (topic.name.to_string(), partition.partition_index),
                    partition.committed_offset,
                );
            }
        }
    }
    offsets.retain(|_, offset| *offset >= 0);
    Ok(offsets)
}

pub(super) async fn describe(
    client: &ClusterClient,
    group: &DescribedGroup,
    coordinator: &Client,
) -> Outcome<String> {
    let committed = client
        .retry(async || committed(coordinator, &group.group_id).await)
        .await?;
    let readers = readers(group);
    let mut partitions: Vec<(String, i32)> = committed.keys().chain(readers.keys()).cloned().collect();
    partitions.sort();
    partitions.dedup();
    let ends = client.offsets(&partitions, LATEST).await?;
    let number = |offset: Option<i64>| offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
    let row = |key: &(String, i32)| {
        let (current, end) = (committed.get(key).copied(), ends.get(key).copied());
        let lag = current.zip(end).map(|(current, end)| end - current);
        let reader = readers.get(key);
        let of_reader = |field: fn(&Reader) -> &str| reader.map_or("-", field).to_owned();
        vec![
            group.group_id.to_string(),
            key.0.clone(),
            key.1.to_string(),
            number(current),
            number(end),
            number(lag),
            of_reader(|reader| &reader.member_id),
            of_reader(|reader| &reader.host),
            of_reader(|reader| &reader.client_id),
        ]
    };
    let rows: Vec<Vec<String>> = partitions.iter().map(row).collect();
    let headers = [
        "GROUP",
        "TOPIC",
        "PARTITION",
        "CURRENT-OFFSET",
        "LOG-END-OFFSET",
        "LAG",
        "CONSUMER-ID",
        "HOST",
        "CLIENT-ID",
    ];
    Ok(columns(&headers, &[15, 15, 10, 15, 15, 15, 15, 15, 9], &rows))
}

fn readers(group: &DescribedGroup) -> BTreeMap<(String, i32), Reader> {
    let mut readers = BTreeMap::new();
    for member in &group.members {
        for (topic, partitions) in assignment(member) {
            for partition in partitions {
                let reader = Reader {
                    member_id: member.member_id.to_string(),
                    host: member.client_host.to_string(),
                    client_id: member.client_id.to_string(),
                };
                readers.insert((topic.clone(), partition), reader);
            }
        }
    }
    readers
}

/// The partitions behind `topic` and `topic:0,1`.
pub(super) async fn partitions(client: &ClusterClient, topics: &[String]) -> Outcome<Vec<(String, i32)>> {
    let mut all = Vec::new();
    for given in topics {
        if let Some((topic, list)) = given.split_once(':') {
            for partition in list.split(',') {
                let partition = partition.trim().parse().map_err(|_| {
                    CommandError::refused(format!("`{partition}` in --topic {given} is no partition"))
                })?;
                all.push((topic.to_owned(), partition));
            }
        } else {
            let view = client.view(Some(&[given])).await?;
            let partitions = &view.topic(given)?.partitions;
            all.extend(
                partitions
                    .iter()
                    .map(|partition| (given.clone(), partition.partition_index)),
            );
        }
    }
    Ok(all)
}

pub(super) async fn delete(client: &ClusterClient, groups: &[String], topics: &[String]) -> Outcome {
    let partitions = partitions(client, topics).await?;
    let mut by_topic: BTreeMap<&str, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
    for (topic, partition) in &partitions {
        let wanted = OffsetDeleteRequestPartition::default().with_partition_index(*partition);
        by_topic.entry(topic).or_default().push(wanted);
    }
    let topics: Vec<OffsetDeleteRequestTopic> = by_topic
        .into_iter()
        .map(|(topic, partitions)| {
            OffsetDeleteRequestTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(partitions)
        })
        .collect();
    for group in groups {
        let coordinator = client.coordinator(group).await?;
        let request = OffsetDeleteRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(topics.clone());
        let response = send(&coordinator, request).await?;
        check(response.error_code, reason(response.error_code))?;
        let mut rows = Vec::new();
        for topic in &response.topics {
            for partition in &topic.partitions {
                let error = check(partition.error_code, reason(partition.error_code)).err();
                let status = error.map_or_else(
                    || "Successful".to_owned(),
                    |error| format!("Error: {}", error.detail),
                );
                rows.push(vec![
                    topic.name.to_string(),
                    partition.partition_index.to_string(),
                    status,
                ]);
            }
        }
        say_text!("{}", plain(&["TOPIC", "PARTITION", "STATUS"], &rows));
    }
    Ok(())
}
