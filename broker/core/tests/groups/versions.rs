//! Every answer can be encoded in every version that its API has.

use bytes::BytesMut;
use kafka_protocol::ResponseError as ErrorCode;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic};
use kafka_protocol::messages::{
    DeleteGroupsResponse, DescribeGroupsResponse, GroupId, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsResponse, OffsetCommitResponse, OffsetFetchResponse, SyncGroupResponse,
};
use kafka_protocol::protocol::{Encodable, Message};
use odradek_broker_core::groups::responses::offset_fetch_of_one_group;
use odradek_broker_core::groups::{GroupRequest, GroupResponse};

use crate::harness::*;

fn encode<M: Message + Encodable>(message: &M, version: i16) {
    let encoded = message.encode(&mut BytesMut::new(), version);
    assert!(encoded.is_ok(), "version {version}: {encoded:?}");
}

fn versions<M: Message>() -> std::ops::RangeInclusive<i16> {
    M::VERSIONS.min..=M::VERSIONS.max
}

#[test]
fn joins_and_syncs() {
    let mut t = Harness::new();
    let member_id = t.join(static_join("a", "")).member_id;
    t.sync(&member_id, 1, &[(&member_id, b"all")]);
    let refusal = t.ask(9, GroupRequest::JoinGroup(join_request("nobody")));
    let success = t.ask(9, GroupRequest::JoinGroup(static_join("a", "")));
    for response in [refusal, success] {
        for version in versions::<JoinGroupResponse>() {
            let GroupResponse::JoinGroup(response) = response.clone().for_version(version) else {
                unreachable!()
            };
            assert!(
                version >= 7 || response.protocol_name.is_some(),
                "not nullable before 7"
            );
            encode(&response, version);
        }
    }
    let member_id = t.join(static_join("a", "")).member_id;
    let response = t.ask(5, GroupRequest::SyncGroup(sync_request(&member_id, 1, &[])));
    for version in versions::<SyncGroupResponse>() {
        let GroupResponse::SyncGroup(response) = response.clone().for_version(version) else {
            unreachable!()
        };
        encode(&response, version);
    }
}

#[test]
fn leaves() {
    for version in versions::<LeaveGroupResponse>() {
        let mut t = Harness::new();
        t.stable_pair();
        let mut request = LeaveGroupRequest::default().with_group_id(group_id());
        if version >= 3 {
            request.members = vec![Default::default()];
        }
        let response = t
            .ask(version, GroupRequest::LeaveGroup(request))
            .for_version(version);
        let GroupResponse::LeaveGroup(response) = response else {
            unreachable!()
        };
        encode(&response, version);
    }
}

#[test]
fn offsets() {
    let mut t = Harness::new();
    let commit = t.ask(9, GroupRequest::OffsetCommit(simple_commit("orders", 0, 1)));
    let GroupResponse::OffsetCommit(commit) = commit else {
        unreachable!()
    };
    for version in 2..=9 {
        encode::<OffsetCommitResponse>(&commit, version);
    }
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(group_id())
        .with_topics(None);
    let fetch = GroupRequest::OffsetFetch {
        group,
        require_stable: false,
    };
    let fetched = t.ask(8, fetch.clone());
    let refused = fetch.refuse(ErrorCode::NotCoordinator);
    let asked = [OffsetFetchRequestTopic::default()
        .with_name(topic_name("orders"))
        .with_partition_indexes(vec![0])];
    for response in [fetched, refused] {
        for version in 1..=9 {
            let GroupResponse::OffsetFetch(group) = response.clone().for_version(version) else {
                unreachable!()
            };
            let error_code = group.error_code;
            let response = if version >= 8 {
                OffsetFetchResponse::default().with_groups(vec![group])
            } else {
                offset_fetch_of_one_group(group, Some(&asked), version)
            };
            if version == 1 {
                assert_eq!(response.topics[0].partitions[0].error_code, error_code);
            }
            encode(&response, version);
        }
    }
}

#[test]
fn administration() {
    let mut t = Harness::new();
    t.join(static_join("a", ""));
    for version in versions::<DescribeGroupsResponse>() {
        for group in [GROUP, "nothing"] {
            let request = GroupRequest::DescribeGroup(GroupId(text(group)));
            let GroupResponse::DescribeGroup(group) = t.ask(version, request).for_version(version) else {
                unreachable!()
            };
            encode(
                &DescribeGroupsResponse::default().with_groups(vec![group]),
                version,
            );
        }
    }
    for version in versions::<ListGroupsResponse>() {
        let request = GroupRequest::ListGroups {
            states: Vec::new(),
            types: Vec::new(),
        };
        let GroupResponse::ListGroups(Ok(groups)) = t.ask(version, request).for_version(version) else {
            unreachable!()
        };
        encode(&ListGroupsResponse::default().with_groups(groups), version);
    }
    let GroupResponse::DeleteGroup(result) = t.ask(2, GroupRequest::DeleteGroup(group_id())) else {
        unreachable!()
    };
    for version in versions::<DeleteGroupsResponse>() {
        encode(
            &DeleteGroupsResponse::default().with_results(vec![result.clone()]),
            version,
        );
    }
}
