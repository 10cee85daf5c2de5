//! Classic groups: finding the coordinator, joining, syncing, heartbeats, leaving, describing.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, SyncGroupRequest,
    SyncGroupResponse,
};
use odradek_cluster_tests::asks::{OK, code, text};
use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::shared::single;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;

const LIMIT: Duration = Duration::from_secs(20);
/// The highest version without topic ids in commits.
const JOIN: i16 = 9;

/// A consumer's subscription to nothing: version 0, no topics, no user data.
const SUBSCRIPTION: &[u8] = b"\0\0\0\0\0\0\xff\xff\xff\xff";

/// The id of a group in the protocol.
pub fn group_id(name: &str) -> GroupId {
    GroupId(text(name))
}

/// A connection to the coordinator of a group, once it answers for the group.
pub async fn coordinator(group: &str) -> Connection {
    coordinator_at(single().await.address(1), group).await
}

/// As [`coordinator`], of the cluster of this node.
pub async fn coordinator_at(address: &str, group: &str) -> Connection {
    let connection = Connection::open(address).await;
    eventually("the group has a coordinator", LIMIT, async || {
        let found = connection
            .ask_at(
                4,
                FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)]),
            )
            .await;
        let found = &found.coordinators[0];
        holds(found.error_code == OK, format!("{found:?}"))?;
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(group))
            .with_member_id(text("nobody"));
        let error_code = connection.ask(request).await.error_code;
        // Whoever is still loading says anything but that it knows nobody.
        let ready = [ErrorCode::UnknownMemberId, ErrorCode::InvalidGroupId].map(code);
        holds(ready.contains(&error_code), error_code.to_string())
    })
    .await;
    connection
}

/// One member of a group, on a connection of its own.
pub struct Member {
    connection: Connection,
    group: String,
    /// Its id; empty before it has joined.
    pub id: String,
    /// Of its last join.
    pub generation: i32,
    instance: Option<String>,
    session_timeout_ms: i32,
    metadata: Bytes,
    protocols: Vec<&'static str>,
}

impl Member {
    /// A member that has not joined yet.
    pub async fn new(group: &str) -> Self {
        Self::at(single().await.address(1), group).await
    }

    /// A member whose coordinator is there.
    async fn at(address: &str, group: &str) -> Self {
        Self {
            connection: coordinator_at(address, group).await,
            group: group.to_owned(),
            id: String::new(),
            generation: -1,
            instance: None,
            session_timeout_ms: 10_000,
            metadata: Bytes::from_static(SUBSCRIPTION),
            protocols: vec!["range"],
        }
    }

    /// A static member (KIP-345).
    pub async fn of_instance(group: &str, instance: &str) -> Self {
        Self {
            instance: Some(instance.to_owned()),
            ..Self::new(group).await
        }
    }

