//! One leader per term of the quorum and per leader epoch of a partition; what leaders of one epoch wrote is one log.

use std::collections::BTreeMap;

use odradek_common::ids::NodeId;

use super::fail;
use crate::log::Batch;
use crate::message::Key;

/// Who led when, and what was written.
#[derive(Default)]
pub struct Leaders {
    controllers: BTreeMap<u64, NodeId>,
    leaders: BTreeMap<(Key, i32), NodeId>,
    written: BTreeMap<(Key, i32, i64), Vec<u64>>,
    /// Elections of partition leaders.
    pub elections: u64,
    /// What was broken.
    pub failure: Option<String>,
}

impl Leaders {
    /// A node leads the quorum in a term.
    pub fn controller(&mut self, term: u64, node: NodeId) {
        let leader = *self.controllers.entry(term).or_insert(node);
        if leader != node {
            fail(
                &mut self.failure,
                format!("nodes {leader} and {node} both lead the quorum in term {term}"),
            );
        }
    }

    /// A replica leads a partition in an epoch.
    pub fn leads(&mut self, key: Key, epoch: i32, node: NodeId) {
        self.elections += 1;
        let leader = *self.leaders.entry((key, epoch)).or_insert(node);
        if leader != node {
            fail(
                &mut self.failure,
                format!("{key:?}: nodes {leader} and {node} both lead in epoch {epoch}"),
            );
        }
    }

    /// A follower took a batch over.
    pub fn appended(&mut self, key: Key, batch: &Batch) {
        let place = (key, batch.header.partition_leader_epoch, batch.header.base_offset);
        let written = self.written.entry(place).or_insert_with(|| batch.values.clone());
        if *written != batch.values {
            let what = format!("{key:?}: two batches of epoch {} at offset {}", place.1, place.2);
            fail(&mut self.failure, what);
        }
    }
}
