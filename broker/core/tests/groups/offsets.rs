//! OffsetCommit, OffsetFetch, OffsetDelete and expiry.

use bytes::Bytes;
use kafka_protocol::ResponseError as ErrorCode;
use kafka_protocol::messages::OffsetDeleteRequest;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use odradek_broker_core::groups::{GroupRequest, GroupResponse, GroupSettings, GroupState};
use odradek_common::ids::TopicPartition;

use crate::harness::*;

const NOTHING: (i64, i32, String, i16) = (-1, -1, String::new(), 0);

fn fetch_all(
    t: &mut Harness,
    require_stable: bool,
) -> kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup {
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(group_id())
        .with_topics(None);
    match t.ask(
        8,
        GroupRequest::OffsetFetch {
            group,
            require_stable,
        },
    ) {
        GroupResponse::OffsetFetch(group) => group,
        other => panic!("not a fetch: {other:?}"),
    }
}

fn delete_request(topic: &str, partition: i32) -> OffsetDeleteRequest {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(partition);
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    OffsetDeleteRequest::default()
        .with_group_id(group_id())
        .with_topics(vec![topic])
}

/// The request's error and that of its partition.
fn delete(t: &mut Harness, topic: &str, partition: i32) -> (i16, Option<i16>) {
    match t.ask(0, GroupRequest::OffsetDelete(delete_request(topic, partition))) {
        GroupResponse::OffsetDelete(answer) => (
            answer.error_code,
            answer.topics.first().map(|topic| topic.partitions[0].error_code),
        ),
        other => panic!("not a delete: {other:?}"),
    }
}

// Line 69: metadata and epoch round-trip.
#[test]
fn what_is_committed_is_fetched() {
    let mut t = Harness::new();
    let (leader, _, generation) = t.stable_pair();
    assert_eq!(
        t.commit_offset(commit_request(&leader, generation, "orders", 4, 17)),
        0
    );
    assert_eq!(t.fetch("orders", 4), (17, 3, "note".to_owned(), 0));
}

// Line 70.
#[test]
fn what_is_not_committed_is_minus_one_and_no_error() {
    let mut t = Harness::new();
    assert_eq!(t.fetch("orders", 0), NOTHING, "an unknown group is no error");
    t.commit_offset(simple_commit("orders", 1, 5));
    assert_eq!(t.fetch("orders", 0), NOTHING);
    assert_eq!(t.fetch("returns", 1), NOTHING);
}

#[test]
fn all_offsets_of_a_group_are_fetched_with_no_topics() {
    let mut t = Harness::new();
    assert_eq!(fetch_all(&mut t, false).topics.len(), 0);
    for (topic, partition) in [("orders", 1), ("orders", 0), ("returns", 0)] {
        t.commit_offset(simple_commit(topic, partition, i64::from(partition)));
    }
    let fetched = fetch_all(&mut t, false);
    let names: Vec<_> = fetched
        .topics
        .iter()
        .map(|topic| (topic.name.to_string(), topic.partitions.len()))
        .collect();
    assert_eq!(names, [("orders".to_owned(), 2), ("returns".to_owned(), 1)]);
}

#[test]
fn an_offset_is_visible_once_the_log_has_it() {
    let mut t = Harness::new();
    t.commits_at_once = false;
    let first = t.send_commit(simple_commit("orders", 0, 1));
    let second = t.send_commit(simple_commit("orders", 0, 2));
    assert_eq!((t.committed(first), t.fetch("orders", 0)), (None, NOTHING));
    assert_eq!(t.under_way.len(), 2);
    t.commit();
    assert_eq!((t.committed(first), t.committed(second)), (Some(0), Some(0)));
    assert_eq!(t.fetch("orders", 0).0, 2, "in the order of the requests");
}

