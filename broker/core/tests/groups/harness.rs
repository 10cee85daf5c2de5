//! A scripted client of one shard, with its own clock and its own log.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kafka_protocol::ResponseError as ErrorCode;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    ProducerId, SyncGroupRequest, SyncGroupResponse, TopicName, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::StrBytes;
use odradek_broker_core::coordination::{
    Append, AppendKind, Effects, LogEntry, RequestToken, TransactionEnd,
};
use odradek_broker_core::groups::{
    Caller, GroupRequest, GroupResponse, GroupSettings, GroupShard, GroupState,
};
use odradek_broker_core::producer_state::verification::Verification;
use odradek_common::ids::TopicPartition;
use odradek_common::records::control::TransactionResult;
use odradek_common::time::Now;

pub const GROUP: &str = "payments";
pub const SESSION_MS: i32 = 10_000;
pub const REBALANCE_MS: i32 = 30_000;

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn group_id() -> GroupId {
    GroupId(text(GROUP))
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// No initial delay: the first member alone makes a generation.
pub fn settings() -> GroupSettings {
    GroupSettings {
        initial_rebalance_delay_ms: 0,
        ..GroupSettings::default()
    }
}

/// A subscription in the consumer protocol, version 0: topics and no user data.
pub fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend(i32::try_from(topics.len()).expect("few topics").to_be_bytes());
    for topic in topics {
        bytes.extend(i16::try_from(topic.len()).expect("short names").to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1_i32).to_be_bytes());
    Bytes::from(bytes)
}

pub struct Harness {
    pub shard: GroupShard,
    pub now: Now,
    /// What the log has committed.
    pub log: Vec<LogEntry>,
    /// What the log has not committed yet.
    pub under_way: VecDeque<Append>,
    /// Commit at once.
    pub commits_at_once: bool,
    pub settings: GroupSettings,
    /// Requests wait.
    falls_behind: bool,
    replies: BTreeMap<RequestToken, GroupResponse>,
    next_token: u64,
}

impl Harness {
    pub fn new() -> Self {
        Self::with(settings())
    }

    pub fn with(settings: GroupSettings) -> Self {
        Self::load(settings, Vec::new(), Now::new(1_000, 1_700_000_000_000), 1)
    }

