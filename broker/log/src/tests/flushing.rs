//! Flushes: what waits for them, and disks that fail at them.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::disk::{Disk, Space, SystemDisk};
use crate::error::LogError;

/// Counts flushes, and fails them once it is told to.
#[derive(Debug, Default)]
struct FailingDisk {
    flushes: AtomicUsize,
    fails: AtomicBool,
    /// Of all threads that flush at this moment, and the most there ever were.
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
}

impl FailingDisk {
    fn flush(&self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.at_once_max.fetch_max(at_once, Ordering::SeqCst);
        // As the kernel has it: who asks first is told, who asks again is not.
        let fails = self.fails.swap(false, Ordering::SeqCst);
        let outcome = flush();
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        if fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        outcome
    }
}

impl Disk for FailingDisk {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.flush(|| SystemDisk.sync_data(file))
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        self.flush(|| SystemDisk.sync_all(file))
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        SystemDisk.space(directory)
    }
}

fn flush_messages(flush_messages: i64) -> LogConfig {
    LogConfig {
        flush_messages,
        ..LogConfig::default()
    }
}

/// A directory on a disk that may fail, with as many logs as asked for.
fn directory(logs: i32) -> (TempDir, Arc<FailingDisk>, LogDirectory, Vec<Log>) {
    let (folder, disk) = (TempDir::new().unwrap(), Arc::new(FailingDisk::default()));
    let options = LogDirectoryOptions {
        disk: disk.clone(),
        ..LogDirectoryOptions::default()
    };
    let directory = LogDirectory::open(folder.path(), options, logger()).unwrap();
    let open = |partition| {
        let identity = PartitionIdentity::new("events", TOPIC_ID, partition);
        directory
            .open_partition(identity, flush_messages(1), NOW)
            .unwrap()
    };
    let logs = (0..logs).map(open).collect();
    (folder, disk, directory, logs)
}

fn append(log: &mut Log, count: usize) -> AppendInfo {
    append_one(log, 1, &batch(NOW.wall_ms, count), AppendOrigin::Client).unwrap()
}

#[test]
fn flush_messages_holds_back_what_it_is_due_for() {
    let mut fixture = Fixture::with(flush_messages(3));
    assert!(!fixture.append(2).flush_due);
    assert_eq!(fixture.log.durable_end_offset(), 2);
    assert!(fixture.append(2).flush_due);
    assert_eq!(
        (fixture.log.recovery_point(), fixture.log.durable_end_offset()),
        (0, 2)
    );
    let plan = fixture.log.flush_plan().unwrap().unwrap();
    // Appended while the flush is under way: due as well, and not covered by it.
    fixture.append(1);
    plan.sync().unwrap();
    fixture.log.complete_flush(plan).unwrap();
    assert_eq!(
        (fixture.log.recovery_point(), fixture.log.durable_end_offset()),
        (4, 4)
    );
    fixture.log.flush().unwrap();
    assert_eq!(fixture.log.durable_end_offset(), 5);
    assert!(!fixture.append(2).flush_due, "the count begins again");
}

#[test]
fn what_is_truncated_waits_for_no_flush() {
    let mut fixture = Fixture::with(flush_messages(1));
    fixture.append(4);
    fixture.append(4);
    let plan = fixture.log.flush_plan().unwrap().unwrap();
    fixture.log.truncate_to(NOW, 4).unwrap();
    plan.sync().unwrap();
    fixture.log.complete_flush(plan).unwrap();
    assert_eq!(
        fixture.log.durable_end_offset(),
        0,
        "the flush came before the truncation"
    );
    fixture.log.flush().unwrap();
    assert_eq!(fixture.log.durable_end_offset(), 4);
    fixture.append(1);
    fixture.log.truncate_to(NOW, 4).unwrap();
    assert_eq!(fixture.log.durable_end_offset(), 4);
}

#[test]
fn the_logs_of_a_directory_share_a_round() {
    let (_folder, disk, directory, mut logs) = directory(24);
    let plans = |logs: &mut Vec<Log>| {
        let plan = |log: &mut Log| log.flush_plan().unwrap().unwrap();
        logs.iter_mut().map(plan).collect::<Vec<_>>()
    };
    logs.iter_mut().for_each(|log| assert!(append(log, 1).flush_due));
    let first = plans(&mut logs);
    directory.sync(&first).unwrap();
    // Each segment, its folder and the topic id in it; the directory that got the folders once for all.
    assert_eq!(disk.flushes.load(Ordering::SeqCst), 24 * 3 + 1);
    for (log, plan) in logs.iter_mut().zip(first) {
        log.complete_flush(plan).unwrap();
        assert_eq!(log.durable_end_offset(), log.log_end_offset());
        append(log, 1);
    }
    directory.sync(&plans(&mut logs)).unwrap();
    assert_eq!(disk.flushes.load(Ordering::SeqCst), 24 * 4 + 1);
    assert!(
        disk.at_once_max.load(Ordering::SeqCst) > 1,
        "one file after the other"
    );
}

#[test]
fn no_flush_is_believed_after_one_that_failed() {
    let (_folder, disk, directory, mut logs) = directory(2);
    let mut logs = logs.iter_mut();
    let (first, second) = (logs.next().unwrap(), logs.next().unwrap());
    append(first, 1);
    append(second, 1);
    let (plan, other) = (
        first.flush_plan().unwrap().unwrap(),
        second.flush_plan().unwrap().unwrap(),
    );
    disk.fails.store(true, Ordering::SeqCst);
    let error = directory.sync(std::slice::from_ref(&plan)).unwrap_err();
    assert!(matches!(error, LogError::Unsynced { .. }));
    assert!(!error.is_disk_full());
    // The disk would say now that all is well.
    assert!(directory.sync(&[plan]).is_err());
    assert!(other.sync().is_err());
    assert_eq!((first.durable_end_offset(), second.durable_end_offset()), (0, 0));
    assert!(first.close_clean(NOW).is_err());
    second.close_clean(NOW).unwrap_err();
    assert!(!directory.close_clean().unwrap());
}

#[test]
fn flush_ms_counts_from_the_oldest_record_that_is_not_flushed() {
    let mut fixture = Fixture::with(LogConfig {
        flush_ms: 100,
        ..LogConfig::default()
    });
    assert!(!fixture.log.is_flush_due(NOW.plus_ms(1_000)), "nothing to flush");
    fixture.append(1);
    assert!(!fixture.log.is_flush_due(NOW.plus_ms(99)));
    assert!(fixture.log.is_flush_due(NOW.plus_ms(100)));
    fixture.log.flush().unwrap();
    assert!(!fixture.log.is_flush_due(NOW.plus_ms(1_000)));
}
