//! Tests of the producer state.

use odradek_common::error::ErrorCode;
use odradek_common::records::batch::BatchHeader;
use odradek_common::time::Now;

use super::*;

const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

fn batch(producer_id: i64, epoch: i16, base_sequence: i32, count: i32, base_offset: i64) -> BatchHeader {
    BatchHeader {
        base_offset,
        batch_length: 49,
        partition_leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: count - 1,
        base_timestamp: 1_000,
        max_timestamp: 1_000 + base_offset,
        producer_id,
        producer_epoch: epoch,
        base_sequence,
        record_count: count,
    }
}

fn transactional(mut header: BatchHeader) -> BatchHeader {
    header.attributes |= TRANSACTIONAL;
    header
}

fn marker(producer_id: i64, epoch: i16, offset: i64) -> BatchHeader {
    let mut header = batch(producer_id, epoch, -1, 1, offset);
    header.attributes |= TRANSACTIONAL | CONTROL;
    header
}

const ABORT: EndTransactionMarker = EndTransactionMarker {
    result: TransactionResult::Abort,
    coordinator_epoch: 0,
};
const COMMIT: EndTransactionMarker = EndTransactionMarker {
    result: TransactionResult::Commit,
    coordinator_epoch: 0,
};

fn refused(check: Check) -> ErrorCode {
    match check {
        Check::Refused(error) => error.code,
        other @ (Check::Fresh | Check::Duplicate { .. }) => panic!("expected a refusal, got {other:?}"),
    }
}

fn client(states: &ProducerStates, header: &BatchHeader) -> Check {
    states.check(header, AppendOrigin::Client)
}

#[test]
fn an_unknown_producer_may_begin_with_any_sequence() {
    let states = ProducerStates::default();
    assert_eq!(client(&states, &batch(7, 3, 4_711, 2, 0)), Check::Fresh);
}

#[test]
fn duplicates_among_the_last_five_answer_with_the_original() {
    let mut states = ProducerStates::default();
    for index in 0..6 {
        states.record(&batch(7, 0, index * 2, 2, i64::from(index) * 10));
    }
    let expected = Check::Duplicate {
        base_offset: 10,
        last_offset: 11,
        timestamp: 1_010,
    };
    assert_eq!(client(&states, &batch(7, 0, 2, 2, 99)), expected);
    assert_eq!(
        refused(client(&states, &batch(7, 0, 0, 2, 99))),
        ErrorCode::OutOfOrderSequenceNumber
    );
    assert_eq!(
        refused(client(&states, &batch(7, 0, 2, 1, 99))),
        ErrorCode::OutOfOrderSequenceNumber
    );
    assert_eq!(client(&states, &batch(7, 0, 12, 1, 99)), Check::Fresh);
    assert_eq!(
        refused(client(&states, &batch(7, 0, 13, 1, 99))),
        ErrorCode::OutOfOrderSequenceNumber
    );
}

#[test]
fn sequences_wrap_to_zero() {
    let mut states = ProducerStates::default();
    states.record(&batch(7, 0, i32::MAX - 1, 2, 0));
    assert_eq!(client(&states, &batch(7, 0, 0, 1, 2)), Check::Fresh);
    states.record(&batch(8, 0, i32::MAX, 2, 10));
    assert_eq!(
        client(&states, &batch(8, 0, 1, 1, 12)),
        Check::Fresh,
        "the last batch itself wrapped"
    );
}

#[test]
fn epochs_fence_and_start_anew() {
    let mut states = ProducerStates::default();
    states.record(&batch(7, 5, 0, 3, 0));
    assert_eq!(
        refused(client(&states, &batch(7, 4, 3, 1, 3))),
        ErrorCode::InvalidProducerEpoch
    );
    assert_eq!(
        refused(client(&states, &batch(7, 6, 3, 1, 3))),
        ErrorCode::OutOfOrderSequenceNumber
    );
    assert_eq!(client(&states, &batch(7, 6, 0, 1, 3)), Check::Fresh);
    states.record(&batch(7, 6, 0, 1, 3));
    assert_eq!(
        refused(client(&states, &batch(7, 5, 0, 3, 4))),
        ErrorCode::InvalidProducerEpoch
    );
    assert_eq!(
        states.check(&batch(7, 5, 0, 3, 4), AppendOrigin::Replication),
        Check::Fresh
    );
}

#[test]
fn a_coordinator_is_checked_by_epoch_only() {
    let mut states = ProducerStates::default();
    states.record(&transactional(batch(7, 1, -1, 1, 0)));
    assert_eq!(
        states.check(&transactional(batch(7, 1, -1, 1, 1)), AppendOrigin::Coordinator),
        Check::Fresh
    );
    let old = states.check(&transactional(batch(7, 0, -1, 1, 1)), AppendOrigin::Coordinator);
    assert_eq!(refused(old), ErrorCode::InvalidProducerEpoch);
}

