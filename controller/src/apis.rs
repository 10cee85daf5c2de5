//! The controller's APIs: one row each, with the versions that are served, what is decided, and what a refusal looks like.

mod describe_quorum;
mod refusals;
mod voters;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    AddRaftVoterRequest, AllocateProducerIdsRequest, AlterConfigsRequest, AlterPartitionReassignmentsRequest,
    AlterPartitionRequest, AssignReplicasToDirsRequest, BrokerHeartbeatRequest, BrokerRegistrationRequest,
    ControllerRegistrationRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeQuorumRequest, ElectLeadersRequest,
    IncrementalAlterConfigsRequest, ListPartitionReassignmentsRequest, RemoveRaftVoterRequest,
    UnregisterBrokerRequest, UpdateFeaturesRequest, UpdateRaftVoterRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, VersionRange};
use odradek_common::error::ApiError;
use odradek_common::ids::NO_NODE;
use odradek_common::metadata::ConfigResource;
use odradek_controller_core::controller::{Controller, Decision};
use odradek_controller_core::describe_configs::{self, overrides};
use odradek_net::wire::served_versions;
use uuid::Uuid;

use crate::handle::{ControllerCall, DispatchError, Shared};
use crate::node::command::{Deciding, Job};
use crate::senders::Sender;

/// A request that was decoded.
pub(crate) enum Prepared {
    /// It needs no decision.
    Answer(Bytes),
    /// For the active controller.
    Job(Job),
}

type Prepare = fn(&Arc<Shared>, &ControllerCall, Bytes) -> Result<Prepared, DispatchError>;
type Refuse = fn(i16, Bytes, &ApiError) -> Option<Bytes>;

/// One API.
pub(crate) struct Row {
    pub(crate) key: i16,
    pub(crate) versions: fn() -> VersionRange,
    prepare: Prepare,
    refuse: Refuse,
}

macro_rules! row {
    ($request:ty, $prepare:expr) => {
        Row {
            key: <$request as Request>::KEY,
            versions: served_versions::<$request>,
            prepare: $prepare,
            refuse: |version, body, error| {
                let request = <$request as refusals::Refusable>::decode_for_refusal(version, body)?;
                let response = refusals::Refusable::refused(&request, version, error);
                encode_body(version, &response).ok()
            },
        }
    };
}

macro_rules! decided {
    ($request:ty, |$deciding:ident, $version:ident, $request_name:ident| $decision:expr) => {
        row!($request, |_, call, body| decide::<$request>(
            call,
            body,
            |$deciding: &mut Deciding<'_>, $version: i16, $request_name: &$request| $decision
        ))
    };
}

/// Every API of the controller listener, except ApiVersions and Envelope, which are about the others.
pub(crate) static APIS: &[Row] = &[
    decided!(CreateTopicsRequest, |d, _v, r| d
        .controller
        .create_topics(d.image, d.now, r)),
    decided!(DeleteTopicsRequest, |d, v, r| d
        .controller
        .delete_topics(d.image, d.now, v, r)),
    row!(DescribeConfigsRequest, describe_configs),
    decided!(AlterConfigsRequest, |d, _v, r| d
        .controller
        .alter_configs(d.image, d.now, r)),
    decided!(CreatePartitionsRequest, |d, _v, r| d
        .controller
        .create_partitions(d.image, d.now, r)),
    decided!(ElectLeadersRequest, |d, _v, r| d
        .controller
        .elect_leaders(d.image, d.now, r)),
    decided!(IncrementalAlterConfigsRequest, |d, _v, r| {
        d.controller.incremental_alter_configs(d.image, d.now, r)
    }),
    decided!(AlterPartitionReassignmentsRequest, |d, _v, r| {
        d.controller.alter_partition_reassignments(d.image, d.now, r)
    }),
    decided!(ListPartitionReassignmentsRequest, |d, _v, r| {
        Decision::answer(Controller::list_partition_reassignments(d.image, r))
    }),
    row!(DescribeQuorumRequest, describe_quorum::prepare),
    decided!(AlterPartitionRequest, |d, v, r| d
        .controller
        .alter_partition(d.image, d.now, v, r)),
    decided!(UpdateFeaturesRequest, |d, v, r| d
        .controller
        .update_features(d.image, d.now, v, r)),
    row!(DescribeClusterRequest, describe_cluster),
    decided!(BrokerRegistrationRequest, |d, _v, r| {
        d.controller.register_broker(d.image, d.now, d.next_offset, r)
    }),
    decided!(BrokerHeartbeatRequest, |d, _v, r| {
        d.controller.broker_heartbeat(d.image, d.now, d.next_offset, r)
    }),
    decided!(UnregisterBrokerRequest, |d, _v, r| d
        .controller
        .unregister_broker(d.image, d.now, r)),
    decided!(AllocateProducerIdsRequest, |d, _v, r| {
        d.controller.allocate_producer_ids(d.image, d.now, r)
    }),
    row!(ControllerRegistrationRequest, controller_registration),
    decided!(AssignReplicasToDirsRequest, |d, _v, r| {
        d.controller.assign_replicas_to_dirs(d.image, d.now, r)
    }),
    row!(AddRaftVoterRequest, voters::add),
    row!(RemoveRaftVoterRequest, voters::remove),
    decided!(UpdateRaftVoterRequest, |d, _v, r| voters::update(d, r)),
];

