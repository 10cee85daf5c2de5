//! The codecs of the records section: decompression piece by piece under caps, and compression into memory.
//!
//! A declared size is never believed: output is counted as it comes, against an absolute cap and, for what clients send, a
//! ratio cap, so a small batch cannot grow into gigabytes. What a codec needs to work is kept by each thread and used again
//! (see `tools`), so decompressing costs no allocation once a thread has seen a codec. Does not know records.

mod gzip;
mod lz4;
mod output;
mod snappy;
mod tools;
mod zstd;

use std::ops::ControlFlow;

use bytes::Bytes;
use thiserror::Error;

use self::output::{Output, Stop};

/// Absolute cap of a decompressed records section when the caller has no better one.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Decompressed bytes allowed per compressed byte of a produced batch, once [`RATIO_FREE_BYTES`] are passed.
///
/// Far above what text compresses to, and low enough that a batch of a megabyte is refused within tens of milliseconds.
pub const PRODUCED_RATIO_MAX: usize = 64;
/// Decompressed bytes the ratio cap does not look at: small batches of repeated bytes compress very well.
pub const RATIO_FREE_BYTES: usize = 16 * 1024 * 1024;

/// A codec, as the attribute bits 0-2 of a batch number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// Stored as is.
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy blocks in xerial framing.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// Zstandard; since Produce and Fetch v7 and v10.
    Zstd,
}

