//! What every crate of the workspace speaks: identifiers, errors, time, record batches, request schemas and the metadata
//! image. Nothing here opens files or sockets, reads a clock or draws randomness.

pub mod error;
pub mod ids;
pub mod metadata;
pub mod records;
pub mod schema;
pub mod time;
pub mod topic_name;
