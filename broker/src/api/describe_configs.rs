//! DescribeConfigs: every key of a topic, broker or group with its value and where that comes from.

use std::sync::Arc;

use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use odradek_controller_core::describe_configs::describe_configs;

use super::{Call, Handler};
use crate::broker::Broker;

/// The handler.
pub struct DescribeConfigs;

impl Handler for DescribeConfigs {
    type Request = DescribeConfigsRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: DescribeConfigsRequest,
    ) -> DescribeConfigsResponse {
        let config = broker.config.load();
        describe_configs(&broker.image(), &config, call.api_version, &request)
    }
}
