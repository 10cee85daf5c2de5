//! What the controller decides: the request goes to it as it came, the answer comes back as it is.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::{
    AddRaftVoterRequest, AlterConfigsRequest, AlterPartitionReassignmentsRequest, CreatePartitionsRequest,
    CreateTopicsRequest, DeleteTopicsRequest, DescribeQuorumRequest, ElectLeadersRequest,
    IncrementalAlterConfigsRequest, ListPartitionReassignmentsRequest, RemoveRaftVoterRequest,
    UnregisterBrokerRequest, UpdateFeaturesRequest,
};
use kafka_protocol::protocol::{Decodable, Request};
use odradek_common::error::ApiError;
use odradek_controller::handle::{ControllerCall, ListenerKind};
use odradek_controller::service::refuse;
use odradek_net::service::{Reply, RequestFrame, Response};
use odradek_net::wire;

use super::{Api, Call, forward_row};
use crate::broker::Broker;
use crate::controller_channel::ControllerError;
use crate::metrics::error_codes::ErrorCodes;
use crate::metrics::requests::ApiTimer;

/// How long an answer is held back until this broker knows what it tells of.
const SEEN_WAIT: Duration = Duration::from_secs(1);

/// The forwarded APIs.
#[must_use]
pub fn rows() -> Vec<Api> {
    vec![
        forward_row::<CreateTopicsRequest>(),
        forward_row::<DeleteTopicsRequest>(),
        forward_row::<AlterConfigsRequest>(),
        forward_row::<CreatePartitionsRequest>(),
        forward_row::<ElectLeadersRequest>(),
        forward_row::<IncrementalAlterConfigsRequest>(),
        forward_row::<AlterPartitionReassignmentsRequest>(),
        forward_row::<ListPartitionReassignmentsRequest>(),
        forward_row::<DescribeQuorumRequest>(),
        forward_row::<UpdateFeaturesRequest>(),
        forward_row::<UnregisterBrokerRequest>(),
        forward_row::<AddRaftVoterRequest>(),
        forward_row::<RemoveRaftVoterRequest>(),
    ]
}

/// Sends the request on and waits for the answer.
pub fn run<R>(broker: Arc<Broker>, call: Call, frame: RequestFrame, timer: ApiTimer) -> Reply
where
    R: Request<Response: ErrorCodes>,
{
    let controller_call = ControllerCall {
        api_key: frame.api_key,
        api_version: frame.api_version,
        client_id: call.client_id.as_ref().map(ToString::to_string),
        principal: call.connection.principal().to_string(),
        client_address: Some(call.connection.peer_addr.ip()),
        listener: ListenerKind::Broker,
    };
    let timeout =
        Duration::from_millis(u64::try_from(broker.config.load().socket.request_timeout_ms).unwrap_or(0));
    let answer = async move {
        let called = broker
            .controller
            .call(controller_call.clone(), frame.body.clone(), timeout);
        let answered = match called.await {
            Ok(body) => {
                see_decision(&broker).await;
                Ok(body)
            }
            Err(error @ ControllerError::TimedOut(..)) => {
                let refusal = ApiError::new(error.code(), error.to_string());
                refuse(&controller_call, frame.body, &refusal).ok_or(error)
            }
            // The client asks again, on a connection that may lead elsewhere.
            Err(error) => Err(error),
        };
        match answered {
            Ok(body) => {
                // Decoded for its errors alone; the client gets these bytes.
                if let Ok(response) = R::Response::decode(&mut body.clone(), frame.api_version) {
                    broker.metrics.count_errors(call.api_key, &response);
                }
                Response::Frame(wire::raw_response(
                    frame.api_key,
                    frame.api_version,
                    call.correlation_id,
                    body,
                ))
            }
            Err(error) => Response::Close(error.to_string()),
        }
    };
    super::start(Box::pin(answer), timer)
}

/// Waits until this broker has applied what its own controller has decided, so that whoever created a topic finds it here.
/// Where another node is the active controller its clients ask again, as with Kafka.
async fn see_decision(broker: &Broker) {
    let Some(controller) = broker.controller.local() else {
        return;
    };
    let decided = controller.newest_update();
    let mut applied = broker.replicas.applied();
    let seen = applied.wait_for(|offset| *offset >= decided);
    // Late is no failure: the decision stands, and a client that does not find it asks again.
    _ = tokio::time::timeout(SEEN_WAIT, seen).await;
}
