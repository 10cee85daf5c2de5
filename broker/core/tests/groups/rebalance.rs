//! JoinGroup, SyncGroup and Heartbeat through whole rebalances.

use bytes::Bytes;
use kafka_protocol::ResponseError as ErrorCode;
use odradek_broker_core::groups::{GroupRequest, GroupResponse, GroupSettings, GroupState};

use crate::harness::*;

// Line 64: MEMBER_ID_REQUIRED and a generated id, pending until the session timeout.
#[test]
fn a_dynamic_member_is_told_its_id_first() {
    let mut t = Harness::new();
    let first = t.join(join_request(""));
    assert_eq!(first.error_code, ErrorCode::MemberIdRequired.code());
    assert!(first.member_id.starts_with("client-") && first.member_id.len() == "client-".len() + 36);
    assert_eq!(t.state(), Some(GroupState::Empty));
    let joined = t.join(join_request(&first.member_id));
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!(joined.member_id, first.member_id);
}

#[test]
fn an_id_that_is_not_used_within_the_session_timeout_is_forgotten() {
    let mut t = Harness::new();
    let member_id = t.new_member_id();
    t.advance(SESSION_MS as u64 - 1);
    let other = t.new_member_id();
    t.advance(1);
    let late = t.join(join_request(&member_id));
    assert_eq!(late.error_code, ErrorCode::UnknownMemberId.code());
    let in_time = t.join(join_request(&other));
    assert_eq!(in_time.error_code, 0);
}

#[test]
fn before_version_4_a_member_joins_without_an_id() {
    let mut t = Harness::new();
    let token = t.send(3, GroupRequest::JoinGroup(join_request("")));
    let joined = t.joined(token).unwrap();
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!(joined.leader, joined.member_id);
}

#[test]
fn an_unknown_group_takes_no_known_member() {
    let mut t = Harness::new();
    assert_eq!(
        t.join(join_request("somebody")).error_code,
        ErrorCode::UnknownMemberId.code()
    );
    assert_eq!(t.state(), None);
    assert!(t.log.is_empty());
}

// Line 65: the first rebalance waits for others, and longer while they keep coming.
#[test]
fn the_first_rebalance_waits_for_members() {
    let mut t = Harness::with(GroupSettings::default());
    let (leader, first) = t.enter();
    t.advance(2_000);
    let (_, second) = t.enter();
    t.advance(2_999);
    assert_eq!(t.joined(first), None, "a newcomer prolongs the delay");
    t.advance(1_001);
    let led = t.joined(first).expect("the delay is over");
    assert_eq!(
        (led.generation_id, led.leader, led.members.len()),
        (1, leader.clone(), 2)
    );
    let followed = t.joined(second).expect("the delay is over");
    assert_eq!(
        (followed.generation_id, followed.leader, followed.members.len()),
        (1, leader, 0)
    );
}

#[test]
fn the_first_rebalance_waits_no_longer_than_the_rebalance_timeout() {
    let mut t = Harness::with(GroupSettings::default());
    let (_, first) = t.enter();
    for _ in 0..40 {
        t.advance(1_000);
        t.enter();
    }
    let joined = t.joined(first).expect("the rebalance timeout is over");
    assert_eq!(joined.generation_id, 1);
}

#[test]
fn two_members_join_sync_and_leave() {
    let mut t = Harness::new();
    let (leader, follower, generation) = t.stable_pair();
    assert_eq!(generation, 2);
    assert_eq!(t.heartbeat(&leader, generation), 0);
    assert_eq!(t.heartbeat(&follower, generation), 0);
    let identity = |id: &str| {
        kafka_protocol::messages::leave_group_request::MemberIdentity::default().with_member_id(text(id))
    };
    assert_eq!(t.leave(vec![identity(&follower)]).members[0].error_code, 0);
    assert_eq!(
        t.heartbeat(&leader, generation),
        ErrorCode::RebalanceInProgress.code()
    );
    let rejoined = t.join(join_request(&leader));
    assert_eq!((rejoined.generation_id, rejoined.members.len()), (3, 1));
    assert_eq!(t.leave(vec![identity(&leader)]).members[0].error_code, 0);
    assert_eq!((t.state(), t.members()), (Some(GroupState::Empty), 0));
}

