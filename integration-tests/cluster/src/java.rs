//! Apache Kafka's own tools, where java and Kafka's jars are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Kafka's jars: in `KAFKA_LIBS`, or where the project's scripts put them.
///
/// # Errors
/// Why there is no java, or are no jars.
pub fn kafka_libs() -> Result<PathBuf, String> {
    let java = Command::new("java").arg("-version").output();
    if !java.is_ok_and(|output| output.status.success()) {
        return Err("java is not installed".to_owned());
    }
    if let Some(libs) = std::env::var_os("KAFKA_LIBS") {
        return Ok(libs.into());
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let places = [
        (".cache/odradek", "kafka-libs"),
        (".cache/kafka-reference", "libs-"),
    ];
    places
        .iter()
        .flat_map(|(directory, prefix)| with_prefix(&home.join(directory), prefix))
        .max()
        .ok_or_else(|| {
            "Kafka's jars are neither in KAFKA_LIBS nor in ~/.cache/odradek/kafka-libs*".to_owned()
        })
}

fn with_prefix(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let found = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    found
        .map(|entry| entry.path())
        .filter(|path| holds_a_jar(path))
        .collect()
}

fn holds_a_jar(directory: &Path) -> bool {
    let mut entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.any(|entry| {
        entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "jar")
    })
}

/// Runs a main class of Kafka's jars and waits for it.
///
/// # Panics
/// java cannot be started.
pub fn run(libs: &Path, class: &str, arguments: &[&str]) -> Output {
    let mut class_path = OsString::from(libs);
    class_path.push("/*");
    let mut command = Command::new("java");
    command
        .arg("-Xmx256m")
        .arg("-XX:TieredStopAtLevel=1")
        .arg("-cp")
        .arg(class_path)
        .arg(class)
        .args(arguments);
    command.output().expect("java can be started")
}
