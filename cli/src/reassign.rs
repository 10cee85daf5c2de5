//! `odradek reassign`: what kafka-reassign-partitions.sh does, with its JSON files, without throttles.

mod log_dirs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::list_partition_reassignments_response::OngoingPartitionReassignment;
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, ListPartitionReassignmentsRequest};
use serde_json::Value;

use crate::client::{ClusterClient, ClusterView, Connection, join, topic_name, unique};
use crate::error::{CommandError, Outcome, check};
use crate::output::{say, say_text};
use log_dirs::{Moves, Replica};

/// Flags of `odradek reassign`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("action").required(true).args(["execute", "verify", "list", "cancel"]))]
pub struct ReassignArguments {
    #[command(flatten)]
    connection: Connection,
    /// Starts the reassignments of the file.
    #[arg(long, requires = "reassignment_json_file")]
    execute: bool,
    /// Says which reassignments of the file are completed.
    #[arg(long, requires = "reassignment_json_file")]
    verify: bool,
    /// Lists the reassignments under way.
    #[arg(long)]
    list: bool,
    /// Cancels the reassignments of the file that are under way.
    #[arg(long, requires = "reassignment_json_file")]
    cancel: bool,
    /// {"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[1,2],"log_dirs":["any","/data/2"]}]}; log_dirs may be left out
    #[arg(long, value_name = "FILE")]
    reassignment_json_file: Option<PathBuf>,
    /// Also executes while other reassignments are under way.
    #[arg(long)]
    additional: bool,
    /// How long to wait, in milliseconds, for brokers to hold the replicas that are to go to a log directory of theirs.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    timeout: u64,
    /// Leaves throttles as they are; there are none here.
    #[arg(long, hide = true)]
    preserve_throttles: bool,
}

type Assignment = BTreeMap<(String, i32), Vec<i32>>;
/// What a file asks for.
#[derive(Debug, Default, PartialEq)]
struct Wanted {
    assignment: Assignment,
    /// Of replicas for which it names a directory.
    moves: Moves,
}

type Ongoing = BTreeMap<(String, i32), OngoingPartitionReassignment>;

/// Carries out `odradek reassign`.
pub async fn run(arguments: ReassignArguments) -> Outcome {
    let client = ClusterClient::new(&arguments.connection)?;
    let wanted = match &arguments.reassignment_json_file {
        Some(file) => {
            let content = std::fs::read_to_string(file)
                .map_err(CommandError::io(format!("cannot read {}", file.display())))?;
            parse(&content)?
        }
        None => Wanted::default(),
    };
    let limit = Duration::from_millis(arguments.timeout);
    if arguments.list {
        say_text!("{}", listing(&ongoing(&client).await?));
        Ok(())
    } else if arguments.execute {
        execute(&client, &wanted.assignment, arguments.additional).await?;
        log_dirs::start(&client, &wanted.moves, limit).await
    } else if arguments.verify {
        verify(&client, &wanted.assignment).await?;
        log_dirs::verify(&client, &wanted.moves).await
    } else {
        cancel(&client, &wanted.assignment).await?;
        log_dirs::cancel(&client, &wanted.moves, limit).await
    }
}

/// Reads the JSON of --reassignment-json-file.
fn parse(content: &str) -> Outcome<Wanted> {
    let bad = |what: &str| CommandError::refused(format!("the reassignment file {what}"));
    let root: Value = serde_json::from_str(content).map_err(|error| bad(&format!("is not JSON: {error}")))?;
    let partitions = root["partitions"]
        .as_array()
        .ok_or_else(|| bad("has no array \"partitions\""))?;
    let mut wanted = Wanted::default();
    for entry in partitions {
        let id = |value: &Value| value.as_i64().and_then(|id| i32::try_from(id).ok());
        let topic = entry["topic"]
            .as_str()
            .ok_or_else(|| bad(&format!("names no topic in {entry}")))?;
        let partition =
            id(&entry["partition"]).ok_or_else(|| bad(&format!("names no partition in {entry}")))?;
        let replicas: Option<Vec<i32>> = entry["replicas"]
            .as_array()
            .and_then(|all| all.iter().map(id).collect());
        let replicas = replicas
            .filter(|it| !it.is_empty())
            .ok_or_else(|| bad(&format!("names no replicas in {entry}")))?;
        let distinct: std::collections::BTreeSet<_> = replicas.iter().collect();
        if distinct.len() != replicas.len() {
            return Err(bad(&format!(
                "names a broker twice for {topic}-{partition}: {}",
                join(&replicas)
            )));
        }
        let directories = directories(&entry["log_dirs"], replicas.len())
            .map_err(|reason| bad(&format!("{reason} in {entry}")))?;
        for (broker_id, directory) in replicas.iter().zip(directories) {
            let replica = Replica {
                broker_id: *broker_id,
                topic: topic.to_owned(),
                partition,
            };
            if directory != log_dirs::ANY {
                wanted.moves.insert(replica, directory);
            }
        }
        let key = (topic.to_owned(), partition);
        if wanted.assignment.insert(key, replicas).is_some() {
            return Err(bad(&format!("contains multiple entries for {topic}-{partition}")));
        }
    }
    if wanted.assignment.is_empty() {
        return Err(bad("names no partitions"));
    }
    Ok(wanted)
}

