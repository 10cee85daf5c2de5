//! LeaveGroup in both forms.

use kafka_protocol::ResponseError as ErrorCode;
use kafka_protocol::messages::LeaveGroupRequest;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use odradek_broker_core::groups::{GroupRequest, GroupResponse, GroupState};

use crate::harness::*;

fn dynamic(member_id: &str) -> MemberIdentity {
    MemberIdentity::default().with_member_id(text(member_id))
}

fn instance(instance_id: &str, member_id: &str) -> MemberIdentity {
    dynamic(member_id).with_group_instance_id(Some(text(instance_id)))
}

// Line 71: a batch, with an error for each.
#[test]
fn several_members_leave_each_with_its_own_error() {
    let mut t = Harness::new();
    let (leader, follower, _) = t.stable_pair();
    let answer = t.leave(vec![
        dynamic(&leader),
        dynamic("nobody"),
        instance("ghost", ""),
        dynamic(&follower),
    ]);
    let codes: Vec<_> = answer.members.iter().map(|member| member.error_code).collect();
    let unknown = ErrorCode::UnknownMemberId.code();
    assert_eq!((answer.error_code, codes), (0, vec![0, unknown, unknown, 0]));
    assert_eq!(answer.members[1].member_id, text("nobody"));
    assert_eq!(answer.members[2].group_instance_id, Some(text("ghost")));
    assert_eq!(t.state(), Some(GroupState::Empty));
}

#[test]
fn a_static_member_leaves_by_its_instance_id_alone() {
    let mut t = Harness::new();
    let member_id = t.join(static_join("a", "")).member_id;
    assert_eq!(
        t.leave(vec![instance("a", "another")]).members[0].error_code,
        ErrorCode::FencedInstanceId.code()
    );
    assert_eq!(t.members(), 1);
    assert_eq!(t.leave(vec![instance("a", "")]).members[0].error_code, 0);
    assert_eq!(t.heartbeat(&member_id, 1), ErrorCode::UnknownMemberId.code());
}

#[test]
fn before_version_3_the_error_is_the_requests() {
    let mut t = Harness::new();
    let (leader, _, _) = t.stable_pair();
    for (member_id, code) in [
        (leader.to_string(), 0),
        ("nobody".to_owned(), ErrorCode::UnknownMemberId.code()),
    ] {
        let request = LeaveGroupRequest::default()
            .with_group_id(group_id())
            .with_member_id(text(&member_id));
        let GroupResponse::LeaveGroup(answer) = t.ask(2, GroupRequest::LeaveGroup(request)) else {
            unreachable!()
        };
        assert_eq!((answer.error_code, answer.members.len()), (code, 0));
    }
}

#[test]
fn an_unknown_group_has_no_members_to_leave() {
    let mut t = Harness::new();
    let answer = t.leave(vec![dynamic("nobody")]);
    assert_eq!(
        (answer.error_code, answer.members[0].error_code),
        (0, ErrorCode::UnknownMemberId.code())
    );
}

#[test]
fn the_last_leave_is_answered_when_the_log_has_it() {
    let mut t = Harness::new();
    let (leader, first) = t.enter();
    t.joined(first);
    t.commits_at_once = false;
    let request = LeaveGroupRequest::default()
        .with_group_id(group_id())
        .with_members(vec![dynamic(&leader)]);
    let leaving = t.send(5, GroupRequest::LeaveGroup(request));
    assert_eq!(t.reply(leaving), None);
    t.commit();
    assert!(matches!(t.reply(leaving), Some(GroupResponse::LeaveGroup(answer)) if answer.error_code == 0));
}

#[test]
fn who_waits_hears_that_it_was_removed() {
    let mut t = Harness::new();
    t.stable_pair();
    let newcomer = t.new_member_id();
    let waiting = t.send_join(join_request(&newcomer));
    assert_eq!(t.leave(vec![dynamic(&newcomer)]).members[0].error_code, 0);
    assert_eq!(
        t.joined(waiting).unwrap().error_code,
        ErrorCode::UnknownMemberId.code()
    );
}

#[test]
fn a_pending_member_can_leave_too() {
    let mut t = Harness::new();
    let (leader, _, generation) = t.stable_pair();
    let pending = t.new_member_id();
    assert_eq!(t.leave(vec![dynamic(&pending)]).members[0].error_code, 0);
    assert_eq!(
        t.join(join_request(&pending)).error_code,
        ErrorCode::UnknownMemberId.code()
    );
    let _ = (leader, generation);
}
