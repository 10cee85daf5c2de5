//! Replicas over real logs: one node whose metadata each test writes by hand.

use std::path::PathBuf;

use arc_swap::ArcSwap;
use bytes::Bytes;
use odradek_broker_core::partition::{FetchProgress, FollowerFetch};
use odradek_broker_log::append::LeaderBatch;
use odradek_broker_log::directory::LogDirectoryOptions;
use odradek_broker_log::error::LogError;
use odradek_broker_log::read::Patience;
use odradek_common::ids::LOST_DIRECTORY;
use odradek_common::metadata::PartitionImage;
use odradek_common::records::batch::set_partition_leader_epoch;
use odradek_common::records::builder::BatchBuilder;
use tempfile::TempDir;

use super::*;
use crate::directory_assignments::directories;
use crate::fixtures::add_topic;
use crate::replica::reading::{Isolation, ReadRequest};
use crate::replica::watchers::Watcher;
use crate::replica::{AppendRefusal, FollowerAppend, OutOfRange};
use crate::watch::Watch;

mod flushing;
mod moving;
mod opening;

const NODE: i32 = 1;
const OTHER: i32 = 2;

struct Node {
    folder: Arc<TempDir>,
    config: ServerConfig,
    replicas: Arc<Replicas>,
    image: MetadataImage,
    caught_up: bool,
}

impl Node {
    fn new() -> Self {
        Self::with(&[], LogDirectoryOptions::default())
    }

    fn with(overrides: &[(&str, &str)], options: LogDirectoryOptions) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let paths = [folder.path().to_owned()];
        Self::at(folder, &paths, overrides, options)
    }

    /// A node with these log directories, whose ids are 1, 2 and so on.
    fn at(
        folder: Arc<TempDir>,
        paths: &[PathBuf],
        overrides: &[(&str, &str)],
        options: LogDirectoryOptions,
    ) -> Self {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let overrides: Vec<_> = overrides.iter().map(own).collect();
        let (config, _) = ServerConfig::load(None, std::iter::empty(), &overrides).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let open = |(id, path): (u128, &PathBuf)| {
            let log_directory = LogDirectory::open(path, options.clone(), log.clone()).unwrap();
            DataDirectory::new(Uuid::from_u128(id), log_directory)
        };
        let directories = (1..).zip(paths).map(open).collect();
        let image = Arc::new(ArcSwap::from_pointee(MetadataImage::default()));
        Self {
            folder,
            config,
            replicas: Replicas::new(NODE, directories, Metrics::new(), image, log),
            image: MetadataImage::default(),
            caught_up: true,
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut MetadataImage)) -> Vec<RoleEvent> {
        let before = self.image.clone();
        change(&mut self.image);
        let delta = MetadataDelta::between(&before, &self.image);
        self.replicas
            .publish(&delta, &self.image, &self.config, self.caught_up)
    }

    /// A topic of one partition, led by `leader` in epoch 0.
    fn create(&mut self, name: &str, leader: i32) -> Option<Arc<Replica>> {
        let partition = PartitionImage {
            replicas: vec![NODE, OTHER],
            isr: vec![leader],
            leader,
            ..PartitionImage::default()
        };
        self.change(|image| add_topic(image, name, partition));
        self.replicas.get(name, 0)
    }

    /// The topic's partition gets another leader.
    fn elect(&mut self, name: &str, leader: i32) {
        self.change(|image| {
            let topic = Arc::make_mut(image.topics.get_mut(name).unwrap());
            let partition = Arc::make_mut(&mut topic.partitions[0]);
            partition.leader = leader;
            partition.leader_epoch += 1;
            partition.partition_epoch += 1;
        });
    }

    fn delete(&mut self, name: &str) {
        self.change(|image| {
            let id = image.topic(name).unwrap().id;
            image.topics.remove(name);
            image.topic_names.remove(&id);
        });
    }
}

fn disk_error() -> LogError {
    LogError::Directory {
        path: "d".into(),
        attempt: "flush segment 0".to_owned(),
        source: std::io::Error::from_raw_os_error(5),
    }
}

