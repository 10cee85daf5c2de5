//! What the handlers of one broker share. It owns nothing that it could derive: state lives with its owners below.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use arc_swap::ArcSwap;
use odradek_broker_core::fetch_session::FetchSessions;
use odradek_common::error::ErrorCode;
use odradek_common::ids::NodeId;
use odradek_common::metadata::MetadataImage;
use odradek_config::ServerConfig;
use odradek_net::budget::MemoryBudget;
use parking_lot::Mutex;
use slog::Logger;
use tokio::sync::Notify;

use crate::api::fetch::SharedSession;
use crate::cleaner::cleaning::Cleaning;
use crate::controller_channel::ControllerChannel;
use crate::coordinator::groups::GroupCoordinators;
use crate::coordinator::transactions::TransactionCoordinators;
use crate::isr::IsrUpdates;
use crate::lost_leaders::LostLeaders;
use crate::metrics::Metrics;
use crate::producer_ids::ProducerIds;
use crate::replicas::Replicas;
use crate::topic_creation::TopicCreation;
use crate::verification::Verifier;

/// One broker.
pub struct Broker {
    /// `node.id`.
    pub node_id: NodeId,
    /// The configuration in force: the file with the dynamic overrides on top.
    pub config: ArcSwap<ServerConfig>,
    /// The listener whose endpoints answers name when no client's listener is at hand.
    pub client_listener: Arc<str>,
    /// `fetch.max.bytes`.
    pub fetch_max_bytes: usize,
    /// Where this broker logs.
    pub log: Logger,
    /// The replicas it hosts.
    pub replicas: Arc<Replicas>,
    /// The way to the active controller.
    pub controller: Arc<ControllerChannel>,
    /// Incremental fetch sessions.
    pub sessions: Mutex<FetchSessions<SharedSession>>,
    /// Records in memory that wait for slow consumers.
    pub fetch_memory: MemoryBudget,
    /// Consumer groups coordinated here.
    pub groups: Arc<GroupCoordinators>,
    /// Transactions coordinated here.
    pub transactions: Arc<TransactionCoordinators>,
    /// ISR changes on their way to the controller.
    pub isr: Arc<IsrUpdates>,
    /// The way to coordinators of transactions.
    pub verifier: Arc<Verifier>,
    /// Producer ids from the controller's blocks.
    pub producer_ids: ProducerIds,
    /// Topics that brokers create themselves.
    pub topic_creation: TopicCreation,
    /// Leaders that went away a moment ago.
    pub lost_leaders: LostLeaders,
    /// Compaction of the logs.
    pub cleaning: Cleaning,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The metadata that handlers read.
    pub image: Arc<ImageCell>,
    /// The broker epoch of the registration; -1 before.
    pub broker_epoch: Arc<AtomicI64>,
    /// Told when the registration's epoch is known.
    pub registered: Notify,
    /// Set once the broker stops: parked fetches are answered, nothing parks any more.
    pub stopping: AtomicBool,
}

/// The newest published image.
pub type ImageCell = ArcSwap<MetadataImage>;

impl Broker {
    /// The metadata, as of now.
    #[must_use]
    pub fn image(&self) -> Arc<MetadataImage> {
        self.image.load_full()
    }

    /// True if this image has the registration of this start.
    #[must_use]
    pub fn is_caught_up(&self, image: &MetadataImage) -> bool {
        let epoch = self.epoch();
        epoch >= 0 && image.offset >= epoch
    }

    /// Answers parked fetches with what there is, from now on.
    pub fn stop_parking(&self) {
        self.stopping.store(true, Ordering::Release);
        for replica in self.replicas.all().iter() {
            replica.wake_readers();
        }
    }

    /// A producer id that no producer of this cluster has had.
    ///
    /// # Errors
    /// The controller gave none; whoever asks tries again.
    pub async fn next_producer_id(&self) -> Result<i64, ErrorCode> {
        let next = self
            .producer_ids
            .next(&self.controller, self.node_id, self.epoch());
        next.await.map_err(|error| error.code)
    }

    /// The broker epoch of the registration; -1 before.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.broker_epoch.load(Ordering::Acquire)
    }
}
