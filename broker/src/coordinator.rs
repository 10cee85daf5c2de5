//! Consumer groups coordinated by this broker: one task per partition of `__consumer_offsets` that it leads.
//!
//! Requests are routed to the partition of their group and answered by its task ([`shard`]), which owns the state machine.
//! Leadership comes and goes with [`GroupCoordinators::publish`]; a group whose partition is led elsewhere is answered
//! NOT_COORDINATOR. Nothing here decides what a group does, and nothing here waits for a lock across an await.

mod load;
mod shard;
pub mod snapshot;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::protocol::StrBytes;
use odradek_broker_core::groups::records::partition_for;
use odradek_broker_core::groups::{Caller, GroupRequest, GroupResponse, GroupSettings};
use odradek_common::error::ErrorCode;
use odradek_common::ids::TopicPartition;
use odradek_common::metadata::{MetadataDelta, MetadataImage, TopicImage};
use odradek_common::records::compression::Compression;
use odradek_config::ServerConfig;
use parking_lot::Mutex;
use slog::Logger;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::shard::{ShardOrigin, ShardRequest, ShardShared};
use self::snapshot::GroupsSnapshot;
use crate::api::Call;
use crate::broker::Broker;
use crate::names::OFFSETS_TOPIC;
use crate::replica::Replica;
use crate::replicas::{Replicas, RoleEvent};

/// Requests that wait for one shard; beyond, clients are asked to try again.
pub const SHARD_QUEUE_MAX: usize = 1_000;
/// Groups of one request that are asked at once.
pub const GROUPS_AT_ONCE: usize = 64;
/// Shards that read their logs at once.
const LOADS_AT_ONCE_MAX: usize = 4;

/// What every shard of this broker obeys.
#[derive(Clone, Debug)]
pub(crate) struct CoordinatorSettings {
    groups: GroupSettings,
    /// `offsets.commit.timeout.ms`.
    commit_timeout: Duration,
    /// `offsets.load.buffer.size`.
    load_buffer_bytes: usize,
    /// `offsets.topic.compression.codec`.
    compression: Compression,
}

/// The group coordinator of one broker.
pub struct GroupCoordinators {
    runtime: Handle,
    log: Logger,
    settings: CoordinatorSettings,
    loads: Arc<Semaphore>,
    /// Partitions of `__consumer_offsets`; 0 while the topic does not exist.
    partitions: AtomicI32,
    shards: Mutex<Shards>,
}

#[derive(Default)]
struct Shards {
    hosted: BTreeMap<i32, Hosted>,
    /// Held by a shard's task for as long as it lives: a successor begins when its predecessor has ended.
    turns: BTreeMap<i32, Arc<tokio::sync::Mutex<()>>>,
    stopped: bool,
}

/// A shard's task as requests see it; the task ends when this is dropped.
struct Hosted {
    requests: mpsc::Sender<ShardRequest>,
    shared: Arc<ShardShared>,
}

