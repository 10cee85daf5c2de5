//! A memory cgroup for one cluster, of version 1 or 2, below the one that this program runs in.
//!
//! With a limit below the machine's memory, a system's page cache soon consists of pages that it had before. A virtual
//! machine pays dearly for the first touch of each page, which would hide what the system itself costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Where the kernel shows its cgroups.
const ROOT: &str = "/sys/fs/cgroup";
/// Looks at a cgroup whose processes are ending, and the pause between two.
const REMOVE_ATTEMPTS: u32 = 200;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// A cgroup with a limit. Dropped, it is removed; its processes must have ended.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    limit_bytes: u64,
}

impl Cgroup {
    /// A cgroup, if one can be made here.
    pub fn create(limit_bytes: u64) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        candidates(&own).iter().find_map(|(parent, limit_file)| {
            let folder = make_folder(parent)?;
            let limit = folder.join(limit_file);
            if limit.exists() && fs::write(&limit, limit_bytes.to_string()).is_ok() {
                return Some(Self { folder, limit_bytes });
            }
            // Without a memory controller the folder is of no use; nothing else is lost if it stays.
            _ = fs::remove_dir(&folder);
            None
        })
    }

    /// The limit.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// The command, which begins its life in this cgroup: a shell joins and becomes the program.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("sh");
        wrapped
            .args(["-c", r#"echo $$ >"$0" && exec "$@""#])
            .arg(self.folder.join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args());
        wrapped
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..REMOVE_ATTEMPTS {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(REMOVE_PAUSE);
        }
    }
}

/// Parents that may take a cgroup, each with the name of its limit's file.
fn candidates(own: &str) -> Vec<(PathBuf, &'static str)> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (
            fields.next(),
            fields.next().unwrap_or(""),
            fields.next().unwrap_or("/"),
        );
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|controller| controller == "memory") {
            found.push((Path::new(ROOT).join("memory").join(path), "memory.limit_in_bytes"));
        } else if controllers.is_empty() {
            // Version 2: a cgroup with processes takes no children with controllers, so its parent may be the place.
            let own = Path::new(ROOT).join(path);
            let parent = own.parent().filter(|_| !path.is_empty());
            found.extend(parent.map(|parent| (parent.to_path_buf(), "memory.max")));
            found.push((own, "memory.max"));
        }
    }
    found
}

fn make_folder(parent: &Path) -> Option<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = parent.join(format!("odradek-bench-{}-{number}", process::id()));
    fs::create_dir(&folder).ok()?;
    Some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_hierarchy_of_version_1_comes_where_it_stands() {
        let found = candidates("5:cpu,cpuacct:/a\n4:memory:/a/b\n");
        assert_eq!(
            found,
            [(
                PathBuf::from("/sys/fs/cgroup/memory/a/b"),
                "memory.limit_in_bytes"
            )]
        );
    }

    #[test]
    fn version_2_tries_the_parent_first() {
        let found = candidates("0::/user.slice/session.scope\n");
        assert_eq!(
            found[0],
            (PathBuf::from("/sys/fs/cgroup/user.slice"), "memory.max")
        );
        assert_eq!(
            found[1].0,
            PathBuf::from("/sys/fs/cgroup/user.slice/session.scope")
        );
    }

    #[test]
    fn a_wrapped_command_becomes_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let cgroup = Cgroup {
            folder: folder.path().to_path_buf(),
            limit_bytes: 1,
        };
        let mut command = Command::new("echo");
        command.args(["two words", "$HOME"]);
        let output = cgroup.wrap(&command).output().unwrap();
        assert_eq!(output.stdout, b"two words $HOME\n");
        let joined = fs::read_to_string(folder.path().join("cgroup.procs")).unwrap();
        assert!(joined.trim().parse::<u32>().is_ok(), "{joined}");
        fs::remove_file(folder.path().join("cgroup.procs")).unwrap();
    }
}
