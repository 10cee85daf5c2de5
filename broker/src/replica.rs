//! A partition's replica as the handlers see it: the state machine and its log behind one short lock, and those who wait.
//!
//! Invariant: the lock is never held across an await and never while a waiter is woken. Reads of cold data happen outside
//! of it, through the slice that [`Replica::read`] hands out.

mod flushing;
pub mod moving;
pub mod reading;
pub mod transactions;
mod waiting;
pub mod watchers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use odradek_broker_core::partition::{
    FetchProgress, FollowerFetch, IsrProposal, Partition, PartitionSettings, RoleChange,
};
use odradek_broker_log::append::LeaderBatch;
use odradek_broker_log::config::LogConfig;
use odradek_broker_log::error::{AppendError, LogError};
use odradek_broker_log::log::Log;
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::{LOST_DIRECTORY, NodeId, TopicPartition};
use odradek_common::metadata::PartitionImage;
use odradek_common::time::Now;
use odradek_config::TopicConfig;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use self::moving::{MoveProgress, Moving};
use self::transactions::Stalled;
use self::waiting::{PendingAppend, Safe};
use self::watchers::Watchers;
use crate::data_directory::DataDirectory;
use crate::metrics::TopicTraffic;

/// One replica that this broker hosts.
pub struct Replica {
    /// Its name.
    pub id: TopicPartition,
    /// Its topic's id.
    pub topic_id: Uuid,
    /// Counts what producers and consumers move.
    pub traffic: Arc<TopicTraffic>,
    config: ArcSwap<TopicConfig>,
    me: Weak<Replica>,
    /// Changes under the lock of the state, with the log.
    directory: ArcSwap<DataDirectory>,
    /// Whether it moves to another log directory. Locked before the state, and for as long as a disk takes.
    moving: Mutex<Moving>,
    /// How far the copy there has come.
    progress: Mutex<Option<MoveProgress>>,
    state: Mutex<State>,
    /// It is queued for the next round of flushes.
    flush_queued: AtomicBool,
    offline: AtomicBool,
    closed: AtomicBool,
    deleted: AtomicBool,
}

/// Where a replica comes from.
pub struct ReplicaOrigin {
    /// Its name.
    pub id: TopicPartition,
    /// Its topic's id.
    pub topic_id: Uuid,
    /// Where its log lives.
    pub directory: Arc<DataDirectory>,
    /// What its decisions depend on.
    pub settings: PartitionSettings,
    /// Its topic's counters.
    pub traffic: Arc<TopicTraffic>,
}

struct State {
    partition: Partition<Log>,
    watchers: Watchers,
    /// Who waits for followers to come on.
    observers: Vec<(u64, Arc<Notify>)>,
    next_observer: u64,
    pending: Vec<PendingAppend>,
    stalled: Stalled,
}

/// The offsets of a replica at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// First record that is kept.
    pub log_start: i64,
    /// End of what is committed.
    pub high_watermark: i64,
    /// End of what read_committed consumers see.
    pub last_stable: i64,
    /// End of the log.
    pub log_end: i64,
}

/// Resolves when records are as safe as their producer wants them, or tells why they will not be.
pub type CommitWait = oneshot::Receiver<Result<(), ErrorCode>>;

/// An append that the replica has taken on.
pub struct Appended {
    /// Epoch of the leader that appended.
    pub leader_epoch: i32,
    /// Start of the log at that moment.
    pub log_start_offset: i64,
    /// Why the batches without an outcome are not in the log.
    pub failed: Option<LogError>,
    /// Without acks=all: for each batch that `flush.messages` wants on disk before it is acknowledged, a wait for that; empty
    /// if there is none.
    pub flushes: Vec<Option<CommitWait>>,
}

/// Why an append was refused.
#[derive(Debug)]
pub enum AppendRefusal {
    /// What the protocol expects.
    Api(ApiError),
    /// The log directory failed.
    Log(LogError),
}

impl From<AppendError> for AppendRefusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Refused(error) => Self::Api(error),
            AppendError::Corrupt(detail) => Self::Api(ApiError::new(ErrorCode::CorruptMessage, detail)),
            error @ AppendError::OutOfOrder { .. } => {
                Self::Api(ApiError::new(ErrorCode::OffsetOutOfRange, error.to_string()))
            }
            AppendError::Log(error) => Self::Log(error),
        }
    }
}

