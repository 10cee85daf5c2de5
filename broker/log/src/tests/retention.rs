//! Old records go.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::config::CleanupPolicy;
use crate::error::ReadError;
use crate::segment::segment_path;

fn filled(config: LogConfig) -> Fixture {
    let mut fixture = Fixture::with(LogConfig {
        retention_ms: -1,
        ..config
    });
    for index in 0..60 {
        fixture.append_at(NOW.wall_ms + index, 1);
    }
    fixture
}

#[test]
fn deleted_records_stay_deleted() {
    let mut fixture = filled(small_segments());
    let refused = fixture.log.delete_records_before(61);
    assert!(matches!(refused, Err(ReadError::OffsetOutOfRange { .. })));
    assert_eq!(fixture.log.delete_records_before(25).unwrap(), 25);
    assert_eq!(
        fixture.log.delete_records_before(10).unwrap(),
        25,
        "the log start never goes back"
    );
    let mut killed = fixture.kill();
    let mut restarted = fixture.restart();
    for fixture in [&mut killed, &mut restarted] {
        assert_eq!(fixture.log.log_start_offset(), 25);
        assert_eq!(fixture.log.epochs().entries()[0].start_offset, 25);
        let segments = fixture.log.segments();
        let deleted = fixture.log.retention(NOW).unwrap();
        assert!(deleted > 0 && fixture.log.segments() == segments - deleted);
        assert_eq!(
            fixture.log.log_start_offset(),
            25,
            "segments go whole, the start stays"
        );
        assert_eq!(fixture.contents()[0].0, 25);
        assert_eq!(find_timestamp(&fixture.log, 0).unwrap().offset, 25);
    }
}

#[test]
fn everything_can_be_deleted_and_offsets_go_on() {
    let mut fixture = filled(small_segments());
    fixture.log.delete_records_before(60).unwrap();
    fixture.log.roll(NOW).unwrap();
    fixture.log.retention(NOW).unwrap();
    assert_eq!(fixture.log.size_bytes(), 0);
    assert_eq!(
        fixture.log.uncheckpointed_bytes(),
        0,
        "nobody will read what is gone"
    );
    fixture.directory.purge_deleted(MUCH_LATER).unwrap();
    assert_eq!(fixture.segment_files(), ["00000000000000000060.log"]);
    let mut killed = fixture.kill();
    assert_eq!(killed.append(1).first_offset, 60);
    assert_eq!(fixture.restart().append(1).first_offset, 60);
}

#[test]
fn size_retention_keeps_the_newest_segments() {
    let mut fixture = filled(LogConfig {
        retention_bytes: 2_500,
        ..small_segments()
    });
    let before = fixture.log.size_bytes();
    let deleted = fixture.log.retention(NOW).unwrap();
    assert!(deleted > 0);
    let after = fixture.log.size_bytes();
    assert!((2_500..3_500).contains(&after), "{before} -> {after}");
    assert_eq!(fixture.log.retention(NOW).unwrap(), 0);
    assert_eq!(fixture.contents()[0].0, fixture.log.log_start_offset());
}

#[test]
fn time_retention_takes_the_active_segment_too_but_nothing_above_the_high_watermark() {
    let mut fixture = filled(small_segments());
    fixture.log.set_config(LogConfig {
        retention_ms: 1_000,
        ..small_segments()
    });
    assert_eq!(fixture.log.retention(NOW).unwrap(), 0);
    fixture.log.set_high_watermark(30);
    fixture.log.retention(NOW.plus_ms(5_000)).unwrap();
    let start = fixture.log.log_start_offset();
    assert!(start > 0 && start <= 30, "{start}");
    fixture.log.set_high_watermark(60);
    fixture.log.retention(NOW.plus_ms(5_000)).unwrap();
    assert_eq!(
        (fixture.log.log_start_offset(), fixture.log.log_end_offset()),
        (60, 60)
    );
    assert_eq!(fixture.log.segments(), 1);
    assert_eq!(fixture.append(1).first_offset, 60);
}

#[test]
fn a_compacted_log_keeps_old_segments() {
    let mut fixture = filled(small_segments());
    let config = LogConfig {
        retention_ms: 1,
        cleanup_policy: CleanupPolicy::COMPACT,
        ..small_segments()
    };
    fixture.log.set_config(config);
    assert_eq!(fixture.log.retention(NOW.plus_ms(5_000)).unwrap(), 0);
}

#[test]
fn files_keep_their_place_for_file_delete_delay_ms() {
    let mut fixture = filled(LogConfig {
        file_delete_delay_ms: 500,
        ..small_segments()
    });
    fixture.log.delete_records_before(60).unwrap();
    fixture.log.roll(NOW).unwrap();
    let deleted = fixture.log.retention(NOW).unwrap();
    assert!(deleted > 0);
    let at = |mono_ms| Now { mono_ms, ..NOW };
    let purged = |mono_ms| fixture.directory.purge_deleted(at(mono_ms)).unwrap();
    assert_eq!(purged(1_000), 0, "the delay begins");
    assert_eq!(purged(1_499), 0);
    assert_eq!(purged(1_500), deleted);
    assert_eq!(purged(9_000), 0);
}

