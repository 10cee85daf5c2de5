//! Static membership (KIP-345) and its leader that comes back (KIP-814).

use kafka_protocol::ResponseError as ErrorCode;
use kafka_protocol::messages::JoinGroupResponse;
use kafka_protocol::protocol::StrBytes;
use odradek_broker_core::groups::{GroupRequest, GroupState};

use crate::harness::*;

/// A stable group of two static members, `a` leading.
fn static_pair(t: &mut Harness) -> (StrBytes, StrBytes, i32) {
    let a = t.join(static_join("a", "")).member_id;
    let second = t.send_join(static_join("b", ""));
    let led = t.join(static_join("a", &a));
    let b = t.joined(second).expect("everybody is there").member_id;
    let waiting = t.send_sync(&b, led.generation_id, &[]);
    t.sync(&a, led.generation_id, &[(&a, b"one"), (&b, b"two")]);
    t.synced(waiting).expect("the leader has synced");
    assert_eq!(t.state(), Some(GroupState::Stable));
    (a, b, led.generation_id)
}

// Line 64: static members skip MEMBER_ID_REQUIRED; their ids carry the instance id.
#[test]
fn a_static_member_joins_at_once() {
    let mut t = Harness::new();
    let joined = t.join(static_join("a", ""));
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert!(joined.member_id.starts_with("a-"));
    assert_eq!(joined.members[0].group_instance_id, Some(text("a")));
}

#[test]
fn a_static_follower_comes_back_without_a_rebalance() {
    let mut t = Harness::new();
    let (a, b, generation) = static_pair(&mut t);
    let back = t.join(static_join("b", ""));
    assert_eq!((back.error_code, back.generation_id), (0, generation));
    assert_eq!(
        (&back.leader, back.skip_assignment, back.members.len()),
        (&a, false, 0)
    );
    assert_ne!(back.member_id, b);
    assert_eq!(
        t.sync(&back.member_id, generation, &[]).assignment,
        &b"two"[..],
        "it keeps its share"
    );
    assert_eq!(t.heartbeat(&a, generation), 0);
    assert_eq!(t.state(), Some(GroupState::Stable));
}

