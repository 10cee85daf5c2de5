//! Moving to another directory: a copy that follows its log, takes its place, and what a kill leaves in either directory.

use odradek_common::records::control::{EndTransactionMarker, TransactionResult};

use super::*;
use crate::error::AppendError;
use crate::read::{Patience, Planned};

/// A log in one directory and, after [`Move::begin`], its copy in another.
struct Move {
    from: Fixture,
    to: LogDirectory,
    to_path: PathBuf,
    copy: Option<Log>,
}

impl Move {
    fn begin(config: LogConfig) -> Self {
        let from = Fixture::with(config);
        let to_path = from.path.with_file_name("other");
        let to = open(&to_path);
        let copy = to.begin_future(from.log.to_follow(), NOW).unwrap().unwrap();
        Self {
            from,
            to,
            to_path,
            copy: Some(copy),
        }
    }

    fn copy(&mut self) -> &mut Log {
        self.copy.as_mut().unwrap()
    }

    /// Copies one slice; false if there was none.
    fn step(&mut self) -> bool {
        let (log, copy) = (&mut self.from.log, self.copy.as_mut().unwrap());
        copy.follow(NOW, log.take_bounds()).unwrap();
        let end = copy.log_end_offset();
        let planned = log.read_plan_with(Patience::Wait, end, 500, i64::MAX, MinOneBatch::Yes);
        let Planned::Slice(slice) = planned.unwrap() else {
            panic!("it waits")
        };
        if !slice.is_empty() {
            copy.append_fetched(NOW, &slice.read().unwrap(), i32::MAX)
                .unwrap();
        }
        !slice.is_empty()
    }

    fn catch_up(&mut self) {
        while self.step() {}
    }

    /// False if there was nothing to announce.
    fn announce(&mut self) -> bool {
        let copy = self.copy.as_mut().unwrap();
        self.to.announce_future(copy, 1, NOW).unwrap()
    }

    /// The copy takes the place; the log it followed is what is left.
    fn finish(&mut self) -> Log {
        self.catch_up();
        self.announce();
        let mut copy = self.copy.take().unwrap();
        copy.succeed(&self.from.log).unwrap();
        self.to.promote(&mut copy).unwrap();
        std::mem::replace(&mut self.from.log, copy)
    }

    /// Both directories as a kill leaves them now, opened again.
    fn kill(&self) -> [LogDirectory; 2] {
        [&self.from.path, &self.to_path].map(|path| {
            let killed = path.with_file_name(Uuid::new_v4().to_string());
            super::copy(path, &killed);
            open(&killed)
        })
    }
}

fn marker(result: TransactionResult) -> Bytes {
    EndTransactionMarker {
        result,
        coordinator_epoch: 0,
    }
    .to_batch(NOW.wall_ms, 7, 0)
}

#[test]
fn a_copy_takes_the_place_with_all_that_the_log_knows() {
    let mut moved = Move::begin(small_segments());
    for sequence in 0..30 {
        moved.from.append_batch(1, producer_batch(7, 0, sequence, true));
        moved.from.append(3);
        moved.step();
    }
    moved.from.append_batch(2, marker(TransactionResult::Abort));
    moved.from.append_batch(2, producer_batch(8, 0, 0, true));
    // A leader that has appended nothing yet.
    moved.from.log.assign_epoch(5).unwrap();
    moved.from.log.delete_records_before(11).unwrap();
    let expected = moved.from.contents();
    let before = moved.finish();
    let check = |log: &Log| {
        assert_eq!(contents(log), expected);
        assert_eq!(
            (
                log.log_start_offset(),
                log.high_watermark(),
                log.last_stable_offset()
            ),
            (11, before.high_watermark(), before.last_stable_offset())
        );
        assert_eq!(log.epochs(), before.epochs());
        assert_eq!(log.producers(), before.producers());
        assert_eq!(
            log.aborted_transactions(11, i64::MAX),
            before.aborted_transactions(11, i64::MAX)
        );
    };
    assert!(!before.aborted_transactions(11, i64::MAX).is_empty());
    check(&moved.from.log);
    // It is a log as any other: it grows, is closed, and opened again.
    moved.from.log.close_clean(NOW).unwrap();
    assert!(moved.to.close_clean().unwrap());
    let Move {
        from, to, to_path, ..
    } = moved;
    let Fixture { log, config, .. } = from;
    drop((log, to));
    let log = open(&to_path).open_partition(identity(), config, NOW).unwrap();
    check(&log);
}

