//! What happens as time passes: sessions run out, leaderships drift back to preferred replicas, offline partitions of topics
//! that allow it get an unclean leader.

use odradek_common::ids::{NO_NODE, NodeId};
use odradek_common::metadata::{MetadataImage, MetadataRecord, PartitionImage};
use odradek_common::time::Now;
use slog::{info, warn};

use super::draft::Draft;
use super::partition_change::Election;
use super::{Controller, ControllerSettings};

/// When the periodic rounds are due; none before this controller leads.
#[derive(Debug, Default)]
pub(super) struct Timers {
    rebalance_ms: Option<u64>,
    unclean_ms: Option<u64>,
}

impl Timers {
    pub(super) fn starting(settings: &ControllerSettings, now: Now) -> Self {
        let rebalance = settings.auto_leader_rebalance_enable;
        Self {
            rebalance_ms: rebalance.then_some(now.mono_ms + settings.leader_imbalance_check_interval_ms),
            unclean_ms: Some(now.mono_ms + settings.unclean_leader_election_interval_ms),
        }
    }

    /// An override changed which offline partitions may get an unclean leader.
    pub(super) fn check_unclean_now(&mut self, now: Now) {
        self.unclean_ms = Some(now.mono_ms);
    }
}

impl Controller {
    /// Does what is due. The records are one batch; nothing is due before [`Controller::next_deadline`].
    pub fn tick(&mut self, image: &MetadataImage, now: Now) -> Vec<MetadataRecord> {
        let mut draft = Draft::new(image);
        self.sessions.adopt(image, now);
        for broker in self.sessions.expired(image, now) {
            info!(self.logger, "fencing a broker whose session ran out"; "broker" => broker);
            self.fence(&mut draft, broker);
        }
        if self.timers.unclean_ms.is_some_and(|due| now.mono_ms >= due) {
            let more = self.elect_unclean_leaders(&mut draft);
            let interval_ms = self.settings.unclean_leader_election_interval_ms;
            self.timers.unclean_ms = Some(next_round_ms(now, more, interval_ms));
        }
        if self.timers.rebalance_ms.is_some_and(|due| now.mono_ms >= due) {
            let more = self.elect_preferred_leaders(&mut draft);
            let interval_ms = self.settings.leader_imbalance_check_interval_ms;
            self.timers.rebalance_ms = Some(next_round_ms(now, more, interval_ms));
        }
        draft.records
    }

    /// When [`Controller::tick`] has something to do next, on the clock of `Now::mono_ms`.
    #[must_use]
    pub fn next_deadline(&self, image: &MetadataImage) -> Option<u64> {
        let due = [
            self.sessions.next_expiry_ms(image),
            self.timers.rebalance_ms,
            self.timers.unclean_ms,
        ];
        due.into_iter().flatten().min()
    }

    /// Unfenced brokers that have been silent for a while: the shell dials them, and calls [`Controller::session_dropped`]
    /// if the port refuses.
    #[must_use]
    pub fn suspects(&self, image: &MetadataImage, now: Now) -> Vec<NodeId> {
        self.sessions.silent(image, now, self.settings.broker_suspect_ms)
    }

    /// Returns true if it stopped at the limit of one round.
    fn elect_preferred_leaders(&self, draft: &mut Draft) -> bool {
        let drifted = |p: &PartitionImage| {
            p.leader != NO_NODE && p.replicas.first().is_some_and(|first| p.leader != *first)
        };
        self.elect_round(draft, |_, _, partition| drifted(partition), Election::Preferred)
    }

    /// Returns true if it stopped at the limit of one round.
    fn elect_unclean_leaders(&self, draft: &mut Draft) -> bool {
        let allowed = |image: &MetadataImage, topic: &str, partition: &PartitionImage| {
            partition.leader == NO_NODE && self.settings.unclean_election(image, topic)
        };
        let before = draft.records.len();
        let more = self.elect_round(draft, allowed, Election::Unclean);
        let elections = draft.records.len() - before;
        if elections > 0 {
            warn!(self.logger, "elected leaders for offline partitions, uncleanly where need be";
                "elections" => elections);
        }
        more
    }

    fn elect_round(
        &self,
        draft: &mut Draft,
        affected: impl Fn(&MetadataImage, &str, &PartitionImage) -> bool,
        election: Election,
    ) -> bool {
        let image = &draft.image;
        let mut changes = Vec::new();
        for topic in image.topics.values() {
            let picked = (0..)
                .zip(&topic.partitions)
                .filter(|(_, p)| affected(image, &topic.name, p));
            let room = self.settings.elections_per_round_max - changes.len();
            let built = picked.filter_map(|(index, partition)| {
                self.change(image, topic, index, partition)
                    .election(election)
                    .build()
            });
            changes.extend(built.take(room));
        }
        let more = changes.len() >= self.settings.elections_per_round_max;
        for change in changes {
            draft.push_change(change);
        }
        more
    }
}

fn next_round_ms(now: Now, more: bool, interval_ms: u64) -> u64 {
    if more {
        now.mono_ms
    } else {
        now.mono_ms + interval_ms
    }
}
