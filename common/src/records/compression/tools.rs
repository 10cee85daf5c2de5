//! What decoders need to work, kept by each thread so that a batch costs no allocation.
//!
//! Promises that a thread keeps at most [`SCRATCH_KEPT_BYTES_MAX`] of scratch and [`ZSTD_KEPT_BYTES_MAX`] of zstd context
//! between two sections, however large one of them was.

use std::cell::Cell;

use zstd::zstd_safe::DCtx;

/// Scratch a thread keeps. Sections and blocks up to this size are decompressed without an allocation.
pub(super) const SCRATCH_KEPT_BYTES_MAX: usize = 1024 * 1024;
/// Output a decoder makes at a time, where it may choose.
pub(super) const PIECE_BYTES: usize = 64 * 1024;
/// Zstd context a thread keeps: enough for the window of level 19 (8 MiB). Pages of a window cost nothing until output
/// reaches them; a frame that declares more gets a context for itself.
const ZSTD_KEPT_BYTES_MAX: usize = 9 * 1024 * 1024;

/// The contexts and the scratch of one thread.
#[derive(Default)]
pub(super) struct Tools {
    pub(super) scratch: Scratch,
    /// Inflates a whole gzip member at once.
    pub(super) gzip_whole: Option<libdeflater::Decompressor>,
    /// Inflates in pieces.
    pub(super) gzip_pieces: Option<flate2::Decompress>,
    pub(super) zstd: Option<DCtx<'static>>,
}

thread_local! {
    static TOOLS: Cell<Option<Box<Tools>>> = const { Cell::new(None) };
}

/// Lends `work` the tools of this thread. Work within work gets tools of its own.
pub(super) fn with<R>(work: impl FnOnce(&mut Tools) -> R) -> R {
    let mut tools = TOOLS.take().unwrap_or_default();
    let result = work(&mut tools);
    tools.shrink();
    TOOLS.set(Some(tools));
    result
}

impl Tools {
    fn shrink(&mut self) {
        if self.scratch.bytes.len() > SCRATCH_KEPT_BYTES_MAX {
            self.scratch = Scratch::default();
        }
        if self
            .zstd
            .as_ref()
            .is_some_and(|context| context.sizeof() > ZSTD_KEPT_BYTES_MAX)
        {
            self.zstd = None;
        }
    }
}

/// Bytes to write output into; their content means nothing.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
}

impl Scratch {
    /// `size` bytes of scratch. The caller has bounded `size`.
    pub(super) fn of(&mut self, size: usize) -> &mut [u8] {
        if self.bytes.len() < size {
            // Fresh zeroed memory, so that pages nobody writes to are never touched.
            self.bytes = vec![0; size.next_power_of_two().max(PIECE_BYTES)];
        }
        &mut self.bytes[..size]
    }
}
