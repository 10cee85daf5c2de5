//! Moving a log to another log directory: a copy of it there that follows it and in the end takes its place.
//!
//! The copy's folder is named as Kafka names it, `<topic>-<partition>.<unique id>-future`. Whoever moves the log reads it in
//! slices and appends them here; this module keeps the copy in step with what else becomes of the log, puts it in its place,
//! and knows which of two directories is right if both hold a partition.
//!
//! Invariant: a copy takes the place when it is complete, through one rename, and not before. It was announced until then as
//! moved once more than the log it follows, and the partition is where it was moved most often. A copy that was not
//! complete when the process ended, or when the log that it follows failed, tells the next start that a move was under way. It
//! is discarded where the partition is found elsewhere, and becomes its log where it is the last there is of it.

use std::fs;
use std::io;
use std::sync::Arc;

use odradek_common::records::batch::BatchHeader;
use odradek_common::time::Now;
use slog::{info, warn};
use uuid::Uuid;

use crate::config::LogConfig;
use crate::directory::{
    Aside, FOLDER_NAME_BYTES_MAX, LogDirectory, METADATA_FILE, parse_folder, parse_metadata,
};
use crate::error::{AppendError, LogError};
use crate::log::{Log, PartitionIdentity};
use crate::open::{self, Folder};
use crate::store::{Batch, Kind, PartitionKey, Survive, decode_i64, name_key};

const FUTURE_SUFFIX: &str = "-future";
/// Digits of the unique id in the name of a copy's folder.
const UNIQUE_ID_DIGITS: usize = 32;

/// Whether a partition with this folder name can be moved: a copy's folder has a longer one (KAFKA-4893).
#[must_use]
pub fn can_move(folder: &str) -> bool {
    folder.len() + 1 + UNIQUE_ID_DIGITS + FUTURE_SUFFIX.len() <= FOLDER_NAME_BYTES_MAX
}

/// A log that is to be copied.
pub struct Followed {
    identity: PartitionIdentity,
    config: LogConfig,
    is_made: bool,
}

/// What a copy has to know of the log it follows, beside the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The lowest offset that the log's end went back to since it was asked last.
    cut: Option<i64>,
    /// Whether the log is on disk.
    is_made: bool,
    log_start_offset: i64,
    high_watermark: i64,
    /// The offset the next record will have.
    pub log_end_offset: i64,
}

impl LogDirectory {
    /// Begins a copy, still empty, of a partition that lives in another directory. Its folder tells the next start that a move
    /// is under way.
    ///
    /// What this directory holds of the partition, or of a namesake, is set aside. None if its log is open here.
    pub fn begin_future(&self, followed: Followed, now: Now) -> Result<Option<Log>, LogError> {
        let Followed {
            identity,
            config,
            is_made,
        } = followed;
        let folder = identity.folder();
        let stray = {
            let mut partitions = self.shared.partitions.lock();
            // Nobody opens a log by this name while what bears it is set aside.
            if !partitions.open.insert(folder.clone()) {
                return Ok(None);
            }
            partitions.known.get(&folder).copied()
        };
        let aside = match stray {
            Some(topic_id) if topic_id != identity.topic_id => Aside::Stray,
            Some(_) | None => Aside::AT_ONCE,
        };
        let discarded = self.discard(
            &folder,
            stray.map(|topic_id| PartitionKey::new(topic_id, identity.partition)),
            aside,
        );
        self.shared.note_closed(&folder);
        discarded?;
        // What a copy that could not be discarded has left would be taken for this one's.
        let mut batch = Batch::default();
        batch.delete_partition(&PartitionKey::new(identity.topic_id, identity.partition));
        self.shared.store.write(batch, Survive::Kill)?;
        let name = format!("{folder}.{}{FUTURE_SUFFIX}", Uuid::new_v4().simple());
        let path = self.shared.path.join(name);
        let mut log = open::open_log(self.shared.clone(), identity, Folder::Absent(path), config, now)?;
        log.is_future = true;
        if is_made {
            log.make_folder()?;
        }
        Ok(Some(log))
    }

