//! DescribeCluster: who is in the cluster.

use std::sync::Arc;

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use odradek_common::error::ErrorCode;

use super::{Call, Handler, metadata};
use crate::authorized_operations::on_cluster;
use crate::broker::Broker;
use crate::names::text;

/// `endpoint_type` of brokers.
const BROKERS: i8 = 1;
/// `endpoint_type` of controllers, which are asked on their own listener.
const CONTROLLERS: i8 = 2;

/// The handler.
pub struct DescribeCluster;

impl Handler for DescribeCluster {
    type Request = DescribeClusterRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: DescribeClusterRequest,
    ) -> DescribeClusterResponse {
        let response = DescribeClusterResponse::default()
            .with_cluster_authorized_operations(on_cluster(request.include_cluster_authorized_operations))
            .with_endpoint_type(BROKERS);
        if call.api_version >= 1 && request.endpoint_type != BROKERS {
            let (code, message) = if request.endpoint_type == CONTROLLERS {
                let message = "this is a broker listener: ask a controller listener about controllers";
                (ErrorCode::MismatchedEndpointType, message)
            } else {
                (
                    ErrorCode::UnsupportedEndpointType,
                    "endpoint types are 1 (brokers) and 2 (controllers)",
                )
            };
            return response
                .with_error_code(code.code())
                .with_error_message(Some(text(message)));
        }
        let image = broker.image();
        let shown = image
            .brokers
            .values()
            .filter(|b| !b.fenced || request.include_fenced_brokers);
        let brokers = shown.filter_map(|b| {
            let endpoint = b.endpoint(&call.connection.listener)?;
            let described = DescribeClusterBroker::default()
                .with_broker_id(BrokerId(b.broker_id))
                .with_host(text(&endpoint.host))
                .with_port(i32::from(endpoint.port))
                .with_rack(b.rack.as_deref().map(text));
            Some(if call.api_version >= 2 {
                described.with_is_fenced(b.fenced)
            } else {
                described
            })
        });
        response
            .with_cluster_id(text(&image.cluster_id))
            .with_controller_id(BrokerId(metadata::random_alive_broker(&image)))
            .with_brokers(brokers.collect())
    }
}
