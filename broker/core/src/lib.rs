//! The broker's state machines, without tokio, files, sockets or clocks.

pub mod aborted;
pub mod compaction;
pub mod coordination;
pub mod fetch_session;
pub mod groups;
pub mod leader_epochs;
pub mod partition;
pub mod producer_state;
pub mod transactions;
