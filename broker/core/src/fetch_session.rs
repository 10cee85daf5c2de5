//! Incremental fetch sessions (KIP-227): the broker remembers what a client fetches, so that requests and responses carry
//! changes alone, and so that a fetch costs what has changed and not what the session names.
//!
//! [`FetchSessions`] knows which sessions there are, [`FetchSession`] what one of them fetches. A partition of a session is
//! *ready* while it must be looked at: the request named it, somebody marked it because it changed, or its last answer
//! carried something that the client may not have taken yet.
//!
//! Bounded: at most `slots` sessions. A new one takes the place of one that has been idle for [`EVICTION_MS`], or that of a
//! consumer if it is a follower's; otherwise the client goes on without a session.

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
    /// True if the next fetch must look at the partition although nothing marks it.
    pub stays_ready: bool,
}

/// So many partitions of a fetch without a session are taken as they are named. Of more, each counts once: however often a
/// request names a partition, it is watched a few times at most.
const UNSORTED_MAX: usize = 256;

/// A partition's place in its session, for as long as it is in it.
pub type SlotId = u32;

/// A partition of a session, and what its broker attached to it.
pub struct Slot<T> {
    /// What the client asks of it.
    pub request: FetchPartition,
    /// Whatever the broker needs to answer.
    pub attached: T,
    /// Whoever was served last comes last.
    turn: u64,
    is_ready: bool,
    /// High watermark and log start offset that the client knows.
    sent: Option<(i64, i64)>,
}

/// What one client fetches.
pub struct FetchSession<T> {
    slots: Vec<Option<Slot<T>>>,
    vacant: Vec<SlotId>,
    by_key: BTreeMap<FetchKey, SlotId>,
    ready: Vec<SlotId>,
    next_turn: u64,
    round: u64,
}

impl<T> Default for FetchSession<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            by_key: BTreeMap::new(),
            ready: Vec::new(),
            next_turn: 0,
            round: 0,
        }
    }
}

impl<T> FetchSession<T> {
    /// The partitions of a fetch without a session: all of them ready.
    pub fn once(
        partitions: impl IntoIterator<Item = FetchPartition>,
        mut attach: impl FnMut(SlotId, &FetchPartition) -> T,
    ) -> Self {
        let mut session = Self::default();
        let mut partitions = partitions.into_iter();
        for request in partitions.by_ref().take(UNSORTED_MAX) {
            session.add(request, &mut attach);
        }
        session.update(partitions, attach);
        session
    }

    /// Adds what is new, changes what is known; both are ready then.
    pub fn update(
        &mut self,
        partitions: impl IntoIterator<Item = FetchPartition>,
        mut attach: impl FnMut(SlotId, &FetchPartition) -> T,
    ) {
        for request in partitions {
            match self.by_key.get(&request.key) {
                Some(&id) => {
                    self.slot_mut(id).request = request;
                    self.mark(id);
                }
                None => {
                    let key = request.key.clone();
                    let id = self.add(request, &mut attach);
                    self.by_key.insert(key, id);
                }
            }
        }
    }

    /// Removes partitions.
    pub fn forget(&mut self, keys: impl IntoIterator<Item = FetchKey>) {
        let before = self.vacant.len();
        for key in keys {
            if let Some(id) = self.by_key.remove(&key) {
                self.slots[id as usize] = None;
                self.vacant.push(id);
            }
        }
        if self.vacant.len() > before {
            let slots = &self.slots;
            self.ready.retain(|id| slots[*id as usize].is_some());
        }
    }

