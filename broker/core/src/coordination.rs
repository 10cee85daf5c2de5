//! What the state machines behind coordinators have in common: names for requests that wait and for records on their way
//! through the log, and what a shell has to do after each call.
//!
//! A coordinator's shard decides, hands out the records of its decision, and waits until the shell reports them committed
//! or lost. What it decides is its own affair (see `groups`, `transactions`).

pub mod fields;
pub mod timers;

use bytes::Bytes;

/// The shell's name for a request that waits for its answer. Each token is answered exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestToken(pub u64);

/// The shell's name for records that it handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendId(pub u64);

/// Records of one decision: to be appended together and in the order of the ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// To be given back when the records are committed, or will never be.
    pub id: AppendId,
    /// Key and value of each record; no value is a tombstone.
    pub records: Vec<(Bytes, Option<Bytes>)>,
}

/// What the shell has to do after a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Effects<Response> {
    /// To be appended to the partition's log.
    pub appends: Vec<Append>,
    /// To be sent.
    pub replies: Vec<(RequestToken, Response)>,
}

impl<Response> Default for Effects<Response> {
    fn default() -> Self {
        Self {
            appends: Vec::new(),
            replies: Vec::new(),
        }
    }
}

/// The partition of a coordinator's topic that holds a key: the absolute value of Java's `String.hashCode` (0 for the one
/// that has none), modulo the number of partitions.
///
/// # Panics
/// When there are no partitions.
#[must_use]
pub fn partition_for(key: &str, partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has partitions");
    let hash = key.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    hash.checked_abs().unwrap_or(0) % partitions
}
