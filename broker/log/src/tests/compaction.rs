//! Only the last record of a key stays.

use std::collections::BTreeMap;

use odradek_common::records::compression::Compression;

use super::*;
use crate::compact::{Compacted, CompactionReport, Go, PassMemory};
use crate::config::CleanupPolicy;

mod choice;
mod concurrency;
mod crashes;
mod model;

impl Fixture {
    /// A pass, if the log is due.
    fn compact(&mut self, now: Now) -> CompactionReport {
        self.log.compact(now, PassMemory::default()).unwrap()
    }

    /// What is left when the process is killed now, once everything in it is replicated again.
    fn killed(&self) -> Self {
        let mut killed = self.kill();
        killed.log.set_high_watermark(killed.log.log_end_offset());
        killed
    }
}

fn compacted(delete_retention_ms: i64) -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::COMPACT,
        delete_retention_ms,
        min_cleanable_dirty_ratio: 0.0,
        ..small_segments()
    }
}

fn keyed(entries: &[(&str, Option<&str>)], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(0).compression(compression, None);
    for (key, value) in entries {
        builder.append(NOW.wall_ms, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    }
    builder.build()
}

/// Key, offset and value of everything that can be read.
fn entries(log: &Log) -> Vec<(i64, String, Option<String>)> {
    let mut found = Vec::new();
    let mut offset = log.log_start_offset();
    loop {
        let bytes = log
            .read_plan(offset, 1 << 20, i64::MAX, MinOneBatch::Yes)
            .unwrap()
            .read()
            .unwrap();
        if bytes.is_empty() {
            return found;
        }
        for entry in batches(&bytes) {
            let (_, batch) = entry.unwrap();
            let (header, section) = decoded_section(batch, 1 << 20).unwrap();
            for record in records(&header, &section) {
                let record = record.unwrap();
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                found.push((record.offset, text(record.key.unwrap()), record.value.map(text)));
            }
            offset = header.next_offset();
        }
    }
}

#[test]
fn a_segment_that_a_pass_finds_gone_is_no_failure_of_the_directory() {
    let mut fixture = Fixture::with(compacted(0));
    for index in 0..60 {
        let key = format!("key-{}", index % 7);
        fixture.append_batch(1, keyed(&[(&key, Some("value"))], Compression::None));
    }
    let files = fixture.segment_files();
    fs::remove_file(fixture.log.folder().join(&files[1])).unwrap();
    let error = fixture.log.compact(NOW, PassMemory::default()).unwrap_err();
    assert!(error.is_gone() && error.directory().is_none(), "{error}");
}

#[test]
fn the_last_value_of_each_key_stays_at_its_offset() {
    let mut fixture = Fixture::with(compacted(i64::MAX / 2));
    let mut expected = BTreeMap::new();
    for index in 0..300 {
        let (first, second) = (format!("key-{}", index % 7), format!("key-{}", index % 5));
        let value = format!("value-{index}");
        let compression = if index % 2 == 0 {
            Compression::None
        } else {
            Compression::Lz4
        };
        let info = fixture.append_batch(
            1,
            keyed(&[(&first, Some(&value)), (&second, Some(&value))], compression),
        );
        expected.insert(first, info.first_offset);
        expected.insert(second, info.last_offset);
    }
    let (segments, active) = (fixture.log.segments(), fixture.log.active_segment_base_offset());
    let report = fixture.compact(NOW);
    assert_eq!(report.segments, segments - 1);
    assert!(report.bytes_after * 10 < report.bytes_before, "{report:?}");
    assert_eq!(fixture.log.log_end_offset(), 600);
    let before = entries(&fixture.log);
    let last: BTreeMap<String, i64> = before
        .iter()
        .map(|(offset, key, _)| (key.clone(), *offset))
        .collect();
    assert_eq!(last, expected);
    let below = before.iter().filter(|(offset, _, _)| *offset < active).count();
    assert!(
        below <= 7,
        "one record per key below the active segment, not {below}"
    );
    assert_eq!(fixture.compact(NOW).segments, 0, "nothing is dirty any more");

    fixture.directory.purge_deleted(MUCH_LATER).unwrap();
    fixture.append_batch(1, keyed(&[("new", Some("1"))], Compression::None));
    let after = entries(&fixture.log);
    assert_eq!(entries(&fixture.kill().log), after);
    let mut restarted = fixture.restart();
    assert_eq!(restarted.log.take_recovery_report(), None);
    assert_eq!(entries(&restarted.log), after);
    for offset in 0..601 {
        let slice = restarted
            .log
            .read_plan(offset, 1, i64::MAX, MinOneBatch::Yes)
            .unwrap()
            .read()
            .unwrap();
        let (header, _) = batches(&slice).next().unwrap().unwrap();
        assert!(header.last_offset() >= offset, "a gap leads to the next batch");
    }
}

#[test]
fn small_neighbours_are_merged_so_that_segments_stay_few() {
    let mut fixture = Fixture::with(compacted(0));
    for round in 0..10 {
        for index in 0..100 {
            fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
        }
        fixture.compact(NOW);
        assert!(
            fixture.log.segments() < 25,
            "round {round}: {} segments",
            fixture.log.segments()
        );
        fixture = fixture.kill();
    }
    assert_eq!(fixture.log.log_end_offset(), 1_000);
    fixture.directory.purge_deleted(MUCH_LATER).unwrap();
    assert_eq!(fixture.segment_files().len(), fixture.log.segments());
    assert_eq!(entries(&fixture.log).last().unwrap().0, 999);
}

#[test]
fn a_rebuilt_index_of_a_compacted_log_reads_the_same() {
    let mut fixture = Fixture::with(compacted(0));
    for index in 0..200 {
        fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
    }
    fixture.compact(NOW);
    fixture.directory.purge_deleted(MUCH_LATER).unwrap();
    let expected = entries(&fixture.log);
    let rebuilt =
        fixture.damage(|folder| fs::remove_dir_all(folder.with_file_name("odradek-index")).unwrap());
    assert_eq!(entries(&rebuilt.log), expected);
    assert_eq!(rebuilt.log.log_end_offset(), 200);
}

#[test]
fn tombstones_go_after_their_retention() {
    let mut fixture = Fixture::with(compacted(1_000));
    fixture.append_batch(1, keyed(&[("a", Some("1"))], Compression::None));
    fixture.append_batch(1, keyed(&[("a", None)], Compression::None));
    let fill = |fixture: &mut Fixture| {
        for _ in 0..30 {
            fixture.append_batch(1, keyed(&[("filler", Some("x"))], Compression::None));
        }
    };
    let tombstones = |fixture: &Fixture| {
        entries(&fixture.log)
            .iter()
            .filter(|(_, key, value)| key == "a" && value.is_none())
            .count()
    };
    fill(&mut fixture);
    fixture.compact(NOW);
    assert_eq!(tombstones(&fixture), 1);
    assert_eq!(
        entries(&fixture.log)[0],
        (1, "a".to_owned(), None),
        "the value is gone, the tombstone keeps its place"
    );
    fill(&mut fixture);
    fixture.compact(NOW.plus_ms(999));
    assert_eq!(tombstones(&fixture), 1);
    fill(&mut fixture);
    fixture.compact(NOW.plus_ms(1_000));
    assert_eq!(tombstones(&fixture), 0);
}

#[test]
fn a_table_of_few_keys_takes_more_passes() {
    let mut fixture = Fixture::with(compacted(0));
    for index in 0..200 {
        let key = format!("key-{}", index % 20);
        fixture.append_batch(1, keyed(&[(&key, Some("x"))], Compression::None));
    }
    let memory = PassMemory {
        dedupe_bytes: 24 * 5,
        ..PassMemory::default()
    };
    let active = fixture.log.active_segment_base_offset();
    let mut passes = 0;
    while fixture.log.cleaner_offset() < active {
        let before = fixture.log.cleaner_offset();
        let report = fixture.log.compact(NOW, memory).unwrap();
        assert!(report.segments > 0 && report.table_used <= 0.9, "{report:?}");
        assert!(fixture.log.cleaner_offset() > before, "every pass gets on");
        passes += 1;
        fixture = fixture.killed();
    }
    assert!(passes >= 20 / 4, "four keys a pass: {passes}");
    let below: Vec<String> = entries(&fixture.log)
        .into_iter()
        .filter(|(offset, ..)| *offset < active)
        .map(|(_, key, _)| key)
        .collect();
    let distinct: std::collections::BTreeSet<&String> = below.iter().collect();
    assert_eq!(below.len(), distinct.len(), "one record per key: {below:?}");
    assert_eq!(entries(&fixture.log).last().unwrap().0, 199);
}

#[test]
fn a_pass_that_is_stopped_leaves_the_log_whole() {
    let memory = PassMemory {
        io_bytes: 100,
        ..PassMemory::default()
    };
    for stop_after in [0, 1, 90, 110, 130, 150] {
        let mut fixture = Fixture::with(compacted(0));
        for index in 0..200 {
            fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
        }
        let plan = fixture.log.compaction_plan(NOW).unwrap().unwrap();
        let mut left = stop_after;
        let pace = &mut |_| {
            left -= 1;
            if left < 0 { Go::Stop } else { Go::On }
        };
        let outcome = plan
            .run(memory, pace, &mut |cleaned| fixture.log.replace_segments(cleaned))
            .unwrap();
        assert!(outcome.is_none(), "{stop_after}");
        assert_eq!(fixture.log.cleaner_offset(), 0);
        let leftovers = fs::read_dir(fixture.path.join("events-0"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".cleaned") || name.ends_with(".swap"));
        assert_eq!(leftovers.count(), 0);
        assert_eq!(entries(&fixture.log).last().unwrap().0, 199);
        assert!(fixture.compact(NOW).segments > 0);
    }
}

#[test]
fn a_corrupt_segment_fails_the_pass_and_stays_as_it_is() {
    let mut fixture = Fixture::with(compacted(0));
    for index in 0..100 {
        fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
    }
    let path = fixture.path.join("events-0").join(&fixture.segment_files()[3]);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let failed = fixture.log.compact(NOW, PassMemory::default());
    assert!(matches!(failed, Err(crate::error::LogError::Corrupt { .. })));
    assert_eq!(fixture.log.cleaner_offset(), 0);
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(
        fixture.compact(NOW).segments > 0,
        "the next pass does what this one could not"
    );
}

#[test]
fn compacted_and_deleted_logs_lose_old_segments_too() {
    let mut fixture = Fixture::with(LogConfig {
        cleanup_policy: CleanupPolicy {
            compact: true,
            delete: true,
        },
        retention_ms: 1_000,
        ..compacted(0)
    });
    let fill = |fixture: &mut Fixture, after_ms: i64| {
        for index in 0..50 {
            let mut builder = BatchBuilder::new(0);
            let key = format!("key-{}", index % 3);
            builder.append(NOW.wall_ms + after_ms, Some(key.as_bytes()), Some(b"x"), &[]);
            fixture.append_batch(1, builder.build());
        }
    };
    fill(&mut fixture, 0);
    fixture.compact(NOW);
    fill(&mut fixture, 5_000);
    fixture.compact(NOW);
    assert!(fixture.log.retention(NOW.plus_ms(3_000)).unwrap() > 0);
    assert!(fixture.log.log_start_offset() > 40);
    fill(&mut fixture, 5_000);
    assert!(
        fixture.compact(NOW).segments > 0,
        "a cleaner offset below the log start is no obstacle"
    );
    let (start, expected) = (fixture.log.log_start_offset(), entries(&fixture.log));
    let restarted = fixture.restart();
    assert_eq!(restarted.log.log_start_offset(), start);
    assert_eq!(entries(&restarted.log), expected);
}
