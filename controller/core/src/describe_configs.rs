//! DescribeConfigs, as every node answers it on all of its listeners: each key of a topic, a node or a group, with its value and where that
//! comes from.

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::metadata::{ConfigResource, ConfigResourceType, MetadataImage};
use odradek_common::topic_name;
use odradek_config::ServerConfig;
use odradek_config::describe::{self, Entry};

/// First version with types and documentation.
const TYPES_SINCE: i16 = 3;

/// What a node tells of the configurations that it is asked about. `config` is what it runs with, the dynamic part included.
#[must_use]
pub fn describe_configs(
    image: &MetadataImage,
    config: &ServerConfig,
    version: i16,
    request: &DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    // A few bytes for each mention would be answered with thousands.
    let mut described = HashSet::new();
    let resources = request.resources.iter();
    let once = resources.filter(|it| described.insert((it.resource_type, it.resource_name.as_str())));
    let results = once.map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match entries(image, config, resource) {
            Ok(entries) => {
                let wanted = entries
                    .into_iter()
                    .filter(|entry| is_wanted(resource, &entry.name));
                let shape = |entry| shape(entry, request, version);
                result.with_configs(wanted.map(shape).collect())
            }
            Err(error) => result
                .with_error_code(error.code())
                .with_error_message(Some(text(&error.detail))),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
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
    image: &MetadataImage,
    config: &ServerConfig,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Entry>, ApiError> {
    let name = resource.resource_name.as_str();
    let invalid = |detail: String| Err(ApiError::new(ErrorCode::InvalidRequest, detail));
    match ConfigResourceType::from_number(resource.resource_type) {
        Some(ConfigResourceType::Topic) => {
            if let Some(problem) = topic_name::problem(name) {
                return Err(ApiError::new(ErrorCode::InvalidTopicException, problem));
            }
            if image.topic(name).is_none() {
                let detail = format!("there is no topic {name}");
                return Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, detail));
            }
            let own = overrides(image, &ConfigResource::topic(name));
            Ok(describe::describe_topic(&own, config))
        }
        Some(ConfigResourceType::Broker) if name.is_empty() => Ok(describe::describe_broker_default(config)),
        Some(ConfigResourceType::Broker) => {
            let node_id = config.node.node_id;
            match name.parse::<i32>() {
                Ok(id) if id == node_id => Ok(describe::describe_broker(config)),
                Ok(id) => invalid(format!(
                    "this is node {node_id}: ask node {id} about its configuration"
                )),
                Err(_) => invalid(format!(
                    "broker resources are named by a number or nothing, not {name:?}"
                )),
            }
        }
        Some(ConfigResourceType::Group) if name.is_empty() => {
            invalid("group names must not be empty".to_owned())
        }
        Some(ConfigResourceType::Group) => {
            let own = overrides(image, &ConfigResource::group(name));
            Ok(describe::describe_group(&own, config))
        }
        // Log levels and client metrics have no keys in this version.
        Some(ConfigResourceType::BrokerLogger | ConfigResourceType::ClientMetrics) => Ok(Vec::new()),
        None => invalid(format!("resource type {} is unknown", resource.resource_type)),
    }
}

/// The overrides of a resource, by their keys.
#[must_use]
pub fn overrides(image: &MetadataImage, resource: &ConfigResource) -> BTreeMap<String, String> {
    image
        .config_overrides(resource)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn shape(entry: Entry, request: &DescribeConfigsRequest, version: i16) -> DescribeConfigsResourceResult {
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
    if version < TYPES_SINCE {
        return result;
    }
    let documentation = entry.doc.filter(|_| request.include_documentation).map(text);
    result
        .with_config_type(entry.config_type)
        .with_documentation(documentation)
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}
