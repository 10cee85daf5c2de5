//! Produced batches: what the leader accepts, changes and refuses, and with which code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use odradek_common::error::ErrorCode;
use odradek_common::records::batch::{self, BatchHeader, HEADER_SIZE_BYTES, TimestampType, verify_crc};
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::{Compression, compress};
use odradek_common::records::record::{decoded_section, records};
use odradek_common::records::validate::{
    ProduceRules, ProducedBatch, RECORD_ERRORS_MAX, Refusal, recompress, validate_produce,
};
use proptest::prelude::*;

const NOW_MS: i64 = 1_700_000_000_000;
const HOUR_MS: i64 = 3_600_000;
const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

fn rules() -> ProduceRules {
    ProduceRules {
        compacted: false,
        max_message_bytes: 1 << 20,
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: HOUR_MS,
        zstd_allowed: true,
        now_ms: NOW_MS,
    }
}

fn builder(codec: Compression) -> BatchBuilder {
    BatchBuilder::new(0).compression(codec, None)
}

fn batch_of(builder: BatchBuilder, timestamps: &[i64]) -> Vec<u8> {
    let mut builder = builder;
    for timestamp in timestamps {
        builder.append(*timestamp, Some(b"key"), Some(&[b'v'; 90]), &[]);
    }
    builder.build().to_vec()
}

/// A good batch of three records.
fn good(codec: Compression) -> Vec<u8> {
    batch_of(builder(codec), &[NOW_MS - 2, NOW_MS, NOW_MS - 1])
}

