//! The requests that prepare a workload: create and delete topics, learn who leads them.
//!
//! One blocking connection per request. Promises that a topic it returns has all its leaders and replicas in sync.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponse, MetadataResponseTopic};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteTopicsRequest, ListOffsetsRequest, MetadataRequest, TopicName,
};
use kafka_protocol::protocol::Request;

use crate::clock::{self, SECOND};
use crate::load::Target;
use crate::protocol::{decode, encode, text};

const CREATE_TOPICS: i16 = 7;
const DELETE_TOPICS: i16 = 6;
const METADATA: i16 = 12;
const LIST_OFFSETS: i16 = 7;
/// Asks for the end of a partition.
const LATEST_TIMESTAMP: i64 = -1;
/// How long the controller may take.
const TIMEOUT_MS: i32 = 60_000;
/// Until an answer comes.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);
/// Until a topic has its leaders and replicas.
const READY_LIMIT: u64 = 300 * SECOND;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// A topic to be created.
#[derive(Debug, Clone, Copy)]
pub struct NewTopic<'a> {
    /// Its name.
    pub name: &'a str,
    /// How many partitions.
    pub partitions: i32,
    /// Replicas of each.
    pub replicas: i16,
    /// Its configuration.
    pub configs: &'a [(&'a str, &'a str)],
}

/// A connection for one request after another.
#[derive(Debug)]
pub struct Admin {
    stream: TcpStream,
    correlation_id: i32,
}

impl Admin {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self {
            stream,
            correlation_id: 0,
        })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The connection ended, or the answer is none.
    pub fn ask<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        self.correlation_id += 1;
        self.stream
            .write_all(&encode(version, self.correlation_id, request)?)?;
        decode::<R>(version, self.read_frame()?)
    }

    /// Sends a request that is bytes already, and reads its answer.
    ///
    /// # Errors
    /// The connection ended.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Bytes> {
        self.send(request)?;
        self.read_frame()
    }

    /// Sends a request that is bytes already, whose answer comes after those of the requests before it.
    ///
    /// # Errors
    /// The connection ended.
    pub fn send(&mut self, request: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(request)?)
    }

    /// The next answer, without its length.
    ///
    /// # Errors
    /// The connection ended.
    pub fn read_frame(&mut self) -> Result<Bytes> {
        let mut length = [0; 4];
        self.stream
            .read_exact(&mut length)
            .context("waiting for an answer")?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).context("an answer's length")?];
        self.stream.read_exact(&mut frame).context("reading an answer")?;
        Ok(Bytes::from(frame))
    }

    /// Creates topics.
    ///
    /// # Errors
    /// One was refused.
    pub fn create_topics(&mut self, topics: &[NewTopic<'_>]) -> Result<()> {
        let request = CreateTopicsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(topics.iter().map(creatable).collect());
        for topic in self.ask(CREATE_TOPICS, &request)?.topics {
            ensure!(
                topic.error_code == 0,
                "creating topic {}: error {} {}",
                topic.name.0,
                topic.error_code,
                topic.error_message.unwrap_or_default()
            );
        }
        Ok(())
    }

    /// Deletes topics.
    ///
    /// # Errors
    /// One was refused.
    pub fn delete_topics(&mut self, names: &[&str]) -> Result<()> {
        let states = names
            .iter()
            .map(|name| DeleteTopicState::default().with_name(Some(TopicName(text(name)))));
        let request = DeleteTopicsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(states.collect());
        for topic in self.ask(DELETE_TOPICS, &request)?.responses {
            ensure!(
                topic.error_code == 0,
                "deleting {:?}: error {}",
                topic.name,
                topic.error_code
            );
        }
        Ok(())
    }

    /// Whether this broker answers for these partitions as their leader.
    ///
    /// # Errors
    /// There is no answer.
    pub fn leads(&mut self, topic: &str, partitions: &[i32]) -> Result<bool> {
        let latest = partitions.iter().map(|partition| {
            ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_timestamp(LATEST_TIMESTAMP)
        });
        let topic = ListOffsetsTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(latest.collect());
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![topic]);
        let response = self.ask(LIST_OFFSETS, &request)?;
        let mut answers = response.topics.iter().flat_map(|topic| &topic.partitions);
        Ok(answers.all(|partition| partition.error_code == 0))
    }

    /// The cluster as this broker knows it, with these topics.
    ///
    /// # Errors
    /// There is no answer.
    pub fn metadata(&mut self, topics: &[&str]) -> Result<MetadataResponse> {
        let topics = topics
            .iter()
            .map(|name| MetadataRequestTopic::default().with_name(Some(TopicName(text(name)))));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.collect()))
            .with_allow_auto_topic_creation(false);
        self.ask(METADATA, &request)
    }
}

