//! Tells the controller in which log directory replicas are, where its records say otherwise (KIP-858).
//!
//! Only with that it knows whose leaderships to move when a directory fails. A replica whose log failed alone, or cannot be
//! opened, is told to be in none that works, so that its own is moved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::assign_replicas_to_dirs_request::{DirectoryData, PartitionData, TopicData};
use kafka_protocol::messages::{AssignReplicasToDirsRequest, BrokerId};
use odradek_common::ids::{LOST_DIRECTORY, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::broker::Broker;
use crate::replica::Replica;
use crate::replicas::failures::LogFailures;

const ASSIGN_VERSION: i16 = 0;
/// Replicas of one request; Kafka has the same limit.
const REPLICAS_PER_REQUEST: usize = 2_250;
/// Time for one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before what was not recorded is told again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Replicas whose directory may not be what the controller has recorded, each at most once.
#[derive(Default)]
pub struct DirectoryAssignments {
    candidates: Mutex<BTreeMap<TopicPartition, Candidate>>,
    wake: Notify,
}

/// What the controller may have to be told about.
#[derive(Clone)]
pub(crate) enum Candidate {
    Replica(Arc<Replica>),
    /// The log of a topic with this id is damaged so that it cannot be opened.
    Unopened(Uuid),
}

impl Candidate {
    fn topic_id(&self) -> Uuid {
        match self {
            Self::Replica(replica) => replica.topic_id,
            Self::Unopened(topic_id) => *topic_id,
        }
    }

    fn directory(&self) -> Uuid {
        match self {
            Self::Replica(replica) => replica.assigned_directory(),
            Self::Unopened(_) => LOST_DIRECTORY,
        }
    }

    /// Whether the controller's records, as far as this node has them, say something else.
    fn is_news(&self, node_id: i32, partition: i32, failures: &LogFailures) -> bool {
        match self {
            Self::Replica(replica) => {
                !replica.is_closed() && replica.image().directory_of(node_id) != replica.assigned_directory()
            }
            // It may be open by now, or have left this broker.
            Self::Unopened(topic_id) => failures.is_unapplied(*topic_id, partition),
        }
    }
}

/// Candidates on their way to the controller.
pub(crate) type Batch = Vec<(TopicPartition, Candidate)>;

/// Replicas by directory and topic.
type Told = BTreeMap<Uuid, BTreeMap<Uuid, BTreeSet<i32>>>;

impl DirectoryAssignments {
    /// The controller's records name another directory for this replica, or none.
    pub fn add(&self, replica: &Arc<Replica>) {
        self.insert(replica.id.clone(), Candidate::Replica(replica.clone()));
    }

    /// The log of a replica cannot be opened, and the controller has not recorded that.
    pub fn add_unopened(&self, id: TopicPartition, topic_id: Uuid) {
        self.insert(id, Candidate::Unopened(topic_id));
    }

    fn insert(&self, id: TopicPartition, candidate: Candidate) {
        self.candidates.lock().insert(id, candidate);
        self.wake.notify_one();
    }

    /// Tells what is to be told, for ever.
    pub async fn run(self: Arc<Self>, broker: Arc<Broker>) {
        loop {
            self.wake.notified().await;
            loop {
                let batch = self.take(broker.node_id, broker.replicas.failures());
                if batch.is_empty() {
                    break;
                }
                if !send(&broker, &batch).await {
                    self.give_back(batch);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Some of those that are still in another directory than is recorded.
    pub(crate) fn take(&self, node_id: i32, failures: &LogFailures) -> Batch {
        let mut candidates = self.candidates.lock();
        let mut batch = Batch::new();
        while batch.len() < REPLICAS_PER_REQUEST {
            let Some((id, candidate)) = candidates.pop_first() else {
                break;
            };
            if candidate.is_news(node_id, id.partition, failures) {
                batch.push((id, candidate));
            }
        }
        batch
    }

    fn give_back(&self, batch: Batch) {
        let mut candidates = self.candidates.lock();
        for (id, candidate) in batch {
            // A recreated topic's replica has taken its place meanwhile.
            candidates.entry(id).or_insert(candidate);
        }
    }
}

/// Whether the controller has answered for each replica; one that it refused is told again when the metadata changes.
async fn send(broker: &Broker, batch: &Batch) -> bool {
    let request = AssignReplicasToDirsRequest::default()
        .with_broker_id(BrokerId(broker.node_id))
        .with_broker_epoch(broker.epoch())
        .with_directories(directories(batch));
    match broker.controller.send(ASSIGN_VERSION, &request, TIMEOUT).await {
        Ok(response) if response.error_code == 0 => {
            slog::info!(broker.log, "log directories of replicas recorded"; "replicas" => batch.len());
            true
        }
        Ok(response) => {
            slog::warn!(broker.log, "log directories of replicas not recorded"; "error" => response.error_code);
            false
        }
        Err(error) => {
            slog::warn!(broker.log, "log directories of replicas not recorded"; "error" => %error);
            false
        }
    }
}

/// These replicas by their log directories.
pub(crate) fn directories(batch: &Batch) -> Vec<DirectoryData> {
    let mut told = Told::new();
    for (id, candidate) in batch {
        let topics = told.entry(candidate.directory()).or_default();
        topics
            .entry(candidate.topic_id())
            .or_default()
            .insert(id.partition);
    }
    let directories = told.into_iter().map(|(id, topics)| {
        let topics = topics.into_iter().map(|(topic_id, partitions)| {
            let partitions = partitions
                .into_iter()
                .map(|index| PartitionData::default().with_partition_index(index));
            TopicData::default()
                .with_topic_id(topic_id)
                .with_partitions(partitions.collect())
        });
        DirectoryData::default().with_id(id).with_topics(topics.collect())
    });
    directories.collect()
}
