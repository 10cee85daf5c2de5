//! Shards over real logs: one node whose metadata each test writes by hand.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use arc_swap::ArcSwap;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, OffsetCommitRequest, ProducerId, SyncGroupRequest,
    TxnOffsetCommitRequest,
};
use odradek_broker_core::partition::FollowerFetch;
use odradek_broker_core::producer_state::verification::Verification;
use odradek_broker_log::directory::{LogDirectory, LogDirectoryOptions};
use odradek_common::metadata::{ConfigResource, PartitionImage};
use odradek_common::records::control::TransactionResult;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::clock;
use crate::coordinator::hosting::SHARD_QUEUE_MAX;
use crate::data_directory::DataDirectory;
use crate::metrics::Metrics;
use crate::names::topic_name;

const NODE: i32 = 1;
const OTHER: i32 = 2;

struct Node {
    _folder: TempDir,
    config: ServerConfig,
    replicas: Arc<Replicas>,
    groups: Arc<GroupCoordinators>,
    image: MetadataImage,
}

impl Node {
    fn new(overrides: &[(&str, &str)]) -> Self {
        let overrides: Vec<_> = overrides
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let (config, _) = ServerConfig::load(None, std::iter::empty(), &overrides).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let folder = TempDir::new().unwrap();
        let log_directory =
            LogDirectory::open(folder.path(), LogDirectoryOptions::default(), log.clone()).unwrap();
        let directories = vec![DataDirectory::new(Uuid::from_u128(1), log_directory)];
        let image = Arc::new(ArcSwap::from_pointee(MetadataImage::default()));
        let replicas = Replicas::new(NODE, directories, Metrics::new(), image, log.clone());
        let groups = GroupCoordinators::new(Handle::current(), &config, log);
        Self {
            _folder: folder,
            config,
            replicas,
            groups,
            image: MetadataImage::default(),
        }
    }

    /// A node that leads the only partition of `__consumer_offsets`, with these in-sync replicas.
    fn leading(overrides: &[(&str, &str)], isr: &[i32]) -> Self {
        let mut node = Self::new(overrides);
        node.change(|image| add_topic(image, OFFSETS_TOPIC, isr));
        node.elect(NODE, isr);
        node
    }

    fn change(&mut self, change: impl FnOnce(&mut MetadataImage)) {
        let before = self.image.clone();
        change(&mut self.image);
        let delta = MetadataDelta::between(&before, &self.image);
        let events = self.replicas.publish(&delta, &self.image, &self.config, true);
        self.groups.apply(&self.replicas, &self.image, &delta, &events);
    }

    fn elect(&mut self, leader: i32, isr: &[i32]) {
        self.change(|image| {
            let mut topic = (**image.topic(OFFSETS_TOPIC).unwrap()).clone();
            let mut partition = (*topic.partitions[0]).clone();
            partition.leader = leader;
            partition.leader_epoch += 1;
            partition.partition_epoch += 1;
            partition.isr = isr.to_vec();
            topic.partitions[0] = Arc::new(partition);
            image.topics.insert(OFFSETS_TOPIC.into(), Arc::new(topic));
        });
    }

    /// Another broker leads for a moment.
    fn lead_anew(&mut self, isr: &[i32]) {
        self.elect(OTHER, isr);
        self.elect(NODE, isr);
    }

