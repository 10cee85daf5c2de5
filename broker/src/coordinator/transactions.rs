//! Transactions coordinated by this broker: the shards of `__transaction_state` that it leads.
//!
//! A transactional id whose partition is led elsewhere is answered NOT_COORDINATOR. Nothing here decides what becomes of a
//! transaction: shards say which markers are to be written, and [`markers`] writes them.

pub mod markers;
pub mod snapshot;

use std::sync::{Arc, Weak};
use std::time::Duration;

use kafka_protocol::protocol::StrBytes;
use odradek_broker_core::coordination::{AppendId, Effects, LogEntry, RequestToken};
use odradek_broker_core::transactions::metadata::{ProducerIdAndEpoch, TransactionState};
use odradek_broker_core::transactions::{
    ListFilter, TransactionEffects, TransactionRequest, TransactionResponse, TransactionSettings,
    TransactionShard,
};
use odradek_common::error::ErrorCode;
use odradek_common::ids::TopicPartition;
use odradek_common::metadata::features::TRANSACTION_VERSION;
use odradek_common::records::compression::Compression;
use odradek_common::time::Now;
use odradek_config::ServerConfig;
use slog::Logger;
use tokio::runtime::Handle;

use self::markers::{MarkerWriter, PendingMarkers};
use self::snapshot::TransactionsSnapshot;
use super::hosting::Hosting;
use super::load::LoadTotals;
use super::shard::{Shard, ShardRules, ShardShared};
use crate::broker::Broker;
use crate::names::TRANSACTIONS_TOPIC;
use crate::replicas::RoleEvent;

/// Transactional ids of one request that are asked at once.
pub const IDS_AT_ONCE: usize = 64;
/// How long a request waits for its record to be committed. Clients give up later, and are told to try again before.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The transaction coordinator of one broker.
pub struct TransactionCoordinators {
    settings: TransactionSettings,
    hosting: Hosting<TransactionPartition>,
    markers: Arc<MarkerWriter>,
}

/// One partition of `__transaction_state`: the state machine, and its ways out and back.
pub(super) struct TransactionPartition {
    core: TransactionShard,
    leader_epoch: i32,
    around: Arc<AroundShards>,
    shared: Weak<ShardShared<Self>>,
}

/// What a shard is told beside requests. Bounded by what it has asked for.
pub(super) enum TransactionEvent {
    /// A producer id, or why there is none.
    ProducerId(Result<i64, ErrorCode>),
    /// These partitions need no marker any more.
    Marked {
        transactional_id: StrBytes,
        producer: ProducerIdAndEpoch,
        partitions: Vec<TopicPartition>,
    },
}

impl TransactionPartition {
    /// Lets the state machine act at the level of now, and sends what leaves this broker.
    fn act(
        &mut self,
        action: impl FnOnce(&mut TransactionShard) -> TransactionEffects,
    ) -> Effects<TransactionResponse> {
        self.core
            .set_transaction_version(self.around.transaction_version());
        let effects = action(&mut self.core);
        for markers in effects.markers {
            self.around.markers.write(PendingMarkers {
                markers,
                coordinator_epoch: self.leader_epoch,
                back: self.shared.clone(),
            });
        }
        if let Some(back) = self.shared.upgrade() {
            for _ in 0..effects.producer_ids_wanted {
                self.around.ask_producer_id(back.clone());
            }
        }
        Effects {
            appends: effects.appends,
            replies: effects.replies,
        }
    }
}

impl Shard for TransactionPartition {
    type Request = TransactionRequest;
    type Response = TransactionResponse;
    type Event = TransactionEvent;
    type Snapshot = TransactionsSnapshot;

    /// Its markers carry the epoch.
    const OUTLIVES_EPOCHS: bool = false;

    fn refuse(request: &TransactionRequest, code: ErrorCode) -> TransactionResponse {
        request.refuse(code)
    }

    fn changes_at_once(_: &TransactionRequest) -> bool {
        false
    }

    fn replay(&mut self, entry: &LogEntry) {
        match entry {
            LogEntry::Record {
                producer_id: None,
                key,
                value,
            } => self.core.replay(key, value.as_deref()),
            // Nobody writes to this topic in transactions.
            LogEntry::Record { .. } | LogEntry::EndOfTransaction { .. } => {}
        }
    }

    fn restart_loading(&mut self) {
        self.core.restart_loading();
    }

    fn finish_loading(&mut self, now: Now) -> Effects<TransactionResponse> {
        self.act(|core| core.finish_loading(now))
    }

    fn handle(
        &mut self,
        now: Now,
        token: RequestToken,
        request: TransactionRequest,
    ) -> Effects<TransactionResponse> {
        self.act(|core| core.handle(now, token, request))
    }

    fn on_event(&mut self, now: Now, event: TransactionEvent) -> Effects<TransactionResponse> {
        self.act(|core| match event {
            TransactionEvent::ProducerId(producer_id) => core.on_producer_id(now, producer_id),
            TransactionEvent::Marked {
                transactional_id,
                producer,
                partitions,
            } => core.on_marked(now, &transactional_id, producer, &partitions),
        })
    }

    fn on_appended(
        &mut self,
        now: Now,
        id: AppendId,
        result: Result<(), ErrorCode>,
    ) -> Effects<TransactionResponse> {
        self.act(|core| core.on_appended(now, id, result))
    }

