//! SyncGroup, Heartbeat and LeaveGroup.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{HeartbeatRequest, LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::time::Now;

use super::appends::Then;
use super::group::{Group, GroupState};
use super::responses::{heartbeat_answer, sync_refusal, sync_success};
use super::{Caller, GroupResponse, GroupShard, Turn, owned, owned_bytes};
use crate::coordination::RequestToken;

/// From this version on a request names several members, and each has its own error (KIP-345).
pub(super) const BATCH_LEAVE_VERSION: i16 = 3;

impl GroupShard {
    pub(super) fn sync_group(&mut self, now: Now, token: RequestToken, request: &SyncGroupRequest) {
        if request.group_id.is_empty() {
            self.replies
                .push((token, sync_refusal(ErrorCode::InvalidGroupId)));
            return;
        }
        match self.group_turn(now, &request.group_id.0) {
            Some((group, mut turn)) => group.sync(&mut turn, token, request),
            None => self
                .replies
                .push((token, sync_refusal(ErrorCode::UnknownMemberId))),
        }
    }

    pub(super) fn heartbeat(&mut self, now: Now, token: RequestToken, request: &HeartbeatRequest) {
        let answer = if request.group_id.is_empty() {
            Err(ErrorCode::InvalidGroupId)
        } else {
            match self.group_turn(now, &request.group_id.0) {
                Some((group, mut turn)) => group.heartbeat(&mut turn, request),
                None => Err(ErrorCode::UnknownMemberId),
            }
        };
        self.replies.push((token, heartbeat_answer(answer)));
    }

    pub(super) fn leave_group(
        &mut self,
        now: Now,
        token: RequestToken,
        caller: &Caller,
        request: LeaveGroupRequest,
    ) {
        if request.group_id.is_empty() {
            let request = super::GroupRequest::LeaveGroup(request);
            self.replies
                .push((token, request.refuse(ErrorCode::InvalidGroupId)));
            return;
        }
        let identities = if caller.api_version < BATCH_LEAVE_VERSION {
            vec![MemberIdentity::default().with_member_id(request.member_id)]
        } else {
            request.members
        };
        let appends_before = self.appends.count();
        let members = match self.group_turn(now, &request.group_id.0) {
            Some((group, mut turn)) => group.leave(&mut turn, &identities),
            None => identities
                .iter()
                .map(|member| member_left(member, Err(ErrorCode::UnknownMemberId)))
                .collect(),
        };
        let mut response = LeaveGroupResponse::default();
        if caller.api_version < BATCH_LEAVE_VERSION {
            response.error_code = members.first().map_or(0, |member| member.error_code);
        } else {
            response.members = members;
        }
        // The last member's leave empties the group: that is true once the log has it.
        let response = GroupResponse::LeaveGroup(response);
        let has_appended = self.appends.count() > appends_before;
        match self.appends.last_mut().filter(|_| has_appended) {
            Some(pending) => pending.replies.push((token, response)),
            None => self.replies.push((token, response)),
        }
    }
}

fn member_left(member: &MemberIdentity, result: Result<(), ErrorCode>) -> MemberResponse {
    MemberResponse::default()
        .with_member_id(member.member_id.clone())
        .with_group_instance_id(member.group_instance_id.clone())
        .with_error_code(odradek_common::error::wire_code(result.err()))
}

