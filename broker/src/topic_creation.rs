//! Topics that nobody asked for by CreateTopics: auto-created ones and the internal ones.
//!
//! The active controller creates them, once, whoever asks (KIP-590): a broker that comes second is told that the topic exists.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use odradek_common::error::ErrorCode;
use odradek_common::topic_name::problem as topic_name_problem;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::broker::Broker;
use crate::names::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC, text, topic_name};

/// How long a request waits for the topics that it had created.
const CREATION_WAIT: Duration = Duration::from_secs(5);
/// Creations under way at once; beyond, clients try again.
const CREATIONS_MAX: usize = 1000;

/// Creations under way, by topic.
#[derive(Default)]
pub struct TopicCreation {
    under_way: Mutex<BTreeMap<String, watch::Receiver<()>>>,
}

/// Begins to create topics that a client named and nobody has created, if the configuration allows. As in Kafka the client is told
/// meanwhile that there is no such topic, and asks again: one that has just deleted a topic sees that it is gone.
pub fn begin_auto_creation(broker: &Arc<Broker>, names: &[String]) {
    if names.is_empty() || !broker.config.load().topics.auto_create {
        return;
    }
    for name in names.iter().filter(|name| topic_name_problem(name).is_none()) {
        _ = create(broker, name);
    }
}

/// Creates an internal topic if it is absent, and waits for it.
pub async fn ensure_internal(broker: &Arc<Broker>, name: &str) {
    if broker.image().topic(name).is_some() {
        return;
    }
    if let Some(mut wait) = create(broker, name) {
        // Over when the sender is dropped: created, refused or timed out; the image tells which.
        _ = wait.changed().await;
    }
}

/// Begins to create a topic, or joins those who wait for it already.
fn create(broker: &Arc<Broker>, name: &str) -> Option<watch::Receiver<()>> {
    let mut under_way = broker.topic_creation.under_way.lock();
    if let Some(wait) = under_way.get(name) {
        return Some(wait.clone());
    }
    if under_way.len() >= CREATIONS_MAX {
        return None;
    }
    let (done, wait) = watch::channel(());
    under_way.insert(name.to_owned(), wait.clone());
    drop(under_way);
    let (broker, name) = (broker.clone(), name.to_owned());
    tokio::spawn(async move {
        create_and_wait(&broker, &name).await;
        broker.topic_creation.under_way.lock().remove(&name);
        drop(done);
    });
    Some(wait)
}

async fn create_and_wait(broker: &Arc<Broker>, name: &str) {
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic(broker, name)])
        .with_timeout_ms(i32::try_from(CREATION_WAIT.as_millis()).unwrap_or(i32::MAX));
    match broker.controller.send(7, &request, CREATION_WAIT).await {
        Err(error) => slog::warn!(broker.log, "topic not created"; "topic" => name, "error" => %error),
        Ok(response) => {
            let refusal = response.topics.iter().find(|topic| {
                topic.error_code != 0 && topic.error_code != ErrorCode::TopicAlreadyExists.code()
            });
            if let Some(refusal) = refusal {
                slog::warn!(broker.log, "topic not created"; "topic" => name, "error" => refusal.error_code,
                    "detail" => refusal.error_message.as_ref().map_or("", |message| message.as_str()));
                return;
            }
            let created = async {
                let mut applied = broker.replicas.applied();
                while broker.image().topic(name).is_none() {
                    if applied.changed().await.is_err() {
                        return;
                    }
                }
            };
            _ = tokio::time::timeout(CREATION_WAIT, created).await;
        }
    }
}

fn topic(broker: &Broker, name: &str) -> CreatableTopic {
    let topic = CreatableTopic::default().with_name(topic_name(name));
    let config = broker.config.load();
    let image = broker.image();
    // Those that are away count, for the topic keeps its factor for good: while one is rolled the controller refuses it, as Kafka's
    // does, and whoever asked tries again.
    let brokers = image.brokers.len();
    match name {
        OFFSETS_TOPIC => topic
            .with_num_partitions(config.offsets.topic_partitions)
            .with_replication_factor(config.offsets_replication_factor(brokers))
            .with_configs(vec![
                entry("cleanup.policy", "compact"),
                entry("compression.type", "producer"),
                entry("segment.bytes", &config.offsets.topic_segment_bytes.to_string()),
            ]),
        TRANSACTIONS_TOPIC => {
            let replication_factor = config.transactions_replication_factor(brokers);
            let min_isr = config.transactions_min_isr(replication_factor);
            let segment_bytes = config.transaction.state_log_segment_bytes;
            topic
                .with_num_partitions(config.transaction.state_log_partitions)
                .with_replication_factor(replication_factor)
                .with_configs(vec![
                    entry("cleanup.policy", "compact"),
                    entry("compression.type", "uncompressed"),
                    entry("min.insync.replicas", &min_isr.to_string()),
                    entry("segment.bytes", &segment_bytes.to_string()),
                    entry("unclean.leader.election.enable", "false"),
                ])
        }
        // As in Kafka the broker's configuration says, and the controllers' only for clients that leave it open.
        _ => topic
            .with_num_partitions(config.topics.num_partitions)
            .with_replication_factor(config.topics.default_replication_factor),
    }
}

fn entry(key: &str, value: &str) -> CreatableTopicConfig {
    CreatableTopicConfig::default()
        .with_name(text(key))
        .with_value(Some(text(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, LoneBroker};

    #[tokio::test]
    async fn an_internal_topic_has_its_replicas_though_a_broker_is_away() {
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        let mut factors = |registered: i32| {
            // One is fenced, and one about to stop.
            for id in 1..=registered {
                let mut broker = Arc::unwrap_or_clone(fixtures::broker(id, "PLAINTEXT", id == 2));
                broker.in_controlled_shutdown = id == 3;
                lone.image.brokers.insert(id, Arc::new(broker));
            }
            lone.broker.image.store(Arc::new(lone.image.clone()));
            let of = |name| topic(&lone.broker, name).replication_factor;
            (of(OFFSETS_TOPIC), of(TRANSACTIONS_TOPIC))
        };
        // Unless it is set, no more than there are brokers.
        assert_eq!(factors(2), (2, 2));
        assert_eq!(factors(3), (3, 3));
        assert_eq!(factors(5), (3, 3));
    }
}
