//! Listeners, connections and clients over real loopback sockets.

#![expect(clippy::unwrap_used, reason = "the crate is a test")]

mod client;
mod files;
mod framing;
mod limits;
mod ordering;
mod refusal;
mod support;
