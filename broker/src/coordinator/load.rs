//! Reads a partition of a coordinator's topic for the shard that is to coordinate it.
//!
//! Everything that was in the log when leadership began must be committed before anything is read: what a later leader
//! could truncate is never shown to a client. It is read to that end or not at all: a damaged batch is an error, never taken
//! for the end of the log. Records of transactions come with their producer, markers with their outcome; other control
//! records are left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use odradek_broker_core::coordination::LogEntry;
use odradek_broker_log::read::Patience;
use odradek_common::error::ErrorCode;
use odradek_common::records::batch::{BatchError, BatchHeader, batches, verify_crc};
use odradek_common::records::compression::DECOMPRESSED_BYTES_MAX;
use odradek_common::records::control::EndTransactionMarker;
use odradek_common::records::record::{RecordError, decoded_section, records};
use tokio::sync::{Semaphore, mpsc};

use crate::replica::Replica;
use crate::replica::reading::{Isolation, ReadRequest};

/// Parts that were read and not replayed yet.
const PARTS_AHEAD: usize = 1;

/// What the reader hands to the shard, in order.
#[derive(Debug)]
pub(super) enum Loaded {
    /// Entries in offset order.
    Entries(Vec<LogEntry>),
    /// There are no more.
    Done,
    /// The log cannot be read, or is led elsewhere by now.
    Failed(LoadError),
}

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// The replica refuses.
    #[error("the replica does not answer: {0:?}")]
    Refused(ErrorCode),
    /// The segment's file cannot be read.
    #[error("a segment cannot be read")]
    Io(#[from] std::io::Error),
    /// Bytes that are no batch, or a batch whose records cannot be read.
    #[error("the batch at or after offset {offset} cannot be read")]
    Batch {
        /// Where the read began, or the batch.
        offset: i64,
        /// What is wrong.
        #[source]
        source: RecordError,
    },
    /// A whole batch whose offsets do not belong where it lies.
    #[error("the batch at or after offset {offset} says that it begins at {base_offset}")]
    Misplaced {
        /// Where the read began, or the batch before it ended.
        offset: i64,
        /// What its header says.
        base_offset: i64,
    },
}

/// Logs that are read at the same time are bounded; what reading took is counted.
#[derive(Debug)]
pub(super) struct Loads {
    permits: Semaphore,
    count: AtomicU64,
    time_ms: AtomicU64,
}

/// What loading has taken since the start of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadTotals {
    /// Logs that were read.
    pub count: u64,
    /// How long that took, waiting included.
    pub time: Duration,
}

impl Loads {
    /// At most so many at once.
    pub(super) fn new(at_once: usize) -> Self {
        Self {
            permits: Semaphore::new(at_once),
            count: AtomicU64::new(0),
            time_ms: AtomicU64::new(0),
        }
    }

    /// A log was read in that time.
    pub(super) fn loaded(&self, time_ms: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.time_ms.fetch_add(time_ms, Ordering::Relaxed);
    }

    /// Everything so far.
    pub(super) fn totals(&self) -> LoadTotals {
        LoadTotals {
            count: self.count.load(Ordering::Relaxed),
            time: Duration::from_millis(self.time_ms.load(Ordering::Relaxed)),
        }
    }
}

/// One replica in one leader epoch.
#[derive(Clone)]
pub(super) struct LogReader {
    pub(super) replica: Arc<Replica>,
    pub(super) leader_epoch: i32,
    /// Bytes to read at once.
    pub(super) buffer_bytes: usize,
}

/// Entries of one read, and where the next one begins.
#[derive(Debug)]
struct Part {
    entries: Vec<LogEntry>,
    next_offset: i64,
}

impl Part {
    /// Nothing up to there.
    fn gap(next_offset: i64) -> Self {
        Self {
            entries: Vec::new(),
            next_offset,
        }
    }
}

impl LogReader {
    /// Begins to read. The reader ends when the receiver is dropped, or after [`Loaded::Done`] or [`Loaded::Failed`].
    pub(super) fn start(self, loads: Arc<Loads>) -> mpsc::Receiver<Loaded> {
        let (parts, receiver) = mpsc::channel(PARTS_AHEAD);
        tokio::spawn(async move {
            let last = match self.read_all(&loads, &parts).await {
                Ok(()) => Loaded::Done,
                Err(error) => Loaded::Failed(error),
            };
            // Nobody listens any more if leadership was lost meanwhile.
            _ = parts.send(last).await;
        });
        receiver
    }

