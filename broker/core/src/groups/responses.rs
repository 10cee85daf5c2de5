//! Answers: refusals in the shape of each request, and the shape that each version wants.

use bytes::Bytes;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    GroupId, HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteResponse, OffsetFetchResponse, SyncGroupResponse,
    TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::{ErrorCode, wire_code};

use super::{GroupRequest, GroupResponse};

/// First version of TxnOffsetCommit whose clients know that a coordinator may be loading.
const LOADING_KNOWN_SINCE: i16 = 2;

impl GroupRequest {
    /// The answer that refuses the request with this error, in the place where its clients look for it.
    #[must_use]
    pub fn refuse(self, code: ErrorCode) -> GroupResponse {
        match self {
            Self::JoinGroup(request) => join_refusal(request.member_id, code),
            // Clients know no code 14 here. The rebalance under way is lost: they join again, which asks for patience.
            Self::SyncGroup(_) if code == ErrorCode::CoordinatorLoadInProgress => {
                sync_refusal(ErrorCode::RebalanceInProgress)
            }
            Self::SyncGroup(_) => sync_refusal(code),
            // Kafka answers heartbeats while it loads as if all were well: no client has a use for the error.
            Self::Heartbeat(_) if code == ErrorCode::CoordinatorLoadInProgress => heartbeat_answer(Ok(())),
            Self::Heartbeat(_) => heartbeat_answer(Err(code)),
            Self::LeaveGroup(_) => {
                GroupResponse::LeaveGroup(LeaveGroupResponse::default().with_error_code(code.code()))
            }
            Self::OffsetCommit(request) => {
                GroupResponse::OffsetCommit(offset_commit_answer(&request, |_, _| Err(code)))
            }
            Self::OffsetFetch { group, .. } => offset_fetch_refusal(group.group_id, code),
            Self::OffsetDelete(_) => {
                GroupResponse::OffsetDelete(OffsetDeleteResponse::default().with_error_code(code.code()))
            }
            Self::DescribeGroup(group_id) => GroupResponse::DescribeGroup(
                DescribedGroup::default()
                    .with_group_id(group_id)
                    .with_error_code(code.code()),
            ),
            Self::ListGroups { .. } => GroupResponse::ListGroups(Err(code)),
            Self::DeleteGroup(group_id) => GroupResponse::DeleteGroup(
                DeletableGroupResult::default()
                    .with_group_id(group_id)
                    .with_error_code(code.code()),
            ),
            Self::TxnOffsetCommit { request, .. } => {
                GroupResponse::TxnOffsetCommit(txn_offset_commit_answer(&request, |_, _| Err(code)))
            }
            Self::EndTransaction(_) => GroupResponse::EndTransaction(Err(code)),
        }
    }
}

impl GroupResponse {
    /// The same answer after its records could not be stored.
    pub(super) fn refused(self, code: ErrorCode) -> Self {
        match self {
            Self::JoinGroup(response) => join_refusal(response.member_id, code),
            Self::SyncGroup(_) => sync_refusal(code),
            Self::Heartbeat(_) => heartbeat_answer(Err(code)),
            Self::LeaveGroup(_) => {
                Self::LeaveGroup(LeaveGroupResponse::default().with_error_code(code.code()))
            }
            Self::OffsetCommit(mut response) => {
                let partitions = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
                for partition in partitions.filter(|partition| partition.error_code == 0) {
                    partition.error_code = code.code();
                }
                Self::OffsetCommit(response)
            }
            Self::OffsetFetch(group) => offset_fetch_refusal(group.group_id, code),
            Self::OffsetDelete(_) => {
                Self::OffsetDelete(OffsetDeleteResponse::default().with_error_code(code.code()))
            }
            Self::DescribeGroup(group) => Self::DescribeGroup(
                DescribedGroup::default()
                    .with_group_id(group.group_id)
                    .with_error_code(code.code()),
            ),
            Self::ListGroups(_) => Self::ListGroups(Err(code)),
            Self::DeleteGroup(result) => Self::DeleteGroup(result.with_error_code(code.code())),
            Self::TxnOffsetCommit(mut response) => {
                let partitions = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
                for partition in partitions.filter(|partition| partition.error_code == 0) {
                    partition.error_code = code.code();
                }
                Self::TxnOffsetCommit(response)
            }
            Self::EndTransaction(_) => Self::EndTransaction(Err(code)),
        }
    }

