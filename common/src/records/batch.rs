//! The record batch header (format v2) and the in-place patches a leader makes.
//!
//! Owns the layout of the 61 header bytes. Promises never to panic on foreign bytes and never to allocate.
//! Does not look into the records (see `record`), and knows no magic below 2.

use thiserror::Error;

use super::checksum::checksum;
use super::compression::Compression;

/// Bytes of a batch before its records.
pub const HEADER_SIZE_BYTES: usize = 61;
/// Bytes before those that `batch_length` counts: base offset and the length itself.
pub const LOG_OVERHEAD_BYTES: usize = 12;
/// The only batch format this crate reads or writes.
pub const MAGIC_V2: i8 = 2;
/// `producer_id` of a batch without an idempotent producer.
pub const NO_PRODUCER_ID: i64 = -1;
/// `producer_epoch` of a batch without an idempotent producer.
pub const NO_PRODUCER_EPOCH: i16 = -1;
/// `base_sequence` of a batch without an idempotent producer.
pub const NO_SEQUENCE: i32 = -1;
/// `partition_leader_epoch` of a batch no leader has stamped yet.
pub const NO_PARTITION_LEADER_EPOCH: i32 = -1;
/// Timestamp of a record that has none, and of an empty batch.
pub const NO_TIMESTAMP: i64 = -1;

const BASE_OFFSET: usize = 0;
const BATCH_LENGTH: usize = 8;
const PARTITION_LEADER_EPOCH: usize = 12;
const MAGIC: usize = 16;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const PRODUCER_EPOCH: usize = 51;
const BASE_SEQUENCE: usize = 53;
const RECORD_COUNT: usize = 57;

const COMPRESSION_MASK: i16 = 0x07;
pub(super) const TIMESTAMP_TYPE_BIT: i16 = 0x08;
pub(super) const TRANSACTIONAL_BIT: i16 = 0x10;
pub(super) const CONTROL_BIT: i16 = 0x20;
pub(super) const DELETE_HORIZON_BIT: i16 = 0x40;

/// Why bytes are not a readable record batch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Fewer bytes than the header, or than the header declares.
    #[error("record batch needs {needed} bytes and has {available}")]
    Truncated {
        /// Bytes the batch needs.
        needed: usize,
        /// Bytes there are.
        available: usize,
    },
    /// The declared length cannot hold even the header.
    #[error("record batch declares a length of {0}, below the header's {min}", min = HEADER_SIZE_BYTES - LOG_OVERHEAD_BYTES)]
    Length(i32),
    /// Another format than v2.
    #[error("record batch has magic {0}, only {MAGIC_V2} is supported")]
    Magic(i8),
    /// The bytes do not match their checksum.
    #[error("record batch is corrupt: stored crc {stored:#010x}, computed {computed:#010x}")]
    Crc {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The compression bits name no codec.
    #[error("record batch has the unknown compression type {0}")]
    Compression(i16),
}

/// Who sets the timestamps of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer.
    CreateTime,
    /// The leader, when it appends; every record then has the batch's `max_timestamp`.
    LogAppendTime,
}

