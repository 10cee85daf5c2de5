//! A log directory: the lock on it, its index, its partitions, and the trace a clean stop leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use odradek_common::time::Now;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use slog::{info, warn};
use uuid::Uuid;

use crate::checkpoint::HighWatermarkCheckpoint;
use crate::config::LogConfig;
use crate::disk::{Disk, SystemDisk};
use crate::error::LogError;
use crate::files::FileCache;
use crate::flush::{SyncTurn, sync_names};
use crate::log::{Log, PartitionIdentity};
use crate::open::{self, Folder};
use crate::room::Room;
use crate::store::{Batch, CORRUPT_MARKER, Kind, PartitionKey, Store, Survive, name_key};
use crate::stray::stray_name;

/// Kafka's file that names the topic id of a partition folder.
pub const METADATA_FILE: &str = "partition.metadata";
const LOCK_FILE: &str = ".lock";
const INDEX_FOLDER: &str = "odradek-index";
/// The metadata quorum's folder, which may be beside the partitions'.
const QUORUM_FOLDER: &str = "__cluster_metadata-0";
const DELETED_SUFFIX: &str = "-delete";
/// A folder of this many bytes in its name is the longest a file system takes.
pub(crate) const FOLDER_NAME_BYTES_MAX: usize = 255;

/// How a log directory is run.
#[derive(Clone, Debug)]
pub struct LogDirectoryOptions {
    /// Segment files that are open at once; the one unused longest is closed for another.
    pub open_files_max: usize,
    /// How data reaches the disk.
    pub disk: Arc<dyn Disk>,
    /// Bytes of the disk that clients' records do not get.
    pub reserve_bytes: u64,
    /// Producers remembered per partition.
    pub producers_max: usize,
}

impl Default for LogDirectoryOptions {
    fn default() -> Self {
        Self {
            open_files_max: 512,
            disk: Arc::new(SystemDisk),
            reserve_bytes: 0,
            producers_max: odradek_broker_core::producer_state::PRODUCERS_MAX,
        }
    }
}

/// What the logs of a directory share.
pub(crate) struct DirectoryShared {
    pub(crate) path: PathBuf,
    pub(crate) options: LogDirectoryOptions,
    pub(crate) store: Store,
    pub(crate) files: FileCache,
    pub(crate) sync_turn: SyncTurn,
    pub(crate) room: Room,
    pub(crate) has_large_folios: bool,
    pub(crate) logger: slog::Logger,
    next_uid: AtomicU64,
    pub(crate) clean_start: bool,
    /// Something failed that recovery has to look at: no clean stop.
    failed: AtomicBool,
    pub(crate) partitions: Mutex<Partitions>,
    /// Partitions of which a copy was on its way here when the process ended.
    pub(crate) interrupted: Mutex<Vec<(PartitionIdentity, String)>>,
    doomed: Mutex<Vec<Doomed>>,
    /// Folders of partitions that the metadata did not know.
    pub(crate) strays: Mutex<BTreeSet<String>>,
    /// Held for its lock; dropped last.
    _lock: File,
}

/// A file or folder that is no part of any log any more.
struct Doomed {
    path: PathBuf,
    delay_ms: u64,
    /// Set by the first purge that sees it.
    due_ms: Option<u64>,
}

/// What becomes of a folder that is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    /// A purge removes it so long after it has seen it first.
    Doomed {
        /// `file.delete.delay.ms`.
        delay_ms: i64,
    },
    /// It stays, under a name that says that nobody knows it.
    Stray,
}

impl Aside {
    /// The next purge removes it.
    pub(crate) const AT_ONCE: Self = Self::Doomed { delay_ms: 0 };
}

#[derive(Default)]
pub(crate) struct Partitions {
    /// Folder -> topic id.
    pub(crate) known: BTreeMap<String, Uuid>,
    /// Folders that no log was opened for since the start.
    unopened: BTreeSet<String>,
    /// Folders whose log is open.
    pub(crate) open: BTreeSet<String>,
}

impl Partitions {
    /// There is a folder of this partition, whose log nobody has opened yet.
    pub(crate) fn note_found(&mut self, folder: String, topic_id: Uuid) {
        self.unopened.insert(folder.clone());
        self.known.insert(folder, topic_id);
    }
}

