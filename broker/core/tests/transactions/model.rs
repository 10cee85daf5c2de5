//! Random producers, a log that commits late or refuses, partitions that learn late, and successors that take over: what holds
//! whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use odradek_broker_core::coordination::RequestToken;
use odradek_broker_core::transactions::metadata::{ProducerIdAndEpoch, TransactionState};
use odradek_broker_core::transactions::replicated::Replicated;
use odradek_broker_core::transactions::{TransactionRequest, TransactionResponse, records};
use odradek_common::error::ErrorCode;
use odradek_common::ids::TopicPartition;
use odradek_common::records::control::TransactionResult;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::harness::{
    ABORT, COMMIT, Harness, TIMEOUT_MS, add_request, end_request, init_request, partitions,
};

#[derive(Clone, Debug)]
enum Step {
    Init { producer: usize, as_itself: bool },
    Add { producer: usize, partition: usize },
    End { producer: usize, commit: bool },
    Commit,
    Refuse,
    Mark,
    GiveId(bool),
    Advance(u64),
    FailOver,
}

fn any_step() -> impl Strategy<Value = Step> {
    let producer = 0..2_usize;
    prop_oneof![
        2 => (producer.clone(), any::<bool>()).prop_map(|(producer, as_itself)| Step::Init { producer, as_itself }),
        5 => (producer.clone(), 0..3_usize).prop_map(|(producer, partition)| Step::Add { producer, partition }),
        4 => (producer, any::<bool>()).prop_map(|(producer, commit)| Step::End { producer, commit }),
        9 => Just(Step::Commit),
        1 => Just(Step::Refuse),
        4 => Just(Step::Mark),
        3 => any::<bool>().prop_map(Step::GiveId),
        2 => (1..40_000_u64).prop_map(Step::Advance),
        1 => Just(Step::FailOver),
    ]
}

const PARTITIONS: [&str; 3] = ["a-0", "a-1", "b-0"];

/// One of two clients that share the transactional id.
#[derive(Clone, Debug, Default)]
struct Client {
    is: Option<ProducerIdAndEpoch>,
    asked: Option<(RequestToken, TransactionRequest)>,
    /// Partitions that it was told belong to its transaction.
    added: BTreeSet<TopicPartition>,
}

struct World {
    t: Harness,
    version: i16,
    clients: [Client; 2],
    given: BTreeSet<(i64, i16)>,
    /// How each epoch of version 2 has ended; below, how the last one of each epoch has.
    results: BTreeMap<(i64, i16), TransactionResult>,
    seen_markers: usize,
}

impl World {
    fn new(version: i16) -> Self {
        let mut t = Harness::new(version);
        t.commits_at_once = false;
        t.marks_at_once = false;
        t.gives_ids_at_once = false;
        Self {
            t,
            version,
            clients: Default::default(),
            given: BTreeSet::new(),
            results: BTreeMap::new(),
            seen_markers: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Init { producer, as_itself } => {
                let expected = self.clients[producer].is.filter(|_| as_itself);
                self.ask(producer, init_request(TIMEOUT_MS, expected));
            }
            Step::Add { producer, partition } => {
                if let Some(is) = self.clients[producer].is {
                    self.ask(producer, add_request(self.version, is, &[PARTITIONS[partition]]));
                }
            }
            Step::End { producer, commit } => {
                if let Some(is) = self.clients[producer].is {
                    let result = if commit { COMMIT } else { ABORT };
                    self.ask(producer, end_request(self.version, is, result));
                }
            }
            Step::Commit => self.t.commit_one(),
            Step::Refuse => self.t.fail(ErrorCode::NotEnoughReplicas),
            Step::Mark => self.t.mark(),
            Step::GiveId(is_given) if self.t.wanted > 0 => {
                let refusal = (!is_given).then_some(ErrorCode::CoordinatorLoadInProgress);
                self.t.give_id(refusal);
            }
            Step::GiveId(_) => {}
            Step::Advance(ms) => self.t.advance(ms),
            Step::FailOver => self.fail_over(),
        }
        self.look_at_markers();
        self.look_at_answers();
        self.replayed_log_is_the_state();
    }

    fn ask(&mut self, producer: usize, request: TransactionRequest) {
        if self.clients[producer].asked.is_none() {
            let token = self.t.send(request.clone());
            self.clients[producer].asked = Some((token, request));
        }
    }

