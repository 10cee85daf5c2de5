//! How a partition changes: reassignments completed, ISR and ELR kept, a leader elected. Every verb changes partitions
//! through this.
//!
//! What holds of the result: the leader is in the ISR or there is none; the ISR and the ELR are replicas and have no member
//! in common; the ELR is empty when the ISR reaches `min.insync.replicas`.

use std::collections::BTreeMap;

use odradek_common::ids::{NO_NODE, NodeId};
use odradek_common::metadata::proto::{BytesList, Int32List, PartitionChangeRecord};
use odradek_common::metadata::{MetadataImage, PartitionImage, partition_change};
use uuid::Uuid;

/// Which replica an election may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// The preferred replica if it is in the ISR, else as [`Election::Online`].
    Preferred,
    /// The leader stays if it may; else the first replica that has everything.
    Online,
    /// As [`Election::Online`]; if nobody has everything, any replica that lives, and records may be lost.
    Unclean,
}

/// The change of one partition, from what it should become.
pub struct PartitionChangeBuilder<'a> {
    image: &'a MetadataImage,
    partition: &'a PartitionImage,
    topic_id: Uuid,
    index: i32,
    excluded: Option<NodeId>,
    lost_records: Option<NodeId>,
    election: Election,
    min_isr: usize,
    elr_enabled: bool,
    isr: Vec<NodeId>,
    replicas: Vec<NodeId>,
    adding: Vec<NodeId>,
    removing: Vec<NodeId>,
    recovering: bool,
    directories: BTreeMap<NodeId, Uuid>,
}

/// What an election came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elected {
    Nobody,
    Clean(NodeId),
    Unclean(NodeId),
}

impl<'a> PartitionChangeBuilder<'a> {
    /// Starts from the partition as it is. `min_isr` is the topic's `min.insync.replicas`.
    #[must_use]
    pub fn new(
        image: &'a MetadataImage,
        partition: &'a PartitionImage,
        topic_id: Uuid,
        index: i32,
        min_isr: usize,
        elr_enabled: bool,
    ) -> Self {
        let directories = partition
            .replicas
            .iter()
            .copied()
            .zip(partition.directories.iter().copied())
            .collect();
        Self {
            image,
            partition,
            topic_id,
            index,
            excluded: None,
            lost_records: None,
            election: Election::Online,
            min_isr,
            elr_enabled,
            isr: partition.isr.clone(),
            replicas: partition.replicas.clone(),
            adding: partition.adding_replicas.clone(),
            removing: partition.removing_replicas.clone(),
            recovering: partition.recovering,
            directories,
        }
    }

    /// The broker leaves the ISR and is not elected, whatever the image says of it.
    #[must_use]
    pub fn without(mut self, broker: NodeId) -> Self {
        self.isr.retain(|id| *id != broker);
        self.excluded = Some(broker);
        self
    }

    /// The broker may have lost records it had acknowledged: it leaves the ISR and the ELR and is not elected.
    #[must_use]
    pub fn without_records_of(mut self, broker: NodeId) -> Self {
        self.lost_records = Some(broker);
        self.without(broker)
    }

    /// What the ISR becomes.
    #[must_use]
    pub fn isr(mut self, isr: Vec<NodeId>) -> Self {
        self.isr = isr;
        self
    }

    /// What the replicas become, and which of them a reassignment adds and removes.
    #[must_use]
    pub fn replicas(mut self, replicas: Vec<NodeId>, adding: Vec<NodeId>, removing: Vec<NodeId>) -> Self {
        self.replicas = replicas;
        self.adding = adding;
        self.removing = removing;
        self
    }

    /// Whether the leader still recovers from an unclean election.
    #[must_use]
    pub fn recovering(mut self, recovering: bool) -> Self {
        self.recovering = recovering;
        self
    }

    /// How the leader is elected.
    #[must_use]
    pub fn election(mut self, election: Election) -> Self {
        self.election = election;
        self
    }

    /// The log directory of a replica.
    #[must_use]
    pub fn directory(mut self, broker: NodeId, directory: Uuid) -> Self {
        self.directories.insert(broker, directory);
        self
    }

    /// The record, or none if nothing changes.
    #[must_use]
    pub fn build(mut self) -> Option<PartitionChangeRecord> {
        self.complete_reassignment();
        self.min_isr = self.min_isr.clamp(1, self.replicas.len().max(1));
        let mut elr = self.next_elr();
        let elected = self.elect(&elr);
        let mut leader = NO_NODE;
        match elected {
            Elected::Nobody => self.keep_last_member(),
            Elected::Clean(id) if self.isr.contains(&id) => leader = id,
            Elected::Clean(id) => {
                leader = id;
                self.isr = vec![id];
                elr.retain(|member| *member != id);
            }
            Elected::Unclean(id) => {
                leader = id;
                self.isr = vec![id];
                self.recovering = true;
                elr.clear();
            }
        }
        if self.isr.len() >= self.min_isr {
            elr.clear();
        }
        let last_known_elr = self.next_last_known_elr(leader, &elr);
        let unclean = matches!(elected, Elected::Unclean(_));
        self.into_record(leader, unclean, elr, last_known_elr)
    }

    /// A reassignment is complete when every replica that stays is in sync.
    fn complete_reassignment(&mut self) {
        if self.adding.is_empty() && self.removing.is_empty() {
            return;
        }
        let staying = |ids: &[NodeId]| -> Vec<NodeId> {
            ids.iter()
                .copied()
                .filter(|id| !self.removing.contains(id))
                .collect()
        };
        let replicas = staying(&self.replicas);
        let isr = staying(&self.isr);
        if replicas.is_empty() || isr.is_empty() || !replicas.iter().all(|id| isr.contains(id)) {
            return;
        }
        self.replicas = replicas;
        self.isr = isr;
        self.adding.clear();
        self.removing.clear();
    }

