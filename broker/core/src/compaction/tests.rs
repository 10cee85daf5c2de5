//! What stays of batches, table and horizon by horizon, against hand-made histories.

use bytes::Bytes;
use odradek_common::records::batch::{batches, verify_crc};
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::Compression;
use odradek_common::records::control::{EndTransactionMarker, TransactionResult};
use odradek_common::records::record::{Header, decoded_section};

use super::*;

const NOW_MS: i64 = 1_700_000_000_000;
const RETENTION_MS: i64 = 1_000;

/// A log, as batches one after the other, and what is known beside it.
#[derive(Default)]
struct Harness {
    log: Vec<u8>,
    next_offset: i64,
    aborted: Vec<AbortedTransaction>,
    last_records: HashMap<i64, LastRecord>,
    forgotten: Vec<i64>,
    tally: Tally,
}

type Entry = (i64, Option<&'static str>, Option<&'static str>);

impl Harness {
    fn append(&mut self, batch: Bytes) -> i64 {
        let mut batch = batch.to_vec();
        let first_offset = self.next_offset;
        odradek_common::records::batch::set_base_offset(&mut batch, first_offset);
        self.next_offset = BatchHeader::parse(&batch).unwrap().next_offset();
        self.log.extend_from_slice(&batch);
        first_offset
    }

    fn append_records(&mut self, builder: BatchBuilder, entries: &[Entry]) -> i64 {
        let mut builder = builder;
        let headers = [Header {
            key: b"header",
            value: None,
        }];
        for (timestamp, key, value) in entries {
            builder.append(
                NOW_MS + timestamp,
                key.map(str::as_bytes),
                value.map(str::as_bytes),
                &headers,
            );
        }
        self.append(builder.build())
    }

    fn transaction(&mut self, producer_id: i64, key: &'static str, result: TransactionResult) {
        let builder = BatchBuilder::new(0).producer(producer_id, 0, 0).transactional();
        let first_offset = self.append_records(builder, &[(0, Some(key), Some("in a transaction"))]);
        let marker = EndTransactionMarker {
            result,
            coordinator_epoch: 1,
        };
        let last_offset = self.append(marker.to_batch(NOW_MS, producer_id, 0));
        if result == TransactionResult::Abort {
            self.aborted.push(AbortedTransaction {
                producer_id,
                first_offset,
                last_offset,
                last_stable_offset: last_offset + 1,
            });
        }
    }

    /// A pass over the whole log.
    fn pass(&mut self, after_ms: i64) {
        self.pass_with(after_ms, 0, &mut OffsetMap::new(1_000, 0.9), i64::MAX);
    }

    fn pass_with(&mut self, after_ms: i64, from: i64, keys: &mut OffsetMap, upper_bound: i64) -> i64 {
        let mut reader = KeyReader::new(from, &self.aborted);
        let mut mapped_until = self.next_offset;
        for batch in batches(&self.log) {
            let (header, batch) = batch.unwrap();
            if let Some(full_at) = reader.read(&header, batch, keys).unwrap() {
                mapped_until = full_at;
                break;
            }
        }
        let rules = Rules {
            mapped_until,
            upper_bound,
            now_ms: NOW_MS + after_ms,
            delete_retention_ms: RETENTION_MS,
        };
        let mut cleaner = BatchCleaner::new(keys, rules, &self.aborted, self.last_records.clone());
        let mut cleaned = Vec::new();
        for batch in batches(&self.log) {
            let (header, batch) = batch.unwrap();
            let before = cleaned.len();
            match cleaner.clean(&header, batch, &mut cleaned).unwrap() {
                Left::Nothing => assert_eq!(cleaned.len(), before),
                Left::Whole => cleaned.extend_from_slice(batch),
                Left::Rewritten => assert!(cleaned.len() > before),
            }
        }
        self.forgotten = cleaner.take_forgotten();
        self.tally = cleaner.tally();
        self.aborted
            .retain(|aborted| !self.forgotten.contains(&aborted.last_offset));
        self.log = cleaned;
        mapped_until
    }

    fn headers(&self) -> Vec<BatchHeader> {
        batches(&self.log)
            .map(|batch| {
                let (header, batch) = batch.unwrap();
                verify_crc(batch).unwrap();
                header
            })
            .collect()
    }

    /// Offset, timestamp, key and value of all data records.
    fn records(&self) -> Vec<(i64, i64, String, Option<String>)> {
        let mut all = Vec::new();
        for batch in batches(&self.log) {
            let (header, batch) = batch.unwrap();
            if header.is_control() {
                continue;
            }
            let (_, section) = decoded_section(batch, 1 << 20).unwrap();
            for record in records(&header, &section) {
                let record = record.unwrap();
                assert_eq!(record.headers.iter().next().unwrap().key, b"header");
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let timestamp = record.timestamp - NOW_MS;
                all.push((
                    record.offset,
                    timestamp,
                    text(record.key.unwrap()),
                    record.value.map(text),
                ));
            }
        }
        all
    }

    fn offsets(&self) -> Vec<i64> {
        self.records().iter().map(|(offset, ..)| *offset).collect()
    }
}

