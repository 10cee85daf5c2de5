//! Offsets within transactions: pending until the marker, invisible until then, and in the order of the log.

use kafka_protocol::ResponseError as ErrorCode;
use kafka_protocol::messages::{DeleteGroupsRequest, GroupId, TxnOffsetCommitRequest};
use odradek_broker_core::coordination::{AppendKind, TransactionEnd, TransactionWriter};
use odradek_broker_core::groups::{GroupRequest, GroupResponse, GroupSettings};
use odradek_broker_core::producer_state::verification::Verification;
use odradek_common::ids::TopicPartition;
use odradek_common::records::control::TransactionResult::{Abort, Commit};

use crate::harness::*;

const PRODUCER: i64 = 7;
const OTHER: i64 = 8;

fn unstable() -> i16 {
    ErrorCode::UnstableOffsetCommit.code()
}

#[test]
fn offsets_are_invisible_until_their_transaction_commits() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("orders", 0, 3));
    assert_eq!(t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 9)), 0);
    assert_eq!(t.fetch("orders", 0).0, 3);
    assert_eq!(t.fetch_stable("orders", 0), (-1, unstable()));
    assert_eq!(t.fetch_stable("orders", 1), (-1, 0), "no transaction sets it");
    t.end_transaction(PRODUCER, Commit);
    assert_eq!(t.fetch("orders", 0), (9, 4, "in a transaction".to_owned(), 0));
    assert_eq!(t.fetch_stable("orders", 0), (9, 0));
}

#[test]
fn an_aborted_transaction_leaves_what_was_committed_before() {
    let mut t = Harness::new();
    t.commit_offset(simple_commit("orders", 0, 3));
    t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 9));
    t.txn_commit(simple_txn_commit(OTHER, "orders", 1, 5));
    t.end_transaction(PRODUCER, Abort);
    assert_eq!(t.fetch_stable("orders", 0), (3, 0));
    assert_eq!(
        t.fetch_stable("orders", 1),
        (-1, unstable()),
        "the other one is open"
    );
    t.end_transaction(OTHER, Commit);
    assert_eq!(t.fetch_stable("orders", 1), (5, 0));
}

#[test]
fn of_several_commits_the_last_one_in_the_log_counts() {
    let mut t = Harness::new();
    t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 1));
    t.txn_commit(simple_txn_commit(OTHER, "orders", 0, 2));
    t.end_transaction(OTHER, Commit);
    t.end_transaction(PRODUCER, Commit);
    assert_eq!(t.fetch("orders", 0).0, 2);
    t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 3));
    t.commit_offset(simple_commit("orders", 0, 4));
    assert_eq!(t.fetch_stable("orders", 0).1, unstable());
    t.end_transaction(PRODUCER, Commit);
    assert_eq!(t.fetch_stable("orders", 0), (4, 0));
}

#[test]
fn another_coordinator_finds_open_transactions_as_they_were() {
    let mut t = Harness::new();
    t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 1));
    t.txn_commit(simple_txn_commit(OTHER, "orders", 1, 2));
    t.end_transaction(OTHER, Commit);
    let mut next = t.fail_over();
    assert_eq!(next.shard.replicated(), t.shard.replicated());
    assert_eq!(next.fetch_stable("orders", 0), (-1, unstable()));
    assert_eq!(next.fetch_stable("orders", 1), (2, 0));
    next.end_transaction(PRODUCER, Commit);
    assert_eq!(next.fetch_stable("orders", 0), (1, 0));
    assert_eq!(next.fail_over().shard.replicated(), next.shard.replicated());
}

#[test]
fn records_of_a_transaction_are_written_in_its_producer_s_name() {
    let mut t = Harness::new();
    t.commits_at_once = false;
    let token = t.send_txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 1));
    let writer = TransactionWriter {
        producer_id: PRODUCER,
        producer_epoch: 0,
        verification: Verification::Waived,
    };
    assert_eq!(t.under_way[0].kind, AppendKind::Transactional(writer));
    assert_eq!(t.txn_committed(token), None, "it is not in the log yet");
    t.fail(ErrorCode::InvalidProducerEpoch);
    assert_eq!(
        t.txn_committed(token),
        Some(ErrorCode::InvalidProducerEpoch.code())
    );
    assert_eq!(t.fetch_stable("orders", 0), (-1, 0));
}

