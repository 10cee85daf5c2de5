//! ControllerRegistration: a controller says where it is and what it supports.

use kafka_protocol::messages::{ControllerRegistrationRequest, ControllerRegistrationResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::metadata::{ControllerImage, Endpoint, FeatureRange, MetadataImage, SecurityProtocol};
use odradek_common::time::Now;
use uuid::Uuid;

use super::{Controller, Decision, wire_error};

impl Controller {
    /// Registers a controller; `directory_id` is that of its metadata directory, which the request does not carry.
    pub fn controller_registration(
        &mut self,
        image: &MetadataImage,
        _now: Now,
        directory_id: Uuid,
        request: &ControllerRegistrationRequest,
    ) -> Decision<ControllerRegistrationResponse> {
        let controller = match controller_image(directory_id, request) {
            Ok(controller) => controller,
            Err(error) => {
                let (code, message) = wire_error(Some(&error));
                let response = ControllerRegistrationResponse::default();
                return Decision::answer(response.with_error_code(code).with_error_message(message));
            }
        };
        let known = image
            .controllers
            .get(&controller.node_id)
            .is_some_and(|known| **known == controller);
        let records = if known {
            Vec::new()
        } else {
            vec![controller.to_record()]
        };
        Decision {
            records,
            response: ControllerRegistrationResponse::default(),
        }
    }
}

fn controller_image(
    directory_id: Uuid,
    request: &ControllerRegistrationRequest,
) -> Result<ControllerImage, ApiError> {
    let mut endpoints = Vec::with_capacity(request.listeners.len());
    for listener in &request.listeners {
        let number = i32::from(listener.security_protocol);
        let Some(security_protocol) = SecurityProtocol::from_number(number) else {
            let detail = format!("listener {} has the unknown protocol {number}", listener.name);
            return Err(ApiError::new(ErrorCode::InvalidRegistration, detail));
        };
        endpoints.push(Endpoint {
            listener: listener.name.as_str().into(),
            host: listener.host.as_str().into(),
            port: listener.port,
            security_protocol,
        });
    }
    let range = |feature: &kafka_protocol::messages::controller_registration_request::Feature| FeatureRange {
        name: feature.name.as_str().into(),
        min_level: feature.min_supported_version,
        max_level: feature.max_supported_version,
    };
    Ok(ControllerImage {
        node_id: request.controller_id,
        directory_id,
        incarnation_id: request.incarnation_id,
        endpoints,
        features: request.features.iter().map(range).collect(),
    })
}
