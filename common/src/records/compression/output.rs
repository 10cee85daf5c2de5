//! Where a decoder puts its output: a sink that counts.

use std::ops::ControlFlow;

/// Why a decoder ends before its section does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// More output than the caps allow.
    TooLarge,
    /// The sink has seen enough.
    Sink,
    /// The section is no stream of the codec.
    Malformed(&'static str),
}

/// The sink of one section and what it may still take.
pub(super) struct Output<'a> {
    left_bytes: usize,
    sink: &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>,
}

impl<'a> Output<'a> {
    pub(super) fn new(limit_bytes: usize, sink: &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Output<'a> {
        Output {
            left_bytes: limit_bytes,
            sink,
        }
    }

    /// Bytes it may still take.
    pub(super) fn left_bytes(&self) -> usize {
        self.left_bytes
    }

    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), Stop> {
        self.left_bytes = self.left_bytes.checked_sub(piece.len()).ok_or(Stop::TooLarge)?;
        if piece.is_empty() {
            return Ok(());
        }
        match (self.sink)(piece) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Sink),
        }
    }
}
