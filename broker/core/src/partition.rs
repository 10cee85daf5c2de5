//! One replica of a partition: leader or follower, high watermark, in-sync replicas.
//!
//! The replica decides; its log, behind [`ReplicaLog`], holds the batches. Nothing here reads a clock, opens a file or sends
//! a request: the caller passes time in and carries [`IsrProposal`]s to the controller.
//!
//! Invariant: the high watermark never passes the log end offset of any member of the maximal ISR (the committed ISR and the
//! one proposed to the controller), so a record below it is on every replica that may be elected. Of its own log the leader
//! counts what is durable, and a follower asks for more only then.

use std::collections::BTreeMap;
use std::sync::Arc;

use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::{NodeId, TopicPartition};
use odradek_common::metadata::PartitionImage;
use odradek_common::time::Now;
use uuid::Uuid;

/// What a replica needs of its log.
pub trait ReplicaLog {
    /// Why a change of the log failed.
    type Error;

    /// Offset of the first record that is kept.
    fn log_start_offset(&self) -> i64;
    /// Offset that the next record gets.
    fn log_end_offset(&self) -> i64;
    /// End of what this replica may vouch for: the log end offset, unless records at the end have to be on disk first and
    /// are not yet (`flush.messages`).
    fn durable_end_offset(&self) -> i64;
    /// End of what is known to be committed.
    fn high_watermark(&self) -> i64;
    /// Moves the high watermark; the caller keeps it within the log.
    fn set_high_watermark(&mut self, offset: i64);
    /// Leader epoch of the last batch or assignment.
    fn latest_epoch(&self) -> Option<i32>;
    /// The largest epoch at or below `epoch` and where it ends (KIP-101, KIP-279).
    fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)>;
    /// Notes that `epoch` starts at the log end offset.
    ///
    /// # Errors
    /// The log cannot be written.
    fn assign_epoch(&mut self, epoch: i32) -> Result<(), Self::Error>;
    /// Removes every record at or above `offset`.
    ///
    /// # Errors
    /// The log cannot be written.
    fn truncate_to(&mut self, now: Now, offset: i64) -> Result<(), Self::Error>;
    /// Removes everything; the log starts and ends at `offset`.
    ///
    /// # Errors
    /// The log cannot be written.
    fn truncate_fully_and_start_at(&mut self, now: Now, offset: i64) -> Result<(), Self::Error>;
}

/// Settings that the replica's decisions depend on.
#[derive(Clone, Copy, Debug)]
pub struct PartitionSettings {
    /// `replica.lag.time.max.ms`.
    pub replica_lag_time_max_ms: u64,
    /// `min.insync.replicas` of the topic.
    pub min_insync_replicas: usize,
}

/// A replica and its log.
pub struct Partition<L> {
    /// Its name.
    pub id: TopicPartition,
    node_id: NodeId,
    settings: PartitionSettings,
    image: Arc<PartitionImage>,
    role: Role,
    log: L,
}

enum Role {
    /// Neither leads nor follows: no image names this node yet, or the partition has no leader.
    Idle,
    Leader(LeaderState),
    Follower,
}

struct LeaderState {
    /// The first epoch of those in which this replica leads without a break.
    led_since: i32,
    /// Where the leader's epoch starts in its log.
    epoch_start_offset: i64,
    /// The log end offset as the last append left it.
    appended_end: i64,
    followers: BTreeMap<NodeId, FollowerProgress>,
    /// Members and their broker epochs as they were when it was made: whoever has restarted since is another replica.
    proposal: Option<Vec<(NodeId, i64)>>,
}

/// How far a follower has come, as its fetches tell.
#[derive(Clone, Copy, Debug)]
pub struct FollowerProgress {
    /// Its log end offset; -1 until its first fetch in this epoch.
    pub log_end_offset: i64,
    /// Its log start offset.
    pub log_start_offset: i64,
    /// When it last had everything the leader had, in monotonic ms; `None`: never in this epoch.
    pub caught_up_ms: Option<u64>,
    /// Broker epoch that it fetched with (KIP-903); -1 if unknown.
    pub broker_epoch: i64,
    /// Its broker is fenced or stopping: it cannot join the ISR soon, and nobody waits for it.
    is_ineligible: bool,
    /// It was taken out of the ISR and has not fetched since: what it held may be gone, as on a disk that failed.
    has_left_isr: bool,
    last_fetch_ms: u64,
    last_fetch_leader_end: i64,
}