    fn join_request(&self) -> JoinGroupRequest {
        let protocol = |name: &&str| {
            JoinGroupRequestProtocol::default()
                .with_name(text(name))
                .with_metadata(self.metadata.clone())
        };
        JoinGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_session_timeout_ms(self.session_timeout_ms)
            .with_rebalance_timeout_ms(10_000)
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance.as_deref().map(text))
            .with_protocol_type(text("consumer"))
            .with_protocols(self.protocols.iter().map(protocol).collect())
    }

    /// Joins, with the second round that a new member needs.
    pub async fn join(&mut self) -> JoinGroupResponse {
        let mut response = self.connection.ask_at(JOIN, self.join_request()).await;
        if response.error_code == code(ErrorCode::MemberIdRequired) {
            self.id = response.member_id.to_string();
            response = self.connection.ask_at(JOIN, self.join_request()).await;
        }
        if response.error_code == OK {
            self.id = response.member_id.to_string();
            self.generation = response.generation_id;
        }
        response
    }

    fn sync_request(&self, assignments: &[(&str, &str)]) -> SyncGroupRequest {
        let assignment = |(member, bytes): &(&str, &str)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member))
                .with_assignment(Bytes::copy_from_slice(bytes.as_bytes()))
        };
        SyncGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance.as_deref().map(text))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments.iter().map(assignment).collect())
    }

    /// Syncs; a leader brings assignments.
    pub async fn sync(&self, assignments: &[(&str, &str)]) -> SyncGroupResponse {
        self.connection.ask(self.sync_request(assignments)).await
    }

    /// Joins and syncs as the only member.
    pub async fn become_stable(&mut self) {
        let joined = self.join().await;
        assert_eq!(joined.error_code, OK);
        assert_eq!(self.sync(&[(&self.id, "all")]).await.error_code, OK);
    }

    /// The error code of a heartbeat.
    pub async fn heartbeat(&self) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(&self.group))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance.as_deref().map(text));
        self.connection.ask(request).await.error_code
    }

    /// The state of its group.
    pub async fn state(&self) -> String {
        let request = DescribeGroupsRequest::default().with_groups(vec![group_id(&self.group)]);
        self.connection.ask_at(5, request).await.groups[0]
            .group_state
            .to_string()
    }

    async fn leave(&self, members: &[(&str, Option<&str>)]) -> Vec<i16> {
        let identity = |(id, instance): &(&str, Option<&str>)| {
            MemberIdentity::default()
                .with_member_id(text(id))
                .with_group_instance_id(instance.map(text))
        };
        let request = LeaveGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_members(members.iter().map(identity).collect());
        let response = self.connection.ask(request).await;
        assert_eq!(response.error_code, OK);
        response.members.iter().map(|member| member.error_code).collect()
    }

    /// In the background, so that others can join too.
    fn spawn_join(mut self) -> tokio::task::JoinHandle<(Self, JoinGroupResponse)> {
        tokio::spawn(async move {
            let response = self.join().await;
            (self, response)
        })
    }
}

/// Two members in one generation that both have joined and none has synced.
async fn two_joined(group: &str) -> (Member, Member) {
    let mut first = Member::new(group).await;
    first.become_stable().await;
    let second = Member::new(group).await.spawn_join();
    eventually("a rebalance", LIMIT, async || {
        let error_code = first.heartbeat().await;
        holds(
            error_code == code(ErrorCode::RebalanceInProgress),
            error_code.to_string(),
        )
    })
    .await;
    assert_eq!(first.join().await.error_code, OK);
    let (second, joined) = second.await.expect("joining does not panic");
    assert_eq!(joined.error_code, OK);
    assert_eq!(first.generation, second.generation);
    (first, second)
}

/// 62
#[tokio::test]
async fn a_coordinator_is_found_by_one_key_or_by_many() {
    coordinator("groups-find").await;
    let connection = single().await.connect().await;
    for version in 0..=3 {
        let one = connection
            .ask_at(
                version,
                FindCoordinatorRequest::default().with_key(text("groups-find")),
            )
            .await;
        assert_eq!(one.error_code, OK);
        assert!(one.node_id.0 >= 0 && one.port > 0 && !one.host.is_empty());
        assert!(one.coordinators.is_empty());
    }
    let keys = ["groups-find", "groups-find-2"].map(text);
    let many = connection
        .ask_at(
            4,
            FindCoordinatorRequest::default().with_coordinator_keys(keys.to_vec()),
        )
        .await;
    let found: Vec<_> = many
        .coordinators
        .iter()
        .map(|it| (it.key.clone(), it.error_code))
        .collect();
    assert_eq!(found, keys.map(|key| (key, OK)));
    assert!(
        many.coordinators
            .iter()
            .all(|it| it.node_id.0 >= 0 && it.port > 0)
    );
}

