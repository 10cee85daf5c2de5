//! Standard output. A reader that has gone away (`odradek topics --list | head -1`) is no reason to fail.

use std::fmt::Arguments;
use std::io::{Write, stdout};

/// Writes a text as it is.
pub fn write(text: Arguments<'_>) {
    // Whoever no longer reads misses nothing.
    let _ = stdout().lock().write_fmt(text);
}

/// Writes a line.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($text)*))) };
}

/// Writes a text that has its line breaks.
macro_rules! say_text {
    ($($text:tt)*) => { $crate::output::write(format_args!($($text)*)) };
}

pub(crate) use {say, say_text};
