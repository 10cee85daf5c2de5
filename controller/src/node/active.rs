//! What a node has only while it is the active controller: the newest image, and answers that wait for the quorum.

use std::collections::VecDeque;

use bytes::Bytes;
use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataImage, MetadataRecord};
use odradek_controller_core::quorum::Proposed;

use super::command::Reply;
use super::set_position;
use crate::handle::DispatchError;

pub(crate) struct Active {
    pub(crate) term: u64,
    /// The committed image and everything proposed since.
    pub(crate) latest: MetadataImage,
    waiting: VecDeque<Waiting>,
    last_proposed: u64,
    applied: u64,
}

struct Waiting {
    at: Proposed,
    reply: Option<(Reply, Bytes)>,
}

impl Active {
    pub(crate) fn new(term: u64, committed: &MetadataImage, applied: u64) -> Self {
        Self {
            term,
            latest: committed.clone(),
            waiting: VecDeque::new(),
            last_proposed: applied,
            applied,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Records were taken by the quorum: later decisions see them, the answer waits.
    pub(crate) fn proposed(
        &mut self,
        at: Proposed,
        records: &[MetadataRecord],
        reply: Option<(Reply, Bytes)>,
    ) {
        for record in records {
            self.latest.apply(record);
        }
        set_position(&mut self.latest, at.index, at.term);
        self.last_proposed = at.index;
        self.waiting.push_back(Waiting { at, reply });
    }

    /// An answer without records: it may tell of what is not committed yet, so it waits for that.
    pub(crate) fn answer(&mut self, reply: Reply, answer: Bytes) {
        if self.last_proposed <= self.applied {
            let _gone = reply.send(Ok(answer));
        } else {
            let at = Proposed {
                index: self.last_proposed,
                term: self.term,
            };
            self.waiting.push_back(Waiting {
                at,
                reply: Some((reply, answer)),
            });
        }
    }

    /// An entry was applied: answers that waited for it leave.
    pub(crate) fn committed(&mut self, index: u64, term: u64) {
        self.applied = index;
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.at.index <= index) {
            let Some((reply, answer)) = waiting.reply else {
                continue;
            };
            let answer = if waiting.at.term == term {
                Ok(answer)
            } else {
                Err(DispatchError::NotController { leader: None })
            };
            let _gone = reply.send(answer);
        }
    }

    /// Leadership is lost: whatever waits may or may not be committed by the next leader.
    pub(crate) fn abandon(self, leader: Option<NodeId>) {
        for (reply, _) in self.waiting.into_iter().filter_map(|waiting| waiting.reply) {
            let _gone = reply.send(Err(DispatchError::NotController { leader }));
        }
    }
}
