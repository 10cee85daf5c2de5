//! Kafka's record batches, format v2: the header view, record iteration, codecs, validation, building.
//!
//! Works on byte slices and owns no I/O. Everything read here may come from a hostile peer: no length or count is
//! believed before the bytes are there, and nothing panics on foreign bytes. Older formats (magic 0 and 1) are refused.

pub mod batch;
pub mod builder;
pub mod checksum;
pub mod compression;
pub mod control;
pub mod record;
pub mod validate;
mod varint;
mod walk;
