//! Timeouts of transactions and the expiry of transactional ids.

use odradek_broker_core::transactions::metadata::{TransactionMetadata, TransactionState};
use odradek_common::error::ErrorCode;

use crate::harness::{ABORT, COMMIT, Harness, ID, TIMEOUT_MS, V2, partitions, producer, text, with_metadata};

const WEEK_MS: u64 = 7 * 24 * 60 * 60_000;

#[test]
fn a_transaction_that_is_open_for_too_long_is_aborted_in_an_epoch_of_its_own() {
    for version in [0, 1, 2] {
        let mut t = Harness::new(version);
        let me = t.init().unwrap();
        t.add(me, &["a-0"]).unwrap();
        t.advance(30_000);
        t.add(me, &["a-1"]).unwrap();
        t.advance(30_000);
        assert_eq!(
            t.state(),
            TransactionState::Ongoing,
            "its time is counted from its beginning"
        );
        t.advance(1);
        assert_eq!(t.state(), TransactionState::CompleteAbort, "version {version}");
        let markers = t.handed_out.last().unwrap();
        assert_eq!((markers.result, markers.producer), (ABORT, producer(1_001, 1)));
        assert_eq!(markers.partitions, partitions(&["a-0", "a-1"]));
        assert_eq!(t.add(me, &["a-0"]), Err(ErrorCode::ProducerFenced));
    }
}

#[test]
fn a_transaction_that_ended_does_not_time_out() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add_in(V2, me, &["a-0"]).unwrap();
    t.end(V2, me, COMMIT).unwrap();
    t.advance(10 * 60_000);
    assert_eq!(t.state(), TransactionState::CompleteCommit);
}

#[test]
fn the_largest_timeout_never_comes() {
    let open = TransactionMetadata {
        producer_epoch: 0,
        state: TransactionState::Ongoing,
        partitions: partitions(&["a-0"]),
        start_timestamp_ms: 1_700_000_000_000,
        last_update_timestamp_ms: 1_700_000_000_000,
        ..TransactionMetadata::new(7, i32::MAX)
    };
    let mut t = with_metadata(2, open);
    t.advance(30 * 24 * 60 * 60_000);
    assert_eq!(t.state(), TransactionState::Ongoing);
}

#[test]
fn an_abort_that_the_log_refuses_is_tried_again() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add(me, &["a-0"]).unwrap();
    t.commits_at_once = false;
    t.advance(60_001);
    t.fail(ErrorCode::NotEnoughReplicas);
    assert!(t.under_way.is_empty(), "not at once");
    t.advance(t.settings.abort_timed_out_interval_ms);
    t.commit();
    assert_eq!(t.state(), TransactionState::CompleteAbort);
}

#[test]
fn another_record_that_the_log_refuses_does_not_put_the_abort_off() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add(me, &["a-0"]).unwrap();
    t.advance(59_000);
    t.commits_at_once = false;
    t.send(crate::harness::add_request(0, me, &["a-1"]));
    t.fail(ErrorCode::NotEnoughReplicas);
    t.commits_at_once = true;
    t.advance(1_001);
    assert_eq!(t.state(), TransactionState::CompleteAbort);
}

#[test]
fn an_abort_that_wants_a_producer_id_waits_for_one() {
    let open = TransactionMetadata {
        producer_epoch: i16::MAX - 1,
        state: TransactionState::Ongoing,
        partitions: partitions(&["a-0"]),
        start_timestamp_ms: 1_700_000_000_000,
        last_update_timestamp_ms: 1_700_000_000_000,
        ..TransactionMetadata::new(7, TIMEOUT_MS)
    };
    let mut t = with_metadata(2, open);
    t.gives_ids_at_once = false;
    t.advance(60_001);
    t.give_id(Some(ErrorCode::CoordinatorLoadInProgress));
    assert_eq!(t.state(), TransactionState::Ongoing);
    t.advance(t.settings.abort_timed_out_interval_ms);
    t.give_ids();
    assert_eq!(t.state(), TransactionState::CompleteAbort);
    assert_eq!(t.metadata().producer(), producer(1_001, 0));
}

#[test]
fn a_record_on_its_way_holds_the_timeout_up_but_not_for_good() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add(me, &["a-0"]).unwrap();
    t.commits_at_once = false;
    t.send(crate::harness::add_request(0, me, &["a-1"]));
    t.advance(70_000);
    assert_eq!(t.state(), TransactionState::Ongoing);
    t.commits_at_once = true;
    t.commit();
    t.advance(1);
    assert_eq!(t.state(), TransactionState::CompleteAbort);
}

#[test]
fn ids_that_nobody_uses_are_forgotten() {
    let mut t = Harness::new(2);
    t.init().unwrap();
    t.advance(WEEK_MS - 3_600_000);
    assert_eq!(t.state(), TransactionState::Empty);
    t.advance(2 * 3_600_000);
    assert!(t.shard.replicated().get(&text(ID)).is_none());
    assert_eq!(t.log.last().unwrap().1, None, "a tombstone");
    assert_eq!(t.init(), Ok(producer(1_002, 0)));
}

#[test]
fn ids_with_an_open_transaction_are_not_forgotten() {
    let mut t = Harness::new(2);
    let me = t.init_with(900_000, None).unwrap();
    t.add_in(V2, me, &["a-0"]).unwrap();
    t.marks_at_once = false;
    t.end(V2, me, COMMIT).unwrap();
    t.advance(2 * WEEK_MS);
    assert_eq!(
        t.state(),
        TransactionState::PrepareCommit,
        "its partitions do not know yet"
    );
}

#[test]
fn an_id_is_in_transition_while_it_is_being_forgotten() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.commits_at_once = false;
    t.advance(WEEK_MS + 3_600_000);
    assert_eq!(t.under_way.len(), 1);
    assert_eq!(t.add(me, &["a-0"]), Err(ErrorCode::ConcurrentTransactions));
    t.fail(ErrorCode::NotEnoughReplicas);
    t.commits_at_once = true;
    assert_eq!(t.add(me, &["a-0"]), Ok(()), "the tombstone was not written");
}
