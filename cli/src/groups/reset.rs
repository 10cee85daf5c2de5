//! `odradek groups --reset-offsets`.

use std::collections::BTreeMap;

use clap::Args;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest};
use odradek_net::client::Client;

use super::{GroupsArguments, columns, described, offsets};
use crate::client::{ClusterClient, EARLIEST, LATEST, send_at_most, text, topic_name};
use crate::error::{CommandError, Outcome, check};
use crate::output::say_text;

/// The last version of OffsetCommit that names topics by name.
const COMMIT_BY_NAME_UNTIL: i16 = 9;

/// Where to.
#[derive(Debug, Default, Args)]
#[command(group = clap::ArgGroup::new("where_to").args(["to_earliest", "to_latest", "to_current", "to_offset", "shift_by"]))]
pub(super) struct ResetArguments {
    /// To the first offsets.
    #[arg(long)]
    to_earliest: bool,
    /// To the end of the logs.
    #[arg(long)]
    to_latest: bool,
    /// To the offsets that are committed now.
    #[arg(long)]
    to_current: bool,
    /// To this offset.
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// By so many offsets; negative to go back.
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    shift_by: Option<i64>,
    /// Sets the offsets.
    #[arg(long, conflicts_with = "dry_run")]
    execute: bool,
    /// Only shows what the offsets would be; so it is without --execute.
    #[arg(long)]
    dry_run: bool,
}

type Offsets = BTreeMap<(String, i32), i64>;

pub(super) async fn run(client: &ClusterClient, groups: &[String], arguments: &GroupsArguments) -> Outcome {
    for group in groups {
        let coordinator = client.coordinator(group).await?;
        if let Ok((found, _)) = described(client, group).await
            && !found.members.is_empty()
        {
            return Err(CommandError::refused(format!(
                "Assignments can only be reset if the group '{group}' is inactive, but the current state is {}.",
                found.group_state.as_str()
            )));
        }
        let committed = client
            .retry(async || offsets::committed(&coordinator, group).await)
            .await?;
        let partitions = if arguments.all_topics {
            committed.keys().cloned().collect()
        } else if arguments.topic.is_empty() {
            return Err(CommandError::refused("one of --topic and --all-topics is needed"));
        } else {
            offsets::partitions(client, &arguments.topic).await?
        };
        let targets = targets(client, &arguments.reset, &partitions, &committed).await?;
        if arguments.reset.execute {
            commit(&coordinator, group, &targets).await?;
        }
        say_text!("{}", rendered(group, &targets));
    }
    Ok(())
}

async fn targets(
    client: &ClusterClient,
    reset: &ResetArguments,
    partitions: &[(String, i32)],
    committed: &Offsets,
) -> Outcome<Offsets> {
    let first = client.offsets(partitions, EARLIEST).await?;
    let end = client.offsets(partitions, LATEST).await?;
    let mut targets = Offsets::new();
    for key in partitions {
        let (Some(&first), Some(&end)) = (first.get(key), end.get(key)) else {
            return Err(CommandError::refused(format!(
                "the offsets of {}-{} are not known now",
                key.0, key.1
            )));
        };
        let current = committed.get(key).copied();
        targets.insert(key.clone(), target(reset, first, end, current)?);
    }
    Ok(targets)
}

/// The new offset of one partition, inside its log.
fn target(reset: &ResetArguments, first: i64, end: i64, current: Option<i64>) -> Outcome<i64> {
    let target = match reset {
        ResetArguments {
            to_earliest: true, ..
        } => first,
        ResetArguments { to_latest: true, .. } => end,
        ResetArguments { to_current: true, .. } => current.unwrap_or(end),
        ResetArguments {
            to_offset: Some(offset),
            ..
        } => *offset,
        ResetArguments {
            shift_by: Some(count),
            ..
        } => {
            let current = current.ok_or_else(|| {
                CommandError::refused("--shift-by goes from committed offsets, and a partition has none")
            })?;
            current.saturating_add(*count)
        }
        ResetArguments { .. } => {
            return Err(CommandError::refused(
                "say where to: --to-earliest, --to-latest, --to-current, --to-offset or --shift-by",
            ));
        }
    };
    Ok(target.clamp(first, end))
}

async fn commit(coordinator: &Client, group: &str, targets: &Offsets) -> Outcome {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for ((topic, partition), offset) in targets {
        let wanted = OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(text("")));
        topics.entry(topic).or_default().push(wanted);
    }
    let topic = |(name, partitions)| {
        OffsetCommitRequestTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions)
    };
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(topics.into_iter().map(topic).collect());
    let response = send_at_most(coordinator, COMMIT_BY_NAME_UNTIL, request).await?;
    for topic in &response.topics {
        for partition in &topic.partitions {
            check(partition.error_code, None)?;
        }
    }
    Ok(())
}

fn rendered(group: &str, targets: &Offsets) -> String {
    let row = |((topic, partition), offset): (&(String, i32), &i64)| {
        vec![
            group.to_owned(),
            topic.clone(),
            partition.to_string(),
            offset.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = targets.iter().map(row).collect();
    format!(
        "\n{}",
        columns(
            &["GROUP", "TOPIC", "PARTITION", "NEW-OFFSET"],
            &[15, 15, 10, 15],
            &rows
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_stays_inside_the_log() {
        let reset = |change: fn(&mut ResetArguments)| {
            let mut reset = ResetArguments::default();
            change(&mut reset);
            reset
        };
        let at = |reset: &ResetArguments, current| target(reset, 10, 20, current).ok();
        assert_eq!(at(&reset(|it| it.to_earliest = true), None), Some(10));
        assert_eq!(at(&reset(|it| it.to_latest = true), None), Some(20));
        assert_eq!(at(&reset(|it| it.to_current = true), Some(15)), Some(15));
        assert_eq!(at(&reset(|it| it.to_offset = Some(99)), None), Some(20));
        let back = reset(|it| it.shift_by = Some(-3));
        assert_eq!(at(&back, Some(15)), Some(12));
        assert_eq!(at(&back, Some(11)), Some(10));
        assert_eq!(at(&back, None), None);
        assert_eq!(at(&ResetArguments::default(), Some(15)), None);
    }
}
