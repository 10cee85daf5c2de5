//! The shell around a broker's replicas, as `broker/src` has it: publishes metadata, answers producers, calls the controller.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use odradek_broker_core::partition::{Partition, PartitionSettings, ReplicaLog, RoleChange};
use odradek_common::error::ErrorCode;
use odradek_common::ids::{NodeId, TopicPartition};
use odradek_common::metadata::{MetadataDelta, MetadataImage, PartitionImage};
use uuid::Uuid;

use super::controller::Update;
use super::fetching::Fetcher;
use super::isr::IsrUpdates;
use super::lifecycle::Lifecycle;
use crate::env::{Env, Flushing};
use crate::log::{ProducerBatch, SimLog};
use crate::message::{Address, Channel, ControllerRequest, ControllerResponse, Key, Payload, ReturnAddress};
use crate::scenario::{MIN_ISR, REPLICA_LAG_MS};

/// A producer's request waits this long for replication.
const PRODUCE_TIMEOUT_MS: u64 = 1_500;
/// An attempt to reach the controller that is not answered counts as lost after this long.
const ATTEMPT_MS: u64 = 400;
const RETRY_PAUSE_MS: u64 = 20;

/// A broker.
pub struct BrokerNode {
    pub(super) at: Address,
    pub(super) image: MetadataImage,
    pub(super) lifecycle: Lifecycle,
    pub(super) replicas: BTreeMap<Key, Replica>,
    pub(super) fetchers: BTreeMap<NodeId, Fetcher>,
    pub(super) isr: IsrUpdates,
    stored: BTreeMap<Key, SimLog>,
    updates: VecDeque<Update>,
    serves: bool,
    calls: BTreeMap<u64, Call>,
}

/// One replica and the producers that wait for it.
pub struct Replica {
    /// The state machine and its log.
    pub partition: Partition<SimLog>,
    produces: Vec<PendingProduce>,
}

struct PendingProduce {
    leader_epoch: i32,
    offset: i64,
    base_offset: i64,
    deadline_ms: u64,
    to: ReturnAddress,
}

/// What a call to the controller is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Register,
    Heartbeat,
    AlterPartition,
    Forward,
}

struct Call {
    purpose: Purpose,
    request: ControllerRequest,
    deadline_ms: u64,
    next_attempt_ms: u64,
    attempt: Option<Attempt>,
}

struct Attempt {
    id: u64,
    to: NodeId,
    until_ms: u64,
}

impl BrokerNode {
    pub(super) fn start(
        env: &mut Env,
        at: Address,
        previous_epoch: i64,
        stored: BTreeMap<Key, SimLog>,
    ) -> Self {
        Self {
            at,
            image: MetadataImage::default(),
            lifecycle: Lifecycle::new(env, previous_epoch),
            replicas: BTreeMap::new(),
            fetchers: BTreeMap::new(),
            isr: IsrUpdates::default(),
            stored,
            updates: VecDeque::new(),
            serves: false,
            calls: BTreeMap::new(),
        }
    }

    /// The metadata it has published.
    #[must_use]
    pub fn image(&self) -> &MetadataImage {
        &self.image
    }

    /// Its replicas.
    #[must_use]
    pub fn replicas(&self) -> &BTreeMap<Key, Replica> {
        &self.replicas
    }

    pub(super) fn into_logs(self) -> BTreeMap<Key, SimLog> {
        let mut logs = self.stored;
        logs.extend(
            self.replicas
                .into_iter()
                .map(|(key, replica)| (key, replica.partition.into_log())),
        );
        logs
    }

    pub(super) fn receive(&mut self, updates: Vec<Update>) {
        self.updates.extend(updates);
    }

    pub(super) fn newest_cluster_id(&self) -> Arc<str> {
        self.updates.back().map_or_else(
            || self.image.cluster_id.clone(),
            |update| update.image.cluster_id.clone(),
        )
    }

