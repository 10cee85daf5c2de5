//! What `odradek roll` needs to know about a cluster at one moment.

use std::collections::BTreeMap;

use kafka_protocol::messages::BrokerId;
use kafka_protocol::messages::describe_quorum_response::ReplicaState;
use odradek_net::client::Client;

use crate::client::{ClusterClient, ClusterView, metadata};
use crate::configs::{self, TOPIC};
use crate::error::{CommandError, Outcome};
use crate::quorum;

/// A cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct ClusterState {
    /// Address by broker; only brokers that are not fenced.
    pub brokers: BTreeMap<i32, String>,
    /// The node that leads the quorum.
    pub active_controller: i32,
    /// The voters of the quorum.
    pub voters: Vec<Voter>,
    /// All partitions.
    pub partitions: Vec<PartitionState>,
}

/// A voter of the quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voter {
    /// The node.
    pub id: i32,
    /// When it last had everything, in milliseconds since the epoch; -1 if unknown.
    pub last_caught_up_ms: i64,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Its replicas.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub isr: Vec<i32>,
    /// min.insync.replicas of its topic.
    pub min_isr: usize,
}

impl ClusterState {
    /// The partitions that a node is in sync for.
    pub fn in_sync(&self, node: i32) -> Vec<(String, i32)> {
        let of_node = self.partitions.iter().filter(|it| it.isr.contains(&node));
        of_node.map(|it| (it.topic.clone(), it.partition)).collect()
    }

    /// The partitions that a node is a replica of.
    pub fn replica_of(&self, node: i32) -> Vec<(String, i32)> {
        let of_node = self.partitions.iter().filter(|it| it.replicas.contains(&node));
        of_node.map(|it| (it.topic.clone(), it.partition)).collect()
    }

    /// Those of `wanted` that the node is a replica of, but not in sync for; a partition that is gone is not missed.
    pub fn missing(&self, node: i32, wanted: &[(String, i32)]) -> Vec<String> {
        let by_name: BTreeMap<(&str, i32), &PartitionState> = self
            .partitions
            .iter()
            .map(|it| ((it.topic.as_str(), it.partition), it))
            .collect();
        wanted
            .iter()
            .filter(|(topic, partition)| {
                let now = by_name.get(&(topic.as_str(), *partition));
                now.is_some_and(|it| it.replicas.contains(&node) && !it.isr.contains(&node))
            })
            .map(|(topic, partition)| format!("{topic}-{partition}"))
            .collect()
    }
}

/// Reads the state from a broker other than `but`.
pub async fn read(client: &ClusterClient, but: Option<i32>) -> Outcome<ClusterState> {
    let mut asked = client.any().await?;
    let mut view = ClusterView::from(metadata(&asked, None).await?);
    let other = |view: &ClusterView| {
        view.brokers
            .iter()
            .find(|(id, _)| Some(**id) != but)
            .map(|(_, address)| address.clone())
    };
    if but.is_some_and(|but| view.brokers.get(&but).map(String::as_str) == Some(asked.address()))
        && let Some(address) = other(&view)
    {
        asked = client.at(&address).await?;
        view = ClusterView::from(metadata(&asked, None).await?);
    }
    let names: Vec<(i8, String)> = view
        .names()
        .into_iter()
        .map(|name| (TOPIC, name.to_owned()))
        .collect();
    let configs = match configs::describe_resources(&asked, &names, false).await {
        // A topic was deleted between the two questions.
        Err(CommandError::Api(error)) => return Err(CommandError::Api(error)),
        result => result?,
    };
    let min_isr: BTreeMap<&str, usize> = configs
        .iter()
        .filter_map(|it| {
            Some((
                &*it.resource_name,
                configs::value(it, "min.insync.replicas")?.parse().ok()?,
            ))
        })
        .collect();
    let quorum = quorum::describe(&asked).await?.partition;
    let voter = |it: &ReplicaState| Voter {
        id: it.replica_id.0,
        last_caught_up_ms: it.last_caught_up_timestamp,
    };
    Ok(ClusterState {
        active_controller: quorum.leader_id.0,
        voters: quorum.current_voters.iter().map(voter).collect(),
        partitions: partitions(&view, &min_isr),
        brokers: view.brokers,
    })
}

/// Brokers and partitions as one node has them; it is not asked for the quorum and for min.insync.replicas.
pub async fn as_seen_by(node: &Client) -> Outcome<ClusterState> {
    let view = ClusterView::from(metadata(node, None).await?);
    Ok(ClusterState {
        partitions: partitions(&view, &BTreeMap::new()),
        brokers: view.brokers,
        ..ClusterState::default()
    })
}

fn partitions(view: &ClusterView, min_isr: &BTreeMap<&str, usize>) -> Vec<PartitionState> {
    let mut partitions = Vec::new();
    for topic in view.topics.iter().filter(|topic| topic.error_code == 0) {
        let name = topic
            .name
            .as_ref()
            .map(|name| name.as_str().to_owned())
            .unwrap_or_default();
        let min_isr = min_isr.get(name.as_str()).copied().unwrap_or(1);
        for it in &topic.partitions {
            let ids = |nodes: &[BrokerId]| nodes.iter().map(|id| id.0).collect();
            partitions.push(PartitionState {
                topic: name.clone(),
                partition: it.partition_index,
                replicas: ids(&it.replica_nodes),
                isr: ids(&it.isr_nodes),
                min_isr,
            });
        }
    }
    partitions
}