    pub fn load(settings: GroupSettings, log: Vec<LogEntry>, now: Now, seed: u64) -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut shard = GroupShard::new(settings.clone(), seed, logger);
        log.iter().for_each(|entry| shard.replay(entry));
        let mut harness = Self {
            shard,
            now,
            log,
            under_way: VecDeque::new(),
            commits_at_once: true,
            settings,
            falls_behind: false,
            replies: BTreeMap::new(),
            next_token: 0,
        };
        let effects = harness.shard.finish_loading(now);
        harness.take(effects);
        harness
    }

    /// Another broker takes over with what is committed.
    pub fn fail_over(&self) -> Self {
        Self::load(
            self.settings.clone(),
            self.log.clone(),
            self.now,
            self.next_token + 100,
        )
    }

    fn take(&mut self, effects: Effects<GroupResponse>) {
        for (token, response) in effects.replies {
            assert!(
                self.replies.insert(token, response).is_none(),
                "{token:?} answered twice"
            );
        }
        self.under_way.extend(effects.appends);
        if self.commits_at_once {
            self.commit();
        }
        self.tick_if_due();
    }

    /// As the shell does when no request waits.
    fn tick_if_due(&mut self) {
        let deadline_ms = self.shard.next_deadline();
        if !self.falls_behind && deadline_ms.is_some_and(|deadline_ms| deadline_ms <= self.now.mono_ms) {
            let effects = self.shard.tick(self.now);
            self.take(effects);
        }
    }

    /// Nothing is handled for so long; what is sent from now on has waited since, up to [`Self::catch_up`].
    pub fn fall_behind(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.falls_behind = true;
    }

    /// No request waits any more.
    pub fn catch_up(&mut self) {
        self.falls_behind = false;
        self.tick_if_due();
    }

    /// The log commits everything under way.
    pub fn commit(&mut self) {
        while let Some(append) = self.under_way.pop_front() {
            self.log.extend(entries(&append));
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

    pub fn send_as(&mut self, caller: &Caller, request: GroupRequest) -> RequestToken {
        let token = RequestToken(self.next_token);
        self.next_token += 1;
        let effects = self.shard.handle(self.now, token, caller, request);
        self.take(effects);
        token
    }

    pub fn send(&mut self, version: i16, request: GroupRequest) -> RequestToken {
        self.send_as(&caller(version), request)
    }

    pub fn reply(&mut self, token: RequestToken) -> Option<GroupResponse> {
        self.replies.remove(&token)
    }

    pub fn ask(&mut self, version: i16, request: GroupRequest) -> GroupResponse {
        let token = self.send(version, request);
        self.reply(token).expect("answered at once")
    }

    pub fn resign(&mut self) {
        let effects = self.shard.resign();
        self.take(effects);
    }

    /// Lets time pass, stopping at every deadline.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while let Some(deadline_ms) = self
            .shard
            .next_deadline()
            .filter(|deadline_ms| *deadline_ms <= end.mono_ms)
        {
            self.now = self.now.plus_ms(deadline_ms.saturating_sub(self.now.mono_ms));
            let effects = self.shard.tick(self.now);
            self.take(effects);
        }
        self.now = end;
    }

    /// These partitions are gone.
    pub fn delete_partitions(&mut self, partitions: &[TopicPartition]) {
        let effects = self.shard.on_partitions_deleted(partitions);
        self.take(effects);
    }

    pub fn state(&self) -> Option<GroupState> {
        self.shard
            .group_states()
            .find(|(id, _, _)| id.as_str() == GROUP)
            .map(|(_, state, _)| state)
    }

    pub fn members(&self) -> usize {
        self.shard
            .group_states()
            .find(|(id, _, _)| id.as_str() == GROUP)
            .map_or(0, |(_, _, members)| members)
    }

    // ---- joins

    pub fn send_join(&mut self, request: JoinGroupRequest) -> RequestToken {
        self.send(9, GroupRequest::JoinGroup(request))
    }

    pub fn joined(&mut self, token: RequestToken) -> Option<JoinGroupResponse> {
        self.reply(token).map(|response| match response {
            GroupResponse::JoinGroup(response) => response,
            other => panic!("not a join: {other:?}"),
        })
    }

    pub fn join(&mut self, request: JoinGroupRequest) -> JoinGroupResponse {
        let token = self.send_join(request);
        self.joined(token).expect("answered at once")
    }

    /// A dynamic member asks for its id.
    pub fn new_member_id(&mut self) -> StrBytes {
        let response = self.join(join_request(""));
        assert_eq!(response.error_code, ErrorCode::MemberIdRequired.code());
        response.member_id
    }

    /// A dynamic member asks for its id and joins; the answer may take its time.
    pub fn enter(&mut self) -> (StrBytes, RequestToken) {
        let member_id = self.new_member_id();
        let token = self.send_join(join_request(&member_id));
        (member_id, token)
    }

    // ---- syncs

    pub fn send_sync(&mut self, member_id: &str, generation: i32, shares: &[(&str, &[u8])]) -> RequestToken {
        self.send(
            5,
            GroupRequest::SyncGroup(sync_request(member_id, generation, shares)),
        )
    }

    pub fn synced(&mut self, token: RequestToken) -> Option<SyncGroupResponse> {
        self.reply(token).map(|response| match response {
            GroupResponse::SyncGroup(response) => response,
            other => panic!("not a sync: {other:?}"),
        })
    }

    pub fn sync(&mut self, member_id: &str, generation: i32, shares: &[(&str, &[u8])]) -> SyncGroupResponse {
        let token = self.send_sync(member_id, generation, shares);
        self.synced(token).expect("answered at once")
    }

    // ---- the rest

    pub fn heartbeat(&mut self, member_id: &str, generation: i32) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id())
            .with_member_id(text(member_id))
            .with_generation_id(generation);
        match self.ask(4, GroupRequest::Heartbeat(request)) {
            GroupResponse::Heartbeat(response) => response.error_code,
            other => panic!("not a heartbeat: {other:?}"),
        }
    }

    pub fn leave(&mut self, identities: Vec<MemberIdentity>) -> kafka_protocol::messages::LeaveGroupResponse {
        let request = LeaveGroupRequest::default()
            .with_group_id(group_id())
            .with_members(identities);
        match self.ask(5, GroupRequest::LeaveGroup(request)) {
            GroupResponse::LeaveGroup(response) => response,
            other => panic!("not a leave: {other:?}"),
        }
    }

    /// Error of the first partition; `None` while it waits.
    pub fn send_commit(&mut self, request: OffsetCommitRequest) -> RequestToken {
        self.send(9, GroupRequest::OffsetCommit(request))
    }

    pub fn committed(&mut self, token: RequestToken) -> Option<i16> {
        self.reply(token).map(|response| match response {
            GroupResponse::OffsetCommit(response) => response.topics[0].partitions[0].error_code,
            other => panic!("not a commit: {other:?}"),
        })
    }

    pub fn commit_offset(&mut self, request: OffsetCommitRequest) -> i16 {
        let token = self.send_commit(request);
        self.committed(token).expect("answered at once")
    }

    // ---- transactions

    pub fn send_txn_commit(&mut self, request: TxnOffsetCommitRequest) -> RequestToken {
        let verification = Verification::Waived;
        self.send(
            5,
            GroupRequest::TxnOffsetCommit {
                request,
                verification,
            },
        )
    }

    pub fn txn_committed(&mut self, token: RequestToken) -> Option<i16> {
        self.reply(token).map(|response| match response {
            GroupResponse::TxnOffsetCommit(response) => response.topics[0].partitions[0].error_code,
            other => panic!("not a transactional commit: {other:?}"),
        })
    }

    /// Error of the first partition.
    pub fn txn_commit(&mut self, request: TxnOffsetCommitRequest) -> i16 {
        let token = self.send_txn_commit(request);
        self.txn_committed(token).expect("answered at once")
    }

    pub fn end_transaction(&mut self, producer_id: i64, result: TransactionResult) {
        let end = TransactionEnd {
            producer_id,
            producer_epoch: 1,
            coordinator_epoch: 0,
            result,
            transaction_version: 2,
        };
        let answer = self.ask(2, GroupRequest::EndTransaction(end));
        assert_eq!(answer, GroupResponse::EndTransaction(Ok(())));
    }

    /// Offset and error of one partition, for somebody who asks for stable offsets.
    pub fn fetch_stable(&mut self, topic: &str, partition: i32) -> (i64, i16) {
        let (offset, _, _, error_code) = self.fetch_as(topic, partition, true);
        (offset, error_code)
    }

    /// Offset, leader epoch, metadata and error of one partition.
    pub fn fetch(&mut self, topic: &str, partition: i32) -> (i64, i32, String, i16) {
        self.fetch_as(topic, partition, false)
    }

    fn fetch_as(&mut self, topic: &str, partition: i32, require_stable: bool) -> (i64, i32, String, i16) {
        let topics = vec![
            OffsetFetchRequestTopics::default()
                .with_name(topic_name(topic))
                .with_partition_indexes(vec![partition]),
        ];
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(group_id())
            .with_topics(Some(topics));
        match self.ask(
            8,
            GroupRequest::OffsetFetch {
                group,
                require_stable,
            },
        ) {
            GroupResponse::OffsetFetch(group) => {
                assert_eq!(group.error_code, 0);
                let fetched = &group.topics[0].partitions[0];
                let metadata = fetched.metadata.as_ref().expect("never null").to_string();
                (
                    fetched.committed_offset,
                    fetched.committed_leader_epoch,
                    metadata,
                    fetched.error_code,
                )
            }
            other => panic!("not a fetch: {other:?}"),
        }
    }

    /// A stable group of two; the first one leads. Their ids and the generation.
    pub fn stable_pair(&mut self) -> (StrBytes, StrBytes, i32) {
        let (leader, first) = self.enter();
        assert_eq!(self.joined(first).expect("alone").generation_id, 1);
        let (follower, second) = self.enter();
        let again = self.send_join(join_request(&leader));
        let generation = self.joined(again).expect("everybody is there").generation_id;
        assert_eq!(self.joined(second).expect("everybody is there").leader, leader);
        let waiting = self.send_sync(&follower, generation, &[]);
        let led = self.sync(&leader, generation, &[(&leader, b"one"), (&follower, b"two")]);
        assert_eq!(led.assignment, &b"one"[..]);
        assert_eq!(
            self.synced(waiting).expect("the leader has synced").assignment,
            &b"two"[..]
        );
        assert_eq!(self.state(), Some(GroupState::Stable));
        (leader, follower, generation)
    }
}

