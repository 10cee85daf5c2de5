//! Classic consumer groups: the state machine behind one partition of `__consumer_offsets`.
//!
//! A [`GroupShard`] owns every group whose id hashes to its partition: members and their timers, generations, committed
//! offsets, expiry. It decides, hands out the records of its decision, and waits: what a decision changes for readers of
//! the log (offsets, stored assignments) is applied when the shell reports that the records are committed, in the order
//! in which they were handed out. Timers and memberships between two stored generations are soft state; after a
//! failover members find them again through heartbeats and rejoins, as in Kafka.
//!
//! It does not hash requests to partitions of other brokers (see [`crate::coordination::partition_for`] for the
//! function), does not authorise, does not know topics, and opens neither files nor sockets. Offsets of open transactions
//! are kept apart until their markers are committed (`transactions`); whether a transaction exists its own coordinator
//! knows.

mod admin;
mod appends;
mod group;
mod join;
mod membership;
mod offsets;
mod rebalance;
pub mod records;
pub mod replicated;
pub mod responses;
mod timers;
mod transactions;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    SyncGroupRequest, SyncGroupResponse, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::ids::TopicPartition;
use odradek_common::time::Now;
use rand::SeedableRng;
use rand::rngs::StdRng;
use slog::Logger;

use self::appends::Appends;
use self::group::Group;
pub use self::group::GroupState;
use self::records::OffsetValue;
use self::replicated::Replicated;
use self::timers::TimerKey;
use crate::coordination::timers::Timers;
use crate::coordination::{AppendId, Effects, LogEntry, RequestToken, TransactionEnd};
use crate::producer_state::verification::Verification;

/// What the groups of a shard obey. Times in milliseconds, named after Kafka's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: u64,
    /// `group.max.size`: members of one group.
    pub max_size: usize,
    /// `offset.metadata.max.bytes`: of the string beside one committed offset (counted as Kafka does, in UTF-16 units).
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: u64,
    /// How long a new member may wait in its first JoinGroup before it is forgotten.
    pub new_member_join_timeout_ms: u64,
    /// Bytes of all protocol metadata that one member may bring.
    pub member_metadata_max_bytes: usize,
    /// Member ids handed out and not yet used, per group.
    pub pending_members_max: usize,
    /// Groups of one shard that JoinGroup may create.
    pub groups_max: usize,
}

impl Default for GroupSettings {
    /// Kafka's defaults; the last three limits are our own.
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: i32::MAX as usize,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 60 * 60_000,
            offsets_retention_check_interval_ms: 600_000,
            new_member_join_timeout_ms: 5 * 60_000,
            member_metadata_max_bytes: 4 << 20,
            pending_members_max: 10_000,
            groups_max: 100_000,
        }
    }
}

/// Who asks, in which version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The version of the request.
    pub api_version: i16,
    /// The client id of the request header, empty when absent.
    pub client_id: StrBytes,
    /// The client's address in Kafka's form: a slash and the IP address.
    pub client_host: StrBytes,
}

/// A request to one group.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupRequest {
    /// JoinGroup.
    JoinGroup(JoinGroupRequest),
    /// SyncGroup.
    SyncGroup(SyncGroupRequest),
    /// Heartbeat.
    Heartbeat(HeartbeatRequest),
    /// LeaveGroup, in either form.
    LeaveGroup(LeaveGroupRequest),
    /// OffsetCommit, of topics that exist and that the caller may read.
    OffsetCommit(OffsetCommitRequest),
    /// OffsetFetch of one group.
    OffsetFetch {
        /// In the form of version 8; `topics: None` asks for all.
        group: OffsetFetchRequestGroup,
        /// Wait for commits under way.
        require_stable: bool,
    },
    /// OffsetDelete.
    OffsetDelete(OffsetDeleteRequest),
    /// DescribeGroups, one group.
    DescribeGroup(GroupId),
    /// ListGroups, this shard's part.
    ListGroups {
        /// Names of states in any case; empty: all.
        states: Vec<StrBytes>,
        /// Names of types in any case; empty: all.
        types: Vec<StrBytes>,
    },
    /// DeleteGroups, one group.
    DeleteGroup(GroupId),
    /// TxnOffsetCommit, of topics that exist.
    TxnOffsetCommit {
        /// The request.
        request: TxnOffsetCommitRequest,
        /// What the transaction's coordinator has agreed to.
        verification: Verification,
    },
    /// WriteTxnMarkers, this shard's partition.
    EndTransaction(TransactionEnd),
}

