//! Appending, rolling, reading, timestamps.

use odradek_common::records::batch::{HEADER_SIZE_BYTES, set_base_offset, set_partition_leader_epoch};

use super::*;
use crate::error::{AppendError, ReadError};
use crate::index::CHUNK_ENTRIES;
use crate::read::{Patience, Planned};

#[test]
fn offsets_follow_each_other_and_nothing_is_created_before_the_first_append() {
    let mut fixture = Fixture::new();
    assert!(!fixture.path.join("events-0").exists());
    let first = fixture.append(3);
    let second = fixture.append(2);
    assert_eq!((first.first_offset, first.last_offset), (0, 2));
    assert_eq!((second.first_offset, second.last_offset), (3, 4));
    assert_eq!(second.log_append_time, -1);
    assert_eq!(fixture.log.log_end_offset(), 5);
    assert_eq!(fixture.segment_files(), ["00000000000000000000.log"]);
    let offsets: Vec<i64> = fixture.contents().iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4]);
}

#[test]
fn segments_roll_by_size_and_every_offset_is_found_in_them() {
    let mut fixture = Fixture::with(small_segments());
    for _ in 0..100 {
        fixture.append(2);
    }
    assert!(fixture.log.segments() >= 10);
    for name in fixture.segment_files() {
        assert!(
            fs::metadata(fixture.path.join("events-0").join(name))
                .unwrap()
                .len()
                <= 1_000
        );
    }
    for offset in 0..200 {
        let slice = fixture.log.read_plan(offset, 1, 200, MinOneBatch::Yes).unwrap();
        let bytes = slice.read().unwrap();
        let (header, _) = batches(&bytes).next().unwrap().unwrap();
        assert_eq!(header.base_offset, offset / 2 * 2, "a batch is returned whole");
        assert_eq!(bytes.len(), header.size_bytes());
        assert_eq!(slice.end_offset, header.next_offset());
    }
    let fixture = fixture.restart();
    assert_eq!(fixture.contents().len(), 200);
}

#[test]
fn segments_roll_by_the_age_of_their_first_record() {
    let mut fixture = Fixture::with(LogConfig {
        segment_ms: 1_000,
        ..LogConfig::default()
    });
    assert!(!fixture.append_at(5_000, 1).rolled);
    assert!(!fixture.append_at(6_000, 1).rolled);
    assert!(fixture.append_at(6_001, 1).rolled);
    assert_eq!(fixture.log.segments(), 2);
}

#[test]
fn an_append_larger_than_a_segment_is_refused() {
    let mut fixture = Fixture::with(LogConfig {
        segment_bytes: 100,
        ..LogConfig::default()
    });
    let refused = append_one(&mut fixture.log, 0, &batch(1, 50), AppendOrigin::Client);
    assert!(matches!(refused, Err(AppendError::Refused(error)) if error.code() == 18));
}

#[test]
fn reads_end_on_batch_borders_below_the_bound_and_the_limit() {
    let mut fixture = Fixture::with(LogConfig {
        index_interval_bytes: 150,
        ..LogConfig::default()
    });
    let size = fixture.append(1).size_bytes;
    for _ in 0..999 {
        fixture.append(1);
    }
    let (killed, reopened) = (fixture.kill(), fixture.restart());
    for log in [&killed.log, &reopened.log] {
        let read = |offset, max, bound, min| log.read_plan(offset, max, bound, min).unwrap().size_bytes;
        assert_eq!(read(10, usize::MAX, 13, MinOneBatch::Yes), 3 * size);
        assert_eq!(read(10, 2 * size + 1, 13, MinOneBatch::Yes), 2 * size);
        assert_eq!(read(10, 2 * size, 13, MinOneBatch::Yes), 2 * size);
        assert_eq!(read(10, 1, 13, MinOneBatch::Yes), size);
        assert_eq!(read(10, 1, 13, MinOneBatch::No), 0);
        assert_eq!(read(13, 1, 13, MinOneBatch::Yes), 0);
        assert_eq!(read(0, 700 * size + 5, 1_000, MinOneBatch::No), 700 * size);
        assert_eq!(read(1_000, 100, i64::MAX, MinOneBatch::Yes), 0);
    }
    let log = &reopened.log;
    assert!(matches!(
        log.read_plan(1_001, 1, i64::MAX, MinOneBatch::Yes),
        Err(ReadError::OffsetOutOfRange {
            log_end_offset: 1_000,
            ..
        })
    ));
    assert!(log.read_plan(-1, 1, i64::MAX, MinOneBatch::Yes).is_err());
}