#[test]
fn a_copy_follows_what_is_cut_off_at_either_end() {
    let mut moved = Move::begin(small_segments());
    (0..40).for_each(|_| _ = moved.from.append(2));
    moved.catch_up();
    let now = NOW;
    moved.from.log.truncate_to(now, 30).unwrap();
    // What comes instead reaches beyond what the copy holds.
    (0..40).for_each(|_| _ = moved.from.append(1));
    assert!(moved.from.log.is_cut());
    moved.catch_up();
    assert_eq!(contents(moved.copy.as_ref().unwrap()), moved.from.contents());
    // Within a batch: it is only read whole.
    moved.from.log.delete_records_before(21).unwrap();
    moved.catch_up();
    assert_eq!(moved.copy().log_start_offset(), 21);
    moved.from.log.truncate_fully_and_start_at(now, 500).unwrap();
    moved.from.append(3);
    moved.catch_up();
    assert_eq!(
        (moved.copy().log_start_offset(), moved.copy().log_end_offset()),
        (500, 503)
    );
    moved.from.log.truncate_fully_and_start_at(now, 7).unwrap();
    moved.from.append(1);
    moved.finish();
    assert_eq!(moved.from.contents().len(), 1);
    assert_eq!(moved.from.log.log_start_offset(), 7);
}

#[test]
fn what_is_deleted_of_a_copy_before_it_takes_the_place_is_gone_from_the_disk() {
    let mut moved = Move::begin(small_segments());
    (0..40).for_each(|_| _ = moved.from.append(2));
    moved.catch_up();
    let segments = moved.copy().segments();
    moved.from.log.delete_records_before(50).unwrap();
    moved.catch_up();
    assert!(moved.copy().segments() < segments);
    moved.finish();
    moved.to.purge_deleted(MUCH_LATER).unwrap();
    let files = fs::read_dir(moved.to_path.join("events-0")).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let deleted: Vec<_> = names.filter(|name| name.ends_with(".deleted")).collect();
    assert_eq!(deleted, [""; 0]);
    assert_eq!(moved.from.contents().first().unwrap().0, 50);
}

#[test]
fn a_copy_begins_with_the_batch_that_the_log_begins_in() {
    let mut moved = Move::begin(LogConfig::default());
    moved.from.append(10);
    moved.from.log.delete_records_before(4).unwrap();
    let expected = moved.from.contents();
    moved.finish();
    assert_eq!(moved.from.contents(), expected);
    assert_eq!(moved.from.log.log_start_offset(), 4);
}

#[test]
fn a_log_without_records_moves_and_stays_nothing_on_disk() {
    let mut moved = Move::begin(LogConfig::default());
    assert!(!moved.announce());
    let mut before = moved.finish();
    moved.from.directory.delete_partition(&mut before).unwrap();
    assert!(moved.to.partitions().is_empty());
    moved.from.append(2);
    assert!(moved.to.holds(&identity()) && !moved.from.directory.holds(&identity()));
}

#[test]
fn a_copy_is_on_disk_and_announced_once_its_log_is_there() {
    let mut moved = Move::begin(LogConfig::default());
    assert!(!moved.announce());
    // Made without a record.
    moved.from.log.truncate_fully_and_start_at(NOW, 0).unwrap();
    assert!(moved.from.log.is_made());
    moved.finish();
    assert_eq!(moved.to.moves(&identity()).unwrap(), 1);
}

