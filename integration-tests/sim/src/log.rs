//! A partition's log in memory, which loses what was not flushed when the power goes, and nothing when only the process dies.

use odradek_broker_core::leader_epochs::LeaderEpochs;
use odradek_broker_core::partition::ReplicaLog;
use odradek_broker_core::producer_state::{AppendOrigin, Check, ProducerStates};
use odradek_common::error::ErrorCode;
use odradek_common::records::batch::BatchHeader;
use odradek_common::time::Now;

use crate::rng::Rng;

/// What a producer sends.
#[derive(Clone, Debug)]
pub struct ProducerBatch {
    /// -1 without idempotence.
    pub producer_id: i64,
    /// Sequence of the first record; -1 without idempotence.
    pub base_sequence: i32,
    /// One number for each record, unlike any other.
    pub values: Vec<u64>,
}

/// A batch in a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Offsets, epoch, producer.
    pub header: BatchHeader,
    /// The records.
    pub values: Vec<u64>,
}

/// A log.
#[derive(Debug)]
pub struct SimLog {
    batches: Vec<Batch>,
    epochs: LeaderEpochs,
    producers: ProducerStates,
    high_watermark: i64,
    end: i64,
    /// Everything below survives a power cut.
    flushed: i64,
    /// `flush.messages` is 1: nothing is vouched for that is not flushed.
    flush_each: bool,
    checkpointed_high_watermark: i64,
}

impl Default for SimLog {
    fn default() -> Self {
        Self {
            batches: Vec::new(),
            epochs: LeaderEpochs::new(),
            producers: ProducerStates::new(1_000),
            high_watermark: 0,
            end: 0,
            flushed: 0,
            flush_each: false,
            checkpointed_high_watermark: 0,
        }
    }
}

impl SimLog {
    /// Epoch and value of the record at an offset.
    #[must_use]
    pub fn record(&self, offset: i64) -> Option<(i32, u64)> {
        let at = self
            .batches
            .partition_point(|batch| batch.header.base_offset <= offset)
            .checked_sub(1)?;
        let batch = &self.batches[at];
        let delta = usize::try_from(offset - batch.header.base_offset).ok()?;
        Some((batch.header.partition_leader_epoch, *batch.values.get(delta)?))
    }

    /// Epoch of the last record; -1 if there is none.
    #[must_use]
    pub fn last_record_epoch(&self) -> i32 {
        self.batches
            .last()
            .map_or(-1, |batch| batch.header.partition_leader_epoch)
    }

    /// Batches from an offset on.
    #[must_use]
    pub fn read(&self, offset: i64, batches_max: usize) -> Vec<Batch> {
        let from = self
            .batches
            .partition_point(|batch| batch.header.next_offset() <= offset);
        self.batches[from..].iter().take(batches_max).cloned().collect()
    }

    /// Appends as the leader; the first and the last offset, of the earlier append if it is a duplicate.
    ///
    /// # Errors
    /// The producer's state refuses it.
    pub fn append_as_leader(
        &mut self,
        now: Now,
        leader_epoch: i32,
        produced: &ProducerBatch,
    ) -> Result<(i64, i64), ErrorCode> {
        let header = self.header(now, leader_epoch, produced);
        match self.producers.check(&header, AppendOrigin::Client) {
            Check::Fresh => {}
            Check::Duplicate {
                base_offset,
                last_offset,
                ..
            } => return Ok((base_offset, last_offset)),
            Check::Refused(error) => return Err(error.code),
        }
        let offsets = (header.base_offset, header.last_offset());
        self.append(Batch {
            header,
            values: produced.values.clone(),
        });
        Ok(offsets)
    }

    fn header(&self, now: Now, leader_epoch: i32, produced: &ProducerBatch) -> BatchHeader {
        let count = i32::try_from(produced.values.len()).expect("few records");
        BatchHeader {
            base_offset: self.end,
            batch_length: 49,
            partition_leader_epoch: leader_epoch,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: now.wall_ms,
            max_timestamp: now.wall_ms,
            producer_id: produced.producer_id,
            producer_epoch: if produced.producer_id < 0 { -1 } else { 0 },
            base_sequence: produced.base_sequence,
            record_count: count,
        }
    }