fn batch(base_offset: i64, records: usize) -> Bytes {
    let mut builder = BatchBuilder::new(base_offset);
    for _ in 0..records {
        builder.append(1_700_000_000_000, None, Some(b"value"), &[]);
    }
    builder.build()
}

/// Ten records of a producer, at a replica that leads.
fn append_own(replica: &Replica) {
    let batch = batch(0, 10);
    let mut batches = [LeaderBatch::whole(&batch).unwrap()];
    let appended = replica.append(clock::now(), &mut batches, None).unwrap();
    assert!(appended.failed.is_none());
    batches[0].take_outcome().unwrap().unwrap();
}

#[test]
fn nobody_waits_for_a_commit_that_is_there_with_the_append() {
    let mut node = Node::new();
    let replica = node.create("t", NODE).unwrap();
    let append = || {
        let records = batch(0, 1);
        let mut batches = [LeaderBatch::whole(&records).unwrap()];
        let mut waits = Vec::new();
        replica
            .append(clock::now(), &mut batches, Some(&mut waits))
            .unwrap();
        assert_eq!(waits.len(), 1);
        waits.pop().flatten()
    };
    // The ISR is the leader alone.
    assert!(append().is_none() && replica.await_commit(0, 1).is_none());
    node.change(|image| {
        let topic = Arc::make_mut(image.topics.get_mut("t").unwrap());
        let partition = Arc::make_mut(&mut topic.partitions[0]);
        partition.isr = vec![NODE, OTHER];
        partition.partition_epoch += 1;
    });
    let mut wait = append().expect("the follower has to fetch it");
    assert!(wait.try_recv().is_err());
    node.elect("t", OTHER);
    assert_eq!(wait.try_recv(), Ok(Err(ErrorCode::NotLeaderOrFollower)));
}

/// What a fetch of the other node in epoch 0 brought beside the records.
fn from_other(high_watermark: i64, log_start_offset: i64) -> FollowerAppend {
    FollowerAppend {
        leader: OTHER,
        leader_epoch: 0,
        high_watermark,
        log_start_offset,
    }
}

/// The disk is the directory's, whosever data it lost; no later flush of it is believed either.
#[test]
fn a_flush_that_failed_is_told_even_if_its_topic_was_deleted_meanwhile() {
    let mut node = Node::new();
    let (gone, stays) = (
        node.create("gone", OTHER).unwrap(),
        node.create("stays", OTHER).unwrap(),
    );
    node.delete("gone");
    let unsynced = LogError::Unsynced {
        path: gone.directory().path().to_owned(),
        attempt: "flush segment 0".to_owned(),
        source: std::io::Error::from_raw_os_error(5),
    };
    node.replicas.log_failed(&gone, &unsynced);
    assert!(stays.is_offline());
    assert!(node.replicas.online().next().is_none());
}

#[test]
fn a_topic_deleted_under_a_writer_does_not_take_the_directory_offline() {
    let mut node = Node::new();
    let (gone, stays) = (
        node.create("gone", OTHER).unwrap(),
        node.create("stays", OTHER).unwrap(),
    );
    node.delete("gone");
    // The fetch was under way when the topic was deleted.
    match gone.append_as_follower(clock::now(), &batch(0, 3), from_other(0, 0)) {
        Err(AppendRefusal::Log(error)) => node.replicas.log_failed(&gone, &error),
        Err(AppendRefusal::Api(_)) | Ok(_) => panic!("the log is closed"),
    }
    assert!(!stays.is_offline());
    stays
        .append_as_follower(clock::now(), &batch(0, 3), from_other(0, 0))
        .unwrap();
}

