//! The tree is tidy and its generated files are fresh.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize()
        .expect("the workspace is where this crate was built")
}

#[test]
fn the_tree_is_tidy() {
    let findings = xtask::tidy::check(&root()).unwrap();
    let shown: Vec<String> = findings
        .iter()
        .map(|f| format!("{}: {}", f.file, f.problem))
        .collect();
    assert!(findings.is_empty(), "\n{}", shown.join("\n"));
}

#[test]
fn every_typed_setting_is_read_outside_of_config() {
    let findings = xtask::settings::check(&root()).unwrap();
    let shown: Vec<&str> = findings.iter().map(|f| f.problem.as_str()).collect();
    assert!(findings.is_empty(), "\n{}", shown.join("\n"));
}

#[test]
fn generated_files_are_what_their_generators_write() {
    for generated in xtask::protobuf::GENERATED {
        let fresh = xtask::protobuf::generate(&root(), generated).unwrap();
        let committed = std::fs::read_to_string(root().join(generated.rust)).unwrap();
        assert!(
            fresh == committed,
            "{} is stale: run `cargo run -p xtask -- generate`",
            generated.rust
        );
    }
}

#[test]
fn the_top_level_is_the_one_that_was_asked_for() {
    for wanted in [
        "Cargo.toml",
        "broker",
        "controller",
        "common",
        "config",
        "integration-tests",
        "Makefile",
        "grafana",
    ] {
        assert!(root().join(wanted).exists(), "{wanted} is missing");
    }
}
