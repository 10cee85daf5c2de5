//! A scripted client of one shard, with its own clock, log and producer ids, and partitions that take markers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use odradek_broker_core::coordination::{Append, RequestToken};
use odradek_broker_core::transactions::metadata::{
    ProducerIdAndEpoch, TransactionMetadata, TransactionState,
};
use odradek_broker_core::transactions::{
    Markers, TransactionEffects, TransactionRequest, TransactionResponse, TransactionSettings,
    TransactionShard,
};
use odradek_common::error::ErrorCode;
use odradek_common::ids::TopicPartition;
use odradek_common::records::control::TransactionResult;
use odradek_common::time::Now;

pub const ID: &str = "transfer";
pub const TIMEOUT_MS: i32 = 60_000;
/// The version of clients that end transactions with the next epoch.
pub const V2: i16 = 2;
/// The version of clients that do not.
pub const V0: i16 = 0;
pub const COMMIT: TransactionResult = TransactionResult::Commit;
pub const ABORT: TransactionResult = TransactionResult::Abort;

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn partitions(names: &[&str]) -> BTreeSet<TopicPartition> {
    let partition = |name: &&str| {
        let (topic, index) = name.rsplit_once('-').expect("topic-index");
        TopicPartition::new(topic, index.parse().expect("an index"))
    };
    names.iter().map(partition).collect()
}

pub fn producer(producer_id: i64, epoch: i16) -> ProducerIdAndEpoch {
    ProducerIdAndEpoch { producer_id, epoch }
}

pub struct Harness {
    pub shard: TransactionShard,
    pub now: Now,
    pub version: i16,
    pub settings: TransactionSettings,
    /// What the log has committed.
    pub log: Vec<(Bytes, Option<Bytes>)>,
    /// What the log has not committed yet.
    pub under_way: VecDeque<Append>,
    /// Commit at once.
    pub commits_at_once: bool,
    /// What the partitions have not been told yet.
    pub markers: VecDeque<Markers>,
    /// Tell them at once.
    pub marks_at_once: bool,
    /// Every marker that was ever handed out.
    pub handed_out: Vec<Markers>,
    /// Producer ids that were asked for and not given yet.
    pub wanted: usize,
    /// Give them at once.
    pub gives_ids_at_once: bool,
    pub next_producer_id: i64,
    replies: BTreeMap<RequestToken, TransactionResponse>,
    next_token: u64,
}

impl Harness {
    /// A shard of a cluster at that level of `transaction.version`.
    pub fn new(version: i16) -> Self {
        let now = Now::new(1_000, 1_700_000_000_000);
        Self::load(version, TransactionSettings::default(), Vec::new(), now, 1_000)
    }

