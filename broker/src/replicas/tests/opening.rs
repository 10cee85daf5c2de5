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
    let replicas = ["broken", "beside", "another"].map(|name| killed.create(name, NODE).unwrap());
    replicas.iter().for_each(|replica| append_own(replica));
    let [broken, beside, _] = &replicas;
    let failing = broken.directory().path().to_owned();
    let mut names = vec!["broken"];
    if beside.directory().path() == failing {
        names.push("beside");
    } else {
        names.push("another");
    }
    block(&broken.directory(), "broken-0");
    let image = killed.image.clone();
    drop((replicas, killed));

    let mut node = start();
    node.change(|it| *it = image);
    for directory in node.replicas.directories() {
        assert_eq!(directory.is_offline(), directory.path() == failing);
    }
    assert!(node.replicas.get("broken", 0).is_none());
    for name in ["beside", "another"] {
        let replica = node.replicas.get(name, 0);
        let serves = replica.is_some_and(|replica| !replica.is_offline());
        assert_eq!(serves, !names.contains(&name), "{name}");
    }
}

#[test]
fn a_log_that_is_too_damaged_to_open_is_reported_lost_until_that_is_recorded() {
    let mut node = Node::new();
    let replica = node.create("t", NODE).unwrap();
    let (works, topic_id) = (replica.directory().id(), replica.topic_id);
    _ = node.replicas.assignments().take(NODE);
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
        directories(&node.replicas.assignments().take(NODE))
    };
    let told = tell(&node, works);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].id, LOST_DIRECTORY);
    assert_eq!(told[0].topics[0].topic_id, topic_id);
    assert_eq!(told[0].topics[0].partitions[0].partition_index, 0);
    assert!(tell(&node, LOST_DIRECTORY).is_empty(), "it is recorded");
    assert!(!node.replicas.directories()[0].is_offline(), "others are served");
}
