//! Disks that are nearly full.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::compact::PassMemory;
use crate::config::CleanupPolicy;
use crate::disk::{Disk, Space, SystemDisk};
use crate::error::LogError;

const TOTAL_BYTES: u64 = 1 << 40;
const RESERVE_BYTES: u64 = 1 << 20;

/// A disk with as much room as a test wants.
#[derive(Debug)]
pub(super) struct SmallDisk(pub(super) AtomicU64);

impl Disk for SmallDisk {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync_data(file)
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync_all(file)
    }

    fn space(&self, _directory: &Path) -> io::Result<Space> {
        Ok(Space {
            free_bytes: self.0.load(Ordering::SeqCst),
            total_bytes: TOTAL_BYTES,
        })
    }
}

fn append(log: &mut Log) -> Result<AppendInfo, AppendError> {
    append_one(log, 1, &batch(NOW.wall_ms, 1), AppendOrigin::Client)
}

#[test]
fn clients_leave_the_reserve_alone_and_go_on_once_there_is_room() {
    let folder = TempDir::new().unwrap();
    let disk = Arc::new(SmallDisk(AtomicU64::new(RESERVE_BYTES + 10)));
    let options = LogDirectoryOptions {
        disk: disk.clone(),
        reserve_bytes: RESERVE_BYTES,
        ..LogDirectoryOptions::default()
    };
    let directory = LogDirectory::open(folder.path(), options, logger()).unwrap();
    let open = |partition, may_use_reserve| {
        let config = LogConfig {
            may_use_reserve,
            ..LogConfig::default()
        };
        let identity = PartitionIdentity::new("events", TOPIC_ID, partition);
        directory.open_partition(identity, config, NOW).unwrap()
    };
    let (mut of_clients, mut of_brokers) = (open(0, false), open(1, true));
    let refused = append(&mut of_clients).unwrap_err();
    let AppendError::Log(error @ LogError::NoRoom { .. }) = &refused else {
        panic!("{refused:?}");
    };
    assert!(error.is_disk_full());
    assert!(
        error.to_string().contains("odradek.log.dir.reserve.bytes"),
        "{error}"
    );
    assert_eq!(of_clients.log_end_offset(), 0);
    append(&mut of_brokers).unwrap();
    disk.0.store(RESERVE_BYTES + 10_000, Ordering::SeqCst);
    append(&mut of_clients).unwrap();
    // What the disk said is used up by appends, however small.
    let appended = (0..1_000).take_while(|_| append(&mut of_clients).is_ok()).count();
    assert_eq!(appended, 1_000, "the disk says each time that there is room");
    disk.0.store(RESERVE_BYTES, Ordering::SeqCst);
    let appended = (0..1_000).take_while(|_| append(&mut of_clients).is_ok()).count();
    assert!(appended < 1_000);
}

#[test]
fn a_directory_tells_its_room_and_whether_appends_are_refused() {
    let folder = TempDir::new().unwrap();
    let (disk, directory, mut log) = committed_segments(folder.path(), 1);
    let room_with = |free_bytes| {
        disk.0.store(free_bytes, Ordering::SeqCst);
        let room = directory.room().unwrap();
        assert_eq!(
            (room.space.free_bytes, room.space.total_bytes),
            (free_bytes, TOTAL_BYTES)
        );
        room.is_full
    };
    let (no_more, too_little) = (RESERVE_BYTES, RESERVE_BYTES + 10);
    assert!(
        !room_with(TOTAL_BYTES) && !room_with(too_little),
        "nobody wanted more"
    );
    assert!(room_with(no_more) && room_with(0));
    disk.0.store(too_little, Ordering::SeqCst);
    log.directory.room.forget();
    append(&mut log).unwrap_err();
    assert!(room_with(too_little), "it would be refused again");
    assert!(!room_with(TOTAL_BYTES), "although nobody has tried");
    append(&mut log).unwrap();
    assert!(!room_with(too_little));
}

/// A disk with room, and a log on it of so many segments, all of it committed.
fn committed_segments(folder: &Path, segments: usize) -> (Arc<SmallDisk>, LogDirectory, Log) {
    let disk = Arc::new(SmallDisk(AtomicU64::new(TOTAL_BYTES)));
    let options = LogDirectoryOptions {
        disk: disk.clone(),
        reserve_bytes: RESERVE_BYTES,
        ..LogDirectoryOptions::default()
    };
    let directory = LogDirectory::open(folder, options, logger()).unwrap();
    let mut log = directory
        .open_partition(identity(), small_segments(), NOW)
        .unwrap();
    while log.segments() < segments {
        append(&mut log).unwrap();
    }
    log.set_high_watermark(log.log_end_offset());
    (disk, directory, log)
}

#[test]
fn removed_segments_go_at_once_where_room_is_short() {
    let folder = TempDir::new().unwrap();
    let (disk, directory, mut log) = committed_segments(folder.path(), 4);
    log.delete_records_before(log.log_end_offset()).unwrap();
    assert!(log.retention(NOW).unwrap() > 0);
    assert_eq!(directory.purge_deleted(NOW).unwrap(), 0, "file.delete.delay.ms");
    disk.0.store(0, Ordering::SeqCst);
    assert!(directory.purge_deleted(NOW).unwrap() > 0);
}

/// Who is refused leaves a little more than the reserve.
#[test]
fn removed_segments_go_at_once_while_appends_are_refused() {
    let folder = TempDir::new().unwrap();
    let (disk, directory, mut log) = committed_segments(folder.path(), 4);
    log.delete_records_before(log.log_end_offset()).unwrap();
    assert!(log.retention(NOW).unwrap() > 0);
    disk.0.store(RESERVE_BYTES + 10, Ordering::SeqCst);
    assert_eq!(directory.purge_deleted(NOW).unwrap(), 0, "nobody wants more");
    log.directory.room.forget();
    append(&mut log).unwrap_err();
    assert!(directory.purge_deleted(NOW).unwrap() > 0);
}

