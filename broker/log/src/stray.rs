//! Folders of partitions that the metadata does not know, or places elsewhere: set aside, never removed.
//!
//! The metadata may be wrong: controllers that were formatted anew or restored from an old backup know nothing of what is here.
//! As in Kafka such a folder gets the name `<topic>-<partition>.<unique id>-stray`, and stays until somebody removes it by
//! hand. The index forgets the partition, so that a later one of the same name, or the same one, begins without what was
//! known of this one. A folder that gets its old name back while the broker is stopped is read from its first byte.

use std::fs;

use slog::{info, warn};
use uuid::Uuid;

use crate::directory::{Aside, DirectoryShared, FOLDER_NAME_BYTES_MAX, LogDirectory};
use crate::error::LogError;
use crate::log::PartitionIdentity;
use crate::store::PartitionKey;

const STRAY_SUFFIX: &str = "-stray";

impl LogDirectory {
    /// Sets a partition aside that is not open, as [`LogDirectory::partitions`] lists it. Its records stay on the disk. Blocks.
    ///
    /// # Errors
    /// The folder cannot be renamed, or the index not be written: the partition is still known.
    pub fn set_stray(&self, identity: &PartitionIdentity) -> Result<(), LogError> {
        let key = PartitionKey::new(identity.topic_id, identity.partition);
        self.discard(&identity.folder(), Some(key), Aside::Stray)
    }

    /// How many folders of stray partitions there are.
    #[must_use]
    pub fn stray_partitions(&self) -> usize {
        let mut strays = self.shared.strays.lock();
        // They go by hand, and nobody tells.
        strays.retain(|name| self.shared.path.join(name).exists());
        strays.len()
    }

    /// Finds the folders that were set aside before.
    pub(crate) fn find_strays(&self) -> Result<(), LogError> {
        let list = |source| self.shared.io("list it", source);
        let mut strays = self.shared.strays.lock();
        for entry in fs::read_dir(&self.shared.path).map_err(list)? {
            let name = entry.map_err(list)?.file_name().into_string();
            strays.extend(name.ok().filter(|name| name.ends_with(STRAY_SUFFIX)));
        }
        if !strays.is_empty() {
            info!(self.shared.logger, "folders of stray partitions are left alone";
                "path" => %self.shared.path.display(), "folders" => strays.len());
        }
        Ok(())
    }
}

impl DirectoryShared {
    /// A folder got the name of a stray one.
    pub(crate) fn note_stray(&self, folder: &str, name: String) {
        warn!(self.logger, "a partition is stray: the metadata does not know its topic, or places it elsewhere. \
            Its folder is kept under another name: remove that by hand if it is not needed, or restore the \
            metadata and give the folder its old name back while the broker is stopped";
            "partition" => folder, "folder" => %self.path.join(&name).display());
        self.strays.lock().insert(name);
    }
}

/// Kafka's name: what is too long is cut off the topic.
pub(crate) fn stray_name(folder: &str) -> String {
    let (topic, partition) = folder.rsplit_once('-').unwrap_or((folder, "0"));
    let suffix = format!("-{partition}.{}{STRAY_SUFFIX}", Uuid::new_v4().simple());
    // Topic names are ASCII, so any byte is a border.
    let kept = topic.len().min(FOLDER_NAME_BYTES_MAX - suffix.len());
    format!("{}{suffix}", &topic[..kept])
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::directory::parse_folder;

    #[test]
    fn names_are_kafkas_and_no_partition_s() {
        let name = stray_name("a-b-12");
        let id = name
            .strip_prefix("a-b-12.")
            .and_then(|rest| rest.strip_suffix("-stray"));
        assert!(id.is_some_and(|id| id.len() == 32), "{name}");
        assert_eq!(parse_folder(&name), None);
        let long = stray_name(&format!("{}-7", "t".repeat(249)));
        assert!(
            long.len() == FOLDER_NAME_BYTES_MAX && long.contains("t-7."),
            "{long}"
        );
    }
}
