//! A service that tests command through private APIs, a server around it, and a socket that speaks frames.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataResponse,
};
use odradek_net::budget::MemoryBudget;
use odradek_net::listener::{BoundListener, ConnectionQuotas, Listener, ListenerContext, ListenerSettings};
use odradek_net::sendfile::FileRange;
use odradek_net::service::{
    ClientSoftware, ConnectionInfo, ConnectionObserver, Reply, RequestFrame, Response, ResponseFrame,
    Segment, Service,
};
use odradek_net::wire::{decode_request, encode_response, raw_response};
use odradek_net::worker::WorkerPool;
use parking_lot::Mutex;
use slog::{Drain, KV, Logger, OwnedKVList, Record, o};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Answers its own body at once.
pub const ECHO: i16 = 10_001;
/// Answers when its correlation id is opened.
pub const GATE: i16 = 10_002;
/// The same, and lets later ones start.
pub const OVERLAP: i16 = 10_003;
/// Answers at once with the throttle time that its body holds.
pub const THROTTLE: i16 = 10_004;
/// Is not answered.
pub const SILENT: i16 = 10_005;
/// Closes the connection.
pub const CLOSE: i16 = 10_006;
/// Answers as many bytes as its body says.
pub const LARGE: i16 = 10_007;
/// Answers with `head`, as many bytes of a file as its body says, and `tail`.
pub const FILE: i16 = 10_008;

const SOON: Duration = Duration::from_secs(20);

/// Fails instead of hanging.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("happens soon")
}

/// Waits for a state that nobody announces.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Start(i32),
    Finish(i32),
}

pub struct TestService {
    pub events: watch::Sender<Vec<Event>>,
    pub opened: watch::Sender<Vec<i32>>,
    pub disconnected: AtomicUsize,
    pub connections: Mutex<Vec<Arc<ConnectionInfo>>>,
    pub file: Arc<File>,
    pub counts: Arc<Counts>,
    /// The most response bytes that were made and had not left when a request started.
    pub backlog_max: AtomicUsize,
    made: AtomicUsize,
}

impl TestService {
    pub fn open(&self, correlation_id: i32) {
        self.opened.send_modify(|opened| opened.push(correlation_id));
    }

    pub async fn started(&self, correlation_id: i32) {
        let mut events = self.events.subscribe();
        soon(events.wait_for(|events| events.contains(&Event::Start(correlation_id))))
            .await
            .unwrap();
    }

    pub fn has_started(&self, correlation_id: i32) -> bool {
        self.events.borrow().contains(&Event::Start(correlation_id))
    }

    fn gate(&self, request: RequestFrame, answer: Response) -> impl Future<Output = Response> + Send + use<> {
        let mut opened = self.opened.subscribe();
        let events = self.events.clone();
        async move {
            let id = request.correlation_id;
            opened.wait_for(|opened| opened.contains(&id)).await.unwrap();
            events.send_modify(|events| events.push(Event::Finish(id)));
            drop(request);
            answer
        }
    }
}

impl TestService {
    fn file_response(&self, version: i16, request: &RequestFrame) -> ResponseFrame {
        let head = Bytes::from_static(b"head");
        let mut frame = raw_response(request.api_key, version, request.correlation_id, head);
        frame.segments.push(Segment::File(FileRange {
            file: self.file.clone(),
            position: 0,
            length: number(&request.body) as usize,
        }));
        frame.segments.push(Bytes::from_static(b"tail").into());
        frame
    }
}

fn number(body: &[u8]) -> u32 {
    u32::from_be_bytes(body.try_into().unwrap())
}

impl Service for TestService {
    fn supports(&self, api_key: i16, api_version: i16) -> bool {
        match api_key {
            3 => (0..=12).contains(&api_version),
            18 => (0..=4).contains(&api_version),
            ECHO..=FILE => api_version == 0,
            _ => false,
        }
    }

    fn overlaps(&self, api_key: i16) -> bool {
        api_key == OVERLAP
    }

