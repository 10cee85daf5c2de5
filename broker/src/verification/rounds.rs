//! The requests to coordinators: one at a time to each node, with everything that has come together meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, ProducerId, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::ids::{NodeId, TopicPartition};
use odradek_config::ServerConfig;
use odradek_net::client::{ClientError, ClientSettings};
use odradek_net::pool::{ClientPool, join_address};
use parking_lot::Mutex;
use slog::Logger;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::{Operation, Transaction};
use crate::api::add_partitions_to_txn;
use crate::broker::Broker;
use crate::clock;
use crate::connection_limits::connect_timeout;
use crate::names::topic_name;

/// The version in which brokers ask; clients have those below 4.
const VERSION: i16 = 5;
/// Askers that may wait for one node; beyond, they are to try again.
const WAITING_MAX: usize = 10_000;

/// What was refused, and why.
pub(super) type Refused = Vec<(TopicPartition, ErrorCode)>;

/// The way to the coordinators.
pub struct Verifier {
    runtime: Handle,
    log: Logger,
    clients: Arc<ClientPool>,
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    asked: AtomicU64,
    refused: AtomicU64,
    time_ms: AtomicU64,
}

/// What asking has come to since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerificationTotals {
    /// Questions that were answered, or given up.
    pub asked: u64,
    /// Those of them that did not bring consent to every partition.
    pub refused: u64,
    /// How long they took, waiting for the one before included.
    pub time: Duration,
}

/// What waits for one node.
#[derive(Default)]
struct Node {
    waiting: VecDeque<Waiting>,
    /// A task sends what waits.
    is_served: bool,
}

struct Waiting {
    transaction: Transaction,
    partitions: Vec<TopicPartition>,
    answer: oneshot::Sender<Refused>,
}

impl Verifier {
    /// Nobody waits yet. Requests are sent by tasks of `runtime`.
    #[must_use]
    pub fn new(runtime: Handle, node_id: NodeId, config: &ServerConfig, log: Logger) -> Arc<Self> {
        let request_timeout_ms = u64::try_from(config.socket.request_timeout_ms).unwrap_or(0);
        let settings = ClientSettings {
            client_id: format!("broker-{node_id}-transactions"),
            request_timeout: Duration::from_millis(request_timeout_ms),
            connect_timeout: connect_timeout(config),
            negotiate: false,
            ..ClientSettings::default()
        };
        Arc::new(Self {
            runtime,
            log,
            clients: ClientPool::new(settings),
            nodes: Mutex::default(),
            asked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            time_ms: AtomicU64::new(0),
        })
    }

    /// Everything so far, for metrics.
    #[must_use]
    pub fn totals(&self) -> VerificationTotals {
        VerificationTotals {
            asked: self.asked.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            time: Duration::from_millis(self.time_ms.load(Ordering::Relaxed)),
        }
    }

    fn count(&self, begin_ms: u64, refused: &Refused) {
        let took_ms = clock::mono_ms().saturating_sub(begin_ms);
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.refused
            .fetch_add(u64::from(!refused.is_empty()), Ordering::Relaxed);
        self.time_ms.fetch_add(took_ms, Ordering::Relaxed);
    }

