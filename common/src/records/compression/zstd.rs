//! Zstandard, by the reference library: a short frame at once, anything else by its stream interface.
//!
//! The window that a frame declares bounds what the context may reserve (128 MiB by the library's own limit); only pages
//! that output reaches are ever touched. A frame that comes out at once needs no window, but one that a stream refuses for its
//! window is refused either way: consumers read streams.

use std::io;

use zstd::zstd_safe::{self, DCtx, InBuffer, OutBuffer, ResetDirective};

use super::output::{Output, Stop};
use super::tools::{PIECE_BYTES, SCRATCH_KEPT_BYTES_MAX, Tools};

/// How a frame begins (RFC 8878).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The bit of the frame header descriptor for "the content is the window".
const SINGLE_SEGMENT: u8 = 1 << 5;
/// The window descriptor of 128 MiB, the greatest a stream accepts.
const WINDOW_MAX: u8 = (27 - 10) << 3;

pub(super) type Encoder = zstd::stream::write::Encoder<'static, Vec<u8>>;

pub(super) fn decode(section: &[u8], output: &mut Output<'_>, tools: &mut Tools) -> Result<(), Stop> {
    let malformed = |code| Stop::Malformed(zstd_safe::get_error_name(code));
    let context = tools.zstd.get_or_insert_with(DCtx::create);
    context.reset(ResetDirective::SessionOnly).map_err(malformed)?;
    let at_once = bound_of_one_frame(section);
    if let Some(bound) = at_once.filter(|bound| *bound <= output.left_bytes().min(SCRATCH_KEPT_BYTES_MAX)) {
        let whole = tools.scratch.of(bound);
        let written = context.decompress(&mut *whole, section).map_err(malformed)?;
        return output.push(&whole[..written]);
    }
    let piece = tools.scratch.of(PIECE_BYTES);
    let mut input = InBuffer::around(section);
    loop {
        let read_before = input.pos();
        let mut out = OutBuffer::around(&mut piece[..]);
        let hint = context
            .decompress_stream(&mut out, &mut input)
            .map_err(malformed)?;
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

/// What the section can become at most, if it is one frame that a stream would accept.
fn bound_of_one_frame(section: &[u8]) -> Option<usize> {
    let (descriptor, window) = (*section.get(4)?, *section.get(5)?);
    let is_accepted = descriptor & SINGLE_SEGMENT != 0 || window <= WINDOW_MAX;
    if !section.starts_with(&MAGIC) || !is_accepted {
        return None;
    }
    let is_one = zstd_safe::find_frame_compressed_size(section).ok()? == section.len();
    let bound = zstd_safe::decompress_bound(section).ok().filter(|_| is_one)?;
    usize::try_from(bound).ok()
}

pub(super) fn encoder(level: Option<i32>, out: Vec<u8>) -> io::Result<Encoder> {
    let range = zstd::compression_level_range();
    let level = level
        .unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL)
        .clamp(*range.start(), *range.end());
    Encoder::new(out, level)
}
