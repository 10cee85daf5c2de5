//! A partition of a fetch: where it is served, what was found there, and who is told when that changes.

use std::sync::Arc;

use odradek_broker_core::fetch_session::{FetchPartition, SlotId, TopicKey};
use odradek_common::error::ErrorCode;
use odradek_net::sendfile::FileRange;
use uuid::Uuid;

use crate::broker::Broker;
use crate::replica::Replica;
use crate::replica::reading::{ReadPlan, ReadRequest};
use crate::replica::watchers::Watcher;
use crate::watch::Watch;

/// One partition, for as long as its session names it.
pub struct Target {
    /// Its topic's name, if the topic is known.
    pub(super) topic: Option<Arc<str>>,
    pub(super) replica: Result<Watched, ErrorCode>,
    /// What was found when it was last looked at; taken when it is answered.
    pub(super) plan: Option<Result<ReadPlan, ErrorCode>>,
}

impl Target {
    /// Finds the replica.
    pub(super) fn new(broker: &Broker, watch: &Arc<Watch>, slot: SlotId, request: &FetchPartition) -> Self {
        let (topic, replica) = resolve(broker, request);
        let replica = replica.map(|replica| Watched {
            replica,
            watch: watch.clone(),
            slot,
            is_watching: false,
        });
        Self {
            topic,
            replica,
            plan: None,
        }
    }

    /// Finds the replica again, if there was none or if it has left this broker.
    pub(super) fn refresh(
        &mut self,
        broker: &Broker,
        watch: &Arc<Watch>,
        slot: SlotId,
        request: &FetchPartition,
    ) {
        let is_current = self
            .replica
            .as_ref()
            .is_ok_and(|watched| !watched.replica.is_closed());
        if !is_current {
            *self = Self::new(broker, watch, slot, request);
        }
    }

    /// The id to answer with.
    pub(super) fn topic_id(&self, request: &FetchPartition) -> Uuid {
        match (&request.key.topic, &self.replica) {
            (TopicKey::Id(id), _) => *id,
            (TopicKey::Name(_), Ok(watched)) => watched.replica.topic_id,
            (TopicKey::Name(_), Err(_)) => Uuid::nil(),
        }
    }

    /// Looks for records. If there are fewer than `enough_bytes`, changes are marked from now on.
    pub(super) fn look(&mut self, request: ReadRequest, enough_bytes: usize) {
        let plan = match &mut self.replica {
            Ok(watched) => watched.read(request, enough_bytes),
            Err(code) => Err(*code),
        };
        self.plan = Some(plan);
    }

    /// Nobody waits for it any more: it holds no file and hears of no change. True if it was watched.
    pub(super) fn give_up(&mut self) -> bool {
        self.plan = None;
        self.replica.as_mut().is_ok_and(Watched::stop)
    }

    /// Bytes that were found.
    pub(super) fn planned_bytes(&self) -> usize {
        match &self.plan {
            Some(Ok(plan)) => plan.size_bytes(),
            Some(Err(_)) | None => 0,
        }
    }

    /// What must be in memory before anything can be said.
    pub(super) fn cold(&self) -> Option<FileRange> {
        let cold = match &self.plan {
            Some(Ok(plan)) => plan.cold.as_ref()?,
            Some(Err(_)) | None => return None,
        };
        Some(FileRange {
            file: cold.file.clone()?,
            position: cold.position,
            length: cold.size_bytes,
        })
    }

    /// True if what was found must be answered at once.
    pub(super) fn is_urgent(&self) -> bool {
        match &self.plan {
            Some(Err(_)) => true,
            Some(Ok(plan)) => plan.is_cut || plan.diverging.is_some(),
            None => false,
        }
    }
}

fn resolve(broker: &Broker, request: &FetchPartition) -> (Option<Arc<str>>, Result<Arc<Replica>, ErrorCode>) {
    let index = request.key.partition;
    let (topic, replica) = match &request.key.topic {
        TopicKey::Name(name) => (Some(name.clone()), broker.replicas.hosted(name, index)),
        TopicKey::Id(id) => match broker.image().topic_by_id(id) {
            Some(topic) => (
                Some(topic.name.clone()),
                broker.replicas.hosted_of(id, &topic.name, index),
            ),
            None => (None, Err(ErrorCode::UnknownTopicId.into())),
        },
    };
    (topic, replica.map_err(|error| error.code))
}

/// A replica, and the watch that it marks while it is watched.
pub(super) struct Watched {
    pub(super) replica: Arc<Replica>,
    watch: Arc<Watch>,
    slot: SlotId,
    is_watching: bool,
}

impl Watched {
    fn read(&mut self, request: ReadRequest, enough_bytes: usize) -> Result<ReadPlan, ErrorCode> {
        if self.replica.is_offline() {
            return Err(ErrorCode::KafkaStorageError);
        }
        if self.is_watching {
            return self.replica.read(request);
        }
        let watcher = || Watcher {
            watch: self.watch.clone(),
            slot: self.slot,
            isolation: request.isolation,
        };
        let (plan, watches) = self.replica.read_or_watch(request, enough_bytes, watcher)?;
        self.is_watching = watches;
        Ok(plan)
    }

    fn stop(&mut self) -> bool {
        let was_watching = std::mem::take(&mut self.is_watching);
        if was_watching {
            self.replica.unwatch(&self.watch, self.slot);
        }
        was_watching
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop();
    }
}