    /// How often the partition was moved until it came here; 0 if it was made here.
    pub fn moves(&self, identity: &PartitionIdentity) -> Result<i64, LogError> {
        let key = PartitionKey::new(identity.topic_id, identity.partition);
        let moves = self.shared.store.get(&key.key(Kind::Moves, &[]))?;
        Ok(moves.map_or(0, |bytes| decode_i64(&bytes)))
    }

    /// Makes what a copy consists of survive a power loss, and notes how often it will have been moved. Blocks.
    ///
    /// False if there is nothing of the copy on disk, and so nothing that could be noted.
    pub fn announce_future(&self, log: &mut Log, moves: i64, now: Now) -> Result<bool, LogError> {
        if !log.made {
            return Ok(false);
        }
        log.checkpoint(now)?;
        self.checkpoint_high_watermarks(log.high_watermark_to_checkpoint())?;
        let key = log.key.key(Kind::Moves, &[]);
        self.shared
            .store
            .put(key, moves.to_be_bytes(), Survive::PowerLoss)?;
        self.flush_index()?;
        Ok(true)
    }

    /// A copy that is complete and announced becomes the partition's log. After an error it has not.
    pub fn promote(&self, log: &mut Log) -> Result<(), LogError> {
        let folder = log.identity.folder();
        let path = self.shared.path.join(&folder);
        if log.made {
            // The rename comes last: a name without a folder is forgotten by the next start.
            self.shared.store.put_name(&folder, log.identity.topic_id)?;
            if let Err(source) = fs::rename(&log.folder, &path) {
                let mut batch = Batch::default();
                batch.delete(name_key(&folder));
                self.shared.store.write(batch, Survive::Kill)?;
                return Err(self.shared.io(format!("rename {}", log.folder.display()), source));
            }
            log.persistence.note_names_changed();
        }
        let mut partitions = self.shared.partitions.lock();
        if log.made {
            partitions.known.insert(folder.clone(), log.identity.topic_id);
        }
        partitions.open.insert(folder);
        log.folder = path;
        log.is_registered = true;
        log.is_future = false;
        Ok(())
    }

    /// The log that a copy follows has failed: the copy is closed, and stays as if the process had ended.
    pub fn leave_future(&self, log: &mut Log) {
        log.closed = true;
        log.pass.overtake();
        log.close_files();
        if !log.is_made() {
            return;
        }
        let (identity, folder) = (log.identity.clone(), log.folder_name());
        warn!(self.shared.logger, "a copy stays, because the log that it follows has failed"; "folder" => &folder,
            "log_end_offset" => log.log_end_offset);
        self.shared.interrupted.lock().push((identity, folder));
    }