    fn call(&self, connection: &Arc<ConnectionInfo>, request: RequestFrame) -> Reply {
        let (key, version, id) = (request.api_key, request.api_version, request.correlation_id);
        self.events.send_modify(|events| events.push(Event::Start(id)));
        let backlog = self
            .made
            .load(Ordering::SeqCst)
            .saturating_sub(self.counts.sent());
        self.backlog_max.fetch_max(backlog, Ordering::SeqCst);
        let echo = raw_response(key, version, id, request.body.clone());
        match key {
            3 => {
                decode_request::<MetadataRequest>(&request).unwrap();
                let response = MetadataResponse::default().with_controller_id(7.into());
                Reply::Done(Response::Frame(
                    encode_response(key, version, id, &response).unwrap(),
                ))
            }
            18 => Reply::Done(api_versions(self, connection, &request)),
            GATE => Reply::pending(self.gate(request, Response::Frame(echo))),
            OVERLAP => Reply::pending_overlap(self.gate(request, Response::Frame(echo))),
            THROTTLE => {
                let throttle_ms = number(&request.body);
                Reply::Done(Response::Frame(echo.throttled(throttle_ms)))
            }
            SILENT => Reply::Done(Response::NoAnswer),
            CLOSE => Reply::Done(Response::Close("as asked".to_owned())),
            LARGE => {
                let bytes = number(&request.body) as usize;
                self.made.fetch_add(bytes, Ordering::SeqCst);
                Reply::Done(Response::Frame(raw_response(
                    key,
                    version,
                    id,
                    Bytes::from(vec![7; bytes]),
                )))
            }
            FILE => Reply::Done(Response::Frame(self.file_response(version, &request))),
            _ => Reply::Done(Response::Frame(echo)),
        }
    }

    fn disconnected(&self, _: &Arc<ConnectionInfo>) {
        self.disconnected.fetch_add(1, Ordering::SeqCst);
    }
}

fn api_versions(service: &TestService, connection: &Arc<ConnectionInfo>, request: &RequestFrame) -> Response {
    let (key, id) = (request.api_key, request.correlation_id);
    if !service.supports(key, request.api_version) {
        let refused = ApiVersionsResponse::default().with_error_code(35);
        return Response::Frame(encode_response(key, 0, id, &refused).unwrap());
    }
    if request.api_version >= 3 {
        let asked: ApiVersionsRequest = decode_request(request).unwrap();
        connection.set_client_software(ClientSoftware {
            name: Arc::from(&*asked.client_software_name),
            version: Arc::from(&*asked.client_software_version),
        });
    }
    service.connections.lock().push(Arc::clone(connection));
    let row = |key: ApiKey, max| {
        ApiVersion::default()
            .with_api_key(key as i16)
            .with_max_version(max)
    };
    let keys = vec![row(ApiKey::Metadata, 12), row(ApiKey::ApiVersions, 4)];
    let response = ApiVersionsResponse::default().with_api_keys(keys);
    Response::Frame(encode_response(key, request.api_version, id, &response).unwrap())
}

#[derive(Default)]
pub struct Counts {
    received: AtomicUsize,
    sent: AtomicUsize,
    pub opened: AtomicUsize,
    pub closed: AtomicUsize,
    pub refused: Mutex<Vec<&'static str>>,
}

impl Counts {
    pub fn received(&self) -> usize {
        self.received.load(Ordering::SeqCst)
    }
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }
}

impl ConnectionObserver for Counts {
    fn opened(&self, _: &ConnectionInfo) {
        self.opened.fetch_add(1, Ordering::SeqCst);
    }
    fn closed(&self, _: &ConnectionInfo) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
    fn received(&self, _: &ConnectionInfo, bytes: usize) {
        self.received.fetch_add(bytes, Ordering::SeqCst);
    }
    fn sent(&self, _: &ConnectionInfo, bytes: usize) {
        self.sent.fetch_add(bytes, Ordering::SeqCst);
    }
    fn refused(&self, _: &str, reason: &'static str) {
        self.refused.lock().push(reason);
    }
}

/// Keeps log lines.
#[derive(Clone, Default)]
pub struct Lines(Arc<std::sync::Mutex<Vec<String>>>);

impl Lines {
    pub fn with(&self, text: &str) -> Vec<String> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains(text))
            .cloned()
            .collect()
    }
}

struct Fields(String);

impl slog::Serializer for Fields {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.push_str(&format!(" {key}={value}"));
        Ok(())
    }
}

