//! Gzip (RFC 1952): members one after the other, as Java's reader takes them.
//!
//! A section that is one member and says that it is small is inflated at once by libdeflate, which needs half the time of
//! any inflater that works in pieces; everything else goes in pieces through zlib-rs. The size a member declares is a hint
//! for the choice and nothing more. Bytes after a member that are no member's header are passed over, as Java does.

use flate2::{Decompress, FlushDecompress, Status};
use memchr::memmem;

use super::output::{Output, Stop};
use super::tools::{PIECE_BYTES, SCRATCH_KEPT_BYTES_MAX, Tools};

/// How every member begins: the magic, and deflate as its method.
const MEMBER: [u8; 3] = [0x1f, 0x8b, 8];
const HEADER_BYTES: usize = 10;
/// CRC-32 and size of what was compressed.
const TRAILER_BYTES: usize = 8;
const FLAGS_AT: usize = 3;
const HAS_HEADER_CRC: u8 = 0x02;
const HAS_EXTRA: u8 = 0x04;
const HAS_NAME: u8 = 0x08;
const HAS_COMMENT: u8 = 0x10;
const FLAGS_RESERVED: u8 = 0xe0;

const CUT_OFF: Stop = Stop::Malformed("a member is cut off");

pub(super) type Encoder = flate2::write::GzEncoder<Vec<u8>>;

pub(super) fn decode(section: &[u8], output: &mut Output<'_>, tools: &mut Tools) -> Result<(), Stop> {
    if let Some(size) = sole_member_bytes(section)
        && size <= SCRATCH_KEPT_BYTES_MAX.min(output.left_bytes())
    {
        let inflater = tools
            .gzip_whole
            .get_or_insert_with(libdeflater::Decompressor::new);
        let out = tools.scratch.of(size);
        if let Ok(written) = inflater.gzip_decompress(section, out) {
            return output.push(&out[..written]);
        }
    }
    let mut rest = inflate_member(
        member(section).ok_or(Stop::Malformed("it does not begin like a member"))?,
        output,
        tools,
    )?;
    while let Some(body) = member(rest) {
        rest = inflate_member(body, output, tools)?;
    }
    Ok(())
}

/// What the only member of `section` declares as its size; `None` if there may be another member.
fn sole_member_bytes(section: &[u8]) -> Option<usize> {
    let after_header = section.get(HEADER_BYTES..)?;
    let size = after_header.last_chunk::<4>()?;
    let sole = memmem::find(after_header, &MEMBER).is_none();
    sole.then(|| u32::from_le_bytes(*size) as usize)
}

/// The bytes after the header of the member that `bytes` begins with, if it does.
fn member(bytes: &[u8]) -> Option<&[u8]> {
    let (header, mut rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let flags = header[FLAGS_AT];
    if !header.starts_with(&MEMBER) || flags & FLAGS_RESERVED != 0 {
        return None;
    }
    if flags & HAS_EXTRA != 0 {
        let (length, after) = rest.split_first_chunk::<2>()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [HAS_NAME, HAS_COMMENT] {
        if flags & text != 0 {
            rest = &rest[memchr::memchr(0, rest)? + 1..];
        }
    }
    if flags & HAS_HEADER_CRC != 0 {
        rest = rest.get(2..)?;
    }
    Some(rest)
}

/// Inflates the member whose header has been read; the bytes after its trailer.
fn inflate_member<'a>(
    mut rest: &'a [u8],
    output: &mut Output<'_>,
    tools: &mut Tools,
) -> Result<&'a [u8], Stop> {
    let inflater = tools.gzip_pieces.get_or_insert_with(|| Decompress::new(false));
    inflater.reset(false);
    let piece = tools.scratch.of(PIECE_BYTES);
    let mut crc = libdeflater::Crc::new();
    loop {
        let (read_before, written_before) = (inflater.total_in(), inflater.total_out());
        let status = inflater
            .decompress(rest, piece, FlushDecompress::None)
            .map_err(|_| Stop::Malformed("a member is damaged"))?;
        let read = (inflater.total_in() - read_before) as usize;
        let written = (inflater.total_out() - written_before) as usize;
        rest = &rest[read..];
        crc.update(&piece[..written]);
        output.push(&piece[..written])?;
        match status {
            Status::StreamEnd => break,
            Status::Ok | Status::BufError if read == 0 && written == 0 => return Err(CUT_OFF),
            Status::Ok | Status::BufError => {}
        }
    }
    let (trailer, rest) = rest.split_first_chunk::<TRAILER_BYTES>().ok_or(CUT_OFF)?;
    let size = inflater.total_out() as u32;
    if trailer[..4] != crc.sum().to_le_bytes() || trailer[4..] != size.to_le_bytes() {
        return Err(Stop::Malformed("a member does not match its checksum"));
    }
    Ok(rest)
}

pub(super) fn encoder(level: Option<i32>, out: Vec<u8>) -> Encoder {
    let level = match level {
        None | Some(-1) => flate2::Compression::default(),
        Some(level) => flate2::Compression::new(level.clamp(1, 9) as u32),
    };
    Encoder::new(out, level)
}