// Line 65: only the leader gets the members; type and name are there.
#[test]
fn the_leader_alone_hears_who_is_there() {
    let mut t = Harness::new();
    let (leader, first) = t.enter();
    t.joined(first);
    let (follower, second) = t.enter();
    let led = t.join(join_request(&leader));
    let ids: Vec<_> = led
        .members
        .iter()
        .map(|member| member.member_id.clone())
        .collect();
    assert!(ids.contains(&leader) && ids.contains(&follower) && ids.len() == 2);
    assert_eq!(led.members[0].metadata, subscription(&["orders"]));
    assert_eq!(
        (led.protocol_type, led.protocol_name),
        (Some(text("consumer")), Some(text("range")))
    );
    let followed = t.joined(second).unwrap();
    assert_eq!(
        (followed.leader, followed.member_id, followed.members),
        (leader, follower, Vec::new())
    );
    assert_eq!(followed.protocol_type, Some(text("consumer")));
    assert!(!followed.skip_assignment);
}

// Line 66.
#[test]
fn members_must_share_a_protocol() {
    let mut t = Harness::new();
    let no_protocols = join_request("").with_protocols(Vec::new());
    assert_eq!(
        t.join(no_protocols).error_code,
        ErrorCode::InconsistentGroupProtocol.code()
    );
    assert_eq!(
        t.join(join_request("").with_protocol_type(text(""))).error_code,
        23
    );
    let (_, first) = t.enter();
    t.joined(first);
    let other = join_request("").with_protocols(vec![protocol("sticky", Bytes::new())]);
    assert_eq!(
        t.join(other).error_code,
        ErrorCode::InconsistentGroupProtocol.code()
    );
    assert_eq!(
        t.join(join_request("").with_protocol_type(text("connect")))
            .error_code,
        23
    );
}

#[test]
fn the_protocol_that_all_support_and_most_prefer_is_chosen() {
    let mut t = Harness::with(GroupSettings::default());
    let with = |member_id: &str, names: [&str; 2]| {
        let protocols = names
            .iter()
            .map(|name| protocol(name, Bytes::from(name.to_string())))
            .collect();
        join_request(member_id).with_protocols(protocols)
    };
    let ids: Vec<_> = (0..3).map(|_| t.new_member_id()).collect();
    let votes = [["range", "sticky"], ["sticky", "range"], ["sticky", "range"]];
    let first = t.send_join(with(&ids[0], votes[0]));
    let tokens: Vec<_> = (1..3)
        .map(|index| t.send_join(with(&ids[index], votes[index])))
        .collect();
    t.advance(6_000);
    let joined = t.joined(first).expect("the initial delay is over");
    assert_eq!(joined.protocol_name, Some(text("sticky")));
    assert!(
        joined
            .members
            .iter()
            .all(|member| member.metadata == b"sticky"[..])
    );
    for token in tokens {
        assert_eq!(t.joined(token).unwrap().protocol_name, Some(text("sticky")));
    }
}

#[test]
fn session_timeouts_have_bounds() {
    let mut t = Harness::new();
    for timeout_ms in [5_999, 1_800_001, -1] {
        let answer = t.join(join_request("").with_session_timeout_ms(timeout_ms));
        assert_eq!(answer.error_code, ErrorCode::InvalidSessionTimeout.code());
    }
    assert_eq!(
        t.join(join_request("").with_session_timeout_ms(6_000)).error_code,
        79
    );
}

#[test]
fn a_group_has_a_largest_size() {
    let mut t = Harness::with(GroupSettings {
        max_size: 2,
        ..settings()
    });
    let (leader, _, generation) = t.stable_pair();
    let third = t.join(join_request(""));
    assert_eq!(third.error_code, ErrorCode::GroupMaxSizeReached.code());
    assert_eq!(t.heartbeat(&leader, generation), 0);
}

