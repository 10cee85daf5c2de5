//! Zeros ahead of a segment that grows fast.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::*;
use crate::append::write_with_zeros;
use crate::disk::{Disk, Space, SystemDisk};
use crate::pages::{SMALL_STRETCH_BYTES, STRETCH_BYTES};

/// Records of an append of about 18 KB.
const SOME: usize = 1_000;
/// By then a segment has large pages ahead.
const GROWN_BYTES: u64 = 6 << 20;
/// By then a segment has small ones.
const BEGUN_BYTES: u64 = 200 << 10;
/// More than the zeros of all small segments could take.
const AMPLE_BYTES: u64 = 8 << 30;

/// A disk whose page cache has large pieces, whatever the machine, and so many bytes that are free.
#[derive(Debug)]
struct Folios(u64);

impl Disk for Folios {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync_data(file)
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync_all(file)
    }

    fn space(&self, _directory: &Path) -> io::Result<Space> {
        Ok(Space {
            total_bytes: 100 << 30,
            free_bytes: self.0,
        })
    }

    fn has_large_folios(&self, _directory: &Path) -> bool {
        true
    }
}

fn grown(config: LogConfig) -> (Fixture, u64) {
    grown_to(GROWN_BYTES, config, AMPLE_BYTES)
}

/// A log with one segment; the bytes of its batches.
fn grown_to(size_bytes: u64, config: LogConfig, free_bytes: u64) -> (Fixture, u64) {
    let temporary = Arc::new(TempDir::new().unwrap());
    let path = temporary.path().join("data");
    let options = LogDirectoryOptions {
        disk: Arc::new(Folios(free_bytes)),
        ..LogDirectoryOptions::default()
    };
    let directory = LogDirectory::open(&path, options, logger()).unwrap();
    let log = directory.open_partition(identity(), config.clone(), NOW).unwrap();
    let mut fixture = Fixture {
        _temporary: temporary,
        path,
        directory,
        log,
        config,
    };
    let mut bytes = 0;
    while bytes < size_bytes {
        bytes += fixture.append(SOME).size_bytes as u64;
    }
    (fixture, bytes)
}

fn length(fixture: &Fixture, number: usize) -> u64 {
    let name = &fixture.segment_files()[number];
    fs::metadata(fixture.path.join("events-0").join(name))
        .unwrap()
        .len()
}

#[test]
fn a_segment_that_grows_fast_has_whole_stretches_of_zeros_ahead() {
    let (mut fixture, mut bytes) = grown(LogConfig::default());
    for _ in 0..100 {
        let length = length(&fixture, 0);
        assert!(
            length >= bytes && length < bytes + STRETCH_BYTES,
            "{length} for {bytes}"
        );
        assert_eq!(length % STRETCH_BYTES, 0);
        bytes += fixture.append(SOME).size_bytes as u64;
    }
    let records = usize::try_from(fixture.log.log_end_offset()).unwrap();
    assert_eq!(fixture.contents().len(), records);
}

#[test]
fn a_segment_that_is_small_has_smaller_stretches_once_two_were_filled_fast() {
    let (mut fixture, mut bytes) = grown_to(1, LogConfig::default(), AMPLE_BYTES);
    while bytes < 4 << 20 {
        let length = length(&fixture, 0);
        if bytes <= 2 * SMALL_STRETCH_BYTES {
            assert_eq!(length, bytes, "nothing is known of its speed");
        } else {
            assert_eq!(length, bytes.next_multiple_of(SMALL_STRETCH_BYTES));
        }
        bytes += fixture.append(SOME).size_bytes as u64;
    }
    // And the larger ones follow without a gap.
    while bytes < GROWN_BYTES {
        let length = length(&fixture, 0);
        assert!(
            length >= bytes && length < bytes + STRETCH_BYTES,
            "{length} for {bytes}"
        );
        bytes += fixture.append(SOME).size_bytes as u64;
    }
    let records = usize::try_from(fixture.log.log_end_offset()).unwrap();
    assert_eq!(fixture.contents().len(), records);
}

#[test]
fn where_little_is_free_no_segment_has_zeros_ahead() {
    for size_bytes in [BEGUN_BYTES, GROWN_BYTES] {
        let (fixture, bytes) = grown_to(size_bytes, LogConfig::default(), AMPLE_BYTES / 200);
        assert_eq!(length(&fixture, 0), bytes);
    }
    let (fixture, bytes) = grown_to(BEGUN_BYTES, LogConfig::default(), AMPLE_BYTES / 4);
    assert_eq!(
        length(&fixture, 0),
        bytes,
        "thousands of small ones would take more"
    );
    let (fixture, bytes) = grown_to(GROWN_BYTES, LogConfig::default(), AMPLE_BYTES / 4);
    assert!(length(&fixture, 0) > bytes, "a large one may");
}

#[test]
fn zeros_that_a_stop_could_not_cut_off_are_cut_off_before_the_next_append() {
    let (fixture, bytes) = grown_to(BEGUN_BYTES, LogConfig::default(), AMPLE_BYTES);
    let mut fixture = fixture.restart();
    let file = fixture.path.join("events-0").join(&fixture.segment_files()[0]);
    let file = File::options().write(true).open(file).unwrap();
    file.set_len(bytes.next_multiple_of(STRETCH_BYTES)).unwrap();
    let one = fixture.append(1).size_bytes as u64;
    assert_eq!(length(&fixture, 0), bytes + one);
}

#[test]
fn zeros_ahead_are_no_damage_after_a_kill() {
    for size_bytes in [BEGUN_BYTES, GROWN_BYTES] {
        survives_a_kill(grown_to(size_bytes, LogConfig::default(), AMPLE_BYTES));
    }
}

