//! Fetches of followers: both ends, as `broker/src/fetcher/task.rs` and `broker/src/api/fetch.rs` have them.

use std::collections::BTreeMap;

use odradek_broker_core::partition::{FollowerFetch, ReplicaLog};
use odradek_common::error::ErrorCode;
use odradek_common::ids::NodeId;

use super::broker::{BrokerNode, Replica};
use crate::env::Env;
use crate::message::{Address, Channel, FetchRequest, Fetched, Key, Payload, Position, ReturnAddress};

const FETCH_TIMEOUT_MS: u64 = 600;
const PARTITION_PAUSE_MS: u64 = 50;
const BATCHES_MAX: usize = 8;

/// Fetches from one leader.
#[derive(Default)]
pub struct Fetcher {
    outstanding: Option<Outstanding>,
    next_ms: u64,
    paused: BTreeMap<Key, u64>,
}

struct Outstanding {
    id: u64,
    positions: BTreeMap<Key, Position>,
    deadline_ms: u64,
}

impl BrokerNode {
    pub(super) fn pursue_fetching(&mut self, env: &mut Env) {
        let followed: Vec<NodeId> = self
            .replicas
            .values()
            .filter_map(|replica| replica.partition.leader_to_follow())
            .collect();
        for leader in followed {
            self.fetch_from(env, leader);
        }
    }

    fn fetch_from(&mut self, env: &mut Env, leader: NodeId) {
        let now_ms = env.now.mono_ms;
        let fetcher = self.fetchers.entry(leader).or_default();
        if fetcher
            .outstanding
            .take_if(|outstanding| outstanding.deadline_ms <= now_ms)
            .is_some()
        {
            env.reconnect(self.at.node, leader, Channel::Fetch);
        }
        if fetcher.outstanding.is_some() || now_ms < fetcher.next_ms {
            return;
        }
        // Asking for what comes next says that all before it is held for good.
        let mut followed = self
            .replicas
            .values()
            .filter(|replica| replica.partition.leader_to_follow() == Some(leader));
        if followed.any(|replica| replica.partition.log().is_flush_due()) {
            return;
        }
        fetcher.paused.retain(|_, until_ms| *until_ms > now_ms);
        let follows = |(key, replica): &(&Key, &Replica)| {
            replica.partition.leader_to_follow() == Some(leader) && !fetcher.paused.contains_key(*key)
        };
        let position = |(key, replica): (&Key, &Replica)| {
            let log = replica.partition.log();
            let position = Position {
                leader_epoch: replica.partition.image().leader_epoch,
                fetch_offset: log.log_end_offset(),
                last_epoch: log.last_record_epoch(),
            };
            (*key, position)
        };
        let positions: BTreeMap<Key, Position> = self.replicas.iter().filter(follows).map(position).collect();
        if positions.is_empty() {
            return;
        }
        let id = env.id();
        let partitions = positions
            .iter()
            .map(|(key, position)| (*key, *position))
            .collect();
        fetcher.outstanding = Some(Outstanding {
            id,
            positions,
            deadline_ms: now_ms + FETCH_TIMEOUT_MS,
        });
        let request = FetchRequest {
            replica: self.at.node,
            broker_epoch: self.lifecycle.epoch,
            partitions,
        };
        env.request(self.at, leader, Channel::Fetch, Payload::Fetch { id, request });
    }

    pub(super) fn forget_fetches(&mut self, env: &mut Env) {
        for (leader, fetcher) in &mut self.fetchers {
            if fetcher.outstanding.take().is_some() {
                env.reconnect(self.at.node, *leader, Channel::Fetch);
            }
        }
    }

    /// The leader's end.
    pub(super) fn fetch(&mut self, env: &mut Env, from: Address, id: u64, request: &FetchRequest) {
        for (key, position) in &request.partitions {
            let Some(replica) = self.replicas.get_mut(key) else {
                continue;
            };
            let partition = &mut replica.partition;
            // A fetch of another epoch tells of a log that may have been truncated since.
            if partition.check_leader(position.leader_epoch).is_err()
                || partition
                    .diverging_epoch(position.fetch_offset, position.last_epoch)
                    .is_some()
            {
                continue;
            }
            let fetch = FollowerFetch {
                replica: request.replica,
                broker_epoch: request.broker_epoch,
                fetch_offset: position.fetch_offset,
                log_start_offset: 0,
            };
            if partition
                .follower_fetched(env.now, fetch)
                .is_ok_and(|progress| progress.may_expand)
            {
                self.isr.expand(*key);
            }
            self.settle(env, *key);
        }
        let answers = request
            .partitions
            .iter()
            .map(|(key, position)| (*key, self.read(*key, *position)));
        let answers = answers.collect();
        let to = ReturnAddress {
            to: from,
            id,
            channel: Channel::Fetch,
        };
        env.respond(self.at, to, Payload::Fetched { id, answers });
    }

