//! The request in both its versions; kafka-protocol knows the first alone.
//!
//! Version 2 says of each marker which `transaction.version` its transaction has.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{ProducerId, TopicName};
use kafka_protocol::protocol::StrBytes;
use thiserror::Error;

/// The first version, and the last that kafka-protocol knows.
pub const VERSION_MIN: i16 = 1;
/// First version with the transaction's version.
pub const TRANSACTION_VERSION_SINCE: i16 = 2;

/// One marker and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Marker {
    /// The fields of version 1.
    pub fields: WritableTxnMarker,
    /// `transaction.version` of the transaction that ends.
    pub transaction_version: i8,
}

/// The body is not what its schema says.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the WriteTxnMarkers request ends within {0}, or says what cannot be")]
pub struct Malformed(&'static str);

/// Reads a body.
///
/// # Errors
/// It is malformed.
pub fn decode(version: i16, body: Bytes) -> Result<Vec<Marker>, Malformed> {
    let mut reader = Reader(body);
    let mut markers = Vec::new();
    for _ in 0..reader.count("markers")? {
        markers.push(reader.marker(version)?);
    }
    reader.tagged_fields()?;
    Ok(markers)
}

/// Writes a body.
#[must_use]
pub fn encode(version: i16, markers: &[Marker]) -> Bytes {
    let mut out = BytesMut::new();
    put_count(&mut out, markers.len());
    for Marker {
        fields,
        transaction_version,
    } in markers
    {
        out.put_i64(fields.producer_id.0);
        out.put_i16(fields.producer_epoch);
        out.put_u8(fields.transaction_result.into());
        put_count(&mut out, fields.topics.len());
        for topic in &fields.topics {
            put_count(&mut out, topic.name.len());
            out.put_slice(topic.name.as_bytes());
            put_count(&mut out, topic.partition_indexes.len());
            topic
                .partition_indexes
                .iter()
                .for_each(|index| out.put_i32(*index));
            out.put_u8(0);
        }
        out.put_i32(fields.coordinator_epoch);
        if version >= TRANSACTION_VERSION_SINCE {
            out.put_i8(*transaction_version);
        }
        out.put_u8(0);
    }
    out.put_u8(0);
    out.freeze()
}

/// A compact length is one more than it says.
fn put_count(out: &mut BytesMut, count: usize) {
    let mut rest = count + 1;
    while rest >= 0x80 {
        out.put_u8(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

struct Reader(Bytes);

impl Reader {
    fn marker(&mut self, version: i16) -> Result<Marker, Malformed> {
        let producer_id = ProducerId(i64::from_be_bytes(self.take("producer_id")?));
        let producer_epoch = i16::from_be_bytes(self.take("producer_epoch")?);
        let [result] = self.take("transaction_result")?;
        let mut topics = Vec::new();
        for _ in 0..self.count("topics")? {
            topics.push(self.topic()?);
        }
        let coordinator_epoch = i32::from_be_bytes(self.take("coordinator_epoch")?);
        let transaction_version = if version >= TRANSACTION_VERSION_SINCE {
            i8::from_be_bytes(self.take("transaction_version")?)
        } else {
            0
        };
        self.tagged_fields()?;
        let fields = WritableTxnMarker::default()
            .with_producer_id(producer_id)
            .with_producer_epoch(producer_epoch)
            .with_transaction_result(result != 0)
            .with_topics(topics)
            .with_coordinator_epoch(coordinator_epoch);
        Ok(Marker {
            fields,
            transaction_version,
        })
    }

    fn topic(&mut self) -> Result<WritableTxnMarkerTopic, Malformed> {
        let length = self.count("name")?;
        let name = self.slice(length, "name")?;
        let name = StrBytes::from_utf8(name).map_err(|_| Malformed("name"))?;
        let mut partition_indexes = Vec::new();
        for _ in 0..self.count("partition_indexes")? {
            partition_indexes.push(i32::from_be_bytes(self.take("partition_indexes")?));
        }
        self.tagged_fields()?;
        Ok(WritableTxnMarkerTopic::default()
            .with_name(TopicName(name))
            .with_partition_indexes(partition_indexes))
    }

    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let taken = *self.0.first_chunk().ok_or(Malformed(what))?;
        _ = self.0.split_to(N);
        Ok(taken)
    }

    fn slice(&mut self, length: usize, what: &'static str) -> Result<Bytes, Malformed> {
        if self.0.len() < length {
            return Err(Malformed(what));
        }
        Ok(self.0.split_to(length))
    }

    fn varint(&mut self, what: &'static str) -> Result<usize, Malformed> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take(what)?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed(what))
    }

    /// A length that must not be null.
    fn count(&mut self, what: &'static str) -> Result<usize, Malformed> {
        self.varint(what)?.checked_sub(1).ok_or(Malformed(what))
    }

    fn tagged_fields(&mut self) -> Result<(), Malformed> {
        const WHAT: &str = "tagged fields";
        for _ in 0..self.varint(WHAT)? {
            self.varint(WHAT)?;
            let length = self.varint(WHAT)?;
            self.slice(length, WHAT)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::WriteTxnMarkersRequest;
    use kafka_protocol::protocol::Encodable;

    use super::*;
    use crate::names::topic_name;

    fn marker(producer_id: i64, transaction_version: i8) -> Marker {
        let topic = |name: &str, indexes: &[i32]| {
            WritableTxnMarkerTopic::default()
                .with_name(topic_name(name))
                .with_partition_indexes(indexes.to_vec())
        };
        let long = "t".repeat(200);
        let fields = WritableTxnMarker::default()
            .with_producer_id(ProducerId(producer_id))
            .with_producer_epoch(3)
            .with_transaction_result(producer_id == 1)
            .with_topics(vec![topic("orders", &[0, 5]), topic(&long, &[])])
            .with_coordinator_epoch(11);
        Marker {
            fields,
            transaction_version,
        }
    }

    #[test]
    fn the_first_version_is_kafka_protocol_s() {
        let markers = [marker(1, 0), marker(2, 0)];
        let known = WriteTxnMarkersRequest::default()
            .with_markers(markers.iter().map(|marker| marker.fields.clone()).collect());
        let mut expected = BytesMut::new();
        known.encode(&mut expected, VERSION_MIN).unwrap();
        let bytes = encode(VERSION_MIN, &markers);
        assert_eq!(bytes, expected);
        assert_eq!(decode(VERSION_MIN, bytes).unwrap(), markers);
    }

    #[test]
    fn the_second_version_reads_as_it_was_written() {
        let markers = [marker(1, 2), marker(2, 1)];
        let bytes = encode(TRANSACTION_VERSION_SINCE, &markers);
        let checked = odradek_common::schema::check_request(27, TRANSACTION_VERSION_SINCE, &bytes);
        assert_eq!(checked, Ok(bytes.len()));
        assert_eq!(decode(TRANSACTION_VERSION_SINCE, bytes).unwrap(), markers);
    }

    #[test]
    fn a_body_cut_anywhere_is_an_error_and_no_panic() {
        for version in [VERSION_MIN, TRANSACTION_VERSION_SINCE] {
            let bytes = encode(version, &[marker(1, 2)]);
            for length in 0..bytes.len() {
                assert!(decode(version, bytes.slice(..length)).is_err(), "cut at {length}");
            }
        }
    }
}
