//! What others do to a log while a pass runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::*;

fn filled(count: usize) -> Fixture {
    let mut fixture = Fixture::with(compacted(0));
    for index in 0..count {
        let key = format!("key-{}", index % 10);
        fixture.append_batch(1, keyed(&[(&key, Some(&index.to_string()))], Compression::None));
    }
    fixture
}

/// Runs a pass; `meanwhile` happens before each swap, whose number it gets.
fn pass_with(fixture: &mut Fixture, mut meanwhile: impl FnMut(&mut Log, usize)) -> Option<Compacted> {
    let plan = fixture.log.compaction_plan(NOW).unwrap().unwrap();
    let mut swaps = 0;
    plan.run(PassMemory::default(), &mut |_| Go::On, &mut |cleaned| {
        meanwhile(&mut fixture.log, swaps);
        swaps += 1;
        fixture.log.replace_segments(cleaned)
    })
    .unwrap()
}

#[test]
fn a_pass_overtaken_by_a_truncation_counts_for_nothing() {
    let mut fixture = filled(100);
    let outcome = pass_with(&mut fixture, |log, swap| {
        if swap == 1 {
            log.truncate_to(NOW, 60).unwrap();
        }
    });
    assert!(outcome.is_none());
    assert_eq!(fixture.log.cleaner_offset(), 0);
    let end: Vec<i64> = entries(&fixture.log).iter().map(|(offset, ..)| *offset).collect();
    assert_eq!(end.last(), Some(&59));
    let mut killed = fixture.killed();
    assert_eq!(entries(&killed.log), entries(&fixture.log));
    assert!(killed.compact(NOW).segments > 0);
}

#[test]
fn a_pass_ends_when_the_log_is_not_to_be_compacted_any_more() {
    let mut fixture = filled(100);
    let mut seen = 0;
    let outcome = pass_with(&mut fixture, |log, swap| {
        seen = swap;
        if swap == 1 {
            log.set_config(compacted(1));
        } else if swap == 2 {
            log.set_config(small_segments());
        }
    });
    assert!(outcome.is_none());
    assert_eq!((seen, fixture.log.cleaner_offset()), (2, 0));
    assert!(!fixture.log.is_being_compacted());
}

#[test]
fn a_pass_that_ends_after_a_truncation_does_not_move_the_cleaner_offset() {
    let mut fixture = filled(100);
    let compacted = pass_with(&mut fixture, |_, _| {}).unwrap();
    fixture.log.truncate_to(NOW, 10).unwrap();
    assert_eq!(fixture.log.complete_compaction(compacted).unwrap().segments, 0);
    assert_eq!(fixture.log.cleaner_offset(), 0);
}

#[test]
fn a_truncation_takes_the_cleaner_offset_with_it() {
    let mut fixture = filled(100);
    fixture.compact(NOW);
    let before = fixture.log.cleaner_offset();
    assert!(before > 60);
    let end = fixture.log.truncate_to(NOW, 60).unwrap();
    assert_eq!(fixture.log.cleaner_offset(), end);
    for index in 0..100 {
        fixture.append_batch(2, keyed(&[("a", Some(&index.to_string()))], Compression::None));
    }
    assert_eq!(
        fixture.kill().log.cleaner_offset(),
        end,
        "what came since is not compacted"
    );
    fixture.log.truncate_fully_and_start_at(NOW, 500).unwrap();
    assert_eq!(fixture.kill().log.cleaner_offset(), 0);
}

/// A compacted log whose index is on disk, cut at an offset, and where it ends.
fn cut_at(offset: i64) -> (Fixture, i64) {
    let mut fixture = filled(100);
    fixture.compact(NOW);
    assert!(fixture.log.cleaner_offset() > offset);
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    let end = fixture.log.truncate_to(NOW, offset).unwrap();
    (fixture, end)
}