#[test]
fn a_plain_batch_inside_a_transaction_is_refused() {
    let mut states = ProducerStates::default();
    states.record(&transactional(batch(7, 0, 0, 1, 0)));
    assert_eq!(
        refused(client(&states, &batch(7, 0, 1, 1, 1))),
        ErrorCode::InvalidTxnState
    );
    assert_eq!(
        client(&states, &transactional(batch(7, 0, 1, 1, 1))),
        Check::Fresh
    );
}

#[test]
fn transactions_hold_back_the_stable_offset_until_the_marker_is_replicated() {
    let mut states = ProducerStates::default();
    assert_eq!(states.first_unstable_offset(), None);
    states.record(&transactional(batch(1, 0, 0, 1, 10)));
    states.record(&transactional(batch(2, 0, 0, 1, 11)));
    states.record(&transactional(batch(1, 0, 1, 1, 12)));
    assert_eq!(states.first_unstable_offset(), Some(10));
    let aborted = states.complete_txn(&marker(1, 0, 13), ABORT).unwrap();
    assert_eq!(
        (
            aborted.first_offset,
            aborted.last_offset,
            aborted.last_stable_offset
        ),
        (10, 13, 11)
    );
    assert_eq!(
        states.first_unstable_offset(),
        Some(10),
        "the marker is above the high watermark"
    );
    states.on_high_watermark(13);
    assert_eq!(states.first_unstable_offset(), Some(10));
    states.on_high_watermark(14);
    assert_eq!(states.first_unstable_offset(), Some(11));
    assert_eq!(states.complete_txn(&marker(2, 0, 14), COMMIT), None);
    states.on_high_watermark(15);
    assert_eq!(states.first_unstable_offset(), None);
    assert_eq!(
        states.complete_txn(&marker(2, 0, 15), ABORT),
        None,
        "nothing was open"
    );
}

#[test]
fn markers_are_fenced_by_both_epochs() {
    let mut states = ProducerStates::default();
    states.record(&transactional(batch(1, 3, 0, 1, 0)));
    states.complete_txn(
        &marker(1, 3, 1),
        EndTransactionMarker {
            result: TransactionResult::Commit,
            coordinator_epoch: 4,
        },
    );
    let zombie = EndTransactionMarker {
        result: TransactionResult::Abort,
        coordinator_epoch: 3,
    };
    let current = EndTransactionMarker {
        result: TransactionResult::Abort,
        coordinator_epoch: 4,
    };
    let code = |header: &BatchHeader, marker| states.check_marker(header, marker).map_err(|error| error.code);
    assert_eq!(
        code(&marker(1, 3, 2), zombie),
        Err(ErrorCode::TransactionCoordinatorFenced)
    );
    assert_eq!(
        code(&marker(1, 2, 2), current),
        Err(ErrorCode::InvalidProducerEpoch)
    );
    assert_eq!(code(&marker(1, 3, 2), current), Ok(()));
}

#[test]
fn expiry_spares_open_transactions() {
    let mut states = ProducerStates::default();
    states.record(&batch(1, 0, 0, 1, 0));
    states.record(&batch(2, 0, 0, 1, 5_000));
    states.record(&transactional(batch(3, 0, 0, 1, 1)));
    assert_eq!(states.expire(Now::new(0, 3_000), 1_500), 1);
    assert!(states.get(1).is_none());
    assert_eq!(states.len(), 2);
}

#[test]
fn the_number_of_producers_is_bounded() {
    let mut states = ProducerStates::new(32);
    states.record(&transactional(batch(0, 0, 0, 1, 0)));
    for id in 1..1_000 {
        states.record(&batch(id, 0, 0, 1, id));
        assert!(states.len() <= 32);
    }
    assert!(states.get(0).is_some(), "an open transaction is never forgotten");
    assert!(states.get(999).is_some());
}

#[test]
fn a_snapshot_reads_back() {
    let mut states = ProducerStates::default();
    for index in 0..7 {
        states.record(&batch(1, 0, index, 1, i64::from(index)));
    }
    states.record(&transactional(batch(9, 4, 0, 3, 7)));
    let bytes = states.encode();
    assert_eq!(
        ProducerStates::decode(&bytes, PRODUCERS_MAX),
        Some(states.clone())
    );
    for cut in 0..bytes.len() {
        assert_eq!(
            ProducerStates::decode(&bytes[..cut], PRODUCERS_MAX),
            None,
            "cut at {cut}"
        );
    }
    let described = states.describe();
    assert_eq!((described[0].producer_id, described[0].last_sequence), (1, 6));
    assert_eq!(
        (described[1].producer_epoch, described[1].current_txn_start_offset),
        (4, 7)
    );
}
