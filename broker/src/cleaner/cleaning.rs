//! What the threads of compaction share: who is at work, which logs cannot be compacted, and how the last passes went.
//!
//! A log that failed is left alone for a while that doubles with each failure; its first failure is for people to see. What a
//! pass found corrupt waits here for the scrubber.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use odradek_broker_log::compact::{CompactionReport, Dirtiness};
use odradek_common::time::Now;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::replica::Replica;

/// How long a log is left alone after its first failure.
const RETRY_MIN: Duration = Duration::from_secs(60);
/// And at most.
const RETRY_MAX: Duration = Duration::from_secs(3_600);

/// A log, by topic id and partition.
type LogId = (Uuid, i32);

/// The state of compaction on this broker.
pub struct Cleaning {
    state: Mutex<State>,
}

struct State {
    in_progress: HashSet<LogId>,
    uncleanable: HashMap<LogId, Uncleanable>,
    /// Segments that passes found corrupt, by base offset; the last one of each log.
    suspects: HashMap<LogId, (Arc<Replica>, i64)>,
    last_run: Instant,
    max_dirty_ratio: f64,
    max_delay_ms: i64,
    /// By thread.
    last_passes: Vec<Option<LastPass>>,
    dead_threads: usize,
}

struct Uncleanable {
    failures: u32,
    retry_at: Instant,
}

/// The last pass of a thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastPass {
    /// What it did.
    pub report: CompactionReport,
    /// How long it took.
    pub elapsed: Duration,
}

/// A pass failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The log was compacted before.
    First {
        /// When it is tried again.
        retry_after: Duration,
    },
    /// It failed before.
    Again {
        /// When it is tried again.
        retry_after: Duration,
    },
}

/// What metrics show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Snapshot {
    /// Dirty share of the dirtiest log, when one was looked for.
    pub max_dirty_ratio: f64,
    /// By how much `max.compaction.lag.ms` was exceeded at most, then.
    pub max_delay_ms: i64,
    /// Since a log was looked for.
    pub since_last_run: Duration,
    /// The longest of the threads' last passes.
    pub max_elapsed: Duration,
    /// The greatest share of its table of keys that one of them used.
    pub max_table_used: f64,
    /// Bytes they wrote, of the bytes they read.
    pub recopied: f64,
    /// Threads that ended without being told to.
    pub dead_threads: usize,
}

impl Default for Cleaning {
    fn default() -> Self {
        let state = State {
            in_progress: HashSet::new(),
            uncleanable: HashMap::new(),
            suspects: HashMap::new(),
            last_run: Instant::now(),
            max_dirty_ratio: 0.0,
            max_delay_ms: 0,
            last_passes: Vec::new(),
            dead_threads: 0,
        };
        Self {
            state: Mutex::new(state),
        }
    }
}

impl Cleaning {
    /// The log that needs compaction most and that nobody is at, for the caller, who releases it.
    pub fn grab_filthiest(&self, replicas: &[Arc<Replica>], now: Now) -> Option<Arc<Replica>> {
        self.forget_gone(replicas);
        let mut due: Vec<(Dirtiness, &Arc<Replica>)> = Vec::new();
        let (mut max_dirty_ratio, mut max_delay_ms) = (0.0_f64, 0);
        for replica in replicas.iter().filter(|replica| self.is_free(replica)) {
            let Some(dirtiness) = dirtiness(replica, now) else {
                continue;
            };
            max_dirty_ratio = max_dirty_ratio.max(dirtiness.ratio());
            max_delay_ms = max_delay_ms.max(dirtiness.delay_ms);
            if dirtiness.is_due() {
                due.push((dirtiness, replica));
            }
        }
        due.sort_by(|(a, _), (b, _)| b.ratio().total_cmp(&a.ratio()));
        let mut state = self.state.lock();
        state.last_run = Instant::now();
        (state.max_dirty_ratio, state.max_delay_ms) = (max_dirty_ratio, max_delay_ms);
        // Another thread may have come first.
        due.into_iter()
            .map(|(_, replica)| replica)
            .find(|replica| state.in_progress.insert(id_of(replica)))
            .cloned()
    }

    /// The caller is done with a log it grabbed.
    pub fn release(&self, replica: &Replica) {
        self.state.lock().in_progress.remove(&id_of(replica));
    }

    /// A pass is complete; true if the log could not be compacted before.
    pub fn note_pass(&self, thread: usize, replica: &Replica, last: LastPass) -> bool {
        let mut state = self.state.lock();
        if let Some(slot) = state.last_passes.get_mut(thread) {
            *slot = Some(last);
        }
        state.uncleanable.remove(&id_of(replica)).is_some()
    }

    /// A pass failed.
    pub fn note_failure(&self, replica: &Replica, now: Instant) -> Failure {
        let mut state = self.state.lock();
        let uncleanable = state.uncleanable.entry(id_of(replica)).or_insert(Uncleanable {
            failures: 0,
            retry_at: now,
        });
        let retry_after = RETRY_MIN
            .saturating_mul(1 << uncleanable.failures.min(16))
            .min(RETRY_MAX);
        uncleanable.retry_at = now + retry_after;
        uncleanable.failures = uncleanable.failures.saturating_add(1);
        if uncleanable.failures == 1 {
            Failure::First { retry_after }
        } else {
            Failure::Again { retry_after }
        }
    }