    fn add(
        &mut self,
        request: FetchPartition,
        attach: &mut impl FnMut(SlotId, &FetchPartition) -> T,
    ) -> SlotId {
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            SlotId::try_from(self.slots.len() - 1).expect("a request has fewer partitions than bytes")
        });
        let attached = attach(id, &request);
        self.slots[id as usize] = Some(Slot {
            request,
            attached,
            turn: self.next_turn,
            is_ready: true,
            sent: None,
        });
        self.next_turn += 1;
        self.ready.push(id);
        id
    }

    /// How many partitions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A request begins; whoever still waits for an earlier one is superseded.
    pub fn begin_round(&mut self) -> u64 {
        self.round += 1;
        self.round
    }

    /// The request that was begun last.
    #[must_use]
    pub fn round(&self) -> u64 {
        self.round
    }

    /// The partition has changed: it must be looked at. False if it has left the session meanwhile.
    pub fn mark(&mut self, id: SlotId) -> bool {
        let Some(Some(slot)) = self.slots.get_mut(id as usize) else {
            return false;
        };
        if !slot.is_ready {
            slot.is_ready = true;
            self.ready.push(id);
        }
        true
    }

    /// The partitions that must be looked at, in the order in which they are served.
    pub fn ready(&mut self) -> &[SlotId] {
        let slots = &self.slots;
        let turn = |id: &SlotId| slots[*id as usize].as_ref().map(|slot| slot.turn);
        if !self.ready.is_sorted_by_key(turn) {
            self.ready.sort_unstable_by_key(turn);
        }
        &self.ready
    }

    /// One partition.
    ///
    /// # Panics
    /// It is not in the session.
    #[must_use]
    pub fn slot(&self, id: SlotId) -> &Slot<T> {
        self.slots[id as usize]
            .as_ref()
            .expect("only partitions of the session are looked at")
    }

    /// One partition.
    ///
    /// # Panics
    /// It is not in the session.
    pub fn slot_mut(&mut self, id: SlotId) -> &mut Slot<T> {
        self.slots[id as usize]
            .as_mut()
            .expect("only partitions of the session are looked at")
    }

    /// Every partition, in no order.
    pub fn slots_mut(&mut self) -> impl Iterator<Item = (SlotId, &mut Slot<T>)> {
        let ids = 0..;
        let slots = ids.zip(&mut self.slots);
        slots.filter_map(|(id, slot)| Some((id, slot.as_mut()?)))
    }

    /// The partition is answered like this: whether the response must carry it.
    pub fn settle(&mut self, id: SlotId, answer: PartitionAnswer) -> bool {
        let served_turn = self.next_turn;
        let slot = self.slot_mut(id);
        let offsets = (answer.high_watermark, answer.log_start_offset);
        let send = answer.must_send || slot.sent != Some(offsets);
        if send {
            slot.sent = (!answer.failed).then_some(offsets);
        }
        slot.is_ready = answer.must_send || answer.stays_ready;
        if answer.must_send && !answer.failed {
            // Partitions that were served go to the end, so that a full response does not starve the others.
            slot.turn = served_turn;
            self.next_turn += 1;
        }
        send
    }

    /// Every ready partition has been settled.
    pub fn end_round(&mut self) {
        let slots = &self.slots;
        self.ready
            .retain(|id| slots[*id as usize].as_ref().is_some_and(|slot| slot.is_ready));
    }
}

/// The session part of a fetch request, apart from its partitions.
#[derive(Clone, Copy, Debug)]
pub struct SessionRequest {
    /// `session_id`.
    pub id: i32,
    /// `session_epoch`.
    pub epoch: i32,
    /// True from Fetch v13 on.
    pub uses_ids: bool,
    /// True for a follower: its session stays while it is used, and takes the place of a consumer's.
    pub follower: bool,
}

/// What a request is about.
#[derive(Debug, PartialEq, Eq)]
pub enum FetchContext<S> {
    /// The partitions that it names; there is no session.
    Sessionless,
    /// The partitions that it names; the client wants a session of them.
    Full,
    /// This session, with the changes that the request names.
    Incremental(S),
}

/// Every session of a broker. `S` is a handle of a [`FetchSession`].
pub struct FetchSessions<S> {
    slots: usize,
    sessions: BTreeMap<i32, Entry<S>>,
    by_age: BTreeSet<(bool, u64, i32)>,
    next_id: i32,
}

