//! Repairs of compacted logs, of which each replica has kept something else.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use odradek_common::records::control::{ControlRecordType, EndTransactionMarker, TransactionResult};

use super::*;
use crate::config::CleanupPolicy;

const RETENTION_MS: i64 = 1_000;
const PRODUCER: i64 = 9;
/// A key that a tombstone behind the damage deletes, and one that only an aborted transaction has written.
const DEAD: &str = "dead";
const VOID: &str = "void";

fn config() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::COMPACT,
        delete_retention_ms: RETENTION_MS,
        min_cleanable_dirty_ratio: 0.0,
        ..small_segments()
    }
}

fn record(key: &str, value: Option<&str>) -> Bytes {
    let mut builder = BatchBuilder::new(0);
    builder.append(NOW.wall_ms, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    builder.build()
}

fn fill(fixture: &mut Fixture, name: &str, count: usize) {
    for index in 0..count {
        let key = format!("{name}-{index}");
        fixture.append_batch(1, record(&key, Some("value")));
    }
}

fn transactional(fixture: &mut Fixture, sequence: i32, key: &str) {
    let mut builder = BatchBuilder::new(0)
        .producer(PRODUCER, 0, sequence)
        .transactional();
    builder.append(NOW.wall_ms, Some(key.as_bytes()), Some(b"value"), &[]);
    fixture.append_batch(1, builder.build());
}

fn end(fixture: &mut Fixture, result: TransactionResult) {
    let marker = EndTransactionMarker {
        result,
        coordinator_epoch: 0,
    };
    fixture.append_batch(1, marker.to_batch(NOW.wall_ms, PRODUCER, 0));
}

/// Two values and one record of an aborted transaction in front; what ends all of them some segments behind.
fn history(fixture: &mut Fixture) {
    fixture.append_batch(1, record(DEAD, Some("back")));
    fixture.append_batch(1, record("kept", Some("old")));
    transactional(fixture, 0, VOID);
    fill(fixture, "first", 30);
    fixture.append_batch(1, record(DEAD, None));
    fixture.append_batch(1, record("kept", Some("new")));
    end(fixture, TransactionResult::Abort);
    // Nothing of the aborted one has to be kept for the sake of its producer.
    transactional(fixture, 1, "done");
    end(fixture, TransactionResult::Commit);
    fill(fixture, "second", 30);
}

/// What a consumer of committed records sees as the latest values, as Kafka's tells what is aborted.
fn committed(log: &Log) -> BTreeMap<String, String> {
    let mut aborted = log.aborted_transactions(0, i64::MAX).into_iter().peekable();
    let (mut void, mut latest) = (BTreeSet::new(), BTreeMap::new());
    let mut offset = log.log_start_offset();
    loop {
        let slice = log
            .read_plan(offset, 1 << 20, i64::MAX, MinOneBatch::Yes)
            .unwrap();
        let bytes = slice.read().unwrap();
        if bytes.is_empty() {
            return latest;
        }
        for batch in batches(&bytes) {
            let (header, batch) = batch.unwrap();
            offset = header.next_offset();
            while let Some(begun) = aborted.next_if(|it| it.first_offset <= header.last_offset()) {
                void.insert(begun.producer_id);
            }
            let (_, section) = decoded_section(batch, 1 << 20).unwrap();
            for record in records(&header, &section).map(Result::unwrap) {
                let key = record.key.unwrap();
                if header.is_control() {
                    if ControlRecordType::decode_key(key) == Ok(ControlRecordType::Abort) {
                        void.remove(&header.producer_id);
                    }
                    continue;
                }
                if header.is_transactional() && void.contains(&header.producer_id) {
                    continue;
                }
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                match record.value {
                    Some(value) => latest.insert(text(key), text(value)),
                    None => latest.remove(&text(key)),
                };
            }
        }
    }
}

/// A log that was compacted several times, so that nothing is left of what is deleted and aborted, and one that was not at all; what
/// is visible in both.
fn ahead_and_behind() -> (Fixture, Fixture, BTreeMap<String, String>) {
    let (mut ahead, mut behind) = (Fixture::with(config()), Fixture::with(config()));
    history(&mut behind);
    history(&mut ahead);
    ahead.log.compact(NOW, PassMemory::default()).unwrap();
    for (pass, name) in [(2, "third"), (4, "fourth")] {
        fill(&mut behind, name, 20);
        fill(&mut ahead, name, 20);
        let later = NOW.plus_ms(pass * RETENTION_MS as u64);
        ahead.log.compact(later, PassMemory::default()).unwrap();
    }
    assert!(ahead.log.aborted_transactions(0, i64::MAX).is_empty());
    assert_eq!(behind.log.aborted_transactions(0, i64::MAX).len(), 1);
    let expected = committed(&behind.log);
    assert_eq!(committed(&ahead.log), expected);
    assert!(!expected.contains_key(DEAD) && !expected.contains_key(VOID));
    // Recovery reads nothing of it again.
    ahead.log.checkpoint(NOW).unwrap();
    ahead.directory.flush_index().unwrap();
    (ahead, behind, expected)
}

/// Damages the first segment that has records behind the first one; the checks find it.
fn damage(fixture: &mut Fixture) -> i64 {
    let mut filled = fixture
        .log
        .segments
        .values()
        .filter(|segment| !segment.is_empty());
    let base = filled.nth(1).unwrap().base_offset;
    assert!(base < fixture.log.active_segment_base_offset());
    flip(fixture, base, HEADER_SIZE_BYTES as u64);
    assert_eq!(scrub(&mut fixture.log).len(), 1);
    base
}

/// What holds once a log has what the other one had.
fn assert_mended(fixture: &mut Fixture, behind: &Fixture, expected: &BTreeMap<String, String>) {
    let (log, end) = (&mut fixture.log, behind.log.log_end_offset());
    assert_eq!(log.log_end_offset(), end);
    log.set_high_watermark(end);
    assert_eq!(log.damaged_segments(), 0);
    assert_eq!(committed(log), *expected);
    assert_eq!(
        log.aborted_transactions(0, i64::MAX),
        behind.log.aborted_transactions(0, i64::MAX)
    );
    assert_eq!(log.cleaner_offset(), 0, "all of it is to be compacted anew");
    assert_eq!(log.last_stable_offset(), end);
    for pass in 5..8 {
        let later = NOW.plus_ms(pass * RETENTION_MS as u64);
        fill(fixture, "new", 20);
        fixture.log.compact(later, PassMemory::default()).unwrap();
        let mut seen = committed(&fixture.log);
        seen.retain(|key, _| !key.starts_with("new"));
        assert_eq!(seen, *expected, "pass {pass}");
    }
    let log = &fixture.log;
    assert!(log.aborted_transactions(0, i64::MAX).is_empty());
    let mut killed = fixture.kill();
    assert_eq!(committed(&killed.log), committed(log));
    killed.log.roll(NOW).unwrap();
    assert_sound(&mut killed.log);
}

#[test]
fn what_a_pass_has_forgotten_stays_forgotten_after_a_kill() {
    let mut fixture = Fixture::with(config());
    history(&mut fixture);
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    assert_eq!(fixture.log.aborted_transactions(0, i64::MAX).len(), 1);
    for pass in 1..5 {
        fill(&mut fixture, "new", 20);
        let later = NOW.plus_ms(2 * pass * RETENTION_MS as u64);
        fixture.log.compact(later, PassMemory::default()).unwrap();
    }
    let killed = fixture.kill();
    // With its marker gone, it would hide what its producer has committed since.
    assert_eq!(killed.log.aborted_transactions(0, i64::MAX), []);
    assert_eq!(committed(&killed.log), committed(&fixture.log));
    assert!(committed(&killed.log).contains_key("done"));
}

#[test]
fn a_replica_that_has_compacted_less_brings_nothing_back() {
    let (mut ahead, behind, expected) = ahead_and_behind();
    let cleaned = ahead.log.cleaner_offset();
    damage(&mut ahead);
    let repair_until = ahead.log.begin_repair(NOW).unwrap().unwrap().offsets().end;
    assert!(repair_until >= cleaned, "not only as far as the damage");
    assert!(repair(&mut ahead.log, &behind.log).unwrap());
    let replaced = ahead.log.segments.range(..repair_until);
    assert!(replaced.count() > 2, "it does not fit one segment");
    assert_mended(&mut ahead, &behind, &expected);
}

#[test]
fn a_replica_that_has_compacted_more_is_as_good() {
    let (ahead, mut behind, expected) = ahead_and_behind();
    damage(&mut behind);
    assert!(repair(&mut behind.log, &ahead.log).unwrap());
    assert_eq!(committed(&behind.log), expected);
    assert_eq!(behind.log.damaged_segments(), 0);
    behind.log.roll(NOW).unwrap();
    assert_sound(&mut behind.log);
}

#[test]
fn of_a_compacted_log_everything_that_is_committed_is_replaced() {
    let mut fixture = Fixture::with(config());
    fill(&mut fixture, "key", 60);
    damage(&mut fixture);
    let active = fixture.log.active_segment_base_offset();
    fixture.log.set_high_watermark(active + 1);
    let repair = fixture.log.begin_repair(NOW).unwrap().unwrap();
    assert_eq!(repair.offsets(), 0..active);
    fixture.log.set_high_watermark(60);
    let repair = fixture.log.begin_repair(NOW).unwrap().unwrap();
    assert_eq!(repair.offsets(), 0..60);
    drop(repair);
    let refused = fixture.log.compact(NOW, PassMemory::default());
    assert!(
        matches!(refused, Err(LogError::Corrupt { .. })),
        "it would write damage anew: {refused:?}"
    );
}

#[test]
fn what_takes_longer_to_fetch_than_a_tombstone_stays_is_not_put_in_place() {
    let (mut ahead, behind, _) = ahead_and_behind();
    damage(&mut ahead);
    let mut slow = ahead.log.begin_repair(NOW).unwrap().unwrap();
    fetch(&mut slow, &behind.log);
    let later = NOW.plus_ms(RETENTION_MS as u64 + 1);
    assert!(matches!(slow.finish(later), Err(AppendError::Corrupt(_))));
    let mut slow = ahead.log.begin_repair(NOW).unwrap().unwrap();
    let in_time = NOW.plus_ms(RETENTION_MS as u64);
    slow.append(in_time, &record("first", Some("value"))).unwrap();
    // Nobody fetches the rest in vain.
    let refused = slow.append(later, &record("first", Some("value")));
    assert!(
        matches!(&refused, Err(AppendError::Corrupt(detail)) if detail.contains("delete.retention.ms")),
        "{refused:?}"
    );
}

/// The steps of a swap on what a crash before it has left.
fn swap_steps(folder: &Path, replaced: std::ops::Range<i64>) -> Vec<(PathBuf, PathBuf)> {
    let names = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = names.collect();
    let path = |name: &str| folder.join(name);
    let mut cleaned = names.iter().filter(|name| name.ends_with(".cleaned"));
    let first = cleaned.next().unwrap();
    let swap = first.replace(".cleaned", ".swap");
    let log = |name: &str| path(&name[..name.find(".log").unwrap() + 4]);
    let mut steps = vec![(path(first), path(&swap))];
    let old = names.iter().filter(|name| {
        name.ends_with(".log") && replaced.contains(&name[..name.len() - 4].parse::<i64>().unwrap())
    });
    steps.extend(
        old.rev()
            .map(|name| (path(name), path(&format!("{name}.deleted")))),
    );
    steps.extend(cleaned.map(|name| (path(name), log(name))));
    steps.push((path(&swap), log(&swap)));
    steps
}

#[test]
fn a_kill_at_any_step_of_a_repair_leaves_all_of_it_or_nothing() {
    let (mut ahead, behind, expected) = ahead_and_behind();
    let cleaned = ahead.log.cleaner_offset();
    damage(&mut ahead);
    let mut repair = ahead.log.begin_repair(NOW).unwrap().unwrap();
    fetch(&mut repair, &behind.log);
    let written = ahead.kill();
    assert_eq!(written.log.damaged_segments(), 1);
    repair.finish(NOW).unwrap();
    let killed = ahead.path.with_file_name("killed");
    copy(&ahead.path, &killed);
    let steps = swap_steps(&killed.join("events-0"), repair.offsets()).len();
    assert!(steps > 5, "several old segments, and several new ones");
    for (done, has_index) in (0..=steps).flat_map(|done| [(done, true), (done, false)]) {
        let path = ahead.path.with_file_name(Uuid::new_v4().to_string());
        copy(&killed, &path);
        for (from, to) in swap_steps(&path.join("events-0"), repair.offsets())
            .iter()
            .take(done)
        {
            fs::rename(from, to).unwrap();
        }
        if !has_index {
            if done == 0 {
                // Nobody knows that it is damaged: the log ends there.
                continue;
            }
            fs::remove_dir_all(path.join("odradek-index")).unwrap();
        }
        let mut opened = Fixture::at(ahead._temporary.clone(), path, ahead.config.clone());
        let report = opened.log.take_recovery_report();
        assert!(
            report.is_none_or(|report| report.truncated_bytes == 0 && report.removed_segments == 0),
            "{done}"
        );
        if done == 0 {
            assert_eq!(
                opened.log.damaged_segments(),
                1,
                "the old segments, and what is known of them"
            );
            assert_eq!(opened.log.segments(), ahead.log.segments());
            assert_eq!(opened.log.cleaner_offset(), cleaned);
            continue;
        }
        opened.directory.purge_deleted(MUCH_LATER).unwrap();
        assert_eq!(opened.segment_files().len(), opened.log.segments());
        assert_mended(&mut opened, &behind, &expected);
    }
    assert!(ahead.log.replace_segments(repair.into_segments()).unwrap());
    for mut opened in [ahead.kill(), ahead.kill().restart()] {
        assert_mended(&mut opened, &behind, &expected);
    }
}

#[test]
fn a_recovery_point_in_what_was_replaced_cuts_nothing() {
    let mut fixture = Fixture::with(config());
    fill(&mut fixture, "first", 30);
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    let named = fixture.log.active_segment_base_offset();
    fill(&mut fixture, "second", 40);
    let healthy = fixture.kill();
    let expected = committed(&fixture.log);
    let above = fixture.log.sealed_segment_from(named + 1).unwrap().base_offset();
    flip(&fixture, above, HEADER_SIZE_BYTES as u64);
    scrub(&mut fixture.log);
    assert!(repair(&mut fixture.log, &healthy.log).unwrap());
    let mut killed = fixture.kill();
    let report = killed.log.take_recovery_report().unwrap();
    assert_eq!((report.truncated_bytes, report.removed_segments), (0, 0));
    assert_eq!(committed(&killed.log), expected);
    assert_eq!(committed(&fixture.restart().log), expected);
}

#[test]
fn a_repair_that_comes_to_nothing_leaves_nothing() {
    let (mut ahead, behind, _) = ahead_and_behind();
    damage(&mut ahead);
    let mut given_up = ahead.log.begin_repair(NOW).unwrap().unwrap();
    fetch(&mut given_up, &behind.log);
    given_up.finish(NOW).unwrap();
    ahead.log.stop_compaction();
    assert!(given_up.is_overtaken(), "by a move");
    assert!(!ahead.log.replace_segments(given_up.into_segments()).unwrap());
    let files = fs::read_dir(ahead.path.join("events-0")).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.ends_with(".cleaned")).count(), 0);
    let mut killed = ahead.kill();
    assert_eq!(killed.log.take_recovery_report(), None);
    assert_eq!(killed.log.damaged_segments(), 1);
}

