//! ISR changes on their way to the controller, as `broker/src/isr.rs` has them.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use kafka_protocol::messages::{AlterPartitionRequest, AlterPartitionResponse, BrokerId};
use odradek_broker_core::partition::IsrProposal;
use odradek_common::error::ErrorCode;
use uuid::Uuid;

use super::broker::{BrokerNode, Purpose};
use crate::env::Env;
use crate::message::{ControllerRequest, Key};
use crate::scenario::REPLICA_LAG_MS;

const TIMEOUT_MS: u64 = 1_000;
const RETRY_PAUSE_MS: u64 = 50;

/// Replicas whose ISR may change, and the request under way.
#[derive(Default)]
pub struct IsrUpdates {
    candidates: BTreeSet<Key>,
    proposals: Vec<(Key, IsrProposal)>,
    waits: bool,
    retry_ms: u64,
    shrink_due_ms: u64,
}

impl IsrUpdates {
    pub(super) fn expand(&mut self, key: Key) {
        self.candidates.insert(key);
    }
}

impl BrokerNode {
    pub(super) fn pursue_isr(&mut self, env: &mut Env) {
        let now_ms = env.now.mono_ms;
        if self.isr.waits || now_ms < self.isr.retry_ms {
            return;
        }
        if self.isr.proposals.is_empty() {
            self.isr.proposals = self.expansions();
            if now_ms >= self.isr.shrink_due_ms {
                self.isr.shrink_due_ms = now_ms + REPLICA_LAG_MS / 2;
                let shrunk = self
                    .replicas
                    .iter_mut()
                    .filter_map(|(key, replica)| Some((*key, replica.partition.propose_shrink(env.now)?)));
                self.isr.proposals.extend(shrunk);
            }
        }
        if !self.isr.proposals.is_empty() {
            self.isr.waits = true;
            let request = ControllerRequest::AlterPartition(self.alter_partition());
            self.call(env, Purpose::AlterPartition, request, TIMEOUT_MS);
        }
    }

    fn expansions(&mut self) -> Vec<(Key, IsrProposal)> {
        let image = &self.image;
        let eligible = |replica: i32, epoch: i64| {
            let registered = image.brokers.get(&replica);
            registered.is_some_and(|b| {
                !b.fenced && !b.in_controlled_shutdown && (epoch < 0 || b.broker_epoch == epoch)
            })
        };
        let candidates = std::mem::take(&mut self.isr.candidates);
        let propose = |key| {
            Some((
                key,
                self.replicas
                    .get_mut(&key)?
                    .partition
                    .propose_expansion(eligible)?,
            ))
        };
        candidates.into_iter().filter_map(propose).collect()
    }

    fn alter_partition(&self) -> AlterPartitionRequest {
        let mut topics: BTreeMap<Uuid, Vec<PartitionData>> = BTreeMap::new();
        for (key, proposal) in &self.isr.proposals {
            let isr = proposal.isr.iter().map(|(id, epoch)| {
                let own = *id == self.at.node;
                BrokerState::default()
                    .with_broker_id(BrokerId(*id))
                    .with_broker_epoch(if own { self.lifecycle.epoch } else { *epoch })
            });
            let partition = PartitionData::default()
                .with_partition_index(key.1)
                .with_leader_epoch(proposal.leader_epoch)
                .with_partition_epoch(proposal.partition_epoch)
                .with_new_isr_with_epochs(isr.collect());
            topics.entry(key.0).or_default().push(partition);
        }
        let topics = topics
            .into_iter()
            .map(|(id, partitions)| TopicData::default().with_topic_id(id).with_partitions(partitions));
        AlterPartitionRequest::default()
            .with_broker_id(BrokerId(self.at.node))
            .with_broker_epoch(self.lifecycle.epoch)
            .with_topics(topics.collect())
    }

    pub(super) fn isr_answered(&mut self, env: &mut Env, response: Option<&AlterPartitionResponse>) {
        self.isr.waits = false;
        let proposals = std::mem::take(&mut self.isr.proposals);
        let Some(response) = response.filter(|response| response.error_code == 0) else {
            // The outcome is open.
            self.isr.retry_ms = env.now.mono_ms + RETRY_PAUSE_MS;
            let again = |(key, _): (Key, IsrProposal)| {
                Some((key, self.replicas.get(&key)?.partition.pending_proposal()?))
            };
            self.isr.proposals = proposals.into_iter().filter_map(again).collect();
            return;
        };
        let codes: BTreeMap<Key, i16> = response
            .topics
            .iter()
            .flat_map(|topic| {
                topic
                    .partitions
                    .iter()
                    .map(|p| ((topic.topic_id, p.partition_index), p.error_code))
            })
            .collect();
        for (key, proposal) in proposals {
            let Some(code) = codes.get(&key).copied() else {
                continue;
            };
            let isr: Vec<i32> = proposal.isr.iter().map(|member| member.0).collect();
            env.note(format_args!(
                "node {} partition {} isr {isr:?} answered {code}",
                self.at.node, key.1
            ));
            self.note_outcome(env, key, &proposal, code);
        }
    }

    /// Only INELIGIBLE_REPLICA says that the partition epoch is current and that no controller has recorded the proposal. Any
    /// other refusal may answer a repetition of a request that was recorded: the proposal counts until an image decides.
    fn note_outcome(&mut self, env: &mut Env, key: Key, proposal: &IsrProposal, code: i16) {
        let Some(replica) = self.replicas.get_mut(&key) else {
            return;
        };
        if code == ErrorCode::IneligibleReplica.code() {
            replica
                .partition
                .proposal_refused(env.now, proposal.partition_epoch);
            self.settle(env, key);
        } else if code == ErrorCode::NotController.code() {
            self.isr.proposals.extend(
                replica
                    .partition
                    .pending_proposal()
                    .map(|proposal| (key, proposal)),
            );
        }
    }
}
