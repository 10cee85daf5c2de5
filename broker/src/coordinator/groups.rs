//! Consumer groups coordinated by this broker: the shards of `__consumer_offsets` that it leads.
//!
//! A group whose partition is led elsewhere is answered NOT_COORDINATOR. Nothing here decides what a group does.

pub mod snapshot;

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::protocol::StrBytes;
use odradek_broker_core::coordination::{AppendId, Effects, LogEntry, RequestToken, TransactionEnd};
use odradek_broker_core::groups::{Caller, GroupRequest, GroupResponse, GroupSettings, GroupShard};
use odradek_common::error::ErrorCode;
use odradek_common::ids::TopicPartition;
use odradek_common::metadata::{MetadataDelta, MetadataImage, TopicImage};
use odradek_common::records::compression::Compression;
use odradek_common::time::Now;
use odradek_config::ServerConfig;
use slog::Logger;
use tokio::runtime::Handle;

use self::snapshot::GroupsSnapshot;
use super::hosting::Hosting;
use super::load::LoadTotals;
use super::shard::{Shard, ShardRules};
use crate::api::Call;
use crate::broker::Broker;
use crate::names::OFFSETS_TOPIC;
use crate::replicas::{Replicas, RoleEvent};

/// Groups of one request that are asked at once.
pub const GROUPS_AT_ONCE: usize = 64;

/// The group coordinator of one broker.
pub struct GroupCoordinators {
    settings: GroupSettings,
    /// `offsets.commit.timeout.ms`.
    commit_timeout: Duration,
    hosting: Hosting<GroupShard>,
}

/// A request to a group, and who asks.
#[derive(Clone, Debug)]
pub(super) struct GroupCall {
    caller: Caller,
    request: GroupRequest,
}

/// Partitions that no longer exist. Not bounded by itself: they existed a moment ago.
pub(super) struct PartitionsDeleted(Vec<TopicPartition>);

impl Shard for GroupShard {
    type Request = GroupCall;
    type Response = GroupResponse;
    type Event = PartitionsDeleted;
    type Snapshot = GroupsSnapshot;

    /// As in Kafka: the epoch rises with every replica that leaves the partition, and members need not know.
    const OUTLIVES_EPOCHS: bool = true;

    fn refuse(call: &GroupCall, code: ErrorCode) -> GroupResponse {
        call.request.clone().refuse(code)
    }

    fn changes_at_once(call: &GroupCall) -> bool {
        match call.request {
            GroupRequest::JoinGroup(_) | GroupRequest::SyncGroup(_) | GroupRequest::LeaveGroup(_) => true,
            // What these change goes through the log, and is noted when it comes back.
            GroupRequest::OffsetCommit(_)
            | GroupRequest::OffsetDelete(_)
            | GroupRequest::DeleteGroup(_)
            | GroupRequest::TxnOffsetCommit { .. }
            | GroupRequest::EndTransaction(_) => false,
            GroupRequest::Heartbeat(_)
            | GroupRequest::OffsetFetch { .. }
            | GroupRequest::DescribeGroup(_)
            | GroupRequest::ListGroups { .. } => false,
        }
    }

    fn replay(&mut self, entry: &LogEntry) {
        Self::replay(self, entry);
    }

    fn restart_loading(&mut self) {
        Self::restart_loading(self);
    }

    fn finish_loading(&mut self, now: Now) -> Effects<GroupResponse> {
        Self::finish_loading(self, now)
    }

    fn handle(&mut self, now: Now, token: RequestToken, call: GroupCall) -> Effects<GroupResponse> {
        Self::handle(self, now, token, &call.caller, call.request)
    }

    fn on_event(&mut self, _: Now, event: PartitionsDeleted) -> Effects<GroupResponse> {
        self.on_partitions_deleted(&event.0)
    }

    fn on_appended(
        &mut self,
        now: Now,
        id: AppendId,
        result: Result<(), ErrorCode>,
    ) -> Effects<GroupResponse> {
        Self::on_appended(self, now, id, result)
    }

    fn tick(&mut self, now: Now) -> Effects<GroupResponse> {
        Self::tick(self, now)
    }

    fn next_deadline(&self) -> Option<u64> {
        Self::next_deadline(self)
    }

    fn resign(&mut self) -> Effects<GroupResponse> {
        Self::resign(self)
    }

    fn snapshot(&self) -> GroupsSnapshot {
        GroupsSnapshot::of(self)
    }
}

impl GroupCoordinators {
    /// No shards yet; they come with the first metadata. Their tasks run on `runtime`.
    #[must_use]
    pub fn new(runtime: Handle, config: &ServerConfig, log: Logger) -> Arc<Self> {
        let offsets = &config.offsets;
        let codec = i16::try_from(offsets.topic_compression_codec).ok();
        let rules = ShardRules {
            load_buffer_bytes: usize::try_from(offsets.load_buffer_bytes).unwrap_or(usize::MAX),
            compression: codec.and_then(Compression::from_id).unwrap_or(Compression::None),
        };
        Arc::new(Self {
            settings: settings(config),
            commit_timeout: Duration::from_millis(u64::from(offsets.commit_timeout_ms)),
            hosting: Hosting::new(OFFSETS_TOPIC, runtime, rules, log),
        })
    }

    /// Starts and ends shards as replicas of `__consumer_offsets` change their roles, and takes back the offsets of
    /// topics that are gone. To be called after the replicas have taken the change over; does not block.
    pub fn publish(broker: &Arc<Broker>, delta: &MetadataDelta, events: &[RoleEvent]) {
        broker
            .groups
            .apply(&broker.replicas, &broker.image(), delta, events);
    }