impl Compression {
    /// The codec with this number, if there is one.
    pub fn from_id(id: i16) -> Option<Compression> {
        match id {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Snappy),
            3 => Some(Compression::Lz4),
            4 => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// The number of the codec in the attribute bits.
    pub fn id(self) -> i16 {
        match self {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Snappy => 2,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        }
    }

    /// The codec with the name `compression.type` uses; `uncompressed` and `none` both mean no compression.
    pub fn from_name(name: &str) -> Option<Compression> {
        match name {
            "none" | "uncompressed" => Some(Compression::None),
            "gzip" => Some(Compression::Gzip),
            "snappy" => Some(Compression::Snappy),
            "lz4" => Some(Compression::Lz4),
            "zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// Kafka's name of the codec.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// Why a records section could not be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompressionError {
    /// More output than the absolute cap or the ratio cap, if there is one, allows.
    #[error("{} section of {compressed_bytes} bytes decompresses to more than {limit_bytes} bytes", codec.name())]
    TooLarge {
        /// The codec of the section.
        codec: Compression,
        /// Bytes of the section as stored.
        compressed_bytes: usize,
        /// The cap that applied.
        limit_bytes: usize,
    },
    /// Not a stream of that codec.
    #[error("{} section cannot be decompressed: {what}", codec.name())]
    Malformed {
        /// The codec of the section.
        codec: Compression,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// How much may come out of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Decompressed bytes, whatever the ratio.
    pub bytes_max: usize,
    /// Decompressed bytes per compressed byte, once [`RATIO_FREE_BYTES`] are passed; None for any.
    pub ratio_max: Option<usize>,
}

impl Limits {
    /// Of a batch from a client.
    pub const PRODUCED: Limits = Limits {
        bytes_max: DECOMPRESSED_BYTES_MAX,
        ratio_max: Some(PRODUCED_RATIO_MAX),
    };

    /// Of a batch from the log. It was accepted once, and what compaction left of it since may be far denser: no ratio makes it
    /// unreadable.
    pub fn stored(bytes_max: usize) -> Limits {
        Limits {
            bytes_max,
            ratio_max: None,
        }
    }

    /// The cap for a section of `compressed_bytes`.
    pub fn effective_bytes(self, compressed_bytes: usize) -> usize {
        let by_ratio = |ratio_max| compressed_bytes.saturating_mul(ratio_max).max(RATIO_FREE_BYTES);
        self.bytes_max.min(self.ratio_max.map_or(usize::MAX, by_ratio))
    }
}

/// Decompresses `compressed` into `sink`, piece by piece, until the section or the sink's interest ends.
///
/// Memory: the codec's window and one piece. Pieces have any size and are never empty; `Break` is the sink's own doing.
pub fn decompress_into(
    codec: Compression,
    compressed: &[u8],
    limits: Limits,
    sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, CompressionError> {
    let limit_bytes = match codec {
        Compression::None => limits.bytes_max,
        Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd => {
            limits.effective_bytes(compressed.len())
        }
    };
    let mut output = Output::new(limit_bytes, sink);
    let decoded = match codec {
        Compression::None => output.push(compressed),
        Compression::Gzip => tools::with(|tools| gzip::decode(compressed, &mut output, tools)),
        Compression::Snappy => tools::with(|tools| snappy::decode(compressed, &mut output, tools)),
        Compression::Lz4 => tools::with(|tools| lz4::decode(compressed, &mut output, tools)),
        Compression::Zstd => tools::with(|tools| zstd::decode(compressed, &mut output, tools)),
    };
    match decoded {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(Stop::Sink) => Ok(ControlFlow::Break(())),
        Err(Stop::TooLarge) => {
            let compressed_bytes = compressed.len();
            Err(CompressionError::TooLarge {
                codec,
                compressed_bytes,
                limit_bytes,
            })
        }
        Err(Stop::Malformed(what)) => Err(CompressionError::Malformed { codec, what }),
    }
}

/// The decompressed bytes of a stored records section, at most `limit_bytes`.
pub fn decompress(
    codec: Compression,
    compressed: &[u8],
    limit_bytes: usize,
) -> Result<Bytes, CompressionError> {
    let mut out = Vec::with_capacity(compressed.len().saturating_mul(2).min(limit_bytes).min(1 << 20));
    decompress_to(codec, compressed, limit_bytes, &mut out)?;
    Ok(Bytes::from(out))
}

/// As [`decompress`], behind what is in `out` already.
pub(super) fn decompress_to(
    codec: Compression,
    compressed: &[u8],
    limit_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    let limits = Limits::stored(limit_bytes);
    let ended = decompress_into(codec, compressed, limits, &mut |piece| {
        out.extend_from_slice(piece);
        ControlFlow::Continue(())
    })?;
    assert!(ended.is_continue(), "a sink that never breaks reaches the end");
    Ok(())
}

/// Compresses a records section at `level`, or at the codec's usual level; a level out of range is brought into it.
pub fn compress(codec: Compression, level: Option<i32>, section: &[u8]) -> Bytes {
    let mut encoder = Encoder::new(codec, level, Vec::with_capacity(section.len() / 2 + 32));
    encoder.write(section);
    Bytes::from(encoder.finish())
}

/// Compresses what is written to it behind the bytes that are in its buffer already.
pub(super) enum Encoder {
    None(Vec<u8>),
    Gzip(gzip::Encoder),
    Snappy(snappy::Encoder),
    Lz4(lz4::Encoder),
    Zstd(zstd::Encoder),
}

const IN_MEMORY: &str = "writing into memory with a level in range cannot fail";

impl Encoder {
    pub(super) fn new(codec: Compression, level: Option<i32>, out: Vec<u8>) -> Encoder {
        match codec {
            Compression::None => Encoder::None(out),
            Compression::Gzip => Encoder::Gzip(gzip::encoder(level, out)),
            Compression::Snappy => Encoder::Snappy(snappy::Encoder::new(out)),
            Compression::Lz4 => Encoder::Lz4(lz4::encoder(level, out).expect(IN_MEMORY)),
            Compression::Zstd => Encoder::Zstd(zstd::encoder(level, out).expect(IN_MEMORY)),
        }
    }

    pub(super) fn write(&mut self, piece: &[u8]) {
        use std::io::Write;
        match self {
            Encoder::None(out) => out.extend_from_slice(piece),
            Encoder::Gzip(encoder) => encoder.write_all(piece).expect(IN_MEMORY),
            Encoder::Snappy(encoder) => encoder.write(piece),
            Encoder::Lz4(encoder) => encoder.write_all(piece).expect(IN_MEMORY),
            Encoder::Zstd(encoder) => encoder.write_all(piece).expect(IN_MEMORY),
        }
    }

    /// Bytes in the buffer so far; the codec may hold back some more.
    pub(super) fn len(&self) -> usize {
        match self {
            Encoder::None(out) => out.len(),
            Encoder::Gzip(encoder) => encoder.get_ref().len(),
            Encoder::Snappy(encoder) => encoder.len(),
            Encoder::Lz4(encoder) => encoder.writer().len(),
            Encoder::Zstd(encoder) => encoder.get_ref().len(),
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        match self {
            Encoder::None(out) => out,
            Encoder::Gzip(encoder) => encoder.finish().expect(IN_MEMORY),
            Encoder::Snappy(encoder) => encoder.finish(),
            Encoder::Lz4(encoder) => {
                let (out, ended) = encoder.finish();
                ended.expect(IN_MEMORY);
                out
            }
            Encoder::Zstd(encoder) => encoder.finish().expect(IN_MEMORY),
        }
    }
}
