//! The LZ4 frame format, as much of it as Kafka's clients read: one frame of independent blocks.
//!
//! Walks the frame itself and has the reference library decompress each block, so that no context and no copy is needed.
//! What Kafka's own reader refuses is refused: linked blocks, dictionaries, a wrong descriptor or block checksum. Like
//! it, it does not look at a content checksum (the batch has one of its own) nor at bytes after the frame.

use std::io;

use twox_hash::XxHash32;

use super::output::{Output, Stop};
use super::tools::Tools;

const MAGIC: u32 = 0x184D_2204;
const DESCRIPTOR_AT: usize = 4;
/// FLG and BD.
const DESCRIPTOR_BYTES: usize = 2;
const CONTENT_SIZE_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;

const VERSION_MASK: u8 = 0b1100_0000;
const VERSION_1: u8 = 0b0100_0000;
const INDEPENDENT: u8 = 0b0010_0000;
const BLOCK_CHECKSUM: u8 = 0b0001_0000;
const CONTENT_SIZE: u8 = 0b0000_1000;
const CONTENT_CHECKSUM: u8 = 0b0000_0100;
const FLAGS_RESERVED: u8 = 0b0000_0011;
const BLOCK_SIZE_RESERVED: u8 = 0b1000_1111;
const STORED: u32 = 1 << 31;
/// No byte of a block yields more than this.
const RATIO_MAX: usize = 255;

/// The level Kafka's `compression.lz4.level` has by default; it means the fast compressor there.
const LEVEL_DEFAULT: i32 = 9;

pub(super) type Encoder = ::lz4::Encoder<Vec<u8>>;

/// What the frame's descriptor says.
struct Descriptor {
    flags: u8,
    block_bytes_max: usize,
}

pub(super) fn decode(section: &[u8], output: &mut Output<'_>, tools: &mut Tools) -> Result<(), Stop> {
    const CUT_OFF: Stop = Stop::Malformed("the frame is cut off");
    let (descriptor, mut rest) = descriptor(section)?;
    let has = |flag| descriptor.flags & flag != 0;
    loop {
        let (length, after) = rest.split_first_chunk::<4>().ok_or(CUT_OFF)?;
        let length = u32::from_le_bytes(*length);
        if length & !STORED == 0 {
            let trailer_bytes = if has(CONTENT_CHECKSUM) { CHECKSUM_BYTES } else { 0 };
            return if after.len() < trailer_bytes {
                Err(CUT_OFF)
            } else {
                Ok(())
            };
        }
        let block_bytes = (length & !STORED) as usize;
        if block_bytes > descriptor.block_bytes_max {
            return Err(Stop::Malformed("a block is larger than the frame allows"));
        }
        let (block, after) = after.split_at_checked(block_bytes).ok_or(CUT_OFF)?;
        rest = after;
        if has(BLOCK_CHECKSUM) {
            let (checksum, after) = rest.split_first_chunk::<CHECKSUM_BYTES>().ok_or(CUT_OFF)?;
            if u32::from_le_bytes(*checksum) != XxHash32::oneshot(0, block) {
                return Err(Stop::Malformed("a block does not match its checksum"));
            }
            rest = after;
        }
        if length & STORED != 0 {
            output.push(block)?;
            continue;
        }
        let capacity = descriptor.block_bytes_max.min(block.len() * RATIO_MAX);
        let out = tools.scratch.of(capacity);
        let written = ::lz4::block::decompress_to_buffer(block, Some(capacity as i32), out)
            .map_err(|_| Stop::Malformed("a block is damaged"))?;
        output.push(&out[..written])?;
    }
}

/// The descriptor and the bytes after it.
fn descriptor(section: &[u8]) -> Result<(Descriptor, &[u8]), Stop> {
    const CUT_OFF: Stop = Stop::Malformed("the frame descriptor is cut off");
    let magic = section.first_chunk::<4>().ok_or(CUT_OFF)?;
    if u32::from_le_bytes(*magic) != MAGIC {
        return Err(Stop::Malformed("it does not begin like a frame"));
    }
    let [flags, block_size] = *section[DESCRIPTOR_AT..]
        .first_chunk::<DESCRIPTOR_BYTES>()
        .ok_or(CUT_OFF)?;
    if flags & VERSION_MASK != VERSION_1 || flags & FLAGS_RESERVED != 0 || flags & INDEPENDENT == 0 {
        return Err(Stop::Malformed(
            "the frame has another version, a dictionary or linked blocks",
        ));
    }
    let size_code = block_size >> 4;
    if block_size & BLOCK_SIZE_RESERVED != 0 || size_code < 4 {
        return Err(Stop::Malformed("the frame has an unknown block size"));
    }
    let content_size_bytes = if flags & CONTENT_SIZE != 0 {
        CONTENT_SIZE_BYTES
    } else {
        0
    };
    let end = DESCRIPTOR_AT + DESCRIPTOR_BYTES + content_size_bytes;
    let described = section.get(DESCRIPTOR_AT..end).ok_or(CUT_OFF)?;
    let checksum = *section.get(end).ok_or(CUT_OFF)?;
    if checksum != (XxHash32::oneshot(0, described) >> 8) as u8 {
        return Err(Stop::Malformed(
            "the frame descriptor does not match its checksum",
        ));
    }
    let block_bytes_max = 1 << (2 * size_code + 8);
    Ok((
        Descriptor {
            flags,
            block_bytes_max,
        },
        &section[end + 1..],
    ))
}

pub(super) fn encoder(level: Option<i32>, out: Vec<u8>) -> io::Result<Encoder> {
    let level = match level {
        None | Some(LEVEL_DEFAULT) => 0,
        Some(level) => level.clamp(1, 17) as u32,
    };
    ::lz4::EncoderBuilder::new()
        .level(level)
        .block_size(::lz4::BlockSize::Max64KB)
        .block_mode(::lz4::BlockMode::Independent)
        .checksum(::lz4::ContentChecksum::NoChecksum)
        .block_checksum(::lz4::liblz4::BlockChecksum::NoBlockChecksum)
        .build(out)
}
