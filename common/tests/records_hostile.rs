//! Produced batches against a model that decompresses whole, and their cost: allocations none, memory bounded.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;

use odradek_allocations::{CountingAllocator, count};
use odradek_common::error::ErrorCode;
use odradek_common::records::batch::{HEADER_SIZE_BYTES, TimestampType, update_crc};
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::{Compression, RATIO_FREE_BYTES, compress};
use odradek_common::records::record::Header;
use odradek_common::records::record::decoded_section;
use odradek_common::records::validate::{ProduceRules, recompress, validate_produce};
use proptest::prelude::*;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const NOW_MS: i64 = 1_700_000_000_000;
/// Scratch that a thread keeps, its inflaters, and room for a refusal's text.
const STEADY_BYTES_MAX: i64 = 3 << 20;
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
        timestamp_after_max_ms: 3_600_000,
        zstd_allowed: true,
        now_ms: NOW_MS,
    }
}

/// A batch with `count` in its header around a section that is stored as it is.
fn framed(codec: Compression, count: i32, stored_section: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(0);
    builder.append(NOW_MS, None, None, &[]);
    let mut batch = builder.build()[..HEADER_SIZE_BYTES].to_vec();
    batch.extend(stored_section);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[21..23].copy_from_slice(&codec.id().to_be_bytes());
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    update_crc(&mut batch);
    batch
}

#[test]
fn a_batch_costs_no_allocation() {
    let header = Header {
        key: b"trace",
        value: None,
    };
    for codec in CODECS {
        for (records, value_bytes, headers) in [(1, 100, &[][..]), (100, 1000, &[]), (700, 100, &[header; 3])]
        {
            let mut builder = BatchBuilder::new(0).compression(codec, None);
            for index in 0..records {
                let value: Vec<u8> = (0..value_bytes).map(|at| (at * index % 251) as u8).collect();
                builder.append(NOW_MS + index, Some(b"key"), Some(&value), headers);
            }
            let batch = builder.build();
            validate_produce(&batch, &rules()).unwrap();
            let (outcome, counts) = count(|| validate_produce(&batch, &rules()));
            outcome.unwrap();
            assert_eq!(counts.allocations, 0, "{codec:?}, {records} records: {counts:?}");
        }
    }
}

/// One record whose value fills `section`, so that only its size is wrong with it.
fn one_record(section: &mut [u8]) {
    let zigzag = |out: &mut Vec<u8>, value: usize, bytes: usize| {
        let mut raw = value << 1;
        for at in 0..bytes {
            out.push(raw as u8 & 0x7f | if at + 1 < bytes { 0x80 } else { 0 });
            raw >>= 7;
        }
    };
    let mut prefix = Vec::new();
    zigzag(&mut prefix, section.len() - 5, 5);
    prefix.extend([0, 0, 0, 1]);
    zigzag(&mut prefix, section.len() - 5 - 4 - 5 - 1, 5);
    section[..prefix.len()].copy_from_slice(&prefix);
}

#[test]
fn a_bomb_is_refused_in_bounded_memory() {
    let mut section = vec![0u8; RATIO_FREE_BYTES + (1 << 20)];
    one_record(&mut section);
    let largest = section.len() - (1 << 20);
    let mut allowed = vec![0u8; largest];
    one_record(&mut allowed);
    for codec in [Compression::Gzip, Compression::Zstd] {
        let good = framed(codec, 1, &compress(codec, None, &allowed));
        validate_produce(&good, &rules()).unwrap();
        let bomb = framed(codec, 1, &compress(codec, None, &section));
        assert!(bomb.len() < 64 << 10, "{codec:?}: {}", bomb.len());
        let (outcome, counts) = count(|| validate_produce(&bomb, &rules()));
        assert_eq!(outcome.unwrap_err().code, ErrorCode::MessageTooLarge, "{codec:?}");
        assert!(counts.peak_bytes < STEADY_BYTES_MAX, "{codec:?}: {counts:?}");
    }
}

#[test]
fn a_declared_size_reserves_nothing() {
    // Snappy: 4 GiB in a block of 7 bytes. Gzip: a trailer that says 4 GiB. Lz4: a stored block longer than its frame.
    let snappy = framed(Compression::Snappy, 1, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]);
    let mut gzip = compress(Compression::Gzip, None, b"x").to_vec();
    let end = gzip.len();
    gzip[end - 4..].fill(0xff);
    let mut lz4 = compress(Compression::Lz4, None, b"").to_vec();
    lz4.truncate(7);
    lz4.extend([0xff; 4]);
    for (codec, batch) in [
        (Compression::Snappy, snappy),
        (Compression::Gzip, framed(Compression::Gzip, 1, &gzip)),
        (Compression::Lz4, framed(Compression::Lz4, i32::MAX, &lz4)),
    ] {
        let (outcome, counts) = count(|| validate_produce(&batch, &rules()));
        assert_eq!(outcome.unwrap_err().code, ErrorCode::InvalidRecord, "{codec:?}");
        assert!(counts.peak_bytes < STEADY_BYTES_MAX, "{codec:?}: {counts:?}");
    }
}

