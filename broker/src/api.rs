//! The APIs of the broker listener: one row each, one file each under `api/`.
//!
//! A handler keeps no state: it checks the request, asks the domain and shapes the answer. What the controller decides is
//! forwarded to it undecoded.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Instant;

use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Request, StrBytes, VersionRange};
use odradek_net::service::{ConnectionInfo, Reply, RequestFrame, Response, ResponseFuture, Service};
use odradek_net::wire;

use crate::broker::Broker;
use crate::metrics::ApiTimer;

pub mod alter_replica_log_dirs;
pub mod api_versions;
pub mod delete_groups;
pub mod delete_records;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_topic_partitions;
pub mod fetch;
pub mod find_coordinator;
pub mod forward;
pub mod heartbeat;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sync_group;

/// One request, apart from its body.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asks.
    pub connection: Arc<ConnectionInfo>,
    /// The API.
    pub api_key: ApiKey,
    /// Version of request and response.
    pub api_version: i16,
    /// Repeated in the response.
    pub correlation_id: i32,
    /// The client's name for itself.
    pub client_id: Option<StrBytes>,
}

/// Answers one API.
pub trait Handler: 'static {
    /// What is asked.
    type Request: Request<Response: Send> + Send;

    /// The highest version, if kafka-protocol knows less than is answered (see `layout_version`).
    const LATEST: Option<i16> = None;

    /// The answer. It never fails: refusals are part of the response.
    fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: Self::Request,
    ) -> impl Future<Output = <Self::Request as Request>::Response> + Send;

    /// The response as bytes. Versions that kafka-protocol does not know look like the last that it knows.
    fn encode(
        version: i16,
        correlation_id: i32,
        response: &<Self::Request as Request>::Response,
    ) -> Response {
        let known = wire::served_versions::<Self::Request>().max;
        encode::<Self::Request>(version.min(known), correlation_id, response)
    }
}

/// One row of the table.
pub struct Api {
    /// The API.
    pub key: ApiKey,
    /// Versions that are answered.
    pub versions: VersionRange,
    /// True if the controller answers.
    pub forwarded: bool,
    run: fn(Arc<Broker>, Call, RequestFrame, ApiTimer) -> Reply,
}

/// Every API of the broker listener, in the order of their keys.
pub static APIS: LazyLock<Vec<Api>> = LazyLock::new(|| {
    let mut apis = vec![
        Api {
            run: produce::run,
            ..row::<produce::Produce>()
        },
        row::<fetch::Fetch>(),
        row::<list_offsets::ListOffsets>(),
        row::<metadata::Metadata>(),
        row::<offset_commit::OffsetCommit>(),
        row::<offset_fetch::OffsetFetch>(),
        row::<find_coordinator::FindCoordinator>(),
        row::<join_group::JoinGroup>(),
        row::<heartbeat::Heartbeat>(),
        row::<leave_group::LeaveGroup>(),
        row::<sync_group::SyncGroup>(),
        row::<describe_groups::DescribeGroups>(),
        row::<list_groups::ListGroups>(),
        row::<api_versions::ApiVersions>(),
        row::<delete_records::DeleteRecords>(),
        row::<init_producer_id::InitProducerId>(),
        row::<offset_for_leader_epoch::OffsetForLeaderEpoch>(),
        row::<describe_configs::DescribeConfigs>(),
        row::<alter_replica_log_dirs::AlterReplicaLogDirs>(),
        row::<describe_log_dirs::DescribeLogDirs>(),
        row::<delete_groups::DeleteGroups>(),
        row::<offset_delete::OffsetDelete>(),
        row::<describe_cluster::DescribeCluster>(),
        row::<describe_producers::DescribeProducers>(),
        row::<list_config_resources::ListConfigResources>(),
        row::<describe_topic_partitions::DescribeTopicPartitions>(),
    ];
    apis.extend(forward::rows());
    apis.sort_by_key(|api| api.key as i16);
    apis
});

/// The row of an API.
#[must_use]
pub fn api(api_key: i16) -> Option<&'static Api> {
    let at = APIS.binary_search_by_key(&api_key, |api| api.key as i16).ok()?;
    Some(&APIS[at])
}