impl Replica {
    /// A replica over an opened log.
    #[must_use]
    pub fn new(origin: ReplicaOrigin, node_id: NodeId, config: Arc<TopicConfig>, log: Log) -> Arc<Self> {
        let ReplicaOrigin {
            id,
            topic_id,
            directory,
            settings,
            traffic,
        } = origin;
        let partition = Partition::new(id.clone(), node_id, settings, log);
        let state = State {
            partition,
            watchers: Watchers::default(),
            observers: Vec::new(),
            next_observer: 0,
            pending: Vec::new(),
            stalled: Stalled::default(),
        };
        Arc::new_cyclic(|me| Self {
            id,
            topic_id,
            traffic,
            config: ArcSwap::new(config),
            me: me.clone(),
            directory: ArcSwap::new(directory),
            moving: Mutex::default(),
            progress: Mutex::default(),
            state: Mutex::new(state),
            flush_queued: AtomicBool::new(false),
            offline: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
        })
    }

    /// Where its log lives.
    #[must_use]
    pub fn directory(&self) -> Arc<DataDirectory> {
        self.directory.load_full()
    }

    /// The log directory that the controller is to know: none that works, if the log failed alone; the one that it moves to,
    /// before it lives there.
    #[must_use]
    pub fn assigned_directory(&self) -> Uuid {
        // Asked first: a copy that has taken the place meanwhile is no copy any more.
        let to_record = self.directory_to_record().filter(|to| !to.is_offline());
        let directory = self.directory.load();
        match to_record {
            _ if self.is_offline() && !directory.is_offline() => LOST_DIRECTORY,
            Some(to) if !self.is_offline() => to.id(),
            // Also of one that failed since: the controller moves what it leads only if it knows where it was.
            Some(_) | None => directory.id(),
        }
    }

    /// Takes over the controller's decision.
    ///
    /// # Errors
    /// The log cannot record a new epoch. The decision is not taken over, and can be applied again.
    pub fn apply_image(&self, now: Now, image: &Arc<PartitionImage>) -> Result<RoleChange, LogError> {
        let mut state = self.state.lock();
        let change = state.partition.apply_image(now, image)?;
        // The ISR may have shrunk, the leader may be gone: everyone who waits looks again.
        wake(state, Wake::Everybody);
        Ok(change)
    }

    /// New topic configuration.
    pub fn set_config(
        &self,
        now: Now,
        settings: PartitionSettings,
        log: LogConfig,
        config: Arc<TopicConfig>,
    ) {
        let mut state = self.state.lock();
        state.partition.set_settings(now, settings);
        state.partition.log_mut().set_config(log);
        self.config.store(config);
        // What is committed depends on `min.insync.replicas`, and so does what a producer is told of it.
        wake(state, Wake::Everybody);
    }

    /// The partition leaves this broker for good: its log is removed, and a copy that was to take its place. A copy that
    /// somebody is at work in is removed by the next step of its move; no disk is waited for.
    ///
    /// # Errors
    /// A log directory failed. What is in another is removed all the same.
    pub fn delete(&self) -> Result<(), LogError> {
        self.deleted.store(true, Ordering::Release);
        self.close();
        let deleted = {
            let mut state = self.state.lock();
            match self.directory.load().logs() {
                Some(logs) => logs.delete_partition(state.partition.log_mut()),
                None => Ok(()),
            }
        };
        deleted.and(self.discard_idle_copy())
    }

    /// True once the partition has left this broker for good.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// The topic's configuration.
    #[must_use]
    pub fn config(&self) -> arc_swap::Guard<Arc<TopicConfig>> {
        self.config.load()
    }

