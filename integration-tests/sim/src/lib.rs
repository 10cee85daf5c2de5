//! A whole cluster in one thread: the quorum, controller and partition cores of three nodes under faults, from one seed.
//!
//! It owns a network that loses, delays and doubles, disks that forget what was not synced, and small shells that mirror
//! those of `controller/` and `broker/`. It promises that one seed gives one history. It decides nothing that a core decides.

pub mod checkers;
pub mod env;
pub mod faults;
pub mod log;
pub mod message;
pub mod node;
pub mod producer;
pub mod rng;
pub mod scenario;
