//! The end of a transaction: asked for by its producer, by a producer that takes its place, or by its timeout.
//!
//! Two protocols end transactions. Below version 2 the producer keeps its epoch, and an end that is repeated is told by the
//! state alone. From version 2 on every end takes the next epoch (KIP-890), so that an epoch belongs to one transaction, a
//! repeated end is told by its epoch, and a producer may abort without knowing whether it has begun.

use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::records::control::TransactionResult;
use odradek_common::time::Now;

use super::metadata::{
    EPOCH_BUMP_SINCE, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, ProducerIdAndEpoch, TransactionMetadata,
    TransactionState, prepared_state,
};
use super::{
    Ending, Markers, Then, TimerKey, TransactionRequest, TransactionResponse, TransactionShard, Waiting,
};
use crate::coordination::RequestToken;

/// Pause before that a transaction is complete is written once more.
const COMPLETION_RETRY_MS: u64 = 100;

/// What EndTxn makes of a transaction.
enum End {
    Refuse(ErrorCode),
    /// It has been carried out before.
    Repeated,
    /// It is carried out.
    Carry,
    /// The producer aborts without having begun.
    AbortNothing,
}

impl TransactionShard {
    pub(super) fn end_transaction(&mut self, now: Now, token: RequestToken, request: TransactionRequest) {
        let TransactionRequest::EndTransaction {
            ref transactional_id,
            producer,
            result,
            client_version,
        } = request
        else {
            unreachable!("only EndTransaction is dispatched here");
        };
        let transactional_id = transactional_id.clone();
        let bumps_epoch = client_version >= EPOCH_BUMP_SINCE;
        let end = if bumps_epoch {
            self.end_with_bump(&transactional_id, producer, result)
        } else {
            self.end_without_bump(&transactional_id, producer, result)
        };
        match (end, self.replicated.get(&transactional_id).cloned()) {
            (End::Refuse(code), _) => self.reply(token, request.refuse(code)),
            (End::Repeated, Some(current)) => {
                self.reply(token, TransactionResponse::EndTransaction(Ok(current.producer())));
            }
            (End::Carry | End::AbortNothing, Some(current)) if bumps_epoch => {
                let waiting = Waiting::Request(token, request);
                self.prepare_with_bump(now, &transactional_id, current, (client_version, result), waiting);
            }
            (End::Carry, Some(current)) => {
                let prepared = prepared_without_bump(&current, result, now);
                let last_producer_epoch = self.last_producer_epoch(&transactional_id);
                let then = Then::Prepared(Ending::Asked(token));
                self.append(&transactional_id, Some(prepared), last_producer_epoch, then);
            }
            (End::AbortNothing, Some(_)) | (_, None) => {
                unreachable!("only what is known ends, and only version 2 aborts nothing")
            }
        }
    }

    fn end_without_bump(
        &self,
        transactional_id: &StrBytes,
        producer: ProducerIdAndEpoch,
        result: TransactionResult,
    ) -> End {
        let Some(current) = self.replicated.get(transactional_id) else {
            return End::Refuse(ErrorCode::InvalidProducerIdMapping);
        };
        if current.producer_id != producer.producer_id {
            return End::Refuse(ErrorCode::InvalidProducerIdMapping);
        }
        if self.epoch(transactional_id, current) != producer.epoch {
            return End::Refuse(ErrorCode::ProducerFenced);
        }
        if self.is_in_transition(transactional_id) {
            return End::Refuse(ErrorCode::ConcurrentTransactions);
        }
        match (current.state, result) {
            (TransactionState::Ongoing, _) => End::Carry,
            (TransactionState::CompleteCommit, TransactionResult::Commit)
            | (TransactionState::CompleteAbort, TransactionResult::Abort) => End::Repeated,
            (TransactionState::PrepareCommit, TransactionResult::Commit)
            | (TransactionState::PrepareAbort, TransactionResult::Abort) => {
                End::Refuse(ErrorCode::ConcurrentTransactions)
            }
            (state, _) => self.wrong_end(transactional_id, state, result),
        }
    }

