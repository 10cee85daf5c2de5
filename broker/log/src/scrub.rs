//! Scrubbing: sealed segments are read again and compared with the checksums that were kept when they were written.
//!
//! A batch has a checksum of all but its head, and the segment's footer one of all heads. Reading goes around the page cache,
//! so that what is compared is what the disk holds, and nothing is pushed out of memory that somebody reads. What is found
//! damaged is remembered until the segment is replaced, removed, or found sound; it is not served to anybody. Bytes that the
//! disk does not give at all are damage as well: a disk loses sectors long before it fails.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use odradek_common::records::batch::{BatchHeader, HEADER_SIZE_BYTES};

use crate::compact::Go;
use crate::directory::DirectoryShared;
use crate::disk::Disk;
use crate::error::LogError;
use crate::index::Place;
use crate::log::Log;
use crate::segment::{Footer, segment_path};
use crate::store::{Batch, Kind, PartitionKey, Survive};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 1 << 20;
/// What reading around the page cache wants addresses, offsets and lengths to be multiples of.
const ALIGNMENT: usize = 4096;
/// The head of a batch, which its own checksum does not cover.
const HEAD_SIZE_BYTES: usize = 21;

/// A part of a segment that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where in the file.
    pub positions: Range<u64>,
    /// Which offsets are concerned.
    pub offsets: Range<i64>,
    /// What was found first.
    pub detail: String,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The segment is what was written; this is the checksum of its heads.
    Sound(u32),
    /// It is not.
    Damaged(Damage),
    /// Whoever paces the check ended it, or the segment is gone.
    Unknown,
}

/// A sealed segment that is to be checked.
pub struct SealedSegment {
    directory: Arc<DirectoryShared>,
    key: PartitionKey,
    path: PathBuf,
    base_offset: i64,
    footer: Footer,
}

impl Log {
    /// The first sealed segment that begins at or after `offset`.
    #[must_use]
    pub fn sealed_segment_from(&self, offset: i64) -> Option<SealedSegment> {
        let active = self.active_segment_base_offset();
        let mut sealed = self.segments.range(offset..).map(|(_, segment)| segment);
        let segment = sealed.find(|segment| segment.base_offset < active && !segment.is_empty())?;
        Some(SealedSegment {
            directory: self.directory.clone(),
            key: self.key,
            path: segment_path(&self.folder, segment.base_offset),
            base_offset: segment.base_offset,
            footer: segment.footer,
        })
    }

    /// The sealed segment that begins at `base_offset`, unless it is known to be damaged.
    #[must_use]
    pub fn suspected_segment(&self, base_offset: i64) -> Option<SealedSegment> {
        let is_known = self.segments.get(&base_offset)?.damage.is_some();
        let sealed = self.sealed_segment_from(base_offset)?;
        (!is_known && sealed.base_offset == base_offset).then_some(sealed)
    }

    /// Takes note of what was found, unless the segment is another one by now; returns damage that is news.
    pub fn note_finding(
        &mut self,
        checked: &SealedSegment,
        finding: Finding,
    ) -> Result<Option<Damage>, LogError> {
        let key = self.key;
        let Some(segment) = self
            .segments
            .get_mut(&checked.base_offset)
            .filter(|segment| segment.footer == checked.footer && !self.closed)
        else {
            return Ok(None);
        };
        let mut batch = Batch::default();
        let damage_key = key.damage(checked.base_offset);
        let news = match finding {
            Finding::Sound(heads) => {
                if segment.footer.heads.is_none() {
                    segment.footer.heads = Some(heads);
                    let footer_key = key.key(Kind::Footer, &[checked.base_offset]);
                    batch.put(footer_key, segment.footer.encode());
                }
                if segment.damage.take().is_some() {
                    batch.delete(damage_key);
                }
                None
            }
            Finding::Damaged(damage) => {
                batch.put(damage_key, damage.encode());
                let is_news = segment.damage.replace(damage.clone()).is_none();
                is_news.then_some(damage)
            }
            Finding::Unknown => None,
        };
        self.directory.store.write(batch, Survive::Kill)?;
        Ok(news)
    }

