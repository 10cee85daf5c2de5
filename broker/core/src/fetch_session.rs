//! Incremental fetch sessions (KIP-227): the broker remembers what a client fetches, so that requests and responses carry
//! changes alone.
//!
//! Bounded: at most `slots` sessions; a new one takes the place of the one that has been idle longest, if that is idle for
//! [`EVICTION_MS`]; otherwise the client goes on without a session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use odradek_common::error::ErrorCode;
use odradek_common::time::Now;
use uuid::Uuid;

/// A session that is used more often than this is not evicted for another client's (Kafka's
/// `min.incremental.fetch.session.eviction.ms`).
pub const EVICTION_MS: u64 = 120_000;

/// Session epoch of a request that opens a session.
const INITIAL_EPOCH: i32 = 0;
/// Session epoch of a request that wants none, or closes the one it names.
const FINAL_EPOCH: i32 = -1;
/// Session id of "none".
const NO_SESSION: i32 = 0;

/// How a request names a topic: by name up to version 12, by id since.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicKey {
    /// Fetch v12 and below.
    Name(Arc<str>),
    /// Fetch v13 and above.
    Id(Uuid),
}

/// A partition as a fetch names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FetchKey {
    /// Its topic.
    pub topic: TopicKey,
    /// Its index.
    pub partition: i32,
}

/// What is asked of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    /// Which one.
    pub key: FetchKey,
    /// Leader epoch the client knows; -1 if none.
    pub current_leader_epoch: i32,
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Epoch of the last record the client holds; -1 if it does not say.
    pub last_fetched_epoch: i32,
    /// A follower's log start offset; -1 from consumers.
    pub log_start_offset: i64,
    /// Most bytes wanted from this partition.
    pub max_bytes: i32,
}

/// What an incremental response compares with the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionAnswer {
    /// High watermark as answered.
    pub high_watermark: i64,
    /// Log start offset as answered.
    pub log_start_offset: i64,
    /// True if records, an error, a diverging epoch or a preferred replica must reach the client anyway.
    pub must_send: bool,
    /// True if the answer carries an error; it is sent again until it is gone.
    pub failed: bool,
}

/// One request's view of its session.
#[derive(Debug, PartialEq, Eq)]
pub struct FetchContext {
    kind: Kind,
    /// Everything to read, in the order of the session.
    pub partitions: Vec<FetchPartition>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Sessionless,
    Full { uses_ids: bool, privileged: bool },
    Incremental { id: i32 },
}

struct Session {
    epoch: i32,
    uses_ids: bool,
    privileged: bool,
    last_used_ms: u64,
    order: Vec<FetchKey>,
    partitions: BTreeMap<FetchKey, Cached>,
}

struct Cached {
    request: FetchPartition,
    sent: Option<(i64, i64)>,
}

/// The session part of a fetch request.
#[derive(Debug)]
pub struct SessionRequest {
    /// `session_id`.
    pub id: i32,
    /// `session_epoch`.
    pub epoch: i32,
    /// True from Fetch v13 on.
    pub uses_ids: bool,
    /// True for a follower: its session is the last to be evicted.
    pub follower: bool,
    /// Partitions that are new or changed.
    pub partitions: Vec<FetchPartition>,
    /// Partitions that leave the session.
    pub forgotten: Vec<FetchKey>,
}

/// Every session of a broker.
pub struct FetchSessions {
    slots: usize,
    sessions: BTreeMap<i32, Session>,
    by_age: BTreeSet<(bool, u64, i32)>,
    next_id: i32,
}