fn creatable(topic: &NewTopic<'_>) -> CreatableTopic {
    let configs = topic.configs.iter().map(|(key, value)| {
        CreatableTopicConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    });
    CreatableTopic::default()
        .with_name(TopicName(text(topic.name)))
        .with_num_partitions(topic.partitions)
        .with_replication_factor(topic.replicas)
        .with_configs(configs.collect())
}

/// Waits until every broker knows all brokers, which are then ready for topics.
///
/// # Errors
/// They do not find each other in time.
pub fn wait_brokers(brokers: &[SocketAddr]) -> Result<()> {
    let limit = clock::now() + READY_LIMIT;
    for broker in brokers {
        let mut admin = Admin::open(*broker)?;
        while admin.metadata(&[])?.brokers.len() < brokers.len() {
            ensure!(
                clock::now() < limit,
                "{broker} does not know all brokers after five minutes"
            );
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Creates a topic and waits until every broker says who leads its partitions, with all replicas in sync.
///
/// # Errors
/// It was refused, or is not ready in time.
pub fn create_ready(brokers: &[SocketAddr], topic: &NewTopic<'_>) -> Result<Target> {
    Admin::open(brokers[0])?.create_topics(&[*topic])?;
    wait_ready(brokers, topic)
}

/// Waits until every broker says who leads the topic's partitions, with all replicas in sync, and the leaders agree.
///
/// # Errors
/// It is not ready in time.
fn wait_ready(brokers: &[SocketAddr], topic: &NewTopic<'_>) -> Result<Target> {
    let limit = clock::now() + READY_LIMIT;
    let mut target = None;
    for broker in brokers {
        let mut admin = Admin::open(*broker)?;
        while {
            target = ready_target(&admin.metadata(&[topic.name])?, topic);
            target.is_none()
        } {
            ensure!(
                clock::now() < limit,
                "topic {} has no leaders or replicas after five minutes",
                topic.name
            );
            std::thread::sleep(PAUSE);
        }
    }
    let target = target.context("a cluster has at least one broker")?;
    for (leader, partitions) in target.by_leader() {
        let mut admin = Admin::open(leader)?;
        // A broker may know from the metadata that it leads before it does.
        while !admin.leads(topic.name, &partitions)? {
            ensure!(
                clock::now() < limit,
                "{leader} does not lead {} after five minutes",
                topic.name
            );
            std::thread::sleep(PAUSE);
        }
    }
    Ok(target)
}

fn ready_target(response: &MetadataResponse, wanted: &NewTopic<'_>) -> Option<Target> {
    let topic = response.topics.first()?;
    let complete =
        topic.error_code == 0 && topic.partitions.len() == usize::try_from(wanted.partitions).ok()?;
    let in_sync = |topic: &MetadataResponseTopic| {
        let replicas = usize::try_from(wanted.replicas).unwrap_or(usize::MAX);
        topic
            .partitions
            .iter()
            .all(|partition| partition.error_code == 0 && partition.isr_nodes.len() >= replicas)
    };
    if !complete || !in_sync(topic) {
        return None;
    }
    let addresses: HashMap<i32, SocketAddr> = response
        .brokers
        .iter()
        .filter_map(|broker| {
            Some((
                broker.node_id.0,
                format!("{}:{}", broker.host, broker.port).parse().ok()?,
            ))
        })
        .collect();
    let mut partitions: Vec<_> = topic
        .partitions
        .iter()
        .map(|partition| {
            (
                partition.partition_index,
                addresses.get(&partition.leader_id.0).copied(),
            )
        })
        .collect();
    partitions.sort_unstable_by_key(|(partition, _)| *partition);
    let leaders = partitions
        .into_iter()
        .map(|(_, leader)| leader)
        .collect::<Option<Vec<_>>>()?;
    Some(Target {
        topic: wanted.name.to_owned(),
        leaders,
    })
}
