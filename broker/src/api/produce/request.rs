//! A produce request read where it lies: no allocation, no copy.
//!
//! The body has been checked against its schema, whose limits bound what is made of it; what is wrong with it all the same is an error
//! here and no panic, before anything of the request is appended.

use thiserror::Error;
use uuid::Uuid;

/// First version with compact lengths and tagged fields.
pub(super) const FLEXIBLE_SINCE: i16 = 9;
/// First version that names topics by id (KIP-516).
pub(super) const TOPIC_IDS_SINCE: i16 = 13;

/// The body is not what its schema says.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the produce request ends within {0}, or has there what cannot be")]
pub struct Cut(&'static str);

/// How a request names a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopicRef<'a> {
    Name(&'a str),
    Id(Uuid),
}

/// What comes out of a request, in its order.
pub(super) enum Item<'a> {
    /// The partitions that follow are of this topic.
    Topic(TopicRef<'a>),
    /// A partition's index and its records; none and null are alike.
    Partition(i32, &'a [u8]),
}

/// Whether a body names a transaction, seen from its first bytes.
pub(super) fn has_transactional_id(version: i16, body: &[u8]) -> bool {
    if version >= FLEXIBLE_SINCE {
        // A compact length of 0 is null.
        body.first().is_some_and(|first| *first != 0)
    } else {
        body.first_chunk()
            .is_some_and(|length| i16::from_be_bytes(*length) >= 0)
    }
}

/// The request apart from its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preamble<'a> {
    pub(super) transactional_id: Option<&'a str>,
    pub(super) acks: i16,
    pub(super) timeout_ms: i32,
}

/// Walks a body.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    version: i16,
    topics_left: usize,
    partitions_left: usize,
    /// A topic has begun whose end has not been passed.
    in_topic: bool,
    /// All has been read.
    ended: bool,
}

impl<'a> Reader<'a> {
    /// Reads what stands before the topics.
    pub(super) fn begin(version: i16, body: &'a [u8]) -> Result<(Preamble<'a>, Self), Cut> {
        let mut reader = Self {
            rest: body,
            version,
            topics_left: 0,
            partitions_left: 0,
            in_topic: false,
            ended: false,
        };
        let transactional_id = reader.string("transactional_id")?;
        let acks = i16::from_be_bytes(reader.take("acks")?);
        let timeout_ms = i32::from_be_bytes(reader.take("timeout_ms")?);
        reader.topics_left = reader.count("topic_data")?;
        let preamble = Preamble {
            transactional_id,
            acks,
            timeout_ms,
        };
        Ok((preamble, reader))
    }

    /// The next topic or partition; None at the end.
    pub(super) fn next(&mut self) -> Result<Option<Item<'a>>, Cut> {
        if self.partitions_left > 0 {
            self.partitions_left -= 1;
            let index = i32::from_be_bytes(self.take("index")?);
            let length = self.length("records")?.unwrap_or(0);
            let records = self.slice(length, "records")?;
            self.skip_tagged_fields()?;
            return Ok(Some(Item::Partition(index, records)));
        }
        if std::mem::take(&mut self.in_topic) {
            self.skip_tagged_fields()?;
        }
        if self.topics_left == 0 {
            if !std::mem::replace(&mut self.ended, true) {
                self.skip_tagged_fields()?;
            }
            return Ok(None);
        }
        self.topics_left -= 1;
        let topic = if self.version >= TOPIC_IDS_SINCE {
            TopicRef::Id(Uuid::from_bytes(self.take("topic_id")?))
        } else {
            TopicRef::Name(self.string("name")?.ok_or(Cut("name"))?)
        };
        self.partitions_left = self.count("partition_data")?;
        self.in_topic = true;
        Ok(Some(Item::Topic(topic)))
    }

    fn is_flexible(&self) -> bool {
        self.version >= FLEXIBLE_SINCE
    }

    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Cut> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Cut(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn slice(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], Cut> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Cut(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self, what: &'static str) -> Result<usize, Cut> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take(what)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).map_err(|_| Cut(what));
            }
        }
        Err(Cut(what))
    }

    /// A compact length is one more than it says, 0 is null.
    fn compact_length(&mut self, what: &'static str) -> Result<Option<usize>, Cut> {
        Ok(self.varint(what)?.checked_sub(1))
    }

    /// Length of an array that cannot be null.
    fn count(&mut self, what: &'static str) -> Result<usize, Cut> {
        self.length(what)?.ok_or(Cut(what))
    }

    /// Length of an array or of bytes; None for null.
    fn length(&mut self, what: &'static str) -> Result<Option<usize>, Cut> {
        if self.is_flexible() {
            return self.compact_length(what);
        }
        plain_length(i32::from_be_bytes(self.take(what)?), what)
    }

    fn string(&mut self, what: &'static str) -> Result<Option<&'a str>, Cut> {
        let length = if self.is_flexible() {
            self.compact_length(what)?
        } else {
            plain_length(i16::from_be_bytes(self.take(what)?).into(), what)?
        };
        let Some(length) = length else { return Ok(None) };
        let bytes = self.slice(length, what)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| Cut(what))
    }

    fn skip_tagged_fields(&mut self) -> Result<(), Cut> {
        const WHAT: &str = "tagged fields";
        if !self.is_flexible() {
            return Ok(());
        }
        for _ in 0..self.varint(WHAT)? {
            self.varint(WHAT)?;
            let size = self.varint(WHAT)?;
            self.slice(size, WHAT)?;
        }
        Ok(())
    }
}

