//! Fetches whose clients go away, and sessions whose partitions do.

use kafka_protocol::messages::fetch_request::FetchPartition as PartitionRequest;

use super::*;
use crate::fixtures::LoneBroker;
use crate::names::topic_name;

/// Fetches the partition in a session, for as long as it takes.
fn park(broker: &Arc<Broker>, session: SessionRequest) -> Fetch {
    let fetch = begin(broker, session);
    assert!(!fetch.is_enough());
    fetch
}

fn begin(broker: &Arc<Broker>, session: SessionRequest) -> Fetch {
    let parameters = Parameters {
        api_version: 12,
        correlation_id: 1,
        session,
        follower: None,
        isolation: Isolation::ReadUncommitted,
        max_wait: Duration::from_secs(3_600),
        min_bytes: 1,
        max_bytes: 1 << 20,
        listener: "PLAINTEXT".into(),
    };
    let partition = PartitionRequest::default().with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(topic_name("t"))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default().with_topics(vec![topic]);
    let fetch = Fetch::begin(broker.clone(), parameters, request);
    fetch.expect("the session is as it says")
}

#[tokio::test]
async fn what_a_session_has_fetched_goes_when_its_topic_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let mut lone = LoneBroker::at(folder.path());
    lone.create("t", LoneBroker::NODE);
    let broker = lone.broker.clone();
    let mut request = SessionRequest {
        id: 0,
        epoch: 0,
        uses_ids: false,
        follower: false,
    };
    let session = SharedSession::default();
    request.id = broker
        .sessions
        .lock()
        .open(clock::now(), request, session.clone());
    let replica = broker.replicas.hosted("t", 0).expect("it leads");
    for epoch in 1..3 {
        request.epoch = epoch;
        _ = park(&broker, request).answer();
    }
    assert_eq!(replica.watchers(), 1, "the session hears of changes");
    let weak = Arc::downgrade(&replica);
    drop(replica);
    lone.delete("t");
    let assignments = broker.replicas.assignments();
    _ = assignments.take(LoneBroker::NODE, broker.replicas.failures());
    assert!(weak.upgrade().is_none());
    // The client comes back all the same.
    request.epoch = 3;
    let mut fetch = begin(&broker, request);
    assert!(fetch.is_enough(), "it is told at once");
    _ = fetch.answer();
}

#[tokio::test]
async fn a_client_that_left_while_its_fetch_was_parked_is_told_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut lone = LoneBroker::at(folder.path());
    lone.create("t", LoneBroker::NODE);
    let broker = lone.broker.clone();
    let replica = broker.replicas.hosted("t", 0).expect("it leads");
    let mut request = SessionRequest {
        id: 0,
        epoch: 0,
        uses_ids: false,
        follower: false,
    };
    let session = SharedSession::default();
    request.id = broker
        .sessions
        .lock()
        .open(clock::now(), request, session.clone());
    request.epoch = 1;
    let mut first = park(&broker, request);
    _ = first.answer();
    drop(first);
    assert_eq!(
        replica.watchers(),
        1,
        "a session hears of changes between its requests"
    );
    request.epoch = 2;
    let second = park(&broker, request);
    assert_eq!(replica.watchers(), 1);
    drop(second);
    assert_eq!(replica.watchers(), 0);
    // Should the client go on with it all the same, everything is looked at anew.
    let mut locked = session.lock();
    locked.begin_round();
    assert_eq!(locked.slots.len(), 1);
}