/// The directories for so many replicas, one each; none if there is no such field.
fn directories(field: &Value, replicas: usize) -> Result<Vec<String>, String> {
    if field.is_null() {
        return Ok(Vec::new());
    }
    let texts = field.as_array().and_then(|all| {
        let texts = all.iter().map(|one| one.as_str().map(str::to_owned));
        texts.collect::<Option<Vec<_>>>()
    });
    let texts = texts.ok_or("has log_dirs that are no array of paths")?;
    if texts.len() != replicas {
        return Err(format!(
            "has {replicas} replicas and {} log_dirs: there is one for each, \"{}\" for whichever",
            texts.len(),
            log_dirs::ANY
        ));
    }
    Ok(texts)
}

async fn ongoing(client: &ClusterClient) -> Outcome<Ongoing> {
    let request = ListPartitionReassignmentsRequest::default()
        .with_topics(None)
        .with_timeout_ms(client.timeout_ms());
    let response = client.ask(request).await?;
    check(response.error_code, response.error_message.as_deref())?;
    let mut ongoing = Ongoing::new();
    for topic in response.topics {
        for partition in topic.partitions {
            ongoing.insert((topic.name.to_string(), partition.partition_index), partition);
        }
    }
    Ok(ongoing)
}

fn listing(ongoing: &Ongoing) -> String {
    if ongoing.is_empty() {
        return "No partition reassignments found.\n".to_owned();
    }
    let mut text = "Current partition reassignments:\n".to_owned();
    for ((topic, partition), it) in ongoing {
        text.push_str(&format!(
            "{topic}-{partition}: replicas: {}.",
            join(it.replicas.iter().map(|id| id.0))
        ));
        for (what, brokers) in [
            ("adding", &it.adding_replicas),
            ("removing", &it.removing_replicas),
        ] {
            if !brokers.is_empty() {
                text.push_str(&format!(" {what}: {}.", join(brokers.iter().map(|id| id.0))));
            }
        }
        text.push('\n');
    }
    text
}

/// The topics of an assignment as they are now; an unknown partition is refused.
async fn view_of(client: &ClusterClient, wanted: &Assignment) -> Outcome<(ClusterView, Assignment)> {
    let names = unique(wanted.keys().map(|(topic, _)| topic.as_str()));
    let view = client.view(Some(&names)).await?;
    let mut current = Assignment::new();
    for (topic, partition) in wanted.keys() {
        let known = view.topic(topic).ok().and_then(|known| {
            known
                .partitions
                .iter()
                .find(|it| it.partition_index == *partition)
        });
        let known = known
            .ok_or_else(|| CommandError::refused(format!("Unable to find partition: {topic}-{partition}")))?;
        let replicas = known.replica_nodes.iter().map(|id| id.0).collect();
        current.insert((topic.clone(), *partition), replicas);
    }
    Ok((view, current))
}

/// The JSON of an assignment, with the fields in Kafka's order.
fn to_json(assignment: &Assignment) -> String {
    let partition = |((topic, partition), replicas): (&(String, i32), &Vec<i32>)| {
        let (topic, replicas) = (Value::from(topic.as_str()), join(replicas));
        format!("{{\"topic\":{topic},\"partition\":{partition},\"replicas\":[{replicas}]}}")
    };
    format!(
        "{{\"version\":1,\"partitions\":[{}]}}",
        join(assignment.iter().map(partition))
    )
}