struct Entry<S> {
    epoch: i32,
    uses_ids: bool,
    privileged: bool,
    last_used_ms: u64,
    session: S,
}

impl<S: Clone> FetchSessions<S> {
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

    /// What this request is about.
    ///
    /// # Errors
    /// FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH, FETCH_SESSION_TOPIC_ID_ERROR: the client starts over with a
    /// full request.
    pub fn begin(&mut self, now: Now, request: SessionRequest) -> Result<FetchContext<S>, ErrorCode> {
        if request.epoch == INITIAL_EPOCH || request.epoch == FINAL_EPOCH {
            // A full request replaces the session that it names.
            self.close(request.id);
            return Ok(if request.epoch == FINAL_EPOCH {
                FetchContext::Sessionless
            } else {
                FetchContext::Full
            });
        }
        let entry = self
            .sessions
            .get_mut(&request.id)
            .ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if entry.epoch != request.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if entry.uses_ids != request.uses_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        entry.epoch = if entry.epoch == i32::MAX {
            1
        } else {
            entry.epoch + 1
        };
        if entry.last_used_ms != now.mono_ms {
            self.by_age
                .remove(&(entry.privileged, entry.last_used_ms, request.id));
            entry.last_used_ms = now.mono_ms;
            self.by_age.insert((entry.privileged, now.mono_ms, request.id));
        }
        Ok(FetchContext::Incremental(entry.session.clone()))
    }

    /// Keeps what a full request named. Returns the id of the new session, 0 if there is no room for it.
    pub fn open(&mut self, now: Now, request: SessionRequest, session: S) -> i32 {
        if self.sessions.len() >= self.slots {
            let Some(evicted) = self.evictable(now, request.follower) else {
                return NO_SESSION;
            };
            self.close(evicted);
        }
        let id = self.next_id;
        self.next_id = if id == i32::MAX { 1 } else { id + 1 };
        let entry = Entry {
            epoch: 1,
            uses_ids: request.uses_ids,
            privileged: request.follower,
            last_used_ms: now.mono_ms,
            session,
        };
        self.by_age.insert((entry.privileged, now.mono_ms, id));
        self.sessions.insert(id, entry);
        id
    }

    /// The session that gives its place to a new one.
    fn evictable(&self, now: Now, for_follower: bool) -> Option<i32> {
        let of_consumers = self.by_age.first().filter(|(privileged, ..)| !privileged);
        let of_followers = self.by_age.range((true, 0, 0)..).next();
        let is_stale = |(_, last_used_ms, _): &&(bool, u64, i32)| {
            now.mono_ms.saturating_sub(*last_used_ms) > EVICTION_MS
        };
        let stale = of_consumers.into_iter().chain(of_followers).find(is_stale);
        let evictable = stale.or(of_consumers.filter(|_| for_follower));
        evictable.map(|(_, _, id)| *id)
    }