    fn end_with_bump(
        &self,
        transactional_id: &StrBytes,
        producer: ProducerIdAndEpoch,
        result: TransactionResult,
    ) -> End {
        // First of all: the producer may have been told of a producer id that is not in force before its record is.
        if self.is_in_transition(transactional_id) {
            return End::Refuse(ErrorCode::ConcurrentTransactions);
        }
        let Some(current) = self.replicated.get(transactional_id) else {
            return End::Refuse(ErrorCode::InvalidProducerIdMapping);
        };
        let epoch = self.epoch(transactional_id, current);
        let after_last_epoch = current.previous_producer_id == producer.producer_id
            && producer.epoch == i16::MAX - 1
            && epoch == 0;
        if current.producer_id != producer.producer_id && !after_last_epoch {
            return End::Refuse(ErrorCode::InvalidProducerIdMapping);
        }
        let is_retry = after_last_epoch || producer.epoch.checked_add(1) == Some(epoch);
        let is_current = producer.epoch == epoch;
        match (current.state, result) {
            (TransactionState::Ongoing, _) if is_current => End::Carry,
            (TransactionState::Empty, TransactionResult::Abort) if is_current => End::AbortNothing,
            (
                TransactionState::CompleteCommit | TransactionState::CompleteAbort,
                TransactionResult::Abort,
            ) if is_current => End::AbortNothing,
            (TransactionState::CompleteCommit, TransactionResult::Commit)
            | (TransactionState::CompleteAbort, TransactionResult::Abort)
                if is_retry =>
            {
                End::Repeated
            }
            // The transaction timed out before its commit came (KAFKA-20785): over this word clients begin anew, over another they end.
            (TransactionState::CompleteAbort, TransactionResult::Commit) if is_retry => {
                End::Refuse(ErrorCode::ProducerFenced)
            }
            (TransactionState::PrepareCommit, TransactionResult::Commit)
            | (TransactionState::PrepareAbort, TransactionResult::Abort)
                if is_retry =>
            {
                End::Refuse(ErrorCode::ConcurrentTransactions)
            }
            (state @ (TransactionState::CompleteCommit | TransactionState::CompleteAbort), _)
                if is_retry || is_current =>
            {
                self.wrong_end(transactional_id, state, result)
            }
            (state @ (TransactionState::PrepareCommit | TransactionState::PrepareAbort), _) if is_retry => {
                self.wrong_end(transactional_id, state, result)
            }
            (state @ TransactionState::Empty, _) if is_current => {
                self.wrong_end(transactional_id, state, result)
            }
            (_, _) => End::Refuse(ErrorCode::ProducerFenced),
        }
    }

    fn wrong_end(
        &self,
        transactional_id: &StrBytes,
        state: TransactionState,
        result: TransactionResult,
    ) -> End {
        slog::info!(self.log, "refusing the end of a transaction"; "transactional_id" => %transactional_id,
            "state" => state.name(), "asked" => ?result);
        End::Refuse(ErrorCode::InvalidTxnState)
    }

    /// Hands out the end in the next epoch, which may want a new producer id.
    fn prepare_with_bump(
        &mut self,
        now: Now,
        transactional_id: &StrBytes,
        current: TransactionMetadata,
        (version, result): (i16, TransactionResult),
        waiting: Waiting,
    ) {
        let then = match &waiting {
            Waiting::Request(token, TransactionRequest::EndTransaction { .. }) => Ending::Asked(*token),
            Waiting::Request(token, _) => Ending::Fenced(*token),
            Waiting::TimedOut(_) => Ending::TimedOut,
        };
        let next_producer_id = if current.is_epoch_exhausted() {
            match self.producer_id_or_wait(waiting) {
                Some(producer_id) => producer_id,
                None => return,
            }
        } else {
            NO_PRODUCER_ID
        };
        let epoch = self.epoch(transactional_id, &current);
        // A transaction that was aborted before it began still has a beginning.
        let start_timestamp_ms = match current.state {
            TransactionState::Ongoing => current.start_timestamp_ms,
            _ => now.wall_ms,
        };
        let prepared = TransactionMetadata {
            producer_epoch: epoch.saturating_add(1),
            next_producer_id,
            start_timestamp_ms,
            last_update_timestamp_ms: now.wall_ms,
            client_transaction_version: version,
            ..current.next(prepared_state(result))
        };
        self.append(transactional_id, Some(prepared), epoch, Then::Prepared(then));
    }