    /// A log is whole again: it is tried without a pause, and counts as one that failed until a pass is complete.
    pub fn retry(&self, replica: &Replica) {
        if let Some(uncleanable) = self.state.lock().uncleanable.get_mut(&id_of(replica)) {
            *uncleanable = Uncleanable {
                failures: 0,
                retry_at: Instant::now(),
            };
        }
    }

    /// A pass found the segment at `base_offset` corrupt.
    pub fn suspect(&self, replica: &Arc<Replica>, base_offset: i64) {
        let suspect = (replica.clone(), base_offset);
        self.state.lock().suspects.insert(id_of(replica), suspect);
    }

    /// The segments that passes found corrupt since the last call, by base offset.
    pub fn take_suspects(&self) -> Vec<(Arc<Replica>, i64)> {
        let suspects = std::mem::take(&mut self.state.lock().suspects);
        suspects.into_values().collect()
    }

    /// Whether the last pass over a log failed.
    #[must_use]
    pub fn is_uncleanable(&self, replica: &Replica) -> bool {
        self.state.lock().uncleanable.contains_key(&id_of(replica))
    }

    /// Other threads are about to start.
    pub fn reset_workers(&self, threads: usize) {
        self.state.lock().last_passes = vec![None; threads];
    }

    /// So many threads have ended without being told to.
    pub fn note_dead(&self, threads: usize) {
        self.state.lock().dead_threads = threads;
    }

    /// What metrics show now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();
        let passes = || state.last_passes.iter().flatten();
        let sum =
            |of: fn(&CompactionReport) -> u64| passes().map(|pass| of(&pass.report)).sum::<u64>() as f64;
        Snapshot {
            max_dirty_ratio: state.max_dirty_ratio,
            max_delay_ms: state.max_delay_ms,
            since_last_run: state.last_run.elapsed(),
            max_elapsed: passes().map(|pass| pass.elapsed).max().unwrap_or_default(),
            max_table_used: passes().map(|pass| pass.report.table_used).fold(0.0, f64::max),
            recopied: sum(|report| report.bytes_after) / sum(|report| report.bytes_before).max(1.0),
            dead_threads: state.dead_threads,
        }
    }

    fn is_free(&self, replica: &Replica) -> bool {
        if replica.is_moving() {
            return false;
        }
        let state = self.state.lock();
        let id = id_of(replica);
        let waits = state
            .uncleanable
            .get(&id)
            .is_some_and(|uncleanable| uncleanable.retry_at > Instant::now());
        !waits && !state.in_progress.contains(&id)
    }

    fn forget_gone(&self, replicas: &[Arc<Replica>]) {
        let mut state = self.state.lock();
        if !state.uncleanable.is_empty() {
            let here: HashSet<LogId> = replicas.iter().map(|replica| id_of(replica)).collect();
            state.uncleanable.retain(|id, _| here.contains(id));
        }
    }
}

/// How dirty a log is; None if it is not to be compacted at all.
pub(super) fn dirtiness(replica: &Replica, now: Now) -> Option<Dirtiness> {
    if replica.is_offline() {
        return None;
    }
    replica.with(|p| {
        let log = p.log();
        log.config().cleanup_policy.compact.then(|| log.dirtiness(now))
    })
}

fn id_of(replica: &Replica) -> LogId {
    (replica.topic_id, replica.id.partition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::LoneBroker;

    #[tokio::test]
    async fn a_log_that_failed_is_tried_again_after_a_pause_that_doubles() {
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        lone.create("t", LoneBroker::NODE);
        let replica = lone.broker.replicas.hosted("t", 0).expect("it leads");
        let cleaning = Cleaning::default();
        assert!(cleaning.is_free(&replica) && !cleaning.is_uncleanable(&replica));
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let first = cleaning.note_failure(&replica, now);
        assert_eq!(
            first,
            Failure::First {
                retry_after: RETRY_MIN
            }
        );
        assert!(!cleaning.is_free(&replica) && cleaning.is_uncleanable(&replica));
        for expected in [120, 240, 480, 960, 1_920, 3_600, 3_600] {
            let again = cleaning.note_failure(&replica, now);
            let retry_after = seconds(expected);
            assert_eq!(again, Failure::Again { retry_after });
        }
        // As if that had been an hour ago.
        let long_ago = now.checked_sub(RETRY_MAX).unwrap();
        cleaning.note_failure(&replica, long_ago);
        assert!(cleaning.is_free(&replica) && cleaning.is_uncleanable(&replica));
        cleaning.note_failure(&replica, now);
        assert!(!cleaning.is_free(&replica));
        cleaning.retry(&replica);
        assert!(cleaning.is_free(&replica) && cleaning.is_uncleanable(&replica));
        assert_eq!(
            cleaning.note_failure(&replica, now),
            first,
            "as if it was the first"
        );
        let pass = LastPass {
            report: CompactionReport::default(),
            elapsed: seconds(1),
        };
        cleaning.reset_workers(1);
        assert!(cleaning.note_pass(0, &replica, pass), "that is news");
        assert!(!cleaning.is_uncleanable(&replica));
        assert!(!cleaning.note_pass(0, &replica, pass));
    }
}