    /// What has arrived of an interrupted copy becomes the partition's log, where there is no other any more. It is read from its
    /// first byte when it is opened.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn adopt_interrupted(&self, identity: &PartitionIdentity) -> Result<(), LogError> {
        let mut interrupted = self.shared.interrupted.lock();
        let Some(at) = interrupted.iter().position(|(awaited, _)| awaited == identity) else {
            return Ok(());
        };
        let (folder, copy) = (identity.folder(), interrupted[at].1.clone());
        let namesake = self.shared.partitions.lock().known.get(&folder).copied();
        if let Some(topic_id) = namesake {
            let key = PartitionKey::new(topic_id, identity.partition);
            self.discard(&folder, Some(key), Aside::Stray)?;
        }
        let mut batch = Batch::default();
        batch.delete_partition(&PartitionKey::new(identity.topic_id, identity.partition));
        batch.put(name_key(&folder), identity.topic_id.as_bytes());
        // The rename comes last: a name without a folder is forgotten by the next start.
        self.shared.store.write(batch, Survive::Kill)?;
        let path = self.shared.path.join(&copy);
        fs::rename(&path, self.shared.path.join(&folder))
            .map_err(|source| self.shared.io(format!("rename {}", path.display()), source))?;
        self.shared
            .partitions
            .lock()
            .note_found(folder, identity.topic_id);
        interrupted.remove(at);
        warn!(self.shared.logger, "a partition goes on with what a move had copied: there is nothing else of it";
            "folder" => copy);
        Ok(())
    }

    /// The partitions of which a copy was on its way here when the process ended, and that are not known yet to be elsewhere.
    #[must_use]
    pub fn interrupted_moves(&self) -> Vec<PartitionIdentity> {
        let interrupted = self.shared.interrupted.lock();
        interrupted.iter().map(|(identity, _)| identity.clone()).collect()
    }

    /// Whether this partition is one of them: what it has lies in another directory, though it may be recorded to be here.
    #[must_use]
    pub fn awaits_move(&self, identity: &PartitionIdentity) -> bool {
        let interrupted = self.shared.interrupted.lock();
        interrupted.iter().any(|(awaited, _)| awaited == identity)
    }

    /// Discards what has arrived of an interrupted copy.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn discard_interrupted(&self, identity: &PartitionIdentity) -> Result<(), LogError> {
        let mut interrupted = self.shared.interrupted.lock();
        let of_it = interrupted.extract_if(.., |(awaited, _)| awaited == identity);
        let folders: Vec<String> = of_it.map(|(_, folder)| folder).collect();
        drop(interrupted);
        for folder in folders {
            self.discard(&folder, None, Aside::AT_ONCE)?;
            info!(self.shared.logger, "a copy that was not complete is discarded"; "folder" => folder);
        }
        Ok(())
    }

    /// Finds the copies that were not complete when the process ended. Nothing of them is used; their folders stay until it is
    /// known where their partitions are, however often the process is started before.
    pub(crate) fn find_interrupted(&self) -> Result<(), LogError> {
        let list = |source: io::Error| self.shared.io("list it", source);
        for entry in fs::read_dir(&self.shared.path).map_err(list)? {
            let entry = entry.map_err(list)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let Some((topic, partition)) = parse_future(&name) else {
                continue;
            };
            let metadata = fs::read_to_string(entry.path().join(METADATA_FILE)).ok();
            let Some(topic_id) = metadata.as_deref().and_then(parse_metadata) else {
                self.discard(&name, None, Aside::AT_ONCE)?;
                continue;
            };
            let identity = PartitionIdentity::new(topic, topic_id, partition);
            if !self.holds(&identity) {
                // The copy's keys are the partition's.
                let mut batch = Batch::default();
                batch.delete_partition(&PartitionKey::new(topic_id, partition));
                self.shared.store.write(batch, Survive::Kill)?;
            }
            self.shared.interrupted.lock().push((identity, name));
        }
        Ok(())
    }
}

impl Log {
    /// Whether this is a log of that directory.
    #[must_use]
    pub fn is_in(&self, directory: &LogDirectory) -> bool {
        Arc::ptr_eq(&self.directory, &directory.shared)
    }

    /// What [`LogDirectory::begin_future`] has to know of this log.
    #[must_use]
    pub fn to_follow(&self) -> Followed {
        Followed {
            identity: self.identity.clone(),
            config: self.config.clone(),
            is_made: self.made,
        }
    }

    /// What a copy that follows this log has to know. What is said of the log's end going back is said once.
    pub fn take_bounds(&mut self) -> Bounds {
        Bounds {
            cut: self.persistence.cut.take(),
            is_made: self.made,
            log_start_offset: self.log_start_offset,
            high_watermark: self.high_watermark,
            log_end_offset: self.log_end_offset,
        }
    }

