//! OffsetCommit, OffsetFetch and OffsetDelete.

use std::collections::BTreeSet;

use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetDeleteRequest, OffsetDeleteResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::time::Now;

use super::appends::Then;
use super::group::{Group, GroupState};
use super::records::{OffsetValue, Record};
use super::responses::offset_commit_answer;
use super::{Caller, GroupRequest, GroupResponse, GroupShard, owned};
use crate::coordination::RequestToken;

/// From this version on, a commit to a group that does not exist says so.
const GROUP_ID_NOT_FOUND_VERSION: i16 = 9;

impl GroupShard {
    pub(super) fn offset_commit(
        &mut self,
        now: Now,
        token: RequestToken,
        caller: &Caller,
        request: &OffsetCommitRequest,
    ) {
        if let Err(code) = self.validate_commit(caller, request) {
            let refusal = offset_commit_answer(request, |_, _| Err(code));
            self.replies.push((token, GroupResponse::OffsetCommit(refusal)));
            return;
        }
        if let Some((group, mut turn)) = self.group_turn(now, &request.group_id.0) {
            // A commit is a sign of life.
            if matches!(group.state(), GroupState::Stable | GroupState::PreparingRebalance) {
                group.restart_session(&mut turn, &request.member_id);
            }
        }
        let group_id = owned(&request.group_id.0);
        let mut records = Vec::new();
        let response = offset_commit_answer(request, |topic, partition| {
            self.validate_offset_metadata(partition.committed_metadata.as_ref())?;
            records.push(Record::Offset {
                group_id: group_id.clone(),
                topic: owned(&topic.name.0),
                partition: partition.partition_index,
                value: Some(offset_value(partition, request.retention_time_ms, now)),
            });
            Ok(())
        });
        let reply = (token, GroupResponse::OffsetCommit(response));
        if records.is_empty() {
            self.replies.push(reply);
        } else {
            self.appends.push(records, Then::Nothing).replies.push(reply);
        }
    }

    fn validate_commit(&self, caller: &Caller, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
        let topics = request.topics.iter().map(|topic| &topic.name.0);
        self.validate_names(&request.group_id.0, topics)?;
        if let Some(group) = self.groups.get(&request.group_id.0) {
            return group.validate_commit(request);
        }
        if request.generation_id_or_member_epoch >= 0 {
            let is_old = caller.api_version < GROUP_ID_NOT_FOUND_VERSION;
            return Err(if is_old {
                ErrorCode::IllegalGeneration
            } else {
                ErrorCode::GroupIdNotFound
            });
        }
        self.validate_new_group()
    }

