//! Log directories: disks that are full or fail, and replicas that move from one to another.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kafka_protocol::messages::DescribeLogDirsRequest;
use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::node::Node;

mod failing;
mod moving;
mod scrubbing;

const LIMIT: Duration = Duration::from_secs(60);
/// The least that a segment may hold.
const SEGMENT_BYTES: &str = "1048576";

fn configure(node: &Node, lines: &[(&str, String)]) {
    let mut text = fs::read_to_string(node.properties()).expect("the harness wrote it");
    for (key, value) in lines {
        text.push_str(&format!("{key}={value}\n"));
    }
    fs::write(node.properties(), text).expect("the test's directory can be written to");
}

fn list(directories: &[&Path]) -> String {
    let shown = directories.iter().map(|path| path.display().to_string());
    shown.collect::<Vec<_>>().join(",")
}

async fn described(connection: &Connection, directory: &Path) -> DescribeLogDirsResult {
    let request = DescribeLogDirsRequest::default().with_topics(None);
    let results = connection.ask(request).await.results;
    let shown = directory.display().to_string();
    let mut found = results
        .into_iter()
        .filter(|result| result.log_dir.as_str() == shown);
    found.next().expect("each log directory is described")
}

/// The partitions of `topic` that a directory holds.
async fn partitions_in(connection: &Connection, directory: &Path, topic: &str) -> Vec<i32> {
    let described = described(connection, directory).await;
    let of_topic = described.topics.iter().filter(|it| it.name.as_str() == topic);
    let mut held: Vec<i32> = of_topic
        .flat_map(|it| it.partitions.iter().map(|p| p.partition_index))
        .collect();
    held.sort_unstable();
    held
}

fn two_directories(node: &Node) -> [PathBuf; 2] {
    let directories = [node.log_dir(), node.directory().join("more")];
    configure(node, &[("log.dirs", list(&[&directories[0], &directories[1]]))]);
    directories
}
