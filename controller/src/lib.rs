//! The metadata quorum's shell: the RocksDB store, the transport between controllers, the controller listener's service, and
//! the client with which brokers reach the active controller.
//!
//! The decisions are `odradek-controller-core`'s; here they are made durable, replicated, published and answered.

pub mod format;
pub mod handle;
pub mod meta_properties;
pub mod metrics;
pub mod proto;
pub mod status;
pub mod store;
pub mod update;
