//! The records of `__consumer_offsets` against bytes that Apache Kafka 4.3.1 wrote.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use odradek_broker_core::coordination::fields::RecordError;
use odradek_broker_core::coordination::{LogEntry, partition_for};
use odradek_broker_core::groups::records::{
    GroupValue, MemberValue, OffsetValue, Record, decode, subscribed_topics,
};
use odradek_broker_core::groups::replicated::Replicated;
use odradek_common::records::control::TransactionResult;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::harness::{subscription, text};

const OFFSET_KEY: &str = "000100076772c3bc70706500066f726465727300000007";
const OFFSET_VALUES: [&str; 5] = [
    "00000000011f71fb04cb0005c3bc6265720000018bcfe56800",
    "00010000011f71fb04cb0005c3bc6265720000018bcfe568000000018bcfe57b88",
    "00020000011f71fb04cb0005c3bc6265720000018bcfe56800",
    "00030000011f71fb04cb000000050005c3bc6265720000018bcfe56800",
    "00040000011f71fb04cb0000000506c3bc6265720000018bcfe5680000",
];
const GROUP_KEY: &str = "0002000167";
const GROUP_VALUES: [&str; 5] = [
    "00000008636f6e73756d657200000003000572616e67650003612d31000000020003612d31000161000a2f3132372e302e302e310000afc80000000300010200000001090003622d3200016200042f3a3a31000027100000000000000000",
    "00010008636f6e73756d657200000003000572616e67650003612d31000000020003612d31000161000a2f3132372e302e302e310000ea600000afc80000000300010200000001090003622d3200016200042f3a3a31000493e0000027100000000000000000",
    "00020008636f6e73756d657200000003000572616e67650003612d310000018bcfe56801000000020003612d31000161000a2f3132372e302e302e310000ea600000afc80000000300010200000001090003622d3200016200042f3a3a31000493e0000027100000000000000000",
    "00030008636f6e73756d657200000003000572616e67650003612d310000018bcfe56801000000020003612d31000169000161000a2f3132372e302e302e310000ea600000afc80000000300010200000001090003622d32ffff00016200042f3a3a31000493e0000027100000000000000000",
    "000409636f6e73756d6572000000030672616e676504612d310000018bcfe568010304612d31026902610b2f3132372e302e302e310000ea600000afc80400010202090004622d32000262052f3a3a31000493e00000271001010000",
];
const EMPTY_GROUP_VALUE: &str = "0003000000000000ffffffff0000018bcfe5680100000000";

