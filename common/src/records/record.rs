//! Records of a batch: iteration over a decompressed records section, without copies.
//!
//! Promises to yield only records whose lengths, counts and headers agree with the bytes, to keep headers as they are
//! (order, duplicates, null values), and to end after the first error. Does not decompress (see [`decoded_section`]).

use std::borrow::Cow;

use thiserror::Error;

use super::batch::{BatchError, BatchHeader, HEADER_SIZE_BYTES, TimestampType};
use super::compression::{self, Compression, CompressionError};
use super::varint;

/// Why a records section cannot be read.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The header of the batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The codec of the batch.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A field of a record does not fit its bytes.
    #[error("record {index} of the batch is malformed: {what}")]
    Malformed {
        /// Position in the batch, from 0.
        index: i32,
        /// The field and its fault.
        what: &'static str,
    },
    /// The batch declares fewer records than its bytes hold.
    #[error("{0} bytes follow the last record of the batch")]
    TrailingBytes(usize),
}

/// One header of a record. Kafka demands UTF-8 keys, which is not checked here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name; not unique in a record.
    pub key: &'a [u8],
    /// The value, which may be null.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record, in order and with duplicates; already checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers<'a> {
    count: i32,
    bytes: &'a [u8],
}

impl<'a> Headers<'a> {
    /// How many headers there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers in order.
    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter {
            left: self.count,
            bytes: self.bytes,
        }
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

/// Iterator over [`Headers`].
#[derive(Debug, Clone)]
pub struct HeaderIter<'a> {
    left: i32,
    bytes: &'a [u8],
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        read_header(&mut self.bytes).ok()
    }
}

/// One record, borrowing from the records section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Absolute offset.
    pub offset: i64,
    /// Milliseconds since the epoch; the append time in a LogAppendTime batch.
    pub timestamp: i64,
    /// The key, or null.
    pub key: Option<&'a [u8]>,
    /// The value, or null (a tombstone in a compacted topic).
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: Headers<'a>,
}

/// The records of `section`, the decompressed bytes that follow `header`.
pub fn records<'a>(header: &BatchHeader, section: &'a [u8]) -> Records<'a> {
    Records {
        header: *header,
        rest: section,
        index: 0,
        done: false,
    }
}

/// The header and the decompressed records section of one whole batch; borrows if it was not compressed.
pub fn decoded_section(
    batch: &[u8],
    limit_bytes: usize,
) -> Result<(BatchHeader, Cow<'_, [u8]>), RecordError> {
    let header = BatchHeader::parse(batch)?;
    let size = header.size_bytes();
    let Some(batch) = batch.get(..size) else {
        return Err(BatchError::Truncated {
            needed: size,
            available: batch.len(),
        }
        .into());
    };
    let section = &batch[HEADER_SIZE_BYTES..];
    let codec = header.compression()?;
    // A batch that compaction emptied has no records section at all, whatever its codec bits say.
    if codec == Compression::None || (header.record_count == 0 && section.is_empty()) {
        return Ok((header, Cow::Borrowed(section)));
    }
    let section = compression::decompress(codec, section, limit_bytes)?;
    Ok((header, Cow::Owned(section.into())))
}

/// As [`decoded_section`], but decompresses into `scratch`, whose memory serves many batches one after the other.
pub fn decoded_section_in<'a>(
    batch: &'a [u8],
    limit_bytes: usize,
    scratch: &'a mut Vec<u8>,
) -> Result<&'a [u8], RecordError> {
    let header = BatchHeader::parse(batch)?;
    let section = batch
        .get(HEADER_SIZE_BYTES..header.size_bytes())
        .ok_or(BatchError::Truncated {
            needed: header.size_bytes(),
            available: batch.len(),
        })?;
    let codec = header.compression()?;
    if codec == Compression::None || (header.record_count == 0 && section.is_empty()) {
        return Ok(section);
    }
    scratch.clear();
    compression::decompress_to(codec, section, limit_bytes, scratch)?;
    Ok(scratch)
}

/// Iterator over the records of a section; yields one error and then ends if the section is malformed.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    header: BatchHeader,
    rest: &'a [u8],
    index: i32,
    done: bool,
}

impl<'a> Records<'a> {
    /// The bytes of the section after the last record that was yielded.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.index >= self.header.record_count {
            self.done = true;
            return (!self.rest.is_empty()).then_some(Err(RecordError::TrailingBytes(self.rest.len())));
        }
        match read_record(&mut self.rest) {
            Ok(raw) => {
                self.index += 1;
                Some(Ok(raw.absolute(&self.header)))
            }
            Err(what) => {
                self.done = true;
                Some(Err(RecordError::Malformed {
                    index: self.index,
                    what,
                }))
            }
        }
    }
}

/// A record as encoded, with deltas.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawRecord<'a> {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Headers<'a>,
}

impl<'a> RawRecord<'a> {
    fn absolute(self, header: &BatchHeader) -> Record<'a> {
        let timestamp = match header.timestamp_type() {
            TimestampType::LogAppendTime => header.max_timestamp,
            TimestampType::CreateTime => header.base_timestamp.wrapping_add(self.timestamp_delta),
        };
        Record {
            offset: header.base_offset.wrapping_add(i64::from(self.offset_delta)),
            timestamp,
            key: self.key,
            value: self.value,
            headers: self.headers,
        }
    }
}

/// Reads one record and moves `rest` past it.
pub(super) fn read_record<'a>(rest: &mut &'a [u8]) -> Result<RawRecord<'a>, &'static str> {
    let length = varint::read_i32(rest).ok_or("its length is no varint")?;
    let length = usize::try_from(length).map_err(|_| "its length is negative")?;
    let (mut body, after) = rest
        .split_at_checked(length)
        .ok_or("its length passes the end of the batch")?;
    let body = &mut body;
    *body = body.get(1..).ok_or("it has no attributes")?;
    let timestamp_delta = varint::read_i64(body).ok_or("its timestamp delta is no varint")?;
    let offset_delta = varint::read_i32(body).ok_or("its offset delta is no varint")?;
    let key = read_nullable_bytes(body).ok_or("its key passes the end of the record")?;
    let value = read_nullable_bytes(body).ok_or("its value passes the end of the record")?;
    let count = varint::read_i32(body).ok_or("its header count is no varint")?;
    if usize::try_from(count).map_err(|_| "its header count is negative")? > body.len() {
        return Err("its header count passes the end of the record");
    }
    let headers = Headers { count, bytes: body };
    for _ in 0..count {
        read_header(body)?;
    }
    if !body.is_empty() {
        return Err("bytes are left after its headers");
    }
    *rest = after;
    Ok(RawRecord {
        timestamp_delta,
        offset_delta,
        key,
        value,
        headers,
    })
}

fn read_header<'a>(bytes: &mut &'a [u8]) -> Result<Header<'a>, &'static str> {
    let key = read_nullable_bytes(bytes).ok_or("a header key passes the end of the record")?;
    let key = key.ok_or("a header key is null")?;
    let value = read_nullable_bytes(bytes).ok_or("a header value passes the end of the record")?;
    Ok(Header { key, value })
}

/// A varint length and as many bytes; any negative length is null, as in Kafka.
fn read_nullable_bytes<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint::read_i32(bytes)?;
    let Ok(length) = usize::try_from(length) else {
        return Some(None);
    };
    let (value, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(Some(value))
}