    /// Turns the bit of the first batch's length that no batch is long enough for; once more, and it is right again.
    fn damage(&self) {
        let replica = self.replicas.get(OFFSETS_TOPIC, 0).unwrap();
        let path = replica.with(|p| {
            if p.log().sealed_segment_from(0).is_none() {
                p.log_mut().roll(clock::now()).unwrap();
            }
            p.log().sealed_segment_from(0).unwrap().path().to_owned()
        });
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 8).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], 8).unwrap();
    }

    /// The other replica says that it has everything.
    fn other_replica_fetches(&self) {
        let replica = self.replicas.get(OFFSETS_TOPIC, 0).unwrap();
        let fetch_offset = replica.offsets().log_end;
        let fetch = FollowerFetch {
            replica: OTHER,
            broker_epoch: -1,
            fetch_offset,
            log_start_offset: 0,
        };
        replica.follower_fetched(clock::now(), fetch).unwrap();
    }

    async fn call(&self, request: GroupRequest) -> GroupResponse {
        self.groups.call(client(), request).await
    }

    async fn commit(&self, group: &str, offset: i64) -> i16 {
        let request = GroupRequest::OffsetCommit(commit_request(group, offset));
        commit_error(self.call(request).await)
    }

    /// In epoch 0 of a producer.
    async fn commit_in_transaction(&self, producer_id: i64, group: &str, offset: i64) -> i16 {
        let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(offset);
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_producer_id(ProducerId(producer_id))
            .with_generation_id(-1)
            .with_topics(vec![topic]);
        let request = GroupRequest::TxnOffsetCommit {
            request,
            verification: Verification::Waived,
        };
        match self.call(request).await {
            GroupResponse::TxnOffsetCommit(response) => response.topics[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    }

    async fn end_transaction(
        &self,
        producer_id: i64,
        epoch: i16,
        result: TransactionResult,
    ) -> Result<(), ErrorCode> {
        self.groups
            .end_transaction(0, end_of(producer_id, epoch, result))
            .await
    }

    /// As a scrape asks for it.
    async fn snapshot(&self) -> GroupsSnapshot {
        let groups = self.groups.clone();
        let snapshot = tokio::task::spawn_blocking(move || groups.snapshot());
        snapshot.await.unwrap()
    }

    /// Of nobody the group knows.
    async fn heartbeat(&self, group: &str) -> i16 {
        self.heartbeat_of(group, &(StrBytes::new(), 0)).await
    }

    async fn heartbeat_of(&self, group: &str, (member_id, generation): &(StrBytes, i32)) -> i16 {
        let beat = HeartbeatRequest::default()
            .with_group_id(group_id(group))
            .with_member_id(member_id.clone())
            .with_generation_id(*generation);
        match self.call(GroupRequest::Heartbeat(beat)).await {
            GroupResponse::Heartbeat(response) => response.error_code,
            other => panic!("{other:?}"),
        }
    }

    /// Error and offset.
    async fn fetch(&self, group: &str) -> (i16, Option<i64>) {
        self.fetch_as(group, false).await
    }

    async fn fetch_as(&self, group: &str, require_stable: bool) -> (i16, Option<i64>) {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(topic_name("t"))
            .with_partition_indexes(vec![0]);
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(group_id(group))
            .with_topics(Some(vec![topic]));
        match self
            .call(GroupRequest::OffsetFetch {
                group,
                require_stable,
            })
            .await
        {
            GroupResponse::OffsetFetch(group) => {
                let offset = group
                    .topics
                    .first()
                    .map(|topic| topic.partitions[0].committed_offset);
                (group.error_code, offset)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Asks until the coordinator has loaded.
    async fn fetch_when_loaded(&self, group: &str) -> (i16, Option<i64>) {
        loop {
            let answer = self.fetch(group).await;
            if answer.0 != ErrorCode::CoordinatorLoadInProgress.code() {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn end_of(producer_id: i64, producer_epoch: i16, result: TransactionResult) -> TransactionEnd {
    TransactionEnd {
        producer_id,
        producer_epoch,
        coordinator_epoch: 0,
        result,
        transaction_version: 2,
    }
}

fn client() -> Caller {
    Caller {
        api_version: 8,
        ..Caller::default()
    }
}

fn commit_request(group: &str, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name("t"))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

fn commit_error(answer: GroupResponse) -> i16 {
    match answer {
        GroupResponse::OffsetCommit(response) => response.topics[0].partitions[0].error_code,
        other => panic!("{other:?}"),
    }
}

fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}

fn add_topic(image: &mut MetadataImage, name: &str, replicas: &[i32]) {
    let id = Uuid::new_v4();
    let partition = PartitionImage {
        replicas: replicas.to_vec(),
        isr: replicas.to_vec(),
        ..PartitionImage::default()
    };
    let topic = TopicImage {
        name: name.into(),
        id,
        partitions: vec![Arc::new(partition)],
    };
    image.topics.insert(name.into(), Arc::new(topic));
    image.topic_names.insert(id, name.into());
}

fn delete_topic(image: &mut MetadataImage, name: &str) {
    let id = image.topic(name).unwrap().id;
    image.topics.remove(name);
    image.topic_names.remove(&id);
}

#[tokio::test]
async fn commits_survive_a_new_leadership() {
    let mut node = Node::leading(&[], &[NODE]);
    assert_eq!(node.fetch_when_loaded("g").await, (0, Some(-1)));
    for offset in 1..=20 {
        assert_eq!(node.commit("g", offset).await, 0);
    }
    node.lead_anew(&[NODE]);
    assert_eq!(node.fetch_when_loaded("g").await, (0, Some(20)));
}

#[tokio::test]
async fn a_damaged_log_is_not_taken_for_an_empty_one_and_is_read_once_it_is_whole() {
    let mut node = Node::leading(&[], &[NODE]);
    node.fetch_when_loaded("g").await;
    assert_eq!(node.commit("g", 7).await, 0);
    node.damage();
    node.lead_anew(&[NODE]);
    for _ in 0..20 {
        let answer = node.fetch("g").await;
        assert_eq!(answer, (ErrorCode::CoordinatorLoadInProgress.code(), None));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.damage();
    assert_eq!(node.fetch_when_loaded("g").await, (0, Some(7)));
}

#[tokio::test]
async fn only_the_leader_of_the_partition_coordinates() {
    let mut node = Node::new(&[]);
    let not_coordinator = ErrorCode::NotCoordinator.code();
    assert_eq!(node.commit("g", 1).await, not_coordinator, "there is no topic");
    node.change(|image| add_topic(image, OFFSETS_TOPIC, &[NODE, OTHER]));
    assert_eq!(node.commit("g", 1).await, not_coordinator, "there is no leader");
    node.elect(NODE, &[NODE]);
    node.fetch_when_loaded("g").await;
    assert_eq!(node.commit("g", 1).await, 0);
    node.elect(OTHER, &[NODE, OTHER]);
    assert_eq!(node.fetch("g").await.0, not_coordinator, "another broker leads");
    node.elect(NODE, &[NODE]);
    node.fetch_when_loaded("g").await;
    node.groups.stop();
    assert_eq!(node.commit("g", 1).await, not_coordinator, "the broker stops");
}

/// Its id and its first generation; the group waits for nobody else.
async fn join(node: &Node, group: &str, session_timeout_ms: i32) -> (StrBytes, i32) {
    let protocol = JoinGroupRequestProtocol::default();
    let request = JoinGroupRequest::default()
        .with_group_id(group_id(group))
        .with_session_timeout_ms(session_timeout_ms)
        .with_rebalance_timeout_ms(60_000)
        .with_protocol_type("consumer".into())
        .with_protocols(vec![protocol]);
    let caller = Caller {
        api_version: 3,
        ..Caller::default()
    };
    match node.groups.call(caller, GroupRequest::JoinGroup(request)).await {
        GroupResponse::JoinGroup(joined) => {
            assert_eq!(joined.error_code, 0);
            (joined.member_id, joined.generation_id)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stalled_shard_hears_those_who_wait_before_it_ends_sessions() {
    const SESSION_MS: i32 = 1_000;
    let settings = [
        ("group.initial.rebalance.delay.ms", "0"),
        ("group.min.session.timeout.ms", "1000"),
    ];
    let node = Node::leading(&settings, &[NODE]);
    node.fetch_when_loaded("g").await;
    let first = join(&node, "first", SESSION_MS).await;
    let second = join(&node, "second", SESSION_MS).await;
    // The shard's task has no other thread to run on.
    std::thread::sleep(Duration::from_millis(SESSION_MS as u64 + 100));
    let (first, second) = tokio::join!(
        node.heartbeat_of("first", &first),
        node.heartbeat_of("second", &second)
    );
    assert_eq!((first, second), (0, 0));
}

#[tokio::test]
async fn a_member_that_waits_is_sent_away_when_leadership_moves() {
    let mut node = Node::leading(&[("group.initial.rebalance.delay.ms", "60000")], &[NODE]);
    node.fetch_when_loaded("g").await;
    let protocol = JoinGroupRequestProtocol::default();
    let join = JoinGroupRequest::default()
        .with_group_id(group_id("g"))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocol_type("consumer".into())
        .with_protocols(vec![protocol]);
    let groups = node.groups.clone();
    let caller = Caller {
        api_version: 3,
        ..Caller::default()
    };
    let waiting = tokio::spawn(async move { groups.call(caller, GroupRequest::JoinGroup(join)).await });
    while !node
        .snapshot()
        .await
        .groups
        .iter()
        .any(|(_, _, members)| *members == 1)
    {
        tokio::task::yield_now().await;
    }
    node.elect(OTHER, &[NODE]);
    let GroupResponse::JoinGroup(answer) = waiting.await.unwrap() else {
        panic!("a join is answered by a join")
    };
    assert_eq!(answer.error_code, ErrorCode::NotCoordinator.code());
}

/// The epoch rises when a replica leaves the partition.
#[tokio::test]
async fn a_leader_that_stays_coordinates_on_in_a_later_epoch() {
    let mut node = Node::leading(&[], &[NODE, OTHER]);
    assert_eq!(node.fetch_when_loaded("g").await, (0, Some(-1)));
    let groups = node.groups.clone();
    let commit = GroupRequest::OffsetCommit(commit_request("g", 7));
    let waiting = tokio::spawn(async move { groups.call(client(), commit).await });
    while node.replicas.get(OFFSETS_TOPIC, 0).unwrap().offsets().log_end == 0 {
        tokio::task::yield_now().await;
    }
    node.elect(NODE, &[NODE, OTHER]);
    node.other_replica_fetches();
    assert_eq!(
        commit_error(waiting.await.unwrap()),
        0,
        "decided in the epoch before"
    );
    assert_eq!(node.fetch("g").await, (0, Some(7)), "nothing is loaded again");
    node.elect(NODE, &[NODE]);
    assert_eq!(node.commit("g", 8).await, 0);
    assert_eq!(node.fetch("g").await, (0, Some(8)));
    assert_eq!(node.groups.loads().count, 1);
    node.lead_anew(&[NODE]);
    assert_eq!(node.fetch_when_loaded("g").await, (0, Some(8)));
    assert_eq!(node.groups.loads().count, 2);
}

#[tokio::test]
async fn nothing_is_shown_before_the_log_is_committed() {
    let node = Node::leading(&[], &[NODE, OTHER]);
    // The epoch begins with an empty log: all of it is committed.
    assert_eq!(node.fetch_when_loaded("g").await, (0, Some(-1)));
    let (commit, _) = tokio::join!(node.commit("g", 7), async {
        while node.replicas.get(OFFSETS_TOPIC, 0).unwrap().offsets().log_end == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(node.fetch("g").await, (0, Some(-1)), "not committed yet");
        node.other_replica_fetches();
    });
    assert_eq!(commit, 0);
    assert_eq!(node.fetch("g").await, (0, Some(7)));
}

#[tokio::test]
async fn a_new_leader_waits_until_its_log_is_committed() {
    let mut node = Node::leading(&[("offsets.commit.timeout.ms", "50")], &[NODE, OTHER]);
    node.fetch_when_loaded("g").await;
    assert_eq!(
        node.commit("g", 7).await,
        ErrorCode::CoordinatorNotAvailable.code(),
        "nobody replicates"
    );
    node.lead_anew(&[NODE, OTHER]);
    let loading = ErrorCode::CoordinatorLoadInProgress.code();
    assert_eq!(node.fetch("g").await.0, loading);
    assert_eq!(node.heartbeat("g").await, 0, "members need not know");
    // A later epoch of the same leader changes nothing.
    node.elect(NODE, &[NODE, OTHER]);
    assert_eq!(node.fetch("g").await.0, loading);
    node.other_replica_fetches();
    assert_eq!(node.fetch_when_loaded("g").await, (0, Some(7)));
}

#[tokio::test]
async fn a_commit_that_came_too_late_for_its_client_counts_once_it_is_replicated() {
    let node = Node::leading(&[("offsets.commit.timeout.ms", "50")], &[NODE, OTHER]);
    node.fetch_when_loaded("g").await;
    assert_eq!(
        node.commit("g", 7).await,
        ErrorCode::CoordinatorNotAvailable.code()
    );
    assert_eq!(node.fetch("g").await, (0, Some(-1)));
    node.other_replica_fetches();
    while node.fetch("g").await != (0, Some(7)) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_fetch_that_has_waited_too_long_is_sent_to_look_for_the_coordinator() {
    let node = Node::leading(&[("offsets.commit.timeout.ms", "50")], &[NODE, OTHER]);
    node.fetch_when_loaded("g").await;
    let unavailable = ErrorCode::CoordinatorNotAvailable.code();
    assert_eq!(node.commit("g", 7).await, unavailable, "nobody replicates");
    let fetched = node.fetch_as("g", true).await;
    assert_eq!(fetched, (ErrorCode::NotCoordinator.code(), None));
}

#[tokio::test]
async fn commits_are_refused_while_too_few_replicas_are_in_sync() {
    let mut node = Node::new(&[]);
    node.change(|image| {
        add_topic(image, OFFSETS_TOPIC, &[NODE, OTHER]);
        let min_isr: (Arc<str>, Arc<str>) = ("min.insync.replicas".into(), "2".into());
        let configs = std::iter::once(min_isr).collect();
        image
            .configs
            .insert(ConfigResource::topic(OFFSETS_TOPIC), configs);
    });
    node.elect(NODE, &[NODE]);
    node.fetch_when_loaded("g").await;
    assert_eq!(
        node.commit("g", 7).await,
        ErrorCode::CoordinatorNotAvailable.code()
    );
    assert_eq!(
        node.replicas.get(OFFSETS_TOPIC, 0).unwrap().offsets().log_end,
        0,
        "nothing was written"
    );
}

#[tokio::test]
async fn a_transaction_s_offsets_survive_a_new_leadership_as_they_were() {
    let mut node = Node::leading(&[], &[NODE]);
    node.fetch_when_loaded("g").await;
    for (producer_id, group) in [(7, "open"), (8, "committed"), (9, "aborted")] {
        assert_eq!(node.commit_in_transaction(producer_id, group, 5).await, 0);
    }
    assert_eq!(
        node.end_transaction(8, 1, TransactionResult::Commit).await,
        Ok(())
    );
    assert_eq!(node.end_transaction(9, 1, TransactionResult::Abort).await, Ok(()));
    assert_eq!(node.fetch("committed").await, (0, Some(5)));
    node.lead_anew(&[NODE]);
    assert_eq!(node.fetch_when_loaded("committed").await, (0, Some(5)));
    for group in ["open", "aborted"] {
        assert_eq!(node.fetch(group).await, (0, Some(-1)), "{group}");
    }
    assert_eq!(
        node.end_transaction(7, 1, TransactionResult::Commit).await,
        Ok(())
    );
    assert_eq!(node.fetch("open").await, (0, Some(5)));
    assert_eq!(node.fetch("aborted").await, (0, Some(-1)));
}

#[tokio::test]
async fn the_log_refuses_producers_and_markers_of_yesterday() {
    let node = Node::leading(&[], &[NODE]);
    node.fetch_when_loaded("g").await;
    assert_eq!(node.commit_in_transaction(7, "g", 5).await, 0);
    let late = Err(ErrorCode::InvalidProducerEpoch);
    let commit = TransactionResult::Commit;
    assert_eq!(
        node.end_transaction(7, 0, commit).await,
        late,
        "from version 2 on the end raises the epoch"
    );
    assert_eq!(node.end_transaction(7, 1, commit).await, Ok(()));
    assert_eq!(node.end_transaction(7, 1, commit).await, Ok(()), "once more");
    assert_eq!(
        node.commit_in_transaction(7, "g", 6).await,
        ErrorCode::InvalidProducerEpoch.code()
    );
    assert_eq!(node.fetch("g").await, (0, Some(5)));
    assert_eq!(
        node.groups.end_transaction(1, end_of(7, 2, commit)).await,
        Err(ErrorCode::NotCoordinator),
        "this partition is not led here"
    );
}

#[tokio::test]
async fn offsets_go_with_their_topic() {
    let mut node = Node::leading(&[], &[NODE]);
    node.change(|image| add_topic(image, "t", &[OTHER]));
    node.fetch_when_loaded("g").await;
    assert_eq!(node.commit("g", 7).await, 0);
    assert_eq!(node.fetch("g").await, (0, Some(7)));
    node.change(|image| delete_topic(image, "t"));
    while node.fetch("g").await != (0, Some(-1)) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_commit_for_a_topic_that_is_there_again_outlives_the_deletion_of_the_first() {
    let mut node = Node::leading(&[], &[NODE]);
    node.fetch_when_loaded("g").await;
    for offset in 0..20 {
        node.change(|image| add_topic(image, "t", &[OTHER]));
        assert_eq!(node.commit("g", offset).await, 0);
        node.change(|image| delete_topic(image, "t"));
        node.change(|image| add_topic(image, "t", &[OTHER]));
        assert_eq!(node.commit("g", 100 + offset).await, 0);
        assert_eq!(node.fetch("g").await, (0, Some(100 + offset)));
        node.change(|image| delete_topic(image, "t"));
    }
}

#[tokio::test]
async fn many_requests_share_batches_and_each_is_answered() {
    let node = Node::leading(&[], &[NODE]);
    node.fetch_when_loaded("g").await;
    let commits = (0..500).map(|group| {
        let node = &node;
        async move { node.commit(&format!("g{group}"), group).await }
    });
    assert!(
        futures::future::join_all(commits)
            .await
            .iter()
            .all(|code| *code == 0)
    );
    let listed = node.groups.list(&Caller::default(), &[], &[]).await.unwrap();
    assert_eq!(listed.len(), 500);
    for group in 0..500 {
        assert_eq!(node.fetch(&format!("g{group}")).await, (0, Some(group)));
    }
    let shards = node.groups.hosting.shared();
    assert!(
        !shards.iter().any(|shard| shard.was_looked_at()),
        "nobody has asked"
    );
    assert_eq!(node.snapshot().await.offsets.len(), 500, "as it is now");
    assert!(shards.iter().all(|shard| shard.was_looked_at()));
}

#[tokio::test]
async fn beyond_its_queue_a_shard_asks_for_patience() {
    let node = Node::leading(&[], &[NODE]);
    node.fetch_when_loaded("g").await;
    let commits = (0..SHARD_QUEUE_MAX as i64 + 10).map(|offset| node.commit("g", offset));
    let codes = futures::future::join_all(commits).await;
    let refused = codes
        .iter()
        .filter(|code| **code == ErrorCode::CoordinatorNotAvailable.code())
        .count();
    let accepted = codes.iter().filter(|code| **code == 0).count();
    assert_eq!((accepted, refused), (SHARD_QUEUE_MAX, 10));
}

/// A heartbeat that is not in the queue will not count, so its member has to know. Clients know this code from all of these.
#[tokio::test]
async fn beyond_the_queue_members_are_told_to_ask_again() {
    let node = Node::leading(&[], &[NODE]);
    node.fetch_when_loaded("g").await;
    let commits =
        futures::future::join_all((0..SHARD_QUEUE_MAX as i64).map(|offset| node.commit("g", offset)));
    let sync = GroupRequest::SyncGroup(SyncGroupRequest::default().with_group_id(group_id("g")));
    let (_, beat, sync) = tokio::join!(commits, node.heartbeat("g"), node.call(sync));
    let unavailable = ErrorCode::CoordinatorNotAvailable.code();
    assert_eq!(beat, unavailable);
    let GroupResponse::SyncGroup(sync) = sync else {
        panic!("a sync is answered by a sync")
    };
    assert_eq!(sync.error_code, unavailable);
}