/// A pass in small steps.
const SMALL_STEPS: PassMemory = PassMemory {
    dedupe_bytes: 1 << 20,
    load_factor: 0.9,
    io_bytes: 100,
};

#[test]
fn a_repair_that_begins_while_a_pass_writes_keeps_its_file() {
    let mut fixture = Fixture::with(config());
    fill(&mut fixture, "key", 60);
    let healthy = fixture.kill();
    let expected = committed(&fixture.log);
    let plan = fixture.log.compaction_plan(NOW).unwrap().unwrap();
    let folder = fixture.path.join("events-0");
    let writes = || {
        let mut names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        names.any(|path| path.extension().is_some_and(|it| it == "cleaned"))
    };
    let fixture = RefCell::new(fixture);
    let mut begun = None;
    let outcome = plan.run(
        SMALL_STEPS,
        &mut |_| {
            if begun.is_none() && writes() {
                let fixture = &mut *fixture.borrow_mut();
                damage(fixture);
                begun = fixture.log.begin_repair(NOW).unwrap();
                fetch(begun.as_mut().unwrap(), &healthy.log);
            }
            Go::On
        },
        &mut |cleaned| fixture.borrow_mut().log.replace_segments(cleaned),
    );
    assert!(outcome.unwrap().is_none(), "it was overtaken");
    let (mut fixture, mut begun) = (fixture.into_inner(), begun.unwrap());
    begun.finish(NOW).unwrap();
    assert!(fixture.log.replace_segments(begun.into_segments()).unwrap());
    assert_eq!(committed(&fixture.log), expected);
    assert_sound(&mut fixture.log);
    assert_eq!(committed(&fixture.kill().log), expected);
}