    /// Leaves out what the version cannot say.
    #[must_use]
    pub fn for_version(mut self, version: i16) -> Self {
        match &mut self {
            Self::JoinGroup(response) => {
                if version < 7 {
                    response.protocol_type = None;
                    response.protocol_name.get_or_insert_default();
                }
                response.skip_assignment &= version >= 9;
                for member in response.members.iter_mut().filter(|_| version < 5) {
                    member.group_instance_id = None;
                }
            }
            Self::SyncGroup(response) if version < 5 => {
                response.protocol_type = None;
                response.protocol_name = None;
            }
            Self::OffsetFetch(group) if version < 5 => {
                for partition in group.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                    partition.committed_leader_epoch = -1;
                }
            }
            Self::DescribeGroup(group) => {
                if version < 6 {
                    group.error_message = None;
                }
                for member in group.members.iter_mut().filter(|_| version < 4) {
                    member.group_instance_id = None;
                }
            }
            Self::ListGroups(Ok(groups)) => {
                for group in groups {
                    if version < 4 {
                        group.group_state = StrBytes::new();
                    }
                    if version < 5 {
                        group.group_type = StrBytes::new();
                    }
                }
            }
            // KAFKA-7296: producers of before 2.0 fail for good over the other error.
            Self::TxnOffsetCommit(response) if version < LOADING_KNOWN_SINCE => {
                let partitions = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
                for partition in partitions {
                    if partition.error_code == ErrorCode::CoordinatorLoadInProgress.code() {
                        partition.error_code = ErrorCode::CoordinatorNotAvailable.code();
                    }
                }
            }
            Self::SyncGroup(_)
            | Self::TxnOffsetCommit(_)
            | Self::EndTransaction(_)
            | Self::Heartbeat(_)
            | Self::LeaveGroup(_)
            | Self::OffsetCommit(_)
            | Self::OffsetFetch(_)
            | Self::OffsetDelete(_)
            | Self::ListGroups(Err(_))
            | Self::DeleteGroup(_) => {}
        }
        self
    }
}

/// One group's offsets in the form of versions 1 to 7. Version 1 has no place for the group's error: it goes to every
/// partition that was asked for.
#[must_use]
pub fn offset_fetch_of_one_group(
    group: OffsetFetchResponseGroup,
    asked: Option<&[OffsetFetchRequestTopic]>,
    version: i16,
) -> OffsetFetchResponse {
    let error_code = group.error_code;
    if error_code != 0 && version < 2 {
        let topics = asked.unwrap_or_default().iter().map(|topic| {
            let refused = topic.partition_indexes.iter().map(|partition_index| {
                OffsetFetchResponsePartition::default()
                    .with_partition_index(*partition_index)
                    .with_committed_offset(-1)
                    .with_metadata(Some(StrBytes::new()))
                    .with_error_code(error_code)
            });
            OffsetFetchResponseTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(refused.collect())
        });
        return OffsetFetchResponse::default().with_topics(topics.collect());
    }
    let topics = group.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_metadata(partition.metadata)
                .with_error_code(partition.error_code)
        });
        OffsetFetchResponseTopic::default()
            .with_name(topic.name)
            .with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default()
        .with_topics(topics.collect())
        .with_error_code(error_code)
}

pub(super) fn join_refusal(member_id: StrBytes, code: ErrorCode) -> GroupResponse {
    GroupResponse::JoinGroup(
        JoinGroupResponse::default()
            .with_error_code(code.code())
            .with_generation_id(-1)
            .with_protocol_name(None)
            .with_member_id(member_id),
    )
}

pub(super) fn sync_refusal(code: ErrorCode) -> GroupResponse {
    GroupResponse::SyncGroup(SyncGroupResponse::default().with_error_code(code.code()))
}

pub(super) fn sync_success(
    protocol_type: &Option<StrBytes>,
    protocol: &Option<StrBytes>,
    assignment: &Bytes,
) -> GroupResponse {
    GroupResponse::SyncGroup(
        SyncGroupResponse::default()
            .with_protocol_type(protocol_type.clone())
            .with_protocol_name(protocol.clone())
            .with_assignment(assignment.clone()),
    )
}

/// Consumers before 3.9 die of COORDINATOR_NOT_AVAILABLE here, and look for the coordinator again after NOT_COORDINATOR.
fn offset_fetch_refusal(group_id: GroupId, code: ErrorCode) -> GroupResponse {
    let code = match code {
        ErrorCode::CoordinatorNotAvailable => ErrorCode::NotCoordinator,
        known => known,
    };
    GroupResponse::OffsetFetch(
        OffsetFetchResponseGroup::default()
            .with_group_id(group_id)
            .with_error_code(code.code()),
    )
}

pub(super) fn heartbeat_answer(result: Result<(), ErrorCode>) -> GroupResponse {
    GroupResponse::Heartbeat(HeartbeatResponse::default().with_error_code(wire_code(result.err())))
}

/// An answer for every partition of a commit.
pub(super) fn offset_commit_answer(
    request: &OffsetCommitRequest,
    mut answer: impl FnMut(
        &kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic,
        &kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition,
    ) -> Result<(), ErrorCode>,
) -> OffsetCommitResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(wire_code(answer(topic, partition).err()))
        });
        let partitions = partitions.collect();
        topics.push(
            OffsetCommitResponseTopic::default()
                .with_name(topic.name.clone())
                .with_topic_id(topic.topic_id)
                .with_partitions(partitions),
        );
    }
    OffsetCommitResponse::default().with_topics(topics)
}

/// An answer for every partition of a transactional commit.
pub(super) fn txn_offset_commit_answer(
    request: &TxnOffsetCommitRequest,
    mut answer: impl FnMut(
        &TxnOffsetCommitRequestTopic,
        &TxnOffsetCommitRequestPartition,
    ) -> Result<(), ErrorCode>,
) -> TxnOffsetCommitResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let partitions = topic.partitions.iter().map(|partition| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(wire_code(answer(topic, partition).err()))
        });
        let answered = TxnOffsetCommitResponseTopic::default().with_name(topic.name.clone());
        topics.push(answered.with_partitions(partitions.collect()));
    }
    TxnOffsetCommitResponse::default().with_topics(topics)
}
