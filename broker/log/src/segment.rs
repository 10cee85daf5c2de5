//! One segment: a file of record batches, named by the offset it begins at, and what is known about its contents.

use std::path::{Path, PathBuf};
use std::sync::Weak;

use odradek_common::records::batch::BatchHeader;

use crate::files::OpenFile;
use crate::index::{IndexEntry, SparseIndex};
use crate::pages::PagesAhead;
use crate::scrub::Damage;

/// A segment file holds fewer bytes than this, so that positions fit Kafka's own tools.
pub(crate) const SEGMENT_SIZE_BYTES_MAX: u64 = i32::MAX as u64;

/// What is known about a segment's contents without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Bytes of whole, checked batches.
    pub(crate) size_bytes: u64,
    /// Offset after the last record; the base offset if there is none.
    pub(crate) next_offset: i64,
    /// Greatest timestamp, -1 for none.
    pub(crate) max_timestamp: i64,
    /// Greatest timestamp of the first batch, -1 for none; `segment.ms` counts from here.
    pub(crate) first_timestamp: i64,
    /// Checksum over the heads of all batches ([`BatchHeader::chain`]), each of which has the checksum of the rest of its
    /// batch. None where nobody has seen all of them: the segment was cut, or is from before this was kept.
    pub(crate) heads: Option<u32>,
}

pub(crate) const FOOTER_SIZE_BYTES: usize = UNCHECKED_FOOTER_SIZE_BYTES + 5;
/// A footer from before checksums were kept.
pub(crate) const UNCHECKED_FOOTER_SIZE_BYTES: usize = 32;

impl Footer {
    /// Nothing yet, at `base_offset`.
    pub(crate) fn empty(base_offset: i64) -> Self {
        Self {
            size_bytes: 0,
            next_offset: base_offset,
            max_timestamp: -1,
            first_timestamp: -1,
            heads: Some(0),
        }
    }

    pub(crate) fn add(&mut self, header: &BatchHeader) {
        if self.size_bytes == 0 {
            self.first_timestamp = header.max_timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        self.size_bytes += header.size_bytes() as u64;
        self.next_offset = header.next_offset();
        self.heads = self.heads.map(|heads| header.chain(heads));
    }

    pub(crate) fn encode(&self) -> [u8; FOOTER_SIZE_BYTES] {
        let mut bytes = [0; FOOTER_SIZE_BYTES];
        bytes[..8].copy_from_slice(&self.size_bytes.to_be_bytes());
        let fields = [self.next_offset, self.max_timestamp, self.first_timestamp];
        for (field, slot) in fields.iter().zip(bytes[8..].chunks_exact_mut(8)) {
            slot.copy_from_slice(&field.to_be_bytes());
        }
        if let Some(heads) = self.heads {
            bytes[UNCHECKED_FOOTER_SIZE_BYTES] = 1;
            bytes[UNCHECKED_FOOTER_SIZE_BYTES + 1..].copy_from_slice(&heads.to_be_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let heads = match bytes.get(UNCHECKED_FOOTER_SIZE_BYTES..)? {
            [] | [0, _, _, _, _] => None,
            [_, heads @ ..] => Some(u32::from_be_bytes(heads.try_into().ok()?)),
        };
        let field =
            |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("the slice has 8 bytes"));
        Some(Self {
            size_bytes: field(0).try_into().ok()?,
            next_offset: field(8),
            max_timestamp: field(16),
            first_timestamp: field(24),
            heads,
        })
    }
}

/// A segment of an open log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base_offset: i64,
    pub(crate) footer: Footer,
    pub(crate) index: SparseIndex,
    /// Wall clock of creation or opening; `segment.ms` counts from here without timestamps.
    pub(crate) created_ms: i64,
    /// The file for appending, while the directory's cache keeps it open.
    pub(crate) file: Weak<OpenFile>,
    /// Bytes of the file that were fdatasync'ed.
    pub(crate) flushed_bytes: u64,
    /// Where the blocks end that were reserved for it; 0 for none, `u64::MAX` if none can be had.
    pub(crate) reserved_bytes: u64,
    /// How far there are pages for what comes next.
    pub(crate) pages: PagesAhead,
    /// What of a sealed segment is not what was written.
    pub(crate) damage: Option<Damage>,
}

impl Segment {
    /// A segment whose contents are on disk already.
    pub(crate) fn new(base_offset: i64, footer: Footer, created_ms: i64) -> Self {
        let flushed_bytes = footer.size_bytes;
        Self {
            base_offset,
            footer,
            index: SparseIndex::default(),
            created_ms,
            file: Weak::new(),
            flushed_bytes,
            reserved_bytes: 0,
            pages: PagesAhead::default(),
            damage: None,
        }
    }

    /// Notes a batch that was written at the end of the file.
    pub(crate) fn note(&mut self, header: &BatchHeader, index_interval_bytes: u32) {
        let entry = IndexEntry {
            relative_offset: self.relative(header.base_offset),
            position: u32::try_from(self.footer.size_bytes).expect("a segment is smaller than 2 GiB"),
            max_timestamp_before: self.footer.max_timestamp,
        };
        self.index.note(entry, header.size_bytes(), index_interval_bytes);
        self.footer.add(header);
    }

    /// `offset` as the index stores it; offsets outside of the segment clip to its ends.
    pub(crate) fn relative(&self, offset: i64) -> u32 {
        u32::try_from((offset - self.base_offset).max(0)).unwrap_or(u32::MAX)
    }

    /// Whether a batch that ends at `last_offset` can be indexed in this segment.
    pub(crate) fn can_index(&self, last_offset: i64) -> bool {
        (0..=i64::from(i32::MAX)).contains(&(last_offset - self.base_offset))
    }

    /// Greatest timestamp; without timestamps, when the segment was created.
    pub(crate) fn largest_timestamp_ms(&self) -> i64 {
        if self.footer.max_timestamp >= 0 {
            self.footer.max_timestamp
        } else {
            self.created_ms
        }
    }

    /// Whether the disk has all of it.
    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed_bytes >= self.footer.size_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.footer.size_bytes == 0
    }
}

/// The file of the segment that begins at `base_offset`.
pub(crate) fn segment_path(folder: &Path, base_offset: i64) -> PathBuf {
    folder.join(format!("{base_offset:020}.log"))
}

/// The base offset in a segment's file name.
pub(crate) fn base_offset_of(name: &str) -> Option<i64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn file_names_are_kafkas() {
        assert_eq!(
            segment_path(Path::new("t-0"), 42),
            Path::new("t-0/00000000000000000042.log")
        );
        assert_eq!(base_offset_of("00000000000000000042.log"), Some(42));
        assert_eq!(base_offset_of("42.log"), None);
        assert_eq!(base_offset_of("00000000000000000042.index"), None);
    }

    #[test]
    fn a_footer_reads_back() {
        let footer = Footer {
            size_bytes: 9,
            next_offset: 8,
            max_timestamp: -1,
            first_timestamp: 6,
            heads: Some(5),
        };
        assert_eq!(Footer::decode(&footer.encode()), Some(footer));
        let unchecked = Footer {
            heads: None,
            ..footer
        };
        assert_eq!(Footer::decode(&unchecked.encode()), Some(unchecked));
        let old = &footer.encode()[..UNCHECKED_FOOTER_SIZE_BYTES];
        assert_eq!(Footer::decode(old), Some(unchecked));
        assert_eq!(Footer::decode(&footer.encode()[..34]), None);
        assert_eq!(Footer::decode(&[]), None);
    }
}
