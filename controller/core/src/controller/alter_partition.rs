//! AlterPartition: a leader says who is in sync.

use std::collections::BTreeSet;

use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData as PartitionRequest};
use kafka_protocol::messages::alter_partition_response::{PartitionData, TopicData};
use kafka_protocol::messages::{AlterPartitionRequest, AlterPartitionResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataImage, PartitionImage};
use odradek_common::time::Now;
use slog::{debug, info};
use uuid::Uuid;

use super::draft::Draft;
use super::{Controller, Decision, check_broker_epoch};

impl Controller {
    /// Changes ISRs as their leaders ask, completes reassignments that this makes complete, and answers with the new state.
    pub fn alter_partition(
        &mut self,
        image: &MetadataImage,
        _now: Now,
        api_version: i16,
        request: &AlterPartitionRequest,
    ) -> Decision<AlterPartitionResponse> {
        let broker_id = request.broker_id.0;
        if let Err(error) = check_broker_epoch(image, broker_id, request.broker_epoch) {
            info!(self.logger, "refusing ISR changes"; "broker" => broker_id, "error" => %error);
            return Decision::answer(AlterPartitionResponse::default().with_error_code(error.code()));
        }
        let mut draft = Draft::new(image);
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let answer = self.alter_isr(&mut draft, broker_id, topic.topic_id, api_version, partition);
                let answer = answer.unwrap_or_else(|error| {
                    info!(self.logger, "refusing an ISR change"; "broker" => broker_id, "topic_id" => %topic.topic_id,
                        "partition" => partition.partition_index, "error" => %error);
                    PartitionData::default().with_error_code(error.code())
                });
                partitions.push(answer.with_partition_index(partition.partition_index));
            }
            topics.push(
                TopicData::default()
                    .with_topic_id(topic.topic_id)
                    .with_partitions(partitions),
            );
        }
        Decision {
            records: draft.records,
            response: AlterPartitionResponse::default().with_topics(topics),
        }
    }

    fn alter_isr(
        &self,
        draft: &mut Draft,
        broker_id: NodeId,
        topic_id: Uuid,
        api_version: i16,
        request: &PartitionRequest,
    ) -> Result<PartitionData, ApiError> {
        let index = request.partition_index;
        let image = &draft.image;
        let topic = image.topic_by_id(&topic_id).cloned();
        let topic = topic.ok_or_else(|| ApiError::new(ErrorCode::UnknownTopicId, "no topic has that id"))?;
        let unknown = || {
            ApiError::new(
                ErrorCode::UnknownTopicOrPartition,
                format!("{} has no such partition", topic.name),
            )
        };
        let before = topic.partition(index).ok_or_else(unknown)?;
        let isr = new_isr(api_version, request);
        check_epochs(before, broker_id, request)?;
        check_isr(before, &isr, request)?;
        check_eligible(image, before, &isr)?;
        let change = self
            .change(image, &topic, index, before)
            .election(self.election(image, &topic.name))
            .isr(isr.iter().map(|state| state.broker_id.0).collect())
            .recovering(request.leader_recovery_state != 0)
            .build();
        let new_leader = change.as_ref().and_then(|change| change.leader);
        if let Some(change) = change {
            debug!(self.logger, "changing a partition for its leader"; "topic" => &*topic.name, "partition" => index,
                "isr" => ?change.isr, "reassigned" => change.replicas.is_some());
            draft.push_change(change);
        }
        // The leader may not elect another one, but the reassignment that its ISR completes may.
        if new_leader.is_some_and(|leader| leader != broker_id) {
            return Err(ApiError::new(
                ErrorCode::NewLeaderElected,
                "the completed reassignment moved the leader",
            ));
        }
        let after = draft.image.partition(&topic.name, index).ok_or_else(unknown)?;
        Ok(PartitionData::default()
            .with_leader_id(after.leader.into())
            .with_leader_epoch(after.leader_epoch)
            .with_isr(after.isr.iter().map(|id| (*id).into()).collect())
            .with_leader_recovery_state(i8::from(after.recovering))
            .with_partition_epoch(after.partition_epoch))
    }
}

