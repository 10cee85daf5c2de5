//! Generators of committed code, and the tidy checks over the tree; both run inside `cargo test`.

pub mod protobuf;
pub mod settings;
pub mod tidy;