/// 64
#[tokio::test]
async fn a_new_member_is_given_an_id_first() {
    let member = Member::new("groups-id").await;
    let first = member.connection.ask_at(JOIN, member.join_request()).await;
    assert_eq!(first.error_code, code(ErrorCode::MemberIdRequired));
    assert!(!first.member_id.is_empty());
    // Before version 4 and with an instance id there is no such round.
    let mut old = Member::new("groups-id-old").await;
    let response = old.connection.ask_at(3, old.join_request()).await;
    assert_eq!(response.error_code, OK);
    old.id = response.member_id.to_string();
    let mut fixed = Member::of_instance("groups-id-static", "one").await;
    let response = fixed.connection.ask_at(JOIN, fixed.join_request()).await;
    assert_eq!(response.error_code, OK);
    fixed.id = response.member_id.to_string();
}

/// 64
#[tokio::test]
async fn an_id_that_nobody_was_given_is_unknown() {
    let mut member = Member::new("groups-unknown").await;
    member.id = "made-up".to_owned();
    assert_eq!(member.join().await.error_code, code(ErrorCode::UnknownMemberId));
    assert_eq!(member.heartbeat().await, code(ErrorCode::UnknownMemberId));
    assert_eq!(
        member.sync(&[]).await.error_code,
        code(ErrorCode::UnknownMemberId)
    );
}

/// 65, 67, 72
#[tokio::test]
async fn the_leader_sees_the_members_and_each_gets_what_the_leader_gave_it() {
    let mut first = Member::new("groups-two").await;
    first.metadata = Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\x01\xfe");
    let alone = first.join().await;
    assert_eq!((alone.error_code, alone.generation_id), (OK, 1));
    assert_eq!(alone.leader, alone.member_id);
    assert_eq!(
        (alone.protocol_type, alone.protocol_name),
        (Some(text("consumer")), Some(text("range")))
    );
    assert_eq!(
        first.sync(&[(&first.id, "everything")]).await.assignment,
        "everything"
    );

    let second = Member::new("groups-two").await.spawn_join();
    eventually("a rebalance", LIMIT, async || {
        let error_code = first.heartbeat().await;
        holds(
            error_code == code(ErrorCode::RebalanceInProgress),
            error_code.to_string(),
        )
    })
    .await;
    assert_eq!(
        first.sync(&[]).await.error_code,
        code(ErrorCode::RebalanceInProgress)
    );
    let leader = first.join().await;
    let (second, follower) = second.await.unwrap();
    assert_eq!((leader.generation_id, follower.generation_id), (2, 2));
    assert_eq!(
        (&leader.leader, &follower.leader),
        (&leader.member_id, &leader.member_id)
    );
    let mut seen: Vec<_> = leader
        .members
        .iter()
        .map(|it| (it.member_id.to_string(), it.metadata.clone()))
        .collect();
    seen.sort();
    let mut expected = vec![
        (first.id.clone(), first.metadata.clone()),
        (second.id.clone(), Bytes::from_static(SUBSCRIPTION)),
    ];
    expected.sort();
    assert_eq!(seen, expected);
    assert!(follower.members.is_empty());
    // The follower waits for the leader; whom the leader leaves out gets nothing.
    let waiting = tokio::spawn(async move {
        let response = second.sync(&[]).await;
        (second, response)
    });
    assert_eq!(
        first.sync(&[(&first.id, "\u{1}bytes")]).await.assignment,
        "\u{1}bytes"
    );
    let (second, synced) = waiting.await.unwrap();
    assert_eq!((synced.error_code, synced.assignment), (OK, Bytes::new()));
    // Once stable, the assignment can be had again.
    assert_eq!(first.sync(&[]).await.assignment, "\u{1}bytes");
    assert_eq!(second.heartbeat().await, OK);
}

/// 72: Apache Kafka 4.3.1 leaves such a member without an answer.
#[tokio::test]
async fn metadata_that_is_no_subscription_does_not_matter() {
    if single().await.cluster().is_none() {
        return;
    }
    let mut member = Member::new("groups-malformed").await;
    member.metadata = Bytes::from_static(b"\x00\xffnot a subscription at all");
    let joined = member.join().await;
    assert_eq!(joined.members[0].metadata, member.metadata);
    assert_eq!(
        member.sync(&[(&member.id, "\u{7f}neither")]).await.assignment,
        "\u{7f}neither"
    );
}

