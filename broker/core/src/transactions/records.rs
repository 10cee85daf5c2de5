//! The records of `__transaction_state`, byte for byte Kafka's: TransactionLogKey 0, TransactionLogValue 0 and 1 (flexible,
//! with the producer ids before and after and the client's version in tagged fields).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use odradek_common::ids::TopicPartition;

use super::metadata::{FLEXIBLE_RECORDS_SINCE, NO_PRODUCER_ID, TransactionMetadata, TransactionState};
use crate::coordination::fields::{Reader, RecordError, put_string};

/// A record of `__transaction_state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The transactional id.
    pub transactional_id: StrBytes,
    /// No value: the transactional id has expired.
    pub value: Option<TransactionMetadata>,
}

const KEY_VERSION: i16 = 0;
const HIGHEST_VALUE_VERSION: i16 = 1;
const FLEXIBLE_VALUE_VERSION: i16 = 1;

const PREVIOUS_PRODUCER_ID_TAG: u32 = 0;
const NEXT_PRODUCER_ID_TAG: u32 = 1;
const CLIENT_TRANSACTION_VERSION_TAG: u32 = 2;

/// Reads a record. `Ok(None)` is a key of a version that belongs to somebody else.
///
/// # Errors
/// When key or value cannot be read.
pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Record>, RecordError> {
    let mut key = Reader::new(Bytes::copy_from_slice(key));
    if key.i16()? != KEY_VERSION {
        return Ok(None);
    }
    let transactional_id = key.string()?;
    let value = value.map(decode_value).transpose()?;
    Ok(Some(Record {
        transactional_id,
        value,
    }))
}

fn decode_value(value: &[u8]) -> Result<TransactionMetadata, RecordError> {
    let mut reader = Reader::new(Bytes::copy_from_slice(value));
    reader.value_version(HIGHEST_VALUE_VERSION, FLEXIBLE_VALUE_VERSION)?;
    let producer_id = reader.i64()?;
    let producer_epoch = reader.i16()?;
    let timeout_ms = reader.i32()?;
    let state = TransactionState::from_id(reader.i8()?).ok_or(RecordError::Malformed)?;
    let mut metadata = TransactionMetadata {
        producer_epoch,
        state,
        partitions: decode_partitions(&mut reader)?,
        last_update_timestamp_ms: reader.i64()?,
        start_timestamp_ms: reader.i64()?,
        ..TransactionMetadata::new(producer_id, timeout_ms)
    };
    reader.tagged_fields(|tag, field| {
        match tag {
            PREVIOUS_PRODUCER_ID_TAG => metadata.previous_producer_id = field.i64()?,
            NEXT_PRODUCER_ID_TAG => metadata.next_producer_id = field.i64()?,
            CLIENT_TRANSACTION_VERSION_TAG => metadata.client_transaction_version = field.i16()?,
            // Later versions say more (KIP-939); nothing of it changes what this one reads.
            _ => {}
        }
        Ok(())
    })?;
    Ok(metadata)
}

fn decode_partitions(reader: &mut Reader) -> Result<BTreeSet<TopicPartition>, RecordError> {
    let mut partitions = BTreeSet::new();
    for _ in 0..reader.nullable_array_length()?.unwrap_or(0) {
        let topic: Arc<str> = reader.string()?.as_str().into();
        for _ in 0..reader.array_length()? {
            partitions.insert(TopicPartition::new(topic.clone(), reader.i32()?));
        }
        reader.skip_tagged_fields()?;
    }
    Ok(partitions)
}

impl Record {
    /// Key and value as they go into the log at that level of `transaction.version`.
    #[must_use]
    pub fn encode(&self, transaction_version: i16) -> (Bytes, Option<Bytes>) {
        let mut key = BytesMut::new();
        key.put_i16(KEY_VERSION);
        put_string(&mut key, &self.transactional_id);
        let value = self.value.as_ref().map(|value| {
            if transaction_version >= FLEXIBLE_RECORDS_SINCE {
                encode_flexible(value)
            } else {
                encode_plain(value)
            }
        });
        (key.freeze(), value)
    }
}

