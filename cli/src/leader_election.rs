//! `odradek leader-election`: what kafka-leader-election.sh does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kafka_protocol::messages::ElectLeadersRequest;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use odradek_common::error::{ApiError, ErrorCode};
use serde_json::Value;

use crate::client::{ClusterClient, Connection, topic_name};
use crate::error::{CommandError, Outcome, check};
use crate::output::say;

/// Whom to elect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
enum ElectionType {
    /// The first replica, if it is in sync.
    Preferred,
    /// Any replica that is alive, if no replica in sync is; acknowledged records may be lost.
    Unclean,
}

/// Flags of `odradek leader-election`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["all_topic_partitions", "topic", "path_to_json_file"]))]
pub struct LeaderElectionArguments {
    #[command(flatten)]
    connection: Connection,
    /// Whom to elect.
    #[arg(long, value_enum, ignore_case = true, value_name = "TYPE")]
    election_type: ElectionType,
    /// For all partitions.
    #[arg(long)]
    all_topic_partitions: bool,
    /// For one partition of this topic.
    #[arg(long, value_name = "TOPIC", requires = "partition")]
    topic: Option<String>,
    /// The partition.
    #[arg(long, value_name = "PARTITION", requires = "topic")]
    partition: Option<i32>,
    /// For the partitions of a file: {"partitions":[{"topic":"t","partition":0}]}
    #[arg(long, value_name = "FILE")]
    path_to_json_file: Option<PathBuf>,
}

/// Carries out `odradek leader-election`.
pub async fn run(arguments: LeaderElectionArguments) -> Outcome {
    let client = ClusterClient::new(&arguments.connection)?;
    let partitions = match (&arguments.topic, &arguments.path_to_json_file) {
        (Some(topic), _) => Some(vec![(topic.clone(), arguments.partition.unwrap_or_default())]),
        (None, Some(file)) => {
            let content = std::fs::read_to_string(file)
                .map_err(CommandError::io(format!("cannot read {}", file.display())))?;
            Some(parse(&content)?)
        }
        (None, None) => None,
    };
    let request = ElectLeadersRequest::default()
        .with_election_type(arguments.election_type as i8)
        .with_topic_partitions(partitions.map(grouped))
        .with_timeout_ms(client.timeout_ms());
    let response = client.ask(request).await?;
    check(response.error_code, None)?;
    let mut results = Vec::new();
    for topic in response.replica_election_results {
        for partition in topic.partition_result {
            let result = check(partition.error_code, partition.error_message.as_deref());
            results.push((
                format!("{}-{}", topic.topic.as_str(), partition.partition_id),
                result,
            ));
        }
    }
    report(arguments.election_type, &results)
}

fn grouped(partitions: Vec<(String, i32)>) -> Vec<TopicPartitions> {
    let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        topics.entry(topic).or_default().push(partition);
    }
    topics
        .into_iter()
        .map(|(topic, partitions)| {
            TopicPartitions::default()
                .with_topic(topic_name(&topic))
                .with_partitions(partitions)
        })
        .collect()
}

fn parse(content: &str) -> Outcome<Vec<(String, i32)>> {
    let bad = |what: &str| CommandError::refused(format!("the file of partitions {what}"));
    let root: Value = serde_json::from_str(content).map_err(|error| bad(&format!("is not JSON: {error}")))?;
    let entries = root["partitions"]
        .as_array()
        .ok_or_else(|| bad("has no array \"partitions\""))?;
    let entry = |entry: &Value| {
        let topic = entry["topic"].as_str()?.to_owned();
        let partition = i32::try_from(entry["partition"].as_i64()?).ok()?;
        Some((topic, partition))
    };
    entries
        .iter()
        .map(|it| entry(it).ok_or_else(|| bad(&format!("names no topic and partition in {it}"))))
        .collect()
}

fn report(election_type: ElectionType, results: &[(String, Result<(), ApiError>)]) -> Outcome {
    let named = |wanted: fn(&Result<(), ApiError>) -> bool| {
        let names: Vec<&str> = results
            .iter()
            .filter(|(_, result)| wanted(result))
            .map(|(name, _)| name.as_str())
            .collect();
        names.join(", ")
    };
    let unneeded = |result: &Result<(), ApiError>| matches!(result, Err(error) if error.code == ErrorCode::ElectionNotNeeded);
    let elected = named(Result::is_ok);
    if !elected.is_empty() {
        let kind = match election_type {
            ElectionType::Preferred => "PREFERRED",
            ElectionType::Unclean => "UNCLEAN",
        };
        say!("Successfully completed leader election ({kind}) for partitions {elected}");
    }
    let valid = named(|result| matches!(result, Err(error) if error.code == ErrorCode::ElectionNotNeeded));
    if !valid.is_empty() {
        say!("Valid replica already elected for partitions {valid}");
    }
    let failed: Vec<String> = results
        .iter()
        .filter(|(_, result)| !unneeded(result))
        .filter_map(|(name, result)| Some(format!("{name}: {}", result.as_ref().err()?.detail)))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(CommandError::refused(format!(
        "{} replica(s) could not be elected\n{}",
        failed.len(),
        failed.join("\n")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_partitions_is_read() {
        let text = r#"{"partitions":[{"topic":"t","partition":1},{"topic":"t","partition":2}]}"#;
        let topics = grouped(parse(text).expect("fits"));
        assert_eq!(topics.len(), 1);
        assert_eq!(topics[0].partitions, [1, 2]);
        assert!(parse(r#"{"partitions":[{"topic":"t"}]}"#).is_err());
    }

    #[test]
    fn an_election_that_nobody_needs_is_no_failure() {
        let unneeded = Err(ApiError::new(ErrorCode::ElectionNotNeeded, ""));
        assert!(report(ElectionType::Preferred, &[("t-0".to_owned(), unneeded)]).is_ok());
        let failed = Err(ApiError::new(ErrorCode::PreferredLeaderNotAvailable, "gone"));
        let error = report(ElectionType::Preferred, &[("t-0".to_owned(), failed)]).expect_err("failed");
        assert!(error.to_string().contains("t-0: gone"));
    }
}