#[test]
fn the_first_fault_ends_the_decompression() {
    // The first record is bad and a damaged stream follows: the walk's verdict comes, not the codec's.
    for codec in &CODECS[1..] {
        let mut section = vec![7u8; 300_000];
        section[0] = 1;
        for (at, byte) in section.iter_mut().enumerate().skip(1) {
            *byte = (at * at % 253) as u8;
        }
        let mut stored = compress(*codec, None, &section).to_vec();
        let cut = stored.len() - 20;
        stored.truncate(cut);
        let refusal = validate_produce(&framed(*codec, 1, &stored), &rules()).unwrap_err();
        assert!(
            refusal.message.contains("its length is negative"),
            "{codec:?}: {}",
            refusal.message
        );
    }
}

#[test]
fn recompression_refuses_what_grows_past_the_limit() {
    let mut builder = BatchBuilder::new(0).compression(Compression::Zstd, None);
    builder.append(NOW_MS, None, Some(&vec![b'a'; 8 << 20]), &[]);
    let batch = builder.build();
    let (outcome, counts) = count(|| recompress(&batch, Compression::None, None, 1 << 20));
    assert_eq!(outcome.unwrap_err().code, ErrorCode::MessageTooLarge);
    assert!(counts.peak_bytes < STEADY_BYTES_MAX, "{counts:?}");
    assert!(recompress(&batch, Compression::None, None, 9 << 20).is_ok());
    let mut marker = BatchBuilder::new(0).control();
    marker.append(NOW_MS, Some(&[0, 0, 0, 1]), Some(&[0; 6]), &[]);
    let marker = marker.build();
    assert_eq!(
        recompress(&marker, Compression::Gzip, None, 1 << 20).unwrap(),
        marker
    );
}

#[test]
fn what_would_be_denser_than_readers_believe_keeps_its_codec() {
    let mut builder = BatchBuilder::new(0);
    builder.append(NOW_MS, None, Some(&vec![b'a'; RATIO_FREE_BYTES + 1]), &[]);
    let batch = builder.build();
    let kept = recompress(&batch, Compression::Zstd, None, 32 << 20).unwrap();
    assert_eq!(kept, batch);
    decoded_section(&kept, 32 << 20).unwrap();
    let refused = recompress(&batch, Compression::Zstd, None, 1 << 20);
    assert_eq!(refused.unwrap_err().code, ErrorCode::MessageTooLarge);
}

/// The model: everything in memory, one byte after the other. `None` stands for any fault.
fn model(codec: Compression, stored: &[u8], count: i32, compacted: bool) -> Option<()> {
    let mut section = Vec::new();
    match codec {
        Compression::None => section.extend(stored),
        Compression::Gzip => {
            flate2::bufread::MultiGzDecoder::new(stored)
                .read_to_end(&mut section)
                .ok()?;
        }
        Compression::Snappy => {
            let mut rest = stored.get(16..)?;
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let (block, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                section.extend(snap::raw::Decoder::new().decompress_vec(block).ok()?);
                rest = after;
            }
            rest.is_empty().then_some(())?;
        }
        Compression::Lz4 => {
            lz4::Decoder::new(stored).ok()?.read_to_end(&mut section).ok()?;
        }
        Compression::Zstd => section = zstd::stream::decode_all(stored).ok()?,
    }
    let mut rest = section.into_iter();
    for index in 0..i64::from(count) {
        let length = usize::try_from(varint(&mut rest, 5)?).ok()?;
        let body: Vec<u8> = rest.by_ref().take(length).collect();
        (body.len() == length).then_some(())?;
        let mut body = body.into_iter();
        body.next()?;
        let timestamp = NOW_MS.wrapping_add(varint(&mut body, 10)?);
        let offset_delta = varint(&mut body, 5)?;
        let has_key = bytes(&mut body)?;
        bytes(&mut body)?;
        let headers = varint(&mut body, 5)?;
        (headers >= 0 && headers <= body.len() as i64).then_some(())?;
        for _ in 0..headers {
            bytes(&mut body)?.then_some(())?;
            bytes(&mut body)?;
        }
        let in_time =
            timestamp == -1 || (timestamp <= NOW_MS + 3_600_000 && NOW_MS.checked_sub(timestamp).is_some());
        let fits = body.next().is_none() && offset_delta == index && in_time && (has_key || !compacted);
        fits.then_some(())?;
    }
    rest.next().is_none().then_some(())
}

