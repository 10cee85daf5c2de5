//! What clients rely on, asked of a real node over real sockets.
//!
//! Numbers in the tests' comments are those of the list of protocol behaviours that clients of other projects have failed on.

mod admin;
mod api_versions;
mod bad_input;
mod configs;
mod fetch;
mod fetch_sessions;
mod framing;
mod group_offsets;
mod groups;
mod idempotence;
mod list_offsets;
mod markers;
mod metadata;
mod produce;
mod segments;
mod topics;
