//! Idempotence and transactions through appends, restarts and truncation.

use odradek_common::records::control::{EndTransactionMarker, TransactionResult};

use super::*;
use crate::error::AppendError;

fn marker(result: TransactionResult, producer_id: i64) -> Bytes {
    EndTransactionMarker {
        result,
        coordinator_epoch: 0,
    }
    .to_batch(NOW.wall_ms, producer_id, 0)
}

fn refusal(fixture: &mut Fixture, batch: Bytes) -> i16 {
    match append_one(&mut fixture.log, 1, &batch, AppendOrigin::Client) {
        Err(AppendError::Refused(error)) => error.code(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn the_window_of_five_survives_a_clean_stop_and_a_kill() {
    let mut fixture = Fixture::new();
    for sequence in 0..6 {
        fixture.append_batch(1, producer_batch(7, 0, sequence, false));
    }
    fixture.log.checkpoint(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    fixture.append_batch(1, producer_batch(7, 0, 6, false));
    let mut killed = fixture.kill();
    let mut restarted = fixture.restart();
    for fixture in [&mut killed, &mut restarted] {
        let duplicate = fixture.append_batch(1, producer_batch(7, 0, 3, false));
        assert!(duplicate.duplicate);
        assert_eq!((duplicate.first_offset, duplicate.last_offset), (3, 3));
        assert_eq!(duplicate.log_append_time, NOW.wall_ms);
        assert_eq!(fixture.log.log_end_offset(), 7);
        assert_eq!(
            refusal(fixture, producer_batch(7, 0, 1, false)),
            45,
            "older than the window"
        );
        assert_eq!(refusal(fixture, producer_batch(7, 0, 8, false)), 45);
        assert!(!fixture.append_batch(1, producer_batch(7, 0, 7, false)).duplicate);
    }
}

#[test]
fn a_stable_offset_waits_for_the_marker() {
    let mut fixture = Fixture::new();
    fixture.append(2);
    fixture.append_batch(1, producer_batch(7, 0, 0, true));
    fixture.append(1);
    assert_eq!(
        (fixture.log.last_stable_offset(), fixture.log.high_watermark()),
        (2, 4)
    );
    let mut killed = fixture.kill();
    killed.log.set_high_watermark(4);
    assert_eq!(killed.log.last_stable_offset(), 2);
    let mut restarted = fixture.restart();
    assert_eq!(restarted.log.last_stable_offset(), 2);
    for fixture in [&mut killed, &mut restarted] {
        fixture.append_batch(1, marker(TransactionResult::Abort, 7));
        assert_eq!(fixture.log.last_stable_offset(), 5);
        let aborted = fixture.log.aborted_transactions(0, 5);
        assert_eq!(
            (
                aborted[0].producer_id,
                aborted[0].first_offset,
                aborted[0].last_offset
            ),
            (7, 2, 4)
        );
    }
    assert_eq!(restarted.kill().log.aborted_transactions(0, 5).len(), 1);
    assert_eq!(restarted.restart().log.aborted_transactions(0, 5).len(), 1);
}

#[test]
fn truncation_reopens_the_transaction_whose_marker_it_removes() {
    let mut fixture = Fixture::with(small_segments());
    for sequence in 0..20 {
        fixture.append_batch(1, producer_batch(7, 0, sequence, true));
    }
    fixture.append_batch(1, marker(TransactionResult::Abort, 7));
    fixture.append_batch(1, marker(TransactionResult::Commit, 7));
    fixture.log.checkpoint(NOW).unwrap();
    assert_eq!(fixture.log.aborted_transactions(0, 22).len(), 1);
    fixture.log.truncate_to(NOW, 20).unwrap();
    assert!(fixture.log.aborted_transactions(0, 22).is_empty());
    assert_eq!(fixture.log.last_stable_offset(), 0);
    assert_eq!(fixture.log.producers().get(7).unwrap().last_sequence(), 19);
    let mut killed = fixture.kill();
    assert!(killed.log.aborted_transactions(0, 22).is_empty());
    killed.append_batch(1, marker(TransactionResult::Commit, 7));
    assert_eq!(killed.log.last_stable_offset(), 21);
    assert!(killed.restart().log.aborted_transactions(0, 22).is_empty());
}

#[test]
fn a_snapshot_of_what_was_cut_is_not_believed_later() {
    let mut fixture = Fixture::with(small_segments());
    for sequence in 0..30 {
        fixture.append_batch(1, producer_batch(7, 0, sequence, false));
    }
    fixture.log.truncate_to(NOW, 5).unwrap();
    for sequence in 0..30 {
        fixture.append_batch(2, producer_batch(8, 0, sequence, false));
    }
    fixture.log.truncate_to(NOW, 33).unwrap();
    assert_eq!(fixture.log.producers().get(7).unwrap().last_sequence(), 4);
    assert_eq!(fixture.log.producers().get(8).unwrap().last_sequence(), 27);
    let killed = fixture.kill();
    assert_eq!(killed.log.producers().get(7).unwrap().last_sequence(), 4);
    assert_eq!(killed.log.producers().get(8).unwrap().last_sequence(), 27);
}

#[test]
fn producers_expire() {
    let mut fixture = Fixture::with(LogConfig {
        producer_id_expiration_ms: 10,
        ..LogConfig::default()
    });
    fixture.append_batch(1, producer_batch(7, 0, 5, false));
    assert_eq!(fixture.log.expire_producers(NOW), 0);
    assert_eq!(fixture.log.expire_producers(NOW.plus_ms(10)), 1);
    assert!(
        !fixture.append_batch(1, producer_batch(7, 0, 99, false)).duplicate,
        "unknown again: any sequence"
    );
}

#[test]
fn a_damaged_marker_is_refused_before_anything_is_written() {
    let mut fixture = Fixture::new();
    let mut bytes = marker(TransactionResult::Abort, 7).to_vec();
    bytes.truncate(62);
    bytes[8..12].copy_from_slice(&50i32.to_be_bytes());
    let refused = append_one(&mut fixture.log, 1, &bytes, AppendOrigin::Coordinator);
    assert!(matches!(refused, Err(AppendError::Corrupt(_))));
    assert_eq!(fixture.log.log_end_offset(), 0);
}

#[test]
fn an_abort_before_a_roll_is_known_after_a_kill() {
    let mut fixture = Fixture::new();
    fixture.append_batch(1, producer_batch(7, 0, 0, false));
    fixture.log.checkpoint(NOW).unwrap();
    fixture.append_batch(1, producer_batch(9, 0, 0, true));
    fixture.append_batch(1, marker(TransactionResult::Abort, 9));
    // The producers at the border of the segments are written down, and recovery begins there.
    fixture.log.roll(NOW).unwrap();
    fixture.directory.flush_index().unwrap();
    fixture.append(1);
    let aborted = fixture.log.aborted_transactions(0, i64::MAX);
    assert_eq!(aborted.len(), 1);
    assert_eq!(fixture.kill().log.aborted_transactions(0, i64::MAX), aborted);
}
