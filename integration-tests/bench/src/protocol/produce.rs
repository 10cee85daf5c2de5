//! Produce requests as bytes, and the error code and base offset of their responses.

use anyhow::{Result, bail};
use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, TopicName};

use super::{Reader, encode, text};

/// The highest version that names topics.
pub const VERSION: i16 = 11;
/// How long the broker may wait for replicas.
const TIMEOUT_MS: i32 = 30_000;

/// A request that produces one batch to one partition.
///
/// # Errors
/// The batch does not fit a request.
pub fn request(topic: &str, partition: i32, acks: i16, batch: &Bytes) -> Result<Vec<u8>> {
    let partition = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(batch.clone()));
    let topic = TopicProduceData::default()
        .with_name(TopicName(text(topic)))
        .with_partition_data(vec![partition]);
    let request = ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(TIMEOUT_MS)
        .with_topic_data(vec![topic]);
    encode(VERSION, 0, &request)
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
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::ProduceResponse;
    use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
    use kafka_protocol::protocol::Encodable;

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
    fn the_floors_zeros_are_an_acknowledgement() {
        let mut frame = [0_u8; 56];
        frame[3] = 5;
        assert_eq!(acknowledgement(&frame).unwrap().correlation_id, 5);
    }
}
