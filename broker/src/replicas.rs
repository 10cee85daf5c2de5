//! Every replica that this broker hosts, and how the controller's decisions reach them.
//!
//! One publisher, on the metadata thread, creates and removes replicas; handlers only look them up.

pub(crate) mod failures;
mod hosted;
pub mod moving;
mod opening;
mod placement;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use odradek_broker_core::partition::{PartitionSettings, RoleChange};
use odradek_broker_log::config::{CleanupPolicy, LogConfig, MessageTimestampType};
use odradek_broker_log::directory::LogDirectory;
use odradek_broker_log::log::{Log, PartitionIdentity};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::{NodeId, TopicPartition};
use odradek_common::metadata::{
    ConfigResource, ConfigResourceType, MetadataDelta, MetadataImage, PartitionChange, PartitionImage,
    TopicDelta, TopicImage,
};
use odradek_config::{ServerConfig, TimestampType, TopicConfig};
use slog::Logger;
use tokio::sync::watch;
use uuid::Uuid;

use crate::broker::ImageCell;
use crate::clock;
use crate::data_directory::DataDirectory;
use crate::directory_assignments::DirectoryAssignments;
use crate::metrics::Metrics;
use crate::names::is_internal;
use crate::replica::{Replica, ReplicaOrigin};
use failures::LogFailures;
use hosted::Hosted;
use moving::MoveQueue;
use opening::{Opened, OpenedLogs, ToOpen, open_all};
use placement::Preferences;

/// Logs that are flushed together when the broker stops: their files are open at once.
const LAST_ROUND_LOGS_MAX: usize = 256;

/// A replica whose role or place changed.
#[derive(Clone)]
pub enum RoleEvent {
    /// It leads in a new epoch.
    Leads(Arc<Replica>, i32),
    /// It follows a leader in a new epoch.
    Follows(Arc<Replica>, NodeId, i32),
    /// It neither leads nor follows any more, or left this broker.
    Stops(TopicPartition, i32),
}

/// The replicas.
pub struct Replicas {
    node_id: NodeId,
    log: Logger,
    directories: Vec<Arc<DataDirectory>>,
    metrics: Arc<Metrics>,
    image: Arc<ImageCell>,
    hosted: Hosted,
    /// Set once the metadata has this start's registration.
    serving: AtomicBool,
    applied: watch::Sender<i64>,
    failures: LogFailures,
    assignments: Arc<DirectoryAssignments>,
    /// Grows when a log directory fails.
    directories_changed: watch::Sender<u64>,
    preferences: Preferences,
    moves: MoveQueue,
}

impl Replicas {
    /// No replicas yet; they come with the first image.
    #[must_use]
    pub fn new(
        node_id: NodeId,
        directories: Vec<DataDirectory>,
        metrics: Arc<Metrics>,
        image: Arc<ImageCell>,
        log: Logger,
    ) -> Arc<Self> {
        let applied = watch::Sender::new(0);
        Arc::new(Self {
            node_id,
            log,
            directories: directories.into_iter().map(Arc::new).collect(),
            metrics,
            image,
            hosted: Hosted::default(),
            serving: AtomicBool::new(false),
            applied,
            failures: LogFailures::default(),
            assignments: Arc::default(),
            directories_changed: watch::Sender::new(0),
            preferences: Preferences::default(),
            moves: MoveQueue::default(),
        })
    }

    /// The log directories.
    #[must_use]
    pub fn directories(&self) -> &[Arc<DataDirectory>] {
        &self.directories
    }

    /// The log directories that work.
    pub fn online(&self) -> impl Iterator<Item = (&Arc<DataDirectory>, &LogDirectory)> {
        let online = self
            .directories
            .iter()
            .filter(|directory| !directory.is_offline());
        online.filter_map(|directory| Some((directory, directory.logs()?)))
    }

    /// What went wrong with logs and may mend by itself.
    #[must_use]
    pub fn failures(&self) -> &LogFailures {
        &self.failures
    }

    /// Replicas whose directory the controller is to be told.
    #[must_use]
    pub fn assignments(&self) -> &Arc<DirectoryAssignments> {
        &self.assignments
    }

    /// Tells that a log directory failed.
    #[must_use]
    pub fn directories_changed(&self) -> watch::Receiver<u64> {
        self.directories_changed.subscribe()
    }

