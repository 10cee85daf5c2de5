//! Record batches: golden bytes, round trips, hostile bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression as ReferenceCompression, Record as ReferenceRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType as ReferenceTimestampType,
};
use odradek_common::records::batch::{
    self, BatchError, BatchHead, BatchHeader, HEADER_SIZE_BYTES, TimestampType, batches, verify_crc,
};
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::{
    Compression, CompressionError, DECOMPRESSED_BYTES_MAX, Limits, RATIO_FREE_BYTES, compress, decompress,
    decompress_into,
};
use odradek_common::records::control::{
    ControlError, ControlRecordType, EndTransactionMarker, TransactionResult,
};
use odradek_common::records::record::{Header, Record, RecordError, decoded_section, records};
use proptest::prelude::*;

const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];
const LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// A record with its bytes owned, to build from and to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Owned {
    fn of(record: &Record<'_>) -> Owned {
        let headers = record
            .headers
            .iter()
            .map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec)))
            .collect();
        Owned {
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers,
        }
    }

    fn append_to(&self, builder: &mut BatchBuilder) {
        let headers: Vec<Header<'_>> = self
            .headers
            .iter()
            .map(|(key, value)| Header {
                key,
                value: value.as_deref(),
            })
            .collect();
        builder.append(
            self.timestamp,
            self.key.as_deref(),
            self.value.as_deref(),
            &headers,
        );
    }
}

fn decode(batch: &[u8]) -> Result<Vec<Owned>, RecordError> {
    let (header, section) = decoded_section(batch, LIMIT_BYTES)?;
    records(&header, &section)
        .map(|record| record.map(|record| Owned::of(&record)))
        .collect()
}

fn sample(count: i64) -> Vec<Owned> {
    (0..count)
        .map(|index| Owned {
            timestamp: 1_700_000_000_000 + index * 3,
            key: (index % 3 != 0).then(|| format!("key-{index}").into_bytes()),
            value: (index % 5 != 4).then(|| vec![b'v'; index as usize * 7]),
            headers: vec![(b"h".to_vec(), Some(vec![index as u8])), (b"n".to_vec(), None)],
        })
        .collect()
}

fn build(owned: &[Owned], builder: BatchBuilder) -> Bytes {
    let mut builder = builder;
    for record in owned {
        record.append_to(&mut builder);
    }
    builder.build()
}

/// The same batch by kafka-protocol's encoder.
fn reference(owned: &[Owned], transactional: bool) -> Vec<u8> {
    let records: Vec<ReferenceRecord> = owned
        .iter()
        .enumerate()
        .map(|(index, record)| {
            let headers: IndexMap<StrBytes, Option<Bytes>> = record
                .headers
                .iter()
                .map(|(key, value)| {
                    let key = StrBytes::from_string(String::from_utf8(key.clone()).unwrap());
                    (key, value.clone().map(Bytes::from))
                })
                .collect();
            ReferenceRecord {
                transactional,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: 5,
                producer_id: 4000,
                producer_epoch: 2,
                timestamp_type: ReferenceTimestampType::Creation,
                offset: 100 + index as i64,
                sequence: 17 + index as i32,
                timestamp: record.timestamp,
                key: record.key.clone().map(Bytes::from),
                value: record.value.clone().map(Bytes::from),
                headers,
            }
        })
        .collect();
    let mut out = BytesMut::new();
    let options = RecordEncodeOptions {
        version: 2,
        compression: ReferenceCompression::None,
    };
    RecordBatchEncoder::encode(&mut out, &records, &options).unwrap();
    out.to_vec()
}

#[test]
fn batches_are_those_of_another_encoder() {
    for transactional in [false, true] {
        let owned = sample(20);
        let mut builder = BatchBuilder::new(100)
            .partition_leader_epoch(5)
            .producer(4000, 2, 17);
        if transactional {
            builder = builder.transactional();
        }
        let batch = build(&owned, builder);
        let expected = reference(&owned, transactional);
        assert_eq!(batch, expected);
        assert_eq!(decode(&expected).unwrap(), owned);
        let decoded = RecordBatchDecoder::decode(&mut batch.clone()).unwrap();
        assert_eq!(decoded.records.len(), owned.len());
    }
}

