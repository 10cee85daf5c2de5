//! The phases of a rebalance: prepare, join, complete; and the deadlines that drive them on.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::messages::JoinGroupResponse;
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;

use super::appends::Then;
use super::group::{Group, GroupState, InitialDelay, Member};
use super::responses::{sync_refusal, sync_success};
use super::timers::TimerKey;
use super::{GroupResponse, Turn};

impl Group {
    fn join_key(&self) -> TimerKey {
        TimerKey::Join {
            group_id: self.id.clone(),
        }
    }

    pub(super) fn sync_key(&self) -> TimerKey {
        TimerKey::Sync {
            group_id: self.id.clone(),
        }
    }

    /// Cancels every deadline of the group.
    pub(super) fn cancel_timers(&self, turn: &mut Turn<'_>) {
        turn.timers.cancel(&self.join_key());
        turn.timers.cancel(&self.sync_key());
        for member_id in self.members.keys().chain(&self.pending_members) {
            turn.timers.cancel(&self.session_key(member_id));
        }
    }

    /// The group has just been read from the log.
    pub(super) fn on_loaded(&mut self, turn: &mut Turn<'_>) {
        for member_id in self.members.keys() {
            self.restart_session(turn, member_id);
        }
        if self.members.len() > turn.settings.max_size {
            self.prepare_rebalance(turn, "the loaded group is larger than group.max.size");
        }
    }

    /// Starts a rebalance, or completes the one under way if everybody is there.
    pub(super) fn rebalance_or_complete_join(&mut self, turn: &mut Turn<'_>, reason: &str) {
        if self.state == GroupState::PreparingRebalance {
            self.maybe_complete_join(turn);
        } else {
            self.prepare_rebalance(turn, reason);
        }
    }

    /// Completes the join phase if everybody is there; the first rebalance of a group waits for its delay instead.
    pub(super) fn maybe_complete_join(&mut self, turn: &mut Turn<'_>) {
        let is_initial = self.previous_state == GroupState::Empty;
        if self.state == GroupState::PreparingRebalance && !is_initial && self.has_all_members_joined() {
            self.complete_join(turn);
        }
    }

