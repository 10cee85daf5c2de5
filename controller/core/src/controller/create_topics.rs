//! CreateTopics: names, configurations and replicas of new topics are checked, all of them before anything is written.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_common::metadata::proto::TopicRecord;
use odradek_common::metadata::{
    ConfigResource, MetadataImage, PartitionImage, Record, config_record, partition_record, record,
};
use odradek_common::time::Now;
use odradek_common::topic_name;
use slog::info;

use super::draft::Draft;
use super::partition_change::default_directory;
use super::placement::{place_replicas, placement_brokers};
use super::{Controller, Decision, wire_error};

const CLUSTER_METADATA_TOPIC: &str = "__cluster_metadata";
const COLLIDING: [char; 2] = ['.', '_'];

impl Controller {
    /// Creates topics. A topic that is refused does not keep the others from being created.
    pub fn create_topics(
        &mut self,
        image: &MetadataImage,
        _now: Now,
        request: &CreateTopicsRequest,
    ) -> Decision<CreateTopicsResponse> {
        let mut draft = Draft::new(image);
        let mut times_named: BTreeMap<&str, usize> = BTreeMap::new();
        for topic in &request.topics {
            *times_named.entry(topic.name.as_str()).or_default() += 1;
        }
        let mut collisions = Collisions::of(image, request);
        let mut results = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let name = topic.name.as_str();
            let outcome = match times_named.remove(name) {
                None => continue,
                Some(1) => self.create_topic(&mut draft, &collisions, topic),
                Some(_) => Err(ApiError::new(
                    ErrorCode::InvalidRequest,
                    "the topic is named twice in the request",
                )),
            };
            results.push(match outcome {
                Ok(result) => {
                    collisions.add(name);
                    result
                }
                Err(error) => {
                    info!(self.logger, "refusing to create a topic"; "topic" => name, "error" => %error);
                    let (code, message) = wire_error(Some(&error));
                    let result = CreatableTopicResult::default().with_name(topic.name.clone());
                    result.with_error_code(code).with_error_message(message)
                }
            });
        }
        let response = CreateTopicsResponse::default().with_topics(results);
        if request.validate_only {
            return Decision::answer(response);
        }
        Decision {
            records: draft.records,
            response,
        }
    }

    fn create_topic(
        &mut self,
        draft: &mut Draft,
        collisions: &Collisions,
        request: &CreatableTopic,
    ) -> Result<CreatableTopicResult, ApiError> {
        let name = request.name.as_str();
        if name == CLUSTER_METADATA_TOPIC {
            return Err(ApiError::new(
                ErrorCode::InvalidRequest,
                format!("Creation of internal topic {name} is prohibited."),
            ));
        }
        check_topic_name(name)?;
        if draft.image.topic(name).is_some() {
            return Err(ApiError::new(
                ErrorCode::TopicAlreadyExists,
                format!("Topic '{name}' already exists."),
            ));
        }
        collisions.check(name)?;
        let overrides = self.check_overrides(&draft.image, request)?;
        let replicas = self.new_assignment(&draft.image, request)?;
        self.settings.check_records(
            draft.records.len() + 1 + overrides.len() + replicas.len(),
            "partitions",
        )?;
        let (partitions, factor) = (replicas.len(), replicas.first().map_or(0, Vec::len));
        let mut parts = Vec::with_capacity(partitions);
        for (index, replicas) in (0..).zip(replicas) {
            parts.push(new_partition(&draft.image, index, replicas)?);
        }
        let id = self.topic_id();
        info!(self.logger, "creating a topic"; "topic" => name, "topic_id" => %id, "partitions" => partitions,
            "replication_factor" => factor);
        let topic_id = id.as_bytes().to_vec().into();
        draft.push(record(Record::Topic(TopicRecord {
            name: name.to_owned(),
            topic_id,
        })));
        let resource = ConfigResource::topic(name);
        draft.extend(
            overrides
                .iter()
                .map(|(key, value)| config_record(&resource, key, Some(value))),
        );
        draft.extend(
            (0..)
                .zip(&parts)
                .map(|(index, partition)| partition_record(id, index, partition)),
        );
        let configs = self.configs.topic_configs(&draft.image, &overrides);
        Ok(CreatableTopicResult::default()
            .with_name(request.name.clone())
            .with_topic_id(id)
            .with_num_partitions(i32::try_from(partitions).unwrap_or(i32::MAX))
            .with_replication_factor(i16::try_from(factor).unwrap_or(i16::MAX))
            .with_error_message(None)
            .with_configs(Some(configs)))
    }

    fn check_overrides(
        &self,
        image: &MetadataImage,
        request: &CreatableTopic,
    ) -> Result<BTreeMap<String, String>, ApiError> {
        let refuse = |detail| ApiError::new(ErrorCode::InvalidConfig, detail);
        let mut overrides = BTreeMap::new();
        for config in &request.configs {
            let name = config.name.as_str();
            let value = config
                .value
                .as_ref()
                .ok_or_else(|| refuse(format!("{name} has no value")))?;
            overrides.insert(name.to_owned(), value.to_string());
        }
        let resource = ConfigResource::topic(request.name.as_str());
        self.configs
            .validate(image, &resource, &overrides, &overrides)
            .map_err(refuse)?;
        Ok(overrides)
    }

    fn new_assignment(
        &mut self,
        image: &MetadataImage,
        request: &CreatableTopic,
    ) -> Result<Vec<Vec<NodeId>>, ApiError> {
        if !request.assignments.is_empty() {
            return manual_assignment(image, request);
        }
        let factor = match request.replication_factor {
            -1 => self.settings.default_replication_factor,
            factor => factor,
        };
        let partitions = match request.num_partitions {
            -1 => self.settings.num_partitions,
            partitions => partitions,
        };
        let factor = usize::try_from(factor)
            .ok()
            .filter(|factor| *factor > 0)
            .ok_or_else(|| {
                let detail = format!("replication factor {factor} is not positive; -1 asks for the default");
                ApiError::new(ErrorCode::InvalidReplicationFactor, detail)
            })?;
        let partitions = usize::try_from(partitions)
            .ok()
            .filter(|partitions| *partitions > 0)
            .ok_or_else(|| {
                let detail =
                    format!("{partitions} partitions are not a positive number; -1 asks for the default");
                ApiError::new(ErrorCode::InvalidPartitions, detail)
            })?;
        // A topic is a record as well.
        self.settings.check_records(1 + partitions, "partitions")?;
        place_replicas(placement_brokers(image), partitions, factor, &mut self.rng)
    }
}

