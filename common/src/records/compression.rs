//! The codecs of the records section: streaming readers with a cap, and whole-section compression.
//!
//! A declared size is never believed: output is produced in small steps and counted against an absolute cap and a ratio
//! cap, so a small batch cannot grow into gigabytes. Does not know records.

use std::io::{self, BufReader, Read, Write};

use bytes::Bytes;
use thiserror::Error;

/// Absolute cap of a decompressed records section when the caller has no better one.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Decompressed bytes allowed per compressed byte, once [`RATIO_FREE_BYTES`] are passed.
pub const RATIO_MAX: usize = 1024;
/// Decompressed bytes the ratio cap does not look at: small batches of repeated bytes compress very well.
pub const RATIO_FREE_BYTES: usize = 16 * 1024 * 1024;

/// No snappy element yields more than 64 bytes from 3, so a block declaring more than this is a lie.
const SNAPPY_RATIO_MAX: usize = 22;
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_VERSION: i32 = 1;
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
const STEP_BYTES: usize = 16 * 1024;
/// The level Kafka's `compression.lz4.level` has by default; it means the fast compressor there.
const LZ4_LEVEL_DEFAULT: i32 = 9;

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
#[derive(Debug, Error)]
pub enum CompressionError {
    /// More output than the absolute cap or the ratio cap allows.
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
    #[error("{} section cannot be decompressed", codec.name())]
    Malformed {
        /// The codec of the section.
        codec: Compression,
        /// What the codec said.
        #[source]
        source: io::Error,
    },
}

/// The cap that applies to `compressed_bytes`: the lesser of the absolute and the ratio cap.
pub fn effective_limit_bytes(compressed_bytes: usize, limit_bytes: usize) -> usize {
    limit_bytes.min(compressed_bytes.saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES))
}

/// A streaming reader of the decompressed bytes, which fails once they pass `limit_bytes` or the ratio cap.
///
/// Such a failure is `io::ErrorKind::FileTooLarge`. Memory: the codec's window and at most one snappy block.
pub fn reader<'a>(
    codec: Compression,
    compressed: &'a [u8],
    limit_bytes: usize,
) -> io::Result<Box<dyn Read + 'a>> {
    let limit_bytes = match codec {
        Compression::None => limit_bytes,
        Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd => {
            effective_limit_bytes(compressed.len(), limit_bytes)
        }
    };
    Ok(match codec {
        Compression::None => Box::new(Limited::new(compressed, limit_bytes)),
        Compression::Gzip => Box::new(Limited::new(
            flate2::bufread::MultiGzDecoder::new(compressed),
            limit_bytes,
        )),
        Compression::Snappy => Box::new(Limited::new(
            SnappyReader::new(compressed, limit_bytes),
            limit_bytes,
        )),
        Compression::Lz4 => Box::new(Limited::new(lz4::Decoder::new(compressed)?, limit_bytes)),
        Compression::Zstd => Box::new(Limited::new(
            zstd::stream::read::Decoder::with_buffer(compressed)?,
            limit_bytes,
        )),
    })
}

/// The decompressed bytes of a records section, at most `limit_bytes` and the ratio cap.
pub fn decompress(
    codec: Compression,
    compressed: &[u8],
    limit_bytes: usize,
) -> Result<Bytes, CompressionError> {
    let error = |source: io::Error| classify(codec, compressed.len(), limit_bytes, source);
    let mut reader = reader(codec, compressed, limit_bytes).map_err(error)?;
    let mut out = Vec::with_capacity(compressed.len().saturating_mul(2).min(limit_bytes).min(1 << 20));
    let mut step = [0u8; STEP_BYTES];
    loop {
        match reader.read(&mut step) {
            Ok(0) => return Ok(Bytes::from(out)),
            Ok(n) => out.extend_from_slice(&step[..n]),
            Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(error(source)),
        }
    }
}

/// Names an error of [`reader`]'s reader.
pub fn classify(
    codec: Compression,
    compressed_bytes: usize,
    limit_bytes: usize,
    source: io::Error,
) -> CompressionError {
    if source.kind() == io::ErrorKind::FileTooLarge {
        let limit_bytes = effective_limit_bytes(compressed_bytes, limit_bytes);
        return CompressionError::TooLarge {
            codec,
            compressed_bytes,
            limit_bytes,
        };
    }
    CompressionError::Malformed { codec, source }
}

/// Compresses a records section at `level`, or at the codec's usual level; a level out of range is brought into it.
pub fn compress(codec: Compression, level: Option<i32>, section: &[u8]) -> Bytes {
    let compressed = match codec {
        Compression::None => Ok(section.to_vec()),
        Compression::Gzip => compress_gzip(level, section),
        Compression::Snappy => compress_snappy(section),
        Compression::Lz4 => compress_lz4(level, section),
        Compression::Zstd => compress_zstd(level, section),
    };
    Bytes::from(compressed.expect("writing into memory with a level in range cannot fail"))
}