/// 66
#[tokio::test]
async fn members_without_a_common_protocol_do_not_fit() {
    let mut first = Member::new("groups-protocols").await;
    first.protocols = vec!["range", "sticky"];
    first.become_stable().await;
    let mut second = Member::new("groups-protocols").await;
    second.protocols = vec!["other"];
    assert_eq!(
        second.join().await.error_code,
        code(ErrorCode::InconsistentGroupProtocol)
    );
    let mut none = Member::new("groups-protocols-none").await;
    none.protocols = Vec::new();
    assert_eq!(
        none.join().await.error_code,
        code(ErrorCode::InconsistentGroupProtocol)
    );
    let request = Member::new("groups-protocols")
        .await
        .join_request()
        .with_protocol_type(text("connect"));
    let response = first.connection.ask_at(3, request).await;
    assert_eq!(response.error_code, code(ErrorCode::InconsistentGroupProtocol));
}

/// 66
#[tokio::test]
async fn session_timeouts_have_bounds() {
    for session_timeout_ms in [10, 3_600_000] {
        let mut member = Member::new("groups-timeout").await;
        member.session_timeout_ms = session_timeout_ms;
        assert_eq!(
            member.join().await.error_code,
            code(ErrorCode::InvalidSessionTimeout)
        );
    }
    let mut nameless = Member::new("").await;
    assert_eq!(nameless.join().await.error_code, code(ErrorCode::InvalidGroupId));
}

/// 67
#[tokio::test]
async fn sync_checks_the_protocol_and_the_generation() {
    let mut member = Member::new("groups-sync").await;
    member.join().await;
    let wrong_type = member.sync_request(&[]).with_protocol_type(Some(text("connect")));
    let response = member.connection.ask(wrong_type).await;
    assert_eq!(response.error_code, code(ErrorCode::InconsistentGroupProtocol));
    let wrong_name = member.sync_request(&[]).with_protocol_name(Some(text("other")));
    let response = member.connection.ask(wrong_name).await;
    assert_eq!(response.error_code, code(ErrorCode::InconsistentGroupProtocol));
    let wrong_generation = member.sync_request(&[]).with_generation_id(member.generation + 1);
    let response = member.connection.ask(wrong_generation).await;
    assert_eq!(response.error_code, code(ErrorCode::IllegalGeneration));
    assert_eq!(member.sync(&[(&member.id, "x")]).await.error_code, OK);
}

/// 68
#[tokio::test]
async fn heartbeats_succeed_while_the_leader_decides() {
    let (first, second) = two_joined("groups-heartbeat").await;
    assert_eq!(first.state().await, "CompletingRebalance");
    assert_eq!((first.heartbeat().await, second.heartbeat().await), (OK, OK));
    let stale = Member {
        generation: first.generation - 1,
        ..first
    };
    assert_eq!(stale.heartbeat().await, code(ErrorCode::IllegalGeneration));
}

