//! Blocks beyond the end of a segment that grows.

use std::os::unix::fs::MetadataExt;

use std::sync::atomic::AtomicU64;

use super::room::SmallDisk;
use super::*;

/// Records of an append of about 180 KiB.
const MANY: usize = 10_000;
/// More than a log at rest keeps for itself.
const AHEAD_BYTES: u64 = 3 << 19;
/// By then a segment has had blocks ahead.
const GROWN_BYTES: u64 = 32 << 20;
/// What may be held beyond the end where nothing is reserved: the blocks of the last page and of the map.
const ROUNDING_BYTES: u64 = 64 << 10;

/// Length of the newest segment's file, and the bytes of its blocks.
fn newest(fixture: &Fixture) -> (u64, u64) {
    let name = fixture.segment_files().pop().unwrap();
    let path = fixture.path.join("events-0").join(name);
    // Without it pages that no block is chosen for yet are not counted.
    fs::File::open(&path).unwrap().sync_all().unwrap();
    let metadata = fs::metadata(path).unwrap();
    (metadata.len(), metadata.blocks() * 512)
}

/// A log with one segment that has blocks ahead.
fn grown() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.append(1);
    grow(&mut fixture);
    fixture
}

fn grow(fixture: &mut Fixture) {
    let (mut expected, _) = newest(fixture);
    while expected < GROWN_BYTES {
        expected += fixture.append(MANY).size_bytes as u64;
        let (length, blocks) = newest(fixture);
        assert_eq!(length, expected, "the file ends with its last batch");
        if blocks > length + AHEAD_BYTES {
            return;
        }
    }
    panic!("a segment of {expected} bytes has no blocks ahead");
}

#[track_caller]
fn assert_nothing_is_reserved(fixture: &Fixture) {
    let (length, blocks) = newest(fixture);
    assert!(
        blocks <= length + ROUNDING_BYTES,
        "{blocks} bytes are held for {length}"
    );
}

#[test]
fn a_small_segment_has_no_blocks_ahead() {
    let mut fixture = Fixture::new();
    fixture.append(MANY);
    assert_nothing_is_reserved(&fixture);
}

#[test]
fn a_log_that_rests_gives_its_blocks_back_and_takes_new_ones_when_it_grows_again() {
    let mut fixture = grown();
    fixture.log.checkpoint(NOW).unwrap();
    assert_nothing_is_reserved(&fixture);
    grow(&mut fixture);
    let records = fixture.contents().len();
    let fixture = fixture.restart();
    assert_nothing_is_reserved(&fixture);
    assert_eq!(fixture.contents().len(), records);
}

#[test]
fn a_segment_that_is_sealed_early_gives_its_blocks_back() {
    let mut fixture = grown();
    let sealed = fixture.segment_files().pop().unwrap();
    fixture.log.roll(NOW).unwrap();
    let metadata = fs::metadata(fixture.path.join("events-0").join(sealed)).unwrap();
    assert!(metadata.blocks() * 512 <= metadata.len() + ROUNDING_BYTES);
}

#[test]
fn no_blocks_are_reserved_beyond_a_full_segment() {
    const SEGMENT_BYTES: u64 = 6 << 20;
    let mut fixture = Fixture::with(LogConfig {
        segment_bytes: SEGMENT_BYTES,
        ..LogConfig::default()
    });
    fixture.append(1);
    while fixture.log.segments() < 3 {
        let files = fixture.segment_files();
        fixture.append(1_000);
        for name in files {
            let metadata = fs::metadata(fixture.path.join("events-0").join(name)).unwrap();
            assert!(metadata.blocks() * 512 <= SEGMENT_BYTES + ROUNDING_BYTES);
        }
    }
}

#[test]
fn a_log_that_was_cut_grows_again() {
    let mut fixture = grown();
    let offset = fixture.log.log_end_offset() / 2;
    fixture.log.truncate_to(NOW, offset).unwrap();
    assert_nothing_is_reserved(&fixture);
    grow(&mut fixture);
    assert_eq!(
        fixture.contents().len() as i64,
        fixture.log.log_end_offset(),
        "nothing is missing"
    );
}

#[test]
fn what_a_killed_process_had_reserved_is_given_back() {
    let fixture = grown();
    let name = fixture.segment_files().pop().unwrap();
    let path = fixture.path.join("events-0").join(name);
    let (length, _) = newest(&fixture);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    crate::reserve::give_back_unknown(&file, length);
    assert_nothing_is_reserved(&fixture);
    assert_eq!(newest(&fixture).0, length);
}

#[test]
fn a_disk_that_is_short_of_room_gives_nothing_in_advance() {
    const KEPT_BYTES: u64 = 1 << 30;
    const AMPLE_BYTES: u64 = KEPT_BYTES + (1 << 30);
    const SHORT_BYTES: u64 = KEPT_BYTES + (32 << 20);
    const WHOLE_BYTES: u64 = 16 << 20;
    let folder = TempDir::new().unwrap();
    let held = |free_bytes: u64, config: &LogConfig| {
        let options = LogDirectoryOptions {
            disk: Arc::new(SmallDisk(AtomicU64::new(free_bytes))),
            reserve_bytes: KEPT_BYTES,
            ..LogDirectoryOptions::default()
        };
        let path = folder.path().join(Uuid::new_v4().to_string());
        let directory = LogDirectory::open(&path, options, logger()).unwrap();
        let mut log = directory.open_partition(identity(), config.clone(), NOW).unwrap();
        let mut length = 0;
        // Just behind the first look.
        while length < (4 << 20) + (256 << 10) {
            let appended = append_one(&mut log, 1, &batch(NOW.wall_ms, MANY), AppendOrigin::Client);
            length += appended.unwrap().size_bytes as u64;
        }
        let file = fs::File::open(path.join("events-0/00000000000000000000.log")).unwrap();
        file.sync_all().unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), length);
        (metadata.blocks() * 512).saturating_sub(length)
    };
    let as_it_grows = LogConfig::default();
    assert!(held(AMPLE_BYTES, &as_it_grows) > ROUNDING_BYTES);
    assert!(held(SHORT_BYTES, &as_it_grows) <= ROUNDING_BYTES);
    let whole = LogConfig {
        preallocate: true,
        segment_bytes: WHOLE_BYTES,
        ..LogConfig::default()
    };
    assert!(held(AMPLE_BYTES, &whole) > WHOLE_BYTES / 2);
    assert!(held(SHORT_BYTES, &whole) <= ROUNDING_BYTES);
}
