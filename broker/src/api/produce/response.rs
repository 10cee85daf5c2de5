//! The answer to a produce request, and its bytes.
//!
//! Encoded by hand because every request needs one: kafka-protocol's structs cost several allocations. A test holds the
//! bytes against kafka-protocol's for every version.

use std::cell::RefCell;

use bytes::{BufMut, Bytes, BytesMut};
use odradek_common::error::ErrorCode;
use odradek_common::ids::NodeId;
use odradek_net::wire::put_response_header;
use smallvec::SmallVec;
use uuid::Uuid;

use super::request::{FLEXIBLE_SINCE, TOPIC_IDS_SINCE};

/// First version with `log_start_offset`.
const LOG_START_SINCE: i16 = 5;
/// First version with `record_errors` and `error_message`.
const RECORD_ERRORS_SINCE: i16 = 8;
/// First version with `current_leader` and `node_endpoints` (KIP-951).
pub(super) const LEADER_HINTS_SINCE: i16 = 10;

/// Answers are cut from blocks of this size.
const BLOCK_BYTES: usize = 4 << 10;

thread_local! {
    /// Where the next answer of this thread goes; used again when all that were cut from it have left.
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Names up to this length need no allocation.
const NAME_INLINE_BYTES: usize = 48;

/// How an answer names its topic: as the request did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TopicLabel {
    Name(SmallVec<[u8; NAME_INLINE_BYTES]>),
    Id(Uuid),
}

/// The answer to one request.
#[derive(Debug, Default)]
pub(super) struct ProduceAnswer {
    pub(super) topics: SmallVec<[TopicAnswer; 1]>,
}

/// The answers of one topic's partitions.
#[derive(Debug)]
pub(super) struct TopicAnswer {
    pub(super) label: TopicLabel,
    pub(super) partitions: SmallVec<[PartitionAnswer; 1]>,
}

/// The answer of one partition.
#[derive(Debug)]
pub(super) struct PartitionAnswer {
    pub(super) index: i32,
    pub(super) outcome: Result<Accepted, Box<Refused>>,
}

/// The batch is in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    pub(super) base_offset: i64,
    pub(super) log_append_time_ms: i64,
    pub(super) log_start_offset: i64,
}

/// The batch was refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) code: ErrorCode,
    /// None if the code says all; clients have a sentence of their own then.
    pub(super) message: Option<String>,
    pub(super) record_errors: Vec<(i32, String)>,
    pub(super) log_start_offset: i64,
    /// Who leads, and in which epoch, for who wrote to the wrong node.
    pub(super) leader: Option<(NodeId, i32)>,
}

/// Where a node is reached on the listener of the request.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) node_id: NodeId,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) rack: Option<String>,
}

impl ProduceAnswer {
    /// The first refusal.
    pub(super) fn refused(&self) -> Option<&Refused> {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions
            .filter_map(|partition| partition.outcome.as_ref().err())
            .map(|refused| &**refused)
            .next()
    }

    /// The leaders that refusals name, each once.
    pub(super) fn leaders(&self) -> Vec<NodeId> {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        let mut leaders: Vec<NodeId> = partitions
            .filter_map(|partition| partition.outcome.as_ref().err()?.leader)
            .map(|(leader, _)| leader)
            .filter(|leader| *leader >= 0)
            .collect();
        leaders.sort_unstable();
        leaders.dedup();
        leaders
    }

    /// The response with its header.
    pub(super) fn encode(&self, version: i16, correlation_id: i32, endpoints: &[Endpoint]) -> Bytes {
        let partitions: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        let usual_bytes = 64 + 64 * self.topics.len() + 48 * partitions;
        let mut bytes = if usual_bytes <= BLOCK_BYTES {
            BLOCK.take()
        } else {
            BytesMut::new()
        };
        if bytes.capacity() < usual_bytes {
            bytes.reserve(usual_bytes.max(BLOCK_BYTES));
        }
        let mut writer = Writer {
            bytes,
            flexible: version >= FLEXIBLE_SINCE,
        };
        self.write(&mut writer, version, correlation_id, endpoints);
        let answer = writer.bytes.split().freeze();
        // What a large answer needed is not kept.
        if answer.len() <= BLOCK_BYTES && usual_bytes <= BLOCK_BYTES {
            BLOCK.set(writer.bytes);
        }
        answer
    }

