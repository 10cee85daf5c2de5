//! Cutting the end of a log.

use odradek_broker_core::leader_epochs::LeaderEpochs;
use odradek_common::records::batch::{set_base_offset, set_partition_leader_epoch};

use super::*;

#[test]
fn every_offset_can_be_cut_at() {
    for cut in 0..60 {
        let mut fixture = Fixture::with(small_segments());
        for epoch in 0..20 {
            fixture.append_batch(epoch / 7, batch(1_000 + i64::from(epoch), 3));
        }
        fixture.log.checkpoint(NOW).unwrap();
        let whole = fixture.contents();
        let end = fixture.log.truncate_to(NOW, cut).unwrap();
        assert_eq!(end, cut / 3 * 3, "a batch that contains the offset goes whole");
        assert_eq!(fixture.contents(), whole[..end as usize]);
        assert!(
            fixture
                .log
                .epochs()
                .entries()
                .iter()
                .all(|entry| entry.start_offset < end)
        );
        let newest = newest_timestamp(&fixture.log).map(|found| found.timestamp);
        assert_eq!(newest, (end > 0).then(|| 1_000 + end / 3 - 1));
        fixture.append_batch(8, batch(5_000, 3));
        let killed = fixture.kill();
        for fixture in [&fixture, &killed] {
            assert_eq!(fixture.log.log_end_offset(), end + 3, "cut at {cut}");
            assert_eq!(fixture.contents()[..end as usize], whole[..end as usize]);
            assert_eq!(fixture.log.epochs().epoch_for_offset(end), Some(8));
            assert_eq!(find_timestamp(&fixture.log, 4_000).unwrap().offset, end);
        }
        assert_eq!(fixture.restart().log.log_end_offset(), end + 3);
    }
}

#[test]
fn the_old_recovery_point_is_not_believed_after_the_log_has_grown_over_it() {
    for cut in [0, 1, 20, 33, 59] {
        let mut fixture = Fixture::with(small_segments());
        for _ in 0..60 {
            fixture.append_batch(
                1,
                producer_batch(7, 0, fixture.log.log_end_offset() as i32, false),
            );
        }
        fixture.log.checkpoint(NOW).unwrap();
        fixture.directory.flush_index().unwrap();
        fixture.log.truncate_to(NOW, cut).unwrap();
        for sequence in 0..80 {
            fixture.append_batch(2, producer_batch(8, 0, sequence, false));
        }
        let mut killed = fixture.kill();
        assert!(
            killed.log.take_recovery_report().unwrap().scanned_bytes > 0,
            "cut at {cut}"
        );
        assert_eq!(killed.log.log_end_offset(), cut + 80);
        assert_eq!(
            killed.log.epochs().end_offset_for(1, cut + 80),
            (cut > 0).then_some((1, cut)).or(Some((1, 0)))
        );
        assert_eq!(
            killed
                .log
                .producers()
                .get(7)
                .map_or(-1, |state| state.last_sequence()),
            cut as i32 - 1
        );
        assert_eq!(killed.log.producers().get(8).unwrap().last_sequence(), 79);
        assert_eq!(killed.contents(), fixture.contents());
    }
}

#[test]
fn cutting_at_the_end_drops_an_epoch_without_records() {
    let mut fixture = Fixture::new();
    fixture.append(3);
    fixture.log.assign_epoch(7).unwrap();
    assert_eq!(
        fixture.kill().log.epochs().latest_epoch(),
        Some(1),
        "recovery finds only what has records"
    );
    assert_eq!(fixture.log.truncate_to(NOW, 3).unwrap(), 3);
    assert_eq!(fixture.log.epochs().latest_epoch(), Some(1));
}

/// A follower with two records of epoch 4 that has led in epoch 5 without writing anything, and what its next leader has beyond.
fn led_in_vain() -> (Fixture, Vec<u8>) {
    let fetched = |offset, epoch| {
        let mut batch = batch(1_000, 2).to_vec();
        set_base_offset(&mut batch, offset);
        set_partition_leader_epoch(&mut batch, epoch);
        batch
    };
    let mut fixture = Fixture::new();
    as_follower(&mut fixture.log, &fetched(0, 4)).unwrap();
    fixture.log.assign_epoch(5).unwrap();
    (fixture, [fetched(2, 4), fetched(4, 6)].concat())
}

fn epochs(log: &Log) -> Vec<(i32, i64)> {
    let entries = log.epochs().entries().iter();
    entries.map(|entry| (entry.epoch, entry.start_offset)).collect()
}

#[test]
fn an_epoch_without_records_goes_when_an_older_one_goes_on() {
    let (mut fixture, fetched) = led_in_vain();
    assert_eq!(epochs(&fixture.log), [(4, 0), (5, 2)]);
    as_follower(&mut fixture.log, &fetched).unwrap();
    assert_eq!(epochs(&fixture.log), [(4, 0), (6, 4)]);
    assert_eq!(epochs(&fixture.kill().log), [(4, 0), (6, 4)]);
}

#[test]
fn an_epoch_without_records_survives_a_clean_stop() {
    let mut fixture = Fixture::new();
    fixture.append(3);
    fixture.log.assign_epoch(7).unwrap();
    assert_eq!(fixture.restart().log.epochs().latest_epoch(), Some(7));
}

