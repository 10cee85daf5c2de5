//! Moves between two log directories, over real logs and without threads: each test takes the turns itself.

use std::fs::File;
use std::path::Path;

use odradek_broker_log::disk::{Disk, Space, SystemDisk};

use super::flushing::GatedDisk;
use super::*;
use crate::replica::moving::{LeftBehind, MoveStep};
use crate::replicas::moving::Turn;

/// Turns that no move of these tests takes.
const TURNS_MAX: usize = 10_000;
/// Copies of a directory that is written to meanwhile.
const COPIES_MAX: usize = 1_000;

fn two_directories() -> Node {
    two_directories_with(&[], LogDirectoryOptions::default())
}

fn two_directories_with(overrides: &[(&str, &str)], options: LogDirectoryOptions) -> Node {
    let folder = Arc::new(TempDir::new().unwrap());
    let paths = [folder.path().join("a"), folder.path().join("b")];
    Node::at(folder, &paths, overrides, options)
}

/// Two directories on a disk whose flushes can be made to wait.
fn gated(overrides: &[(&str, &str)]) -> (Node, Arc<GatedDisk>) {
    let disk = Arc::new(GatedDisk::default());
    let options = LogDirectoryOptions {
        disk: disk.clone(),
        ..LogDirectoryOptions::default()
    };
    (two_directories_with(overrides, options), disk)
}

impl Node {
    fn directory(&self, at: usize) -> Arc<DataDirectory> {
        self.replicas.directories()[at].clone()
    }

    fn path(&self, at: usize) -> PathBuf {
        self.replicas.directories()[at].path().to_owned()
    }

    /// A topic in the first directory with so many records.
    fn filled(&mut self, name: &str, appends: usize) -> Arc<Replica> {
        let id = TopicPartition::new(name, 0);
        let first = self.directory(0);
        assert!(self.replicas.preferences.remember(id, &first));
        let replica = self.create(name, NODE).unwrap();
        (0..appends).for_each(|_| append_own(&replica));
        replica
    }

    /// Asks for a move; the controller records at once where to.
    fn alter(&mut self, name: &str, to: usize) -> Result<(), ErrorCode> {
        let outcome = self.ask(name, to);
        if outcome.is_ok() {
            self.record(name, to);
        }
        outcome
    }

    /// Asks for a move.
    fn ask(&self, name: &str, to: usize) -> Result<(), ErrorCode> {
        let outcome = self.replicas.alter_directory(name, 0, &self.directory(to));
        outcome.map_err(|error| error.code)
    }

    /// The controller records the directory of a topic's partition.
    fn record(&mut self, name: &str, directory: usize) {
        let id = self.directory(directory).id();
        self.change(|image| {
            let topic = Arc::make_mut(image.topics.get_mut(name).unwrap());
            let partition = Arc::make_mut(&mut topic.partitions[0]);
            partition.directories = vec![id, Uuid::nil()];
            partition.partition_epoch += 1;
        });
    }

    /// A replica in the first directory whose move to the second waits for the controller.
    fn awaiting(&mut self) -> Arc<Replica> {
        let replica = self.filled("t", 20);
        self.record("t", 0);
        self.ask("t", 1).unwrap();
        let queued = self.replicas.moves().next().unwrap();
        assert!(Arc::ptr_eq(&queued, &replica));
        self.advance_until(&replica, Turn::AwaitsRecord);
        replica
    }

    /// The directory that the controller is told of the only replica that it is told of.
    fn told(&self) -> Uuid {
        let told = self.replicas.assignments().take(NODE, self.replicas.failures());
        assert_eq!(told.len(), 1);
        directories(&told)[0].id
    }

    /// Removes what is left to a purge in a directory.
    fn purge(&self, directory: usize) {
        let now = odradek_common::time::Now {
            mono_ms: u64::MAX,
            wall_ms: 0,
        };
        let directory = self.directory(directory);
        directory.logs().unwrap().purge_deleted(now).unwrap();
    }

    /// How many copies there are in the second directory.
    fn copies(&self) -> usize {
        let entries = std::fs::read_dir(self.path(1)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with("-future")).count()
    }

    /// Takes turns until the move is over.
    fn finish(&self, replica: &Arc<Replica>) {
        self.advance_until(replica, Turn::Over);
    }

