//! Fetch requests as bytes whose offsets are patched, and the record batches of their responses, in place.

use anyhow::{Context, Result};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};

use super::{Reader, encode, set_correlation_id, text};

/// The highest version that names topics.
const VERSION: i16 = 12;
/// Bytes that a response may have.
const MAX_BYTES: i32 = 50 << 20;
/// A fetch offset by which the places of the real ones are found.
const MARK: i64 = 0x1f2e_3d4c_5b6a_0000;

/// How a consumer fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchSettings {
    /// Bytes that the broker waits for.
    pub min_bytes: i32,
    /// How long it waits for them.
    pub max_wait_ms: i32,
    /// Bytes per partition and response.
    pub partition_max_bytes: i32,
    /// Whether records of open and aborted transactions are to be left out.
    pub read_committed: bool,
}

/// A request for the same partitions again and again.
#[derive(Debug)]
pub struct FetchTemplate {
    request: Vec<u8>,
    /// Where the fetch offset of each partition is.
    offset_places: Vec<usize>,
}

impl FetchTemplate {
    /// A request for these partitions, each from offset 0.
    ///
    /// # Errors
    /// There are more partitions than fit.
    pub fn new(topic: &str, partitions: &[i32], settings: FetchSettings) -> Result<Self> {
        let marked = |(number, partition): (i64, &i32)| {
            FetchPartition::default()
                .with_partition(*partition)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(MARK + number)
                .with_last_fetched_epoch(-1)
                .with_partition_max_bytes(settings.partition_max_bytes)
        };
        let topic = FetchTopic::default()
            .with_topic(TopicName(text(topic)))
            .with_partitions((0_i64..).zip(partitions).map(marked).collect());
        // Session 0 with epoch -1 is a full fetch without a session.
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(settings.max_wait_ms)
            .with_min_bytes(settings.min_bytes)
            .with_max_bytes(MAX_BYTES)
            .with_isolation_level(i8::from(settings.read_committed))
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let request = encode(VERSION, 0, &request)?;
        let offset_places = (0_i64..)
            .zip(partitions)
            .map(|(number, _)| place_of(&request, MARK + number))
            .collect::<Result<Vec<_>>>()?;
        let mut template = Self {
            request,
            offset_places,
        };
        for place in 0..template.offset_places.len() {
            template.set_offset(place, 0);
        }
        Ok(template)
    }

    /// Where the partition at this place in the request is to be read from.
    pub fn set_offset(&mut self, place: usize, offset: i64) {
        let at = self.offset_places[place];
        self.request[at..at + 8].copy_from_slice(&offset.to_be_bytes());
    }

    /// The request, stamped.
    pub fn stamped(&mut self, correlation_id: i32) -> &[u8] {
        set_correlation_id(&mut self.request, correlation_id);
        &self.request
    }
}

fn place_of(request: &[u8], mark: i64) -> Result<usize> {
    request
        .windows(8)
        .position(|window| window == mark.to_be_bytes())
        .context("a fetch request has an offset for every partition")
}

/// One partition of a response.
#[derive(Debug, Clone, Copy)]
pub struct Fetched<'a> {
    /// The partition.
    pub partition: i32,
    /// 0, or why there is nothing.
    pub error_code: i16,
    /// Record batches; the last may be cut.
    pub records: &'a [u8],
}

/// Calls `each` for every partition in a response to a [`FetchTemplate`].
///
/// # Errors
/// The bytes are no such response, it carries an error as a whole, or `each` fails.
pub fn for_each_partition<'a>(
    frame: &'a [u8],
    mut each: impl FnMut(Fetched<'a>) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader::new(frame);
    let _correlation_id = reader.i32()?;
    reader.skip_tagged_fields()?;
    let _throttle_time_ms = reader.i32()?;
    let error_code = reader.i16()?;
    anyhow::ensure!(error_code == 0, "a fetch was refused with error {error_code}");
    let _session_id = reader.i32()?;
    for _ in 0..reader.compact_count()? {
        reader.compact_bytes()?;
        for _ in 0..reader.compact_count()? {
            each(partition(&mut reader)?)?;
        }
        reader.skip_tagged_fields()?;
    }
    Ok(())
}

fn partition<'a>(reader: &mut Reader<'a>) -> Result<Fetched<'a>> {
    let partition = reader.i32()?;
    let error_code = reader.i16()?;
    let _high_watermark = reader.i64()?;
    let _last_stable_offset = reader.i64()?;
    let _log_start_offset = reader.i64()?;
    for _ in 0..reader.compact_count()? {
        let _producer_id = reader.i64()?;
        let _first_offset = reader.i64()?;
        reader.skip_tagged_fields()?;
    }
    let _preferred_read_replica = reader.i32()?;
    let records = reader.compact_bytes()?;
    reader.skip_tagged_fields()?;
    Ok(Fetched {
        partition,
        error_code,
        records,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, Bytes, BytesMut};
    use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use kafka_protocol::messages::{FetchResponse, RequestHeader};
    use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};

    const SETTINGS: FetchSettings = FetchSettings {
        min_bytes: 1,
        max_wait_ms: 500,
        partition_max_bytes: 1 << 20,
        read_committed: false,
    };

    #[test]
    fn offsets_land_in_their_partitions() {
        let mut template = FetchTemplate::new("topic", &[4, 2], SETTINGS).unwrap();
        template.set_offset(1, 77);
        let mut body = Bytes::copy_from_slice(&template.stamped(3)[4..]);
        let header = RequestHeader::decode(&mut body, FetchRequest::header_version(VERSION)).unwrap();
        assert_eq!(header.correlation_id, 3);
        let request = FetchRequest::decode(&mut body, VERSION).unwrap();
        let offsets: Vec<_> = request.topics[0]
            .partitions
            .iter()
            .map(|partition| (partition.partition, partition.fetch_offset))
            .collect();
        assert_eq!(offsets, [(4, 0), (2, 77)]);
    }

    #[test]
    fn records_are_found_in_a_whole_response() {
        let data = |index: i32, records: &'static [u8]| {
            PartitionData::default()
                .with_partition_index(index)
                .with_aborted_transactions(None)
                .with_records(Some(Bytes::from_static(records)))
        };
        let topic = FetchableTopicResponse::default()
            .with_topic(TopicName(text("topic")))
            .with_partitions(vec![data(0, b"one"), data(1, b"")]);
        let mut frame = BytesMut::new();
        frame.put_i32(1);
        frame.put_u8(0);
        FetchResponse::default()
            .with_responses(vec![topic])
            .encode(&mut frame, VERSION)
            .unwrap();
        let mut found = Vec::new();
        for_each_partition(&frame, |fetched| {
            found.push((fetched.partition, fetched.records.to_vec()));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [(0, b"one".to_vec()), (1, Vec::new())]);
    }
}
