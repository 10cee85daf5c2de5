//! Transactions: the state machine behind one partition of `__transaction_state`.
//!
//! A [`TransactionShard`] owns every transactional id that hashes to its partition: its producer, the transaction under way,
//! timeouts and expiry. It decides, hands out the record of its decision, and waits: what a decision changes is applied when
//! the shell reports the record committed. Until then the transactional id is in transition and its next request waits a moment
//! or is told to try again, so that there is at most one record of an id on its way. When the end of a transaction is in the log, it is
//! the end: the client is answered, and the shard hands out the [`Markers`] that its partitions are to be told, until all
//! of them know; then it writes that the transaction is complete. A successor goes on from what is in the log.
//!
//! It does not hash requests to partitions of other brokers, does not authorise, does not know which brokers lead
//! partitions, and opens neither files nor sockets. Producer ids come from the shell, which is asked for them.

mod add_partitions;
mod end_transaction;
mod expiry;
mod init_producer_id;
pub mod metadata;
mod parked;
mod query;
pub mod records;
pub mod replicated;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::ids::TopicPartition;
use odradek_common::records::control::TransactionResult;
use odradek_common::time::Now;
use slog::Logger;

use self::metadata::{NO_PRODUCER_EPOCH, ProducerIdAndEpoch, TransactionMetadata, TransactionState};
use self::parked::Parked;
use self::records::Record;
use self::replicated::Replicated;
use crate::coordination::timers::Timers;
use crate::coordination::{Append, AppendId, AppendKind, RequestToken, append_refusal};

/// Requests that wait for a producer id; beyond, clients are told to try again.
const WAITING_FOR_PRODUCER_IDS_MAX: usize = 1_000;

/// What the transactions of a shard obey. Times in milliseconds, named after Kafka's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionSettings {
    /// `transaction.max.timeout.ms`.
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`.
    pub id_expiration_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub remove_expired_interval_ms: u64,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`: between attempts to abort one that has timed out.
    pub abort_timed_out_interval_ms: u64,
}

impl Default for TransactionSettings {
    fn default() -> Self {
        Self {
            max_timeout_ms: 900_000,
            id_expiration_ms: 7 * 24 * 60 * 60_000,
            remove_expired_interval_ms: 3_600_000,
            abort_timed_out_interval_ms: 10_000,
        }
    }
}

/// A request about one transactional id, or about all of them.
#[derive(Clone, Debug, PartialEq)]
pub enum TransactionRequest {
    /// InitProducerId with a transactional id.
    InitProducerId {
        /// The transactional id.
        transactional_id: StrBytes,
        /// How long its transactions may stay open.
        timeout_ms: i32,
        /// What the producer believes to be (KIP-360).
        expected: Option<ProducerIdAndEpoch>,
    },
    /// AddPartitionsToTxn and AddOffsetsToTxn.
    AddPartitions {
        /// The transactional id.
        transactional_id: StrBytes,
        /// Who asks.
        producer: ProducerIdAndEpoch,
        /// What is to belong to the transaction.
        partitions: BTreeSet<TopicPartition>,
        /// The version of the transaction protocol that the client speaks.
        client_version: i16,
    },
    /// AddPartitionsToTxn with `verify_only` (KIP-890).
    VerifyPartitions {
        /// The transactional id.
        transactional_id: StrBytes,
        /// Whose batch it is.
        producer: ProducerIdAndEpoch,
        /// What should belong to the transaction.
        partitions: BTreeSet<TopicPartition>,
    },
    /// EndTxn.
    EndTransaction {
        /// The transactional id.
        transactional_id: StrBytes,
        /// Who asks.
        producer: ProducerIdAndEpoch,
        /// Which end.
        result: TransactionResult,
        /// The version of the transaction protocol that the client speaks.
        client_version: i16,
    },
    /// DescribeTransactions, one transactional id.
    Describe(StrBytes),
    /// ListTransactions, this shard's part.
    List(ListFilter),
}