#[test]
fn reports_out_of_order_change_nothing() {
    let mut t = Harness::new();
    t.commits_at_once = false;
    let first = t.send_commit(simple_commit("orders", 0, 1));
    let second = t.send_commit(simple_commit("orders", 0, 2));
    let (one, two) = (t.under_way[0].id, t.under_way[1].id);
    assert!(
        t.shard.on_appended(t.now, two, Ok(())).replies.is_empty(),
        "the first comes first"
    );
    let replies = t.shard.on_appended(t.now, one, Ok(())).replies;
    assert_eq!(
        replies.iter().map(|(token, _)| *token).collect::<Vec<_>>(),
        [first, second]
    );
    assert_eq!(t.fetch("orders", 0).0, 2);
}

#[test]
fn a_stable_fetch_waits_for_the_commits_before_it() {
    let mut t = Harness::new();
    t.commits_at_once = false;
    t.send_commit(simple_commit("orders", 0, 1));
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(group_id())
        .with_topics(None);
    let fetching = t.send(
        8,
        GroupRequest::OffsetFetch {
            group,
            require_stable: true,
        },
    );
    assert_eq!(t.reply(fetching), None);
    t.commit();
    let Some(GroupResponse::OffsetFetch(fetched)) = t.reply(fetching) else {
        panic!("not answered")
    };
    assert_eq!(fetched.topics[0].partitions[0].committed_offset, 1);
    assert_eq!(
        fetch_all(&mut t, true).topics.len(),
        1,
        "with nothing under way it is answered at once"
    );
}

#[test]
fn a_commit_that_the_log_refuses_did_not_happen() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("orders", 0, 1));
    t.commits_at_once = false;
    let cases = [
        (ErrorCode::NotEnoughReplicas, ErrorCode::CoordinatorNotAvailable),
        (ErrorCode::RequestTimedOut, ErrorCode::CoordinatorNotAvailable),
        (ErrorCode::NotLeaderOrFollower, ErrorCode::NotCoordinator),
        (ErrorCode::MessageTooLarge, ErrorCode::UnknownServerError),
    ];
    for (cause, answer) in cases {
        let token = t.send_commit(simple_commit("orders", 0, 2));
        t.fail(cause);
        assert_eq!(t.committed(token), Some(answer.code()));
        assert_eq!(t.fetch("orders", 0).0, 1);
    }
}

// Line 69: who may commit when.
#[test]
fn commits_without_a_generation_are_for_empty_groups() {
    let mut t = Harness::new();
    assert_eq!(t.commit_offset(simple_commit("orders", 0, 1)), 0);
    assert_eq!(t.state(), Some(GroupState::Empty));
    let (leader, _, generation) = t.stable_pair();
    assert_eq!(
        t.commit_offset(simple_commit("orders", 0, 2)),
        ErrorCode::UnknownMemberId.code()
    );
    let wrong = commit_request(&leader, generation - 1, "orders", 0, 2);
    assert_eq!(t.commit_offset(wrong), ErrorCode::IllegalGeneration.code());
    let stranger = commit_request("nobody", generation, "orders", 0, 2);
    assert_eq!(t.commit_offset(stranger), ErrorCode::UnknownMemberId.code());
    assert_eq!(t.fetch("orders", 0).0, 1);
}

#[test]
fn a_commit_with_a_generation_to_no_group_says_so() {
    let mut t = Harness::new();
    for (version, code) in [(9, ErrorCode::GroupIdNotFound), (8, ErrorCode::IllegalGeneration)] {
        let token = t.send(
            version,
            GroupRequest::OffsetCommit(commit_request("a", 1, "orders", 0, 1)),
        );
        assert_eq!(t.committed(token), Some(code.code()));
    }
}

#[test]
fn commits_during_the_phases_of_a_rebalance() {
    let mut t = Harness::new();
    let (leader, follower, generation) = t.stable_pair();
    let newcomer = t.new_member_id();
    t.send_join(join_request(&newcomer));
    assert_eq!(t.state(), Some(GroupState::PreparingRebalance));
    assert_eq!(
        t.commit_offset(commit_request(&leader, generation, "orders", 0, 9)),
        0,
        "it may still hand over"
    );
    t.send_join(join_request(&leader));
    t.send_join(join_request(&follower));
    assert_eq!(t.state(), Some(GroupState::CompletingRebalance));
    let early = commit_request(&leader, generation + 1, "orders", 0, 10);
    assert_eq!(t.commit_offset(early), ErrorCode::RebalanceInProgress.code());
}

