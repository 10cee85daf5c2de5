//! DescribeGroups, ListGroups, DeleteGroups, the expiry of offsets, and what follows a commit.

use std::collections::BTreeSet;

use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::ids::TopicPartition;
use odradek_common::time::Now;

use super::appends::{Pending, Then};
use super::group::{Group, GroupState};
use super::offsets::offset_tombstone;
use super::records::{OffsetValue, Record};
use super::{Caller, GroupResponse, GroupShard};
use crate::coordination::{AppendKind, RequestToken, append_refusal};

/// From this version on, DescribeGroups says that a group does not exist.
const GROUP_ID_NOT_FOUND_VERSION: i16 = 6;
/// Tombstones that go into the log together.
const TOMBSTONES_PER_APPEND: usize = 1_000;
/// The only type of group that this shard knows.
const GROUP_TYPE: &str = "classic";

impl GroupShard {
    pub(super) fn describe_group(&mut self, token: RequestToken, caller: &Caller, group_id: GroupId) {
        let described = match self.groups.get(&group_id.0) {
            Some(group) => group.describe(),
            None => {
                let dead = DescribedGroup::default()
                    .with_group_id(group_id.clone())
                    .with_group_state(StrBytes::from_static_str("Dead"));
                if caller.api_version < GROUP_ID_NOT_FOUND_VERSION {
                    dead
                } else {
                    let message = format!("Group {} not found.", group_id.0);
                    dead.with_error_code(ErrorCode::GroupIdNotFound.code())
                        .with_error_message(Some(StrBytes::from_string(message)))
                }
            }
        };
        self.replies
            .push((token, GroupResponse::DescribeGroup(described)));
    }

    pub(super) fn list_groups(&mut self, token: RequestToken, states: &[StrBytes], types: &[StrBytes]) {
        let is_named = |names: &[StrBytes], name: &str| {
            names.is_empty() || names.iter().any(|asked| asked.trim().eq_ignore_ascii_case(name))
        };
        let is_asked = |group: &&Group| is_named(states, group.state().name()) && is_named(types, GROUP_TYPE);
        let groups = self.groups.values().filter(is_asked).map(Group::list).collect();
        self.replies.push((token, GroupResponse::ListGroups(Ok(groups))));
    }

    pub(super) fn delete_group(&mut self, token: RequestToken, group_id: GroupId) {
        let refusal = match self.groups.get(&group_id.0) {
            None => Some(ErrorCode::GroupIdNotFound),
            Some(group) if group.state() != GroupState::Empty => Some(ErrorCode::NonEmptyGroup),
            Some(_) => None,
        };
        let result = DeletableGroupResult::default().with_group_id(group_id.clone());
        if let Some(code) = refusal {
            self.replies.push((
                token,
                GroupResponse::DeleteGroup(result.with_error_code(code.code())),
            ));
            return;
        }
        let pending = self.delete_empty_group(&super::owned(&group_id.0), Vec::new());
        pending.replies.push((token, GroupResponse::DeleteGroup(result)));
    }

    /// Takes an empty group out at once, so that whoever joins from now on founds another one behind the tombstones.
    fn delete_empty_group(&mut self, group_id: &StrBytes, mut records: Vec<Record>) -> &mut Pending {
        for (topic, partition) in self.offsets_and_pending(group_id) {
            records.push(offset_tombstone(group_id, &topic, partition));
        }
        records.push(Record::Group {
            group_id: group_id.clone(),
            value: None,
        });
        let mut taken_out = self.take_group_out(group_id).map(Box::new);
        if let Some(group) = &mut taken_out {
            // Whoever was given one of these ids and joins with it meanwhile hears that nobody knows it.
            group.pending_members.clear();
        }
        slog::info!(self.log, "deleting group"; "group" => %group_id);
        self.push_in_parts(
            records,
            Then::DeleteGroup {
                group_id: group_id.clone(),
                taken_out,
            },
        )
    }