fn varint(bytes: &mut impl Iterator<Item = u8>, bytes_max: u32) -> Option<i64> {
    let mut raw = 0u128;
    for at in 0..bytes_max {
        let byte = bytes.next()?;
        raw |= u128::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            let bits = if bytes_max == 5 { 32 } else { 64 };
            let raw = (raw >> bits == 0).then_some(raw as u64)?;
            return Some((raw >> 1) as i64 ^ -((raw & 1) as i64));
        }
    }
    None
}

fn bytes(body: &mut std::vec::IntoIter<u8>) -> Option<bool> {
    let Ok(length) = usize::try_from(varint(body, 5)?) else {
        return Some(false);
    };
    (length <= body.len()).then_some(())?;
    body.by_ref().take(length).for_each(drop);
    Some(true)
}

/// Records of every size from nothing to several pieces of a decoder's output.
fn sections() -> impl Strategy<Value = (i32, Vec<u8>)> {
    let record = (
        prop_oneof![4 => 0..200i64, 1 => -(1 << 40)..3_600_000i64],
        proptest::option::of(0..40usize),
        proptest::option::of(prop_oneof![8 => 0..300usize, 1 => 0..150_000usize]),
        0..3usize,
    );
    proptest::collection::vec(record, 1..90).prop_map(|records| {
        let mut builder = BatchBuilder::new(0);
        for (index, (delta, key, value, headers)) in records.iter().enumerate() {
            let content: Vec<u8> = (0..value.unwrap_or(0))
                .map(|at| (at * index % 241) as u8)
                .collect();
            let header = Header {
                key: b"h",
                value: (index % 2 == 0).then_some(b"v"),
            };
            let timestamp = if index == 0 { NOW_MS } else { NOW_MS + delta };
            let key = key.map(|bytes| &[b'k'; 40][..bytes]);
            builder.append(
                timestamp,
                key,
                value.map(|_| &content[..]),
                &vec![header; *headers],
            );
        }
        (
            records.len() as i32,
            builder.build()[HEADER_SIZE_BYTES..].to_vec(),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Mutations of the plain section, of the stored section and of the count: the stream and the model agree.
    #[test]
    fn the_stream_agrees_with_the_model(
        (count_sent, section) in sections(),
        codec in prop::sample::select(CODECS.to_vec()),
        plain_edit in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        stored_edit in proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
        count_change in prop_oneof![6 => Just(0), 1 => -1..2i32],
        compacted: bool,
    ) {
        let mut section = section;
        if let Some((at, byte)) = plain_edit {
            let at = at.index(section.len().min(4000));
            section[at] = byte;
        }
        let mut stored = compress(codec, None, &section).to_vec();
        // What the LZ4 frame says of itself is judged more strictly than the reference library does.
        let first_edited = if codec == Compression::Lz4 { 7 } else { 16.min(stored.len() - 1) };
        if let Some((at, byte)) = stored_edit {
            let at = first_edited + at.index(stored.len() - first_edited);
            stored[at] = byte;
        }
        if let Some(at) = cut {
            stored.truncate(at.index(stored.len()));
        }
        let count_sent = (count_sent + count_change).max(1);
        let expected = model(codec, &stored, count_sent, compacted);
        let batch = framed(codec, count_sent, &stored);
        let rules = ProduceRules { compacted, max_message_bytes: usize::MAX, ..rules() };
        let (outcome, counts) = count(|| validate_produce(&batch, &rules));
        prop_assert_eq!(outcome.is_ok(), expected.is_some(), "{:?} {:?}", codec, outcome);
        prop_assert!(counts.peak_bytes < STEADY_BYTES_MAX, "{:?}", counts);
    }

    #[test]
    fn random_bytes_never_panic_nor_reserve(
        codec in prop::sample::select(CODECS.to_vec()), stored in proptest::collection::vec(any::<u8>(), 0..2000), records in 1..i32::MAX
    ) {
        let batch = framed(codec, records, &stored);
        let (_, counts) = count(|| validate_produce(&batch, &rules()));
        prop_assert!(counts.peak_bytes < STEADY_BYTES_MAX, "{:?}", counts);
    }
}
