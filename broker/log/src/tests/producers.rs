//! Idempotence and transactions through appends, restarts and truncation.

use odradek_broker_core::aborted::AbortedTransaction;
use odradek_common::records::control::{EndTransactionMarker, TransactionResult};

use super::*;
use crate::error::AppendError;
use crate::store::Kind;

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
fn a_snapshot_above_the_recovery_point_is_not_believed_after_a_kill() {
    let mut fixture = Fixture::with(small_segments());
    fixture.append_batch(1, producer_batch(7, 0, 0, false));
    fixture.log.checkpoint(NOW).unwrap();
    for sequence in 0..30 {
        fixture.append_batch(1, producer_batch(8, 0, sequence, false));
    }
    // The snapshots of what is cut off are on disk, and that it was cut off is not.
    fixture.directory.flush_index().unwrap();
    fixture.log.truncate_to(NOW, 1).unwrap();
    let mut at_the_recovery_point = fixture.kill();
    // Batches of another size, so that segments begin elsewhere.
    (0..30).for_each(|_| _ = fixture.append(2));
    let mut behind_it = fixture.kill();
    (0..30).for_each(|_| _ = at_the_recovery_point.append(2));
    for killed in [&mut at_the_recovery_point, &mut behind_it] {
        assert_eq!(killed.log.log_end_offset(), 61);
        for base in killed.log.segments.range(2..).map(|(base, _)| *base) {
            let key = killed.log.key.key(Kind::ProducerSnapshot, &[base]);
            let snapshot = killed.directory.shared.store.get(&key).unwrap();
            assert!(snapshot.is_some(), "truncation starts from the border at {base}");
        }
        for cut in (1..=61).rev() {
            killed.log.truncate_to(NOW, cut).unwrap();
            assert_eq!(killed.log.producers().get(8), None, "cut at {cut}");
            assert_eq!(killed.log.producers().get(7).unwrap().last_sequence(), 0);
        }
    }
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

#[test]
fn an_abort_that_was_cut_off_is_forgotten_after_a_kill() {
    let mut fixture = Fixture::new();
    fixture.append(1);
    fixture.log.checkpoint(NOW).unwrap();
    let abort = |fixture: &mut Fixture| {
        fixture.append_batch(1, producer_batch(9, 0, 0, true));
        fixture.append_batch(1, marker(TransactionResult::Abort, 9));
    };
    abort(&mut fixture);
    fixture.log.roll(NOW).unwrap();
    // That it was aborted is on disk, and that it was cut off is not.
    fixture.directory.flush_index().unwrap();
    fixture.log.truncate_to(NOW, 1).unwrap();
    let mut killed = fixture.kill();
    assert_eq!(killed.log.log_end_offset(), 1);
    assert!(killed.log.aborted_transactions(0, i64::MAX).is_empty());
    assert!(killed.kill().log.aborted_transactions(0, i64::MAX).is_empty());
    abort(&mut killed);
    assert_eq!(killed.log.aborted_transactions(0, i64::MAX).len(), 1);
}

#[test]
fn what_is_written_is_within_the_log_s_end_even_if_an_assertion_fails() {
    let mut fixture = Fixture::new();
    fixture.append_batch(1, producer_batch(9, 0, 0, true));
    fixture.log.aborted.push(AbortedTransaction {
        producer_id: 9,
        first_offset: 0,
        last_offset: 7,
        last_stable_offset: 8,
    });
    let marker = marker(TransactionResult::Abort, 9);
    let appended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        append_one(&mut fixture.log, 1, &marker, AppendOrigin::Coordinator).map(|_| ())
    }));
    assert!(appended.is_err(), "a later abort is known already");
    assert_eq!(fixture.log.log_end_offset(), 2);
    assert_eq!(fixture.append(1).first_offset, 2);
    assert_eq!(fixture.contents().last().unwrap().0, 2);
}

#[test]
fn deleting_records_within_an_open_transaction_leaves_it_open() {
    let mut fixture = Fixture::new();
    fixture.append_batch(1, producer_batch(7, 0, 0, true));
    fixture.append(3);
    fixture.append_batch(1, producer_batch(7, 0, 1, true));
    fixture.log.delete_records_before(2).unwrap();
    assert_eq!(
        fixture.log.last_stable_offset(),
        2,
        "nothing of it may be read, and nothing below is there"
    );
    let mut restarted = fixture.restart();
    assert_eq!(restarted.log.last_stable_offset(), 2);
    restarted.append_batch(1, marker(TransactionResult::Abort, 7));
    assert_eq!(restarted.log.last_stable_offset(), 6);
    let aborted = restarted.log.aborted_transactions(2, 6);
    assert_eq!((aborted.len(), aborted[0].first_offset), (1, 0));
    restarted.log.delete_records_before(6).unwrap();
    assert!(restarted.log.aborted_transactions(0, 6).is_empty());
}

