//! The controller's decisions: requests in, records and answers out. Every commit in these tests also checks what must
//! always hold of the image (see `harness::World::commit`).

#[path = "controller/brokers.rs"]
mod brokers;
#[path = "controller/configs.rs"]
mod configs;
#[path = "controller/features.rs"]
mod features;
#[path = "controller/harness.rs"]
mod harness;
#[path = "controller/laws.rs"]
mod laws;
#[path = "controller/partitions.rs"]
mod partitions;
#[path = "controller/placement.rs"]
mod placement;
#[path = "controller/topics.rs"]
mod topics;
#[path = "controller/wire.rs"]
mod wire;