impl FetchSessions {
    /// No sessions yet, at most `slots` of them (`max.incremental.fetch.session.cache.slots`). Ids start after `first_id`,
    /// which should differ from start to start, so that a client of an earlier process is recognised as such.
    #[must_use]
    pub fn new(slots: usize, first_id: i32) -> Self {
        Self {
            slots,
            sessions: BTreeMap::new(),
            by_age: BTreeSet::new(),
            next_id: first_id.max(1),
        }
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// What this request reads.
    ///
    /// # Errors
    /// FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH, FETCH_SESSION_TOPIC_ID_ERROR: the client starts over with a
    /// full request.
    pub fn begin(&mut self, now: Now, request: SessionRequest) -> Result<FetchContext, ErrorCode> {
        if request.epoch == INITIAL_EPOCH || request.epoch == FINAL_EPOCH {
            // A full request replaces the session that it names.
            self.remove(request.id);
            let kind = if request.epoch == FINAL_EPOCH {
                Kind::Sessionless
            } else {
                Kind::Full {
                    uses_ids: request.uses_ids,
                    privileged: request.follower,
                }
            };
            return Ok(FetchContext {
                kind,
                partitions: request.partitions,
            });
        }
        let session = self
            .sessions
            .get_mut(&request.id)
            .ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != request.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.uses_ids != request.uses_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        session.update(request.partitions, &request.forgotten);
        session.epoch = if session.epoch == i32::MAX {
            1
        } else {
            session.epoch + 1
        };
        self.by_age
            .remove(&(session.privileged, session.last_used_ms, request.id));
        session.last_used_ms = now.mono_ms;
        self.by_age.insert((session.privileged, now.mono_ms, request.id));
        if session.partitions.is_empty() {
            let partitions = Vec::new();
            self.remove(request.id);
            return Ok(FetchContext {
                kind: Kind::Sessionless,
                partitions,
            });
        }
        let partitions = session
            .order
            .iter()
            .map(|key| session.partitions[key].request.clone())
            .collect();
        Ok(FetchContext {
            kind: Kind::Incremental { id: request.id },
            partitions,
        })
    }

    /// Which answers to send (`true`), and the session id of the response. `answers` are in the order of
    /// `context.partitions`.
    pub fn finish(
        &mut self,
        now: Now,
        context: FetchContext,
        answers: &[PartitionAnswer],
    ) -> (i32, Vec<bool>) {
        let everything = vec![true; answers.len()];
        match context.kind {
            Kind::Sessionless => (NO_SESSION, everything),
            Kind::Full { uses_ids, privileged } => {
                if context.partitions.is_empty() || !self.make_room(now) {
                    return (NO_SESSION, everything);
                }
                (
                    self.open(now, uses_ids, privileged, context.partitions, answers),
                    everything,
                )
            }
            Kind::Incremental { id } => {
                let Some(session) = self.sessions.get_mut(&id) else {
                    return (NO_SESSION, everything);
                };
                (id, session.changed(&context.partitions, answers))
            }
        }
    }

    fn open(
        &mut self,
        now: Now,
        uses_ids: bool,
        privileged: bool,
        partitions: Vec<FetchPartition>,
        answers: &[PartitionAnswer],
    ) -> i32 {
        let id = self.next_id;
        self.next_id = if id == i32::MAX { 1 } else { id + 1 };
        let mut session = Session {
            epoch: 1,
            uses_ids,
            privileged,
            last_used_ms: now.mono_ms,
            order: Vec::with_capacity(partitions.len()),
            partitions: BTreeMap::new(),
        };
        session.update(partitions, &[]);
        for (key, answer) in session.order.clone().iter().zip(answers) {
            session.note_sent(key, *answer);
        }
        self.sessions.insert(id, session);
        self.by_age.insert((privileged, now.mono_ms, id));
        id
    }

    fn make_room(&mut self, now: Now) -> bool {
        if self.sessions.len() < self.slots {
            return true;
        }
        let Some(&(_, last_used_ms, id)) = self.by_age.first() else {
            return false;
        };
        if now.mono_ms.saturating_sub(last_used_ms) <= EVICTION_MS {
            return false;
        }
        self.remove(id);
        true
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.by_age
                .remove(&(session.privileged, session.last_used_ms, id));
        }
    }
}

impl Session {
    fn update(&mut self, partitions: Vec<FetchPartition>, forgotten: &[FetchKey]) {
        for request in partitions {
            let key = request.key.clone();
            match self.partitions.get_mut(&key) {
                Some(cached) => cached.request = request,
                None => {
                    self.order.push(key.clone());
                    self.partitions.insert(key, Cached { request, sent: None });
                }
            }
        }
        if forgotten.is_empty() {
            return;
        }
        for key in forgotten {
            self.partitions.remove(key);
        }
        self.order.retain(|key| self.partitions.contains_key(key));
    }

    fn changed(&mut self, partitions: &[FetchPartition], answers: &[PartitionAnswer]) -> Vec<bool> {
        let mut sent_with_records = Vec::new();
        let mut keep = Vec::with_capacity(answers.len());
        for (partition, answer) in partitions.iter().zip(answers) {
            let offsets = (answer.high_watermark, answer.log_start_offset);
            let cached = self.partitions.get(&partition.key);
            let send = answer.must_send || cached.is_none_or(|cached| cached.sent != Some(offsets));
            if send {
                self.note_sent(&partition.key, *answer);
            }
            if answer.must_send && !answer.failed {
                sent_with_records.push(partition.key.clone());
            }
            keep.push(send);
        }
        self.rotate(&sent_with_records);
        keep
    }

