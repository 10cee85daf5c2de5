//! DescribeConfigs: every key of a topic, broker or group with its value and where that comes from.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{ApiKey, DescribeConfigsRequest, DescribeConfigsResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::metadata::{ConfigResource, ConfigResourceType, MetadataImage};
use odradek_config::describe::{self, Entry};

use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::{text, topic_name_problem};

/// First version with types and documentation.
const TYPES_SINCE: i16 = 3;

/// The handler.
pub struct DescribeConfigs;

impl Handler for DescribeConfigs {
    type Request = DescribeConfigsRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: DescribeConfigsRequest,
    ) -> DescribeConfigsResponse {
        let image = broker.image();
        // A few bytes for each mention would be answered with thousands.
        let mut described = HashSet::new();
        let resources = request.resources.iter();
        let once = resources.filter(|it| described.insert((it.resource_type, it.resource_name.as_str())));
        let results = once.map(|resource| {
            let result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match entries(&broker, &image, resource) {
                Ok(entries) => {
                    let wanted = entries
                        .into_iter()
                        .filter(|entry| is_wanted(resource, &entry.name));
                    let shape = |entry| shape(entry, &request, call.api_version);
                    result.with_configs(wanted.map(shape).collect())
                }
                Err(error) => {
                    broker.metrics.refused(ApiKey::DescribeConfigs, error.code);
                    result
                        .with_error_code(error.code())
                        .with_error_message(Some(text(&error.detail)))
                }
            }
        });
        DescribeConfigsResponse::default().with_results(results.collect())
    }
}

fn is_wanted(resource: &DescribeConfigsResource, name: &str) -> bool {
    // Kafka takes an empty list for no list.
    let names = resource
        .configuration_keys
        .as_ref()
        .filter(|names| !names.is_empty());
    names.is_none_or(|names| names.iter().any(|wanted| wanted.as_str() == name))
}

fn entries(
    broker: &Broker,
    image: &MetadataImage,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Entry>, ApiError> {
    let name = resource.resource_name.as_str();
    let config = broker.config.load();
    match ConfigResourceType::from_number(resource.resource_type) {
        Some(ConfigResourceType::Topic) => {
            if let Some(problem) = topic_name_problem(name) {
                return Err(ApiError::new(ErrorCode::InvalidTopicException, problem));
            }
            if image.topic(name).is_none() {
                let detail = format!("there is no topic {name}");
                return Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, detail));
            }
            Ok(describe::describe_topic(
                &overrides(image, &ConfigResource::topic(name)),
                &config,
            ))
        }
        Some(ConfigResourceType::Broker) if name.is_empty() => Ok(describe::describe_broker_default(&config)),
        Some(ConfigResourceType::Broker) => match name.parse::<i32>() {
            Ok(id) if id == broker.node_id => Ok(describe::describe_broker(&config)),
            Ok(id) => {
                let detail = format!(
                    "this is broker {}: ask broker {id} about its configuration",
                    broker.node_id
                );
                Err(ApiError::new(ErrorCode::InvalidRequest, detail))
            }
            Err(_) => {
                let detail = format!("broker resources are named by a number or nothing, not {name:?}");
                Err(ApiError::new(ErrorCode::InvalidRequest, detail))
            }
        },
        Some(ConfigResourceType::Group) if name.is_empty() => Err(ApiError::new(
            ErrorCode::InvalidRequest,
            "group names must not be empty",
        )),
        Some(ConfigResourceType::Group) => Ok(describe::describe_group(
            &overrides(image, &ConfigResource::group(name)),
            &config,
        )),
        // Log levels and client metrics have no keys in this version.
        Some(ConfigResourceType::BrokerLogger | ConfigResourceType::ClientMetrics) => Ok(Vec::new()),
        None => {
            let detail = format!("resource type {} is unknown", resource.resource_type);
            Err(ApiError::new(ErrorCode::InvalidRequest, detail))
        }
    }
}

fn overrides(image: &MetadataImage, resource: &ConfigResource) -> BTreeMap<String, String> {
    image
        .config_overrides(resource)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn shape(entry: Entry, request: &DescribeConfigsRequest, api_version: i16) -> DescribeConfigsResourceResult {
    let synonyms = entry
        .synonyms
        .iter()
        .filter(|_| request.include_synonyms)
        .map(|synonym| {
            DescribeConfigsSynonym::default()
                .with_name(text(&synonym.name))
                .with_value(synonym.value.as_deref().map(text))
                .with_source(synonym.source as i8)
        });
    let result = DescribeConfigsResourceResult::default()
        .with_name(text(&entry.name))
        .with_value(entry.value.as_deref().map(text))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(entry.is_sensitive)
        .with_synonyms(synonyms.collect());
    if api_version < TYPES_SINCE {
        return result;
    }
    let documentation = entry.doc.filter(|_| request.include_documentation).map(text);
    result
        .with_config_type(entry.config_type)
        .with_documentation(documentation)
}