/// The answer to a [`GroupRequest`], in the same variant. Before encoding it wants [`GroupResponse::for_version`].
#[derive(Clone, Debug, PartialEq)]
pub enum GroupResponse {
    /// JoinGroup.
    JoinGroup(JoinGroupResponse),
    /// SyncGroup.
    SyncGroup(SyncGroupResponse),
    /// Heartbeat.
    Heartbeat(HeartbeatResponse),
    /// LeaveGroup.
    LeaveGroup(LeaveGroupResponse),
    /// OffsetCommit.
    OffsetCommit(OffsetCommitResponse),
    /// OffsetFetch, one group; [`responses`] turns it into the form of versions 1 to 7.
    OffsetFetch(OffsetFetchResponseGroup),
    /// OffsetDelete.
    OffsetDelete(OffsetDeleteResponse),
    /// DescribeGroups, one group.
    DescribeGroup(DescribedGroup),
    /// ListGroups: this shard's groups, or why they cannot be listed.
    ListGroups(Result<Vec<ListedGroup>, ErrorCode>),
    /// DeleteGroups, one group.
    DeleteGroup(DeletableGroupResult),
    /// TxnOffsetCommit.
    TxnOffsetCommit(TxnOffsetCommitResponse),
    /// WriteTxnMarkers: the marker is committed, or why it is not.
    EndTransaction(Result<(), ErrorCode>),
}

/// Where a shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    Resigned,
}

/// The groups of one partition of `__consumer_offsets`.
pub struct GroupShard {
    settings: GroupSettings,
    log: Logger,
    rng: StdRng,
    phase: Phase,
    /// Exactly what the committed part of the log says.
    replicated: Replicated,
    /// Groups as they are now, soft state included.
    groups: BTreeMap<StrBytes, Group>,
    timers: Timers<TimerKey>,
    appends: Appends,
    replies: Vec<(RequestToken, GroupResponse)>,
    skipped_records: u64,
}

/// What a group may touch while it handles one input.
struct Turn<'a> {
    now: Now,
    settings: &'a GroupSettings,
    log: &'a Logger,
    rng: &'a mut StdRng,
    timers: &'a mut Timers<TimerKey>,
    appends: &'a mut Appends,
    replies: &'a mut Vec<(RequestToken, GroupResponse)>,
}

impl Turn<'_> {
    fn reply(&mut self, token: RequestToken, response: GroupResponse) {
        self.replies.push((token, response));
    }
}

impl GroupShard {
    /// An empty shard that is loading: [`Self::replay`] its log, then [`Self::finish_loading`]. The seed decides the
    /// member ids: give each shard of each process life another one.
    #[must_use]
    pub fn new(settings: GroupSettings, seed: u64, logger: Logger) -> Self {
        Self {
            settings,
            log: logger,
            rng: StdRng::seed_from_u64(seed),
            phase: Phase::Loading,
            replicated: Replicated::default(),
            groups: BTreeMap::new(),
            timers: Timers::default(),
            appends: Appends::default(),
            replies: Vec::new(),
            skipped_records: 0,
        }
    }

    /// Takes one committed entry of the log, in offset order. Keys of unknown versions and records that cannot be read are
    /// counted and left out.
    ///
    /// # Panics
    /// When called after [`Self::finish_loading`].
    pub fn replay(&mut self, entry: &LogEntry) {
        assert_eq!(self.phase, Phase::Loading, "replay belongs to loading");
        let (producer_id, key, value) = match entry {
            LogEntry::Record {
                producer_id,
                key,
                value,
            } => (*producer_id, key, value.as_deref()),
            LogEntry::EndOfTransaction { producer_id, result } => {
                self.replicated.end_transaction(*producer_id, *result);
                return;
            }
        };
        match (records::decode(key, value), producer_id) {
            (Ok(Some(record)), None) => self.replicated.apply(&record),
            (Ok(Some(record)), Some(producer_id)) => self.replicated.apply_pending(producer_id, &record),
            (Ok(None), _) => self.skipped_records += 1,
            (Err(error), _) => {
                self.skipped_records += 1;
                slog::warn!(self.log, "left out a group record that cannot be read"; "error" => %error);
            }
        }
    }

