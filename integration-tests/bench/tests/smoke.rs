//! Every workload of the benchmark runs in small against this build's `odradek`, and the report comes out whole. What is
//! tested is that records arrive and results are complete, never how long anything took.

use std::process::Command;

use odradek_cluster_tests::binary;

#[test]
fn every_workload_runs_and_the_report_is_whole() {
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_odradek-bench"))
        .args(["smoke", "--out"])
        .arg(out.path())
        .env("ODRADEK_BIN", binary::odradek())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let page = std::fs::read_to_string(out.path().join("README.md")).unwrap();
    for heading in ["## Produce, one node", "## Compaction", "## Runs", "## Soak"] {
        assert!(page.contains(heading), "{heading} is missing from\n{page}");
    }
    assert!(out.path().join("soak.csv").exists());
}