    fn fail_over(&mut self) {
        // Half of what is on its way has reached the successor.
        if self.t.under_way.len() > 1 {
            let append = self.t.under_way.pop_front().expect("there are two");
            self.t.log.extend(append.records);
        }
        let mut next = self.t.fail_over();
        next.commits_at_once = false;
        next.marks_at_once = false;
        next.gives_ids_at_once = false;
        self.t.resign();
        self.look_at_answers();
        assert!(
            self.clients.iter().all(|client| client.asked.is_none()),
            "everybody is answered"
        );
        self.t = next;
        self.seen_markers = 0;
    }

    /// An epoch of version 2 ends one way, however often its partitions are told.
    fn look_at_markers(&mut self) {
        for markers in &self.t.handed_out[self.seen_markers..] {
            let ended = (markers.producer.producer_id, markers.producer.epoch);
            let before = self.results.insert(ended, markers.result);
            if self.version >= 2 {
                assert!(
                    before.is_none_or(|before| before == markers.result),
                    "{ended:?} ended twice"
                );
            }
        }
        self.seen_markers = self.t.handed_out.len();
    }

    fn look_at_answers(&mut self) {
        for index in 0..self.clients.len() {
            let Some((token, request)) = self.clients[index].asked.clone() else {
                continue;
            };
            if let Some(response) = self.t.reply(token) {
                self.clients[index].asked = None;
                self.answered(index, &request, response);
            }
        }
    }

    fn answered(&mut self, index: usize, request: &TransactionRequest, response: TransactionResponse) {
        let client = &mut self.clients[index];
        match (request, response) {
            (
                TransactionRequest::InitProducerId { expected, .. },
                TransactionResponse::InitProducerId(Ok(is)),
            ) => {
                let is_new = self.given.insert((is.producer_id, is.epoch));
                assert!(is_new || expected.is_some(), "{is:?} was given to two producers");
                client.is = Some(is);
                client.added.clear();
            }
            (
                TransactionRequest::AddPartitions { partitions, .. },
                TransactionResponse::AddPartitions(Ok(())),
            ) => {
                client.added.extend(partitions.iter().cloned());
            }
            (
                TransactionRequest::EndTransaction { producer, result, .. },
                TransactionResponse::EndTransaction(Ok(next)),
            ) => {
                let added = std::mem::take(&mut client.added);
                if self.version >= 2 {
                    assert_ne!(next, *producer);
                    self.given.insert((next.producer_id, next.epoch));
                    client.is = Some(next);
                    if !added.is_empty() {
                        let ended = (producer.producer_id, producer.epoch + 1);
                        assert_eq!(
                            self.results.get(&ended),
                            Some(result),
                            "the client was told otherwise"
                        );
                    }
                }
            }
            (_, _) => {}
        }
    }

    fn replayed_log_is_the_state(&self) {
        let mut replayed = Replicated::default();
        for (key, value) in &self.t.log {
            let record = records::decode(key, value.as_deref()).expect("own records can be read");
            replayed.apply(record.expect("own keys are known"));
        }
        assert_eq!(&replayed, self.t.shard.replicated());
    }

    /// When the log takes everything and every partition learns, nothing stays between two states.
    fn settle(&mut self) {
        self.t.commits_at_once = true;
        self.t.marks_at_once = true;
        self.t.gives_ids_at_once = true;
        self.t.give_ids();
        self.t.commit();
        self.t.mark();
        self.t.advance(1_000);
        for (id, metadata) in self.t.shard.replicated().iter() {
            let is_between = metadata.prepared_result().is_some();
            assert!(!is_between, "{id} stays in {:?}", metadata.state);
            let is_open = metadata.state == TransactionState::Ongoing;
            assert!(is_open || metadata.partitions.is_empty());
        }
    }
}

/// Everything that a partition was told to belong to gets a marker before the transaction is complete.
fn markers_cover_what_was_added(version: i16) {
    let mut t = Harness::new(version);
    let me = t.init().expect("nobody else is there");
    t.add_in(version, me, &["a-0", "a-1"])
        .expect("the producer is right");
    t.add_in(version, me, &["b-0"]).expect("the producer is right");
    t.end(version, me, COMMIT).expect("it is open");
    assert_eq!(t.handed_out[0].partitions, partitions(&["a-0", "a-1", "b-0"]));
}

#[test]
fn markers_cover_what_was_added_in_every_version() {
    [0, 1, 2].into_iter().for_each(markers_cover_what_was_added);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_happens(version in 1..3_i16, steps in vec(any_step(), 1..120)) {
        let mut world = World::new(version);
        for step in &steps {
            world.step(step);
        }
        world.settle();
    }
}
