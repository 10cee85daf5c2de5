//! IncrementalAlterConfigs and AlterConfigs: overrides of topics, brokers, groups and client metrics.
//!
//! A resource changes as a whole or not at all. Whatever is written was valid when it was written.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse as LegacyResult;
use kafka_protocol::messages::incremental_alter_configs_request::AlterableConfig;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::metadata::{ConfigResource, ConfigResourceType, MetadataImage, config_record};
use odradek_common::time::Now;
use slog::info;

use super::create_topics::check_topic_name;
use super::draft::Draft;
use super::topic_configs::{MIN_INSYNC_REPLICAS, UNCLEAN_LEADER_ELECTION_ENABLE, elr_enabled};
use super::{Controller, Decision, wire_error};
use crate::describe_configs::overrides;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// New values by key; `None` removes the override.
type Changes = BTreeMap<String, Option<String>>;

impl Controller {
    /// Sets, deletes, appends to and subtracts from overrides.
    pub fn incremental_alter_configs(
        &mut self,
        image: &MetadataImage,
        now: Now,
        request: &IncrementalAlterConfigsRequest,
    ) -> Decision<IncrementalAlterConfigsResponse> {
        let mut draft = Draft::new(image);
        let twice = named_twice(
            request
                .resources
                .iter()
                .map(|r| (r.resource_type, r.resource_name.as_str())),
        );
        let responses = request.resources.iter().map(|asked| {
            let key = (asked.resource_type, asked.resource_name.as_str());
            let outcome = resource(&draft.image, key, twice.contains(&key)).and_then(|resource| {
                let changes = self.incremental_changes(&draft.image, &resource, &asked.configs)?;
                self.alter(&mut draft, now, &resource, &changes, request.validate_only)
            });
            let (code, message) = wire_error(outcome.err().as_ref());
            AlterConfigsResourceResponse::default()
                .with_resource_type(asked.resource_type)
                .with_resource_name(asked.resource_name.clone())
                .with_error_code(code)
                .with_error_message(message)
        });
        let responses = responses.collect();
        self.settle_min_isr(&mut draft);
        let records = if request.validate_only {
            Vec::new()
        } else {
            draft.records
        };
        Decision {
            records,
            response: IncrementalAlterConfigsResponse::default().with_responses(responses),
        }
    }

    /// Replaces all overrides of each resource.
    pub fn alter_configs(
        &mut self,
        image: &MetadataImage,
        now: Now,
        request: &AlterConfigsRequest,
    ) -> Decision<AlterConfigsResponse> {
        let mut draft = Draft::new(image);
        let twice = named_twice(
            request
                .resources
                .iter()
                .map(|r| (r.resource_type, r.resource_name.as_str())),
        );
        let responses = request.resources.iter().map(|asked| {
            let key = (asked.resource_type, asked.resource_name.as_str());
            let outcome = resource(&draft.image, key, twice.contains(&key)).and_then(|resource| {
                let dropped = draft
                    .image
                    .config_overrides(&resource)
                    .map(|(name, _)| (name.to_owned(), None));
                let mut changes: Changes = dropped.collect();
                for config in &asked.configs {
                    let name = config.name.as_str();
                    let refuse = |detail| ApiError::new(ErrorCode::InvalidRequest, detail);
                    let value = config.value.as_ref();
                    let value = value.ok_or_else(|| refuse(format!("{name} has no value")))?;
                    if let Some(Some(_)) = changes.insert(name.to_owned(), Some(value.to_string())) {
                        return Err(refuse(format!("{name} is named twice")));
                    }
                }
                self.alter(&mut draft, now, &resource, &changes, request.validate_only)
            });
            let (code, message) = wire_error(outcome.err().as_ref());
            LegacyResult::default()
                .with_resource_type(asked.resource_type)
                .with_resource_name(asked.resource_name.clone())
                .with_error_code(code)
                .with_error_message(message)
        });
        let responses = responses.collect();
        self.settle_min_isr(&mut draft);
        let records = if request.validate_only {
            Vec::new()
        } else {
            draft.records
        };
        Decision {
            records,
            response: AlterConfigsResponse::default().with_responses(responses),
        }
    }

