//! Reads a partition of a coordinator's topic for the shard that is to coordinate it.
//!
//! Everything that was in the log when leadership began must be committed before anything is read: what a later leader
//! could truncate is never shown to a client. Records of transactions come with their producer, markers with their outcome;
//! other control records are left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use odradek_broker_core::coordination::LogEntry;
use odradek_broker_log::read::Patience;
use odradek_common::error::ErrorCode;
use odradek_common::records::batch::{BatchHeader, batches};
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

/// Entries of one read, and where the next one begins; `None` at the end.
struct Part {
    entries: Vec<LogEntry>,
    next_offset: Option<i64>,
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
        self.await_commit().await?;
        let _permit = loads
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let mut next_offset = Some(self.replica.offsets().log_start);
        while let Some(offset) = next_offset {
            let reader = self.clone();
            let part = tokio::task::spawn_blocking(move || reader.read(offset)).await;
            let part = part.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
            if parts.send(Loaded::Entries(part.entries)).await.is_err() {
                return Ok(());
            }
            next_offset = part.next_offset;
        }
        Ok(())
    }

    /// Waits until the high watermark covers the log as it is now.
    async fn await_commit(&self) -> Result<(), LoadError> {
        let end = self.replica.offsets().log_end;
        let Some(committed) = self.replica.await_commit(self.leader_epoch, end) else {
            return Ok(());
        };
        match committed.await {
            // The high watermark has passed the records, whatever happened to the ISR since.
            Ok(Ok(()) | Err(ErrorCode::NotEnoughReplicasAfterAppend)) => Ok(()),
            Ok(Err(code)) => Err(LoadError::Refused(code)),
            Err(_) => Err(LoadError::Refused(ErrorCode::NotLeaderOrFollower)),
        }
    }

    /// Reads from `offset` on. Blocks.
    fn read(&self, offset: i64) -> Result<Part, LoadError> {
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
                    Ok(Part {
                        entries: Vec::new(),
                        next_offset: Some(log_start),
                    })
                } else {
                    Err(refused)
                };
            }
            Err(code) => return Err(LoadError::Refused(code)),
        };
        match plan.slice {
            Some(slice) if !slice.is_empty() => decode(offset, &slice.read()?),
            Some(_) | None => Ok(Part {
                entries: Vec::new(),
                next_offset: None,
            }),
        }
    }
}

/// The entries of whole batches from `offset` on.
fn decode(offset: i64, bytes: &[u8]) -> Result<Part, LoadError> {
    let mut part = Part {
        entries: Vec::new(),
        next_offset: None,
    };
    for batch in batches(bytes) {
        let (header, batch) = batch.map_err(|source| LoadError::Batch {
            offset,
            source: source.into(),
        })?;
        part.next_offset = Some(header.next_offset());
        decode_batch(offset, &header, batch, &mut part.entries).map_err(|source| LoadError::Batch {
            offset: header.base_offset,
            source,
        })?;
    }
    Ok(part)
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

    #[test]
    fn transactions_come_with_their_producers_and_their_ends() {
        let marker = EndTransactionMarker {
            result: TransactionResult::Abort,
            coordinator_epoch: 1,
        };
        let bytes = [
            batch(BatchBuilder::new(0), &["a", "b"]),
            batch(BatchBuilder::new(2).producer(7, 0, 0).transactional(), &["open"]),
            // Base offsets are the log's; only the order counts here.
            marker.to_batch(0, 7, 0),
            batch(
                BatchBuilder::new(4).producer(7, 0, -1).transactional().control(),
                &["no marker"],
            ),
            batch(BatchBuilder::new(5), &["c"]),
        ]
        .concat();
        let part = decode(0, &bytes).unwrap();
        assert_eq!(keys(&part), ["a", "b", "open of 7", "Abort of 7", "c"]);
        assert_eq!(part.next_offset, Some(6));
    }

    #[test]
    fn records_before_the_offset_are_left_out() {
        let part = decode(11, &batch(BatchBuilder::new(10), &["a", "b", "c"])).unwrap();
        assert_eq!(keys(&part), ["b", "c"]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_not_the_end() {
        let mut bytes = batch(BatchBuilder::new(0), &["a"]).to_vec();
        let last = bytes.len() - 1;
        bytes[last] = 0x7f;
        assert!(matches!(
            decode(0, &bytes),
            Err(LoadError::Batch { offset: 0, .. })
        ));
    }
}