#[test]
fn a_repair_goes_on_when_the_log_is_not_to_be_compacted_any_more() {
    let mut fixture = Fixture::with(config());
    fill(&mut fixture, "key", 30);
    let damaged = second(&fixture).0;
    flip(&fixture, damaged, HEADER_SIZE_BYTES as u64);
    scrub(&mut fixture.log);
    let begun = fixture.log.begin_repair(NOW).unwrap().unwrap();
    fixture.log.set_config(small_segments());
    assert!(!begun.is_overtaken());
}

#[test]
fn no_pass_begins_while_a_segment_is_damaged_wherever_it_is() {
    let config = LogConfig {
        min_compaction_lag_ms: 1,
        ..config()
    };
    let mut fixture = Fixture::with(config);
    fill(&mut fixture, "key", 30);
    let later = NOW.plus_ms(5);
    for index in 0..30 {
        let mut builder = BatchBuilder::new(0);
        let key = format!("late-{index}");
        builder.append(later.wall_ms, Some(key.as_bytes()), Some(b"value"), &[]);
        fixture.append_batch(1, builder.build());
    }
    let healthy = fixture.kill();
    let expected = committed(&fixture.log);
    let uncleanable = fixture.log.dirtiness(later).first_uncleanable_offset;
    let above = fixture
        .log
        .sealed_segment_from(uncleanable)
        .unwrap()
        .base_offset();
    flip(&fixture, above, HEADER_SIZE_BYTES as u64);
    scrub(&mut fixture.log);
    let mut begun = fixture.log.begin_repair(later).unwrap().unwrap();
    let refused = fixture.log.compaction_plan(later).map(|plan| plan.is_some());
    assert!(matches!(refused, Err(LogError::Corrupt { .. })), "{refused:?}");
    fetch(&mut begun, &healthy.log);
    begun.finish(later).unwrap();
    assert!(fixture.log.replace_segments(begun.into_segments()).unwrap());
    assert_eq!(committed(&fixture.log), expected);
    assert!(fixture.log.compaction_plan(later).unwrap().is_some());
}