#[test]
fn where_a_cut_into_a_gap_ends_is_known_at_the_next_start() {
    let cleaned = {
        let mut fixture = filled(100);
        fixture.compact(NOW);
        fixture.log.cleaner_offset()
    };
    let mut cuts_in_gaps = 0;
    for cut in 0..cleaned {
        let (mut fixture, end) = cut_at(cut);
        let last = entries(&fixture.log).last().map_or(-1, |(offset, ..)| *offset);
        cuts_in_gaps += i32::from(end > last + 1);
        for _ in 0..3 {
            let batch = keyed(&[("a", Some("1")), ("b", Some("2"))], Compression::None);
            fixture.append_batch(2, batch);
        }
        let mut killed = fixture.kill();
        let report = killed.log.take_recovery_report().unwrap();
        assert_eq!((report.truncated_bytes, report.reason), (0, None), "cut at {cut}");
        assert_eq!(killed.log.log_end_offset(), end + 6, "cut at {cut}");
        assert_eq!(entries(&killed.log), entries(&fixture.log));

        let (fixture, end) = cut_at(cut);
        assert_eq!(fixture.restart().log.log_end_offset(), end, "cut at {cut}");
    }
    assert!(cuts_in_gaps > 0);
}

#[test]
fn a_search_by_timestamp_finds_what_a_pass_moves_to_another_segment() {
    let wanted_ms = NOW.wall_ms + 5_000;
    let mut fixture = Fixture::with(compacted(0));
    let append = |fixture: &mut Fixture, key: &str, timestamp: i64| {
        let mut builder = BatchBuilder::new(0);
        builder.append(timestamp, Some(key.as_bytes()), Some(b"value"), &[]);
        fixture.append_batch(1, builder.build()).first_offset
    };
    let fill = |fixture: &mut Fixture| (0..40).for_each(|_| _ = append(fixture, "filler", NOW.wall_ms));
    append(&mut fixture, "deleted", wanted_ms);
    fill(&mut fixture);
    let wanted = append(&mut fixture, "wanted", wanted_ms);
    fill(&mut fixture);
    // The first pass empties the segments, the next one merges them.
    fixture.compact(NOW);
    fill(&mut fixture);
    fixture.log.delete_records_before(1).unwrap();
    let mut steps = 0;
    let found = timestamps::offset_for_timestamp(|from| {
        steps += 1;
        if steps == 2 {
            fixture.compact(NOW);
            let merged = fixture.log.segments.range(..=wanted).next_back().unwrap();
            assert_eq!(*merged.0, 0, "it is in the segment that was searched");
        }
        fixture.log.timestamp_search(wanted_ms, from)
    });
    assert_eq!(found.unwrap().map(|found| found.offset), Some(wanted));
    assert!(steps >= 2);
}

#[test]
fn nothing_is_deleted_while_a_pass_needs_it() {
    let mut fixture = filled(100);
    let plan = fixture.log.compaction_plan(NOW).unwrap().unwrap();
    let log = Mutex::new(&mut fixture.log);
    let delete = || {
        let mut log = log.lock();
        log.delete_records_before(70).unwrap();
        assert_eq!(log.retention(NOW).unwrap(), 0);
    };
    // From its first bytes on: segments that were not opened yet count as well.
    let memory = PassMemory {
        io_bytes: 64,
        ..PassMemory::default()
    };
    let mut paces = 0;
    let compacted = plan.run(
        memory,
        &mut |_| {
            paces += 1;
            delete();
            Go::On
        },
        &mut |cleaned| {
            delete();
            log.lock().replace_segments(cleaned)
        },
    );
    assert!(paces > 1);
    let compacted = compacted.unwrap().expect("the pass is complete");
    assert!(fixture.log.complete_compaction(compacted).unwrap().segments > 0);
    assert!(fixture.log.cleaner_offset() > 70);
    fixture.log.retention(NOW).unwrap();
    assert!(fixture.log.segments.range(..70).count() <= 1);
    assert!(entries(&fixture.log).iter().all(|(offset, ..)| *offset >= 70));
}

#[test]
fn a_plan_that_was_overtaken_holds_no_retention_up() {
    let mut fixture = filled(100);
    let plan = fixture.log.compaction_plan(NOW).unwrap().unwrap();
    fixture.log.delete_records_before(70).unwrap();
    assert_eq!(fixture.log.retention(NOW).unwrap(), 0);
    fixture.log.stop_compaction();
    assert!(fixture.log.retention(NOW).unwrap() > 0);
    let outcome = plan.run(PassMemory::default(), &mut |_| Go::On, &mut |cleaned| {
        fixture.log.replace_segments(cleaned)
    });
    assert!(outcome.unwrap().is_none(), "its segments are gone");
}