#[test]
fn the_last_record_of_a_key_stays_as_it_was() {
    for codec in [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        let mut log = Harness::default();
        let new = || BatchBuilder::new(0).compression(codec, None);
        log.append_records(
            new(),
            &[
                (9, Some("a"), Some("1")),
                (3, Some("b"), Some("1")),
                (4, Some("c"), Some("1")),
            ],
        );
        log.append_records(new(), &[(5, Some("d"), Some("1"))]);
        log.append_records(new(), &[(6, Some("a"), Some("2")), (7, Some("a"), Some("3"))]);
        let whole = log.headers()[1];
        log.pass(0);
        let expected = [(1, 3, "b"), (2, 4, "c"), (3, 5, "d"), (5, 7, "a")];
        let found = log.records();
        assert!(
            found
                .iter()
                .map(|(offset, timestamp, key, _)| (*offset, *timestamp, key.as_str()))
                .eq(expected),
            "{codec:?} {found:?}"
        );
        let headers = log.headers();
        assert_eq!(headers[1], whole, "copied byte by byte");
        let first = headers[0];
        assert_eq!(
            (first.base_offset, first.last_offset(), first.record_count),
            (0, 2, 2)
        );
        assert_eq!(
            (first.max_timestamp, first.compression().unwrap()),
            (NOW_MS + 4, codec)
        );
        assert_eq!((log.tally.records_read, log.tally.records_kept), (6, 4));
    }
}

#[test]
fn append_times_stay() {
    let mut log = Harness::default();
    let new = || BatchBuilder::new(0).log_append_time(NOW_MS + 77);
    log.append_records(new(), &[(0, Some("a"), Some("1")), (0, Some("b"), Some("1"))]);
    log.append_records(new(), &[(0, Some("a"), None)]);
    log.pass(0);
    assert!(log.records().iter().all(|(_, timestamp, ..)| *timestamp == 77));
    assert_eq!(log.offsets(), [1, 2]);
}

#[test]
fn a_tombstone_stays_until_its_horizon() {
    let mut log = Harness::default();
    log.append_records(BatchBuilder::new(0), &[(0, Some("a"), Some("1"))]);
    log.append_records(
        BatchBuilder::new(0),
        &[(1, Some("a"), None), (2, Some("b"), Some("1"))],
    );
    log.pass(0);
    assert_eq!(log.offsets(), [1, 2]);
    let header = log.headers()[0];
    assert_eq!(header.delete_horizon_ms(), Some(NOW_MS + RETENTION_MS));
    assert_eq!(
        log.records()[0].1,
        1,
        "timestamps count from the horizon and are the same"
    );
    log.pass(RETENTION_MS - 1);
    assert_eq!(log.headers(), [header], "the horizon is set once");
    log.pass(RETENTION_MS);
    assert_eq!(log.offsets(), [2]);
    assert_eq!(log.headers()[0].max_timestamp, NOW_MS + 2);
}

#[test]
fn an_aborted_transaction_goes_at_once_and_its_marker_later() {
    let mut log = Harness::default();
    log.append_records(BatchBuilder::new(0), &[(0, Some("a"), Some("1"))]);
    log.transaction(7, "a", TransactionResult::Abort);
    log.pass(0);
    assert_eq!(log.offsets(), [0], "what is void hides nothing");
    assert_eq!((log.headers().len(), log.aborted.len()), (2, 1));
    log.pass(0);
    assert_eq!(
        log.headers()[1].delete_horizon_ms(),
        Some(NOW_MS + RETENTION_MS),
        "none of its batches was there"
    );
    assert_eq!(log.forgotten, [2]);
    log.pass(RETENTION_MS - 1);
    assert_eq!(log.headers().len(), 2);
    log.pass(RETENTION_MS);
    assert_eq!(log.headers().len(), 1);
}

#[test]
fn a_commit_marker_stays_while_its_records_do() {
    let mut log = Harness::default();
    log.transaction(7, "a", TransactionResult::Commit);
    for _ in 0..3 {
        log.pass(RETENTION_MS);
        assert_eq!(log.headers().len(), 2);
        assert_eq!(log.headers()[1].delete_horizon_ms(), None);
    }
    log.append_records(BatchBuilder::new(0), &[(0, Some("a"), Some("2"))]);
    log.pass(0);
    assert_eq!(
        (log.offsets(), log.headers().len()),
        (vec![2], 2),
        "the marker is left alone"
    );
    log.pass(0);
    log.pass(RETENTION_MS);
    assert_eq!(log.headers().len(), 1);
}

#[test]
fn a_later_transaction_of_the_producer_is_not_taken_for_the_aborted_one() {
    let mut log = Harness::default();
    log.transaction(7, "a", TransactionResult::Abort);
    log.transaction(7, "b", TransactionResult::Commit);
    log.transaction(7, "c", TransactionResult::Abort);
    log.transaction(7, "d", TransactionResult::Commit);
    let known = log.aborted.clone();
    for after_ms in [0, 0, RETENTION_MS, RETENTION_MS] {
        log.pass(after_ms);
        assert_eq!(log.offsets(), [2, 6]);
    }
    // The index may know transactions again that were forgotten: their markers are gone.
    log.aborted = known;
    log.pass(RETENTION_MS);
    assert_eq!(log.offsets(), [2, 6]);
    assert_eq!(log.forgotten, [1, 5]);
}