impl Drain for Lines {
    type Ok = ();
    type Err = slog::Never;
    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        let mut fields = Fields(format!("{} {}", record.level().as_short_str(), record.msg()));
        record.kv().serialize(record, &mut fields).unwrap();
        self.0.lock().unwrap().push(fields.0);
        Ok(())
    }
}

pub struct Server {
    pub service: Arc<TestService>,
    pub counts: Arc<Counts>,
    pub lines: Lines,
    pub budget: MemoryBudget,
    pub listener: Listener,
    workers: Arc<WorkerPool>,
}

pub struct Options {
    pub settings: ListenerSettings,
    pub budget_bytes: usize,
    pub quotas: Arc<ConnectionQuotas>,
    pub descriptors_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        let settings = ListenerSettings::new("TEST", "127.0.0.1", 0);
        Self {
            settings,
            budget_bytes: 64 << 20,
            quotas: ConnectionQuotas::unlimited(),
            descriptors_max: u64::MAX,
        }
    }
}

impl Server {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let counts = Arc::new(Counts::default());
        let service = Arc::new(TestService {
            events: watch::Sender::new(Vec::new()),
            opened: watch::Sender::new(Vec::new()),
            disconnected: AtomicUsize::new(0),
            connections: Mutex::new(Vec::new()),
            file: Arc::new(tempfile::tempfile().unwrap()),
            counts: Arc::clone(&counts),
            backlog_max: AtomicUsize::new(0),
            made: AtomicUsize::new(0),
        });
        let lines = Lines::default();
        let workers = Arc::new(WorkerPool::start(2, "test").unwrap());
        let logger = Logger::root(lines.clone().fuse(), o!());
        let budget = MemoryBudget::new(options.budget_bytes);
        let context = ListenerContext {
            budget: budget.clone(),
            quotas: options.quotas,
            descriptors_max: options.descriptors_max,
            observer: counts.clone(),
            ..ListenerContext::new(Arc::clone(&workers), logger)
        };
        let listener = BoundListener::bind(options.settings)
            .unwrap()
            .start(&context, service.clone());
        Self {
            service,
            counts,
            lines,
            budget,
            listener,
            workers,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    pub async fn connect(&self) -> Socket {
        Socket {
            stream: soon(TcpStream::connect(self.address())).await.unwrap(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.workers.stop();
    }
}

pub struct Socket {
    pub stream: TcpStream,
}

impl Socket {
    pub async fn send(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.unwrap();
    }

    /// The next response: correlation id, and body of a private API.
    pub async fn receive(&mut self) -> (i32, Vec<u8>) {
        let frame = self.receive_frame().await;
        (
            i32::from_be_bytes(frame[..4].try_into().unwrap()),
            frame[5..].to_vec(),
        )
    }

    pub async fn receive_frame(&mut self) -> Vec<u8> {
        let size = soon(self.stream.read_i32()).await.unwrap();
        let mut frame = vec![0; usize::try_from(size).unwrap()];
        soon(self.stream.read_exact(&mut frame)).await.unwrap();
        frame
    }

    /// Waits for the server to close; no byte may come before.
    pub async fn closed(&mut self) {
        let mut rest = [0; 1];
        match soon(self.stream.read(&mut rest)).await {
            Ok(0) | Err(_) => {}
            Ok(_) => panic!("byte {} instead of the end", rest[0]),
        }
    }
}

/// A frame of a private API.
pub fn private(api_key: i16, correlation_id: i32, body: &[u8]) -> Vec<u8> {
    framed(api_key, 0, correlation_id, Some(true), body)
}

/// A frame of any API; `flexible` is `None` for a frame that ends after its correlation id.
pub fn framed(
    api_key: i16,
    version: i16,
    correlation_id: i32,
    flexible: Option<bool>,
    body: &[u8],
) -> Vec<u8> {
    let mut frame = BytesMut::new();
    frame.put_i16(api_key);
    frame.put_i16(version);
    frame.put_i32(correlation_id);
    if let Some(flexible) = flexible {
        frame.put_i16(4);
        frame.put_slice(b"test");
        if flexible {
            frame.put_u8(0);
        }
    }
    frame.put_slice(body);
    let mut whole = (frame.len() as i32).to_be_bytes().to_vec();
    whole.extend_from_slice(&frame);
    whole
}
