//! AlterPartitionReassignments and ListPartitionReassignments: partitions move to other replicas, and who is moving.
//!
//! A reassignment first adds the new replicas to the old ones; when all that stay are in sync, the others leave
//! (see [`super::PartitionChangeBuilder`]).

use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataImage, PartitionImage, TopicImage};
use odradek_common::time::Now;
use slog::info;

use super::create_topics::check_manual_assignment;
use super::draft::Draft;
use super::{Controller, Decision, wire_error};

impl Controller {
    /// Starts, replaces or cancels reassignments.
    pub fn alter_partition_reassignments(
        &mut self,
        image: &MetadataImage,
        _now: Now,
        request: &AlterPartitionReassignmentsRequest,
    ) -> Decision<AlterPartitionReassignmentsResponse> {
        let mut draft = Draft::new(image);
        let mut responses = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let results = topic.partitions.iter().map(|partition| {
                let may_resize = request.allow_replication_factor_change;
                let error = self
                    .reassign(&mut draft, topic.name.as_str(), partition, may_resize)
                    .err();
                let (code, message) = wire_error(error.as_ref());
                ReassignablePartitionResponse::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(code)
                    .with_error_message(message)
            });
            let results = results.collect();
            responses.push(
                ReassignableTopicResponse::default()
                    .with_name(topic.name.clone())
                    .with_partitions(results),
            );
        }
        info!(self.logger, "altered reassignments"; "changes" => draft.records.len());
        let response = AlterPartitionReassignmentsResponse::default()
            .with_error_message(None)
            .with_allow_replication_factor_change(request.allow_replication_factor_change)
            .with_responses(responses);
        Decision {
            records: draft.records,
            response,
        }
    }

    fn reassign(
        &self,
        draft: &mut Draft,
        name: &str,
        request: &ReassignablePartition,
        may_resize: bool,
    ) -> Result<(), ApiError> {
        self.settings
            .check_records(draft.records.len() + 1, "reassignments")?;
        let image = &draft.image;
        let index = request.partition_index;
        let unknown = || {
            ApiError::new(
                ErrorCode::UnknownTopicOrPartition,
                format!("there is no {name}-{index}"),
            )
        };
        let topic = image.topic(name).ok_or_else(unknown)?;
        let partition = topic.partition(index).ok_or_else(unknown)?;
        let change = match &request.replicas {
            None => self.cancel_reassignment(image, topic, index, partition)?,
            Some(target) => {
                let target: Vec<NodeId> = target.iter().map(|id| id.0).collect();
                check_manual_assignment(image, &target, None)?;
                check_size(partition, &target, may_resize)?;
                let adding: Vec<NodeId> = without(&target, &partition.replicas);
                let mut removing: Vec<NodeId> = without(&partition.replicas, &target);
                removing.sort_unstable();
                let replicas = [&target[..], &removing].concat();
                self.change(image, topic, index, partition)
                    .replicas(replicas, adding, removing)
                    .build()
            }
        };
        if let Some(change) = change {
            draft.push_change(change);
        }
        Ok(())
    }

    fn cancel_reassignment(
        &self,
        image: &MetadataImage,
        topic: &TopicImage,
        index: i32,
        partition: &PartitionImage,
    ) -> Result<Option<odradek_common::metadata::proto::PartitionChangeRecord>, ApiError> {
        if !is_reassigning(partition) {
            let detail = format!("{}-{index} is not being reassigned", topic.name);
            return Err(ApiError::new(ErrorCode::NoReassignmentInProgress, detail));
        }
        let replicas = without(&partition.replicas, &partition.adding_replicas);
        let isr = without(&partition.isr, &partition.adding_replicas);
        let elr = without(&partition.elr, &partition.adding_replicas);
        let had_members = !partition.isr.is_empty() || !partition.elr.is_empty();
        let unclean = isr.is_empty() && elr.is_empty() && had_members;
        if unclean && !self.settings.unclean_election(image, &topic.name) {
            let detail = format!(
                "none of the old replicas {replicas:?} of {}-{index} is in sync: cancelling needs an unclean election",
                topic.name
            );
            return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, detail));
        }
        let change = self
            .change(image, topic, index, partition)
            .election(self.election(image, &topic.name));
        Ok(change.isr(isr).replicas(replicas, Vec::new(), Vec::new()).build())
    }

    /// The reassignments under way, of the named partitions or of all.
    #[must_use]
    pub fn list_partition_reassignments(
        image: &MetadataImage,
        request: &ListPartitionReassignmentsRequest,
    ) -> ListPartitionReassignmentsResponse {
        let topics: Vec<OngoingTopicReassignment> = match &request.topics {
            None => image
                .topics
                .values()
                .filter_map(|topic| ongoing(topic, None))
                .collect(),
            Some(topics) => topics
                .iter()
                .filter_map(|topic| {
                    ongoing(image.topic(topic.name.as_str())?, Some(&topic.partition_indexes))
                })
                .collect(),
        };
        ListPartitionReassignmentsResponse::default()
            .with_error_message(None)
            .with_topics(topics)
    }
}

fn check_size(partition: &PartitionImage, target: &[NodeId], may_resize: bool) -> Result<(), ApiError> {
    let settled = partition
        .replicas
        .iter()
        .filter(|id| !partition.adding_replicas.contains(id))
        .count();
    if may_resize || target.len() == settled {
        return Ok(());
    }
    let detail = format!(
        "the request keeps the replication factor of {settled}, but names {} replicas",
        target.len()
    );
    Err(ApiError::new(ErrorCode::InvalidReplicationFactor, detail))
}

fn is_reassigning(partition: &PartitionImage) -> bool {
    !partition.adding_replicas.is_empty() || !partition.removing_replicas.is_empty()
}

fn without(ids: &[NodeId], gone: &[NodeId]) -> Vec<NodeId> {
    ids.iter().copied().filter(|id| !gone.contains(id)).collect()
}

fn ongoing(topic: &TopicImage, indexes: Option<&Vec<i32>>) -> Option<OngoingTopicReassignment> {
    let wire = |ids: &[NodeId]| -> Vec<BrokerId> { ids.iter().map(|id| (*id).into()).collect() };
    let asked = |index: i32| indexes.is_none_or(|indexes| indexes.contains(&index));
    let partitions: Vec<_> = (0..)
        .zip(&topic.partitions)
        .filter(|(index, partition)| asked(*index) && is_reassigning(partition))
        .map(|(index, partition)| {
            OngoingPartitionReassignment::default()
                .with_partition_index(index)
                .with_replicas(wire(&partition.replicas))
                .with_adding_replicas(wire(&partition.adding_replicas))
                .with_removing_replicas(wire(&partition.removing_replicas))
        })
        .collect();
    let name = TopicName(StrBytes::from_string(topic.name.to_string()));
    (!partitions.is_empty()).then(|| {
        OngoingTopicReassignment::default()
            .with_name(name)
            .with_partitions(partitions)
    })
}
