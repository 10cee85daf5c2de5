//! Group commit over a disk that stands still, or fails, when a test wants it to.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicUsize;

use odradek_broker_log::disk::{Disk, Space, SystemDisk};
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::group_commit::GroupCommit;
use crate::replica::CommitWait;

#[derive(Debug, Default)]
pub(super) struct GatedDisk {
    /// Flushes wait while it is set.
    shut: Mutex<bool>,
    changed: Condvar,
    waiting: AtomicUsize,
    pub(super) segments_flushed: AtomicUsize,
    fails: AtomicBool,
    /// So many files and folders cannot be opened to be flushed, for want of descriptors.
    without_descriptor: AtomicUsize,
}

impl GatedDisk {
    pub(super) fn shut(&self) {
        *self.shut.lock() = true;
    }

    pub(super) fn open(&self) {
        *self.shut.lock() = false;
        self.changed.notify_all();
    }

    /// Until a flush is under way.
    pub(super) fn await_flush(&self) {
        self.await_flushes(1);
    }

    /// Until so many are under way at once.
    fn await_flushes(&self, count: usize) {
        let mut shut = self.shut.lock();
        while self.waiting.load(Ordering::SeqCst) < count {
            self.changed.wait(&mut shut);
        }
    }

    fn pass(&self) -> io::Result<()> {
        let mut shut = self.shut.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_all();
        while *shut {
            self.changed.wait(&mut shut);
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }
}

impl Disk for GatedDisk {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.pass()?;
        self.segments_flushed.fetch_add(1, Ordering::SeqCst);
        SystemDisk.sync_data(file)
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        const EMFILE: i32 = 24;
        let take = |left: usize| left.checked_sub(1);
        let without = &self.without_descriptor;
        if without
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .is_ok()
        {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        SystemDisk.sync_all(file)
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        SystemDisk.space(directory)
    }
}

/// A node with `flush.messages=1` on such a disk, and the threads that flush.
struct Flushing {
    node: Node,
    disk: Arc<GatedDisk>,
    group_commit: GroupCommit,
}

impl Flushing {
    fn new() -> Self {
        let disk = Arc::new(GatedDisk::default());
        let options = LogDirectoryOptions {
            disk: disk.clone(),
            ..LogDirectoryOptions::default()
        };
        let node = Node::with(&[("log.flush.interval.messages", "1")], options);
        let group_commit =
            GroupCommit::start(&node.replicas, &Logger::root(slog::Discard, slog::o!())).unwrap();
        Self {
            node,
            disk,
            group_commit,
        }
    }
}

impl Drop for Flushing {
    fn drop(&mut self) {
        self.disk.open();
        self.group_commit.stop();
    }
}

fn append(replica: &Replica, acks_all: bool) -> CommitWait {
    let records = batch(0, 1);
    let mut batches = [LeaderBatch::whole(&records).unwrap()];
    let mut waits = Vec::new();
    let appended = replica
        .append(clock::now(), &mut batches, acks_all.then_some(&mut waits))
        .unwrap();
    assert!(appended.failed.is_none());
    waits.extend(appended.flushes);
    let wait = waits.pop().flatten();
    wait.expect("flush.messages=1 makes acks=1 wait as well")
}

#[test]
fn a_hundred_appends_to_fifty_partitions_share_two_rounds() {
    let mut flushing = Flushing::new();
    let replicas: Vec<_> = (0..50)
        .map(|n| flushing.node.create(&format!("t{n}"), NODE).unwrap())
        .collect();
    flushing.disk.shut();
    let mut waits = vec![append(&replicas[0], false)];
    flushing.disk.await_flush();
    for _ in 0..2 {
        // The in-sync replicas are this node alone, so that acks=all waits for the disk, too.
        waits.extend(replicas.iter().map(|replica| append(replica, true)));
    }
    assert!(
        replicas
            .iter()
            .all(|replica| replica.offsets().high_watermark == 0)
    );
    assert!(waits.iter_mut().all(|wait| wait.try_recv().is_err()));
    flushing.disk.open();
    for wait in waits {
        assert_eq!(wait.blocking_recv(), Ok(Ok(())));
    }
    assert!(
        replicas
            .iter()
            .all(|replica| replica.offsets().high_watermark >= 2)
    );
    assert_eq!(flushing.disk.segments_flushed.load(Ordering::SeqCst), 51);
}

#[test]
fn nothing_is_acknowledged_whose_flush_failed() {
    let mut flushing = Flushing::new();
    let (one, all) = (
        flushing.node.create("one", NODE).unwrap(),
        flushing.node.create("all", NODE).unwrap(),
    );
    assert_eq!(append(&one, false).blocking_recv(), Ok(Ok(())));
    flushing.disk.shut();
    flushing.disk.fails.store(true, Ordering::SeqCst);
    let waits = [append(&one, false), append(&all, true)];
    flushing.disk.open();
    for wait in waits {
        assert_eq!(wait.blocking_recv(), Ok(Err(ErrorCode::KafkaStorageError)));
    }
    assert_eq!(
        (one.offsets().high_watermark, all.offsets().high_watermark),
        (1, 0)
    );
    // The disk would say now that all is well, and nobody believes it.
    flushing.disk.fails.store(false, Ordering::SeqCst);
    assert!(flushing.node.replicas.directories()[0].is_offline());
    let records = batch(0, 1);
    let mut batches = [LeaderBatch::whole(&records).unwrap()];
    assert!(one.append(clock::now(), &mut batches, None).is_err());
}

#[test]
fn a_round_that_finds_no_descriptor_is_tried_again() {
    let mut flushing = Flushing::new();
    let replica = flushing.node.create("t", NODE).unwrap();
    flushing.disk.without_descriptor.store(1, Ordering::SeqCst);
    assert_eq!(append(&replica, false).blocking_recv(), Ok(Ok(())));
    assert_eq!(flushing.disk.without_descriptor.load(Ordering::SeqCst), 0);
    assert!(!flushing.node.replicas.directories()[0].is_offline());
}

#[test]
fn a_follower_asks_for_more_once_it_has_flushed() {
    let mut flushing = Flushing::new();
    let replica = flushing.node.create("t", OTHER).unwrap();
    flushing.disk.shut();
    let fetched = replica.append_as_follower(clock::now(), &batch(0, 3), from_other(0, 0));
    let mut flushed = fetched.unwrap().expect("flush.messages=1");
    flushing.disk.await_flush();
    assert!(flushed.try_recv().is_err());
    flushing.disk.open();
    assert_eq!(flushed.blocking_recv(), Ok(Ok(())));
    assert_eq!(replica.with(|p| p.log().durable_end_offset()), 3);
}

#[test]
fn whoever_waits_for_a_flush_is_told_that_the_leader_moved() {
    let mut flushing = Flushing::new();
    let replica = flushing.node.create("t", NODE).unwrap();
    flushing.disk.shut();
    let wait = append(&replica, false);
    flushing.node.elect("t", OTHER);
    assert_eq!(wait.blocking_recv(), Ok(Err(ErrorCode::NotLeaderOrFollower)));
}

#[test]
fn the_logs_of_a_broker_that_stops_are_flushed_side_by_side() {
    let disk = Arc::new(GatedDisk::default());
    let options = LogDirectoryOptions {
        disk: disk.clone(),
        ..LogDirectoryOptions::default()
    };
    let mut node = Node::with(&[], options);
    let replicas: Vec<_> = (0..2)
        .map(|n| node.create(&format!("t{n}"), NODE).unwrap())
        .collect();
    replicas.iter().for_each(|replica| append_own(replica));
    disk.shut();
    let all = node.replicas.clone();
    let stopping = std::thread::spawn(move || all.close_clean());
    disk.await_flushes(2);
    disk.open();
    stopping.join().unwrap();
    for replica in replicas {
        assert_eq!(replica.with(|p| p.log().recovery_point()), 10);
    }
}
