//! What a leader checks and changes in a produced batch before it appends it.
//!
//! Refuses with the codes of Kafka's log; assigns no offsets (the log does) and changes nothing but the timestamp fields of
//! the head, of which it hands out a copy. Sequence and epoch checks against producer state are the log's.

use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use kafka_protocol::ResponseError as ErrorCode;

use super::batch::{
    self, BatchError, BatchHead, BatchHeader, HEADER_SIZE_BYTES, NO_TIMESTAMP, TimestampType,
};
use super::builder;
use super::compression::{self, Compression, CompressionError, DECOMPRESSED_BYTES_MAX};
use super::record::{self, RecordError};

/// Record errors a refusal lists at most; its message has the total.
pub const RECORD_ERRORS_MAX: usize = 1000;

/// What the topic and the request allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceRules {
    /// The topic has `cleanup.policy=compact`: every record needs a key.
    pub compacted: bool,
    /// `max.message.bytes`, of the batch as sent.
    pub max_message_bytes: usize,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// The request's version knows zstd (Produce v7).
    pub zstd_allowed: bool,
    /// The wall clock.
    pub now_ms: i64,
}

/// A batch the log may append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducedBatch {
    /// The header after the changes; its base offset is still 0.
    pub header: BatchHeader,
    /// The same as bytes: they take the place of the batch's own.
    pub head: BatchHead,
    /// What the response carries: the append time, or -1 for CreateTime.
    pub log_append_time_ms: i64,
}

/// Why a batch is not appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The partition's error code.
    pub code: ErrorCode,
    /// For the response's error_message.
    pub message: String,
    /// Position in the batch and reason of each bad record, at most [`RECORD_ERRORS_MAX`].
    pub record_errors: Vec<(i32, String)>,
}

impl Refusal {
    fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
            record_errors: Vec::new(),
        }
    }

    fn invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(ErrorCode::InvalidRecord, message)
    }
}

impl From<crate::error::ApiError> for Refusal {
    fn from(error: crate::error::ApiError) -> Refusal {
        Refusal::new(error.code, error.detail)
    }
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Refusal {
        let code = match &error {
            RecordError::Batch(BatchError::Crc { .. } | BatchError::Length(_)) => ErrorCode::CorruptMessage,
            RecordError::Batch(BatchError::Compression(_)) => ErrorCode::UnsupportedCompressionType,
            RecordError::Batch(BatchError::Truncated { .. } | BatchError::Magic(_)) => {
                ErrorCode::InvalidRecord
            }
            // The Java producer splits a batch it is told is too large, and each half then decompresses to less.
            RecordError::Compression(CompressionError::TooLarge { .. }) => ErrorCode::MessageTooLarge,
            RecordError::Compression(CompressionError::Malformed { .. })
            | RecordError::Malformed { .. }
            | RecordError::TrailingBytes(_) => ErrorCode::InvalidRecord,
        };
        Refusal::new(code, error.to_string())
    }
}

