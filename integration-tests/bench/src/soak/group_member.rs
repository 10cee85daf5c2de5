//! A member of a classic group: joins, gets an assignment, sends heartbeats and commits offsets, rejoins when the group
//! rebalances.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use kafka_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;

use crate::admin::Admin;
use crate::protocol::text;

const FIND_COORDINATOR: i16 = 4;
const JOIN_GROUP: i16 = 7;
const SYNC_GROUP: i16 = 5;
const HEARTBEAT: i16 = 4;
const LEAVE_GROUP: i16 = 4;
const OFFSET_COMMIT: i16 = 8;

/// A member that vanished is missed after this.
const SESSION_TIMEOUT_MS: i32 = 6_000;
/// How long a rebalance waits for members.
const REBALANCE_TIMEOUT_MS: i32 = 10_000;
/// Between two heartbeats.
const HEARTBEAT_PAUSE: Duration = Duration::from_millis(250);
/// Attempts at something that the group refuses for now, and the pause between two.
const ATTEMPTS: u32 = 300;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);
/// The name of the way partitions are shared out; the shares themselves mean nothing here.
const PROTOCOL: &str = "bench";

/// The topic whose offsets members commit.
pub const GROUP_TOPIC: &str = "bench-group";

/// A member of a group.
#[derive(Debug)]
pub struct Member {
    connection: Admin,
    group: GroupId,
    member_id: StrBytes,
    generation: i32,
    commits: i64,
}

impl Member {
    /// Joins and waits for the assignment.
    ///
    /// # Errors
    /// The group does not take it.
    pub fn join(address: SocketAddr, group: &str) -> Result<Self> {
        let mut member = Self {
            connection: Admin::open(address)?,
            group: GroupId(text(group)),
            member_id: StrBytes::default(),
            generation: -1,
            commits: 0,
        };
        member.find_coordinator()?;
        member.rejoin()?;
        Ok(member)
    }

    /// One heartbeat and one commit, or another join if the group rebalances; how many offsets were committed.
    ///
    /// # Errors
    /// The group refuses for good.
    pub fn live(&mut self) -> Result<u64> {
        let heartbeat = HeartbeatRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone());
        let error_code = self.connection.ask(HEARTBEAT, &heartbeat)?.error_code;
        if error_code != 0 {
            self.rejoin_after(error_code)?;
            return Ok(0);
        }
        let error_code = self.commit()?;
        if error_code != 0 {
            self.rejoin_after(error_code)?;
            return Ok(0);
        }
        std::thread::sleep(HEARTBEAT_PAUSE);
        Ok(1)
    }

    /// Leaves the group.
    ///
    /// # Errors
    /// It is not let go.
    pub fn leave(mut self) -> Result<()> {
        let identity = MemberIdentity::default().with_member_id(self.member_id.clone());
        let request = LeaveGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_members(vec![identity]);
        let response = self.connection.ask(LEAVE_GROUP, &request)?;
        ensure!(
            response.error_code == 0,
            "leaving the group: error {}",
            response.error_code
        );
        Ok(())
    }

    /// Makes sure that the coordinator answers: its topic is created at the first use.
    fn find_coordinator(&mut self) -> Result<()> {
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![self.group.0.clone()]);
        for _ in 0..ATTEMPTS {
            let response = self.connection.ask(FIND_COORDINATOR, &request)?;
            if response
                .coordinators
                .first()
                .is_some_and(|coordinator| coordinator.error_code == 0)
            {
                return Ok(());
            }
            std::thread::sleep(ATTEMPT_PAUSE);
        }
        bail!("the group has no coordinator")
    }

    fn rejoin_after(&mut self, error_code: i16) -> Result<()> {
        if error_code == ErrorCode::UnknownMemberId.code() {
            self.member_id = StrBytes::default();
        } else {
            let known = [ErrorCode::RebalanceInProgress, ErrorCode::IllegalGeneration];
            ensure!(
                known.iter().any(|known| known.code() == error_code),
                "the group refuses with error {error_code}"
            );
        }
        self.rejoin()
    }

    fn rejoin(&mut self) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let joined = self.ask_to_join()?;
            if joined.error_code == 0 {
                self.member_id = joined.member_id.clone();
                self.generation = joined.generation_id;
                if self.sync(&joined)? {
                    return Ok(());
                }
                continue;
            }
            match ErrorCode::try_from_code(joined.error_code) {
                Some(ErrorCode::MemberIdRequired) => self.member_id = joined.member_id,
                Some(ErrorCode::UnknownMemberId) => self.member_id = StrBytes::default(),
                Some(
                    ErrorCode::CoordinatorLoadInProgress
                    | ErrorCode::NotCoordinator
                    | ErrorCode::RebalanceInProgress,
                ) => {
                    std::thread::sleep(ATTEMPT_PAUSE);
                }
                _ => bail!("joining the group: error {}", joined.error_code),
            }
        }
        bail!("the group never settled")
    }

    fn ask_to_join(&mut self) -> Result<JoinGroupResponse> {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text(PROTOCOL))
            .with_metadata(Bytes::from_static(b"any"));
        let request = JoinGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_session_timeout_ms(SESSION_TIMEOUT_MS)
            .with_rebalance_timeout_ms(REBALANCE_TIMEOUT_MS)
            .with_member_id(self.member_id.clone())
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        self.connection.ask(JOIN_GROUP, &request)
    }

    /// Gets the assignment, as the leader gives it; false if the group rebalances again.
    fn sync(&mut self, joined: &JoinGroupResponse) -> Result<bool> {
        let assignments = joined.members.iter().map(|member| {
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(Bytes::from_static(b"share"))
        });
        let request = SyncGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member_id.clone())
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text(PROTOCOL)))
            .with_assignments(assignments.collect());
        let response = self.connection.ask(SYNC_GROUP, &request)?;
        if response.error_code == 0 {
            ensure!(!response.assignment.is_empty(), "a member got no assignment");
            return Ok(true);
        }
        let known = [
            ErrorCode::RebalanceInProgress,
            ErrorCode::IllegalGeneration,
            ErrorCode::UnknownMemberId,
        ];
        let known = known.iter().any(|known| known.code() == response.error_code);
        ensure!(known, "getting an assignment: error {}", response.error_code);
        Ok(false)
    }

    fn commit(&mut self) -> Result<i16> {
        self.commits += 1;
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(self.commits);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(GROUP_TOPIC)))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.member_id.clone())
            .with_topics(vec![topic]);
        let response = self.connection.ask(OFFSET_COMMIT, &request)?;
        let partition = response.topics.first().and_then(|topic| topic.partitions.first());
        partition
            .map(|partition| partition.error_code)
            .ok_or_else(|| anyhow::anyhow!("a commit without an answer"))
    }
}
