//! Voters come and go: a new one learns the log first and votes once it has it.

use bytes::Bytes;
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_common::metadata::proto::UnregisterControllerRecord;
use odradek_common::metadata::{ControllerImage, Endpoint, MetadataImage, Record, record};
use odradek_controller_core::quorum::{Membership, ProposeError, QuorumInput, VoterChange};
use slog::{info, warn};
use std::time::Instant;
use uuid::Uuid;

use super::ControllerNode;
use super::command::{Reply, VoterJob, VoterJobKind};
use super::turn::refusal;
use crate::handle::DispatchError;
use crate::meta_properties::uuid_to_base64;

/// A learner this close to the end of the log gets its vote.
const PROMOTE_LAG_MAX: u64 = 64;

/// A node that is being let in.
pub(crate) struct Joining {
    node_id: NodeId,
    since: Instant,
    answers: Vec<(Reply, Bytes)>,
}

impl ControllerNode {
    pub(super) fn change_voters(&mut self, job: VoterJob, reply: Reply) {
        let result = match job.change {
            VoterJobKind::Add {
                node_id,
                directory_id,
                endpoints,
            } => self.add_voter(node_id, directory_id, endpoints, reply, job.done),
            VoterJobKind::Remove {
                node_id,
                directory_id,
            } => self.remove_voter(node_id, directory_id, reply, job.done),
        };
        if let Err((error, reply)) = result {
            info!(self.logger, "refusing a change of voters"; "error" => %error);
            let _gone = reply.send(Ok((job.refused)(&error)));
        }
    }

    fn add_voter(
        &mut self,
        node_id: NodeId,
        directory_id: Uuid,
        endpoints: Vec<Endpoint>,
        reply: Reply,
        done: Bytes,
    ) -> Result<(), (ApiError, Reply)> {
        if self.quorum.view().membership.voters.contains(&node_id) {
            let detail = format!("node {node_id} votes already");
            return Err((ApiError::new(ErrorCode::DuplicateVoter, detail), reply));
        }
        if let Some(joining) = self.joining.iter_mut().find(|joining| joining.node_id == node_id) {
            joining.answers.push((reply, done));
            return Ok(());
        }
        self.register_joiner(node_id, directory_id, endpoints);
        self.joining.push(Joining {
            node_id,
            since: Instant::now(),
            answers: vec![(reply, done)],
        });
        Ok(())
    }

    /// The log is pushed to a learner, so its address must be known before it knows anything.
    fn register_joiner(&mut self, node_id: NodeId, directory_id: Uuid, endpoints: Vec<Endpoint>) {
        let Some(active) = &self.active else { return };
        let known = active.latest.controllers.get(&node_id);
        if known.is_some_and(|known| known.directory_id == directory_id && known.endpoints == endpoints) {
            return;
        }
        let joiner = ControllerImage {
            node_id,
            directory_id,
            incarnation_id: Uuid::nil(),
            endpoints,
            features: Vec::new(),
        };
        self.propose(vec![joiner.to_record()], None);
    }

    fn remove_voter(
        &mut self,
        node_id: NodeId,
        directory_id: Uuid,
        reply: Reply,
        done: Bytes,
    ) -> Result<(), (ApiError, Reply)> {
        let Some(active) = &self.active else { return Ok(()) };
        // First of all: while a removal is under way its voter is no longer registered, and would not be known.
        if let Err(error) = self.quorum.takes_voter_changes() {
            return Err((voter_error(error), reply));
        }
        let membership = self.quorum.view().membership;
        if let Err(error) = check_removal(&membership, &active.latest, node_id, directory_id) {
            return Err((error, reply));
        }
        let registered = active.latest.controllers.contains_key(&node_id);
        // Before the change: a leader that removes itself takes no records after it.
        if registered {
            self.unregister(node_id);
        }
        match self.quorum.change_voters(VoterChange::Remove(node_id)) {
            Ok(at) => {
                if let Some(active) = &mut self.active {
                    active.proposed(at, &[], Some((reply, done)));
                }
                Ok(())
            }
            Err(error) => Err((voter_error(error), reply)),
        }
    }

