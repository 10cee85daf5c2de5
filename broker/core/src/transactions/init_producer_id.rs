//! InitProducerId with a transactional id: a new producer, or the same one in its next epoch, which fences every earlier one.

use std::collections::BTreeSet;

use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::time::Now;

use super::metadata::{
    NO_PRODUCER_EPOCH, ProducerIdAndEpoch, TransactionMetadata, TransactionState, is_epoch_exhausted,
};
use super::{Then, TransactionRequest, TransactionShard, Waiting};
use crate::coordination::RequestToken;

/// What InitProducerId makes of a transactional id.
enum Initialization {
    Refuse(ErrorCode),
    /// The transaction under way is aborted first.
    Fence,
    /// The producer in this epoch. A retry may name `last_producer_epoch`.
    Epoch {
        producer: ProducerIdAndEpoch,
        last_producer_epoch: i16,
    },
    /// A new producer id in its first epoch.
    NewProducerId {
        last_producer_epoch: i16,
    },
}

/// A producer that begins: how long its transactions may stay open, who it is, and the epoch that a retry may name.
struct Beginning {
    timeout_ms: i32,
    producer: ProducerIdAndEpoch,
    last_producer_epoch: i16,
}

impl TransactionShard {
    pub(super) fn init_producer_id(&mut self, now: Now, token: RequestToken, request: TransactionRequest) {
        let TransactionRequest::InitProducerId {
            ref transactional_id,
            timeout_ms,
            expected,
        } = request
        else {
            unreachable!("only InitProducerId is dispatched here");
        };
        let transactional_id = transactional_id.clone();
        match self.initialization(&transactional_id, timeout_ms, expected) {
            Initialization::Refuse(code) => self.reply(token, request.refuse(code)),
            // The epoch of this end is given to nobody: whoever asks is told to try again, and gets the next one then.
            Initialization::Fence => self.fence(now, &transactional_id, Waiting::Request(token, request)),
            Initialization::Epoch {
                producer,
                last_producer_epoch,
            } => {
                let beginning = Beginning {
                    timeout_ms,
                    producer,
                    last_producer_epoch,
                };
                self.begin(now, token, &transactional_id, &beginning);
            }
            Initialization::NewProducerId { last_producer_epoch } => {
                let Some(producer_id) = self.producer_id_or_wait(Waiting::Request(token, request)) else {
                    return;
                };
                let beginning = Beginning {
                    timeout_ms,
                    producer: ProducerIdAndEpoch {
                        producer_id,
                        epoch: 0,
                    },
                    last_producer_epoch,
                };
                self.begin(now, token, &transactional_id, &beginning);
            }
        }
    }

    fn initialization(
        &self,
        transactional_id: &StrBytes,
        timeout_ms: i32,
        expected: Option<ProducerIdAndEpoch>,
    ) -> Initialization {
        if timeout_ms <= 0 || timeout_ms > self.settings.max_timeout_ms {
            return Initialization::Refuse(ErrorCode::InvalidTransactionTimeout);
        }
        if self.is_in_transition(transactional_id) {
            return Initialization::Refuse(ErrorCode::ConcurrentTransactions);
        }
        let Some(current) = self.replicated.get(transactional_id) else {
            // KIP-360: a producer whose transactional id has expired goes on with a new producer id.
            return Initialization::NewProducerId {
                last_producer_epoch: NO_PRODUCER_EPOCH,
            };
        };
        if expected.is_some_and(|expected| !may_be(expected, current)) {
            return Initialization::Refuse(ErrorCode::ProducerFenced);
        }
        match current.state {
            TransactionState::PrepareCommit | TransactionState::PrepareAbort => {
                Initialization::Refuse(ErrorCode::ConcurrentTransactions)
            }
            TransactionState::Ongoing => Initialization::Fence,
            TransactionState::Empty | TransactionState::CompleteCommit | TransactionState::CompleteAbort => {
                self.next_epoch(transactional_id, current, expected)
            }
            TransactionState::Dead | TransactionState::PrepareEpochFence => {
                unreachable!("{:?} is never written", current.state)
            }
        }
    }

    fn next_epoch(
        &self,
        transactional_id: &StrBytes,
        current: &TransactionMetadata,
        expected: Option<ProducerIdAndEpoch>,
    ) -> Initialization {
        let epoch = current.producer_epoch;
        let is_current = expected.is_none_or(|expected| expected.epoch == epoch);
        let last_producer_epoch = expected.map_or(NO_PRODUCER_EPOCH, |_| epoch);
        if is_current && current.is_epoch_exhausted() {
            return Initialization::NewProducerId { last_producer_epoch };
        }
        if is_current {
            return Initialization::Epoch {
                producer: ProducerIdAndEpoch {
                    producer_id: current.producer_id,
                    epoch: epoch + 1,
                },
                last_producer_epoch,
            };
        }
        let last = self.last_producer_epoch(transactional_id);
        // A retry of a call that was carried out: a producer that began since would have set the last epoch to -1.
        if expected.is_some_and(|expected| expected.epoch == last) {
            return Initialization::Epoch {
                producer: current.producer(),
                last_producer_epoch: last,
            };
        }
        slog::info!(self.log, "fencing a producer"; "transactional_id" => %transactional_id,
            "epoch" => expected.map(|expected| expected.epoch), "current_epoch" => epoch);
        Initialization::Refuse(ErrorCode::ProducerFenced)
    }

    fn begin(&mut self, now: Now, token: RequestToken, transactional_id: &StrBytes, beginning: &Beginning) {
        let &Beginning {
            timeout_ms,
            producer: ProducerIdAndEpoch { producer_id, epoch },
            last_producer_epoch,
        } = beginning;
        let current = self.replicated.get(transactional_id).cloned();
        let current = current.unwrap_or_else(|| TransactionMetadata::new(producer_id, timeout_ms));
        let begun = TransactionMetadata {
            producer_id,
            producer_epoch: epoch,
            timeout_ms,
            partitions: BTreeSet::new(),
            start_timestamp_ms: -1,
            last_update_timestamp_ms: now.wall_ms,
            ..current.next(TransactionState::Empty)
        };
        let then = Then::Initialized(token);
        self.append(transactional_id, Some(begun), last_producer_epoch, then);
    }
}

/// Whether a producer that believes to be `expected` may be the one of the transactional id; its epoch is looked at later.
/// The previous producer id is right if its epochs were used up and the answer to that call was lost.
fn may_be(expected: ProducerIdAndEpoch, current: &TransactionMetadata) -> bool {
    expected.producer_id == current.producer_id
        || (expected.producer_id == current.previous_producer_id && is_epoch_exhausted(expected.epoch))
}