fn row<H: Handler>() -> Api {
    let key = ApiKey::try_from(H::Request::KEY).expect("kafka-protocol's requests have known keys");
    let known = wire::served_versions::<H::Request>();
    Api {
        key,
        versions: VersionRange {
            max: H::LATEST.unwrap_or(known.max),
            ..known
        },
        forwarded: false,
        run: run::<H>,
    }
}

/// A row that sends the request to the active controller as it came.
fn forward_row<R: Request>() -> Api {
    let key = ApiKey::try_from(R::KEY).expect("kafka-protocol's requests have known keys");
    Api {
        key,
        versions: wire::served_versions::<R>(),
        forwarded: true,
        run: forward::run::<R>,
    }
}

fn run<H: Handler>(broker: Arc<Broker>, call: Call, frame: RequestFrame, timer: ApiTimer) -> Reply {
    let request = match wire::decode_request::<H::Request>(&frame) {
        Ok(request) => request,
        Err(error) => return Reply::Done(Response::Close(error.to_string())),
    };
    let (version, correlation_id) = (call.api_version, call.correlation_id);
    let answer = async move {
        let response = H::handle(broker, call, request).await;
        drop(frame);
        H::encode(version, correlation_id, &response)
    };
    start(Box::pin(answer), timer)
}

/// The response as bytes; what cannot be said in this version closes the connection, with the reason in the log.
pub fn encode<R: Request>(version: i16, correlation_id: i32, response: &R::Response) -> Response {
    match wire::encode_response(R::KEY, version, correlation_id, response) {
        Ok(frame) => Response::Frame(frame),
        Err(error) => Response::Close(error.to_string()),
    }
}

/// Polls once: most answers are ready at once and need no place in the connection's list.
pub fn start(mut answer: ResponseFuture, timer: ApiTimer) -> Reply {
    let mut context = Context::from_waker(std::task::Waker::noop());
    // A future that is pending here is polled again by the connection, with its own waker.
    match answer.as_mut().poll(&mut context) {
        Poll::Ready(response) => {
            timer.done_locally();
            Reply::Done(response)
        }
        Poll::Pending => Reply::Pending(Box::pin(Timed {
            answer,
            timer: Some(timer.parked()),
        })),
    }
}

/// A response that is measured when it is ready.
pub struct Timed {
    answer: ResponseFuture,
    timer: Option<ApiTimer>,
}

impl Timed {
    /// Measures this answer.
    #[must_use]
    pub fn new(answer: ResponseFuture, timer: ApiTimer) -> Self {
        Self {
            answer,
            timer: Some(timer.parked()),
        }
    }
}

impl Future for Timed {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        let response = std::task::ready!(self.answer.as_mut().poll(context));
        if let Some(timer) = self.timer.take() {
            timer.done();
        }
        Poll::Ready(response)
    }
}

/// The broker listener.
pub struct BrokerService {
    broker: Arc<Broker>,
}

impl BrokerService {
    /// Answers for this broker.
    #[must_use]
    pub fn new(broker: Arc<Broker>) -> Self {
        Self { broker }
    }
}

impl Service for BrokerService {
    fn supports(&self, api_key: i16, api_version: i16) -> bool {
        api(api_key).is_some_and(|api| api.versions.min <= api_version && api_version <= api.versions.max)
    }

    fn overlaps(&self, api_key: i16) -> bool {
        api_key == ApiKey::Produce as i16
    }

    fn call(&self, connection: &Arc<ConnectionInfo>, request: RequestFrame) -> Reply {
        let Some(api) = api(request.api_key) else {
            return Reply::Done(Response::Close(format!("unknown API {}", request.api_key)));
        };
        let timer =
            self.broker
                .metrics
                .start(api.key, request.api_version, request.received_at, Instant::now());
        let call = Call {
            connection: connection.clone(),
            api_key: api.key,
            api_version: request.api_version,
            correlation_id: request.correlation_id,
            client_id: request.client_id.clone(),
        };
        if api.key == ApiKey::ApiVersions && !self.supports(request.api_key, request.api_version) {
            return Reply::Done(api_versions::unsupported(call.correlation_id));
        }
        (api.run)(self.broker.clone(), call, request, timer)
    }
}