    /// Aborts the transaction under way in an epoch that its producer does not have. What comes from no client is done in
    /// the version that the cluster has.
    pub(super) fn fence(&mut self, now: Now, transactional_id: &StrBytes, waiting: Waiting) {
        let Some(current) = self.replicated.get(transactional_id).cloned() else {
            return;
        };
        let version = self.transaction_version;
        if version >= EPOCH_BUMP_SINCE {
            let end = (version, TransactionResult::Abort);
            return self.prepare_with_bump(now, transactional_id, current, end, waiting);
        }
        let ending = match waiting {
            Waiting::Request(token, _) => Ending::Fenced(token),
            Waiting::TimedOut(_) => Ending::TimedOut,
        };
        let soft = self.soft(transactional_id);
        // An attempt whose record was refused has taken its epoch already, and nobody was told of it.
        let epoch = soft
            .fenced_epoch
            .unwrap_or(current.producer_epoch.saturating_add(1));
        soft.fenced_epoch = Some(epoch);
        let prepared = TransactionMetadata {
            producer_epoch: epoch,
            ..prepared_without_bump(&current, TransactionResult::Abort, now)
        };
        let then = Then::Prepared(ending);
        self.append(transactional_id, Some(prepared), NO_PRODUCER_EPOCH, then);
    }

    /// The end is in the log: whoever asked for it may go on.
    pub(super) fn ended(&mut self, now: Now, transactional_id: &StrBytes, ending: Ending) {
        let Some(prepared) = self.replicated.get(transactional_id) else {
            return;
        };
        let completed = prepared.completed(now.wall_ms);
        match ending {
            Ending::Asked(token) => {
                self.reply(
                    token,
                    TransactionResponse::EndTransaction(Ok(completed.producer())),
                );
            }
            Ending::Fenced(token) => {
                let try_again = Err(ErrorCode::ConcurrentTransactions);
                self.reply(token, TransactionResponse::InitProducerId(try_again));
            }
            Ending::TimedOut => slog::info!(self.log, "aborted a transaction that was open for too long";
                "transactional_id" => %transactional_id, "producer_id" => completed.producer_id),
        }
    }

    /// Hands out the markers of a transaction whose end is in the log; without partitions it is complete at once.
    pub(super) fn tell_partitions(&mut self, now: Now, transactional_id: &StrBytes) {
        let Some(prepared) = self.replicated.get(transactional_id) else {
            return;
        };
        let Some(result) = prepared.prepared_result() else {
            return;
        };
        let markers = Markers {
            transactional_id: transactional_id.clone(),
            producer: prepared.producer(),
            result,
            partitions: prepared.partitions.clone(),
            transaction_version: prepared.client_transaction_version,
        };
        let completed = prepared.completed(now.wall_ms).state;
        let soft = self.soft(transactional_id);
        soft.pending = Some(completed);
        soft.unmarked.clone_from(&markers.partitions);
        if markers.partitions.is_empty() {
            self.complete(now, transactional_id);
        } else {
            self.effects.markers.push(markers);
        }
    }

    /// Every partition knows: that is written.
    pub(super) fn complete(&mut self, now: Now, transactional_id: &StrBytes) {
        let Some(prepared) = self.replicated.get(transactional_id) else {
            return;
        };
        let completed = prepared.completed(now.wall_ms);
        let last_producer_epoch = self.last_producer_epoch(transactional_id);
        self.append(
            transactional_id,
            Some(completed),
            last_producer_epoch,
            Then::Completed,
        );
    }

    /// The record could not be written, and must be some time.
    pub(super) fn retry_completion(&mut self, now: Now, transactional_id: &StrBytes, code: ErrorCode) {
        slog::info!(self.log, "a transaction is not complete yet"; "transactional_id" => %transactional_id,
            "error" => ?code);
        let key = TimerKey::Completion(transactional_id.clone());
        self.timers.schedule(key, now.mono_ms + COMPLETION_RETRY_MS);
    }

    /// The epoch that a retry of InitProducerId may name.
    pub(super) fn last_producer_epoch(&self, transactional_id: &StrBytes) -> i16 {
        let soft = self.soft.get(transactional_id);
        soft.map_or(NO_PRODUCER_EPOCH, |soft| soft.last_producer_epoch)
    }
}

/// The end in the epoch of the producer.
fn prepared_without_bump(
    current: &TransactionMetadata,
    result: TransactionResult,
    now: Now,
) -> TransactionMetadata {
    TransactionMetadata {
        next_producer_id: NO_PRODUCER_ID,
        last_update_timestamp_ms: now.wall_ms,
        client_transaction_version: 0,
        ..current.next(prepared_state(result))
    }
}
