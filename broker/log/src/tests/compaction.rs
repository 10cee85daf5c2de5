//! Only the last record of a key stays.

use std::collections::BTreeMap;

use odradek_common::records::compression::Compression;

use super::*;
use crate::config::CleanupPolicy;

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
    let report = fixture.log.compact(NOW).unwrap();
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
    assert_eq!(
        fixture.log.compact(NOW).unwrap().segments,
        0,
        "nothing is dirty any more"
    );

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
        fixture.log.compact(NOW).unwrap();
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
    fixture.log.compact(NOW).unwrap();
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
    fixture.log.compact(NOW).unwrap();
    assert_eq!(tombstones(&fixture), 1);
    assert_eq!(
        entries(&fixture.log)[0],
        (1, "a".to_owned(), None),
        "the value is gone, the tombstone keeps its place"
    );
    fill(&mut fixture);
    fixture.log.compact(NOW.plus_ms(999)).unwrap();
    assert_eq!(tombstones(&fixture), 1);
    fill(&mut fixture);
    fixture.log.compact(NOW.plus_ms(1_000)).unwrap();
    assert_eq!(tombstones(&fixture), 0);
}

#[test]
fn nothing_above_the_high_watermark_or_in_an_open_transaction_is_touched() {
    let mut fixture = Fixture::with(compacted(0));
    for index in 0..100 {
        fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
    }
    fixture.log.set_high_watermark(50);
    fixture.log.compact(NOW).unwrap();
    let kept: Vec<i64> = entries(&fixture.log)
        .iter()
        .map(|(offset, _, _)| *offset)
        .collect();
    assert!(kept.len() >= 51 && kept.len() < 80, "{kept:?}");
    assert!((50..100).all(|offset| kept.contains(&offset)));
}

#[test]
fn a_compaction_overtaken_by_a_truncation_is_thrown_away() {
    let mut fixture = Fixture::with(compacted(0));
    for index in 0..100 {
        fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
    }
    let plan = fixture.log.compaction_plan(NOW).unwrap().unwrap();
    let compacted = plan.run().unwrap();
    fixture.log.truncate_to(NOW, 10).unwrap();
    assert_eq!(fixture.log.complete_compaction(compacted).unwrap().segments, 0);
    assert_eq!(entries(&fixture.log).len(), 10);
}

#[test]
fn old_records_are_compacted_however_few_they_are() {
    let mut fixture = Fixture::with(LogConfig {
        max_compaction_lag_ms: 1_000,
        min_cleanable_dirty_ratio: 1.0,
        ..compacted(0)
    });
    for index in 0..100 {
        fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
    }
    assert!(
        fixture.log.compact(NOW).unwrap().segments > 0,
        "all of it is dirty"
    );
    for index in 0..50 {
        fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
    }
    let after = |ms| Now {
        wall_ms: NOW.wall_ms + ms,
        ..NOW
    };
    assert_eq!(
        fixture.log.compact(after(1_000)).unwrap().segments,
        0,
        "the ratio says no"
    );
    assert!(
        fixture.log.compact(after(1_001)).unwrap().segments > 0,
        "the age says yes"
    );
}
