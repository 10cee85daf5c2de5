//! CreatePartitions: a topic grows.

use std::collections::BTreeSet;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataImage, TopicImage, partition_record};
use odradek_common::time::Now;
use slog::info;

use super::create_topics::{check_manual_assignment, new_partition};
use super::draft::Draft;
use super::placement::{place_replicas, placement_brokers};
use super::{Controller, Decision, wire_error};

impl Controller {
    /// Adds partitions. There is one result per topic, also where all went well.
    pub fn create_partitions(
        &mut self,
        image: &MetadataImage,
        _now: Now,
        request: &CreatePartitionsRequest,
    ) -> Decision<CreatePartitionsResponse> {
        let mut draft = Draft::new(image);
        let mut seen = BTreeSet::new();
        let mut duplicates = BTreeSet::new();
        for topic in &request.topics {
            if !seen.insert(&topic.name) {
                duplicates.insert(&topic.name);
            }
        }
        let mut results = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            if duplicates.contains(&topic.name) && !seen.remove(&topic.name) {
                continue;
            }
            let outcome = match duplicates.contains(&topic.name) {
                true => Err(ApiError::new(
                    ErrorCode::InvalidRequest,
                    "the topic is named twice in the request",
                )),
                false => self.grow_topic(&mut draft, topic),
            };
            let (code, message) = wire_error(outcome.err().as_ref());
            let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
            results.push(result.with_error_code(code).with_error_message(message));
        }
        let records = if request.validate_only {
            Vec::new()
        } else {
            draft.records
        };
        info!(self.logger, "creating partitions"; "partitions" => records.len());
        Decision {
            records,
            response: CreatePartitionsResponse::default().with_results(results),
        }
    }

    fn grow_topic(&mut self, draft: &mut Draft, request: &CreatePartitionsTopic) -> Result<(), ApiError> {
        let name = request.name.as_str();
        let unknown = || {
            ApiError::new(
                ErrorCode::UnknownTopicOrPartition,
                format!("there is no topic {name}"),
            )
        };
        let topic = draft.image.topic(name).cloned().ok_or_else(unknown)?;
        let present = topic.partitions.len();
        let count = usize::try_from(request.count).unwrap_or(0);
        if count <= present {
            let detail = match count == present {
                true => format!("Topic already has {present} partition(s)."),
                false => format!(
                    "The topic {name} currently has {present} partition(s); {} would not be an increase.",
                    request.count
                ),
            };
            return Err(ApiError::new(ErrorCode::InvalidPartitions, detail));
        }
        let additional = count - present;
        self.settings
            .check_records(draft.records.len() + additional, "partitions")?;
        let replicas = match &request.assignments {
            Some(assignments) => {
                let manual = assignments
                    .iter()
                    .map(|a| a.broker_ids.iter().map(|id| id.0).collect())
                    .collect();
                check_assignments(&draft.image, &topic, additional, manual)?
            }
            None => {
                let factor = topic
                    .partitions
                    .first()
                    .map_or(1, |partition| partition.replicas.len());
                place_replicas(placement_brokers(&draft.image), additional, factor, &mut self.rng)?
            }
        };
        let mut records = Vec::with_capacity(additional);
        for (index, replicas) in (request.count - i32::try_from(additional).unwrap_or(0)..).zip(replicas) {
            let partition = new_partition(&draft.image, index, replicas)?;
            records.push(partition_record(topic.id, index, &partition));
        }
        draft.extend(records);
        Ok(())
    }
}

fn check_assignments(
    image: &MetadataImage,
    topic: &TopicImage,
    additional: usize,
    manual: Vec<Vec<NodeId>>,
) -> Result<Vec<Vec<NodeId>>, ApiError> {
    if manual.len() != additional {
        let detail = format!(
            "Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.",
            manual.len()
        );
        return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, detail));
    }
    let factor = topic.partitions.first().map(|partition| partition.replicas.len());
    for replicas in &manual {
        check_manual_assignment(image, replicas, factor)?;
    }
    Ok(manual)
}
