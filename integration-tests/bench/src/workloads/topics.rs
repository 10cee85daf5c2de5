//! The topics of workloads: made, waited for and deleted, with one configuration for every system.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::admin::{self, Admin, NewTopic};
use crate::batches::BatchShape;
use crate::clock;
use crate::load::Target;
use crate::load::fill::Filling;
use crate::systems::{Cluster, System};

/// Old segments go while a saturated topic is written, so that no run fills the disk; whatever is deleted goes soon.
pub const CONFIGS: &[(&str, &str)] = &[
    ("retention.ms", "-1"),
    ("retention.bytes", "536870912"),
    ("segment.bytes", "268435456"),
    ("file.delete.delay.ms", "1000"),
];
/// The same, and everything is kept.
const KEPT_CONFIGS: &[(&str, &str)] = &[
    ("retention.ms", "-1"),
    ("segment.bytes", "268435456"),
    ("file.delete.delay.ms", "1000"),
];

/// Lines of every node's properties, so that retention, compaction and the removal of deleted topics begin when there is something
/// to do: by default systems look for work every 5 minutes and every 15 seconds, and files stay for a minute.
pub const BROKER_LINES: &[&str] = &[
    "log.retention.check.interval.ms=2000",
    "log.segment.delete.delay.ms=1000",
    "log.cleaner.backoff.ms=1000",
];

/// How long a system may take to remove a topic's files, in nanoseconds: by default they stay for a minute.
const REMOVAL_LIMIT: u64 = 180_000_000_000;
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(50);

/// A topic of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    /// How many partitions.
    pub partitions: i32,
    /// Replicas of each.
    pub replicas: i16,
    /// Whether all records are to stay.
    pub kept: bool,
    /// Whether each partition has a record before the load begins, so that none has to be made on disk within the window.
    pub begun: bool,
}

impl Topic {
    /// A topic of one replica.
    pub const fn single(partitions: i32) -> Self {
        Self {
            partitions,
            replicas: 1,
            kept: false,
            begun: false,
        }
    }

    /// A topic of three replicas.
    pub const fn replicated(partitions: i32) -> Self {
        Self {
            partitions,
            replicas: 3,
            kept: false,
            begun: false,
        }
    }

    /// The same topic, of which nothing is deleted.
    pub const fn kept(self) -> Self {
        Self { kept: true, ..self }
    }

    /// The same topic with a record in each partition.
    pub const fn begun(self) -> Self {
        Self { begun: true, ..self }
    }

    /// Makes the topic; the floor needs none.
    ///
    /// # Errors
    /// It was refused or is not ready in time.
    pub fn create(&self, cluster: &Cluster, name: &str) -> Result<Target> {
        if cluster.system() == System::Floor {
            let leaders = (0..self.partitions).map(|_| cluster.address()).collect();
            return Ok(Target {
                topic: name.to_owned(),
                leaders,
            });
        }
        let mut configs = if self.kept { KEPT_CONFIGS } else { CONFIGS }.to_vec();
        if self.replicas > 1 {
            configs.push(("min.insync.replicas", "2"));
        }
        let topic = NewTopic {
            name,
            partitions: self.partitions,
            replicas: self.replicas,
            configs: &configs,
        };
        let target = admin::create_ready(&cluster.addresses(), &topic)?;
        if self.begun {
            begin(&target)?;
        }
        Ok(target)
    }
}

/// Writes one small record to each partition.
///
/// # Errors
/// One was refused.
pub fn begin(target: &Target) -> Result<()> {
    let filling = Filling {
        shape: BatchShape::plain(1, 100),
        batches: 1,
    };
    filling.fill(target, 1)
}

/// A name that no topic has had.
pub fn unique_name(row: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("bench-{row}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Deletes a topic, and waits until its files are gone, or has [`await_removals`] do that; the floor has none.
///
/// # Errors
/// It was refused, or the files stay.
pub fn delete(cluster: &Cluster, name: &str) -> Result<()> {
    if cluster.system() == System::Floor {
        return Ok(());
    }
    Admin::open(cluster.address())?.delete_topics(&[name])?;
    match cluster.awaits_each_removal() {
        true => await_removal(cluster, name),
        false => {
            cluster.add_removal(name);
            Ok(())
        }
    }
}

/// Waits until the files of all deleted topics are gone that were not waited for.
///
/// # Errors
/// They stay.
pub fn await_removals(cluster: &Cluster) -> Result<()> {
    let names = cluster.take_removals();
    names.iter().try_for_each(|name| await_removal(cluster, name))
}

/// To remove gigabytes takes a system's time, which is no part of the workload that comes next.
fn await_removal(cluster: &Cluster, name: &str) -> Result<()> {
    let limit = clock::now() + REMOVAL_LIMIT;
    for number in 1..=cluster.nodes() {
        while holds(&cluster.log_dir(number), name)? {
            if clock::now() > limit {
                bail!("node {number} does not remove {name}");
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Whether a log directory has folders of a topic, also those that are being deleted. That of a node that was only attached to
/// is not known.
fn holds(log_dir: &Path, topic: &str) -> Result<bool> {
    if !log_dir.is_dir() {
        return Ok(false);
    }
    for entry in fs::read_dir(log_dir)? {
        let name = entry?.file_name();
        let partition = name.to_string_lossy();
        if partition
            .strip_prefix(topic)
            .is_some_and(|rest| rest.starts_with('-'))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_a_topic_are_found_while_they_are_deleted_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        assert!(!holds(&at.join("none"), "t-1").unwrap());
        for other in ["t-10-0", "t-0", "__cluster_metadata-0"] {
            fs::create_dir(at.join(other)).unwrap();
        }
        assert!(!holds(at, "t-1").unwrap());
        let deleted = at.join("t-1-0.0123456789abcdef-delete");
        fs::create_dir(&deleted).unwrap();
        assert!(holds(at, "t-1").unwrap());
        fs::remove_dir(&deleted).unwrap();
        assert!(!holds(at, "t-1").unwrap());
    }
}