/// What the log holds of an append.
fn entries(append: &Append) -> Vec<LogEntry> {
    let producer_id = match append.kind {
        AppendKind::Plain => None,
        AppendKind::Transactional(writer) => Some(writer.producer_id),
        AppendKind::EndOfTransaction(end) => {
            return vec![LogEntry::EndOfTransaction {
                producer_id: end.producer_id,
                result: end.result,
            }];
        }
    };
    let records = append.records.iter().cloned();
    let entry = |(key, value)| LogEntry::Record {
        producer_id,
        key,
        value,
    };
    records.map(entry).collect()
}

pub fn caller(version: i16) -> Caller {
    Caller {
        api_version: version,
        client_id: text("client"),
        client_host: text("/127.0.0.1"),
    }
}

pub fn protocol(name: &str, metadata: Bytes) -> JoinGroupRequestProtocol {
    JoinGroupRequestProtocol::default()
        .with_name(text(name))
        .with_metadata(metadata)
}

pub fn join_request(member_id: &str) -> JoinGroupRequest {
    JoinGroupRequest::default()
        .with_group_id(group_id())
        .with_session_timeout_ms(SESSION_MS)
        .with_rebalance_timeout_ms(REBALANCE_MS)
        .with_member_id(text(member_id))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol("range", subscription(&["orders"]))])
}

