//! The applications of examples/ do what their READMEs say, against three nodes: each proves it itself and says so.

use std::path::{Path, PathBuf};
use std::process::Command;

use odradek_cluster_tests::cluster::TestCluster;
use odradek_cluster_tests::node::Node;

/// What the tutorials name, in the order of examples/README.md.
const EXAMPLES: &[&str] = &[
    "asynchronous-jobs",
    "broadcast",
    "peak-shaving",
    "log-aggregation",
    "operational-metrics",
    "stream-processing",
    "exactly-once-transfer",
];

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// What the script says of an example, "NAME  LANGUAGE  ok  WHAT IT PROVED".
fn is_proved(said: &str, example: &str) -> bool {
    said.lines()
        .map(|line| line.split_whitespace().collect::<Vec<&str>>())
        .any(|words| words.len() > 3 && words[0] == example && words[2] == "ok")
}

#[tokio::test]
async fn every_example_proves_what_it_says() {
    let script = examples().join("run.sh");
    // The machine and the network answer for this, not the cluster.
    let setup = Command::new(&script)
        .arg("setup")
        .status()
        .expect("the script can be started");
    assert!(
        setup.success(),
        "the examples cannot be built; `make test` sets up what is missing, or says what to install"
    );
    let cluster = TestCluster::start(3, &[]).await;
    let bootstrap: Vec<String> = cluster.nodes().iter().map(Node::address).collect();
    let run = tokio::task::spawn_blocking(move || Command::new(script).arg(bootstrap.join(",")).output());
    let output = run
        .await
        .expect("it does not panic")
        .expect("the script can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    let problems = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{problems}");
    for example in EXAMPLES {
        assert!(is_proved(&said, example), "{example}: {said}\n{problems}");
    }
}

#[test]
fn every_example_has_a_page_with_a_picture_and_is_linked() {
    let index = std::fs::read_to_string(examples().join("README.md")).expect("examples/README.md is there");
    let readme = std::fs::read_to_string(examples().join("../README.md")).expect("README.md is there");
    let mut folders: Vec<String> = std::fs::read_dir(examples())
        .expect("examples is there")
        .map(|entry| entry.expect("a folder can be listed"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let mut expected = EXAMPLES.to_vec();
    expected.sort_unstable();
    assert_eq!(folders, expected);
    for example in EXAMPLES {
        let page = std::fs::read_to_string(examples().join(example).join("README.md"));
        let page = page.expect("an example has a README.md");
        assert!(page.contains("```mermaid"), "{example} has no picture");
        assert!(
            index.contains(&format!("]({example})")),
            "{example} is not in examples/README.md"
        );
        assert!(
            readme.contains(&format!("](examples/{example})")),
            "{example} is not linked from README.md"
        );
    }
}
