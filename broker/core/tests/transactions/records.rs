//! The records of `__transaction_state` against bytes that Apache Kafka 4.3.1 wrote.

use std::collections::BTreeSet;

use bytes::Bytes;
use odradek_broker_core::coordination::fields::RecordError;
use odradek_broker_core::transactions::metadata::{TransactionMetadata, TransactionState};
use odradek_broker_core::transactions::records::{Record, decode};
use odradek_broker_core::transactions::replicated::Replicated;
use odradek_common::ids::TopicPartition;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use crate::harness::{partitions, text};

const KEY: &str = "0000000cc3bc62657277656973756e67";
/// An id without a transaction, one that is open, one that ends with its last epoch, one that ended: at the levels 0, 1, 2.
const VALUES: [[&str; 4]; 3] = [
    [
        "00000000000000000fa100000000ea6000ffffffff0000018bcfe56800ffffffffffffffff",
        "00000000000000000fa100050000ea60010000000100066f72646572730000000200000007000000010000018bcfe568020000018bcfe56801",
        "00000000000000000fa17fff0000ea60020000000100066f72646572730000000200000007000000010000018bcfe568030000018bcfe56801",
        "00000000000000000fa200000000ea6004000000000000018bcfe568040000018bcfe56801",
    ],
    [
        "00010000000000000fa100000000ea6000000000018bcfe56800ffffffffffffffff0100080000000000000fa1",
        "00010000000000000fa100050000ea600102076f7264657273030000000700000001000000018bcfe568020000018bcfe568010100080000000000000fa1",
        "00010000000000000fa17fff0000ea600202076f7264657273030000000700000001000000018bcfe568030000018bcfe568010200080000000000000fa101080000000000000fa2",
        "00010000000000000fa200000000ea6004010000018bcfe568040000018bcfe568010100080000000000000fa1",
    ],
    [
        "00010000000000000fa100000000ea6000000000018bcfe56800ffffffffffffffff0100080000000000000fa1",
        "00010000000000000fa100050000ea600102076f7264657273030000000700000001000000018bcfe568020000018bcfe568010200080000000000000fa102020002",
        "00010000000000000fa17fff0000ea600202076f7264657273030000000700000001000000018bcfe568030000018bcfe568010300080000000000000fa101080000000000000fa202020002",
        "00010000000000000fa200000000ea6004010000018bcfe568040000018bcfe568010200080000000000000fa102020002",
    ],
];