/// Which transactions ListTransactions shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// In one of these states; `None`: in any.
    pub states: Option<BTreeSet<TransactionState>>,
    /// Of one of these producers; empty: of any.
    pub producer_ids: BTreeSet<i64>,
    /// Open for longer than this, in milliseconds; negative: open or not.
    pub duration_ms: i64,
}

/// The answer to a [`TransactionRequest`], in the same variant.
#[derive(Clone, Debug, PartialEq)]
pub enum TransactionResponse {
    /// The producer from now on.
    InitProducerId(Result<ProducerIdAndEpoch, ErrorCode>),
    /// Whether they were added.
    AddPartitions(Result<(), ErrorCode>),
    /// Whether each belongs to the transaction, unless all are refused.
    VerifyPartitions(Result<Vec<(TopicPartition, bool)>, ErrorCode>),
    /// The producer of the next transaction; only of interest to clients that speak version 2.
    EndTransaction(Result<ProducerIdAndEpoch, ErrorCode>),
    /// The transaction.
    Describe(Result<Box<TransactionMetadata>, ErrorCode>),
    /// Transactional id, producer id and state.
    List(Result<Vec<(StrBytes, i64, TransactionState)>, ErrorCode>),
}

impl TransactionRequest {
    /// The transactional id that the request is about.
    #[must_use]
    pub fn transactional_id(&self) -> Option<&StrBytes> {
        match self {
            Self::InitProducerId { transactional_id, .. }
            | Self::AddPartitions { transactional_id, .. }
            | Self::VerifyPartitions { transactional_id, .. }
            | Self::EndTransaction { transactional_id, .. }
            | Self::Describe(transactional_id) => Some(transactional_id),
            Self::List(_) => None,
        }
    }

    /// The answer that refuses it.
    #[must_use]
    pub fn refuse(&self, code: ErrorCode) -> TransactionResponse {
        match self {
            Self::InitProducerId { .. } => TransactionResponse::InitProducerId(Err(code)),
            Self::AddPartitions { .. } => TransactionResponse::AddPartitions(Err(code)),
            Self::VerifyPartitions { .. } => TransactionResponse::VerifyPartitions(Err(code)),
            Self::EndTransaction { .. } => TransactionResponse::EndTransaction(Err(code)),
            Self::Describe(_) => TransactionResponse::Describe(Err(code)),
            Self::List(_) => TransactionResponse::List(Err(code)),
        }
    }
}

/// What the partitions of a transaction are to be told. Handed out once; the shell repeats what may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    /// The transactional id.
    pub transactional_id: StrBytes,
    /// The producer, in the epoch that the markers carry.
    pub producer: ProducerIdAndEpoch,
    /// Which end.
    pub result: TransactionResult,
    /// Where.
    pub partitions: BTreeSet<TopicPartition>,
    /// The version of the transaction protocol that ends it (KIP-1228).
    pub transaction_version: i16,
}

/// What the shell has to do after a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TransactionEffects {
    /// To be appended to the partition's log.
    pub appends: Vec<Append>,
    /// To be sent.
    pub replies: Vec<(RequestToken, TransactionResponse)>,
    /// To be written to their partitions.
    pub markers: Vec<Markers>,
    /// How many producer ids are asked for; each is answered by [`TransactionShard::on_producer_id`].
    pub producer_ids_wanted: usize,
}

/// Where a shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    Resigned,
}

/// What is known of a transactional id beside what the log says.
#[derive(Clone, Debug)]
struct Soft {
    /// The state that a record on its way leads to, or that the markers under way do.
    pending: Option<TransactionState>,
    /// The epoch before the last one, if this coordinator gave the last one out; a retry may name it.
    last_producer_epoch: i16,
    /// The epoch that an attempt to fence the producer has taken, below version 2. It counts even if its record was refused.
    fenced_epoch: Option<i16>,
    /// Partitions that have no marker yet.
    unmarked: BTreeSet<TopicPartition>,
    /// Requests that wait for the end of the transition.
    parked: Vec<Parked>,
    /// One has waited for too long in this transition: no other one does.
    is_slow: bool,
}