    pub fn load(
        version: i16,
        settings: TransactionSettings,
        log: Vec<(Bytes, Option<Bytes>)>,
        now: Now,
        next_producer_id: i64,
    ) -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut shard = TransactionShard::new(settings.clone(), logger);
        shard.set_transaction_version(version);
        for (key, value) in &log {
            shard.replay(key, value.as_deref());
        }
        let mut harness = Self {
            shard,
            now,
            version,
            settings,
            log,
            under_way: VecDeque::new(),
            commits_at_once: true,
            markers: VecDeque::new(),
            marks_at_once: true,
            handed_out: Vec::new(),
            wanted: 0,
            gives_ids_at_once: true,
            next_producer_id,
            replies: BTreeMap::new(),
            next_token: 0,
        };
        harness.marks_at_once = false;
        let effects = harness.shard.finish_loading(now);
        harness.take(effects);
        harness.marks_at_once = true;
        harness
    }

    /// Another broker takes over with what is committed; markers that it hands out again are not delivered yet.
    pub fn fail_over(&self) -> Self {
        let ids = self.next_producer_id;
        Self::load(
            self.version,
            self.settings.clone(),
            self.log.clone(),
            self.now,
            ids,
        )
    }

    pub fn take(&mut self, effects: TransactionEffects) {
        for (token, response) in effects.replies {
            let before = self.replies.insert(token, response);
            assert!(before.is_none(), "{token:?} answered twice");
        }
        self.under_way.extend(effects.appends);
        self.handed_out.extend(effects.markers.iter().cloned());
        self.markers.extend(effects.markers);
        self.wanted += effects.producer_ids_wanted;
        if self.gives_ids_at_once {
            self.give_ids();
        }
        if self.commits_at_once {
            self.commit();
        }
        if self.marks_at_once {
            self.mark();
        }
    }

    pub fn give_ids(&mut self) {
        while self.wanted > 0 {
            self.give_id(None);
        }
    }

    /// One producer id, or the refusal of one.
    pub fn give_id(&mut self, refusal: Option<ErrorCode>) {
        self.wanted -= 1;
        let producer_id = match refusal {
            Some(code) => Err(code),
            None => {
                self.next_producer_id += 1;
                Ok(self.next_producer_id)
            }
        };
        let effects = self.shard.on_producer_id(self.now, producer_id);
        self.take(effects);
    }

    /// The log commits everything under way.
    pub fn commit(&mut self) {
        while !self.under_way.is_empty() {
            self.commit_one();
        }
    }

    pub fn commit_one(&mut self) {
        if let Some(append) = self.under_way.pop_front() {
            self.log.extend(append.records);
            let effects = self.shard.on_appended(self.now, append.id, Ok(()));
            self.take(effects);
        }
    }

    /// The log refuses everything under way.
    pub fn fail(&mut self, code: ErrorCode) {
        for append in std::mem::take(&mut self.under_way) {
            let effects = self.shard.on_appended(self.now, append.id, Err(code));
            self.take(effects);
        }
    }

    /// Every partition takes its markers.
    pub fn mark(&mut self) {
        while let Some(markers) = self.markers.pop_front() {
            let partitions: Vec<_> = markers.partitions.iter().cloned().collect();
            let id = &markers.transactional_id;
            let effects = self.shard.on_marked(self.now, id, markers.producer, &partitions);
            self.take(effects);
        }
    }

    pub fn send(&mut self, request: TransactionRequest) -> RequestToken {
        let token = RequestToken(self.next_token);
        self.next_token += 1;
        let effects = self.shard.handle(self.now, token, request);
        self.take(effects);
        token
    }

    pub fn reply(&mut self, token: RequestToken) -> Option<TransactionResponse> {
        self.replies.remove(&token)
    }

    pub fn ask(&mut self, request: TransactionRequest) -> TransactionResponse {
        let token = self.send(request);
        self.reply(token).expect("answered at once")
    }

    pub fn resign(&mut self) {
        let effects = self.shard.resign();
        self.take(effects);
    }

    /// Lets time pass, stopping at every deadline.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while let Some(deadline_ms) = self.shard.next_deadline().filter(|at| *at <= end.mono_ms) {
            self.now = self.now.plus_ms(deadline_ms.saturating_sub(self.now.mono_ms));
            let effects = self.shard.tick(self.now);
            self.take(effects);
        }
        self.now = end;
    }

    // ---- requests of the transactional id ID

    pub fn init(&mut self) -> Result<ProducerIdAndEpoch, ErrorCode> {
        self.init_with(TIMEOUT_MS, None)
    }

    pub fn init_as(&mut self, expected: ProducerIdAndEpoch) -> Result<ProducerIdAndEpoch, ErrorCode> {
        self.init_with(TIMEOUT_MS, Some(expected))
    }

    pub fn init_with(
        &mut self,
        timeout_ms: i32,
        expected: Option<ProducerIdAndEpoch>,
    ) -> Result<ProducerIdAndEpoch, ErrorCode> {
        match self.ask(init_request(timeout_ms, expected)) {
            TransactionResponse::InitProducerId(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn add(&mut self, producer: ProducerIdAndEpoch, names: &[&str]) -> Result<(), ErrorCode> {
        self.add_in(V0, producer, names)
    }

    pub fn add_in(
        &mut self,
        client_version: i16,
        producer: ProducerIdAndEpoch,
        names: &[&str],
    ) -> Result<(), ErrorCode> {
        let token = self.send(add_request(client_version, producer, names));
        match self.reply_in_time(token) {
            TransactionResponse::AddPartitions(result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// The answer, after the time that a request may wait for the end of a transition.
    pub fn reply_in_time(&mut self, token: RequestToken) -> TransactionResponse {
        if let Some(reply) = self.reply(token) {
            return reply;
        }
        self.advance(100);
        self.reply(token).expect("patience has an end")
    }

    pub fn verify(
        &mut self,
        producer: ProducerIdAndEpoch,
        names: &[&str],
    ) -> Result<Vec<(String, bool)>, ErrorCode> {
        let request = TransactionRequest::VerifyPartitions {
            transactional_id: text(ID),
            producer,
            partitions: partitions(names),
        };
        match self.ask(request) {
            TransactionResponse::VerifyPartitions(result) => result.map(|verified| {
                let named = verified
                    .into_iter()
                    .map(|(partition, is_in)| (partition.to_string(), is_in));
                named.collect()
            }),
            other => panic!("{other:?}"),
        }
    }

    pub fn end(
        &mut self,
        client_version: i16,
        producer: ProducerIdAndEpoch,
        result: TransactionResult,
    ) -> Result<ProducerIdAndEpoch, ErrorCode> {
        match self.ask(end_request(client_version, producer, result)) {
            TransactionResponse::EndTransaction(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn metadata(&self) -> &TransactionMetadata {
        self.shard.replicated().get(&text(ID)).expect("the id is known")
    }

    pub fn state(&self) -> TransactionState {
        self.metadata().state
    }
}

pub fn init_request(timeout_ms: i32, expected: Option<ProducerIdAndEpoch>) -> TransactionRequest {
    TransactionRequest::InitProducerId {
        transactional_id: text(ID),
        timeout_ms,
        expected,
    }
}

pub fn add_request(client_version: i16, producer: ProducerIdAndEpoch, names: &[&str]) -> TransactionRequest {
    TransactionRequest::AddPartitions {
        transactional_id: text(ID),
        producer,
        partitions: partitions(names),
        client_version,
    }
}

pub fn end_request(
    client_version: i16,
    producer: ProducerIdAndEpoch,
    result: TransactionResult,
) -> TransactionRequest {
    TransactionRequest::EndTransaction {
        transactional_id: text(ID),
        producer,
        result,
        client_version,
    }
}

/// A shard whose log says this of the transactional id [`ID`].
pub fn with_metadata(version: i16, metadata: TransactionMetadata) -> Harness {
    let record = odradek_broker_core::transactions::records::Record {
        transactional_id: text(ID),
        value: Some(metadata),
    };
    let now = Now::new(1_000, 1_700_000_000_000);
    let log = vec![record.encode(version)];
    Harness::load(version, TransactionSettings::default(), log, now, 1_000)
}
