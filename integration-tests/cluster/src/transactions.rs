//! A transactional producer that speaks either version of the protocol, and finds its coordinator and leaders again after
//! whatever happened to them.
//!
//! What clients are to try again it tries again; everything else is handed to the test.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, BrokerId, EndTxnRequest, FindCoordinatorRequest,
    GroupId, InitProducerIdRequest, MetadataResponse, ProducerId, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::Request;
use odradek_common::error::ErrorCode;

use crate::asks::{produce_request, text, topic_name};
use crate::connection::Connection;
use crate::records::transactional;
use crate::wait::eventually;

/// Until something comes true that clients are to wait for.
const LIMIT: Duration = Duration::from_secs(60);
/// For one attempt.
const ATTEMPT: Duration = Duration::from_secs(5);
const TRANSACTION_KEY: i8 = 1;
const GROUP_KEY: i8 = 0;

/// Which side of `transaction.version` 2 a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Partitions are added by the client, and an epoch lasts for many transactions.
    Explicit,
    /// Brokers add partitions, and each end raises the epoch (KIP-890).
    Implicit,
}

impl Protocol {
    fn produce(self) -> i16 {
        match self {
            Self::Explicit => 11,
            Self::Implicit => 12,
        }
    }

    fn end_txn(self) -> i16 {
        match self {
            Self::Explicit => 4,
            Self::Implicit => 5,
        }
    }
}

/// One producer.
#[derive(Debug)]
pub struct TransactionalProducer {
    addresses: Vec<String>,
    protocol: Protocol,
    transactional_id: String,
    timeout_ms: i32,
    /// Its id; -1 before [`TransactionalProducer::init`].
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    sequences: BTreeMap<(String, i32), i32>,
    added: BTreeSet<(String, i32)>,
    connections: BTreeMap<String, Connection>,
}

impl TransactionalProducer {
    /// A producer that nobody knows yet.
    #[must_use]
    pub fn new(addresses: Vec<String>, protocol: Protocol, transactional_id: &str) -> Self {
        Self {
            addresses,
            protocol,
            transactional_id: transactional_id.to_owned(),
            timeout_ms: 60_000,
            producer_id: -1,
            epoch: -1,
            sequences: BTreeMap::new(),
            added: BTreeSet::new(),
            connections: BTreeMap::new(),
        }
    }

    /// The same with another `transaction.timeout.ms`.
    #[must_use]
    pub fn with_timeout_ms(self, timeout_ms: i32) -> Self {
        Self { timeout_ms, ..self }
    }

