//! Flushes: what waits for them, and disks that fail at them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use super::*;
use crate::directory::DirectoryShared;
use crate::disk::{Disk, Space, SystemDisk};
use crate::error::LogError;

/// Counts flushes, and fails them once it is told to.
#[derive(Debug, Default)]
struct FailingDisk {
    flushes: AtomicUsize,
    fails: AtomicBool,
    /// With this error, unless it is 0, and else EIO.
    error: AtomicI32,
    /// While it is set, one flush waits for another.
    waits_for_two: AtomicBool,
    under_way: Mutex<usize>,
    changed: Condvar,
    /// Asked whether somebody has the directory's turn, when bytes are written and when they are flushed.
    turn: Mutex<Weak<DirectoryShared>>,
    turns: Mutex<Vec<(Doing, bool)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Writing,
    Flushing,
}

impl FailingDisk {
    fn flush(&self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        self.note_turn(Doing::Flushing);
        *self.under_way.lock() += 1;
        self.changed.notify_all();
        if self.waits_for_two.load(Ordering::SeqCst) {
            let mut under_way = self.under_way.lock();
            while *under_way < 2 && self.waits_for_two.load(Ordering::SeqCst) {
                self.changed.wait(&mut under_way);
            }
            self.waits_for_two.store(false, Ordering::SeqCst);
            self.changed.notify_all();
        }
        // As the kernel has it: who asks first is told, who asks again is not.
        let fails = self.fails.swap(false, Ordering::SeqCst);
        let outcome = flush();
        *self.under_way.lock() -= 1;
        if fails {
            let error = match self.error.load(Ordering::SeqCst) {
                0 => 5,
                error => error,
            };
            return Err(io::Error::from_raw_os_error(error));
        }
        outcome
    }