    /// Segments that were found damaged.
    #[must_use]
    pub fn damaged_segments(&self) -> usize {
        self.segments
            .values()
            .filter(|segment| segment.damage.is_some())
            .count()
    }
}

impl Damage {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (positions, offsets) = (&self.positions, &self.offsets);
        bytes.extend_from_slice(&positions.start.to_be_bytes());
        bytes.extend_from_slice(&positions.end.to_be_bytes());
        bytes.extend_from_slice(&offsets.start.to_be_bytes());
        bytes.extend_from_slice(&offsets.end.to_be_bytes());
        bytes.extend_from_slice(self.detail.as_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, detail) = bytes.split_at_checked(32)?;
        let number =
            |at: usize| -> [u8; 8] { numbers[at..at + 8].try_into().expect("the slice has 8 bytes") };
        Some(Self {
            positions: u64::from_be_bytes(number(0))..u64::from_be_bytes(number(8)),
            offsets: i64::from_be_bytes(number(16))..i64::from_be_bytes(number(24)),
            detail: String::from_utf8_lossy(detail).into_owned(),
        })
    }

    /// This damage and another further behind, as one.
    fn and(self, later: Self) -> Self {
        Self {
            positions: self.positions.start.min(later.positions.start)..later.positions.end,
            offsets: self.offsets.start.min(later.offsets.start)..later.offsets.end,
            detail: self.detail,
        }
    }
}