    fn advance_until(&self, replica: &Arc<Replica>, last: Turn) {
        let turns = (0..TURNS_MAX).map(|_| self.replicas.advance_move(replica));
        let found = turns.into_iter().find(|turn| *turn == last);
        assert_eq!(found, Some(last), "the move does not come to that");
    }

    /// Takes steps until the copy has taken the place; what is left is not removed yet.
    fn move_without_settling(&self, replica: &Arc<Replica>) -> LeftBehind {
        for _ in 0..TURNS_MAX {
            match replica.advance_move(clock::now()) {
                MoveStep::Copied(_) => {}
                MoveStep::Moved(left) => return *left,
                MoveStep::AwaitsRecord | MoveStep::Ended(_) | MoveStep::Failed(_) => panic!("it moves"),
            }
        }
        panic!("the move does not come to an end")
    }

    /// The node as it starts after a kill at this moment, before the first directory has forgotten what it held when `kept` was
    /// copied.
    fn kill_before_it_forgets(&self, kept: &Path) -> Node {
        let second = self.folder.path().join(Uuid::new_v4().to_string());
        copy(&self.path(1), &second);
        let paths = [kept.to_owned(), second];
        let mut node = Node::at(self.folder.clone(), &paths, &[], LogDirectoryOptions::default());
        let image = self.image.clone();
        node.change(|it| *it = image);
        node
    }

    /// What the replicas are after a kill at this moment, when one of the directories does not open any more.
    fn kill_without(&self, broken: usize) -> Arc<Replicas> {
        let copies = self.folder.path().join(Uuid::new_v4().to_string());
        let log = self.replicas.log.clone();
        let open = |at: usize| {
            if at == broken {
                return DataDirectory::failed(Uuid::nil(), self.folder.path().join("broken"));
            }
            let path = copies.join(at.to_string());
            copy(&self.path(at), &path);
            let logs = LogDirectory::open(&path, LogDirectoryOptions::default(), log.clone()).unwrap();
            DataDirectory::new(self.directory(at).id(), logs)
        };
        let directories = vec![open(0), open(1)];
        let image = Arc::new(ArcSwap::from_pointee(MetadataImage::default()));
        let replicas = Replicas::new(NODE, directories, Metrics::new(), image, log.clone());
        let everything = MetadataDelta::between(&MetadataImage::default(), &self.image);
        replicas.publish(&everything, &self.image, &self.config, true);
        replicas
    }

    /// The node as it starts after a kill at this moment.
    fn kill(&self) -> Node {
        let paths = [0, 1].map(|at| {
            self.folder
                .path()
                .join(Uuid::new_v4().to_string())
                .join(at.to_string())
        });
        for (at, path) in paths.iter().enumerate() {
            copy(&self.path(at), path);
        }
        let mut node = Node::at(self.folder.clone(), &paths, &[], LogDirectoryOptions::default());
        let image = self.image.clone();
        node.change(|it| *it = image);
        node
    }
}

fn copy(from: &Path, to: &Path) {
    // The index removes files on a thread of its own: what one copy misses, the next one does not.
    for _ in 0..COPIES_MAX {
        match try_copy(from, to) {
            Ok(()) => return,
            Err(_) => std::fs::remove_dir_all(to).unwrap(),
        }
    }
    try_copy(from, to).unwrap();
}

fn try_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (entry, target) = (
            entry.as_ref().unwrap().path(),
            entry.as_ref().unwrap().file_name(),
        );
        if entry.is_dir() {
            try_copy(&entry, &to.join(target))?;
        } else {
            std::fs::copy(&entry, to.join(target))?;
        }
    }
    Ok(())
}

fn lives_in(replica: &Replica, directory: &Arc<DataDirectory>) -> bool {
    Arc::ptr_eq(&replica.directory(), directory) && replica.with(|p| p.log().is_in(directory.logs().unwrap()))
}