/// A new ISR that the controller should record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrProposal {
    /// Members and the broker epochs they fetched with.
    pub isr: Vec<(NodeId, i64)>,
    /// Epoch of the leader that proposes.
    pub leader_epoch: i32,
    /// Partition epoch that the proposal is based on.
    pub partition_epoch: i32,
    /// True if a member leaves.
    pub shrinks: bool,
}

/// What an image made of this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleChange {
    /// It leads, in a new epoch.
    BecameLeader,
    /// It follows this leader, in a new epoch.
    BecameFollower(NodeId),
    /// There is no leader to follow.
    BecameIdle,
    /// Role and epoch are what they were.
    Unchanged,
}

/// What a follower's fetch changed at the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchProgress {
    /// The high watermark moved.
    pub high_watermark_moved: bool,
    /// The follower may join the ISR: ask for a proposal.
    pub may_expand: bool,
}

impl<L: ReplicaLog> Partition<L> {
    /// A replica on `node_id` that no image has named yet.
    pub fn new(id: TopicPartition, node_id: NodeId, settings: PartitionSettings, log: L) -> Self {
        Self {
            id,
            node_id,
            settings,
            image: Arc::default(),
            role: Role::Idle,
            log,
        }
    }

    /// The log.
    pub fn log(&self) -> &L {
        &self.log
    }

    /// The log, for appends; call [`Partition::appended`] after them.
    pub fn log_mut(&mut self) -> &mut L {
        &mut self.log
    }

    /// Gives the log back when the replica leaves this node.
    pub fn into_log(self) -> L {
        self.log
    }

    /// The last image that was applied.
    pub fn image(&self) -> &Arc<PartitionImage> {
        &self.image
    }

    /// The log directory of this node that the controller has recorded; nil if none is.
    pub fn recorded_directory(&self) -> Uuid {
        self.image.directory_of(self.node_id)
    }

    /// True while this replica leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The epoch in which this replica began to lead, while it leads: since then nobody else has written to its log.
    pub fn led_since(&self) -> Option<i32> {
        match &self.role {
            Role::Leader(leader) => Some(leader.led_since),
            Role::Idle | Role::Follower => None,
        }
    }

    /// The node to follow, while this replica follows.
    pub fn leader_to_follow(&self) -> Option<NodeId> {
        matches!(self.role, Role::Follower).then_some(self.image.leader)
    }

    /// The settings may change at any time. True if the high watermark moved.
    pub fn set_settings(&mut self, now: Now, settings: PartitionSettings) -> bool {
        self.settings = settings;
        self.advance_high_watermark(now)
    }

    /// The settings in force.
    pub fn settings(&self) -> PartitionSettings {
        self.settings
    }

    /// Takes over what the controller decided. An image older than the one held changes nothing.
    ///
    /// # Errors
    /// The log cannot record the new epoch. The image is not taken over, and can be applied again.
    pub fn apply_image(&mut self, now: Now, image: &Arc<PartitionImage>) -> Result<RoleChange, L::Error> {
        let first = self.image.replicas.is_empty();
        // The same image again must not clear a proposal whose outcome is open.
        if !first && image.partition_epoch <= self.image.partition_epoch {
            return Ok(RoleChange::Unchanged);
        }
        let known = matches!(self.role, Role::Leader(_) | Role::Follower);
        let new_epoch = !known || image.leader_epoch > self.image.leader_epoch;
        // After a restart the metadata log is read from its beginning: to lead in an epoch that the log has left behind
        // would forget where the later ones began, and followers would truncate what is committed.
        let is_history = self
            .log
            .latest_epoch()
            .is_some_and(|latest| latest > image.leader_epoch);
        let is_named = image.leader == self.node_id;
        let begins_to_lead = is_named && !is_history && (new_epoch || !self.is_leader());
        if begins_to_lead {
            // KAFKA-7415: the epoch is persisted when leadership begins, not at the first append.
            self.log.assign_epoch(image.leader_epoch)?;
        }
        let before = std::mem::replace(&mut self.image, image.clone());
        if begins_to_lead {
            self.lead(now);
            return Ok(RoleChange::BecameLeader);
        }
        if is_named && is_history {
            self.role = Role::Idle;
            return Ok(RoleChange::BecameIdle);
        }
        if is_named {
            self.adopt_isr(now, &before.isr);
            return Ok(RoleChange::Unchanged);
        }
        if image.leader < 0 {
            self.role = Role::Idle;
            return Ok(RoleChange::BecameIdle);
        }
        if new_epoch || !matches!(self.role, Role::Follower) {
            self.role = Role::Follower;
            return Ok(RoleChange::BecameFollower(image.leader));
        }
        Ok(RoleChange::Unchanged)
    }