#[test]
fn a_pass_that_was_planned_meanwhile_and_a_repair_do_not_write_into_each_other() {
    let mut fixture = Fixture::with(config());
    fill(&mut fixture, "key", 60);
    let healthy = fixture.kill();
    damage(&mut fixture);
    let mut begun = fixture.log.begin_repair(NOW).unwrap().unwrap();
    let first = healthy.log.read_plan(0, 300, i64::MAX, MinOneBatch::Yes).unwrap();
    begun.append(NOW, &first.read().unwrap()).unwrap();
    // What was damaged is cut off, and written anew.
    fixture.log.truncate_to(NOW, 0).unwrap();
    fill(&mut fixture, "key", 60);
    let expected = committed(&fixture.log);
    fixture.log.compact(NOW, PassMemory::default()).unwrap();
    fetch(&mut begun, &healthy.log);
    begun.finish(NOW).unwrap();
    assert!(!fixture.log.replace_segments(begun.into_segments()).unwrap());
    assert_eq!(committed(&fixture.log), expected);
    assert_sound(&mut fixture.log);
}

#[test]
fn a_repair_that_finds_no_room_to_flush_the_index_is_done_all_the_same() {
    let (mut ahead, behind, expected) = ahead_and_behind();
    damage(&mut ahead);
    let mut begun = ahead.log.begin_repair(NOW).unwrap().unwrap();
    fetch(&mut begun, &behind.log);
    begun.finish(NOW).unwrap();
    ahead.fail_flushes(1);
    assert!(ahead.log.replace_segments(begun.into_segments()).unwrap());
    assert_eq!(committed(&ahead.log), expected);
    assert_mended(&mut ahead.kill(), &behind, &expected);
    // Nothing builds upon it before it is flushed.
    ahead.append_batch(1, record("new-0", Some("value")));
    ahead.fail_flushes(2);
    let refused = ahead.log.compaction_plan(NOW).map(|plan| plan.is_some());
    assert!(refused.is_err_and(|error| error.is_disk_full()));
    let refused = ahead.log.truncate_to(NOW, ahead.log.log_end_offset() - 1);
    assert!(refused.is_err_and(|error| error.is_disk_full()));
    ahead
        .log
        .truncate_to(NOW, ahead.log.log_end_offset() - 1)
        .unwrap();
    ahead.log.set_high_watermark(ahead.log.log_end_offset());
    assert_mended(&mut ahead, &behind, &expected);
}