#[test]
fn a_follower_begins_with_a_batch_that_the_leader_s_log_begins_in() {
    // DeleteRecords moved the leader's log start into a batch, and a new follower can get only the whole of it.
    let mut node = Node::new();
    let replica = node.create("t", OTHER).unwrap();
    let now = clock::now();
    replica
        .with(|p| p.log_mut().truncate_fully_and_start_at(now, 105))
        .unwrap();
    replica
        .append_as_follower(now, &batch(100, 10), from_other(110, 105))
        .unwrap();
    let offsets = replica.offsets();
    assert_eq!(
        (offsets.log_start, offsets.high_watermark, offsets.log_end),
        (105, 110, 110)
    );
    // A log that has records refuses what overlaps them.
    let overlap = replica.append_as_follower(now, &batch(108, 10), from_other(110, 105));
    assert!(matches!(overlap, Err(AppendRefusal::Api(_))));
    assert_eq!(replica.offsets().log_end, 110);
}

#[test]
fn a_follower_takes_nothing_of_an_epoch_later_than_that_of_its_fetch() {
    // The leader of epoch 0 was cut and appended to again before the answer left it.
    let mut node = Node::new();
    let replica = node.create("t", OTHER).unwrap();
    let mut records = [batch(0, 3), batch(3, 3)].concat();
    let second = records.len() / 2;
    set_partition_leader_epoch(&mut records[second..], 1);
    replica
        .append_as_follower(clock::now(), &records.into(), from_other(6, 0))
        .unwrap();
    let offsets = replica.offsets();
    assert_eq!((offsets.log_end, offsets.high_watermark), (3, 3));
}

#[test]
fn an_answer_that_leadership_has_overtaken_truncates_nothing() {
    let mut node = Node::new();
    let (leads, follows) = (
        node.create("leads", NODE).unwrap(),
        node.create("follows", OTHER).unwrap(),
    );
    let now = clock::now();
    follows
        .append_as_follower(now, &batch(0, 10), from_other(10, 0))
        .unwrap();
    append_own(&leads);
    for to in [OutOfRange::EndsAt(4), OutOfRange::BeginsAt(40)] {
        // It leads by now, or follows in a later epoch, or another node.
        assert_eq!(leads.reset_as_follower(now, (OTHER, 0), to).unwrap(), None);
        assert_eq!(follows.reset_as_follower(now, (OTHER, 1), to).unwrap(), None);
        assert_eq!(follows.reset_as_follower(now, (3, 0), to).unwrap(), None);
    }
    assert_eq!(leads.truncate_as_follower(now, (OTHER, 0), (0, 4)).unwrap(), None);
    assert_eq!(follows.truncate_as_follower(now, (3, 0), (0, 4)).unwrap(), None);
    assert_eq!((leads.offsets().log_end, follows.offsets().log_end), (10, 10));
    assert_eq!(
        follows
            .reset_as_follower(now, (OTHER, 0), OutOfRange::BeginsAt(40))
            .unwrap(),
        Some(40)
    );
}

#[test]
fn a_fetch_of_another_epoch_or_of_a_parted_log_does_not_count() {
    let mut node = Node::new();
    let replica = node.create("t", NODE).unwrap();
    let now = clock::now();
    append_own(&replica);
    let fetch = FollowerFetch {
        replica: OTHER,
        broker_epoch: 7,
        fetch_offset: 10,
        log_start_offset: 0,
    };
    assert_eq!(
        replica.follower_asked(now, fetch, 1, 0),
        Err(ErrorCode::UnknownLeaderEpoch)
    );
    let parted = replica.follower_asked(now, fetch, 0, 5);
    assert_eq!(parted, Ok(FetchProgress::default()));
    let progress = |replica: &Replica| replica.with(|p| p.followers().next().map(|(_, f)| f.log_end_offset));
    assert_eq!(progress(&replica), Some(-1));
    assert!(replica.follower_asked(now, fetch, 0, 0).unwrap().may_expand);
    assert_eq!(progress(&replica), Some(10));
}

#[test]
fn a_topic_s_namesake_is_not_taken_for_it() {
    let mut node = Node::new();
    let replica = node.create("t", NODE).unwrap();
    assert!(node.replicas.hosted_of(&replica.topic_id, "t", 0).is_ok());
    let recreated = node.replicas.hosted_of(&Uuid::new_v4(), "t", 0);
    assert_eq!(
        recreated.err().map(|error| error.code),
        Some(ErrorCode::UnknownTopicId)
    );
}