    fn note_turn(&self, doing: Doing) {
        if let Some(directory) = self.turn.lock().upgrade() {
            let is_taken = directory.sync_turn.is_taken();
            self.turns.lock().push((doing, is_taken));
        }
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

    fn write_back(&self, file: &File, bytes: Range<u64>) {
        self.note_turn(Doing::Writing);
        SystemDisk.write_back(file, bytes);
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
    let plan = fixture.log.flush_plan(NOW).unwrap().unwrap();
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
fn what_recovery_finds_is_on_disk_before_it_is_used_where_flush_messages_asks_for_that() {
    let (folder, disk, directory, mut logs) = directory(1);
    assert!(
        append(&mut logs[0], 3).flush_due,
        "and the process is killed before"
    );
    drop((logs, directory));
    let open = |config: LogConfig| {
        let options = LogDirectoryOptions {
            disk: disk.clone(),
            ..LogDirectoryOptions::default()
        };
        let directory = LogDirectory::open(folder.path(), options, logger()).unwrap();
        let before = disk.flushes.load(Ordering::SeqCst);
        let opened = directory.open_partition(identity(), config, NOW);
        (opened, disk.flushes.load(Ordering::SeqCst) - before)
    };
    let (log, flushes) = open(LogConfig::default());
    assert_eq!(
        (log.unwrap().recovery_point(), flushes),
        (0, 0),
        "nobody asks for it"
    );
    disk.fails.store(true, Ordering::SeqCst);
    let (refused, _) = open(flush_messages(1));
    assert!(matches!(refused, Err(LogError::Unsynced { .. })), "{refused:?}");
    let (log, flushes) = open(flush_messages(1));
    let log = log.unwrap();
    assert!(flushes > 0);
    assert_eq!((log.recovery_point(), log.durable_end_offset()), (3, 3));
}

#[test]
fn what_is_truncated_waits_for_no_flush() {
    let mut fixture = Fixture::with(flush_messages(1));
    fixture.append(4);
    fixture.append(4);
    let plan = fixture.log.flush_plan(NOW).unwrap().unwrap();
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
        let plan = |log: &mut Log| log.flush_plan(NOW).unwrap().unwrap();
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
    // One file after the other would not come to an end.
    disk.waits_for_two.store(true, Ordering::SeqCst);
    directory.sync(&plans(&mut logs)).unwrap();
    assert_eq!(disk.flushes.load(Ordering::SeqCst), 24 * 4 + 1);
}

#[test]
fn a_round_of_producers_waits_for_one_file_of_a_checkpoint() {
    let (_folder, disk, directory, mut logs) = directory(1);
    let log = &mut logs[0];
    for _ in 0..3 {
        append(log, 1);
        log.roll(NOW).unwrap();
    }
    let plan = log.checkpoint_plan(NOW).unwrap().unwrap();
    *disk.turn.lock() = Arc::downgrade(&directory.shared);
    plan.sync().unwrap();
    let turns = disk.turns.lock().clone();
    let (writing, flushing): (Vec<_>, Vec<_>) = turns
        .iter()
        .copied()
        .partition(|(doing, _)| *doing == Doing::Writing);
    // What takes long is done while nobody has the turn, which is free again after each file.
    assert_eq!(writing, [(Doing::Writing, false); 3]);
    assert!(flushing.len() > 3 && flushing.iter().all(|(_, is_taken)| *is_taken));
    let first_flush = turns.iter().position(|turn| turn.0 == Doing::Flushing).unwrap();
    assert!(turns[first_flush..].contains(&(Doing::Writing, false)));
    log.complete_flush(plan).unwrap();
    assert_eq!(log.recovery_point(), 3);
}

fn completed(log: &mut Log, plan: crate::flush::FlushPlan) {
    plan.sync().unwrap();
    log.complete_flush(plan).unwrap();
}

#[test]
fn whoever_plans_while_a_folder_is_being_flushed_waits_for_it_too() {
    let mut fixture = Fixture::with(flush_messages(1));
    fixture.append(1);
    let checkpoint = fixture.log.checkpoint_plan(NOW).unwrap().unwrap();
    fixture.append(1);
    let round = fixture.log.flush_plan(NOW).unwrap().unwrap();
    assert!(checkpoint.folder.is_some() && round.folder.is_some());
    completed(&mut fixture.log, round);
    // Made after it was planned.
    fixture.log.roll(NOW).unwrap();
    completed(&mut fixture.log, checkpoint);
    fixture.append(1);
    let plan = fixture.log.flush_plan(NOW).unwrap().unwrap();
    assert!(plan.folder.is_some());
    completed(&mut fixture.log, plan);
    fixture.append(1);
    let plan = fixture.log.flush_plan(NOW).unwrap().unwrap();
    assert!(plan.folder.is_none(), "the disk has all names");
}

#[test]
fn the_names_that_a_kill_or_a_cut_leaves_are_flushed() {
    let mut fixture = Fixture::with(small_segments());
    (0..60).for_each(|_| _ = fixture.append(1));
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    assert!(fixture.log.flush_plan(NOW).unwrap().is_none());
    let mut killed = fixture.kill();
    let plan = killed.log.flush_plan(NOW).unwrap();
    completed(
        &mut killed.log,
        plan.expect("nobody knows which names the disk has"),
    );
    assert!(killed.log.flush_plan(NOW).unwrap().is_none());
    killed.log.truncate_to(NOW, 3).unwrap();
    let plan = killed.log.flush_plan(NOW).unwrap();
    completed(&mut killed.log, plan.expect("segments were removed"));
    let mut restarted = killed.restart();
    assert!(restarted.log.flush_plan(NOW).unwrap().is_none());
}

#[test]
fn a_partition_that_is_deleted_under_a_flush_fails_no_other() {
    let (folder, _disk, directory, mut logs) = directory(2);
    logs.iter_mut().for_each(|log| assert!(append(log, 1).flush_due));
    let plans: Vec<_> = logs
        .iter_mut()
        .map(|log| log.flush_plan(NOW).unwrap().unwrap())
        .collect();
    directory.delete_partition(&mut logs[0]).unwrap();
    plans[0].sync().unwrap();
    directory.sync(&plans).unwrap();
    // Without the directory there is nothing that could be promised.
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert!(matches!(directory.sync(&plans), Err(LogError::Unsynced { .. })));
}

#[test]
fn no_flush_is_believed_after_one_that_failed() {
    let (_folder, disk, directory, mut logs) = directory(2);
    let mut logs = logs.iter_mut();
    let (first, second) = (logs.next().unwrap(), logs.next().unwrap());
    append(first, 1);
    append(second, 1);
    let (plan, other) = (
        first.flush_plan(NOW).unwrap().unwrap(),
        second.flush_plan(NOW).unwrap().unwrap(),
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
fn a_flush_that_finds_no_descriptor_is_tried_again() {
    let (_folder, disk, directory, mut logs) = directory(1);
    let log = &mut logs[0];
    append(log, 1);
    for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE] {
        let plan = log.flush_plan(NOW).unwrap().unwrap();
        assert!(plan.folder.is_some());
        disk.error.store(errno.raw_os_error(), Ordering::SeqCst);
        disk.fails.store(true, Ordering::SeqCst);
        let error = directory.sync(&[plan]).unwrap_err();
        assert!(error.is_out_of_descriptors(), "{error:?}");
        assert_eq!(log.durable_end_offset(), 0);
    }
    log.flush().unwrap();
    assert_eq!(log.durable_end_offset(), 1);
    log.close_clean(NOW).unwrap();
    assert!(directory.close_clean().unwrap());
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

#[test]
fn flush_ms_is_not_over_at_once_because_records_come_during_the_flush() {
    let mut fixture = Fixture::with(LogConfig {
        flush_ms: 100,
        ..LogConfig::default()
    });
    fixture.append(1);
    let flushed_at = NOW.plus_ms(100);
    assert!(fixture.log.is_flush_due(flushed_at));
    let plan = fixture.log.flush_plan(flushed_at).unwrap().unwrap();
    fixture.append(1);
    plan.sync().unwrap();
    fixture.log.complete_flush(plan).unwrap();
    assert!(!fixture.log.is_flush_due(flushed_at.plus_ms(99)));
    assert!(fixture.log.is_flush_due(flushed_at.plus_ms(100)));
}

#[test]
fn a_checkpoint_leaves_a_segment_that_is_appended_to_alone() {
    let mut fixture = Fixture::with(small_segments());
    (0..30).for_each(|_| _ = fixture.append(1));
    let log = &mut fixture.log;
    let border = log.active_segment_base_offset();
    let plan = log.periodic_checkpoint_plan(NOW).unwrap().unwrap();
    let flushed: Vec<i64> = plan.files.iter().map(|file| file.base_offset).collect();
    let sealed: Vec<i64> = log.segments.range(..border).map(|(base, _)| *base).collect();
    assert!(sealed.len() > 1 && flushed == sealed, "{flushed:?} of {sealed:?}");
    plan.sync().unwrap();
    log.complete_flush(plan).unwrap();
    assert_eq!(log.recovery_point(), border);
    assert_eq!(log.persistence.unflushed_messages, 30 - border);
    assert_eq!(log.uncheckpointed_bytes(), log.active().footer.size_bytes);
    fixture.append(1);
    let log = &mut fixture.log;
    assert!(log.periodic_checkpoint_plan(NOW).unwrap().is_none());
    // Nobody appends any more whom a flush would hold up.
    let plan = log.periodic_checkpoint_plan(NOW).unwrap().unwrap();
    plan.sync().unwrap();
    log.complete_flush(plan).unwrap();
    assert_eq!((log.recovery_point(), log.uncheckpointed_bytes()), (31, 0));
    assert!(log.periodic_checkpoint_plan(NOW).unwrap().is_none());
    // What group commit has flushed anyhow is written down at once.
    fixture.append(1);
    fixture.log.flush().unwrap();
    let log = &mut fixture.log;
    let plan = log.periodic_checkpoint_plan(NOW).unwrap().unwrap();
    log.complete_flush(plan).unwrap();
    assert_eq!(log.uncheckpointed_bytes(), 0);
}

#[test]
fn a_checkpoint_whose_segment_is_gone_counts_for_nothing() {
    let mut fixture = Fixture::with(small_segments());
    for sequence in 0..30 {
        fixture.append_batch(1, producer_batch(7, 0, sequence, false));
    }
    let plan = fixture.log.periodic_checkpoint_plan(NOW).unwrap().unwrap();
    // The producers at the border go with the segment that begins there.
    for sequence in 30..60 {
        fixture.append_batch(1, producer_batch(8, 0, sequence, false));
    }
    let start = fixture.log.active_segment_base_offset();
    fixture.log.delete_records_before(start).unwrap();
    assert!(fixture.log.retention(NOW).unwrap() > 0);
    plan.sync().unwrap();
    fixture.log.complete_flush(plan).unwrap();
    assert_eq!(fixture.log.persistence.checkpointed, None);
    let plan = fixture.log.periodic_checkpoint_plan(NOW).unwrap().unwrap();
    plan.sync().unwrap();
    fixture.log.complete_flush(plan).unwrap();
    fixture.directory.flush_index().unwrap();
    let killed = fixture.kill();
    assert_eq!(killed.contents(), fixture.contents());
    assert_eq!(killed.log.producers().encode(), fixture.log.producers().encode());
}

/// A disk that helpers of a flush panic at; whoever asked them waits for that.
#[derive(Debug, Default)]
struct PanickingDisk {
    is_bad: AtomicBool,
    panicked: AtomicBool,
}

impl Disk for PanickingDisk {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        if std::thread::current().name() == Some("flush") {
            self.panicked.store(true, Ordering::SeqCst);
            panic!("as the test wants it");
        }
        while self.is_bad.load(Ordering::SeqCst) && !self.panicked.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        SystemDisk.sync_data(file)
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        self.sync_data(file)
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        SystemDisk.space(directory)
    }
}

#[test]
fn what_a_helper_that_panicked_was_to_flush_is_not_taken_for_flushed() {
    let folder = TempDir::new().unwrap();
    let disk = Arc::new(PanickingDisk::default());
    let options = LogDirectoryOptions {
        disk: disk.clone(),
        ..LogDirectoryOptions::default()
    };
    let directory = LogDirectory::open(folder.path(), options, logger()).unwrap();
    let plans: Vec<_> = [0, 1]
        .map(|partition| {
            let identity = PartitionIdentity::new("events", TOPIC_ID, partition);
            let mut log = directory
                .open_partition(identity, flush_messages(1), NOW)
                .unwrap();
            append(&mut log, 1);
            log.flush_plan(NOW).unwrap().unwrap()
        })
        .into();
    disk.is_bad.store(true, Ordering::SeqCst);
    let flushed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| directory.sync(&plans)));
    assert!(flushed.is_err());
}
