//! FindCoordinator: which broker coordinates a group, or a transactional id. The first question creates the topic of that
//! coordinator.

use std::sync::Arc;

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{ApiKey, BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use odradek_broker_core::coordination::partition_for;
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NO_NODE;
use odradek_common::metadata::MetadataImage;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::names::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC, text};
use crate::topic_creation::ensure_internal;

/// First version that asks for several keys at once.
const BATCH_SINCE: i16 = 4;
/// First version with a message beside the error.
const MESSAGE_SINCE: i16 = 1;
/// `key_type` of a consumer group.
const GROUP: i8 = 0;
/// `key_type` of a transactional id.
const TRANSACTION: i8 = 1;

/// The handler.
pub struct FindCoordinator;

/// Node, host and port.
type Found = Result<(i32, StrBytes, i32), ApiError>;

impl Handler for FindCoordinator {
    type Request = FindCoordinatorRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: FindCoordinatorRequest,
    ) -> FindCoordinatorResponse {
        if let Some(topic) = topic_of(request.key_type) {
            ensure_internal(&broker, topic).await;
        }
        let image = broker.image();
        let find = |key: &StrBytes| {
            let found = find(&image, &call.connection.listener, request.key_type, key);
            if let Err(error) = &found {
                broker.metrics.refused(ApiKey::FindCoordinator, error.code);
            }
            found
        };
        if call.api_version < BATCH_SINCE {
            return single(find(&request.key), call.api_version);
        }
        let coordinators = request
            .coordinator_keys
            .iter()
            .map(|key| coordinator(key, find(key)));
        FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
    }
}

/// The topic whose partitions say who coordinates.
fn topic_of(key_type: i8) -> Option<&'static str> {
    match key_type {
        GROUP => Some(OFFSETS_TOPIC),
        TRANSACTION => Some(TRANSACTIONS_TOPIC),
        _ => None,
    }
}

fn find(image: &MetadataImage, listener: &str, key_type: i8, key: &str) -> Found {
    let Some(topic) = topic_of(key_type) else {
        let detail = format!("there are no coordinators of type {key_type}");
        return Err(ApiError::new(ErrorCode::InvalidRequest, detail));
    };
    let unavailable = |detail: String| ApiError::new(ErrorCode::CoordinatorNotAvailable, detail);
    let partitions = image.topic(topic).map_or(0, |topic| topic.partitions.len());
    let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
    if partitions == 0 {
        return Err(unavailable(format!("{topic} does not exist yet")));
    }
    let index = partition_for(key, partitions);
    let leader = image
        .partition(topic, index)
        .map_or(NO_NODE, |partition| partition.leader);
    let alive = image.brokers.get(&leader).filter(|broker| !broker.fenced);
    match alive.and_then(|broker| broker.endpoint(listener)) {
        Some(endpoint) => Ok((leader, text(&endpoint.host), i32::from(endpoint.port))),
        None => Err(unavailable(format!(
            "{topic}-{index} has no leader on listener {listener}"
        ))),
    }
}

fn single(found: Found, version: i16) -> FindCoordinatorResponse {
    let response = FindCoordinatorResponse::default();
    let (response, message) = match found {
        Ok((node, host, port)) => (
            response
                .with_node_id(BrokerId(node))
                .with_host(host)
                .with_port(port),
            text("NONE"),
        ),
        Err(error) => {
            let response = response
                .with_error_code(error.code())
                .with_node_id(BrokerId(NO_NODE));
            (
                response.with_host(StrBytes::new()).with_port(-1),
                text(&error.detail),
            )
        }
    };
    if version >= MESSAGE_SINCE {
        response.with_error_message(Some(message))
    } else {
        response
    }
}