impl DirectoryShared {
    pub(crate) fn next_uid(&self) -> u64 {
        self.next_uid.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the index is believed without a look at the files: the last stop was clean and nothing failed since.
    pub(crate) fn believes_index(&self) -> bool {
        self.clean_start && !self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn note_closed(&self, folder: &str) {
        self.partitions.lock().open.remove(folder);
    }

    /// Something failed that recovery has to look at.
    pub(crate) fn note_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Makes a partition's folder, with Kafka's note of whose it is, and tells the index, unless it is a copy's.
    pub(crate) fn claim(
        &self,
        identity: &PartitionIdentity,
        path: &Path,
        is_future: bool,
    ) -> Result<(), LogError> {
        let make = || -> io::Result<()> {
            // A log directory that is gone is not made anew: it has failed.
            match fs::create_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
            fs::write(path.join(METADATA_FILE), format_metadata(identity.topic_id))
        };
        make().map_err(|source| self.io(format!("create {}", path.display()), source))?;
        let (folder, mut batch) = (identity.folder(), Batch::default());
        // Nothing is known of it, and what was on its way to the index when it was deleted before is not this one's.
        batch.delete_partition(&PartitionKey::new(identity.topic_id, identity.partition));
        if !is_future {
            batch.put(name_key(&folder), identity.topic_id.as_bytes());
        }
        self.store.write(batch, Survive::Kill)?;
        if !is_future {
            self.partitions.lock().known.insert(folder, identity.topic_id);
        }
        Ok(())
    }

    /// Leaves a file or folder to a purge, which removes it so long after it has seen it first.
    pub(crate) fn doom(&self, path: PathBuf, delay_ms: i64) {
        self.doomed.lock().push(Doomed {
            path,
            delay_ms: u64::try_from(delay_ms).unwrap_or(0),
            due_ms: None,
        });
    }

    /// Removes files and folders; returns how many. What cannot be removed stays doomed.
    fn remove(&self, due: Vec<Doomed>) -> Result<usize, LogError> {
        let mut removed = 0;
        let mut failed = None;
        for doomed in due {
            let path = &doomed.path;
            let outcome = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            match outcome {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => removed += 1,
                Err(source) => {
                    failed = Some(self.io(format!("remove {}", path.display()), source));
                    self.doomed.lock().push(doomed);
                }
            }
        }
        failed.map_or(Ok(removed), Err)
    }

    /// Removes what is doomed in the partitions' folders, whatever its delay: after a clean stop nobody looks into them.
    fn remove_doomed_segments(&self) -> Result<usize, LogError> {
        let is_segment = |doomed: &Doomed| doomed.path.parent() != Some(&*self.path);
        let (segments, folders) = std::mem::take(&mut *self.doomed.lock())
            .into_iter()
            .partition(is_segment);
        self.doomed.lock().extend::<Vec<_>>(folders);
        self.remove(segments)
    }

    pub(crate) fn io(&self, attempt: impl Into<String>, source: io::Error) -> LogError {
        LogError::io(&self.path, attempt, source)
    }
}

/// An open log directory. Clones are handles to the same one.
#[derive(Clone)]
pub struct LogDirectory {
    pub(crate) shared: Arc<DirectoryShared>,
}

impl LogDirectory {
    /// Opens the directory, creating it if absent, and locks it against other processes.
    pub fn open(
        path: impl Into<PathBuf>,
        options: LogDirectoryOptions,
        logger: slog::Logger,
    ) -> Result<Self, LogError> {
        let path = path.into();
        fs::create_dir_all(&path).map_err(|source| LogError::io(&path, "create the directory", source))?;
        let lock = lock(&path)?;
        let store = open_store(&path, &logger)?;
        let (known, empty) = folders(&path, &store, &logger)?;
        let clean_start = store.is_marked_clean()? || empty;
        store.mark_in_use()?;
        info!(logger, "log directory opened"; "path" => %path.display(), "partitions" => known.len(), "clean" => clean_start);
        let unopened = known.keys().cloned().collect();
        let shared = DirectoryShared {
            files: FileCache::new(options.open_files_max),
            sync_turn: SyncTurn::default(),
            room: Room::default(),
            has_large_folios: options.disk.has_large_folios(&path),
            path,
            options,
            store,
            logger,
            next_uid: AtomicU64::new(0),
            clean_start,
            failed: AtomicBool::new(false),
            partitions: Mutex::new(Partitions {
                known,
                unopened,
                open: BTreeSet::new(),
            }),
            interrupted: Mutex::default(),
            doomed: Mutex::default(),
            strays: Mutex::default(),
            _lock: lock,
        };
        let directory = Self {
            shared: Arc::new(shared),
        };
        directory.doom_leftovers()?;
        directory.find_interrupted()?;
        directory.find_strays()?;
        Ok(directory)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The disk failed: what it says from now on is not believed, and this stop leaves no clean note. The next start recovers.
    pub fn mark_failed(&self) {
        self.shared.note_failed();
    }

    /// Whether the last stop was clean, or this is the first start. False means unclean: see KIP-966.
    #[must_use]
    pub fn is_clean_start(&self) -> bool {
        self.shared.clean_start
    }

    /// Whether the directory holds anything of the partition.
    #[must_use]
    pub fn holds(&self, identity: &PartitionIdentity) -> bool {
        let partitions = self.shared.partitions.lock();
        partitions.known.get(&identity.folder()) == Some(&identity.topic_id)
    }

    /// How many logs are open.
    #[must_use]
    pub fn open_logs(&self) -> usize {
        self.shared.partitions.lock().open.len()
    }

    /// Closes the files that nobody used since the last call.
    pub fn close_unused_files(&self) {
        self.shared.files.close_unused();
    }

    /// The partitions the directory holds; one that nothing was ever appended to is not among them.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionIdentity> {
        let partitions = self.shared.partitions.lock();
        partitions
            .known
            .iter()
            .filter_map(|(folder, topic_id)| {
                let (topic, partition) = parse_folder(folder)?;
                Some(PartitionIdentity::new(topic, *topic_id, partition))
            })
            .collect()
    }

    /// The partitions of [`LogDirectory::partitions`] that no log was opened for since the start.
    pub fn unopened(&self) -> Vec<PartitionIdentity> {
        let unopened = self.shared.partitions.lock().unopened.clone();
        let mut partitions = self.partitions();
        partitions.retain(|identity| unopened.contains(&identity.folder()));
        partitions
    }

    /// Opens the log of a partition. If it is absent, it is made on disk by its first append.
    ///
    /// A folder of the same name that belongs to another topic id is set aside as a stray partition.
    ///
    /// # Errors
    /// [`LogError::Open`] if a log by that name is open here; the log cannot be opened otherwise.
    pub fn open_partition(
        &self,
        identity: PartitionIdentity,
        config: LogConfig,
        now: Now,
    ) -> Result<Log, LogError> {
        let folder = identity.folder();
        let is_first = self.shared.partitions.lock().open.insert(folder.clone());
        if !is_first {
            return Err(LogError::Open(folder));
        }
        let mut opened = self
            .claim_folder(&identity, &folder)
            .and_then(|path| open::open_log(self.shared.clone(), identity, path, config, now));
        match &mut opened {
            Ok(log) => {
                log.is_registered = true;
                self.shared.partitions.lock().unopened.remove(&folder);
            }
            Err(_) => {
                self.shared.note_failed();
                self.shared.note_closed(&folder);
            }
        }
        opened
    }

    /// Removes a partition: its folder is renamed at once, its files go after `file.delete.delay.ms`, those of a copy that is
    /// not complete with the next purge. The log is closed.
    pub fn delete_partition(&self, log: &mut Log) -> Result<(), LogError> {
        log.closed = true;
        log.pass.overtake();
        log.close_files();
        let folder = log.folder_name();
        let delay_ms = if log.is_future {
            0
        } else {
            log.config.file_delete_delay_ms
        };
        let discarded = if log.is_made() {
            self.discard(&folder, Some(log.key), Aside::Doomed { delay_ms })
        } else {
            Ok(())
        };
        // Not before: whoever opens a log by this name would find the folder. And even if that cannot be moved away: the log is
        // not open any more.
        log.unregister();
        discarded
    }

    /// Removes a partition that is not open, as [`LogDirectory::partitions`] lists it.
    pub fn delete_unopened(&self, identity: &PartitionIdentity) -> Result<(), LogError> {
        self.discard(
            &identity.folder(),
            Some(PartitionKey::new(identity.topic_id, identity.partition)),
            Aside::AT_ONCE,
        )
    }

    /// Removes the files of deleted segments and partitions whose delay is over; returns how many. Blocks.
    ///
    /// Where room is short no delay counts. What cannot be removed is tried again by the next purge.
    pub fn purge_deleted(&self, now: Now) -> Result<usize, LogError> {
        if self.shared.doomed.lock().is_empty() {
            return Ok(0);
        }
        let hurry = self.shared.is_short_of_room();
        let (due, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut *self.shared.doomed.lock())
            .into_iter()
            .map(|doomed| Doomed {
                due_ms: doomed
                    .due_ms
                    .or(Some(now.mono_ms.saturating_add(doomed.delay_ms))),
                ..doomed
            })
            .partition(|doomed| hurry || doomed.due_ms <= Some(now.mono_ms));
        self.shared.doomed.lock().extend(waiting);
        self.shared.remove(due)
    }

    /// Writes high watermarks down, all at once; they survive the death of the process.
    pub fn checkpoint_high_watermarks(
        &self,
        checkpoints: impl IntoIterator<Item = HighWatermarkCheckpoint>,
    ) -> Result<(), LogError> {
        let mut batch = Batch::default();
        for checkpoint in checkpoints {
            let key = checkpoint.key.key(Kind::HighWatermark, &[]);
            batch.put(key, checkpoint.high_watermark.to_be_bytes());
        }
        self.shared.store.write(batch, Survive::Kill)
    }

    /// Makes the log starts that [`Log::delete_records_before`] has moved survive a power loss. Blocks.
    pub fn sync_log_starts(&self) -> Result<(), LogError> {
        self.shared.store.sync_wal()
    }

    /// Makes checkpoints survive a crash; call it after a round of them. Blocks.
    pub fn flush_index(&self) -> Result<(), LogError> {
        self.shared.store.flush()
    }

    /// Writes the clean-stop note, if every log that this directory holds was closed cleanly; returns whether it did.
    ///
    /// After an unclean start that also means that every log was opened, and so recovered (KAFKA-15375).
    pub fn close_clean(&self) -> Result<bool, LogError> {
        let (open, unopened) = {
            let partitions = self.shared.partitions.lock();
            (partitions.open.len(), partitions.unopened.len())
        };
        let unrecovered = !self.shared.clean_start && unopened > 0;
        if open > 0 || unrecovered || self.shared.failed.load(Ordering::Relaxed) {
            warn!(self.shared.logger, "log directory is not closed cleanly";
                "path" => %self.shared.path.display(), "open_logs" => open, "unopened_logs" => unopened);
            self.shared.store.flush()?;
            return Ok(false);
        }
        self.shared.remove_doomed_segments()?;
        self.shared.store.mark_clean()?;
        Ok(true)
    }

    /// Where the partition lives. What bears its name and is of another topic id is set aside.
    fn claim_folder(&self, identity: &PartitionIdentity, folder: &str) -> Result<Folder, LogError> {
        let path = self.shared.path.join(folder);
        let known = self.shared.partitions.lock().known.get(folder).copied();
        match known {
            Some(topic_id) if topic_id == identity.topic_id => return Ok(Folder::Made(path)),
            Some(stray) => {
                info!(self.shared.logger, "the log of another topic of the same name is in the way";
                    "partition" => folder, "topic_id" => %stray, "expected" => %identity.topic_id);
                let stray = PartitionKey::new(stray, identity.partition);
                self.discard(folder, Some(stray), Aside::Stray)?;
            }
            None => {}
        }
        let exists = path
            .try_exists()
            .map_err(|source| self.shared.io(format!("look at {}", path.display()), source))?;
        if !exists {
            return Ok(Folder::Absent(path));
        }
        // Nobody's folder: this partition takes it over.
        self.shared.claim(identity, &path, false)?;
        Ok(Folder::Made(path))
    }

    /// Makes the directory forget a partition, and sets its folder aside. A folder that is another topic's by now stays.
    pub(crate) fn discard(
        &self,
        folder: &str,
        key: Option<PartitionKey>,
        aside: Aside,
    ) -> Result<(), LogError> {
        let holder = self.shared.partitions.lock().known.get(folder).copied();
        let is_anothers = holder
            .zip(key)
            .is_some_and(|(topic_id, key)| !key.is_of(topic_id));
        let mut batch = Batch::default();
        if !is_anothers {
            self.set_aside(folder, aside)?;
            batch.delete(name_key(folder));
        }
        if let Some(key) = key {
            batch.delete_partition(&key);
        }
        self.shared.store.write(batch, Survive::Kill)?;
        if !is_anothers {
            let mut partitions = self.shared.partitions.lock();
            partitions.known.remove(folder);
            partitions.unopened.remove(folder);
        }
        Ok(())
    }

    fn set_aside(&self, folder: &str, aside: Aside) -> Result<(), LogError> {
        let name = match aside {
            Aside::Doomed { .. } => deleted_name(folder),
            Aside::Stray => stray_name(folder),
        };
        let (from, to) = (self.shared.path.join(folder), self.shared.path.join(&name));
        match fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(self.shared.io(format!("rename {}", from.display()), source)),
        }
        match aside {
            Aside::Doomed { delay_ms } => self.shared.doom(to, delay_ms),
            Aside::Stray => {
                self.shared.note_stray(folder, name);
                // The index forgets it next, and must not do so while a power loss may bring the old name back.
                sync_names(&self.shared, &self.shared.path)?;
            }
        }
        Ok(())
    }

    fn doom_leftovers(&self) -> Result<(), LogError> {
        let entries = fs::read_dir(&self.shared.path).map_err(|source| self.shared.io("list it", source))?;
        for entry in entries {
            let entry = entry.map_err(|source| self.shared.io("list it", source))?;
            if entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.ends_with(DELETED_SUFFIX))
            {
                self.shared.doom(entry.path(), 0);
            }
        }
        Ok(())
    }
}