impl GroupCoordinators {
    /// No shards yet; they come with the first metadata. Their tasks run on `runtime`.
    #[must_use]
    pub fn new(runtime: Handle, config: &ServerConfig, log: Logger) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            log,
            settings: CoordinatorSettings::of(config),
            loads: Arc::new(Semaphore::new(LOADS_AT_ONCE_MAX)),
            partitions: AtomicI32::new(0),
            shards: Mutex::default(),
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
        let partitions = image
            .topic(OFFSETS_TOPIC)
            .map_or(0, |topic| topic.partitions.len());
        self.partitions
            .store(i32::try_from(partitions).unwrap_or(i32::MAX), Ordering::Release);
        for event in events {
            match event {
                RoleEvent::Leads(replica, leader_epoch) if &*replica.id.topic == OFFSETS_TOPIC => {
                    self.start(replicas, replica, *leader_epoch);
                }
                RoleEvent::Follows(replica, _, _) if &*replica.id.topic == OFFSETS_TOPIC => {
                    self.end(replica.id.partition);
                }
                RoleEvent::Stops(id, _) if &*id.topic == OFFSETS_TOPIC => self.end(id.partition),
                RoleEvent::Leads(..) | RoleEvent::Follows(..) | RoleEvent::Stops(..) => {}
            }
        }
        if !delta.deleted_topics.is_empty() {
            self.on_topics_deleted(delta.deleted_topics.values());
        }
    }

    /// Ends every shard; requests are answered NOT_COORDINATOR from now on.
    pub fn stop(&self) {
        let mut shards = self.shards.lock();
        shards.stopped = true;
        shards.hosted.clear();
    }

    /// Has one group's coordinator answer. The future may be dropped at any time: the request is carried out all the
    /// same.
    pub async fn call(&self, caller: Caller, request: GroupRequest) -> GroupResponse {
        let version = caller.api_version;
        let group_id = request.group_id().cloned().unwrap_or_default();
        let Some(requests) = self.shard_of(&group_id) else {
            return request.refuse(ErrorCode::NotCoordinator).for_version(version);
        };
        self.ask(requests, caller, request).await.for_version(version)
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
        let shards: Vec<_> = self
            .shards
            .lock()
            .hosted
            .values()
            .map(|hosted| hosted.requests.clone())
            .collect();
        let mut listed = Vec::new();
        for requests in shards {
            let request = GroupRequest::ListGroups {
                states: states.to_vec(),
                types: types.to_vec(),
            };
            let answer = self.ask(requests, caller.clone(), request).await;
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

    /// Groups and committed offsets as they were at most about a second ago; for metrics.
    #[must_use]
    pub fn snapshot(&self) -> GroupsSnapshot {
        let shared: Vec<_> = self
            .shards
            .lock()
            .hosted
            .values()
            .map(|hosted| hosted.shared.clone())
            .collect();
        let mut all = GroupsSnapshot::default();
        for shard in shared {
            all.extend(&shard.snapshot.lock());
        }
        all
    }

    fn shard_of(&self, group_id: &str) -> Option<mpsc::Sender<ShardRequest>> {
        let partitions = self.partitions.load(Ordering::Acquire);
        if partitions == 0 {
            return None;
        }
        let shards = self.shards.lock();
        shards
            .hosted
            .get(&partition_for(group_id, partitions))
            .map(|hosted| hosted.requests.clone())
    }

    async fn ask(
        &self,
        requests: mpsc::Sender<ShardRequest>,
        caller: Caller,
        request: GroupRequest,
    ) -> GroupResponse {
        // Joins and syncs wait for other members, which the group's own timers bound; the rest waits for its records.
        let waits_for_members = matches!(request, GroupRequest::JoinGroup(_) | GroupRequest::SyncGroup(_));
        let copy = request.clone();
        let (answer, response) = oneshot::channel();
        match requests.try_send(ShardRequest {
            caller,
            request,
            answer,
        }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(refused)) => {
                return refused.request.refuse(ErrorCode::CoordinatorLoadInProgress);
            }
            Err(mpsc::error::TrySendError::Closed(refused)) => {
                return refused.request.refuse(ErrorCode::NotCoordinator);
            }
        }
        // The shard ends when its senders are gone: whoever waits must not be one of them.
        drop(requests);
        let answered = if waits_for_members {
            response.await
        } else {
            match tokio::time::timeout(self.settings.commit_timeout, response).await {
                Ok(answered) => answered,
                Err(_) => return copy.refuse(ErrorCode::CoordinatorNotAvailable),
            }
        };
        answered.unwrap_or_else(|_| copy.refuse(ErrorCode::NotCoordinator))
    }

    fn start(&self, replicas: &Arc<Replicas>, replica: &Arc<Replica>, leader_epoch: i32) {
        let partition = replica.id.partition;
        let mut shards = self.shards.lock();
        if shards.stopped {
            return;
        }
        let (requests, queue) = mpsc::channel(SHARD_QUEUE_MAX);
        let shared = Arc::new(ShardShared::default());
        let turn = shards.turns.entry(partition).or_default().clone();
        let origin = ShardOrigin {
            replica: replica.clone(),
            leader_epoch,
            replicas: replicas.clone(),
            settings: self.settings.clone(),
            loads: self.loads.clone(),
            shared: shared.clone(),
            log: self
                .log
                .new(slog::o!("partition" => replica.id.to_string(), "leader_epoch" => leader_epoch)),
        };
        self.runtime.spawn(async move {
            let _turn = turn.lock().await;
            shard::run(origin, queue).await;
        });
        shards.hosted.insert(partition, Hosted { requests, shared });
    }

    fn end(&self, partition: i32) {
        self.shards.lock().hosted.remove(&partition);
    }

    fn on_topics_deleted<'a>(&self, topics: impl Iterator<Item = &'a Arc<TopicImage>>) {
        let mut partitions = Vec::new();
        for topic in topics {
            let indexes = 0..i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            partitions.extend(indexes.map(|index| TopicPartition::new(topic.name.clone(), index)));
        }
        for hosted in self.shards.lock().hosted.values() {
            hosted.shared.delete(&partitions);
        }
    }
}

impl CoordinatorSettings {
    fn of(config: &ServerConfig) -> Self {
        let (group, offsets) = (&config.group, &config.offsets);
        let groups = GroupSettings {
            min_session_timeout_ms: group.session_timeout_min_ms,
            max_session_timeout_ms: group.session_timeout_max_ms,
            initial_rebalance_delay_ms: u64::try_from(group.initial_rebalance_delay_ms).unwrap_or(0),
            max_size: usize::try_from(group.size_max).unwrap_or(usize::MAX),
            offset_metadata_max_bytes: usize::try_from(offsets.metadata_bytes_max).unwrap_or(0),
            offsets_retention_ms: offsets.retention_ms,
            offsets_retention_check_interval_ms: u64::try_from(offsets.retention_check_interval_ms)
                .unwrap_or(1),
            ..GroupSettings::default()
        };
        let codec = i16::try_from(offsets.topic_compression_codec).ok();
        Self {
            groups,
            commit_timeout: Duration::from_millis(u64::from(offsets.commit_timeout_ms)),
            load_buffer_bytes: usize::try_from(offsets.load_buffer_bytes).unwrap_or(usize::MAX),
            compression: codec.and_then(Compression::from_id).unwrap_or(Compression::None),
        }
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

/// Counts an error of a response, if it is one.
pub fn count_refusal(broker: &Broker, api: ApiKey, error_code: i16) {
    if let Some(code) = ErrorCode::try_from_code(error_code) {
        broker.metrics.refused(api, code);
    }
}

#[cfg(test)]
mod tests;
