//! A small file system in memory, where this process may mount one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of the file that takes all the room.
const FILLER: &str = "filler";

/// A mounted file system. Dropped, it is gone.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one at `path` with these options of tmpfs; None, and a line that says so, where that is not permitted.
    ///
    /// # Panics
    /// The mount point cannot be made.
    #[must_use]
    pub fn mount(path: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&path).expect("the test's directory can be written to");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path);
        if command.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        eprintln!("not run: only root can mount a small disk");
        None
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes all the room there is.
    ///
    /// # Panics
    /// Something else than want of room ends it.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.0.join(FILLER)).expect("a file needs no room");
        let error = std::io::copy(&mut std::io::repeat(0), &mut file).expect_err("the disk is small");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Gives the room back.
    ///
    /// # Panics
    /// It was not filled.
    pub fn make_room(&self) {
        fs::remove_file(self.0.join(FILLER)).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still hold files open.
        _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}
