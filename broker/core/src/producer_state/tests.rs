//! Tests of the producer state.

use odradek_common::error::ErrorCode;
use odradek_common::records::batch::BatchHeader;
use odradek_common::time::Now;

use super::verification::{TransactionalBatch, VERIFICATIONS_MAX, VerificationGuard};
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
    let code =
        |header: &BatchHeader, marker| states.check_marker(header, marker, 1).map_err(|error| error.code);
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
fn a_marker_that_raises_the_epoch_ends_no_later_transaction() {
    let mut states = ProducerStates::default();
    states.record(&transactional(batch(1, 3, 0, 1, 0)));
    let code = |states: &ProducerStates, epoch, version| {
        let checked = states.check_marker(&marker(1, epoch, 9), COMMIT, version);
        checked.map_err(|error| error.code)
    };
    let late = Err(ErrorCode::InvalidProducerEpoch);
    assert_eq!(code(&states, 3, 2), late, "a transaction is open in that epoch");
    assert_eq!(code(&states, 3, 1), Ok(()), "earlier versions keep the epoch");
    assert_eq!(code(&states, 4, 2), Ok(()));
    states.complete_txn(&marker(1, 4, 1), COMMIT);
    assert_eq!(code(&states, 4, 2), Ok(()), "the coordinator asks once more");
    assert_eq!(code(&states, 3, 2), late);
    states.record(&transactional(batch(1, 4, 0, 1, 2)));
    assert_eq!(code(&states, 4, 2), late);

    states.record(&transactional(batch(2, i16::MAX, 0, 1, 3)));
    let last = states.check_marker(&marker(2, i16::MAX, 4), ABORT, 2);
    assert_eq!(last, Ok(()), "there is no higher epoch");
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
fn the_producers_that_wrote_last_are_kept_whatever_their_timestamps() {
    let mut states = ProducerStates::new(16);
    let at = |producer_id, offset, timestamp| BatchHeader {
        max_timestamp: timestamp,
        ..batch(producer_id, 0, 0, 1, offset)
    };
    for id in 0..15 {
        states.record(&at(id, id, 1_700_000_000_000));
    }
    let late = at(15, 15, 1);
    states.record(&late);
    states.record(&at(16, 16, 1_700_000_000_000));
    assert!(matches!(client(&states, &late), Check::Duplicate { .. }));
    assert!(states.get(0).is_none(), "its last batch is the oldest");
    // A marker counts as well, also one that leaves no batch because it raises the epoch, and after a restart.
    states.complete_txn(&marker(1, 1, 17), COMMIT);
    let mut states = ProducerStates::decode(&states.encode(), 16).unwrap();
    states.record(&at(17, 18, 1_700_000_000_000));
    assert!(states.get(1).is_some());
    assert!(states.get(2).is_none());
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

#[test]
fn a_snapshot_from_before_the_last_offset_was_kept_has_that_of_the_last_batch() {
    let mut states = ProducerStates::default();
    states.record(&batch(1, 0, 0, 3, 40));
    let mut bytes = states.encode();
    bytes[0] = 1;
    // Behind version, count, id, both epochs and the timestamp.
    let last_offset: Vec<u8> = bytes.drain(27..35).collect();
    assert_eq!(last_offset, 42_i64.to_be_bytes());
    assert_eq!(ProducerStates::decode(&bytes, PRODUCERS_MAX), Some(states));
}

fn wants(epoch: i16, base_sequence: i32, raises_epoch: bool) -> TransactionalBatch {
    TransactionalBatch {
        producer_id: 1,
        producer_epoch: epoch,
        base_sequence,
        raises_epoch,
    }
}

fn begin(states: &mut ProducerStates, batch: TransactionalBatch) -> Option<VerificationGuard> {
    states.begin_verification(Now::new(0, 1_000), batch).unwrap()
}

fn verified(states: &ProducerStates, header: &BatchHeader, guard: Option<VerificationGuard>) -> Check {
    states.check_verified(header, AppendOrigin::Client, Verification::Required(guard))
}

#[test]
fn a_transaction_begins_with_the_guard_that_was_handed_out_for_it() {
    let mut states = ProducerStates::default();
    let first = transactional(batch(1, 0, 0, 1, 0));
    assert_eq!(
        refused(verified(&states, &first, None)),
        ErrorCode::InvalidTxnState
    );
    let guard = begin(&mut states, wants(0, 0, false));
    assert!(guard.is_some());
    assert_eq!(begin(&mut states, wants(0, 0, false)), guard, "the same wait");
    assert_eq!(
        refused(verified(&states, &first, None)),
        ErrorCode::InvalidTxnState
    );
    assert_eq!(verified(&states, &first, guard), Check::Fresh);
    states.record(&first);
    assert_eq!(
        begin(&mut states, wants(0, 1, false)),
        None,
        "the transaction is open"
    );
    assert_eq!(
        verified(&states, &transactional(batch(1, 0, 1, 1, 1)), None),
        Check::Fresh
    );
    assert!(
        matches!(verified(&states, &first, None), Check::Duplicate { .. }),
        "it is in the log already"
    );
    assert_eq!(
        verified(&states, &batch(9, 0, 0, 1, 1), None),
        Check::Fresh,
        "outside of transactions nobody asks"
    );
}

#[test]
fn a_marker_makes_guards_void() {
    let mut states = ProducerStates::default();
    let guard = begin(&mut states, wants(0, 0, false));
    states.complete_txn(&marker(1, 0, 0), ABORT);
    let late = transactional(batch(1, 0, 0, 1, 1));
    assert_eq!(
        refused(verified(&states, &late, guard)),
        ErrorCode::InvalidTxnState,
        "the transaction ended while its coordinator was asked"
    );
    let guard = begin(&mut states, wants(0, 0, false));
    assert_eq!(verified(&states, &late, guard), Check::Fresh);
}

#[test]
fn verification_is_refused_to_earlier_epochs() {
    let mut states = ProducerStates::default();
    states.record(&transactional(batch(1, 3, 0, 1, 0)));
    let late = states.begin_verification(Now::default(), wants(2, 0, false));
    assert_eq!(late.unwrap_err().code, ErrorCode::InvalidProducerEpoch);
    assert!(
        begin(&mut states, wants(4, 0, false)).is_some(),
        "the open one is of an earlier epoch"
    );
}

#[test]
fn nothing_is_appended_behind_a_batch_that_waits() {
    let mut states = ProducerStates::default();
    let guard = begin(&mut states, wants(0, 5, false));
    begin(&mut states, wants(0, 3, false));
    let at = |sequence| transactional(batch(1, 0, sequence, 1, 0));
    assert_eq!(
        refused(verified(&states, &at(5), guard)),
        ErrorCode::OutOfOrderSequenceNumber
    );
    assert_eq!(verified(&states, &at(3), guard), Check::Fresh);
    begin(&mut states, wants(1, 7, false));
    let next_epoch = transactional(batch(1, 1, 7, 1, 0));
    assert_eq!(
        verified(&states, &next_epoch, guard),
        Check::Fresh,
        "another epoch begins anew"
    );
}

#[test]
fn where_ends_raise_the_epoch_a_transaction_begins_with_its_first_record() {
    let mut states = ProducerStates::default();
    let guard = begin(&mut states, wants(0, 4, true));
    let at = |sequence| transactional(batch(1, 0, sequence, 1, 0));
    assert_eq!(
        refused(verified(&states, &at(4), guard)),
        ErrorCode::OutOfOrderSequenceNumber
    );
    assert_eq!(verified(&states, &at(0), guard), Check::Fresh);
    states.record(&at(0));
    assert_eq!(verified(&states, &at(1), None), Check::Fresh);
}

#[test]
fn verifications_are_bounded_and_expire() {
    let mut states = ProducerStates::default();
    for producer_id in 0..VERIFICATIONS_MAX as i64 + 5 {
        let batch = TransactionalBatch {
            producer_id,
            ..wants(0, 0, false)
        };
        states
            .begin_verification(Now::new(0, 1_000 + producer_id), batch)
            .unwrap();
    }
    assert_eq!(states.verifications.len(), VERIFICATIONS_MAX);
    assert!(!states.verifications.contains_key(&0), "the oldest ones go");
    states.expire(Now::new(0, 1_000 + VERIFICATIONS_MAX as i64), 10);
    assert_eq!(states.verifications.len(), 14);
}

#[test]
fn a_transaction_is_late_when_no_coordinator_can_know_of_it() {
    let mut states = ProducerStates::default();
    assert!(!states.has_late_transaction(Now::new(0, i64::MAX), 0));
    states.record(&transactional(batch(1, 0, 0, 1, 10)));
    states.record(&transactional(batch(2, 0, 0, 1, 500_000)));
    assert_eq!(states.open_transactions(), 2);
    // The batches' timestamps are 1,010 and 501,000.
    let late_at = 1_010 + 60_000 + 5 * 60_000;
    assert!(!states.has_late_transaction(Now::new(0, late_at), 60_000));
    assert!(states.has_late_transaction(Now::new(0, late_at + 1), 60_000));
    states.complete_txn(&marker(1, 0, 500_001), ABORT);
    assert!(!states.has_late_transaction(Now::new(0, late_at + 1), 60_000));
}