/// `<topic>-<partition>`; None for any other name, that of a deleted partition included.
#[must_use]
pub fn parse_folder(name: &str) -> Option<(&str, i32)> {
    let (topic, partition) = name.rsplit_once('-')?;
    let partition: i32 = partition
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| partition.parse().ok())??;
    (!topic.is_empty()).then_some((topic, partition))
}

fn deleted_name(folder: &str) -> String {
    let suffix = format!(".{}{DELETED_SUFFIX}", Uuid::new_v4().simple());
    // Topic names are ASCII, so any byte is a border.
    let kept = folder.len().min(FOLDER_NAME_BYTES_MAX - suffix.len());
    format!("{}{suffix}", &folder[..kept])
}

/// Kafka's text: version and topic id, which it writes as unpadded URL-safe base64.
fn format_metadata(topic_id: Uuid) -> String {
    format!("version: 0\ntopic_id: {}\n", base64url(topic_id))
}

pub(crate) fn parse_metadata(text: &str) -> Option<Uuid> {
    let id = text.lines().find_map(|line| line.strip_prefix("topic_id:"))?;
    decode_base64url(id.trim())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64url(id: Uuid) -> String {
    let bits = id.as_u128();
    // 22 characters of 6 bits: the last one holds the low 2 bits, shifted up.
    (0..22u32)
        .map(|index| {
            let sextet = if index < 21 {
                (bits >> (122 - 6 * index)) & 63
            } else {
                (bits & 3) << 4
            };
            char::from(ALPHABET[sextet as usize])
        })
        .collect()
}

fn decode_base64url(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut bits: u128 = 0;
    for (index, byte) in text.bytes().enumerate() {
        let sextet = ALPHABET.iter().position(|letter| *letter == byte)? as u128;
        bits = if index < 21 {
            bits << 6 | sextet
        } else {
            bits << 2 | sextet >> 4
        };
    }
    Some(Uuid::from_u128(bits))
}

fn lock(path: &Path) -> Result<File, LogError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(LOCK_FILE))
        .map_err(|source| LogError::io(path, "create the lock file", source))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LogError::Locked {
            path: path.to_owned(),
        }),
        Err(error) => Err(LogError::io(path, "lock it", error.into())),
    }
}

