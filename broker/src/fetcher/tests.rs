//! The task against a leader whose every answer the test gives.
//!
//! One thread runs both, so that the task has seen what it can see whenever the test waits.

use std::future::Future;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable};
use odradek_common::records::builder::BatchBuilder;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use super::*;
use crate::fixtures::{self, LoneBroker};
use crate::replica::FollowerAppend;
use crate::{clock, group_commit};

const LEADER: NodeId = 2;
const LISTENER: &str = "PLAINTEXT";
const FETCH_VERSION: i16 = 17;
const REQUEST_HEADER_VERSION: i16 = 2;
const RESPONSE_HEADER_VERSION: i16 = 1;
/// Until something that happens at once has happened.
const LIMIT: Duration = Duration::from_secs(60);

async fn soon<T>(happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, happens).await.expect("it happens")
}

/// A broker whose every replica follows the leader.
struct Follower {
    lone: LoneBroker,
    fetchers: Arc<Fetchers>,
    _folder: TempDir,
}

impl Follower {
    fn of(leader: &Leader) -> Self {
        let folder = TempDir::new().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        let mut registered = Arc::unwrap_or_clone(fixtures::broker(LEADER, LISTENER, false));
        let address = leader.0.local_addr().unwrap();
        registered.endpoints[0].host = address.ip().to_string().into();
        registered.endpoints[0].port = address.port();
        lone.image.brokers.insert(LEADER, Arc::new(registered));
        let fetchers = Fetchers::new(vec![Handle::current()], LISTENER.to_owned());
        fetchers.attach(&lone.broker);
        Self {
            lone,
            fetchers,
            _folder: folder,
        }
    }

    fn follow(&mut self, topic: &str) -> Arc<Replica> {
        let (delta, events) = self.lone.create(topic, LEADER);
        self.fetchers.publish(&delta, &self.lone.image, &events);
        self.lone.broker.replicas.get(topic, 0).unwrap()
    }
}

struct Leader(TcpListener);

impl Leader {
    async fn listen() -> Self {
        Self(TcpListener::bind(("127.0.0.1", 0)).await.unwrap())
    }

    async fn accept(&self) -> Connection {
        Connection(soon(self.0.accept()).await.unwrap().0)
    }
}

struct Connection(TcpStream);

struct Asked {
    correlation_id: i32,
    request: FetchRequest,
}

impl Asked {
    fn session(&self) -> (i32, i32) {
        (self.request.session_id, self.request.session_epoch)
    }

    /// From where it asks for a partition, if it names it.
    fn offset_of(&self, replica: &Replica) -> Option<i64> {
        let mut topics = self.request.topics.iter();
        let topic = topics.find(|topic| topic.topic_id == replica.topic_id)?;
        Some(topic.partitions[0].fetch_offset)
    }
}

impl Connection {
    async fn asked(&mut self) -> Asked {
        let size = soon(self.0.read_i32()).await.expect("the follower asks on");
        let mut frame = vec![0; usize::try_from(size).unwrap()];
        soon(self.0.read_exact(&mut frame)).await.unwrap();
        let mut frame = Bytes::from(frame);
        let header = RequestHeader::decode(&mut frame, REQUEST_HEADER_VERSION).unwrap();
        Asked {
            correlation_id: header.correlation_id,
            request: FetchRequest::decode(&mut frame, FETCH_VERSION).unwrap(),
        }
    }

    async fn answer(&mut self, asked: &Asked, response: FetchResponse) {
        let mut frame = BytesMut::new();
        ResponseHeader::default()
            .with_correlation_id(asked.correlation_id)
            .encode(&mut frame, RESPONSE_HEADER_VERSION)
            .unwrap();
        response.encode(&mut frame, FETCH_VERSION).unwrap();
        let mut framed = BytesMut::new();
        framed.put_i32(i32::try_from(frame.len()).unwrap());
        framed.put_slice(&frame);
        self.0.write_all(&framed).await.unwrap();
    }
}

fn nothing(session_id: i32) -> FetchResponse {
    FetchResponse::default().with_session_id(session_id)
}

fn batch(count: usize) -> Bytes {
    let mut batch = BatchBuilder::new(0);
    for _ in 0..count {
        batch.append(1_700_000_000_000, None, Some(b"value"), &[]);
    }
    batch.build()
}

fn records(session_id: i32, replica: &Replica, count: usize) -> FetchResponse {
    let partition = PartitionData::default().with_records(Some(batch(count)));
    let topic = FetchableTopicResponse::default()
        .with_topic_id(replica.topic_id)
        .with_partitions(vec![partition]);
    nothing(session_id).with_responses(vec![topic])
}

/// The task has seen what was published.
async fn is_seen() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_wake_up_that_tells_nothing_new_interrupts_no_fetch() {
    let leader = Leader::listen().await;
    let mut follower = Follower::of(&leader);
    // The task begins with both, and with the wake-up of the second.
    follower.follow("t");
    follower.follow("u");
    let mut connection = leader.accept().await;
    let first = connection.asked().await;
    assert_eq!((first.session(), first.request.topics.len()), ((0, 0), 2));
    is_seen().await;
    connection.answer(&first, nothing(77)).await;
    assert_eq!(connection.asked().await.session(), (77, 1));
}

/// What another leader's task has appended last is being flushed when this task begins.
#[tokio::test]
async fn nothing_is_asked_for_behind_records_whose_flush_is_under_way() {
    let leader = Leader::listen().await;
    let mut follower = Follower::of(&leader);
    let replica = follower.follow("t");
    replica.with(|p| {
        let mut config = p.log().config().clone();
        config.flush_messages = 1;
        p.log_mut().set_config(config);
    });
    let append = FollowerAppend {
        leader: LEADER,
        leader_epoch: 0,
        high_watermark: 0,
        log_start_offset: 0,
    };
    let flushed = replica.append_as_follower(clock::now(), &batch(10), append);
    drop(flushed.unwrap().expect("it is not on disk yet"));
    let waits = async {
        while replica.waiting() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = soon(waits) => {}
        _ = leader.accept() => panic!("it asks before the flush is done"),
    }
    let replicas = &follower.lone.broker.replicas;
    group_commit::round(replicas, &replica.directory(), vec![replica.clone()]);
    let mut connection = leader.accept().await;
    assert_eq!(connection.asked().await.offset_of(&replica), Some(10));
}

#[tokio::test]
async fn records_come_however_often_the_assignment_changes() {
    let leader = Leader::listen().await;
    let mut follower = Follower::of(&leader);
    let replica = follower.follow("t");
    let mut connection = leader.accept().await;
    let first = connection.asked().await;
    connection.answer(&first, nothing(77)).await;
    assert_eq!(connection.asked().await.session(), (77, 1));

    let added = follower.follow("u");
    let mut connection = leader.accept().await;
    let full = connection.asked().await;
    assert_eq!(
        full.session(),
        (77, 0),
        "the leader need not keep the old session"
    );
    assert_eq!(
        (full.offset_of(&replica), full.offset_of(&added)),
        (Some(0), Some(0))
    );
    assert_eq!(
        full.request.max_wait_ms, 0,
        "whatever changes meanwhile waits for this one"
    );

    let added = follower.follow("v");
    is_seen().await;
    connection.answer(&full, records(78, &replica, 10)).await;
    let next = connection.asked().await;
    assert_eq!(next.session(), (78, 1));
    assert_eq!(
        (next.offset_of(&replica), next.offset_of(&added)),
        (Some(10), Some(0))
    );
    assert!(next.request.max_wait_ms > 0);
    assert_eq!(replica.offsets().log_end, 10);
}