    /// Asks everybody to join again.
    pub(super) fn prepare_rebalance(&mut self, turn: &mut Turn<'_>, reason: &str) {
        if self.state == GroupState::CompletingRebalance {
            self.reset_assignments(turn, ErrorCode::RebalanceInProgress);
        }
        self.pending_sync.clear();
        turn.timers.cancel(&self.sync_key());
        let is_initial = self.state == GroupState::Empty;
        slog::info!(turn.log, "preparing to rebalance group";
            "group" => %self.id, "generation" => self.generation, "state" => self.state.name(), "reason" => reason);
        self.transition_to(GroupState::PreparingRebalance, turn.now);
        if is_initial {
            let delay_ms = turn.settings.initial_rebalance_delay_ms;
            let remaining_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms);
            self.initial_delay = Some(InitialDelay {
                delay_ms,
                remaining_ms,
            });
            turn.timers.schedule(self.join_key(), turn.now.mono_ms + delay_ms);
        } else if self.has_all_members_joined() {
            self.complete_join(turn);
        } else {
            turn.timers
                .schedule(self.join_key(), turn.now.mono_ms + self.rebalance_timeout_ms());
        }
    }

    /// The join phase, or the initial delay, is over.
    pub(super) fn on_join_timeout(&mut self, turn: &mut Turn<'_>) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        match self.initial_delay {
            Some(delay) if self.new_member_added && delay.remaining_ms > 0 => {
                self.new_member_added = false;
                let delay_ms = turn.settings.initial_rebalance_delay_ms.min(delay.remaining_ms);
                let remaining_ms = delay.remaining_ms.saturating_sub(delay.delay_ms);
                self.initial_delay = Some(InitialDelay {
                    delay_ms,
                    remaining_ms,
                });
                turn.timers.schedule(self.join_key(), turn.now.mono_ms + delay_ms);
            }
            Some(_) | None => self.complete_join(turn),
        }
    }

    /// Leaves behind whoever has not joined and begins the next generation.
    pub(super) fn complete_join(&mut self, turn: &mut Turn<'_>) {
        turn.timers.cancel(&self.join_key());
        self.initial_delay = None;
        self.new_member_added = false;
        // Static members keep their place without joining until their session ends (KIP-345).
        let is_late = |member: &&Member| member.awaiting_join.is_none() && member.instance_id.is_none();
        let late: Vec<StrBytes> = self
            .members
            .values()
            .filter(is_late)
            .map(|member| member.id.clone())
            .collect();
        for member_id in &late {
            slog::info!(turn.log, "member did not rejoin in time"; "group" => %self.id, "member" => %member_id);
            self.remove(turn, member_id);
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            slog::warn!(turn.log, "nobody rejoined, the rebalance waits for the static members' sessions to end";
                "group" => %self.id);
            turn.timers
                .schedule(self.join_key(), turn.now.mono_ms + self.rebalance_timeout_ms());
            return;
        }
        self.begin_generation(turn);
    }

    /// The leader must be somebody who joined.
    fn elect_joined_leader(&mut self) -> bool {
        let leader = self.leader.as_ref().and_then(|leader| self.members.get(leader));
        if leader.is_some_and(|leader| leader.awaiting_join.is_some()) {
            return true;
        }
        let joined = self
            .members
            .values()
            .find(|member| member.awaiting_join.is_some());
        let Some(joined) = joined else { return false };
        self.leader = Some(joined.id.clone());
        true
    }

    fn begin_generation(&mut self, turn: &mut Turn<'_>) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.pending_sync.clear();
        self.protocol = self.select_protocol();
        self.subscribed_topics = self.compute_subscribed_topics(turn.log);
        if self.members.is_empty() {
            self.transition_to(GroupState::Empty, turn.now);
            slog::info!(turn.log, "group is empty"; "group" => %self.id, "generation" => self.generation);
            turn.appends
                .push(vec![self.to_record(|_| Bytes::new())], Then::Nothing);
            return;
        }
        self.transition_to(GroupState::CompletingRebalance, turn.now);
        slog::info!(turn.log, "group has a new generation";
            "group" => %self.id, "generation" => self.generation, "members" => self.members.len());
        self.answer_joins(turn);
        turn.timers
            .schedule(self.sync_key(), turn.now.mono_ms + self.rebalance_timeout_ms());
    }

    fn answer_joins(&mut self, turn: &mut Turn<'_>) {
        let member_ids: Vec<StrBytes> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let response = self.join_success(&member_id);
            let Some(member) = self.members.get_mut(&member_id) else {
                continue;
            };
            member.is_new = false;
            if let Some(token) = member.awaiting_join.take() {
                turn.reply(token, response);
            }
            self.restart_session(turn, &member_id);
            self.pending_sync.insert(member_id);
        }
    }

    /// The current generation as one member is told about it: only the leader hears who else is there.
    pub(super) fn join_success(&self, member_id: &StrBytes) -> GroupResponse {
        let members = if self.is_leader(member_id) {
            self.members_for_leader()
        } else {
            Vec::new()
        };
        GroupResponse::JoinGroup(
            JoinGroupResponse::default()
                .with_generation_id(self.generation)
                .with_protocol_type(self.protocol_type.clone())
                .with_protocol_name(self.protocol.clone())
                .with_leader(self.leader.clone().unwrap_or_default())
                .with_member_id(member_id.clone())
                .with_members(members),
        )
    }

    /// Takes the assignment back and answers whoever waits for it.
    pub(super) fn reset_assignments(&mut self, turn: &mut Turn<'_>, code: ErrorCode) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        self.answer_syncs(turn, |_| sync_refusal(code));
    }

    /// The leader's assignment is stored: everybody who waits gets theirs, byte for byte.
    pub(super) fn complete_sync(&mut self, turn: &mut Turn<'_>, assignments: &BTreeMap<StrBytes, Bytes>) {
        for member in self.members.values_mut() {
            member.assignment = assignments.get(&member.id).cloned().unwrap_or_default();
        }
        let (protocol_type, protocol) = (self.protocol_type.clone(), self.protocol.clone());
        self.answer_syncs(turn, |member| {
            sync_success(&protocol_type, &protocol, &member.assignment)
        });
        self.transition_to(GroupState::Stable, turn.now);
    }

    fn answer_syncs(&mut self, turn: &mut Turn<'_>, answer: impl Fn(&Member) -> GroupResponse) {
        let mut answered = Vec::new();
        for member in self.members.values_mut() {
            if let Some(token) = member.awaiting_sync.take() {
                turn.reply(token, answer(member));
                answered.push(member.id.clone());
            }
        }
        // Their sessions may have ended unnoticed while they waited.
        for member_id in answered {
            self.restart_session(turn, &member_id);
        }
    }

    /// Members that took part in the join and never asked for their assignment go.
    pub(super) fn on_sync_timeout(&mut self, turn: &mut Turn<'_>) {
        let is_after_join = matches!(self.state, GroupState::CompletingRebalance | GroupState::Stable);
        if !is_after_join || self.pending_sync.is_empty() {
            return;
        }
        for member_id in std::mem::take(&mut self.pending_sync) {
            slog::info!(turn.log, "member did not sync in time"; "group" => %self.id, "member" => %member_id);
            self.remove(turn, &member_id);
        }
        self.prepare_rebalance(turn, "members did not send SyncGroup in time");
    }

    /// Nothing was heard of a member for the length of its session.
    pub(super) fn on_session_expired(&mut self, turn: &mut Turn<'_>, member_id: &StrBytes) {
        if self.pending_members.contains(member_id) {
            self.remove(turn, member_id);
            if self.state == GroupState::PreparingRebalance && self.has_all_members_joined() {
                self.complete_join(turn);
            }
            return;
        }
        let Some(member) = self.members.get(member_id) else {
            return;
        };
        if member.has_satisfied_heartbeat() {
            return;
        }
        slog::info!(turn.log, "member's session ended"; "group" => %self.id, "member" => %member_id);
        self.remove(turn, member_id);
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => {
                self.prepare_rebalance(turn, "a member's session ended");
            }
            GroupState::PreparingRebalance if self.has_all_members_joined() => self.complete_join(turn),
            GroupState::PreparingRebalance | GroupState::Empty => {}
        }
    }
}