#[test]
fn ids_that_nobody_uses_have_a_limit_too() {
    let mut t = Harness::with(GroupSettings {
        pending_members_max: 2,
        ..settings()
    });
    t.new_member_id();
    t.new_member_id();
    assert_eq!(
        t.join(join_request("")).error_code,
        ErrorCode::GroupMaxSizeReached.code()
    );
}

#[test]
fn what_a_member_says_about_itself_has_a_limit() {
    let mut t = Harness::with(GroupSettings {
        member_metadata_max_bytes: 100,
        ..settings()
    });
    let large = join_request("").with_protocols(vec![protocol("range", Bytes::from(vec![0; 96]))]);
    assert_eq!(t.join(large).error_code, ErrorCode::InvalidRequest.code());
    let fits = join_request("").with_protocols(vec![protocol("range", Bytes::from(vec![0; 95]))]);
    assert_eq!(t.join(fits).error_code, ErrorCode::MemberIdRequired.code());
}

#[test]
fn groups_have_a_limit() {
    let mut t = Harness::with(GroupSettings {
        groups_max: 1,
        ..settings()
    });
    t.new_member_id();
    let other = join_request("").with_group_id(kafka_protocol::messages::GroupId(text("another")));
    assert_eq!(t.join(other).error_code, ErrorCode::PolicyViolation.code());
}

// Line 67.
#[test]
fn sync_waits_for_the_leader_and_for_the_log() {
    let mut t = Harness::new();
    let (leader, first) = t.enter();
    t.joined(first);
    let (follower, second) = t.enter();
    let during = t.sync(&leader, 1, &[]);
    assert_eq!(during.error_code, ErrorCode::RebalanceInProgress.code());
    t.join(join_request(&leader));
    t.joined(second);
    let waiting = t.send_sync(&follower, 2, &[]);
    assert_eq!(t.synced(waiting), None);
    t.commits_at_once = false;
    let leading = t.send_sync(&leader, 2, &[(&leader, b"\0\xff"), (&follower, b"two")]);
    assert_eq!(
        (t.synced(leading), t.synced(waiting)),
        (None, None),
        "the log has not committed it"
    );
    assert_eq!(t.state(), Some(GroupState::CompletingRebalance));
    t.commit();
    let led = t.synced(leading).unwrap();
    assert_eq!(
        (led.error_code, led.assignment),
        (0, Bytes::from_static(b"\0\xff"))
    );
    assert_eq!(
        (led.protocol_type, led.protocol_name),
        (Some(text("consumer")), Some(text("range")))
    );
    assert_eq!(t.synced(waiting).unwrap().assignment, &b"two"[..]);
    assert_eq!(
        t.sync(&follower, 2, &[]).assignment,
        &b"two"[..],
        "a stable group repeats itself"
    );
}

#[test]
fn members_that_the_leader_left_out_get_no_bytes() {
    let mut t = Harness::new();
    let (leader, first) = t.enter();
    t.joined(first);
    let (follower, _) = t.enter();
    t.join(join_request(&leader));
    let waiting = t.send_sync(&follower, 2, &[]);
    let led = t.sync(&leader, 2, &[(&leader, b"all"), ("a stranger", b"nothing")]);
    assert_eq!(led.assignment, &b"all"[..]);
    let left_out = t.synced(waiting).unwrap();
    assert_eq!((left_out.error_code, left_out.assignment), (0, Bytes::new()));
}

#[test]
fn sync_checks_member_generation_and_protocol() {
    let mut t = Harness::new();
    assert_eq!(
        t.sync("nobody", 1, &[]).error_code,
        ErrorCode::UnknownMemberId.code()
    );
    let (leader, _, generation) = t.stable_pair();
    assert_eq!(
        t.sync("nobody", generation, &[]).error_code,
        ErrorCode::UnknownMemberId.code()
    );
    assert_eq!(
        t.sync(&leader, generation + 1, &[]).error_code,
        ErrorCode::IllegalGeneration.code()
    );
    for wrong in [
        sync_request(&leader, generation, &[]).with_protocol_type(Some(text("connect"))),
        sync_request(&leader, generation, &[]).with_protocol_name(Some(text("sticky"))),
    ] {
        let GroupResponse::SyncGroup(answer) = t.ask(5, GroupRequest::SyncGroup(wrong)) else {
            unreachable!()
        };
        assert_eq!(answer.error_code, ErrorCode::InconsistentGroupProtocol.code());
    }
    let right = sync_request(&leader, generation, &[])
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")));
    let GroupResponse::SyncGroup(answer) = t.ask(5, GroupRequest::SyncGroup(right)) else {
        unreachable!()
    };
    assert_eq!(answer.error_code, 0);
}