    /// Forgets what was replayed: the log could not be read to its end, and is to be replayed from its beginning.
    ///
    /// # Panics
    /// When called after [`Self::finish_loading`].
    pub fn restart_loading(&mut self) {
        assert_eq!(self.phase, Phase::Loading, "what is loaded stays");
        self.replicated = Replicated::default();
        self.skipped_records = 0;
    }

    /// The log has been replayed up to the high watermark: every member gets a full session to show itself.
    pub fn finish_loading(&mut self, now: Now) -> Effects<GroupResponse> {
        assert_eq!(self.phase, Phase::Loading, "a shard is loaded once");
        self.phase = Phase::Active;
        let group_ids: BTreeSet<StrBytes> = self.replicated.group_ids().cloned().collect();
        for group_id in group_ids {
            let group = Group::from_replicated(&group_id, self.replicated.group(&group_id), now, &self.log);
            self.groups.insert(group_id.clone(), group);
            let Some((group, mut turn)) = self.group_turn(now, &group_id) else {
                continue;
            };
            group.on_loaded(&mut turn);
        }
        self.timers.schedule(
            TimerKey::Expiry,
            now.mono_ms + self.settings.offsets_retention_check_interval_ms,
        );
        // Most partitions of a new cluster hold no group: fifty lines would say nothing.
        if self.groups.is_empty() {
            slog::debug!(self.log, "no groups to load"; "skipped_records" => self.skipped_records);
        } else {
            slog::info!(self.log, "groups loaded"; "groups" => self.groups.len(), "skipped_records" => self.skipped_records);
        }
        self.take_effects()
    }

    /// Handles one request. Its answer comes in these or in later effects.
    pub fn handle(
        &mut self,
        now: Now,
        token: RequestToken,
        caller: &Caller,
        request: GroupRequest,
    ) -> Effects<GroupResponse> {
        match self.phase {
            Phase::Active => self.dispatch(now, token, caller, request),
            Phase::Loading => self
                .replies
                .push((token, request.refuse(ErrorCode::CoordinatorLoadInProgress))),
            Phase::Resigned => self
                .replies
                .push((token, request.refuse(ErrorCode::NotCoordinator))),
        }
        self.take_effects()
    }

    fn dispatch(&mut self, now: Now, token: RequestToken, caller: &Caller, request: GroupRequest) {
        match request {
            GroupRequest::JoinGroup(request) => self.join_group(now, token, caller, &request),
            GroupRequest::SyncGroup(request) => self.sync_group(now, token, &request),
            GroupRequest::Heartbeat(request) => self.heartbeat(now, token, &request),
            GroupRequest::LeaveGroup(request) => self.leave_group(now, token, caller, request),
            GroupRequest::OffsetCommit(request) => self.offset_commit(now, token, caller, &request),
            GroupRequest::OffsetFetch {
                group,
                require_stable,
            } => {
                self.offset_fetch(token, group, require_stable);
            }
            GroupRequest::OffsetDelete(request) => self.offset_delete(token, &request),
            GroupRequest::DescribeGroup(group_id) => self.describe_group(token, caller, group_id),
            GroupRequest::ListGroups { states, types } => self.list_groups(token, &states, &types),
            GroupRequest::DeleteGroup(group_id) => self.delete_group(token, group_id),
            GroupRequest::TxnOffsetCommit {
                request,
                verification,
            } => self.txn_offset_commit(now, token, &request, verification),
            GroupRequest::EndTransaction(end) => self.end_transaction(token, end),
        }
    }

    /// The records of an [`Append`](crate::coordination::Append) are committed (the high watermark has passed them) or will never be. Reports may
    /// come in any order; they are acted upon in the order of the ids.
    pub fn on_appended(
        &mut self,
        now: Now,
        id: AppendId,
        result: Result<(), ErrorCode>,
    ) -> Effects<GroupResponse> {
        if self.phase == Phase::Active {
            self.appends.report(id, result);
            while let Some((pending, result)) = self.appends.take_reported() {
                self.complete_append(now, pending, result);
            }
        }
        self.take_effects()
    }

