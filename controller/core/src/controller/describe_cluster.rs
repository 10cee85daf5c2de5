//! DescribeCluster on the controller listener: the controllers and where they are.

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NodeId;
use odradek_common::metadata::MetadataImage;

use super::{Controller, wire_error};

const ENDPOINT_TYPE_BROKER: i8 = 1;
const ENDPOINT_TYPE_CONTROLLER: i8 = 2;

impl Controller {
    /// Describes the controllers as `listener` reaches them. `leader` is the active controller, or "no node".
    #[must_use]
    pub fn describe_cluster(
        image: &MetadataImage,
        leader: NodeId,
        listener: &str,
        request: &DescribeClusterRequest,
    ) -> DescribeClusterResponse {
        if request.endpoint_type != ENDPOINT_TYPE_CONTROLLER {
            let (code, detail) = match request.endpoint_type {
                ENDPOINT_TYPE_BROKER => (
                    ErrorCode::MismatchedEndpointType,
                    "this is a controller listener: ask for controllers",
                ),
                _ => (
                    ErrorCode::UnsupportedEndpointType,
                    "endpoint types are 1 (brokers) and 2 (controllers)",
                ),
            };
            let (code, message) = wire_error(Some(&ApiError::new(code, detail)));
            return DescribeClusterResponse::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_endpoint_type(request.endpoint_type);
        }
        let reachable = image.controllers.values().filter_map(|controller| {
            let endpoint = controller
                .endpoints
                .iter()
                .find(|endpoint| &*endpoint.listener == listener)?;
            Some(
                DescribeClusterBroker::default()
                    .with_broker_id(controller.node_id.into())
                    .with_host(StrBytes::from_string(endpoint.host.to_string()))
                    .with_port(i32::from(endpoint.port)),
            )
        });
        DescribeClusterResponse::default()
            .with_endpoint_type(ENDPOINT_TYPE_CONTROLLER)
            .with_cluster_id(StrBytes::from_string(image.cluster_id.to_string()))
            .with_controller_id(leader.into())
            .with_brokers(reachable.collect())
    }
}
