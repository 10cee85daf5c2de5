//! What producers sent and when it was due, for the consumers of the same run.
//!
//! A partition that one connection fills has its batches in the order of sending, so the offset of a record says when it
//! was due: batches need no stamp and no new checksum. The topic must be empty at the start.

use crate::clock::Nanos;

/// Batches by partition, in the order of sending.
#[derive(Debug)]
pub struct Ledger {
    partitions: Vec<Vec<Nanos>>,
    records_per_batch: u32,
    producers: usize,
    finished: usize,
}

impl Ledger {
    /// Nothing sent yet.
    pub fn new(partitions: usize, records_per_batch: u32) -> Self {
        Self {
            partitions: vec![Vec::new(); partitions],
            records_per_batch,
            producers: 0,
            finished: 0,
        }
    }

    /// All of a topic that holds so many batches in every partition.
    pub fn filled(partitions: usize, batches: u64, records_per_batch: u32) -> Self {
        let batches = usize::try_from(batches).expect("batches fit the memory");
        Self {
            partitions: vec![vec![0; batches]; partitions],
            ..Self::new(0, records_per_batch)
        }
    }

    /// One more producer will send.
    pub fn join(&mut self) {
        self.producers += 1;
    }

    /// A producer has all its answers and sends no more.
    pub fn finish(&mut self) {
        self.finished += 1;
    }

    /// A batch is sent, which was due at `due`.
    pub fn sent(&mut self, partition: i32, due: Nanos) {
        self.partitions[place(partition)].push(due);
    }

    /// When the batch of the record at `offset` was due; none if nobody sent it.
    pub fn due(&self, partition: i32, offset: i64) -> Option<Nanos> {
        let batch = usize::try_from(offset / i64::from(self.records_per_batch)).ok()?;
        self.partitions[place(partition)].get(batch).copied()
    }

    /// The offset after the last record that was sent, once all producers have finished.
    pub fn end(&self, partition: i32) -> Option<i64> {
        let batches = i64::try_from(self.partitions[place(partition)].len()).expect("batches fit i64");
        (self.finished == self.producers).then_some(batches * i64::from(self.records_per_batch))
    }

    /// Records that were sent to these partitions.
    pub fn records_of(&self, partitions: impl Iterator<Item = i32>) -> u64 {
        let batches: usize = partitions
            .map(|partition| self.partitions[place(partition)].len())
            .sum();
        batches as u64 * u64::from(self.records_per_batch)
    }
}

fn place(partition: i32) -> usize {
    usize::try_from(partition).expect("partitions are numbered from 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_say_when_their_batch_was_due() {
        let mut ledger = Ledger::new(2, 10);
        ledger.join();
        ledger.sent(1, 500);
        ledger.sent(1, 700);
        assert_eq!(ledger.due(1, 0), Some(500));
        assert_eq!(ledger.due(1, 19), Some(700));
        assert_eq!(ledger.due(1, 20), None);
        assert_eq!(ledger.end(1), None);
        ledger.finish();
        assert_eq!((ledger.end(0), ledger.end(1)), (Some(0), Some(20)));
        assert_eq!(ledger.records_of([0, 1].into_iter()), 20);
    }
}