#[test]
fn a_pass_over_a_closed_log_ends() {
    let mut fixture = filled(100);
    let outcome = pass_with(&mut fixture, |log, swap| {
        if swap == 0 {
            log.close_clean(NOW).unwrap();
        }
    });
    assert!(outcome.is_none());
}

#[test]
fn a_second_plan_voids_the_first() {
    let mut fixture = filled(100);
    let first = fixture.log.compaction_plan(NOW).unwrap().unwrap();
    fixture.compact(NOW);
    let before = entries(&fixture.log);
    let outcome = first.run(PassMemory::default(), &mut |_| Go::On, &mut |cleaned| {
        fixture.log.replace_segments(cleaned)
    });
    assert!(outcome.unwrap().is_none());
    assert_eq!(entries(&fixture.log), before);
}

/// Reads the log from its start to what was its end, as a consumer does; the latest value of each key.
fn read_all(log: &Mutex<Log>) -> BTreeMap<String, (i64, String)> {
    let end = log.lock().log_end_offset();
    let mut latest = BTreeMap::new();
    let (mut offset, mut last) = (0, -1);
    while offset < end {
        let slice = log.lock().read_plan(offset, 300, end, MinOneBatch::Yes).unwrap();
        let bytes = slice.read().unwrap();
        assert!(!bytes.is_empty(), "nothing at {offset}, the end is {end}");
        for batch in batches(&bytes) {
            let (header, batch) = batch.unwrap();
            let (_, section) = decoded_section(batch, 1 << 20).unwrap();
            for record in records(&header, &section) {
                let record = record.unwrap();
                if record.offset < offset {
                    continue;
                }
                assert!(record.offset > last, "{} after {last}", record.offset);
                last = record.offset;
                let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
                latest.insert(text(record.key), (record.offset, text(record.value)));
            }
            offset = header.next_offset();
        }
    }
    latest
}

#[test]
fn readers_see_the_latest_value_of_every_key_while_the_log_is_compacted() {
    let fixture = filled(100);
    let Fixture {
        _temporary,
        directory,
        log,
        ..
    } = fixture;
    let log = Mutex::new(log);
    let stop = AtomicBool::new(false);
    let passes = std::thread::scope(|scope| {
        let compactor = scope.spawn(|| {
            let mut passes = 0;
            while !stop.load(Ordering::Relaxed) {
                let Some(plan) = log.lock().compaction_plan(NOW).unwrap() else {
                    std::thread::yield_now();
                    continue;
                };
                let compacted = plan
                    .run(PassMemory::default(), &mut |_| Go::On, &mut |cleaned| {
                        log.lock().replace_segments(cleaned)
                    })
                    .unwrap()
                    .unwrap();
                log.lock().complete_compaction(compacted).unwrap();
                directory.purge_deleted(MUCH_LATER).unwrap();
                passes += 1;
            }
            passes
        });
        for index in 100..1_500 {
            let key = format!("key-{}", index % 10);
            let batch = keyed(&[(&key, Some(&index.to_string()))], Compression::None);
            {
                let mut log = log.lock();
                append_one(&mut log, 1, &batch, AppendOrigin::Client).unwrap();
                let end = log.log_end_offset();
                log.set_high_watermark(end);
            }
            if index % 20 == 0 {
                let latest = read_all(&log);
                for (number, (offset, value)) in latest.values().enumerate() {
                    let expected = (0..=index).rev().find(|i| i % 10 == number).unwrap();
                    assert_eq!(
                        (*offset, value.as_str()),
                        (expected as i64, &*expected.to_string())
                    );
                }
                assert_eq!(latest.len(), 10);
            }
        }
        stop.store(true, Ordering::Relaxed);
        compactor.join().unwrap()
    });
    assert!(passes > 0, "the log was compacted meanwhile");
}
