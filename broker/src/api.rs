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
use odradek_common::error::ErrorCode;
use odradek_net::service::{ConnectionInfo, Reply, RequestFrame, Response, ResponseFuture, Service};
use odradek_net::wire;

use crate::broker::Broker;
use crate::metrics::error_codes::ErrorCodes;
use crate::metrics::requests::ApiTimer;

pub mod add_offsets_to_txn;
pub mod add_partitions_to_txn;
pub mod alter_replica_log_dirs;
pub mod api_versions;
pub mod consumer_group_heartbeat;
pub mod create_acls;
pub mod delete_acls;
pub mod delete_groups;
pub mod delete_records;
pub mod describe_acls;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_topic_partitions;
pub mod describe_transactions;
pub mod end_txn;
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
pub mod list_transactions;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sync_group;
pub mod txn_offset_commit;
pub mod write_txn_markers;

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
    run: Run,
}

type Run = fn(Arc<Broker>, Call, RequestFrame, ApiTimer) -> Reply;

/// Every API of the broker listener, in the order of their keys.
pub static APIS: LazyLock<Vec<Api>> = LazyLock::new(|| {
    let mut apis = vec![
        produce::row(),
        fetch::row(),
        row::<list_offsets::ListOffsets>(),
        counted_row::<metadata::Metadata>(),
        row::<offset_commit::OffsetCommit>(),
        row::<offset_fetch::OffsetFetch>(),
        row::<find_coordinator::FindCoordinator>(),
        row::<join_group::JoinGroup>(),
        row::<heartbeat::Heartbeat>(),
        row::<leave_group::LeaveGroup>(),
        row::<sync_group::SyncGroup>(),
        row::<describe_groups::DescribeGroups>(),
        row::<list_groups::ListGroups>(),
        counted_row::<api_versions::ApiVersions>(),
        row::<delete_records::DeleteRecords>(),
        row::<init_producer_id::InitProducerId>(),
        row::<add_partitions_to_txn::AddPartitionsToTxn>(),
        row::<add_offsets_to_txn::AddOffsetsToTxn>(),
        row::<end_txn::EndTxn>(),
        row::<offset_for_leader_epoch::OffsetForLeaderEpoch>(),
        write_txn_markers::row(),
        row::<txn_offset_commit::TxnOffsetCommit>(),
        counted_row::<describe_acls::DescribeAcls>(),
        counted_row::<create_acls::CreateAcls>(),
        counted_row::<delete_acls::DeleteAcls>(),
        counted_row::<describe_configs::DescribeConfigs>(),
        row::<alter_replica_log_dirs::AlterReplicaLogDirs>(),
        counted_row::<describe_log_dirs::DescribeLogDirs>(),
        row::<delete_groups::DeleteGroups>(),
        row::<consumer_group_heartbeat::ConsumerGroupHeartbeat>(),
        row::<offset_delete::OffsetDelete>(),
        counted_row::<describe_cluster::DescribeCluster>(),
        row::<describe_producers::DescribeProducers>(),
        row::<describe_transactions::DescribeTransactions>(),
        row::<list_transactions::ListTransactions>(),
        counted_row::<list_config_resources::ListConfigResources>(),
        counted_row::<describe_topic_partitions::DescribeTopicPartitions>(),
    ];
    apis.extend(forward::rows());
    apis.sort_by_key(|api| api.key as i16);
    apis
});

const SASL: &str = "SASL is not in this version: every listener is PLAINTEXT";
const QUOTAS: &str = "quotas are not in this version";
const RAFT: &str = "the metadata quorum speaks Raft in messages of its own";
const CONTROLLER: &str = "nodes ask this on the controller listener alone";
const NEW_GROUPS: &str = "the consumer group protocol of KIP-848 is not in this version";
const TELEMETRY: &str = "client metrics (KIP-714) are not collected";
const SHARE_GROUPS: &str = "share groups are not in this version";

/// Every API that kafka-protocol knows and the broker listener does not answer, with the reason.
pub static UNSUPPORTED: &[(ApiKey, &str)] = &[
    (ApiKey::SaslHandshake, SASL),
    (ApiKey::SaslAuthenticate, SASL),
    (ApiKey::CreateDelegationToken, SASL),
    (ApiKey::RenewDelegationToken, SASL),
    (ApiKey::ExpireDelegationToken, SASL),
    (ApiKey::DescribeDelegationToken, SASL),
    (ApiKey::DescribeClientQuotas, QUOTAS),
    (ApiKey::AlterClientQuotas, QUOTAS),
    (ApiKey::DescribeUserScramCredentials, SASL),
    (ApiKey::AlterUserScramCredentials, SASL),
    (ApiKey::Vote, RAFT),
    (ApiKey::BeginQuorumEpoch, RAFT),
    (ApiKey::EndQuorumEpoch, RAFT),
    (ApiKey::AlterPartition, CONTROLLER),
    (ApiKey::Envelope, CONTROLLER),
    (ApiKey::FetchSnapshot, RAFT),
    (ApiKey::BrokerRegistration, CONTROLLER),
    (ApiKey::BrokerHeartbeat, CONTROLLER),
    (ApiKey::AllocateProducerIds, CONTROLLER),
    (ApiKey::ConsumerGroupDescribe, NEW_GROUPS),
    (ApiKey::ControllerRegistration, CONTROLLER),
    (ApiKey::GetTelemetrySubscriptions, TELEMETRY),
    (ApiKey::PushTelemetry, TELEMETRY),
    (ApiKey::AssignReplicasToDirs, CONTROLLER),
    (ApiKey::ShareGroupHeartbeat, SHARE_GROUPS),
    (ApiKey::ShareGroupDescribe, SHARE_GROUPS),
    (ApiKey::ShareFetch, SHARE_GROUPS),
    (ApiKey::ShareAcknowledge, SHARE_GROUPS),
    (ApiKey::UpdateRaftVoter, CONTROLLER),
    (ApiKey::InitializeShareGroupState, SHARE_GROUPS),
    (ApiKey::ReadShareGroupState, SHARE_GROUPS),
    (ApiKey::WriteShareGroupState, SHARE_GROUPS),
    (ApiKey::DeleteShareGroupState, SHARE_GROUPS),
    (ApiKey::ReadShareGroupStateSummary, SHARE_GROUPS),
    (ApiKey::DescribeShareGroupOffsets, SHARE_GROUPS),
    (ApiKey::AlterShareGroupOffsets, SHARE_GROUPS),
    (ApiKey::DeleteShareGroupOffsets, SHARE_GROUPS),
];

