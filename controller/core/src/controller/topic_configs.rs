//! The few topic settings that the controller's own decisions depend on.

use odradek_common::metadata::features::ELR_VERSION;
use odradek_common::metadata::{ConfigResource, MetadataImage, PartitionImage, TopicImage};

use super::partition_change::{Election, PartitionChangeBuilder};
use super::{Controller, ControllerSettings};

pub(super) const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";
pub(super) const UNCLEAN_LEADER_ELECTION_ENABLE: &str = "unclean.leader.election.enable";

/// A topic's override, else the cluster-wide one.
fn topic_override<'a>(image: &'a MetadataImage, topic: &str, name: &str) -> Option<&'a str> {
    let own = image.config(&ConfigResource::topic(topic), name);
    own.or_else(|| image.config(&ConfigResource::every_broker(), name))
        .map(|value| &**value)
}

impl ControllerSettings {
    /// `min.insync.replicas` of a topic; a partition with fewer replicas needs all of them.
    #[must_use]
    pub fn min_isr(&self, image: &MetadataImage, topic: &str) -> usize {
        let set =
            topic_override(image, topic, MIN_INSYNC_REPLICAS).and_then(|value| value.trim().parse().ok());
        usize::try_from(set.unwrap_or(self.min_insync_replicas))
            .unwrap_or(0)
            .max(1)
    }

    /// `unclean.leader.election.enable` of a topic.
    #[must_use]
    pub fn unclean_election(&self, image: &MetadataImage, topic: &str) -> bool {
        let set = topic_override(image, topic, UNCLEAN_LEADER_ELECTION_ENABLE);
        set.map_or(self.unclean_leader_election_enable, |value| {
            value.trim().eq_ignore_ascii_case("true")
        })
    }
}

/// True if the cluster finalised eligible leader replicas.
pub(super) fn elr_enabled(image: &MetadataImage) -> bool {
    image.feature_level(ELR_VERSION) >= 1
}

impl Controller {
    /// The change of a partition under its topic's settings; the election is online.
    pub(super) fn change<'a>(
        &self,
        image: &'a MetadataImage,
        topic: &TopicImage,
        index: i32,
        partition: &'a PartitionImage,
    ) -> PartitionChangeBuilder<'a> {
        let min_isr = self.settings.min_isr(image, &topic.name);
        PartitionChangeBuilder::new(image, partition, topic.id, index, min_isr, elr_enabled(image))
    }

    /// The election that happens on its own: unclean if the topic allows it.
    pub(super) fn election(&self, image: &MetadataImage, topic: &str) -> Election {
        if self.settings.unclean_election(image, topic) {
            Election::Unclean
        } else {
            Election::Online
        }
    }
}