impl Default for Soft {
    fn default() -> Self {
        Self {
            pending: None,
            last_producer_epoch: NO_PRODUCER_EPOCH,
            fenced_epoch: None,
            unmarked: BTreeSet::new(),
            parked: Vec::new(),
            is_slow: false,
        }
    }
}

/// Why a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Its producer says so.
    Asked(RequestToken),
    /// Another producer begins with the same transactional id; it is told to try again.
    Fenced(RequestToken),
    /// It was open for too long.
    TimedOut,
}

/// What happens when a record is committed, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The producer is told who it is.
    Initialized(RequestToken),
    /// The client is told that its partitions belong to the transaction.
    Added(RequestToken),
    /// The partitions are told.
    Prepared(Ending),
    /// The transaction is over.
    Completed,
    /// The transactional id is forgotten.
    Expired,
}

/// A record on its way.
#[derive(Debug)]
struct Pending {
    record: Record,
    last_producer_epoch: i16,
    then: Then,
}

/// What waits for a producer id.
#[derive(Debug)]
enum Waiting {
    Request(RequestToken, TransactionRequest),
    TimedOut(StrBytes),
}

/// What a deadline is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKey {
    /// A transaction has been open for too long.
    Timeout(StrBytes),
    /// That a transaction is complete is to be written once more.
    Completion(StrBytes),
    /// A request has waited for long enough.
    Parked(StrBytes),
    /// Old transactional ids are looked for.
    Expiry,
}

/// The transactions of one partition of `__transaction_state`.
pub struct TransactionShard {
    settings: TransactionSettings,
    log: Logger,
    phase: Phase,
    /// The level of `transaction.version` in force.
    transaction_version: i16,
    /// Exactly what the committed part of the log says.
    replicated: Replicated,
    soft: BTreeMap<StrBytes, Soft>,
    pending: BTreeMap<AppendId, Pending>,
    next_append: u64,
    producer_ids: Vec<i64>,
    waiting: VecDeque<Waiting>,
    timers: Timers<TimerKey>,
    effects: TransactionEffects,
    skipped_records: u64,
}

impl TransactionShard {
    /// An empty shard that is loading: [`Self::replay`] its log, then [`Self::finish_loading`].
    #[must_use]
    pub fn new(settings: TransactionSettings, logger: Logger) -> Self {
        Self {
            settings,
            log: logger,
            phase: Phase::Loading,
            transaction_version: 0,
            replicated: Replicated::default(),
            soft: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_append: 0,
            producer_ids: Vec::new(),
            waiting: VecDeque::new(),
            timers: Timers::default(),
            effects: TransactionEffects::default(),
            skipped_records: 0,
        }
    }

    /// The level of `transaction.version` from now on.
    pub fn set_transaction_version(&mut self, level: i16) {
        self.transaction_version = level;
    }

