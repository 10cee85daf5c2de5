//! The cluster as the client tools see it: requests to any broker, to a given one, to a leader or a coordinator.
//!
//! Promises that requests travel in the highest version that both sides know, and that refusals which pass by
//! themselves (a leader or coordinator on the move) are asked again until the timeout of the command.

pub mod bootstrap;
pub mod waiting;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    ApiKey, FindCoordinatorRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::messages::{
    list_offsets_request::ListOffsetsPartition, list_offsets_request::ListOffsetsTopic,
};
use kafka_protocol::protocol::{Request, StrBytes};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_net::client::{Client, ClientSettings};
use odradek_net::pool::{ClientPool, join_address};
use odradek_net::wire;

use crate::error::{CommandError, Outcome, check};
use waiting::{Asked, Attempts};

/// `key_type` of a consumer group in FindCoordinator.
const GROUP: i8 = 0;
/// `key_type` of a transactional id.
const TRANSACTION: i8 = 1;

/// The timestamp that asks ListOffsets for the first offset.
pub const EARLIEST: i64 = -2;
/// The timestamp that asks ListOffsets for the end of the log.
pub const LATEST: i64 = -1;

/// Where the cluster is.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// Brokers to connect to first, as host:port, separated by commas.
    #[arg(
        long = "bootstrap-server",
        visible_alias = "bootstrap-servers",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:9092",
        global = true
    )]
    pub bootstrap_server: Vec<String>,
    /// A .properties file for the client; request.timeout.ms and client.id are read from it.
    #[arg(long = "command-config", value_name = "FILE", global = true)]
    pub command_config: Option<std::path::PathBuf>,
}

/// A cluster to talk to.
pub struct ClusterClient {
    pool: Arc<ClientPool>,
    bootstrap: Vec<String>,
    timeout: Duration,
}

/// Brokers and topics at one moment.
pub struct ClusterView {
    /// Address by broker; only brokers that are not fenced.
    pub brokers: BTreeMap<i32, String>,
    /// As asked for; with errors in them.
    pub topics: Vec<MetadataResponseTopic>,
}

impl ClusterClient {
    /// A cluster behind the given connection; connects at the first request.
    pub fn new(connection: &Connection) -> Outcome<Self> {
        let mut settings = ClientSettings {
            client_id: "odradek-cli".to_owned(),
            ..ClientSettings::default()
        };
        if let Some(file) = &connection.command_config {
            read_command_config(file, &mut settings)?;
        }
        let bootstrap = bootstrap::addresses(&connection.bootstrap_server)?;
        Ok(Self::with_settings(bootstrap, settings))
    }

    /// A cluster behind these addresses.
    pub fn with_settings(bootstrap: Vec<String>, settings: ClientSettings) -> Self {
        let timeout = settings.request_timeout;
        Self {
            pool: ClientPool::new(settings),
            bootstrap,
            timeout,
        }
    }

