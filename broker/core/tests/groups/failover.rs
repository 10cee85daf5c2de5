//! Loading, resigning, and what another coordinator finds.

use bytes::Bytes;
use kafka_protocol::ResponseError as ErrorCode;
use kafka_protocol::messages::HeartbeatRequest;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use odradek_broker_core::coordination::{LogEntry, RequestToken};
use odradek_broker_core::groups::{GroupRequest, GroupResponse, GroupSettings, GroupShard, GroupState};

use crate::harness::*;

#[test]
fn members_continue_with_heartbeats_at_another_coordinator() {
    let mut t = Harness::new();
    let (leader, follower, generation) = t.stable_pair();
    t.commit_offset(commit_request(&leader, generation, "orders", 0, 7));
    let mut next = t.fail_over();
    assert_eq!((next.state(), next.members()), (Some(GroupState::Stable), 2));
    next.advance(SESSION_MS as u64 - 1);
    assert_eq!(
        (
            next.heartbeat(&leader, generation),
            next.heartbeat(&follower, generation)
        ),
        (0, 0)
    );
    assert_eq!(next.sync(&follower, generation, &[]).assignment, &b"two"[..]);
    assert_eq!(next.fetch("orders", 0), (7, 3, "note".to_owned(), 0));
    assert_eq!(
        next.commit_offset(commit_request(&follower, generation, "orders", 0, 8)),
        0
    );
    let newcomer = next.new_member_id();
    next.send_join(join_request(&newcomer));
    assert_eq!(
        next.heartbeat(&leader, generation),
        ErrorCode::RebalanceInProgress.code()
    );
}

#[test]
fn members_that_do_not_find_the_new_coordinator_are_removed() {
    let mut t = Harness::new();
    let (leader, _, generation) = t.stable_pair();
    let mut next = t.fail_over();
    next.advance(SESSION_MS as u64);
    assert_eq!(
        next.heartbeat(&leader, generation),
        ErrorCode::UnknownMemberId.code()
    );
}

#[test]
fn static_members_keep_their_names_at_another_coordinator() {
    let mut t = Harness::new();
    let member_id = t.join(static_join("a", "")).member_id;
    t.sync(&member_id, 1, &[(&member_id, b"all")]);
    let mut next = t.fail_over();
    let back = next.join(static_join("a", ""));
    assert_eq!(
        (back.error_code, back.generation_id, back.skip_assignment),
        (0, 1, true)
    );
    assert_eq!(next.sync(&back.member_id, 1, &[]).assignment, &b"all"[..]);
}

#[test]
fn an_uncommitted_generation_does_not_survive() {
    let mut t = Harness::new();
    let (leader, _, generation) = t.stable_pair();
    let newcomer = t.new_member_id();
    t.send_join(join_request(&newcomer));
    let mut next = t.fail_over();
    assert_eq!((next.state(), next.members()), (Some(GroupState::Stable), 2));
    assert_eq!(next.heartbeat(&leader, generation), 0);
    assert_eq!(
        next.join(join_request(&newcomer)).error_code,
        ErrorCode::UnknownMemberId.code()
    );
}

#[test]
fn a_loaded_group_that_is_too_large_rebalances() {
    let mut t = Harness::new();
    let (leader, follower, generation) = t.stable_pair();
    t.settings = GroupSettings {
        max_size: 1,
        ..settings()
    };
    let mut next = t.fail_over();
    assert_eq!(
        next.heartbeat(&leader, generation),
        ErrorCode::RebalanceInProgress.code()
    );
    let staying = next.send_join(join_request(&leader));
    assert_eq!(
        next.join(join_request(&follower)).error_code,
        ErrorCode::GroupMaxSizeReached.code()
    );
    next.advance(REBALANCE_MS as u64);
    assert_eq!(next.joined(staying).unwrap().members.len(), 1);
}

