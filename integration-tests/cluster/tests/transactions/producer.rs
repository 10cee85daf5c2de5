//! A transactional producer that says what the test says.

use std::time::Duration;

use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, DescribeTransactionsRequest, EndTxnRequest, EndTxnResponse,
    FindCoordinatorRequest, InitProducerIdRequest, InitProducerIdResponse, ProducerId, TransactionalId,
};
use odradek_cluster_tests::asks::{OK, PRODUCE_BY_NAME, code, produce_request, text, topic_name};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::records;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;

/// Until a state is there that needs other nodes.
pub const LIMIT: Duration = Duration::from_secs(60);
/// EndTxn that keeps the producer's epoch.
pub const WITHOUT_BUMP: i16 = 4;
/// EndTxn that takes the next one (KIP-890).
pub const WITH_BUMP: i16 = 5;
/// AddPartitionsToTxn of clients.
pub const ADD_VERSION: i16 = 3;
const INIT_VERSION: i16 = 5;
const TRANSACTION: i8 = 1;
const TIMEOUT_MS: i32 = 60_000;

pub struct Producer {
    pub transactional_id: String,
    /// To its coordinator.
    pub coordinator: Connection,
    pub id: i64,
    pub epoch: i16,
    sequence: i32,
}

/// What may pass by trying again.
fn may_pass(error_code: i16) -> bool {
    [
        ErrorCode::CoordinatorLoadInProgress,
        ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotCoordinator,
        ErrorCode::ConcurrentTransactions,
    ]
    .iter()
    .any(|error| code(*error) == error_code)
}

/// Node id and address of the coordinator of a transactional id.
pub async fn find(connection: &Connection, transactional_id: &str) -> (i32, String) {
    let request = FindCoordinatorRequest::default()
        .with_key_type(TRANSACTION)
        .with_coordinator_keys(vec![text(transactional_id)]);
    eventually("the transactional id has a coordinator", LIMIT, async || {
        let answer = connection.ask_at(4, request.clone()).await.coordinators[0].clone();
        holds(answer.error_code == OK, format!("{answer:?}"))?;
        Ok((answer.node_id.0, format!("{}:{}", answer.host, answer.port)))
    })
    .await
}

impl Producer {
    /// The next producer of the transactional id.
    pub async fn begin(any: &Connection, transactional_id: &str) -> Self {
        Self::begin_with(any, transactional_id, TIMEOUT_MS).await
    }

    pub async fn begin_with(any: &Connection, transactional_id: &str, timeout_ms: i32) -> Self {
        let request = init_request(transactional_id, timeout_ms);
        let (coordinator, answer) = eventually("a producer begins", LIMIT, async || {
            let (_, address) = find(any, transactional_id).await;
            let coordinator = Connection::try_open(&address)
                .await
                .map_err(|error| error.to_string())?;
            let answer = coordinator.try_ask_at(INIT_VERSION, request.clone()).await;
            let answer = answer.map_err(|error| error.to_string())?;
            holds(!may_pass(answer.error_code), format!("{answer:?}"))?;
            Ok((coordinator, answer))
        })
        .await;
        assert_eq!(answer.error_code, OK);
        Self {
            transactional_id: transactional_id.to_owned(),
            coordinator,
            id: answer.producer_id.0,
            epoch: answer.producer_epoch,
            sequence: 0,
        }
    }

    /// Goes to the coordinator of now.
    pub async fn move_to_coordinator(&mut self, any: &Connection) {
        let transactional_id = self.transactional_id.clone();
        self.coordinator = eventually("another coordinator", LIMIT, async || {
            let (_, address) = find(any, &transactional_id).await;
            let coordinator = Connection::try_open(&address)
                .await
                .map_err(|error| error.to_string())?;
            let described = describe(&coordinator, &transactional_id).await;
            holds(!may_pass(described.error_code), format!("{described:?}"))?;
            Ok(coordinator)
        })
        .await;
    }