/// One record (key "k", value "v", header h=1) as Kafka's producer writes it, byte by byte.
#[test]
fn golden_batch() {
    let mut builder = BatchBuilder::new(0).producer(9, 1, 0);
    builder.append(
        1000,
        Some(b"k"),
        Some(b"v"),
        &[Header {
            key: b"h",
            value: Some(b"1"),
        }],
    );
    let batch = builder.build();
    let record = [0x18, 0, 0, 0, 2, b'k', 2, b'v', 2, 2, b'h', 2, b'1'];
    assert_eq!(batch[HEADER_SIZE_BYTES..], record);
    let tail: [u8; 40] = [
        0, 0, // attributes
        0, 0, 0, 0, // last offset delta
        0, 0, 0, 0, 0, 0, 0x03, 0xe8, // base timestamp
        0, 0, 0, 0, 0, 0, 0x03, 0xe8, // max timestamp
        0, 0, 0, 0, 0, 0, 0, 9, // producer id
        0, 1, // producer epoch
        0, 0, 0, 0, // base sequence
        0, 0, 0, 1, // record count
    ];
    assert_eq!(batch[21..61], tail);
    assert_eq!(
        batch[..17],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 62, 0xff, 0xff, 0xff, 0xff, 2]
    );
    assert_eq!(batch[17..21], crc32c::crc32c(&batch[21..]).to_be_bytes());
}

#[test]
fn header_tells_its_fields() {
    let batch = build(
        &sample(4),
        BatchBuilder::new(50)
            .partition_leader_epoch(3)
            .producer(7, 1, i32::MAX - 1)
            .transactional()
            .control()
            .compression(Compression::Lz4, None),
    );
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!(header.size_bytes(), batch.len());
    assert_eq!(
        (header.base_offset, header.last_offset(), header.next_offset()),
        (50, 53, 54)
    );
    assert_eq!(header.last_sequence(), 1, "after i32::MAX comes 0");
    assert!(header.is_transactional() && header.is_control() && header.has_producer_id());
    assert_eq!(header.compression(), Ok(Compression::Lz4));
    assert_eq!(header.timestamp_type(), TimestampType::CreateTime);
    assert_eq!(
        (header.base_timestamp, header.max_timestamp),
        (1_700_000_000_000, 1_700_000_000_009)
    );
    assert_eq!((header.record_count, header.partition_leader_epoch), (4, 3));
    let plain = BatchHeader::parse(&build(&sample(1), BatchBuilder::new(0))).unwrap();
    assert_eq!(
        (
            plain.last_sequence(),
            plain.producer_id,
            plain.delete_horizon_ms()
        ),
        (-1, -1, None)
    );
    assert_eq!(batch::increment_sequence(i32::MAX, 1), 0);
    assert_eq!(batch::decrement_sequence(0, 1), i32::MAX);
}

#[test]
fn a_changed_head_fits_its_records() {
    let batch = build(&sample(3), BatchBuilder::new(0));
    let section = &batch[HEADER_SIZE_BYTES..];
    let whole = |head: &BatchHead| [head.bytes(), section].concat();
    let mut head = BatchHead::of(&batch).unwrap();
    head.place(1 << 40, 8);
    verify_crc(&whole(&head)).unwrap();
    head.set_log_append_time(42, section);
    let at_append = whole(&head);
    verify_crc(&at_append).unwrap();
    let header = BatchHeader::parse(&at_append).unwrap();
    assert_eq!(
        (
            header.base_offset,
            header.partition_leader_epoch,
            header.max_timestamp
        ),
        (1 << 40, 8, 42)
    );
    assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
    let records = decode(&at_append).unwrap();
    assert!(records.iter().all(|record| record.timestamp == 42));
    head.set_create_time(99, section);
    let at_create = whole(&head);
    verify_crc(&at_create).unwrap();
    assert_eq!(decode(&at_create).unwrap(), sample(3));
    assert!(BatchHead::of(&batch[..HEADER_SIZE_BYTES - 1]).is_err());
}

#[test]
fn a_flipped_bit_is_found() {
    let good = build(&sample(2), BatchBuilder::new(0)).to_vec();
    for at in 17..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 4;
        assert!(
            matches!(verify_crc(&bad), Err(BatchError::Crc { .. })),
            "byte {at}"
        );
    }
}

#[test]
fn iteration_ends_at_an_incomplete_tail() {
    let first = build(&sample(2), BatchBuilder::new(0));
    let second = build(&sample(3), BatchBuilder::new(2));
    let both = [first.as_ref(), second.as_ref()].concat();
    for end in 0..=both.len() {
        let mut iter = batches(&both[..end]);
        let found: Vec<_> = iter.by_ref().map(|batch| batch.unwrap()).collect();
        let complete = usize::from(end >= first.len()) + usize::from(end == both.len());
        assert_eq!(found.len(), complete, "cut at {end}");
        assert_eq!(iter.consumed_bytes(), [0, first.len(), both.len()][complete]);
        assert!(
            found
                .iter()
                .all(|(header, bytes)| header.size_bytes() == bytes.len())
        );
    }
}