#[test]
fn a_replica_moves_while_it_is_appended_to() {
    let mut node = two_directories();
    let replica = node.filled("t", 20);
    assert_eq!(node.alter("t", 1), Ok(()));
    assert!(replica.is_moving());
    let mut appended = 200;
    while node.replicas.advance_move(&replica) != Turn::Over {
        append_own(&replica);
        appended += 10;
        assert!(appended < 100_000, "appends keep the move from its end");
    }
    assert!(appended > 200 && !replica.is_moving());
    assert!(lives_in(&replica, &node.directory(1)));
    append_own(&replica);
    assert_eq!(replica.offsets().log_end, appended + 10);
    assert!(!node.path(0).join("t-0").exists() && node.path(1).join("t-0").exists());
    // And back.
    assert_eq!(node.alter("t", 0), Ok(()));
    node.finish(&replica);
    assert!(lives_in(&replica, &node.directory(0)));
    let after = node.kill();
    let replica = after.replicas.get("t", 0).unwrap();
    assert!(lives_in(&replica, &after.directory(0)));
    assert_eq!(replica.offsets().log_end, appended + 10);
}

#[test]
fn a_move_to_where_it_lives_cancels_one_elsewhere() {
    let mut node = two_directories();
    let replica = node.filled("t", 20);
    node.alter("t", 1).unwrap();
    assert_ne!(node.replicas.advance_move(&replica), Turn::Over);
    assert_eq!(node.alter("t", 0), Ok(()));
    assert!(!replica.is_moving());
    assert_eq!(node.replicas.advance_move(&replica), Turn::Over);
    assert!(lives_in(&replica, &node.directory(0)));
    node.replicas.close_clean();
    assert!(node.kill().directory(1).logs().unwrap().is_clean_start());
}

#[test]
fn a_wish_for_a_partition_that_is_not_here_is_remembered() {
    let mut node = two_directories();
    assert_eq!(node.alter("later", 1), Err(ErrorCode::UnknownTopicOrPartition));
    node.filled("other", 0);
    node.create("later", NODE);
    assert!(lives_in(
        &node.replicas.get("later", 0).unwrap(),
        &node.directory(1)
    ));
}

#[test]
fn a_topic_deleted_on_the_way_takes_its_copy_along() {
    let mut node = two_directories();
    let replica = node.filled("t", 20);
    node.alter("t", 1).unwrap();
    node.replicas.advance_move(&replica);
    node.delete("t");
    assert_eq!(node.replicas.advance_move(&replica), Turn::Over);
    for at in [0, 1] {
        assert!(!node.directory(at).is_offline());
        let logs = node.directory(at);
        let purged = logs.logs().unwrap().purge_deleted(odradek_common::time::Now {
            mono_ms: u64::MAX,
            wall_ms: 0,
        });
        assert_eq!(purged.unwrap(), 1, "directory {at}");
    }
}

#[test]
fn a_move_that_a_kill_interrupts_begins_anew() {
    let mut node = two_directories();
    let replica = node.filled("t", 20);
    node.alter("t", 1).unwrap();
    // Before the first slice: the wish was accepted all the same.
    let after = node.kill();
    assert!(after.replicas.get("t", 0).unwrap().is_moving());
    node.replicas.advance_move(&replica);
    let after = node.kill();
    let replica = after.replicas.get("t", 0).unwrap();
    assert!(lives_in(&replica, &after.directory(0)) && replica.is_moving());
    let queued = after.replicas.moves().next().unwrap();
    after.finish(&queued);
    assert!(lives_in(&replica, &after.directory(1)));
    assert_eq!(replica.offsets().log_end, 200);
}

#[test]
fn a_replica_in_two_directories_is_where_it_was_moved_to() {
    let mut node = two_directories();
    let replica = node.filled("t", 20);
    node.alter("t", 1).unwrap();
    // The old directory does not forget it: what was left is there still when the node starts again.
    let kept = node.folder.path().join("kept");
    copy(&node.path(0), &kept);
    node.finish(&replica);
    append_own(&replica);
    let after = node.kill_before_it_forgets(&kept);
    let replica = after.replicas.get("t", 0).unwrap();
    assert!(lives_in(&replica, &after.directory(1)));
    assert_eq!(replica.offsets().log_end, 210);
    assert!(!kept.join("t-0").exists(), "what was left is removed");
}