/// Three segments of records without timestamps, whose files were written five seconds ago.
fn undated() -> Fixture {
    let mut fixture = Fixture::with(LogConfig {
        retention_ms: 1_000,
        ..small_segments()
    });
    while fixture.log.segments() < 3 {
        fixture.append_at(-1, 1);
    }
    let long_ago = u64::try_from(NOW.wall_ms - 5_000).unwrap();
    for base_offset in fixture.log.segments.keys() {
        let path = segment_path(fixture.log.folder(), *base_offset);
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_millis(long_ago))
            .unwrap();
    }
    assert_eq!(fixture.log.retention(NOW).unwrap(), 0, "it made them just now");
    fixture
}

#[test]
fn a_segment_without_timestamps_is_as_old_as_its_file() {
    let mut stopped = undated().restart();
    let Fixture {
        _temporary,
        path,
        directory,
        log,
        config,
    } = undated();
    drop((log, directory));
    let mut ended = Fixture::at(_temporary, path, config);
    for fixture in [&mut stopped, &mut ended] {
        fixture.log.set_high_watermark(fixture.log.log_end_offset());
        assert!(fixture.log.retention(NOW).unwrap() > 0);
    }
}

/// What a log holds, as far as its start tells.
fn knows(fixture: &Fixture) -> (i64, usize, usize, Vec<(i64, Vec<u8>)>) {
    let log = &fixture.log;
    let epochs = log.epochs().entries().len();
    (log.log_start_offset(), log.segments(), epochs, fixture.contents())
}

#[test]
fn retention_makes_room_though_the_index_has_none() {
    let mut fixture = filled(LogConfig {
        retention_bytes: 2_500,
        ..small_segments()
    });
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    fixture.fail_write(1);
    assert!(fixture.log.retention(NOW).unwrap() > 0);
    fixture.directory.purge_deleted(MUCH_LATER).unwrap();
    assert_eq!(fixture.segment_files().len(), fixture.log.segments());
    let known = knows(&fixture);
    assert_eq!(known.0, fixture.contents()[0].0);
    let mut killed = fixture.kill();
    killed.log.set_high_watermark(60);
    assert_eq!(knows(&killed), known);

    fixture.fail_write(1);
    let refused = fixture.log.close_clean(NOW).unwrap_err();
    assert!(refused.is_disk_full(), "{refused}");
    assert!(
        !fixture.directory.close_clean().unwrap(),
        "the index tells of segments that are gone"
    );
    let restarted = fixture.restart();
    assert!(restarted.directory.is_clean_start());
    assert_eq!(knows(&restarted), known);
}

#[test]
fn the_next_retention_tells_the_index_what_it_is_owed() {
    let mut fixture = filled(LogConfig {
        retention_bytes: 2_500,
        ..small_segments()
    });
    fixture.fail_write(1);
    assert!(fixture.log.retention(NOW).unwrap() > 0);
    let persisted = |fixture: &Fixture| fixture.directory.shared.store.load(&fixture.log.key).unwrap();
    assert_eq!(persisted(&fixture).log_start_offset, None);
    assert_eq!(fixture.log.retention(NOW).unwrap(), 0);
    let persisted = persisted(&fixture);
    let start = fixture.log.log_start_offset();
    assert_eq!(persisted.log_start_offset, Some(start));
    assert!(persisted.footers.iter().all(|(base, _)| *base >= start));
    assert!(!persisted.footers.is_empty());
}

#[test]
fn an_active_segment_that_cannot_be_sealed_does_not_keep_those_before_it() {
    let mut fixture = filled(small_segments());
    fixture.log.set_config(LogConfig {
        retention_ms: 1_000,
        ..small_segments()
    });
    let active = fixture.log.active_segment_base_offset();
    let later = NOW.plus_ms(5_000);
    fixture.fail_write(1);
    assert!(fixture.log.retention(later).unwrap() > 0);
    assert_eq!(fixture.log.log_start_offset(), active);
    assert_eq!(fixture.log.retention(later).unwrap(), 1);
    assert_eq!(fixture.log.log_start_offset(), 60);
}

#[test]
fn records_that_cannot_be_deleted_for_want_of_room_are_as_they_were() {
    let mut fixture = Fixture::new();
    for epoch in 0..3 {
        fixture.append_batch(epoch, batch(1_000, 1));
    }
    let before = knows(&fixture);
    fixture.fail_write(1);
    let refused = fixture.log.delete_records_before(2);
    assert!(matches!(refused, Err(ReadError::Log(error)) if error.is_disk_full()));
    assert_eq!(knows(&fixture), before);
    assert_eq!(fixture.log.delete_records_before(2).unwrap(), 2);
    assert_eq!(knows(&fixture.kill()), knows(&fixture));
}