#[test]
fn a_stable_fetch_waits_for_a_marker_under_way() {
    let mut t = Harness::new();
    t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 9));
    t.commits_at_once = false;
    let end = TransactionEnd {
        producer_id: PRODUCER,
        producer_epoch: 1,
        coordinator_epoch: 0,
        result: Commit,
        transaction_version: 2,
    };
    let ending = t.send(2, GroupRequest::EndTransaction(end));
    let topic = kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopics::default()
        .with_name(topic_name("orders"))
        .with_partition_indexes(vec![0]);
    let group = kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup::default()
        .with_group_id(group_id())
        .with_topics(Some(vec![topic]));
    let fetching = t.send(
        8,
        GroupRequest::OffsetFetch {
            group,
            require_stable: true,
        },
    );
    assert_eq!(t.reply(ending), None);
    assert_eq!(t.reply(fetching), None);
    t.commit();
    assert_eq!(t.reply(ending), Some(GroupResponse::EndTransaction(Ok(()))));
    let Some(GroupResponse::OffsetFetch(group)) = t.reply(fetching) else {
        panic!("the fetch is answered")
    };
    assert_eq!(group.topics[0].partitions[0].committed_offset, 9);
}

#[test]
fn a_marker_that_the_log_refuses_ends_nothing_and_says_why() {
    let mut t = Harness::new();
    t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 9));
    t.commits_at_once = false;
    let end = TransactionEnd {
        producer_id: PRODUCER,
        producer_epoch: 1,
        coordinator_epoch: 0,
        result: Commit,
        transaction_version: 2,
    };
    for code in [
        ErrorCode::TransactionCoordinatorFenced,
        ErrorCode::NotEnoughReplicas,
    ] {
        let ending = t.send(2, GroupRequest::EndTransaction(end));
        t.fail(code);
        assert_eq!(t.reply(ending), Some(GroupResponse::EndTransaction(Err(code))));
    }
    assert_eq!(t.fetch_stable("orders", 0), (-1, unstable()));
}

fn of_member(request: TxnOffsetCommitRequest, member_id: &str, generation: i32) -> TxnOffsetCommitRequest {
    request
        .with_member_id(text(member_id))
        .with_generation_id(generation)
}

// KIP-447.
#[test]
fn a_zombie_s_commit_is_refused() {
    let mut t = Harness::new();
    let commit = || simple_txn_commit(PRODUCER, "orders", 0, 1);
    assert_eq!(
        t.txn_commit(of_member(commit(), "a", 3)),
        ErrorCode::IllegalGeneration.code(),
        "there is no group"
    );
    let (leader, _, generation) = t.stable_pair();
    assert_eq!(t.txn_commit(of_member(commit(), &leader, generation)), 0);
    assert_eq!(
        t.txn_commit(of_member(commit(), &leader, generation - 1)),
        ErrorCode::IllegalGeneration.code()
    );
    assert_eq!(
        t.txn_commit(of_member(commit(), "nobody", generation)),
        ErrorCode::UnknownMemberId.code()
    );
    assert_eq!(t.txn_commit(commit()), 0, "older producers name no member");
    let newcomer = t.new_member_id();
    t.send_join(join_request(&newcomer));
    assert_eq!(
        t.txn_commit(of_member(commit(), &leader, generation)),
        0,
        "what was read before the rebalance"
    );
}

