//! DescribeGroups, ListGroups and DeleteGroups.

use kafka_protocol::ResponseError as ErrorCode;
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use odradek_broker_core::coordination::RequestToken;
use odradek_broker_core::groups::{GroupRequest, GroupResponse, GroupState};

use crate::harness::*;

fn describe(t: &mut Harness, version: i16, group: &str) -> DescribedGroup {
    match t.ask(version, GroupRequest::DescribeGroup(GroupId(text(group)))) {
        GroupResponse::DescribeGroup(described) => described,
        other => panic!("not a description: {other:?}"),
    }
}

fn list(t: &mut Harness, states: &[&str], types: &[&str]) -> Vec<String> {
    let texts = |names: &[&str]| names.iter().map(|name| text(name)).collect();
    match t.ask(
        5,
        GroupRequest::ListGroups {
            states: texts(states),
            types: texts(types),
        },
    ) {
        GroupResponse::ListGroups(Ok(groups)) => groups
            .iter()
            .map(|group| format!("{} {} {}", *group.group_id, group.group_state, group.group_type))
            .collect(),
        other => panic!("not a list: {other:?}"),
    }
}

fn deleted(t: &mut Harness, token: RequestToken) -> Option<i16> {
    t.reply(token).map(|response| match response {
        GroupResponse::DeleteGroup(result) => result.error_code,
        other => panic!("not a deletion: {other:?}"),
    })
}

fn delete(t: &mut Harness) -> i16 {
    let token = t.send(2, GroupRequest::DeleteGroup(group_id()));
    deleted(t, token).expect("answered at once")
}

#[test]
fn a_stable_group_is_described_with_its_blobs() {
    let mut t = Harness::new();
    let (leader, _, _) = t.stable_pair();
    let described = describe(&mut t, 6, GROUP);
    assert_eq!(
        (described.error_code, described.group_state.as_str()),
        (0, "Stable")
    );
    assert_eq!(
        (described.protocol_type.as_str(), described.protocol_data.as_str()),
        ("consumer", "range")
    );
    let member = described
        .members
        .iter()
        .find(|member| member.member_id == leader)
        .unwrap();
    assert_eq!(
        (member.client_id.as_str(), member.client_host.as_str()),
        ("client", "/127.0.0.1")
    );
    assert_eq!(
        (&member.member_metadata, &member.member_assignment[..]),
        (&subscription(&["orders"]), &b"one"[..])
    );
    t.new_member_id();
    t.send_join(join_request(&leader));
    let described = describe(&mut t, 6, GROUP);
    assert_eq!(
        (described.group_state.as_str(), described.protocol_data.as_str()),
        ("PreparingRebalance", "")
    );
    assert!(
        described
            .members
            .iter()
            .all(|member| member.member_metadata.is_empty())
    );
}

// Line 73.
#[test]
fn an_unknown_group_is_dead_and_from_version_6_on_not_found() {
    let mut t = Harness::new();
    let described = describe(&mut t, 5, "nothing");
    assert_eq!(
        (described.error_code, described.group_state.as_str()),
        (0, "Dead")
    );
    let described = describe(&mut t, 6, "nothing");
    assert_eq!(described.error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(described.group_state.as_str(), "Dead");
    assert!(described.error_message.unwrap().contains("nothing"));
}

// Line 73: filters in any case.
#[test]
fn groups_are_listed_by_state_and_type() {
    let mut t = Harness::new();
    t.stable_pair();
    let mut holder = simple_commit("orders", 0, 1);
    holder.group_id = GroupId(text("offsets-only"));
    t.commit_offset(holder);
    assert_eq!(
        list(&mut t, &[], &[]),
        ["offsets-only Empty classic", "payments Stable classic"]
    );
    assert_eq!(list(&mut t, &["sTaBlE"], &[]), ["payments Stable classic"]);
    assert_eq!(
        list(&mut t, &["empty", "Dead"], &["CLASSIC"]),
        ["offsets-only Empty classic"]
    );
    assert!(list(&mut t, &[], &["consumer"]).is_empty());
    assert!(list(&mut t, &["unheard-of"], &[]).is_empty());
}

#[test]
fn only_empty_groups_can_be_deleted() {
    let mut t = Harness::new();
    assert_eq!(delete(&mut t), ErrorCode::GroupIdNotFound.code());
    t.commit_offset(simple_commit("orders", 0, 1));
    let (member_id, first) = t.enter();
    t.joined(first);
    assert_eq!(delete(&mut t), ErrorCode::NonEmptyGroup.code());
    let identity = kafka_protocol::messages::leave_group_request::MemberIdentity::default();
    t.leave(vec![identity.with_member_id(member_id)]);
    assert_eq!(delete(&mut t), 0);
    assert_eq!((t.state(), t.fetch("orders", 0).0), (None, -1));
    let after = t.fail_over();
    assert_eq!(
        (after.state(), after.shard.replicated()),
        (None, &Default::default())
    );
}

#[test]
fn a_deletion_takes_the_commits_before_it_and_not_those_after_it() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("orders", 0, 1));
    t.commits_at_once = false;
    t.send_commit(simple_commit("orders", 1, 1));
    let deleting = t.send(2, GroupRequest::DeleteGroup(group_id()));
    t.send_commit(simple_commit("orders", 2, 1));
    assert_eq!(deleted(&mut t, deleting), None);
    t.commit();
    assert_eq!(deleted(&mut t, deleting), Some(0));
    assert_eq!(
        [
            t.fetch("orders", 0).0,
            t.fetch("orders", 1).0,
            t.fetch("orders", 2).0
        ],
        [-1, -1, 1]
    );
    assert_eq!(t.fail_over().shard.replicated(), t.shard.replicated());
}

