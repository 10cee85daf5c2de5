//! Brokers that come and go: what their partitions become.

use odradek_common::ids::{NO_NODE, NodeId};
use odradek_common::metadata::proto::{BrokerChangeRecord, PartitionChangeRecord};
use odradek_common::metadata::{
    BrokerImage, MetadataImage, MetadataRecord, PartitionImage, Record, TopicImage, record,
};
use odradek_common::time::Now;
use slog::info;

use super::Controller;
use super::draft::Draft;
use super::partition_change::PartitionChangeBuilder;

/// Why a broker leaves its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// It is fenced or stops; what it wrote is still there.
    Leaving,
    /// It stopped uncleanly or is gone for good: what it had cannot be counted on.
    RecordsLost,
}

impl Controller {
    /// The connection to an unfenced broker broke and its port refuses: it is fenced at once.
    pub fn session_dropped(
        &self,
        image: &MetadataImage,
        _now: Now,
        broker_id: NodeId,
    ) -> Vec<MetadataRecord> {
        let mut draft = Draft::new(image);
        if image.is_alive(broker_id) {
            info!(self.logger, "fencing a broker whose session dropped"; "broker" => broker_id);
            self.fence(&mut draft, broker_id);
        }
        draft.records
    }

    /// Moves the broker out of its ISRs and leaderships, then fences it.
    pub(super) fn fence(&self, draft: &mut Draft, broker_id: NodeId) {
        self.leave_partitions(draft, broker_id, Departure::Leaving);
        let Some(broker) = draft.image.brokers.get(&broker_id).cloned() else {
            return;
        };
        draft.push(broker_change(&broker, Some(true), None));
    }

    /// Unfences the broker, and lets it lead what nobody else could.
    pub(super) fn unfence(&self, draft: &mut Draft, broker: &BrokerImage) {
        let left_shutdown = broker.in_controlled_shutdown.then_some(false);
        draft.push(broker_change(broker, Some(false), left_shutdown));
        let id = broker.broker_id;
        let offline = |_: &TopicImage, p: &PartitionImage| p.leader == NO_NODE && p.replicas.contains(&id);
        self.change_partitions(draft, offline, |builder| builder);
    }

    /// The broker leaves every ISR, leadership and, if its records do not count, ELR.
    pub(super) fn leave_partitions(&self, draft: &mut Draft, broker: NodeId, departure: Departure) {
        match departure {
            Departure::Leaving => {
                let member =
                    |_: &TopicImage, p: &PartitionImage| p.isr.contains(&broker) || p.leader == broker;
                self.change_partitions(draft, member, |builder| builder.without(broker));
            }
            Departure::RecordsLost => {
                let member = |_: &TopicImage, p: &PartitionImage| {
                    p.isr.contains(&broker) || p.elr.contains(&broker) || p.leader == broker
                };
                self.change_partitions(draft, member, |builder| builder.without_records_of(broker));
            }
        }
    }

    /// Changes every partition that `affected` picks, with the election that its topic's settings allow.
    pub(super) fn change_partitions(
        &self,
        draft: &mut Draft,
        affected: impl Fn(&TopicImage, &PartitionImage) -> bool,
        to: impl Fn(PartitionChangeBuilder<'_>) -> PartitionChangeBuilder<'_>,
    ) {
        let mut changes: Vec<PartitionChangeRecord> = Vec::new();
        for topic in draft.image.topics.values() {
            let picked = (0..)
                .zip(&topic.partitions)
                .filter(|(_, partition)| affected(topic, partition));
            for (index, partition) in picked {
                let builder = self.change(&draft.image, topic, index, partition);
                let builder = builder.election(self.election(&draft.image, &topic.name));
                changes.extend(to(builder).build());
            }
        }
        for change in changes {
            draft.push_change(change);
        }
    }
}

/// True if the broker leads any partition.
pub(super) fn has_leaderships(image: &MetadataImage, broker: NodeId) -> bool {
    image.topics.values().any(|topic| {
        topic
            .partitions
            .iter()
            .any(|partition| partition.leader == broker)
    })
}

/// The record that changes a broker's state.
pub(super) fn broker_change(
    broker: &BrokerImage,
    fenced: Option<bool>,
    in_controlled_shutdown: Option<bool>,
) -> MetadataRecord {
    record(Record::BrokerChange(BrokerChangeRecord {
        broker_id: broker.broker_id,
        broker_epoch: broker.broker_epoch,
        fenced,
        in_controlled_shutdown,
    }))
}