#[test]
fn a_copy_that_a_kill_interrupts_is_told_until_it_is_discarded() {
    let mut moved = Move::begin(small_segments());
    (0..20).for_each(|_| _ = moved.from.append(2));
    moved.from.log.checkpoint(NOW).unwrap();
    moved.step();
    let early = moved.kill();
    moved.catch_up();
    // Announced, and yet not in its place.
    assert!(moved.announce());
    let late = moved.kill();
    for [from, to] in [early, late] {
        assert!(from.holds(&identity()) && !to.holds(&identity()));
        assert_eq!(to.interrupted_moves(), [identity()]);
        assert!(to.awaits_move(&identity()) && !from.awaits_move(&identity()));
        assert!(from.interrupted_moves().is_empty());
        assert_eq!(to.moves(&identity()).unwrap(), 0);
        assert_eq!(to.purge_deleted(MUCH_LATER).unwrap(), 0);
        to.discard_interrupted(&identity()).unwrap();
        assert!(to.interrupted_moves().is_empty());
        assert_eq!(to.purge_deleted(MUCH_LATER).unwrap(), 1);
        // Nothing of the old copy is taken for the new one's.
        let mut copy = to.begin_future(moved.from.log.to_follow(), NOW).unwrap().unwrap();
        one_record(&mut copy);
        assert_eq!(contents(&copy).len(), 1);
    }
}

fn one_record(log: &mut Log) {
    append_one(log, 1, &batch(NOW.wall_ms, 1), AppendOrigin::Client).unwrap();
}

#[test]
fn the_directory_that_a_log_was_moved_to_is_right() {
    let mut moved = Move::begin(small_segments());
    (0..20).for_each(|_| _ = moved.from.append(2));
    let expected = moved.from.contents();
    let mut before = moved.finish();
    // Killed before the old directory has forgotten the partition: both have it, and one was moved to.
    let [from, to] = moved.kill();
    assert!(from.holds(&identity()) && to.holds(&identity()));
    let moves = |directory: &LogDirectory| directory.moves(&identity()).unwrap();
    assert_eq!((moves(&from), moves(&to)), (0, 1));
    let log = to.open_partition(identity(), small_segments(), NOW).unwrap();
    assert_eq!(contents(&log), expected);
    from.delete_unopened(&identity()).unwrap();
    assert!(!from.holds(&identity()));
    // And after it.
    moved.from.append(1);
    moved.from.directory.delete_partition(&mut before).unwrap();
    let [from, to] = moved.kill();
    assert!(!from.holds(&identity()) && to.holds(&identity()));
    let log = to.open_partition(identity(), small_segments(), NOW).unwrap();
    assert_eq!(contents(&log), moved.from.contents());
}

#[test]
fn a_cancelled_copy_leaves_nothing() {
    let mut moved = Move::begin(small_segments());
    moved.from.append(5);
    moved.catch_up();
    let mut copy = moved.copy.take().unwrap();
    moved.to.delete_partition(&mut copy).unwrap();
    assert_eq!(
        moved.to.purge_deleted(NOW).unwrap(),
        1,
        "it is not kept for a while"
    );
    let folders = fs::read_dir(&moved.to_path).unwrap();
    let left = folders.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("events")
    });
    assert_eq!(left.count(), 0);
    assert!(
        moved.to.close_clean().unwrap(),
        "it was never a log of this directory"
    );
}

#[test]
fn a_flush_that_was_planned_before_the_move_counts_for_nothing() {
    let mut moved = Move::begin(LogConfig::default());
    moved.from.append(5);
    let plan = moved.from.log.flush_plan(NOW).unwrap().unwrap();
    moved.catch_up();
    let mut copy = moved.copy.take().unwrap();
    copy.succeed(&moved.from.log).unwrap();
    moved.to.promote(&mut copy).unwrap();
    copy.complete_flush(plan).unwrap();
    assert_eq!(copy.recovery_point(), 0);
}

#[test]
fn damage_is_not_copied() {
    let mut moved = Move::begin(LogConfig::default());
    moved.from.append(5);
    let slice = moved
        .from
        .log
        .read_plan(0, 1 << 20, i64::MAX, MinOneBatch::Yes)
        .unwrap();
    let mut bytes = slice.read().unwrap().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let refused = moved.copy().append_fetched(NOW, &bytes, i32::MAX);
    assert!(matches!(refused, Err(AppendError::Corrupt(_))), "{refused:?}");
    assert_eq!(moved.copy().log_end_offset(), 0);
}
