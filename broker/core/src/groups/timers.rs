//! What the deadlines of a shard are for.

use kafka_protocol::protocol::StrBytes;

/// What a deadline is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKey {
    /// A member, or a pending member id, must be heard of.
    Session { group_id: StrBytes, member_id: StrBytes },
    /// The join phase ends, or its initial delay.
    Join { group_id: StrBytes },
    /// The sync phase ends.
    Sync { group_id: StrBytes },
    /// Old offsets are looked for.
    Expiry,
}