/// The partitions by topic; nothing where Kafka writes null.
fn by_topic(metadata: &TransactionMetadata) -> Option<Vec<(&str, Vec<i32>)>> {
    if metadata.state == TransactionState::Empty {
        return None;
    }
    let mut topics: Vec<(&str, Vec<i32>)> = Vec::new();
    for TopicPartition { topic, partition } in &metadata.partitions {
        match topics.last_mut() {
            Some((last, partitions)) if *last == &**topic => partitions.push(*partition),
            Some(_) | None => topics.push((topic, vec![*partition])),
        }
    }
    Some(topics)
}

fn put_head(out: &mut BytesMut, version: i16, metadata: &TransactionMetadata) {
    out.put_i16(version);
    out.put_i64(metadata.producer_id);
    out.put_i16(metadata.producer_epoch);
    out.put_i32(metadata.timeout_ms);
    out.put_i8(metadata.state as i8);
}

fn length(count: usize) -> i32 {
    i32::try_from(count).expect("what came through a frame has fewer than 2^31 parts")
}

fn encode_plain(metadata: &TransactionMetadata) -> Bytes {
    let mut out = BytesMut::new();
    put_head(&mut out, 0, metadata);
    match by_topic(metadata) {
        None => out.put_i32(-1),
        Some(topics) => {
            out.put_i32(length(topics.len()));
            for (topic, partitions) in topics {
                put_string(&mut out, &StrBytes::from_string(topic.to_owned()));
                out.put_i32(length(partitions.len()));
                partitions.iter().for_each(|partition| out.put_i32(*partition));
            }
        }
    }
    out.put_i64(metadata.last_update_timestamp_ms);
    out.put_i64(metadata.start_timestamp_ms);
    out.freeze()
}

fn encode_flexible(metadata: &TransactionMetadata) -> Bytes {
    let mut out = BytesMut::new();
    put_head(&mut out, FLEXIBLE_VALUE_VERSION, metadata);
    match by_topic(metadata) {
        None => put_unsigned_varint(&mut out, 0),
        Some(topics) => {
            put_compact_length(&mut out, topics.len());
            for (topic, partitions) in topics {
                put_compact_length(&mut out, topic.len());
                out.put_slice(topic.as_bytes());
                put_compact_length(&mut out, partitions.len());
                partitions.iter().for_each(|partition| out.put_i32(*partition));
                put_unsigned_varint(&mut out, 0);
            }
        }
    }
    out.put_i64(metadata.last_update_timestamp_ms);
    out.put_i64(metadata.start_timestamp_ms);
    put_tagged_fields(&mut out, metadata);
    out.freeze()
}

/// Fields at their default are left out.
fn put_tagged_fields(out: &mut BytesMut, metadata: &TransactionMetadata) {
    let ids = [
        (PREVIOUS_PRODUCER_ID_TAG, metadata.previous_producer_id),
        (NEXT_PRODUCER_ID_TAG, metadata.next_producer_id),
    ];
    let ids: Vec<_> = ids.into_iter().filter(|(_, id)| *id != NO_PRODUCER_ID).collect();
    let version = metadata.client_transaction_version;
    put_unsigned_varint(out, length(ids.len() + usize::from(version != 0)).unsigned_abs());
    for (tag, producer_id) in ids {
        put_unsigned_varint(out, tag);
        put_unsigned_varint(out, 8);
        out.put_i64(producer_id);
    }
    if version != 0 {
        put_unsigned_varint(out, CLIENT_TRANSACTION_VERSION_TAG);
        put_unsigned_varint(out, 2);
        out.put_i16(version);
    }
}

fn put_compact_length(out: &mut BytesMut, count: usize) {
    put_unsigned_varint(out, length(count).unsigned_abs() + 1);
}

fn put_unsigned_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}