#[test]
fn a_log_that_is_nothing_on_disk_when_its_move_begins_is_where_it_was_moved_to() {
    let by_append: fn(&Replica) = append_own;
    let by_truncation: fn(&Replica) = |replica| {
        let emptied = replica.with(|p| p.log_mut().truncate_fully_and_start_at(clock::now(), 0));
        emptied.unwrap();
    };
    for make in [by_append, by_truncation] {
        let mut node = two_directories();
        let replica = node.filled("t", 0);
        node.alter("t", 1).unwrap();
        let turn = node.replicas.advance_move(&replica);
        assert!(!node.path(0).join("t-0").exists());
        make(&replica);
        let kept = node.folder.path().join("kept");
        copy(&node.path(0), &kept);
        if turn != Turn::Over {
            node.finish(&replica);
        }
        append_own(&replica);
        let end = replica.offsets().log_end;
        let after = node.kill_before_it_forgets(&kept);
        let replica = after.replicas.get("t", 0).unwrap();
        assert!(lives_in(&replica, &after.directory(1)));
        assert_eq!(replica.offsets().log_end, end, "nothing acknowledged is lost");
    }
}

#[test]
fn what_a_move_left_is_not_used_while_the_directory_it_went_to_is_offline() {
    let mut node = two_directories();
    node.filled("t", 20);
    node.record("t", 1);
    let replicas = node.kill_without(1);
    assert!(replicas.get("t", 0).is_none());
    assert_eq!(replicas.failures().unapplied(), 1);
}

#[test]
fn a_copy_takes_the_place_once_the_controller_has_recorded_it_and_not_before() {
    let mut node = two_directories();
    let replica = node.awaiting();
    assert!(lives_in(&replica, &node.directory(0)) && node.path(0).join("t-0").exists());
    assert_eq!(node.told(), node.directory(1).id());
    append_own(&replica);
    // Everything is where the records say, whatever becomes of the other directory.
    let started = node.kill_without(1);
    let found = started.get("t", 0).unwrap();
    assert_eq!(found.offsets().log_end, 210);

    node.record("t", 1);
    let after = node.kill();
    let found = after.replicas.get("t", 0).unwrap();
    assert!(lives_in(&found, &after.directory(0)) && found.is_moving());
    assert_eq!(found.offsets().log_end, 210);
    assert_eq!(after.told(), after.directory(0).id());
    // Its only copy is in the directory that is not there, whatever the records say.
    let started = node.kill_without(0);
    assert!(started.get("t", 0).is_none());
    assert_eq!(started.failures().unapplied(), 1);

    let queued = node.replicas.moves().next().unwrap();
    node.finish(&queued);
    assert!(lives_in(&replica, &node.directory(1)) && !node.path(0).join("t-0").exists());
    assert_eq!(replica.offsets().log_end, 210);
    assert!(
        node.replicas
            .assignments()
            .take(NODE, node.replicas.failures())
            .is_empty()
    );
    // And nothing is made where it was.
    let started = node.kill_without(1);
    assert!(started.get("t", 0).is_none());
}

#[test]
fn a_move_that_is_cancelled_after_the_controller_has_recorded_it_is_told_back() {
    let mut node = two_directories();
    let replica = node.awaiting();
    node.record("t", 1);
    node.ask("t", 0).unwrap();
    assert!(!replica.is_moving() && lives_in(&replica, &node.directory(0)));
    assert_eq!(node.told(), node.directory(0).id());

    // One that waits for the controller has a turn again when it begins anew, or fails.
    let mut node = two_directories();
    let replica = node.awaiting();
    node.ask("t", 0).unwrap();
    node.ask("t", 1).unwrap();
    let queued = node.replicas.moves().next().unwrap();
    node.advance_until(&queued, Turn::AwaitsRecord);
    node.record("t", 1);
    assert!(Arc::ptr_eq(&node.replicas.moves().next().unwrap(), &replica));
    node.replicas.directory_failed(&node.directory(1), &disk_error());
    let queued = node.replicas.moves().next().unwrap();
    assert_eq!(node.replicas.advance_move(&queued), Turn::Over);
    assert!(!replica.is_moving() && !replica.is_offline());
    assert_eq!(node.told(), node.directory(0).id());
}