/// Up to version 2 the members come without their broker epochs.
fn new_isr(api_version: i16, request: &PartitionRequest) -> Vec<BrokerState> {
    if api_version >= 3 {
        return request.new_isr_with_epochs.clone();
    }
    request
        .new_isr
        .iter()
        .map(|id| BrokerState::default().with_broker_id(*id).with_broker_epoch(-1))
        .collect()
}

/// A leader that knows more than this controller speaks to one that is no longer active; one that knows less is fenced.
fn check_epochs(
    before: &PartitionImage,
    broker_id: NodeId,
    request: &PartitionRequest,
) -> Result<(), ApiError> {
    let refuse = |code, detail: String| Err(ApiError::new(code, detail));
    let (leader_epoch, partition_epoch) = (request.leader_epoch, request.partition_epoch);
    if leader_epoch > before.leader_epoch || partition_epoch > before.partition_epoch {
        return refuse(
            ErrorCode::NotController,
            "the leader has seen later metadata than this controller".to_owned(),
        );
    }
    if leader_epoch < before.leader_epoch {
        return refuse(
            ErrorCode::FencedLeaderEpoch,
            format!("the leader epoch is {}, not {leader_epoch}", before.leader_epoch),
        );
    }
    if broker_id != before.leader {
        return refuse(
            ErrorCode::InvalidRequest,
            format!("the leader is broker {}", before.leader),
        );
    }
    if partition_epoch < before.partition_epoch {
        return refuse(
            ErrorCode::InvalidUpdateVersion,
            format!(
                "the partition epoch is {}, not {partition_epoch}",
                before.partition_epoch
            ),
        );
    }
    Ok(())
}

fn check_isr(
    before: &PartitionImage,
    isr: &[BrokerState],
    request: &PartitionRequest,
) -> Result<(), ApiError> {
    let refuse = |detail: String| Err(ApiError::new(ErrorCode::InvalidRequest, detail));
    let members: BTreeSet<NodeId> = isr.iter().map(|state| state.broker_id.0).collect();
    if members.len() != isr.len() || !members.iter().all(|id| before.replicas.contains(id)) {
        return refuse(format!(
            "the ISR {members:?} is no subset of the replicas {:?}",
            before.replicas
        ));
    }
    if !members.contains(&before.leader) {
        return refuse(format!("the ISR {members:?} lacks the leader {}", before.leader));
    }
    match request.leader_recovery_state {
        0 => Ok(()),
        1 if isr.len() > 1 => refuse("a recovering leader is alone in its ISR".to_owned()),
        1 if !before.recovering => refuse("the leader has already recovered".to_owned()),
        1 => Ok(()),
        other => refuse(format!("{other} is no leader recovery state")),
    }
}

/// KIP-841 and KIP-903: nobody joins the ISR who is fenced, about to stop, or has restarted since the leader saw it fetch. Nor
/// does a replica whose log directory has failed since.
fn check_eligible(
    image: &MetadataImage,
    before: &PartitionImage,
    isr: &[BrokerState],
) -> Result<(), ApiError> {
    for state in isr {
        let id = state.broker_id.0;
        let why = match image.brokers.get(&id) {
            None => "is not registered",
            Some(broker) if broker.in_controlled_shutdown => "is about to stop",
            Some(broker) if broker.fenced => "is fenced",
            Some(broker) if state.broker_epoch != -1 && state.broker_epoch != broker.broker_epoch => {
                "has registered anew since"
            }
            Some(broker) if !before.isr.contains(&id) && !broker.has_online(before.directory_of(id)) => {
                "has its replica in a log directory that failed"
            }
            Some(_) => continue,
        };
        return Err(ApiError::new(
            ErrorCode::IneligibleReplica,
            format!("broker {id} {why}"),
        ));
    }
    Ok(())
}
