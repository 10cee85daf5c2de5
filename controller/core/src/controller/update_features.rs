//! UpdateFeatures: an operator finalises feature levels, or goes back.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use kafka_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::metadata::features::{self, ELR_VERSION, KRAFT_VERSION, METADATA_VERSION};
use odradek_common::metadata::proto::{ClusterIdRecord, FeatureLevelRecord};
use odradek_common::metadata::{
    ConfigResource, ConfigResourceType, ControllerImage, FeatureRange, MetadataImage, MetadataRecord, Record,
    config_record, record,
};
use odradek_common::time::Now;
use slog::{info, warn};

use super::draft::Draft;
use super::topic_configs::{MIN_INSYNC_REPLICAS, elr_enabled};
use super::{Controller, Decision, wire_error};

const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

impl Controller {
    /// What a new leader writes first, where it is missing: the cluster's id, the feature levels that it starts with, and what
    /// these depend on.
    #[must_use]
    pub fn opening_records(&self, image: &MetadataImage, cluster_id: &str) -> Vec<MetadataRecord> {
        let mut draft = Draft::new(image);
        if image.cluster_id.is_empty() || image.features.is_empty() {
            draft.push(record(Record::ClusterId(ClusterIdRecord {
                cluster_id: cluster_id.to_owned(),
            })));
            let initial = features::FEATURES
                .iter()
                .filter(|feature| feature.initial_level > 0);
            draft.extend(initial.map(|feature| level_record(feature.name, feature.initial_level)));
        }
        self.share_min_isr(&mut draft);
        draft.records
    }

    /// KIP-966: a replica that left is eligible to lead only if leaders stop committing where controllers think they do, so
    /// with ELR all nodes have one `min.insync.replicas`, whatever their files say.
    fn share_min_isr(&self, draft: &mut Draft) {
        if !elr_enabled(&draft.image) {
            return;
        }
        let cluster = ConfigResource::every_broker();
        if draft.image.config(&cluster, MIN_INSYNC_REPLICAS).is_none() {
            let value = self.settings.min_insync_replicas.to_string();
            info!(self.logger, "min.insync.replicas is the cluster's from now on"; "value" => &value);
            draft.push(config_record(&cluster, MIN_INSYNC_REPLICAS, Some(&value)));
        }
        // Also those of brokers that are not registered now and may come back.
        let configs = draft.image.configs.clone();
        let own = configs.iter().filter(|(resource, own)| {
            let is_one_broker =
                resource.resource_type == ConfigResourceType::Broker && !resource.name.is_empty();
            is_one_broker && own.contains_key(MIN_INSYNC_REPLICAS)
        });
        draft.extend(own.map(|(broker, _)| config_record(broker, MIN_INSYNC_REPLICAS, None)));
    }

    /// Changes feature levels, all of them or none.
    pub fn update_features(
        &mut self,
        image: &MetadataImage,
        _now: Now,
        api_version: i16,
        request: &UpdateFeaturesRequest,
    ) -> Decision<UpdateFeaturesResponse> {
        let mut draft = Draft::new(image);
        let response = UpdateFeaturesResponse::default();
        if let Err(error) = self.try_update(&mut draft, api_version, request) {
            warn!(self.logger, "refusing feature levels"; "error" => %error);
            let (code, message) = wire_error(Some(&error));
            return Decision::answer(response.with_error_code(code).with_error_message(message));
        }
        // Version 2 dropped the results: all succeed or all fail.
        let results = match api_version < 2 {
            true => request
                .feature_updates
                .iter()
                .map(|u| u.feature.clone())
                .collect(),
            false => Vec::new(),
        };
        let result = |feature| UpdatableFeatureResult::default().with_feature(feature);
        let response = response.with_error_message(None);
        let response = response.with_results(results.into_iter().map(result).collect());
        let records = if request.validate_only {
            Vec::new()
        } else {
            draft.records
        };
        Decision { records, response }
    }

