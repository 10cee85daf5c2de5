//! Where the binary under test is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `odradek` binary of this build, built first if that is needed; `OD_BINARY` names another one.
///
/// # Panics
/// It cannot be built.
pub fn odradek() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("OD_BINARY") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// Cargo makes sure of freshness: tests against yesterday's binary would say nothing.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its executable");
    let profile_dir = test
        .parent()
        .and_then(Path::parent)
        .expect("test binaries are in <target>/<profile>/deps");
    let target_dir = profile_dir
        .parent()
        .expect("a profile's directory is inside the target directory");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--locked",
        "--package",
        "odradek-broker",
        "--bin",
        "odradek",
    ]);
    command.arg("--target-dir").arg(target_dir);
    if profile_dir.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = command.status().expect("cargo can be started");
    assert!(
        status.success(),
        "`cargo build --package odradek-broker` failed; mend it, or name a binary in OD_BINARY"
    );
    let binary = profile_dir.join("odradek");
    assert!(
        binary.is_file(),
        "{} is missing after it was built",
        binary.display()
    );
    binary
}