/// The fields of a record batch header, in the order of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes after this field; at least 49.
    pub batch_length: i32,
    /// Epoch of the leader that appended the batch, -1 before that.
    pub partition_leader_epoch: i32,
    /// Always 2.
    pub magic: i8,
    /// CRC-32C of everything from `attributes` to the end.
    pub crc: u32,
    /// Compression (bits 0-2), timestamp type (3), transactional (4), control (5), delete horizon (6).
    pub attributes: i16,
    /// Offset of the last record, from `base_offset`.
    pub last_offset_delta: i32,
    /// Timestamp the records' deltas count from; the delete horizon if that bit is set.
    pub base_timestamp: i64,
    /// Greatest timestamp of the records, or the append time.
    pub max_timestamp: i64,
    /// Producer, or -1.
    pub producer_id: i64,
    /// The producer's epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch; compaction may leave fewer than `last_offset_delta + 1`.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may end anywhere after it.
    ///
    /// Checks magic and that the length covers the header; does not check the CRC.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        if let Some(&magic) = bytes.get(MAGIC)
            && magic as i8 != MAGIC_V2
        {
            return Err(BatchError::Magic(magic as i8));
        }
        if bytes.len() < HEADER_SIZE_BYTES {
            return Err(BatchError::Truncated {
                needed: HEADER_SIZE_BYTES,
                available: bytes.len(),
            });
        }
        let header = BatchHeader {
            base_offset: i64::from_be_bytes(array(bytes, BASE_OFFSET)),
            batch_length: i32::from_be_bytes(array(bytes, BATCH_LENGTH)),
            partition_leader_epoch: i32::from_be_bytes(array(bytes, PARTITION_LEADER_EPOCH)),
            magic: bytes[MAGIC] as i8,
            crc: u32::from_be_bytes(array(bytes, CRC)),
            attributes: i16::from_be_bytes(array(bytes, ATTRIBUTES)),
            last_offset_delta: i32::from_be_bytes(array(bytes, LAST_OFFSET_DELTA)),
            base_timestamp: i64::from_be_bytes(array(bytes, BASE_TIMESTAMP)),
            max_timestamp: i64::from_be_bytes(array(bytes, MAX_TIMESTAMP)),
            producer_id: i64::from_be_bytes(array(bytes, PRODUCER_ID)),
            producer_epoch: i16::from_be_bytes(array(bytes, PRODUCER_EPOCH)),
            base_sequence: i32::from_be_bytes(array(bytes, BASE_SEQUENCE)),
            record_count: i32::from_be_bytes(array(bytes, RECORD_COUNT)),
        };
        if header.batch_length < (HEADER_SIZE_BYTES - LOG_OVERHEAD_BYTES) as i32 {
            return Err(BatchError::Length(header.batch_length));
        }
        Ok(header)
    }

    /// Writes the header's 61 bytes over the start of `bytes`.
    pub(super) fn write(&self, bytes: &mut [u8]) {
        assert!(
            bytes.len() >= HEADER_SIZE_BYTES,
            "a header needs {HEADER_SIZE_BYTES} bytes"
        );
        put(bytes, BASE_OFFSET, self.base_offset.to_be_bytes());
        put(bytes, BATCH_LENGTH, self.batch_length.to_be_bytes());
        put(
            bytes,
            PARTITION_LEADER_EPOCH,
            self.partition_leader_epoch.to_be_bytes(),
        );
        put(bytes, MAGIC, self.magic.to_be_bytes());
        put(bytes, CRC, self.crc.to_be_bytes());
        put(bytes, ATTRIBUTES, self.attributes.to_be_bytes());
        put(bytes, LAST_OFFSET_DELTA, self.last_offset_delta.to_be_bytes());
        put(bytes, BASE_TIMESTAMP, self.base_timestamp.to_be_bytes());
        put(bytes, MAX_TIMESTAMP, self.max_timestamp.to_be_bytes());
        put(bytes, PRODUCER_ID, self.producer_id.to_be_bytes());
        put(bytes, PRODUCER_EPOCH, self.producer_epoch.to_be_bytes());
        put(bytes, BASE_SEQUENCE, self.base_sequence.to_be_bytes());
        put(bytes, RECORD_COUNT, self.record_count.to_be_bytes());
    }

    /// Bytes of the whole batch, header included.
    pub fn size_bytes(&self) -> usize {
        LOG_OVERHEAD_BYTES + self.batch_length.max(0) as usize
    }

    /// Offset of the last record (or of the last one before compaction).
    pub fn last_offset(&self) -> i64 {
        self.base_offset.wrapping_add(i64::from(self.last_offset_delta))
    }

    /// Offset the next batch begins at, at least.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().wrapping_add(1)
    }

    /// Sequence of the last record, -1 without a producer; after `i32::MAX` comes 0.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return NO_SEQUENCE;
        }
        increment_sequence(self.base_sequence, self.last_offset_delta)
    }

    /// Whether an idempotent or transactional producer wrote the batch.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch holds control records, which consumers do not see.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// The time at which tombstones of this batch may go, if a compaction has set one.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_BIT != 0).then_some(self.base_timestamp)
    }

    /// The codec of the records section.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let id = self.attributes & COMPRESSION_MASK;
        Compression::from_id(id).ok_or(BatchError::Compression(id))
    }

    /// Who set the timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & TIMESTAMP_TYPE_BIT != 0 {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }
}

/// `attributes` with its compression bits replaced.
pub(super) fn with_compression(attributes: i16, compression: Compression) -> i16 {
    (attributes & !COMPRESSION_MASK) | compression.id()
}

/// The sequence `increment` records after `sequence`; both at least 0, wraps after `i32::MAX` to 0.
pub fn increment_sequence(sequence: i32, increment: i32) -> i32 {
    (i64::from(sequence) + i64::from(increment)).rem_euclid(i64::from(i32::MAX) + 1) as i32
}

/// The sequence `decrement` records before `sequence`; both at least 0, before 0 comes `i32::MAX`.
pub fn decrement_sequence(sequence: i32, decrement: i32) -> i32 {
    (i64::from(sequence) - i64::from(decrement)).rem_euclid(i64::from(i32::MAX) + 1) as i32
}

/// The complete batches of `bytes`, one after the other; see [`Batches`].
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches {
        bytes,
        consumed: 0,
        failed: false,
    }
}

/// Iterator over complete batches; an incomplete tail ends it silently, a malformed header with one error.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    consumed: usize,
    failed: bool,
}