pub fn static_join(instance_id: &str, member_id: &str) -> JoinGroupRequest {
    join_request(member_id).with_group_instance_id(Some(text(instance_id)))
}

pub fn sync_request(member_id: &str, generation: i32, shares: &[(&str, &[u8])]) -> SyncGroupRequest {
    let assignments = shares.iter().map(|(member_id, assignment)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member_id))
            .with_assignment(Bytes::copy_from_slice(assignment))
    });
    SyncGroupRequest::default()
        .with_group_id(group_id())
        .with_generation_id(generation)
        .with_member_id(text(member_id))
        .with_assignments(assignments.collect())
}

pub fn commit_request(
    member_id: &str,
    generation: i32,
    topic: &str,
    partition: i32,
    offset: i64,
) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(3)
        .with_committed_metadata(Some(text("note")));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group_id())
        .with_member_id(text(member_id))
        .with_generation_id_or_member_epoch(generation)
        .with_topics(vec![topic])
}

/// A commit of a client that manages its partitions itself.
pub fn simple_commit(topic: &str, partition: i32, offset: i64) -> OffsetCommitRequest {
    commit_request("", -1, topic, partition, offset)
}

/// A commit within a producer's transaction, by a client that says nothing about membership.
pub fn simple_txn_commit(
    producer_id: i64,
    topic: &str,
    partition: i32,
    offset: i64,
) -> TxnOffsetCommitRequest {
    let partition = TxnOffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(4)
        .with_committed_metadata(Some(text("in a transaction")));
    let topic = TxnOffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    TxnOffsetCommitRequest::default()
        .with_group_id(group_id())
        .with_producer_id(ProducerId(producer_id))
        .with_producer_epoch(0)
        .with_generation_id(-1)
        .with_topics(vec![topic])
}