    /// Appends batches as leader, in order; what became of each is said in it, unless the log failed before its turn.
    ///
    /// With `waits`, acks=all: there must be enough replicas, and for each batch that is in the log now, or was already, a
    /// wait for its commit is put there; None if it is committed.
    ///
    /// # Errors
    /// Not the leader, not enough replicas, or the directory failed.
    pub fn append<'a, B: AsMut<LeaderBatch<'a>>>(
        &self,
        now: Now,
        batches: &mut [B],
        waits: Option<&mut Vec<Option<CommitWait>>>,
    ) -> Result<Appended, AppendRefusal> {
        if self.is_offline() {
            return Err(AppendRefusal::Api(self.offline_error()));
        }
        let mut state = self.state.lock();
        state.partition.check_leader(-1).map_err(|code| {
            let detail = format!("this broker does not lead {}", self.id);
            AppendRefusal::Api(ApiError::new(code, detail))
        })?;
        if waits.is_some() {
            state.partition.check_min_isr().map_err(AppendRefusal::Api)?;
        }
        let leader_epoch = state.partition.image().leader_epoch;
        let log = state.partition.log_mut();
        let failed = log.append_as_leader(now, leader_epoch, batches).err();
        state.partition.appended(now);
        let log_start_offset = state.partition.log().log_start_offset();
        let flushed_end = state.partition.log().durable_end_offset();
        let unflushed = flushed_end < state.partition.log().log_end_offset();
        let ends = batches
            .iter_mut()
            .map(|batch| batch.as_mut().last_offset().map(|last| last + 1));
        let mut flushes = Vec::new();
        let mut wait = |until, end| self.wait_unless(&mut state, until, leader_epoch, end);
        match waits {
            Some(waits) => waits.extend(ends.map(|end| wait(Safe::Committed, end?))),
            None if unflushed => {
                let unflushed_ends = ends.map(|end| end.filter(|end| *end > flushed_end));
                flushes.extend(unflushed_ends.map(|end| wait(Safe::Flushed, end?)));
            }
            None => {}
        }
        wake(state, Wake::WhoeverSees);
        if unflushed {
            self.queue_flush();
        }
        Ok(Appended {
            leader_epoch,
            log_start_offset,
            failed,
            flushes,
        })
    }

    /// Appends what the leader sent, up to the first record of a later leader epoch than that of the fetch. What `flush.messages`
    /// wants on disk must be awaited before more is asked for, because a fetch tells the leader that this replica holds everything
    /// below its offset.
    ///
    /// # Errors
    /// The bytes do not continue this log, or the directory failed.
    pub fn append_as_follower(
        &self,
        now: Now,
        records: &Bytes,
        leader: FollowerAppend,
    ) -> Result<Option<CommitWait>, AppendRefusal> {
        let mut state = self.state.lock();
        if state.partition.image().leader_epoch != leader.leader_epoch
            || state.partition.leader_to_follow() != Some(leader.leader)
        {
            return Err(AppendRefusal::Api(ErrorCode::FencedLeaderEpoch.into()));
        }
        if !records.is_empty() {
            let log = state.partition.log_mut();
            log.append_fetched(now, records, leader.leader_epoch)?;
        }
        state.partition.follower_high_watermark(leader.high_watermark);
        if leader.log_start_offset > state.partition.log().log_start_offset() {
            let target = leader
                .log_start_offset
                .min(state.partition.log().log_end_offset());
            let log = state.partition.log_mut();
            log.maybe_increment_log_start_offset(target)
                .map_err(AppendRefusal::Log)?;
        }
        let end_offset = state.partition.log().log_end_offset();
        let unflushed = state.partition.log().durable_end_offset() < end_offset;
        let epoch = leader.leader_epoch;
        let flushed = self.wait_unless(&mut state, Safe::FlushedByFollower, epoch, end_offset);
        wake(state, Wake::WhoeverSees);
        if unflushed {
            self.queue_flush();
        }
        Ok(flushed)
    }

    /// Registers `observer` to be notified at the next change of any kind.
    pub fn await_change(&self, observer: &Arc<Notify>) -> u64 {
        let mut state = self.state.lock();
        let id = state.next_observer;
        state.next_observer += 1;
        state.observers.push((id, observer.clone()));
        id
    }

    /// Takes an observer off the list again, if it was not notified.
    pub fn forget_observer(&self, id: u64) {
        self.state.lock().observers.retain(|observer| observer.0 != id);
    }

    /// Answers every parked fetch.
    pub fn wake_readers(&self) {
        wake(self.state.lock(), Wake::Everybody);
    }

    /// A follower's fetch arrived: it holds everything below its offset.
    ///
    /// # Errors
    /// Not the leader, or the follower is no replica.
    pub fn follower_fetched(&self, now: Now, fetch: FollowerFetch) -> Result<FetchProgress, ErrorCode> {
        note_fetch(self.state.lock(), now, fetch)
    }

