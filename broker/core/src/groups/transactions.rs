//! Offsets within transactions: TxnOffsetCommit, and the markers that end what it began.
//!
//! A transaction's offsets are pending until its marker is committed: nobody is told them, and whoever asks for stable
//! offsets is told to ask again. That the transaction exists is checked by its coordinator, not here.

use std::collections::BTreeSet;

use kafka_protocol::messages::TxnOffsetCommitRequest;
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::time::Now;

use super::appends::Then;
use super::group::{Group, GroupState};
use super::records::{OffsetValue, Record};
use super::responses::txn_offset_commit_answer;
use super::{GroupResponse, GroupShard, owned};
use crate::coordination::{AppendKind, RequestToken, TransactionEnd, TransactionWriter};
use crate::producer_state::verification::Verification;

impl GroupShard {
    pub(super) fn txn_offset_commit(
        &mut self,
        now: Now,
        token: RequestToken,
        request: &TxnOffsetCommitRequest,
        verification: Verification,
    ) {
        if let Err(code) = self.validate_txn_commit(request) {
            let refusal = txn_offset_commit_answer(request, |_, _| Err(code));
            self.replies
                .push((token, GroupResponse::TxnOffsetCommit(refusal)));
            return;
        }
        let group_id = owned(&request.group_id.0);
        let mut records = Vec::new();
        let response = txn_offset_commit_answer(request, |topic, partition| {
            let metadata = partition.committed_metadata.as_ref();
            self.validate_offset_metadata(metadata)?;
            records.push(Record::Offset {
                group_id: group_id.clone(),
                topic: owned(&topic.name.0),
                partition: partition.partition_index,
                value: Some(OffsetValue {
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: metadata.map(owned).unwrap_or_default(),
                    commit_timestamp_ms: now.wall_ms,
                    expire_timestamp_ms: None,
                }),
            });
            Ok(())
        });
        let reply = (token, GroupResponse::TxnOffsetCommit(response));
        if records.is_empty() {
            self.replies.push(reply);
            return;
        }
        let writer = TransactionWriter {
            producer_id: request.producer_id.0,
            producer_epoch: request.producer_epoch,
            verification,
        };
        let pending = self
            .appends
            .push_as(AppendKind::Transactional(writer), records, Then::Nothing);
        pending.replies.push(reply);
    }

    fn validate_txn_commit(&self, request: &TxnOffsetCommitRequest) -> Result<(), ErrorCode> {
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let topics = request.topics.iter().map(|topic| &topic.name.0);
        self.validate_names(&request.group_id.0, topics)?;
        match self.groups.get(&request.group_id.0) {
            Some(group) => group.validate_txn_commit(request),
            None if request.generation_id >= 0 => Err(ErrorCode::IllegalGeneration),
            None => self.validate_new_group(),
        }
    }

    /// A marker goes into the log whether or not anything is pending: the producer's state there follows it.
    pub(super) fn end_transaction(&mut self, token: RequestToken, end: TransactionEnd) {
        let group_ids = self.groups_of_transaction(end.producer_id);
        let kind = AppendKind::EndOfTransaction(end);
        let pending = self.appends.push_as(kind, Vec::new(), Then::Nothing);
        pending.group_ids = group_ids;
        pending
            .replies
            .push((token, GroupResponse::EndTransaction(Ok(()))));
    }

    /// The groups whose offsets a producer's open transaction sets, or will set when what is under way is committed.
    fn groups_of_transaction(&self, producer_id: i64) -> BTreeSet<StrBytes> {
        let stored = self.replicated.groups_of_transaction(producer_id);
        stored
            .chain(self.appends.groups_of_transaction(producer_id))
            .cloned()
            .collect()
    }
}

impl Group {
    /// As for OffsetCommit, save that a producer which does not know its consumer's membership says nothing about it, and
    /// that it may commit what its consumer has read before a rebalance (KIP-447).
    fn validate_txn_commit(&self, request: &TxnOffsetCommitRequest) -> Result<(), ErrorCode> {
        let generation = request.generation_id;
        if generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        let names_member =
            generation >= 0 || !request.member_id.is_empty() || request.group_instance_id.is_some();
        if !names_member {
            return Ok(());
        }
        self.validate_member(&request.member_id, request.group_instance_id.as_ref())?;
        if generation == self.generation {
            Ok(())
        } else {
            Err(ErrorCode::IllegalGeneration)
        }
    }
}