    /// Tells the offset of the metadata that all replicas have applied.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<i64> {
        self.applied.subscribe()
    }

    /// The replica, if this broker hosts it.
    #[must_use]
    pub fn get(&self, topic: &str, partition: i32) -> Option<Arc<Replica>> {
        self.hosted.get(topic, partition)
    }

    /// The replica.
    ///
    /// # Errors
    /// NOT_LEADER_OR_FOLLOWER if other brokers host it; UNKNOWN_TOPIC_OR_PARTITION if nobody does.
    pub fn hosted(&self, topic: &str, partition: i32) -> Result<Arc<Replica>, ApiError> {
        if let Some(replica) = self.get(topic, partition) {
            return Ok(replica);
        }
        if self.image.load().partition(topic, partition).is_some() {
            let detail = format!("{topic}-{partition} has no replica on broker {}", self.node_id);
            return Err(ApiError::new(ErrorCode::NotLeaderOrFollower, detail));
        }
        let detail = format!("there is no partition {topic}-{partition}");
        Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, detail))
    }

    /// As [`Replicas::hosted`], of the topic with that id and no namesake: the image that names a recreated topic is there
    /// before its replicas are.
    ///
    /// # Errors
    /// As [`Replicas::hosted`]; UNKNOWN_TOPIC_ID if the replica is of another topic.
    pub fn hosted_of(&self, topic_id: &Uuid, topic: &str, partition: i32) -> Result<Arc<Replica>, ApiError> {
        let replica = self.hosted(topic, partition)?;
        if replica.topic_id == *topic_id {
            return Ok(replica);
        }
        let detail = format!("{topic}-{partition} is of topic {}", replica.topic_id);
        Err(ApiError::new(ErrorCode::UnknownTopicId, detail))
    }

    /// The replica, if it leads.
    ///
    /// # Errors
    /// As [`Replicas::hosted`], and NOT_LEADER_OR_FOLLOWER if another broker leads.
    pub fn leader(&self, topic: &str, partition: i32) -> Result<Arc<Replica>, ApiError> {
        let replica = self.hosted(topic, partition)?;
        if replica.is_leader() {
            return Ok(replica);
        }
        let detail = format!("broker {} does not lead {topic}-{partition}", self.node_id);
        Err(ApiError::new(ErrorCode::NotLeaderOrFollower, detail))
    }

    /// All of them, by topic and partition.
    #[must_use]
    pub fn all(&self) -> Arc<[Arc<Replica>]> {
        self.hosted.all()
    }

    /// Creates, changes and removes replicas as the controller decided. Returns whose role changed.
    pub fn publish(
        &self,
        delta: &MetadataDelta,
        image: &MetadataImage,
        config: &ServerConfig,
        caught_up: bool,
    ) -> Vec<RoleEvent> {
        let mut events = Vec::new();
        if !self.serving.load(Ordering::Acquire) {
            if caught_up {
                self.begin(image, config, &mut events);
            }
            return events;
        }
        for topic in delta.deleted_topics.values() {
            for index in 0..i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX) {
                self.remove(&topic.name, topic.id, index, &mut events);
            }
        }
        for topic in delta.topics.values() {
            self.publish_topic(topic, image, config, &mut OpenedLogs::new(), &mut events);
        }
        self.publish_configs(delta, image, config);
        self.publish_brokers(delta, image, &events);
        self.applied.send_replace(image.offset);
        events
    }

    /// The metadata has this start's registration: from here on logs are opened and roles are taken.
    ///
    /// Before, the image is history. A leadership out of history would acknowledge what the present leader does not have,
    /// and a topic out of history would claim the folder of the one that was created under its name since.
    fn begin(&self, image: &MetadataImage, config: &ServerConfig, events: &mut Vec<RoleEvent>) {
        self.serving.store(true, Ordering::Release);
        let everything = MetadataDelta::between(&MetadataImage::default(), image);
        let mut opened = self.open_logs(&everything, image, config);
        for topic in everything.topics.values() {
            self.publish_topic(topic, image, config, &mut opened, events);
        }
        for directory in &self.directories {
            self.set_strays_aside(directory, image);
            self.delete_left_behind(directory);
        }
        self.resume_moves(image);
        // The heartbeat that carries this offset is what the controller unfences for.
        self.applied.send_replace(image.offset);
    }

    fn is_placed_here(&self, identity: &PartitionIdentity, image: &MetadataImage) -> bool {
        let placed = image
            .topic_by_id(&identity.topic_id)
            .and_then(|topic| topic.partition(identity.partition));
        placed.is_some_and(|partition| partition.replicas.contains(&self.node_id))
    }

    /// Sets partitions aside that the metadata does not know, or places elsewhere. Their topics were deleted, or they were
    /// reassigned, while this broker was away; or the metadata was lost, so that as in Kafka nothing is removed.
    fn set_strays_aside(&self, directory: &DataDirectory, image: &MetadataImage) {
        let Some(logs) = directory.logs() else { return };
        let unopened = logs.unopened().into_iter();
        for identity in unopened.filter(|identity| !self.is_placed_here(identity, image)) {
            if let Err(error) = logs.set_stray(&identity) {
                slog::error!(self.log, "cannot set a stray partition aside";
                    "folder" => identity.folder(), "topic_id" => %identity.topic_id,
                    "error" => error_chain(&error));
            }
        }
    }

    fn publish_topic(
        &self,
        delta: &TopicDelta,
        image: &MetadataImage,
        config: &ServerConfig,
        opened: &mut OpenedLogs,
        events: &mut Vec<RoleEvent>,
    ) {
        let topic = &delta.topic;
        let mut topic_config = None;
        for (index, change) in &delta.partitions {
            if !change.after.replicas.contains(&self.node_id) {
                self.failures.settled(topic.id, *index);
                self.remove(&topic.name, topic.id, *index, events);
                continue;
            }
            let replica = match self
                .get(&topic.name, *index)
                .filter(|replica| replica.topic_id == topic.id)
            {
                Some(replica) => Ok(replica),
                None => {
                    let resolve = || Arc::new(resolve_topic(image, &topic.name, config));
                    let resolved = topic_config.get_or_insert_with(resolve).clone();
                    // A topic of the same name that was deleted while this broker was away is in the way.
                    self.discard(&topic.name, *index, events);
                    let opened = opened
                        .remove(&(topic.id, *index))
                        .unwrap_or_else(|| self.open(topic, *index, &change.after, &resolved, config));
                    opened
                        .map(|(directory, log)| self.create(topic, *index, directory, resolved, config, log))
                }
            };
            match replica {
                Ok(replica) => {
                    self.failures.settled(topic.id, *index);
                    self.apply(&replica, change, events);
                }
                Err(error) => self.not_opened(topic, &change.after, *index, &error),
            }
        }
    }

    /// Opens the logs of all partitions that are placed here.
    fn open_logs(&self, delta: &MetadataDelta, image: &MetadataImage, config: &ServerConfig) -> OpenedLogs {
        let mut wanted = Vec::new();
        let mut refused = OpenedLogs::new();
        let mut planned: HashMap<*const DataDirectory, usize> = HashMap::new();
        for TopicDelta { topic, partitions } in delta.topics.values() {
            let resolved = log_config(&topic.name, &resolve_topic(image, &topic.name, config), config);
            for (index, change) in partitions {
                if !change.after.replicas.contains(&self.node_id) {
                    continue;
                }
                let identity = PartitionIdentity::new(topic.name.clone(), topic.id, *index);
                let load = |directory: &Arc<DataDirectory>| {
                    planned.get(&Arc::as_ptr(directory)).copied().unwrap_or(0)
                };
                match self.place(&identity, &change.after, load) {
                    Ok((directory, _)) => {
                        *planned.entry(Arc::as_ptr(directory)).or_default() += 1;
                        wanted.push(ToOpen {
                            identity,
                            directory: directory.clone(),
                            config: resolved.clone(),
                        });
                    }
                    Err(error) => _ = refused.insert((topic.id, *index), Err(error)),
                }
            }
        }
        let threads = usize::try_from(config.log.recovery_threads_per_directory).unwrap_or(1);
        let mut opened = open_all(&self.directories, &wanted, threads);
        opened.extend(refused);
        opened
    }

    fn open(
        &self,
        topic: &TopicImage,
        index: i32,
        partition: &PartitionImage,
        topic_config: &TopicConfig,
        config: &ServerConfig,
    ) -> Opened {
        let identity = PartitionIdentity::new(topic.name.clone(), topic.id, index);
        let open_logs = |directory: &Arc<DataDirectory>| directory.logs().map_or(0, LogDirectory::open_logs);
        let (directory, logs) = self.place(&identity, partition, open_logs)?;
        let log_config = log_config(&topic.name, topic_config, config);
        let log = logs.open_partition(identity, log_config, clock::now())?;
        Ok((directory.clone(), log))
    }

    fn create(
        &self,
        topic: &TopicImage,
        index: i32,
        directory: Arc<DataDirectory>,
        topic_config: Arc<TopicConfig>,
        config: &ServerConfig,
        log: Log,
    ) -> Arc<Replica> {
        let origin = ReplicaOrigin {
            id: TopicPartition::new(topic.name.clone(), index),
            topic_id: topic.id,
            directory,
            settings: settings(&topic_config, config),
            traffic: self.metrics.topic(&topic.name),
        };
        let replica = Replica::new(origin, self.node_id, topic_config, log);
        self.hosted.insert(replica.clone());
        let directory = replica.directory();
        if directory.is_offline() {
            // Whoever told all replicas of that may not have found this one there yet.
            replica.directory_failed(&directory);
        }
        replica
    }

    fn apply(&self, replica: &Arc<Replica>, change: &PartitionChange, events: &mut Vec<RoleEvent>) {
        let epoch = change.after.leader_epoch;
        if change.after.leader == self.node_id
            && let Some(before) = &change.before
        {
            self.metrics.led_partition_changed(before, &change.after);
        }
        if change.after.directory_of(self.node_id) != replica.assigned_directory() {
            self.assignments.add(replica);
        }
        match replica.apply_image(clock::now(), &change.after) {
            Ok(RoleChange::BecameLeader) => events.push(RoleEvent::Leads(replica.clone(), epoch)),
            Ok(RoleChange::BecameFollower(leader)) => {
                events.push(RoleEvent::Follows(replica.clone(), leader, epoch));
            }
            Ok(RoleChange::BecameIdle) => events.push(RoleEvent::Stops(replica.id.clone(), epoch)),
            Ok(RoleChange::Unchanged) => {}
            Err(error) => self.not_led(replica, &error),
        }
        if replica.awaits_record() {
            self.moves.add(replica.clone());
        }
    }

    fn remove(&self, topic: &Arc<str>, topic_id: Uuid, index: i32, events: &mut Vec<RoleEvent>) {
        let hosted = self.get(topic, index);
        if hosted.is_some_and(|replica| replica.topic_id == topic_id) {
            self.discard(topic, index, events);
        }
        self.discard_copies(&PartitionIdentity::new(topic.clone(), topic_id, index));
    }

    fn discard(&self, topic: &Arc<str>, index: i32, events: &mut Vec<RoleEvent>) {
        let Some(replica) = self.hosted.remove(topic, index) else {
            return;
        };
        events.push(RoleEvent::Stops(replica.id.clone(), replica.image().leader_epoch));
        if let Err(error) = replica.delete() {
            slog::error!(self.log, "cannot delete a partition's log";
                "partition" => %replica.id, "error" => %error);
        }
    }

    /// Leaders wait for no follower whose broker was fenced or is about to stop.
    fn publish_brokers(&self, delta: &MetadataDelta, image: &MetadataImage, events: &[RoleEvent]) {
        let eligible = |broker| image.is_active(broker);
        if !delta.brokers.is_empty() {
            for replica in self.all().iter() {
                replica.with(|partition| partition.followers_changed(clock::now(), eligible));
            }
            return;
        }
        for event in events {
            if let RoleEvent::Leads(replica, _) = event {
                replica.with(|partition| partition.followers_changed(clock::now(), eligible));
            }
        }
    }

    fn publish_configs(&self, delta: &MetadataDelta, image: &MetadataImage, config: &ServerConfig) {
        if delta.configs.is_empty() {
            return;
        }
        let every_topic = delta
            .configs
            .iter()
            .any(|r| r.resource_type == ConfigResourceType::Broker);
        let named = |topic: &Arc<str>| delta.configs.contains(&ConfigResource::topic(topic.clone()));
        let topics = self.hosted.topics();
        for topic in topics.into_iter().filter(|topic| every_topic || named(topic)) {
            let resolved = Arc::new(resolve_topic(image, &topic, config));
            for replica in self.hosted.of_topic(&topic) {
                replica.set_config(
                    clock::now(),
                    settings(&resolved, config),
                    log_config(&topic, &resolved, config),
                    resolved.clone(),
                );
            }
        }
    }

    /// Checkpoints logs of a directory for the last time, many in a round. What goes wrong their close tells.
    fn checkpoint_together(&self, directory: &Arc<DataDirectory>, replicas: &[Arc<Replica>]) {
        let Some(logs) = directory.logs().filter(|_| !directory.is_offline()) else {
            return;
        };
        let here: Vec<_> = replicas
            .iter()
            .filter(|replica| Arc::ptr_eq(&replica.directory(), directory))
            .collect();
        for replicas in here.chunks(LAST_ROUND_LOGS_MAX) {
            let now = clock::now();
            let planned = replicas.iter().filter_map(|replica| {
                let plan = replica.with(|p| p.log_mut().resting_checkpoint_plan(now));
                Some((plan.ok().flatten()?, replica))
            });
            let (plans, planned): (Vec<_>, Vec<&&Arc<Replica>>) = planned.unzip();
            if logs.sync(&plans).is_err() {
                return;
            }
            for (plan, replica) in plans.into_iter().zip(planned) {
                _ = replica.with(|p| p.log_mut().complete_flush(plan));
            }
        }
    }

    /// Closes every log cleanly, so that the next start need not recover. The replicas answer nothing any more.
    pub fn close_clean(&self) {
        let all = self.all();
        all.iter().for_each(|replica| replica.close());
        for directory in &self.directories {
            self.checkpoint_together(directory, &all);
        }
        for replica in all.iter() {
            if let Err(error) = replica.with(|p| p.log_mut().close_clean(clock::now())) {
                slog::error!(self.log, "log not closed cleanly"; "partition" => %replica.id, "error" => %error);
            }
        }
        for logs in self.directories.iter().filter_map(|directory| directory.logs()) {
            if let Err(error) = logs.close_clean() {
                let path = logs.path().display().to_string();
                slog::error!(self.log, "log directory not closed cleanly"; "path" => path, "error" => %error);
            }
        }
    }
}

