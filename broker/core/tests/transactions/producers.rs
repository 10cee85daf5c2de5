//! InitProducerId: epochs, fencing, recovery (KIP-360), producer ids that are used up.

use odradek_broker_core::transactions::TransactionResponse;
use odradek_broker_core::transactions::metadata::{TransactionMetadata, TransactionState};
use odradek_common::error::ErrorCode;

use crate::harness::{
    ABORT, COMMIT, Harness, TIMEOUT_MS, V0, V2, init_request, partitions, producer, with_metadata,
};

/// An id without a transaction, its producer in this epoch.
fn idle(epoch: i16) -> TransactionMetadata {
    TransactionMetadata {
        producer_epoch: epoch,
        last_update_timestamp_ms: 1_700_000_000_000,
        ..TransactionMetadata::new(7, TIMEOUT_MS)
    }
}

#[test]
fn each_producer_takes_the_next_epoch() {
    let mut t = Harness::new(2);
    assert_eq!(t.init(), Ok(producer(1_001, 0)));
    assert_eq!(t.init(), Ok(producer(1_001, 1)));
    assert_eq!(t.metadata().previous_producer_id, 1_001);
    assert_eq!(t.state(), TransactionState::Empty);
}

#[test]
fn timeouts_are_bounded() {
    let mut t = Harness::new(2);
    for timeout_ms in [0, -1, 900_001] {
        let refused = t.init_with(timeout_ms, None);
        assert_eq!(refused, Err(ErrorCode::InvalidTransactionTimeout), "{timeout_ms}");
    }
    assert_eq!(t.init_with(900_000, None), Ok(producer(1_001, 0)));
}

#[test]
fn a_producer_goes_on_in_the_next_epoch_and_a_retry_gets_the_same() {
    let mut t = Harness::new(2);
    let first = t.init().unwrap();
    let next = t.init_as(first);
    assert_eq!(next, Ok(producer(1_001, 1)));
    assert_eq!(t.init_as(first), next, "the answer was lost");
    assert_eq!(t.init_as(producer(1_001, 1)), Ok(producer(1_001, 2)));
    assert_eq!(t.init_as(first), Err(ErrorCode::ProducerFenced));
}

#[test]
fn a_producer_that_another_one_replaced_is_fenced() {
    let mut t = Harness::new(2);
    let first = t.init().unwrap();
    t.init().unwrap();
    assert_eq!(t.init_as(first), Err(ErrorCode::ProducerFenced));
    let stranger = producer(55, 1);
    assert_eq!(t.init_as(stranger), Err(ErrorCode::ProducerFenced));
}

#[test]
fn a_producer_whose_id_has_expired_goes_on_with_a_new_producer_id() {
    let mut t = Harness::new(2);
    assert_eq!(t.init_as(producer(55, 17)), Ok(producer(1_001, 0)));
}

#[test]
fn used_up_epochs_lead_to_a_new_producer_id() {
    let mut t = with_metadata(2, idle(i16::MAX - 2));
    assert_eq!(t.init(), Ok(producer(7, i16::MAX - 1)));
    assert_eq!(t.init(), Ok(producer(1_001, 0)));
    assert_eq!(t.metadata().previous_producer_id, 7);
}

#[test]
fn a_retry_of_the_change_of_the_producer_id_goes_on_with_the_new_one() {
    let mut t = with_metadata(2, idle(i16::MAX - 1));
    let last = producer(7, i16::MAX - 1);
    assert_eq!(t.init_as(last), Ok(producer(1_001, 0)));
    assert_eq!(t.init_as(last), Ok(producer(1_001, 0)), "the answer was lost");
    assert_eq!(t.init_as(producer(7, 5)), Err(ErrorCode::ProducerFenced));
}

#[test]
fn an_old_epoch_of_a_used_up_producer_id_is_fenced() {
    let mut t = with_metadata(2, idle(i16::MAX - 1));
    assert_eq!(t.init_as(producer(7, 5)), Err(ErrorCode::ProducerFenced));
}

#[test]
fn an_open_transaction_is_aborted_first_in_every_version() {
    for version in [0, 1, 2] {
        let mut t = Harness::new(version);
        let old = t.init().unwrap();
        t.add(old, &["a-0", "a-1"]).unwrap();
        assert_eq!(
            t.init(),
            Err(ErrorCode::ConcurrentTransactions),
            "version {version}"
        );
        assert_eq!(t.state(), TransactionState::CompleteAbort);
        let markers = t.handed_out.last().unwrap();
        assert_eq!((markers.result, markers.producer), (ABORT, producer(1_001, 1)));
        assert_eq!(markers.partitions, partitions(&["a-0", "a-1"]));
        assert_eq!(markers.transaction_version, if version == 2 { 2 } else { 0 });
        assert_eq!(t.init(), Ok(producer(1_001, 2)), "version {version}");
        assert_eq!(t.add(old, &["a-0"]), Err(ErrorCode::ProducerFenced));
    }
}