    /// Takes a live group out, with its timers.
    fn take_group_out(&mut self, group_id: &StrBytes) -> Option<Group> {
        let (group, mut turn) = self.group_turn(Now::default(), group_id)?;
        group.cancel_timers(&mut turn);
        self.groups.remove(group_id)
    }

    /// Hands out many records in several appends; what follows belongs to the last.
    pub(super) fn push_in_parts(&mut self, mut records: Vec<Record>, then: Then) -> &mut Pending {
        while records.len() > TOMBSTONES_PER_APPEND {
            let rest = records.split_off(TOMBSTONES_PER_APPEND);
            self.appends.push(records, Then::Nothing);
            records = rest;
        }
        self.appends.push(records, then)
    }

    pub(super) fn delete_offsets_of(&mut self, partitions: &[TopicPartition]) {
        let gone: BTreeSet<(&str, i32)> = partitions
            .iter()
            .map(|partition| (&*partition.topic, partition.partition))
            .collect();
        let committed = self
            .replicated
            .offsets()
            .filter(|(_, topic, partition, _)| gone.contains(&(topic.as_str(), *partition)))
            .map(|(group_id, topic, partition, _)| offset_tombstone(group_id, topic, partition));
        let under_way = self.appends.records().filter_map(|record| match record {
            Record::Offset {
                group_id,
                topic,
                partition,
                value: Some(_),
            } if gone.contains(&(topic.as_str(), *partition)) => {
                Some(offset_tombstone(group_id, topic, *partition))
            }
            Record::Offset { .. } | Record::Group { .. } => None,
        });
        let pending = self
            .replicated
            .pending()
            .filter(|(_, topic, partition)| gone.contains(&(topic.as_str(), *partition)))
            .map(|(group_id, topic, partition)| offset_tombstone(&group_id, &topic, partition));
        let records: Vec<Record> = committed.chain(pending).chain(under_way).collect();
        if !records.is_empty() {
            self.push_in_parts(records, Then::Nothing);
        }
    }

    /// Takes back offsets past their retention, and groups that hold nothing any more (KIP-211).
    pub(super) fn expire(&mut self, now: Now) {
        // Records under way may renew what looks old: such groups wait for the next round.
        let busy: BTreeSet<StrBytes> = self
            .appends
            .records()
            .map(|record| record.group_id().clone())
            .collect();
        let group_ids: Vec<StrBytes> = self
            .groups
            .keys()
            .filter(|group_id| !busy.contains(*group_id))
            .cloned()
            .collect();
        let mut expired = 0;
        for group_id in group_ids {
            let Some(group) = self.groups.get(&group_id) else {
                continue;
            };
            let (old, has_more) = self.expired_offsets(group, now);
            expired += old.len();
            let is_unused = group.state() == GroupState::Empty && group.pending_members.is_empty();
            if is_unused && !has_more && !self.replicated.has_pending(&group_id) {
                self.delete_empty_group(&group_id, Vec::new());
            } else if !old.is_empty() {
                let records = old
                    .iter()
                    .map(|(topic, partition)| offset_tombstone(&group_id, topic, *partition))
                    .collect();
                self.push_in_parts(records, Then::Nothing);
            }
        }
        slog::debug!(self.log, "looked for expired offsets"; "expired" => expired);
    }

    /// The offsets of a group that are past their retention, and whether there are others.
    fn expired_offsets(&self, group: &Group, now: Now) -> (Vec<(StrBytes, i32)>, bool) {
        let Some(offsets) = self.replicated.offsets_of(&group.id) else {
            return (Vec::new(), false);
        };
        let mut old = Vec::new();
        let mut has_more = false;
        for (topic, partitions) in offsets {
            let is_subscribed = group.is_subscribed_to(topic);
            for (partition, value) in partitions {
                let is_pending = self.replicated.is_pending(&group.id, topic, *partition);
                let is_old = group.is_expired(value, now, self.settings.offsets_retention_ms);
                if !is_subscribed && !is_pending && is_old {
                    old.push((topic.clone(), *partition));
                } else {
                    has_more = true;
                }
            }
        }
        (old, has_more)
    }

