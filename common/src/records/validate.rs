//! What a leader checks and changes in a produced batch before it appends it.
//!
//! Refuses with the codes of Kafka's log; assigns no offsets (the log does) and changes nothing but the timestamp fields of
//! the head, of which it hands out a copy. Sequence and epoch checks against producer state are the log's.

use std::ops::ControlFlow;

use bytes::Bytes;
use kafka_protocol::ResponseError as ErrorCode;

use super::batch::{
    self, BatchError, BatchHead, BatchHeader, HEADER_SIZE_BYTES, NO_TIMESTAMP, TimestampType,
};
use super::builder;
use super::compression::{self, Compression, CompressionError, DECOMPRESSED_BYTES_MAX, Encoder, Limits};
use super::record::RecordError;
use super::walk::{Expected, RecordWalk, Shape};

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
    batch::check_crc(&header, records).map_err(RecordError::from)?;
    check_header(&header)?;

    let max_timestamp = check_records(&header, codec, &records[HEADER_SIZE_BYTES..], rules)?;

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

/// Walks the records of the batch and holds them to the rules; the greatest of their timestamps.
fn check_records(
    header: &BatchHeader,
    codec: Compression,
    section: &[u8],
    rules: &ProduceRules,
) -> Result<i64, Refusal> {
    let mut walk = RecordWalk::new(header.record_count, expected(header, rules));
    let mut check = RecordCheck::new(header, rules);
    let mut fault = Ok(());
    let mut feed = |piece: &[u8]| {
        fault = walk.feed(piece, &mut |index, shape| check.record(index, shape));
        match fault {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let ended = compression::decompress_into(codec, section, Limits::PRODUCED, &mut feed);
    // What the walk found came first; the decoder was stopped for it.
    fault?;
    let _ = ended.map_err(RecordError::from)?;
    let max_timestamp = walk.finish()?;
    check.finish()?;
    Ok(max_timestamp)
}

/// What a record looks like that the rules need not look at.
fn expected(header: &BatchHeader, rules: &ProduceRules) -> Expected {
    let (timestamp_min, timestamp_max) = match (header.timestamp_type(), rules.timestamp_type) {
        // Such a batch is refused, or at least needs a second look.
        (TimestampType::LogAppendTime, _) => (1, 0),
        (TimestampType::CreateTime, TimestampType::LogAppendTime) => (i64::MIN, i64::MAX),
        (TimestampType::CreateTime, TimestampType::CreateTime) => (
            rules.now_ms.saturating_sub(rules.timestamp_before_max_ms),
            rules.now_ms.saturating_add(rules.timestamp_after_max_ms),
        ),
    };
    Expected {
        base_timestamp: header.base_timestamp,
        timestamp_min,
        timestamp_max,
        key: rules.compacted,
    }
}

/// Holds the records of a batch to the rules and gathers what is wrong with them.
struct RecordCheck<'a> {
    header: &'a BatchHeader,
    rules: &'a ProduceRules,
    timestamp_refused: bool,
    error_count: usize,
    errors: Vec<(i32, String)>,
}

impl<'a> RecordCheck<'a> {
    fn new(header: &'a BatchHeader, rules: &'a ProduceRules) -> RecordCheck<'a> {
        RecordCheck {
            header,
            rules,
            timestamp_refused: false,
            error_count: 0,
            errors: Vec::new(),
        }
    }

    fn record(&mut self, index: i32, shape: Shape) -> Result<(), Refusal> {
        if shape.offset_delta != index {
            let delta = shape.offset_delta;
            return Err(Refusal::invalid(format!(
                "record {index} of the batch has the offset delta {delta}"
            )));
        }
        let timestamp = self.header.base_timestamp.wrapping_add(shape.timestamp_delta);
        if self.rules.compacted && !shape.has_key {
            self.refuse_record(
                index,
                "a compacted topic accepts no record without a key".to_owned(),
            );
        } else if let Some(message) = self.refused_timestamp(timestamp) {
            self.timestamp_refused = true;
            self.refuse_record(index, message);
        }
        Ok(())
    }

    /// Why the log does not take a record with this timestamp of its own, if it does not.
    fn refused_timestamp(&self, timestamp: i64) -> Option<String> {
        let of_producer = self.header.timestamp_type();
        match (self.rules.timestamp_type, of_producer) {
            (TimestampType::CreateTime, TimestampType::CreateTime) => self.out_of_range(timestamp),
            // Kafka gives every record of such a batch the batch's greatest timestamp, and looks at that. The records'
            // own are what consumers will see here, so they are looked at too.
            (TimestampType::CreateTime, TimestampType::LogAppendTime)
                if self.header.max_timestamp != NO_TIMESTAMP =>
            {
                let of_batch = self.out_of_range(self.header.max_timestamp);
                of_batch.or_else(|| self.out_of_range(timestamp))
            }
            (_, TimestampType::LogAppendTime) => {
                Some("a producer may not set the timestamp type LogAppendTime".to_owned())
            }
            (TimestampType::LogAppendTime, TimestampType::CreateTime) => None,
        }
    }

    fn out_of_range(&self, timestamp: i64) -> Option<String> {
        let rules = self.rules;
        // Wrapping as in Kafka, where both limits at their greatest allow everything.
        let age_ms = rules.now_ms.wrapping_sub(timestamp);
        let refused =
            age_ms > rules.timestamp_before_max_ms || age_ms.wrapping_neg() > rules.timestamp_after_max_ms;
        (timestamp != NO_TIMESTAMP && refused).then(|| {
            let from = rules.now_ms.saturating_sub(rules.timestamp_before_max_ms);
            let to = rules.now_ms.saturating_add(rules.timestamp_after_max_ms);
            format!("the timestamp {timestamp} is not within [{from}, {to}]")
        })
    }

    fn refuse_record(&mut self, index: i32, message: String) {
        self.error_count += 1;
        if self.errors.len() < RECORD_ERRORS_MAX {
            self.errors.push((index, message));
        }
    }

    /// Refuses the batch if a record was bad.
    fn finish(self) -> Result<(), Refusal> {
        if self.error_count == 0 {
            return Ok(());
        }
        let (code, message) = if self.timestamp_refused {
            (
                ErrorCode::InvalidTimestamp,
                "One or more records have been rejected due to invalid timestamp".to_owned(),
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

/// The same batch under another codec, with new length, attribute bits and CRC; everything else is kept.
///
/// For a topic whose `compression.type` is not `producer`. Expects a validated batch. Like Kafka it refuses a result of
/// more than `max_message_bytes`, and stops when the result has grown past them; a control batch stays as it is. So does one
/// that would become smaller than what is believed of a producer's batch, so that whoever writes it elsewhere is not refused.
pub fn recompress(
    batch: &[u8],
    codec: Compression,
    level: Option<i32>,
    max_message_bytes: usize,
) -> Result<Bytes, Refusal> {
    let mut header = BatchHeader::parse(batch).map_err(RecordError::from)?;
    let from = header.compression().map_err(RecordError::from)?;
    if header.is_control() {
        return Ok(Bytes::copy_from_slice(batch));
    }
    let section = &batch[HEADER_SIZE_BYTES..];
    let mut out = Vec::with_capacity(batch.len());
    out.resize(HEADER_SIZE_BYTES, 0);
    let mut encoder = Encoder::new(codec, level, out);
    let mut section_bytes = 0;
    let ended = compression::decompress_into(
        from,
        section,
        Limits::stored(DECOMPRESSED_BYTES_MAX),
        &mut |piece| {
            encoder.write(piece);
            section_bytes += piece.len();
            if encoder.len() > max_message_bytes {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    let ended = ended.map_err(RecordError::from)?;
    let mut out = encoder.finish();
    let is_too_dense = ended.is_continue()
        && codec != Compression::None
        && section_bytes > Limits::PRODUCED.effective_bytes(out.len() - HEADER_SIZE_BYTES);
    if is_too_dense && batch.len() <= max_message_bytes {
        return Ok(Bytes::copy_from_slice(batch));
    }
    if ended.is_break() || is_too_dense || out.len() > max_message_bytes {
        let name = codec.name();
        let message = format!("the batch has more than max.message.bytes, {max_message_bytes}, as {name}");
        return Err(Refusal::new(ErrorCode::MessageTooLarge, message));
    }
    header.attributes = batch::with_compression(header.attributes, codec);
    builder::write_header(header, &mut out);
    Ok(Bytes::from(out))
}
