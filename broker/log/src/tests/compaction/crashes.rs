//! What a crash leaves of a pass, at each of its steps.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::PathBuf;

use parking_lot::Mutex;

use super::*;
use crate::disk::{Disk, Space, SystemDisk};
use crate::store::{Kind, Survive};

const KEYS: usize = 5;

/// A log whose first segments are to be merged into one.
fn filled() -> Fixture {
    let mut fixture = Fixture::with(compacted(0));
    for index in 0..100 {
        let key = format!("key-{}", index % KEYS);
        fixture.append_batch(1, keyed(&[(&key, Some(&index.to_string()))], Compression::None));
    }
    fixture
}

/// The steps of a swap on what a crash before it has left: `.swap`, then each old segment, then `.log`.
fn swap_steps(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let cleaned = names.iter().find(|name| name.ends_with(".cleaned")).unwrap();
    let swap = cleaned.replace(".cleaned", ".swap");
    let log = &cleaned[..cleaned.find(".log").unwrap() + 4];
    let path = |name: &str| folder.join(name);
    // The first segments are merged as long as they fit one.
    let mut size_bytes = 0;
    let mut old = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".log")) {
        size_bytes += fs::metadata(path(name)).unwrap().len();
        if size_bytes > small_segments().segment_bytes {
            break;
        }
        old.push((path(name), path(&format!("{name}.deleted"))));
    }
    let mut steps = vec![(path(cleaned), path(&swap))];
    steps.extend(old.into_iter().rev());
    steps.push((path(&swap), path(log)));
    steps
}

/// The directory that a kill leaves right before the first swap of a pass.
fn killed_before_swap(fixture: &mut Fixture) -> PathBuf {
    let plan = fixture.log.compaction_plan(NOW).unwrap().unwrap();
    let copy_to = fixture.path.with_file_name(Uuid::new_v4().to_string());
    let outcome = plan
        .run(PassMemory::default(), &mut |_| Go::On, &mut |_| {
            copy(&fixture.path, &copy_to);
            Ok(false)
        })
        .unwrap();
    assert!(outcome.is_none());
    copy_to
}

fn latest(log: &Log) -> BTreeMap<String, (i64, Option<String>)> {
    entries(log)
        .into_iter()
        .map(|(offset, key, value)| (key, (offset, value)))
        .collect()
}

#[test]
fn a_swap_is_finished_or_never_was() {
    for checkpointed in [false, true] {
        let mut fixture = filled();
        if checkpointed {
            fixture.log.checkpoint(NOW).unwrap();
            fixture.directory.flush_index().unwrap();
        }
        let before = entries(&fixture.log);
        let killed = killed_before_swap(&mut fixture);
        let steps = swap_steps(&killed.join("events-0")).len();
        assert!(steps >= 3);
        let mut outcomes = Vec::new();
        for done in 0..=steps {
            let path = killed.with_file_name(Uuid::new_v4().to_string());
            copy(&killed, &path);
            for (from, to) in swap_steps(&path.join("events-0")).iter().take(done) {
                fs::rename(from, to).unwrap();
            }
            let mut opened = Fixture::at(fixture._temporary.clone(), path, fixture.config.clone());
            let report = opened.log.take_recovery_report();
            assert!(
                report.is_none_or(|report| report.truncated_bytes == 0 && report.removed_segments == 0),
                "{done}"
            );
            let after = entries(&opened.log);
            assert_eq!(latest(&opened.log), latest(&fixture.log), "{done}");
            assert_eq!(opened.log.log_end_offset(), 100);
            outcomes.push(after.len());
            assert_eq!(after == before, done == 0, "after {done} steps");
            opened.directory.purge_deleted(MUCH_LATER).unwrap();
            assert_eq!(opened.segment_files().len(), opened.log.segments());
            opened.log.set_high_watermark(100);
            assert!(opened.compact(NOW).segments > 0);
            assert_eq!(latest(&opened.kill().log), latest(&fixture.log));
            assert_eq!(latest(&opened.restart().log), latest(&fixture.log));
        }
        assert!(
            outcomes[1..].iter().all(|count| *count == outcomes[1]),
            "{outcomes:?}"
        );
    }
}

#[test]
fn a_swap_is_finished_without_the_index_too() {
    let mut fixture = filled();
    let killed = killed_before_swap(&mut fixture);
    let folder = killed.join("events-0");
    for (from, to) in swap_steps(&folder).iter().take(2) {
        fs::rename(from, to).unwrap();
    }
    fs::remove_dir_all(killed.join("odradek-index")).unwrap();
    let opened = Fixture::at(fixture._temporary.clone(), killed, fixture.config.clone());
    assert_eq!(latest(&opened.log), latest(&fixture.log));
    assert!(entries(&opened.log).len() < 100);
}

