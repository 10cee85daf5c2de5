//! `odradek groups`: what kafka-consumer-groups.sh does for classic groups.

mod offsets;
mod reset;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use kafka_protocol::messages::consumer_protocol_assignment::ConsumerProtocolAssignment;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{DeleteGroupsRequest, DescribeGroupsRequest, GroupId, ListGroupsRequest};
use kafka_protocol::protocol::Decodable;
use odradek_common::error::ErrorCode;
use odradek_net::client::Client;

use crate::client::{ClusterClient, Connection, join, send, text};
use crate::error::{CommandError, Outcome, check};
use crate::output::{say, say_text};
use crate::table;

/// Flags of `odradek groups`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("action").required(true).args(["list", "describe", "delete", "reset_offsets", "delete_offsets"]))]
pub struct GroupsArguments {
    #[command(flatten)]
    connection: Connection,
    /// Lists groups.
    #[arg(long)]
    list: bool,
    /// Describes groups: offsets and lag, or --members, or --state.
    #[arg(long)]
    describe: bool,
    /// Deletes groups that have no members.
    #[arg(long)]
    delete: bool,
    /// Sets the committed offsets of a group without members; without --execute it only shows them.
    #[arg(long)]
    reset_offsets: bool,
    /// Deletes the committed offsets of the topics given.
    #[arg(long, requires = "topic")]
    delete_offsets: bool,
    /// The group; may be given more than once.
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// All groups.
    #[arg(long, conflicts_with = "group")]
    all_groups: bool,
    /// The members of the groups.
    #[arg(long, conflicts_with_all = ["state", "offsets"])]
    members: bool,
    /// The offsets of the groups; what --describe does unasked.
    #[arg(long)]
    offsets: bool,
    /// The state of the groups; with --list also only those in the states given.
    #[arg(long, value_name = "STATES", num_args = 0..=1, default_missing_value = "")]
    state: Option<String>,
    /// With --members also what each member reads.
    #[arg(long)]
    verbose: bool,
    /// The topics to reset or delete offsets of, as topic or topic:0,1; may be given more than once.
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
    /// All topics that the group has offsets of.
    #[arg(long, conflicts_with = "topic")]
    all_topics: bool,
    #[command(flatten)]
    reset: reset::ResetArguments,
}

/// Carries out `odradek groups`.
pub async fn run(arguments: GroupsArguments) -> Outcome {
    let client = ClusterClient::new(&arguments.connection)?;
    if arguments.list {
        return list(&client, &arguments).await;
    }
    let groups = if arguments.all_groups {
        listed(&client).await?.into_keys().collect()
    } else {
        arguments.group.clone()
    };
    if groups.is_empty() && !arguments.all_groups {
        return Err(CommandError::refused("one of --group and --all-groups is needed"));
    }
    if arguments.describe {
        describe(&client, &groups, &arguments).await
    } else if arguments.delete {
        delete(&client, &groups).await
    } else if arguments.delete_offsets {
        offsets::delete(&client, &groups, &arguments.topic).await
    } else {
        reset::run(&client, &groups, &arguments).await
    }
}

/// All groups of all brokers.
async fn listed(client: &ClusterClient) -> Outcome<BTreeMap<String, ListedGroup>> {
    let view = client.view(Some(&[])).await?;
    let mut groups = BTreeMap::new();
    for address in view.brokers.values() {
        let node = client.at(address).await?;
        let of_node = client.retry(async || {
            let response = send(&node, ListGroupsRequest::default()).await?;
            check(response.error_code, None)?;
            Ok(response.groups)
        });
        groups.extend(
            of_node
                .await?
                .into_iter()
                .map(|group| (group.group_id.to_string(), group)),
        );
    }
    Ok(groups)
}

async fn list(client: &ClusterClient, arguments: &GroupsArguments) -> Outcome {
    let groups = listed(client).await?;
    let Some(states) = &arguments.state else {
        groups.keys().for_each(|group| say!("{group}"));
        return Ok(());
    };
    let wanted: Vec<String> = states
        .split(',')
        .map(|state| state.trim().to_lowercase())
        .filter(|state| !state.is_empty())
        .collect();
    let widest = groups
        .keys()
        .map(String::len)
        .chain([25])
        .max()
        .unwrap_or_default();
    say!("{:<widest$} {:<20}", "GROUP", "STATE");
    for (id, group) in groups {
        if wanted.is_empty() || wanted.contains(&group.group_state.to_lowercase()) {
            say!("{id:<widest$} {:<20}", group.group_state.as_str());
        }
    }
    Ok(())
}

