//! The error codes of responses that the broker does not count while it makes them: what the controller decided, and metadata.

use kafka_protocol::messages::{
    AddRaftVoterResponse, AlterConfigsResponse, AlterPartitionReassignmentsResponse, ApiVersionsResponse,
    CreateAclsResponse, CreatePartitionsResponse, CreateTopicsResponse, DeleteAclsResponse,
    DeleteTopicsResponse, DescribeAclsResponse, DescribeClusterResponse, DescribeConfigsResponse,
    DescribeLogDirsResponse, DescribeQuorumResponse, DescribeTopicPartitionsResponse, ElectLeadersResponse,
    IncrementalAlterConfigsResponse, ListConfigResourcesResponse, ListPartitionReassignmentsResponse,
    MetadataResponse, RemoveRaftVoterResponse, UnregisterBrokerResponse, UpdateFeaturesResponse,
};

/// A response whose error codes can be visited.
pub trait ErrorCodes {
    /// Shows every error code of the response, also those that are no error.
    fn visit(&self, see: &mut dyn FnMut(i16));
}

macro_rules! error_codes {
    ($($response:ty: |$it:ident, $see:ident| $visit:block)*) => {
        $(impl ErrorCodes for $response {
            fn visit(&self, $see: &mut dyn FnMut(i16)) {
                let $it = self;
                $visit
            }
        })*
    };
}

error_codes! {
    CreateTopicsResponse: |it, see| { it.topics.iter().for_each(|topic| see(topic.error_code)); }
    DeleteTopicsResponse: |it, see| { it.responses.iter().for_each(|topic| see(topic.error_code)); }
    AlterConfigsResponse: |it, see| { it.responses.iter().for_each(|resource| see(resource.error_code)); }
    IncrementalAlterConfigsResponse: |it, see| {
        it.responses.iter().for_each(|resource| see(resource.error_code));
    }
    CreateAclsResponse: |it, see| { it.results.iter().for_each(|result| see(result.error_code)); }
    DeleteAclsResponse: |it, see| { it.filter_results.iter().for_each(|result| see(result.error_code)); }
    DescribeAclsResponse: |it, see| { see(it.error_code); }
    DescribeConfigsResponse: |it, see| { it.results.iter().for_each(|resource| see(resource.error_code)); }
    CreatePartitionsResponse: |it, see| { it.results.iter().for_each(|topic| see(topic.error_code)); }
    ElectLeadersResponse: |it, see| {
        see(it.error_code);
        let partitions = it.replica_election_results.iter().flat_map(|topic| &topic.partition_result);
        partitions.for_each(|partition| see(partition.error_code));
    }
    AlterPartitionReassignmentsResponse: |it, see| {
        see(it.error_code);
        let partitions = it.responses.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| see(partition.error_code));
    }
    ListPartitionReassignmentsResponse: |it, see| { see(it.error_code); }
    DescribeQuorumResponse: |it, see| {
        see(it.error_code);
        let partitions = it.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| see(partition.error_code));
    }
    UpdateFeaturesResponse: |it, see| {
        see(it.error_code);
        it.results.iter().for_each(|feature| see(feature.error_code));
    }
    UnregisterBrokerResponse: |it, see| { see(it.error_code); }
    ApiVersionsResponse: |it, see| { see(it.error_code); }
    AddRaftVoterResponse: |it, see| { see(it.error_code); }
    RemoveRaftVoterResponse: |it, see| { see(it.error_code); }
    MetadataResponse: |it, see| {
        for topic in &it.topics {
            see(topic.error_code);
            topic.partitions.iter().for_each(|partition| see(partition.error_code));
        }
    }
    DescribeTopicPartitionsResponse: |it, see| {
        for topic in &it.topics {
            see(topic.error_code);
            topic.partitions.iter().for_each(|partition| see(partition.error_code));
        }
    }
    DescribeClusterResponse: |it, see| { see(it.error_code); }
    DescribeLogDirsResponse: |it, see| {
        see(it.error_code);
        it.results.iter().for_each(|directory| see(directory.error_code));
    }
    ListConfigResourcesResponse: |it, see| { see(it.error_code); }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};

    use super::*;

    #[test]
    fn nested_codes_are_seen() {
        let partition = |code| PartitionResult::default().with_error_code(code);
        let topic = ReplicaElectionResult::default().with_partition_result(vec![partition(3), partition(84)]);
        let response = ElectLeadersResponse::default().with_replica_election_results(vec![topic]);
        let mut seen = Vec::new();
        response.visit(&mut |code| seen.push(code));
        assert_eq!(seen, [0, 3, 84]);
    }
}
