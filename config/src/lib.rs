//! Configuration: every key that Odradek knows, the files that set them, and what they mean for a node, a topic or
//! a group.
//!
//! [`keys`] is the one table; the rest reads it. A node starts from [`ServerConfig::load`]; dynamic broker
//! configurations are layered on with [`ServerConfig::with_dynamic`], topics resolve through
//! [`topic::TopicConfig::resolve`], AlterConfigs is checked by [`dynamic`] and DescribeConfigs answered by
//! [`describe`]. Nothing here touches files, the environment or a clock: texts come in, values and errors go out.

pub mod describe;
pub mod dynamic;
pub mod environment;
pub mod error;
pub mod key;
pub mod keys;
pub mod listener;
pub mod properties;
pub mod reference;
pub mod server;
pub mod topic;
pub mod value;

pub use error::{ConfigError, Warning};
pub use server::ServerConfig;
pub use topic::{TimestampType, TopicConfig};
