//! ElectLeaders: an operator asks for the preferred leader, or for any leader at all.

use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NO_NODE;
use odradek_common::metadata::MetadataImage;
use odradek_common::time::Now;
use slog::{info, warn};

use super::draft::Draft;
use super::partition_change::Election;
use super::{Controller, Decision, wire_error};

impl Controller {
    /// Elects leaders for the named partitions, or for all of them.
    pub fn elect_leaders(
        &mut self,
        image: &MetadataImage,
        _now: Now,
        request: &ElectLeadersRequest,
    ) -> Decision<ElectLeadersResponse> {
        let election = match request.election_type {
            0 => Election::Preferred,
            1 => Election::Unclean,
            _ => {
                let code = ErrorCode::InvalidRequest.code();
                return Decision::answer(ElectLeadersResponse::default().with_error_code(code));
            }
        };
        let mut draft = Draft::new(image);
        let results = match &request.topic_partitions {
            Some(topics) => topics
                .iter()
                .map(|topic| {
                    self.elect_in_topic(
                        &mut draft,
                        &topic.topic,
                        topic.partitions.iter().copied(),
                        election,
                    )
                })
                .collect(),
            None => self.elect_everywhere(&mut draft, image, election),
        };
        info!(self.logger, "elected leaders on request"; "elections" => draft.records.len(), "kind" => ?election);
        let response = ElectLeadersResponse::default().with_replica_election_results(results);
        Decision {
            records: draft.records,
            response,
        }
    }

    /// Partitions that need no election are left out of the answer.
    fn elect_everywhere(
        &self,
        draft: &mut Draft,
        image: &MetadataImage,
        election: Election,
    ) -> Vec<ReplicaElectionResult> {
        let mut results = Vec::new();
        for topic in image.topics.values() {
            let name = TopicName(StrBytes::from_string(topic.name.to_string()));
            let all = (0..).zip(&topic.partitions).map(|(index, _)| index);
            let mut result = self.elect_in_topic(draft, &name, all, election);
            let not_needed = ErrorCode::ElectionNotNeeded.code();
            result
                .partition_result
                .retain(|partition| partition.error_code != not_needed);
            results.push(result);
        }
        results
    }

    fn elect_in_topic(
        &self,
        draft: &mut Draft,
        topic: &TopicName,
        partitions: impl Iterator<Item = i32>,
        election: Election,
    ) -> ReplicaElectionResult {
        let results = partitions.map(|index| {
            let error = self.elect_leader(draft, topic.as_str(), index, election).err();
            let (code, message) = wire_error(error.as_ref());
            PartitionResult::default()
                .with_partition_id(index)
                .with_error_code(code)
                .with_error_message(message)
        });
        let results = results.collect();
        ReplicaElectionResult::default()
            .with_topic(topic.clone())
            .with_partition_result(results)
    }

    fn elect_leader(
        &self,
        draft: &mut Draft,
        name: &str,
        index: i32,
        election: Election,
    ) -> Result<(), ApiError> {
        self.settings
            .check_records(draft.records.len() + 1, "elections")?;
        let image = &draft.image;
        let unknown = || {
            ApiError::new(
                ErrorCode::UnknownTopicOrPartition,
                format!("there is no {name}-{index}"),
            )
        };
        let topic = image.topic(name).ok_or_else(unknown)?;
        let partition = topic.partition(index).ok_or_else(unknown)?;
        let preferred = election == Election::Preferred;
        let needed = match preferred {
            true => partition.replicas.first() != Some(&partition.leader),
            false => partition.leader == NO_NODE,
        };
        if !needed {
            return Err(ApiError::new(
                ErrorCode::ElectionNotNeeded,
                format!("{name}-{index} needs no election"),
            ));
        }
        let change = self
            .change(image, topic, index, partition)
            .election(election)
            .build();
        let Some(change) = change.filter(|change| change.leader.is_some()) else {
            let isr = &partition.isr;
            return Err(match preferred {
                true => ApiError::new(
                    ErrorCode::PreferredLeaderNotAvailable,
                    format!(
                        "the preferred leader of {name}-{index} is not in the ISR {isr:?} or does not live"
                    ),
                ),
                false => ApiError::new(
                    ErrorCode::EligibleLeadersNotAvailable,
                    format!("no replica of {name}-{index} lives: {:?}", partition.replicas),
                ),
            });
        };
        if change.leader_recovery_state == Some(1) {
            warn!(self.logger, "unclean election"; "topic" => name, "partition" => index, "leader" => ?change.leader);
        }
        draft.push_change(change);
        Ok(())
    }
}
