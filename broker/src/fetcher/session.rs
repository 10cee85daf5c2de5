//! The follower's side of an incremental fetch session (KIP-227): what to send, given what the leader was told before.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::messages::{BrokerId, FetchRequest};
use odradek_common::error::ErrorCode;
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

/// One session with one leader: what is wanted of it, and what of that it has not been told.
#[derive(Default)]
pub struct FetcherSession {
    /// 0 if the leader keeps none.
    id: i32,
    /// 0 if the next request opens a session.
    epoch: i32,
    wanted: BTreeMap<Key, Position>,
    changed: BTreeSet<Key>,
    forgotten: BTreeSet<Key>,
}

impl FetcherSession {
    /// A partition is to be fetched from there.
    pub fn want(&mut self, key: Key, position: Position) {
        if self.wanted.insert(key, position) != Some(position) {
            self.changed.insert(key);
            self.forgotten.remove(&key);
        }
    }

    /// A partition is not to be fetched, for now or for good.
    pub fn forget(&mut self, key: Key) {
        if self.wanted.remove(&key).is_some() {
            self.changed.remove(&key);
            self.forgotten.insert(key);
        }
    }

    /// Where a partition is fetched from.
    pub fn position(&self, key: Key) -> Option<Position> {
        self.wanted.get(&key).copied()
    }

    /// True if nothing is to be fetched.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The next request: full in a new session, else what changed. What did not change costs nothing.
    pub fn request(&mut self, follower: NodeId, broker_epoch: i64, limits: Limits) -> FetchRequest {
        let mut topics: BTreeMap<Uuid, Vec<FetchPartition>> = BTreeMap::new();
        let mut ask = |key: &Key, position: &Position| {
            let partition = FetchPartition::default()
                .with_partition(key.1)
                .with_current_leader_epoch(position.leader_epoch)
                .with_fetch_offset(position.fetch_offset)
                .with_last_fetched_epoch(position.last_epoch)
                .with_log_start_offset(position.log_start_offset)
                .with_partition_max_bytes(limits.partition_max_bytes);
            topics.entry(key.0).or_default().push(partition);
        };
        let changed = std::mem::take(&mut self.changed);
        let mut forgotten: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        for key in std::mem::take(&mut self.forgotten) {
            forgotten.entry(key.0).or_default().push(key.1);
        }
        if self.epoch == 0 {
            forgotten.clear();
            self.wanted.iter().for_each(|(key, position)| ask(key, position));
        } else {
            changed.iter().for_each(|key| ask(key, &self.wanted[key]));
        }
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
        if self.id != session_id {
            self.id = session_id;
            self.epoch = 0;
        }
        if session_id == 0 {
            return;
        }
        self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
    }

    /// The leader refused the request as a whole.
    pub fn refused(&mut self, error_code: i16) {
        if error_code == ErrorCode::FetchSessionIdNotFound.code() {
            self.id = 0;
        }
        self.reset();
    }

    /// The next request opens a new session. It names the one before, so that the leader does not keep that as well.
    pub fn reset(&mut self) {
        self.epoch = 0;
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

    fn key(index: i32) -> Key {
        (Uuid::nil(), index)
    }

    fn at(fetch_offset: i64) -> Position {
        Position {
            leader_epoch: 0,
            fetch_offset,
            last_epoch: 0,
            log_start_offset: 0,
        }
    }

    fn request(session: &mut FetcherSession) -> FetchRequest {
        session.request(2, 9, LIMITS)
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
        assert!(session.is_empty());
        (0..3).for_each(|index| session.want(key(index), at(0)));
        let first = request(&mut session);
        assert_eq!(
            (first.session_id, first.session_epoch, partitions(&first)),
            (0, 0, vec![0, 1, 2])
        );
        session.answered(77);
        session.want(key(0), at(5));
        session.want(key(1), at(0));
        session.forget(key(2));
        session.forget(key(9));
        let second = request(&mut session);
        assert_eq!(
            (second.session_id, second.session_epoch, partitions(&second)),
            (77, 1, vec![0])
        );
        assert_eq!(second.forgotten_topics_data[0].partitions, [2]);
        session.answered(77);
        let third = request(&mut session);
        assert_eq!((third.session_epoch, partitions(&third)), (2, vec![]));
        assert!(third.forgotten_topics_data.is_empty());
    }

    #[test]
    fn a_new_session_is_told_everything() {
        let mut session = FetcherSession::default();
        (0..3).for_each(|index| session.want(key(index), at(0)));
        request(&mut session);
        session.answered(77);
        session.forget(key(1));
        session.reset();
        let full = request(&mut session);
        assert_eq!(partitions(&full), [0, 2]);
        assert!(full.forgotten_topics_data.is_empty());
        session.answered(78);
        assert_eq!(partitions(&request(&mut session)), [0; 0]);
    }

    #[test]
    fn a_new_session_names_the_one_that_it_takes_the_place_of() {
        let mut session = FetcherSession::default();
        session.want(key(0), at(0));
        let next = |session: &mut FetcherSession| {
            let request = request(session);
            (request.session_id, request.session_epoch, partitions(&request))
        };
        next(&mut session);
        session.answered(77);
        session.reset();
        assert_eq!(next(&mut session), (77, 0, vec![0]));
        session.answered(78);
        assert_eq!(next(&mut session), (78, 1, vec![]));
        session.refused(ErrorCode::InvalidFetchSessionEpoch.code());
        assert_eq!(next(&mut session), (78, 0, vec![0]));
        session.refused(ErrorCode::FetchSessionIdNotFound.code());
        assert_eq!(next(&mut session), (0, 0, vec![0]), "the leader keeps none");
        session.answered(0);
        assert_eq!(next(&mut session), (0, 0, vec![0]), "it had no room");
    }

    #[test]
    fn a_partition_that_comes_back_is_asked_for_and_not_forgotten() {
        let mut session = FetcherSession::default();
        session.want(key(0), at(0));
        session.want(key(1), at(0));
        request(&mut session);
        session.answered(77);
        session.forget(key(1));
        session.want(key(1), at(0));
        let back = request(&mut session);
        assert_eq!(partitions(&back), [1]);
        assert!(back.forgotten_topics_data.is_empty());
        assert_eq!(session.position(key(1)), Some(at(0)));
    }
}