#[test]
fn a_swap_from_before_writers_had_ids_is_finished() {
    let mut fixture = filled();
    fixture.compact(NOW);
    for index in 0..100 {
        fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
    }
    let mut size_bytes = 0;
    let segments = fixture.log.segments.values();
    let merged = segments.take_while(|segment| {
        size_bytes += segment.footer.size_bytes;
        size_bytes <= small_segments().segment_bytes
    });
    let end_offset = merged.last().unwrap().footer.next_offset;
    let note = fixture.log.key.key(Kind::Swap, &[0]);
    let store = &fixture.log.directory.store;
    store
        .put(note, end_offset.to_be_bytes(), Survive::PowerLoss)
        .unwrap();
    let killed = killed_before_swap(&mut fixture);
    let steps = swap_steps(&killed.join("events-0"));
    let (_, log) = steps.last().unwrap();
    let swap = PathBuf::from(format!("{}.swap", log.display()));
    fs::rename(&steps[0].0, &swap).unwrap();
    // The first of the old segments went first.
    let (first, deleted) = &steps[steps.len() - 2];
    assert!(steps.len() > 3 && first == log);
    fs::rename(first, deleted).unwrap();
    let opened = Fixture::at(fixture._temporary.clone(), killed, fixture.config.clone());
    assert_eq!(latest(&opened.log), latest(&fixture.log));
    assert!(!swap.exists() && steps[1..].iter().all(|(old, _)| old == log || !old.exists()));
    opened.directory.purge_deleted(MUCH_LATER).unwrap();
    assert_eq!(opened.segment_files().len(), opened.log.segments());
}

#[test]
fn what_a_killed_pass_has_left_does_not_take_the_next_one_s_file_with_it() {
    let fixture = filled();
    let path = fixture.path.with_file_name("killed");
    copy(&fixture.path, &path);
    let folder = path.join("events-0");
    let names = ["00000000000000000000.log.cleaned".to_owned(), {
        let id = Uuid::from_u128(7).simple();
        format!("00000000000000000000.log.{id}.cleaned")
    }];
    for name in &names {
        fs::write(folder.join(name), b"half").unwrap();
    }
    let mut opened = Fixture::at(fixture._temporary.clone(), path, fixture.config.clone());
    assert!(names.iter().all(|name| !folder.join(name).exists()));
    opened.log.set_high_watermark(100);
    let plan = opened.log.compaction_plan(NOW).unwrap().unwrap();
    let mut pace = |_| {
        // The file of the first group is there, or is about to be.
        opened.directory.purge_deleted(MUCH_LATER).unwrap();
        Go::On
    };
    let memory = PassMemory {
        io_bytes: 100,
        ..PassMemory::default()
    };
    let outcome = plan.run(memory, &mut pace, &mut |cleaned| {
        opened.log.replace_segments(cleaned)
    });
    assert!(outcome.unwrap().is_some());
    assert_eq!(latest(&opened.log), latest(&fixture.log));
}

#[test]
fn a_pass_that_was_overtaken_before_its_swap_leaves_nothing_to_be_read_anew() {
    let mut fixture = filled();
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    let plan = fixture.log.compaction_plan(NOW).unwrap().unwrap();
    let outcome = plan.run(PassMemory::default(), &mut |_| Go::On, &mut |cleaned| {
        fixture.log.stop_compaction();
        fixture.log.replace_segments(cleaned)
    });
    assert!(outcome.unwrap().is_none());
    assert_eq!(fixture.kill().log.take_recovery_report(), None);
}

#[test]
fn a_recovery_point_in_a_segment_that_was_replaced_cuts_nothing() {
    // Whether the index has heard of the swap when the process dies.
    for flushed in [false, true] {
        let mut fixture = filled();
        fixture.log.checkpoint(NOW).unwrap();
        fixture.directory.flush_index().unwrap();
        let active = fixture.log.active_segment_base_offset();
        for index in 0..50 {
            fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
        }
        fixture.compact(NOW);
        assert!(fixture.log.cleaner_offset() > active);
        if flushed {
            fixture.directory.flush_index().unwrap();
        }
        let mut killed = fixture.kill();
        let report = killed.log.take_recovery_report().unwrap();
        assert_eq!(
            (report.truncated_bytes, report.removed_segments),
            (0, 0),
            "{report:?}"
        );
        assert_eq!(entries(&killed.log), entries(&fixture.log));
        assert_eq!(killed.log.log_end_offset(), 150);
    }
}