#[test]
fn a_replaced_static_member_is_fenced() {
    let mut t = Harness::new();
    let old = t.join(static_join("a", "")).member_id;
    t.sync(&old, 1, &[(&old, b"all")]);
    let new = t.join(static_join("a", "")).member_id;
    assert_ne!(old, new);
    let request = of_member(simple_txn_commit(PRODUCER, "orders", 0, 1), &old, 1)
        .with_group_instance_id(Some(text("a")));
    assert_eq!(t.txn_commit(request), ErrorCode::FencedInstanceId.code());
}

#[test]
fn a_commit_needs_a_group() {
    let mut t = Harness::new();
    let request = simple_txn_commit(PRODUCER, "orders", 0, 1).with_group_id(GroupId::default());
    assert_eq!(t.txn_commit(request), ErrorCode::InvalidGroupId.code());
}

#[test]
fn long_notes_are_refused() {
    let mut t = Harness::with(GroupSettings {
        offset_metadata_max_bytes: 3,
        ..settings()
    });
    assert_eq!(
        t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 1)),
        ErrorCode::OffsetMetadataTooLarge.code()
    );
}

#[test]
fn a_deleted_group_takes_its_pending_offsets_along() {
    let mut t = Harness::new();
    t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 1));
    let named = DeleteGroupsRequest::default().with_groups_names(vec![group_id()]);
    let GroupResponse::DeleteGroup(result) =
        t.ask(2, GroupRequest::DeleteGroup(named.groups_names[0].clone()))
    else {
        panic!("a deletion is answered in kind")
    };
    assert_eq!(result.error_code, 0);
    t.end_transaction(PRODUCER, Commit);
    assert_eq!(t.fetch_stable("orders", 0), (-1, 0));
    assert_eq!(t.fail_over().shard.replicated(), t.shard.replicated());
}

#[test]
fn a_deleted_topic_takes_pending_offsets_along() {
    let mut t = Harness::new();
    t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 1));
    t.txn_commit(simple_txn_commit(PRODUCER, "returns", 0, 2));
    t.delete_partitions(&[TopicPartition::new("orders", 0)]);
    t.end_transaction(PRODUCER, Commit);
    assert_eq!(t.fetch_stable("orders", 0), (-1, 0));
    assert_eq!(t.fetch_stable("returns", 0), (2, 0));
}

#[test]
fn nothing_expires_under_an_open_transaction() {
    let mut t = Harness::with(GroupSettings {
        offsets_retention_ms: 1_000,
        offsets_retention_check_interval_ms: 100,
        ..settings()
    });
    t.commit_offset(simple_commit("orders", 0, 1));
    t.commit_offset(simple_commit("orders", 1, 1));
    t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 2));
    t.advance(5_000);
    assert_eq!(t.fetch("orders", 0).0, 1);
    assert_eq!(t.fetch("orders", 1).0, -1, "no transaction sets it");
    t.end_transaction(PRODUCER, Abort);
    t.advance(5_000);
    assert_eq!((t.fetch("orders", 0).0, t.state()), (-1, None));
}

#[test]
fn a_group_of_pending_offsets_alone_does_not_expire() {
    let mut t = Harness::with(GroupSettings {
        offsets_retention_ms: 1_000,
        offsets_retention_check_interval_ms: 100,
        ..settings()
    });
    t.txn_commit(simple_txn_commit(PRODUCER, "orders", 0, 2));
    t.advance(5_000);
    t.end_transaction(PRODUCER, Commit);
    assert_eq!(t.fetch_stable("orders", 0), (2, 0));
}

// KAFKA-7296.
#[test]
fn producers_of_old_hear_no_word_that_they_do_not_know() {
    let request = simple_txn_commit(PRODUCER, "orders", 0, 1);
    let code = |version| {
        let request = GroupRequest::TxnOffsetCommit {
            request: request.clone(),
            verification: Verification::Waived,
        };
        let refused = request.refuse(ErrorCode::CoordinatorLoadInProgress);
        match refused.for_version(version) {
            GroupResponse::TxnOffsetCommit(response) => response.topics[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code(1), ErrorCode::CoordinatorNotAvailable.code());
    assert_eq!(code(2), ErrorCode::CoordinatorLoadInProgress.code());
}
