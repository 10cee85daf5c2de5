//! One live group: its members, their votes, its state.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::time::Now;
use slog::Logger;

use super::records::{self, GroupValue, MemberValue, Record};
use super::responses::{join_refusal, sync_refusal};
use super::timers::TimerKey;
use super::{GroupResponse, Turn};
use crate::coordination::RequestToken;

/// The protocol type of consumers, whose subscriptions the coordinator may read.
const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// The states of a classic group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupState {
    /// No members; perhaps offsets.
    Empty,
    /// Members are joining.
    PreparingRebalance,
    /// The leader is working out the assignment.
    CompletingRebalance,
    /// Everybody has an assignment.
    Stable,
}

impl GroupState {
    /// Every state, for metrics that report zeros too.
    pub const ALL: [Self; 4] = [
        Self::Empty,
        Self::PreparingRebalance,
        Self::CompletingRebalance,
        Self::Stable,
    ];

    /// Kafka's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// An assignment protocol that a member supports, with what the member says about itself in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) name: StrBytes,
    pub(super) metadata: Bytes,
}

/// A member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: StrBytes,
    pub(super) instance_id: Option<StrBytes>,
    pub(super) client_id: StrBytes,
    pub(super) client_host: StrBytes,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    pub(super) protocols: Vec<Protocol>,
    /// Exactly the leader's bytes.
    pub(super) assignment: Bytes,
    pub(super) awaiting_join: Option<RequestToken>,
    pub(super) awaiting_sync: Option<RequestToken>,
    /// Has never completed a join: its client does not know its id and cannot send heartbeats.
    pub(super) is_new: bool,
}

impl Member {
    pub(super) fn metadata(&self, protocol: &StrBytes) -> Bytes {
        let found = self
            .protocols
            .iter()
            .find(|candidate| candidate.name == *protocol);
        found
            .map(|protocol| protocol.metadata.clone())
            .unwrap_or_default()
    }

    fn supports(&self, protocol: &StrBytes) -> bool {
        self.protocols.iter().any(|candidate| candidate.name == *protocol)
    }

    /// A request that waits at the coordinator is a sign of life, except for new members.
    pub(super) fn has_satisfied_heartbeat(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    fn from_value(value: &MemberValue, protocol: Option<&StrBytes>) -> Self {
        let metadata = value.subscription.clone();
        Self {
            id: value.member_id.clone(),
            instance_id: value.group_instance_id.clone(),
            client_id: value.client_id.clone(),
            client_host: value.client_host.clone(),
            rebalance_timeout_ms: match value.rebalance_timeout_ms {
                -1 => value.session_timeout_ms,
                timeout_ms => timeout_ms,
            },
            session_timeout_ms: value.session_timeout_ms,
            protocols: vec![Protocol {
                name: protocol.cloned().unwrap_or_default(),
                metadata,
            }],
            assignment: value.assignment.clone(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
        }
    }
}

/// How much longer the first rebalance of a group may wait for members.
#[derive(Clone, Copy, Debug)]
pub(super) struct InitialDelay {
    pub(super) delay_ms: u64,
    pub(super) remaining_ms: u64,
}

/// A live group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: StrBytes,
    pub(super) state: GroupState,
    pub(super) previous_state: GroupState,
    /// When it came into its state; unknown for groups from very old records.
    pub(super) state_timestamp_ms: Option<i64>,
    pub(super) protocol_type: Option<StrBytes>,
    pub(super) protocol: Option<StrBytes>,
    pub(super) generation: i32,
    pub(super) leader: Option<StrBytes>,
    pub(super) members: BTreeMap<StrBytes, Member>,
    /// Member id by instance id.
    pub(super) static_members: BTreeMap<StrBytes, StrBytes>,
    /// Ids handed out with MEMBER_ID_REQUIRED and not used yet (KIP-394).
    pub(super) pending_members: BTreeSet<StrBytes>,
    /// Members of this generation that have not sent SyncGroup.
    pub(super) pending_sync: BTreeSet<StrBytes>,
    /// What consumers subscribe to; `None` when it cannot be known.
    pub(super) subscribed_topics: Option<BTreeSet<StrBytes>>,
    pub(super) new_member_added: bool,
    pub(super) initial_delay: Option<InitialDelay>,
}

impl Group {
    /// A group without members.
    pub(super) fn empty(id: StrBytes, state_timestamp_ms: Option<i64>) -> Self {
        Self {
            id,
            state: GroupState::Empty,
            previous_state: GroupState::Empty,
            state_timestamp_ms,
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_members: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            subscribed_topics: None,
            new_member_added: false,
            initial_delay: None,
        }
    }

