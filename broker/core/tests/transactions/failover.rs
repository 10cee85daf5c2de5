//! Another broker takes over: what is in the log goes on, and nothing else.

use odradek_broker_core::transactions::TransactionResponse;
use odradek_broker_core::transactions::metadata::TransactionState;
use odradek_common::error::ErrorCode;

use crate::harness::{
    ABORT, COMMIT, Harness, TIMEOUT_MS, V0, V2, end_request, init_request, partitions, producer,
};

#[test]
fn an_open_transaction_goes_on_and_keeps_its_deadline() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add_in(V2, me, &["a-0"]).unwrap();
    t.advance(59_000);
    let mut next = t.fail_over();
    next.add_in(V2, me, &["a-1"]).unwrap();
    assert_eq!(next.metadata().partitions, partitions(&["a-0", "a-1"]));
    next.advance(1_001);
    assert_eq!(next.state(), TransactionState::CompleteAbort);
    let mut late = t.fail_over();
    late.advance(0);
    assert_eq!(late.state(), TransactionState::Ongoing);
}

#[test]
fn an_end_that_is_in_the_log_is_carried_out_by_the_successor() {
    for (version, result) in [(V0, COMMIT), (V0, ABORT), (V2, COMMIT), (V2, ABORT)] {
        let mut t = Harness::new(version);
        let me = t.init().unwrap();
        t.add_in(version, me, &["a-0", "b-0"]).unwrap();
        t.marks_at_once = false;
        let answer = t.end(version, me, result).unwrap();
        let mut next = t.fail_over();
        assert_eq!(next.markers, t.markers, "told again, in the same epoch");
        let retry = next.end(version, me, result);
        assert_eq!(retry, Err(ErrorCode::ConcurrentTransactions));
        next.mark();
        assert_eq!(
            next.end(version, me, result),
            Ok(answer),
            "version {version} {result:?}"
        );
        assert_eq!(next.add_in(version, answer, &["a-0"]), Ok(()));
    }
}

#[test]
fn an_end_that_is_not_in_the_log_has_not_happened() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add_in(V2, me, &["a-0"]).unwrap();
    t.commits_at_once = false;
    let token = t.send(end_request(V2, me, COMMIT));
    let mut next = t.fail_over();
    t.resign();
    let moved = TransactionResponse::EndTransaction(Err(ErrorCode::NotCoordinator));
    assert_eq!(t.reply(token), Some(moved));
    assert!(next.markers.is_empty());
    assert_eq!(next.state(), TransactionState::Ongoing);
    assert_eq!(next.end(V2, me, COMMIT), Ok(producer(1_001, 1)));
}

#[test]
fn a_completed_end_is_repeated_by_its_epoch() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add_in(V2, me, &["a-0"]).unwrap();
    let answer = t.end(V2, me, COMMIT);
    let mut next = t.fail_over();
    assert!(next.markers.is_empty());
    assert_eq!(next.end(V2, me, COMMIT), answer);
}

#[test]
fn an_end_without_partitions_needs_nobody() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.commits_at_once = false;
    t.send(end_request(V2, me, ABORT));
    t.commit_one();
    let next = t.fail_over();
    assert_eq!(next.state(), TransactionState::CompleteAbort);
}

#[test]
fn requests_are_refused_before_and_after() {
    use odradek_broker_core::coordination::RequestToken;
    use odradek_broker_core::transactions::{TransactionSettings, TransactionShard};
    let t = Harness::new(2);
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut shard = TransactionShard::new(TransactionSettings::default(), logger);
    let ask = |shard: &mut TransactionShard| {
        let effects = shard.handle(t.now, RequestToken(1), init_request(TIMEOUT_MS, None));
        effects.replies[0].1.clone()
    };
    let refused = |code| TransactionResponse::InitProducerId(Err(code));
    assert_eq!(ask(&mut shard), refused(ErrorCode::CoordinatorLoadInProgress));
    shard.finish_loading(t.now);
    shard.resign();
    assert_eq!(ask(&mut shard), refused(ErrorCode::NotCoordinator));
}

#[test]
fn whoever_waits_is_sent_away_when_leadership_moves() {
    let mut t = Harness::new(2);
    t.gives_ids_at_once = false;
    let waits_for_id = t.send(init_request(TIMEOUT_MS, None));
    t.resign();
    let moved = TransactionResponse::InitProducerId(Err(ErrorCode::NotCoordinator));
    assert_eq!(t.reply(waits_for_id), Some(moved));
    t.give_ids();
    assert!(t.under_way.is_empty());
}

#[test]
fn records_that_cannot_be_read_are_left_out() {
    let mut t = Harness::new(2);
    t.init().unwrap();
    let later_value = bytes::Bytes::from_static(&[0, 9, 0]);
    let key = t.log[0].0.clone();
    t.log.push((key, Some(later_value)));
    t.log.push((bytes::Bytes::from_static(&[0, 7]), None));
    let next = t.fail_over();
    assert_eq!(next.shard.skipped_records(), 2);
    assert_eq!(next.metadata().producer(), producer(1_001, 0));
}
