//! Walking a segment file batch by batch, through one read-ahead buffer.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;

use odradek_common::records::batch::{BatchHeader, HEADER_SIZE_BYTES, verify_crc};

use rustix::io::{Errno, ReadWriteFlags};

use crate::error::LogError;
use crate::read::Patience;

/// Read-ahead where only headers near an index entry are wanted.
pub(crate) const LOOKUP_WINDOW_BYTES: usize = 8 << 10;
/// Read-ahead where everything is read.
pub(crate) const RECOVERY_WINDOW_BYTES: usize = 1 << 20;

/// Why a walk ended early.
#[derive(Debug)]
pub(crate) enum ScanError {
    Io(io::Error),
    /// The bytes at the position are no complete, plausible batch.
    Bad(String),
}

impl ScanError {
    pub(crate) fn into_log_error(self, directory: &Path, path: &Path, position: u64) -> LogError {
        match self {
            Self::Io(source) => LogError::io(directory, format!("read {}", path.display()), source),
            Self::Bad(detail) => LogError::Corrupt {
                path: path.to_owned(),
                position,
                detail,
            },
        }
    }
}

/// Where a batch begins, its header, and all of it.
pub(crate) type FoundBatch<'a> = (u64, BatchHeader, &'a [u8]);

/// A walk over the batches of `[position, end)`.
pub(crate) struct Scan<'a> {
    file: &'a File,
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    buffer_start: u64,
    window_bytes: usize,
    patience: Patience,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(file: &'a File, position: u64, end: u64, window_bytes: usize) -> Self {
        Self {
            file,
            position,
            end,
            buffer: Vec::new(),
            buffer_start: position,
            window_bytes,
            patience: Patience::Wait,
        }
    }

    /// The same walk, with this patience.
    pub(crate) fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Where the next batch begins, or where the walk failed.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next header; steps over the batch. None at the end.
    pub(crate) fn header(&mut self) -> Result<Option<(u64, BatchHeader)>, ScanError> {
        let Some(header) = self.peek()? else {
            return Ok(None);
        };
        let position = self.position;
        self.position += header.size_bytes() as u64;
        Ok(Some((position, header)))
    }

    /// The next batch whole; its checksum is right. None at the end.
    pub(crate) fn batch(&mut self) -> Result<Option<FoundBatch<'_>>, ScanError> {
        let Some(header) = self.peek()? else {
            return Ok(None);
        };
        let position = self.position;
        let at = self.fill(header.size_bytes())?;
        let batch = &self.buffer[at..at + header.size_bytes()];
        verify_crc(batch).map_err(|error| ScanError::Bad(error.to_string()))?;
        self.position += header.size_bytes() as u64;
        Ok(Some((position, header, batch)))
    }

    fn peek(&mut self) -> Result<Option<BatchHeader>, ScanError> {
        let left = self.end.saturating_sub(self.position);
        if left == 0 {
            return Ok(None);
        }
        if left < HEADER_SIZE_BYTES as u64 {
            return Err(ScanError::Bad(format!(
                "{left} bytes are left, less than a header"
            )));
        }
        let at = self.fill(HEADER_SIZE_BYTES)?;
        let header =
            BatchHeader::parse(&self.buffer[at..]).map_err(|error| ScanError::Bad(error.to_string()))?;
        if header.size_bytes() as u64 > left {
            return Err(ScanError::Bad(format!(
                "a batch of {} bytes, {left} are left",
                header.size_bytes()
            )));
        }
        if header.last_offset_delta < 0 || header.base_offset < 0 {
            return Err(ScanError::Bad("negative offsets".to_owned()));
        }
        Ok(Some(header))
    }

    /// Makes `size_bytes` from the position on available; returns where they begin in the buffer.
    fn fill(&mut self, size_bytes: usize) -> Result<usize, ScanError> {
        let offset = self.position.wrapping_sub(self.buffer_start) as usize;
        if self.position >= self.buffer_start && offset.saturating_add(size_bytes) <= self.buffer.len() {
            return Ok(offset);
        }
        let left = (self.end - self.position) as usize;
        self.buffer.resize(size_bytes.max(self.window_bytes).min(left), 0);
        self.buffer_start = self.position;
        let read = match self.patience {
            Patience::Wait => self.file.read_exact_at(&mut self.buffer, self.position),
            Patience::Refuse => self.read_resident(size_bytes),
        };
        match read {
            Ok(()) => Ok(0),
            Err(error) => {
                self.buffer.clear();
                Err(ScanError::Io(error))
            }
        }
    }

    /// Fills the buffer as far as the page cache goes, which must be so many bytes.
    fn read_resident(&mut self, least: usize) -> io::Result<()> {
        let mut buffers = [IoSliceMut::new(&mut self.buffer)];
        let read = rustix::io::preadv2(self.file, &mut buffers, self.position, ReadWriteFlags::NOWAIT);
        match read {
            Ok(bytes) if bytes >= least => {
                self.buffer.truncate(bytes);
                Ok(())
            }
            Ok(_) | Err(Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
            // File systems that cannot tell are waited for.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.read_exact_at(&mut self.buffer, self.position),
            Err(error) => Err(error.into()),
        }
    }
}
