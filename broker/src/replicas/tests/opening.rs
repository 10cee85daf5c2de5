//! Logs that cannot be opened: who hears of it, so that another replica can lead.

use super::*;

/// Replaces the first segment of a partition's log by a folder, which opens as no file, whoever asks.
fn block(directory: &DataDirectory, partition: &str) {
    let segment = directory.path().join(partition).join("00000000000000000000.log");
    std::fs::remove_file(&segment).unwrap();
    std::fs::create_dir(&segment).unwrap();
}

#[test]
fn a_disk_that_fails_while_a_log_is_opened_takes_its_directory_offline_and_no_other() {
    let folder = Arc::new(TempDir::new().unwrap());
    let paths = ["a", "b"].map(|name| folder.path().join(name));
    let start = || Node::at(folder.clone(), &paths, &[], LogDirectoryOptions::default());
    let mut killed = start();
    let replicas = ["broken", "one", "other"].map(|name| killed.create(name, NODE).unwrap());
    replicas.iter().for_each(|replica| append_own(replica));
    let failing = replicas[0].directory().path().to_owned();
    let is_beside = [1, 2].map(|at| replicas[at].directory().path() == failing);
    assert!(is_beside[0] != is_beside[1], "one in each directory");
    block(&replicas[0].directory(), "broken-0");
    let image = killed.image.clone();
    drop((replicas, killed));

    let mut node = start();
    node.change(|it| *it = image);
    for directory in node.replicas.directories() {
        assert_eq!(directory.is_offline(), directory.path() == failing);
    }
    assert!(node.replicas.get("broken", 0).is_none());
    for (name, is_beside) in ["one", "other"].into_iter().zip(is_beside) {
        let replica = node.replicas.get(name, 0);
        let serves = replica.is_some_and(|replica| !replica.is_offline());
        assert_eq!(serves, !is_beside, "{name}");
    }
}

#[test]
fn a_log_that_is_too_damaged_to_open_is_reported_lost_until_that_is_recorded() {
    let mut node = Node::new();
    let replica = node.create("t", NODE).unwrap();
    let (works, topic_id) = (replica.directory().id(), replica.topic_id);
    _ = node.replicas.assignments().take(NODE, node.replicas.failures());
    let corrupt = LogError::Corrupt {
        path: "0.log".into(),
        position: 0,
        detail: "no batch".to_owned(),
    };
    let tell = |node: &Node, recorded: Uuid| {
        let topic = node.image.topic("t").unwrap();
        let partition = PartitionImage {
            directories: vec![recorded, Uuid::nil()],
            ..(*topic.partitions[0]).clone()
        };
        node.replicas.not_opened(topic, &partition, 0, &corrupt);
        directories(&node.replicas.assignments().take(NODE, node.replicas.failures()))
    };
    let told = tell(&node, works);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].id, LOST_DIRECTORY);
    assert_eq!(told[0].topics[0].topic_id, topic_id);
    assert_eq!(told[0].topics[0].partitions[0].partition_index, 0);
    assert!(tell(&node, LOST_DIRECTORY).is_empty(), "it is recorded");
    assert!(!node.replicas.directories()[0].is_offline(), "others are served");

    // It opens after all before anybody could be told.
    let topic = node.image.topic("t").unwrap();
    node.replicas.not_opened(topic, &topic.partitions[0], 0, &corrupt);
    node.replicas.failures().settled(topic_id, 0);
    assert!(
        node.replicas
            .assignments()
            .take(NODE, node.replicas.failures())
            .is_empty()
    );
}

/// Its directory was taken out of log.dirs, or another disk stands in its place.
#[test]
fn an_empty_log_does_not_take_the_place_of_one_whose_directory_is_gone() {
    let mut node = Node::new();
    let wanted = Uuid::from_u128(0xd15c);
    let partition = |isr: i32, elr: i32, leader: i32| PartitionImage {
        replicas: vec![NODE, OTHER],
        directories: vec![wanted, Uuid::nil()],
        isr: vec![isr],
        elr: vec![elr],
        leader,
        ..PartitionImage::default()
    };
    node.change(|image| add_topic(image, "last", partition(NODE, OTHER, -1)));
    node.change(|image| add_topic(image, "eligible", partition(OTHER, NODE, OTHER)));
    assert!(node.replicas.get("last", 0).is_none());
    assert!(node.replicas.get("eligible", 0).is_none());
    // Nobody counts on this one: it fetches everything anew.
    node.change(|image| add_topic(image, "follower", partition(OTHER, OTHER, OTHER)));
    assert!(node.replicas.get("follower", 0).is_some());
}
