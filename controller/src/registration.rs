//! A controller makes itself known: it registers its listeners with the active controller, and asks to be let in if it is
//! not in the quorum and may join.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::controller_registration_request::{Feature, Listener};
use kafka_protocol::messages::{ApiKey, ControllerRegistrationRequest};
use kafka_protocol::protocol::{Encodable, StrBytes};
use odradek_common::ids::NodeId;
use odradek_common::metadata::features::FEATURES;
use odradek_net::pool::ClientPool;
use prost::Message;
use slog::{Logger, debug, info};
use tokio::runtime::Handle;

use crate::client::{ControllerClient, ask_cluster};
use crate::handle::{ControllerCall, ControllerHandle, Shared};
use crate::proto::{JoinQuorumRequest, JoinQuorumResponse};
use crate::transport::client_settings;

/// The private API key with which a node asks to be let in.
pub const JOIN_QUORUM_KEY: i16 = 10_002;

const RETRY: Duration = Duration::from_millis(500);
const JOIN_ANSWER: Duration = Duration::from_secs(70);

pub(crate) fn spawn(shared: &Arc<Shared>, runtime: &Handle, logger: &Logger) {
    runtime.spawn(register(shared.clone(), logger.clone()));
    if shared.settings.auto_join && !shared.settings.bootstrap_servers.is_empty() {
        runtime.spawn(join(shared.clone(), logger.clone()));
    }
}

/// Registers whenever the image does not say of this node what is true.
async fn register(shared: Arc<Shared>, logger: Logger) {
    let handle = ControllerHandle {
        shared: shared.clone(),
    };
    let client = ControllerClient::local(&handle);
    let mut updates = shared.log.subscribe();
    let mut leadership = shared.leadership.subscribe();
    let mut ended = shared.ended.subscribe();
    loop {
        if ended.borrow().is_some() {
            return;
        }
        if is_due(&shared)
            && let Err(error) = send_registration(&shared, &client).await
        {
            debug!(logger, "not registered yet"; "error" => %error);
        }
        // Becoming a member wakes nobody here, so a node that is not registered looks again by itself.
        let pause = if is_registered(&shared) {
            Duration::MAX
        } else {
            RETRY
        };
        tokio::select! {
            update = updates.recv() => if update.is_none() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            _ = ended.changed() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Only members register, and only once somebody leads.
fn is_due(shared: &Shared) -> bool {
    let own = shared.settings.node_id;
    let membership = shared.status.lock().membership.clone();
    let member = membership.voters.contains(&own) || membership.learners.contains(&own);
    member && !is_registered(shared) && shared.leadership().leader.is_some()
}

fn is_registered(shared: &Shared) -> bool {
    let image = shared.log.image();
    image
        .controllers
        .get(&shared.settings.node_id)
        .is_some_and(|controller| {
            controller.incarnation_id == shared.incarnation_id
                && controller.endpoints == shared.settings.endpoints
                // The leader knows the directory from raft messages, and may have had none when this node registered.
                && !controller.directory_id.is_nil()
        })
}

async fn send_registration(shared: &Shared, client: &ControllerClient) -> Result<(), String> {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let listeners = shared.settings.endpoints.iter().map(|endpoint| {
        Listener::default()
            .with_name(text(&endpoint.listener))
            .with_host(text(&endpoint.host))
            .with_port(endpoint.port)
            .with_security_protocol(endpoint.security_protocol as i16)
    });
    let features = FEATURES.iter().map(|feature| {
        Feature::default()
            .with_name(StrBytes::from_static_str(feature.name))
            .with_min_supported_version(feature.min_level)
            .with_max_supported_version(feature.max_level)
    });
    let request = ControllerRegistrationRequest::default()
        .with_controller_id(shared.settings.node_id)
        .with_incarnation_id(shared.incarnation_id)
        .with_listeners(listeners.collect())
        .with_features(features.collect());
    let mut body = bytes::BytesMut::new();
    request.encode(&mut body, 0).map_err(|error| error.to_string())?;
    let call = ControllerCall::own(ApiKey::ControllerRegistration as i16, 0);
    client
        .dispatch(&call, body.freeze(), RETRY * 4)
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Asks the bootstrap servers, one after another, until this node votes.
async fn join(shared: Arc<Shared>, logger: Logger) {
    let pool = ClientPool::new(client_settings(shared.settings.node_id));
    let mut ended = shared.ended.subscribe();
    for server in shared.settings.bootstrap_servers.iter().cycle() {
        let own = shared.settings.node_id;
        if ended.borrow_and_update().is_some() || shared.status.lock().membership.voters.contains(&own) {
            return;
        }
        match ask_leader_to_join(&shared, &pool, server).await {
            Ok(()) => info!(logger, "the quorum lets this node in"; "server" => server),
            Err(reason) => debug!(logger, "not let in yet"; "server" => server, "reason" => reason),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Asks the server, or the leader that it names: others let nobody in.
async fn ask_leader_to_join(shared: &Shared, pool: &Arc<ClientPool>, server: &str) -> Result<(), String> {
    let cluster = ask_cluster(&[server.to_owned()], RETRY).await?;
    let leads = |(node, _): &&(NodeId, String)| Some(*node) == cluster.leader;
    let leader = cluster.controllers.iter().find(leads);
    let address = leader.map_or(server, |(_, address)| address);
    ask_to_join(shared, pool, address).await
}

async fn ask_to_join(shared: &Shared, pool: &ClientPool, server: &str) -> Result<(), String> {
    let endpoint = shared
        .settings
        .endpoints
        .first()
        .ok_or("this node has no controller listener")?;
    let request = JoinQuorumRequest {
        cluster_id: shared.settings.cluster_id.clone(),
        node_id: shared.settings.node_id,
        directory_id: Bytes::copy_from_slice(shared.settings.directory_id.as_bytes()),
        listener: endpoint.listener.to_string(),
        host: endpoint.host.to_string(),
        port: u32::from(endpoint.port),
        security_protocol: i32::from(endpoint.security_protocol as i16),
    };
    let body = Bytes::from(request.encode_to_vec());
    let client = pool.try_get(server).await.map_err(|error| error.to_string())?;
    let answer = client
        .send_raw_within(JOIN_QUORUM_KEY, 0, body, JOIN_ANSWER)
        .await
        .map_err(|error| error.to_string())?;
    let response = JoinQuorumResponse::decode(answer).map_err(|error| error.to_string())?;
    if response.refused.is_empty() {
        Ok(())
    } else {
        Err(response.refused)
    }
}