    /// Time passed; `controller` is who the quorum says leads.
    pub(super) fn step(&mut self, env: &mut Env, controller: Option<NodeId>) {
        if env.rng.percent(70) {
            self.publish_updates(env);
        }
        self.pursue_lifecycle(env);
        self.pursue_fetching(env);
        self.pursue_isr(env);
        self.pursue_calls(env, controller);
        self.expire_produces(env);
        self.commit_flushes(env);
        for replica in self.replicas.values_mut() {
            if env.rng.below(300) == 0 {
                replica.partition.log_mut().flush();
            } else if env.rng.below(200) == 0 {
                replica.partition.log_mut().checkpoint();
            }
        }
    }

    /// What waits for the disk is there some time later, all of it at once.
    fn commit_flushes(&mut self, env: &mut Env) {
        let is_due = |(_, replica): &(&Key, &Replica)| replica.partition.log().is_flush_due();
        let due: Vec<Key> = self.replicas.iter().filter(is_due).map(|(key, _)| *key).collect();
        if due.is_empty() || !env.rng.percent(60) {
            return;
        }
        for key in due {
            if let Some(replica) = self.replicas.get_mut(&key) {
                replica.partition.log_mut().flush();
                replica.partition.appended(env.now);
            }
            self.settle(env, key);
        }
    }

    /// A broker that starts again acts on nothing before the registration of its new incarnation: until then the metadata
    /// may count on what the crash took (as Kafka's broker, which installs its publishers only after it has caught up).
    fn publish_updates(&mut self, env: &mut Env) {
        if !self.serves {
            let newest = self.updates.back().map_or(-1, |update| update.image.offset);
            if self.lifecycle.epoch < 0 || newest < self.lifecycle.epoch {
                return;
            }
            self.serves = true;
            if env.rng.percent(50) {
                // At once, or step by step from the last snapshot on: history must do no harm.
                self.updates.drain(..self.updates.len() - 1);
                self.updates[0].records = None;
            }
        }
        while let Some(update) = self.updates.pop_front() {
            self.publish(env, update);
        }
    }

    fn publish(&mut self, env: &mut Env, update: Update) {
        let delta = match &update.records {
            Some(records) if self.image.offset > 0 => MetadataDelta::apply(&mut self.image, records),
            Some(_) | None => MetadataDelta::between(&self.image, &update.image),
        };
        self.image = update.image;
        let mut leads = Vec::new();
        for topic in delta.topics.values() {
            for (index, change) in &topic.partitions {
                let key = (topic.topic.id, *index);
                if change.after.replicas.contains(&self.at.node)
                    && self.apply(env, &topic.topic.name, key, &change.after) == RoleChange::BecameLeader
                {
                    leads.push(key);
                }
            }
        }
        self.publish_brokers(env, &delta, leads);
    }

    /// Leaders wait for no follower whose broker was fenced or is about to stop.
    fn publish_brokers(&mut self, env: &mut Env, delta: &MetadataDelta, leads: Vec<Key>) {
        let keys = if delta.brokers.is_empty() {
            leads
        } else {
            self.replicas.keys().copied().collect()
        };
        for key in keys {
            let Some(replica) = self.replicas.get_mut(&key) else {
                continue;
            };
            let image = &self.image;
            replica
                .partition
                .followers_changed(env.now, |broker| image.is_active(broker));
            self.settle(env, key);
        }
    }