#[test]
fn a_directory_that_failed_is_told_and_never_closed_cleanly() {
    let mut node = Node::new();
    let replica = node.create("t", OTHER).unwrap();
    assert!(!node.replicas.directories()[0].is_offline());
    node.replicas.log_failed(&replica, &disk_error());
    assert!(replica.is_offline());
    assert!(node.replicas.directories()[0].is_offline());
    node.replicas.close_clean();
    let logs = node.replicas.directories()[0].logs().unwrap();
    assert!(!logs.close_clean().unwrap(), "the next start must recover");
}

#[test]
fn a_replica_created_while_its_directory_fails_is_offline() {
    let node = Node::new();
    let partition = Arc::new(PartitionImage {
        replicas: vec![NODE],
        ..PartitionImage::default()
    });
    let topic = TopicImage {
        name: "t".into(),
        id: Uuid::new_v4(),
        partitions: vec![partition.clone()],
    };
    let (replicas, config) = (&node.replicas, &node.config);
    let resolved = Arc::new(resolve_topic(&node.image, "t", config));
    let (directory, log) = replicas.open(&topic, 0, &partition, &resolved, config).unwrap();
    replicas.directory_failed(&directory, &disk_error());
    let replica = replicas.create(&topic, 0, directory, resolved, config, log);
    assert!(replica.is_offline());
}

#[test]
fn a_leader_whose_log_failed_alone_says_so_and_takes_nobody_out_of_the_isr() {
    let mut node = Node::new();
    let replica = node.create("t", NODE).unwrap();
    let record = |node: &mut Node, directory: Uuid| {
        node.change(|image| {
            let topic = Arc::make_mut(image.topics.get_mut("t").unwrap());
            let partition = Arc::make_mut(&mut topic.partitions[0]);
            partition.isr = vec![NODE, OTHER];
            partition.directories = vec![directory, Uuid::nil()];
            partition.partition_epoch += 1;
        });
    };
    let told = |node: &Node| {
        let batch = node.replicas.assignments().take(NODE, node.replicas.failures());
        let ids = directories(&batch).into_iter().map(|directory| directory.id);
        ids.collect::<Vec<_>>()
    };
    let works = replica.directory().id();
    assert_eq!(told(&node), [works]);
    record(&mut node, works);
    let corrupt = LogError::Corrupt {
        path: "0.log".into(),
        position: 0,
        detail: "the file is gone".to_owned(),
    };
    node.replicas.log_failed(&replica, &corrupt);
    assert_eq!(told(&node), [LOST_DIRECTORY]);
    let much_later = clock::now().plus_ms(3_600_000);
    assert_eq!(replica.propose_shrink(much_later), None);
    record(&mut node, LOST_DIRECTORY);
    assert!(told(&node).is_empty(), "it is recorded");
}

#[test]
fn a_log_that_closed_itself_takes_its_replica_offline_and_no_other() {
    let mut node = Node::new();
    let mut create = |name: &str| node.create(name, NODE).unwrap();
    let (closed, full, stays) = (create("closed"), create("full"), create("stays"));
    _ = node.replicas.assignments().take(NODE, node.replicas.failures());
    let closed_error = LogError::Closed("closed-0".to_owned());
    node.replicas.log_failed(&closed, &closed_error);
    // A swap of segments that found no room has closed the log, and a disk without room fails nobody else.
    full.with(|p| p.log_mut().close_clean(clock::now())).unwrap();
    let (path, detail) = (full.directory().path().to_owned(), "full".to_owned());
    node.replicas
        .log_failed(&full, &LogError::NoRoom { path, detail });
    assert!(closed.is_offline() && full.is_offline() && !stays.is_offline());
    assert!(!node.replicas.directories()[0].is_offline());
    let told = directories(&node.replicas.assignments().take(NODE, node.replicas.failures()));
    assert!(told.iter().all(|directory| directory.id == LOST_DIRECTORY) && !told.is_empty());
    append_own(&stays);
}