    async fn read_all(&self, loads: &Loads, parts: &mpsc::Sender<Loaded>) -> Result<(), LoadError> {
        let end = self.await_commit().await?;
        let _permit = loads
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let mut offset = self.replica.offsets().log_start;
        while offset < end {
            let reader = self.clone();
            let part = tokio::task::spawn_blocking(move || reader.read(offset, end)).await;
            let part = part.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
            if parts.send(Loaded::Entries(part.entries)).await.is_err() {
                return Ok(());
            }
            offset = part.next_offset;
        }
        Ok(())
    }

    /// Waits until the high watermark covers the log as it is now; returns its end.
    async fn await_commit(&self) -> Result<i64, LoadError> {
        let end = self.replica.offsets().log_end;
        let Some(committed) = self.replica.await_commit(self.leader_epoch, end) else {
            return Ok(end);
        };
        match committed.await {
            // The high watermark has passed the records, whatever happened to the ISR since.
            Ok(Ok(()) | Err(ErrorCode::NotEnoughReplicasAfterAppend)) => Ok(end),
            Ok(Err(code)) => Err(LoadError::Refused(code)),
            Err(_) => Err(LoadError::Refused(ErrorCode::NotLeaderOrFollower)),
        }
    }

    /// Reads from `offset` on, which is before `end`. Blocks.
    fn read(&self, offset: i64, end: i64) -> Result<Part, LoadError> {
        let request = ReadRequest {
            offset,
            max_bytes: self.buffer_bytes,
            min_one_batch: true,
            isolation: Isolation::ReadUncommitted,
            current_leader_epoch: self.leader_epoch,
            last_fetched_epoch: -1,
            follower_may_answer: false,
            patience: Patience::Wait,
        };
        let plan = match self.replica.read(request) {
            Ok(plan) => plan,
            Err(ErrorCode::OffsetOutOfRange) => {
                let log_start = self.replica.offsets().log_start;
                let moved = log_start > offset;
                let refused = LoadError::Refused(ErrorCode::OffsetOutOfRange);
                return if moved {
                    Ok(Part::gap(log_start))
                } else {
                    Err(refused)
                };
            }
            Err(code) => return Err(LoadError::Refused(code)),
        };
        match plan.slice {
            Some(slice) if !slice.is_empty() => decode(offset, slice.end_offset, &slice.read()?),
            // Compaction has left nothing of the log's last offsets.
            Some(_) | None if plan.offsets.high_watermark >= end => Ok(Part::gap(end)),
            Some(_) | None => Err(LoadError::Refused(ErrorCode::OffsetNotAvailable)),
        }
    }
}

/// The entries of whole batches from `offset` on, none of which reaches `end_offset`. There is one at least.
fn decode(offset: i64, end_offset: i64, bytes: &[u8]) -> Result<Part, LoadError> {
    let mut part = Part::gap(offset);
    let mut found = batches(bytes);
    for batch in &mut found {
        let unreadable = |source| LoadError::Batch {
            offset: part.next_offset,
            source,
        };
        let (header, batch) = batch.map_err(|source| unreadable(source.into()))?;
        verify_crc(batch).map_err(|source| unreadable(source.into()))?;
        // The checksum does not cover the base offset. The first batch may begin before what was asked for.
        let is_first = part.next_offset == offset;
        let is_after = header.base_offset >= part.next_offset || is_first;
        if !is_after || header.next_offset() <= part.next_offset || header.next_offset() > end_offset {
            return Err(LoadError::Misplaced {
                offset: part.next_offset,
                base_offset: header.base_offset,
            });
        }
        decode_batch(offset, &header, batch, &mut part.entries).map_err(unreadable)?;
        part.next_offset = header.next_offset();
    }
    if found.consumed_bytes() == 0 {
        return Err(LoadError::Batch {
            offset,
            source: cut_off(bytes).into(),
        });
    }
    Ok(part)
}

/// What is wrong with bytes that end before their first batch does.
fn cut_off(bytes: &[u8]) -> BatchError {
    match BatchHeader::parse(bytes) {
        Ok(header) => BatchError::Truncated {
            needed: header.size_bytes(),
            available: bytes.len(),
        },
        Err(error) => error,
    }
}