#[test]
fn a_replica_moves_again_once_what_the_last_move_left_is_removed() {
    let mut node = two_directories();
    let replica = node.filled("t", 20);
    node.alter("t", 1).unwrap();
    let LeftBehind { directory, mut log } = node.move_without_settling(&replica);
    assert_eq!(node.alter("t", 0), Err(ErrorCode::ReplicaNotAvailable));
    assert_eq!(node.alter("t", 1), Ok(()));
    assert!(!replica.is_moving() && !replica.is_offline());
    assert!(!node.directory(0).is_offline() && !node.directory(1).is_offline());
    directory.logs().unwrap().delete_partition(&mut log).unwrap();
    replica.settled();
    assert_eq!(node.alter("t", 0), Ok(()));
    node.finish(&replica);
    assert!(lives_in(&replica, &node.directory(0)));
    assert_eq!(replica.offsets().log_end, 200);
}

#[test]
fn a_topic_deleted_before_its_move_has_settled_leaves_nothing() {
    let mut node = two_directories();
    let replica = node.filled("t", 20);
    node.alter("t", 1).unwrap();
    let left = node.move_without_settling(&replica);
    node.delete("t");
    node.replicas.moved(&replica, left);
    for at in [0, 1] {
        assert!(!node.path(at).join("t-0").exists(), "directory {at}");
        assert!(!node.directory(at).is_offline());
    }
}

#[test]
fn a_topic_made_anew_before_its_namesake_s_move_has_settled_waits_for_that() {
    let mut node = two_directories();
    let replica = node.filled("t", 20);
    node.alter("t", 1).unwrap();
    let left = node.move_without_settling(&replica);
    node.delete("t");
    let (id, first) = (TopicPartition::new("t", 0), node.directory(0));
    assert!(node.replicas.preferences.remember(id.clone(), &first));
    assert!(node.create("t", NODE).is_none());
    assert_eq!(node.replicas.failures().unapplied(), 1);
    node.replicas.moved(&replica, left);
    assert!(node.replicas.preferences.remember(id, &first));
    let again = node.replicas.failures().again(&node.image);
    node.replicas.publish(&again, &node.image, &node.config, true);
    let anew = node.replicas.get("t", 0).unwrap();
    assert_eq!(node.replicas.failures().unapplied(), 0);
    assert!(lives_in(&anew, &first) && anew.topic_id != replica.topic_id);
    append_own(&anew);
    assert_eq!(anew.offsets().log_end, 10);
    assert!(node.path(0).join("t-0").exists());
}

#[test]
fn a_topic_is_deleted_although_the_directory_it_moves_to_is_offline() {
    let mut node = two_directories();
    let replica = node.filled("t", 20);
    node.alter("t", 1).unwrap();
    node.replicas.advance_move(&replica);
    node.directory(1).set_offline();
    node.delete("t");
    assert!(!node.path(0).join("t-0").exists());
}

#[test]
fn a_topic_is_deleted_while_the_disk_that_it_moves_to_stands_still() {
    let (mut node, disk) = gated(&[]);
    let replica = node.filled("t", 20);
    node.alter("t", 1).unwrap();
    disk.shut();
    let (replicas, moving) = (node.replicas.clone(), replica.clone());
    let mover =
        std::thread::spawn(move || (0..TURNS_MAX).find(|_| replicas.advance_move(&moving) == Turn::Over));
    disk.await_flush();
    node.delete("t");
    assert!(!node.path(0).join("t-0").exists());
    disk.open();
    assert!(mover.join().unwrap().is_some(), "the move is over");
    assert!(!replica.is_moving());
    let left = std::fs::read_dir(node.path(1)).unwrap();
    let is_copy = |name: &str| name.starts_with("t-0") && !name.ends_with("-delete");
    let copies = left.filter(|entry| is_copy(&entry.as_ref().unwrap().file_name().to_string_lossy()));
    assert_eq!(copies.count(), 0);
}

#[test]
fn appends_do_not_wait_while_what_the_copy_has_to_have_on_disk_is_flushed() {
    let (mut node, disk) = gated(&[("log.flush.interval.messages", "1")]);
    let replica = node.filled("t", 20);
    let flush = |replica: &Replica| replica.with(|p| p.log_mut().flush()).unwrap();
    node.alter("t", 1).unwrap();
    // Copied and announced; then there is more, which is on disk where the replica lives.
    node.replicas.advance_move(&replica);
    append_own(&replica);
    flush(&replica);
    disk.shut();
    let (replicas, moving) = (node.replicas.clone(), replica.clone());
    let mover =
        std::thread::spawn(move || (0..TURNS_MAX).find(|_| replicas.advance_move(&moving) == Turn::Over));
    disk.await_flush();
    assert!(lives_in(&replica, &node.directory(0)));
    append_own(&replica);
    disk.open();
    assert!(mover.join().unwrap().is_some(), "the move is over");
    assert!(lives_in(&replica, &node.directory(1)));
    assert_eq!(replica.offsets().log_end, 220);
}