/// A topic's configuration: its overrides over the broker's.
#[must_use]
pub fn resolve_topic(image: &MetadataImage, topic: &str, config: &ServerConfig) -> TopicConfig {
    TopicConfig::resolve(image.config_overrides(&ConfigResource::topic(topic)), config)
}

/// What a replica's decisions depend on.
fn settings(topic: &TopicConfig, config: &ServerConfig) -> PartitionSettings {
    PartitionSettings {
        replica_lag_time_max_ms: u64::try_from(config.replica.lag_time_max_ms).unwrap_or(0),
        min_insync_replicas: usize::try_from(topic.min_insync_replicas).unwrap_or(1),
    }
}

/// What a log needs of the configuration.
#[must_use]
pub fn log_config(name: &str, topic: &TopicConfig, config: &ServerConfig) -> LogConfig {
    LogConfig {
        // What brokers write for themselves is little, and offsets committed are what lets consumers go on.
        may_use_reserve: is_internal(name),
        segment_bytes: u64::from(topic.segment.bytes),
        segment_ms: topic.segment_ms_max(),
        segment_jitter_ms: topic.segment.jitter_ms,
        index_interval_bytes: topic.segment.index_interval_bytes,
        retention_ms: topic.retention.ms,
        retention_bytes: topic.retention.bytes,
        max_message_bytes: topic.max_message_bytes,
        cleanup_policy: CleanupPolicy {
            compact: topic.cleanup_policy.compact,
            delete: topic.cleanup_policy.delete,
        },
        delete_retention_ms: topic.retention.delete_retention_ms,
        min_cleanable_dirty_ratio: topic.retention.min_cleanable_dirty_ratio,
        min_compaction_lag_ms: topic.retention.min_compaction_lag_ms,
        max_compaction_lag_ms: topic.retention.max_compaction_lag_ms,
        flush_messages: topic.flush_messages,
        flush_ms: topic.flush_ms,
        preallocate: topic.segment.preallocate,
        file_delete_delay_ms: topic.segment.file_delete_delay_ms,
        message_timestamp_type: match topic.timestamp_type {
            TimestampType::CreateTime => MessageTimestampType::CreateTime,
            TimestampType::LogAppendTime => MessageTimestampType::LogAppendTime,
        },
        producer_id_expiration_ms: i64::from(config.transaction.producer_id_expiration_ms),
    }
}

/// An error and its sources, on one line.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        text.push_str(": ");
        text.push_str(&next.to_string());
        source = next.source();
    }
    text
}

#[cfg(test)]
mod tests;