#[test]
fn a_follower_joins_the_isr_with_the_directory_that_is_recorded_for_it() {
    let mut node = Node::new();
    let replica = node.create("t", NODE).unwrap();
    let directory = Uuid::from_u128(100);
    node.change(|image| {
        let topic = Arc::make_mut(image.topics.get_mut("t").unwrap());
        let partition = Arc::make_mut(&mut topic.partitions[0]);
        partition.directories = vec![Uuid::nil(), directory];
        partition.partition_epoch += 1;
    });
    let fetch = FollowerFetch {
        replica: OTHER,
        broker_epoch: 7,
        fetch_offset: 0,
        log_start_offset: 0,
    };
    replica.follower_asked(clock::now(), fetch, 0, -1).unwrap();
    assert_eq!(replica.propose_expansion(|_, _, asked| asked != directory), None);
    let joins = |replica, epoch, asked| (replica, epoch, asked) == (OTHER, 7, directory);
    let proposal = replica.propose_expansion(joins).unwrap();
    assert_eq!(proposal.isr, [(NODE, -1), (OTHER, 7)]);
}

#[test]
fn a_leadership_that_found_no_room_is_tried_again() {
    let mut node = Node::new();
    let replica = node.create("t", OTHER).unwrap();
    let (path, detail) = (replica.directory().path().to_owned(), "full".to_owned());
    node.replicas
        .not_led(&replica, &LogError::NoRoom { path, detail });
    assert!(!replica.is_offline());
    assert_eq!(node.replicas.failures().unapplied(), 1);
    let again = node.replicas.failures().again(&node.image);
    assert_eq!(again.topics[&replica.topic_id].partitions.len(), 1);
    node.replicas.publish(&again, &node.image, &node.config, true);
    assert_eq!(node.replicas.failures().unapplied(), 0);
    // Nothing is tried again on a disk that failed.
    node.replicas.not_led(&replica, &disk_error());
    assert_eq!(node.replicas.failures().unapplied(), 0);
}

#[test]
fn a_replica_that_a_reassignment_adds_is_created_beside_a_directory_that_failed() {
    let folder = Arc::new(TempDir::new().unwrap());
    let paths = ["a", "b", "c"].map(|name| folder.path().join(name));
    let mut node = Node::at(folder, &paths, &[], LogDirectoryOptions::default());
    let failed = node.replicas.directories()[0].clone();
    node.replicas.directory_failed(&failed, &disk_error());
    let mut add = |name: &str, isr: &[i32]| {
        let partition = PartitionImage {
            replicas: vec![OTHER, NODE],
            adding_replicas: vec![NODE],
            isr: isr.to_vec(),
            leader: OTHER,
            partition_epoch: 3,
            ..PartitionImage::default()
        };
        node.change(|image| add_topic(image, name, partition));
        node.replicas.get(name, 0)
    };
    let replica = add("new", &[OTHER]).unwrap();
    assert!(!Arc::ptr_eq(&replica.directory(), &failed));
    // Where it was in sync its log is, perhaps, in the directory that failed.
    assert!(add("in-sync", &[OTHER, NODE]).is_none());
}

/// The topic's `min.insync.replicas`.
fn set_min_isr(image: &mut MetadataImage, topic: &str, min: &str) {
    let overrides = image.configs.entry(ConfigResource::topic(topic)).or_default();
    overrides.insert("min.insync.replicas".into(), min.into());
}

#[test]
fn a_lower_min_insync_replicas_answers_who_waits_for_a_commit() {
    let mut node = Node::new();
    node.change(|image| set_min_isr(image, "t", "2"));
    let replica = node.create("t", NODE).unwrap();
    append_own(&replica);
    let mut wait = replica.await_commit(0, 10).expect("the ISR is too small");
    assert!(wait.try_recv().is_err());
    node.change(|image| set_min_isr(image, "t", "1"));
    assert_eq!(wait.try_recv(), Ok(Ok(())));
}