/// -1 is null.
fn plain_length(length: i32, what: &'static str) -> Result<Option<usize>, Cut> {
    match usize::try_from(length) {
        Ok(length) => Ok(Some(length)),
        Err(_) if length == -1 => Ok(None),
        Err(_) => Err(Cut(what)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_protocol::messages::{ProduceRequest, TransactionalId};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::*;
    use crate::names::topic_name;

    fn request(version: i16) -> ProduceRequest {
        let partition = |index, records: Option<&'static [u8]>| {
            PartitionProduceData::default()
                .with_index(index)
                .with_records(records.map(Bytes::from_static))
        };
        let topic = |name: &str, partitions| {
            let topic = TopicProduceData::default().with_partition_data(partitions);
            if version >= TOPIC_IDS_SINCE {
                topic.with_topic_id(Uuid::from_u128(name.len() as u128))
            } else {
                topic.with_name(topic_name(name))
            }
        };
        ProduceRequest::default()
            .with_transactional_id(Some(TransactionalId(StrBytes::from_static_str("t"))))
            .with_acks(-1)
            .with_timeout_ms(1234)
            .with_topic_data(vec![
                topic("one", vec![partition(3, Some(b"abc")), partition(4, None)]),
                topic("nobody", vec![]),
                topic("three", vec![partition(-1, Some(b""))]),
            ])
    }

    fn encoded(version: i16, request: &ProduceRequest) -> BytesMut {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes, version).unwrap();
        bytes
    }

    fn items(version: i16, body: &[u8]) -> Result<Vec<String>, Cut> {
        let (preamble, mut reader) = Reader::begin(version, body)?;
        let mut items = vec![format!("{preamble:?}")];
        while let Some(item) = reader.next()? {
            items.push(match item {
                Item::Topic(topic) => format!("{topic:?}"),
                Item::Partition(index, records) => format!("{index}: {records:?}"),
            });
        }
        assert!(reader.rest.is_empty());
        Ok(items)
    }

    #[test]
    fn every_version_reads_as_it_was_written() {
        for version in 3..=13 {
            let name = |name: &str| {
                if version >= TOPIC_IDS_SINCE {
                    format!("{:?}", TopicRef::Id(Uuid::from_u128(name.len() as u128)))
                } else {
                    format!("{:?}", TopicRef::Name(name))
                }
            };
            let preamble = Preamble {
                transactional_id: Some("t"),
                acks: -1,
                timeout_ms: 1234,
            };
            let expected = [
                format!("{preamble:?}"),
                name("one"),
                "3: [97, 98, 99]".to_owned(),
                "4: []".to_owned(),
                name("nobody"),
                name("three"),
                "-1: []".to_owned(),
            ];
            let body = encoded(version, &request(version));
            assert_eq!(items(version, &body).unwrap(), expected, "version {version}");
            assert!(has_transactional_id(version, &body));
            let none = request(version)
                .with_transactional_id(None)
                .with_topic_data(vec![]);
            let body = encoded(version, &none);
            assert!(items(version, &body).unwrap()[0].contains("transactional_id: None"));
            assert!(!has_transactional_id(version, &body));
        }
    }

    #[test]
    fn a_body_cut_anywhere_is_an_error_and_no_panic() {
        for version in [8, 12, 13] {
            let body = encoded(version, &request(version));
            for length in 0..body.len() {
                assert!(
                    items(version, &body[..length]).is_err(),
                    "version {version} at {length}"
                );
            }
        }
    }

    #[test]
    fn what_no_schema_allows_is_refused() {
        let plain = |topics: &[u8]| [&[0xff, 0xff, 0, 1, 0, 0, 0, 0][..], topics].concat();
        let refused = |topics: &[u8]| items(8, &plain(topics)).unwrap_err();
        assert_eq!(refused(&[0xff, 0xff, 0xff, 0xff]), Cut("topic_data"), "null");
        assert_eq!(
            refused(&[0xff, 0xff, 0xff, 0xfe]),
            Cut("topic_data"),
            "less than null"
        );
        assert_eq!(refused(&[0, 0, 0, 1, 0xff, 0xff]), Cut("name"), "null");
        assert_eq!(
            refused(&[0, 0, 0, 1, 0, 1, 0xff, 0, 0, 0, 0]),
            Cut("name"),
            "no text"
        );
        let many = &[0, 0, 0, 1, 0, 1, b't', 0x7f, 0xff, 0xff, 0xff];
        assert_eq!(refused(many), Cut("index"), "more partitions than bytes");
        assert_eq!(items(8, &plain(&[0, 0, 0, 0])).unwrap().len(), 1);
    }
}