#[test]
fn a_compaction_leaves_the_reserve_alone() {
    let folder = TempDir::new().unwrap();
    let (disk, _directory, mut log) = committed_segments(folder.path(), 4);
    let config = LogConfig {
        cleanup_policy: CleanupPolicy::COMPACT,
        min_cleanable_dirty_ratio: 0.0,
        ..small_segments()
    };
    log.set_config(config);
    let pass = |log: &mut Log| log.compact(NOW, PassMemory::default());
    disk.0.store(RESERVE_BYTES, Ordering::SeqCst);
    log.directory.room.forget();
    let refused = pass(&mut log).unwrap_err();
    assert!(refused.is_disk_full(), "{refused}");
    assert_eq!(log.cleaner_offset(), 0);
    disk.0.store(TOTAL_BYTES, Ordering::SeqCst);
    log.directory.room.forget();
    assert!(pass(&mut log).unwrap().segments > 0);
}

#[test]
fn a_repair_leaves_the_reserve_alone() {
    let (folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (disk, _directory, mut log) = committed_segments(folder.path(), 3);
    copy(folder.path(), elsewhere.path());
    let healthy = open(elsewhere.path())
        .open_partition(identity(), small_segments(), NOW)
        .unwrap();
    let segment = log.sealed_segment_from(0).unwrap();
    let file = fs::OpenOptions::new().write(true).open(segment.path()).unwrap();
    io::Write::write_all(&mut &file, b"damage").unwrap();
    let finding = segment.check(&mut |_| crate::compact::Go::On).unwrap();
    assert!(log.note_finding(&segment, finding).unwrap().is_some());
    let size_bytes = log.segments[&0].footer.size_bytes;
    let is_full = |refused: Result<(), LogError>| refused.is_err_and(|error| error.is_disk_full());
    disk.0.store(RESERVE_BYTES + size_bytes - 1, Ordering::SeqCst);
    assert!(is_full(log.begin_repair(NOW).map(|_| ())));
    disk.0.store(RESERVE_BYTES + size_bytes, Ordering::SeqCst);
    let mut repair = log.begin_repair(NOW).unwrap().unwrap();
    // Others have taken it meanwhile; what the disk has said before is used up.
    disk.0.store(RESERVE_BYTES, Ordering::SeqCst);
    log.directory.room.forget();
    let slice = healthy.read_plan(0, 300, i64::MAX, MinOneBatch::Yes).unwrap();
    let Err(AppendError::Log(error)) = repair.append(NOW, &slice.read().unwrap()) else {
        panic!("it would take the reserve")
    };
    assert!(is_full(Err(error)));
    drop(repair);
    disk.0.store(RESERVE_BYTES + 10_000, Ordering::SeqCst);
    append(&mut log).unwrap();
    log.set_high_watermark(log.log_end_offset());
    assert!(log.can_repair() && log.begin_repair(NOW).unwrap().is_some());
}

#[test]
fn records_are_appended_though_the_index_has_no_room_for_their_epoch() {
    let mut fixture = Fixture::new();
    fixture.append(1);
    fixture.log.checkpoint(NOW).unwrap();
    fixture.fail_write(1);
    assert_eq!(fixture.append_batch(2, batch(1_000, 1)).first_offset, 1);
    fixture.append_batch(2, batch(1_000, 1));
    let epochs = fixture.log.epochs().clone();
    assert_eq!(epochs.latest().unwrap().start_offset, 1);
    for fixture in [fixture.kill(), fixture.restart()] {
        assert_eq!((fixture.log.epochs(), fixture.contents().len()), (&epochs, 3));
    }
}

#[test]
fn entries_that_the_index_has_no_room_for_stay_until_it_has() {
    let mut fixture = Fixture::with(LogConfig {
        index_interval_bytes: 1,
        ..LogConfig::default()
    });
    let assert_indexed = |log: &Log, base_offset: i64, until: i64| {
        for offset in 1..until {
            let offset = u32::try_from(offset).unwrap();
            let index = &log.segments[&base_offset].index;
            let found = index.floor_offset(&log.place(base_offset), offset).unwrap();
            assert_eq!(found.map(|entry| entry.relative_offset), Some(offset));
        }
    };
    // The first batch of a segment needs no entry.
    (0..1_024).for_each(|_| _ = fixture.append(1));
    fixture.fail_write(1);
    assert_eq!(
        fixture.append(1).first_offset,
        1_024,
        "it is written, and said to be"
    );
    assert_indexed(&fixture.log, 0, 1_025);
    fixture.fail_write(1);
    (0..255).for_each(|_| _ = fixture.append(1));
    assert!(
        fixture.is_write_awaited(),
        "the index is not asked with every append"
    );
    fixture.append(1);
    assert!(!fixture.is_write_awaited());
    assert_indexed(&fixture.log, 0, 1_281);
    (0..300).for_each(|_| _ = fixture.append(1));
    assert_indexed(&fixture.log, 0, 1_581);
    fixture.fail_write(1);
    fixture.log.checkpoint(NOW).unwrap_err();
    fixture.fail_write(1);
    fixture.log.roll(NOW).unwrap_err();
    assert_indexed(&fixture.log, 0, 1_581);
    fixture.log.roll(NOW).unwrap();
    let restarted = fixture.restart();
    assert_indexed(&restarted.log, 0, 1_581);
}
