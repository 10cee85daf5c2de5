//! Produce requests as bytes, and the error code and base offset of their responses.

use std::ops::Range;

use anyhow::{Result, bail};
use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, TopicName, TransactionalId};
use odradek_common::records::batch;

use super::{Reader, encode, text};

/// The highest version that names topics.
pub const VERSION: i16 = 11;
/// The highest version that names topics and adds its partitions to the transaction.
const TRANSACTIONAL_VERSION: i16 = 12;
/// How long the broker may wait for replicas.
const TIMEOUT_MS: i32 = 30_000;
/// Bytes behind the batch: no tagged fields of partition, topic and request.
const BYTES_BEHIND_BATCH: usize = 3;
/// Where a batch says who it is from.
const PRODUCER_ID: Range<usize> = 43..51;
const PRODUCER_EPOCH: Range<usize> = 51..53;
const BASE_SEQUENCE: Range<usize> = 53..57;

/// Who a batch is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The producer's id.
    pub producer_id: i64,
    /// The producer's epoch.
    pub epoch: i16,
}

/// A request that produces one batch to one partition.
///
/// # Errors
/// The batch does not fit a request.
pub fn request(topic: &str, partition: i32, acks: i16, batch: &Bytes) -> Result<Vec<u8>> {
    encode(VERSION, 0, &body(topic, partition, acks, batch))
}

/// Where a [`request`] to such a topic has its partition.
pub fn partition_at(topic: &str) -> usize {
    // Behind the name comes how many partitions there are, by one byte.
    let whole = request(topic, 0, 1, &Bytes::new()).expect("a request without records is small");
    let name = topic.as_bytes();
    let found = whole.windows(name.len()).rposition(|bytes| bytes == name);
    found.expect("a request names its topic") + name.len() + 1
}

/// A request that produces one batch of a transaction to one partition, which it adds to the transaction.
///
/// # Errors
/// The batch does not fit a request.
pub fn transactional_request(
    transactional_id: &str,
    topic: &str,
    partition: i32,
    batch: &Bytes,
) -> Result<Vec<u8>> {
    let id = TransactionalId(text(transactional_id));
    let body = body(topic, partition, -1, batch).with_transactional_id(Some(id));
    encode(TRANSACTIONAL_VERSION, 0, &body)
}

/// Says in a request, whose batch has so many bytes, who it is from and which sequence its first record has.
pub fn stamp(request: &mut [u8], batch_bytes: usize, from: Identity, sequence: i32) {
    let end = request.len() - BYTES_BEHIND_BATCH;
    let batch = &mut request[end - batch_bytes..end];
    batch[PRODUCER_ID].copy_from_slice(&from.producer_id.to_be_bytes());
    batch[PRODUCER_EPOCH].copy_from_slice(&from.epoch.to_be_bytes());
    batch[BASE_SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
    batch::update_crc(batch);
}

fn body(topic: &str, partition: i32, acks: i16, batch: &Bytes) -> ProduceRequest {
    let partition = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(batch.clone()));
    let topic = TopicProduceData::default()
        .with_name(TopicName(text(topic)))
        .with_partition_data(vec![partition]);
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(TIMEOUT_MS)
        .with_topic_data(vec![topic])
}

/// What matters of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Whose answer it is.
    pub correlation_id: i32,
    /// 0, or why the batch was refused.
    pub error_code: i16,
    /// Where the batch is.
    pub base_offset: i64,
}

/// Reads the response to a [`request`]; the floor's zeros are a good answer as well.
///
/// # Errors
/// The bytes are no such response.
pub fn acknowledgement(frame: &[u8]) -> Result<Acknowledgement> {
    let mut reader = Reader::new(frame);
    let correlation_id = reader.i32()?;
    reader.skip_tagged_fields()?;
    if reader.compact_count()? == 0 {
        // No topics: the floor server, which says no more than that it is done.
        return Ok(Acknowledgement {
            correlation_id,
            error_code: 0,
            base_offset: -1,
        });
    }
    reader.compact_bytes()?;
    if reader.compact_count()? != 1 {
        bail!("a produce request of one partition was answered with several");
    }
    reader.i32()?;
    let error_code = reader.i16()?;
    let base_offset = reader.i64()?;
    Ok(Acknowledgement {
        correlation_id,
        error_code,
        base_offset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batches::BatchShape;
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
    use kafka_protocol::messages::{ProduceResponse, RequestHeader};
    use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};

    #[test]
    fn an_acknowledgement_is_read_from_a_whole_response() {
        let partition = PartitionProduceResponse::default()
            .with_error_code(6)
            .with_base_offset(1234);
        let topic = TopicProduceResponse::default()
            .with_name(TopicName(text("a-topic")))
            .with_partition_responses(vec![partition]);
        let mut frame = BytesMut::new();
        frame.put_i32(99);
        frame.put_u8(0);
        ProduceResponse::default()
            .with_responses(vec![topic])
            .encode(&mut frame, VERSION)
            .unwrap();
        let wanted = Acknowledgement {
            correlation_id: 99,
            error_code: 6,
            base_offset: 1234,
        };
        assert_eq!(acknowledgement(&frame).unwrap(), wanted);
        assert!(acknowledgement(&frame[..frame.len() / 2]).is_err());
    }

    #[test]
    fn a_stamp_says_who_the_batch_is_from_and_its_checksum_is_good() {
        let batch = BatchShape::plain(3, 50).build(1);
        let identity = Identity {
            producer_id: 7_000_000_001,
            epoch: 9,
        };
        let mut request = transactional_request("t-id", "topic", 2, &batch).unwrap();
        stamp(&mut request, batch.len(), identity, 42);
        let mut body = Bytes::from(request.split_off(4));
        RequestHeader::decode(&mut body, ProduceRequest::header_version(TRANSACTIONAL_VERSION)).unwrap();
        let decoded = ProduceRequest::decode(&mut body, TRANSACTIONAL_VERSION).unwrap();
        assert_eq!(decoded.transactional_id.unwrap().as_str(), "t-id");
        let sent = decoded.topic_data[0].partition_data[0].records.clone().unwrap();
        batch::verify_crc(&sent).unwrap();
        let header = batch::BatchHeader::parse(&sent).unwrap();
        assert_eq!(
            (header.producer_id, header.producer_epoch, header.base_sequence),
            (identity.producer_id, 9, 42)
        );
        assert_eq!(sent[57..], batch[57..]);
    }

    #[test]
    fn the_floors_zeros_are_an_acknowledgement() {
        let mut frame = [0_u8; 56];
        frame[3] = 5;
        assert_eq!(acknowledgement(&frame).unwrap().correlation_id, 5);
    }
}