    fn lead(&mut self, now: Now) {
        let followers = self
            .image
            .replicas
            .iter()
            .filter(|&&replica| replica != self.node_id)
            .map(|&replica| {
                (
                    replica,
                    FollowerProgress::new(self.image.isr.contains(&replica), now),
                )
            })
            .collect();
        let epoch_start_offset = self.log.log_end_offset();
        self.role = Role::Leader(LeaderState {
            led_since: self.led_since().unwrap_or(self.image.leader_epoch),
            epoch_start_offset,
            appended_end: epoch_start_offset,
            followers,
            proposal: None,
        });
        self.advance_high_watermark(now);
    }

    /// The controller committed an ISR or other replicas in the same leader epoch.
    fn adopt_isr(&mut self, now: Now, isr_before: &[NodeId]) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.proposal = None;
        leader
            .followers
            .retain(|replica, _| self.image.replicas.contains(replica));
        for &replica in &self.image.replicas {
            if replica != self.node_id {
                leader
                    .followers
                    .entry(replica)
                    .or_insert_with(|| FollowerProgress::new(false, now));
            }
        }
        for (replica, progress) in &mut leader.followers {
            progress.has_left_isr |= isr_before.contains(replica) && !self.image.isr.contains(replica);
        }
        self.advance_high_watermark(now);
    }

    /// Brokers were fenced, unfenced or began to stop. `eligible` tells whether a broker may join an ISR: the high
    /// watermark waits for no other follower outside of it. True if the high watermark moved.
    pub fn followers_changed(&mut self, now: Now, eligible: impl Fn(NodeId) -> bool) -> bool {
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        for (replica, progress) in &mut leader.followers {
            progress.is_ineligible = !eligible(*replica);
        }
        self.advance_high_watermark(now)
    }

    /// Refuses what only a leader may answer.
    ///
    /// # Errors
    /// NOT_LEADER_OR_FOLLOWER if this replica does not lead; FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH if the caller names
    /// an older or a later epoch (KIP-320); `-1` names none.
    pub fn check_leader(&self, current_leader_epoch: i32) -> Result<(), ErrorCode> {
        if current_leader_epoch >= 0 && self.image.leader_epoch >= 0 {
            if current_leader_epoch < self.image.leader_epoch {
                return Err(ErrorCode::FencedLeaderEpoch);
            }
            if current_leader_epoch > self.image.leader_epoch {
                return Err(ErrorCode::UnknownLeaderEpoch);
            }
        }
        if self.is_leader() {
            Ok(())
        } else {
            Err(ErrorCode::NotLeaderOrFollower)
        }
    }

    /// Refuses an acks=all append that could not be acknowledged.
    ///
    /// # Errors
    /// NOT_ENOUGH_REPLICAS: the ISR is smaller than `min.insync.replicas`.
    pub fn check_min_isr(&self) -> Result<(), ApiError> {
        let (isr, needed) = (self.image.isr.len(), self.effective_min_isr());
        if isr >= needed {
            return Ok(());
        }
        let detail = format!(
            "{} has {isr} in-sync replicas, min.insync.replicas is {needed}",
            self.id
        );
        Err(ApiError::new(ErrorCode::NotEnoughReplicas, detail))
    }

    /// `min.insync.replicas`, at most the number of replicas.
    pub fn effective_min_isr(&self) -> usize {
        self.settings
            .min_insync_replicas
            .min(self.image.replicas.len().max(1))
    }

    /// Moves the high watermark after the leader's own append, or a flush of it. True if it moved.
    pub fn appended(&mut self, now: Now) -> bool {
        let end = self.log.log_end_offset();
        if let Role::Leader(leader) = &mut self.role {
            leader.appended(now, end);
        }
        self.advance_high_watermark(now)
    }

    /// True if every record below `offset` is committed; an error once the wait is pointless.
    ///
    /// # Errors
    /// NOT_LEADER_OR_FOLLOWER after leadership moved; NOT_ENOUGH_REPLICAS_AFTER_APPEND if the ISR fell below
    /// `min.insync.replicas` on the way.
    pub fn check_committed(&self, leader_epoch: i32, offset: i64) -> Result<bool, ErrorCode> {
        self.check_still_leads(leader_epoch, offset)?;
        if self.log.high_watermark() < offset {
            return Ok(false);
        }
        if self.image.isr.len() < self.effective_min_isr() {
            return Err(ErrorCode::NotEnoughReplicasAfterAppend);
        }
        Ok(true)
    }

    /// True if nothing below `offset` waits for a flush; an error once the wait is pointless.
    ///
    /// # Errors
    /// NOT_LEADER_OR_FOLLOWER after leadership moved.
    pub fn check_durable(&self, leader_epoch: i32, offset: i64) -> Result<bool, ErrorCode> {
        self.check_still_leads(leader_epoch, offset)?;
        Ok(self.log.durable_end_offset() >= offset)
    }

    /// Whether this node leads, and holds what it appended below `offset` as leader of this epoch: the epoch of a leader that
    /// stays rises too when a replica leaves.
    fn check_still_leads(&self, leader_epoch: i32, offset: i64) -> Result<(), ErrorCode> {
        let is_held = || {
            let end = self.log.end_offset_for_epoch(leader_epoch);
            end.is_some_and(|(epoch, end)| epoch == leader_epoch && end >= offset)
        };
        if self.is_leader() && (self.image.leader_epoch == leader_epoch || is_held()) {
            Ok(())
        } else {
            Err(ErrorCode::NotLeaderOrFollower)
        }
    }

    /// A follower asks for `fetch_offset`: it holds everything below.
    ///
    /// # Errors
    /// UNKNOWN_LEADER_EPOCH if the node is no replica of this partition yet (its metadata is ahead of ours or behind);
    /// NOT_LEADER_OR_FOLLOWER if its broker has fetched in a later incarnation already.
    pub fn follower_fetched(
        &mut self,
        now: Now,
        follower: FollowerFetch,
    ) -> Result<FetchProgress, ErrorCode> {
        let leader_end = self.log.log_end_offset();
        let Role::Leader(leader) = &mut self.role else {
            return Err(ErrorCode::NotLeaderOrFollower);
        };
        let Some(progress) = leader.followers.get_mut(&follower.replica) else {
            return Err(ErrorCode::UnknownLeaderEpoch);
        };
        // KAFKA-15221: what an earlier incarnation held says nothing about what is left of it.
        if follower.broker_epoch >= 0 && follower.broker_epoch < progress.broker_epoch {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        // Beyond the end there is nothing that the two logs could share: the read answers OFFSET_OUT_OF_RANGE.
        if follower.fetch_offset > leader_end {
            return Ok(FetchProgress::default());
        }
        progress.fetched(now, follower, leader_end);
        let may_expand = self.can_join_isr(follower.replica);
        let high_watermark_moved = self.advance_high_watermark(now);
        Ok(FetchProgress {
            high_watermark_moved,
            may_expand,
        })
    }

    fn can_join_isr(&self, replica: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        if leader.proposal.is_some() || self.image.isr.contains(&replica) {
            return false;
        }
        let Some(progress) = leader.followers.get(&replica) else {
            return false;
        };
        !progress.has_left_isr
            && progress.log_end_offset >= self.log.high_watermark()
            && progress.log_end_offset >= leader.epoch_start_offset
    }

    /// The ISR with every follower that has caught up, if that is larger and nothing is under way. `eligible` tells whether
    /// a broker is registered under that broker epoch, unfenced and not stopping.
    pub fn propose_expansion(&mut self, eligible: impl Fn(NodeId, i64) -> bool) -> Option<IsrProposal> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let mut isr = self.image.isr.clone();
        for (&replica, progress) in &leader.followers {
            if self.can_join_isr(replica) && eligible(replica, progress.broker_epoch) {
                isr.push(replica);
            }
        }
        if isr.len() == self.image.isr.len() {
            None
        } else {
            self.propose(isr)
        }
    }

    /// The ISR without followers that have not caught up for `replica.lag.time.max.ms`, if that is smaller and nothing is
    /// under way.
    pub fn propose_shrink(&mut self, now: Now) -> Option<IsrProposal> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        if leader.proposal.is_some() {
            return None;
        }
        let leader_end = self.log.log_end_offset();
        let lag_max = self.settings.replica_lag_time_max_ms;
        let in_sync = |replica: &NodeId| {
            *replica == self.node_id
                || leader
                    .followers
                    .get(replica)
                    .is_some_and(|p| p.is_caught_up(now, leader_end, lag_max))
        };
        let isr: Vec<NodeId> = self.image.isr.iter().copied().filter(in_sync).collect();
        if isr.len() == self.image.isr.len() {
            None
        } else {
            self.propose(isr)
        }
    }

    fn propose(&mut self, isr: Vec<NodeId>) -> Option<IsrProposal> {
        let Role::Leader(leader) = &mut self.role else {
            return None;
        };
        let epoch_of = |replica: &NodeId| leader.followers.get(replica).map_or(-1, |p| p.broker_epoch);
        leader.proposal = Some(isr.iter().map(|replica| (*replica, epoch_of(replica))).collect());
        self.pending_proposal()
    }

    /// The controller refused the proposal for good: the committed ISR stands. A failure that leaves the outcome open must
    /// not be reported here, but proposed again with [`Partition::pending_proposal`].
    pub fn proposal_refused(&mut self, now: Now, partition_epoch: i32) {
        if partition_epoch != self.image.partition_epoch {
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.proposal = None;
        }
        self.advance_high_watermark(now);
    }

    /// The proposal under way, to be sent once more.
    pub fn pending_proposal(&self) -> Option<IsrProposal> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let isr = leader.proposal.as_ref()?;
        Some(IsrProposal {
            isr: isr.clone(),
            leader_epoch: self.image.leader_epoch,
            partition_epoch: self.image.partition_epoch,
            shrinks: isr.len() < self.image.isr.len(),
        })
    }

    /// Every follower's progress, while this replica leads.
    pub fn followers(&self) -> impl Iterator<Item = (NodeId, &FollowerProgress)> {
        let followers = match &self.role {
            Role::Leader(leader) => Some(&leader.followers),
            Role::Idle | Role::Follower => None,
        };
        followers
            .into_iter()
            .flat_map(|map| map.iter().map(|(id, progress)| (*id, progress)))
    }

    /// Where the follower's log leaves the leader's, if it does: the epoch and end offset to answer (KIP-595).
    pub fn diverging_epoch(&self, fetch_offset: i64, last_fetched_epoch: i32) -> Option<(i32, i64)> {
        if last_fetched_epoch < 0 {
            return None;
        }
        match self.log.end_offset_for_epoch(last_fetched_epoch) {
            None => Some((-1, -1)),
            Some((epoch, end)) if epoch < last_fetched_epoch || end < fetch_offset => Some((epoch, end)),
            Some(_) => None,
        }
    }

    /// True while this replica follows that leader in that epoch: what a fetch brought is to be used only then, because
    /// the metadata may have moved on while it was under way.
    pub fn follows(&self, leader: NodeId, leader_epoch: i32) -> bool {
        self.leader_to_follow() == Some(leader) && self.image.leader_epoch == leader_epoch
    }

    /// The leader said that the logs part after `epoch` ended at `end_offset`. Returns the log end offset after truncation.
    /// The caller has checked [`Partition::follows`]; whoever leads by now keeps its log.
    ///
    /// # Errors
    /// The log cannot be truncated.
    pub fn truncate_to_leader(&mut self, now: Now, epoch: i32, end_offset: i64) -> Result<i64, L::Error> {
        let own_end = self.log.log_end_offset();
        if !matches!(self.role, Role::Follower) {
            return Ok(own_end);
        }
        let target = match self.log.end_offset_for_epoch(epoch) {
            // The leader knows no such epoch: only what is committed is sure to be shared.
            _ if epoch < 0 => self.log.high_watermark(),
            None => self.log.log_start_offset(),
            Some((_, end)) => end.min(end_offset),
        };
        let target = target.min(own_end).max(self.log.log_start_offset());
        if target < own_end {
            self.log.truncate_to(now, target)?;
        }
        if self.log.high_watermark() > target {
            self.log.set_high_watermark(target);
        }
        Ok(target)
    }

    /// The follower learned the leader's high watermark. True if its own moved.
    pub fn follower_high_watermark(&mut self, leader_high_watermark: i64) -> bool {
        let target = leader_high_watermark.min(self.log.log_end_offset());
        if target <= self.log.high_watermark() {
            return false;
        }
        self.log.set_high_watermark(target);
        true
    }

    /// Right after an election the high watermark may lie below the epoch's start: offsets are not to be promised yet
    /// (KIP-207).
    pub fn offsets_are_known(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => self.log.high_watermark() >= leader.epoch_start_offset,
            Role::Idle | Role::Follower => false,
        }
    }

    /// Moves the high watermark as far as it may: time alone ends the wait for a follower outside the ISR. True if it moved.
    pub fn advance_high_watermark(&mut self, now: Now) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        // KIP-966: below min.insync.replicas nothing becomes committed. A member that is only proposed does not count: if the
        // controller refuses it, it need not be asked who leads next.
        if self.image.isr.len() < self.effective_min_isr() {
            return false;
        }
        let end = self.log.log_end_offset();
        let mut target = self.log.durable_end_offset();
        for (replica, progress) in &leader.followers {
            let waits = self.image.isr.contains(replica)
                || leader.is_proposed(*replica)
                || (!progress.is_ineligible
                    && !progress.has_left_isr
                    && progress.log_end_offset >= leader.epoch_start_offset
                    && progress.is_caught_up(now, end, self.settings.replica_lag_time_max_ms));
            if waits {
                target = target.min(progress.log_end_offset);
            }
        }
        if target <= self.log.high_watermark() {
            return false;
        }
        self.log.set_high_watermark(target);
        true
    }
}