#[test]
fn a_group_deleted_with_a_commit_before_it_under_way_leaves_nothing() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("orders", 0, 1));
    t.commits_at_once = false;
    t.send_commit(simple_commit("orders", 1, 1));
    let deleting = t.send(2, GroupRequest::DeleteGroup(group_id()));
    t.commit();
    assert_eq!((deleted(&mut t, deleting), t.state()), (Some(0), None));
}

#[test]
fn a_deletion_that_the_log_refuses_is_reverted() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("orders", 0, 1));
    t.commits_at_once = false;
    let deleting = t.send(2, GroupRequest::DeleteGroup(group_id()));
    t.fail(ErrorCode::NotEnoughReplicas);
    assert_eq!(
        deleted(&mut t, deleting),
        Some(ErrorCode::CoordinatorNotAvailable.code())
    );
    assert_eq!((t.state(), t.fetch("orders", 0).0), (Some(GroupState::Empty), 1));
}

/// A group whose last member is gone, which the log has refused to hear.
fn left_behind_the_log() -> Harness {
    let mut t = Harness::new();
    let (member_id, first) = t.enter();
    t.joined(first);
    t.sync(&member_id, 1, &[(&member_id, b"all")]);
    t.commits_at_once = false;
    t.advance(SESSION_MS as u64);
    t.fail(ErrorCode::NotEnoughReplicas);
    assert_eq!((t.state(), t.members()), (Some(GroupState::Empty), 0));
    t
}

#[test]
fn a_deletion_that_the_log_refuses_brings_nobody_back() {
    let mut t = left_behind_the_log();
    let deleting = t.send(2, GroupRequest::DeleteGroup(group_id()));
    assert_eq!(t.state(), None);
    t.fail(ErrorCode::NotEnoughReplicas);
    deleted(&mut t, deleting);
    assert_eq!((t.state(), t.members()), (Some(GroupState::Empty), 0));
    let (_, joining) = t.enter();
    let joined = t.joined(joining).expect("nobody else is waited for");
    assert_eq!(joined.generation_id, 3, "generation 2 was that without members");
}

#[test]
fn an_expiry_that_the_log_refuses_brings_nobody_back() {
    let mut t = left_behind_the_log();
    t.advance(t.settings.offsets_retention_check_interval_ms);
    assert_eq!(t.state(), None);
    t.fail(ErrorCode::NotEnoughReplicas);
    assert_eq!((t.state(), t.members()), (Some(GroupState::Empty), 0));
}

#[test]
fn members_that_only_the_log_remembers_do_not_stay_for_ever() {
    let mut t = left_behind_the_log();
    t.send(2, GroupRequest::DeleteGroup(group_id()));
    t.new_member_id();
    t.fail(ErrorCode::NotEnoughReplicas);
    assert_eq!((t.state(), t.members()), (Some(GroupState::Stable), 1));
    t.advance(SESSION_MS as u64);
    assert_eq!((t.state(), t.members()), (Some(GroupState::Empty), 0));
}

#[test]
fn who_joins_behind_a_deletion_founds_another_group() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("orders", 0, 1));
    t.commits_at_once = false;
    let deleting = t.send(2, GroupRequest::DeleteGroup(group_id()));
    let (_, joining) = t.enter();
    t.commit();
    assert_eq!(deleted(&mut t, deleting), Some(0));
    assert_eq!(t.joined(joining).unwrap().error_code, 0);
    assert_eq!((t.members(), t.fetch("orders", 0).0), (1, -1));
}

#[test]
fn a_large_group_is_deleted_in_parts() {
    let mut t = Harness::new();
    let mut request = simple_commit("orders", 0, 1);
    let partition = request.topics[0].partitions[0].clone();
    request.topics[0].partitions = (0..2_500)
        .map(|index| partition.clone().with_partition_index(index))
        .collect();
    t.commit_offset(request);
    t.commits_at_once = false;
    let deleting = t.send(2, GroupRequest::DeleteGroup(group_id()));
    assert_eq!(
        t.under_way
            .iter()
            .map(|append| append.records.len())
            .collect::<Vec<_>>(),
        [1_000, 1_000, 501]
    );
    t.commit();
    assert_eq!(
        (deleted(&mut t, deleting), t.shard.committed_offsets().count()),
        (Some(0), 0)
    );
}
