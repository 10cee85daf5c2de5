//! Records on their way into batches, one batch per partition at a time.

use std::collections::BTreeMap;

use bytes::Bytes;
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::Compression;

use super::partitioner;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it was read.
    pub timestamp_ms: i64,
    /// Its key, if it has one.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
}

/// Records of one partition, in order.
#[derive(Debug)]
pub struct Batch {
    /// The partition.
    pub partition: i32,
    /// At least one.
    pub records: Vec<Record>,
}

/// Spreads records over partitions: by key, else one partition after the other, changing with every request.
#[derive(Debug)]
pub struct Batcher {
    partitions: usize,
    keyless: usize,
    records: BTreeMap<i32, Vec<Record>>,
    size_bytes: usize,
}

impl Batcher {
    /// For a topic with so many partitions.
    pub fn new(partitions: usize) -> Self {
        Self {
            partitions,
            keyless: 0,
            records: BTreeMap::new(),
            size_bytes: 0,
        }
    }

    /// Adds a record.
    pub fn push(&mut self, record: Record) {
        let partition = match &record.key {
            Some(key) => partitioner::partition(key, self.partitions),
            None => i32::try_from(self.keyless % self.partitions).expect("partitions are counted in i32"),
        };
        let length = |field: &Option<Bytes>| field.as_ref().map_or(0, Bytes::len);
        self.size_bytes += length(&record.key) + length(&record.value);
        self.records.entry(partition).or_default().push(record);
    }

    /// Keys and values that wait.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// What waits, one batch per partition.
    pub fn drain(&mut self) -> Vec<Batch> {
        self.keyless += 1;
        self.size_bytes = 0;
        let records = std::mem::take(&mut self.records);
        records
            .into_iter()
            .map(|(partition, records)| Batch { partition, records })
            .collect()
    }
}

impl Batch {
    /// The bytes for a produce request; `producer` is id, epoch and first sequence number.
    pub fn encode(&self, compression: Compression, producer: Option<(i64, i16, i32)>) -> Bytes {
        let mut builder = BatchBuilder::new(0).compression(compression, None);
        if let Some((id, epoch, sequence)) = producer {
            builder = builder.producer(id, epoch, sequence);
        }
        for record in &self.records {
            builder.append(
                record.timestamp_ms,
                record.key.as_deref(),
                record.value.as_deref(),
                &[],
            );
        }
        builder.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek_common::records::batch::BatchHeader;

    fn record(key: Option<&'static str>) -> Record {
        let key = key.map(|key| Bytes::from_static(key.as_bytes()));
        Record {
            timestamp_ms: 1,
            key,
            value: Some(Bytes::from_static(b"v")),
        }
    }

    #[test]
    fn records_of_one_key_share_a_partition_and_others_change_it_with_every_request() {
        let mut batcher = Batcher::new(3);
        batcher.push(record(Some("k")));
        batcher.push(record(Some("k")));
        assert_eq!(batcher.size_bytes(), 4);
        let batches = batcher.drain();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].records.len(), 2);
        let keyless: Vec<i32> = (0..3)
            .map(|_| {
                batcher.push(record(None));
                batcher.drain()[0].partition
            })
            .collect();
        assert_eq!(keyless, [1, 2, 0]);
    }

    #[test]
    fn a_batch_carries_its_producer() {
        let batch = Batch {
            partition: 0,
            records: vec![record(None), record(None)],
        };
        let header = BatchHeader::parse(&batch.encode(Compression::None, Some((7, 1, 5)))).expect("parses");
        assert_eq!(
            (header.producer_id, header.producer_epoch, header.base_sequence),
            (7, 1, 5)
        );
        assert_eq!(header.record_count, 2);
        let header = BatchHeader::parse(&batch.encode(Compression::Gzip, None)).expect("parses");
        assert!(!header.has_producer_id());
    }
}
