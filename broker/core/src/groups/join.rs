//! JoinGroup: who may enter, under which member id, and whether that starts a rebalance.

use bytes::Bytes;
use kafka_protocol::messages::JoinGroupRequest;
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::time::Now;
use rand::Rng;

use super::appends::{StaticMember, Then};
use super::group::{Group, GroupState, Member, Protocol};
use super::responses::{join_refusal, sync_refusal};
use super::{Caller, GroupShard, Turn, owned, owned_bytes};
use crate::coordination::RequestToken;

/// From this version on, a dynamic member is told its id first and joins with it (KIP-394).
const MEMBER_ID_REQUIRED_VERSION: i16 = 4;
/// From this version on, a leader can be told to leave the assignment alone (KIP-814).
const SKIP_ASSIGNMENT_VERSION: i16 = 9;

/// A JoinGroup request, free of its frame.
struct Join {
    token: RequestToken,
    api_version: i16,
    member_id: StrBytes,
    instance_id: Option<StrBytes>,
    client_id: StrBytes,
    client_host: StrBytes,
    session_timeout_ms: i32,
    rebalance_timeout_ms: i32,
    protocol_type: StrBytes,
    protocols: Vec<Protocol>,
}

impl Join {
    fn new(token: RequestToken, caller: &Caller, request: &JoinGroupRequest) -> Self {
        let has_rebalance_timeout = caller.api_version >= 1 && request.rebalance_timeout_ms >= 0;
        Self {
            token,
            api_version: caller.api_version,
            member_id: owned(&request.member_id),
            instance_id: request.group_instance_id.as_ref().map(owned),
            client_id: owned(&caller.client_id),
            client_host: owned(&caller.client_host),
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms: if has_rebalance_timeout {
                request.rebalance_timeout_ms
            } else {
                request.session_timeout_ms
            },
            protocol_type: owned(&request.protocol_type),
            protocols: request
                .protocols
                .iter()
                .map(|protocol| Protocol {
                    name: owned(&protocol.name),
                    metadata: owned_bytes(&protocol.metadata),
                })
                .collect(),
        }
    }

    fn into_member(self, member_id: StrBytes) -> Member {
        Member {
            id: member_id,
            instance_id: self.instance_id,
            client_id: self.client_id,
            client_host: self.client_host,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            protocols: self.protocols,
            assignment: Bytes::new(),
            awaiting_join: Some(self.token),
            awaiting_sync: None,
            is_new: true,
        }
    }
}

impl GroupShard {
    pub(super) fn join_group(
        &mut self,
        now: Now,
        token: RequestToken,
        caller: &Caller,
        request: &JoinGroupRequest,
    ) {
        if let Err(code) = self.validate_join(request) {
            self.replies
                .push((token, join_refusal(request.member_id.clone(), code)));
            return;
        }
        let group_id = owned(&request.group_id.0);
        if !self.groups.contains_key(&group_id) {
            let group = Group::empty(group_id.clone(), Some(now.wall_ms));
            let record = group.to_record(|_| Bytes::new());
            self.groups.insert(group_id.clone(), group);
            self.appends.push(
                vec![record],
                Then::NewGroup {
                    group_id: group_id.clone(),
                },
            );
        }
        let join = Join::new(token, caller, request);
        let (group, mut turn) = self
            .group_turn(now, &group_id)
            .expect("created above where it was missing");
        if !group.accepts(&join.member_id, turn.settings.max_size) {
            group.remove(&mut turn, &join.member_id);
            turn.reply(
                token,
                join_refusal(StrBytes::new(), ErrorCode::GroupMaxSizeReached),
            );
        } else if !group.supports(&join.protocol_type, &join.protocols) {
            turn.reply(
                token,
                join_refusal(join.member_id, ErrorCode::InconsistentGroupProtocol),
            );
        } else if join.member_id.is_empty() {
            group.join_new(&mut turn, join);
        } else {
            group.join_known(&mut turn, join);
        }
    }