#[test]
fn emptying_a_log_keeps_where_it_begins() {
    let mut fixture = Fixture::with(small_segments());
    for _ in 0..30 {
        fixture.append(1);
    }
    fixture.log.checkpoint(NOW).unwrap();
    fixture.log.truncate_fully_and_start_at(NOW, 700).unwrap();
    let bounds = |log: &Log| (log.log_start_offset(), log.high_watermark(), log.log_end_offset());
    assert_eq!(bounds(&fixture.log), (700, 700, 700));
    assert_eq!(fixture.log.epochs().latest(), None);
    assert_eq!(bounds(&fixture.kill().log), (700, 700, 700));
    let fixture =
        fixture.damage(|folder| fs::remove_dir_all(folder.with_file_name("odradek-index")).unwrap());
    assert_eq!(
        bounds(&fixture.log),
        (700, 700, 700),
        "the empty segment's name says it"
    );
    let mut fixture = fixture.restart();
    assert_eq!(fixture.append(1).first_offset, 700);
    fixture.log.truncate_fully_and_start_at(NOW, 3).unwrap();
    assert_eq!(bounds(&fixture.restart().log), (3, 3, 3));
}

#[test]
fn the_old_log_start_is_not_believed_after_the_log_has_grown_over_it() {
    let mut fixture = Fixture::new();
    (0..20).for_each(|_| _ = fixture.append(1));
    fixture.log.delete_records_before(10).unwrap();
    fixture.log.truncate_to(NOW, 5).unwrap();
    assert_eq!(fixture.log.log_start_offset(), 5);
    (0..10).for_each(|_| _ = fixture.append(1));
    let killed = fixture.kill();
    assert_eq!(
        (killed.log.log_start_offset(), killed.log.log_end_offset()),
        (5, 15)
    );
    assert_eq!(killed.contents(), fixture.contents());
}

#[test]
fn a_segment_whose_file_is_gone_is_cut_like_any_other() {
    let mut fixture = Fixture::with(small_segments());
    (0..60).for_each(|_| _ = fixture.append(1));
    let whole = fixture.contents();
    let files = fixture.segment_files();
    assert!(files.len() > 3);
    fs::remove_file(fixture.log.folder().join(&files[2])).unwrap();
    assert_eq!(fixture.log.truncate_to(NOW, 3).unwrap(), 3);
    assert_eq!(fixture.contents(), whole[..3]);
    assert_eq!(fixture.append(1).first_offset, 3);
    // What is left of the segment that is cut in the middle is needed.
    fs::remove_file(fixture.log.folder().join(&files[0])).unwrap();
    let error = fixture.log.truncate_to(NOW, 2).unwrap_err();
    assert!(error.is_gone(), "the loss is the partition's alone: {error}");
    fixture.log.close_clean(NOW).unwrap();
    assert!(
        !fixture.directory.close_clean().unwrap(),
        "the next start has to look"
    );
}

/// What a log knows of itself.
fn knows(log: &Log) -> (i64, i64, LeaderEpochs, usize) {
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    (start, end, log.epochs().clone(), log.producers().len())
}

#[test]
fn a_cut_that_finds_no_room_changes_nothing_and_is_as_safe_when_it_is_tried_again() {
    let mut fixture = Fixture::with(small_segments());
    for sequence in 0..60 {
        fixture.append_batch(sequence / 20, producer_batch(7, 0, sequence, false));
    }
    fixture.log.checkpoint(NOW).unwrap();
    let (before, whole) = (knows(&fixture.log), fixture.contents());
    for _ in 0..2 {
        // The old recovery point must be gone for good before anything is cut, however often that is tried.
        fixture.fail_flushes(1);
        let refused = fixture.log.truncate_to(NOW, 33).unwrap_err();
        assert!(refused.is_disk_full(), "{refused}");
        assert_eq!(knows(&fixture.log), before);
        assert_eq!(fixture.contents(), whole);
    }
    let killed = fixture.kill();
    fixture.directory.flush_index().unwrap();
    for fixture in [killed, fixture.kill(), fixture.restart()] {
        assert_eq!(
            knows(&fixture.log),
            before,
            "whoever stops in between has lost nothing"
        );
        assert_eq!(fixture.contents(), whole);
    }
}

#[test]
fn a_cut_goes_on_once_there_is_room() {
    let mut fixture = Fixture::with(small_segments());
    for epoch in 0..60 {
        fixture.append_batch(epoch / 20, batch(1_000, 1));
    }
    fixture.log.checkpoint(NOW).unwrap();
    fixture.fail_flushes(1);
    fixture.log.truncate_to(NOW, 33).unwrap_err();
    assert_eq!(fixture.log.truncate_to(NOW, 33).unwrap(), 33);
    for fixture in [fixture.kill(), fixture.restart()] {
        assert_eq!(fixture.log.log_end_offset(), 33);
        assert_eq!(fixture.log.epochs().latest_epoch(), Some(1));
    }
}

#[test]
fn a_log_that_cannot_be_emptied_for_want_of_room_knows_what_it_holds() {
    let mut fixture = Fixture::with(small_segments());
    for sequence in 0..30 {
        fixture.append_batch(1, producer_batch(7, 0, sequence, false));
    }
    let before = knows(&fixture.log);
    fixture.fail_flushes(1);
    fixture.log.truncate_fully_and_start_at(NOW, 700).unwrap_err();
    assert_eq!(knows(&fixture.log), before);
    fixture.log.truncate_fully_and_start_at(NOW, 700).unwrap();
    assert_eq!(knows(&fixture.log), (700, 700, LeaderEpochs::new(), 0));
}