    /// Asks a node about one transaction's partitions; what it refuses.
    pub(super) async fn ask(
        self: Arc<Self>,
        broker: &Arc<Broker>,
        node: NodeId,
        transaction: Transaction,
        partitions: Vec<TopicPartition>,
    ) -> Refused {
        let begin_ms = clock::mono_ms();
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            transaction,
            partitions: partitions.clone(),
            answer,
        };
        if self.enqueue(node, waiting) {
            self.runtime.spawn(self.clone().serve(broker.clone(), node));
        }
        // Without an answer the queue was full, or the node stops.
        let refused = answered
            .await
            .unwrap_or_else(|_| refuse_all(partitions, ErrorCode::NetworkException));
        self.count(begin_ms, &refused);
        refused
    }

    /// Lets an asker wait for a node, or drops it if too many do, which tells it; true if a task must be started for them.
    fn enqueue(&self, node: NodeId, waiting: Waiting) -> bool {
        let mut nodes = self.nodes.lock();
        let queue = nodes.entry(node).or_default();
        if queue.waiting.len() >= WAITING_MAX {
            return false;
        }
        queue.waiting.push_back(waiting);
        !std::mem::replace(&mut queue.is_served, true)
    }

    async fn serve(self: Arc<Self>, broker: Arc<Broker>, node: NodeId) {
        loop {
            let round = {
                let mut nodes = self.nodes.lock();
                let queue = nodes.entry(node).or_default();
                let round = take_round(&mut queue.waiting);
                if round.is_empty() {
                    nodes.remove(&node);
                    return;
                }
                round
            };
            let outcome = self.send(&broker, node, request(&round)).await;
            if let Err(error) = &outcome {
                slog::warn!(self.log, "a transaction coordinator does not answer"; "node" => node, "error" => %error);
            }
            settle(round, outcome.ok().as_ref());
        }
    }

    async fn send(
        &self,
        broker: &Broker,
        node: NodeId,
        request: AddPartitionsToTxnRequest,
    ) -> Result<AddPartitionsToTxnResponse, ClientError> {
        if node == broker.node_id {
            return Ok(add_partitions_to_txn::answer(broker, VERSION, request).await);
        }
        let image = broker.image();
        let listener = &broker.config.load().listeners.inter_broker_listener_name;
        let registered = image.brokers.get(&node);
        let endpoint = registered.and_then(|broker| broker.endpoint(listener));
        let endpoint = endpoint.ok_or(ClientError::UnknownNode(node))?;
        let address = join_address(&endpoint.host, endpoint.port);
        let client = self.clients.try_get(&address).await?;
        client.send(VERSION, request).await
    }
}

/// Takes what fits into one request, which has room for one transaction of each name: who asks otherwise about a name
/// that is taken has the next round.
fn take_round(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut taken: BTreeMap<StrBytes, (i64, i16, bool)> = BTreeMap::new();
    let mut passed: BTreeSet<StrBytes> = BTreeSet::new();
    let mut round = Vec::with_capacity(waiting.len());
    let mut left = VecDeque::new();
    for one in waiting.drain(..) {
        let transaction = &one.transaction;
        let id = transaction.transactional_id.clone();
        let is_added = transaction.operation == Operation::Add;
        let who = (transaction.producer_id, transaction.producer_epoch, is_added);
        if !passed.contains(&id) && *taken.entry(id.clone()).or_insert(who) == who {
            round.push(one);
        } else {
            passed.insert(id);
            left.push_back(one);
        }
    }
    *waiting = left;
    round
}