    /// Whether the log's end went back since [`Log::take_bounds`] was called last.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.persistence.cut.is_some()
    }

    /// The log's end goes back; everything goes if `offset` is below the log start.
    pub(crate) fn note_cut(&mut self, offset: i64) {
        let cut = &mut self.persistence.cut;
        *cut = Some(cut.map_or(offset, |before| before.min(offset)));
    }

    /// Keeps a copy in step with the log it follows, save for the records that it lacks.
    pub fn follow(&mut self, now: Now, bounds: Bounds) -> Result<(), LogError> {
        let start = bounds.log_start_offset;
        if bounds.is_made {
            self.make_folder()?;
        }
        match bounds.cut {
            Some(cut) if cut <= self.log_start_offset && !self.segments.is_empty() => {
                self.truncate_fully_and_start_at(now, start)?;
            }
            Some(cut) if cut < self.log_end_offset => _ = self.truncate_to(now, cut)?,
            Some(_) | None => {}
        }
        if start > self.log_end_offset {
            self.truncate_fully_and_start_at(now, start)?;
        }
        self.set_high_watermark(bounds.high_watermark);
        self.maybe_increment_log_start_offset(start)?;
        self.delete_below_log_start(now)?;
        Ok(())
    }

    /// Appends records that follow this log's end in another replica, or in the log that this one is a copy of: as
    /// [`Log::append_as_follower`], but an empty log may begin within the first batch, which is only sent whole.
    pub fn append_fetched(
        &mut self,
        now: Now,
        records: &[u8],
        leader_epoch_max: i32,
    ) -> Result<(), AppendError> {
        if let Some(first_offset) = self.batch_around_start(records, leader_epoch_max) {
            self.truncate_fully_and_start_at(now, first_offset)?;
        }
        self.append_as_follower(now, records, leader_epoch_max)
            .map(|_| ())
    }

    /// Where the first batch begins, if this log is empty and begins within it: DeleteRecords may set a log start into a batch.
    fn batch_around_start(&self, records: &[u8], leader_epoch_max: i32) -> Option<i64> {
        let end = self.log_end_offset;
        let header = BatchHeader::parse(records).ok()?;
        let around = header.base_offset < end
            && header.last_offset() >= end
            && header.partition_leader_epoch <= leader_epoch_max;
        (around && header.base_offset >= 0 && self.log_start_offset == end).then_some(header.base_offset)
    }

    /// A copy that has all records takes over what the log it follows knows beside them.
    pub fn succeed(&mut self, followed: &Log) -> Result<(), LogError> {
        self.config = followed.config.clone();
        // The followed log may end above its last batch, where it was cut into a gap that compaction had left.
        self.log_end_offset = followed.log_end_offset;
        self.set_high_watermark(followed.high_watermark);
        self.advance_log_start(followed.log_start_offset)?;
        self.epochs = followed.epochs.clone();
        self.persist_epochs(Survive::Kill)?;
        // Those whose records are deleted are not found in what was copied.
        self.producers = followed.producers.clone();
        self.aborted = followed.aborted.clone();
        self.persistence.aborted_until = 0;
        if self.compacted_until != followed.compacted_until {
            self.set_compacted_until(followed.compacted_until)?;
        }
        Ok(())
    }
}

/// Topic and partition in the name of a copy's folder.
fn parse_future(name: &str) -> Option<(&str, i32)> {
    let (folder, unique_id) = name.strip_suffix(FUTURE_SUFFIX)?.rsplit_once('.')?;
    let is_id = unique_id.len() == UNIQUE_ID_DIGITS && unique_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| parse_folder(folder))?
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn folders_of_copies_are_told_apart() {
        let id = Uuid::new_v4().simple();
        assert_eq!(parse_future(&format!("a.b-7.{id}-future")), Some(("a.b", 7)));
        assert_eq!(parse_future(&format!("a.b-7.{id}-delete")), None);
        assert_eq!(parse_future("a-7.1-future"), None);
        assert_eq!(parse_folder(&format!("a.b-7.{id}-future")), None);
        assert!(can_move(&"x".repeat(215)) && !can_move(&"x".repeat(216)));
    }
}