    /// How long the command may wait for one answer.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The timeout for requests that carry one.
    pub fn timeout_ms(&self) -> i32 {
        i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// A connection to the first bootstrap server that answers.
    pub async fn any(&self) -> Outcome<Arc<Client>> {
        let mut reasons = Vec::new();
        for address in &self.bootstrap {
            match self.pool.try_get(address).await {
                Ok(client) => return Ok(client),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(CommandError::Unreachable(reasons.join("; ")))
    }

    /// A connection to one broker, by the address that the cluster gives for it.
    pub async fn broker(&self, broker_id: i32) -> Outcome<Arc<Client>> {
        let view = self.view(Some(&[])).await?;
        let address = view.brokers.get(&broker_id).ok_or_else(|| {
            CommandError::refused(format!(
                "broker {broker_id} is not in the cluster now; there are {}",
                join(view.brokers.keys())
            ))
        })?;
        self.at(address).await
    }

    /// A connection to an address.
    pub async fn at(&self, address: &str) -> Outcome<Arc<Client>> {
        Ok(self.pool.get(address).await?)
    }

    /// Sends a request to any broker.
    pub async fn ask<R: Request>(&self, request: R) -> Outcome<R::Response> {
        send(&*self.any().await?, request).await
    }

    /// Brokers, and all topics (`None`) or these.
    pub async fn view(&self, topics: Option<&[&str]>) -> Outcome<ClusterView> {
        let response = metadata(&*self.any().await?, topics).await?;
        Ok(ClusterView::from(response))
    }

    /// Repeats an action while it fails for reasons that pass, within the timeout.
    pub async fn retry<T, F>(&self, action: impl FnMut() -> F) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>>,
    {
        retry_within(self.timeout, action).await
    }

    /// A connection to the broker that coordinates a group.
    pub async fn coordinator(&self, group: &str) -> Outcome<Arc<Client>> {
        let (_, address) = self.retry(|| self.find_coordinator(GROUP, group)).await?;
        self.at(&address).await
    }

    /// The broker that coordinates a transactional id, and a connection to it.
    pub async fn transaction_coordinator(&self, transactional_id: &str) -> Outcome<(i32, Arc<Client>)> {
        let find = || self.find_coordinator(TRANSACTION, transactional_id);
        let (broker, address) = self.retry(find).await?;
        Ok((broker, self.at(&address).await?))
    }

    /// A connection to the leader of a partition.
    pub async fn leader(&self, topic: &str, partition: i32) -> Outcome<Arc<Client>> {
        let view = self.view(Some(&[topic])).await?;
        let partitions = &view.topic(topic)?.partitions;
        if !partitions.iter().any(|it| it.partition_index == partition) {
            let reason = format!("topic {topic} has no partition {partition}");
            return Err(CommandError::refused(reason));
        }
        let leader = view.leader(topic, partition);
        match leader.and_then(|leader| view.brokers.get(&leader)) {
            Some(address) => self.at(address).await,
            None => Err(CommandError::Api(ErrorCode::LeaderNotAvailable.into())),
        }
    }

    /// Id and address of the broker that coordinates a group or a transactional id.
    async fn find_coordinator(&self, key_type: i8, key: &str) -> Outcome<(i32, String)> {
        const KEYS_SINCE: i16 = 4;
        let client = self.any().await?;
        let version = common_version::<FindCoordinatorRequest>(&client)?;
        let key = StrBytes::from_string(key.to_owned());
        let request = FindCoordinatorRequest::default().with_key_type(key_type);
        let request = if version >= KEYS_SINCE {
            request.with_coordinator_keys(vec![key])
        } else {
            request.with_key(key)
        };
        let response = send_in(&client, version, request).await?;
        let Some(found) = response.coordinators.first() else {
            check(response.error_code, response.error_message.as_deref())?;
            let address = join_address(&response.host, port(response.port));
            return Ok((response.node_id.0, address));
        };
        check(found.error_code, found.error_message.as_deref())?;
        let address = join_address(&found.host, port(found.port));
        Ok((found.node_id.0, address))
    }

    /// The offsets that stand at a timestamp (or [`EARLIEST`], [`LATEST`]), asked from each partition's leader.
    /// Partitions without a leader are left out.
    pub async fn offsets(
        &self,
        partitions: &[(String, i32)],
        timestamp: i64,
    ) -> Outcome<BTreeMap<(String, i32), i64>> {
        let names: Vec<&str> = unique(partitions.iter().map(|(topic, _)| topic.as_str()));
        let view = self.view(Some(&names)).await?;
        let mut by_leader: BTreeMap<i32, BTreeMap<&str, Vec<i32>>> = BTreeMap::new();
        for (topic, partition) in partitions {
            if let Some(leader) = view.leader(topic, *partition) {
                let topics = by_leader.entry(leader).or_default();
                topics.entry(topic).or_default().push(*partition);
            }
        }
        let mut offsets = BTreeMap::new();
        for (leader, topics) in by_leader {
            let Some(address) = view.brokers.get(&leader) else {
                continue;
            };
            let response = send(&*self.at(address).await?, list_offsets(&topics, timestamp)).await?;
            for topic in response.topics {
                for partition in topic
                    .partitions
                    .iter()
                    .filter(|partition| partition.error_code == 0)
                {
                    offsets.insert(
                        (topic.name.to_string(), partition.partition_index),
                        partition.offset,
                    );
                }
            }
        }
        Ok(offsets)
    }
}

/// Repeats an action while it fails for reasons that pass, for so long; says why if that takes more than a moment.
pub async fn retry_within<T, F>(limit: Duration, mut action: impl FnMut() -> F) -> Outcome<T>
where
    F: Future<Output = Outcome<T>>,
{
    let mut attempts = Attempts::within(limit);
    loop {
        match action().await {
            Err(CommandError::Api(error)) if may_pass(error.code) => {
                if !attempts.pause(&error.detail).await {
                    return Err(error.into());
                }
            }
            result => return result,
        }
    }
}

/// Whether the same request may succeed later; a transaction that is about to end is over soon, though its code is not said
/// to be retriable.
fn may_pass(code: ErrorCode) -> bool {
    code.is_retriable() || code == ErrorCode::ConcurrentTransactions
}

fn list_offsets(topics: &BTreeMap<&str, Vec<i32>>, timestamp: i64) -> ListOffsetsRequest {
    let topic = |(name, partitions): (&&str, &Vec<i32>)| {
        let partitions = partitions.iter().map(|index| {
            ListOffsetsPartition::default()
                .with_partition_index(*index)
                .with_timestamp(timestamp)
        });
        ListOffsetsTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions.collect())
    };
    ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_topics(topics.iter().map(topic).collect())
}

impl From<MetadataResponse> for ClusterView {
    fn from(response: MetadataResponse) -> Self {
        let brokers = response
            .brokers
            .iter()
            .map(|broker| (broker.node_id.0, join_address(&broker.host, port(broker.port))))
            .collect();
        let mut topics = response.topics;
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        for topic in &mut topics {
            topic
                .partitions
                .sort_by_key(|partition| partition.partition_index);
        }
        Self { brokers, topics }
    }
}

impl ClusterView {
    /// One topic, or the refusal that stands in its place.
    pub fn topic(&self, name: &str) -> Outcome<&MetadataResponseTopic> {
        let topic = self
            .topics
            .iter()
            .find(|topic| topic.name.as_ref().is_some_and(|it| it.as_str() == name));
        let missing = || {
            ApiError::new(
                ErrorCode::UnknownTopicOrPartition,
                format!("Topic '{name}' does not exist"),
            )
        };
        let topic = topic.ok_or_else(missing)?;
        if topic.error_code == ErrorCode::UnknownTopicOrPartition.code() {
            return Err(missing().into());
        }
        check(topic.error_code, None)?;
        Ok(topic)
    }

    /// The leader of a partition, if it has one.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let partitions = &self.topic(topic).ok()?.partitions;
        let found = partitions.iter().find(|it| it.partition_index == partition)?;
        (found.leader_id.0 >= 0).then_some(found.leader_id.0)
    }

    /// The names of all topics without an error.
    pub fn names(&self) -> Vec<&str> {
        self.topics
            .iter()
            .filter(|topic| topic.error_code == 0)
            .filter_map(|topic| topic.name.as_deref())
            .map(|name| &**name)
            .collect()
    }
}

/// The metadata as one node has it.
pub async fn metadata(client: &Client, topics: Option<&[&str]>) -> Outcome<MetadataResponse> {
    let wanted = topics.map(|names| {
        names
            .iter()
            .map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name))))
            .collect()
    });
    let request = MetadataRequest::default()
        .with_topics(wanted)
        .with_allow_auto_topic_creation(false);
    send(client, request).await
}

