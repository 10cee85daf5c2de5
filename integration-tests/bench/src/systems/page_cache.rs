//! Files put on the disk and dropped from memory, as if they had been written long ago.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise};

/// Puts a file on the disk and drops it from memory.
///
/// # Errors
/// It cannot be opened or written back.
pub fn drop_file(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    // Pages that are not on the disk stay in memory whatever the advice.
    file.sync_all()
        .with_context(|| format!("writing back {}", path.display()))?;
    fadvise(&file, 0, None, Advice::DontNeed)
        .with_context(|| format!("dropping {} from memory", path.display()))
}

/// Drops all files directly in a folder.
///
/// # Errors
/// As [`drop_file`].
pub fn drop_folder(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_file() {
            drop_file(&path)?;
        }
    }
    Ok(())
}