/// The row of an API.
#[must_use]
pub fn api(api_key: i16) -> Option<&'static Api> {
    Some(&APIS[place(api_key)?])
}

/// Where the row of an API is in [`APIS`]. Asked several times a request, so it is a look-up and no search.
#[must_use]
pub fn place(api_key: i16) -> Option<usize> {
    static PLACES: LazyLock<Vec<Option<u8>>> = LazyLock::new(|| {
        let place = |key: i16| APIS.iter().position(|api| api.key as i16 == key);
        let last = APIS.last().map_or(0, |api| api.key as i16);
        (0..=last)
            .map(|key| place(key).and_then(|place| u8::try_from(place).ok()))
            .collect()
    });
    PLACES.get(usize::try_from(api_key).ok()?)?.map(usize::from)
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

/// A row whose handler leaves it to the table to count its errors.
fn counted_row<H: Handler<Request: Request<Response: ErrorCodes>>>() -> Api {
    Api {
        run: run_counted::<H>,
        ..row::<H>()
    }
}

/// A row that sends the request to the active controller as it came.
fn forward_row<R: Request<Response: ErrorCodes>>() -> Api {
    let key = ApiKey::try_from(R::KEY).expect("kafka-protocol's requests have known keys");
    Api {
        key,
        versions: wire::served_versions::<R>(),
        forwarded: true,
        run: forward::run::<R>,
    }
}

fn run<H: Handler>(broker: Arc<Broker>, call: Call, frame: RequestFrame, timer: ApiTimer) -> Reply {
    run_seen::<H>(broker, call, frame, timer, |_, _, _| {})
}

fn run_counted<H>(broker: Arc<Broker>, call: Call, frame: RequestFrame, timer: ApiTimer) -> Reply
where
    H: Handler<Request: Request<Response: ErrorCodes>>,
{
    let count = |broker: &Broker, api, response: &_| broker.metrics.count_errors(api, response);
    run_seen::<H>(broker, call, frame, timer, count)
}

type See<H> = fn(&Broker, ApiKey, &<<H as Handler>::Request as Request>::Response);

fn run_seen<H: Handler>(
    broker: Arc<Broker>,
    call: Call,
    frame: RequestFrame,
    timer: ApiTimer,
    see: See<H>,
) -> Reply {
    let request = match wire::decode_request::<H::Request>(&frame) {
        Ok(request) => request,
        Err(error) => return Reply::Done(Response::Close(error.to_string())),
    };
    let (api_key, version, correlation_id) = (call.api_key, call.api_version, call.correlation_id);
    let answer = async move {
        let response = H::handle(broker.clone(), call, request).await;
        see(&broker, api_key, &response);
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
            timer.done();
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
        let (call, timer) = self.begin(api.key, connection, &request, Instant::now());
        if api.key == ApiKey::ApiVersions && !self.supports(request.api_key, request.api_version) {
            self.broker
                .metrics
                .refused(api.key, ErrorCode::UnsupportedVersion);
            return Reply::Done(api_versions::unsupported(call.correlation_id));
        }
        (api.run)(self.broker.clone(), call, request, timer)
    }

    fn call_together(
        &self,
        connection: &Arc<ConnectionInfo>,
        requests: &mut Vec<RequestFrame>,
        replies: &mut Vec<Reply>,
    ) {
        let now = Instant::now();
        let incoming = requests.drain(..).map(|frame| {
            debug_assert!(self.overlaps(frame.api_key), "only produces are started together");
            let (call, timer) = self.begin(ApiKey::Produce, connection, &frame, now);
            produce::Incoming { call, frame, timer }
        });
        produce::run_together(&self.broker, incoming.collect(), replies);
    }
}

impl BrokerService {
    fn begin(
        &self,
        api_key: ApiKey,
        connection: &Arc<ConnectionInfo>,
        request: &RequestFrame,
        now: Instant,
    ) -> (Call, ApiTimer) {
        let call = Call {
            connection: connection.clone(),
            api_key,
            api_version: request.api_version,
            correlation_id: request.correlation_id,
            client_id: request.client_id.clone(),
        };
        let timer = ApiTimer::start(api_key, request.api_version, request.received_at, now);
        (call, timer)
    }
}