// Line 63.
#[test]
fn a_cold_coordinator_says_that_it_loads() {
    let mut shard = GroupShard::new(settings(), 1, slog::Logger::root(slog::Discard, slog::o!()));
    let now = odradek_common::time::Now::new(5, 5);
    let mut ask = |request: GroupRequest| {
        let effects = shard.handle(now, RequestToken(1), &caller(9), request);
        effects.replies.into_iter().next().expect("answered at once").1
    };
    let loading = ErrorCode::CoordinatorLoadInProgress.code();
    let GroupResponse::JoinGroup(answer) = ask(GroupRequest::JoinGroup(join_request("a"))) else {
        unreachable!()
    };
    assert_eq!((answer.error_code, answer.member_id), (loading, text("a")));
    let GroupResponse::SyncGroup(answer) = ask(GroupRequest::SyncGroup(sync_request("a", 1, &[]))) else {
        unreachable!()
    };
    let again = ErrorCode::RebalanceInProgress.code();
    assert_eq!(answer.error_code, again, "no client knows the other code here");
    let commit = GroupRequest::OffsetCommit(simple_commit("orders", 0, 1));
    let GroupResponse::OffsetCommit(answer) = ask(commit) else {
        unreachable!()
    };
    assert_eq!(answer.topics[0].partitions[0].error_code, loading);
    let group = OffsetFetchRequestGroup::default().with_group_id(group_id());
    let fetch = GroupRequest::OffsetFetch {
        group,
        require_stable: true,
    };
    let GroupResponse::OffsetFetch(answer) = ask(fetch) else {
        unreachable!()
    };
    assert_eq!(answer.error_code, loading);
    let list = GroupRequest::ListGroups {
        states: Vec::new(),
        types: Vec::new(),
    };
    assert_eq!(
        ask(list),
        GroupResponse::ListGroups(Err(ErrorCode::CoordinatorLoadInProgress))
    );
    let heartbeat = HeartbeatRequest::default().with_group_id(group_id());
    let GroupResponse::Heartbeat(answer) = ask(GroupRequest::Heartbeat(heartbeat)) else {
        unreachable!()
    };
    assert_eq!(answer.error_code, 0, "as Kafka answers");
}

#[test]
fn a_resigning_coordinator_answers_everybody() {
    let mut t = Harness::new();
    let (leader, _, generation) = t.stable_pair();
    let newcomer = t.new_member_id();
    let joining = t.send_join(join_request(&newcomer));
    t.commits_at_once = false;
    let committing = t.send_commit(commit_request(&leader, generation, "orders", 0, 1));
    let group = OffsetFetchRequestGroup::default().with_group_id(group_id());
    let fetching = t.send(
        8,
        GroupRequest::OffsetFetch {
            group,
            require_stable: true,
        },
    );
    t.resign();
    let not_coordinator = ErrorCode::NotCoordinator.code();
    assert_eq!(t.joined(joining).unwrap().error_code, not_coordinator);
    assert_eq!(t.committed(committing), Some(not_coordinator));
    assert!(
        matches!(t.reply(fetching), Some(GroupResponse::OffsetFetch(group)) if group.error_code == not_coordinator)
    );
    assert_eq!(t.heartbeat(&leader, generation), not_coordinator);
    assert_eq!(t.shard.next_deadline(), None);
    t.commit();
}

#[test]
fn a_sync_that_waits_is_answered_when_the_coordinator_resigns() {
    let mut t = Harness::new();
    let (leader, first) = t.enter();
    t.joined(first);
    let (follower, _) = t.enter();
    t.join(join_request(&leader));
    let waiting = t.send_sync(&follower, 2, &[]);
    t.resign();
    assert_eq!(
        t.synced(waiting).unwrap().error_code,
        ErrorCode::NotCoordinator.code()
    );
}

#[test]
fn records_of_others_are_left_out_and_counted() {
    let mut t = Harness::new();
    t.stable_pair();
    let mut log = t.log.clone();
    let entry = |key: &'static [u8], value: Option<&'static [u8]>| LogEntry::Record {
        producer_id: None,
        key: Bytes::from_static(key),
        value: value.map(Bytes::from_static),
    };
    log.insert(0, entry(&[0, 3, 0, 1, b'g'], None));
    log.insert(1, entry(&[0, 2, 0, 9, b'g'], None));
    log.push(entry(b"", Some(b"x")));
    let next = Harness::load(settings(), log, t.now, 9);
    assert_eq!(next.shard.skipped_records(), 3);
    assert_eq!(next.shard.replicated(), t.shard.replicated());
}

#[test]
fn the_log_always_says_what_the_shard_says() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("returns", 3, 1));
    let (leader, _, generation) = t.stable_pair();
    t.commit_offset(commit_request(&leader, generation, "orders", 0, 1));
    t.advance(SESSION_MS as u64);
    assert_eq!(t.state(), Some(GroupState::Empty));
    assert_eq!(t.fail_over().shard.replicated(), t.shard.replicated());
    let records = t.shard.replicated().to_records();
    let compacted = Harness::load(settings(), records, t.now, 9);
    assert_eq!(compacted.shard.replicated(), t.shard.replicated());
}

#[test]
fn metrics_can_be_asked_for() {
    let mut t = Harness::new();
    let (leader, _, generation) = t.stable_pair();
    t.commit_offset(commit_request(&leader, generation, "orders", 2, 11));
    let states: Vec<_> = t
        .shard
        .group_states()
        .map(|(id, state, members)| (id.to_string(), state, members))
        .collect();
    assert_eq!(states, [(GROUP.to_owned(), GroupState::Stable, 2)]);
    let offsets: Vec<_> = t
        .shard
        .committed_offsets()
        .map(|(group, topic, partition, value)| {
            (group.to_string(), topic.to_string(), partition, value.offset)
        })
        .collect();
    assert_eq!(offsets, [(GROUP.to_owned(), "orders".to_owned(), 2, 11)]);
}
