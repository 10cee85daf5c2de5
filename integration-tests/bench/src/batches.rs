//! Record batches, built once and sent again and again.
//!
//! The values are pseudo-random, so that no file system or codec gains from them by accident; those of the compressed
//! workloads look like JSON.

use anyhow::Result;
use bytes::Bytes;
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::Compression;

use crate::protocol::produce;

/// The timestamp of every record: retention never looks at them.
const TIMESTAMP_MS: i64 = 1_760_000_000_000;

/// What the values look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Noise, which does not compress.
    Noise,
    /// JSON of an order, with names that repeat and numbers that do not.
    Json,
}

/// What a batch consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// Records per batch.
    pub records: u32,
    /// Bytes of each record's value.
    pub value_bytes: usize,
    /// What the values look like.
    pub values: Values,
    /// How the batch is compressed.
    pub compression: Compression,
}

impl BatchShape {
    /// Uncompressed records of noise.
    pub const fn plain(records: u32, value_bytes: usize) -> Self {
        Self {
            records,
            value_bytes,
            values: Values::Noise,
            compression: Compression::None,
        }
    }

    /// A batch; another `seed` gives other values.
    pub fn build(&self, seed: u64) -> Bytes {
        self.fill(BatchBuilder::new(0), seed)
    }

    /// The same batch as one of a transaction, from nobody yet.
    pub fn build_transactional(&self, seed: u64) -> Bytes {
        self.fill(BatchBuilder::new(0).transactional(), seed)
    }

    fn fill(&self, builder: BatchBuilder, seed: u64) -> Bytes {
        let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut builder = builder.compression(self.compression, None);
        for number in 0..self.records {
            let value = match self.values {
                Values::Noise => noise.bytes(self.value_bytes),
                Values::Json => json(number, self.value_bytes, &mut noise),
            };
            builder.append(TIMESTAMP_MS, None, Some(&value), &[]);
        }
        builder.build()
    }

    /// Bytes of a batch without compression.
    pub fn uncompressed_bytes(&self) -> usize {
        BatchShape {
            compression: Compression::None,
            ..*self
        }
        .build(1)
        .len()
    }
}

/// Requests of a connection that are kept. To more partitions than that the same batches are sent: what a client needs must not
/// depend on their number, for it runs on the cores of what is measured.
const KEPT_MAX: usize = 25;

/// Requests that produce batches of one shape, each to whichever partition is next.
#[derive(Debug)]
pub struct Requests {
    kept: Vec<Vec<u8>>,
    /// Where in each its partition is.
    partition_at: usize,
}

impl Requests {
    /// To these partitions of a topic.
    ///
    /// # Errors
    /// A batch does not fit a request.
    pub fn new(topic: &str, partitions: &[i32], acks: i16, shape: &BatchShape) -> Result<Self> {
        let kept = partitions.iter().take(KEPT_MAX).map(|&partition| {
            let seed = u64::try_from(partition).expect("partitions are numbered from 0") + 1;
            produce::request(topic, partition, acks, &shape.build(seed))
        });
        Ok(Self {
            kept: kept.collect::<Result<_>>()?,
            partition_at: produce::partition_at(topic),
        })
    }

    /// The request to the partition that has this place among those of the connection.
    pub fn to(&mut self, place: usize, partition: i32) -> &mut [u8] {
        let number = place % self.kept.len();
        let request = &mut self.kept[number];
        request[self.partition_at..self.partition_at + 4].copy_from_slice(&partition.to_be_bytes());
        request
    }
}

/// A small generator of numbers (xorshift64*), the same on every machine.
#[derive(Debug)]
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

fn json(number: u32, count: usize, noise: &mut Noise) -> Vec<u8> {
    let mut text = format!(
        r#"{{"order_id":{},"customer":"customer-{}","created_at":"2026-11-28T12:{:02}:{:02}Z","items":["#,
        noise.next() >> 20,
        noise.next() % 10_000,
        number % 60,
        noise.next() % 60,
    );
    while text.len() < count {
        text.push_str(&format!(
            r#"{{"sku":"SKU-{:06}","quantity":{},"price_cents":{},"warehouse":"berlin-{}"}},"#,
            noise.next() % 1_000_000,
            noise.next() % 9 + 1,
            noise.next() % 100_000,
            noise.next() % 4,
        ));
    }
    let mut bytes = text.into_bytes();
    bytes.truncate(count);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek_common::records::batch;
    use odradek_common::records::record::{decoded_section, records};

    fn values(bytes: &Bytes) -> Vec<Vec<u8>> {
        let (header, section) = decoded_section(bytes, 1 << 24).unwrap();
        let found = records(&header, &section);
        found
            .map(|record| record.unwrap().value.unwrap().to_vec())
            .collect()
    }

    #[test]
    fn a_few_requests_serve_any_number_of_partitions() {
        let shape = BatchShape::plain(3, 50);
        // The name's letters come in the header too.
        for topic in [
            "t",
            "bench",
            "a-topic-with-a-name-of-200-letters-and-more".repeat(5).as_str(),
        ] {
            let partitions: Vec<i32> = (1_000..1_060).collect();
            let mut requests = Requests::new(topic, &partitions, 1, &shape).unwrap();
            assert_eq!(requests.kept.len(), KEPT_MAX);
            for (place, &partition) in partitions.iter().enumerate() {
                let seed = 1_001 + (place % KEPT_MAX) as u64;
                let wanted = produce::request(topic, partition, 1, &shape.build(seed)).unwrap();
                assert_eq!(requests.to(place, partition), wanted, "{topic} {partition}");
            }
        }
    }

    #[test]
    fn a_batch_holds_what_its_shape_says_with_a_good_crc() {
        let built = BatchShape::plain(63, 1000).build(1);
        batch::verify_crc(&built).unwrap();
        let values = values(&built);
        assert_eq!(values.len(), 63);
        assert!(values.iter().all(|value| value.len() == 1000));
        assert_ne!(values[0], values[1]);
    }

    #[test]
    fn every_codec_yields_the_same_records_in_fewer_bytes() {
        let plain = BatchShape {
            records: 100,
            value_bytes: 1000,
            values: Values::Json,
            compression: Compression::None,
        };
        for compression in [
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ] {
            let built = BatchShape { compression, ..plain }.build(3);
            batch::verify_crc(&built).unwrap();
            assert_eq!(values(&built), values(&plain.build(3)), "{compression:?}");
            assert!(
                built.len() * 3 < plain.uncompressed_bytes() * 2,
                "{compression:?}: {}",
                built.len()
            );
        }
    }
}
