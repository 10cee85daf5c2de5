//! FindCoordinator: which broker coordinates a group, or a transactional id. The first question creates the topic of that
//! coordinator.
//!
//! A client that lost its coordinator asks at once, before the controller can have elected another. Told of the dead one
//! again, or twice that there is none, librdkafka waits until something happens to its connections, be it ten seconds. So a
//! coordinator whose connection to this broker broke a moment ago is not named; the answer waits for its successor.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{ApiKey, BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::ids::NO_NODE;
use odradek_common::metadata::MetadataImage;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::clock;
use crate::coordinator::leader_of;
use crate::lost_leaders::LostLeaders;
use crate::names::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC, text};
use crate::topic_creation::ensure_internal;

/// First version that asks for several keys at once.
const BATCH_SINCE: i16 = 4;
/// First version with a message beside the error.
const MESSAGE_SINCE: i16 = 1;
/// How long a question waits for the successor of a coordinator that may be gone.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(1);
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
        let keys = if call.api_version < BATCH_SINCE {
            std::slice::from_ref(&request.key)
        } else {
            &*request.coordinator_keys
        };
        let successors = await_successors(&broker, request.key_type, keys);
        // Without them the client is told what the metadata says.
        _ = tokio::time::timeout(SUCCESSOR_WAIT, successors).await;
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

/// Waits until none of the coordinators is in doubt. Doubts are short.
async fn await_successors(broker: &Broker, key_type: i8, keys: &[StrBytes]) {
    let Some(topic) = topic_of(key_type) else {
        return;
    };
    let mut applied = broker.replicas.applied();
    while let Some(doubt_ms) = doubt_ms(
        &broker.image(),
        &broker.lost_leaders,
        topic,
        keys,
        clock::mono_ms(),
    ) {
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_millis(doubt_ms)) => {}
        }
    }
}

/// For how long some of the coordinators are in doubt; None if none is.
fn doubt_ms(
    image: &MetadataImage,
    lost: &LostLeaders,
    topic: &str,
    keys: &[StrBytes],
    mono_ms: u64,
) -> Option<u64> {
    let leaders = keys.iter().filter_map(|key| leader_of(image, topic, key));
    leaders.filter_map(|leader| lost.doubt_ms(leader, mono_ms)).max()
}

fn find(image: &MetadataImage, listener: &str, key_type: i8, key: &str) -> Found {
    let Some(topic) = topic_of(key_type) else {
        let detail = format!("there are no coordinators of type {key_type}");
        return Err(ApiError::new(ErrorCode::InvalidRequest, detail));
    };
    let unavailable = |detail: String| ApiError::new(ErrorCode::CoordinatorNotAvailable, detail);
    let leader =
        leader_of(image, topic, key).ok_or_else(|| unavailable(format!("{topic} does not exist yet")))?;
    let alive = image.brokers.get(&leader).filter(|broker| !broker.fenced);
    match alive.and_then(|broker| broker.endpoint(listener)) {
        Some(endpoint) => Ok((leader, text(&endpoint.host), i32::from(endpoint.port))),
        None => Err(unavailable(format!(
            "the partition of {topic} has no leader on listener {listener}"
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
    use crate::fixtures::broker;
    use odradek_common::metadata::{PartitionImage, TopicImage};
    use uuid::Uuid;

    fn image(leader: i32, fenced: bool) -> MetadataImage {
        let mut image = MetadataImage::default();
        image.brokers.insert(3, broker(3, "CLIENTS", fenced));
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
            assert_eq!(found, (3, text("broker-3"), 9092));
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
    fn a_coordinator_that_may_be_gone_is_waited_for_until_it_has_a_successor() {
        let (lost, keys) = (LostLeaders::default(), [text("a"), text("b")]);
        let doubt = |image: &MetadataImage, mono_ms| doubt_ms(image, &lost, OFFSETS_TOPIC, &keys, mono_ms);
        assert_eq!(doubt(&image(3, false), 1_000), None);
        lost.lost(3, 1_000);
        let begin_ms = doubt(&image(3, false), 1_000).unwrap();
        assert_eq!(doubt(&image(3, false), 1_000 + begin_ms - 1), Some(1));
        assert_eq!(
            doubt(&image(3, false), 1_000 + begin_ms),
            None,
            "no longer than that"
        );
        assert_eq!(doubt(&image(4, false), 1_000), None, "it has a successor");
        assert_eq!(doubt(&MetadataImage::default(), 1_000), None);
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
