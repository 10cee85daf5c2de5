//! EndTxn: below version 2 by the state, from version 2 on by the epoch.

use odradek_broker_core::transactions::TransactionResponse;
use odradek_broker_core::transactions::metadata::{TransactionMetadata, TransactionState};
use odradek_common::error::ErrorCode;
use odradek_common::records::control::TransactionResult;

use crate::harness::{
    ABORT, COMMIT, Harness, TIMEOUT_MS, V0, V2, end_request, partitions, producer, with_metadata,
};

fn ended_state(result: TransactionResult) -> TransactionState {
    match result {
        TransactionResult::Commit => TransactionState::CompleteCommit,
        TransactionResult::Abort => TransactionState::CompleteAbort,
    }
}

fn metadata(state: TransactionState, epoch: i16) -> TransactionMetadata {
    TransactionMetadata {
        producer_epoch: epoch,
        state,
        start_timestamp_ms: 1_700_000_000_000,
        last_update_timestamp_ms: 1_700_000_000_000,
        client_transaction_version: 2,
        ..TransactionMetadata::new(7, TIMEOUT_MS)
    }
}

#[test]
fn below_version_2_the_producer_keeps_its_epoch() {
    for result in [COMMIT, ABORT] {
        let mut t = Harness::new(1);
        let me = t.init().unwrap();
        for round in 0..3 {
            t.add(me, &["a-0", "b-3"]).unwrap();
            assert_eq!(t.end(V0, me, result), Ok(me), "round {round}");
            assert_eq!(t.state(), ended_state(result));
            assert_eq!(t.end(V0, me, result), Ok(me), "a retry is no error");
            let other = if result == COMMIT { ABORT } else { COMMIT };
            assert_eq!(t.end(V0, me, other), Err(ErrorCode::InvalidTxnState));
        }
        assert_eq!(t.handed_out.len(), 3);
        assert!(
            t.handed_out
                .iter()
                .all(|markers| markers.producer == me && markers.result == result)
        );
    }
}

#[test]
fn below_version_2_nothing_cannot_be_ended() {
    let mut t = Harness::new(1);
    assert_eq!(
        t.end(V0, producer(1, 0), COMMIT),
        Err(ErrorCode::InvalidProducerIdMapping)
    );
    let me = t.init().unwrap();
    for result in [COMMIT, ABORT] {
        assert_eq!(t.end(V0, me, result), Err(ErrorCode::InvalidTxnState));
    }
    assert_eq!(
        t.end(V0, producer(9, 0), COMMIT),
        Err(ErrorCode::InvalidProducerIdMapping)
    );
    for epoch in [-1, 1] {
        let other = producer(me.producer_id, epoch);
        assert_eq!(
            t.end(V0, other, COMMIT),
            Err(ErrorCode::ProducerFenced),
            "epoch {epoch}"
        );
    }
}

#[test]
fn in_version_2_every_end_takes_the_next_epoch() {
    let mut t = Harness::new(2);
    let mut me = t.init().unwrap();
    for epoch in 1..4 {
        t.add_in(V2, me, &["a-0"]).unwrap();
        let next = t.end(V2, me, COMMIT);
        assert_eq!(next, Ok(producer(1_001, epoch)));
        assert_eq!(t.end(V2, me, COMMIT), next, "a retry is told by its epoch");
        let marked = t.handed_out.last().unwrap();
        assert_eq!((marked.producer.epoch, marked.transaction_version), (epoch, 2));
        me = next.unwrap();
    }
    assert_eq!(t.handed_out.len(), 3);
}

/// Kafka's table of what an end means when no transaction is under way, in version 2: of a retry, and of the current epoch. A commit
/// that comes after the coordinator's own abort looks like a retry: its producer is fenced (KAFKA-20785).
#[test]
fn in_version_2_ends_of_nothing_follow_the_table() {
    let fenced = Err(ErrorCode::ProducerFenced);
    let wrong = Err(ErrorCode::InvalidTxnState);
    let repeated = Ok(producer(7, 5));
    let next = Ok(producer(7, 6));
    let table = [
        (TransactionState::Empty, ABORT, fenced, next),
        (TransactionState::Empty, COMMIT, fenced, wrong),
        (TransactionState::CompleteAbort, ABORT, repeated, next),
        (TransactionState::CompleteAbort, COMMIT, fenced, wrong),
        (TransactionState::CompleteCommit, ABORT, wrong, next),
        (TransactionState::CompleteCommit, COMMIT, repeated, wrong),
    ];
    for (state, result, of_retry, of_current) in table {
        let mut t = with_metadata(2, metadata(state, 5));
        assert_eq!(
            t.end(V2, producer(7, 4), result),
            of_retry,
            "retry of {result:?} in {state:?}"
        );
        assert_eq!(
            t.end(V2, producer(7, 5), result),
            of_current,
            "{result:?} in {state:?}"
        );
        assert!(t.handed_out.is_empty(), "there is nobody to tell");
        for epoch in [3, 7] {
            assert_eq!(
                t.end(V2, producer(7, epoch), result),
                fenced,
                "epoch {epoch} in {state:?}"
            );
        }
    }
}