/// The highest version of `R` that the peer and this program know.
pub fn common_version<R: Request>(client: &Client) -> Outcome<i16> {
    client.common_version::<R>().ok_or_else(|| {
        let (address, api) = (client.address().to_owned(), wire::api_name(R::KEY));
        if is_controller(client) {
            CommandError::Controller { address, api }
        } else {
            CommandError::Unsupported { address, api }
        }
    })
}

/// Every broker answers Metadata, and no controller does.
fn is_controller(client: &Client) -> bool {
    let serves = |api: ApiKey| client.negotiated(api as i16).is_some();
    serves(ApiKey::DescribeQuorum) && !serves(ApiKey::Metadata)
}

/// Sends a request in the highest version that both sides know.
pub async fn send<R: Request>(client: &Client, request: R) -> Outcome<R::Response> {
    send_in(client, common_version::<R>(client)?, request).await
}

/// Sends a request in the highest version that both sides know, at most `max`.
pub async fn send_at_most<R: Request>(client: &Client, max: i16, request: R) -> Outcome<R::Response> {
    let version = common_version::<R>(client)?.min(max);
    send_in(client, version, request).await
}

/// Sends a request in a version that both sides know; says so if the answer is late.
pub async fn send_in<R: Request>(client: &Client, version: i16, request: R) -> Outcome<R::Response> {
    Asked::new(client, R::KEY)
        .answer(client.send(version, request))
        .await
}

/// A topic's name for a request.
pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// A text for a request.
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Joins with commas.
pub fn join<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items
        .into_iter()
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

/// The items in order, each once.
pub fn unique<'a>(items: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    items
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

fn port(port: i32) -> u16 {
    u16::try_from(port).unwrap_or_default()
}

fn read_command_config(file: &Path, settings: &mut ClientSettings) -> Outcome {
    let content =
        std::fs::read_to_string(file).map_err(CommandError::io(format!("cannot read {}", file.display())))?;
    let properties = odradek_config::properties::parse(&content)
        .map_err(|error| CommandError::refused(format!("{}: {error}", file.display())))?;
    for property in properties {
        let value = property.value.trim();
        match property.key.as_str() {
            "client.id" => settings.client_id = value.to_owned(),
            "request.timeout.ms" | "default.api.timeout.ms" => {
                let ms = value.parse().map_err(|_| {
                    CommandError::refused(format!("{}: {} is no number", file.display(), property.key))
                })?;
                settings.request_timeout = Duration::from_millis(ms);
            }
            "security.protocol" if value != "PLAINTEXT" => {
                return Err(CommandError::refused(format!(
                    "{}: security.protocol {value} is not available; these tools speak PLAINTEXT",
                    file.display()
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Runs a command on a small runtime of its own and prints what went wrong after `what`.
pub fn run_command(what: &str, command: impl Future<Output = Outcome>) -> std::process::ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{what}: cannot start a runtime: {error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    match runtime.block_on(command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error while executing {what} command : {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