/// Patches header bytes and makes the CRC right again.
fn patched(mut batch: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// A batch of `count` records around a section, with a right CRC.
fn with_section(codec: Compression, count: i32, section: &[u8]) -> Vec<u8> {
    let mut batch = good(codec)[..HEADER_SIZE_BYTES].to_vec();
    batch.extend(compress(codec, None, section));
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let batch = patched(batch, 57, &count.to_be_bytes());
    patched(batch, 23, &(count - 1).to_be_bytes())
}

fn refusal(batch: Vec<u8>, rules: &ProduceRules) -> Refusal {
    let before = batch.clone();
    let refusal = validate_produce(&batch, rules).unwrap_err();
    assert_eq!(batch, before, "a refused batch is not changed");
    refusal
}

fn code(batch: Vec<u8>, rules: &ProduceRules) -> ErrorCode {
    refusal(batch, rules).code
}

/// What the log is given: the changed head and the producer's records.
fn appended(sent: &[u8], produced: &ProducedBatch) -> Vec<u8> {
    [produced.head.bytes(), &sent[HEADER_SIZE_BYTES..]].concat()
}

#[test]
fn good_batches_pass_unchanged() {
    for codec in CODECS {
        let sent = good(codec);
        let produced = validate_produce(&sent, &rules()).unwrap();
        assert_eq!(appended(&sent, &produced), sent, "{codec:?}");
        assert_eq!(produced.header, BatchHeader::parse(&sent).unwrap());
        assert_eq!(produced.log_append_time_ms, -1);
    }
}

#[test]
fn log_append_time_is_set() {
    for codec in CODECS {
        let rules = ProduceRules {
            timestamp_type: TimestampType::LogAppendTime,
            now_ms: 55,
            ..rules()
        };
        let produced = validate_produce(&good(codec), &rules).unwrap();
        let batch = appended(&good(codec), &produced);
        assert_eq!(
            (produced.log_append_time_ms, produced.header.max_timestamp),
            (55, 55)
        );
        verify_crc(&batch).unwrap();
        assert_eq!(BatchHeader::parse(&batch).unwrap(), produced.header);
        assert_eq!(produced.header.timestamp_type(), TimestampType::LogAppendTime);
    }
}

#[test]
fn a_wrong_greatest_timestamp_is_corrected() {
    for codec in CODECS {
        let batch = patched(good(codec), 35, &5i64.to_be_bytes());
        let produced = validate_produce(&batch, &rules()).unwrap();
        assert_eq!(produced.header.max_timestamp, NOW_MS);
        assert_eq!(appended(&batch, &produced), good(codec));
    }
}

#[test]
fn exactly_one_complete_batch_of_magic_2() {
    assert_eq!(code(Vec::new(), &rules()), ErrorCode::InvalidRecord);
    let one = good(Compression::None);
    assert_eq!(
        code([one.as_slice(), one.as_slice()].concat(), &rules()),
        ErrorCode::InvalidRecord
    );
    assert_eq!(
        code([one.as_slice(), &[0]].concat(), &rules()),
        ErrorCode::InvalidRecord
    );
    for end in 0..one.len() {
        assert_eq!(
            code(one[..end].to_vec(), &rules()),
            ErrorCode::InvalidRecord,
            "cut at {end}"
        );
    }
    for magic in [0, 1, 3] {
        assert_eq!(
            code(patched(one.clone(), 16, &[magic]), &rules()),
            ErrorCode::InvalidRecord
        );
    }
    assert_eq!(
        code(patched(one.clone(), 8, &48i32.to_be_bytes()), &rules()),
        ErrorCode::CorruptMessage
    );
    assert_eq!(
        code(patched(one, 0, &1i64.to_be_bytes()), &rules()),
        ErrorCode::InvalidRecord
    );
}

#[test]
fn size_crc_and_codec_have_their_codes() {
    let batch = good(Compression::None);
    let rules_at = |max_message_bytes| ProduceRules {
        max_message_bytes,
        ..rules()
    };
    assert_eq!(
        code(batch.clone(), &rules_at(batch.len() - 1)),
        ErrorCode::MessageTooLarge
    );
    assert!(validate_produce(&batch.clone(), &rules_at(batch.len())).is_ok());
    let mut corrupt = batch.clone();
    *corrupt.last_mut().unwrap() ^= 1;
    assert_eq!(code(corrupt, &rules()), ErrorCode::CorruptMessage);
    let no_zstd = ProduceRules {
        zstd_allowed: false,
        ..rules()
    };
    assert_eq!(
        code(good(Compression::Zstd), &no_zstd),
        ErrorCode::UnsupportedCompressionType
    );
    assert!(validate_produce(&good(Compression::Lz4), &no_zstd).is_ok());
    assert_eq!(
        code(patched(batch, 22, &[5]), &rules()),
        ErrorCode::UnsupportedCompressionType
    );
}

#[test]
fn counts_and_deltas_must_agree() {
    for codec in CODECS {
        let with = |at, value: i32| code(patched(good(codec), at, &value.to_be_bytes()), &rules());
        assert_eq!(with(23, 1), ErrorCode::InvalidRecord, "last offset delta");
        assert_eq!(with(23, -1), ErrorCode::InvalidRecord);
        assert_eq!(with(57, 2), ErrorCode::InvalidRecord, "count");
        assert_eq!(with(57, 0), ErrorCode::InvalidRecord);
        assert_eq!(with(57, -1), ErrorCode::InvalidRecord);
        // Both agree, the records do not.
        let count = |count: i32| {
            let batch = patched(good(codec), 57, &count.to_be_bytes());
            refusal(patched(batch, 23, &(count - 1).to_be_bytes()), &rules())
        };
        assert_eq!(count(2).code, ErrorCode::InvalidRecord);
        assert!(
            count(2).message.contains("follow the last record"),
            "{codec:?}: {}",
            count(2).message
        );
        assert_eq!(count(4).code, ErrorCode::InvalidRecord);
        assert_eq!(count(i32::MAX).code, ErrorCode::InvalidRecord);
        // Offset deltas 0, 0.
        let record = [12, 0, 0, 0, 1, 1, 0];
        assert!(
            validate_produce(&with_section(codec, 1, &record), &rules()).is_ok(),
            "{codec:?}"
        );
        let twice = refusal(with_section(codec, 2, &record.repeat(2)), &rules());
        assert_eq!(twice.code, ErrorCode::InvalidRecord);
        assert_eq!(twice.message, "record 1 of the batch has the offset delta 0");
    }
}

#[test]
fn malformed_records_are_refused_alike_in_every_codec() {
    let sections: [(&[u8], &str); 10] = [
        (&[0x01], "its length is negative"),
        (&[0x80], ""),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], ""),
        (&[0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1, 1, 0], ""),
        (&[12, 0, 0, 0, 1, 1, 1], "its header count is negative"),
        (
            &[12, 0, 0, 0, 1, 1, 2],
            "its header count passes the end of the record",
        ),
        (&[12, 0, 0, 0, 4, 1, 0], ""),
        (&[16, 0, 0, 0, 1, 1, 2, 1, 1], "a header key is null"),
        (&[14, 0, 0, 0, 1, 1, 0, 0], "bytes are left after its headers"),
        (&[12, 0, 0, 0, 1, 1], ""),
    ];
    for (section, message) in sections {
        for codec in CODECS {
            let refusal = refusal(with_section(codec, 1, section), &rules());
            assert_eq!(refusal.code, ErrorCode::InvalidRecord, "{codec:?} {section:?}");
            assert!(
                refusal.message.starts_with("record 0 of the batch is malformed"),
                "{}",
                refusal.message
            );
            assert!(
                refusal.message.ends_with(message),
                "{codec:?} {section:?}: {}",
                refusal.message
            );
        }
    }
}

