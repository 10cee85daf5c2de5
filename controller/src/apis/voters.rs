//! AddRaftVoter, RemoveRaftVoter, UpdateRaftVoter.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, RemoveRaftVoterRequest, RemoveRaftVoterResponse,
    UpdateRaftVoterRequest, UpdateRaftVoterResponse,
};
use kafka_protocol::protocol::{Request, StrBytes};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::metadata::{ControllerImage, Endpoint, SecurityProtocol};
use odradek_controller_core::controller::Decision;

use super::refusals::Refusable;
use super::{Prepared, decode, encode};
use crate::handle::{ControllerCall, DispatchError, Shared};
use crate::node::command::{Deciding, Job, VoterJob, VoterJobKind};

pub(super) fn add(
    shared: &Arc<Shared>,
    call: &ControllerCall,
    body: Bytes,
) -> Result<Prepared, DispatchError> {
    let request: AddRaftVoterRequest = decode(call, body)?;
    if let Err(error) = check_cluster(shared, request.cluster_id.as_ref()) {
        return refused(call, &request, &error);
    }
    let security_protocol = shared
        .settings
        .endpoints
        .first()
        .map_or(SecurityProtocol::Plaintext, |own| own.security_protocol);
    let endpoints = request.listeners.iter().map(|listener| Endpoint {
        listener: listener.name.as_str().into(),
        host: listener.host.as_str().into(),
        port: listener.port,
        security_protocol,
    });
    let change = VoterJobKind::Add {
        node_id: request.voter_id,
        directory_id: request.voter_directory_id,
        endpoints: endpoints.collect(),
    };
    let valid = request.voter_id >= 0 && !request.listeners.is_empty();
    if !valid {
        let detail = "a voter has an id that is not negative, and a listener";
        return refused(call, &request, &ApiError::new(ErrorCode::InvalidRequest, detail));
    }
    job(call, request, change, &AddRaftVoterResponse::default())
}

pub(super) fn remove(
    shared: &Arc<Shared>,
    call: &ControllerCall,
    body: Bytes,
) -> Result<Prepared, DispatchError> {
    let request: RemoveRaftVoterRequest = decode(call, body)?;
    if let Err(error) = check_cluster(shared, request.cluster_id.as_ref()) {
        return refused(call, &request, &error);
    }
    let change = VoterJobKind::Remove {
        node_id: request.voter_id,
        directory_id: request.voter_directory_id,
    };
    job(call, request, change, &RemoveRaftVoterResponse::default())
}

/// A voter tells where it listens now.
pub(super) fn update(
    deciding: &mut Deciding<'_>,
    request: &UpdateRaftVoterRequest,
) -> Decision<UpdateRaftVoterResponse> {
    let known = deciding.image.controllers.get(&request.voter_id);
    let Some(known) = known.filter(|known| known.directory_id == request.voter_directory_id) else {
        let code = ErrorCode::VoterNotFound.code();
        return Decision::answer(UpdateRaftVoterResponse::default().with_error_code(code));
    };
    let security_protocol = known
        .endpoints
        .first()
        .map_or(SecurityProtocol::Plaintext, |endpoint| endpoint.security_protocol);
    let endpoints = request.listeners.iter().map(|listener| Endpoint {
        listener: listener.name.as_str().into(),
        host: listener.host.as_str().into(),
        port: listener.port,
        security_protocol,
    });
    let updated = ControllerImage {
        endpoints: endpoints.collect(),
        ..ControllerImage::clone(known)
    };
    Decision {
        records: vec![updated.to_record()],
        response: UpdateRaftVoterResponse::default(),
    }
}

fn check_cluster(shared: &Shared, cluster_id: Option<&StrBytes>) -> Result<(), ApiError> {
    let own = shared.settings.cluster_id.as_str();
    match cluster_id {
        Some(other) if other.as_str() != own => {
            let detail = format!("this is cluster {own}, not {other}");
            Err(ApiError::new(ErrorCode::InconsistentClusterId, detail))
        }
        _ => Ok(()),
    }
}

fn refused<R: Refusable>(
    call: &ControllerCall,
    request: &R,
    error: &ApiError,
) -> Result<Prepared, DispatchError> {
    let response = request.refused(call.api_version, error);
    encode(call.api_key, call.api_version, &response).map(Prepared::Answer)
}

fn job<R>(
    call: &ControllerCall,
    request: R,
    change: VoterJobKind,
    done: &<R as Request>::Response,
) -> Result<Prepared, DispatchError>
where
    R: Refusable + Send + 'static,
{
    let (key, version) = (call.api_key, call.api_version);
    let done = encode(key, version, done)?;
    let refused = Box::new(move |error: &ApiError| {
        encode(key, version, &request.refused(version, error)).unwrap_or_default()
    });
    Ok(Prepared::Job(Job::Voters(VoterJob {
        change,
        done,
        refused,
    })))
}
