//! A producer that goes on whatever happens to the nodes, and remembers what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use odradek_cluster_tests::asks::{OK, PRODUCE_BY_NAME, produce_request};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records::{Seen, idempotent};
use odradek_cluster_tests::wait::{eventually, holds};

/// Until all is acknowledged, or a leader is found.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two attempts of the producer.
const BACKOFF: Duration = Duration::from_millis(10);
/// For one attempt.
const ATTEMPT: Duration = Duration::from_secs(3);

/// An idempotent producer with acks=all in the background; its records are the numbers from 0 on.
#[derive(Debug)]
pub struct Load {
    acknowledged: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Duration>,
}

impl Load {
    /// Starts producing to a partition of a cluster.
    pub async fn start(addresses: Vec<String>, topic: &'static str) -> Self {
        let connection = Connection::open(&addresses[0]).await;
        let (producer_id, epoch) = connection.producer_id().await;
        let (acknowledged, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
        let producer = Producer {
            addresses,
            topic,
            producer_id,
            epoch,
            leader: None,
        };
        let task = tokio::spawn(producer.run(Arc::clone(&acknowledged), Arc::clone(&stop)));
        Self {
            acknowledged,
            stop,
            task,
        }
    }

    /// Waits until so many more records are acknowledged.
    pub async fn more(&self, count: i64) {
        let goal = self.acknowledged.load(Ordering::Acquire) + count;
        eventually(&format!("{goal} acknowledged records"), LIMIT, async || {
            assert!(!self.task.is_finished(), "the producer gave up");
            let now = self.acknowledged.load(Ordering::Acquire);
            holds(now >= goal, now.to_string())
        })
        .await;
    }

    /// Stops; how many records were acknowledged, and the longest time without an acknowledgement.
    pub async fn end(self) -> (i64, Duration) {
        self.stop.store(true, Ordering::Release);
        let gap = self.task.await.expect("the producer does not panic");
        (self.acknowledged.load(Ordering::Acquire), gap)
    }
}

struct Producer {
    addresses: Vec<String>,
    topic: &'static str,
    producer_id: i64,
    epoch: i16,
    leader: Option<Connection>,
}

impl Producer {
    async fn run(mut self, acknowledged: Arc<AtomicI64>, stop: Arc<AtomicBool>) -> Duration {
        let mut longest = Duration::ZERO;
        let mut last = Instant::now();
        let mut next = 0;
        while !stop.load(Ordering::Acquire) {
            if self.send(next).await {
                longest = longest.max(last.elapsed());
                last = Instant::now();
                next += 1;
                acknowledged.store(i64::from(next), Ordering::Release);
            } else {
                self.leader = None;
                tokio::time::sleep(BACKOFF).await;
            }
        }
        longest
    }

    /// True once the record is acknowledged; the same number may be sent as often as needed.
    async fn send(&mut self, number: i32) -> bool {
        if self.leader.is_none() {
            self.leader = leader(&self.addresses, self.topic).await;
        }
        let Some(leader) = &self.leader else { return false };
        let batch = idempotent(self.producer_id, self.epoch, number, &[&number.to_string()]);
        let request = produce_request(self.topic, 0, -1, &batch).with_timeout_ms(2000);
        let sent = leader
            .client()
            .send_within(PRODUCE_BY_NAME, request, ATTEMPT)
            .await;
        sent.is_ok_and(|response| response.responses[0].partition_responses[0].error_code == OK)
    }
}

/// A connection to the leader of partition 0, as any living node names it.
pub async fn leader(addresses: &[String], topic: &str) -> Option<Connection> {
    for address in addresses {
        let Ok(connection) = Connection::try_open(address).await else {
            continue;
        };
        let request = kafka_protocol::messages::MetadataRequest::default()
            .with_topics(Some(vec![
                kafka_protocol::messages::metadata_request::MetadataRequestTopic::default()
                    .with_name(Some(odradek_cluster_tests::asks::topic_name(topic))),
            ]))
            .with_allow_auto_topic_creation(false);
        let Ok(metadata) = connection.client().send_within(12, request, ATTEMPT).await else {
            continue;
        };
        let Some(partition) = metadata.topics[0].partitions.first() else {
            continue;
        };
        let Some(broker) = metadata
            .brokers
            .iter()
            .find(|broker| broker.node_id == partition.leader_id)
        else {
            continue;
        };
        if let Ok(leader) = Connection::try_open(&format!("{}:{}", broker.host, broker.port)).await {
            return Some(leader);
        }
    }
    None
}

/// Everything in partition 0, once the high watermark has reached `count`.
pub async fn everything(addresses: &[String], topic: &str, count: i64) -> Vec<String> {
    let connection = eventually("all records are committed", LIMIT, async || {
        let connection = leader(addresses, topic).await.ok_or("no leader")?;
        let data = connection.fetch(topic, 0, 0).await;
        holds(
            data.error_code == OK && data.high_watermark >= count,
            format!("{data:?}"),
        )?;
        Ok(connection)
    })
    .await;
    connection
        .read_from(topic, 0, 0)
        .await
        .iter()
        .map(Seen::text)
        .collect()
}

/// The numbers below `count`, and perhaps one more: the producer's last, which nobody acknowledged.
pub fn assert_each_once(values: &[String], acknowledged: i64) {
    let expected: Vec<String> = (0..values.len()).map(|number| number.to_string()).collect();
    assert_eq!(values, expected, "lost, duplicated or out of order");
    let count = i64::try_from(values.len()).expect("few records");
    assert!(
        (acknowledged..=acknowledged + 1).contains(&count),
        "{count} records, {acknowledged} acknowledged"
    );
}