    /// Takes every joining node one step further.
    pub(super) fn pursue_joining(&mut self, _inputs: &mut Vec<QuorumInput>) {
        if self.joining.is_empty() {
            return;
        }
        let view = self.quorum.view();
        let mut joining = std::mem::take(&mut self.joining);
        let mut let_go = Vec::new();
        joining.retain_mut(|node| {
            if view.membership.voters.contains(&node.node_id) {
                for (reply, done) in node.answers.drain(..) {
                    let _gone = reply.send(Ok(done));
                }
                return false;
            }
            let learns = view.membership.learners.contains(&node.node_id);
            let peer = view.peers.iter().find(|peer| peer.node == node.node_id);
            let matched = peer.map_or(0, |peer| peer.matched);
            if node.since.elapsed() > self.shared.settings.join_max {
                for (reply, _) in node.answers.drain(..) {
                    let _gone = reply.send(Err(DispatchError::TimedOut));
                }
                if matched > 0 {
                    warn!(self.logger, "a node did not catch up and stays without a vote"; "joiner" => node.node_id);
                    return false;
                }
                if learns && self.quorum.change_voters(VoterChange::Remove(node.node_id)).is_err() {
                    return true;
                }
                warn!(self.logger, "a node that was to vote did not answer and is let go"; "joiner" => node.node_id);
                let_go.push(node.node_id);
                return false;
            }
            let change = if !learns {
                Some(VoterChange::AddLearner(node.node_id))
            } else if matched > 0 && matched + PROMOTE_LAG_MAX >= view.last {
                Some(VoterChange::Promote(node.node_id))
            } else {
                None
            };
            // A change that is refused now, because another is under way, is tried again in the next turn.
            if let Some(change) = change
                && self.quorum.change_voters(change).is_ok()
            {
                info!(self.logger, "a node joins the quorum"; "change" => ?change);
            }
            true
        });
        self.joining = joining;
        for node_id in let_go {
            self.unregister(node_id);
        }
    }

    fn unregister(&mut self, node_id: NodeId) {
        let gone = record(Record::UnregisterController(UnregisterControllerRecord {
            node_id,
        }));
        self.propose(vec![gone], None);
    }

    pub(super) fn abandon_joining(&mut self) {
        for (reply, _) in self.joining.drain(..).flat_map(|joining| joining.answers) {
            let _gone = reply.send(Err(refusal(ProposeError::NotLeader, self.role.leader)));
        }
    }

    pub(super) fn membership_changed(&mut self, membership: &Membership) {
        let own = self.shared.settings.node_id;
        let peers = membership.voters.iter().chain(&membership.learners).copied();
        self.transport
            .keep_only(peers.filter(|node| *node != own).collect());
    }
}

/// Whether a node may lose its place: its directory id has to be the one that it registered, or nil if it registered none, and
/// another voter has to stay. As VoterSet.removeVoter of Kafka has it.
fn check_removal(
    membership: &Membership,
    image: &MetadataImage,
    node_id: NodeId,
    directory_id: Uuid,
) -> Result<(), ApiError> {
    let directory_of = |node: &NodeId| {
        let known = image.controllers.get(node);
        known.map_or(Uuid::nil(), |controller| controller.directory_id)
    };
    let refused = |detail: String| Err(ApiError::new(ErrorCode::VoterNotFound, detail));
    let votes = membership.voters.contains(&node_id);
    let is_member = votes || membership.learners.contains(&node_id);
    if !is_member || directory_of(&node_id) != directory_id {
        let named = |node: &NodeId| format!("{node} with {}", uuid_to_base64(directory_of(node)));
        let voters: Vec<String> = membership.voters.iter().map(named).collect();
        return refused(format!(
            "node {node_id} with directory id {} is no voter; the voters and their directory ids are {}",
            uuid_to_base64(directory_id),
            voters.join(", ")
        ));
    }
    if votes && membership.voters.len() == 1 {
        return refused(format!("node {node_id} is the only voter"));
    }
    Ok(())
}

fn voter_error(error: ProposeError) -> ApiError {
    let code = match error {
        ProposeError::NotLeader | ProposeError::Busy => ErrorCode::NotLeaderOrFollower,
        ProposeError::ChangeInProgress => ErrorCode::RequestTimedOut,
        ProposeError::TooLarge { .. } | ProposeError::InvalidChange => ErrorCode::InvalidRequest,
    };
    ApiError::new(code, error.to_string())
}