impl SealedSegment {
    /// Its base offset.
    #[must_use]
    pub fn base_offset(&self) -> i64 {
        self.base_offset
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all of it. Blocks; call it without the partition's lock. `pace` hears of bytes that were read.
    ///
    /// # Errors
    /// The disk does not give the bytes, or the index does not answer.
    pub fn check(&self, pace: &mut dyn FnMut(u64) -> Go) -> Result<Finding, LogError> {
        match self.read_all(pace) {
            Ok(finding) => Ok(finding),
            Err(Ended::Stopped) => Ok(Finding::Unknown),
            Err(Ended::Lost) => unreachable!("what is lost is a part of the finding"),
            // It was deleted, or replaced, since it was planned.
            Err(Ended::Io(source)) if source.kind() == io::ErrorKind::NotFound => Ok(Finding::Unknown),
            Err(Ended::Io(source)) => {
                let attempt = format!("read {}", self.path.display());
                Err(LogError::io(&self.directory.path, attempt, source))
            }
            Err(Ended::Index(error)) => Err(error),
        }
    }

    fn read_all(&self, pace: &mut dyn FnMut(u64) -> Go) -> Result<Finding, Ended> {
        let mut pieces = Pieces::open(&self.path, &*self.directory.options.disk, pace)?;
        let (size_bytes, mut next_offset) = (self.footer.size_bytes, self.base_offset);
        let (mut position, mut heads) = (0, 0);
        // Where the batch before begins, and the offset it may begin with.
        let mut before = (0, self.base_offset);
        let mut damage: Option<Damage> = None;
        while position < size_bytes {
            let (start, end, bad) = match self.check_batch(&mut pieces, position, next_offset)? {
                Checked::Good(header) => {
                    heads = header.chain(heads);
                    before = (position, next_offset);
                    next_offset = header.next_offset();
                    position += header.size_bytes() as u64;
                    continue;
                }
                Checked::BadRecords(header, detail) => {
                    let end = position + header.size_bytes() as u64;
                    ((position, next_offset), (end, header.next_offset()), detail)
                }
                // Where the next batch begins, only the index can tell.
                Checked::BadHead(detail) => ((position, next_offset), self.resume_behind(position)?, detail),
                Checked::OutOfOrder(detail) => (before, self.resume_behind(position)?, detail),
            };
            let found = Damage {
                positions: start.0..end.0,
                offsets: start.1..end.1,
                detail: format!("at byte {position}: {bad}"),
            };
            damage = Some(match damage {
                Some(before) => before.and(found),
                None => found,
            });
            (position, next_offset) = end;
            before = end;
            pieces.seek(position);
        }
        Ok(match damage {
            Some(damage) => Finding::Damaged(damage),
            None if self.footer.heads.is_some_and(|written| written != heads) => Finding::Damaged(Damage {
                positions: 0..size_bytes,
                offsets: self.base_offset..self.footer.next_offset,
                detail: "offsets or leader epochs are not what was written".to_owned(),
            }),
            None => Finding::Sound(heads),
        })
    }

    fn check_batch(
        &self,
        pieces: &mut Pieces<'_>,
        position: u64,
        next_offset: i64,
    ) -> Result<Checked, Ended> {
        let left = self.footer.size_bytes - position;
        let mut head = [0; HEADER_SIZE_BYTES];
        let is_there = match pieces.fill(&mut head) {
            Err(Ended::Lost) => return Ok(Checked::BadHead(LOST.to_owned())),
            filled => filled?,
        };
        if left < HEADER_SIZE_BYTES as u64 || !is_there {
            return Ok(Checked::BadHead("the file ends within a batch".to_owned()));
        }
        let header = match BatchHeader::parse(&head) {
            Ok(header) => header,
            Err(error) => return Ok(Checked::BadHead(error.to_string())),
        };
        let is_plausible = header.size_bytes() as u64 <= left
            && header.last_offset_delta >= 0
            && header.next_offset() <= self.footer.next_offset;
        if !is_plausible {
            return Ok(Checked::BadHead(
                "the head of a batch is not plausible".to_owned(),
            ));
        }
        if header.base_offset < next_offset {
            let detail = format!("offset {} comes after {}", header.base_offset, next_offset - 1);
            return Ok(Checked::OutOfOrder(detail));
        }
        let crc = crc32c::crc32c(&head[HEAD_SIZE_BYTES..]);
        let checksum = match pieces.checksum(header.size_bytes() - HEADER_SIZE_BYTES, crc) {
            Err(Ended::Lost) => return Ok(Checked::BadRecords(header, LOST.to_owned())),
            checksum => checksum?,
        };
        let Some(crc) = checksum else {
            return Ok(Checked::BadHead("the file ends within a batch".to_owned()));
        };
        if crc == header.crc {
            return Ok(Checked::Good(header));
        }
        let detail = format!("a batch has checksum {:08x}, its records {crc:08x}", header.crc);
        Ok(Checked::BadRecords(header, detail))
    }

    /// The next place behind `position` where a batch is known to begin, and its offset; else the segment's end.
    fn resume_behind(&self, position: u64) -> Result<(u64, i64), Ended> {
        let place = Place {
            store: &self.directory.store,
            partition: &self.key,
            base_offset: self.base_offset,
        };
        let entry = place.next_stored(position).map_err(Ended::Index)?;
        Ok(match entry {
            Some(entry) => (
                entry.position.into(),
                self.base_offset + i64::from(entry.relative_offset),
            ),
            None => (self.footer.size_bytes, self.footer.next_offset),
        })
    }
}

const LOST: &str = "the disk does not give the bytes";

/// Whether a read failed because of what is stored there: an I/O error, a file system's checksum that is not right.
fn is_lost(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let lost = [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::NODATA];
    error
        .raw_os_error()
        .is_some_and(|code| lost.iter().any(|errno| errno.raw_os_error() == code))
}

/// What one batch is.
enum Checked {
    Good(BatchHeader),
    /// The head may be right; what it says of the rest is not.
    BadRecords(BatchHeader, String),
    BadHead(String),
    /// Its offset, or the one of the batch before, is not right.
    OutOfOrder(String),
}

/// Why a check ended early.
enum Ended {
    Stopped,
    /// The disk does not give the bytes at the position.
    Lost,
    Io(io::Error),
    Index(LogError),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A file piece by piece, around the page cache where the file system can do that.
struct Pieces<'a> {
    path: &'a Path,
    disk: &'a dyn Disk,
    file: File,
    is_direct: bool,
    buffer: Vec<u8>,
    /// Where the aligned part of the buffer begins, and how many bytes of the file are there.
    begin: usize,
    filled: usize,
    /// Where in the file the aligned part begins.
    at: u64,
    /// Where in the file is read next.
    position: u64,
    pace: &'a mut dyn FnMut(u64) -> Go,
}

impl<'a> Pieces<'a> {
    fn open(path: &'a Path, disk: &'a dyn Disk, pace: &'a mut dyn FnMut(u64) -> Go) -> io::Result<Self> {
        let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
        let direct = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let (file, is_direct) = match direct {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => (File::open(path)?, false),
            Err(error) => return Err(error),
        };
        let buffer = vec![0; PIECE_BYTES + ALIGNMENT];
        let begin = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Ok(Self {
            path,
            disk,
            file,
            is_direct,
            buffer,
            begin,
            filled: 0,
            at: 0,
            position: 0,
            pace,
        })
    }

    fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// Up to so many of the next bytes; none at the end of the file.
    fn next(&mut self, bytes: usize) -> Result<&[u8], Ended> {
        let end = self.at + self.filled as u64;
        if self.position < self.at || self.position >= end {
            self.read()?;
        }
        let from = ((self.position - self.at) as usize).min(self.filled);
        let count = bytes.min(self.filled - from);
        self.position += count as u64;
        let begin = self.begin + from;
        Ok(&self.buffer[begin..begin + count])
    }

    /// Reads the piece that has the position.
    fn read(&mut self) -> Result<(), Ended> {
        self.at = self.position - self.position % ALIGNMENT as u64;
        self.filled = 0;
        let mut wanted = PIECE_BYTES;
        while self.filled < wanted {
            let (from, to) = (self.begin + self.filled, self.begin + wanted);
            let at = self.at + self.filled as u64;
            match self.disk.read_at(&self.file, &mut self.buffer[from..to], at) {
                Ok(0) => break,
                Ok(count) => {
                    self.filled += count;
                    // Only the file's end is not a multiple.
                    if count % ALIGNMENT != 0 {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.is_direct && error.kind() == io::ErrorKind::InvalidInput => {
                    self.file = File::open(self.path)?;
                    self.is_direct = false;
                }
                Err(error) if is_lost(&error) && self.filled > 0 => break,
                // What is before the lost bytes is not lost with them.
                Err(error) if is_lost(&error) && wanted > ALIGNMENT => wanted /= 2,
                Err(error) if is_lost(&error) => {
                    let go = (self.pace)(0);
                    return Err(if go == Go::Stop {
                        Ended::Stopped
                    } else {
                        Ended::Lost
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        if (self.pace)(self.filled as u64) == Go::Stop {
            return Err(Ended::Stopped);
        }
        Ok(())
    }

    /// Fills `bytes`; false if the file ends before.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<bool, Ended> {
        let mut done = 0;
        while done < bytes.len() {
            let next = self.next(bytes.len() - done)?;
            if next.is_empty() {
                return Ok(false);
            }
            bytes[done..done + next.len()].copy_from_slice(next);
            done += next.len();
        }
        Ok(true)
    }

    /// Goes on with a checksum over so many bytes; None if the file ends before.
    fn checksum(&mut self, bytes: usize, mut crc: u32) -> Result<Option<u32>, Ended> {
        let mut left = bytes;
        while left > 0 {
            let next = self.next(left)?;
            if next.is_empty() {
                return Ok(None);
            }
            crc = crc32c::crc32c_append(crc, next);
            left -= next.len();
        }
        Ok(Some(crc))
    }
}
