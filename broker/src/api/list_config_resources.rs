//! ListConfigResources: what has a configuration (KIP-1142); version 0 knows client metrics alone.

use std::sync::Arc;

use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use odradek_common::error::ErrorCode;
use odradek_common::metadata::ConfigResourceType;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::text;

/// The handler.
pub struct ListConfigResources;

impl Handler for ListConfigResources {
    type Request = ListConfigResourcesRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: ListConfigResourcesRequest,
    ) -> ListConfigResourcesResponse {
        use ConfigResourceType::{Broker as BrokerType, BrokerLogger, ClientMetrics, Group, Topic};
        let image = broker.image();
        let all = [Topic, BrokerType, BrokerLogger, ClientMetrics, Group];
        let mut wanted = Vec::new();
        for number in &request.resource_types {
            match ConfigResourceType::from_number(*number) {
                Some(resource_type) => wanted.push(resource_type),
                None => {
                    let code = ErrorCode::UnsupportedVersion.code();
                    return ListConfigResourcesResponse::default().with_error_code(code);
                }
            }
        }
        if wanted.is_empty() {
            wanted = if call.api_version == 0 {
                vec![ClientMetrics]
            } else {
                all.to_vec()
            };
        }
        let mut found: Vec<(ConfigResourceType, String)> = Vec::new();
        for resource_type in wanted {
            let names: Vec<String> = match resource_type {
                Topic => image.topics.keys().map(ToString::to_string).collect(),
                BrokerType | BrokerLogger => image.brokers.keys().map(ToString::to_string).collect(),
                ClientMetrics | Group => {
                    let of_type = image.configs.keys().filter(|r| r.resource_type == resource_type);
                    of_type.map(|r| r.name.to_string()).collect()
                }
            };
            found.extend(names.into_iter().map(|name| (resource_type, name)));
        }
        let resources = found.iter().map(|(resource_type, name)| {
            let resource = ConfigResource::default().with_resource_name(text(name));
            if call.api_version == 0 {
                resource
            } else {
                resource.with_resource_type(*resource_type as i8)
            }
        });
        ListConfigResourcesResponse::default().with_config_resources(resources.collect())
    }
}