/// Opens the index; one that is corrupt, or was found so before, is set aside, and the logs then rebuild it.
fn open_store(path: &Path, logger: &slog::Logger) -> Result<Store, LogError> {
    let folder = path.join(INDEX_FOLDER);
    let marker = path.join(CORRUPT_MARKER);
    if let Ok(found) = fs::read(&marker) {
        set_index_aside(path, &String::from_utf8_lossy(&found), logger)?;
        // Not before: a start that ended in between would open the corrupt one.
        fs::remove_file(&marker)
            .map_err(|source| LogError::io(path, format!("remove {}", marker.display()), source))?;
    }
    match Store::open(path, &folder) {
        Err(LogError::Directory { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
            set_index_aside(path, &source.to_string(), logger)?;
            Store::open(path, &folder)
        }
        opened => opened,
    }
}

fn set_index_aside(path: &Path, error: &str, logger: &slog::Logger) -> Result<(), LogError> {
    let folder = path.join(INDEX_FOLDER);
    let aside = path.join(format!(
        "{INDEX_FOLDER}.{}{DELETED_SUFFIX}",
        Uuid::new_v4().simple()
    ));
    warn!(logger, "the index is corrupt and is rebuilt from the logs";
        "path" => %folder.display(), "error" => error);
    match fs::rename(&folder, &aside) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LogError::io(path, "set the corrupt index aside", source))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The partition folders and their topic ids, and whether there is no folder at all.
fn folders(
    path: &Path,
    store: &Store,
    logger: &slog::Logger,
) -> Result<(BTreeMap<String, Uuid>, bool), LogError> {
    let mut named: BTreeMap<String, Uuid> = store.names()?.into_iter().collect();
    let mut known = BTreeMap::new();
    let mut empty = true;
    let list = |source| LogError::io(path, "list it", source);
    for entry in fs::read_dir(path).map_err(list)? {
        let entry = entry.map_err(list)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let is_folder = entry.file_type().map_err(list)?.is_dir();
        if !is_folder || name == QUORUM_FOLDER || parse_folder(&name).is_none() {
            continue;
        }
        empty = false;
        if let Some(topic_id) = named.remove(&name) {
            known.insert(name, topic_id);
            continue;
        }
        let metadata = fs::read_to_string(entry.path().join(METADATA_FILE)).ok();
        if let Some(topic_id) = metadata.as_deref().and_then(parse_metadata) {
            store.put_name(&name, topic_id)?;
            known.insert(name, topic_id);
        } else {
            warn!(logger, "partition folder without a topic id; the next partition of that name takes it over";
                "folder" => name);
        }
    }
    for (folder, topic_id) in named {
        warn!(logger, "partition folder is gone"; "folder" => &folder, "topic_id" => %topic_id);
        let mut batch = Batch::default();
        batch.delete(name_key(&folder));
        if let Some((_, partition)) = parse_folder(&folder) {
            batch.delete_partition(&PartitionKey::new(topic_id, partition));
        }
        store.write(batch, Survive::Kill)?;
    }
    Ok((known, empty))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn metadata_is_kafkas_text() {
        // Kafka's Uuid.toString of the same 16 bytes.
        let id = Uuid::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(
            format_metadata(id),
            "version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw\n"
        );
        assert_eq!(parse_metadata(&format_metadata(id)), Some(id));
        let random = Uuid::new_v4();
        assert_eq!(parse_metadata(&format_metadata(random)), Some(random));
        assert_eq!(parse_metadata("version: 0\n"), None);
    }

    #[test]
    fn folder_names() {
        assert_eq!(parse_folder("a-b-12"), Some(("a-b", 12)));
        assert_eq!(parse_folder("a.0123-delete"), None);
        assert_eq!(parse_folder("odradek-index"), None);
        assert_eq!(parse_folder("-1"), None);
        let long = format!("{}-0", "t".repeat(249));
        assert!(deleted_name(&long).len() <= FOLDER_NAME_BYTES_MAX);
    }
}