#[test]
fn fencing_that_the_log_refuses_holds_all_the_same_below_version_2() {
    let mut t = Harness::new(1);
    let old = t.init().unwrap();
    t.add(old, &["a-0"]).unwrap();
    t.commits_at_once = false;
    let token = t.send(init_request(TIMEOUT_MS, None));
    assert_eq!(
        t.end(V0, old, COMMIT),
        Err(ErrorCode::ProducerFenced),
        "the fence is on its way"
    );
    t.fail(ErrorCode::NotEnoughReplicas);
    let refused = TransactionResponse::InitProducerId(Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(t.reply(token), Some(refused));
    assert_eq!(t.end(V0, old, COMMIT), Err(ErrorCode::ProducerFenced));
    assert_eq!(t.add(old, &["a-1"]), Err(ErrorCode::ProducerFenced));
    t.commits_at_once = true;
    assert_eq!(t.init(), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(
        t.handed_out.last().unwrap().producer,
        producer(1_001, 1),
        "the epoch is not taken twice"
    );
    assert_eq!(t.init(), Ok(producer(1_001, 2)));
}

#[test]
fn fencing_that_the_log_refuses_leaves_the_transaction_open_in_version_2() {
    let mut t = Harness::new(2);
    let old = t.init().unwrap();
    t.add_in(V2, old, &["a-0"]).unwrap();
    t.commits_at_once = false;
    t.send(init_request(TIMEOUT_MS, None));
    t.fail(ErrorCode::NotEnoughReplicas);
    t.commits_at_once = true;
    assert_eq!(t.end(V2, old, COMMIT), Ok(producer(1_001, 1)));
}

#[test]
fn fencing_in_the_last_epoch_takes_a_new_producer_id() {
    let open = TransactionMetadata {
        state: TransactionState::Ongoing,
        partitions: partitions(&["a-0"]),
        start_timestamp_ms: 1_700_000_000_000,
        ..idle(i16::MAX - 1)
    };
    let mut t = with_metadata(2, open);
    assert_eq!(t.init(), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(t.handed_out.last().unwrap().producer, producer(7, i16::MAX));
    assert_eq!(t.metadata().producer(), producer(1_001, 0));
    assert_eq!(t.init(), Ok(producer(1_001, 1)));
}

#[test]
fn without_a_producer_id_clients_are_told_to_try_again() {
    let mut t = Harness::new(2);
    t.gives_ids_at_once = false;
    let refused = t.send(init_request(TIMEOUT_MS, None));
    assert_eq!(t.reply(refused), None, "waits for the producer id");
    t.give_id(Some(ErrorCode::CoordinatorLoadInProgress));
    let expected = TransactionResponse::InitProducerId(Err(ErrorCode::CoordinatorLoadInProgress));
    assert_eq!(t.reply(refused), Some(expected));
    t.gives_ids_at_once = true;
    assert_eq!(t.init(), Ok(producer(1_001, 0)));
}

#[test]
fn two_at_once_make_one_producer() {
    let mut t = Harness::new(2);
    t.gives_ids_at_once = false;
    let tokens = [0, 1].map(|_| t.send(init_request(TIMEOUT_MS, None)));
    t.commits_at_once = false;
    t.give_ids();
    let concurrent = TransactionResponse::InitProducerId(Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(t.reply(tokens[1]), Some(concurrent));
    t.commit();
    let first = TransactionResponse::InitProducerId(Ok(producer(1_001, 0)));
    assert_eq!(t.reply(tokens[0]), Some(first));
}

#[test]
fn an_id_whose_first_record_is_refused_is_unknown() {
    let mut t = Harness::new(2);
    t.commits_at_once = false;
    let token = t.send(init_request(TIMEOUT_MS, None));
    assert_eq!(t.init(), Err(ErrorCode::ConcurrentTransactions));
    t.fail(ErrorCode::RecordListTooLarge);
    let refused = TransactionResponse::InitProducerId(Err(ErrorCode::UnknownServerError));
    assert_eq!(t.reply(token), Some(refused));
    assert_eq!(
        t.add(producer(1_001, 0), &["a-0"]),
        Err(ErrorCode::InvalidProducerIdMapping)
    );
    t.commits_at_once = true;
    assert_eq!(t.init(), Ok(producer(1_002, 0)));
}
