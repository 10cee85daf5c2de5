//! A partition of a fetch: where it is served, what was found there, and who is told when that changes.

use std::sync::{Arc, Weak};

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
            replica: Arc::downgrade(&replica),
            held: Some(replica),
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

    /// Takes hold of the replica for a round. Finds it again, if there was none or if it has left this broker.
    pub(super) fn refresh(
        &mut self,
        broker: &Broker,
        watch: &Arc<Watch>,
        slot: SlotId,
        request: &FetchPartition,
    ) {
        let is_current = self.replica.as_mut().is_ok_and(Watched::hold);
        if !is_current {
            *self = Self::new(broker, watch, slot, request);
        }
    }

    /// The replica, while a round is under way.
    pub(super) fn hosted(&self) -> Option<&Arc<Replica>> {
        self.replica.as_ref().ok()?.held.as_ref()
    }

    /// The round is over: until the next one the replica lives no longer for it.
    pub(super) fn release(&mut self) {
        if let Ok(watched) = &mut self.replica {
            watched.held = None;
        }
    }

    /// The id to answer with.
    pub(super) fn topic_id(&self, request: &FetchPartition) -> Uuid {
        match &request.key.topic {
            TopicKey::Id(id) => *id,
            TopicKey::Name(_) => self.hosted().map_or(Uuid::nil(), |replica| replica.topic_id),
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

    /// Nobody waits for it any more: it holds neither file nor replica and hears of no change. True if it was watched.
    pub(super) fn give_up(&mut self) -> bool {
        self.plan = None;
        let was_watched = self.replica.as_mut().is_ok_and(Watched::stop);
        self.release();
        was_watched
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
///
/// A session may lie about for as long as the broker runs, and does not keep what was deleted meanwhile: it holds replicas for
/// a round only.
pub(super) struct Watched {
    replica: Weak<Replica>,
    held: Option<Arc<Replica>>,
    watch: Arc<Watch>,
    slot: SlotId,
    is_watching: bool,
}

impl Watched {
    /// Takes hold of the replica; false if it has left this broker.
    fn hold(&mut self) -> bool {
        if self.held.is_none() {
            self.held = self.replica.upgrade();
        }
        self.held.as_ref().is_some_and(|replica| !replica.is_closed())
    }

    fn read(&mut self, request: ReadRequest, enough_bytes: usize) -> Result<ReadPlan, ErrorCode> {
        let Some(replica) = &self.held else {
            return Err(ErrorCode::NotLeaderOrFollower);
        };
        if replica.is_offline() {
            return Err(ErrorCode::KafkaStorageError);
        }
        if self.is_watching {
            return replica.read(request);
        }
        let watcher = || Watcher {
            watch: self.watch.clone(),
            slot: self.slot,
            isolation: request.isolation,
        };
        let (plan, watches) = replica.read_or_watch(request, enough_bytes, watcher)?;
        self.is_watching = watches;
        Ok(plan)
    }

    fn stop(&mut self) -> bool {
        let was_watching = std::mem::take(&mut self.is_watching);
        if was_watching && let Some(replica) = self.replica.upgrade() {
            replica.unwatch(&self.watch, self.slot);
        }
        was_watching
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop();
    }
}
