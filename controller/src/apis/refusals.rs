//! What a refusal of a whole request looks like, API by API: some have a code for it, others repeat it for each item.

use bytes::Bytes;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::incremental_alter_configs_response as incremental;
use kafka_protocol::messages::{
    AddRaftVoterRequest, AllocateProducerIdsRequest, AlterConfigsRequest, AlterConfigsResponse,
    AlterPartitionReassignmentsRequest, AlterPartitionRequest, AssignReplicasToDirsRequest,
    BrokerHeartbeatRequest, BrokerRegistrationRequest, ControllerRegistrationRequest,
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeClusterRequest, DescribeConfigsRequest,
    DescribeConfigsResponse, DescribeQuorumRequest, DescribeQuorumResponse, ElectLeadersRequest,
    ElectLeadersResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    ListPartitionReassignmentsRequest, RemoveRaftVoterRequest, UnregisterBrokerRequest,
    UpdateFeaturesRequest, UpdateRaftVoterRequest,
};
use kafka_protocol::protocol::{Request, StrBytes};
use odradek_common::error::{ApiError, ErrorCode};

/// A request that can be refused as a whole.
pub(super) trait Refusable: Request {
    /// The request, as far as the refusal needs it.
    fn decode_for_refusal(version: i16, body: Bytes) -> Option<Self> {
        super::decode_bare(version, body)
    }

    /// The refusal.
    fn refused(&self, version: i16, error: &ApiError) -> Self::Response;
}

fn message(error: &ApiError) -> Option<StrBytes> {
    Some(StrBytes::from_string(error.detail.clone()))
}

macro_rules! top_level_code {
    ($($request:ty),* $(,)?) => {
        $(impl Refusable for $request {
            fn refused(&self, _: i16, error: &ApiError) -> Self::Response {
                <$request as Request>::Response::default().with_error_code(error.code())
            }
        })*
    };
}

macro_rules! top_level_message {
    ($($request:ty),* $(,)?) => {
        $(impl Refusable for $request {
            fn refused(&self, _: i16, error: &ApiError) -> Self::Response {
                <$request as Request>::Response::default()
                    .with_error_code(error.code())
                    .with_error_message(message(error))
            }
        })*
    };
}

top_level_code!(
    AllocateProducerIdsRequest,
    AlterPartitionRequest,
    AssignReplicasToDirsRequest,
    BrokerHeartbeatRequest,
    BrokerRegistrationRequest,
    UpdateRaftVoterRequest,
);

top_level_message!(
    AddRaftVoterRequest,
    AlterPartitionReassignmentsRequest,
    ControllerRegistrationRequest,
    DescribeClusterRequest,
    ListPartitionReassignmentsRequest,
    RemoveRaftVoterRequest,
    UnregisterBrokerRequest,
    UpdateFeaturesRequest,
);

impl Refusable for DescribeQuorumRequest {
    fn refused(&self, version: i16, error: &ApiError) -> DescribeQuorumResponse {
        // The quorum's own word for it.
        let code = match error.code {
            ErrorCode::NotController => ErrorCode::NotLeaderOrFollower.code(),
            _ => error.code(),
        };
        let response = DescribeQuorumResponse::default().with_error_code(code);
        if version >= 2 {
            response.with_error_message(message(error))
        } else {
            response
        }
    }
}

impl Refusable for ElectLeadersRequest {
    /// As in Kafka each partition that was named says it too: version 0 has no other place.
    fn refused(&self, version: i16, error: &ApiError) -> ElectLeadersResponse {
        let topics = self.topic_partitions.iter().flatten().map(|topic| {
            let partitions = topic.partitions.iter().map(|index| {
                PartitionResult::default()
                    .with_partition_id(*index)
                    .with_error_code(error.code())
                    .with_error_message(message(error))
            });
            ReplicaElectionResult::default()
                .with_topic(topic.topic.clone())
                .with_partition_result(partitions.collect())
        });
        let response = ElectLeadersResponse::default().with_replica_election_results(topics.collect());
        if version >= 1 {
            response.with_error_code(error.code())
        } else {
            response
        }
    }
}

impl Refusable for CreateTopicsRequest {
    fn refused(&self, _: i16, error: &ApiError) -> CreateTopicsResponse {
        let refused = self.topics.iter().map(|topic| {
            CreatableTopicResult::default()
                .with_name(topic.name.clone())
                .with_error_code(error.code())
                .with_error_message(message(error))
        });
        CreateTopicsResponse::default().with_topics(refused.collect())
    }
}

impl Refusable for DeleteTopicsRequest {
    fn refused(&self, version: i16, error: &ApiError) -> DeleteTopicsResponse {
        let refusal = || {
            let refusal = DeletableTopicResult::default().with_error_code(error.code());
            if version >= 5 {
                refusal.with_error_message(message(error))
            } else {
                refusal
            }
        };
        let by_name = self
            .topic_names
            .iter()
            .map(|name| refusal().with_name(Some(name.clone())));
        let by_state = self.topics.iter().map(|topic| {
            refusal()
                .with_name(topic.name.clone())
                .with_topic_id(topic.topic_id)
        });
        DeleteTopicsResponse::default().with_responses(by_name.chain(by_state).collect())
    }
}

impl Refusable for CreatePartitionsRequest {
    fn refused(&self, _: i16, error: &ApiError) -> CreatePartitionsResponse {
        let refused = self.topics.iter().map(|topic| {
            CreatePartitionsTopicResult::default()
                .with_name(topic.name.clone())
                .with_error_code(error.code())
                .with_error_message(message(error))
        });
        CreatePartitionsResponse::default().with_results(refused.collect())
    }
}

impl Refusable for DescribeConfigsRequest {
    fn refused(&self, _: i16, error: &ApiError) -> DescribeConfigsResponse {
        let refused = self.resources.iter().map(|resource| {
            DescribeConfigsResult::default()
                .with_error_code(error.code())
                .with_error_message(message(error))
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
        });
        DescribeConfigsResponse::default().with_results(refused.collect())
    }
}

impl Refusable for AlterConfigsRequest {
    fn refused(&self, _: i16, error: &ApiError) -> AlterConfigsResponse {
        let refused = self.resources.iter().map(|resource| {
            AlterConfigsResourceResponse::default()
                .with_error_code(error.code())
                .with_error_message(message(error))
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
        });
        AlterConfigsResponse::default().with_responses(refused.collect())
    }
}

impl Refusable for IncrementalAlterConfigsRequest {
    fn refused(&self, _: i16, error: &ApiError) -> IncrementalAlterConfigsResponse {
        let refused = self.resources.iter().map(|resource| {
            incremental::AlterConfigsResourceResponse::default()
                .with_error_code(error.code())
                .with_error_message(message(error))
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
        });
        IncrementalAlterConfigsResponse::default().with_responses(refused.collect())
    }
}