#[test]
fn what_is_no_stream_of_the_codec_is_refused() {
    for codec in &CODECS[1..] {
        let mut batch = good(Compression::None);
        batch[HEADER_SIZE_BYTES..].fill(0xee);
        let batch = patched(batch, 22, &[codec.id() as u8]);
        assert_eq!(code(batch, &rules()), ErrorCode::InvalidRecord, "{codec:?}");
    }
}

#[test]
fn a_bomb_is_too_large() {
    // One record that says it has 300 MB of zeros, of which 64 MiB come out.
    let mut section = vec![0u8; 64 << 20];
    let prefix = [
        0x9c, 0x8c, 0x8d, 0x9e, 0x02, 0, 0, 0, 1, 0x80, 0x8c, 0x8d, 0x9e, 0x02,
    ];
    section[..prefix.len()].copy_from_slice(&prefix);
    let batch = with_section(Compression::Zstd, 1, &section);
    assert!(batch.len() < 100_000);
    assert_eq!(code(batch, &rules()), ErrorCode::MessageTooLarge);
}

#[test]
fn clients_write_no_control_batches_and_no_negative_sequences() {
    assert_eq!(
        code(batch_of(builder(Compression::None).control(), &[1]), &rules()),
        ErrorCode::InvalidRecord
    );
    let with_producer = |sequence| batch_of(builder(Compression::Lz4).producer(5, 0, sequence), &[1]);
    assert_eq!(code(with_producer(-1), &rules()), ErrorCode::InvalidRecord);
    assert!(validate_produce(&with_producer(0), &rules()).is_ok());
}

#[test]
fn compacted_topics_need_keys() {
    let compacted = ProduceRules {
        compacted: true,
        ..rules()
    };
    for codec in CODECS {
        let mut mixed = builder(codec);
        for index in 0..5 {
            mixed.append(NOW_MS, (index % 2 == 0).then_some(b"".as_slice()), None, &[]);
        }
        let refusal = refusal(mixed.build().to_vec(), &compacted);
        assert_eq!(refusal.code, ErrorCode::InvalidRecord);
        let indexes: Vec<i32> = refusal.record_errors.iter().map(|(index, _)| *index).collect();
        assert_eq!(indexes, [1, 3], "{codec:?}");
        assert!(
            refusal.message.starts_with("2 invalid records"),
            "{}",
            refusal.message
        );
        assert!(validate_produce(&good(codec), &compacted).is_ok());
    }
    let mut many = builder(Compression::None);
    for _ in 0..RECORD_ERRORS_MAX + 5 {
        many.append(NOW_MS, None, None, &[]);
    }
    let refusal = refusal(many.build().to_vec(), &compacted);
    assert_eq!(refusal.record_errors.len(), RECORD_ERRORS_MAX);
    assert!(
        refusal.message.starts_with("1005 invalid records"),
        "{}",
        refusal.message
    );
}

