//! What a leader's look at a produced batch costs, beside the bare decompressors and checksums: `cargo bench -p odradek-common`.
//!
//! Prints CPU time of the thread, the best of several runs; no test reads it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement, not the product"
)]

use std::hint::black_box;

use odradek_common::records::batch::{HEADER_SIZE_BYTES, TimestampType, verify_crc};
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::checksum::checksum;
use odradek_common::records::compression::{Compression, decompress};
use odradek_common::records::validate::{ProduceRules, validate_produce};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::time::{ClockId, clock_gettime};

const NOW_MS: i64 = 1_700_000_000_000;
const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

fn main() {
    checksums();
    walks();
    for codec in CODECS {
        validation(codec);
    }
}

fn checksums() {
    for size in [1 << 10, 16 << 10, 64 << 10, 1 << 20] {
        let bytes = vec![7u8; size];
        let label = format!("crc32c of {} KiB", size >> 10);
        measure(&label, size, 1, || {
            black_box(crc32c::crc32c(black_box(&bytes)));
        });
        let label = format!("checksum of {} KiB", size >> 10);
        measure(&label, size, 1, || {
            black_box(checksum(black_box(&bytes)));
        });
    }
}

/// Uncompressed batches, where the checksum and the walk are all there is.
fn walks() {
    for (count, size) in [(1, 100), (150, 100), (600, 100), (64, 1000), (50, 10_000)] {
        let values = vec![vec![b'x'; size]; count];
        let batch = batch(Compression::None, &values);
        let bytes = batch.len();
        let label = format!("crc alone, {count} records of {size} B");
        measure(&label, bytes, count, || verify_crc(black_box(&batch)).unwrap());

        let label = format!("validate, {count} records of {size} B");
        measure(&label, bytes, count, || {
            black_box(validate_produce(black_box(&batch), &rules()).unwrap());
        });
    }
}

/// 100 records of about 1 KB each; throughput counts uncompressed bytes.
fn validation(codec: Compression) {
    let mut rng = StdRng::seed_from_u64(7);
    let values: Vec<Vec<u8>> = (0..100).map(|_| json(&mut rng, 1024)).collect();
    let plain_bytes = batch(Compression::None, &values).len() - HEADER_SIZE_BYTES;
    let batch = batch(codec, &values);
    let name = codec.name();
    println!(
        "{name}: {plain_bytes} bytes become {}",
        batch.len() - HEADER_SIZE_BYTES
    );
    let label = format!("{name}: checksum");
    measure(&label, plain_bytes, 100, || {
        verify_crc(black_box(&batch)).unwrap()
    });
    bare(codec, &batch[HEADER_SIZE_BYTES..], plain_bytes);
    let label = format!("{name}: decompress into memory");
    measure(&label, plain_bytes, 100, || {
        black_box(decompress(codec, &batch[HEADER_SIZE_BYTES..], 1 << 24).unwrap());
    });
    let label = format!("{name}: validate");
    measure(&label, plain_bytes, 100, || {
        black_box(validate_produce(black_box(&batch), &rules()).unwrap());
    });
}

/// The decompressor alone, with everything it needs made before: the floor.
fn bare(codec: Compression, section: &[u8], plain_bytes: usize) {
    let mut out = vec![0u8; plain_bytes.max(64 << 10)];
    let label = format!("{}: bare decompressor", codec.name());
    match codec {
        Compression::None => {}
        Compression::Gzip => {
            let mut inflater = libdeflater::Decompressor::new();
            measure(&label, plain_bytes, 100, || {
                inflater.gzip_decompress(section, &mut out).unwrap();
            });
        }
        Compression::Snappy => measure(&label, plain_bytes, 100, || {
            let mut rest = &section[16..];
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let (block, after) = after.split_at(u32::from_be_bytes(*length) as usize);
                snap::raw::Decoder::new().decompress(block, &mut out).unwrap();
                rest = after;
            }
        }),
        Compression::Lz4 => measure(&label, plain_bytes, 100, || {
            let mut rest = &section[7..];
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let (block, after) = after.split_at(u32::from_le_bytes(*length) as usize);
                if !block.is_empty() {
                    lz4::block::decompress_to_buffer(block, Some(64 << 10), &mut out).unwrap();
                }
                rest = after;
            }
        }),
        Compression::Zstd => {
            let mut context = zstd::zstd_safe::DCtx::create();
            measure(&label, plain_bytes, 100, || {
                context.decompress(&mut out[..], section).unwrap();
            });
        }
    }
}

fn rules() -> ProduceRules {
    ProduceRules {
        compacted: false,
        max_message_bytes: 1 << 24,
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        zstd_allowed: true,
        now_ms: NOW_MS,
    }
}

fn batch(codec: Compression, values: &[Vec<u8>]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(0).compression(codec, None);
    for (index, value) in values.iter().enumerate() {
        builder.append(NOW_MS + index as i64 / 3, None, Some(value), &[]);
    }
    builder.build().to_vec()
}

/// A flat object of `size` bytes with names that repeat and values that do not.
fn json(rng: &mut StdRng, size: usize) -> Vec<u8> {
    const WORDS: [&str; 8] = [
        "alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel",
    ];
    let mut text = String::from("{");
    while text.len() + 80 < size {
        let word = WORDS[rng.random_range(0..WORDS.len())];
        let part = match rng.random_range(0..4) {
            0 => format!("\"user_id\":{},", rng.random_range(0..1_000_000_000u64)),
            1 => format!("\"event_{word}\":\"{:016x}\",", rng.random::<u64>()),
            2 => format!(
                "\"at\":\"2026-11-28T{:02}:{:02}:{:02}.{:03}Z\",",
                rng.random_range(0..24),
                rng.random_range(0..60),
                rng.random_range(0..60),
                rng.random_range(0..1000)
            ),
            _ => format!(
                "\"status\":\"{word}\",\"amount\":{},",
                rng.random_range(0..100_000)
            ),
        };
        text.push_str(&part);
    }
    text.push_str("\"rest\":\"");
    while text.len() + 2 < size {
        text.push(' ');
    }
    text.push_str("\"}");
    text.into_bytes()
}

/// Prints what `work` costs per call, per record and per gigabyte.
fn measure(label: &str, bytes: usize, records: usize, mut work: impl FnMut()) {
    const RUNS: usize = 9;
    const RUN_SECONDS: f64 = 0.05;
    work();
    let mut best = f64::MAX;
    for _ in 0..RUNS {
        let start = cpu_seconds();
        let mut calls = 0u32;
        while cpu_seconds() - start < RUN_SECONDS {
            for _ in 0..8 {
                work();
            }
            calls += 8;
        }
        best = best.min((cpu_seconds() - start) / f64::from(calls));
    }
    println!(
        "{label:44} {:9.2} us {:8.2} ns/record {:7.2} GB/s {:7.3} CPU-s/GB",
        best * 1e6,
        best * 1e9 / records as f64,
        bytes as f64 / best / 1e9,
        best * 1e9 / bytes as f64
    );
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
