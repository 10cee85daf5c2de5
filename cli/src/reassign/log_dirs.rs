//! The `log_dirs` of a reassignment file: moves between the log directories of one broker.
//!
//! A broker that does not hold a replica yet notes where it is to go, answers REPLICA_NOT_AVAILABLE, and is asked again until it holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use kafka_protocol::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
};
use odradek_common::error::ErrorCode;
use tokio::time::{Instant, sleep};

use super::plural;
use crate::client::{ClusterClient, join, send, text, topic_name};
use crate::error::{CommandError, Outcome, check};
use crate::output::say;

/// What stands in a file for a directory that the broker is to choose.
pub const ANY: &str = "any";
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// A replica on a broker, in the order in which Kafka's tool lists them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    pub broker_id: i32,
    pub topic: String,
    pub partition: i32,
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.topic, self.partition, self.broker_id)
    }
}

/// Where replicas are to be.
pub type Moves = BTreeMap<Replica, String>;

/// Where a replica is, and where it is going.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    current: Option<String>,
    future: Option<String>,
}

/// Starts the moves; waits for brokers that do not hold a replica yet.
pub async fn start(client: &ClusterClient, moves: &Moves, limit: Duration) -> Outcome {
    let until = Instant::now() + limit;
    let mut pending = moves.clone();
    while !pending.is_empty() {
        let (started, failures) = ask(client, &pending).await;
        if !started.is_empty() {
            say!(
                "Successfully started log directory move{} for: {}",
                plural(started.len()),
                join(&started)
            );
        }
        if !failures.is_empty() {
            return Err(CommandError::refused(failures.join("\n")));
        }
        pending.retain(|replica, _| !started.contains(replica));
        if !pending.is_empty() && Instant::now() >= until {
            return Err(CommandError::refused(format!(
                "Timed out before log directory move{} could be started for: {}",
                plural(pending.len()),
                join(pending.keys())
            )));
        }
        if !pending.is_empty() {
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Asks each broker once; the replicas whose moves have started, and what failed.
async fn ask(client: &ClusterClient, moves: &Moves) -> (BTreeSet<Replica>, Vec<String>) {
    let (mut started, mut failures) = (BTreeSet::new(), Vec::new());
    for (broker_id, moves) in by_broker(moves) {
        let answer = async { send(&*client.broker(broker_id).await?, request(&moves)).await };
        match answer.await {
            Ok(response) => sort(broker_id, response, &moves, &mut started, &mut failures),
            Err(error) => failures.push(format!("Failed to alter dirs of broker {broker_id}: {error}")),
        }
    }
    (started, failures)
}

/// Sorts what a broker answered; in neither list are replicas that it does not hold yet.
fn sort(
    broker_id: i32,
    response: AlterReplicaLogDirsResponse,
    moves: &BTreeMap<&Replica, &str>,
    started: &mut BTreeSet<Replica>,
    failures: &mut Vec<String>,
) {
    for topic in response.results {
        for partition in topic.partitions {
            let replica = Replica {
                broker_id,
                topic: topic.topic_name.to_string(),
                partition: partition.partition_index,
            };
            match check(partition.error_code, None) {
                Ok(()) => _ = started.insert(replica),
                Err(error) if error.code == ErrorCode::ReplicaNotAvailable => {}
                Err(error) => {
                    let directory = moves.get(&replica).copied().unwrap_or_default();
                    failures.push(format!(
                        "Failed to alter dir for {replica} to {directory}: {}",
                        error.detail
                    ));
                }
            }
        }
    }
}

fn by_broker(moves: &Moves) -> BTreeMap<i32, BTreeMap<&Replica, &str>> {
    let mut brokers: BTreeMap<i32, BTreeMap<&Replica, &str>> = BTreeMap::new();
    for (replica, directory) in moves {
        let moves = brokers.entry(replica.broker_id).or_default();
        moves.insert(replica, directory);
    }
    brokers
}

fn request(moves: &BTreeMap<&Replica, &str>) -> AlterReplicaLogDirsRequest {
    let mut directories: BTreeMap<&str, BTreeMap<&str, Vec<i32>>> = BTreeMap::new();
    for (replica, directory) in moves {
        let topics = directories.entry(directory).or_default();
        topics.entry(&replica.topic).or_default().push(replica.partition);
    }
    let directory = |(path, topics): (&str, BTreeMap<&str, Vec<i32>>)| {
        let topic = |(name, partitions)| {
            AlterReplicaLogDirTopic::default()
                .with_name(topic_name(name))
                .with_partitions(partitions)
        };
        AlterReplicaLogDir::default()
            .with_path(text(path))
            .with_topics(topics.into_iter().map(topic).collect())
    };
    AlterReplicaLogDirsRequest::default().with_dirs(directories.into_iter().map(directory).collect())
}

/// Says how far the moves are.
pub async fn verify(client: &ClusterClient, moves: &Moves) -> Outcome {
    let places = places(client, moves).await?;
    for (replica, directory) in moves {
        say!("{}", progress(replica, directory, places.get(replica)));
    }
    Ok(())
}

/// Has replicas stay where they are that are on their way.
pub async fn cancel(client: &ClusterClient, moves: &Moves, limit: Duration) -> Outcome {
    let places = places(client, moves).await?;
    let under_way = places.into_iter().filter(|(_, place)| place.future.is_some());
    let back: Moves = under_way
        .filter_map(|(replica, place)| Some((replica, place.current?)))
        .collect();
    if back.is_empty() {
        say!("None of the specified partition moves are active.");
        return Ok(());
    }
    start(client, &back, limit).await
}

/// Where each of these replicas is; those of a broker that is gone are left out.
async fn places(client: &ClusterClient, moves: &Moves) -> Outcome<BTreeMap<Replica, Place>> {
    let mut places = BTreeMap::new();
    if moves.is_empty() {
        return Ok(places);
    }
    let brokers = client.view(Some(&[])).await?.brokers;
    for (broker_id, moves) in by_broker(moves) {
        let Some(address) = brokers.get(&broker_id) else {
            continue;
        };
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for replica in moves.keys() {
            topics.entry(&replica.topic).or_default().push(replica.partition);
        }
        let topic = |(name, partitions)| {
            DescribableLogDirTopic::default()
                .with_topic(topic_name(name))
                .with_partitions(partitions)
        };
        let request =
            DescribeLogDirsRequest::default().with_topics(Some(topics.into_iter().map(topic).collect()));
        let response = send(&*client.at(address).await?, request).await?;
        check(response.error_code, None)?;
        note(&mut places, broker_id, response);
    }
    Ok(places)
}

fn note(places: &mut BTreeMap<Replica, Place>, broker_id: i32, response: DescribeLogDirsResponse) {
    for directory in response.results {
        for topic in directory.topics {
            for partition in topic.partitions {
                let replica = Replica {
                    broker_id,
                    topic: topic.name.to_string(),
                    partition: partition.partition_index,
                };
                let place = places.entry(replica).or_default();
                let end = if partition.is_future_key {
                    &mut place.future
                } else {
                    &mut place.current
                };
                *end = Some(directory.log_dir.to_string());
            }
        }
    }
}

fn progress(replica: &Replica, directory: &str, place: Option<&Place>) -> String {
    let (partition, broker_id) = (
        format!("{}-{}", replica.topic, replica.partition),
        replica.broker_id,
    );
    let Some(Place {
        current: Some(current),
        future,
    }) = place
    else {
        return format!(
            "Partition {partition} is not found in any live log dir on broker {broker_id}. There is likely an offline log \
             directory on the broker."
        );
    };
    match future {
        Some(future) if future == directory => {
            format!("Reassignment of replica {replica} is still in progress.")
        }
        Some(future) => format!(
            "Partition {partition} on broker {broker_id} is being moved to log dir {future} instead of {directory}."
        ),
        None if current == directory => format!("Reassignment of replica {replica} completed successfully."),
        None => format!(
            "Partition {partition} on broker {broker_id} is not being moved from log dir {current} to {directory}."
        ),
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::alter_replica_log_dirs_response::{
        AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
    };

    use super::*;

    fn replica(broker_id: i32, topic: &str, partition: i32) -> Replica {
        let topic = topic.to_owned();
        Replica {
            broker_id,
            topic,
            partition,
        }
    }

    #[test]
    fn each_broker_is_asked_for_its_own_replicas_by_directory() {
        let moves: Moves = [
            (replica(1, "t", 0), "/a"),
            (replica(1, "t", 1), "/b"),
            (replica(1, "u", 0), "/a"),
            (replica(2, "t", 0), "/c"),
        ]
        .map(|(replica, directory)| (replica, directory.to_owned()))
        .into();
        let brokers = by_broker(&moves);
        assert_eq!(brokers.keys().collect::<Vec<_>>(), [&1, &2]);
        let asked = request(&brokers[&1]);
        let mut shown = Vec::new();
        for directory in &asked.dirs {
            for topic in &directory.topics {
                let (path, name) = (directory.path.as_str(), topic.name.as_str());
                shown.push((path, name, topic.partitions.as_slice()));
            }
        }
        assert_eq!(
            shown,
            [("/a", "t", &[0][..]), ("/a", "u", &[0]), ("/b", "t", &[1])]
        );
    }

    #[test]
    fn a_replica_that_is_not_there_yet_has_neither_started_nor_failed() {
        let partition = |index: i32, code: i16| {
            AlterReplicaLogDirPartitionResult::default()
                .with_partition_index(index)
                .with_error_code(code)
        };
        let codes = [
            partition(0, 0),
            partition(1, ErrorCode::ReplicaNotAvailable.code()),
            partition(2, ErrorCode::LogDirNotFound.code()),
        ];
        let topic = AlterReplicaLogDirTopicResult::default()
            .with_topic_name(topic_name("t"))
            .with_partitions(codes.into());
        let response = AlterReplicaLogDirsResponse::default().with_results(vec![topic]);
        let nowhere = replica(1, "t", 2);
        let (mut started, mut failures) = (BTreeSet::new(), Vec::new());
        let moves = BTreeMap::from([(&nowhere, "/nowhere")]);
        sort(1, response, &moves, &mut started, &mut failures);
        assert_eq!(started, [replica(1, "t", 0)].into());
        assert_eq!(failures.len(), 1);
        assert!(
            failures[0].starts_with("Failed to alter dir for t-2-1 to /nowhere: "),
            "{failures:?}"
        );
    }

    #[test]
    fn progress_is_told_in_kafkas_words() {
        let at = |current: &str, future: Option<&str>| Place {
            current: Some(current.to_owned()),
            future: future.map(str::to_owned),
        };
        let told = |place: Option<Place>| progress(&replica(7, "t", 3), "/b", place.as_ref());
        assert_eq!(
            told(Some(at("/b", None))),
            "Reassignment of replica t-3-7 completed successfully."
        );
        assert_eq!(
            told(Some(at("/a", Some("/b")))),
            "Reassignment of replica t-3-7 is still in progress."
        );
        assert_eq!(
            told(Some(at("/a", Some("/c")))),
            "Partition t-3 on broker 7 is being moved to log dir /c instead of /b."
        );
        assert_eq!(
            told(Some(at("/a", None))),
            "Partition t-3 on broker 7 is not being moved from log dir /a to /b."
        );
        let missing = "Partition t-3 is not found in any live log dir on broker 7. There is likely an offline log directory on \
                       the broker.";
        assert_eq!(told(None), missing);
        assert_eq!(told(Some(Place::default())), missing);
    }
}