    /// What can be refused without a look into the group.
    fn validate_join(&self, request: &JoinGroupRequest) -> Result<(), ErrorCode> {
        let settings = &self.settings;
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let session_timeout_range = settings.min_session_timeout_ms..=settings.max_session_timeout_ms;
        if !session_timeout_range.contains(&request.session_timeout_ms) {
            return Err(ErrorCode::InvalidSessionTimeout);
        }
        let texts = request
            .protocols
            .iter()
            .map(|protocol| &protocol.name)
            .chain(&request.group_instance_id);
        let mut texts = texts.chain([&request.group_id.0, &request.member_id, &request.protocol_type]);
        if texts.any(|text| text.len() > i16::MAX as usize) {
            return Err(ErrorCode::InvalidRequest);
        }
        let metadata_bytes: usize = request
            .protocols
            .iter()
            .map(|protocol| protocol.name.len() + protocol.metadata.len())
            .sum();
        if metadata_bytes > settings.member_metadata_max_bytes {
            return Err(ErrorCode::InvalidRequest);
        }
        if self.groups.contains_key(&request.group_id.0) {
            return Ok(());
        }
        if !request.member_id.is_empty() {
            return Err(ErrorCode::UnknownMemberId);
        }
        if request.protocol_type.is_empty() || request.protocols.is_empty() {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if self.groups.len() >= settings.groups_max {
            return Err(ErrorCode::PolicyViolation);
        }
        Ok(())
    }
}

impl Group {
    /// group.max.size, counted so that a group which shrank its limit keeps those who rejoin first.
    fn accepts(&self, member_id: &StrBytes, max_size: usize) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            GroupState::Empty => true,
            GroupState::PreparingRebalance => {
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_join_count() < max_size
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                member.is_some() || self.members.len() < max_size
            }
        }
    }

    fn join_new(&mut self, turn: &mut Turn<'_>, join: Join) {
        let prefix = join.instance_id.as_ref().unwrap_or(&join.client_id);
        let uuid = uuid::Builder::from_random_bytes(turn.rng.random()).into_uuid();
        let member_id = new_member_id(prefix, &uuid.to_string());
        let holder = join
            .instance_id
            .as_ref()
            .and_then(|instance_id| self.static_members.get(instance_id))
            .cloned();
        if let Some(old_member_id) = holder {
            self.replace_static_member(turn, join, &old_member_id, member_id);
        } else if join.instance_id.is_none() && join.api_version >= MEMBER_ID_REQUIRED_VERSION {
            self.require_member_id(turn, &join, member_id);
        } else {
            self.add_joining(turn, join, member_id);
        }
    }

    fn require_member_id(&mut self, turn: &mut Turn<'_>, join: &Join, member_id: StrBytes) {
        if self.pending_members.len() >= turn.settings.pending_members_max {
            turn.reply(
                join.token,
                join_refusal(StrBytes::new(), ErrorCode::GroupMaxSizeReached),
            );
            return;
        }
        let timeout_ms = u64::try_from(join.session_timeout_ms).unwrap_or(0);
        turn.timers
            .schedule(self.session_key(&member_id), turn.now.mono_ms + timeout_ms);
        self.pending_members.insert(member_id.clone());
        turn.reply(join.token, join_refusal(member_id, ErrorCode::MemberIdRequired));
    }

    fn join_known(&mut self, turn: &mut Turn<'_>, join: Join) {
        let member_id = join.member_id.clone();
        if self.pending_members.contains(&member_id) {
            if join.instance_id.is_some() {
                turn.reply(join.token, join_refusal(member_id, ErrorCode::UnknownMemberId));
            } else {
                self.add_joining(turn, join, member_id);
            }
            return;
        }
        if let Err(code) = self.validate_member(&member_id, join.instance_id.as_ref()) {
            turn.reply(join.token, join_refusal(member_id, code));
            return;
        }
        let is_unchanged = self
            .members
            .get(&member_id)
            .is_some_and(|member| member.protocols == join.protocols);
        match self.state {
            GroupState::PreparingRebalance => self.rejoin(turn, join, "a member joins"),
            // The member may have missed the answer to its first request: nothing has changed for it.
            GroupState::CompletingRebalance if is_unchanged => {
                let response = self.join_success(&member_id);
                turn.reply(join.token, response);
            }
            GroupState::Stable if is_unchanged && !self.is_leader(&member_id) => {
                let response = self.join_success(&member_id);
                turn.reply(join.token, response);
            }
            // A leader that joins again wants a new assignment, for instance because partitions were added.
            GroupState::Stable if is_unchanged => self.rejoin(turn, join, "the leader joins again"),
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.rejoin(turn, join, "a member's metadata changes");
            }
            GroupState::Empty => turn.reply(join.token, join_refusal(member_id, ErrorCode::UnknownMemberId)),
        }
    }

    fn add_joining(&mut self, turn: &mut Turn<'_>, join: Join, member_id: StrBytes) {
        if self.state == GroupState::PreparingRebalance && self.previous_state == GroupState::Empty {
            self.new_member_added = true;
        }
        let protocol_type = join.protocol_type.clone();
        self.add(join.into_member(member_id.clone()), &protocol_type);
        // Such a member cannot send heartbeats yet and its connection is silent: a long but final deadline keeps
        // clients that gave up from staying for ever.
        let deadline_ms = turn.now.mono_ms + turn.settings.new_member_join_timeout_ms;
        turn.timers.schedule(self.session_key(&member_id), deadline_ms);
        self.rebalance_or_complete_join(turn, "a new member joins");
    }

    fn rejoin(&mut self, turn: &mut Turn<'_>, join: Join, reason: &str) {
        let member_id = join.member_id.clone();
        self.update_member(turn, join, &member_id);
        self.rebalance_or_complete_join(turn, reason);
    }

    fn update_member(&mut self, turn: &mut Turn<'_>, join: Join, member_id: &StrBytes) {
        let Some(member) = self.members.get_mut(member_id) else {
            return;
        };
        member.protocols = join.protocols;
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        member.session_timeout_ms = join.session_timeout_ms;
        if let Some(displaced) = member.awaiting_join.replace(join.token) {
            turn.reply(
                displaced,
                join_refusal(member_id.clone(), ErrorCode::RebalanceInProgress),
            );
        }
    }

    /// A static member comes back without its member id: it gets a new one, the holder of the old one is fenced
    /// (KIP-345). In a stable group whose protocol stays the same this causes no rebalance.
    fn replace_static_member(
        &mut self,
        turn: &mut Turn<'_>,
        join: Join,
        old_member_id: &StrBytes,
        new_member_id: StrBytes,
    ) {
        let old_leader = self.leader.clone();
        let Some(old_member) = self.rename_member(turn, old_member_id, &new_member_id) else {
            return;
        };
        let (token, skips_assignment) = (join.token, join.api_version >= SKIP_ASSIGNMENT_VERSION);
        self.update_member(turn, join, &new_member_id);
        self.restart_session(turn, &new_member_id);
        match self.state {
            GroupState::Stable if self.select_protocol() == self.protocol => {
                let record = self.to_record(|member| member.assignment.clone());
                let group_id = self.id.clone();
                let replaced = StaticMember {
                    group_id,
                    token,
                    new_member_id,
                    old_member,
                    old_leader,
                    skips_assignment,
                };
                turn.appends
                    .push(vec![record], Then::StaticMember(Box::new(replaced)));
            }
            GroupState::Stable => {
                self.prepare_rebalance(turn, "a static member comes back with another protocol")
            }
            // The leader may have been told the old member id already: its assignment would miss the new one.
            GroupState::CompletingRebalance => self.prepare_rebalance(turn, "a static member comes back"),
            GroupState::PreparingRebalance | GroupState::Empty => self.maybe_complete_join(turn),
        }
    }

    /// Gives a member another id and fences whoever still waits under the old one. Answers the member as it was.
    fn rename_member(&mut self, turn: &mut Turn<'_>, old_id: &StrBytes, new_id: &StrBytes) -> Option<Member> {
        let mut old_member = self.members.remove(old_id)?;
        turn.timers.cancel(&self.session_key(old_id));
        if let Some(token) = old_member.awaiting_join.take() {
            turn.reply(token, join_refusal(old_id.clone(), ErrorCode::FencedInstanceId));
        }
        if let Some(token) = old_member.awaiting_sync.take() {
            turn.reply(token, sync_refusal(ErrorCode::FencedInstanceId));
        }
        self.put_renamed(
            Member {
                id: new_id.clone(),
                is_new: false,
                ..old_member.clone()
            },
            old_id,
        );
        Some(old_member)
    }

    fn put_renamed(&mut self, member: Member, replaced_id: &StrBytes) {
        if self.is_leader(replaced_id) {
            self.leader = Some(member.id.clone());
        }
        if self.pending_sync.remove(replaced_id) {
            self.pending_sync.insert(member.id.clone());
        }
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), member.id.clone());
        }
        self.members.insert(member.id.clone(), member);
    }

    /// The log took or refused the static member's new id.
    pub(super) fn on_static_member_stored(
        &mut self,
        turn: &mut Turn<'_>,
        replaced: StaticMember,
        result: Result<(), ErrorCode>,
    ) {
        let new_id = replaced.new_member_id;
        let Some(member) = self.members.get_mut(&new_id) else {
            return;
        };
        // Otherwise a rebalance has overtaken the record: the request is part of that, or answered by it.
        if member.awaiting_join != Some(replaced.token) || self.state != GroupState::Stable {
            return;
        }
        member.awaiting_join = None;
        match result {
            Ok(()) => {
                self.restart_session(turn, &new_id);
                let response =
                    self.static_join_success(&new_id, replaced.old_leader, replaced.skips_assignment);
                turn.reply(replaced.token, response);
            }
            Err(code) => {
                slog::warn!(turn.log, "could not store a static member's new id, the old one stays";
                    "group" => %self.id, "member" => %new_id, "error" => ?code);
                turn.timers.cancel(&self.session_key(&new_id));
                self.members.remove(&new_id);
                let old_id = replaced.old_member.id.clone();
                self.put_renamed(replaced.old_member, &new_id);
                self.restart_session(turn, &old_id);
                turn.reply(replaced.token, join_refusal(StrBytes::new(), code));
            }
        }
    }

    /// Callers that know `skip_assignment` are told the truth; older ones are shown the old leader id, so that a leader
    /// that comes back does not compute an assignment nobody wants.
    fn static_join_success(
        &self,
        member_id: &StrBytes,
        old_leader: Option<StrBytes>,
        skips_assignment: bool,
    ) -> super::GroupResponse {
        let super::GroupResponse::JoinGroup(mut response) = self.join_success(member_id) else {
            unreachable!("a join is answered by a join")
        };
        if skips_assignment {
            response.skip_assignment = self.is_leader(member_id);
        } else {
            response.leader = old_leader.unwrap_or_default();
            response.members.clear();
        }
        super::GroupResponse::JoinGroup(response)
    }
}

/// Kafka's form of a member id, within the 32767 bytes that a string may have.
fn new_member_id(prefix: &StrBytes, uuid: &str) -> StrBytes {
    let mut end = prefix.len().min(i16::MAX as usize - uuid.len() - 1);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    StrBytes::from_string(format!("{}-{uuid}", &prefix[..end]))
}
