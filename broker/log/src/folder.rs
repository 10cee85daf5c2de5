//! A log's folder and the files in it: made with the first segment, opened when they are used.
//!
//! A partition that nothing was ever appended to is nothing on disk: no folder, no key in the index. Whatever makes its
//! first segment makes both. It decides nothing about what stands in the files.

use std::fs::{File, OpenOptions};
use std::io;
use std::sync::Arc;

use crate::error::LogError;
use crate::files::{Access, OpenFile};
use crate::log::Log;
use crate::segment::{Footer, Segment, segment_path};
use crate::store::Survive;

impl Log {
    /// Whether anything of this log is on disk. If not, there is nothing to flush, to checkpoint or to delete.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.made
    }

    /// The folder's name within the log directory.
    #[must_use]
    pub(crate) fn folder_name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Makes the folder, unless it is there.
    pub(crate) fn make_folder(&mut self) -> Result<(), LogError> {
        if self.made {
            return Ok(());
        }
        self.directory
            .claim(&self.identity, &self.folder, self.is_future)?;
        self.made = true;
        self.persistence.note_names_changed();
        // Assigned while there was nothing to keep them with.
        self.persist_epochs(Survive::Kill)
    }

    /// Begins an empty segment at `base_offset`, which becomes the active one.
    pub(crate) fn create_segment(&mut self, created_ms: i64, base_offset: i64) -> Result<(), LogError> {
        self.make_folder()?;
        let path = segment_path(&self.folder, base_offset);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|source| self.failed(format!("create {}", path.display()), source))?;
        let reserved_bytes = self.reserve_whole(&file);
        let key = (self.uid, base_offset);
        let open = self.directory.files.insert(key, Access::Append, file);
        let mut segment = Segment::new(base_offset, Footer::empty(base_offset), created_ms);
        segment.file = Arc::downgrade(&open);
        segment.reserved_bytes = reserved_bytes;
        self.segments.insert(base_offset, segment);
        self.recent.clear();
        self.persistence.note_names_changed();
        Ok(())
    }

    /// The file of the active segment, for appending. Held until the append is done, because others' files push it out.
    pub(crate) fn open_active(&mut self) -> Result<Arc<OpenFile>, LogError> {
        let active = self
            .segments
            .last_entry()
            .expect("a segment was created")
            .into_mut();
        if let Some(open) = active.file.upgrade() {
            open.touch();
            return Ok(open);
        }
        let (base_offset, size_bytes) = (active.base_offset, active.footer.size_bytes);
        let file_bytes = active.pages.file_bytes.max(size_bytes);
        let open = self.open(base_offset, Access::Append)?;
        let length = self.length(base_offset, size_bytes, &open.file)?;
        if length > file_bytes {
            // A stop could not cut it to what it has: sealed so, it would seem to end with damage.
            let _ = open.file.set_len(size_bytes);
        }
        self.active().file = Arc::downgrade(&open);
        Ok(open)
    }

    /// After a clean stop nobody looked how long the file is: behind a shorter one an append would leave a hole.
    fn length(&self, base_offset: i64, size_bytes: u64, file: &File) -> Result<u64, LogError> {
        let path = segment_path(&self.folder, base_offset);
        let length = match file.metadata() {
            Ok(metadata) => metadata.len(),
            Err(source) => return Err(self.failed(format!("look at {}", path.display()), source)),
        };
        if length >= size_bytes {
            return Ok(length);
        }
        Err(LogError::Corrupt {
            path,
            position: length,
            detail: format!("the file ends there, and {size_bytes} bytes were written"),
        })
    }

    /// The file of a segment, for reading.
    pub(crate) fn file_of(&self, segment: &Segment) -> Result<Arc<File>, LogError> {
        if let Some(open) = segment.file.upgrade() {
            open.touch();
            return Ok(open.file.clone());
        }
        Ok(self.open(segment.base_offset, Access::Read)?.file.clone())
    }

    /// Closes what the cache holds open of this log.
    pub(crate) fn close_files(&self) {
        let bases = self.segments.keys().copied();
        self.directory.files.forget_log(self.uid, bases);
    }

    fn open(&self, base_offset: i64, access: Access) -> Result<Arc<OpenFile>, LogError> {
        let path = segment_path(&self.folder, base_offset);
        let key = (self.uid, base_offset);
        let opened = self.directory.files.get(key, access, &path);
        opened.map_err(|source| match source.kind() {
            // After a clean stop nobody looked whether it is there. Its loss is this partition's alone.
            io::ErrorKind::NotFound => LogError::gone(path),
            _ => self.failed(format!("open {}", path.display()), source),
        })
    }

    fn failed(&self, attempt: String, source: io::Error) -> LogError {
        LogError::io(&self.directory.path, attempt, source)
    }
}