    /// Takes one committed record of the log, in offset order. Keys of unknown versions and records that cannot be read
    /// are counted and left out.
    ///
    /// # Panics
    /// When called after [`Self::finish_loading`].
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) {
        assert_eq!(self.phase, Phase::Loading, "replay belongs to loading");
        match records::decode(key, value) {
            Ok(Some(record)) => self.replicated.apply(record),
            Ok(None) => self.skipped_records += 1,
            Err(error) => {
                self.skipped_records += 1;
                slog::warn!(self.log, "left out a transaction record that cannot be read"; "error" => %error);
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

    /// The log has been replayed up to the high watermark: open transactions get their deadlines, and those whose end is
    /// written go on to tell their partitions.
    pub fn finish_loading(&mut self, now: Now) -> TransactionEffects {
        assert_eq!(self.phase, Phase::Loading, "a shard is loaded once");
        self.phase = Phase::Active;
        let transactional_ids: Vec<StrBytes> = self.replicated.iter().map(|(id, _)| id.clone()).collect();
        for transactional_id in &transactional_ids {
            self.schedule_timeout(now, transactional_id, 0);
            self.tell_partitions(now, transactional_id);
        }
        let first_expiry = now.mono_ms + self.settings.remove_expired_interval_ms;
        self.timers.schedule(TimerKey::Expiry, first_expiry);
        // Most partitions of a new cluster hold nothing: fifty lines would say nothing.
        if transactional_ids.is_empty() {
            slog::debug!(self.log, "no transactions to load"; "skipped_records" => self.skipped_records);
        } else {
            slog::info!(self.log, "transactions loaded";
                "transactional_ids" => transactional_ids.len(), "skipped_records" => self.skipped_records);
        }
        self.finish(now)
    }

    /// Handles one request. Its answer comes in these or in later effects.
    pub fn handle(
        &mut self,
        now: Now,
        token: RequestToken,
        request: TransactionRequest,
    ) -> TransactionEffects {
        match self.phase {
            Phase::Active => self.dispatch(now, token, request),
            Phase::Loading => self.reply(token, request.refuse(ErrorCode::CoordinatorLoadInProgress)),
            Phase::Resigned => self.reply(token, request.refuse(ErrorCode::NotCoordinator)),
        }
        self.finish(now)
    }

    fn dispatch(&mut self, now: Now, token: RequestToken, request: TransactionRequest) {
        match &request {
            TransactionRequest::InitProducerId { .. } => self.init_producer_id(now, token, request),
            TransactionRequest::AddPartitions { .. } => self.add_partitions(now, token, request),
            TransactionRequest::VerifyPartitions {
                transactional_id,
                producer,
                partitions,
            } => {
                let verified = self.verify_partitions(transactional_id, *producer, partitions);
                self.reply(token, TransactionResponse::VerifyPartitions(verified));
            }
            TransactionRequest::EndTransaction { .. } => self.end_transaction(now, token, request),
            TransactionRequest::Describe(transactional_id) => {
                let described = self.describe(transactional_id);
                self.reply(token, TransactionResponse::Describe(described));
            }
            TransactionRequest::List(filter) => {
                let listed = self.list(now, filter);
                self.reply(token, TransactionResponse::List(Ok(listed)));
            }
        }
    }

    /// The record of an [`Append`] is committed (the high watermark has passed it) or will never be.
    pub fn on_appended(
        &mut self,
        now: Now,
        id: AppendId,
        result: Result<(), ErrorCode>,
    ) -> TransactionEffects {
        if self.phase == Phase::Active
            && let Some(pending) = self.pending.remove(&id)
        {
            match result {
                Ok(()) => self.committed(now, pending),
                Err(code) => self.lost(now, &pending, code),
            }
        }
        self.finish(now)
    }

    /// A producer id that was asked for, or why there is none.
    pub fn on_producer_id(&mut self, now: Now, producer_id: Result<i64, ErrorCode>) -> TransactionEffects {
        if self.phase == Phase::Active
            && let Some(waiting) = self.waiting.pop_front()
        {
            match (producer_id, waiting) {
                (Ok(producer_id), waiting) => {
                    self.producer_ids.push(producer_id);
                    match waiting {
                        Waiting::Request(token, request) => self.dispatch(now, token, request),
                        Waiting::TimedOut(transactional_id) => self.time_out(now, &transactional_id),
                    }
                }
                (Err(code), Waiting::Request(token, request)) => self.reply(token, request.refuse(code)),
                (Err(_), Waiting::TimedOut(transactional_id)) => {
                    let pause_ms = self.settings.abort_timed_out_interval_ms;
                    self.schedule_timeout(now, &transactional_id, pause_ms);
                }
            }
        }
        self.finish(now)
    }

    /// These partitions have their marker of that producer, or need none any more because they are gone.
    pub fn on_marked(
        &mut self,
        now: Now,
        transactional_id: &StrBytes,
        producer: ProducerIdAndEpoch,
        partitions: &[TopicPartition],
    ) -> TransactionEffects {
        let is_current = self
            .replicated
            .get(transactional_id)
            .is_some_and(|metadata| metadata.prepared_result().is_some() && metadata.producer() == producer);
        if self.phase == Phase::Active
            && is_current
            && let Some(soft) = self.soft.get_mut(transactional_id)
        {
            let before = soft.unmarked.len();
            partitions
                .iter()
                .for_each(|partition| _ = soft.unmarked.remove(partition));
            if before > 0 && soft.unmarked.is_empty() {
                self.complete(now, transactional_id);
            }
        }
        self.finish(now)
    }

    /// Lets everything happen whose time has come.
    pub fn tick(&mut self, now: Now) -> TransactionEffects {
        self.finish(now)
    }

    /// When [`Self::tick`] wants to be called, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next_deadline()
    }

    /// Leadership is lost: every request that waits is answered NOT_COORDINATOR, as will be every later one.
    pub fn resign(&mut self) -> TransactionEffects {
        self.phase = Phase::Resigned;
        for pending in std::mem::take(&mut self.pending).into_values() {
            self.refuse(pending.then, ErrorCode::NotCoordinator);
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if let Waiting::Request(token, request) = waiting {
                self.reply(token, request.refuse(ErrorCode::NotCoordinator));
            }
        }
        self.refuse_parked(ErrorCode::NotCoordinator);
        self.timers = Timers::default();
        self.replicated = Replicated::default();
        TransactionEffects {
            replies: std::mem::take(&mut self.effects).replies,
            ..TransactionEffects::default()
        }
    }

    /// The replicated part: exactly what the committed log says.
    #[must_use]
    pub fn replicated(&self) -> &Replicated {
        &self.replicated
    }

    /// Records of the log that could not be understood and were left out.
    #[must_use]
    pub fn skipped_records(&self) -> u64 {
        self.skipped_records
    }

    fn finish(&mut self, now: Now) -> TransactionEffects {
        while let Some(key) = self.timers.pop_due(now.mono_ms) {
            match key {
                TimerKey::Timeout(transactional_id) => self.time_out(now, &transactional_id),
                TimerKey::Completion(transactional_id) => self.complete(now, &transactional_id),
                TimerKey::Parked(transactional_id) => self.lose_patience(now, &transactional_id),
                TimerKey::Expiry => self.expire(now),
            }
        }
        std::mem::take(&mut self.effects)
    }

    fn reply(&mut self, token: RequestToken, response: TransactionResponse) {
        self.effects.replies.push((token, response));
    }

    fn soft(&mut self, transactional_id: &StrBytes) -> &mut Soft {
        self.soft.entry(owned(transactional_id)).or_default()
    }

    /// Whether a record of the transactional id, or its markers, are on their way.
    fn is_in_transition(&self, transactional_id: &StrBytes) -> bool {
        self.soft
            .get(transactional_id)
            .is_some_and(|soft| soft.pending.is_some())
    }

    /// The epoch of the producer, after fencing that may not have reached the log.
    fn epoch(&self, transactional_id: &StrBytes, metadata: &TransactionMetadata) -> i16 {
        let soft = self.soft.get(transactional_id);
        soft.and_then(|soft| soft.fenced_epoch)
            .unwrap_or(metadata.producer_epoch)
    }

    /// Hands out the record that makes it so.
    fn append(
        &mut self,
        transactional_id: &StrBytes,
        value: Option<TransactionMetadata>,
        last_producer_epoch: i16,
        then: Then,
    ) {
        let state = value.as_ref().map_or(TransactionState::Dead, |value| value.state);
        self.soft(transactional_id).pending = Some(state);
        let record = Record {
            transactional_id: owned(transactional_id),
            value,
        };
        let id = AppendId(self.next_append);
        self.next_append += 1;
        let records = vec![record.encode(self.transaction_version)];
        let kind = AppendKind::Plain;
        self.effects.appends.push(Append { id, kind, records });
        let pending = Pending {
            record,
            last_producer_epoch,
            then,
        };
        self.pending.insert(id, pending);
    }

    fn committed(&mut self, now: Now, pending: Pending) {
        let transactional_id = pending.record.transactional_id.clone();
        let producer = pending.record.value.as_ref().map(TransactionMetadata::producer);
        self.replicated.apply(pending.record);
        let soft = self.soft(&transactional_id);
        soft.pending = None;
        soft.fenced_epoch = None;
        soft.last_producer_epoch = pending.last_producer_epoch;
        match (pending.then, producer) {
            (Then::Initialized(token), Some(producer)) => {
                self.reply(token, TransactionResponse::InitProducerId(Ok(producer)));
            }
            (Then::Added(token), _) => self.reply(token, TransactionResponse::AddPartitions(Ok(()))),
            (Then::Prepared(ending), _) => {
                self.timers.cancel(&TimerKey::Timeout(transactional_id.clone()));
                self.ended(now, &transactional_id, ending);
                self.tell_partitions(now, &transactional_id);
                return;
            }
            (Then::Completed | Then::Expired, _) => {}
            (Then::Initialized(_), None) => unreachable!("an initialised producer has its record"),
        }
        self.schedule_timeout(now, &transactional_id, 0);
        self.unpark(now, &transactional_id);
        self.forget_if_unknown(&transactional_id);
    }

    fn lost(&mut self, now: Now, pending: &Pending, code: ErrorCode) {
        let transactional_id = &pending.record.transactional_id;
        let code = append_refusal(code);
        if pending.then == Then::Completed {
            self.retry_completion(now, transactional_id, code);
            return;
        }
        self.soft(transactional_id).pending = None;
        self.refuse(pending.then, code);
        // Nothing but an abort that was refused is put off: what else is refused leaves the transaction its time.
        let pause_ms = if pending.then == Then::Prepared(Ending::TimedOut) {
            self.settings.abort_timed_out_interval_ms
        } else {
            0
        };
        self.schedule_timeout(now, transactional_id, pause_ms);
        self.unpark(now, transactional_id);
        self.forget_if_unknown(transactional_id);
    }

    /// Nothing is kept of a transactional id that is not in the log, nor on its way there.
    fn forget_if_unknown(&mut self, transactional_id: &StrBytes) {
        if self.replicated.get(transactional_id).is_none() && !self.is_in_transition(transactional_id) {
            self.soft.remove(transactional_id);
        }
    }

    fn refuse(&mut self, then: Then, code: ErrorCode) {
        match then {
            Then::Initialized(token) | Then::Prepared(Ending::Fenced(token)) => {
                self.reply(token, TransactionResponse::InitProducerId(Err(code)));
            }
            Then::Added(token) => self.reply(token, TransactionResponse::AddPartitions(Err(code))),
            Then::Prepared(Ending::Asked(token)) => {
                self.reply(token, TransactionResponse::EndTransaction(Err(code)));
            }
            Then::Prepared(Ending::TimedOut) => {
                slog::warn!(self.log, "a transaction that timed out is not aborted yet"; "error" => ?code);
            }
            Then::Completed => {}
            Then::Expired => {
                slog::warn!(self.log, "an expired transactional id is kept for now"; "error" => ?code);
            }
        }
    }

    /// A producer id in stock; without one the shell is asked, and what wanted it waits.
    fn producer_id_or_wait(&mut self, waiting: Waiting) -> Option<i64> {
        if let Some(producer_id) = self.producer_ids.pop() {
            return Some(producer_id);
        }
        if self.waiting.len() >= WAITING_FOR_PRODUCER_IDS_MAX
            && let Waiting::Request(token, request) = &waiting
        {
            self.reply(*token, request.refuse(ErrorCode::CoordinatorLoadInProgress));
            return None;
        }
        self.effects.producer_ids_wanted += 1;
        self.waiting.push_back(waiting);
        None
    }
}

/// A copy of the text that does not keep the request's frame in memory.
fn owned(text: &StrBytes) -> StrBytes {
    StrBytes::from_string(text.as_str().to_owned())
}