/// Checks the records of one partition of a produce request, and settles the batch's timestamp type and greatest timestamp.
///
/// `records` must be exactly one batch.
pub fn validate_produce(records: &[u8], rules: &ProduceRules) -> Result<ProducedBatch, Refusal> {
    let header = sole_batch(records)?;
    let codec = header.compression().map_err(RecordError::from)?;
    if codec == Compression::Zstd && !rules.zstd_allowed {
        let message = "zstd needs version 7 or higher of the produce request";
        return Err(Refusal::new(ErrorCode::UnsupportedCompressionType, message));
    }
    if header.base_offset != 0 {
        return Err(Refusal::invalid(format!(
            "the base offset of a produced batch is 0, not {}",
            header.base_offset
        )));
    }
    if header.size_bytes() > rules.max_message_bytes {
        let (size, max) = (header.size_bytes(), rules.max_message_bytes);
        let message = format!("the batch has {size} bytes and max.message.bytes is {max}");
        return Err(Refusal::new(ErrorCode::MessageTooLarge, message));
    }
    batch::verify_crc(records).map_err(RecordError::from)?;
    check_header(&header)?;

    let mut check = RecordCheck::new(&header, rules);
    match codec {
        Compression::None => check.walk_slice(&records[HEADER_SIZE_BYTES..])?,
        Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd => {
            check.walk_stream(codec, &records[HEADER_SIZE_BYTES..])?;
        }
    }
    let max_timestamp = check.finish()?;

    let mut head = BatchHead::of(records).map_err(RecordError::from)?;
    let section = &records[HEADER_SIZE_BYTES..];
    let log_append_time_ms = match rules.timestamp_type {
        TimestampType::LogAppendTime => {
            head.set_log_append_time(rules.now_ms, section);
            rules.now_ms
        }
        TimestampType::CreateTime => {
            if header.timestamp_type() != TimestampType::CreateTime || header.max_timestamp != max_timestamp {
                head.set_create_time(max_timestamp, section);
            }
            NO_TIMESTAMP
        }
    };
    let header = BatchHeader::parse(head.bytes()).expect("the header was readable and stays so");
    Ok(ProducedBatch {
        header,
        head,
        log_append_time_ms,
    })
}

/// The header of the one batch that `records` is.
fn sole_batch(records: &[u8]) -> Result<BatchHeader, Refusal> {
    let mut batches = batch::batches(records);
    let header = match batches.next() {
        None => {
            return Err(Refusal::invalid(
                "a partition's records are one complete batch, there is none",
            ));
        }
        Some(Err(error)) => return Err(RecordError::from(error).into()),
        Some(Ok((header, _))) => header,
    };
    if batches.consumed_bytes() != records.len() {
        return Err(Refusal::invalid(
            "a partition's records are exactly one batch, more bytes follow it",
        ));
    }
    Ok(header)
}

fn check_header(header: &BatchHeader) -> Result<(), Refusal> {
    if header.last_offset_delta < 0 {
        let delta = header.last_offset_delta;
        return Err(Refusal::invalid(format!(
            "the batch has the last offset delta {delta}"
        )));
    }
    if header.record_count <= 0 {
        return Err(Refusal::invalid(format!(
            "the batch has the record count {}",
            header.record_count
        )));
    }
    if i64::from(header.last_offset_delta) + 1 != i64::from(header.record_count) {
        let (delta, count) = (header.last_offset_delta, header.record_count);
        let message = format!("the last offset delta {delta} does not agree with the record count {count}");
        return Err(Refusal::invalid(message));
    }
    if header.is_control() {
        return Err(Refusal::invalid("clients may not write control records"));
    }
    if header.has_producer_id() && header.base_sequence < 0 {
        let (sequence, id) = (header.base_sequence, header.producer_id);
        return Err(Refusal::invalid(format!(
            "producer {id} sent the base sequence {sequence}"
        )));
    }
    Ok(())
}

/// What the rules look at in one record.
struct Shape {
    offset_delta: i32,
    timestamp_delta: i64,
    has_key: bool,
}

/// Walks the records of a batch and gathers what is wrong with them.
struct RecordCheck<'a> {
    header: &'a BatchHeader,
    rules: &'a ProduceRules,
    index: i32,
    max_timestamp: i64,
    timestamp_refused: bool,
    error_count: usize,
    errors: Vec<(i32, String)>,
}