/// The row of an API.
pub(crate) fn row(api_key: i16) -> Option<&'static Row> {
    APIS.iter().find(|row| row.key == api_key)
}

/// Decodes a request and says what is to be done for it.
pub(crate) fn prepare(
    shared: &Arc<Shared>,
    call: &ControllerCall,
    body: Bytes,
) -> Result<Prepared, DispatchError> {
    let unsupported = DispatchError::Unsupported {
        api_key: call.api_key,
        api_version: call.api_version,
    };
    let row = row(call.api_key).ok_or(unsupported.clone())?;
    let versions = (row.versions)();
    if call.api_version < versions.min || call.api_version > versions.max {
        return Err(unsupported);
    }
    (row.prepare)(shared, call, body)
}

/// The answer that refuses a whole request, in the request's own shape; `None` if its version has no place for it.
#[must_use]
pub fn refuse(call: &ControllerCall, body: Bytes, error: &ApiError) -> Option<Bytes> {
    (row(call.api_key)?.refuse)(call.api_version, body, error)
}

pub(crate) fn decode<R: Request>(call: &ControllerCall, mut body: Bytes) -> Result<R, DispatchError> {
    let malformed = |detail: String| DispatchError::Malformed {
        api_key: call.api_key,
        detail,
    };
    let request = R::decode(&mut body, call.api_version).map_err(|error| malformed(error.to_string()))?;
    if !body.is_empty() {
        return Err(malformed(format!("{} bytes after its end", body.len())));
    }
    Ok(request)
}

pub(crate) fn encode<R: Encodable>(api_key: i16, version: i16, response: &R) -> Result<Bytes, DispatchError> {
    encode_body(version, response).map_err(|detail| DispatchError::Malformed { api_key, detail })
}

fn encode_body<R: Encodable>(version: i16, response: &R) -> Result<Bytes, String> {
    let mut bytes = BytesMut::new();
    response
        .encode(&mut bytes, version)
        .map_err(|error| error.to_string())?;
    Ok(bytes.freeze())
}

fn decide<R>(
    call: &ControllerCall,
    body: Bytes,
    decision: fn(&mut Deciding<'_>, i16, &R) -> Decision<R::Response>,
) -> Result<Prepared, DispatchError>
where
    R: Request + Send + 'static,
{
    let request: R = decode(call, body)?;
    let version = call.api_version;
    Ok(Prepared::Job(Job::Decide(Box::new(move |deciding| {
        let decision = decision(deciding, version, &request);
        let answer = encode(R::KEY, version, &decision.response)?;
        Ok((decision.records, answer))
    }))))
}

fn describe_cluster(
    shared: &Arc<Shared>,
    call: &ControllerCall,
    body: Bytes,
) -> Result<Prepared, DispatchError> {
    let request: DescribeClusterRequest = decode(call, body)?;
    let leader = shared.leadership().leader.unwrap_or(NO_NODE);
    let listener = shared
        .settings
        .endpoints
        .first()
        .map_or("", |endpoint| &endpoint.listener);
    let response = Controller::describe_cluster(&shared.log.image(), leader, listener, &request);
    encode(call.api_key, call.api_version, &response).map(Prepared::Answer)
}

/// A node answers for itself, with the dynamic configurations that are for it.
fn describe_configs(
    shared: &Arc<Shared>,
    call: &ControllerCall,
    body: Bytes,
) -> Result<Prepared, DispatchError> {
    let request: DescribeConfigsRequest = decode(call, body)?;
    let image = shared.log.image();
    let own = overrides(&image, &ConfigResource::broker(shared.settings.node_id));
    let every = overrides(&image, &ConfigResource::every_broker());
    let (config, _) = shared.settings.config.with_dynamic(&own, &every);
    let response = describe_configs::describe_configs(&image, &config, call.api_version, &request);
    encode(call.api_key, call.api_version, &response).map(Prepared::Answer)
}

fn controller_registration(
    shared: &Arc<Shared>,
    call: &ControllerCall,
    body: Bytes,
) -> Result<Prepared, DispatchError> {
    let request: ControllerRegistrationRequest = decode(call, body)?;
    let (key, version) = (call.api_key, call.api_version);
    let node_id = request.controller_id;
    let own = node_id == shared.settings.node_id;
    let said = |sender: &Sender| sender.directory_id;
    let said = shared.senders.lock().get(node_id).map(said);
    let directory_id = if own {
        Some(shared.settings.directory_id)
    } else {
        said
    };
    Ok(Prepared::Job(Job::Decide(Box::new(move |deciding| {
        let known = deciding
            .image
            .controllers
            .get(&node_id)
            .map(|controller| controller.directory_id);
        let directory_id = directory_id.or(known).unwrap_or(Uuid::nil());
        let decision =
            deciding
                .controller
                .controller_registration(deciding.image, deciding.now, directory_id, &request);
        let answer = encode(key, version, &decision.response)?;
        Ok((decision.records, answer))
    }))))
}

/// A request decoded without a call around it.
fn decode_bare<R: Decodable>(version: i16, mut body: Bytes) -> Option<R> {
    R::decode(&mut body, version).ok()
}