    /// The log took or refused records: the replicated state follows, then the live groups, then the answers.
    pub(super) fn complete_append(&mut self, now: Now, pending: Pending, result: Result<(), ErrorCode>) {
        let Pending {
            kind,
            records,
            then,
            replies,
            fetches,
            ..
        } = pending;
        let result = match kind {
            AppendKind::Plain | AppendKind::Transactional(_) => result.map_err(append_refusal),
            // The transaction's coordinator wants to know what the log said.
            AppendKind::EndOfTransaction(_) => result,
        };
        if result.is_ok() {
            if let AppendKind::EndOfTransaction(end) = kind {
                self.replicated.end_transaction(end.producer_id, end.result);
            }
            for record in &records {
                match kind {
                    AppendKind::Transactional(writer) => {
                        self.replicated.apply_pending(writer.producer_id, record);
                    }
                    AppendKind::Plain | AppendKind::EndOfTransaction(_) => self.replicated.apply(record),
                }
                if let Record::Offset {
                    group_id,
                    value: Some(_),
                    ..
                } = record
                {
                    let simple = || Group::empty(group_id.clone(), Some(now.wall_ms));
                    self.groups.entry(group_id.clone()).or_insert_with(simple);
                }
            }
        }
        self.follow_up(now, then, result);
        for (token, response) in replies {
            let response = match result {
                Ok(()) => response,
                Err(code) => response.refused(code),
            };
            self.replies.push((token, response));
        }
        for (token, request) in fetches {
            let response = self.fetch_offsets(&request, true);
            self.replies.push((token, response));
        }
    }

    fn follow_up(&mut self, now: Now, then: Then, result: Result<(), ErrorCode>) {
        match then {
            Then::Nothing => {
                // A fenced producer's offsets are its own affair, which it is told.
                if let Err(code) = result
                    && code != ErrorCode::InvalidProducerEpoch
                {
                    slog::warn!(self.log, "could not store group records"; "error" => ?code);
                }
            }
            Then::NewGroup { group_id } => {
                if let Err(code) = result {
                    self.revert_new_group(now, &group_id, code);
                }
            }
            Then::Assignment {
                group_id,
                generation,
                assignments,
            } => {
                if let Some((group, mut turn)) = self.group_turn(now, &group_id) {
                    group.on_assignment_stored(&mut turn, generation, &assignments, result);
                }
            }
            Then::StaticMember(replaced) => {
                if let Some((group, mut turn)) = self.group_turn(now, &replaced.group_id.clone()) {
                    group.on_static_member_stored(&mut turn, *replaced, result);
                }
            }
            Then::DeleteGroup { group_id, taken_out } => {
                self.on_group_deleted(now, &group_id, taken_out, result);
            }
        }
    }

    /// The group was never stored. If it is past its first generation already, a later record stores it anew.
    fn revert_new_group(&mut self, now: Now, group_id: &StrBytes, code: ErrorCode) {
        slog::warn!(self.log, "could not store a new group"; "group" => %group_id, "error" => ?code);
        if self
            .groups
            .get(group_id)
            .is_some_and(|group| group.generation == 0)
        {
            if let Some(group) = self.take_group_out(group_id) {
                group.refuse_parked(code, &mut self.replies);
            }
            self.restore_group(now, group_id, None);
        }
    }