fn manual_assignment(image: &MetadataImage, request: &CreatableTopic) -> Result<Vec<Vec<NodeId>>, ApiError> {
    if request.replication_factor != -1 || request.num_partitions != -1 {
        let detail =
            "with a manual assignment the number of partitions and the replication factor must be -1";
        return Err(ApiError::new(ErrorCode::InvalidRequest, detail));
    }
    let refuse = |detail: String| ApiError::new(ErrorCode::InvalidReplicaAssignment, detail);
    let mut by_index = BTreeMap::new();
    let mut factor = None;
    for assignment in &request.assignments {
        let replicas: Vec<NodeId> = assignment.broker_ids.iter().map(|id| id.0).collect();
        check_manual_assignment(image, &replicas, factor)?;
        factor = Some(replicas.len());
        let index = assignment.partition_index;
        if by_index.insert(index, replicas).is_some() {
            return Err(refuse(format!("partition {index} is assigned twice")));
        }
    }
    if !(0..)
        .zip(by_index.keys())
        .all(|(expected, index)| expected == *index)
    {
        return Err(refuse(
            "partitions must be numbered from 0 without gaps".to_owned(),
        ));
    }
    Ok(by_index.into_values().collect())
}

/// Replicas that a person chose: registered, all different, as many as elsewhere in the topic.
pub(super) fn check_manual_assignment(
    image: &MetadataImage,
    replicas: &[NodeId],
    factor: Option<usize>,
) -> Result<(), ApiError> {
    let refuse = |detail: String| Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, detail));
    if replicas.is_empty() {
        return refuse("a partition needs a replica".to_owned());
    }
    let mut seen = BTreeSet::new();
    for id in replicas {
        if !image.brokers.contains_key(id) {
            return refuse(format!(
                "The manual partition assignment includes broker {id}, but no such broker is registered."
            ));
        }
        if !seen.insert(id) {
            return refuse(format!(
                "The manual partition assignment includes the broker {id} more than once."
            ));
        }
    }
    match factor {
        Some(factor) if factor != replicas.len() => refuse(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not \
             consistent with previous partitions, which have {factor} replica(s).",
            replicas.len()
        )),
        Some(_) | None => Ok(()),
    }
}

/// A partition that starts on these replicas: those that may lead are in sync, the first of them leads.
pub(super) fn new_partition(
    image: &MetadataImage,
    index: i32,
    replicas: Vec<NodeId>,
) -> Result<PartitionImage, ApiError> {
    let isr: Vec<NodeId> = replicas
        .iter()
        .copied()
        .filter(|id| image.is_active(*id))
        .collect();
    let Some(leader) = isr.first().copied() else {
        let detail = format!("all brokers of partition {index}, {replicas:?}, are fenced or shutting down");
        return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, detail));
    };
    let directories = replicas.iter().map(|id| default_directory(image, *id)).collect();
    Ok(PartitionImage {
        replicas,
        directories,
        isr,
        leader,
        ..Default::default()
    })
}

/// Refuses a name that no topic may have.
pub(super) fn check_topic_name(name: &str) -> Result<(), ApiError> {
    match topic_name::problem(name) {
        Some(problem) => Err(ApiError::new(ErrorCode::InvalidTopicException, problem)),
        None => Ok(()),
    }
}

/// Names that metrics cannot tell apart, because '.' becomes '_' there.
struct Collisions {
    by_folded: BTreeMap<String, String>,
}

impl Collisions {
    /// Those that the request's names could meet; most names have neither character and meet none.
    fn of(image: &MetadataImage, request: &CreateTopicsRequest) -> Self {
        let mut collisions = Self {
            by_folded: BTreeMap::new(),
        };
        if request.topics.iter().any(|topic| topic.name.contains(COLLIDING)) {
            image.topics.keys().for_each(|name| collisions.add(name));
        }
        collisions
    }

    fn add(&mut self, name: &str) {
        if name.contains(COLLIDING) {
            self.by_folded.insert(name.replace('.', "_"), name.to_owned());
        }
    }

    fn check(&self, name: &str) -> Result<(), ApiError> {
        match self.by_folded.get(&name.replace('.', "_")) {
            Some(other) => {
                let detail = format!(
                    "topic {name} collides with {other}: '.' and '_' are one character in metric names"
                );
                Err(ApiError::new(ErrorCode::InvalidTopicException, detail))
            }
            None => Ok(()),
        }
    }
}