    /// The records have room for names of a length that fits two bytes.
    pub(super) fn validate_names<'a>(
        &self,
        group_id: &StrBytes,
        topics: impl IntoIterator<Item = &'a StrBytes>,
    ) -> Result<(), ErrorCode> {
        let is_too_long = |text: &StrBytes| text.len() > i16::MAX as usize;
        if is_too_long(group_id) || topics.into_iter().any(is_too_long) {
            return Err(ErrorCode::InvalidRequest);
        }
        Ok(())
    }

    /// Without a generation a group that does not exist becomes a holder of offsets.
    pub(super) fn validate_new_group(&self) -> Result<(), ErrorCode> {
        if self.groups.len() >= self.settings.groups_max {
            Err(ErrorCode::PolicyViolation)
        } else {
            Ok(())
        }
    }

    pub(super) fn validate_offset_metadata(&self, metadata: Option<&StrBytes>) -> Result<(), ErrorCode> {
        let Some(metadata) = metadata else {
            return Ok(());
        };
        let is_too_long = metadata.encode_utf16().count() > self.settings.offset_metadata_max_bytes
            || metadata.len() > i16::MAX as usize;
        if is_too_long {
            Err(ErrorCode::OffsetMetadataTooLarge)
        } else {
            Ok(())
        }
    }

    pub(super) fn offset_fetch(
        &mut self,
        token: RequestToken,
        request: OffsetFetchRequestGroup,
        require_stable: bool,
    ) {
        let under_way = if require_stable {
            self.appends.last_of_mut(&request.group_id.0)
        } else {
            None
        };
        match under_way {
            Some(pending) => pending.fetches.push((token, request)),
            None => {
                let response = self.fetch_offsets(&request, require_stable);
                self.replies.push((token, response));
            }
        }
    }

    /// What is committed, and -1 for what is not. A group that does not exist has committed nothing. Where a stable offset
    /// is asked for and a transaction sets it, the client is to ask again (KIP-447).
    pub(super) fn fetch_offsets(
        &self,
        request: &OffsetFetchRequestGroup,
        require_stable: bool,
    ) -> GroupResponse {
        let group_id = &request.group_id.0;
        let offsets = self.replicated.offsets_of(group_id);
        let fetched = |topic: &StrBytes, partition: i32, value: Option<&OffsetValue>| {
            if require_stable && self.replicated.is_pending(group_id, topic, partition) {
                fetched(partition, None).with_error_code(ErrorCode::UnstableOffsetCommit.code())
            } else {
                fetched(partition, value)
            }
        };
        let topics = match &request.topics {
            Some(asked) => asked
                .iter()
                .map(|topic| {
                    let committed = offsets.and_then(|offsets| offsets.get(&topic.name.0));
                    let partitions = topic.partition_indexes.iter().map(|partition| {
                        let value = committed.and_then(|partitions| partitions.get(partition));
                        fetched(&topic.name.0, *partition, value)
                    });
                    OffsetFetchResponseTopics::default()
                        .with_name(topic.name.clone())
                        .with_topic_id(topic.topic_id)
                        .with_partitions(partitions.collect())
                })
                .collect(),
            None => offsets
                .into_iter()
                .flatten()
                .map(|(topic, partitions)| {
                    let partitions = partitions
                        .iter()
                        .map(|(partition, value)| fetched(topic, *partition, Some(value)));
                    OffsetFetchResponseTopics::default()
                        .with_name(TopicName(topic.clone()))
                        .with_partitions(partitions.collect())
                })
                .collect(),
        };
        GroupResponse::OffsetFetch(
            OffsetFetchResponseGroup::default()
                .with_group_id(request.group_id.clone())
                .with_topics(topics),
        )
    }

    pub(super) fn offset_delete(&mut self, token: RequestToken, request: &OffsetDeleteRequest) {
        let group_id = owned(&request.group_id.0);
        let group = match self.groups.get(&group_id) {
            _ if group_id.is_empty() => Err(ErrorCode::InvalidGroupId),
            None => Err(ErrorCode::GroupIdNotFound),
            Some(group) if group.state() != GroupState::Empty && !group.uses_consumer_protocol() => {
                Err(ErrorCode::NonEmptyGroup)
            }
            Some(group) => Ok(group),
        };
        let group = match group {
            Ok(group) => group,
            Err(code) => {
                let refusal = OffsetDeleteResponse::default().with_error_code(code.code());
                self.replies.push((token, GroupResponse::OffsetDelete(refusal)));
                return;
            }
        };
        let existing = self.offsets_and_pending(&group_id);
        let mut records = Vec::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let is_subscribed = group.is_subscribed_to(&topic.name.0);
            let code = if is_subscribed {
                ErrorCode::GroupSubscribedToTopic.code()
            } else {
                0
            };
            let partitions = topic.partitions.iter().map(|partition| {
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(code)
            });
            let answered = OffsetDeleteResponseTopic::default().with_name(topic.name.clone());
            topics.push(answered.with_partitions(partitions.collect()));
            for partition in topic.partitions.iter().filter(|_| !is_subscribed) {
                let key = (topic.name.0.clone(), partition.partition_index);
                if let Some((topic, partition)) = existing.get(&key) {
                    records.push(offset_tombstone(&group_id, topic, *partition));
                }
            }
        }
        let reply = (
            token,
            GroupResponse::OffsetDelete(OffsetDeleteResponse::default().with_topics(topics)),
        );
        if records.is_empty() {
            self.replies.push(reply);
        } else {
            self.push_in_parts(records, Then::Nothing).replies.push(reply);
        }
    }

    /// The offsets that a group has, or will have when what is under way is committed.
    pub(super) fn offsets_and_pending(&self, group_id: &StrBytes) -> BTreeSet<(StrBytes, i32)> {
        let committed = self.replicated.offsets_of(group_id).into_iter().flatten();
        let mut offsets: BTreeSet<(StrBytes, i32)> = committed
            .flat_map(|(topic, partitions)| partitions.keys().map(|partition| (topic.clone(), *partition)))
            .collect();
        let of_transactions = self.replicated.pending_of(group_id);
        offsets.extend(of_transactions.map(|(topic, partition)| (topic.clone(), partition)));
        for record in self
            .appends
            .records()
            .filter(|record| record.group_id() == group_id)
        {
            if let Record::Offset {
                topic,
                partition,
                value: Some(_),
                ..
            } = record
            {
                offsets.insert((topic.clone(), *partition));
            }
        }
        offsets
    }
}