#[test]
fn iteration_stops_at_a_malformed_header() {
    let good = build(&sample(2), BatchBuilder::new(0));
    let mut bytes = [good.as_ref(), good.as_ref()].concat();
    bytes[good.len() + 16] = 1;
    let mut iter = batches(&bytes);
    assert!(iter.next().unwrap().is_ok());
    assert_eq!(iter.next().unwrap().unwrap_err(), BatchError::Magic(1));
    assert!(iter.next().is_none());
    assert_eq!(iter.consumed_bytes(), good.len());
    for length in [-1, 0, 48, i32::MIN] {
        let mut bytes = good.to_vec();
        bytes[8..12].copy_from_slice(&i32::to_be_bytes(length));
        assert_eq!(batches(&bytes).next(), Some(Err(BatchError::Length(length))));
        assert_eq!(
            batches(&bytes[..12]).next(),
            Some(Err(BatchError::Length(length)))
        );
    }
}

#[test]
fn duplicate_and_null_headers_stay() {
    let owned = vec![Owned {
        timestamp: 1,
        key: None,
        value: Some(Vec::new()),
        headers: vec![
            (b"k".to_vec(), Some(b"1".to_vec())),
            (b"k".to_vec(), Some(b"1".to_vec())),
            (b"k".to_vec(), None),
            (vec![0xff, 0xfe], Some(Vec::new())),
        ],
    }];
    assert_eq!(decode(&build(&owned, BatchBuilder::new(0))).unwrap(), owned);
}

#[test]
fn truncated_batches_are_errors_not_panics() {
    for codec in CODECS {
        let owned = sample(30);
        let batch = build(&owned, BatchBuilder::new(0).compression(codec, None)).to_vec();
        assert_eq!(decode(&batch).unwrap(), owned, "{codec:?}");
        for end in 0..batch.len() {
            assert!(decode(&batch[..end]).is_err(), "{codec:?} cut at {end}");
            if end < HEADER_SIZE_BYTES {
                continue;
            }
            // With a header that agrees: the records or the codec must notice.
            let mut shorter = batch[..end].to_vec();
            shorter[8..12].copy_from_slice(&((end - 12) as i32).to_be_bytes());
            if let Ok(decoded) = decode(&shorter) {
                // A codec's trailer may be missing when all data has come out.
                assert_eq!(decoded, owned, "{codec:?} cut at {end}");
            }
        }
    }
}

#[test]
fn hostile_counts_and_lengths_are_refused() {
    let good = build(&sample(1), BatchBuilder::new(0)).to_vec();
    let with_count = |count: i32| {
        let mut bytes = good.clone();
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        bytes
    };
    assert!(matches!(
        decode(&with_count(i32::MAX)),
        Err(RecordError::Malformed { index: 1, .. })
    ));
    assert!(matches!(
        decode(&with_count(0)),
        Err(RecordError::TrailingBytes(_))
    ));
    assert!(matches!(
        decode(&with_count(-1)),
        Err(RecordError::TrailingBytes(_))
    ));

    let header = BatchHeader::parse(&with_count(1)).unwrap();
    let section_is_refused = |section: &[u8]| {
        let mut iter = records(&header, section);
        assert!(
            matches!(iter.next(), Some(Err(RecordError::Malformed { index: 0, .. }))),
            "{section:?}"
        );
        assert!(iter.next().is_none());
    };
    section_is_refused(&[]);
    section_is_refused(&[0x01]); // length -1
    section_is_refused(&[0xfe, 0xff, 0xff, 0xff, 0x0f]); // length i32::MAX
    section_is_refused(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]); // length of no end
    section_is_refused(&[0]); // no attributes
    section_is_refused(&[12, 0, 0, 0, 1, 1, 1]); // header count -1
    section_is_refused(&[20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f]); // header count i32::MAX
    section_is_refused(&[12, 0, 0, 0, 4, 1, 0]); // key passes the record
    section_is_refused(&[16, 0, 0, 0, 1, 1, 2, 1, 1]); // null header key
    section_is_refused(&[14, 0, 0, 0, 1, 1, 0, 0]); // a byte too many
}