    fn apply(
        &mut self,
        env: &mut Env,
        topic: &Arc<str>,
        key: Key,
        image: &Arc<PartitionImage>,
    ) -> RoleChange {
        let settings = PartitionSettings {
            replica_lag_time_max_ms: REPLICA_LAG_MS,
            min_insync_replicas: MIN_ISR,
        };
        let node = self.at.node;
        let stored = &mut self.stored;
        let flush_each = env.flushing == Flushing::EachAppend;
        let replica = self.replicas.entry(key).or_insert_with(|| {
            let mut log = stored.remove(&key).unwrap_or_default();
            log.set_flush_each(flush_each);
            let id = TopicPartition::new(topic.clone(), key.1);
            Replica {
                partition: Partition::new(id, node, settings, log),
                produces: Vec::new(),
            }
        });
        let Ok(change) = replica.partition.apply_image(env.now, image);
        env.checkers
            .epochs
            .applied(self.at.node, key, replica.partition.image());
        if change != RoleChange::Unchanged {
            let end = replica.partition.log().log_end_offset();
            env.note(format_args!(
                "node {node} {topic}-{} {change:?} epoch {} isr {:?} end {end}",
                key.1, image.leader_epoch, image.isr
            ));
        }
        if change == RoleChange::BecameLeader {
            env.checkers.leaders.leads(key, image.leader_epoch, node);
            env.checkers
                .elected(key, node, image.leader_epoch, replica.partition.log());
        }
        if change != RoleChange::Unchanged && env.rng.percent(50) {
            // Fetches under way are given up; else their late answers meet the new role.
            self.forget_fetches(env);
        }
        self.settle(env, key);
        change
    }

    /// Answers whoever waited for what has now happened, and shows the log to the checkers.
    pub(super) fn settle(&mut self, env: &mut Env, key: Key) {
        let Some(replica) = self.replicas.get_mut(&key) else {
            return;
        };
        env.checkers
            .acknowledged
            .observe(key, self.at.node, replica.partition.log());
        let partition = &replica.partition;
        let is_done =
            |p: &mut PendingProduce| partition.check_committed(p.leader_epoch, p.offset) != Ok(false);
        for produce in replica.produces.extract_if(.., is_done) {
            let outcome = partition.check_committed(produce.leader_epoch, produce.offset);
            let result = outcome.map(|_| produce.base_offset);
            env.respond(
                self.at,
                produce.to,
                Payload::Produced {
                    id: produce.to.id,
                    result,
                },
            );
        }
    }

    fn expire_produces(&mut self, env: &mut Env) {
        for replica in self.replicas.values_mut() {
            let now_ms = env.now.mono_ms;
            for produce in replica
                .produces
                .extract_if(.., |produce| produce.deadline_ms <= now_ms)
            {
                let result = Err(ErrorCode::RequestTimedOut);
                env.respond(
                    self.at,
                    produce.to,
                    Payload::Produced {
                        id: produce.to.id,
                        result,
                    },
                );
            }
        }
    }

    /// A producer appends with acks=all.
    pub(super) fn produce(&mut self, env: &mut Env, from: Address, id: u64, key: Key, batch: &ProducerBatch) {
        let to = ReturnAddress {
            to: from,
            id,
            channel: Channel::Produce,
        };
        if let Err(code) = self.append(env, to, key, batch) {
            env.respond(
                self.at,
                to,
                Payload::Produced {
                    id,
                    result: Err(code),
                },
            );
        }
        self.settle(env, key);
    }

    fn append(
        &mut self,
        env: &Env,
        to: ReturnAddress,
        key: Key,
        batch: &ProducerBatch,
    ) -> Result<(), ErrorCode> {
        let replica = self
            .replicas
            .get_mut(&key)
            .ok_or(ErrorCode::NotLeaderOrFollower)?;
        replica.partition.check_leader(-1)?;
        replica.partition.check_min_isr().map_err(|error| error.code)?;
        let leader_epoch = replica.partition.image().leader_epoch;
        let (base_offset, last_offset) =
            replica
                .partition
                .log_mut()
                .append_as_leader(env.now, leader_epoch, batch)?;
        replica.partition.appended(env.now);
        let deadline_ms = env.now.mono_ms + PRODUCE_TIMEOUT_MS;
        let offset = last_offset + 1;
        replica.produces.push(PendingProduce {
            leader_epoch,
            offset,
            base_offset,
            deadline_ms,
            to,
        });
        Ok(())
    }

