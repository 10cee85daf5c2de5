//! Building record batches.
//!
//! For what the broker itself writes (internal topics, markers), for compaction and for tests. Promises batches that
//! `validate` accepts if the caller's fields are those of a producer. Not a producer: no size policy, no linger.

use bytes::Bytes;

use super::batch::{
    self, BatchError, BatchHeader, HEADER_SIZE_BYTES, LOG_OVERHEAD_BYTES, MAGIC_V2, TimestampType,
};
use super::compression::{self, Compression, Encoder};
use super::record::{Header, Record};
use super::varint;

/// Collects records and yields one batch.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    header: BatchHeader,
    compression: Compression,
    level: Option<i32>,
    /// The next record decides `base_timestamp`.
    base_timestamp_open: bool,
    /// `last_offset_delta` does not follow the records (compaction).
    last_offset_fixed: bool,
    next_offset_delta: i32,
    section: Vec<u8>,
    body: Vec<u8>,
}

impl BatchBuilder {
    /// A batch that begins at `base_offset`, without compression and without a producer.
    pub fn new(base_offset: i64) -> BatchBuilder {
        let header = BatchHeader {
            base_offset,
            batch_length: 0,
            partition_leader_epoch: batch::NO_PARTITION_LEADER_EPOCH,
            magic: MAGIC_V2,
            crc: 0,
            attributes: 0,
            last_offset_delta: -1,
            base_timestamp: batch::NO_TIMESTAMP,
            max_timestamp: batch::NO_TIMESTAMP,
            producer_id: batch::NO_PRODUCER_ID,
            producer_epoch: batch::NO_PRODUCER_EPOCH,
            base_sequence: batch::NO_SEQUENCE,
            record_count: 0,
        };
        BatchBuilder {
            header,
            compression: Compression::None,
            level: None,
            base_timestamp_open: true,
            last_offset_fixed: false,
            next_offset_delta: 0,
            section: Vec::new(),
            body: Vec::new(),
        }
    }

    /// A batch with the identity of `header`: offsets, epoch, producer, flags, delete horizon. For compaction, which
    /// leaves records out but keeps the offset range. Set the compression afterwards if it differs from none.
    pub fn like(header: &BatchHeader) -> BatchBuilder {
        let mut builder = BatchBuilder::new(header.base_offset);
        builder.header = BatchHeader {
            record_count: 0,
            ..*header
        };
        if header.timestamp_type() == TimestampType::CreateTime {
            builder.header.max_timestamp = batch::NO_TIMESTAMP;
        }
        builder.base_timestamp_open = false;
        builder.last_offset_fixed = true;
        builder
    }

    /// Stamps the leader epoch.
    pub fn partition_leader_epoch(mut self, epoch: i32) -> BatchBuilder {
        self.header.partition_leader_epoch = epoch;
        self
    }

    /// Names the producer; a marker has the sequence -1.
    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> BatchBuilder {
        self.header.producer_id = producer_id;
        self.header.producer_epoch = producer_epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Makes the batch part of a transaction.
    pub fn transactional(mut self) -> BatchBuilder {
        self.header.attributes |= batch::TRANSACTIONAL_BIT;
        self
    }

    /// Makes the records control records.
    pub fn control(mut self) -> BatchBuilder {
        self.header.attributes |= batch::CONTROL_BIT;
        self
    }

    /// Compresses the records; `level` as in [`compress`](super::compression::compress).
    pub fn compression(mut self, compression: Compression, level: Option<i32>) -> BatchBuilder {
        self.compression = compression;
        self.level = level;
        self
    }

    /// Makes `ms` the timestamp of every record.
    pub fn log_append_time(mut self, ms: i64) -> BatchBuilder {
        self.header.attributes |= batch::TIMESTAMP_TYPE_BIT;
        self.header.max_timestamp = ms;
        self
    }

    /// Notes when tombstones and markers in the batch may go; takes the place of the base timestamp, so it must come
    /// before the first record.
    pub fn delete_horizon(mut self, ms: i64) -> BatchBuilder {
        assert!(
            self.section.is_empty(),
            "the delete horizon is the base the records' timestamps count from"
        );
        self.header.attributes |= batch::DELETE_HORIZON_BIT;
        self.header.base_timestamp = ms;
        self.base_timestamp_open = false;
        self
    }

    /// Adds a record at the offset after the last one.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) {
        let record = (timestamp, key, value);
        self.write_record(
            self.next_offset_delta,
            record,
            headers.len(),
            headers.iter().copied(),
        );
    }