fn bytes(hex: &str) -> Bytes {
    let digit =
        |index: usize| u8::from_str_radix(&hex[index..index + 2], 16).expect("golden bytes are hexadecimal");
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// What the golden values of a level say.
fn metadata(level: i16) -> [TransactionMetadata; 4] {
    let client = if level == 2 { 2 } else { 0 };
    let id = |id: i64| if level == 0 { -1 } else { id };
    let base = TransactionMetadata {
        previous_producer_id: id(4001),
        producer_epoch: 0,
        last_update_timestamp_ms: 1_700_000_000_000,
        ..TransactionMetadata::new(4001, 60_000)
    };
    let open = TransactionMetadata {
        producer_epoch: 5,
        state: TransactionState::Ongoing,
        partitions: partitions(&["orders-1", "orders-7"]),
        start_timestamp_ms: 1_700_000_000_001,
        last_update_timestamp_ms: 1_700_000_000_002,
        client_transaction_version: client,
        ..base.clone()
    };
    let ends = TransactionMetadata {
        next_producer_id: id(4002),
        producer_epoch: i16::MAX,
        state: TransactionState::PrepareCommit,
        last_update_timestamp_ms: 1_700_000_000_003,
        ..open.clone()
    };
    let ended = TransactionMetadata {
        producer_id: 4002,
        next_producer_id: -1,
        producer_epoch: 0,
        state: TransactionState::CompleteCommit,
        partitions: BTreeSet::new(),
        last_update_timestamp_ms: 1_700_000_000_004,
        ..ends.clone()
    };
    [base, open, ends, ended]
}

#[test]
fn records_are_read_as_kafka_wrote_them() {
    for (level, values) in VALUES.iter().enumerate() {
        for (value, metadata) in values.iter().zip(metadata(level as i16)) {
            let expected = Record {
                transactional_id: text("überweisung"),
                value: Some(metadata),
            };
            let read = decode(&bytes(KEY), Some(&bytes(value)));
            assert_eq!(read, Ok(Some(expected)), "level {level}: {value}");
        }
    }
}

#[test]
fn records_are_written_as_kafka_writes_them() {
    for (level, values) in VALUES.iter().enumerate() {
        for (value, metadata) in values.iter().zip(metadata(level as i16)) {
            let record = Record {
                transactional_id: text("überweisung"),
                value: Some(metadata),
            };
            // Kafka writes partitions in the order of a hash set; we write them in theirs.
            let sorted = value.replace("0000000700000001", "0000000100000007");
            let written = record.encode(level as i16);
            assert_eq!(written, (bytes(KEY), Some(bytes(&sorted))), "level {level}");
        }
    }
}

#[test]
fn a_tombstone_has_no_value_and_other_keys_are_somebody_else_s() {
    let gone = Record {
        transactional_id: text("überweisung"),
        value: None,
    };
    assert_eq!(gone.encode(2), (bytes(KEY), None));
    assert_eq!(decode(&bytes(KEY), None), Ok(Some(gone)));
    assert_eq!(decode(&bytes("00010001"), None), Ok(None));
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let value = bytes(VALUES[1][1]);
    for cut in 0..value.len() {
        let read = decode(&bytes(KEY), Some(&value[..cut]));
        assert_eq!(read, Err(RecordError::Malformed), "cut at {cut}");
    }
    let mut later = value.to_vec();
    later[1] = 2;
    assert_eq!(
        decode(&bytes(KEY), Some(&later)),
        Err(RecordError::UnknownVersion(2))
    );
    let mut no_state = value.to_vec();
    no_state[16] = 8;
    assert_eq!(decode(&bytes(KEY), Some(&no_state)), Err(RecordError::Malformed));
}

#[test]
fn fields_that_later_versions_add_are_left_out() {
    // Tag 3: the next producer epoch of KIP-939.
    let later = VALUES[1][0].replace("0100080000000000000fa1", "0200080000000000000fa103020007");
    let expected = Some(metadata(1)[0].clone());
    let read = decode(&bytes(KEY), Some(&bytes(&later)));
    assert_eq!(
        read.map(|record| record.and_then(|record| record.value)),
        Ok(expected)
    );
}

fn any_state() -> impl Strategy<Value = TransactionState> {
    (0_i8..8).prop_filter_map("a state that is written", |id| {
        TransactionState::from_id(id).filter(|state| {
            !matches!(
                state,
                TransactionState::Dead | TransactionState::PrepareEpochFence
            )
        })
    })
}

fn any_metadata() -> impl Strategy<Value = TransactionMetadata> {
    let ids = (any::<i64>(), any::<i64>(), any::<i64>(), any::<i16>());
    let partition = ("[a-c]{1,3}", 0..200_i32).prop_map(|(topic, index)| TopicPartition::new(topic, index));
    let rest = (
        any::<i32>(),
        any_state(),
        btree_set(partition, 0..200),
        any::<[i64; 2]>(),
        0..3_i16,
    );
    (ids, rest).prop_map(
        |((producer_id, previous, next, epoch), (timeout_ms, state, partitions, times, client))| {
            let is_empty = state == TransactionState::Empty;
            TransactionMetadata {
                producer_id,
                previous_producer_id: previous,
                next_producer_id: next,
                producer_epoch: epoch,
                timeout_ms,
                state,
                partitions: if is_empty { BTreeSet::new() } else { partitions },
                last_update_timestamp_ms: times[0],
                start_timestamp_ms: times[1],
                client_transaction_version: client,
            }
        },
    )
}

fn any_record() -> impl Strategy<Value = Record> {
    ("[a-e]", proptest::option::of(any_metadata())).prop_map(|(id, value)| Record {
        transactional_id: text(&id),
        value,
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(record in any_record()) {
        let (key, value) = record.encode(2);
        prop_assert_eq!(decode(&key, value.as_deref()), Ok(Some(record)));
    }

    #[test]
    fn replaying_the_records_of_a_state_gives_the_state(log in vec(any_record(), 0..40)) {
        let mut state = Replicated::default();
        log.into_iter().for_each(|record| state.apply(record));
        let mut replayed = Replicated::default();
        for (key, value) in state.to_records(2) {
            let record = decode(&key, value.as_deref()).expect("own records can be read");
            replayed.apply(record.expect("own keys are known"));
        }
        prop_assert_eq!(replayed, state);
    }

    #[test]
    fn no_bytes_are_read_with_a_panic(key in vec(any::<u8>(), 0..40), value in vec(any::<u8>(), 0..120)) {
        let _ = decode(&key, Some(&value));
        let mut known = vec![0, 0, 0, 1, b'a'];
        known.extend(&key);
        let mut versioned = vec![0, 1];
        versioned.extend(&value);
        let _ = decode(&known, Some(&versioned));
    }
}
