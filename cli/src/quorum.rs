//! `odradek quorum`: what kafka-metadata-quorum.sh tells about the controllers, and how voters come and go.

mod voters;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use kafka_protocol::messages::describe_quorum_request::{
    PartitionData as WantedPartition, TopicData as WantedTopic,
};
use kafka_protocol::messages::describe_quorum_response::{PartitionData, ReplicaState};
use kafka_protocol::messages::{
    DescribeClusterRequest, DescribeClusterResponse, DescribeQuorumRequest, DescribeQuorumResponse,
};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_net::client::Client;
use odradek_net::pool::join_address;

use crate::client::{ClusterClient, Connection, send, send_in, topic_name};
use crate::error::{CommandError, Outcome, check};
use crate::output::say_text;
use crate::{kafka_uuid, table};

const METADATA_TOPIC: &str = "__cluster_metadata";

/// Flags of `odradek quorum`.
#[derive(Debug, Args)]
pub struct QuorumArguments {
    #[command(flatten)]
    connection: Connection,
    /// Controllers to ask instead of brokers.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', global = true)]
    bootstrap_controller: Option<Vec<String>>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Describes the quorum.
    Describe(DescribeArguments),
    /// Makes the controller whose configuration is given with --command-config a voter; it has to be running.
    AddController(voters::AddArguments),
    /// Takes a controller's vote away.
    RemoveController(voters::RemoveArguments),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["status", "replication"]))]
struct DescribeArguments {
    /// The leader, the voters and how far they lag.
    #[arg(long, visible_alias = "re-status")]
    status: bool,
    /// One line for each replica of the metadata log.
    #[arg(long, visible_alias = "re-replication")]
    replication: bool,
    /// Times as an age instead of milliseconds.
    #[arg(long)]
    human_readable: bool,
}

/// The quorum as the active controller sees it.
pub struct Quorum {
    /// Voters, observers, leader and offsets.
    pub partition: PartitionData,
    response: DescribeQuorumResponse,
}

/// Carries out `odradek quorum`.
pub async fn run(mut arguments: QuorumArguments) -> Outcome {
    if let Some(controllers) = arguments.bootstrap_controller.take() {
        arguments.connection.bootstrap_server = controllers;
    }
    let client = ClusterClient::new(&arguments.connection)?;
    let action = match arguments.action {
        Action::Describe(action) => action,
        Action::AddController(add) => {
            return voters::add(&client, arguments.connection.command_config.as_deref(), &add).await;
        }
        Action::RemoveController(remove) => return voters::remove(&client, &remove).await,
    };
    let quorum = client.retry(async || describe_anywhere(&client).await).await?;
    if action.status {
        say_text!(
            "{}",
            status(&quorum, &cluster_id(&*client.any().await?).await?, now_ms())
        );
    } else {
        let now = action.human_readable.then(now_ms);
        say_text!("{}", replication(&quorum.partition, now));
    }
    Ok(())
}

/// Asks a node how the quorum stands.
pub async fn describe(client: &Arc<Client>) -> Outcome<Quorum> {
    let partition = WantedPartition::default().with_partition_index(0);
    let topic = WantedTopic::default()
        .with_topic_name(topic_name(METADATA_TOPIC))
        .with_partitions(vec![partition]);
    let response = send(client, DescribeQuorumRequest::default().with_topics(vec![topic])).await?;
    check(response.error_code, response.error_message.as_deref())?;
    let partition = response
        .topics
        .first()
        .and_then(|topic| topic.partitions.first())
        .cloned();
    let partition = partition
        .ok_or_else(|| CommandError::refused("the answer about the quorum does not name its partition"))?;
    check(partition.error_code, partition.error_message.as_deref())?;
    Ok(Quorum { partition, response })
}

/// How the quorum stands, also if the node asked is a controller that is not active.
async fn describe_anywhere(client: &ClusterClient) -> Outcome<Quorum> {
    Ok(describe_and_keep(client).await?.0)
}

/// How the quorum stands, and the node that said so: a broker or the active controller.
async fn describe_and_keep(client: &ClusterClient) -> Outcome<(Quorum, Arc<Client>)> {
    let any = client.any().await?;
    let error = match describe(&any).await {
        Err(CommandError::Api(error)) if error.code == ErrorCode::NotLeaderOrFollower => error,
        result => return Ok((result?, any)),
    };
    let cluster = cluster(&any).await?;
    let active = cluster
        .brokers
        .iter()
        .find(|node| node.broker_id == cluster.controller_id);
    let active = active.ok_or_else(|| no_active_controller(error.code, any.address(), &cluster))?;
    let port = u16::try_from(active.port).unwrap_or_default();
    let active = client.at(&join_address(&active.host, port)).await?;
    Ok((describe(&active).await?, active))
}