    /// KIP-966: who leaves an ISR that is too small for acks=all still has everything that was acknowledged.
    fn next_elr(&self) -> Vec<NodeId> {
        if !self.elr_enabled || self.isr.len() >= self.min_isr {
            return Vec::new();
        }
        let had_everything = |id: &NodeId| self.partition.isr.contains(id) || self.partition.elr.contains(id);
        let eligible =
            |id: &NodeId| had_everything(id) && !self.isr.contains(id) && self.lost_records != Some(*id);
        self.replicas.iter().copied().filter(eligible).collect()
    }

    fn elect(&self, elr: &[NodeId]) -> Elected {
        let complete = |id: &NodeId| self.isr.contains(id) || (self.isr.is_empty() && elr.contains(id));
        let valid = |id: &NodeId| complete(id) && self.acceptable(*id);
        let preferred = self
            .replicas
            .first()
            .filter(|id| self.election == Election::Preferred && valid(id));
        let current = Some(&self.partition.leader).filter(|id| valid(id));
        let clean = preferred
            .or(current)
            .or_else(|| self.replicas.iter().find(|id| valid(id)));
        if let Some(id) = clean {
            return Elected::Clean(*id);
        }
        if let Some(id) = self.last_known_leader(elr) {
            return Elected::Unclean(id);
        }
        let living = self
            .replicas
            .iter()
            .find(|id| self.election == Election::Unclean && self.acceptable(**id));
        living.map_or(Elected::Nobody, |id| Elected::Unclean(*id))
    }

    /// KIP-966: when nobody is known to have everything, the last leader has the most.
    fn last_known_leader(&self, elr: &[NodeId]) -> Option<NodeId> {
        if !self.elr_enabled || !self.isr.is_empty() || !elr.is_empty() {
            return None;
        }
        let [id] = self.partition.last_known_elr[..] else {
            return None;
        };
        (self.replicas.contains(&id) && self.acceptable(id)).then_some(id)
    }

    fn acceptable(&self, broker: NodeId) -> bool {
        let directory = self.directories.get(&broker).copied().unwrap_or_default();
        self.excluded != Some(broker)
            && self.image.is_active(broker)
            && self
                .image
                .brokers
                .get(&broker)
                .is_some_and(|broker| broker.has_online(directory))
    }

    /// Without ELR the last member stays in the ISR of an offline partition, as the only one that may lead again.
    fn keep_last_member(&mut self) {
        if self.elr_enabled || !self.isr.is_empty() {
            return;
        }
        let last = self
            .partition
            .isr
            .iter()
            .filter(|id| self.replicas.contains(id))
            .copied();
        self.isr = last.collect();
        if self.isr.is_empty() {
            self.isr.extend(self.replicas.first());
        }
    }

    fn next_last_known_elr(&self, leader: NodeId, elr: &[NodeId]) -> Vec<NodeId> {
        if !self.elr_enabled || leader != NO_NODE || !self.isr.is_empty() {
            return Vec::new();
        }
        if self.partition.leader != NO_NODE {
            return vec![self.partition.leader];
        }
        if !self.partition.last_known_elr.is_empty() {
            return self.partition.last_known_elr.clone();
        }
        let members = [&self.partition.isr[..], &self.partition.elr, elr].concat();
        members.first().copied().into_iter().collect()
    }

    fn into_record(
        self,
        leader: NodeId,
        unclean: bool,
        elr: Vec<NodeId>,
        last_known_elr: Vec<NodeId>,
    ) -> Option<PartitionChangeRecord> {
        let before = self.partition;
        let empty = partition_change(self.topic_id, self.index);
        let mut change = empty.clone();
        // A replica that left may still fetch or lead: the new leader epoch fences it.
        let replica_left = !before.replicas.iter().all(|id| self.replicas.contains(id));
        if leader != before.leader || unclean || replica_left {
            change.leader = Some(leader);
        }
        if self.recovering != before.recovering {
            change.leader_recovery_state = Some(i32::from(self.recovering));
        }
        let directories: Vec<Uuid> = self.replicas.iter().map(|id| self.directory_of(*id)).collect();
        if directories != before.directories {
            let values = directories
                .into_iter()
                .map(|id| id.as_bytes().to_vec().into())
                .collect();
            change.directories = Some(BytesList { values });
        }
        change.isr = changed(&before.isr, self.isr);
        change.replicas = changed(&before.replicas, self.replicas);
        change.adding_replicas = changed(&before.adding_replicas, self.adding);
        change.removing_replicas = changed(&before.removing_replicas, self.removing);
        change.elr = changed(&before.elr, elr);
        change.last_known_elr = changed(&before.last_known_elr, last_known_elr);
        (change != empty).then_some(change)
    }

    fn directory_of(&self, broker: NodeId) -> Uuid {
        self.directories
            .get(&broker)
            .copied()
            .unwrap_or_else(|| default_directory(self.image, broker))
    }
}

fn changed(before: &[NodeId], after: Vec<NodeId>) -> Option<Int32List> {
    (before != after).then_some(Int32List { values: after })
}

/// Where a new replica goes: the broker's log directory if it has only one, else it says later.
pub(super) fn default_directory(image: &MetadataImage, broker: NodeId) -> Uuid {
    match image
        .brokers
        .get(&broker)
        .map(|broker| broker.log_dirs.as_slice())
    {
        Some([only]) => *only,
        Some(_) | None => Uuid::nil(),
    }
}