#[test]
fn an_index_that_outgrows_memory_is_searched_in_both_places() {
    const BATCHES: i64 = 3_000;
    let mut fixture = Fixture::with(LogConfig {
        index_interval_bytes: 1,
        ..LogConfig::default()
    });
    let size = fixture.append_at(0, 1).size_bytes;
    for index in 1..BATCHES {
        fixture.append_at(index, 1);
    }
    let check = |log: &Log, end: i64| {
        for offset in (0..end).step_by(37) {
            let slice = log.read_plan(offset, 300 * size, end, MinOneBatch::No).unwrap();
            assert_eq!(slice.position, offset as u64 * size as u64);
            assert_eq!(slice.size_bytes, size * 300.min((end - offset) as usize));
            assert_eq!(slice.end_offset, end.min(offset + 300));
            assert_eq!(find_timestamp(log, offset).unwrap().offset, offset);
        }
    };
    check(&fixture.log, BATCHES);
    check(&fixture.kill().log, BATCHES);
    let mut fixture = fixture.restart();
    check(&fixture.log, BATCHES);
    fixture.log.truncate_to(NOW, 700).unwrap();
    check(&fixture.log, 700);
    for index in 700..BATCHES {
        fixture.append_at(index, 1);
    }
    check(&fixture.log, BATCHES);
    check(&fixture.kill().log, BATCHES);
    check(&fixture.restart().log, BATCHES);
}