fn names<'a>(partitions: impl Iterator<Item = &'a (String, i32)>) -> String {
    join(partitions.map(|(topic, partition)| format!("{topic}-{partition}")))
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

async fn execute(client: &ClusterClient, wanted: &Assignment, additional: bool) -> Outcome {
    let (view, current) = view_of(client, wanted).await?;
    let unknown = wanted
        .values()
        .flatten()
        .find(|id| !view.brokers.contains_key(id));
    if let Some(id) = unknown {
        return Err(CommandError::refused(format!("Unknown broker id {id}")));
    }
    if !additional && !ongoing(client).await?.is_empty() {
        return Err(CommandError::refused(
            "Cannot execute because there is an existing partition assignment. Use --additional to override this and \
             create a new partition assignment in addition to the existing one.",
        ));
    }
    say!("Current partition replica assignment\n\n{}\n", to_json(&current));
    say!("Save this to use as the --reassignment-json-file option during rollback");
    let replicas = wanted
        .iter()
        .map(|(key, replicas)| (key, Some(replicas.as_slice())));
    alter(client, replicas, "Error reassigning partition(s):").await?;
    say!(
        "Successfully started partition reassignment{} for {}",
        plural(wanted.len()),
        names(wanted.keys())
    );
    Ok(())
}

async fn alter<'a>(
    client: &ClusterClient,
    partitions: impl Iterator<Item = (&'a (String, i32), Option<&'a [i32]>)>,
    failure: &str,
) -> Outcome {
    let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
    for ((topic, partition), replicas) in partitions {
        let replicas = replicas.map(|replicas| replicas.iter().map(|&id| id.into()).collect());
        let wanted = ReassignablePartition::default()
            .with_partition_index(*partition)
            .with_replicas(replicas);
        topics.entry(topic).or_default().push(wanted);
    }
    let topic = |(name, partitions)| {
        ReassignableTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions)
    };
    let request = AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(client.timeout_ms())
        .with_topics(topics.into_iter().map(topic).collect());
    let response = client.ask(request).await?;
    check(response.error_code, response.error_message.as_deref())?;
    let mut failures = Vec::new();
    for topic in &response.responses {
        for partition in &topic.partitions {
            if let Err(error) = check(partition.error_code, partition.error_message.as_deref()) {
                failures.push(format!(
                    "{}-{}: {}",
                    topic.name.as_str(),
                    partition.partition_index,
                    error.detail
                ));
            }
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(CommandError::refused(format!(
        "{failure}\n{}",
        failures.join("\n")
    )))
}

async fn verify(client: &ClusterClient, wanted: &Assignment) -> Outcome {
    let ongoing = ongoing(client).await?;
    let (_, current) = view_of(client, wanted).await?;
    say!("Status of partition reassignment:");
    for (key, replicas) in wanted {
        say!("{}", progress(key, replicas, ongoing.get(key), current.get(key)));
    }
    Ok(())
}

fn progress(
    (topic, partition): &(String, i32),
    wanted: &[i32],
    ongoing: Option<&OngoingPartitionReassignment>,
    current: Option<&Vec<i32>>,
) -> String {
    if ongoing.is_some() {
        return format!("Reassignment of partition {topic}-{partition} is still in progress.");
    }
    match current {
        Some(current) if current == wanted => {
            format!("Reassignment of partition {topic}-{partition} is completed.")
        }
        current => format!(
            "There is no active reassignment of partition {topic}-{partition}, but replica set is {} rather than {}.",
            current.map(join).unwrap_or_default(),
            join(wanted)
        ),
    }
}

async fn cancel(client: &ClusterClient, wanted: &Assignment) -> Outcome {
    let ongoing = ongoing(client).await?;
    let active: Vec<&(String, i32)> = wanted.keys().filter(|key| ongoing.contains_key(key)).collect();
    if active.is_empty() {
        say!("None of the specified partition reassignments are active.");
        return Ok(());
    }
    let none = active.iter().map(|key| (*key, None));
    alter(client, none, "Error cancelling partition reassignment(s):").await?;
    say!(
        "Successfully cancelled partition reassignment{} for: {}",
        plural(active.len()),
        names(active.into_iter())
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_written() {
        let text = r#"{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[3,1],"log_dirs":["any","/d2"]}]}"#;
        let wanted = parse(text).expect("fits");
        let assignment = Assignment::from([(("t".to_owned(), 0), vec![3, 1])]);
        assert_eq!(wanted.assignment, assignment);
        let replica = Replica {
            broker_id: 1,
            topic: "t".to_owned(),
            partition: 0,
        };
        assert_eq!(wanted.moves, Moves::from([(replica, "/d2".to_owned())]));
        let again = parse(&to_json(&assignment)).expect("fits");
        assert_eq!((again.assignment, again.moves), (assignment, Moves::new()));
    }

    #[test]
    fn a_file_that_contradicts_itself_is_refused() {
        for (text, word) in [
            ("{", "not JSON"),
            ("{}", "partitions"),
            (r#"{"partitions":[]}"#, "names no partitions"),
            (
                r#"{"partitions":[{"topic":"t","partition":0,"replicas":[]}]}"#,
                "no replicas",
            ),
            (
                r#"{"partitions":[{"topic":"t","partition":0,"replicas":[1,1]}]}"#,
                "twice",
            ),
            (
                r#"{"partitions":[{"topic":"t","partition":0,"replicas":[1]},{"topic":"t","partition":0,"replicas":[2]}]}"#,
                "multiple entries",
            ),
            (
                r#"{"partitions":[{"topic":"t","partition":0,"replicas":[1,2],"log_dirs":["any"]}]}"#,
                "2 replicas and 1 log_dirs",
            ),
            (
                r#"{"partitions":[{"topic":"t","partition":0,"replicas":[1],"log_dirs":[7]}]}"#,
                "no array of paths",
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn progress_tells_completed_from_given_up() {
        let key = ("t".to_owned(), 0);
        let ongoing = OngoingPartitionReassignment::default();
        assert!(progress(&key, &[1], Some(&ongoing), Some(&vec![1])).ends_with("still in progress."));
        assert!(progress(&key, &[1], None, Some(&vec![1])).ends_with("is completed."));
        assert!(progress(&key, &[1], None, Some(&vec![2, 1])).ends_with("is 2,1 rather than 1."));
    }
}
