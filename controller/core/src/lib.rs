//! The controller's state machines, without tokio, files, sockets or clocks: `controller` decides what the cluster's
//! metadata becomes, `quorum` is raft behind inputs and effects.

pub mod controller;
pub mod describe_configs;
pub mod quorum;