/// 68: a member that is not heard of any more is removed, and the others are told.
#[tokio::test]
async fn a_silent_member_is_removed() {
    let mut silent = Member::new("groups-silent").await;
    silent.session_timeout_ms = 300;
    silent.become_stable().await;
    let begin = Instant::now();
    eventually("the group is empty", LIMIT, async || {
        let state = silent.state().await;
        holds(state == "Empty", state)
    })
    .await;
    assert!(
        begin.elapsed() >= Duration::from_millis(250),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(silent.heartbeat().await, code(ErrorCode::UnknownMemberId));
}

/// 71
#[tokio::test]
async fn leaving_answers_for_each_member() {
    let (first, second) = two_joined("groups-leave").await;
    let codes = first.leave(&[(&second.id, None), ("nobody", None)]).await;
    assert_eq!(codes, [OK, code(ErrorCode::UnknownMemberId)]);
    assert_eq!(second.heartbeat().await, code(ErrorCode::UnknownMemberId));
    assert_eq!(first.heartbeat().await, code(ErrorCode::RebalanceInProgress));
    // Before version 3 one member leaves, and the error is on top.
    let request = LeaveGroupRequest::default()
        .with_group_id(group_id("groups-leave"))
        .with_member_id(text(&first.id));
    assert_eq!(first.connection.ask_at(2, request.clone()).await.error_code, OK);
    assert_eq!(
        first.connection.ask_at(2, request).await.error_code,
        code(ErrorCode::UnknownMemberId)
    );
    assert_eq!(first.state().await, "Empty");
}

/// 71
#[tokio::test]
async fn a_static_member_leaves_by_its_instance() {
    let mut member = Member::of_instance("groups-static-leave", "one").await;
    member.become_stable().await;
    assert_eq!(
        member.leave(&[("", Some("two"))]).await,
        [code(ErrorCode::UnknownMemberId)]
    );
    assert_eq!(
        member.leave(&[("someone else", Some("one"))]).await,
        [code(ErrorCode::FencedInstanceId)]
    );
    assert_eq!(member.leave(&[("", Some("one"))]).await, [OK]);
    assert_eq!(member.state().await, "Empty");
}

/// 65, 71
#[tokio::test]
async fn a_static_member_that_comes_back_takes_its_place_and_fences_the_other() {
    let mut before = Member::of_instance("groups-static", "one").await;
    before.become_stable().await;
    let mut after = Member::of_instance("groups-static", "one").await;
    let joined = after.join().await;
    assert_eq!(joined.error_code, OK);
    assert_eq!(
        joined.generation_id, before.generation,
        "a known instance causes no rebalance"
    );
    assert_ne!(after.id, before.id);
    assert!(
        joined.skip_assignment,
        "814: the leader came back and must not assign again"
    );
    assert_eq!(after.sync(&[]).await.assignment, "all");
    assert_eq!(before.heartbeat().await, code(ErrorCode::FencedInstanceId));
    assert_eq!(after.heartbeat().await, OK);
}

/// 73
#[tokio::test]
async fn a_group_is_described_byte_for_byte() {
    let mut member = Member::new("groups-describe").await;
    member.become_stable().await;
    let request = DescribeGroupsRequest::default()
        .with_groups(vec![group_id("groups-describe"), group_id("groups-never")])
        .with_include_authorized_operations(true);
    let groups = member.connection.ask_at(5, request.clone()).await.groups;
    let known = &groups[0];
    assert_eq!((known.error_code, known.group_state.as_str()), (OK, "Stable"));
    assert_eq!(
        (known.protocol_type.as_str(), known.protocol_data.as_str()),
        ("consumer", "range")
    );
    assert_eq!(known.authorized_operations, 0b1101_0100_1000);
    let described = &known.members[0];
    assert_eq!(described.member_id, text(&member.id));
    assert_eq!(described.client_id, text("cluster-tests"));
    assert!(
        described.client_host.contains("127.0.0.1"),
        "{}",
        described.client_host
    );
    assert_eq!(
        (&described.member_metadata[..], &described.member_assignment[..]),
        (SUBSCRIPTION, &b"all"[..])
    );
    assert_eq!(
        (groups[1].error_code, groups[1].group_state.as_str()),
        (OK, "Dead")
    );
    let since_6 = member.connection.ask_at(6, request).await.groups;
    assert_eq!(since_6[1].error_code, code(ErrorCode::GroupIdNotFound));
}

/// 73
#[tokio::test]
async fn groups_are_listed_by_state_and_type() {
    let mut member = Member::new("groups-list").await;
    member.become_stable().await;
    let listed = async |states: &[&str], types: &[&str]| {
        let request = ListGroupsRequest::default()
            .with_states_filter(states.iter().map(|state| text(state)).collect())
            .with_types_filter(types.iter().map(|kind| text(kind)).collect());
        let response = member.connection.ask_at(5, request).await;
        assert_eq!(response.error_code, OK);
        response
            .groups
            .into_iter()
            .find(|group| group.group_id == group_id("groups-list"))
    };
    let found = listed(&[], &[]).await.expect("the group is listed");
    assert_eq!(
        (found.protocol_type.as_str(), found.group_state.as_str()),
        ("consumer", "Stable")
    );
    assert_eq!(found.group_type, text("classic"));
    for (states, types, there) in [
        (&["STABLE"][..], &[][..], true),
        (&["stable", "Empty"], &["CLASSIC"], true),
        (&["Empty"], &[], false),
        (&[], &["consumer"], false),
    ] {
        assert_eq!(
            listed(states, types).await.is_some(),
            there,
            "{states:?} {types:?}"
        );
    }
}

/// Groups go when they are empty, and not before.
#[tokio::test]
async fn only_empty_groups_can_be_deleted() {
    let mut member = Member::new("groups-delete").await;
    member.become_stable().await;
    let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id("groups-delete")]);
    let busy = member.connection.ask(request.clone()).await;
    assert_eq!(busy.results[0].error_code, code(ErrorCode::NonEmptyGroup));
    assert_eq!(member.leave(&[(&member.id, None)]).await, [OK]);
    assert_eq!(
        member.connection.ask(request.clone()).await.results[0].error_code,
        OK
    );
    let gone = member.connection.ask(request).await;
    assert_eq!(gone.results[0].error_code, code(ErrorCode::GroupIdNotFound));
    assert_eq!(member.state().await, "Dead");
}