#[test]
fn nobody_waits_longer_than_the_lag_time_for_a_follower_outside_the_isr() {
    let mut node = Node::new();
    let replica = node.create("t", NODE).unwrap();
    let now = clock::now();
    replica.with(|p| p.followers_changed(now, |_| true));
    let fetch = FollowerFetch {
        replica: OTHER,
        broker_epoch: 7,
        fetch_offset: 0,
        log_start_offset: 0,
    };
    replica.follower_asked(now, fetch, 0, -1).unwrap();
    append_own(&replica);
    let mut wait = replica
        .await_commit(0, 10)
        .expect("the follower may join the ISR");
    let much_later = clock::now().plus_ms(3_600_000);
    assert_eq!(replica.propose_shrink(much_later), None);
    assert_eq!(wait.try_recv(), Ok(Ok(())));
}

#[test]
fn history_opens_no_log_and_gives_no_leadership() {
    let mut node = Node::new();
    node.caught_up = false;
    // What the image said before this start: the node led alone.
    assert!(node.create("t", NODE).is_none());
    // With its registration the node learns who leads now.
    node.caught_up = true;
    let events = node.change(|image| {
        let topic = Arc::make_mut(image.topics.get_mut("t").unwrap());
        let partition = Arc::make_mut(&mut topic.partitions[0]);
        (
            partition.leader,
            partition.leader_epoch,
            partition.partition_epoch,
        ) = (OTHER, 1, 1);
    });
    assert!(matches!(events[..], [RoleEvent::Follows(_, OTHER, 1)]));
    assert!(!node.replicas.get("t", 0).unwrap().is_leader());
}

#[test]
fn an_unchanged_leadership_begins_with_the_registration() {
    let mut node = Node::new();
    node.caught_up = false;
    node.create("t", NODE);
    node.caught_up = true;
    assert_eq!(node.change(|_| ()).len(), 1);
    assert!(node.replicas.get("t", 0).unwrap().is_leader());
    assert!(node.change(|_| ()).is_empty());
}

#[test]
fn partitions_that_the_metadata_does_not_know_are_set_aside_and_not_removed() {
    let mut node = Node::new();
    let replica = node.create("gone", OTHER).unwrap();
    let stray = PartitionIdentity::new("gone", replica.topic_id, 0);
    let path = node.replicas.directories()[0].path().to_owned();
    replica
        .append_as_follower(clock::now(), &batch(0, 3), from_other(0, 0))
        .unwrap();
    node.replicas.close_clean();
    drop((replica, node.replicas));
    // The next start: the topic is not in the metadata any more.
    let log = Logger::root(slog::Discard, slog::o!());
    let log_directory = LogDirectory::open(&path, LogDirectoryOptions::default(), log.clone()).unwrap();
    assert_eq!(log_directory.unopened(), [stray]);
    let directories = vec![DataDirectory::new(Uuid::from_u128(1), log_directory)];
    let image = Arc::new(ArcSwap::from_pointee(MetadataImage::default()));
    let replicas = Replicas::new(NODE, directories, Metrics::new(), image, log);
    replicas.publish(
        &MetadataDelta::default(),
        &MetadataImage::default(),
        &node.config,
        true,
    );
    let logs = replicas.directories()[0].logs().unwrap();
    assert!(logs.unopened().is_empty() && logs.partitions().is_empty());
    assert!(!path.join("gone-0").exists());
    assert_eq!(
        logs.purge_deleted(clock::now().plus_ms(3_600_000)).unwrap(),
        0,
        "its records stay"
    );
    assert_eq!(logs.stray_partitions(), 1);
}