    /// The group as its last stored generation says; without one it is a holder of offsets only.
    pub(super) fn from_replicated(id: &StrBytes, value: Option<&GroupValue>, now: Now, log: &Logger) -> Self {
        let Some(value) = value else {
            return Self::empty(id.clone(), Some(now.wall_ms));
        };
        let timestamp_ms = value.current_state_timestamp_ms;
        let mut group = Self::empty(id.clone(), (timestamp_ms != -1).then_some(timestamp_ms));
        group.generation = value.generation;
        group.protocol_type = Some(value.protocol_type.clone()).filter(|name| !name.is_empty());
        group.protocol = value.protocol.clone();
        group.leader = value.leader.clone();
        for member in &value.members {
            let member = Member::from_value(member, value.protocol.as_ref());
            if let Some(instance_id) = &member.instance_id {
                group
                    .static_members
                    .insert(instance_id.clone(), member.id.clone());
            }
            group.members.insert(member.id.clone(), member);
        }
        if !group.members.is_empty() {
            group.state = GroupState::Stable;
        }
        group.subscribed_topics = group.compute_subscribed_topics(log);
        group
    }

    pub(super) fn state(&self) -> GroupState {
        self.state
    }

    pub(super) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Holds offsets for clients that never join.
    pub(super) fn is_simple(&self) -> bool {
        self.protocol_type.is_none() && self.state == GroupState::Empty && self.pending_members.is_empty()
    }

    pub(super) fn is_leader(&self, member_id: &StrBytes) -> bool {
        self.leader.as_ref() == Some(member_id)
    }

    pub(super) fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type
            .as_ref()
            .is_some_and(|name| name.as_str() == CONSUMER_PROTOCOL_TYPE)
    }

    /// A consumer group whose subscriptions cannot be read counts as subscribed to everything.
    pub(super) fn is_subscribed_to(&self, topic: &StrBytes) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    pub(super) fn awaiting_join_count(&self) -> usize {
        self.members
            .values()
            .filter(|member| member.awaiting_join.is_some())
            .count()
    }

    pub(super) fn has_all_members_joined(&self) -> bool {
        self.pending_members.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    /// The longest of the members' rebalance timeouts.
    pub(super) fn rebalance_timeout_ms(&self) -> u64 {
        let longest = self
            .members
            .values()
            .map(|member| member.rebalance_timeout_ms)
            .max();
        longest
            .and_then(|timeout_ms| u64::try_from(timeout_ms).ok())
            .unwrap_or(0)
    }

    /// Whether a member with these protocols could share one with everybody in the group.
    pub(super) fn supports(&self, protocol_type: &StrBytes, protocols: &[Protocol]) -> bool {
        if self.state == GroupState::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_ref() == Some(protocol_type)
            && protocols.iter().any(|protocol| {
                self.members
                    .values()
                    .all(|member| member.supports(&protocol.name))
            })
    }

    /// The protocol that everybody supports and most vote for: a member votes for the first of its own that everybody
    /// supports. Where votes are equal the leader's order decides.
    pub(super) fn select_protocol(&self) -> Option<StrBytes> {
        let voters = self.members.values();
        let leader = self.leader.as_ref().and_then(|leader| self.members.get(leader));
        let reference = leader.or_else(|| self.members.values().next())?;
        let everybody_supports = |protocol: &&Protocol| {
            self.members
                .values()
                .all(|member| member.supports(&protocol.name))
        };
        let candidates: Vec<&StrBytes> = reference
            .protocols
            .iter()
            .filter(everybody_supports)
            .map(|protocol| &protocol.name)
            .collect();
        let mut votes = vec![0_usize; candidates.len()];
        for member in voters {
            let vote = member.protocols.iter().find_map(|protocol| {
                candidates
                    .iter()
                    .position(|candidate| **candidate == protocol.name)
            });
            if let Some(vote) = vote {
                votes[vote] += 1;
            }
        }
        let most = votes.iter().copied().max()?;
        let winner = votes.iter().position(|votes| *votes == most)?;
        Some(candidates[winner].clone())
    }

    pub(super) fn compute_subscribed_topics(&self, log: &Logger) -> Option<BTreeSet<StrBytes>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        let mut topics = BTreeSet::new();
        if self.members.is_empty() {
            return Some(topics);
        }
        let protocol = self.protocol.as_ref()?;
        for member in self.members.values() {
            let Some(subscription) = records::subscribed_topics(&member.metadata(protocol)) else {
                slog::debug!(log, "a member's subscription cannot be read, its topics are unknown";
                    "group" => %self.id, "member" => %member.id);
                return None;
            };
            topics.extend(subscription.iter().map(super::owned));
        }
        Some(topics)
    }