    /// What AddPartitionsToTxn says of each partition.
    pub async fn try_add(&self, version: i16, topic: &str, partitions: &[i32]) -> Vec<i16> {
        let topic = AddPartitionsToTxnTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(partitions.to_vec());
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(id(&self.transactional_id))
            .with_v3_and_below_producer_id(ProducerId(self.id))
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![topic]);
        let answer = self.coordinator.ask_at(version, request).await;
        let topics = answer.results_by_topic_v3_and_below.iter();
        let partitions = topics.flat_map(|topic| &topic.results_by_partition);
        partitions
            .map(|partition| partition.partition_error_code)
            .collect()
    }

    /// Adds partitions, as clients do: again while the last transaction is not over.
    pub async fn add(&self, topic: &str, partitions: &[i32]) {
        eventually("partitions are added", LIMIT, async || {
            let codes = self.try_add(ADD_VERSION, topic, partitions).await;
            holds(!codes.iter().any(|code| may_pass(*code)), format!("{codes:?}"))?;
            assert!(codes.iter().all(|code| *code == OK), "{codes:?}");
            Ok(())
        })
        .await;
    }

    /// Writes to the leader of a partition that was added.
    pub async fn produce(&mut self, leader: &Connection, topic: &str, partition: i32, values: &[&str]) {
        let batch = records::transactional(self.id, self.epoch, self.sequence, values);
        self.sequence += i32::try_from(values.len()).expect("few values");
        let request = produce_request(topic, partition, -1, &batch)
            .with_transactional_id(Some(id(&self.transactional_id)));
        eventually("records are written", LIMIT, async || {
            let answer = leader.ask_at(PRODUCE_BY_NAME, request.clone()).await;
            let code = answer.responses[0].partition_responses[0].error_code;
            holds(!may_pass(code), format!("{answer:?}"))?;
            assert_eq!(code, OK, "{answer:?}");
            Ok(())
        })
        .await;
    }

    pub async fn try_end(&self, version: i16, committed: bool) -> EndTxnResponse {
        let request = EndTxnRequest::default()
            .with_transactional_id(id(&self.transactional_id))
            .with_producer_id(ProducerId(self.id))
            .with_producer_epoch(self.epoch)
            .with_committed(committed);
        self.coordinator.ask_at(version, request).await
    }

    /// Ends the transaction and goes on as the answer says.
    pub async fn end(&mut self, version: i16, committed: bool) {
        let answer = eventually("the transaction ends", LIMIT, async || {
            let answer = self.try_end(version, committed).await;
            holds(!may_pass(answer.error_code), format!("{answer:?}"))?;
            Ok(answer)
        })
        .await;
        assert_eq!(answer.error_code, OK);
        if version >= WITH_BUMP {
            self.id = answer.producer_id.0;
            self.epoch = answer.producer_epoch;
            self.sequence = 0;
        }
    }

    /// Waits until the transaction is in this state.
    pub async fn is_in(&self, state: &str) -> TransactionState {
        is_in(&self.coordinator, &self.transactional_id, state).await
    }
}

pub async fn is_in(coordinator: &Connection, transactional_id: &str, state: &str) -> TransactionState {
    let what = format!("{transactional_id} is in {state}");
    eventually(&what, LIMIT, async || {
        let described = describe(coordinator, transactional_id).await;
        holds(
            described.transaction_state.as_str() == state,
            format!("{described:?}"),
        )?;
        Ok(described)
    })
    .await
}

pub async fn describe(coordinator: &Connection, transactional_id: &str) -> TransactionState {
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![id(transactional_id)]);
    let answer = coordinator.ask(request).await;
    answer.transaction_states[0].clone()
}

pub fn id(transactional_id: &str) -> TransactionalId {
    TransactionalId(text(transactional_id))
}

pub fn init_request(transactional_id: &str, timeout_ms: i32) -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(Some(id(transactional_id)))
        .with_transaction_timeout_ms(timeout_ms)
}

/// InitProducerId until its answer is final.
pub async fn init(
    coordinator: &Connection,
    version: i16,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    eventually("InitProducerId is answered", LIMIT, async || {
        let answer = coordinator.ask_at(version, request.clone()).await;
        holds(!may_pass(answer.error_code), format!("{answer:?}"))?;
        Ok(answer)
    })
    .await
}
