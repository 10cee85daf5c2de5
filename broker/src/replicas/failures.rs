//! What went wrong with logs and may mend by itself: partitions that could not be opened, and disks without room.
//!
//! It remembers; opening again is the metadata thread's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use odradek_common::metadata::{MetadataDelta, MetadataImage, PartitionChange, TopicDelta};
use parking_lot::Mutex;
use uuid::Uuid;

/// A full disk is told this often, however many requests it fails.
const FULL_TOLD: Duration = Duration::from_secs(10);

/// Failures of one broker's logs.
#[derive(Debug, Default)]
pub struct LogFailures {
    unopened: Mutex<BTreeSet<(Uuid, i32)>>,
    offline: Mutex<BTreeSet<usize>>,
    full_told: Mutex<BTreeMap<usize, Instant>>,
}

impl LogFailures {
    /// A partition could not be opened; true if that is news.
    pub fn not_opened(&self, topic_id: Uuid, partition: i32) -> bool {
        self.unopened.lock().insert((topic_id, partition))
    }

    /// A partition is open, or has left this broker.
    pub fn settled(&self, topic_id: Uuid, partition: i32) {
        self.unopened.lock().remove(&(topic_id, partition));
    }

    /// How many partitions could not be opened and are still wanted.
    #[must_use]
    pub fn unopened(&self) -> usize {
        self.unopened.lock().len()
    }

    /// The unopened partitions as if they were new, so that publishing them opens them; topics that are gone are forgotten.
    #[must_use]
    pub fn again(&self, image: &MetadataImage) -> MetadataDelta {
        let mut delta = MetadataDelta::default();
        self.unopened.lock().retain(|(topic_id, index)| {
            let topic = image.topic_by_id(topic_id);
            let at = usize::try_from(*index).unwrap_or(usize::MAX);
            let Some((topic, partition)) = topic.and_then(|topic| Some((topic, topic.partitions.get(at)?)))
            else {
                return false;
            };
            let topic_delta = delta.topics.entry(*topic_id).or_insert_with(|| TopicDelta {
                topic: topic.clone(),
                partitions: BTreeMap::new(),
            });
            let change = PartitionChange {
                before: None,
                after: partition.clone(),
            };
            topic_delta.partitions.insert(*index, change);
            true
        });
        delta
    }

    /// A log directory failed and stays offline.
    pub fn gone_offline(&self, log_dir: usize) {
        self.offline.lock().insert(log_dir);
    }

    /// The log directories that failed.
    #[must_use]
    pub fn offline(&self) -> Vec<usize> {
        self.offline.lock().iter().copied().collect()
    }

    /// Whether it is time to say that a log directory is full.
    pub fn tell_full(&self, log_dir: usize) -> bool {
        let mut told = self.full_told.lock();
        let due = told.get(&log_dir).is_none_or(|at| at.elapsed() >= FULL_TOLD);
        if due {
            told.insert(log_dir, Instant::now());
        }
        due
    }
}
