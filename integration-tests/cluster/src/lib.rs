//! Real `odradek` processes and a client that says exactly what a test wants to say.
//!
//! Owns starting, killing and restarting nodes, waiting for their states, and building and reading requests and records.
//! Promises that no process outlives the test binary. Decides nothing about what is right: that is in `tests/`.
//!
//! The tests themselves can be put to the question: with `OD_EXTERNAL=host:port` those that need one node run against
//! whatever listens there, for example Apache Kafka; with `OD_EXTERNAL_3=host:port,host:port,host:port` those that
//! need three.

pub mod asks;
pub mod binary;
pub mod cluster;
pub mod connection;
pub mod java;
pub mod node;
pub mod process;
pub mod raw;
pub mod records;
pub mod shared;
pub mod small_disk;
pub mod transactions;
pub mod wait;