/// 62: who asks first is told to come back, or waits until the internal topic is there.
#[tokio::test]
async fn the_first_to_look_for_a_coordinator_is_not_sent_astray() {
    let cluster = TestCluster::start(1, &[]).await;
    let connection = cluster.connect(1).await;
    let unavailable = code(ErrorCode::CoordinatorNotAvailable);
    let old = connection
        .ask_at(3, FindCoordinatorRequest::default().with_key(text("g")))
        .await;
    let found = (old.error_code, old.node_id.0, old.host.to_string(), old.port);
    let node = cluster.node(1);
    let here = (OK, 1, "127.0.0.1".to_owned(), i32::from(node.port));
    assert!(
        found == here || found == (unavailable, -1, String::new(), -1),
        "{found:?}"
    );
    let new = connection
        .ask_at(
            4,
            FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]),
        )
        .await;
    let new = &new.coordinators[0];
    let found = (new.error_code, new.node_id.0, new.host.to_string(), new.port);
    assert!(
        found == here || found == (unavailable, -1, String::new(), -1),
        "{found:?}"
    );
}

/// 65, 66: the first join waits for others, and a group has a greatest size.
#[tokio::test]
async fn a_new_group_waits_for_members_and_takes_no_more_than_allowed() {
    let overrides = [
        ("group.initial.rebalance.delay.ms", "700"),
        ("group.max.size", "2"),
    ];
    let cluster = TestCluster::start(1, &overrides).await;
    let address = cluster.node(1).address();
    let mut first = Member::at(&address, "initial").await;
    let second = Member::at(&address, "initial").await;
    let begin = Instant::now();
    let (first_joined, second) = tokio::join!(first.join(), second.spawn_join());
    let (second, second_joined) = second.expect("joining does not panic");
    assert!(
        begin.elapsed() >= Duration::from_millis(690),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!((first_joined.error_code, second_joined.error_code), (OK, OK));
    assert_eq!((first.generation, second.generation), (1, 1));
    assert_eq!(first_joined.members.len() + second_joined.members.len(), 2);
    let mut third = Member::at(&address, "initial").await;
    assert_eq!(
        third.join().await.error_code,
        code(ErrorCode::GroupMaxSizeReached)
    );
}
