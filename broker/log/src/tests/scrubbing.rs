//! Checks of sealed segments: what is found, what is served meanwhile, and how another replica's records mend it.

use std::io;

use odradek_common::records::batch::HEADER_SIZE_BYTES;

use super::*;
use crate::compact::{Go, PassMemory};
use crate::disk::{Disk, Space, SystemDisk};
use crate::error::{LogError, ReadError};
use crate::repair::SegmentRepair;
use crate::scrub::{Damage, Finding};
use crate::segment::segment_path;

mod compacted;

/// Checks every sealed segment; what is damaged.
fn scrub(log: &mut Log) -> Vec<Damage> {
    let mut found = Vec::new();
    let mut from = i64::MIN;
    while let Some(segment) = log.sealed_segment_from(from) {
        from = segment.base_offset() + 1;
        let finding = segment.check(&mut |_| Go::On).unwrap();
        assert_ne!(finding, Finding::Unknown);
        found.extend(log.note_finding(&segment, finding).unwrap());
    }
    found
}

/// Every sealed segment is sound, and what it is compared with was kept.
fn assert_sound(log: &mut Log) {
    let found = scrub(log);
    assert!(found.is_empty(), "{found:?}");
    let active = log.active_segment_base_offset();
    for (base, segment) in log.segments.range(..active) {
        assert!(
            segment.footer.heads.is_some(),
            "segment {base} has nothing to compare with"
        );
    }
}

/// A log of several segments of single-record batches.
fn filled() -> Fixture {
    let mut fixture = Fixture::with(small_segments());
    (0..60).for_each(|_| _ = fixture.append(1));
    assert!(fixture.log.segments() > 3);
    fixture
}

/// The second segment's base offset, and bytes of one batch.
fn second(fixture: &Fixture) -> (i64, u64) {
    let (base, segment) = fixture.log.segments.iter().nth(1).unwrap();
    let batches = segment.footer.next_offset - base;
    (*base, segment.footer.size_bytes / batches as u64)
}

fn flip(fixture: &Fixture, base_offset: i64, position: u64) {
    let path = segment_path(&fixture.path.join("events-0"), base_offset);
    let mut bytes = fs::read(&path).unwrap();
    bytes[position as usize] ^= 0x10;
    fs::write(&path, bytes).unwrap();
}

#[test]
fn what_a_segment_is_compared_with_is_kept_whatever_happens_to_the_log() {
    let mut fixture = filled();
    assert_sound(&mut fixture.log);
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    (0..20).for_each(|_| _ = fixture.append(1));
    let mut killed = fixture.kill();
    killed.log.roll(NOW).unwrap();
    assert_sound(&mut killed.log);
    // The cut segment is appended to again: what it is compared with is found by the next check.
    fixture.log.truncate_to(NOW, 33).unwrap();
    (0..20).for_each(|_| _ = fixture.append(1));
    fixture.log.delete_records_before(7).unwrap();
    assert_sound(&mut fixture.log);
    let mut fixture = fixture.restart();
    fixture.log.roll(NOW).unwrap();
    assert_sound(&mut fixture.log);
}

#[test]
fn a_compacted_segment_is_compared_with_what_compaction_wrote() {
    let config = LogConfig {
        cleanup_policy: crate::config::CleanupPolicy::COMPACT,
        min_cleanable_dirty_ratio: 0.0,
        ..small_segments()
    };
    let mut fixture = Fixture::with(config);
    for round in 0..40 {
        let mut builder = BatchBuilder::new(0);
        let key = format!("key-{}", round % 3);
        builder.append(NOW.wall_ms, Some(key.as_bytes()), Some(b"value"), &[]);
        fixture.append_batch(1, builder.build());
    }
    fixture.log.roll(NOW).unwrap();
    let report = fixture.log.compact(NOW, PassMemory::default()).unwrap();
    assert!(report.records_after < report.records_before);
    assert_sound(&mut fixture.log);
}