fn bytes(hex: &str) -> Bytes {
    let digit =
        |index: usize| u8::from_str_radix(&hex[index..index + 2], 16).expect("golden bytes are hexadecimal");
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn offset_record(version: usize) -> Record {
    Record::Offset {
        group_id: text("grüppe"),
        topic: text("orders"),
        partition: 7,
        value: Some(OffsetValue {
            offset: 1_234_567_890_123,
            leader_epoch: if version >= 3 { 5 } else { -1 },
            metadata: text("über"),
            commit_timestamp_ms: 1_700_000_000_000,
            expire_timestamp_ms: (version == 1).then_some(1_700_000_005_000),
        }),
    }
}

fn group_record(version: usize) -> Record {
    let member = |id: &str, client: &str, host: &str| MemberValue {
        member_id: text(id),
        group_instance_id: None,
        client_id: text(client),
        client_host: text(host),
        rebalance_timeout_ms: -1,
        session_timeout_ms: 0,
        subscription: Bytes::new(),
        assignment: Bytes::new(),
    };
    let rebalance_timeout_ms = |ms: i32| if version >= 1 { ms } else { -1 };
    Record::Group {
        group_id: text("g"),
        value: Some(GroupValue {
            protocol_type: text("consumer"),
            generation: 3,
            protocol: Some(text("range")),
            leader: Some(text("a-1")),
            current_state_timestamp_ms: if version >= 2 { 1_700_000_000_001 } else { -1 },
            members: vec![
                MemberValue {
                    group_instance_id: (version >= 3).then(|| text("i")),
                    rebalance_timeout_ms: rebalance_timeout_ms(60_000),
                    session_timeout_ms: 45_000,
                    subscription: Bytes::from_static(&[0, 1, 2]),
                    assignment: Bytes::from_static(&[9]),
                    ..member("a-1", "a", "/127.0.0.1")
                },
                MemberValue {
                    rebalance_timeout_ms: rebalance_timeout_ms(300_000),
                    session_timeout_ms: 10_000,
                    ..member("b-2", "b", "/::1")
                },
            ],
        }),
    }
}

#[test]
fn every_version_of_the_offset_record_is_read_as_kafka_wrote_it() {
    for (version, value) in OFFSET_VALUES.iter().enumerate() {
        let record = decode(&bytes(OFFSET_KEY), Some(&bytes(value)));
        assert_eq!(record, Ok(Some(offset_record(version))), "version {version}");
    }
}

#[test]
fn offset_records_are_written_as_kafka_writes_them() {
    for version in [1, 3] {
        let (key, value) = offset_record(version).encode();
        assert_eq!(key, bytes(OFFSET_KEY));
        assert_eq!(value, Some(bytes(OFFSET_VALUES[version])));
    }
}

#[test]
fn every_version_of_the_group_record_is_read_as_kafka_wrote_it() {
    for (version, value) in GROUP_VALUES.iter().enumerate() {
        let record = decode(&bytes(GROUP_KEY), Some(&bytes(value)));
        assert_eq!(record, Ok(Some(group_record(version))), "version {version}");
    }
}

#[test]
fn group_records_are_written_as_kafka_writes_them() {
    let (key, value) = group_record(3).encode();
    assert_eq!(key, bytes(GROUP_KEY));
    assert_eq!(value, Some(bytes(GROUP_VALUES[3])));
    let empty = GroupValue {
        protocol_type: StrBytes::new(),
        generation: 0,
        protocol: None,
        leader: None,
        current_state_timestamp_ms: 1_700_000_000_001,
        members: Vec::new(),
    };
    let (_, value) = Record::Group {
        group_id: text("g"),
        value: Some(empty),
    }
    .encode();
    assert_eq!(value, Some(bytes(EMPTY_GROUP_VALUE)));
}

#[test]
fn tombstones_and_keys_of_others_are_told_apart() {
    let tombstone = decode(&bytes(GROUP_KEY), None);
    assert_eq!(
        tombstone,
        Ok(Some(Record::Group {
            group_id: text("g"),
            value: None
        }))
    );
    for version in 3..=20_u8 {
        assert_eq!(decode(&[0, version, 1, 2, 3], Some(b"whatever")), Ok(None));
    }
}

#[test]
fn records_cut_anywhere_are_refused_and_not_believed() {
    for (key, value) in [
        (OFFSET_KEY, OFFSET_VALUES[3]),
        (GROUP_KEY, GROUP_VALUES[3]),
        (GROUP_KEY, GROUP_VALUES[4]),
    ] {
        let (key, value) = (bytes(key), bytes(value));
        // The last byte of version 4 counts tagged fields of the whole value, which nobody needs.
        let needed = if value[1] == 4 {
            value.len() - 1
        } else {
            value.len()
        };
        for end in 0..needed {
            assert_eq!(
                decode(&key, Some(&value[..end])),
                Err(RecordError::Malformed),
                "cut at {end}"
            );
        }
        for end in 0..key.len() {
            assert_eq!(
                decode(&key[..end], Some(&value)),
                Err(RecordError::Malformed),
                "key cut at {end}"
            );
        }
    }
    assert_eq!(
        decode(&bytes(GROUP_KEY), Some(&[0, 5])),
        Err(RecordError::UnknownVersion(5))
    );
}

#[test]
fn groups_live_where_kafka_puts_them() {
    // Asked of Kafka's own Utils.abs("..".hashCode()) % 50; the last but one has the hash code that has no absolute value.
    let expected = [
        ("g", 3),
        ("console-consumer-12345", 6),
        ("grüppe", 12),
        ("😀-group", 43),
        ("", 0),
        ("polygenelubricants", 0),
        ("my.group_7", 1),
    ];
    for (group_id, partition) in expected {
        assert_eq!(partition_for(group_id, 50), partition, "{group_id}");
    }
}

#[test]
fn subscriptions_are_read_from_their_common_beginning() {
    let topics = subscribed_topics(&subscription(&["orders", "returns"]));
    assert_eq!(topics, Some(vec![text("orders"), text("returns")]));
    assert_eq!(subscribed_topics(&Bytes::from_static(b"\0")), None);
    assert_eq!(
        subscribed_topics(&Bytes::from_static(&[0, 0, 0x7f, 0xff, 0xff, 0xff])),
        None
    );
}

fn name() -> impl Strategy<Value = StrBytes> {
    "[a-cé]{0,2}".prop_map(|name| text(&name))
}

fn blob() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..4).prop_map(Bytes::from)
}

fn offset_value() -> impl Strategy<Value = OffsetValue> {
    let expiry = prop_oneof![3 => Just(None), 1 => (0..i64::MAX).prop_map(Some)];
    (any::<i64>(), any::<i32>(), name(), any::<i64>(), expiry).prop_map(
        |(offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms)| OffsetValue {
            offset,
            leader_epoch: if expire_timestamp_ms.is_some() {
                -1
            } else {
                leader_epoch
            },
            metadata,
            commit_timestamp_ms,
            expire_timestamp_ms,
        },
    )
}

fn member_value() -> impl Strategy<Value = MemberValue> {
    (
        name(),
        proptest::option::of(name()),
        name(),
        any::<i32>(),
        any::<i32>(),
        blob(),
        blob(),
    )
        .prop_map(
            |(
                member_id,
                group_instance_id,
                client_id,
                rebalance_timeout_ms,
                session_timeout_ms,
                subscription,
                assignment,
            )| {
                MemberValue {
                    member_id,
                    group_instance_id,
                    client_host: client_id.clone(),
                    client_id,
                    rebalance_timeout_ms,
                    session_timeout_ms,
                    subscription,
                    assignment,
                }
            },
        )
}