    /// Lets everything happen whose time has come. To be called when no request waits: what a member sent before its
    /// deadline counts, even if the shard comes to it later.
    pub fn tick(&mut self, now: Now) -> Effects<GroupResponse> {
        while let Some(key) = self.timers.pop_due(now.mono_ms) {
            self.on_timer(now, key);
        }
        self.take_effects()
    }

    /// When [`Self::tick`] wants to be called, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next_deadline()
    }

    /// Leadership is lost: every request that waits is answered NOT_COORDINATOR, as will be every later one.
    pub fn resign(&mut self) -> Effects<GroupResponse> {
        self.phase = Phase::Resigned;
        let groups = std::mem::take(&mut self.groups);
        for group in groups.into_values() {
            group.refuse_parked(ErrorCode::NotCoordinator, &mut self.replies);
        }
        for pending in self.appends.drain() {
            pending.refuse(ErrorCode::NotCoordinator, &mut self.replies);
        }
        self.timers = Timers::default();
        self.replicated = Replicated::default();
        self.take_effects()
    }

    /// These partitions no longer exist: the offsets committed for them go.
    pub fn on_partitions_deleted(&mut self, partitions: &[TopicPartition]) -> Effects<GroupResponse> {
        if self.phase == Phase::Active {
            self.delete_offsets_of(partitions);
        }
        self.take_effects()
    }

    /// The replicated part: exactly what the committed log says.
    #[must_use]
    pub fn replicated(&self) -> &Replicated {
        &self.replicated
    }

    /// Every group with its state and its number of members.
    pub fn group_states(&self) -> impl Iterator<Item = (&StrBytes, GroupState, usize)> {
        self.groups
            .iter()
            .map(|(group_id, group)| (group_id, group.state(), group.member_count()))
    }

    /// Every committed offset: group, topic, partition, value.
    pub fn committed_offsets(&self) -> impl Iterator<Item = (&StrBytes, &StrBytes, i32, &OffsetValue)> {
        self.replicated.offsets()
    }

    /// Records of the log that could not be understood and were left out.
    #[must_use]
    pub fn skipped_records(&self) -> u64 {
        self.skipped_records
    }

    /// A group, with all that it may touch.
    fn group_turn(&mut self, now: Now, group_id: &StrBytes) -> Option<(&mut Group, Turn<'_>)> {
        let group = self.groups.get_mut(group_id)?;
        let turn = Turn {
            now,
            settings: &self.settings,
            log: &self.log,
            rng: &mut self.rng,
            timers: &mut self.timers,
            appends: &mut self.appends,
            replies: &mut self.replies,
        };
        Some((group, turn))
    }

    fn take_effects(&mut self) -> Effects<GroupResponse> {
        Effects {
            appends: self.appends.take_new(),
            replies: std::mem::take(&mut self.replies),
        }
    }

    fn on_timer(&mut self, now: Now, key: TimerKey) {
        match key {
            TimerKey::Session { group_id, member_id } => {
                if let Some((group, mut turn)) = self.group_turn(now, &group_id) {
                    group.on_session_expired(&mut turn, &member_id);
                }
            }
            TimerKey::Join { group_id } => {
                if let Some((group, mut turn)) = self.group_turn(now, &group_id) {
                    group.on_join_timeout(&mut turn);
                }
            }
            TimerKey::Sync { group_id } => {
                if let Some((group, mut turn)) = self.group_turn(now, &group_id) {
                    group.on_sync_timeout(&mut turn);
                }
            }
            TimerKey::Expiry => {
                self.expire(now);
                let next = now.mono_ms + self.settings.offsets_retention_check_interval_ms.max(1);
                self.timers.schedule(TimerKey::Expiry, next);
            }
        }
    }
}

/// A copy of the text that does not keep the request's frame in memory.
fn owned(text: &StrBytes) -> StrBytes {
    StrBytes::from_string(text.as_str().to_owned())
}

/// A copy of the bytes that does not keep the request's frame in memory.
fn owned_bytes(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