    fn on_group_deleted(
        &mut self,
        now: Now,
        group_id: &StrBytes,
        taken_out: Option<Box<Group>>,
        result: Result<(), ErrorCode>,
    ) {
        match result {
            Err(code) => {
                slog::warn!(self.log, "could not delete a group"; "group" => %group_id, "error" => ?code);
                self.restore_group(now, group_id, taken_out);
            }
            Ok(()) => {
                // A commit that was under way before the deletion may have brought the group back for a moment.
                let is_leftover = self.groups.get(group_id).is_some_and(Group::is_simple)
                    && self.replicated.offsets_of(group_id).is_none()
                    && !self.replicated.has_pending(group_id)
                    && !self.appends.touches(group_id);
                if is_leftover {
                    self.groups.remove(group_id);
                }
            }
        }
    }

    /// Puts a live group back as it was taken out, unless the log knows nothing of it or somebody has founded another one.
    /// The log may be behind: it may still have members that left since. One of which nothing but the log is known begins
    /// as after loading, so that members of the past do not stay for ever.
    fn restore_group(&mut self, now: Now, group_id: &StrBytes, taken_out: Option<Box<Group>>) {
        let stored = self.replicated.group(group_id);
        let has_offsets =
            self.replicated.offsets_of(group_id).is_some() || self.replicated.has_pending(group_id);
        let is_founded_anew = self.groups.get(group_id).is_some_and(|group| !group.is_simple());
        if is_founded_anew || (stored.is_none() && !has_offsets) {
            return;
        }
        if let Some(group) = taken_out {
            self.groups.insert(group_id.clone(), *group);
            return;
        }
        let group = Group::from_replicated(group_id, stored, now, &self.log);
        self.groups.insert(group_id.clone(), group);
        if let Some((group, mut turn)) = self.group_turn(now, group_id) {
            group.on_loaded(&mut turn);
        }
    }
}

impl Group {
    fn describe(&self) -> DescribedGroup {
        let is_stable = self.state == GroupState::Stable;
        let protocol = self.protocol.clone().filter(|_| is_stable).unwrap_or_default();
        let members = self.members.values().map(|member| {
            let metadata = if is_stable {
                member.metadata(&protocol)
            } else {
                bytes::Bytes::new()
            };
            DescribedGroupMember::default()
                .with_member_id(member.id.clone())
                .with_group_instance_id(member.instance_id.clone())
                .with_client_id(member.client_id.clone())
                .with_client_host(member.client_host.clone())
                .with_member_metadata(metadata)
                .with_member_assignment(member.assignment.clone())
        });
        DescribedGroup::default()
            .with_group_id(GroupId(self.id.clone()))
            .with_group_state(StrBytes::from_static_str(self.state.name()))
            .with_protocol_type(self.protocol_type.clone().unwrap_or_default())
            .with_protocol_data(protocol.clone())
            .with_members(members.collect())
    }

    fn list(&self) -> ListedGroup {
        ListedGroup::default()
            .with_group_id(GroupId(self.id.clone()))
            .with_protocol_type(self.protocol_type.clone().unwrap_or_default())
            .with_group_state(StrBytes::from_static_str(self.state.name()))
            .with_group_type(StrBytes::from_static_str(GROUP_TYPE))
    }

    /// An offset that nobody is interested in any more: its retention counts from the moment the group lost its last
    /// member, or, in groups without membership and for topics nobody subscribes to, from the commit.
    fn is_expired(&self, value: &OffsetValue, now: Now, retention_ms: i64) -> bool {
        let since_ms = match (&self.protocol_type, self.state) {
            (None, _) => value.commit_timestamp_ms,
            (Some(_), GroupState::Empty) => self.state_timestamp_ms.unwrap_or(value.commit_timestamp_ms),
            (Some(_), GroupState::Stable)
                if self.uses_consumer_protocol() && self.subscribed_topics.is_some() =>
            {
                value.commit_timestamp_ms
            }
            (Some(_), _) => return false,
        };
        match value.expire_timestamp_ms {
            Some(expire_timestamp_ms) => now.wall_ms >= expire_timestamp_ms,
            None => now.wall_ms.saturating_sub(since_ms) >= retention_ms,
        }
    }
}