    /// A follower's fetch request arrived. One that names another epoch, or comes from a log that has parted from this one,
    /// tells nothing about what the follower holds of this log.
    ///
    /// # Errors
    /// As [`Replica::follower_fetched`]; FENCED_LEADER_EPOCH and UNKNOWN_LEADER_EPOCH (KIP-320).
    pub fn follower_asked(
        &self,
        now: Now,
        fetch: FollowerFetch,
        current_leader_epoch: i32,
        last_fetched_epoch: i32,
    ) -> Result<FetchProgress, ErrorCode> {
        let state = self.state.lock();
        state.partition.check_leader(current_leader_epoch)?;
        let parted = state
            .partition
            .diverging_epoch(fetch.fetch_offset, last_fetched_epoch);
        match parted {
            Some(_) => Ok(FetchProgress::default()),
            None => note_fetch(state, now, fetch),
        }
    }

    /// True if the controller recorded that node as a member of the ISR, as far as this broker knows.
    pub fn has_in_sync(&self, node: NodeId) -> bool {
        self.with(|partition| partition.image().isr.contains(&node))
    }

    /// The leader said where the logs part. Returns the log end offset then; `None` if this replica does not follow that
    /// leader in that epoch any more, and keeps its log.
    ///
    /// # Errors
    /// The log cannot be truncated.
    pub fn truncate_as_follower(
        &self,
        now: Now,
        (leader, leader_epoch): (NodeId, i32),
        (epoch, end_offset): (i32, i64),
    ) -> Result<Option<i64>, LogError> {
        self.with(|p| {
            if !p.follows(leader, leader_epoch) {
                return Ok(None);
            }
            p.truncate_to_leader(now, epoch, end_offset).map(Some)
        })
    }

    /// The leader's log ends before this one's end, or begins after it. `None` as for [`Replica::truncate_as_follower`].
    ///
    /// # Errors
    /// The log cannot be truncated.
    pub fn reset_as_follower(
        &self,
        now: Now,
        (leader, leader_epoch): (NodeId, i32),
        to: OutOfRange,
    ) -> Result<Option<i64>, LogError> {
        self.with(|p| {
            if !p.follows(leader, leader_epoch) {
                return Ok(None);
            }
            let log = p.log_mut();
            match to {
                OutOfRange::EndsAt(end) => log.truncate_to(now, end).map(Some),
                OutOfRange::BeginsAt(start) => {
                    log.truncate_fully_and_start_at(now, start)?;
                    Ok(Some(start))
                }
            }
        })
    }

    /// Runs a closure under the lock; wakes whoever waits for what it changed.
    pub fn with<T>(&self, action: impl FnOnce(&mut Partition<Log>) -> T) -> T {
        let mut state = self.state.lock();
        let before = offsets(&state.partition);
        let result = action(&mut state.partition);
        if offsets(&state.partition) != before {
            wake(state, Wake::WhoeverSees);
        }
        result
    }

    /// The offsets now.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        offsets(&self.state.lock().partition)
    }

    /// The controller's last decision.
    #[must_use]
    pub fn image(&self) -> Arc<PartitionImage> {
        self.state.lock().partition.image().clone()
    }

    /// True while this replica leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.state.lock().partition.is_leader()
    }

    /// True if this replica has led without a break since that epoch, in which it led.
    #[must_use]
    pub fn has_led_since(&self, leader_epoch: i32) -> bool {
        let since = self.state.lock().partition.led_since();
        since.is_some_and(|since| since <= leader_epoch)
    }

    /// Proposes an ISR without laggards, and waits no longer for those outside of it. A leader whose log failed proposes
    /// nothing: followers that cannot fetch from it do not lag.
    pub fn propose_shrink(&self, now: Now) -> Option<IsrProposal> {
        if self.is_offline() {
            return None;
        }
        self.with(|partition| {
            partition.advance_high_watermark(now);
            partition.propose_shrink(now)
        })
    }

    /// Proposes an ISR with those who have caught up. `eligible` tells whether a broker may join under that broker epoch
    /// with a replica in that log directory.
    pub fn propose_expansion(&self, eligible: impl Fn(NodeId, i64, Uuid) -> bool) -> Option<IsrProposal> {
        if self.is_offline() {
            return None;
        }
        self.with(|partition| {
            let image = partition.image().clone();
            partition.propose_expansion(|replica, broker_epoch| {
                eligible(replica, broker_epoch, image.directory_of(replica))
            })
        })
    }

    /// Waits until everything below `offset` is committed; None if it is.
    pub fn await_commit(&self, leader_epoch: i32, offset: i64) -> Option<CommitWait> {
        self.wait_unless(&mut self.state.lock(), Safe::Committed, leader_epoch, offset)
    }

    /// The log failed: from now on every request is refused.
    pub fn set_offline(&self) {
        self.take_offline(self.state.lock());
    }

    /// A log directory failed: if the log lives there, from now on every request is refused.
    pub fn directory_failed(&self, directory: &DataDirectory) {
        let state = self.state.lock();
        if std::ptr::eq(&**self.directory.load(), directory) {
            self.take_offline(state);
        }
    }

    fn take_offline(&self, mut state: MutexGuard<'_, State>) {
        self.offline.store(true, Ordering::Release);
        state.fail_pending(ErrorCode::KafkaStorageError);
        wake(state, Wake::Everybody);
    }

    /// True after its log directory failed.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.offline.load(Ordering::Acquire)
    }

    /// The replica leaves this node: everyone who waits is told.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.offline.store(true, Ordering::Release);
        let mut state = self.state.lock();
        state.fail_pending(ErrorCode::NotLeaderOrFollower);
        wake(state, Wake::Everybody);
    }

    /// True once the replica has left this node, or the node stops: what fails then is no failure of the disk.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Refuses if its log directory has failed.
    ///
    /// # Errors
    /// KAFKA_STORAGE_ERROR.
    pub fn check_online(&self) -> Result<(), ApiError> {
        if self.is_offline() {
            return Err(self.offline_error());
        }
        Ok(())
    }

    fn offline_error(&self) -> ApiError {
        let detail = format!("the log directory of {} is offline", self.id);
        ApiError::new(ErrorCode::KafkaStorageError, detail)
    }
}