    /// Partitions that were served go to the end, so that a full response does not starve the others.
    fn rotate(&mut self, served: &[FetchKey]) {
        if served.is_empty() || served.len() == self.order.len() {
            return;
        }
        let served: BTreeSet<&FetchKey> = served.iter().collect();
        let (mut waiting, mut last): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.order) {
            if served.contains(&key) {
                last.push(key)
            } else {
                waiting.push(key)
            }
        }
        waiting.append(&mut last);
        self.order = waiting;
    }

    fn note_sent(&mut self, key: &FetchKey, answer: PartitionAnswer) {
        if let Some(cached) = self.partitions.get_mut(key) {
            let offsets = (answer.high_watermark, answer.log_start_offset);
            cached.sent = (!answer.failed).then_some(offsets);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(index: i32, fetch_offset: i64) -> FetchPartition {
        FetchPartition {
            key: FetchKey {
                topic: TopicKey::Name("t".into()),
                partition: index,
            },
            current_leader_epoch: -1,
            fetch_offset,
            last_fetched_epoch: -1,
            log_start_offset: -1,
            max_bytes: 1000,
        }
    }

    fn request(id: i32, epoch: i32, partitions: Vec<FetchPartition>) -> SessionRequest {
        SessionRequest {
            id,
            epoch,
            uses_ids: false,
            follower: false,
            partitions,
            forgotten: Vec::new(),
        }
    }

    fn answer(high_watermark: i64, must_send: bool) -> PartitionAnswer {
        PartitionAnswer {
            high_watermark,
            log_start_offset: 0,
            must_send,
            failed: false,
        }
    }

    fn open(sessions: &mut FetchSessions, ms: u64) -> i32 {
        let now = Now::new(ms, 0);
        let context = sessions
            .begin(now, request(0, 0, vec![partition(0, 0), partition(1, 0)]))
            .unwrap();
        sessions
            .finish(now, context, &[answer(5, false), answer(5, false)])
            .0
    }

    #[test]
    fn an_incremental_response_leaves_out_what_did_not_change() {
        let mut sessions = FetchSessions::new(10, 1);
        let id = open(&mut sessions, 0);
        assert_ne!(id, 0);
        let context = sessions
            .begin(Now::new(1, 0), request(id, 1, vec![partition(1, 3)]))
            .unwrap();
        assert_eq!(context.partitions, [partition(0, 0), partition(1, 3)]);
        let (same, keep) = sessions.finish(Now::new(1, 0), context, &[answer(5, false), answer(6, false)]);
        assert_eq!((same, keep), (id, vec![false, true]));
        let context = sessions.begin(Now::new(2, 0), request(id, 2, vec![])).unwrap();
        let (_, keep) = sessions.finish(Now::new(2, 0), context, &[answer(5, true), answer(6, false)]);
        assert_eq!(keep, [true, false]);
    }

    #[test]
    fn served_partitions_go_to_the_end() {
        let mut sessions = FetchSessions::new(10, 1);
        let id = open(&mut sessions, 0);
        let context = sessions.begin(Now::new(1, 0), request(id, 1, vec![])).unwrap();
        sessions.finish(Now::new(1, 0), context, &[answer(9, true), answer(5, false)]);
        let context = sessions.begin(Now::new(2, 0), request(id, 2, vec![])).unwrap();
        assert_eq!(context.partitions, [partition(1, 0), partition(0, 0)]);
    }

    #[test]
    fn wrong_ids_and_epochs_are_refused() {
        let mut sessions = FetchSessions::new(10, 1);
        let id = open(&mut sessions, 0);
        let now = Now::default();
        assert_eq!(
            sessions.begin(now, request(id + 1, 1, vec![])),
            Err(ErrorCode::FetchSessionIdNotFound)
        );
        assert_eq!(
            sessions.begin(now, request(id, 2, vec![])),
            Err(ErrorCode::InvalidFetchSessionEpoch)
        );
        let by_id = SessionRequest {
            uses_ids: true,
            ..request(id, 1, vec![])
        };
        assert_eq!(
            sessions.begin(now, by_id),
            Err(ErrorCode::FetchSessionTopicIdError)
        );
        assert!(sessions.begin(now, request(id, -1, vec![])).is_ok());
        assert!(sessions.is_empty());
    }

    #[test]
    fn a_full_cache_goes_on_without_sessions() {
        let mut sessions = FetchSessions::new(1, 1);
        let first = open(&mut sessions, 0);
        assert_eq!(open(&mut sessions, EVICTION_MS), 0);
        let second = open(&mut sessions, EVICTION_MS + 1);
        assert!(second != 0 && second != first);
        assert_eq!(sessions.len(), 1);
    }

    #[test]
    fn forgotten_partitions_leave() {
        let mut sessions = FetchSessions::new(1, 1);
        let id = open(&mut sessions, 0);
        let forgotten = vec![partition(0, 0).key];
        let context = sessions
            .begin(
                Now::default(),
                SessionRequest {
                    forgotten,
                    ..request(id, 1, vec![])
                },
            )
            .unwrap();
        assert_eq!(context.partitions, [partition(1, 0)]);
    }
}