    /// Takes the transactional id over: whoever had it is fenced, and what was open is aborted.
    ///
    /// # Errors
    /// What is final.
    pub async fn init(&mut self) -> Result<(), ErrorCode> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(self.id()))
            .with_transaction_timeout_ms(self.timeout_ms)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let response = self
            .ask_coordinator(
                TRANSACTION_KEY,
                &self.transactional_id.clone(),
                4,
                request,
                |response| response.error_code,
            )
            .await?;
        (self.producer_id, self.epoch) = (response.producer_id.0, response.producer_epoch);
        self.sequences.clear();
        self.added.clear();
        Ok(())
    }

    /// Sends one batch of values within the transaction; its base offset.
    ///
    /// # Errors
    /// What is final.
    pub async fn produce(&mut self, topic: &str, partition: i32, values: &[&str]) -> Result<i64, ErrorCode> {
        if self.protocol == Protocol::Explicit {
            self.add_partition(topic, partition).await?;
        }
        self.produce_only(topic, partition, values).await
    }

    /// As [`TransactionalProducer::produce`], without adding the partition first.
    ///
    /// # Errors
    /// What is final.
    pub async fn produce_only(
        &mut self,
        topic: &str,
        partition: i32,
        values: &[&str],
    ) -> Result<i64, ErrorCode> {
        let key = (topic.to_owned(), partition);
        let sequence = *self.sequences.entry(key.clone()).or_insert(0);
        let batch = transactional(self.producer_id, self.epoch, sequence, values);
        let request = produce_request(topic, partition, -1, &batch)
            .with_timeout_ms(4_000)
            .with_transactional_id(Some(self.id()));
        let version = self.protocol.produce();
        let offset = eventually("a transactional produce", LIMIT, async || {
            let Some(leader) = self.leader(topic, partition).await else {
                return Err("no leader".to_owned());
            };
            let sent = leader
                .client()
                .send_within(version, request.clone(), ATTEMPT)
                .await;
            let response = sent.map_err(|error| self.forget(&error.to_string()))?;
            let answer = &response.responses[0].partition_responses[0];
            outcome(answer.error_code).map(|outcome| outcome.map(|()| answer.base_offset))
        })
        .await?;
        let count = i32::try_from(values.len()).expect("few values");
        self.sequences.insert(key, sequence + count);
        Ok(offset)
    }

    /// Adds a partition to the transaction, once.
    ///
    /// # Errors
    /// What is final.
    pub async fn add_partition(&mut self, topic: &str, partition: i32) -> Result<(), ErrorCode> {
        let key = (topic.to_owned(), partition);
        if self.added.contains(&key) {
            return Ok(());
        }
        let topic = AddPartitionsToTxnTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.id())
            .with_v3_and_below_producer_id(ProducerId(self.producer_id))
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![topic]);
        self.ask_coordinator(
            TRANSACTION_KEY,
            &self.transactional_id.clone(),
            3,
            request,
            |response| response.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code,
        )
        .await?;
        self.added.insert(key);
        Ok(())
    }

    /// Commits how far a group has read, as part of the transaction; without membership.
    ///
    /// # Errors
    /// What is final.
    pub async fn commit_offset(
        &mut self,
        group: &str,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<(), ErrorCode> {
        if self.protocol == Protocol::Explicit {
            let request = AddOffsetsToTxnRequest::default()
                .with_transactional_id(self.id())
                .with_producer_id(ProducerId(self.producer_id))
                .with_producer_epoch(self.epoch)
                .with_group_id(GroupId(text(group)));
            self.ask_coordinator(
                TRANSACTION_KEY,
                &self.transactional_id.clone(),
                3,
                request,
                |response| response.error_code,
            )
            .await?;
        }
        let partition = TxnOffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_metadata(None);
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(self.id())
            .with_group_id(GroupId(text(group)))
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_generation_id(-1)
            .with_topics(vec![topic]);
        let version = match self.protocol {
            Protocol::Explicit => 3,
            Protocol::Implicit => 5,
        };
        self.ask_coordinator(GROUP_KEY, group, version, request, |response| {
            response.topics[0].partitions[0].error_code
        })
        .await?;
        Ok(())
    }

    /// Commits.
    ///
    /// # Errors
    /// What is final.
    pub async fn commit(&mut self) -> Result<(), ErrorCode> {
        self.end(true).await
    }

    /// Aborts.
    ///
    /// # Errors
    /// What is final.
    pub async fn abort(&mut self) -> Result<(), ErrorCode> {
        self.end(false).await
    }

    async fn end(&mut self, committed: bool) -> Result<(), ErrorCode> {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.id())
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_committed(committed);
        let version = self.protocol.end_txn();
        let response = self
            .ask_coordinator(
                TRANSACTION_KEY,
                &self.transactional_id.clone(),
                version,
                request,
                |response| response.error_code,
            )
            .await?;
        self.added.clear();
        if self.protocol == Protocol::Implicit {
            (self.producer_id, self.epoch) = (response.producer_id.0, response.producer_epoch);
            self.sequences.clear();
        }
        Ok(())
    }

    fn id(&self) -> TransactionalId {
        TransactionalId(text(&self.transactional_id))
    }

    /// Asks the coordinator of a key until it says something final; the answer, or its error.
    async fn ask_coordinator<R: Request + Clone>(
        &mut self,
        key_type: i8,
        key: &str,
        version: i16,
        request: R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response, ErrorCode> {
        eventually(&format!("an answer to API {}", R::KEY), LIMIT, async || {
            let Some(coordinator) = self.coordinator(key_type, key).await else {
                return Err("no coordinator".to_owned());
            };
            let sent = coordinator
                .client()
                .send_within(version, request.clone(), ATTEMPT)
                .await;
            let response = sent.map_err(|error| self.forget(&error.to_string()))?;
            outcome(code(&response)).map(|outcome| outcome.map(|()| response))
        })
        .await
    }

    async fn coordinator(&mut self, key_type: i8, key: &str) -> Option<Connection> {
        let request = FindCoordinatorRequest::default()
            .with_key_type(key_type)
            .with_coordinator_keys(vec![text(key)]);
        for address in self.addresses.clone() {
            let Some(connection) = self.connection(&address).await else {
                continue;
            };
            let asked = connection.client().send_within(4, request.clone(), ATTEMPT).await;
            let Ok(found) = asked else { continue };
            let found = &found.coordinators[0];
            if found.error_code == 0 {
                return self.connection(&format!("{}:{}", found.host, found.port)).await;
            }
        }
        None
    }

    async fn leader(&mut self, topic: &str, partition: i32) -> Option<Connection> {
        for address in self.addresses.clone() {
            let Some(connection) = self.connection(&address).await else {
                continue;
            };
            let request = kafka_protocol::messages::MetadataRequest::default()
                .with_topics(Some(vec![
                    kafka_protocol::messages::metadata_request::MetadataRequestTopic::default()
                        .with_name(Some(topic_name(topic))),
                ]))
                .with_allow_auto_topic_creation(false);
            let Ok(metadata) = connection.client().send_within(12, request, ATTEMPT).await else {
                continue;
            };
            if let Some(leader) = leader_address(&metadata, partition) {
                return self.connection(&leader).await;
            }
        }
        None
    }

    async fn connection(&mut self, address: &str) -> Option<Connection> {
        if let Some(connection) = self.connections.get(address)
            && !connection.client().is_closed()
        {
            return Some(connection.clone());
        }
        let connection = Connection::try_open(address).await.ok()?;
        self.connections.insert(address.to_owned(), connection.clone());
        Some(connection)
    }

    /// After a failure nothing is believed of the connections that there were.
    fn forget(&mut self, reason: &str) -> String {
        self.connections.clear();
        reason.to_owned()
    }
}

fn leader_address(metadata: &MetadataResponse, partition: i32) -> Option<String> {
    let partitions = metadata.topics.first()?.partitions.iter();
    let found = partitions
        .into_iter()
        .find(|one| one.partition_index == partition)?;
    let id: BrokerId = found.leader_id;
    let broker = metadata.brokers.iter().find(|broker| broker.node_id == id)?;
    Some(format!("{}:{}", broker.host, broker.port))
}

/// An error is to be tried again, or final.
fn outcome(error_code: i16) -> Result<Result<(), ErrorCode>, String> {
    let Some(code) = ErrorCode::try_from_code(error_code) else {
        return Ok(Ok(()));
    };
    match code {
        ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator
        | ErrorCode::ConcurrentTransactions
        | ErrorCode::NotLeaderOrFollower
        | ErrorCode::LeaderNotAvailable
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut
        | ErrorCode::KafkaStorageError
        | ErrorCode::NetworkException
        | ErrorCode::UnknownTopicOrPartition => Err(format!("{code:?}")),
        code => Ok(Err(code)),
    }
}
