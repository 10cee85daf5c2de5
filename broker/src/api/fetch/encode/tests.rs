//! The encoder against kafka-protocol's.

use std::os::unix::fs::FileExt;

use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use kafka_protocol::messages::{ApiKey, BrokerId, FetchResponse, ProducerId};
use kafka_protocol::protocol::StrBytes;
use odradek_net::wire::encode_response;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::names::topic_name;

const FILE_BYTES: usize = 200_000;

fn file() -> Arc<std::fs::File> {
    let file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..FILE_BYTES).map(|at| (at / 3) as u8).collect();
    file.write_all_at(&bytes, 0).unwrap();
    Arc::new(file)
}

fn slice() -> impl Strategy<Value = LogSlice> {
    let size = prop_oneof![
        Just(0_usize),
        1..300_usize,
        INLINE_RECORDS_BYTES_MAX - 2..INLINE_RECORDS_BYTES_MAX + 2,
        30_000..100_000_usize
    ];
    (size, 0..100_000_u64).prop_map(|(size_bytes, position)| LogSlice {
        end_offset: 0,
        start_offset: 0,
        file: None,
        position,
        size_bytes,
    })
}

prop_compose! {
    fn answer()(
        partition in 0..5_i32,
        error_code in prop_oneof![Just(0_i16), any::<i16>()],
        offsets in any::<(i64, i64, i64)>(),
        diverging in option::of(any::<(i32, i64)>().prop_filter("default", |it| *it != (-1, -1))),
        leader in option::of(any::<(i32, i32)>().prop_filter("default", |it| *it != (-1, -1))),
        aborted in option::of(vec(any::<(i64, i64)>(), 0..3)),
        records in option::of(slice()),
    ) -> Answer {
        Answer {
            topic: None,
            topic_id: Uuid::nil(),
            partition,
            error_code,
            high_watermark: offsets.0,
            last_stable_offset: offsets.1,
            log_start_offset: offsets.2,
            diverging,
            leader,
            aborted,
            preferred_read_replica: -1,
            records,
        }
    }
}

prop_compose! {
    fn endpoint()(
        node_id in any::<i32>(), host in "[a-z.]{0,20}", port in any::<i32>(), rack in option::of("[a-z]{0,3}"),
    ) -> Endpoint {
        Endpoint { node_id, host, port, rack }
    }
}

prop_compose! {
    fn response()(
        session_id in any::<i32>(),
        topics in vec(("[a-z]{1,200}", any::<u128>(), vec(answer(), 1..6)), 0..4),
        endpoints in vec(endpoint(), 0..3),
    ) -> FetchAnswer {
        let mut answers = Vec::new();
        for (name, id, of_topic) in topics {
            answers.extend(of_topic.into_iter().map(|answer| Answer {
                topic: Some(name.as_str().into()),
                topic_id: Uuid::from_u128(id),
                ..answer
            }));
        }
        FetchAnswer { error_code: 0, session_id, answers, endpoints }
    }
}

/// What kafka-protocol is given for the same answer: fields that a version has not are left out.
fn expected(version: i16, response: &FetchAnswer) -> FetchResponse {
    let same_topic = |a: &Answer, b: &Answer| a.topic_id == b.topic_id && a.topic == b.topic;
    let topics = response.answers.chunk_by(same_topic).map(|answers| {
        let topic = FetchableTopicResponse::default().with_partitions(
            answers
                .iter()
                .map(|answer| expected_partition(version, answer))
                .collect(),
        );
        if version >= TOPIC_IDS_SINCE {
            topic.with_topic_id(answers[0].topic_id)
        } else {
            topic.with_topic(topic_name(answers[0].topic.as_deref().unwrap()))
        }
    });
    let endpoints = response
        .endpoints
        .iter()
        .filter(|_| version >= LEADER_HINTS_SINCE)
        .map(|endpoint| {
            NodeEndpoint::default()
                .with_node_id(BrokerId(endpoint.node_id))
                .with_host(StrBytes::from(endpoint.host.clone()))
                .with_port(endpoint.port)
                .with_rack(endpoint.rack.clone().map(StrBytes::from))
        });
    let session_id = if version >= SESSIONS_SINCE {
        response.session_id
    } else {
        0
    };
    FetchResponse::default()
        .with_session_id(session_id)
        .with_responses(topics.collect())
        .with_node_endpoints(endpoints.collect())
}