fn request(round: &[Waiting]) -> AddPartitionsToTxnRequest {
    type Topics<'a> = BTreeMap<&'a str, BTreeSet<i32>>;
    let mut transactions: BTreeMap<&StrBytes, (&Transaction, Topics<'_>)> = BTreeMap::new();
    for one in round {
        let id = &one.transaction.transactional_id;
        let (_, topics) = transactions
            .entry(id)
            .or_insert_with(|| (&one.transaction, Topics::new()));
        for partition in &one.partitions {
            let partitions = topics.entry(&*partition.topic).or_default();
            partitions.insert(partition.partition);
        }
    }
    let transactions = transactions.into_values().map(|(transaction, topics)| {
        let topics = topics.into_iter().map(|(name, partitions)| {
            AddPartitionsToTxnTopic::default()
                .with_name(topic_name(name))
                .with_partitions(partitions.into_iter().collect())
        });
        AddPartitionsToTxnTransaction::default()
            .with_transactional_id(TransactionalId(transaction.transactional_id.clone()))
            .with_producer_id(ProducerId(transaction.producer_id))
            .with_producer_epoch(transaction.producer_epoch)
            .with_verify_only(transaction.operation != Operation::Add)
            .with_topics(topics.collect())
    });
    AddPartitionsToTxnRequest::default().with_transactions(transactions.collect())
}

/// Gives everybody their part of the answer; no answer is NETWORK_EXCEPTION.
fn settle(round: Vec<Waiting>, response: Option<&AddPartitionsToTxnResponse>) {
    let of_all = match response {
        None => Some(ErrorCode::NetworkException),
        Some(response) => match ErrorCode::try_from_code(response.error_code) {
            // Who is not allowed to ask has verified nothing, and clients have no use for the reason.
            Some(ErrorCode::ClusterAuthorizationFailed) => Some(ErrorCode::InvalidTxnState),
            code => code,
        },
    };
    let mut codes: BTreeMap<(&str, &str, i32), i16> = BTreeMap::new();
    let transactions = response.map(|response| response.results_by_transaction.as_slice());
    for transaction in transactions.unwrap_or_default() {
        for topic in &transaction.topic_results {
            for partition in &topic.results_by_partition {
                let id = transaction.transactional_id.0.as_str();
                let place = (id, topic.name.0.as_str(), partition.partition_index);
                codes.insert(place, partition.partition_error_code);
            }
        }
    }
    for one in round {
        let id = one.transaction.transactional_id.as_str();
        let refused = match of_all {
            Some(code) => refuse_all(one.partitions, code),
            None => {
                let code_of = |partition: &TopicPartition| {
                    match codes.get(&(id, &*partition.topic, partition.partition)) {
                        Some(0) => None,
                        Some(code) => {
                            Some(ErrorCode::try_from_code(*code).unwrap_or(ErrorCode::UnknownServerError))
                        }
                        // What was not answered was not verified.
                        None => Some(ErrorCode::NetworkException),
                    }
                };
                let partitions = one.partitions.into_iter();
                partitions
                    .filter_map(|partition| code_of(&partition).map(|code| (partition, code)))
                    .collect()
            }
        };
        // Whoever asked may have gone.
        _ = one.answer.send(refused);
    }
}

fn refuse_all(partitions: Vec<TopicPartition>, code: ErrorCode) -> Refused {
    partitions
        .into_iter()
        .map(|partition| (partition, code))
        .collect()
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::add_partitions_to_txn_response::{
        AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
    };
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;
    use crate::names::text;

    fn waiting(
        id: &str,
        epoch: i16,
        operation: Operation,
        partitions: &[(&str, i32)],
    ) -> (Waiting, oneshot::Receiver<Refused>) {
        let (answer, answered) = oneshot::channel();
        let transaction = Transaction {
            transactional_id: text(id),
            producer_id: 7,
            producer_epoch: epoch,
            operation,
        };
        let partitions = partitions
            .iter()
            .map(|(topic, index)| TopicPartition::new(*topic, *index));
        let waiting = Waiting {
            transaction,
            partitions: partitions.collect(),
            answer,
        };
        (waiting, answered)
    }

    fn names(round: &[Waiting]) -> Vec<(&str, i16)> {
        let name = |one: &Waiting| {
            (
                one.transaction.transactional_id.as_str().to_owned(),
                one.transaction.producer_epoch,
            )
        };
        let owned: Vec<_> = round.iter().map(name).collect();
        owned
            .into_iter()
            .map(|(id, epoch)| (&*id.leak(), epoch))
            .collect()
    }

    #[tokio::test]
    async fn who_finds_no_room_to_wait_is_told() {
        let (config, _) = ServerConfig::load(None, std::iter::empty(), &[]).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let verifier = Verifier::new(Handle::current(), 1, &config, log);
        let enqueue = || {
            let (waiting, answered) = waiting("a", 0, Operation::Add, &[("t", 0)]);
            (verifier.enqueue(2, waiting), answered)
        };
        let mut answers: Vec<_> = (0..=WAITING_MAX).map(|_| enqueue()).collect();
        let starts = answers.iter().filter(|(starts, _)| *starts).count();
        assert_eq!(starts, 1, "one task serves all");
        let (_, mut without_room) = answers.pop().unwrap();
        assert_eq!(without_room.try_recv(), Err(TryRecvError::Closed));
        let waits = |(_, answered): &mut (bool, oneshot::Receiver<Refused>)| {
            answered.try_recv() == Err(TryRecvError::Empty)
        };
        assert!(answers.iter_mut().all(waits));
    }

    #[test]
    fn a_round_has_one_transaction_of_each_name_and_its_partitions_together() {
        let mut queue: VecDeque<Waiting> = [
            waiting("a", 0, Operation::Add, &[("t", 0), ("t", 1)]).0,
            waiting("b", 0, Operation::Verify, &[("t", 0)]).0,
            waiting("a", 0, Operation::Add, &[("t", 1), ("u", 0)]).0,
            waiting("a", 1, Operation::Add, &[("t", 0)]).0,
            waiting("a", 0, Operation::Add, &[("u", 5)]).0,
            waiting("b", 0, Operation::Add, &[("t", 0)]).0,
        ]
        .into();
        let round = take_round(&mut queue);
        assert_eq!(names(&round), [("a", 0), ("b", 0), ("a", 0)]);
        let request = request(&round);
        let shape: Vec<_> = request
            .transactions
            .iter()
            .map(|one| {
                let topics: Vec<_> = one
                    .topics
                    .iter()
                    .map(|topic| (topic.name.0.as_str(), topic.partitions.clone()))
                    .collect();
                (one.transactional_id.0.as_str(), one.verify_only, topics)
            })
            .collect();
        assert_eq!(
            shape,
            [
                ("a", false, vec![("t", vec![0, 1]), ("u", vec![0])]),
                ("b", true, vec![("t", vec![0])])
            ]
        );
        let round = take_round(&mut queue);
        assert_eq!(names(&round), [("a", 1), ("b", 0)], "in their order");
        assert_eq!(names(&take_round(&mut queue)), [("a", 0)]);
        assert!(take_round(&mut queue).is_empty());
    }

    fn response(id: &str, codes: &[(i32, ErrorCode)], rest: &[i32]) -> AddPartitionsToTxnResponse {
        let result = |index: i32, code: i16| {
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(index)
                .with_partition_error_code(code)
        };
        let refused = codes.iter().map(|(index, code)| result(*index, code.code()));
        let agreed = rest.iter().map(|index| result(*index, 0));
        let topic = AddPartitionsToTxnTopicResult::default()
            .with_name(topic_name("t"))
            .with_results_by_partition(refused.chain(agreed).collect());
        let transaction = AddPartitionsToTxnResult::default()
            .with_transactional_id(TransactionalId(text(id)))
            .with_topic_results(vec![topic]);
        AddPartitionsToTxnResponse::default().with_results_by_transaction(vec![transaction])
    }

    #[test]
    fn everybody_gets_their_part_of_the_answer() {
        let (one, mut first) = waiting("a", 0, Operation::Add, &[("t", 0), ("t", 1)]);
        let (two, mut second) = waiting("a", 0, Operation::Add, &[("t", 2), ("t", 9)]);
        let answer = response("a", &[(1, ErrorCode::ConcurrentTransactions)], &[0, 2]);
        settle(vec![one, two], Some(&answer));
        let t = |index| TopicPartition::new("t", index);
        assert_eq!(
            first.try_recv().unwrap(),
            [(t(1), ErrorCode::ConcurrentTransactions)]
        );
        assert_eq!(
            second.try_recv().unwrap(),
            [(t(9), ErrorCode::NetworkException)],
            "what is not answered is not verified"
        );
    }

    #[test]
    fn an_error_of_the_request_is_everybody_s() {
        for (response, expected) in [
            (None, ErrorCode::NetworkException),
            (
                Some(ErrorCode::ClusterAuthorizationFailed),
                ErrorCode::InvalidTxnState,
            ),
            (Some(ErrorCode::NotCoordinator), ErrorCode::NotCoordinator),
        ] {
            let (one, mut answered) = waiting("a", 0, Operation::Add, &[("t", 0)]);
            let response =
                response.map(|code| AddPartitionsToTxnResponse::default().with_error_code(code.code()));
            settle(vec![one], response.as_ref());
            let refused = answered.try_recv().unwrap();
            assert_eq!(refused, [(TopicPartition::new("t", 0), expected)]);
        }
    }
}