#[test]
fn a_commit_is_a_sign_of_life() {
    let mut t = Harness::new();
    let (leader, follower, generation) = t.stable_pair();
    for offset in 0..3 {
        t.advance(SESSION_MS as u64 - 1);
        assert_eq!(
            t.commit_offset(commit_request(&leader, generation, "orders", 0, offset)),
            0
        );
    }
    assert_eq!(t.members(), 1, "the follower is gone, the leader is not");
    assert_eq!(
        t.heartbeat(&follower, generation),
        ErrorCode::UnknownMemberId.code()
    );
}

// Line 69: OFFSET_METADATA_TOO_LARGE, for the partition alone.
#[test]
fn the_note_beside_an_offset_has_a_limit() {
    let mut t = Harness::with(GroupSettings {
        offset_metadata_max_bytes: 4,
        ..settings()
    });
    let mut request = simple_commit("orders", 0, 1);
    let mut long = request.topics[0].partitions[0].clone();
    request.topics[0].partitions[0].committed_metadata = Some(text("vier"));
    long.partition_index = 1;
    long.committed_metadata = Some(text("fünf!"));
    request.topics[0].partitions.push(long);
    let GroupResponse::OffsetCommit(answer) = t.ask(9, GroupRequest::OffsetCommit(request)) else {
        unreachable!()
    };
    let codes: Vec<_> = answer.topics[0]
        .partitions
        .iter()
        .map(|partition| partition.error_code)
        .collect();
    assert_eq!(codes, [0, ErrorCode::OffsetMetadataTooLarge.code()]);
    assert_eq!(
        (t.fetch("orders", 0).2, t.fetch("orders", 1).0),
        ("vier".to_owned(), -1)
    );
}

#[test]
fn offsets_of_unsubscribed_topics_can_be_deleted() {
    let mut t = Harness::new();
    assert_eq!(
        delete(&mut t, "orders", 0),
        (ErrorCode::GroupIdNotFound.code(), None)
    );
    t.commit_offset(simple_commit("orders", 0, 1));
    t.commit_offset(simple_commit("returns", 0, 1));
    t.stable_pair();
    assert_eq!(
        delete(&mut t, "orders", 0),
        (0, Some(ErrorCode::GroupSubscribedToTopic.code()))
    );
    assert_eq!(delete(&mut t, "returns", 0), (0, Some(0)));
    assert_eq!(
        delete(&mut t, "returns", 1),
        (0, Some(0)),
        "what is not there can be deleted too"
    );
    assert_eq!((t.fetch("orders", 0).0, t.fetch("returns", 0).0), (1, -1));
}

#[test]
fn groups_of_other_protocols_must_be_empty_for_a_deletion() {
    let mut t = Harness::new();
    let connect = |id: &str| {
        join_request(id)
            .with_protocol_type(text("connect"))
            .with_protocols(vec![protocol("eager", Bytes::new())])
    };
    let member_id = t.join(connect("")).member_id;
    t.join(connect(&member_id));
    assert_eq!(
        delete(&mut t, "orders", 0),
        (ErrorCode::NonEmptyGroup.code(), None)
    );
}

#[test]
fn a_deletion_follows_the_commits_before_it() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("orders", 1, 1));
    t.commits_at_once = false;
    t.send_commit(simple_commit("orders", 0, 1));
    let deleting = t.send(0, GroupRequest::OffsetDelete(delete_request("orders", 0)));
    assert_eq!(t.reply(deleting), None);
    t.commit();
    assert!(t.reply(deleting).is_some());
    assert_eq!(t.fetch("orders", 0).0, -1);
}