fn expected_partition(version: i16, answer: &Answer) -> PartitionData {
    let aborted = answer.aborted.as_ref().map(|aborted| {
        let one = |(producer_id, first_offset): &(i64, i64)| {
            AbortedTransaction::default()
                .with_producer_id(ProducerId(*producer_id))
                .with_first_offset(*first_offset)
        };
        aborted.iter().map(one).collect()
    });
    let data = PartitionData::default()
        .with_partition_index(answer.partition)
        .with_error_code(answer.error_code)
        .with_high_watermark(answer.high_watermark)
        .with_last_stable_offset(answer.last_stable_offset)
        .with_log_start_offset(if version >= LOG_START_SINCE {
            answer.log_start_offset
        } else {
            -1
        })
        .with_aborted_transactions(aborted)
        .with_preferred_read_replica(BrokerId(-1))
        .with_records(Some(records(answer)));
    if version < DIVERGING_SINCE {
        return data;
    }
    let (epoch, end_offset) = answer.diverging.unwrap_or((-1, -1));
    let (leader_id, leader_epoch) = answer.leader.unwrap_or((-1, -1));
    data.with_diverging_epoch(
        EpochEndOffset::default()
            .with_epoch(epoch)
            .with_end_offset(end_offset),
    )
    .with_current_leader(
        LeaderIdAndEpoch::default()
            .with_leader_id(BrokerId(leader_id))
            .with_leader_epoch(leader_epoch),
    )
}

fn records(answer: &Answer) -> Bytes {
    let Some(slice) = &answer.records else {
        return Bytes::new();
    };
    let mut bytes = vec![0; slice.size_bytes];
    slice
        .file
        .as_ref()
        .unwrap()
        .read_exact_at(&mut bytes, slice.position)
        .unwrap();
    bytes.into()
}

/// The bytes that the connection would send.
fn sent(segments: &[Segment]) -> Vec<u8> {
    let mut sent = Vec::new();
    for segment in segments {
        match segment {
            Segment::Bytes(bytes) => sent.extend_from_slice(bytes),
            Segment::File(range) => {
                let start = sent.len();
                sent.resize(start + range.length, 0);
                range
                    .file
                    .read_exact_at(&mut sent[start..], range.position)
                    .unwrap();
            }
        }
    }
    sent
}

fn with_file(mut response: FetchAnswer) -> FetchAnswer {
    let file = file();
    for answer in &mut response.answers {
        if let Some(slice) = &mut answer.records {
            slice.file = Some(file.clone());
        }
    }
    response
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_version_is_what_kafka_protocol_writes(response in response(), memory in prop_oneof![Just(0_usize), Just(1 << 20)]) {
        let response = with_file(response);
        let budget = MemoryBudget::new(memory);
        for version in 4..=18 {
            let frame = encode(version, 77, &response, &budget);
            let theirs = encode_response(ApiKey::Fetch as i16, version, 77, &expected(version, &response)).unwrap();
            prop_assert_eq!(sent(&frame.segments), sent(&theirs.segments), "version {}", version);
            let copied: usize = frame.segments.iter().map(|it| if let Segment::Bytes(bytes) = it { bytes.len() } else { 0 }).sum();
            prop_assert!(copied <= memory.min(INLINE_RESPONSE_BYTES_MAX) + 16_000, "{} bytes are in memory", copied);
            drop(frame);
            prop_assert_eq!(budget.used(), 0);
        }
    }
}

fn one(size_bytes: usize) -> FetchAnswer {
    with_file(FetchAnswer {
        error_code: 0,
        session_id: 0,
        answers: vec![Answer {
            topic: Some("t".into()),
            topic_id: Uuid::nil(),
            partition: 0,
            error_code: 0,
            high_watermark: 0,
            last_stable_offset: 0,
            log_start_offset: 0,
            diverging: None,
            leader: None,
            aborted: None,
            preferred_read_replica: -1,
            records: Some(LogSlice {
                end_offset: 0,
                start_offset: 0,
                file: None,
                position: 0,
                size_bytes,
            }),
        }],
        endpoints: Vec::new(),
    })
}

#[test]
fn small_records_are_one_write_and_count_until_they_have_left() {
    let budget = MemoryBudget::new(1 << 20);
    let small = encode(4, 1, &one(1_000), &budget);
    assert_eq!(small.segments.len(), 1);
    assert_eq!(budget.used(), 1_000);
    let large = encode(4, 1, &one(INLINE_RECORDS_BYTES_MAX + 1), &budget);
    assert!(matches!(
        &large.segments[..],
        [Segment::Bytes(_), Segment::File(_)]
    ));
    assert_eq!(budget.used(), 1_000);
    drop((small, large));
    assert_eq!(budget.used(), 0);
}

#[test]
fn without_memory_records_are_left_in_their_file() {
    let budget = MemoryBudget::new(1_500);
    let first = encode(4, 1, &one(1_000), &budget);
    let second = encode(4, 1, &one(1_000), &budget);
    assert_eq!((first.segments.len(), second.segments.len()), (1, 2));
}

#[test]
fn records_that_the_file_has_lost_are_left_to_the_connection() {
    let budget = MemoryBudget::new(1 << 20);
    let mut response = one(1_000);
    if let Some(slice) = &mut response.answers[0].records {
        slice.position = FILE_BYTES as u64 - 10;
    }
    let frame = encode(4, 1, &response, &budget);
    assert!(matches!(
        &frame.segments[..],
        [Segment::Bytes(_), Segment::File(_)]
    ));
    assert_eq!(budget.used(), 0);
}
