//! Producer states as bytes, for the log's index.
//!
//! Version 2, big endian: version (1), count (4), then per producer: id (8), epoch (2), coordinator epoch (4), last
//! timestamp (8), last offset or -1 (8), first offset of the open transaction or -1 (8), count of batches (1), and per batch
//! first and last sequence (4 each), base and last offset (8 each), timestamp (8). Version 1 has no last offset, which is that
//! of the last batch then. Transactions whose marker is not replicated yet are not kept: after a restart the high watermark
//! bounds the stable offset.

use std::collections::VecDeque;

use super::{BATCHES_RETAINED, BatchMetadata, ProducerState, ProducerStates};

const VERSION: u8 = 2;
/// From before the last offset was kept.
const VERSION_WITHOUT_LAST_OFFSET: u8 = 1;

impl ProducerStates {
    /// The states as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let count = u32::try_from(self.producers.len()).expect("producers_max bounds the count");
        bytes.extend_from_slice(&count.to_be_bytes());
        for (producer_id, state) in &self.producers {
            bytes.extend_from_slice(&producer_id.to_be_bytes());
            bytes.extend_from_slice(&state.producer_epoch.to_be_bytes());
            bytes.extend_from_slice(&state.coordinator_epoch.to_be_bytes());
            bytes.extend_from_slice(&state.last_timestamp.to_be_bytes());
            bytes.extend_from_slice(&state.last_offset.to_be_bytes());
            bytes.extend_from_slice(&state.current_txn_first_offset.unwrap_or(-1).to_be_bytes());
            bytes.push(u8::try_from(state.batches.len()).expect("at most five batches are kept"));
            for batch in &state.batches {
                bytes.extend_from_slice(&batch.first_sequence.to_be_bytes());
                bytes.extend_from_slice(&batch.last_sequence.to_be_bytes());
                bytes.extend_from_slice(&batch.base_offset.to_be_bytes());
                bytes.extend_from_slice(&batch.last_offset.to_be_bytes());
                bytes.extend_from_slice(&batch.timestamp.to_be_bytes());
            }
        }
        bytes
    }

    /// Replaces the states by what [`ProducerStates::encode`] wrote; None, and no state, if the bytes are not that.
    #[must_use]
    pub fn decode(bytes: &[u8], producers_max: usize) -> Option<Self> {
        let mut reader = Reader(bytes);
        let [version] = reader.take()?;
        if version != VERSION && version != VERSION_WITHOUT_LAST_OFFSET {
            return None;
        }
        let count = u32::from_be_bytes(reader.take()?);
        let mut states = Self::new(producers_max);
        for _ in 0..count {
            let producer_id = i64::from_be_bytes(reader.take()?);
            let state = reader.producer(version)?;
            if let Some(first_offset) = state.current_txn_first_offset {
                states.ongoing.insert(first_offset, producer_id);
            }
            states.producers.insert(producer_id, state);
        }
        reader.0.is_empty().then_some(states)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn producer(&mut self, version: u8) -> Option<ProducerState> {
        let producer_epoch = i16::from_be_bytes(self.take()?);
        let coordinator_epoch = i32::from_be_bytes(self.take()?);
        let last_timestamp = i64::from_be_bytes(self.take()?);
        let last_offset = if version == VERSION_WITHOUT_LAST_OFFSET {
            None
        } else {
            Some(i64::from_be_bytes(self.take()?))
        };
        let first_offset = i64::from_be_bytes(self.take()?);
        let [count] = self.take()?;
        if usize::from(count) > BATCHES_RETAINED {
            return None;
        }
        let mut batches = VecDeque::with_capacity(usize::from(count));
        for _ in 0..count {
            batches.push_back(BatchMetadata {
                first_sequence: i32::from_be_bytes(self.take()?),
                last_sequence: i32::from_be_bytes(self.take()?),
                base_offset: i64::from_be_bytes(self.take()?),
                last_offset: i64::from_be_bytes(self.take()?),
                timestamp: i64::from_be_bytes(self.take()?),
            });
        }
        let current_txn_first_offset = (first_offset >= 0).then_some(first_offset);
        let of_last_batch = || {
            batches
                .back()
                .map_or(-1, |batch: &BatchMetadata| batch.last_offset)
        };
        let last_offset = last_offset.unwrap_or_else(of_last_batch);
        Some(ProducerState {
            producer_epoch,
            coordinator_epoch,
            last_timestamp,
            last_offset,
            current_txn_first_offset,
            batches,
        })
    }
}
