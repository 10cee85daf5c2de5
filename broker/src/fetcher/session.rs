//! The follower's side of an incremental fetch session (KIP-227): what to send, given what the leader was told before.

use std::collections::BTreeMap;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::messages::{BrokerId, FetchRequest};
use odradek_common::ids::NodeId;
use uuid::Uuid;

/// A partition by its topic's id.
pub type Key = (Uuid, i32);

/// What the leader is asked of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Epoch of the leader as this broker knows it.
    pub leader_epoch: i32,
    /// This replica's log end offset.
    pub fetch_offset: i64,
    /// Epoch of its last record; -1 if the log is empty.
    pub last_epoch: i32,
    /// Its log start offset.
    pub log_start_offset: i64,
}

/// Limits of a fetch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `replica.fetch.wait.max.ms`.
    pub max_wait_ms: i32,
    /// `replica.fetch.min.bytes`.
    pub min_bytes: i32,
    /// `replica.fetch.response.max.bytes`.
    pub max_bytes: i32,
    /// `replica.fetch.max.bytes`.
    pub partition_max_bytes: i32,
}

/// One session with one leader.
#[derive(Default)]
pub struct FetcherSession {
    id: i32,
    epoch: i32,
    sent: BTreeMap<Key, Position>,
}

impl FetcherSession {
    /// The next request for these partitions: full in a new session, else what changed.
    pub fn request(
        &mut self,
        follower: NodeId,
        broker_epoch: i64,
        limits: Limits,
        wanted: &BTreeMap<Key, Position>,
    ) -> FetchRequest {
        let is_full = self.id == 0;
        let mut topics: BTreeMap<Uuid, Vec<FetchPartition>> = BTreeMap::new();
        for (key, position) in wanted
            .iter()
            .filter(|(key, p)| is_full || self.sent.get(key) != Some(p))
        {
            let partition = FetchPartition::default()
                .with_partition(key.1)
                .with_current_leader_epoch(position.leader_epoch)
                .with_fetch_offset(position.fetch_offset)
                .with_last_fetched_epoch(position.last_epoch)
                .with_log_start_offset(position.log_start_offset)
                .with_partition_max_bytes(limits.partition_max_bytes);
            topics.entry(key.0).or_default().push(partition);
        }
        let mut forgotten: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        for key in self
            .sent
            .keys()
            .filter(|key| !is_full && !wanted.contains_key(key))
        {
            forgotten.entry(key.0).or_default().push(key.1);
        }
        self.sent.clone_from(wanted);
        let topic = |(id, partitions)| {
            FetchTopic::default()
                .with_topic_id(id)
                .with_partitions(partitions)
        };
        let forget = |(id, partitions)| {
            ForgottenTopic::default()
                .with_topic_id(id)
                .with_partitions(partitions)
        };
        FetchRequest::default()
            .with_replica_state(
                ReplicaState::default()
                    .with_replica_id(BrokerId(follower))
                    .with_replica_epoch(broker_epoch),
            )
            .with_max_wait_ms(limits.max_wait_ms)
            .with_min_bytes(limits.min_bytes)
            .with_max_bytes(limits.max_bytes)
            .with_session_id(self.id)
            .with_session_epoch(self.epoch)
            .with_topics(topics.into_iter().map(topic).collect())
            .with_forgotten_topics_data(forgotten.into_iter().map(forget).collect())
    }

    /// The leader answered under this session id.
    pub fn answered(&mut self, session_id: i32) {
        if session_id == 0 {
            self.reset();
            return;
        }
        if self.id != session_id {
            self.id = session_id;
            self.epoch = 0;
        }
        self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
    }

    /// The next request opens a new session.
    pub fn reset(&mut self) {
        self.id = 0;
        self.epoch = 0;
        self.sent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 10,
        partition_max_bytes: 5,
    };

    fn wanted(entries: &[(i32, i64)]) -> BTreeMap<Key, Position> {
        let position = |fetch_offset| Position {
            leader_epoch: 0,
            fetch_offset,
            last_epoch: 0,
            log_start_offset: 0,
        };
        entries
            .iter()
            .map(|(index, offset)| ((Uuid::nil(), *index), position(*offset)))
            .collect()
    }

    fn partitions(request: &FetchRequest) -> Vec<i32> {
        request
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|p| p.partition))
            .collect()
    }

    #[test]
    fn after_a_full_request_only_changes_are_sent() {
        let mut session = FetcherSession::default();
        let first = session.request(2, 9, LIMITS, &wanted(&[(0, 0), (1, 0)]));
        assert_eq!(
            (first.session_id, first.session_epoch, partitions(&first)),
            (0, 0, vec![0, 1])
        );
        session.answered(77);
        let second = session.request(2, 9, LIMITS, &wanted(&[(0, 5)]));
        assert_eq!(
            (second.session_id, second.session_epoch, partitions(&second)),
            (77, 1, vec![0])
        );
        assert_eq!(second.forgotten_topics_data[0].partitions, [1]);
        session.answered(77);
        let third = session.request(2, 9, LIMITS, &wanted(&[(0, 5)]));
        assert_eq!((third.session_epoch, partitions(&third)), (2, vec![]));
        session.reset();
        assert_eq!(
            partitions(&session.request(2, 9, LIMITS, &wanted(&[(0, 5)]))),
            [0]
        );
    }
}