/// A group as its coordinator describes it; one that does not exist is refused.
async fn described(client: &ClusterClient, group: &str) -> Outcome<(DescribedGroup, Arc<Client>)> {
    let describe = async || {
        let coordinator = client.coordinator(group).await?;
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
        let mut response = send(&coordinator, request).await?;
        let found = response
            .groups
            .pop()
            .ok_or_else(|| CommandError::refused("the answer has no group in it"))?;
        check(found.error_code, found.error_message.as_deref())?;
        Ok((found, coordinator))
    };
    let (found, coordinator) = client.retry(describe).await?;
    // Before KIP-1043 a group that nobody knows is described as dead.
    if found.group_state.as_str() == "Dead" {
        return Err(CommandError::refused(format!(
            "Consumer group '{group}' does not exist."
        )));
    }
    Ok((found, coordinator))
}

async fn describe(client: &ClusterClient, groups: &[String], arguments: &GroupsArguments) -> Outcome {
    for group in groups {
        let (found, coordinator) = described(client, group).await?;
        say_text!("\n");
        match found.group_state.as_str() {
            "Empty" => say!("Consumer group '{group}' has no active members.\n"),
            "PreparingRebalance" | "CompletingRebalance" => {
                say!("Warning: Consumer group '{group}' is rebalancing.\n");
            }
            _ => {}
        }
        let table = if arguments.members {
            members(&found, arguments.verbose)
        } else if arguments.state.is_some() {
            state(client, &found, &coordinator).await?
        } else {
            offsets::describe(client, &found, &coordinator).await?
        };
        say_text!("{table}");
    }
    Ok(())
}

/// The partitions of a member, by topic.
fn assignment(member: &DescribedGroupMember) -> BTreeMap<String, Vec<i32>> {
    let mut bytes: Bytes = member.member_assignment.clone();
    if bytes.len() < 2 {
        return BTreeMap::new();
    }
    let version = bytes.split_to(2);
    let version = i16::from_be_bytes([version[0], version[1]]).clamp(0, 3);
    let Ok(assignment) = ConsumerProtocolAssignment::decode(&mut bytes, version) else {
        return BTreeMap::new();
    };
    let topics = assignment.assigned_partitions.into_iter();
    topics
        .map(|topic| {
            let mut partitions = topic.partitions;
            partitions.sort_unstable();
            (topic.topic.to_string(), partitions)
        })
        .collect()
}

fn padded(cells: &[String], widths: &[usize]) -> String {
    let cells: Vec<String> = cells
        .iter()
        .zip(widths)
        .map(|(cell, &width)| format!("{cell:<width$}"))
        .collect();
    cells.join(" ").trim_end().to_owned() + "\n"
}

/// Columns of at least the given widths, as kafka-consumer-groups.sh sets them.
fn columns(headers: &[&str], least: &[usize], rows: &[Vec<String>]) -> String {
    let headers: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
    let width = |(column, &least): (usize, &usize)| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .chain([least])
            .max()
            .unwrap_or(least)
    };
    let widths: Vec<usize> = least.iter().enumerate().map(width).collect();
    std::iter::once(&headers)
        .chain(rows)
        .map(|row| padded(row, &widths))
        .collect()
}

fn members(group: &DescribedGroup, verbose: bool) -> String {
    let row = |member: &DescribedGroupMember| {
        let assignment = assignment(member);
        let count: usize = assignment.values().map(Vec::len).sum();
        let mut row = vec![
            group.group_id.to_string(),
            member.member_id.to_string(),
            member.client_host.to_string(),
            member.client_id.to_string(),
            count.to_string(),
        ];
        if verbose {
            let topics: Vec<String> = assignment
                .iter()
                .map(|(topic, partitions)| format!("{topic}:{}", join(partitions)))
                .collect();
            row.push(if topics.is_empty() {
                "-".to_owned()
            } else {
                topics.join(";")
            });
        }
        row
    };
    let rows: Vec<Vec<String>> = group.members.iter().map(row).collect();
    let headers = [
        "GROUP",
        "CONSUMER-ID",
        "HOST",
        "CLIENT-ID",
        "#PARTITIONS",
        "CURRENT-ASSIGNMENT",
    ];
    let shown = if verbose { 6 } else { 5 };
    columns(&headers[..shown], &[15, 15, 15, 15, 15, 20][..shown], &rows)
}