/// A partition's readers are told what they can see of it, once for each change, and nothing after they left.
#[test]
fn an_append_marks_whoever_reads_there() {
    let mut node = Node::new();
    let replica = node.create("t", NODE).unwrap();
    let watches: Vec<Arc<Watch>> = (0..2).map(|_| Arc::default()).collect();
    let isolations = [Isolation::LogEnd, Isolation::ReadUncommitted];
    let request = |isolation| ReadRequest {
        offset: 0,
        max_bytes: 1 << 20,
        min_one_batch: true,
        isolation,
        current_leader_epoch: 0,
        last_fetched_epoch: -1,
        follower_may_answer: false,
        patience: Patience::Refuse,
    };
    for (slot, (watch, isolation)) in (0..).zip(watches.iter().zip(isolations)) {
        let watcher = || Watcher {
            watch: watch.clone(),
            slot,
            isolation,
        };
        let (plan, watches) = replica.read_or_watch(request(isolation), 1, watcher).unwrap();
        assert_eq!((plan.size_bytes(), watches), (0, true));
    }
    let marked = || {
        let taken = watches.iter().map(|watch| {
            let mut marked = Vec::new();
            watch.take(&mut marked);
            marked
        });
        taken.collect::<Vec<_>>()
    };
    append_own(&replica);
    append_own(&replica);
    // The ISR is the leader alone: what is appended is committed.
    assert_eq!(marked(), [vec![0], vec![1]]);
    let unreached = || -> Watcher { unreachable!("there is enough") };
    let (plan, watches_it) = replica
        .read_or_watch(request(Isolation::LogEnd), 1, unreached)
        .unwrap();
    assert!(plan.size_bytes() > 0 && !watches_it);
    replica.unwatch(&watches[0], 0);
    append_own(&replica);
    assert_eq!(marked(), [vec![], vec![1]]);
    replica.close();
    assert_eq!(marked(), [vec![], vec![1]]);
}

/// What recovery would have to read is bounded by flushing the logs that have most of it.
#[test]
fn recovery_has_a_bounded_number_of_bytes_to_read() {
    let mut node = Node::new();
    let (large, small) = (
        node.create("large", NODE).unwrap(),
        node.create("small", NODE).unwrap(),
    );
    append_own(&small);
    (0..20).for_each(|_| append_own(&large));
    let dirty = |replica: &Replica| replica.with(|p| p.log().uncheckpointed_bytes());
    let (of_large, of_small) = (dirty(&large), dirty(&small));
    assert!(of_large == 20 * of_small && of_small > 0);
    let bound = |limit: u64| crate::maintenance::bound_recovery(&node.replicas, limit as i64);
    bound(of_large + of_small);
    assert_eq!(dirty(&large), of_large, "it is within the bound");
    bound(of_large);
    assert_eq!((dirty(&large), dirty(&small)), (0, of_small));
    append_own(&large);
    assert_eq!(dirty(&large), of_small);
    // Sealed segments come first, because nobody appends to them.
    replica_rolls(&large);
    append_own(&large);
    append_own(&small);
    bound(3 * of_small);
    assert_eq!((dirty(&large), dirty(&small)), (of_small, 2 * of_small));
    let ends = |replica: &Replica| replica.with(|p| (p.log().recovery_point(), p.log().log_end_offset()));
    assert_eq!(ends(&large), (210, 220));
}

/// Small logs are flushed several in a round; none is left out where one round ends.
#[test]
fn recovery_of_many_small_logs_is_bounded_too() {
    let mut node = Node::new();
    let all: Vec<Arc<Replica>> = (0..70)
        .map(|number| node.create(&format!("small-{number}"), NODE).unwrap())
        .collect();
    all.iter().for_each(|replica| append_own(replica));
    let dirty = |replica: &Arc<Replica>| replica.with(|p| p.log().uncheckpointed_bytes());
    let each = dirty(&all[0]);
    assert!(each > 0 && all.iter().all(|replica| dirty(replica) == each));
    crate::maintenance::bound_recovery(&node.replicas, (60 * each) as i64);
    let left: u64 = all.iter().map(dirty).sum();
    assert_eq!(
        left,
        30 * each,
        "half of the bound, and not more than that was flushed"
    );
    crate::maintenance::bound_recovery(&node.replicas, 0);
    assert!(all.iter().all(|replica| dirty(replica) == 0));
}

fn replica_rolls(replica: &Replica) {
    replica.with(|p| p.log_mut().roll(clock::now())).unwrap();
}
