//! Partitions that the metadata does not know: their records stay, and are in nobody's way.

use super::*;

fn strays(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut strays: Vec<_> = entries
        .filter(|path| path.to_str().unwrap().ends_with("-stray"))
        .collect();
    strays.sort();
    strays
}

#[test]
fn a_stray_partition_keeps_its_records_and_is_in_nobody_s_way() {
    let mut fixture = Fixture::with(small_segments());
    for sequence in 0..30 {
        fixture.append_batch(1, producer_batch(7, 0, sequence, true));
    }
    let expected = fixture.contents();
    fixture.log.close_clean(NOW).unwrap();
    fixture.directory.set_stray(&identity()).unwrap();
    assert!(fixture.directory.partitions().is_empty() && fixture.directory.unopened().is_empty());
    assert_eq!(fixture.directory.purge_deleted(MUCH_LATER).unwrap(), 0);
    assert_eq!(fixture.directory.stray_partitions(), 1);

    // The very partition is made anew, and nothing that the index knew of it is left.
    let open = |directory: &LogDirectory| {
        let opened = directory.open_partition(identity(), small_segments(), NOW);
        opened.unwrap()
    };
    let mut anew = open(&fixture.directory);
    append_one(&mut anew, 1, &batch(1, 1), AppendOrigin::Client).unwrap();
    assert_eq!((anew.log_end_offset(), anew.producers().len()), (1, 0));
    let killed = fixture.path.with_file_name("killed");
    copy(&fixture.path, &killed);
    let directory = super::open(&killed);
    assert_eq!(directory.partitions(), [identity()]);
    assert_eq!(directory.stray_partitions(), 1);
    assert_eq!(directory.purge_deleted(MUCH_LATER).unwrap(), 0);
    let mut anew = open(&directory);
    assert_eq!((anew.log_end_offset(), anew.producers().len()), (1, 0));
    directory.delete_partition(&mut anew).unwrap();
    assert!(directory.close_clean().unwrap());
    drop((anew, directory));

    // The metadata knows it again, and the folder has its old name.
    let [stray] = strays(&killed).try_into().unwrap();
    fs::rename(stray, killed.join("events-0")).unwrap();
    let directory = super::open(&killed);
    assert_eq!(directory.stray_partitions(), 0);
    let log = open(&directory);
    assert_eq!(contents(&log), expected);
    assert_eq!(log.producers().get(7).unwrap().last_sequence(), 29);
}

#[test]
fn a_folder_in_the_way_of_a_topic_of_the_same_name_is_kept() {
    let mut fixture = Fixture::new();
    fixture.append(5);
    fixture.log.close_clean(NOW).unwrap();
    let recreated = PartitionIdentity::new("events", Uuid::from_u128(43), 0);
    let log = fixture
        .directory
        .open_partition(recreated, LogConfig::default(), NOW)
        .unwrap();
    assert_eq!(log.log_end_offset(), 0);
    fixture.directory.purge_deleted(MUCH_LATER).unwrap();
    let [stray] = strays(&fixture.path).try_into().unwrap();
    let segment = stray.join("00000000000000000000.log");
    assert!(fs::metadata(segment).unwrap().len() > 0, "its records are there");
    fs::remove_dir_all(stray).unwrap();
    assert_eq!(fixture.directory.stray_partitions(), 0, "somebody has removed it");
}

/// What stops in the middle of a swap is finished, also where a clean stop came between.
#[test]
fn a_stray_partition_that_was_killed_while_it_was_compacted_comes_back_whole() {
    let mut fixture = Fixture::new();
    fixture.append(5);
    fixture.log.roll(NOW).unwrap();
    let expected = fixture.contents();
    let Fixture {
        _temporary,
        path,
        directory,
        log,
        ..
    } = fixture;
    drop((log, directory));
    let segment = path.join("events-0/00000000000000000000.log");
    fs::rename(
        &segment,
        path.join(format!(
            "events-0/00000000000000000000.log.{}.swap",
            Uuid::new_v4().simple()
        )),
    )
    .unwrap();
    let directory = open(&path);
    directory.set_stray(&identity()).unwrap();
    assert!(directory.close_clean().unwrap());
    drop(directory);
    let [stray] = strays(&path).try_into().unwrap();
    fs::rename(stray, path.join("events-0")).unwrap();
    let directory = open(&path);
    assert!(directory.is_clean_start());
    let log = directory
        .open_partition(identity(), LogConfig::default(), NOW)
        .unwrap();
    assert_eq!(contents(&log), expected);
}