async fn state(client: &ClusterClient, group: &DescribedGroup, coordinator: &Client) -> Outcome<String> {
    let view = client.view(Some(&[])).await?;
    let id = view
        .brokers
        .iter()
        .find(|(_, address)| address.as_str() == coordinator.address());
    let id = id.map_or_else(|| "-".to_owned(), |(id, _)| id.to_string());
    let strategy = if group.protocol_data.is_empty() {
        "-"
    } else {
        group.protocol_data.as_str()
    };
    let row = vec![
        group.group_id.to_string(),
        format!("{}  ({id})", coordinator.address()),
        strategy.to_owned(),
        group.group_state.to_string(),
        group.members.len().to_string(),
    ];
    let headers = [
        "GROUP",
        "COORDINATOR (ID)",
        "ASSIGNMENT-STRATEGY",
        "STATE",
        "#MEMBERS",
    ];
    Ok(columns(&headers, &[15, 25, 20, 20, 8], &[row]))
}

async fn delete(client: &ClusterClient, groups: &[String]) -> Outcome {
    let mut failures = Vec::new();
    for group in groups {
        let result = client.retry(async || {
            let coordinator = client.coordinator(group).await?;
            let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(group))]);
            for result in send(&coordinator, request).await?.results {
                check(result.error_code, reason(result.error_code))?;
            }
            Ok(())
        });
        if let Err(error) = result.await {
            failures.push(format!("* Group '{group}' could not be deleted due to: {error}"));
        }
    }
    if failures.is_empty() {
        let names: Vec<String> = groups.iter().map(|group| format!("'{group}'")).collect();
        say!(
            "Deletion of requested consumer groups ({}) was successful.",
            names.join(", ")
        );
        return Ok(());
    }
    Err(CommandError::refused(format!(
        "Deletion of some consumer groups failed:\n{}",
        failures.join("\n")
    )))
}

/// A sentence for the refusals that DeleteGroups and OffsetDelete give without one.
fn reason(code: i16) -> Option<&'static str> {
    match ErrorCode::try_from_code(code)? {
        ErrorCode::NonEmptyGroup => Some("The group is not empty."),
        ErrorCode::GroupIdNotFound => Some("The group id does not exist."),
        ErrorCode::GroupSubscribedToTopic => Some("The group still reads the topic."),
        _ => None,
    }
}

/// A table whose columns are as wide as they need to be.
fn plain(headers: &[&str], rows: &[Vec<String>]) -> String {
    table::render(headers, rows, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
    use kafka_protocol::protocol::Encodable;

    fn member(partitions: Vec<i32>) -> DescribedGroupMember {
        let topic = TopicPartition::default()
            .with_topic(TopicName(text("t")))
            .with_partitions(partitions);
        let mut bytes = BytesMut::new();
        bytes.put_i16(1);
        ConsumerProtocolAssignment::default()
            .with_assigned_partitions(vec![topic])
            .encode(&mut bytes, 1)
            .expect("version 1 has these fields");
        DescribedGroupMember::default()
            .with_member_id(text("a-very-long-member-id"))
            .with_client_host(text("/127.0.0.1"))
            .with_client_id(text("c"))
            .with_member_assignment(bytes.freeze())
    }

    #[test]
    fn a_members_assignment_is_read() {
        let group = DescribedGroup::default()
            .with_group_id(GroupId(text("g")))
            .with_members(vec![member(vec![2, 0])]);
        let lines: Vec<String> = members(&group, true).lines().map(str::to_owned).collect();
        assert_eq!(
            lines[0],
            "GROUP           CONSUMER-ID           HOST            CLIENT-ID       #PARTITIONS     CURRENT-ASSIGNMENT"
        );
        assert_eq!(
            lines[1],
            "g               a-very-long-member-id /127.0.0.1      c               2               t:0,2"
        );
    }

    #[test]
    fn an_assignment_that_nobody_can_read_is_none() {
        for bytes in [&b""[..], b"\0", b"\0\x01\0\0\0\x05"] {
            let member = DescribedGroupMember::default().with_member_assignment(Bytes::from_static(bytes));
            assert!(assignment(&member).is_empty());
        }
    }
}
