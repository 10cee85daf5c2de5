//! Packs what a shard wants to be appended into as few record batches as its topic allows.

use bytes::{Bytes, BytesMut};
use odradek_broker_core::coordination::{Append, AppendId, AppendKind, TransactionEnd};
use odradek_common::records::batch::{HEADER_SIZE_BYTES, NO_SEQUENCE};
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::{Compression, DECOMPRESSED_BYTES_MAX};
use odradek_common::records::control::EndTransactionMarker;

/// The most that a record needs beside its key and value: length, attributes, timestamp and offset deltas, lengths of
/// key and value, number of headers.
const RECORD_OVERHEAD_BYTES: usize = 5 + 1 + 10 + 5 + 5 + 5 + 1;

/// How batches are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchRules {
    /// `max.message.bytes` of the topic.
    pub(super) size_bytes_max: usize,
    /// The codec.
    pub(super) compression: Compression,
    /// Timestamp of every record.
    pub(super) timestamp_ms: i64,
}

/// Appends that are written together, or cannot be written at all.
#[derive(Debug)]
pub(super) enum Packed {
    /// One batch.
    Batch {
        /// Whose records they are, in order.
        ids: Vec<AppendId>,
        /// Number of records.
        records: u64,
        /// What kind of batch it is.
        kind: AppendKind,
        /// The batch.
        bytes: BytesMut,
    },
    /// The records of one decision do not fit into one batch, as its codec leaves them.
    TooLarge(AppendId),
}

/// Packs in order; the records of one append are never parted, and those of a transaction have a batch of their own.
pub(super) fn pack(appends: &[Append], rules: BatchRules) -> Vec<Packed> {
    let mut packed = Vec::new();
    let mut open = OpenBatch::new(rules);
    for append in appends {
        let size_bytes = size_bytes_max(&append.records);
        if HEADER_SIZE_BYTES + size_bytes > rules.size_bytes_max {
            // What was decided before it is written before it is reported.
            packed.extend(open.close());
            packed.push(pack_alone(append, size_bytes, rules));
            continue;
        }
        let is_alone = append.kind != AppendKind::Plain;
        if is_alone || open.builder.size_bytes() + size_bytes > rules.size_bytes_max {
            packed.extend(open.close());
        }
        match append.kind {
            AppendKind::Plain => open.add(append),
            AppendKind::Transactional(_) => {
                let mut alone = OpenBatch::of_kind(append.kind, rules);
                alone.add(append);
                packed.extend(alone.close());
            }
            AppendKind::EndOfTransaction(end) => packed.push(marker(append.id, end, rules)),
        }
    }
    packed.extend(open.close());
    packed
}

/// Packs a decision of which only the codec can tell whether it fits.
fn pack_alone(append: &Append, size_bytes: usize, rules: BatchRules) -> Packed {
    // What is larger could not be read again.
    if rules.compression == Compression::None || size_bytes > DECOMPRESSED_BYTES_MAX {
        return Packed::TooLarge(append.id);
    }
    let mut alone = OpenBatch::of_kind(append.kind, rules);
    alone.add(append);
    match alone.close() {
        Some(Packed::Batch {
            ids,
            records,
            kind,
            bytes,
        }) if bytes.len() <= rules.size_bytes_max => Packed::Batch {
            ids,
            records,
            kind,
            bytes,
        },
        Some(_) | None => Packed::TooLarge(append.id),
    }
}

fn marker(id: AppendId, end: TransactionEnd, rules: BatchRules) -> Packed {
    let marker = EndTransactionMarker {
        result: end.result,
        coordinator_epoch: end.coordinator_epoch,
    };
    let batch = marker.to_batch(rules.timestamp_ms, end.producer_id, end.producer_epoch);
    Packed::Batch {
        ids: vec![id],
        records: 1,
        kind: AppendKind::EndOfTransaction(end),
        bytes: BytesMut::from(batch),
    }
}

fn size_bytes_max(records: &[(Bytes, Option<Bytes>)]) -> usize {
    let size = |(key, value): &(Bytes, Option<Bytes>)| {
        RECORD_OVERHEAD_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len)
    };
    records.iter().map(size).sum()
}