/// Repairs a log, in which something is damaged, from one that was never compacted.
fn assert_nothing_comes_back(compacted: &mut Fixture, behind: &Fixture, expected: &BTreeMap<String, String>) {
    damage(compacted);
    assert!(repair(&mut compacted.log, &behind.log).unwrap());
    assert_eq!(committed(&compacted.log), *expected);
    assert_mended(compacted, behind, expected);
}

#[test]
fn what_was_fetched_from_a_compacted_replica_is_replaced_too() {
    let (ahead, mut behind, expected) = ahead_and_behind();
    let intact = behind.kill();
    damage(&mut behind);
    assert!(repair(&mut behind.log, &ahead.log).unwrap());
    assert_nothing_comes_back(&mut behind, &intact, &expected);
    // As a new replica does; nearly all is in the segment that it appends to.
    let mut fetched = Fixture::with(LogConfig {
        segment_bytes: 300,
        ..config()
    });
    let mut offset = 0;
    while offset < ahead.log.log_end_offset() {
        let slice = ahead.log.read_plan(offset, 300, i64::MAX, MinOneBatch::Yes);
        fetched
            .log
            .append_fetched(NOW, &slice.unwrap().read().unwrap(), i32::MAX)
            .unwrap();
        offset = fetched.log.log_end_offset();
        if fetched.log.segments() > 2 {
            fetched.log.set_config(LogConfig {
                segment_bytes: 1 << 20,
                ..config()
            });
        }
    }
    fetched.log.set_config(config());
    fetched.log.set_high_watermark(offset);
    assert_eq!(fetched.log.cleaner_offset(), 0);
    assert_nothing_comes_back(&mut fetched, &intact, &expected);
}