#[test]
fn what_a_pass_finds_corrupt_is_a_segment_to_be_checked_until_it_is_known() {
    let config = LogConfig {
        cleanup_policy: crate::config::CleanupPolicy::COMPACT,
        min_cleanable_dirty_ratio: 0.0,
        ..small_segments()
    };
    let mut fixture = Fixture::with(config);
    for _ in 0..60 {
        let mut builder = BatchBuilder::new(0);
        builder.append(NOW.wall_ms, Some(b"key"), Some(b"value"), &[]);
        fixture.append_batch(1, builder.build());
    }
    fixture.log.set_high_watermark(fixture.log.log_end_offset());
    let (base, batch_bytes) = second(&fixture);
    flip(&fixture, base, 2 * batch_bytes + HEADER_SIZE_BYTES as u64);
    let log = &mut fixture.log;
    let error = log.compact(NOW, PassMemory::default()).unwrap_err();
    assert_eq!(error.corrupt_segment(), Some(base), "{error}");
    let segment = log.suspected_segment(base).unwrap();
    assert_eq!(segment.base_offset(), base);
    assert!(log.suspected_segment(base + 1).is_none());
    assert!(log.suspected_segment(log.active_segment_base_offset()).is_none());
    let finding = segment.check(&mut |_| Go::On).unwrap();
    assert!(log.note_finding(&segment, finding).unwrap().is_some());
    assert!(log.suspected_segment(base).is_none());
}

#[test]
fn damaged_records_are_found_and_everything_else_is_served() {
    let mut fixture = filled();
    // Recovery does not read it again.
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    let (base, batch_bytes) = second(&fixture);
    flip(&fixture, base, 2 * batch_bytes + HEADER_SIZE_BYTES as u64);
    let found = scrub(&mut fixture.log);
    let [damage] = &found[..] else { panic!("{found:?}") };
    assert_eq!(damage.offsets, base + 2..base + 3);
    assert_eq!(damage.positions, 2 * batch_bytes..3 * batch_bytes);
    assert!(scrub(&mut fixture.log).is_empty(), "it is told once");
    let mut killed = fixture.kill();
    let mut restarted = fixture.restart();
    for fixture in [&mut killed, &mut restarted] {
        assert_eq!(fixture.log.damaged_segments(), 1, "it is remembered");
        let read = |offset| fixture.log.read_plan(offset, 1 << 20, i64::MAX, MinOneBatch::Yes);
        let before = read(base).unwrap();
        assert_eq!((before.position, before.size_bytes as u64), (0, 2 * batch_bytes));
        assert!(matches!(read(base + 2), Err(ReadError::Damaged { .. })));
        let behind = read(base + 3).unwrap();
        assert_eq!(behind.position, 3 * batch_bytes);
        assert!(!behind.is_empty());
    }
    // It goes with the segment.
    let log = &mut restarted.log;
    log.truncate_to(NOW, base).unwrap();
    assert_eq!(log.damaged_segments(), 0);
    assert_eq!(restarted.kill().log.damaged_segments(), 0);
}

#[test]
fn a_damaged_head_is_found_and_what_lies_behind_it_by_the_index() {
    // Base offset, length and leader epoch: no batch's checksum covers them.
    for at in [7, 10, 11, 14] {
        let mut fixture = filled();
        let (base, batch_bytes) = second(&fixture);
        flip(&fixture, base, batch_bytes + at);
        let found = scrub(&mut fixture.log);
        let [damage] = &found[..] else {
            panic!("byte {at}: {found:?}")
        };
        assert!(damage.offsets.contains(&(base + 1)), "byte {at}: {damage:?}");
    }
    let mut fixture = filled();
    let (base, batch_bytes) = second(&fixture);
    flip(&fixture, base, 10);
    let found = scrub(&mut fixture.log);
    let end = fixture.log.segments[&base].footer.next_offset;
    assert!(
        found[0].offsets.end < end,
        "the index tells where to go on: {found:?}"
    );
    assert!(found[0].positions.end >= batch_bytes);
}

