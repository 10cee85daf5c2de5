//! Zstandard, by the reference library's stream interface.
//!
//! The window that a frame declares bounds what the context may reserve (128 MiB by the library's own limit); only pages
//! that output reaches are ever touched.

use std::io;

use zstd::zstd_safe::{self, DCtx, InBuffer, OutBuffer, ResetDirective};

use super::output::{Output, Stop};
use super::tools::{PIECE_BYTES, Tools};

pub(super) type Encoder = zstd::stream::write::Encoder<'static, Vec<u8>>;

pub(super) fn decode(section: &[u8], output: &mut Output<'_>, tools: &mut Tools) -> Result<(), Stop> {
    let malformed = |code| Stop::Malformed(zstd_safe::get_error_name(code));
    let context = tools.zstd.get_or_insert_with(DCtx::create);
    context.reset(ResetDirective::SessionOnly).map_err(malformed)?;
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

pub(super) fn encoder(level: Option<i32>, out: Vec<u8>) -> io::Result<Encoder> {
    let range = zstd::compression_level_range();
    let level = level
        .unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL)
        .clamp(*range.start(), *range.end());
    Encoder::new(out, level)
}