/// What a follower learned with the records.
#[derive(Clone, Copy, Debug)]
pub struct FollowerAppend {
    /// Who sent them.
    pub leader: NodeId,
    /// Epoch that the fetch was made in.
    pub leader_epoch: i32,
    /// The leader's high watermark.
    pub high_watermark: i64,
    /// The leader's log start offset.
    pub log_start_offset: i64,
}

/// How a leader's log misses a follower's log end offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfRange {
    /// It ends here, before it.
    EndsAt(i64),
    /// It begins here, after it.
    BeginsAt(i64),
}

fn note_fetch(
    mut state: MutexGuard<'_, State>,
    now: Now,
    fetch: FollowerFetch,
) -> Result<FetchProgress, ErrorCode> {
    let before = state.follower_log_start(fetch.replica);
    let progress = state.partition.follower_fetched(now, fetch)?;
    if progress.high_watermark_moved || before != state.follower_log_start(fetch.replica) {
        wake(state, Wake::WhoeverSees);
    }
    Ok(progress)
}

impl State {
    fn follower_log_start(&self, replica: NodeId) -> Option<i64> {
        self.partition
            .followers()
            .find(|(id, _)| *id == replica)
            .map(|(_, p)| p.log_start_offset)
    }

    fn fail_pending(&mut self, code: ErrorCode) {
        for pending in self.pending.drain(..) {
            _ = pending.answer.send(Err(code));
        }
    }
}

fn offsets(partition: &Partition<Log>) -> Offsets {
    let log = partition.log();
    Offsets {
        log_start: log.log_start_offset(),
        high_watermark: log.high_watermark(),
        last_stable: log.last_stable_offset(),
        log_end: log.log_end_offset(),
    }
}

/// Whose wait may be over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// Theirs who see that offsets changed.
    WhoeverSees,
    /// Everybody's: leadership changed, the log failed, the broker stops.
    Everybody,
}

/// Wakes everyone whose wait may be over, after the lock is gone.
fn wake(mut state: MutexGuard<'_, State>, whom: Wake) {
    let observers = std::mem::take(&mut state.observers);
    let mut done = Vec::new();
    let State {
        partition,
        pending,
        watchers,
        stalled,
        ..
    } = &mut *state;
    let log = partition.log();
    stalled.note(log);
    let news = watchers.news(offsets(partition), whom == Wake::Everybody, |from, to| {
        log.bytes_between(from, to)
    });
    // A caller that is gone waits for nothing.
    let is_done =
        |pending: &mut PendingAppend| pending.answer.is_closed() || pending.outcome(partition) != Ok(false);
    for pending in pending.extract_if(.., is_done) {
        let outcome = pending.outcome(partition).map(|_| ());
        done.push((pending.answer, outcome));
    }
    drop(state);
    for (answer, outcome) in done {
        _ = answer.send(outcome);
    }
    if let Some(news) = news {
        news.tell();
    }
    for (_, observer) in observers {
        observer.notify_one();
    }
}