#[test]
fn a_file_that_lost_its_end_is_damaged_there() {
    let mut fixture = filled();
    let (base, batch_bytes) = second(&fixture);
    let path = segment_path(&fixture.path.join("events-0"), base);
    let size = fs::metadata(&path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(size - batch_bytes / 2).unwrap();
    let found = scrub(&mut fixture.log);
    assert_eq!(found[0].positions, size - batch_bytes..size);
}

#[test]
fn a_check_that_the_log_has_overtaken_says_nothing() {
    let mut fixture = filled();
    let (base, batch_bytes) = second(&fixture);
    let segment = fixture.log.sealed_segment_from(base).unwrap();
    flip(&fixture, base, batch_bytes - 1);
    let finding = segment.check(&mut |_| Go::On).unwrap();
    assert!(matches!(finding, Finding::Damaged(_)));
    fixture.log.truncate_to(NOW, base + 1).unwrap();
    assert_eq!(fixture.log.note_finding(&segment, finding).unwrap(), None);
    assert_eq!(segment.check(&mut |_| Go::Stop).unwrap(), Finding::Unknown);
}

/// Fetches what a repair asks for out of another log.
fn fetch(repair: &mut SegmentRepair, from: &Log) {
    while let Some(offset) = repair.next_offset() {
        let slice = from.read_plan(offset, 300, i64::MAX, MinOneBatch::Yes).unwrap();
        repair.append(NOW, &slice.read().unwrap()).unwrap();
    }
}

fn repair(log: &mut Log, from: &Log) -> Result<bool, LogError> {
    let mut repair = log.begin_repair(NOW)?.unwrap();
    fetch(&mut repair, from);
    repair.finish(NOW).unwrap();
    log.replace_segments(repair.into_segments())
}

/// A disk that has lost the bytes in this range of every file.
#[derive(Debug)]
struct LosingDisk(std::ops::Range<u64>);

impl Disk for LosingDisk {
    fn sync_data(&self, file: &fs::File) -> io::Result<()> {
        SystemDisk.sync_data(file)
    }

    fn sync_all(&self, file: &fs::File) -> io::Result<()> {
        SystemDisk.sync_all(file)
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        SystemDisk.space(directory)
    }

    fn read_at(&self, file: &fs::File, bytes: &mut [u8], position: u64) -> io::Result<usize> {
        if position < self.0.end && position + bytes.len() as u64 > self.0.start {
            return Err(io::Error::from_raw_os_error(5));
        }
        SystemDisk.read_at(file, bytes, position)
    }
}

#[test]
fn bytes_that_the_disk_does_not_give_are_damage_and_no_more_than_they_are() {
    const SECTOR: u64 = 4096;
    let (lost, folder) = (10 * SECTOR..11 * SECTOR, TempDir::new().unwrap());
    let options = LogDirectoryOptions {
        disk: Arc::new(LosingDisk(lost.clone())),
        ..LogDirectoryOptions::default()
    };
    let directory = LogDirectory::open(folder.path(), options, logger()).unwrap();
    let mut log = directory
        .open_partition(identity(), LogConfig::default(), NOW)
        .unwrap();
    let mut builder = BatchBuilder::new(0);
    builder.append(NOW.wall_ms, None, Some(&[7; 1_000]), &[]);
    let one = builder.build();
    (0..100).for_each(|_| _ = append_one(&mut log, 1, &one, AppendOrigin::Client).unwrap());
    log.roll(NOW).unwrap();
    let found = scrub(&mut log);
    let [damage] = &found[..] else { panic!("{found:?}") };
    let positions = &damage.positions;
    assert!(positions.start <= lost.start && positions.end >= lost.end);
    let batch_bytes = one.len() as u64;
    assert!(positions.start > lost.start - batch_bytes, "{damage:?}");
    // Behind it the index tells where a batch begins.
    assert!(positions.end < lost.end + 2 * SECTOR, "{damage:?}");
    assert_eq!(positions.start / batch_bytes, damage.offsets.start as u64);
    assert_eq!(positions.end / batch_bytes, damage.offsets.end as u64);
}

#[test]
fn another_replica_s_records_take_the_place_of_the_damaged_segment() {
    let mut fixture = filled();
    let healthy = fixture.kill();
    let expected = fixture.contents();
    let (base, batch_bytes) = second(&fixture);
    flip(&fixture, base, batch_bytes + 70);
    assert_eq!(scrub(&mut fixture.log).len(), 1);
    assert!(repair(&mut fixture.log, &healthy.log).unwrap());
    assert_eq!(fixture.log.damaged_segments(), 0);
    assert_sound(&mut fixture.log);
    assert_eq!(fixture.contents(), expected);
    let mut killed = fixture.kill();
    assert_eq!(killed.contents(), expected);
    assert_sound(&mut killed.log);
    let name = |fixture: &Fixture| segment_path(&fixture.path.join("events-0"), base);
    assert_eq!(
        fs::read(name(&fixture)).unwrap(),
        fs::read(name(&healthy)).unwrap()
    );
}

#[test]
fn records_that_do_not_fit_mend_nothing() {
    let mut fixture = filled();
    let healthy = fixture.kill();
    let (base, batch_bytes) = second(&fixture);
    flip(&fixture, base, batch_bytes - 1);
    scrub(&mut fixture.log);
    let mut repair = fixture.log.begin_repair(NOW).unwrap().unwrap();
    let sent = |offset| healthy.log.read_plan(offset, 1, i64::MAX, MinOneBatch::Yes);
    let mut refused = |bytes: &[u8]| matches!(repair.append(NOW, bytes), Err(AppendError::Corrupt(_)));
    assert!(refused(&sent(0).unwrap().read().unwrap()));
    // What is damaged elsewhere, too.
    let mut bytes = sent(base).unwrap().read().unwrap().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    assert!(refused(&bytes));
    // Sound batches that are not those that were written here.
    let mut other = Fixture::with(small_segments());
    (0..60).for_each(|_| _ = other.append_batch(2, batch(NOW.wall_ms, 1)));
    let mut repair = fixture.log.begin_repair(NOW).unwrap().unwrap();
    fetch(&mut repair, &other.log);
    assert!(matches!(repair.finish(NOW), Err(AppendError::Corrupt(_))));
    // A log that was cut meanwhile keeps what it has.
    let mut repair = fixture.log.begin_repair(NOW).unwrap().unwrap();
    fetch(&mut repair, &healthy.log);
    repair.finish(NOW).unwrap();
    fixture.log.truncate_to(NOW, base + 1).unwrap();
    assert!(repair.is_overtaken());
    assert!(!fixture.log.replace_segments(repair.into_segments()).unwrap());
}

#[test]
fn what_is_not_committed_is_not_repaired() {
    let mut fixture = filled();
    let (base, batch_bytes) = second(&fixture);
    flip(&fixture, base, batch_bytes - 1);
    scrub(&mut fixture.log);
    assert!(fixture.log.can_repair());
    fixture.log.set_high_watermark(base + 1);
    assert!(!fixture.log.can_repair() && fixture.log.begin_repair(NOW).unwrap().is_none());
}

#[test]
fn damage_in_what_is_appended_to_again_is_repaired() {
    let mut fixture = filled();
    let (base, batch_bytes) = second(&fixture);
    flip(&fixture, base, batch_bytes - 1);
    scrub(&mut fixture.log);
    fixture.log.truncate_to(NOW, base + 4).unwrap();
    let healthy = filled();
    assert_eq!(fixture.log.active_segment_base_offset(), base);
    // The cut has taken the checksum of its heads.
    assert!(repair(&mut fixture.log, &healthy.log).unwrap());
    assert_eq!(fixture.log.damaged_segments(), 0);
    assert_eq!(fixture.contents(), healthy.contents()[..base as usize + 4]);
    fixture.append(1);
    assert_eq!(fixture.log.log_end_offset(), base + 5);
}