fn compress_gzip(level: Option<i32>, section: &[u8]) -> io::Result<Vec<u8>> {
    let level = match level {
        None | Some(-1) => flate2::Compression::default(),
        Some(level) => flate2::Compression::new(level.clamp(1, 9) as u32),
    };
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(section.len() / 2 + 32), level);
    encoder.write_all(section)?;
    encoder.finish()
}

fn compress_lz4(level: Option<i32>, section: &[u8]) -> io::Result<Vec<u8>> {
    let level = match level {
        None | Some(LZ4_LEVEL_DEFAULT) => 0,
        Some(level) => level.clamp(1, 17) as u32,
    };
    let mut encoder = lz4::EncoderBuilder::new()
        .level(level)
        .block_size(lz4::BlockSize::Max64KB)
        .block_mode(lz4::BlockMode::Independent)
        .checksum(lz4::ContentChecksum::NoChecksum)
        .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
        .build(Vec::with_capacity(section.len() / 2 + 32))?;
    encoder.write_all(section)?;
    let (compressed, result) = encoder.finish();
    result.map(|()| compressed)
}

fn compress_zstd(level: Option<i32>, section: &[u8]) -> io::Result<Vec<u8>> {
    let range = zstd::compression_level_range();
    let level = level
        .unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL)
        .clamp(*range.start(), *range.end());
    zstd::bulk::compress(section, level)
}

fn compress_snappy(section: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(section.len() / 2 + XERIAL_HEADER_BYTES);
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    out.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in section.chunks(XERIAL_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).map_err(io::Error::other)?;
        out.extend_from_slice(&(compressed.len() as i32).to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Ok(out)
}

/// Fails once more than `left` bytes come out of `inner`.
struct Limited<R> {
    inner: R,
    left: usize,
}

impl<R: Read> Limited<R> {
    fn new(inner: R, limit_bytes: usize) -> Limited<R> {
        Limited {
            inner,
            left: limit_bytes,
        }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.left = self.left.checked_sub(n).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(n)
    }
}

/// Reads xerial-framed snappy block by block, or one raw snappy block if the magic is absent.
struct SnappyReader<'a> {
    rest: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    at: usize,
    left: usize,
}

impl<'a> SnappyReader<'a> {
    fn new(compressed: &'a [u8], limit_bytes: usize) -> SnappyReader<'a> {
        let framed = compressed.len() >= XERIAL_HEADER_BYTES && compressed.starts_with(&XERIAL_MAGIC);
        let rest = if framed {
            &compressed[XERIAL_HEADER_BYTES..]
        } else {
            compressed
        };
        SnappyReader {
            rest,
            framed,
            block: Vec::new(),
            at: 0,
            left: limit_bytes,
        }
    }

    /// The next compressed block, with the framing taken off.
    fn next_block(&mut self) -> io::Result<&'a [u8]> {
        if !self.framed {
            return Ok(std::mem::take(&mut self.rest));
        }
        // Some producers append to a stream by starting another one, so a header may stand between blocks.
        if self.rest.len() >= XERIAL_HEADER_BYTES && self.rest.starts_with(&XERIAL_MAGIC) {
            self.rest = &self.rest[XERIAL_HEADER_BYTES..];
        }
        let Some((length, rest)) = self.rest.split_first_chunk::<4>() else {
            self.rest = &[];
            return Err(invalid("snappy block length is cut off"));
        };
        let length = usize::try_from(i32::from_be_bytes(*length))
            .map_err(|_| invalid("snappy block has a negative length"))?;
        let Some((block, rest)) = rest.split_at_checked(length) else {
            return Err(invalid("snappy block is cut off"));
        };
        self.rest = rest;
        Ok(block)
    }

    fn decompress_block(&mut self) -> io::Result<()> {
        let block = self.next_block()?;
        let declared = snap::raw::decompress_len(block).map_err(io::Error::other)?;
        if declared > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
            return Err(invalid("snappy block declares more bytes than it can hold"));
        }
        self.left = self
            .left
            .checked_sub(declared)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        self.block.resize(declared, 0);
        snap::raw::Decoder::new()
            .decompress(block, &mut self.block)
            .map_err(io::Error::other)?;
        self.at = 0;
        Ok(())
    }
}

impl Read for SnappyReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            self.decompress_block()?;
        }
        let n = (&self.block[self.at..]).read(buf)?;
        self.at += n;
        Ok(n)
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// [`reader`] with a buffer, for consumers that read a few bytes at a time.
pub(super) fn buffered_reader<'a>(
    codec: Compression,
    compressed: &'a [u8],
    limit_bytes: usize,
) -> io::Result<BufReader<Box<dyn Read + 'a>>> {
    Ok(BufReader::with_capacity(
        STEP_BYTES,
        reader(codec, compressed, limit_bytes)?,
    ))
}