#[test]
fn an_assignment_that_a_newcomer_overtook_is_nobodys() {
    let mut t = Harness::new();
    let (leader, first) = t.enter();
    t.joined(first);
    t.commits_at_once = false;
    let syncing = t.send_sync(&leader, 1, &[(&leader, b"all")]);
    t.enter();
    assert_eq!(
        t.synced(syncing).unwrap().error_code,
        ErrorCode::RebalanceInProgress.code()
    );
    t.commit();
    assert_eq!(t.state(), Some(GroupState::PreparingRebalance));
    let rejoined = t.join(join_request(&leader));
    assert_eq!((rejoined.generation_id, rejoined.members.len()), (2, 2));
}

#[test]
fn an_assignment_that_the_log_refuses_starts_the_group_over() {
    let mut t = Harness::new();
    let (leader, first) = t.enter();
    t.joined(first);
    t.commits_at_once = false;
    let syncing = t.send_sync(&leader, 1, &[(&leader, b"all")]);
    t.fail(ErrorCode::NotEnoughReplicas);
    let answer = t.synced(syncing).unwrap();
    assert_eq!(
        (answer.error_code, answer.assignment.len()),
        (ErrorCode::CoordinatorNotAvailable.code(), 0)
    );
    assert_eq!(t.state(), Some(GroupState::PreparingRebalance));
    t.commits_at_once = true;
    assert_eq!(t.join(join_request(&leader)).generation_id, 2);
    assert_eq!(t.sync(&leader, 2, &[(&leader, b"all")]).assignment, &b"all"[..]);
}

// Line 68.
#[test]
fn heartbeats_keep_a_member_through_a_rebalance() {
    let mut t = Harness::new();
    let (leader, follower, generation) = t.stable_pair();
    let newcomer = t.new_member_id();
    let joining = t.send_join(join_request(&newcomer));
    for _ in 0..3 {
        t.advance(SESSION_MS as u64 - 1);
        assert_eq!(
            t.heartbeat(&leader, generation),
            ErrorCode::RebalanceInProgress.code()
        );
        assert_eq!(
            t.heartbeat(&follower, generation),
            ErrorCode::RebalanceInProgress.code()
        );
    }
    assert_eq!(t.members(), 3);
    t.send_join(join_request(&leader));
    t.send_join(join_request(&follower));
    let joined = t.joined(joining).unwrap();
    assert_eq!(t.state(), Some(GroupState::CompletingRebalance));
    assert_eq!(t.heartbeat(&follower, joined.generation_id), 0);
    assert_eq!(
        t.heartbeat(&follower, generation),
        ErrorCode::IllegalGeneration.code()
    );
    assert_eq!(
        t.heartbeat("nobody", generation),
        ErrorCode::UnknownMemberId.code()
    );
}

#[test]
fn a_leader_that_dies_is_replaced() {
    let mut t = Harness::new();
    let (leader, follower, generation) = t.stable_pair();
    t.advance(SESSION_MS as u64 / 2);
    assert_eq!(t.heartbeat(&follower, generation), 0);
    t.advance(SESSION_MS as u64 / 2);
    assert_eq!(
        t.heartbeat(&leader, generation),
        ErrorCode::UnknownMemberId.code()
    );
    assert_eq!(
        t.heartbeat(&follower, generation),
        ErrorCode::RebalanceInProgress.code()
    );
    let joined = t.join(join_request(&follower));
    assert_eq!(
        (joined.generation_id, joined.leader, joined.members.len()),
        (generation + 1, follower, 1)
    );
}

