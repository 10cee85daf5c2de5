//! Raft messages from other controllers, and nodes that ask to be let in.

use bytes::Bytes;
use odradek_common::ids::NO_NODE;
use odradek_common::metadata::{Endpoint, SecurityProtocol};
use odradek_net::pool::join_address;
use odradek_net::service::{Reply, RequestFrame, Response};
use odradek_net::wire::raw_response;
use prost::Message;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::handle::{ControllerHandle, DispatchError, Shared};
use crate::node::command::{Command, Job, QueuedCall, VoterJob, VoterJobKind};
use crate::proto::{JoinQuorumRequest, JoinQuorumResponse, RaftMessagesRequest, RaftMessagesResponse};
use crate::senders::Sender;

/// The longest name of a host.
const HOST_BYTES_MAX: usize = 255;

/// Hands messages to the node's thread; the answer says whether it took them.
pub(super) fn messages(handle: &ControllerHandle, request: &RequestFrame) -> Response {
    let refused = match RaftMessagesRequest::decode(request.body.clone()) {
        Ok(messages) => take(&handle.shared, messages).err().unwrap_or_default(),
        Err(error) => format!("the request does not decode: {error}"),
    };
    let cluster_id = handle.shared.settings.cluster_id.clone();
    answer(request, &RaftMessagesResponse { refused, cluster_id })
}

fn take(shared: &Shared, request: RaftMessagesRequest) -> Result<(), String> {
    let settings = &shared.settings;
    check_cluster(settings.cluster_id.as_str(), &request.cluster_id)?;
    if request.to != settings.node_id {
        return Err(format!("this is node {}, not {}", settings.node_id, request.to));
    }
    let directory_id = uuid(&request.directory_id);
    check_directory(shared, request.from, directory_id)?;
    if request.host.len() > HOST_BYTES_MAX {
        return Err("its host is no host name".to_owned());
    }
    let port = u16::try_from(request.port).ok().filter(|port| *port != 0);
    let sender = Sender {
        directory_id,
        address: port.map(|port| join_address(&request.host, port)),
    };
    shared.note_sender(request.from, sender);
    let command = Command::Raft {
        from: request.from,
        messages: request.messages,
    };
    shared
        .commands
        .try_send(command)
        .map_err(|_| "this node is too busy or stopping".to_owned())
}

/// A voter on another directory than the one it registered may have forgotten its votes.
fn check_directory(shared: &Shared, from: i32, directory_id: Uuid) -> Result<(), String> {
    let image = shared.log.image();
    let registered = image
        .controllers
        .get(&from)
        .map(|controller| controller.directory_id);
    match registered {
        Some(known) if !known.is_nil() && known != directory_id => Err(format!(
            "node {from} registered metadata directory {known}, and this is {directory_id}: remove the voter and add it again"
        )),
        _ => Ok(()),
    }
}

fn check_cluster(own: &str, other: &str) -> Result<(), String> {
    if other.is_empty() || other == own {
        return Ok(());
    }
    Err(format!("this is cluster {own}, not {other}"))
}

/// Lets a node in: the answer comes when it votes.
pub(super) fn join(handle: &ControllerHandle, request: RequestFrame) -> Reply {
    let handle = handle.clone();
    Reply::pending(async move {
        let refused = match JoinQuorumRequest::decode(request.body.clone()) {
            Ok(join) => let_in(&handle.shared, join).await.err().unwrap_or_default(),
            Err(error) => format!("the request does not decode: {error}"),
        };
        let shared = &handle.shared;
        let response = JoinQuorumResponse {
            refused,
            leader: shared.leadership().leader.unwrap_or(NO_NODE),
            cluster_id: shared.settings.cluster_id.clone(),
        };
        answer(&request, &response)
    })
}

async fn let_in(shared: &Shared, request: JoinQuorumRequest) -> Result<(), String> {
    check_cluster(&shared.settings.cluster_id, &request.cluster_id)?;
    let port = u16::try_from(request.port).map_err(|_| "not a port".to_owned())?;
    if request.node_id < 0 {
        return Err("not a node id".to_owned());
    }
    let endpoint = Endpoint {
        listener: request.listener.as_str().into(),
        host: request.host.as_str().into(),
        port,
        security_protocol: SecurityProtocol::from_number(request.security_protocol).unwrap_or_default(),
    };
    let change = VoterJobKind::Add {
        node_id: request.node_id,
        directory_id: uuid(&request.directory_id),
        endpoints: vec![endpoint],
    };
    let refused = Box::new(|error: &odradek_common::error::ApiError| Bytes::from(error.to_string()));
    let job = Job::Voters(VoterJob {
        change,
        done: Bytes::new(),
        refused,
    });
    let (reply, answer) = oneshot::channel();
    let stopped = |_| DispatchError::Stopped.to_string();
    shared
        .commands
        .send(Command::Call(QueuedCall { job, reply }))
        .await
        .map_err(|_| stopped(()))?;
    let refusal = answer
        .await
        .map_err(|_| stopped(()))?
        .map_err(|error| error.to_string())?;
    if refusal.is_empty() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&refusal).into_owned())
    }
}

pub(super) fn uuid(bytes: &[u8]) -> Uuid {
    Uuid::from_slice(bytes).unwrap_or(Uuid::nil())
}

pub(super) fn answer(request: &RequestFrame, response: &impl Message) -> Response {
    let body = Bytes::from(response.encode_to_vec());
    Response::Frame(raw_response(
        request.api_key,
        request.api_version,
        request.correlation_id,
        body,
    ))
}
