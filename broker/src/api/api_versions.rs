//! ApiVersions: what this broker answers, and the cluster's feature levels.

use std::sync::Arc;

use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;
use odradek_common::metadata::features::FEATURES;
use odradek_net::service::{ClientSoftware, Response};
use odradek_net::wire;

use super::{APIS, Call, Handler};
use crate::broker::Broker;
use crate::names::text;

/// First version in which clients read features whose lowest level is 0 (KAFKA-17492).
const LEVEL_ZERO_SINCE: i16 = 4;
/// First version with the client's name and version (KIP-511).
const SOFTWARE_SINCE: i16 = 3;

/// The handler.
pub struct ApiVersions;

impl Handler for ApiVersions {
    type Request = ApiVersionsRequest;

    async fn handle(broker: Arc<Broker>, call: Call, request: ApiVersionsRequest) -> ApiVersionsResponse {
        if call.api_version >= SOFTWARE_SINCE {
            let (name, version) = (&request.client_software_name, &request.client_software_version);
            if !is_software_token(name) || !is_software_token(version) {
                return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
            }
            call.connection.set_client_software(ClientSoftware {
                name: Arc::from(name.as_str()),
                version: Arc::from(version.as_str()),
            });
        }
        let image = broker.image();
        let api_keys = APIS
            .iter()
            .map(|api| api_version(api.key, api.versions.min, api.versions.max));
        let supported = FEATURES
            .iter()
            .filter(|feature| feature.min_level > 0 || call.api_version >= LEVEL_ZERO_SINCE)
            .map(|feature| {
                SupportedFeatureKey::default()
                    .with_name(StrBytes::from_static_str(feature.name))
                    .with_min_version(feature.min_level)
                    .with_max_version(feature.max_level)
            });
        let finalized = image.features.iter().map(|(name, level)| {
            FinalizedFeatureKey::default()
                .with_name(text(name))
                .with_min_version_level(*level)
                .with_max_version_level(*level)
        });
        ApiVersionsResponse::default()
            .with_api_keys(api_keys.collect())
            .with_supported_features(supported.collect())
            .with_finalized_features(finalized.collect())
            .with_finalized_features_epoch(image.offset)
    }
}

fn api_version(key: ApiKey, min: i16, max: i16) -> ApiVersion {
    // KAFKA-18659: librdkafka below 2.x needs to see Produce from 0 on, although nobody can send it.
    let min = if key == ApiKey::Produce { 0 } else { min };
    ApiVersion::default()
        .with_api_key(key as i16)
        .with_min_version(min)
        .with_max_version(max)
}

/// The answer to a version of ApiVersions that nobody knows: in version 0, with the range that is known (KIP-511).
#[must_use]
pub fn unsupported(correlation_id: i32) -> Response {
    let versions = wire::served_versions::<ApiVersionsRequest>();
    let response = ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(vec![api_version(ApiKey::ApiVersions, versions.min, versions.max)]);
    super::encode::<ApiVersionsRequest>(0, correlation_id, &response)
}

/// Letters, digits, '-' and '.', the first and the last a letter or digit.
fn is_software_token(token: &str) -> bool {
    let bytes = token.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kip_511() {
        for good in ["librdkafka", "apache-kafka-java", "4.3.1", "a"] {
            assert!(is_software_token(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "ü"] {
            assert!(!is_software_token(bad), "{bad}");
        }
    }
}
