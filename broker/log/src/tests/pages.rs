//! Zeros ahead of a segment that grows fast.

use std::fs::File;
use std::io;

use super::*;
use crate::disk::{Disk, Space, SystemDisk};
use crate::pages::STRETCH_BYTES;

/// Records of an append of about 18 KB.
const SOME: usize = 1_000;
/// By then a segment has pages ahead.
const GROWN_BYTES: u64 = 6 << 20;

/// A disk whose page cache has large pieces, whatever the machine.
#[derive(Debug)]
struct Folios;

impl Disk for Folios {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync_data(file)
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync_all(file)
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        SystemDisk.space(directory)
    }

    fn has_large_folios(&self, _directory: &Path) -> bool {
        true
    }
}

/// A log with one segment; the bytes of its batches.
fn grown(config: LogConfig) -> (Fixture, u64) {
    let temporary = Arc::new(TempDir::new().unwrap());
    let path = temporary.path().join("data");
    let options = LogDirectoryOptions {
        disk: Arc::new(Folios),
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
    while bytes < GROWN_BYTES {
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
fn zeros_ahead_are_no_damage_after_a_kill() {
    let (mut fixture, mut bytes) = grown(LogConfig::default());
    // From the index's point of view in the middle of the segment, and from its beginning.
    for _ in 0..2 {
        let mut killed = fixture.kill();
        let report = killed.log.take_recovery_report().unwrap();
        assert_eq!((report.truncated_bytes, report.reason), (0, None));
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
    let segment_bytes = GROWN_BYTES + 2 * STRETCH_BYTES;
    let (mut fixture, mut bytes) = grown(LogConfig {
        segment_bytes,
        ..LogConfig::default()
    });
    assert!(length(&fixture, 0) > bytes, "it had some");
    loop {
        let info = fixture.append(SOME);
        if info.rolled {
            return;
        }
        bytes += info.size_bytes as u64;
        if bytes + STRETCH_BYTES > segment_bytes {
            assert_eq!(length(&fixture, 0), bytes, "of {segment_bytes}");
        }
    }
}