    fn read(&self, key: Key, position: Position) -> Fetched {
        let refused = |code, log_end| Fetched::Refused {
            code,
            log_start: 0,
            log_end,
        };
        let Some(replica) = self.replicas.get(&key) else {
            return refused(ErrorCode::NotLeaderOrFollower, -1);
        };
        let (partition, log) = (&replica.partition, replica.partition.log());
        if let Err(code) = partition.check_leader(position.leader_epoch) {
            return refused(code, -1);
        }
        match partition.diverging_epoch(position.fetch_offset, position.last_epoch) {
            Some((_, end_offset)) if end_offset < 0 => {
                refused(ErrorCode::OffsetOutOfRange, log.log_end_offset())
            }
            Some((epoch, end_offset)) => Fetched::Diverging { epoch, end_offset },
            None if position.fetch_offset > log.log_end_offset() => {
                refused(ErrorCode::OffsetOutOfRange, log.log_end_offset())
            }
            None => Fetched::Records {
                batches: log.read(position.fetch_offset, BATCHES_MAX),
                high_watermark: log.high_watermark(),
            },
        }
    }

    /// The follower's end.
    pub(super) fn fetched(&mut self, env: &mut Env, leader: NodeId, id: u64, answers: Vec<(Key, Fetched)>) {
        let Some(fetcher) = self.fetchers.get_mut(&leader) else {
            return;
        };
        let Some(outstanding) = fetcher.outstanding.take_if(|outstanding| outstanding.id == id) else {
            return;
        };
        let mut idle = true;
        for (key, answer) in answers {
            let Some(position) = outstanding.positions.get(&key) else {
                continue;
            };
            idle &= matches!(&answer, Fetched::Records { batches, .. } if batches.is_empty());
            if !self.take(env, leader, key, *position, answer)
                && let Some(fetcher) = self.fetchers.get_mut(&leader)
            {
                fetcher.paused.insert(key, env.now.mono_ms + PARTITION_PAUSE_MS);
            }
            self.settle(env, key);
        }
        let pause_ms = if idle { env.rng.between(5, 30) } else { 0 };
        if let Some(fetcher) = self.fetchers.get_mut(&leader) {
            fetcher.next_ms = env.now.mono_ms + pause_ms;
        }
    }

    /// False if the partition should rest for a while.
    fn take(&mut self, env: &mut Env, leader: NodeId, key: Key, position: Position, answer: Fetched) -> bool {
        let Some(replica) = self.replicas.get_mut(&key) else {
            return true;
        };
        let partition = &mut replica.partition;
        if !partition.follows(leader, position.leader_epoch) {
            return false;
        }
        match answer {
            Fetched::Refused {
                code: ErrorCode::OffsetOutOfRange,
                log_end,
                ..
            } => {
                if log_end < partition.log().log_end_offset() {
                    let Ok(()) = partition.log_mut().truncate_to(env.now, log_end);
                }
                true
            }
            Fetched::Refused { .. } => false,
            Fetched::Diverging { epoch, end_offset } => {
                let before = partition.log().log_end_offset();
                let Ok(to) = partition.truncate_to_leader(env.now, epoch, end_offset);
                let node = self.at.node;
                env.note(format_args!(
                    "node {node} partition {} truncates {before} to {to}: leader {leader} has epoch {epoch} to {end_offset}",
                    key.1
                ));
                true
            }
            Fetched::Records {
                batches,
                high_watermark,
            } => {
                if !partition.log_mut().append_as_follower(&batches) {
                    return false;
                }
                for batch in &batches {
                    env.checkers.leaders.appended(key, batch);
                }
                partition.follower_high_watermark(high_watermark);
                true
            }
        }
    }
}