/// The record that takes an offset back.
pub(super) fn offset_tombstone(group_id: &StrBytes, topic: &StrBytes, partition: i32) -> Record {
    Record::Offset {
        group_id: group_id.clone(),
        topic: topic.clone(),
        partition,
        value: None,
    }
}

fn offset_value(partition: &OffsetCommitRequestPartition, retention_time_ms: i64, now: Now) -> OffsetValue {
    let expire_timestamp_ms = (retention_time_ms != -1)
        .then(|| now.wall_ms.saturating_add(retention_time_ms))
        .filter(|ms| *ms != -1);
    OffsetValue {
        offset: partition.committed_offset,
        // The record version that can carry its own expiry has no place for the epoch.
        leader_epoch: if expire_timestamp_ms.is_some() {
            -1
        } else {
            partition.committed_leader_epoch
        },
        metadata: partition
            .committed_metadata
            .as_ref()
            .map(owned)
            .unwrap_or_default(),
        commit_timestamp_ms: now.wall_ms,
        expire_timestamp_ms,
    }
}

fn fetched(partition: i32, value: Option<&OffsetValue>) -> OffsetFetchResponsePartitions {
    let answer = OffsetFetchResponsePartitions::default().with_partition_index(partition);
    match value {
        Some(value) => answer
            .with_committed_offset(value.offset)
            .with_committed_leader_epoch(value.leader_epoch)
            .with_metadata(Some(value.metadata.clone())),
        None => answer
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(StrBytes::new())),
    }
}

impl Group {
    fn validate_commit(&self, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        if generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        let is_member =
            generation >= 0 || !request.member_id.is_empty() || request.group_instance_id.is_some();
        if !is_member {
            return Err(ErrorCode::UnknownMemberId);
        }
        self.validate_member(&request.member_id, request.group_instance_id.as_ref())?;
        if generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        // Its partitions are being given away: the member must join again first.
        if self.state == GroupState::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }
}

impl GroupRequest {
    /// The group that the request is about; ListGroups is about all, EndTransaction about those of the transaction.
    #[must_use]
    pub fn group_id(&self) -> Option<&StrBytes> {
        match self {
            Self::JoinGroup(request) => Some(&request.group_id.0),
            Self::SyncGroup(request) => Some(&request.group_id.0),
            Self::Heartbeat(request) => Some(&request.group_id.0),
            Self::LeaveGroup(request) => Some(&request.group_id.0),
            Self::OffsetCommit(request) => Some(&request.group_id.0),
            Self::OffsetFetch { group, .. } => Some(&group.group_id.0),
            Self::OffsetDelete(request) => Some(&request.group_id.0),
            Self::TxnOffsetCommit { request, .. } => Some(&request.group_id.0),
            Self::DescribeGroup(group_id) | Self::DeleteGroup(group_id) => Some(&group_id.0),
            Self::ListGroups { .. } | Self::EndTransaction(_) => None,
        }
    }
}