    fn incremental_changes(
        &self,
        image: &MetadataImage,
        resource: &ConfigResource,
        configs: &[AlterableConfig],
    ) -> Result<Changes, ApiError> {
        let mut changes = Changes::new();
        for config in configs {
            let name = config.name.as_str();
            let value = config.value.as_ref().map(|value| value.as_str());
            let change = match (config.config_operation, value) {
                (DELETE, _) => None,
                (SET, Some(value)) => Some(value.to_owned()),
                (operation @ (APPEND | SUBTRACT), Some(value)) => {
                    Some(self.changed_list(image, resource, name, operation, value)?)
                }
                (SET | APPEND | SUBTRACT, None) => {
                    return Err(ApiError::new(
                        ErrorCode::InvalidRequest,
                        format!("{name} has no value"),
                    ));
                }
                (operation, _) => {
                    let detail = format!("{operation} is no operation on {name}");
                    return Err(ApiError::new(ErrorCode::InvalidRequest, detail));
                }
            };
            if changes.insert(name.to_owned(), change).is_some() {
                return Err(ApiError::new(
                    ErrorCode::InvalidRequest,
                    format!("{name} is named twice"),
                ));
            }
        }
        Ok(changes)
    }

    fn changed_list(
        &self,
        image: &MetadataImage,
        resource: &ConfigResource,
        name: &str,
        operation: i8,
        value: &str,
    ) -> Result<String, ApiError> {
        let resource_type = resource.resource_type;
        if !self.configs.is_list(resource_type, name) {
            let verb = if operation == APPEND { "APPEND" } else { "SUBTRACT" };
            let detail = format!("Can't {verb} to key {name} because its type is not LIST.");
            return Err(ApiError::new(ErrorCode::InvalidConfig, detail));
        }
        let set = image.config(resource, name).map(ToString::to_string);
        let before = set
            .or_else(|| self.configs.default_value(resource_type, name))
            .unwrap_or_default();
        let mut members: Vec<&str> = before
            .split(',')
            .map(str::trim)
            .filter(|member| !member.is_empty())
            .collect();
        for member in value
            .split(',')
            .map(str::trim)
            .filter(|member| !member.is_empty())
        {
            if operation == SUBTRACT {
                members.retain(|present| *present != member);
            } else if !members.contains(&member) {
                members.push(member);
            }
        }
        Ok(members.join(","))
    }

    fn alter(
        &mut self,
        draft: &mut Draft,
        now: Now,
        resource: &ConfigResource,
        changes: &Changes,
        validate_only: bool,
    ) -> Result<(), ApiError> {
        self.settings
            .check_records(draft.records.len() + changes.len(), "changes")?;
        let mut after = overrides(&draft.image, resource);
        for (name, value) in changes {
            match value {
                Some(value) => after.insert(name.clone(), value.clone()),
                None => after.remove(name),
            };
        }
        let set = |(name, value): (&String, &Option<String>)| Some((name.clone(), value.clone()?));
        let changed: BTreeMap<String, String> = changes.iter().filter_map(set).collect();
        let refused_as = match resource.resource_type {
            // KAFKA-13609: what a broker cannot take over is an invalid request, and clients have come to know it so.
            ConfigResourceType::Broker => ErrorCode::InvalidRequest,
            ConfigResourceType::Topic
            | ConfigResourceType::Group
            | ConfigResourceType::ClientMetrics
            | ConfigResourceType::BrokerLogger => ErrorCode::InvalidConfig,
        };
        let refuse = |detail| ApiError::new(refused_as, detail);
        self.configs
            .validate(&draft.image, resource, &changed, &after)
            .map_err(refuse)?;
        // KAFKA-14136: a broker reloads files such as key stores when an override is set to the value that it has.
        let reload = resource.resource_type == ConfigResourceType::Broker;
        if reload && elr_enabled(&draft.image) {
            check_min_isr(resource, changes)?;
        }
        let mut records = Vec::new();
        for (name, value) in changes {
            let before = draft.image.config(resource, name).map(|value| &**value);
            let changed = before != value.as_deref();
            if changed || (reload && value.is_some()) {
                records.push(config_record(resource, name, value.as_deref()));
            }
            if changed && !validate_only && name == UNCLEAN_LEADER_ELECTION_ENABLE {
                self.timers.check_unclean_now(now);
            }
        }
        if !records.is_empty() && !validate_only {
            info!(self.logger, "altering configs"; "type" => ?resource.resource_type, "name" => &*resource.name,
                "keys" => ?changes.keys().collect::<Vec<_>>());
        }
        draft.extend(records);
        Ok(())
    }