#[test]
fn the_rebalance_timeout_leaves_laggards_behind() {
    let mut t = Harness::new();
    let (leader, follower, generation) = t.stable_pair();
    let rejoining =
        t.send_join(join_request(&follower).with_protocols(vec![protocol("range", subscription(&[]))]));
    for _ in 0..5 {
        t.advance(5_000);
        assert_eq!(
            t.heartbeat(&leader, generation),
            ErrorCode::RebalanceInProgress.code()
        );
    }
    assert_eq!(t.joined(rejoining), None);
    t.advance(5_000);
    let joined = t.joined(rejoining).expect("the rebalance timeout is over");
    assert_eq!((joined.leader, joined.members.len()), (follower, 1));
    assert_eq!(
        t.heartbeat(&leader, generation),
        ErrorCode::UnknownMemberId.code()
    );
}

#[test]
fn members_that_never_sync_are_left_behind() {
    let mut t = Harness::new();
    let (leader, first) = t.enter();
    t.joined(first);
    let (follower, _) = t.enter();
    t.join(join_request(&leader));
    assert_eq!(t.sync(&leader, 2, &[(&leader, b"all")]).error_code, 0);
    for _ in 0..6 {
        assert_eq!((t.heartbeat(&leader, 2), t.heartbeat(&follower, 2)), (0, 0));
        t.advance(5_000);
    }
    assert_eq!(t.heartbeat(&follower, 2), ErrorCode::UnknownMemberId.code());
    assert_eq!(t.heartbeat(&leader, 2), ErrorCode::RebalanceInProgress.code());
}

