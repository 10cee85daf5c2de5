//! Snappy: blocks in the framing of xerial's snappy-java, or one raw block if its magic is absent.

use super::output::{Output, Stop};
use super::tools::Tools;

/// No snappy element yields more than 64 bytes from 3, so a block declaring more than this is a lie.
const RATIO_MAX: usize = 22;
const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const HEADER_BYTES: usize = 16;
const VERSION: i32 = 1;
const BLOCK_BYTES: usize = 32 * 1024;

pub(super) fn decode(section: &[u8], output: &mut Output<'_>, tools: &mut Tools) -> Result<(), Stop> {
    if !is_header(section) {
        return decode_block(section, output, tools);
    }
    let mut rest = section;
    while !rest.is_empty() {
        // Some producers append to a stream by starting another one, so a header may stand between blocks.
        if is_header(rest) {
            rest = &rest[HEADER_BYTES..];
            continue;
        }
        let (length, after) = rest
            .split_first_chunk::<4>()
            .ok_or(Stop::Malformed("a block length is cut off"))?;
        let length = usize::try_from(i32::from_be_bytes(*length))
            .map_err(|_| Stop::Malformed("a block has a negative length"))?;
        let (block, after) = after
            .split_at_checked(length)
            .ok_or(Stop::Malformed("a block is cut off"))?;
        decode_block(block, output, tools)?;
        rest = after;
    }
    Ok(())
}

fn is_header(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_BYTES && bytes.starts_with(&MAGIC)
}

fn decode_block(block: &[u8], output: &mut Output<'_>, tools: &mut Tools) -> Result<(), Stop> {
    let malformed = |_| Stop::Malformed("a block is damaged");
    let declared = snap::raw::decompress_len(block).map_err(malformed)?;
    if declared > block.len().saturating_mul(RATIO_MAX) {
        return Err(Stop::Malformed("a block declares more bytes than it can hold"));
    }
    if declared > output.left_bytes() {
        return Err(Stop::TooLarge);
    }
    let out = tools.scratch.of(declared);
    let written = snap::raw::Decoder::new()
        .decompress(block, out)
        .map_err(malformed)?;
    output.push(&out[..written])
}

/// Cuts what is written into blocks of xerial's usual size.
pub(in crate::records) struct Encoder {
    out: Vec<u8>,
    block: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(mut out: Vec<u8>) -> Encoder {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        let block = Vec::new();
        Encoder { out, block }
    }

    pub(super) fn write(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            if self.block.is_empty() && piece.len() >= BLOCK_BYTES {
                compress_block(&piece[..BLOCK_BYTES], &mut self.out);
                piece = &piece[BLOCK_BYTES..];
                continue;
            }
            let taken = piece.len().min(BLOCK_BYTES - self.block.len());
            self.block.extend_from_slice(&piece[..taken]);
            piece = &piece[taken..];
            if self.block.len() == BLOCK_BYTES {
                compress_block(&self.block, &mut self.out);
                self.block.clear();
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if !self.block.is_empty() {
            compress_block(&self.block, &mut self.out);
        }
        self.out
    }
}

fn compress_block(block: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + 4 + snap::raw::max_compress_len(block.len()), 0);
    let written = snap::raw::Encoder::new()
        .compress(block, &mut out[start + 4..])
        .expect("the buffer has the codec's own upper bound");
    out[start..start + 4].copy_from_slice(&(written as i32).to_be_bytes());
    out.truncate(start + 4 + written);
}
