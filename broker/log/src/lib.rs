//! Partition logs on disk: Kafka's segment files, indexed by RocksDB.
//!
//! Owns everything below a log directory: `<topic>-<partition>/00000000000000000000.log` with record batches v2 as Kafka
//! writes them, from the first append on, and one RocksDB (`odradek-index`) in place of Kafka's index, snapshot and
//! checkpoint files.
//!
//! Invariant: the recovery point of a partition advances only after the data below it was fdatasync'ed, and every index
//! entry, footer and snapshot that belongs below it was written to RocksDB before it, so a crash leaves a prefix.
//! Invariant: nothing is put into RocksDB per append.
//!
//! Blocking: every call may do disk I/O, none awaits. The caller keeps a [`log::Log`] behind its partition's lock and does
//! [`read::LogSlice::read`], [`directory::LogDirectory::sync`] and [`compact::CompactionPlan::run`] outside of it.

pub mod append;
pub mod checkpoint;
pub mod compact;
pub mod config;
pub mod directory;
pub mod disk;
pub mod error;
mod files;
pub mod flush;
mod flush_threads;
mod folder;
pub mod future;
mod index;
pub mod log;
pub mod open;
mod pages;
pub mod read;
pub mod repair;
mod replica_log;
mod reserve;
mod retention;
pub mod room;
mod scan;
pub mod scrub;
mod segment;
mod store;
mod stray;
pub mod timestamps;
mod truncate;
mod writeback;

#[cfg(test)]
mod tests;
