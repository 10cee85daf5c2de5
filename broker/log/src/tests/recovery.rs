//! What is left after a kill, after damage, and without the index.

use super::*;

const SEGMENT: &str = "00000000000000000000.log";

#[test]
fn a_kill_loses_nothing_that_was_appended() {
    let mut fixture = Fixture::with(small_segments());
    for epoch in 0..40 {
        fixture.append_batch(epoch / 10, batch(NOW.wall_ms, 3));
    }
    fixture.log.assign_epoch(9).unwrap();
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    fixture.append_batch(9, batch(NOW.wall_ms, 3));
    let expected = fixture.contents();
    let mut killed = fixture.kill();
    assert!(!killed.directory.is_clean_start());
    let report = killed.log.take_recovery_report().unwrap();
    assert_eq!(
        (
            report.truncated_bytes,
            report.removed_segments,
            report.index_rebuilt
        ),
        (0, 0, false)
    );
    assert!(
        report.scanned_bytes < 1_000,
        "only what is above the recovery point is read: {report:?}"
    );
    assert_eq!(killed.contents(), expected);
    assert_eq!(killed.log.epochs(), fixture.log.epochs());
    let killed = killed.kill();
    assert_eq!(killed.contents(), expected);
}

#[test]
fn an_epoch_that_could_not_be_written_has_not_begun() {
    let mut fixture = Fixture::new();
    fixture.append(3);
    let before = fixture.log.epochs().clone();
    // Once a flush of the index has failed, nothing more is written to it.
    fs::remove_dir_all(fixture.path.join("odradek-index")).unwrap();
    fixture.directory.flush_index().unwrap_err();
    fixture.log.assign_epoch(7).unwrap_err();
    assert_eq!(*fixture.log.epochs(), before);
}

#[test]
fn an_epoch_whose_write_found_no_room_is_written_with_the_next_checkpoint() {
    let mut fixture = Fixture::new();
    fixture.append_batch(1, batch(NOW.wall_ms, 1));
    fixture.fail_write(1);
    fixture.append_batch(2, batch(NOW.wall_ms, 1));
    fixture.append_batch(2, batch(NOW.wall_ms, 1));
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    assert_eq!(fixture.kill().log.epochs(), fixture.log.epochs());
    assert_eq!(fixture.log.epochs().entries().len(), 2);

    // Also one that is all there is to be written.
    let mut fixture = Fixture::new();
    fixture.log.assign_epoch(7).unwrap();
    // The first write is the folder's name.
    fixture.fail_write(2);
    fixture.log.truncate_fully_and_start_at(NOW, 0).unwrap_err();
    assert!(fixture.log.is_made());
    fixture.append_batch(7, batch(NOW.wall_ms, 1));
    fixture.log.flush().unwrap();
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    assert_eq!(fixture.kill().log.epochs().latest_epoch(), Some(7));
}

#[test]
fn a_checkpoint_without_later_appends_leaves_nothing_to_scan() {
    let mut fixture = Fixture::with(small_segments());
    for _ in 0..40 {
        fixture.append(3);
    }
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    let mut killed = fixture.kill();
    assert_eq!(killed.log.take_recovery_report(), None);
    assert_eq!(killed.contents(), fixture.contents());
}

#[test]
fn a_log_cut_at_every_byte_recovers_its_whole_batches() {
    let mut fixture = Fixture::new();
    let mut borders = vec![0];
    for count in [1, 3, 2, 1] {
        fixture.append(count);
        borders.push(fixture.log.size_bytes() as usize);
    }
    let whole = fixture.contents();
    let bytes = fs::read(fixture.path.join("events-0").join(SEGMENT)).unwrap();
    let ends = [0, 1, 4, 6, 7];
    let directory = open(&fixture.path.with_file_name("cut"));
    for cut in 0..=bytes.len() {
        let identity = PartitionIdentity::new("events", TOPIC_ID, i32::try_from(cut).unwrap());
        let folder = directory.path().join(identity.folder());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(SEGMENT), &bytes[..cut]).unwrap();
        let mut log = directory
            .open_partition(identity, LogConfig::default(), NOW)
            .unwrap();
        let kept = borders.iter().rposition(|border| *border <= cut).unwrap();
        assert_eq!(log.log_end_offset(), ends[kept], "cut at {cut}");
        assert_eq!(contents(&log), whole[..ends[kept] as usize], "cut at {cut}");
        let removed = log.take_recovery_report().unwrap().truncated_bytes;
        assert_eq!(removed as usize, cut - borders[kept], "cut at {cut}");
        let appended = append_one(&mut log, 1, &batch(1, 1), AppendOrigin::Client).unwrap();
        assert_eq!(appended.first_offset, ends[kept]);
    }
}