    /// A request of a member must name the member id that holds the instance id, and a member at all.
    pub(super) fn validate_member(
        &self,
        member_id: &StrBytes,
        instance_id: Option<&StrBytes>,
    ) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(holder) if holder != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) {
            Ok(())
        } else {
            Err(ErrorCode::UnknownMemberId)
        }
    }

    /// Moves to a state.
    pub(super) fn transition_to(&mut self, state: GroupState, now: Now) {
        let allowed = match state {
            GroupState::Empty | GroupState::CompletingRebalance => {
                self.state == GroupState::PreparingRebalance
            }
            GroupState::PreparingRebalance => self.state != GroupState::PreparingRebalance,
            GroupState::Stable => self.state == GroupState::CompletingRebalance,
        };
        // Invariant: the states follow each other as in Kafka's state machine.
        assert!(
            allowed,
            "group {} cannot go from {:?} to {state:?}",
            self.id, self.state
        );
        self.previous_state = self.state;
        self.state = state;
        self.state_timestamp_ms = Some(now.wall_ms);
    }

    /// Puts a member in.
    pub(super) fn add(&mut self, member: Member, protocol_type: &StrBytes) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.clone());
        }
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), member.id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        self.pending_members.remove(&member.id);
        self.members.insert(member.id.clone(), member);
    }

    /// Takes a member or a pending member id out. What it waits for is answered UNKNOWN_MEMBER_ID, so that a client
    /// which still lives starts over.
    pub(super) fn remove(&mut self, turn: &mut Turn<'_>, member_id: &StrBytes) {
        turn.timers.cancel(&self.session_key(member_id));
        self.pending_members.remove(member_id);
        self.pending_sync.remove(member_id);
        if let Some(mut member) = self.members.remove(member_id) {
            if let Some(token) = member.awaiting_join.take() {
                turn.reply(token, join_refusal(StrBytes::new(), ErrorCode::UnknownMemberId));
            }
            if let Some(token) = member.awaiting_sync.take() {
                turn.reply(token, sync_refusal(ErrorCode::UnknownMemberId));
            }
            if let Some(instance_id) = &member.instance_id {
                self.static_members.remove(instance_id);
            }
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    pub(super) fn session_key(&self, member_id: &StrBytes) -> TimerKey {
        TimerKey::Session {
            group_id: self.id.clone(),
            member_id: member_id.clone(),
        }
    }

    /// A member has shown itself: its session starts anew.
    pub(super) fn restart_session(&self, turn: &mut Turn<'_>, member_id: &StrBytes) {
        let Some(member) = self.members.get(member_id) else {
            return;
        };
        let timeout_ms = u64::try_from(member.session_timeout_ms).unwrap_or(0);
        turn.timers
            .schedule(self.session_key(member_id), turn.now.mono_ms + timeout_ms);
    }

    /// The record that stores this generation with these assignments.
    pub(super) fn to_record(&self, assignment: impl Fn(&Member) -> Bytes) -> Record {
        let member_value = |member: &Member| MemberValue {
            member_id: member.id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: self
                .protocol
                .as_ref()
                .map(|protocol| member.metadata(protocol))
                .unwrap_or_default(),
            assignment: assignment(member),
        };
        Record::Group {
            group_id: self.id.clone(),
            value: Some(GroupValue {
                protocol_type: self.protocol_type.clone().unwrap_or_default(),
                generation: self.generation,
                protocol: self.protocol.clone(),
                leader: self.leader.clone(),
                current_state_timestamp_ms: self.state_timestamp_ms.unwrap_or(-1),
                members: self.members.values().map(member_value).collect(),
            }),
        }
    }

    /// The members as the leader is told about them.
    pub(super) fn members_for_leader(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol.clone().unwrap_or_default();
        let describe = |member: &Member| {
            JoinGroupResponseMember::default()
                .with_member_id(member.id.clone())
                .with_group_instance_id(member.instance_id.clone())
                .with_metadata(member.metadata(&protocol))
        };
        self.members.values().map(describe).collect()
    }

    /// Answers every parked request with the error; the group ends here.
    pub(super) fn refuse_parked(self, code: ErrorCode, replies: &mut Vec<(RequestToken, GroupResponse)>) {
        for member in self.members.into_values() {
            if let Some(token) = member.awaiting_join {
                replies.push((token, join_refusal(member.id.clone(), code)));
            }
            if let Some(token) = member.awaiting_sync {
                replies.push((token, sync_refusal(code)));
            }
        }
    }
}