/// One partition of a follower's fetch.
#[derive(Clone, Copy, Debug)]
pub struct FollowerFetch {
    /// Who fetches.
    pub replica: NodeId,
    /// Broker epoch of the fetch (KIP-903); -1 if the request has none.
    pub broker_epoch: i64,
    /// The follower's log end offset.
    pub fetch_offset: i64,
    /// The follower's log start offset.
    pub log_start_offset: i64,
}

impl LeaderState {
    /// A follower of a partition at rest is not asked how far it has come, and had everything until now.
    fn appended(&mut self, now: Now, end: i64) {
        for progress in self.followers.values_mut() {
            if progress.log_end_offset == self.appended_end {
                progress.caught_up_ms = Some(now.mono_ms);
            }
        }
        self.appended_end = end;
    }

    fn is_proposed(&self, replica: NodeId) -> bool {
        let members = self.proposal.iter().flatten();
        members.into_iter().any(|(member, _)| *member == replica)
    }
}

impl FollowerProgress {
    fn new(in_sync: bool, now: Now) -> Self {
        Self {
            log_end_offset: -1,
            log_start_offset: -1,
            caught_up_ms: in_sync.then_some(now.mono_ms),
            broker_epoch: -1,
            is_ineligible: false,
            has_left_isr: false,
            last_fetch_ms: 0,
            last_fetch_leader_end: i64::MAX,
        }
    }

    fn fetched(&mut self, now: Now, fetch: FollowerFetch, leader_end: i64) {
        if fetch.fetch_offset >= leader_end {
            self.caught_up_ms = Some(now.mono_ms);
        } else if fetch.fetch_offset >= self.last_fetch_leader_end {
            self.caught_up_ms = self.caught_up_ms.max(Some(self.last_fetch_ms));
        }
        self.has_left_isr = false;
        self.log_end_offset = fetch.fetch_offset;
        self.log_start_offset = fetch.log_start_offset;
        self.broker_epoch = fetch.broker_epoch;
        self.last_fetch_leader_end = leader_end;
        self.last_fetch_ms = now.mono_ms;
    }

    fn is_caught_up(&self, now: Now, leader_end: i64, lag_max_ms: u64) -> bool {
        self.log_end_offset == leader_end
            || self
                .caught_up_ms
                .is_some_and(|at| now.mono_ms.saturating_sub(at) <= lag_max_ms)
    }
}

#[cfg(test)]
mod tests;