fn group_value() -> impl Strategy<Value = GroupValue> {
    let option = || proptest::option::of(name());
    (
        name(),
        any::<i32>(),
        option(),
        option(),
        any::<i64>(),
        vec(member_value(), 0..3),
    )
        .prop_map(
            |(protocol_type, generation, protocol, leader, current_state_timestamp_ms, members)| GroupValue {
                protocol_type,
                generation,
                protocol,
                leader,
                current_state_timestamp_ms,
                members,
            },
        )
}

fn record() -> impl Strategy<Value = Record> {
    let offset = (
        name(),
        name(),
        0..3_i32,
        proptest::option::weighted(0.7, offset_value()),
    )
        .prop_map(|(group_id, topic, partition, value)| Record::Offset {
            group_id,
            topic,
            partition,
            value,
        });
    let group = (name(), proptest::option::weighted(0.7, group_value()))
        .prop_map(|(group_id, value)| Record::Group { group_id, value });
    prop_oneof![2 => offset, 1 => group]
}

/// What happens to a partition's log.
#[derive(Clone, Debug)]
enum Step {
    Plain(Record),
    Pending(i64, Record),
    End(i64, TransactionResult),
}

fn step() -> impl Strategy<Value = Step> {
    let result = prop_oneof![Just(TransactionResult::Commit), Just(TransactionResult::Abort)];
    let offset = || {
        record().prop_filter("of an offset", |record| {
            matches!(record, Record::Offset { value: Some(_), .. })
        })
    };
    prop_oneof![
        3 => record().prop_map(Step::Plain),
        3 => (0..3_i64, offset()).prop_map(|(producer_id, record)| Step::Pending(producer_id, record)),
        2 => (0..3_i64, result).prop_map(|(producer_id, result)| Step::End(producer_id, result)),
    ]
}

fn replicated(steps: &[Step]) -> Replicated {
    let mut state = Replicated::default();
    for step in steps {
        match step {
            Step::Plain(record) => state.apply(record),
            Step::Pending(producer_id, record) => state.apply_pending(*producer_id, record),
            Step::End(producer_id, result) => state.end_transaction(*producer_id, *result),
        }
    }
    state
}

/// Whether the transaction that a producer has open at the first of these steps is committed.
fn commits(steps: &[Step], producer_id: i64) -> bool {
    let end = steps.iter().find_map(|step| match step {
        Step::End(of, result) if *of == producer_id => Some(*result),
        Step::Plain(_) | Step::Pending(..) | Step::End(..) => None,
    });
    end == Some(TransactionResult::Commit)
}

proptest! {
    #[test]
    fn what_is_written_is_read(record in record()) {
        let (key, value) = record.encode();
        prop_assert_eq!(decode(&key, value.as_deref()), Ok(Some(record)));
    }

    #[test]
    fn replaying_the_records_of_a_state_gives_the_state(steps in vec(step(), 0..60)) {
        let state = replicated(&steps);
        let mut replayed = Replicated::default();
        for entry in state.to_records() {
            let LogEntry::Record { producer_id, key, value } = entry else {
                panic!("a state has no ended transactions")
            };
            let record = decode(&key, value.as_deref()).unwrap().unwrap();
            match producer_id {
                None => replayed.apply(&record),
                Some(producer_id) => replayed.apply_pending(producer_id, &record),
            }
        }
        prop_assert_eq!(replayed, state);
    }

    /// Of all that was committed of an offset, the last one in the log counts.
    #[test]
    fn offsets_follow_the_order_of_the_log(steps in vec(step(), 0..60)) {
        let state = replicated(&steps);
        let mut expected: BTreeMap<(StrBytes, StrBytes, i32), OffsetValue> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            let (record, is_committed) = match step {
                Step::Plain(record) => (record, true),
                Step::Pending(producer_id, record) => (record, commits(&steps[at..], *producer_id)),
                Step::End(..) => continue,
            };
            let Record::Offset { group_id, topic, partition, value } = record else {
                continue;
            };
            let key = (group_id.clone(), topic.clone(), *partition);
            match value {
                Some(value) if is_committed => _ = expected.insert(key, value.clone()),
                Some(_) => {}
                None => _ = expected.remove(&key),
            }
        }
        let found: BTreeMap<_, _> = state
            .offsets()
            .map(|(group, topic, partition, value)| ((group.clone(), topic.clone(), partition), value.clone()))
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_bytes_bring_the_reader_down(key in vec(any::<u8>(), 0..40), value in vec(any::<u8>(), 0..60)) {
        let _ = decode(&key, Some(&value));
        let mut known = bytes(GROUP_KEY).to_vec();
        known.truncate(5);
        let _ = decode(&known, Some(&value));
        let _ = subscribed_topics(&Bytes::from(value));
    }
}
