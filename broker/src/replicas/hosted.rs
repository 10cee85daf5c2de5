//! The replicas by name, and all of them in order: a list that is made once per change, not once per chore.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::replica::Replica;

/// What this broker hosts.
#[derive(Default)]
pub(super) struct Hosted {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    by_topic: HashMap<Arc<str>, BTreeMap<i32, Arc<Replica>>>,
    /// By topic and partition; made by the first who asks after a change.
    all: Option<Arc<[Arc<Replica>]>>,
}

impl Hosted {
    pub(super) fn get(&self, topic: &str, partition: i32) -> Option<Arc<Replica>> {
        self.state.read().by_topic.get(topic)?.get(&partition).cloned()
    }

    pub(super) fn insert(&self, replica: Arc<Replica>) {
        let mut state = self.state.write();
        state.all = None;
        let (topic, partition) = (replica.id.topic.clone(), replica.id.partition);
        state
            .by_topic
            .entry(topic)
            .or_default()
            .insert(partition, replica);
    }

    pub(super) fn remove(&self, topic: &str, partition: i32) -> Option<Arc<Replica>> {
        let mut state = self.state.write();
        let partitions = state.by_topic.get_mut(topic)?;
        let removed = partitions.remove(&partition)?;
        if partitions.is_empty() {
            state.by_topic.remove(topic);
        }
        state.all = None;
        Some(removed)
    }

    pub(super) fn topics(&self) -> Vec<Arc<str>> {
        self.state.read().by_topic.keys().cloned().collect()
    }

    pub(super) fn of_topic(&self, topic: &str) -> Vec<Arc<Replica>> {
        let state = self.state.read();
        let partitions = state.by_topic.get(topic);
        partitions
            .into_iter()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect()
    }

    pub(super) fn all(&self) -> Arc<[Arc<Replica>]> {
        if let Some(all) = &self.state.read().all {
            return all.clone();
        }
        let mut state = self.state.write();
        let State { by_topic, all } = &mut *state;
        let make = || {
            let mut topics: Vec<_> = by_topic.iter().collect();
            topics.sort_unstable_by_key(|(name, _)| *name);
            topics
                .into_iter()
                .flat_map(|(_, p)| p.values())
                .cloned()
                .collect()
        };
        all.get_or_insert_with(make).clone()
    }
}