#[test]
fn retention_goes_on_under_an_open_transaction() {
    let mut fixture = Fixture::with(LogConfig {
        retention_bytes: 1,
        ..small_segments()
    });
    for sequence in 0..30 {
        fixture.append_batch(1, producer_batch(7, 0, sequence, true));
    }
    assert!(fixture.log.retention(NOW).unwrap() > 0);
    let start = fixture.log.log_start_offset();
    assert!(start > 0);
    assert_eq!(fixture.log.last_stable_offset(), start);
    fixture.append_batch(1, marker(TransactionResult::Commit, 7));
    assert_eq!(fixture.log.last_stable_offset(), 31);
}

#[test]
fn a_follower_knows_of_transactions_what_its_leader_knows() {
    let mut leader = Fixture::new();
    leader.append_batch(1, producer_batch(7, 0, 0, true));
    leader.append_batch(1, producer_batch(8, 0, 0, true));
    leader.append_batch(1, producer_batch(9, 0, 0, false));
    leader.append_batch(1, marker(TransactionResult::Abort, 7));
    leader.append_batch(1, producer_batch(7, 0, 1, true));
    let slice = leader
        .log
        .read_plan(0, 1 << 20, i64::MAX, MinOneBatch::Yes)
        .unwrap();
    let mut follower = Fixture::new();
    as_follower(&mut follower.log, &slice.read().unwrap()).unwrap();
    assert_eq!(follower.log.last_stable_offset(), 0);
    follower.log.set_high_watermark(5);
    assert_eq!(follower.log.last_stable_offset(), 1);
    assert_eq!(
        follower.log.producers().describe(),
        leader.log.producers().describe()
    );
    assert_eq!(
        follower.log.aborted_transactions(0, 5),
        leader.log.aborted_transactions(0, 5)
    );
    follower.append_batch(2, marker(TransactionResult::Commit, 8));
    assert_eq!(follower.log.last_stable_offset(), 4, "it goes on as the leader");
}

#[test]
fn a_kill_after_a_checkpoint_of_sealed_segments_loses_no_record_and_no_producer() {
    let mut fixture = Fixture::with(small_segments());
    fixture.append_batch(1, producer_batch(9, 0, 0, true));
    fixture.append_batch(1, marker(TransactionResult::Abort, 9));
    for sequence in 0..30 {
        fixture.append_batch(1, producer_batch(7, 0, sequence, false));
    }
    fixture.append_batch(1, producer_batch(9, 0, 1, true));
    let plan = fixture.log.periodic_checkpoint_plan(NOW).unwrap().unwrap();
    plan.sync().unwrap();
    let border = fixture.log.active_segment_base_offset();
    // What comes meanwhile: another segment, the end of the transaction, and one that stays open.
    fixture.append_batch(1, marker(TransactionResult::Abort, 9));
    for sequence in 30..45 {
        fixture.append_batch(1, producer_batch(7, 0, sequence, false));
    }
    fixture.append_batch(1, producer_batch(10, 0, 0, true));
    assert!(fixture.log.active_segment_base_offset() > border);
    fixture.log.complete_flush(plan).unwrap();
    assert_eq!(fixture.log.recovery_point(), border);
    fixture.directory.flush_index().unwrap();
    let mut killed = fixture.kill();
    let report = killed.log.take_recovery_report().unwrap();
    assert_eq!(report.scanned_bytes, fixture.log.uncheckpointed_bytes());
    assert!(report.scanned_bytes < fixture.log.size_bytes() && !report.index_rebuilt);
    for killed in [&killed, &killed.kill()] {
        assert_eq!(killed.contents(), fixture.contents());
        assert_eq!(killed.log.producers().encode(), fixture.log.producers().encode());
        assert_eq!(killed.log.epochs(), fixture.log.epochs());
        let aborted = |fixture: &Fixture| fixture.log.aborted_transactions(0, i64::MAX);
        assert_eq!(aborted(killed).len(), 2);
        assert_eq!(aborted(killed), aborted(&fixture));
    }
}
