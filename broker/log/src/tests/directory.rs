//! The directory: locks, topic ids, clean stops, many partitions.

use super::*;
use crate::error::LogError;

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
    let log = fixture
        .directory
        .open_partition(recreated.clone(), LogConfig::default(), NOW)
        .unwrap();
    assert_eq!((log.log_end_offset(), log.segments()), (0, 0));
    assert_eq!(fixture.directory.partitions(), [recreated]);
    assert_eq!(fixture.directory.purge_deleted(MUCH_LATER).unwrap(), 1);
    let text = fs::read_to_string(fixture.path.join("events-0/partition.metadata")).unwrap();
    assert_eq!(text, "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAKw\n");
}

#[test]
fn a_deleted_partition_is_gone_after_a_kill() {
    let mut fixture = Fixture::new();
    fixture.append(5);
    fixture.directory.delete_partition(&mut fixture.log).unwrap();
    assert!(fixture.directory.partitions().is_empty());
    assert!(matches!(
        fixture.log.append_as_follower(NOW, &[]),
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