    /// Adds a record with its own offset, which must be greater than the last one's and fit the batch.
    pub fn append_record(&mut self, record: &Record<'_>) {
        let offset_delta = i32::try_from(record.offset - self.header.base_offset)
            .expect("a record's offset lies within i32 of its batch's base offset");
        assert!(
            offset_delta >= self.next_offset_delta,
            "offsets rise within a batch"
        );
        let fields = (record.timestamp, record.key, record.value);
        self.write_record(offset_delta, fields, record.headers.len(), record.headers.iter());
    }

    /// Records so far.
    pub fn record_count(&self) -> i32 {
        self.header.record_count
    }

    /// Bytes of the batch so far, without compression.
    pub fn size_bytes(&self) -> usize {
        HEADER_SIZE_BYTES + self.section.len()
    }

    /// The batch, with its CRC.
    pub fn build(self) -> Bytes {
        let mut header = self.header;
        assert!(
            header.record_count > 0 || self.last_offset_fixed,
            "a new batch has at least one record"
        );
        header.attributes = batch::with_compression(header.attributes, self.compression);
        let mut out = Vec::with_capacity(HEADER_SIZE_BYTES + self.section.len());
        out.resize(HEADER_SIZE_BYTES, 0);
        let mut encoder = Encoder::new(self.compression, self.level, out);
        encoder.write(&self.section);
        let mut out = encoder.finish();
        write_header(header, &mut out);
        Bytes::from(out)
    }

    fn write_record<'h>(
        &mut self,
        offset_delta: i32,
        (timestamp, key, value): (i64, Option<&[u8]>, Option<&[u8]>),
        header_count: usize,
        headers: impl Iterator<Item = Header<'h>>,
    ) {
        let header = &mut self.header;
        if self.base_timestamp_open {
            header.base_timestamp = timestamp;
            self.base_timestamp_open = false;
        }
        if header.timestamp_type() == TimestampType::CreateTime {
            header.max_timestamp = header.max_timestamp.max(timestamp);
        }
        if !self.last_offset_fixed {
            header.last_offset_delta = offset_delta;
        }
        header.record_count += 1;
        self.next_offset_delta = offset_delta + 1;

        let body = &mut self.body;
        body.clear();
        body.push(0);
        varint::write_i64(body, timestamp.wrapping_sub(header.base_timestamp));
        varint::write_i32(body, offset_delta);
        write_nullable_bytes(body, key);
        write_nullable_bytes(body, value);
        varint::write_i32(body, length(header_count));
        for header in headers {
            write_nullable_bytes(body, Some(header.key));
            write_nullable_bytes(body, header.value);
        }
        varint::write_i32(&mut self.section, length(body.len()));
        self.section.extend_from_slice(body);
    }
}

/// Appends to `out` the batch that compaction leaves of another: its identity, and some of its encoded records.
///
/// `section` holds those records as they were encoded, which still fits: base offset and base timestamp stay. It is
/// compressed with the batch's codec. `max_timestamp` is the greatest of theirs; a LogAppendTime batch keeps its own.
pub fn append_filtered(
    out: &mut Vec<u8>,
    header: &BatchHeader,
    record_count: i32,
    max_timestamp: i64,
    section: &[u8],
) -> Result<(), BatchError> {
    let codec = header.compression()?;
    let mut header = BatchHeader {
        record_count,
        ..*header
    };
    if header.timestamp_type() == TimestampType::CreateTime {
        header.max_timestamp = max_timestamp;
    }
    match codec {
        Compression::None => append_batch(out, header, section),
        Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd => {
            append_batch(out, header, &compression::compress(codec, None, section));
        }
    }
    Ok(())
}

/// Appends to `out` the batch that is left of another once all of its records are gone: offsets, sequences, producer, flags
/// and greatest timestamp stay.
pub fn append_emptied(out: &mut Vec<u8>, header: &BatchHeader) {
    let attributes = header.attributes & !batch::DELETE_HORIZON_BIT;
    let header = BatchHeader {
        attributes: batch::with_compression(attributes, Compression::None),
        base_timestamp: batch::NO_TIMESTAMP,
        record_count: 0,
        ..*header
    };
    append_batch(out, header, &[]);
}

fn append_batch(out: &mut Vec<u8>, header: BatchHeader, section: &[u8]) {
    let start = out.len();
    out.resize(start + HEADER_SIZE_BYTES, 0);
    out.extend_from_slice(section);
    write_header(header, &mut out[start..]);
}

/// Writes `header` before the section that stands at its place in `batch`: sets length and CRC.
pub(super) fn write_header(mut header: BatchHeader, batch: &mut [u8]) {
    header.batch_length = length(batch.len() - LOG_OVERHEAD_BYTES);
    header.write(batch);
    batch::update_crc(batch);
}

fn write_nullable_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::write_i32(out, -1),
        Some(bytes) => {
            varint::write_i32(out, length(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

fn length(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("what a batch holds is far below 2 GiB")
}