#[test]
fn a_long_copy_is_flushed_on_the_way() {
    let (mut node, disk) = gated(&[]);
    let replica = node.filled("t", 0);
    let mut builder = BatchBuilder::new(0);
    builder.append(1_700_000_000_000, None, Some(&vec![b'x'; 1_000_000]), &[]);
    let large = builder.build();
    for _ in 0..20 {
        let mut batches = [LeaderBatch::whole(&large).unwrap()];
        replica.append(clock::now(), &mut batches, None).unwrap();
    }
    node.alter("t", 1).unwrap();
    while replica.move_progress().unwrap().log_end_offset < 18 {
        assert_ne!(node.replicas.advance_move(&replica), Turn::Over);
    }
    assert_eq!(disk.segments_flushed.load(Ordering::SeqCst), 1);
    node.finish(&replica);
}

#[test]
fn a_replica_that_is_asked_to_move_again_and_again_is_queued_once() {
    let mut node = two_directories();
    let replicas = [node.filled("t", 1), node.filled("u", 1)];
    for to in [1, 0, 1] {
        node.alter("t", to).unwrap();
    }
    node.alter("u", 1).unwrap();
    for replica in &replicas {
        assert!(Arc::ptr_eq(&node.replicas.moves().next().unwrap(), replica));
    }
}

/// A disk that takes whoever waits for it down.
#[derive(Debug)]
struct PanickingDisk;

impl Disk for PanickingDisk {
    fn sync_data(&self, _: &File) -> std::io::Result<()> {
        panic!("the disk is one of a test")
    }

    fn sync_all(&self, _: &File) -> std::io::Result<()> {
        panic!("the disk is one of a test")
    }

    fn space(&self, directory: &Path) -> std::io::Result<Space> {
        SystemDisk.space(directory)
    }
}

#[test]
fn a_step_that_panics_cancels_the_move_and_spares_the_thread() {
    let options = LogDirectoryOptions {
        disk: Arc::new(PanickingDisk),
        ..LogDirectoryOptions::default()
    };
    let mut node = two_directories_with(&[], options);
    let replica = node.filled("t", 20);
    node.alter("t", 1).unwrap();
    node.finish(&replica);
    assert!(!replica.is_moving() && !replica.is_offline());
    assert!(lives_in(&replica, &node.directory(0)));
    append_own(&replica);
}

#[test]
fn a_failure_of_the_target_cancels_and_one_of_the_source_takes_the_replica_offline() {
    let mut node = two_directories();
    let replica = node.filled("t", 20);
    let fail = |path: PathBuf| {
        let source = std::io::Error::from_raw_os_error(5);
        let attempt = "read".to_owned();
        LogError::Directory {
            path,
            attempt,
            source,
        }
    };
    node.alter("t", 1).unwrap();
    node.replicas.advance_move(&replica);
    node.replicas.log_failed(&replica, &fail(node.path(1)));
    assert!(node.directory(1).is_offline() && !replica.is_offline());
    assert_eq!(node.replicas.advance_move(&replica), Turn::Over);
    assert!(!replica.is_moving());
    append_own(&replica);
    assert_eq!(node.alter("t", 1), Err(ErrorCode::KafkaStorageError));

    let mut node = two_directories();
    let replica = node.filled("t", 20);
    node.alter("t", 1).unwrap();
    node.replicas.advance_move(&replica);
    node.replicas.log_failed(&replica, &fail(node.path(0)));
    assert!(replica.is_offline() && !node.directory(1).is_offline());
    assert_eq!(node.replicas.advance_move(&replica), Turn::Over);
    assert!(!replica.is_moving());
    node.purge(1);
    assert_eq!(node.copies(), 1, "what may be all that is left");

    // It is not used while the log may come back,
    let started = node.kill_without(0);
    assert!(started.get("t", 0).is_none());
    // the move goes on if it does,
    let after = node.kill();
    let back = after.replicas.get("t", 0).unwrap();
    assert!(lives_in(&back, &after.directory(0)) && back.is_moving());
    // and it is the partition's log once there is no other.
    for recorded in [0, 1] {
        node.record("t", recorded);
        std::fs::remove_dir_all(node.path(0).join("t-0")).unwrap_or_default();
        let after = node.kill();
        let rescued = after.replicas.get("t", 0).unwrap();
        assert!(lives_in(&rescued, &after.directory(1)) && !rescued.is_moving());
        assert_eq!(rescued.offsets().log_end, 200);
        assert_eq!(after.copies(), 0);
        append_own(&rescued);
    }
    node.delete("t");
    assert_eq!(node.copies(), 0, "it goes with its topic");
}