    fn apply(
        &self,
        replicas: &Arc<Replicas>,
        image: &MetadataImage,
        delta: &MetadataDelta,
        events: &[RoleEvent],
    ) {
        self.hosting.apply(replicas, image, events, |_, _, log| {
            GroupShard::new(self.settings.clone(), rand::random(), log.clone())
        });
        if !delta.deleted_topics.is_empty() {
            self.on_topics_deleted(delta.deleted_topics.values());
        }
    }

    /// What loading has taken, for metrics.
    #[must_use]
    pub fn loads(&self) -> LoadTotals {
        self.hosting.loads()
    }

    /// Ends every shard; requests are answered NOT_COORDINATOR from now on.
    pub fn stop(&self) {
        self.hosting.stop();
    }

    /// Has one group's coordinator answer. The future may be dropped at any time: the request is carried out all the
    /// same.
    pub async fn call(&self, caller: Caller, request: GroupRequest) -> GroupResponse {
        let version = caller.api_version;
        let group_id = request.group_id().cloned().unwrap_or_default();
        // Joins and syncs wait for other members, which the group's own timers bound; the rest waits for its records.
        let waits_for_members = matches!(request, GroupRequest::JoinGroup(_) | GroupRequest::SyncGroup(_));
        let patience = (!waits_for_members).then_some(self.commit_timeout);
        let call = GroupCall { caller, request };
        let answer = self.hosting.call(&group_id, call, patience).await;
        answer.for_version(version)
    }

    /// Ends a transaction in a partition of `__consumer_offsets`: its marker is in the log and committed, and its offsets
    /// count or are gone.
    ///
    /// # Errors
    /// NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS or COORDINATOR_NOT_AVAILABLE if it is to be tried again; else what the
    /// log says.
    pub async fn end_transaction(&self, partition: i32, end: TransactionEnd) -> Result<(), ErrorCode> {
        let call = GroupCall {
            caller: Caller::default(),
            request: GroupRequest::EndTransaction(end),
        };
        let answer = self
            .hosting
            .call_partition(partition, call, self.commit_timeout)
            .await;
        match answer {
            GroupResponse::EndTransaction(outcome) => outcome,
            other => unreachable!("a marker is answered in kind, not by {other:?}"),
        }
    }

    /// The partition of `__consumer_offsets` that holds a group; None while there is none.
    #[must_use]
    pub fn partition_of(&self, group_id: &str) -> Option<i32> {
        self.hosting.partition_of(group_id)
    }

    /// Every group coordinated here that is in one of these states and of one of these types; no name means any.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS while a shard still reads its log: the list would not be complete.
    pub async fn list(
        &self,
        caller: &Caller,
        states: &[StrBytes],
        types: &[StrBytes],
    ) -> Result<Vec<ListedGroup>, ErrorCode> {
        let call = GroupCall {
            caller: caller.clone(),
            request: GroupRequest::ListGroups {
                states: states.to_vec(),
                types: types.to_vec(),
            },
        };
        let mut listed = Vec::new();
        for answer in self.hosting.call_all(&call, self.commit_timeout).await {
            match answer.for_version(caller.api_version) {
                GroupResponse::ListGroups(Ok(groups)) => listed.extend(groups),
                // It is led elsewhere by now, and listed there.
                GroupResponse::ListGroups(Err(ErrorCode::NotCoordinator)) => {}
                GroupResponse::ListGroups(Err(code)) => return Err(code),
                other => unreachable!("a list is answered by a list, not by {other:?}"),
            }
        }
        Ok(listed)
    }

    /// Groups and committed offsets as they were at most about a second ago, or when a shard that is busy was last looked at; for metrics.
    /// Blocks for a moment.
    #[must_use]
    pub fn snapshot(&self) -> GroupsSnapshot {
        let mut all = GroupsSnapshot::default();
        for snapshot in self.hosting.snapshots() {
            all.extend(&snapshot);
        }
        all
    }

    fn on_topics_deleted<'a>(&self, topics: impl Iterator<Item = &'a Arc<TopicImage>>) {
        let mut partitions = Vec::new();
        for topic in topics {
            let indexes = 0..i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            partitions.extend(indexes.map(|index| TopicPartition::new(topic.name.clone(), index)));
        }
        for shared in self.hosting.shared() {
            shared.tell(PartitionsDeleted(partitions.clone()));
        }
    }
}

fn settings(config: &ServerConfig) -> GroupSettings {
    let (group, offsets) = (&config.group, &config.offsets);
    GroupSettings {
        min_session_timeout_ms: group.session_timeout_min_ms,
        max_session_timeout_ms: group.session_timeout_max_ms,
        initial_rebalance_delay_ms: u64::try_from(group.initial_rebalance_delay_ms).unwrap_or(0),
        max_size: usize::try_from(group.size_max).unwrap_or(usize::MAX),
        offset_metadata_max_bytes: usize::try_from(offsets.metadata_bytes_max).unwrap_or(0),
        offsets_retention_ms: offsets.retention_ms,
        offsets_retention_check_interval_ms: u64::try_from(offsets.retention_check_interval_ms).unwrap_or(1),
        ..GroupSettings::default()
    }
}

/// Who asks, as the coordinator wants to know it.
#[must_use]
pub fn caller(call: &Call) -> Caller {
    Caller {
        api_version: call.api_version,
        client_id: call.client_id.clone().unwrap_or_default(),
        client_host: StrBytes::from_string(format!("/{}", call.connection.peer_addr.ip().to_canonical())),
    }
}

#[cfg(test)]
mod tests;
