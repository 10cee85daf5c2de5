//! The data plane and the process around it.
//!
//! A request comes from `odradek-net`, is dispatched by [`api`] to one handler file per API, and touches partitions through
//! [`replica`]. Metadata arrives in [`metadata`] and is published, in a fixed order, to whoever keeps state derived from it.

pub mod api;
pub mod authorized_operations;
mod background;
pub mod broker;
pub mod cleaner;
pub mod clock;
pub mod connection_limits;
pub mod controller_channel;
pub mod coordinator;
pub mod data_directory;
pub mod directory_assignments;
pub mod fetcher;
#[cfg(test)]
mod fixtures;
pub mod group_commit;
pub mod isr;
pub mod lifecycle;
pub mod logging;
pub mod lost_leaders;
pub mod maintenance;
pub mod memory;
pub mod metadata;
pub mod metrics;
pub mod mover;
pub mod names;
pub mod producer_ids;
pub mod replica;
pub mod replicas;
pub mod scrubber;
pub mod server;
pub mod topic_creation;
pub mod verification;
mod vital;
pub mod watch;
