//! The directory: locks, topic ids, clean stops, many partitions.

use super::*;
use crate::error::LogError;
use crate::store::PartitionKey;

#[test]
fn a_second_opener_is_told_which_directory_is_in_use() {
    let fixture = Fixture::new();
    // flock belongs to the open file, so a second open in this process stands for another process.
    let refused = LogDirectory::open(&fixture.path, LogDirectoryOptions::default(), logger());
    let Err(error @ LogError::Locked { .. }) = refused.map(|_| ()) else {
        panic!("the directory is locked")
    };
    assert!(
        error.to_string().contains(fixture.path.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_recreated_topic_does_not_get_the_old_records() {
    let mut fixture = Fixture::new();
    fixture.append(5);
    fixture.log.close_clean(NOW).unwrap();
    let recreated = PartitionIdentity::new("events", Uuid::from_u128(43), 0);
    let mut log = fixture
        .directory
        .open_partition(recreated.clone(), LogConfig::default(), NOW)
        .unwrap();
    assert_eq!((log.log_end_offset(), log.segments()), (0, 0));
    one_record(&mut log);
    assert_eq!(fixture.directory.partitions(), [recreated]);
    assert_eq!(fixture.directory.open_logs(), 1);
    let text = fs::read_to_string(fixture.path.join("events-0/partition.metadata")).unwrap();
    assert_eq!(text, "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAKw\n");
}

#[test]
fn a_log_whose_namesake_is_open_is_opened_once_that_is_deleted() {
    let mut fixture = Fixture::new();
    fixture.append(5);
    let recreated = PartitionIdentity::new("events", Uuid::from_u128(43), 0);
    let open = || {
        let directory = fixture.directory.clone();
        directory.open_partition(recreated.clone(), LogConfig::default(), NOW)
    };
    let refused = open();
    assert!(matches!(refused, Err(LogError::Open(_))), "{refused:?}");
    fixture.directory.delete_partition(&mut fixture.log).unwrap();
    let mut log = open().unwrap();
    one_record(&mut log);
    // What is deleted late, or twice, is not what bears its name by now.
    fixture.directory.delete_partition(&mut fixture.log).unwrap();
    fixture.directory.delete_unopened(&identity()).unwrap();
    assert_eq!(fixture.directory.open_logs(), 1);
    assert_eq!(fixture.directory.partitions(), std::slice::from_ref(&recreated));
    assert_eq!(contents(&log).len(), 1);
    fixture.directory.purge_deleted(MUCH_LATER).unwrap();
    assert_eq!(fixture.segment_files().len(), 1);
}

#[test]
fn a_deleted_partition_is_gone_after_a_kill() {
    let mut fixture = Fixture::new();
    fixture.append(5);
    fixture.directory.delete_partition(&mut fixture.log).unwrap();
    assert!(fixture.directory.partitions().is_empty());
    assert!(matches!(
        as_follower(&mut fixture.log, &[]),
        Err(crate::error::AppendError::Log(LogError::Closed(_)))
    ));
    let path = fixture.path.with_file_name("killed");
    copy(&fixture.path, &path);
    let killed = open(&path);
    assert!(killed.partitions().is_empty());
    assert_eq!(
        killed.purge_deleted(MUCH_LATER).unwrap(),
        1,
        "the renamed folder is found again"
    );
    let log = killed
        .open_partition(identity(), LogConfig::default(), NOW)
        .unwrap();
    assert_eq!(log.log_end_offset(), 0);
}

/// A partition that leaves and comes back is the same one to the index.
#[test]
fn what_was_under_way_when_a_partition_was_deleted_is_not_the_next_one_s() {
    let mut fixture = Fixture::new();
    (0..5).for_each(|_| _ = fixture.append(1));
    let plan = fixture.log.checkpoint_plan(NOW).unwrap().unwrap();
    let high_watermark = fixture.log.high_watermark_to_checkpoint();
    assert!(high_watermark.is_some());
    fixture.directory.delete_partition(&mut fixture.log).unwrap();
    plan.sync().unwrap();
    fixture.log.complete_flush(plan).unwrap();
    let persisted = || {
        let key = PartitionKey::new(TOPIC_ID, 0);
        fixture.directory.shared.store.load(&key).unwrap()
    };
    assert!(persisted().state.is_none(), "it was deleted");
    fixture
        .directory
        .checkpoint_high_watermarks(high_watermark)
        .unwrap();
    let mut again = fixture
        .directory
        .open_partition(identity(), LogConfig::default(), NOW)
        .unwrap();
    one_record(&mut again);
    assert_eq!(persisted().high_watermark, None);
    assert_eq!(fixture.kill().log.high_watermark(), 0);
}

#[test]
fn the_clean_note_is_written_only_when_every_log_was_closed() {
    let mut fixture = Fixture::new();
    fixture.append(1);
    assert!(fixture.directory.is_clean_start(), "a new directory is clean");
    assert!(!fixture.directory.close_clean().unwrap(), "the log is still open");
    let fixture = fixture.restart();
    assert!(fixture.directory.is_clean_start());
    let Fixture {
        _temporary,
        path,
        directory,
        log,
        ..
    } = fixture;
    drop((log, directory));
    let directory = open(&path);
    assert!(!directory.is_clean_start(), "the log was dropped, not closed");
    assert!(
        !directory.close_clean().unwrap(),
        "KAFKA-15375: not every log was recovered"
    );
    drop(directory);
    let directory = open(&path);
    assert!(!directory.is_clean_start());
    let mut log = directory
        .open_partition(identity(), LogConfig::default(), NOW)
        .unwrap();
    log.close_clean(NOW).unwrap();
    assert!(directory.close_clean().unwrap());
    drop((log, directory));
    assert!(open(&path).is_clean_start());
}

#[test]
fn a_partition_without_records_is_nothing_on_disk() {
    let temporary = TempDir::new().unwrap();
    let names = || {
        let entries = fs::read_dir(temporary.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let directory = open(temporary.path());
    let before = names();
    let mut log = directory
        .open_partition(identity(), LogConfig::default(), NOW)
        .unwrap();
    log.assign_epoch(3).unwrap();
    log.checkpoint(NOW).unwrap();
    assert!(log.high_watermark_to_checkpoint().is_none());
    assert!(directory.partitions().is_empty() && !directory.holds(&identity()));
    drop(log);
    assert_eq!(names(), before);
    let mut log = directory
        .open_partition(identity(), LogConfig::default(), NOW)
        .unwrap();
    log.assign_epoch(4).unwrap();
    one_record(&mut log);
    assert!(directory.holds(&identity()));
    assert_eq!(directory.partitions(), [identity()]);
    let epochs = log.epochs().clone();
    log.close_clean(NOW).unwrap();
    assert!(
        directory.close_clean().unwrap(),
        "dropping a log without records loses nothing"
    );
    drop((log, directory));
    let log = open(temporary.path())
        .open_partition(identity(), LogConfig::default(), NOW)
        .unwrap();
    assert_eq!(log.epochs(), &epochs, "the folder brought the epoch along");
}

#[test]
fn a_deleted_partition_without_records_leaves_nothing() {
    let temporary = TempDir::new().unwrap();
    let directory = open(temporary.path());
    let mut log = directory
        .open_partition(identity(), LogConfig::default(), NOW)
        .unwrap();
    directory.delete_partition(&mut log).unwrap();
    assert_eq!(directory.purge_deleted(MUCH_LATER).unwrap(), 0);
    assert!(directory.close_clean().unwrap());
}

#[test]
fn after_a_clean_stop_no_file_is_looked_at() {
    let mut fixture = Fixture::with(small_segments());
    for _ in 0..40 {
        fixture.append(1);
    }
    let (end, segments) = (fixture.log.log_end_offset(), fixture.segment_files());
    fixture.log.close_clean(NOW).unwrap();
    assert!(fixture.directory.close_clean().unwrap());
    let mut started = fixture.damage(|folder| fs::remove_file(folder.join(&segments[1])).unwrap());
    assert!(started.log.take_recovery_report().is_none());
    assert_eq!(
        (started.log.log_end_offset(), started.log.segments()),
        (end, segments.len())
    );
    let second = crate::segment::base_offset_of(&segments[1]).unwrap();
    let read = started.log.read_plan(second, 1, i64::MAX, MinOneBatch::Yes);
    let Err(crate::error::ReadError::Log(error @ LogError::Corrupt { .. })) = read else {
        panic!("the loss is the partition's alone: {read:?}")
    };
    assert!(error.to_string().contains("gone"), "{error}");
}

#[test]
fn nothing_is_appended_behind_a_hole() {
    let mut fixture = Fixture::new();
    (0..5).for_each(|_| _ = fixture.append(1));
    let size_bytes = fixture.log.size_bytes();
    let path = fixture.log.folder().join(&fixture.segment_files()[0]);
    let fixture = fixture.restart();
    // Somebody has brought back a part of it alone.
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(size_bytes - 1)
        .unwrap();
    let mut started = fixture.restart();
    let refused = append_one(&mut started.log, 1, &batch(1, 1), AppendOrigin::Client);
    let Err(AppendError::Log(error @ LogError::Corrupt { .. })) = refused else {
        panic!("the loss is the partition's alone: {refused:?}")
    };
    assert!(error.to_string().contains("the file ends there"), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().len(), size_bytes - 1);
}

#[test]
fn a_clean_stop_leaves_no_deleted_segment_behind() {
    let mut fixture = Fixture::with(small_segments());
    for _ in 0..40 {
        fixture.append(1);
    }
    let end = fixture.log.log_end_offset();
    fixture.log.delete_records_before(end).unwrap();
    assert!(fixture.log.retention(NOW).unwrap() > 0);
    let count = |fixture: &Fixture| fs::read_dir(fixture.path.join("events-0")).unwrap().count();
    let before = count(&fixture);
    let fixture = fixture.restart();
    assert_eq!(
        (count(&fixture), before > 2),
        (2, true),
        "the active segment and partition.metadata"
    );
}

#[test]
fn more_partitions_than_open_files_can_be_written() {
    const PARTITIONS: i32 = 20;
    let temporary = TempDir::new().unwrap();
    let options = LogDirectoryOptions {
        open_files_max: 4,
        ..LogDirectoryOptions::default()
    };
    let directory = LogDirectory::open(temporary.path(), options, logger()).unwrap();
    let open = |partition| {
        let identity = PartitionIdentity::new("many", TOPIC_ID, partition);
        directory
            .open_partition(identity, LogConfig::default(), NOW)
            .unwrap()
    };
    let mut logs: Vec<Log> = (0..PARTITIONS).map(open).collect();
    for _ in 0..3 {
        for log in &mut logs {
            one_record(log);
            assert!(log.directory.files.len() <= 4);
        }
    }
    for log in &mut logs {
        assert_eq!(contents(log).len(), 3);
        log.checkpoint(NOW).unwrap();
        assert_eq!(log.recovery_point(), 3);
    }
    directory.close_unused_files();
    directory.close_unused_files();
    assert_eq!(logs[0].directory.files.len(), 0);
}

#[test]
fn a_folder_without_index_or_metadata_is_taken_over() {
    let mut fixture = Fixture::new();
    fixture.append(5);
    let taken = fixture.damage(|folder| {
        fs::remove_dir_all(folder.with_file_name("odradek-index")).unwrap();
        fs::remove_file(folder.join("partition.metadata")).unwrap();
    });
    assert_eq!(taken.log.log_end_offset(), 5);
    assert_eq!(taken.directory.partitions(), [identity()]);
}

#[test]
fn a_bad_block_of_the_index_is_mended_by_the_next_start() {
    let mut fixture = Fixture::new();
    fixture.append(5);
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    let Fixture {
        _temporary,
        path,
        directory,
        log,
        config,
    } = fixture;
    drop((log, directory));
    let names = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let index = names(&path.join("odradek-index"));
    for table in index
        .iter()
        .filter(|path| path.extension().is_some_and(|it| it == "sst"))
    {
        let mut bytes = fs::read(table).unwrap();
        bytes[5] ^= 0x10;
        fs::write(table, bytes).unwrap();
    }
    // What opening an index looks at is sound.
    let opened = LogDirectory::open(&path, LogDirectoryOptions::default(), logger());
    assert!(matches!(opened, Err(LogError::Directory { .. })));
    for is_rebuilt in [true, false] {
        let mut fixture = Fixture::at(_temporary.clone(), path.clone(), config.clone());
        let report = fixture.log.take_recovery_report();
        assert_eq!(report.is_some_and(|report| report.index_rebuilt), is_rebuilt);
        assert_eq!(fixture.contents().len(), 5);
        fixture.log.close_clean(NOW).unwrap();
        assert!(fixture.directory.close_clean().unwrap());
    }
    let is_marker = |path: &PathBuf| path.extension().is_some_and(|it| it == "corrupt");
    assert!(!names(&path).iter().any(is_marker));
}

#[test]
fn many_idle_partitions_cost_no_descriptor_and_open_fast() {
    const PARTITIONS: i32 = 1_000;
    let temporary = TempDir::new().unwrap();
    let directory = open(temporary.path());
    let mut logs = Vec::new();
    for partition in 0..PARTITIONS {
        let identity = PartitionIdentity::new("many", TOPIC_ID, partition);
        let mut log = directory
            .open_partition(identity, LogConfig::default(), NOW)
            .unwrap();
        append_one(&mut log, 0, &batch(1, 1), AppendOrigin::Client).unwrap();
        logs.push(log);
    }
    for log in &mut logs {
        log.close_clean(NOW).unwrap();
    }
    assert!(directory.close_clean().unwrap());
    drop((logs, directory));

    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let begun = std::time::Instant::now();
    let directory = open(temporary.path());
    let before = descriptors();
    let logs: Vec<Log> = directory
        .partitions()
        .into_iter()
        .map(|identity| {
            directory
                .open_partition(identity, LogConfig::default(), NOW)
                .unwrap()
        })
        .collect();
    println!("{PARTITIONS} partitions opened in {:?}", begun.elapsed());
    assert_eq!(logs.len(), PARTITIONS as usize);
    assert!(logs.iter().all(|log| log.log_end_offset() == 1));
    assert!(
        descriptors() < before + 64,
        "tests run side by side: a few descriptors may be theirs"
    );
}

/// Thousands of topics that come and go unwritten would fill the index with what there is nothing to forget of.
#[test]
fn a_log_that_is_nothing_on_disk_is_opened_without_a_word_to_the_index() {
    let fixture = Fixture::new();
    fixture.fail_write(1);
    let new = PartitionIdentity::new("new", Uuid::from_u128(44), 0);
    let mut log = fixture
        .directory
        .open_partition(new, LogConfig::default(), NOW)
        .unwrap();
    fixture.directory.delete_partition(&mut log).unwrap();
    assert!(fixture.is_write_awaited(), "something was written");
}

fn one_record(log: &mut Log) {
    append_one(log, 0, &batch(1, 1), AppendOrigin::Client).unwrap();
}