impl<'a> RecordCheck<'a> {
    fn new(header: &'a BatchHeader, rules: &'a ProduceRules) -> RecordCheck<'a> {
        RecordCheck {
            header,
            rules,
            index: 0,
            max_timestamp: NO_TIMESTAMP,
            timestamp_refused: false,
            error_count: 0,
            errors: Vec::new(),
        }
    }

    fn walk_slice(&mut self, mut section: &[u8]) -> Result<(), Refusal> {
        for index in 0..self.header.record_count {
            let raw = record::read_record(&mut section)
                .map_err(|what| Refusal::from(RecordError::Malformed { index, what }))?;
            let (offset_delta, timestamp_delta) = (raw.offset_delta, raw.timestamp_delta);
            self.check(Shape {
                offset_delta,
                timestamp_delta,
                has_key: raw.key.is_some(),
            })?;
        }
        if !section.is_empty() {
            return Err(RecordError::TrailingBytes(section.len()).into());
        }
        Ok(())
    }

    fn walk_stream(&mut self, codec: Compression, section: &[u8]) -> Result<(), Refusal> {
        let refuse = |index: i32, error: io::Error| {
            // What the walk itself found out comes as Other; the rest are the codec's.
            if error.kind() == io::ErrorKind::Other
                && let Some(source) = error.get_ref()
                && let Some(StreamFault(what)) = source.downcast_ref::<StreamFault>()
            {
                return Refusal::from(RecordError::Malformed { index, what });
            }
            if error.kind() == io::ErrorKind::UnexpectedEof {
                let what = "the batch ends before its last record";
                return Refusal::from(RecordError::Malformed { index, what });
            }
            let error = compression::classify(codec, section.len(), DECOMPRESSED_BYTES_MAX, error);
            RecordError::from(error).into()
        };
        let reader = compression::buffered_reader(codec, section, DECOMPRESSED_BYTES_MAX);
        let mut stream = RecordStream {
            reader: reader.map_err(|error| refuse(0, error))?,
            left: 0,
        };
        for index in 0..self.header.record_count {
            let shape = stream.next_shape().map_err(|error| refuse(index, error))?;
            self.check(shape)?;
        }
        let rest = stream
            .reader
            .fill_buf()
            .map_err(|error| refuse(self.header.record_count, error))?;
        if !rest.is_empty() {
            return Err(RecordError::TrailingBytes(rest.len()).into());
        }
        Ok(())
    }

    #[inline]
    fn check(&mut self, shape: Shape) -> Result<(), Refusal> {
        if shape.offset_delta != self.index {
            let (delta, index) = (shape.offset_delta, self.index);
            return Err(Refusal::invalid(format!(
                "record {index} of the batch has the offset delta {delta}"
            )));
        }
        let timestamp = self.header.base_timestamp.wrapping_add(shape.timestamp_delta);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        if self.rules.compacted && !shape.has_key {
            self.refuse_record(|| "a compacted topic accepts no record without a key".to_owned());
        } else if let Some(message) = self.refused_timestamp(timestamp) {
            self.timestamp_refused = true;
            self.refuse_record(|| message);
        }
        self.index += 1;
        Ok(())
    }

    fn refused_timestamp(&self, timestamp: i64) -> Option<String> {
        let rules = self.rules;
        match rules.timestamp_type {
            TimestampType::LogAppendTime => (self.header.timestamp_type() == TimestampType::LogAppendTime)
                .then(|| "a producer may not set the timestamp type LogAppendTime".to_owned()),
            TimestampType::CreateTime => {
                let age_ms = rules.now_ms.saturating_sub(timestamp);
                let in_range = age_ms <= rules.timestamp_before_max_ms
                    && age_ms.saturating_neg() <= rules.timestamp_after_max_ms;
                (timestamp != NO_TIMESTAMP && !in_range).then(|| {
                    let from = rules.now_ms.saturating_sub(rules.timestamp_before_max_ms);
                    let to = rules.now_ms.saturating_add(rules.timestamp_after_max_ms);
                    format!("the timestamp {timestamp} is not within [{from}, {to}]")
                })
            }
        }
    }

    fn refuse_record(&mut self, message: impl FnOnce() -> String) {
        self.error_count += 1;
        if self.errors.len() < RECORD_ERRORS_MAX {
            self.errors.push((self.index, message()));
        }
    }

    /// The greatest timestamp, if no record was bad.
    fn finish(self) -> Result<i64, Refusal> {
        if self.error_count == 0 {
            return Ok(self.max_timestamp);
        }
        let (code, message) = if self.timestamp_refused {
            (
                ErrorCode::InvalidTimestamp,
                "one or more records have an invalid timestamp".to_owned(),
            )
        } else {
            let (count, first) = (self.error_count, &self.errors[0]);
            let message = format!(
                "{count} invalid records, the first is record {}: {}",
                first.0, first.1
            );
            (ErrorCode::InvalidRecord, message)
        };
        Err(Refusal {
            code,
            message,
            record_errors: self.errors,
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct StreamFault(&'static str);

fn fault(what: &'static str) -> io::Error {
    io::Error::other(StreamFault(what))
}

/// Reads records from a decompressing stream without keeping their bytes.
struct RecordStream<R: Read> {
    reader: BufReader<R>,
    /// Bytes of the current record not read yet.
    left: usize,
}

impl<R: Read> RecordStream<R> {
    fn next_shape(&mut self) -> io::Result<Shape> {
        // The length itself is at most 5 bytes and not part of the record.
        self.left = 5;
        let length = self.varint_i32()?;
        self.left = usize::try_from(length).map_err(|_| fault("its length is negative"))?;
        self.skip(1)?;
        let timestamp_delta = unzigzag(self.varint::<10>()?);
        let offset_delta = self.varint_i32()?;
        let has_key = self.skip_nullable_bytes()?;
        self.skip_nullable_bytes()?;
        let count = self.varint_i32()?;
        if usize::try_from(count).map_err(|_| fault("its header count is negative"))? > self.left {
            return Err(fault("its header count passes the end of the record"));
        }
        for _ in 0..count {
            if !self.skip_nullable_bytes()? {
                return Err(fault("a header key is null"));
            }
            self.skip_nullable_bytes()?;
        }
        if self.left > 0 {
            return Err(fault("bytes are left after its headers"));
        }
        Ok(Shape {
            offset_delta,
            timestamp_delta,
            has_key,
        })
    }

    /// Skips a length and as many bytes; whether it was not null.
    fn skip_nullable_bytes(&mut self) -> io::Result<bool> {
        let Ok(length) = usize::try_from(self.varint_i32()?) else {
            return Ok(false);
        };
        self.skip(length)?;
        Ok(true)
    }

    fn varint_i32(&mut self) -> io::Result<i32> {
        i32::try_from(unzigzag(self.varint::<5>()?)).map_err(|_| fault("a varint passes 32 bits"))
    }

    fn varint<const MAX: usize>(&mut self) -> io::Result<u64> {
        let mut raw = 0u64;
        for at in 0..MAX {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if at == 9 && part > 1 {
                break;
            }
            raw |= part << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(raw);
            }
        }
        Err(fault("a varint is too long"))
    }

    fn byte(&mut self) -> io::Result<u8> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| fault("a field passes the end of the record"))?;
        let &byte = self
            .reader
            .fill_buf()?
            .first()
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.reader.consume(1);
        Ok(byte)
    }

    fn skip(&mut self, mut length: usize) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(length)
            .ok_or_else(|| fault("a field passes the end of the record"))?;
        while length > 0 {
            let available = self.reader.fill_buf()?.len();
            if available == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = available.min(length);
            self.reader.consume(step);
            length -= step;
        }
        Ok(())
    }
}

fn unzigzag(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}

/// The same batch under another codec, with new length, attribute bits and CRC; everything else is kept.
///
/// For a topic whose `compression.type` is not `producer`. Expects a validated batch.
pub fn recompress(batch: &[u8], codec: Compression, level: Option<i32>) -> Result<Bytes, Refusal> {
    let (mut header, section) = record::decoded_section(batch, DECOMPRESSED_BYTES_MAX)?;
    header.attributes = batch::with_compression(header.attributes, codec);
    match codec {
        Compression::None => Ok(builder::finish(header, &section)),
        Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd => Ok(
            builder::finish(header, &compression::compress(codec, level, &section)),
        ),
    }
}
