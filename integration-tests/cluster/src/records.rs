//! Record batches as producers send them, and records as consumers see them.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use odradek_common::records::batch::{self, BatchHeader};
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::record::{decoded_section, records};

/// More than any test's batch holds.
const SECTION_BYTES_MAX: usize = 64 << 20;
/// Where a batch's checksum is; what follows it is covered.
const CRC_AT: usize = 17;
const CRC_COVERS_FROM: usize = 21;

/// A record that was read, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers in order.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Seen {
    /// The value as text.
    ///
    /// # Panics
    /// It is null or not UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        let value = self.value.clone().expect("the value is not null");
        String::from_utf8(value).expect("the value is text")
    }
}

/// Milliseconds since the epoch.
///
/// # Panics
/// The clock stands before 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970");
    i64::try_from(since.as_millis()).expect("milliseconds fit for a long time")
}

/// One batch of values without keys, stamped now.
#[must_use]
pub fn batch(values: &[&str]) -> Bytes {
    batch_at(now_ms(), values)
}

/// One batch of values without keys; each record's timestamp is one millisecond after the one before.
#[must_use]
pub fn batch_at(timestamp: i64, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(0);
    for (index, value) in (0..).zip(values) {
        builder.append(timestamp + index, None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}

/// One batch with keys.
#[must_use]
pub fn keyed(pairs: &[(&str, Option<&str>)]) -> Bytes {
    let mut builder = BatchBuilder::new(0);
    for (key, value) in pairs {
        builder.append(now_ms(), Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    }
    builder.build()
}

/// One batch of a transactional producer.
#[must_use]
pub fn transactional(producer_id: i64, epoch: i16, base_sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(0)
        .producer(producer_id, epoch, base_sequence)
        .transactional();
    for value in values {
        builder.append(now_ms(), None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}

/// One batch of an idempotent producer.
#[must_use]
pub fn idempotent(producer_id: i64, epoch: i16, base_sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(0).producer(producer_id, epoch, base_sequence);
    for value in values {
        builder.append(now_ms(), None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}

/// Where fields of a batch's header are.
pub mod at {
    /// attributes, i16
    pub const ATTRIBUTES: usize = 21;
    /// lastOffsetDelta, i32
    pub const LAST_OFFSET_DELTA: usize = 23;
    /// producerId, i64
    pub const PRODUCER_ID: usize = 43;
    /// baseSequence, i32
    pub const BASE_SEQUENCE: usize = 53;
    /// the number of records, i32
    pub const RECORD_COUNT: usize = 57;
}

/// Overwrites bytes of a batch and makes its CRC right again.
#[must_use]
pub fn patched(bytes: &Bytes, at: usize, with: &[u8]) -> Bytes {
    let mut changed = BytesMut::from(&bytes[..]);
    changed[at..at + with.len()].copy_from_slice(with);
    let crc = crc32c::crc32c(&changed[CRC_COVERS_FROM..]);
    changed[CRC_AT..CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
    changed.freeze()
}

/// The headers of complete batches.
///
/// # Panics
/// A batch is malformed.
#[must_use]
pub fn headers(bytes: &[u8]) -> Vec<BatchHeader> {
    batch::batches(bytes)
        .map(|batch| batch.expect("the broker sends good batches").0)
        .collect()
}

/// The records of complete batches; control batches have none to show. CRCs are checked.
///
/// # Panics
/// A batch is malformed.
#[must_use]
pub fn seen(bytes: &[u8]) -> Vec<Seen> {
    let mut all = Vec::new();
    for batch in batch::batches(bytes) {
        let (header, batch) = batch.expect("the broker sends good batches");
        batch::verify_crc(batch).expect("the broker sends batches with their CRC");
        if header.is_control() {
            continue;
        }
        let (header, section) = decoded_section(batch, SECTION_BYTES_MAX).expect("records can be decoded");
        for record in records(&header, &section) {
            let record = record.expect("records are well formed");
            all.push(Seen {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: record
                    .headers
                    .iter()
                    .map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec)))
                    .collect(),
            });
        }
    }
    all
}

/// The values of complete batches as text.
#[must_use]
pub fn texts(bytes: &[u8]) -> Vec<String> {
    seen(bytes).iter().map(Seen::text).collect()
}