#[test]
fn compaction_keeps_the_identity_of_a_batch() {
    let owned = sample(5);
    let original = build(
        &owned,
        BatchBuilder::new(10)
            .partition_leader_epoch(2)
            .producer(6, 3, 20)
            .compression(Compression::Zstd, None),
    );
    let (header, section) = decoded_section(&original, LIMIT_BYTES).unwrap();
    let kept: Vec<Record<'_>> = records(&header, &section)
        .map(|record| record.unwrap())
        .filter(|record| record.offset % 2 == 1)
        .collect();
    let mut builder = BatchBuilder::like(&header)
        .compression(Compression::Zstd, None)
        .delete_horizon(77);
    for record in &kept {
        builder.append_record(record);
    }
    let compacted = builder.build();
    verify_crc(&compacted).unwrap();
    let (header, section) = decoded_section(&compacted, LIMIT_BYTES).unwrap();
    assert_eq!(
        (header.base_offset, header.last_offset(), header.last_sequence()),
        (10, 14, 24)
    );
    assert_eq!((header.record_count, header.delete_horizon_ms()), (2, Some(77)));
    assert_eq!(header.max_timestamp, 1_700_000_000_009);
    let read: Vec<Record<'_>> = records(&header, &section).map(|record| record.unwrap()).collect();
    assert_eq!(read, kept);

    let empty = BatchBuilder::like(&header).build();
    let (header, section) = decoded_section(&empty, LIMIT_BYTES).unwrap();
    assert_eq!((header.record_count, header.next_offset()), (0, 15));
    assert_eq!(records(&header, &section).count(), 0);
}

#[test]
fn transaction_markers_round_trip() {
    for result in [TransactionResult::Abort, TransactionResult::Commit] {
        let marker = EndTransactionMarker {
            result,
            coordinator_epoch: 12,
        };
        let batch = marker.to_batch(5000, 77, 4);
        verify_crc(&batch).unwrap();
        let (header, section) = decoded_section(&batch, LIMIT_BYTES).unwrap();
        assert!(header.is_control() && header.is_transactional());
        assert_eq!(
            (header.producer_id, header.producer_epoch, header.base_sequence),
            (77, 4, -1)
        );
        let record = records(&header, &section).next().unwrap().unwrap();
        let read = EndTransactionMarker::decode(record.key.unwrap(), record.value.unwrap()).unwrap();
        assert_eq!((read, record.timestamp), (marker, 5000));
    }
    assert_eq!(
        ControlRecordType::decode_key(&[0, 0, 0, 1]),
        Ok(ControlRecordType::Commit)
    );
    assert_eq!(
        ControlRecordType::decode_key(&[0, 9, 0, 42, 1]),
        Ok(ControlRecordType::Unknown(42))
    );
    assert_eq!(
        ControlRecordType::decode_key(&[0, 0, 0]),
        Err(ControlError::Key(3))
    );
    assert_eq!(
        ControlRecordType::decode_key(&[0xff, 0xff, 0, 0]),
        Err(ControlError::Version(-1))
    );
    let leader_change = EndTransactionMarker::decode(&[0, 0, 0, 2], &[0; 6]);
    assert_eq!(
        leader_change,
        Err(ControlError::Type(ControlRecordType::LeaderChange))
    );
    assert_eq!(
        EndTransactionMarker::decode(&[0, 0, 0, 0], &[0; 5]),
        Err(ControlError::Value(5))
    );
    for id in -2..9 {
        assert_eq!(ControlRecordType::from_id(id).id(), id);
    }
}