    fn write(&self, writer: &mut Writer, version: i16, correlation_id: i32, endpoints: &[Endpoint]) {
        put_response_header(&mut writer.bytes, i16::from(writer.flexible), correlation_id);
        writer.length(self.topics.len());
        for topic in &self.topics {
            match &topic.label {
                TopicLabel::Id(id) => writer.bytes.put_slice(id.as_bytes()),
                TopicLabel::Name(name) => writer.text(name),
            }
            writer.length(topic.partitions.len());
            for partition in &topic.partitions {
                writer.partition(version, partition);
            }
            writer.no_tagged_fields();
        }
        // throttle_time_ms
        writer.bytes.put_i32(0);
        if version >= LEADER_HINTS_SINCE && !endpoints.is_empty() {
            writer.tagged_field(|writer| {
                writer.length(endpoints.len());
                for endpoint in endpoints {
                    writer.bytes.put_i32(endpoint.node_id);
                    writer.string(Some(&endpoint.host));
                    writer.bytes.put_i32(i32::from(endpoint.port));
                    writer.string(endpoint.rack.as_deref());
                    writer.no_tagged_fields();
                }
            });
        } else {
            writer.no_tagged_fields();
        }
    }
}

struct Writer {
    bytes: BytesMut,
    flexible: bool,
}

impl Writer {
    fn partition(&mut self, version: i16, partition: &PartitionAnswer) {
        let refused = partition.outcome.as_ref().err();
        let accepted = match &partition.outcome {
            Ok(accepted) => *accepted,
            Err(refused) => Accepted {
                base_offset: -1,
                log_append_time_ms: -1,
                log_start_offset: refused.log_start_offset,
            },
        };
        self.bytes.put_i32(partition.index);
        self.bytes
            .put_i16(refused.map_or(0, |refused| refused.code.code()));
        self.bytes.put_i64(accepted.base_offset);
        self.bytes.put_i64(accepted.log_append_time_ms);
        if version >= LOG_START_SINCE {
            self.bytes.put_i64(accepted.log_start_offset);
        }
        if version >= RECORD_ERRORS_SINCE {
            let record_errors = refused.map_or(&[][..], |refused| &refused.record_errors[..]);
            self.length(record_errors.len());
            for (at, message) in record_errors {
                self.bytes.put_i32(*at);
                self.string(Some(message));
                self.no_tagged_fields();
            }
            self.string(refused.and_then(|refused| refused.message.as_deref()));
        }
        match refused.and_then(|refused| refused.leader) {
            Some((leader, epoch)) if version >= LEADER_HINTS_SINCE => self.tagged_field(|writer| {
                writer.bytes.put_i32(leader);
                writer.bytes.put_i32(epoch);
                writer.no_tagged_fields();
            }),
            Some(_) | None => self.no_tagged_fields(),
        }
    }