impl Group {
    fn validate_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        if self.state == GroupState::Empty {
            return Err(ErrorCode::UnknownMemberId);
        }
        self.validate_member(&request.member_id, request.group_instance_id.as_ref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |asked: &Option<StrBytes>, ours: &Option<StrBytes>| match (asked, ours) {
            (Some(asked), Some(ours)) => asked != ours,
            _ => false,
        };
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn sync(&mut self, turn: &mut Turn<'_>, token: RequestToken, request: &SyncGroupRequest) {
        if let Err(code) = self.validate_sync(request) {
            turn.reply(token, sync_refusal(code));
            return;
        }
        match self.state {
            GroupState::Empty | GroupState::PreparingRebalance => {
                turn.reply(token, sync_refusal(ErrorCode::RebalanceInProgress));
            }
            GroupState::CompletingRebalance => {
                self.note_sync(turn, &request.member_id);
                let member = self.members.get_mut(&request.member_id);
                if let Some(displaced) = member.and_then(|member| member.awaiting_sync.replace(token)) {
                    turn.reply(displaced, sync_refusal(ErrorCode::RebalanceInProgress));
                }
                if self.is_leader(&request.member_id) {
                    self.store_assignment(turn, request);
                }
            }
            GroupState::Stable => {
                self.note_sync(turn, &request.member_id);
                let assignment = self
                    .members
                    .get(&request.member_id)
                    .map(|member| member.assignment.clone());
                let assignment = assignment.unwrap_or_default();
                turn.reply(
                    token,
                    sync_success(&self.protocol_type, &self.protocol, &assignment),
                );
            }
        }
    }

    fn note_sync(&mut self, turn: &mut Turn<'_>, member_id: &StrBytes) {
        self.pending_sync.remove(member_id);
        if self.pending_sync.is_empty() {
            turn.timers.cancel(&self.sync_key());
        }
    }

    /// Members that the leader left out get no bytes; ids that are no members are dropped.
    fn store_assignment(&mut self, turn: &mut Turn<'_>, request: &SyncGroupRequest) {
        let assignments: BTreeMap<StrBytes, Bytes> = request
            .assignments
            .iter()
            .filter(|assigned| self.members.contains_key(&assigned.member_id))
            .map(|assigned| (owned(&assigned.member_id), owned_bytes(&assigned.assignment)))
            .collect();
        let record = self.to_record(|member| assignments.get(&member.id).cloned().unwrap_or_default());
        let (group_id, generation) = (self.id.clone(), self.generation);
        turn.appends.push(
            vec![record],
            Then::Assignment {
                group_id,
                generation,
                assignments,
            },
        );
    }

    /// The log took or refused the leader's assignment. Another member may have joined in the meantime: then the
    /// assignment is nobody's any more.
    pub(super) fn on_assignment_stored(
        &mut self,
        turn: &mut Turn<'_>,
        generation: i32,
        assignments: &BTreeMap<StrBytes, Bytes>,
        result: Result<(), ErrorCode>,
    ) {
        if self.state != GroupState::CompletingRebalance || self.generation != generation {
            return;
        }
        match result {
            Ok(()) => self.complete_sync(turn, assignments),
            Err(code) => {
                slog::warn!(turn.log, "could not store the assignment, the group starts over";
                    "group" => %self.id, "generation" => generation, "error" => ?code);
                self.reset_assignments(turn, code);
                self.prepare_rebalance(turn, "the assignment could not be stored");
            }
        }
    }

    fn heartbeat(&mut self, turn: &mut Turn<'_>, request: &HeartbeatRequest) -> Result<(), ErrorCode> {
        self.validate_member(&request.member_id, request.group_instance_id.as_ref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        self.restart_session(turn, &request.member_id);
        match self.state {
            GroupState::Empty => Err(ErrorCode::UnknownMemberId),
            GroupState::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
        }
    }

    fn leave(&mut self, turn: &mut Turn<'_>, identities: &[MemberIdentity]) -> Vec<MemberResponse> {
        let mut members = Vec::with_capacity(identities.len());
        let mut has_left = false;
        for identity in identities {
            let result = self.find_leaving(identity);
            if let Ok(member_id) = &result {
                slog::info!(turn.log, "member leaves"; "group" => %self.id, "member" => %member_id,
                    "reason" => identity.reason.as_ref().map_or("not given", |reason| reason.as_str()));
                self.remove(turn, member_id);
                has_left = true;
            }
            members.push(member_left(identity, result.map(|_| ())));
        }
        if has_left && self.state != GroupState::Empty {
            self.rebalance_or_complete_join(turn, "members leave");
        }
        members
    }

    /// An administrator removes a static member by its instance id alone.
    fn find_leaving(&self, identity: &MemberIdentity) -> Result<StrBytes, ErrorCode> {
        if identity.member_id.is_empty() {
            let instance_id = identity
                .group_instance_id
                .as_ref()
                .ok_or(ErrorCode::UnknownMemberId)?;
            return self
                .static_members
                .get(instance_id)
                .cloned()
                .ok_or(ErrorCode::UnknownMemberId);
        }
        if !self.pending_members.contains(&identity.member_id) {
            self.validate_member(&identity.member_id, identity.group_instance_id.as_ref())?;
        }
        Ok(owned(&identity.member_id))
    }
}