impl Batches<'_> {
    /// Bytes of the batches yielded so far: where the incomplete or malformed rest begins.
    pub fn consumed_bytes(&self) -> usize {
        self.consumed
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.consumed..];
        if self.failed || rest.len() < LOG_OVERHEAD_BYTES {
            return None;
        }
        match BatchHeader::parse(rest) {
            Ok(header) => {
                let batch = rest.get(..header.size_bytes())?;
                self.consumed += batch.len();
                Some(Ok((header, batch)))
            }
            Err(BatchError::Truncated { .. }) => {
                let length = i32::from_be_bytes(array(rest, BATCH_LENGTH));
                if length >= (HEADER_SIZE_BYTES - LOG_OVERHEAD_BYTES) as i32 {
                    return None;
                }
                self.failed = true;
                Some(Err(BatchError::Length(length)))
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

/// Checks the CRC of one whole batch; `batch` may be followed by more bytes.
pub fn verify_crc(batch: &[u8]) -> Result<(), BatchError> {
    let header = BatchHeader::parse(batch)?;
    let size = header.size_bytes();
    let Some(batch) = batch.get(..size) else {
        return Err(BatchError::Truncated {
            needed: size,
            available: batch.len(),
        });
    };
    check_crc(&header, batch)
}

/// Checks the CRC of exactly one batch whose header this is.
pub fn check_crc(header: &BatchHeader, batch: &[u8]) -> Result<(), BatchError> {
    let computed = checksum(&batch[ATTRIBUTES..]);
    if computed != header.crc {
        return Err(BatchError::Crc {
            stored: header.crc,
            computed,
        });
    }
    Ok(())
}

impl BatchHeader {
    /// Takes the head of one more batch, which has the checksum of the rest, into the checksum `heads` of those before it: two
    /// files whose batches are all right and whose heads have the same checksum are the same.
    #[must_use]
    pub fn chain(&self, heads: u32) -> u32 {
        let mut head = [0; ATTRIBUTES];
        put(&mut head, 0, self.base_offset.to_be_bytes());
        put(&mut head, 8, self.batch_length.to_be_bytes());
        put(&mut head, 12, self.partition_leader_epoch.to_be_bytes());
        put(&mut head, MAGIC, self.magic.to_be_bytes());
        put(&mut head, CRC, self.crc.to_be_bytes());
        crc32c::crc32c_append(heads, &head)
    }
}

/// The records section of a batch, as stored (compressed or not). Panics if `batch` is shorter than a header.
pub fn records_section(batch: &[u8]) -> &[u8] {
    &batch[HEADER_SIZE_BYTES..]
}

/// Moves the batch to `base_offset`; the CRC does not cover it.
pub fn set_base_offset(batch: &mut [u8], base_offset: i64) {
    put(batch, BASE_OFFSET, base_offset.to_be_bytes());
}

/// Stamps the leader's epoch; the CRC does not cover it.
pub fn set_partition_leader_epoch(batch: &mut [u8], epoch: i32) {
    put(batch, PARTITION_LEADER_EPOCH, epoch.to_be_bytes());
}

/// Recomputes the CRC. `batch` is exactly one batch.
pub fn update_crc(batch: &mut [u8]) {
    let crc = checksum(&batch[ATTRIBUTES..]);
    put(batch, CRC, crc.to_be_bytes());
}

/// The 61 bytes before a batch's records, with what a leader changes in them.
///
/// The records behind them stay where the socket put them: a leader writes its own head and then the producer's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHead([u8; HEADER_SIZE_BYTES]);

impl BatchHead {
    /// The head of a batch as it came.
    pub fn of(batch: &[u8]) -> Result<BatchHead, BatchError> {
        let available = batch.len();
        let head = batch.first_chunk().ok_or(BatchError::Truncated {
            needed: HEADER_SIZE_BYTES,
            available,
        })?;
        Ok(BatchHead(*head))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; HEADER_SIZE_BYTES] {
        &self.0
    }

    /// Places the batch in the log; the CRC does not cover it.
    pub fn place(&mut self, base_offset: i64, partition_leader_epoch: i32) {
        set_base_offset(&mut self.0, base_offset);
        set_partition_leader_epoch(&mut self.0, partition_leader_epoch);
    }

    /// Makes the batch one of LogAppendTime `ms`; `section` is everything behind the head, which the CRC covers too.
    pub fn set_log_append_time(&mut self, ms: i64, section: &[u8]) {
        self.set_time(self.attributes() | TIMESTAMP_TYPE_BIT, ms, section);
    }

    /// Makes the batch one of CreateTime with this greatest timestamp; `section` as above.
    pub fn set_create_time(&mut self, max_timestamp: i64, section: &[u8]) {
        self.set_time(self.attributes() & !TIMESTAMP_TYPE_BIT, max_timestamp, section);
    }

    fn attributes(&self) -> i16 {
        i16::from_be_bytes(array(&self.0, ATTRIBUTES))
    }

    fn set_time(&mut self, attributes: i16, max_timestamp: i64, section: &[u8]) {
        put(&mut self.0, ATTRIBUTES, attributes.to_be_bytes());
        put(&mut self.0, MAX_TIMESTAMP, max_timestamp.to_be_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&self.0[ATTRIBUTES..]), section);
        put(&mut self.0, CRC, crc.to_be_bytes());
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}
