//! Names between our types and kafka-protocol's.

use std::sync::Arc;

use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;

/// The internal topic of consumer groups.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// The internal topic of transactions.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";
/// The internal topic of share groups.
pub const SHARE_TOPIC: &str = "__share_group_state";

/// True for topics that the brokers write themselves.
#[must_use]
pub fn is_internal(topic: &str) -> bool {
    topic == OFFSETS_TOPIC || topic == TRANSACTIONS_TOPIC || topic == SHARE_TOPIC
}

/// A string for a message.
#[must_use]
pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// A topic's name for a message.
#[must_use]
pub fn topic_name(value: &str) -> TopicName {
    TopicName(text(value))
}

/// A topic's name out of a message.
#[must_use]
pub fn shared(value: &TopicName) -> Arc<str> {
    Arc::from(value.0.as_str())
}