#[test]
fn a_bound_inside_of_a_batch_excludes_the_batch() {
    let mut fixture = Fixture::new();
    let size = fixture.append(3).size_bytes;
    fixture.append(3);
    assert_eq!(
        fixture
            .log
            .read_plan(0, 9_999, 5, MinOneBatch::Yes)
            .unwrap()
            .size_bytes,
        size
    );
    assert!(
        fixture
            .log
            .read_plan(3, 9_999, 5, MinOneBatch::Yes)
            .unwrap()
            .is_empty()
    );
    assert!(
        fixture
            .log
            .read_plan(3, 1, 5, MinOneBatch::Yes)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_slice_stays_readable_when_its_segment_is_deleted() {
    let mut fixture = Fixture::with(small_segments());
    for _ in 0..30 {
        fixture.append(1);
    }
    let slice = fixture.log.read_plan(0, 200, 30, MinOneBatch::Yes).unwrap();
    fixture.log.delete_records_before(30).unwrap();
    assert!(fixture.log.retention(NOW).unwrap() > 0);
    fixture.directory.purge_deleted(MUCH_LATER).unwrap();
    assert_eq!(slice.read().unwrap().len(), slice.size_bytes);
}

#[test]
fn timestamps_find_the_first_record_at_or_after_them() {
    let mut fixture = Fixture::with(small_segments());
    for index in 0..100 {
        // Timestamps may go back: the search answers by offset.
        let timestamp = if index == 50 { 10_000 } else { 1_000 + index * 10 };
        fixture.append_at(timestamp, 2);
    }
    let mut fixture = fixture.restart();
    fixture.append_at(1_000 + 100 * 10, 2);
    let find = |timestamp| find_timestamp(&fixture.log, timestamp);
    assert_eq!(find(0).unwrap().offset, 0);
    for index in 0..50 {
        let found = find(1_000 + index * 10 - 5).unwrap();
        assert_eq!(
            (found.offset, found.timestamp, found.leader_epoch),
            (index * 2, 1_000 + index * 10, 1)
        );
    }
    assert_eq!(
        find(1_501).unwrap().offset,
        100,
        "the record of 10,000 stands before"
    );
    assert_eq!(find(10_001), None);
    let newest = newest_timestamp(&fixture.log).unwrap();
    assert_eq!((newest.offset, newest.timestamp), (100, 10_000));
}

#[test]
fn a_search_goes_on_where_its_segment_is_gone() {
    let mut fixture = Fixture::with(small_segments());
    (0..30).for_each(|index| _ = fixture.append_at(1_000 + index, 1));
    let mut planned = fixture.log.timestamp_search(1_000, i64::MIN).unwrap();
    assert!(planned.is_some());
    fixture.log.delete_records_before(30).unwrap();
    assert!(fixture.log.retention(NOW).unwrap() > 0);
    fixture.directory.purge_deleted(MUCH_LATER).unwrap();
    let found = timestamps::offset_for_timestamp(|_| Ok(planned.take())).unwrap();
    assert_eq!(found.unwrap().offset, 0);
}

#[test]
fn timestamps_are_looked_up_inside_of_a_batch() {
    let mut fixture = Fixture::new();
    let mut builder = BatchBuilder::new(0);
    for timestamp in [100, 300, 200] {
        builder.append(timestamp, None, Some(b"v"), &[]);
    }
    fixture.append_batch(4, builder.build());
    let find = |timestamp| find_timestamp(&fixture.log, timestamp).map(|found| found.offset);
    assert_eq!(find(100), Some(0));
    assert_eq!(find(150), Some(1));
    assert_eq!(find(301), None);
    assert_eq!(newest_timestamp(&fixture.log).unwrap().offset, 1);
}

#[test]
fn a_follower_takes_offsets_and_epochs_from_the_batches() {
    let mut fixture = Fixture::new();
    let mut bytes = Vec::new();
    for (offset, epoch) in [(0, 3), (2, 3), (10, 5)] {
        let mut batch = batch(1, 2).to_vec();
        set_base_offset(&mut batch, offset);
        set_partition_leader_epoch(&mut batch, epoch);
        bytes.extend_from_slice(&batch);
    }
    let cut = bytes.len() - 1;
    let info = as_follower(&mut fixture.log, &bytes[..cut]).unwrap();
    assert_eq!(
        (info.first_offset, info.last_offset),
        (0, 3),
        "the incomplete batch waits for the next fetch"
    );
    let last = bytes.len() / 3 * 2;
    as_follower(&mut fixture.log, &bytes[last..]).unwrap();
    assert_eq!(fixture.log.log_end_offset(), 12);
    assert_eq!(fixture.log.epochs().end_offset_for(3, 12), Some((3, 10)));
    let again = as_follower(&mut fixture.log, &bytes[last..]);
    assert!(matches!(
        again,
        Err(AppendError::OutOfOrder {
            first_offset: 10,
            log_end_offset: 12
        })
    ));
    bytes[HEADER_SIZE_BYTES + 3] ^= 1;
    assert!(matches!(
        as_follower(&mut fixture.log, &bytes),
        Err(AppendError::Corrupt(_))
    ));
    assert_eq!(fixture.contents().len(), 6);
}

#[test]
fn a_follower_leaves_out_what_was_written_after_the_epoch_that_it_fetched_in() {
    let fetched = |offset, epoch| {
        let mut batch = batch(1, 1).to_vec();
        set_base_offset(&mut batch, offset);
        set_partition_leader_epoch(&mut batch, epoch);
        batch
    };
    let mut fixture = Fixture::new();
    (0..10).for_each(|_| _ = fixture.append(1));
    let (of_now, of_later) = (fetched(10, 5), fetched(11, 6));
    let bytes = [of_now.clone(), of_later.clone(), fetched(12, 5)].concat();
    let info = fixture.log.append_as_follower(NOW, &bytes, 5).unwrap().unwrap();
    assert_eq!(
        (info.first_offset, info.last_offset, info.size_bytes),
        (10, 10, of_now.len())
    );
    let knows = |log: &Log| {
        (
            log.log_end_offset(),
            log.epochs().latest_epoch(),
            contents(log).len(),
        )
    };
    assert_eq!(knows(&fixture.log), (11, Some(5), 11));
    assert_eq!(fixture.log.append_as_follower(NOW, &of_later, 5).unwrap(), None);
    assert_eq!(knows(&fixture.kill().log), (11, Some(5), 11));
    fixture
        .log
        .append_as_follower(NOW, &of_later, 6)
        .unwrap()
        .unwrap();
    assert_eq!(knows(&fixture.log), (12, Some(6), 12));
}

#[test]
fn an_empty_log_does_not_begin_in_a_batch_of_a_later_epoch() {
    let mut fixture = Fixture::new();
    fixture.log.truncate_fully_and_start_at(NOW, 105).unwrap();
    let mut around = batch(1, 10).to_vec();
    set_base_offset(&mut around, 100);
    set_partition_leader_epoch(&mut around, 6);
    fixture.log.append_fetched(NOW, &around, 5).unwrap();
    assert_eq!(fixture.log.log_end_offset(), 105);
    fixture.log.append_fetched(NOW, &around, 6).unwrap();
    assert_eq!(fixture.log.log_end_offset(), 110);
}

#[test]
fn offsets_too_far_apart_for_one_segment_roll() {
    let mut fixture = Fixture::new();
    let far = i64::from(i32::MAX) * 3;
    let mut bytes = Vec::new();
    for offset in [5, far, far + 1] {
        let mut batch = batch(1, 1).to_vec();
        set_base_offset(&mut batch, offset);
        bytes.extend_from_slice(&batch);
    }
    as_follower(&mut fixture.log, &bytes).unwrap();
    assert_eq!(fixture.log.log_end_offset(), far + 2);
    let offsets = |fixture: &Fixture| {
        fixture
            .contents()
            .iter()
            .map(|(offset, _)| *offset)
            .collect::<Vec<_>>()
    };
    assert_eq!(offsets(&fixture), [5, far, far + 1]);
    assert_eq!(offsets(&fixture.kill()), [5, far, far + 1]);
}

#[test]
fn an_idle_log_holds_no_file_open() {
    let mut fixture = Fixture::with(small_segments());
    for _ in 0..50 {
        fixture.append(1);
    }
    let fixture = fixture.restart();
    assert_eq!(fixture.log.directory.files.len(), 0);
    fixture.contents();
    assert_eq!(fixture.log.directory.files.len(), fixture.log.segments());
}

/// Whoever has no patience reads ahead what it is told to, and then finds what others wait for.
#[test]
fn a_plan_without_patience_ends_where_one_with_patience_does() {
    let mut fixture = Fixture::with(small_segments());
    for _ in 0..200 {
        fixture.append(2);
    }
    // After a restart no place is remembered.
    let fixture = fixture.restart();
    for (offset, max_bytes) in [(0, 30_000), (7, 300), (151, 1), (398, 30_000)] {
        let read = |patience| {
            let planned = fixture
                .log
                .read_plan_with(patience, offset, max_bytes, 399, MinOneBatch::Yes);
            planned.unwrap()
        };
        let Planned::Slice(expected) = read(Patience::Wait) else {
            panic!("it waits");
        };
        drop_page_cache(&fixture);
        let mut cold_reads = 0;
        let found = loop {
            match read(Patience::Refuse) {
                Planned::Slice(found) => break found,
                Planned::Cold(cold) => assert!(!cold.read().unwrap().is_empty()),
            }
            cold_reads += 1;
            assert!(cold_reads < 100, "what was read is not there");
        };
        assert_eq!(
            (found.position, found.size_bytes),
            (expected.position, expected.size_bytes)
        );
    }
}

fn drop_page_cache(fixture: &Fixture) {
    for name in fixture.segment_files() {
        let file = fs::File::open(fixture.path.join("events-0").join(name)).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

#[test]
fn timestamps_are_found_in_every_part_of_a_long_index() {
    let mut fixture = Fixture::with(LogConfig {
        index_interval_bytes: 1,
        ..LogConfig::default()
    });
    // Two of each timestamp, in more than eleven chunks of the index.
    let batches = 12 * CHUNK_ENTRIES as i64;
    for index in 0..batches {
        fixture.append_at(NOW.wall_ms + 10 * (index / 2), 1);
    }
    fixture.log.roll(NOW).unwrap();
    fixture.append(1);
    let fixture = fixture.restart();
    let find = |timestamp| find_timestamp(&fixture.log, timestamp).map(|found| found.offset);
    let (place, segment) = (fixture.log.place(0), &fixture.log.segments[&0]);
    for index in (1..batches / 2).step_by(29).chain([batches / 2 - 1]) {
        // The search is spared all batches before the first one that it may find.
        let entry = segment
            .index
            .floor_timestamp(&place, NOW.wall_ms + 10 * index)
            .unwrap();
        let relative_offset = entry.map(|entry| i64::from(entry.relative_offset));
        assert_eq!(relative_offset, Some(2 * index));
        let timestamp = NOW.wall_ms + 10 * index;
        assert_eq!(find(timestamp), Some(2 * index));
        assert_eq!(find(timestamp - 9), Some(2 * index));
    }
    assert_eq!(find(0), Some(0));
}

#[test]
fn jitter_makes_segments_roll_earlier_and_not_all_at_once() {
    let waited = |jitter_ms| {
        let mut fixture = Fixture::with(LogConfig {
            segment_ms: 10_000,
            segment_jitter_ms: jitter_ms,
            ..LogConfig::default()
        });
        let mut waits = Vec::new();
        let mut begun = NOW.wall_ms;
        fixture.append_at(begun, 1);
        for timestamp in (NOW.wall_ms..).step_by(100) {
            let segments = fixture.log.segments();
            fixture.append_at(timestamp, 1);
            if fixture.log.segments() > segments {
                waits.push(timestamp - begun);
                begun = timestamp;
            }
            if waits.len() == 8 {
                break;
            }
        }
        waits
    };
    assert_eq!(waited(0), [10_100; 8]);
    let waits = waited(5_000);
    assert!(
        waits.iter().all(|waited| (5_000..=10_100).contains(waited)),
        "{waits:?}"
    );
    assert!(waits.iter().any(|waited| *waited != waits[0]), "{waits:?}");
    assert!(waits.iter().any(|waited| *waited < 10_000), "{waits:?}");
}