#[test]
fn an_active_producer_keeps_its_last_batch() {
    let mut log = Harness::default();
    let by = |producer_id, sequence| {
        BatchBuilder::new(0)
            .producer(producer_id, 3, sequence)
            .compression(Compression::Zstd, None)
    };
    log.append_records(by(7, 0), &[(0, Some("a"), Some("1"))]);
    log.append_records(by(7, 1), &[(5, Some("a"), None), (4, Some("a"), None)]);
    log.append_records(by(8, 0), &[(0, Some("a"), Some("1"))]);
    log.append_records(BatchBuilder::new(0), &[(0, Some("a"), Some("2"))]);
    log.last_records.insert(
        7,
        LastRecord {
            last_data_offset: Some(2),
            producer_epoch: 3,
        },
    );
    let before = log.headers()[1];
    for _ in 0..2 {
        log.pass(RETENTION_MS);
        let headers = log.headers();
        assert_eq!(headers.len(), 2);
        let empty = headers[0];
        assert_eq!((empty.record_count, empty.size_bytes()), (0, 61));
        assert_eq!(
            (
                empty.base_offset,
                empty.last_offset(),
                empty.last_sequence(),
                empty.producer_epoch
            ),
            (1, 2, 2, 3)
        );
        assert_eq!(empty.max_timestamp, before.max_timestamp);
        assert_eq!(
            (empty.compression().unwrap(), empty.delete_horizon_ms()),
            (Compression::None, None)
        );
    }
    log.last_records.clear();
    log.pass(RETENTION_MS);
    assert_eq!(log.headers().len(), 1, "the producer was forgotten");
}

#[test]
fn a_producer_known_by_its_marker_keeps_that() {
    let mut log = Harness::default();
    log.transaction(7, "a", TransactionResult::Abort);
    log.last_records.insert(
        7,
        LastRecord {
            last_data_offset: None,
            producer_epoch: 0,
        },
    );
    for _ in 0..3 {
        log.pass(2 * RETENTION_MS);
    }
    log.pass(4 * RETENTION_MS);
    let headers = log.headers();
    assert_eq!((headers.len(), headers[0].record_count), (1, 0));
    assert!(headers[0].is_control() && headers[0].is_transactional());
}

#[test]
fn the_end_of_the_range_stays_known() {
    let mut log = Harness::default();
    log.append_records(BatchBuilder::new(0), &[(0, Some("a"), Some("1"))]);
    log.append_records(BatchBuilder::new(0), &[(0, None, Some("no key"))]);
    log.pass_with(0, 0, &mut OffsetMap::new(10, 0.9), 2);
    let headers = log.headers();
    assert_eq!(
        (headers.len(), headers[1].record_count, headers[1].next_offset()),
        (2, 0, 2)
    );
    assert_eq!(log.tally.records_without_key, 1);
}

#[test]
fn a_full_map_ends_the_pass_before_the_record_that_found_no_room() {
    let mut log = Harness::default();
    let keys = ["a", "b", "c", "d"];
    for _ in 0..2 {
        for key in keys {
            log.append_records(
                BatchBuilder::new(0),
                &[(0, Some(key), None), (0, Some(key), Some("x"))],
            );
        }
    }
    let mut from = 0;
    let mut passes = 0;
    while from < log.next_offset {
        let mut keys = OffsetMap::new(3, 0.9);
        let until = log.pass_with(0, from, &mut keys, i64::MAX);
        assert!(until > from, "every pass gets on");
        from = until;
        passes += 1;
    }
    assert_eq!(log.offsets(), [9, 11, 13, 15]);
    assert_eq!(passes, 4);
}

#[test]
fn what_a_pass_leaves_can_be_read_by_the_next_one_however_well_it_compresses() {
    let mut log = Harness::default();
    // The varied record goes, and the zeros that stay compress to much less than a thousandth.
    let zeros = vec![0; 17 << 20];
    let mut state = 1_u64;
    let varied: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(1 << 20)
    .collect();
    let mut builder = BatchBuilder::new(0).compression(Compression::Zstd, None);
    builder.append(NOW_MS, Some(b"a"), Some(&zeros), &[]);
    builder.append(NOW_MS, Some(b"b"), Some(&varied), &[]);
    log.append(builder.build());
    log.append_records(BatchBuilder::new(0), &[(0, Some("b"), Some("2"))]);
    log.pass(0);
    let dense = log.headers()[0];
    assert_eq!((dense.record_count, dense.next_offset()), (1, 2));
    assert!(dense.size_bytes() < zeros.len() / 1_024);
    log.pass(0);
    assert_eq!(log.headers()[0], dense);
    let (_, section) = decoded_section(&log.log, SECTION_SIZE_BYTES_MAX).unwrap();
    let record = records(&dense, &section).next().unwrap().unwrap();
    assert_eq!(record.value, Some(&zeros[..]));
}