#[test]
fn what_was_copied_stays_if_a_step_finds_that_the_source_cannot_be_read() {
    let options = LogDirectoryOptions {
        open_files_max: 1,
        ..LogDirectoryOptions::default()
    };
    let mut node = two_directories_with(&[], options);
    let replica = node.filled("t", 1);
    for _ in 0..4 {
        replica.with(|p| p.log_mut().roll(clock::now()).unwrap());
        append_own(&replica);
    }
    node.alter("t", 1).unwrap();
    while replica.move_progress().unwrap().log_end_offset == 0 {
        assert_ne!(node.replicas.advance_move(&replica), Turn::Over);
    }
    let copied = replica.move_progress().unwrap().log_end_offset;
    assert!(copied < 50, "{copied}");
    // The next segment is a folder, which opens as no file, whoever asks.
    let segment = node.path(0).join(format!("t-0/{copied:020}.log"));
    std::fs::remove_file(&segment).unwrap();
    std::fs::create_dir(&segment).unwrap();
    let logs = node.directory(0);
    (0..2).for_each(|_| logs.logs().unwrap().close_unused_files());
    node.finish(&replica);
    assert!(replica.is_offline() && !replica.is_moving());
    assert!(node.directory(0).is_offline() && !node.directory(1).is_offline());
    node.purge(1);
    assert_eq!(node.copies(), 1);
}

#[test]
fn a_replica_that_moves_is_not_compacted() {
    let mut node = two_directories();
    let replica = node.filled("t", 2);
    let cleaning = crate::cleaner::cleaning::Cleaning::default();
    replica.with(|p| {
        let log = p.log_mut();
        let mut config = log.config().clone();
        config.cleanup_policy = CleanupPolicy::COMPACT;
        config.min_cleanable_dirty_ratio = 0.0;
        log.set_config(config);
        log.roll(clock::now()).unwrap();
    });
    let all = node.replicas.all();
    node.alter("t", 1).unwrap();
    assert!(cleaning.grab_filthiest(&all, clock::now()).is_none());
    node.finish(&replica);
    // The copy has one segment, which is appended to.
    replica.with(|p| p.log_mut().roll(clock::now()).unwrap());
    assert!(cleaning.grab_filthiest(&all, clock::now()).is_some());
}

#[test]
fn a_copy_that_breaks_leaves_the_log_that_it_follows_alone() {
    let options = LogDirectoryOptions {
        open_files_max: 1,
        ..LogDirectoryOptions::default()
    };
    let mut node = two_directories_with(&[], options);
    let replica = node.filled("t", 3);
    node.alter("t", 1).unwrap();
    while replica.move_progress().unwrap().log_end_offset == 0 {
        assert_ne!(node.replicas.advance_move(&replica), Turn::Over);
    }
    // Somebody removes the copy's segment.
    let folders = std::fs::read_dir(node.path(1)).unwrap();
    let copy = folders
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with("-future"))
        .unwrap();
    std::fs::remove_file(copy.join(format!("{:020}.log", 0))).unwrap();
    let logs = node.directory(1);
    (0..2).for_each(|_| logs.logs().unwrap().close_unused_files());
    append_own(&replica);
    node.finish(&replica);
    assert!(!replica.is_offline() && !replica.is_moving());
    assert!(!node.directory(1).is_offline());
    append_own(&replica);
    assert_eq!(node.copies(), 0);
}
