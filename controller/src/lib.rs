//! The metadata quorum's shell: the RocksDB store, the transport between controllers, the controller listener's service, and
//! the client with which other nodes reach the active controller.
//!
//! The decisions are `odradek-controller-core`'s; here they are made durable, replicated, published and answered.

mod apis;
pub mod client;
pub mod format;
pub mod handle;
pub mod meta_properties;
pub mod metrics;
pub mod node;
mod probe;
pub mod proto;
mod registration;
mod senders;
pub mod service;
pub mod settings;
pub mod status;
pub mod store;
mod transport;
pub mod update;
