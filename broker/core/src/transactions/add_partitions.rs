//! Partitions that belong to a transaction: added by clients and brokers, verified for brokers (KIP-890).

use std::collections::BTreeSet;

use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::ids::TopicPartition;
use odradek_common::time::Now;

use super::metadata::{ProducerIdAndEpoch, TransactionMetadata, TransactionState};
use super::{Then, TransactionRequest, TransactionResponse, TransactionShard};
use crate::coordination::RequestToken;

impl TransactionShard {
    pub(super) fn add_partitions(&mut self, now: Now, token: RequestToken, request: TransactionRequest) {
        let TransactionRequest::AddPartitions {
            ref transactional_id,
            producer,
            ref partitions,
            client_version,
        } = request
        else {
            unreachable!("only AddPartitions is dispatched here");
        };
        let current = match self.of_producer(transactional_id, producer) {
            Ok(current) => current,
            Err(ErrorCode::ConcurrentTransactions) => return self.park(now, token, request),
            Err(code) => return self.reply(token, request.refuse(code)),
        };
        let is_open = current.state == TransactionState::Ongoing;
        if is_open && partitions.is_subset(&current.partitions) {
            return self.reply(token, TransactionResponse::AddPartitions(Ok(())));
        }
        let mut next = TransactionMetadata {
            last_update_timestamp_ms: now.wall_ms,
            client_transaction_version: client_version,
            ..current.next(TransactionState::Ongoing)
        };
        if !is_open {
            next.start_timestamp_ms = now.wall_ms;
        }
        next.partitions.extend(partitions.iter().cloned());
        let last_producer_epoch = self.last_producer_epoch(transactional_id);
        self.append(
            transactional_id,
            Some(next),
            last_producer_epoch,
            Then::Added(token),
        );
    }

    fn of_producer(
        &self,
        transactional_id: &StrBytes,
        producer: ProducerIdAndEpoch,
    ) -> Result<&TransactionMetadata, ErrorCode> {
        // First of all: the producer may have been told of a producer id that is not in force before its record is.
        if self.is_in_transition(transactional_id) {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let current = self.replicated.get(transactional_id);
        let current = current.ok_or(ErrorCode::InvalidProducerIdMapping)?;
        self.check_producer(transactional_id, current, producer)?;
        Ok(current)
    }

    /// Which of the partitions belong to the open transaction. Records on their way are not waited for: the partition looks
    /// once more when it appends.
    pub(super) fn verify_partitions(
        &self,
        transactional_id: &StrBytes,
        producer: ProducerIdAndEpoch,
        partitions: &BTreeSet<TopicPartition>,
    ) -> Result<Vec<(TopicPartition, bool)>, ErrorCode> {
        let current = self.replicated.get(transactional_id);
        let current = current.ok_or(ErrorCode::InvalidProducerIdMapping)?;
        self.check_producer(transactional_id, current, producer)?;
        let verified = partitions
            .iter()
            .map(|partition| (partition.clone(), current.partitions.contains(partition)));
        Ok(verified.collect())
    }

    fn check_producer(
        &self,
        transactional_id: &StrBytes,
        current: &TransactionMetadata,
        producer: ProducerIdAndEpoch,
    ) -> Result<(), ErrorCode> {
        if current.producer_id != producer.producer_id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if self.epoch(transactional_id, current) != producer.epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        if current.prepared_result().is_some() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        Ok(())
    }
}