struct OpenBatch {
    rules: BatchRules,
    kind: AppendKind,
    builder: BatchBuilder,
    ids: Vec<AppendId>,
}

impl OpenBatch {
    fn new(rules: BatchRules) -> Self {
        Self::of_kind(AppendKind::Plain, rules)
    }

    fn of_kind(kind: AppendKind, rules: BatchRules) -> Self {
        let builder = BatchBuilder::new(0).compression(rules.compression, None);
        let builder = match kind {
            AppendKind::Transactional(writer) => builder
                .producer(writer.producer_id, writer.producer_epoch, NO_SEQUENCE)
                .transactional(),
            AppendKind::Plain | AppendKind::EndOfTransaction(_) => builder,
        };
        Self {
            rules,
            kind,
            builder,
            ids: Vec::new(),
        }
    }

    fn add(&mut self, append: &Append) {
        self.ids.push(append.id);
        for (key, value) in &append.records {
            self.builder
                .append(self.rules.timestamp_ms, Some(key), value.as_deref(), &[]);
        }
    }

    fn close(&mut self) -> Option<Packed> {
        let Self {
            kind, builder, ids, ..
        } = std::mem::replace(self, Self::new(self.rules));
        let records = u64::try_from(builder.record_count()).unwrap_or(0);
        (records > 0).then(|| Packed::Batch {
            ids,
            records,
            kind,
            bytes: BytesMut::from(builder.build()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek_broker_core::coordination::TransactionWriter;
    use odradek_broker_core::producer_state::verification::Verification;
    use odradek_common::records::batch::{BatchHeader, verify_crc};
    use odradek_common::records::control::TransactionResult;
    use odradek_common::records::record::{decoded_section, records};

    fn append(id: u64, value_bytes: usize) -> Append {
        let key = Bytes::from(format!("key-{id}"));
        Append {
            id: AppendId(id),
            kind: AppendKind::Plain,
            records: vec![(key, Some(vec![b'x'; value_bytes].into()))],
        }
    }

    fn rules(size_bytes_max: usize, compression: Compression) -> BatchRules {
        BatchRules {
            size_bytes_max,
            compression,
            timestamp_ms: 1_700_000_000_000,
        }
    }

    /// Ids of each batch; an id alone in brackets that could not be written is negative.
    fn shape(packed: &[Packed]) -> Vec<Vec<i64>> {
        let number = |id: &AppendId| i64::try_from(id.0).unwrap();
        packed
            .iter()
            .map(|packed| match packed {
                Packed::Batch { ids, .. } => ids.iter().map(number).collect(),
                Packed::TooLarge(id) => vec![-number(id)],
            })
            .collect()
    }

    #[test]
    fn everything_goes_into_one_batch_if_it_fits() {
        let packed = pack(
            &[append(1, 10), append(2, 10), append(3, 10)],
            rules(1_000, Compression::None),
        );
        assert_eq!(shape(&packed), [[1, 2, 3]]);
    }

    #[test]
    fn batches_stay_within_the_topic_s_limit_and_in_order() {
        let appends: Vec<_> = (1..=6)
            .map(|id| append(id, if id == 4 { 900 } else { 200 }))
            .collect();
        let packed = pack(&appends, rules(600, Compression::None));
        assert_eq!(shape(&packed), [vec![1, 2], vec![3], vec![-4], vec![5, 6]]);
        for batch in &packed {
            if let Packed::Batch { bytes, .. } = batch {
                assert!(bytes.len() <= 600, "{} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn what_belongs_to_transactions_stands_alone_and_in_its_producer_s_name() {
        let writer = TransactionWriter {
            producer_id: 7,
            producer_epoch: 3,
            verification: Verification::Waived,
        };
        let end = TransactionEnd {
            producer_id: 7,
            producer_epoch: 4,
            coordinator_epoch: 5,
            result: TransactionResult::Commit,
            transaction_version: 2,
        };
        let transactional = |id| Append {
            kind: AppendKind::Transactional(writer),
            ..append(id, 10)
        };
        let marker = Append {
            id: AppendId(5),
            kind: AppendKind::EndOfTransaction(end),
            records: Vec::new(),
        };
        let appends = [
            append(1, 10),
            append(2, 10),
            transactional(3),
            transactional(4),
            marker,
            append(6, 10),
        ];
        let packed = pack(&appends, rules(1_000, Compression::None));
        assert_eq!(shape(&packed), [vec![1, 2], vec![3], vec![4], vec![5], vec![6]]);
        let headers: Vec<_> = packed.iter().map(header).collect();
        let described = |header: &BatchHeader| {
            (
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
                header.is_transactional(),
                header.is_control(),
            )
        };
        assert_eq!(described(&headers[0]), (-1, -1, -1, false, false));
        assert_eq!(described(&headers[1]), (7, 3, -1, true, false));
        assert_eq!(described(&headers[3]), (7, 4, -1, true, true));
        assert_eq!(described(&headers[4]), (-1, -1, -1, false, false));
        let kinds = packed.iter().map(kind);
        let expected = appends.iter().skip(1).map(|append| append.kind);
        assert!(kinds.eq(expected));
    }

    fn kind(packed: &Packed) -> AppendKind {
        match packed {
            Packed::Batch { kind, .. } => *kind,
            Packed::TooLarge(id) => panic!("{id:?} was to fit"),
        }
    }

    fn header(packed: &Packed) -> BatchHeader {
        match packed {
            Packed::Batch { bytes, .. } => BatchHeader::parse(bytes).unwrap(),
            Packed::TooLarge(id) => panic!("{id:?} was to fit"),
        }
    }

    #[test]
    fn the_limit_holds_to_the_byte() {
        let exact = HEADER_SIZE_BYTES + RECORD_OVERHEAD_BYTES + "key-1".len() + 100;
        assert_eq!(
            shape(&pack(&[append(1, 100)], rules(exact, Compression::None))),
            [[1]]
        );
        assert_eq!(
            shape(&pack(&[append(1, 100)], rules(exact - 1, Compression::None))),
            [[-1]]
        );
    }

    #[test]
    fn a_decision_fits_if_its_codec_makes_it_small_enough() {
        let writer = TransactionWriter {
            producer_id: 7,
            producer_epoch: 3,
            verification: Verification::Waived,
        };
        let transactional = Append {
            kind: AppendKind::Transactional(writer),
            ..append(3, 900)
        };
        // No codec finds anything to leave out of it.
        let mut state = 1_u64;
        let noise = (0..900).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        let incompressible = Append {
            records: vec![("noise".into(), Some(noise.collect()))],
            ..append(5, 0)
        };
        let appends = [
            append(1, 10),
            append(2, 900),
            transactional,
            append(4, 10),
            incompressible,
        ];
        let packed = pack(&appends, rules(600, Compression::Zstd));
        assert_eq!(shape(&packed), [[1], [2], [3], [4], [-5]]);
        assert_eq!(kind(&packed[2]), AppendKind::Transactional(writer));
        for batch in &packed[..4] {
            let Packed::Batch { bytes, .. } = batch else {
                panic!("{batch:?} was to fit")
            };
            assert!(bytes.len() <= 600, "{} bytes", bytes.len());
        }
    }

    #[test]
    fn a_batch_reads_as_it_was_written_in_every_codec() {
        let tombstone = Append {
            id: AppendId(9),
            kind: AppendKind::Plain,
            records: vec![("gone".into(), None)],
        };
        for codec in [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ] {
            let packed = pack(&[append(1, 50), tombstone.clone()], rules(1_000, codec));
            let [
                Packed::Batch {
                    ids,
                    records: 2,
                    kind: AppendKind::Plain,
                    bytes,
                },
            ] = packed.as_slice()
            else {
                panic!("one batch of two records, not {packed:?}");
            };
            assert_eq!(ids, &[AppendId(1), AppendId(9)]);
            verify_crc(bytes).unwrap();
            let (header, section) = decoded_section(bytes, 1 << 20).unwrap();
            let read: Vec<_> = records(&header, &section).map(Result::unwrap).collect();
            assert_eq!(read[0].key, Some(&b"key-1"[..]));
            assert_eq!(read[0].value.map(<[u8]>::len), Some(50));
            assert_eq!((read[1].key, read[1].value), (Some(&b"gone"[..]), None));
            assert_eq!(read[1].timestamp, 1_700_000_000_000);
        }
    }
}