    /// Sends a request to the active controller until it is answered or its time is up.
    pub(super) fn call(
        &mut self,
        env: &mut Env,
        purpose: Purpose,
        request: ControllerRequest,
        timeout_ms: u64,
    ) {
        let now_ms = env.now.mono_ms;
        let deadline_ms = now_ms + timeout_ms;
        let call = Call {
            purpose,
            request,
            deadline_ms,
            next_attempt_ms: now_ms,
            attempt: None,
        };
        self.calls.insert(env.id(), call);
    }

    /// Passes on what an operator asks for.
    pub fn forward(&mut self, env: &mut Env, request: ControllerRequest) {
        self.call(env, Purpose::Forward, request, 2_000);
    }

    fn pursue_calls(&mut self, env: &mut Env, controller: Option<NodeId>) {
        let now_ms = env.now.mono_ms;
        for call in self.calls.values_mut() {
            if let Some(lost) = call.attempt.take_if(|attempt| attempt.until_ms <= now_ms) {
                env.reconnect(self.at.node, lost.to, Channel::Controller);
            }
            if call.attempt.is_some() || call.next_attempt_ms > now_ms {
                continue;
            }
            call.next_attempt_ms = now_ms + RETRY_PAUSE_MS;
            let Some(to) = controller else { continue };
            let id = env.id();
            call.attempt = Some(Attempt {
                id,
                to,
                until_ms: now_ms + ATTEMPT_MS,
            });
            let request = call.request.clone();
            env.request(self.at, to, Channel::Controller, Payload::Call { id, request });
        }
        let expired: Vec<Call> = self
            .calls
            .extract_if(.., |_, call| call.deadline_ms <= now_ms)
            .map(|(_, c)| c)
            .collect();
        for call in expired {
            self.ended(env, call.purpose, None);
        }
    }

    /// The controller answered, or whoever was taken for it.
    pub(super) fn answered(
        &mut self,
        env: &mut Env,
        id: u64,
        result: Result<ControllerResponse, Option<NodeId>>,
    ) {
        let asked = |call: &Call| call.attempt.as_ref().is_some_and(|attempt| attempt.id == id);
        let Some(call_id) = self
            .calls
            .iter()
            .find(|(_, call)| asked(call))
            .map(|(call_id, _)| *call_id)
        else {
            return;
        };
        match result {
            Ok(response) => {
                let Some(call) = self.calls.remove(&call_id) else {
                    return;
                };
                self.ended(env, call.purpose, Some(response));
            }
            Err(_) => {
                if let Some(call) = self.calls.get_mut(&call_id) {
                    call.attempt = None;
                    call.next_attempt_ms = env.now.mono_ms + RETRY_PAUSE_MS;
                }
            }
        }
    }

    fn ended(&mut self, env: &mut Env, purpose: Purpose, response: Option<ControllerResponse>) {
        match (purpose, response) {
            (Purpose::Register, Some(ControllerResponse::Register(response))) => {
                self.registered(env, Some(&response));
            }
            (Purpose::Register, _) => self.registered(env, None),
            (Purpose::Heartbeat, Some(ControllerResponse::Heartbeat(response))) => {
                self.beaten(env, Some(&response));
            }
            (Purpose::Heartbeat, _) => self.beaten(env, None),
            (Purpose::AlterPartition, Some(ControllerResponse::AlterPartition(response))) => {
                self.isr_answered(env, Some(&response));
            }
            (Purpose::AlterPartition, _) => self.isr_answered(env, None),
            (Purpose::Forward, _) => {}
        }
    }

    /// The broker epoch; -1 before the registration.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.lifecycle.epoch
    }

    /// Which life of the broker this is.
    #[must_use]
    pub fn incarnation(&self) -> Uuid {
        self.lifecycle.incarnation
    }

    pub(super) fn stop(&mut self) {
        self.lifecycle.wants_to_stop = true;
    }

    /// True once it was asked to stop.
    #[must_use]
    pub fn stops(&self) -> bool {
        self.lifecycle.wants_to_stop
    }

    pub(super) fn may_stop(&self) -> bool {
        self.lifecycle.may_stop
    }
}