#[test]
fn what_a_pass_that_ended_early_has_put_in_place_is_replaced_too() {
    let mut behind = Fixture::with(config());
    history(&mut behind);
    let mut compacted = behind.kill();
    for pass in [0, 2, 4] {
        fill(&mut behind, "later", 20);
        fill(&mut compacted, "later", 20);
        let later = NOW.plus_ms(pass * RETENTION_MS as u64);
        let plan = compacted.log.compaction_plan(later).unwrap().unwrap();
        let mut swap = |cleaned| compacted.log.replace_segments(cleaned);
        // It was put in place; that the cleaner offset follows, it does not live to see.
        plan.run(PassMemory::default(), &mut |_| Go::On, &mut swap)
            .unwrap();
    }
    assert_eq!(compacted.log.cleaner_offset(), 0);
    assert!(compacted.log.aborted_transactions(0, i64::MAX).is_empty());
    let expected = committed(&behind.log);
    assert_eq!(committed(&compacted.log), expected);
    assert_nothing_comes_back(&mut compacted, &behind, &expected);
}

#[test]
fn a_producer_from_behind_the_recovery_point_is_known_after_a_repair_and_a_kill() {
    let mut fixture = Fixture::with(config());
    fill(&mut fixture, "first", 30);
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    fixture.append_batch(1, producer_batch(PRODUCER, 0, 0, false));
    let healthy = fixture.kill();
    damage(&mut fixture);
    assert!(repair(&mut fixture.log, &healthy.log).unwrap());
    assert_eq!(fixture.log.producers().len(), 1);
    assert_eq!(fixture.kill().log.producers().len(), 1);
    assert_eq!(fixture.restart().log.producers().len(), 1);
}