#[test]
fn bombs_are_refused() {
    let zeros = vec![0u8; RATIO_FREE_BYTES * 4];
    for codec in [Compression::Gzip, Compression::Zstd] {
        let bomb = compress(codec, None, &zeros);
        assert!(bomb.len() * 100 < zeros.len());
        // The absolute cap.
        let refused = decompress(codec, &bomb, 1000);
        assert!(
            matches!(
                refused,
                Err(CompressionError::TooLarge {
                    limit_bytes: 1000,
                    ..
                })
            ),
            "{codec:?}"
        );
    }
    // The ratio cap, of produced batches alone: zstd makes 64 MiB of zeros far smaller than a thousandth.
    let bomb = compress(Compression::Zstd, None, &zeros);
    let refused = decompress_into(Compression::Zstd, &bomb, Limits::PRODUCED, &mut |_| {
        ControlFlow::Continue(())
    });
    assert!(matches!(
        refused,
        Err(CompressionError::TooLarge {
            limit_bytes: RATIO_FREE_BYTES,
            ..
        })
    ));
    let stored = decompress(Compression::Zstd, &bomb, DECOMPRESSED_BYTES_MAX).unwrap();
    assert!(stored == zeros, "what compaction left may be as dense");
    for codec in [Compression::Snappy, Compression::Lz4] {
        let section = compress(codec, None, &zeros[..1 << 20]);
        assert!(matches!(
            decompress(codec, &section, 1 << 19),
            Err(CompressionError::TooLarge { .. })
        ));
        assert_eq!(decompress(codec, &section, 1 << 20).unwrap().len(), 1 << 20);
    }
    // A snappy block that claims 4 GiB, raw and framed: nothing is reserved for it.
    let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0];
    assert!(matches!(
        decompress(Compression::Snappy, &claim, usize::MAX),
        Err(CompressionError::Malformed { .. })
    ));
    let mut framed = compress(Compression::Snappy, None, b"").to_vec();
    framed.extend((claim.len() as i32).to_be_bytes());
    framed.extend(claim);
    assert!(decompress(Compression::Snappy, &framed, usize::MAX).is_err());
}

#[test]
fn zstd_takes_what_a_stream_takes_however_it_is_read() {
    let short = b"short and short and short and short and short";
    let long: Vec<u8> = (0..1_000_000u32).flat_map(|n| (n / 7).to_be_bytes()).collect();
    let frames = |parts: &[&[u8]]| -> Vec<u8> {
        let frame = |part: &&[u8]| compress(Compression::Zstd, None, part).to_vec();
        parts.iter().flat_map(frame).collect()
    };
    let read = |section: &[u8]| decompress(Compression::Zstd, section, LIMIT_BYTES);
    assert_eq!(read(&frames(&[short])).unwrap(), short[..]);
    assert_eq!(
        read(&frames(&[&long])).unwrap(),
        long,
        "more than comes out at once"
    );
    assert_eq!(
        read(&frames(&[short, b"", short])).unwrap(),
        [short.as_slice(), short].concat(),
        "frames one after another"
    );
    assert!(read(b"").is_err(), "no frame");
    assert!(read(&frames(&[short])[..20]).is_err(), "half a frame");
    for part in [short.as_slice(), &long] {
        let mut wide = frames(&[part]);
        assert_eq!(wide[4] & 0x20, 0, "the frame declares a window");
        wide[5] = (27 - 10) << 3;
        assert_eq!(read(&wide).unwrap(), part, "128 MiB of window");
        wide[5] += 1;
        assert!(read(&wide).is_err(), "more, which no consumer accepts");
    }
}

#[test]
fn zstd_refuses_blocks_that_no_stream_accepts() {
    let raw = |size: usize| [&((size << 3) | 1).to_le_bytes()[..3], &vec![b'x'; size]].concat();
    let frame = |header: &[u8], blocks: &[u8]| [&[0x28, 0xb5, 0x2f, 0xfd], header, blocks].concat();
    let of_one_segment = |size: usize| {
        let content_size = u32::try_from(size).unwrap().to_le_bytes();
        frame(&[&[0xa0], &content_size[..]].concat(), &raw(size))
    };
    let of_a_window = |size: usize| frame(&[0, (20 - 10) << 3], &raw(size));
    let read = |section: &[u8]| decompress(Compression::Zstd, section, LIMIT_BYTES);
    let most = 128 << 10;
    for size in [0, 1, 1000, most] {
        assert_eq!(read(&of_one_segment(size)).unwrap(), vec![b'x'; size]);
        assert_eq!(read(&of_a_window(size)).unwrap(), vec![b'x'; size]);
    }
    for size in [most + 1, 500_000] {
        assert!(read(&of_one_segment(size)).is_err(), "{size}");
        assert!(read(&of_a_window(size)).is_err(), "{size}");
    }
    // A window of 1 KiB, five empty blocks, and one that becomes 6,000 bytes.
    let repeated = [&[0; 5 * 3][..], &((6_000 << 3) | 3_u32).to_le_bytes()[..3], b"x"].concat();
    assert!(read(&frame(&[0, 0], &repeated)).is_err());
    assert_eq!(
        read(&frame(&[0, 3 << 3], &repeated)).unwrap(),
        vec![b'x'; 6_000],
        "8 KiB"
    );
}