#[test]
fn offsets_of_deleted_partitions_go() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("orders", 0, 1));
    t.commit_offset(simple_commit("orders", 1, 1));
    let effects = t.shard.on_partitions_deleted(&[TopicPartition::new("orders", 0)]);
    let id = effects.appends[0].id;
    t.shard.on_appended(t.now, id, Ok(()));
    assert_eq!((t.fetch("orders", 0).0, t.fetch("orders", 1).0), (-1, 1));
}

const RETENTION_MS: u64 = 7 * 24 * 60 * 60_000;
const CHECK_MS: u64 = 600_000;

#[test]
fn offsets_of_a_client_without_membership_expire_after_their_commit() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("orders", 0, 1));
    t.advance(RETENTION_MS - CHECK_MS);
    t.commit_offset(simple_commit("orders", 1, 1));
    assert_eq!(t.fetch("orders", 0).0, 1);
    t.advance(CHECK_MS);
    assert_eq!((t.fetch("orders", 0).0, t.fetch("orders", 1).0), (-1, 1));
    t.advance(RETENTION_MS);
    assert_eq!(
        (t.fetch("orders", 1).0, t.state()),
        (-1, None),
        "a group that holds nothing goes too"
    );
    assert_eq!(t.fail_over().shard.replicated(), &Default::default());
}

// KIP-211: while the group lives its offsets stay, from the moment it is empty they age together.
#[test]
fn offsets_of_a_group_expire_after_its_last_member() {
    let mut t = Harness::new();
    let (leader, first) = t.enter();
    t.joined(first);
    t.sync(&leader, 1, &[]);
    assert_eq!(t.commit_offset(commit_request(&leader, 1, "orders", 0, 1)), 0);
    for _ in 0..RETENTION_MS / 9_000 + 200 {
        t.advance(9_000);
        assert_eq!(t.heartbeat(&leader, 1), 0);
    }
    assert_eq!(t.fetch("orders", 0).0, 1, "it has a reader");
    t.leave(vec![MemberIdentity::default().with_member_id(leader)]);
    t.advance(RETENTION_MS - 1);
    assert_eq!(t.fetch("orders", 0).0, 1);
    t.advance(CHECK_MS);
    assert_eq!((t.fetch("orders", 0).0, t.state()), (-1, None));
}

#[test]
fn a_live_groups_offsets_of_topics_nobody_reads_expire() {
    let mut t = Harness::with(GroupSettings {
        offsets_retention_ms: 1_200_000,
        ..settings()
    });
    t.commit_offset(simple_commit("returns", 0, 1));
    let (leader, first) = t.enter();
    t.joined(first);
    t.sync(&leader, 1, &[]);
    assert_eq!(t.commit_offset(commit_request(&leader, 1, "orders", 0, 1)), 0);
    for _ in 0..250 {
        t.advance(9_000);
        assert_eq!(t.heartbeat(&leader, 1), 0);
    }
    assert_eq!((t.fetch("orders", 0).0, t.fetch("returns", 0).0), (1, -1));
}

#[test]
fn a_commit_can_bring_its_own_retention() {
    let mut t = Harness::new();
    let request = simple_commit("orders", 0, 1).with_retention_time_ms(CHECK_MS as i64);
    let token = t.send(4, GroupRequest::OffsetCommit(request));
    assert_eq!(t.committed(token), Some(0));
    t.advance(CHECK_MS - 1);
    assert_eq!(t.fetch("orders", 0).0, 1);
    t.advance(CHECK_MS + 1);
    assert_eq!(t.fetch("orders", 0).0, -1);
}

#[test]
fn expiry_does_not_overtake_a_commit_under_way() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("orders", 0, 1));
    t.advance(RETENTION_MS - 1);
    t.commits_at_once = false;
    t.send_commit(simple_commit("orders", 0, 2));
    t.advance(1);
    assert_eq!(t.under_way.len(), 1, "no tombstone behind the new commit");
    t.commit();
    t.commits_at_once = true;
    t.advance(CHECK_MS);
    assert_eq!(t.fetch("orders", 0).0, 2);
}