#[test]
fn a_flipped_bit_above_the_recovery_point_ends_the_log_there() {
    let mut fixture = Fixture::with(small_segments());
    for _ in 0..40 {
        fixture.append(1);
    }
    let segments = fixture.segment_files();
    let mut damaged = fixture.damage(|folder| {
        let path = folder.join(&segments[2]);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    let report = damaged.log.take_recovery_report().unwrap();
    assert!(report.truncated_bytes > 0 && report.reason.unwrap().contains("crc"));
    assert_eq!(report.removed_segments, segments.len() - 3);
    assert_eq!(damaged.segment_files(), segments[..3]);
    let offsets: Vec<i64> = damaged.contents().iter().map(|(offset, _)| *offset).collect();
    let end = damaged.log.log_end_offset();
    assert_eq!(offsets, (0..end).collect::<Vec<_>>());
    assert_eq!(damaged.append(1).first_offset, end);
    assert_eq!(damaged.restart().log.log_end_offset(), end + 1);
}

#[test]
fn zeros_behind_the_end_are_removed() {
    let mut fixture = Fixture::new();
    fixture.append(5);
    let size = fixture.log.size_bytes();
    let damaged = fixture.damage(|folder| {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(folder.join(SEGMENT))
            .unwrap();
        file.set_len(size + 4096).unwrap();
    });
    assert_eq!(damaged.log.log_end_offset(), 5);
    assert_eq!(damaged.log.size_bytes(), size);
}

#[test]
fn a_lost_index_is_rebuilt_from_the_segments() {
    let mut fixture = Fixture::with(small_segments());
    for epoch in 0..60 {
        fixture.append_batch(epoch / 20, batch(NOW.wall_ms + i64::from(epoch), 2));
    }
    fixture.append_batch(3, producer_batch(7, 0, 0, false));
    let (expected, epochs) = (fixture.contents(), fixture.log.epochs().clone());
    let mut fixture = fixture.restart();
    fixture.log.close_clean(NOW).unwrap();
    let mut rebuilt = fixture.damage(|folder| {
        fs::remove_dir_all(folder.with_file_name("odradek-index")).unwrap();
    });
    assert!(!rebuilt.directory.is_clean_start());
    assert_eq!(
        rebuilt.directory.partitions(),
        [identity()],
        "the topic id stands in partition.metadata"
    );
    assert!(rebuilt.log.take_recovery_report().unwrap().index_rebuilt);
    assert_eq!(rebuilt.contents(), expected);
    assert_eq!(rebuilt.log.epochs(), &epochs);
    assert!(rebuilt.append_batch(3, producer_batch(7, 0, 0, false)).duplicate);
    assert_eq!(find_timestamp(&rebuilt.log, NOW.wall_ms + 30).unwrap().offset, 60);
    let mut again = rebuilt.restart();
    assert_eq!(again.log.take_recovery_report(), None);
    assert_eq!(again.contents(), expected);
}

#[test]
fn a_corrupt_index_is_rebuilt_too() {
    let mut fixture = Fixture::new();
    fixture.append(4);
    let rebuilt = fixture.damage(|folder| {
        let index = folder.with_file_name("odradek-index");
        for entry in fs::read_dir(index).unwrap() {
            let path = entry.unwrap().path();
            if path
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("MANIFEST")
            {
                fs::write(path, b"rubbish that is no manifest").unwrap();
            }
        }
    });
    assert!(!rebuilt.directory.is_clean_start());
    assert_eq!(rebuilt.contents().len(), 4);
}

#[test]
fn a_missing_segment_is_reported() {
    let mut fixture = Fixture::new();
    fixture.append(5);
    fixture.log.checkpoint(NOW).unwrap();
    let mut damaged = fixture.damage(|folder| fs::remove_file(folder.join(SEGMENT)).unwrap());
    let report = damaged.log.take_recovery_report().unwrap();
    assert!(report.reason.unwrap().contains("missing") && report.removed_bytes > 0);
    assert_eq!(damaged.log.log_end_offset(), 0);
}

#[test]
fn a_failed_checkpoint_of_a_truncated_log_counts_for_nothing() {
    let mut fixture = Fixture::new();
    for _ in 0..10 {
        fixture.append(1);
    }
    let plan = fixture.log.checkpoint_plan(NOW).unwrap().unwrap();
    fixture.log.truncate_to(NOW, 4).unwrap();
    plan.sync().unwrap();
    fixture.log.complete_flush(plan).unwrap();
    assert_eq!(fixture.log.recovery_point(), 0);
    fixture.append_batch(2, batch(1, 1));
    let killed = fixture.kill();
    assert_eq!(killed.log.log_end_offset(), 5);
    assert_eq!(killed.log.epochs().epoch_for_offset(4), Some(2));
}

#[test]
fn high_watermarks_survive_a_kill() {
    let mut fixture = Fixture::new();
    fixture.append(5);
    fixture.log.set_high_watermark(3);
    let checkpoint = fixture.log.high_watermark_to_checkpoint();
    assert!(checkpoint.is_some() && fixture.log.high_watermark_to_checkpoint().is_none());
    fixture.directory.checkpoint_high_watermarks(checkpoint).unwrap();
    assert_eq!(fixture.kill().log.high_watermark(), 3);
    assert_eq!(fixture.restart().log.high_watermark(), 3);
}

#[test]
fn what_was_not_checkpointed_is_what_recovery_reads() {
    let mut fixture = Fixture::with(small_segments());
    (0..30).for_each(|_| _ = fixture.append(1));
    assert_eq!(fixture.log.uncheckpointed_bytes(), fixture.log.size_bytes());
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    assert_eq!(fixture.log.uncheckpointed_bytes(), 0);
    // What comes while a checkpoint waits for the disk is not in it.
    fixture.append(1);
    let plan = fixture.log.checkpoint_plan(NOW).unwrap().unwrap();
    let size = fixture.log.size_bytes();
    (0..20).for_each(|_| _ = fixture.append(1));
    plan.sync().unwrap();
    fixture.log.complete_flush(plan).unwrap();
    fixture.directory.flush_index().unwrap();
    let dirty = fixture.log.uncheckpointed_bytes();
    assert_eq!(dirty, fixture.log.size_bytes() - size);
    let report = fixture.kill().log.take_recovery_report().unwrap();
    assert_eq!(report.scanned_bytes, dirty);
}

/// What was cut off is on disk in the index, and that it was cut off is not.
fn with_an_index_of_what_was_cut(records_per_batch: usize) -> Fixture {
    let mut fixture = Fixture::with(small_segments());
    fixture.append(1);
    fixture.log.checkpoint(NOW).unwrap();
    (0..60).for_each(|_| _ = fixture.append(1));
    // Entries of the active segment go as well.
    fixture.log.roll(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    fixture.log.truncate_to(NOW, 1).unwrap();
    let mut killed = fixture.kill();
    (0..30).for_each(|_| _ = killed.append(records_per_batch));
    killed
}

#[test]
fn what_the_index_knows_of_records_that_were_cut_is_not_believed_after_a_kill() {
    for count in [2, 3, 7] {
        let fixture = with_an_index_of_what_was_cut(count);
        let (expected, segments) = (fixture.contents(), fixture.log.segments());
        let read_each = |fixture: &Fixture| {
            for offset in 0..fixture.log.log_end_offset() {
                let slice = fixture
                    .log
                    .read_plan(offset, 1, i64::MAX, MinOneBatch::Yes)
                    .unwrap();
                let bytes = slice.read().unwrap();
                let (header, _) = batches(&bytes).next().unwrap().unwrap();
                assert!(
                    (header.base_offset..header.next_offset()).contains(&offset),
                    "{offset}"
                );
            }
        };
        read_each(&fixture);
        let killed = fixture.kill();
        assert_eq!(killed.contents(), expected);
        read_each(&killed);
        // A clean stop writes down which segments there are, which is believed without a look.
        let restarted = fixture.restart();
        assert_eq!(
            (restarted.log.segments(), restarted.contents()),
            (segments, expected)
        );
        read_each(&restarted);
    }
}