/// What a controller says that is not active and knows of no other that is, or not where.
fn no_active_controller(code: ErrorCode, asked: &str, cluster: &DescribeClusterResponse) -> ApiError {
    let detail = match cluster.controller_id.0 {
        ..0 => format!("the metadata quorum has no leader, says controller {asked}"),
        leader => format!("controller {leader} leads the metadata quorum and has not told its address yet"),
    };
    ApiError::new(code, detail)
}

/// The id of the cluster that a node belongs to.
pub async fn cluster_id(client: &Client) -> Outcome<String> {
    Ok(cluster(client).await?.cluster_id.to_string())
}

/// The cluster as a broker sees its brokers, or as a controller sees the controllers.
async fn cluster(client: &Client) -> Outcome<DescribeClusterResponse> {
    const ENDPOINTS_SINCE: i16 = 1;
    const CONTROLLERS: i8 = 2;
    let version = crate::client::common_version::<DescribeClusterRequest>(client)?;
    let request = DescribeClusterRequest::default();
    let mut response = send_in(client, version, request.clone()).await?;
    if response.error_code != 0 && version >= ENDPOINTS_SINCE {
        response = send_in(client, version, request.with_endpoint_type(CONTROLLERS)).await?;
    }
    check(response.error_code, response.error_message.as_deref())?;
    Ok(response)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn status(quorum: &Quorum, cluster_id: &str, now_ms: i64) -> String {
    let partition = &quorum.partition;
    let leader = partition
        .current_voters
        .iter()
        .find(|voter| voter.replica_id == partition.leader_id);
    let (end, caught_up) = leader.map_or((0, -1), |it| (it.log_end_offset, it.last_caught_up_timestamp));
    // Only voters hold up a commit; Kafka's tool counts them alone.
    let followers = || partition.current_voters.iter();
    let slowest = followers().map(|it| it.log_end_offset).min().unwrap_or(end);
    let max_lag = if followers().any(|it| it.log_end_offset < 0) {
        "unknown".to_owned()
    } else {
        (end - slowest).to_string()
    };
    let oldest = followers()
        .filter(|it| it.replica_id != partition.leader_id)
        .map(|it| it.last_caught_up_timestamp)
        .min();
    let lag_ms = match oldest {
        None => 0,
        Some(-1) => -1,
        Some(oldest) => (if caught_up < 0 { now_ms } else { caught_up } - oldest).max(0),
    };
    [
        ("ClusterId:", cluster_id.to_owned()),
        ("LeaderId:", partition.leader_id.0.to_string()),
        ("LeaderEpoch:", partition.leader_epoch.to_string()),
        ("HighWatermark:", partition.high_watermark.to_string()),
        ("MaxFollowerLag:", max_lag),
        ("MaxFollowerLagTimeMs:", lag_ms.to_string()),
        ("CurrentVoters:", replicas(quorum, &partition.current_voters)),
        ("CurrentObservers:", replicas(quorum, &partition.observers)),
    ]
    .iter()
    .map(|(name, value)| format!("{name:<24}{value}\n"))
    .collect()
}

fn replicas(quorum: &Quorum, replicas: &[ReplicaState]) -> String {
    let texts: Vec<String> = replicas
        .iter()
        .map(|replica| replica_text(quorum, replica))
        .collect();
    format!("[{}]", texts.join(", "))
}

fn replica_text(quorum: &Quorum, replica: &ReplicaState) -> String {
    let mut fields = vec![format!("\"id\": {}", replica.replica_id.0)];
    if !replica.replica_directory_id.is_nil() {
        fields.push(format!(
            "\"directoryId\": \"{}\"",
            kafka_uuid::format(replica.replica_directory_id)
        ));
    }
    let node = quorum
        .response
        .nodes
        .iter()
        .find(|node| node.node_id == replica.replica_id);
    if let Some(node) = node {
        let endpoints: Vec<String> = node
            .listeners
            .iter()
            .map(|it| format!("\"{}://{}\"", it.name, join_address(&it.host, it.port)))
            .collect();
        fields.push(format!("\"endpoints\": [{}]", endpoints.join(", ")));
    }
    format!("{{{}}}", fields.join(", "))
}

fn replication(partition: &PartitionData, now_ms: Option<i64>) -> String {
    let is_leader = |replica: &&ReplicaState| replica.replica_id == partition.leader_id;
    let end = partition
        .current_voters
        .iter()
        .find(is_leader)
        .map_or(0, |leader| leader.log_end_offset);
    let time = |ms: i64| match (ms, now_ms) {
        (-1, _) => "unknown".to_owned(),
        (ms, Some(now)) => format!("{} ms ago", (now - ms).max(0)),
        (ms, None) => ms.to_string(),
    };
    let row = |replica: &ReplicaState, status: &str| {
        vec![
            replica.replica_id.0.to_string(),
            kafka_uuid::format(replica.replica_directory_id),
            replica.log_end_offset.to_string(),
            (end - replica.log_end_offset).to_string(),
            time(replica.last_fetch_timestamp),
            time(replica.last_caught_up_timestamp),
            status.to_owned(),
        ]
    };
    let leader = partition
        .current_voters
        .iter()
        .filter(is_leader)
        .map(|it| row(it, "Leader"));
    let followers = partition
        .current_voters
        .iter()
        .filter(|it| !is_leader(it))
        .map(|it| row(it, "Follower"));
    let observers = partition.observers.iter().map(|it| row(it, "Observer"));
    let rows: Vec<Vec<String>> = leader.chain(followers).chain(observers).collect();
    let headers = [
        "NodeId",
        "DirectoryId",
        "LogEndOffset",
        "Lag",
        "LastFetchTimestamp",
        "LastCaughtUpTimestamp",
        "Status",
    ];
    table::render(&headers, &rows, "\t")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::describe_quorum_response::{Listener, Node};

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: QuorumArguments,
    }

    #[test]
    fn where_the_cluster_is_may_be_said_anywhere() {
        use clap::Parser;
        let server = ["--bootstrap-server", "h:1"];
        let describe = ["describe", "--status"];
        for words in [[server, describe].concat(), [describe, server].concat()] {
            let line = Line::try_parse_from([&["quorum"][..], &words].concat()).unwrap();
            assert_eq!(line.arguments.connection.bootstrap_server, ["h:1"]);
        }
        let controller = ["quorum", "describe", "--status", "--bootstrap-controller", "h:2"];
        let line = Line::try_parse_from(controller).unwrap();
        assert_eq!(line.arguments.bootstrap_controller.unwrap(), ["h:2"]);
    }

    fn voter(id: i32, end: i64, caught_up: i64) -> ReplicaState {
        ReplicaState::default()
            .with_replica_id(BrokerId(id))
            .with_log_end_offset(end)
            .with_last_fetch_timestamp(caught_up)
            .with_last_caught_up_timestamp(caught_up)
    }

    fn quorum() -> Quorum {
        let partition = PartitionData::default()
            .with_leader_id(BrokerId(2))
            .with_leader_epoch(7)
            .with_high_watermark(90)
            .with_current_voters(vec![voter(1, 95, 900), voter(2, 100, 1000)]);
        let listener = Listener::default()
            .with_name("CONTROLLER".into())
            .with_host("h".into())
            .with_port(9093);
        let node = Node::default()
            .with_node_id(BrokerId(1))
            .with_listeners(vec![listener]);
        Quorum {
            partition,
            response: DescribeQuorumResponse::default().with_nodes(vec![node]),
        }
    }

    #[test]
    fn the_status_names_the_slowest_follower() {
        let text = status(&quorum(), "id", 1100);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ClusterId:              id");
        assert_eq!(lines[4], "MaxFollowerLag:         5");
        assert_eq!(lines[5], "MaxFollowerLagTimeMs:   100");
        assert_eq!(
            lines[6],
            "CurrentVoters:          [{\"id\": 1, \"endpoints\": [\"CONTROLLER://h:9093\"]}, {\"id\": 2}]"
        );
        assert_eq!(lines[7], "CurrentObservers:       []");
    }

    #[test]
    fn the_leader_stands_first() {
        let text = replication(&quorum().partition, Some(1100));
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].starts_with("2     \tAAAAAAAAAAAAAAAAAAAAAA\t100"),
            "{text}"
        );
        assert!(lines[2].contains("\t5  \t200 ms ago"), "{text}");
        assert!(lines[2].trim_end().ends_with("Follower"), "{text}");
    }
}