    fn try_update(
        &self,
        draft: &mut Draft,
        api_version: i16,
        request: &UpdateFeaturesRequest,
    ) -> Result<(), ApiError> {
        let mut seen = BTreeSet::new();
        for update in &request.feature_updates {
            let name = update.feature.as_str();
            if !seen.insert(name) {
                return Err(ApiError::new(
                    ErrorCode::InvalidRequest,
                    format!("{name} is named twice"),
                ));
            }
            let downgrade = downgrade_asked(api_version, update)?;
            check_update(&draft.image, name, update.max_version_level, downgrade)?;
        }
        for update in &request.feature_updates {
            let (name, level) = (update.feature.as_str(), update.max_version_level);
            if draft.image.feature_level(name) == level {
                continue;
            }
            info!(self.logger, "finalising a feature level"; "feature" => name, "level" => level);
            draft.push(level_record(name, level));
            if name == ELR_VERSION {
                match level {
                    0 => self.drop_elr(draft),
                    _ => self.share_min_isr(draft),
                }
            }
        }
        Ok(())
    }

    /// Without ELR an offline partition is led again only by a member of its ISR, so the ISR gets one back.
    fn drop_elr(&self, draft: &mut Draft) {
        let mut changes = Vec::new();
        for topic in draft.image.topics.values() {
            for (index, partition) in (0..).zip(&topic.partitions) {
                let mut isr = partition.isr.clone();
                if isr.is_empty() {
                    let known = partition.elr.iter().chain(&partition.last_known_elr);
                    isr.extend(known.filter(|id| partition.replicas.contains(id)).take(1));
                }
                if isr.is_empty() {
                    isr.extend(partition.replicas.first());
                }
                changes.extend(
                    self.change(&draft.image, topic, index, partition)
                        .isr(isr)
                        .build(),
                );
            }
        }
        for change in changes {
            draft.push_change(change);
        }
    }
}

fn level_record(name: &str, level: i16) -> MetadataRecord {
    record(Record::FeatureLevel(FeatureLevelRecord {
        name: name.to_owned(),
        level: i32::from(level),
    }))
}

/// Version 0 has a flag where later ones have a kind of upgrade.
fn downgrade_asked(api_version: i16, update: &FeatureUpdateKey) -> Result<bool, ApiError> {
    if api_version < 1 {
        return Ok(update.allow_downgrade);
    }
    match update.upgrade_type {
        UPGRADE => Ok(false),
        SAFE_DOWNGRADE | UNSAFE_DOWNGRADE => Ok(true),
        other => Err(refused(
            &update.feature,
            update.max_version_level,
            format!("{other} is no kind of upgrade"),
        )),
    }
}

fn refused(name: &str, level: i16, why: String) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidUpdateVersion,
        format!("{name} cannot be set to level {level}: {why}"),
    )
}

fn check_update(image: &MetadataImage, name: &str, level: i16, downgrade: bool) -> Result<(), ApiError> {
    let refuse = |why: String| Err(refused(name, level, why));
    let current = image.feature_level(name);
    if level < 0 {
        return refuse("levels are not negative".to_owned());
    }
    if level < current && !downgrade {
        return refuse(format!(
            "it is at {current}, and going back must be asked for as a downgrade"
        ));
    }
    if level > current && downgrade {
        return refuse(format!("it is at {current}, which makes this no downgrade"));
    }
    if level < current && name == KRAFT_VERSION {
        return refuse(format!(
            "it is at {current}, and the quorum's membership cannot go back"
        ));
    }
    let Some(feature) = features::feature(name) else {
        return refuse("the controller does not know the feature".to_owned());
    };
    if level < feature.min_level || level > feature.max_level {
        return refuse(format!(
            "the controller supports {} to {}",
            feature.min_level, feature.max_level
        ));
    }
    if level == 0 && name == METADATA_VERSION {
        return refuse("every cluster has it".to_owned());
    }
    for broker in image.brokers.values() {
        check_supported(
            &format!("broker {}", broker.broker_id),
            &broker.features,
            name,
            level,
        )?;
    }
    // A voter that was added and has never been there runs nothing yet.
    let seen = |controller: &&Arc<ControllerImage>| !controller.incarnation_id.is_nil();
    for controller in image.controllers.values().filter(seen) {
        check_supported(
            &format!("controller {}", controller.node_id),
            &controller.features,
            name,
            level,
        )?;
    }
    Ok(())
}

/// A node that does not name a feature can run level 0 of it.
fn check_supported(node: &str, ranges: &[FeatureRange], name: &str, level: i16) -> Result<(), ApiError> {
    let range = ranges.iter().find(|range| &*range.name == name);
    let (min, max) = range.map_or((0, 0), |range| (range.min_level, range.max_level));
    if (min..=max).contains(&level) {
        return Ok(());
    }
    Err(refused(name, level, format!("{node} supports {min} to {max}")))
}
