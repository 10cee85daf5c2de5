//! AddPartitionsToTxn, AddOffsetsToTxn, verification, and what DescribeTransactions and ListTransactions show.

use std::collections::BTreeSet;

use odradek_broker_core::transactions::metadata::TransactionState;
use odradek_broker_core::transactions::{ListFilter, TransactionRequest, TransactionResponse};
use odradek_common::error::ErrorCode;

use crate::harness::{COMMIT, Harness, ID, V2, add_request, partitions, producer, text};

#[test]
fn the_first_partition_begins_the_transaction() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.advance(500);
    let began_ms = t.now.wall_ms;
    t.add(me, &["a-0"]).unwrap();
    t.advance(500);
    t.add(me, &["b-1"]).unwrap();
    let metadata = t.metadata();
    assert_eq!(metadata.state, TransactionState::Ongoing);
    assert_eq!(metadata.partitions, partitions(&["a-0", "b-1"]));
    assert_eq!(metadata.start_timestamp_ms, began_ms);
    assert_eq!(metadata.last_update_timestamp_ms, began_ms + 500);
}

#[test]
fn partitions_that_belong_to_it_already_are_not_written_again() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add(me, &["a-0", "a-1"]).unwrap();
    let written = t.log.len();
    t.add(me, &["a-1"]).unwrap();
    assert_eq!(t.log.len(), written);
}

#[test]
fn only_the_producer_of_the_id_may_add() {
    let mut t = Harness::new(2);
    assert_eq!(
        t.add(producer(1, 0), &["a-0"]),
        Err(ErrorCode::InvalidProducerIdMapping)
    );
    let me = t.init().unwrap();
    assert_eq!(
        t.add(producer(1, 0), &["a-0"]),
        Err(ErrorCode::InvalidProducerIdMapping)
    );
    let later = producer(me.producer_id, 1);
    assert_eq!(t.add(later, &["a-0"]), Err(ErrorCode::ProducerFenced));
    t.commits_at_once = false;
    t.send(add_request(0, me, &["a-0"]));
    assert_eq!(
        t.add(producer(1, 0), &["a-0"]),
        Err(ErrorCode::ConcurrentTransactions),
        "asked first"
    );
}

#[test]
fn the_next_transaction_waits_for_the_end_of_the_last_one() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add_in(V2, me, &["a-0"]).unwrap();
    t.marks_at_once = false;
    let next = t.end(V2, me, COMMIT).unwrap();
    let tokens = [["a-0"], ["a-1"]].map(|names| t.send(add_request(V2, next, &names)));
    assert_eq!(t.reply(tokens[0]), None, "partitions are being told");
    t.mark();
    for token in tokens {
        assert_eq!(t.reply(token), Some(TransactionResponse::AddPartitions(Ok(()))));
    }
    assert_eq!(t.metadata().partitions, partitions(&["a-0", "a-1"]));
    assert_eq!(
        t.shard.next_deadline(),
        Some(t.now.mono_ms + 60_001),
        "nothing else is waited for"
    );
}

#[test]
fn those_that_wait_are_few_and_patient_for_a_moment() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add_in(V2, me, &["a-0"]).unwrap();
    t.marks_at_once = false;
    let next = t.end(V2, me, COMMIT).unwrap();
    let concurrent = TransactionResponse::AddPartitions(Err(ErrorCode::ConcurrentTransactions));
    let first = t.send(add_request(V2, next, &["a-0"]));
    t.advance(60);
    let rest: Vec<_> = (0..8).map(|_| t.send(add_request(V2, next, &["a-0"]))).collect();
    assert_eq!(t.reply(rest[7]), Some(concurrent.clone()), "there are eight");
    t.advance(40);
    assert_eq!(t.reply(first), Some(concurrent.clone()));
    assert_eq!(t.reply(rest[0]), None);
    let later = t.send(add_request(V2, next, &["a-0"]));
    assert_eq!(
        t.reply(later),
        Some(concurrent),
        "it takes long: nobody waits any more"
    );
    t.resign();
    let moved = TransactionResponse::AddPartitions(Err(ErrorCode::NotCoordinator));
    assert_eq!(t.reply(rest[0]), Some(moved));
}