#[test]
fn a_new_member_that_waits_too_long_is_forgotten() {
    let mut t = Harness::with(GroupSettings {
        new_member_join_timeout_ms: 20_000,
        ..settings()
    });
    let (leader, _, generation) = t.stable_pair();
    let (_, waiting) = t.enter();
    for _ in 0..4 {
        t.heartbeat(&leader, generation);
        t.advance(5_000);
    }
    let answer = t.joined(waiting).expect("forgotten, and told so");
    assert_eq!(answer.error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_repeated_join_repeats_the_answer() {
    let mut t = Harness::new();
    let (leader, follower, generation) = t.stable_pair();
    let again = t.join(join_request(&follower));
    assert_eq!((again.generation_id, again.members.len()), (generation, 0));
    assert_eq!(
        t.state(),
        Some(GroupState::Stable),
        "nothing changed for the follower"
    );
    let token = t.send_join(join_request(&leader));
    assert_eq!(
        t.joined(token),
        None,
        "a leader that joins again wants a new assignment"
    );
    assert_eq!(t.state(), Some(GroupState::PreparingRebalance));
    let displacing = t.send_join(join_request(&leader));
    assert_eq!(
        t.joined(token).unwrap().error_code,
        ErrorCode::RebalanceInProgress.code()
    );
    let followed = t.join(join_request(&follower));
    assert_eq!(followed.generation_id, generation + 1);
    assert_eq!(t.joined(displacing).unwrap().generation_id, generation + 1);
}

// Cooperative rebalancing: the second round follows from a member that owns less than before; its metadata, owned
// partitions included, reaches the leader byte for byte.
#[test]
fn a_cooperative_rebalance_takes_two_generations() {
    let mut t = Harness::new();
    let owning = |member_id: &str, owned: &'static [u8]| {
        join_request(member_id)
            .with_protocols(vec![protocol("cooperative-sticky", Bytes::from_static(owned))])
    };
    let first_id = t.join(owning("", b"")).member_id;
    t.join(owning(&first_id, b""));
    t.sync(&first_id, 1, &[(&first_id, b"0,1")]);
    let second_id = t.join(owning("", b"")).member_id;
    let second = t.send_join(owning(&second_id, b"\x00\x01\xfenothing"));
    let led = t.join(owning(&first_id, b"\x00\x01\xff0,1"));
    assert_eq!(led.generation_id, 2);
    let metadata_of = |response: &kafka_protocol::messages::JoinGroupResponse, id: &str| {
        response
            .members
            .iter()
            .find(|member| member.member_id.as_str() == id)
            .unwrap()
            .metadata
            .clone()
    };
    assert_eq!(metadata_of(&led, &first_id), &b"\x00\x01\xff0,1"[..]);
    assert_eq!(metadata_of(&led, &second_id), &b"\x00\x01\xfenothing"[..]);
    t.joined(second).unwrap();
    let waiting = t.send_sync(&second_id, 2, &[]);
    assert_eq!(
        t.sync(&first_id, 2, &[(&first_id, b"0"), (&second_id, b"")])
            .assignment,
        &b"0"[..]
    );
    assert_eq!(t.synced(waiting).unwrap().assignment.len(), 0);
    // The first member has given partition 1 up and joins again.
    let leading = t.send_join(owning(&first_id, b"\x00\x01\xff0"));
    assert_eq!(t.heartbeat(&second_id, 2), ErrorCode::RebalanceInProgress.code());
    t.join(owning(&second_id, b"\x00\x01\xfenothing"));
    let led = t.joined(leading).unwrap();
    assert_eq!(
        (led.generation_id, metadata_of(&led, &first_id)),
        (3, Bytes::from_static(b"\x00\x01\xff0"))
    );
    let waiting = t.send_sync(&second_id, 3, &[]);
    t.sync(&first_id, 3, &[(&first_id, b"0"), (&second_id, b"1")]);
    assert_eq!(t.synced(waiting).unwrap().assignment, &b"1"[..]);
}

// Line 72: metadata that is no consumer protocol does no harm.
#[test]
fn malformed_metadata_is_passed_on_as_it_is() {
    let mut t = Harness::new();
    for garbage in [
        &b"\xff"[..],
        &b"\0\0\x7f\xff\xff\xff"[..],
        &b"\0\x01\0\0\0\x05ab"[..],
        &[0xff; 300][..],
    ] {
        let metadata = Bytes::copy_from_slice(garbage);
        let request = |id: &str| join_request(id).with_protocols(vec![protocol("range", metadata.clone())]);
        let member_id = t.join(request("")).member_id;
        let joined = t.join(request(&member_id));
        assert_eq!(joined.members[0].metadata, metadata);
        let synced = t.sync(&member_id, joined.generation_id, &[(&member_id, garbage)]);
        assert_eq!(synced.assignment, metadata);
        let identity = kafka_protocol::messages::leave_group_request::MemberIdentity::default();
        t.leave(vec![identity.with_member_id(member_id)]);
    }
}

#[test]
fn an_empty_group_id_is_no_group() {
    let mut t = Harness::new();
    let nameless = join_request("").with_group_id(Default::default());
    assert_eq!(t.join(nameless).error_code, ErrorCode::InvalidGroupId.code());
    let nameless = sync_request("a", 1, &[]).with_group_id(Default::default());
    let GroupResponse::SyncGroup(answer) = t.ask(5, GroupRequest::SyncGroup(nameless)) else {
        unreachable!()
    };
    assert_eq!(answer.error_code, ErrorCode::InvalidGroupId.code());
}

#[test]
fn a_new_group_that_the_log_refuses_is_forgotten() {
    let mut t = Harness::with(GroupSettings::default());
    t.commits_at_once = false;
    let (member_id, waiting) = t.enter();
    t.fail(ErrorCode::NotLeaderOrFollower);
    assert_eq!(
        t.joined(waiting).unwrap().error_code,
        ErrorCode::NotCoordinator.code()
    );
    assert_eq!(t.state(), None);
    assert_eq!(
        t.join(join_request(&member_id)).error_code,
        ErrorCode::UnknownMemberId.code()
    );
}

#[test]
fn what_waited_while_the_shard_was_busy_counts_before_deadlines_do() {
    let mut t = Harness::new();
    let (leader, follower, generation) = t.stable_pair();
    t.fall_behind(SESSION_MS as u64);
    assert_eq!(t.heartbeat(&leader, generation), 0);
    assert_eq!(t.heartbeat(&follower, generation), 0, "it was sent in time");
    t.catch_up();
    assert_eq!((t.state(), t.members()), (Some(GroupState::Stable), 2));
    t.advance(SESSION_MS as u64);
    assert_eq!(t.members(), 0, "sessions still end");
}
