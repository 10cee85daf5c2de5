//! AssignReplicasToDirs: a broker says in which log directory its replicas are.

use kafka_protocol::messages::assign_replicas_to_dirs_response::{DirectoryData, PartitionData, TopicData};
use kafka_protocol::messages::{AssignReplicasToDirsRequest, AssignReplicasToDirsResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_common::metadata::MetadataImage;
use odradek_common::time::Now;
use slog::{info, warn};
use uuid::Uuid;

use super::draft::Draft;
use super::{Controller, Decision, check_broker_epoch};

impl Controller {
    /// Records the directories; a replica in a directory that is not online leaves its ISR.
    pub fn assign_replicas_to_dirs(
        &mut self,
        image: &MetadataImage,
        _now: Now,
        request: &AssignReplicasToDirsRequest,
    ) -> Decision<AssignReplicasToDirsResponse> {
        let broker_id = request.broker_id.0;
        if let Err(error) = check_broker_epoch(image, broker_id, request.broker_epoch) {
            info!(self.logger, "refusing directory assignments"; "broker" => broker_id, "error" => %error);
            return Decision::answer(AssignReplicasToDirsResponse::default().with_error_code(error.code()));
        }
        let mut draft = Draft::new(image);
        let mut directories = Vec::with_capacity(request.directories.len());
        for directory in &request.directories {
            let mut topics = Vec::with_capacity(directory.topics.len());
            for topic in &directory.topics {
                let results = topic.partitions.iter().map(|partition| {
                    let index = partition.partition_index;
                    let error = self
                        .assign(&mut draft, broker_id, directory.id, topic.topic_id, index)
                        .err();
                    if let Some(error) = &error {
                        warn!(self.logger, "refusing a directory assignment"; "broker" => broker_id,
                            "topic_id" => %topic.topic_id, "partition" => index, "error" => %error);
                    }
                    let code = error.map_or(0, |error| error.code());
                    PartitionData::default()
                        .with_partition_index(index)
                        .with_error_code(code)
                });
                let results = results.collect();
                topics.push(
                    TopicData::default()
                        .with_topic_id(topic.topic_id)
                        .with_partitions(results),
                );
            }
            directories.push(DirectoryData::default().with_id(directory.id).with_topics(topics));
        }
        let response = AssignReplicasToDirsResponse::default().with_directories(directories);
        Decision {
            records: draft.records,
            response,
        }
    }

    fn assign(
        &self,
        draft: &mut Draft,
        broker_id: NodeId,
        directory: Uuid,
        topic_id: Uuid,
        index: i32,
    ) -> Result<(), ApiError> {
        let image = &draft.image;
        let unknown_id = || ApiError::new(ErrorCode::UnknownTopicId, "no topic has that id");
        let topic = image.topic_by_id(&topic_id).ok_or_else(unknown_id)?;
        let unknown = || {
            ApiError::new(
                ErrorCode::UnknownTopicOrPartition,
                format!("there is no {}-{index}", topic.name),
            )
        };
        let partition = topic.partition(index).ok_or_else(unknown)?;
        if !partition.replicas.contains(&broker_id) {
            let detail = format!("broker {broker_id} has no replica of {}-{index}", topic.name);
            return Err(ApiError::new(ErrorCode::NotLeaderOrFollower, detail));
        }
        let online = image
            .brokers
            .get(&broker_id)
            .is_some_and(|broker| broker.log_dirs.contains(&directory));
        let change = self
            .change(image, topic, index, partition)
            .election(self.election(image, &topic.name))
            .directory(broker_id, directory);
        let change = if online { change } else { change.without(broker_id) };
        if let Some(change) = change.build() {
            draft.push_change(change);
        }
        Ok(())
    }
}