fn survives_a_kill((mut fixture, mut bytes): (Fixture, u64)) {
    // From the index's point of view in the middle of the segment, and from its beginning.
    for _ in 0..2 {
        let mut killed = fixture.kill();
        let report = killed.log.take_recovery_report().unwrap();
        assert_eq!((report.truncated_bytes, report.reason), (0, None));
        assert_eq!(report.zero_bytes, length(&fixture, 0) - bytes);
        assert_eq!(killed.log.log_end_offset(), fixture.log.log_end_offset());
        assert_eq!(length(&killed, 0), bytes, "they are cut off");
        assert_eq!(killed.contents(), fixture.contents());
        killed.append(1);
        fixture.log.checkpoint(NOW).unwrap();
        assert_eq!(length(&fixture, 0), bytes, "a log at rest has none");
        for _ in 0..50 {
            bytes += fixture.append(SOME).size_bytes as u64;
        }
        assert!(length(&fixture, 0) > bytes);
    }
}

#[test]
fn what_is_sealed_cut_or_stopped_ends_with_its_last_batch() {
    let (mut fixture, mut bytes) = grown(LogConfig::default());
    fixture.log.roll(NOW).unwrap();
    assert_eq!(length(&fixture, 0), bytes);

    let (mut fixture, _) = grown(LogConfig::default());
    let end = fixture.log.log_end_offset();
    let cut = fixture.log.truncate_to(NOW, end - 1).unwrap();
    let left = length(&fixture, 0);
    fixture = fixture.restart();
    assert_eq!((fixture.log.log_end_offset(), length(&fixture, 0)), (cut, left));

    (fixture, bytes) = grown(LogConfig::default());
    fixture = fixture.restart();
    assert_eq!(length(&fixture, 0), bytes);
    let end = fixture.log.log_end_offset();
    fixture.append(1);
    assert_eq!(fixture.kill().log.log_end_offset(), end + 1);
}

#[test]
fn a_flush_under_load_leaves_what_is_ahead_and_one_at_rest_does_not() {
    let (mut fixture, bytes) = grown(LogConfig::default());
    let ahead = length(&fixture, 0);
    assert!(ahead > bytes);
    let plan = fixture.log.checkpoint_plan(NOW).unwrap().unwrap();
    plan.sync().unwrap();
    fixture.log.complete_flush(plan).unwrap();
    assert_eq!(length(&fixture, 0), ahead);
    assert!(fixture.log.checkpoint_plan(NOW).unwrap().is_none());
    // Once to see where it ends, and once to see that it still does.
    for left in [ahead, bytes] {
        assert!(fixture.log.periodic_checkpoint_plan(NOW).unwrap().is_none());
        assert_eq!(length(&fixture, 0), left);
    }
}

#[test]
fn zeros_in_the_place_of_records_are_damage() {
    let (mut fixture, bytes) = grown(LogConfig::default());
    let info = fixture.append(1);
    let lost = bytes..bytes + info.size_bytes as u64;
    fixture.log.roll(NOW).unwrap();
    fixture.append(1);
    let mut fixture = fixture.damage(|folder| {
        let file = File::options()
            .write(true)
            .open(folder.join("00000000000000000000.log"))
            .unwrap();
        file.set_len(lost.start).unwrap();
        // As long as one that has zeros ahead: what tells them apart is where the next segment begins.
        file.set_len(lost.end.next_multiple_of(STRETCH_BYTES)).unwrap();
    });
    let report = fixture.log.take_recovery_report().unwrap();
    assert!(
        report.truncated_bytes > 0 && report.removed_segments == 1,
        "{report:?}"
    );
    assert_eq!(fixture.log.log_end_offset(), info.first_offset);
}

#[test]
fn a_log_that_flushes_what_it_appends_has_no_zeros_ahead() {
    let (fixture, bytes) = grown(LogConfig {
        flush_messages: 1_000_000,
        ..LogConfig::default()
    });
    assert_eq!(length(&fixture, 0), bytes);
}

#[test]
fn a_full_segment_has_passed_its_zeros_so_that_a_roll_need_not_cut_it() {
    for (size_bytes, stretch_bytes) in [(BEGUN_BYTES, SMALL_STRETCH_BYTES), (GROWN_BYTES, STRETCH_BYTES)] {
        let segment_bytes = size_bytes + 2 * stretch_bytes;
        let (mut fixture, mut bytes) = grown_to(
            size_bytes,
            LogConfig {
                segment_bytes,
                ..LogConfig::default()
            },
            AMPLE_BYTES,
        );
        assert!(length(&fixture, 0) > bytes, "it had some");
        loop {
            let info = fixture.append(SOME);
            if info.rolled {
                break;
            }
            bytes += info.size_bytes as u64;
            if bytes + stretch_bytes > segment_bytes {
                assert_eq!(length(&fixture, 0), bytes, "of {segment_bytes}");
            }
        }
    }
}

#[test]
fn zeros_that_find_no_room_are_no_failure() {
    use rustix::fs::{MemfdFlags, SealFlags};
    // A file that cannot grow beyond two pages takes what fits.
    let file = rustix::fs::memfd_create("full", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, 8_192).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW).unwrap();
    let file = File::from(file);
    let (head, records) = ([1; 61], [2; 7_000]);
    let pieces = [io::IoSlice::new(&head), io::IoSlice::new(&records)];
    write_with_zeros(&file, &pieces, SMALL_STRETCH_BYTES, 0).unwrap();
    let mut bytes = vec![9; 8_192];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((&bytes[..61], &bytes[61..7_061]), (&head[..], &records[..]));
    assert!(bytes[7_061..].iter().all(|byte| *byte == 0));
    // Records that find none are.
    write_with_zeros(&file, &pieces, SMALL_STRETCH_BYTES, 4_096).unwrap_err();
}
