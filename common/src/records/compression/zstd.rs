//! Zstandard, by the reference library's stream interface, which consumers use as well: what it refuses they cannot read.
//!
//! The window that a frame declares bounds what the context may reserve (128 MiB by the library's own limit); only pages
//! that output reaches are ever touched. A short frame comes out in one piece, without a window and the copy out of it.

use std::io;

use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::output::{Output, Stop};
use super::tools::{PIECE_BYTES, SCRATCH_KEPT_BYTES_MAX, Tools};

/// How a frame begins (RFC 8878).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes of a block's header, and of the checksum that may follow the last block.
const BLOCK_HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;
/// No block becomes more.
const BLOCK_BYTES_MAX: usize = 128 << 10;
/// What becomes more than so many times as long is not made in one piece: its first record may be wrong.
const PIECE_RATIO_MAX: usize = 64;

pub(super) type Encoder = zstd::stream::write::Encoder<'static, Vec<u8>>;

pub(super) fn decode(section: &[u8], output: &mut Output<'_>, tools: &mut Tools) -> Result<(), Stop> {
    let malformed = |code| Stop::Malformed(zstd_safe::get_error_name(code));
    let context = tools.zstd.get_or_insert_with(DCtx::create);
    context.reset(ResetDirective::SessionOnly).map_err(malformed)?;
    let limit = output
        .left_bytes()
        .min(SCRATCH_KEPT_BYTES_MAX)
        .min(section.len().saturating_mul(PIECE_RATIO_MAX));
    let short = ShortFrame::of(section, limit);
    context
        .set_parameter(DParameter::StableOutBuffer(short.is_some()))
        .map_err(malformed)?;
    let Some(short) = short else {
        return decode_in_pieces(context, section, output, tools.scratch.of(PIECE_BYTES));
    };
    let whole = tools.scratch.of(short.bound);
    let mut out = OutBuffer::around(&mut *whole);
    // The header by itself: of a frame that it has as a whole the library checks less than consumers do, who have it in parts.
    let (header, blocks) = section.split_at(short.header_bytes);
    let mut hint = 0;
    for part in [header, blocks] {
        let mut input = InBuffer::around(part);
        hint = context
            .decompress_stream(&mut out, &mut input)
            .map_err(malformed)?;
        if input.pos() < part.len() {
            return Err(Stop::Malformed("the frame does not end where its blocks do"));
        }
    }
    if hint != 0 {
        return Err(Stop::Malformed("the frame is cut off"));
    }
    let written = out.pos();
    output.push(&whole[..written])
}

fn decode_in_pieces(
    context: &mut DCtx<'_>,
    section: &[u8],
    output: &mut Output<'_>,
    piece: &mut [u8],
) -> Result<(), Stop> {
    let mut input = InBuffer::around(section);
    loop {
        let read_before = input.pos();
        let mut out = OutBuffer::around(&mut piece[..]);
        let hint = context
            .decompress_stream(&mut out, &mut input)
            .map_err(|code| Stop::Malformed(zstd_safe::get_error_name(code)))?;
        let written = out.pos();
        output.push(&piece[..written])?;
        if hint == 0 && input.pos() == section.len() {
            return Ok(());
        }
        if written == 0 && input.pos() == read_before {
            return Err(Stop::Malformed("the frame is cut off"));
        }
    }
}

/// A section that is one frame and becomes little, all of which its window holds.
#[derive(Debug, PartialEq, Eq)]
struct ShortFrame {
    header_bytes: usize,
    /// It becomes at most this much.
    bound: usize,
}

impl ShortFrame {
    /// None if the section is anything else; whether it is right is for the library to say.
    fn of(section: &[u8], limit: usize) -> Option<Self> {
        let (descriptor, window) = (*section.get(4)?, *section.get(5)?);
        if !section.starts_with(&MAGIC) {
            return None;
        }
        let is_single_segment = descriptor & 0x20 != 0;
        let content_size_bytes = match (descriptor >> 6, is_single_segment) {
            (0, false) => 0,
            (0, true) => 1,
            (flag, _) => 1 << flag,
        };
        let dictionary_id_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let window_bytes = usize::from(!is_single_segment);
        let header_bytes = MAGIC.len() + 1 + window_bytes + dictionary_id_bytes + content_size_bytes;
        let has_checksum = descriptor & 4 != 0;
        let mut rest = section.get(header_bytes..)?;
        let mut bound = 0;
        loop {
            let (header, behind) = rest.split_at_checked(BLOCK_HEADER_BYTES)?;
            let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
            let size = usize::try_from(header >> 3).ok()?;
            let (bytes, becomes) = match header >> 1 & 3 {
                0 => (size, size),
                1 => (1, size),
                2 => (size, BLOCK_BYTES_MAX),
                _ => return None,
            };
            bound += becomes;
            rest = behind.get(bytes..)?;
            if bound > limit {
                return None;
            }
            if header & 1 != 0 {
                break;
            }
        }
        let ends = rest.len() == if has_checksum { CHECKSUM_BYTES } else { 0 };
        // A window of so many bytes, and eighths of them.
        let window_bytes = (1_u64 << (10 + (window >> 3))) / 8 * u64::from(8 + (window & 7));
        let holds_all = is_single_segment || bound as u64 <= window_bytes;
        (ends && holds_all).then_some(Self { header_bytes, bound })
    }
}

pub(super) fn encoder(level: Option<i32>, out: Vec<u8>) -> io::Result<Encoder> {
    let range = zstd::compression_level_range();
    let level = level
        .unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL)
        .clamp(*range.start(), *range.end());
    Encoder::new(out, level)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn frame(data: &[u8], with_size: bool) -> Vec<u8> {
        let mut encoder = encoder(None, Vec::new()).unwrap();
        if with_size {
            encoder.set_pledged_src_size(Some(data.len() as u64)).unwrap();
        }
        io::Write::write_all(&mut encoder, data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_short_frame_is_known_by_its_blocks() {
        let data: Vec<u8> = (0..100_000u32).flat_map(u32::to_be_bytes).collect();
        let frames = [frame(&data, false), frame(&data, true)];
        for frame in &frames {
            let found = ShortFrame::of(frame, LIMIT).unwrap();
            assert!((data.len()..=data.len() + BLOCK_BYTES_MAX).contains(&found.bound));
            assert_eq!(ShortFrame::of(frame, found.bound), Some(found));
            assert_eq!(ShortFrame::of(frame, data.len() - 1), None, "more than the limit");
            for end in 0..frame.len() {
                assert_eq!(ShortFrame::of(&frame[..end], LIMIT), None, "cut at {end}");
            }
            assert_eq!(ShortFrame::of(&[frame, &b"x"[..]].concat(), LIMIT), None);
        }
        assert_eq!(ShortFrame::of(&frames.concat(), LIMIT), None, "two frames");
        let mut narrow = frames[0].clone();
        assert_eq!(narrow[4] & 0x20, 0, "it declares a window");
        narrow[5] = (18 - 10) << 3;
        assert_eq!(ShortFrame::of(&narrow, LIMIT), None, "a window of 256 KiB");
        narrow[5] = (19 - 10) << 3;
        assert!(ShortFrame::of(&narrow, LIMIT).is_some(), "512 KiB");
    }
}
