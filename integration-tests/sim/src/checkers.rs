//! Who looks on: one file for each promise. A checker never changes what happens; the first broken promise ends the run.

pub mod acknowledged;
pub mod epochs;
pub mod high_watermark;
pub mod leaders;
pub mod liveness;
pub mod metadata;

use odradek_common::ids::NodeId;

use crate::log::SimLog;
use crate::message::Key;

/// All checkers.
#[derive(Default)]
pub struct Checkers {
    /// Committed-prefix agreement of the metadata log.
    pub metadata: metadata::MetadataAgreement,
    /// Acknowledged records.
    pub acknowledged: acknowledged::Acknowledged,
    /// One leader per epoch.
    pub leaders: leaders::Leaders,
    /// Epochs do not go back.
    pub epochs: epochs::Epochs,
}

impl Checkers {
    /// The first broken promise.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        let failures = [
            &self.metadata.failure,
            &self.acknowledged.failure,
            &self.leaders.failure,
            &self.epochs.failure,
        ];
        failures.into_iter().find_map(|failure| failure.as_deref())
    }

    /// A replica leads now. Whoever only learns of an epoch that is over need not hold what was committed after it.
    pub fn elected(&mut self, key: Key, node: NodeId, leader_epoch: i32, log: &SimLog) {
        let newest = self
            .metadata
            .newest()
            .and_then(|image| image.topic_by_id(&key.0)?.partition(key.1));
        if newest.is_some_and(|partition| partition.leader_epoch == leader_epoch) {
            self.acknowledged.elected(key, node, log);
        }
    }

    /// What was known of a process is void.
    pub fn process_ended(&mut self, node: NodeId) {
        self.epochs.process_ended(node);
        self.acknowledged.process_ended(node);
    }
}

/// Keeps the first of several failures.
fn fail(failure: &mut Option<String>, what: String) {
    failure.get_or_insert(what);
}