#[test]
fn a_checkpoint_that_a_swap_overtook_names_no_segment_that_is_gone() {
    let mut fixture = filled();
    let active = fixture.log.active_segment_base_offset();
    let plan = fixture.log.checkpoint_plan(NOW).unwrap().unwrap();
    for index in 0..50 {
        fixture.append_batch(1, keyed(&[("a", Some(&index.to_string()))], Compression::None));
    }
    fixture.compact(NOW);
    assert!(fixture.log.cleaner_offset() > active);
    plan.sync().unwrap();
    fixture.log.complete_flush(plan).unwrap();
    fixture.directory.flush_index().unwrap();
    let mut killed = fixture.kill();
    let report = killed.log.take_recovery_report().unwrap();
    assert_eq!(
        (report.truncated_bytes, report.removed_segments),
        (0, 0),
        "{report:?}"
    );
    assert_eq!(entries(&killed.log), entries(&fixture.log));
    killed.log.checkpoint(NOW).unwrap();
    killed.directory.flush_index().unwrap();
    assert_eq!(killed.kill().log.take_recovery_report(), None);
}

#[test]
fn the_cleaner_offset_survives() {
    let mut fixture = filled();
    fixture.compact(NOW);
    let offset = fixture.log.cleaner_offset();
    assert!(offset > 80);
    let killed = fixture.kill();
    assert_eq!(killed.log.cleaner_offset(), offset);
    assert_eq!(killed.restart().log.cleaner_offset(), offset);
}

#[test]
fn a_cleaner_offset_above_the_end_is_reset() {
    let mut fixture = filled();
    fixture.compact(NOW);
    let offset = fixture.log.cleaner_offset();
    let segments = fixture.segment_files();
    let holds_records = |name: &&String| {
        let path = fixture.path.join("events-0").join(name);
        fs::metadata(path).unwrap().len() > 0
    };
    let first = segments.iter().find(holds_records).unwrap().clone();
    let mut damaged = fixture.damage(|folder| {
        let path = folder.join(&first);
        let mut bytes = fs::read(&path).unwrap();
        bytes[70] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    assert!(damaged.log.log_end_offset() < offset);
    assert_eq!(damaged.log.cleaner_offset(), damaged.log.log_start_offset());
    for index in 0..150 {
        damaged.append_batch(2, keyed(&[("a", Some(&index.to_string()))], Compression::None));
    }
    assert_eq!(damaged.kill().log.cleaner_offset(), 0, "it stays reset");
    assert!(damaged.compact(NOW).segments > 0);
}

/// A disk that remembers which files a folder had when its names were flushed, and which files were flushed themselves.
#[derive(Debug)]
struct NamingDisk {
    folder: PathBuf,
    names: Mutex<BTreeSet<String>>,
    flushed: Mutex<BTreeSet<u64>>,
}

impl Disk for NamingDisk {
    fn sync_data(&self, file: &fs::File) -> io::Result<()> {
        self.flushed.lock().insert(file.metadata()?.ino());
        SystemDisk.sync_data(file)
    }

    fn sync_all(&self, file: &fs::File) -> io::Result<()> {
        if file.metadata()?.is_dir() {
            let entries = fs::read_dir(&self.folder)?.map(|entry| entry.unwrap().file_name());
            *self.names.lock() = entries.map(|name| name.into_string().unwrap()).collect();
        }
        SystemDisk.sync_all(file)
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        SystemDisk.space(directory)
    }
}

#[test]
fn what_a_pass_wrote_and_what_it_leaves_older_records_out_for_are_on_disk_before_a_swap() {
    let temporary = TempDir::new().unwrap();
    let disk = Arc::new(NamingDisk {
        folder: temporary.path().join("events-0"),
        names: Mutex::default(),
        flushed: Mutex::default(),
    });
    let options = LogDirectoryOptions {
        disk: disk.clone(),
        ..LogDirectoryOptions::default()
    };
    let directory = LogDirectory::open(temporary.path(), options, logger()).unwrap();
    let mut log = directory.open_partition(identity(), compacted(0), NOW).unwrap();
    for index in 0..100 {
        let one = keyed(&[(&format!("key-{index}"), Some("value"))], Compression::None);
        append_one(&mut log, 1, &one, AppendOrigin::Client).unwrap();
    }
    log.set_high_watermark(100);
    let segments = fs::read_dir(&disk.folder).unwrap().map(|entry| entry.unwrap());
    let mut segments: Vec<_> = segments
        .filter(|entry| entry.path().extension().is_some_and(|it| it == "log"))
        .map(|entry| (entry.file_name(), entry.ino()))
        .collect();
    segments.sort();
    // The active one is no part of the pass.
    segments.pop();
    assert!(segments.len() > 2 && log.recovery_point() == 0);
    let plan = log.compaction_plan(NOW).unwrap().unwrap();
    let mut swaps = 0;
    let outcome = plan.run(PassMemory::default(), &mut |_| Go::On, &mut |cleaned| {
        let path = cleaned.path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(disk.names.lock().contains(name), "{name}");
        let flushed = disk.flushed.lock();
        assert!(
            segments.iter().all(|(_, file)| flushed.contains(file)),
            "{segments:?}"
        );
        swaps += 1;
        log.replace_segments(cleaned)
    });
    assert!(outcome.unwrap().is_some() && swaps > 1);
}