// Line 71: whoever still uses the old id is fenced.
#[test]
fn the_old_id_of_a_static_member_is_fenced() {
    let mut t = Harness::new();
    let (_, b, generation) = static_pair(&mut t);
    t.join(static_join("b", ""));
    let fenced = ErrorCode::FencedInstanceId.code();
    assert_eq!(t.join(static_join("b", &b)).error_code, fenced);
    let syncing = sync_request(&b, generation, &[]).with_group_instance_id(Some(text("b")));
    let token = t.send(5, GroupRequest::SyncGroup(syncing));
    assert_eq!(t.synced(token).unwrap().error_code, fenced);
    let commit = commit_request(&b, generation, "orders", 0, 1).with_group_instance_id(Some(text("b")));
    assert_eq!(t.commit_offset(commit), fenced);
    assert_eq!(t.heartbeat(&b, generation), ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_parked_request_under_the_old_id_is_fenced() {
    let mut t = Harness::new();
    let (a, b, _) = static_pair(&mut t);
    let changed = || vec![protocol("range", subscription(&["returns"]))];
    let parked = t.send_join(static_join("b", &b).with_protocols(changed()));
    let taking_over = t.send_join(static_join("b", "").with_protocols(changed()));
    assert_eq!(
        t.joined(parked).unwrap().error_code,
        ErrorCode::FencedInstanceId.code()
    );
    t.join(static_join("a", &a));
    assert_eq!(t.joined(taking_over).unwrap().error_code, 0);
}

fn leader_comes_back(t: &mut Harness, version: i16) -> (StrBytes, JoinGroupResponse) {
    let (a, _, _) = static_pair(t);
    let token = t.send(version, GroupRequest::JoinGroup(static_join("a", "")));
    (a, t.joined(token).expect("answered at once"))
}

// KIP-814: from version 9 on the leader hears that it leads and need not assign.
#[test]
fn a_static_leader_comes_back_and_skips_the_assignment() {
    let mut t = Harness::new();
    let (_, back) = leader_comes_back(&mut t, 9);
    assert_eq!((back.skip_assignment, back.members.len()), (true, 2));
    assert_eq!(back.leader, back.member_id);
}

#[test]
fn an_older_static_leader_is_shown_its_old_id() {
    let mut t = Harness::new();
    let (old_id, back) = leader_comes_back(&mut t, 8);
    assert_eq!((back.skip_assignment, back.members.len()), (false, 0));
    assert_eq!(back.leader, old_id);
    assert_ne!(back.member_id, old_id);
}

#[test]
fn a_static_member_with_another_protocol_causes_a_rebalance() {
    let mut t = Harness::new();
    let joined = t.join(static_join("a", ""));
    t.sync(&joined.member_id, 1, &[]);
    let sticky = static_join("a", "").with_protocols(vec![protocol("sticky", subscription(&["orders"]))]);
    assert_eq!(
        t.join(sticky).error_code,
        ErrorCode::InconsistentGroupProtocol.code()
    );
    let both = vec![
        protocol("sticky", subscription(&[])),
        protocol("range", subscription(&[])),
    ];
    let back = t.join(static_join("a", "").with_protocols(both));
    assert_eq!(
        (back.generation_id, back.protocol_name),
        (2, Some(text("sticky")))
    );
}

#[test]
fn a_static_member_that_comes_back_during_the_sync_phase_causes_a_rebalance() {
    let mut t = Harness::new();
    let a = t.join(static_join("a", "")).member_id;
    let second = t.send_join(static_join("b", ""));
    t.join(static_join("a", &a));
    t.joined(second).unwrap();
    let back = t.send_join(static_join("b", ""));
    assert_eq!(
        (t.joined(back), t.state()),
        (None, Some(GroupState::PreparingRebalance))
    );
    let led = t.join(static_join("a", &a));
    assert_eq!((led.generation_id, led.members.len()), (3, 2));
    assert_eq!(t.joined(back).unwrap().generation_id, 3);
}

#[test]
fn a_replacement_that_the_log_refuses_is_reverted() {
    let mut t = Harness::new();
    let (a, b, generation) = static_pair(&mut t);
    t.commits_at_once = false;
    let replacing = t.send_join(static_join("b", ""));
    assert_eq!(t.joined(replacing), None, "the log has not committed it");
    t.fail(ErrorCode::NotEnoughReplicas);
    let refused = t.joined(replacing).unwrap();
    assert_eq!(refused.error_code, ErrorCode::CoordinatorNotAvailable.code());
    t.commits_at_once = true;
    assert_eq!((t.heartbeat(&b, generation), t.heartbeat(&a, generation)), (0, 0));
    assert_eq!(t.members(), 2, "the new id is gone");
    assert_eq!(t.sync(&b, generation, &[]).assignment, &b"two"[..]);
}

#[test]
fn a_replacement_that_a_rebalance_overtakes_is_part_of_it() {
    let mut t = Harness::new();
    let (a, _, generation) = static_pair(&mut t);
    t.commits_at_once = false;
    let replacing = t.send_join(static_join("b", ""));
    let leading = t.send_join(static_join("a", &a));
    assert_eq!(t.joined(replacing).unwrap().generation_id, generation + 1);
    assert_eq!(t.joined(leading).unwrap().members.len(), 2);
    t.commit();
    assert_eq!(t.state(), Some(GroupState::CompletingRebalance));
}

#[test]
fn static_members_keep_their_place_until_their_session_ends() {
    let mut t = Harness::new();
    let (a, b, generation) = static_pair(&mut t);
    let again = t.send_join(static_join("a", &a));
    for _ in 0..3 {
        t.advance(SESSION_MS as u64 - 1);
        assert_eq!(t.heartbeat(&b, generation), ErrorCode::RebalanceInProgress.code());
    }
    t.advance(3);
    let led = t.joined(again).expect("the rebalance timeout is over");
    assert_eq!(
        led.members.len(),
        2,
        "the static member that did not rejoin is still counted"
    );
    t.advance(SESSION_MS as u64);
    assert_eq!(t.heartbeat(&b, generation), ErrorCode::UnknownMemberId.code());
}