#[test]
fn snappy_framing_is_xerial_and_raw_is_accepted() {
    let data: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_be_bytes()).collect();
    let framed = compress(Compression::Snappy, None, &data);
    assert_eq!(
        framed[..16],
        [
            0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1
        ]
    );
    let first = i32::from_be_bytes(framed[16..20].try_into().unwrap()) as usize;
    assert_eq!(
        snap::raw::Decoder::new()
            .decompress_vec(&framed[20..20 + first])
            .unwrap(),
        data[..32 * 1024]
    );
    assert_eq!(
        decompress(Compression::Snappy, &framed, LIMIT_BYTES).unwrap(),
        data
    );
    let raw = snap::raw::Encoder::new().compress_vec(&data).unwrap();
    assert_eq!(decompress(Compression::Snappy, &raw, LIMIT_BYTES).unwrap(), data);
    let twice = [framed.as_ref(), framed.as_ref()].concat();
    assert_eq!(
        decompress(Compression::Snappy, &twice, LIMIT_BYTES)
            .unwrap()
            .len(),
        data.len() * 2
    );
    for end in [17, 19, 20, framed.len() - 1] {
        assert!(
            decompress(Compression::Snappy, &framed[..end], LIMIT_BYTES).is_err(),
            "cut at {end}"
        );
    }
}

#[test]
fn lz4_frames_are_what_the_java_client_reads() {
    let frame = compress(Compression::Lz4, None, &[b'x'; 200_000]);
    assert_eq!(frame[..4], [0x04, 0x22, 0x4d, 0x18], "the frame magic");
    assert_eq!(
        frame[4] & 0b1111_0100,
        0b0110_0000,
        "version 1, independent blocks, no content checksum"
    );
    assert_eq!(frame[5], 0x40, "blocks of 64 KiB");
}

#[test]
fn levels_out_of_range_are_brought_into_it() {
    let data = sample(50)
        .iter()
        .flat_map(|record| record.value.clone().unwrap_or_default())
        .collect::<Vec<_>>();
    for codec in CODECS {
        for level in [
            None,
            Some(i32::MIN),
            Some(-1),
            Some(0),
            Some(1),
            Some(9),
            Some(i32::MAX),
        ] {
            let section = compress(codec, level, &data);
            assert_eq!(
                decompress(codec, &section, LIMIT_BYTES).unwrap(),
                data,
                "{codec:?} {level:?}"
            );
        }
    }
}

fn owned_record() -> impl Strategy<Value = Owned> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..80);
    let header = (bytes(), prop::option::of(bytes()));
    (
        any::<i64>(),
        prop::option::of(bytes()),
        prop::option::of(bytes()),
        prop::collection::vec(header, 0..5),
    )
        .prop_map(|(timestamp, key, value, headers)| Owned {
            timestamp,
            key,
            value,
            headers,
        })
}

proptest! {
    #[test]
    fn decode_undoes_encode(
        owned in prop::collection::vec(owned_record(), 1..40), codec in prop::sample::select(CODECS.to_vec()),
        base_offset in 0i64..i64::MAX / 2, epoch: i32
    ) {
        let builder = BatchBuilder::new(base_offset).partition_leader_epoch(epoch).compression(codec, None);
        let batch = build(&owned, builder);
        verify_crc(&batch).unwrap();
        prop_assert_eq!(&decode(&batch).unwrap(), &owned);
        let header = BatchHeader::parse(&batch).unwrap();
        prop_assert_eq!(header.record_count as usize, owned.len());
        prop_assert_eq!(header.last_offset(), base_offset + owned.len() as i64 - 1);
        prop_assert_eq!(header.size_bytes(), batch.len());
    }

    #[test]
    fn decompress_undoes_compress(
        data in prop::collection::vec(0u8..4, 0..100_000), codec in prop::sample::select(CODECS.to_vec())
    ) {
        prop_assert_eq!(decompress(codec, &compress(codec, None, &data), LIMIT_BYTES).unwrap(), data);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), codec in prop::sample::select(CODECS.to_vec())) {
        let _ = decompress(codec, &bytes, LIMIT_BYTES);
        let _ = verify_crc(&bytes);
        batches(&bytes).for_each(drop);
        let _ = EndTransactionMarker::decode(&bytes, &bytes);
    }

    #[test]
    fn damaged_batches_never_panic(at in any::<prop::sample::Index>(), byte: u8, codec in prop::sample::select(CODECS.to_vec())) {
        let mut batch = build(&sample(10), BatchBuilder::new(0).compression(codec, None)).to_vec();
        let at = at.index(batch.len());
        batch[at] = byte;
        let _ = decode(&batch);
    }
}