#[test]
fn aborting_nothing_leaves_a_beginning_and_an_end() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.end(V2, me, ABORT).unwrap();
    assert_eq!(t.state(), TransactionState::CompleteAbort);
    assert_eq!(t.metadata().start_timestamp_ms, t.now.wall_ms);
}

#[test]
fn the_last_epoch_ends_with_a_new_producer_id() {
    let open = TransactionMetadata {
        partitions: partitions(&["a-0"]),
        ..metadata(TransactionState::Ongoing, i16::MAX - 1)
    };
    let mut t = with_metadata(2, open);
    let last = producer(7, i16::MAX - 1);
    t.marks_at_once = false;
    assert_eq!(t.end(V2, last, COMMIT), Ok(producer(1_001, 0)));
    assert_eq!(t.metadata().next_producer_id, 1_001);
    assert_eq!(t.markers[0].producer, producer(7, i16::MAX));
    assert_eq!(t.end(V2, last, COMMIT), Err(ErrorCode::ConcurrentTransactions));
    let next = producer(1_001, 0);
    assert_eq!(
        t.add_in(V2, next, &["a-0"]),
        Err(ErrorCode::ConcurrentTransactions),
        "not in force yet"
    );
    t.mark();
    assert_eq!(t.metadata().producer(), next);
    assert_eq!(t.metadata().previous_producer_id, 7);
    assert_eq!(t.end(V2, last, COMMIT), Ok(next), "a retry");
    assert_eq!(t.add_in(V2, next, &["a-0"]), Ok(()));
    assert_eq!(
        t.end(V2, last, COMMIT),
        Err(ErrorCode::InvalidProducerIdMapping),
        "too late for a retry"
    );
}

#[test]
fn the_client_is_answered_once_the_end_is_in_the_log_and_the_rest_waits_for_the_markers() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add_in(V2, me, &["a-0", "a-1"]).unwrap();
    t.commits_at_once = false;
    t.marks_at_once = false;
    let token = t.send(end_request(V2, me, COMMIT));
    assert_eq!(t.reply(token), None);
    assert!(t.markers.is_empty(), "nobody is told before it is certain");
    assert_eq!(t.end(V2, me, COMMIT), Err(ErrorCode::ConcurrentTransactions));
    t.commit();
    let next = producer(1_001, 1);
    assert_eq!(
        t.reply(token),
        Some(TransactionResponse::EndTransaction(Ok(next)))
    );
    t.commits_at_once = true;
    assert_eq!(
        t.add_in(V2, next, &["a-0"]),
        Err(ErrorCode::ConcurrentTransactions)
    );
    assert_eq!(t.init(), Err(ErrorCode::ConcurrentTransactions));
    let one: Vec<_> = partitions(&["a-0"]).into_iter().collect();
    let id = crate::harness::text(crate::harness::ID);
    let effects = t.shard.on_marked(t.now, &id, next, &one);
    t.take(effects);
    assert_eq!(
        t.state(),
        TransactionState::PrepareCommit,
        "one partition does not know"
    );
    t.mark();
    assert_eq!(t.state(), TransactionState::CompleteCommit);
    assert_eq!(t.add_in(V2, next, &["a-0"]), Ok(()));
}

#[test]
fn an_end_that_the_log_refuses_can_be_asked_for_again() {
    for version in [V0, V2] {
        let mut t = Harness::new(version);
        let me = t.init().unwrap();
        t.add_in(version, me, &["a-0"]).unwrap();
        t.commits_at_once = false;
        let token = t.send(end_request(version, me, COMMIT));
        t.fail(ErrorCode::NotEnoughReplicas);
        let refused = TransactionResponse::EndTransaction(Err(ErrorCode::CoordinatorNotAvailable));
        assert_eq!(t.reply(token), Some(refused));
        assert!(t.markers.is_empty());
        t.commits_at_once = true;
        assert!(t.end(version, me, COMMIT).is_ok());
        assert_eq!(t.state(), TransactionState::CompleteCommit);
    }
}

#[test]
fn that_it_is_complete_is_written_until_the_log_takes_it() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add_in(V2, me, &["a-0"]).unwrap();
    t.marks_at_once = false;
    let next = t.end(V2, me, COMMIT).unwrap();
    t.commits_at_once = false;
    t.mark();
    t.fail(ErrorCode::NotEnoughReplicas);
    assert_eq!(t.end(V2, me, COMMIT), Err(ErrorCode::ConcurrentTransactions));
    t.advance(1_000);
    assert_eq!(t.under_way.len(), 1);
    t.commit();
    assert_eq!(t.metadata().producer(), next);
    assert_eq!(t.state(), TransactionState::CompleteCommit);
}

#[test]
fn markers_of_another_end_complete_nothing() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add_in(V2, me, &["a-0"]).unwrap();
    t.marks_at_once = false;
    t.end(V2, me, COMMIT).unwrap();
    let all: Vec<_> = partitions(&["a-0"]).into_iter().collect();
    let id = crate::harness::text(crate::harness::ID);
    let effects = t.shard.on_marked(t.now, &id, me, &all);
    t.take(effects);
    assert_eq!(t.state(), TransactionState::PrepareCommit);
}