    fn varint(&mut self, value: usize) {
        let mut rest = value;
        while rest > 0x7f {
            self.bytes.put_u8(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.put_u8(rest as u8);
    }

    fn length(&mut self, length: usize) {
        if self.flexible {
            self.varint(length + 1);
        } else {
            let length = i32::try_from(length).expect("there are no more than the request had");
            self.bytes.put_i32(length);
        }
    }

    fn string(&mut self, value: Option<&str>) {
        match value {
            None if self.flexible => self.varint(0),
            None => self.bytes.put_i16(-1),
            Some(value) if self.flexible => self.text(value.as_bytes()),
            Some(value) => self.text(cut(value).as_bytes()),
        }
    }

    /// A string that is not null and fits its length, as what came in a request does.
    fn text(&mut self, value: &[u8]) {
        if self.flexible {
            self.varint(value.len() + 1);
        } else {
            let length = i16::try_from(value.len()).expect("longer texts have been cut");
            self.bytes.put_i16(length);
        }
        self.bytes.put_slice(value);
    }

    fn no_tagged_fields(&mut self) {
        if self.flexible {
            self.varint(0);
        }
    }

    /// The one tagged field of a struct; it has the tag 0.
    fn tagged_field(&mut self, write: impl FnOnce(&mut Self)) {
        let mut field = Writer {
            bytes: BytesMut::new(),
            flexible: self.flexible,
        };
        write(&mut field);
        self.varint(1);
        self.varint(0);
        self.varint(field.bytes.len());
        self.bytes.put_slice(&field.bytes);
    }
}

/// As much of a text as an old version's length can say.
fn cut(value: &str) -> &str {
    let mut end = value.len().min(i16::MAX as usize);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

const _: () = assert!(
    FLEXIBLE_SINCE < LEADER_HINTS_SINCE && LEADER_HINTS_SINCE < TOPIC_IDS_SINCE,
    "tagged fields and ids are of flexible versions"
);

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::produce_response::{
        BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
        TopicProduceResponse,
    };
    use kafka_protocol::messages::{ApiKey, BrokerId, ProduceResponse};
    use odradek_net::service::Segment;
    use odradek_net::wire;
    use smallvec::smallvec;

    use super::*;
    use crate::names::{text, topic_name};

    fn answer(version: i16) -> ProduceAnswer {
        let refused = |leader: Option<(NodeId, i32)>| {
            Err(Box::new(Refused {
                code: ErrorCode::NotLeaderOrFollower,
                message: leader.is_some().then(|| "another broker leads".to_owned()),
                record_errors: vec![(3, "bad".to_owned()), (5, "x".repeat(300))],
                log_start_offset: 9,
                leader,
            }))
        };
        let accepted = Ok(Accepted {
            base_offset: 1 << 40,
            log_append_time_ms: 77,
            log_start_offset: 5,
        });
        let label = |name: &str| {
            if version >= TOPIC_IDS_SINCE {
                TopicLabel::Id(Uuid::from_u128(name.len() as u128))
            } else {
                TopicLabel::Name(SmallVec::from_slice(name.as_bytes()))
            }
        };
        let partition = |index, outcome| PartitionAnswer { index, outcome };
        let long = "n".repeat(200);
        ProduceAnswer {
            topics: smallvec![
                TopicAnswer {
                    label: label("one"),
                    partitions: smallvec![
                        partition(0, accepted),
                        partition(1, refused(Some((2, 6)))),
                        partition(2, refused(None)),
                    ],
                },
                TopicAnswer {
                    label: label(&long),
                    partitions: smallvec![],
                },
            ],
        }
    }

    /// The same in kafka-protocol's structs.
    fn reference(version: i16, answer: &ProduceAnswer, endpoints: &[Endpoint]) -> ProduceResponse {
        let partition = |partition: &PartitionAnswer| {
            let response = PartitionProduceResponse::default().with_index(partition.index);
            match &partition.outcome {
                Ok(accepted) => response
                    .with_base_offset(accepted.base_offset)
                    .with_log_append_time_ms(accepted.log_append_time_ms)
                    .with_log_start_offset(accepted.log_start_offset),
                Err(refused) => {
                    let errors = refused.record_errors.iter().map(|(at, message)| {
                        BatchIndexAndErrorMessage::default()
                            .with_batch_index(*at)
                            .with_batch_index_error_message(Some(text(message)))
                    });
                    let response = response
                        .with_error_code(refused.code.code())
                        .with_base_offset(-1)
                        .with_log_append_time_ms(-1)
                        .with_log_start_offset(refused.log_start_offset)
                        .with_record_errors(errors.collect())
                        .with_error_message(refused.message.as_deref().map(text));
                    match refused.leader.filter(|_| version >= LEADER_HINTS_SINCE) {
                        None => response,
                        Some((leader, epoch)) => response.with_current_leader(
                            LeaderIdAndEpoch::default()
                                .with_leader_id(BrokerId(leader))
                                .with_leader_epoch(epoch),
                        ),
                    }
                }
            }
        };
        let topics = answer.topics.iter().map(|topic| {
            let response = TopicProduceResponse::default()
                .with_partition_responses(topic.partitions.iter().map(partition).collect());
            match &topic.label {
                TopicLabel::Name(name) => response.with_name(topic_name(std::str::from_utf8(name).unwrap())),
                TopicLabel::Id(id) => response.with_topic_id(*id),
            }
        });
        let nodes = endpoints.iter().map(|endpoint| {
            NodeEndpoint::default()
                .with_node_id(BrokerId(endpoint.node_id))
                .with_host(text(&endpoint.host))
                .with_port(i32::from(endpoint.port))
                .with_rack(endpoint.rack.as_deref().map(text))
        });
        let hinted = version >= LEADER_HINTS_SINCE;
        ProduceResponse::default()
            .with_responses(topics.collect())
            .with_node_endpoints(nodes.filter(|_| hinted).collect())
    }

    #[test]
    fn the_bytes_are_kafka_protocol_s_in_every_version() {
        let node = |node_id, rack: Option<&str>| Endpoint {
            node_id,
            host: "host".to_owned(),
            port: 9092,
            rack: rack.map(str::to_owned),
        };
        for endpoints in [vec![], vec![node(2, None), node(3, Some("r"))]] {
            for version in 3..=13 {
                for answer in [answer(version), ProduceAnswer::default()] {
                    let expected = wire::encode_response(
                        ApiKey::Produce as i16,
                        version,
                        7,
                        &reference(version, &answer, &endpoints),
                    );
                    let bytes = |segment: &Segment| match segment {
                        Segment::Bytes(bytes) => bytes.clone(),
                        Segment::File(_) => panic!("an acknowledgement is in memory"),
                    };
                    let expected: Vec<Bytes> = expected.unwrap().segments.iter().map(bytes).collect();
                    let expected = expected.concat();
                    assert_eq!(
                        answer.encode(version, 7, &endpoints),
                        expected,
                        "version {version}"
                    );
                }
            }
        }
    }

    #[test]
    fn leaders_are_named_once_and_refusals_found() {
        let mut twice = answer(12);
        twice.topics.extend(answer(12).topics);
        assert_eq!(twice.leaders(), [2]);
        assert_eq!(twice.refused().unwrap().leader, Some((2, 6)));
        assert!(ProduceAnswer::default().refused().is_none());
    }
}
