//! Where the binary under test is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `odradek` binary of this build, built first if that is needed; `OD_BINARY` names another one.
///
/// # Panics
/// It cannot be built.
pub fn odradek() -> &'static Path {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let binary = BINARY.get_or_init(|| match std::env::var_os("OD_BINARY") {
        Some(path) => Ok(PathBuf::from(path)),
        None => build(None),
    });
    match binary {
        Ok(path) => path,
        Err(reason) => panic!("{reason}"),
    }
}

/// The binary as it is shipped, built first if that is needed: for counts, which an unoptimised one says nothing about.
///
/// # Panics
/// It cannot be built.
pub fn release() -> &'static Path {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BINARY.get_or_init(|| build(Some("release"))) {
        Ok(path) => path,
        Err(reason) => panic!("{reason}"),
    }
}

/// Cargo makes sure of freshness: tests against yesterday's binary would say nothing. Without a profile it is the test's own.
fn build(profile: Option<&str>) -> Result<PathBuf, String> {
    let test = std::env::current_exe().expect("a process knows its executable");
    let profile_dir = test
        .parent()
        .and_then(Path::parent)
        .expect("test binaries are in <target>/<profile>/deps");
    let target_dir = profile_dir
        .parent()
        .expect("a profile's directory is inside the target directory");
    let own = profile_dir.file_name().and_then(|name| name.to_str());
    let profile = profile.or(own).unwrap_or("debug");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "--bin", "odradek"]);
    command.arg("--target-dir").arg(target_dir);
    if profile == "release" {
        // As `make build` does: a selection of packages would have other features, and everything would be built twice.
        command.args(["--release", "--workspace"]);
    } else {
        command.args(["--package", "odradek-broker"]);
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = command
        .status()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !status.success() {
        return Err(
            "`cargo build --package odradek-broker` failed; mend it, or name a binary in OD_BINARY"
                .to_owned(),
        );
    }
    let binary = target_dir.join(profile).join("odradek");
    if binary.is_file() {
        Ok(binary)
    } else {
        Err(format!("{} is missing after it was built", binary.display()))
    }
}