#[test]
fn verification_says_what_belongs_to_the_transaction() {
    let mut t = Harness::new(2);
    assert_eq!(
        t.verify(producer(1, 0), &["a-0"]),
        Err(ErrorCode::InvalidProducerIdMapping)
    );
    let me = t.init().unwrap();
    let none = t.verify(me, &["a-0"]);
    assert_eq!(none, Ok(vec![("a-0".to_owned(), false)]));
    t.add(me, &["a-0"]).unwrap();
    t.commits_at_once = false;
    let on_its_way = t.send(add_request(0, me, &["a-1"]));
    let some = t.verify(me, &["a-0", "a-1"]);
    let expected = vec![("a-0".to_owned(), true), ("a-1".to_owned(), false)];
    assert_eq!(
        some,
        Ok(expected),
        "what is on its way does not belong to it yet, and is not waited for"
    );
    t.commits_at_once = true;
    t.commit();
    assert_eq!(
        t.reply(on_its_way),
        Some(TransactionResponse::AddPartitions(Ok(())))
    );
    assert_eq!(
        t.verify(producer(1_001, 4), &["a-0"]),
        Err(ErrorCode::ProducerFenced)
    );
    t.marks_at_once = false;
    let next = t.end(V2, me, COMMIT).unwrap();
    assert_eq!(t.verify(next, &["a-0"]), Err(ErrorCode::ConcurrentTransactions));
    t.mark();
    assert_eq!(t.verify(next, &["a-0"]), Ok(vec![("a-0".to_owned(), false)]));
}

fn describe(t: &mut Harness, id: &str) -> TransactionResponse {
    t.ask(TransactionRequest::Describe(text(id)))
}

#[test]
fn a_transaction_is_described_with_what_has_no_marker_yet() {
    let mut t = Harness::new(2);
    let refused = |code| TransactionResponse::Describe(Err(code));
    assert_eq!(describe(&mut t, ""), refused(ErrorCode::InvalidRequest));
    assert_eq!(describe(&mut t, ID), refused(ErrorCode::TransactionalIdNotFound));
    let me = t.init().unwrap();
    t.add_in(V2, me, &["a-0", "a-1"]).unwrap();
    t.marks_at_once = false;
    let next = t.end(V2, me, COMMIT).unwrap();
    let one: Vec<_> = partitions(&["a-0"]).into_iter().collect();
    let effects = t.shard.on_marked(t.now, &text(ID), next, &one);
    t.take(effects);
    let TransactionResponse::Describe(Ok(described)) = describe(&mut t, ID) else {
        panic!("it is known")
    };
    assert_eq!(described.state, TransactionState::PrepareCommit);
    assert_eq!(described.partitions, partitions(&["a-1"]));
    assert_eq!(described.producer(), next);
}

fn listed(t: &mut Harness, filter: ListFilter) -> Vec<String> {
    match t.ask(TransactionRequest::List(filter)) {
        TransactionResponse::List(Ok(listed)) => listed
            .into_iter()
            .map(|(id, _, state)| format!("{id} {}", state.name()))
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn lists_are_filtered_by_state_producer_and_age() {
    let mut t = Harness::new(2);
    let me = t.init().unwrap();
    t.add(me, &["a-0"]).unwrap();
    let other = TransactionRequest::InitProducerId {
        transactional_id: text("idle"),
        timeout_ms: 1_000,
        expected: None,
    };
    t.ask(other);
    t.advance(5_000);
    let any = ListFilter {
        duration_ms: -1,
        ..ListFilter::default()
    };
    assert_eq!(listed(&mut t, any.clone()), ["idle Empty", "transfer Ongoing"]);
    let ongoing = ListFilter {
        states: Some(BTreeSet::from([TransactionState::Ongoing])),
        ..any.clone()
    };
    assert_eq!(listed(&mut t, ongoing), ["transfer Ongoing"]);
    let no_known_state = ListFilter {
        states: Some(BTreeSet::new()),
        ..any.clone()
    };
    assert!(listed(&mut t, no_known_state).is_empty());
    let of_one = ListFilter {
        producer_ids: BTreeSet::from([me.producer_id]),
        ..any.clone()
    };
    assert_eq!(listed(&mut t, of_one), ["transfer Ongoing"]);
    for (duration_ms, count) in [(4_999, 2), (5_000, 1)] {
        let older = ListFilter {
            duration_ms,
            ..any.clone()
        };
        assert_eq!(
            listed(&mut t, older).len(),
            count,
            "open for more than {duration_ms} ms"
        );
    }
}
