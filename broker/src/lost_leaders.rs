//! Leaders whose connection to this broker broke a moment ago: what the metadata still says of them is doubtful.
//!
//! A client that lost the same leader asks for metadata at once, before the controller can have elected another. If the
//! answer names the dead leader again, librdkafka believes it and asks next at its scan of all topics, up to a second later;
//! LEADER_NOT_AVAILABLE makes it ask again within 100 ms. The same goes for coordinators. A doubt is short, so that a leader which only this broker cannot
//! reach stays visible.

use std::collections::BTreeMap;

use odradek_common::ids::NodeId;
use parking_lot::Mutex;

/// How long a broken connection makes its leader doubtful. An election takes a tenth of this.
const DOUBT_MS: u64 = 500;

/// When connections to leaders broke.
#[derive(Debug, Default)]
pub struct LostLeaders(Mutex<BTreeMap<NodeId, u64>>);

impl LostLeaders {
    /// The connection to a leader broke at `mono_ms`.
    pub fn lost(&self, leader: NodeId, mono_ms: u64) {
        self.0.lock().insert(leader, mono_ms);
    }

    /// A leader answers.
    pub fn found(&self, leader: NodeId) {
        self.0.lock().remove(&leader);
    }

    /// Whether a leader may well be gone.
    #[must_use]
    pub fn doubts(&self, leader: NodeId, mono_ms: u64) -> bool {
        self.doubt_ms(leader, mono_ms).is_some()
    }

    /// For how many milliseconds to come a leader may well be gone; None if it is not in doubt.
    #[must_use]
    pub fn doubt_ms(&self, leader: NodeId, mono_ms: u64) -> Option<u64> {
        let lost = self.0.lock();
        let until_ms = lost.get(&leader)? + DOUBT_MS;
        until_ms.checked_sub(mono_ms).filter(|left_ms| *left_ms > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_ends_with_an_answer_or_by_itself() {
        let leaders = LostLeaders::default();
        assert!(!leaders.doubts(1, 1_000));
        leaders.lost(1, 1_000);
        leaders.lost(2, 1_000);
        assert!(leaders.doubts(1, 1_000) && leaders.doubts(1, 1_000 + DOUBT_MS - 1));
        assert_eq!(leaders.doubt_ms(1, 1_100), Some(DOUBT_MS - 100));
        assert!(!leaders.doubts(1, 1_000 + DOUBT_MS));
        leaders.found(2);
        assert!(!leaders.doubts(2, 1_000));
    }
}