    fn tick(&mut self, now: Now) -> Effects<TransactionResponse> {
        self.act(|core| core.tick(now))
    }

    fn next_deadline(&self) -> Option<u64> {
        self.core.next_deadline()
    }

    fn resign(&mut self) -> Effects<TransactionResponse> {
        self.act(TransactionShard::resign)
    }

    fn snapshot(&self) -> TransactionsSnapshot {
        TransactionsSnapshot::of(&self.core)
    }
}

/// The broker around the shards; its answers come back as events.
struct AroundShards {
    broker: Weak<Broker>,
    markers: Arc<MarkerWriter>,
    runtime: Handle,
}

impl AroundShards {
    /// The finalised level of `transaction.version`.
    fn transaction_version(&self) -> i16 {
        let broker = self.broker.upgrade();
        broker.map_or(0, |broker| broker.image.load().feature_level(TRANSACTION_VERSION))
    }

    /// Asks for a producer id that nobody has had.
    fn ask_producer_id(&self, back: Arc<ShardShared<TransactionPartition>>) {
        let broker = self.broker.clone();
        self.runtime.spawn(async move {
            let producer_id = match broker.upgrade() {
                Some(broker) => broker.next_producer_id().await,
                None => Err(ErrorCode::CoordinatorLoadInProgress),
            };
            back.tell(TransactionEvent::ProducerId(producer_id));
        });
    }
}

impl TransactionCoordinators {
    /// No shards yet; they come with the first metadata. Their tasks run on `runtime`.
    #[must_use]
    pub fn new(runtime: Handle, config: &ServerConfig, log: Logger) -> Arc<Self> {
        let transaction = &config.transaction;
        let rules = ShardRules {
            load_buffer_bytes: usize::try_from(transaction.state_log_load_buffer_bytes).unwrap_or(usize::MAX),
            compression: Compression::None,
        };
        Arc::new(Self {
            settings: TransactionSettings {
                max_timeout_ms: transaction.max_timeout_ms,
                id_expiration_ms: i64::from(transaction.id_expiration_ms),
                remove_expired_interval_ms: u64::from(transaction.remove_expired_interval_ms),
                abort_timed_out_interval_ms: u64::from(transaction.abort_timed_out_interval_ms),
            },
            hosting: Hosting::new(TRANSACTIONS_TOPIC, runtime, rules, log),
            markers: Arc::default(),
        })
    }

    /// Starts and ends shards as replicas of `__transaction_state` change their roles. To be called after the replicas have
    /// taken the change over; does not block.
    pub fn publish(broker: &Arc<Broker>, events: &[RoleEvent]) {
        let coordinators = &broker.transactions;
        let around = AroundShards {
            broker: Arc::downgrade(broker),
            markers: coordinators.markers.clone(),
            runtime: coordinators.hosting.runtime().clone(),
        };
        let around = Arc::new(around);
        let new_shard = |leader_epoch, shared: &Arc<_>, log: &Logger| TransactionPartition {
            core: TransactionShard::new(coordinators.settings.clone(), log.clone()),
            leader_epoch,
            around: around.clone(),
            shared: Arc::downgrade(shared),
        };
        let (replicas, image) = (&broker.replicas, broker.image());
        coordinators.hosting.apply(replicas, &image, events, new_shard);
        coordinators.markers.leaders_changed();
    }

    /// Writes the markers that shards hand out, for as long as the broker lives.
    pub async fn write_markers(broker: Arc<Broker>) {
        let markers = broker.transactions.markers.clone();
        markers.run(broker).await;
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

    /// Has the coordinator of one transactional id answer. The future may be dropped at any time: the request is carried out
    /// all the same.
    pub async fn call(&self, request: TransactionRequest) -> TransactionResponse {
        let transactional_id = request.transactional_id().cloned().unwrap_or_default();
        self.hosting
            .call(&transactional_id, request, Some(COMMIT_TIMEOUT))
            .await
    }

    /// Every transaction coordinated here that the filter lets through: transactional id, producer id, state.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS while a shard still reads its log: the list would not be complete.
    pub async fn list(
        &self,
        filter: ListFilter,
    ) -> Result<Vec<(StrBytes, i64, TransactionState)>, ErrorCode> {
        let request = TransactionRequest::List(filter);
        let mut listed = Vec::new();
        for answer in self.hosting.call_all(&request, COMMIT_TIMEOUT).await {
            match answer {
                TransactionResponse::List(Ok(transactions)) => listed.extend(transactions),
                // It is led elsewhere by now, and listed there.
                TransactionResponse::List(Err(ErrorCode::NotCoordinator)) => {}
                TransactionResponse::List(Err(code)) => return Err(code),
                other => unreachable!("a list is answered by a list, not by {other:?}"),
            }
        }
        Ok(listed)
    }

    /// The transactions as they were at most about a second ago, or when a shard that is busy was last looked at; for metrics.
    /// Blocks for a moment.
    #[must_use]
    pub fn snapshot(&self) -> TransactionsSnapshot {
        let mut all = TransactionsSnapshot::default();
        for snapshot in self.hosting.snapshots() {
            all.extend(&snapshot);
        }
        all
    }
}
