//! Which log directory a replica lives in (KIP-858).

use std::sync::Arc;

use odradek_broker_log::directory::LogDirectory;
use odradek_broker_log::error::LogError;
use odradek_broker_log::log::PartitionIdentity;
use odradek_common::metadata::PartitionImage;

use super::Replicas;
use crate::data_directory::DataDirectory;

impl Replicas {
    /// Where a partition lives already, else where the controller wants it, else where `load` is least.
    ///
    /// # Errors
    /// It lives in a directory that is offline, or may live there: an empty log elsewhere must not take its place.
    pub(super) fn place(
        &self,
        identity: &PartitionIdentity,
        partition: &PartitionImage,
        load: impl Fn(&Arc<DataDirectory>) -> usize,
    ) -> Result<(&Arc<DataDirectory>, &LogDirectory), LogError> {
        let all_online = self.online().count() == self.directories.len();
        let holds = |(_, logs): &(&Arc<DataDirectory>, &LogDirectory)| logs.holds(identity);
        if let Some(found) = self.online().find(holds) {
            return Ok(found);
        }
        let wanted = partition.directory_of(self.node_id);
        if let Some(found) = self
            .online()
            .find(|(directory, _)| !wanted.is_nil() && directory.id() == wanted)
        {
            return Ok(found);
        }
        // Nobody has recorded where a partition is that was never changed: it is new.
        let is_new = wanted.is_nil() && partition.partition_epoch == 0;
        if !all_online && !is_new {
            let offline = self.directories.iter().find(|directory| directory.is_offline());
            let path = offline.map_or_else(Default::default, |directory| directory.path().to_owned());
            return Err(LogError::Offline { path });
        }
        let least = self.online().min_by_key(|(directory, _)| load(directory));
        least.ok_or(LogError::Offline {
            path: self.directories[0].path().to_owned(),
        })
    }
}
