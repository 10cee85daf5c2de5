//! What the nodes that sent raft messages said of themselves: their metadata directory, and where they listen.
//!
//! Nobody who may lead the quorum can be told from others beforehand: a node that joins knows no voter, and one that was away does
//! not know who has become one meanwhile. So whoever sends messages is listened to and answered, and it promises that only the
//! last [`STRANGERS_MAX`] of those whom nothing else vouches for are remembered. It does not know who that is.

use std::collections::{BTreeMap, VecDeque};

use odradek_common::ids::NodeId;
use uuid::Uuid;

/// Senders that are remembered although they are neither in the quorum nor known as controllers.
pub(crate) const STRANGERS_MAX: usize = 16;

/// What a node said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) directory_id: Uuid,
    /// Where it listens, if it said so.
    pub(crate) address: Option<String>,
}

/// The senders of raft messages.
#[derive(Debug, Default)]
pub(crate) struct Senders {
    said: BTreeMap<NodeId, Sender>,
    /// Those of them that are strangers; the last one is the one heard of last.
    strangers: VecDeque<NodeId>,
}

impl Senders {
    pub(crate) fn get(&self, node_id: NodeId) -> Option<&Sender> {
        self.said.get(&node_id)
    }

    /// Remembers a sender; for a stranger that is one too many, the one that has been silent for longest is forgotten.
    pub(crate) fn note(&mut self, node_id: NodeId, sender: Sender, is_stranger: bool) {
        self.strangers.retain(|stranger| *stranger != node_id);
        if is_stranger {
            self.strangers.push_back(node_id);
        }
        self.said.insert(node_id, sender);
        if self.strangers.len() > STRANGERS_MAX
            && let Some(oldest) = self.strangers.pop_front()
        {
            self.said.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(number: u128) -> Sender {
        Sender {
            directory_id: Uuid::from_u128(number),
            address: Some(format!("host-{number}:9093")),
        }
    }

    #[test]
    fn strangers_make_room_for_others_and_members_do_not() {
        let mut senders = Senders::default();
        senders.note(1, sender(1), false);
        senders.note(2, sender(2), true);
        for id in 1_000..2_000 {
            senders.note(id, sender(1), true);
            // It goes on to speak.
            senders.note(2, sender(3), true);
        }
        assert_eq!(senders.get(1), Some(&sender(1)));
        assert_eq!(senders.get(2), Some(&sender(3)));
        assert_eq!(senders.said.len(), 1 + STRANGERS_MAX);
        assert_eq!(senders.get(1_000), None);
        // It is let in.
        senders.note(2, sender(3), false);
        for id in 2_000..3_000 {
            senders.note(id, sender(1), true);
        }
        assert_eq!(senders.get(2), Some(&sender(3)));
        assert_eq!(senders.said.len(), 2 + STRANGERS_MAX);
    }
}