    /// Ends a session, if there is one of this id.
    pub fn close(&mut self, id: i32) {
        if let Some(entry) = self.sessions.remove(&id) {
            self.by_age.remove(&(entry.privileged, entry.last_used_ms, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: PartitionAnswer = PartitionAnswer {
        high_watermark: 5,
        log_start_offset: 0,
        must_send: false,
        failed: false,
        stays_ready: false,
    };
    const RECORDS: PartitionAnswer = PartitionAnswer {
        must_send: true,
        ..IDLE
    };
    const FAILED: PartitionAnswer = PartitionAnswer {
        failed: true,
        ..RECORDS
    };

    fn key(index: i32) -> FetchKey {
        FetchKey {
            topic: TopicKey::Name("t".into()),
            partition: index,
        }
    }

    fn partition(index: i32, fetch_offset: i64) -> FetchPartition {
        FetchPartition {
            key: key(index),
            current_leader_epoch: -1,
            fetch_offset,
            last_fetched_epoch: -1,
            log_start_offset: -1,
            max_bytes: 1000,
        }
    }

    /// Every partition has been sent once and none is ready.
    fn settled(partitions: i32) -> FetchSession<()> {
        let mut session = FetchSession::default();
        session.update((0..partitions).map(|index| partition(index, 0)), |_, _| ());
        assert_eq!(answer(&mut session, |_| IDLE).len(), partitions as usize);
        session
    }

    /// Answers what is ready; the partitions that the response carries.
    fn answer(session: &mut FetchSession<()>, with: impl Fn(i32) -> PartitionAnswer) -> Vec<i32> {
        let ready = session.ready().to_vec();
        let index = |session: &FetchSession<()>, id| session.slot(id).request.key.partition;
        let mut sent = Vec::new();
        for id in ready {
            let partition = index(session, id);
            if session.settle(id, with(partition)) {
                sent.push(partition);
            }
        }
        session.end_round();
        sent
    }

    fn ready(session: &mut FetchSession<()>) -> Vec<i32> {
        let ready = session.ready().to_vec();
        ready
            .iter()
            .map(|id| session.slot(*id).request.key.partition)
            .collect()
    }

    #[test]
    fn a_partition_that_is_named_often_is_attached_to_a_few_times() {
        let mut attached = 0;
        let often = std::iter::repeat_n(partition(1, 0), 100_000);
        let session = FetchSession::once(often, |_, _| attached += 1);
        assert!(attached <= UNSORTED_MAX + 1, "{attached} times");
        assert_eq!(session.len(), attached);
    }

    #[test]
    fn what_is_forgotten_is_ready_no_more_and_its_place_is_taken_again() {
        let mut session = FetchSession::default();
        session.update((0..50_000).map(|index| partition(index, 0)), |_, _| ());
        session.forget((0..49_999).map(key));
        assert_eq!(ready(&mut session), [49_999]);
        session.update([partition(3, 0)], |_, _| ());
        assert_eq!(ready(&mut session), [49_999, 3]);
        assert_eq!(session.len(), 2);
    }

    #[test]
    fn a_fetch_looks_at_what_was_named_or_marked_and_at_nothing_else() {
        let mut session = settled(1_000);
        assert_eq!(ready(&mut session), [0; 0]);
        session.update([partition(7, 3)], |_, _| unreachable!("it is known"));
        assert!(session.mark(9) && session.mark(9));
        assert_eq!(ready(&mut session), [7, 9]);
        assert_eq!(session.slot(7).request.fetch_offset, 3);
        let sent = answer(&mut session, |index| match index {
            9 => PartitionAnswer {
                high_watermark: 6,
                ..IDLE
            },
            _ => IDLE,
        });
        assert_eq!(sent, [9], "the other is as it was sent");
        assert_eq!(ready(&mut session), [0; 0]);
    }

    #[test]
    fn what_the_client_may_not_have_taken_stays_ready() {
        let mut session = settled(4);
        (0..3).for_each(|id| assert!(session.mark(id)));
        let stays = PartitionAnswer {
            stays_ready: true,
            ..IDLE
        };
        let with = |index| [RECORDS, FAILED, stays][index as usize];
        assert_eq!(answer(&mut session, with), [0, 1]);
        assert_eq!(ready(&mut session), [1, 2, 0]);
        assert_eq!(answer(&mut session, |_| IDLE), [1], "an error is gone");
        assert_eq!(ready(&mut session), [0; 0]);
    }

    #[test]
    fn served_partitions_go_to_the_end() {
        let mut session = settled(3);
        (0..3).for_each(|id| assert!(session.mark(id)));
        answer(&mut session, |index| if index == 0 { RECORDS } else { IDLE });
        (0..3).for_each(|id| assert!(session.mark(id)));
        assert_eq!(ready(&mut session), [1, 2, 0]);
    }

    #[test]
    fn forgotten_partitions_make_room_and_late_marks_do_nothing() {
        let mut session = settled(3);
        assert!(session.mark(1));
        session.forget([key(1), key(8)]);
        assert!(!session.mark(1));
        assert_eq!((session.len(), ready(&mut session)), (2, vec![]));
        session.update([partition(5, 0)], |id, _| {
            assert_eq!(id, 1, "the place is vacant")
        });
        assert_eq!(ready(&mut session), [5]);
        session.forget([key(0), key(2), key(5)]);
        assert!(session.is_empty());
    }

    fn request(id: i32, epoch: i32) -> SessionRequest {
        SessionRequest {
            id,
            epoch,
            uses_ids: false,
            follower: false,
        }
    }

    fn open(sessions: &mut FetchSessions<&'static str>, ms: u64) -> i32 {
        open_for(sessions, ms, false)
    }

    fn open_for(sessions: &mut FetchSessions<&'static str>, ms: u64, follower: bool) -> i32 {
        let now = Now::new(ms, 0);
        let request = SessionRequest {
            follower,
            ..request(0, 0)
        };
        assert_eq!(sessions.begin(now, request), Ok(FetchContext::Full));
        sessions.open(now, request, "session")
    }

    #[test]
    fn epochs_count_the_requests_of_a_session() {
        let mut sessions = FetchSessions::new(10, 1);
        let id = open(&mut sessions, 0);
        assert_ne!(id, 0);
        for epoch in 1..4 {
            assert_eq!(
                sessions.begin(Now::new(1, 0), request(id, epoch)),
                Ok(FetchContext::Incremental("session"))
            );
        }
    }

    #[test]
    fn wrong_ids_and_epochs_are_refused() {
        let mut sessions = FetchSessions::new(10, 1);
        let id = open(&mut sessions, 0);
        let now = Now::default();
        assert_eq!(
            sessions.begin(now, request(id + 1, 1)),
            Err(ErrorCode::FetchSessionIdNotFound)
        );
        assert_eq!(
            sessions.begin(now, request(id, 2)),
            Err(ErrorCode::InvalidFetchSessionEpoch)
        );
        let by_id = SessionRequest {
            uses_ids: true,
            ..request(id, 1)
        };
        assert_eq!(
            sessions.begin(now, by_id),
            Err(ErrorCode::FetchSessionTopicIdError)
        );
        assert!(sessions.begin(now, request(id, -1)).is_ok());
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
    fn a_follower_that_went_away_makes_room_beside_consumers_that_did_not() {
        let mut sessions = FetchSessions::new(2, 1);
        let follower = open_for(&mut sessions, 0, true);
        let consumer = open(&mut sessions, 0);
        let now = Now::new(EVICTION_MS + 1, 0);
        assert!(sessions.begin(now, request(consumer, 1)).is_ok());
        assert_ne!(open(&mut sessions, now.mono_ms), 0);
        assert_eq!(
            sessions.begin(now, request(follower, 1)),
            Err(ErrorCode::FetchSessionIdNotFound)
        );
        assert!(sessions.begin(now, request(consumer, 2)).is_ok());
    }

    #[test]
    fn a_follower_takes_the_place_of_a_consumer_and_of_no_other_follower() {
        let mut sessions = FetchSessions::new(2, 1);
        let consumer = open(&mut sessions, 0);
        let follower = open_for(&mut sessions, 0, true);
        assert_eq!(open(&mut sessions, 1), 0);
        assert_ne!(open_for(&mut sessions, 1, true), 0);
        assert_eq!(open_for(&mut sessions, 1, true), 0);
        let begin = |id| SessionRequest {
            follower: id == follower,
            ..request(id, 1)
        };
        assert!(sessions.begin(Now::new(1, 0), begin(follower)).is_ok());
        assert_eq!(
            sessions.begin(Now::new(1, 0), begin(consumer)),
            Err(ErrorCode::FetchSessionIdNotFound)
        );
    }
}