    /// Appends what the leader sent. False if it does not continue this log.
    pub fn append_as_follower(&mut self, batches: &[Batch]) -> bool {
        for batch in batches {
            if batch.header.base_offset < self.end {
                return false;
            }
            self.append(batch.clone());
        }
        true
    }

    fn append(&mut self, batch: Batch) {
        self.epochs
            .assign(batch.header.partition_leader_epoch, batch.header.base_offset);
        self.producers.record(&batch.header);
        self.end = batch.header.next_offset();
        self.batches.push(batch);
    }

    /// Whether `flush.messages` is 1.
    pub fn set_flush_each(&mut self, flush_each: bool) {
        self.flush_each = flush_each;
    }

    /// Whether an append waits for a flush.
    #[must_use]
    pub fn is_flush_due(&self) -> bool {
        self.durable_end_offset() < self.end
    }

    /// Everything is safe from power cuts, and the high watermark is written down.
    pub fn flush(&mut self) {
        self.flushed = self.end;
        self.checkpointed_high_watermark = self.high_watermark;
    }

    /// Writes the high watermark down.
    pub fn checkpoint(&mut self) {
        self.checkpointed_high_watermark = self.high_watermark;
    }

    /// The process died; the kernel keeps what was written.
    pub fn killed(&mut self) {
        self.high_watermark = self.checkpointed_high_watermark.min(self.end);
        self.rebuild_producers();
    }

    /// The power went: some of what was not flushed is gone.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        let lost = self
            .batches
            .iter()
            .filter(|batch| batch.header.base_offset >= self.flushed)
            .count();
        let kept = rng.below(lost as u64 + 1);
        let at = self.batches.len() - lost + usize::try_from(kept).expect("at most as many as there are");
        let end = self
            .batches
            .get(at)
            .map_or(self.end, |batch| batch.header.base_offset);
        self.cut(end);
        self.killed();
    }

    fn cut(&mut self, offset: i64) {
        self.batches.retain(|batch| batch.header.next_offset() <= offset);
        self.end = self.batches.last().map_or(0, |batch| batch.header.next_offset());
        self.epochs.truncate_from_end(self.end);
        self.flushed = self.flushed.min(self.end);
        self.high_watermark = self.high_watermark.min(self.end);
        self.checkpointed_high_watermark = self.checkpointed_high_watermark.min(self.end);
        self.rebuild_producers();
    }

    fn rebuild_producers(&mut self) {
        self.producers.clear();
        for batch in &self.batches {
            self.producers.record(&batch.header);
        }
    }
}

impl ReplicaLog for SimLog {
    type Error = std::convert::Infallible;

    fn log_start_offset(&self) -> i64 {
        0
    }

    fn log_end_offset(&self) -> i64 {
        self.end
    }

    fn durable_end_offset(&self) -> i64 {
        if self.flush_each { self.flushed } else { self.end }
    }

    fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    fn set_high_watermark(&mut self, offset: i64) {
        self.high_watermark = offset;
    }

    fn latest_epoch(&self) -> Option<i32> {
        self.epochs.latest_epoch()
    }

    fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        self.epochs.end_offset_for(epoch, self.end)
    }

    fn assign_epoch(&mut self, epoch: i32) -> Result<(), Self::Error> {
        self.epochs.assign(epoch, self.end);
        Ok(())
    }

    fn truncate_to(&mut self, _now: Now, offset: i64) -> Result<(), Self::Error> {
        if offset >= self.end {
            self.epochs.truncate_from_end(offset);
        } else {
            self.cut(offset);
        }
        Ok(())
    }

    fn truncate_fully_and_start_at(&mut self, _now: Now, offset: i64) -> Result<(), Self::Error> {
        assert_eq!(offset, 0, "no log of this simulation begins elsewhere");
        self.cut(0);
        Ok(())
    }
}
