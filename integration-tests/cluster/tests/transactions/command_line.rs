//! `odradek transactions` against a node with an open transaction.

use std::process::Command;

use odradek_cluster_tests::binary;
use odradek_cluster_tests::records;
use odradek_cluster_tests::shared::single;

use crate::producer::Producer;
use crate::visibility::shows;

/// Whether the command succeeds, and what it prints.
async fn transactions(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(binary::odradek())
        .args(["transactions", "--bootstrap-server", single().await.address(1)])
        .args(arguments)
        .output()
        .expect("the binary can be started");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

async fn succeeds(arguments: &[&str]) -> String {
    let (success, text) = transactions(arguments).await;
    assert!(success, "{arguments:?}: {text}");
    text
}

#[tokio::test]
async fn an_open_transaction_is_listed_described_and_ended_by_force() {
    const NAME: &str = "by-force";
    let connection = single().await.connect().await;
    connection.create_topic(NAME, 1, 1, &[]).await;
    let mut producer = Producer::begin(&connection, NAME).await;
    producer.add(NAME, &[0]).await;
    producer.produce(&connection, NAME, 0, &["never"]).await;

    let listed = succeeds(&["list"]).await;
    let is_open = |line: &str| line.contains(NAME) && line.contains("Ongoing");
    assert!(listed.lines().any(is_open), "{listed}");
    let described = succeeds(&["describe", "--transactional-id", NAME]).await;
    assert!(described.contains("by-force-0"), "{described}");
    let writers = succeeds(&["describe-producers", "--topic", NAME, "--partition", "0"]).await;
    assert!(writers.contains(&producer.id.to_string()), "{writers}");

    // Kafka's spelling.
    succeeds(&["forceTerminateTransaction", "--transactionalId", NAME]).await;
    connection.produce(NAME, 0, &records::batch(&["after"])).await;
    shows(&connection, NAME, &["after"]).await;
    let listed = succeeds(&["list"]).await;
    assert!(!listed.lines().any(is_open), "{listed}");
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let connection = single().await.connect().await;
    connection.create_topic("one-partition", 1, 1, &[]).await;
    for (arguments, reason) in [
        (
            vec![
                "describe-producers",
                "--topic",
                "one-partition",
                "--partition",
                "9",
            ],
            "has no partition 9",
        ),
        (
            vec!["force-terminate-transaction", "--transactional-id", "nobody"],
            "TransactionalIdNotFound",
        ),
        (
            vec!["list", "--transactional-id-pattern", "("],
            "is no regular expression",
        ),
    ] {
        let (success, text) = transactions(&arguments).await;
        assert!(!success && text.contains(reason), "{arguments:?}: {text}");
    }
}