    /// A changed `min.insync.replicas` decides anew whether the ELRs are still needed.
    fn settle_min_isr(&self, draft: &mut Draft) {
        let changes_min_isr = draft.records.iter().any(|record| match &record.record {
            Some(odradek_common::metadata::Record::Config(config)) => config.name == MIN_INSYNC_REPLICAS,
            Some(_) | None => false,
        });
        if changes_min_isr {
            self.change_partitions(draft, |_, partition| !partition.elr.is_empty(), |builder| builder);
        }
    }
}

/// KIP-966: what the ELRs hang on is the same for all brokers and is always there.
fn check_min_isr(resource: &ConfigResource, changes: &Changes) -> Result<(), ApiError> {
    let detail = match changes.get(MIN_INSYNC_REPLICAS) {
        Some(_) if !resource.name.is_empty() => {
            "Broker-level min.insync.replicas cannot be altered while ELR is enabled."
        }
        Some(None) => "Cluster-level min.insync.replicas cannot be removed while ELR is enabled.",
        Some(Some(_)) | None => return Ok(()),
    };
    Err(ApiError::new(ErrorCode::InvalidConfig, detail))
}

fn named_twice<'a>(keys: impl Iterator<Item = (i8, &'a str)>) -> BTreeSet<(i8, &'a str)> {
    let mut seen = BTreeSet::new();
    keys.filter(|key| !seen.insert(*key)).collect()
}

/// The resource, if it can have overrides and is there.
fn resource(
    image: &MetadataImage,
    (number, name): (i8, &str),
    named_twice: bool,
) -> Result<ConfigResource, ApiError> {
    let refuse = |detail: String| Err(ApiError::new(ErrorCode::InvalidRequest, detail));
    if named_twice {
        return refuse("the resource is named twice in the request".to_owned());
    }
    let Some(resource_type) = ConfigResourceType::from_number(number) else {
        return Err(ApiError::new(
            ErrorCode::UnsupportedVersion,
            format!("{number} is no resource type known here"),
        ));
    };
    match resource_type {
        ConfigResourceType::Topic => {
            check_topic_name(name)?;
            if image.topic(name).is_none() {
                let detail = format!("there is no topic {name}");
                return Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, detail));
            }
        }
        ConfigResourceType::Broker if name.is_empty() => {}
        ConfigResourceType::Broker => {
            let Some(id) = name.parse::<i32>().ok().filter(|id| *id >= 0) else {
                return refuse(format!("{name:?} is no broker id"));
            };
            if !image.brokers.contains_key(&id) && !image.controllers.contains_key(&id) {
                let detail = format!("no node with id {id} is registered");
                return Err(ApiError::new(ErrorCode::BrokerIdNotRegistered, detail));
            }
        }
        ConfigResourceType::BrokerLogger => {
            return refuse(
                "a broker has one log level, which ODRADEK_LOG_LEVEL says at its start".to_owned(),
            );
        }
        ConfigResourceType::ClientMetrics | ConfigResourceType::Group => {
            if name.is_empty() {
                return refuse("the resource has no name".to_owned());
            }
        }
    }
    Ok(ConfigResource {
        resource_type,
        name: name.into(),
    })
}
