//! What a run ran on: the machine, and the versions of everything that was measured.

use std::fmt;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::kernel_settings::{self, CONGESTION_CONTROL, HALT_POLL_NS, PAGE_REPORTING_ORDER};
use crate::systems::Programs;

/// The machine and the versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// This project's revision.
    pub revision: String,
    /// The compiler.
    pub rustc: String,
    /// The kernel.
    pub kernel: String,
    /// The processor.
    pub cpu: String,
    /// Its cores.
    pub cores: usize,
    /// The machine's memory.
    pub memory_gib: u64,
    /// The file system that data is on.
    pub file_system: String,
    /// How TCP paces.
    pub congestion_control: String,
    /// From which order on free blocks of pages go back to the host, if this is a virtual machine that gives any.
    #[serde(default)]
    pub page_reporting_order: Option<String>,
    /// How long an idle core looks for work before it halts, if this is a virtual machine whose cores can.
    #[serde(default)]
    pub halt_poll_ns: Option<String>,
    /// Apache Kafka's version, if its jars are here.
    pub kafka: Option<String>,
    /// The JVM's version, if there is one.
    pub jvm: Option<String>,
}

impl Machine {
    /// Looks; what cannot be found out is called unknown.
    pub fn look(programs: &Programs) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let kib = kib_of(&meminfo, "MemTotal:");
        Self {
            revision: said("git", &["describe", "--always", "--dirty", "--exclude", "*"]),
            rustc: said("rustc", &["--version"]),
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: field(&cpuinfo, "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_gib: kib >> 20,
            file_system: file_system(&mounts, &programs.data).unwrap_or_else(unknown),
            congestion_control: kernel_settings::value(CONGESTION_CONTROL).unwrap_or_else(unknown),
            page_reporting_order: kernel_settings::value(PAGE_REPORTING_ORDER),
            halt_poll_ns: kernel_settings::value(HALT_POLL_NS),
            kafka: programs.jars.as_deref().and_then(kafka_version),
            jvm: programs.jars.as_ref().map(|_| jvm_version()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} x {}, {} GiB, Linux {}, data on {}, TCP {}",
            self.cores, self.cpu, self.memory_gib, self.kernel, self.file_system, self.congestion_control
        )?;
        let settings = [
            ("page_reporting_order", &self.page_reporting_order),
            ("guest_halt_poll_ns", &self.halt_poll_ns),
        ];
        for (name, value) in settings {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        writeln!(f, ".")?;
        write!(f, "Odradek {}, {}", self.revision, self.rustc)?;
        if let (Some(kafka), Some(jvm)) = (&self.kafka, &self.jvm) {
            write!(f, "; Apache Kafka {kafka}, {jvm}")?;
        }
        writeln!(f, ".")
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

/// The value of a field in the style of /proc.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches([':', ' ', '\t']).trim().to_owned())
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(_) | Err(_) => unknown(),
    }
}

/// The version in the server jar's name.
fn kafka_version(jars: &Path) -> Option<String> {
    fs::read_dir(jars).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name.strip_prefix("kafka_2.13-")?.strip_suffix(".jar")?;
        Some(version.to_owned())
    })
}

/// Waits until the disk has everything: what an earlier load left in memory is not written in the window of the next, which
/// would otherwise be dearest for the system that gets there first.
pub fn settle() {
    rustix::fs::sync();
}

/// Writes to so much memory, page by page, and gives it back: the first touch of a page makes a virtual machine's host find one,
/// 3 s/GB on a nested machine, and whoever is measured first would pay. Leaves a little of what is free.
pub fn touch_memory(bytes: u64) {
    const LEFT_BYTES: u64 = 1 << 30;
    const PAGE_BYTES: usize = 4096;
    const PART_BYTES: usize = 256 << 20;
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = kib_of(&meminfo, "MemFree:") << 10;
    let bytes = bytes.min(free.saturating_sub(LEFT_BYTES));
    let parts = usize::try_from(bytes).unwrap_or(0) / PART_BYTES;
    let mut touched = Vec::with_capacity(parts);
    for _ in 0..parts {
        let mut part = vec![0_u8; PART_BYTES];
        for page in part.chunks_mut(PAGE_BYTES) {
            page[0] = 1;
        }
        touched.push(black_box(part));
    }
}

/// A field of /proc/meminfo in KiB, 0 if there is none.
fn kib_of(meminfo: &str, name: &str) -> u64 {
    let text = field(meminfo, name);
    text.and_then(|text| text.trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0)
}

fn jvm_version() -> String {
    let output = Command::new("java").arg("-version").output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stderr).into_owned())
        .unwrap_or_default();
    // The second line names the runtime with its build.
    text.lines()
        .nth(1)
        .map_or_else(unknown, |line| line.trim().to_owned())
}

/// The type of the file system that a path is on, by the longest mount point above it.
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((Path::new(fields.next()?), fields.next()?))
    });
    let above = mounts.filter(|(point, _)| path.starts_with(point));
    above
        .max_by_key(|(point, _)| point.components().count())
        .map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_point_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/no-such-folder xfs rw 0 0\n";
        assert_eq!(
            file_system(mounts, Path::new("/tmp/no-such-folder/x")).unwrap(),
            "xfs"
        );
        assert_eq!(file_system(mounts, Path::new("/no-such-folder")).unwrap(), "ext4");
    }

    #[test]
    fn fields_are_found_with_and_without_blanks() {
        assert_eq!(
            field("a: 1\nmodel name\t: Chip 9\n", "model name").unwrap(),
            "Chip 9"
        );
        assert_eq!(
            field("MemTotal:       2048 kB\n", "MemTotal:").unwrap(),
            "2048 kB"
        );
    }
}