fn decode_batch(
    offset: i64,
    header: &BatchHeader,
    batch: &[u8],
    out: &mut Vec<LogEntry>,
) -> Result<(), RecordError> {
    let producer_id = header.is_transactional().then_some(header.producer_id);
    let (_, section) = decoded_section(batch, DECOMPRESSED_BYTES_MAX)?;
    for record in records(header, &section) {
        let record = record?;
        let Some(key) = record.key.filter(|_| record.offset >= offset) else {
            continue;
        };
        if header.is_control() {
            let marker = EndTransactionMarker::decode(key, record.value.unwrap_or_default());
            // Other control records are no end of a transaction.
            out.extend(marker.ok().map(|marker| LogEntry::EndOfTransaction {
                producer_id: header.producer_id,
                result: marker.result,
            }));
            continue;
        }
        out.push(LogEntry::Record {
            producer_id,
            key: Bytes::copy_from_slice(key),
            value: record.value.map(Bytes::copy_from_slice),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek_common::records::builder::BatchBuilder;
    use odradek_common::records::control::TransactionResult;

    fn batch(builder: BatchBuilder, keys: &[&str]) -> Bytes {
        let mut builder = builder;
        for key in keys {
            builder.append(0, Some(key.as_bytes()), None, &[]);
        }
        builder.build()
    }

    /// Keys, those of transactions with their producer; markers by producer and outcome.
    fn keys(part: &Part) -> Vec<String> {
        let describe = |entry: &LogEntry| match entry {
            LogEntry::Record { producer_id, key, .. } => {
                let of = producer_id.map_or_else(String::new, |id| format!(" of {id}"));
                format!("{}{of}", std::str::from_utf8(key).unwrap())
            }
            LogEntry::EndOfTransaction { producer_id, result } => format!("{result:?} of {producer_id}"),
        };
        part.entries.iter().map(describe).collect()
    }

    /// A batch of the log, which gives every batch its place.
    fn at(base_offset: i64, batch: Bytes) -> Bytes {
        let mut batch = batch.to_vec();
        batch[..8].copy_from_slice(&base_offset.to_be_bytes());
        batch.into()
    }

    fn three() -> Vec<u8> {
        let of = |base_offset, key| batch(BatchBuilder::new(base_offset), &[key]);
        [of(0, "a"), of(1, "b"), of(2, "c")].concat()
    }

    #[test]
    fn transactions_come_with_their_producers_and_their_ends() {
        let marker = EndTransactionMarker {
            result: TransactionResult::Abort,
            coordinator_epoch: 1,
        };
        let bytes = [
            batch(BatchBuilder::new(0), &["a", "b"]),
            batch(BatchBuilder::new(2).producer(7, 0, 0).transactional(), &["open"]),
            at(3, marker.to_batch(0, 7, 0)),
            batch(
                BatchBuilder::new(4).producer(7, 0, -1).transactional().control(),
                &["no marker"],
            ),
            batch(BatchBuilder::new(5), &["c"]),
        ]
        .concat();
        let part = decode(0, 6, &bytes).unwrap();
        assert_eq!(keys(&part), ["a", "b", "open of 7", "Abort of 7", "c"]);
        assert_eq!(part.next_offset, 6);
    }

    #[test]
    fn records_before_the_offset_are_left_out() {
        let part = decode(11, 13, &batch(BatchBuilder::new(10), &["a", "b", "c"])).unwrap();
        assert_eq!(keys(&part), ["b", "c"]);
    }

    #[test]
    fn compaction_leaves_gaps() {
        let bytes = [
            batch(BatchBuilder::new(5), &["a"]),
            batch(BatchBuilder::new(9), &["b"]),
        ]
        .concat();
        let part = decode(2, 20, &bytes).unwrap();
        assert_eq!(
            (keys(&part), part.next_offset),
            (vec!["a".into(), "b".into()], 10)
        );
    }

    #[test]
    fn no_damaged_byte_is_taken_for_the_end_or_for_a_record() {
        let bytes = three();
        assert_eq!(keys(&decode(0, 3, &bytes).unwrap()), ["a", "b", "c"]);
        // The leader epoch, which no checksum covers and nobody reads here.
        let epoch = 12..16;
        for index in (0..bytes.len() / 3).filter(|index| !epoch.contains(index)) {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[index] ^= 1 << bit;
                let decoded = decode(0, 3, &damaged);
                assert!(decoded.is_err(), "byte {index}, bit {bit}: {decoded:?}");
            }
        }
    }

    #[test]
    fn what_is_damaged_further_on_is_left_to_the_next_read() {
        let mut bytes = three();
        let second = bytes.len() / 3;
        // The greatest bit of its length but the sign.
        bytes[second + 8] ^= 0x40;
        let part = decode(0, 3, &bytes).unwrap();
        assert_eq!((keys(&part), part.next_offset), (vec!["a".into()], 1));
        let next = decode(1, 3, &bytes[second..]);
        assert!(
            matches!(next, Err(LoadError::Batch { offset: 1, .. })),
            "{next:?}"
        );
    }
}