fn coordinator(key: &StrBytes, found: Found) -> Coordinator {
    let answer = Coordinator::default().with_key(key.clone());
    match found {
        Ok((node, host, port)) => answer
            .with_node_id(BrokerId(node))
            .with_host(host)
            .with_port(port)
            .with_error_message(Some(StrBytes::new())),
        Err(error) => answer
            .with_node_id(BrokerId(NO_NODE))
            .with_host(StrBytes::new())
            .with_port(-1)
            .with_error_code(error.code())
            .with_error_message(Some(text(&error.detail))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek_common::metadata::{BrokerImage, Endpoint, PartitionImage, SecurityProtocol, TopicImage};
    use uuid::Uuid;

    fn image(leader: i32, fenced: bool) -> MetadataImage {
        let mut image = MetadataImage::default();
        let endpoint = Endpoint {
            listener: "CLIENTS".into(),
            host: "broker.example".into(),
            port: 9092,
            security_protocol: SecurityProtocol::Plaintext,
        };
        let broker = BrokerImage {
            broker_id: 3,
            broker_epoch: 1,
            incarnation_id: Uuid::nil(),
            endpoints: vec![endpoint],
            features: Vec::new(),
            rack: None,
            fenced,
            in_controlled_shutdown: false,
            log_dirs: Vec::new(),
        };
        image.brokers.insert(3, Arc::new(broker));
        let partition = Arc::new(PartitionImage {
            leader,
            ..PartitionImage::default()
        });
        for name in [OFFSETS_TOPIC, TRANSACTIONS_TOPIC] {
            let topic = TopicImage {
                name: name.into(),
                id: Uuid::from_u128(1),
                partitions: vec![partition.clone(); 50],
            };
            image.topics.insert(name.into(), Arc::new(topic));
        }
        image
    }

    fn code(found: Found) -> Option<ErrorCode> {
        found.err().map(|error| error.code)
    }

    #[test]
    fn the_leader_of_the_key_s_partition_is_named_by_the_caller_s_listener() {
        for key_type in [GROUP, TRANSACTION] {
            let found = find(&image(3, false), "CLIENTS", key_type, "payments").unwrap();
            assert_eq!(found, (3, text("broker.example"), 9092));
        }
        let elsewhere = find(&image(3, false), "INTERNAL", GROUP, "payments");
        assert_eq!(code(elsewhere), Some(ErrorCode::CoordinatorNotAvailable));
    }

    #[test]
    fn without_a_leader_that_lives_the_client_is_told_to_ask_again() {
        for image in [image(NO_NODE, false), image(3, true), MetadataImage::default()] {
            assert_eq!(
                code(find(&image, "CLIENTS", GROUP, "g")),
                Some(ErrorCode::CoordinatorNotAvailable)
            );
        }
        let response = single(find(&image(NO_NODE, false), "CLIENTS", GROUP, "g"), 3);
        assert_eq!(
            (response.node_id, response.port, response.host.as_str()),
            (BrokerId(-1), -1, "")
        );
    }

    #[test]
    fn each_kind_of_key_has_a_topic_of_its_own() {
        let mut image = image(3, false);
        image.topics.remove(TRANSACTIONS_TOPIC);
        assert!(find(&image, "CLIENTS", GROUP, "g").is_ok());
        assert_eq!(
            code(find(&image, "CLIENTS", TRANSACTION, "t")),
            Some(ErrorCode::CoordinatorNotAvailable)
        );
    }

    #[test]
    fn share_groups_have_no_coordinator() {
        assert_eq!(
            code(find(&image(3, false), "CLIENTS", 2, "g:topic:0")),
            Some(ErrorCode::InvalidRequest)
        );
    }

    #[test]
    fn every_version_can_be_encoded() {
        use kafka_protocol::protocol::Encodable;
        for version in 0..=6 {
            for found in [
                Ok((1, text("h"), 1)),
                Err(ApiError::from(ErrorCode::CoordinatorNotAvailable)),
            ] {
                let response = if version < BATCH_SINCE {
                    single(found, version)
                } else {
                    FindCoordinatorResponse::default().with_coordinators(vec![coordinator(&text("g"), found)])
                };
                response.encode(&mut bytes::BytesMut::new(), version).unwrap();
            }
        }
    }
}