#[test]
fn a_replica_that_has_lost_its_last_records_to_compaction_has_all_of_it() {
    let mut fixture = Fixture::with(config());
    fill(&mut fixture, "key", 60);
    damage(&mut fixture);
    let mut begun = fixture.log.begin_repair(NOW).unwrap().unwrap();
    begun.append(NOW, &record("other", Some("value"))).unwrap();
    begun.skip_to(30);
    assert_eq!(begun.next_offset(), Some(30));
    begun.skip_to(i64::MAX);
    assert_eq!(begun.next_offset(), None);
    begun.finish(NOW).unwrap();
    assert!(fixture.log.replace_segments(begun.into_segments()).unwrap());
    assert_eq!(fixture.log.log_end_offset(), 60);
    fixture.append_batch(1, record("more", None));
    assert_eq!(fixture.kill().log.log_end_offset(), 61);
}

#[test]
fn the_name_of_a_log_that_a_swap_has_closed_is_free_once_it_is_deleted() {
    let (mut ahead, behind, _) = ahead_and_behind();
    damage(&mut ahead);
    let mut begun = ahead.log.begin_repair(NOW).unwrap().unwrap();
    fetch(&mut begun, &behind.log);
    begun.finish(NOW).unwrap();
    for entry in fs::read_dir(ahead.path.join("events-0")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "cleaned") {
            fs::remove_file(path).unwrap();
        }
    }
    ahead.log.replace_segments(begun.into_segments()).unwrap_err();
    assert!(matches!(ahead.log.check_open(), Err(LogError::Closed(_))));
    assert_eq!(ahead.directory.open_logs(), 1);
    ahead.directory.delete_partition(&mut ahead.log).unwrap();
    assert_eq!(ahead.directory.open_logs(), 0);
    let recreated = PartitionIdentity::new("events", Uuid::from_u128(43), 0);
    let mut log = ahead.directory.open_partition(recreated, config(), NOW).unwrap();
    log.close_clean(NOW).unwrap();
    assert!(ahead.directory.close_clean().unwrap(), "what has failed is gone");
}

#[test]
fn what_is_deleted_at_the_log_start_meanwhile_is_no_hindrance() {
    let (mut ahead, behind, expected) = ahead_and_behind();
    damage(&mut ahead);
    let mut begun = ahead.log.begin_repair(NOW).unwrap().unwrap();
    fetch(&mut begun, &behind.log);
    begun.finish(NOW).unwrap();
    let base = ahead.log.active_segment_base_offset() - 3;
    ahead.log.delete_records_before(base).unwrap();
    assert!(ahead.log.retention(NOW).unwrap() > 0);
    let killed = ahead.path.with_file_name("killed");
    copy(&ahead.path, &killed);
    let remaining: Vec<i64> = ahead.log.segments.keys().copied().collect();
    assert!(!remaining.contains(&0));
    let replaced = begun.offsets();
    assert!(ahead.log.replace_segments(begun.into_segments()).unwrap());
    let seen = committed(&ahead.log);
    assert!(seen.iter().all(|(key, value)| expected.get(key) == Some(value)) && !seen.is_empty());
    assert_eq!(committed(&ahead.kill().log), seen);
    assert!(
        ahead.log.retention(NOW).unwrap() > 0,
        "what was put below the log start"
    );
    assert_eq!(ahead.log.damaged_segments(), 0);
    assert_eq!(committed(&ahead.log), seen);
    assert_eq!(committed(&ahead.kill().log), seen);
    // A kill at any step: what stands where the first segment was tells that others may be there.
    let folder = killed.join("events-0");
    fs::write(segment_path(&folder, 0), b"").unwrap();
    let steps = swap_steps(&folder, replaced.clone());
    for done in 0..=steps.len() {
        let path = ahead.path.with_file_name(Uuid::new_v4().to_string());
        copy(&killed, &path);
        for (from, to) in swap_steps(&path.join("events-0"), replaced.clone())
            .iter()
            .take(done)
        {
            fs::rename(from, to).unwrap();
        }
        let opened = Fixture::at(ahead._temporary.clone(), path, ahead.config.clone());
        assert_eq!(opened.log.log_start_offset(), base, "{done}");
        assert_eq!(opened.log.log_end_offset(), ahead.log.log_end_offset());
        assert_eq!(opened.log.damaged_segments(), 0, "{done}");
        assert_eq!(committed(&opened.log), seen, "{done}");
    }
}