#[test]
fn timestamps_have_limits() {
    let limited = ProduceRules {
        timestamp_before_max_ms: 1000,
        timestamp_after_max_ms: 2000,
        ..rules()
    };
    for codec in CODECS {
        let edges = [NOW_MS - 1000, NOW_MS + 2000, -1];
        assert!(validate_produce(&batch_of(builder(codec), &edges), &limited).is_ok());
        for (bad, at) in [
            (NOW_MS - 1001, 1),
            (NOW_MS + 2001, 1),
            (i64::MIN, 1),
            (i64::MAX, 1),
        ] {
            let refusal = refusal(batch_of(builder(codec), &[NOW_MS, bad]), &limited);
            assert_eq!(refusal.code, ErrorCode::InvalidTimestamp, "{codec:?} {bad}");
            assert_eq!(refusal.record_errors.len(), 1);
            assert_eq!(refusal.record_errors[0].0, at);
        }
    }
    // With LogAppendTime the producer's timestamps do not matter.
    let append = ProduceRules {
        timestamp_type: TimestampType::LogAppendTime,
        ..limited
    };
    assert!(validate_produce(&batch_of(builder(Compression::None), &[0, i64::MAX]), &append).is_ok());
}

#[test]
fn a_producer_does_not_set_log_append_time() {
    let append = ProduceRules {
        timestamp_type: TimestampType::LogAppendTime,
        ..rules()
    };
    let sent = batch_of(builder(Compression::Gzip).log_append_time(NOW_MS), &[NOW_MS - 5]);
    assert_eq!(code(sent.clone(), &append), ErrorCode::InvalidTimestamp);
    // A CreateTime topic takes the records' own timestamps.
    let produced = validate_produce(&sent, &rules()).unwrap();
    assert_eq!(produced.header.timestamp_type(), TimestampType::CreateTime);
    assert_eq!(produced.header.max_timestamp, NOW_MS - 5);
    verify_crc(&appended(&sent, &produced)).unwrap();
}

#[test]
fn recompression_changes_the_codec_only() {
    for from in CODECS {
        for to in CODECS {
            let original = batch_of(
                builder(from).producer(9, 1, 44).transactional(),
                &[NOW_MS, NOW_MS + 1],
            );
            let changed = recompress(&original, to, None, 1 << 20).unwrap();
            verify_crc(&changed).unwrap();
            let (before, before_section) = decoded_section(&original, 1 << 20).unwrap();
            let (after, after_section) = decoded_section(&changed, 1 << 20).unwrap();
            assert_eq!(after.compression(), Ok(to));
            assert_eq!(after.size_bytes(), changed.len());
            assert_eq!(before_section, after_section);
            let neutral = |header: BatchHeader| BatchHeader {
                batch_length: 0,
                crc: 0,
                attributes: 0,
                ..header
            };
            assert_eq!(neutral(before), neutral(after));
            assert_eq!(before.attributes & !7, after.attributes & !7);
            assert_eq!(records(&after, &after_section).count(), 2);
        }
    }
}

proptest! {
    /// Uncompressed and compressed records are walked by different code, which must agree.
    #[test]
    fn both_walks_agree(
        at in any::<prop::sample::Index>(), byte: u8, codec in prop::sample::select(CODECS[1..].to_vec())
    ) {
        let mut section = good(Compression::None)[HEADER_SIZE_BYTES..].to_vec();
        let at = at.index(section.len());
        section[at] = byte;
        let verdict = |codec| validate_produce(&with_section(codec, 3, &section), &rules()).map(|_| ());
        let (plain, streamed) = (verdict(Compression::None), verdict(codec));
        prop_assert_eq!(plain.is_ok(), streamed.is_ok(), "{:?} and {:?}", plain, streamed);
        prop_assert_eq!(plain.map_err(|r| r.code), streamed.map_err(|r| r.code));
    }

    #[test]
    fn damaged_batches_never_panic(
        at in any::<prop::sample::Index>(), byte: u8, codec in prop::sample::select(CODECS.to_vec())
    ) {
        let batch = good(codec);
        let at = at.index(batch.len());
        if at < HEADER_SIZE_BYTES {
            let mut header_only = batch.clone();
            header_only[at] = byte;
            let _ = validate_produce(&header_only, &rules());
        }
        if at >= 21 {
            let batch = patched(batch, at, &[byte]);
            if validate_produce(&batch, &rules()).is_ok() {
                let (header, section) = decoded_section(&batch, 1 << 24).unwrap();
                prop_assert!(records(&header, &section).all(|record| record.is_ok()));
                batch::verify_crc(&batch).unwrap();
            }
        }
    }
}
